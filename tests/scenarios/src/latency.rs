//! How long requests took, as far as that can be known.

use std::{fmt, time::Duration};

use evenkeel_probe::measure::RequestResult;
use serde::Serialize;

/// How late the prober may start a request that it still measures.
const LATE: Duration = Duration::from_millis(1);
/// How much the prober may have stood still in a gap without putting it in doubt: for so long hosts of virtual machines take a
/// processor away.
const EXCUSED: Duration = Duration::from_millis(100);
/// How many of the slowest requests are told of.
const TOLD: usize = 12;

/// Times at which the prober stood still: the machine had taken its processor away, or it was busy with itself. What was due or
/// under way then took longer for the prober alone, whatever the load balancer did.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    /// First and last moment of each, in order and apart from each other.
    spans: Vec<(Duration, Duration)>,
}

impl Pauses {
    /// What requests that were started late tell.
    pub(crate) fn of(results: &[RequestResult]) -> Self {
        let late = results.iter().filter(|result| result.sent > result.intended + LATE);
        let mut spans: Vec<(Duration, Duration)> = late.map(|result| (result.intended, result.sent)).collect();
        spans.sort_unstable();
        spans.dedup_by(|next, earlier| {
            let meet = next.0 <= earlier.1;
            if meet {
                earlier.1 = earlier.1.max(next.1);
            }
            meet
        });
        Self { spans }
    }

    /// For how much of the time between two moments it did.
    pub(crate) fn within(&self, start: Duration, end: Duration) -> Duration {
        let first = self.spans.partition_point(|(_, last)| *last < start);
        let meeting = self.spans[first..].iter().take_while(|(first, _)| *first < end);
        meeting.map(|(first, last)| (*last).min(end).saturating_sub((*first).max(start))).sum()
    }

    /// Whether a request was due or under way during one.
    pub(crate) fn touch(&self, result: &RequestResult) -> bool {
        let first = self.spans.partition_point(|(_, last)| *last < result.intended);
        self.spans.get(first).is_some_and(|(start, _)| *start <= result.end)
    }
}

/// What was counted with or without a fault.
#[derive(Debug, Default)]
pub(crate) struct Half {
    /// By fault.
    pub(crate) rounds: Vec<Vec<Latency>>,
    /// Successes that [`Pauses`] touch: they are in no round.
    pub(crate) unmeasured: u64,
    /// The longest time without a success of a kind.
    pub(crate) gap: Duration,
    /// The same if what the prober stood still in each such time is left out of it, up to [`EXCUSED`].
    pub(crate) gap_judged: Duration,
    /// The same if all of that is left out.
    pub(crate) gap_awake: Duration,
}

/// How long a request took, and how far into its piece of time it was due. Ordered by the former.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Latency {
    pub(crate) took: Duration,
    pub(crate) into: Duration,
    pub(crate) server: Option<String>,
}

/// One of the slowest requests of a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Slow {
    /// From the time it was due to its answer's end, in milliseconds.
    pub took_ms: f64,
    /// When it was due, in seconds since the fault's begin.
    pub into_s: f64,
    /// Who answered, where the answer says so.
    pub server: Option<String>,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} at {:.2} s", self.took_ms, self.into_s)?;
        self.server.as_ref().map_or(Ok(()), |server| write!(f, " from {server}"))
    }
}

impl Half {
    /// A request that succeeded, due so far into its piece of time.
    pub(crate) fn succeed(&mut self, round: usize, into: Duration, result: &RequestResult, pauses: &Pauses) {
        if pauses.touch(result) {
            self.unmeasured += 1;
            return;
        }
        let took = result.end.saturating_sub(result.intended);
        self.add(round, Latency { took, into, server: result.server.clone() });
    }

    fn add(&mut self, round: usize, latency: Latency) {
        if self.rounds.len() <= round {
            self.rounds.resize_with(round + 1, Vec::new);
        }
        self.rounds[round].push(latency);
    }

    /// A time without a success, from one moment to another.
    pub(crate) fn add_gap(&mut self, (start, end): (Duration, Duration), pauses: &Pauses) {
        let length = end.saturating_sub(start);
        self.gap = self.gap.max(length);
        let still = pauses.within(start, end);
        self.gap_judged = self.gap_judged.max(length.saturating_sub(still.min(EXCUSED)));
        self.gap_awake = self.gap_awake.max(length.saturating_sub(still));
    }

    /// Whether nothing succeeded.
    pub(crate) fn is_empty(&self) -> bool {
        self.unmeasured == 0 && self.rounds.iter().all(Vec::is_empty)
    }

    /// p99.9 of each round, in milliseconds.
    pub(crate) fn p999(&mut self) -> Vec<f64> {
        let of = |latencies: &mut Vec<Latency>| {
            latencies.sort_unstable();
            let index = (latencies.len() * 999).div_ceil(1000).saturating_sub(1);
            ms(latencies.get(index).map(|latency| latency.took).unwrap_or_default())
        };
        self.rounds.iter_mut().map(of).collect()
    }

    /// The slowest requests, for whoever wants to know what they waited for.
    pub(crate) fn slowest(&self) -> Vec<Slow> {
        let mut all: Vec<&Latency> = self.rounds.iter().flatten().collect();
        all.sort_unstable_by(|one, other| other.cmp(one));
        let slow = |latency: &Latency| Slow {
            took_ms: ms(latency.took),
            into_s: (latency.into.as_secs_f64() * 1e3).round() / 1e3,
            server: latency.server.clone(),
        };
        all.into_iter().take(TOLD).map(slow).collect()
    }
}

/// Of an even number, the upper one of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Milliseconds, to hundredths.
pub(crate) fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}

#[cfg(test)]
pub(crate) mod tests {
    use evenkeel_probe::measure::Phase;

    use super::*;

    /// A success that was due, started and ended at these milliseconds.
    pub(crate) fn request(intended: u64, sent: u64, end: u64) -> RequestResult {
        RequestResult {
            lane: 0,
            sequence: 0,
            intended: Duration::from_millis(intended),
            sent: Duration::from_millis(sent),
            first_byte: None,
            end: Duration::from_millis(end),
            cause: None,
            phase: Phase::Established,
            error: None,
            server: None,
            code: None,
            bytes_in: 0,
            bytes_out: 0,
            retransmits: None,
            retried: false,
        }
    }

    #[test]
    fn what_the_prober_slept_through_is_not_measured() {
        // Due at 12 and at 15, started at 20; that of 30 is late by what is allowed.
        let late = [request(15, 20, 21), request(30, 31, 32), request(12, 20, 21), request(50, 53, 60)];
        let pauses = Pauses::of(&late);
        let ms = Duration::from_millis;
        assert_eq!(pauses.spans, [(ms(12), ms(20)), (ms(50), ms(53))]);
        assert_eq!(pauses.within(ms(0), ms(100)), ms(11));
        assert_eq!(pauses.within(ms(15), ms(51)), ms(6), "what is outside is not in it");
        assert_eq!(pauses.within(ms(20), ms(50)), ms(0));
        assert!(pauses.touch(&request(11, 11, 20)), "on its way when it began");
        assert!(pauses.touch(&late[0]), "due in it");
        assert!(pauses.touch(&request(40, 40, 70)), "on its way all the time");
        assert!(!pauses.touch(&request(10, 10, 11)), "over before");
        assert!(!pauses.touch(&request(21, 21, 49)), "between two, however long it takes");
        assert!(!pauses.touch(&late[1]));
    }

    #[test]
    fn what_succeeded_unmeasured_has_succeeded() {
        assert!(Half::default().is_empty());
        assert!(!Half { unmeasured: 1, ..Half::default() }.is_empty());
    }

    #[test]
    fn a_pause_shortens_the_gap_it_is_in_and_no_other() {
        let ms = Duration::from_millis;
        let pauses = Pauses::of(&[request(110, 190, 191)]);
        let mut half = Half::default();
        half.add_gap((ms(100), ms(200)), &pauses);
        assert_eq!((half.gap, half.gap_judged, half.gap_awake), (ms(100), ms(20), ms(20)));
        half.add_gap((ms(300), ms(390)), &pauses);
        assert_eq!((half.gap, half.gap_judged, half.gap_awake), (ms(100), ms(90), ms(90)));
        let pauses = Pauses::of(&[request(1000, 1300, 1301)]);
        half.add_gap((ms(1000), ms(1350)), &pauses);
        assert_eq!(
            (half.gap, half.gap_judged, half.gap_awake),
            (ms(350), ms(250), ms(90)),
            "no more than a host's pause"
        );
    }

    #[test]
    fn one_pause_of_the_machine_decides_nothing_and_one_at_every_fault_does() {
        let of = |slow: &[u64]| {
            let mut half = Half::default();
            for (round, slow) in slow.iter().enumerate() {
                for number in 0..2000 {
                    let took = Duration::from_millis(if number < 3 { *slow } else { 1 });
                    half.add(round, Latency { took, into: Duration::ZERO, server: None });
                }
            }
            median(&half.p999())
        };
        assert_eq!(of(&[1, 20, 1, 20, 1]).to_bits(), 1.0_f64.to_bits());
        assert_eq!(of(&[20, 20, 1, 20, 20]).to_bits(), 20.0_f64.to_bits());
        assert_eq!(of(&[1, 20]).to_bits(), 20.0_f64.to_bits());
        assert_eq!(of(&[]).to_bits(), 0.0_f64.to_bits());
    }
}
