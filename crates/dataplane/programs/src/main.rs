//! The eBPF programs: a packet's way from the hook to its one outcome.
//!
//! ```text
//! evenkeel_in  ── ARP ──> arp::answer ───────────────────────────────────────> Outcome
//!      └─ IPv4 ─> packet::parse ─> balance::ingress ─> send::forward or reply ─> Outcome
//!
//! evenkeel_out ── IPv4 ─> packet::parse ─> balance::egress ─> rewrite::source ─> Outcome
//! ```
//!
//! `balance` decides on the maps, `send` finds the way out, `rewrite` changes headers; this file counts the outcome and
//! turns it into the hook's verdict.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod arp;
mod balance;
mod echo;
mod maps;
mod packet;
mod rewrite;
mod send;

use aya_ebpf::{
    bindings::{TC_ACT_REDIRECT, TC_ACT_SHOT},
    macros::classifier,
    programs::TcContext,
};
use evenkeel_maps::{Outcome, Verdict};

/// Continue with the hook's next program, then with the kernel (`TC_ACT_UNSPEC`, which tcx calls `TCX_NEXT`).
const NEXT: i32 = -1;

/// Packets that arrive on an attached interface.
#[classifier]
pub fn evenkeel_in(ctx: TcContext) -> i32 {
    finish(match packet::ether_type(&ctx) {
        packet::ETHER_TYPE_IPV4 => balance::ingress(&ctx),
        packet::ETHER_TYPE_ARP => arp::answer(&ctx),
        _ => Outcome::PassNotIpv4,
    })
}

/// Packets that leave through an attached interface.
#[classifier]
pub fn evenkeel_out(ctx: TcContext) -> i32 {
    finish(match packet::ether_type(&ctx) {
        packet::ETHER_TYPE_IPV4 => balance::egress(&ctx),
        _ => Outcome::PassEgress,
    })
}

#[inline(always)]
fn finish(outcome: Outcome) -> i32 {
    maps::count(outcome);
    match outcome.verdict() {
        Verdict::Pass => NEXT,
        // `bpf_redirect` has already noted where to; this code makes the kernel act on it.
        Verdict::Redirect => TC_ACT_REDIRECT as i32,
        Verdict::Drop => TC_ACT_SHOT as i32,
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

/// What built this object, readable in its own section: a rebuild is compared byte for byte only by the same compiler.
#[unsafe(link_section = "evenkeel.compiler")]
#[unsafe(no_mangle)]
static COMPILER: [u8; COMPILER_NAME.len()] = bytes(COMPILER_NAME);
const COMPILER_NAME: &str = env!("EVENKEEL_BPF_COMPILER");

/// Digest of the sources it was built from: a committed object that no longer matches its sources is refused.
#[unsafe(link_section = "evenkeel.sources")]
#[unsafe(no_mangle)]
static SOURCES: [u8; SOURCES_DIGEST.len()] = bytes(SOURCES_DIGEST);
const SOURCES_DIGEST: &str = env!("EVENKEEL_BPF_SOURCES");

const fn bytes<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut index = 0;
    while index < N {
        bytes[index] = text.as_bytes()[index];
        index += 1;
    }
    bytes
}
