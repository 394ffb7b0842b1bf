//! Any packet at all through every program, while the configuration changes under it.

mod judge;
mod kernel_log;
mod mutate;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use evenkeel_frames::{Frame, Names};
use evenkeel_lab::Sandbox;
use evenkeel_maps::Outcome;

use crate::{
    fixture::{Action, BackendState, Fixture, Forwarding, Hook, Packet, Variant},
    node::{Node, Ran},
    random::Random,
};
use kernel_log::KernelLog;

/// Packets between changes of the configuration.
const BETWEEN_CHANGES: u64 = 2_000;
/// Changes between restarts of the agent.
const BETWEEN_RESTARTS: usize = 200;

/// How much to try.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// End after so many packets.
    pub packets: u64,
    /// And after so long at the latest.
    pub time: Duration,
    /// Which packets, and which changes.
    pub seed: u64,
}

/// What was tried.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Packets that a program has judged.
    pub packets: u64,
    /// Frames that the kernel does not run: shorter than what a driver can receive.
    pub refused_by_kernel: u64,
    /// Changes of the configuration meanwhile.
    pub changes: u64,
    /// Packets by outcome.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Whether the kernel's log could be watched.
    pub watched_kernel_log: bool,
    /// How long it took.
    pub elapsed: Duration,
}

impl Summary {
    /// The summary in lines.
    #[must_use]
    pub fn text(&self) -> String {
        let seconds = self.elapsed.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate, for people")]
        let rate = self.packets as f64 / seconds.max(0.001);
        let mut text = format!(
            "{} packets in {seconds:.1} s ({rate:.0}/s), {} changes of the configuration, {} frames the kernel refused; {}\n",
            self.packets,
            self.changes,
            self.refused_by_kernel,
            if self.watched_kernel_log { "its log is clean" } else { "its log could not be read" },
        );
        for (outcome, count) in &self.outcomes {
            let _ = writeln!(text, "  {count:>10} {outcome}");
        }
        let missing: Vec<&str> = Outcome::ALL
            .iter()
            .map(|outcome| outcome.name())
            .filter(|name| !self.outcomes.contains_key(name))
            .collect();
        let _ = writeln!(text, "  never: {}", if missing.is_empty() { "none".to_owned() } else { missing.join(" ") });
        text
    }
}

/// Tries packets until the plan is carried out. `progress` hears of the state now and then.
///
/// # Errors
/// The first packet that was treated wrongly, as the text of a fixture, with the seed that leads to it.
pub fn run(
    sandbox: &Sandbox,
    fixtures: &[Fixture],
    names: &Names,
    plan: Plan,
    progress: impl FnMut(&Summary) + Send,
) -> anyhow::Result<Summary> {
    Node::with(sandbox, |node| {
        Fuzzer::new(node, fixtures, names, plan)?.run(progress).with_context(|| format!("seed {}", plan.seed))
    })
}

struct Fuzzer<'a> {
    node: &'a mut Node,
    names: &'a Names,
    plan: Plan,
    random: Random,
    /// The packets of the fixtures, to start from.
    seeds: Vec<Packet>,
    /// Services and other changes of the fixtures.
    changes: Vec<Action>,
    hook: Hook,
    summary: Summary,
}

impl<'a> Fuzzer<'a> {
    fn new(node: &'a mut Node, fixtures: &[Fixture], names: &'a Names, plan: Plan) -> anyhow::Result<Self> {
        let actions = || fixtures.iter().flat_map(|fixture| &fixture.cases).flat_map(|case| &case.actions);
        let seeds: Vec<Packet> = actions()
            .filter_map(|(_, action)| match action {
                Action::Packet(packet) => Some(packet.as_ref().clone()),
                _ => None,
            })
            .collect();
        let changes = actions()
            .map(|(_, action)| action.clone())
            .filter(|action| !matches!(action, Action::Packet(_) | Action::Restart))
            .collect();
        anyhow::ensure!(!seeds.is_empty(), "there is no packet to start from");
        Ok(Self {
            node,
            names,
            plan,
            random: Random::new(plan.seed),
            seeds,
            changes,
            hook: Hook::Tc,
            summary: Summary::default(),
        })
    }

    fn run(mut self, mut progress: impl FnMut(&Summary)) -> anyhow::Result<Summary> {
        let start = Instant::now();
        let mut log = KernelLog::open();
        self.summary.watched_kernel_log = log.is_some();
        self.begin()?;
        let mut since_change = 0;
        while self.summary.packets < self.plan.packets && start.elapsed() < self.plan.time {
            if since_change == BETWEEN_CHANGES {
                since_change = 0;
                self.change()?;
                self.summary.elapsed = start.elapsed();
                progress(&self.summary);
                if let Some(line) = log.as_mut().and_then(KernelLog::complaint) {
                    bail!("the kernel complains: {line}");
                }
            }
            since_change += 1;
            self.packet()?;
        }
        if let Some(line) = log.as_mut().and_then(KernelLog::complaint) {
            bail!("the kernel complains: {line}");
        }
        self.summary.elapsed = start.elapsed();
        Ok(self.summary)
    }

    /// An empty node with services of every kind.
    fn begin(&mut self) -> anyhow::Result<()> {
        let variants = self.node.hooks();
        self.hook = *self.random.pick(&variants).unwrap_or(&Hook::Tc);
        let forwarding = if self.random.once_in(2) { Forwarding::Direct } else { Forwarding::Stack };
        self.node.begin(Variant { hook: self.hook, forwarding })?;
        for change in self.changes.clone() {
            // The services as the fixtures have them, the last of each port.
            if let Action::Service(_) = change {
                self.node.act(&change)?;
            }
        }
        for _ in 0..3 {
            self.alter()?;
        }
        Ok(())
    }

    /// Changes something, or begins anew.
    fn change(&mut self) -> anyhow::Result<()> {
        self.summary.changes += 1;
        if self.random.once_in(BETWEEN_RESTARTS) {
            return self.node.act(&Action::Restart);
        }
        if self.random.once_in(10) { self.begin() } else { self.alter() }
    }

    /// Does something that a fixture does; services get their backends in states of chance.
    fn alter(&mut self) -> anyhow::Result<()> {
        let Some(mut action) = self.random.pick(&self.changes).cloned() else { return Ok(()) };
        if let Action::Service(service) = &mut action {
            for (_, _, state) in &mut service.backends {
                let states = [BackendState::Active, BackendState::Active, BackendState::Drain, BackendState::Down];
                *state = *self.random.pick(&states).unwrap_or(&BackendState::Active);
            }
        }
        self.node.act(&action)
    }

    /// Tries one packet.
    fn packet(&mut self) -> anyhow::Result<()> {
        let index = self.random.below(self.seeds.len());
        let sent = mutate::frame(&self.seeds, index, &mut self.random);
        let Packet { mut arrives, mut interface, frame: base, .. } = self.seeds[index].clone();
        if self.random.once_in(16) {
            arrives = !arrives;
        }
        if self.random.once_in(16) {
            (if interface == "pods" { "uplink" } else { "pods" }).clone_into(&mut interface);
        }
        let Some((ran, wrong)) = self.attempt(arrives, &interface, &sent)? else {
            self.summary.refused_by_kernel += 1;
            return Ok(());
        };
        self.summary.packets += 1;
        *self.summary.outcomes.entry(ran.outcome.name()).or_insert(0) += 1;
        let Some(wrong) = wrong else { return Ok(()) };
        let (smallest, ran, wrong) = self.minimise(arrives, &interface, sent, &base, (ran, wrong));
        let way = if arrives { "in" } else { "out" };
        bail!(
            "after {} packets, {:?}: {wrong}\n{way} {interface} {}\n  -> {}\n     {}",
            self.summary.packets,
            self.hook,
            Frame::read(&smallest).text(self.names),
            ran.outcome.name(),
            Frame::read(&ran.frame).text(self.names),
        )
    }

    /// Runs a packet. `None`: the kernel does not. Otherwise what happened, and what is wrong with that.
    fn attempt(
        &mut self,
        arrives: bool,
        interface: &str,
        sent: &[u8],
    ) -> anyhow::Result<Option<(Ran, Option<String>)>> {
        let Some(ran) = self.node.run_any(arrives, interface, sent)? else { return Ok(None) };
        let wrong = judge::judge(self.hook, arrives, sent, &ran);
        Ok(Some((ran, wrong)))
    }

    /// Undoes what was done to the fixture's frame as long as something is still wrong.
    fn minimise(
        &mut self,
        arrives: bool,
        interface: &str,
        mut worst: Vec<u8>,
        base: &[u8],
        mut seen: (Ran, String),
    ) -> (Vec<u8>, Ran, String) {
        let shorter = worst[..worst.len().min(base.len())].to_vec();
        let undone = |at: usize, bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            if let (Some(place), Some(byte)) = (bytes.get_mut(at), base.get(at)) {
                *place = *byte;
            }
            bytes
        };
        let halves =
            std::iter::successors(Some(worst.len()), |length| Some(length / 2)).take_while(|length| *length > 0);
        // Shorter first, in ever smaller steps; then byte by byte what the fixture has.
        for step in 0..=base.len() + 24 {
            let smaller = match step.checked_sub(24) {
                None if step == 0 => shorter.clone(),
                None => {
                    let less = halves.clone().nth(step).unwrap_or(1);
                    worst[..worst.len().saturating_sub(less)].to_vec()
                }
                Some(at) => undone(at, &worst),
            };
            if smaller != worst
                && let Ok(Some((ran, Some(wrong)))) = self.attempt(arrives, interface, &smaller)
            {
                (worst, seen) = (smaller, (ran, wrong));
            }
        }
        (worst, seen.0, seen.1)
    }
}
