//! Slow start: how a backend that was down comes back to its share of new flows.
//!
//! Caches are cold and pools of connections empty, so it is given more step by step instead of all at once.

use std::time::Duration;

/// The share of a backend that takes all that falls to it.
pub const FULL: u8 = u8::MAX;

/// Most steps: each is a change of the data plane, and more of them nobody can tell from a slope.
const MOST_STEPS: u32 = 16;
/// Shortest step.
const SHORTEST_STEP: Duration = Duration::from_millis(100);

/// The share of new flows, out of [`FULL`], this long after a backend came back. It rises in equal steps over `slow_start`,
/// is never 0, and [`FULL`] in the end.
pub fn share(elapsed: Duration, slow_start: Duration) -> u8 {
    let steps = steps(slow_start);
    let Some(step) = step(elapsed, slow_start, steps) else { return FULL };
    // The first step is one share of `steps + 1`, so that the last one is not yet the full share.
    u8::try_from(u32::from(FULL) * (step + 1) / (steps + 1)).unwrap_or(FULL).max(1)
}

/// How long after a backend came back its share changes next; `None`: it has it all.
pub fn next_step(elapsed: Duration, slow_start: Duration) -> Option<Duration> {
    let steps = steps(slow_start);
    let next = step(elapsed, slow_start, steps)? + 1;
    if next == steps {
        return Some(slow_start);
    }
    // Rounded up: a nanosecond too early, and the step would be the one before.
    Some(slow_start.saturating_mul(next) / steps + Duration::from_nanos(1))
}

fn steps(slow_start: Duration) -> u32 {
    let fitting = slow_start.as_nanos() / SHORTEST_STEP.as_nanos();
    u32::try_from(fitting).unwrap_or(MOST_STEPS).clamp(1, MOST_STEPS)
}

/// The step, from 0; `None`: it is over.
fn step(elapsed: Duration, slow_start: Duration, steps: u32) -> Option<u32> {
    if elapsed >= slow_start {
        return None;
    }
    let step = elapsed.as_nanos() * u128::from(steps) / slow_start.as_nanos();
    Some(u32::try_from(step).unwrap_or(steps).min(steps - 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_share_rises_in_equal_steps() {
        let over = Duration::from_secs(16);
        let shares: Vec<u8> = (0..=16).map(|second| share(Duration::from_secs(second), over)).collect();
        assert_eq!(shares, [15, 30, 45, 60, 75, 90, 105, 120, 135, 150, 165, 180, 195, 210, 225, 240, 255]);
    }

    #[test]
    fn without_slow_start_a_share_is_full_at_once() {
        assert_eq!(share(Duration::ZERO, Duration::ZERO), FULL);
        assert_eq!(next_step(Duration::ZERO, Duration::ZERO), None);
    }

    #[test]
    fn short_ramps_have_few_steps() {
        let over = Duration::from_millis(250);
        assert_eq!([0, 124, 126, 250].map(|ms| share(Duration::from_millis(ms), over)), [85, 85, 170, 255]);
        assert_eq!(share(Duration::ZERO, Duration::from_millis(1)), 127);
    }

    proptest! {
        #[test]
        fn it_only_rises_and_ends_full(over in 0u64..3_600_000, a in 0u64..4_000_000, b in 0u64..4_000_000) {
            let (over, a, b) = (Duration::from_millis(over), Duration::from_millis(a), Duration::from_millis(b));
            prop_assert!(share(a.min(b), over) <= share(a.max(b), over));
            prop_assert!(share(a, over) >= 1);
            prop_assert_eq!(share(a, over) == FULL, a >= over);
        }

        #[test]
        fn who_looks_at_every_step_misses_none(over in 0u64..3_600_000) {
            let over = Duration::from_millis(over);
            let (mut at, mut last, mut looks) = (Duration::ZERO, share(Duration::ZERO, over), 0);
            while let Some(next) = next_step(at, over) {
                prop_assert!(next > at);
                let before = share(next.saturating_sub(Duration::from_nanos(2)), over);
                prop_assert_eq!(before, last, "nothing changes in between");
                prop_assert!(share(next, over) > last);
                (at, last, looks) = (next, share(next, over), looks + 1);
            }
            prop_assert_eq!(last, FULL);
            prop_assert!(looks <= 16);
        }
    }
}
