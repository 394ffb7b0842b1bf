use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::maglev::{Roster, Seed, Table};
use crate::world::testing::{address, endpoint, service, slice};
use crate::world::{Endpoint, Hints, Weight};

fn names(names: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    proptest::sample::subsequence(names, 0..=names.len())
        .prop_map(|names| names.into_iter().map(str::to_owned).collect())
}

fn some_endpoint() -> impl Strategy<Value = Endpoint> {
    let node = proptest::option::of(prop_oneof!["a", "b", "c"]);
    let zone = proptest::option::of(prop_oneof!["x", "y"]);
    let hints = prop_oneof![
        3 => (names(&["x", "y"]), names(&["a", "b"])).prop_map(|(zones, nodes)| Hints { zones, nodes }),
        2 => Just(Hints::default()),
    ];
    // Few addresses, so that slices overlap.
    (1u8..12, any::<[bool; 3]>(), node, zone, hints).prop_map(
        |(last, [ready, serving, terminating], node, zone, hints)| Endpoint {
            ready,
            serving,
            terminating,
            node,
            zone,
            hints,
            ..endpoint(&format!("10.1.0.{last}"))
        },
    )
}

fn some_slices() -> impl Strategy<Value = Vec<EndpointSlice>> {
    let slice = (proptest::collection::vec(some_endpoint(), 0..8), 8080u16..8082, 0u8..4).prop_map(
        |(endpoints, port, weight)| EndpointSlice {
            weight: Weight::new(weight).unwrap_or_default(),
            ..slice("web", "web", port, endpoints)
        },
    );
    proptest::collection::vec(slice, 0..5)
}

fn some_service() -> impl Strategy<Value = Service> {
    let policy = prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)];
    let distribution = prop_oneof![
        Just(TrafficDistribution::Anywhere),
        Just(TrafficDistribution::PreferSameZone),
        Just(TrafficDistribution::PreferSameNode)
    ];
    let weights = prop_oneof![Just(""), Just("10.1.0.1=0,10.1.0.2=5,node/a=2")];
    (policy, distribution, any::<bool>(), weights).prop_map(
        |(traffic_policy, traffic_distribution, publish, weights)| Service {
            traffic_policy,
            traffic_distribution,
            publish_not_ready: publish,
            weights: weights.parse().unwrap_or_default(),
            ..service("web")
        },
    )
}

fn frontend(service: &Service, slices: &[EndpointSlice]) -> Frontend {
    let slices: Vec<&EndpointSlice> = slices.iter().collect();
    of_service(service, &[address("10.0.0.1")], &slices, &mut Vec::new()).remove(0)
}

/// The table by which a node spreads new flows.
fn table(frontend: &Frontend, node: NodeView<'_>) -> Table {
    Table::new(Roster::new(members(frontend.eligible_for_node(node))), Seed::default())
}

fn some_node() -> impl Strategy<Value = NodeView<'static>> {
    let zone = prop_oneof![Just(None), Just(Some("x")), Just(Some("y")), Just(Some("z"))];
    (prop_oneof![Just("a"), Just("b"), Just("d")], zone).prop_map(|(name, zone)| NodeView { name, zone })
}

proptest! {
    #[test]
    fn the_order_of_slices_and_endpoints_makes_no_difference(
        service in some_service(),
        (slices, shuffled) in some_slices().prop_flat_map(|slices| (Just(slices.clone()), Just(slices).prop_shuffle())),
        node in some_node(),
    ) {
        let mut shuffled = shuffled;
        for slice in &mut shuffled {
            slice.endpoints.reverse();
        }
        let mut findings = [Vec::new(), Vec::new()];
        let [ordered, other] = [(&slices, 0), (&shuffled, 1)].map(|(slices, n): (&Vec<EndpointSlice>, usize)| {
            let slices: Vec<&EndpointSlice> = slices.iter().collect();
            of_service(&service, &[address("10.0.0.1")], &slices, &mut findings[n])
        });
        let digests = [&ordered, &other].map(|frontends| table(&frontends[0], node).digest());
        prop_assert_eq!(digests[0], digests[1]);
        prop_assert_eq!(ordered, other);
        prop_assert_eq!(&findings[0], &findings[1]);
    }

    #[test]
    fn every_eligible_backend_is_in_the_table_and_nobody_else(
        service in some_service(), slices in some_slices(), node in some_node()
    ) {
        let frontend = frontend(&service, &slices);
        let eligible = frontend.eligible_for_node(node);
        let table = table(&frontend, node);
        let in_table: BTreeSet<SocketAddr> =
            table.slots().iter().map(|slot| table.members()[*slot as usize].address).collect();
        let expected: BTreeSet<SocketAddr> = eligible.iter().map(|backend| backend.socket_address()).collect();
        prop_assert_eq!(in_table, expected);
    }

    #[test]
    fn under_local_a_node_never_uses_foreign_backends(
        service in some_service(), slices in some_slices(), node in some_node()
    ) {
        let local = Service { traffic_policy: TrafficPolicy::Local, ..service };
        let frontend = frontend(&local, &slices);
        let nodes: BTreeSet<_> = frontend.for_node(node).map(|backend| backend.node.as_deref()).collect();
        prop_assert!(nodes.iter().all(|other| *other == Some(node.name)), "{:?}", nodes);
        prop_assert!(frontend.eligible_for_node(node).iter().all(|backend| backend.node.as_deref() == Some(node.name)));
    }

    #[test]
    fn under_cluster_no_node_is_without_backends_while_one_can_serve(
        service in some_service(), slices in some_slices(), node in some_node()
    ) {
        let cluster = Service { traffic_policy: TrafficPolicy::Cluster, ..service };
        let frontend = frontend(&cluster, &slices);
        let (scope, chosen) = frontend.choice(node);
        prop_assert_eq!(chosen.is_empty(), !frontend.backends.iter().any(|backend| backend.state.is_usable()));
        let eligible = frontend.eligible();
        prop_assert!(chosen.iter().all(|backend| eligible.contains(backend)));
        if scope == Scope::Cluster {
            prop_assert_eq!(chosen, eligible);
        }
    }

    #[test]
    fn frontends_said_to_be_the_same_everywhere_are(
        service in some_service(), slices in some_slices(), one in some_node(), other in some_node()
    ) {
        let frontend = frontend(&service, &slices);
        if frontend.is_same_everywhere() {
            prop_assert_eq!(frontend.choice(one), frontend.choice(other));
        }
    }
}
