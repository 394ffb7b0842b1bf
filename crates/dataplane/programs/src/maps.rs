//! The maps, as the programs see them; their layouts are in `evenkeel-maps`.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray},
    helpers::bpf_ktime_get_ns,
    macros::btf_map,
};
use evenkeel_maps::{
    Address, Attendance, Backend, Claim, DEFAULT_FLOW_BUCKETS, FORMER_FLOWS, Flow, FlowBucket, FragmentKey,
    FragmentPorts, Frontend, FrontendKey, INTERFACE_ROWS, Interface, Limit, MAX_BACKENDS, MAX_FRAGMENTED,
    MAX_FRONTENDS, MAX_INTERFACES, MAX_SOURCE_RANGES, MAX_SOURCES, MAX_VIPS, NEXT_HOPS, NextHop, Outcome, Questions,
    REPLY_BUCKETS_PER_FLOW_BUCKET, RefusalKey, ReplyBucket, SAVED_SYNS as SAVED, SavedSyn, Settings, SourceRange,
    TABLE_ROW, TABLE_ROWS, TRIED, Traffic, Tuple, Vip, WATCHED_BITS, address_bit, v1,
};

use crate::{
    flows::Noted,
    packet::Packet,
    rewrite::Ends,
    send::{Route, Target},
};

/// User space shares these arrays as memory: one store changes a backend, and a table is copied without system calls.
const SHARED: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
pub static FRONTENDS: HashMap<FrontendKey, Frontend, MAX_FRONTENDS> = HashMap::new();
#[btf_map]
pub static VIPS: HashMap<Address, Vip, MAX_VIPS> = HashMap::new();
#[btf_map]
pub static CLAIMS: HashMap<Address, Claim, MAX_VIPS, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
pub static QUESTIONS: HashMap<Address, Questions, MAX_VIPS, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
pub static ATTENDANCE: Array<Attendance, 1, SHARED> = Array::new();
#[btf_map]
pub static WATCHED: Array<u64, { WATCHED_BITS / 64 }, SHARED> = Array::new();
#[btf_map]
pub static BACKENDS: Array<Backend, MAX_BACKENDS, SHARED> = Array::new();
#[btf_map]
pub static TABLE: Array<[u32; TABLE_ROW], TABLE_ROWS, SHARED> = Array::new();
#[btf_map]
pub static FLOWS: Array<FlowBucket, DEFAULT_FLOW_BUCKETS, SHARED> = Array::new();
#[btf_map]
pub static REPLIES: Array<ReplyBucket, { DEFAULT_FLOW_BUCKETS * REPLY_BUCKETS_PER_FLOW_BUCKET }, SHARED> = Array::new();
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts, MAX_FRAGMENTED> = LruHashMap::new();
#[btf_map]
pub static SAVED_SYNS: Array<SavedSyn, SAVED, SHARED> = Array::new();
#[btf_map]
pub static FORMER: LruHashMap<u64, Flow, FORMER_FLOWS> = LruHashMap::new();
#[btf_map]
pub static SOURCE_RANGES: LpmTrie<SourceRange, u8, MAX_SOURCE_RANGES, { BPF_F_NO_PREALLOC as usize }> = LpmTrie::new();
#[btf_map]
pub static LIMITS: Array<Limit, MAX_FRONTENDS, SHARED> = Array::new();
#[btf_map]
pub static TURNS: Array<u32, MAX_FRONTENDS> = Array::new();
#[btf_map]
pub static SOURCE_ADDRESSES: Array<Address, { 2 * MAX_SOURCES }> = Array::new();
#[btf_map]
pub static INTERFACES: Array<Interface, INTERFACE_ROWS, SHARED> = Array::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { (MAX_INTERFACES + 1) * Outcome::ROW }> = PerCpuArray::new();
#[btf_map]
pub static TRAFFIC_ROWS: Array<Traffic, MAX_BACKENDS, SHARED> = Array::new();
#[btf_map]
pub static REFUSALS: HashMap<RefusalKey, u64, MAX_FRONTENDS, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
pub static SETTINGS: Array<Settings, 1, SHARED> = Array::new();

/// Version 1's flow table while this version takes over.
#[btf_map]
pub static V1_FLOWS: LruHashMap<v1::FlowKey, v1::Flow, 1> = LruHashMap::new();

/// What one CPU remembers for a moment; not pinned.
#[btf_map]
pub static HOPS: PerCpuArray<NextHop, NEXT_HOPS> = PerCpuArray::new();
/// Refusals that this CPU may still send: the tick of the last look, and how many.
#[btf_map]
pub static REFUSAL_BUDGET: PerCpuArray<[u32; 2], 1> = PerCpuArray::new();

/// The record that `flows::evict` would give away, and how readily.
#[btf_map]
pub static VICTIM: PerCpuArray<[u32; 2], 1> = PerCpuArray::new();

/// A copy of part of a packet, 512 bytes, to be summed up; the verifier takes them for some more.
#[btf_map]
pub static SCRATCH: PerCpuArray<[u32; 132], 1> = PerCpuArray::new();

/// What one run of a program works on: too large for the stack, of which there are 512 bytes.
pub struct Work {
    /// The packet that the program runs for.
    pub packet: Packet,
    /// Where it goes.
    pub target: Target,
    /// The way there.
    pub route: Route,
    /// The packet that an ICMP error quotes.
    pub quoted: Packet,
    /// The ends that the quoted packet had when it was sent.
    pub sent: Ends,
    /// A flow about to be recorded, and what its backend's packets look like.
    pub flow: Flow,
    pub reply: Tuple,
    /// The flow's frontend.
    pub frontend: Frontend,
    /// Whether the flow needs another source address.
    pub rewrites_source: bool,
    /// Whether its client is this host itself.
    pub from_host: bool,
    /// Backend slots that a flow has been at, and which of them may have it again if there is no other, one bit each.
    pub tried: [u32; TRIED],
    pub silent: u8,
    /// The flow that is to be brought to another backend.
    pub found: Noted,
    /// What the driver is to do with a frame that has been sent.
    pub driver_action: u32,
}

#[btf_map]
pub static WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

/// This CPU's memory for a run; whatever an earlier one left is in it.
#[inline(always)]
pub fn work() -> Option<&'static mut Work> {
    // SAFETY: the map is per CPU, and a program that runs ends before another one of these starts on the same CPU.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// The interface with this index; an empty row if no program is attached to it and nothing is known about it.
#[inline(always)]
pub fn interface(index: u32) -> Interface {
    match INTERFACES.get(index % INTERFACE_ROWS as u32) {
        Some(interface) if interface.index == index => *interface,
        _ => Interface::NONE,
    }
}

/// Counts a packet's outcome.
#[inline(always)]
pub fn count(interface: &Interface, outcome: Outcome) {
    // What runs on an interface that is not (any longer) attached is counted in the last row.
    let slot = if interface.slot as usize > MAX_INTERFACES { MAX_INTERFACES as u32 } else { interface.slot as u32 };
    if let Some(counter) = COUNTERS.get_ptr_mut(slot * Outcome::ROW as u32 + outcome.index()) {
        // SAFETY: the map is per CPU, and a program is not preempted by itself on the same hook.
        unsafe { *counter += 1 }
    }
}

/// Counts what a frontend did not take.
#[inline(always)]
pub fn refuse(frontend: u32, outcome: Outcome) -> Outcome {
    let key = RefusalKey { frontend, outcome: outcome.index() };
    match REFUSALS.get_ptr_mut(key) {
        Some(count) => {
            // SAFETY: the memory is the map's for good; the sum of several CPUs is atomic.
            unsafe { crate::atomic::add(count, 1) };
        }
        None => {
            // A full map loses the detail; the outcome itself is counted in any case.
            let _ = REFUSALS.insert(key, 1, 0);
        }
    }
    outcome
}

/// Whether the address is a VIP.
#[inline(always)]
pub fn is_vip(address: &Address) -> bool {
    // SAFETY: user space replaces entries as a whole.
    unsafe { VIPS.get(address) }.is_some()
}

/// Whether packets to or from this address may concern the programs; a false alarm is possible, a miss is not.
#[inline(always)]
pub fn is_watched(address: &Address) -> bool {
    let bit = address_bit(address);
    match WATCHED.get(bit / 64) {
        Some(word) => word >> (bit % 64) & 1 != 0,
        None => false,
    }
}

/// The backend slot in Maglev slot `slot` of the table that starts at row `first_row`.
#[inline(always)]
pub fn table_slot(first_row: u32, slot: u32) -> Option<u32> {
    let row = TABLE.get(first_row + slot / TABLE_ROW as u32)?;
    Some(row[(slot % TABLE_ROW as u32) as usize])
}

/// Whether this node owns `vip` on this interface.
#[inline(always)]
pub fn is_owned_on(vip: &Address, interface: &Interface) -> bool {
    // SAFETY: user space replaces entries as a whole; a stale copy lives until the program ends.
    match unsafe { VIPS.get(vip) } {
        Some(vip) => vip.answer_on & (1 << (interface.slot & 31)) != 0 && interface.slot < 32,
        None => false,
    }
}

/// Notes that another host, with this hardware address, claims an owned VIP: from now on it is not answered for, if this node
/// is one that yields.
#[inline(always)]
pub fn claim(vip: &Address, mac: [u8; 6]) {
    if ATTENDANCE.get(0).is_some_and(|attendance| attendance.yields != 0) {
        // A full map cannot be: it has room for every VIP.
        let _ = CLAIMS.insert(vip, Claim { mac, pad: [0; 2] }, 0);
    }
}

/// Counts a question for an owned VIP, which ends so.
#[inline(always)]
pub fn count_question(vip: &Address, outcome: Outcome) -> Outcome {
    let answered = matches!(outcome, Outcome::ArpAnswered | Outcome::NdpAnswered) as u64;
    match QUESTIONS.get_ptr_mut(vip) {
        // SAFETY: the memory is the map's for good; the sums of several CPUs are atomic.
        Some(questions) => unsafe {
            crate::atomic::add(&raw mut (*questions).asked, 1);
            crate::atomic::add(&raw mut (*questions).answered, answered);
        },
        None => {
            // A full map cannot be: it has room for every VIP.
            let _ = QUESTIONS.insert(vip, Questions { asked: 1, answered }, 0);
        }
    }
    outcome
}

/// Why a question for an owned VIP, asked of all or of this host alone, is not answered at present, if so.
#[inline(always)]
pub fn unanswered(vip: &Address, asks_all: bool) -> Option<Outcome> {
    let (until, withdrawn) = ATTENDANCE.get(0).map_or((0, 0), |attendance| (attendance.until, attendance.withdrawn));
    if asks_all && withdrawn != 0 {
        return Some(Outcome::PassWithdrawn);
    }
    // SAFETY: a helper without arguments; entries of the map are only looked for.
    unsafe {
        if until != 0 && bpf_ktime_get_ns() > until {
            Some(Outcome::PassUnattended)
        } else if CLAIMS.get(vip).is_some() {
            Some(Outcome::PassYielded)
        } else {
            None
        }
    }
}
