//! Announcements at layer 2.

use super::ObjectName;
use crate::selector::LabelSelector;

/// An L2Advertisement: which pools' addresses are announced by ARP and NDP, from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L2Advertisement {
    /// Its name.
    pub name: ObjectName,
    /// Pools by name.
    pub pools: Vec<String>,
    /// Pools by label. Neither these nor names: all pools.
    pub pool_selectors: Vec<LabelSelector>,
    /// Nodes that may announce; none: all.
    pub node_selectors: Vec<LabelSelector>,
    /// Interfaces to announce on; none: all.
    pub interfaces: Vec<String>,
    /// Services it is for; none: all.
    pub service_selectors: Vec<LabelSelector>,
    /// Nodes preferred at an election.
    pub preferred: Vec<PreferredNode>,
}

impl L2Advertisement {
    /// An advertisement of all pools from all nodes on all interfaces.
    pub fn new(name: ObjectName) -> Self {
        Self {
            name,
            pools: Vec::new(),
            pool_selectors: Vec::new(),
            node_selectors: Vec::new(),
            interfaces: Vec::new(),
            service_selectors: Vec::new(),
            preferred: Vec::new(),
        }
    }
}

/// One of `preferredNodeSelectors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreferredNode {
    /// 1 to 100; the weights of all matching preferences are added up.
    pub weight: u8,
    /// The nodes preferred.
    pub preference: LabelSelector,
}
