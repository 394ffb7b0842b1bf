//! Which of the eligible backends a node uses: those that are near, as Kubernetes' own proxy chooses them (KEP-2433,
//! KEP-4444, KEP-3015).
//!
//! The proxy goes by the hints of the endpoints alone; it is the control plane that makes them, by the service's
//! `trafficDistribution`. Where there is no control plane, or an old one, nobody does, and they are made here.

use serde::Serialize;

use super::Backend;
use crate::world::{Endpoint, EndpointSlice, Hints, Node, Service, TrafficDistribution};

/// A node, as far as the choice of backends depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeView<'a> {
    /// Its name.
    pub name: &'a str,
    /// The zone it is in.
    pub zone: Option<&'a str>,
}

impl<'a> NodeView<'a> {
    /// A node of which only the name is known.
    pub fn named(name: &'a str) -> Self {
        Self { name, zone: None }
    }
}

impl<'a> From<&'a Node> for NodeView<'a> {
    fn from(node: &'a Node) -> Self {
        Self { name: &node.name, zone: node.zone() }
    }
}

/// Which backends a node gives its new flows to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All that are eligible.
    Cluster,
    /// Those hinted for its zone.
    SameZone,
    /// Those hinted for the node itself.
    SameNode,
    /// Those it runs itself, under externalTrafficPolicy Local.
    Local,
}

/// Keep those near the node: hinted for the node if every one has such a hint and one is for this node; else hinted for
/// its zone under the same conditions; else all. A single backend without a hint means that the hints are not (or no
/// longer) complete, and to follow them could overload the few.
pub(super) fn keep_near(eligible: &mut Vec<&Backend>, node: NodeView<'_>) -> Scope {
    let for_node = |backend: &Backend| backend.hints.nodes.iter().any(|hinted| hinted == node.name);
    let for_zone = |backend: &Backend| backend.hints.zones.iter().any(|hinted| Some(hinted.as_str()) == node.zone);
    if eligible.iter().all(|backend| !backend.hints.nodes.is_empty())
        && eligible.iter().any(|backend| for_node(backend))
    {
        eligible.retain(|backend| for_node(backend));
        return Scope::SameNode;
    }
    if eligible.iter().all(|backend| !backend.hints.zones.is_empty())
        && eligible.iter().any(|backend| for_zone(backend))
    {
        eligible.retain(|backend| for_zone(backend));
        return Scope::SameZone;
    }
    Scope::Cluster
}

/// Where the hints of a service come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HintSource {
    /// The endpoints have them.
    Given,
    /// None has any, but the service asks for a preference.
    Derived(TrafficDistribution),
    /// There are none, and none are wanted.
    Nowhere,
}

impl HintSource {
    pub(super) fn of(service: &Service, slices: &[&EndpointSlice]) -> Self {
        let mut hints = slices.iter().flat_map(|slice| &slice.endpoints).map(|endpoint| &endpoint.hints);
        if hints.any(|hints| !hints.zones.is_empty() || !hints.nodes.is_empty()) {
            return Self::Given;
        }
        match service.traffic_distribution {
            TrafficDistribution::Anywhere => Self::Nowhere,
            preference => Self::Derived(preference),
        }
    }

    pub(super) fn hints(self, endpoint: &Endpoint) -> Hints {
        let one = |name: &Option<String>| name.iter().cloned().collect();
        match self {
            Self::Given => endpoint.hints.clone(),
            Self::Nowhere | Self::Derived(TrafficDistribution::Anywhere) => Hints::default(),
            Self::Derived(TrafficDistribution::PreferSameZone) => {
                Hints { zones: one(&endpoint.zone), nodes: Vec::new() }
            }
            Self::Derived(TrafficDistribution::PreferSameNode) => {
                Hints { zones: one(&endpoint.zone), nodes: one(&endpoint.node) }
            }
        }
    }
}
