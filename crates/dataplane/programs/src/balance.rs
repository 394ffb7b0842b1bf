//! Deciding where a packet goes: the flow table first, then the frontend's Maglev table.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::bpf_ktime_get_ns,
    programs::TcContext,
};
use evenkeel_maps::{
    Backend, Flow, FlowKey, Frontend, FrontendKey, Outcome, TCP, TCP_IDLE_NS, UDP, UDP_EXCHANGE_IDLE_NS, UDP_IDLE_NS,
    UDP_SESSION_DATAGRAMS, backend_state, direction,
};

use crate::{
    echo,
    maps::{self, BACKENDS, FLOWS, FRONTENDS, SETTINGS, VIPS},
    packet::{self, Packet, Transport, tcp_flags},
    rewrite::{End, Ttl, rewrite},
    send,
};

/// Backends tried for a new flow whose reply tuple is taken.
const ATTEMPTS: u32 = 4;
/// Pause after which a packet looks whether its reply entry is still there. The flow table gives up entries one at a time,
/// and those that have rested.
const REST_NS: u64 = 1_000_000_000;

/// A packet that arrived: to a VIP, a reply, or none of our business.
#[inline(always)]
pub fn ingress(ctx: &TcContext) -> Outcome {
    if let Err(outcome) = packet::addressed_here(ctx) {
        return outcome;
    }
    let Some(packet) = packet::parse(ctx) else { return Outcome::PassMalformed };
    if packet.transport == Transport::Tcp || packet.transport == Transport::Udp {
        if let Some(flow) = FLOWS.get_ptr_mut(&packet.key) {
            // SAFETY: the memory is the map's for good. Another CPU can give the entry to another flow meanwhile; that costs
            // at most this packet, which is as if it had come a moment later.
            let flow = unsafe { &mut *flow };
            if flow.direction == direction::REPLY {
                return reply(ctx, &packet, flow);
            }
            if let Some(outcome) = known_flow(ctx, &packet, flow) {
                return outcome;
            }
        }
    }
    // SAFETY: user space replaces entries as a whole.
    if unsafe { VIPS.get(packet.key.destination) }.is_none() {
        return Outcome::PassNotVip;
    }
    match packet.transport {
        Transport::Tcp | Transport::Udp => new_flow(ctx, &packet),
        Transport::Other if packet.key.protocol == echo::ICMP => echo::answer(ctx, &packet),
        Transport::Other => Outcome::DropProtocol,
        Transport::Fragment => Outcome::DropFragment,
        Transport::Truncated => Outcome::DropMalformed,
    }
}

/// A packet that leaves: a reply gets its VIP back.
#[inline(always)]
pub fn egress(ctx: &TcContext) -> Outcome {
    let Some(packet) = packet::parse(ctx) else { return Outcome::PassEgress };
    if packet.transport != Transport::Tcp && packet.transport != Transport::Udp {
        return Outcome::PassEgress;
    }
    let Some(flow) = FLOWS.get_ptr_mut(&packet.key) else { return Outcome::PassEgress };
    // SAFETY: as in `ingress`.
    let flow = unsafe { &mut *flow };
    if flow.direction != direction::REPLY {
        return Outcome::PassEgress;
    }
    note_reply(&packet, flow);
    match rewrite(ctx, &packet, End::Source, flow.address, flow.port, Ttl::Keep) {
        Some(()) => Outcome::ReplyRestored,
        None => Outcome::DropRewrite,
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// A reply met at ingress. In `stack` forwarding it belongs to the kernel, whose connection tracking must see the
/// backend's own address; it is restored at egress.
#[inline(always)]
fn reply(ctx: &TcContext, packet: &Packet, flow: &mut Flow) -> Outcome {
    if flow.flags & Backend::DIRECT == 0 {
        return Outcome::PassNotVip;
    }
    let outcome = send::reply(ctx, packet, flow.address, flow.port);
    if outcome == Outcome::ReplyDirect {
        note_reply(packet, flow);
    }
    outcome
}

/// Notes on the forward entry what a reply tells about the flow.
#[inline(always)]
fn note_reply(packet: &Packet, flow: &mut Flow) {
    flow.last_seen = now();
    let state = match packet.transport {
        Transport::Tcp if packet.flags & tcp_flags::RST != 0 => Flow::RESET,
        Transport::Tcp if packet.flags & tcp_flags::FIN != 0 => Flow::FIN_BACKEND,
        _ => return,
    };
    let forward = FlowKey {
        source: packet.key.destination,
        destination: flow.address,
        source_port: packet.key.destination_port,
        destination_port: flow.port,
        protocol: packet.key.protocol,
        pad: [0; 3],
    };
    if let Some(entry) = FLOWS.get_ptr_mut(&forward) {
        // SAFETY: as in `ingress`.
        let entry = unsafe { &mut *entry };
        // The client's tuple may have moved on to another backend; what the former one still sends does not concern it.
        if entry.backend == flow.backend && entry.generation == flow.generation {
            entry.state |= state;
        }
    }
}

/// A packet whose flow is in the table. `None`: the entry no longer holds, the packet begins a new flow.
#[inline(always)]
fn known_flow(ctx: &TcContext, packet: &Packet, flow: &mut Flow) -> Option<Outcome> {
    let now = now();
    let backend = BACKENDS.get(flow.backend);
    let (state, generation) = match backend {
        Some(backend) => (backend.state, backend.generation),
        None => (backend_state::FREE, 0),
    };
    let gone = state == backend_state::FREE || generation != flow.generation;
    // Another CPU may have seen a later packet meanwhile.
    let pause = now.saturating_sub(flow.last_seen);
    if packet.transport == Transport::Tcp {
        if packet.opens() {
            // A SYN always revalidates: only a retransmission keeps its backend, and only one that may serve it.
            let retransmission = flow.initial_sequence == packet.sequence;
            if !retransmission || gone || (state != backend_state::ACTIVE && state != backend_state::DRAIN) {
                return None;
            }
        } else if gone {
            return Some(Outcome::DropBackendGone);
        }
        if packet.flags & tcp_flags::RST != 0 {
            flow.state |= Flow::RESET;
        } else if packet.flags & tcp_flags::FIN != 0 {
            flow.state |= Flow::FIN_CLIENT;
        }
    } else {
        let usable = state == backend_state::ACTIVE || state == backend_state::DRAIN;
        let exchange_over = flow.datagrams < UDP_SESSION_DATAGRAMS && pause > UDP_EXCHANGE_IDLE_NS;
        if gone || !usable || (exchange_over && state == backend_state::DRAIN) {
            return None;
        }
        if pause > UDP_IDLE_NS && reply_pause(packet, flow, now) > UDP_IDLE_NS {
            return None;
        }
        if exchange_over {
            flow.datagrams = 1;
        } else if flow.datagrams < UDP_SESSION_DATAGRAMS {
            flow.datagrams += 1;
        }
    }
    flow.last_seen = now;
    if pause > REST_NS {
        restore_reply(packet, flow);
    }
    let names = send::Names { direct: Outcome::ForwardFlow, stack: Outcome::StackFlow };
    Some(send::forward(ctx, packet, flow.address, flow.port, flow.flags & Backend::DIRECT != 0, names))
}

/// Nanoseconds since the backend's last packet: a stream can flow for long with nothing from the client.
#[inline(always)]
fn reply_pause(packet: &Packet, flow: &Flow, now: u64) -> u64 {
    match FLOWS.get_ptr_mut(reply_key(packet, flow.address, flow.port)) {
        // SAFETY: as in `ingress`.
        Some(entry) => now.saturating_sub(unsafe { (*entry).last_seen }),
        None => u64::MAX,
    }
}

/// Makes the reply entry of a known flow again if the table gave it up: without it the client would see the backend's own
/// address.
#[inline(always)]
fn restore_reply(packet: &Packet, flow: &Flow) {
    let mut reply = *flow;
    reply.direction = direction::REPLY;
    reply.address = packet.key.destination;
    reply.port = packet.key.destination_port;
    // What cannot be inserted now is tried again after the next pause; an entry that is there belongs to its owner.
    let _ = FLOWS.insert(reply_key(packet, flow.address, flow.port), &reply, BPF_NOEXIST as u64);
}

/// Key of the packets that come back from the backend at this address.
#[inline(always)]
fn reply_key(packet: &Packet, address: [u8; 4], port: [u8; 2]) -> FlowKey {
    FlowKey {
        source: address,
        destination: packet.key.source,
        source_port: port,
        destination_port: packet.key.source_port,
        protocol: packet.key.protocol,
        pad: [0; 3],
    }
}

/// A packet to a VIP that no flow claims.
#[inline(always)]
fn new_flow(ctx: &TcContext, packet: &Packet) -> Outcome {
    let frontend_key = FrontendKey {
        address: packet.key.destination,
        port: packet.key.destination_port,
        protocol: packet.key.protocol,
        pad: 0,
    };
    // SAFETY: user space replaces entries as a whole.
    let Some(frontend) = (unsafe { FRONTENDS.get(frontend_key) }) else { return Outcome::DropNoFrontend };
    if frontend.table_size == 0 {
        return Outcome::DropNoBackend;
    }
    let now = now();
    let mut hash = flow_hash(packet, frontend);
    for _ in 0..ATTEMPTS {
        let Some(slot) = maps::table_slot(frontend.table_row, hash % frontend.table_size) else {
            return Outcome::DropNoBackend;
        };
        let Some(backend) = BACKENDS.get(slot) else { return Outcome::DropNoBackend };
        let reply_key = reply_key(packet, backend.address, backend.port);
        if !reply_tuple_taken(&reply_key, packet, now) {
            return record_and_send(ctx, packet, slot, backend, &reply_key, now);
        }
        hash = mix(hash);
    }
    Outcome::DropTupleInUse
}

/// Whether the backend already talks to this client address and port on behalf of another frontend: its replies could
/// not be told apart.
#[inline(always)]
fn reply_tuple_taken(reply_key: &FlowKey, packet: &Packet, now: u64) -> bool {
    let Some(entry) = FLOWS.get_ptr_mut(reply_key) else { return false };
    // SAFETY: as in `ingress`.
    let entry = unsafe { &*entry };
    if entry.direction != direction::REPLY
        || (entry.address == packet.key.destination && entry.port == packet.key.destination_port)
    {
        return false;
    }
    let other = FlowKey {
        source: packet.key.source,
        destination: entry.address,
        source_port: packet.key.source_port,
        destination_port: entry.port,
        protocol: packet.key.protocol,
        pad: [0; 3],
    };
    let Some(forward) = FLOWS.get_ptr_mut(&other) else { return false };
    // SAFETY: as in `ingress`.
    let forward = unsafe { &*forward };
    let idle = if packet.key.protocol == UDP { UDP_IDLE_NS } else { TCP_IDLE_NS };
    // The client's tuple may have moved on to another backend since.
    let same = forward.backend == entry.backend && forward.generation == entry.generation;
    same && !forward.is_closed() && now.saturating_sub(forward.last_seen) <= idle
}

#[inline(always)]
fn record_and_send(
    ctx: &TcContext,
    packet: &Packet,
    slot: u32,
    backend: &Backend,
    reply_key: &FlowKey,
    now: u64,
) -> Outcome {
    let opens = packet.opens();
    let mut flow = Flow {
        last_seen: now,
        address: packet.key.destination,
        port: packet.key.destination_port,
        direction: direction::REPLY,
        state: 0,
        backend: slot,
        generation: backend.generation,
        initial_sequence: if opens { packet.sequence } else { [0; 4] },
        flags: backend.flags,
        datagrams: 1,
        pad: [0; 2],
    };
    if FLOWS.insert(reply_key, &flow, BPF_ANY as u64).is_err() {
        return Outcome::DropFlowTable;
    }
    flow.direction = direction::FORWARD;
    flow.address = backend.address;
    flow.port = backend.port;
    if packet.flags & tcp_flags::RST != 0 {
        flow.state = Flow::RESET;
    }
    if FLOWS.insert(&packet.key, &flow, BPF_ANY as u64).is_err() {
        return Outcome::DropFlowTable;
    }
    let names = if packet.key.protocol == TCP && !opens {
        send::Names { direct: Outcome::ForwardMidstream, stack: Outcome::StackMidstream }
    } else {
        send::Names { direct: Outcome::ForwardNew, stack: Outcome::StackNew }
    };
    send::forward(ctx, packet, flow.address, flow.port, flow.flags & Backend::DIRECT != 0, names)
}

/// The hash that picks the Maglev slot: of the five-tuple, or of the client's address alone under session affinity.
#[inline(always)]
fn flow_hash(packet: &Packet, frontend: &Frontend) -> u32 {
    let seed = match SETTINGS.get(0) {
        Some(settings) => settings.hash_seed,
        None => 0,
    };
    let key = &packet.key;
    let mut hash = mix(u32::from_ne_bytes(key.source) ^ seed as u32);
    hash = mix(hash ^ u32::from_ne_bytes(key.destination) ^ (seed >> 32) as u32);
    if frontend.flags & Frontend::SOURCE_AFFINITY == 0 {
        let ports = [key.source_port[0], key.source_port[1], key.destination_port[0], key.destination_port[1]];
        hash = mix(hash ^ u32::from_ne_bytes(ports) ^ key.protocol as u32);
    }
    hash
}

/// The finaliser of MurmurHash3: every input bit flips every output bit with a probability near one half.
#[inline(always)]
fn mix(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}
