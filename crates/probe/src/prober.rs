//! The open loop: starts every request when it is due.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cause::Cause,
    config::{Config, ConfigError},
    exchange::Exchange,
    record::Progress,
    report::Report,
    timer::Timer,
};

/// A run of the prober, not started yet.
#[derive(Debug)]
pub struct Prober {
    config: Config,
    progress: Arc<Progress>,
}

impl Prober {
    /// # Errors
    ///
    /// The configuration asks for nothing, or for what cannot be sent.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let progress = Progress::new(&config)?;
        Ok(Self { config, progress })
    }

    /// The state of the run, for a live display on any thread.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Starts requests until the duration is over or `stop` is cancelled, waits for the last of them, and reports.
    ///
    /// Must run on a tokio runtime with I/O and time enabled. Its sockets are made on the runtime's worker threads:
    /// on a `current_thread` runtime that is the calling thread, in whatever network namespace it has entered.
    pub async fn run(self, stop: CancellationToken) -> Report {
        let Self { config, progress } = self;
        let exchanges: Vec<_> = config.lanes.iter().map(|lane| Arc::new(Exchange::new(lane, &config))).collect();
        let (timer, tasks) = (Timer::new(), TaskTracker::new());
        let start = Instant::now();
        progress.start(start);

        let mut schedules = schedules(&config);
        while let Some(next) = schedules.iter().filter_map(|schedule| schedule.due(config.duration)).min() {
            tokio::select! {
                () = stop.cancelled() => break,
                () = timer.sleep_until(start + next) => {}
            }
            // Start all that has become due, each with its own intended time, however late the timer was.
            let now = start.elapsed();
            for (lane, schedule) in schedules.iter_mut().enumerate() {
                while let Some(intended) = schedule.due(config.duration).filter(|&due| due <= now) {
                    let request = Request { lane, sequence: schedule.sent, start, intended };
                    schedule.sent += 1;
                    request.start(&exchanges[lane], &config, &progress, &tasks);
                }
            }
        }
        // The time after the last request counts too: a lane that had no success in it had a gap.
        tokio::select! {
            () = stop.cancelled() => {}
            () = timer.sleep_until(start + config.duration) => {}
        }
        let stopped = start.elapsed();

        tasks.close();
        tasks.wait().await;
        Report::new(&config, &progress, stopped)
    }
}

/// When a lane's requests are due, since the start of the run.
struct Schedule {
    offset: Duration,
    rate: u64,
    /// Requests started, and so the number of the next one.
    sent: u64,
}

impl Schedule {
    /// When the next request is due; `None` if that is not before `end`.
    fn due(&self, end: Duration) -> Option<Duration> {
        const NANOS: u64 = 1_000_000_000;
        // Computed from the number each time, so that rounding does not add up.
        let whole = Duration::from_secs(self.sent / self.rate);
        let part = Duration::from_nanos(self.sent % self.rate * NANOS / self.rate);
        Some(self.offset + whole + part).filter(|&due| due < end)
    }
}

/// Lanes are offset against each other, so that equal rates do not start all their requests at the same moment.
fn schedules(config: &Config) -> Vec<Schedule> {
    let lanes = u32::try_from(config.lanes.len()).unwrap_or(u32::MAX);
    (0..lanes)
        .zip(&config.lanes)
        .map(|(index, lane)| Schedule {
            offset: Duration::from_secs(1) / lane.rate.get() * index / lanes,
            rate: lane.rate.get().into(),
            sent: 0,
        })
        .collect()
}

struct Request {
    lane: usize,
    sequence: u64,
    start: Instant,
    intended: Duration,
}

impl Request {
    fn start(self, exchange: &Arc<Exchange>, config: &Config, progress: &Arc<Progress>, tasks: &TaskTracker) {
        let lane = &progress.lanes[self.lane];
        lane.sent.fetch_add(1, Ordering::Relaxed);
        if progress.in_flight.fetch_add(1, Ordering::Relaxed) >= config.max_in_flight {
            progress.in_flight.fetch_sub(1, Ordering::Relaxed);
            lane.lock().add(self.intended, self.start.elapsed(), Err(Cause::LocalError));
            return;
        }
        let (exchange, progress, timeout) = (exchange.clone(), progress.clone(), config.timeout);
        tasks.spawn(async move {
            // Measured where the work starts: waiting for the task's turn is the prober's lag too.
            progress.record_lag(self.start.elapsed().saturating_sub(self.intended));
            let outcome = exchange.run(self.sequence, timeout).await;
            progress.lanes[self.lane].lock().add(self.intended, self.start.elapsed(), outcome);
            progress.in_flight.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_even_and_ends() {
        let mut schedule = Schedule { offset: Duration::from_millis(1), rate: 3, sent: 0 };
        let mut due = Vec::new();
        while let Some(at) = schedule.due(Duration::from_secs(2)) {
            due.push(at.as_micros());
            schedule.sent += 1;
        }
        assert_eq!(due, [1_000, 334_333, 667_666, 1_001_000, 1_334_333, 1_667_666]);
    }

    #[test]
    fn a_schedule_does_not_overflow() {
        let schedule = Schedule { offset: Duration::ZERO, rate: u32::MAX.into(), sent: u64::MAX };
        assert!(schedule.due(Duration::MAX).is_some());
    }
}
