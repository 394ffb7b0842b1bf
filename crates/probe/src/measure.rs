//! What a run measured: the model every report is made from.
//!
//! Everything here is bounded however long the run is, and plain: each type serializes, and a test or a report can
//! build one. Times are since the start of the run; in serialized form they are whole nanoseconds. A request belongs to
//! the time it was *intended* to start.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{Cause, LaneKind, Latency};

/// Most buckets of a [`Timeline`]: from there on, pairs of them become one.
pub const MAX_BUCKETS: usize = 600;
/// Width of a [`Timeline`]'s buckets at first.
pub const FIRST_BUCKET: Duration = Duration::from_millis(100);
/// Most windows of a lane: from there on, the two nearest become one.
pub const MAX_WINDOWS: usize = 256;
/// Most server names told apart in a lane; further ones count as [`OTHER`].
pub const MAX_SERVERS: usize = 1024;
/// Most different error texts kept of a lane; further ones count as [`OTHER`].
pub const MAX_ERRORS: usize = 32;
/// Stands for all servers, error texts or response codes beyond those told apart.
pub const OTHER: &str = "(other)";
/// When Linux has sent a SYN again, from the first: after 1, 3 and 7 s (RFC 6298 with an initial RTO of 1 s). From 6.5
/// on it does so every second at first (`tcp_syn_linear_timeouts`), so that a handshake of 2 s counts with those of 1 s.
pub const SYN_RETRANSMISSIONS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(7)];

/// What a run measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The wall clock at the run's time zero, to lay events of other clocks over it.
    #[serde(with = "unix_nanos")]
    pub started: SystemTime,
    /// For how long requests were started: as configured, or less if the run was stopped.
    #[serde(with = "nanos")]
    pub duration: Duration,
    /// When the last request had ended; at least `duration`.
    #[serde(with = "nanos")]
    pub ended: Duration,
    /// In the order of the configuration.
    pub lanes: Vec<LaneMeasurement>,
    /// How late the prober itself started its requests. Empty in lanes without a schedule ([`crate::Rate::Max`]).
    pub lag: Latency,
    /// The lag's 99th percentile over which the run is invalid.
    #[serde(with = "nanos")]
    pub max_lag: Duration,
    /// Why the run says nothing about its targets; empty if it does.
    pub invalid: Vec<InvalidReason>,
    /// Results that did not fit into the queue of [`crate::Results`] and were left out of it. They are counted in all
    /// other respects.
    pub results_dropped: u64,
}

/// Why a run says nothing about its targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvalidReason {
    /// The prober's own scheduling lag was over the bound.
    Lag,
    /// Requests failed for want of the prober's own resources ([`Cause::LocalError`]).
    LocalError,
    /// Datagrams arrived and were lost in the prober's own full buffer.
    ReceiveOverflow,
    /// The run was stopped before a first request.
    NoRequests,
}

/// What became of one lane's requests.
///
/// `sent == succeeded + failed`, and `failed == rescuable + in_flight + connectionless + local` once the run has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaneMeasurement {
    /// The lane's name.
    pub name: String,
    /// What its requests do.
    pub kind: LaneKind,
    /// Where they go.
    pub target: SocketAddr,
    /// Time between two requests; `None` if they follow each other as fast as answers come.
    #[serde(with = "optional_nanos")]
    pub interval: Option<Duration>,
    /// Requests started.
    pub sent: u64,
    /// Those that succeeded.
    pub succeeded: u64,
    /// Those that failed.
    pub failed: u64,
    /// Failures by cause, those that occurred.
    pub causes: BTreeMap<Cause, u64>,
    /// Failed before the TCP handshake was complete: a balancer could have sent these elsewhere.
    pub rescuable: u64,
    /// Failed after it: lost with their server whatever a layer 4 balancer does.
    pub in_flight: u64,
    /// Failed datagrams, which know no handshake.
    pub connectionless: u64,
    /// Never left the prober, for want of its own resources.
    pub local: u64,
    /// Of the failures that were rescuable, by cause.
    pub rescuable_causes: BTreeMap<Cause, u64>,
    /// Of the successes, from the intended time to the end of the answer.
    pub latency: Latency,
    /// Of the successes, from the time they were sent to the end of the answer: what a closed-loop tool would report.
    pub service: Latency,
    /// Of the successes, from the intended time to the answer's first byte; empty where no answer is read.
    pub first_byte: Latency,
    /// Of the connections opened, the TCP handshake.
    pub handshake: Latency,
    /// The run cut into equal pieces.
    pub timeline: Timeline,
    /// Outages, in order of time.
    pub windows: Vec<Window>,
    /// The longest time in which no request succeeded; both ends of the run bound it.
    pub longest_gap: Gap,
    /// Successes whose handshake took about as long as lost SYNs make it.
    pub slow: [SlowSuccesses; SYN_RETRANSMISSIONS.len()],
    /// What each server did, by the name it gave itself.
    pub servers: BTreeMap<String, ServerMeasurement>,
    /// Answers by HTTP status (such as `200`) or DNS response code (such as `NOERROR`), failures included.
    pub codes: BTreeMap<String, u64>,
    /// Different error texts of failures, with their number: the first [`MAX_ERRORS`], then [`OTHER`].
    pub errors: BTreeMap<String, u64>,
    /// Requests sent again on a new connection because a kept one was found closed; they are not failures.
    pub retried: u64,
    /// Connections opened, their handshake complete.
    pub connections: u64,
    /// Long-lived connections that broke; each was opened anew.
    pub broken: u64,
    /// Payload received, in bytes, headers included.
    pub bytes_in: u64,
    /// Payload sent, in bytes, headers included.
    pub bytes_out: u64,
}

/// What one server did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerMeasurement {
    /// Requests it answered.
    pub succeeded: u64,
    /// Requests that failed after it had named itself, on the same connection.
    pub failed: u64,
}

/// Successes whose TCP handshake took about as long as one, two or three lost SYNs make it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowSuccesses {
    /// All of them.
    pub count: u64,
    /// Those of which the kernel says that it sent something again (`tcpi_total_retrans` of `TCP_INFO`). The others
    /// were slow for another reason.
    pub confirmed: u64,
}

/// A time without success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The last success before it, or the start of the run.
    #[serde(with = "nanos")]
    pub start: Duration,
    /// The first success after it, or the end of the run.
    #[serde(with = "nanos")]
    pub end: Duration,
}

impl Gap {
    /// Its length.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.end.saturating_sub(self.start)
    }
}

/// An outage: failures close in time, or a time in which nothing failed but nothing succeeded either.
///
/// Both ends are right to within one interval of the lane plus the time of one answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// When the first request that it hit was intended to start.
    #[serde(with = "nanos")]
    pub start: Duration,
    /// The first success after the last failure was due, or the end of the run if there was none.
    #[serde(with = "nanos")]
    pub end: Duration,
    /// Failures.
    pub failed: u64,
    /// Of these, those before the handshake was complete.
    pub rescuable: u64,
    /// Failures by cause.
    pub causes: BTreeMap<Cause, u64>,
    /// Failures by the server that had named itself; without those of unknown servers.
    pub servers: BTreeMap<String, u64>,
    /// The longest time in it without a success.
    #[serde(with = "nanos")]
    pub longest_gap: Duration,
}

impl Window {
    /// Its length.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.end.saturating_sub(self.start)
    }

    /// The most frequent cause; `None` if nothing failed: requests waited, and then succeeded (a stall).
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        // Of those equally frequent, the first in the order of `Cause`.
        self.causes.iter().rev().max_by_key(|&(_, count)| count).map(|(&cause, _)| cause)
    }

    /// The server of most failures, if any had named itself.
    #[must_use]
    pub fn server(&self) -> Option<&str> {
        self.servers.iter().max_by_key(|&(_, count)| count).map(|(name, _)| name.as_str())
    }
}

/// A run cut into equal pieces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Width of each bucket: [`FIRST_BUCKET`], doubled as often as a run of this length needs.
    #[serde(with = "nanos")]
    pub width: Duration,
    /// From the start of the run on, without holes; at most [`MAX_BUCKETS`].
    pub buckets: Vec<Bucket>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { width: FIRST_BUCKET, buckets: Vec::new() }
    }
}

/// The requests that were intended to start within one piece of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// Those that succeeded.
    pub succeeded: u64,
    /// Those that failed.
    pub failed: u64,
    /// Payload received, in bytes.
    pub bytes_in: u64,
    /// Of the successes, from the intended time; coarse.
    pub latency: Latency,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { succeeded: 0, failed: 0, bytes_in: 0, latency: Latency::coarse() }
    }
}

/// How far a request had come when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It never left the prober.
    Local,
    /// The TCP handshake was not complete: the request was rescuable.
    Connecting,
    /// The TCP handshake was complete: the request was in flight.
    Established,
    /// A datagram was sent.
    Datagram,
}

/// One request from beginning to end, as handed to [`crate::Results`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestResult {
    /// Index of the lane in the configuration.
    pub lane: usize,
    /// Number of the request in its lane, from 0.
    pub sequence: u64,
    /// When it was due.
    #[serde(with = "nanos")]
    pub intended: Duration,
    /// When it was started.
    #[serde(with = "nanos")]
    pub sent: Duration,
    /// When the first byte of the answer was read, if one was.
    #[serde(with = "optional_nanos")]
    pub first_byte: Option<Duration>,
    /// When it had succeeded or failed.
    #[serde(with = "nanos")]
    pub end: Duration,
    /// Why it failed; `None` if it succeeded.
    pub cause: Option<Cause>,
    /// How far it had come.
    pub phase: Phase,
    /// More about a failure, such as the system's error.
    pub error: Option<String>,
    /// The name the server gave itself on this connection.
    pub server: Option<String>,
    /// HTTP status or DNS response code, if there was one.
    pub code: Option<String>,
    /// Payload received, in bytes.
    pub bytes_in: u64,
    /// Payload sent, in bytes.
    pub bytes_out: u64,
    /// Segments the kernel sent again (`tcpi_total_retrans`); `None` if it was not asked: it is where a handshake was
    /// slow.
    pub retransmits: Option<u32>,
    /// Sent again on a new connection because a kept one was found closed.
    pub retried: bool,
}

impl LaneMeasurement {
    /// A lane of which nothing has been measured yet.
    #[must_use]
    pub fn new(name: String, kind: LaneKind, target: SocketAddr, interval: Option<Duration>) -> Self {
        Self {
            name,
            kind,
            target,
            interval,
            sent: 0,
            succeeded: 0,
            failed: 0,
            causes: BTreeMap::new(),
            rescuable: 0,
            in_flight: 0,
            connectionless: 0,
            local: 0,
            rescuable_causes: BTreeMap::new(),
            latency: Latency::fine(),
            service: Latency::fine(),
            first_byte: Latency::fine(),
            handshake: Latency::fine(),
            timeline: Timeline::default(),
            windows: Vec::new(),
            longest_gap: Gap::default(),
            slow: Default::default(),
            servers: BTreeMap::new(),
            codes: BTreeMap::new(),
            errors: BTreeMap::new(),
            retried: 0,
            connections: 0,
            broken: 0,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// Upper bound, at 95 %, of the share of requests that fail, after none did: 3/N (the rule of three). `None` after
    /// a failure or without requests.
    #[must_use]
    pub fn failure_bound_95(&self) -> Option<f64> {
        (self.failed == 0 && self.sent > 0).then(|| (3.0 / self.sent as f64).min(1.0))
    }
}

impl InvalidReason {
    /// The name used in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lag => "lag",
            Self::LocalError => "local_error",
            Self::ReceiveOverflow => "receive_overflow",
            Self::NoRequests => "no_requests",
        }
    }
}

fn to_nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

mod nanos {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(super::to_nanos(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Ok(Duration::from_nanos(u64::deserialize(deserializer)?))
    }
}

mod optional_nanos {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(super::to_nanos).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_nanos))
    }
}

mod unix_nanos {
    use std::time::{Duration, SystemTime};

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(super::to_nanos(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let since = Duration::from_nanos(u64::deserialize(deserializer)?);
        SystemTime::UNIX_EPOCH.checked_add(since).ok_or_else(|| D::Error::custom("a time beyond the clock's range"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(causes: &[(Cause, u64)]) -> Window {
        Window {
            start: Duration::from_millis(1),
            end: Duration::from_millis(501),
            failed: causes.iter().map(|(_, count)| count).sum(),
            rescuable: 0,
            causes: causes.iter().copied().collect(),
            servers: BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]),
            longest_gap: Duration::ZERO,
        }
    }

    #[test]
    fn a_window_names_its_main_cause_and_server() {
        let tie = window(&[(Cause::Refused, 2), (Cause::Reset, 2), (Cause::EarlyEof, 1)]);
        assert_eq!((tie.cause(), tie.server()), (Some(Cause::Refused), Some("b")));
        assert_eq!(tie.length(), Duration::from_millis(500));
        assert_eq!(window(&[]).cause(), None);
    }

    #[test]
    fn a_measurement_survives_json() {
        let target = "[2001:db8::1]:53".parse().unwrap();
        let interval = Some(Duration::from_millis(5));
        let mut lane = LaneMeasurement::new("dns".to_owned(), LaneKind::Udp, target, interval);
        lane.windows.push(window(&[(Cause::Refused, 1)]));
        lane.timeline.buckets.push(Bucket::default());
        lane.latency.record(Duration::from_micros(77));
        let measurement = Measurement {
            started: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789),
            duration: Duration::from_secs(1),
            ended: Duration::from_millis(1001),
            lanes: vec![lane],
            lag: Latency::fine(),
            max_lag: Duration::from_millis(20),
            invalid: vec![InvalidReason::Lag],
            results_dropped: 3,
        };
        let json = serde_json::to_string(&measurement).unwrap();
        assert_eq!(serde_json::from_str::<Measurement>(&json).unwrap(), measurement);
    }
}
