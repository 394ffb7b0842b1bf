//! The pools addresses come from.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::sharing::InUse;
use crate::diagnostic::{Diagnostic, Severity};
use crate::range::{self, IpFamily, IpRange};
use crate::selector::{self, Labels};
use crate::world::{IpAddressPool, Kind, ObjectName, Service, World};

/// The usable pools, by name.
#[derive(Clone)]
pub(super) struct Pools<'w> {
    usable: Vec<&'w IpAddressPool>,
    /// Those that clash with an earlier one: nothing new comes from them, but what is held stays, so that adding a
    /// pool by mistake costs nobody an address.
    clashing: Vec<&'w IpAddressPool>,
    /// Every address of the pool and family before this one is in use or not handed out. Addresses are only ever
    /// taken during an allocation, so a search never has to start over.
    cursors: BTreeMap<(&'w ObjectName, IpFamily), Cursor>,
}

#[derive(Clone, Copy, Default)]
struct Cursor {
    range: usize,
    address: Option<IpAddr>,
}

impl<'w> Pools<'w> {
    /// The pools that neither overlap with, nor are named like, an earlier one.
    pub(super) fn new(world: &'w World, diagnostics: &mut Vec<Diagnostic>) -> Self {
        let mut sorted: Vec<&IpAddressPool> = world.pools.values().map(|pool| &**pool).collect();
        sorted.sort_by_key(|pool| (&pool.name.name, &pool.name.namespace));
        let (mut usable, mut clashing): (Vec<&IpAddressPool>, Vec<_>) = (Vec::new(), Vec::new());
        for pool in sorted {
            match usable.iter().find_map(|earlier| clash(earlier, pool)) {
                Some(diagnostic) => {
                    diagnostics.push(diagnostic);
                    clashing.push(pool);
                }
                None => usable.push(pool),
            }
        }
        Self { usable, clashing, cursors: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.usable.is_empty()
    }

    pub(super) fn named(&self, name: &str) -> Option<&'w IpAddressPool> {
        self.usable.iter().copied().find(|pool| pool.name.name == name)
    }

    /// The pool this address is in.
    pub(super) fn of(&self, address: IpAddr) -> Option<&'w IpAddressPool> {
        self.usable.iter().copied().find(|pool| pool.ranges.iter().any(|range| range.contains(address)))
    }

    /// The usable pool all these addresses are in.
    pub(super) fn of_all(&self, addresses: &[IpAddr]) -> Option<&'w IpAddressPool> {
        holding(&self.usable, addresses)
    }

    /// The pool all these addresses were given out from.
    pub(super) fn of_held(&self, addresses: &[IpAddr]) -> Option<&'w IpAddressPool> {
        self.of_all(addresses).or_else(|| holding(&self.clashing, addresses))
    }

    /// The pools for a service that asks for none: those reserved for services like it in order of their priority,
    /// then those open to all.
    pub(super) fn automatic(&self, service: &Service, world: &World) -> Vec<&'w IpAddressPool> {
        let mut pools: Vec<&IpAddressPool> =
            self.usable.iter().copied().filter(|pool| pool.auto_assign && allows(pool, service, world)).collect();
        pools.sort_by_key(|pool| match pool.allocation.as_ref().map(|allocation| allocation.priority) {
            Some(0) => (0, u32::MAX),
            Some(priority) => (0, priority),
            None => (1, 0),
        });
        pools
    }

    /// An address of the pool the service can have: one it shares, else the lowest free one.
    pub(super) fn free(
        &mut self,
        pool: &'w IpAddressPool,
        family: IpFamily,
        service: &Service,
        in_use: &InUse<'_>,
    ) -> Option<IpAddr> {
        let here = |address: &IpAddr| IpFamily::of(*address) == family && hands_out(pool, &[*address]);
        if let Some(shared) = in_use.shareable(service).find(here) {
            return Some(shared);
        }
        let cursor = self.cursors.entry((&pool.name, family)).or_default();
        let usable = |address: &IpAddr| !in_use.contains(*address) && hands_out(pool, &[*address]);
        while let Some(range) = pool.ranges.get(cursor.range) {
            let from = cursor.address.unwrap_or(range.first());
            if range.family() == family
                && let Some(address) = addresses(range, from).find(usable)
            {
                cursor.address = Some(address);
                return Some(address);
            }
            *cursor = Cursor { range: cursor.range + 1, address: None };
        }
        None
    }
}

fn holding<'w>(pools: &[&'w IpAddressPool], addresses: &[IpAddr]) -> Option<&'w IpAddressPool> {
    let holds = |pool: &IpAddressPool, address: &IpAddr| pool.ranges.iter().any(|range| range.contains(*address));
    let all = |pool: &&IpAddressPool| addresses.iter().all(|address| holds(pool, address));
    pools.iter().copied().filter(|_| !addresses.is_empty()).find(all)
}

/// The addresses of a range from `from` on.
fn addresses(range: &IpRange, from: IpAddr) -> impl Iterator<Item = IpAddr> {
    let last = range.last();
    std::iter::successors(Some(from), |address| range::successor(*address)).take_while(move |address| *address <= last)
}

/// Whether the pool hands these addresses out: they are in it, and not left out by `avoidBuggyIPs`.
pub(super) fn hands_out(pool: &IpAddressPool, addresses: &[IpAddr]) -> bool {
    addresses.iter().all(|address| {
        pool.ranges.iter().any(|range| range.contains(*address)) && !(pool.avoid_buggy_ips && range::is_buggy(*address))
    })
}

/// Whether the pool's `serviceAllocation` lets this service in.
pub(super) fn allows(pool: &IpAddressPool, service: &Service, world: &World) -> bool {
    let Some(allocation) = &pool.allocation else { return true };
    let unlabelled = Labels::new();
    let labels = world.namespaces.get(&service.name.namespace).map_or(&unlabelled, |labels| &**labels);
    let any_namespace = allocation.namespaces.is_empty() && allocation.namespace_selectors.is_empty();
    let in_namespace = any_namespace
        || allocation.namespaces.contains(&service.name.namespace)
        || allocation.namespace_selectors.iter().any(|selector| selector.matches(labels));
    in_namespace && selector::any_or_all(&allocation.service_selectors, &service.labels)
}

/// Why `later` cannot be used beside `earlier`.
fn clash(earlier: &IpAddressPool, later: &IpAddressPool) -> Option<Diagnostic> {
    let error = |reason, field: String, message, remedy: &str| Diagnostic {
        severity: Severity::Error,
        reason,
        kind: Kind::IpAddressPool,
        name: later.name.to_string(),
        field,
        message,
        remedy: remedy.to_owned(),
    };
    if earlier.name.name == later.name.name {
        let message =
            format!("pools {} and {} have the same name; services refer to pools by name", earlier.name, later.name);
        return Some(error("duplicate_pool", "metadata.name".to_owned(), message, "rename one of them"));
    }
    let ranges = later.ranges.iter().enumerate();
    let mut overlaps = ranges.flat_map(|(n, range)| {
        earlier.ranges.iter().filter(move |other| range.overlaps(other)).map(move |other| (n, range, other))
    });
    let (n, range, other) = overlaps.next()?;
    let message = format!(
        "pool `{}` ({range}) overlaps pool `{}` ({other}); nothing new is taken from `{}`",
        later.name.name, earlier.name.name, later.name.name
    );
    Some(error("pool_overlap", format!("spec.addresses[{n}]"), message, "give each address to one pool only"))
}
