//! What a frame consists of.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A field that is computed when the frame is built (`None`) or said explicitly.
pub type Override = Option<u32>;

/// As the [`Override`] of a checksum: some wrong one.
pub const WRONG: u32 = u32::MAX;

/// An Ethernet frame, or the packet that an ICMP error quotes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// From the outermost inwards.
    pub layers: Vec<Layer>,
    /// Ends after this many bytes, whatever the layers say.
    pub cut: Option<usize>,
}

/// One header, or a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Ethernet II.
    Ethernet(Ethernet),
    /// 802.1Q or 802.1ad tag.
    Vlan(Vlan),
    /// ARP for IPv4 over Ethernet.
    Arp(Arp),
    /// IPv4, RFC 791.
    Ipv4(Ipv4),
    /// IPv6, RFC 8200.
    Ipv6(Ipv6),
    /// Hop-by-hop options, destination options or a routing header, RFC 8200.
    Extension(Extension),
    /// IPv6 fragment header, RFC 8200 section 4.5.
    Fragment(Fragment),
    /// TCP, RFC 9293.
    Tcp(Tcp),
    /// UDP, RFC 768.
    Udp(Udp),
    /// ICMP, RFC 792.
    Icmp(Icmp),
    /// ICMPv6, RFC 4443; with neighbour discovery, RFC 4861.
    Icmpv6(Icmp, Option<Neighbor>),
    /// SCTP's common header, RFC 9260.
    Sctp(Sctp),
    /// The packet that an ICMP error is about.
    Quote(Frame),
    /// A payload.
    Bytes(Vec<u8>),
    /// What follows the end of the ARP or IP packet, such as Ethernet padding.
    Trailer(Vec<u8>),
}

/// An Ethernet header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ethernet {
    /// Source address.
    pub source: [u8; 6],
    /// Destination address.
    pub destination: [u8; 6],
    /// EtherType; computed from the next layer.
    pub ether_type: Override,
}

/// A VLAN tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vlan {
    /// 802.1ad service tag (0x88a8) rather than 802.1Q (0x8100).
    pub service: bool,
    /// VLAN identifier, 12 bits.
    pub id: u16,
    /// Priority code point, 3 bits.
    pub priority: u8,
    /// Drop eligible.
    pub drop_eligible: bool,
    /// EtherType of what follows.
    pub ether_type: Override,
}

/// An ARP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 1 request, 2 reply.
    pub operation: u16,
    /// Sender's hardware address.
    pub sender_mac: [u8; 6],
    /// Sender's address.
    pub sender: Ipv4Addr,
    /// Target's hardware address.
    pub target_mac: [u8; 6],
    /// Target's address.
    pub target: Ipv4Addr,
    /// Hardware type; computed as 1.
    pub hardware_type: Override,
    /// Protocol type; computed as IPv4.
    pub protocol_type: Override,
    /// Length of hardware addresses; computed as 6.
    pub hardware_length: Override,
    /// Length of protocol addresses; computed as 4.
    pub protocol_length: Override,
}

/// An IPv4 header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// The reserved flag.
    pub reserved: bool,
    /// Don't fragment.
    pub dont_fragment: bool,
    /// More fragments.
    pub more_fragments: bool,
    /// Fragment offset in bytes, a multiple of eight.
    pub offset: u16,
    /// Options; padded with zeros to a multiple of four bytes.
    pub options: Vec<u8>,
    /// Version; computed as 4.
    pub version: Override,
    /// Header length in 32-bit words.
    pub header_length: Override,
    /// Total length in bytes.
    pub length: Override,
    /// Protocol number of the next layer.
    pub protocol: Override,
    /// Header checksum.
    pub checksum: Override,
}

/// An IPv6 header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Hop limit.
    pub hop_limit: u8,
    /// Traffic class.
    pub class: u8,
    /// Flow label, 20 bits.
    pub flow: u32,
    /// Version; computed as 6.
    pub version: Override,
    /// Payload length in bytes.
    pub length: Override,
    /// Next header.
    pub next: Override,
}

/// An IPv6 extension header with a length field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Its own number: 0 hop-by-hop options, 43 routing, 60 destination options.
    pub kind: u8,
    /// What follows the length field: six bytes and a multiple of eight more.
    pub data: Vec<u8>,
    /// Length in units of eight bytes, without the first.
    pub length: Override,
    /// Next header.
    pub next: Override,
}

/// An IPv6 fragment header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Offset in bytes, a multiple of eight.
    pub offset: u16,
    /// More fragments.
    pub more: bool,
    /// Identification.
    pub id: u32,
    /// The reserved byte, and above it the two reserved bits.
    pub reserved: u16,
    /// Next header.
    pub next: Override,
}

/// A TCP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// The eight flags from FIN (1) to CWR (0x80).
    pub flags: u8,
    /// The four bits between data offset and flags.
    pub reserved: u8,
    /// Window, as on the wire.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options; padded with zeros to a multiple of four bytes.
    pub options: Vec<TcpOption>,
    /// Data offset in 32-bit words.
    pub data_offset: Override,
    /// Checksum.
    pub checksum: Override,
}

/// A TCP option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpOption {
    /// No operation.
    Nop,
    /// Maximum segment size.
    MaximumSegment(u16),
    /// Window scale.
    WindowScale(u8),
    /// Selective acknowledgements permitted.
    SackPermitted,
    /// Selective acknowledgements: from, to.
    Sack(Vec<(u32, u32)>),
    /// Timestamps: value, echo.
    Timestamps(u32, u32),
    /// Anything else, kind and length included.
    Other(Vec<u8>),
}

/// A UDP header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Length of header and payload.
    pub length: Override,
    /// Checksum; 0 is none.
    pub checksum: Override,
}

/// An ICMP or ICMPv6 header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// What follows the checksum: identifier and sequence number, MTU, pointer, flags.
    pub rest: [u8; 4],
    /// Checksum.
    pub checksum: Override,
}

/// What follows the ICMPv6 header in neighbour discovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbor {
    /// Target address; router solicitations have none.
    pub target: Option<Ipv6Addr>,
    /// Options.
    pub options: Vec<NdOption>,
}

/// An option of neighbour discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NdOption {
    /// Source link-layer address.
    Source([u8; 6]),
    /// Target link-layer address.
    Target([u8; 6]),
    /// Anything else, type and length included.
    Other(Vec<u8>),
}

/// SCTP's common header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sctp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Verification tag.
    pub tag: u32,
    /// CRC32c.
    pub checksum: Override,
}

impl Default for Arp {
    fn default() -> Self {
        Self {
            operation: 1,
            sender_mac: [0; 6],
            sender: Ipv4Addr::UNSPECIFIED,
            target_mac: [0; 6],
            target: Ipv4Addr::UNSPECIFIED,
            hardware_type: None,
            protocol_type: None,
            hardware_length: None,
            protocol_length: None,
        }
    }
}

impl Default for Ipv4 {
    fn default() -> Self {
        Self {
            source: Ipv4Addr::UNSPECIFIED,
            destination: Ipv4Addr::UNSPECIFIED,
            ttl: 64,
            tos: 0,
            id: 0,
            reserved: false,
            dont_fragment: false,
            more_fragments: false,
            offset: 0,
            options: Vec::new(),
            version: None,
            header_length: None,
            length: None,
            protocol: None,
            checksum: None,
        }
    }
}

impl Default for Ipv6 {
    fn default() -> Self {
        Self {
            source: Ipv6Addr::UNSPECIFIED,
            destination: Ipv6Addr::UNSPECIFIED,
            hop_limit: 64,
            class: 0,
            flow: 0,
            version: None,
            length: None,
            next: None,
        }
    }
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            source: 0,
            destination: 0,
            sequence: 0,
            acknowledgement: 0,
            flags: 0,
            reserved: 0,
            window: 65535,
            urgent: 0,
            options: Vec::new(),
            data_offset: None,
            checksum: None,
        }
    }
}

impl Frame {
    /// Makes every checksum right that can be; a UDP checksum of none stays none.
    pub fn mend_checksums(&mut self) {
        for layer in &mut self.layers {
            match layer {
                Layer::Ipv4(ip) => ip.checksum = None,
                Layer::Tcp(tcp) => tcp.checksum = None,
                Layer::Udp(udp) if udp.checksum != Some(0) => udp.checksum = None,
                Layer::Icmp(icmp) | Layer::Icmpv6(icmp, _) => icmp.checksum = None,
                Layer::Sctp(sctp) => sctp.checksum = None,
                Layer::Quote(frame) => frame.mend_checksums(),
                _ => {}
            }
        }
    }

    /// Every field that can be computed instead, in all layers.
    pub(crate) fn overrides(&mut self) -> Vec<&mut Override> {
        self.layers.iter_mut().flat_map(Layer::overrides).collect()
    }
}

impl Layer {
    fn overrides(&mut self) -> Vec<&mut Override> {
        match self {
            Self::Ethernet(eth) => vec![&mut eth.ether_type],
            Self::Vlan(vlan) => vec![&mut vlan.ether_type],
            Self::Arp(arp) => {
                vec![&mut arp.hardware_type, &mut arp.protocol_type, &mut arp.hardware_length, &mut arp.protocol_length]
            }
            Self::Ipv4(ip) => {
                vec![&mut ip.version, &mut ip.header_length, &mut ip.length, &mut ip.protocol, &mut ip.checksum]
            }
            Self::Ipv6(ip) => vec![&mut ip.version, &mut ip.length, &mut ip.next],
            Self::Extension(extension) => vec![&mut extension.length, &mut extension.next],
            Self::Fragment(fragment) => vec![&mut fragment.next],
            Self::Tcp(tcp) => vec![&mut tcp.data_offset, &mut tcp.checksum],
            Self::Udp(udp) => vec![&mut udp.length, &mut udp.checksum],
            Self::Icmp(icmp) | Self::Icmpv6(icmp, _) => vec![&mut icmp.checksum],
            Self::Sctp(sctp) => vec![&mut sctp.checksum],
            Self::Quote(frame) => frame.overrides(),
            Self::Bytes(_) | Self::Trailer(_) => Vec::new(),
        }
    }
}
