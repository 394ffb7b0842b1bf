//! Everything known, parsed and validated once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::range::{IpFamily, IpRange};
use crate::selector::{LabelSelector, Labels};

/// The kinds of objects the World is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1 Service`.
    Service,
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice,
    /// `metallb.io/v1beta1 IPAddressPool`.
    IpAddressPool,
    /// `metallb.io/v1beta1 L2Advertisement`.
    L2Advertisement,
    /// `v1 Node`.
    Node,
    /// `v1 Namespace`.
    Namespace,
}

impl Kind {
    /// The kind as a manifest spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::IpAddressPool => "IPAddressPool",
            Self::L2Advertisement => "L2Advertisement",
            Self::Node => "Node",
            Self::Namespace => "Namespace",
        }
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

/// A namespaced object's name, written `namespace/name`.
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
        write!(f, "{}/{}", self.namespace, self.name)
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

/// Everything known about the cluster, or the directory that stands for one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// The `spec.loadBalancerClass` served. `None`: services that name no class.
    pub load_balancer_class: Option<String>,
    /// All services, also those that are not load balancers.
    pub services: BTreeMap<ObjectName, Service>,
    /// All endpoint slices.
    pub endpoint_slices: BTreeMap<ObjectName, EndpointSlice>,
    /// All address pools.
    pub pools: BTreeMap<ObjectName, IpAddressPool>,
    /// All layer 2 advertisements.
    pub l2_advertisements: BTreeMap<ObjectName, L2Advertisement>,
    /// The nodes that may announce, by name.
    pub nodes: BTreeMap<String, Node>,
    /// The labels of each namespace known.
    pub namespaces: BTreeMap<String, Labels>,
}

/// A Service, reduced to what load balancing depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// Its labels, for `serviceSelectors`.
    pub labels: Labels,
    /// `spec.type` is `LoadBalancer`.
    pub is_load_balancer: bool,
    /// `spec.loadBalancerClass`.
    pub load_balancer_class: Option<String>,
    /// `spec.ipFamilies`, in order of preference; empty when the manifest leaves it to the default.
    pub ip_families: Vec<IpFamily>,
    /// `spec.ipFamilyPolicy`.
    pub ip_family_policy: IpFamilyPolicy,
    /// What it asks for.
    pub requested: Requested,
    /// `allow-shared-ip`: services with the same key may have the same address.
    pub sharing_key: Option<String>,
    /// `spec.externalTrafficPolicy`.
    pub traffic_policy: TrafficPolicy,
    /// `spec.sessionAffinity`.
    pub affinity: Affinity,
    /// `evenkeel.io/forwarding`; `None` leaves it to the node's default.
    pub forwarding: Option<Forwarding>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.selector`.
    pub selector: Labels,
    /// `spec.publishNotReadyAddresses`: endpoints count as ready whatever their conditions say.
    pub publish_not_ready: bool,
    /// `status.loadBalancer.ingress[].ip`: the addresses it was given before.
    pub status_addresses: Vec<IpAddr>,
}

impl Service {
    /// A `ClusterIP` service with everything else at its default.
    pub fn new(name: ObjectName) -> Self {
        Self {
            name,
            labels: Labels::new(),
            is_load_balancer: false,
            load_balancer_class: None,
            ip_families: Vec::new(),
            ip_family_policy: IpFamilyPolicy::SingleStack,
            requested: Requested::default(),
            sharing_key: None,
            traffic_policy: TrafficPolicy::Cluster,
            affinity: Affinity::None,
            forwarding: None,
            ports: Vec::new(),
            selector: Labels::new(),
            publish_not_ready: false,
            status_addresses: Vec::new(),
        }
    }
}

/// The addresses and the pool a Service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requested {
    /// `spec.loadBalancerIP`.
    pub spec_address: Option<IpAddr>,
    /// The `loadBalancerIPs` annotation.
    pub annotated_addresses: Vec<IpAddr>,
    /// The `address-pool` annotation.
    pub pool: Option<String>,
}

/// `spec.ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamilyPolicy {
    /// One address.
    SingleStack,
    /// Two addresses where the pool has both families, else one.
    PreferDualStack,
    /// Two addresses or none.
    RequireDualStack,
}

/// `spec.externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum TrafficPolicy {
    /// Any endpoint serves.
    Cluster,
    /// Only endpoints on the node that received the packet serve.
    Local,
}

impl fmt::Display for TrafficPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        })
    }
}

/// `spec.sessionAffinity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Affinity {
    /// Each flow on its own.
    None,
    /// All flows of a client address go to one backend.
    ClientIp {
        /// How long after its last flow a client is remembered.
        timeout: Duration,
    },
}

/// How packets reach a backend (`evenkeel.io/forwarding`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Forwarding {
    /// Rewrite the destination and let the kernel route.
    Stack,
    /// Rewrite and redirect to the next hop.
    Direct,
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stack => "stack",
            Self::Direct => "direct",
        })
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP; no frontend is made of it yet.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// One of a Service's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, which joins it to the endpoint slices' ports; empty when it has none.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port clients use.
    pub port: u16,
    /// `targetPort`. Endpoint slices carry it resolved, so it is for display only.
    pub target: Option<TargetPort>,
}

/// `targetPort`: a number, or the name of a container's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// A name.
    Name(String),
}

/// An EndpointSlice: some of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its name.
    pub name: ObjectName,
    /// The Service (of the same namespace) the label `kubernetes.io/service-name` names.
    pub service: Option<String>,
    /// The family of all its addresses.
    pub address_type: IpFamily,
    /// The ports every endpoint in it has.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the Service's port it stands for; empty when it has none.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port the backend listens on.
    pub port: u16,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses. They are interchangeable; the first is used, as everywhere in Kubernetes.
    pub addresses: Vec<IpAddr>,
    /// Takes new connections.
    pub ready: bool,
    /// Would be ready if it were not terminating.
    pub serving: bool,
    /// Is being shut down.
    pub terminating: bool,
    /// The node it runs on.
    pub node: Option<String>,
    /// The UID of the pod behind it: another UID at the same address is another backend.
    pub target_uid: Option<String>,
}

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

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// The condition `NetworkUnavailable` is true.
    pub network_unavailable: bool,
}

impl Node {
    /// A node of which nothing but the name is known.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), labels: Labels::new(), network_unavailable: false }
    }
}

/// Objects for tests, with defaults everywhere but in what they are about.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A load balancer service `default/<name>` with the nameless port TCP 80.
    pub(crate) fn service(name: &str) -> Service {
        Service {
            is_load_balancer: true,
            ports: vec![ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, target: None }],
            ..Service::new(ObjectName::new("default", name))
        }
    }

    pub(crate) fn pool(name: &str, ranges: &[&str]) -> IpAddressPool {
        IpAddressPool::new(
            ObjectName::new("metallb-system", name),
            ranges.iter().map(|range| range.parse().unwrap()).collect(),
        )
    }

    pub(crate) fn advertisement(name: &str) -> L2Advertisement {
        L2Advertisement::new(ObjectName::new("metallb-system", name))
    }

    /// A ready endpoint on no node in particular.
    pub(crate) fn endpoint(at: &str) -> Endpoint {
        Endpoint {
            addresses: vec![address(at)],
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            target_uid: None,
        }
    }

    /// A slice of `default/<service>` with the nameless port TCP `port`.
    pub(crate) fn slice(service: &str, name: &str, port: u16, endpoints: Vec<Endpoint>) -> EndpointSlice {
        EndpointSlice {
            name: ObjectName::new("default", name),
            service: Some(service.to_owned()),
            address_type: IpFamily::V4,
            ports: vec![EndpointPort { name: String::new(), protocol: Protocol::Tcp, port }],
            endpoints,
        }
    }

    pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// A World of these services and pools.
    pub(crate) fn world(
        services: impl IntoIterator<Item = Service>,
        pools: impl IntoIterator<Item = IpAddressPool>,
    ) -> World {
        World {
            services: services.into_iter().map(|service| (service.name.clone(), service)).collect(),
            pools: pools.into_iter().map(|pool| (pool.name.clone(), pool)).collect(),
            ..World::default()
        }
    }
}
