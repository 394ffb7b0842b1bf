//! Shares and times as people write and read them.

use std::{fmt, time::Duration};

/// A share from 0 to 1, exact to 12 decimal places: 99.99 % of 10,000 must be 9,999, whatever a float makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio(u64);

impl Ratio {
    const ONE: u64 = 1_000_000_000_000;

    /// Reads `99.99%` or `0.9999`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (number, one) = match text.strip_suffix('%') {
            Some(number) => (number.trim_end(), Self::ONE / 100),
            None => (text, Self::ONE),
        };
        decimal(number, one).filter(|&value| value <= Self::ONE).map(Self)
    }

    /// Whether `part` of `whole` is less than, equal to or more than this share.
    pub(super) fn compare(self, part: u64, whole: u64) -> std::cmp::Ordering {
        (u128::from(part) * u128::from(Self::ONE)).cmp(&(u128::from(self.0) * u128::from(whole)))
    }

    /// As a number from 0 to 1.
    #[must_use]
    pub fn share(self) -> f64 {
        self.0 as f64 / Self::ONE as f64
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const PERCENT: u64 = Ratio::ONE / 100;
        let fraction = format!("{:010}", self.0 % PERCENT);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{}{point}{fraction}%", self.0 / PERCENT)
    }
}

/// A decimal number in multiples of `1 / one`, if it is one exactly.
fn decimal(text: &str, one: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || text.ends_with('.') {
        return None;
    }
    let mut value = whole.parse::<u64>().ok()?.checked_mul(one)?;
    let mut place = one;
    for digit in fraction.trim_end_matches('0').bytes() {
        if !place.is_multiple_of(10) {
            return None;
        }
        place /= 10;
        value = value.checked_add(place.checked_mul(u64::from(digit - b'0'))?)?;
    }
    Some(value)
}

/// The units of time, the longest first.
const UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Reads a decimal number with a unit, such as `1.5s`, exact to the nanosecond.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.')?);
    let unit = if unit == "µs" { "us" } else { unit };
    let (_, nanos) = UNITS.into_iter().find(|(name, _)| *name == unit.trim_start())?;
    decimal(number, nanos).map(Duration::from_nanos)
}

/// A time as [`parse_duration`] reads it, without loss.
pub(super) fn exact_duration(duration: Duration) -> String {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if nanos == 0 {
        return "0s".to_owned();
    }
    // The longest unit in which it is a number people would write; nanoseconds always are one.
    UNITS
        .into_iter()
        .find_map(|(name, unit)| {
            let thousandths = (u128::from(nanos) * 1000).checked_div(unit.into())?;
            let exact = (u128::from(nanos) * 1000) % u128::from(unit) == 0;
            let (whole, fraction) = (thousandths / 1000, thousandths % 1000);
            let fraction = format!("{fraction:03}");
            let fraction = fraction.trim_end_matches('0');
            let point = if fraction.is_empty() { "" } else { "." };
            (exact && whole > 0).then(|| format!("{whole}{point}{fraction}{name}"))
        })
        .unwrap_or_else(|| format!("{nanos}ns"))
}

/// A time in milliseconds the way vegeta prints it: Go's notation (`1m0s`, `2.409s`, `87.815ms`, `65µs`), rounded to
/// the next smaller unit.
pub(super) fn go_duration(ms: f64) -> String {
    const MINUTE: u64 = 60_000_000_000;
    let nanos = Duration::try_from_secs_f64(ms.max(0.0) / 1e3).unwrap_or(Duration::MAX).as_nanos();
    let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
    let unit = UNITS.into_iter().position(|(_, unit)| nanos >= unit);
    let Some(unit) = unit else { return "0s".to_owned() };
    let step = UNITS.get(unit + 1).map_or(1, |&(_, step)| step);
    let rounded = nanos.saturating_add(step / 2) / step * step;
    if rounded >= MINUTE {
        let (minutes, rest) = (rounded / MINUTE, rounded % MINUTE);
        let hours = if minutes >= 60 { format!("{}h", minutes / 60) } else { String::new() };
        return format!("{hours}{}m{}s", minutes % 60, rest / 1_000_000_000);
    }
    let (name, unit) = UNITS.into_iter().find(|&(_, unit)| rounded >= unit).unwrap_or(("ns", 1));
    let fraction = format!("{:09}", u128::from(rounded % unit) * 1_000_000_000 / u128::from(unit));
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{}{point}{fraction}{}", rounded / unit, if name == "us" { "µs" } else { name })
}

/// A share as a percentage with two decimals, rounded so that it is 100 % or 0 % only when it is exactly that.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 || part == 0 {
        return "0.00%".to_owned();
    }
    if part >= whole {
        return "100.00%".to_owned();
    }
    let exact = part as f64 / whole as f64 * 100.0;
    // As many decimals as it takes to tell it from all or nothing.
    (2..=9)
        .map(|decimals| format!("{exact:.decimals$}"))
        .find(|text| !text.starts_with("100") && text.bytes().any(|byte| (b'1'..=b'9').contains(&byte)))
        .map_or_else(|| "0.00%".to_owned(), |text| text + "%")
}

/// Digits in groups of three.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_are_exact() {
        let ratio = Ratio::parse("99.99%").unwrap();
        assert_eq!(ratio.compare(9_999, 10_000), std::cmp::Ordering::Equal);
        assert_eq!(ratio.compare(9_998, 10_000), std::cmp::Ordering::Less);
        assert_eq!(Ratio::parse("0.9999"), Some(ratio));
        assert_eq!(ratio.to_string(), "99.99%");
        for refused in ["", "%", "1.", ".5", "1e-3", "-1", "100.01%", "1.01", "0.1234567890123"] {
            assert_eq!(Ratio::parse(refused), None, "{refused}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(parse_duration("20 ms"), Some(Duration::from_millis(20)));
        assert_eq!(parse_duration("3µs"), Some(Duration::from_micros(3)));
        for refused in ["", "20", "ms", "1.5.5s", "1d", "99999999999h", "-1s"] {
            assert_eq!(parse_duration(refused), None, "{refused}");
        }
    }

    #[test]
    fn vegetas_durations() {
        for (ms, text) in [
            (60_002.9, "1m0s"),
            (59_990.4, "59.99s"),
            (87.815, "87.815ms"),
            (866.673, "866.673ms"),
            (2_409.0, "2.409s"),
            (10_003.4, "10.003s"),
            (0.065_4, "65.4µs"),
            (0.000_5, "500ns"),
            (3_725_000.0, "1h2m0s"),
            (0.0, "0s"),
            (999.999_9, "1s"),
        ] {
            assert_eq!(go_duration(ms), text, "{ms}");
        }
    }

    #[test]
    fn percentages_do_not_hide_a_failure() {
        assert_eq!(percent(291_806, 299_988), "97.27%");
        assert_eq!(percent(10, 10), "100.00%");
        assert_eq!(percent(299_999, 300_000), "99.9997%");
        assert_eq!(percent(1, 300_000), "0.0003%");
        assert_eq!(percent(0, 10), "0.00%");
    }

    #[test]
    fn grouped_digits() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }

    proptest! {
        #[test]
        fn a_printed_duration_is_read_back(nanos in 0..=u64::MAX / 4) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&exact_duration(duration)), Some(duration));
        }

        #[test]
        fn a_printed_share_is_read_back(value in 0..=Ratio::ONE) {
            prop_assert_eq!(Ratio::parse(&Ratio(value).to_string()), Some(Ratio(value)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,30}") {
            _ = (Ratio::parse(&text), parse_duration(&text));
        }

        #[test]
        fn any_number_is_a_duration(ms in proptest::num::f64::ANY) {
            prop_assert!(!go_duration(ms).is_empty());
        }
    }
}
