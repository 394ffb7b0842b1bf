//! Atomic changes of words that several CPUs and user space share.
//!
//! The compiler does not offer `core`'s atomic types for this target, because the oldest kernels cannot exchange; those since
//! 5.12 can, and the instructions are the same that the types would use.

use core::intrinsics::{AtomicOrdering, atomic_and, atomic_cxchg, atomic_or, atomic_xadd};

const RELAXED: AtomicOrdering = AtomicOrdering::Relaxed;

/// Writes `new` if the word is `old`; whether it was.
///
/// # Safety
/// `word` is aligned and inside a map's value.
#[inline(always)]
pub unsafe fn exchange<T: Copy>(word: *mut T, old: T, new: T) -> bool {
    // SAFETY: as promised by the caller; so below.
    unsafe { atomic_cxchg::<T, RELAXED, RELAXED>(word, old, new).1 }
}

/// Adds to a word.
///
/// # Safety
/// `word` is aligned and inside a map's value.
#[inline(always)]
pub unsafe fn add<T: Copy>(word: *mut T, value: T) {
    unsafe { atomic_xadd::<T, T, RELAXED>(word, value) };
}

/// Adds one to a word, and returns what it was.
///
/// # Safety
/// `word` is aligned and inside a map's value.
#[inline(always)]
pub unsafe fn count(word: *mut u32) -> u32 {
    // With a relaxed order the compiler takes the instruction that does not fetch, and hands back what was added.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::AcqRel }>(word, 1) }
}

/// Sets bits of a word.
///
/// # Safety
/// `word` is aligned and inside a map's value.
#[inline(always)]
pub unsafe fn set_bits(word: *mut u32, bits: u32) {
    unsafe { atomic_or::<u32, u32, RELAXED>(word, bits) };
}

/// Clears bits of a word.
///
/// # Safety
/// `word` is aligned and inside a map's value.
#[inline(always)]
pub unsafe fn clear_bits(word: *mut u32, bits: u32) {
    unsafe { atomic_and::<u32, u32, RELAXED>(word, !bits) };
}
