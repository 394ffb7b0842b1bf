use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::elect::EXCLUDE_LABEL;
use crate::memory::Memory;
use crate::range::IpFamily;
use crate::selector::LabelSelector;
use crate::world::testing::{address, edit, edit_all, endpoint, labels, pool, service, slice, world};
use crate::world::{
    Aggregation, BfdProfile, BgpAdvertisement, BgpPeer, Community, CommunityAliases, CommunityRef, Endpoint,
    IpFamilyPolicy, L2Advertisement, Neighbor, Node, ObjectName, Password, PeerAsn, Secret, Timers, TrafficPolicy,
};

mod properties;

fn named(name: &str) -> ObjectName {
    ObjectName::new("metallb-system", name)
}

/// A router of another AS at `at`.
fn peer(name: &str, at: &str) -> BgpPeer {
    BgpPeer {
        name: named(name),
        my_asn: 64_500,
        peer_asn: PeerAsn::Number(64_501),
        local_asn: None,
        neighbor: Neighbor::Address(address(at)),
        source_address: None,
        port: 179,
        timers: None,
        connect_time: None,
        router_id: None,
        node_selectors: Vec::new(),
        password: None,
        bfd_profile: None,
        graceful_restart: false,
        ebgp_multi_hop: false,
        vrf: None,
        disable_mp: false,
        dual_stack_address_family: false,
    }
}

/// One within our AS.
fn internal(name: &str, at: &str) -> BgpPeer {
    BgpPeer { peer_asn: PeerAsn::Number(64_500), ..peer(name, at) }
}

fn advertisement(name: &str) -> BgpAdvertisement {
    BgpAdvertisement::new(named(name))
}

fn only(key: &str, value: &str) -> LabelSelector {
    LabelSelector { match_labels: labels(&[(key, value)]), ..LabelSelector::default() }
}

/// `default/web` at 198.51.100.10 out of a /24 with a ready endpoint on each of the nodes a, b and c, advertised from
/// all of them to `router`.
fn web() -> World {
    let mut world = world([service("web")], [pool("pool", &["198.51.100.10-198.51.100.10", "198.51.100.16/28"])]);
    add_peer(&mut world, peer("router", "192.0.2.1"));
    advertise(&mut world, advertisement("all"));
    for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
        world.nodes.insert(name.to_owned(), Arc::new(Node::new(name)));
        let on_node = Endpoint { node: Some(name.to_owned()), ..endpoint(&format!("10.1.0.{n}")) };
        let slice = slice("web", &format!("web-{name}"), 8080, vec![on_node]);
        world.endpoint_slices.insert(slice.name.clone(), Arc::new(slice));
    }
    world
}

/// [`web`] in both families, at 198.51.100.10 and 2001:db8::10.
fn dual_stack() -> World {
    let mut world = web();
    edit_all(&mut world.pools, |pool| pool.ranges.push("2001:db8::10/128".parse().unwrap()));
    edit_all(&mut world.services, |service| {
        service.ip_family_policy = IpFamilyPolicy::RequireDualStack;
        service.ip_families = vec![IpFamily::V4, IpFamily::V6];
    });
    let mut v6 = slice("web", "web-v6", 8080, vec![endpoint("2001:db8:1::1")]);
    v6.address_type = IpFamily::V6;
    world.endpoint_slices.insert(v6.name.clone(), Arc::new(v6));
    world
}

fn add_peer(world: &mut World, peer: BgpPeer) {
    world.bgp_peers.insert(peer.name.clone(), Arc::new(peer));
}

fn change_peer(world: &mut World, change: impl FnMut(&mut BgpPeer)) {
    edit_all(&mut world.bgp_peers, change);
}

fn advertise(world: &mut World, advertisement: BgpAdvertisement) {
    world.bgp_advertisements.insert(advertisement.name.clone(), Arc::new(advertisement));
}

fn label(world: &mut World, node: &str, key: &str, value: &str) {
    edit(&mut world.nodes, &node.to_owned(), |node| _ = node.labels.insert(key.to_owned(), value.to_owned()));
}

fn decide(world: &World) -> BgpPlan {
    crate::plan(world, &Memory::default()).bgp
}

fn announcements(world: &World) -> Vec<BgpAnnouncement> {
    decide(world).announcements.values().map(|announcement| BgpAnnouncement::clone(announcement)).collect()
}

fn nodes(announcement: &BgpAnnouncement) -> Vec<&str> {
    announcement.nodes.iter().map(|node| &**node).collect()
}

fn only_announcement(world: &World) -> BgpAnnouncement {
    let mut announcements = announcements(world);
    assert_eq!(announcements.len(), 1, "{announcements:?}");
    announcements.remove(0)
}

fn reasons(announcement: &BgpAnnouncement) -> Vec<String> {
    announcement.excluded.iter().map(|exclusion| format!("{} {}", exclusion.node, exclusion.reason)).collect()
}

fn diagnosed(world: &World) -> Vec<(&'static str, String)> {
    crate::plan(world, &Memory::default()).diagnostics().map(|found| (found.reason, found.field.clone())).collect()
}

/// A route on one line: `prefix by nodes to peers [pref n] [communities]`.
fn shown(route: &Route) -> String {
    let mut shown = format!("{} by {} to {}", route.prefix, route.nodes.join(","), route.peers.join(","));
    shown.extend(route.local_pref.map(|pref| format!(" pref {pref}")));
    shown.extend(route.communities.iter().map(|community| format!(" {community}")));
    shown
}

fn routes(world: &World) -> Vec<String> {
    announcements(world).iter().flat_map(|announcement| &announcement.routes).map(shown).collect()
}

/// What a node tells a peer in the end: `prefix [pref n] [communities]`.
fn told(world: &World, node: &str, peer: &str) -> Vec<String> {
    let rib = AdjRibOut::of_all(&announcements(world));
    let shown = |route: ToldRoute| {
        let mut shown = route.prefix.to_string();
        shown.extend(route.attributes.local_pref.map(|pref| format!(" pref {pref}")));
        shown.extend(route.attributes.communities.iter().map(|community| format!(" {community}")));
        shown
    };
    rib.told(node, peer).into_iter().map(shown).collect()
}

fn session(world: &World) -> Session {
    let (mut sessions, _) = sessions(world);
    assert_eq!(sessions.len(), 3, "{sessions:?}");
    sessions.remove(0)
}

// Sessions

#[test]
fn every_node_has_a_session_with_every_peer() {
    let mut world = web();
    add_peer(&mut world, peer("another", "192.0.2.2"));
    let (sessions, without) = sessions(&world);
    let shown: Vec<String> = sessions.iter().map(|session| format!("{} {}", session.peer, session.node)).collect();
    assert_eq!(shown, ["another a", "another b", "another c", "router a", "router b", "router c"]);
    assert_eq!(without, []);
}

#[test]
fn what_a_peer_leaves_open_has_its_default() {
    let expected = Session {
        node: "a".into(),
        peer: "router".into(),
        kind: SessionKind::Ebgp,
        my_asn: 64_500,
        local_asn: 64_500,
        peer_asn: Some(64_501),
        neighbor: Neighbor::Address(address("192.0.2.1")),
        port: 179,
        source_address: None,
        hold_time: Duration::from_secs(90),
        keepalive_time: Duration::from_secs(30),
        connect_time: Duration::from_secs(120),
        router_id: None,
        password: None,
        bfd: None,
        graceful_restart: false,
        multihop: false,
        vrf: None,
        families: vec![IpFamily::V4],
    };
    assert_eq!(session(&web()), expected);
}

#[test]
fn what_a_peer_sets_is_kept() {
    let mut world = web();
    change_peer(&mut world, |peer| {
        peer.source_address = Some(address("192.0.2.9"));
        peer.port = 1790;
        peer.timers = Some(Timers { hold: Duration::from_millis(9_500), keepalive: Duration::from_millis(3_166) });
        peer.connect_time = Some(Duration::from_secs(7));
        peer.router_id = Some(Ipv4Addr::new(10, 10, 10, 10));
        peer.graceful_restart = true;
        peer.ebgp_multi_hop = true;
        peer.vrf = Some("red".to_owned());
    });
    let session = session(&world);
    assert_eq!(session.source_address, Some(address("192.0.2.9")));
    assert_eq!(session.port, 1790);
    assert_eq!(session.hold_time, Duration::from_secs(9), "BGP speaks of whole seconds");
    assert_eq!(session.keepalive_time, Duration::from_secs(3));
    assert_eq!(session.connect_time, Duration::from_secs(7));
    assert_eq!(session.router_id, Some(Ipv4Addr::new(10, 10, 10, 10)));
    assert!(session.graceful_restart && session.multihop);
    assert_eq!(session.vrf.as_deref(), Some("red"));
}

#[test]
fn zero_switches_a_timer_off_and_less_than_a_second_does_not() {
    let timers = |hold, keepalive| {
        let mut world = web();
        change_peer(&mut world, |peer| peer.timers = Some(Timers { hold, keepalive }));
        let session = session(&world);
        (session.hold_time.as_secs(), session.keepalive_time.as_secs())
    };
    assert_eq!(timers(Duration::ZERO, Duration::ZERO), (0, 0));
    assert_eq!(timers(Duration::from_secs(3), Duration::from_millis(400)), (3, 1));
    assert_eq!(timers(Duration::from_secs(100_000), Duration::from_secs(10)), (65_535, 10));
}

#[test]
fn the_as_number_the_peer_sees_makes_it_internal_or_external() {
    let kind = |peer_asn, local_asn| {
        let mut world = web();
        change_peer(&mut world, |peer| (peer.peer_asn, peer.local_asn) = (peer_asn, local_asn));
        let session = session(&world);
        (session.kind, session.local_asn, session.peer_asn)
    };
    use SessionKind::{Ebgp, Ibgp};
    assert_eq!(kind(PeerAsn::Number(64_500), None), (Ibgp, 64_500, Some(64_500)));
    assert_eq!(kind(PeerAsn::Number(64_501), None), (Ebgp, 64_500, Some(64_501)));
    assert_eq!(kind(PeerAsn::Internal, None), (Ibgp, 64_500, Some(64_500)));
    assert_eq!(kind(PeerAsn::External, None), (Ebgp, 64_500, None));
    assert_eq!(kind(PeerAsn::Number(64_500), Some(65_000)), (Ebgp, 65_000, Some(64_500)));
    assert_eq!(kind(PeerAsn::Number(65_000), Some(65_000)), (Ibgp, 65_000, Some(65_000)));
    assert_eq!(kind(PeerAsn::Internal, Some(65_000)), (Ibgp, 65_000, Some(65_000)));
}

#[test]
fn only_external_peers_are_several_hops_away_by_configuration() {
    let mut world = web();
    change_peer(&mut world, |peer| (peer.peer_asn, peer.ebgp_multi_hop) = (PeerAsn::Internal, true));
    assert!(!session(&world).multihop);
}

#[test]
fn a_session_carries_the_family_of_its_addresses_unless_told_otherwise() {
    let families = |neighbor: Neighbor, dual, disable_mp| {
        let mut world = web();
        change_peer(&mut world, |peer| {
            peer.neighbor = neighbor.clone();
            (peer.dual_stack_address_family, peer.disable_mp) = (dual, disable_mp);
        });
        session(&world).families
    };
    let at = |text| Neighbor::Address(address(text));
    let interface = || Neighbor::Interface("eth1".to_owned());
    assert_eq!(families(at("192.0.2.1"), false, false), [IpFamily::V4]);
    assert_eq!(families(at("2001:db8::1"), false, false), [IpFamily::V6]);
    assert_eq!(families(at("192.0.2.1"), true, false), [IpFamily::V4, IpFamily::V6]);
    assert_eq!(families(at("2001:db8::1"), true, false), [IpFamily::V4, IpFamily::V6]);
    assert_eq!(families(at("192.0.2.1"), false, true), [IpFamily::V4]);
    assert_eq!(families(interface(), false, false), [IpFamily::V4, IpFamily::V6]);
    assert_eq!(families(interface(), false, true), [IpFamily::V4, IpFamily::V6]);
}

#[test]
fn a_bfd_profile_is_resolved_to_values() {
    let mut world = web();
    change_peer(&mut world, |peer| peer.bfd_profile = Some("fast".to_owned()));
    let profile = BfdProfile {
        name: named("fast"),
        receive_interval: None,
        transmit_interval: Some(Duration::from_millis(50)),
        detect_multiplier: None,
        echo_interval: None,
        echo_mode: false,
        passive_mode: true,
        minimum_ttl: None,
    };
    world.bfd_profiles.insert(profile.name.clone(), Arc::new(profile.clone()));
    let expected = Bfd {
        profile: "fast".to_owned(),
        receive_interval: Duration::from_millis(300),
        transmit_interval: Duration::from_millis(50),
        detect_multiplier: 3,
        echo_interval: None,
        passive: true,
        minimum_ttl: 254,
    };
    assert_eq!(session(&world).bfd, Some(expected));
    world.bfd_profiles.insert(profile.name.clone(), Arc::new(BfdProfile { echo_mode: true, ..profile }));
    assert_eq!(session(&world).bfd.unwrap().echo_interval, Some(Duration::from_millis(50)));
}

#[test]
fn node_selectors_limit_the_sessions() {
    let mut world = web();
    change_peer(&mut world, |peer| peer.node_selectors = vec![only("rack", "1"), only("rack", "2")]);
    label(&mut world, "a", "rack", "1");
    label(&mut world, "b", "rack", "2");
    label(&mut world, "c", "rack", "3");
    let BgpPlan { sessions, without_session, .. } = decide(&world);
    let nodes: Vec<&str> = sessions.iter().map(|session| &*session.node).collect();
    assert_eq!(nodes, ["a", "b"]);
    let expected = NoSession { node: "c".into(), peer: "router".into(), reason: NoSessionReason::NodeNotSelected };
    assert_eq!(*without_session, [expected]);
}

#[test]
fn one_neighbor_has_one_session_a_node() {
    let mut world = web();
    add_peer(&mut world, BgpPeer { node_selectors: vec![only("rack", "1")], ..peer("again", "192.0.2.1") });
    label(&mut world, "a", "rack", "1");
    let BgpPlan { sessions, without_session, .. } = decide(&world);
    let shown: Vec<String> = sessions.iter().map(|session| format!("{} {}", session.peer, session.node)).collect();
    assert_eq!(shown, ["again a", "router b", "router c"]);
    let reasons: Vec<String> =
        without_session.iter().map(|no| format!("{} {} {}", no.peer, no.node, no.reason)).collect();
    assert_eq!(reasons, ["again b node_not_selected", "again c node_not_selected", "router a duplicate_neighbor"]);
    assert_eq!(diagnosed(&world), [("duplicate_neighbor", String::new())]);
    for change in [
        (|peer| peer.port = 180) as fn(&mut BgpPeer),
        |peer| peer.vrf = Some("red".to_owned()),
        |peer| peer.source_address = Some(address("192.0.2.9")),
        |peer| peer.neighbor = Neighbor::Address(address("192.0.2.2")),
    ] {
        let mut world = world.clone();
        edit(&mut world.bgp_peers, &named("again"), change);
        assert_eq!(decide(&world).sessions.len(), 4);
    }
}

#[test]
fn a_node_that_announces_nothing_keeps_its_sessions() {
    let mut world = web();
    edit(&mut world.nodes, &"a".to_owned(), |node| node.network_unavailable = true);
    label(&mut world, "b", EXCLUDE_LABEL, "");
    assert_eq!(decide(&world).sessions.len(), 3);
}

#[test]
fn a_password_goes_nowhere() {
    let mut world = web();
    change_peer(&mut world, |peer| peer.password = Some(Password::Plain("geheim".to_owned())));
    let plan = crate::plan(&world, &Memory::default());
    assert_eq!(plan.bgp.sessions[0].password, Some(PasswordSource::Manifest));
    assert!(!format!("{world:?}{plan:?}").contains("geheim"));
    assert!(!serde_json::to_string(&plan.bgp.sessions).unwrap().contains("geheim"));
}

#[test]
fn a_secret_is_named_and_looked_for() {
    let mut world = web();
    change_peer(&mut world, |peer| peer.password = Some(Password::Secret(ObjectName::new("", "md5"))));
    let secret = named("md5");
    assert_eq!(session(&world).password, Some(PasswordSource::Secret(secret.clone())), "in the peer's namespace");
    assert_eq!(diagnosed(&world), [("secret_not_found", "spec.passwordSecret".to_owned())]);
    let insert = |world: &mut World, secret_type: &str| {
        let found = Secret { name: secret.clone(), secret_type: secret_type.to_owned() };
        world.secrets.insert(secret.clone(), Arc::new(found));
    };
    insert(&mut world, "Opaque");
    assert_eq!(diagnosed(&world), [("secret_type", "spec.passwordSecret".to_owned())]);
    insert(&mut world, "kubernetes.io/basic-auth");
    assert_eq!(diagnosed(&world), []);
}

// Announcements

#[test]
fn every_node_announces_the_address_to_every_peer() {
    let mut world = web();
    add_peer(&mut world, peer("another", "192.0.2.2"));
    let announcement = only_announcement(&world);
    assert_eq!(nodes(&announcement), ["a", "b", "c"]);
    assert_eq!(announcement.excluded, []);
    assert_eq!(routes(&world), ["198.51.100.10/32 by a,b,c to another,router"]);
    assert!(crate::plan(&world, &Memory::default()).announcements.is_empty(), "at layer 2 nobody was asked");
}

#[test]
fn unfit_nodes_do_not_announce() {
    let mut world = web();
    edit(&mut world.nodes, &"a".to_owned(), |node| node.network_unavailable = true);
    label(&mut world, "b", EXCLUDE_LABEL, "");
    let announcement = only_announcement(&world);
    assert_eq!(nodes(&announcement), ["c"]);
    assert_eq!(reasons(&announcement), ["a network_unavailable", "b excluded_by_label"]);
}

#[test]
fn an_advertisement_is_for_the_nodes_it_selects() {
    let mut world = web();
    advertise(&mut world, BgpAdvertisement { node_selectors: vec![only("rack", "1")], ..advertisement("all") });
    label(&mut world, "b", "rack", "1");
    let announcement = only_announcement(&world);
    assert_eq!(nodes(&announcement), ["b"]);
    assert_eq!(reasons(&announcement), ["a node_not_selected", "c node_not_selected"]);
}

#[test]
fn an_advertisement_is_for_the_peers_it_names() {
    let mut world = web();
    add_peer(&mut world, peer("another", "192.0.2.2"));
    advertise(&mut world, BgpAdvertisement { peers: vec!["another".to_owned()], ..advertisement("all") });
    assert_eq!(routes(&world), ["198.51.100.10/32 by a,b,c to another"]);
}

#[test]
fn a_node_without_a_session_with_these_peers_does_not_announce() {
    let mut world = web();
    change_peer(&mut world, |peer| peer.node_selectors = vec![only("rack", "1")]);
    label(&mut world, "a", "rack", "1");
    let announcement = only_announcement(&world);
    assert_eq!(nodes(&announcement), ["a"]);
    assert_eq!(reasons(&announcement), ["b no_session", "c no_session"]);
}

#[test]
fn nodes_with_other_peers_are_apart() {
    let mut world = web();
    world.bgp_peers.clear();
    for (name, at, rack) in [("tor-1", "192.0.2.1", "1"), ("tor-2", "192.0.2.2", "2")] {
        add_peer(&mut world, BgpPeer { node_selectors: vec![only("rack", rack)], ..peer(name, at) });
    }
    for (node, rack) in [("a", "1"), ("b", "2"), ("c", "1")] {
        label(&mut world, node, "rack", rack);
    }
    assert_eq!(routes(&world), ["198.51.100.10/32 by a,c to tor-1", "198.51.100.10/32 by b to tor-2"]);
}

#[test]
fn an_advertisement_is_for_the_pools_it_names_or_selects() {
    let announced = |change: fn(&mut BgpAdvertisement)| {
        let mut world = web();
        edit_all(&mut world.pools, |pool| pool.labels = labels(&[("zone", "dmz")]));
        edit_all(&mut world.bgp_advertisements, change);
        !only_announcement(&world).nodes.is_empty()
    };
    assert!(announced(|ad| ad.pools = vec!["pool".to_owned()]));
    assert!(!announced(|ad| ad.pools = vec!["other".to_owned()]));
    assert!(announced(|ad| ad.pool_selectors = vec![only("zone", "dmz")]));
    assert!(!announced(|ad| ad.pool_selectors = vec![only("zone", "lan")]));
}

#[test]
fn an_advertisement_is_for_the_services_it_selects() {
    let mut world = web();
    let edge = BgpAdvertisement { service_selectors: vec![only("tier", "edge")], ..advertisement("all") };
    advertise(&mut world, edge);
    assert_eq!(reasons(&only_announcement(&world)), ["a no_advertisement", "b no_advertisement", "c no_advertisement"]);
    edit_all(&mut world.services, |service| service.labels = labels(&[("tier", "edge")]));
    assert_eq!(nodes(&only_announcement(&world)), ["a", "b", "c"]);
}

#[test]
fn under_local_only_nodes_with_a_serving_endpoint_announce() {
    let mut world = web();
    edit_all(&mut world.services, |service| service.traffic_policy = TrafficPolicy::Local);
    edit(&mut world.endpoint_slices, &ObjectName::new("default", "web-b"), |slice| {
        (slice.endpoints[0].ready, slice.endpoints[0].serving) = (false, false);
    });
    edit(&mut world.endpoint_slices, &ObjectName::new("default", "web-c"), |slice| {
        (slice.endpoints[0].ready, slice.endpoints[0].terminating) = (false, true);
    });
    let announcement = only_announcement(&world);
    assert_eq!(nodes(&announcement), ["a", "c"], "a terminating endpoint that serves still counts");
    assert_eq!(reasons(&announcement), ["b no_local_endpoint"]);
}

#[test]
fn without_endpoints_nobody_announces() {
    let mut world = web();
    world.endpoint_slices.clear();
    let announcement = only_announcement(&world);
    assert_eq!(reasons(&announcement), ["a no_endpoints", "b no_endpoints", "c no_endpoints"]);
    assert_eq!(announcement.routes, []);
}

#[test]
fn an_address_both_protocols_are_for_is_announced_by_both() {
    let mut world = web();
    world.l2_advertisements.insert(named("l2"), Arc::new(L2Advertisement::new(named("l2"))));
    let plan = crate::plan(&world, &Memory::default());
    assert_eq!(plan.announcements.values().map(|it| it.nodes.len()).collect::<Vec<_>>(), [1]);
    assert_eq!(plan.bgp.announcements.values().map(|it| it.nodes.len()).collect::<Vec<_>>(), [3]);
}

#[test]
fn an_address_is_listed_where_it_is_advertised() {
    let listed = |l2: bool, bgp: bool| {
        let mut world = web();
        let nowhere = || vec!["elsewhere".to_owned()];
        let pools = |used: bool| if used { Vec::new() } else { nowhere() };
        edit_all(&mut world.bgp_advertisements, |ad| ad.pools = pools(bgp));
        let advertisement = L2Advertisement { pools: pools(l2), ..L2Advertisement::new(named("l2")) };
        world.l2_advertisements.insert(named("l2"), Arc::new(advertisement));
        let plan = crate::plan(&world, &Memory::default());
        (plan.announcements.len(), plan.bgp.announcements.len())
    };
    assert_eq!(listed(true, false), (1, 0));
    assert_eq!(listed(false, true), (0, 1));
    assert_eq!(listed(true, true), (1, 1));
    assert_eq!(listed(false, false), (1, 0), "once, with the reason");
}

#[test]
fn without_bgp_objects_there_is_no_bgp() {
    let mut world = web();
    world.bgp_peers.clear();
    world.bgp_advertisements.clear();
    assert_eq!(decide(&world), BgpPlan::default());
}

#[test]
fn an_advertisement_without_any_peer_reaches_nobody() {
    let mut world = web();
    world.bgp_peers.clear();
    assert_eq!(reasons(&only_announcement(&world)), ["a no_session", "b no_session", "c no_session"]);
}

#[test]
fn local_preference_is_told_to_internal_peers_only() {
    let mut world = web();
    add_peer(&mut world, internal("reflector", "192.0.2.2"));
    advertise(&mut world, BgpAdvertisement { local_pref: 200, ..advertisement("all") });
    assert_eq!(
        routes(&world),
        ["198.51.100.10/32 by a,b,c to router", "198.51.100.10/32 by a,b,c to reflector pref 200"]
    );
    assert_eq!(told(&world, "a", "router"), ["198.51.100.10/32"]);
    assert_eq!(told(&world, "a", "reflector"), ["198.51.100.10/32 pref 200"]);
    advertise(&mut world, advertisement("all"));
    assert_eq!(routes(&world), ["198.51.100.10/32 by a,b,c to reflector,router"]);
}

#[test]
fn communities_are_resolved_and_sorted() {
    let mut world = web();
    let aliases = [("vpn-only", Community::Standard(1234, 1)), ("again", Community::Standard(65_535, 65_281))];
    let aliases = CommunityAliases {
        name: named("aliases"),
        aliases: aliases.map(|(alias, community)| (alias.to_owned(), community)).into(),
    };
    world.communities.insert(aliases.name.clone(), Arc::new(aliases));
    let communities = vec![
        CommunityRef::Value("large:64512:1:2".parse().unwrap()),
        CommunityRef::Value("65535:65281".parse().unwrap()),
        CommunityRef::Alias("vpn-only".to_owned()),
        CommunityRef::Alias("again".to_owned()),
    ];
    advertise(&mut world, BgpAdvertisement { communities, ..advertisement("all") });
    assert_eq!(routes(&world), ["198.51.100.10/32 by a,b,c to router 1234:1 65535:65281 large:64512:1:2"]);
}

#[test]
fn what_is_named_in_vain_is_reported_and_the_rest_stays_in_force() {
    let mut world = web();
    change_peer(&mut world, |peer| peer.bfd_profile = Some("none".to_owned()));
    let no_export = CommunityRef::Value("65535:65281".parse().unwrap());
    advertise(
        &mut world,
        BgpAdvertisement {
            pools: vec!["tpyo".to_owned(), "pool".to_owned()],
            peers: vec!["router".to_owned(), "ruoter".to_owned()],
            communities: vec![CommunityRef::Alias("vpn".to_owned()), no_export],
            ..advertisement("all")
        },
    );
    assert_eq!(
        diagnosed(&world),
        [
            ("bfd_profile_not_found", "spec.bfdProfile".to_owned()),
            ("pool_not_found", "spec.ipAddressPools[0]".to_owned()),
            ("peer_not_found", "spec.peers[1]".to_owned()),
            ("community_not_found", "spec.communities[0]".to_owned()),
        ]
    );
    assert_eq!(session(&world).bfd, None);
    assert_eq!(routes(&world), ["198.51.100.10/32 by a,b,c to router 65535:65281"]);
    edit_all(&mut world.bgp_advertisements, |ad| _ = ad.peers.remove(0));
    assert_eq!(reasons(&only_announcement(&world)), ["a no_session", "b no_session", "c no_session"]);
}

#[test]
fn sessions_of_one_family_do_not_carry_the_other() {
    let mut world = dual_stack();
    let announcements = announcements(&world);
    assert_eq!(nodes(&announcements[0]), ["a", "b", "c"]);
    let not_carried = ["a family_not_carried", "b family_not_carried", "c family_not_carried"];
    assert_eq!(reasons(&announcements[1]), not_carried);
    add_peer(&mut world, peer("router-v6", "2001:db8::1"));
    assert_eq!(routes(&world), ["198.51.100.10/32 by a,b,c to router", "2001:db8::10/128 by a,b,c to router-v6"]);
    edit(&mut world.bgp_peers, &named("router"), |peer| peer.dual_stack_address_family = true);
    assert_eq!(
        routes(&world),
        ["198.51.100.10/32 by a,b,c to router", "2001:db8::10/128 by a,b,c to router,router-v6"]
    );
}

#[test]
fn services_that_share_an_address_announce_it_together() {
    let mut world = web();
    let mut tls = service("tls");
    tls.ports[0].port = 443;
    tls.labels = labels(&[("tier", "edge")]);
    world.services.insert(tls.name.clone(), Arc::new(tls));
    edit_all(&mut world.services, |service| service.sharing_key = Some("key".to_owned()));
    edit_all(&mut world.pools, |pool| pool.ranges.truncate(1));
    let edge = BgpAdvertisement {
        service_selectors: vec![only("tier", "edge")],
        communities: vec![CommunityRef::Value("64512:1".parse().unwrap())],
        ..advertisement("edge")
    };
    advertise(&mut world, edge);
    assert_eq!(routes(&world), ["198.51.100.10/32 by a,b,c to router"], "tls has no endpoint, so only web counts");
    let there = Endpoint { node: Some("b".to_owned()), ..endpoint("10.1.0.9") };
    let there = slice("tls", "tls-1", 8443, vec![there]);
    world.endpoint_slices.insert(there.name.clone(), Arc::new(there));
    edit(&mut world.services, &ObjectName::new("default", "tls"), |tls| tls.traffic_policy = TrafficPolicy::Local);
    // Sharing needs equal policies, or equal selectors under Local: here both are empty.
    edit(&mut world.services, &ObjectName::new("default", "web"), |web| web.traffic_policy = TrafficPolicy::Local);
    assert_eq!(routes(&world), ["198.51.100.10/32 by a,b,c to router", "198.51.100.10/32 by b to router 64512:1"]);
    assert_eq!(told(&world, "a", "router"), ["198.51.100.10/32"]);
    assert_eq!(told(&world, "b", "router"), ["198.51.100.10/32 64512:1"]);
}

// Aggregation

/// Services `web` and `dns` at 198.51.100.16 and .17, rolled up into the pool's /28.
fn aggregated() -> World {
    let mut world = web();
    edit_all(&mut world.pools, |pool| _ = pool.ranges.remove(0));
    world.services.insert(ObjectName::new("default", "dns"), Arc::new(service("dns")));
    let dns = slice("dns", "dns-1", 53, vec![endpoint("10.1.0.9")]);
    world.endpoint_slices.insert(dns.name.clone(), Arc::new(dns));
    edit_all(&mut world.bgp_advertisements, |ad| ad.aggregation.v4 = 28);
    world
}

#[test]
fn addresses_are_rolled_up_into_one_prefix() {
    let world = aggregated();
    assert_eq!(routes(&world), ["198.51.100.16/28 by a,b,c to router", "198.51.100.16/28 by a,b,c to router"]);
    assert_eq!(told(&world, "a", "router"), ["198.51.100.16/28"], "told once");
}

#[test]
fn an_aggregated_prefix_is_withdrawn_with_its_last_address() {
    let world = aggregated();
    let announcements = announcements(&world);
    let mut rib = AdjRibOut::of_node("a");
    let key = || RibKey { node: "a".into(), peer: "router".into(), prefix: "198.51.100.16/28".parse().unwrap() };
    let [first, second] = &announcements[..] else { panic!("{announcements:?}") };
    assert_eq!(rib.set(first.address, Some(first)), [RibChange::Announce(key(), Attributes::default())]);
    assert_eq!(rib.set(second.address, Some(second)), [], "it is told already");
    assert_eq!(rib.set(second.address, Some(second)), [], "nothing changed");
    assert_eq!(rib.set(first.address, None), [], "the other one still needs it");
    assert_eq!(rib.told("a", "router")[0].addresses, [second.address]);
    assert_eq!(rib.set(second.address, None), [RibChange::Withdraw(key())]);
    assert_eq!(rib, AdjRibOut::of_node("a"));
}

#[test]
fn a_network_draws_no_traffic_for_addresses_it_does_not_own() {
    let mut world = web();
    edit_all(&mut world.bgp_advertisements, |ad| ad.aggregation.v4 = 24);
    assert_eq!(routes(&world), ["198.51.100.10/32 by a,b,c to router"]);
    assert_eq!(diagnosed(&world), [("aggregation_exceeds_pool", "spec.aggregationLength".to_owned())]);
    edit_all(&mut world.pools, |pool| pool.ranges = vec!["198.51.100.0-198.51.101.3".parse().unwrap()]);
    assert_eq!(routes(&world), ["198.51.100.0/24 by a,b,c to router"]);
    assert_eq!(diagnosed(&world), []);
}

#[test]
fn room_for_a_prefix_is_found_within_ranges() {
    let has_room = |range: &str, length| super::aggregation::has_room(&range.parse().unwrap(), length);
    assert!(has_room("10.0.0.0/24", 24) && has_room("10.0.0.0/24", 25) && !has_room("10.0.0.0/24", 23));
    assert!(has_room("10.0.0.100-10.0.0.110", 30) && !has_room("10.0.0.100-10.0.0.110", 29));
    assert!(has_room("10.0.0.1-10.0.0.255", 25), "the upper half");
    assert!(has_room("10.0.0.1-10.0.0.1", 32));
    assert!(has_room("2001:db8::/64", 128) && has_room("2001:db8::/64", 64) && !has_room("2001:db8::/64", 63));
    assert!(!has_room("255.255.255.250-255.255.255.254", 24), "nothing comes after the last prefix");
}

// Several advertisements

/// The example of the long and the short prefix: each address within, the whole network for the world outside.
#[test]
fn advertisements_of_different_lengths_stand_beside_each_other() {
    let mut world = web();
    edit_all(&mut world.pools, |pool| pool.ranges = vec!["198.51.100.0/24".parse().unwrap()]);
    edit_all(&mut world.services, |service| service.requested.spec_address = Some(address("198.51.100.10")));
    change_peer(&mut world, |peer| peer.peer_asn = PeerAsn::Internal);
    let no_advertise = vec![CommunityRef::Value("65535:65282".parse().unwrap())];
    advertise(&mut world, BgpAdvertisement { local_pref: 100, communities: no_advertise, ..advertisement("local") });
    edit(&mut world.bgp_advertisements, &named("all"), |ad| ad.aggregation.v4 = 24);
    assert_eq!(told(&world, "a", "router"), ["198.51.100.0/24", "198.51.100.10/32 pref 100 65535:65282"]);
    assert_eq!(diagnosed(&world), []);
}

#[test]
fn communities_of_several_advertisements_add_up() {
    let mut world = web();
    let with = |name, community: &str| BgpAdvertisement {
        communities: vec![CommunityRef::Value(community.parse().unwrap())],
        ..advertisement(name)
    };
    advertise(&mut world, with("one", "64512:1"));
    advertise(&mut world, with("two", "64512:2"));
    assert_eq!(told(&world, "a", "router"), ["198.51.100.10/32 64512:1 64512:2"]);
    assert_eq!(diagnosed(&world), []);
}

#[test]
fn different_local_preferences_for_one_prefix_are_reported_and_the_highest_is_told() {
    let mut world = web();
    add_peer(&mut world, internal("reflector", "192.0.2.2"));
    advertise(&mut world, BgpAdvertisement { local_pref: 300, ..advertisement("high") });
    advertise(&mut world, BgpAdvertisement { local_pref: 200, ..advertisement("low") });
    world.bgp_advertisements.remove(&named("all"));
    assert_eq!(told(&world, "a", "reflector"), ["198.51.100.10/32 pref 300"]);
    assert_eq!(told(&world, "a", "router"), ["198.51.100.10/32"]);
    let plan = crate::plan(&world, &Memory::default());
    let found: Vec<_> = plan.diagnostics().collect();
    assert_eq!(found.len(), 1, "once, for all addresses, nodes and peers: {found:?}");
    assert_eq!((found[0].reason, &*found[0].name), ("conflicting_advertisements", "metallb-system/low"));
    let apart = |change: fn(&mut BgpAdvertisement)| {
        let mut world = world.clone();
        edit(&mut world.bgp_advertisements, &named("low"), change);
        label(&mut world, "a", "rack", "1");
        diagnosed(&world).is_empty()
    };
    assert!(apart(|low| low.local_pref = 300));
    assert!(!apart(|low| low.peers = vec!["router".to_owned()]), "as for MetalLB, though external peers are told none");
    assert!(apart(|low| low.node_selectors = vec![only("rack", "2")]));
    assert!(apart(|low| low.service_selectors = vec![only("tier", "edge")]));
    assert!(!apart(|low| low.node_selectors = vec![only("rack", "1")]));
    assert!(!apart(|low| low.local_pref = 0), "none is another one");
}

#[test]
fn pools_that_meet_in_one_prefix_can_contradict_each_other() {
    let mut world = aggregated();
    change_peer(&mut world, |peer| peer.peer_asn = PeerAsn::Internal);
    world.pools.clear();
    // Each has room for a /28, and both reach into 198.51.100.16/28.
    for (name, range) in [("lower", "198.51.100.0-198.51.100.19"), ("upper", "198.51.100.20-198.51.100.47")] {
        let pool = pool(name, &[range]);
        world.pools.insert(pool.name.clone(), Arc::new(pool));
    }
    world.bgp_advertisements.clear();
    for (name, pool, local_pref) in [("one", "lower", 100), ("two", "upper", 200)] {
        let (pools, aggregation) = (vec![pool.to_owned()], Aggregation { v4: 28, v6: 128 });
        advertise(&mut world, BgpAdvertisement { pools, local_pref, aggregation, ..advertisement(name) });
    }
    for (name, at) in [("web", "198.51.100.16"), ("dns", "198.51.100.20")] {
        let service = ObjectName::new("default", name);
        edit(&mut world.services, &service, |service| service.requested.spec_address = Some(address(at)));
    }
    assert_eq!(diagnosed(&world), [("conflicting_advertisements", "spec.localPref".to_owned())]);
    assert_eq!(told(&world, "a", "router"), ["198.51.100.16/28 pref 200"]);
}
