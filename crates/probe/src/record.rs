//! What became of the requests so far: kept while the run goes on, read by the live display and the report.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::{
    cause::Cause,
    config::{Config, ConfigError, LaneKind},
    windows::Windows,
};

/// Distinct server identities counted per lane; further ones count as [`OTHER_SERVERS`].
const MAX_SERVERS: usize = 1024;
const OTHER_SERVERS: &str = "(other)";

/// A request that succeeded.
#[derive(Debug, Default)]
pub(crate) struct Success {
    /// The name the server gave itself, if it did.
    pub(crate) server: Option<String>,
    /// A kept connection turned out closed and the request was sent again on a new one.
    pub(crate) retried: bool,
}

/// What became of a request.
pub(crate) type Outcome = Result<Success, Cause>;

/// The state of a run, to be read from any thread while it goes on.
#[derive(Debug)]
pub struct Progress {
    pub(crate) lanes: Vec<LaneRecord>,
    pub(crate) in_flight: AtomicUsize,
    lag: Mutex<Histogram<u64>>,
    started: OnceLock<Instant>,
}

/// One lane at one moment.
#[derive(Clone, Debug)]
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
}

impl Progress {
    pub(crate) fn new(config: &Config) -> Result<Arc<Self>, ConfigError> {
        let lanes = config
            .lanes
            .iter()
            .map(|lane| {
                Ok(LaneRecord {
                    name: lane.name.clone(),
                    kind: lane.kind,
                    target: lane.target,
                    sent: AtomicU64::new(0),
                    record: Mutex::new(Record::new(Duration::from_secs(1) / lane.rate.get())?),
                })
            })
            .collect::<Result<_, ConfigError>>()?;
        Ok(Arc::new(Self {
            lanes,
            in_flight: AtomicUsize::new(0),
            lag: Mutex::new(histogram()?),
            started: OnceLock::new(),
        }))
    }

    /// The lanes in the order of the configuration.
    #[must_use]
    pub fn lanes(&self) -> Vec<LaneSnapshot> {
        let now = self.elapsed();
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

    pub(crate) fn record_lag(&self, lag: Duration) {
        lock(&self.lag).saturating_record(micros(lag));
    }

    pub(crate) fn lag(&self) -> MutexGuard<'_, Histogram<u64>> {
        lock(&self.lag)
    }
}

#[derive(Debug)]
pub(crate) struct LaneRecord {
    pub(crate) name: String,
    pub(crate) kind: LaneKind,
    pub(crate) target: SocketAddr,
    pub(crate) sent: AtomicU64,
    record: Mutex<Record>,
}

impl LaneRecord {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }

    fn snapshot(&self, now: Duration) -> LaneSnapshot {
        let record = self.lock();
        LaneSnapshot {
            name: self.name.clone(),
            // Read under the lock: never fewer than have succeeded and failed.
            sent: self.sent.load(Ordering::Relaxed),
            succeeded: record.succeeded,
            failed: record.failed(),
            causes: record.causes(),
            servers: record.servers.clone(),
            recent_p99: record.recent.p99(now),
        }
    }
}

/// What became of a lane's requests. Times are since the start of the run.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) succeeded: u64,
    pub(crate) retried: u64,
    /// Of the successes, from the intended time, in microseconds.
    pub(crate) latency: Histogram<u64>,
    pub(crate) servers: BTreeMap<String, u64>,
    pub(crate) windows: Windows,
    causes: [u64; Cause::ALL.len()],
    recent: Recent,
    last_success: Duration,
    longest_gap: Duration,
}

impl Record {
    /// For a lane with a request every `interval`.
    fn new(interval: Duration) -> Result<Self, ConfigError> {
        Ok(Self {
            succeeded: 0,
            retried: 0,
            latency: histogram()?,
            servers: BTreeMap::new(),
            windows: Windows::new(interval),
            causes: [0; Cause::ALL.len()],
            recent: Recent::new()?,
            last_success: Duration::ZERO,
            longest_gap: Duration::ZERO,
        })
    }

    pub(crate) fn add(&mut self, intended: Duration, finished: Duration, outcome: Outcome) {
        match outcome {
            Ok(success) => {
                let latency = micros(finished.saturating_sub(intended));
                self.succeeded += 1;
                self.retried += u64::from(success.retried);
                self.latency.saturating_record(latency);
                self.recent.add(finished, latency);
                self.longest_gap = self.gap_until(finished);
                self.last_success = finished;
                if let Some(server) = success.server {
                    self.count_server(server);
                }
            }
            Err(cause) => {
                self.causes[cause as usize] += 1;
                self.windows.add(intended, cause);
            }
        }
    }

    /// The longest time without a success, counting from the last one to `end`.
    pub(crate) fn gap_until(&self, end: Duration) -> Duration {
        self.longest_gap.max(end.saturating_sub(self.last_success))
    }

    pub(crate) fn failed(&self) -> u64 {
        self.causes.iter().sum()
    }

    pub(crate) fn causes(&self) -> BTreeMap<Cause, u64> {
        Cause::ALL.into_iter().zip(self.causes).filter(|&(_, count)| count > 0).collect()
    }

    fn count_server(&mut self, server: String) {
        if self.servers.len() < MAX_SERVERS || self.servers.contains_key(&server) {
            *self.servers.entry(server).or_default() += 1;
        } else {
            *self.servers.entry(OTHER_SERVERS.to_owned()).or_default() += 1;
        }
    }
}

/// Latencies of the last one to two seconds: the second under way and the one before.
#[derive(Debug)]
struct Recent {
    second: u64,
    current: Histogram<u32>,
    previous: Histogram<u32>,
}

impl Recent {
    fn new() -> Result<Self, ConfigError> {
        let histogram = || Histogram::new_with_bounds(1, MAX_MICROS, 2);
        Ok(Self { second: 0, current: histogram()?, previous: histogram()? })
    }

    fn add(&mut self, finished: Duration, latency: u64) {
        let second = finished.as_secs();
        if second > self.second {
            std::mem::swap(&mut self.current, &mut self.previous);
            self.current.reset();
            if second > self.second + 1 {
                self.previous.reset();
            }
            self.second = second;
        }
        self.current.saturating_record(latency);
    }

    fn p99(&self, now: Duration) -> Option<Duration> {
        let mut all = match now.as_secs().saturating_sub(self.second) {
            0 => self.previous.clone(),
            1 => Histogram::new_from(&self.current),
            _ => return None,
        };
        // Both have the same bounds, so the sum always fits.
        all.add(&self.current).ok()?;
        (!all.is_empty()).then(|| Duration::from_micros(all.value_at_quantile(0.99)))
    }
}

/// Longest latency told apart; longer ones count as this.
const MAX_MICROS: u64 = 600_000_000;

fn histogram() -> Result<Histogram<u64>, hdrhistogram::CreationError> {
    Histogram::new_with_bounds(1, MAX_MICROS, 3)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A panic elsewhere leaves counters that are at worst one short: still worth reporting.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn success(server: &str) -> Outcome {
        Ok(Success { server: Some(server.to_owned()), retried: false })
    }

    #[test]
    fn latency_is_from_the_intended_time() {
        let mut record = Record::new(ms(1)).unwrap();
        record.add(ms(100), ms(400), success("a"));
        assert!((299_000..=301_000).contains(&record.latency.max()), "{}", record.latency.max());
    }

    #[test]
    fn the_longest_gap_counts_both_ends_of_the_run() {
        let mut record = Record::new(ms(1)).unwrap();
        assert_eq!(record.gap_until(ms(900)), ms(900), "no success at all");
        for at in [10, 20, 320, 330] {
            record.add(ms(at), ms(at), success("a"));
        }
        assert_eq!(record.gap_until(ms(340)), ms(300));
        assert_eq!(record.gap_until(ms(1000)), ms(670));
    }

    #[test]
    fn identities_are_bounded() {
        let mut record = Record::new(ms(1)).unwrap();
        for index in 0..3000 {
            record.add(ms(1), ms(1), success(&format!("server-{index}")));
        }
        assert_eq!(record.servers.len(), MAX_SERVERS + 1);
        assert_eq!(record.servers.values().sum::<u64>(), 3000);
    }

    #[test]
    fn recent_latency_forgets() {
        let mut recent = Recent::new().unwrap();
        recent.add(ms(100), 5_000);
        assert!(recent.p99(ms(500)).unwrap() >= ms(5));
        assert!(recent.p99(ms(1500)).unwrap() >= ms(5));
        assert_eq!(recent.p99(ms(2500)), None);
        recent.add(ms(5000), 1_000);
        assert!(recent.p99(ms(5000)).unwrap() < ms(2));
    }
}
