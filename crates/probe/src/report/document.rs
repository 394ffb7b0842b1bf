//! The report's content: what every format shows, and what the JSON report is, field for field.
//!
//! Times are milliseconds, since the start of the run unless a field says otherwise, to the microsecond.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{
    events::EventError,
    objective::{Metric, Unit},
    quantity::go_duration,
};
use crate::{cause::Cause, config::LaneKind, measure::InvalidReason};

/// The version of the JSON report's shape. A field added leaves it; a field renamed, removed or changed raises it.
pub const VERSION: u32 = 1;

/// What a run found. Serializes to the JSON report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    pub(super) verdict: Verdict,
    /// The prober was not fit to judge.
    pub invalid: bool,
    /// Why not.
    pub invalid_reasons: Vec<InvalidReason>,
    /// What was demanded, and what came of it.
    pub objectives: Vec<ObjectiveResult>,
    /// The command that ran meanwhile.
    pub command: Option<CommandResult>,
    /// When the run started, RFC 3339.
    pub started_at: Option<jiff::Timestamp>,
    /// For how long requests were started.
    pub duration_ms: f64,
    /// From then until the last of them had ended.
    pub wait_ms: f64,
    /// Requests started, all of which have ended.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// Of the successes of all lanes, from the time they were intended to start; `None` if there were none.
    pub latency_ms: Option<Quantiles>,
    /// In the order of the configuration.
    pub lanes: Vec<LaneReport>,
    /// How late the prober itself started its requests; zero if there were none.
    pub lag_ms: Quantiles,
    /// The lag's p99 over which the run is invalid.
    pub max_lag_ms: f64,
    /// What changed meanwhile, in order of time.
    pub events: Vec<Event>,
    /// Lines that were to be events and were not, by reason.
    pub events_refused: BTreeMap<EventError, u64>,
    /// Results left out of the stream of single results, because its reader was slower than the run.
    pub results_dropped: u64,
}

/// What a run says about its targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every objective held, and the command succeeded, if there was one.
    Passed,
    /// Not so.
    Breached,
    /// Nothing can be said.
    Invalid,
}

/// An objective and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveResult {
    /// As it was written.
    pub objective: String,
    /// What it bounds.
    pub metric: Metric,
    /// In what `limit` and `actual` are.
    pub unit: Unit,
    /// The bound.
    pub limit: f64,
    /// What was measured; of several lanes, the worst. `None` if there was nothing to measure, which breaches it.
    pub actual: Option<f64>,
    /// The lane of `actual`; `None` if it is the sum of several.
    pub lane: Option<String>,
    /// Whether it was met.
    pub held: bool,
    /// What to know before relying on it.
    pub note: Option<String>,
}

/// A command that ran while the targets were probed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandResult {
    /// As it was given to the shell.
    pub command: String,
    /// How it ended.
    pub end: CommandEnd,
    /// When it was started.
    pub started_ms: f64,
    /// When it had ended.
    pub ended_ms: f64,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum CommandEnd {
    /// By itself.
    Exited {
        /// Its exit status, 0 for success.
        status: i32,
    },
    /// By a signal.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// It was still running when the time given to it was over, and was terminated.
    OutOfTime,
    /// It was terminated because the run was interrupted.
    Interrupted,
}

/// What became of one lane's requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaneReport {
    /// The lane's name.
    pub lane: String,
    /// What its requests did.
    pub kind: LaneKind,
    /// Where they went.
    pub target: String,
    /// Requests per second that were intended; `None` if they followed each other as fast as answers came.
    pub rate: Option<f64>,
    /// Requests started.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// Failures by cause, those that occurred.
    pub causes: BTreeMap<Cause, u64>,
    /// Failures before the TCP handshake was complete: a load balancer could have sent them to another backend.
    pub rescuable: u64,
    /// Failures after it: what had been sent was lost with the backend.
    pub in_flight: u64,
    /// Failures of datagrams, which know no handshake.
    pub connectionless: u64,
    /// Failures for want of the prober's own resources.
    pub local: u64,
    /// Of the failures that were rescuable, by cause.
    pub rescuable_causes: BTreeMap<Cause, u64>,
    /// Upper bound, at 95 %, of the share of requests that fail, after none did: 3/N. `None` after a failure.
    pub failure_bound_95: Option<f64>,
    /// Requests sent again on a new connection because a kept one was found closed; they are not failures.
    pub retried: u64,
    /// Connections opened.
    pub connections: u64,
    /// Long-lived connections that broke; each was opened anew.
    pub broken: u64,
    /// Of the successes, from the time they were intended to start to the end of the answer; `None` without any.
    pub latency_ms: Option<Quantiles>,
    /// Of the same, the 95 % confidence interval of each percentile, taking requests as independent.
    pub latency_ci95_ms: Option<Intervals>,
    /// Of the successes, from the time they were actually sent: what a closed-loop tool would report.
    pub service_ms: Option<Quantiles>,
    /// Of the successes, from the intended time to the first byte of the answer.
    pub first_byte_ms: Option<Quantiles>,
    /// Of the connections opened, the TCP handshake.
    pub handshake_ms: Option<Quantiles>,
    /// Payload received, in bytes.
    pub bytes_in: u64,
    /// Payload sent, in bytes.
    pub bytes_out: u64,
    /// Answers by HTTP status or DNS response code, failures included.
    pub codes: BTreeMap<String, u64>,
    /// The texts of errors, with their counts.
    pub errors: BTreeMap<String, u64>,
    /// What each server did, by the name it gave itself: successes.
    pub servers: BTreeMap<String, u64>,
    /// The same: failures after it had named itself.
    pub servers_failed: BTreeMap<String, u64>,
    /// Successes as late as lost SYNs make them.
    pub slow: Vec<SlowSuccesses>,
    /// Outages, in order of time.
    pub windows: Vec<Window>,
    /// The longest time in which no request succeeded.
    pub longest_gap_ms: f64,
    /// When that began.
    pub longest_gap_start_ms: f64,
    /// The run in slices of equal length, by when requests were intended to start.
    pub timeline: Timeline,
}

/// Successes about as late as lost SYNs make them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowSuccesses {
    /// When the SYN was sent again, in seconds: 1, 3 or 7.
    pub after_s: u64,
    /// How many.
    pub count: u64,
    /// Of these, those whose connection had retransmitted, by `TCP_INFO`.
    pub confirmed: u64,
}

/// An outage: failures close in time, or a time in which nothing failed but nothing succeeded either.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// When the first request that it hit was intended to start.
    pub start_ms: f64,
    /// When the first request that succeeded after it was intended to start, or the end of the run.
    pub end_ms: f64,
    /// Failures.
    pub failed: u64,
    /// Of these, those before the handshake was complete.
    pub rescuable: u64,
    /// The most frequent cause; `None` for a stall: requests waited, and then succeeded.
    pub cause: Option<Cause>,
    /// Failures by cause.
    pub causes: BTreeMap<Cause, u64>,
    /// Failures by the server that had named itself; without those of unknown servers.
    pub servers: BTreeMap<String, u64>,
    /// The longest time in it without a success.
    pub longest_gap_ms: f64,
    /// The nearest event before it.
    pub blame: Option<Blame>,
}

/// The event a window is blamed on. Nearness in time is a hint, no proof.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Blame {
    /// Its index in [`Report::events`].
    pub event: usize,
    /// How long before the first failure it was; negative if that request had been started shortly before it.
    pub before_ms: f64,
}

/// Something that changed while the run went on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, since the start of the run; negative before it.
    pub at_ms: f64,
    /// What.
    pub text: String,
}

/// A lane's time in slices of equal length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// The length of each slice.
    pub slice_ms: f64,
    /// From the start of the run on.
    pub slices: Vec<Slice>,
}

/// A slice of a lane's time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Requests that succeeded.
    pub ok: u64,
    /// Requests that failed.
    pub failed: u64,
    /// The median latency of the successes, to 6 %.
    pub p50_ms: Option<f64>,
    /// Their 99th percentile, to 6 %.
    pub p99_ms: Option<f64>,
    /// Their maximum.
    pub max_ms: Option<f64>,
}

/// Quantiles of a time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Quantiles {
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// Confidence intervals of quantiles, in milliseconds: lower and upper end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Intervals {
    pub p50: (f64, f64),
    pub p90: (f64, f64),
    pub p95: (f64, f64),
    pub p99: (f64, f64),
    pub p999: (f64, f64),
}

impl Report {
    /// What it comes to. An invalid run passes no judgement, whether or not something failed.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Whether any lane had a schedule that the prober could lag behind.
    pub(super) fn is_open_loop(&self) -> bool {
        self.lanes.iter().any(|lane| lane.rate.is_some())
    }
}

impl Verdict {
    /// The name used in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Breached => "breached",
            Self::Invalid => "invalid",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl CommandEnd {
    /// Whether the command did what it was to do.
    #[must_use]
    pub const fn succeeded(&self) -> bool {
        matches!(self, Self::Exited { status: 0 })
    }
}

impl fmt::Display for CommandEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { status } => write!(f, "exited with {status}"),
            Self::Signalled { signal } => write!(f, "was ended by signal {signal}"),
            Self::OutOfTime => f.write_str("was still running at the end of --duration and was terminated"),
            Self::Interrupted => f.write_str("was terminated because the run was interrupted"),
        }
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min, mean, p50, p90, p95, p99, p999, max } = self;
        let all = [min, mean, p50, p90, p95, p99, p999, max].map(|ms| go_duration(*ms));
        f.write_str(&all.join(", "))
    }
}

impl Window {
    /// The cause in one word; `stall` if nothing failed.
    #[must_use]
    pub fn cause_name(&self) -> &'static str {
        self.cause.map_or("stall", Cause::name)
    }

    /// Its length, in milliseconds.
    #[must_use]
    pub fn length_ms(&self) -> f64 {
        self.end_ms - self.start_ms
    }
}

/// What to know about a lane without a schedule.
pub(super) const CLOSED_LOOP: &str =
    "closed loop: the next request waited for an answer, so a stall shows as one slow request a connection";

impl LaneReport {
    /// Requests that succeeded.
    #[must_use]
    pub const fn succeeded(&self) -> u64 {
        self.requests.saturating_sub(self.failed)
    }
}

/// Milliseconds, to the microsecond.
pub(super) fn ms(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
