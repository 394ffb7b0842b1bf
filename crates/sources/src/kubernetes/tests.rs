//! What becomes of news.

use serde_json::{Value, json};

use super::resource::Resource;
use super::*;
use crate::catalog::{MASS_REMOVAL_DELAY, REMOVAL_DELAY};
use crate::manifest;

/// A gatherer of these kinds, with time of its own.
struct Source {
    gatherer: Gatherer,
}

impl Source {
    fn new(kinds: &[Kind]) -> Self {
        let options = Options { kinds: kinds.iter().copied().collect(), observe: true, ..Options::new("lb") };
        let mut gatherer = Gatherer::new(&options, Instant::now());
        for kind in kinds {
            gatherer.add(*kind, Arc::default());
        }
        Self { gatherer }
    }

    /// Take in news `at` milliseconds after the start.
    fn take_in(&mut self, at: u64, news: Vec<News>) -> Update {
        self.gatherer.take_in_at(news.into_iter(), Duration::from_millis(at));
        self.gatherer.update()
    }

    /// A list of a kind that finds these objects.
    fn list(&mut self, at: u64, kind: Kind, objects: &[Value]) -> Update {
        let resource = Resource::of(kind, "lb");
        let paths = objects.iter().filter_map(|object| resource.path_of(object)).collect();
        let mut news: Vec<News> = objects.iter().map(|object| seen(kind, object)).collect();
        news.push(News::Listed { kind, paths, began: Duration::from_millis(at) });
        self.take_in(at, news)
    }
}

fn seen(kind: Kind, object: &Value) -> News {
    let path = Resource::of(kind, "lb").path_of(object).unwrap();
    let seen = Observation::of(kind, object).map(Box::new);
    News::Object { path, parsed: Box::new(manifest::of_api(kind, object)), seen, noticed: Some(Instant::now()) }
}

fn deleted(kind: Kind, object: &Value) -> News {
    News::Deleted { path: Resource::of(kind, "lb").path_of(object).unwrap(), noticed: Instant::now() }
}

fn service(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "managedFields": [{"manager": "x"}]},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
    })
}

fn services(count: usize) -> Vec<Value> {
    (0..count).map(|n| service(&format!("s{n}"))).collect()
}

fn pool(namespace: &str, name: &str, range: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"addresses": [range]}})
}

fn advertisement(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "lb"}, "spec": {"ipAddressPools": ["lan"]}})
}

fn reasons(update: &Update) -> Vec<&str> {
    update.diagnostics.iter().map(|diagnostic| diagnostic.reason).collect()
}

fn millis(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap()
}

#[test]
fn nothing_is_readable_before_every_kind_has_been_listed() {
    let mut source = Source::new(&[Kind::Service, Kind::IpAddressPool]);
    let update = source.list(0, Kind::Service, &services(2));
    assert!(!update.readable && update.world.services.is_empty());
    let update = source.list(10, Kind::IpAddressPool, &[pool("lb", "a", "10.0.0.0/24")]);
    assert!(update.readable);
    assert_eq!((update.world.services.len(), update.world.pools.len()), (2, 1));
    assert_eq!(update.world.system_namespace.as_deref(), Some("lb"));
    assert!(!update.world.node_address_use.permits("lb"), "nobody may unless told");
}

#[test]
fn a_kind_that_is_not_installed_has_no_objects() {
    let mut source = Source::new(&[Kind::Service, Kind::IpAddressPool]);
    source.list(0, Kind::Service, &services(1));
    let update = source.take_in(1, vec![News::NotServed { kind: Kind::IpAddressPool }]);
    assert!(update.readable && update.diagnostics.is_empty());
    let update = source.list(2, Kind::IpAddressPool, &[pool("lb", "a", "10.0.0.0/24")]);
    assert_eq!(update.world.pools.len(), 1);
}

#[test]
fn pools_that_vanish_with_their_definition_stay_in_force() {
    let mut source = Source::new(&[Kind::IpAddressPool]);
    let pools = [pool("lb", "a", "10.0.0.0/24"), pool("lb", "b", "10.0.1.0/24")];
    source.list(0, Kind::IpAddressPool, &pools);
    let gone = pools.iter().map(|pool| deleted(Kind::IpAddressPool, pool)).collect();
    let update = source.take_in(10, gone);
    assert_eq!((update.world.pools.len(), reasons(&update)), (2, vec!["mass_removal"]));
    let update = source.take_in(20_000, vec![News::NotServed { kind: Kind::IpAddressPool }]);
    assert_eq!(update.world.pools.len(), 2, "nobody has confirmed that there are none");
    assert!(reasons(&update).contains(&"source_unreadable") && !update.readable);
    for at in [30_000, 40_000] {
        let update = source.list(at, Kind::IpAddressPool, &[]);
        assert_eq!((update.world.pools.len(), update.readable), (2, true), "the definition is back, and nothing else");
        assert_eq!(reasons(&update), ["mass_removal"]);
        assert!(update.diagnostics[0].message.contains("with their definition"), "{}", update.diagnostics[0]);
    }
    let later = Duration::from_millis(40_000);
    assert_eq!(source.gatherer.next_recheck_at(later), None, "no list says more");
    let update = source.take_in(50_000, vec![seen(Kind::IpAddressPool, &pools[0])]);
    assert_eq!(update.world.pools.len(), 2, "one pool is back");
    let confirmed = 50_000 + millis(MASS_REMOVAL_DELAY);
    assert_eq!(source.gatherer.next_recheck_at(Duration::from_millis(50_000)), Some(MASS_REMOVAL_DELAY));
    let update = source.list(confirmed - 1, Kind::IpAddressPool, &pools[..1]);
    assert_eq!(update.world.pools.len(), 2, "the other may follow");
    let update = source.list(confirmed, Kind::IpAddressPool, &pools[..1]);
    assert_eq!((update.world.pools.len(), reasons(&update)), (1, vec![]), "it does not");
}

#[test]
fn what_is_put_back_after_its_definition_can_be_deleted_like_anything() {
    let mut source = Source::new(&[Kind::L2Advertisement]);
    let all = [advertisement("a"), advertisement("b")];
    source.list(0, Kind::L2Advertisement, &all);
    // Nobody has told of deletions: the watch had ended before.
    let update = source.take_in(10_000, vec![News::NotServed { kind: Kind::L2Advertisement }]);
    assert_eq!(update.world.l2_advertisements.len(), 2);
    assert_eq!(source.list(20_000, Kind::L2Advertisement, &[]).world.l2_advertisements.len(), 2);
    source.take_in(30_000, all.iter().map(|one| seen(Kind::L2Advertisement, one)).collect());
    let complete = 30_000 + millis(MASS_REMOVAL_DELAY);
    let update = source.list(complete, Kind::L2Advertisement, &all);
    assert_eq!((update.world.l2_advertisements.len(), reasons(&update)), (2, vec![]));
    assert_eq!(source.gatherer.next_recheck_at(Duration::from_millis(complete)), None, "all is as it was");
    source.take_in(50_000, all.iter().map(|one| deleted(Kind::L2Advertisement, one)).collect());
    let update = source.list(50_000 + millis(MASS_REMOVAL_DELAY), Kind::L2Advertisement, &[]);
    assert!(update.world.l2_advertisements.is_empty() && update.diagnostics.is_empty(), "the definition is there");
}

#[test]
fn what_is_put_back_and_vanishes_with_its_definition_again_stays_in_force() {
    let mut source = Source::new(&[Kind::L2Advertisement]);
    let all = [advertisement("a"), advertisement("b")];
    source.list(0, Kind::L2Advertisement, &all);
    source.take_in(10_000, vec![News::NotServed { kind: Kind::L2Advertisement }]);
    // It returns and goes before all of that is taken in.
    source.take_in(20_000, vec![seen(Kind::L2Advertisement, &all[0]), News::NotServed { kind: Kind::L2Advertisement }]);
    let update = source.list(30_000, Kind::L2Advertisement, &[]);
    assert_eq!((update.world.l2_advertisements.len(), reasons(&update)), (2, vec!["mass_removal"]));
    let update = source.list(40_000, Kind::L2Advertisement, &[]);
    assert_eq!(update.world.l2_advertisements.len(), 2);
}

#[test]
fn pools_that_are_put_back_one_by_one_are_not_all_there_at_first() {
    for is_served in [true, false] {
        let mut source = Source::new(&[Kind::IpAddressPool]);
        if is_served {
            source.list(0, Kind::IpAddressPool, &[]);
        } else {
            source.take_in(0, vec![News::NotServed { kind: Kind::IpAddressPool }]);
        }
        let pools = [pool("lb", "a", "10.0.0.0/24"), pool("lb", "b", "10.0.1.0/24")];
        let update = source.take_in(5000, vec![seen(Kind::IpAddressPool, &pools[0])]);
        assert_eq!((update.world.pools.len(), update.world.gaps.pools), (1, true), "more may come");
        let update = source.take_in(6000, vec![seen(Kind::IpAddressPool, &pools[1])]);
        assert_eq!((update.world.pools.len(), update.world.gaps.pools), (2, true), "and more");
        let complete = 5000 + millis(MASS_REMOVAL_DELAY);
        let recheck = source.gatherer.next_recheck_at(Duration::from_millis(6000));
        assert_eq!(recheck.map(millis), Some(complete - 6000));
        assert!(source.list(complete - 1, Kind::IpAddressPool, &pools).world.gaps.pools, "a list from before");
        let news = pools.iter().map(|pool| seen(Kind::IpAddressPool, pool));
        let paths = pools.iter().filter_map(|pool| Resource::of(Kind::IpAddressPool, "lb").path_of(pool)).collect();
        let listed = News::Listed { kind: Kind::IpAddressPool, paths, began: Duration::from_millis(complete) };
        let is_told = source.gatherer.take_in_at(news.chain([listed]), Duration::from_millis(complete));
        assert!(is_told && !source.gatherer.update().world.gaps.pools, "that is all");
        assert_eq!(source.gatherer.next_recheck_at(Duration::from_millis(complete)), None);
    }
}

#[test]
fn pools_that_are_there_at_the_start_are_all_there() {
    let mut source = Source::new(&[Kind::IpAddressPool, Kind::Service]);
    let all = [pool("lb", "a", "10.0.0.0/24"), pool("lb", "b", "10.0.1.0/24")];
    source.list(0, Kind::IpAddressPool, &all);
    let update = source.list(10, Kind::Service, &services(1));
    assert_eq!((update.world.pools.len(), update.world.gaps.pools), (2, false));
    let update = source.take_in(20, vec![seen(Kind::IpAddressPool, &pool("lb", "c", "10.0.2.0/24"))]);
    assert_eq!((update.world.pools.len(), update.world.gaps.pools), (3, false), "nor is one more a return");
}

#[test]
fn an_advertisement_that_was_never_readable_is_a_gap() {
    let mut source = Source::new(&[Kind::L2Advertisement]);
    let mut twice = advertisement("a");
    twice["spec"] = json!({"ipAddressPools": ["lan", "lan"]});
    assert!(source.list(0, Kind::L2Advertisement, &[twice]).world.gaps.advertisements);
    let update = source.take_in(10, vec![seen(Kind::L2Advertisement, &advertisement("a"))]);
    assert_eq!((update.world.l2_advertisements.len(), update.world.gaps.advertisements), (1, false));
}

#[test]
fn a_deletion_event_removes_at_once() {
    let mut source = Source::new(&[Kind::Service]);
    source.list(0, Kind::Service, &services(5));
    let update = source.take_in(10, vec![deleted(Kind::Service, &service("s1"))]);
    assert_eq!(update.world.services.len(), 4);
    assert!(update.diagnostics.is_empty());
}

#[test]
fn an_absence_found_by_a_list_needs_a_second_one() {
    let mut source = Source::new(&[Kind::Service]);
    let all = services(5);
    source.list(0, Kind::Service, &all);
    assert_eq!(source.list(1000, Kind::Service, &all[1..]).world.services.len(), 5);
    let confirmed = 1000 + millis(REMOVAL_DELAY);
    assert_eq!(source.take_in(confirmed, Vec::new()).world.services.len(), 5, "time alone confirms nothing");
    assert_eq!(source.list(confirmed - 1, Kind::Service, &all[1..]).world.services.len(), 5, "too early");
    assert_eq!(source.list(confirmed, Kind::Service, &all[1..]).world.services.len(), 4);
}

#[test]
fn what_a_second_list_finds_was_never_gone() {
    let mut source = Source::new(&[Kind::Service]);
    let all = services(5);
    source.list(0, Kind::Service, &all);
    source.list(1000, Kind::Service, &all[1..]);
    source.list(2000, Kind::Service, &all);
    assert_eq!(source.list(9000, Kind::Service, &all[1..]).world.services.len(), 5, "it is missed anew");
}

#[test]
fn an_empty_list_alerts_and_has_to_be_confirmed_later() {
    let mut source = Source::new(&[Kind::Service, Kind::Node]);
    source.list(0, Kind::Node, &[]);
    source.list(0, Kind::Service, &services(5));
    let update = source.list(1000, Kind::Service, &[]);
    assert_eq!((update.world.services.len(), reasons(&update)), (5, vec!["mass_removal"]));
    let soon = 1000 + millis(REMOVAL_DELAY);
    assert_eq!(source.list(soon, Kind::Service, &[]).world.services.len(), 5);
    let late = 1000 + millis(MASS_REMOVAL_DELAY);
    assert_eq!(source.list(late, Kind::Node, &[]).world.services.len(), 5, "another kind's list says nothing");
    let update = source.list(late, Kind::Service, &[]);
    assert!(update.world.services.is_empty() && update.diagnostics.is_empty());
}

#[test]
fn deleting_more_than_half_one_by_one_waits_for_a_list() {
    let mut source = Source::new(&[Kind::Service]);
    let all = services(10);
    source.list(0, Kind::Service, &all);
    let mut left = 10;
    for (n, service) in all.iter().enumerate() {
        let update = source.take_in(1000 + n as u64, vec![deleted(Kind::Service, service)]);
        left = update.world.services.len();
    }
    assert_eq!(left, 5, "as far as nobody would call it all at once");
    assert!(source.gatherer.next_recheck_at(Duration::from_millis(1010)).is_some(), "a list is asked for");
    assert_eq!(source.list(1020, Kind::Service, &[]).world.services.len(), 0, "and confirms at once what was told");
}

#[test]
fn what_is_observed_goes_with_the_object() {
    let mut source = Source::new(&[Kind::Service]);
    let all = services(3);
    let update = source.list(0, Kind::Service, &all);
    assert_eq!(update.observed.len(), 3);
    let mut changed = all[0].clone();
    changed["metadata"]["resourceVersion"] = json!("2");
    let update = source.take_in(10, vec![seen(Kind::Service, &changed)]);
    assert_eq!(update.observed.values().filter(|seen| seen.version == "2").count(), 1, "though the World is the same");
    let update = source.take_in(20, vec![deleted(Kind::Service, &all[0])]);
    assert_eq!(update.observed.len(), 2);
}

#[test]
fn slow_deletions_are_no_mass() {
    let mut source = Source::new(&[Kind::Service]);
    let all = services(10);
    source.list(0, Kind::Service, &all);
    for (n, service) in all.iter().enumerate().take(8) {
        let update = source.take_in(1000 + 3000 * n as u64, vec![deleted(Kind::Service, service)]);
        assert_eq!(update.world.services.len(), 9 - n);
    }
}

#[test]
fn a_bad_object_keeps_its_last_good_version() {
    let mut source = Source::new(&[Kind::Service]);
    let (mut web, other) = (service("web"), service("other"));
    source.list(0, Kind::Service, &[web.clone(), other]);
    let before = source.gatherer.update().world;
    web["spec"]["ports"] = json!([{"port": 0}]);
    let update = source.take_in(10, vec![seen(Kind::Service, &web)]);
    assert_eq!(update.world.services, before.services);
    let [diagnostic] = &*update.diagnostics else { panic!("{:?}", update.diagnostics) };
    assert_eq!((diagnostic.kind.as_str(), diagnostic.name.as_str()), ("Service", "shop/web"));
    assert_eq!(diagnostic.field, "spec.ports[0].port");
    assert_eq!(diagnostic.location.file.as_os_str(), "", "it is in no file");
}

#[test]
fn configuration_elsewhere_is_refused_with_a_reason() {
    let mut source = Source::new(&[Kind::IpAddressPool]);
    let pools = [pool("lb", "a", "10.0.0.0/24"), pool("shop", "b", "10.0.1.0/24"), pool("shop", "c", "10.0.2.0/24")];
    let update = source.list(0, Kind::IpAddressPool, &pools);
    let plan = evenkeel_plan::plan(&update.world, &evenkeel_plan::Memory::default());
    let found: Vec<String> = plan.diagnostics().map(|found| format!("{} {}", found.reason, found.name)).collect();
    assert_eq!(found, ["outside_system_namespace shop/b", "outside_system_namespace shop/c"]);
}

#[test]
fn a_source_that_fails_freezes_the_world_and_says_so_once() {
    let mut source = Source::new(&[Kind::Service, Kind::Node]);
    source.list(0, Kind::Node, &[]);
    source.list(0, Kind::Service, &services(2));
    let failed = |kind| News::Failed { kind, error: "refused".to_owned() };
    let update = source.take_in(10, vec![failed(Kind::Service), failed(Kind::Node)]);
    assert_eq!((update.world.services.len(), update.readable), (2, false));
    assert_eq!(reasons(&update), ["source_unreadable"]);
    assert!(update.diagnostics[0].message.contains("Service, Node"), "{}", update.diagnostics[0]);
    let update = source.take_in(20, [Kind::Service, Kind::Node].map(|kind| News::Recovered { kind }).into());
    assert!(update.readable && update.diagnostics.is_empty());
}
