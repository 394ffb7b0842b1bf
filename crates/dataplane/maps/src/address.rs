//! Addresses of either family.

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An IPv6 address, or an IPv4 address in its IPv6 form (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2), in network byte order:
/// one kind of key serves both families.
#[repr(C, align(8))]
#[derive(Clone, Copy, Eq, Hash, PartialOrd, Ord)]
#[expect(clippy::derived_hash_with_manual_eq, clippy::derive_ord_xor_partial_ord, reason = "equal are the same bytes")]
pub struct Address(pub [u8; 16]);

impl PartialEq for Address {
    /// Word by word: bytes would be loaded one by one, and the verifier would follow a branch at each.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let ([a, b], [c, d]) = (self.halves(), other.halves());
        (a ^ c) | (b ^ d) == 0
    }
}

impl Address {
    /// `::`.
    pub const ZERO: Self = Self([0; 16]);

    /// An IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        let [a, b, c, d] = bytes;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// An IPv4 address from its four bytes as one native word.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u32) -> Self {
        let [a, b, c, d] = word.to_ne_bytes();
        let [e, f, g, h] = [0, 0, 0xff, 0xff];
        Self::from_halves([0, u64::from_ne_bytes([e, f, g, h, a, b, c, d])])
    }

    /// An address from its two native words, as they lie in memory.
    #[inline(always)]
    #[must_use]
    #[expect(unsafe_code, reason = "two stores, where bytes would be taken apart one by one")]
    pub const fn from_halves(halves: [u64; 2]) -> Self {
        // SAFETY: the same size, and every bit pattern is valid.
        unsafe { core::mem::transmute(halves) }
    }

    /// The bytes of an IPv4 address; meaningless for an IPv6 address.
    #[inline(always)]
    #[must_use]
    pub const fn low(&self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }

    /// The address as four native words, as they lie in memory.
    #[inline(always)]
    #[must_use]
    #[expect(unsafe_code, reason = "one load a word, where bytes would be put together one by one")]
    pub const fn quarters(&self) -> [u32; 4] {
        // SAFETY: the same size, and every bit pattern is valid.
        unsafe { core::mem::transmute(*self) }
    }

    /// The address as two native words, as they lie in memory.
    #[inline(always)]
    #[must_use]
    #[expect(unsafe_code, reason = "as above")]
    pub const fn halves(&self) -> [u64; 2] {
        // SAFETY: as above.
        unsafe { core::mem::transmute(*self) }
    }

    /// The address in the form that people write.
    #[must_use]
    pub const fn ip(&self) -> IpAddr {
        Ipv6Addr::from_octets(self.0).to_canonical()
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        let [first, second, third, _] = self.quarters();
        first | second == 0 && third == u32::from_ne_bytes([0, 0, 0xff, 0xff])
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.ip(), f)
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::v4(address.octets())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        Self(address.octets())
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => address.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_keep_their_form() {
        for text in ["10.0.0.1", "2001:db8::1", "::"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Address::from(ip).ip(), ip);
            assert_eq!(Address::from(ip).is_v4(), ip.is_ipv4());
        }
        let v4 = Address::v4([10, 0, 0, 1]);
        assert_eq!(v4.low(), [10, 0, 0, 1]);
        assert_eq!(Address::from_word(u32::from_ne_bytes(v4.low())), v4);
        assert_eq!(Address::from_halves(v4.halves()), v4);
    }
}
