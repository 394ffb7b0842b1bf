//! New connections a second over a minute, in which client ports come up again and again.
//!
//! A balancer that picks a backend's port or address anew for a port that comes up again meets connections in TIME-WAIT
//! there, and slows down second by second. What counts is the last ten seconds against the first ones.

use std::{
    fmt, fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use evenkeel_lab::{Namespace, Sandbox, find_program};
use serde::Serialize;

use super::{
    kernel, median,
    subject::{Kind, Subject, Workload},
    target_directory, write_report, wrk,
};

/// Seconds at either end that are compared.
const END: usize = 10;
/// How much longer than asked for the load generator may take.
const GRACE: Duration = Duration::from_secs(30);

/// New connections a second over a minute of port reuse, second by second (needs root).
#[derive(clap::Args)]
pub(super) struct Args {
    /// Seconds each subject is loaded
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(20..))]
    seconds: u64,
    /// Open connections of the load generator
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Direct, Kind::Evenkeel, Kind::Nft])]
    subjects: Vec<Kind>,
    /// The load balancer's binary [default: release/evenkeel in the target directory]
    #[arg(long, value_name = "FILE")]
    evenkeel: Option<PathBuf>,
    /// Where the report goes [default: bench/steady.json in the target directory]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let target = target_directory()?;
    let evenkeel = args.evenkeel.clone().unwrap_or_else(|| target.join("release/evenkeel"));
    let file = args.report.clone().unwrap_or_else(|| target.join("bench/steady.json"));
    let program = find_program("wrk", "wrk")?;
    let sandbox = Sandbox::enter()?;
    let mut rows = Vec::new();
    for &kind in &args.subjects {
        // One at a time: what the others left behind, sockets above all, goes with their namespaces.
        let subject = Subject::set_up(kind, Workload::Http, &sandbox, &evenkeel)
            .with_context(|| format!("setting up {}", kind.name()))?;
        eprintln!("{}: {} s of new connections", kind.name(), args.seconds);
        let mut command = Command::new(&program);
        command.args(["-t1", "--latency", "--timeout", "5s", "-H", "Connection: close"]);
        command.arg(format!("-c{}", args.connections)).arg(format!("-d{}s", args.seconds));
        command.arg(format!("http://{}/", subject.host));
        let load = subject.client.spawn(command)?;
        let start = Instant::now();
        let mut opened = vec![opened_so_far(&subject.client)?];
        for second in 1..=args.seconds {
            thread::sleep((start + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
            opened.push(opened_so_far(&subject.client)?);
        }
        let status = load.wait(GRACE)?;
        ensure!(status.success(), "wrk failed: {}", load.stderr().join("\n"));
        let sample = wrk::parse(&load.stdout().join("\n"), wrk::Metric::NewConnsPerSecond)?;
        let seconds: Vec<u64> = opened.windows(2).map(|pair| pair[1] - pair[0]).collect();
        rows.push(Row::new(kind, seconds, &sample)?);
    }
    let report = Report::new(rows);
    println!("{report}");
    write_report(&file, &report)?;
    if report.rows.iter().any(|row| row.errors > 0) {
        bail!("some requests failed (see the column `errors`): the figures are not comparable");
    }
    Ok(())
}

/// Connections that the namespace's sockets have opened: `ActiveOpens` of RFC 4022.
fn opened_so_far(namespace: &Namespace) -> Result<u64> {
    let text = namespace.enter(|| fs::read_to_string("/proc/thread-self/net/snmp"))??;
    counter(&text, "Tcp:", "ActiveOpens").context("the kernel does not count opened connections")
}

/// A counter of `/proc/net/snmp`: a line of names, then a line of values.
fn counter(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(protocol));
    let position = lines.next()?.split_whitespace().position(|word| word == name)?;
    lines.next()?.split_whitespace().nth(position)?.parse().ok()
}

#[derive(Debug, Serialize)]
struct Report {
    rows: Vec<Row>,
    kernel: String,
}

#[derive(Debug, Serialize)]
struct Row {
    subject: Kind,
    /// Medians of connections a second, after the first second and before the last, in which the load starts and stops.
    all: f64,
    first: f64,
    last: f64,
    /// The last seconds against the first.
    steadiness: f64,
    vs_nft: Option<f64>,
    vs_direct: Option<f64>,
    /// Failed requests.
    errors: u64,
    seconds: Vec<u64>,
}

impl Row {
    fn new(subject: Kind, seconds: Vec<u64>, sample: &wrk::Sample) -> Result<Self> {
        let whole = seconds.get(1..seconds.len().saturating_sub(1)).unwrap_or_default();
        ensure!(whole.len() >= END, "the run was too short");
        let middle = |seconds: &[u64]| median(seconds.iter().map(|count| *count as f64)).unwrap_or_default();
        let (first, last) = (middle(&whole[..END]), middle(&whole[whole.len() - END..]));
        Ok(Self {
            subject,
            all: middle(whole),
            first,
            last,
            steadiness: last / first,
            vs_nft: None,
            vs_direct: None,
            errors: sample.errors,
            seconds,
        })
    }
}

impl Report {
    fn new(mut rows: Vec<Row>) -> Self {
        let all = |kind: Kind| rows.iter().find(|row| row.subject == kind).map(|row| row.all);
        let (nft, direct) = (all(Kind::Nft), all(Kind::Direct));
        for row in &mut rows {
            row.vs_nft = nft.map(|nft| row.all / nft);
            row.vs_direct = direct.map(|direct| row.all / direct);
        }
        Self { rows, kernel: kernel() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.rows.first().map_or(0, |row| row.seconds.len());
        writeln!(
            formatter,
            "new connections a second over {seconds} s of port reuse: medians of seconds, one subject after the other, \
             Linux {}\n",
            self.kernel
        )?;
        writeln!(
            formatter,
            "{:<15} {:>8} {:>10} {:>10} {:>11} {:>8} {:>10} {:>7}",
            "subject", "all", "first 10 s", "last 10 s", "last/first", "vs nft", "vs direct", "errors"
        )?;
        for row in &self.rows {
            let ratio = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
            writeln!(
                formatter,
                "{:<15} {:>8.0} {:>10.0} {:>10.0} {:>11.2} {:>8} {:>10} {:>7}",
                row.subject.name(),
                row.all,
                row.first,
                row.last,
                row.steadiness,
                ratio(row.vs_nft),
                ratio(row.vs_direct),
                row.errors
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_name() {
        let text = "Ip: A B\nIp: 1 2\nTcp: RtoAlgorithm ActiveOpens PassiveOpens\nTcp: 1 42 7\n";
        assert_eq!(counter(text, "Tcp:", "ActiveOpens"), Some(42));
        assert_eq!(counter(text, "Tcp:", "Nothing"), None);
        assert_eq!(counter(text, "Udp:", "ActiveOpens"), None);
    }

    #[test]
    fn the_ends_are_compared_without_the_first_and_the_last_second() {
        let sample = wrk::Sample { value: 0.0, p99_us: 0.0, errors: 1 };
        let mut seconds = vec![3];
        seconds.extend([100; 10]);
        seconds.extend([80; 20]);
        seconds.extend([50; 10]);
        seconds.push(1);
        let row = Row::new(Kind::Nft, seconds, &sample).unwrap();
        assert_eq!((row.first, row.all, row.last, row.steadiness, row.errors), (100.0, 80.0, 50.0, 0.5, 1));
        assert!(Row::new(Kind::Nft, vec![1; 11], &sample).is_err());
    }
}
