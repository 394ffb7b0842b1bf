//! Writing the next flow's frame.
//!
//! A flow is a number. Its low 15 bits are the port less 32,768, the rest is added to the varying address; the order in
//! which flows come is a permutation of their numbers, so that neither caches nor the hash of a table meet neighbours one
//! after the other. All else is the template that user space puts into the globals before it loads the programs.
#![expect(unsafe_code, reason = "packet data and globals that the loader writes are reached through raw pointers")]

use core::{arch::asm, ptr::read_volatile};

use aya_ebpf::{btf_maps::Array, macros::btf_map};

/// Words of the longest frame: IPv6, with room to spare.
pub(crate) const LONGEST: usize = 10;

/// The frame, with the varying half of the address, the varying port and the checksums zero. Bytes as on the wire.
#[unsafe(no_mangle)]
static FRAME: [u64; LONGEST] = [0; LONGEST];
/// Ones' complement sums of what the two checksums cover, for the frame as it stands above; in the byte order of a load.
#[unsafe(no_mangle)]
static HEADER_SUM: u32 = 0;
#[unsafe(no_mangle)]
static TRANSPORT_SUM: u32 = 0;
/// Offset of the low half of the address that varies, of the port that varies and of the transport checksum.
#[unsafe(no_mangle)]
static ADDRESS_AT: u32 = 0;
#[unsafe(no_mangle)]
static PORT_AT: u32 = 0;
#[unsafe(no_mangle)]
static CHECKSUM_AT: u32 = 0;
/// Logarithm of the number of flows: 0, or 2 to 31.
#[unsafe(no_mangle)]
static FLOW_BITS: u32 = 0;

/// Frames written so far. User space sets it to choose the flow to begin with.
#[btf_map]
static FED: Array<u64, 1> = Array::new();

/// Offset of the IPv4 header's checksum.
const IPV4_CHECKSUM_AT: usize = 24;

/// Writes the next flow's frame of `WORDS` words over the packet between `start` and `end`. `None`: the packet is
/// shorter, or the template is no such frame.
#[inline(always)]
pub(crate) fn feed<const WORDS: usize, const IS_IPV4: bool>(start: usize, end: usize) -> Option<()> {
    if start + WORDS * size_of::<u64>() > end {
        return None;
    }
    let fed = FED.get_ptr_mut(0)?;
    // SAFETY: one thread feeds at a time.
    let flow = permuted(unsafe { *fed } as u32);
    let address = ((flow >> 15) as u16).to_be();
    let port = (0x8000 | (flow & 0x7fff) as u16).to_be();
    for word in 0..WORDS {
        // SAFETY: within the bounds checked above; packets need no alignment.
        unsafe { (start as *mut u64).add(word).write_unaligned(read_volatile(&raw const FRAME[word])) };
    }
    // SAFETY: globals; the loader has set them.
    let (address_at, port_at, checksum_at, header, transport) = unsafe {
        (
            read_volatile(&raw const ADDRESS_AT) as usize,
            read_volatile(&raw const PORT_AT) as usize,
            read_volatile(&raw const CHECKSUM_AT) as usize,
            read_volatile(&raw const HEADER_SUM),
            read_volatile(&raw const TRANSPORT_SUM),
        )
    };
    put::<WORDS>(start, address_at, address)?;
    put::<WORDS>(start, port_at, port)?;
    if IS_IPV4 {
        put::<WORDS>(start, IPV4_CHECKSUM_AT, checksum(header + address as u32))?;
    }
    let sum = checksum(transport + address as u32 + port as u32);
    // RFC 768: an all-zero checksum means that there is none. For TCP both forms are right.
    put::<WORDS>(start, checksum_at, if sum == 0 { u16::MAX } else { sum })?;
    // SAFETY: adds one to a value of the map. The locked instruction also waits until everything above has reached the
    // cache: a frame from a device is there when its program starts, and reads wider than the writes above would
    // otherwise wait in the program under measurement.
    unsafe { asm!("lock *(u64 *)({fed} + 0) += {one}", fed = in(reg) fed, one = in(reg) 1_u64) };
    Some(())
}

/// Writes two bytes at a constant offset.
#[inline(always)]
fn put<const WORDS: usize>(start: usize, at: usize, value: u16) -> Option<()> {
    if at + size_of::<u16>() > WORDS * size_of::<u64>() {
        return None;
    }
    // SAFETY: within the frame, whose bounds `feed` has checked.
    unsafe { ((start + at) as *mut u16).write_unaligned(value) };
    Some(())
}

/// The checksum for a sum, RFC 1071.
#[inline(always)]
fn checksum(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum + (sum >> 16)) as u16)
}

/// The flow that comes in this place: a permutation of the numbers below two to the power of [`FLOW_BITS`], of
/// multiplications by odd numbers and shifted differences, each of which can be undone.
#[inline(always)]
fn permuted(place: u32) -> u32 {
    // SAFETY: a global; the loader has set it.
    let bits = unsafe { read_volatile(&raw const FLOW_BITS) };
    let mask = (1_u32 << (bits & 31)) - 1;
    let shift = if bits < 2 { 1 } else { (bits / 2) & 31 };
    let mut flow = place & mask;
    flow = flow.wrapping_mul(0x9e37_79b1) & mask;
    flow ^= flow >> shift;
    flow = flow.wrapping_mul(0x85eb_ca6b) & mask;
    flow ^ (flow >> shift)
}
