//! What backends were sent and have sent.

use evenkeel_maps::{MAX_BACKENDS, MAX_TRAFFIC_GROUPS, Traffic};

use crate::shared::Elements;

/// How processors count: in how many groups, and whether one has more than one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Groups {
    pub(crate) count: u32,
    pub(crate) is_shared: bool,
}

impl Groups {
    /// For a machine with so many processors.
    pub(crate) fn of(processors: usize) -> Self {
        let count = processors.next_power_of_two().min(MAX_TRAFFIC_GROUPS);
        Self { count: u32::try_from(count).unwrap_or(1), is_shared: processors > count }
    }

    /// Rows of their map.
    pub(crate) fn rows(self) -> usize {
        self.count as usize * MAX_BACKENDS
    }
}

/// The rows of all groups.
pub(crate) struct TrafficRows<E>(pub(crate) E);

impl<E: Elements<Traffic>> TrafficRows<E> {
    fn rows_of(&self, slot: u32) -> impl Iterator<Item = usize> + use<E> {
        (slot as usize..self.0.count()).step_by(MAX_BACKENDS)
    }

    /// What a slot's backend was sent and has sent, all processors together.
    pub(crate) fn of(&self, slot: u32) -> Traffic {
        let mut sum = Traffic::default();
        for row in self.rows_of(slot) {
            let Traffic { packets_in, bytes_in, packets_out, bytes_out } = self.0.read(row);
            sum.packets_in += packets_in;
            sum.bytes_in += bytes_in;
            sum.packets_out += packets_out;
            sum.bytes_out += bytes_out;
        }
        sum
    }

    /// Begins anew for a slot: its next backend is another one.
    pub(crate) fn forget(&mut self, slot: u32) {
        for row in self.rows_of(slot) {
            self.0.write(row, Traffic::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_does_not_grow_with_processors_beyond_eight_groups() {
        let groups = |processors| {
            let groups = Groups::of(processors);
            (groups.count, groups.is_shared)
        };
        let expected = [(1, false), (2, false), (4, false), (8, false), (8, true), (8, true)];
        assert_eq!([1, 2, 3, 8, 9, 256].map(groups), expected);
        assert_eq!(Groups::of(256).rows() * size_of::<Traffic>(), 32 << 20);
    }

    #[test]
    fn groups_are_added_up_and_forgotten_together() {
        let mut rows = TrafficRows(vec![Traffic::default(); Groups::of(4).rows()]);
        for group in 0..4 {
            rows.0[group * MAX_BACKENDS + 7] = Traffic { packets_in: 1, bytes_in: 60, packets_out: 2, bytes_out: 120 };
        }
        assert_eq!(rows.of(7), Traffic { packets_in: 4, bytes_in: 240, packets_out: 8, bytes_out: 480 });
        assert_eq!(rows.of(6), Traffic::default());
        rows.forget(7);
        assert_eq!(rows.of(7), Traffic::default());
    }
}
