//! Frontends: which backends each address and port has, in which state, and which of them a node uses.

mod backend;
mod findings;
mod output;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
mod topology;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

pub use self::backend::{Backend, BackendState, eligible, members};
use self::topology::HintSource;
pub use self::topology::{NodeView, Scope};
use crate::diagnostic::Diagnostic;
use crate::range::IpFamily;
use crate::world::{
    Affinity, EndpointPort, EndpointSlice, Forwarding, HealthCheck, Limits, ObjectName, Protocol, Service, ServicePort,
    TrafficDistribution, TrafficPolicy,
};

/// An address, protocol and port clients connect to, with the backends behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Frontend {
    /// The VIP.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// Whether the address is the node's own: nobody announces it, and the host keeps its other ports.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub on_node: bool,
    /// Whether any backend serves, or only those on the node that received the packet.
    pub policy: TrafficPolicy,
    /// Which backends a node prefers.
    #[serde(skip_serializing_if = "output::is_anywhere")]
    pub traffic_distribution: TrafficDistribution,
    /// How packets reach a backend; `None`: the node's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<Forwarding>,
    /// Whether backends see an address of the node's in place of the client's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rewrite_source: bool,
    /// Whether each datagram goes to the next backend. Nothing is remembered of it, so nothing that a backend sends belongs to
    /// it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub per_packet: bool,
    /// Whether a client's flows go to one backend.
    #[serde(skip_serializing_if = "output::is_no_affinity", serialize_with = "output::affinity")]
    pub affinity: Affinity,
    /// Who may connect; none: everybody.
    #[serde(skip_serializing_if = "output::is_empty", serialize_with = "output::ranges")]
    pub source_ranges: Arc<[IpNet]>,
    /// How much of it a node lets through, together with the service's other frontends.
    #[serde(skip_serializing_if = "Limits::is_none", serialize_with = "output::limits")]
    pub limits: Limits,
    /// How its backends are checked.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "output::health")]
    pub health: Option<Arc<HealthCheck>>,
    /// The Service it belongs to.
    pub service: ObjectName,
    /// The backends, by address and port.
    pub backends: Vec<Backend>,
}

/// What tells one frontend from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// The VIP.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl Frontend {
    /// What tells it from others.
    pub fn key(&self) -> FrontendKey {
        FrontendKey { address: self.address, port: self.port, protocol: self.protocol }
    }

    /// The backends this node may use: all, or under [`TrafficPolicy::Local`] those it runs itself. Those that take none
    /// of its new flows are among them, for the sake of flows that are established.
    pub fn for_node<'a>(&'a self, node: NodeView<'a>) -> impl Iterator<Item = &'a Backend> {
        let anywhere = self.policy == TrafficPolicy::Cluster;
        self.backends.iter().filter(move |backend| anywhere || backend.node.as_deref() == Some(node.name))
    }

    /// The backends that take new flows, wherever they run and whoever receives the flow.
    pub fn eligible(&self) -> Vec<&Backend> {
        eligible(self.backends.iter())
    }

    /// The backends that take the new flows this node receives.
    pub fn eligible_for_node<'a>(&'a self, node: NodeView<'a>) -> Vec<&'a Backend> {
        self.choice(node).1
    }

    /// The backends that take the new flows this node receives, and what made them these.
    pub fn choice<'a>(&'a self, node: NodeView<'a>) -> (Scope, Vec<&'a Backend>) {
        self.choice_of_healthy(node, |_| true)
    }

    /// The same, of those that are healthy: where no backend near the node is, those further away take its new flows. If
    /// none is healthy at all, it makes no difference which are.
    pub fn choice_of_healthy<'a>(
        &'a self,
        node: NodeView<'a>,
        is_healthy: impl Fn(&Backend) -> bool,
    ) -> (Scope, Vec<&'a Backend>) {
        let mut eligible = eligible(self.for_node(node));
        if eligible.iter().any(|backend| is_healthy(backend)) {
            eligible.retain(|backend| is_healthy(backend));
        }
        let scope = match self.policy {
            TrafficPolicy::Local => Scope::Local,
            // While nobody is active, those that drain serve everywhere: they are the last resort, not a preference.
            TrafficPolicy::Cluster if eligible.iter().any(|backend| backend.state == BackendState::Active) => {
                topology::keep_near(&mut eligible, node)
            }
            TrafficPolicy::Cluster => Scope::Cluster,
        };
        (scope, eligible)
    }

    /// Whether all nodes use the same backends, as far as can be told without knowing the nodes.
    pub fn is_same_everywhere(&self) -> bool {
        let hinted = |backend: &Backend| !backend.hints.zones.is_empty() || !backend.hints.nodes.is_empty();
        self.policy == TrafficPolicy::Cluster && !self.backends.iter().any(hinted)
    }
}

/// The frontends of a service at its addresses. `slices` are those of this service. They depend on nothing else.
pub fn of_service(
    service: &Service,
    addresses: &[IpAddr],
    slices: &[&EndpointSlice],
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Frontend> {
    let hints = HintSource::of(service, slices);
    let mut frontends = Vec::new();
    for port in service.ports.iter().filter(|port| port.protocol != Protocol::Sctp) {
        for address in addresses {
            frontends.push(Frontend {
                address: *address,
                port: port.port,
                protocol: port.protocol,
                on_node: service.on_node,
                policy: service.traffic_policy,
                traffic_distribution: service.traffic_distribution,
                forwarding: service.forwarding,
                rewrite_source: service.rewrite_source,
                per_packet: service.per_packet && port.protocol == Protocol::Udp,
                affinity: service.affinity,
                source_ranges: Arc::clone(&service.source_ranges),
                limits: service.limits,
                health: service.health.clone(),
                service: service.name.clone(),
                backends: backends(service, port, IpFamily::of(*address), slices, hints),
            });
        }
    }
    findings::report(service, addresses, slices, hints, &frontends, diagnostics);
    frontends
}

/// The endpoints of all slices of this family that have the port, each once.
fn backends(
    service: &Service,
    port: &ServicePort,
    family: IpFamily,
    slices: &[&EndpointSlice],
    hints: HintSource,
) -> Vec<Backend> {
    let mut merged: BTreeMap<SocketAddr, Backend> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == family) {
        for target in slice.ports.iter().filter(|target| stands_for(target, port)) {
            for endpoint in &slice.endpoints {
                // Further addresses are other ways to the same endpoint; the first is used, as everywhere in Kubernetes.
                let Some(address) = endpoint.addresses.first() else { continue };
                let backend = Backend {
                    address: *address,
                    port: target.port,
                    node: endpoint.node.clone(),
                    zone: endpoint.zone.clone(),
                    state: BackendState::of(endpoint, service.publish_not_ready),
                    weight: service.weights.of(*address, endpoint.node.as_deref()).unwrap_or(slice.weight),
                    hints: hints.hints(endpoint),
                    target_uid: endpoint.target_uid.clone(),
                };
                match merged.get(&backend.socket_address()) {
                    Some(known) if known.precedence() <= backend.precedence() => {}
                    _ => _ = merged.insert(backend.socket_address(), backend),
                }
            }
        }
    }
    merged.into_values().collect()
}

/// Whether a slice's port is what the service's port leads to: they have the same name, if only the empty one.
fn stands_for(target: &EndpointPort, port: &ServicePort) -> bool {
    target.name == port.name && target.protocol == port.protocol
}
