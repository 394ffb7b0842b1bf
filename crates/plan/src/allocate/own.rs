//! Services at the node's own addresses (`evenkeel.io/addresses: node`).
//!
//! Nothing is allocated for them, nobody else is kept from an address, and nothing is announced: the host answers for its
//! addresses by itself, and keeps all ports of them that no such service has. Where it is not known which node is meant, as
//! in a controller, they have no addresses.

use std::net::IpAddr;

use super::sharing::InUse;
use super::{AllocateError, ServiceError, ServicePlan};
use crate::range::IpFamily;
use crate::world::{Service, World};

/// Of all the node's addresses those of its families, and, where it asks for particular ones, those.
pub(super) fn plan(service: &Service, world: &World, in_use: &InUse) -> ServicePlan {
    let (addresses, error) = if is_permitted(service, world) {
        addresses(service, world, in_use)
    } else {
        (Vec::new(), Some(AllocateError::NodeAddressesNotPermitted(service.name.namespace.clone())))
    };
    ServicePlan {
        namespace: service.name.namespace.clone(),
        name: service.name.name.clone(),
        addresses,
        pool: None,
        error: error.as_ref().map(ServiceError::from),
    }
}

fn is_permitted(service: &Service, world: &World) -> bool {
    world.node_address_use.permits(&service.name.namespace)
}

fn addresses(service: &Service, world: &World, in_use: &InUse) -> (Vec<IpAddr>, Option<AllocateError>) {
    let requested = &service.requested;
    let wanted = |address: &IpAddr| {
        let named = requested.spec_address.iter().chain(&requested.annotated_addresses);
        let mut named = named.peekable();
        let of_family = service.ip_families.is_empty() || service.ip_families.contains(&IpFamily::of(*address));
        of_family && (named.peek().is_none() || named.any(|one| one == address))
    };
    let (taken, addresses): (Vec<IpAddr>, Vec<IpAddr>) = world
        .node_addresses
        .iter()
        .copied()
        .filter(wanted)
        .partition(|address| in_use.holders(*address).next().is_some());
    let error = conflict(service, world, &addresses).or_else(|| {
        let address = taken.first()?;
        Some(AllocateError::AddressInUse(*address, in_use.holders(*address).next()?.clone()))
    });
    let addresses = if matches!(error, Some(AllocateError::SharingConflict { .. })) { Vec::new() } else { addresses };
    (addresses, error)
}

/// Two services cannot have one port: the first by name has it, whatever the order in which they came.
fn conflict(service: &Service, world: &World, addresses: &[IpAddr]) -> Option<AllocateError> {
    let address = *addresses.first()?;
    let has = |other: &Service| {
        let mut ports = other.ports.iter();
        ports.any(|port| service.ports.iter().any(|own| (own.port, own.protocol) == (port.port, port.protocol)))
    };
    let before = world.services.range(..service.name.clone());
    let mut rivals = before.filter(|(_, other)| {
        let is_served = other.is_load_balancer && other.load_balancer_class == service.load_balancer_class;
        other.on_node && is_served && is_permitted(other, world)
    });
    let (holder, _) = rivals.find(|(_, other)| has(other))?;
    Some(AllocateError::SharingConflict { address, holder: holder.clone(), conflict: "a port is used by both" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;
    use crate::world::testing::{address, edit, endpoint, pool, service, slice, world};
    use crate::world::{NodeAddressUse, ObjectName, Requested};
    use crate::{Planner, plan};

    fn on_node(name: &str) -> Service {
        Service { on_node: true, ..service(name) }
    }

    fn addresses(world: &World, name: &str) -> Vec<String> {
        let plan = plan(world, &Memory::default());
        plan.services[&ObjectName::new("default", name)].addresses.iter().map(ToString::to_string).collect()
    }

    fn at(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| address(text)).collect()
    }

    #[test]
    fn it_has_the_nodes_addresses_and_none_is_announced() {
        let mut world = world([on_node("web")], []);
        let slice = slice("web", "web-1", 8080, vec![endpoint("10.1.0.1")]);
        world.endpoint_slices.insert(slice.name.clone(), slice.into());
        assert!(addresses(&world, "web").is_empty(), "no node is known");
        world.node_addresses = at(&["192.0.2.1", "2001:db8::1"]);
        assert_eq!(addresses(&world, "web"), ["192.0.2.1", "2001:db8::1"]);
        let plan = plan(&world, &Memory::default());
        assert!(plan.announcements.is_empty());
        assert_eq!(plan.frontends.len(), 2);
        assert!(plan.frontends.values().all(|frontend| frontend.on_node));
        assert!(plan.memory().allocations.is_empty(), "the host remembers its addresses");
    }

    #[test]
    fn it_may_be_of_one_family_or_ask_for_some_of_them() {
        let requested = Requested { annotated_addresses: at(&["192.0.2.2", "192.0.2.9"]), ..Requested::default() };
        let six = Service { ip_families: vec![IpFamily::V6], ..on_node("six") };
        let some = Service { requested, ports: Vec::new(), ..on_node("some") };
        let mut world = world([six, some], []);
        world.node_addresses = at(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        assert_eq!(addresses(&world, "six"), ["2001:db8::1"]);
        assert_eq!(addresses(&world, "some"), ["192.0.2.2"]);
    }

    #[test]
    fn who_may_not_gets_none_and_is_in_nobodys_way() {
        let name = |namespace| ObjectName::new(namespace, "web");
        let of = |namespace| Service { name: name(namespace), on_node: true, ..service("web") };
        let mut world = world([of("a"), of("b")], []);
        world.node_addresses = at(&["192.0.2.1"]);
        world.node_address_use = NodeAddressUse::of(&["b".to_owned()]);
        let mut planner = Planner::new(Memory::default());
        planner.update(&world);
        let refused = planner.plan().services[&name("a")].clone();
        assert!(refused.addresses.is_empty());
        assert_eq!(refused.error.as_ref().unwrap().reason, "node_addresses_not_permitted");
        let served = &planner.plan().services[&name("b")];
        assert_eq!((&served.addresses, &served.error), (&at(&["192.0.2.1"]), &None));

        world.node_address_use = NodeAddressUse::of(&["*".to_owned()]);
        planner.update(&world);
        assert_eq!(planner.plan().services[&name("a")].addresses, at(&["192.0.2.1"]));
        assert_eq!(planner.plan(), &plan(&world, planner.plan().memory()));
        world.node_address_use = NodeAddressUse::of(&[]);
        planner.update(&world);
        assert!(planner.plan().frontends.is_empty());
    }

    #[test]
    fn a_port_and_an_address_have_one_service() {
        let name = |name: &str| ObjectName::new("default", name);
        let mut world = world([on_node("a"), on_node("b"), service("vip")], [pool("pool", &["192.0.2.2/32"])]);
        world.node_addresses = at(&["192.0.2.1", "192.0.2.2"]);
        let first = plan(&world, &Memory::default());
        assert_eq!(first.services[&name("a")].addresses, at(&["192.0.2.1"]), "the other is a VIP");
        assert_eq!(first.services[&name("a")].error.as_ref().unwrap().reason, "address_in_use");
        assert_eq!(first.services[&name("b")].error.as_ref().unwrap().reason, "sharing_conflict");
        assert_eq!(first.services[&name("vip")].addresses, at(&["192.0.2.2"]));

        // Step by step it comes to the same.
        let mut planner = Planner::new(Memory::default());
        planner.update(&world);
        edit(&mut world.services, &name("a"), |service| service.on_node = false);
        world.node_addresses = at(&["192.0.2.1", "192.0.2.3"]);
        planner.update(&world);
        assert_eq!(planner.plan().services[&name("b")].addresses, at(&["192.0.2.1", "192.0.2.3"]));
        assert_eq!(planner.plan(), &plan(&world, planner.plan().memory()));
        world.node_addresses = at(&["192.0.2.3"]);
        planner.update(&world);
        assert_eq!(planner.plan().services[&name("b")].addresses, at(&["192.0.2.3"]));
        let on_node: Vec<_> = planner.plan().frontends.values().filter(|frontend| frontend.on_node).collect();
        assert_eq!(on_node.len(), 1);
        world.services.remove(&name("b"));
        planner.update(&world);
        assert!(!planner.plan().frontends.values().any(|frontend| frontend.on_node));
    }
}
