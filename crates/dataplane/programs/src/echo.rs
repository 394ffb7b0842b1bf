//! Answering ICMP echo requests to owned VIPs, so that `ping` tells whether a VIP is carried.

use aya_ebpf::{helpers::generated::bpf_redirect, programs::TcContext};
use evenkeel_maps::Outcome;

use crate::{
    maps,
    packet::{self, ETHERNET, Packet},
    rewrite::{self, Ipv4Rest},
};

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
const ECHO_REQUEST: u8 = 8;
/// Time to live of an answer, as of any packet that begins its way here.
const TTL: u8 = 64;

#[repr(C)]
struct Ethernet {
    destination: [u8; 6],
    source: [u8; 6],
}

/// Type, code and checksum of RFC 792.
#[repr(C)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: [u8; 2],
}

/// Turns an echo request into its reply, in place, and sends it back.
#[inline(always)]
pub fn answer(ctx: &TcContext, packet: &Packet) -> Outcome {
    // SAFETY: the kernel's context; the verifier checks the field.
    let interface = unsafe { (*ctx.skb.skb).ifindex };
    let Some(mac) = maps::owned_on(packet.key.destination, interface) else {
        return Outcome::DropProtocol;
    };
    let (Some(ethernet), Some(ip), Some(icmp)) = (
        packet::pointer::<Ethernet>(ctx, 0),
        packet::pointer::<Ipv4Rest>(ctx, ETHERNET + 8),
        packet::pointer::<Icmp>(ctx, packet.transport_offset as usize),
    ) else {
        return Outcome::DropMalformed;
    };
    // SAFETY: `pointer` has checked the bounds, and the three do not overlap.
    let (ethernet, ip, icmp) = unsafe { (&mut *ethernet, &mut *ip, &mut *icmp) };
    if icmp.kind != ECHO_REQUEST || icmp.code != 0 {
        return Outcome::DropProtocol;
    }
    icmp.checksum = rewrite::checksum_update(icmp.checksum, [ECHO_REQUEST, 0], [0, 0]);
    icmp.kind = 0;
    ip.checksum = rewrite::checksum_update(ip.checksum, [ip.ttl, ip.protocol], [TTL, ip.protocol]);
    ip.ttl = TTL;
    // Swapping the addresses leaves the header's checksum as it is.
    ip.destination = ip.source;
    ip.source = packet.key.destination;
    ethernet.destination = ethernet.source;
    ethernet.source = mac;
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(interface, 0) };
    Outcome::EchoAnswered
}
