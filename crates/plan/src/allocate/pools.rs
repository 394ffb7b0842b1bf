//! The pools addresses come from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::AllocateError;
use super::sharing::{Claim, InUse};
use crate::diagnostic::{Diagnostic, Severity};
use crate::range::{self, IpFamily, IpRange};
use crate::selector::{self, Labels};
use crate::world::{IpAddressPool, Kind, ObjectName, Service, World};

/// The pools by name, and where each address belongs.
#[derive(Debug, Default)]
pub(super) struct Pools {
    usable: BTreeMap<String, Arc<IpAddressPool>>,
    /// Every range of the usable pools, by its first address. They do not overlap.
    ranges: BTreeMap<IpAddr, (IpRange, Arc<IpAddressPool>)>,
    /// The usable pools that serve whoever asks for none, in the order in which they are tried.
    automatic: Vec<Arc<IpAddressPool>>,
    /// Those that are refused or clash with an earlier one: nothing new comes from them, but what is held stays, so that adding a
    /// pool by mistake costs nobody an address.
    clashing: Vec<Arc<IpAddressPool>>,
}

impl Pools {
    /// The pools that neither are refused, nor overlap with, nor are named like, an earlier one.
    pub(super) fn new(world: &World, refused: &BTreeSet<ObjectName>, diagnostics: &mut Vec<Diagnostic>) -> Self {
        let mut sorted: Vec<&Arc<IpAddressPool>> = world.pools.values().collect();
        sorted.sort_by_key(|pool| (&pool.name.name, &pool.name.namespace));
        let mut pools = Self::default();
        for pool in sorted {
            if refused.contains(&pool.name) {
                pools.clashing.push(Arc::clone(pool));
                continue;
            }
            match pools.clash(pool) {
                Some(diagnostic) => {
                    diagnostics.push(diagnostic);
                    pools.clashing.push(Arc::clone(pool));
                }
                None => pools.insert(pool),
            }
        }
        let automatic = pools.usable.values().filter(|pool| pool.auto_assign);
        pools.automatic = automatic.cloned().collect();
        pools.automatic.sort_by_key(|pool| match pool.allocation.as_ref().map(|allocation| allocation.priority) {
            Some(0) => (0, u32::MAX),
            Some(priority) => (0, priority),
            None => (1, 0),
        });
        pools
    }

    fn insert(&mut self, pool: &Arc<IpAddressPool>) {
        self.usable.insert(pool.name.name.clone(), Arc::clone(pool));
        for range in &pool.ranges {
            self.ranges.insert(range.first(), (*range, Arc::clone(pool)));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.usable.is_empty()
    }

    pub(super) fn named(&self, name: &str) -> Result<&Arc<IpAddressPool>, AllocateError> {
        let is_clashing = || self.clashing.iter().any(|pool| pool.name.name == name);
        self.usable.get(name).ok_or_else(|| match is_clashing() {
            true => AllocateError::PoolUnusable(name.to_owned()),
            false => AllocateError::PoolNotFound(name.escape_debug().to_string()),
        })
    }

    /// The pool this address is in.
    pub(super) fn of(&self, address: IpAddr) -> Option<&Arc<IpAddressPool>> {
        let (_, (range, pool)) = self.ranges.range(..=address).next_back()?;
        range.contains(address).then_some(pool)
    }

    /// The usable pool all these addresses are in.
    pub(super) fn of_all(&self, addresses: &[IpAddr]) -> Option<&Arc<IpAddressPool>> {
        let (first, others) = addresses.split_first()?;
        let pool = self.of(*first)?;
        others.iter().all(|address| self.of(*address).is_some_and(|other| Arc::ptr_eq(pool, other))).then_some(pool)
    }

    /// The pool all these addresses were given out from.
    pub(super) fn of_held(&self, addresses: &[IpAddr]) -> Option<&Arc<IpAddressPool>> {
        let holds_all = |pool: &&Arc<IpAddressPool>| addresses.iter().all(|address| holds(pool, *address));
        self.of_all(addresses).or_else(|| self.clashing.iter().filter(|_| !addresses.is_empty()).find(holds_all))
    }

    /// Whether any pool, usable or not, has the address.
    pub(super) fn know(&self, address: IpAddr) -> bool {
        self.of_held(&[address]).is_some()
    }

    /// The pools for a service that asks for none: those reserved for services like it in order of their priority,
    /// then those open to all.
    pub(super) fn automatic(&self, service: &Service, world: &World) -> Vec<&Arc<IpAddressPool>> {
        self.automatic.iter().filter(|pool| allows(pool, service, world)).collect()
    }

    /// Why `later` cannot be used beside those before it.
    fn clash(&self, later: &IpAddressPool) -> Option<Diagnostic> {
        let error = |reason, field: String, message, remedy: &str| Diagnostic {
            severity: Severity::Error,
            reason,
            kind: Kind::IpAddressPool,
            name: later.name.to_string(),
            field,
            message,
            remedy: remedy.to_owned(),
        };
        let name = &later.name.name;
        if let Some(earlier) = self.usable.get(name) {
            let message = format!(
                "pools {} and {} have the same name; services refer to pools by name",
                earlier.name, later.name
            );
            return Some(error("duplicate_pool", "metadata.name".to_owned(), message, "rename one of them"));
        }
        let mut own: BTreeMap<IpAddr, IpRange> = BTreeMap::new();
        for (n, range) in later.ranges.iter().enumerate() {
            let field = || format!("spec.addresses[{n}]");
            // The ranges do not overlap each other, so the last one that starts before this ends is the one to fear.
            if let Some((_, (other, pool))) =
                self.ranges.range(..=range.last()).next_back().filter(|(_, (other, _))| other.overlaps(range))
            {
                let message = format!(
                    "pool `{name}` ({range}) overlaps pool `{}` ({other}); nothing new is taken from `{name}`",
                    pool.name.name
                );
                return Some(error("pool_overlap", field(), message, "give each address to one pool only"));
            }
            if let Some((_, other)) = own.range(..=range.last()).next_back().filter(|(_, other)| other.overlaps(range))
            {
                let message = format!("{range} overlaps {other} of the same pool; nothing new is taken from `{name}`");
                return Some(error("pool_overlap", field(), message, "give each address once"));
            }
            own.insert(range.first(), *range);
        }
        None
    }
}

/// Where the search for a free address of each pool and family goes on. A copy is cheap.
#[derive(Clone, Debug, Default)]
pub(super) struct Cursors(BTreeMap<(String, IpFamily), Cursor>);

/// Every address of the pool and family before this one is in use or not handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Cursor {
    range: usize,
    address: Option<IpAddr>,
}

impl Cursors {
    /// An address of the pool the service can have: one it shares, else the lowest free one.
    pub(super) fn free(
        &mut self,
        pool: &IpAddressPool,
        family: IpFamily,
        claim: &Claim,
        in_use: &InUse,
    ) -> Option<IpAddr> {
        let here =
            |address: &IpAddr| IpFamily::of(*address) == family && holds(pool, *address) && !leaves_out(pool, *address);
        if let Some(shared) = in_use.shareable(claim).find(here) {
            return Some(shared);
        }
        let cursor = self.0.entry((pool.name.name.clone(), family)).or_default();
        let usable = |address: &IpAddr| !in_use.contains(*address) && !leaves_out(pool, *address);
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

    /// An address of the pool is free again: a search starts there at the latest.
    pub(super) fn put_back(&mut self, pool: &IpAddressPool, address: IpAddr) {
        let Some(range) = pool.ranges.iter().position(|range| range.contains(address)) else { return };
        let there = Cursor { range, address: Some(address) };
        let cursor = self.0.entry((pool.name.name.clone(), IpFamily::of(address))).or_default();
        *cursor = there.min(*cursor);
    }
}

/// The addresses of a range from `from` on.
fn addresses(range: &IpRange, from: IpAddr) -> impl Iterator<Item = IpAddr> {
    let last = range.last();
    std::iter::successors(Some(from), |address| range::successor(*address)).take_while(move |address| *address <= last)
}

fn holds(pool: &IpAddressPool, address: IpAddr) -> bool {
    pool.ranges.iter().any(|range| range.contains(address))
}

/// Whether the pool does not hand out this address, although it is in it (`avoidBuggyIPs`).
pub(super) fn leaves_out(pool: &IpAddressPool, address: IpAddr) -> bool {
    pool.avoid_buggy_ips && range::is_buggy(address)
}

/// Whether the pool's `serviceAllocation` lets this service in.
pub(super) fn allows(pool: &IpAddressPool, service: &Service, world: &World) -> bool {
    let Some(allocation) = &pool.allocation else { return true };
    let namespace = &service.name.namespace;
    let any_namespace = allocation.namespaces.is_empty() && allocation.namespace_selectors.is_empty();
    let in_namespace = any_namespace
        || allocation.namespaces.contains(namespace)
        || (!allocation.namespace_selectors.is_empty() && {
            let labels = labels_of(namespace, world);
            allocation.namespace_selectors.iter().any(|selector| selector.matches(&labels))
        });
    in_namespace && selector::any_or_all(&allocation.service_selectors, &service.labels)
}

/// The labels of a namespace, with the one the API server gives to each.
fn labels_of(namespace: &str, world: &World) -> Labels {
    let mut labels = world.namespaces.get(namespace).map(|labels| (**labels).clone()).unwrap_or_default();
    labels.entry("kubernetes.io/metadata.name".to_owned()).or_insert_with(|| namespace.to_owned());
    labels
}
