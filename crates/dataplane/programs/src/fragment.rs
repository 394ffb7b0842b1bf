//! Fragments: only the first one of a datagram carries the ports, so they are remembered for the later ones.

use evenkeel_maps::{FragmentPorts, TCP, UDP, ticks};

use crate::{maps::FRAGMENTS, packet::Packet};

/// Notes the ports of a first fragment.
#[inline(never)]
pub fn remember(packet: &Packet, now: u32) {
    let ports = FragmentPorts {
        source_port: packet.tuple.source_port,
        destination_port: packet.tuple.destination_port,
        seen: now,
    };
    // Without room the later fragments are dropped, and counted as such.
    let _ = FRAGMENTS.insert(packet.fragment_key(packet.tuple.protocol), ports, 0);
}

/// Gives a later fragment the ports of its datagram. Without them it belongs to no flow.
#[inline(never)]
pub fn recall(packet: &mut Packet, now: u32) {
    let said = packet.tuple.protocol;
    let is_found = recall_as(packet, said, now);
    // What an IPv6 fragment says is the first header of the part that was cut, which need not be the transport's (RFC 8200
    // section 4.5).
    if packet.ipv6 && !is_found && said != TCP && said != UDP && !recall_as(packet, UDP, now) {
        recall_as(packet, TCP, now);
    }
}

/// The same, if the datagram is of this protocol.
#[inline(always)]
fn recall_as(packet: &mut Packet, protocol: u8, now: u32) -> bool {
    // SAFETY: an entry that is replaced meanwhile is another datagram's with the same identification.
    let Some(ports) = (unsafe { FRAGMENTS.get(packet.fragment_key(protocol)) }) else { return false };
    if now.wrapping_sub(ports.seen) >= ticks::FRAGMENTS {
        return false;
    }
    packet.tuple.protocol = protocol;
    packet.tuple.source_port = ports.source_port;
    packet.tuple.destination_port = ports.destination_port;
    true
}
