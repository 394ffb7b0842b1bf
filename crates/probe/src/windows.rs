//! Outage windows: failures close in time, and when the successes around them came, with bounded memory.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    cause::Cause,
    measure::{Gap, MAX_SERVERS, MAX_WINDOWS, OTHER, Window},
    record::time,
};

/// Failures at most this far apart, by intended time, belong to one window; or as far as a few requests of the lane,
/// if that is more. Long enough that a lane on which one backend in many is dead shows one outage rather than one per
/// failure.
const JOIN: u64 = 500_000_000;
const JOIN_REQUESTS: u64 = 3;

/// A time without success that is a window even if nothing failed in it; or as many requests' time, if that is more.
const STALL: u64 = 100_000_000;
const STALL_REQUESTS: u64 = 10;

/// Gaps between successes kept for failures that are noticed late.
const MAX_GAPS: usize = 4096;

/// One outage. Times are nanoseconds since the start of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    /// When the first and the last request it hit were due.
    first: u64,
    last: u64,
    /// The first success after it; `None` until there is one.
    end: Option<u64>,
    rescuable: u64,
    causes: [u64; Cause::ALL.len()],
    servers: BTreeMap<String, u64>,
    gap: u64,
}

impl Span {
    fn absorb(&mut self, other: Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.end = self.end.zip(other.end).map(|(mine, theirs)| mine.max(theirs));
        self.rescuable += other.rescuable;
        self.gap = self.gap.max(other.gap);
        for (mine, theirs) in self.causes.iter_mut().zip(other.causes) {
            *mine += theirs;
        }
        for (server, count) in other.servers {
            self.count_server(&server, count);
        }
    }

    fn count_server(&mut self, server: &str, count: u64) {
        if let Some(counted) = self.servers.get_mut(server) {
            *counted += count;
        } else {
            let name = if self.servers.len() < MAX_SERVERS { server } else { OTHER };
            *self.servers.entry(name.to_owned()).or_default() += count;
        }
    }
}

/// The windows and gaps of a lane.
#[derive(Debug)]
pub(crate) struct Windows {
    /// In order of time, further than `join` apart.
    spans: Vec<Span>,
    join: u64,
    stall: u64,
    interval: u64,
    /// Failures are noticed at most this long after they were due.
    horizon: u64,
    /// Times of more than two intervals between successes, in order; those that a failure may still turn out to be in.
    gaps: VecDeque<(u64, u64)>,
    last_success: Option<Success>,
    longest: (u64, u64),
}

#[derive(Clone, Copy, Debug)]
struct Success {
    intended: u64,
    end: u64,
}

impl Windows {
    /// For a lane with a request every `interval` that may take `timeout`, both in nanoseconds.
    pub(crate) fn new(interval: u64, timeout: u64) -> Self {
        Self {
            spans: Vec::new(),
            join: JOIN.max(interval * JOIN_REQUESTS),
            stall: STALL.max(interval * STALL_REQUESTS),
            interval,
            horizon: timeout.saturating_mul(2).saturating_add(1_000_000_000),
            gaps: VecDeque::new(),
            last_success: None,
            longest: (0, 0),
        }
    }

    /// Adds a success. Successes come in the order of their ends.
    pub(crate) fn succeed(&mut self, intended: u64, end: u64) {
        let previous = self.last_success.replace(Success { intended, end });
        let since = previous.map_or(0, |success| success.end);
        let gap = end.saturating_sub(since);
        if gap > self.longest.1 - self.longest.0 {
            self.longest = (since, end);
        }
        if gap > 2 * self.interval {
            while self.gaps.front().is_some_and(|&(_, old)| old + self.horizon < end) || self.gaps.len() >= MAX_GAPS {
                self.gaps.pop_front();
            }
            self.gaps.push_back((since, end));
        }
        if let Some(span) = self.spans.last_mut()
            && span.end.is_none()
        {
            span.end = Some(end);
            span.gap = span.gap.max(gap);
        }
        if let Some(previous) = previous
            && gap >= self.stall
        {
            // The first request that waited is the one after the last that was answered.
            let first = (previous.intended + self.interval).clamp(since.saturating_sub(self.interval), end);
            self.insert(Span {
                first,
                last: first,
                end: Some(end),
                rescuable: 0,
                causes: [0; Cause::ALL.len()],
                servers: BTreeMap::new(),
                gap,
            });
        }
    }

    /// Adds a failure. Failures come in the order they were noticed: a timeout long after its intended time.
    pub(crate) fn fail(&mut self, intended: u64, cause: Cause, rescuable: bool, server: Option<&str>) {
        let (end, gap) = self.next_success(intended);
        let mut span = Span {
            first: intended,
            last: intended,
            end,
            rescuable: u64::from(rescuable),
            causes: [0; Cause::ALL.len()],
            servers: BTreeMap::new(),
            gap,
        };
        span.causes[cause as usize] = 1;
        if let Some(server) = server {
            span.count_server(server, 1);
        }
        self.insert(span);
    }

    /// The first success after `intended`, if there has been one, and the length of the gap it ended.
    fn next_success(&self, intended: u64) -> (Option<u64>, u64) {
        let after = self.gaps.partition_point(|&(_, end)| end <= intended);
        match self.gaps.get(after) {
            Some(&(start, end)) if start <= intended => (Some(end), end - start),
            // Between two successes hardly further apart than the lane's interval.
            _ if self.last_success.is_some_and(|success| success.end > intended) => {
                (Some(intended + self.interval), self.interval)
            }
            _ => (None, 0),
        }
    }

    fn insert(&mut self, mut span: Span) {
        // The usual failure extends the last window.
        if let Some(last) = self.spans.last_mut()
            && span.first >= last.first
            && span.first <= last.last.max(last.end.unwrap_or(0)) + self.join
        {
            last.absorb(span);
            return;
        }
        let reach = |span: &Span| span.last.max(span.end.unwrap_or(span.last));
        let from = self.spans.partition_point(|window| reach(window) + self.join < span.first);
        let to = self.spans.partition_point(|window| window.first <= reach(&span) + self.join).max(from);
        for window in self.spans.drain(from..to) {
            span.absorb(window);
        }
        self.spans.insert(from, span);
        if self.spans.len() > MAX_WINDOWS {
            self.merge_nearest();
        }
    }

    fn merge_nearest(&mut self) {
        let gap = |index: &usize| self.spans[index + 1].first.saturating_sub(self.spans[*index].last);
        if let Some(nearest) = (0..self.spans.len() - 1).min_by_key(gap) {
            let later = self.spans.remove(nearest + 1);
            self.spans[nearest].absorb(later);
        }
    }

    /// The longest time without a success, counting from the last one to `end`.
    pub(crate) fn longest_gap(&self, end: u64) -> Gap {
        let since = self.last_success.map_or(0, |success| success.end);
        let (start, end) =
            if end.saturating_sub(since) > self.longest.1 - self.longest.0 { (since, end) } else { self.longest };
        Gap { start: time(start), end: time(end) }
    }

    /// The windows of a run that ends, or has come, to `end`.
    pub(crate) fn windows(&self, end: u64) -> Vec<Window> {
        self.spans.iter().map(|span| self.window(span, end)).collect()
    }

    /// The last window.
    pub(crate) fn last(&self, end: u64) -> Option<Window> {
        self.spans.last().map(|span| self.window(span, end))
    }

    fn window(&self, span: &Span, end: u64) -> Window {
        let last_success = self.last_success.map_or(0, |success| success.end);
        let gap = if span.end.is_some() { span.gap } else { span.gap.max(end.saturating_sub(last_success)) };
        let counted = Cause::ALL.into_iter().zip(span.causes).filter(|&(_, count)| count > 0);
        Window {
            start: time(span.first),
            end: time(span.end.unwrap_or(end).max(span.last)),
            failed: span.causes.iter().sum(),
            rescuable: span.rescuable,
            causes: counted.collect(),
            servers: span.servers.clone(),
            longest_gap: time(gap),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;
    const TIMEOUT: u64 = 2000 * MS;

    /// Start, end and failures of each window, in milliseconds.
    fn bounds(windows: &Windows, end: u64) -> Vec<(u128, u128, u64)> {
        let windows = windows.windows(end * MS);
        windows.iter().map(|window| (window.start.as_millis(), window.end.as_millis(), window.failed)).collect()
    }

    fn fail(windows: &mut Windows, at: u64, cause: Cause) {
        windows.fail(at * MS, cause, false, None);
    }

    #[test]
    fn failures_close_in_time_are_one_window_until_the_next_success() {
        let mut windows = Windows::new(MS, TIMEOUT);
        for at in [1000, 1300, 1700] {
            fail(&mut windows, at, Cause::Refused);
        }
        windows.succeed(1750 * MS, 1750 * MS);
        fail(&mut windows, 5000, Cause::Refused);
        assert_eq!(bounds(&windows, 6000), [(1000, 1750, 3), (5000, 6000, 1)]);
        assert_eq!(windows.windows(6000 * MS)[1].longest_gap.as_millis(), 4250);
    }

    #[test]
    fn failures_of_a_slow_lane_are_one_window() {
        let mut windows = Windows::new(1000 * MS, TIMEOUT);
        for at in [1000, 2000, 3000] {
            fail(&mut windows, at, Cause::Refused);
        }
        windows.succeed(4000 * MS, 4001 * MS);
        fail(&mut windows, 8000, Cause::Refused);
        assert_eq!(bounds(&windows, 9000), [(1000, 4001, 3), (8000, 9000, 1)]);
    }

    #[test]
    fn a_timeout_noticed_late_finds_the_success_that_ended_its_outage() {
        let mut windows = Windows::new(10 * MS, TIMEOUT);
        for at in (0..100).chain(600..900) {
            windows.succeed(at * MS, at * MS);
        }
        // Due between 100 and 600 ms, given up two seconds later.
        for at in (100..600).step_by(10) {
            fail(&mut windows, at, Cause::ReadStall);
        }
        assert_eq!(bounds(&windows, 900), [(100, 600, 50)]);
        assert_eq!(windows.longest_gap(900 * MS).length().as_millis(), 501);
    }

    #[test]
    fn a_stall_is_a_window_without_failures() {
        let mut windows = Windows::new(10 * MS, TIMEOUT);
        for at in (0..1000).step_by(10) {
            windows.succeed(at * MS, at * MS);
        }
        windows.succeed(1000 * MS, 1500 * MS);
        assert_eq!(bounds(&windows, 2000), [(1000, 1500, 0)]);
        assert_eq!(windows.windows(2000 * MS)[0].cause(), None);
    }

    #[test]
    fn one_failure_among_successes_lasts_an_interval() {
        let mut windows = Windows::new(10 * MS, TIMEOUT);
        for at in (0..1000).step_by(10).filter(|&at| at != 500) {
            windows.succeed(at * MS, at * MS + 1);
        }
        fail(&mut windows, 500, Cause::NoReply);
        assert_eq!(bounds(&windows, 1000), [(500, 510, 1)]);
    }

    #[test]
    fn a_late_failure_joins_the_windows_on_both_sides() {
        let mut windows = Windows::new(MS, TIMEOUT);
        fail(&mut windows, 1000, Cause::Refused);
        windows.succeed(1001 * MS, 1001 * MS);
        fail(&mut windows, 1900, Cause::ConnectTimeout);
        windows.succeed(1901 * MS, 1901 * MS);
        fail(&mut windows, 9000, Cause::Reset);
        fail(&mut windows, 1450, Cause::ConnectTimeout);
        assert_eq!(bounds(&windows, 9500), [(1000, 1901, 3), (9000, 9500, 1)]);
        assert_eq!(windows.windows(9500 * MS)[0].cause(), Some(Cause::ConnectTimeout));
    }

    #[test]
    fn the_longest_gap_counts_both_ends_of_the_run() {
        let mut windows = Windows::new(MS, TIMEOUT);
        let length = |windows: &Windows, end: u64| windows.longest_gap(end * MS).length().as_millis();
        assert_eq!(length(&windows, 900), 900, "no success at all");
        for at in [10, 20, 320, 330] {
            windows.succeed(at * MS, at * MS);
        }
        assert_eq!(length(&windows, 340), 300);
        assert_eq!(length(&windows, 1000), 670);
    }

    #[test]
    fn memory_is_bounded_and_no_failure_is_lost() {
        let mut windows = Windows::new(1000 * MS, TIMEOUT);
        for index in 0..10_000 {
            fail(&mut windows, index * 8000, Cause::Refused);
            windows.succeed((index * 8000 + 1) * MS, (index * 8000 + 1) * MS);
        }
        let all = windows.windows(80_000_000 * MS);
        assert_eq!(all.len(), MAX_WINDOWS);
        assert_eq!(all.iter().map(|window| window.failed).sum::<u64>(), 10_000);
        assert!(windows.gaps.len() <= MAX_GAPS);
    }

    proptest! {
        #[test]
        fn windows_are_in_order_apart_and_complete(
            events in prop::collection::vec((0_u64..20_000, any::<bool>()), 1..300)
        ) {
            let mut windows = Windows::new(5 * MS, TIMEOUT);
            let mut now = 0;
            let mut failed = 0;
            for (at, success) in events {
                if success {
                    now = now.max(at);
                    windows.succeed(at.min(now) * MS, now * MS);
                } else {
                    fail(&mut windows, at, Cause::Reset);
                    failed += 1;
                }
            }
            let all = windows.windows(20_000 * MS);
            prop_assert_eq!(all.iter().map(|window| window.failed).sum::<u64>(), failed);
            for window in &all {
                prop_assert!(window.start <= window.end, "{:?}", window);
            }
            for pair in all.windows(2) {
                prop_assert!(pair[0].start < pair[1].start, "{:?}", pair);
            }
        }
    }
}
