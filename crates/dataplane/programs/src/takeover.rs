//! While programs of version 1 still see some of the packets, each flow is in both versions' tables: whichever program meets its
//! next packet knows it.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use evenkeel_maps::{Address, Backend, Flow, Settings, TCP, backend_state, v1};

use crate::{
    flows::{self, Found},
    maps::{BACKENDS, V1_FLOWS, Work},
    steps,
};

/// Records the flow of `work.packet`, if only version 1 knows it. In steps, which in one would not fit on the stack.
#[inline(always)]
pub fn adopt(work: &mut Work, _: &Settings, now: u32) -> bool {
    steps::recall(work, now) && !steps::is_known(work, now) && steps::enter(work, now)
}

/// What version 1 knows of the packet's flow, into `work.flow` and `work.reply`: field by field, because a copy of either would
/// take a fifth of the stack.
#[inline(always)]
pub fn recall(work: &mut Work, _: &Settings, now: u32) -> bool {
    let Work { packet, flow, reply, .. } = work;
    if !packet.tuple.source.is_v4() || !packet.tuple.destination.is_v4() {
        return false;
    }
    let mut key = v1::FlowKey::of(&packet.tuple);
    let Some(entry) = entry_of(&key) else { return false };
    let is_reply = entry.direction != v1::Flow::FORWARD;
    if is_reply {
        (key.source, key.source_port) = (key.destination, key.destination_port);
        (key.destination, key.destination_port) = (entry.address, entry.port);
    }
    let Some(forward) = (if is_reply { entry_of(&key) } else { Some(entry) }) else { return false };
    let Some(backend) = BACKENDS.get(forward.backend) else { return false };
    // The slot may have changed hands since it was copied.
    let is_same = backend.generation == forward.generation
        && backend.state != backend_state::FREE
        && backend.address == Address::v4(forward.address)
        && backend.port == forward.port;
    if !is_same {
        return false;
    }
    // Version 1 did not note who had answered. Both entries were made at one instant, and each packet wrote its time to one.
    let is_first_packet_alone = if is_reply { forward.last_seen == entry.last_seen } else { packet.opens() };
    flow.state = if is_first_packet_alone { 0 } else { Flow::ANSWERED | Flow::ESTABLISHED };
    if key.protocol == TCP {
        flow.state |= forward.state & (Flow::FIN_CLIENT | Flow::FIN_BACKEND | Flow::RESET);
    }
    flow.client = Address::v4(key.source);
    flow.vip = Address::v4(key.destination);
    (flow.client_port, flow.vip_port, flow.protocol) = (key.source_port, key.destination_port, key.protocol);
    (flow.backend, flow.generation) = (forward.backend, forward.generation);
    (flow.flags, flow.datagrams) = (forward.flags & Backend::DIRECT, forward.datagrams);
    (flow.last_seen, flow.client_seen) = (now, now);
    flow.initial_sequence = forward.initial_sequence;
    (flow.source, flow.source_port) = (0, [0; 2]);
    reply.source = backend.address;
    reply.source_port = backend.port;
    reply.destination = Address::v4(key.source);
    reply.destination_port = key.source_port;
    reply.protocol = key.protocol;
    true
}

/// Whether this version knows `work.flow` already.
#[inline(always)]
pub fn is_known(work: &mut Work, settings: &Settings, _: u32) -> bool {
    let client = work.flow.tuple();
    flows::find(&client, settings, client.hash(settings.hash_seed), &mut Found::NOTHING)
}

/// Records `work.flow` with `work.reply`.
#[inline(always)]
pub fn enter(work: &mut Work, settings: &Settings, now: u32) -> bool {
    let hash = work.flow.tuple().hash(settings.hash_seed);
    flows::insert(&work.flow, &work.reply, settings, hash, now).is_ok()
}

/// Tells version 1 of the flow that was recorded just now, `work.flow` with `work.reply`, if it is one that it can carry: of
/// IPv4, and with the client's own address.
#[inline(always)]
pub fn tell(work: &mut Work, _: &Settings, _: u32) -> bool {
    let Work { flow, reply, .. } = work;
    let is_known = flow.client.is_v4() && reply.source.is_v4() && flow.source_port == [0; 2];
    if !is_known || flow.flags & Flow::FROM_HOST != 0 {
        return false;
    }
    let forward = v1::Flow {
        // SAFETY: a helper without arguments.
        last_seen: unsafe { bpf_ktime_get_ns() },
        address: reply.source.low(),
        port: reply.source_port,
        direction: v1::Flow::FORWARD,
        state: 0,
        backend: flow.backend,
        generation: flow.generation,
        initial_sequence: flow.initial_sequence,
        flags: flow.flags & Backend::DIRECT,
        datagrams: flow.datagrams,
        pad: [0; 2],
    };
    let back = v1::Flow { address: flow.vip.low(), port: flow.vip_port, direction: v1::Flow::REPLY, ..forward };
    let key = v1::FlowKey::of(&flow.tuple());
    // A full map gives the oldest away, and an entry that cannot be made costs what its absence did.
    V1_FLOWS.insert(key, forward, 0).is_ok() && V1_FLOWS.insert(v1::FlowKey::of(reply), back, 0).is_ok()
}

#[inline(always)]
fn entry_of(key: &v1::FlowKey) -> Option<&'static v1::Flow> {
    // SAFETY: the memory is the map's for good, and every bit pattern is a flow; a torn one belongs to no backend.
    unsafe { V1_FLOWS.get(key) }
}
