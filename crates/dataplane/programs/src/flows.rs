//! The flow table: finding records and making them. How they lie in memory is told in `evenkeel_maps::flow`.

use core::arch::asm;

use evenkeel_maps::{
    Backend, Flow, FlowBucket, Outcome, Place, REPLY_BUCKETS_PER_FLOW_BUCKET, ReplyBucket, Settings, TCP, Tuple, WAYS,
    place, ticks,
};

use crate::{
    atomic, limits,
    maps::{BACKENDS, FLOWS, REPLIES, SOURCE_ADDRESSES, VICTIM},
};

/// Ways of the first bucket that are used before the second one is looked at: most flows are then found by one look.
const COMFORTABLE: u32 = 12;
/// A flow that nobody waits for and that has rested for so long is given up for a new one without a look at others, each of
/// which would read a line that no cache holds. By then a client has sent its SYN three times.
const RESTED: u32 = 3 * ticks::SECOND;

/// A record that matched, and what it said at that moment.
///
/// Another CPU may give the record away at any time; what it says is a copy that was checked to belong together.
#[derive(Clone, Copy)]
pub struct Found {
    record: *mut Flow,
    /// Bucket times [`WAYS`] plus way.
    number: u32,
    pub backend: u32,
    pub generation: u32,
}

impl Found {
    /// Memory for what is to be found. Functions fill it and say whether they did; an `Option` would not do, because the
    /// compiler may make its empty variant of registers that were never written, which the verifier refuses.
    pub const NOTHING: Self = Self { record: core::ptr::null_mut(), number: 0, backend: 0, generation: 0 };

    /// What finds the same record again: pointers do not survive where they are kept.
    #[inline(always)]
    pub fn noted(&self) -> Noted {
        Noted { number: self.number, backend: self.backend, generation: self.generation }
    }

    /// The record. What is written to it may meet another flow's, which costs that flow at most a moment of its lifetime.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the memory is shared with every other CPU in any case")]
    pub fn flow(&self) -> &mut Flow {
        // SAFETY: the memory is the map's for good, and every bit pattern is a flow.
        unsafe { &mut *self.record }
    }

    /// Notes when the client was heard of, now and then.
    #[inline(always)]
    pub fn note_client(&self, now: u32) {
        let flow = self.flow();
        if now.wrapping_sub(flow.client_seen) >= ticks::REFRESH {
            flow.last_seen = now;
            flow.client_seen = now;
        }
    }

    /// Adds bits to the flow's state.
    #[inline(always)]
    pub fn note(&self, bits: u8) {
        let flow = self.flow();
        if flow.state & bits == bits {
            return;
        }
        // Protocol, state, flags and datagrams are one word.
        // SAFETY: as above, and the word is aligned.
        unsafe { atomic::set_bits((&raw mut flow.protocol).cast(), u32::from_ne_bytes([0, bits, 0, 0])) };
    }

    /// The same of bits that may end the flow: what has ended does not count against a limit any more.
    #[inline(always)]
    pub fn note_end(&self, bits: u8) {
        const ENDS: u8 = Flow::FIN_CLIENT | Flow::FIN_BACKEND | Flow::RESET;
        if bits & ENDS != 0 && self.flow().flags & Backend::LIMITED != 0 {
            limits::note_end(self, bits);
        } else {
            self.note(bits);
        }
    }

    /// Takes bits away from the flow's state.
    #[inline(always)]
    pub fn take_back(&self, bits: u8) {
        // SAFETY: as above.
        unsafe {
            atomic::clear_bits((&raw mut self.flow().protocol).cast(), u32::from_ne_bytes([0, bits, 0, 0]));
        }
    }
}

/// A record that was found, noted for a later step of the same run.
#[derive(Clone, Copy)]
pub struct Noted {
    number: u32,
    pub backend: u32,
    generation: u32,
}

impl Noted {
    /// The record again.
    #[inline(always)]
    pub fn found(&self) -> Option<Found> {
        let bucket = FLOWS.get_ptr_mut(self.number / WAYS as u32)?;
        let record = record(bucket, self.number % WAYS as u32);
        Some(Found { record, number: self.number, backend: self.backend, generation: self.generation })
    }
}

#[inline(always)]
fn matches(flow: &Flow, key: &Tuple) -> bool {
    let (client, vip) = (flow.client.halves(), flow.vip.halves());
    let (other_client, other_vip) = (key.source.halves(), key.destination.halves());
    // The lower halves first: those of IPv4 addresses differ only there.
    client[1] == other_client[1]
        && vip[1] == other_vip[1]
        && flow.client_port == key.source_port
        && flow.vip_port == key.destination_port
        && flow.protocol == key.protocol
        && client[0] == other_client[0]
        && vip[0] == other_vip[0]
}

/// Reads what is needed of a record that seems to match, and looks whether it still does: a writer invalidates the protocol
/// first.
#[inline(always)]
fn read(record: *mut Flow, number: u32, key: &Tuple, found: &mut Found) -> bool {
    // SAFETY: the memory is the map's for good; volatile, because other CPUs write to it.
    let flow = unsafe { &*record };
    if !matches(flow, key) {
        return false;
    }
    let (backend, generation) =
        unsafe { ((&raw const flow.backend).read_volatile(), (&raw const flow.generation).read_volatile()) };
    if unsafe { (&raw const flow.protocol).read_volatile() } != key.protocol {
        return false;
    }
    *found = Found { record, number, backend, generation };
    true
}

/// The flow with this key.
#[inline(always)]
pub fn find(key: &Tuple, settings: &Settings, hash: u64, found: &mut Found) -> bool {
    find_at_hand(key, settings, hash, found) || find_elsewhere(key, &place(hash, settings.flow_buckets), found)
}

/// The flow with this key, if it lies where the hash points to, as most do: one cache line, and no look at the tags.
#[inline(always)]
fn find_at_hand(key: &Tuple, settings: &Settings, hash: u64, found: &mut Found) -> bool {
    let place = place(hash, settings.flow_buckets);
    let Some(bucket) = FLOWS.get_ptr_mut(place.first) else { return false };
    read(record(bucket, place.way), place.first * WAYS as u32 + place.way, key, found)
}

/// The flow with this key, if it lies in its first bucket.
#[inline(always)]
pub fn find_nearby(key: &Tuple, settings: &Settings, hash: u64, found: &mut Found) -> bool {
    let place = place(hash, settings.flow_buckets);
    find_at_hand(key, settings, hash, found) || read_tagged(key, place.tag, place.first, found)
}

/// Looks where the tags lead. What is found is written to the caller's memory: a function cannot return that much.
#[inline(never)]
fn find_elsewhere(key: &Tuple, place: &Place, found: &mut Found) -> bool {
    read_tagged(key, place.tag, place.first, found) || read_tagged(key, place.tag, place.second, found)
}

#[inline(always)]
fn read_tagged(key: &Tuple, tag: u32, index: u32, found: &mut Found) -> bool {
    let Some(bucket) = FLOWS.get_ptr_mut(index) else { return false };
    match way_of(bucket, tag) {
        NONE => false,
        way => read(record(bucket, way), index * WAYS as u32 + way, key, found),
    }
}

#[inline(always)]
fn record(bucket: *mut FlowBucket, way: u32) -> *mut Flow {
    // SAFETY: inside the bucket.
    unsafe { (&raw mut (*bucket).flows).cast::<Flow>().add((way & (WAYS as u32 - 1)) as usize) }
}

#[inline(always)]
fn tag_of(bucket: *mut FlowBucket, way: u32) -> *mut u32 {
    // SAFETY: inside the bucket.
    unsafe { (&raw mut (*bucket).tags).cast::<u32>().add((way & (WAYS as u32 - 1)) as usize) }
}

/// One bit, the lowest, if `word` is not zero. Without a branch: the verifier would follow both ways at each of a bucket's
/// entries, and each way's ways again. The compiler would make a branch of it, if it saw what is computed.
#[inline(always)]
fn is_set(word: u32) -> u32 {
    let mut bit = word as u64;
    // SAFETY: arithmetic on a register. What is not zero is below zero when negated, and then has its uppermost bit set.
    unsafe { asm!("{0} = -{0}", "{0} >>= 63", inout(reg) bit, options(pure, nomem, nostack)) };
    bit as u32
}

/// The number of the lowest bit that is set; any number if there is none.
#[inline(always)]
fn lowest(mask: u32) -> u32 {
    let below = (mask & mask.wrapping_neg()).wrapping_sub(1) & 0xffff;
    ones(below)
}

/// How many of the lower sixteen bits are set.
#[inline(always)]
fn ones(bits: u32) -> u32 {
    let bits = bits - (bits >> 1 & 0x5555);
    let bits = (bits & 0x3333) + (bits >> 2 & 0x3333);
    let bits = (bits + (bits >> 4)) & 0x0f0f;
    (bits + (bits >> 8)) & 0x1f
}

/// The way with this tag. Two records of one bucket have the same tag once in 2^31; then one of them is not found, and its
/// flow is taken for a new one.
#[inline(always)]
fn way_of(bucket: *mut FlowBucket, tag: u32) -> u32 {
    let mut found = 0;
    for way in 0..WAYS as u32 {
        found |= (is_set(unsafe { *tag_of(bucket, way) } ^ tag) ^ 1) << way;
    }
    if found == 0 { NONE } else { lowest(found) }
}

/// No way, and no record: more than there can be.
const NONE: u32 = u32::MAX;

/// Takes a way of one of the key's two buckets: a free one, else one whose flow is over or has rested for long, else the oldest
/// that is not established. Returns the number of its record; [`NONE`]: all are established flows, which are not given up.
#[inline(always)]
fn claim(place: &Place, now: u32) -> u32 {
    let (free, used) = free_way(place.first, place.way);
    if used <= COMFORTABLE {
        let number = take_free(place.first, free);
        if number != NONE {
            return number;
        }
    }
    let (free_in_second, used_in_second) = free_way(place.second, place.way);
    let (emptier, way) = if used_in_second < used { (place.second, free_in_second) } else { (place.first, free) };
    let number = take_free(emptier, way);
    if number != NONE {
        return number;
    }
    let number = evict(place.first, place.way, now);
    if number != NONE { number } else { evict(place.second, place.way, now) }
}

/// A free way of a bucket, the preferred one if it is, and how many are taken.
#[inline(always)]
fn free_way(index: u32, preferred: u32) -> (u32, u32) {
    let taken = taken_ways(index);
    let free = if taken >> (preferred & 15) & 1 == 0 { preferred } else { lowest(!taken) };
    (free, ones(taken))
}

/// The ways of a bucket that are taken, one bit each.
#[inline(never)]
fn taken_ways(index: u32) -> u32 {
    let Some(bucket) = FLOWS.get_ptr_mut(index) else { return (1 << WAYS) - 1 };
    let mut taken = 0;
    for way in 0..WAYS as u32 {
        taken |= is_set(unsafe { *tag_of(bucket, way) }) << way;
    }
    taken
}

#[inline(always)]
fn take_free(index: u32, way: u32) -> u32 {
    match FLOWS.get_ptr_mut(index) {
        Some(bucket) if take(bucket, way, FlowBucket::FREE) => index * WAYS as u32 + (way & (WAYS as u32 - 1)),
        _ => NONE,
    }
}

#[inline(always)]
fn take(bucket: *mut FlowBucket, way: u32, tag: u32) -> bool {
    // SAFETY: inside the map's memory, aligned.
    unsafe { atomic::exchange(tag_of(bucket, way), tag, FlowBucket::CLAIMED) }
}

/// Claims the way, from `first` on, whose record is worth least, or the first that is worth little, and returns the record's
/// number, or [`NONE`]. Its entry in the reply index goes with it.
#[inline(never)]
fn evict(index: u32, first: u32, now: u32) -> u32 {
    // The worst way so far and its score, where the verifier does not follow what they could be.
    let (Some(bucket), Some(worst)) = (FLOWS.get_ptr_mut(index), VICTIM.get_ptr_mut(0)) else { return NONE };
    // SAFETY: the map is per CPU; the other memory is that of `find`.
    unsafe {
        worst.write_volatile([0; 2]);
        // Counted before the body, and so that the compiler leaves it there: at the end it would run into the loop's head from
        // behind without a jump, which kernels before 6.8 refuse (`loader/tests/old_verifier.rs`).
        let mut step = 0;
        while step < WAYS as u32 {
            let way = (first + step) & (WAYS as u32 - 1);
            step = crate::word::unknown(step + 1);
            let flow = &*record(bucket, way);
            let score = worthlessness(flow, now);
            if score > (*worst)[1] && *tag_of(bucket, way) > FlowBucket::CLAIMED {
                worst.write_volatile([way, score]);
                if score > RESTED && !is_handshake(flow) {
                    break;
                }
            }
        }
        let [way, score] = worst.read_volatile();
        let way = way & (WAYS as u32 - 1);
        let tag = *tag_of(bucket, way);
        if score == 0 || tag <= FlowBucket::CLAIMED || !take(bucket, way, tag) {
            return NONE;
        }
        forget_reply(&*record(bucket, way), index * WAYS as u32 + way);
        index * WAYS as u32 + way
    }
}

/// Whether a backend has answered, and waits for what its client says to that.
#[inline(always)]
fn is_handshake(flow: &Flow) -> bool {
    flow.protocol == TCP && flow.state & Flow::ANSWERED != 0 && !flow.is_closed()
}

/// How readily a record is given away; zero: not at all. What is over comes before what is not; among each, what has been
/// quiet for longest.
#[inline(always)]
fn worthlessness(flow: &Flow, now: u32) -> u32 {
    let quiet = flow.quiet(now);
    if quiet > flow.timeout() {
        1 << 31 | quiet
    } else if flow.is_established() {
        0
    } else {
        quiet + 1
    }
}

/// What the backend's packets of a flow look like.
#[inline(always)]
pub fn reply_key(flow: &Flow) -> Option<Tuple> {
    let backend = BACKENDS.get(flow.backend)?;
    let rewritten = flow.source_port != [0; 2];
    let client = if rewritten { *SOURCE_ADDRESSES.get(flow.source as u32)? } else { flow.client };
    Some(Tuple {
        source: backend.address,
        destination: client,
        source_port: backend.port,
        destination_port: if rewritten { flow.source_port } else { flow.client_port },
        protocol: flow.protocol,
        pad: [0; 3],
    })
}

#[inline(always)]
fn reply_place(key: &Tuple, settings: &Settings) -> Place {
    place(key.reply_hash(settings.hash_seed), settings.flow_buckets * REPLY_BUCKETS_PER_FLOW_BUCKET as u32)
}

#[inline(never)]
fn forget_reply(flow: &Flow, number: u32) {
    let (Some(settings), Some(key)) = (crate::maps::SETTINGS.get(0), reply_key(flow)) else { return };
    forget_entry(&key, number, settings);
}

/// Removes a record's entry of the reply index.
#[inline(always)]
fn forget_entry(key: &Tuple, number: u32, settings: &Settings) {
    let place = reply_place(key, settings);
    let entry = ReplyBucket::entry(place.tag, number);
    if !remove_entry(place.first, entry) {
        remove_entry(place.second, entry);
    }
}

#[inline(always)]
fn entry_of(bucket: *mut ReplyBucket, position: u32) -> *mut u64 {
    // SAFETY: inside the bucket.
    unsafe { (&raw mut (*bucket).entries).cast::<u64>().add((position & (ReplyBucket::ENTRIES as u32 - 1)) as usize) }
}

/// The positions of an entry in a bucket, one bit each.
#[inline(always)]
fn positions_of(bucket: *mut ReplyBucket, entry: u64) -> u32 {
    let mut found = 0;
    for position in 0..ReplyBucket::ENTRIES as u32 {
        // SAFETY: inside the map's memory.
        let difference = unsafe { *entry_of(bucket, position) } ^ entry;
        found |= (is_set(difference as u32 | (difference >> 32) as u32) ^ 1) << position;
    }
    found
}

/// Removes an entry of the reply index; whether it was in this bucket.
#[inline(never)]
fn remove_entry(index: u32, entry: u64) -> bool {
    let Some(bucket) = REPLIES.get_ptr_mut(index) else { return false };
    let found = positions_of(bucket, entry);
    // SAFETY: inside the map's memory, aligned.
    found != 0 && unsafe { atomic::exchange(entry_of(bucket, lowest(found)), entry, 0) }
}

/// The flow that a backend's packet belongs to.
#[inline(never)]
pub fn find_reply(key: &Tuple, settings: &Settings, found: &mut Found) -> bool {
    let place = reply_place(key, settings);
    find_reply_in(place.first, place.tag, key, found).is_some()
        || find_reply_in(place.second, place.tag, key, found).is_some()
}

#[inline(never)]
fn find_reply_in(index: u32, tag: u32, key: &Tuple, found: &mut Found) -> Option<()> {
    let bucket = REPLIES.get_ptr_mut(index)?;
    let mut tagged = 0;
    for position in 0..ReplyBucket::ENTRIES as u32 {
        // SAFETY: as above.
        let entry = unsafe { *entry_of(bucket, position) };
        tagged |= (is_set((entry >> 32) as u32 ^ tag) ^ 1) << position;
    }
    if tagged == 0 {
        return None;
    }
    if matches_entry(entry_of(bucket, lowest(tagged)), key, found).is_some() {
        return Some(());
    }
    // One that has lost its record, or of another flow with the same tag.
    let others = tagged & (tagged - 1);
    if others == 0 {
        return None;
    }
    matches_entry(entry_of(bucket, lowest(others)), key, found)
}

/// Whether an entry of the reply index leads to the flow that a backend's packet belongs to.
#[inline(never)]
fn matches_entry(entry: *const u64, key: &Tuple, found: &mut Found) -> Option<()> {
    let number = unsafe { *entry } as u32;
    let flow_bucket = FLOWS.get_ptr_mut(number / WAYS as u32)?;
    let record = record(flow_bucket, number % WAYS as u32);
    // SAFETY: as in `read`.
    let flow = unsafe { &*record };
    if flow.protocol != key.protocol {
        return None;
    }
    let (backend_slot, generation) =
        unsafe { ((&raw const flow.backend).read_volatile(), (&raw const flow.generation).read_volatile()) };
    let backend = BACKENDS.get(backend_slot)?;
    let rewritten = flow.source_port != [0; 2];
    let (port, client_matches) = if rewritten {
        (flow.source_port, *SOURCE_ADDRESSES.get(flow.source as u32)? == key.destination)
    } else {
        (flow.client_port, flow.client == key.destination)
    };
    let matches = backend.address == key.source
        && backend.port == key.source_port
        && backend.generation == generation
        && client_matches
        && port == key.destination_port;
    if !matches || unsafe { (&raw const flow.protocol).read_volatile() } != key.protocol {
        return None;
    }
    *found = Found { record, number, backend: backend_slot, generation };
    Some(())
}

/// Records a flow. `reply` is what its backend's packets look like.
///
/// `Err(DropFlowTable)`: there is no room that may be given away. `Err(DropTupleInUse)`: another processor has just recorded a
/// flow whose backend's packets look the same.
#[inline(never)]
pub fn insert(flow: &Flow, reply: &Tuple, settings: &Settings, hash: u64, now: u32) -> Result<(), Outcome> {
    let place = place(hash, settings.flow_buckets);
    let number = claim(&place, now);
    let Some(bucket) = FLOWS.get_ptr_mut(number / WAYS as u32) else { return Err(Outcome::DropFlowTable) };
    let way = number % WAYS as u32;
    let record = record(bucket, way);
    write(record, flow);
    let added = if !add_reply(reply, number, settings) {
        Err(Outcome::DropFlowTable)
    } else if is_found_as(reply, settings, number) {
        Ok(())
    } else {
        forget_entry(reply, number, settings);
        Err(Outcome::DropTupleInUse)
    };
    let tag = if added.is_ok() { place.tag } else { FlowBucket::FREE };
    // SAFETY: inside the map's memory; this way is ours until the tag is written.
    unsafe {
        if added.is_err() {
            (&raw mut (*record).protocol).write_volatile(0);
        }
        tag_of(bucket, way).write_volatile(tag);
    }
    added
}

/// Whether a backend's packet leads to this record: of two that processors add at the same time, to one of them.
#[inline(always)]
fn is_found_as(reply: &Tuple, settings: &Settings, number: u32) -> bool {
    let mut found = Found::NOTHING;
    find_reply(reply, settings, &mut found) && found.number == number
}

/// Removes a flow that was found by its reply tuple.
#[inline(always)]
pub fn remove(found: &Found, key: &Tuple, settings: &Settings) {
    let Some(bucket) = FLOWS.get_ptr_mut(found.number / WAYS as u32) else { return };
    let way = found.number % WAYS as u32;
    let tag = unsafe { *tag_of(bucket, way) };
    if tag <= FlowBucket::CLAIMED || !take(bucket, way, tag) {
        return;
    }
    forget_entry(key, found.number, settings);
    // SAFETY: inside the map's memory; this way is ours until the tag is written.
    unsafe {
        (&raw mut (*record(bucket, way)).protocol).write_volatile(0);
        tag_of(bucket, way).write_volatile(FlowBucket::FREE);
    }
}

/// Moves a flow that is in the table to another backend; its record stays where it is. `None`: the reply index has no room for
/// that, and nothing has changed.
#[inline(never)]
pub fn replace(found: &Found, flow: &Flow, reply: &Tuple, settings: &Settings) -> Option<()> {
    // Until the record is written, no packet matches it by this entry.
    if !add_reply(reply, found.number, settings) {
        return None;
    }
    forget_reply(found.flow(), found.number);
    write(found.record, flow);
    Some(())
}

/// Writes a record that this CPU has claimed: invalid until it is complete.
#[inline(always)]
fn write(record: *mut Flow, flow: &Flow) {
    // SAFETY: inside the map's memory. Volatile, so that the order stays.
    unsafe {
        (&raw mut (*record).protocol).write_volatile(0);
        (*record).client = flow.client;
        (*record).vip = flow.vip;
        (*record).client_port = flow.client_port;
        (*record).vip_port = flow.vip_port;
        (*record).backend = flow.backend;
        (*record).generation = flow.generation;
        (*record).last_seen = flow.last_seen;
        (*record).client_seen = flow.client_seen;
        (*record).initial_sequence = flow.initial_sequence;
        (*record).source_port = flow.source_port;
        (*record).source = flow.source;
        let word = [flow.protocol, flow.state, flow.flags, flow.datagrams];
        (&raw mut (*record).protocol).cast::<u32>().write_volatile(u32::from_ne_bytes(word));
    }
}

/// Adds an entry to the reply index: to the first of its two buckets as long as that has room to spare, else to the emptier
/// one.
#[inline(never)]
fn add_reply(key: &Tuple, number: u32, settings: &Settings) -> bool {
    let place = reply_place(key, settings);
    let entry = ReplyBucket::entry(place.tag, number);
    let free = free_entries(place.first);
    if ones(free) >= SPARE {
        return add_entry(place.first, free, entry);
    }
    let free_in_second = free_entries(place.second);
    if ones(free_in_second) > ones(free) {
        return add_entry(place.second, free_in_second, entry);
    }
    add_entry(place.first, free, entry)
}

/// Free entries of a bucket that are enough to use it without a look at the other.
const SPARE: u32 = 4;

/// The free entries of a bucket, one bit each.
#[inline(never)]
fn free_entries(index: u32) -> u32 {
    match REPLIES.get_ptr_mut(index) {
        Some(bucket) => positions_of(bucket, 0),
        None => 0,
    }
}

#[inline(always)]
fn add_entry(index: u32, free: u32, entry: u64) -> bool {
    let Some(bucket) = REPLIES.get_ptr_mut(index) else { return false };
    // SAFETY: inside the map's memory, aligned.
    free != 0 && unsafe { atomic::exchange(entry_of(bucket, lowest(free)), 0, entry) }
}
