//! How long to wait before the next try.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// Waits that double, each shortened by up to half at random so that many who failed together do not return together.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// From `first` to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// How long to wait now; `random` is any number.
    pub fn wait(&mut self, random: u64) -> Duration {
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(self.most);
        shortened(wait, random)
    }

    /// It went well.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A time between half of this and all of it.
pub fn shortened(time: Duration, random: u64) -> Duration {
    const STEPS: u32 = 1024;
    let step = u32::try_from(random % u64::from(STEPS)).unwrap_or_default();
    time - time / 2 * step / STEPS
}

/// A number nobody can tell in advance; the standard library seeds its hash maps with such.
pub fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let waits: Vec<u64> = (0..5).map(|_| backoff.wait(0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(backoff.wait(0).as_secs(), 1);
    }

    #[test]
    fn chance_takes_away_up_to_half() {
        let time = Duration::from_secs(8);
        assert_eq!(shortened(time, 512), Duration::from_secs(6));
        for random in 0..2000 {
            let shortened = shortened(time, random);
            assert!(shortened <= time && shortened * 2 >= time, "{random}: {shortened:?}");
        }
    }
}
