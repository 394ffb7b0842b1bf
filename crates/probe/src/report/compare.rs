//! Two reports side by side: what differs, which is worse, and how sure one can be of it.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    document::{LaneReport, Report, VERSION, Verdict, Window},
    objective::{Metric, Unit},
    quantity::{go_duration, percent, thousands},
    text::printable,
};

/// Times that differ by less are alike, however sure one is that they differ.
const RELEVANT: f64 = 0.05;
/// What was observed once in each run differs only if one is so many times the other.
const SINGLE_RELEVANT: f64 = 1.5;
/// The share of a difference in latency that the prober's own lag may make without being mentioned.
const LAG_SHARE: f64 = 0.25;
/// The 97.5th percentile of the normal distribution: intervals are of 95 %.
const Z: f64 = 1.96;

/// Lower and upper end.
pub type Interval = (f64, f64);

/// Why a file is no report.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Not JSON, or without the fields of a report.
    #[error("not a JSON report of `evenkeel probe`: {0}")]
    Shape(#[from] serde_json::Error),
    /// Written by a version of this program that is too new or too old.
    #[error("a report of version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// Numbers no run can have measured.
    #[error("numbers beyond what a run can measure")]
    Numbers,
    /// Numbers that contradict each other.
    #[error("lane `{0}` has more failures than requests")]
    Counts(String),
}

impl Report {
    /// Reads a JSON report.
    ///
    /// # Errors
    /// Why it is none.
    pub fn from_json(json: &[u8]) -> Result<Self, ParseError> {
        #[derive(Deserialize)]
        struct Header {
            version: u32,
        }
        let Header { version } = serde_json::from_slice(json)?;
        if version != VERSION {
            return Err(ParseError::Version(version));
        }
        let value: Value = serde_json::from_slice(json)?;
        if magnitude(&value) > LARGEST {
            return Err(ParseError::Numbers);
        }
        let report = Self::deserialize(value)?;
        match report.lanes.iter().find(|lane| lane.failed > lane.requests) {
            Some(lane) => Err(ParseError::Counts(lane.lane.clone())),
            None => Ok(report),
        }
    }
}

/// Bound of the sum of a report's numbers, so that no sum of some of them overflows.
const LARGEST: f64 = 1e18;

/// The sum of the absolute values of all numbers in a JSON value.
fn magnitude(value: &Value) -> f64 {
    match value {
        Value::Number(number) => number.as_f64().map_or(f64::INFINITY, f64::abs),
        Value::Array(values) => values.iter().map(magnitude).sum(),
        Value::Object(fields) => fields.values().map(magnitude).sum(),
        Value::Null | Value::Bool(_) | Value::String(_) => 0.0,
    }
}

/// Two reports compared. Serializes to the JSON form.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// [`VERSION`].
    pub version: u32,
    /// Which is worse.
    pub worse: Worse,
    /// The verdict of A.
    pub a: Verdict,
    /// The verdict of B.
    pub b: Verdict,
    /// Lanes of the same name, or else of the same kind.
    pub lanes: Vec<LaneComparison>,
    /// Lanes of A that B has nothing like.
    pub only_a: Vec<String>,
    /// Lanes of B that A has nothing like.
    pub only_b: Vec<String>,
    /// What to know before relying on it.
    pub cautions: Vec<String>,
}

/// Which of two is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Worse {
    /// The first.
    A,
    /// The second.
    B,
    /// Each in something else.
    Mixed,
    /// Neither, as far as these runs can tell.
    Neither,
    /// One of them is invalid.
    Unknown,
}

/// Two lanes compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LaneComparison {
    /// Its name in A.
    pub a: String,
    /// Its name in B.
    pub b: String,
    /// Metric by metric.
    pub differences: Vec<Difference>,
}

/// A metric of two lanes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Which.
    pub metric: Metric,
    /// In what the values are.
    pub unit: Unit,
    /// The value of A; `None` if there was nothing to measure.
    pub a: Option<f64>,
    /// The value of B.
    pub b: Option<f64>,
    /// The 95 % confidence interval of A.
    pub a_ci95: Option<Interval>,
    /// The 95 % confidence interval of B.
    pub b_ci95: Option<Interval>,
    /// The worse one; `neither` if they are alike, or not known to differ.
    pub worse: Worse,
    /// How that was told.
    pub basis: Basis,
}

/// How it was told whether a metric differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// By confidence intervals that take requests as independent.
    Intervals,
    /// By size: it was observed once in each run.
    SingleObservation,
}

impl Comparison {
    /// Compares B with A.
    #[must_use]
    pub fn new(a: &Report, b: &Report) -> Self {
        let (pairs, only_a, only_b) = pair(&a.lanes, &b.lanes);
        let lanes: Vec<LaneComparison> = pairs.iter().map(|(a, b)| LaneComparison::new(a, b)).collect();
        let worse = if a.invalid || b.invalid {
            Worse::Unknown
        } else {
            overall(lanes.iter().flat_map(|lane| &lane.differences).map(|difference| difference.worse))
        };
        Self {
            version: VERSION,
            worse,
            a: a.verdict,
            b: b.verdict,
            cautions: cautions(a, b, &pairs, &lanes),
            lanes,
            only_a,
            only_b,
        }
    }
}

/// Pairs lanes by name, then by kind in their order, as two targets have two names.
type Pairs<'a> = (Vec<(&'a LaneReport, &'a LaneReport)>, Vec<String>, Vec<String>);

fn pair<'a>(a: &'a [LaneReport], b: &'a [LaneReport]) -> Pairs<'a> {
    let mut rest: Vec<&LaneReport> = b.iter().collect();
    let mut partners: Vec<Option<&LaneReport>> = vec![None; a.len()];
    for same in [(|one, other| one.lane == other.lane) as fn(&LaneReport, &LaneReport) -> bool, |one, other| {
        one.kind == other.kind
    }] {
        for (lane, partner) in a.iter().zip(&mut partners).filter(|(_, partner)| partner.is_none()) {
            if let Some(index) = rest.iter().position(|other| same(lane, other)) {
                *partner = Some(rest.remove(index));
            }
        }
    }
    let alone = a.iter().zip(&partners).filter(|(_, partner)| partner.is_none()).map(|(lane, _)| lane.lane.clone());
    let only_a = alone.collect();
    let pairs = a.iter().zip(partners).filter_map(|(lane, partner)| Some((lane, partner?))).collect();
    (pairs, only_a, rest.into_iter().map(|lane| lane.lane.clone()).collect())
}

fn overall(worse: impl Iterator<Item = Worse>) -> Worse {
    worse.fold(Worse::Neither, |overall, one| match (overall, one) {
        (overall, Worse::Neither) => overall,
        (Worse::Neither, one) => one,
        (overall, one) if overall == one => overall,
        _ => Worse::Mixed,
    })
}

impl LaneComparison {
    fn new(a: &LaneReport, b: &LaneReport) -> Self {
        let mut differences = vec![success(a, b)];
        let (latency_a, latency_b) = (a.latency_ms.as_ref(), b.latency_ms.as_ref());
        let (ci_a, ci_b) = (a.latency_ci95_ms.as_ref(), b.latency_ci95_ms.as_ref());
        for metric in [Metric::P50, Metric::P90, Metric::P95, Metric::P99, Metric::P999] {
            let value = |of: Option<&super::Quantiles>| {
                of.map(|of| match metric {
                    Metric::P50 => of.p50,
                    Metric::P90 => of.p90,
                    Metric::P95 => of.p95,
                    Metric::P99 => of.p99,
                    _ => of.p999,
                })
            };
            let interval = |of: Option<&super::Intervals>| {
                of.map(|of| match metric {
                    Metric::P50 => of.p50,
                    Metric::P90 => of.p90,
                    Metric::P95 => of.p95,
                    Metric::P99 => of.p99,
                    _ => of.p999,
                })
            };
            let (values, intervals) = ((value(latency_a), value(latency_b)), (interval(ci_a), interval(ci_b)));
            differences.push(quantile(metric, values, intervals));
        }
        let interval_ms = [a, b].into_iter().filter_map(|lane| lane.rate).map(|rate| 1e3 / rate).fold(0.0, f64::max);
        let max = |of: Option<&super::Quantiles>| of.map(|of| of.max);
        differences.push(single(Metric::Max, max(latency_a), max(latency_b), 0.0));
        let gap = |lane: &LaneReport| Some(lane.longest_gap_ms);
        differences.push(single(Metric::Gap, gap(a), gap(b), 3.0 * interval_ms));
        let outage = |lane: &LaneReport| Some(lane.windows.iter().map(Window::length_ms).fold(0.0, f64::max));
        differences.push(single(Metric::Outage, outage(a), outage(b), 3.0 * interval_ms));
        Self { a: a.lane.clone(), b: b.lane.clone(), differences }
    }
}

/// Shares by Newcombe's hybrid score interval of their difference (Statistics in Medicine 17, 1998, method 10).
fn success(a: &LaneReport, b: &LaneReport) -> Difference {
    let (wilson_a, wilson_b) = (wilson(a.succeeded(), a.requests), wilson(b.succeeded(), b.requests));
    let share = |lane: &LaneReport| (lane.requests > 0).then(|| lane.succeeded() as f64 / lane.requests as f64);
    let worse = match (share(a), share(b), wilson_a, wilson_b) {
        (Some(p_a), Some(p_b), Some((low_a, high_a)), Some((low_b, high_b))) => {
            let lower = p_a - p_b - (p_a - low_a).hypot(high_b - p_b);
            let upper = p_a - p_b + (high_a - p_a).hypot(p_b - low_b);
            match (lower > 0.0, upper < 0.0) {
                (true, _) => Worse::B,
                (_, true) => Worse::A,
                _ => Worse::Neither,
            }
        }
        _ => Worse::Neither,
    };
    Difference {
        metric: Metric::Success,
        unit: Unit::Ratio,
        a: share(a),
        b: share(b),
        a_ci95: wilson_a,
        b_ci95: wilson_b,
        worse,
        basis: Basis::Intervals,
    }
}

/// Wilson's score interval of a share.
fn wilson(part: u64, whole: u64) -> Option<Interval> {
    if whole == 0 {
        return None;
    }
    let (n, p) = (whole as f64, part as f64 / whole as f64);
    let center = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    // All or nothing is within its own interval, whatever rounding makes of it.
    let low = if part == 0 { 0.0 } else { (center - half).clamp(0.0, p) };
    let high = if part == whole { 1.0 } else { (center + half).clamp(p, 1.0) };
    Some((low, high))
}

fn quantile(
    metric: Metric,
    (a, b): (Option<f64>, Option<f64>),
    (a_ci95, b_ci95): (Option<Interval>, Option<Interval>),
) -> Difference {
    let worse = match (a, b, a_ci95, b_ci95) {
        (Some(a), Some(b), Some((low_a, high_a)), Some((low_b, high_b))) if (a - b).abs() > RELEVANT * a.min(b) => {
            match (low_b > high_a, low_a > high_b) {
                (true, _) => Worse::B,
                (_, true) => Worse::A,
                _ => Worse::Neither,
            }
        }
        _ => Worse::Neither,
    };
    Difference { metric, unit: Unit::Ms, a, b, a_ci95, b_ci95, worse, basis: Basis::Intervals }
}

/// What differs by less than `resolution` does not.
fn single(metric: Metric, a: Option<f64>, b: Option<f64>, resolution: f64) -> Difference {
    let worse = match (a, b) {
        (Some(a), Some(b)) if (a - b).abs() > resolution && b > a * SINGLE_RELEVANT => Worse::B,
        (Some(a), Some(b)) if (a - b).abs() > resolution && a > b * SINGLE_RELEVANT => Worse::A,
        _ => Worse::Neither,
    };
    let basis = Basis::SingleObservation;
    Difference { metric, unit: Unit::Ms, a, b, a_ci95: None, b_ci95: None, worse, basis }
}

fn cautions(a: &Report, b: &Report, pairs: &[(&LaneReport, &LaneReport)], lanes: &[LaneComparison]) -> Vec<String> {
    let mut cautions = Vec::new();
    for (name, report) in [("A", a), ("B", b)] {
        if report.invalid {
            let reasons: Vec<&str> = report.invalid_reasons.iter().map(|reason| reason.name()).collect();
            cautions.push(format!("{name} is invalid ({}): it says nothing about its targets", reasons.join(", ")));
        }
    }
    if (a.duration_ms - b.duration_ms).abs() > 0.05 * a.duration_ms.max(b.duration_ms) {
        let (a, b) = (go_duration(a.duration_ms), go_duration(b.duration_ms));
        cautions.push(format!("A took {a} and B {b}: the longer one had more time for a rare fault"));
    }
    for ((lane_a, lane_b), compared) in pairs.iter().zip(lanes) {
        let name = &lane_a.lane;
        if lane_a.rate != lane_b.rate {
            let rate = |rate: Option<f64>| rate.map_or("as fast as it goes".to_owned(), |rate| format!("{rate}/s"));
            cautions.push(format!("{name}: A sent {} and B {}", rate(lane_a.rate), rate(lane_b.rate)));
        }
        if lane_a.lane != lane_b.lane {
            cautions.push(format!("{name} is compared with {}, which has another name", lane_b.lane));
        }
        let windows = lane_a.windows.len() + lane_b.windows.len();
        let failed = lane_a.failed + lane_b.failed;
        let differs =
            compared.differences.iter().any(|one| one.metric == Metric::Success && one.worse != Worse::Neither);
        if differs && (windows as u64) < failed && windows <= 5 {
            cautions.push(format!(
                "{name}: the {} failures came in {windows} outages, so they are {windows} observations rather than {}; \
                 repeat the runs before relying on the difference",
                thousands(failed),
                thousands(failed)
            ));
        }
    }
    let lag_differs = (a.lag_ms.p99 - b.lag_ms.p99).abs();
    let latencies = lanes.iter().flat_map(|lane| &lane.differences).filter(|one| one.basis == Basis::Intervals);
    let smallest = latencies
        .filter(|one| one.unit == Unit::Ms && one.worse != Worse::Neither)
        .filter_map(|one| Some((one.a? - one.b?).abs()))
        .fold(f64::INFINITY, f64::min);
    if lag_differs > LAG_SHARE * smallest {
        let (a, b) = (go_duration(a.lag_ms.p99), go_duration(b.lag_ms.p99));
        cautions.push(format!(
            "the prober's own lag at 99 % was {a} in A and {b} in B: latencies that differ by about as much differ by that"
        ));
    }
    if lanes.iter().flat_map(|lane| &lane.differences).any(|one| one.worse != Worse::Neither) {
        cautions.push("one run each: what differs between them may be the time of day".to_owned());
    }
    cautions
}

impl Worse {
    const fn words(self) -> &'static str {
        match self {
            Self::A => "A is worse",
            Self::B => "B is worse",
            Self::Mixed => "each is worse in something",
            Self::Neither => "alike",
            Self::Unknown => "cannot be told",
        }
    }
}

impl Difference {
    fn show(&self, value: Option<f64>) -> String {
        let Some(value) = value else { return "-".to_owned() };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts and shares are positive")]
        match self.unit {
            Unit::Count => thousands(value as u64),
            Unit::Ratio => percent((value.clamp(0.0, 1.0) * 1e12).floor() as u64, 1_000_000_000_000),
            Unit::Ms => go_duration(value),
        }
    }

    fn show_interval(&self, interval: Option<Interval>) -> String {
        interval
            .map(|(low, high)| format!("({} to {})", self.show(Some(low)), self.show(Some(high))))
            .unwrap_or_default()
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<10}{:<40}B: {}", "", format!("A: {}", self.a), self.b)?;
        for lane in &self.lanes {
            let (a, b) = (printable(&lane.a), printable(&lane.b));
            if a == b {
                writeln!(f, "\nLane {a}")?;
            } else {
                writeln!(f, "\nLane {a} and {b}")?;
            }
            for one in &lane.differences {
                let side = |value, interval| format!("{:<11}{}", one.show(value), one.show_interval(interval));
                let (a, b) = (side(one.a, one.a_ci95), side(one.b, one.b_ci95));
                let worse = if one.worse == Worse::Neither { "" } else { one.worse.words() };
                let line = format!("  {:<8}{a:<40}{b:<40}{worse}", one.metric.name());
                writeln!(f, "{}", line.trim_end())?;
            }
        }
        for (name, lanes) in [("A", &self.only_a), ("B", &self.only_b)] {
            for lane in lanes {
                writeln!(f, "\nLane {} is in {name} only", printable(lane))?;
            }
        }
        if !self.cautions.is_empty() {
            writeln!(f, "\nCautions")?;
        }
        for caution in &self.cautions {
            writeln!(f, "  {}", printable(caution))?;
        }
        let conclusion = match self.worse {
            Worse::Neither => "ALIKE: neither is worse, as far as these runs can tell",
            Worse::Unknown => "UNKNOWN: an invalid run cannot be compared",
            Worse::A => "A IS WORSE",
            Worse::B => "B IS WORSE",
            Worse::Mixed => "MIXED: each is worse in something",
        };
        writeln!(f, "\n{conclusion}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::sample;

    fn report() -> Report {
        Report::new(&sample::measurement())
    }

    fn json(report: &Report) -> Vec<u8> {
        serde_json::to_vec(report).unwrap()
    }

    #[test]
    fn a_report_is_like_itself() {
        let comparison = Comparison::new(&report(), &report());
        assert_eq!((comparison.worse, comparison.cautions.len()), (Worse::Neither, 0));
        assert_eq!(comparison.lanes.len(), 3);
        assert!(comparison.to_string().ends_with("ALIKE: neither is worse, as far as these runs can tell\n"));
    }

    #[test]
    fn more_failures_and_longer_times_are_worse_and_doubted() {
        let worse = report();
        let mut better = report();
        let lane = &mut better.lanes[0];
        lane.failed = 0;
        lane.windows.clear();
        lane.longest_gap_ms = 12.0;
        let comparison = Comparison::new(&better, &worse);
        assert_eq!(comparison.worse, Worse::B);
        assert_eq!(Comparison::new(&worse, &better).worse, Worse::A);
        let of = |metric| comparison.lanes[0].differences.iter().find(|one| one.metric == metric).unwrap().worse;
        assert_eq!([of(Metric::Success), of(Metric::Gap), of(Metric::P50)], [Worse::B, Worse::B, Worse::Neither]);
        let cautions = comparison.cautions.join("\n");
        assert!(cautions.contains("came in 2 outages"), "{cautions}");
    }

    #[test]
    fn the_probers_own_lag_is_not_mistaken_for_the_targets() {
        let (a, mut b) = (report(), report());
        let slower = |times: &mut (f64, f64)| (times.0, times.1) = (times.0 + 5.0, times.1 + 5.0);
        b.lag_ms.p99 += 5.0;
        let lane = &mut b.lanes[2];
        lane.latency_ms.as_mut().unwrap().p50 += 5.0;
        slower(&mut lane.latency_ci95_ms.as_mut().unwrap().p50);
        let comparison = Comparison::new(&a, &b);
        assert_eq!(comparison.worse, Worse::B);
        assert!(comparison.cautions[0].starts_with("the prober's own lag"), "{:?}", comparison.cautions);
        b.lag_ms = a.lag_ms;
        assert_eq!(Comparison::new(&a, &b).cautions.len(), 1);
    }

    #[test]
    fn invalid_runs_are_not_compared() {
        let mut invalid = report();
        invalid.invalid = true;
        assert_eq!(Comparison::new(&report(), &invalid).worse, Worse::Unknown);
    }

    #[test]
    fn lanes_are_paired_by_name_then_kind() {
        let (a, mut b) = (report(), report());
        b.lanes.reverse();
        b.lanes[2].lane = "another target".to_owned();
        b.lanes.remove(0);
        let comparison = Comparison::new(&a, &b);
        let pairs: Vec<_> = comparison.lanes.iter().map(|lane| (lane.a.as_str(), lane.b.as_str())).collect();
        assert_eq!(pairs, [("http://192.0.2.10:80/", "another target"), ("resolver", "resolver")]);
        assert_eq!((comparison.only_a.len(), comparison.only_b.len()), (1, 0));
    }

    #[test]
    fn score_intervals_are_the_known_ones() {
        // Newcombe's examples of Wilson's interval: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
        for (part, whole, low, high) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
        {
            let (from, to) = wilson(part, whole).unwrap();
            assert!((from - low).abs() < 1e-4 && (to - high).abs() < 1e-4, "{part}/{whole}: {from} {to}");
        }
    }

    #[test]
    fn what_is_no_report_is_refused() {
        assert!(matches!(Report::from_json(b"{}"), Err(ParseError::Shape(_))));
        assert!(matches!(Report::from_json(br#"{"version":1}"#), Err(ParseError::Shape(_))));
        assert!(matches!(Report::from_json(br#"{"version":9}"#), Err(ParseError::Version(9))));
        let mut report = report();
        report.lanes[1].failed = report.lanes[1].requests + 1;
        assert!(matches!(Report::from_json(&json(&report)), Err(ParseError::Counts(lane)) if lane == "resolver"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(Report::from_json(&bytes).is_err());
        }
    }

    proptest! {
        // Each case shows a whole report in every format.
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_damaged_report_is_read_and_compared_or_refused(
            at in any::<prop::sample::Index>(),
            with in prop_oneof![Just("0"), Just("1"), Just("1e308"), Just("-7"), Just("null"), Just("18446744073709551615"), Just("\"\""), Just("")],
        ) {
            // One number of the report replaced.
            let text = String::from_utf8(json(&report())).unwrap();
            let numbers: Vec<_> = text
                .match_indices(|c: char| c.is_ascii_digit())
                .filter(|(start, _)| text[..*start].ends_with([':', '[', ',']))
                .map(|(start, _)| start)
                .collect();
            let start = numbers[at.index(numbers.len())];
            let end = start + text[start..].find([',', '}', ']']).unwrap();
            let damaged = format!("{}{with}{}", &text[..start], &text[end..]);
            if let Ok(report) = Report::from_json(damaged.as_bytes()) {
                let comparison = Comparison::new(&report, &report);
                prop_assert!(!comparison.to_string().is_empty());
                prop_assert!(!report.to_html().is_empty());
                prop_assert!(!report.to_string().is_empty());
                prop_assert!(!report.to_junit().is_empty());
                prop_assert!(!report.to_prometheus().is_empty());
            }
        }
    }
}
