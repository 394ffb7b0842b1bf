//! Which endpoints each service has.

use std::collections::{BTreeMap, BTreeSet};

use imbl::ordmap::DiffItem;

use crate::frontends::BackendState;
use crate::range::IpFamily;
use crate::world::{Endpoint, EndpointSlice, ObjectName, Service, World};

/// The names of each service's endpoint slices, kept up to date from World to World.
#[derive(Debug, Default)]
pub(crate) struct SliceIndex {
    by_service: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
}

impl SliceIndex {
    /// Follow the World to its next version. Returns the services whose endpoints changed.
    pub(crate) fn follow(&mut self, before: &World, now: &World) -> BTreeSet<ObjectName> {
        let mut changed = BTreeSet::new();
        for difference in before.endpoint_slices.diff(&now.endpoint_slices) {
            let (old, new) = match difference {
                DiffItem::Add(name, new) => (None, Some((name, new))),
                DiffItem::Update { old: (name, old), new: (_, new) } => (Some((name, old)), Some((name, new))),
                DiffItem::Remove(name, old) => (Some((name, old)), None),
            };
            if let Some((name, service)) = old.and_then(|(name, slice)| Some((name, service_of(slice)?))) {
                if let Some(names) = self.by_service.get_mut(&service) {
                    names.remove(name);
                    if names.is_empty() {
                        self.by_service.remove(&service);
                    }
                }
                changed.insert(service);
            }
            if let Some((name, service)) = new.and_then(|(name, slice)| Some((name, service_of(slice)?))) {
                self.by_service.entry(service.clone()).or_default().insert(name.clone());
                changed.insert(service);
            }
        }
        for difference in before.endpoints.diff(&now.endpoints) {
            let (DiffItem::Add(name, _) | DiffItem::Update { old: (name, _), .. } | DiffItem::Remove(name, _)) =
                difference;
            changed.insert(name.clone());
        }
        changed
    }

    /// The slices of a service; when it has none, what its legacy Endpoints stand for.
    pub(crate) fn of<'w>(&self, service: &ObjectName, world: &'w World) -> Vec<&'w EndpointSlice> {
        match self.by_service.get(service) {
            Some(names) => {
                names.iter().filter_map(|name| world.endpoint_slices.get(name)).map(|slice| &**slice).collect()
            }
            None => world.endpoints.get(service).into_iter().flat_map(|endpoints| &endpoints.slices).collect(),
        }
    }
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectName> {
    slice.service.as_ref().map(|service| ObjectName::new(&slice.name.namespace, service))
}

/// The endpoints that count when it is to be decided who announces: ready, or serving while they terminate.
pub(crate) fn serving<'w>(
    service: &'w Service,
    slices: &'w [&'w EndpointSlice],
    family: IpFamily,
) -> impl Iterator<Item = &'w Endpoint> {
    let serves = |endpoint: &&Endpoint| BackendState::of(endpoint, service.publish_not_ready).is_usable();
    slices.iter().filter(move |slice| slice.address_type == family).flat_map(|slice| &slice.endpoints).filter(serves)
}
