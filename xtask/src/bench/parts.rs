//! What single things cost that the programs are made of, by the same harness: the arithmetic behind a figure of `packets`.
//! What a processor does while it waits for something else costs nothing here, and need not in a longer program.

use std::{fmt, path::PathBuf};

use anyhow::{Context as _, Result};
use evenkeel_lab::Sandbox;
use serde::Serialize;

use super::{
    harness::{self, Family, Feeder, Frame, Hook, Parts, Segment, Varying, pin_to},
    kernel, median,
    packets::site::{self, Site},
    target_directory, write_report,
};

/// Logarithm of the flows that the records of a large array belong to: as many as it has records.
const FLOW_BITS: u32 = 20;
const PROCESSOR: usize = 1;

/// The parts, and what they are in words.
const PARTS: [(&str, &str); 13] = [
    ("part_clock", "the clock, to the nanosecond"),
    ("part_coarse_clock", "the clock, to the tick"),
    ("part_jiffies", "the count of timer interrupts"),
    ("part_counter", "a counter of this processor"),
    ("part_locked", "a locked addition"),
    ("part_hash", "hash map, key of 8 bytes"),
    ("part_wide_hash", "hash map, key of 24 bytes"),
    ("part_lru", "LRU hash map, key of 24 bytes"),
    ("part_record", "line of an array, in the cache"),
    ("part_far_record", "line of 64 MiB, another each time"),
    ("part_far_chain", "two lines of 64 MiB, one after the other"),
    ("part_route", "route and neighbour (bpf_fib_lookup)"),
    ("part_redirect", "bpf_redirect"),
];

/// What single things cost that the programs are made of: clocks, maps, routes (needs root).
#[derive(clap::Args)]
pub(super) struct Args {
    /// Rounds; medians over them are reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Packets of each part and round
    #[arg(long, default_value_t = 1 << 20)]
    packets: u32,
    /// The harness's object [default: built now]
    #[arg(long, value_name = "FILE")]
    harness: Option<PathBuf>,
    /// Where the report goes [default: bench/parts.json in the target directory]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let file =
        args.report.clone().map_or_else(|| Ok::<_, anyhow::Error>(target_directory()?.join("bench/parts.json")), Ok)?;
    let object = harness::object(args.harness.as_deref())?;
    let sandbox = Sandbox::enter()?;
    let site = Site::build(&sandbox)?;
    let rows = site.node.enter(|| measure(args, &object))??;
    let report = Report { rows, rounds: args.rounds, kernel: kernel() };
    println!("{report}");
    write_report(&file, &report)
}

fn measure(args: &Args, object: &[u8]) -> Result<Vec<Row>> {
    pin_to(PROCESSOR)?;
    let uplink = evenkeel_loader::Interface::look_up(site::UPLINK)?;
    let to = site::nobody(Family::Ipv4);
    let from = site::client_block(Family::Ipv4, 0);
    let frame = Frame::new(site::arriving(uplink.mac), from, to, Segment::Ack, Varying::Source)?;
    let parts = Parts::load(object, &PARTS.map(|part| part.0))?;
    let mut harness = Feeder::new(object, Hook::Xdp, &frame, FLOW_BITS, uplink.index, None)?;
    let mut feeders = PARTS
        .iter()
        .map(|(name, _)| Feeder::new(object, Hook::Xdp, &frame, FLOW_BITS, uplink.index, Some(parts.program(name)?)))
        .collect::<Result<Vec<_>>>()?;
    let mut samples = vec![Vec::new(); feeders.len()];
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        let nothing = harness.feed(args.packets)?;
        for (feeder, samples) in feeders.iter_mut().zip(&mut samples) {
            samples.push(feeder.feed(args.packets)? - nothing);
        }
    }
    let row = |((name, what), samples): (&(&'static str, &'static str), Vec<f64>)| {
        Ok(Row { part: name, what, ns: median(samples.into_iter()).context("no rounds")? })
    };
    PARTS.iter().zip(samples).map(row).collect()
}

#[derive(Debug, Serialize)]
struct Report {
    rows: Vec<Row>,
    rounds: u32,
    kernel: String,
}

#[derive(Debug, Serialize)]
struct Row {
    part: &'static str,
    what: &'static str,
    /// Nanoseconds net of the harness, median over the rounds.
    ns: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "nanoseconds, net of the harness: medians of {} rounds, Linux {}\n",
            self.rounds, self.kernel
        )?;
        for row in &self.rows {
            writeln!(formatter, "{:<42} {:>7.1}", row.what, row.ns)?;
        }
        Ok(())
    }
}
