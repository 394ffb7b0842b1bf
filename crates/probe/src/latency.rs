//! Distributions of times: HDR histograms with exact extremes and sum.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Shortest time told apart; the histogram's unit is the power of two below it.
const LOWEST_NANOS: u64 = 100;
/// Longest time told apart; longer ones count as this in the quantiles.
const HIGHEST_NANOS: u64 = 600_000_000_000;

/// A distribution of times from 100 ns to ten minutes, in an HDR histogram of nanoseconds. Minimum, maximum and mean
/// are exact.
///
/// Serializes to its non-empty bins: `{"digits": 3, "count", "sum_ns", "min_ns", "max_ns", "bins": [[ns, count], ...]}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency {
    histogram: Histogram<u64>,
    sum: u128,
    min: u64,
    max: u64,
}

impl Latency {
    /// Quantiles right to one part in a thousand; about 200 KiB.
    #[must_use]
    pub fn fine() -> Self {
        Self::with_digits(3)
    }

    /// Quantiles right to 6 %; about 4 KiB.
    #[must_use]
    pub fn coarse() -> Self {
        Self::with_digits(1)
    }

    #[expect(clippy::expect_used, reason = "the bounds are constants, and every number of digits used here is allowed")]
    fn with_digits(digits: u8) -> Self {
        let histogram =
            Histogram::new_with_bounds(LOWEST_NANOS, HIGHEST_NANOS, digits.clamp(1, 4)).expect("constant bounds");
        Self { histogram, sum: 0, min: u64::MAX, max: 0 }
    }

    /// Adds a time.
    pub fn record(&mut self, time: Duration) {
        self.record_nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn record_nanos(&mut self, nanos: u64) {
        self.histogram.saturating_record(nanos);
        self.sum += u128::from(nanos);
        self.min = self.min.min(nanos);
        self.max = self.max.max(nanos);
    }

    /// Adds all times of another distribution.
    pub fn add(&mut self, other: &Self) {
        for bin in other.histogram.iter_recorded() {
            self.histogram.saturating_record_n(bin.value_iterated_to(), bin.count_at_value());
        }
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// Forgets everything.
    pub(crate) fn reset(&mut self) {
        self.histogram.reset();
        (self.sum, self.min, self.max) = (0, u64::MAX, 0);
    }

    /// Number of times.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.histogram.is_empty()
    }

    /// The shortest; `None` without any.
    #[must_use]
    pub fn min(&self) -> Option<Duration> {
        (!self.is_empty()).then(|| Duration::from_nanos(self.min))
    }

    /// The longest; `None` without any.
    #[must_use]
    pub fn max(&self) -> Option<Duration> {
        (!self.is_empty()).then(|| Duration::from_nanos(self.max))
    }

    /// The mean; `None` without any.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let mean = self.sum.checked_div(u128::from(self.count()))?;
        Some(Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX)))
    }

    /// The time that a share of `quantile` (0 to 1) does not exceed; `None` without any.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        // The bin's upper end may be over the longest time there was.
        (!self.is_empty())
            .then(|| Duration::from_nanos(self.histogram.value_at_quantile(quantile).clamp(self.min, self.max)))
    }

    /// The histogram itself, in nanoseconds, for the HDR log.
    #[must_use]
    pub const fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }
}

#[derive(Serialize, Deserialize)]
struct Form {
    digits: u8,
    count: u64,
    sum_ns: u128,
    min_ns: u64,
    max_ns: u64,
    bins: Vec<(u64, u64)>,
}

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bins = self.histogram.iter_recorded().map(|bin| (bin.value_iterated_to(), bin.count_at_value()));
        Form {
            digits: self.histogram.sigfig(),
            count: self.count(),
            sum_ns: self.sum,
            min_ns: if self.is_empty() { 0 } else { self.min },
            max_ns: self.max,
            bins: bins.collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = Form::deserialize(deserializer)?;
        if !(1..=4).contains(&form.digits) {
            return Err(D::Error::custom("a histogram has 1 to 4 digits"));
        }
        let mut latency = Self::with_digits(form.digits);
        for (nanos, count) in form.bins {
            latency.histogram.saturating_record_n(nanos, count);
        }
        if latency.count() != form.count {
            return Err(D::Error::custom("the bins of a histogram do not add up to its count"));
        }
        if !latency.is_empty() {
            if form.min_ns > form.max_ns {
                return Err(D::Error::custom("a histogram's minimum is over its maximum"));
            }
            (latency.sum, latency.min, latency.max) = (form.sum_ns, form.min_ns, form.max_ns);
        }
        Ok(latency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_and_mean_are_exact_and_quantiles_within_them() {
        let mut latency = Latency::fine();
        assert_eq!((latency.min(), latency.mean(), latency.quantile(0.5)), (None, None, None));
        for nanos in [1_000_003, 2_000_003, 6_000_003] {
            latency.record(Duration::from_nanos(nanos));
        }
        assert_eq!(latency.min(), Some(Duration::from_nanos(1_000_003)));
        assert_eq!(latency.max(), Some(Duration::from_nanos(6_000_003)));
        assert_eq!(latency.mean(), Some(Duration::from_nanos(3_000_003)));
        assert_eq!(latency.quantile(1.0), latency.max());
        assert!(latency.quantile(0.5).unwrap().as_micros().abs_diff(2_000) <= 2);
    }

    #[test]
    fn times_out_of_range_are_kept_as_extremes() {
        let mut latency = Latency::coarse();
        latency.record(Duration::ZERO);
        latency.record(Duration::from_secs(3600));
        assert_eq!((latency.min(), latency.max()), (Some(Duration::ZERO), Some(Duration::from_secs(3600))));
        assert_eq!(latency.count(), 2);
    }

    #[test]
    fn it_survives_json() {
        for empty in [Latency::fine(), Latency::coarse()] {
            let mut filled = empty.clone();
            for nanos in [1, 999, 123_456_789, 700_000_000_000] {
                filled.record_nanos(nanos);
            }
            for latency in [empty, filled] {
                let json = serde_json::to_string(&latency).unwrap();
                assert_eq!(serde_json::from_str::<Latency>(&json).unwrap(), latency, "{json}");
            }
        }
    }

    #[test]
    fn json_that_does_not_add_up_is_refused() {
        for json in [
            r#"{"digits":9,"count":0,"sum_ns":0,"min_ns":0,"max_ns":0,"bins":[]}"#,
            r#"{"digits":3,"count":2,"sum_ns":0,"min_ns":0,"max_ns":0,"bins":[[1,1]]}"#,
            r#"{"digits":3,"count":1,"sum_ns":0,"min_ns":5,"max_ns":4,"bins":[[1,1]]}"#,
        ] {
            assert!(serde_json::from_str::<Latency>(json).is_err(), "{json}");
        }
    }
}
