//! Evenkeel against plain routing, kernel DNAT and a proxy, side by side in one run.
//!
//! Each subject has a lab of its own (client, switch, node, two nginx backends), all set up before the first round, so
//! that no subject pays for another's rules or programs. Rounds are interleaved: every subject is measured in every
//! round, in rotating order, and ratios are taken within rounds, so that a machine that speeds up or slows down during
//! the run does not favour anyone.

mod all;
mod bulk;
mod flows;
pub(crate) mod harness;
mod packets;
mod parts;
mod pps;
mod probe;
mod report;
mod server;
mod steady;
mod subject;
mod wrk;

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use evenkeel_lab::{Sandbox, find_program};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use report::{Measurements, Report, Settings};
use subject::{Kind, Subject, Workload};
use wrk::Metric;

/// Compare the load balancer with direct routing, nft, iptables and haproxy in one run (needs root).
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    other: Option<Other>,
    /// Rounds; medians over them are reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds each subject is measured per round and metric
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Open connections of the load generator
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    subjects: Vec<Kind>,
    /// Measure bulk transfer too
    #[arg(long)]
    bulk: bool,
    /// The load balancer's binary [default: release/evenkeel in the target directory]
    #[arg(long, value_name = "FILE")]
    evenkeel: Option<PathBuf>,
    /// Where the report goes [default: bench/report.json in the target directory]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Other benchmarks.
#[derive(clap::Subcommand)]
enum Other {
    All(all::Args),
    Bulk(bulk::Args),
    Flows(flows::Args),
    Packets(packets::Args),
    Parts(parts::Args),
    Pps(pps::Args),
    Probe(probe::Args),
    Steady(steady::Args),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.other {
        Some(Other::All(args)) => return all::run(args),
        Some(Other::Bulk(args)) => return bulk::run(args),
        Some(Other::Flows(args)) => return flows::run(args),
        Some(Other::Packets(args)) => return packets::run(args),
        Some(Other::Parts(args)) => return parts::run(args),
        Some(Other::Pps(args)) => return pps::run(args),
        Some(Other::Probe(args)) => return probe::run(args),
        Some(Other::Steady(args)) => return steady::run(args),
        None => {}
    }
    let target = target_directory()?;
    let evenkeel = args.evenkeel.clone().unwrap_or_else(|| target.join("release/evenkeel"));
    let report_file = args.report.clone().unwrap_or_else(|| target.join("bench/report.json"));
    let wrk = find_program("wrk", "wrk")?;
    let kinds = distinct(&args.subjects);
    let metrics = if args.bulk { &Metric::ALL[..] } else { &[Metric::KeepaliveRps, Metric::NewConnsPerSecond] };

    let sandbox = Sandbox::enter()?;
    let mut subjects = Vec::new();
    for kind in kinds {
        eprintln!("setting up {}", kind.name());
        subjects.push(
            Subject::set_up(kind, Workload::Http, &sandbox, &evenkeel)
                .with_context(|| format!("setting up {}", kind.name()))?,
        );
    }

    let load = wrk::Load { program: wrk, connections: args.connections };
    let mut measurements = Measurements::default();
    let progress = Progress::new(u64::from(args.rounds) * (subjects.len() * metrics.len()) as u64);
    for subject in &subjects {
        // Fills caches, ARP tables and the page cache; not counted.
        load.measure(Metric::KeepaliveRps, &subject.client, &subject.host, Duration::from_secs(1))?;
    }
    for round in 0..args.rounds {
        for metric in metrics {
            for position in 0..subjects.len() {
                let subject = &subjects[(position + round as usize) % subjects.len()];
                progress.begin(round, args.rounds, subject.kind, *metric);
                let sample = load
                    .measure(*metric, &subject.client, &subject.host, Duration::from_secs(args.seconds.into()))
                    .with_context(|| format!("measuring {} of {}", metric.name(), subject.kind.name()))?;
                progress.end(subject.kind, *metric, &sample);
                measurements.add(subject.kind, *metric, sample);
            }
        }
    }
    progress.finish();

    let settings = Settings { rounds: args.rounds, seconds: args.seconds, connections: args.connections };
    let report = Report::new(&measurements, settings);
    println!("{report}");
    write_report(&report_file, &report)?;
    if report.has_errors() {
        bail!("some requests failed (see the column `errors`): the figures are not comparable");
    }
    Ok(())
}

/// The directory cargo built this program into, less the profile.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let program = env::current_exe().context("finding this program's own path")?;
    let directory = program.ancestors().nth(2).context("this program is not in a target directory")?;
    Ok(directory.to_owned())
}

/// Writes a report as JSON and says where.
pub(crate) fn write_report(file: &Path, report: &impl Serialize) -> Result<()> {
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    fs::write(file, serde_json::to_string_pretty(report)?).with_context(|| format!("writing {}", file.display()))?;
    println!("report: {}", file.display());
    Ok(())
}

/// The index of an interface of the namespace the calling thread is in.
fn interface_index(name: &str) -> Result<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))
        .with_context(|| format!("there is no interface {name}"))?;
    Ok(text.trim().parse()?)
}

/// The kernel's version.
fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// The middle value, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 { Some(upper) } else { Some((upper + sorted.get(middle.checked_sub(1)?)?) / 2.0) }
}

fn distinct(kinds: &[Kind]) -> Vec<Kind> {
    let mut distinct = Vec::new();
    for kind in kinds {
        if !distinct.contains(kind) {
            distinct.push(*kind);
        }
    }
    distinct
}

/// A bar on a terminal, a line per measurement elsewhere.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(steps: u64) -> Self {
        let bar = ProgressBar::new(steps);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {msg}  {eta} left") {
            bar.set_style(style);
        }
        Self { bar }
    }

    fn begin(&self, round: u32, rounds: u32, kind: Kind, metric: Metric) {
        self.bar.set_message(format!("round {} of {rounds}: {} {}", round + 1, kind.name(), metric.name()));
    }

    fn end(&self, kind: Kind, metric: Metric, sample: &wrk::Sample) {
        self.bar.inc(1);
        if self.bar.is_hidden() {
            let (position, length) = (self.bar.position(), self.bar.length().unwrap_or_default());
            let value = sample.value;
            eprintln!("{position}/{length} {} {} {value:.0} {}", kind.name(), metric.name(), metric.unit());
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
