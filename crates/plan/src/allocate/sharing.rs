//! Who has which address, and who may share one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::AllocateError;
use crate::selector::Labels;
use crate::world::{Service, TrafficPolicy};

/// The services that have each address.
#[derive(Clone, Default)]
pub(super) struct InUse<'w> {
    holders: BTreeMap<IpAddr, Vec<&'w Service>>,
    by_key: BTreeMap<&'w str, BTreeSet<IpAddr>>,
}

impl<'w> InUse<'w> {
    pub(super) fn insert(&mut self, address: IpAddr, service: &'w Service) {
        let holders = self.holders.entry(address).or_default();
        // By name, so that a refusal names the same holder whatever the order in which they came.
        holders.insert(holders.partition_point(|holder| holder.name < service.name), service);
        if let Some(key) = &service.sharing_key {
            self.by_key.entry(key).or_default().insert(address);
        }
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.holders.contains_key(&address)
    }

    /// The addresses in use under this service's sharing key that it could have as well.
    pub(super) fn shareable(&self, service: &Service) -> impl Iterator<Item = IpAddr> {
        let addresses = service.sharing_key.as_deref().and_then(|key| self.by_key.get(key));
        addresses.into_iter().flatten().copied().filter(|address| self.conflict(*address, service).is_none())
    }

    /// Why the service cannot have this address.
    pub(super) fn conflict(&self, address: IpAddr, service: &Service) -> Option<AllocateError> {
        let holders = self.holders.get(&address)?;
        holders.iter().find_map(|holder| {
            let (Some(ours), Some(theirs)) = (&service.sharing_key, &holder.sharing_key) else {
                return Some(AllocateError::AddressInUse(address, holder.name.clone()));
            };
            let conflict = if ours != theirs {
                "the sharing keys differ"
            } else if !disjoint_ports(service, holder) {
                "a port is used by both"
            } else if backend_key(service) != backend_key(holder) {
                "under externalTrafficPolicy Local both must select the same pods"
            } else {
                return None;
            };
            Some(AllocateError::SharingConflict { address, holder: holder.name.clone(), conflict })
        })
    }
}

fn disjoint_ports(one: &Service, other: &Service) -> bool {
    one.ports.iter().all(|a| other.ports.iter().all(|b| (a.protocol, a.port) != (b.protocol, b.port)))
}

/// What decides which nodes can announce for a service: under Local those of its pods, under Cluster all.
fn backend_key(service: &Service) -> Option<&Labels> {
    match service.traffic_policy {
        TrafficPolicy::Cluster => None,
        TrafficPolicy::Local => Some(&service.selector),
    }
}
