//! The BGP plan: which sessions each node has, and which routes it tells over them.
//!
//! Unlike layer 2, where one node answers for an address, every node that can announces it, and routers spread the
//! flows over them.
//!
//! ```text
//! peers, nodes ──> sessions ──┐
//!                             ├─> Speakers ──address by address──> BgpAnnouncement ──> AdjRibOut
//! advertisements, aliases ────┘
//! ```

mod aggregation;
mod announcement;
mod conflict;
mod findings;
mod rib;
mod session;

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

pub(crate) use self::announcement::Speakers;
pub use self::announcement::{BgpAnnouncement, Route};
pub(crate) use self::conflict::Conflicts;
pub(crate) use self::findings::findings;
pub use self::rib::{AdjRibOut, Attributes, RibChange, RibKey, ToldRoute};
pub use self::session::{Bfd, NoSession, NoSessionReason, PasswordSource, Session, SessionKind, sessions};
use crate::world::World;

/// All decisions about BGP together. Copies share what they have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BgpPlan {
    /// Every session, by peer and node.
    pub sessions: Arc<[Session]>,
    /// Every node that has no session with a peer, by peer and node.
    pub without_session: Arc<[NoSession]>,
    /// Every address a BGP advertisement is for.
    pub announcements: OrdMap<IpAddr, Arc<BgpAnnouncement>>,
}

impl BgpPlan {
    /// Decide which sessions there are.
    pub(crate) fn set_sessions(&mut self, world: &World) {
        let (sessions, without_session) = sessions(world);
        if *self.sessions != *sessions {
            self.sessions = sessions.into();
        }
        if *self.without_session != *without_session {
            self.without_session = without_session.into();
        }
    }

    /// Replace what is announced for an address.
    pub(crate) fn announce(
        &mut self,
        address: IpAddr,
        announcement: Option<BgpAnnouncement>,
        conflicts: &mut Conflicts,
    ) {
        let before = self.announcements.get(&address).map(|before| &**before);
        if before == announcement.as_ref() {
            return;
        }
        conflicts.follow(address, before, announcement.as_ref());
        match announcement {
            Some(announcement) => _ = self.announcements.insert(address, announcement.into()),
            None => _ = self.announcements.remove(&address),
        }
    }
}

/// Whether anything is said about BGP at all.
pub fn is_used(world: &World) -> bool {
    !world.bgp_peers.is_empty() || !world.bgp_advertisements.is_empty()
}

#[cfg(test)]
mod tests;
