//! What became of a row's requests, and whether that keeps the promise.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    time::Duration,
};

use evenkeel_probe::{
    Cause, LaneKind,
    measure::{Phase, RequestResult},
};
use serde::Serialize;

use crate::{
    case::Case,
    director::{Evidence, Kill, Segment, SegmentKind},
    latency::{Half, Latency, Pauses, Slow, median, ms},
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
        verdict: Verdict::Pass,
        reasons: Vec::new(),
        counts: Vec::new(),
        must_pass: case.must_pass(),
    };
    row.counts = counts(case, &row, &tally);
    row.reasons = row.counts.iter().cloned().chain(times(case, &row, &tally)).collect();
    if !row.reasons.is_empty() {
        row.verdict = Verdict::Fail;
    }
    let mut invalid: BTreeSet<String> = evidence.iter().flat_map(invalid).collect();
    if (row.unmeasured + row.control_unmeasured) * UNMEASURED > row.requests {
        invalid.insert("the prober stood still too often".to_owned());
    }
    if row.counts.is_empty() && case.scenario.bar().unnoticed && tally.prober_made_the_gap() {
        invalid
            .insert(format!("the prober stood still for {:.0} ms, and the longest gap may be that", ms(tally.pause)));
    }
    if !invalid.is_empty() {
        row.verdict = Verdict::Invalid;
        row.reasons = invalid.into_iter().collect();
    }
    row
}

/// Why the prober was not fit to judge.
fn invalid(evidence: &Evidence) -> Vec<String> {
    let measurement = &evidence.recorded.measurement;
    let mut reasons: Vec<String> = measurement
        .invalid
        .iter()
        .map(|reason| format!("the prober was not fit to judge: {}", reason.name()))
        .collect();
    if measurement.results_dropped > 0 {
        reasons.push("results were not read in time".to_owned());
    }
    reasons
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
            reasons.push(format!("a gap of {:.0} ms is longer than the control's by more than 20 ms", row.max_gap_ms));
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
    misroutes: u64,
    fault: Half,
    control: Half,
    /// The longest time for which the prober stood still.
    pause: Duration,
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
        let named = servers_of_long(&recorded.lanes, &recorded.results);
        let earlier = self.fault.rounds.len();
        let rounds = rounds(segments);
        let pauses = Pauses::of(&recorded.results);
        self.pause = self.pause.max(pauses.longest());
        for result in &recorded.results {
            let Some((index, segment)) = segment_at(segments, result.intended) else { continue };
            if segment.kind == SegmentKind::Unjudged {
                continue;
            }
            let lane = recorded.lanes[result.lane];
            let at = (result.lane, result.sequence);
            self.requests += 1;
            let half = if segment.kind == SegmentKind::Fault { &mut self.fault } else { &mut self.control };
            let into = result.intended.saturating_sub(segment.start);
            let Some(cause) = result.cause else {
                if pauses.touch(result) {
                    half.unmeasured += 1;
                    continue;
                }
                let took = result.end.saturating_sub(result.intended);
                half.add(earlier + rounds[index], Latency { took, into, server: result.server.clone() });
                continue;
            };
            if matches!(cause, Cause::Misroute | Cause::SplitFlow) {
                self.misroutes += 1;
            }
            let of_ended = match result.phase {
                Phase::Datagram => {
                    of_ended_flow(lane, result, kills).is_some_and(|kill| lost.insert((result.lane, kill)))
                }
                _ => was_in_flight(result, named.get(&at).copied(), kills, case.subject.is_proxy()),
            };
            if of_ended {
                self.in_flight += 1;
                continue;
            }
            self.rescuable += 1;
            let when = if segment.kind == SegmentKind::Fault { "" } else { " without a fault" };
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
                broken.insert((result.lane, result.sequence % lane.connections, index));
            }
        }
        self.broken += broken.len() as u64;
        for segment in segments {
            let half = match segment.kind {
                SegmentKind::Fault => &mut self.fault,
                SegmentKind::Control => &mut self.control,
                SegmentKind::Unjudged => continue,
            };
            half.gap = half.gap.max(longest_gap(&recorded.lanes, &recorded.results, *segment));
        }
    }

    fn gap_beyond_control(&self) -> Duration {
        self.fault.gap.saturating_sub(self.control.gap)
    }

    /// Whether the longest gap is longer than it may be, and would not be but for what the prober itself did not do.
    fn prober_made_the_gap(&self) -> bool {
        let beyond = self.gap_beyond_control();
        beyond > GAP_ALLOWANCE && beyond.saturating_sub(self.pause) <= GAP_ALLOWANCE
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

/// Whether a request was on a connection that was complete on a backend when that was ended.
///
/// A connection on which the server has named itself was complete on it. Where it has not, it was if the handshake was
/// complete and begun before the backend had closed; unless it ended at a proxy, which could have tried again.
fn was_in_flight(result: &RequestResult, server: Option<&str>, kills: &[Kill], proxy: bool) -> bool {
    if result.phase != Phase::Established {
        return false;
    }
    kills.iter().any(|kill| match result.server.as_deref().or(server) {
        Some(server) => server == kill.server && result.end >= kill.at,
        None => !proxy && result.sent <= kill.closed && result.end >= kill.at,
    })
}

/// The servers of failed requests on long-lived connections, by lane and number: a request that stalls does not say whose its
/// connection was, the answers before it on the same connection do.
fn servers_of_long<'a>(lanes: &[LaneOf], results: &'a [RequestResult]) -> HashMap<(usize, u64), &'a str> {
    let mut long: Vec<&RequestResult> =
        results.iter().filter(|result| lanes[result.lane].kind == LaneKind::TcpLong).collect();
    long.sort_unstable_by_key(|result| (result.lane, result.sequence));
    let mut last: HashMap<(usize, u64), &str> = HashMap::new();
    let mut servers = HashMap::new();
    for result in long {
        let connection = (result.lane, result.sequence % lanes[result.lane].connections);
        match (&result.server, result.cause) {
            (Some(server), None) => drop(last.insert(connection, server)),
            _ => servers.extend(last.get(&connection).map(|server| ((result.lane, result.sequence), *server))),
        }
    }
    servers
}

/// The ended backend that a datagram may have been lost with: it was sent after its flow's backend had been told to end. A
/// datagram from a new port is no flow's.
fn of_ended_flow(lane: LaneOf, result: &RequestResult, kills: &[Kill]) -> Option<usize> {
    let fixed = matches!(lane.kind, LaneKind::UdpFixed | LaneKind::DnsFixed);
    if !fixed {
        return None;
    }
    kills.iter().rposition(|kill| kill.at <= result.sent)
}

/// The longest time within a piece in which no request of a kind succeeded, over all kinds.
fn longest_gap(lanes: &[LaneOf], results: &[RequestResult], segment: Segment) -> Duration {
    let mut longest = Duration::ZERO;
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
            longest = longest.max(end.saturating_sub(last));
            last = end;
        }
    }
    longest
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
    use super::*;
    use crate::latency::tests::request;

    const KILL: Duration = Duration::from_millis(1000);

    fn kills() -> Vec<Kill> {
        vec![Kill { server: "a".to_owned(), at: KILL, closed: KILL + Duration::from_millis(10) }]
    }

    fn result(phase: Phase, server: Option<&str>, sent: u64, end: u64) -> RequestResult {
        let (cause, server) = (Some(Cause::Reset), server.map(str::to_owned));
        RequestResult { cause, phase, server, ..request(sent, sent, end) }
    }

    #[test]
    fn in_flight_is_what_was_complete_on_the_ended_backend() {
        let established =
            |server, sent, end| was_in_flight(&result(Phase::Established, server, sent, end), None, &kills(), false);
        assert!(established(Some("a"), 900, 1001));
        assert!(!established(Some("b"), 900, 1001), "another backend");
        assert!(!established(Some("a"), 900, 999), "before it was ended");
        assert!(established(None, 1005, 1006), "not accepted yet");
        assert!(!established(None, 1020, 1021), "nobody could complete it there any more");
        assert!(!was_in_flight(&result(Phase::Connecting, None, 1000, 1001), None, &kills(), false));
        assert!(!was_in_flight(&result(Phase::Established, None, 1000, 1001), None, &kills(), true), "at a proxy");
    }

    #[test]
    fn a_stalled_request_is_of_the_server_that_answered_before() {
        let lanes = [LaneOf { kind: LaneKind::TcpLong, connections: 2 }];
        let of = |sequence, server, cause| RequestResult {
            sequence,
            cause,
            ..result(Phase::Established, server, 1500, 5500)
        };
        let results = [
            of(0, Some("a"), None),
            of(1, Some("b"), None),
            of(3, None, Some(Cause::ReadStall)),
            of(2, None, Some(Cause::ReadStall)),
        ];
        let named = servers_of_long(&lanes, &results);
        assert_eq!(named, HashMap::from([((0, 2), "a"), ((0, 3), "b")]));
        assert!(was_in_flight(&results[3], Some("a"), &kills(), false));
        assert!(!was_in_flight(&results[2], Some("b"), &kills(), false));
    }

    #[test]
    fn a_flow_is_lost_with_the_backend_ended_last() {
        let lane = |kind| LaneOf { kind, connections: 1 };
        let lost = result(Phase::Datagram, None, 1001, 5001);
        assert_eq!(of_ended_flow(lane(LaneKind::UdpFixed), &lost, &kills()), Some(0));
        assert_eq!(of_ended_flow(lane(LaneKind::Udp), &lost, &kills()), None);
        let before = result(Phase::Datagram, None, 999, 4999);
        assert_eq!(of_ended_flow(lane(LaneKind::UdpFixed), &before, &kills()), None);
    }

    #[test]
    fn a_control_belongs_to_the_fault_after_it() {
        use SegmentKind::{Control, Fault, Unjudged};
        let segment = |kind| Segment { kind, start: Duration::ZERO, end: Duration::ZERO };
        let of = |kinds: &[SegmentKind]| rounds(&kinds.iter().copied().map(segment).collect::<Vec<_>>());
        assert_eq!(
            of(&[Unjudged, Control, Fault, Unjudged, Fault, Unjudged, Control, Fault, Unjudged, Control]),
            [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
        );
        assert_eq!(of(&[Unjudged, Control]), [0, 0]);
    }

    #[test]
    fn a_gap_that_the_prober_may_have_made_says_nothing() {
        let made = |fault, control, pause| {
            let ms = Duration::from_millis;
            let half = |gap| Half { gap: ms(gap), ..Half::default() };
            Tally { fault: half(fault), control: half(control), pause: ms(pause), ..Tally::default() }
                .prober_made_the_gap()
        };
        assert!(made(110, 25, 80));
        assert!(!made(110, 25, 60), "it stood still for less than what is too much");
        assert!(!made(45, 25, 80), "no longer than it may be");
        assert!(!made(25, 110, 80));
    }

    #[test]
    fn gaps_end_with_their_segment() {
        let lanes = [LaneOf { kind: LaneKind::Udp, connections: 1 }];
        let success = |end| RequestResult { cause: None, ..result(Phase::Datagram, None, end, end) };
        let segment =
            Segment { kind: SegmentKind::Fault, start: Duration::from_millis(100), end: Duration::from_millis(200) };
        let gap =
            |ends: &[u64]| longest_gap(&lanes, &ends.iter().map(|end| success(*end)).collect::<Vec<_>>(), segment);
        assert_eq!(gap(&[90, 110, 150, 210]), Duration::from_millis(50));
        assert_eq!(gap(&[]), Duration::from_millis(100));
    }
}
