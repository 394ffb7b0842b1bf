//! When requests are given up.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use super::slab::Key;
use crate::record::Nanos;

/// A request to be given up at some time unless it has ended by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) at: Nanos,
    /// What carries the request.
    pub(super) key: Key,
    pub(super) sequence: u64,
}

/// All deadlines. Requests that have ended are not taken out: whoever asks recognises them.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// All requests may take the same time, so nearly all deadlines come in order.
    in_order: VecDeque<Deadline>,
    others: BinaryHeap<Reverse<(Nanos, u64, u64)>>,
}

impl Deadlines {
    pub(super) fn push(&mut self, deadline: Deadline) {
        if self.in_order.back().is_none_or(|last| last.at <= deadline.at) {
            self.in_order.push_back(deadline);
        } else {
            self.others.push(Reverse((deadline.at, deadline.key.to_u64(), deadline.sequence)));
        }
    }

    /// The earliest deadline of a request that `is_open`; those of others before it are forgotten.
    pub(super) fn next(&mut self, mut is_open: impl FnMut(&Deadline) -> bool) -> Option<Nanos> {
        while self.in_order.front().is_some_and(|deadline| !is_open(deadline)) {
            self.in_order.pop_front();
        }
        let other = self.others.peek().map(|&Reverse((at, ..))| at);
        let first = self.in_order.front().map(|deadline| deadline.at);
        first.into_iter().chain(other).min()
    }

    /// Takes out a deadline that has passed.
    pub(super) fn pop(&mut self, now: Nanos) -> Option<Deadline> {
        if let Some(&Reverse((at, key, sequence))) = self.others.peek()
            && at <= now
        {
            self.others.pop();
            return Some(Deadline { at, key: Key::from_u64(key), sequence });
        }
        self.in_order.front().is_some_and(|deadline| deadline.at <= now).then(|| self.in_order.pop_front())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_pass_in_order_and_ended_requests_are_forgotten() {
        let mut deadlines = Deadlines::default();
        for (sequence, at) in [(0, 10), (1, 20), (2, 15), (3, 30)] {
            deadlines.push(Deadline { at, key: Key::from_u64(0), sequence });
        }
        assert_eq!(deadlines.next(|deadline| deadline.sequence != 0), Some(15));
        let passed: Vec<_> = std::iter::from_fn(|| deadlines.pop(25)).map(|deadline| deadline.sequence).collect();
        assert_eq!(passed, [2, 1]);
        assert_eq!(deadlines.next(|_| true), Some(30));
    }
}
