//! Changing addresses and ports, with every checksum kept right.

use core::mem::offset_of;

use evenkeel_maps::{Address, TCP};

use crate::{
    checksum,
    frame::{Checksum, Frame, pointer},
    packet::{ETHERNET, Ipv4Header, Ipv6Header, Packet},
    word::{read_16, write_16, write_32, write_64},
};

/// What to do with the time to live.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// The kernel routes the packet and counts the hop.
    Keep,
    /// The packet leaves by our hand: the hop is counted here.
    Decrement,
}

/// The addresses and ports a packet gets; those it has, where nothing changes.
pub struct Ends {
    pub source: Address,
    pub destination: Address,
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
}

impl Ends {
    /// Those the packet has.
    #[inline(always)]
    pub fn of(packet: &Packet) -> Self {
        Self {
            source: packet.tuple.source,
            destination: packet.tuple.destination,
            source_port: packet.tuple.source_port,
            destination_port: packet.tuple.destination_port,
        }
    }
}

/// Gives a packet other ends. Later fragments have no ports and no checksum to change. `None`: the packet could not be
/// changed, and must not go on half rewritten.
#[inline(never)]
pub fn rewrite<F: Frame>(frame: &F, packet: &Packet, ends: &Ends, ttl: Ttl) -> Option<()> {
    rewrite_here(frame, packet, ends, ttl)
}

/// The same, without a call.
#[inline(always)]
pub fn rewrite_here(frame: &impl Frame, packet: &Packet, ends: &Ends, ttl: Ttl) -> Option<()> {
    let addresses = checksum::difference_address(packet.ipv6, &packet.tuple.source, &ends.source)
        + checksum::difference_address(packet.ipv6, &packet.tuple.destination, &ends.destination);
    if packet.has_ports() {
        let ports = checksum::difference_16(packet.tuple.source_port, ends.source_port)
            + checksum::difference_16(packet.tuple.destination_port, ends.destination_port);
        let kind = if packet.tuple.protocol == TCP { Checksum::Plain } else { Checksum::Udp };
        let (outside, inside) = (checksum::fold_32(addresses), checksum::fold_32(ports));
        if !frame.update_checksum(packet.checksum_offset(), outside, inside, kind) {
            return None;
        }
        // The helpers may have moved the data: take the pointers now, and below.
        let ports = pointer::<[[u8; 2]; 2]>(frame, packet.transport_offset as usize)?;
        // SAFETY: `pointer` has checked the bounds, here and below.
        unsafe {
            write_16::<0>(ports.cast(), u16::from_ne_bytes(ends.source_port));
            write_16::<2>(ports.cast(), u16::from_ne_bytes(ends.destination_port));
        }
    }
    if packet.ipv6 {
        let ip = pointer::<Ipv6Header>(frame, ETHERNET)?;
        let ([a, b], [c, d]) = (ends.source.halves(), ends.destination.halves());
        unsafe {
            write_64::<8>(ip.cast(), a);
            write_64::<16>(ip.cast(), b);
            write_64::<24>(ip.cast(), c);
            write_64::<32>(ip.cast(), d);
            if ttl == Ttl::Decrement {
                (*ip).hop_limit -= 1;
            }
        }
    } else {
        const CHECKSUM: usize = offset_of!(Ipv4Header, checksum);
        let ip = pointer::<Ipv4Header>(frame, ETHERNET)?;
        let ([.., source], [.., destination]) = (ends.source.quarters(), ends.destination.quarters());
        let mut difference = addresses;
        unsafe {
            if ttl == Ttl::Decrement {
                let old = [(*ip).ttl, (*ip).protocol];
                (*ip).ttl -= 1;
                difference += checksum::difference_16(old, [(*ip).ttl, (*ip).protocol]);
            }
            write_32::<{ offset_of!(Ipv4Header, source) }>(ip.cast(), source);
            write_32::<{ offset_of!(Ipv4Header, destination) }>(ip.cast(), destination);
            let before = read_16::<CHECKSUM>(ip.cast());
            write_16::<CHECKSUM>(ip.cast(), checksum::update_word(before, difference));
        }
    }
    Some(())
}
