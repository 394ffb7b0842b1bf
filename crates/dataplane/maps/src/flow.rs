//! The flow table: what a flow is, and how its records lie in memory.
//!
//! A record is one cache line in a bucket of [`WAYS`]; each flow has a choice of two buckets ([`place`](crate::place)). The
//! bucket's tags say which ways are taken. A packet from the client finds the record by its own five-tuple; one from the
//! backend by the reply index, whose entries name a tag and a record.
//!
//! Whoever wants to write a record first claims its way, by an atomic exchange of its tag for [`FlowBucket::CLAIMED`]; the
//! record is invalid (`protocol` zero) until it is complete.

use crate::{Address, TCP, UDP_SESSION_DATAGRAMS, hash::mix, ticks};

/// Records in a bucket.
pub const WAYS: usize = 16;
/// Entries in a bucket of the reply index.
pub(crate) const REPLY_ENTRIES: usize = 8;

/// A packet's five-tuple. The client's packets of a flow have one, the backend's another: the backend, and whom it takes for
/// its client.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port, big-endian.
    pub source_port: [u8; 2],
    /// Destination port, big-endian.
    pub destination_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

impl Tuple {
    /// The hash that places a flow in the table, by its client's packets.
    #[inline(always)]
    #[must_use]
    pub const fn hash(&self, seed: u64) -> u64 {
        hash(seed, self)
    }

    /// The hash that places a flow in the reply index, by its backend's packets.
    #[inline(always)]
    #[must_use]
    pub const fn reply_hash(&self, seed: u64) -> u64 {
        hash(!seed, self)
    }
}

#[inline(always)]
const fn hash(seed: u64, tuple: &Tuple) -> u64 {
    let [a, b] = tuple.source.halves();
    let [c, d] = tuple.destination.halves();
    let (from, to) = (tuple.source_port, tuple.destination_port);
    let ports = u32::from_ne_bytes([from[0], from[1], to[0], to[1]]) as u64;
    let hash = mix(mix(seed, a ^ (c << 1) ^ (c >> 63)), b);
    mix(mix(hash, d), ports | (tuple.protocol as u64) << 32)
}

/// A flow: as large as a cache line, and one in its bucket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client's address.
    pub client: Address,
    /// The VIP.
    pub vip: Address,
    /// The client's port, big-endian.
    pub client_port: [u8; 2],
    /// The VIP's port, big-endian.
    pub vip_port: [u8; 2],
    /// IP protocol number; zero: no flow.
    pub protocol: u8,
    /// [`Flow::ANSWERED`] and the other bits.
    pub state: u8,
    /// [`Backend::flags`](crate::Backend::flags) at the time of the pick, and [`Flow::FROM_HOST`].
    pub flags: u8,
    /// UDP: datagrams from the client without a long pause between them, up to [`UDP_SESSION_DATAGRAMS`]. TCP: one; and,
    /// where the backend is no longer an endpoint, one more for each time that the client asked in vain, more than
    /// [`Flow::IN_VAIN`] at once where user space has found that it is not there.
    pub datagrams: u8,
    /// Backend slot.
    pub backend: u32,
    /// [`Backend::generation`](crate::Backend::generation) at the time of the pick.
    pub generation: u32,
    /// Tick of the last packet of either side.
    pub last_seen: u32,
    /// Tick of the client's last packet.
    pub client_seen: u32,
    /// TCP initial sequence number of the client's SYN, as on the wire; zero when the flow was picked up mid-stream.
    pub initial_sequence: [u8; 4],
    /// The port that stands for the client's towards the backend, big-endian; zero: the client's own.
    pub source_port: [u8; 2],
    /// The row of the sources map that stands for the client's address.
    pub source: u8,
    /// Zero.
    pub pad: u8,
}

impl Flow {
    /// FIN seen from the client.
    pub const FIN_CLIENT: u8 = 1;
    /// FIN seen from the backend.
    pub const FIN_BACKEND: u8 = 2;
    /// RST seen from either side.
    pub const RESET: u8 = 4;
    /// The backend has answered.
    pub const ANSWERED: u8 = 8;
    /// The client has sent something after the backend's answer: neither address can be forged. What is established is not
    /// given up for what is not.
    pub const ESTABLISHED: u8 = 16;
    /// The first answer was a refusal: a RST, or an ICMP error that says unreachable.
    pub const REFUSED: u8 = 32;
    /// The client has sent its SYN again without an answer.
    pub const RETRIED: u8 = 64;
    /// Of the flags: the client is this host itself, so that replies stay here.
    pub const FROM_HOST: u8 = 128;
    /// Of [`Flow::datagrams`]: times that the client of a backend that is no longer an endpoint may ask, with an eighth of a
    /// second between them, before no answer means that it is not there any more. With Linux, data come again after 0.2 seconds,
    /// and what is there acknowledges them within 0.04.
    pub const IN_VAIN: u8 = 2;
    /// No flow.
    pub const NONE: Self = Self {
        client: Address::ZERO,
        vip: Address::ZERO,
        client_port: [0; 2],
        vip_port: [0; 2],
        protocol: 0,
        state: 0,
        flags: 0,
        datagrams: 0,
        backend: 0,
        generation: 0,
        last_seen: 0,
        client_seen: 0,
        initial_sequence: [0; 4],
        source_port: [0; 2],
        source: 0,
        pad: 0,
    };

    /// The tuple of the client's packets.
    #[inline(always)]
    #[must_use]
    pub const fn tuple(&self) -> Tuple {
        Tuple {
            source: self.client,
            destination: self.vip,
            source_port: self.client_port,
            destination_port: self.vip_port,
            protocol: self.protocol,
            pad: [0; 3],
        }
    }

    /// Whether both ends are done with this TCP flow.
    #[inline(always)]
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.state & Self::RESET != 0 || self.state & (Self::FIN_CLIENT | Self::FIN_BACKEND) == 3
    }

    /// Whether both ends have shown that they are there, and neither is done.
    #[inline(always)]
    #[must_use]
    pub const fn is_established(&self) -> bool {
        if self.protocol == TCP {
            self.state & Self::ESTABLISHED != 0 && !self.is_closed()
        } else {
            self.state & Self::ESTABLISHED != 0 && self.datagrams >= UDP_SESSION_DATAGRAMS
        }
    }

    /// Ticks without a packet after which the flow is over.
    #[inline(always)]
    #[must_use]
    pub const fn timeout(&self) -> u32 {
        if self.protocol != TCP {
            ticks::UDP_IDLE
        } else if self.state & Self::RESET != 0 {
            ticks::TCP_RESET
        } else if self.state & (Self::FIN_CLIENT | Self::FIN_BACKEND) == (Self::FIN_CLIENT | Self::FIN_BACKEND) {
            ticks::TCP_TIME_WAIT
        } else if self.state & (Self::FIN_CLIENT | Self::FIN_BACKEND) != 0 {
            ticks::TCP_CLOSING
        } else if self.state & Self::ESTABLISHED != 0 {
            ticks::TCP_ESTABLISHED
        } else {
            ticks::TCP_OPENING
        }
    }

    /// Ticks since the last packet; another CPU may have seen one after `now` was read.
    #[inline(always)]
    #[must_use]
    pub const fn quiet(&self, now: u32) -> u32 {
        since(self.last_seen, now)
    }

    /// Whether the flow is over: its record can be given away.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(&self, now: u32) -> bool {
        self.quiet(now) > self.timeout()
    }
}

/// Ticks from `then` to `now`; zero if `then` is a little later: another CPU may have looked at the clock after this one.
#[inline(always)]
#[must_use]
pub const fn since(then: u32, now: u32) -> u32 {
    let span = now.wrapping_sub(then);
    if span > u32::MAX - ticks::SECOND { 0 } else { span }
}

/// A bucket of the flow table.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowBucket {
    /// The tag of each way's record; [`FlowBucket::FREE`], [`FlowBucket::CLAIMED`].
    pub tags: [u32; WAYS],
    /// The records.
    pub flows: [Flow; WAYS],
}

impl FlowBucket {
    /// The way is free.
    pub const FREE: u32 = 0;
    /// Somebody is writing the record.
    pub const CLAIMED: u32 = 1;
}

/// A bucket of the reply index: a tag in the upper half of each entry, the number of a record (bucket times [`WAYS`] plus
/// way) in the lower; zero: free.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyBucket {
    /// The entries.
    pub entries: [u64; REPLY_ENTRIES],
}

impl ReplyBucket {
    /// Entries in a bucket.
    pub const ENTRIES: usize = REPLY_ENTRIES;

    /// An entry for the record `number`.
    #[inline(always)]
    #[must_use]
    pub const fn entry(tag: u32, number: u32) -> u64 {
        (tag as u64) << 32 | number as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(state: u8) -> Flow {
        Flow { protocol: TCP, state, ..Flow::NONE }
    }

    #[test]
    fn a_flow_is_closed_after_both_fins_or_a_reset() {
        assert!(!flow(Flow::FIN_CLIENT).is_closed());
        assert!(flow(Flow::FIN_CLIENT | Flow::FIN_BACKEND).is_closed());
        assert!(flow(Flow::RESET).is_closed());
    }

    #[test]
    fn records_live_as_long_as_their_state_asks() {
        let established = flow(Flow::ANSWERED | Flow::ESTABLISHED);
        assert!(established.timeout() > flow(0).timeout());
        assert!(flow(Flow::ESTABLISHED | Flow::FIN_CLIENT).timeout() < established.timeout());
        assert_eq!(flow(Flow::ESTABLISHED | Flow::FIN_CLIENT | Flow::FIN_BACKEND).timeout(), ticks::TCP_TIME_WAIT);
        assert!(established.is_over(established.timeout() + 1));
        assert!(!established.is_over(established.timeout()));
    }

    #[test]
    fn the_clock_may_wrap_and_another_cpu_may_be_ahead() {
        assert_eq!(since(u32::MAX - 5, 4), 10);
        assert_eq!(since(10, 8), 0);
    }

    #[test]
    fn the_hash_tells_everything_apart() {
        let key = Tuple {
            source: Address::v4([10, 0, 0, 1]),
            destination: Address::v4([10, 0, 0, 2]),
            source_port: [0, 80],
            destination_port: [1, 2],
            protocol: TCP,
            pad: [0; 3],
        };
        let other_port = Tuple { destination_port: [1, 3], ..key };
        let swapped = Tuple { source: key.destination, destination: key.source, ..key };
        let other_protocol = Tuple { protocol: 17, ..key };
        for other in [other_port, swapped, other_protocol] {
            assert_ne!(key.hash(1), other.hash(1));
        }
        assert_ne!(key.hash(1), key.hash(2));
        assert_ne!(key.hash(1), key.reply_hash(1));
    }
}
