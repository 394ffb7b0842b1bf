//! Frames at a tc hook (tcx, clsact): socket buffers, of which the kernel keeps the checksum and segmentation state.
//!
//! A program cannot tell whether the transport checksum is complete, partial (left to the sending device) or verified by
//! the receiving one; `bpf_l4_csum_replace` can, so changes go through it.

use core::{arch::asm, ffi::c_void, mem::offset_of};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    helpers::generated::{
        bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_skb_adjust_room, bpf_skb_change_tail,
        bpf_skb_load_bytes, bpf_skb_pull_data,
    },
    programs::TcContext,
};
use evenkeel_maps::{Interface, TCP};

use crate::{
    frame::{self, Checksum, Frame, Receiver, pointer},
    packet::{ETHERNET, Packet},
};

/// Of linux/if_packet.h: addressed to this host's hardware address, and to another's.
const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;
/// `BPF_F_IPV6` of newer kernels: the address change is not made up for by an IPv4 header checksum.
const BPF_F_IPV6: u64 = 1 << 7;

/// Where a TCP header says how long it is, and how long a UDP header is.
const TCP_DATA_OFFSET: usize = 12;
const UDP_HEADER: u32 = 8;

/// A socket buffer.
pub struct SocketBuffer<'a> {
    pub context: &'a TcContext,
    /// Whether it is about to leave through the interface; else it has arrived.
    pub leaves: bool,
}

/// The kernel's `struct bpf_redir_neigh`.
#[repr(C)]
struct Neighbour {
    family: u32,
    /// IPv4 in the first word, or IPv6: a route to an IPv4 destination can have an IPv6 gateway (RFC 5549).
    address: [u32; 4],
}

impl SocketBuffer<'_> {
    #[inline(always)]
    fn skb(&self) -> *mut __sk_buff {
        self.context.skb.skb
    }
}

impl Frame for SocketBuffer<'_> {
    const RAW: bool = false;

    /// The context declares both as 32 bits wide, and the verifier turns the loads into pointers. The compiler does not know
    /// and would widen them by shifts, or merge several checks into arithmetic, neither of which a pointer survives: so the
    /// loads are spelled out.
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let (start, end): (usize, usize);
        // SAFETY: loads of two fields of the kernel's context, nothing else.
        unsafe {
            asm!(
                "{start} = *(u32 *)({skb} + {data})",
                "{end} = *(u32 *)({skb} + {data_end})",
                skb = in(reg) self.skb(),
                start = out(reg) start,
                end = lateout(reg) end,
                data = const offset_of!(__sk_buff, data),
                data_end = const offset_of!(__sk_buff, data_end),
                options(nostack, preserves_flags),
            );
        }
        (start, end)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.context.len()
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the kernel's context, valid while the program runs; the verifier checks the field. So below.
        unsafe { (*self.skb()).ifindex }
    }

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.context.as_ptr()
    }

    #[inline(always)]
    fn ether_type(&self) -> u16 {
        u16::from_be(unsafe { (*self.skb()).protocol } as u16)
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        // A tag without a VLAN carries only a priority (IEEE 802.1Q): the frame is this interface's own.
        unsafe { (*self.skb()).vlan_present != 0 && (*self.skb()).vlan_tci & 0xfff != 0 }
    }

    #[inline(always)]
    fn receiver(&self, _: &Interface) -> Receiver {
        match unsafe { (*self.skb()).pkt_type } {
            PACKET_HOST => Receiver::Host,
            PACKET_OTHERHOST => Receiver::Other,
            _ => Receiver::Group,
        }
    }

    /// Drivers may leave headers in page fragments.
    #[inline(always)]
    fn pull(&self, bytes: u32) {
        let length = self.length();
        let wanted = if length < bytes { length } else { bytes };
        let (start, end) = self.bounds();
        if ((end - start) as u32) < wanted {
            // A failure shows as a truncated header later.
            unsafe { bpf_skb_pull_data(self.skb(), wanted) };
        }
    }

    #[inline(always)]
    fn fits(&self, packet: &Packet, mtu: u32) -> bool {
        packet.length <= mtu || (self.is_several() && segment_length(self, packet) <= mtu)
    }

    #[inline(always)]
    fn is_several(&self) -> bool {
        unsafe { (*self.skb()).gso_size != 0 }
    }

    #[inline(always)]
    fn update_checksum(&self, offset: u32, outside: u32, inside: u32, kind: Checksum) -> bool {
        let mangled = if kind == Checksum::Udp { BPF_F_MARK_MANGLED_0 as u64 } else { 0 };
        // A size of zero: what is given is a difference, not a new value.
        // SAFETY: helpers on the kernel's context; they check the offset.
        unsafe {
            if outside != 0 {
                let pseudo = BPF_F_PSEUDO_HDR as u64 | mangled;
                // Without the flag, which older kernels refuse, they assume IPv4.
                let is_ipv6 = self.ether_type() == crate::packet::ETHER_TYPE_IPV6;
                let mut failed = true;
                if is_ipv6 {
                    failed = bpf_l4_csum_replace(self.skb(), offset, 0, outside as u64, pseudo | BPF_F_IPV6) != 0;
                }
                if failed && bpf_l4_csum_replace(self.skb(), offset, 0, outside as u64, pseudo) != 0 {
                    return false;
                }
            }
            inside == 0 || bpf_l4_csum_replace(self.skb(), offset, 0, inside as u64, mangled) == 0
        }
    }

    /// A change inside the segment does not touch a partial checksum: so one is tried.
    #[inline(always)]
    fn is_checksum_partial(&self, offset: u32) -> bool {
        let Some(field) = frame::pointer::<[u8; 2]>(self, offset as usize) else { return false };
        // SAFETY: `pointer` has checked the bounds, here and below.
        let before = unsafe { *field };
        unsafe { bpf_l4_csum_replace(self.skb(), offset, 0, 0x0101, 0) };
        let Some(field) = frame::pointer::<[u8; 2]>(self, offset as usize) else { return false };
        let is_partial = unsafe { *field == before };
        unsafe { *field = before };
        is_partial
    }

    #[inline(always)]
    fn set_length(&self, length: u32) -> bool {
        unsafe { bpf_skb_change_tail(self.skb(), length, 0) == 0 }
    }

    #[inline(always)]
    fn resize(&self, length: u32) -> bool {
        self.set_length(length)
    }

    #[inline(always)]
    fn insert(&self, bytes: u32) -> bool {
        unsafe { bpf_skb_adjust_room(self.skb(), bytes as i32, BPF_ADJ_ROOM_MAC, 0) == 0 }
    }

    #[inline(always)]
    fn remove(&self, bytes: u32) -> bool {
        unsafe { bpf_skb_adjust_room(self.skb(), -(bytes as i32), BPF_ADJ_ROOM_MAC, 0) == 0 }
    }

    #[inline(always)]
    fn load(&self, offset: u32, to: *mut u8, length: u32) -> bool {
        unsafe { bpf_skb_load_bytes(self.skb().cast(), offset, to.cast(), length) == 0 }
    }

    /// The program's return code makes the kernel act on it.
    #[inline(always)]
    fn send(&self, interface: u32) {
        unsafe { bpf_redirect(interface, 0) };
    }

    #[inline(always)]
    fn send_back(&self) {
        let flags = if self.leaves { BPF_F_INGRESS as u64 } else { 0 };
        unsafe { bpf_redirect(self.interface(), flags) };
    }

    /// What it forwards has arrived through some interface.
    #[inline(always)]
    fn is_from_host(&self) -> bool {
        self.leaves && unsafe { (*self.skb()).ingress_ifindex } == 0
    }

    #[inline(always)]
    fn receive(&self) {
        unsafe { bpf_redirect(self.interface(), BPF_F_INGRESS as u64) };
    }

    #[inline(always)]
    fn can_send(&self, _: u32) -> bool {
        true
    }

    #[inline(always)]
    fn send_to_neighbour(&self, interface: u32, family: u8, next_hop: &[u32; 4]) {
        if self.leaves {
            // A frame that was leaving has a route of its own. Unless the kernel looks up another one itself, it takes the
            // neighbour of that route as soon as a frame had to wait for the answer to an ARP request.
            unsafe { bpf_redirect_neigh(interface, core::ptr::null_mut(), 0, 0) };
            return;
        }
        let mut neighbour = Neighbour { family: family as u32, address: *next_hop };
        // SAFETY: the structure has the kernel's layout and size; the helper copies it.
        unsafe { bpf_redirect_neigh(interface, (&raw mut neighbour).cast(), size_of::<Neighbour>() as i32, 0) };
    }
}

/// Length of what the kernel makes of each of a buffer's segments, from the IP header on (`skb_gso_network_seglen`).
#[inline(always)]
fn segment_length(frame: &SocketBuffer<'_>, packet: &Packet) -> u32 {
    let header = if packet.tuple.protocol == TCP {
        match pointer::<u8>(frame, packet.transport_offset as usize + TCP_DATA_OFFSET) {
            // SAFETY: `pointer` has checked the bounds.
            Some(length) => unsafe { (*length >> 4) as u32 * 4 },
            None => 0,
        }
    } else {
        UDP_HEADER
    };
    // SAFETY: the kernel's context.
    packet.transport_offset - ETHERNET as u32 + header + unsafe { (*frame.skb()).gso_size }
}
