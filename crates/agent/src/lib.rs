//! A node's drivers: they carry out the Plan.
//!
//! ```text
//! sources ──Update──> Agent::apply ── plan() ── desired::frontends ──> DataPath::set_frontends
//!                          │                                   └─────> DataPath::set_vips     (what is carried)
//!                          ├── Groups::set ──> multicast groups                               (what must be heard)
//!                          ├── Announcer::set ──> announce::Sender ──> ARP, NDP               (what is owned)
//!                          └── health::Checker::set ──> shares of new flows ──> desired::frontends
//! ```
//!
//! [`run`] is the loop; [`desired`] is the pure part that turns a Plan into what this node carries.

mod announce;
mod changes;
mod cluster;
pub mod desired;
pub mod drain;
mod groups;
pub mod health;
pub mod health_ports;
mod holding;
mod host;
mod leftovers;
mod metrics;
mod next_hops;
mod node;
pub mod status;
mod vitals;

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
};

use self::desired::Defaults;
use evenkeel_loader::{HookChoice, Mode};

pub use cluster::{ClusterConfig, LABEL as LEASE_LABEL, STATUSES as STATUS_LABELS};
pub use evenkeel_ownership::Timing;
pub use host::default_route_interface;
pub use node::run;

/// How this node is to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name: among the Node objects, in `nodeName` of endpoints, in the pin path.
    pub node: String,
    /// Names of the interfaces to attach to. VIPs are announced there.
    pub interfaces: Vec<String>,
    /// The `spec.loadBalancerClass` served. `None`: services that name no class.
    pub load_balancer_class: Option<String>,
    /// Announce from nodes too that a label excludes from external load balancers.
    pub ignore_exclude_label: bool,
    /// Where the memory is kept between runs.
    pub state_directory: PathBuf,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// Which hooks.
    pub hooks: HookChoice,
    /// What to do with packets. `None`: what was done before; at first they are balanced.
    pub mode: Option<Mode>,
    /// Addresses that may stand for clients' where sources are rewritten. Empty: those of the attached interfaces.
    pub sources: Vec<IpAddr>,
    /// Ports that may stand for clients'.
    pub source_ports: RangeInclusive<u16>,
    /// What is done with services that do not choose.
    pub defaults: Defaults,
    /// Flows that a new flow table is to hold. `None`: the default.
    pub flows: Option<u32>,
    /// Bring connections that a backend refuses or does not answer to another one.
    pub rescue: bool,
    /// How it stops taking new connections when asked to.
    pub drain: drain::Terms,
    /// Seeds the flow hash when no pinned one exists.
    pub hash_seed: u64,
    /// Answer at services' `spec.healthCheckNodePort`, which kube-proxy does where there is one.
    pub health_check_node_ports: bool,
    /// The cluster it is a node of, if any.
    pub cluster: Option<ClusterConfig>,
    /// Where to answer for health and metrics over HTTP.
    pub listen: Option<SocketAddr>,
    /// Withdraw, detach and remove the pins at the end, instead of leaving the data path up.
    pub detach: bool,
}

/// Removes what an ended run of a node left on this machine: the data path, and what lets its VIPs be heard. `false`: there
/// was nothing.
///
/// # Errors
/// While an agent drives the node, or when something cannot be removed.
pub fn uninstall(node: &str) -> Result<bool, Error> {
    let Some(vips) = evenkeel_loader::uninstall(node)? else { return Ok(false) };
    groups::forget(vips).map_err(Error::Groups)?;
    Ok(true)
}

/// Why the node cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data plane could not be opened or removed.
    #[error(transparent)]
    DataPath(#[from] evenkeel_loader::Error),
    /// The file that asks for a drain is there at the start.
    #[error("{}: this node is drained; remove the file to have it serve again", .0.display())]
    Drained(PathBuf),
    /// The admin socket could not be served.
    #[error("admin socket {0}")]
    Admin(#[from] evenkeel_process::admin::Error),
    /// The admin socket's directory could not be made.
    #[error("cannot create {}: {source}; choose another place with --admin", directory.display())]
    SocketDirectory {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Health and metrics cannot be served.
    #[error("cannot serve health and metrics at {address}: {source}; choose another place with --listen")]
    Http {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The memory could not be read.
    #[error(transparent)]
    State(#[from] evenkeel_sources::state::StateError),
    /// Frames cannot be sent.
    #[error("cannot open a packet socket to announce VIPs: {0}")]
    PacketSocket(std::io::Error),
    /// Clients and backends cannot be asked about connections.
    #[error("cannot open a raw socket to ask clients and backends about connections: {0}")]
    RawSocket(std::io::Error),
    /// The kernel does not say when routes and neighbours change.
    #[error("cannot follow the kernel's routes and neighbours: {0}")]
    NextHops(std::io::Error),
    /// Health checks cannot be started.
    #[error("cannot start health checks: {0}")]
    Checker(std::io::Error),
    /// What lets VIPs be heard could not be removed.
    #[error("cannot leave the multicast groups of the VIPs: {0}")]
    Groups(std::io::Error),
}
