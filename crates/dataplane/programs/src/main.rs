//! The eBPF programs: a packet's way from the hook to its one outcome.
//!
//! ```text
//! evenkeel_in   (tc)  ─┐           ┌─ ARP ─> arp::answer ─────────────────────────────────────────┐
//! evenkeel_xdp  (XDP) ─┴─ ingress ─┤                                                              ├─> Outcome
//!                                  └─ IP ──┬─ fast_path::carry, if there is nothing to decide ────┤
//!                                          └─ packet::parse ─> balance::ingress ─> send::forward ──┘
//!
//! evenkeel_out  (tc)  ──── IP ──> packet::parse ─> balance::egress ─> rewrite::rewrite ───────────> Outcome
//! ```
//!
//! `balance` decides on the maps (`flows` is the flow table), `send` finds the way out, `rewrite` changes headers; `icmp`,
//! `ndp`, `fragment`, `refuse`, `rescue` and `takeover` are the rarer ways. All of it is written once for every hook, on top of `frame`; the
//! functions that the verifier takes one by one are listed in `steps`. This file counts the outcome and turns it into the
//! hook's verdict.
#![no_std]
#![no_main]
#![expect(internal_features, reason = "`atomic` needs what `core::sync::atomic` is made of")]
#![feature(asm_experimental_arch, core_intrinsics)]

mod arp;
mod atomic;
mod balance;
mod checksum;
mod datagram;
mod fast_path;
mod flows;
mod fragment;
mod frame;
mod icmp;
mod limits;
mod maps;
mod ndp;
mod packet;
mod refuse;
mod rescue;
mod rewrite;
mod send;
mod source;
mod steps;
mod takeover;
mod tc;
mod traffic;
mod word;
mod xdp;

use aya_ebpf::{
    bindings::{TC_ACT_REDIRECT, TC_ACT_SHOT, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use evenkeel_maps::{Interface, Outcome, Verdict};

use crate::{frame::Frame, steps::Steps as _, tc::SocketBuffer, xdp::DriverBuffer};

/// Continue with the hook's next program, then with the kernel (`TC_ACT_UNSPEC`, which tcx calls `TCX_NEXT`).
const NEXT: i32 = -1;

/// Packets that arrive on an attached interface.
#[classifier]
pub fn evenkeel_in(ctx: TcContext) -> i32 {
    let frame = SocketBuffer { context: &ctx, leaves: false };
    let interface = maps::interface(frame.interface());
    let outcome = ingress(&frame, &interface);
    maps::count(&interface, outcome);
    action(outcome)
}

/// Packets that arrive on an interface attached to by XDP.
#[xdp(frags)]
pub fn evenkeel_xdp(ctx: XdpContext) -> u32 {
    let frame = DriverBuffer { context: &ctx };
    let interface = maps::interface(frame.interface());
    let outcome = ingress(&frame, &interface);
    maps::count(&interface, outcome);
    match outcome.verdict() {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Redirect => maps::work().map_or(xdp_action::XDP_DROP, |work| work.driver_action),
        Verdict::Drop => xdp_action::XDP_DROP,
    }
}

/// Packets that leave through an attached interface.
#[classifier]
pub fn evenkeel_out(ctx: TcContext) -> i32 {
    let frame = SocketBuffer { context: &ctx, leaves: true };
    let interface = maps::interface(frame.interface());
    let outcome = match frame.ether_type() {
        ether_type @ (packet::ETHER_TYPE_IPV4 | packet::ETHER_TYPE_IPV6) => balance::egress(&frame, ether_type),
        // This host asks for a VIP of its own, and nobody else would answer.
        packet::ETHER_TYPE_ARP if frame.is_from_host() => arp(&frame, Outcome::PassEgress),
        _ => Outcome::PassEgress,
    };
    maps::count(&interface, outcome);
    action(outcome)
}

/// Attached nowhere; user space runs it to learn what time it is here.
#[classifier]
pub fn evenkeel_clock(_ctx: TcContext) -> i32 {
    maps::SETTINGS.get(0).map_or(0, |settings| balance::now(settings) as i32)
}

#[inline(always)]
fn ingress(frame: &impl Frame, interface: &Interface) -> Outcome {
    match frame.ether_type() {
        ether_type @ (packet::ETHER_TYPE_IPV4 | packet::ETHER_TYPE_IPV6) => {
            balance::ingress(frame, interface, ether_type)
        }
        packet::ETHER_TYPE_ARP => arp(frame, Outcome::PassArp),
        packet::ETHER_TYPE_VLAN | packet::ETHER_TYPE_SERVICE_VLAN => Outcome::PassVlan,
        _ => Outcome::PassNotIp,
    }
}

#[inline(always)]
fn arp(frame: &impl Frame, otherwise: Outcome) -> Outcome {
    maps::work().and_then(|work| frame.answer_arp(work, 0).err()).unwrap_or(otherwise)
}

#[inline(always)]
fn action(outcome: Outcome) -> i32 {
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
