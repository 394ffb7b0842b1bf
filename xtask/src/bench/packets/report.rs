//! The table and the report.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use super::{Args, Forwarding, Key, OwnLines, Samples, Subject, Traffic, compared, net, own_net};
use crate::bench::{
    harness::{Family, Hook},
    kernel, median,
};

#[derive(Debug, Serialize)]
pub(super) struct Report {
    rows: Vec<Row>,
    harness: Vec<HarnessRow>,
    rounds: u32,
    services: u16,
    kernel: String,
}

/// A program's figure for one kind of traffic.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    key: Key,
    /// Nanoseconds per packet net of the harness: median, least and most over the rounds.
    ns: f64,
    min: f64,
    max: f64,
    /// Median over the rounds of the ratio to the prototype's program fed by the same harness, within the round.
    vs_prototype: Option<f64>,
    /// Ratio to the median of the prototype's own benchmark.
    vs_own_bench: Option<f64>,
}

/// What the harness itself costs.
#[derive(Debug, Serialize)]
struct HarnessRow {
    hook: Hook,
    family: Family,
    ns: f64,
}

impl Report {
    pub(super) fn new(samples: &Samples, own: &OwnLines, args: &Args) -> Result<Self> {
        let mut rows = Vec::new();
        let mut harness = Vec::new();
        for (key, gross) in samples {
            let (Some(net), Some(traffic)) = (net(samples, *key), key.traffic) else { continue };
            let prototype = super::net(samples, compared(*key));
            let Some(ns) = median(net.iter().copied()) else { continue };
            let ratio = |other: Vec<f64>| median(net.iter().zip(other).map(|(ours, other)| ours / other));
            rows.push(Row {
                key: *key,
                ns,
                min: net.iter().copied().fold(f64::INFINITY, f64::min),
                max: net.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                vs_prototype: prototype.and_then(ratio),
                vs_own_bench: own_net(own, traffic).map(|own| ns / own),
            });
            debug_assert_eq!(gross.len(), net.len());
        }
        for (key, gross) in samples.iter().filter(|(key, _)| key.subject == Subject::Harness) {
            if let Some(ns) = median(gross.iter().copied()) {
                harness.push(HarnessRow { hook: key.hook, family: key.family, ns });
            }
        }
        rows.sort_by_key(|row| (row.key.subject, row.key.hook, row.key.family, row.key.forwarding, row.key.traffic));
        Ok(Self { rows, harness, rounds: args.rounds, services: args.services, kernel: kernel() })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "nanoseconds per packet, net of the harness: medians of {} interleaved rounds, {} services, Linux {}\n",
            self.rounds, self.services, self.kernel
        )?;
        writeln!(
            formatter,
            "{:<10} {:<4} {:<5} {:<7} {:<24} {:>8} {:>8} {:>8} {:>12} {:>12}",
            "program", "hook", "", "", "traffic", "median", "min", "max", "vs prototype", "vs its bench"
        )?;
        for row in &self.rows {
            writeln!(
                formatter,
                "{:<10} {:<4} {:<5} {:<7} {:<24} {:>8.1} {:>8.1} {:>8.1} {:>12} {:>12}",
                match row.key.subject {
                    Subject::Harness => "harness",
                    Subject::Evenkeel => "evenkeel",
                    Subject::Prototype => "prototype",
                },
                hook(row.key.hook),
                family(row.key.family),
                match row.key.forwarding {
                    Some(Forwarding::Direct) => "direct",
                    Some(Forwarding::Stack) => "stack",
                    None => "",
                },
                row.key.traffic.map_or("", traffic),
                row.ns,
                row.min,
                row.max,
                ratio(row.vs_prototype),
                ratio(row.vs_own_bench)
            )?;
        }
        writeln!(formatter)?;
        for row in &self.harness {
            writeln!(formatter, "harness {} {}: {:.1} ns", hook(row.hook), family(row.family), row.ns)?;
        }
        Ok(())
    }
}

const fn hook(hook: Hook) -> &'static str {
    match hook {
        Hook::Xdp => "xdp",
        Hook::Tc => "tc",
    }
}

const fn family(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

const fn traffic(traffic: Traffic) -> &'static str {
    match traffic {
        Traffic::Pass => "non-service pass",
        Traffic::PassMany => "pass, 65,536 addresses",
        Traffic::HitOne => "flow hit, 1 flow",
        Traffic::HitMany => "flow hit, 65,536 flows",
        Traffic::HitManyUdp => "UDP hit, 65,536 flows",
        Traffic::New => "new flow",
    }
}

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}
