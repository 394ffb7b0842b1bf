//! What is to be monitored: frontends, with the backends a node uses of each.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use evenkeel_plan::frontends::{Frontend, FrontendKey, NodeView, eligible};
use evenkeel_plan::world::{HealthCheck, ObjectName};

/// A frontend whose backends are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Which frontend.
    pub frontend: FrontendKey,
    /// Its service. All its frontends share what is known of a backend.
    pub service: ObjectName,
    /// How its backends are checked.
    pub check: Arc<HealthCheck>,
    /// The backends this node can use.
    pub members: Vec<Member>,
}

/// A backend of a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its address and port.
    pub address: SocketAddr,
    /// The UID of the pod behind it: another UID at the same address is another backend.
    pub uid: Option<String>,
    /// Whether this node checks it. Others count as healthy: whoever runs them checks them.
    pub is_checked: bool,
    /// Whether it takes new flows, if it is healthy and no nearer one is.
    pub is_eligible: bool,
    /// How much falls to it beside the others.
    pub weight: u32,
}

impl Group {
    /// What `node` monitors of a frontend; `None` if no check is asked for. It checks the backends it runs itself, and those
    /// of which nobody knows where they run, as outside a cluster.
    pub fn of(frontend: &Frontend, node: NodeView<'_>) -> Option<Self> {
        let check = Arc::clone(frontend.health.as_ref()?);
        let eligible: BTreeSet<SocketAddr> =
            eligible(frontend.for_node(node)).iter().map(|backend| backend.socket_address()).collect();
        let usable = frontend.for_node(node).filter(|backend| backend.state.is_usable());
        let members = usable.map(|backend| Member {
            address: backend.socket_address(),
            uid: backend.target_uid.clone(),
            is_checked: backend.node.as_deref().is_none_or(|runs_on| runs_on == node.name),
            is_eligible: eligible.contains(&backend.socket_address()),
            weight: backend.weight.get().into(),
        });
        Some(Self { frontend: frontend.key(), service: frontend.service.clone(), check, members: members.collect() })
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_plan::frontends::of_service;
    use evenkeel_plan::range::IpFamily;
    use evenkeel_plan::world::{
        Endpoint, EndpointPort, EndpointSlice, HealthProbe, Hints, Protocol, Service, ServicePort, TrafficPolicy,
        Weight,
    };

    use super::*;

    fn endpoint(last: u8, node: Option<&str>) -> Endpoint {
        Endpoint {
            addresses: vec![[10, 1, 0, last].into()],
            ready: true,
            serving: true,
            terminating: false,
            node: node.map(str::to_owned),
            zone: None,
            hints: Hints::default(),
            target_uid: Some(format!("uid-{last}")),
        }
    }

    fn frontend(change: impl FnOnce(&mut Service), endpoints: Vec<Endpoint>) -> Frontend {
        let name = ObjectName::new("default", "web");
        let mut service = Service {
            ports: vec![ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, target: None }],
            health: Some(HealthCheck::new(HealthProbe::Tcp).into()),
            ..Service::new(name.clone())
        };
        change(&mut service);
        let slice = EndpointSlice {
            name,
            service: Some("web".to_owned()),
            address_type: IpFamily::V4,
            weight: Weight::ONE,
            ports: vec![EndpointPort { name: String::new(), protocol: Protocol::Tcp, port: 8080 }],
            endpoints,
        };
        of_service(&service, &[[10, 0, 0, 1].into()], &[&slice], &mut Vec::new()).remove(0)
    }

    /// The last octet of each member, whether it is checked, and whether it is eligible.
    fn members(frontend: &Frontend) -> Vec<(u8, bool, bool)> {
        let group = Group::of(frontend, NodeView::named("here")).unwrap();
        let last = |member: &Member| match member.address.ip() {
            std::net::IpAddr::V4(address) => address.octets()[3],
            std::net::IpAddr::V6(_) => panic!(),
        };
        group.members.iter().map(|member| (last(member), member.is_checked, member.is_eligible)).collect()
    }

    #[test]
    fn a_node_checks_its_own_backends_and_those_of_no_node() {
        let endpoints = || vec![endpoint(1, Some("here")), endpoint(2, Some("there")), endpoint(3, None)];
        let cluster = frontend(|_| {}, endpoints());
        assert_eq!(members(&cluster), [(1, true, true), (2, false, true), (3, true, true)]);
        let local = frontend(|service| service.traffic_policy = TrafficPolicy::Local, endpoints());
        assert_eq!(members(&local), [(1, true, true)]);
        let group = Group::of(&cluster, NodeView::named("here")).unwrap();
        assert_eq!(group.frontend, cluster.key());
        assert_eq!(group.members[0].uid.as_deref(), Some("uid-1"));
    }

    #[test]
    fn who_is_not_asked_to_check_has_nothing_to_do() {
        let frontend = frontend(|service| service.health = None, vec![endpoint(1, None)]);
        assert_eq!(Group::of(&frontend, NodeView::named("here")), None);
    }

    #[test]
    fn those_that_drain_are_checked_and_those_not_ready_are_not() {
        let draining = Endpoint { ready: false, terminating: true, ..endpoint(2, None) };
        let down = Endpoint { ready: false, serving: false, ..endpoint(3, None) };
        let frontend = frontend(|_| {}, vec![endpoint(1, None), draining, down]);
        assert_eq!(members(&frontend), [(1, true, true), (2, true, false)]);
    }
}
