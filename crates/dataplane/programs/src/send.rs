//! Finding a packet's way out and taking it.
//!
//! The routing is looked up here, the neighbour is the kernel's: it resolves it, and finds out by using an entry when its
//! hardware address no longer holds. Copying the address out of the lookup would keep a stale one in use for good.

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LKUP_RET_UNREACHABLE,
    },
    helpers::generated::{bpf_fib_lookup, bpf_redirect_neigh},
    programs::TcContext,
};
use evenkeel_maps::Outcome;

use crate::{
    packet::Packet,
    rewrite::{End, Ttl, rewrite},
};

/// `AF_INET`.
const INET: u8 = 2;

/// The kernel's `struct bpf_fib_lookup` as used for IPv4.
#[repr(C)]
struct Fib {
    family: u8,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
    /// Zero: the kernel checks the packet's own size against the route's MTU.
    total_length: u16,
    interface: u32,
    service: u32,
    source: [u8; 16],
    destination: [u8; 16],
    vlan: u32,
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
}

/// The kernel's `struct bpf_redir_neigh`.
#[repr(C)]
struct Neighbour {
    family: u32,
    /// IPv4 in the first four bytes, or IPv6: a route to an IPv4 destination can have an IPv6 gateway (RFC 5549).
    address: [u8; 16],
}

/// What the kernel's routing says about a destination.
enum Route {
    /// Leaves through an interface, to this neighbour.
    NextHop { interface: u32, neighbour: Neighbour },
    /// The kernel should handle it: local delivery, too big, a special route.
    Kernel,
    /// There is no way there.
    Unroutable,
}

/// Outcomes of a forward packet, one set a packet class; see [`Outcome`].
pub struct Names {
    pub direct: Outcome,
    pub stack: Outcome,
}

#[inline(always)]
fn route(ctx: &TcContext, source: [u8; 4], destination: [u8; 4], protocol: u8) -> Route {
    let wide = |address: [u8; 4]| [address[0], address[1], address[2], address[3], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut fib = Fib {
        family: INET,
        protocol,
        source_port: 0,
        destination_port: 0,
        total_length: 0,
        // SAFETY: the kernel's context; the verifier checks the field.
        interface: unsafe { (*ctx.skb.skb).ifindex },
        service: 0,
        source: wide(source),
        destination: wide(destination),
        vlan: 0,
        source_mac: [0; 6],
        destination_mac: [0; 6],
    };
    // SAFETY: the structure has the kernel's layout and size.
    let result = unsafe { bpf_fib_lookup(ctx.as_ptr(), (&raw mut fib).cast(), size_of::<Fib>() as i32, 0) } as u32;
    match result {
        // The lookup has put the gateway, if there is one, in the destination's place.
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => Route::NextHop {
            interface: fib.interface,
            neighbour: Neighbour { family: fib.family as u32, address: fib.destination },
        },
        BPF_FIB_LKUP_RET_BLACKHOLE | BPF_FIB_LKUP_RET_UNREACHABLE | BPF_FIB_LKUP_RET_PROHIBIT => Route::Unroutable,
        _ => Route::Kernel,
    }
}

/// Sends a rewritten packet out through `interface`.
#[inline(always)]
fn leave(interface: u32, mut neighbour: Neighbour) {
    // SAFETY: the structure has the kernel's layout and size; the helper copies it.
    unsafe { bpf_redirect_neigh(interface, (&raw mut neighbour).cast(), size_of::<Neighbour>() as i32, 0) };
}

/// Sends a client's packet to its backend: directly, or by the kernel's own routing.
#[inline(always)]
pub fn forward(
    ctx: &TcContext,
    packet: &Packet,
    address: [u8; 4],
    port: [u8; 2],
    direct: bool,
    names: Names,
) -> Outcome {
    let way = if direct { route(ctx, packet.key.source, address, packet.key.protocol) } else { Route::Kernel };
    let (interface, neighbour) = match way {
        Route::Unroutable => return Outcome::DropUnroutable,
        Route::Kernel => {
            return match rewrite(ctx, packet, End::Destination, address, port, Ttl::Keep) {
                Some(()) => names.stack,
                None => Outcome::DropRewrite,
            };
        }
        Route::NextHop { interface, neighbour } => (interface, neighbour),
    };
    if packet.ttl <= 1 {
        return Outcome::DropTtl;
    }
    if rewrite(ctx, packet, End::Destination, address, port, Ttl::Decrement).is_none() {
        return Outcome::DropRewrite;
    }
    leave(interface, neighbour);
    names.direct
}

/// Sends a backend's packet to its client with the VIP as its source. What must go through the kernel passes unchanged:
/// it is restored where it leaves, at egress.
#[inline(always)]
pub fn reply(ctx: &TcContext, packet: &Packet, vip: [u8; 4], port: [u8; 2]) -> Outcome {
    let (interface, neighbour) = match route(ctx, vip, packet.key.destination, packet.key.protocol) {
        Route::Unroutable => return Outcome::DropUnroutable,
        Route::Kernel => return Outcome::PassNotVip,
        Route::NextHop { interface, neighbour } => (interface, neighbour),
    };
    if packet.ttl <= 1 {
        return Outcome::DropTtl;
    }
    if rewrite(ctx, packet, End::Source, vip, port, Ttl::Decrement).is_none() {
        return Outcome::DropRewrite;
    }
    leave(interface, neighbour);
    Outcome::ReplyDirect
}
