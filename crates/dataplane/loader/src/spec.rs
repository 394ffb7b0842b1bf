//! What user space asks the data plane to carry.

use std::net::SocketAddrV4;

use evenkeel_maps::{FrontendKey, backend_state};

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
    pub address: SocketAddrV4,
    /// Which flows it gets.
    pub state: State,
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
    /// All backends, whatever their state; none twice.
    pub backends: Vec<BackendSpec>,
    /// Maglev table: indices into `backends`. Empty: new flows are refused.
    pub table: Vec<u32>,
}
