//! The prototype of the data plane, which the bars are stated against. It lies outside the repository: a checkout of it
//! is named on the command line, copied and built.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{Map, MapData, PerCpuArray},
    programs::ProgramFd,
};
use evenkeel_lab::Namespace;

use super::site;
use crate::bench::harness::{self, Family};

/// Where it pins its maps.
const PINS: &str = "/sys/fs/bpf/prototype";
/// The service it carries; not one of ours, so that both can be loaded side by side.
const SERVICE: u16 = 60_000;
/// Entries of its flow table.
pub(super) const CAPACITY: u32 = 1 << 18;
/// The interface its program is attached to, so that it stays loaded. Nothing arrives there.
const INTERFACE: &str = "proto0";

/// The prototype's own names of what became of a packet: indices of its counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counter {
    New = 0,
    Hit = 1,
    Pass = 3,
}

/// A copy of the prototype that is built.
pub(super) struct Built {
    program: PathBuf,
    object: PathBuf,
}

impl Built {
    /// Copies the checkout below `into`, where an earlier build of it may lie, and builds it.
    pub(super) fn of(checkout: &Path, into: &Path) -> Result<Self> {
        let copy = into.join("prototype");
        fs::create_dir_all(&copy)?;
        for name in ["build-bpf.sh", "lb"] {
            copy_tree(&checkout.join(name), &copy.join(name))
                .with_context(|| format!("copying {name} of {}", checkout.display()))?;
        }
        let lb = copy.join("lb");
        eprintln!("building the prototype");
        run(Command::new("bash").arg(copy.join("build-bpf.sh")))?;
        run(Command::new("cargo").args(["build", "--release", "--target-dir", "target"]).current_dir(&lb))?;
        let (program, object) =
            (lb.join("target/release/lb"), lb.join("target/bpf/bpfel-unknown-none/release/lb-ebpf"));
        for file in [&program, &object] {
            ensure!(file.is_file(), "building the prototype did not make {}", file.display());
        }
        Ok(Self { program, object })
    }

    /// Loads it in the node's namespace, where it stays.
    pub(super) fn load(&self, node: &Namespace) -> Result<()> {
        node.ip(["link", "add", INTERFACE, "type", "veth", "peer", "name", "proto1"])?;
        let mut command = Command::new(&self.program);
        command.arg("run").arg(&self.object).args(["--pin", PINS, "--xdp", INTERFACE, "--svc", &service()]);
        node.run(command)?;
        Ok(())
    }

    /// Runs its own benchmark in the namespace the calling thread is in, and returns nanoseconds per packet by the names
    /// of its lines, harness included.
    pub(super) fn bench(&self, interface: u32) -> Result<BTreeMap<String, f64>> {
        let mut command = Command::new(&self.program);
        command.arg("bench").arg(&self.object).arg(interface.to_string()).args(["--svc", &service()]);
        let output = command.stdin(Stdio::null()).output().context("running the prototype's benchmark")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the prototype's benchmark failed: {errors}");
        Ok(lines(&String::from_utf8_lossy(&output.stdout)))
    }
}

/// What of the prototype is measured: from inside the node's namespace.
pub(super) struct Loaded {
    pub(super) program: ProgramFd,
    counters: PerCpuArray<MapData, u64>,
}

impl Loaded {
    pub(super) fn find() -> Result<Self> {
        let counters = Map::PerCpuArray(MapData::from_pin(Path::new(PINS).join("STATS"))?).try_into()?;
        Ok(Self { program: harness::program_on(&Path::new(PINS).join("CT"), "xdp_lb")?, counters })
    }

    pub(super) fn counted(&self, counter: Counter) -> Result<u64> {
        Ok(self.counters.get(&(counter as u32), 0)?.iter().sum())
    }
}

pub(super) fn vip() -> std::net::SocketAddr {
    std::net::SocketAddr::new(site::vip(Family::Ipv4, SERVICE), site::SERVICE_PORT)
}

fn service() -> String {
    let backends: Vec<String> = site::backends(Family::Ipv4).map(|backend| backend.to_string()).collect();
    format!("tcp@{}={}", vip(), backends.join(","))
}

/// Nanoseconds by name; a name that has several lines gets their mean.
fn lines(output: &str) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for line in output.lines() {
        let Some((name, rest)) = line.split_once(" ret=") else { continue };
        let Some(figure) = rest.split_whitespace().find_map(|word| word.strip_prefix("ns/pkt=")?.parse::<f64>().ok())
        else {
            continue;
        };
        let sum = sums.entry(name.trim().to_owned()).or_default();
        *sum = (sum.0 + figure, sum.1 + 1.0);
    }
    sums.into_iter().map(|(name, (sum, count))| (name, sum / count)).collect()
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().context("building the prototype")?;
    ensure!(status.success(), "building the prototype failed: {status}");
    Ok(())
}

/// Copies files that changed, leaving what builds left behind alone.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        let contents = fs::read(from)?;
        if fs::read(to).is_ok_and(|present| present == contents) {
            return Ok(());
        }
        return Ok(fs::write(to, contents)?);
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        if name != "target" {
            copy_tree(&from.join(&name), &to.join(&name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_same_name_are_averaged() {
        let output = "\
svc 10.0.0.1:80 maglev compute 1ms upload 2ms
xdp fwd (1 run, verify)      ret=4 ns/pkt=900 out=60B
  rewritten dst=10.0.2.11:8080 csum(ip,tcp)=(true, true)
fwd CT hit, 1 flow           ret=4 ns/pkt=250 out=60B
fwd CT hit, 1 flow           ret=4 ns/pkt=260 out=60B
";
        let lines = lines(output);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines["fwd CT hit, 1 flow"], 255.0);
    }

    #[test]
    fn a_copy_has_no_build_of_the_original() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(from.path().join("lb/target")).unwrap();
        fs::create_dir_all(to.path().join("lb/target")).unwrap();
        fs::write(from.path().join("lb/target/a"), "a").unwrap();
        fs::write(to.path().join("lb/target/b"), "b").unwrap();
        fs::write(from.path().join("lb/main.rs"), "fn main() {}").unwrap();
        copy_tree(from.path(), to.path()).unwrap();
        assert!(to.path().join("lb/main.rs").exists() && to.path().join("lb/target/b").exists());
        assert!(!to.path().join("lb/target/a").exists());
    }
}
