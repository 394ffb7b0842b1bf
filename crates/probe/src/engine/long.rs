//! Long-lived connections: numbered records that must come back once and in order.

use std::{collections::VecDeque, os::fd::OwnedFd};

use super::{
    Active, Context, Engine,
    stream::{News, receive, send, would_block},
    tcp::{Ended, Step},
};
use crate::{
    cause::Cause,
    record::{Failure, Nanos, ServerId, nanos},
    sequence::{RECORD, Returned, record},
};

/// Longest line with which a server names itself.
const MAX_LINE: usize = 1024;

/// A long-lived connection's requests.
pub(super) struct Session {
    /// Tells this connection's records from any other's.
    id: u64,
    /// The line with which the server names itself, until it is complete.
    banner: Option<Vec<u8>>,
    returned: Returned,
    /// Requests that have not ended, and those given up whose records may still come back, in the order of their
    /// records.
    sent: VecDeque<Option<Active>>,
    /// Requests whose records are not written yet: before the server has named itself, or for want of room.
    queued: VecDeque<Active>,
    /// Records that are to be written.
    outgoing: VecDeque<u8>,
    next: u64,
    /// When something came back last, once a request has been given up.
    silent_since: Option<Nanos>,
}

impl Session {
    pub(super) fn new(sequence: u64) -> Self {
        use std::hash::{BuildHasher, RandomState};
        let id = RandomState::new().hash_one(sequence);
        Self {
            id,
            banner: Some(Vec::new()),
            returned: Returned::new(id),
            sent: VecDeque::new(),
            queued: VecDeque::new(),
            outgoing: VecDeque::new(),
            next: 0,
            silent_since: None,
        }
    }

    pub(super) fn queue(&mut self, active: Active) {
        self.queued.push_back(active);
    }

    pub(super) fn carries(&self, sequence: u64) -> bool {
        self.sent.iter().flatten().chain(&self.queued).any(|active| active.sequence == sequence)
    }

    pub(super) fn first_request(&mut self) -> Option<&mut Active> {
        self.queued.front_mut()
    }

    pub(super) fn take_requests(&mut self) -> Vec<Active> {
        self.sent.drain(..).flatten().chain(self.queued.drain(..)).collect()
    }

    /// A request's deadline has passed. The connection is kept, since what is late may still come, until it has been
    /// silent for another timeout.
    pub(super) fn give_up(
        &mut self,
        sequence: u64,
        default: Cause,
        context: &Context,
    ) -> (Option<Active>, Failure, bool) {
        let now = context.clock.now();
        let cause = if default == Cause::ReadStall { self.returned.overdue() } else { default };
        let silent_since = *self.silent_since.get_or_insert(now);
        let dead = now.saturating_sub(silent_since) >= nanos(context.config.timeout);
        let waiting = self.sent.iter_mut().find(|slot| slot.as_ref().is_some_and(|active| active.sequence == sequence));
        let active = match waiting {
            Some(slot) => slot.take(),
            None => {
                let position = self.queued.iter().position(|active| active.sequence == sequence);
                position.and_then(|position| self.queued.remove(position))
            }
        };
        (active, cause.into(), cause == Cause::ReadStall && !dead)
    }

    pub(super) fn advance(
        &mut self,
        socket: &OwnedFd,
        context: &mut Context,
        lane: usize,
        server: &mut Option<ServerId>,
        news: News,
        ended: &mut Vec<Ended>,
    ) -> Step {
        let result = self.exchange(socket, context, lane, server, news, ended);
        match result {
            Ok(()) => Step::Wait,
            Err(failure) => {
                context.progress.lanes[lane].lock().break_connection();
                for mut active in self.take_requests() {
                    active.server = *server;
                    ended.push(Ended { active, failure: Some(failure.clone()) });
                }
                Step::Close
            }
        }
    }

    fn exchange(
        &mut self,
        socket: &OwnedFd,
        context: &mut Context,
        lane: usize,
        server: &mut Option<ServerId>,
        news: News,
        ended: &mut Vec<Ended>,
    ) -> Result<(), Failure> {
        if news.readable {
            self.read(socket, context, lane, server, news, ended)?;
        }
        if self.banner.is_none() {
            while let Some(mut active) = self.queued.pop_front() {
                self.outgoing.extend(record(self.id, self.next));
                self.next += 1;
                active.bytes_out = RECORD as u64;
                self.sent.push_back(Some(active));
            }
        }
        while !self.outgoing.is_empty() {
            match send(socket, self.outgoing.make_contiguous()) {
                Ok(length) => drop(self.outgoing.drain(..length)),
                Err(error) if would_block(&error) => break,
                Err(error) => return Err(Failure::new(Cause::of_stream(&error), error)),
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        socket: &OwnedFd,
        context: &mut Context,
        lane: usize,
        server: &mut Option<ServerId>,
        news: News,
        ended: &mut Vec<Ended>,
    ) -> Result<(), Failure> {
        loop {
            let length = match receive(socket, &mut context.buffer) {
                Ok(0) => return Err(Cause::EarlyEof.into()),
                Ok(length) => length,
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) => return Err(Failure::new(Cause::of_stream(&error), error)),
            };
            self.silent_since = None;
            let mut bytes = &context.buffer[..length];
            if let Some(banner) = &mut self.banner {
                let end = bytes.iter().position(|&byte| byte == b'\n');
                banner.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
                if banner.len() > MAX_LINE {
                    return Err(Failure::new(Cause::WrongBody, "the line is too long"));
                }
                let Some(end) = end else { continue };
                *server = context.server(lane, banner);
                self.banner = None;
                bytes = &bytes[end + 1..];
            }
            let now = context.clock.now();
            let (records, fault) = self.returned.receive(bytes);
            for _ in 0..records {
                if let Some(mut active) = self.sent.pop_front().flatten() {
                    active.first_byte = Some(now);
                    active.bytes_in = RECORD as u64;
                    active.server = *server;
                    ended.push(Ended { active, failure: None });
                }
            }
            if let Some(cause) = fault {
                return Err(cause.into());
            }
            if length < context.buffer.len() && !news.closed {
                return Ok(());
            }
        }
    }
}

impl Engine {
    /// Requests take turns on the lane's connections; one that is not open is opened.
    pub(super) fn start_long(&mut self, active: Active) {
        let lane = active.lane;
        let slots = self.lanes[lane].standing.len() as u64;
        let slot = usize::try_from(active.sequence % slots.max(1)).unwrap_or(0);
        if let Some(key) = self.lanes[lane].standing[slot]
            && let Some(connection) = self.take_connection(key)
        {
            self.add_request(key, connection, active);
            return;
        }
        let key = self.open(active);
        // It may have failed already.
        self.lanes[lane].standing[slot] = key.filter(|&key| self.carriers.get(key).is_some());
    }
}
