//! Answering ARP for owned VIPs: in the program, so that a VIP stays reachable while no agent runs.

use evenkeel_maps::{Address, Interface, Outcome, mode};

use crate::{
    frame::{Frame, Receiver, pointer},
    maps,
};

/// Ethernet frame with an ARP packet for IPv4, RFC 826.
#[repr(C)]
struct Arp {
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
#[inline(never)]
pub fn answer<F: Frame>(frame: &F, interface: &Interface) -> Outcome {
    if frame.is_tagged() {
        return Outcome::PassVlan;
    }
    // Whom a frame is not meant for does not answer it (`arp_rcv` in `net/ipv4/arp.c`).
    if !frame.is_from_host() && frame.receiver(interface) == Receiver::Other {
        return Outcome::PassOtherHost;
    }
    frame.pull(size_of::<Arp>() as u32);
    let Some(arp) = pointer::<Arp>(frame, 0) else { return Outcome::PassArp };
    // SAFETY: `pointer` has checked the bounds; nothing else refers to the packet meanwhile.
    let arp = unsafe { &mut *arp };
    if arp.hardware_type != [0, 1]
        || arp.protocol_type != [8, 0]
        || arp.hardware_length != 6
        || arp.protocol_length != 4
    {
        return Outcome::PassArp;
    }
    // RFC 5227: an announcement names the same address as sender and target. Answering it would start a quarrel.
    let claimed = Address::v4(arp.sender_ip);
    if arp.sender_mac != interface.mac && maps::is_owned_on(&claimed, interface) {
        maps::claim(&claimed, arp.sender_mac);
        return Outcome::ArpConflict;
    }
    let vip = arp.target_ip;
    if arp.operation != REQUEST || arp.sender_ip == vip || !maps::is_owned_on(&Address::v4(vip), interface) {
        return Outcome::PassArp;
    }
    maps::count_question(&Address::v4(vip), reply(frame, interface, arp))
}

/// Turns a request for an owned VIP into its reply.
#[inline(always)]
fn reply<F: Frame>(frame: &F, interface: &Interface, arp: &mut Arp) -> Outcome {
    let vip = arp.target_ip;
    if let Some(reason) = maps::unanswered(&Address::v4(vip), arp.ethernet_destination[0] & 1 != 0) {
        return reason;
    }
    // Whoever only observes must not attract what it then does not serve.
    if maps::SETTINGS.get(0).is_some_and(|settings| settings.mode == mode::OBSERVE) {
        return Outcome::Observed;
    }
    arp.operation = REPLY;
    arp.target_mac = arp.sender_mac;
    arp.target_ip = arp.sender_ip;
    arp.sender_mac = interface.mac;
    arp.sender_ip = vip;
    arp.ethernet_destination = arp.target_mac;
    arp.ethernet_source = interface.mac;
    frame.send_back();
    Outcome::ArpAnswered
}
