//! The maps, as the programs see them; their layouts are in `evenkeel-maps`.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use evenkeel_maps::{
    Backend, DEFAULT_FLOW_ENTRIES, Flow, FlowKey, Frontend, FrontendKey, Interface, MAX_BACKENDS, MAX_FRONTENDS,
    MAX_INTERFACES, MAX_VIPS, Outcome, Settings, TABLE_ROW, TABLE_ROWS, Vip,
};

/// User space shares these arrays as memory: one store changes a backend, and a table is copied without system calls.
const SHARED: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
pub static FRONTENDS: HashMap<FrontendKey, Frontend, MAX_FRONTENDS> = HashMap::new();
#[btf_map]
pub static VIPS: HashMap<[u8; 4], Vip, MAX_VIPS> = HashMap::new();
#[btf_map]
pub static BACKENDS: Array<Backend, MAX_BACKENDS, SHARED> = Array::new();
#[btf_map]
pub static TABLE: Array<[u32; TABLE_ROW], TABLE_ROWS, SHARED> = Array::new();
#[btf_map]
pub static FLOWS: LruHashMap<FlowKey, Flow, DEFAULT_FLOW_ENTRIES> = LruHashMap::new();
#[btf_map]
pub static INTERFACES: HashMap<u32, Interface, MAX_INTERFACES> = HashMap::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { Outcome::COUNT }> = PerCpuArray::new();
#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();

/// Counts a packet's outcome.
#[inline(always)]
pub fn count(outcome: Outcome) {
    if let Some(counter) = COUNTERS.get_ptr_mut(outcome.index()) {
        // SAFETY: the map is per CPU, and a program is not preempted by itself on the same hook.
        unsafe { *counter += 1 }
    }
}

/// The backend slot in Maglev slot `slot` of the table that starts at row `first_row`.
#[inline(always)]
pub fn table_slot(first_row: u32, slot: u32) -> Option<u32> {
    let row = TABLE.get(first_row + slot / TABLE_ROW as u32)?;
    Some(row[(slot % TABLE_ROW as u32) as usize])
}

/// Whether this node owns `vip` on the interface with this index; if so, the hardware address to answer with.
#[inline(always)]
pub fn owned_on(vip: [u8; 4], interface_index: u32) -> Option<[u8; 6]> {
    // SAFETY: user space replaces entries as a whole; a stale copy lives until the program ends.
    let vip = unsafe { VIPS.get(vip) }?;
    let interface = unsafe { INTERFACES.get(interface_index) }?;
    if vip.answer_on & (1 << (interface.slot & 31)) == 0 {
        return None;
    }
    Some(interface.mac)
}
