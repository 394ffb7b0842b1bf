//! Steps of a packet's way that the verifier looks at once, each for itself.
//!
//! It walks through an ordinary function again for every state that it is called in, and at these places there are thousands.
//! A function with external linkage, which BTF calls global, it takes for one that may get anything and do anything, and walks
//! through by itself. So such a function gets nothing but the kernel's context and numbers, and returns a number; what it works
//! on is in [`maps::work`].

use core::arch::asm;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    programs::{TcContext, XdpContext},
};
use evenkeel_maps::{Outcome, Settings};

use crate::{
    arp, balance, datagram, fast_path,
    frame::Frame,
    icmp,
    maps::{self, SETTINGS, Work},
    refuse,
    rescue::{self, Hook},
    send, source, takeover,
    tc::SocketBuffer,
    word::unknown,
    xdp::DriverBuffer,
};

/// What a step says of its packet: it goes on, or this is its end.
pub type Step = Result<(), Outcome>;

macro_rules! steps {
    ($($(#[$doc:meta])+ $name:ident = $of_socket_buffer:ident, $of_driver_buffer:ident: $step:path;)+) => {
        /// The steps, as calls that end nobody's walk.
        pub trait Steps {
            $($(#[$doc])+ fn $name(&self, work: &mut Work, now: u32) -> Step;)+
        }

        impl Steps for SocketBuffer<'_> {
            $(#[inline(always)]
            fn $name(&self, work: &mut Work, now: u32) -> Step {
                decode(lend(work, || $of_socket_buffer(self.context.skb.skb, self.leaves as u32, now)))
            })+
        }

        impl Steps for DriverBuffer<'_> {
            $(#[inline(always)]
            fn $name(&self, work: &mut Work, now: u32) -> Step {
                decode(lend(work, || $of_driver_buffer(self.context.ctx, now)))
            })+
        }

        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $of_socket_buffer(skb: *mut __sk_buff, leaves: u32, now: u32) -> u32 {
                let context = TcContext::new(used(skb));
                run(&SocketBuffer { context: &context, leaves: unknown(leaves) != 0 }, unknown(now), $step)
            }

            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $of_driver_buffer(md: *mut xdp_md, now: u32) -> u32 {
                let context = XdpContext::new(used(md));
                run(&DriverBuffer { context: &context }, unknown(now), $step)
            }
        )+
    };
}

steps! {
    /// [`fast_path::carry`]
    fast_path = tc_fast_path, xdp_fast_path: fast_path;
    /// [`arp::answer`]
    answer_arp = tc_answer_arp, xdp_answer_arp: answer_arp;
    /// [`icmp::ingress`]
    arriving_icmp = tc_arriving_icmp, xdp_arriving_icmp: arriving_icmp;
    /// [`icmp::egress`]
    leaving_icmp = tc_leaving_icmp, xdp_leaving_icmp: leaving_icmp;
    /// [`balance::ports`]
    ports = tc_ports, xdp_ports: balance::ports;
    /// [`balance::leaving_ports`]
    leaving_ports = tc_leaving_ports, xdp_leaving_ports: balance::leaving_ports;
    /// [`balance::restore_refusal`]
    restore = tc_restore, xdp_restore: restore;
    /// [`balance::decide`], of a packet of this host's to a VIP
    ports_of_host = tc_ports_of_host, xdp_ports_of_host: ports_of_host;
    /// [`rescue::keep`]
    keep = tc_keep, xdp_keep: keep;
    /// [`rescue::refused`]
    refused = tc_refused, xdp_refused: rescue::refused;
    /// [`rescue::repick`]
    repick = tc_repick, xdp_repick: repick;
    /// [`rescue::late`], of a packet that arrives
    arriving_late = tc_arriving_late, xdp_arriving_late: arriving_late;
    /// [`rescue::late`], of a packet that leaves
    leaving_late = tc_leaving_late, xdp_leaving_late: leaving_late;
    /// [`rescue::depart`]
    depart = tc_depart, xdp_depart: depart;
    /// [`datagram::rescue`]
    rescue_datagram = tc_rescue_datagram, xdp_rescue_datagram: datagram::rescue;
    /// [`refuse::refuse`]
    refuse = tc_refuse, xdp_refuse: refuse;
    /// [`refuse::reset_gone`]
    reset_gone = tc_reset_gone, xdp_reset_gone: reset_gone;
    /// [`send::forward`]
    forward = tc_forward, xdp_forward: forward;
}

macro_rules! questions {
    ($($(#[$doc:meta])+ $name:ident = $symbol:ident: $question:path;)+) => {
        $(
            $(#[$doc])+
            #[inline(always)]
            pub fn $name(work: &mut Work, now: u32) -> bool {
                unknown(lend(work, || $symbol(now))) != 0
            }

            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $symbol(now: u32) -> u32 {
                let (Some(settings), Some(work)) = (SETTINGS.get(0), maps::work()) else { return 0 };
                $question(work, settings, unknown(now)) as u32
            }
        )+
    };
}

// What is asked for each of several backends and ports, or seldom, and takes no frame.
questions! {
    /// [`balance::is_taken`]
    is_taken = reply_is_taken: balance::is_taken;
    /// [`source::is_free`]
    is_free = port_is_free: source::is_free;
    /// [`takeover::adopt`]
    adopt = adopt_flow: takeover::adopt;
    /// [`takeover::recall`]
    recall = recall_flow: takeover::recall;
    /// [`takeover::is_known`]
    is_known = flow_is_known: takeover::is_known;
    /// [`takeover::enter`]
    enter = enter_flow: takeover::enter;
    /// [`takeover::tell`]
    tell = tell_version_1: takeover::tell;
}

/// [`datagram::is_avoided`]
#[inline(always)]
pub fn is_avoided(slot: u32, now: u32) -> bool {
    unknown(backend_is_avoided(slot, now)) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn backend_is_avoided(slot: u32, now: u32) -> u32 {
    datagram::is_avoided(unknown(slot), unknown(now)) as u32
}

/// A number that no outcome has.
const ON: u32 = Outcome::COUNT as u32;

/// Takes a step. Its memory is found again: nothing else can be handed to it.
#[inline(always)]
fn run<F: Frame>(frame: &F, now: u32, step: impl Fn(&F, &mut Work, &Settings, u32) -> Step) -> u32 {
    let (Some(settings), Some(work)) = (SETTINGS.get(0), maps::work()) else { return Outcome::PassNotVip.index() };
    match step(frame, work, settings, now) {
        Ok(()) => ON,
        Err(outcome) => outcome.index(),
    }
}

/// What a step's number says. The compiler knows what numbers there can be; the verifier does not, and wants to see them checked.
#[inline(always)]
fn decode(number: u32) -> Step {
    Outcome::of(unknown(number)).map_or(Ok(()), Err)
}

/// Lets a function have the memory that it finds for itself: what is written there is written before, and what is read there
/// is read after.
#[inline(always)]
fn lend(work: &mut Work, function: impl FnOnce() -> u32) -> u32 {
    let mut memory: *mut Work = work;
    // SAFETY: they do nothing, but the compiler takes them for readers and writers of that memory.
    unsafe { asm!("{0} = {0}", inout(reg) memory, options(nostack, preserves_flags)) };
    let number = function();
    unsafe { asm!("{0} = {0}", in(reg) memory, options(nostack, preserves_flags)) };
    number
}

/// The same pointer, taken for used, as [`unknown`] numbers are. What a function does not use its callers would leave out, and the verifier counts the arguments.
#[inline(always)]
fn used<T>(mut context: *mut T) -> *mut T {
    // SAFETY: it does nothing.
    unsafe { asm!("{0} = {0}", inout(reg) context, options(nomem, nostack, preserves_flags)) };
    context
}

#[inline(always)]
fn fast_path<F: Frame>(frame: &F, _: &mut Work, settings: &Settings, now: u32) -> Step {
    fast_path::carry(frame, settings, now)
}

#[inline(always)]
fn answer_arp<F: Frame>(frame: &F, _: &mut Work, _: &Settings, _: u32) -> Step {
    Err(arp::answer(frame, &maps::interface(frame.interface())))
}

#[inline(always)]
fn arriving_icmp<F: Frame>(frame: &F, work: &mut Work, settings: &Settings, _: u32) -> Step {
    icmp::ingress(frame, work, &maps::interface(frame.interface()), settings)
}

#[inline(always)]
fn leaving_icmp<F: Frame>(frame: &F, work: &mut Work, settings: &Settings, _: u32) -> Step {
    Err(icmp::egress(frame, work, &maps::interface(frame.interface()), settings))
}

#[inline(always)]
fn restore<F: Frame>(frame: &F, work: &mut Work, _: &Settings, _: u32) -> Step {
    balance::restore_refusal(frame, work)
}

#[inline(always)]
fn ports_of_host<F: Frame>(_: &F, work: &mut Work, settings: &Settings, now: u32) -> Step {
    balance::decide(work, true, settings, now)
}

#[inline(always)]
fn keep<F: Frame>(frame: &F, work: &mut Work, settings: &Settings, now: u32) -> Step {
    rescue::keep(frame, work, settings, now);
    Ok(())
}

#[inline(always)]
fn repick<F: Frame>(_: &F, work: &mut Work, settings: &Settings, now: u32) -> Step {
    rescue::repick(work, settings, now)
}

#[inline(always)]
fn arriving_late<F: Frame>(frame: &F, work: &mut Work, settings: &Settings, _: u32) -> Step {
    rescue::late(frame, work, settings, Hook::Arriving)
}

#[inline(always)]
fn leaving_late<F: Frame>(frame: &F, work: &mut Work, settings: &Settings, _: u32) -> Step {
    rescue::late(frame, work, settings, Hook::Leaving)
}

#[inline(always)]
fn depart<F: Frame>(frame: &F, work: &mut Work, _: &Settings, now: u32) -> Step {
    Err(rescue::depart(frame, work, now))
}

#[inline(always)]
fn refuse<F: Frame>(frame: &F, work: &mut Work, settings: &Settings, now: u32) -> Step {
    Err(refuse::refuse(frame, &work.packet, settings, now))
}

#[inline(always)]
fn reset_gone<F: Frame>(frame: &F, work: &mut Work, settings: &Settings, now: u32) -> Step {
    Err(refuse::reset_gone(frame, &work.packet, settings, now))
}

#[inline(always)]
fn forward<F: Frame>(frame: &F, work: &mut Work, settings: &Settings, now: u32) -> Step {
    Err(send::forward(frame, work, settings, now))
}
