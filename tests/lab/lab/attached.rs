//! What of the data path is on the node, found by other means than its own.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use anyhow::Context as _;
use aya::{
    programs::{
        SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
    },
    util::KernelVersion,
};
use evenkeel_lab::{Namespace, find_program};
use serde_json::Value;

const DIRECTIONS: [(&str, TcAttachType); 2] = [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)];

/// The programs at an interface's hooks, by their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Programs {
    pub(crate) tcx: Vec<u32>,
    pub(crate) clsact: Vec<u32>,
}

/// The programs of each direction, `ingress` and `egress`, of an interface.
pub(crate) fn programs(node: &Namespace, interface: &str) -> anyhow::Result<BTreeMap<&'static str, Programs>> {
    let mut programs = BTreeMap::new();
    for (name, direction) in DIRECTIONS {
        let tcx = at_tcx(node, interface, direction)?;
        programs.insert(name, Programs { tcx, clsact: filters(node, interface, name)? });
    }
    Ok(programs)
}

/// The programs at the tcx hook; none on a kernel without it.
fn at_tcx(node: &Namespace, interface: &str, direction: TcAttachType) -> anyhow::Result<Vec<u32>> {
    if KernelVersion::current()? < KernelVersion::new(6, 6, 0) {
        return Ok(Vec::new());
    }
    let (_, attached) = node.enter(|| SchedClassifier::query_tcx(interface, direction))??;
    Ok(attached.iter().map(aya::programs::ProgramInfo::id).collect())
}

/// The programs of the filters that `tc` lists.
fn filters(node: &Namespace, interface: &str, direction: &str) -> anyhow::Result<Vec<u32>> {
    let mut command = Command::new(find_program("tc", "iproute2")?);
    command.args(["-j", "filter", "show", "dev", interface, direction]);
    let text = node.run(command)?;
    let listed: Vec<Value> = if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text)? };
    listed
        .iter()
        // Each priority is listed once without a filter.
        .filter_map(|filter| filter.get("options"))
        .map(|options| {
            let id = options["prog"]["id"].as_u64().and_then(|id| u32::try_from(id).ok());
            id.with_context(|| format!("a filter that is no program of ours: {options}"))
        })
        .collect()
}

/// Ids of the pinned links, by the names of the pins.
pub(crate) fn links(node: &Namespace) -> anyhow::Result<BTreeMap<String, u32>> {
    let mut links = BTreeMap::new();
    for path in pins(node)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("link-") {
            let link = FdLink::from(PinnedLink::from_pin(&path)?);
            links.insert(name, link.info()?.id());
        }
    }
    Ok(links)
}

/// Every pin and every directory for pins on the node.
pub(crate) fn pins(node: &Namespace) -> anyhow::Result<Vec<PathBuf>> {
    let mut pins = Vec::new();
    let mut directories = vec![node.bpffs().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            }
            // A bpffs is born with two files of the kernel's own.
            if !["maps.debug", "progs.debug"].iter().any(|name| entry.file_name() == *name) {
                pins.push(entry.path());
            }
        }
    }
    Ok(pins)
}
