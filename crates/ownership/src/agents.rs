//! The agents' leases: which nodes are attended, leaving, silent or dead.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

use crate::{Node, Version};

/// The lease of a node's agent, as the API has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentLease {
    /// Its version; every renewal is another one.
    pub version: Version,
    /// What it says of the node.
    pub life: Life,
    /// The agent promises to renew it more often than this.
    pub duration: Duration,
    /// Addresses of the node itself, which its kernel answers for: by them others find out whether they hear anybody.
    pub voices: Vec<IpAddr>,
}

/// What a lease says of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// An agent attends to it, or did when it last renewed.
    Serving,
    /// The agent wants to give its addresses away.
    Leaving,
    /// A watcher has declared it dead.
    Dead,
}

/// What elections make of a node. One without a lease has no agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// May own addresses.
    Attended,
    /// Its lease has lapsed: keeps what it owns, because its data path goes on, and gets nothing new.
    Silent,
    /// Gives away what it owns.
    Leaving,
    /// Declared dead.
    Dead,
}

/// A lease and when it was last seen to change, by this node's own clock: nobody's clock is compared with another's.
#[derive(Debug)]
struct Known {
    lease: AgentLease,
    changed_at: Instant,
}

/// The leases as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    known: BTreeMap<Node, Known>,
}

impl Agents {
    pub(crate) fn get(&self, node: &str) -> Option<&AgentLease> {
        self.known.get(node).map(|known| &known.lease)
    }

    pub(crate) fn learn(&mut self, node: Node, lease: AgentLease, now: Instant) {
        match self.known.get_mut(&node) {
            Some(known) if known.lease.version == lease.version => {}
            _ => {
                self.known.insert(node, Known { lease, changed_at: now });
            }
        }
    }

    pub(crate) fn deleted(&mut self, node: &str) {
        self.known.remove(node);
    }

    /// Addresses of a node itself.
    pub(crate) fn voice(&self, node: &str) -> Option<IpAddr> {
        self.get(node)?.voices.first().copied()
    }

    /// The nodes' standings. Nothing can lapse that was not looked at: the time in which the API was away does not count,
    /// so `live_since` is when this node's view of it became live.
    pub(crate) fn standings(&self, live_since: Instant, now: Instant) -> BTreeMap<Node, Standing> {
        let standing = |known: &Known| match known.lease.life {
            Life::Dead => Standing::Dead,
            Life::Leaving => Standing::Leaving,
            Life::Serving => {
                let quiet = now.saturating_duration_since(known.changed_at.max(live_since));
                if quiet > known.lease.duration { Standing::Silent } else { Standing::Attended }
            }
        };
        self.known.iter().map(|(node, known)| (node.clone(), standing(known))).collect()
    }

    /// When the next lease lapses, if nobody renews it.
    pub(crate) fn next_lapse(&self, live_since: Instant, now: Instant) -> Option<Instant> {
        let lapses = self.known.values().filter(|known| known.lease.life == Life::Serving);
        lapses
            .map(|known| known.changed_at.max(live_since) + known.lease.duration)
            .filter(|lapse| *lapse >= now)
            // Lapsed is what is past it.
            .map(|lapse| lapse + Duration::from_millis(1))
            .min()
    }
}

/// The nodes that are to watch `owner`, first come first: by rendezvous hash, so that the work is spread and hardly moves when
/// a node comes or goes.
#[must_use]
pub fn watchers<'a>(owner: &str, candidates: impl IntoIterator<Item = &'a Node>) -> Vec<&'a Node> {
    let mut watchers: Vec<&Node> = candidates.into_iter().filter(|candidate| ***candidate != *owner).collect();
    watchers.sort_by_cached_key(|candidate| <[u8; 32]>::from(Sha256::digest(format!("{candidate} watches {owner}"))));
    watchers
}
