//! Types shared by the eBPF programs and user space: the schema of the pinned maps.
//!
//! Addresses and ports are byte arrays in network byte order, so neither side can forget a conversion; counters, times
//! and indices are native integers. Every type is `repr(C)` without implicit padding, because the kernel compares map
//! keys byte by byte.
//!
//! Maps survive the process that made them. A change of any layout here is a new [`SCHEMA_VERSION`]; pins of different
//! versions live in different directories.
#![no_std]

mod address;
mod flow;
mod hash;
mod outcome;
mod rescue;
pub mod v1;

pub use address::Address;
pub use flow::{Flow, FlowBucket, ReplyBucket, Tuple, WAYS, since};
pub use hash::{Place, address_bit, mix, place};
pub use outcome::{Outcome, Verdict};
pub use rescue::{FORMER_FLOWS, RESCUE_TRIES, SAVED_SYNS, SavedSyn, TRIED};

/// Version of the map layouts in this crate; part of the pin path.
pub const SCHEMA_VERSION: u32 = 2;

/// Capacity of [`Backend`] slots on one node: 50,000 endpoints with two ports each, and room for tombstones.
pub const MAX_BACKENDS: usize = 131_072;
/// Capacity of frontends on one node: 10,000 services with three ports, or with one port and both families. A data path that is
/// there keeps the capacity it was made with.
pub const MAX_FRONTENDS: usize = 32_768;
/// Capacity of VIPs on one node: each has a frontend.
pub const MAX_VIPS: usize = MAX_FRONTENDS;
/// Capacity of source ranges, all frontends together.
pub const MAX_SOURCE_RANGES: usize = 65_536;
/// Flows the flow table is made for when nothing else is asked for.
pub const DEFAULT_FLOWS: usize = 262_144;
/// Buckets of the flow table in the object; user space sets the real number when it makes the map.
pub const DEFAULT_FLOW_BUCKETS: usize = DEFAULT_FLOWS / WAYS;
/// Buckets of the reply index for every bucket of the flow table: half of its entries stay free.
pub const REPLY_BUCKETS_PER_FLOW_BUCKET: usize = 2 * WAYS / flow::REPLY_ENTRIES;
/// Datagrams whose later fragments are awaited at one time.
pub const MAX_FRAGMENTED: usize = 16_384;
/// Groups of processors, at most, that count traffic apart from each other: where there are more processors, those of a group
/// count by atomic additions. A copy for every processor would be 4 MiB for each, however few backends there are.
pub const MAX_TRAFFIC_GROUPS: usize = 8;
/// Interfaces that can be attached at once: the width of [`Vip::answer_on`].
pub const MAX_INTERFACES: usize = 32;
/// Rows of [`map::INTERFACES`]; an interface's row is its index modulo this.
pub const INTERFACE_ROWS: usize = 65_536;
/// Next hops that each CPU remembers.
pub const NEXT_HOPS: usize = 4_096;
/// Bits of [`map::WATCHED`]: few enough to stay in the cache, and enough for 55,000 addresses with 5 % of false alarms.
pub const WATCHED_BITS: usize = 1 << 20;
/// Source addresses for rewriting, of each family.
pub const MAX_SOURCES: usize = 8;

/// Maglev slots in one row of the table map: a cache line, because the kernel pads array values to eight bytes.
pub const TABLE_ROW: usize = 16;
/// Rows of the table map: 16 Mi Maglev slots, 64 MiB. 10,000 frontends with five backends each take five sixteenths.
pub const TABLE_ROWS: usize = 1_048_576;

/// A UDP flow with this many datagrams from the client is a session; with fewer it is an exchange of question and answer.
pub const UDP_SESSION_DATAGRAMS: u8 = 4;

/// Spans of time, in ticks of the programs' clock.
pub mod ticks {
    /// Ticks in a second. A tick is 2^20 ns, about a millisecond: the programs shift the kernel's clock instead of dividing
    /// it.
    pub const SECOND: u32 = 954;
    /// A UDP flow is over after this long without a packet, and its next datagram picks a backend anew.
    pub const UDP_IDLE: u32 = 60 * SECOND;
    /// An exchange is over after this long without a packet from the client. A draining backend keeps its sessions, but the
    /// next question from the same client port goes to a backend that stays.
    pub const UDP_EXCHANGE_IDLE: u32 = SECOND;
    /// A SYN that nobody answered.
    pub const TCP_OPENING: u32 = 30 * SECOND;
    /// An established connection without a packet: two hours and four minutes, RFC 5382 REQ-5.
    pub const TCP_ESTABLISHED: u32 = 7_440 * SECOND;
    /// One side has sent its FIN.
    pub const TCP_CLOSING: u32 = 600 * SECOND;
    /// Both have: the tuple rests while the one that closed first may be in TIME-WAIT.
    pub const TCP_TIME_WAIT: u32 = 60 * SECOND;
    /// After a reset.
    pub const TCP_RESET: u32 = 10 * SECOND;
    /// The slot of a backend that is gone is kept this long after both FINs: the last acknowledgement, or a FIN that was
    /// lost and is sent again, still has to get there.
    pub const TCP_LINGER: u32 = 10 * SECOND;
    /// A next hop is looked up anew after this long, even if nobody has told that it changed.
    pub const NEXT_HOP: u32 = SECOND;
    /// A record's times are not brought up to date more often than this: a line that is only read is not written back to
    /// memory.
    pub const REFRESH: u32 = SECOND / 8;
    /// A SYN that comes again sooner is taken for a copy that the network made: nobody sends one again within this time (RFC
    /// 6298 section 2.1 waits a second).
    pub const SYN_AGAIN: u32 = SECOND / 4;
    /// New flows keep away from a backend that refused a datagram for this long: longer than hosts wait between two such
    /// refusals to one client (a second, RFC 1812 section 4.3.2.8 and Linux' `icmp_ratelimit`), so that the next one can be
    /// heard.
    pub const EJECTION: u32 = SECOND + SECOND / 8;
    /// Fragments of a datagram that are this late come too late.
    pub const FRAGMENTS: u32 = 30 * SECOND;

    /// The tick of a kernel time in nanoseconds. Wraps after seven weeks; spans are differences modulo 2^32.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the clock of ticks wraps")]
    pub const fn from_ns(nanoseconds: u64) -> u32 {
        (nanoseconds >> 20) as u32
    }
}

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// IP protocol number of SCTP.
pub const SCTP: u8 = 132;

#[cfg(feature = "user")]
macro_rules! plain {
    ($($type:ty),+ $(,)?) => { $(
        #[expect(unsafe_code, reason = "promises aya that the type may be copied to and from the kernel as bytes")]
        // SAFETY: repr(C), integers and byte arrays only, and explicit padding fields.
        unsafe impl aya::Pod for $type {}
    )+ };
}
#[cfg(feature = "user")]
plain!(
    Address,
    FrontendKey,
    Frontend,
    Vip,
    Claim,
    Questions,
    Attendance,
    Backend,
    Tuple,
    Flow,
    FlowBucket,
    ReplyBucket,
    Interface,
    Settings,
    Traffic,
    Limit,
    SourceRange,
    RefusalKey,
    SavedSyn,
    v1::FlowKey,
    v1::Flow
);

/// Key of the frontends map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKey {
    /// VIP.
    pub address: Address,
    /// Port, big-endian.
    pub port: [u8; 2],
    /// IP protocol number: [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 5],
}

impl FrontendKey {
    /// The key of `port`, in host byte order, of a VIP.
    #[must_use]
    pub fn new(address: impl Into<Address>, port: u16, protocol: u8) -> Self {
        Self { address: address.into(), port: port.to_be_bytes(), protocol, pad: [0; 5] }
    }

    /// The port in host byte order.
    #[must_use]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }
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
    /// [`Frontend::SOURCE_AFFINITY`] and the other bits; above them [`Frontend::members`].
    pub flags: u32,
    /// The frontend's number: its part of the source ranges and of the refusals.
    pub number: u32,
    /// Its row in the limits map, which frontends of one service share.
    pub limit: u32,
}

impl Frontend {
    /// Pick by client address alone, so that all of a client's flows meet the same backend.
    pub const SOURCE_AFFINITY: u32 = 1;
    /// Only clients in the source ranges may connect.
    pub const SOURCE_RANGES: u32 = 2;
    /// [`Frontend::limit`] applies.
    pub const LIMITED: u32 = 4;
    /// Replace the client's address by one of this node's, so that replies come back here.
    pub const REWRITE_SOURCE: u32 = 8;
    /// Each packet goes to the next backend of the table, and nothing is remembered of it.
    pub const PER_PACKET: u32 = 16;
    /// New flows are refused as if the port had no frontend; those that exist go on.
    pub const CLOSED: u32 = 32;
    /// Where the number of members lies in the flags.
    const MEMBERS: u32 = 16;
    /// As many members as can be told.
    pub const MAX_MEMBERS: u32 = u32::MAX >> Self::MEMBERS;

    /// These flags and this many members, at most [`Frontend::MAX_MEMBERS`].
    #[inline(always)]
    #[must_use]
    pub const fn with_members(flags: u32, members: u32) -> u32 {
        flags | members << Self::MEMBERS
    }

    /// The flags without the number of members.
    #[inline(always)]
    #[must_use]
    pub const fn options(&self) -> u32 {
        self.flags & ((1 << Self::MEMBERS) - 1)
    }

    /// Entries behind the Maglev table, in which each of its backends is once: who looks for another backend finds there
    /// those that have so little weight that the table's next slots are all another's. Zero where weights are alike.
    #[inline(always)]
    #[must_use]
    pub const fn members(&self) -> u32 {
        self.flags >> Self::MEMBERS
    }

    /// The table's slots and the members behind them.
    #[inline(always)]
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.table_size.saturating_add(self.members())
    }
}

/// Value of the VIPs map, keyed by address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vip {
    /// Bit `n` set: this node owns the VIP and answers for it on the interface whose [`Interface::slot`] is `n`.
    pub answer_on: u32,
}

/// Value of the claims map, keyed by VIP: another host claims what this node answers for. The programs write it, user space
/// removes it when it has found out who is right; meanwhile they do not answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The hardware address of who claims it.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
}

/// Value of the questions map, keyed by VIP: ARP requests and neighbour solicitations for what this node owns.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Questions {
    /// That were asked.
    pub asked: u64,
    /// That were answered.
    pub answered: u64,
}

/// The one entry of the attendance map: on what terms the programs answer for VIPs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attendance {
    /// They do until then, in nanoseconds of the monotonic clock; zero: whether or not anybody attends to them.
    pub until: u64,
    /// Not zero: they stop answering for a VIP that another host claims.
    pub yields: u32,
    /// Not zero: only those are answered that know where a VIP is, and ask there to make sure; nobody is told who asks all.
    pub withdrawn: u32,
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

/// A backend of one frontend, one cache line. The identity (everything but `state` and `share`) is written while the slot
/// is free and never changes while it is in use.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Address to forward to.
    pub address: Address,
    /// The frontend this slot belongs to.
    pub frontend: FrontendKey,
    /// Port to forward to, big-endian.
    pub port: [u8; 2],
    /// One of [`backend_state`].
    pub state: u8,
    /// [`Backend::DIRECT`] and the other bits.
    pub flags: u8,
    /// Rises each time the slot is given to another backend; a flow of an older generation is stale.
    pub generation: u32,
    /// Of 255 new flows that would meet this backend, how many do; the others go to the next one in the table. What health
    /// checks say, beside the state, which is what the endpoint says.
    pub share: u8,
    /// Zero.
    pub pad: [u8; 3],
    /// Not zero: it refused a datagram, and new flows keep away from it until this tick; the lowest bit
    /// ([`Backend::PROBED`]) says that one flow is trying it meanwhile. The programs' own.
    pub ejected_until: u32,
    /// Zero.
    pub pad_2: [u8; 8],
}

impl Backend {
    /// In [`Backend::ejected_until`].
    pub const PROBED: u32 = 1;
    /// Forward past the node's stack, to the next hop.
    pub const DIRECT: u8 = 1;
    /// Replace the client's address by one of this node's, so that replies come back here.
    pub const REWRITE_SOURCE: u8 = 2;
    /// Its frontend is limited: what becomes of its flows is counted.
    pub const LIMITED: u8 = 4;
    /// All of its flows.
    pub const FULL_SHARE: u8 = 255;
    /// An unused slot.
    pub const FREE: Self = Self {
        address: Address::ZERO,
        frontend: FrontendKey { address: Address::ZERO, port: [0; 2], protocol: 0, pad: [0; 5] },
        port: [0; 2],
        state: backend_state::FREE,
        flags: 0,
        generation: 0,
        share: 0,
        pad: [0; 3],
        ejected_until: 0,
        pad_2: [0; 8],
    };
}

/// Packets and bytes of one backend, as one group of processors counted them. User space adds the groups up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients, with Ethernet headers.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes to clients, with Ethernet headers.
    pub bytes_out: u64,
}

/// What a service's frontends together may take; one row of the limits map, indexed by [`Frontend::limit`]. The programs count on it, user
/// space corrects the count of flows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Flows at one time; zero: no limit.
    pub flows: u32,
    /// Flows at present, as far as known: the programs add and take away, user space counts anew.
    pub present: u32,
    /// New flows a second; zero: no limit.
    pub rate: u32,
    /// New flows that may come at once.
    pub burst: u32,
    /// Tick of the last look at the rate in the upper half, thousandths of new flows that may come now in the lower.
    pub bucket: u64,
}

/// Key data of the source ranges, a longest-prefix-match trie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRange {
    /// [`Frontend::number`], always matched in full.
    pub frontend: u32,
    /// The network.
    pub address: [u8; 16],
}

impl SourceRange {
    /// Bits of the key before the address.
    pub const FRONTEND_BITS: u32 = 32;
    /// Bits of an IPv4-mapped address before the IPv4 address.
    pub const MAPPED_BITS: u32 = 96;
    /// Value of a range that lets in every client whose address it holds.
    pub const ALL: u8 = 1;
    /// Value of an IPv6 range: one such as `::/0` holds the mapped addresses too, and means none of the clients that have those.
    pub const IPV6: u8 = 2;
}

/// Key of the refusals map: what a frontend did not take, by reason.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RefusalKey {
    /// [`Frontend::number`].
    pub frontend: u32,
    /// [`Outcome::index`].
    pub outcome: u32,
}

/// A datagram of which the first fragment has been seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification, as on the wire; IPv4's in the first two bytes.
    pub identification: [u8; 4],
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// The ports that only the first fragment carries.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentPorts {
    /// Source port, big-endian.
    pub source_port: [u8; 2],
    /// Destination port, big-endian.
    pub destination_port: [u8; 2],
    /// Tick of the first fragment.
    pub seen: u32,
}

/// A next hop as one CPU remembers it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The destination it leads to.
    pub address: Address,
    /// Interface to leave by.
    pub interface: u32,
    /// Tick of the lookup.
    pub seen: u32,
    /// [`Settings::next_hop_epoch`] at the lookup.
    pub epoch: u32,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Hardware address of the neighbour, then of the interface: the first twelve bytes of the frame, in words as they lie in
    /// memory.
    pub macs: [u32; 3],
    /// Interface the packet came from; routing may depend on it.
    pub from: u32,
}

/// An interface: a row of the interfaces map, at its index modulo [`INTERFACE_ROWS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Hardware address to answer with.
    pub mac: [u8; 6],
    /// Bit number in [`Vip::answer_on`] and part of the counters; [`Interface::NOT_ATTACHED`] if no program is attached.
    pub slot: u8,
    /// [`Interface::TAKES_FRAMES`].
    pub flags: u8,
    /// The interface's index; zero: the row is empty.
    pub index: u32,
    /// Zero.
    pub pad: u32,
}

impl Interface {
    /// In `slot`: no program is attached, the row only tells what the interface can do.
    pub const NOT_ATTACHED: u8 = 0xff;
    /// The driver sends frames that an XDP program of another interface redirects to it.
    pub const TAKES_FRAMES: u8 = 1;
    /// An empty row.
    pub const NONE: Self = Self { mac: [0; 6], slot: Self::NOT_ATTACHED, flags: 0, index: 0, pad: 0 };
}

/// What the programs do with packets.
pub mod mode {
    /// Balance them.
    pub const ACTIVE: u32 = 0;
    /// Count what would be balanced and let it pass.
    pub const OBSERVE: u32 = 1;
    /// Let everything pass.
    pub const BYPASS: u32 = 2;
}

/// The one entry of the settings map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Keys the flow hash, so that a client cannot choose its backend. Zero: not set yet.
    pub hash_seed: u64,
    /// Buckets of the flow table.
    pub flow_buckets: u32,
    /// Rises when routes or neighbours change: next hops of another epoch are looked up anew.
    pub next_hop_epoch: u32,
    /// One of [`mode`].
    pub mode: u32,
    /// Refusals (RST, unreachable) a second and CPU.
    pub refusals: u32,
    /// First port of the range for rewritten sources, in host byte order.
    pub source_port: u16,
    /// Ports in that range.
    pub source_ports: u16,
    /// IPv4 addresses in the sources map, from row zero.
    pub sources_v4: u8,
    /// IPv6 addresses in the sources map, from row [`MAX_SOURCES`].
    pub sources_v6: u8,
    /// How often a connection that its backend refused is brought to another one; zero: neither connections nor datagrams
    /// are.
    pub rescue_tries: u8,
    /// Not zero: programs of version 1 may still see some of the packets ([`v1`]).
    pub takes_over: u8,
    /// Nanoseconds in a jiffy, by which the kernel counts time where the programs can read it without a call.
    pub jiffy_ns: u64,
}

/// Names of the maps, as in the object and as pinned.
pub mod map {
    /// [`FrontendKey`](crate::FrontendKey) to [`Frontend`](crate::Frontend).
    pub const FRONTENDS: &str = "FRONTENDS";
    /// VIP to [`Vip`](crate::Vip).
    pub const VIPS: &str = "VIPS";
    /// VIP to [`Claim`](crate::Claim).
    pub const CLAIMS: &str = "CLAIMS";
    /// VIP to [`Questions`](crate::Questions).
    pub const QUESTIONS: &str = "QUESTIONS";
    /// Zero to [`Attendance`](crate::Attendance); shared memory.
    pub const ATTENDANCE: &str = "ATTENDANCE";
    /// Bits of the addresses that concern the programs ([`address_bit`](crate::address_bit)); shared memory.
    pub const WATCHED: &str = "WATCHED";
    /// Slot to [`Backend`](crate::Backend); shared memory.
    pub const BACKENDS: &str = "BACKENDS";
    /// Rows of Maglev slots holding backend slots; shared memory.
    pub const TABLE: &str = "TABLE";
    /// [`FlowBucket`](crate::FlowBucket)s; shared memory.
    pub const FLOWS: &str = "FLOWS";
    /// [`ReplyBucket`](crate::ReplyBucket)s; shared memory.
    pub const REPLIES: &str = "REPLIES";
    /// [`FragmentKey`](crate::FragmentKey) to [`FragmentPorts`](crate::FragmentPorts).
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// [`SavedSyn`](crate::SavedSyn)s; shared memory.
    pub const SAVED_SYNS: &str = "SAVED_SYNS";
    /// Hash of a backend's packets to the [`Flow`](crate::Flow) that it had until it failed its client.
    pub const FORMER: &str = "FORMER";
    /// [`SourceRange`](crate::SourceRange) to [`SourceRange::ALL`](crate::SourceRange::ALL) or
    /// [`SourceRange::IPV6`](crate::SourceRange::IPV6).
    pub const SOURCE_RANGES: &str = "SOURCE_RANGES";
    /// [`Frontend::limit`](crate::Frontend::limit) to [`Limit`](crate::Limit); shared memory.
    pub const LIMITS: &str = "LIMITS";
    /// [`Frontend::number`](crate::Frontend::number) to the number of packets it has handed out, if it is one of
    /// [`Frontend::PER_PACKET`](crate::Frontend::PER_PACKET).
    pub const TURNS: &str = "TURNS";
    /// Addresses for rewritten sources.
    pub const SOURCE_ADDRESSES: &str = "SOURCE_ADDRESSES";
    /// Interface index, modulo its rows, to [`Interface`](crate::Interface); shared memory.
    pub const INTERFACES: &str = "INTERFACES";
    /// Packets by interface slot and [`Outcome`](crate::Outcome), per CPU.
    pub const COUNTERS: &str = "COUNTERS";
    /// Group of processors times [`MAX_BACKENDS`](crate::MAX_BACKENDS) plus backend slot, to [`Traffic`](crate::Traffic); shared
    /// memory.
    pub const TRAFFIC: &str = "TRAFFIC_ROWS";
    /// Names that maps of this schema had in earlier builds, and are of no use any more.
    pub const RETIRED: [&str; 1] = ["TRAFFIC"];
    /// [`RefusalKey`](crate::RefusalKey) to packets.
    pub const REFUSALS: &str = "REFUSALS";
    /// Zero to [`Settings`](crate::Settings); shared memory.
    pub const SETTINGS: &str = "SETTINGS";
    /// [`v1::FlowKey`](crate::v1::FlowKey) to [`v1::Flow`](crate::v1::Flow): the flow table of version 1 while this version
    /// takes over, otherwise one of a single entry that nobody uses; not pinned.
    pub const V1_FLOWS: &str = "V1_FLOWS";
    /// All that are pinned. What only one CPU remembers for a moment is not.
    pub const ALL: [&str; 22] = [
        FRONTENDS,
        VIPS,
        WATCHED,
        BACKENDS,
        TABLE,
        FLOWS,
        REPLIES,
        FRAGMENTS,
        SAVED_SYNS,
        FORMER,
        SOURCE_RANGES,
        LIMITS,
        TURNS,
        SOURCE_ADDRESSES,
        INTERFACES,
        COUNTERS,
        TRAFFIC,
        REFUSALS,
        SETTINGS,
        CLAIMS,
        QUESTIONS,
        ATTENDANCE,
    ];
}

/// Names of the programs in the object.
pub mod program {
    /// The ingress hook of an interface (tc, tcx).
    pub const INGRESS: &str = "evenkeel_in";
    /// The egress hook of an interface (tc, tcx).
    pub const EGRESS: &str = "evenkeel_out";
    /// The XDP hook of an interface, in the place of [`INGRESS`].
    pub const XDP: &str = "evenkeel_xdp";
    /// Attached nowhere: returns the programs' clock, in [`ticks`](crate::ticks).
    pub const CLOCK: &str = "evenkeel_clock";
}

/// Names of the constants in the object that user space sets before it loads the programs, all `u32`.
pub mod constant {
    /// Groups of processors that count traffic apart from each other: a power of two, up to
    /// [`MAX_TRAFFIC_GROUPS`](crate::MAX_TRAFFIC_GROUPS).
    pub const TRAFFIC_GROUPS: &str = "TRAFFIC_GROUPS";
    /// Not zero: a group has more than one processor.
    pub const TRAFFIC_IS_SHARED: &str = "TRAFFIC_IS_SHARED";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_the_size_the_kernel_sees() {
        assert_eq!(size_of::<FrontendKey>(), 24);
        assert_eq!(size_of::<Frontend>(), 20);
        assert_eq!(size_of::<Backend>(), 64);
        assert_eq!(size_of::<Tuple>(), 40);
        assert_eq!(size_of::<Flow>(), 64);
        assert_eq!(size_of::<FlowBucket>(), 64 * (WAYS + 1));
        assert_eq!(size_of::<ReplyBucket>(), 64);
        assert_eq!(size_of::<Interface>(), 16);
        assert_eq!(size_of::<FragmentKey>(), 40);
        assert_eq!(size_of::<NextHop>(), 48);
        assert_eq!(size_of::<SavedSyn>(), 88);
        // Array values shared by mmap must be a multiple of eight bytes, or indices do not match addresses.
        assert_eq!(size_of::<Settings>() % 8, 0);
        assert_eq!(size_of::<Attendance>() % 8, 0);
        assert_eq!(size_of::<Limit>() % 8, 0);
        assert_eq!(size_of::<[u32; TABLE_ROW]>() % 8, 0);
    }
}
