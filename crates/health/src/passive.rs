//! Passive ejection: what clients meet with tells of a backend's trouble sooner than the next check.
//!
//! Clients' failures alone prove little: one client's network may be at fault, or somebody may be forging packets. So they
//! only count when several clients have them and nobody succeeds, and then only cause a check at once. If that fails too,
//! the backend is out without waiting for more failures in a row, as long as not too many others are.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How far back failures and successes count.
pub const WINDOW: Duration = Duration::from_secs(10);
/// From as many client addresses failures must come.
pub const SOURCES: usize = 3;
/// After a check that was to confirm them, clients' failures cause no other for this long.
pub const PAUSE: Duration = Duration::from_secs(1);

/// Something the data plane saw of a client's flow to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// The backend answered: a handshake was completed, or a datagram came back.
    Success,
    /// It failed the client with this address.
    Failure {
        /// The client.
        source: IpAddr,
        /// How.
        symptom: Symptom,
    },
}

/// How a flow failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Symptom {
    /// The SYN was answered with a RST.
    RstToSyn,
    /// An ICMP destination unreachable came back.
    IcmpUnreachable,
    /// The SYN was not answered, though it was sent again.
    SynUnanswered,
}

/// How many of a frontend's `backends` may be out at most for one more to be ejected: 30 %, rounded down, and one of few,
/// since a third of three is what most services can spare. Never the last: of one, none.
pub fn most_ejected(backends: usize) -> usize {
    match backends {
        0 | 1 => 0,
        several => (several.saturating_mul(3) / 10).max(1),
    }
}

/// What clients met with at one backend lately. Its size is bounded, whatever is observed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    last_success: Option<Instant>,
    /// The clients that failed, each with its last failure: no more of them than are needed.
    failed: [Option<(IpAddr, Instant)>; SOURCES],
    not_before: Option<Instant>,
}

impl Evidence {
    /// Takes an observation in. Whether it makes the backend suspect.
    pub(crate) fn observe(&mut self, observation: Observation, now: Instant) -> bool {
        match observation {
            Observation::Success => {
                self.last_success = Some(now);
                self.failed = Default::default();
                false
            }
            Observation::Failure { source, symptom: _ } => {
                self.note(source, now);
                self.is_conclusive(now)
            }
        }
    }

    /// A check has settled it.
    pub(crate) fn clear(&mut self, now: Instant) {
        self.failed = Default::default();
        self.not_before = now.checked_add(PAUSE);
    }

    fn note(&mut self, source: IpAddr, now: Instant) {
        let same = self.failed.iter().position(|entry| entry.is_some_and(|(other, _)| other == source));
        // Else the place of nobody, or of whom has failed longest ago.
        let place = same.or_else(|| {
            let places = self.failed.iter().enumerate();
            places.min_by_key(|(_, entry)| entry.map(|(_, at)| at)).map(|(n, _)| n)
        });
        if let Some(entry) = place.and_then(|n| self.failed.get_mut(n)) {
            *entry = Some((source, now));
        }
    }

    fn is_conclusive(&self, now: Instant) -> bool {
        let recent = |at: Instant| now.saturating_duration_since(at) < WINDOW;
        self.failed.iter().all(|entry| entry.is_some_and(|(_, at)| recent(at)))
            && !self.last_success.is_some_and(recent)
            && self.not_before.is_none_or(|not_before| now >= not_before)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an instant has no other origin; the tests only add to it")]
    fn any_instant() -> Instant {
        Instant::now()
    }

    fn failure(last: u8) -> Observation {
        Observation::Failure { source: IpAddr::from([192, 0, 2, last]), symptom: Symptom::RstToSyn }
    }

    #[test]
    fn one_client_proves_nothing() {
        let (mut evidence, now) = (Evidence::default(), any_instant());
        assert!((0..100).all(|_| !evidence.observe(failure(1), now)));
        assert!(!evidence.observe(failure(2), now));
        assert!(evidence.observe(failure(3), now));
    }

    #[test]
    fn old_failures_and_those_beside_a_success_do_not_count() {
        let (mut evidence, start) = (Evidence::default(), any_instant());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!evidence.observe(failure(1), at(0)));
        assert!(!evidence.observe(failure(2), at(5)));
        assert!(!evidence.observe(failure(3), at(10)), "the first is too old");
        assert!(evidence.observe(failure(4), at(11)), "2, 3 and 4");
        evidence.observe(Observation::Success, at(12));
        assert!((1..=3).all(|last| !evidence.observe(failure(last), at(13))));
        assert!(evidence.observe(failure(1), at(22)), "the success is too old");
    }

    #[test]
    fn a_check_settles_it_for_a_while() {
        let (mut evidence, now) = (Evidence::default(), any_instant());
        (1..=3).for_each(|last| _ = evidence.observe(failure(last), now));
        evidence.clear(now);
        assert!((1..=9).all(|last| !evidence.observe(failure(last), now)));
        assert!(evidence.observe(failure(10), now + PAUSE));
    }

    #[test]
    fn the_bound_is_thirty_per_cent_and_one_of_few() {
        let bounds = [0, 1, 2, 3, 4, 6, 7, 9, 10, 13, 14, 100].map(|n| (n, most_ejected(n)));
        let expected =
            [(0, 0), (1, 0), (2, 1), (3, 1), (4, 1), (6, 1), (7, 2), (9, 2), (10, 3), (13, 3), (14, 4), (100, 30)];
        assert_eq!(bounds, expected);
    }

    proptest! {
        #[test]
        fn fewer_sources_are_never_enough(seen in prop::collection::vec((0u8..2, 0u64..100_000), 0..200)) {
            let (mut evidence, start) = (Evidence::default(), any_instant());
            let mut at = start;
            for (last, after) in seen {
                at += Duration::from_millis(after);
                prop_assert!(!evidence.observe(failure(last), at));
            }
        }
    }
}
