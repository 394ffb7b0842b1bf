//! Connections that a backend refused or left without an answer: what is kept to bring them to another one.

/// SYNs that can be kept at one time. Each is kept until its backend has answered.
pub const SAVED_SYNS: usize = 65_536;
/// Flows that left a backend, of which its late packets can be told.
pub const FORMER_FLOWS: usize = 16_384;
/// Backends that a handshake may be brought to, the first among them.
pub const TRIED: usize = 4;
/// Backends that a refused connection is brought to, unless something else is asked for, before its client is told.
pub const RESCUE_TRIES: u8 = 3;

/// A client's SYN, as it came: all of it that a backend is to see. One lies at either of the two places that its key gives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedSyn {
    /// The hash of the flow ([`SavedSyn::key_of`]); [`SavedSyn::FREE`], [`SavedSyn::CLAIMED`].
    pub key: u64,
    /// Tick at which it came.
    pub seen: u32,
    /// Sequence number, as on the wire.
    pub sequence: [u8; 4],
    /// Backend slots that had it, the latest last; [`SavedSyn::NOBODY`] where there was none.
    pub tried: [u32; TRIED],
    /// How often it was brought to another one.
    pub tries: u32,
    /// IPv6: version, traffic class and flow label. IPv4: identification and fragment field.
    pub label: [u8; 4],
    /// IPv4: type of service.
    pub service: u8,
    /// Time to live, on arrival.
    pub ttl: u8,
    /// TCP data offset and reserved bits.
    pub data_offset: u8,
    /// TCP flags.
    pub flags: u8,
    /// TCP window, as on the wire.
    pub window: [u8; 2],
    /// Not zero: it carried data (RFC 7413), which is not kept.
    pub has_data: u8,
    /// Which places of `tried` said nothing at all, one bit each: the lowest is the first.
    pub silent: u8,
    /// TCP options, as on the wire, in words as they lie in memory; zero behind them.
    pub options: [u32; 10],
}

impl SavedSyn {
    /// In `key`: nothing is kept here.
    pub const FREE: u64 = 0;
    /// In `key`: somebody is writing.
    pub const CLAIMED: u64 = 1;
    /// In `tried`.
    pub const NOBODY: u32 = u32::MAX;

    /// The key of a flow with this hash.
    #[inline(always)]
    #[must_use]
    pub const fn key_of(hash: u64) -> u64 {
        hash | 2
    }

    /// The two places of a key. They are neighbours, so that a look at both costs hardly more than one.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a part of the hash")]
    pub const fn places(key: u64) -> [u32; 2] {
        const MASK: u32 = SAVED_SYNS as u32 - 1;
        let place = (key >> 8) as u32 & MASK;
        [place, place ^ 1]
    }

    /// Bytes of TCP options.
    #[inline(always)]
    #[must_use]
    pub const fn options_length(&self) -> u32 {
        let header = (self.data_offset >> 4) as u32 * 4;
        header.saturating_sub(20)
    }
}
