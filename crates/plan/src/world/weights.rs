//! Weights: how much a backend takes beside the others.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::range::mapped;

/// How many new flows a backend takes in proportion to the others of its frontend: 0 to 100. With 0 it takes none while
/// another backend has a weight; established flows stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u8);

impl Weight {
    /// No new flows.
    pub const NONE: Self = Self(0);
    /// The weight of a backend that is given none.
    pub const ONE: Self = Self(1);
    /// The largest weight.
    pub const MOST: u8 = 100;

    /// This weight, unless it is over [`Self::MOST`].
    pub fn new(weight: u8) -> Option<Self> {
        (weight <= Self::MOST).then_some(Self(weight))
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Weight {
    type Err = WeightsError;

    fn from_str(text: &str) -> Result<Self, WeightsError> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let weight = text.parse().ok().filter(|_| digits).and_then(Self::new);
        weight.ok_or_else(|| WeightsError::NotAWeight(text.to_owned()))
    }
}

/// The annotation `evenkeel.io/weights` of a Service: `10.1.0.1=3, node/worker-2=0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// Of the backends with these addresses.
    pub addresses: BTreeMap<IpAddr, Weight>,
    /// Of the backends on these nodes, unless their address has a weight of its own.
    pub nodes: BTreeMap<String, Weight>,
}

impl Weights {
    /// The weight a backend is given, if any.
    pub fn of(&self, address: IpAddr, node: Option<&str>) -> Option<Weight> {
        self.addresses.get(&address).or_else(|| self.nodes.get(node?)).copied()
    }
}

/// What is wrong with a text that is to give weights.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// Not a number from 0 to 100.
    #[error("`{0}` is not a whole number from 0 to 100")]
    NotAWeight(String),
    /// No `=`.
    #[error("`{0}` is not of the form ADDRESS=WEIGHT or node/NAME=WEIGHT")]
    NotAPair(String),
    /// Neither an address nor `node/` and a name.
    #[error("`{0}` is neither an address nor node/NAME")]
    NobodysWeight(String),
    /// An IPv4 address in IPv6's notation, which no endpoint has.
    #[error("`{0}` is an IPv4 address in IPv6's notation")]
    Mapped(IpAddr),
    /// Twice the same.
    #[error("`{0}` is given two weights")]
    Twice(String),
}

impl WeightsError {
    /// The reason's name in diagnostics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotAWeight(_) | Self::NotAPair(_) => "invalid_weight",
            Self::NobodysWeight(_) | Self::Mapped(_) => "invalid_weight_target",
            Self::Twice(_) => "duplicate_weight",
        }
    }
}

impl FromStr for Weights {
    type Err = WeightsError;

    fn from_str(text: &str) -> Result<Self, WeightsError> {
        let mut weights = Self::default();
        for pair in text.split(',').map(str::trim) {
            let (whose, weight) = pair.split_once('=').ok_or_else(|| WeightsError::NotAPair(pair.to_owned()))?;
            let whose = whose.trim();
            let weight = weight.trim().parse()?;
            let before = match (whose.strip_prefix("node/"), whose.parse()) {
                (Some(node), _) if !node.is_empty() => weights.nodes.insert(node.to_owned(), weight),
                (None, Ok(address)) if mapped(address).is_some() => return Err(WeightsError::Mapped(address)),
                (None, Ok(address)) => weights.addresses.insert(address, weight),
                (Some(_), _) | (None, Err(_)) => return Err(WeightsError::NobodysWeight(whose.to_owned())),
            };
            if before.is_some() {
                return Err(WeightsError::Twice(whose.to_owned()));
            }
        }
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_by_address_before_node() {
        let weights: Weights = "10.1.0.1=3, fd00::1 = 0,node/a=100".parse().unwrap();
        let of = |address: &str, node| weights.of(address.parse().unwrap(), node).map(Weight::get);
        assert_eq!(of("10.1.0.1", Some("a")), Some(3));
        assert_eq!(of("fd00::1", None), Some(0));
        assert_eq!(of("10.1.0.2", Some("a")), Some(100));
        assert_eq!(of("10.1.0.2", Some("b")), None);
    }

    #[test]
    fn what_is_no_weight_is_named() {
        let error = |text: &str| text.parse::<Weights>().unwrap_err();
        assert_eq!(error("10.1.0.1=101"), WeightsError::NotAWeight("101".to_owned()));
        for text in ["10.1.0.1=", "10.1.0.1=-1", "10.1.0.1=+1", "10.1.0.1=1.5", "10.1.0.1=1=2"] {
            assert_eq!(error(text).reason(), "invalid_weight", "{text}");
        }
        for text in ["", "10.1.0.1", "10.1.0.1=1,", ",10.1.0.1=1"] {
            assert!(matches!(error(text), WeightsError::NotAPair(_)), "{text}");
        }
        for text in ["web=1", "node/=1", "10.1.0.0/24=1", "10.1.0.1:80=1", "=1", "::ffff:10.1.0.1=1"] {
            assert_eq!(error(text).reason(), "invalid_weight_target", "{text}");
        }
        for text in ["10.1.0.1=1,10.1.0.1=1", "fd00::1=1,fd00:0::1=2", "node/a=1,node/a=1"] {
            assert_eq!(error(text).reason(), "duplicate_weight", "{text}");
        }
    }
}
