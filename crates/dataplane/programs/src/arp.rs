//! Answering ARP for owned VIPs: in the program, so that a VIP stays reachable while no agent runs.

use aya_ebpf::{helpers::generated::bpf_redirect, programs::TcContext};
use evenkeel_maps::Outcome;

use crate::{maps, packet};

/// Ethernet frame with an ARP packet for IPv4, RFC 826.
#[repr(C)]
struct Frame {
    ethernet_destination: [u8; 6],
    ethernet_source: [u8; 6],
    ether_type: [u8; 2],
    hardware_type: [u8; 2],
    protocol_type: [u8; 2],
    hardware_length: u8,
    protocol_length: u8,
    operation: [u8; 2],
    sender_mac: [u8; 6],
    sender_ip: [u8; 4],
    target_mac: [u8; 6],
    target_ip: [u8; 4],
}

const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// Turns a request for an owned VIP into its reply, in place, and sends it back.
#[inline(always)]
pub fn answer(ctx: &TcContext) -> Outcome {
    // SAFETY: the kernel's context; the verifier checks the fields.
    let (interface, vlan) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).vlan_present) };
    if vlan != 0 {
        return Outcome::PassVlan;
    }
    packet::linearise(ctx);
    let Some(frame) = packet::pointer::<Frame>(ctx, 0) else { return Outcome::PassArp };
    // SAFETY: `pointer` has checked the bounds; nothing else refers to the packet meanwhile.
    let frame = unsafe { &mut *frame };
    if frame.hardware_type != [0, 1]
        || frame.protocol_type != [8, 0]
        || frame.hardware_length != 6
        || frame.protocol_length != 4
    {
        return Outcome::PassArp;
    }
    let Some(mac) = maps::owned_on(frame.target_ip, interface) else {
        return Outcome::PassArp;
    };
    // RFC 5227: an announcement names the same address as sender and target. Answering it would start a quarrel.
    if frame.sender_ip == frame.target_ip {
        return Outcome::ArpConflict;
    }
    if frame.operation != REQUEST {
        return Outcome::PassArp;
    }
    let vip = frame.target_ip;
    frame.operation = REPLY;
    frame.target_mac = frame.sender_mac;
    frame.target_ip = frame.sender_ip;
    frame.sender_mac = mac;
    frame.sender_ip = vip;
    frame.ethernet_destination = frame.target_mac;
    frame.ethernet_source = mac;
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(interface, 0) };
    Outcome::ArpAnswered
}
