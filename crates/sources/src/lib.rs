//! The World from a directory of manifests, and the file that remembers what is held.
//!
//! ```text
//! files ──> directory (reads, watches) ──> catalog (last good versions, removals) ──> World
//!                                             └─ manifest (text to validated objects)
//! ```
//!
//! Only [`directory`] and [`state`] touch the disk; [`manifest`] and [`catalog`] are pure.

pub mod catalog;
pub mod diagnostic;
pub mod directory;
pub mod manifest;
pub mod state;

pub use diagnostic::{Diagnostic, Severity};
pub use directory::{Directory, Loaded, Update};
