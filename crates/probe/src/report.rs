//! What a run found, for people and for programs.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::atomic::Ordering, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{
    cause::Cause,
    config::{Config, LaneKind},
    record::{LaneRecord, Progress},
};

/// What a run found. Serializes to the JSON report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Requests started, all of which have ended.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// In the order of the configuration.
    pub lanes: Vec<LaneReport>,
    /// How late the prober itself started its requests; zero if there were none.
    pub lag_ms: Quantiles,
    /// The lag's p99 over which the run is invalid.
    pub max_lag_ms: f64,
    /// The prober was not fit to judge.
    pub invalid: bool,
    /// Why not.
    pub invalid_reasons: Vec<InvalidReason>,
    /// For how long requests were started.
    pub duration_ms: f64,
}

/// Why a run says nothing about its targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvalidReason {
    /// The prober's own scheduling lag was over the bound.
    Lag,
    /// Requests failed for want of the prober's own resources ([`Cause::LocalError`]).
    LocalError,
    /// The run was stopped before a first request.
    NoRequests,
}

/// What became of one lane's requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaneReport {
    /// The lane's name.
    pub lane: String,
    /// What its requests did.
    pub kind: LaneKind,
    /// Where they went.
    pub target: SocketAddr,
    /// Requests started.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// Failures by cause, those that occurred.
    pub causes: BTreeMap<Cause, u64>,
    /// Upper bound, at 95 %, of the share of requests that fail, after none did: 3/N. `None` after a failure.
    pub failure_bound_95: Option<f64>,
    /// Requests sent again on a new connection because a kept one was found closed; they are not failures.
    pub retried: u64,
    /// Of the successes, from the time they were intended to start; `None` if there were none.
    pub latency_ms: Option<Quantiles>,
    /// Successes by the name the server gave itself.
    pub servers: BTreeMap<String, u64>,
    /// Failures close in time, in order.
    pub windows: Vec<Window>,
    /// The longest time in which no request succeeded.
    pub longest_gap_ms: f64,
}

/// Failures close in time, by the times the requests were intended to start, since the start of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// The first failure.
    pub start_ms: f64,
    /// The last failure.
    pub end_ms: f64,
    /// Failures.
    pub failed: u64,
    /// The most frequent cause.
    pub cause: Cause,
}

/// Quantiles of a time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Quantiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// What a run says about its targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing failed.
    Passed,
    /// Something failed.
    Failed,
    /// Nothing can be said.
    Invalid,
}

impl Report {
    pub(crate) fn new(config: &Config, progress: &Progress, stopped: Duration) -> Self {
        let duration = stopped.min(config.duration);
        let lanes: Vec<_> = progress.lanes.iter().map(|lane| LaneReport::new(lane, duration)).collect();
        let requests = lanes.iter().map(|lane| lane.requests).sum();
        let lag_ms = Quantiles::of(&progress.lag());
        let max_lag_ms = ms(config.max_lag);
        let invalid_reasons: Vec<_> = [
            (lag_ms.p99 > max_lag_ms, InvalidReason::Lag),
            (lanes.iter().any(|lane| lane.causes.contains_key(&Cause::LocalError)), InvalidReason::LocalError),
            (requests == 0, InvalidReason::NoRequests),
        ]
        .into_iter()
        .filter_map(|(applies, reason)| applies.then_some(reason))
        .collect();
        Self {
            requests,
            failed: lanes.iter().map(|lane| lane.failed).sum(),
            lanes,
            lag_ms,
            max_lag_ms,
            invalid: !invalid_reasons.is_empty(),
            invalid_reasons,
            duration_ms: ms(duration),
        }
    }

    /// An invalid run passes no judgement, whether or not something failed.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (self.invalid, self.failed) {
            (true, _) => Verdict::Invalid,
            (false, 0) => Verdict::Passed,
            (false, _) => Verdict::Failed,
        }
    }
}

impl LaneReport {
    fn new(lane: &LaneRecord, duration: Duration) -> Self {
        let record = lane.lock();
        let requests = lane.sent.load(Ordering::Relaxed);
        let failed = record.failed();
        let windows = record.windows.spans().iter().map(|span| Window {
            start_ms: ms(span.first),
            end_ms: ms(span.last),
            failed: span.failed(),
            cause: span.main_cause(),
        });
        Self {
            lane: lane.name.clone(),
            kind: lane.kind,
            target: lane.target,
            requests,
            failed,
            causes: record.causes(),
            failure_bound_95: (failed == 0 && requests > 0).then(|| (3.0 / requests as f64).min(1.0)),
            retried: record.retried,
            latency_ms: (record.succeeded > 0).then(|| Quantiles::of(&record.latency)),
            servers: record.servers.clone(),
            windows: windows.collect(),
            longest_gap_ms: ms(record.gap_until(duration)),
        }
    }
}

impl Quantiles {
    fn of(micros: &Histogram<u64>) -> Self {
        let at = |quantile| micros.value_at_quantile(quantile) as f64 / 1e3;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: micros.max() as f64 / 1e3 }
    }
}

impl InvalidReason {
    /// The name used in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lag => "lag",
            Self::LocalError => "local_error",
            Self::NoRequests => "no_requests",
        }
    }
}

/// Milliseconds, to the microsecond.
fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.duration_ms / 1e3;
        let rate = if seconds > 0.0 { self.requests as f64 / seconds } else { 0.0 };
        writeln!(f, "Requests   [total, failed, rate]       {}, {}, {rate:.1}/s", self.requests, self.failed)?;
        writeln!(f, "Duration                               {seconds:.3} s")?;
        writeln!(f, "Own lag    [50, 90, 99, 99.9, max]     {}", self.lag_ms)?;
        for lane in &self.lanes {
            write!(f, "\n{lane}")?;
        }
        let verdict = match self.verdict() {
            Verdict::Passed => "PASSED".to_owned(),
            Verdict::Failed => format!("FAILED: {} of {} requests", self.failed, self.requests),
            Verdict::Invalid => {
                let reasons: Vec<_> = self.invalid_reasons.iter().map(|reason| self.explain(*reason)).collect();
                format!("INVALID: {}", reasons.join("; "))
            }
        };
        writeln!(f, "\n{verdict}")
    }
}

impl Report {
    fn explain(&self, reason: InvalidReason) -> String {
        let name = reason.name();
        match reason {
            InvalidReason::Lag => format!(
                "{name}: the prober's own p99 scheduling lag is {:.1} ms, over its bound of {:.1} ms",
                self.lag_ms.p99, self.max_lag_ms
            ),
            InvalidReason::LocalError => {
                format!("{name}: the prober ran out of its own resources (descriptors, ports, memory)")
            }
            InvalidReason::NoRequests => format!("{name}: no request was sent"),
        }
    }
}

impl fmt::Display for LaneReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let succeeded = self.requests - self.failed;
        let ratio = if self.requests > 0 { succeeded as f64 / self.requests as f64 * 100.0 } else { 0.0 };
        writeln!(f, "{}", self.lane)?;
        write!(f, "  Success  [ratio, of]                 {}, {}", percent(ratio), self.requests)?;
        match self.failure_bound_95 {
            Some(bound) => writeln!(f, " (95 % sure: fewer than {:.4} % fail)", (bound * 1e6).ceil() / 1e4)?,
            None => writeln!(f)?,
        }
        if let Some(latency) = self.latency_ms {
            writeln!(f, "  Latency  [50, 90, 99, 99.9, max]     {latency}")?;
        }
        writeln!(f, "  Longest time without a success       {:.1} ms", self.longest_gap_ms)?;
        if self.retried > 0 {
            writeln!(f, "  Retried on a new connection          {}", self.retried)?;
        }
        if !self.servers.is_empty() {
            writeln!(f, "  Servers                              {}", list(&self.servers))?;
        }
        if !self.causes.is_empty() {
            writeln!(f, "  Failures                             {}", list(&self.causes))?;
        }
        for window in &self.windows {
            let Window { start_ms, end_ms, failed, cause } = window;
            writeln!(f, "  Outage   at {start_ms:.1} ms for {:.1} ms: {failed} failed, {cause}", end_ms - start_ms)?;
        }
        Ok(())
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p999, max } = self;
        write!(f, "{p50:.3}, {p90:.3}, {p99:.3}, {p999:.3}, {max:.3} ms")
    }
}

/// Rounded down where it would otherwise hide a failure behind "100 %".
fn percent(value: f64) -> String {
    if value == 100.0 { "100 %".to_owned() } else { format!("{:.4} %", (value * 1e4).floor() / 1e4) }
}

fn list<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}
