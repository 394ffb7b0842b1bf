//! Who of several replicas leads, by a Lease: the rules, without clock or network. Times are those of one's own clock, so
//! clocks need not agree.
//!
//! Two things keep a leader of the past from writing. It stops `renew_deadline` after the moment it began its last
//! successful renewal, and gives no request longer than what is left until `lease_duration`, while others wait for
//! `lease_duration` from the moment they saw that renewal. And every write names the version of the object it was decided
//! on, so that what does come late meets another version.

use std::time::Duration;

/// The times of an election; the defaults are those of Kubernetes' own components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How long others wait for a leader that does not renew.
    pub lease_duration: Duration,
    /// How long a leader goes on without renewing.
    pub renew_deadline: Duration,
    /// How often everybody looks.
    pub retry_period: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Times that would let two lead, or nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the lease has to last longer than the renew deadline, and that longer than the retry period, by a second each"
)]
pub struct TimesError;

impl Times {
    /// Whether they leave room for a request, and for a renewal.
    ///
    /// # Errors
    /// [`TimesError`].
    pub fn check(&self) -> Result<(), TimesError> {
        let second = Duration::from_secs(1);
        let fits = self.renew_deadline + second <= self.lease_duration
            && self.retry_period + second <= self.renew_deadline
            && !self.retry_period.is_zero();
        if fits { Ok(()) } else { Err(TimesError) }
    }

    /// How long a request may take at most.
    pub fn request_timeout(&self) -> Duration {
        self.lease_duration.saturating_sub(self.renew_deadline).mul_f64(0.8)
    }
}

/// A lease as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `spec.holderIdentity`; empty when it was released.
    pub holder: String,
    /// What changes with every renewal.
    pub renewal: String,
    /// `spec.leaseDurationSeconds`.
    pub duration: Duration,
}

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write it: it is ours to renew, or free to take. `transition`: the holder changes.
    Write {
        /// The holder changes.
        transition: bool,
    },
    /// Look again later: somebody else has it.
    Wait,
}

/// One replica's view of the election.
#[derive(Debug)]
pub struct Elector {
    identity: String,
    times: Times,
    /// The lease as last seen to change, and when.
    seen: Option<(Seen, Duration)>,
    /// When the last successful renewal began.
    renewed: Option<Duration>,
}

impl Elector {
    /// Nothing seen yet. Identities have to differ.
    pub fn new(identity: String, times: Times) -> Self {
        Self { identity, times, seen: None, renewed: None }
    }

    /// Its times.
    pub fn times(&self) -> Times {
        self.times
    }

    /// Who it is.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Who was last seen to lead.
    pub fn leader(&self) -> Option<&str> {
        self.seen.as_ref().map(|(seen, _)| seen.holder.as_str()).filter(|holder| !holder.is_empty())
    }

    /// The lease was read, or there is none.
    pub fn look(&mut self, lease: Option<Seen>, now: Duration) -> Step {
        let Some(lease) = lease else {
            self.seen = None;
            return Step::Write { transition: true };
        };
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != lease) {
            self.seen = Some((lease, now));
        }
        let Some((lease, since)) = &self.seen else { return Step::Wait };
        if lease.holder == self.identity {
            return Step::Write { transition: false };
        }
        let is_free = lease.holder.is_empty() || now >= *since + lease.duration.max(self.times.lease_duration);
        if is_free { Step::Write { transition: true } } else { Step::Wait }
    }

    /// The lease was written; the request began at `began`.
    pub fn wrote(&mut self, lease: Seen, began: Duration) {
        self.seen = Some((lease, began));
        self.renewed = Some(began);
    }

    /// The lease was found to be somebody else's.
    pub fn lost(&mut self) {
        self.renewed = None;
    }

    /// Until when this replica leads; `None`: it does not.
    pub fn leads_until(&self) -> Option<Duration> {
        self.renewed.map(|renewed| renewed + self.times.renew_deadline)
    }

    /// Whether it leads.
    pub fn leads(&self, now: Duration) -> bool {
        self.leads_until().is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lease(holder: &str, renewal: &str) -> Option<Seen> {
        Some(Seen { holder: holder.to_owned(), renewal: renewal.to_owned(), duration: seconds(15) })
    }

    fn elector(identity: &str) -> Elector {
        Elector::new(identity.to_owned(), Times::default())
    }

    #[test]
    fn a_free_lease_is_taken() {
        assert_eq!(elector("a").look(None, seconds(0)), Step::Write { transition: true });
        assert_eq!(elector("a").look(lease("", "1"), seconds(0)), Step::Write { transition: true });
    }

    #[test]
    fn a_held_lease_is_waited_for_from_when_its_last_renewal_was_seen() {
        let mut b = elector("b");
        assert_eq!(b.look(lease("a", "1"), seconds(0)), Step::Wait);
        assert_eq!(b.look(lease("a", "2"), seconds(14)), Step::Wait);
        assert_eq!(b.look(lease("a", "2"), seconds(28)), Step::Wait);
        assert_eq!(b.look(lease("a", "2"), seconds(29)), Step::Write { transition: true });
    }

    #[test]
    fn a_leader_that_cannot_renew_stops_in_time() {
        let mut a = elector("a");
        a.wrote(lease("a", "1").unwrap(), seconds(100));
        assert!(a.leads(seconds(109)) && !a.leads(seconds(110)));
        assert!(a.times().renew_deadline + a.times().request_timeout() < a.times().lease_duration);
    }

    #[test]
    fn who_returns_under_its_name_goes_on_without_a_transition() {
        assert_eq!(elector("a").look(lease("a", "1"), seconds(0)), Step::Write { transition: false });
    }

    proptest! {
        /// Any number of replicas, clocks with offsets of their own, requests that fail or take their time: there is
        /// never a moment at which a write of one can arrive while another leads.
        #[test]
        fn never_two(
            offsets in proptest::collection::vec(0..1000_u64, 2..4),
            turns in proptest::collection::vec((0..4_usize, 0..4000_u64, 0..4_u8), 1..300),
        ) {
            let mut electors: Vec<Elector> = (0..offsets.len()).map(|n| elector(&format!("r{n}"))).collect();
            let mut stored: Option<Seen> = None;
            let mut version = 0;
            let mut now = Duration::ZERO;
            for (who, wait, fate) in turns {
                now += Duration::from_millis(wait);
                let who = who % electors.len();
                let own = |at: Duration| at + seconds(offsets[who]);
                let began = now;
                let step = electors[who].look(stored.clone(), own(now));
                if matches!(step, Step::Write { .. }) && fate != 0 {
                    version += 1;
                    let written = Seen { holder: format!("r{who}"), renewal: version.to_string(), duration: seconds(15) };
                    stored = Some(written.clone());
                    // The answer may be lost.
                    if fate != 1 {
                        electors[who].wrote(written, own(began));
                    }
                }
                // Whoever leads now may have a request under way until this much later.
                let reach = Times::default().request_timeout();
                let leading: Vec<usize> = (0..electors.len())
                    .filter(|n| electors[*n].leads(now + seconds(offsets[*n])))
                    .collect();
                let late = (0..electors.len())
                    .filter(|n| electors[*n].leads_until().is_some_and(|until| now + seconds(offsets[*n]) < until + reach));
                for other in late {
                    prop_assert!(leading.iter().all(|leader| *leader == other), "{} while {:?} lead", other, leading);
                }
            }
        }
    }
}
