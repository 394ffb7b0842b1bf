//! The demo: short, interrupted, killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use evenkeel_lab::{Lab, Namespace, Sandbox};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Test, attached, world};

pub(crate) const TESTS: &[Test] = &[
    ("demo::loses_nothing_and_reports", loses_nothing_and_reports),
    ("demo::an_interrupted_demo_cleans_up", |sandbox| leaves_nothing_behind(sandbox, Signal::INT)),
    ("demo::a_killed_demo_leaves_nothing", |sandbox| leaves_nothing_behind(sandbox, Signal::KILL)),
];

/// Each of four replacements takes some seconds, whatever the duration asked for.
const PATIENCE: Duration = Duration::from_secs(120);

fn loses_nothing_and_reports(sandbox: &Sandbox) -> anyhow::Result<()> {
    let stage = Stage::new(sandbox)?;
    let file = stage.directory.path().join("report.json");
    let report = file.to_string_lossy();
    let mut command = Command::new(world::program()?);
    command.args(["demo", "--duration", "1s", "--rate", "60", "--report", &report, "-o", "json"]);
    let demo = stage.namespace.spawn(command)?;
    let status = demo.wait(PATIENCE)?;
    let written = fs::read_to_string(&file).with_context(|| demo.stderr().join("\n"))?;
    ensure!(demo.stdout().join("\n").trim() == written.trim(), "file and standard output differ");
    let report: Value = serde_json::from_str(&written)?;
    ensure!(report["failed"] == 0, "{report:#}");
    ensure!(report["requests"].as_u64().is_some_and(|requests| requests > 0), "{report:#}");
    let replacements = report["replacements"].as_array().context("the report has replacements")?;
    ensure!(replacements.len() == 4 && replacements.iter().all(|one| one["orderly"] == true), "{report:#}");
    // A machine too busy for the prober to be punctual is told apart from a failure.
    let expected = if report["invalid"] == true { 1 } else { 0 };
    ensure!(status.code() == Some(expected), "{status}: {report:#}");
    Ok(())
}

fn leaves_nothing_behind(sandbox: &Sandbox, signal: Signal) -> anyhow::Result<()> {
    let stage = Stage::new(sandbox)?;
    // The shell stays outside of the demo's sandbox, and says what is mounted there before and after.
    let script = "cat /proc/self/mountinfo >before; \"$@\" & echo $!; wait $!; status=$?; \
                  cat /proc/self/mountinfo >after; exit $status";
    let mut command = Command::new("/bin/sh");
    command.current_dir(stage.directory.path()).args(["-c", script, "sh"]).arg(world::program()?);
    command.args(["demo", "--duration", "60s", "--rate", "20"]);
    let shell = stage.namespace.spawn(command)?;
    let line = shell.wait_for_output("the demo's process id", |_| true, world::SOON)?;
    let demo = Pid::from_raw(line.parse()?).context("a process id")?;
    shell.wait_for_log("requests to be sent", |line| line.contains("sending requests"), world::SOON)?;
    let made = descendants(demo)?;
    // Itself, four servers and the load balancer.
    ensure!(made.len() >= 6, "{made:?}");

    kill_process(demo, signal)?;
    let status = shell.wait(PATIENCE)?;
    if signal == Signal::INT {
        ensure!(status.code() == Some(130), "{status}: {}", shell.stderr().join("\n"));
        ensure!(shell.stdout() == [line], "{:?}", shell.stdout());
        let left = alive(&made);
        ensure!(left.is_empty(), "still running: {left:?}");
    }
    // The kernel takes a moment to end those whose parent was killed.
    world::eventually("no process is left", || Ok(alive(&made).is_empty().then_some(())))?;
    // With the processes, their namespaces are gone, unless something is mounted outside.
    let mounts = |file: &str| fs::read_to_string(stage.directory.path().join(file));
    ensure!(mounts("before")? == mounts("after")?, "before:\n{}\nafter:\n{}", mounts("before")?, mounts("after")?);
    let pins = attached::pins(&stage.namespace)?;
    ensure!(pins.is_empty(), "pinned: {pins:?}");
    Ok(())
}

/// A place to run the demo from.
struct Stage {
    namespace: Namespace,
    directory: TempDir,
    /// Ends the processes when it goes.
    _lab: Lab,
}

impl Stage {
    fn new(sandbox: &Sandbox) -> anyhow::Result<Self> {
        let mut lab = Lab::new(sandbox);
        Ok(Self { namespace: lab.namespace("stage")?, directory: TempDir::new_in(sandbox.scratch())?, _lab: lab })
    }
}

/// A process: its id, and when it started in ticks since boot, which tells it from a later one of the same id.
type Process = (i32, String);

/// A process and all that descend from it, at this moment.
fn descendants(root: Pid) -> anyhow::Result<Vec<Process>> {
    let all: BTreeMap<i32, Stat> = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|id| Some((id, stat(id)?)))
        .collect();
    let mut found: BTreeSet<i32> = BTreeSet::from([root.as_raw_nonzero().get()]);
    loop {
        let children: Vec<i32> = all
            .iter()
            .filter(|(id, stat)| found.contains(&stat.parent) && !found.contains(id))
            .map(|(id, _)| *id)
            .collect();
        if children.is_empty() {
            break;
        }
        found.extend(children);
    }
    Ok(found.iter().filter_map(|id| Some((*id, all.get(id)?.started.clone()))).collect())
}

/// Those that have not ended.
fn alive(processes: &[Process]) -> Vec<Process> {
    let is_alive =
        |(id, started): &&Process| stat(*id).is_some_and(|stat| stat.started == *started && stat.state != "Z");
    processes.iter().filter(is_alive).cloned().collect()
}

struct Stat {
    state: String,
    parent: i32,
    started: String,
}

/// What proc_pid_stat(5) says of a process, if there is one.
fn stat(id: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The program's name, in parentheses, may contain anything.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 2..)?.split_whitespace().collect();
    Some(Stat {
        state: (*fields.first()?).to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        started: (*fields.get(19)?).to_owned(),
    })
}
