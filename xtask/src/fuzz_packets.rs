//! `cargo xtask fuzz-packets`.

use std::time::{Duration, Instant};

use anyhow::Result;
use evenkeel_conformance::{
    fuzz::{self, Plan},
    node::names,
};
use evenkeel_lab::Sandbox;

/// Run any packet at all through the real eBPF object, and hold what must hold of each (needs root).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// End after so many packets
    #[arg(long, default_value_t = 10_000_000)]
    packets: u64,
    /// End after so many seconds at the latest
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// The same seed tries the same packets [default: the time]
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let fixtures = evenkeel_conformance::fixtures()?;
    let sandbox = Sandbox::enter()?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let seed = args.seed.unwrap_or(now.as_secs());
    eprintln!("seed {seed}");
    let plan = Plan { packets: args.packets, time: Duration::from_secs(args.seconds), seed };
    let mut told = Instant::now();
    let summary = fuzz::run(&sandbox, &fixtures, &names()?, plan, |summary| {
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            eprintln!("{} packets, {:.0} s", summary.packets, summary.elapsed.as_secs_f64());
        }
    })?;
    print!("{}", summary.text());
    Ok(())
}
