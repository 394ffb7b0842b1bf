//! Types shared by the eBPF programs and user space: the schema of the pinned maps.
//!
//! Addresses and ports are byte arrays in network byte order, so neither side can forget a conversion; counters, times
//! and indices are native integers. Every type is `repr(C)` without implicit padding, because the kernel compares map
//! keys byte by byte.
//!
//! Maps survive the process that made them. A change of any layout here is a new [`SCHEMA_VERSION`]; pins of different
//! versions live in different directories.
#![no_std]

mod outcome;

pub use outcome::{Outcome, Verdict};

/// Version of the map layouts in this crate; part of the pin path.
pub const SCHEMA_VERSION: u32 = 1;

/// Capacity of [`Backend`] slots on one node: 50,000 endpoints with two ports each, and room for tombstones.
pub const MAX_BACKENDS: usize = 131_072;
/// Capacity of frontends on one node.
pub const MAX_FRONTENDS: usize = 16_384;
/// Capacity of VIPs on one node.
pub const MAX_VIPS: usize = 8_192;
/// Entries of the flow table when nothing else is asked for; a connection takes two, one a direction.
pub const DEFAULT_FLOW_ENTRIES: usize = 524_288;
/// Interfaces that can be attached at once: the width of [`Vip::answer_on`].
pub const MAX_INTERFACES: usize = 32;

/// Maglev slots in one row of the table map: a cache line, because the kernel pads array values to eight bytes.
pub const TABLE_ROW: usize = 16;
/// Rows of the table map: 4 Mi Maglev slots, 16 MiB.
pub const TABLE_ROWS: usize = 262_144;

/// Nanoseconds without a packet after which a UDP flow is over and its next datagram picks a backend anew.
pub const UDP_IDLE_NS: u64 = 60_000_000_000;
/// A UDP flow with this many datagrams from the client is a session; with fewer it is an exchange of question and answer.
pub const UDP_SESSION_DATAGRAMS: u8 = 4;
/// Nanoseconds without a packet after which an exchange is over. A draining backend keeps its sessions, but the next
/// question from the same client port goes to a backend that stays.
pub const UDP_EXCHANGE_IDLE_NS: u64 = 1_000_000_000;
/// Nanoseconds without a packet after which a TCP flow no longer blocks the reuse of its reply tuple and no longer
/// counts as live.
pub const TCP_IDLE_NS: u64 = 7_200_000_000_000;

/// Nanoseconds for which the slot of a backend that is gone is kept after both FINs: the last acknowledgement, or a FIN
/// that was lost and is sent again, still has to get there.
pub const TCP_LINGER_NS: u64 = 10_000_000_000;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

#[cfg(feature = "user")]
macro_rules! plain {
    ($($type:ty),+ $(,)?) => { $(
        #[expect(unsafe_code, reason = "promises aya that the type may be copied to and from the kernel as bytes")]
        // SAFETY: repr(C), integers and byte arrays only, and explicit padding fields.
        unsafe impl aya::Pod for $type {}
    )+ };
}
#[cfg(feature = "user")]
plain!(FrontendKey, Frontend, Vip, Backend, FlowKey, Flow, Interface, Settings);

/// Key of the frontends map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKey {
    /// VIP.
    pub address: [u8; 4],
    /// Port, big-endian.
    pub port: [u8; 2],
    /// IP protocol number: [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// A frontend: where its Maglev table lies, and how it picks. Replaced as a whole, so a reader sees the old table or the
/// new one and never a mixture.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// First row of the Maglev table in the table map.
    pub table_row: u32,
    /// Slots of the Maglev table; zero when no backend takes new flows.
    pub table_size: u32,
    /// [`Frontend::SOURCE_AFFINITY`].
    pub flags: u32,
}

impl Frontend {
    /// Pick by client address alone, so that all of a client's flows meet the same backend.
    pub const SOURCE_AFFINITY: u32 = 1;
}

/// Value of the VIPs map, keyed by address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vip {
    /// Bit `n` set: this node owns the VIP and answers for it on the interface whose [`Interface::slot`] is `n`.
    pub answer_on: u32,
}

/// State of a backend slot.
pub mod backend_state {
    /// The slot is unused.
    pub const FREE: u8 = 0;
    /// Takes new flows.
    pub const ACTIVE: u8 = 1;
    /// Established flows only.
    pub const DRAIN: u8 = 2;
    /// Not ready: established TCP goes on, UDP picks anew.
    pub const DOWN: u8 = 3;
    /// No longer an endpoint; kept while TCP flows use it. UDP picks anew.
    pub const TOMBSTONE: u8 = 4;
}

/// A backend of one frontend. The identity (everything but `state`) is written while the slot is free and never changes
/// while it is in use.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Address to forward to.
    pub address: [u8; 4],
    /// Port to forward to, big-endian.
    pub port: [u8; 2],
    /// One of [`backend_state`].
    pub state: u8,
    /// [`Backend::DIRECT`].
    pub flags: u8,
    /// The frontend this slot belongs to.
    pub frontend: FrontendKey,
    /// Rises each time the slot is given to another backend; a flow of an older generation is stale.
    pub generation: u32,
    /// Zero.
    pub pad: u32,
}

impl Backend {
    /// Forward past the node's stack, to the next hop.
    pub const DIRECT: u8 = 1;
}

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

/// Which way a flow entry points.
pub mod direction {
    /// Client to VIP: the entry holds the backend's address and port.
    pub const FORWARD: u8 = 0;
    /// Backend to client: the entry holds the VIP and its port.
    pub const REPLY: u8 = 1;
}

/// One direction of a flow: what to write into the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// `CLOCK_MONOTONIC` nanoseconds of the last packet.
    pub last_seen: u64,
    /// New destination ([`direction::FORWARD`]) or source ([`direction::REPLY`]).
    pub address: [u8; 4],
    /// Its port, big-endian.
    pub port: [u8; 2],
    /// One of [`direction`].
    pub direction: u8,
    /// [`Flow::RESET`] and the other bits; kept on the forward entry.
    pub state: u8,
    /// Backend slot.
    pub backend: u32,
    /// [`Backend::generation`] at the time of the pick.
    pub generation: u32,
    /// TCP initial sequence number of the client's SYN, as on the wire; zero when the flow was picked up mid-stream.
    pub initial_sequence: [u8; 4],
    /// [`Backend::flags`] at the time of the pick.
    pub flags: u8,
    /// Datagrams from the client without a long pause between them, up to [`UDP_SESSION_DATAGRAMS`].
    pub datagrams: u8,
    /// Zero.
    pub pad: [u8; 2],
}

impl Flow {
    /// FIN seen from the client.
    pub const FIN_CLIENT: u8 = 1;
    /// FIN seen from the backend.
    pub const FIN_BACKEND: u8 = 2;
    /// RST seen from either side.
    pub const RESET: u8 = 4;

    /// Whether both ends are done with this TCP flow.
    #[inline(always)]
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.state & Self::RESET != 0 || self.state & (Self::FIN_CLIENT | Self::FIN_BACKEND) == 3
    }
}

/// Value of the interfaces map, keyed by interface index.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Hardware address to answer with.
    pub mac: [u8; 6],
    /// Bit number in [`Vip::answer_on`].
    pub slot: u8,
    /// Zero.
    pub pad: u8,
}

/// The one entry of the settings map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Keys the flow hash, so that a client cannot choose its backend. Zero: not set yet.
    pub hash_seed: u64,
}

/// Names of the maps, as in the object and as pinned.
pub mod map {
    /// [`FrontendKey`](crate::FrontendKey) to [`Frontend`](crate::Frontend).
    pub const FRONTENDS: &str = "FRONTENDS";
    /// VIP to [`Vip`](crate::Vip).
    pub const VIPS: &str = "VIPS";
    /// Slot to [`Backend`](crate::Backend); shared memory.
    pub const BACKENDS: &str = "BACKENDS";
    /// Rows of Maglev slots holding backend slots; shared memory.
    pub const TABLE: &str = "TABLE";
    /// [`FlowKey`](crate::FlowKey) to [`Flow`](crate::Flow).
    pub const FLOWS: &str = "FLOWS";
    /// Interface index to [`Interface`](crate::Interface).
    pub const INTERFACES: &str = "INTERFACES";
    /// [`Outcome`](crate::Outcome) to packets, per CPU.
    pub const COUNTERS: &str = "COUNTERS";
    /// Zero to [`Settings`](crate::Settings).
    pub const SETTINGS: &str = "SETTINGS";
    /// All of them.
    pub const ALL: [&str; 8] = [FRONTENDS, VIPS, BACKENDS, TABLE, FLOWS, INTERFACES, COUNTERS, SETTINGS];
}

/// Names of the programs in the object.
pub mod program {
    /// The ingress hook of an interface (tc, tcx).
    pub const INGRESS: &str = "evenkeel_in";
    /// The egress hook of an interface (tc, tcx).
    pub const EGRESS: &str = "evenkeel_out";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_the_size_the_kernel_sees() {
        assert_eq!(size_of::<FrontendKey>(), 8);
        assert_eq!(size_of::<Frontend>(), 12);
        assert_eq!(size_of::<Backend>(), 24);
        assert_eq!(size_of::<FlowKey>(), 16);
        assert_eq!(size_of::<Flow>(), 32);
        assert_eq!(size_of::<Interface>(), 8);
        // Array values shared by mmap must be a multiple of eight bytes, or indices do not match addresses.
        assert_eq!(size_of::<Backend>() % 8, 0);
        assert_eq!(size_of::<[u32; TABLE_ROW]>() % 8, 0);
    }

    #[test]
    fn a_flow_is_closed_after_both_fins_or_a_reset() {
        let mut flow = Flow {
            last_seen: 0,
            address: [0; 4],
            port: [0; 2],
            direction: direction::FORWARD,
            state: Flow::FIN_CLIENT,
            backend: 0,
            generation: 0,
            initial_sequence: [0; 4],
            flags: 0,
            datagrams: 0,
            pad: [0; 2],
        };
        assert!(!flow.is_closed());
        flow.state |= Flow::FIN_BACKEND;
        assert!(flow.is_closed());
        flow.state = Flow::RESET;
        assert!(flow.is_closed());
    }
}
