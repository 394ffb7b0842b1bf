//! Who has which address, and who may share one.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::AllocateError;
use crate::memory::Sharing;
use crate::world::{ObjectName, Service};

/// A service's claim to addresses.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) service: ObjectName,
    /// `None`: it shares with nobody.
    pub(super) sharing: Option<Sharing>,
}

impl Claim {
    pub(super) fn of(service: &Service) -> Arc<Self> {
        Arc::new(Self { service: service.name.clone(), sharing: Sharing::of(service) })
    }
}

/// The claims to each address. A copy shares everything with its original.
#[derive(Clone, Debug, Default)]
pub(super) struct InUse {
    /// By service name, so that a refusal names the same holder whatever the order in which they came.
    claims: OrdMap<IpAddr, Vec<Arc<Claim>>>,
    by_key: OrdMap<String, OrdSet<IpAddr>>,
}

impl InUse {
    pub(super) fn insert(&mut self, address: IpAddr, claim: &Arc<Claim>) {
        let claims = self.claims.entry(address).or_default();
        if let Err(place) = claims.binary_search_by(|other| other.service.cmp(&claim.service)) {
            claims.insert(place, Arc::clone(claim));
        }
        if let Some(sharing) = &claim.sharing {
            self.by_key.entry(sharing.key.clone()).or_default().insert(address);
        }
    }

    /// Take a claim out. Returns whether nobody has the address any more.
    pub(super) fn remove(&mut self, address: IpAddr, service: &ObjectName) -> bool {
        let Some(claims) = self.claims.get_mut(&address) else { return false };
        let Ok(place) = claims.binary_search_by(|claim| claim.service.cmp(service)) else { return false };
        let key = claims.remove(place).sharing.as_ref().map(|sharing| sharing.key.clone());
        let is_free = claims.is_empty();
        if is_free {
            self.claims.remove(&address);
        }
        // Whoever shares an address has the key of all others there.
        if let Some(key) = key.filter(|_| is_free)
            && let Some(addresses) = self.by_key.get_mut(&key)
        {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.by_key.remove(&key);
            }
        }
        is_free
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.claims.contains_key(&address)
    }

    /// The services that have an address, by name.
    pub(super) fn holders(&self, address: IpAddr) -> impl Iterator<Item = &ObjectName> {
        self.claims.get(&address).into_iter().flatten().map(|claim| &claim.service)
    }

    /// The addresses in use under this claim's sharing key that it could have as well.
    pub(super) fn shareable(&self, claim: &Claim) -> impl Iterator<Item = IpAddr> {
        let addresses = claim.sharing.as_ref().and_then(|sharing| self.by_key.get(&sharing.key));
        addresses.into_iter().flatten().copied().filter(|address| self.conflict(*address, claim).is_none())
    }

    /// Why a claim to this address cannot be met.
    pub(super) fn conflict(&self, address: IpAddr, claim: &Claim) -> Option<AllocateError> {
        self.claims.get(&address)?.iter().find_map(|holder| conflict(address, claim, holder))
    }
}

fn conflict(address: IpAddr, claim: &Claim, holder: &Claim) -> Option<AllocateError> {
    let (Some(ours), Some(theirs)) = (&claim.sharing, &holder.sharing) else {
        return Some(AllocateError::AddressInUse(address, holder.service.clone()));
    };
    let conflict = if ours.key != theirs.key {
        "the sharing keys differ"
    } else if !ours.ports.is_disjoint(&theirs.ports) {
        "a port is used by both"
    } else if ours.backends != theirs.backends {
        "under externalTrafficPolicy Local both must select the same pods"
    } else {
        return None;
    };
    Some(AllocateError::SharingConflict { address, holder: holder.service.clone(), conflict })
}
