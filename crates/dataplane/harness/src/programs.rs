//! The programs, one for each kind of hook and length of frame.
#![expect(unsafe_code, reason = "tail calls and a counter's pointer")]

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, xdp_action},
    btf_maps::{PerCpuArray, ProgramArray},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};

use crate::feed::{LONGEST, feed};

/// 64 bytes: Ethernet, IPv4, TCP or UDP, and some payload.
const IPV4: usize = 8;
/// 80 bytes, the shortest that IPv6 and TCP fit into in whole words.
const IPV6: usize = LONGEST;

/// The program under measurement.
#[btf_map]
static TARGET: ProgramArray<1> = ProgramArray::new();
/// Packets that arrived at [`xdp_count`].
#[btf_map]
static ARRIVED: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Feeds an IPv4 frame to an XDP program.
#[xdp(frags)]
pub(crate) fn feed_xdp4(ctx: XdpContext) -> u32 {
    feed_xdp::<IPV4, true>(&ctx)
}

/// Feeds an IPv6 frame to an XDP program.
#[xdp(frags)]
pub(crate) fn feed_xdp6(ctx: XdpContext) -> u32 {
    feed_xdp::<IPV6, false>(&ctx)
}

/// Feeds an IPv4 frame to a classifier.
#[classifier]
pub(crate) fn feed_tc4(ctx: TcContext) -> i32 {
    feed_tc::<IPV4, true>(&ctx)
}

/// Feeds an IPv6 frame to a classifier.
#[classifier]
pub(crate) fn feed_tc6(ctx: TcContext) -> i32 {
    feed_tc::<IPV6, false>(&ctx)
}

/// Sends an IPv4 frame out.
#[xdp(frags)]
pub(crate) fn generate4(ctx: XdpContext) -> u32 {
    match feed::<IPV4, true>(ctx.data(), ctx.data_end()) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Sends an IPv6 frame out.
#[xdp(frags)]
pub(crate) fn generate6(ctx: XdpContext) -> u32 {
    match feed::<IPV6, false>(ctx.data(), ctx.data_end()) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// The target that shows what the harness itself costs, and what receives frames from XDP where nothing else does: a
/// virtual device takes them only if it has a program.
#[xdp(frags)]
pub(crate) fn xdp_pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// As [`xdp_pass`], for classifiers.
#[classifier]
pub(crate) fn tc_pass(_: TcContext) -> i32 {
    // TC_ACT_UNSPEC.
    -1
}

/// Counts what arrives, and drops it.
#[xdp(frags)]
pub(crate) fn xdp_count(_: XdpContext) -> u32 {
    if let Some(arrived) = ARRIVED.get_ptr_mut(0) {
        // SAFETY: the map is per CPU, and a program is not preempted by itself.
        unsafe { *arrived += 1 };
    }
    xdp_action::XDP_DROP
}

#[inline(always)]
fn feed_xdp<const WORDS: usize, const IS_IPV4: bool>(ctx: &XdpContext) -> u32 {
    if feed::<WORDS, IS_IPV4>(ctx.data(), ctx.data_end()).is_some() {
        // SAFETY: comes back only when there is no target.
        unsafe { TARGET.tail_call(ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn feed_tc<const WORDS: usize, const IS_IPV4: bool>(ctx: &TcContext) -> i32 {
    if feed::<WORDS, IS_IPV4>(ctx.data(), ctx.data_end()).is_some() {
        // SAFETY: as above.
        unsafe { TARGET.tail_call(ctx, 0) };
    }
    TC_ACT_SHOT as i32
}
