//! What became of a row's requests, and whether that keeps the promise.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use evenkeel_probe::{
    Cause, InvalidReason, LaneKind,
    measure::{Phase, RequestResult},
};
use serde::Serialize;

use crate::{
    case::Case,
    director::{Evidence, Segment, SegmentKind},
    ended::{broke_kept, named_before, of_ended_flow, was_in_flight},
    latency::{Half, Pauses, Slow, median, ms},
    load::LaneOf,
};

/// What the longest gap may be over that without a fault.
const GAP_ALLOWANCE: Duration = Duration::from_millis(20);
/// How many times the control's p99.9 may be.
const LATENCY_FACTOR: f64 = 2.0;
/// Of how many requests one may be unmeasured, or the prober is not fit to judge.
const UNMEASURED: u64 = 20;
/// How many of the requests that failed are told of.
const TOLD: usize = 12;

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The promise was kept.
    Pass,
    /// It was not.
    Fail,
    /// The prober was not fit to judge.
    Invalid,
}

/// One row of the report.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The scenario's name.
    pub scenario: String,
    /// The subject's name.
    pub subject: &'static str,
    /// Requests that were judged, those of the control included.
    pub requests: u64,
    /// Failed, and were in flight on no backend that was ended.
    pub rescuable_failed: u64,
    /// Failed, their handshake complete on a backend that was ended: lost with it whatever a layer 4 balancer does.
    pub in_flight: u64,
    /// Failed at all.
    pub failed: u64,
    /// Long-lived connections that broke and were not to a backend that was ended.
    pub long_lived_broken: u64,
    /// Answers of a server that is none of the service's, or of two on one connection.
    pub misroutes: u64,
    /// p99.9 of the latency during a fault, of the successes from the intended time, in milliseconds: the median of the faults.
    pub p999_ms: f64,
    /// The same without a fault, in the same run.
    pub control_p999_ms: f64,
    /// What these are the medians of.
    pub rounds: Vec<Round>,
    /// The slowest successes during faults.
    pub slowest: Vec<Slow>,
    /// Successes during faults whose latency is unknown, because the prober itself stood still while they were due or under way.
    pub unmeasured: u64,
    /// The same without a fault.
    pub control_unmeasured: u64,
    /// The longest time during faults in which no request of a kind succeeded, in milliseconds.
    pub max_gap_ms: f64,
    /// The same without a fault.
    pub control_gap_ms: f64,
    /// The former without what the prober stood still in it, of which 100 ms at most are left out.
    pub judged_gap_ms: f64,
    /// The same without a fault.
    pub control_judged_gap_ms: f64,
    /// What that means.
    pub verdict: Verdict,
    /// Why it did not pass.
    #[serde(skip)]
    pub reasons: Vec<String>,
    /// Of the reasons, those that are counts and not times: they hold on a machine of any speed.
    #[serde(skip)]
    pub counts: Vec<String>,
    /// Whether it has to.
    #[serde(skip)]
    pub must_pass: bool,
}

/// One fault and the control before it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Round {
    /// p99.9 during the fault, in milliseconds.
    pub p999_ms: f64,
    /// p99.9 of its control, in milliseconds.
    pub control_p999_ms: f64,
}

/// Judges a row by all that was seen of it.
pub(crate) fn row(case: &Case, evidence: &[Evidence]) -> Row {
    let mut tally = Tally::default();
    for one in evidence {
        tally.add(case, one);
    }
    let (faults, controls) = (tally.fault.p999(), tally.control.p999());
    let mut row = Row {
        scenario: case.scenario_name(),
        subject: case.subject.name(),
        requests: tally.requests,
        rescuable_failed: tally.rescuable,
        in_flight: tally.in_flight,
        failed: tally.rescuable + tally.in_flight,
        long_lived_broken: tally.broken,
        misroutes: tally.misroutes,
        p999_ms: median(&faults),
        control_p999_ms: median(&controls),
        rounds: faults
            .iter()
            .zip(&controls)
            .map(|(&p999_ms, &control_p999_ms)| Round { p999_ms, control_p999_ms })
            .collect(),
        slowest: tally.fault.slowest(),
        unmeasured: tally.fault.unmeasured,
        control_unmeasured: tally.control.unmeasured,
        max_gap_ms: ms(tally.fault.gap),
        control_gap_ms: ms(tally.control.gap),
        judged_gap_ms: ms(tally.fault.gap_judged),
        control_judged_gap_ms: ms(tally.control.gap_judged),
        verdict: Verdict::Pass,
        reasons: Vec::new(),
        counts: Vec::new(),
        must_pass: case.must_pass(),
    };
    row.counts = counts(case, &row, &tally);
    row.reasons = row.counts.iter().cloned().chain(times(case, &row, &tally)).collect();
    let doubts = Doubts::of(case, evidence, &row, &tally);
    conclude(&mut row, doubts);
    row
}

/// Says what became of a row. Doubts of its times excuse none of its counts: what was lost is not measured again until it is not.
fn conclude(row: &mut Row, Doubts { counts, times }: Doubts) {
    if !counts.is_empty() || (row.counts.is_empty() && !times.is_empty()) {
        row.verdict = Verdict::Invalid;
        row.reasons = counts.into_iter().chain(times).collect();
    } else if !row.reasons.is_empty() {
        row.verdict = Verdict::Fail;
        if !times.is_empty() {
            row.reasons = row.counts.iter().cloned().chain(times).collect();
        }
    }
}

/// Why the prober was not fit to judge a row.
#[derive(Debug, Default)]
struct Doubts {
    /// Not even what was counted: something was lost at the prober itself.
    counts: BTreeSet<String>,
    /// Only times.
    times: BTreeSet<String>,
}

impl Doubts {
    fn of(case: &Case, evidence: &[Evidence], row: &Row, tally: &Tally) -> Self {
        let mut doubts = Self::default();
        for measurement in evidence.iter().map(|one| &one.recorded.measurement) {
            for reason in &measurement.invalid {
                let of = if concerns_times(*reason) { &mut doubts.times } else { &mut doubts.counts };
                of.insert(format!("the prober was not fit to judge: {}", reason.name()));
            }
            if measurement.results_dropped > 0 {
                doubts.counts.insert("results were not read in time".to_owned());
            }
        }
        if (row.unmeasured + row.control_unmeasured) * UNMEASURED > row.requests {
            doubts.times.insert("the prober stood still too often".to_owned());
        }
        // A single reason is then that gap.
        if row.reasons.len() == 1 && case.scenario.bar().unnoticed && tally.prober_made_the_gap() {
            doubts.times.insert(format!(
                "the longest gap of {:.0} ms would be of {:.0} if the prober had not stood still in it",
                row.max_gap_ms,
                ms(tally.fault.gap_awake)
            ));
        }
        doubts
    }
}

/// Whether a prober that was not fit for this reason has counted as it should.
const fn concerns_times(reason: InvalidReason) -> bool {
    match reason {
        InvalidReason::Lag => true,
        InvalidReason::LocalError | InvalidReason::ReceiveOverflow | InvalidReason::NoRequests => false,
    }
}

/// What of a row's counts breaks the promise.
fn counts(case: &Case, row: &Row, tally: &Tally) -> Vec<String> {
    let bar = case.scenario.bar();
    let mut reasons = Vec::new();
    if row.requests == 0 || tally.fault.is_empty() || tally.control.is_empty() {
        reasons.push("nothing succeeded with a fault or without".to_owned());
    }
    if row.rescuable_failed > 0 {
        reasons.push(format!("{} failed that could have been saved: {}", row.rescuable_failed, tally.causes()));
        reasons.extend(tally.failures.iter().cloned());
    }
    if bar.none_at_all && row.in_flight > 0 {
        reasons.push(format!("{} in flight failed, where nothing may", row.in_flight));
    }
    if row.long_lived_broken > 0 {
        reasons.push(format!("{} long-lived connections to other backends broke", row.long_lived_broken));
    }
    if tally.kept_broken > 0 {
        reasons.push(format!("{} kept connections broke while no server ended", tally.kept_broken));
    }
    if row.misroutes > 0 {
        reasons.push(format!("{} answers came from the wrong server", row.misroutes));
    }
    reasons.extend(tally.problems.iter().cloned());
    reasons
}

/// What of a row's times breaks the promise.
fn times(case: &Case, row: &Row, tally: &Tally) -> Vec<String> {
    let bar = case.scenario.bar();
    let mut reasons = Vec::new();
    if bar.unnoticed {
        if row.p999_ms > LATENCY_FACTOR * row.control_p999_ms {
            let slowest: Vec<String> = row.slowest.iter().map(ToString::to_string).collect();
            reasons.push(format!(
                "p99.9 of {:.2} ms, the median of the faults', is over twice the control's of {:.2}; the slowest, in ms, and how \
                 far into a fault: {}",
                row.p999_ms,
                row.control_p999_ms,
                slowest.join(", ")
            ));
        }
        if tally.gap_beyond_control() > GAP_ALLOWANCE {
            reasons.push(format!(
                "a gap of {:.0} ms is longer than the control's of {:.0} by more than 20 ms",
                row.judged_gap_ms, row.control_judged_gap_ms
            ));
        }
    }
    if let Some(limit) = bar.handshake
        && tally.handshake > limit
    {
        reasons.push(format!("a handshake took {:.0} ms, {:.0} are allowed", ms(tally.handshake), ms(limit)));
    }
    reasons
}

/// What was counted over all sites of a row.
#[derive(Debug, Default)]
struct Tally {
    requests: u64,
    rescuable: u64,
    in_flight: u64,
    broken: u64,
    kept_broken: u64,
    misroutes: u64,
    fault: Half,
    control: Half,
    /// The longest, of all time, warming up included: a lane does not say when each was.
    handshake: Duration,
    causes: BTreeMap<String, u64>,
    failures: Vec<String>,
    problems: Vec<String>,
}

impl Tally {
    fn add(&mut self, case: &Case, evidence: &Evidence) {
        let Evidence { recorded, segments, kills, problems } = evidence;
        self.problems.extend(problems.iter().cloned());
        for lane in &recorded.measurement.lanes {
            self.handshake = self.handshake.max(lane.handshake.max().unwrap_or_default());
        }
        // Of each flow with a source port of its own, the one datagram that each end of its backend may cost.
        let mut lost: BTreeSet<(usize, usize)> = BTreeSet::new();
        let mut broken: BTreeSet<(usize, u64, usize)> = BTreeSet::new();
        let named = named_before(&recorded.lanes, &recorded.results);
        let earlier = self.fault.rounds.len();
        let rounds = rounds(segments);
        let pauses = Pauses::of(&recorded.results);
        for result in &recorded.results {
            let Some((index, segment)) = segment_at(segments, result.intended) else { continue };
            if segment.kind == SegmentKind::Unjudged {
                continue;
            }
            let lane = recorded.lanes[result.lane];
            let before = named.get(&(result.lane, result.sequence)).copied();
            self.requests += 1;
            self.kept_broken += u64::from(broke_kept(result, kills));
            let into = result.intended.saturating_sub(segment.start);
            let Some(cause) = result.cause else {
                if let Some(half) = self.half(segment.kind) {
                    half.succeed(earlier + rounds[index], into, result, &pauses);
                }
                continue;
            };
            if matches!(cause, Cause::Misroute | Cause::SplitFlow) {
                self.misroutes += 1;
            }
            let of_ended = match result.phase {
                Phase::Datagram => {
                    of_ended_flow(lane, result, before, kills).is_some_and(|kill| lost.insert((result.lane, kill)))
                }
                _ => was_in_flight(result, before, kills, case.subject.is_proxy()),
            };
            if of_ended {
                self.in_flight += 1;
                continue;
            }
            self.rescuable += 1;
            let when = when(segment.kind);
            *self.causes.entry(format!("{} {}{when}", lane.kind.scheme(), cause.name())).or_default() += 1;
            if case.must_pass() && self.failures.len() < TOLD {
                self.failures.push(format!(
                    "{} {}{when}: due {:.3} s into it, started {:.1} ms and ended {:.1} ms later",
                    recorded.measurement.lanes[result.lane].name,
                    cause.name(),
                    into.as_secs_f64(),
                    ms(result.sent.saturating_sub(result.intended)),
                    ms(result.end.saturating_sub(result.intended)),
                ));
            }
            if lane.kind == LaneKind::TcpLong && result.phase == Phase::Established {
                broken.insert((result.lane, lane.connection(result.sequence), index));
            }
        }
        self.broken += broken.len() as u64;
        for segment in segments {
            let Some(half) = self.half(segment.kind) else { continue };
            for gap in gaps(&recorded.lanes, &recorded.results, *segment) {
                half.add_gap(gap, &pauses);
            }
        }
    }

    /// Where the times of such a piece belong, if they are judged.
    const fn half(&mut self, kind: SegmentKind) -> Option<&mut Half> {
        match kind {
            SegmentKind::Fault => Some(&mut self.fault),
            SegmentKind::Control => Some(&mut self.control),
            SegmentKind::Untimed | SegmentKind::Unjudged => None,
        }
    }

    fn gap_beyond_control(&self) -> Duration {
        self.fault.gap_judged.saturating_sub(self.control.gap_judged)
    }

    /// Whether the longest gap is longer than it may be, and none would be but for what the prober itself did not do in it.
    fn prober_made_the_gap(&self) -> bool {
        let beyond = self.gap_beyond_control();
        beyond > GAP_ALLOWANCE && self.fault.gap_awake.saturating_sub(self.control.gap_judged) <= GAP_ALLOWANCE
    }

    fn causes(&self) -> String {
        let causes: Vec<String> = self.causes.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
        causes.join(", ")
    }
}

/// The number of the fault that each piece of time belongs to: a control to the fault after it, the last one to the fault before.
/// A fault may have several pieces.
fn rounds(segments: &[Segment]) -> Vec<usize> {
    let (mut round, mut struck, mut last_struck) = (0, false, 0);
    let numbers: Vec<usize> = segments
        .iter()
        .map(|segment| {
            if segment.kind == SegmentKind::Control && struck {
                (round, struck) = (round + 1, false);
            }
            if segment.kind == SegmentKind::Fault {
                (struck, last_struck) = (true, round);
            }
            round
        })
        .collect();
    numbers.into_iter().map(|round| round.min(last_struck)).collect()
}

/// The piece of time in which something was.
fn segment_at(segments: &[Segment], at: Duration) -> Option<(usize, &Segment)> {
    segments.iter().enumerate().find(|(_, segment)| segment.start <= at && at < segment.end)
}

/// How a failure's time is told of.
const fn when(kind: SegmentKind) -> &'static str {
    match kind {
        SegmentKind::Fault => "",
        SegmentKind::Control => " without a fault",
        SegmentKind::Untimed | SegmentKind::Unjudged => " before or after a fault",
    }
}

/// The times within a piece in which no request of a kind succeeded, of each kind from one success to the next.
fn gaps(lanes: &[LaneOf], results: &[RequestResult], segment: Segment) -> Vec<(Duration, Duration)> {
    let mut gaps = Vec::new();
    let kinds: Vec<LaneKind> =
        LaneKind::ALL.into_iter().filter(|kind| lanes.iter().any(|lane| lane.kind == *kind)).collect();
    for kind in kinds {
        let mut ends: Vec<Duration> = results
            .iter()
            .filter(|result| lanes[result.lane].kind == kind && result.cause.is_none())
            .map(|result| result.end)
            .filter(|end| (segment.start..segment.end).contains(end))
            .collect();
        ends.sort_unstable();
        let mut last = segment.start;
        for end in ends.into_iter().chain([segment.end]) {
            gaps.push((last, end));
            last = end;
        }
    }
    gaps
}

impl Row {
    /// The heading of a table of rows.
    #[must_use]
    pub fn heading() -> String {
        format!(
            "{:<12} {:<25} {:>8} {:>9} {:>9} {:>7} {:>6} {:>5} {:>9} {:>8} {:>8} {:>8}  verdict",
            "scenario",
            "subject",
            "requests",
            "rescuable",
            "in flight",
            "failed",
            "broken",
            "misr.",
            "p99.9 ms",
            "control",
            "gap ms",
            "control"
        )
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Pass => "pass",
            Verdict::Fail if self.must_pass => "FAIL",
            Verdict::Fail => "fail",
            Verdict::Invalid => "INVALID",
        };
        write!(
            f,
            "{:<12} {:<25} {:>8} {:>9} {:>9} {:>7} {:>6} {:>5} {:>9.1} {:>8.1} {:>8.0} {:>8.0}  {verdict}",
            self.scenario,
            self.subject,
            self.requests,
            self.rescuable_failed,
            self.in_flight,
            self.failed,
            self.long_lived_broken,
            self.misroutes,
            self.p999_ms,
            self.control_p999_ms,
            self.max_gap_ms,
            self.control_gap_ms
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use evenkeel_probe::{LaneMeasurement, Measurement};

    use super::*;
    use crate::{
        case::{Scenario, Servers},
        director::Kill,
        latency::tests::request,
        load::{MAX_LAG, Recorded},
        subject::{Forwarding, Kind},
    };

    /// Warm-up, control, a look, fault, a look, control: these are the moments at which they begin, in milliseconds, and the end.
    const BEGINS: [u64; 7] = [0, 1000, 4000, 4100, 7000, 7100, 8100];

    fn evidence(results: Vec<RequestResult>) -> Evidence {
        use SegmentKind::{Control, Fault, Unjudged, Untimed};
        let kinds = [Unjudged, Control, Untimed, Fault, Untimed, Control];
        let at = |index: usize| Duration::from_millis(BEGINS[index]);
        let segments = kinds.into_iter().enumerate();
        let segments = segments.map(|(index, kind)| Segment { kind, start: at(index), end: at(index + 1) }).collect();
        let lane = LaneMeasurement::new("http".to_owned(), LaneKind::Http, "192.0.2.1:80".parse().unwrap(), None);
        let measurement = Measurement {
            started: SystemTime::UNIX_EPOCH,
            duration: at(6),
            ended: at(6),
            lanes: vec![lane],
            lag: evenkeel_probe::Latency::fine(),
            max_lag: MAX_LAG,
            invalid: Vec::new(),
            results_dropped: 0,
        };
        let lanes = vec![LaneOf { kind: LaneKind::Http, connections: 1 }];
        let recorded = Recorded { lanes, results, measurement };
        Evidence { recorded, segments, kills: Vec::new(), problems: Vec::new() }
    }

    /// A request every ten milliseconds, each answered after one.
    fn undisturbed() -> Vec<RequestResult> {
        (0..BEGINS[6] / 10).map(|number| request(number * 10, number * 10, number * 10 + 1)).collect()
    }

    /// None of those due from one moment until another.
    fn without(results: Vec<RequestResult>, from: u64, until: u64) -> Vec<RequestResult> {
        let silent = Duration::from_millis(from)..Duration::from_millis(until);
        results.into_iter().filter(|result| !silent.contains(&result.intended)).collect()
    }

    /// Failed for a reason that no server's end explains.
    fn failed(due: u64) -> RequestResult {
        RequestResult { cause: Some(Cause::Reset), ..request(due, due, due + 1) }
    }

    fn judged(scenario: Scenario, evidence: Evidence) -> Row {
        let subject = Kind::Evenkeel { forwarding: Forwarding::Direct, rescue: true };
        row(&Case { scenario, servers: Servers::Drain, subject }, &[evidence])
    }

    #[test]
    fn what_is_lost_counts_though_times_are_in_doubt() {
        let with = |lost: bool, reason: Option<InvalidReason>| {
            let mut evidence = evidence(undisturbed());
            evidence.recorded.results.extend(lost.then(|| failed(5000)));
            evidence.recorded.measurement.invalid.extend(reason);
            judged(Scenario::S10, evidence)
        };
        let verdict = |lost, reason| with(lost, reason).verdict;
        assert_eq!(verdict(false, None), Verdict::Pass);
        assert_eq!(verdict(true, None), Verdict::Fail);
        assert_eq!(verdict(false, Some(InvalidReason::Lag)), Verdict::Invalid);
        let row = with(true, Some(InvalidReason::Lag));
        assert_eq!(row.verdict, Verdict::Fail);
        assert_eq!(
            row.reasons.split_last(),
            Some((&"the prober was not fit to judge: lag".to_owned(), &row.counts[..]))
        );
    }

    #[test]
    fn what_the_prober_lost_itself_says_nothing() {
        for reason in [InvalidReason::LocalError, InvalidReason::ReceiveOverflow, InvalidReason::NoRequests] {
            let mut evidence = evidence(undisturbed());
            evidence.recorded.results.push(failed(5000));
            evidence.recorded.measurement.invalid.push(reason);
            assert_eq!(judged(Scenario::S10, evidence).verdict, Verdict::Invalid);
        }
        let mut dropped = evidence(undisturbed());
        dropped.recorded.results.push(failed(5000));
        dropped.recorded.measurement.results_dropped = 1;
        assert_eq!(judged(Scenario::S10, dropped).verdict, Verdict::Invalid);
    }

    #[test]
    fn a_prober_that_stands_still_often_excuses_nothing_lost() {
        let late = |lost: bool| {
            let late = (0..BEGINS[6] / 10).map(|number| request(number * 10, number * 10 + 5, number * 10 + 6));
            judged(Scenario::S10, evidence(late.chain(lost.then(|| failed(5000))).collect()))
        };
        assert_eq!(late(false).reasons, ["the prober stood still too often"]);
        assert_eq!(late(false).verdict, Verdict::Invalid);
        assert_eq!(late(true).verdict, Verdict::Fail);
    }

    #[test]
    fn only_a_pause_within_the_gap_excuses_it_and_nothing_else() {
        // Nothing answers for somewhat longer than the prober stands still from this moment on.
        let with = |pause: u64, still: u64, slow: u64| {
            let mut results = without(undisturbed(), 5000, 5000 + still + 20);
            results.push(request(pause, pause + still, pause + still + 1));
            results.extend((0..slow).map(|number| request(6000 + number, 6000 + number, 6050)));
            judged(Scenario::S10, evidence(results))
        };
        assert_eq!(with(5010, 80, 0).verdict, Verdict::Pass);
        assert_eq!(with(5010, 300, 0).verdict, Verdict::Invalid, "no host's pause");
        assert_eq!(with(6500, 80, 0).verdict, Verdict::Fail, "not while nothing answered");
        let slow = with(5010, 300, 3);
        assert_eq!((slow.verdict, slow.reasons.len()), (Verdict::Fail, 2), "not by its gap alone");
    }

    #[test]
    fn a_kept_connection_that_breaks_counts_though_its_request_succeeds() {
        let with = |due, kill: Option<u64>| {
            let mut evidence = evidence(undisturbed());
            evidence.recorded.results.push(RequestResult { retried: true, ..request(due, due, due + 1) });
            let at = kill.map(Duration::from_millis);
            evidence.kills.extend(at.map(|at| Kill { server: "a".to_owned(), at, closed: at }));
            judged(Scenario::S1, evidence).reasons
        };
        let broke = ["1 kept connections broke while no server ended"];
        assert_eq!(with(5000, None), broke);
        assert_eq!(with(1500, None), broke, "without a fault");
        assert_eq!(with(4050, None), broke, "before it");
        assert!(with(500, None).is_empty(), "not judged");
        assert!(with(5000, Some(4500)).is_empty());
        assert_eq!(with(4200, Some(4500)), broke);
    }

    #[test]
    fn what_is_lost_beside_a_fault_counts() {
        let with = |result| {
            let mut evidence = evidence(undisturbed());
            evidence.recorded.results.push(result);
            judged(Scenario::S10, evidence)
        };
        for due in [4050, 7050] {
            let row = with(failed(due));
            assert_eq!((row.verdict, row.rescuable_failed), (Verdict::Fail, 1));
            assert!(row.reasons[0].ends_with("reset before or after a fault"), "{}", row.reasons[0]);
            assert_eq!(with(RequestResult { cause: Some(Cause::Misroute), ..failed(due) }).misroutes, 1);
        }
        assert_eq!(with(failed(500)).verdict, Verdict::Pass, "warming up");
    }

    #[test]
    fn no_time_beside_a_fault_is_judged() {
        let calm = judged(Scenario::S10, evidence(undisturbed()));
        // Ten are not there, two were slow, of which the prober was late with one.
        let mut results = without(undisturbed(), 4000, 4100);
        results.extend([request(4050, 4050, 4070), request(4080, 4085, 4090)]);
        let row = judged(Scenario::S10, evidence(results));
        assert_eq!((row.verdict, row.requests), (Verdict::Pass, calm.requests - 8));
        assert_eq!((row.unmeasured, row.control_unmeasured), (0, 0));
        assert_eq!((row.slowest, row.rounds), (calm.slowest, calm.rounds));
    }

    #[test]
    fn a_syn_that_is_sent_again_is_seen() {
        let with = |scenario, took| {
            let mut evidence = evidence(undisturbed());
            evidence.recorded.measurement.lanes[0].handshake.record(Duration::from_millis(took));
            judged(scenario, evidence).reasons
        };
        for scenario in [Scenario::S1, Scenario::S2, Scenario::S9, Scenario::S10] {
            assert_eq!(with(scenario, 1010), ["a handshake took 1010 ms, 900 are allowed"]);
            assert!(with(scenario, 850).is_empty());
        }
        assert!(with(Scenario::S3, 1010).is_empty(), "whoever meets a silent death");
        assert!(with(Scenario::S4, 3010).is_empty());
        assert!(with(Scenario::S5, 3010).is_empty());
    }

    #[test]
    fn a_control_belongs_to_the_fault_after_it() {
        use SegmentKind::{Control, Fault, Unjudged, Untimed};
        let segment = |kind| Segment { kind, start: Duration::ZERO, end: Duration::ZERO };
        let of = |kinds: &[SegmentKind]| rounds(&kinds.iter().copied().map(segment).collect::<Vec<_>>());
        assert_eq!(
            of(&[Unjudged, Control, Fault, Unjudged, Fault, Unjudged, Control, Fault, Unjudged, Control]),
            [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
        );
        assert_eq!(
            of(&[Unjudged, Control, Untimed, Fault, Untimed, Control, Untimed, Fault]),
            [0, 0, 0, 0, 0, 1, 1, 1]
        );
        assert_eq!(of(&[Unjudged, Control]), [0, 0]);
    }

    #[test]
    fn a_gap_that_the_prober_made_says_nothing() {
        let made = |gap, gap_awake, control| {
            let ms = Duration::from_millis;
            let fault = Half { gap_judged: ms(gap), gap_awake: ms(gap_awake), ..Half::default() };
            let control = Half { gap_judged: ms(control), gap_awake: ms(control), ..Half::default() };
            Tally { fault, control, ..Tally::default() }.prober_made_the_gap()
        };
        assert!(made(110, 30, 25));
        assert!(!made(110, 50, 25), "it stood still for less than what is too much");
        assert!(!made(45, 0, 25), "no longer than it may be");
        assert!(!made(25, 0, 110));
    }

    #[test]
    fn gaps_end_with_their_segment() {
        let lanes = [LaneOf { kind: LaneKind::Udp, connections: 1 }];
        let segment =
            Segment { kind: SegmentKind::Fault, start: Duration::from_millis(100), end: Duration::from_millis(200) };
        let within = |ends: &[u64]| {
            let results: Vec<_> = ends.iter().map(|end| request(*end, *end, *end)).collect();
            gaps(&lanes, &results, segment)
        };
        let ms = |from, to| (Duration::from_millis(from), Duration::from_millis(to));
        assert_eq!(within(&[90, 110, 150, 210]), [ms(100, 110), ms(110, 150), ms(150, 200)]);
        assert_eq!(within(&[]), [ms(100, 200)]);
    }
}
