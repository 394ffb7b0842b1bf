//! What the packet code needs to know of the hook it runs on.

use core::ffi::c_void;

use evenkeel_maps::Interface;

use crate::{packet::Packet, steps::Steps};

/// A frame at a hook. The code above is written once, for every hook there is.
pub trait Frame: Steps {
    /// Whether the hook sees the frame before the kernel has looked at it: then VLAN tags are in the data, and nobody has
    /// checked whom it is addressed to.
    const RAW: bool;

    /// Start and end of the data that can be reached by pointers.
    fn bounds(&self) -> (usize, usize);
    /// Length of the whole frame, in bytes.
    fn length(&self) -> u32;
    /// The same, asked for where `expected` bytes are likely to be all: what can be reached is counted first, where counting
    /// all costs a call.
    #[inline(always)]
    fn length_beyond(&self, _expected: u32) -> u32 {
        self.length()
    }
    /// Index of the interface.
    fn interface(&self) -> u32;
    /// The kernel's context, for helpers.
    fn context(&self) -> *mut c_void;
    /// EtherType in host byte order, of what follows the Ethernet header; zero when there is none.
    fn ether_type(&self) -> u16;
    /// Whether a VLAN tag belongs to the frame.
    fn is_tagged(&self) -> bool;
    /// Whom the frame is addressed to.
    fn receiver(&self, interface: &Interface) -> Receiver;
    /// Makes `bytes` from the start reachable by pointers, as far as the frame has so many.
    fn pull(&self, bytes: u32);
    /// Whether the packet leaves in pieces of at most `mtu` bytes, from the IP header on, without anybody having to be told: it
    /// fits, or the kernel holds several segments in one that do.
    fn fits(&self, packet: &Packet, mtu: u32) -> bool;
    /// Whether the kernel holds several segments in this one: its length may not be in its header.
    fn is_several(&self) -> bool;
    /// Updates the transport checksum at `offset` for changes outside the transport segment that the pseudo-header covers,
    /// and inside it. `false`: not done, and nothing is changed.
    fn update_checksum(&self, offset: u32, outside: u32, inside: u32, kind: Checksum) -> bool;
    /// Whether the transport checksum at `offset` is still to be completed when the frame is sent. It may move the data.
    fn is_checksum_partial(&self, offset: u32) -> bool;
    /// Makes the frame this long.
    fn set_length(&self, length: u32) -> bool;
    /// Makes the frame this long, and keeps nothing of it but the Ethernet header.
    fn resize(&self, length: u32) -> bool;
    /// Makes room for `bytes` behind the Ethernet header.
    fn insert(&self, bytes: u32) -> bool;
    /// Takes `bytes` away behind the Ethernet header.
    fn remove(&self, bytes: u32) -> bool;
    /// Copies `length` bytes, fewer than 1024, at `offset` of the frame to `to`, which has room for them.
    fn load(&self, offset: u32, to: *mut u8, length: u32) -> bool;
    /// Sends the frame out through `interface`, with the hardware addresses it has.
    fn send(&self, interface: u32);
    /// Sends the frame back to where it came from: out through its interface, or into this host if the host was sending it.
    #[inline(always)]
    fn send_back(&self) {
        self.send(self.interface());
    }
    /// Whether this host itself made the packet and is sending it.
    #[inline(always)]
    fn is_from_host(&self) -> bool {
        false
    }
    /// Hands a frame that was leaving to the kernel, as if its interface had just received it.
    fn receive(&self);
    /// Whether [`Self::send`] gets frames to this interface.
    fn can_send(&self, interface: u32) -> bool;
    /// Lets the kernel find the neighbour and send the frame there; not where frames are raw.
    fn send_to_neighbour(&self, interface: u32, family: u8, next_hop: &[u32; 4]);
}

/// Whom a frame is addressed to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Receiver {
    /// This host alone.
    Host,
    /// A group of hosts, or all.
    Group,
    /// Another host.
    Other,
}

/// Rules for a transport checksum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// Always there.
    Plain,
    /// Zero means "none" and stays; what becomes zero is sent as all ones (RFC 768).
    Udp,
}

/// A pointer to a `T` at `offset`, if it lies inside the reachable data.
///
/// `offset` is below 256: the verifier wants a bound it can see on an offset that was read from the packet.
#[inline(always)]
pub fn pointer<T>(frame: &impl Frame, offset: usize) -> Option<*mut T> {
    let (start, end) = frame.bounds();
    let at = start + (offset & 0xff);
    if at + size_of::<T>() > end {
        return None;
    }
    Some(at as *mut T)
}
