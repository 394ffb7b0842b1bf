//! Finding a packet's way out and taking it.
//!
//! The kernel's routing and neighbour tables are asked once a second and destination; in between, the answer is
//! remembered ([`NextHop`]), unless user space says that something changed. The packet that asks leaves by the kernel's
//! hand where the hook allows it: that is what makes the kernel find out that a neighbour's hardware address no longer
//! holds. Reading the table alone would keep a stale one in use for good.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LKUP_RET_UNREACHABLE,
    },
    helpers::generated::bpf_fib_lookup,
};
use evenkeel_maps::{Address, NEXT_HOPS, NextHop, Outcome, Settings, address_bit, ticks};

use crate::{
    frame::{Frame, pointer},
    maps::{HOPS, Work},
    rewrite::{Ends, Ttl, rewrite},
    word::write_32,
};

/// `AF_INET` and `AF_INET6`.
const INET: u8 = 2;
const INET6: u8 = 10;

/// What every IPv6 route can carry (RFC 8200 section 5), and nearly every IPv4 route.
const SMALLEST_MTU: u32 = 1280;

/// The kernel's `struct bpf_fib_lookup`.
#[repr(C)]
pub struct Fib {
    family: u8,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
    /// In: the packet's length, which the route's MTU is compared with. Out: that MTU.
    length_or_mtu: u16,
    interface: u32,
    /// In: type of service or flow information. Out: the route's metric.
    service: u32,
    source: [u32; 4],
    destination: [u32; 4],
    vlan: u32,
    source_mac: [u16; 3],
    destination_mac: [u16; 3],
}

/// What the kernel's routing says about a destination.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Leaves through `Route::interface`, with `Route::macs`.
    Frame,
    /// Leaves through `Route::interface`, to the next hop in `Route::fib`, whom the kernel finds.
    Neighbour,
    /// The kernel should handle it: local delivery, too big, a special route, a neighbour not known yet.
    Kernel,
    /// There is no way there.
    Unroutable,
}

/// Where a packet leaves.
pub struct Route {
    interface: u32,
    /// Hardware addresses of the neighbour and of the interface: the first twelve bytes of the frame.
    macs: [u32; 3],
    /// The kernel's answer, with the next hop.
    fib: Fib,
}

/// Outcomes of a packet: sent directly, and left to the kernel.
#[derive(Clone, Copy)]
pub struct Names {
    pub direct: Outcome,
    pub stack: Outcome,
    /// What is left to the kernel is left as it is: egress rewrites it.
    pub untouched: bool,
}

/// Where a packet goes.
pub struct Target {
    pub ends: Ends,
    /// Past the kernel's stack, if its routing allows it.
    pub direct: bool,
    pub names: Names,
}

/// An address in the form in which the kernel's lookup takes it: IPv4 in the first word.
#[inline(always)]
fn wide(address: &Address, ipv6: bool) -> [u32; 4] {
    let quarters = address.quarters();
    if ipv6 { quarters } else { [quarters[3], 0, 0, 0] }
}

/// The way to `work.target`, the details in `work.route`.
#[inline(always)]
fn way(frame: &impl Frame, work: &mut Work, settings: &Settings, now: u32) -> Way {
    let Work { packet, target, route, .. } = work;
    let Some(hop) = remembered(frame, &target.ends.destination, settings, now) else {
        return look_up(frame, work, settings.next_hop_epoch, now);
    };
    if !frame.fits(packet, hop.mtu) || !frame.can_send(hop.interface) {
        return Way::Kernel;
    }
    route.interface = hop.interface;
    route.macs = hop.macs;
    Way::Frame
}

/// The next hop to a destination, if it is remembered and still holds.
#[inline(always)]
pub fn remembered(
    frame: &impl Frame,
    destination: &Address,
    settings: &Settings,
    now: u32,
) -> Option<&'static NextHop> {
    // SAFETY: the map is per CPU.
    let hop = unsafe { &*hop_of(destination)? };
    let is_fresh = hop.address == *destination
        && hop.epoch == settings.next_hop_epoch
        && hop.from == frame.interface()
        && now.wrapping_sub(hop.seen) < ticks::NEXT_HOP;
    is_fresh.then_some(hop)
}

/// Where the next hop to a destination is remembered.
#[inline(always)]
fn hop_of(destination: &Address) -> Option<*mut NextHop> {
    HOPS.get_ptr_mut((address_bit(destination) >> 8) % NEXT_HOPS as u32)
}

/// Asks the kernel, and remembers what it says.
#[inline(never)]
fn look_up<F: Frame>(frame: &F, work: &mut Work, epoch: u32, now: u32) -> Way {
    let Work { packet, target, route, .. } = work;
    let Target { ends, .. } = target;
    let fib = &mut route.fib;
    *fib = Fib {
        family: if packet.ipv6 { INET6 } else { INET },
        protocol: packet.tuple.protocol,
        source_port: 0,
        destination_port: 0,
        // Small enough for every route: the answer is its MTU.
        length_or_mtu: 1,
        interface: frame.interface(),
        service: 0,
        source: wide(&ends.source, packet.ipv6),
        destination: wide(&ends.destination, packet.ipv6),
        vlan: 0,
        source_mac: [0; 3],
        destination_mac: [0; 3],
    };
    // SAFETY: the structure has the kernel's layout and size.
    let result = unsafe { bpf_fib_lookup(frame.context(), (&raw mut *fib).cast(), size_of::<Fib>() as i32, 0) } as u32;
    match result {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => {}
        BPF_FIB_LKUP_RET_BLACKHOLE | BPF_FIB_LKUP_RET_UNREACHABLE | BPF_FIB_LKUP_RET_PROHIBIT => {
            return Way::Unroutable;
        }
        _ => return Way::Kernel,
    }
    // Without a neighbour the answer ends before the MTU: what may be too big for the route is then the kernel's business.
    let mtu = if result == BPF_FIB_LKUP_RET_SUCCESS { fib.length_or_mtu as u32 } else { SMALLEST_MTU };
    route.interface = fib.interface;
    let ([a, b, c], [d, e, f]) = (fib.destination_mac, fib.source_mac);
    let word = |first: u16, second: u16| first as u32 | (second as u32) << 16;
    route.macs = [word(a, b), word(c, d), word(e, f)];
    if result == BPF_FIB_LKUP_RET_SUCCESS
        && let Some(hop) = hop_of(&ends.destination)
    {
        let (address, interface, macs, from) = (ends.destination, fib.interface, route.macs, frame.interface());
        // SAFETY: the map is per CPU.
        unsafe { *hop = NextHop { address, interface, seen: now, epoch, mtu, macs, from } };
    }
    if !frame.fits(packet, mtu) || !frame.can_send(fib.interface) {
        return Way::Kernel;
    }
    if !F::RAW {
        return Way::Neighbour;
    }
    if result == BPF_FIB_LKUP_RET_SUCCESS { Way::Frame } else { Way::Kernel }
}

/// Rewrites a packet and sends it on: directly, or by the kernel's own routing.
#[inline(always)]
pub fn forward<F: Frame>(frame: &F, work: &mut Work, settings: &Settings, now: u32) -> Outcome {
    let way = if work.target.direct { way(frame, work, settings, now) } else { Way::Kernel };
    let Work { packet, target, route, from_host, .. } = work;
    let ttl = match way {
        Way::Unroutable => return Outcome::DropUnroutable,
        // It has been through the kernel's routing, which would not take it back.
        Way::Kernel if *from_host => return Outcome::DropUnroutable,
        Way::Kernel if target.names.untouched => return target.names.stack,
        Way::Kernel => Ttl::Keep,
        Way::Frame | Way::Neighbour if packet.ttl <= 1 => return Outcome::DropTtl,
        Way::Frame | Way::Neighbour => Ttl::Decrement,
    };
    if rewrite(frame, packet, &target.ends, ttl).is_none() {
        return Outcome::DropRewrite;
    }
    match way {
        Way::Kernel | Way::Unroutable => return target.names.stack,
        // The lookup has put the gateway, if there is one, in the destination's place.
        Way::Neighbour => frame.send_to_neighbour(route.interface, route.fib.family, &route.fib.destination),
        Way::Frame if send(frame, route.interface, &route.macs).is_none() => return Outcome::DropRewrite,
        Way::Frame => {}
    }
    target.names.direct
}

/// Sends a frame out through `interface` with these hardware addresses ([`NextHop::macs`]).
#[inline(always)]
pub fn send(frame: &impl Frame, interface: u32, macs: &[u32; 3]) -> Option<()> {
    let start = pointer::<[u8; 12]>(frame, 0)?;
    let [first, second, third] = *macs;
    // SAFETY: `pointer` has checked the bounds.
    unsafe {
        write_32::<0>(start.cast(), first);
        write_32::<4>(start.cast(), second);
        write_32::<8>(start.cast(), third);
    }
    frame.send(interface);
    Some(())
}
