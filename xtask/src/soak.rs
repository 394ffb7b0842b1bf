//! `cargo xtask soak`.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use evenkeel_conformance::soak::{self, Plan};
use evenkeel_lab::Sandbox;

/// Run millions of flows through the real eBPF object while endpoints come and go, and hold every packet against a model
/// (needs root).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Flows to open
    #[arg(long, default_value_t = 10_000_000)]
    flows: u64,
    /// Endpoint changes meanwhile
    #[arg(long, default_value_t = 100_000)]
    changes: u64,
    /// End after so many seconds at the latest
    #[arg(long, default_value_t = 3_600)]
    seconds: u64,
    /// The same seed makes the same flows [default: the time]
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let sandbox = Sandbox::enter()?;
    let seed = match args.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs(),
    };
    eprintln!("seed {seed}");
    let time = Duration::from_secs(args.seconds);
    let mut told = Instant::now();
    let summary = soak::run(&sandbox, Plan { flows: args.flows, changes: args.changes, time, seed }, |summary| {
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            eprintln!(
                "{} flows, {} changes, {} packets, {:.0} s",
                summary.flows,
                summary.changes,
                summary.packets,
                summary.elapsed.as_secs_f64()
            );
        }
    })?;
    print!("{}", summary.text());
    Ok(())
}
