//! Announcements by BGP: whom to peer with, and what to tell them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use super::ObjectName;
use crate::selector::LabelSelector;

/// A BGPPeer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpPeer {
    /// Its name. Advertisements refer to it without the namespace.
    pub name: ObjectName,
    /// `myASN`: the AS number of this end.
    pub my_asn: u32,
    /// `peerASN` or `dynamicASN`.
    pub peer_asn: PeerAsn,
    /// `localASN`: another AS number to show this peer.
    pub local_asn: Option<u32>,
    /// `peerAddress` or `interface`.
    pub neighbor: Neighbor,
    /// `sourceAddress` of the session.
    pub source_address: Option<IpAddr>,
    /// `peerPort`, 179 by default.
    pub port: u16,
    /// `holdTime` and `keepaliveTime`; `None` leaves both to the speaker.
    pub timers: Option<Timers>,
    /// `connectTime`: time between attempts to connect, whole seconds.
    pub connect_time: Option<Duration>,
    /// `routerID`.
    pub router_id: Option<Ipv4Addr>,
    /// Nodes that have a session with the peer; none: all.
    pub node_selectors: Vec<LabelSelector>,
    /// `password` or `passwordSecret`.
    pub password: Option<Password>,
    /// The BFDProfile of the session.
    pub bfd_profile: Option<String>,
    /// `enableGracefulRestart`.
    pub graceful_restart: bool,
    /// `ebgpMultiHop`.
    pub ebgp_multi_hop: bool,
    /// The VRF of the host the session lives in.
    pub vrf: Option<String>,
    /// `disableMP` (deprecated).
    pub disable_mp: bool,
    /// `dualStackAddressFamily`: IPv4 prefixes over IPv6 sessions and the other way round.
    pub dual_stack_address_family: bool,
}

/// The AS number expected of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerAsn {
    /// This one.
    Number(u32),
    /// The same as ours.
    Internal,
    /// Any but ours.
    External,
}

/// Where a peer is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Neighbor {
    /// At this address.
    Address(IpAddr),
    /// At the other end of this interface (BGP unnumbered).
    Interface(String),
}

/// Hold time and keepalive time (RFC 4271, section 4.2 and 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Zero, or at least three seconds.
    pub hold: Duration,
    /// At most the hold time.
    pub keepalive: Duration,
}

/// How a session is authenticated (TCP MD5, RFC 2385).
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// `password`, in the clear.
    Plain(String),
    /// `passwordSecret`: the key `password` of a Secret of type `kubernetes.io/basic-auth`.
    Secret(ObjectName),
}

/// A password does not belong into logs.
impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(_) => f.write_str("Plain(...)"),
            Self::Secret(name) => write!(f, "Secret({name})"),
        }
    }
}

/// A BGPAdvertisement: which pools' addresses are announced to which peers, with which attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpAdvertisement {
    /// Its name.
    pub name: ObjectName,
    /// `aggregationLength` and `aggregationLengthV6`.
    pub aggregation: Aggregation,
    /// `localPref`, told to internal peers only; 0: none.
    pub local_pref: u32,
    /// `communities`.
    pub communities: Vec<CommunityRef>,
    /// Pools by name.
    pub pools: Vec<String>,
    /// Pools by label. Neither these nor names: all pools.
    pub pool_selectors: Vec<LabelSelector>,
    /// Nodes that announce; none: all.
    pub node_selectors: Vec<LabelSelector>,
    /// Peers to announce to, by name; none: all.
    pub peers: Vec<String>,
    /// Services it is for; none: all.
    pub service_selectors: Vec<LabelSelector>,
}

impl BgpAdvertisement {
    /// An advertisement of all pools from all nodes to all peers, address by address.
    pub fn new(name: ObjectName) -> Self {
        Self {
            name,
            aggregation: Aggregation::default(),
            local_pref: 0,
            communities: Vec::new(),
            pools: Vec::new(),
            pool_selectors: Vec::new(),
            node_selectors: Vec::new(),
            peers: Vec::new(),
            service_selectors: Vec::new(),
        }
    }
}

/// The prefix lengths addresses are rolled up into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aggregation {
    /// 1 to 32.
    pub v4: u8,
    /// 1 to 128.
    pub v6: u8,
}

impl Default for Aggregation {
    fn default() -> Self {
        Self { v4: 32, v6: 128 }
    }
}

/// A community, or the name of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommunityRef {
    /// The value itself.
    Value(Community),
    /// An alias some [`CommunityAliases`] defines.
    Alias(String),
}

/// A BGP community.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Community {
    /// RFC 1997: `65535:65281`.
    Standard(u16, u16),
    /// RFC 8092: `large:64512:1:2`.
    Large(u32, u32, u32),
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(a, b) => write!(f, "{a}:{b}"),
            Self::Large(a, b, c) => write!(f, "large:{a}:{b}:{c}"),
        }
    }
}

impl Serialize for Community {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is not a community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommunityError {
    /// Neither of the two forms; perhaps an alias.
    #[error("`{0}` is neither of the form 65535:65281 nor of the form large:64512:1:2")]
    Form(String),
    /// One of the two forms with a number that does not fit.
    #[error("a number in `{0}` is out of range (16 bits each, or 32 bits each after `large:`)")]
    Range(String),
}

impl FromStr for Community {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let form = || CommunityError::Form(text.to_owned());
        let range = || CommunityError::Range(text.to_owned());
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let large = text.strip_prefix("large:");
        let parts: Vec<&str> = large.unwrap_or(text).split(':').collect();
        if !parts.iter().copied().all(digits) {
            return Err(form());
        }
        match (large, parts.as_slice()) {
            (None, [a, b]) => match (a.parse(), b.parse()) {
                (Ok(a), Ok(b)) => Ok(Self::Standard(a, b)),
                _ => Err(range()),
            },
            (Some(_), [a, b, c]) => match (a.parse(), b.parse(), c.parse()) {
                (Ok(a), Ok(b), Ok(c)) => Ok(Self::Large(a, b, c)),
                _ => Err(range()),
            },
            _ => Err(form()),
        }
    }
}

/// A Community object: names for communities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommunityAliases {
    /// The object's name.
    pub name: ObjectName,
    /// Alias and value, in order.
    pub aliases: Vec<(String, Community)>,
}

/// A BFDProfile (RFC 5880). `None` leaves a value to the speaker; the defaults are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BfdProfile {
    /// Its name. Peers refer to it without the namespace.
    pub name: ObjectName,
    /// `receiveInterval`, 10 to 60000 ms; 300 by default.
    pub receive_interval: Option<Duration>,
    /// `transmitInterval`, 10 to 60000 ms; 300 by default.
    pub transmit_interval: Option<Duration>,
    /// `detectMultiplier`, 2 to 255; 3 by default.
    pub detect_multiplier: Option<u8>,
    /// `echoInterval`, 10 to 60000 ms; 50 by default.
    pub echo_interval: Option<Duration>,
    /// `echoMode`.
    pub echo_mode: bool,
    /// `passiveMode`.
    pub passive_mode: bool,
    /// `minimumTtl`, 1 to 254, for multi-hop sessions.
    pub minimum_ttl: Option<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn communities_are_read_in_both_forms() {
        assert_eq!("65535:65281".parse(), Ok(Community::Standard(65_535, 65_281)));
        assert_eq!("large:64512:1:4294967295".parse(), Ok(Community::Large(64_512, 1, u32::MAX)));
        for text in ["no-export", "", "1", "1:", "1:2:3", "large:1:2", "large:", "1:+2", "0x1:2"] {
            assert_eq!(text.parse::<Community>(), Err(CommunityError::Form(text.to_owned())));
        }
        for text in ["65536:1", "1:65536", "large:4294967296:1:2"] {
            assert_eq!(text.parse::<Community>(), Err(CommunityError::Range(text.to_owned())));
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(format!("{:?}", Password::Plain("geheim".to_owned())), "Plain(...)");
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(a in any::<u32>(), b in any::<u16>(), c in any::<u16>()) {
            for community in [Community::Standard(b, c), Community::Large(a, b.into(), c.into())] {
                prop_assert_eq!(community.to_string().parse(), Ok(community));
            }
        }

        #[test]
        fn reading_never_panics(text in "\\PC*") {
            let _ = text.parse::<Community>();
        }
    }
}
