//! When a lane's requests are due.

use crate::{
    config::{Config, Rate},
    record::Nanos,
};

const SECOND: Nanos = 1_000_000_000;

/// An open lane's schedule: equally spaced times from an offset on.
#[derive(Debug)]
pub(super) struct Schedule {
    offset: Nanos,
    rate: u64,
}

impl Schedule {
    /// When request number `sequence` is due, since the start of the run; `None` if that is not before `end`.
    pub(super) fn due(&self, sequence: u64, end: Nanos) -> Option<Nanos> {
        // Computed from the number each time, so that rounding does not add up.
        let whole = (sequence / self.rate).saturating_mul(SECOND);
        let part = sequence % self.rate * SECOND / self.rate;
        Some(self.offset.saturating_add(whole).saturating_add(part)).filter(|&due| due < end)
    }
}

/// Lanes are offset against each other, so that equal rates do not start all their requests at the same moment. `None`
/// for a lane in a closed loop.
pub(super) fn schedules(config: &Config) -> Vec<Option<Schedule>> {
    let lanes = config.lanes.len() as u64;
    (0..lanes)
        .zip(&config.lanes)
        .map(|(index, lane)| match lane.rate {
            Rate::PerSecond(rate) => {
                let rate = u64::from(rate.get());
                Some(Schedule { offset: SECOND / rate * index / lanes, rate })
            }
            Rate::Max { .. } => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_even_and_ends() {
        let schedule = Schedule { offset: 1_000_000, rate: 3 };
        let due = (0..).map_while(|sequence| schedule.due(sequence, 2 * SECOND)).map(|due| due / 1000);
        assert_eq!(due.collect::<Vec<_>>(), [1_000, 334_333, 667_666, 1_001_000, 1_334_333, 1_667_666]);
    }

    #[test]
    fn a_schedule_does_not_overflow() {
        let schedule = Schedule { offset: SECOND, rate: u32::MAX.into() };
        assert!(schedule.due(u64::MAX, u64::MAX).is_some());
        let slow = Schedule { offset: 0, rate: 1 };
        assert_eq!(slow.due(u64::MAX, u64::MAX), None);
    }
}
