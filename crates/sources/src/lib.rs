//! The World from a directory of manifests or from the Kubernetes API, and the file that remembers what is held.
//!
//! ```text
//! files ────> directory (reads, watches) ───┐
//!                                           ├──> catalog (last good versions, removals) ──> World
//! objects ──> kubernetes (lists, watches) ──┘       └─ manifest (text or JSON to validated objects)
//! ```
//!
//! Only [`directory`] and [`state`] touch the disk, only [`kubernetes`] the network; [`manifest`] and [`catalog`] are
//! pure.

pub mod catalog;
pub mod directory;
pub mod kubernetes;
pub mod manifest;
pub mod state;
mod update;

pub use directory::{Directory, Loaded};
pub use evenkeel_manifest::diagnostic::{self, Diagnostic, Severity};
pub use update::{Noticed, Update};
