//! Services that cannot be read, but hold addresses.

use std::collections::BTreeSet;

use evenkeel_plan::World;
use evenkeel_plan::world::{Gaps, Kind, ObjectName, Service};
use evenkeel_sources::Update;

use crate::reconcile::addresses;

/// The World of an update with what the API says of services that were never readable: a stand-in for each, which asks for
/// exactly what it has. So nobody else gets it, and those that are really gone let go of theirs. Returns the stand-ins'
/// names as well: nothing is written to those.
pub(crate) fn complete(update: &Update, class: Option<&String>) -> (World, BTreeSet<ObjectName>) {
    let mut world = (*update.world).clone();
    world.load_balancer_class = class.cloned();
    let mut unread = BTreeSet::new();
    if world.gaps.services {
        for (key, seen) in update.observed.iter().filter(|(key, _)| key.kind == Kind::Service) {
            let addresses = addresses(seen);
            if world.services.contains_key(&key.name) || seen.class.as_ref() != Some(&world.load_balancer_class) {
                continue;
            }
            unread.insert(key.name.clone());
            let mut service = Service::new(key.name.clone());
            service.is_load_balancer = true;
            service.load_balancer_class.clone_from(&world.load_balancer_class);
            service.requested.annotated_addresses.clone_from(&addresses);
            service.status_addresses = addresses;
            if !service.status_addresses.is_empty() {
                world.services.insert(key.name.clone(), service.into());
            }
        }
        world.gaps = Gaps { services: false, ..world.gaps };
    }
    (world, unread)
}
