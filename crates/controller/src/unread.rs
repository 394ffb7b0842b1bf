//! Services that cannot be read: what they hold, and what their owners are told.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_plan::World;
use evenkeel_plan::world::{Gaps, Kind, ObjectKey, ObjectName, Service};
use evenkeel_sources::{Diagnostic, Update};

use crate::reconcile::{Note, addresses};

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

/// What the owner of a service is told about it, and its `metadata.uid`.
pub(crate) type Told = (String, Note);

/// Why services cannot be read, and what to do about it. Of one that can be read in part its status tells.
pub(crate) fn notes(update: &Update, class: Option<&String>) -> BTreeMap<ObjectName, Told> {
    let mut notes = BTreeMap::new();
    let is_about_service = |found: &&Diagnostic| found.is_error() && found.kind == Kind::Service.as_str();
    for found in update.diagnostics.iter().filter(is_about_service) {
        let Some((namespace, name)) = found.name.split_once('/') else { continue };
        let key = ObjectKey { kind: Kind::Service, name: ObjectName::new(namespace, name) };
        let read = update.world.services.get(&key.name);
        let Some(seen) = update.observed.get(&key) else { continue };
        let is_ours = seen.class.as_ref().is_some_and(|of| of.as_ref() == class);
        if !is_ours || read.is_some_and(|service| service.requested.unread.is_some()) {
            continue;
        }
        let reason = if addresses(seen).is_empty() { "AllocationFailed" } else { "LoadBalancerFailed" };
        let message = format!("{} [{}]", found.sentence(), found.reason);
        notes.entry(key.name).or_insert_with(|| (seen.uid.clone(), Note { warning: true, reason, message }));
    }
    notes
}
