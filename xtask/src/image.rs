//! `cargo xtask image`: an OCI image from a static binary, without any container tooling.
//!
//! The same binary gives the same image, bit for bit: entries are in order, times are zero, nothing else is taken from
//! the machine. The layout is that of the OCI image specification 1.1, as an archive.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Where the binary is in the image.
const BINARY: &str = "usr/local/bin/evenkeel";
/// The other name of it, under which kubectl would find it.
const PLUGIN: &str = "usr/local/bin/kubectl-evenkeel";
/// What is mounted over, or written to: an image with a read-only root has to have it.
const DIRECTORIES: [&str; 9] =
    ["run", "run/evenkeel", "sys", "tmp", "usr", "usr/local", "usr/local/bin", "var", "var/lib"];
/// The beginning of every ELF file.
const ELF_MAGIC: &[u8] = b"\x7fELF";
/// The program header that names a dynamic loader (elf(5), `PT_INTERP`).
const PT_INTERP: u32 = 3;

/// Write an OCI image archive of a static binary.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The static binary
    #[arg(long, value_name = "FILE")]
    binary: PathBuf,
    /// Where the archive is written
    #[arg(long, default_value = "target/image/evenkeel.oci.tar", value_name = "FILE")]
    output: PathBuf,
    /// The image's name within the archive
    #[arg(long, default_value = concat!("evenkeel:", env!("CARGO_PKG_VERSION")), value_name = "NAME")]
    name: String,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let binary = fs::read(&args.binary).with_context(|| format!("cannot read {}", args.binary.display()))?;
    ensure!(is_static(&binary), "{} is no static x86-64 executable: build it by `make image`", args.binary.display());
    let archive = archive(&binary, &args.name)?;
    if let Some(parent) = args.output.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&args.output, &archive).with_context(|| format!("cannot write {}", args.output.display()))?;
    println!("{} {} bytes sha256:{}", args.output.display(), archive.len(), digest(&archive));
    Ok(())
}

/// Whether it is an executable for x86-64 that asks for no dynamic loader.
fn is_static(binary: &[u8]) -> bool {
    let number = |at: usize, length: usize| -> Option<u64> {
        let bytes = binary.get(at..at.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    let has_loader = || {
        let (at, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let mut headers = (0..count).map(|n| number(usize::try_from(at + n * size).ok()?, 4));
        headers.try_fold(false, |found, kind| Some(found || kind? == u64::from(PT_INTERP)))
    };
    // e_machine of x86-64 is 62.
    binary.starts_with(ELF_MAGIC) && number(18, 2) == Some(62) && has_loader() == Some(false)
}

/// The archive of an image with this binary.
fn archive(binary: &[u8], name: &str) -> anyhow::Result<Vec<u8>> {
    let layer = layer(binary)?;
    let mut compressed = GzEncoder::new(Vec::new(), Compression::default());
    compressed.write_all(&layer)?;
    let compressed = compressed.finish()?;
    let version = env!("CARGO_PKG_VERSION");
    let labels = json!({
        "org.opencontainers.image.description": "Load balancer for bare-metal Kubernetes that loses no connection",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.title": "evenkeel",
        "org.opencontainers.image.version": version,
    });
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": [format!("/{BINARY}")],
            "Env": ["PATH=/usr/local/bin"],
            "Labels": labels,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask image"}],
    });
    let config = serde_json::to_vec(&config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &compressed)],
        "annotations": labels,
    });
    let manifest = serde_json::to_vec(&manifest)?;
    let mut listed = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    listed["platform"] = json!({"architecture": "amd64", "os": "linux"});
    listed["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [listed],
    });
    let mut files = BTreeMap::from([
        ("index.json".to_owned(), serde_json::to_vec(&index)?),
        ("oci-layout".to_owned(), serde_json::to_vec(&json!({"imageLayoutVersion": "1.0.0"}))?),
    ]);
    for blob in [config, compressed, manifest] {
        files.insert(format!("blobs/sha256/{}", digest(&blob)), blob);
    }
    let mut builder = tar::Builder::new(Vec::new());
    for directory in ["blobs", "blobs/sha256"] {
        add_directory(&mut builder, directory)?;
    }
    for (path, content) in &files {
        add_file(&mut builder, path, content, 0o644)?;
    }
    Ok(builder.into_inner()?)
}

/// The root file system.
fn layer(binary: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for directory in DIRECTORIES {
        add_directory(&mut builder, directory)?;
    }
    add_file(&mut builder, BINARY, binary, 0o755)?;
    let mut link = header(tar::EntryType::Symlink, 0, 0o777);
    builder.append_link(&mut link, PLUGIN, "evenkeel")?;
    Ok(builder.into_inner()?)
}

fn header(kind: tar::EntryType, size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn add_directory(builder: &mut tar::Builder<Vec<u8>>, path: &str) -> anyhow::Result<()> {
    builder.append_data(&mut header(tar::EntryType::Directory, 0, 0o755), format!("{path}/"), std::io::empty())?;
    Ok(())
}

fn add_file(builder: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let size = u64::try_from(content.len())?;
    builder.append_data(&mut header(tar::EntryType::Regular, size, mode), path, content)?;
    Ok(())
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{}", digest(content)), "size": content.len()})
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// The files of an archive, by path, with their times.
    fn files(archive: &[u8]) -> BTreeMap<String, (Vec<u8>, u64)> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), (content, entry.header().mtime().unwrap()))
        });
        entries.collect()
    }

    fn blob<'f>(files: &'f BTreeMap<String, (Vec<u8>, u64)>, descriptor: &Value) -> &'f [u8] {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let (content, _) = &files[&format!("blobs/sha256/{digest}")];
        assert_eq!(super::digest(content), digest, "what a descriptor names is what it says");
        assert_eq!(descriptor["size"], content.len());
        content
    }

    #[test]
    fn the_archive_leads_from_its_index_to_the_binary() {
        let archive = archive(b"the binary", "evenkeel:1").unwrap();
        let files = files(&archive);
        assert!(files.values().all(|(_, time)| *time == 0));
        let index: Value = serde_json::from_slice(&files["index.json"].0).unwrap();
        let manifest: Value = serde_json::from_slice(blob(&files, &index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(blob(&files, &manifest["config"])).unwrap();
        assert_eq!(config["config"]["Entrypoint"][0], "/usr/local/bin/evenkeel");
        let mut layer = Vec::new();
        flate2::read::GzDecoder::new(blob(&files, &manifest["layers"][0])).read_to_end(&mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", digest(&layer)));
        assert_eq!(super::tests::files(&layer)[BINARY].0, b"the binary");
    }

    #[test]
    fn the_same_binary_gives_the_same_archive() {
        assert_eq!(archive(b"x", "n").unwrap(), archive(b"x", "n").unwrap());
        assert_ne!(archive(b"x", "n").unwrap(), archive(b"y", "n").unwrap());
    }

    #[test]
    fn dynamic_executables_and_other_files_are_refused() {
        let tests = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!is_static(&tests), "this test needs a loader");
        assert!(!is_static(b"#!/bin/sh\n"));
        assert!(!is_static(&tests[..100]), "cut off");
        // The same, with its program headers taken for others.
        let mut patched = tests;
        patched[56..58].copy_from_slice(&[0, 0]);
        assert!(is_static(&patched));
    }
}
