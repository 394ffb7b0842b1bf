//! From bytes to layers.
//!
//! Every field is read as it stands; then each that can be computed is left out wherever that gives the same bytes. So
//! nothing here needs to know what is right: `build` does.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    build::{
        DESTINATION_OPTIONS, ETHER_ARP, ETHER_IPV4, ETHER_IPV6, ETHER_QINQ, ETHER_VLAN, FRAGMENT, HOP_BY_HOP, ICMP,
        ICMPV6, IP_IN_IP, IPV6_IN_IP, ROUTING, SCTP, TCP, UDP, tcp_option,
    },
    frame::{
        Arp, Ethernet, Extension, Fragment, Frame, Icmp, Ipv4, Ipv6, Layer, NdOption, Neighbor, Sctp, Tcp, TcpOption,
        Udp, Vlan,
    },
    icmp,
};

/// Layers deeper than this are payload: tags and headers can be nested without end.
const DEPTH: usize = 16;

impl Frame {
    /// Reads an Ethernet frame. Whatever the bytes are, [`Frame::to_bytes`] gives them back.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        said_only_where_needed(Reader::run(bytes, Reader::ethernet), bytes)
    }

    /// Reads the packet that an ICMP error quotes: an IPv4 or IPv6 header, and what there is of the rest.
    #[must_use]
    pub fn read_quote(bytes: &[u8]) -> Self {
        said_only_where_needed(quote(bytes), bytes)
    }
}

fn quote(bytes: &[u8]) -> Frame {
    match bytes.first() {
        Some(first) if first >> 4 == 6 => Reader::run(bytes, Reader::ipv6),
        Some(_) => Reader::run(bytes, Reader::ipv4),
        None => Frame::default(),
    }
}

fn said_only_where_needed(mut frame: Frame, bytes: &[u8]) -> Frame {
    if frame.to_bytes() != bytes {
        return Frame { layers: vec![Layer::Bytes(bytes.to_vec())], cut: None };
    }
    for index in 0..frame.overrides().len() {
        let Some(said) = frame.overrides().get_mut(index).and_then(|field| field.take()) else { continue };
        if frame.to_bytes() != bytes
            && let Some(field) = frame.overrides().get_mut(index)
        {
            **field = Some(said);
        }
    }
    frame
}

/// Reads one frame from the front.
struct Reader {
    layers: Vec<Layer>,
    /// What follows the end of the ARP packet or of the outermost IP packet.
    trailer: Vec<u8>,
    /// A header reached beyond the end: it was read as if zeros followed.
    cut: bool,
}

impl Reader {
    fn run(bytes: &[u8], first: fn(&mut Self, &[u8])) -> Frame {
        let mut reader = Self { layers: Vec::new(), trailer: Vec::new(), cut: false };
        first(&mut reader, bytes);
        if !reader.trailer.is_empty() {
            reader.layers.push(Layer::Trailer(reader.trailer));
        }
        Frame { layers: reader.layers, cut: reader.cut.then_some(bytes.len()) }
    }

    /// The first `size` bytes and the rest. At the very end of the frame, as if zeros followed; within it, `None`.
    fn header<'a>(&mut self, bytes: &'a [u8], size: usize) -> Option<(Vec<u8>, &'a [u8])> {
        if let Some((header, rest)) = bytes.split_at_checked(size) {
            return Some((header.to_vec(), rest));
        }
        if !self.trailer.is_empty() || bytes.is_empty() {
            return None;
        }
        self.cut = true;
        let mut header = bytes.to_vec();
        header.resize(size, 0);
        Some((header, &[]))
    }

    fn payload(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.layers.push(Layer::Bytes(bytes.to_vec()));
        }
    }

    fn ethernet(&mut self, bytes: &[u8]) {
        let Some((header, rest)) = self.header(bytes, 14) else { return self.payload(bytes) };
        let kind = half(&header, 12);
        self.layers.push(Layer::Ethernet(Ethernet {
            destination: array(&header, 0),
            source: array(&header, 6),
            ether_type: Some(kind.into()),
        }));
        self.by_ether_type(kind, rest);
    }

    fn by_ether_type(&mut self, kind: u16, bytes: &[u8]) {
        if self.layers.len() > DEPTH {
            return self.payload(bytes);
        }
        match kind {
            ETHER_VLAN | ETHER_QINQ => self.vlan(kind == ETHER_QINQ, bytes),
            ETHER_ARP => self.arp(bytes),
            ETHER_IPV4 => self.ipv4(bytes),
            ETHER_IPV6 => self.ipv6(bytes),
            _ => self.payload(bytes),
        }
    }

    fn vlan(&mut self, service: bool, bytes: &[u8]) {
        let Some((header, rest)) = self.header(bytes, 4) else { return self.payload(bytes) };
        let (control, kind) = (half(&header, 0), half(&header, 2));
        self.layers.push(Layer::Vlan(Vlan {
            service,
            id: control & 0xfff,
            priority: header[0] >> 5,
            drop_eligible: control & 0x1000 != 0,
            ether_type: Some(kind.into()),
        }));
        self.by_ether_type(kind, rest);
    }

    fn arp(&mut self, bytes: &[u8]) {
        let Some((header, rest)) = self.header(bytes, 28) else { return self.payload(bytes) };
        self.layers.push(Layer::Arp(Arp {
            hardware_type: Some(half(&header, 0).into()),
            protocol_type: Some(half(&header, 2).into()),
            hardware_length: Some(header[4].into()),
            protocol_length: Some(header[5].into()),
            operation: half(&header, 6),
            sender_mac: array(&header, 8),
            sender: Ipv4Addr::from(array::<4>(&header, 14)),
            target_mac: array(&header, 18),
            target: Ipv4Addr::from(array::<4>(&header, 24)),
        }));
        self.trailer = rest.to_vec();
    }

    /// Where an IP packet ends by its own header. What follows is the trailer, of the outermost packet only.
    fn end<'a>(&mut self, bytes: &'a [u8], length: usize) -> &'a [u8] {
        let outermost = !self.layers.iter().any(|layer| matches!(layer, Layer::Ipv4(_) | Layer::Ipv6(_)));
        match bytes.split_at_checked(length) {
            Some((packet, trailer)) if outermost => {
                self.trailer = trailer.to_vec();
                packet
            }
            _ => bytes,
        }
    }

    fn ipv4(&mut self, bytes: &[u8]) {
        let Some((start, _)) = self.header(bytes, 20) else { return self.payload(bytes) };
        let words = usize::from(start[0] & 0xf);
        let length = usize::from(half(&start, 2));
        let packet = if length >= 4 * words.max(5) { self.end(bytes, length) } else { bytes };
        let Some((header, rest)) = self.header(packet, 4 * words.max(5)) else { return self.payload(packet) };
        let place = half(&header, 6);
        self.layers.push(Layer::Ipv4(Ipv4 {
            version: Some((header[0] >> 4).into()),
            header_length: Some((header[0] & 0xf).into()),
            tos: header[1],
            length: Some(half(&header, 2).into()),
            id: half(&header, 4),
            reserved: place & 0x8000 != 0,
            dont_fragment: place & 0x4000 != 0,
            more_fragments: place & 0x2000 != 0,
            offset: (place & 0x1fff) << 3,
            ttl: header[8],
            protocol: Some(header[9].into()),
            checksum: Some(half(&header, 10).into()),
            source: Ipv4Addr::from(array::<4>(&header, 12)),
            destination: Ipv4Addr::from(array::<4>(&header, 16)),
            options: header[20..].to_vec(),
        }));
        // A later fragment has no transport header.
        if place & 0x1fff != 0 { self.payload(rest) } else { self.by_protocol(header[9], rest) }
    }

    fn ipv6(&mut self, bytes: &[u8]) {
        let Some((start, _)) = self.header(bytes, 40) else { return self.payload(bytes) };
        let length = usize::from(half(&start, 4));
        let packet = self.end(bytes, 40 + length);
        let Some((header, rest)) = self.header(packet, 40) else { return self.payload(packet) };
        let first = word(&header, 0);
        self.layers.push(Layer::Ipv6(Ipv6 {
            version: Some(first >> 28),
            class: u8::try_from((first >> 20) & 0xff).unwrap_or(0),
            flow: first & 0xf_ffff,
            length: Some(half(&header, 4).into()),
            next: Some(header[6].into()),
            hop_limit: header[7],
            source: Ipv6Addr::from(array::<16>(&header, 8)),
            destination: Ipv6Addr::from(array::<16>(&header, 24)),
        }));
        self.by_protocol(header[6], rest);
    }

    fn by_protocol(&mut self, protocol: u8, bytes: &[u8]) {
        if self.layers.len() > DEPTH {
            return self.payload(bytes);
        }
        match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => self.extension(protocol, bytes),
            FRAGMENT => self.fragment(bytes),
            TCP => self.tcp(bytes),
            UDP => self.udp(bytes),
            ICMP => self.icmp(bytes, false),
            ICMPV6 => self.icmp(bytes, true),
            IP_IN_IP => self.ipv4(bytes),
            IPV6_IN_IP => self.ipv6(bytes),
            SCTP => self.sctp(bytes),
            _ => self.payload(bytes),
        }
    }

    fn extension(&mut self, kind: u8, bytes: &[u8]) {
        let size = 8 * (1 + usize::from(bytes.get(1).copied().unwrap_or(0)));
        let Some((header, rest)) = self.header(bytes, size) else { return self.payload(bytes) };
        self.layers.push(Layer::Extension(Extension {
            kind,
            next: Some(header[0].into()),
            length: Some(header[1].into()),
            data: header[2..].to_vec(),
        }));
        self.by_protocol(header[0], rest);
    }

    fn fragment(&mut self, bytes: &[u8]) {
        let Some((header, rest)) = self.header(bytes, 8) else { return self.payload(bytes) };
        let place = half(&header, 2);
        self.layers.push(Layer::Fragment(Fragment {
            next: Some(header[0].into()),
            reserved: ((place & 6) << 7) | u16::from(header[1]),
            offset: place & 0xfff8,
            more: place & 1 != 0,
            id: word(&header, 4),
        }));
        if place & 0xfff8 != 0 { self.payload(rest) } else { self.by_protocol(header[0], rest) }
    }

    fn tcp(&mut self, bytes: &[u8]) {
        let words = usize::from(bytes.get(12).copied().unwrap_or(0) >> 4).max(5);
        let Some((header, rest)) = self.header(bytes, 4 * words) else { return self.payload(bytes) };
        self.layers.push(Layer::Tcp(Tcp {
            source: half(&header, 0),
            destination: half(&header, 2),
            sequence: word(&header, 4),
            acknowledgement: word(&header, 8),
            data_offset: Some((header[12] >> 4).into()),
            reserved: header[12] & 0xf,
            flags: header[13],
            // One that is cut off is not worth a word.
            window: if bytes.len() < 15 { Tcp::default().window } else { half(&header, 14) },
            checksum: Some(half(&header, 16).into()),
            urgent: half(&header, 18),
            options: tcp_options(&header[20..]),
        }));
        self.payload(rest);
    }

    fn udp(&mut self, bytes: &[u8]) {
        let Some((header, rest)) = self.header(bytes, 8) else { return self.payload(bytes) };
        self.layers.push(Layer::Udp(Udp {
            source: half(&header, 0),
            destination: half(&header, 2),
            length: Some(half(&header, 4).into()),
            checksum: Some(half(&header, 6).into()),
        }));
        self.payload(rest);
    }

    fn icmp(&mut self, bytes: &[u8], v6: bool) {
        let Some((header, rest)) = self.header(bytes, 8) else { return self.payload(bytes) };
        let icmp =
            Icmp { kind: header[0], code: header[1], checksum: Some(half(&header, 2).into()), rest: array(&header, 4) };
        let kind = icmp.kind;
        if !v6 {
            self.layers.push(Layer::Icmp(icmp));
        } else if icmp::is_discovery(kind) {
            let (neighbor, rest) = discovery(kind, rest);
            self.layers.push(Layer::Icmpv6(icmp, neighbor));
            return self.payload(rest);
        } else {
            self.layers.push(Layer::Icmpv6(icmp, None));
        }
        if icmp::quotes(kind, v6) && !rest.is_empty() && self.layers.len() < DEPTH {
            let quoted = quote(rest);
            // What cannot be read as a packet is a payload.
            if quoted.to_bytes() == rest {
                self.layers.push(Layer::Quote(quoted));
                return;
            }
        }
        self.payload(rest);
    }

    fn sctp(&mut self, bytes: &[u8]) {
        let Some((header, rest)) = self.header(bytes, 12) else { return self.payload(bytes) };
        self.layers.push(Layer::Sctp(Sctp {
            source: half(&header, 0),
            destination: half(&header, 2),
            tag: word(&header, 4),
            checksum: Some(u32::from_le_bytes(array(&header, 8))),
        }));
        self.payload(rest);
    }
}

/// Target and options, and what cannot be read as such.
fn discovery(kind: u8, bytes: &[u8]) -> (Option<Neighbor>, &[u8]) {
    let mut rest = bytes;
    let mut neighbor = Neighbor::default();
    if icmp::has_target(kind) {
        let Some((target, options)) = rest.split_at_checked(16) else { return (None, bytes) };
        neighbor.target = Some(Ipv6Addr::from(array::<16>(target, 0)));
        rest = options;
    }
    while let [kind, units, ..] = rest {
        let Some((option, more)) = rest.split_at_checked(8 * usize::from(*units)) else { break };
        // An option without length would be read for ever.
        if option.is_empty() {
            break;
        }
        neighbor.options.push(match (kind, units) {
            (1, 1) => NdOption::Source(array(option, 2)),
            (2, 1) => NdOption::Target(array(option, 2)),
            _ => NdOption::Other(option.to_vec()),
        });
        rest = more;
    }
    (Some(neighbor), rest)
}

fn tcp_options(bytes: &[u8]) -> Vec<TcpOption> {
    let mut options = Vec::new();
    let mut rest = bytes;
    while let Some((kind, after)) = rest.split_first() {
        // Up to three zeros at the end are the padding that `build` adds.
        if rest.len() < 4 && rest.iter().all(|byte| *byte == 0) {
            break;
        }
        let (size, option) = match (kind, after) {
            (1, _) => (1, TcpOption::Nop),
            (2, [4, high, low, ..]) => (4, TcpOption::MaximumSegment(u16::from_be_bytes([*high, *low]))),
            (3, [3, shift, ..]) => (3, TcpOption::WindowScale(*shift)),
            (4, [2, ..]) => (2, TcpOption::SackPermitted),
            (5, [length @ (10 | 18 | 26 | 34), ..]) if rest.len() >= usize::from(*length) => {
                let blocks = rest[2..usize::from(*length)].chunks_exact(8);
                (usize::from(*length), TcpOption::Sack(blocks.map(|edges| (word(edges, 0), word(edges, 4))).collect()))
            }
            (8, [10, ..]) if rest.len() >= 10 => (10, TcpOption::Timestamps(word(rest, 2), word(rest, 6))),
            (2.., [length, ..]) if (2..=rest.len()).contains(&usize::from(*length)) => {
                (usize::from(*length), TcpOption::Other(rest[..usize::from(*length)].to_vec()))
            }
            _ => (rest.len(), TcpOption::Other(rest.to_vec())),
        };
        options.push(option);
        rest = &rest[size..];
    }
    let mut built: Vec<u8> = options.iter().flat_map(tcp_option).collect();
    built.resize(built.len().div_ceil(4) * 4, 0);
    if built == bytes { options } else { vec![TcpOption::Other(bytes.to_vec())] }
}

/// Two bytes at a place that the caller knows to exist.
fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}
