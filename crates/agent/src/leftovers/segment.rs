//! A TCP segment that fits into no connection, with its IP header.

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;

const HOP_LIMIT: u8 = 64;

/// An acknowledgement without data from one end to the other, and without a window; `None` if they are of two families.
pub(crate) fn acknowledgement(from: SocketAddr, to: SocketAddr, sequence: u32, acknowledged: u32) -> Option<Vec<u8>> {
    let header = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            PacketBuilder::ipv4(source.octets(), destination.octets(), HOP_LIMIT)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            PacketBuilder::ipv6(source.octets(), destination.octets(), HOP_LIMIT)
        }
        _ => return None,
    };
    let segment = header.tcp(from.port(), to.port(), sequence, 0).ack(acknowledged);
    let mut packet = Vec::with_capacity(segment.size(0));
    segment.write(&mut packet, &[]).ok()?;
    Some(packet)
}
