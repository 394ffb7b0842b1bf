//! One backend: what checks in a row make of it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_plan::world::HealthCheck;

use crate::outcome::Failure;
use crate::ramp;

/// What a backend's health is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It takes its full share of new flows.
    Active,
    /// It came back and takes a growing share.
    Warming,
    /// It takes none, while another backend can.
    Down,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Warming => "warming",
            Self::Down => "down",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Active,
    Warming { since: Instant },
    Down { ejected: bool },
}

/// A backend's health.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    phase: Phase,
    /// Checks in a row that failed, and that succeeded: one of them is always 0.
    failures: u8,
    successes: u8,
    /// Why the last check failed; forgotten once an active backend answers again.
    failure: Option<Arc<Failure>>,
}

impl Backend {
    /// Readiness vouches for a new one.
    pub(crate) fn new() -> Self {
        Self { phase: Phase::Active, failures: 0, successes: 0, failure: None }
    }

    pub(crate) fn state(&self) -> State {
        match self.phase {
            Phase::Active => State::Active,
            Phase::Warming { .. } => State::Warming,
            Phase::Down { .. } => State::Down,
        }
    }

    /// Whether clients' failures took it out, confirmed by one check, rather than checks in a row.
    pub(crate) fn is_ejected(&self) -> bool {
        self.phase == Phase::Down { ejected: true }
    }

    pub(crate) fn failure(&self) -> Option<&Arc<Failure>> {
        self.failure.as_ref()
    }

    /// A check succeeded.
    pub(crate) fn succeeded(&mut self, check: &HealthCheck, now: Instant) {
        self.failures = 0;
        self.successes = self.successes.saturating_add(1);
        match self.phase {
            Phase::Active => self.failure = None,
            Phase::Warming { .. } => {}
            Phase::Down { .. } if self.successes >= check.healthy_after => {
                self.phase = Phase::Warming { since: now };
                self.settle(check.slow_start, now);
            }
            Phase::Down { .. } => {}
        }
    }

    /// A check failed.
    pub(crate) fn failed(&mut self, failure: Failure, check: &HealthCheck) {
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        self.failure = Some(failure.into());
        if self.failures >= check.unhealthy_after && self.state() != State::Down {
            self.phase = Phase::Down { ejected: false };
        }
    }

    /// A check failed that was to confirm what clients meet with.
    pub(crate) fn eject(&mut self, failure: Failure) {
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        self.failure = Some(failure.into());
        if self.state() != State::Down {
            self.phase = Phase::Down { ejected: true };
        }
    }

    /// Another check applies from now on: answers to the former one no longer count, what they led to stays until the new
    /// one says otherwise.
    pub(crate) fn begin_anew(&mut self) {
        (self.failures, self.successes) = (0, 0);
    }

    /// Its share of new flows, out of [`ramp::FULL`].
    pub(crate) fn share(&self, slow_start: Duration, now: Instant) -> u8 {
        match self.phase {
            Phase::Active => ramp::FULL,
            Phase::Warming { since } => ramp::share(now.saturating_duration_since(since), slow_start),
            Phase::Down { .. } => 0,
        }
    }

    /// When the share changes next by the passing of time alone.
    pub(crate) fn next_step(&self, slow_start: Duration, now: Instant) -> Option<Instant> {
        let Phase::Warming { since } = self.phase else { return None };
        // One whose ramp has ended is not settled yet: that is a step, too.
        let next = ramp::next_step(now.saturating_duration_since(since), slow_start).unwrap_or(slow_start);
        since.checked_add(next)
    }

    /// Ends a slow start that is over.
    pub(crate) fn settle(&mut self, slow_start: Duration, now: Instant) {
        if let Phase::Warming { since } = self.phase
            && now.saturating_duration_since(since) >= slow_start
        {
            self.phase = Phase::Active;
            self.failure = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_plan::world::HealthProbe;

    use super::*;
    use crate::outcome::Reason;

    #[expect(clippy::disallowed_methods, reason = "an instant has no other origin; the tests only add to it")]
    fn any_instant() -> Instant {
        Instant::now()
    }

    fn refused() -> Failure {
        Failure::new(Reason::TcpRefused, "refused")
    }

    /// Down after 3, back after 2, over 16 s.
    fn check() -> HealthCheck {
        HealthCheck { slow_start: Duration::from_secs(16), ..HealthCheck::new(HealthProbe::Tcp) }
    }

    #[test]
    fn only_failures_in_a_row_count() {
        let (check, now) = (check(), any_instant());
        let mut backend = Backend::new();
        for _ in 0..5 {
            backend.failed(refused(), &check);
            backend.failed(refused(), &check);
            assert_eq!(backend.failure().unwrap().reason, Reason::TcpRefused);
            backend.succeeded(&check, now);
        }
        assert_eq!((backend.state(), backend.failure()), (State::Active, None));
        for expected in [State::Active, State::Active, State::Down, State::Down] {
            backend.failed(refused(), &check);
            assert_eq!(backend.state(), expected);
        }
        assert_eq!(backend.share(check.slow_start, now), 0);
    }

    #[test]
    fn it_comes_back_after_successes_in_a_row_and_slowly() {
        let (check, start) = (check(), any_instant());
        let mut backend = Backend::new();
        (0..3).for_each(|_| backend.failed(refused(), &check));
        backend.succeeded(&check, start);
        backend.failed(refused(), &check);
        backend.succeeded(&check, start);
        assert_eq!(backend.state(), State::Down, "not in a row");
        backend.succeeded(&check, start);
        assert_eq!(backend.state(), State::Warming);
        assert_eq!(backend.share(check.slow_start, start), 15);
        let later = start + Duration::from_secs(15);
        assert_eq!(backend.share(check.slow_start, later), 240);
        assert_eq!(backend.next_step(check.slow_start, later), Some(start + check.slow_start));
        backend.settle(check.slow_start, later);
        assert_eq!(backend.state(), State::Warming);
        backend.settle(check.slow_start, start + check.slow_start);
        assert_eq!((backend.state(), backend.next_step(check.slow_start, later)), (State::Active, None));
    }

    #[test]
    fn one_that_fails_again_while_it_comes_back_is_down_again() {
        let (check, now) = (check(), any_instant());
        let mut backend = Backend::new();
        (0..3).for_each(|_| backend.failed(refused(), &check));
        (0..2).for_each(|_| backend.succeeded(&check, now));
        (0..3).for_each(|_| backend.failed(refused(), &check));
        assert_eq!(backend.state(), State::Down);
    }

    #[test]
    fn without_slow_start_it_is_back_at_once() {
        let (check, now) = (HealthCheck { slow_start: Duration::ZERO, ..check() }, any_instant());
        let mut backend = Backend::new();
        backend.eject(refused());
        assert!(backend.is_ejected());
        (0..2).for_each(|_| backend.succeeded(&check, now));
        assert_eq!(backend.state(), State::Active);
        assert!(!backend.is_ejected());
    }
}
