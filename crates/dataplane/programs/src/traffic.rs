//! Packets and bytes of backends.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use evenkeel_maps::{MAX_BACKENDS, MAX_TRAFFIC_GROUPS};

use crate::{atomic, maps::TRAFFIC_ROWS};

/// Constants by the time the verifier sees them: the loader sets them, and the section is read-only.
#[unsafe(no_mangle)]
static TRAFFIC_GROUPS: u32 = 1;
#[unsafe(no_mangle)]
static TRAFFIC_IS_SHARED: u32 = 1;

/// Counts a packet of a backend.
#[inline(always)]
pub fn count(slot: u32, bytes: u32, from_client: bool) {
    // SAFETY: constants of this object.
    let (groups, is_shared) = unsafe {
        (core::ptr::read_volatile(&raw const TRAFFIC_GROUPS), core::ptr::read_volatile(&raw const TRAFFIC_IS_SHARED))
    };
    // SAFETY: no more than a number.
    let processor = unsafe { bpf_get_smp_processor_id() };
    let group = processor & (groups - 1) & (MAX_TRAFFIC_GROUPS as u32 - 1);
    let Some(traffic) = TRAFFIC_ROWS.get_ptr_mut(group * MAX_BACKENDS as u32 + slot) else { return };
    // SAFETY: the row is in the map; who shares it adds atomically, and user space only reads.
    unsafe {
        let (packets, sum) = if from_client {
            (&raw mut (*traffic).packets_in, &raw mut (*traffic).bytes_in)
        } else {
            (&raw mut (*traffic).packets_out, &raw mut (*traffic).bytes_out)
        };
        if is_shared != 0 {
            atomic::add(packets, 1);
            atomic::add(sum, bytes as u64);
        } else {
            *packets += 1;
            *sum += bytes as u64;
        }
    }
}
