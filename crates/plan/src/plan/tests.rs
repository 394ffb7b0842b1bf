//! Following a World step by step comes to the same as planning each version from scratch.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::selector::LabelSelector;
use crate::world::testing::{address, advertisement, endpoint, labels, pool, service, slice};
use crate::world::{
    Endpoint, EndpointSlice, Endpoints, Gaps, IpAddressPool, IpFamilyPolicy, L2Advertisement, Node, Object,
    PreferredNode, ServiceAllocation, TrafficPolicy,
};

const NODES: [&str; 4] = ["node-a", "node-b", "node-c", "node-d"];

/// A change of the World.
#[derive(Clone, Debug)]
enum Edit {
    Put(ObjectName, Object),
    Service(Index, ServiceEdit),
    Remove(Index),
    IgnoreExcludeLabel(bool),
    Class(bool),
    Gaps(Gaps),
    NodeAddresses(Vec<u8>),
}

#[derive(Clone, Debug)]
enum ServiceEdit {
    Request(Option<u8>),
    Pool(Option<u8>),
    Key(Option<u8>),
    Port(u16),
    Local(bool),
    Families(IpFamilyPolicy),
    Status(Option<u8>),
    Balancer(bool),
    OnNode(bool),
}

fn at(last: u8) -> IpAddr {
    address(&format!("10.0.0.{last}"))
}

fn any_policy() -> impl Strategy<Value = IpFamilyPolicy> {
    prop_oneof![
        3 => Just(IpFamilyPolicy::SingleStack),
        1 => Just(IpFamilyPolicy::PreferDualStack),
        1 => Just(IpFamilyPolicy::RequireDualStack)
    ]
}

fn any_service_edit() -> impl Strategy<Value = ServiceEdit> {
    prop_oneof![
        proptest::option::of(0u8..12).prop_map(ServiceEdit::Request),
        proptest::option::of(0u8..4).prop_map(ServiceEdit::Pool),
        proptest::option::of(0u8..2).prop_map(ServiceEdit::Key),
        (80u16..84).prop_map(ServiceEdit::Port),
        any::<bool>().prop_map(ServiceEdit::Local),
        any_policy().prop_map(ServiceEdit::Families),
        proptest::option::of(0u8..12).prop_map(ServiceEdit::Status),
        any::<bool>().prop_map(ServiceEdit::Balancer),
    ]
}

prop_compose! {
    fn any_service()(n in 0u8..10, edits in proptest::collection::vec(any_service_edit(), 0..4)) -> Service {
        let mut service = service(&format!("s{n}"));
        edits.iter().for_each(|change| change.apply(&mut service));
        service
    }
}

prop_compose! {
    fn any_slice()(n in 0u8..10, part in 0u8..2, endpoints in proptest::collection::vec(any_endpoint(), 0..4))
        -> EndpointSlice {
        slice(&format!("s{n}"), &format!("s{n}-{part}"), 8080, endpoints)
    }
}

prop_compose! {
    fn any_endpoint()(last in 0u8..8, ready in any::<bool>(), serving in any::<bool>(), node in 0usize..5) -> Endpoint {
        let node = NODES.get(node).map(|node| (*node).to_owned());
        Endpoint { ready, serving: ready || serving, terminating: !ready, node, ..endpoint(&format!("10.1.0.{last}")) }
    }
}

prop_compose! {
    fn any_pool()(
        n in 0u8..4, first in 0u8..12, size in 0u8..4, six in any::<bool>(), auto_assign in prop::bool::weighted(0.8),
        priority in proptest::option::of(0u32..3), label in 0u8..2,
    ) -> IpAddressPool {
        let mut ranges = vec![format!("10.0.0.{first}-10.0.0.{}", first + size)];
        if six {
            ranges.push(format!("2001:db8::{first}-2001:db8::{}", first + size));
        }
        let ranges: Vec<&str> = ranges.iter().map(String::as_str).collect();
        let allocation = priority.map(|priority| ServiceAllocation { priority, ..ServiceAllocation::default() });
        let labels = labels(&[("zone", if label == 0 { "a" } else { "b" })]);
        IpAddressPool { auto_assign, allocation, labels, ..pool(&format!("p{n}"), &ranges) }
    }
}

fn only(key: &str, value: &str) -> LabelSelector {
    LabelSelector { match_labels: labels(&[(key, value)]), ..LabelSelector::default() }
}

prop_compose! {
    fn any_advertisement()(
        n in 0u8..3, pools in 0u8..3, node in 0u8..3, interface in any::<bool>(), weight in proptest::option::of(1u8..4),
    ) -> L2Advertisement {
        let mut advertisement = advertisement(&format!("l{n}"));
        match pools {
            0 => {}
            1 => advertisement.pools = vec!["p0".to_owned(), "p7".to_owned()],
            _ => advertisement.pool_selectors = vec![only("zone", "a")],
        }
        if node > 0 {
            advertisement.node_selectors = vec![only("rack", &node.to_string())];
        }
        if interface {
            advertisement.interfaces = vec![format!("eth{n}")];
        }
        advertisement.preferred =
            weight.into_iter().map(|weight| PreferredNode { weight, preference: only("rack", "1") }).collect();
        advertisement
    }
}

prop_compose! {
    fn any_node()(n in 0usize..4, rack in 0u8..3, network_unavailable in prop::bool::weighted(0.2), excluded in prop::bool::weighted(0.2))
        -> Node {
        let mut node = Node { network_unavailable, ..Node::new(NODES[n]) };
        node.labels = labels(&[("rack", &rack.to_string())]);
        if excluded {
            node.labels.insert(elect::EXCLUDE_LABEL.to_owned(), String::new());
        }
        node
    }
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let put = |name: ObjectName, object| Edit::Put(name, object);
    prop_oneof![
        6 => any_service().prop_map(move |o| put(o.name.clone(), Object::Service(o.into()))),
        6 => (any::<Index>(), any_service_edit()).prop_map(|(which, edit)| Edit::Service(which, edit)),
        4 => any_slice().prop_map(move |o| put(o.name.clone(), Object::EndpointSlice(o.into()))),
        1 => (0u8..10, any_slice()).prop_map(move |(n, slice)| {
            let name = ObjectName::new("default", format!("s{n}"));
            put(name.clone(), Object::Endpoints(Endpoints { name, slices: vec![slice] }.into()))
        }),
        2 => any_pool().prop_map(move |o| put(o.name.clone(), Object::IpAddressPool(o.into()))),
        1 => any_advertisement().prop_map(move |o| put(o.name.clone(), Object::L2Advertisement(o.into()))),
        1 => any_node().prop_map(move |o| put(ObjectName::new("", &o.name), Object::Node(o.into()))),
        1 => any::<bool>().prop_map(move |dmz| {
            let labels = labels(&[("zone", if dmz { "dmz" } else { "lan" })]);
            put(ObjectName::new("", "default"), Object::Namespace(labels.into()))
        }),
        5 => any::<Index>().prop_map(Edit::Remove),
        1 => any::<bool>().prop_map(Edit::IgnoreExcludeLabel),
        1 => prop::bool::weighted(0.1).prop_map(Edit::Class),
        1 => any::<(bool, bool, bool, bool)>().prop_map(|(services, pools, advertisements, endpoints)| {
            Edit::Gaps(Gaps { services, pools, advertisements, endpoints })
        }),
    ]
}

impl ServiceEdit {
    fn apply(&self, service: &mut Service) {
        match *self {
            Self::Request(last) => service.requested.spec_address = last.map(at),
            Self::Pool(n) => service.requested.pool = n.map(|n| format!("p{n}")),
            Self::Key(key) => service.sharing_key = key.map(|key| format!("key-{key}")),
            Self::Port(port) => service.ports[0].port = port,
            Self::Local(local) => {
                service.traffic_policy = if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
            }
            Self::Families(policy) => service.ip_family_policy = policy,
            Self::Status(last) => service.status_addresses = last.map(at).into_iter().collect(),
            Self::Balancer(balancer) => service.is_load_balancer = balancer,
            Self::OnNode(on_node) => service.on_node = on_node,
        }
    }
}

impl Edit {
    fn apply(&self, world: &mut World) {
        match self {
            Self::Put(name, object) => world.insert(name.clone(), object.clone()),
            Self::Service(which, change) => {
                let names: Vec<ObjectName> = world.services.keys().cloned().collect();
                if !names.is_empty() {
                    let mut service = Service::clone(&world.services[which.get(&names)]);
                    change.apply(&mut service);
                    world.services.insert(service.name.clone(), service.into());
                }
            }
            Self::Remove(which) => remove_one(world, which),
            Self::IgnoreExcludeLabel(ignore) => world.ignore_exclude_label = *ignore,
            Self::Class(other) => world.load_balancer_class = other.then(|| "example.com/other".to_owned()),
            Self::Gaps(gaps) => world.gaps = *gaps,
            Self::NodeAddresses(last) => world.node_addresses = last.iter().copied().map(at).collect(),
        }
    }
}

fn remove_one(world: &mut World, which: &Index) {
    use crate::world::{Kind, ObjectKey};
    let key = |kind, name: &ObjectName| ObjectKey { kind, name: name.clone() };
    let mut keys: Vec<ObjectKey> = world.services.keys().map(|name| key(Kind::Service, name)).collect();
    keys.extend(world.endpoint_slices.keys().map(|name| key(Kind::EndpointSlice, name)));
    keys.extend(world.endpoints.keys().map(|name| key(Kind::Endpoints, name)));
    keys.extend(world.pools.keys().map(|name| key(Kind::IpAddressPool, name)));
    keys.extend(world.l2_advertisements.keys().map(|name| key(Kind::L2Advertisement, name)));
    keys.extend(world.nodes.keys().map(|name| key(Kind::Node, &ObjectName::new("", name))));
    if !keys.is_empty() {
        world.remove(which.get(&keys));
    }
}

fn nodes() -> World {
    let mut world = World::default();
    for node in NODES {
        world.nodes.insert(node.to_owned(), Node::new(node).into());
    }
    world
}

/// Edits, in steps of some at once.
fn any_history() -> impl Strategy<Value = Vec<Vec<Edit>>> {
    proptest::collection::vec(proptest::collection::vec(any_edit(), 1..6), 1..12)
}

/// The same, with services at the node's own addresses among them.
fn any_history_of_a_node() -> impl Strategy<Value = Vec<Vec<Edit>>> {
    let any_edit = prop_oneof![
        6 => any_edit(),
        2 => (any::<Index>(), any::<bool>()).prop_map(|(which, own)| Edit::Service(which, ServiceEdit::OnNode(own))),
        1 => proptest::collection::vec(0u8..12, 0..3).prop_map(Edit::NodeAddresses),
    ];
    proptest::collection::vec(proptest::collection::vec(any_edit, 1..6), 1..12)
}

proptest! {
    #[test]
    fn incremental_is_full(history in any_history_of_a_node()) {
        let mut world = nodes();
        let mut planner = Planner::new(Memory::default());
        for edits in history {
            edits.iter().for_each(|edit| edit.apply(&mut world));
            let full = plan(&world, planner.plan().memory());
            planner.update(&world);
            prop_assert_eq!(planner.plan(), &full);
        }
    }

    /// Whoever holds an address and is not edited keeps it, as long as its pool does.
    #[test]
    fn edits_of_others_take_nothing_from_anyone(history in any_history()) {
        let mut world = nodes();
        let mut planner = Planner::new(Memory::default());
        for edits in history {
            let (before, plan_before) = (world.clone(), planner.plan().clone());
            let allocation_stays = |edit: &&Edit| {
                !matches!(edit, Edit::Put(_, Object::IpAddressPool(_) | Object::Namespace(_)) | Edit::Class(_))
            };
            edits.iter().filter(allocation_stays).for_each(|edit| edit.apply(&mut world));
            // Removing a pool is such an edit too.
            world.pools = before.pools.clone();
            planner.update(&world);
            for (name, planned) in &plan_before.services {
                let untouched = before.services.get(name) == world.services.get(name);
                if untouched && !planned.addresses.is_empty() && planned.error.is_none() {
                    let now = &planner.plan().services[name].addresses;
                    prop_assert!(planned.addresses.iter().all(|address| now.contains(address)), "{planned:?} {now:?}");
                }
            }
        }
    }

    #[test]
    fn nobody_has_an_address_twice_or_from_outside_its_pool(history in any_history()) {
        let mut world = nodes();
        let mut planner = Planner::new(Memory::default());
        for edits in history {
            edits.iter().for_each(|edit| edit.apply(&mut world));
            planner.update(&world);
            let mut ports = BTreeSet::new();
            let mut keys: BTreeMap<IpAddr, (Option<String>, bool)> = BTreeMap::new();
            for planned in planner.plan().services.values() {
                let service = &world.services[&planned.service()];
                for address in &planned.addresses {
                    prop_assert!(ports.insert((*address, service.ports[0].port)), "{planned:?}");
                    let known = keys.insert(*address, (service.sharing_key.clone(), true));
                    prop_assert!(known.is_none_or(|(key, _)| key.is_some() && key == service.sharing_key), "{planned:?}");
                    let mut pools = world.pools.values().filter(|pool| planned.pool.as_ref() == Some(&pool.name.name));
                    let inside = pools.any(|pool| pool.ranges.iter().any(|range| range.contains(*address)));
                    prop_assert!(inside || world.pools.is_empty() || world.gaps.pools, "{planned:?}");
                }
                prop_assert!(!planned.addresses.is_empty() || planned.error.is_some(), "no address and no reason: {planned:?}");
            }
        }
    }

    /// Every address has one announcer at most, and every other node a reason.
    #[test]
    fn one_announcer_and_a_reason_for_every_other_node(history in any_history()) {
        let mut world = nodes();
        let mut planner = Planner::new(Memory::default());
        for edits in history {
            edits.iter().for_each(|edit| edit.apply(&mut world));
            planner.update(&world);
            let allocated: BTreeSet<IpAddr> =
                planner.plan().services.values().flat_map(|planned| planned.addresses.clone()).collect();
            let announced: BTreeSet<IpAddr> = planner.plan().announcements.keys().map(|(address, _)| *address).collect();
            prop_assert_eq!(allocated, announced);
            for announcement in planner.plan().announcements.values() {
                prop_assert!(announcement.nodes.len() <= 1);
                let told: BTreeSet<&str> = announcement
                    .nodes
                    .iter()
                    .chain(announcement.excluded.iter().map(|exclusion| &exclusion.node))
                    .map(|node| &**node)
                    .collect();
                let known: BTreeSet<&str> = world.nodes.keys().map(String::as_str).collect();
                prop_assert_eq!(told, known);
            }
        }
    }
}

#[test]
fn what_did_not_change_is_the_same_object() {
    let mut world = nodes();
    for name in ["a", "b"] {
        world.insert(ObjectName::new("default", name), Object::Service(service(name).into()));
        let slice = slice(name, name, 8080, vec![endpoint("10.1.0.1")]);
        world.insert(slice.name.clone(), Object::EndpointSlice(slice.into()));
    }
    world.insert(ObjectName::new("", "p"), Object::IpAddressPool(pool("p", &["10.0.0.1-10.0.0.9"]).into()));
    world.insert(ObjectName::new("", "l"), Object::L2Advertisement(advertisement("l").into()));
    let mut planner = Planner::new(Memory::default());
    planner.update(&world);
    let before = planner.plan().clone();

    let slice = slice("b", "b", 8080, vec![endpoint("10.1.0.2")]);
    world.insert(slice.name.clone(), Object::EndpointSlice(slice.into()));
    assert!(planner.update(&world).is_empty(), "no address changed");
    let after = planner.plan();
    assert!(before.services.ptr_eq(&after.services) && before.announcements.ptr_eq(&after.announcements));
    let changed: Vec<&FrontendKey> = before
        .frontends
        .diff(&after.frontends)
        .map(|item| match item {
            DiffItem::Add(key, _) | DiffItem::Update { old: (key, _), .. } | DiffItem::Remove(key, _) => key,
        })
        .collect();
    assert_eq!(changed, [&FrontendKey { address: at(2), port: 80, protocol: crate::world::Protocol::Tcp }]);
}
