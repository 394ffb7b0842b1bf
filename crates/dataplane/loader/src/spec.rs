//! What user space asks the data plane to carry.

use std::{net::SocketAddr, num::NonZeroU32, sync::Arc};

use evenkeel_maps::{Backend, FrontendKey, backend_state};
use ipnet::IpNet;

/// State of a backend that is an endpoint of its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Takes new flows.
    Active,
    /// Established flows only.
    Drain,
    /// Not ready: established TCP flows go on, UDP picks anew.
    Down,
}

impl State {
    pub(crate) const fn raw(self) -> u8 {
        match self {
            Self::Active => backend_state::ACTIVE,
            Self::Drain => backend_state::DRAIN,
            Self::Down => backend_state::DOWN,
        }
    }
}

/// One backend of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// Where to forward.
    pub address: SocketAddr,
    /// Which flows it gets, by what its endpoint says.
    pub state: State,
    /// Of 255 new flows that would meet it, how many do, by what health checks say.
    pub share: u8,
    /// Its replies would not come back through this node: the client's address is replaced by one of this node's, and packets
    /// go past the node's stack, which would take such a source for a forgery (`docs/decisions/0022-other-nodes.md`).
    pub elsewhere: bool,
}

impl BackendSpec {
    /// A backend that health checks say nothing about.
    #[must_use]
    pub const fn new(address: SocketAddr, state: State) -> Self {
        Self { address, state, share: Backend::FULL_SHARE, elsewhere: false }
    }
}

/// What frontends may take on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Frontends with the same name here share the limits; it stands for the service.
    pub shared_by: Arc<str>,
    /// Flows at one time.
    pub flows: Option<NonZeroU32>,
    /// New flows a second, and how many may come at once.
    pub rate: Option<(NonZeroU32, NonZeroU32)>,
}

/// A frontend as it should be carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendSpec {
    /// VIP, port and protocol.
    pub key: FrontendKey,
    /// Pick by client address alone.
    pub source_affinity: bool,
    /// Forward past the node's stack.
    pub direct: bool,
    /// Replace the client's address by one of this node's.
    pub rewrite_source: bool,
    /// Each packet goes to the next backend of the table, and nothing is remembered of it.
    pub per_packet: bool,
    /// New flows are refused by RST or ICMP error; those that exist go on.
    pub closed: bool,
    /// Who may connect; none: everybody.
    pub source_ranges: Vec<IpNet>,
    /// How much it may take.
    pub limits: Option<Limits>,
    /// All backends, whatever their state; none twice.
    pub backends: Vec<BackendSpec>,
    /// Maglev table, or the order of turns: indices into `backends`. Empty: new flows are refused.
    pub table: Vec<u32>,
}

impl FrontendSpec {
    /// A frontend without backends and with everything else at its default.
    #[must_use]
    pub const fn new(key: FrontendKey) -> Self {
        Self {
            key,
            source_affinity: false,
            direct: false,
            rewrite_source: false,
            per_packet: false,
            closed: false,
            source_ranges: Vec::new(),
            limits: None,
            backends: Vec::new(),
            table: Vec::new(),
        }
    }
}
