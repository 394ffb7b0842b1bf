//! Addresses a controller has given, which its agents take from the services' status.
//!
//! What the status says is carried out, whether or not the service still asks for it: that is the controller's business,
//! and it will say so there. Three things are refused: an address two services cannot share, which stays with the one
//! that had it; one that no pool explains, unless it is held already, so that writing a status is not enough to have any
//! address announced; and nothing is refused for pools that are not known.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use super::{AllocateError, Candidate, Passes};
use crate::memory::Holding;
use crate::world::ObjectName;

/// Give each service the addresses of its status, those first that have them already.
pub(super) fn take(passes: &mut Passes<'_>, candidates: &mut [Candidate<'_>], held: &OrdMap<ObjectName, Arc<Holding>>) {
    for of_holders in [true, false] {
        for candidate in candidates.iter_mut() {
            let held = held.get(&candidate.service.name).map_or(&[][..], |holding| &holding.addresses);
            let given = &candidate.service.status_addresses;
            if given.iter().any(|address| held.contains(address)) == of_holders {
                take_one(passes, candidate, held);
            }
        }
    }
}

fn take_one(passes: &mut Passes<'_>, candidate: &mut Candidate<'_>, held: &[IpAddr]) {
    candidate.error = None;
    let any_pool = passes.pools.is_empty() || passes.world.gaps.pools;
    for address in &candidate.service.status_addresses {
        let explained = any_pool || held.contains(address) || passes.pools.know(*address);
        let refused = match passes.in_use.conflict(*address, &candidate.claim) {
            None if explained => None,
            None => Some(AllocateError::AddressNotInPool(*address, "any pool".to_owned())),
            conflict => conflict,
        };
        match refused {
            Some(error) => candidate.error = Some(error),
            None => {
                passes.in_use.insert(*address, &candidate.claim);
                candidate.addresses.push(*address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::memory::Memory;
    use crate::world::testing::{address, edit, pool, service, world};
    use crate::world::{ObjectName, Service, World};
    use crate::{Plan, Planner, plan};

    fn with_status(name: &str, addresses: &[&str]) -> Service {
        Service { status_addresses: addresses.iter().map(|text| address(text)).collect(), ..service(name) }
    }

    fn given(services: impl IntoIterator<Item = Service>, ranges: &[&str]) -> World {
        let pools = ranges.iter().enumerate().map(|(n, range)| pool(&format!("p{n}"), &[range]));
        World { given_addresses: true, ..world(services, pools.collect::<Vec<_>>()) }
    }

    fn addresses(plan: &Plan, name: &str) -> Vec<String> {
        plan.services[&ObjectName::new("default", name)].addresses.iter().map(ToString::to_string).collect()
    }

    fn error(plan: &Plan, name: &str) -> Option<&'static str> {
        plan.services[&ObjectName::new("default", name)].error.as_ref().map(|error| error.reason)
    }

    #[test]
    fn nothing_is_allocated() {
        let plan = plan(&given([service("a")], &["10.0.0.0/24"]), &Memory::default());
        assert_eq!((addresses(&plan, "a"), error(&plan, "a")), (Vec::new(), None));
        assert!(plan.memory().allocations.is_empty());
    }

    #[test]
    fn what_the_controller_wrote_is_carried_in_its_order_whatever_the_service_asks_for() {
        let mut both = with_status("a", &["2001:db8::1", "10.0.0.1"]);
        both.requested.spec_address = Some(address("10.0.0.9"));
        both.requested.pool = Some("another".to_owned());
        let plan = plan(&given([both], &["10.0.0.0/24", "2001:db8::/120"]), &Memory::default());
        assert_eq!((addresses(&plan, "a"), error(&plan, "a")), (vec!["2001:db8::1".into(), "10.0.0.1".into()], None));
    }

    #[test]
    fn while_no_pool_is_known_every_address_is_served() {
        let plan = plan(&given([with_status("a", &["10.0.0.1"])], &[]), &Memory::default());
        assert_eq!(addresses(&plan, "a"), ["10.0.0.1"]);
    }

    #[test]
    fn an_address_no_pool_explains_is_not_taken_but_kept() {
        let mut seen = given([with_status("a", &["10.0.0.1"])], &["10.7.0.0/24"]);
        let refused = plan(&seen, &Memory::default());
        assert_eq!((addresses(&refused, "a"), error(&refused, "a")), (Vec::new(), Some("address_not_in_pool")));
        // A pool that shrinks is the controller's to act upon first.
        let mut planner = Planner::new(Memory::default());
        let wide = pool("p0", &["10.0.0.0/8"]);
        let narrow = std::mem::take(&mut seen.pools);
        seen.pools.insert(wide.name.clone(), wide.into());
        planner.update(&seen);
        seen.pools = narrow;
        planner.update(&seen);
        assert_eq!(addresses(planner.plan(), "a"), ["10.0.0.1"]);
        edit(&mut seen.services, &ObjectName::new("default", "a"), |service| {
            service.status_addresses = vec![address("10.7.0.1")];
        });
        planner.update(&seen);
        assert_eq!(addresses(planner.plan(), "a"), ["10.7.0.1"], "which it does by another status");
    }

    #[test]
    fn of_two_with_one_address_the_holder_keeps_it() {
        let mut seen = given([with_status("b", &["10.0.0.1"])], &["10.0.0.0/24"]);
        let mut planner = Planner::new(Memory::default());
        planner.update(&seen);
        let late = with_status("a", &["10.0.0.1"]);
        seen.services.insert(late.name.clone(), late.into());
        planner.update(&seen);
        assert_eq!(addresses(planner.plan(), "b"), ["10.0.0.1"]);
        assert_eq!(error(planner.plan(), "a"), Some("address_in_use"));
        edit(&mut seen.services, &ObjectName::new("default", "b"), |service| service.status_addresses.clear());
        planner.update(&seen);
        assert_eq!(addresses(planner.plan(), "a"), ["10.0.0.1"], "until it is taken from it");
    }
}
