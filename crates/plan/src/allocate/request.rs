//! What a service asks for, checked for contradictions.

use std::net::IpAddr;

use super::AllocateError;
use super::pools::Pools;
use crate::range::IpFamily;
use crate::world::{IpFamilyPolicy, Service};

/// A service's wishes.
pub(super) struct Request<'w> {
    /// Exactly these addresses; empty: any.
    pub(super) addresses: Vec<IpAddr>,
    /// From this pool; `None`: any.
    pub(super) pool: Option<&'w str>,
    /// Of these families.
    pub(super) families: Families,
}

impl<'w> Request<'w> {
    pub(super) fn of(service: &'w Service) -> Result<Self, AllocateError> {
        let requested = &service.requested;
        if let Some(unread) = &requested.unread {
            return Err(AllocateError::Unread(unread.clone()));
        }
        let addresses: Vec<IpAddr> = match (requested.spec_address, requested.annotated_addresses.as_slice()) {
            (Some(_), [_, ..]) => return Err(AllocateError::TwoRequests),
            (Some(address), []) => vec![address],
            (None, addresses) => addresses.to_vec(),
        };
        let families = match addresses.as_slice() {
            [] => Families::of(service),
            [_] if service.ip_family_policy == IpFamilyPolicy::RequireDualStack => {
                return Err(AllocateError::PolicyMismatch("one address is", "RequireDualStack"));
            }
            [one] => Families::Exactly(vec![IpFamily::of(*one)]),
            [one, two] if IpFamily::of(*one) == IpFamily::of(*two) => return Err(AllocateError::TooManyAddresses),
            [_, _] if service.ip_family_policy == IpFamilyPolicy::SingleStack => {
                return Err(AllocateError::PolicyMismatch("two addresses are", "SingleStack"));
            }
            [one, two] => Families::Exactly(vec![IpFamily::of(*one), IpFamily::of(*two)]),
            _ => return Err(AllocateError::TooManyAddresses),
        };
        let permitted = &service.ip_families;
        if let Some(address) =
            addresses.iter().find(|a| !permitted.is_empty() && !permitted.contains(&IpFamily::of(**a)))
        {
            return Err(AllocateError::FamilyMismatch(*address, list(permitted)));
        }
        Ok(Self { addresses, pool: requested.pool.as_deref(), families })
    }

    /// The wishes of a service that contradicts itself, or cannot be understood: whatever it has is as good as anything.
    pub(super) fn anything(service: &Service) -> Self {
        Self { addresses: Vec::new(), pool: None, families: Families::of(service) }
    }

    /// Whether it asks for particular addresses or a particular pool.
    pub(super) fn is_particular(&self) -> bool {
        !self.addresses.is_empty() || self.pool.is_some()
    }

    /// Whether these addresses are what it asks for. While no pool is known, no pool is the wrong one.
    pub(super) fn is_met_by(&self, addresses: &[IpAddr], pools: &Pools) -> bool {
        let same_addresses =
            self.addresses.len() == addresses.len() && self.addresses.iter().all(|address| addresses.contains(address));
        let right_pool = || match self.pool {
            Some(name) if !pools.is_empty() => pools.of_held(addresses).is_some_and(|pool| pool.name.name == name),
            _ => true,
        };
        (self.addresses.is_empty() || same_addresses) && right_pool()
    }
}

/// The families a service's addresses may be of.
pub(super) enum Families {
    /// One address, IPv4 if there is one: the manifest leaves it open.
    Any,
    /// One address of each of these.
    Exactly(Vec<IpFamily>),
    /// One of each if possible, else one of the first, else one of the second.
    Prefer([IpFamily; 2]),
}

const BOTH: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

impl Families {
    fn of(service: &Service) -> Self {
        let first = service.ip_families.first().copied();
        let both = match first {
            Some(IpFamily::V6) => [IpFamily::V6, IpFamily::V4],
            _ => BOTH,
        };
        match (service.ip_family_policy, first) {
            (IpFamilyPolicy::SingleStack, None) => Self::Any,
            (IpFamilyPolicy::SingleStack, Some(family)) => Self::Exactly(vec![family]),
            (IpFamilyPolicy::PreferDualStack, _) => Self::Prefer(both),
            (IpFamilyPolicy::RequireDualStack, _) => Self::Exactly(both.to_vec()),
        }
    }

    /// The sets of families that satisfy, the best first.
    pub(super) fn choices(&self) -> Vec<&[IpFamily]> {
        match self {
            Self::Any => vec![&BOTH[..1], &BOTH[1..]],
            Self::Exactly(families) => vec![families],
            Self::Prefer(families) => vec![families, &families[..1], &families[1..]],
        }
    }

    /// Those of the held addresses that satisfy, the preferred family first; empty when they do not.
    pub(super) fn keep(&self, held: &[IpAddr]) -> Vec<IpAddr> {
        let of_family = |family: &IpFamily| held.iter().copied().find(|address| IpFamily::of(*address) == *family);
        let choices = self.choices();
        choices.iter().find_map(|families| families.iter().map(of_family).collect()).unwrap_or_default()
    }

    /// The family that would complete these addresses.
    pub(super) fn missing(&self, addresses: &[IpAddr]) -> Option<IpFamily> {
        match self {
            Self::Prefer(families) => {
                families.iter().copied().find(|family| addresses.iter().all(|a| IpFamily::of(*a) != *family))
            }
            Self::Any | Self::Exactly(_) => None,
        }
    }
}

/// `IPv4`, or `IPv4 and IPv6`.
pub(super) fn list(families: &[IpFamily]) -> String {
    families.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}
