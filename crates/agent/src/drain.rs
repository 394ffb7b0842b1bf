//! How a node stops taking new connections before it ends.
//!
//! A file that appears asks for it. From then on the node is not ready. In a cluster it gives its addresses away; what nobody takes,
//! and everything where there is nobody else, is withdrawn: only clients that know already where a VIP is are told, when
//! they make sure. Only then are new connections to it reset, so that clients look elsewhere at once rather than wait, while those
//! that are established go on. After a time, which is to be longer than
//! clients keep what DNS told them, the agent ends; what is still established stays with the kernel.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// What asks for a drain, and how long it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The file that asks for it.
    pub file: PathBuf,
    /// How long new connections are reset before the agent ends.
    pub shutdown_timeout: Duration,
}

/// How far it has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nobody has asked.
    #[default]
    Serving,
    /// Others take over until then; what they take goes on here meanwhile.
    HandingOver {
        /// Who has not done so by now will not.
        until: Instant,
    },
    /// What nobody took is withdrawn, and refuses new connections until then.
    Closing {
        /// The end.
        until: Instant,
    },
}

impl Phase {
    /// Whether it has begun.
    pub(crate) fn has_begun(self) -> bool {
        self != Self::Serving
    }

    /// Whether addresses that this node still has are withdrawn.
    pub(crate) const fn is_closing(self) -> bool {
        matches!(self, Self::Closing { .. })
    }

    /// When the next phase begins at the latest.
    pub(crate) const fn until(self) -> Option<Instant> {
        match self {
            Self::Serving => None,
            Self::HandingOver { until } | Self::Closing { until } => Some(until),
        }
    }
}
