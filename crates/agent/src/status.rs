//! What `evenkeel status` shows: the agent's answer on its admin socket.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use evenkeel_health::{BackendHealth, State, View};
use evenkeel_loader::{BackendUse, BackendUses, DataPath, Hook};
use evenkeel_maps::{FrontendKey, Outcome};
use evenkeel_neighbor::Mac;
use evenkeel_plan::{Plan, frontends, world::Forwarding};
use serde::{Deserialize, Serialize};

use crate::{changes, desired::frontend_key};

/// Path of the status on the admin socket.
pub const PATH: &str = "/status";

/// The state of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// Whether every VIP this node should carry is carried and announced.
    pub ready: bool,
    /// `active`, `observe` or `bypass`.
    pub mode: String,
    /// How full the flow table is.
    pub flow_table: FlowTable,
    /// How long changes took since the agent's start.
    #[serde(default)]
    pub changes: Changes,
    /// How often the programs were made to ask the kernel anew for next hops, because routes or neighbours changed.
    pub next_hop_epoch: u32,
    /// Interfaces the programs are attached to.
    pub interfaces: Vec<Interface>,
    /// VIPs by address.
    pub vips: Vec<Vip>,
    /// Frontends by address, port and protocol.
    pub frontends: Vec<Frontend>,
    /// Packets by outcome since the data plane was set up; what never happened is left out.
    pub counters: BTreeMap<String, u64>,
    /// What is wrong with the manifests at present, and what is not carried.
    pub problems: Vec<String>,
}

/// An attached interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its hardware address, as `02:00:00:00:00:01`.
    pub mac: String,
    /// `tcx`, `clsact`, `xdp` or `xdp-generic`; none while nothing is attached.
    pub hook: Option<String>,
    /// Packets by outcome on this interface.
    pub counters: BTreeMap<String, u64>,
}

/// How long changes took, from the notice of a file's change or the arrival of a watch's event until what follows from it was in
/// the maps. What is there at the start, and what a list brings, is not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// How many there were.
    pub count: u64,
    /// What half of them did not exceed, in microseconds.
    pub p50_us: u64,
    /// What 99 of a hundred did not exceed, in microseconds.
    pub p99_us: u64,
    /// The longest, in microseconds.
    pub max_us: u64,
    /// How many took how long; what never happened is left out.
    pub histogram: Vec<Times>,
}

/// Changes that took longer than those before in the list, and up to so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Microseconds; none: there is no bound.
    pub up_to_us: Option<u64>,
    /// How many.
    pub changes: u64,
}

/// The flow table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTable {
    /// Flows it has a record of.
    pub flows: u64,
    /// Flows it was made for.
    pub capacity: u64,
    /// Bytes of kernel memory.
    pub bytes: u64,
}

/// Packets and bytes (whole frames) of a backend, since it got its slot, or of all behind a VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

impl Traffic {
    fn add(&mut self, other: Self) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
    }
}

impl From<evenkeel_maps::Traffic> for Traffic {
    fn from(traffic: evenkeel_maps::Traffic) -> Self {
        let evenkeel_maps::Traffic { packets_in, bytes_in, packets_out, bytes_out } = traffic;
        Self { packets_in, bytes_in, packets_out, bytes_out }
    }
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// The address.
    pub address: String,
    /// The node elected to announce it; in a cluster the one whose it is by the record.
    pub owner: Option<String>,
    /// In a cluster: how often it has changed hands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Whether this node answers for it.
    pub announced: bool,
    /// The hardware address of another host that claims it. It is not answered for until it is clear whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_by: Option<String>,
    /// Live flows of all its frontends.
    pub flows: u64,
    /// What went through all its frontends.
    pub traffic: Traffic,
}

/// A frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontend {
    /// VIP.
    pub address: String,
    /// Port.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// The service, as `namespace/name`.
    pub service: String,
    /// `direct` or `stack`.
    pub forwarding: String,
    /// Each datagram goes to the next backend, and nothing is remembered of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub per_packet: bool,
    /// Packets it did not take, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Its backends, those last that are no longer endpoints but still have flows.
    pub backends: Vec<Backend>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Address.
    pub address: String,
    /// Port.
    pub port: u16,
    /// The node it runs on.
    pub node: Option<String>,
    /// `active`, `drain` or `down`; by what health checks say, also `warming`.
    pub state: String,
    /// What health checks say, if this node checks it and there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Live flows.
    pub flows: u64,
    /// What went to it and came from it.
    pub traffic: Traffic,
}

/// What health checks say of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// How much it takes of the new flows that fall to it: 0 none, 255 all.
    pub share: u8,
    /// Why the last check failed, such as `health_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the last check met with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// It is down because of what clients met with, confirmed by one check.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ejected: bool,
    /// It is down and serves all the same, because all others are down too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last_resort: bool,
    /// Why this host cannot check it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_checked: Option<String>,
}

impl Health {
    /// `None` of a backend that is well, of which there is nothing to say.
    fn of(health: &BackendHealth) -> Option<Self> {
        let BackendHealth { share, state, is_last_resort, is_ejected, failure, not_checked } = health;
        let is_well = *state == State::Active && failure.is_none() && not_checked.is_none();
        (!is_well).then(|| Self {
            share: *share,
            reason: failure.as_ref().map(|failure| failure.reason.name().to_owned()),
            error: failure.as_ref().map(|failure| failure.detail.clone()),
            ejected: *is_ejected,
            last_resort: *is_last_resort,
            not_checked: not_checked.clone(),
        })
    }
}

/// What the status is made of.
pub(crate) struct Snapshot<'a> {
    pub(crate) node: &'a str,
    pub(crate) ready: bool,
    pub(crate) changes: &'a changes::Changes,
    pub(crate) data_path: &'a DataPath,
    pub(crate) interfaces: &'a [evenkeel_loader::Interface],
    pub(crate) plan: Option<&'a Plan>,
    pub(crate) health: &'a View,
    /// VIPs this node answers for.
    pub(crate) announced: &'a BTreeSet<IpAddr>,
    /// Those of them that others claim.
    pub(crate) claims: &'a BTreeMap<IpAddr, Mac>,
    /// In a cluster, the owner and the epoch of an address's record.
    pub(crate) record: &'a dyn Fn(IpAddr) -> Option<(Arc<str>, u64)>,
    /// Forwarding of services that do not choose.
    pub(crate) forwarding: Forwarding,
    pub(crate) problems: Vec<String>,
}

impl Snapshot<'_> {
    pub(crate) fn status(&self) -> Status {
        let mut problems = self.problems.clone();
        let mut or_problem = |error: evenkeel_loader::Error| problems.push(error.to_string());
        let counters = self.data_path.counters().unwrap_or_else(|error| {
            or_problem(error);
            Vec::new()
        });
        let uses = self.data_path.backend_uses();
        let interfaces = self.interfaces.iter().map(|interface| {
            let counters = self.data_path.interface_counters(interface).unwrap_or_default();
            Interface {
                name: interface.name.clone(),
                index: interface.index,
                mac: mac(interface.mac),
                hook: self.data_path.hook(interface).map(Hook::name).map(str::to_owned),
                counters: by_name(counters),
            }
        });
        let tombstones = self.data_path.tombstones();
        let refusals = self.data_path.refusals();
        let frontends = self.plan.into_iter().flat_map(|plan| plan.frontends.values());
        let frontends: Vec<Frontend> = frontends
            .map(|frontend| {
                let key = frontend_key(frontend).ok();
                let refused = key.and_then(|key| refusals.get(&key).cloned()).unwrap_or_default();
                Frontend { refused: by_name(refused), ..self.frontend(frontend, key, &uses, &tombstones) }
            })
            .collect();
        let table = self.data_path.flow_table();
        Status {
            node: self.node.to_owned(),
            ready: self.ready,
            mode: self.data_path.mode().name().to_owned(),
            flow_table: FlowTable { flows: table.flows, capacity: table.capacity, bytes: table.bytes },
            changes: self.changes.shown(),
            next_hop_epoch: self.data_path.next_hop_epoch(),
            interfaces: interfaces.collect(),
            vips: self.vips(&frontends),
            frontends,
            counters: by_name(counters),
            problems,
        }
    }

    fn vips(&self, frontends: &[Frontend]) -> Vec<Vip> {
        let Some(plan) = self.plan else { return Vec::new() };
        let at_layer_2 =
            plan.announcements.values().map(|announcement| (announcement.address, announcement.nodes.first()));
        // What is announced by BGP is nobody's own.
        let by_bgp = plan.bgp.announcements.keys().map(|address| (*address, None));
        // An address that both announce is listed with its owner.
        let owners: BTreeMap<IpAddr, Option<&Arc<str>>> = by_bgp.chain(at_layer_2).collect();
        let mut uses: HashMap<&str, (u64, Traffic)> = HashMap::new();
        for frontend in frontends {
            let (flows, traffic) = uses.entry(&frontend.address).or_default();
            for backend in &frontend.backends {
                *flows += backend.flows;
                traffic.add(backend.traffic);
            }
        }
        let vip = |(address, owner): (IpAddr, Option<&Arc<str>>)| {
            let record = (self.record)(address);
            let holder = record.as_ref().map(|(holder, _)| holder);
            let address_text = address.to_string();
            let (flows, traffic) = uses.get(&*address_text).copied().unwrap_or_default();
            Vip {
                address: address_text,
                owner: holder.or(owner).map(ToString::to_string),
                epoch: record.as_ref().map(|(_, epoch)| *epoch),
                announced: self.announced.contains(&address),
                claimed_by: self.claims.get(&address).map(|claimant| mac(*claimant)),
                flows,
                traffic,
            }
        };
        owners.into_iter().map(vip).collect()
    }

    fn frontend(
        &self,
        frontend: &frontends::Frontend,
        key: Option<FrontendKey>,
        uses: &BackendUses,
        tombstones: &[(FrontendKey, SocketAddr)],
    ) -> Frontend {
        let use_of = |address: SocketAddr| -> BackendUse {
            key.and_then(|key| uses.get(&(key, address)).copied()).unwrap_or_default()
        };
        let health_of = |backend: &frontends::Backend| self.health.get(&frontend.key(), backend.socket_address());
        let endpoints = frontend.backends.iter().map(|backend| Backend {
            address: backend.address.to_string(),
            port: backend.port,
            node: backend.node.clone(),
            state: match health_of(backend).map(|health| health.state) {
                // What its endpoint says is the narrower bound of the two, or they agree.
                Some(state) if backend.state == frontends::BackendState::Active => state.to_string(),
                _ => backend.state.to_string(),
            },
            health: health_of(backend).and_then(Health::of),
            flows: use_of(backend.socket_address()).flows,
            traffic: use_of(backend.socket_address()).traffic.into(),
        });
        // No longer endpoints, but their established flows go on: they drain.
        let leftover = tombstones
            .iter()
            .filter(|(owner, address)| Some(*owner) == key && use_of(*address).flows > 0)
            .map(|(_, address)| Backend {
                address: address.ip().to_string(),
                port: address.port(),
                node: None,
                state: frontends::BackendState::Drain.to_string(),
                health: None,
                flows: use_of(*address).flows,
                traffic: use_of(*address).traffic.into(),
            });
        Frontend {
            address: frontend.address.to_string(),
            port: frontend.port,
            protocol: frontend.protocol.to_string(),
            service: frontend.service.to_string(),
            forwarding: frontend.forwarding.unwrap_or(self.forwarding).to_string(),
            per_packet: frontend.per_packet,
            refused: BTreeMap::new(),
            backends: endpoints.chain(leftover).collect(),
        }
    }
}

/// A hardware address, as people write it.
pub(crate) fn mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Counters by name; what never happened is left out.
fn by_name(counters: Vec<(Outcome, u64)>) -> BTreeMap<String, u64> {
    let happened = counters.into_iter().filter(|(_, packets)| *packets > 0);
    happened.map(|(outcome, packets)| (outcome.name().to_owned(), packets)).collect()
}
