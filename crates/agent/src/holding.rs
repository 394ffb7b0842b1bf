//! VIPs whose services have no endpoint left: nobody is to announce them, but connections that live lead to them.
//!
//! Endpoints that are not ready keep their connections, and clients behind a router find them only as long as somebody answers
//! for the VIP. So it is answered for while any of its connections lives, for some time at most: endpoints that flap come back
//! within it, and those that do not are no reason to attract clients for good. A process that starts takes over what the one before
//! it answered for, of which it may know no endpoint because they cannot be read: then it is held until they can.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::desired::Owned;

/// How long a VIP without endpoints is answered for at most.
const LIMIT: Duration = Duration::from_secs(60);

/// What a node holds although nobody is to announce it.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    /// What it answered for at the last look.
    owned: Owned,
    /// Which of that has no endpoint, and until when it is held.
    until: BTreeMap<IpAddr, Instant>,
}

impl Holding {
    /// What an earlier process answered for.
    pub(crate) fn adopt(&mut self, owned: Owned) {
        self.owned = owned;
    }

    /// Adds to what a node owns what it holds. `is_deserted`: nobody is to announce it, for want of endpoints; `unread`: there
    /// may be endpoints that cannot be read; `living`: which of some VIPs have connections.
    pub(crate) fn add_to(
        &mut self,
        owned: &mut Owned,
        is_deserted: impl Fn(IpAddr) -> bool,
        unread: bool,
        living: impl FnOnce(&BTreeSet<IpAddr>) -> BTreeSet<IpAddr>,
        now: Instant,
    ) {
        let lost = self.owned.iter().filter(|(vip, _)| !owned.contains_key(*vip) && is_deserted(**vip));
        let lost: Owned = lost.map(|(vip, only_on)| (*vip, only_on.clone())).collect();
        let living = if lost.is_empty() { BTreeSet::new() } else { living(&lost.keys().copied().collect()) };
        let before = std::mem::take(&mut self.until);
        for (vip, only_on) in lost {
            let until = before.get(&vip).copied().unwrap_or(now + LIMIT);
            if unread || (living.contains(&vip) && now < until) {
                self.until.insert(vip, until);
                owned.insert(vip, only_on);
            }
        }
        for vip in self.until.keys().filter(|vip| !unread && !before.contains_key(*vip)) {
            tracing::warn!(%vip, seconds = LIMIT.as_secs(), "no endpoint is left: answering while connections live, at most");
        }
        self.owned.clone_from(owned);
    }

    /// The VIPs that are held.
    pub(crate) fn vips(&self) -> BTreeSet<IpAddr> {
        self.until.keys().copied().collect()
    }

    /// Whether one of them is not to be held any more. `living`: those that have connections.
    pub(crate) fn is_over(&self, living: &BTreeSet<IpAddr>, now: Instant) -> bool {
        self.until.iter().any(|(vip, until)| *until <= now || !living.contains(vip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn owned() -> Owned {
        Owned::from([(VIP, Some(vec!["eth0".to_owned()]))])
    }

    /// What is owned after one more look, when the plan says `planned`.
    fn look(holding: &mut Holding, planned: Owned, deserted: bool, living: bool, now: Instant) -> Owned {
        let mut all = planned;
        let living = |_: &BTreeSet<IpAddr>| living.then_some(VIP).into_iter().collect();
        holding.add_to(&mut all, |_| deserted, false, living, now);
        all
    }

    #[test]
    fn what_an_earlier_process_answered_for_is_held() {
        let (mut holding, start) = (Holding::default(), Instant::now());
        holding.adopt(owned());
        assert_eq!(look(&mut holding, Owned::new(), true, true, start), owned());
        holding.adopt(owned());
        assert_eq!(look(&mut holding, Owned::new(), true, false, start), Owned::new(), "nothing lives there");
    }

    #[test]
    fn what_may_have_endpoints_is_held_until_they_can_be_read() {
        let (mut holding, start) = (Holding::default(), Instant::now());
        let look = |holding: &mut Holding, unread, now| {
            let mut all = Owned::new();
            holding.add_to(&mut all, |_| true, unread, |_| BTreeSet::new(), now);
            all
        };
        assert_eq!(look(&mut holding, true, start), Owned::new(), "what it never had");
        holding.adopt(owned());
        assert_eq!(look(&mut holding, true, start), owned());
        assert_eq!(look(&mut holding, true, start + 2 * LIMIT), owned());
        assert_eq!(look(&mut holding, false, start + 2 * LIMIT), Owned::new());
    }

    #[test]
    fn is_held_while_connections_live_and_for_a_minute_at_most() {
        let (mut holding, start) = (Holding::default(), Instant::now());
        assert_eq!(look(&mut holding, Owned::new(), true, true, start), Owned::new(), "what it never had");
        look(&mut holding, owned(), false, true, start);
        assert_eq!(look(&mut holding, Owned::new(), true, true, start), owned(), "on the same interfaces");
        assert_eq!(look(&mut holding, Owned::new(), true, true, start + LIMIT / 2), owned());
        assert!(!holding.is_over(&BTreeSet::from([VIP]), start + LIMIT / 2));
        assert!(holding.is_over(&BTreeSet::new(), start + LIMIT / 2), "its last connection has ended");
        assert!(holding.is_over(&BTreeSet::from([VIP]), start + LIMIT));
        assert_eq!(look(&mut holding, Owned::new(), true, true, start + LIMIT), Owned::new());
        assert_eq!(look(&mut holding, Owned::new(), true, true, start + LIMIT), Owned::new(), "and stays withdrawn");
    }

    #[test]
    fn is_withdrawn_at_once_where_nothing_lives_or_another_reason_says_so() {
        let (mut holding, start) = (Holding::default(), Instant::now());
        look(&mut holding, owned(), false, true, start);
        assert_eq!(look(&mut holding, Owned::new(), true, false, start), Owned::new());
        look(&mut holding, owned(), false, true, start);
        assert_eq!(look(&mut holding, Owned::new(), false, true, start), Owned::new(), "elected elsewhere");
        assert!(holding.vips().is_empty());
    }

    #[test]
    fn an_endpoint_that_comes_back_gives_it_another_minute() {
        let (mut holding, start) = (Holding::default(), Instant::now());
        look(&mut holding, owned(), false, true, start);
        look(&mut holding, Owned::new(), true, true, start);
        look(&mut holding, owned(), false, true, start + LIMIT / 2);
        look(&mut holding, Owned::new(), true, true, start + LIMIT / 2);
        assert_eq!(look(&mut holding, Owned::new(), true, true, start + LIMIT), owned());
    }
}
