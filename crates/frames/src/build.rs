//! From layers to bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    checksum::{Sum, crc32c},
    frame::{
        Arp, Ethernet, Extension, Fragment, Frame, Icmp, Ipv4, Ipv6, Layer, NdOption, Neighbor, Override, Sctp, Tcp,
        TcpOption, Udp, Vlan, WRONG,
    },
};

pub(crate) const ETHER_IPV4: u16 = 0x0800;
pub(crate) const ETHER_ARP: u16 = 0x0806;
pub(crate) const ETHER_IPV6: u16 = 0x86dd;
pub(crate) const ETHER_VLAN: u16 = 0x8100;
pub(crate) const ETHER_QINQ: u16 = 0x88a8;
/// IEEE 802 local experimental: what an EtherType is for a payload that says nothing of itself.
const ETHER_EXPERIMENTAL: u16 = 0x88b5;

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ICMP: u8 = 1;
pub(crate) const IP_IN_IP: u8 = 4;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const IPV6_IN_IP: u8 = 41;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;
pub(crate) const SCTP: u8 = 132;
/// For experiments, RFC 3692: the protocol of a payload that says nothing of itself.
const EXPERIMENTAL: u8 = 253;

impl Frame {
    /// The bytes of the frame.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let trailers = self.layers.iter().rev().take_while(|layer| matches!(layer, Layer::Trailer(_))).count();
        let (layers, trailers) = self.layers.split_at(self.layers.len() - trailers);
        let mut bytes = encode(layers, None);
        for trailer in trailers {
            if let Layer::Trailer(trailer) = trailer {
                bytes.extend_from_slice(trailer);
            }
        }
        if let Some(cut) = self.cut {
            bytes.truncate(cut);
        }
        bytes
    }
}

/// What a transport checksum covers besides the packet: RFC 9293 section 3.1, RFC 8200 section 8.1.
#[derive(Clone, Copy)]
struct Pseudo {
    addresses: Addresses,
    /// Length of the transport part by the IP header, if that says another than is there.
    length: Option<usize>,
}

#[derive(Clone, Copy)]
enum Addresses {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Pseudo {
    fn sum(&self, protocol: u8, present: usize) -> Sum {
        let length = u32::try_from(self.length.unwrap_or(present)).unwrap_or(0).to_be_bytes();
        let sum = match self.addresses {
            Addresses::V4(source, destination) => Sum::default().add(&source.octets()).add(&destination.octets()),
            Addresses::V6(source, destination) => Sum::default().add(&source.octets()).add(&destination.octets()),
        };
        sum.add(&length).add(&[0, protocol])
    }
}

fn encode(layers: &[Layer], pseudo: Option<Pseudo>) -> Vec<u8> {
    let Some((first, rest)) = layers.split_first() else { return Vec::new() };
    match first {
        Layer::Ethernet(header) => ethernet(header, rest),
        Layer::Vlan(tag) => vlan(tag, rest),
        Layer::Arp(packet) => join(arp(packet), encode(rest, None)),
        Layer::Ipv4(header) => ipv4(header, rest),
        Layer::Ipv6(header) => ipv6(header, rest),
        Layer::Extension(header) => extension(header, rest, pseudo),
        Layer::Fragment(header) => fragment(header, rest, pseudo),
        Layer::Tcp(header) => tcp(header, encode(rest, None), pseudo),
        Layer::Udp(header) => udp(header, encode(rest, None), pseudo),
        Layer::Icmp(header) => icmp(header, encode(rest, None), None),
        Layer::Icmpv6(header, neighbor) => {
            let body = neighbor.as_ref().map(nd).unwrap_or_default();
            icmp(header, join(body, encode(rest, None)), pseudo)
        }
        Layer::Sctp(header) => sctp(header, encode(rest, None)),
        Layer::Quote(frame) => join(frame.to_bytes(), encode(rest, None)),
        Layer::Bytes(bytes) | Layer::Trailer(bytes) => join(bytes.clone(), encode(rest, None)),
    }
}

fn join(mut head: Vec<u8>, tail: Vec<u8>) -> Vec<u8> {
    head.extend(tail);
    head
}

/// The lowest byte of what is said, or else of what is computed.
fn byte(said: Override, computed: usize) -> u8 {
    half(said, computed).to_be_bytes()[1]
}

fn half(said: Override, computed: usize) -> u16 {
    let value = said.map_or(computed, |said| said as usize) & 0xffff;
    u16::try_from(value).unwrap_or(0)
}

fn checksum(said: Override, right: u16) -> u16 {
    match said {
        None => right,
        // Neither the right one nor, in ones' complement, its equal; nor "none".
        Some(WRONG) if right == 0x5555 => 0x1111,
        Some(WRONG) => right ^ 0x5555,
        Some(_) => half(said, 0),
    }
}

fn ether_type(said: Override, next: Option<&Layer>) -> [u8; 2] {
    let computed = match next {
        Some(Layer::Vlan(tag)) if tag.service => ETHER_QINQ,
        Some(Layer::Vlan(_)) => ETHER_VLAN,
        Some(Layer::Arp(_)) => ETHER_ARP,
        Some(Layer::Ipv4(_)) => ETHER_IPV4,
        Some(Layer::Ipv6(_)) => ETHER_IPV6,
        _ => ETHER_EXPERIMENTAL,
    };
    half(said, computed.into()).to_be_bytes()
}

fn protocol(said: Override, next: Option<&Layer>) -> u8 {
    let computed = match next {
        Some(Layer::Tcp(_)) => TCP,
        Some(Layer::Udp(_)) => UDP,
        Some(Layer::Icmp(_)) => ICMP,
        Some(Layer::Icmpv6(..)) => ICMPV6,
        Some(Layer::Sctp(_)) => SCTP,
        Some(Layer::Extension(extension)) => extension.kind,
        Some(Layer::Fragment(_)) => FRAGMENT,
        Some(Layer::Ipv4(_)) => IP_IN_IP,
        Some(Layer::Ipv6(_)) => IPV6_IN_IP,
        _ => EXPERIMENTAL,
    };
    byte(said, computed.into())
}

fn ethernet(header: &Ethernet, rest: &[Layer]) -> Vec<u8> {
    let mut bytes = [header.destination, header.source].concat();
    bytes.extend(ether_type(header.ether_type, rest.first()));
    join(bytes, encode(rest, None))
}

fn vlan(tag: &Vlan, rest: &[Layer]) -> Vec<u8> {
    let control = (u16::from(tag.priority) << 13) | (u16::from(tag.drop_eligible) << 12) | (tag.id & 0xfff);
    let mut bytes = control.to_be_bytes().to_vec();
    bytes.extend(ether_type(tag.ether_type, rest.first()));
    join(bytes, encode(rest, None))
}

fn arp(packet: &Arp) -> Vec<u8> {
    let mut bytes = half(packet.hardware_type, 1).to_be_bytes().to_vec();
    bytes.extend(half(packet.protocol_type, ETHER_IPV4.into()).to_be_bytes());
    bytes.extend([byte(packet.hardware_length, 6), byte(packet.protocol_length, 4)]);
    bytes.extend(packet.operation.to_be_bytes());
    bytes.extend(packet.sender_mac);
    bytes.extend(packet.sender.octets());
    bytes.extend(packet.target_mac);
    bytes.extend(packet.target.octets());
    bytes
}

fn ipv4(header: &Ipv4, rest: &[Layer]) -> Vec<u8> {
    let options = header.options.len().div_ceil(4) * 4;
    let header_length = 20 + options;
    let said = header.length.map(|length| (length as usize).saturating_sub(header_length));
    let addresses = Addresses::V4(header.source, header.destination);
    let payload = encode(rest, Some(Pseudo { addresses, length: said }));
    let flags = (u16::from(header.reserved) << 15)
        | (u16::from(header.dont_fragment) << 14)
        | (u16::from(header.more_fragments) << 13);
    let version = byte(header.version, 4) << 4;
    let mut bytes = vec![version | (byte(header.header_length, header_length / 4) & 0xf), header.tos];
    bytes.extend(half(header.length, header_length + payload.len()).to_be_bytes());
    bytes.extend(header.id.to_be_bytes());
    bytes.extend((flags | (header.offset / 8)).to_be_bytes());
    bytes.extend([header.ttl, protocol(header.protocol, rest.first()), 0, 0]);
    bytes.extend(header.source.octets());
    bytes.extend(header.destination.octets());
    bytes.extend(&header.options);
    bytes.resize(header_length, 0);
    let sum = checksum(header.checksum, Sum::default().add(&bytes).finish());
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    join(bytes, payload)
}

fn ipv6(header: &Ipv6, rest: &[Layer]) -> Vec<u8> {
    let addresses = Addresses::V6(header.source, header.destination);
    let payload = encode(rest, Some(Pseudo { addresses, length: header.length.map(|length| length as usize) }));
    let first = (u32::from(byte(header.version, 6)) << 28) | (u32::from(header.class) << 20) | (header.flow & 0xf_ffff);
    let mut bytes = first.to_be_bytes().to_vec();
    bytes.extend(half(header.length, payload.len()).to_be_bytes());
    bytes.extend([protocol(header.next, rest.first()), header.hop_limit]);
    bytes.extend(header.source.octets());
    bytes.extend(header.destination.octets());
    join(bytes, payload)
}

/// The pseudo-header within an extension header of this length.
fn within(pseudo: Option<Pseudo>, header: usize) -> Option<Pseudo> {
    pseudo.map(|pseudo| Pseudo { length: pseudo.length.map(|length| length.saturating_sub(header)), ..pseudo })
}

fn extension(header: &Extension, rest: &[Layer], pseudo: Option<Pseudo>) -> Vec<u8> {
    let size = 2 + header.data.len();
    let units = (size / 8).saturating_sub(1);
    let mut bytes = vec![protocol(header.next, rest.first()), byte(header.length, units)];
    bytes.extend(&header.data);
    join(bytes, encode(rest, within(pseudo, size)))
}

fn fragment(header: &Fragment, rest: &[Layer], pseudo: Option<Pseudo>) -> Vec<u8> {
    let [bits, byte] = header.reserved.to_be_bytes();
    let place = (header.offset & 0xfff8) | (u16::from(bits & 3) << 1) | u16::from(header.more);
    let mut bytes = vec![protocol(header.next, rest.first()), byte];
    bytes.extend(place.to_be_bytes());
    bytes.extend(header.id.to_be_bytes());
    join(bytes, encode(rest, within(pseudo, 8)))
}

fn tcp(header: &Tcp, payload: Vec<u8>, pseudo: Option<Pseudo>) -> Vec<u8> {
    let mut options: Vec<u8> = header.options.iter().flat_map(tcp_option).collect();
    options.resize(options.len().div_ceil(4) * 4, 0);
    let mut bytes = [header.source.to_be_bytes(), header.destination.to_be_bytes()].concat();
    bytes.extend(header.sequence.to_be_bytes());
    bytes.extend(header.acknowledgement.to_be_bytes());
    let offset = byte(header.data_offset, (20 + options.len()) / 4) & 0xf;
    bytes.extend([(offset << 4) | (header.reserved & 0xf), header.flags]);
    bytes.extend(header.window.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(header.urgent.to_be_bytes());
    bytes.extend(options);
    bytes.extend(payload);
    let sum = pseudo.map_or(Sum::default(), |pseudo| pseudo.sum(TCP, bytes.len()));
    let sum = checksum(header.checksum, sum.add(&bytes).finish());
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

pub(crate) fn tcp_option(option: &TcpOption) -> Vec<u8> {
    match option {
        TcpOption::Nop => vec![1],
        TcpOption::MaximumSegment(size) => [&[2, 4][..], &size.to_be_bytes()].concat(),
        TcpOption::WindowScale(shift) => vec![3, 3, *shift],
        TcpOption::SackPermitted => vec![4, 2],
        TcpOption::Sack(blocks) => {
            let length = u8::try_from(2 + 8 * blocks.len()).unwrap_or(u8::MAX);
            let edges = blocks.iter().flat_map(|(left, right)| [left.to_be_bytes(), right.to_be_bytes()]).flatten();
            [5, length].into_iter().chain(edges).collect()
        }
        TcpOption::Timestamps(value, echo) => [&[8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat(),
        TcpOption::Other(bytes) => bytes.clone(),
    }
}

fn udp(header: &Udp, payload: Vec<u8>, pseudo: Option<Pseudo>) -> Vec<u8> {
    let length = half(header.length, 8 + payload.len());
    let mut bytes = [header.source.to_be_bytes(), header.destination.to_be_bytes()].concat();
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    // The header's own length counts, RFC 768: what follows it within the packet is not covered.
    let covered = if (8..=bytes.len()).contains(&length.into()) { length.into() } else { bytes.len() };
    let sum = pseudo
        .map_or(Sum::default(), |pseudo| Pseudo { length: Some(length.into()), ..pseudo }.sum(UDP, length.into()));
    let right = match sum.add(&bytes[..covered]).finish() {
        0 => u16::MAX,
        sum => sum,
    };
    bytes[6..8].copy_from_slice(&checksum(header.checksum, right).to_be_bytes());
    bytes
}

fn icmp(header: &Icmp, payload: Vec<u8>, pseudo: Option<Pseudo>) -> Vec<u8> {
    let mut bytes = vec![header.kind, header.code, 0, 0];
    bytes.extend(header.rest);
    bytes.extend(payload);
    let sum = pseudo.map_or(Sum::default(), |pseudo| pseudo.sum(ICMPV6, bytes.len()));
    let sum = checksum(header.checksum, sum.add(&bytes).finish());
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn nd(neighbor: &Neighbor) -> Vec<u8> {
    let mut bytes = neighbor.target.map(|target| target.octets().to_vec()).unwrap_or_default();
    for option in &neighbor.options {
        match option {
            NdOption::Source(mac) => bytes.extend([&[1, 1][..], mac].concat()),
            NdOption::Target(mac) => bytes.extend([&[2, 1][..], mac].concat()),
            NdOption::Other(other) => bytes.extend(other),
        }
    }
    bytes
}

fn sctp(header: &Sctp, payload: Vec<u8>) -> Vec<u8> {
    let mut bytes = [header.source.to_be_bytes(), header.destination.to_be_bytes()].concat();
    bytes.extend(header.tag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    let right = crc32c(&bytes);
    let sum = match header.checksum {
        None => right,
        Some(WRONG) => !right,
        Some(said) => said,
    };
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}
