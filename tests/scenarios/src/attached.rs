//! What of the data path is on the node, found by other means than its own.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use aya::{
    programs::{
        SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
    },
    util::KernelVersion,
};
use evenkeel_lab::{
    Namespace, find_program,
    topology::{NODE_NAME, POD_BRIDGE, UPLINK},
};
use serde_json::Value;

const DIRECTIONS: [(&str, TcAttachType); 2] = [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)];

/// The programs at an interface's hooks, by their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// At tcx, in their order.
    pub tcx: Vec<u32>,
    /// Of the filters that `tc` lists.
    pub clsact: Vec<u32>,
}

/// What is attached on the node's interfaces.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Attached {
    links: BTreeMap<String, u32>,
    programs: BTreeMap<(&'static str, &'static str), Programs>,
}

impl Attached {
    /// What is attached now.
    ///
    /// # Errors
    /// What the kernel or `tc` answered.
    pub fn of(node: &Namespace) -> Result<Self> {
        let mut found = BTreeMap::new();
        for interface in [UPLINK, POD_BRIDGE] {
            for (direction, programs) in programs(node, interface)? {
                found.insert((interface, direction), programs);
            }
        }
        Ok(Self { links: links(node)?, programs: found })
    }

    /// The hook it is attached by: only that of tcx has links.
    #[must_use]
    pub fn hook(&self) -> &'static str {
        if self.links.is_empty() { "clsact" } else { "tcx" }
    }

    /// One program in each direction of each interface, at this hook and at no other.
    ///
    /// # Errors
    /// Which are there instead.
    pub fn ensure_one_program(&self, hook: &str) -> Result<()> {
        let (tcx, clsact) = if hook == "tcx" { (1, 0) } else { (0, 1) };
        for (place, programs) in &self.programs {
            ensure!((programs.tcx.len(), programs.clsact.len()) == (tcx, clsact), "{place:?}: {programs:?}");
        }
        let links = self.programs.len() * tcx;
        ensure!(self.links.len() == links, "{links} links expected: {:?}", self.links);
        Ok(())
    }

    /// The links are the old ones, with one program in each place.
    ///
    /// # Errors
    /// What is not so.
    pub fn ensure_adopted(&self, before: &Self, hook: &str) -> Result<()> {
        self.ensure_one_program(hook)?;
        ensure!(self.links == before.links, "other links than before: {:?}, {:?}", before.links, self.links);
        Ok(())
    }

    /// The programs are new ones, in the places of the old ones.
    ///
    /// # Errors
    /// What is not so.
    pub fn ensure_replaced(&self, before: &Self, hook: &str) -> Result<()> {
        self.ensure_adopted(before, hook)?;
        for (place, programs) in &self.programs {
            ensure!(Some(programs) != before.programs.get(place), "{place:?} still has the former program");
        }
        Ok(())
    }
}

/// The node's pins of a version, as a process outside sees them.
#[must_use]
pub fn pin_directory(node: &Namespace, version: u32) -> PathBuf {
    node.bpffs().join("evenkeel").join(NODE_NAME).join(format!("v{version}"))
}

/// The programs of each direction, `ingress` and `egress`, of an interface.
///
/// # Errors
/// What the kernel or `tc` answered.
pub fn programs(node: &Namespace, interface: &str) -> Result<BTreeMap<&'static str, Programs>> {
    let mut programs = BTreeMap::new();
    for (name, direction) in DIRECTIONS {
        let tcx = at_tcx(node, interface, direction)?;
        programs.insert(name, Programs { tcx, clsact: filters(node, interface, name)? });
    }
    Ok(programs)
}

/// The programs at the tcx hook; none on a kernel without it.
fn at_tcx(node: &Namespace, interface: &str, direction: TcAttachType) -> Result<Vec<u32>> {
    if KernelVersion::current()? < KernelVersion::new(6, 6, 0) {
        return Ok(Vec::new());
    }
    let (_, attached) = node.enter(|| SchedClassifier::query_tcx(interface, direction))??;
    Ok(attached.iter().map(aya::programs::ProgramInfo::id).collect())
}

/// The programs of the filters that `tc` lists.
fn filters(node: &Namespace, interface: &str, direction: &str) -> Result<Vec<u32>> {
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
///
/// # Errors
/// A pin that is no link.
pub fn links(node: &Namespace) -> Result<BTreeMap<String, u32>> {
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
///
/// # Errors
/// What reading the directories met with.
pub fn pins(node: &Namespace) -> Result<Vec<PathBuf>> {
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
