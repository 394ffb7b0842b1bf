//! Chooses the eBPF object to embed: freshly built where a matching toolchain is found, else the committed one.

use std::{env, path::PathBuf};

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR")?);
    let workspace = manifest.join("../../..").canonicalize()?;
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR")?);
    // OUT_DIR is TARGET/PROFILE/build/PACKAGE/out: one eBPF build directory serves all profiles.
    let target = out.ancestors().nth(4).context("OUT_DIR is not below a target directory")?.join("bpf");
    println!("cargo::rerun-if-env-changed={}", evenkeel_builder::CHOICE);
    for source in evenkeel_builder::SOURCES.iter().chain([&evenkeel_builder::COMMITTED, &"Cargo.lock"]) {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    let choice = env::var(evenkeel_builder::CHOICE).ok();
    let object = evenkeel_builder::object(&workspace, &target, choice.as_deref())?;
    println!("cargo::rustc-env=EVENKEEL_BPF_OBJECT={}", object.path.display());
    println!("cargo::rustc-env=EVENKEEL_BPF_COMPILER={}", object.compiler);
    println!("cargo::rustc-env=EVENKEEL_BPF_DIGEST={}", &evenkeel_builder::file_digest(&object.path)?[..16]);
    Ok(())
}
