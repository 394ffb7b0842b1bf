//! What holds of any World.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::elect::ExclusionReason;

/// A World with a bit of everything, decided by the numbers.
fn arbitrary_world() -> impl Strategy<Value = World> {
    let nodes = (0..3_u8, any::<bool>(), 0..8_u8);
    let peers = (0..4_u8, 0..3_u8, any::<bool>(), any::<bool>(), 0..3_u8);
    let advertisements = (0..3_u8, 0..4_u8, 0..3_u32, 0..4_u16, 0..3_u8, 0..3_u8);
    let services = (0..3_u8, any::<bool>(), prop::collection::vec((0..5_u8, any::<bool>()), 0..4));
    (
        prop::collection::vec(nodes, 0..5),
        prop::collection::vec(peers, 0..4),
        prop::collection::vec(advertisements, 0..4),
        prop::collection::vec(services, 0..4),
    )
        .prop_map(|(nodes, peers, advertisements, services)| {
            let mut world = world([], [pool("pool", &["198.51.100.0/28"]), pool("v6", &["2001:db8::/125"])]);
            // 0 is everything, other numbers are a label's value.
            let select = |value: u8| if value == 0 { Vec::new() } else { vec![only("group", &value.to_string())] };
            for (n, (group, unfit, excluded)) in nodes.into_iter().enumerate() {
                let mut node = Node::new(format!("node-{n}"));
                node.labels = labels(&[("group", &group.to_string())]);
                node.network_unavailable = unfit && excluded < 2;
                if excluded == 7 {
                    node.labels.insert(EXCLUDE_LABEL.to_owned(), String::new());
                }
                world.nodes.insert(node.name.clone(), Arc::new(node));
            }
            for (n, (at, group, is_internal, dual, password)) in peers.into_iter().enumerate() {
                let at = if at == 3 { "2001:db8:1::1".to_owned() } else { format!("192.0.2.{at}") };
                let name = format!("peer-{n}");
                let peer = if is_internal { internal(&name, &at) } else { peer(&name, &at) };
                let password = (password == 2).then(|| Password::Plain("geheim".to_owned()));
                let node_selectors = select(group);
                add_peer(&mut world, BgpPeer { dual_stack_address_family: dual, node_selectors, password, ..peer });
            }
            for (n, (group, to, local_pref, community, length, tier)) in advertisements.into_iter().enumerate() {
                let communities = match community {
                    0 => Vec::new(),
                    3 => vec![CommunityRef::Alias("missing".to_owned())],
                    value => vec![CommunityRef::Value(Community::Standard(64_512, value))],
                };
                let ad = BgpAdvertisement {
                    node_selectors: select(group),
                    service_selectors: select(tier),
                    peers: if to == 0 { Vec::new() } else { vec![format!("peer-{to}")] },
                    local_pref: local_pref * 100,
                    communities,
                    aggregation: Aggregation { v4: 32 - length * 2, v6: 128 - length },
                    ..advertisement(&format!("ad-{n}"))
                };
                advertise(&mut world, ad);
            }
            for (n, (group, local, endpoints)) in services.into_iter().enumerate() {
                let name = format!("service-{n}");
                let mut service = service(&name);
                service.labels = labels(&[("group", &group.to_string())]);
                service.sharing_key = Some("key".to_owned()).filter(|_| group == 0);
                service.ports[0].port = 80 + u16::try_from(n).unwrap();
                service.ip_families = vec![if n % 3 == 2 { IpFamily::V6 } else { IpFamily::V4 }];
                service.traffic_policy = if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
                world.services.insert(service.name.clone(), Arc::new(service));
                let endpoint = |(n, (node, ready)): (usize, (u8, bool))| Endpoint {
                    node: Some(format!("node-{node}")),
                    ready,
                    serving: ready,
                    ..endpoint(&format!("10.1.0.{n}"))
                };
                let endpoints = endpoints.into_iter().enumerate().map(endpoint).collect();
                let mut slice = slice(&name, &name, 8080, endpoints);
                slice.address_type = if n % 3 == 2 { IpFamily::V6 } else { IpFamily::V4 };
                world.endpoint_slices.insert(slice.name.clone(), Arc::new(slice));
            }
            world
        })
}

proptest! {
    #[test]
    fn the_same_world_gives_the_same_plan(world in arbitrary_world()) {
        let plan = |world: &World| {
            let plan = crate::plan(world, &Memory::default());
            (plan.bgp.clone(), plan.diagnostics().cloned().collect::<Vec<_>>())
        };
        let (one, other) = (plan(&world), plan(&world.clone()));
        prop_assert_eq!(one, other);
    }

    #[test]
    fn following_the_world_ends_like_starting_with_it(worlds in prop::collection::vec(arbitrary_world(), 1..5)) {
        let mut planner = crate::Planner::new(Memory::default());
        for world in &worlds {
            let memory = planner.plan().memory().clone();
            planner.update(world);
            let anew = crate::plan(world, &memory);
            let found = |plan: &crate::Plan| plan.diagnostics().cloned().collect::<Vec<_>>();
            prop_assert_eq!(found(planner.plan()), found(&anew));
            prop_assert_eq!(&planner.plan().bgp, &anew.bgp);
            prop_assert_eq!(&planner.plan().announcements, &anew.announcements);
        }
    }

    #[test]
    fn every_node_announces_an_address_or_says_why_not(world in arbitrary_world()) {
        let plan = decide(&world);
        for announcement in plan.announcements.values() {
            let excluded = announcement.excluded.iter().map(|exclusion| &exclusion.node);
            let mut nodes: Vec<&str> = announcement.nodes.iter().chain(excluded).map(|node| &**node).collect();
            nodes.sort();
            prop_assert_eq!(nodes, world.nodes.keys().map(String::as_str).collect::<Vec<_>>());
            let telling: BTreeSet<&Arc<str>> = announcement.routes.iter().flat_map(|route| &route.nodes).collect();
            prop_assert_eq!(telling, announcement.nodes.iter().collect::<BTreeSet<_>>(), "who announces has a route");
            let no_winner = |exclusion: &crate::elect::Exclusion| exclusion.reason != ExclusionReason::NotElected;
            prop_assert!(announcement.excluded.iter().all(no_winner));
        }
    }

    #[test]
    fn every_node_and_peer_have_a_session_or_a_reason(world in arbitrary_world()) {
        let plan = decide(&world);
        let sessions = plan.sessions.iter().map(|session| (&*session.peer, &*session.node));
        let without = plan.without_session.iter().map(|without| (&*without.peer, &*without.node));
        let mut all: Vec<_> = sessions.chain(without).collect();
        all.sort();
        let peers = world.bgp_peers.keys().map(|peer| peer.name.as_str());
        let expected: Vec<_> = peers.flat_map(|peer| world.nodes.keys().map(move |node| (peer, node.as_str()))).collect();
        prop_assert_eq!(all, expected);
    }

    #[test]
    fn routes_are_told_over_sessions_that_carry_them(world in arbitrary_world()) {
        let plan = decide(&world);
        let rib = AdjRibOut::of_all(plan.announcements.values().map(|it| &**it));
        for (RibKey { node, peer, prefix }, attributes) in rib.routes() {
            let session = plan.sessions.iter().find(|session| (&session.node, &session.peer) == (node, peer));
            prop_assert!(session.is_some_and(|session| session.families.contains(&IpFamily::of(prefix.addr()))));
            prop_assert!(attributes.local_pref.is_none() || session.unwrap().kind == SessionKind::Ibgp);
            let addresses = plan.announcements.values().map(|announcement| announcement.address);
            prop_assert!(addresses.into_iter().any(|address| prefix.contains(&address)));
        }
    }

    #[test]
    fn taking_announcements_one_by_one_ends_like_taking_them_at_once(
        worlds in prop::collection::vec(arbitrary_world(), 1..4),
        order in any::<prop::sample::Index>(),
    ) {
        let mut rib = AdjRibOut::default();
        let mut peers_view = BTreeMap::new();
        for world in &worlds {
            let wanted = announcements(world);
            let gone: Vec<IpAddr> = rib.addresses().filter(|address| wanted.iter().all(|it| it.address != *address)).collect();
            let mut changes: Vec<RibChange> = gone.into_iter().flat_map(|address| rib.set(address, None)).collect();
            let start = if wanted.is_empty() { 0 } else { order.index(wanted.len()) };
            for announcement in wanted[start..].iter().chain(&wanted[..start]) {
                changes.extend(rib.set(announcement.address, Some(announcement)));
            }
            for change in changes {
                match change {
                    RibChange::Announce(key, attributes) => _ = peers_view.insert(key, attributes),
                    RibChange::Withdraw(key) => prop_assert!(peers_view.remove(&key).is_some(), "told before"),
                }
            }
            prop_assert_eq!(&rib, &AdjRibOut::of_all(&wanted));
            let told: BTreeMap<RibKey, Attributes> = rib.routes().map(|(key, it)| (key.clone(), it.clone())).collect();
            prop_assert_eq!(&peers_view, &told);
        }
    }

    #[test]
    fn a_node_needs_only_its_own_routes(world in arbitrary_world()) {
        let announcements = announcements(&world);
        let all = AdjRibOut::of_all(&announcements);
        for node in world.nodes.keys() {
            let mut own = AdjRibOut::of_node(node.as_str());
            for announcement in &announcements {
                own.set(announcement.address, Some(announcement));
            }
            let of_node: Vec<_> = all.routes().filter(|(key, _)| *key.node == **node).collect();
            prop_assert_eq!(own.routes().collect::<Vec<_>>(), of_node);
        }
    }

    #[test]
    fn no_output_has_a_password_in_it(world in arbitrary_world()) {
        let plan = crate::plan(&world, &Memory::default());
        for output in [format!("{world:?}"), format!("{plan:?}"), serde_json::to_string(&plan.bgp.sessions).unwrap()] {
            prop_assert!(!output.contains("geheim"), "{}", output);
        }
    }

    #[test]
    fn layer_2_and_bgp_list_every_address_between_them(world in arbitrary_world()) {
        let plan = crate::plan(&world, &Memory::default());
        let at_layer_2 = plan.announcements.values().map(|announcement| announcement.address);
        let by_bgp = plan.bgp.announcements.values().map(|announcement| announcement.address);
        let listed: BTreeSet<IpAddr> = at_layer_2.chain(by_bgp).collect();
        let allocated = plan.services.values().flat_map(|service| &service.addresses).copied().collect();
        prop_assert_eq!(listed, allocated);
    }
}
