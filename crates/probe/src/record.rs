//! What became of the requests so far: kept while the run goes on, read by the live display, turned into the
//! [`Measurement`](crate::measure::Measurement).

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    cause::Cause,
    config::{Config, Lane, LaneKind},
    latency::Latency,
    measure::{
        Bucket, FIRST_BUCKET, LaneMeasurement, MAX_BUCKETS, MAX_ERRORS, MAX_SERVERS, OTHER, Phase, RequestResult,
        SYN_RETRANSMISSIONS, ServerMeasurement, SlowSuccesses, Timeline, Window,
    },
    windows::Windows,
};

/// How far before and after its nominal time a handshake with lost SYNs may be complete.
const SYN_TOLERANCE: Duration = Duration::from_millis(100);

/// Most different codes told apart in a lane; only a server that answers nonsense has more.
const MAX_CODES: usize = 64;

/// Nanoseconds since the start of the run.
pub(crate) type Nanos = u64;

/// A time since the start of the run.
pub(crate) const fn time(nanos: Nanos) -> Duration {
    Duration::from_nanos(nanos)
}

/// The nanoseconds of a time; times beyond 584 years are as good as those.
pub(crate) fn nanos(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Why a request failed, and more about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    pub(crate) error: Option<String>,
}

impl Failure {
    /// With what the system or a library said.
    pub(crate) fn new(cause: Cause, error: impl fmt::Display) -> Self {
        /// A peer must not fill the memory through what it makes a library say.
        const LONGEST: usize = 200;
        let mut text = error.to_string();
        if text.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
            text.truncate(end);
        }
        Self { cause, error: Some(text) }
    }
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        Self { cause, error: None }
    }
}

/// The code of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// HTTP status.
    Http(u16),
    /// DNS response code.
    Dns(u8),
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// RFC 1035 section 4.1.1 and RFC 2136 section 2.2.
        const RCODES: [&str; 11] = [
            "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET",
            "NOTAUTH", "NOTZONE",
        ];
        match self {
            Self::Http(status) => write!(f, "{status}"),
            Self::Dns(rcode) => match RCODES.get(usize::from(*rcode)) {
                Some(name) => f.write_str(name),
                None => write!(f, "RCODE{rcode}"),
            },
        }
    }
}

/// A server's name, as its lane's [`Recorder`] keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerId(usize);

/// A request that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) sequence: u64,
    pub(crate) intended: Nanos,
    pub(crate) sent: Nanos,
    pub(crate) first_byte: Option<Nanos>,
    pub(crate) end: Nanos,
    pub(crate) failure: Option<Failure>,
    pub(crate) phase: Phase,
    pub(crate) server: Option<ServerId>,
    pub(crate) code: Option<Code>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) retransmits: Option<u32>,
    /// How long the handshake took, if the request made a connection.
    pub(crate) handshake: Option<Nanos>,
    pub(crate) retried: bool,
}

/// The state of a run, to be read from any thread while it goes on.
#[derive(Debug)]
pub struct Progress {
    pub(crate) lanes: Vec<LaneRecord>,
    pub(crate) in_flight: AtomicUsize,
    lag: Mutex<Latency>,
    started: OnceLock<Instant>,
}

/// One lane at one moment.
#[derive(Clone, Debug, Default)]
pub struct LaneSnapshot {
    /// The lane's name.
    pub name: String,
    /// Requests started.
    pub sent: u64,
    /// Requests that have succeeded.
    pub succeeded: u64,
    /// Requests that have failed.
    pub failed: u64,
    /// Failures by cause, those that occurred.
    pub causes: BTreeMap<Cause, u64>,
    /// Successes by the name the server gave itself.
    pub servers: BTreeMap<String, u64>,
    /// 99th percentile of the latency of the successes of the last one to two seconds; `None` if there were none.
    pub recent_p99: Option<Duration>,
    /// The outage under way, or the last one.
    pub window: Option<Window>,
    /// Time since the last success; since the start of the run if there was none.
    pub since_success: Duration,
}

impl Progress {
    pub(crate) fn new(config: &Config) -> Arc<Self> {
        let lanes = config.lanes.iter().map(|lane| LaneRecord::new(lane, config.timeout)).collect();
        Arc::new(Self {
            lanes,
            in_flight: AtomicUsize::new(0),
            lag: Mutex::new(Latency::fine()),
            started: OnceLock::new(),
        })
    }

    /// The lanes in the order of the configuration.
    #[must_use]
    pub fn lanes(&self) -> Vec<LaneSnapshot> {
        let now = nanos(self.elapsed());
        self.lanes.iter().map(|lane| lane.snapshot(now)).collect()
    }

    /// Time since the first request was due; zero before.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Requests started that have neither succeeded nor failed yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Sets the zero of the run's clock.
    pub(crate) fn start(&self, at: Instant) {
        self.started.get_or_init(|| at);
    }

    /// How late requests were started so far.
    pub(crate) fn lag(&self) -> MutexGuard<'_, Latency> {
        lock(&self.lag)
    }
}

#[derive(Debug)]
pub(crate) struct LaneRecord {
    name: String,
    kind: LaneKind,
    target: SocketAddr,
    interval: Option<Duration>,
    pub(crate) sent: AtomicU64,
    recorder: Mutex<Recorder>,
}

impl LaneRecord {
    fn new(lane: &Lane, timeout: Duration) -> Self {
        let interval = lane.interval();
        Self {
            name: lane.name.clone(),
            kind: lane.kind,
            target: lane.target,
            interval,
            sent: AtomicU64::new(0),
            recorder: Mutex::new(Recorder::new(interval.unwrap_or_default(), timeout)),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Recorder> {
        lock(&self.recorder)
    }

    fn snapshot(&self, now: Nanos) -> LaneSnapshot {
        let recorder = self.lock();
        LaneSnapshot {
            name: self.name.clone(),
            // Read under the lock: never fewer than have succeeded and failed.
            sent: self.sent.load(Ordering::Relaxed),
            succeeded: recorder.succeeded,
            failed: recorder.failed(),
            causes: counted(&recorder.causes),
            servers: recorder.succeeded_by_server(),
            recent_p99: recorder.recent.p99(now),
            window: recorder.windows.last(now),
            since_success: time(now.saturating_sub(recorder.last_success)),
        }
    }

    /// What the lane measured in a run that ended at `end`.
    pub(crate) fn measurement(&self, end: Duration) -> LaneMeasurement {
        let recorder = self.lock();
        let mut lane = LaneMeasurement::new(self.name.clone(), self.kind, self.target, self.interval);
        lane.sent = self.sent.load(Ordering::Relaxed);
        lane.succeeded = recorder.succeeded;
        lane.failed = recorder.failed();
        lane.causes = counted(&recorder.causes);
        lane.rescuable = recorder.rescuable_causes.iter().sum();
        lane.in_flight = recorder.in_flight;
        lane.connectionless = recorder.connectionless;
        lane.local = recorder.local;
        lane.rescuable_causes = counted(&recorder.rescuable_causes);
        lane.latency = recorder.latency.clone();
        lane.service = recorder.service.clone();
        lane.first_byte = recorder.first_byte.clone();
        lane.handshake = recorder.handshake.clone();
        lane.timeline = recorder.timeline.clone();
        lane.windows = recorder.windows.windows(nanos(end));
        lane.longest_gap = recorder.windows.longest_gap(nanos(end));
        lane.slow = recorder.slow;
        lane.servers =
            recorder.servers.iter().filter(|(_, counts)| *counts != ServerMeasurement::default()).cloned().collect();
        for &(code, count) in &recorder.codes {
            *lane.codes.entry(code.map_or_else(|| OTHER.to_owned(), |code| code.to_string())).or_default() += count;
        }
        lane.errors = recorder.errors.clone();
        lane.retried = recorder.retried;
        lane.connections = recorder.handshake.count();
        lane.broken = recorder.broken;
        lane.bytes_in = recorder.bytes_in;
        lane.bytes_out = recorder.bytes_out;
        lane
    }
}

type ByCause = [u64; Cause::ALL.len()];

fn counted(counts: &ByCause) -> BTreeMap<Cause, u64> {
    Cause::ALL.into_iter().zip(*counts).filter(|&(_, count)| count > 0).collect()
}

/// What became of a lane's requests.
#[derive(Debug)]
pub(crate) struct Recorder {
    succeeded: u64,
    causes: ByCause,
    rescuable_causes: ByCause,
    in_flight: u64,
    connectionless: u64,
    local: u64,
    latency: Latency,
    service: Latency,
    first_byte: Latency,
    handshake: Latency,
    timeline: Timeline,
    windows: Windows,
    slow: [SlowSuccesses; SYN_RETRANSMISSIONS.len()],
    servers: Vec<(String, ServerMeasurement)>,
    server_ids: HashMap<String, ServerId>,
    last_server: usize,
    /// `None` stands for those beyond [`MAX_CODES`].
    codes: Vec<(Option<Code>, u64)>,
    errors: BTreeMap<String, u64>,
    retried: u64,
    broken: u64,
    bytes_in: u64,
    bytes_out: u64,
    recent: Recent,
    last_success: Nanos,
}

impl Recorder {
    /// For a lane with a request every `interval` that may take `timeout`.
    fn new(interval: Duration, timeout: Duration) -> Self {
        Self {
            succeeded: 0,
            causes: [0; Cause::ALL.len()],
            rescuable_causes: [0; Cause::ALL.len()],
            in_flight: 0,
            connectionless: 0,
            local: 0,
            latency: Latency::fine(),
            service: Latency::fine(),
            first_byte: Latency::fine(),
            handshake: Latency::fine(),
            timeline: Timeline::default(),
            windows: Windows::new(nanos(interval), nanos(timeout)),
            slow: Default::default(),
            servers: Vec::new(),
            server_ids: HashMap::new(),
            last_server: 0,
            codes: Vec::new(),
            errors: BTreeMap::new(),
            retried: 0,
            broken: 0,
            bytes_in: 0,
            bytes_out: 0,
            recent: Recent::default(),
            last_success: 0,
        }
    }

    /// Counts a request that has ended.
    pub(crate) fn end(&mut self, done: &Done) {
        self.bytes_in += done.bytes_in;
        self.bytes_out += done.bytes_out;
        self.retried += u64::from(done.retried);
        if let Some(code) = done.code {
            self.count_code(code);
        }
        if let Some(handshake) = done.handshake {
            self.handshake.record_nanos(handshake);
        }
        let latency = done.end.saturating_sub(done.intended);
        let bucket = bucket(&mut self.timeline, done.intended);
        bucket.bytes_in += done.bytes_in;
        match &done.failure {
            None => {
                bucket.succeeded += 1;
                bucket.latency.record_nanos(latency);
                self.succeeded += 1;
                self.latency.record_nanos(latency);
                self.service.record_nanos(done.end.saturating_sub(done.sent));
                if let Some(first_byte) = done.first_byte {
                    self.first_byte.record_nanos(first_byte.saturating_sub(done.intended));
                }
                self.recent.add(done.end, latency);
                self.last_success = done.end;
                self.windows.succeed(done.intended, done.end);
                if let Some(index) = done.handshake.and_then(slow_bucket) {
                    self.slow[index].count += 1;
                    self.slow[index].confirmed += u64::from(done.retransmits.is_some_and(|segments| segments > 0));
                }
                if let Some(ServerId(index)) = done.server {
                    self.servers[index].1.succeeded += 1;
                }
            }
            Some(failure) => {
                bucket.failed += 1;
                self.fail(done, failure);
            }
        }
    }

    fn fail(&mut self, done: &Done, failure: &Failure) {
        let cause = failure.cause;
        self.causes[cause as usize] += 1;
        match done.phase {
            Phase::Local => self.local += 1,
            Phase::Connecting => self.rescuable_causes[cause as usize] += 1,
            Phase::Established => self.in_flight += 1,
            Phase::Datagram => self.connectionless += 1,
        }
        let server = done.server.map(|ServerId(index)| {
            let (name, counts) = &mut self.servers[index];
            counts.failed += 1;
            name.as_str()
        });
        self.windows.fail(done.intended, cause, done.phase == Phase::Connecting, server);
        let text = failure.error.as_deref().unwrap_or_else(|| cause.name());
        if let Some(count) = self.errors.get_mut(text) {
            *count += 1;
        } else {
            let text = if self.errors.len() < MAX_ERRORS { text } else { OTHER };
            *self.errors.entry(text.to_owned()).or_default() += 1;
        }
    }

    /// A long-lived connection broke.
    pub(crate) fn break_connection(&mut self) {
        self.broken += 1;
    }

    /// The server called `name`.
    pub(crate) fn server(&mut self, name: &str) -> ServerId {
        // Mostly the same as before.
        if self.servers.get(self.last_server).is_some_and(|(known, _)| known == name) {
            return ServerId(self.last_server);
        }
        let id = match self.server_ids.get(name) {
            Some(&id) => id,
            None => {
                let name = if self.servers.len() < MAX_SERVERS { name } else { OTHER };
                let next = ServerId(self.servers.len());
                let id = *self.server_ids.entry(name.to_owned()).or_insert(next);
                if id == next {
                    self.servers.push((name.to_owned(), ServerMeasurement::default()));
                }
                id
            }
        };
        self.last_server = id.0;
        id
    }

    /// The name of a server.
    pub(crate) fn server_name(&self, ServerId(index): ServerId) -> &str {
        self.servers.get(index).map_or(OTHER, |(name, _)| name.as_str())
    }

    /// The public form of what [`Self::end`] counts.
    pub(crate) fn result(&self, lane: usize, done: &Done) -> RequestResult {
        RequestResult {
            lane,
            sequence: done.sequence,
            intended: time(done.intended),
            sent: time(done.sent),
            first_byte: done.first_byte.map(time),
            end: time(done.end),
            cause: done.failure.as_ref().map(|failure| failure.cause),
            phase: done.phase,
            error: done.failure.as_ref().and_then(|failure| failure.error.clone()),
            server: done.server.map(|server| self.server_name(server).to_owned()),
            code: done.code.map(|code| code.to_string()),
            bytes_in: done.bytes_in,
            bytes_out: done.bytes_out,
            retransmits: done.retransmits,
            retried: done.retried,
        }
    }

    fn failed(&self) -> u64 {
        self.causes.iter().sum()
    }

    fn succeeded_by_server(&self) -> BTreeMap<String, u64> {
        let servers = self.servers.iter().filter(|(_, counts)| counts.succeeded > 0);
        servers.map(|(name, counts)| (name.clone(), counts.succeeded)).collect()
    }

    fn count_code(&mut self, code: Code) {
        if let Some((_, count)) = self.codes.iter_mut().find(|(known, _)| *known == Some(code)) {
            *count += 1;
        } else if self.codes.len() < MAX_CODES {
            self.codes.push((Some(code), 1));
        } else if let Some((_, count)) = self.codes.iter_mut().find(|(known, _)| known.is_none()) {
            *count += 1;
        } else {
            self.codes.push((None, 1));
        }
    }
}

/// Which of [`SYN_RETRANSMISSIONS`] a handshake of this length went through.
fn slow_bucket(handshake: Nanos) -> Option<usize> {
    let handshake = time(handshake) + SYN_TOLERANCE;
    SYN_RETRANSMISSIONS.iter().rposition(|&at| handshake >= at)
}

/// The bucket of the requests due at `intended`. Buckets become wider when there would be too many.
fn bucket(timeline: &mut Timeline, intended: Nanos) -> &mut Bucket {
    let index = loop {
        let width = nanos(timeline.width).max(1);
        match usize::try_from(intended / width) {
            Ok(index) if index < MAX_BUCKETS => break index,
            _ => coalesce(timeline),
        }
    };
    if timeline.buckets.len() <= index {
        timeline.buckets.resize_with(index + 1, Bucket::default);
    }
    &mut timeline.buckets[index]
}

fn coalesce(timeline: &mut Timeline) {
    timeline.width = timeline.width.max(FIRST_BUCKET) * 2;
    let mut pairs = std::mem::take(&mut timeline.buckets).into_iter();
    while let Some(mut first) = pairs.next() {
        if let Some(second) = pairs.next() {
            first.succeeded += second.succeeded;
            first.failed += second.failed;
            first.bytes_in += second.bytes_in;
            first.latency.add(&second.latency);
        }
        timeline.buckets.push(first);
    }
}

/// Latencies of the last one to two seconds: the second under way and the one before.
#[derive(Debug)]
struct Recent {
    second: u64,
    current: Latency,
    previous: Latency,
}

impl Default for Recent {
    fn default() -> Self {
        Self { second: 0, current: Latency::coarse(), previous: Latency::coarse() }
    }
}

const SECOND: Nanos = 1_000_000_000;

impl Recent {
    fn add(&mut self, end: Nanos, latency: Nanos) {
        let second = end / SECOND;
        if second > self.second {
            std::mem::swap(&mut self.current, &mut self.previous);
            self.current.reset();
            if second > self.second + 1 {
                self.previous.reset();
            }
            self.second = second;
        }
        self.current.record_nanos(latency);
    }

    fn p99(&self, now: Nanos) -> Option<Duration> {
        match (now / SECOND).saturating_sub(self.second) {
            0 => {
                let mut all = self.previous.clone();
                all.add(&self.current);
                all.quantile(0.99)
            }
            1 => self.current.quantile(0.99),
            _ => None,
        }
    }
}

/// A panic elsewhere leaves counters that are at worst one short: still worth reporting.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    fn recorder() -> Recorder {
        Recorder::new(Duration::from_millis(1), Duration::from_secs(2))
    }

    fn done(intended: Nanos, end: Nanos) -> Done {
        Done {
            sequence: 0,
            intended,
            sent: intended,
            first_byte: None,
            end,
            failure: None,
            phase: Phase::Established,
            server: None,
            code: None,
            bytes_in: 1,
            bytes_out: 2,
            retransmits: None,
            handshake: None,
            retried: false,
        }
    }

    #[test]
    fn latency_is_from_the_intended_time_and_service_time_is_not() {
        let mut recorder = recorder();
        recorder.end(&Done { sent: 390 * MS, ..done(100 * MS, 400 * MS) });
        assert_eq!(recorder.latency.max(), Some(Duration::from_millis(300)));
        assert_eq!(recorder.service.max(), Some(Duration::from_millis(10)));
    }

    #[test]
    fn failures_are_told_apart_by_phase() {
        let mut recorder = recorder();
        let phases = [Phase::Local, Phase::Connecting, Phase::Established, Phase::Datagram, Phase::Connecting];
        for phase in phases {
            recorder.end(&Done { failure: Some(Cause::ConnectTimeout.into()), phase, ..done(MS, MS) });
        }
        assert_eq!((recorder.local, recorder.in_flight, recorder.connectionless), (1, 1, 1));
        assert_eq!(counted(&recorder.rescuable_causes), BTreeMap::from([(Cause::ConnectTimeout, 2)]));
        assert_eq!(recorder.failed(), 5);
    }

    #[test]
    fn identities_codes_and_errors_are_bounded_and_none_is_lost() {
        let mut recorder = recorder();
        for index in 0..3000_u16 {
            let server = Some(recorder.server(&format!("server-{index}")));
            let failure = Some(Failure::new(Cause::HttpStatus, format!("status {index}")));
            recorder.end(&Done { server, failure, code: Some(Code::Http(index)), ..done(MS, MS) });
            recorder.end(&Done { server, ..done(MS, MS) });
        }
        assert_eq!(recorder.servers.len(), MAX_SERVERS + 1);
        assert_eq!(recorder.succeeded_by_server().values().sum::<u64>(), 3000);
        assert_eq!(recorder.errors.len(), MAX_ERRORS + 1);
        assert_eq!(recorder.errors.values().sum::<u64>(), 3000);
        assert_eq!(recorder.codes.len(), MAX_CODES + 1);
        assert_eq!(recorder.codes.iter().map(|(_, count)| count).sum::<u64>(), 3000);
    }

    #[test]
    fn the_timeline_is_bounded_and_loses_nothing() {
        let mut recorder = recorder();
        for second in 0..100_000 {
            recorder.end(&done(second * SECOND, second * SECOND + 1));
        }
        let Timeline { width, buckets } = &recorder.timeline;
        assert!(buckets.len() <= MAX_BUCKETS && buckets.len() > MAX_BUCKETS / 2, "{}", buckets.len());
        assert_eq!(buckets.iter().map(|bucket| bucket.succeeded).sum::<u64>(), 100_000);
        assert_eq!(buckets.iter().map(|bucket| bucket.latency.count()).sum::<u64>(), 100_000);
        assert!(*width * u32::try_from(buckets.len()).unwrap() >= Duration::from_secs(100_000));
    }

    #[test]
    fn handshakes_with_lost_syns_are_counted_by_how_many() {
        let mut recorder = recorder();
        for (handshake, retransmits) in [(500, 0), (1010, 1), (2500, 0), (2990, 2), (7050, 3), (15_000, 4)] {
            recorder.end(&Done { handshake: Some(handshake * MS), retransmits: Some(retransmits), ..done(MS, MS) });
        }
        let counts: Vec<_> = recorder.slow.iter().map(|slow| (slow.count, slow.confirmed)).collect();
        assert_eq!(counts, [(2, 1), (1, 1), (2, 2)]);
    }

    #[test]
    fn recent_latency_forgets() {
        let mut recent = Recent::default();
        recent.add(100 * MS, 5 * MS);
        assert!(recent.p99(500 * MS).unwrap() >= time(4 * MS));
        assert!(recent.p99(1500 * MS).unwrap() >= time(4 * MS));
        assert_eq!(recent.p99(2500 * MS), None);
        recent.add(5000 * MS, MS);
        assert!(recent.p99(5000 * MS).unwrap() < time(2 * MS));
    }

    #[test]
    fn long_error_texts_are_cut_between_characters() {
        let failure = Failure::new(Cause::Tls, "ä".repeat(300));
        assert_eq!(failure.error.unwrap().len(), 200);
    }
}
