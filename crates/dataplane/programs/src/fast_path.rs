//! The fast path: packets in the midst of a flow, of which nothing has to be decided or noted.
//!
//! They are most packets, so all is done in one function: where the processor must not guess where a return leads, each call
//! costs as much as a dozen lines here. What is not plain in every respect takes the slow path, `balance::ingress`, which
//! knows all that is here and the rest; it gets the packet as it came.

use evenkeel_maps::{Backend, Flow, Outcome, Settings, TCP, UDP_SESSION_DATAGRAMS, backend_state, mode, ticks};

use crate::{
    balance,
    flows::{self, Found},
    frame::{Frame, Receiver},
    maps::{self, BACKENDS},
    packet::{self, Packet, tcp_flags},
    rewrite::{Ends, Ttl, rewrite_here},
    send,
    steps::Step,
    traffic,
};

/// Carries a packet to the backend of its flow. `Ok`: it takes the slow path.
#[inline(always)]
pub fn carry(frame: &impl Frame, settings: &Settings, now: u32) -> Step {
    let outcome = match frame.ether_type() {
        packet::ETHER_TYPE_IPV6 => carry_family(frame, true, settings, now),
        _ => carry_family(frame, false, settings, now),
    };
    outcome.map_or(Ok(()), Err)
}

#[inline(always)]
fn carry_family(frame: &impl Frame, ipv6: bool, settings: &Settings, now: u32) -> Option<Outcome> {
    let packet = packet::parse_plain(frame, ipv6)?;
    if packet.flags & (tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST) != 0 {
        return None;
    }
    let interface = maps::interface(frame.interface());
    if settings.mode != mode::ACTIVE || frame.receiver(&interface) != Receiver::Host {
        return None;
    }
    let mut found = Found::NOTHING;
    let hash = packet.tuple.hash(settings.hash_seed);
    if !flows::find_nearby(&packet.tuple, settings, hash, &mut found) {
        return None;
    }
    let flow = found.flow();
    let backend = BACKENDS.get(found.backend)?;
    if backend.generation != found.generation || !goes_on(&packet, flow, backend, now) {
        return None;
    }
    let ends = Ends {
        source: packet.tuple.source,
        destination: backend.address,
        source_port: packet.tuple.source_port,
        destination_port: backend.port,
    };
    if flow.flags & Backend::DIRECT == 0 {
        note(&packet, &found, now);
        let rewritten = rewrite_here(frame, &packet, &ends, Ttl::Keep);
        return Some(rewritten.map_or(Outcome::DropRewrite, |()| Outcome::StackFlow));
    }
    let hop = send::remembered(frame, &ends.destination, settings, now)?;
    if packet.ttl <= 1 || !frame.fits(&packet, hop.mtu) || !frame.can_send(hop.interface) {
        return None;
    }
    note(&packet, &found, now);
    let sent =
        rewrite_here(frame, &packet, &ends, Ttl::Decrement).and_then(|()| send::send(frame, hop.interface, &hop.macs));
    Some(sent.map_or(Outcome::DropRewrite, |()| Outcome::ForwardFlow))
}

/// Whether the flow and its backend are such that the packet changes nothing but clocks and counters.
#[inline(always)]
fn goes_on(packet: &Packet, flow: &Flow, backend: &Backend, now: u32) -> bool {
    // What is answered gets established by the client's next packet.
    let gets_established = flow.state & (Flow::ANSWERED | Flow::ESTABLISHED) == Flow::ANSWERED;
    if gets_established || flow.source_port != [0; 2] {
        return false;
    }
    if packet.tuple.protocol == TCP {
        let serves = matches!(backend.state, backend_state::ACTIVE | backend_state::DRAIN | backend_state::DOWN);
        serves && flow.state & Flow::RESET == 0
    } else {
        let serves = backend.state == backend_state::ACTIVE && backend.ejected_until == 0;
        serves && flow.datagrams >= UDP_SESSION_DATAGRAMS && flow.quiet(now) <= ticks::UDP_IDLE
    }
}

#[inline(always)]
fn note(packet: &Packet, found: &Found, now: u32) {
    found.note_client(now);
    traffic::count(found.backend, packet.frame_length, true);
}
