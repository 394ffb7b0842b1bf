//! Whether objectives held, what the run comes to, and why, in words.

use std::cmp::Ordering;

use super::{
    document::{LaneReport, ObjectiveResult, Report, Verdict},
    objective::{Bound, Comparison, Metric, Objective, Unit},
    quantity::{Ratio, go_duration, percent, thousands},
};
use crate::measure::InvalidReason;

/// What a metric comes to over several lanes.
struct Measured<'a> {
    actual: Option<f64>,
    held: bool,
    lane: Option<&'a LaneReport>,
}

/// Compares what was measured with what was demanded.
///
/// Counts are summed up over the lanes; a share or a time must hold on every lane, and the worst is reported.
pub(super) fn evaluate(objective: &Objective, lanes: &[LaneReport]) -> ObjectiveResult {
    let Objective { metric, comparison, bound, .. } = objective;
    let lanes: Vec<&LaneReport> = lanes.iter().filter(|lane| objective.is_about(&lane.lane, lane.kind)).collect();
    let (limit, measured) = match *bound {
        Bound::Count(limit) => (limit as f64, count(*metric, *comparison, limit, &lanes)),
        Bound::Ratio(limit) => (limit.share(), share(*comparison, limit, &lanes)),
        Bound::Time(limit) => {
            let limit = limit.as_secs_f64() * 1e3;
            (limit, time(*metric, *comparison, limit, &lanes))
        }
    };
    let note = match measured.lane {
        _ if lanes.is_empty() => Some("there is no such lane".to_owned()),
        None if measured.actual.is_none() => Some("there was nothing to measure".to_owned()),
        Some(lane) if measured.actual.is_none() => Some(format!("no request of {} succeeded", lane.lane)),
        Some(lane) if measured.held => caution(*metric, *bound, lane),
        _ => None,
    };
    ObjectiveResult {
        objective: objective.to_string(),
        metric: *metric,
        unit: metric.unit(),
        limit,
        actual: measured.actual,
        lane: measured.lane.map(|lane| lane.lane.clone()),
        held: measured.held,
        note,
    }
}

impl LaneReport {
    fn count(&self, metric: Metric) -> u64 {
        match metric {
            Metric::Cause(cause) => self.causes.get(&cause).copied().unwrap_or_default(),
            Metric::Rescuable => self.rescuable,
            Metric::InFlight => self.in_flight,
            Metric::Slow => self.slow.iter().map(|slow| slow.count).sum(),
            Metric::Outages => self.windows.len() as u64,
            _ => self.failed,
        }
    }

    fn time(&self, metric: Metric) -> Option<f64> {
        let latency = self.latency_ms.as_ref();
        match metric {
            Metric::Mean => latency.map(|latency| latency.mean),
            Metric::P50 => latency.map(|latency| latency.p50),
            Metric::P90 => latency.map(|latency| latency.p90),
            Metric::P95 => latency.map(|latency| latency.p95),
            Metric::P99 => latency.map(|latency| latency.p99),
            Metric::P999 => latency.map(|latency| latency.p999),
            Metric::Gap => Some(self.longest_gap_ms),
            Metric::Outage => Some(self.windows.iter().map(super::Window::length_ms).fold(0.0, f64::max)),
            _ => latency.map(|latency| latency.max),
        }
    }
}

fn count<'a>(metric: Metric, comparison: Comparison, limit: u64, lanes: &[&'a LaneReport]) -> Measured<'a> {
    if lanes.is_empty() {
        return Measured { actual: None, held: false, lane: None };
    }
    let total = lanes.iter().map(|lane| lane.count(metric)).sum();
    let lane = if let [lane] = lanes { Some(*lane) } else { None };
    Measured { actual: Some(total as f64), held: comparison.holds(&total, &limit), lane }
}

fn share<'a>(comparison: Comparison, limit: Ratio, lanes: &[&'a LaneReport]) -> Measured<'a> {
    let share = |lane: &LaneReport| (lane.requests > 0).then(|| lane.succeeded() as f64 / lane.requests as f64);
    // A lane without requests is worse than any.
    let worst = lanes.iter().min_by(|a, b| share(a).partial_cmp(&share(b)).unwrap_or(Ordering::Equal));
    let held = !lanes.is_empty()
        && lanes.iter().all(|lane| {
            lane.requests > 0 && comparison.holds(&limit.compare(lane.succeeded(), lane.requests), &Ordering::Equal)
        });
    Measured { actual: worst.and_then(|lane| share(lane)), held, lane: worst.copied() }
}

fn time<'a>(metric: Metric, comparison: Comparison, limit: f64, lanes: &[&'a LaneReport]) -> Measured<'a> {
    let rank = |lane: &LaneReport| lane.time(metric).unwrap_or(f64::INFINITY);
    let worst = lanes.iter().max_by(|a, b| rank(a).total_cmp(&rank(b)));
    let held = !lanes.is_empty()
        && lanes.iter().all(|lane| lane.time(metric).is_some_and(|actual| comparison.holds(&actual, &limit)));
    Measured { actual: worst.and_then(|lane| lane.time(metric)), held, lane: worst.copied() }
}

/// Why an objective that held says less than it seems to.
fn caution(metric: Metric, bound: Bound, lane: &LaneReport) -> Option<String> {
    if let (Metric::Success, Bound::Ratio(limit), Some(shown)) = (metric, bound, lane.failure_bound_95) {
        let allowed = 1.0 - limit.share();
        return (allowed > 0.0 && shown > allowed * (1.0 + 1e-9)).then(|| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is positive")]
            let needed = (3.0 / allowed - 1e-6).ceil() as u64;
            let (sent, needed) = (thousands(lane.requests), thousands(needed));
            format!("{sent} requests are too few to show this with 95 % confidence: it takes {needed}")
        });
    }
    let share_above = match metric {
        Metric::P90 => 10,
        Metric::P95 => 20,
        Metric::P99 => 100,
        Metric::P999 => 1000,
        _ => return None,
    };
    (lane.succeeded() < share_above)
        .then(|| format!("{} successes are too few for a {metric}: it is their maximum", thousands(lane.succeeded())))
}

/// An invalid run passes no judgement, whether or not something failed.
pub(super) fn verdict(report: &Report) -> Verdict {
    let held = report.objectives.iter().all(|objective| objective.held);
    let succeeded = report.command.as_ref().is_none_or(|command| command.end.succeeded());
    match (report.invalid, held && succeeded) {
        (true, _) => Verdict::Invalid,
        (false, true) => Verdict::Passed,
        (false, false) => Verdict::Breached,
    }
}

impl ObjectiveResult {
    /// What was measured, as people read it.
    pub(super) fn actual_text(&self) -> String {
        let Some(actual) = self.actual else { return "nothing".to_owned() };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts and shares are positive")]
        match self.unit {
            Unit::Count => thousands(actual as u64),
            // Shares are rounded as those of a million million requests.
            Unit::Ratio => percent((actual * 1e12).floor() as u64, 1_000_000_000_000),
            Unit::Ms => go_duration(actual),
        }
    }
}

impl Report {
    /// The verdict and its reasons, a line each; the first starts with the verdict in capitals.
    #[must_use]
    pub fn conclusion(&self) -> Vec<String> {
        let requests = thousands(self.requests);
        let mut reasons: Vec<String> = match self.verdict {
            Verdict::Passed if self.failed == 0 => {
                let mut text = format!("{requests} requests, none failed");
                if self.requests >= 3 {
                    let one_in = thousands(self.requests / 3);
                    text += &format!("; with 95 % confidence fewer than one in {one_in} fails (3/N)");
                }
                vec![text]
            }
            Verdict::Passed => {
                vec![format!("{} of {requests} requests failed, within the objectives", thousands(self.failed))]
            }
            Verdict::Breached => {
                let breached = self.objectives.iter().filter(|objective| !objective.held);
                breached.map(|objective| self.breach(objective)).collect()
            }
            Verdict::Invalid => self.invalid_reasons.iter().map(|&reason| self.invalidity(reason)).collect(),
        };
        if let Some(command) = self.command.as_ref().filter(|command| !command.end.succeeded()) {
            reasons.push(format!("the command {}", command.end));
        }
        let mut lines = reasons.into_iter();
        let first = lines.next().unwrap_or_default();
        let verdict = self.verdict.name().to_uppercase();
        std::iter::once(format!("{verdict}: {first}")).chain(lines).collect()
    }

    pub(super) fn breach(&self, result: &ObjectiveResult) -> String {
        let lane = result.lane.as_ref().filter(|_| self.lanes.len() > 1);
        let lane = lane.map(|lane| format!(" on {lane}")).unwrap_or_default();
        let actual = match (&result.note, result.metric) {
            (Some(note), _) => note.clone(),
            (None, Metric::Failed) => {
                let lanes =
                    || self.lanes.iter().filter(|one| result.lane.as_ref().is_none_or(|lane| one.lane == *lane));
                // A lane's kind may select several; then the sum is of those, and so is not told.
                let (failed, sent): (u64, u64) =
                    lanes().fold((0, 0), |(failed, sent), lane| (failed + lane.failed, sent + lane.requests));
                if result.actual == Some(failed as f64) {
                    format!("{} of {} requests failed", thousands(failed), thousands(sent))
                } else {
                    format!("{} failed", result.actual_text())
                }
            }
            (None, metric) => format!("{metric} is {}", result.actual_text()),
        };
        format!("{}: {actual}{lane}", result.objective)
    }

    pub(super) fn invalidity(&self, reason: InvalidReason) -> String {
        let name = reason.name();
        match reason {
            InvalidReason::Lag => format!(
                "{name}: the prober's own p99 scheduling lag is {}, over its bound of {}; probe slower, or on a machine \
                 with less running beside it",
                go_duration(self.lag_ms.p99),
                go_duration(self.max_lag_ms)
            ),
            InvalidReason::LocalError => format!(
                "{name}: the prober ran out of its own resources (descriptors, ports, memory): the errors say of which"
            ),
            InvalidReason::ReceiveOverflow => {
                format!("{name}: replies were lost in the prober's own full buffer; probe slower")
            }
            InvalidReason::NoRequests => format!("{name}: no request was sent"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        cause::Cause,
        config::LaneKind,
        measure::{Gap, LaneMeasurement, Measurement},
        report::{CommandEnd, CommandResult, Context},
    };

    /// A lane of which `failed` of `sent` requests were refused, and the others took `ms`.
    fn lane(name: &str, kind: LaneKind, sent: u64, failed: u64, ms: u64) -> LaneMeasurement {
        let target = "192.0.2.1:80".parse().unwrap();
        let mut lane = LaneMeasurement::new(name.to_owned(), kind, target, Some(Duration::from_millis(10)));
        (lane.sent, lane.failed, lane.succeeded, lane.rescuable) = (sent, failed, sent - failed, failed);
        if failed > 0 {
            lane.causes.insert(Cause::Refused, failed);
        }
        for _ in failed..sent {
            lane.latency.record(Duration::from_millis(ms));
        }
        lane.longest_gap = Gap { start: Duration::ZERO, end: Duration::from_millis(ms) };
        lane
    }

    fn report(objectives: &str, lanes: Vec<LaneMeasurement>) -> Report {
        let context = Context { objectives: objectives.parse().unwrap(), ..Context::default() };
        Report::in_context(&Measurement { lanes, ..crate::report::sample::empty() }, &context)
    }

    #[test]
    fn counts_are_summed_and_times_are_the_worst_lanes() {
        let lanes = vec![lane("a", LaneKind::Tcp, 1000, 1, 5), lane("b", LaneKind::Http, 1000, 2, 50)];
        let report = report("failed<=3,failed<3,refused<=3,p50<=20ms,a:p50<=20ms,http:failed<=2,success>=99.8%", lanes);
        let held: Vec<bool> = report.objectives.iter().map(|result| result.held).collect();
        assert_eq!(held, [true, false, true, false, true, true, true]);
        let lanes: Vec<_> = report.objectives.iter().map(|result| result.lane.as_deref()).collect();
        assert_eq!(lanes, [None, None, None, Some("b"), Some("a"), Some("b"), Some("b")]);
        assert_eq!(report.verdict, Verdict::Breached);
        let text = report.conclusion().join("\n");
        assert!(text.starts_with("BREACHED: failed<3: 3 of 2,000 requests failed\n"), "{text}");
        assert!(text.contains("p50<=20ms: p50 is 50"), "{text}");
        assert!(text.ends_with(" on b"), "{text}");
    }

    #[test]
    fn what_was_not_measured_is_not_held() {
        let report = report("p99<=1s,x:failed=0,max<=1s", vec![lane("a", LaneKind::Tcp, 10, 10, 1)]);
        let notes: Vec<_> = report.objectives.iter().map(|result| (result.held, result.note.as_deref())).collect();
        assert_eq!(
            notes,
            [
                (false, Some("no request of a succeeded")),
                (false, Some("there is no such lane")),
                (false, Some("no request of a succeeded")),
            ]
        );
    }

    #[test]
    fn a_share_is_judged_exactly() {
        let at = |failed| report("success>=99.99%", vec![lane("a", LaneKind::Tcp, 10_000, failed, 1)]);
        assert_eq!(at(1).verdict, Verdict::Passed);
        assert_eq!(at(2).verdict, Verdict::Breached);
    }

    #[test]
    fn too_few_requests_are_pointed_out() {
        let report = report("success>=99.99%,p999<=1s,p90<=1s", vec![lane("a", LaneKind::Tcp, 100, 0, 1)]);
        let notes: Vec<_> = report.objectives.iter().map(|result| result.note.clone().unwrap_or_default()).collect();
        assert!(notes[0].contains("it takes 30,000"), "{notes:?}");
        assert!(notes[1].contains("maximum"), "{notes:?}");
        assert_eq!(notes[2], "");
        assert_eq!(report.verdict, Verdict::Passed);
        assert_eq!(
            report.conclusion(),
            ["PASSED: 100 requests, none failed; with 95 % confidence fewer than one in 33 fails (3/N)"]
        );
    }

    #[test]
    fn invalid_comes_before_all_else_and_the_command_counts() {
        let measurement = |invalid| Measurement {
            lanes: vec![lane("a", LaneKind::Tcp, 10, 0, 1)],
            invalid,
            ..crate::report::sample::empty()
        };
        let command = |status| {
            Some(CommandResult {
                command: "true".to_owned(),
                end: CommandEnd::Exited { status },
                started_ms: 0.0,
                ended_ms: 1.0,
            })
        };
        let verdict = |invalid, status| {
            let context = Context { command: command(status), ..Context::default() };
            Report::in_context(&measurement(invalid), &context)
        };
        assert_eq!(verdict(vec![], 0).verdict, Verdict::Passed);
        let failed = verdict(vec![], 3);
        assert_eq!(failed.verdict, Verdict::Breached);
        assert_eq!(failed.conclusion(), ["BREACHED: the command exited with 3"]);
        let invalid = verdict(vec![InvalidReason::Lag], 3);
        assert_eq!(invalid.verdict, Verdict::Invalid);
        assert!(
            invalid.conclusion()[0].starts_with("INVALID: lag: the prober's own p99"),
            "{:?}",
            invalid.conclusion()
        );
    }
}
