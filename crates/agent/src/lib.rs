//! A node's drivers: they carry out the Plan.
//!
//! ```text
//! sources ──Update──> Agent::apply ── plan() ── desired::frontends ──> DataPath::set_frontends
//!                          │                                   └─────> DataPath::set_vips     (what is carried)
//!                          ├── Groups::set ──> multicast groups                               (what must be heard)
//!                          └── Announcer::set ──> announce::Sender ──> ARP, NDP               (what is owned)
//! ```
//!
//! [`run`] is the loop; [`desired`] is the pure part that turns a Plan into what this node carries.

mod announce;
pub mod desired;
#[cfg_attr(not(test), expect(dead_code, reason = "for VIPs of IPv6, which are not carried yet"))]
mod groups;
mod host;
mod node;
pub mod status;

use std::path::PathBuf;

use evenkeel_loader::HookChoice;
use evenkeel_plan::world::Forwarding;

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
    /// Which hook.
    pub hook: HookChoice,
    /// Forwarding of services that do not choose.
    pub forwarding: Forwarding,
    /// Entries of a new flow table; a connection takes two. `None`: the default.
    pub flow_entries: Option<u32>,
    /// Seeds the flow hash when no pinned one exists.
    pub hash_seed: u64,
    /// Withdraw, detach and remove the pins at the end, instead of leaving the data path up.
    pub detach: bool,
}

/// Why the node cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data plane could not be opened or removed.
    #[error(transparent)]
    DataPath(#[from] evenkeel_loader::Error),
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
    /// The memory could not be read.
    #[error(transparent)]
    State(#[from] evenkeel_sources::state::StateError),
    /// Frames cannot be sent.
    #[error("cannot open a packet socket to announce VIPs: {0}")]
    PacketSocket(std::io::Error),
    /// The host's forwarding could not be switched on.
    #[error("{0}")]
    Host(#[from] host::Error),
}
