//! How much of a service's traffic one node lets through.

use std::num::NonZeroU32;
use std::str::FromStr;

/// Bounds of a service on each node. What is over them is refused; established flows go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Limits {
    /// `evenkeel.io/max-connections`: concurrent flows of all its frontends together.
    pub max_connections: Option<NonZeroU32>,
    /// `evenkeel.io/connection-rate` and `-burst`: new flows of all its frontends together.
    pub connection_rate: Option<ConnectionRate>,
}

impl Limits {
    /// The largest number of any of them.
    pub const MOST: u32 = 100_000_000;

    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A token bucket for new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionRate {
    /// New flows a second, in the long run.
    pub per_second: NonZeroU32,
    /// New flows at once, after a pause.
    pub burst: NonZeroU32,
}

/// New flows a second: `500` or `500/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerSecond(pub NonZeroU32);

/// Why a text is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a number of new flows a second from 1 to {most}", most = Limits::MOST)]
pub struct RateError(String);

impl FromStr for PerSecond {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let digits = text.strip_suffix("/s").unwrap_or(text).trim_end();
        let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
        let rate = digits.parse().ok().filter(|rate: &NonZeroU32| all_digits && rate.get() <= Limits::MOST);
        rate.map(Self).ok_or_else(|| RateError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_a_second() {
        for (text, rate) in [("500", 500), ("500/s", 500), ("1 /s", 1), ("100000000", 100_000_000)] {
            assert_eq!(text.parse::<PerSecond>().unwrap().0.get(), rate, "{text}");
        }
        for text in ["", "0", "-1", "+1", "1.5", "500/m", "/s", "100000001", "99999999999", "500/s/s"] {
            assert_eq!(text.parse::<PerSecond>(), Err(RateError(text.to_owned())), "{text}");
        }
    }
}
