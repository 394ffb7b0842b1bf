//! Frontends: which backends each address and port has, and in which state.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::diagnostic::{Diagnostic, Severity};
use crate::range::IpFamily;
use crate::world::{
    Affinity, Endpoint, EndpointSlice, Forwarding, Kind, ObjectName, Protocol, Service, ServicePort, TrafficPolicy,
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
    /// Whether any backend serves, or only those on the node that received the packet.
    pub policy: TrafficPolicy,
    /// How packets reach a backend; `None`: the node's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<Forwarding>,
    /// Whether a client's flows go to one backend.
    #[serde(skip)]
    pub affinity: Affinity,
    /// The Service it belongs to.
    pub service: ObjectName,
    /// The backends, by address and port.
    pub backends: Vec<Backend>,
}

/// One backend of a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// The port it listens on.
    pub port: u16,
    /// The node it runs on.
    pub node: Option<String>,
    /// What its endpoint's conditions make of it.
    pub state: BackendState,
    /// The UID of the pod behind it: another UID at the same address is another backend.
    #[serde(skip)]
    pub target_uid: Option<String>,
}

impl Backend {
    /// Its address and port: its identity in a Maglev table.
    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// What a backend may be given, by the conditions of its endpoint. Better states come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendState {
    /// Takes new flows.
    Active,
    /// Terminating but serving: established flows only, unless no backend is active (KEP-1669).
    Drain,
    /// Not ready, or terminating and no longer serving.
    Down,
}

impl fmt::Display for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Drain => "drain",
            Self::Down => "down",
        })
    }
}

impl BackendState {
    fn of(endpoint: &Endpoint, publish_not_ready: bool) -> Self {
        if publish_not_ready || (endpoint.ready && !endpoint.terminating) {
            Self::Active
        } else if endpoint.terminating && endpoint.serving {
            Self::Drain
        } else {
            Self::Down
        }
    }
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

    /// The backends this node may use: all, or under [`TrafficPolicy::Local`] those it runs itself.
    pub fn for_node(&self, node: &str) -> impl Iterator<Item = &Backend> {
        let anywhere = self.policy == TrafficPolicy::Cluster;
        self.backends.iter().filter(move |backend| anywhere || backend.node.as_deref() == Some(node))
    }

    /// The backends that take new flows, wherever they run.
    pub fn eligible(&self) -> Vec<&Backend> {
        eligible(self.backends.iter())
    }

    /// The backends that take the new flows this node receives.
    pub fn eligible_for_node(&self, node: &str) -> Vec<&Backend> {
        eligible(self.for_node(node))
    }
}

/// The active backends; when there are none, those that drain, because a terminating backend that still serves is
/// better than no backend (KEP-1669).
pub fn eligible<'a>(backends: impl Iterator<Item = &'a Backend>) -> Vec<&'a Backend> {
    let (active, others): (Vec<_>, Vec<_>) = backends.partition(|backend| backend.state == BackendState::Active);
    if active.is_empty() {
        others.into_iter().filter(|backend| backend.state == BackendState::Drain).collect()
    } else {
        active
    }
}

/// The frontends of a service at its addresses. `slices` are those of this service.
pub(crate) fn of_service(
    service: &Service,
    addresses: &[IpAddr],
    slices: &[&EndpointSlice],
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Frontend> {
    let mut frontends = Vec::new();
    for port in &service.ports {
        if port.protocol == Protocol::Sctp {
            diagnostics.push(sctp_unsupported(service, port));
            continue;
        }
        frontends.extend(addresses.iter().map(|address| frontend(service, port, *address, slices)));
    }
    frontends
}

fn frontend(service: &Service, port: &ServicePort, address: IpAddr, slices: &[&EndpointSlice]) -> Frontend {
    Frontend {
        address,
        port: port.port,
        protocol: port.protocol,
        policy: service.traffic_policy,
        forwarding: service.forwarding,
        affinity: service.affinity,
        service: service.name.clone(),
        backends: backends(service, port, IpFamily::of(address), slices),
    }
}

/// The endpoints of all slices of this family that have the port, each once. While an endpoint moves from one slice to
/// another both may list it: the better state is the newer truth more often than not, and the safer one to act on.
fn backends(service: &Service, port: &ServicePort, family: IpFamily, slices: &[&EndpointSlice]) -> Vec<Backend> {
    let mut merged: BTreeMap<SocketAddr, Backend> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == family) {
        let same_port = |p: &&crate::world::EndpointPort| p.name == port.name && p.protocol == port.protocol;
        for target in slice.ports.iter().filter(same_port) {
            for endpoint in &slice.endpoints {
                let Some(address) = endpoint.addresses.first() else { continue };
                let backend = Backend {
                    address: *address,
                    port: target.port,
                    node: endpoint.node.clone(),
                    state: BackendState::of(endpoint, service.publish_not_ready),
                    target_uid: endpoint.target_uid.clone(),
                };
                match merged.get(&backend.socket_address()) {
                    Some(known) if known.state <= backend.state => {}
                    _ => _ = merged.insert(backend.socket_address(), backend),
                }
            }
        }
    }
    merged.into_values().collect()
}

fn sctp_unsupported(service: &Service, port: &ServicePort) -> Diagnostic {
    Diagnostic {
        severity: Severity::Warning,
        reason: "protocol_unsupported",
        kind: Kind::Service,
        name: service.name.to_string(),
        field: "spec.ports".to_owned(),
        message: format!("port {} is SCTP, which is not forwarded", port.port),
        remedy: "use TCP or UDP, or leave this service to another load balancer".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;
    use crate::plan;
    use crate::world::testing::{endpoint, pool, service, slice};
    use crate::world::{EndpointPort, World};

    fn world(service: Service, slices: Vec<EndpointSlice>) -> World {
        let mut world = World::default();
        world.services.insert(service.name.clone(), service.into());
        for slice in slices {
            world.endpoint_slices.insert(slice.name.clone(), slice.into());
        }
        let pool = pool("pool", &["10.0.0.1/32"]);
        world.pools.insert(pool.name.clone(), pool.into());
        world
    }

    fn only_frontend(world: &World) -> Frontend {
        let frontends = plan(world, &Memory::default()).frontends;
        assert_eq!(frontends.len(), 1, "{frontends:?}");
        Frontend::clone(frontends.values().next().unwrap())
    }

    fn shown(backends: &[&Backend]) -> Vec<String> {
        backends.iter().map(|b| format!("{} {}", b.socket_address(), b.state)).collect()
    }

    #[test]
    fn endpoints_of_all_slices_are_joined() {
        let slices = vec![
            slice("web", "web-1", 8080, vec![endpoint("10.1.0.2")]),
            slice("web", "web-2", 8081, vec![endpoint("10.1.0.1")]),
            slice("other", "other-1", 8080, vec![endpoint("10.1.0.9")]),
        ];
        let frontend = only_frontend(&world(service("web"), slices));
        assert_eq!(shown(&frontend.eligible()), ["10.1.0.1:8081 active", "10.1.0.2:8080 active"]);
    }

    #[test]
    fn a_slice_in_another_namespace_is_another_services() {
        let mut elsewhere = slice("web", "web-1", 8080, vec![endpoint("10.1.0.2")]);
        elsewhere.name.namespace = "other".to_owned();
        assert_eq!(only_frontend(&world(service("web"), vec![elsewhere])).backends, []);
    }

    #[test]
    fn ports_are_joined_by_name_and_protocol() {
        let mut web = service("web");
        web.ports[0].name = "http".to_owned();
        let mut named = slice("web", "web-1", 8080, vec![endpoint("10.1.0.1")]);
        named.ports = vec![
            EndpointPort { name: "metrics".to_owned(), protocol: Protocol::Tcp, port: 9090 },
            EndpointPort { name: "http".to_owned(), protocol: Protocol::Udp, port: 7070 },
            EndpointPort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 8080 },
        ];
        assert_eq!(shown(&only_frontend(&world(web, vec![named])).eligible()), ["10.1.0.1:8080 active"]);
    }

    #[test]
    fn conditions_make_the_state() {
        let of = |ready, serving, terminating| {
            BackendState::of(&Endpoint { ready, serving, terminating, ..endpoint("10.1.0.1") }, false)
        };
        assert_eq!(of(true, true, false), BackendState::Active);
        assert_eq!(of(false, true, true), BackendState::Drain);
        assert_eq!(of(true, true, true), BackendState::Drain, "terminating is never active");
        assert_eq!(of(false, false, true), BackendState::Down);
        assert_eq!(of(false, false, false), BackendState::Down);
        let not_ready = Endpoint { ready: false, serving: false, ..endpoint("10.1.0.1") };
        assert_eq!(BackendState::of(&not_ready, true), BackendState::Active, "publishNotReadyAddresses");
    }

    #[test]
    fn draining_backends_take_new_flows_only_when_none_is_active() {
        let active = endpoint("10.1.0.1");
        let draining = Endpoint { ready: false, terminating: true, ..endpoint("10.1.0.2") };
        let down = Endpoint { ready: false, serving: false, ..endpoint("10.1.0.3") };
        let both = slice("web", "web-1", 8080, vec![active, draining.clone(), down.clone()]);
        let frontend = only_frontend(&world(service("web"), vec![both]));
        assert_eq!(shown(&frontend.eligible()), ["10.1.0.1:8080 active"]);
        assert_eq!(frontend.backends.len(), 3);
        let frontend = only_frontend(&world(service("web"), vec![slice("web", "web-1", 8080, vec![draining, down])]));
        assert_eq!(shown(&frontend.eligible()), ["10.1.0.2:8080 drain"]);
    }

    #[test]
    fn local_policy_keeps_the_nodes_own_backends() {
        let mut web = service("web");
        web.traffic_policy = TrafficPolicy::Local;
        let on = |address, node: &str| Endpoint { node: Some(node.to_owned()), ..endpoint(address) };
        let draining = Endpoint { ready: false, terminating: true, ..on("10.1.0.3", "b") };
        let endpoints = vec![on("10.1.0.1", "a"), draining, endpoint("10.1.0.4")];
        let frontend = only_frontend(&world(web, vec![slice("web", "web-1", 8080, endpoints)]));
        assert_eq!(shown(&frontend.eligible_for_node("a")), ["10.1.0.1:8080 active"]);
        assert_eq!(shown(&frontend.eligible_for_node("b")), ["10.1.0.3:8080 drain"], "the node's last pod serves on");
        assert!(frontend.eligible_for_node("c").is_empty());
    }

    #[test]
    fn an_endpoint_in_two_slices_is_one_backend_in_its_best_state() {
        let down = Endpoint { ready: false, serving: false, ..endpoint("10.1.0.1") };
        for order in [[down.clone(), endpoint("10.1.0.1")], [endpoint("10.1.0.1"), down]] {
            let [first, second] = order;
            let slices = vec![slice("web", "web-1", 8080, vec![first]), slice("web", "web-2", 8080, vec![second])];
            let frontend = only_frontend(&world(service("web"), slices));
            assert_eq!(shown(&frontend.backends.iter().collect::<Vec<_>>()), ["10.1.0.1:8080 active"]);
        }
    }

    #[test]
    fn sctp_is_named_and_left_out() {
        let mut web = service("web");
        web.ports[0].protocol = Protocol::Sctp;
        let plan = plan(&world(web, vec![]), &Memory::default());
        assert!(plan.frontends.is_empty());
        assert_eq!(plan.diagnostics().next().unwrap().reason, "protocol_unsupported");
    }
}
