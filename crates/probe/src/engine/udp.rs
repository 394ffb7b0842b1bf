//! Datagrams: a socket for each request, or one for all.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::{
    Active, Carrier, Context, Engine, Key, LaneState,
    recipe::Recipe,
    stream::{receive, send, would_block},
    tcp::{dns_id, judge_dns},
};
use crate::{
    cause::Cause,
    datagram, dns,
    measure::Phase,
    record::{Failure, Nanos},
    sys,
};

/// Room for replies that arrive while the engine does something else; the kernel caps it at `rmem_max`.
const RECEIVE_BUFFER: usize = 4 << 20;
/// A request that has ended, why it failed, and how far it had come.
type Ended = (Active, Option<Failure>, Phase);

/// Queries with different identifiers.
const IDS: usize = 1 << 16;

/// A socket on a source port the kernel picks. Connected, so that ICMP errors are reported to it.
fn socket(target: SocketAddr) -> io::Result<OwnedFd> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    sys::report_icmp(&socket, target.is_ipv6())?;
    rustix::net::connect(&socket, &target)?;
    Ok(socket)
}

/// One request on a source port of its own.
pub(super) struct Fresh {
    socket: OwnedFd,
    active: Active,
    run: u64,
}

impl Fresh {
    pub(super) fn carries(&self, sequence: u64) -> bool {
        self.active.sequence == sequence
    }
}

/// All requests of a lane, on one source port.
pub(super) struct Fixed {
    socket: OwnedFd,
    lane: usize,
    waiting: Waiting,
    /// Requests that are not sent yet, and their datagrams.
    queued: VecDeque<(u64, Nanos)>,
    outgoing: sys::Outgoing,
    /// Datagrams of [`Self::outgoing`] that are sent.
    sent: usize,
}

/// Requests that wait for their replies.
enum Waiting {
    /// In order of their sequence numbers, which may have holes.
    Echo { run: u64, requests: VecDeque<(u64, Option<Active>)> },
    /// By identifier; `issued` are the identifiers used so far.
    Dns { requests: Vec<Option<Active>>, by_sequence: VecDeque<(u64, u16)>, issued: u64 },
}

impl Waiting {
    fn new(kind_is_dns: bool) -> Self {
        if kind_is_dns {
            Self::Dns { requests: Vec::new(), by_sequence: VecDeque::new(), issued: 0 }
        } else {
            Self::Echo { run: RandomState::new().hash_one(0), requests: VecDeque::new() }
        }
    }

    /// Where a request is kept, if it waits.
    fn slot(&mut self, sequence: u64) -> Option<&mut Option<Active>> {
        let slot = match self {
            Self::Echo { requests, .. } => {
                let index = requests.binary_search_by_key(&sequence, |&(sequence, _)| sequence).ok()?;
                &mut requests.get_mut(index)?.1
            }
            Self::Dns { requests, by_sequence, .. } => {
                let index = by_sequence.binary_search_by_key(&sequence, |&(sequence, _)| sequence).ok()?;
                requests.get_mut(usize::from(by_sequence.get(index)?.1))?
            }
        };
        // An identifier may have been used again.
        slot.as_ref().is_some_and(|active| active.sequence == sequence).then_some(slot)
    }

    fn waits(&self, sequence: u64) -> bool {
        match self {
            Self::Echo { requests, .. } => requests
                .binary_search_by_key(&sequence, |&(sequence, _)| sequence)
                .is_ok_and(|index| requests[index].1.is_some()),
            Self::Dns { requests, by_sequence, .. } => {
                by_sequence.binary_search_by_key(&sequence, |&(sequence, _)| sequence).is_ok_and(|index| {
                    let slot = &requests[usize::from(by_sequence[index].1)];
                    slot.as_ref().is_some_and(|active| active.sequence == sequence)
                })
            }
        }
    }

    /// Takes out the request with this number.
    fn take(&mut self, sequence: u64) -> Option<Active> {
        let active = self.slot(sequence)?.take();
        self.forget_ended();
        active
    }

    /// Takes out the query with this identifier.
    fn take_id(&mut self, id: u16) -> Option<Active> {
        let Self::Dns { requests, .. } = self else { return None };
        let active = requests.get_mut(usize::from(id))?.take();
        self.forget_ended();
        active
    }

    fn take_oldest(&mut self) -> Option<Active> {
        // What has ended before the oldest is forgotten.
        let oldest = match self {
            Self::Echo { requests, .. } => requests.front()?.0,
            Self::Dns { by_sequence, .. } => by_sequence.front()?.0,
        };
        self.take(oldest)
    }

    /// Requests that have ended are forgotten from the oldest on.
    fn forget_ended(&mut self) {
        match self {
            Self::Echo { requests, .. } => {
                while requests.front().is_some_and(|(_, active)| active.is_none()) {
                    requests.pop_front();
                }
            }
            Self::Dns { requests, by_sequence, .. } => {
                while let Some(&(sequence, id)) = by_sequence.front()
                    && requests[usize::from(id)].as_ref().is_none_or(|active| active.sequence != sequence)
                {
                    by_sequence.pop_front();
                }
            }
        }
    }
}

impl Fixed {
    fn new(target: SocketAddr, lane: usize, is_dns: bool) -> io::Result<Self> {
        let socket = socket(target)?;
        if sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
        }
        Ok(Self {
            socket,
            lane,
            waiting: Waiting::new(is_dns),
            queued: VecDeque::new(),
            outgoing: sys::Outgoing::default(),
            sent: 0,
        })
    }

    pub(super) fn carries(&self, sequence: u64) -> bool {
        self.waiting.waits(sequence)
    }

    pub(super) fn overflowed(&self) -> u32 {
        sys::dropped_datagrams(&self.socket)
    }

    /// Queues a request's datagram; gives it back if there is no identifier for it.
    fn queue(&mut self, active: Active, recipe: &Recipe) -> Result<(), Active> {
        let (sequence, intended) = (active.sequence, active.intended);
        match (&mut self.waiting, recipe) {
            (Waiting::Echo { run, requests }, _) => {
                self.outgoing.push(&[datagram::request(*run, sequence).as_bytes()]);
                requests.push_back((sequence, Some(active)));
            }
            (Waiting::Dns { requests, by_sequence, issued }, Recipe::Dns { query, .. }) => {
                if requests.is_empty() {
                    requests.resize_with(IDS, || None);
                }
                // Identifiers are used in turn: a late answer then meets nobody, rather than another query.
                let free = |&number: &u64| requests[usize::from(dns_id(number))].is_none();
                let Some(number) = (*issued..*issued + IDS as u64).find(free) else {
                    return Err(active);
                };
                let id = dns_id(number);
                *issued = number + 1;
                self.outgoing.push(&[&id.to_be_bytes(), query.get(2..).unwrap_or_default()]);
                by_sequence.push_back((sequence, id));
                requests[usize::from(id)] = Some(active);
            }
            (Waiting::Dns { .. }, _) => return Err(active),
        }
        self.queued.push_back((sequence, intended));
        Ok(())
    }
}

impl Engine {
    pub(super) fn start_fresh(&mut self, mut active: Active) {
        let state = &self.lanes[active.lane];
        let run = RandomState::new().hash_one(active.sequence);
        let message = match &state.recipe {
            Recipe::Dns { query, .. } => {
                let mut message = query.clone();
                message[..2].copy_from_slice(&dns_id(active.sequence).to_be_bytes());
                message
            }
            _ => datagram::request(run, active.sequence).into_bytes(),
        };
        let key = self.carriers.reserve();
        let result = socket(state.lane.target).and_then(|socket| {
            self.context.watch(key, &socket)?;
            send(&socket, &message)?;
            Ok(socket)
        });
        match result {
            Ok(socket) => {
                active.bytes_out = message.len() as u64;
                self.expect(key, &active);
                self.carriers.put(key, Carrier::Fresh(Box::new(Fresh { socket, active, run })));
            }
            Err(error) => {
                self.carriers.free(key);
                let (failure, phase) = failure_of(&error);
                self.end(active, Some(failure), phase);
            }
        }
    }

    pub(super) fn fresh_event(&mut self, key: Key, mut fresh: Fresh) {
        let mut buffer = std::mem::take(&mut self.context.buffer);
        let state = &self.lanes[fresh.active.lane];
        let outcome = match receive(&fresh.socket, &mut buffer) {
            Ok(length) => {
                fresh.active.first_byte = Some(self.context.clock.now());
                fresh.active.bytes_in = length as u64;
                Some((judge(&buffer[..length], &self.context, state, &mut fresh.active, fresh.run), Phase::Datagram))
            }
            Err(error) if would_block(&error) => None,
            Err(error) => {
                let (failure, phase) = failure_of(&error);
                Some((Err(failure), phase))
            }
        };
        self.context.buffer = buffer;
        match outcome {
            Some((result, phase)) => {
                self.carriers.free(key);
                self.end(fresh.active, result.err(), phase);
            }
            None => self.carriers.put(key, Carrier::Fresh(Box::new(fresh))),
        }
    }

    pub(super) fn fresh_overdue(&mut self, key: Key, fresh: Fresh) {
        self.carriers.free(key);
        self.end(fresh.active, Some(Cause::NoReply.into()), Phase::Datagram);
    }

    /// Queues the request's datagram on the lane's socket, which is made by the first, so that a failure to make it is
    /// recorded like any other.
    pub(super) fn start_fixed(&mut self, active: Active) {
        let lane = active.lane;
        let state = &self.lanes[lane];
        let is_dns = state.kind.is_dns();
        let standing = state.standing.first().copied().flatten();
        let (key, mut fixed) = match standing.and_then(|key| Some((key, self.carriers.take(key)?))) {
            Some((key, Carrier::Fixed(fixed))) => (key, fixed),
            _ => {
                let key = self.carriers.reserve();
                let result = Fixed::new(state.lane.target, lane, is_dns).and_then(|fixed| {
                    self.context.watch(key, &fixed.socket)?;
                    Ok(fixed)
                });
                match result {
                    Ok(fixed) => {
                        self.lanes[lane].standing = vec![Some(key)];
                        (key, Box::new(fixed))
                    }
                    Err(error) => {
                        self.carriers.free(key);
                        let (failure, phase) = failure_of(&error);
                        return self.end(active, Some(failure), phase);
                    }
                }
            }
        };
        self.expect(key, &active);
        let refused = fixed.queue(active, &self.lanes[lane].recipe).err();
        self.carriers.put(key, Carrier::Fixed(fixed));
        if let Some(active) = refused {
            let failure = Failure::new(Cause::LocalError, "every DNS identifier waits for an answer on this port");
            self.end(active, Some(failure), Phase::Local);
        }
    }

    /// Whether datagrams of a lane wait to be sent.
    pub(super) fn has_queued(&self, lane: &LaneState) -> bool {
        lane.standing
            .first()
            .copied()
            .flatten()
            .and_then(|key| self.carriers.get(key))
            .is_some_and(|carrier| matches!(carrier, Carrier::Fixed(fixed) if !fixed.queued.is_empty()))
    }

    /// Sends the datagrams a lane has queued.
    pub(super) fn send_queued(&mut self, lane: usize) {
        let Some(key) = self.lanes[lane].standing.first().copied().flatten() else { return };
        match self.carriers.take(key) {
            Some(Carrier::Fixed(mut fixed)) => {
                let failed = self.send_fixed(&mut fixed);
                self.carriers.put(key, Carrier::Fixed(fixed));
                for (active, failure, phase) in failed {
                    self.end(active, failure, phase);
                }
            }
            Some(other) => self.carriers.put(key, other),
            None => {}
        }
    }

    fn send_fixed(&mut self, fixed: &mut Fixed) -> Vec<Ended> {
        let mut failed = Vec::new();
        let scheduled = self.lanes[fixed.lane].schedule.is_some();
        while !fixed.queued.is_empty() {
            let now = self.context.clock.now();
            match fixed.outgoing.send(&fixed.socket, fixed.sent) {
                Ok(count) => {
                    let mut lag = self.context.progress.lag();
                    for index in 0..count {
                        let Some((sequence, intended)) = fixed.queued.pop_front() else { break };
                        if scheduled {
                            lag.record_nanos(now.saturating_sub(intended));
                        }
                        // An earlier error may have settled it.
                        if let Some(active) = fixed.waiting.slot(sequence).and_then(Option::as_mut) {
                            active.sent = now;
                            active.bytes_out = fixed.outgoing.length(fixed.sent + index) as u64;
                        }
                    }
                    drop(lag);
                    fixed.sent += count;
                }
                Err(error) if would_block(&error) => break,
                // Nothing was sent: mostly because of the answer to an earlier datagram.
                Err(error) => {
                    if !fixed.settle_icmp(&mut self.context.buffer, &mut failed)
                        && let Some((sequence, _)) = fixed.queued.pop_front()
                    {
                        fixed.sent += 1;
                        let (failure, phase) = failure_of(&error);
                        failed.extend(fixed.waiting.take(sequence).map(|active| (active, Some(failure), phase)));
                    }
                }
            }
        }
        if fixed.queued.is_empty() {
            fixed.outgoing.clear();
            fixed.sent = 0;
        }
        failed
    }

    /// Hands each reply to its request. A reply that cannot be told whose it is is charged to the oldest request that
    /// waits: one event is one failure, whichever it was.
    pub(super) fn fixed_event(&mut self, key: Key, mut fixed: Box<Fixed>) {
        let mut incoming = std::mem::take(&mut self.context.incoming);
        let mut ended = Vec::new();
        loop {
            match incoming.receive(&fixed.socket) {
                Ok(count) => {
                    let state = &self.lanes[fixed.lane];
                    for index in 0..count {
                        fixed.settle(incoming.datagram(index), &self.context, state, &mut ended);
                    }
                    if count < sys::BATCH {
                        break;
                    }
                    if ended.len() >= 1024 {
                        // More will be news again only after this has been counted.
                        for (active, failure, phase) in ended.drain(..) {
                            self.end(active, failure, phase);
                        }
                    }
                }
                Err(error) if would_block(&error) => break,
                Err(error) => {
                    if !fixed.settle_icmp(&mut self.context.buffer, &mut ended)
                        && let Some(active) = fixed.waiting.take_oldest()
                    {
                        let (failure, phase) = failure_of(&error);
                        ended.push((active, Some(failure), phase));
                    }
                }
            }
        }
        self.context.incoming = incoming;
        self.carriers.put(key, Carrier::Fixed(fixed));
        for (active, failure, phase) in ended {
            self.end(active, failure, phase);
        }
    }

    pub(super) fn fixed_overdue(&mut self, key: Key, mut fixed: Box<Fixed>, sequence: u64) {
        let active = fixed.waiting.take(sequence);
        self.carriers.put(key, Carrier::Fixed(fixed));
        if let Some(active) = active {
            self.end(active, Some(Cause::NoReply.into()), Phase::Datagram);
        }
    }
}

impl Fixed {
    /// Settles the requests whose datagrams have met with ICMP errors. Whether there was any.
    fn settle_icmp(&mut self, buffer: &mut [u8], ended: &mut Vec<Ended>) -> bool {
        let mut any = false;
        while let Some((error, length)) = sys::take_icmp(&self.socket, buffer) {
            any = true;
            let datagram = &buffer[..length.min(buffer.len())];
            // An error without the datagram is charged to the oldest request, as a reply would be.
            let active = match &mut self.waiting {
                waiting @ Waiting::Dns { .. } => match dns::id(datagram) {
                    Some(id) => waiting.take_id(id),
                    None => waiting.take_oldest(),
                },
                waiting @ Waiting::Echo { .. } => match datagram::parse(datagram) {
                    Some(request) => waiting.take(request.sequence),
                    None => waiting.take_oldest(),
                },
            };
            let (failure, phase) = failure_of(&error);
            ended.extend(active.map(|active| (active, Some(failure), phase)));
        }
        any
    }

    fn settle(&mut self, reply: &[u8], context: &Context, state: &LaneState, ended: &mut Vec<Ended>) {
        let now = context.clock.now();
        let (active, failure) = match (&mut self.waiting, &state.recipe) {
            (waiting @ Waiting::Dns { .. }, Recipe::Dns { question, .. }) => {
                let Some(id) = dns::id(reply) else {
                    return self.blame_oldest(Cause::WrongReply, reply, now, ended);
                };
                match waiting.take_id(id) {
                    Some(mut active) => {
                        let result = judge_dns(reply, id, question, context, &mut active, &state.lane);
                        (active, result.err())
                    }
                    None if self.was_used(id) => return,
                    None => return self.blame_oldest(Cause::DnsIdMismatch, reply, now, ended),
                }
            }
            (waiting @ Waiting::Echo { .. }, _) => {
                let Waiting::Echo { run, .. } = *waiting else { return };
                match datagram::parse(reply) {
                    Some(parsed) if parsed.run == run => {
                        // Nobody waits for a duplicate, or for a reply that is too late and already counted.
                        let Some(mut active) = waiting.take(parsed.sequence) else { return };
                        active.server = context.server(self.lane, parsed.server.as_bytes());
                        (active, None)
                    }
                    Some(parsed) => match waiting.take(parsed.sequence) {
                        Some(active) => (active, Some(Cause::WrongReply.into())),
                        None => return self.blame_oldest(Cause::WrongReply, reply, now, ended),
                    },
                    None => return self.blame_oldest(Cause::WrongReply, reply, now, ended),
                }
            }
            (Waiting::Dns { .. }, _) => return,
        };
        let active = Active { first_byte: Some(now), bytes_in: reply.len() as u64, ..active };
        ended.push((active, failure, Phase::Datagram));
    }

    /// Whether an identifier was used lately, so that an answer with it is late or a duplicate rather than wrong.
    fn was_used(&self, id: u16) -> bool {
        /// Less than half of all, so that the others can be told from them.
        const LATELY: u64 = 1 << 14;
        let Waiting::Dns { issued, .. } = self.waiting else { return false };
        (issued.saturating_sub(LATELY)..issued).any(|number| dns_id(number) == id)
    }

    fn blame_oldest(&mut self, cause: Cause, reply: &[u8], now: Nanos, ended: &mut Vec<Ended>) {
        if let Some(active) = self.waiting.take_oldest() {
            let active = Active { first_byte: Some(now), bytes_in: reply.len() as u64, ..active };
            ended.push((active, Some(cause.into()), Phase::Datagram));
        }
    }
}

/// Judges the reply to the only request of a socket.
fn judge(reply: &[u8], context: &Context, state: &LaneState, active: &mut Active, run: u64) -> Result<(), Failure> {
    if let Recipe::Dns { question, .. } = &state.recipe {
        return judge_dns(reply, dns_id(active.sequence), question, context, active, &state.lane);
    }
    match datagram::parse(reply) {
        Some(parsed) if parsed.run == run && parsed.sequence == active.sequence => {
            active.server = context.server(active.lane, parsed.server.as_bytes());
            Ok(())
        }
        _ => Err(Cause::WrongReply.into()),
    }
}

fn failure_of(error: &io::Error) -> (Failure, Phase) {
    let cause = Cause::of_datagram(error);
    let phase = if cause == Cause::LocalError { Phase::Local } else { Phase::Datagram };
    (Failure::new(cause, error), phase)
}
