//! `xtask bpf`: builds the eBPF object that is committed beside its sources, or checks it.

use std::{fs, path::Path};

use crate::bench::harness;
use anyhow::{Context as _, bail};
use evenkeel_builder::{COMMITTED, INSTALL_HINT, Toolchain, build, notes, sources_digest};

/// Build the eBPF object and put it into the tree.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing: fail when the committed object is not what the sources give
    #[arg(long)]
    check: bool,
    /// Build the programs of the benchmarks instead, and print where their object lies
    #[arg(long, conflicts_with = "check")]
    harness: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.harness {
        println!("{}", harness::build()?.display());
        return Ok(());
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let committed = workspace.join(COMMITTED);
    let toolchain = Toolchain::find();
    if !args.check {
        let toolchain = toolchain.context(INSTALL_HINT)?;
        let object = build(&workspace, &workspace.join("target/bpf"), &toolchain)?;
        fs::create_dir_all(committed.parent().context("no parent")?)?;
        fs::copy(&object.path, &committed)?;
        println!("{COMMITTED}: {} bytes, by {}", fs::metadata(&committed)?.len(), object.compiler);
        return Ok(());
    }
    let notes = notes(&committed)?;
    if notes.sources != sources_digest(&workspace)? {
        bail!("{COMMITTED} is older than its sources: run `make bpf` and commit it");
    }
    let Some(toolchain) = toolchain.filter(|toolchain| toolchain.version == notes.compiler) else {
        println!("{COMMITTED}: built from these sources, it says, by {}", notes.compiler);
        println!("  that compiler is not here, so the bytes were not compared; the tests judge its behaviour");
        return Ok(());
    };
    let object = build(&workspace, &workspace.join("target/bpf"), &toolchain)?;
    if fs::read(&object.path)? != fs::read(&committed)? {
        bail!("{COMMITTED} differs from what {} makes of the sources: run `make bpf` and commit it", notes.compiler);
    }
    println!("{COMMITTED}: byte for byte what {} makes of the sources", notes.compiler);
    Ok(())
}
