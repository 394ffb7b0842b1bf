//! The schedule of checks, and what becomes of their results.

mod target;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_plan::frontends::FrontendKey;
use evenkeel_plan::world::{HealthCheck, ObjectName};

use self::target::Target;
use crate::backend::State;
use crate::group::{Group, Member};
use crate::outcome::{Failure, Outcome};
use crate::passive::{self, Observation};
use crate::ramp;
use crate::relief::{Portion, relieve};
use crate::view::{BackendHealth, View};

/// How long after its timeout a check without a result is given up, and made again.
const GRACE: Duration = Duration::from_secs(10);

/// Which check a result is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    target: u64,
    /// Which of the target's checks.
    turn: u64,
}

/// A check that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// To be given back with the result.
    pub ticket: Ticket,
    /// Whom to ask.
    pub address: SocketAddr,
    /// How.
    pub check: Arc<HealthCheck>,
}

/// Something to tell about a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its service.
    pub service: ObjectName,
    /// Where it is asked.
    pub address: SocketAddr,
    /// What happened.
    pub event: Event,
}

/// What happened to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It gets no new flows for now.
    Down {
        /// The last check's failure.
        failure: Arc<Failure>,
        /// Clients' failures took it out, confirmed by this check.
        ejected: bool,
    },
    /// Clients' failures and this check would take it out, but too many others are out.
    NotEjected {
        /// The check's failure.
        failure: Failure,
    },
    /// It cannot be checked, because of this host; its state stays.
    NotChecked {
        /// What is in the way.
        because: String,
    },
    /// It comes back, slowly.
    Warming,
    /// It takes all that falls to it.
    Active,
}

/// What is known of a frontend.
#[derive(Debug)]
struct Watched {
    members: Vec<(Member, Option<u64>)>,
}

/// The health of all backends that are checked.
#[derive(Debug, Default)]
pub struct Monitor {
    frontends: BTreeMap<FrontendKey, Watched>,
    targets: BTreeMap<u64, Target>,
    /// The targets by who they are.
    ids: BTreeMap<(ObjectName, SocketAddr), u64>,
    next_id: u64,
    /// When each target is to be checked, or, while it is, when the check is given up.
    checks: BTreeSet<(Instant, u64)>,
    /// When the shares of targets that come back change.
    steps: BTreeSet<(Instant, u64)>,
    version: u64,
}

impl Monitor {
    /// Monitors these frontends and no others. What stays keeps its state and its pace; what is new is healthy.
    pub fn set(&mut self, groups: impl IntoIterator<Item = Group>, now: Instant) {
        self.frontends.clear();
        let former = std::mem::take(&mut self.ids);
        for target in self.targets.values_mut() {
            target.frontends.clear();
        }
        for group in groups {
            let members = group.members.iter().map(|member| {
                let id = member.is_checked.then(|| self.target(&group, member, &former, now));
                (member.clone(), id)
            });
            let watched = Watched { members: members.collect() };
            self.frontends.insert(group.frontend, watched);
        }
        let gone: Vec<u64> =
            self.targets.iter().filter(|(_, target)| target.frontends.is_empty()).map(|(id, _)| *id).collect();
        for id in gone {
            self.remove(id);
        }
        self.version += 1;
    }

    /// The target of a member: the one it had, or a new one.
    fn target(
        &mut self,
        group: &Group,
        member: &Member,
        former: &BTreeMap<(ObjectName, SocketAddr), u64>,
        now: Instant,
    ) -> u64 {
        let address = SocketAddr::new(member.address.ip(), group.check.port.unwrap_or(member.address.port()));
        let key = (group.service.clone(), address);
        let is_same = |id: &u64| self.targets.get(id).is_some_and(|target| target.uid == member.uid);
        let known = self.ids.get(&key).or_else(|| former.get(&key).filter(|id| is_same(id))).copied();
        let id = match known {
            Some(id) => id,
            None => {
                self.next_id += 1;
                let target = Target::new(key.clone(), member.uid.clone(), Arc::clone(&group.check), now);
                self.checks.insert((target.at, self.next_id));
                self.targets.insert(self.next_id, target);
                self.next_id
            }
        };
        if let Some(target) = self.targets.get_mut(&id) {
            target.frontends.push(group.frontend);
            if target.check != group.check {
                target.change_check(Arc::clone(&group.check));
                // The new interval counts from now on, also where the former one was an hour.
                let soonest = target.phase(Duration::MAX, now).min(target.at);
                self.reschedule(id, soonest);
                self.schedule_step(id, now);
            }
        }
        self.ids.insert(key, id);
        id
    }

    fn remove(&mut self, id: u64) {
        if let Some(target) = self.targets.remove(&id) {
            self.checks.remove(&(target.at, id));
            if let Some(step) = target.step {
                self.steps.remove(&(step, id));
            }
        }
    }

    /// When [`Self::poll`] has something to do next; `None`: never.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let first = |queue: &BTreeSet<(Instant, u64)>| queue.first().map(|(at, _)| *at);
        first(&self.checks).into_iter().chain(first(&self.steps)).min()
    }

    /// The checks that are due by `now`, at most so many; what is left over stays due. Each is returned once, and made again
    /// an interval after it began. Slow starts go on, too.
    pub fn poll(&mut self, now: Instant, at_most: usize) -> (Vec<Due>, Vec<Change>) {
        let mut due = Vec::new();
        while due.len() < at_most
            && let Some(&(at, id)) = self.checks.first()
            && at <= now
        {
            let Some(target) = self.targets.get_mut(&id) else {
                self.checks.remove(&(at, id));
                continue;
            };
            due.push(Due { ticket: target.begin(id, now), address: target.key.1, check: Arc::clone(&target.check) });
            let given_up = now + target.check.timeout + GRACE;
            self.reschedule(id, given_up);
        }
        (due, self.step(now))
    }

    /// Takes a result in. What was not asked for, or no longer concerns anybody, makes no difference.
    pub fn result(&mut self, ticket: Ticket, outcome: Outcome, now: Instant) -> Option<Change> {
        let id = ticket.target;
        let is_suspect = self.targets.get(&id)?.is_suspect;
        let may_be_ejected = is_suspect && self.may_be_ejected(id);
        let target = self.targets.get_mut(&id)?;
        let begun = target.end(ticket)?;
        let before = target.visible();
        let mut not_ejected = None;
        target.not_checked = None;
        match outcome {
            Outcome::Healthy => {
                target.succeeded(now);
                target.end_suspicion(now);
            }
            Outcome::Failed(failure) => {
                if may_be_ejected {
                    target.backend.eject(failure);
                } else {
                    target.backend.failed(failure.clone(), &target.check);
                    let stays = is_suspect && target.backend.state() != State::Down;
                    not_ejected = stays.then_some(Event::NotEjected { failure });
                }
                target.end_suspicion(now);
            }
            // The clients' failures are as unexplained as before.
            Outcome::NotDone(because) => target.not_checked = Some(because),
        }
        let (key, after, event) = (target.key.clone(), target.visible(), target.event_since(&before));
        let next = target.next(begun, now);
        self.reschedule(id, next);
        self.schedule_step(id, now);
        if before != after {
            self.version += 1;
        }
        let event = event.or(not_ejected)?;
        Some(Change { service: key.0, address: key.1, event })
    }

    /// Takes in what the data plane saw of a client's flow. Only what makes a check due at once makes a difference to
    /// [`Self::next_due`].
    pub fn observe(&mut self, frontend: &FrontendKey, backend: SocketAddr, observation: Observation, now: Instant) {
        let members = self.frontends.get(frontend).map(|watched| watched.members.iter());
        let member = members.and_then(|mut members| members.find(|(member, _)| member.address == backend));
        let Some(id) = member.and_then(|(_, id)| *id) else { return };
        let Some(target) = self.targets.get_mut(&id) else { return };
        if !target.check.passive_ejection || target.backend.state() == State::Down {
            return;
        }
        if target.evidence.observe(observation, now) && !target.is_suspect {
            target.is_suspect = true;
            // One under way confirms as well as another.
            if !target.is_under_way() {
                self.reschedule(id, now);
            }
        } else if observation == Observation::Success {
            target.is_suspect = false;
        }
    }

    /// Changes whenever [`Self::view`] may.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What the health of backends means for each frontend.
    #[must_use]
    pub fn view(&self, now: Instant) -> View {
        let of = |(key, watched): (&FrontendKey, &Watched)| {
            let checked = watched.members.iter().filter_map(|(member, id)| {
                let target = self.targets.get(&(*id)?)?;
                Some((member.address, target.health(now)))
            });
            let mut backends: BTreeMap<SocketAddr, BackendHealth> = checked.collect();
            let eligible: Vec<(SocketAddr, u32)> = watched
                .members
                .iter()
                .map(|(member, _)| member)
                .filter(|member| member.is_eligible)
                .map(|member| (member.address, member.weight))
                .collect();
            let mut portions: Vec<Portion> = eligible
                .iter()
                .map(|(address, weight)| {
                    // Those this node does not check count as healthy.
                    let share = backends.get(address).map_or(ramp::FULL, |health| health.share);
                    Portion { weight: *weight, share }
                })
                .collect();
            let is_last_resort = relieve(&mut portions);
            for ((address, _), portion) in eligible.iter().zip(portions) {
                if let Some(health) = backends.get_mut(address) {
                    health.share = portion.share;
                    health.is_last_resort = is_last_resort;
                }
            }
            (*key, backends)
        };
        View { frontends: self.frontends.iter().map(of).collect() }
    }

    /// Whether one more backend may be out in every frontend this one serves.
    fn may_be_ejected(&self, id: u64) -> bool {
        let Some(target) = self.targets.get(&id) else { return false };
        target.frontends.iter().filter_map(|frontend| self.frontends.get(frontend)).all(|watched| {
            let eligible: Vec<Option<u64>> =
                watched.members.iter().filter(|(member, _)| member.is_eligible).map(|(_, id)| *id).collect();
            let is_out = |other: &Option<u64>| {
                *other == Some(id)
                    || other
                        .and_then(|other| self.targets.get(&other))
                        .is_some_and(|it| it.backend.state() == State::Down)
            };
            let takes_none = !eligible.contains(&Some(id));
            takes_none || eligible.iter().filter(|other| is_out(other)).count() <= passive::most_ejected(eligible.len())
        })
    }

    /// Goes on with the slow starts whose time has come.
    fn step(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some(&(at, id)) = self.steps.first()
            && at <= now
        {
            self.version += 1;
            if let Some(target) = self.targets.get_mut(&id) {
                let before = target.visible();
                target.backend.settle(target.check.slow_start, now);
                let event = target.event_since(&before);
                let (service, address) = target.key.clone();
                changes.extend(event.map(|event| Change { service, address, event }));
            }
            self.steps.remove(&(at, id));
            self.schedule_step(id, now);
        }
        changes
    }

    fn reschedule(&mut self, id: u64, at: Instant) {
        if let Some(target) = self.targets.get_mut(&id) {
            self.checks.remove(&(target.at, id));
            target.at = at;
            self.checks.insert((at, id));
        }
    }

    fn schedule_step(&mut self, id: u64, now: Instant) {
        if let Some(target) = self.targets.get_mut(&id) {
            if let Some(step) = target.step.take() {
                self.steps.remove(&(step, id));
            }
            target.step = target.backend.next_step(target.check.slow_start, now);
            self.steps.extend(target.step.map(|step| (step, id)));
        }
    }
}
