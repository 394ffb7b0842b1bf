//! Deciding where a packet goes: the flow table first, then the frontend's Maglev table.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use evenkeel_maps::{
    Address, Backend, Flow, Frontend, FrontendKey, ICMP, ICMPV6, Interface, Outcome, SCTP, Settings, TCP, Tuple,
    UDP_SESSION_DATAGRAMS, backend_state, mix, mode, ticks,
};

use crate::{
    atomic, datagram,
    flows::{self, Found},
    fragment,
    frame::{Frame, Receiver},
    icmp, limits,
    maps::{self, BACKENDS, FRONTENDS, SETTINGS, SOURCE_ADDRESSES, TURNS, Work},
    packet::{self, Packet, Transport, tcp_flags},
    rescue::{self, Hook},
    rewrite::{Ends, Ttl, rewrite},
    send::{Names, Target},
    source,
    steps::{self, Step},
    traffic,
};

/// Entries of the Maglev table that are looked at for a new flow: those before it are down, warming up, or talk to this
/// client's address and port already.
const PICKS: u32 = 16;
/// Members behind the table that are looked at when those slots had none.
const MEMBERS: u32 = 8;

pub const FORWARD_FLOW: Names = Names { direct: Outcome::ForwardFlow, stack: Outcome::StackFlow, untouched: false };
const FORWARD_NEW: Names = Names { direct: Outcome::ForwardNew, stack: Outcome::StackNew, untouched: false };
const TURN: Names = Names { direct: Outcome::ForwardTurn, stack: Outcome::StackTurn, untouched: false };
const FORWARD_MIDSTREAM: Names =
    Names { direct: Outcome::ForwardMidstream, stack: Outcome::StackMidstream, untouched: false };

/// A packet that arrived: to a VIP, a reply, or none of our business.
#[inline(always)]
pub fn ingress(frame: &impl Frame, interface: &Interface, ether_type: u16) -> Outcome {
    if frame.is_tagged() {
        return Outcome::PassVlan;
    }
    let (Some(settings), Some(work)) = (SETTINGS.get(0), maps::work()) else { return Outcome::PassNotVip };
    let bypasses = settings.mode == mode::BYPASS;
    if bypasses && ether_type != packet::ETHER_TYPE_IPV6 {
        return Outcome::Bypassed;
    }
    let Some((source, destination, protocol)) = packet::glance(frame, ether_type == packet::ETHER_TYPE_IPV6) else {
        return Outcome::PassMalformed;
    };
    // Where IPv6 VIPs are is asked by ICMPv6, and answered in any case.
    if bypasses && protocol != ICMPV6 {
        return Outcome::Bypassed;
    }
    let to_vip = maps::is_watched(&destination);
    if !to_vip && !maps::is_watched(&source) && !packet::may_be_icmp(protocol) {
        return Outcome::PassNotVip;
    }
    let now = now(settings);
    if to_vip && let Err(outcome) = frame.fast_path(work, now) {
        return outcome;
    }
    if packet::parse(frame, ether_type, &mut work.packet).is_none() {
        return Outcome::PassMalformed;
    }
    work.from_host = false;
    let decision = match work.packet.transport {
        Transport::Icmp => frame.arriving_icmp(work, now),
        _ if bypasses => return Outcome::Bypassed,
        _ => frame.ports(work, now),
    };
    let decision = match decision {
        Ok(()) => rescue::save(frame, work, now),
        Err(Outcome::RescuedSyn) => frame.refused(work, now),
        Err(Outcome::RepickedSyn) => frame.repick(work, now),
        Err(Outcome::ResetLateAnswer) => frame.arriving_late(work, now),
        Err(Outcome::RescuedDatagram) => frame.rescue_datagram(work, now),
        Err(outcome) => Err(outcome),
    };
    carry_out(frame, work, decision, now)
}

/// What a decision comes to.
#[inline(always)]
fn carry_out(frame: &impl Frame, work: &mut Work, decision: Step, now: u32) -> Outcome {
    let end = match decision {
        Ok(()) => frame.forward(work, now),
        Err(Outcome::RefusedReset) => frame.refuse(work, now),
        Err(Outcome::ResetBackendGone) => frame.reset_gone(work, now),
        Err(outcome) => return outcome,
    };
    end.err().unwrap_or(Outcome::DropRewrite)
}

/// A packet with ports, or a fragment of one: where it goes, into `work.target`; or what becomes of it instead.
#[inline(always)]
pub fn ports(frame: &impl Frame, work: &mut Work, settings: &Settings, now: u32) -> Step {
    let interface = maps::interface(frame.interface());
    if frame.receiver(&interface) != Receiver::Host {
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
                return Err(icmp::later_fragment(frame, &work.packet, &interface));
            }
            fragment::recall(&mut work.packet, now);
        }
        Transport::Icmp | Transport::Other | Transport::Truncated => return Err(unbalanced(&work.packet)),
    }
    let to_vip = maps::is_watched(&work.packet.tuple.destination);
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
pub fn decide(work: &mut Work, to_vip: bool, settings: &Settings, now: u32) -> Result<(), Outcome> {
    if settings.takes_over != 0 {
        steps::adopt(work, now);
    }
    let hash = work.packet.tuple.hash(settings.hash_seed);
    let mut found = Found::NOTHING;
    let mut is_stale = false;
    if to_vip {
        is_stale = flows::find(&work.packet.tuple, settings, hash, &mut found);
        if is_stale && let Some(decision) = known_flow(&work.packet, &mut work.target, &found, settings, now) {
            if matches!(decision, Err(Outcome::RepickedSyn)) {
                work.found = found.noted();
            }
            return decision;
        }
    }
    if !is_stale && !work.packet.opens() && flows::find_reply(&work.packet.tuple, settings, &mut found) {
        let decision = reply(&work.packet, &mut work.target, &found, settings, now);
        if matches!(decision, Err(Outcome::RescuedSyn)) {
            work.found = found.noted();
        }
        return decision;
    }
    if rescue::is_late(&work.packet, settings, now, Hook::Arriving) {
        return Err(Outcome::ResetLateAnswer);
    }
    if work.packet.transport == Transport::LaterFragment && !is_per_packet(&work.packet) {
        let is_vip = maps::is_vip(&work.packet.tuple.destination);
        return Err(if is_vip { Outcome::DropFragment } else { Outcome::PassNotVip });
    }
    // Each step is a function of its own, and leaves what it found in `work`: nested, they would not fit on the stack.
    let stale = is_stale.then_some(&found);
    admit(work, stale, now)?;
    if work.frontend.flags & Frontend::PER_PACKET != 0 {
        return hand_out(work, hash);
    }
    let slot = pick(work, settings, now);
    if slot == NO_BACKEND && is_stale && stay(&work.packet, &mut work.target, &found, now) {
        return Ok(());
    }
    begin(work, slot, now)?;
    if work.rewrites_source && !source::choose(work, settings, hash as u32, now) {
        return Err(maps::refuse(work.frontend.number, Outcome::DropSourcePorts));
    }
    record(work, stale, hash, now)
}

/// A backend's packet. In `stack` forwarding it belongs to the kernel, whose connection tracking must see the backend's own
/// address; it is restored at egress. Where the client's address was replaced, the packet is addressed to this node, and
/// must be restored before the kernel takes it for its own.
#[inline(never)]
fn reply(packet: &Packet, target: &mut Target, found: &Found, settings: &Settings, now: u32) -> Result<(), Outcome> {
    let flow = found.flow();
    let rewritten = flow.source_port != [0; 2];
    let direct = flow.flags & Backend::DIRECT != 0;
    if !direct && !rewritten {
        return Err(Outcome::PassNotVip);
    }
    if rewritten && flow.is_closed() && packet.flags & tcp_flags::SYN != 0 {
        // The host has the port for itself by now: kube-proxy's masquerading takes any.
        flows::remove(found, &packet.tuple, settings);
        return Err(Outcome::PassNotVip);
    }
    if refuses(packet, flow, settings) {
        return Err(Outcome::RescuedSyn);
    }
    note_reply(packet, found, settings, now);
    *target = Target { ends: restored(flow), direct, names: reply_names(flow) };
    Ok(())
}

/// The outcomes of a reply met where it arrives.
#[inline(always)]
pub fn reply_names(flow: &Flow) -> Names {
    // What this host itself asked for does not leave it again.
    if flow.source_port != [0; 2] || flow.flags & Flow::FROM_HOST != 0 {
        Names { direct: Outcome::ReplyDirect, stack: Outcome::ReplyStack, untouched: false }
    } else {
        Names { direct: Outcome::ReplyDirect, stack: Outcome::PassNotVip, untouched: true }
    }
}

/// Whether a reply is a backend's refusal of a connection that can be brought to another one.
#[inline(always)]
fn refuses(packet: &Packet, flow: &Flow, settings: &Settings) -> bool {
    packet.flags & tcp_flags::RST != 0 && flow.state & Flow::ANSWERED == 0 && settings.rescue_tries != 0
}

/// The ends that a reply has for its client.
#[inline(always)]
pub fn restored(flow: &Flow) -> Ends {
    Ends { source: flow.vip, destination: flow.client, source_port: flow.vip_port, destination_port: flow.client_port }
}

/// Notes what a reply tells about its flow.
#[inline(always)]
fn note_reply(packet: &Packet, found: &Found, settings: &Settings, now: u32) {
    traffic::count(found.backend, packet.frame_length, false);
    let flow = found.flow();
    if flow.quiet(now) >= ticks::REFRESH {
        flow.last_seen = now;
    }
    let mut state = Flow::ANSWERED;
    if packet.flags & tcp_flags::RST != 0 {
        let is_first = found.flow().state & Flow::ANSWERED == 0;
        state = Flow::RESET | if is_first { Flow::REFUSED } else { Flow::ANSWERED };
    } else {
        if packet.flags & tcp_flags::FIN != 0 {
            state |= Flow::FIN_BACKEND;
        }
        if flow.state & (Flow::ANSWERED | Flow::RESET) != Flow::ANSWERED || flow.datagrams > 1 {
            is_there(found, packet.tuple.protocol, settings);
        }
    }
    found.note_end(state);
}

/// A backend has answered what was not answered before, or one that seemed to be gone or reset has.
#[inline(never)]
fn is_there(found: &Found, protocol: u8, settings: &Settings) {
    let flow = found.flow();
    if flow.state & Flow::ANSWERED == 0 {
        rescue::answered(found, settings);
    }
    if protocol == TCP {
        flow.datagrams = 1;
        found.take_back(Flow::RESET);
    }
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
fn known_flow(
    packet: &Packet,
    target: &mut Target,
    found: &Found,
    settings: &Settings,
    now: u32,
) -> Option<Result<(), Outcome>> {
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
            let established = flow.is_established() && quiet <= flow.timeout();
            let serves = matches!(state, backend_state::ACTIVE | backend_state::DRAIN);
            if gone || !serves || !(retransmission || established) {
                return None;
            }
            let unanswered = retransmission && flow.state & Flow::ANSWERED == 0;
            if unanswered && settings.rescue_tries != 0 && now.wrapping_sub(flow.client_seen) >= ticks::SYN_AGAIN {
                return Some(Err(Outcome::RepickedSyn));
            }
        } else if gone || (state == backend_state::TOMBSTONE && is_abandoned(packet, flow, now)) {
            found.note_end(Flow::RESET);
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
            if flow.state & Flow::RESET != 0 {
                // Nobody goes on after a reset: it was not the other's.
                found.take_back(Flow::RESET);
            }
        }
        found.note_end(bits);
    } else {
        let usable =
            (state == backend_state::ACTIVE && !datagram::is_out(backend, now)) || state == backend_state::DRAIN;
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
    Some(if go_on(packet, target, found, backend, now) { Ok(()) } else { Err(Outcome::DropSourcePorts) })
}

/// Sends a client's packet to the backend of its flow. `false`: the address that stood for the client's is gone.
#[inline(always)]
fn go_on(packet: &Packet, target: &mut Target, found: &Found, backend: &Backend, now: u32) -> bool {
    let flow = found.flow();
    found.note_client(now);
    traffic::count(found.backend, packet.frame_length, true);
    target.direct = flow.flags & Backend::DIRECT != 0;
    target.names = FORWARD_FLOW;
    towards_backend(flow, backend, packet, &mut target.ends).is_some()
}

/// A datagram whose flow would be another backend's, were there one: it goes to its own, which is there, if not ready.
#[inline(never)]
fn stay(packet: &Packet, target: &mut Target, found: &Found, now: u32) -> bool {
    let Some(backend) = BACKENDS.get(found.backend) else { return false };
    packet.tuple.protocol != TCP
        && backend.state == backend_state::DOWN
        && backend.generation == found.generation
        && found.flow().quiet(now) <= ticks::UDP_IDLE
        && go_on(packet, target, found, backend, now)
}

/// Whether a client has asked several times, with pauses between, and its backend, which is no longer an endpoint, has not
/// said anything since: it is not there any more.
///
/// Nobody answers a mere acknowledgement.
#[inline(always)]
fn is_abandoned(packet: &Packet, flow: &mut Flow, now: u32) -> bool {
    let end = packet.transport_offset + packet.header as u32;
    let asks = packet.length + packet::ETHERNET as u32 > end || packet.flags & tcp_flags::FIN != 0;
    if asks && now.wrapping_sub(flow.client_seen) >= ticks::REFRESH {
        flow.datagrams = flow.datagrams.saturating_add(1);
    }
    flow.datagrams > Flow::IN_VAIN
}

/// A packet that no flow claims: finds its frontend, into `work.frontend`, and whether that takes this client's new flow.
/// `stale`: the record of its tuple that no longer holds.
#[inline(never)]
fn admit(work: &mut Work, stale: Option<&Found>, now: u32) -> Result<(), Outcome> {
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
    if flags & Frontend::CLOSED != 0 {
        return Err(maps::refuse(number, Outcome::RefusedReset));
    }
    if flags & Frontend::SOURCE_RANGES != 0 && !limits::is_in_range(number, &source) {
        return Err(maps::refuse(number, Outcome::DropSourceRange));
    }
    // What goes on at another backend is nothing new.
    if flags & Frontend::LIMITED == 0 || stale.is_some_and(|stale| continues(&work.packet, stale, now)) {
        return Ok(());
    }
    let stays = flags & Frontend::PER_PACKET == 0 && adds_a_flow(stale, now);
    limits::admit(limit, stays, now).map_err(|outcome| maps::refuse(number, outcome))
}

/// Whether a flow that takes the place of this record is one more than there were.
#[inline(always)]
fn adds_a_flow(stale: Option<&Found>, now: u32) -> bool {
    match stale {
        Some(stale) => stale.flow().is_closed() || stale.flow().is_over(now),
        None => true,
    }
}

/// Whether the packet belongs to what the record tells of, and not to a new connection between the same ends.
#[inline(always)]
fn continues(packet: &Packet, stale: &Found, now: u32) -> bool {
    let same = !packet.opens() || stale.flow().initial_sequence == packet.sequence;
    same && !adds_a_flow(Some(stale), now)
}

/// Whether nobody can have this source address, or nobody may be answered there (RFC 1122 section 3.2.1.3, RFC 4291): the
/// kernel, past which `direct` forwarding goes, would drop it as a martian.
#[inline(always)]
pub fn is_impossible(source: &Address, destination: &Address) -> bool {
    if source == destination {
        return true;
    }
    if source.is_v4() {
        let [first, ..] = source.low();
        return first == 0 || first == 127 || first >= 224;
    }
    let [first, second] = source.halves();
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
    work.rewrites_source = rewrites_source(frontend, backend, &tuple.source);
    *flow = Flow {
        client: tuple.source,
        vip: tuple.destination,
        client_port: tuple.source_port,
        vip_port: tuple.destination_port,
        protocol: tuple.protocol,
        state: if packet.flags & tcp_flags::RST != 0 { Flow::RESET } else { 0 },
        flags: flow_flags(backend, work.rewrites_source, work.from_host),
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

/// Whether a packet is to a frontend that balances each by itself.
#[inline(never)]
fn is_per_packet(packet: &Packet) -> bool {
    let Tuple { destination, destination_port: port, protocol, .. } = packet.tuple;
    // SAFETY: user space replaces entries as a whole.
    match unsafe { FRONTENDS.get(FrontendKey { address: destination, port, protocol, pad: [0; 5] }) } {
        Some(frontend) => frontend.flags & Frontend::PER_PACKET != 0,
        None => false,
    }
}

/// A packet of its own: it goes to the backend whose turn it is, of which nothing is remembered. The fragments of a datagram
/// have no turns, or they would not meet again: where they go hangs on their ends.
#[inline(never)]
fn hand_out(work: &mut Work, hash: u64) -> Result<(), Outcome> {
    let Work { packet, target, frontend, .. } = work;
    let is_fragment = packet.is_first_fragment || packet.transport == Transport::LaterFragment;
    let turn = match TURNS.get_ptr_mut(frontend.number) {
        // SAFETY: inside the map's memory, aligned.
        Some(turns) if !is_fragment => unsafe { atomic::count(turns) },
        _ => hash as u32,
    };
    let size = frontend.table_size;
    if size == 0 {
        return Err(maps::refuse(frontend.number, Outcome::DropNoBackend));
    }
    for step in 0..PICKS {
        let Some(slot) = maps::table_slot(frontend.table_row, turn.wrapping_add(step) % size) else { break };
        let Some(backend) = BACKENDS.get(slot) else { break };
        let is_sender = backend.address == packet.tuple.source;
        if backend.state != backend_state::ACTIVE || is_sender || backend.share == 0 {
            continue;
        }
        // The last one has it, warming up or not: better that than nobody.
        if step + 1 < PICKS && !takes(backend, turn ^ slot) {
            continue;
        }
        traffic::count(slot, packet.frame_length, true);
        target.ends = Ends::of(packet);
        (target.ends.destination, target.ends.destination_port) = (backend.address, backend.port);
        target.direct = (backend.flags & Backend::DIRECT != 0) | work.from_host;
        target.names = TURN;
        return Ok(());
    }
    Err(maps::refuse(frontend.number, Outcome::DropNoBackend))
}

/// Whether a client's packets get another source address on their way to this backend. One that meets its own address as its
/// client's answers itself.
#[inline(always)]
pub fn rewrites_source(frontend: &Frontend, backend: &Backend, client: &Address) -> bool {
    (frontend.flags & Frontend::REWRITE_SOURCE != 0)
        | (backend.flags & Backend::REWRITE_SOURCE != 0)
        | (backend.address == *client)
}

/// [`Flow::flags`] of a flow to this backend. The host's own stack would take a packet that has the host's address as source
/// for a forgery, and drop it.
#[inline(always)]
pub fn flow_flags(backend: &Backend, rewrites_source: bool, from_host: bool) -> u8 {
    let past_stack = if rewrites_source | from_host { Backend::DIRECT } else { 0 };
    let of_host = if from_host { Flow::FROM_HOST } else { 0 };
    backend.flags | past_stack | of_host
}

/// Records `work.flow` in the table. `stale`: the record of its tuple that no longer holds.
#[inline(never)]
fn record(work: &mut Work, stale: Option<&Found>, hash: u64, now: u32) -> Result<(), Outcome> {
    let Some(settings) = SETTINGS.get(0) else { return Err(Outcome::PassNotVip) };
    let Work { packet, flow, reply, frontend, .. } = &*work;
    let is_counted = frontend.flags & Frontend::LIMITED != 0 && adds_a_flow(stale, now);
    if let Some(found) = stale
        && found.flow().state & Flow::ANSWERED == 0
        && flow.protocol == TCP
        && continues(packet, found, now)
    {
        rescue::leave_behind(found, settings, now);
    }
    let recorded = match stale {
        Some(found) => flows::replace(found, flow, reply, settings).ok_or(Outcome::DropFlowTable),
        None => flows::insert(flow, reply, settings, hash, now),
    };
    if let Err(outcome) = recorded {
        return Err(maps::refuse(work.frontend.number, outcome));
    }
    if is_counted {
        limits::count(work.frontend.limit);
    }
    if settings.takes_over != 0 {
        steps::tell(work, now);
    }
    let Work { packet, target, flow, .. } = work;
    traffic::count(flow.backend, packet.frame_length, true);
    target.names = if flow.protocol == TCP && !packet.opens() { FORWARD_MIDSTREAM } else { FORWARD_NEW };
    if aim(work) { Ok(()) } else { Err(Outcome::DropSourcePorts) }
}

/// Tells in `work.target` how the client's packets of `work.flow` get to its backend.
#[inline(always)]
pub fn aim(work: &mut Work) -> bool {
    let Work { packet, target, flow, .. } = work;
    target.direct = flow.flags & Backend::DIRECT != 0;
    match BACKENDS.get(flow.backend) {
        Some(backend) => towards_backend(flow, backend, packet, &mut target.ends).is_some(),
        None => false,
    }
}

/// The tuple of the packets that come back from the backend.
#[inline(always)]
pub fn reply_tuple(packet: &Packet, backend: &Backend) -> Tuple {
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
    let hash = pick_hash(&work.packet.tuple, &work.frontend, settings.hash_seed);
    let (mut reason, mut avoided) = (NO_BACKEND, NO_BACKEND);
    let size = work.frontend.table_size;
    if size == 0 {
        return reason;
    }
    for step in 0..PICKS + MEMBERS {
        let Some(slot) = candidate(&work.frontend, hash as u32, step, PICKS) else { break };
        let Some(backend) = BACKENDS.get(slot) else { break };
        if backend.state != backend_state::ACTIVE || backend.share == 0 {
            continue;
        }
        if !takes(backend, (hash >> 32) as u32 ^ slot) || (backend.ejected_until != 0 && steps::is_avoided(slot, now)) {
            avoided = slot;
            continue;
        }
        work.reply = reply_tuple(&work.packet, backend);
        if !steps::is_taken(work, now) {
            return slot;
        }
        reason = ALL_TAKEN;
    }
    // Better one that is warming up, or refused somebody a moment ago, than none.
    let Some(backend) = BACKENDS.get(avoided) else { return reason };
    work.reply = reply_tuple(&work.packet, backend);
    if steps::is_taken(work, now) { ALL_TAKEN } else { avoided }
}

/// The slot of the backend to be looked at in this step for a flow with this hash: first those of some slots in a row of the
/// Maglev table, then the members behind it.
#[inline(always)]
pub fn candidate(frontend: &Frontend, hash: u32, step: u32, slots: u32) -> Option<u32> {
    let turn = hash.wrapping_add(step);
    let entry = if step < slots {
        turn.checked_rem(frontend.table_size)?
    } else if step - slots < frontend.members() {
        frontend.table_size + turn.checked_rem(frontend.members())?
    } else {
        return None;
    };
    maps::table_slot(frontend.table_row, entry)
}

/// Whether a backend's share includes the flow with this hash.
#[inline(always)]
fn takes(backend: &Backend, hash: u32) -> bool {
    backend.share == Backend::FULL_SHARE || ((hash.wrapping_mul(0x9e37_79b1) >> 24) as u8) < backend.share
}

/// Whether the backend that would answer by `work.reply` already talks to this client address and port on behalf of another
/// frontend: its replies could not be told apart.
#[inline(always)]
pub fn is_taken(work: &Work, settings: &Settings, now: u32) -> bool {
    let Work { packet, reply: key, .. } = work;
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
pub fn pick_hash(tuple: &Tuple, frontend: &Frontend, seed: u64) -> u64 {
    let [first, second] = tuple.source.halves();
    let hash = mix(mix(seed.rotate_left(32), first), second);
    if frontend.flags & Frontend::SOURCE_AFFINITY != 0 {
        return mix(hash, frontend.number as u64);
    }
    let [first, second] = tuple.destination.halves();
    let (from, to) = (tuple.source_port, tuple.destination_port);
    let ports = u32::from_ne_bytes([from[0], from[1], to[0], to[1]]) as u64 | (tuple.protocol as u64) << 32;
    mix(mix(hash, first ^ second), ports)
}

/// A packet that leaves: a reply gets its VIP back, and what this host itself sends to a VIP of its own is balanced.
#[inline(always)]
pub fn egress(frame: &impl Frame, ether_type: u16) -> Outcome {
    leave(frame, ether_type).err().unwrap_or(Outcome::PassEgress)
}

#[inline(always)]
fn leave(frame: &impl Frame, ether_type: u16) -> Step {
    let (Some(settings), Some(work)) = (SETTINGS.get(0), maps::work()) else { return Err(Outcome::PassEgress) };
    let ipv6 = ether_type == packet::ETHER_TYPE_IPV6;
    let Some((source, destination, protocol)) = packet::glance(frame, ipv6) else { return Err(Outcome::PassEgress) };
    let to_own_vip = maps::is_watched(&destination) && frame.is_from_host();
    if !maps::is_watched(&source) && !to_own_vip && !packet::may_be_icmp(protocol) {
        return Err(Outcome::PassEgress);
    }
    if packet::parse(frame, ether_type, &mut work.packet).is_none() {
        return Err(Outcome::PassEgress);
    }
    work.from_host = false;
    let now = now(settings);
    let decision = if work.packet.transport == Transport::Icmp {
        frame.leaving_icmp(work, now)
    } else {
        frame.leaving_ports(work, now)
    };
    match decision {
        Ok(()) => Err(from_host(frame, work, now)),
        Err(Outcome::RescuedSyn) => {
            frame.refused(work, now)?;
            if matches!(work.target.names.direct, Outcome::RescuedSyn) {
                return frame.depart(work, now);
            }
            frame.restore(work, now)
        }
        Err(Outcome::ResetLateAnswer) => frame.leaving_late(work, now).and_then(|()| frame.depart(work, now)),
        Err(Outcome::RescuedDatagram) => frame.rescue_datagram(work, now).and_then(|()| frame.depart(work, now)),
        end => end,
    }
}

/// A packet with ports, or a fragment of one, that leaves. `Ok`: this host sends it to a VIP that it owns. `RescuedSyn`,
/// `ResetLateAnswer`: what is to be done about it.
#[inline(always)]
pub fn leaving_ports(frame: &impl Frame, work: &mut Work, settings: &Settings, now: u32) -> Step {
    let interface = maps::interface(frame.interface());
    let to_own_vip = frame.is_from_host() && maps::is_watched(&work.packet.tuple.destination);
    let packet = &mut work.packet;
    // Flows that exist are carried on whatever the mode is.
    match packet.transport {
        Transport::Tcp | Transport::Udp => {
            if packet.is_first_fragment {
                fragment::remember(packet, now);
            }
        }
        Transport::LaterFragment if to_own_vip && matches!(packet.tuple.protocol, ICMP | ICMPV6) => {
            return Err(icmp::later_fragment_of_host(frame, packet, &interface));
        }
        Transport::LaterFragment => fragment::recall(packet, now),
        _ => return Err(Outcome::PassEgress),
    }
    if settings.takes_over != 0 {
        steps::adopt(work, now);
    }
    let packet = &work.packet;
    let mut found = Found::NOTHING;
    if !flows::find_reply(&packet.tuple, settings, &mut found) {
        if to_own_vip && maps::is_owned_on(&packet.tuple.destination, &interface) && settings.mode == mode::ACTIVE {
            return Ok(());
        }
        let is_late = rescue::is_late(packet, settings, now, Hook::Leaving);
        return Err(if is_late { Outcome::ResetLateAnswer } else { Outcome::PassEgress });
    }
    if refuses(packet, found.flow(), settings) {
        work.found = found.noted();
        return Err(Outcome::RescuedSyn);
    }
    note_reply(packet, &found, settings, now);
    restore(frame, packet, &restored(found.flow()), Outcome::ReplyRestored)
}

/// A refusal that goes to its client in the end, as `work.target` says.
#[inline(always)]
pub fn restore_refusal(frame: &impl Frame, work: &Work) -> Step {
    let Target { ends, names, .. } = &work.target;
    let name = if matches!(names.direct, Outcome::ReplyDirect) { Outcome::ReplyRestored } else { names.stack };
    restore(frame, &work.packet, ends, name)
}

#[inline(always)]
fn restore(frame: &impl Frame, packet: &Packet, ends: &Ends, name: Outcome) -> Step {
    Err(rewrite(frame, packet, ends, Ttl::Keep).map_or(Outcome::DropRewrite, |()| name))
}

/// A packet of this host's to a VIP that it owns: no other host would take it. It goes past the host's own stack, which has
/// handled it already.
#[inline(always)]
fn from_host(frame: &impl Frame, work: &mut Work, now: u32) -> Outcome {
    work.from_host = true;
    let decision = match frame.ports_of_host(work, now) {
        Ok(()) => rescue::save(frame, work, now),
        Err(Outcome::RepickedSyn) => frame.repick(work, now),
        Err(Outcome::PassNotVip) => Err(Outcome::PassEgress),
        decision => decision,
    };
    carry_out(frame, work, decision, now)
}
