//! Arithmetic of the Internet checksum (RFC 1071, RFC 1624). Words are read as they lie in memory: the ones' complement
//! sum does not depend on byte order.

use aya_ebpf::helpers::generated::bpf_csum_diff;
use evenkeel_maps::Address;

/// The difference that replacing `old` by `new` makes to a sum.
#[inline(always)]
pub fn difference(old: u32, new: u32) -> u64 {
    (!old) as u64 + new as u64
}

/// The difference for two bytes at an even offset.
#[inline(always)]
pub fn difference_16(old: [u8; 2], new: [u8; 2]) -> u64 {
    (!u16::from_ne_bytes(old)) as u64 + u16::from_ne_bytes(new) as u64
}

/// The difference for an address, as it is written in a header of its family.
#[inline(always)]
pub fn difference_address(ipv6: bool, old: &Address, new: &Address) -> u64 {
    let (old, new) = (old.quarters(), new.quarters());
    let mut sum = difference(old[3], new[3]);
    if ipv6 {
        sum += difference(old[0], new[0]) + difference(old[1], new[1]) + difference(old[2], new[2]);
    }
    sum
}

/// Folds a sum of fewer than 2^16 words to 32 bits, which is what helpers take.
#[inline(always)]
pub fn fold_32(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// Folds a sum to 16 bits.
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = fold_32(sum);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A checksum after its data have changed by `difference`.
#[inline(always)]
pub fn update(checksum: [u8; 2], difference: u64) -> [u8; 2] {
    update_word(u16::from_ne_bytes(checksum), difference).to_ne_bytes()
}

/// The same for a checksum as one word.
#[inline(always)]
pub fn update_word(checksum: u16, difference: u64) -> u16 {
    !fold((!checksum) as u64 + fold_32(difference) as u64)
}

/// The sum over an address.
#[inline(always)]
pub fn sum_address(address: &Address) -> u64 {
    let [a, b, c, d] = address.quarters();
    a as u64 + b as u64 + c as u64 + d as u64
}

/// The sum over a structure in the packet. Its size is a multiple of four.
#[inline(always)]
pub fn sum_of<T>(data: *mut T) -> u64 {
    const { assert!(size_of::<T>().is_multiple_of(4)) }
    // SAFETY: the verifier has seen that the structure lies inside the packet.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, data.cast(), size_of::<T>() as u32, 0) as u32 as u64 }
}

/// The sum over words outside the packet, from 1 to 128 of them.
#[inline(always)]
pub fn sum_of_words(data: *mut u32, words: u32) -> u64 {
    // SAFETY: the verifier has seen that so many lie inside a map's value.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, data, words * 4, 0) as u32 as u64 }
}
