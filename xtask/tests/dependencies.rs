//! Holds the direction of dependencies between the workspace's crates, as ARCHITECTURE.md draws it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

/// The layers from the top down: a crate may depend on crates of lower layers only.
const LAYERS: &[&[&str]] = &[
    // Tools around the product; nothing depends on them.
    &["evenkeel-lab-tests", "xtask"],
    // What both drive.
    &["evenkeel-conformance", "evenkeel-fake-api", "evenkeel-scenarios"],
    // The binary.
    &["evenkeel"],
    // What a command line of the binary runs.
    &["evenkeel-agent", "evenkeel-controller", "evenkeel-lab"],
    // Drivers: they own sockets, files and clocks.
    &["evenkeel-loader", "evenkeel-probe", "evenkeel-process", "evenkeel-sources"],
    // Built before the loader is, and by it.
    &["evenkeel-builder", "evenkeel-harness", "evenkeel-programs"],
    // Rules about manifests, and other programs' configuration as manifests: no IO.
    &["evenkeel-import", "evenkeel-lint"],
    // What becomes of decisions in time, and what manifests are made of: no IO.
    &["evenkeel-health", "evenkeel-manifest"],
    // Decisions and protocol cores: no IO.
    &["evenkeel-frames", "evenkeel-maps", "evenkeel-neighbor", "evenkeel-ownership", "evenkeel-plan"],
    // Schemas, and messages of protocols that manifests speak of: no crate of ours.
    &["evenkeel-crds", "evenkeel-dns"],
];

/// What decisions and protocol cores must not reach, directly or through others.
const IMPURE: &[&str] = &["tokio", "hyper", "aya", "socket2", "rustix", "nix", "inotify", "getrandom", "rand"];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--all-features"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn name(package: &Value) -> String {
    package["name"].as_str().unwrap().to_owned()
}

fn members(metadata: &Value) -> Vec<&Value> {
    let members: BTreeSet<&str> =
        metadata["workspace_members"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    let packages = metadata["packages"].as_array().unwrap();
    packages.iter().filter(|package| members.contains(package["id"].as_str().unwrap())).collect()
}

/// Names of the packages a package depends on, development dependencies left out.
fn dependencies(package: &Value) -> BTreeSet<String> {
    let dependencies = package["dependencies"].as_array().unwrap();
    dependencies.iter().filter(|dependency| dependency["kind"].as_str() != Some("dev")).map(name).collect()
}

#[test]
fn crates_depend_downwards_only() {
    let layer: BTreeMap<&str, usize> =
        LAYERS.iter().enumerate().flat_map(|(layer, crates)| crates.iter().map(move |name| (*name, layer))).collect();
    let metadata = metadata();
    for package in members(&metadata) {
        let name = name(package);
        let above = layer.get(name.as_str()).unwrap_or_else(|| panic!("{name} has no layer in {}", file!()));
        for dependency in dependencies(package) {
            if let Some(below) = layer.get(dependency.as_str()) {
                assert!(above < below, "{name} must not depend on {dependency}: it is no lower layer");
            }
        }
    }
}

#[test]
fn decisions_and_protocol_cores_reach_no_driver() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["id"].as_str().unwrap(), node))
        .collect();
    let names: BTreeMap<&str, String> =
        packages.iter().map(|package| (package["id"].as_str().unwrap(), name(package))).collect();
    for pure in [
        "evenkeel-crds",
        "evenkeel-dns",
        "evenkeel-frames",
        "evenkeel-health",
        "evenkeel-lint",
        "evenkeel-manifest",
        "evenkeel-neighbor",
        "evenkeel-ownership",
        "evenkeel-plan",
    ] {
        let start = packages.iter().find(|package| name(package) == pure).unwrap()["id"].as_str().unwrap();
        let mut reached = BTreeSet::new();
        let mut todo = vec![start];
        while let Some(id) = todo.pop() {
            if !reached.insert(id) {
                continue;
            }
            for dependency in nodes[id]["deps"].as_array().unwrap() {
                let kinds = dependency["dep_kinds"].as_array().unwrap();
                // Build scripts of others are not part of the program.
                if kinds.iter().any(|kind| kind["kind"].is_null()) {
                    todo.push(dependency["pkg"].as_str().unwrap());
                }
            }
        }
        for id in reached {
            assert!(!IMPURE.contains(&names[id].as_str()), "{pure} reaches {}", names[id]);
        }
    }
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    let metadata = metadata();
    for package in members(&metadata) {
        let manifest = std::fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        // The programs are another target's: user space's lints on panics and truncation do not fit them.
        if name(package) != "evenkeel-programs" {
            assert!(manifest.contains("[lints]\nworkspace = true"), "{} has its own lints", name(package));
        }
    }
}
