//! Fragments: only the first one of a datagram carries the ports, so they are remembered for the later ones.

use evenkeel_maps::{FragmentPorts, ticks};

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
    let _ = FRAGMENTS.insert(packet.fragment_key(), ports, 0);
}

/// Gives a later fragment the ports of its datagram. Without them it belongs to no flow.
#[inline(never)]
pub fn recall(packet: &mut Packet, now: u32) {
    // SAFETY: an entry that is replaced meanwhile is another datagram's with the same identification.
    if let Some(ports) = unsafe { FRAGMENTS.get(packet.fragment_key()) }
        && now.wrapping_sub(ports.seen) < ticks::FRAGMENTS
    {
        packet.tuple.source_port = ports.source_port;
        packet.tuple.destination_port = ports.destination_port;
    }
}
