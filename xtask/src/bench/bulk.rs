//! Bulk transfer by iperf3, both ways, against plain routing.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use evenkeel_lab::{Namespace, Sandbox, find_program};
use serde::Serialize;

use super::{
    kernel, median, server,
    subject::{Kind, Subject, Workload},
    target_directory, write_report,
};

/// Bulk transfer by iperf3, against plain routing (needs root).
#[derive(clap::Args)]
pub(super) struct Args {
    /// Rounds; medians over them are reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each transfer
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',',
          default_values_t = [Kind::Direct, Kind::Evenkeel, Kind::EvenkeelStack, Kind::Nft])]
    subjects: Vec<Kind>,
    /// The load balancer's binary [default: release/evenkeel in the target directory]
    #[arg(long, value_name = "FILE")]
    evenkeel: Option<PathBuf>,
    /// Where the report goes [default: bench/bulk.json in the target directory]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    Upload,
    Download,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let target = target_directory()?;
    let evenkeel = args.evenkeel.clone().unwrap_or_else(|| target.join("release/evenkeel"));
    let file = args.report.clone().unwrap_or_else(|| target.join("bench/bulk.json"));
    let program = find_program("iperf3", "iperf3")?;
    let sandbox = Sandbox::enter()?;
    let mut subjects = Vec::new();
    for &kind in &args.subjects {
        let subject = Subject::set_up(kind, Workload::Bulk, &sandbox, &evenkeel);
        subjects.push(subject.with_context(|| format!("setting up {}", kind.name()))?);
    }
    let mut samples: BTreeMap<(Way, Kind), Vec<f64>> = BTreeMap::new();
    let count = subjects.len();
    for round in 0..args.rounds as usize {
        for way in [Way::Upload, Way::Download] {
            for position in 0..count {
                let subject = &subjects[(position + round) % count];
                let figure = transfer(&program, &subject.client, &subject.host, way, args.seconds)
                    .with_context(|| format!("measuring {}", subject.kind.name()))?;
                eprintln!("round {} of {}: {} {way:?} {figure:.2} GB/s", round + 1, args.rounds, subject.kind.name());
                samples.entry((way, subject.kind)).or_default().push(figure);
            }
        }
    }
    let report = Report::new(&samples, args);
    println!("{report}");
    write_report(&file, &report)
}

/// Gigabytes a second that arrived.
fn transfer(program: &Path, client: &Namespace, host: &str, way: Way, seconds: u32) -> Result<f64> {
    let mut command = Command::new(program);
    command.args(["-c", host, "-p", &server::PORT.to_string(), "-t", &seconds.to_string(), "-J"]);
    if way == Way::Download {
        command.arg("-R");
    }
    received(&client.run(command)?)
}

fn received(output: &str) -> Result<f64> {
    let value: serde_json::Value = serde_json::from_str(output).context("iperf3 did not print JSON")?;
    let bits =
        value["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 says nothing of what arrived")?;
    Ok(bits / 8e9)
}

#[derive(Debug, Serialize)]
struct Report {
    rows: Vec<Row>,
    rounds: u32,
    seconds: u32,
    kernel: String,
}

#[derive(Debug, Serialize)]
struct Row {
    way: Way,
    subject: Kind,
    /// Median over the rounds.
    gbytes_per_second: f64,
    /// Median over the rounds of the ratio within the round.
    vs_direct: Option<f64>,
    rounds: Vec<f64>,
}

impl Report {
    fn new(samples: &BTreeMap<(Way, Kind), Vec<f64>>, args: &Args) -> Self {
        let rows = samples
            .iter()
            .filter_map(|((way, kind), rounds)| {
                let direct = samples.get(&(*way, Kind::Direct));
                Some(Row {
                    way: *way,
                    subject: *kind,
                    gbytes_per_second: median(rounds.iter().copied())?,
                    vs_direct: direct.and_then(|direct| median(rounds.iter().zip(direct).map(|(a, b)| a / b))),
                    rounds: rounds.clone(),
                })
            })
            .collect();
        Self { rows, rounds: args.rounds, seconds: args.seconds, kernel: kernel() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "bulk transfer of one connection: medians of {} interleaved rounds of {} s, Linux {}\n",
            self.rounds, self.seconds, self.kernel
        )?;
        writeln!(formatter, "{:<10} {:<15} {:>8} {:>10}", "way", "subject", "GB/s", "vs direct")?;
        for row in &self.rows {
            let way = match row.way {
                Way::Upload => "upload",
                Way::Download => "download",
            };
            let ratio = row.vs_direct.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            writeln!(formatter, "{way:<10} {:<15} {:>8.2} {ratio:>10}", row.subject.name(), row.gbytes_per_second)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_is_read() {
        let output = r#"{"end": {"sum_sent": {"bits_per_second": 1e9}, "sum_received": {"bits_per_second": 8e9}}}"#;
        assert_eq!(received(output).unwrap(), 1.0);
        assert!(received(r#"{"error": "unable to connect"}"#).is_err());
        assert!(received("iperf3: error").is_err());
    }
}
