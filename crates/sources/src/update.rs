//! What sources hand over.

use std::sync::Arc;
use std::time::Instant;

use evenkeel_plan::World;

use crate::catalog::Whereabouts;
use crate::diagnostic::Diagnostic;
use crate::kubernetes::Observed;

/// A new state of a source.
#[derive(Clone, Debug)]
pub struct Update {
    /// The World.
    pub world: Arc<World>,
    /// What was found, by file and line, or by object.
    pub diagnostics: Arc<[Diagnostic]>,
    /// Where its objects stand, for findings about them.
    pub whereabouts: Whereabouts,
    /// What a controller writes to, as far as it was asked for.
    pub observed: Observed,
    /// Whether everything could be read. While it cannot, the World stays as it was; if it never was, it is empty and
    /// says nothing about what should be.
    pub readable: bool,
    /// When the change was noticed, for the latency from here to the data path.
    pub changed_at: Instant,
}
