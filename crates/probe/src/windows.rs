//! Outage windows: failures close in time, gathered with bounded memory.

use std::time::Duration;

use crate::cause::Cause;

/// Failures at most this far apart, by intended time, belong to one window; or as far as a few requests of the lane,
/// if that is more. Long enough that a lane on which one backend in many is dead shows one outage rather than one per
/// failure.
const JOIN: Duration = Duration::from_millis(500);
const JOIN_REQUESTS: u32 = 3;

/// Windows kept; beyond it, the two nearest become one.
const MAX_WINDOWS: usize = 256;

/// Failures from `first` to `last`, intended times since the start of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: Duration,
    pub(crate) last: Duration,
    pub(crate) causes: [u64; Cause::ALL.len()],
}

impl Span {
    pub(crate) fn failed(&self) -> u64 {
        self.causes.iter().sum()
    }

    /// The most frequent cause; the first in [`Cause::ALL`] of those equally frequent.
    pub(crate) fn main_cause(&self) -> Cause {
        Cause::ALL.into_iter().rev().max_by_key(|&cause| self.causes[cause as usize]).unwrap_or(Cause::LocalError)
    }

    fn absorb(&mut self, other: &Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        for (mine, theirs) in self.causes.iter_mut().zip(other.causes) {
            *mine += theirs;
        }
    }
}

/// Windows in order of time, further than `join` apart.
#[derive(Debug)]
pub(crate) struct Windows {
    spans: Vec<Span>,
    join: Duration,
}

impl Windows {
    /// For a lane with a request every `interval`.
    pub(crate) fn new(interval: Duration) -> Self {
        Self { spans: Vec::new(), join: JOIN.max(interval * JOIN_REQUESTS) }
    }

    /// Adds a failure. Failures come in the order they were noticed: a timeout long after its intended time.
    pub(crate) fn add(&mut self, intended: Duration, cause: Cause) {
        let mut span = Span { first: intended, last: intended, causes: [0; Cause::ALL.len()] };
        span.causes[cause as usize] = 1;

        let from = self.spans.partition_point(|window| window.last + self.join < intended);
        let to = self.spans.partition_point(|window| window.first <= intended + self.join);
        for window in self.spans.drain(from..to) {
            span.absorb(&window);
        }
        self.spans.insert(from, span);
        if self.spans.len() > MAX_WINDOWS {
            self.merge_nearest();
        }
    }

    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans
    }

    fn merge_nearest(&mut self) {
        let gap = |index: &usize| self.spans[index + 1].first.saturating_sub(self.spans[*index].last);
        if let Some(nearest) = (0..self.spans.len() - 1).min_by_key(gap) {
            let later = self.spans.remove(nearest + 1);
            self.spans[nearest].absorb(&later);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn bounds(windows: &Windows) -> Vec<(Duration, Duration, u64)> {
        windows.spans().iter().map(|span| (span.first, span.last, span.failed())).collect()
    }

    #[test]
    fn failures_close_in_time_are_one_window() {
        let mut windows = Windows::new(ms(1));
        for at in [1000, 1300, 1700, 5000] {
            windows.add(ms(at), Cause::Refused);
        }
        assert_eq!(bounds(&windows), [(ms(1000), ms(1700), 3), (ms(5000), ms(5000), 1)]);
    }

    #[test]
    fn failures_of_a_slow_lane_are_one_window() {
        let mut windows = Windows::new(ms(1000));
        for at in [1000, 2000, 3000, 7000] {
            windows.add(ms(at), Cause::Refused);
        }
        assert_eq!(bounds(&windows), [(ms(1000), ms(3000), 3), (ms(7000), ms(7000), 1)]);
    }

    #[test]
    fn a_late_failure_joins_the_windows_on_both_sides() {
        let mut windows = Windows::new(ms(1));
        windows.add(ms(1000), Cause::Refused);
        windows.add(ms(1900), Cause::ConnectTimeout);
        windows.add(ms(9000), Cause::Reset);
        windows.add(ms(1450), Cause::ConnectTimeout);
        assert_eq!(bounds(&windows), [(ms(1000), ms(1900), 3), (ms(9000), ms(9000), 1)]);
        assert_eq!(windows.spans()[0].main_cause(), Cause::ConnectTimeout);
    }

    #[test]
    fn memory_is_bounded_and_no_failure_is_lost() {
        let mut windows = Windows::new(ms(1));
        for index in 0..10_000 {
            windows.add(ms(index * 1000), Cause::Refused);
        }
        assert_eq!(windows.spans().len(), MAX_WINDOWS);
        assert_eq!(windows.spans().iter().map(Span::failed).sum::<u64>(), 10_000);
    }
}
