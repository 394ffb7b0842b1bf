//! Answering neighbour solicitations for owned VIPs (RFC 4861), as ARP is answered.

use evenkeel_maps::{Address, ICMPV6, Interface, Outcome, Tuple, mode};

use crate::{
    balance, checksum,
    frame::{Frame, pointer},
    maps,
    packet::{ETHERNET, IPV6, Packet},
};

/// ICMPv6 types.
pub const SOLICITATION: u8 = 135;
pub const ADVERTISEMENT: u8 = 136;
/// Whoever is farther away than the link cannot set it to this (RFC 4861 section 7.1.1).
const HOP_LIMIT: u8 = 255;
/// The flags of an advertisement, section 4.4.
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// Option: hardware address of who asks.
const SOURCE_ADDRESS: u8 = 1;
/// Option: hardware address of the target.
const TARGET_ADDRESS: u8 = 2;
/// `ff02::1`, and the group address it has on Ethernet (RFC 2464 section 7).
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Where a frame says who sent it.
const SOURCE: usize = 6;
/// Where the ICMPv6 message begins: a packet with extension headers is left to the kernel.
const MESSAGE: usize = ETHERNET + IPV6;

/// A neighbour solicitation or advertisement without its options.
#[repr(C)]
struct Message {
    kind: u8,
    code: u8,
    checksum: [u8; 2],
    flags: u8,
    reserved: [u8; 3],
    target: [u8; 16],
}

/// The whole frame of an advertisement with its one option.
#[repr(C)]
struct Advertisement {
    ethernet_destination: [u8; 6],
    ethernet_source: [u8; 6],
    ether_type: [u8; 2],
    version_class_label: [u8; 4],
    payload_length: [u8; 2],
    next_header: u8,
    hop_limit: u8,
    source: [u8; 16],
    destination: [u8; 16],
    message: Message,
    option: u8,
    option_length: u8,
    mac: [u8; 6],
}

const PAYLOAD: u16 = 32;

/// Whether the packet is a neighbour solicitation or advertisement.
#[inline(always)]
pub fn is_message(frame: &impl Frame, packet: &Packet) -> bool {
    packet.ipv6
        && match pointer::<u8>(frame, packet.transport_offset as usize) {
            // SAFETY: `pointer` has checked the bounds; so below.
            Some(kind) => matches!(unsafe { *kind }, SOLICITATION | ADVERTISEMENT),
            None => false,
        }
}

/// Whether a solicitation of `target` may be answered (RFC 4861 section 7.1.1). What has more than one option is left to the
/// kernel.
#[inline(always)]
fn is_valid(frame: &impl Frame, packet: &Packet, target: &Address) -> bool {
    let Tuple { source, destination, .. } = &packet.tuple;
    let is_possible = if *source == Address::ZERO {
        *destination == solicited_node(target)
    } else {
        !balance::is_impossible(source, destination)
    };
    if !is_possible {
        return false;
    }
    let pseudo = checksum::sum_address(&packet.tuple.source)
        + checksum::sum_address(&packet.tuple.destination)
        + u16::from_ne_bytes(((packet.length - IPV6 as u32) as u16).to_be_bytes()) as u64
        + u16::from_ne_bytes([0, ICMPV6]) as u64;
    let sum = match packet.length as usize - IPV6 {
        24 => match pointer::<Message>(frame, MESSAGE) {
            Some(message) => checksum::sum_of(message),
            None => return false,
        },
        32 => match pointer::<[u8; PAYLOAD as usize]>(frame, MESSAGE) {
            Some(message) => {
                // SAFETY: `pointer` has checked the bounds.
                let (kind, length) = unsafe { ((*message)[24], (*message)[25]) };
                let anonymous = packet.tuple.source == Address::ZERO;
                if length != 1 || (anonymous && kind == SOURCE_ADDRESS) {
                    return false;
                }
                checksum::sum_of(message)
            }
            None => return false,
        },
        _ => return false,
    };
    checksum::fold(pseudo + sum) == 0xffff
}

/// The group in which an address is looked for (RFC 4291 section 2.7.1).
#[inline(always)]
fn solicited_node(target: &Address) -> Address {
    let [.., a, b, c] = target.0;
    Address([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Turns a solicitation for an owned VIP into an advertisement, and sends it back. Who asks without an address of its own is
/// about to take the VIP for itself (duplicate address detection, RFC 4862): everybody is told that it is in use.
#[inline(never)]
pub fn answer<F: Frame>(frame: &F, packet: &Packet, interface: &Interface, mode: u32) -> Outcome {
    frame.pull((MESSAGE + size_of::<Message>()) as u32);
    let Some(message) = pointer::<Message>(frame, MESSAGE) else { return Outcome::PassNotVip };
    let (kind, code, target) = unsafe { ((*message).kind, (*message).code, Address((*message).target)) };
    if packet.transport_offset as usize != MESSAGE || packet.ttl != HOP_LIMIT || code != 0 {
        return Outcome::PassNotVip;
    }
    if !maps::is_watched(&target) || !maps::is_owned_on(&target, interface) {
        return Outcome::PassNotVip;
    }
    let is_valid = is_valid(frame, packet, &target);
    if kind == ADVERTISEMENT {
        if is_valid && let Some(source) = pointer::<[u8; 6]>(frame, SOURCE) {
            // SAFETY: `pointer` has checked the bounds.
            let source = unsafe { *source };
            if source != interface.mac {
                maps::claim(&target, source);
            }
        }
        return Outcome::NdpConflict;
    }
    if !is_valid {
        return Outcome::PassNotVip;
    }
    maps::count_question(&target, advertise(frame, packet, interface, target, mode))
}

/// Turns a valid solicitation for `target` into an advertisement.
#[inline(always)]
fn advertise<F: Frame>(frame: &F, packet: &Packet, interface: &Interface, target: Address, mode: u32) -> Outcome {
    let Some(receiver) = pointer::<u8>(frame, 0) else { return Outcome::PassNotVip };
    // SAFETY: `pointer` has checked the bounds.
    let asks_all = unsafe { *receiver } & 1 != 0;
    if let Some(reason) = maps::unanswered(&target, asks_all) {
        return reason;
    }
    if mode == mode::OBSERVE {
        return Outcome::Observed;
    }
    let partial = frame.is_checksum_partial(MESSAGE as u32 + 2);
    if !frame.set_length(size_of::<Advertisement>() as u32) {
        return Outcome::PassNotVip;
    }
    frame.pull(size_of::<Advertisement>() as u32);
    let Some(answer) = pointer::<Advertisement>(frame, 0) else { return Outcome::DropRewrite };
    let answer = unsafe { &mut *answer };
    let anonymous = packet.tuple.source == Address::ZERO;
    answer.ethernet_destination = if anonymous { ALL_NODES_MAC } else { answer.ethernet_source };
    answer.ethernet_source = interface.mac;
    answer.version_class_label = [0x60, 0, 0, 0];
    answer.payload_length = PAYLOAD.to_be_bytes();
    answer.next_header = ICMPV6;
    answer.hop_limit = HOP_LIMIT;
    answer.source = target.0;
    answer.destination = if anonymous { ALL_NODES } else { packet.tuple.source.0 };
    answer.message.kind = ADVERTISEMENT;
    answer.message.code = 0;
    answer.message.checksum = [0; 2];
    answer.message.flags = if anonymous { OVERRIDE } else { SOLICITED | OVERRIDE };
    answer.message.reserved = [0; 3];
    answer.message.target = target.0;
    answer.option = TARGET_ADDRESS;
    answer.option_length = 1;
    answer.mac = interface.mac;
    let pseudo = checksum::sum_address(&Address(answer.source))
        + checksum::sum_address(&Address(answer.destination))
        + u16::from_ne_bytes(PAYLOAD.to_be_bytes()) as u64
        + u16::from_ne_bytes([0, ICMPV6]) as u64;
    answer.message.checksum = if partial {
        checksum::fold(pseudo).to_ne_bytes()
    } else {
        let Some(payload) = pointer::<[u8; PAYLOAD as usize]>(frame, MESSAGE) else { return Outcome::DropRewrite };
        (!checksum::fold(pseudo + checksum::sum_of(payload))).to_ne_bytes()
    };
    frame.send_back();
    Outcome::NdpAnswered
}
