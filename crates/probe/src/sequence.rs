//! The numbered bytes of a long-lived connection: what is sent, and whether it comes back once and in order.

use crate::cause::Cause;

/// Length of a record: the connection's identifier and the record's number, both big-endian.
pub(crate) const RECORD: usize = 16;

/// Bytes after which a stream without a single record of this connection is another's.
const FOREIGN: usize = 4 * RECORD;

/// The record with a number.
pub(crate) fn record(connection: u64, number: u64) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    bytes[..8].copy_from_slice(&connection.to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// What has come back on one connection.
#[derive(Debug)]
pub(crate) struct Returned {
    connection: u64,
    /// The number of the record that comes next.
    next: u64,
    /// Bytes that are not accounted for: the start of a record, or what came instead of one.
    pending: Vec<u8>,
}

impl Returned {
    pub(crate) const fn new(connection: u64) -> Self {
        Self { connection, next: 0, pending: Vec::new() }
    }

    /// Takes what has come; returns how many further records are complete and in order, and what is wrong with what
    /// follows them. The connection is of no further use then.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> (u64, Option<Cause>) {
        self.pending.extend_from_slice(bytes);
        let before = self.next;
        let mut taken = 0;
        while let Some(bytes) = self.pending.get(taken..taken + RECORD)
            && bytes == record(self.connection, self.next)
        {
            taken += RECORD;
            self.next += 1;
        }
        self.pending.drain(..taken);
        (self.next - before, self.fault())
    }

    /// What the pending bytes prove, if they are not simply the start of the next record.
    fn fault(&self) -> Option<Cause> {
        let start = &self.pending[..self.pending.len().min(RECORD)];
        if record(self.connection, self.next).starts_with(start) {
            return None;
        }
        let mut numbers = self.numbers();
        match numbers.next() {
            // The next record comes after bytes that have no place before it, or one that was here already.
            Some(number) if number <= self.next => Some(Cause::SequenceDuplicated),
            Some(_) => {
                let mut after = numbers.peekable();
                // One record more tells a swap from a loss.
                after.peek()?;
                Some(if after.any(|number| number == self.next) {
                    Cause::SequenceReordered
                } else {
                    Cause::SequenceLost
                })
            }
            None => (self.pending.len() >= FOREIGN).then_some(Cause::WrongBody),
        }
    }

    /// What a deadline that passes now means: bytes were lost if later ones have come.
    pub(crate) fn overdue(&self) -> Cause {
        if self.numbers().any(|number| number > self.next) { Cause::SequenceLost } else { Cause::ReadStall }
    }

    /// The numbers of this connection's records among the pending bytes, wherever they start.
    fn numbers(&self) -> impl Iterator<Item = u64> {
        let mut rest = &self.pending[..];
        std::iter::from_fn(move || {
            while rest.len() >= RECORD {
                if let Some(number) = rest.strip_prefix(&self.connection.to_be_bytes())
                    && let Some(number) = number.first_chunk()
                {
                    rest = &rest[RECORD..];
                    return Some(u64::from_be_bytes(*number));
                }
                rest = &rest[1..];
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: u64 = 0x1122_3344_5566_7788;

    fn stream(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|&number| record(ID, number)).collect()
    }

    fn receive(bytes: &[u8]) -> (u64, Option<Cause>) {
        Returned::new(ID).receive(bytes)
    }

    #[test]
    fn records_in_order_are_counted_however_they_are_cut() {
        let bytes = stream(&[0, 1, 2, 3]);
        for cut in 0..bytes.len() {
            let mut returned = Returned::new(ID);
            let (first, second) = (returned.receive(&bytes[..cut]), returned.receive(&bytes[cut..]));
            assert_eq!((first.0 + second.0, first.1, second.1), (4, None, None));
        }
    }

    #[test]
    fn faults_are_named() {
        assert_eq!(receive(&stream(&[0, 2, 3])), (1, Some(Cause::SequenceLost)));
        assert_eq!(receive(&stream(&[0, 0])), (1, Some(Cause::SequenceDuplicated)));
        assert_eq!(receive(&stream(&[0, 2, 1])), (1, Some(Cause::SequenceReordered)));
        assert_eq!(receive(&[b'x'; FOREIGN]), (0, Some(Cause::WrongBody)));
        assert_eq!(receive(&[stream(&[0]), stream(&[1, 2, 3])[5..].to_vec()].concat()), (1, Some(Cause::SequenceLost)));
        assert_eq!(
            receive(&[&stream(&[0])[..], &stream(&[0])[11..], &stream(&[1])].concat()),
            (1, Some(Cause::SequenceDuplicated))
        );
    }

    #[test]
    fn a_deadline_tells_loss_from_a_stall() {
        let mut returned = Returned::new(ID);
        assert_eq!(returned.receive(&stream(&[0, 2])), (1, None));
        assert_eq!(returned.overdue(), Cause::SequenceLost);
        let mut returned = Returned::new(ID);
        assert_eq!(returned.receive(&stream(&[0])[..9]), (0, None));
        assert_eq!(returned.overdue(), Cause::ReadStall);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_pass_for_records(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(receive(&bytes).0, 0);
        }
    }
}
