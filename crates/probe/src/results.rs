//! Results of single requests, handed out while the run goes on without ever holding it up.

use std::{sync::mpsc, vec};

use crate::measure::RequestResult;

/// Results handed over at once: a queue of single ones would wake its reader for each.
const BATCH: usize = 256;

/// The results of a run, in the order the requests ended; made by [`crate::Prober::results`].
///
/// Waits for the next while the run goes on and ends with it. The queue is bounded: a reader that is too slow misses
/// results, and [`crate::measure::Measurement::results_dropped`] says how many.
#[derive(Debug)]
pub struct Results {
    receiver: mpsc::Receiver<Vec<RequestResult>>,
    batch: vec::IntoIter<RequestResult>,
}

impl Iterator for Results {
    type Item = RequestResult;

    fn next(&mut self) -> Option<RequestResult> {
        loop {
            if let Some(result) = self.batch.next() {
                return Some(result);
            }
            self.batch = self.receiver.recv().ok()?.into_iter();
        }
    }
}

/// The prober's end of the queue.
#[derive(Debug)]
pub(crate) struct Sink {
    sender: mpsc::SyncSender<Vec<RequestResult>>,
    batch: Vec<RequestResult>,
    dropped: u64,
}

/// A queue for about `capacity` results.
pub(crate) fn queue(capacity: usize) -> (Sink, Results) {
    let (sender, receiver) = mpsc::sync_channel(capacity.div_ceil(BATCH).max(1));
    let sink = Sink { sender, batch: Vec::with_capacity(BATCH), dropped: 0 };
    (sink, Results { receiver, batch: Vec::new().into_iter() })
}

impl Sink {
    pub(crate) fn push(&mut self, result: RequestResult) {
        self.batch.push(result);
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    /// Hands over what there is.
    pub(crate) fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        if let Err(mpsc::TrySendError::Full(batch) | mpsc::TrySendError::Disconnected(batch)) =
            self.sender.try_send(batch)
        {
            self.dropped += batch.len() as u64;
        }
    }

    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::Phase;

    fn result(sequence: u64) -> RequestResult {
        RequestResult {
            lane: 0,
            sequence,
            intended: Duration::ZERO,
            sent: Duration::ZERO,
            first_byte: None,
            end: Duration::ZERO,
            cause: None,
            phase: Phase::Datagram,
            error: None,
            server: None,
            code: None,
            bytes_in: 0,
            bytes_out: 0,
            retransmits: None,
            retried: false,
        }
    }

    #[test]
    fn results_come_in_order_and_end() {
        let (mut sink, results) = queue(10_000);
        for sequence in 0..1000 {
            sink.push(result(sequence));
        }
        sink.flush();
        assert_eq!(sink.dropped(), 0);
        drop(sink);
        assert!(results.map(|result| result.sequence).eq(0..1000));
    }

    #[test]
    fn a_slow_reader_misses_results_and_they_are_counted() {
        let (mut sink, results) = queue(BATCH * 2);
        for sequence in 0..1000 {
            sink.push(result(sequence));
        }
        sink.flush();
        let dropped = sink.dropped();
        drop(sink);
        assert!(dropped > 0);
        assert_eq!(results.count() as u64 + dropped, 1000);
    }
}
