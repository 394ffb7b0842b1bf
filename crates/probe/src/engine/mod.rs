//! The engine: one thread, one epoll instance, and a state machine for every connection.
//!
//! Starting a request must cost as little as sending it, or the prober is slower than what it measures. So there is no
//! task per request: requests are started when they are due, whatever the kernel has news of is carried on, and
//! deadlines that have passed are settled, round and round on one thread.

mod deadlines;
mod h2;
mod line;
mod long;
mod recipe;
mod schedule;
mod slab;
mod stream;
mod tcp;
mod tls;
mod udp;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use rustix::{
    event::{EventfdFlags, Timespec, epoll, eventfd},
    io::Errno,
};

pub use self::tls::TlsError;
use self::{
    deadlines::{Deadline, Deadlines},
    recipe::Recipe,
    schedule::Schedule,
    slab::{Key, Slab},
};
use crate::{
    cause::Cause,
    config::{Config, Lane, LaneKind, Rate},
    measure::{InvalidReason, Measurement, Phase},
    record::{Code, Done, Failure, Nanos, Progress, ServerId, nanos},
    results::Sink,
    sys,
};

/// Whether a lane's TLS servers can be verified as asked for.
pub(crate) fn check_tls(lane: &Lane) -> Result<(), TlsError> {
    tls::Client::new(lane).map(drop)
}

/// Requests of a lane started before the kernel is asked for news: answers must not wait for long either.
const BURST: usize = 64;
/// News taken from the kernel at once.
const EVENTS: usize = 256;
/// Bytes read at once, by all connections in turn.
const READ_BUFFER: usize = 64 << 10;
/// How long before a request is due the engine stops sleeping: waking up takes about as long.
const SPIN: Nanos = 15_000;
/// How often results are handed over at least.
const FLUSH: Nanos = 100_000_000;

/// How long after its end a run still starts requests that were due before it.
const CATCH_UP: Nanos = 1_000_000_000;

/// The token of the event that stops the run; keys never reach it.
const STOP: u64 = u64::MAX;

/// Stops a run from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Stopper(Arc<OwnedFd>);

impl Stopper {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Starts no further request.
    pub(crate) fn stop(&self) {
        // Fails only if the run has been stopped 2^64 times.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// A request under way.
#[derive(Debug)]
struct Active {
    lane: usize,
    sequence: u64,
    intended: Nanos,
    sent: Nanos,
    first_byte: Option<Nanos>,
    server: Option<ServerId>,
    code: Option<Code>,
    bytes_in: u64,
    bytes_out: u64,
    handshake: Option<Nanos>,
    retransmits: Option<u32>,
    retried: bool,
}

/// What carries requests.
enum Carrier {
    Tcp(Box<tcp::Connection>),
    Fresh(Box<udp::Fresh>),
    Fixed(Box<udp::Fixed>),
}

/// A lane while the run goes on.
struct LaneState {
    kind: LaneKind,
    lane: Lane,
    schedule: Option<Schedule>,
    /// Number of the next request.
    next: u64,
    /// Requests that a closed loop may start.
    credit: u32,
    /// TCP connections end with RST.
    reset: bool,
    recipe: Recipe,
    /// Kept connections without a request; the one used last is used next, so a burst's spare ones age out.
    idle: Vec<Key>,
    /// The connections of the long-lived kind, those of HTTP/2, and the socket of the fixed kinds.
    standing: Vec<Option<Key>>,
}

/// A clock that counts from the start of the run.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> Nanos {
        nanos(self.0.elapsed())
    }
}

/// Everything a carrier needs to carry on: the engine without the carriers and lanes.
struct Context {
    epoll: OwnedFd,
    clock: Clock,
    config: Config,
    progress: Arc<Progress>,
    sink: Option<Sink>,
    deadlines: Deadlines,
    in_flight: usize,
    buffer: Vec<u8>,
    incoming: sys::Incoming,
    /// Datagrams lost in the prober's own buffers.
    overflowed: u64,
}

pub(crate) struct Engine {
    context: Context,
    carriers: Slab<Carrier>,
    lanes: Vec<LaneState>,
    started: SystemTime,
}

/// How long a run lasts.
struct Run {
    /// No request is due from here on.
    end: Nanos,
    /// The end, once no further request is started.
    ended: Option<Nanos>,
    /// Requests that were due have not been started.
    behind: bool,
}

impl Engine {
    pub(crate) fn new(config: Config, progress: Arc<Progress>, sink: Option<Sink>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let schedules = schedule::schedules(&config);
        let lanes = config
            .lanes
            .iter()
            .zip(schedules)
            .map(|(lane, schedule)| {
                let credit = match lane.rate {
                    Rate::PerSecond(_) => 0,
                    Rate::Max { connections } => connections.get(),
                };
                let standing = match lane.kind {
                    LaneKind::TcpLong => lane.options.connections.get() as usize,
                    LaneKind::UdpFixed | LaneKind::DnsFixed => 1,
                    _ => 0,
                };
                LaneState {
                    kind: lane.kind,
                    lane: lane.clone(),
                    schedule,
                    next: 0,
                    credit,
                    reset: config.close.resets(lane, config.duration),
                    recipe: Recipe::new(lane),
                    idle: Vec::new(),
                    standing: vec![None; standing],
                }
            })
            .collect();
        let (start, started) = (Instant::now(), SystemTime::now());
        progress.start(start);
        let context = Context {
            epoll,
            clock: Clock(start),
            config,
            progress,
            sink,
            deadlines: Deadlines::default(),
            in_flight: 0,
            buffer: vec![0; READ_BUFFER],
            incoming: sys::Incoming::default(),
            overflowed: 0,
        };
        Ok(Self { context, carriers: Slab::default(), lanes, started })
    }

    /// Starts requests until the duration is over or `stopper` says so, and waits for the last of them.
    pub(crate) fn run(mut self, stopper: &Stopper) -> io::Result<Measurement> {
        // The kernel would otherwise bundle wake-ups that are up to 50 µs apart.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        epoll::add(&self.context.epoll, &stopper.0, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        let mut events = Vec::with_capacity(EVENTS);
        let mut run = Run { end: nanos(self.context.config.duration), ended: None, behind: false };
        let mut flushed = 0;
        // A run that is stopped before it begins sends nothing.
        self.poll(&mut events, 0, stopper, &mut run)?;
        loop {
            let now = self.context.clock.now();
            if run.ended.is_none() {
                self.start_due(now, run.end);
                run.behind = now >= run.end && self.is_behind(run.end);
                if now >= run.end && !run.behind || now >= run.end.saturating_add(CATCH_UP) {
                    run.ended = Some(run.end);
                }
            }
            // What could not be sent at once is tried again, also after the last request was started.
            for lane in 0..self.lanes.len() {
                self.send_queued(lane);
            }
            self.give_up(self.context.clock.now());
            self.context.progress.in_flight.store(self.context.in_flight, Ordering::Relaxed);
            if let Some(ended) = run.ended
                && (self.context.in_flight == 0 || now >= ended.saturating_add(self.patience()))
            {
                break;
            }
            if now.saturating_sub(flushed) >= FLUSH {
                flushed = now;
                if let Some(sink) = &mut self.context.sink {
                    sink.flush();
                }
            }
            let wake = self.next_wake(&run);
            let wait = wake.saturating_sub(self.context.clock.now());
            self.poll(&mut events, wait.saturating_sub(SPIN), stopper, &mut run)?;
        }
        Ok(self.measurement(&run))
    }

    /// Waits for news from the kernel for at most `wait`, and acts on them.
    fn poll(
        &mut self,
        events: &mut Vec<epoll::Event>,
        wait: Nanos,
        stopper: &Stopper,
        run: &mut Run,
    ) -> io::Result<()> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::try_from(wait.min(999_999_999)).unwrap_or(0) };
        events.clear();
        match epoll::wait(&self.context.epoll, rustix::buffer::spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let (data, flags) = (event.data.u64(), event.flags);
            if data == STOP {
                epoll::delete(&self.context.epoll, &stopper.0)?;
                run.end = run.end.min(self.context.clock.now());
                run.ended.get_or_insert(run.end);
            } else {
                self.carry_on(Key::from_u64(data), flags);
            }
        }
        Ok(())
    }

    /// How long after its end a run may wait for answers: every request has a deadline before that.
    fn patience(&self) -> Nanos {
        nanos(self.context.config.timeout).saturating_mul(2).saturating_add(CATCH_UP)
    }

    /// Whether requests that were due before `end` have not been started.
    fn is_behind(&self, end: Nanos) -> bool {
        self.lanes
            .iter()
            .any(|lane| lane.schedule.as_ref().is_some_and(|schedule| schedule.due(lane.next, end).is_some()))
    }

    /// Starts the requests that have become due, each with its own intended time, however late the engine is.
    fn start_due(&mut self, now: Nanos, end: Nanos) {
        for lane in 0..self.lanes.len() {
            for _ in 0..BURST {
                let state = &mut self.lanes[lane];
                let sequence = state.next;
                let intended = match &state.schedule {
                    Some(schedule) => schedule.due(sequence, end).filter(|&due| due <= now),
                    None if state.credit > 0 => {
                        state.credit -= 1;
                        Some(self.context.clock.now())
                    }
                    None => None,
                };
                let Some(intended) = intended else { break };
                state.next += 1;
                self.start(lane, sequence, intended);
            }
        }
    }

    /// When there is something to do even without news from the kernel.
    fn next_wake(&mut self, run: &Run) -> Nanos {
        let end = run.end;
        let carriers = &self.carriers;
        let deadline = self
            .context
            .deadlines
            .next(|deadline| carriers.get(deadline.key).is_some_and(|carrier| carrier.carries(deadline.sequence)));
        // A second is short enough to look at the clock now and then, whatever goes wrong.
        let later = self.context.clock.now().saturating_add(1_000_000_000);
        let due = self.lanes.iter().filter_map(|lane| match &lane.schedule {
            Some(schedule) => schedule.due(lane.next, end),
            None => (lane.credit > 0).then_some(0),
        });
        let queued = self.lanes.iter().any(|lane| lane.kind.is_datagram() && self.has_queued(lane));
        let queued = queued.then(|| self.context.clock.now() + 100_000);
        let start = if run.ended.is_some() { None } else { due.min().into_iter().chain([end]).min() };
        [Some(later), deadline, start, queued].into_iter().flatten().min().unwrap_or(later)
    }

    fn start(&mut self, lane: usize, sequence: u64, intended: Nanos) {
        let context = &mut self.context;
        let sent = context.clock.now();
        context.progress.lanes[lane].sent.fetch_add(1, Ordering::Relaxed);
        let active = Active {
            lane,
            sequence,
            intended,
            sent,
            first_byte: None,
            server: None,
            code: None,
            bytes_in: 0,
            bytes_out: 0,
            handshake: None,
            retransmits: None,
            retried: false,
        };
        context.in_flight += 1;
        if context.in_flight > context.config.max_in_flight {
            let failure = Failure::new(Cause::LocalError, "too many requests in flight");
            self.end(active, Some(failure), Phase::Local);
            return;
        }
        let state = &self.lanes[lane];
        // Datagrams from a fixed port are sent together a moment later; their lag is measured then.
        if state.schedule.is_some() && !matches!(state.kind, LaneKind::UdpFixed | LaneKind::DnsFixed) {
            context.progress.lag().record_nanos(sent.saturating_sub(intended));
        }
        match state.kind {
            LaneKind::Udp | LaneKind::Dns => self.start_fresh(active),
            LaneKind::UdpFixed | LaneKind::DnsFixed => self.start_fixed(active),
            _ => self.start_tcp(active),
        }
    }

    /// Something has happened to a carrier.
    fn carry_on(&mut self, key: Key, flags: epoll::EventFlags) {
        match self.carriers.take(key) {
            Some(Carrier::Tcp(connection)) => self.tcp_event(key, connection, flags),
            Some(Carrier::Fresh(socket)) => self.fresh_event(key, *socket),
            Some(Carrier::Fixed(socket)) => self.fixed_event(key, socket),
            // Closed by an earlier event of the same batch.
            None => {}
        }
    }

    /// Gives up the requests whose deadline has passed.
    fn give_up(&mut self, now: Nanos) {
        while let Some(deadline) = self.context.deadlines.pop(now) {
            if !self.carriers.get(deadline.key).is_some_and(|carrier| carrier.carries(deadline.sequence)) {
                continue;
            }
            match self.carriers.take(deadline.key) {
                Some(Carrier::Tcp(connection)) => self.tcp_overdue(deadline.key, connection, deadline.sequence),
                Some(Carrier::Fresh(socket)) => self.fresh_overdue(deadline.key, *socket),
                Some(Carrier::Fixed(socket)) => self.fixed_overdue(deadline.key, socket, deadline.sequence),
                None => {}
            }
        }
    }

    /// Counts a request that has ended.
    fn end(&mut self, active: Active, failure: Option<Failure>, phase: Phase) {
        let lane = active.lane;
        self.context.end(active, failure, phase, &self.lanes[lane].lane);
        let state = &mut self.lanes[lane];
        if state.schedule.is_none() {
            state.credit += 1;
        }
    }

    fn expect(&mut self, key: Key, active: &Active) {
        let at = active.sent.saturating_add(nanos(self.context.config.timeout));
        self.context.deadlines.push(Deadline { at, key, sequence: active.sequence });
    }

    fn measurement(mut self, run: &Run) -> Measurement {
        let duration = Duration::from_nanos(run.end);
        for key in self.lanes.iter().flat_map(|lane| &lane.standing).flatten() {
            if let Some(Carrier::Fixed(socket)) = self.carriers.get(*key) {
                self.context.overflowed += u64::from(socket.overflowed());
            }
        }
        let Context { config, progress, mut sink, clock, overflowed, in_flight, .. } = self.context;
        let results_dropped = sink.as_mut().map_or(0, |sink| {
            sink.flush();
            sink.dropped()
        });
        let lanes: Vec<_> = progress.lanes.iter().map(|lane| lane.measurement(duration)).collect();
        let lag = progress.lag().clone();
        let requests: u64 = lanes.iter().map(|lane| lane.sent).sum();
        let invalid = [
            (run.behind || lag.quantile(0.99).is_some_and(|lag| lag > config.max_lag), InvalidReason::Lag),
            (
                // A request that never ended is a defect of the engine, and no run to be trusted.
                in_flight > 0 || lanes.iter().any(|lane| lane.causes.contains_key(&Cause::LocalError)),
                InvalidReason::LocalError,
            ),
            (overflowed > 0, InvalidReason::ReceiveOverflow),
            (requests == 0, InvalidReason::NoRequests),
        ];
        Measurement {
            started: self.started,
            duration,
            ended: clock.0.elapsed().max(duration),
            lanes,
            lag,
            max_lag: config.max_lag,
            invalid: invalid.into_iter().filter_map(|(applies, reason)| applies.then_some(reason)).collect(),
            results_dropped,
        }
    }
}

impl Context {
    fn watch(&self, key: Key, socket: impl AsFd) -> io::Result<()> {
        use epoll::EventFlags as Flags;
        // Edge-triggered for everything, once: a connection costs one call, however often it waits.
        let flags = Flags::IN | Flags::OUT | Flags::RDHUP | Flags::ET;
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(key.to_u64()), flags)?)
    }

    fn end(&mut self, active: Active, failure: Option<Failure>, phase: Phase, lane: &Lane) {
        let mut recorder = self.progress.lanes[active.lane].lock();
        let failure = failure.or_else(|| {
            let name = recorder.server_name(active.server?);
            let expected = &lane.options.servers;
            (!expected.is_empty() && !expected.contains(name))
                .then(|| Failure::new(Cause::Misroute, format!("answered by {name}")))
        });
        let done = Done {
            sequence: active.sequence,
            intended: active.intended,
            sent: active.sent,
            first_byte: active.first_byte,
            end: self.clock.now(),
            failure,
            phase,
            server: active.server,
            code: active.code,
            bytes_in: active.bytes_in,
            bytes_out: active.bytes_out,
            retransmits: active.retransmits,
            handshake: active.handshake,
            retried: active.retried,
        };
        recorder.end(&done);
        if let Some(sink) = &mut self.sink {
            sink.push(recorder.result(active.lane, &done));
        }
        drop(recorder);
        self.in_flight -= 1;
    }

    /// The server of a lane that calls itself `name`; `None` if nothing of it is fit for a report.
    fn server(&self, lane: usize, name: &[u8]) -> Option<ServerId> {
        let mut text = [0; MAX_SERVER_NAME];
        let name = identity(name, &mut text)?;
        Some(self.progress.lanes[lane].lock().server(name))
    }
}

impl Carrier {
    /// Whether it carries a request that has not ended.
    fn carries(&self, sequence: u64) -> bool {
        match self {
            Self::Tcp(connection) => connection.carries(sequence),
            Self::Fresh(socket) => socket.carries(sequence),
            Self::Fixed(socket) => socket.carries(sequence),
        }
    }
}

/// Longest server name in a report.
const MAX_SERVER_NAME: usize = 64;

/// A server's name fit for a report: its printable ASCII characters, at most 64. `None` if nothing is left.
fn identity<'a>(bytes: &[u8], text: &'a mut [u8; MAX_SERVER_NAME]) -> Option<&'a str> {
    let mut length = 0;
    for (slot, &byte) in text.iter_mut().zip(bytes.iter().filter(|byte| byte.is_ascii_graphic())) {
        *slot = byte;
        length += 1;
    }
    std::str::from_utf8(text.get(..length)?).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_cleaned_and_cut() {
        let mut text = [0; MAX_SERVER_NAME];
        assert_eq!(identity(b" web-1\r\n", &mut text), Some("web-1"));
        assert_eq!(identity(b"\r\n\xff", &mut text), None);
        assert_eq!(identity(&[b'x'; 100], &mut text).map(str::len), Some(64));
    }
}
