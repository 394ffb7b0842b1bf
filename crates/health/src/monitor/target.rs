//! One target: an address of a service that is checked, whichever of the service's frontends it is behind.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_plan::frontends::FrontendKey;
use evenkeel_plan::world::{HealthCheck, ObjectName};

use super::{Event, Ticket};
use crate::backend::{Backend, State};
use crate::outcome::Failure;
use crate::passive::Evidence;
use crate::view::BackendHealth;

/// A new target is checked for the first time within this.
const SOON: Duration = Duration::from_secs(1);
/// While a new one has only failed, it is checked again after this: an agent that starts anew must not give flows for long
/// to those its predecessor knew to be down.
const QUICK: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Target {
    pub(super) key: (ObjectName, SocketAddr),
    pub(super) uid: Option<String>,
    pub(super) check: Arc<HealthCheck>,
    pub(super) backend: Backend,
    pub(super) evidence: Evidence,
    /// The next check is to confirm what clients met with.
    pub(super) is_suspect: bool,
    /// Why the last check was not made.
    pub(super) not_checked: Option<String>,
    /// The frontends it is behind.
    pub(super) frontends: Vec<FrontendKey>,
    /// When it is to be checked, or, while it is, when the check is given up.
    pub(super) at: Instant,
    /// When its share changes next.
    pub(super) step: Option<Instant>,
    /// A check has succeeded.
    is_proven: bool,
    turn: u64,
    /// When the check under way began.
    begun: Option<Instant>,
}

/// What a view shows of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Visible {
    state: State,
    is_ejected: bool,
    failure: Option<Arc<Failure>>,
    not_checked: Option<String>,
}

impl Target {
    pub(super) fn new(
        key: (ObjectName, SocketAddr),
        uid: Option<String>,
        check: Arc<HealthCheck>,
        now: Instant,
    ) -> Self {
        let mut target = Self {
            key,
            uid,
            check,
            backend: Backend::new(),
            evidence: Evidence::default(),
            is_suspect: false,
            not_checked: None,
            frontends: Vec::new(),
            at: now,
            step: None,
            is_proven: false,
            turn: 0,
            begun: None,
        };
        target.at = target.phase(SOON, now);
        target
    }

    /// When to begin from `now` on, within an interval, and within `most`. Derived from the address, so that the checks of
    /// many backends that came together are spread evenly, and the same in every run.
    pub(super) fn phase(&self, most: Duration, now: Instant) -> Instant {
        let mut hasher = DefaultHasher::new();
        self.key.1.hash(&mut hasher);
        // 16 bits are finer than the shortest interval needs.
        let part = u32::from(u16::try_from(hasher.finish() >> 48).unwrap_or(0));
        now + self.check.interval.min(most) / (1 << 16) * part
    }

    pub(super) fn change_check(&mut self, check: Arc<HealthCheck>) {
        if self.check.probe != check.probe {
            self.backend.begin_anew();
        }
        self.check = check;
    }

    /// Begins a check.
    pub(super) fn begin(&mut self, id: u64, now: Instant) -> Ticket {
        self.turn += 1;
        self.begun = Some(now);
        Ticket { target: id, turn: self.turn }
    }

    /// Ends a check. When it began; `None` if it was not under way.
    pub(super) fn end(&mut self, ticket: Ticket) -> Option<Instant> {
        if ticket.turn != self.turn {
            return None;
        }
        self.begun.take()
    }

    /// When the check after the one that began then is due.
    pub(super) fn next(&self, begun: Instant, now: Instant) -> Instant {
        let is_in_doubt = !self.is_proven && self.backend.failure().is_some() && self.backend.state() != State::Down;
        let pause = if is_in_doubt { self.check.interval.min(QUICK) } else { self.check.interval };
        // From its begin, and not before now: after a pause there is no flood to catch up.
        (begun + pause).max(now)
    }

    pub(super) fn succeeded(&mut self, now: Instant) {
        self.is_proven = true;
        self.backend.succeeded(&self.check, now);
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.begun.is_some()
    }

    /// A check has settled what clients' failures gave rise to.
    pub(super) fn end_suspicion(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_suspect) {
            self.evidence.clear(now);
        }
    }

    pub(super) fn visible(&self) -> Visible {
        Visible {
            state: self.backend.state(),
            is_ejected: self.backend.is_ejected(),
            failure: self.backend.failure().cloned(),
            not_checked: self.not_checked.clone(),
        }
    }

    /// What happened since it looked like this.
    pub(super) fn event_since(&self, before: &Visible) -> Option<Event> {
        let state = self.backend.state();
        if state == before.state {
            let not_checked = self.not_checked.as_ref().filter(|_| before.not_checked.is_none());
            return not_checked.map(|because| Event::NotChecked { because: because.clone() });
        }
        Some(match state {
            State::Active => Event::Active,
            State::Warming => Event::Warming,
            State::Down => {
                Event::Down { failure: Arc::clone(self.backend.failure()?), ejected: self.backend.is_ejected() }
            }
        })
    }

    pub(super) fn health(&self, now: Instant) -> BackendHealth {
        BackendHealth {
            share: self.backend.share(self.check.slow_start, now),
            state: self.backend.state(),
            is_last_resort: false,
            is_ejected: self.backend.is_ejected(),
            failure: self.backend.failure().cloned(),
            not_checked: self.not_checked.clone(),
        }
    }
}

const _: () = assert!(HealthCheck::INTERVAL.start().as_nanos() > Duration::from_nanos(1 << 16).as_nanos());
