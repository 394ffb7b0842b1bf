//! The flow table of version 1 of the maps: a hash map of IPv4 packets, with one entry for each direction of a flow.
//!
//! While this version takes over, some packets of a flow meet programs of version 1 and others those of this one, so that the
//! programs of this one keep both tables (`docs/decisions/0020-schema-migration.md`).

use crate::Tuple;

/// Key of the flow table: a packet's five-tuple in the direction in which it is seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
    /// Source port, big-endian.
    pub source_port: [u8; 2],
    /// Destination port, big-endian.
    pub destination_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

impl FlowKey {
    /// The key of a packet of IPv4.
    #[inline(always)]
    #[must_use]
    pub const fn of(tuple: &Tuple) -> Self {
        Self {
            source: tuple.source.low(),
            destination: tuple.destination.low(),
            source_port: tuple.source_port,
            destination_port: tuple.destination_port,
            protocol: tuple.protocol,
            pad: [0; 3],
        }
    }
}

/// One direction of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// `CLOCK_MONOTONIC` nanoseconds of the last packet.
    pub last_seen: u64,
    /// The backend ([`Flow::FORWARD`]) or the VIP ([`Flow::REPLY`]).
    pub address: [u8; 4],
    /// Its port, big-endian.
    pub port: [u8; 2],
    /// [`Flow::FORWARD`] or [`Flow::REPLY`].
    pub direction: u8,
    /// Bits for both FINs and a reset, as in [`crate::Flow`]; on the forward entry.
    pub state: u8,
    /// Backend slot.
    pub backend: u32,
    /// [`Backend::generation`](crate::Backend::generation) at the time of the pick.
    pub generation: u32,
    /// TCP initial sequence number of the client's SYN, as on the wire; zero when the flow was picked up mid-stream.
    pub initial_sequence: [u8; 4],
    /// [`Backend::flags`](crate::Backend::flags) at the time of the pick.
    pub flags: u8,
    /// Datagrams from the client without a long pause between them.
    pub datagrams: u8,
    /// Zero.
    pub pad: [u8; 2],
}

impl Flow {
    /// Client to VIP.
    pub const FORWARD: u8 = 0;
    /// Backend to client.
    pub const REPLY: u8 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_the_size_they_had() {
        assert_eq!(size_of::<FlowKey>(), 16);
        assert_eq!(size_of::<Flow>(), 32);
    }
}
