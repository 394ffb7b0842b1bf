//! From layers to text.

use std::fmt::Write as _;

use crate::{
    build::{ETHER_ARP, ETHER_IPV4, ETHER_IPV6, ETHER_QINQ, ETHER_VLAN, ICMP, ICMPV6, SCTP, TCP, UDP},
    frame::{
        Arp, Extension, Fragment, Frame, Icmp, Ipv4, Ipv6, Layer, NdOption, Neighbor, Override, Sctp, Tcp, TcpOption,
        Udp, Vlan, WRONG,
    },
    icmp::{self, Rest},
    names::Names,
};

/// Shorter payloads are spelt out even if they happen to count.
const SHORTEST_PATTERN: usize = 17;

/// Letters of the TCP flags from the lowest bit, as in tcpdump.
pub(crate) const TCP_FLAGS: &str = "FSRPAUEW";

/// Names of EtherTypes.
pub(crate) const ETHER_TYPES: &[(&str, u16)] =
    &[("ip", ETHER_IPV4), ("ip6", ETHER_IPV6), ("arp", ETHER_ARP), ("vlan", ETHER_VLAN), ("qinq", ETHER_QINQ)];

/// Names of IP protocols.
pub(crate) const PROTOCOLS: &[(&str, u8)] =
    &[("tcp", TCP), ("udp", UDP), ("icmp", ICMP), ("icmp6", ICMPV6), ("sctp", SCTP)];

impl Frame {
    /// The text of the frame, in one line.
    #[must_use]
    pub fn text(&self, names: &Names) -> String {
        self.segments(names).join(" / ")
    }

    /// The text of each layer.
    #[must_use]
    pub fn segments(&self, names: &Names) -> Vec<String> {
        let mut segments: Vec<String> = self.layers.iter().map(|layer| segment(layer, names)).collect();
        if let Some(cut) = self.cut {
            segments.push(format!("cut {cut}"));
        }
        segments
    }
}

fn segment(layer: &Layer, names: &Names) -> String {
    match layer {
        Layer::Ethernet(eth) => {
            let (source, destination) = (names.show_mac(eth.source), names.show_mac(eth.destination));
            Words::new(&format!("eth {source} > {destination}")).ether_type(eth.ether_type).0
        }
        Layer::Vlan(tag) => vlan(tag),
        Layer::Arp(packet) => arp(packet, names),
        Layer::Ipv4(header) => ipv4(header, names),
        Layer::Ipv6(header) => ipv6(header, names),
        Layer::Extension(header) => extension(header),
        Layer::Fragment(header) => fragment(header),
        Layer::Tcp(header) => tcp(header),
        Layer::Udp(header) => udp(header),
        Layer::Icmp(header) => icmp(header, false, None, names),
        Layer::Icmpv6(header, neighbor) => icmp(header, true, neighbor.as_ref(), names),
        Layer::Sctp(header) => sctp(header),
        Layer::Quote(frame) => format!("[{}]", frame.text(names)),
        Layer::Bytes(bytes) => payload(bytes),
        Layer::Trailer(bytes) => format!("trailer {}", hex(bytes)),
    }
}

/// A line that grows word by word.
struct Words(String);

impl Words {
    fn new(start: &str) -> Self {
        Self(start.to_owned())
    }

    fn push(&mut self, word: &str) {
        self.0.push(' ');
        self.0.push_str(word);
    }

    fn flag(mut self, word: &str, set: bool) -> Self {
        if set {
            self.push(word);
        }
        self
    }

    /// A number, unless it is the usual one.
    fn number(mut self, word: &str, value: impl Into<u64>, usual: u64) -> Self {
        let value = value.into();
        if value != usual {
            self.push(&format!("{word} {value}"));
        }
        self
    }

    fn hex(mut self, word: &str, value: u32) -> Self {
        if value != 0 {
            self.push(&format!("{word} {value:#x}"));
        }
        self
    }

    fn said(mut self, word: &str, value: Override) -> Self {
        if let Some(value) = value {
            self.push(&format!("{word} {value}"));
        }
        self
    }

    fn protocol(mut self, word: &str, value: Override) -> Self {
        if let Some(value) = value {
            match PROTOCOLS.iter().find(|(_, number)| u32::from(*number) == value) {
                Some((name, _)) => self.push(&format!("{word} {name}")),
                None => self.push(&format!("{word} {value}")),
            }
        }
        self
    }

    fn ether_type(mut self, value: Override) -> Self {
        if let Some(value) = value {
            match ETHER_TYPES.iter().find(|(_, number)| u32::from(*number) == value) {
                Some((name, _)) => self.push(&format!("type {name}")),
                None => self.push(&format!("type {value:#06x}")),
            }
        }
        self
    }

    fn checksum(mut self, value: Override) -> Self {
        match value {
            None => {}
            Some(WRONG) => self.push("checksum bad"),
            // Both are zero in ones' complement: another way to write a right checksum, or a wrong one.
            Some(value @ (0 | 0xffff)) => self.push(&format!("checksum {value:#06x}")),
            Some(value) => self.push(&format!("checksum bad {value:#06x}")),
        }
        self
    }
}

fn vlan(tag: &Vlan) -> String {
    Words::new(&format!("{} {}", if tag.service { "qinq" } else { "vlan" }, tag.id))
        .number("pcp", tag.priority, 0)
        .flag("dei", tag.drop_eligible)
        .ether_type(tag.ether_type)
        .0
}

fn arp(packet: &Arp, names: &Names) -> String {
    let operation = match packet.operation {
        1 => "request".to_owned(),
        2 => "reply".to_owned(),
        other => other.to_string(),
    };
    let (sender, target) = (names.show(packet.sender), names.show(packet.target));
    let mut words =
        Words::new(&format!("arp {operation} {sender} at {} > {target}", names.show_mac(packet.sender_mac)));
    if packet.target_mac != [0; 6] {
        words.push(&format!("at {}", names.show_mac(packet.target_mac)));
    }
    words
        .said("htype", packet.hardware_type)
        .said("ptype", packet.protocol_type)
        .said("hlen", packet.hardware_length)
        .said("plen", packet.protocol_length)
        .0
}

fn ipv4(header: &Ipv4, names: &Names) -> String {
    let mut words = Words::new(&format!("ip {} > {}", names.show(header.source), names.show(header.destination)))
        .number("ttl", header.ttl, 64)
        .number("tos", header.tos, 0)
        .number("id", header.id, 0)
        .flag("reserved", header.reserved)
        .flag("df", header.dont_fragment)
        .flag("mf", header.more_fragments)
        .number("offset", header.offset, 0);
    if !header.options.is_empty() {
        words.push(&format!("options {}", hex(&header.options)));
    }
    words
        .said("version", header.version)
        .said("ihl", header.header_length)
        .said("len", header.length)
        .protocol("proto", header.protocol)
        .checksum(header.checksum)
        .0
}

fn ipv6(header: &Ipv6, names: &Names) -> String {
    Words::new(&format!("ip6 {} > {}", names.show(header.source), names.show(header.destination)))
        .number("hlim", header.hop_limit, 64)
        .number("class", header.class, 0)
        .hex("flow", header.flow)
        .said("version", header.version)
        .said("len", header.length)
        .protocol("next", header.next)
        .0
}

/// What an extension header holds if nothing is said: one PadN option of six bytes.
pub(crate) const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];

fn extension(header: &Extension) -> String {
    let mut words = Words::new(match header.kind {
        0 => "hopopts",
        43 => "routing",
        _ => "dstopts",
    });
    if header.data != PADDING {
        words.push(&hex(&header.data));
    }
    words.said("len", header.length).protocol("next", header.next).0
}

fn fragment(header: &Fragment) -> String {
    Words::new(&format!("frag offset {} id {}", header.offset, header.id))
        .flag("mf", header.more)
        .hex("reserved", header.reserved.into())
        .protocol("next", header.next)
        .0
}

fn tcp(header: &Tcp) -> String {
    let flags: String = TCP_FLAGS
        .chars()
        .enumerate()
        .filter(|(bit, _)| header.flags & (1 << bit) != 0)
        .map(|(_, letter)| letter)
        .collect();
    let flags = if flags.is_empty() { "-" } else { &flags };
    let mut words = Words::new(&format!("tcp {} > {} {flags}", header.source, header.destination))
        .number("seq", header.sequence, 0)
        .number("ack", header.acknowledgement, 0)
        .number("win", header.window, 65535)
        .number("urg", header.urgent, 0)
        .number("reserved", header.reserved, 0);
    for option in &header.options {
        words.push(&match option {
            TcpOption::Nop => "nop".to_owned(),
            TcpOption::MaximumSegment(size) => format!("mss {size}"),
            TcpOption::WindowScale(shift) => format!("wscale {shift}"),
            TcpOption::SackPermitted => "sackok".to_owned(),
            TcpOption::Sack(blocks) => {
                let blocks: Vec<String> = blocks.iter().map(|(left, right)| format!("{left}-{right}")).collect();
                format!("sack {}", blocks.join(","))
            }
            TcpOption::Timestamps(value, echo) => format!("ts {value} {echo}"),
            TcpOption::Other(bytes) => format!("opt {}", hex(bytes)),
        });
    }
    words.said("doff", header.data_offset).checksum(header.checksum).0
}

fn udp(header: &Udp) -> String {
    let words = Words::new(&format!("udp {} > {}", header.source, header.destination)).said("len", header.length);
    match header.checksum {
        Some(0) => words.flag("checksum none", true).0,
        checksum => words.checksum(checksum).0,
    }
}

fn icmp(header: &Icmp, v6: bool, neighbor: Option<&Neighbor>, names: &Names) -> String {
    let protocol = if v6 { "icmp6" } else { "icmp" };
    let mut words = match icmp::named(header, v6) {
        Some(kind) => {
            let mut words = Words::new(&format!("{protocol} {}", kind.name));
            let code = kind.codes.iter().find(|(number, _)| *number == header.code);
            match code {
                Some((_, name)) => words.push(name),
                None if !kind.codes.is_empty() || header.code != 0 => words.push(&format!("code {}", header.code)),
                None => {}
            }
            let [a, b, c, d] = header.rest;
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let all = u32::from_be_bytes(header.rest);
            match kind.rest {
                Rest::Unused => words,
                Rest::Echo => words.number("id", high, u64::MAX).number("seq", low, u64::MAX),
                Rest::ShortMtu => words.number("mtu", low, 0),
                Rest::Mtu => words.number("mtu", all, u64::MAX),
                Rest::ShortPointer => words.number("pointer", a, u64::MAX),
                Rest::Pointer => words.number("pointer", all, u64::MAX),
                Rest::Advertisement => {
                    words.flag("router", a & 0x80 != 0).flag("solicited", a & 0x40 != 0).flag("override", a & 0x20 != 0)
                }
            }
        }
        None => {
            let rest = hex(&header.rest);
            Words::new(&format!("{protocol} type {} code {} rest {rest}", header.kind, header.code))
        }
    };
    if let Some(neighbor) = neighbor {
        if let Some(target) = neighbor.target {
            words.push(&format!("target {}", names.show(target)));
        }
        for option in &neighbor.options {
            words.push(&match option {
                NdOption::Source(mac) => format!("slla {}", names.show_mac(*mac)),
                NdOption::Target(mac) => format!("tlla {}", names.show_mac(*mac)),
                NdOption::Other(bytes) => format!("opt {}", hex(bytes)),
            });
        }
    }
    words.checksum(header.checksum).0
}

fn sctp(header: &Sctp) -> String {
    let mut words = Words::new(&format!("sctp {} > {}", header.source, header.destination)).hex("tag", header.tag);
    match header.checksum {
        None => {}
        Some(WRONG) => words.push("checksum bad"),
        Some(value) => words.push(&format!("checksum bad {value:#010x}")),
    }
    words.0
}

/// What `bytes N` stands for.
pub(crate) fn counting(length: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(length).collect()
}

fn payload(bytes: &[u8]) -> String {
    let length = bytes.len();
    if length >= SHORTEST_PATTERN && bytes == counting(length) {
        return format!("bytes {length}");
    }
    if length >= SHORTEST_PATTERN && bytes.iter().all(|byte| *byte == 0) {
        return format!("zeros {length}");
    }
    let readable = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t');
    if bytes.is_empty() || !bytes.iter().all(readable) {
        return hex(bytes);
    }
    let mut text = String::from("\"");
    for byte in bytes {
        match byte {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            _ => text.push(char::from(*byte)),
        }
    }
    text.push('"');
    text
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::from("0x");
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
