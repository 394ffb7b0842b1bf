//! What a service lets in.

use aya_ebpf::btf_maps::lpm_trie::Key;
use evenkeel_maps::{Address, Frontend, Outcome, SourceRange, since, ticks};

use crate::{
    atomic,
    flows::Found,
    maps::{BACKENDS, FRONTENDS, LIMITS, SOURCE_RANGES},
};

/// No more time than this fills a bucket at once.
const DAY: u64 = 24 * 3600 * ticks::SECOND as u64;

/// Whether one of the frontend's source ranges holds the client.
#[inline(never)]
pub fn is_in_range(frontend: u32, client: &Address) -> bool {
    let key = Key::new(SourceRange::FRONTEND_BITS + 128, SourceRange { frontend, address: client.0 });
    match SOURCE_RANGES.get(&key) {
        Some(range) => *range != SourceRange::IPV6 || !client.is_v4(),
        None => false,
    }
}

/// Whether the row of the limits map allows one more at this moment, and, if it `stays`, one more flow.
#[inline(never)]
pub fn admit(row: u32, stays: bool, now: u32) -> Result<(), Outcome> {
    let Some(limit) = LIMITS.get_ptr_mut(row) else { return Ok(()) };
    // SAFETY: the memory is the map's for good; what several CPUs change is changed atomically.
    let limit = unsafe { &mut *limit };
    if stays && limit.flows != 0 && limit.present >= limit.flows {
        return Err(Outcome::DropConnectionLimit);
    }
    if limit.rate != 0 && !take_token(&mut limit.bucket, limit.rate, limit.burst, now) {
        return Err(Outcome::DropConnectionRate);
    }
    Ok(())
}

/// Counts a flow that was recorded.
#[inline(always)]
pub fn count(row: u32) {
    if let Some(limit) = LIMITS.get_ptr_mut(row) {
        // SAFETY: the memory is the map's for good, and aligned.
        unsafe { atomic::add(&raw mut (*limit).present, 1) };
    }
}

/// Notes what may end a limited flow, and counts it no more if it did. What ends otherwise, user space finds when it counts.
#[inline(never)]
pub fn note_end(found: &Found, bits: u8) {
    let flow = found.flow();
    let had_ended = flow.is_closed();
    found.note(bits);
    if had_ended || !flow.is_closed() {
        return;
    }
    let Some(backend) = BACKENDS.get(found.backend) else { return };
    // SAFETY: user space replaces entries as a whole.
    let Some(frontend) = (unsafe { FRONTENDS.get(backend.frontend) }) else { return };
    if frontend.flags & Frontend::LIMITED == 0 {
        return;
    }
    let Some(limit) = LIMITS.get_ptr_mut(frontend.limit) else { return };
    // SAFETY: the memory is the map's for good, and aligned. Who loses against another CPU leaves it to user space.
    unsafe {
        let present = (*limit).present;
        if present != 0 {
            atomic::exchange(&raw mut (*limit).present, present, present - 1);
        }
    }
}

/// A token bucket. Of two CPUs that take the last token at once, both may get it.
#[inline(always)]
fn take_token(bucket: &mut u64, rate: u32, burst: u32, now: u32) -> bool {
    const TOKEN: u64 = 1000;
    const SECOND: u64 = ticks::SECOND as u64;
    let before = *bucket;
    let (then, tokens) = ((before >> 32) as u32, before & 0xffff_ffff);
    // What came in since, in thousandths, without an overflow. Another CPU may have been here a tick later.
    let mut span = since(then, now) as u64;
    if span > DAY {
        span = DAY;
    }
    let full = burst as u64 * TOKEN;
    let rate = rate as u64;
    let came = if span > 10 * SECOND { span * rate / SECOND * TOKEN } else { span * rate * TOKEN / SECOND };
    let mut tokens = tokens + came;
    if tokens > full || before == 0 {
        tokens = full;
    }
    if tokens < TOKEN {
        return false;
    }
    let seen = if span == 0 && before != 0 { then } else { now };
    let after = (seen as u64) << 32 | (tokens - TOKEN);
    // SAFETY: aligned.
    unsafe { atomic::exchange(bucket, before, after) };
    true
}
