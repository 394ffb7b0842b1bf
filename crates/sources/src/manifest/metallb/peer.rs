//! BGPPeer, in its present version and the one before.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use evenkeel_plan::range::IpFamily;
use evenkeel_plan::world::{BgpPeer, Neighbor, ObjectName, Password, PeerAsn, Timers};

use super::required_spec;
use super::selector::selectors;
use crate::manifest::kinds::ip;
use crate::manifest::read::{Field, Fields, Findings as _, Mapping as _, Reader, Values as _};

/// The versions of BGPPeer that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::manifest) enum Version {
    /// Deprecated. It has fewer fields, and a port of 0 means the default.
    V1Beta1,
    V1Beta2,
}

/// What v1beta2 added.
const NEW_IN_V1BETA2: [&str; 9] = [
    "connectTime",
    "disableMP",
    "dualStackAddressFamily",
    "dynamicASN",
    "enableGracefulRestart",
    "interface",
    "localASN",
    "passwordSecret",
    "vrf",
];

const ASN: (u32, u32) = (1, u32::MAX);
const BGP_PORT: u16 = 179;
const MAX_PORT: u16 = 16_384;
/// Hold time and connect time are 16-bit numbers of seconds.
const MAX_SECONDS: Duration = Duration::from_secs(65_535);
const MIN_HOLD_TIME: Duration = Duration::from_secs(3);
/// Keepalives in a hold time, where only one of the two is given (RFC 4271, section 10).
const KEEPALIVES_PER_HOLD_TIME: u32 = 3;

pub(in crate::manifest) fn bgp_peer(
    reader: &mut Reader<'_>,
    name: ObjectName,
    fields: &Fields<'_>,
    version: Version,
) -> Option<BgpPeer> {
    let spec = required_spec(reader, fields)?;
    if version == Version::V1Beta1 {
        refuse_newer_fields(reader, &spec);
    }
    let my_asn = spec.require(reader, "myASN").and_then(|field| field.number(reader, ASN.0, ASN.1));
    let peer_asn = peer_asn(reader, &spec);
    let local_asn = spec.get("localASN").and_then(|field| field.number(reader, ASN.0, ASN.1));
    let neighbor = neighbor(reader, &spec);
    let source_address = source_address(reader, &spec, neighbor.as_ref());
    let least_port = if version == Version::V1Beta1 { 0 } else { 1 };
    let port = spec.get("peerPort").and_then(|field| field.number(reader, least_port, MAX_PORT));
    let timers = timers(reader, &spec);
    let connect_time = spec.get("connectTime").and_then(|field| connect_time(reader, &field));
    let router_id = spec.get("routerID").and_then(|field| router_id(reader, &field));
    let node_selectors = selectors(reader, &spec, "nodeSelectors");
    let password = password(reader, &spec, &name);
    let mut text = |key| spec.get(key).and_then(|field| field.text(reader)).map(str::to_owned);
    let bfd_profile = text("bfdProfile");
    let vrf = spec.get("vrf").filter(|field| !field.is_empty_text()).and_then(|field| field.interface(reader));
    let vrf = vrf.map(str::to_owned);
    let mut flag = |key| spec.get(key).and_then(|field| field.bool(reader)).unwrap_or(false);
    let graceful_restart = flag("enableGracefulRestart");
    let dual_stack_address_family = flag("dualStackAddressFamily");
    let disable_mp = flag("disableMP");
    let ebgp_multi_hop = flag("ebgpMultiHop");
    if let Some(field) = spec.get("disableMP").filter(|_| disable_mp) {
        let remedy = "remove it; a session carries its own family unless dualStackAddressFamily says otherwise";
        reader.warning("deprecated_field", &field, "disableMP is deprecated", remedy);
    }
    let is_internal = peer_asn == Some(PeerAsn::Internal) || peer_asn == my_asn.map(PeerAsn::Number);
    if let Some(field) = spec.get("ebgpMultiHop").filter(|_| ebgp_multi_hop && is_internal) {
        let message = "ebgpMultiHop is set for a peer in the same AS, to which any number of hops is allowed anyway";
        reader.error("ebgp_multi_hop_on_ibgp", &field, message, "remove ebgpMultiHop, or correct the AS numbers");
    }
    spec.no_others(reader);
    Some(BgpPeer {
        name,
        my_asn: my_asn?,
        peer_asn: peer_asn?,
        local_asn,
        neighbor: neighbor?,
        source_address,
        port: port.filter(|port| *port != 0).unwrap_or(BGP_PORT),
        timers,
        connect_time,
        router_id,
        node_selectors,
        password,
        bfd_profile,
        graceful_restart,
        ebgp_multi_hop,
        vrf,
        disable_mp,
        dual_stack_address_family,
    })
}

fn refuse_newer_fields(reader: &mut Reader<'_>, spec: &Fields<'_>) {
    for key in NEW_IN_V1BETA2 {
        if let Some(field) = spec.get(key) {
            let message = format!("BGPPeer v1beta1 has no field `{key}`");
            reader.error("unknown_field", &field, message, "use apiVersion: metallb.io/v1beta2");
        }
    }
}

/// `peerASN` or `dynamicASN`. A `peerASN` of 0 counts as absent, as some writers give every field.
fn peer_asn(reader: &mut Reader<'_>, spec: &Fields<'_>) -> Option<PeerAsn> {
    let modes = [("internal", PeerAsn::Internal), ("external", PeerAsn::External)];
    let number = spec.get("peerASN").map(|field| field.number(reader, 0, u32::MAX));
    let dynamic = spec.get("dynamicASN").map(|field| field.one_of(reader, &modes));
    match (number.filter(|number| *number != Some(0)), dynamic) {
        (Some(number), None) => number.map(PeerAsn::Number),
        (None, Some(dynamic)) => dynamic,
        (None, None) => {
            let message = "neither `peerASN` nor `dynamicASN` is given";
            reader.missing(spec, "peerASN", message, "give the peer's AS number, or dynamicASN: internal or external");
            None
        }
        (Some(_), Some(_)) => {
            if let Some(field) = spec.get("dynamicASN") {
                let message = "both `peerASN` and `dynamicASN` are given";
                reader.error("conflicting_fields", &field, message, "give one of the two");
            }
            None
        }
    }
}

/// `peerAddress` or `interface`; empty counts as absent.
fn neighbor(reader: &mut Reader<'_>, spec: &Fields<'_>) -> Option<Neighbor> {
    let address = spec.get("peerAddress").filter(|field| !field.is_empty_text());
    let interface = spec.get("interface").filter(|field| !field.is_empty_text());
    match (address, interface) {
        (Some(address), None) => host(reader, &address).map(Neighbor::Address),
        (None, Some(interface)) => interface.interface(reader).map(|name| Neighbor::Interface(name.to_owned())),
        (None, None) => {
            let message = "neither `peerAddress` nor `interface` is given";
            reader.missing(spec, "peerAddress", message, "give the peer's address, or the interface it is behind");
            None
        }
        (Some(_), Some(interface)) => {
            let message = "both `peerAddress` and `interface` are given";
            reader.error("conflicting_fields", &interface, message, "give one of the two");
            None
        }
    }
}

fn host(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<IpAddr> {
    let address = ip(field, reader)?;
    if address.is_unspecified() || address.is_multicast() {
        reader.error("invalid_address", field, format!("{address} is no host's address"), "give a host's address");
    }
    Some(address)
}

fn source_address(reader: &mut Reader<'_>, spec: &Fields<'_>, neighbor: Option<&Neighbor>) -> Option<IpAddr> {
    let field = spec.get("sourceAddress").filter(|field| !field.is_empty_text())?;
    let source = host(reader, &field)?;
    if let Some(Neighbor::Address(peer)) = neighbor
        && IpFamily::of(*peer) != IpFamily::of(source)
    {
        let message = format!("{source} cannot reach {peer}, which is {}", IpFamily::of(*peer));
        reader.error("family_mismatch", &field, message, "give both addresses in one family");
    }
    Some(source)
}

fn router_id(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<Ipv4Addr> {
    if field.is_empty_text() {
        return None;
    }
    let remedy = "give a router ID in the form of an IPv4 address";
    let id: Ipv4Addr = field.parse(reader, "invalid_address", remedy)?;
    if id.is_unspecified() {
        reader.error("invalid_address", field, "0.0.0.0 is no router ID (RFC 6286)", remedy);
    }
    Some(id)
}

/// `holdTime` and `keepaliveTime`; each follows from the other.
///
/// MetalLB turns a v1beta1 peer without `holdTime` into one with a hold time of 0, which never expires; here it is one
/// that leaves the timers to the speaker, as its author wrote it.
fn timers(reader: &mut Reader<'_>, spec: &Fields<'_>) -> Option<Timers> {
    let hold_field = spec.get("holdTime");
    let keepalive_field = spec.get("keepaliveTime");
    let given = hold_field.as_ref().or(keepalive_field.as_ref())?;
    let hold = hold_field.as_ref().map(|field| field.duration(reader));
    let keepalive = keepalive_field.as_ref().map(|field| field.duration(reader));
    let (hold, keepalive) = match (hold, keepalive) {
        (Some(hold), Some(keepalive)) => (hold?, keepalive?),
        (Some(hold), None) => (hold?, hold? / KEEPALIVES_PER_HOLD_TIME),
        (None, keepalive) => {
            let keepalive = keepalive??;
            (keepalive.saturating_mul(KEEPALIVES_PER_HOLD_TIME), keepalive)
        }
    };
    if !hold.is_zero() && !(MIN_HOLD_TIME..=MAX_SECONDS).contains(&hold) {
        let message = format!("a hold time of {hold:?} is not possible");
        reader.error("invalid_timer", given, message, "give 0s (never expires), or 3s to 65535s");
    } else if keepalive > hold {
        let message = format!("a keepalive time of {keepalive:?} is longer than the hold time of {hold:?}");
        let field = keepalive_field.as_ref().unwrap_or(given);
        reader.error("invalid_timer", field, message, "give a third of the hold time, or leave it out");
    }
    Some(Timers { hold, keepalive })
}

fn connect_time(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<Duration> {
    let time = field.duration(reader)?;
    let whole = time.subsec_nanos() == 0;
    if !whole || !(Duration::from_secs(1)..=MAX_SECONDS).contains(&time) {
        let message = format!("a connect time of {time:?} is not possible");
        reader.error("invalid_timer", field, message, "give whole seconds from 1s to 65535s");
    }
    Some(time)
}

/// `password` or `passwordSecret`. No finding shows the password.
fn password(reader: &mut Reader<'_>, spec: &Fields<'_>, peer: &ObjectName) -> Option<Password> {
    let plain = spec.get("password").and_then(|field| field.password(reader)).filter(|text| !text.is_empty());
    let secret = spec.get("passwordSecret").and_then(|field| {
        let fields = field.fields(reader)?;
        let mut text = |key| fields.get(key).and_then(|field| field.text(reader)).map(str::to_owned);
        let (name, namespace) = (text("name"), text("namespace"));
        fields.no_others(reader);
        if name.is_none() && namespace.is_some() {
            let message = "`passwordSecret` has a namespace and no name, so that there would be no password";
            reader.missing(&fields, "name", message, "add the Secret's `name`, or remove `passwordSecret`");
        }
        // Like `passwordSecret: {}`, which some writers give for none.
        let secret = ObjectName::new(namespace.unwrap_or_else(|| peer.namespace.clone()), name?);
        Some((field, secret))
    });
    match (plain, secret) {
        (Some(_), Some((field, _))) => {
            let message = "both `password` and `passwordSecret` are given";
            reader.error("conflicting_fields", &field, message, "keep passwordSecret");
            None
        }
        (Some(plain), None) => Some(Password::Plain(plain.to_owned())),
        (None, Some((_, secret))) => Some(Password::Secret(secret)),
        (None, None) => None,
    }
}
