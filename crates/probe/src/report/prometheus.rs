//! The report in Prometheus' text exposition format, for the node exporter's textfile collector or a push gateway.
//!
//! All are gauges, or summaries, of one run: the next run starts anew.

use std::fmt::{self, Display, Formatter, Write};

use super::document::{LaneReport, Quantiles, Report, Verdict};

/// A metric family and its samples.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    samples: Vec<Sample>,
}

struct Sample {
    /// Follows the family's name, such as `_count`.
    suffix: &'static str,
    labels: Vec<(&'static str, String)>,
    value: f64,
}

impl Report {
    /// Prometheus' text exposition format, version 0.0.4.
    #[must_use]
    pub fn to_prometheus(&self) -> String {
        let mut text = String::new();
        for family in self.families().iter().filter(|family| !family.samples.is_empty()) {
            // Writing to a string does not fail.
            _ = write!(text, "{family}");
        }
        text
    }

    fn families(&self) -> Vec<Family> {
        let one = |value: f64| vec![sample([], value)];
        let started = self.started_at.map(|at| sample([], at.as_millisecond() as f64 / 1e3));
        let mut families = vec![
            gauge("verdict", "What the run comes to: 1 for the verdict that applies.", self.verdicts()),
            gauge("start_time_seconds", "When the run started, since 1970.", started.into_iter().collect()),
            gauge("duration_seconds", "For how long requests were started.", one(self.duration_ms / 1e3)),
            gauge(
                "objective_held",
                "1 if the objective was met.",
                self.objectives
                    .iter()
                    .map(|result| sample([("objective", result.objective.clone())], f64::from(u8::from(result.held))))
                    .collect(),
            ),
            Family {
                name: "lag_seconds",
                help: "How late the prober itself started its requests.",
                kind: "summary",
                samples: summary(&[], &self.lag_ms, self.requests),
            },
        ];
        if let Some(command) = &self.command {
            let succeeded = f64::from(u8::from(command.end.succeeded()));
            families.push(gauge("command_succeeded", "1 if the command ended with success.", one(succeeded)));
        }
        families.extend(self.lane_families());
        families
    }

    fn verdicts(&self) -> Vec<Sample> {
        [Verdict::Passed, Verdict::Breached, Verdict::Invalid]
            .map(|one| sample([("verdict", one.name().to_owned())], f64::from(u8::from(one == self.verdict))))
            .into()
    }

    fn lane_families(&self) -> Vec<Family> {
        let each = |value: fn(&LaneReport) -> Option<f64>| {
            self.lanes.iter().filter_map(|lane| Some(sample([lane_label(lane)], value(lane)?))).collect()
        };
        let by = |label: &'static str, counts: fn(&LaneReport) -> Vec<(String, u64)>| {
            let samples = |lane| counts(lane).into_iter().map(move |(name, count)| (lane, name, count));
            self.lanes
                .iter()
                .flat_map(samples)
                .map(|(lane, name, count)| sample([lane_label(lane), (label, name)], count as f64))
                .collect()
        };
        let latency = |times: fn(&LaneReport) -> Option<Quantiles>| {
            let samples = |lane: &LaneReport| {
                times(lane).map(|times| summary(&[lane_label(lane)], &times, lane.succeeded())).unwrap_or_default()
            };
            self.lanes.iter().flat_map(samples).collect()
        };
        vec![
            gauge(
                "lane_info",
                "The lanes.",
                self.lanes
                    .iter()
                    .map(|lane| {
                        let kind = ("kind", lane.kind.scheme().to_owned());
                        sample([lane_label(lane), kind, ("target", lane.target.clone())], 1.0)
                    })
                    .collect(),
            ),
            gauge("requests", "Requests started.", each(|lane| Some(lane.requests as f64))),
            gauge(
                "failed_requests",
                "Requests that failed, by how far they had come.",
                by("phase", |lane| {
                    [
                        ("connecting", lane.rescuable),
                        ("in_flight", lane.in_flight),
                        ("datagram", lane.connectionless),
                        ("local", lane.local),
                    ]
                    .map(|(phase, count)| (phase.to_owned(), count))
                    .into()
                }),
            ),
            gauge(
                "failures",
                "Requests that failed, by cause.",
                by("cause", |lane| {
                    lane.causes.iter().map(|(cause, count)| (cause.name().to_owned(), *count)).collect()
                }),
            ),
            gauge(
                "failure_bound_ratio",
                "With 95 % confidence, at most this share fails (3/N); only where none did.",
                each(|lane| lane.failure_bound_95),
            ),
            Family {
                name: "latency_seconds",
                help: "Latency of the successes, from the time they were intended to start.",
                kind: "summary",
                samples: latency(|lane| lane.latency_ms),
            },
            gauge("latency_max_seconds", "The highest of these.", each(|lane| Some(lane.latency_ms?.max / 1e3))),
            gauge(
                "longest_gap_seconds",
                "The longest time without a success.",
                each(|lane| Some(lane.longest_gap_ms / 1e3)),
            ),
            gauge("outages", "Outage windows.", each(|lane| Some(lane.windows.len() as f64))),
            gauge(
                "outage_seconds",
                "Length of all outage windows.",
                each(|lane| Some(lane.windows.iter().map(super::Window::length_ms).sum::<f64>() / 1e3)),
            ),
            gauge(
                "slow_successes",
                "Successes as late as lost SYNs make them, by seconds lost.",
                by("after", |lane| lane.slow.iter().map(|slow| (slow.after_s.to_string(), slow.count)).collect()),
            ),
            gauge(
                "answers",
                "Answers by HTTP status or DNS response code.",
                by("code", |lane| lane.codes.iter().map(|(code, count)| (code.clone(), *count)).collect()),
            ),
            gauge(
                "server_successes",
                "Successes by the name the server gave itself.",
                by("server", |lane| lane.servers.iter().map(|(server, count)| (server.clone(), *count)).collect()),
            ),
            gauge("received_bytes", "Payload received.", each(|lane| Some(lane.bytes_in as f64))),
            gauge("sent_bytes", "Payload sent.", each(|lane| Some(lane.bytes_out as f64))),
        ]
    }
}

fn lane_label(lane: &LaneReport) -> (&'static str, String) {
    ("lane", lane.lane.clone())
}

fn gauge(name: &'static str, help: &'static str, samples: Vec<Sample>) -> Family {
    Family { name, help, kind: "gauge", samples }
}

fn sample<const N: usize>(labels: [(&'static str, String); N], value: f64) -> Sample {
    Sample { suffix: "", labels: labels.into(), value }
}

fn summary(labels: &[(&'static str, String)], times: &Quantiles, count: u64) -> Vec<Sample> {
    let Quantiles { mean, p50, p90, p95, p99, p999, .. } = times;
    let quantiles = [("0.5", p50), ("0.9", p90), ("0.95", p95), ("0.99", p99), ("0.999", p999)];
    let quantiles = quantiles.map(|(quantile, ms)| {
        let labels = labels.iter().cloned().chain([("quantile", quantile.to_owned())]).collect();
        Sample { suffix: "", labels, value: ms / 1e3 }
    });
    let total = [("_sum", mean / 1e3 * count as f64), ("_count", count as f64)];
    let total = total.map(|(suffix, value)| Sample { suffix, labels: labels.to_vec(), value });
    quantiles.into_iter().chain(total).collect()
}

impl Display for Family {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, help, kind, samples } = self;
        writeln!(f, "# HELP evenkeel_probe_{name} {help}\n# TYPE evenkeel_probe_{name} {kind}")?;
        for Sample { suffix, labels, value } in samples {
            write!(f, "evenkeel_probe_{name}{suffix}")?;
            for (index, (label, value)) in labels.iter().enumerate() {
                write!(f, "{}{label}=\"", if index == 0 { '{' } else { ',' })?;
                for c in value.chars() {
                    match c {
                        '\\' => f.write_str("\\\\")?,
                        '"' => f.write_str("\\\"")?,
                        '\n' => f.write_str("\\n")?,
                        c => f.write_char(c)?,
                    }
                }
                f.write_char('"')?;
            }
            writeln!(f, "{} {value}", if labels.is_empty() { "" } else { "}" })?;
        }
        Ok(())
    }
}
