//! Bringing a client to another backend when the first one refuses it or does not answer, before the client notices.
//!
//! A SYN that opens a flow is kept until its backend has answered. A backend that answers with a reset gets no further: the
//! frame that carried the reset becomes the client's SYN again, and goes to another backend. A SYN that the client sends
//! again goes to another one too. What a backend sends of a flow that has left it is told by what `FORMER` remembers.
//!
//! What is done for datagrams, which have no handshake, is in `datagram`.

use evenkeel_maps::{
    Backend, Flow, Frontend, FrontendKey, Outcome, SavedSyn, Settings, TCP, TRIED, Verdict, backend_state, ticks,
};

use crate::{
    atomic,
    balance::{self, FORWARD_FLOW},
    checksum, datagram,
    flows::{self, Found},
    frame::{Frame, pointer},
    maps::{self, BACKENDS, FORMER, FRONTENDS, SAVED_SYNS, Work},
    packet::{self, ETHERNET, Ipv4Header, Ipv6Header, Packet, TcpHeader, Transport, tcp_flags},
    refuse,
    rewrite::{Ends, Ttl, rewrite},
    send::{self, Names},
    source,
    steps::{self, Step},
    traffic,
    word::{read_32, write_32},
};

/// Length of an IPv4 header without options: a SYN with them is not kept.
const IPV4: usize = 20;
/// Length of a TCP header without options.
const TCP_HEADER: usize = size_of::<TcpHeader>();
/// Words of TCP options.
const OPTIONS: usize = 10;
/// Entries of the Maglev table that are looked at for another backend.
const STEPS: u32 = 48;
/// Members behind it that are looked at when those had none.
const MEMBERS: u32 = 16;

const RESCUED: Names = Names { direct: Outcome::RescuedSyn, stack: Outcome::RescuedSynStack, untouched: false };
const REPICKED: Names = Names { direct: Outcome::RepickedSyn, stack: Outcome::RepickedSynStack, untouched: false };
const EXHAUSTED: Names = Names { direct: Outcome::RefusalDirect, stack: Outcome::RescueExhausted, untouched: false };
const EXCLUDED: Names = Names { direct: Outcome::RefusalDirect, stack: Outcome::RescueExcludedData, untouched: false };

/// Which way a packet goes through this node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// It has just arrived.
    Arriving,
    /// It is about to leave.
    Leaving,
}

// ---------------------------------------------------------------- SYNs that are kept

/// Where the SYN with this key is kept.
#[inline(always)]
fn saved(key: u64) -> Option<*mut SavedSyn> {
    let [first, second] = SavedSyn::places(key);
    let first = SAVED_SYNS.get_ptr_mut(first)?;
    // SAFETY: the memory is the map's for good, here and below.
    if unsafe { (*first).key } == key {
        return Some(first);
    }
    let second = SAVED_SYNS.get_ptr_mut(second)?;
    (unsafe { (*second).key } == key).then_some(second)
}

/// A place for the SYN with this key, which is claimed: the one it has, a free one, or the older one.
#[inline(always)]
fn claim(key: u64, now: u32) -> Option<*mut SavedSyn> {
    let [first, second] = SavedSyn::places(key);
    let first = SAVED_SYNS.get_ptr_mut(first)?;
    // SAFETY: the memory is the map's for good, here and below.
    if unsafe { (*first).key } == SavedSyn::FREE {
        return take(first, SavedSyn::FREE);
    }
    let second = SAVED_SYNS.get_ptr_mut(second)?;
    let worth = |entry: *mut SavedSyn| match unsafe { (*entry).key } {
        present if present == key => u32::MAX,
        SavedSyn::FREE => u32::MAX - 1,
        SavedSyn::CLAIMED => 0,
        _ => now.wrapping_sub(unsafe { (*entry).seen }),
    };
    let entry = if worth(second) > worth(first) { second } else { first };
    take(entry, unsafe { (*entry).key })
}

/// Claims a place whose key is still this one.
#[inline(always)]
fn take(entry: *mut SavedSyn, present: u64) -> Option<*mut SavedSyn> {
    // SAFETY: inside the map's memory, aligned.
    unsafe { atomic::exchange(&raw mut (*entry).key, present, SavedSyn::CLAIMED) }.then_some(entry)
}

#[inline(always)]
fn key(flow: &Flow, settings: &Settings) -> u64 {
    SavedSyn::key_of(flow.tuple().hash(settings.hash_seed))
}

/// Keeps the packet if it is the SYN that has just opened `work.flow`.
#[inline(always)]
pub fn save(frame: &impl Frame, work: &mut Work, now: u32) -> Step {
    if work.packet.opens() && matches!(work.target.names.direct, Outcome::ForwardNew) {
        return frame.keep(work, now);
    }
    Ok(())
}

#[inline(always)]
pub fn keep<F: Frame>(frame: &F, work: &Work, settings: &Settings, now: u32) {
    let Work { packet, flow, .. } = work;
    if settings.rescue_tries == 0 || !refuse::is_plain(packet) {
        return;
    }
    frame.pull(packet.transport_offset + (TCP_HEADER + OPTIONS * 4) as u32);
    let key = key(flow, settings);
    let Some(entry) = claim(key, now) else { return };
    // SAFETY: the memory is the map's for good; nobody else writes to an entry that is claimed.
    let complete = read_syn(frame, packet, unsafe { &mut *entry }).is_some();
    unsafe {
        (*entry).seen = now;
        (*entry).tried = [flow.backend, SavedSyn::NOBODY, SavedSyn::NOBODY, SavedSyn::NOBODY];
        (*entry).tries = 0;
        (*entry).silent = 0;
        (&raw mut (*entry).key).write_volatile(if complete { key } else { SavedSyn::FREE });
    }
}

/// Reads a SYN's headers.
#[inline(always)]
fn read_syn(frame: &impl Frame, packet: &Packet, syn: &mut SavedSyn) -> Option<()> {
    let at = packet.transport_offset as usize;
    let tcp = pointer::<TcpHeader>(frame, at)?;
    // SAFETY: `pointer` has checked the bounds; so below.
    let tcp = unsafe { &*tcp };
    (syn.sequence, syn.data_offset, syn.flags, syn.window) = (tcp.sequence, tcp.data_offset, tcp.flags, tcp.window);
    if packet.ipv6 {
        let ip = unsafe { &*pointer::<Ipv6Header>(frame, ETHERNET)? };
        (syn.label, syn.ttl, syn.service) = (ip.version_class_label, ip.hop_limit, 0);
    } else {
        let ip = unsafe { &*pointer::<Ipv4Header>(frame, ETHERNET)? };
        let ([a, b], [c, d]) = (ip.identification, ip.fragment);
        (syn.label, syn.ttl, syn.service) = ([a, b, c, d], ip.ttl, ip.service);
    }
    let length = syn.options_length();
    let transport = packet.length.wrapping_sub((at - ETHERNET) as u32);
    if syn.data_offset < 5 << 4 || transport < TCP_HEADER as u32 + length {
        return None;
    }
    syn.has_data = (transport > TCP_HEADER as u32 + length) as u8;
    for word in 0..OPTIONS {
        syn.options[word] = 0;
        if (word as u32) * 4 < length {
            let from = pointer::<[u8; 4]>(frame, at + TCP_HEADER + word * 4)?;
            syn.options[word] = unsafe { read_32::<0>(from.cast()) };
        }
    }
    Some(())
}

/// The first packet of a backend that is no refusal: it is there, and has the flow for good.
#[inline(never)]
pub fn answered(found: &Found, settings: &Settings) {
    let flow = found.flow();
    if flow.protocol == TCP {
        if let Some(entry) = saved(key(flow, settings)) {
            // SAFETY: inside the map's memory.
            unsafe { (&raw mut (*entry).key).write_volatile(SavedSyn::FREE) };
        }
    } else if let Some(backend) = BACKENDS.get_ptr_mut(found.backend) {
        // SAFETY: as above.
        unsafe { (&raw mut (*backend).ejected_until).write_volatile(0) };
    }
}

// ---------------------------------------------------------------- another backend

/// Another backend for `work.flow`: none of `work.tried`, or else one of those that said nothing, as it may have been the
/// network. None that is kept out of the choice.
#[inline(never)]
pub fn another(work: &Work, settings: &Settings, now: u32) -> u32 {
    let Work { flow, frontend, tried, silent, .. } = work;
    let hash = balance::pick_hash(&flow.tuple(), frontend, settings.hash_seed);
    if frontend.table_size == 0 {
        return SavedSyn::NOBODY;
    }
    for step in 0..STEPS + MEMBERS {
        let Some(slot) = balance::candidate(frontend, hash as u32, step, STEPS) else { break };
        if slot == tried[0] || slot == tried[1] || slot == tried[2] || slot == tried[3] {
            continue;
        }
        if serves(slot, now) {
            return slot;
        }
    }
    let place = silent.trailing_zeros() as usize % TRIED;
    let slot = tried[place];
    // It may be another service's by now.
    let is_ours = |backend: &Backend| backend.frontend == frontend_key(flow);
    let fits = *silent != 0 && slot != flow.backend && BACKENDS.get(slot).is_some_and(is_ours);
    if fits && serves(slot, now) { slot } else { SavedSyn::NOBODY }
}

/// The key of the frontend of a flow.
#[inline(always)]
fn frontend_key(flow: &Flow) -> FrontendKey {
    FrontendKey { address: flow.vip, port: flow.vip_port, protocol: flow.protocol, pad: [0; 5] }
}

/// Whether the backend in this slot may have one more flow.
#[inline(always)]
fn serves(slot: u32, now: u32) -> bool {
    match BACKENDS.get(slot) {
        Some(backend) => {
            backend.state == backend_state::ACTIVE && backend.share != 0 && !datagram::is_out(backend, now)
        }
        None => false,
    }
}

/// The flow in `work.flow` has been at no other backend than it is at now.
#[inline(always)]
pub fn only_this_one(work: &mut Work) {
    work.tried = [work.flow.backend, SavedSyn::NOBODY, SavedSyn::NOBODY, SavedSyn::NOBODY];
    work.silent = 0;
}

/// The record of the flow as it is now, into `work.flow`.
#[inline(always)]
fn recall(work: &mut Work) {
    if let Some(found) = work.found.found() {
        work.flow = *found.flow();
    }
}

/// Adds bits to the state of the flow's record.
#[inline(always)]
fn note(work: &Work, bits: u8) {
    if let Some(found) = work.found.found() {
        found.note(bits);
    }
}

/// The same of bits that may end it.
#[inline(always)]
fn note_end(work: &Work, bits: u8) {
    if let Some(found) = work.found.found() {
        found.note_end(bits);
    }
}

/// The frontend of `work.flow`, into `work.frontend`.
#[inline(always)]
pub fn find_frontend(work: &mut Work) -> bool {
    let Work { flow, frontend, .. } = work;
    // SAFETY: user space replaces entries as a whole.
    match unsafe { FRONTENDS.get(frontend_key(flow)) } {
        Some(found) => {
            *frontend = *found;
            true
        }
        None => false,
    }
}

/// Moves the flow in the table from the backend in `work.flow`, which failed it as `why` says, to another one, and tells in
/// `work.target` how its client's packets get there. `false`: there is no other, and nothing has changed.
#[inline(always)]
pub fn move_on(work: &mut Work, settings: &Settings, why: u8, now: u32) -> bool {
    if !find_frontend(work) {
        return false;
    }
    let slot = another(work, settings, now);
    if slot == SavedSyn::NOBODY || !remember(work, slot, settings, why, now) {
        return false;
    }
    if work.rewrites_source {
        let hash = work.flow.tuple().hash(settings.hash_seed) as u32;
        if !source::choose(work, settings, hash, now) {
            return false;
        }
    } else if steps::is_taken(work, now) {
        return false;
    }
    match work.found.found() {
        Some(found) => flows::replace(&found, &work.flow, &work.reply, settings).is_some() && balance::aim(work),
        None => false,
    }
}

/// Remembers which backend the flow in `work.flow` had, and gives it the one of this slot.
#[inline(never)]
fn remember(work: &mut Work, slot: u32, settings: &Settings, why: u8, now: u32) -> bool {
    let Work { packet, flow, reply, frontend, rewrites_source, .. } = work;
    let Some(backend) = BACKENDS.get(slot) else { return false };
    let Some(key) = flows::reply_key(flow) else { return false };
    (flow.state, flow.last_seen) = (flow.state & !Flow::ANSWERED | why, now);
    let _ = FORMER.insert(key.reply_hash(settings.hash_seed), &*flow, 0);
    packet.tuple = flow.tuple();
    *reply = balance::reply_tuple(packet, backend);
    *rewrites_source = balance::rewrites_source(frontend, backend, &flow.client);
    flow.flags = balance::flow_flags(backend, *rewrites_source, flow.flags & Flow::FROM_HOST != 0);
    (flow.backend, flow.generation, flow.state) = (slot, backend.generation, 0);
    (flow.client_seen, flow.source_port, flow.source) = (now, [0; 2], 0);
    true
}

/// Remembers the backend of a flow that is about to be another one's, because it serves no longer, and has not answered.
#[inline(never)]
pub fn leave_behind(found: &Found, settings: &Settings, now: u32) {
    let flow = found.flow();
    let Some(key) = flows::reply_key(flow) else { return };
    found.note(Flow::RETRIED);
    flow.last_seen = now;
    let _ = FORMER.insert(key.reply_hash(settings.hash_seed), &*flow, 0);
}

// ---------------------------------------------------------------- refused and unanswered SYNs

/// A reset from a backend that has not answered yet. `work.packet` is the reset, `work.found` its flow. `Ok`: what the frame is
/// now goes to `work.target`; if that is still the reset, its names are not those of a SYN.
#[inline(always)]
pub fn refused<F: Frame>(frame: &F, work: &mut Work, settings: &Settings, now: u32) -> Result<(), Outcome> {
    judge(frame, work, settings)?;
    if matches!(work.target.names.direct, Outcome::RescuedSyn) {
        if move_on(work, settings, Flow::REFUSED | Flow::RESET, now) {
            return become_syn(frame, work, settings);
        }
        exhausted(work);
    }
    Ok(())
}

/// No backend is left for the flow whose reset this is.
#[inline(never)]
fn exhausted(work: &mut Work) {
    recall(work);
    if let Some(tuple) = flows::reply_key(&work.flow) {
        work.packet.tuple = tuple;
    }
    finally(work, EXHAUSTED);
}

/// Nothing can be done about a reset: it goes to the client by these names.
#[inline(always)]
fn finally(work: &mut Work, names: Names) {
    note_end(work, Flow::RESET | Flow::REFUSED);
    maps::refuse(work.frontend.number, names.stack);
    let direct = work.flow.flags & Backend::DIRECT != 0;
    work.target = send::Target { ends: balance::restored(&work.flow), direct, names };
}

/// Judges a reset. Where it is to become a SYN again, the names in `work.target` say so, and `work.tried` who had it.
#[inline(never)]
fn judge<F: Frame>(frame: &F, work: &mut Work, settings: &Settings) -> Result<(), Outcome> {
    recall(work);
    traffic::count(work.found.backend, work.packet.frame_length, false);
    let direct = work.flow.flags & Backend::DIRECT != 0;
    work.target = send::Target { ends: balance::restored(&work.flow), direct, names: balance::reply_names(&work.flow) };
    // Whatever does not answer the SYN goes to the client, which knows what it is worth.
    let Some(acknowledged) = acknowledged(frame, &work.packet, &work.flow) else { return Ok(()) };
    let isn = work.flow.initial_sequence;
    let entry = match saved(key(&work.flow, settings)) {
        // SAFETY: the memory is the map's for good; so below.
        Some(entry) if unsafe { (*entry).sequence } == isn && find_frontend(work) => entry,
        _ => {
            // Of a SYN that was not kept, or of what came in the midst of a connection.
            if acknowledged == 1 || isn == [0; 4] {
                note_end(work, Flow::RESET | Flow::REFUSED);
            }
            return Ok(());
        }
    };
    let syn = unsafe { &*entry };
    // Data on the SYN is acknowledged too, or not.
    if acknowledged != 1 && (syn.has_data == 0 || acknowledged == 0 || acknowledged > 0xffff) {
        return Ok(());
    }
    let tries = syn.tries;
    if syn.has_data != 0 {
        finally(work, EXCLUDED);
        return Ok(());
    }
    if tries >= settings.rescue_tries as u32 || !refuse::is_plain(&work.packet) {
        finally(work, EXHAUSTED);
        return Ok(());
    }
    // Of two resets that are dealt with at once, one goes on.
    // SAFETY: inside the map's memory, aligned.
    if !unsafe { atomic::exchange(&raw mut (*entry).tries, tries, tries + 1) } {
        return Err(Outcome::DropLateReset);
    }
    (work.tried, work.silent) = (syn.tried, syn.silent);
    work.target.names = RESCUED;
    Ok(())
}

/// How many sequence numbers of the client a reset acknowledges, from its SYN on; of one without an acknowledgement, none
/// unless nobody knows where the client began.
#[inline(always)]
fn acknowledged(frame: &impl Frame, packet: &Packet, flow: &Flow) -> Option<u32> {
    let tcp = pointer::<TcpHeader>(frame, packet.transport_offset as usize)?;
    if packet.flags & tcp_flags::ACK == 0 && flow.initial_sequence != [0; 4] {
        return None;
    }
    // SAFETY: `pointer` has checked the bounds.
    let acknowledgement = unsafe { (*tcp).acknowledgement };
    Some(u32::from_be_bytes(acknowledgement).wrapping_sub(u32::from_be_bytes(flow.initial_sequence)))
}

/// Notes which backend has the SYN now.
#[inline(always)]
fn note_tried(entry: *mut SavedSyn, slot: u32) {
    // SAFETY: inside the map's memory.
    unsafe {
        let place = (*entry).tries % TRIED as u32;
        (&raw mut (*entry).tried).cast::<u32>().add(place as usize).write_volatile(slot);
        (*entry).silent &= !(1 << place);
    }
}

/// Makes the frame the SYN that the client of `work.flow` sent, and reads it into `work.packet`.
#[inline(never)]
fn become_syn<F: Frame>(frame: &F, work: &mut Work, settings: &Settings) -> Result<(), Outcome> {
    let key = key(&work.flow, settings);
    let Some(entry) = saved(key) else { return Err(Outcome::DropRewrite) };
    // SAFETY: the memory is the map's for good.
    let syn = unsafe { &*entry };
    note_tried(entry, work.flow.backend);
    work.target.names = RESCUED;
    // Another CPU may have put another SYN there meanwhile.
    if !write_syn(frame, work, syn) || unsafe { (&raw const (*entry).key).read_volatile() } != key {
        return Err(Outcome::DropRewrite);
    }
    traffic::count(work.flow.backend, work.packet.frame_length, true);
    Ok(())
}

#[inline(always)]
fn write_syn(frame: &impl Frame, work: &mut Work, syn: &SavedSyn) -> bool {
    let Work { packet, flow, .. } = work;
    let at = packet.transport_offset as usize;
    let options = syn.options_length() & 0x3c;
    let segment = TCP_HEADER as u32 + options;
    let partial = frame.is_checksum_partial(at as u32 + 16);
    if !frame.resize(at as u32 + segment) {
        return false;
    }
    frame.pull(at as u32 + segment);
    for word in 0..OPTIONS {
        if word as u32 * 4 < options {
            let Some(to) = pointer::<[u8; 4]>(frame, at + TCP_HEADER + word * 4) else { return false };
            // SAFETY: `pointer` has checked the bounds; so below.
            unsafe { write_32::<0>(to.cast(), syn.options[word]) };
        }
    }
    let Some(tcp) = pointer::<TcpHeader>(frame, at) else { return false };
    let tcp = unsafe { &mut *tcp };
    *tcp = TcpHeader {
        source_port: flow.client_port,
        destination_port: flow.vip_port,
        sequence: syn.sequence,
        acknowledgement: [0; 4],
        data_offset: syn.data_offset,
        flags: syn.flags,
        window: syn.window,
        checksum: [0; 2],
        urgent: [0; 2],
    };
    packet.tuple = flow.tuple();
    let pseudo = refuse::pseudo_header(packet, segment as u16, TCP);
    tcp.checksum = if partial {
        checksum::fold(pseudo).to_ne_bytes()
    } else {
        let options = (&raw const syn.options).cast_mut();
        (!checksum::fold(pseudo + checksum::sum_of(tcp) + checksum::sum_of(options))).to_ne_bytes()
    };
    let ether_type = if packet.ipv6 {
        let Some(ip) = pointer::<Ipv6Header>(frame, ETHERNET) else { return false };
        unsafe {
            *ip = Ipv6Header {
                version_class_label: syn.label,
                payload_length: (segment as u16).to_be_bytes(),
                next_header: TCP,
                hop_limit: syn.ttl,
                source: flow.client.0,
                destination: flow.vip.0,
            };
        }
        packet::ETHER_TYPE_IPV6
    } else {
        let Some(ip) = pointer::<Ipv4Header>(frame, ETHERNET) else { return false };
        let ip = unsafe { &mut *ip };
        let [a, b, c, d] = syn.label;
        *ip = Ipv4Header {
            version_and_length: 0x45,
            service: syn.service,
            total_length: (segment as u16 + IPV4 as u16).to_be_bytes(),
            identification: [a, b],
            fragment: [c, d],
            ttl: syn.ttl,
            protocol: TCP,
            checksum: [0; 2],
            source: flow.client.low(),
            destination: flow.vip.low(),
        };
        ip.checksum = (!checksum::fold(checksum::sum_of(ip))).to_ne_bytes();
        packet::ETHER_TYPE_IPV4
    };
    packet::parse(frame, ether_type, packet).is_some()
}

/// Sends a frame on to `work.target` that was leaving. What is to take the kernel's way arrives anew: its firewall sees the
/// whole way of a packet from the client to the backend.
#[inline(always)]
pub fn depart(frame: &impl Frame, work: &mut Work, now: u32) -> Outcome {
    let direct = work.target.names.direct;
    let Err(outcome) = frame.forward(work, now) else { return Outcome::DropRewrite };
    if !matches!(outcome.verdict(), Verdict::Pass) {
        return outcome;
    }
    let Some(macs) = pointer::<[[u8; 6]; 2]>(frame, 0) else { return Outcome::DropRewrite };
    // SAFETY: `pointer` has checked the bounds.
    let macs = unsafe { &mut *macs };
    *macs = [maps::interface(frame.interface()).mac, macs[0]];
    frame.receive();
    direct
}

/// A SYN that the client sends again, because its backend has not answered. `work.found` is its flow.
#[inline(always)]
pub fn repick(work: &mut Work, settings: &Settings, now: u32) -> Result<(), Outcome> {
    let moved = ask_others(work, settings) && move_on(work, settings, Flow::RETRIED, now);
    asked(work, moved, settings)
}

/// Who is not to be asked again by a SYN that comes again: all that have been, or, once there is no room for more, the last.
/// `false`: nobody else is, for the backend may have the data that came with the first.
#[inline(never)]
fn ask_others(work: &mut Work, settings: &Settings) -> bool {
    recall(work);
    only_this_one(work);
    let Some(entry) = saved(key(&work.flow, settings)) else { return true };
    // SAFETY: the memory is the map's for good.
    let entry = unsafe { &mut *entry };
    if entry.sequence != work.flow.initial_sequence {
        // Of an earlier connection between these ends.
        return true;
    }
    if entry.has_data != 0 {
        return false;
    }
    entry.silent |= 1 << (entry.tries % TRIED as u32);
    entry.tries = entry.tries.wrapping_add(1);
    if entry.tries >= TRIED as u32 {
        (entry.tries, entry.tried, entry.silent) = (1, work.tried, 1);
    }
    (work.tried, work.silent) = (entry.tried, entry.silent);
    true
}

/// Says where a SYN goes that came again.
#[inline(never)]
fn asked(work: &mut Work, moved: bool, settings: &Settings) -> Result<(), Outcome> {
    if moved {
        if let Some(entry) = saved(key(&work.flow, settings)) {
            note_tried(entry, work.flow.backend);
        }
        work.target.names = REPICKED;
    } else {
        recall(work);
        note(work, Flow::RETRIED);
        if !balance::aim(work) {
            return Err(Outcome::DropSourcePorts);
        }
        work.target.names = FORWARD_FLOW;
    }
    traffic::count(work.flow.backend, work.packet.frame_length, true);
    Ok(())
}

// ---------------------------------------------------------------- what comes too late

/// Whether a TCP packet that belongs to no flow comes from a backend that one has left. What belongs to the kernel is told
/// where it leaves.
#[inline(always)]
pub fn is_late(packet: &Packet, settings: &Settings, now: u32, hook: Hook) -> bool {
    let answers = packet.flags & (tcp_flags::SYN | tcp_flags::RST) != 0 && !packet.opens();
    answers && packet.transport == Transport::Tcp && is_of_former(packet, settings, now, hook)
}

#[inline(never)]
fn is_of_former(packet: &Packet, settings: &Settings, now: u32, hook: Hook) -> bool {
    // SAFETY: an entry that is replaced meanwhile is another flow's.
    let Some(former) = (unsafe { FORMER.get(packet.tuple.reply_hash(settings.hash_seed)) }) else { return false };
    let is_ours = hook == Hook::Leaving || former.flags & Backend::DIRECT != 0 || former.source_port != [0; 2];
    is_ours && former.protocol == TCP && now.wrapping_sub(former.last_seen) < ticks::TCP_OPENING
}

/// A packet that [`is_late`]: a reset is dropped, and who accepts the connection that has gone elsewhere is reset. Whatever
/// does not answer that flow's SYN passes. `Ok`: the frame is the reset now, and goes to `work.target`.
#[inline(never)]
pub fn late<F: Frame>(frame: &F, work: &mut Work, settings: &Settings, hook: Hook) -> Result<(), Outcome> {
    let passes = if hook == Hook::Leaving { Outcome::PassEgress } else { Outcome::PassNotVip };
    // SAFETY: as above.
    let Some(former) = (unsafe { FORMER.get(work.packet.tuple.reply_hash(settings.hash_seed)) }) else {
        return Err(passes);
    };
    let direct = former.flags & Backend::DIRECT != 0;
    if acknowledged(frame, &work.packet, former) != Some(1) {
        return Err(passes);
    }
    if work.packet.flags & tcp_flags::RST != 0 {
        return Err(Outcome::DropLateReset);
    }
    if work.packet.flags & tcp_flags::SYN == 0 {
        return Err(passes);
    }
    if !refuse::is_plain(&work.packet) || !refuse::reset(frame, &work.packet) {
        return Err(Outcome::DropRewrite);
    }
    if hook == Hook::Arriving {
        return Err(if refuse::send_back(frame) { Outcome::ResetLateAnswer } else { Outcome::DropRewrite });
    }
    let ether_type = if work.packet.ipv6 { packet::ETHER_TYPE_IPV6 } else { packet::ETHER_TYPE_IPV4 };
    if packet::parse(frame, ether_type, &mut work.packet).is_none() {
        return Err(Outcome::DropRewrite);
    }
    let names = Names { direct: Outcome::ResetLateAnswer, stack: Outcome::ReplyRestored, untouched: false };
    work.target = send::Target { ends: Ends::of(&work.packet), direct, names };
    Ok(())
}
