use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::memory::Memory;
use crate::selector::LabelSelector;
use crate::world::testing::{address, labels, pool, service, world};
use crate::world::{IpFamilyPolicy, Protocol, ServiceAllocation, TrafficPolicy};
use crate::{Plan, plan};

type Held = BTreeMap<ObjectName, Vec<IpAddr>>;

fn remembering(held: &Held) -> Memory {
    let holding = |addresses: &Vec<IpAddr>| Arc::new(Holding { addresses: addresses.clone(), sharing: None });
    let allocations = held.iter().map(|(name, addresses)| (name.clone(), holding(addresses))).collect();
    Memory { allocations, ..Memory::default() }
}

fn allocated(world: &World, held: &Held) -> Vec<String> {
    all_shown(&plan(world, &remembering(held)))
}

fn all_shown(plan: &Plan) -> Vec<String> {
    plan.services.values().map(|planned| shown(planned)).collect()
}

/// `name: addresses (pool) !reason`, what is absent left out.
fn shown(planned: &ServicePlan) -> String {
    let addresses: Vec<String> = planned.addresses.iter().map(ToString::to_string).collect();
    let pool = planned.pool.as_ref().map_or(String::new(), |pool| format!(" ({pool})"));
    let error = planned.error.as_ref().map_or(String::new(), |error| format!(" !{}", error.reason));
    format!("{}: {}{pool}{error}", planned.name, addresses.join(" "))
}

fn fresh(world: &World) -> Vec<String> {
    allocated(world, &Held::new())
}

fn holding(pairs: &[(&str, &str)]) -> Held {
    pairs.iter().map(|(name, at)| (ObjectName::new("default", *name), vec![address(at)])).collect()
}

fn wanting(name: &str, at: &str) -> Service {
    let mut service = service(name);
    service.requested.annotated_addresses = at.split(' ').map(address).collect();
    service
}

fn from_pool(name: &str, pool: &str) -> Service {
    let mut service = service(name);
    service.requested.pool = Some(pool.to_owned());
    service
}

pub(super) fn sharing(name: &str, key: &str, port: u16) -> Service {
    let mut service = service(name);
    service.sharing_key = Some(key.to_owned());
    service.ports[0].port = port;
    service
}

#[test]
fn addresses_are_given_in_order() {
    let world = world([service("a"), service("b")], [pool("p", &["10.0.0.1-10.0.0.9"])]);
    assert_eq!(fresh(&world), ["a: 10.0.0.1 (p)", "b: 10.0.0.2 (p)"]);
}

#[test]
fn what_is_not_a_load_balancer_gets_nothing() {
    let mut cluster_ip = service("a");
    cluster_ip.is_load_balancer = false;
    assert!(fresh(&world([cluster_ip], [pool("p", &["10.0.0.1/32"])])).is_empty());
}

#[test]
fn only_services_of_our_class_are_served() {
    let mut other = service("other");
    other.load_balancer_class = Some("example.com/lb".to_owned());
    let mut world = world([other, service("plain")], [pool("p", &["10.0.0.1-10.0.0.9"])]);
    let decided = plan(&world, &Memory::default());
    assert_eq!(all_shown(&decided), ["plain: 10.0.0.1 (p)"]);
    assert_eq!(decided.diagnostics().next().unwrap().reason, "other_load_balancer_class");
    world.load_balancer_class = Some("example.com/lb".to_owned());
    assert_eq!(fresh(&world), ["other: 10.0.0.1 (p)"]);
}

#[test]
fn pools_can_be_missing_exhausted_or_closed() {
    assert_eq!(fresh(&world([service("a")], [])), ["a:  !no_pool"]);
    let one = pool("p", &["10.0.0.1/32"]);
    assert_eq!(fresh(&world([service("a"), service("b")], [one.clone()])), ["a: 10.0.0.1 (p)", "b:  !pool_exhausted"]);
    let closed = IpAddressPool { auto_assign: false, ..one };
    assert_eq!(fresh(&world([service("a")], [closed.clone()])), ["a:  !no_pool"]);
    assert_eq!(fresh(&world([from_pool("a", "p")], [closed.clone()])), ["a: 10.0.0.1 (p)"]);
    assert_eq!(fresh(&world([wanting("a", "10.0.0.1")], [closed])), ["a: 10.0.0.1 (p)"]);
}

#[test]
fn buggy_addresses_are_left_out_on_demand() {
    let careful = IpAddressPool { avoid_buggy_ips: true, ..pool("p", &["10.0.0.254-10.0.1.1"]) };
    let services = [service("a"), service("b"), service("c")];
    assert_eq!(fresh(&world(services, [careful])), ["a: 10.0.0.254 (p)", "b: 10.0.1.1 (p)", "c:  !pool_exhausted"]);
}

#[test]
fn a_requested_address_is_given_or_refused_with_its_reason() {
    let pools = [pool("p", &["10.0.0.0/24"]), pool("q", &["10.0.1.0/24"])];
    let alone = |service| fresh(&world([service], pools.clone())).remove(0);
    assert_eq!(alone(wanting("a", "10.0.1.7")), "a: 10.0.1.7 (q)");
    assert_eq!(alone(wanting("a", "10.9.9.9")), "a:  !address_not_in_pool");
    let mut elsewhere = wanting("a", "10.0.1.7");
    elsewhere.requested.pool = Some("p".to_owned());
    assert_eq!(alone(elsewhere), "a:  !address_not_in_pool");
    let mut twice = wanting("a", "10.0.0.7");
    twice.requested.spec_address = Some(address("10.0.0.7"));
    assert_eq!(alone(twice), "a:  !conflicting_request");
    assert_eq!(alone(wanting("a", "10.0.0.7 10.0.0.8")), "a:  !conflicting_request");
    let mut six = wanting("a", "10.0.0.7");
    six.ip_families = vec![IpFamily::V6];
    assert_eq!(alone(six), "a:  !family_mismatch");
    let both = [wanting("a", "10.0.0.7"), wanting("b", "10.0.0.7")];
    assert_eq!(fresh(&world(both, pools.clone())), ["a: 10.0.0.7 (p)", "b:  !address_in_use"]);
}

#[test]
fn a_request_goes_before_services_that_take_anything() {
    let world = world([service("a"), wanting("b", "10.0.0.1")], [pool("p", &["10.0.0.1-10.0.0.2"])]);
    assert_eq!(fresh(&world), ["a: 10.0.0.2 (p)", "b: 10.0.0.1 (p)"]);
}

#[test]
fn a_requested_pool_is_used_or_named_in_the_refusal() {
    let pools = [pool("p", &["10.0.0.0/24"]), pool("q", &["10.0.1.0/24"])];
    assert_eq!(fresh(&world([from_pool("a", "q")], pools.clone())), ["a: 10.0.1.0 (q)"]);
    assert_eq!(fresh(&world([from_pool("a", "r")], pools)), ["a:  !pool_not_found"]);
}

#[test]
fn held_addresses_are_loaded_before_any_is_given_out() {
    let pools = [pool("p", &["10.0.0.1-10.0.0.3"])];
    let mut by_status = service("m");
    by_status.status_addresses = vec![address("10.0.0.1")];
    let services = [service("a"), by_status, service("z"), wanting("b", "10.0.0.1")];
    assert_eq!(
        allocated(&world(services, pools), &holding(&[("z", "10.0.0.2")])),
        ["a: 10.0.0.3 (p)", "b:  !address_in_use", "m: 10.0.0.1 (p)", "z: 10.0.0.2 (p)"]
    );
}

#[test]
fn memory_goes_before_status() {
    let mut a = service("a");
    a.status_addresses = vec![address("10.0.0.1")];
    let world = world([a, service("b")], [pool("p", &["10.0.0.1-10.0.0.9"])]);
    assert_eq!(allocated(&world, &holding(&[("b", "10.0.0.1")])), ["a: 10.0.0.2 (p)", "b: 10.0.0.1 (p)"]);
}

#[test]
fn an_address_no_pool_has_any_more_is_replaced() {
    let world = world([service("a")], [pool("p", &["10.0.1.0/24"])]);
    assert_eq!(allocated(&world, &holding(&[("a", "10.0.0.5")])), ["a: 10.0.1.0 (p)"]);
}

#[test]
fn without_any_pool_held_addresses_are_kept() {
    let world = world([service("a"), service("b"), from_pool("c", "p")], []);
    assert_eq!(
        allocated(&world, &holding(&[("a", "10.0.0.5"), ("c", "10.0.0.6")])),
        ["a: 10.0.0.5", "b:  !no_pool", "c: 10.0.0.6"]
    );
}

#[test]
fn a_changed_request_is_followed_when_it_can_be_met() {
    let pools = [pool("p", &["10.0.0.1-10.0.0.9"]), pool("q", &["10.0.1.0/24"])];
    let held = holding(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]);
    let swapped = [wanting("a", "10.0.0.2"), wanting("b", "10.0.0.1")];
    assert_eq!(allocated(&world(swapped, pools.clone()), &held), ["a: 10.0.0.2 (p)", "b: 10.0.0.1 (p)"]);
    let moved = [from_pool("a", "q"), service("b")];
    assert_eq!(allocated(&world(moved, pools.clone()), &held), ["a: 10.0.1.0 (q)", "b: 10.0.0.2 (p)"]);
    let refused = [wanting("a", "10.9.9.9"), from_pool("b", "tpyo"), service("c"), wanting("d", "10.0.0.2")];
    assert_eq!(
        allocated(&world(refused, pools), &held),
        [
            "a: 10.0.0.1 (p) !address_not_in_pool",
            "b: 10.0.0.2 (p) !pool_not_found",
            "c: 10.0.0.3 (p)",
            "d:  !address_in_use",
        ],
        "clients keep the address they use until the new wish can be met"
    );
}

#[test]
fn a_request_that_cannot_be_read_keeps_what_is_held_and_gets_nothing() {
    let unread = |name: &str| {
        let mut service = service(name);
        service.requested.unread =
            Some(Unread { reason: "invalid_address", message: "`dhcp` is no address".to_owned() });
        service
    };
    let world = world([unread("a"), unread("b"), service("c")], [pool("p", &["10.0.0.0/24"])]);
    assert_eq!(
        allocated(&world, &holding(&[("a", "10.0.0.5")])),
        ["a: 10.0.0.5 (p) !invalid_address", "b:  !invalid_address", "c: 10.0.0.0 (p)"]
    );
    let decided = plan(&world, &Memory::default());
    assert_eq!(
        decided.services[&ObjectName::new("default", "b")].error.as_ref().unwrap().message,
        "`dhcp` is no address"
    );
    assert!(decided.diagnostics().all(|found| found.reason != "invalid_address"), "whoever read it has said so");
}

#[test]
fn a_contradictory_request_keeps_what_is_held() {
    let mut a = wanting("a", "10.0.0.7");
    a.requested.spec_address = Some(address("10.0.0.8"));
    let world = world([a], [pool("p", &["10.0.0.0/24"])]);
    assert_eq!(allocated(&world, &holding(&[("a", "10.0.0.5")])), ["a: 10.0.0.5 (p) !conflicting_request"]);
    assert_eq!(plan(&world, &Memory::default()).diagnostics().next().unwrap().severity, Severity::Error);
}

#[test]
fn services_share_under_one_key_with_disjoint_ports() {
    let one = [pool("p", &["10.0.0.1/32"])];
    let pair = |other: Service| fresh(&world([sharing("a", "k", 80), other], one.clone())).remove(1);
    assert_eq!(pair(sharing("b", "k", 443)), "b: 10.0.0.1 (p)");
    let mut udp = sharing("b", "k", 80);
    udp.ports[0].protocol = Protocol::Udp;
    assert_eq!(pair(udp), "b: 10.0.0.1 (p)", "the same port of another protocol is another port");
    assert_eq!(pair(sharing("b", "k", 80)), "b:  !pool_exhausted");
}

#[test]
fn sharing_refused_says_what_stands_against_it() {
    let refused = |change: fn(&mut Service), other: Service| {
        let mut first = sharing("a", "k", 80);
        let mut other = other;
        first.requested.spec_address = Some(address("10.0.0.1"));
        other.requested.spec_address = Some(address("10.0.0.1"));
        change(&mut first);
        let world = world([first, other], [pool("p", &["10.0.0.0/24"])]);
        let plan = plan(&world, &Memory::default());
        let error = plan.services[&ObjectName::new("default", "b")].error.clone().unwrap();
        format!("{}: {}", error.reason, error.message)
    };
    assert_eq!(refused(|_| {}, service("b")), "address_in_use: 10.0.0.1 is in use by default/a");
    assert_eq!(
        refused(|_| {}, sharing("b", "other", 443)),
        "sharing_conflict: 10.0.0.1 cannot be shared with default/a: the sharing keys differ"
    );
    assert_eq!(
        refused(|_| {}, sharing("b", "k", 80)),
        "sharing_conflict: 10.0.0.1 cannot be shared with default/a: a port is used by both"
    );
    let local = |service: &mut Service| {
        service.traffic_policy = TrafficPolicy::Local;
        service.selector = labels(&[("app", "a")]);
    };
    assert_eq!(
        refused(local, sharing("b", "k", 443)),
        "sharing_conflict: 10.0.0.1 cannot be shared with default/a: under externalTrafficPolicy Local both must \
         select the same pods"
    );
}

#[test]
fn under_local_the_same_selector_shares() {
    let local = |name: &str, port| {
        let mut service = sharing(name, "k", port);
        service.traffic_policy = TrafficPolicy::Local;
        service.selector = labels(&[("app", "a")]);
        service
    };
    let world = world([local("a", 80), local("b", 443)], [pool("p", &["10.0.0.1/32"])]);
    assert_eq!(fresh(&world), ["a: 10.0.0.1 (p)", "b: 10.0.0.1 (p)"]);
}

#[test]
fn reserved_pools_serve_those_they_are_for_by_priority() {
    let reserved =
        |name: &str, range: &str, allocation| IpAddressPool { allocation: Some(allocation), ..pool(name, &[range]) };
    let namespaces = vec!["default".to_owned()];
    let dmz = LabelSelector { match_labels: labels(&[("zone", "dmz")]), ..LabelSelector::default() };
    let last = ServiceAllocation { namespaces: namespaces.clone(), ..ServiceAllocation::default() };
    let second = ServiceAllocation { priority: 20, namespaces, ..ServiceAllocation::default() };
    let first = ServiceAllocation { priority: 10, namespace_selectors: vec![dmz], ..ServiceAllocation::default() };
    let pools = [
        pool("a-open", &["10.0.0.1/32"]),
        reserved("b-last", "10.0.1.1/32", last),
        reserved("c-second", "10.0.2.1/32", second),
        reserved("d-first", "10.0.3.1/32", first),
    ];
    let mut outside = service("outside");
    outside.name.namespace = "elsewhere".to_owned();
    let services = ["a", "b", "c", "d", "e"].map(service);
    let mut world = world(services.into_iter().chain([outside]), pools);
    world.namespaces.insert("default".to_owned(), labels(&[("zone", "dmz")]).into());
    assert_eq!(
        fresh(&world),
        [
            "a: 10.0.3.1 (d-first)",
            "b: 10.0.2.1 (c-second)",
            "c: 10.0.1.1 (b-last)",
            "d: 10.0.0.1 (a-open)",
            "e:  !pool_exhausted",
            "outside:  !pool_exhausted",
        ]
    );
    let mut asks = from_pool("asks", "c-second");
    asks.name.namespace = "elsewhere".to_owned();
    world.services = [(asks.name.clone(), std::sync::Arc::new(asks))].into_iter().collect();
    assert_eq!(fresh(&world), ["asks:  !pool_not_allowed"]);
}

#[test]
fn reserved_pools_go_before_open_ones_also_with_one_family() {
    let reserved = IpAddressPool {
        allocation: Some(ServiceAllocation { namespaces: vec!["default".to_owned()], ..ServiceAllocation::default() }),
        ..pool("reserved", &["10.0.1.0/24"])
    };
    let open = pool("open", &["10.0.0.0/24", "2001:db8::/64"]);
    let prefers = Service { ip_family_policy: IpFamilyPolicy::PreferDualStack, ..service("a") };
    assert_eq!(fresh(&world([prefers], [open, reserved])), ["a: 10.0.1.0 (reserved)"]);
}

#[test]
fn a_namespace_has_its_name_as_a_label() {
    let selector = LabelSelector {
        match_labels: labels(&[("kubernetes.io/metadata.name", "default")]),
        ..LabelSelector::default()
    };
    let allocation = ServiceAllocation { namespace_selectors: vec![selector], ..ServiceAllocation::default() };
    let reserved = IpAddressPool { allocation: Some(allocation), ..pool("p", &["10.0.1.0/24"]) };
    assert_eq!(fresh(&world([service("a")], [reserved])), ["a: 10.0.1.0 (p)"]);
}

#[test]
fn overlapping_pools_are_reported_and_the_later_is_not_used() {
    let world = world(
        [from_pool("a", "q"), service("b")],
        [pool("p", &["10.0.0.1-10.0.0.9"]), pool("q", &["10.0.1.0/24", "10.0.0.9-10.0.0.20"])],
    );
    let plan = plan(&world, &Memory::default());
    assert_eq!(all_shown(&plan), ["a:  !pool_unusable", "b: 10.0.0.1 (p)"]);
    let diagnostic = plan.diagnostics().next().unwrap();
    assert_eq!((diagnostic.severity, diagnostic.reason), (Severity::Error, "pool_overlap"));
    assert_eq!((diagnostic.name.as_str(), diagnostic.field.as_str()), ("metallb-system/q", "spec.addresses[1]"));
    assert!(diagnostic.message.contains("`p`") && diagnostic.message.contains("`q`"), "{}", diagnostic.message);
}

#[test]
fn a_pool_that_clashes_takes_no_held_address_away() {
    let pools = [pool("a-new", &["10.0.1.0-10.0.1.9"]), pool("old", &["10.0.1.0/24"])];
    let world = world([service("inside"), service("outside"), service("z")], pools);
    assert_eq!(
        allocated(&world, &holding(&[("inside", "10.0.1.5"), ("outside", "10.0.1.50")])),
        ["inside: 10.0.1.5 (a-new)", "outside: 10.0.1.50 (old)", "z: 10.0.1.0 (a-new)"]
    );
}

#[test]
fn families_follow_the_policy() {
    let four = pool("four", &["10.0.0.1-10.0.0.9"]);
    let six = pool("six", &["2001:db8::1-2001:db8::9"]);
    let both = pool("both", &["10.0.1.1/32", "2001:db8:1::1-2001:db8:1::9"]);
    let of = |policy, families: &[IpFamily], pools: &[&IpAddressPool]| {
        let mut service = service("a");
        (service.ip_family_policy, service.ip_families) = (policy, families.to_vec());
        fresh(&world([service], pools.iter().map(|pool| (*pool).clone()))).remove(0)
    };
    use IpFamily::V6;
    use IpFamilyPolicy::{PreferDualStack, RequireDualStack, SingleStack};
    assert_eq!(of(SingleStack, &[], &[&both]), "a: 10.0.1.1 (both)");
    assert_eq!(of(SingleStack, &[], &[&six]), "a: 2001:db8::1 (six)");
    assert_eq!(of(SingleStack, &[V6], &[&both]), "a: 2001:db8:1::1 (both)");
    assert_eq!(of(SingleStack, &[V6], &[&four]), "a:  !family_not_in_pool");
    assert_eq!(of(RequireDualStack, &[V6], &[&four, &six, &both]), "a: 2001:db8:1::1 10.0.1.1 (both)");
    assert_eq!(of(RequireDualStack, &[], &[&four, &six]), "a:  !family_not_in_pool", "both are from one pool");
    assert_eq!(of(PreferDualStack, &[], &[&six, &both]), "a: 10.0.1.1 2001:db8:1::1 (both)");
    assert_eq!(of(PreferDualStack, &[], &[&six]), "a: 2001:db8::1 (six)");
}

#[test]
fn the_second_family_is_added_to_what_is_held_and_given_up_with_the_policy() {
    let both = pool("both", &["10.0.0.1-10.0.0.9", "2001:db8::1-2001:db8::9"]);
    let mut a = service("a");
    a.ip_family_policy = IpFamilyPolicy::PreferDualStack;
    let dual = world([a], [both.clone()]);
    assert_eq!(allocated(&dual, &holding(&[("a", "10.0.0.5")])), ["a: 10.0.0.5 2001:db8::1 (both)"]);
    let single = world([service("a")], [both]);
    let held = [(ObjectName::new("default", "a"), vec![address("10.0.0.5"), address("2001:db8::7")])].into();
    assert_eq!(allocated(&single, &held), ["a: 10.0.0.5 (both)"]);
}

#[test]
fn a_request_for_both_families_gets_both() {
    let both = pool("both", &["10.0.0.0/24", "2001:db8::/64"]);
    let under = |policy, wanted: &str| {
        let service = Service { ip_family_policy: policy, ..wanting("a", wanted) };
        fresh(&world([service], [both.clone()])).remove(0)
    };
    let two = "2001:db8::5 10.0.0.5";
    assert_eq!(under(IpFamilyPolicy::RequireDualStack, two), "a: 2001:db8::5 10.0.0.5 (both)");
    assert_eq!(under(IpFamilyPolicy::PreferDualStack, two), "a: 2001:db8::5 10.0.0.5 (both)");
    assert_eq!(under(IpFamilyPolicy::SingleStack, two), "a:  !family_mismatch");
    assert_eq!(under(IpFamilyPolicy::RequireDualStack, "10.0.0.5"), "a:  !family_mismatch");
}

#[test]
fn a_huge_pool_is_not_walked() {
    let world = world((0..500).map(|n| service(&format!("s{n}"))), [pool("p", &["2001:db8::/32"])]);
    let given = fresh(&world);
    assert_eq!(given.len(), 500);
    assert!(given[499].contains("2001:db8::1f3"), "{}", given[499]);
}

prop_compose! {
    /// A service that may ask for an address or a pool, share, hold something by status, or be `Local`.
    fn any_service()(
        n in 0u8..12, wish in 0u8..6, last in 0u8..24, key in 0u8..4, port in 1u16..4, local in any::<bool>(),
        status in proptest::option::of(0u8..24),
    ) -> Service {
        let at = |last| address(&format!("10.0.0.{last}"));
        let mut service = service(&format!("s{n:02}"));
        match wish {
            0 => service.requested.spec_address = Some(at(last)),
            1 => service.requested.annotated_addresses = vec![at(last)],
            2 => service.requested.pool = Some(if last % 2 == 0 { "p" } else { "q" }.to_owned()),
            _ => {}
        }
        service.sharing_key = (key < 2).then(|| format!("key-{key}"));
        service.ports[0].port = port;
        if local {
            service.traffic_policy = TrafficPolicy::Local;
            service.selector = labels(&[("app", &n.to_string())]);
        }
        service.status_addresses = status.map(at).into_iter().collect();
        service
    }
}

prop_compose! {
    fn any_world()(
        services in proptest::collection::vec(any_service(), 0..12), p in 0u8..8, q in 0u8..8, split in 0u8..3,
    ) -> World {
        let mut pools = Vec::new();
        if split > 0 {
            pools.push(pool("p", &[&format!("10.0.0.1-10.0.0.{}", 1 + p)]));
        }
        if split > 1 {
            pools.push(pool("q", &[&format!("10.0.0.10-10.0.0.{}", 10 + q)]));
        }
        world(services, pools)
    }
}

fn any_held() -> impl Strategy<Value = Held> {
    proptest::collection::btree_map(0u8..12, 0u8..24, 0..8).prop_map(|map| {
        map.into_iter()
            .map(|(n, last)| (ObjectName::new("default", format!("s{n:02}")), vec![address(&format!("10.0.0.{last}"))]))
            .collect()
    })
}

proptest! {
    #[test]
    fn nobody_has_an_address_twice_or_from_outside_its_pool(world in any_world(), held in any_held()) {
        let plan = plan(&world, &remembering(&held));
        let mut ports = BTreeSet::new();
        let mut holders: BTreeMap<IpAddr, Vec<&Service>> = BTreeMap::new();
        for planned in plan.services.values() {
            let service = &world.services[&planned.service()];
            prop_assert!(planned.addresses.is_empty() || planned.error.is_none() || held.contains_key(&service.name)
                || !service.status_addresses.is_empty(), "an error beside an address that was not held: {planned:?}");
            prop_assert!(!planned.addresses.is_empty() || planned.error.is_some(), "no address and no reason: {planned:?}");
            for address in &planned.addresses {
                prop_assert!(ports.insert((*address, service.ports[0].port)), "{planned:?}");
                holders.entry(*address).or_default().push(service);
                if !world.pools.is_empty() {
                    let pool = &world.pools[&ObjectName::new("metallb-system", planned.pool.clone().unwrap())];
                    prop_assert!(pool.ranges.iter().any(|range| range.contains(*address)), "{planned:?}");
                }
            }
        }
        for (address, holders) in holders.iter().filter(|(_, holders)| holders.len() > 1) {
            let keys: BTreeSet<_> = holders.iter().map(|service| &service.sharing_key).collect();
            prop_assert!(keys.len() == 1 && holders[0].sharing_key.is_some(), "{address}: {holders:?}");
        }
    }

    #[test]
    fn what_is_held_and_fits_stays(world in any_world()) {
        let first = plan(&world, &Memory::default());
        let again = plan(&world, first.memory());
        prop_assert_eq!(&first.memory().allocations, &again.memory().allocations);
    }

    #[test]
    fn a_newcomer_takes_nothing_from_anyone(world in any_world(), newcomer in any_service(), first in any::<bool>()) {
        let newcomer = Service { name: ObjectName::new("default", if first { "a" } else { "z" }), ..newcomer };
        let before = plan(&world, &Memory::default());
        let mut larger = world;
        larger.services.insert(newcomer.name.clone(), newcomer.into());
        let after = plan(&larger, before.memory());
        for (name, before) in &before.services {
            let after = &after.services[name];
            prop_assert!(before.addresses.is_empty() || before.addresses == after.addresses, "{before:?} {after:?}");
        }
    }

    #[test]
    fn the_same_world_is_the_same_plan(world in any_world(), held in any_held()) {
        let copy = world.clone();
        prop_assert_eq!(plan(&world, &remembering(&held)), plan(&copy, &remembering(&held)));
    }
}
