//! What allocators of this kind really got wrong, a test each, named after the defect.

use std::sync::Arc;

use super::tests::sharing;
use super::*;
use crate::event::EventReason;
use crate::memory::{Memory, Sharing};
use crate::world::testing::{address, edit, pool, service, world};
use crate::{Plan, Planner, plan};

fn name(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

fn addresses(plan: &Plan, service: &str) -> Vec<String> {
    plan.services[&name(service)].addresses.iter().map(ToString::to_string).collect()
}

/// The World as the API would show it after this plan: with the addresses in the services' status.
fn with_status(world: &World, plan: &Plan) -> World {
    let mut world = world.clone();
    for planned in plan.services.values() {
        edit(&mut world.services, &planned.service(), |service| {
            service.status_addresses.clone_from(&planned.addresses);
        });
    }
    world
}

#[test]
fn controller_restart_must_not_steal_held_ips() {
    let world = world([service("m"), service("z")], [pool("p", &["10.0.0.1-10.0.0.2"])]);
    let mut seen = with_status(&world, &plan(&world, &Memory::default()));
    // While the controller was away a service came that sorts first, and one that asks for a held address.
    let mut greedy = service("b");
    greedy.requested.spec_address = Some(address("10.0.0.2"));
    seen.services.insert(name("a"), service("a").into());
    seen.services.insert(name("b"), greedy.into());
    let restarted = plan(&seen, &Memory::default());
    assert_eq!(
        (addresses(&restarted, "m"), addresses(&restarted, "z")),
        (vec!["10.0.0.1".into()], vec!["10.0.0.2".into()])
    );
    assert!(addresses(&restarted, "a").is_empty() && addresses(&restarted, "b").is_empty());
}

#[test]
fn two_replicas_allocating_the_same_ip() {
    let mut world = world([service("a"), service("b")], [pool("p", &["10.0.0.1-10.0.0.9"])]);
    // Each of two replicas gave 10.0.0.1 away before it saw what the other did.
    for service in ["a", "b"] {
        edit(&mut world.services, &name(service), |service| service.status_addresses = vec![address("10.0.0.1")]);
    }
    let (one, other) = (plan(&world, &Memory::default()), plan(&world, &Memory::default()));
    assert_eq!(one, other, "whoever looks at it comes to the same conclusion");
    assert_eq!((addresses(&one, "a"), addresses(&one, "b")), (vec!["10.0.0.1".into()], vec!["10.0.0.2".into()]));
}

#[test]
fn pool_shrink_and_re_cidr() {
    let mut world = world([service("a"), service("b")], [pool("p", &["10.0.0.1-10.0.0.2"])]);
    let mut planner = Planner::new(Memory::default());
    planner.update(&world);
    let narrower = pool("p", &["10.0.0.2-10.0.0.3"]);
    world.pools.insert(narrower.name.clone(), narrower.into());
    let events = planner.update(&world);
    assert_eq!(addresses(planner.plan(), "a"), ["10.0.0.3"], "released and replaced");
    assert_eq!(addresses(planner.plan(), "b"), ["10.0.0.2"], "whoever is still inside stays");
    let told: Vec<_> = events.iter().map(|event| (event.service.name.as_str(), event.reason)).collect();
    assert_eq!(told, [("a", EventReason::ClearAssignment), ("a", EventReason::IpAllocated)]);
    assert_eq!(events[0].because.as_ref().unwrap().reason, "address_not_in_pool");
    let elsewhere = pool("p", &["10.7.0.0/24"]);
    world.pools.insert(elsewhere.name.clone(), elsewhere.into());
    planner.update(&world);
    assert_eq!(
        (addresses(planner.plan(), "a"), addresses(planner.plan(), "b")),
        (vec!["10.7.0.0".into()], vec!["10.7.0.1".into()])
    );
}

#[test]
fn an_address_pool_annotation_change_takes_effect() {
    let mut world = world([service("a")], [pool("p", &["10.0.0.0/24"]), pool("q", &["10.0.1.0/24"])]);
    let mut planner = Planner::new(Memory::default());
    planner.update(&world);
    assert_eq!(addresses(planner.plan(), "a"), ["10.0.0.0"]);
    edit(&mut world.services, &name("a"), |service| service.requested.pool = Some("q".to_owned()));
    planner.update(&world);
    assert_eq!(addresses(planner.plan(), "a"), ["10.0.1.0"]);
    edit(&mut world.services, &name("a"), |service| service.requested.pool = None);
    planner.update(&world);
    assert_eq!(addresses(planner.plan(), "a"), ["10.0.1.0"], "no wish is no reason to move back");
}

#[test]
fn sharing_changes_re_evaluate_siblings_without_loops() {
    let mut wants = sharing("c", "k", 80);
    wants.requested.spec_address = Some(address("10.0.0.1"));
    let services = [sharing("a", "k", 80), sharing("b", "k", 81), wants];
    let mut world = world(services, [pool("p", &["10.0.0.1-10.0.0.9"])]);
    let claim = |service: &Service| Holding { addresses: vec![address("10.0.0.1")], sharing: Sharing::of(service) };
    let mut memory = Memory::default();
    for held in ["a", "b"] {
        memory.allocations.insert(name(held), Arc::new(claim(&world.services[&name(held)])));
    }
    let mut planner = Planner::new(memory);
    planner.update(&world);
    assert_eq!(planner.plan().services[&name("c")].error.as_ref().unwrap().reason, "sharing_conflict");
    // `a` stops sharing: it gives way, its sibling stays, and whoever waited for its port comes in.
    edit(&mut world.services, &name("a"), |service| service.sharing_key = None);
    planner.update(&world);
    assert_eq!(addresses(planner.plan(), "a"), ["10.0.0.2"]);
    assert_eq!(addresses(planner.plan(), "b"), ["10.0.0.1"]);
    assert_eq!(addresses(planner.plan(), "c"), ["10.0.0.1"]);
    // It is at rest: neither the same World nor its status, echoed, changes anything.
    assert!(planner.update(&world).is_empty());
    let echoed = with_status(&world, planner.plan());
    let before = planner.plan().clone();
    assert!(planner.update(&echoed).is_empty());
    assert_eq!(planner.plan().services, before.services);
}

#[test]
fn ip_released_on_delete() {
    let mut world = world([service("a"), service("waits")], [pool("p", &["10.0.0.1/32"])]);
    let mut planner = Planner::new(Memory::default());
    planner.update(&world);
    assert_eq!(planner.plan().services[&name("waits")].error.as_ref().unwrap().reason, "pool_exhausted");
    world.services.remove(&name("a"));
    planner.update(&world);
    assert_eq!(addresses(planner.plan(), "waits"), ["10.0.0.1"], "whoever waited gets it at once");
    edit(&mut world.services, &name("waits"), |service| service.is_load_balancer = false);
    planner.update(&world);
    assert!(planner.plan().memory().allocations.is_empty(), "so does a service that is no load balancer any more");
}

#[test]
fn no_map_order_nondeterminism() {
    let names: Vec<String> = (0..50).map(|n| format!("s{n}")).collect();
    let pools = || (0..10).map(|n| pool(&format!("p{n}"), &[&format!("10.0.{n}.0/30")]));
    let forwards = world(names.iter().map(|name| service(name)), pools());
    let backwards = world(names.iter().rev().map(|name| service(name)), pools().collect::<Vec<_>>().into_iter().rev());
    assert_eq!(plan(&forwards, &Memory::default()), plan(&backwards, &Memory::default()));
}
