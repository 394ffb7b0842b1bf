//! When to announce which VIP where.
//!
//! A new owner announces at once and again in quick succession, because the first frame can be lost while a switch port
//! comes up or a host is busy; then it goes on at a slow pace for good. An announcement sent only once leaves switches
//! that age their tables faster than routers age theirs without a clue for minutes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

/// Frames of the burst after ownership began, and their distance.
const BURST: u32 = 5;
const BURST_INTERVAL: Duration = Duration::from_secs(1);
/// Distance of the frames after the burst: well below the 300 s after which switches forget.
const SUSTAINED_INTERVAL: Duration = Duration::from_secs(60);

/// An announcement that is due: this VIP, on the interface with this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// The VIP, of either family.
    pub address: IpAddr,
    /// Interface index.
    pub interface: u32,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    sent: u32,
    next: Instant,
}

/// The VIPs this node owns, and how far their announcement has come.
#[derive(Debug, Default)]
pub struct Announcer {
    owned: BTreeMap<Due, Progress>,
    /// All of `owned` by when it is next: it is looked at with everything that happens, and there can be thousands.
    queue: BTreeSet<(Instant, Due)>,
    /// Announcements so far, on all interfaces together.
    sent: BTreeMap<IpAddr, u64>,
}

impl Announcer {
    /// Owns these VIPs on these interfaces and no others. What is new is due at once; what stays keeps its pace.
    pub fn set(&mut self, owned: impl IntoIterator<Item = Due>, now: Instant) {
        let former = std::mem::take(&mut self.owned);
        for due in owned {
            let progress = former.get(&due).copied().unwrap_or(Progress { sent: 0, next: now });
            self.owned.insert(due, progress);
        }
        self.queue = self.owned.iter().map(|(due, progress)| (progress.next, *due)).collect();
        let addresses: BTreeSet<IpAddr> = self.owned.keys().map(|due| due.address).collect();
        self.sent.retain(|address, _| addresses.contains(address));
    }

    /// Begins again with this interface's VIPs, as after its link came up or its hardware address changed.
    pub fn restart(&mut self, interface: u32, now: Instant) {
        self.begin_again(now, |due| due.interface == interface);
    }

    /// Begins again with a VIP, as after somebody else claimed it.
    pub fn restart_vip(&mut self, address: IpAddr, now: Instant) {
        self.begin_again(now, |due| due.address == address);
    }

    /// Begins again with everything, as after a time in which others may have been cut off.
    pub fn restart_all(&mut self, now: Instant) {
        self.begin_again(now, |_| true);
    }

    fn begin_again(&mut self, now: Instant, which: impl Fn(&Due) -> bool) {
        for (due, progress) in &mut self.owned {
            if which(due) {
                *progress = Progress { sent: 0, next: now };
            }
        }
        self.queue = self.owned.iter().map(|(due, progress)| (progress.next, *due)).collect();
    }

    /// How often each owned VIP was announced so far.
    #[must_use]
    pub const fn sent(&self) -> &BTreeMap<IpAddr, u64> {
        &self.sent
    }

    /// What is due by `now`, at most so many; what is left over stays due. Each is returned once and scheduled again.
    pub fn poll(&mut self, now: Instant, at_most: usize) -> Vec<Due> {
        let mut all_due = Vec::new();
        while all_due.len() < at_most
            && let Some(&(next, due)) = self.queue.first()
            && next <= now
        {
            self.queue.pop_first();
            let Some(progress) = self.owned.get_mut(&due) else { continue };
            progress.sent = progress.sent.saturating_add(1);
            let interval = if progress.sent < BURST { BURST_INTERVAL } else { SUSTAINED_INTERVAL };
            // From `now`, not from when it was due: after a pause there is no flood to catch up.
            progress.next = now + interval;
            self.queue.insert((progress.next, due));
            *self.sent.entry(due.address).or_insert(0) += 1;
            all_due.push(due);
        }
        all_due
    }

    /// What was due could not be sent: it is due again after a burst's interval, and the burst is no shorter for it.
    pub fn not_sent(&mut self, due: Due, now: Instant) {
        if let Some(progress) = self.owned.get_mut(&due) {
            let sent = self.sent.entry(due.address).or_insert(0);
            *sent = sent.saturating_sub(1);
            self.queue.remove(&(progress.next, due));
            *progress = Progress { sent: progress.sent.saturating_sub(1), next: now + BURST_INTERVAL };
            self.queue.insert((progress.next, due));
        }
    }

    /// When something is due next; `None`: never.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.queue.first().map(|(next, _)| *next)
    }

    /// Whether every owned VIP has been announced at least once.
    #[must_use]
    pub fn all_announced(&self) -> bool {
        self.owned.values().all(|progress| progress.sent > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const A: Due = Due { address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), interface: 2 };
    const B: Due = Due { address: IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)), interface: 2 };

    #[expect(clippy::disallowed_methods, reason = "an instant has no other origin; the tests only add to it")]
    fn any_instant() -> Instant {
        Instant::now()
    }

    /// The seconds at which `due` is announced within the first `seconds`.
    fn times(announcer: &mut Announcer, due: Due, start: Instant, seconds: u64) -> Vec<u64> {
        (0..seconds).filter(|second| announcer.poll(start + Duration::from_secs(*second), 9).contains(&due)).collect()
    }

    #[test]
    fn a_burst_is_followed_by_a_slow_pace_for_good() {
        let start = any_instant();
        let mut announcer = Announcer::default();
        announcer.set([A], start);
        assert!(!announcer.all_announced());
        assert_eq!(times(&mut announcer, A, start, 190), [0, 1, 2, 3, 4, 64, 124, 184]);
        assert!(announcer.all_announced());
        assert_eq!(announcer.next_due(), Some(start + Duration::from_secs(244)));
    }

    #[test]
    fn what_is_left_over_stays_due() {
        let start = any_instant();
        let mut announcer = Announcer::default();
        announcer.set([A, B], start);
        assert_eq!(announcer.poll(start, 1).len(), 1);
        assert_eq!((announcer.next_due(), announcer.all_announced()), (Some(start), false));
        assert_eq!(announcer.poll(start, 1).len(), 1);
        assert!(announcer.poll(start, 1).is_empty() && announcer.all_announced());
    }

    #[test]
    fn what_stays_keeps_its_pace_and_what_is_new_is_due_at_once() {
        let start = any_instant();
        let mut announcer = Announcer::default();
        announcer.set([A], start);
        assert_eq!(times(&mut announcer, A, start, 10), [0, 1, 2, 3, 4]);
        let later = start + Duration::from_secs(10);
        announcer.set([A, B], later);
        assert_eq!(announcer.poll(later, 9), [B]);
    }

    #[test]
    fn what_is_given_up_is_silent_and_begins_anew_when_it_comes_back() {
        let start = any_instant();
        let mut announcer = Announcer::default();
        announcer.set([A], start);
        assert_eq!(announcer.poll(start, 9), [A]);
        announcer.set([], start);
        assert_eq!(announcer.next_due(), None);
        announcer.set([A], start + Duration::from_millis(1));
        assert_eq!(announcer.poll(start + Duration::from_millis(1), 9), [A]);
    }

    #[test]
    fn a_link_that_came_up_hears_everything_again() {
        let start = any_instant();
        let mut announcer = Announcer::default();
        announcer.set([A, Due { interface: 3, ..B }], start);
        announcer.poll(start, 9);
        announcer.restart(2, start);
        assert_eq!(announcer.poll(start, 9), [A]);
    }

    #[test]
    fn a_vip_that_was_claimed_or_cut_off_is_announced_again() {
        let start = any_instant();
        let mut announcer = Announcer::default();
        announcer.set([A, B], start);
        assert_eq!(announcer.poll(start, 9).len(), 2);
        announcer.restart_vip(A.address, start);
        assert_eq!(announcer.poll(start, 9), [A]);
        announcer.restart_all(start);
        assert_eq!(announcer.poll(start, 9), [A, B]);
        assert_eq!(announcer.sent()[&A.address], 3);
        announcer.set([B], start);
        assert!(!announcer.sent().contains_key(&A.address));
    }

    #[test]
    fn what_was_not_sent_is_not_announced_and_is_due_again() {
        let start = any_instant();
        let mut announcer = Announcer::default();
        announcer.set([A], start);
        for second in 0..10 {
            let now = start + Duration::from_secs(second);
            assert_eq!(announcer.poll(now, 9), [A]);
            announcer.not_sent(A, now);
            assert!(!announcer.all_announced());
        }
        let later = start + Duration::from_secs(10);
        assert_eq!(times(&mut announcer, A, later, 60), [0, 1, 2, 3, 4]);
        assert!(announcer.all_announced());
    }

    #[test]
    fn a_pause_is_not_followed_by_a_flood() {
        let start = any_instant();
        let mut announcer = Announcer::default();
        announcer.set([A], start);
        announcer.poll(start, 9);
        let late = start + Duration::from_secs(3600);
        assert_eq!(announcer.poll(late, 9), [A]);
        assert_eq!(announcer.poll(late, 9), []);
    }
}
