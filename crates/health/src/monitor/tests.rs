use std::collections::BTreeMap;

use evenkeel_plan::world::{HealthProbe, Protocol};
use proptest::prelude::*;

use super::*;
use crate::outcome::Reason;
use crate::passive::{SOURCES, Symptom};

#[expect(clippy::disallowed_methods, reason = "an instant has no other origin; the tests only add to it")]
fn any_instant() -> Instant {
    Instant::now()
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, last], 8080))
}

fn frontend(port: u16) -> FrontendKey {
    FrontendKey { address: [10, 0, 0, 1].into(), port, protocol: Protocol::Tcp }
}

fn member(last: u8) -> Member {
    Member { address: address(last), uid: None, is_checked: true, is_eligible: true, weight: 1 }
}

/// Every 5 s, down after 3, back after 2, over 16 s.
fn check() -> HealthCheck {
    HealthCheck { slow_start: Duration::from_secs(16), passive_ejection: true, ..HealthCheck::new(HealthProbe::Tcp) }
}

fn group(check: HealthCheck, members: impl IntoIterator<Item = u8>) -> Group {
    Group {
        frontend: frontend(80),
        service: ObjectName::new("default", "web"),
        check: check.into(),
        members: members.into_iter().map(member).collect(),
    }
}

fn failure() -> Failure {
    Failure::new(Reason::TcpRefused, "refused")
}

/// A monitor with a clock, and backends that are well or not.
struct Bench {
    monitor: Monitor,
    now: Instant,
    ill: Vec<u8>,
    asked: BTreeMap<u8, u32>,
    told: Vec<(u8, &'static str)>,
}

fn last_octet(address: SocketAddr) -> u8 {
    match address {
        SocketAddr::V4(address) => address.ip().octets()[3],
        SocketAddr::V6(_) => panic!(),
    }
}

impl Bench {
    fn new(groups: impl IntoIterator<Item = Group>) -> Self {
        let now = any_instant();
        let mut monitor = Monitor::default();
        monitor.set(groups, now);
        Self { monitor, now, ill: Vec::new(), asked: BTreeMap::new(), told: Vec::new() }
    }

    fn tell(&mut self, changes: impl IntoIterator<Item = Change>) {
        for Change { address, event, .. } in changes {
            let name = match event {
                Event::Down { ejected: false, .. } => "down",
                Event::Down { ejected: true, .. } => "ejected",
                Event::NotEjected { .. } => "not ejected",
                Event::NotChecked { .. } => "not checked",
                Event::Warming => "warming",
                Event::Active => "active",
            };
            self.told.push((last_octet(address), name));
        }
    }

    /// Makes the checks that are due, each answered at once.
    fn poll(&mut self) {
        let (due, changes) = self.monitor.poll(self.now, usize::MAX);
        self.tell(changes);
        for due in due {
            let last = last_octet(due.address);
            *self.asked.entry(last).or_default() += 1;
            let outcome = if self.ill.contains(&last) { Outcome::Failed(failure()) } else { Outcome::Healthy };
            let change = self.monitor.result(due.ticket, outcome, self.now);
            self.tell(change);
        }
    }

    /// Lets time pass, from due to due.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.monitor.next_due().filter(|next| *next <= end) {
            self.now = next.max(self.now);
            self.poll();
        }
        self.now = end;
    }

    fn seconds(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    fn clients_fail(&mut self, last: u8) {
        for client in 1..=u8::try_from(SOURCES).unwrap() {
            let source = [192, 0, 2, client].into();
            let failure = Observation::Failure { source, symptom: Symptom::SynUnanswered };
            self.monitor.observe(&frontend(80), address(last), failure, self.now);
        }
        self.poll();
    }

    fn health(&self, last: u8) -> BackendHealth {
        self.monitor.view(self.now).get(&frontend(80), address(last)).unwrap().clone()
    }

    fn shares(&self) -> Vec<u8> {
        self.monitor.view(self.now).of(&frontend(80)).unwrap().values().map(|health| health.share).collect()
    }
}

#[test]
fn new_backends_are_active_and_each_is_asked_once_an_interval() {
    let mut bench = Bench::new([group(check(), 1..=20)]);
    assert_eq!(bench.shares(), [255; 20]);
    bench.seconds(1);
    assert_eq!(bench.asked.len(), 20, "soon");
    bench.seconds(49);
    assert_eq!(bench.asked.values().copied().collect::<Vec<_>>(), [10; 20]);
    assert_eq!(bench.told, []);
}

#[test]
fn checks_are_spread_over_the_interval() {
    let mut bench = Bench::new([group(check(), 1..=200)]);
    let mut most = 0;
    for _ in 0..10 {
        let before: u32 = bench.asked.values().sum();
        bench.pass(Duration::from_millis(100));
        most = most.max(bench.asked.values().sum::<u32>() - before);
    }
    assert!(most < 50, "{most} of 200 in a tenth of the first second");
}

#[test]
fn a_new_one_that_only_fails_is_asked_again_quickly() {
    let mut bench = Bench::new([group(check(), 1..=2)]);
    bench.ill = vec![1];
    bench.seconds(2);
    assert_eq!(bench.told, [(1, "down")]);
    assert_eq!((bench.asked[&1], bench.asked[&2]), (3, 1));
    bench.seconds(10);
    assert_eq!(bench.asked[&1], 5, "then at the ordinary pace");
    // One that has been well before is given its time.
    bench.ill = vec![2];
    bench.seconds(7);
    assert!(bench.told.len() == 1);
}

#[test]
fn an_ill_backend_is_left_alone_and_comes_back_slowly() {
    let mut bench = Bench::new([group(check(), 1..=3)]);
    bench.ill = vec![2];
    bench.seconds(20);
    assert_eq!(bench.told, [(2, "down")]);
    assert_eq!(bench.shares(), [255, 0, 255]);
    assert_eq!(bench.health(2).failure.unwrap().reason, Reason::TcpRefused);
    bench.ill.clear();
    bench.seconds(11);
    assert_eq!(bench.told.last(), Some(&(2, "warming")));
    let mut shares = vec![bench.shares()[1]];
    assert!((1..128).contains(&shares[0]), "{shares:?}");
    for _ in 0..17 {
        bench.seconds(1);
        shares.push(bench.shares()[1]);
    }
    assert!(shares.is_sorted() && shares.last() == Some(&255), "{shares:?}");
    assert_eq!(bench.told.last(), Some(&(2, "active")));
    assert_eq!(bench.health(2).failure, None);
}

#[test]
fn when_all_are_ill_all_serve() {
    let mut bench = Bench::new([group(check(), 1..=3)]);
    bench.ill = vec![1, 2, 3];
    bench.seconds(20);
    assert_eq!(bench.shares(), [255; 3]);
    assert!((1..=3).all(|last| bench.health(last).is_last_resort && bench.health(last).state == State::Down));
    bench.ill = vec![1, 3];
    bench.seconds(10);
    // The one that comes back has nobody to share with.
    assert_eq!((bench.health(2).state, bench.shares()), (State::Warming, vec![0, 255, 0]));
    assert!(!bench.health(1).is_last_resort);
}

#[test]
fn others_that_this_node_does_not_check_count_as_healthy() {
    let mut one = group(check(), 1..=2);
    one.members[1].is_checked = false;
    let mut bench = Bench::new([one]);
    bench.ill = vec![1];
    bench.seconds(20);
    assert_eq!(bench.shares(), [0], "the other one serves");
    assert_eq!(bench.monitor.view(bench.now).share(&frontend(80), address(2)), 255);
    assert_eq!(bench.asked.keys().collect::<Vec<_>>(), [&1]);
}

#[test]
fn those_that_take_no_new_flows_are_no_help() {
    let mut one = group(check(), 1..=2);
    one.members[1].is_eligible = false;
    let mut bench = Bench::new([one]);
    bench.ill = vec![1];
    bench.seconds(20);
    assert_eq!(bench.shares(), [255, 255]);
    assert!(bench.health(1).is_last_resort);
}

#[test]
fn what_stays_keeps_its_state() {
    let mut bench = Bench::new([group(check(), 1..=3)]);
    bench.ill = vec![2];
    bench.seconds(20);
    let asked = bench.asked.clone();
    bench.monitor.set([group(check(), 2..=4)], bench.now);
    assert_eq!(bench.shares(), [0, 255, 255]);
    bench.seconds(5);
    assert_eq!(bench.asked[&1], asked[&1], "nobody asks who is gone");
    assert_eq!(bench.asked[&3], asked[&3] + 1);
    // Another check does not make it well, but what the former one found does not count against it.
    let other = HealthCheck { probe: HealthProbe::Icmp, unhealthy_after: 1, ..check() };
    bench.monitor.set([group(other, 2..=4)], bench.now);
    assert_eq!(bench.health(2).state, State::Down);
    // Another pod at the same address is another backend.
    let mut replaced = group(check(), 2..=4);
    replaced.members[0].uid = Some("other".to_owned());
    bench.monitor.set([replaced], bench.now);
    assert_eq!(bench.health(2).state, State::Active);
    bench.monitor.set([], bench.now);
    assert_eq!(bench.monitor.next_due(), None);
}

#[test]
fn a_shorter_interval_applies_at_once() {
    let mut bench = Bench::new([group(HealthCheck { interval: Duration::from_hours(1), ..check() }, [1])]);
    bench.seconds(1);
    let asked = bench.asked.get(&1).copied().unwrap_or_default();
    bench.monitor.set([group(check(), [1])], bench.now);
    bench.seconds(6);
    assert!(bench.asked[&1] > asked);
}

#[test]
fn frontends_of_a_service_share_what_is_known() {
    let https = Group { frontend: frontend(443), ..group(check(), 1..=2) };
    let mut bench = Bench::new([group(check(), 1..=2), https.clone()]);
    bench.ill = vec![1];
    bench.seconds(20);
    assert_eq!(bench.asked[&2], 4, "asked once for both");
    for port in [80, 443] {
        assert_eq!(bench.monitor.view(bench.now).share(&frontend(port), address(1)), 0);
    }
    // On a port of its own, whatever ports the frontends lead to.
    let own = |mut group: Group, port: u16| {
        group.members.iter_mut().for_each(|member| member.address.set_port(port));
        Group { check: HealthCheck { port: Some(9090), ..check() }.into(), ..group }
    };
    let mut bench = Bench::new([own(group(check(), 1..=2), 8080), own(https, 8443)]);
    let (due, _) = bench.monitor.poll(bench.now + Duration::from_secs(5), usize::MAX);
    assert_eq!(due.iter().map(|due| due.address.port()).collect::<Vec<_>>(), [9090; 2]);
    bench.seconds(1);
}

#[test]
fn results_nobody_waits_for_make_no_difference() {
    let mut bench = Bench::new([group(HealthCheck { unhealthy_after: 1, ..check() }, 1..=2)]);
    let later = bench.now + Duration::from_secs(5);
    let (due, _) = bench.monitor.poll(later, 1);
    let ticket = due[0].ticket;
    let failed = || Outcome::Failed(failure());
    assert!(bench.monitor.result(ticket, failed(), later).is_some());
    let version = bench.monitor.version();
    assert_eq!(bench.monitor.result(ticket, failed(), later), None, "twice");
    bench.monitor.set([], later);
    assert_eq!(bench.monitor.result(ticket, failed(), later), None, "gone");
    assert_eq!(bench.monitor.version(), version + 1);
}

#[test]
fn a_check_without_a_result_is_made_again() {
    let mut bench = Bench::new([group(check(), [1])]);
    let start = bench.now + Duration::from_secs(5);
    let (lost, _) = bench.monitor.poll(start, 1);
    assert_eq!(bench.monitor.poll(start + Duration::from_secs(5), 1).0, []);
    let again = start + check().timeout + GRACE;
    assert_eq!(bench.monitor.next_due(), Some(again));
    let (due, _) = bench.monitor.poll(again, 1);
    assert_ne!(due[0].ticket, lost[0].ticket);
    assert_eq!(bench.monitor.result(lost[0].ticket, Outcome::Healthy, again), None);
    assert_eq!(bench.monitor.next_due(), Some(again + check().timeout + GRACE), "the second one is under way");
}

#[test]
fn what_is_too_much_at_once_stays_due() {
    let mut bench = Bench::new([group(check(), 1..=5)]);
    let later = bench.now + Duration::from_secs(5);
    let mut asked: Vec<SocketAddr> = Vec::new();
    for expected in [2, 2, 1, 0] {
        let (due, _) = bench.monitor.poll(later, 2);
        assert_eq!(due.len(), expected);
        asked.extend(due.iter().map(|due| due.address));
    }
    asked.sort_unstable();
    assert_eq!(asked, (1..=5).map(address).collect::<Vec<_>>());
}

#[test]
fn this_hosts_own_trouble_is_not_the_backends() {
    let mut bench = Bench::new([group(HealthCheck { unhealthy_after: 1, ..check() }, [1])]);
    for n in 1..10 {
        let now = bench.now + Duration::from_secs(5 * n);
        for due in bench.monitor.poll(now, usize::MAX).0 {
            let change = bench.monitor.result(due.ticket, Outcome::NotDone("no descriptor".to_owned()), now);
            bench.tell(change);
        }
    }
    assert_eq!(bench.told, [(1, "not checked")], "told once");
    assert_eq!((bench.health(1).state, bench.health(1).share), (State::Active, 255));
    assert_eq!(bench.health(1).not_checked.as_deref(), Some("no descriptor"));
    bench.now += Duration::from_secs(50);
    bench.poll();
    assert_eq!(bench.health(1).not_checked, None);
}

#[test]
fn clients_failures_eject_once_a_check_confirms_them() {
    let mut bench = Bench::new([group(check(), 1..=10)]);
    bench.seconds(5);
    bench.asked.clear();
    bench.clients_fail(1);
    assert_eq!(bench.asked.len(), 1, "asked at once");
    assert_eq!((bench.told.as_slice(), bench.shares()), (&[][..], vec![255; 10]), "the check says otherwise");
    bench.seconds(2);
    bench.ill = vec![1];
    bench.clients_fail(1);
    assert_eq!(bench.told, [(1, "ejected")]);
    assert!(bench.health(1).is_ejected && bench.health(1).share == 0);
    bench.ill.clear();
    bench.seconds(11);
    assert_eq!(bench.told.last(), Some(&(1, "warming")));
    assert!(!bench.health(1).is_ejected);
}

#[test]
fn where_it_is_not_asked_for_clients_failures_are_ignored() {
    let mut bench = Bench::new([group(HealthCheck { passive_ejection: false, ..check() }, 1..=10)]);
    bench.ill = vec![1];
    bench.clients_fail(1);
    assert!(bench.asked.is_empty());
}

#[test]
fn at_most_thirty_per_cent_are_ejected() {
    let mut bench = Bench::new([group(check(), 1..=10)]);
    bench.ill = (1..=10).collect();
    for last in 1..=4 {
        bench.clients_fail(last);
    }
    assert_eq!(bench.told, [(1, "ejected"), (2, "ejected"), (3, "ejected"), (4, "not ejected")]);
    let mut two = Bench::new([group(check(), 1..=2)]);
    two.ill = vec![1, 2];
    two.clients_fail(1);
    two.clients_fail(2);
    assert_eq!(two.told, [(1, "ejected"), (2, "not ejected")], "one of few, but not the last");
    let mut alone = Bench::new([group(check(), [1])]);
    alone.ill = vec![1];
    alone.clients_fail(1);
    assert_eq!(alone.told, [(1, "not ejected")]);
}

#[test]
fn the_bound_holds_in_every_frontend_of_a_backend() {
    // Backend 1 is one of ten in one frontend, and the only other one of a second frontend.
    let second = Group { frontend: frontend(443), ..group(check(), 1..=2) };
    let mut bench = Bench::new([group(check(), 1..=10), second]);
    bench.ill = vec![1, 2];
    bench.clients_fail(2);
    bench.clients_fail(1);
    assert_eq!(bench.told, [(2, "ejected"), (1, "not ejected")]);
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Ill(u8),
    Well(u8),
    ClientsFail(u8),
    Keep(Vec<u8>),
}

fn some_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u64..10_000).prop_map(Step::Pass),
        4 => (1u8..12).prop_map(Step::Ill),
        2 => (1u8..12).prop_map(Step::Well),
        4 => (1u8..12).prop_map(Step::ClientsFail),
        1 => prop::collection::btree_set(1u8..12, 1..11).prop_map(|set| Step::Keep(set.into_iter().collect())),
    ];
    prop::collection::vec(step, 1..60)
}

fn take(bench: &mut Bench, step: Step, check: &HealthCheck) {
    match step {
        Step::Pass(milliseconds) => bench.pass(Duration::from_millis(milliseconds)),
        Step::Ill(last) => bench.ill.push(last),
        Step::Well(last) => bench.ill.retain(|ill| *ill != last),
        Step::ClientsFail(last) => bench.clients_fail(last),
        Step::Keep(members) => bench.monitor.set([group(check.clone(), members)], bench.now),
    }
}

proptest! {
    /// Whatever happens, somebody takes all that falls to it.
    #[test]
    fn the_last_is_never_taken_out(steps in some_steps()) {
        let mut bench = Bench::new([group(check(), 1..=11)]);
        for step in steps {
            take(&mut bench, step, &check());
            prop_assert!(bench.shares().contains(&255), "{:?}", bench.shares());
        }
    }

    /// With checks in a row out of the way, only as many are out as may be ejected.
    #[test]
    fn clients_failures_eject_no_more_than_their_bound(steps in some_steps(), backends in 1u8..12) {
        let check = HealthCheck { unhealthy_after: 100, interval: Duration::from_secs(60), ..check() };
        let mut bench = Bench::new([group(check.clone(), 1..=backends)]);
        // Each has been well once: new ones are asked again quickly.
        bench.seconds(2);
        for step in steps.into_iter().filter(|step| !matches!(step, Step::Keep(_))) {
            take(&mut bench, step, &check);
            let out = bench.shares().iter().filter(|share| **share == 0).count();
            prop_assert!(out <= passive::most_ejected(backends.into()));
        }
    }

    /// While a backend comes back and the others are active, its share only rises.
    #[test]
    fn a_share_only_rises_while_nothing_fails(milliseconds in prop::collection::vec(0u64..3000, 1..40)) {
        let mut bench = Bench::new([group(check(), 1..=3)]);
        bench.ill = vec![1];
        bench.seconds(20);
        bench.ill.clear();
        let mut before = bench.shares()[0];
        for milliseconds in milliseconds {
            bench.pass(Duration::from_millis(milliseconds));
            let share = bench.shares()[0];
            prop_assert!(share >= before);
            before = share;
        }
    }

    /// What is due next is done by polling then: nobody waits for what never comes, or spins.
    #[test]
    fn polling_when_due_makes_progress(steps in some_steps()) {
        let mut bench = Bench::new([group(check(), 1..=11)]);
        for step in steps {
            take(&mut bench, step, &check());
            if let Some(next) = bench.monitor.next_due() {
                let now = next.max(bench.now);
                bench.now = now;
                bench.poll();
                prop_assert!(bench.monitor.next_due().is_none_or(|next| next > now));
            }
        }
    }

    /// A view is the same as long as the version is, and only time makes shares differ in between.
    #[test]
    fn a_view_changes_only_with_its_version(steps in some_steps()) {
        let mut bench = Bench::new([group(HealthCheck { slow_start: Duration::ZERO, ..check() }, 1..=11)]);
        let mut seen = (bench.monitor.version(), bench.monitor.view(bench.now));
        for step in steps {
            take(&mut bench, step, &HealthCheck { slow_start: Duration::ZERO, ..check() });
            let now = (bench.monitor.version(), bench.monitor.view(bench.now));
            prop_assert!(now.0 != seen.0 || now.1 == seen.1);
            seen = now;
        }
    }
}
