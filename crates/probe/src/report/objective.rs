//! Service level objectives: what a run must have measured to pass, such as `failed=0,p99<=20ms,http:gap<=50ms`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::quantity::{Ratio, parse_duration};
use crate::{cause::Cause, config::LaneKind};

/// The objectives of a run, in the order given. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objectives(Vec<Objective>);

/// One objective: a metric, of one lane or of all, and its bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objective {
    /// The lanes it is about, by name or kind; all if `None`.
    pub lane: Option<String>,
    /// What is bounded.
    pub metric: Metric,
    /// The comparison of the measured value with the bound.
    pub comparison: Comparison,
    /// The bound; its variant fits the metric.
    pub bound: Bound,
}

/// What an objective bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Requests that failed.
    Failed,
    /// Requests that failed for one cause.
    Cause(Cause),
    /// Failures before the handshake was complete, which another backend could have served.
    Rescuable,
    /// Failures after the handshake.
    InFlight,
    /// Successes as late as a lost SYN makes them.
    Slow,
    /// Outage windows.
    Outages,
    /// The share of requests that succeeded.
    Success,
    /// The mean latency.
    Mean,
    /// The median latency.
    P50,
    /// The latency's 90th percentile.
    P90,
    /// The latency's 95th percentile.
    P95,
    /// The latency's 99th percentile.
    P99,
    /// The latency's 99.9th percentile.
    P999,
    /// The highest latency.
    Max,
    /// The longest time without a success.
    Gap,
    /// The longest outage window.
    Outage,
}

/// In what a metric is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Events.
    Count,
    /// A share, 0 to 1.
    Ratio,
    /// Milliseconds.
    Ms,
}

/// How a measured value is compared with its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<=`
    AtMost,
    /// `<`
    Below,
    /// `>=`
    AtLeast,
    /// `>`
    Above,
}

/// The bound of an objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Of a [`Unit::Count`].
    Count(u64),
    /// Of a [`Unit::Ratio`].
    Ratio(Ratio),
    /// Of a [`Unit::Ms`].
    Time(Duration),
}

/// Why objectives were refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ObjectiveError {
    /// Nothing between two commas, or nothing at all.
    #[error("an empty objective; separate objectives with one comma, such as failed=0,p99<=20ms")]
    Empty,
    /// No comparison.
    #[error("`{0}` compares nothing; write METRIC<=VALUE, such as p99<=20ms or failed=0")]
    NoComparison(String),
    /// No such metric.
    #[error("`{0}` is not a metric; there are {list}, and the causes of failures, such as refused", list = list_metrics())]
    Metric(String),
    /// Nothing before the colon.
    #[error("`{0}` names no lane before the colon; write LANE:METRIC<=VALUE, or leave the colon out for all lanes")]
    EmptyLane(String),
    /// A bound on the side that does not matter.
    #[error("{metric} is better the {better} it is: write {metric}{comparison}VALUE, not `{metric}{given}`")]
    Direction {
        /// The metric.
        metric: Metric,
        /// `lower` or `higher`.
        better: &'static str,
        /// What to write.
        comparison: Comparison,
        /// What was written.
        given: Comparison,
    },
    /// Not a count.
    #[error("{metric} is a count: `{value}` is not a whole number, such as 0")]
    Count {
        /// The metric.
        metric: Metric,
        /// What was written.
        value: String,
    },
    /// Not a share.
    #[error("{metric} is a share: `{value}` is neither a percentage, such as 99.99%, nor a number from 0 to 1")]
    Ratio {
        /// The metric.
        metric: Metric,
        /// What was written.
        value: String,
    },
    /// Not a time.
    #[error("{metric} is a time: `{value}` is not a number with a unit (us, ms, s, m), such as 20ms")]
    Time {
        /// The metric.
        metric: Metric,
        /// What was written.
        value: String,
    },
}

fn list_metrics() -> String {
    Metric::PLAIN.map(Metric::name).join(", ")
}

impl Objectives {
    /// The objectives.
    #[must_use]
    pub fn as_slice(&self) -> &[Objective] {
        &self.0
    }
}

impl Default for Objectives {
    /// `failed=0`
    fn default() -> Self {
        Self(vec![Objective {
            lane: None,
            metric: Metric::Failed,
            comparison: Comparison::Equal,
            bound: Bound::Count(0),
        }])
    }
}

impl FromStr for Objectives {
    type Err = ObjectiveError;

    fn from_str(text: &str) -> Result<Self, ObjectiveError> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl Objective {
    /// Whether it is about a lane of this name and kind.
    #[must_use]
    pub fn is_about(&self, name: &str, kind: LaneKind) -> bool {
        self.lane.as_ref().is_none_or(|lane| lane == name || lane == kind.scheme())
    }
}

impl FromStr for Objective {
    type Err = ObjectiveError;

    fn from_str(text: &str) -> Result<Self, ObjectiveError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ObjectiveError::Empty);
        }
        // From the right: a lane's name may be a target, with colons and even comparisons in its query.
        let (lane, rest) = match text.rsplit_once(':') {
            Some((lane, rest)) => (Some(lane.trim()), rest),
            None => (None, text),
        };
        if lane == Some("") {
            return Err(ObjectiveError::EmptyLane(text.to_owned()));
        }
        let at = rest.find(['<', '>', '=']).ok_or_else(|| ObjectiveError::NoComparison(text.to_owned()))?;
        let (name, rest) = rest.split_at(at);
        let name = name.trim();
        let (comparison, value) =
            Comparison::split(rest).ok_or_else(|| ObjectiveError::NoComparison(text.to_owned()))?;
        let metric = Metric::named(name).ok_or_else(|| ObjectiveError::Metric(name.to_owned()))?;
        metric.accepts(comparison)?;
        Ok(Self { lane: lane.map(str::to_owned), metric, comparison, bound: metric.bound(value.trim())? })
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(lane) = &self.lane {
            write!(f, "{lane}:")?;
        }
        write!(f, "{}{}{}", self.metric, self.comparison, self.bound)
    }
}

impl fmt::Display for Objectives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, objective) in self.0.iter().enumerate() {
            write!(f, "{}{objective}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Metric {
    /// Every metric but the causes, in the order of the documentation.
    pub const PLAIN: [Self; 15] = [
        Self::Failed,
        Self::Success,
        Self::P50,
        Self::P90,
        Self::P95,
        Self::P99,
        Self::P999,
        Self::Mean,
        Self::Max,
        Self::Gap,
        Self::Outage,
        Self::Outages,
        Self::Rescuable,
        Self::InFlight,
        Self::Slow,
    ];

    /// The metric of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let causes = Cause::ALL.into_iter().map(Self::Cause);
        Self::PLAIN.into_iter().chain(causes).find(|metric| metric.name() == name)
    }

    /// The name used on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Cause(cause) => cause.name(),
            Self::Rescuable => "rescuable",
            Self::InFlight => "in_flight",
            Self::Slow => "slow",
            Self::Outages => "outages",
            Self::Success => "success",
            Self::Mean => "mean",
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::P999 => "p999",
            Self::Max => "max",
            Self::Gap => "gap",
            Self::Outage => "outage",
        }
    }

    /// In what it is counted.
    #[must_use]
    pub const fn unit(self) -> Unit {
        match self {
            Self::Failed | Self::Cause(_) | Self::Rescuable | Self::InFlight | Self::Slow | Self::Outages => {
                Unit::Count
            }
            Self::Success => Unit::Ratio,
            Self::Mean
            | Self::P50
            | Self::P90
            | Self::P95
            | Self::P99
            | Self::P999
            | Self::Max
            | Self::Gap
            | Self::Outage => Unit::Ms,
        }
    }

    fn accepts(self, given: Comparison) -> Result<(), ObjectiveError> {
        let lower_is_better = self.unit() != Unit::Ratio;
        let accepted = match given {
            // Two measured times are never equal.
            Comparison::Equal => self.unit() != Unit::Ms,
            Comparison::AtMost | Comparison::Below => lower_is_better,
            Comparison::AtLeast | Comparison::Above => !lower_is_better,
        };
        if accepted {
            return Ok(());
        }
        let (better, comparison) =
            if lower_is_better { ("lower", Comparison::AtMost) } else { ("higher", Comparison::AtLeast) };
        Err(ObjectiveError::Direction { metric: self, better, comparison, given })
    }

    fn bound(self, value: &str) -> Result<Bound, ObjectiveError> {
        let refused = || value.to_owned();
        match self.unit() {
            Unit::Count => {
                value.parse().map(Bound::Count).map_err(|_| ObjectiveError::Count { metric: self, value: refused() })
            }
            Unit::Ratio => Ratio::parse(value)
                .map(Bound::Ratio)
                .ok_or_else(|| ObjectiveError::Ratio { metric: self, value: refused() }),
            Unit::Ms => parse_duration(value)
                .map(Bound::Time)
                .ok_or_else(|| ObjectiveError::Time { metric: self, value: refused() }),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| D::Error::custom(format_args!("`{name}` is not a metric")))
    }
}

impl Comparison {
    const ALL: [Self; 5] = [Self::AtMost, Self::AtLeast, Self::Below, Self::Above, Self::Equal];

    /// The comparison at the start of a text, and what follows it.
    fn split(text: &str) -> Option<(Self, &str)> {
        // The longer ones come first in ALL.
        Self::ALL.into_iter().find_map(|one| Some((one, text.strip_prefix(one.symbol())?)))
    }

    const fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::AtMost => "<=",
            Self::Below => "<",
            Self::AtLeast => ">=",
            Self::Above => ">",
        }
    }

    /// Whether `value` stands to `bound` as this says.
    pub(super) fn holds<T: PartialOrd>(self, value: &T, bound: &T) -> bool {
        match self {
            Self::Equal => value == bound,
            Self::AtMost => value <= bound,
            Self::Below => value < bound,
            Self::AtLeast => value >= bound,
            Self::Above => value > bound,
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.symbol())
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Ratio(ratio) => write!(f, "{ratio}"),
            Self::Time(time) => f.write_str(&super::quantity::exact_duration(*time)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Objectives, ObjectiveError> {
        text.parse()
    }

    #[test]
    fn the_documented_forms_parse_and_print_as_written() {
        for text in [
            "failed=0,p99<=20ms,gap<=50ms",
            "success>=99.99%",
            "http:p999<1.5s",
            "tcp://10.0.0.1:80:max<=100us",
            "tcp://[2001:db8::1]:80:outage<=1m",
            "refused=0,in_flight=0,rescuable<=3,slow=0,outages<2,mean<=1ms",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Objectives::default().to_string(), "failed=0");
        assert_eq!(parse(" failed = 0 , success >= 0.5 ").unwrap().to_string(), "failed=0,success>=50%");
    }

    #[test]
    fn errors_say_what_to_write() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert!(error("").contains("such as failed=0"), "{}", error(""));
        assert!(error("failed=0,,").contains("one comma"));
        assert!(error("p99 20ms").contains("write METRIC<=VALUE"));
        assert!(error("p98<=1ms").contains("there are failed, success, p50"));
        assert!(error("p99>=20ms").contains("write p99<=VALUE, not `p99>=`"), "{}", error("p99>=20ms"));
        assert!(error("p99=20ms").contains("lower"));
        assert!(error("success<=99%").contains("write success>=VALUE"));
        assert!(error("failed<=1.5").contains("whole number"));
        assert!(error("failed=-1").contains("whole number"));
        assert!(error("success>=99.99").contains("99.99%"), "{}", error("success>=99.99"));
        assert!(error("p99<=20").contains("unit"));
        assert!(error(":p99<=20ms").contains("names no lane"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,60}") {
            if let Ok(objectives) = parse(&text) {
                prop_assert_eq!(parse(&objectives.to_string()), Ok(objectives));
            }
        }

        #[test]
        fn whatever_parses_prints_as_what_it_is(
            lane in proptest::option::of("[a-z][a-z0-9:/.\\[\\]-]{0,10}[a-z]"),
            metric in 0..Metric::PLAIN.len(),
            comparison in 0..Comparison::ALL.len(),
            value in "[0-9]{1,6}(\\.[0-9]{1,4})?(%|us|ms|s|m)?",
        ) {
            let lane = lane.map(|lane| lane + ":").unwrap_or_default();
            let text = format!("{lane}{}{}{value}", Metric::PLAIN[metric], Comparison::ALL[comparison]);
            if let Ok(objectives) = parse(&text) {
                prop_assert_eq!(parse(&objectives.to_string()), Ok(objectives));
            }
        }
    }
}
