//! Reading headers out of a packet, once.

use core::mem::offset_of;

use evenkeel_maps::{Address, FragmentKey, ICMP, ICMPV6, TCP, Tuple, UDP};

use crate::{
    frame::{Frame, pointer},
    word::{read_16, read_32, read_64},
};

pub const ETHER_TYPE_IPV4: u16 = 0x0800;
pub const ETHER_TYPE_ARP: u16 = 0x0806;
pub const ETHER_TYPE_VLAN: u16 = 0x8100;
pub const ETHER_TYPE_IPV6: u16 = 0x86dd;
pub const ETHER_TYPE_SERVICE_VLAN: u16 = 0x88a8;
/// Ethernet header length; a frame with a VLAN tag in it is not read.
pub const ETHERNET: usize = 14;
/// Length of an IPv6 header.
pub const IPV6: usize = 40;
/// How much of a packet is made readable: Ethernet, IPv4 with all options or IPv6 with some extensions, TCP without options;
/// for an ICMP error, the same of what it quotes.
const HEADERS: u32 = 14 + 60 + 20;
/// Extension headers that are followed: each in its place, destination options twice (RFC 8200 section 4.1).
const EXTENSIONS: u32 = 5;
/// Where a transport header may begin at the latest: all of it lies where [`pointer`] reaches.
pub const LAST_TRANSPORT: u32 = 0x100 - size_of::<TcpHeader>() as u32;

/// Flags of a TCP header, RFC 9293 section 3.1.
pub mod tcp_flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// Next-header numbers of IPv6 extensions, RFC 8200 section 4.
mod extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION: u8 = 60;
}

/// What follows the IP header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    /// ICMP or ICMPv6, whichever belongs to the family.
    Icmp,
    /// Every other protocol.
    Other,
    /// A later fragment: the ports are in the first one.
    LaterFragment,
    /// The packet ends before the header does.
    Truncated,
}

/// The fields that decide a packet's way.
pub struct Packet {
    /// The ports are zero unless `transport` is TCP or UDP; the protocol is that of what follows all extension headers.
    pub tuple: Tuple,
    pub ipv6: bool,
    pub transport: Transport,
    /// The first fragment of several.
    pub is_first_fragment: bool,
    pub ttl: u8,
    /// TCP flags, zero for others.
    pub flags: u8,
    /// TCP header with its options, in bytes; zero for others.
    pub header: u8,
    /// TCP sequence number as on the wire, zero for others.
    pub sequence: [u8; 4],
    /// Identification of a fragment, as on the wire.
    pub identification: [u8; 4],
    /// Offset of the transport header from the start of the frame, in bytes.
    pub transport_offset: u32,
    /// Length of the IP packet by its header, in bytes.
    pub length: u32,
    /// Length of the whole frame, in bytes.
    pub frame_length: u32,
}

impl Packet {
    /// What an IPv4 header says, before anything of what follows it at `transport_offset` is read.
    #[inline(always)]
    fn of_ipv4(ip: &Ipv4Header, source: Address, destination: Address, transport_offset: usize) -> Self {
        Self {
            tuple: portless(source, destination, ip.protocol),
            ipv6: false,
            transport: Transport::Other,
            is_first_fragment: false,
            ttl: ip.ttl,
            flags: 0,
            header: 0,
            sequence: [0; 4],
            identification: [ip.identification[0], ip.identification[1], 0, 0],
            transport_offset: transport_offset as u32,
            length: u16::from_be_bytes(ip.total_length) as u32,
            frame_length: 0,
        }
    }

    /// The same of an IPv6 header.
    #[inline(always)]
    fn of_ipv6(ip: &Ipv6Header, source: Address, destination: Address, transport_offset: usize) -> Self {
        Self {
            tuple: portless(source, destination, ip.next_header),
            ipv6: true,
            transport: Transport::Other,
            is_first_fragment: false,
            ttl: ip.hop_limit,
            flags: 0,
            header: 0,
            sequence: [0; 4],
            identification: [0; 4],
            transport_offset: transport_offset as u32,
            length: u16::from_be_bytes(ip.payload_length) as u32 + IPV6 as u32,
            frame_length: 0,
        }
    }

    /// A SYN without ACK: the client opens a connection.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
    }

    /// The datagram this is a fragment of, if that is of this protocol.
    #[inline(always)]
    pub fn fragment_key(&self, protocol: u8) -> FragmentKey {
        FragmentKey {
            source: self.tuple.source,
            destination: self.tuple.destination,
            identification: self.identification,
            protocol,
            pad: [0; 3],
        }
    }

    /// Whether the packet has ports that could belong to a flow.
    #[inline(always)]
    pub fn has_ports(&self) -> bool {
        self.transport == Transport::Tcp || self.transport == Transport::Udp
    }

    /// Offset of the transport checksum.
    #[inline(always)]
    pub fn checksum_offset(&self) -> u32 {
        self.transport_offset + if self.tuple.protocol == TCP { 16 } else { 6 }
    }
}

#[repr(C)]
pub struct Ipv4Header {
    pub version_and_length: u8,
    pub service: u8,
    pub total_length: [u8; 2],
    pub identification: [u8; 2],
    pub fragment: [u8; 2],
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: [u8; 2],
    pub source: [u8; 4],
    pub destination: [u8; 4],
}

#[repr(C)]
pub struct Ipv6Header {
    pub version_class_label: [u8; 4],
    pub payload_length: [u8; 2],
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: [u8; 16],
    pub destination: [u8; 16],
}

#[repr(C)]
pub struct TcpHeader {
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
    pub sequence: [u8; 4],
    pub acknowledgement: [u8; 4],
    pub data_offset: u8,
    pub flags: u8,
    pub window: [u8; 2],
    pub checksum: [u8; 2],
    pub urgent: [u8; 2],
}

#[repr(C)]
pub struct UdpHeader {
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
    pub length: [u8; 2],
    pub checksum: [u8; 2],
}

/// The first eight bytes of an IPv6 extension header.
#[repr(C)]
struct Extension {
    next_header: u8,
    /// In units of eight bytes, without the first; reserved in a fragment header.
    length: u8,
    /// Of a fragment header: the offset in units of eight bytes, two reserved bits, and more-fragments. Of a routing header:
    /// type and segments left.
    offset: [u8; 2],
    identification: [u8; 4],
}

/// The addresses of an IP packet, and its protocol or first extension header: enough to know most packets that do not
/// concern the programs.
#[inline(always)]
pub fn glance(frame: &impl Frame, ipv6: bool) -> Option<(Address, Address, u8)> {
    frame.pull(HEADERS);
    if ipv6 {
        let ip = pointer::<Ipv6Header>(frame, ETHERNET)?;
        // SAFETY: `pointer` has checked the bounds; so below.
        let (source, destination) = unsafe { addresses_ipv6(ip) };
        return Some((source, destination, unsafe { (*ip).next_header }));
    }
    let ip = pointer::<Ipv4Header>(frame, ETHERNET)?;
    let (source, destination) = unsafe { addresses_ipv4(ip) };
    Some((source, destination, unsafe { (*ip).protocol }))
}

/// Source and destination of an IPv4 header.
///
/// # Safety
/// Its bounds have been checked.
#[inline(always)]
unsafe fn addresses_ipv4(ip: *const Ipv4Header) -> (Address, Address) {
    const SOURCE: usize = offset_of!(Ipv4Header, source);
    const DESTINATION: usize = offset_of!(Ipv4Header, destination);
    // SAFETY: as promised by the caller; so below.
    let (source, destination) = unsafe { (read_32::<SOURCE>(ip.cast()), read_32::<DESTINATION>(ip.cast())) };
    (Address::from_word(source), Address::from_word(destination))
}

/// Source and destination of an IPv6 header.
///
/// # Safety
/// Its bounds have been checked.
#[inline(always)]
unsafe fn addresses_ipv6(ip: *const Ipv6Header) -> (Address, Address) {
    let ip = ip.cast::<u8>();
    unsafe {
        (
            Address::from_halves([read_64::<8>(ip), read_64::<16>(ip)]),
            Address::from_halves([read_64::<24>(ip), read_64::<32>(ip)]),
        )
    }
}

/// Whether what follows such a header has to be looked at whatever the addresses are: an ICMP error concerns whom it quotes.
#[inline(always)]
pub fn may_be_icmp(protocol: u8) -> bool {
    protocol == ICMP || protocol == ICMPV6 || is_extension(protocol)
}

/// Reads the headers of an IP packet, after a glance at it. `None`: not what its EtherType says, or shorter than its IP header claims.
#[inline(never)]
pub fn parse<F: Frame>(frame: &F, ether_type: u16, packet: &mut Packet) -> Option<()> {
    parse_at(frame, ETHERNET, ether_type == ETHER_TYPE_IPV6, packet)?;
    packet.frame_length = frame.length_beyond(packet.length + ETHERNET as u32);
    if packet.length <= IPV6 as u32 && frame.is_several() {
        // Too long for the header's field (BIG TCP).
        packet.length = packet.frame_length - ETHERNET as u32;
    }
    // The kernel would not take a packet that ends before its headers do, or that is longer than its frame.
    let header = match packet.transport {
        Transport::Tcp => size_of::<TcpHeader>() as u32,
        Transport::Udp | Transport::Icmp => 8,
        _ => 0,
    };
    let end = packet.length + ETHERNET as u32;
    if end > packet.frame_length || packet.transport_offset + header > end {
        packet.transport = Transport::Truncated;
    }
    Some(())
}

/// Reads the headers of a TCP segment or UDP datagram whose IP header has neither options nor extensions and which is whole:
/// everything lies at a known place. `None`: something else, [`parse`] knows what.
#[inline(always)]
pub fn parse_plain(frame: &impl Frame, ipv6: bool) -> Option<Packet> {
    let mut packet = if ipv6 { plain_ipv6(frame)? } else { plain_ipv4(frame)? };
    read_transport(frame, &mut packet, if ipv6 { ICMPV6 } else { ICMP });
    let header = match packet.transport {
        Transport::Tcp => size_of::<TcpHeader>() as u32,
        Transport::Udp => size_of::<UdpHeader>() as u32,
        _ => return None,
    };
    let end = packet.length + ETHERNET as u32;
    packet.frame_length = frame.length_beyond(end);
    // A length that is too long for its field (BIG TCP) is given as zero.
    (end <= packet.frame_length && packet.transport_offset + header <= end).then_some(packet)
}

#[inline(always)]
fn plain_ipv4(frame: &impl Frame) -> Option<Packet> {
    const FRAGMENT: usize = offset_of!(Ipv4Header, fragment);
    let at: *const Ipv4Header = pointer::<Ipv4Header>(frame, ETHERNET)?;
    // SAFETY: `pointer` has checked the bounds.
    let (ip, (source, destination), fragment) =
        unsafe { (&*at, addresses_ipv4(at), u16::from_be(read_16::<FRAGMENT>(at.cast()))) };
    // All but "don't fragment".
    if ip.version_and_length != 0x45 || fragment & 0xbfff != 0 {
        return None;
    }
    Some(Packet::of_ipv4(ip, source, destination, ETHERNET + size_of::<Ipv4Header>()))
}

#[inline(always)]
fn plain_ipv6(frame: &impl Frame) -> Option<Packet> {
    let at: *const Ipv6Header = pointer::<Ipv6Header>(frame, ETHERNET)?;
    // SAFETY: `pointer` has checked the bounds.
    let (ip, (source, destination)) = unsafe { (&*at, addresses_ipv6(at)) };
    if ip.version_class_label[0] >> 4 != 6 {
        return None;
    }
    Some(Packet::of_ipv6(ip, source, destination, ETHERNET + IPV6))
}

/// Reads an IP packet at `offset` of the frame.
#[inline(always)]
pub fn parse_at(frame: &impl Frame, offset: usize, ipv6: bool, packet: &mut Packet) -> Option<()> {
    if ipv6 { parse_ipv6(frame, offset, packet) } else { parse_ipv4(frame, offset, packet) }
}

/// The tuple without ports.
#[inline(always)]
fn portless(source: Address, destination: Address, protocol: u8) -> Tuple {
    Tuple { source, destination, source_port: [0; 2], destination_port: [0; 2], protocol, pad: [0; 3] }
}

#[inline(always)]
fn parse_ipv4(frame: &impl Frame, offset: usize, packet: &mut Packet) -> Option<()> {
    let at: *const Ipv4Header = pointer::<Ipv4Header>(frame, offset)?;
    // SAFETY: `pointer` has checked the bounds, here and below.
    let (ip, (source, destination)) = unsafe { (&*at, addresses_ipv4(at)) };
    let header_length = ((ip.version_and_length & 0x0f) as usize) * 4;
    if ip.version_and_length >> 4 != 4 || header_length < 20 {
        return None;
    }
    *packet = Packet::of_ipv4(ip, source, destination, offset + header_length);
    if ip.fragment[0] & 0x1f != 0 || ip.fragment[1] != 0 {
        packet.transport = Transport::LaterFragment;
        return Some(());
    }
    packet.is_first_fragment = ip.fragment[0] & 0x20 != 0;
    read_transport(frame, packet, ICMP);
    Some(())
}

#[inline(always)]
fn parse_ipv6(frame: &impl Frame, offset: usize, packet: &mut Packet) -> Option<()> {
    let at: *const Ipv6Header = pointer::<Ipv6Header>(frame, offset)?;
    let (ip, (source, destination)) = unsafe { (&*at, addresses_ipv6(at)) };
    if ip.version_class_label[0] >> 4 != 6 {
        return None;
    }
    *packet = Packet::of_ipv6(ip, source, destination, offset + IPV6);
    if is_extension(packet.tuple.protocol) && !follow_extensions(frame, packet) {
        return Some(());
    }
    read_transport(frame, packet, ICMPV6);
    Some(())
}

/// Goes past the extension headers. `false`: `transport` says why no transport header follows.
#[inline(never)]
fn follow_extensions<F: Frame>(frame: &F, packet: &mut Packet) -> bool {
    for _ in 0..EXTENSIONS {
        if !is_extension(packet.tuple.protocol) {
            return true;
        }
        let Some(extension) = pointer::<Extension>(frame, packet.transport_offset as usize) else {
            packet.transport = Transport::Truncated;
            return false;
        };
        let extension = unsafe { &*extension };
        let mut length = (extension.length as u32 + 1) * 8;
        if packet.tuple.protocol == extension::FRAGMENT {
            length = 8;
            packet.identification = extension.identification;
            if extension.offset[0] != 0 || extension.offset[1] & 0xf8 != 0 {
                packet.tuple.protocol = extension.next_header;
                packet.transport = Transport::LaterFragment;
                return false;
            }
            packet.is_first_fragment = extension.offset[1] & 1 != 0;
        } else if packet.tuple.protocol == extension::ROUTING && extension.offset[1] != 0 {
            // More segments to visit: the destination is not the last one.
            return false;
        }
        packet.tuple.protocol = extension.next_header;
        packet.transport_offset += length;
        if packet.transport_offset > LAST_TRANSPORT {
            packet.transport = Transport::Truncated;
            return false;
        }
    }
    !is_extension(packet.tuple.protocol)
}

#[inline(always)]
fn is_extension(protocol: u8) -> bool {
    matches!(protocol, extension::HOP_BY_HOP | extension::ROUTING | extension::FRAGMENT | extension::DESTINATION)
}

#[inline(always)]
fn read_transport(frame: &impl Frame, packet: &mut Packet, icmp: u8) {
    let at = packet.transport_offset as usize;
    match packet.tuple.protocol {
        TCP => match pointer::<TcpHeader>(frame, at) {
            Some(tcp) => {
                unsafe {
                    packet.tuple.source_port = read_16::<0>(tcp.cast()).to_ne_bytes();
                    packet.tuple.destination_port = read_16::<2>(tcp.cast()).to_ne_bytes();
                    packet.sequence = read_32::<4>(tcp.cast()).to_ne_bytes();
                    packet.flags = (*tcp).flags;
                    packet.header = (*tcp).data_offset >> 4 << 2;
                }
                packet.transport = Transport::Tcp;
            }
            None => packet.transport = Transport::Truncated,
        },
        UDP => match pointer::<[[u8; 2]; 4]>(frame, at) {
            Some(udp) => {
                unsafe {
                    packet.tuple.source_port = read_16::<0>(udp.cast()).to_ne_bytes();
                    packet.tuple.destination_port = read_16::<2>(udp.cast()).to_ne_bytes();
                }
                packet.transport = Transport::Udp;
            }
            None => packet.transport = Transport::Truncated,
        },
        protocol if protocol == icmp => packet.transport = Transport::Icmp,
        _ => {}
    }
}
