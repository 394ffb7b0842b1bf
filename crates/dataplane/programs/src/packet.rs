//! Reading headers out of a packet, once.

use core::{arch::asm, mem::offset_of};

use aya_ebpf::{EbpfContext, bindings::__sk_buff, helpers::generated::bpf_skb_pull_data, programs::TcContext};
use evenkeel_maps::{FlowKey, Outcome, TCP, UDP};

pub const ETHER_TYPE_IPV4: u16 = 0x0800;
pub const ETHER_TYPE_ARP: u16 = 0x0806;
/// `PACKET_HOST` of linux/if_packet.h: addressed to this interface's hardware address.
const PACKET_HOST: u32 = 0;
/// Ethernet header length; on tc hooks a VLAN tag is beside the packet, not in it.
pub const ETHERNET: usize = 14;
/// The longest header this code reads: Ethernet, IPv4 with all options, TCP without.
const HEADERS: u32 = 14 + 60 + 20;

/// Flags of a TCP header, RFC 9293 section 3.1.
pub mod tcp_flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// What follows the IPv4 header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    /// ICMP and every other protocol.
    Other,
    /// A fragment, first or later.
    Fragment,
    /// The packet ends before the header does.
    Truncated,
}

/// The fields that decide a packet's way.
pub struct Packet {
    /// Five-tuple; ports are zero unless `transport` is TCP or UDP.
    pub key: FlowKey,
    pub transport: Transport,
    /// Offset of the transport header from the start of the frame, in bytes.
    pub transport_offset: u32,
    pub ttl: u8,
    /// TCP flags, zero for others.
    pub flags: u8,
    /// TCP sequence number as on the wire, zero for others.
    pub sequence: [u8; 4],
}

impl Packet {
    /// A SYN without ACK: the client opens a connection.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
    }
}

#[repr(C)]
struct Ipv4Header {
    version_and_length: u8,
    service: u8,
    total_length: [u8; 2],
    identification: [u8; 2],
    fragment: [u8; 2],
    ttl: u8,
    protocol: u8,
    checksum: [u8; 2],
    source: [u8; 4],
    destination: [u8; 4],
}

#[repr(C)]
struct TcpHeader {
    source_port: [u8; 2],
    destination_port: [u8; 2],
    sequence: [u8; 4],
    acknowledgement: [u8; 4],
    data_offset: u8,
    flags: u8,
    window: [u8; 2],
    checksum: [u8; 2],
    urgent: [u8; 2],
}

#[repr(C)]
struct UdpHeader {
    source_port: [u8; 2],
    destination_port: [u8; 2],
    length: [u8; 2],
    checksum: [u8; 2],
}

/// A pointer to a `T` at `offset` of the linear packet data, if it lies inside.
///
/// `offset` is below 128: the verifier wants a bound it can see on an offset that was read from the packet.
#[inline(always)]
pub fn pointer<T>(ctx: &TcContext, offset: usize) -> Option<*mut T> {
    let (start, end) = bounds(ctx);
    let at = start + (offset & 0x7f);
    if at + size_of::<T>() > end {
        return None;
    }
    Some(at as *mut T)
}

/// Start and end of the linear packet data.
///
/// The context declares both as 32 bits wide, and the verifier turns the loads into pointers. The compiler does not know
/// and would widen them by shifts, or merge several checks into arithmetic, neither of which a pointer survives: so the
/// loads are spelled out.
#[inline(always)]
fn bounds(ctx: &TcContext) -> (usize, usize) {
    let (start, end): (usize, usize);
    // SAFETY: loads of two fields of the kernel's context, nothing else.
    unsafe {
        asm!(
            "{start} = *(u32 *)({skb} + {data})",
            "{end} = *(u32 *)({skb} + {data_end})",
            skb = in(reg) ctx.skb.skb,
            start = out(reg) start,
            end = lateout(reg) end,
            data = const offset_of!(__sk_buff, data),
            data_end = const offset_of!(__sk_buff, data_end),
            options(nostack, preserves_flags),
        );
    }
    (start, end)
}

/// The EtherType in host byte order; zero when there is none.
#[inline(always)]
pub fn ether_type(ctx: &TcContext) -> u16 {
    // SAFETY: `skb` is the kernel's context, valid while the program runs; the verifier checks the field.
    u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16)
}

/// Whether the frame is this interface's own, and not another VLAN's or another host's.
#[inline(always)]
pub fn addressed_here(ctx: &TcContext) -> Result<(), Outcome> {
    // SAFETY: as in `ether_type`.
    let (vlan, kind) = unsafe { ((*ctx.skb.skb).vlan_present, (*ctx.skb.skb).pkt_type) };
    if vlan != 0 {
        return Err(Outcome::PassVlan);
    }
    if kind != PACKET_HOST {
        return Err(Outcome::PassOtherHost);
    }
    Ok(())
}

/// Makes the headers readable in place: drivers may leave them in page fragments.
#[inline(always)]
pub fn linearise(ctx: &TcContext) {
    let length = ctx.len();
    let wanted = if length < HEADERS { length } else { HEADERS };
    if ((ctx.data_end() - ctx.data()) as u32) < wanted {
        // A failure shows as a truncated header later.
        unsafe { bpf_skb_pull_data(ctx.as_ptr().cast(), wanted) };
    }
}

/// Reads the headers of an IPv4 packet. `None`: shorter than its headers claim, or not IPv4 at all.
#[inline(always)]
pub fn parse(ctx: &TcContext) -> Option<Packet> {
    linearise(ctx);
    let ip: *const Ipv4Header = pointer::<Ipv4Header>(ctx, ETHERNET)?;
    // SAFETY: `pointer` has checked the bounds, here and below.
    let ip = unsafe { &*ip };
    let header_length = ((ip.version_and_length & 0x0f) as usize) * 4;
    if ip.version_and_length >> 4 != 4 || header_length < 20 {
        return None;
    }
    let transport_offset = ETHERNET + header_length;
    let mut packet = Packet {
        key: FlowKey {
            source: ip.source,
            destination: ip.destination,
            source_port: [0; 2],
            destination_port: [0; 2],
            protocol: ip.protocol,
            pad: [0; 3],
        },
        transport: Transport::Other,
        transport_offset: transport_offset as u32,
        ttl: ip.ttl,
        flags: 0,
        sequence: [0; 4],
    };
    // More-fragments flag or an offset.
    if ip.fragment[0] & 0x3f != 0 || ip.fragment[1] != 0 {
        packet.transport = Transport::Fragment;
        return Some(packet);
    }
    match ip.protocol {
        TCP => match pointer::<TcpHeader>(ctx, transport_offset) {
            Some(tcp) => {
                let tcp = unsafe { &*tcp };
                packet.key.source_port = tcp.source_port;
                packet.key.destination_port = tcp.destination_port;
                packet.flags = tcp.flags;
                packet.sequence = tcp.sequence;
                packet.transport = Transport::Tcp;
            }
            None => packet.transport = Transport::Truncated,
        },
        UDP => match pointer::<UdpHeader>(ctx, transport_offset) {
            Some(udp) => {
                let udp = unsafe { &*udp };
                packet.key.source_port = udp.source_port;
                packet.key.destination_port = udp.destination_port;
                packet.transport = Transport::Udp;
            }
            None => packet.transport = Transport::Truncated,
        },
        _ => {}
    }
    Some(packet)
}
