//! Words of a packet, wherever they lie.
//!
//! An IP header begins fourteen bytes into a frame, so its words are not aligned. The compiler believes that this target cannot
//! reach such words, and would take each one apart into bytes; the kernel translates for processors that can.

use core::arch::asm;

macro_rules! word {
    ($read:ident, $write:ident, $type:ty, $name:literal) => {
        /// Reads a word at `OFFSET` of `at`, in the byte order of memory.
        ///
        /// # Safety
        /// The word lies inside data whose bounds have been checked.
        #[inline(always)]
        pub unsafe fn $read<const OFFSET: usize>(at: *const u8) -> $type {
            let value: u64;
            // SAFETY: as promised by the caller; so below.
            unsafe {
                asm!(
                    concat!("{value} = *(", $name, " *)({at} + {offset})"),
                    at = in(reg) at,
                    value = lateout(reg) value,
                    offset = const OFFSET,
                    options(nostack, preserves_flags, readonly),
                );
            }
            value as $type
        }

        /// Writes a word at `OFFSET` of `at`.
        ///
        /// # Safety
        /// The word lies inside data whose bounds have been checked.
        #[inline(always)]
        pub unsafe fn $write<const OFFSET: usize>(at: *mut u8, value: $type) {
            unsafe {
                asm!(
                    concat!("*(", $name, " *)({at} + {offset}) = {value}"),
                    at = in(reg) at,
                    value = in(reg) value as u64,
                    offset = const OFFSET,
                    options(nostack, preserves_flags),
                );
            }
        }
    };
}

word!(read_16, write_16, u16, "u16");
word!(read_32, write_32, u32, "u32");
word!(read_64, write_64, u64, "u64");

/// The same number, of which the compiler knows nothing and which it takes for used: what it has found out itself it would not
/// check, and the verifier may want to see it checked.
#[inline(always)]
pub fn unknown(mut number: u32) -> u32 {
    // SAFETY: it does nothing.
    unsafe { asm!("{0} = {0}", inout(reg) number, options(nomem, nostack, preserves_flags)) };
    number
}
