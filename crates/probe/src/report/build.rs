//! From a measurement to the report's content.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::{
    document::{
        Blame, CommandResult, Event, Intervals, LaneReport, Quantiles, Report, Slice, SlowSuccesses, Timeline, VERSION,
        Verdict, Window, ms,
    },
    events::{EventLog, Happening},
    judge,
    objective::Objectives,
};
use crate::{
    latency::Latency,
    measure::{self, LaneMeasurement, Measurement, SYN_RETRANSMISSIONS},
};

/// What there is to a run besides its measurement.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// What was demanded.
    pub objectives: Objectives,
    /// What changed meanwhile.
    pub events: EventLog,
    /// The command that ran meanwhile.
    pub command: Option<CommandResult>,
}

impl Report {
    /// The report of a run that was to lose no request.
    #[must_use]
    pub fn new(measurement: &Measurement) -> Self {
        Self::in_context(measurement, &Context::default())
    }

    /// The report of a run.
    #[must_use]
    pub fn in_context(measurement: &Measurement, context: &Context) -> Self {
        let Measurement { started, duration, ended, lanes, lag, max_lag, invalid, results_dropped } = measurement;
        let mut all = Latency::fine();
        for lane in lanes {
            all.add(&lane.latency);
        }
        let events = place(context.events.events().iter(), *started);
        let lanes: Vec<LaneReport> = lanes.iter().map(|lane| LaneReport::new(lane, &events)).collect();
        let mut report = Self {
            version: VERSION,
            verdict: Verdict::Invalid,
            invalid: !invalid.is_empty(),
            invalid_reasons: invalid.clone(),
            objectives: context.objectives.as_slice().iter().map(|one| judge::evaluate(one, &lanes)).collect(),
            command: context.command.clone(),
            started_at: (*started).try_into().ok(),
            duration_ms: ms(*duration),
            wait_ms: ms(ended.saturating_sub(*duration)),
            requests: lanes.iter().map(|lane| lane.requests).sum(),
            failed: lanes.iter().map(|lane| lane.failed).sum(),
            latency_ms: Quantiles::of(&all),
            lanes,
            lag_ms: Quantiles::of(lag).unwrap_or_default(),
            max_lag_ms: ms(*max_lag),
            events,
            events_refused: context.events.refused().clone(),
            results_dropped: *results_dropped,
        };
        report.verdict = judge::verdict(&report);
        report
    }
}

impl LaneReport {
    fn new(lane: &LaneMeasurement, events: &[Event]) -> Self {
        let servers = |count: fn(&measure::ServerMeasurement) -> u64| {
            lane.servers
                .iter()
                .map(|(name, server)| (name.clone(), count(server)))
                .filter(|(_, count)| *count > 0)
                .collect::<BTreeMap<_, _>>()
        };
        let interval = lane.interval.unwrap_or_default();
        Self {
            lane: lane.name.clone(),
            kind: lane.kind,
            target: lane.target.to_string(),
            rate: lane.interval.filter(|interval| !interval.is_zero()).map(|interval| {
                // An interval is rounded to the nanosecond; the rate it came from was not.
                (1e3 / interval.as_secs_f64()).round() / 1e3
            }),
            requests: lane.sent,
            failed: lane.failed,
            causes: lane.causes.clone(),
            rescuable: lane.rescuable,
            in_flight: lane.in_flight,
            connectionless: lane.connectionless,
            local: lane.local,
            rescuable_causes: lane.rescuable_causes.clone(),
            failure_bound_95: lane.failure_bound_95(),
            retried: lane.retried,
            connections: lane.connections,
            broken: lane.broken,
            latency_ms: Quantiles::of(&lane.latency),
            latency_ci95_ms: Intervals::of(&lane.latency),
            service_ms: Quantiles::of(&lane.service),
            first_byte_ms: Quantiles::of(&lane.first_byte),
            handshake_ms: Quantiles::of(&lane.handshake),
            bytes_in: lane.bytes_in,
            bytes_out: lane.bytes_out,
            codes: lane.codes.clone(),
            errors: lane.errors.clone(),
            servers: servers(|server| server.succeeded),
            servers_failed: servers(|server| server.failed),
            slow: SYN_RETRANSMISSIONS
                .iter()
                .zip(lane.slow)
                .filter(|(_, slow)| slow.count > 0)
                .map(|(after, slow)| SlowSuccesses {
                    after_s: after.as_secs(),
                    count: slow.count,
                    confirmed: slow.confirmed,
                })
                .collect(),
            windows: lane.windows.iter().map(|window| Window::new(window, interval, events)).collect(),
            longest_gap_ms: ms(lane.longest_gap.length()),
            longest_gap_start_ms: ms(lane.longest_gap.start),
            timeline: Timeline::new(&lane.timeline),
        }
    }
}

impl Window {
    fn new(window: &measure::Window, interval: Duration, events: &[Event]) -> Self {
        let start_ms = ms(window.start);
        Self {
            start_ms,
            end_ms: ms(window.end),
            failed: window.failed,
            rescuable: window.rescuable,
            cause: window.cause(),
            causes: window.causes.clone(),
            servers: window.servers.clone(),
            longest_gap_ms: ms(window.longest_gap),
            blame: blame(start_ms, ms(interval), events),
        }
    }
}

/// How long a request may have been on its way when what broke it happened.
const IN_FLIGHT_MS: f64 = 20.0;

/// The nearest event before a window, or so shortly after its start that the first request hit was in flight.
fn blame(start_ms: f64, interval_ms: f64, events: &[Event]) -> Option<Blame> {
    let following = events.partition_point(|event| event.at_ms <= start_ms);
    let distance = |index: usize| (events[index].at_ms - start_ms).abs();
    let in_flight = Some(following)
        .filter(|&index| index < events.len())
        .filter(|&index| distance(index) <= IN_FLIGHT_MS.max(interval_ms));
    let nearest = match (following.checked_sub(1), in_flight) {
        (Some(before), Some(after)) if distance(after) < distance(before) => after,
        (before, after) => before.or(after)?,
    };
    // Of events at the same instant, the first: what was logged along with it follows from it.
    let at_ms = events[nearest].at_ms;
    let event = events.partition_point(|event| event.at_ms < at_ms);
    Some(Blame { event, before_ms: ((start_ms - at_ms) * 1e3).round() / 1e3 })
}

/// Events on the run's clock, in order.
fn place<'a>(happenings: impl Iterator<Item = &'a Happening>, started: SystemTime) -> Vec<Event> {
    let mut events: Vec<Event> = happenings
        .map(|happening| {
            let at_ms = match happening.at.duration_since(started) {
                Ok(after) => ms(after),
                Err(before) => -ms(before.duration()),
            };
            Event { at_ms, text: happening.text.clone() }
        })
        .collect();
    events.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
    events
}

impl Timeline {
    fn new(timeline: &measure::Timeline) -> Self {
        let time = |latency: Option<Duration>| latency.map(ms);
        let slices = timeline.buckets.iter().map(|bucket| Slice {
            ok: bucket.succeeded,
            failed: bucket.failed,
            p50_ms: time(bucket.latency.quantile(0.5)),
            p99_ms: time(bucket.latency.quantile(0.99)),
            max_ms: time(bucket.latency.max()),
        });
        Self { slice_ms: ms(timeline.width), slices: slices.collect() }
    }
}

impl Quantiles {
    /// `None` without any time.
    pub(crate) fn of(latency: &Latency) -> Option<Self> {
        let at = |quantile| latency.quantile(quantile).map(ms);
        Some(Self {
            min: ms(latency.min()?),
            mean: ms(latency.mean()?),
            p50: at(0.5)?,
            p90: at(0.9)?,
            p95: at(0.95)?,
            p99: at(0.99)?,
            p999: at(0.999)?,
            max: ms(latency.max()?),
        })
    }
}

impl Intervals {
    /// By order statistics: the number of values below a percentile is binomial.
    fn of(latency: &Latency) -> Option<Self> {
        let count = latency.count() as f64;
        let at = |quantile: f64| {
            let spread = 1.96 * (count * quantile * (1.0 - quantile)).sqrt();
            let rank = |rank: f64| latency.quantile((rank / count).clamp(0.0, 1.0)).map(ms);
            Some((rank(count * quantile - spread)?, rank(count * quantile + spread + 1.0)?))
        };
        Some(Self { p50: at(0.5)?, p90: at(0.9)?, p95: at(0.95)?, p99: at(0.99)?, p999: at(0.999)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(times: &[f64]) -> Vec<Event> {
        times.iter().map(|&at_ms| Event { at_ms, text: String::new() }).collect()
    }

    #[test]
    fn a_window_is_blamed_on_the_nearest_event_before_it() {
        let events = events(&[-5.0, 100.0, 200.0, 200.0, 400.0]);
        let blamed = |start| blame(start, 10.0, &events).map(|blame| (blame.event, blame.before_ms));
        assert_eq!(blamed(-100.0), None);
        assert_eq!(blamed(50.0), Some((0, 55.0)));
        assert_eq!(blamed(150.0), Some((1, 50.0)));
        assert_eq!(blamed(210.0), Some((2, 10.0)), "the first of two at once");
        assert_eq!(blamed(395.0), Some((4, -5.0)), "the first request hit was in flight");
        assert_eq!(blamed(9000.0), Some((4, 8600.0)));
    }

    #[test]
    fn events_are_placed_on_the_runs_clock() {
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let at = |secs, text: &str| Happening {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(secs),
            text: text.to_owned(),
        };
        let placed = place([at(103, "later"), at(98, "before")].iter(), started);
        assert_eq!(
            placed,
            [Event { at_ms: -2000.0, text: "before".to_owned() }, Event { at_ms: 3000.0, text: "later".to_owned() }]
        );
    }

    #[test]
    fn the_interval_of_a_percentile_narrows_with_the_number_of_requests() {
        let interval = |count: u64| {
            let mut latency = Latency::fine();
            for index in 0..count {
                latency.record(Duration::from_micros(index * 1_000_000 / count));
            }
            let Intervals { p50: (low, high), .. } = Intervals::of(&latency).unwrap();
            assert!(low <= 500.0 && 500.0 <= high, "{low} {high}");
            high - low
        };
        let (few, many) = (interval(100), interval(10_000));
        assert!((180.0..230.0).contains(&few), "{few}");
        assert!((18.0..23.0).contains(&many), "{many}");
        assert_eq!(Intervals::of(&Latency::fine()), None);
    }
}
