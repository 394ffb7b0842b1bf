//! Everything known, parsed and validated once.

mod bgp;
mod cluster;
mod endpoints;
mod health;
mod l2;
mod limits;
mod node;
mod object;
mod pool;
mod service;
#[cfg(test)]
pub(crate) mod testing;
mod weights;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

pub use self::bgp::{
    Aggregation, BfdProfile, BgpAdvertisement, BgpPeer, Community, CommunityAliases, CommunityError, CommunityRef,
    Neighbor, Password, PeerAsn, Timers,
};
pub use self::cluster::{AgentState, Cluster};
pub use self::endpoints::{Endpoint, EndpointPort, EndpointSlice, Endpoints, Hints};
pub use self::health::{
    HealthCheck, HealthProbe, HttpHost, HttpPath, HttpProbe, HttpProbeError, StatusCodes, StatusCodesError,
};
pub use self::l2::{L2Advertisement, PreferredNode};
pub use self::limits::{ConnectionRate, Limits, PerSecond, RateError};
pub use self::node::{HOSTNAME, Node, NodeAddressUse, Secret};
pub use self::object::{Object, ObjectKey};
pub use self::pool::{IpAddressPool, ServiceAllocation};
pub use self::service::{
    Affinity, Forwarding, IpFamilyPolicy, Protocol, Requested, Service, ServicePort, TargetPort, TrafficDistribution,
    TrafficPolicy, Unread,
};
pub use self::weights::{Weight, Weights, WeightsError};
use crate::selector::Labels;

/// The kinds of objects the World is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1 Service`.
    Service,
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice,
    /// `v1 Endpoints`, what endpoint slices replaced.
    Endpoints,
    /// `metallb.io/v1beta1 IPAddressPool`.
    IpAddressPool,
    /// `metallb.io/v1beta1 L2Advertisement`.
    L2Advertisement,
    /// `metallb.io/v1beta2 BGPPeer`.
    BgpPeer,
    /// `metallb.io/v1beta1 BGPAdvertisement`.
    BgpAdvertisement,
    /// `metallb.io/v1beta1 BFDProfile`.
    BfdProfile,
    /// `metallb.io/v1beta1 Community`.
    Community,
    /// `v1 Secret`, of which only name and type are read.
    Secret,
    /// `v1 Node`.
    Node,
    /// `v1 Namespace`.
    Namespace,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Endpoints,
        Self::IpAddressPool,
        Self::L2Advertisement,
        Self::BgpPeer,
        Self::BgpAdvertisement,
        Self::BfdProfile,
        Self::Community,
        Self::Secret,
        Self::Node,
        Self::Namespace,
    ];

    /// The kind as a manifest spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Endpoints => "Endpoints",
            Self::IpAddressPool => "IPAddressPool",
            Self::L2Advertisement => "L2Advertisement",
            Self::BgpPeer => "BGPPeer",
            Self::BgpAdvertisement => "BGPAdvertisement",
            Self::BfdProfile => "BFDProfile",
            Self::Community => "Community",
            Self::Secret => "Secret",
            Self::Node => "Node",
            Self::Namespace => "Namespace",
        }
    }

    /// Whether objects of this kind configure the load balancer, as opposed to what it balances. They live together
    /// in one namespace.
    pub fn is_configuration(self) -> bool {
        matches!(
            self,
            Self::IpAddressPool
                | Self::L2Advertisement
                | Self::BgpPeer
                | Self::BgpAdvertisement
                | Self::BfdProfile
                | Self::Community
        )
    }

    /// Whether objects of this kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Node | Self::Namespace)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A namespaced object's name, written `namespace/name`, or `name` where a manifest gives no namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectName {
    /// The namespace; `default` where a manifest gives none.
    pub namespace: String,
    /// The name within the namespace.
    pub name: String,
}

impl ObjectName {
    /// The object `name` in `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// A text that is not `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not of the form namespace/name")]
pub struct ObjectNameError(String);

impl FromStr for ObjectName {
    type Err = ObjectNameError;

    fn from_str(text: &str) -> Result<Self, ObjectNameError> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(ObjectNameError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for ObjectName {
    type Error = ObjectNameError;

    fn try_from(text: String) -> Result<Self, ObjectNameError> {
        text.parse()
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> Self {
        name.to_string()
    }
}

/// Objects by name. The maps are persistent: a copy shares everything with its original, and what differs between two
/// versions is found without looking at what they share. That makes every decision incremental.
pub type Objects<T> = OrdMap<ObjectName, Arc<T>>;

/// What could not be read at all, not even in an earlier version, or is only just being put there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Some services: those that are missing keep the addresses they hold.
    pub services: bool,
    /// Some pools: addresses that are in no pool may be from one of those, and are kept.
    pub pools: bool,
    /// Some L2Advertisements: an address that no other one covers may be for one of those, and whoever announces it goes on.
    pub advertisements: bool,
    /// Some endpoints: a service that has none may have those.
    pub endpoints: bool,
}

impl Gaps {
    /// Anything may be missing.
    pub const ALL: Self = Self { services: true, pools: true, advertisements: true, endpoints: true };

    /// Both what one and what the other does not know.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            services: self.services || other.services,
            pools: self.pools || other.pools,
            advertisements: self.advertisements || other.advertisements,
            endpoints: self.endpoints || other.endpoints,
        }
    }
}

/// Everything known about the cluster, or the directory that stands for one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// The `spec.loadBalancerClass` served. `None`: services that name no class.
    pub load_balancer_class: Option<String>,
    /// A node's label `node.kubernetes.io/exclude-from-external-load-balancers` makes no difference.
    pub ignore_exclude_label: bool,
    /// Services have the addresses their status says, which a controller writes; none is allocated here.
    pub given_addresses: bool,
    /// The own addresses of the node that plans for itself, for services that are served there. Of a whole cluster there are
    /// none.
    pub node_addresses: Vec<IpAddr>,
    /// Whose services may be served there.
    pub node_address_use: NodeAddressUse,
    /// The namespace in which configuration lives. `None`: the one in which most of it is.
    pub system_namespace: Option<String>,
    /// What the nodes of a cluster know of each other. `None`: there is no cluster, and who owned what before is in the Memory.
    pub cluster: Option<Cluster>,
    /// What could not be read: it may exist all the same, so nothing is concluded from its absence.
    pub gaps: Gaps,
    /// All services, also those that are not load balancers.
    pub services: Objects<Service>,
    /// All endpoint slices.
    pub endpoint_slices: Objects<EndpointSlice>,
    /// All legacy endpoints, named like their service.
    pub endpoints: Objects<Endpoints>,
    /// All address pools.
    pub pools: Objects<IpAddressPool>,
    /// All layer 2 advertisements.
    pub l2_advertisements: Objects<L2Advertisement>,
    /// All BGP advertisements.
    pub bgp_advertisements: Objects<BgpAdvertisement>,
    /// All BGP peers.
    pub bgp_peers: Objects<BgpPeer>,
    /// All BFD profiles.
    pub bfd_profiles: Objects<BfdProfile>,
    /// All sets of community aliases.
    pub communities: Objects<CommunityAliases>,
    /// The secrets that exist.
    pub secrets: Objects<Secret>,
    /// The nodes that may announce, by name.
    pub nodes: OrdMap<String, Arc<Node>>,
    /// The labels of each namespace known.
    pub namespaces: OrdMap<String, Arc<Labels>>,
}
