//! Frames at the XDP hook: the driver's buffer, before the kernel has made a socket buffer of it. Checksums are complete.

use core::{arch::asm, ffi::c_void, mem::offset_of};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{xdp_action::XDP_REDIRECT, xdp_action::XDP_TX, xdp_md},
    helpers::generated::{
        bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
    },
    programs::XdpContext,
};
use evenkeel_maps::Interface;

use crate::{
    checksum,
    frame::{self, Checksum, Frame, Receiver},
    maps,
    packet::{self, Packet},
    word::{read_16, read_32, write_16},
};

/// A driver's buffer.
pub struct DriverBuffer<'a> {
    pub context: &'a XdpContext,
}

#[repr(C)]
struct Ethernet {
    destination: [u8; 6],
    source: [u8; 6],
    ether_type: [u8; 2],
}

impl DriverBuffer<'_> {
    /// Moves the beginning of the frame by so many bytes, and its Ethernet header with it.
    #[inline(always)]
    fn shift(&self, bytes: i32) -> bool {
        let Some(from) = frame::pointer::<Ethernet>(self, 0) else { return false };
        // SAFETY: `pointer` has checked the bounds.
        let header = unsafe { core::ptr::read(from) };
        if unsafe { bpf_xdp_adjust_head(self.context.ctx, bytes) } != 0 {
            return false;
        }
        let Some(to) = frame::pointer::<Ethernet>(self, 0) else { return false };
        unsafe { *to = header };
        true
    }
}

impl Frame for DriverBuffer<'_> {
    const RAW: bool = true;

    /// As for a socket buffer, the loads are spelled out.
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let (start, end): (usize, usize);
        // SAFETY: loads of two fields of the kernel's context, nothing else.
        unsafe {
            asm!(
                "{start} = *(u32 *)({md} + {data})",
                "{end} = *(u32 *)({md} + {data_end})",
                md = in(reg) self.context.ctx,
                start = out(reg) start,
                end = lateout(reg) end,
                data = const offset_of!(xdp_md, data),
                data_end = const offset_of!(xdp_md, data_end),
                options(nostack, preserves_flags),
            );
        }
        (start, end)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: a helper on the kernel's context.
        unsafe { bpf_xdp_get_buff_len(self.context.ctx) as u32 }
    }

    #[inline(always)]
    fn length_beyond(&self, expected: u32) -> u32 {
        let (start, end) = self.bounds();
        let reachable = (end - start) as u32;
        if expected <= reachable { reachable } else { self.length() }
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the kernel's context, valid while the program runs; the verifier checks the field.
        unsafe { (*self.context.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.context.as_ptr()
    }

    #[inline(always)]
    fn ether_type(&self) -> u16 {
        match frame::pointer::<Ethernet>(self, 0) {
            // SAFETY: `pointer` has checked the bounds, here and below.
            Some(ethernet) => u16::from_be(unsafe { read_16::<12>(ethernet.cast()) }),
            None => 0,
        }
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        matches!(self.ether_type(), packet::ETHER_TYPE_VLAN | packet::ETHER_TYPE_SERVICE_VLAN)
    }

    #[inline(always)]
    fn receiver(&self, interface: &Interface) -> Receiver {
        let Some(ethernet) = frame::pointer::<Ethernet>(self, 0) else { return Receiver::Other };
        let (first, last) = unsafe { (read_32::<0>(ethernet.cast()), read_16::<4>(ethernet.cast())) };
        let [a, b, c, d, e, f] = interface.mac;
        // The lowest bit of the first byte marks groups.
        if first == u32::from_ne_bytes([a, b, c, d]) && last == u16::from_ne_bytes([e, f]) {
            Receiver::Host
        } else if unsafe { (*ethernet).destination[0] } & 1 != 0 {
            Receiver::Group
        } else {
            Receiver::Other
        }
    }

    /// Headers are in the first buffer of a frame that has several.
    #[inline(always)]
    fn pull(&self, _: u32) {}

    #[inline(always)]
    fn fits(&self, packet: &Packet, mtu: u32) -> bool {
        packet.length <= mtu
    }

    #[inline(always)]
    fn is_several(&self) -> bool {
        false
    }

    #[inline(always)]
    fn update_checksum(&self, offset: u32, outside: u32, inside: u32, kind: Checksum) -> bool {
        let Some(field) = frame::pointer::<[u8; 2]>(self, offset as usize) else { return false };
        let before = unsafe { read_16::<0>(field.cast()) };
        if kind == Checksum::Udp && before == 0 {
            return true;
        }
        let mut after = checksum::update_word(before, outside as u64 + inside as u64);
        if kind == Checksum::Udp && after == 0 {
            after = 0xffff;
        }
        unsafe { write_16::<0>(field.cast(), after) };
        true
    }

    #[inline(always)]
    fn is_checksum_partial(&self, _: u32) -> bool {
        false
    }

    #[inline(always)]
    fn set_length(&self, length: u32) -> bool {
        let change = length as i32 - self.length() as i32;
        unsafe { bpf_xdp_adjust_tail(self.context.ctx, change) == 0 }
    }

    /// At the head, where there is always room: drivers leave little or none at the tail.
    #[inline(always)]
    fn resize(&self, length: u32) -> bool {
        self.shift(self.length() as i32 - length as i32)
    }

    #[inline(always)]
    fn remove(&self, bytes: u32) -> bool {
        self.shift(bytes as i32)
    }

    #[inline(always)]
    fn load(&self, offset: u32, to: *mut u8, length: u32) -> bool {
        unsafe { bpf_xdp_load_bytes(self.context.ctx, offset, to.cast(), length) == 0 }
    }

    #[inline(always)]
    fn insert(&self, bytes: u32) -> bool {
        if unsafe { bpf_xdp_adjust_head(self.context.ctx, -(bytes as i32)) } != 0 {
            return false;
        }
        let (Some(to), Some(from)) =
            (frame::pointer::<Ethernet>(self, 0), frame::pointer::<Ethernet>(self, bytes as usize))
        else {
            return false;
        };
        // SAFETY: `pointer` has checked the bounds; what is inserted is longer than the header that moves.
        unsafe { *to = core::ptr::read(from) };
        true
    }

    #[inline(always)]
    fn send(&self, interface: u32) {
        let returns = interface == self.interface();
        if let Some(work) = maps::work() {
            work.driver_action = if returns { XDP_TX } else { XDP_REDIRECT };
        }
        if !returns {
            // SAFETY: a helper without pointers.
            unsafe { bpf_redirect(interface, 0) };
        }
    }

    /// Nothing leaves through this hook.
    #[inline(always)]
    fn receive(&self) {}

    #[inline(always)]
    fn can_send(&self, interface: u32) -> bool {
        interface == self.interface() || maps::interface(interface).flags & Interface::TAKES_FRAMES != 0
    }

    #[inline(always)]
    fn send_to_neighbour(&self, _: u32, _: u8, _: &[u32; 4]) {}
}
