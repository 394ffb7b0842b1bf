//! Durations as Go writes them, such as `90s`, `1m30s` or `1.5h`.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DurationError {
    #[error("it is no duration")]
    Form,
    #[error("it needs a unit")]
    Unit,
    #[error("it is negative")]
    Negative,
    #[error("it is too long")]
    Range,
}

const UNITS: [(&str, u128); 8] = [
    // The longer of two that start alike comes first.
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// What `time.ParseDuration` of Go accepts: numbers with a unit each, possibly with fractions; `0` needs no unit.
pub(super) fn parse(text: &str) -> Result<Duration, DurationError> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    if unsigned.is_empty() {
        return Err(DurationError::Form);
    }
    let mut nanoseconds: u128 = 0;
    let mut rest = unsigned;
    while !rest.is_empty() {
        let (value, after) = term(rest)?;
        nanoseconds = nanoseconds.checked_add(value).ok_or(DurationError::Range)?;
        rest = after;
    }
    if text.starts_with('-') && nanoseconds > 0 {
        return Err(DurationError::Negative);
    }
    // Go keeps nanoseconds in 63 bits.
    let nanoseconds = i64::try_from(nanoseconds).ok().and_then(|nanoseconds| u64::try_from(nanoseconds).ok());
    nanoseconds.map(Duration::from_nanos).ok_or(DurationError::Range)
}

/// A number with its unit in nanoseconds, and what follows.
fn term(text: &str) -> Result<(u128, &str), DurationError> {
    let (whole, rest) = digits(text);
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), digits);
    if whole.is_empty() && fraction.is_empty() {
        return Err(DurationError::Form);
    }
    let (unit, rest) = UNITS
        .iter()
        .find_map(|(name, unit)| rest.strip_prefix(name).map(|rest| (*unit, rest)))
        .ok_or(if rest.is_empty() { DurationError::Unit } else { DurationError::Form })?;
    let number = |digits: &str| if digits.is_empty() { Ok(0) } else { digits.parse::<u64>().map(u128::from) };
    let whole = number(whole).map_err(|_| DurationError::Range)?;
    // What is below a nanosecond is dropped; 18 digits are more than that even of hours.
    let fraction = fraction.get(..18).unwrap_or(fraction);
    let scale = u32::try_from(fraction.len()).ok().and_then(|length| 10_u128.checked_pow(length));
    let part = number(fraction).map_err(|_| DurationError::Range)? * unit / scale.ok_or(DurationError::Range)?;
    let value = whole.checked_mul(unit).and_then(|whole| whole.checked_add(part)).ok_or(DurationError::Range)?;
    Ok((value, rest))
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, milliseconds) in [
            ("0", 0),
            ("0s", 0),
            ("-0s", 0),
            ("90s", 90_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("1.s", 1_000),
            ("+3s", 3_000),
            ("300ms", 300),
            ("1000us", 1),
            ("1000µs", 1),
            ("1m0.25s", 60_250),
            ("0.000000000000000000000000001h", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_says_why() {
        for (text, error) in [
            ("", DurationError::Form),
            ("s", DurationError::Form),
            ("90", DurationError::Unit),
            ("90 s", DurationError::Form),
            ("1d", DurationError::Form),
            ("1m30", DurationError::Unit),
            (".s", DurationError::Form),
            ("-3s", DurationError::Negative),
            ("99999999999999999999s", DurationError::Range),
            ("9999999999s", DurationError::Range),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(milliseconds in 0u64..10_000_000_000) {
            let (hours, rest) = (milliseconds / 3_600_000, milliseconds % 3_600_000);
            let (minutes, rest) = (rest / 60_000, rest % 60_000);
            let text = format!("{hours}h{minutes}m{}.{:03}s", rest / 1000, rest % 1000);
            prop_assert_eq!(parse(&text), Ok(Duration::from_millis(milliseconds)));
        }

        #[test]
        fn reading_never_panics(text in "[-+]?[0-9.hmsunµ ]{0,40}|\\PC*") {
            let _ = parse(&text);
        }
    }
}
