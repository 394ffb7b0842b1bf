//! Health of backends: when to check which, and what follows from the answers.
//!
//! ```text
//! frontends ──Monitor::set──┐                ┌──poll──> Due ──driver──> Outcome ──result──┐
//!                           ├──> Monitor ────┤                                            ├──> Monitor
//! clients' failures ─observe┘                └──view──> shares of new flows  <────────────┘
//! ```
//!
//! A backend that is new takes its full share: Kubernetes' readiness vouches for it. After so many failed checks in a row
//! it is down and takes none; after so many successful ones it comes back step by step ([`ramp`]). What clients meet with
//! can take a backend out sooner ([`passive`]), once a check confirms it. However bad it looks, somebody takes the flows of
//! each frontend ([`relieve`]).
//!
//! Nothing here performs IO, reads a clock or draws a random number: time comes in as a parameter.

mod backend;
pub mod echo;
mod group;
mod monitor;
mod outcome;
pub mod passive;
pub mod ramp;
mod relief;
mod view;

pub use backend::State;
pub use group::{Group, Member};
pub use monitor::{Change, Due, Event, Monitor, Ticket};
pub use outcome::{Failure, Outcome, Reason};
pub use passive::{Observation, Symptom};
pub use relief::{Portion, relieve};
pub use view::{BackendHealth, View};
