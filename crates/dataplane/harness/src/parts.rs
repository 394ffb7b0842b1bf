//! What single things cost that a data plane is made of: a target of the harness each.
#![expect(unsafe_code, reason = "helpers, and map values reached through raw pointers")]

use core::{arch::asm, hint::black_box};

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
    helpers::generated::{bpf_fib_lookup, bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_redirect},
    macros::{btf_map, xdp},
    programs::XdpContext,
};

/// Entries of the hash maps: the services of the other cases.
const ENTRIES: usize = 8_192;
/// Records of the large array, of a cache line each: 64 MiB, far more than caches hold.
const RECORDS: usize = 1 << 20;

#[btf_map]
static PART_SMALL: HashMap<u64, u64, ENTRIES> = HashMap::new();
#[btf_map]
static PART_WIDE: HashMap<[u64; 3], u64, ENTRIES> = HashMap::new();
#[btf_map]
static PART_LRU: LruHashMap<[u64; 3], u64, ENTRIES> = LruHashMap::new();
#[btf_map]
static PART_RECORDS: Array<[u64; 8], RECORDS> = Array::new();
#[btf_map]
static PART_COUNTER: PerCpuArray<u64, 64> = PerCpuArray::new();

/// The kernel's clock, to the nanosecond.
#[xdp(frags)]
pub(crate) fn part_clock(_: XdpContext) -> u32 {
    // SAFETY: a helper without arguments.
    black_box(unsafe { bpf_ktime_get_ns() });
    xdp_action::XDP_PASS
}

/// The kernel's clock, to the tick.
#[xdp(frags)]
pub(crate) fn part_coarse_clock(_: XdpContext) -> u32 {
    // SAFETY: as above.
    black_box(unsafe { bpf_ktime_get_coarse_ns() });
    xdp_action::XDP_PASS
}

/// The kernel's count of timer interrupts.
#[xdp(frags)]
pub(crate) fn part_jiffies(_: XdpContext) -> u32 {
    // SAFETY: as above.
    black_box(unsafe { bpf_jiffies64() });
    xdp_action::XDP_PASS
}

/// A counter of this processor.
#[xdp(frags)]
pub(crate) fn part_counter(_: XdpContext) -> u32 {
    if let Some(counter) = PART_COUNTER.get_ptr_mut(7) {
        // SAFETY: the map is per CPU.
        unsafe { *counter += 1 };
    }
    xdp_action::XDP_PASS
}

/// A locked addition to memory in the cache.
#[xdp(frags)]
pub(crate) fn part_locked(_: XdpContext) -> u32 {
    if let Some(record) = PART_RECORDS.get_ptr_mut(0) {
        // SAFETY: adds one to a value of the map.
        unsafe { asm!("lock *(u64 *)({at} + 0) += {one}", at = in(reg) record, one = in(reg) 1_u64) };
    }
    xdp_action::XDP_PASS
}

/// An entry of a hash map with a key of eight bytes.
#[xdp(frags)]
pub(crate) fn part_hash(_: XdpContext) -> u32 {
    // SAFETY: nobody removes entries.
    black_box(unsafe { PART_SMALL.get(7) }.is_some());
    xdp_action::XDP_PASS
}

/// An entry of a hash map with a key of 24 bytes.
#[xdp(frags)]
pub(crate) fn part_wide_hash(_: XdpContext) -> u32 {
    // SAFETY: as above.
    black_box(unsafe { PART_WIDE.get([7; 3]) }.is_some());
    xdp_action::XDP_PASS
}

/// An entry of a least-recently-used hash map with a key of 24 bytes.
#[xdp(frags)]
pub(crate) fn part_lru(_: XdpContext) -> u32 {
    // SAFETY: as above.
    black_box(unsafe { PART_LRU.get([7; 3]) }.is_some());
    xdp_action::XDP_PASS
}

/// A line of an array that is in the cache.
#[xdp(frags)]
pub(crate) fn part_record(_: XdpContext) -> u32 {
    touch(7)
}

/// A line of a large array, another one each time.
#[xdp(frags)]
pub(crate) fn part_far_record(ctx: XdpContext) -> u32 {
    touch(flow(&ctx))
}

/// Two lines of a large array, the place of the second one in the first.
#[xdp(frags)]
pub(crate) fn part_far_chain(ctx: XdpContext) -> u32 {
    let first = flow(&ctx);
    let next = match PART_RECORDS.get(first % RECORDS as u32) {
        Some(record) => record[0] as u32,
        None => 0,
    };
    touch(next ^ first.rotate_left(7))
}

/// A route and a neighbour from the kernel.
#[xdp(frags)]
pub(crate) fn part_route(ctx: XdpContext) -> u32 {
    // `struct bpf_fib_lookup`: family, protocol, ports, length, interface, service, source, destination, and what comes out.
    let mut fib = [0_u32; 16];
    // AF_INET, TCP.
    fib[0] = 2 | 6 << 8;
    // SAFETY: a field of the kernel's context.
    fib[2] = unsafe { (*ctx.ctx).ingress_ifindex };
    fib[4] = u32::from_ne_bytes([10, 128, 0, 1]);
    // A backend of the site.
    fib[8] = u32::from_ne_bytes([10, 0, 2, 11]);
    // SAFETY: the structure has the kernel's size.
    black_box(unsafe { bpf_fib_lookup(ctx.ctx.cast(), fib.as_mut_ptr().cast(), size_of_val(&fib) as i32, 0) });
    xdp_action::XDP_PASS
}

/// A note where the frame is to go.
#[xdp(frags)]
pub(crate) fn part_redirect(ctx: XdpContext) -> u32 {
    // SAFETY: a field of the kernel's context, and a helper without pointers.
    unsafe { bpf_redirect((*ctx.ctx).ingress_ifindex, 0) as u32 }
}

/// The flow's number, or one like it: from the address and port that vary in an IPv4 frame.
#[inline(always)]
fn flow(ctx: &XdpContext) -> u32 {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + 38 > end {
        return 0;
    }
    // SAFETY: within the bounds checked above.
    let (address, port) =
        unsafe { (((start + 28) as *const u16).read_unaligned(), ((start + 34) as *const u16).read_unaligned()) };
    (u16::from_be(address) as u32) << 15 | (u16::from_be(port) & 0x7fff) as u32
}

#[inline(always)]
fn touch(index: u32) -> u32 {
    if let Some(record) = PART_RECORDS.get(index % RECORDS as u32) {
        black_box(record[3]);
    }
    xdp_action::XDP_PASS
}
