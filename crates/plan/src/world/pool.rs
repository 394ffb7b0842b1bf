//! Address pools.

use super::ObjectName;
use crate::range::{IpFamily, IpRange};
use crate::selector::{LabelSelector, Labels};

/// An IPAddressPool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpAddressPool {
    /// Its name. Services refer to it without the namespace.
    pub name: ObjectName,
    /// Its labels, for `ipAddressPoolSelectors`.
    pub labels: Labels,
    /// Its addresses.
    pub ranges: Vec<IpRange>,
    /// Serves services that ask for no pool and no address.
    pub auto_assign: bool,
    /// Leaves out `.0` and `.255`.
    pub avoid_buggy_ips: bool,
    /// Which services it is for; `None`: all.
    pub allocation: Option<ServiceAllocation>,
}

impl IpAddressPool {
    /// A pool with these ranges and everything else at its default.
    pub fn new(name: ObjectName, ranges: Vec<IpRange>) -> Self {
        Self { name, labels: Labels::new(), ranges, auto_assign: true, avoid_buggy_ips: false, allocation: None }
    }
}

/// `spec.serviceAllocation`: which services a pool is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceAllocation {
    /// Lower values are used first; 0 comes last.
    pub priority: u32,
    /// Namespaces by name. Neither these nor selectors: all.
    pub namespaces: Vec<String>,
    /// Namespaces by label.
    pub namespace_selectors: Vec<LabelSelector>,
    /// Services by label; none: all.
    pub service_selectors: Vec<LabelSelector>,
}

impl IpAddressPool {
    /// How many addresses of a family it hands out; `u128::MAX` for all there are.
    pub fn size(&self, family: IpFamily) -> u128 {
        let of_family = self.ranges.iter().filter(|range| range.family() == family);
        let size = |range: &IpRange| range.len().saturating_sub(if self.avoid_buggy_ips { range.buggy() } else { 0 });
        of_family.map(size).fold(0, u128::saturating_add)
    }
}
