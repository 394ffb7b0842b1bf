//! Backends and their states.

use std::cmp::Reverse;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Serialize, Serializer};

use crate::maglev::Member;
use crate::world::{Endpoint, Hints, Weight};

/// One backend of a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// The port it listens on.
    pub port: u16,
    /// The node it runs on.
    pub node: Option<String>,
    /// The zone it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What its endpoint's conditions make of it.
    pub state: BackendState,
    /// How much of the new flows it takes beside the others.
    #[serde(skip_serializing_if = "is_ordinary", serialize_with = "number")]
    pub weight: Weight,
    /// Who should use it: the control plane's hints, or what the service's `trafficDistribution` makes of where it runs.
    #[serde(skip)]
    pub hints: Hints,
    /// The UID of the pod behind it: another UID at the same address is another backend.
    #[serde(skip)]
    pub target_uid: Option<String>,
}

fn is_ordinary(weight: &Weight) -> bool {
    *weight == Weight::ONE
}

fn number<S: Serializer>(weight: &Weight, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(weight.get())
}

impl Backend {
    /// Its address and port: its identity in a Maglev table.
    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// What decides which of two entries of the same endpoint counts, the smaller one. While an endpoint moves from one
    /// slice to another both may list it: the better state is the newer truth more often than not, and the safer one to
    /// act on. All other fields only make the choice independent of the order of slices.
    pub(super) fn precedence(&self) -> impl Ord + '_ {
        let Self { address: _, port: _, node, zone, state, weight, hints, target_uid } = self;
        (state, Reverse(weight), node.is_none(), node, zone.is_none(), zone, hints, target_uid)
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
    /// The state of an endpoint. With `publishNotReadyAddresses` its conditions do not count.
    pub fn of(endpoint: &Endpoint, publish_not_ready: bool) -> Self {
        if publish_not_ready || (endpoint.ready && !endpoint.terminating) {
            Self::Active
        } else if endpoint.terminating && (endpoint.serving || endpoint.ready) {
            Self::Drain
        } else {
            Self::Down
        }
    }

    /// Whether it can be given new flows, if only as the last resort.
    pub fn is_usable(self) -> bool {
        self != Self::Down
    }
}

/// The active backends; when there are none, those that drain, because a terminating backend that still serves is
/// better than no backend (KEP-1669). Of these, the ones with a weight; when there are none, all.
pub fn eligible<'a>(backends: impl Iterator<Item = &'a Backend>) -> Vec<&'a Backend> {
    let mut usable: Vec<&Backend> = backends.filter(|backend| backend.state.is_usable()).collect();
    let best = usable.iter().map(|backend| backend.state).min();
    usable.retain(|backend| Some(backend.state) == best);
    if usable.iter().any(|backend| backend.weight != Weight::NONE) {
        usable.retain(|backend| backend.weight != Weight::NONE);
    }
    usable
}

/// Eligible backends as members of their Maglev table.
pub fn members<'a>(eligible: impl IntoIterator<Item = &'a Backend>) -> impl Iterator<Item = Member> {
    eligible
        .into_iter()
        .map(|backend| Member { address: backend.socket_address(), weight: u32::from(backend.weight.get()) })
}
