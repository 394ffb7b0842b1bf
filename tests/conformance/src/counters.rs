//! The programs' counters, read with one system call (`BPF_MAP_LOOKUP_BATCH`, kernel 5.13 for arrays of every CPU).
#![expect(unsafe_code, reason = "the bpf system call takes pointers; aya does not wrap this command")]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::maps::MapData;
use evenkeel_maps::Outcome;

const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

/// The kernel's `union bpf_attr` for batch commands.
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// The counters of all interfaces.
pub(crate) struct Counters {
    map: MapData,
    cpus: usize,
    keys: [u32; Outcome::ROW],
    values: Vec<u64>,
}

impl Counters {
    /// Opens the pinned map.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        let map = MapData::from_pin(path)?;
        Ok(Self { map, cpus, keys: [0; Outcome::ROW], values: vec![0; cpus * Outcome::ROW] })
    }

    /// Packets by the index of their outcome, on the interface with this row.
    pub(crate) fn row(&mut self, row: u32) -> io::Result<[u64; Outcome::ROW]> {
        let first = row * u32::try_from(Outcome::ROW).unwrap_or(0);
        // The kernel begins behind the key that it is given.
        let before = first.wrapping_sub(1);
        let mut next = 0_u32;
        let mut attributes = Attributes {
            in_batch: if first == 0 { 0 } else { (&raw const before) as u64 },
            out_batch: (&raw mut next) as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: u32::try_from(Outcome::ROW).unwrap_or(0),
            map: u32::try_from(self.map.fd().as_fd().as_raw_fd()).unwrap_or(u32::MAX),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the buffers have room for `count` keys and, of every CPU, values.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attributes, size_of::<Attributes>()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut sums = [0; Outcome::ROW];
        for (sum, cpus) in sums.iter_mut().zip(self.values.chunks(self.cpus)) {
            *sum = cpus.iter().sum();
        }
        Ok(sums)
    }
}
