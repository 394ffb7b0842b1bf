//! The frames of the soak: as short as can be, and without checksums, which the programs only correct.

use std::net::{IpAddr, SocketAddr};

use evenkeel_maps::TCP;

/// The hardware address of the node towards its clients.
const NODE: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// TCP flags.
pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

/// What a packet is, besides its ends.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) protocol: u8,
    /// TCP flags.
    pub(super) flags: u8,
    pub(super) sequence: u32,
}

/// A frame from one end to the other.
pub(super) fn build(from: SocketAddr, to: SocketAddr, kind: Kind) -> Vec<u8> {
    let transport = if kind.protocol == TCP { 20 } else { 8 };
    let mut frame = [NODE, [2, 0, 0, 0, 0, 0xc1]].concat();
    match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([8, 0, 0x45, 0, 0, 20 + transport, 0, 0, 0x40, 0, 64, kind.protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (source, destination) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, transport, kind.protocol, 64]);
            for address in [source, destination] {
                frame.extend(if let IpAddr::V6(address) = address { address.octets() } else { [0; 16] });
            }
        }
    }
    frame.extend(from.port().to_be_bytes());
    frame.extend(to.port().to_be_bytes());
    if kind.protocol == TCP {
        frame.extend(kind.sequence.to_be_bytes());
        // What it acknowledges is looked at in refusals only.
        frame.extend([0, 0, 0, 0, 0x50, kind.flags, 0xff, 0xff, 0, 0, 0, 0]);
    } else {
        frame.extend([0, 8, 0, 0]);
    }
    frame
}

/// The ends of a frame.
pub(super) fn ends(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let port = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    if frame.get(12..14)? == [8, 0] {
        let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
        Some((SocketAddr::new(address(26)?, port(34)?), SocketAddr::new(address(30)?, port(36)?)))
    } else {
        let address = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?));
        Some((SocketAddr::new(address(22)?, port(54)?), SocketAddr::new(address(38)?, port(56)?)))
    }
}
