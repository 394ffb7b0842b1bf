//! Changing addresses and ports, with every checksum kept right.
//!
//! A program cannot tell whether the transport checksum is complete, partial (left to the sending device) or verified by
//! the receiving one; `bpf_l4_csum_replace` can, so that one goes through the helper. The IPv4 header's own checksum is
//! always complete and is updated in place.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated::bpf_l4_csum_replace,
    programs::TcContext,
};
use evenkeel_maps::TCP;

use crate::packet::{self, ETHERNET, Packet};

/// Which end of the packet is rewritten.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

/// What to do with the time to live.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// The kernel routes the packet and counts the hop.
    Keep,
    /// The packet leaves by our hand: the hop is counted here.
    Decrement,
}

/// Time to live, protocol and checksum, then source and destination: the second half of an IPv4 header.
#[repr(C)]
pub struct Ipv4Rest {
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: [u8; 2],
    pub source: [u8; 4],
    pub destination: [u8; 4],
}

#[repr(C)]
struct Ports {
    source: [u8; 2],
    destination: [u8; 2],
}

/// Incremental update of an Internet checksum for one changed 16-bit word, RFC 1624 equation 3. Bytes as on the wire:
/// the ones' complement sum does not depend on byte order.
#[inline(always)]
pub fn checksum_update(checksum: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    let word = |bytes: [u8; 2]| u16::from_ne_bytes(bytes);
    let mut sum = (!word(checksum)) as u32 + (!word(old)) as u32 + word(new) as u32;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_ne_bytes()
}

#[inline(always)]
fn checksum_update_address(checksum: [u8; 2], old: [u8; 4], new: [u8; 4]) -> [u8; 2] {
    let checksum = checksum_update(checksum, [old[0], old[1]], [new[0], new[1]]);
    checksum_update(checksum, [old[2], old[3]], [new[2], new[3]])
}

/// Writes `address` and `port` into one end of a TCP or UDP packet. `None`: the packet could not be changed, and must not
/// go on half rewritten.
#[inline(always)]
pub fn rewrite(ctx: &TcContext, packet: &Packet, end: End, address: [u8; 4], port: [u8; 2], ttl: Ttl) -> Option<()> {
    let (old_address, old_port) = match end {
        End::Source => (packet.key.source, packet.key.source_port),
        End::Destination => (packet.key.destination, packet.key.destination_port),
    };
    // A UDP checksum of zero means "none" and must stay zero; one that becomes zero must be sent as all ones.
    let (checksum_offset, mangled) = match packet.key.protocol {
        TCP => (packet.transport_offset + 16, 0),
        _ => (packet.transport_offset + 6, BPF_F_MARK_MANGLED_0 as u64),
    };
    let word = |bytes: [u8; 4]| u32::from_ne_bytes(bytes) as u64;
    let half = |bytes: [u8; 2]| u16::from_ne_bytes(bytes) as u64;
    // SAFETY: helpers on the kernel's context; they check the offset.
    unsafe {
        let pseudo_header = BPF_F_PSEUDO_HDR as u64 | mangled | 4;
        if bpf_l4_csum_replace(ctx.skb.skb, checksum_offset, word(old_address), word(address), pseudo_header) != 0 {
            return None;
        }
        if old_port != port
            && bpf_l4_csum_replace(ctx.skb.skb, checksum_offset, half(old_port), half(port), mangled | 2) != 0
        {
            return None;
        }
    }
    // The helpers may have moved the data: take the pointers now.
    let ip = packet::pointer::<Ipv4Rest>(ctx, ETHERNET + 8)?;
    let ports = packet::pointer::<Ports>(ctx, packet.transport_offset as usize)?;
    // SAFETY: `pointer` has checked the bounds, and the two do not overlap.
    let (ip, ports) = unsafe { (&mut *ip, &mut *ports) };
    ip.checksum = checksum_update_address(ip.checksum, old_address, address);
    if ttl == Ttl::Decrement {
        let old = [ip.ttl, ip.protocol];
        ip.ttl -= 1;
        ip.checksum = checksum_update(ip.checksum, old, [ip.ttl, ip.protocol]);
    }
    match end {
        End::Source => {
            ip.source = address;
            ports.source = port;
        }
        End::Destination => {
            ip.destination = address;
            ports.destination = port;
        }
    }
    Some(())
}
