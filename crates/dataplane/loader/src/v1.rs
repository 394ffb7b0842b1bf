//! The maps of version 1, as that version laid them out. They are read when this version takes over, and made and filled when it
//! hands back; its flow table is read and written by the programs meanwhile ([`evenkeel_maps::v1`]).
//!
//! Version 1 knew IPv4 alone.

use aya::Pod;
pub use evenkeel_maps::v1::{Flow, FlowKey};

/// The version.
pub const VERSION: u32 = 1;
/// Rows of its table map.
pub(crate) const TABLE_ROWS: usize = 262_144;
/// Entries of its other maps.
pub(crate) const MAX_FRONTENDS: u32 = 16_384;
pub(crate) const MAX_VIPS: u32 = 8_192;
pub(crate) const MAX_INTERFACES: u32 = 32;
pub(crate) const OUTCOMES: u32 = 29;

/// Key of the frontends map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrontendKey {
    /// VIP.
    pub address: [u8; 4],
    /// Port, big-endian.
    pub port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// A frontend. Bit 0 of its flags was and is [`evenkeel_maps::Frontend::SOURCE_AFFINITY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// First row of the Maglev table in the table map, whose layout has not changed.
    pub table_row: u32,
    /// Slots of the Maglev table.
    pub table_size: u32,
    /// The bits.
    pub flags: u32,
}

/// A backend slot. States and flags had the numbers they have now.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Address to forward to.
    pub address: [u8; 4],
    /// Port to forward to, big-endian.
    pub port: [u8; 2],
    /// One of [`evenkeel_maps::backend_state`].
    pub state: u8,
    /// [`evenkeel_maps::Backend::DIRECT`].
    pub flags: u8,
    /// The frontend this slot belongs to.
    pub frontend: FrontendKey,
    /// A flow of another generation is stale.
    pub generation: u32,
    /// Zero.
    pub pad: u32,
}

/// Value of the interfaces map, keyed by interface index.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Hardware address to answer with.
    pub mac: [u8; 6],
    /// Bit number in [`evenkeel_maps::Vip::answer_on`], which has not changed.
    pub slot: u8,
    /// Zero.
    pub pad: u8,
}

/// The one entry of the settings map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Keys the flow hash. Zero: not set yet.
    pub hash_seed: u64,
}

macro_rules! plain {
    ($($type:ty),+ $(,)?) => { $(
        #[expect(unsafe_code, reason = "promises aya that the type may be copied to and from the kernel as bytes")]
        // SAFETY: repr(C), integers and byte arrays only, and explicit padding fields.
        unsafe impl Pod for $type {}
    )+ };
}
plain!(FrontendKey, Frontend, Backend, Interface, Settings);

/// Names of its maps, as in its object and as pinned.
pub mod map {
    /// [`FrontendKey`](super::FrontendKey) to [`Frontend`](super::Frontend).
    pub const FRONTENDS: &str = "FRONTENDS";
    /// IPv4 address to [`evenkeel_maps::Vip`].
    pub const VIPS: &str = "VIPS";
    /// Slot to [`Backend`](super::Backend); shared memory.
    pub const BACKENDS: &str = "BACKENDS";
    /// Rows of Maglev slots holding backend slots; shared memory.
    pub const TABLE: &str = "TABLE";
    /// [`FlowKey`](super::FlowKey) to [`Flow`](super::Flow).
    pub const FLOWS: &str = "FLOWS";
    /// Interface index to [`Interface`](super::Interface).
    pub const INTERFACES: &str = "INTERFACES";
    /// Packets by outcome, per CPU. They are not carried over.
    pub const COUNTERS: &str = "COUNTERS";
    /// Zero to [`Settings`](super::Settings).
    pub const SETTINGS: &str = "SETTINGS";
    /// All of them.
    pub const ALL: [&str; 8] = [FRONTENDS, VIPS, BACKENDS, TABLE, FLOWS, INTERFACES, COUNTERS, SETTINGS];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_the_size_they_had() {
        assert_eq!(size_of::<FrontendKey>(), 8);
        assert_eq!(size_of::<Frontend>(), 12);
        assert_eq!(size_of::<Backend>(), 24);
        assert_eq!(size_of::<Interface>(), 8);
    }
}
