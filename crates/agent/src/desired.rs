//! From the Plan to what this node carries: pure, and incremental by what changed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use evenkeel_health::{Portion, View, relieve};
use evenkeel_loader::{BackendSpec, FrontendSpec, Limits, State};
use evenkeel_maps::{FrontendKey, TCP, UDP};
use evenkeel_plan::{
    Plan, World,
    elect::{Announcement, AnnouncementProtocol, Exclusion, ExclusionReason},
    frontends::{self, Backend, BackendState, Frontend, NodeView, members},
    maglev::{Roster, Table, Tables},
    turns::order,
    world::{Affinity, Forwarding, ObjectName, Protocol, Service, TrafficPolicy},
};

use crate::{
    cluster::{Announced, Told},
    health_ports::Report,
};

/// Builds frontends as the data plane takes them. What it built last is remembered: a frontend is built again only when
/// it changed, and its Maglev table is computed again only when no other frontend has or had one for the same backends.
#[derive(Debug, Default)]
pub struct Desired {
    health: Arc<View>,
    tables: Tables,
    built: HashMap<FrontendKey, Built>,
    work: Work,
}

/// How often something had to be done anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Frontends built.
    pub frontends: u64,
    /// Maglev tables computed.
    pub tables: u64,
}

/// A frontend as it was built, with all that it was built from.
#[derive(Debug)]
struct Built {
    from: Arc<Frontend>,
    node: Node,
    shares: Shares,
    spec: Arc<FrontendSpec>,
    /// Held as long as the frontend needs it.
    _table: Option<Arc<Table>>,
}

/// The node it was built for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    name: String,
    zone: Option<String>,
    forwarding: Forwarding,
    masquerade: bool,
}

impl Node {
    fn new(node: NodeView<'_>, defaults: Defaults) -> Self {
        let Defaults { forwarding, masquerade } = defaults;
        Self { name: node.name.to_owned(), zone: node.zone.map(str::to_owned), forwarding, masquerade }
    }
}

/// What a node does with services that do not choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// How packets reach backends.
    pub forwarding: Forwarding,
    /// Towards backends that are not known to be on this node, the client's address is replaced by one of this node's: their
    /// replies would otherwise take another way.
    pub masquerade: bool,
}

/// The backends that health checks keep from their full share of new flows, with what is left of it.
type Shares = BTreeMap<SocketAddr, u8>;

/// The full share.
const FULL_SHARE: u8 = u8::MAX;

/// A frontend that this data plane does not carry, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCarried {
    /// VIP, port and protocol.
    pub frontend: (IpAddr, u16, Protocol),
    /// The reason's name in log and status.
    pub reason: &'static str,
}

impl Desired {
    /// What health checks say from now on.
    pub fn set_health(&mut self, health: Arc<View>) {
        self.health = health;
    }

    /// The frontends of the Plan as `node` carries them.
    pub fn frontends(
        &mut self,
        plan: &Plan,
        node: NodeView<'_>,
        defaults: Defaults,
    ) -> (Vec<Arc<FrontendSpec>>, Vec<NotCarried>) {
        let node = Node::new(node, defaults);
        let mut specs = Vec::new();
        let mut not_carried = Vec::new();
        let mut before = std::mem::take(&mut self.built);
        for frontend in plan.frontends.values() {
            match frontend_key(frontend) {
                Ok(key) => specs.push(self.frontend(key, frontend, &node, before.remove(&key))),
                Err(reason) => {
                    let frontend = (frontend.address, frontend.port, frontend.protocol);
                    not_carried.push(NotCarried { frontend, reason });
                }
            }
        }
        drop(before);
        self.tables.forget_unused();
        (specs, not_carried)
    }

    /// The frontends as `node` carries them that differ between two Plans, the first of which [`Self::frontends`] or this was
    /// called for last; `None` if more differs, so that all are to be looked at.
    pub fn changed(
        &mut self,
        before: &Plan,
        plan: &Plan,
        node: NodeView<'_>,
        defaults: Defaults,
    ) -> Option<Vec<Arc<FrontendSpec>>> {
        let node = Node::new(node, defaults);
        let differing = plan.frontends_since(before)?;
        // What is not carried was told when it came.
        let carried = differing.into_iter().filter_map(|frontend| Some((frontend_key(frontend).ok()?, frontend)));
        let specs = carried
            .map(|(key, frontend)| {
                let built = self.built.remove(&key);
                self.frontend(key, frontend, &node, built)
            })
            .collect();
        self.tables.forget_unused();
        Some(specs)
    }

    /// A frontend as it was built before, if that is still right.
    fn frontend(
        &mut self,
        key: FrontendKey,
        frontend: &Arc<Frontend>,
        node: &Node,
        before: Option<Built>,
    ) -> Arc<FrontendSpec> {
        let shares = self.shares(frontend);
        let same = |built: &Built| {
            (Arc::ptr_eq(&built.from, frontend) || built.from == *frontend)
                && built.node == *node
                && built.shares == shares
        };
        let built = before.filter(same).unwrap_or_else(|| self.build(key, frontend, node, shares));
        let spec = Arc::clone(&built.spec);
        self.built.insert(key, built);
        spec
    }

    /// What was done so far.
    #[must_use]
    pub fn work(&self) -> Work {
        Work { tables: self.tables.computed(), ..self.work }
    }

    /// What health checks leave of the shares of a frontend's backends.
    fn shares(&self, frontend: &Frontend) -> Shares {
        let checked = frontend.health.as_ref().and_then(|_| self.health.of(&frontend.key()));
        let reduced = checked.into_iter().flatten().filter(|(_, health)| health.share < FULL_SHARE);
        reduced.map(|(address, health)| (*address, health.share)).collect()
    }

    fn build(&mut self, key: FrontendKey, frontend: &Arc<Frontend>, node: &Node, shares: Shares) -> Built {
        self.work.frontends += 1;
        let view = NodeView { name: &node.name, zone: node.zone.as_deref() };
        let takers = takers(frontend, view, &shares);
        let of_takers: HashMap<SocketAddr, u8> =
            takers.iter().map(|(backend, share)| (backend.socket_address(), *share)).collect();
        let backends: Vec<BackendSpec> = frontend
            .for_node(view)
            .map(|backend| {
                let address = backend.socket_address();
                // One that takes no new flows is not in the table.
                let share = of_takers.get(&address).copied();
                let is_ill = share.is_none() && shares.get(&address) == Some(&0);
                // Down by either, it keeps its TCP connections; UDP flows, which do not end by themselves, go elsewhere. One that
                // terminates takes new flows where there is no other, and the programs give them to active ones alone.
                let state = match share {
                    Some(_) => State::Active,
                    None if is_ill => State::Down,
                    None => state(backend.state),
                };
                let elsewhere = node.masquerade && backend.node.as_deref() != Some(&node.name);
                BackendSpec { address, state, share: share.unwrap_or(FULL_SHARE), elsewhere }
            })
            .collect();
        let roster = Roster::new(members(takers.iter().map(|(backend, _)| *backend)));
        // The table counts those that take new flows, the data plane all it may meet packets of.
        let positions: HashMap<SocketAddr, u32> = backends.iter().map(|backend| backend.address).zip(0..).collect();
        let members: Vec<Option<u32>> =
            roster.members().iter().map(|member| positions.get(&member.address).copied()).collect();
        let weights: Vec<u32> = roster.members().iter().map(|member| member.weight).collect();
        let maglev = (!frontend.per_packet).then(|| self.tables.get(roster));
        let slots = maglev.as_ref().map_or_else(|| order(&weights), |table| table.slots().to_vec());
        let spec = FrontendSpec {
            key,
            per_packet: frontend.per_packet,
            closed: false,
            source_affinity: matches!(frontend.affinity, Affinity::ClientIp { .. }),
            direct: frontend.forwarding.unwrap_or(node.forwarding) == Forwarding::Direct,
            rewrite_source: frontend.rewrite_source && !frontend.per_packet,
            source_ranges: frontend.source_ranges.to_vec(),
            limits: limits(frontend),
            backends,
            table: slots.into_iter().filter_map(|slot| *members.get(slot as usize)?).collect(),
        };
        Built { from: Arc::clone(frontend), node: node.clone(), shares, spec: spec.into(), _table: maglev }
    }
}

/// The backends a table is made of, those nearest among the healthy, each with its share. Its own look at what is left of
/// them comes last: only here it is certain who is beside whom, while what the checks say may be older than the endpoints.
fn takers<'a>(frontend: &'a Frontend, node: NodeView<'a>, reduced: &Shares) -> Vec<(&'a Backend, u8)> {
    let share = |backend: &Backend| reduced.get(&backend.socket_address()).copied().unwrap_or(FULL_SHARE);
    let (_, chosen) = frontend.choice_of_healthy(node, |backend| share(backend) > 0);
    let mut portions: Vec<Portion> =
        chosen.iter().map(|backend| Portion { weight: backend.weight.get().into(), share: share(backend) }).collect();
    relieve(&mut portions);
    chosen.into_iter().zip(portions.into_iter().map(|portion| portion.share)).collect()
}

/// What the frontend may take, together with the service's others.
fn limits(frontend: &Frontend) -> Option<Limits> {
    let limits = frontend.limits;
    (!limits.is_none()).then(|| Limits {
        shared_by: frontend.service.to_string().into(),
        flows: limits.max_connections,
        rate: limits.connection_rate.map(|rate| (rate.per_second, rate.burst)),
    })
}

/// VIPs that a node is to answer for, each with the interfaces it is limited to, if any.
pub type Owned = BTreeMap<IpAddr, Option<Vec<String>>>;

/// The VIPs this node owns: addresses it is to announce at layer 2, and those it announced last while an advertisement that
/// cannot be read may be for them. What is announced by BGP is nobody's own, and no speaker carries it yet.
#[must_use]
pub fn owned(plan: &Plan, node: &str) -> Owned {
    plan.announcements
        .values()
        .filter(|announcement| announcement.protocol == AnnouncementProtocol::L2)
        .filter(|announcement| {
            let last = || plan.memory().owners.get(&announcement.address);
            let goes_on = announcement.unread && last().is_some_and(|owner| **owner == *node);
            goes_on || announcement.nodes.iter().any(|owner| **owner == *node)
        })
        .map(|announcement| (announcement.address, announcement.interfaces.clone()))
        .collect()
}

/// The VIPs this node holds: it answers for them until the record names another, even if another is elected already, but not
/// for what nobody is to announce. An advertisement that cannot be read may still say that somebody is.
#[must_use]
pub fn held(plan: &Plan, holds: impl Fn(IpAddr) -> bool) -> Owned {
    plan.announcements
        .values()
        .filter(|announcement| announcement.protocol == AnnouncementProtocol::L2)
        .filter(|announcement| announcement.unread || !announcement.nodes.is_empty())
        .filter(|announcement| holds(announcement.address))
        .map(|announcement| (announcement.address, announcement.interfaces.clone()))
        .collect()
}

/// Whether nobody is to announce a VIP because its services have no endpoint: not for want of an advertisement, nor because
/// of the node.
#[must_use]
pub fn is_deserted(plan: &Plan, node: &str, vip: IpAddr) -> bool {
    plan.announcements.get(&(vip, AnnouncementProtocol::L2)).is_some_and(|announcement| {
        let is_so =
            |exclusion: &Exclusion| *exclusion.node == *node && exclusion.reason == ExclusionReason::NoEndpoints;
        announcement.nodes.is_empty() && announcement.excluded.iter().any(is_so)
    })
}

/// What is to be told of the services this node announces, `owns` telling which addresses are its, and of addresses that it
/// cannot announce.
pub(crate) fn told(plan: &Plan, owns: impl Fn(IpAddr) -> bool, failed: &BTreeSet<IpAddr>) -> Told {
    let mut told = Told::default();
    for service in plan.services.values() {
        let here: Vec<&Announcement> = service
            .addresses
            .iter()
            .filter(|address| owns(**address))
            .filter_map(|address| plan.announcements.get(&(*address, AnnouncementProtocol::L2)))
            .filter(|announcement| announcement.unread || !announcement.nodes.is_empty())
            .map(|announcement| &**announcement)
            .collect();
        let (failing, announced): (Vec<_>, Vec<_>) =
            here.into_iter().partition(|announcement| failed.contains(&announcement.address));
        told.failed.extend(failing.iter().map(|announcement| (service.service(), announcement.address)));
        if let Some(first) = announced.first() {
            let whole = announced.len() == service.addresses.len();
            let interfaces = first.interfaces.clone().unwrap_or_default();
            told.announced.insert(service.service(), Announced { interfaces, whole });
        }
    }
    told
}

/// What is to be said at the health check node ports of services: how many of their endpoints are ready here. `healthy`: this
/// node carries what it should.
#[must_use]
pub fn health_reports(world: &World, plan: &Plan, node: &str, healthy: bool) -> BTreeMap<u16, Report> {
    let local = world.services.values().filter(|service| service.traffic_policy == TrafficPolicy::Local);
    let wanted = local.filter_map(|service| Some((service.health_check_node_port?, service)));
    let mut here: BTreeMap<&ObjectName, BTreeSet<IpAddr>> = BTreeMap::new();
    let wanted: Vec<_> = wanted.filter(|(_, service)| plan.services.contains_key(&service.name)).collect();
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    for frontend in plan.frontends.values() {
        let ready = frontend
            .backends
            .iter()
            .filter(|backend| backend.state == BackendState::Active && backend.node.as_deref() == Some(node));
        here.entry(&frontend.service).or_default().extend(ready.map(|backend| backend.address));
    }
    let count = |service: &ObjectName| {
        let addresses = here.get(service).into_iter().flatten();
        let (v4, v6): (Vec<&IpAddr>, Vec<_>) = addresses.partition(|address| address.is_ipv4());
        // Of pods with an address of each family both are there.
        v4.len().max(v6.len())
    };
    let report =
        |service: &Service| Report { service: service.name.clone(), local_endpoints: count(&service.name), healthy };
    wanted.into_iter().map(|(port, service)| (port, report(service))).collect()
}

/// The data plane's key of a frontend, or the named reason why it carries none.
///
/// # Errors
/// `sctp_not_carried`.
pub fn frontend_key(frontend: &Frontend) -> Result<FrontendKey, &'static str> {
    let protocol = match frontend.protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
        Protocol::Sctp => return Err("sctp_not_carried"),
    };
    Ok(FrontendKey::new(frontend.address, frontend.port, protocol))
}

/// The Plan's key of a frontend that the data plane carries.
#[must_use]
pub fn plan_key(key: &FrontendKey) -> Option<frontends::FrontendKey> {
    let protocol = match key.protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return None,
    };
    Some(frontends::FrontendKey { address: key.address.ip(), port: key.port(), protocol })
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
    use evenkeel_health::BackendHealth;
    use evenkeel_plan::{
        Memory, Planner, plan,
        range::IpFamily,
        world::{
            BgpAdvertisement, BgpPeer, Endpoint, EndpointPort, EndpointSlice, HealthCheck, HealthProbe, Hints,
            IpAddressPool, L2Advertisement, Neighbor, Node, PeerAsn, ServicePort, TrafficDistribution, Weight,
        },
    };

    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const DEFAULTS: Defaults = Defaults { forwarding: Forwarding::Direct, masquerade: false };

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
                weight: Weight::ONE,
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
        let (mut specs, not_carried) =
            desired.frontends(&plan(world, &Memory::default()), NodeView::named(node), DEFAULTS);
        assert!(not_carried.is_empty());
        assert_eq!(specs.len(), 1);
        Arc::unwrap_or_clone(specs.remove(0))
    }

    /// The addresses a table leads to.
    fn reachable(spec: &FrontendSpec) -> Vec<u8> {
        let last = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        };
        let mut last: Vec<u8> =
            spec.table.iter().map(|index| last(spec.backends[*index as usize].address.ip())).collect();
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

    /// KEP-1669: where all terminate, those that still serve are what there is.
    #[test]
    fn terminating_backends_take_new_flows_where_there_is_no_other() {
        let endpoints = vec![endpoint(2, false, true, true), endpoint(3, false, false, true)];
        let spec = spec(&world(TrafficPolicy::Cluster, endpoints), "odd", &mut Desired::default());
        assert_eq!(reachable(&spec), [2]);
        let states: Vec<State> = spec.backends.iter().map(|backend| backend.state).collect();
        assert_eq!(states, [State::Active, State::Down], "the programs give new flows to active ones alone");
    }

    #[test]
    fn backends_elsewhere_are_masqueraded_where_the_node_is_told_to() {
        let endpoints = vec![endpoint(1, true, true, false), endpoint(2, true, true, false)];
        let plan = plan(&world(TrafficPolicy::Cluster, endpoints), &Memory::default());
        let elsewhere = |masquerade| -> Vec<bool> {
            let defaults = Defaults { forwarding: Forwarding::Stack, masquerade };
            let (specs, _) = Desired::default().frontends(&plan, NodeView::named("odd"), defaults);
            specs[0].backends.iter().map(|backend| backend.elsewhere).collect()
        };
        assert_eq!(elsewhere(true), [false, true], "the second runs on the node named even");
        assert_eq!(elsewhere(false), [false, false]);
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
    fn nothing_is_computed_that_is_known() {
        let mut desired = Desired::default();
        let first = world(TrafficPolicy::Cluster, vec![endpoint(1, true, true, false), endpoint(2, true, true, false)]);
        spec(&first, "odd", &mut desired);
        assert_eq!(desired.work(), Work { frontends: 1, tables: 1 });
        spec(&first, "odd", &mut desired);
        assert_eq!(desired.work(), Work { frontends: 1, tables: 1 }, "equal frontends of another Plan are the same");
        let draining = world(
            TrafficPolicy::Cluster,
            vec![endpoint(1, true, true, false), endpoint(2, true, true, false), endpoint(3, false, true, true)],
        );
        spec(&draining, "odd", &mut desired);
        assert_eq!(desired.work(), Work { frontends: 2, tables: 1 }, "the same backends take new flows");
        let lost = world(TrafficPolicy::Cluster, vec![endpoint(1, true, true, false)]);
        spec(&lost, "odd", &mut desired);
        assert_eq!(desired.work(), Work { frontends: 3, tables: 2 });
        spec(&lost, "even", &mut desired);
        assert_eq!(desired.work(), Work { frontends: 4, tables: 2 }, "another node with the same backends");
    }

    proptest! {
        /// What is carried by differences is what would be carried if all frontends were looked at each time.
        #[test]
        fn differences_lead_to_the_same_frontends(
            edits in proptest::collection::vec((0..3_u8, 0..4_u8, 0..4_u8, 0..12_u8), 1..40),
        ) {
            let mut world = World::default();
            for service in 0..3 {
                add_service(&mut world, service);
            }
            let node = NodeView::named("odd");
            let mut planner = Planner::new(Memory::default());
            planner.update(&world);
            let mut desired = Desired::default();
            let (all, _) = desired.frontends(planner.plan(), node, DEFAULTS);
            let mut carried: BTreeMap<FrontendKey, Arc<FrontendSpec>> =
                all.into_iter().map(|spec| (spec.key, spec)).collect();
            for (service, last, conditions, what) in edits {
                let before = planner.plan().clone();
                let name = ObjectName::new("default", &*format!("s{service}"));
                if let Some(slice) = world.endpoint_slices.get_mut(&name) {
                    let endpoints = &mut Arc::make_mut(slice).endpoints;
                    endpoints.retain(|endpoint| endpoint.addresses[0] != IpAddr::from([10, 1, 0, last]));
                    if conditions > 0 {
                        endpoints.push(endpoint(last, conditions == 1, conditions < 3, conditions > 1));
                    }
                }
                match what {
                    0 => _ = world.services.remove(&name),
                    1 => add_service(&mut world, service),
                    _ => {}
                }
                planner.update(&world);
                match desired.changed(&before, planner.plan(), node, DEFAULTS) {
                    Some(changed) => carried.extend(changed.into_iter().map(|spec| (spec.key, spec))),
                    None => {
                        let (all, _) = desired.frontends(planner.plan(), node, DEFAULTS);
                        carried = all.into_iter().map(|spec| (spec.key, spec)).collect();
                    }
                }
                let (all, _) = Desired::default().frontends(planner.plan(), node, DEFAULTS);
                let all: BTreeMap<_, _> = all.into_iter().map(|spec| (spec.key, spec)).collect();
                prop_assert_eq!(&carried, &all);
            }
        }
    }

    /// One of some services that are alike.
    fn add_service(world: &mut World, number: u8) {
        let endpoints = vec![endpoint(1, true, true, false), endpoint(2, true, true, false)];
        let one = self::world(TrafficPolicy::Cluster, endpoints);
        let (from, name) = (ObjectName::new("default", "web"), ObjectName::new("default", &*format!("s{number}")));
        let service = Service { name: name.clone(), ..Service::clone(&one.services[&from]) };
        let slice = EndpointSlice {
            name: name.clone(),
            service: Some(name.name.to_string()),
            ..EndpointSlice::clone(&one.endpoint_slices[&from])
        };
        world.services.insert(name.clone(), service.into());
        world.endpoint_slices.insert(name, slice.into());
        let pool = IpAddressPool::new(from.clone(), vec!["10.0.0.0/28".parse().unwrap()]);
        world.pools.insert(from, pool.into());
        world.l2_advertisements = one.l2_advertisements;
        world.nodes = one.nodes;
    }

    #[test]
    fn a_change_of_endpoints_is_no_look_at_other_frontends() {
        let mut world = World::default();
        (0..3).for_each(|service| add_service(&mut world, service));
        let mut planner = Planner::new(Memory::default());
        planner.update(&world);
        let mut desired = Desired::default();
        let node = NodeView::named("odd");
        assert_eq!(desired.frontends(planner.plan(), node, DEFAULTS).0.len(), 3);
        let before = planner.plan().clone();
        let slice = Arc::make_mut(world.endpoint_slices.get_mut(&ObjectName::new("default", "s1")).unwrap());
        slice.endpoints[0].ready = false;
        planner.update(&world);
        let changed = desired.changed(&before, planner.plan(), node, DEFAULTS).unwrap();
        assert_eq!(changed.iter().map(|spec| reachable(spec)).collect::<Vec<_>>(), [[2]]);
        let before = planner.plan().clone();
        world.services.remove(&ObjectName::new("default", "s1"));
        planner.update(&world);
        assert_eq!(desired.changed(&before, planner.plan(), node, DEFAULTS), None);
    }

    #[test]
    fn frontends_with_the_same_backends_share_a_table() {
        let mut world =
            world(TrafficPolicy::Cluster, vec![endpoint(1, true, true, false), endpoint(2, true, true, false)]);
        let udp = ServicePort { name: "udp".to_owned(), protocol: Protocol::Udp, port: 80, target: None };
        let target = EndpointPort { name: "udp".to_owned(), protocol: Protocol::Udp, port: 8080 };
        let name = ObjectName::new("default", "web");
        Arc::make_mut(world.services.get_mut(&name).unwrap()).ports.push(udp);
        Arc::make_mut(world.endpoint_slices.get_mut(&name).unwrap()).ports.push(target);
        let mut desired = Desired::default();
        let plan = plan(&world, &Memory::default());
        let (specs, _) = desired.frontends(&plan, NodeView::named("odd"), DEFAULTS);
        assert_eq!(specs.len(), 2);
        assert_eq!(specs[0].table, specs[1].table);
        assert_eq!(desired.work(), Work { frontends: 2, tables: 1 });
    }

    #[test]
    fn a_node_prefers_its_zone_but_keeps_the_other_backends_for_their_flows() {
        let zoned = |last, zone: &str| Endpoint { zone: Some(zone.to_owned()), ..endpoint(last, true, true, false) };
        let mut world = world(TrafficPolicy::Cluster, vec![zoned(1, "a"), zoned(2, "b")]);
        let name = ObjectName::new("default", "web");
        Arc::make_mut(world.services.get_mut(&name).unwrap()).traffic_distribution =
            TrafficDistribution::PreferSameZone;
        let mut desired = Desired::default();
        let plan = plan(&world, &Memory::default());
        let mut reached = |zone| {
            let node = NodeView { name: "odd", zone };
            let (specs, _) = desired.frontends(&plan, node, DEFAULTS);
            assert_eq!(specs[0].backends.len(), 2);
            reachable(&specs[0])
        };
        assert_eq!(reached(Some("a")), [1]);
        assert_eq!(reached(Some("b")), [2], "a node may change its zone");
        assert_eq!(reached(None), [1, 2]);
    }

    #[test]
    fn new_flows_keep_away_from_those_that_health_checks_found_ill() {
        let endpoints = (1..=3).map(|last| endpoint(last, true, true, false)).collect();
        let mut world = world(TrafficPolicy::Cluster, endpoints);
        let name = ObjectName::new("default", "web");
        let service = Arc::make_mut(world.services.get_mut(&name).unwrap());
        service.health = Some(HealthCheck::new(HealthProbe::Tcp).into());
        let key = plan(&world, &Memory::default()).frontends.values().next().unwrap().key();
        let mut desired = Desired::default();
        let mut reached = |shares: &[(u8, u8)]| {
            let health = shares.iter().map(|(last, share)| {
                let health = BackendHealth {
                    share: *share,
                    state: if *share == 0 { evenkeel_health::State::Down } else { evenkeel_health::State::Warming },
                    is_last_resort: false,
                    is_ejected: false,
                    failure: None,
                    not_checked: None,
                };
                (key, SocketAddr::from(([10, 1, 0, *last], 8080)), health)
            });
            desired.set_health(Arc::new(health.collect()));
            let spec = spec(&world, "odd", &mut desired);
            let states: Vec<State> = spec.backends.iter().map(|backend| backend.state).collect();
            let shares: Vec<u8> = spec.backends.iter().map(|backend| backend.share).collect();
            (reachable(&spec), states, shares, desired.work())
        };
        const ACTIVE: State = State::Active;
        let all = |work| (vec![1, 2, 3], vec![ACTIVE; 3], vec![255; 3], work);
        assert_eq!(reached(&[]), all(Work { frontends: 1, tables: 1 }));
        assert_eq!(reached(&[(2, 255)]), all(Work { frontends: 1, tables: 1 }), "no difference");
        let (reachable, states, _, work) = reached(&[(2, 0)]);
        assert_eq!((reachable, work), (vec![1, 3], Work { frontends: 2, tables: 2 }));
        assert_eq!(states, [ACTIVE, State::Down, ACTIVE]);
        let (reachable, states, shares, _) = reached(&[(2, 15)]);
        assert_eq!((reachable, states, shares), (vec![1, 2, 3], vec![ACTIVE; 3], vec![255, 15, 255]));
        let nobody = reached(&[(1, 0), (2, 0), (3, 0)]);
        assert_eq!(nobody, all(Work { frontends: 4, tables: 3 }), "nobody is worse than somebody ill");
    }

    #[test]
    fn whose_address_backends_see_is_the_services_choice() {
        let mut world = world(TrafficPolicy::Cluster, vec![endpoint(1, true, true, false)]);
        let mut desired = Desired::default();
        assert!(!spec(&world, "odd", &mut desired).rewrite_source);
        let name = ObjectName::new("default", "web");
        Arc::make_mut(world.services.get_mut(&name).unwrap()).rewrite_source = true;
        assert!(spec(&world, "odd", &mut desired).rewrite_source);
    }

    #[test]
    fn a_health_check_port_counts_what_is_ready_here() {
        let endpoints = vec![
            endpoint(1, true, true, false),
            endpoint(2, true, true, false),
            endpoint(3, false, true, true),
            endpoint(5, true, true, false),
        ];
        let mut world = world(TrafficPolicy::Local, endpoints);
        let name = ObjectName::new("default", "web");
        let reported =
            |world: &World, node: &str, healthy| health_reports(world, &plan(world, &Memory::default()), node, healthy);
        assert!(reported(&world, "odd", true).is_empty(), "there is no port");
        Arc::make_mut(world.services.get_mut(&name).unwrap()).health_check_node_port = Some(32_000);
        for (node, local_endpoints) in [("odd", 2), ("even", 1), ("third", 0)] {
            let report = Report { service: name.clone(), local_endpoints, healthy: true };
            assert_eq!(reported(&world, node, true), [(32_000, report)].into(), "{node}");
        }
        assert!(!reported(&world, "odd", false)[&32_000].healthy);
        Arc::make_mut(world.services.get_mut(&name).unwrap()).traffic_policy = TrafficPolicy::Cluster;
        assert!(reported(&world, "odd", true).is_empty(), "every node is as good as any other");
    }

    #[test]
    fn it_is_told_what_is_announced_here_and_what_cannot_be() {
        let mut world = world(TrafficPolicy::Cluster, vec![endpoint(1, true, true, false)]);
        let name = ObjectName::new("default", "web");
        let vip = IpAddr::from([10, 0, 0, 1]);
        let nobody = BTreeSet::new();
        let announced = |interfaces: &[&str]| {
            let interfaces = interfaces.iter().map(|name| (*name).to_owned()).collect();
            Told { announced: [(name.clone(), Announced { interfaces, whole: true })].into(), ..Told::default() }
        };
        let everywhere = plan(&world, &Memory::default());
        assert_eq!(told(&everywhere, |_| true, &nobody), announced(&[]));
        assert_eq!(told(&everywhere, |_| false, &nobody), Told::default(), "another node's");
        Arc::make_mut(world.l2_advertisements.get_mut(&name).unwrap()).interfaces = vec!["eth1".to_owned()];
        let limited = plan(&world, &Memory::default());
        assert_eq!(told(&limited, |_| true, &nobody), announced(&["eth1"]));
        let failed = Told { failed: [(name.clone(), vip)].into(), ..Told::default() };
        assert_eq!(told(&limited, |_| true, &[vip].into()), failed);
    }

    #[test]
    fn one_node_owns_the_vip() {
        let world = world(TrafficPolicy::Cluster, vec![endpoint(1, true, true, false)]);
        let plan = plan(&world, &Memory::default());
        assert_eq!(owned(&plan, "even").len() + owned(&plan, "odd").len(), 1);
    }

    #[test]
    fn who_has_an_address_keeps_it_while_its_advertisement_cannot_be_read() {
        let mut world = world(TrafficPolicy::Cluster, vec![endpoint(1, true, true, false)]);
        let vip = IpAddr::from([10, 0, 0, 1]);
        let memory = plan(&world, &Memory::default()).memory().clone();
        let owner = Arc::clone(&memory.owners[&vip]);
        let other = if &*owner == "odd" { "even" } else { "odd" };
        world.l2_advertisements.clear();
        let withdrawn = plan(&world, &memory);
        assert!(held(&withdrawn, |_| true).is_empty() && owned(&withdrawn, &owner).is_empty(), "it was deleted");
        world.gaps.advertisements = true;
        let unread = plan(&world, &memory);
        assert_eq!(held(&unread, |address| address == vip), [(vip, None)].into(), "by its record");
        assert!(held(&unread, |_| false).is_empty(), "another node's");
        assert_eq!(owned(&unread, &owner), [(vip, None)].into(), "by its memory");
        assert!(owned(&unread, other).is_empty() && owned(&plan(&world, &Memory::default()), &owner).is_empty());
    }

    #[test]
    fn nobody_owns_what_is_announced_by_bgp() {
        let mut world = world(TrafficPolicy::Cluster, vec![endpoint(1, true, true, false)]);
        let name = ObjectName::new("default", "router");
        let peer = BgpPeer {
            name: name.clone(),
            my_asn: 64_500,
            peer_asn: PeerAsn::Number(64_501),
            local_asn: None,
            neighbor: Neighbor::Address(Ipv4Addr::new(192, 0, 2, 1).into()),
            source_address: None,
            port: 179,
            timers: None,
            connect_time: None,
            router_id: None,
            node_selectors: Vec::new(),
            password: None,
            bfd_profile: None,
            graceful_restart: false,
            ebgp_multi_hop: false,
            vrf: None,
            disable_mp: false,
            dual_stack_address_family: false,
        };
        world.bgp_peers.insert(name.clone(), peer.into());
        world.bgp_advertisements.insert(name.clone(), BgpAdvertisement::new(name).into());
        let by_bgp = |plan: &Plan| {
            plan.bgp
                .announcements
                .values()
                .flat_map(|it| it.nodes.clone())
                .map(|node| node.to_string())
                .collect::<Vec<_>>()
        };
        let both = plan(&world, &Memory::default());
        assert_eq!(by_bgp(&both), ["even", "odd"]);
        assert_eq!(owned(&both, "even").len() + owned(&both, "odd").len(), 1, "at layer 2 as before");
        world.l2_advertisements.clear();
        let bgp = plan(&world, &Memory::default());
        assert_eq!(by_bgp(&bgp), ["even", "odd"]);
        assert_eq!((owned(&bgp, "even").len(), owned(&bgp, "odd").len()), (0, 0));
        world.gaps.advertisements = true;
        let unread = plan(&world, &Memory::default());
        assert_eq!(by_bgp(&unread), ["even", "odd"]);
        assert_eq!(held(&unread, |_| true).len(), 1, "it may be announced at layer 2, too");
    }
}
