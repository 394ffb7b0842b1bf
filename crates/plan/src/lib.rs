//! The World and the pure decisions taken on it: which address each service gets, who announces it, and which
//! backends each frontend uses.
//!
//! ```text
//! World ──┐   allocate ──> elect ──┐
//!         ├─>                      ├──> Plan ──> Memory of the next run
//! Memory ─┘            frontends ──┘
//! ```
//!
//! Nothing in this crate performs IO, reads a clock or draws a random number: the same [`World`] and [`Memory`]
//! always give the same [`Plan`], on every node and in every run.

pub mod allocate;
pub mod bgp;
pub mod check;
pub mod diagnostic;
pub mod elect;
mod endpoints;
pub mod event;
pub mod frontends;
pub mod maglev;
pub mod memory;
mod plan;
pub mod range;
pub mod reason;
pub mod selector;
pub mod turns;
pub mod world;

pub use diagnostic::{Diagnostic, Severity};
pub use event::Event;
pub use memory::Memory;
pub use plan::{Plan, Planner, plan};
pub use world::World;
