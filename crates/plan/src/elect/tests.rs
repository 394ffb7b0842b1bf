use std::sync::Arc;

use super::*;
use crate::memory::Memory;
use crate::selector::LabelSelector;
use crate::world::testing::{address, advertisement, edit, edit_all, endpoint, labels, pool, service, slice, world};
use crate::world::{AgentState, Cluster, Endpoint, ObjectName, PreferredNode};
use crate::{Plan, Planner, plan};

/// `default/web` at 10.0.0.1 with a ready endpoint on each of nodes a, b and c, advertised from everywhere.
fn web() -> World {
    let mut world = world([service("web")], [pool("pool", &["10.0.0.1/32"])]);
    advertise(&mut world, advertisement("all"));
    for (n, name) in ["node-a", "node-b", "node-c"].into_iter().enumerate() {
        world.nodes.insert(name.to_owned(), Arc::new(Node::new(name)));
        let on_node = Endpoint { node: Some(name.to_owned()), ..endpoint(&format!("10.1.0.{n}")) };
        let slice = slice("web", &format!("web-{name}"), 8080, vec![on_node]);
        world.endpoint_slices.insert(slice.name.clone(), Arc::new(slice));
    }
    world
}

fn advertise(world: &mut World, advertisement: L2Advertisement) {
    world.l2_advertisements.insert(advertisement.name.clone(), Arc::new(advertisement));
}

fn change_service(world: &mut World, change: impl FnOnce(&mut Service)) {
    edit(&mut world.services, &ObjectName::new("default", "web"), change);
}

fn change_endpoints(world: &mut World, change: impl Fn(&mut Endpoint)) {
    edit_all(&mut world.endpoint_slices, |slice| slice.endpoints.iter_mut().for_each(&change));
}

fn decide(world: &World) -> Announcement {
    decide_with(world, &Memory::default())
}

fn decide_with(world: &World, memory: &Memory) -> Announcement {
    only_announcement(&plan(world, memory))
}

fn only_announcement(plan: &Plan) -> Announcement {
    assert_eq!(plan.announcements.len(), 1, "{:?}", plan.announcements);
    Announcement::clone(plan.announcements.values().next().unwrap())
}

fn by(announcement: &Announcement) -> Vec<&str> {
    announcement.nodes.iter().map(|node| &**node).collect()
}

fn reasons(announcement: &Announcement) -> Vec<String> {
    announcement.excluded.iter().map(|exclusion| format!("{} {}", exclusion.node, exclusion.reason)).collect()
}

fn only(key: &str, value: &str) -> LabelSelector {
    LabelSelector { match_labels: labels(&[(key, value)]), ..LabelSelector::default() }
}

#[test]
fn nodes_are_ranked_as_metallb_ranks_them() {
    let ranked = |ip: &str| {
        let mut nodes = ["node-a", "node-b", "node-c"];
        nodes.sort_by_key(|node| rendezvous_hash(node, address(ip)));
        nodes
    };
    assert_eq!(ranked("10.0.0.1"), ["node-b", "node-a", "node-c"]);
    assert_eq!(ranked("10.0.0.2"), ["node-b", "node-c", "node-a"]);
}

#[test]
fn one_node_announces_and_the_others_say_why_not() {
    let announcement = decide(&web());
    assert_eq!(by(&announcement), ["node-b"]);
    assert_eq!(reasons(&announcement), ["node-a not_elected", "node-c not_elected"]);
    assert_eq!(announcement.interfaces, None);
}

#[test]
fn a_present_owner_stays() {
    let mut memory = Memory::default();
    memory.owners.insert(address("10.0.0.1"), "node-c".into());
    assert_eq!(by(&decide_with(&web(), &memory)), ["node-c"]);
}

#[test]
fn an_owner_that_cannot_announce_is_replaced() {
    let mut world = web();
    let mut memory = Memory::default();
    memory.owners.insert(address("10.0.0.1"), "node-c".into());
    edit(&mut world.nodes, &"node-c".to_owned(), |node| node.network_unavailable = true);
    let announcement = decide_with(&world, &memory);
    assert_eq!(by(&announcement), ["node-b"]);
    assert_eq!(reasons(&announcement), ["node-a not_elected", "node-c network_unavailable"]);
}

#[test]
fn a_returning_node_does_not_take_its_address_back() {
    let mut world = web();
    let first = plan(&world, &Memory::default());
    assert_eq!(by(&only_announcement(&first)), ["node-b"]);
    let b = world.nodes.remove("node-b").unwrap();
    let without = plan(&world, first.memory());
    assert_eq!(by(&only_announcement(&without)), ["node-a"]);
    world.nodes.insert("node-b".to_owned(), b);
    assert_eq!(by(&decide_with(&world, without.memory())), ["node-a"]);
}

#[test]
fn an_owner_is_remembered_while_nobody_can_announce() {
    let mut world = web();
    let mut memory = Memory::default();
    memory.owners.insert(address("10.0.0.1"), "node-c".into());
    change_endpoints(&mut world, |endpoint| (endpoint.ready, endpoint.serving) = (false, false));
    let dark = plan(&world, &memory);
    assert_eq!(
        reasons(&only_announcement(&dark)),
        ["node-a no_endpoints", "node-b no_endpoints", "node-c no_endpoints"]
    );
    assert_eq!(by(&decide_with(&web(), dark.memory())), ["node-c"]);
}

#[test]
fn without_an_advertisement_nobody_announces() {
    let mut world = web();
    world.l2_advertisements.clear();
    let announcement = decide(&world);
    assert!(announcement.nodes.is_empty());
    assert_eq!(
        reasons(&announcement),
        ["node-a no_advertisement", "node-b no_advertisement", "node-c no_advertisement"]
    );
}

#[test]
fn an_advertisement_that_cannot_be_read_may_be_for_what_no_other_one_covers() {
    let mut world = web();
    world.gaps.advertisements = true;
    assert!(!decide(&world).unread, "one that can be read covers it");
    edit_all(&mut world.l2_advertisements, |advertisement| advertisement.pools = vec!["other".to_owned()]);
    let mut planner = Planner::new(Memory::default());
    planner.update(&world);
    let unread = only_announcement(planner.plan());
    assert!(unread.unread && unread.nodes.is_empty(), "{unread:?}");
    assert_eq!(reasons(&unread).first().map(String::as_str), Some("node-a no_advertisement"));
    world.gaps.advertisements = false;
    planner.update(&world);
    assert!(!only_announcement(planner.plan()).unread, "it is gone");
}

#[test]
fn an_advertisement_is_for_the_pools_it_names_or_selects() {
    let announced = |change: fn(&mut L2Advertisement)| {
        let mut world = web();
        edit_all(&mut world.pools, |pool| pool.labels = labels(&[("zone", "dmz")]));
        edit_all(&mut world.l2_advertisements, change);
        !decide(&world).nodes.is_empty()
    };
    assert!(announced(|ad| ad.pools = vec!["pool".to_owned()]));
    assert!(!announced(|ad| ad.pools = vec!["other".to_owned()]));
    assert!(announced(|ad| ad.pool_selectors = vec![only("zone", "dmz")]));
    assert!(!announced(|ad| ad.pool_selectors = vec![only("zone", "lan")]));
    assert!(announced(|ad| (ad.pools, ad.pool_selectors) = (vec!["other".to_owned()], vec![only("zone", "dmz")])));
}

#[test]
fn a_pool_an_advertisement_names_in_vain_is_reported() {
    let mut world = web();
    advertise(&mut world, L2Advertisement { pools: vec!["tpyo".to_owned()], ..advertisement("typo") });
    let plan = plan(&world, &Memory::default());
    let findings: Vec<_> = plan.diagnostics().map(|finding| (finding.reason, finding.field.as_str())).collect();
    assert_eq!(findings, [("pool_not_found", "spec.ipAddressPools[0]")]);
}

#[test]
fn an_advertisement_is_for_the_services_it_selects() {
    let mut world = web();
    advertise(&mut world, L2Advertisement { service_selectors: vec![only("tier", "edge")], ..advertisement("all") });
    assert!(decide(&world).nodes.is_empty());
    change_service(&mut world, |service| service.labels = labels(&[("tier", "edge")]));
    assert_eq!(by(&decide(&world)), ["node-b"]);
}

#[test]
fn nodes_are_selected_and_excluded_by_label() {
    let mut world = web();
    advertise(&mut world, L2Advertisement { node_selectors: vec![only("rack", "1")], ..advertisement("all") });
    for name in ["node-b", "node-c"] {
        edit(&mut world.nodes, &name.to_owned(), |node| node.labels = labels(&[("rack", "1")]));
    }
    edit(&mut world.nodes, &"node-b".to_owned(), |node| {
        _ = node.labels.insert(EXCLUDE_LABEL.to_owned(), String::new());
    });
    let announcement = decide(&world);
    assert_eq!(by(&announcement), ["node-c"]);
    assert_eq!(reasons(&announcement), ["node-a node_not_selected", "node-b excluded_by_label"]);
}

#[test]
fn under_local_only_nodes_with_a_serving_endpoint_announce() {
    let mut world = web();
    change_service(&mut world, |service| service.traffic_policy = TrafficPolicy::Local);
    change_endpoints(&mut world, |endpoint| match endpoint.node.as_deref() {
        Some("node-a") => (endpoint.ready, endpoint.terminating) = (false, true),
        Some("node-b") => (endpoint.ready, endpoint.serving) = (false, false),
        _ => endpoint.node = None,
    });
    let announcement = decide(&world);
    assert_eq!(by(&announcement), ["node-a"], "a terminating endpoint that serves still counts");
    assert_eq!(reasons(&announcement), ["node-b no_local_endpoint", "node-c no_local_endpoint"]);
}

#[test]
fn endpoints_of_the_other_family_do_not_count() {
    let mut world = web();
    edit_all(&mut world.endpoint_slices, |slice| slice.address_type = IpFamily::V6);
    assert_eq!(reasons(&decide(&world)), ["node-a no_endpoints", "node-b no_endpoints", "node-c no_endpoints"]);
}

#[test]
fn interfaces_are_those_of_the_elected_nodes_advertisements() {
    let mut world = web();
    let on = |name: &str, interface: &str, rack: &str| L2Advertisement {
        interfaces: vec![interface.to_owned()],
        node_selectors: vec![only("rack", rack)],
        ..advertisement(name)
    };
    world.l2_advertisements.clear();
    advertise(&mut world, on("one", "eth1", "1"));
    advertise(&mut world, on("two", "eth0", "1"));
    advertise(&mut world, on("three", "eth2", "2"));
    edit(&mut world.nodes, &"node-c".to_owned(), |node| node.labels = labels(&[("rack", "1")]));
    assert_eq!(decide(&world).interfaces, Some(vec!["eth0".to_owned(), "eth1".to_owned()]));
    advertise(&mut world, advertisement("everywhere"));
    world.nodes = world.nodes.into_iter().filter(|(name, _)| name == "node-c").collect();
    assert_eq!(decide(&world).interfaces, None, "an advertisement without interfaces means all");
}

#[test]
fn preferences_decide_before_the_hash_but_not_before_the_owner() {
    let mut world = web();
    let prefer = |rack: &str, weight| PreferredNode { weight, preference: only("rack", rack) };
    let preferred = vec![prefer("1", 60), prefer("2", 50), prefer("2", 20)];
    advertise(&mut world, L2Advertisement { preferred, ..advertisement("all") });
    edit(&mut world.nodes, &"node-a".to_owned(), |node| node.labels = labels(&[("rack", "1")]));
    edit(&mut world.nodes, &"node-c".to_owned(), |node| node.labels = labels(&[("rack", "2")]));
    assert_eq!(by(&decide(&world)), ["node-c"], "weights add up: 70 before 60");
    let mut memory = Memory::default();
    memory.owners.insert(address("10.0.0.1"), "node-b".into());
    assert_eq!(by(&decide_with(&world, &memory)), ["node-b"]);
}

#[test]
fn services_that_share_an_address_have_one_announcer() {
    let mut world = web();
    change_service(&mut world, |service| service.sharing_key = Some("key".to_owned()));
    let mut tls = service("tls");
    tls.sharing_key = Some("key".to_owned());
    tls.ports[0].port = 443;
    world.services.insert(tls.name.clone(), Arc::new(tls));
    let announcement = decide(&world);
    assert_eq!(by(&announcement), ["node-b"], "tls has no endpoint, but web has");
    assert_eq!(reasons(&announcement), ["node-a not_elected", "node-c not_elected"]);
}

/// [`web`] with what its nodes know of each other.
fn cluster(owner: Option<&str>, agents: &[(&str, AgentState)]) -> World {
    let owners = owner.map(|owner| (address("10.0.0.1"), Arc::from(owner)));
    let agents = agents.iter().map(|(node, state)| (Arc::from(*node), *state));
    World { cluster: Some(Cluster { owners: owners.into_iter().collect(), agents: agents.collect() }), ..web() }
}

#[test]
fn without_an_agent_a_node_gets_nothing() {
    use AgentState::{Attended, Silent};
    let all = cluster(None, &[("node-a", Attended), ("node-b", Attended), ("node-c", Attended)]);
    let first = by(&decide(&all))[0].to_owned();
    let others: Vec<(&str, AgentState)> =
        ["node-a", "node-b", "node-c"].into_iter().filter(|node| *node != first).map(|node| (node, Attended)).collect();
    let announcement = decide(&cluster(None, &others));
    assert_ne!(by(&announcement), [first.as_str()]);
    assert!(reasons(&announcement).contains(&format!("{first} no_agent")), "{announcement:?}");
    assert_eq!(announcement.awaited.as_deref(), Some(first.as_str()));
    assert_eq!(decide(&all).awaited, None);
    assert_eq!(decide(&cluster(Some(others[0].0), &others)).awaited, None, "what has an owner is not up for grabs");
    let announcement = decide(&cluster(None, &[("node-b", Silent)]));
    assert!(announcement.nodes.is_empty());
    assert_eq!(reasons(&announcement), ["node-a no_agent", "node-b no_agent", "node-c no_agent"]);
}

#[test]
fn an_owner_stays_while_its_data_path_answers_whatever_becomes_of_its_agent() {
    use AgentState::{Attended, Dead, Leaving, Silent};
    for (agents, stays) in [
        (vec![("node-a", Attended), ("node-b", Attended)], true),
        (vec![("node-a", Silent), ("node-b", Attended)], true),
        (vec![("node-b", Attended)], true),
        (vec![("node-a", Leaving), ("node-b", Attended)], false),
        (vec![("node-a", Dead), ("node-b", Attended)], false),
    ] {
        let announcement = decide(&cluster(Some("node-a"), &agents));
        assert_eq!(by(&announcement), [if stays { "node-a" } else { "node-b" }], "{agents:?}");
    }
    let announcement = decide(&cluster(Some("node-a"), &[("node-a", Dead)]));
    assert_eq!(reasons(&announcement), ["node-a not_answering", "node-b no_agent", "node-c no_agent"]);
}

#[test]
fn the_records_say_who_owns_and_not_what_was_decided_before() {
    use AgentState::{Attended, Leaving};
    let agents = [("node-a", Attended), ("node-b", Attended), ("node-c", Attended)];
    let mut memory = Memory::default();
    memory.owners.insert(address("10.0.0.1"), "node-b".into());
    assert_eq!(by(&decide_with(&cluster(Some("node-c"), &agents), &memory)), ["node-c"]);

    // Who leaves is not the owner in memory before the record says so, or two nodes could each wait for the other.
    let mut planner = Planner::new(Memory::default());
    let leaving = [("node-a", Leaving), ("node-b", Attended), ("node-c", Attended)];
    planner.update(&cluster(Some("node-a"), &leaving));
    assert_ne!(by(&only_announcement(planner.plan())), ["node-a"]);
    assert_eq!(&*planner.plan().memory().owners[&address("10.0.0.1")], "node-a");
    planner.update(&cluster(Some("node-a"), &agents));
    assert_eq!(by(&only_announcement(planner.plan())), ["node-a"]);
    planner.update(&cluster(Some("node-c"), &agents));
    assert_eq!(by(&only_announcement(planner.plan())), ["node-c"]);
}
