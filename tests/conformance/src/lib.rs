//! What the data plane does with packets, held by the real eBPF object one test run at a time.
//!
//! - [`fixture`]: `tests/packets/*.txt`, cases of packets in and packets out, in the notation of [`evenkeel_frames`].
//! - [`node`]: a node with the object loaded and named neighbours, whose programs packets are run through.
//! - [`check`]: runs the cases of a file on every program and shows what differs.
//! - [`fuzz`]: any packet at all, and what must hold of it.
//! - [`soak`]: millions of flows while endpoints come and go, held against a model.
//! - [`index`]: which known defects of such programs which cases hold.

pub mod check;
mod counters;
pub mod fixture;
pub mod fuzz;
pub mod index;
pub mod node;
mod random;
pub mod soak;

use std::{fs, path::Path};

use anyhow::Context as _;

use crate::fixture::Fixture;

/// All fixtures, by name.
///
/// # Errors
/// The first file that cannot be read.
pub fn fixtures() -> anyhow::Result<Vec<Fixture>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packets");
    let mut paths = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            paths.push(path);
        }
    }
    paths.sort();
    let names = node::names()?;
    paths.iter().map(|path| Fixture::read(path, &names)).collect()
}
