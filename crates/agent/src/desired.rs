//! From the Plan to what this node carries: pure, and incremental by what changed.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
};

use evenkeel_loader::{BackendSpec, FrontendSpec, State};
use evenkeel_maps::{FrontendKey, TCP, UDP};
use evenkeel_plan::{
    Plan,
    frontends::{self, Backend, BackendState, Frontend},
    maglev::{self, Seed},
    world::{Affinity, Forwarding, Protocol},
};

/// Builds frontends as the data plane takes them, and remembers their Maglev tables: one is computed again only when the
/// backends that take new flows change.
#[derive(Debug, Default)]
pub struct Desired {
    tables: HashMap<FrontendKey, (Vec<SocketAddr>, Vec<u32>)>,
}

/// A frontend that this data plane does not carry, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCarried {
    /// VIP, port and protocol.
    pub frontend: (IpAddr, u16, Protocol),
    /// The reason's name in log and status.
    pub reason: &'static str,
}

impl Desired {
    /// The frontends of the Plan as `node` carries them; `default` is the forwarding of services that do not choose.
    pub fn frontends(&mut self, plan: &Plan, node: &str, default: Forwarding) -> (Vec<FrontendSpec>, Vec<NotCarried>) {
        let mut specs = Vec::new();
        let mut not_carried = Vec::new();
        for frontend in plan.frontends.values() {
            match frontend_key(frontend) {
                Ok(key) => specs.push(self.frontend(key, frontend, node, default)),
                Err(reason) => not_carried
                    .push(NotCarried { frontend: (frontend.address, frontend.port, frontend.protocol), reason }),
            }
        }
        let carried: HashMap<FrontendKey, ()> = specs.iter().map(|spec| (spec.key, ())).collect();
        self.tables.retain(|key, _| carried.contains_key(key));
        (specs, not_carried)
    }

    fn frontend(&mut self, key: FrontendKey, frontend: &Frontend, node: &str, default: Forwarding) -> FrontendSpec {
        let here: Vec<(&Backend, SocketAddrV4)> = frontend
            .for_node(node)
            .filter_map(|backend| match backend.socket_address() {
                SocketAddr::V4(address) => Some((backend, address)),
                SocketAddr::V6(_) => None,
            })
            .collect();
        let eligible: Vec<SocketAddr> =
            frontends::eligible(here.iter().map(|(backend, _)| *backend)).iter().map(|b| b.socket_address()).collect();
        let places: HashMap<SocketAddr, u32> =
            (0_u32..).zip(&here).map(|(index, (_, address))| (SocketAddr::V4(*address), index)).collect();
        // The table is kept by position among the eligible ones; positions among all backends shift as others come and go.
        let (_, table) = match self.tables.get(&key) {
            Some(known) if known.0 == eligible => known,
            _ => {
                let table = maglev::table(&eligible, Seed::default());
                self.tables.insert(key, (eligible.clone(), table));
                &self.tables[&key]
            }
        };
        let place = |index: &u32| places.get(eligible.get(*index as usize)?).copied();
        FrontendSpec {
            key,
            source_affinity: matches!(frontend.affinity, Affinity::ClientIp { .. }),
            direct: frontend.forwarding.unwrap_or(default) == Forwarding::Direct,
            backends: here
                .iter()
                .map(|(backend, address)| BackendSpec { address: *address, state: state(backend.state) })
                .collect(),
            table: table.iter().filter_map(place).collect(),
        }
    }
}

/// The VIPs this node owns: IPv4 addresses it is to announce, each with the interfaces it is limited to, if any.
#[must_use]
pub fn owned(plan: &Plan, node: &str) -> BTreeMap<Ipv4Addr, Option<Vec<String>>> {
    plan.announcements
        .values()
        .filter(|announcement| announcement.nodes.iter().any(|owner| **owner == *node))
        .filter_map(|announcement| match announcement.address {
            IpAddr::V4(address) => Some((address, announcement.interfaces.clone())),
            IpAddr::V6(_) => None,
        })
        .collect()
}

/// The data plane's key of a frontend, or the named reason why it carries none.
///
/// # Errors
/// `ipv6_not_carried`, `sctp_not_carried`.
pub fn frontend_key(frontend: &Frontend) -> Result<FrontendKey, &'static str> {
    let IpAddr::V4(address) = frontend.address else { return Err("ipv6_not_carried") };
    let protocol = match frontend.protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
        Protocol::Sctp => return Err("sctp_not_carried"),
    };
    Ok(FrontendKey { address: address.octets(), port: frontend.port.to_be_bytes(), protocol, pad: 0 })
}

const fn state(state: BackendState) -> State {
    match state {
        BackendState::Active => State::Active,
        BackendState::Drain => State::Drain,
        BackendState::Down => State::Down,
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_plan::{
        Memory, World, plan,
        range::IpFamily,
        world::{
            Endpoint, EndpointPort, EndpointSlice, Hints, IpAddressPool, L2Advertisement, Node, ObjectName, Service,
            ServicePort, TrafficPolicy,
        },
    };

    use super::*;

    fn endpoint(last: u8, ready: bool, serving: bool, terminating: bool) -> Endpoint {
        Endpoint {
            addresses: vec![Ipv4Addr::new(10, 1, 0, last).into()],
            ready,
            serving,
            terminating,
            node: Some(if last.is_multiple_of(2) { "even" } else { "odd" }.to_owned()),
            zone: None,
            hints: Hints::default(),
            target_uid: None,
        }
    }

    fn world(policy: TrafficPolicy, endpoints: Vec<Endpoint>) -> World {
        let mut world = World::default();
        let name = ObjectName::new("default", "web");
        let port = ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, target: None };
        world.services.insert(
            name.clone(),
            Service { is_load_balancer: true, traffic_policy: policy, ports: vec![port], ..Service::new(name.clone()) }
                .into(),
        );
        world.endpoint_slices.insert(
            name.clone(),
            EndpointSlice {
                name: name.clone(),
                service: Some("web".to_owned()),
                address_type: IpFamily::V4,
                ports: vec![EndpointPort { name: String::new(), protocol: Protocol::Tcp, port: 8080 }],
                endpoints,
            }
            .into(),
        );
        world.pools.insert(name.clone(), IpAddressPool::new(name.clone(), vec!["10.0.0.1/32".parse().unwrap()]).into());
        world.l2_advertisements.insert(name.clone(), L2Advertisement::new(name).into());
        for node in ["even", "odd"] {
            world.nodes.insert(node.to_owned(), Node::new(node).into());
        }
        world
    }

    fn spec(world: &World, node: &str, desired: &mut Desired) -> FrontendSpec {
        let (mut specs, not_carried) = desired.frontends(&plan(world, &Memory::default()), node, Forwarding::Direct);
        assert!(not_carried.is_empty());
        assert_eq!(specs.len(), 1);
        specs.remove(0)
    }

    /// The addresses a table leads to.
    fn reachable(spec: &FrontendSpec) -> Vec<u8> {
        let mut last: Vec<u8> =
            spec.table.iter().map(|index| spec.backends[*index as usize].address.ip().octets()[3]).collect();
        last.sort_unstable();
        last.dedup();
        last
    }

    #[test]
    fn draining_backends_are_listed_but_take_no_new_flows() {
        let endpoints = vec![
            endpoint(1, true, true, false),
            endpoint(2, false, true, true),
            endpoint(3, false, false, false),
            endpoint(4, true, true, false),
        ];
        let spec = spec(&world(TrafficPolicy::Cluster, endpoints), "odd", &mut Desired::default());
        assert_eq!(reachable(&spec), [1, 4]);
        let states: Vec<State> = spec.backends.iter().map(|backend| backend.state).collect();
        assert_eq!(states, [State::Active, State::Drain, State::Down, State::Active]);
        assert!(spec.direct && !spec.source_affinity);
    }

    #[test]
    fn under_local_policy_a_node_uses_its_own_endpoints() {
        let endpoints = vec![endpoint(1, true, true, false), endpoint(2, true, true, false)];
        let world = world(TrafficPolicy::Local, endpoints);
        assert_eq!(reachable(&spec(&world, "odd", &mut Desired::default())), [1]);
        assert_eq!(reachable(&spec(&world, "even", &mut Desired::default())), [2]);
    }

    #[test]
    fn a_remembered_table_points_at_the_right_backends_after_others_came() {
        let mut desired = Desired::default();
        let before = world(TrafficPolicy::Cluster, vec![endpoint(5, true, true, false)]);
        assert_eq!(reachable(&spec(&before, "odd", &mut desired)), [5]);
        // A backend that takes no new flows sorts first and shifts the positions.
        let after = world(TrafficPolicy::Cluster, vec![endpoint(1, false, true, true), endpoint(5, true, true, false)]);
        assert_eq!(reachable(&spec(&after, "odd", &mut desired)), [5]);
    }

    #[test]
    fn one_node_owns_the_vip() {
        let world = world(TrafficPolicy::Cluster, vec![endpoint(1, true, true, false)]);
        let plan = plan(&world, &Memory::default());
        assert_eq!(owned(&plan, "even").len() + owned(&plan, "odd").len(), 1);
    }
}
