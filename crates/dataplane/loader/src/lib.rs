//! Loads, pins, attaches and fills the eBPF data plane.
//!
//! ```text
//! DataPath::open ── preflight ── load, or adopt what is pinned ──> maps
//! DataPath::attach ── hook: tcx link (pinned) or clsact filter ──> packets flow
//! DataPath::set_frontend ── slots, tables ──> BACKENDS, TABLE, then FRONTENDS   (in this order)
//! DataPath::set_vips ──> VIPS                                                    (last: a VIP is answered once carried)
//! ```
//!
//! Everything lives in pinned maps and outlasts this process: [`DataPath::open`] adopts what it finds, and dropping a
//! [`DataPath`] detaches nothing. Only [`uninstall`] does.

mod batch;
mod datapath;
mod downgrade;
mod flows;
mod hook;
mod leftovers;
mod limits;
mod link;
mod migrate;
mod mode;
mod pins;
mod preflight;
mod programs;
mod shared;
mod slots;
mod sources;
mod spec;
mod tables;
mod traffic;
pub mod v1;
mod watched;

pub use datapath::{BackendUse, BackendUses, DataPath, Failure, FlowTableUse, Observed, Options, Others, Program};
pub use downgrade::{HandedBack, hand_back};
pub use flows::Record;
pub use hook::{Hook, HookChoice, Interface};
pub use leftovers::{Connection, Leftover};
pub use mode::{Mode, switch_mode};
pub use pins::{PIN_ROOT, nodes, uninstall};
pub use preflight::{Check, Preflight, Problem};
pub use spec::{BackendSpec, FrontendSpec, Limits, State};

/// The compiler that built the embedded eBPF object, as its `-V` prints it.
pub const OBJECT_COMPILER: &str = env!("EVENKEEL_BPF_COMPILER");

/// The embedded eBPF object, an ELF file.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("EVENKEEL_BPF_OBJECT"));

/// Why the data plane could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel or the process lacks something; each problem names its remedy.
    #[error("this machine cannot run the data plane:{}", .0.iter().map(|problem| format!("\n  - {problem}")).collect::<String>())]
    Preflight(Vec<Problem>),
    /// A pin or its directory could not be used.
    #[error("{path}: {source}")]
    Pin {
        /// Path under bpffs.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process drives these pins.
    #[error("another evenkeel drives {0}: stop it first, or choose another --node name")]
    Locked(std::path::PathBuf),
    /// The kernel does not say how many processors there are.
    #[error("cannot count the processors: {what}: {source}")]
    Processors {
        /// What was read.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no other version to hand anything to.
    #[error("no maps of version 1 were made to be handed to")]
    NoHeir,
    /// There is no such interface.
    #[error("interface {0} does not exist in this network namespace; `ip link` lists those that do")]
    NoInterface(String),
    /// The interface has no Ethernet address.
    #[error("interface {0} has no Ethernet address: a VIP cannot be announced there")]
    NotEthernet(String),
    /// More interfaces than a VIP's mask has bits.
    #[error("at most {} interfaces can be attached", evenkeel_maps::MAX_INTERFACES)]
    TooManyInterfaces,
    /// Two attached interfaces whose indices are a multiple of 65,536 apart.
    #[error("interface {0} cannot be attached beside one with almost the same index: delete it and make it again")]
    SameRow(String),
    /// The object could not be loaded.
    #[error("the kernel refused the eBPF object: {0}")]
    Load(#[from] aya::EbpfError),
    /// A program could not be loaded or attached.
    #[error("{what}: {source}")]
    Program {
        /// What was tried.
        what: String,
        /// What the kernel said, with the verifier's log if it was the verifier.
        source: Box<aya::programs::ProgramError>,
    },
    /// A map could not be read or changed.
    #[error("map {map}: {source}")]
    Map {
        /// The map's name.
        map: &'static str,
        /// What the kernel said.
        source: aya::maps::MapError,
    },
    /// A system call on a map failed.
    #[error("map {map}: {source}")]
    MapCall {
        /// The map's name.
        map: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A pinned map was made by a build whose map has another layout.
    #[error(
        "the pinned map {0} was made by another build, with another layout: remove it with `evenkeel uninstall` (its \
         flows end), or go on with that build"
    )]
    OtherLayout(&'static str),
    /// A newer version has pins for this node.
    #[error(
        "a newer evenkeel has set up the data path of this node ({path}), and two beside each other would both change its \
         packets: run that version, or have its `evenkeel downgrade --node {node}` hand everything over, or remove what it left with \
         `evenkeel uninstall --node {node}` (its flows end)"
    )]
    NewerLayout {
        /// Its directory under bpffs.
        path: std::path::PathBuf,
        /// The node's name.
        node: String,
    },
    /// As many frontends are carried as the data path was made for.
    #[error(
        "no room for another frontend: this node's data path was made for {frontends}; if an older build made it, `evenkeel \
         uninstall` (its flows end) lets this one make a larger one"
    )]
    NoFrontend {
        /// How many.
        frontends: usize,
    },
    /// All backend slots are in use.
    #[error("no backend slot is free: this node carries at most {} backends", evenkeel_maps::MAX_BACKENDS)]
    NoSlot,
    /// The table map is full.
    #[error("the Maglev tables of all frontends together exceed {slots} slots")]
    NoTableSpace {
        /// How many the map has.
        slots: usize,
    },
    /// A table names a backend that is not in the list.
    #[error("frontend {0:?}: its table names a backend it does not have")]
    BadTable(evenkeel_maps::FrontendKey),
}

fn map_error(map: &'static str) -> impl Fn(aya::maps::MapError) -> Error {
    move |source| Error::Map { map, source }
}
