//! Driving the load generator `wrk` and reading what it prints.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use evenkeel_lab::Namespace;
use serde::Serialize;

use super::server;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// Requests a second over connections that stay open.
    KeepaliveRps,
    /// Requests a second over a connection each.
    #[serde(rename = "new_conns_per_s")]
    NewConnsPerSecond,
    /// Payload of large responses.
    BulkGbytesPerSecond,
}

impl Metric {
    pub(crate) const ALL: [Self; 3] = [Self::KeepaliveRps, Self::NewConnsPerSecond, Self::BulkGbytesPerSecond];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KeepaliveRps => "keepalive_rps",
            Self::NewConnsPerSecond => "new_conns_per_s",
            Self::BulkGbytesPerSecond => "bulk_gbytes_per_s",
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::KeepaliveRps => "requests/s",
            Self::NewConnsPerSecond => "connections/s",
            Self::BulkGbytesPerSecond => "GB/s",
        }
    }
}

/// The load generator's settings.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) program: PathBuf,
    pub(crate) connections: u32,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// In the metric's unit.
    pub(crate) value: f64,
    /// 99th percentile of the response time, microseconds.
    pub(crate) p99_us: f64,
    /// Socket errors, and responses other than success.
    pub(crate) errors: u64,
}

impl Load {
    /// Loads `host` from `client` for a while.
    pub(crate) fn measure(&self, metric: Metric, client: &Namespace, host: &str, duration: Duration) -> Result<Sample> {
        let mut command = Command::new(&self.program);
        command.args(["-t1", "--latency", "--timeout", "5s"]);
        command.arg(format!("-c{}", self.connections)).arg(format!("-d{}s", duration.as_secs()));
        match metric {
            Metric::KeepaliveRps => command.arg(format!("http://{host}/")),
            Metric::NewConnsPerSecond => command.args(["-H", "Connection: close"]).arg(format!("http://{host}/")),
            Metric::BulkGbytesPerSecond => command.arg(format!("http://{host}/{}", server::BULK_FILE)),
        };
        let output = client.run(command)?;
        parse(&output, metric).with_context(|| format!("reading what wrk printed:\n{output}"))
    }
}

pub(super) fn parse(output: &str, metric: Metric) -> Result<Sample> {
    let field = |label: &str| -> Option<&str> {
        output.lines().find_map(|line| line.trim().strip_prefix(label)).map(str::trim)
    };
    let value = match metric {
        Metric::KeepaliveRps | Metric::NewConnsPerSecond => {
            field("Requests/sec:").context("no line Requests/sec")?.parse().context("Requests/sec is no number")?
        }
        Metric::BulkGbytesPerSecond => bytes(field("Transfer/sec:").context("no line Transfer/sec")?)? / 1e9,
    };
    let p99_us = microseconds(field("99%").context("no line 99%")?)?;
    let mut errors = 0;
    if let Some(kinds) = field("Socket errors:") {
        for kind in kinds.split(',') {
            let count = kind.split_whitespace().last().context("empty socket error")?;
            errors += count.parse::<u64>().context("socket errors are no number")?;
        }
    }
    if let Some(count) = field("Non-2xx or 3xx responses:") {
        errors += count.parse::<u64>().context("responses are no number")?;
    }
    Ok(Sample { value, p99_us, errors })
}

/// `1.23ms` and its like.
pub(super) fn microseconds(text: &str) -> Result<f64> {
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        _ => bail!("{text:?} is no duration"),
    };
    Ok(number.parse::<f64>().with_context(|| format!("{text:?} is no duration"))? * factor)
}

/// `1.23MB` and its like; wrk's prefixes are binary.
fn bytes(text: &str) -> Result<f64> {
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "B" => 1.0,
        "KB" => 1024.0,
        "MB" => 1024.0 * 1024.0,
        "GB" => 1024.0 * 1024.0 * 1024.0,
        _ => bail!("{text:?} is no size"),
    };
    Ok(number.parse::<f64>().with_context(|| format!("{text:?} is no size"))? * factor)
}

fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|character: char| character.is_ascii_alphabetic()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
Running 3s test @ http://10.77.0.100/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.25ms    2.20ms  20.00ms   90.00%
    Req/Sec    30.00k     1.00k   32.00k    70.00%
  Latency Distribution
     50%  640.00us
     75%    1.10ms
     90%    2.90ms
     99%   10.50ms
  90000 requests in 3.00s, 13.00MB read
  Socket errors: connect 1, read 2, write 0, timeout 3
  Non-2xx or 3xx responses: 4
Requests/sec:  30000.50
Transfer/sec:      2.00GB
";

    #[test]
    fn figures_and_errors_are_read() {
        let sample = parse(OUTPUT, Metric::KeepaliveRps).unwrap();
        assert_eq!(sample, Sample { value: 30000.5, p99_us: 10_500.0, errors: 10 });
        let sample = parse(OUTPUT, Metric::BulkGbytesPerSecond).unwrap();
        assert!((sample.value - 2.147_483_648).abs() < 1e-9, "{sample:?}");
    }

    #[test]
    fn a_run_without_errors_has_none() {
        let clean: String = OUTPUT.lines().filter(|line| !line.contains("rrors") && !line.contains("Non-")).fold(
            String::new(),
            |mut text, line| {
                text.push_str(line);
                text.push('\n');
                text
            },
        );
        assert_eq!(parse(&clean, Metric::NewConnsPerSecond).unwrap().errors, 0);
    }

    #[test]
    fn output_of_something_else_is_refused() {
        assert!(parse("unable to connect\n", Metric::KeepaliveRps).is_err());
        assert!(microseconds("3 apples").is_err());
        assert!(bytes("3").is_err());
    }
}
