//! A TCP segment that fits into no connection, with its IP header.

use std::net::{IpAddr, SocketAddr};

/// Bytes of a TCP header without options.
const TCP_LENGTH: u16 = 20;
/// Its length in words, in the upper half of its byte (RFC 9293 section 3.1).
const DATA_OFFSET: u8 = 5 << 4;
const ACK: u8 = 0x10;
const TCP: u8 = 6;
const HOP_LIMIT: u8 = 64;

/// An acknowledgement without data from one end to the other; `None` if they are of two families.
pub(crate) fn acknowledgement(from: SocketAddr, to: SocketAddr, sequence: u32, acknowledged: u32) -> Option<Vec<u8>> {
    let mut tcp = Vec::with_capacity(TCP_LENGTH.into());
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend(acknowledged.to_be_bytes());
    // Window and urgent pointer zero; the checksum follows.
    tcp.extend([DATA_OFFSET, ACK, 0, 0, 0, 0, 0, 0]);
    let (mut packet, pseudo) = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            // RFC 791 section 3.1: version and header length, and Don't Fragment. The kernel fills in the checksum (raw(7)).
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, HOP_LIMIT, TCP, 0, 0];
            header[2..4].copy_from_slice(&(20 + TCP_LENGTH).to_be_bytes());
            let addresses = [source.octets(), destination.octets()].concat();
            header.extend(&addresses);
            (header, addresses)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            // RFC 8200 section 3.
            let mut header = vec![0x60, 0, 0, 0, 0, 0, TCP, HOP_LIMIT];
            header[4..6].copy_from_slice(&TCP_LENGTH.to_be_bytes());
            let addresses = [source.octets(), destination.octets()].concat();
            header.extend(&addresses);
            (header, addresses)
        }
        _ => return None,
    };
    let sum = words(&pseudo) + words(&tcp) + u32::from(TCP) + u32::from(TCP_LENGTH);
    tcp[16..18].copy_from_slice(&fold(sum).to_be_bytes());
    packet.extend(tcp);
    Some(packet)
}

fn words(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

/// RFC 1071.
fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}
