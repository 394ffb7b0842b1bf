//! What `evenkeel status` shows: the agent's answer on its admin socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use evenkeel_loader::{BackendFlows, DataPath};
use evenkeel_maps::FrontendKey;
use evenkeel_plan::{Plan, frontends, world::Forwarding};
use serde::{Deserialize, Serialize};

use crate::desired::frontend_key;

/// Path of the status on the admin socket.
pub const PATH: &str = "/status";

/// The state of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// Whether every VIP this node should carry is carried and announced.
    pub ready: bool,
    /// `tcx` or `clsact`.
    pub hook: String,
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
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// The address.
    pub address: String,
    /// The node elected to announce it.
    pub owner: Option<String>,
    /// Whether this node answers for it.
    pub announced: bool,
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
    /// `active`, `drain` or `down`.
    pub state: String,
    /// Live flows.
    pub flows: u64,
}

/// What the status is made of.
pub(crate) struct Snapshot<'a> {
    pub(crate) node: &'a str,
    pub(crate) ready: bool,
    pub(crate) data_path: &'a DataPath,
    pub(crate) interfaces: &'a [evenkeel_loader::Interface],
    pub(crate) plan: Option<&'a Plan>,
    /// VIPs this node answers for.
    pub(crate) announced: &'a BTreeSet<Ipv4Addr>,
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
        let flows = self.data_path.backend_flows().unwrap_or_else(|error| {
            or_problem(error);
            BackendFlows::new()
        });
        let tombstones = self.data_path.tombstones();
        let frontends = self.plan.into_iter().flat_map(|plan| plan.frontends.values());
        Status {
            node: self.node.to_owned(),
            ready: self.ready,
            hook: self.data_path.hook().name().to_owned(),
            interfaces: self.interfaces.iter().map(interface).collect(),
            vips: self.vips(),
            frontends: frontends.map(|frontend| self.frontend(frontend, &flows, &tombstones)).collect(),
            counters: counters
                .into_iter()
                .filter(|(_, packets)| *packets > 0)
                .map(|(outcome, packets)| (outcome.name().to_owned(), packets))
                .collect(),
            problems,
        }
    }

    fn vips(&self) -> Vec<Vip> {
        let Some(plan) = self.plan else { return Vec::new() };
        let at_layer_2 =
            plan.announcements.values().map(|announcement| (announcement.address, announcement.nodes.first()));
        // What is announced by BGP is nobody's own.
        let by_bgp = plan.bgp.announcements.keys().map(|address| (*address, None));
        // An address that both announce is listed with its owner.
        let owners: BTreeMap<IpAddr, Option<&Arc<str>>> = by_bgp.chain(at_layer_2).collect();
        let vip = |(address, owner): (IpAddr, Option<&Arc<str>>)| Vip {
            address: address.to_string(),
            owner: owner.map(ToString::to_string),
            announced: matches!(address, IpAddr::V4(address) if self.announced.contains(&address)),
        };
        owners.into_iter().map(vip).collect()
    }

    fn frontend(
        &self,
        frontend: &frontends::Frontend,
        flows: &BackendFlows,
        tombstones: &[(FrontendKey, SocketAddrV4)],
    ) -> Frontend {
        let key = frontend_key(frontend).ok();
        let flows_of = |address: SocketAddrV4| key.and_then(|key| flows.get(&(key, address)).copied()).unwrap_or(0);
        let endpoints = frontend.backends.iter().map(|backend| Backend {
            address: backend.address.to_string(),
            port: backend.port,
            node: backend.node.clone(),
            state: backend.state.to_string(),
            flows: match backend.address {
                IpAddr::V4(address) => flows_of(SocketAddrV4::new(address, backend.port)),
                IpAddr::V6(_) => 0,
            },
        });
        // No longer endpoints, but their established flows go on: they drain.
        let leftover = tombstones.iter().filter(|(owner, address)| Some(*owner) == key && flows_of(*address) > 0).map(
            |(_, address)| Backend {
                address: address.ip().to_string(),
                port: address.port(),
                node: None,
                state: frontends::BackendState::Drain.to_string(),
                flows: flows_of(*address),
            },
        );
        Frontend {
            address: frontend.address.to_string(),
            port: frontend.port,
            protocol: frontend.protocol.to_string(),
            service: frontend.service.to_string(),
            forwarding: frontend.forwarding.unwrap_or(self.forwarding).to_string(),
            backends: endpoints.chain(leftover).collect(),
        }
    }
}

fn interface(interface: &evenkeel_loader::Interface) -> Interface {
    Interface {
        name: interface.name.clone(),
        index: interface.index,
        mac: interface.mac.map(|byte| format!("{byte:02x}")).join(":"),
    }
}
