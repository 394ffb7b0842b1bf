//! Medians, ratios, and how they are shown.

use std::{collections::BTreeMap, fmt, thread};

use serde::Serialize;

use super::{
    kernel, median,
    subject::Kind,
    wrk::{Metric, Sample},
};

/// The samples of all rounds, in order of rounds.
#[derive(Debug, Default)]
pub(crate) struct Measurements(BTreeMap<(Metric, Kind), Vec<Sample>>);

impl Measurements {
    pub(crate) fn add(&mut self, kind: Kind, metric: Metric, sample: Sample) {
        self.0.entry((metric, kind)).or_default().push(sample);
    }

    /// The median of the ratios to another subject, each within a round.
    fn ratio(&self, metric: Metric, kind: Kind, to: Kind) -> Option<f64> {
        let (samples, others) = (self.0.get(&(metric, kind))?, self.0.get(&(metric, to))?);
        median(samples.iter().zip(others).map(|(sample, other)| sample.value / other.value))
    }
}

/// How the run was made.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Settings {
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    pub(crate) connections: u32,
}

/// The whole report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    rows: Vec<Row>,
    settings: Settings,
    /// Processors the machine has.
    processors: usize,
    kernel: String,
}

/// One subject's figure for one metric.
#[derive(Debug, Serialize)]
struct Row {
    subject: Kind,
    metric: Metric,
    /// Median over the rounds.
    value: f64,
    unit: &'static str,
    min: f64,
    max: f64,
    /// Median over the rounds of the ratio within the round.
    vs_direct: Option<f64>,
    vs_nft: Option<f64>,
    /// Median over the rounds of the 99th percentile of response times.
    p99_us: f64,
    /// Failed requests over all rounds.
    errors: u64,
    rounds: Vec<f64>,
}

impl Report {
    pub(crate) fn new(measurements: &Measurements, settings: Settings) -> Self {
        let rows = measurements
            .0
            .iter()
            .filter_map(|((metric, kind), samples)| {
                let rounds: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
                Some(Row {
                    subject: *kind,
                    metric: *metric,
                    value: median(rounds.iter().copied())?,
                    unit: metric.unit(),
                    min: rounds.iter().copied().reduce(f64::min)?,
                    max: rounds.iter().copied().reduce(f64::max)?,
                    vs_direct: measurements.ratio(*metric, *kind, Kind::Direct),
                    vs_nft: measurements.ratio(*metric, *kind, Kind::Nft),
                    p99_us: median(samples.iter().map(|sample| sample.p99_us))?,
                    errors: samples.iter().map(|sample| sample.errors).sum(),
                    rounds,
                })
            })
            .collect();
        Self { rows, settings, processors: thread::available_parallelism().map_or(1, usize::from), kernel: kernel() }
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.rows.iter().any(|row| row.errors > 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { rounds, seconds, connections } = self.settings;
        writeln!(
            formatter,
            "medians of {rounds} interleaved rounds of {seconds} s, {connections} connections, {} processors, Linux {}",
            self.processors, self.kernel
        )?;
        let mut metric = None;
        for row in &self.rows {
            if metric != Some(row.metric) {
                metric = Some(row.metric);
                writeln!(formatter, "\n{} ({})", row.metric.name(), row.unit)?;
                writeln!(
                    formatter,
                    "  {:<15} {:>10} {:>10} {:>10} {:>10} {:>8} {:>9} {:>7}",
                    "subject", "median", "min", "max", "vs direct", "vs nft", "p99 ms", "errors"
                )?;
            }
            let digits = if row.max < 100.0 { 2 } else { 0 };
            writeln!(
                formatter,
                "  {:<15} {:>10.digits$} {:>10.digits$} {:>10.digits$} {:>10} {:>8} {:>9.2} {:>7}",
                row.subject.name(),
                row.value,
                row.min,
                row.max,
                ratio(row.vs_direct),
                ratio(row.vs_nft),
                row.p99_us / 1e3,
                row.errors
            )?;
        }
        Ok(())
    }
}

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings { rounds: 3, seconds: 1, connections: 1 };

    fn sample(value: f64) -> Sample {
        Sample { value, p99_us: 1000.0, errors: 0 }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0].into_iter()), Some(3.0));
        assert_eq!(median([9.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([9.0, 1.0, 2.0, 4.0].into_iter()), Some(3.0));
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        // The machine halves its speed in the second round and doubles it in the third: the ratio stays a half.
        let mut measurements = Measurements::default();
        for (direct, nft) in [(100.0, 50.0), (50.0, 25.0), (200.0, 100.0)] {
            measurements.add(Kind::Direct, Metric::KeepaliveRps, sample(direct));
            measurements.add(Kind::Nft, Metric::KeepaliveRps, sample(nft));
        }
        let report = Report::new(&measurements, SETTINGS);
        let nft = report.rows.iter().find(|row| row.subject == Kind::Nft).unwrap();
        assert_eq!((nft.value, nft.min, nft.max), (50.0, 25.0, 100.0));
        assert_eq!((nft.vs_direct, nft.vs_nft), (Some(0.5), Some(1.0)));
    }

    #[test]
    fn the_report_names_subject_metric_value_unit_and_ratios() {
        let mut measurements = Measurements::default();
        measurements.add(Kind::EvenkeelStack, Metric::NewConnsPerSecond, sample(7.0));
        let json = serde_json::to_value(Report::new(&measurements, SETTINGS)).unwrap();
        let row = &json["rows"][0];
        assert_eq!(row["subject"], "evenkeel-stack");
        assert_eq!(row["metric"], "new_conns_per_s");
        assert_eq!(row["value"], 7.0);
        assert_eq!(row["unit"], "connections/s");
        assert!(row["vs_direct"].is_null() && row["vs_nft"].is_null());
    }

    #[test]
    fn failed_requests_are_not_hidden() {
        let mut measurements = Measurements::default();
        measurements.add(Kind::Nft, Metric::KeepaliveRps, Sample { errors: 2, ..sample(1.0) });
        let report = Report::new(&measurements, SETTINGS);
        assert!(report.has_errors());
        assert!(report.to_string().lines().last().unwrap().ends_with(" 2"), "{report}");
    }
}
