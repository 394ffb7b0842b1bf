//! How long changes took from their notice by a source until they were in force. Time is handed in.

use std::time::{Duration, Instant};

use evenkeel_probe::Latency;

use crate::status::{Changes as Shown, Times};

/// Up to which times changes are counted in `status` and in the metrics.
pub(crate) const BOUNDS: [Duration; 13] = [
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(10),
];

/// How many changes may wait to be in force; those beyond are not measured. Something may be in their way for days.
const MOST: usize = 4096;

/// The changes since the start, and those that are not in force yet.
#[derive(Debug)]
pub(crate) struct Changes {
    times: Latency,
    waiting: Vec<Instant>,
}

impl Changes {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self { times: Latency::fine(), waiting: Vec::new() }
    }

    /// Changes that were noticed at these times are to be carried out.
    pub(crate) fn begin(&mut self, noticed: Vec<Instant>) {
        let room = MOST.saturating_sub(self.waiting.len());
        self.waiting.extend(noticed.into_iter().take(room));
    }

    /// All that was to be carried out is in force. Returns how long the first of it took.
    pub(crate) fn finish(&mut self, now: Instant) -> Option<Duration> {
        let taken = self.waiting.drain(..).map(|noticed| now.saturating_duration_since(noticed));
        taken.inspect(|taken| self.times.record(*taken)).max()
    }

    /// How many took at most so long, for each of the bounds.
    pub(crate) fn counts(&self) -> [(Duration, u64); BOUNDS.len()] {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        BOUNDS.map(|bound| (bound, self.times.histogram().count_between(0, nanos(bound))))
    }

    /// How many, and how long all of them took together.
    pub(crate) fn total(&self) -> (u64, Duration) {
        let count = self.times.count();
        (count, self.times.mean().unwrap_or_default().saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)))
    }

    /// For `evenkeel status`.
    pub(crate) fn shown(&self) -> Shown {
        let micros = |time: Option<Duration>| u64::try_from(time.unwrap_or_default().as_micros()).unwrap_or(u64::MAX);
        let mut below = 0;
        let histogram = self.counts().map(|(bound, count)| {
            let changes = count - std::mem::replace(&mut below, count);
            Times { up_to_us: Some(micros(Some(bound))), changes }
        });
        let beyond = Times { up_to_us: None, changes: self.times.count() - below };
        Shown {
            count: self.times.count(),
            p50_us: micros(self.times.quantile(0.5)),
            p99_us: micros(self.times.quantile(0.99)),
            max_us: micros(self.times.max()),
            histogram: histogram.into_iter().chain([beyond]).filter(|times| times.changes > 0).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_count_once_they_are_in_force() {
        let mut changes = Changes::new();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(changes.finish(at(0)), None);
        changes.begin(vec![at(0), at(1)]);
        assert_eq!(changes.total().0, 0);
        changes.begin(vec![at(8)]);
        assert_eq!(changes.finish(at(10)), Some(Duration::from_millis(10)));
        assert_eq!((changes.total().0, changes.finish(at(11))), (3, None));
        changes.begin(vec![at(10)]);
        changes.finish(at(30_010));
        let shown = changes.shown();
        assert_eq!((shown.count, shown.max_us), (4, 30_000_000));
        assert!((8_990..9_010).contains(&shown.p50_us), "{shown:?}");
        let count = changes.total().0;
        changes.begin(vec![at(40_000); 2 * MOST]);
        changes.begin(vec![at(40_000)]);
        changes.finish(at(40_001));
        assert_eq!(changes.total().0, count + MOST as u64, "no more than that wait");
        let histogram: Vec<_> = shown.histogram.iter().map(|times| (times.up_to_us, times.changes)).collect();
        assert_eq!(histogram, [(Some(2_500), 1), (Some(10_000), 2), (None, 1)]);
    }
}
