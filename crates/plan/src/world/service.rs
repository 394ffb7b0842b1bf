//! Services.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{HealthCheck, Limits, ObjectName, Weights};
use crate::range::IpFamily;
use crate::selector::Labels;

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
    /// `evenkeel.io/addresses: node`: it is served at the own addresses of each node, which nobody allocates or announces; of
    /// these only at those it asks for, if it asks for any.
    pub on_node: bool,
    /// `allow-shared-ip`: services with the same key may have the same address.
    pub sharing_key: Option<String>,
    /// `spec.externalTrafficPolicy`.
    pub traffic_policy: TrafficPolicy,
    /// `spec.trafficDistribution`.
    pub traffic_distribution: TrafficDistribution,
    /// `spec.sessionAffinity`.
    pub affinity: Affinity,
    /// `evenkeel.io/forwarding`; `None` leaves it to the node's default.
    pub forwarding: Option<Forwarding>,
    /// `evenkeel.io/source-address: rewrite`: backends see an address of the node's in place of the client's.
    pub rewrite_source: bool,
    /// `evenkeel.io/balancing: per-packet`: each datagram goes to the next backend, and none is answered.
    pub per_packet: bool,
    /// `evenkeel.io/weights`.
    pub weights: Weights,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.selector`.
    pub selector: Labels,
    /// `spec.publishNotReadyAddresses`: endpoints count as ready whatever their conditions say.
    pub publish_not_ready: bool,
    /// `spec.loadBalancerSourceRanges`: who may connect; none: everybody.
    pub source_ranges: Arc<[IpNet]>,
    /// `evenkeel.io/health-check` and what belongs to it; `None`: endpoints' conditions are all there is.
    pub health: Option<Arc<HealthCheck>>,
    /// `evenkeel.io/max-connections` and the like.
    pub limits: Limits,
    /// `spec.healthCheckNodePort`: where other load balancers ask for local endpoints.
    pub health_check_node_port: Option<u16>,
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
            on_node: false,
            sharing_key: None,
            traffic_policy: TrafficPolicy::Cluster,
            traffic_distribution: TrafficDistribution::Anywhere,
            affinity: Affinity::None,
            forwarding: None,
            rewrite_source: false,
            per_packet: false,
            weights: Weights::default(),
            ports: Vec::new(),
            selector: Labels::new(),
            publish_not_ready: false,
            source_ranges: Arc::default(),
            health: None,
            limits: Limits::default(),
            health_check_node_port: None,
            status_addresses: Vec::new(),
        }
    }

    /// Takes what annotations say and the addresses asked for from an earlier version, which could be read.
    pub fn keep_wishes_of(&mut self, earlier: &Self) {
        let unread = self.requested.unread.take();
        self.requested = Requested { unread, ..earlier.requested.clone() };
        self.on_node = earlier.on_node;
        self.sharing_key.clone_from(&earlier.sharing_key);
        self.forwarding = earlier.forwarding;
        self.rewrite_source = earlier.rewrite_source;
        self.per_packet = earlier.per_packet;
        self.weights.clone_from(&earlier.weights);
        self.health.clone_from(&earlier.health);
        self.limits = earlier.limits;
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
    /// Why part of what it says cannot be read, if so. Then it keeps what it has, and gets nothing else.
    pub unread: Option<Unread>,
}

/// What cannot be read of a Service that is known all the same: an annotation, or `spec.loadBalancerIP`. The Kubernetes API
/// stores what it does not understand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The named reason.
    pub reason: &'static str,
    /// The field, what is wrong with it and what to do about it.
    pub message: String,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

/// `spec.trafficDistribution`: which of the endpoints a node may use it prefers (KEP-4444, KEP-3015).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum TrafficDistribution {
    /// All alike: the field is absent.
    Anywhere,
    /// Those in the node's zone; `PreferSameZone`, formerly `PreferClose`.
    PreferSameZone,
    /// Those on the node, else those in its zone; `PreferSameNode`.
    PreferSameNode,
}

impl fmt::Display for TrafficDistribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anywhere => "Anywhere",
            Self::PreferSameZone => "PreferSameZone",
            Self::PreferSameNode => "PreferSameNode",
        })
    }
}
