//! Deciding where a packet goes: the flow table first, then the frontend's Maglev table.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use evenkeel_maps::{
    Address, Backend, Flow, Frontend, FrontendKey, ICMP, ICMPV6, Interface, Outcome, SCTP, Settings, TCP, Tuple,
    UDP_SESSION_DATAGRAMS, backend_state, mix, mode, ticks,
};

use crate::{
    flows::{self, Found},
    fragment,
    frame::{Frame, Receiver},
    icmp, limits,
    maps::{self, BACKENDS, FRONTENDS, SETTINGS, SOURCE_ADDRESSES, TRAFFIC, Work},
    packet::{self, Packet, Transport, tcp_flags},
    refuse,
    rewrite::Ends,
    send::{self, Names, Target},
    source,
};

/// Entries of the Maglev table that are looked at for a new flow: those before it are down, warming up, or talk to this
/// client's address and port already.
const PICKS: u32 = 24;

pub const FORWARD_FLOW: Names = Names { direct: Outcome::ForwardFlow, stack: Outcome::StackFlow, untouched: false };
const FORWARD_NEW: Names = Names { direct: Outcome::ForwardNew, stack: Outcome::StackNew, untouched: false };
const FORWARD_MIDSTREAM: Names =
    Names { direct: Outcome::ForwardMidstream, stack: Outcome::StackMidstream, untouched: false };

/// A packet that arrived: to a VIP, a reply, or none of our business.
#[inline(always)]
pub fn ingress(frame: &impl Frame, interface: &Interface, ether_type: u16) -> Outcome {
    if frame.is_tagged() {
        return Outcome::PassVlan;
    }
    let (Some(settings), Some(work)) = (SETTINGS.get(0), maps::work()) else { return Outcome::PassNotVip };
    if settings.mode == mode::BYPASS {
        return Outcome::Bypassed;
    }
    let Some((source, destination, protocol)) = packet::glance(frame, ether_type == packet::ETHER_TYPE_IPV6) else {
        return Outcome::PassMalformed;
    };
    let to_vip = maps::is_watched(&destination);
    if !to_vip && !maps::is_watched(&source) && !packet::may_be_icmp(protocol) {
        return Outcome::PassNotVip;
    }
    if packet::parse(frame, ether_type, &mut work.packet).is_none() {
        return Outcome::PassMalformed;
    }
    let now = now(settings);
    work.from_host = false;
    let decision = if work.packet.transport == Transport::Icmp {
        icmp::ingress(frame, work, interface, settings)
    } else {
        ports(frame, work, interface, settings, to_vip, now)
    };
    match decision {
        Ok(()) => send::forward(frame, work, settings, now),
        Err(Outcome::RefusedReset) => refuse::refuse(frame, &work.packet, settings, now),
        Err(Outcome::ResetBackendGone) => refuse::reset_gone(frame, &work.packet, settings, now),
        Err(outcome) => outcome,
    }
}

/// A packet with ports, or a fragment of one: where it goes, into `work.target`; or what becomes of it instead.
#[inline(always)]
fn ports(
    frame: &impl Frame,
    work: &mut Work,
    interface: &Interface,
    settings: &Settings,
    to_vip: bool,
    now: u32,
) -> Result<(), Outcome> {
    if frame.receiver(interface) != Receiver::Host {
        return Err(Outcome::PassOtherHost);
    }
    if settings.mode == mode::OBSERVE {
        let is_vip = maps::is_vip(&work.packet.tuple.destination);
        return Err(if is_vip { Outcome::Observed } else { Outcome::PassNotVip });
    }
    match work.packet.transport {
        Transport::Tcp | Transport::Udp => {
            if work.packet.is_first_fragment {
                fragment::remember(&work.packet, now);
            }
        }
        Transport::LaterFragment => {
            if matches!(work.packet.tuple.protocol, ICMP | ICMPV6) && maps::is_vip(&work.packet.tuple.destination) {
                return Err(icmp::later_fragment(frame, &work.packet, interface));
            }
            fragment::recall(&mut work.packet, now);
        }
        Transport::Icmp | Transport::Other | Transport::Truncated => return Err(unbalanced(&work.packet)),
    }
    decide(work, to_vip, settings, now)
}

/// The programs' clock, in [`ticks`]: the kernel's count of jiffies, which costs a load where its clock costs a call.
#[inline(always)]
pub fn now(settings: &Settings) -> u32 {
    // SAFETY: a helper without arguments.
    ticks::from_ns(unsafe { bpf_jiffies64() }.wrapping_mul(settings.jiffy_ns))
}

/// A packet that could be to a VIP, but is of a kind that is not balanced.
#[inline(always)]
fn unbalanced(packet: &Packet) -> Outcome {
    if !maps::is_vip(&packet.tuple.destination) {
        return Outcome::PassNotVip;
    }
    match packet.transport {
        Transport::Truncated => Outcome::DropMalformed,
        _ if packet.tuple.protocol == SCTP => Outcome::PassSctp,
        _ => Outcome::DropProtocol,
    }
}

/// Where a packet goes, into `work.target`; or what becomes of it instead.
#[inline(always)]
fn decide(work: &mut Work, to_vip: bool, settings: &Settings, now: u32) -> Result<(), Outcome> {
    let hash = work.packet.tuple.hash(settings.hash_seed);
    let mut found = Found::NOTHING;
    let mut is_stale = false;
    if to_vip {
        is_stale = flows::find(&work.packet.tuple, settings, hash, &mut found);
        if is_stale && let Some(decision) = known_flow(&work.packet, &mut work.target, &found, now) {
            return decision;
        }
    }
    if !is_stale && flows::find_reply(&work.packet.tuple, settings, &mut found) {
        return reply(&work.packet, &mut work.target, &found, now);
    }
    if work.packet.transport == Transport::LaterFragment {
        let is_vip = maps::is_vip(&work.packet.tuple.destination);
        return Err(if is_vip { Outcome::DropFragment } else { Outcome::PassNotVip });
    }
    // Each step is a function of its own, and leaves what it found in `work`: nested, they would not fit on the stack.
    admit(work, now)?;
    let slot = pick(work, settings, now);
    begin(work, slot, now)?;
    if work.rewrites_source && !source::choose(work, settings, hash as u32, now) {
        return Err(maps::refuse(work.frontend.number, Outcome::DropSourcePorts));
    }
    record(work, is_stale.then_some(&found), hash, now)
}

/// Counts a packet of a backend.
#[inline(always)]
fn count_traffic(slot: u32, bytes: u32, from_client: bool) {
    if let Some(traffic) = TRAFFIC.get_ptr_mut(slot) {
        // SAFETY: the map is per CPU.
        let traffic = unsafe { &mut *traffic };
        if from_client {
            traffic.packets_in += 1;
            traffic.bytes_in += bytes as u64;
        } else {
            traffic.packets_out += 1;
            traffic.bytes_out += bytes as u64;
        }
    }
}

/// A backend's packet. In `stack` forwarding it belongs to the kernel, whose connection tracking must see the backend's own
/// address; it is restored at egress. Where the client's address was replaced, the packet is addressed to this node, and
/// must be restored before the kernel takes it for its own.
#[inline(never)]
fn reply(packet: &Packet, target: &mut Target, found: &Found, now: u32) -> Result<(), Outcome> {
    let flow = found.flow();
    let rewritten = flow.source_port != [0; 2];
    let direct = flow.flags & Backend::DIRECT != 0;
    if !direct && !rewritten {
        return Err(Outcome::PassNotVip);
    }
    note_reply(packet, found, now);
    // What this host itself asked for does not leave it again.
    let names = if rewritten || flow.flags & Flow::FROM_HOST != 0 {
        Names { direct: Outcome::ReplyDirect, stack: Outcome::ReplyStack, untouched: false }
    } else {
        Names { direct: Outcome::ReplyDirect, stack: Outcome::PassNotVip, untouched: true }
    };
    *target = Target { ends: restored(flow), direct, names };
    Ok(())
}

/// The ends that a reply has for its client.
#[inline(always)]
pub fn restored(flow: &Flow) -> Ends {
    Ends { source: flow.vip, destination: flow.client, source_port: flow.vip_port, destination_port: flow.client_port }
}

/// Notes what a reply tells about its flow.
#[inline(always)]
fn note_reply(packet: &Packet, found: &Found, now: u32) {
    count_traffic(found.backend, packet.frame_length, false);
    let flow = found.flow();
    if flow.quiet(now) >= ticks::REFRESH {
        flow.last_seen = now;
    }
    let mut state = Flow::ANSWERED;
    if packet.flags & tcp_flags::RST != 0 {
        let is_first = found.flow().state & Flow::ANSWERED == 0;
        state = Flow::RESET | if is_first { Flow::REFUSED } else { Flow::ANSWERED };
    } else if packet.flags & tcp_flags::FIN != 0 {
        state |= Flow::FIN_BACKEND;
    }
    found.note(state);
}

/// Writes the ends that a client's packet has for its backend. `None`: the address that stood for the client's is gone.
#[inline(always)]
fn towards_backend(flow: &Flow, backend: &Backend, packet: &Packet, ends: &mut Ends) -> Option<()> {
    ends.destination = backend.address;
    ends.destination_port = backend.port;
    if flow.source_port == [0; 2] {
        ends.source = packet.tuple.source;
        ends.source_port = packet.tuple.source_port;
    } else {
        ends.source = *SOURCE_ADDRESSES.get(flow.source as u32)?;
        ends.source_port = flow.source_port;
    }
    Some(())
}

/// A packet whose flow is in the table. `None`: the record no longer holds, the packet begins a new flow.
#[inline(never)]
fn known_flow(packet: &Packet, target: &mut Target, found: &Found, now: u32) -> Option<Result<(), Outcome>> {
    let flow = found.flow();
    let backend = BACKENDS.get(found.backend)?;
    let state = backend.state;
    let gone = state == backend_state::FREE || backend.generation != found.generation;
    let quiet = flow.quiet(now);
    if packet.transport == Transport::LaterFragment {
        if gone {
            return Some(Err(Outcome::DropBackendGone));
        }
    } else if packet.tuple.protocol == TCP {
        if packet.opens() {
            // A SYN always revalidates. A retransmission keeps its backend if that one may serve it; so does one that comes
            // in the midst of an established connection, or anybody could break it. Every other one is a new connection.
            let retransmission = flow.initial_sequence == packet.sequence;
            let usable = state == backend_state::ACTIVE || (state == backend_state::DRAIN && retransmission);
            let established = flow.is_established() && quiet <= flow.timeout();
            if gone || !usable || !(retransmission || established) {
                return None;
            }
        } else if gone {
            return Some(Err(Outcome::ResetBackendGone));
        }
        let mut bits = 0;
        if packet.opens() {
            if flow.state & Flow::ANSWERED == 0 {
                bits = Flow::RETRIED;
            }
        } else if packet.flags & tcp_flags::RST != 0 {
            bits = Flow::RESET;
        } else {
            if packet.flags & tcp_flags::FIN != 0 {
                bits = Flow::FIN_CLIENT;
            }
            if flow.state & Flow::ANSWERED != 0 {
                bits |= Flow::ESTABLISHED;
            }
        }
        found.note(bits);
    } else {
        let usable = state == backend_state::ACTIVE || state == backend_state::DRAIN;
        let client_quiet = now.wrapping_sub(flow.client_seen);
        let exchange_over = flow.datagrams < UDP_SESSION_DATAGRAMS && client_quiet > ticks::UDP_EXCHANGE_IDLE;
        if gone || !usable || quiet > ticks::UDP_IDLE || (exchange_over && state == backend_state::DRAIN) {
            return None;
        }
        if exchange_over {
            flow.datagrams = 1;
        } else if flow.datagrams < UDP_SESSION_DATAGRAMS {
            flow.datagrams += 1;
        }
        if flow.state & Flow::ANSWERED != 0 {
            found.note(Flow::ESTABLISHED);
        }
    }
    if now.wrapping_sub(flow.client_seen) >= ticks::REFRESH {
        flow.last_seen = now;
        flow.client_seen = now;
    }
    count_traffic(found.backend, packet.frame_length, true);
    if towards_backend(flow, backend, packet, &mut target.ends).is_none() {
        return Some(Err(Outcome::DropSourcePorts));
    }
    target.direct = flow.flags & Backend::DIRECT != 0;
    target.names = FORWARD_FLOW;
    Some(Ok(()))
}

/// A packet that no flow claims: finds its frontend, into `work.frontend`, and whether that takes this client's new flow.
#[inline(never)]
fn admit(work: &mut Work, now: u32) -> Result<(), Outcome> {
    let Tuple { source, destination, destination_port: port, protocol, .. } = work.packet.tuple;
    // SAFETY: user space replaces entries as a whole.
    let found = unsafe { FRONTENDS.get(FrontendKey { address: destination, port, protocol, pad: [0; 5] }) };
    let Some(frontend) = found else {
        return Err(match maps::is_vip(&destination) {
            true if is_impossible(&source, &destination) => Outcome::DropSource,
            true => Outcome::RefusedReset,
            false => Outcome::PassNotVip,
        });
    };
    work.frontend = *frontend;
    if is_impossible(&source, &destination) {
        return Err(Outcome::DropSource);
    }
    let Frontend { flags, number, limit, .. } = *frontend;
    if flags & Frontend::SOURCE_RANGES != 0 && !limits::is_in_range(number, &source) {
        return Err(maps::refuse(number, Outcome::DropSourceRange));
    }
    if flags & Frontend::LIMITED != 0 {
        return limits::admit(limit, now).map_err(|outcome| maps::refuse(number, outcome));
    }
    Ok(())
}

/// Whether nobody can have this source address, or nobody may be answered there (RFC 1122 section 3.2.1.3, RFC 4291): the
/// kernel, past which `direct` forwarding goes, would drop it as a martian.
#[inline(always)]
fn is_impossible(source: &Address, destination: &Address) -> bool {
    if source == destination {
        return true;
    }
    let [first, second] = source.halves();
    if first == 0 && second as u32 == u32::from_ne_bytes([0, 0, 0xff, 0xff]) {
        let [first, ..] = source.low();
        return first == 0 || first == 127 || first >= 224;
    }
    let is_loopback = first == 0 && second == u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 1]);
    source.0[0] == 0xff || is_loopback || *source == Address::ZERO
}

/// Makes the flow to the backend that was picked, into `work.flow`.
#[inline(never)]
fn begin(work: &mut Work, slot: u32, now: u32) -> Result<(), Outcome> {
    let Work { packet, flow, frontend, .. } = work;
    let tuple = &packet.tuple;
    let Some(backend) = BACKENDS.get(slot) else {
        let outcome = if slot == NO_BACKEND { Outcome::DropNoBackend } else { Outcome::DropTupleInUse };
        return Err(maps::refuse(frontend.number, outcome));
    };
    // A backend that meets its own address as its client's answers itself.
    work.rewrites_source = (frontend.flags & Frontend::REWRITE_SOURCE != 0)
        | (backend.flags & Backend::REWRITE_SOURCE != 0)
        | (backend.address == tuple.source);
    // The host's own stack would take a packet that has the host's address as source for a forgery, and drop it.
    let past_stack = if work.rewrites_source | work.from_host { Backend::DIRECT } else { 0 };
    let of_host = if work.from_host { Flow::FROM_HOST } else { 0 };
    *flow = Flow {
        client: tuple.source,
        vip: tuple.destination,
        client_port: tuple.source_port,
        vip_port: tuple.destination_port,
        protocol: tuple.protocol,
        state: if packet.flags & tcp_flags::RST != 0 { Flow::RESET } else { 0 },
        flags: backend.flags | past_stack | of_host,
        datagrams: 1,
        backend: slot,
        generation: backend.generation,
        last_seen: now,
        client_seen: now,
        initial_sequence: if packet.opens() { packet.sequence } else { [0; 4] },
        source_port: [0; 2],
        source: 0,
        pad: 0,
    };
    Ok(())
}

/// Records `work.flow` in the table. `stale`: the record of its tuple that no longer holds.
#[inline(never)]
fn record(work: &mut Work, stale: Option<&Found>, hash: u64, now: u32) -> Result<(), Outcome> {
    let Some(settings) = SETTINGS.get(0) else { return Err(Outcome::PassNotVip) };
    let Work { packet, target, flow, reply, .. } = work;
    let inserted = match stale {
        Some(found) => flows::replace(found, flow, reply, settings),
        None => flows::insert(flow, reply, settings, hash, now),
    };
    if inserted.is_none() {
        return Err(maps::refuse(work.frontend.number, Outcome::DropFlowTable));
    }
    count_traffic(flow.backend, packet.frame_length, true);
    let Some(backend) = BACKENDS.get(flow.backend) else { return Err(Outcome::DropNoBackend) };
    if towards_backend(flow, backend, packet, &mut target.ends).is_none() {
        return Err(Outcome::DropSourcePorts);
    }
    target.direct = flow.flags & Backend::DIRECT != 0;
    target.names = if flow.protocol == TCP && !packet.opens() { FORWARD_MIDSTREAM } else { FORWARD_NEW };
    Ok(())
}

/// The tuple of the packets that come back from the backend.
#[inline(always)]
fn reply_tuple(packet: &Packet, backend: &Backend) -> Tuple {
    Tuple {
        source: backend.address,
        destination: packet.tuple.source,
        source_port: backend.port,
        destination_port: packet.tuple.source_port,
        protocol: packet.tuple.protocol,
        pad: [0; 3],
    }
}

/// No backend takes new flows; and those that do talk to the client already. More than slots there can be.
const NO_BACKEND: u32 = u32::MAX;
const ALL_TAKEN: u32 = u32::MAX - 1;

/// The slot of the backend for a new flow: the first one from the flow's entry of the Maglev table on that takes it; the tuple
/// of its packets, into `work.reply`.
#[inline(never)]
fn pick(work: &mut Work, settings: &Settings, now: u32) -> u32 {
    let Work { packet, reply, frontend, .. } = work;
    let hash = pick_hash(packet, frontend, settings.hash_seed);
    let mut reason = NO_BACKEND;
    let size = frontend.table_size;
    if size == 0 {
        return reason;
    }
    for step in 0..PICKS {
        let entry = (hash as u32).wrapping_add(step) % size;
        let Some(slot) = maps::table_slot(frontend.table_row, entry) else { break };
        let Some(backend) = BACKENDS.get(slot) else { break };
        if backend.state != backend_state::ACTIVE || !takes(backend, (hash >> 32) as u32 ^ slot) {
            continue;
        }
        *reply = reply_tuple(packet, backend);
        if !is_taken(reply, packet, settings, now) {
            return slot;
        }
        reason = ALL_TAKEN;
    }
    reason
}

/// Whether a backend's share includes the flow with this hash.
#[inline(always)]
fn takes(backend: &Backend, hash: u32) -> bool {
    backend.share == Backend::FULL_SHARE || ((hash.wrapping_mul(0x9e37_79b1) >> 24) as u8) < backend.share
}

/// Whether the backend already talks to this client address and port on behalf of another frontend: its replies could
/// not be told apart.
#[inline(never)]
fn is_taken(key: &Tuple, packet: &Packet, settings: &Settings, now: u32) -> bool {
    let mut found = Found::NOTHING;
    if !flows::find_reply(key, settings, &mut found) {
        return false;
    }
    let flow = found.flow();
    if flow.vip == packet.tuple.destination && flow.vip_port == packet.tuple.destination_port {
        return false;
    }
    if flow.is_closed() || flow.is_over(now) {
        flows::remove(&found, key, settings);
        return false;
    }
    true
}

/// The hash that picks the Maglev slot: of the five-tuple, or of the client's address alone under session affinity.
#[inline(never)]
fn pick_hash(packet: &Packet, frontend: &Frontend, seed: u64) -> u64 {
    let [first, second] = packet.tuple.source.halves();
    let hash = mix(mix(seed.rotate_left(32), first), second);
    if frontend.flags & Frontend::SOURCE_AFFINITY != 0 {
        return mix(hash, frontend.number as u64);
    }
    let [first, second] = packet.tuple.destination.halves();
    let (from, to) = (packet.tuple.source_port, packet.tuple.destination_port);
    let ports = u32::from_ne_bytes([from[0], from[1], to[0], to[1]]) as u64 | (packet.tuple.protocol as u64) << 32;
    mix(mix(hash, first ^ second), ports)
}

/// A packet that leaves: a reply gets its VIP back, and what this host itself sends to a VIP of its own is balanced.
#[inline(always)]
pub fn egress(frame: &impl Frame, interface: &Interface, ether_type: u16) -> Outcome {
    let (Some(settings), Some(work)) = (SETTINGS.get(0), maps::work()) else { return Outcome::PassEgress };
    let ipv6 = ether_type == packet::ETHER_TYPE_IPV6;
    let Some((source, destination, protocol)) = packet::glance(frame, ipv6) else { return Outcome::PassEgress };
    let to_own_vip = maps::is_watched(&destination) && frame.is_from_host();
    if !maps::is_watched(&source) && !to_own_vip && !packet::may_be_icmp(protocol) {
        return Outcome::PassEgress;
    }
    if packet::parse(frame, ether_type, &mut work.packet).is_none() {
        return Outcome::PassEgress;
    }
    if work.packet.transport == Transport::Icmp {
        return icmp::egress(frame, work, interface, settings);
    }
    let packet = &mut work.packet;
    // Flows that exist are carried on whatever the mode is.
    let now = now(settings);
    match packet.transport {
        Transport::Tcp | Transport::Udp => {
            if packet.is_first_fragment {
                fragment::remember(packet, now);
            }
        }
        Transport::LaterFragment if to_own_vip && matches!(packet.tuple.protocol, ICMP | ICMPV6) => {
            return icmp::later_fragment_of_host(frame, packet, interface);
        }
        Transport::LaterFragment => fragment::recall(packet, now),
        _ => return Outcome::PassEgress,
    }
    let mut found = Found::NOTHING;
    if !flows::find_reply(&packet.tuple, settings, &mut found) {
        let is_own = to_own_vip && maps::is_owned_on(&packet.tuple.destination, interface);
        return if is_own && settings.mode == mode::ACTIVE {
            from_host(frame, work, settings, now)
        } else {
            Outcome::PassEgress
        };
    }
    note_reply(packet, &found, now);
    match crate::rewrite::rewrite(frame, packet, &restored(found.flow()), crate::rewrite::Ttl::Keep) {
        Some(()) => Outcome::ReplyRestored,
        None => Outcome::DropRewrite,
    }
}

/// A packet of this host's to a VIP that it owns: no other host would take it. It goes past the host's own stack, which has
/// handled it already.
#[inline(always)]
fn from_host(frame: &impl Frame, work: &mut Work, settings: &Settings, now: u32) -> Outcome {
    work.from_host = true;
    match decide(work, true, settings, now) {
        Ok(()) => send::forward(frame, work, settings, now),
        Err(Outcome::RefusedReset) => refuse::refuse(frame, &work.packet, settings, now),
        Err(Outcome::ResetBackendGone) => refuse::reset_gone(frame, &work.packet, settings, now),
        Err(Outcome::PassNotVip) => Outcome::PassEgress,
        Err(outcome) => outcome,
    }
}
