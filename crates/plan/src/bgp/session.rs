//! Which node has a session with which peer, with every attribute resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::range::IpFamily;
use crate::selector;
use crate::world::{BfdProfile, BgpPeer, Neighbor, Node, ObjectName, Password, PeerAsn, Secret, Timers, World};

/// Hold time and keepalive time of peers that set neither, as documented for MetalLB (RFC 4271, section 10).
const TIMERS: Timers = Timers { hold: Duration::from_secs(90), keepalive: Duration::from_secs(30) };
/// ConnectRetryTime of peers that set none (RFC 4271, section 10).
const CONNECT_TIME: Duration = Duration::from_secs(120);
/// The longest time BGP can express: two octets of seconds.
const LONGEST: u64 = 65_535;

/// A session of one node with one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Session {
    /// The node.
    pub node: Arc<str>,
    /// The peer's name.
    pub peer: Arc<str>,
    /// Whether the peer belongs to our AS.
    pub kind: SessionKind,
    /// `myASN`: the AS of the speaker.
    pub my_asn: u32,
    /// The AS number shown to the peer: `localASN`, else `myASN`. It stands alone in the AS path: `myASN` is not
    /// revealed beside it.
    pub local_asn: u32,
    /// The AS number expected of the peer; `None`: any but ours.
    pub peer_asn: Option<u32>,
    /// Where the peer is found.
    pub neighbor: Neighbor,
    /// The TCP port of the peer.
    pub port: u16,
    /// The address to connect from; `None` leaves it to the kernel.
    pub source_address: Option<IpAddr>,
    /// The hold time proposed, whole seconds; zero: the session never times out.
    #[serde(rename = "hold_time_s", serialize_with = "seconds")]
    pub hold_time: Duration,
    /// The time between KEEPALIVE messages, whole seconds.
    #[serde(rename = "keepalive_time_s", serialize_with = "seconds")]
    pub keepalive_time: Duration,
    /// The time between attempts to connect, whole seconds.
    #[serde(rename = "connect_time_s", serialize_with = "seconds")]
    pub connect_time: Duration,
    /// The BGP identifier; `None`: an IPv4 address of the node.
    pub router_id: Option<Ipv4Addr>,
    /// Where the password is found, if there is one; never the password.
    pub password: Option<PasswordSource>,
    /// The BFD session beside it.
    pub bfd: Option<Bfd>,
    /// Whether graceful restart is offered (RFC 4724).
    pub graceful_restart: bool,
    /// Whether an external peer may be more than one hop away.
    pub multihop: bool,
    /// The VRF the session lives in; `None`: the default one.
    pub vrf: Option<String>,
    /// The address families it carries.
    pub families: Vec<IpFamily>,
}

/// Internal or external (RFC 4271, section 1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionKind {
    /// Within our AS.
    Ibgp,
    /// With another AS.
    Ebgp,
}

impl fmt::Display for SessionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ibgp => "iBGP",
            Self::Ebgp => "eBGP",
        })
    }
}

/// Where the password of a session is found (TCP MD5, RFC 2385).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PasswordSource {
    /// In the peer's manifest.
    Manifest,
    /// In this Secret.
    Secret(ObjectName),
}

/// A BFD session (RFC 5880) as its profile asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bfd {
    /// The profile's name.
    pub profile: String,
    /// The shortest interval between received packets, whole milliseconds.
    #[serde(rename = "receive_interval_ms", serialize_with = "milliseconds")]
    pub receive_interval: Duration,
    /// The interval between sent packets, whole milliseconds.
    #[serde(rename = "transmit_interval_ms", serialize_with = "milliseconds")]
    pub transmit_interval: Duration,
    /// How many packets in a row have to be lost.
    pub detect_multiplier: u8,
    /// The interval between echo packets, whole milliseconds; `None`: no echo mode.
    #[serde(rename = "echo_interval_ms", serialize_with = "optional_milliseconds")]
    pub echo_interval: Option<Duration>,
    /// Whether it waits for the peer to begin.
    pub passive: bool,
    /// The lowest TTL accepted where the peer is more than one hop away.
    pub minimum_ttl: u8,
}

impl Bfd {
    fn of(profile: &BfdProfile) -> Self {
        let or = |interval: Option<Duration>, default| interval.unwrap_or(Duration::from_millis(default));
        Self {
            profile: profile.name.name.clone(),
            receive_interval: or(profile.receive_interval, 300),
            transmit_interval: or(profile.transmit_interval, 300),
            detect_multiplier: profile.detect_multiplier.unwrap_or(3),
            echo_interval: profile.echo_mode.then(|| or(profile.echo_interval, 50)),
            passive: profile.passive_mode,
            minimum_ttl: profile.minimum_ttl.unwrap_or(254),
        }
    }
}

/// A node that has no session with a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NoSession {
    /// The node.
    pub node: Arc<str>,
    /// The peer's name.
    pub peer: Arc<str>,
    /// Why not.
    pub reason: NoSessionReason,
}

/// Why a node has no session with a peer. Where several apply, the first of this list is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoSessionReason {
    /// The peer's `nodeSelectors` do not select the node.
    NodeNotSelected,
    /// The node already has a session with the same neighbor, by another peer object.
    DuplicateNeighbor,
}

impl NoSessionReason {
    /// The reason's name in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NodeNotSelected => "node_not_selected",
            Self::DuplicateNeighbor => "duplicate_neighbor",
        }
    }
}

impl fmt::Display for NoSessionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The sessions of all nodes with all peers, and why the others are none; both by peer and node.
pub fn sessions(world: &World) -> (Vec<Session>, Vec<NoSession>) {
    let nodes: Vec<Arc<str>> = world.nodes.keys().map(|node| node.as_str().into()).collect();
    let (mut sessions, mut without) = (Vec::new(), Vec::new());
    for Peering { settings, of_node, .. } in peerings(world) {
        for (node, outcome) in nodes.iter().map(Arc::clone).zip(of_node) {
            match outcome {
                Ok(()) => sessions.push(Session { node, ..settings.clone() }),
                Err(reason) => without.push(NoSession { node, peer: Arc::clone(&settings.peer), reason }),
            }
        }
    }
    (sessions, without)
}

/// A peer, and which nodes have a session with it.
pub(super) struct Peering<'w> {
    pub(super) peer: &'w BgpPeer,
    /// The session, on a node without name.
    pub(super) settings: Session,
    /// One entry a node, in the World's order.
    pub(super) of_node: Vec<Result<(), NoSessionReason>>,
}

/// The peers by name, each name once: advertisements could not tell two apart.
pub(super) fn peerings(world: &World) -> Vec<Peering<'_>> {
    let mut peers: BTreeMap<&str, &BgpPeer> = BTreeMap::new();
    for peer in world.bgp_peers.values() {
        peers.entry(&peer.name.name).or_insert(peer);
    }
    let mut taken = BTreeSet::new();
    let mut outcome = |peer, node: &Arc<Node>| decide(peer, node, &mut taken);
    peers
        .into_values()
        .map(|peer| Peering {
            peer,
            settings: settings(peer, world),
            of_node: world.nodes.values().map(|node| outcome(peer, node)).collect(),
        })
        .collect()
}

/// What tells two sessions apart: node, VRF, neighbor (an address, or the interface it is behind), its port, and the
/// address we connect from.
type Identity = (String, Option<String>, Result<IpAddr, String>, u16, Option<IpAddr>);

fn decide(peer: &BgpPeer, node: &Node, taken: &mut BTreeSet<Identity>) -> Result<(), NoSessionReason> {
    if !selector::any_or_all(&peer.node_selectors, &node.labels) {
        return Err(NoSessionReason::NodeNotSelected);
    }
    let neighbor = match &peer.neighbor {
        Neighbor::Address(address) => Ok(*address),
        Neighbor::Interface(interface) => Err(interface.clone()),
    };
    let identity = (node.name.clone(), peer.vrf.clone(), neighbor, peer.port, peer.source_address);
    if taken.insert(identity) { Ok(()) } else { Err(NoSessionReason::DuplicateNeighbor) }
}

/// The session with a peer on any node.
fn settings(peer: &BgpPeer, world: &World) -> Session {
    // What the peer sees the session internal or external: it compares its own AS with the one in our OPEN.
    let local_asn = peer.local_asn.unwrap_or(peer.my_asn);
    let (kind, peer_asn) = match peer.peer_asn {
        PeerAsn::Number(asn) if asn == local_asn => (SessionKind::Ibgp, Some(asn)),
        PeerAsn::Number(asn) => (SessionKind::Ebgp, Some(asn)),
        PeerAsn::Internal => (SessionKind::Ibgp, Some(local_asn)),
        PeerAsn::External => (SessionKind::Ebgp, None),
    };
    let timers = peer.timers.unwrap_or(TIMERS);
    Session {
        node: Arc::default(),
        peer: peer.name.name.as_str().into(),
        kind,
        my_asn: peer.my_asn,
        local_asn,
        peer_asn,
        neighbor: peer.neighbor.clone(),
        port: peer.port,
        source_address: peer.source_address,
        hold_time: whole_seconds(timers.hold),
        keepalive_time: whole_seconds(timers.keepalive),
        connect_time: whole_seconds(peer.connect_time.unwrap_or(CONNECT_TIME)),
        router_id: peer.router_id,
        password: peer.password.as_ref().map(|password| match password {
            Password::Plain(_) => PasswordSource::Manifest,
            Password::Secret(secret) => PasswordSource::Secret(resolved(secret, peer)),
        }),
        bfd: bfd_profile(peer, world).map(Bfd::of),
        graceful_restart: peer.graceful_restart,
        multihop: peer.ebgp_multi_hop && kind == SessionKind::Ebgp,
        vrf: peer.vrf.clone(),
        families: families(peer),
    }
}

/// A session carries the family of its addresses, or both where that is asked for. An unnumbered one runs over
/// link-local addresses, which say nothing about what it is for: it carries both. `disableMP` asks for one family a
/// session, which is what there is anyway.
fn families(peer: &BgpPeer) -> Vec<IpFamily> {
    match &peer.neighbor {
        Neighbor::Address(address) if !peer.dual_stack_address_family => vec![IpFamily::of(*address)],
        Neighbor::Address(_) | Neighbor::Interface(_) => vec![IpFamily::V4, IpFamily::V6],
    }
}

/// The profile a peer names. A name in two namespaces means the first.
pub(super) fn bfd_profile<'w>(peer: &BgpPeer, world: &'w World) -> Option<&'w BfdProfile> {
    let name = peer.bfd_profile.as_ref()?;
    world.bfd_profiles.values().map(|profile| &**profile).find(|profile| profile.name.name == *name)
}

/// The Secret a peer's password is in. A reference without a namespace means the peer's own.
pub(super) fn resolved(secret: &ObjectName, peer: &BgpPeer) -> ObjectName {
    match secret.namespace.as_str() {
        "" => ObjectName::new(&peer.name.namespace, &secret.name),
        _ => secret.clone(),
    }
}

/// The Secret of that name. Manifests may leave out namespaces, on either side.
pub(super) fn find_secret<'w>(wanted: &ObjectName, world: &'w World) -> Option<&'w Secret> {
    let same = |found: &&Secret| {
        let namespaces = [&found.name.namespace, &wanted.namespace];
        found.name.name == wanted.name
            && (namespaces[0] == namespaces[1] || namespaces.iter().any(|namespace| namespace.is_empty()))
    };
    world.secrets.values().map(|secret| &**secret).find(same)
}

/// Fractions cannot be expressed; less than one second is one, because zero switches a timer off.
fn whole_seconds(time: Duration) -> Duration {
    if time.is_zero() { time } else { Duration::from_secs(time.as_secs().clamp(1, LONGEST)) }
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(time.as_secs())
}

fn milliseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    time.as_millis().serialize(serializer)
}

#[expect(clippy::ref_option, reason = "the signature serde asks for")]
fn optional_milliseconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_millis()).serialize(serializer)
}
