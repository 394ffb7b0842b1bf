//! The hashes by which both sides find their place: the programs on every packet, user space when it looks after the
//! flow table.

use crate::{Address, WATCHED_BITS, flow::WAYS};

/// An odd constant with well spread bits, the fractional part of the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes one word into a hash: a multiplication carries every bit upwards, the shift brings the upper bits back down.
#[inline(always)]
#[must_use]
pub const fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(GOLDEN);
    product ^ (product >> 32)
}

/// Where a hash leads in a table of buckets with two choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The bucket tried first.
    pub first: u32,
    /// The other one.
    pub second: u32,
    /// The way in a flow bucket that is tried before all others.
    pub way: u32,
    /// Tells entries of a bucket apart; neither zero nor one.
    pub tag: u32,
}

/// The place of `hash` among `buckets`.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "parts of the hash")]
pub const fn place(hash: u64, buckets: u32) -> Place {
    let low = hash as u32;
    // A multiplication and a shift spread 32 bits evenly over any number of buckets, without a division.
    let first = ((hash >> 32) * buckets as u64) >> 32;
    // Of all bits, not of the tag's alone: or what has one tag would have one second bucket, and could not be told apart there.
    let second = ((hash.wrapping_mul(GOLDEN) >> 32) * buckets as u64) >> 32;
    Place { first: first as u32, second: second as u32, way: low & (WAYS as u32 - 1), tag: low | 2 }
}

/// The bit of an address in the map of watched addresses.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "twenty bits")]
pub const fn address_bit(address: &Address) -> u32 {
    const BITS: u32 = (WATCHED_BITS as u32).trailing_zeros();
    let [first, second] = address.halves();
    (mix(first, second).wrapping_mul(GOLDEN) >> (64 - BITS)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_spread_over_any_number_of_buckets() {
        const BUCKETS: u32 = 1000;
        let mut counts = [0_u32; BUCKETS as usize];
        for word in 0..100_000 {
            let place = place(mix(mix(7, word), word << 40), BUCKETS);
            counts[place.first as usize] += 1;
            assert!(place.second < BUCKETS && place.tag > 1);
        }
        assert!(counts.iter().all(|count| (50..160).contains(count)), "{counts:?}");
    }

    /// Of a million flows, some hundred share their tag with another.
    #[test]
    fn what_has_one_tag_does_not_meet_in_the_second_bucket() {
        const BUCKETS: u32 = 1000;
        let mut taken = [false; BUCKETS as usize];
        for word in 0..1000 {
            let hash = mix(7, word) & !u64::from(u32::MAX) | 0x1234_5678;
            taken[place(hash, BUCKETS).second as usize] = true;
        }
        let distinct = taken.iter().filter(|taken| **taken).count();
        assert!(distinct > 550, "{distinct} of some 630");
    }

    #[test]
    fn neighbouring_addresses_have_different_bits() {
        let mut seen = [false; WATCHED_BITS];
        let mut collisions = 0;
        for last in 0..=255 {
            for other in 0..40 {
                let bit = address_bit(&Address::v4([10, 0, other, last])) as usize;
                collisions += u32::from(std::mem::replace(&mut seen[bit], true));
            }
        }
        assert!(collisions < 200, "{collisions} of 10,240");
    }

    extern crate std;
}
