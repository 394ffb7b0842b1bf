//! Millions of flows through the real object while endpoints come and go: what months of rollouts do, in minutes.
//!
//! A model says which pods there are and where each flow went; every packet that leaves the programs is held against it. The
//! addresses of pods that are gone are given to new ones soon, of the same or of another service.

mod frame;
mod model;

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use evenkeel_lab::Sandbox;
use evenkeel_maps::{Outcome, ticks};

use crate::{
    fixture::{Forwarding, Hook, Variant},
    node::{self, Node},
    random::Random,
};
use model::Model;

/// Flows that the table is made for. Closed ones rest there for three sweeps, and connections that nobody hears of again for two
/// hours, which are 248: nothing is to be given up for want of room.
const TABLE: u32 = 262_144;
/// Flows between two sweeps of the table; an agent sweeps every ten seconds.
const BETWEEN_SWEEPS: u64 = 20_000;
/// By how much everything is older after a sweep.
const AGED: u32 = 30 * ticks::SECOND;

/// How much is to happen.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Flows to open.
    pub flows: u64,
    /// Endpoint changes meanwhile.
    pub changes: u64,
    /// End after so long at the latest.
    pub time: Duration,
    /// Which flows, and which changes.
    pub seed: u64,
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Flows opened.
    pub flows: u64,
    /// Endpoints added, terminated, removed, made ready and not ready.
    pub changes: u64,
    /// Packets run through the programs.
    pub packets: u64,
    /// Pods that got the address of one that was gone.
    pub reused_addresses: u64,
    /// Packets of flows whose pod was gone, that were reset, dropped or, of datagrams, sent to another one.
    pub of_gone_pods: u64,
    /// Packets by outcome, as the programs counted them.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Resident memory of this process after a tenth of the flows and at the end, in KiB.
    pub memory: [u64; 2],
    /// How long it took.
    pub elapsed: Duration,
}

impl Summary {
    /// The summary in lines.
    #[must_use]
    pub fn text(&self) -> String {
        let [early, late] = self.memory;
        let mut text = format!(
            "{} flows, {} endpoint changes, {} packets in {:.0} s; no misroute, nothing left\n  \
             {} addresses used again, {} packets of flows whose pod was gone\n  \
             memory: {early} KiB after a tenth, {late} KiB at the end\n",
            self.flows,
            self.changes,
            self.packets,
            self.elapsed.as_secs_f64(),
            self.reused_addresses,
            self.of_gone_pods,
        );
        for (outcome, count) in &self.outcomes {
            text.push_str(&format!("  {count:>10} {outcome}\n"));
        }
        text
    }
}

/// Carries the plan out. `progress` hears of the state now and then.
///
/// # Errors
/// The first packet that went wrong; what is left at the end; memory that grew.
pub fn run(sandbox: &Sandbox, plan: Plan, progress: impl FnMut(&Summary) + Send) -> anyhow::Result<Summary> {
    Node::for_flows(sandbox, TABLE, |node| {
        let mut random = Random::new(plan.seed);
        let soaked = soak(node, plan, &mut random, progress);
        soaked.or_else(|error| {
            let mut outcomes = counted(node)?;
            outcomes.retain(|_, count| *count > 0);
            let [flows, entries, full] = node.table_in_use()?;
            let table = format!("{flows} flows with {entries} reply entries, {full} reply buckets full");
            Err(error.context(format!("seed {}, {table}, outcomes so far {outcomes:?}", plan.seed)))
        })
    })
}

fn soak(
    node: &mut Node,
    plan: Plan,
    random: &mut Random,
    mut progress: impl FnMut(&Summary),
) -> anyhow::Result<Summary> {
    let start = Instant::now();
    node.begin(Variant { hook: Hook::Tc, forwarding: Forwarding::Stack })?;
    let before = counted(node)?;
    let mut model = Model::new(node)?;
    let flows_per_change = (plan.flows / plan.changes.max(1)).max(1);
    let mut memory = [0; 2];
    while model.summary.flows < plan.flows && start.elapsed() < plan.time {
        model.step(node, random)?;
        let flows = model.summary.flows;
        if model.opened() && flows.is_multiple_of(flows_per_change) {
            model.change(node, random)?;
        }
        if model.opened() && flows.is_multiple_of(BETWEEN_SWEEPS) {
            node::age(AGED)?;
            model.age();
            node.sweep()?;
            model.summary.elapsed = start.elapsed();
            progress(&model.summary);
        }
        if memory[0] == 0 && flows >= plan.flows / 10 {
            memory[0] = resident()?;
        }
    }
    model.end(node, random)?;
    node::age(2 * ticks::TCP_ESTABLISHED)?;
    node.sweep()?;
    node.ensure_empty()?;
    memory[1] = resident()?;
    ensure!(memory[1] < memory[0] + memory[0] / 4 + 8_192, "memory grew from {} to {} KiB", memory[0], memory[1]);
    let mut summary = model.summary;
    summary.outcomes = counted(node)?;
    for (outcome, count) in &before {
        if let Some(total) = summary.outcomes.get_mut(outcome) {
            *total -= count;
        }
    }
    summary.outcomes.retain(|_, count| *count != 0);
    let total: u64 = summary.outcomes.values().sum();
    ensure!(total == summary.packets, "{} packets were counted as {total}: {:?}", summary.packets, summary.outcomes);
    (summary.memory, summary.elapsed) = (memory, start.elapsed());
    Ok(summary)
}

fn counted(node: &mut Node) -> anyhow::Result<BTreeMap<&'static str, u64>> {
    Ok(node
        .data_path()?
        .counters()?
        .into_iter()
        .map(|(outcome, count): (Outcome, u64)| (outcome.name(), count))
        .collect())
}

/// Resident memory of this process, in KiB.
fn resident() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
