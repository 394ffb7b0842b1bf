//! Ranges of addresses, as pools give them: `192.0.2.0/24`, `192.0.2.10-192.0.2.20`, and the same for IPv6.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::Serialize;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum IpFamily {
    /// `IPv4`, as Kubernetes spells it.
    #[serde(rename = "IPv4")]
    V4,
    /// `IPv6`, as Kubernetes spells it.
    #[serde(rename = "IPv6")]
    V6,
}

impl IpFamily {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The IPv4 address that this one stands for in IPv6's notation (`::ffff:192.0.2.1`, RFC 4291 section 2.5.5.2). No packet has
/// such an address: what it names would be reached by IPv4.
pub fn mapped(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    }
}

/// An inclusive range of addresses of one family, never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpRange {
    first: IpAddr,
    last: IpAddr,
}

/// Why a text is not a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Neither a CIDR nor two addresses joined by `-`.
    #[error("`{0}` is neither a CIDR (192.0.2.0/24) nor a range (192.0.2.10-192.0.2.20)")]
    NotARange(String),
    /// The two ends belong to different families.
    #[error("the ends of `{0}` are of different address families")]
    MixedFamilies(String),
    /// The first address comes after the last one.
    #[error("`{0}` ends before it starts")]
    Reversed(String),
    /// Addresses that no interface can own: multicast, unspecified, loopback, the IPv4 broadcast address.
    #[error("`{0}` contains {1}, which cannot be a load balancer's address")]
    NotUnicast(String, IpAddr),
    /// IPv4 addresses in IPv6's notation ([`mapped`]).
    #[error("`{0}` has IPv4 addresses in IPv6's notation")]
    Mapped(String),
}

impl IpRange {
    /// The range from `first` to `last`, both included.
    ///
    /// # Errors
    /// [`RangeError`] when the families differ, the range is reversed, or it holds addresses no host can own or no packet has.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, RangeError> {
        let text = || format!("{first}-{last}");
        if first.is_ipv4() != last.is_ipv4() {
            return Err(RangeError::MixedFamilies(text()));
        }
        if first > last {
            return Err(RangeError::Reversed(text()));
        }
        let range = Self { first, last };
        match range.forbidden() {
            Some(address) if mapped(address).is_some() => Err(RangeError::Mapped(text())),
            Some(address) => Err(RangeError::NotUnicast(text(), address)),
            None => Ok(range),
        }
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// The family of all its addresses.
    pub fn family(&self) -> IpFamily {
        IpFamily::of(self.first)
    }

    /// Whether `address` is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        // `IpAddr` orders every IPv4 address before every IPv6 address, so a family never reaches into the other.
        self.first <= address && address <= self.last
    }

    /// How many addresses it has; `u128::MAX` for all of IPv6.
    pub(crate) fn len(&self) -> u128 {
        let (first, last) = self.ends();
        (last - first).saturating_add(1)
    }

    /// How many of them some networks take for broadcast or network addresses ([`is_buggy`]).
    pub(crate) fn buggy(&self) -> u128 {
        if self.family() == IpFamily::V6 {
            return 0;
        }
        let (first, last) = self.ends();
        // Below a bound, one of each 256 ends in .0 and one in .255.
        let below = |bound: u128| bound.div_ceil(256) + bound / 256;
        below(last + 1) - below(first)
    }

    fn ends(&self) -> (u128, u128) {
        let number = |address| match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)),
            IpAddr::V6(v6) => u128::from(v6),
        };
        (number(self.first), number(self.last))
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// A witness that the range reaches into addresses no host can own, or no packet has.
    fn forbidden(&self) -> Option<IpAddr> {
        let blocks: [(IpAddr, IpAddr); 7] = [
            (v4(0, 0, 0, 0), v4(0, 255, 255, 255)),
            (v4(127, 0, 0, 0), v4(127, 255, 255, 255)),
            (v4(224, 0, 0, 0), v4(239, 255, 255, 255)),
            (v4(255, 255, 255, 255), v4(255, 255, 255, 255)),
            (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into()),
            (Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().into(), Ipv4Addr::BROADCAST.to_ipv6_mapped().into()),
            (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), Ipv6Addr::from(u128::MAX).into()),
        ];
        blocks
            .into_iter()
            .map(|(first, last)| Self { first, last })
            .find(|block| self.overlaps(block))
            .map(|block| self.first.max(block.first))
    }
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    Ipv4Addr::new(a, b, c, d).into()
}

impl FromStr for IpRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let not_a_range = || RangeError::NotARange(text.to_owned());
        if let Some((first, last)) = text.split_once('-') {
            let first: IpAddr = first.trim().parse().map_err(|_| not_a_range())?;
            let last: IpAddr = last.trim().parse().map_err(|_| not_a_range())?;
            return Self::new(first, last);
        }
        // The address first by itself: it must not have leading zeros, which some read as octal.
        let (address, _) = text.trim().split_once('/').ok_or_else(not_a_range)?;
        address.parse::<IpAddr>().map_err(|_| not_a_range())?;
        let net: IpNet = text.trim().parse().map_err(|_| not_a_range())?;
        Self::new(net.network(), last_of(net))
    }
}

/// The highest address of a network, `ipnet`'s "broadcast" also where the word does not apply.
fn last_of(net: IpNet) -> IpAddr {
    net.broadcast()
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl fmt::Debug for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The address after `address`, or `None` after the last one of its family.
pub(crate) fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

/// Whether old routers and hosts are known to mistreat this address (`.0` and `.255`).
pub(crate) fn is_buggy(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if matches!(v4.octets()[3], 0 | 255))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> IpRange {
        text.parse().unwrap()
    }

    #[test]
    fn cidrs_and_ranges_are_read() {
        assert_eq!(range("10.0.0.0/30").to_string(), "10.0.0.0-10.0.0.3");
        assert_eq!(range("10.0.0.53/32").to_string(), "10.0.0.53-10.0.0.53");
        assert_eq!(range("10.0.0.7/30").to_string(), "10.0.0.4-10.0.0.7", "host bits are ignored");
        assert_eq!(range("10.0.0.5-10.0.0.9").to_string(), "10.0.0.5-10.0.0.9");
        assert_eq!(range(" 10.0.0.5 - 10.0.0.9 ").to_string(), "10.0.0.5-10.0.0.9");
        assert_eq!(range("2001:db8::/126").to_string(), "2001:db8::-2001:db8::3");
    }

    #[test]
    fn what_is_no_range_says_why() {
        let error = |text: &str| text.parse::<IpRange>().unwrap_err();
        assert!(matches!(error("10.0.0.53"), RangeError::NotARange(_)));
        assert!(matches!(error("10.0.0.0/33"), RangeError::NotARange(_)));
        assert!(matches!(error("10.0.0.010/32"), RangeError::NotARange(_)), "octal or decimal?");
        assert!(matches!(error("10.0.0.5-2001:db8::1"), RangeError::MixedFamilies(_)));
        assert!(matches!(error("10.0.0.9-10.0.0.5"), RangeError::Reversed(_)));
        assert_eq!(
            error("224.0.0.0/4"),
            RangeError::NotUnicast("224.0.0.0-239.255.255.255".to_owned(), v4(224, 0, 0, 0))
        );
        assert!(matches!(error("126.0.0.0-128.0.0.0"), RangeError::NotUnicast(_, _)));
        assert!(matches!(error("ff02::1/128"), RangeError::NotUnicast(_, _)));
        assert!(matches!(error("::/0"), RangeError::NotUnicast(_, _)));
        for text in ["::ffff:192.0.2.0/120", "::ffff:192.0.2.1-::ffff:192.0.2.9", "::fffe:ffff:ffff-2001:db8::"] {
            assert!(matches!(error(text), RangeError::Mapped(_)), "{text}");
        }
        assert_eq!(range("64:ff9b::192.0.2.0/120").to_string(), "64:ff9b::c000:200-64:ff9b::c000:2ff");
    }

    #[test]
    fn families_do_not_reach_into_each_other() {
        assert!(!range("2001:db8::/32").contains(v4(10, 0, 0, 1)));
        assert!(!range("10.0.0.0/8").overlaps(&range("2001:db8::/32")));
    }

    #[test]
    fn the_last_address_has_no_successor() {
        assert_eq!(successor(v4(255, 255, 255, 255)), None);
        assert_eq!(successor(v4(10, 0, 0, 255)), Some(v4(10, 0, 1, 0)));
        assert_eq!(successor(Ipv6Addr::from(u128::MAX).into()), None);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = text.parse::<IpRange>();
        }

        #[test]
        fn what_is_printed_is_read_back(a in 0x0a00_0000u32..0x0aff_ffff, length in 0u32..1000) {
            let first = IpAddr::from(Ipv4Addr::from_bits(a));
            let last = IpAddr::from(Ipv4Addr::from_bits(a + length));
            let original = IpRange::new(first, last).unwrap();
            prop_assert_eq!(range(&original.to_string()), original);
        }
    }
}
