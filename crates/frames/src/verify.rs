//! Whether the checksums of a frame hold, quickly: for millions of frames.

use crate::{
    build::{
        DESTINATION_OPTIONS, ETHER_IPV4, ETHER_IPV6, ETHER_QINQ, ETHER_VLAN, FRAGMENT, HOP_BY_HOP, ICMP, ICMPV6,
        ROUTING, TCP, UDP,
    },
    checksum::Sum,
    icmp,
};

/// Whether the checksums of a frame hold; `None` where there is none, or not all that it covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// The IPv4 header's.
    pub network: Option<bool>,
    /// That of TCP, UDP, ICMP or ICMPv6.
    pub transport: Option<bool>,
    /// The IPv4 header's within the packet that an ICMP error quotes.
    pub quoted: Option<bool>,
}

impl Sums {
    /// Whether none is wrong.
    #[must_use]
    pub fn hold(self) -> bool {
        [self.network, self.transport, self.quoted].iter().all(|sum| *sum != Some(false))
    }
}

/// Checks an Ethernet frame.
#[must_use]
pub fn sums(frame: &[u8]) -> Sums {
    look(frame).unwrap_or_default()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn look(frame: &[u8]) -> Option<Sums> {
    let mut at = 12;
    let mut kind = half(frame, at)?;
    while matches!(kind, ETHER_VLAN | ETHER_QINQ) {
        at += 4;
        kind = half(frame, at)?;
    }
    let packet = frame.get(at + 2..)?;
    match kind {
        ETHER_IPV4 => ipv4(packet),
        ETHER_IPV6 => ipv6(packet),
        _ => None,
    }
}

/// The header's checksum, and its length.
fn ipv4_header(packet: &[u8]) -> Option<(bool, usize)> {
    let size = usize::from(packet.first()? & 0xf) * 4;
    if size < 20 {
        return None;
    }
    Some((Sum::default().add(packet.get(..size)?).fold() == u16::MAX, size))
}

fn ipv4(packet: &[u8]) -> Option<Sums> {
    let (network, size) = ipv4_header(packet)?;
    let sums = Sums { network: Some(network), ..Sums::default() };
    // A fragment has only part of what its transport checksum covers.
    if half(packet, 6)? & 0x3fff != 0 {
        return Some(sums);
    }
    let Some(body) = packet.get(size..usize::from(half(packet, 2)?)) else { return Some(sums) };
    Some(transport(sums, packet[9], body, Sum::default().add(&packet[12..20])))
}

fn ipv6(packet: &[u8]) -> Option<Sums> {
    let mut body = packet.get(40..40 + usize::from(half(packet, 4)?))?;
    let mut next = *packet.get(6)?;
    while matches!(next, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | FRAGMENT) {
        let size = if next == FRAGMENT { 8 } else { 8 * (1 + usize::from(*body.get(1)?)) };
        // A fragment, or a routing header with segments left: another destination is in the pseudo-header.
        if next == FRAGMENT && half(body, 2)? & 0xfff9 != 0 || next == ROUTING && *body.get(3)? != 0 {
            return None;
        }
        next = body[0];
        body = body.get(size..)?;
    }
    Some(transport(Sums::default(), next, body, Sum::default().add(packet.get(8..40)?)))
}

fn transport(mut sums: Sums, protocol: u8, body: &[u8], addresses: Sum) -> Sums {
    let length = u16::try_from(body.len()).unwrap_or(0).to_be_bytes();
    let pseudo = addresses.add(&length).add(&[0, protocol]);
    let full = |sum: Sum| Some(sum.fold() == u16::MAX);
    match protocol {
        TCP if body.len() >= 20 => sums.transport = full(pseudo.add(body)),
        UDP if body.len() >= 8 => {
            let absent = body[6..8] == [0, 0];
            let whole = half(body, 4).map(usize::from) == Some(body.len());
            sums.transport = if absent || !whole { None } else { full(pseudo.add(body)) };
        }
        ICMP if body.len() >= 8 => {
            sums.transport = full(Sum::default().add(body));
            if icmp::quotes(body[0], false) {
                sums.quoted = ipv4_header(&body[8..]).map(|(holds, _)| holds);
            }
        }
        ICMPV6 if body.len() >= 8 => sums.transport = full(pseudo.add(body)),
        _ => {}
    }
    sums
}
