//! TCP connections: opening them, and what is said on them one request at a time.

use std::{io, os::fd::OwnedFd};

use rustix::{event::epoll::EventFlags, io::Errno, net::sockopt};

use super::{
    Active, Carrier, Context, Engine, Key, h2,
    line::Line,
    long,
    recipe::Recipe,
    stream::{News, read_all, send, send_rest, socket, would_block},
    tls,
};
use crate::{
    cause::Cause,
    config::{Lane, LaneKind},
    dns, http1,
    measure::Phase,
    record::{Code, Failure, Nanos, ServerId},
    sys,
};

/// Kept connections without a request, per lane.
const MAX_IDLE: usize = 4096;
/// From this length on a handshake may have lost a SYN, and the kernel is asked whether it did.
const SLOW_HANDSHAKE: Nanos = 500_000_000;

/// A connection, and the requests on it.
pub(super) struct Connection {
    pub(super) socket: OwnedFd,
    pub(super) lane: usize,
    /// When it was begun to be opened.
    opened: Nanos,
    pub(super) connected: bool,
    /// A request was answered on it before the present one.
    reused: bool,
    /// Who has answered on it.
    pub(super) server: Option<ServerId>,
    /// The present request, of the kinds that have one at a time.
    active: Option<Active>,
    talk: Talk,
}

enum Talk {
    Connect,
    Line(Line),
    Http1 { response: http1::Response, written: usize },
    Dns { message: Vec<u8>, written: usize, answer: Vec<u8> },
    Tls(Box<tls::Session>),
    H2(Box<h2::Session>),
    Long(Box<long::Session>),
}

/// A request that has ended.
pub(super) struct Ended {
    pub(super) active: Active,
    pub(super) failure: Option<Failure>,
}

/// What becomes of a connection.
pub(super) enum Step {
    /// It waits for news.
    Wait,
    /// It waits for another request.
    Idle,
    Close,
    /// It is closed, and the requests are sent again on a new one.
    Retry(Vec<Active>),
    /// It waits for news of its requests, but these are sent on another.
    Move(Vec<Active>),
}

impl Connection {
    pub(super) fn carries(&self, sequence: u64) -> bool {
        match &self.talk {
            Talk::H2(session) => session.carries(sequence),
            Talk::Long(session) => session.carries(sequence),
            _ => self.active.as_ref().is_some_and(|active| active.sequence == sequence),
        }
    }

    /// All requests that have not ended.
    fn take_requests(&mut self) -> Vec<Active> {
        match &mut self.talk {
            Talk::H2(session) => session.take_requests(),
            Talk::Long(session) => session.take_requests(),
            _ => self.active.take().into_iter().collect(),
        }
    }

    fn phase(&self) -> Phase {
        if self.connected { Phase::Established } else { Phase::Connecting }
    }

    /// The handshake is complete.
    fn establish(&mut self, context: &Context) {
        self.connected = true;
        let handshake = context.clock.now().saturating_sub(self.opened);
        let retransmits = if handshake >= SLOW_HANDSHAKE {
            sys::tcp_info(&self.socket).map(|info| info.total_retransmits)
        } else {
            None
        };
        let first = match &mut self.talk {
            Talk::H2(session) => session.first_request(),
            Talk::Long(session) => session.first_request(),
            _ => self.active.as_mut(),
        };
        if let Some(active) = first {
            (active.handshake, active.retransmits) = (Some(handshake), retransmits);
        }
    }
}

impl Engine {
    pub(super) fn start_tcp(&mut self, active: Active) {
        match self.lanes[active.lane].kind {
            LaneKind::HttpKeepalive => {
                while let Some(key) = self.lanes[active.lane].idle.pop() {
                    if let Some(Carrier::Tcp(mut connection)) = self.carriers.take(key) {
                        self.expect(key, &active);
                        connection.active = Some(active);
                        if let Talk::Http1 { response, written } = &mut connection.talk {
                            response.reset();
                            *written = 0;
                        }
                        self.advance(key, connection, News { readable: false, closed: false });
                        return;
                    }
                }
                _ = self.open(active);
            }
            LaneKind::H2Keepalive => self.start_stream(active),
            LaneKind::TcpLong => self.start_long(active),
            _ => _ = self.open(active),
        }
    }

    /// Opens a connection for a request.
    pub(super) fn open(&mut self, active: Active) -> Option<Key> {
        let lane = active.lane;
        let state = &self.lanes[lane];
        let talk = match &state.recipe {
            Recipe::Connect => Talk::Connect,
            Recipe::Line { .. } => Talk::Line(Line::default()),
            Recipe::Http1 { wanted, .. } => Talk::Http1 { response: http1::Response::new(*wanted), written: 0 },
            Recipe::Dns { query, .. } => {
                let mut message = Vec::with_capacity(query.len() + 2);
                message.extend_from_slice(&u16::try_from(query.len()).unwrap_or(0).to_be_bytes());
                message.extend_from_slice(query);
                message[2..4].copy_from_slice(&dns_id(active.sequence).to_be_bytes());
                Talk::Dns { message, written: 0, answer: Vec::new() }
            }
            Recipe::Tls(client) => match client.session() {
                Ok(session) => Talk::Tls(Box::new(session)),
                Err(failure) => {
                    self.end(active, Some(failure), Phase::Local);
                    return None;
                }
            },
            Recipe::H2(_) => Talk::H2(Box::default()),
            Recipe::Long => Talk::Long(Box::new(long::Session::new(active.sequence))),
            Recipe::Datagram | Recipe::Broken => {
                self.end(active, Some(Failure::new(Cause::LocalError, "unusable configuration")), Phase::Local);
                return None;
            }
        };
        let quick = matches!(talk, Talk::H2(_) | Talk::Long(_));
        let target = state.lane.target;
        let opened = self.context.clock.now();
        let key = self.carriers.reserve();
        let result = socket(target, state.reset, quick).and_then(|socket| {
            self.context.watch(key, &socket)?;
            Ok(socket)
        });
        let socket = match result {
            Ok(socket) => socket,
            Err(error) => {
                self.carriers.free(key);
                self.end(active, Some(Failure::new(Cause::LocalError, error)), Phase::Local);
                return None;
            }
        };
        let connect = rustix::net::connect(&socket, &target);
        // A request sent again keeps its first deadline.
        self.expect(key, &active);
        let mut connection = Box::new(Connection {
            socket,
            lane,
            opened,
            connected: false,
            reused: false,
            server: None,
            active: None,
            talk,
        });
        match &mut connection.talk {
            Talk::H2(session) => session.queue(active),
            Talk::Long(session) => session.queue(active),
            _ => {
                connection.active = Some(active);
            }
        }
        match connect {
            Ok(()) => {
                connection.establish(&self.context);
                self.advance(key, connection, News { readable: false, closed: false });
            }
            Err(Errno::INPROGRESS) => self.speak_early(key, connection),
            Err(error) => self.fail_connect(key, connection, error.into()),
        }
        Some(key)
    }

    /// On a fast network the handshake may be complete already: the request is then sent at once. Only tried where it
    /// costs nothing but a system call that the request takes anyway.
    fn speak_early(&mut self, key: Key, mut connection: Box<Connection>) {
        let Talk::Http1 { written, .. } = &mut connection.talk else {
            self.carriers.put(key, Carrier::Tcp(connection));
            return;
        };
        let Recipe::Http1 { request, .. } = &self.lanes[connection.lane].recipe else { return };
        match send(&connection.socket, request) {
            Ok(length) => {
                *written = length;
                if let Some(active) = &mut connection.active {
                    active.bytes_out += length as u64;
                }
                connection.establish(&self.context);
                self.carriers.put(key, Carrier::Tcp(connection));
            }
            Err(error) if would_block(&error) => self.carriers.put(key, Carrier::Tcp(connection)),
            Err(error) => self.fail_connect(key, connection, error),
        }
    }

    fn fail_connect(&mut self, key: Key, mut connection: Box<Connection>, error: io::Error) {
        let mut cause = Cause::of_connect(&error);
        if cause == Cause::Refused && sys::tcp_info(&connection.socket).is_some_and(|info| info.segments_in == 0) {
            // Both RST and ICMP end the attempt with the same error, but only a RST is a segment.
            cause = Cause::UnreachablePort;
        }
        let phase = match cause {
            Cause::LocalError => Phase::Local,
            // It met an established connection: in SYN-SENT the error would have been another.
            Cause::Reset => Phase::Established,
            _ => Phase::Connecting,
        };
        for active in connection.take_requests() {
            self.end(active, Some(Failure::new(cause, &error)), phase);
        }
        self.close(key, connection);
    }

    fn close(&mut self, key: Key, connection: Box<Connection>) {
        for slot in &mut self.lanes[connection.lane].standing {
            if *slot == Some(key) {
                *slot = None;
            }
        }
        self.carriers.free(key);
    }

    pub(super) fn tcp_event(&mut self, key: Key, mut connection: Box<Connection>, flags: EventFlags) {
        if !connection.connected {
            if flags.contains(EventFlags::ERR) {
                let error = match sockopt::socket_error(&connection.socket) {
                    Ok(Err(error)) | Err(error) => error,
                    Ok(Ok(())) => Errno::CONNRESET,
                };
                return self.fail_connect(key, connection, error.into());
            }
            if !flags.contains(EventFlags::OUT) {
                // Not connected and not failed: the news of a socket that has just been made.
                return self.carriers.put(key, Carrier::Tcp(connection));
            }
            connection.establish(&self.context);
        }
        let closed = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        self.advance(key, connection, News { readable: flags.contains(EventFlags::IN) || closed, closed });
    }

    /// Carries on what is said on a connection that is established.
    pub(super) fn advance(&mut self, key: Key, mut connection: Box<Connection>, news: News) {
        let mut ended = Vec::new();
        let state = &self.lanes[connection.lane];
        let context = &mut self.context;
        let step = match &mut connection.talk {
            Talk::H2(session) => {
                session.advance(&connection.socket, context, state, &mut connection.server, &mut ended)
            }
            Talk::Long(session) => {
                session.advance(&connection.socket, context, connection.lane, &mut connection.server, news, &mut ended)
            }
            _ => match connection.converse(context, &state.recipe, &state.lane, news) {
                Ok(step) => step,
                Err(failure) => match connection.active.take() {
                    Some(active) if connection.may_retry(&failure, &active) => Step::Retry(vec![active]),
                    Some(active) => {
                        ended.push(Ended { active, failure: Some(failure) });
                        Step::Close
                    }
                    None => Step::Close,
                },
            },
        };
        if matches!(step, Step::Idle)
            && let Some(active) = connection.active.take()
        {
            ended.push(Ended { active, failure: connection.judge() });
        }
        let (lane, phase) = (connection.lane, connection.phase());
        match step {
            Step::Wait => self.carriers.put(key, Carrier::Tcp(connection)),
            Step::Idle => {
                let keep = connection.reused && self.lanes[lane].idle.len() < MAX_IDLE;
                if keep {
                    self.carriers.put(key, Carrier::Tcp(connection));
                    self.lanes[lane].idle.push(key);
                } else {
                    self.close(key, connection);
                }
            }
            Step::Close => {
                for active in connection.take_requests() {
                    ended.push(Ended { active, failure: Some(Cause::EarlyEof.into()) });
                }
                self.close(key, connection);
            }
            Step::Retry(requests) => {
                self.close(key, connection);
                self.send_again(requests);
            }
            Step::Move(requests) => {
                self.carriers.put(key, Carrier::Tcp(connection));
                self.send_again(requests);
            }
        }
        for Ended { active, failure } in ended {
            self.end(active, failure, phase);
        }
    }

    fn send_again(&mut self, requests: Vec<Active>) {
        for mut active in requests {
            active.retried = true;
            match self.lanes[active.lane].kind {
                LaneKind::H2Keepalive => self.start_stream(active),
                _ => _ = self.open(active),
            }
        }
    }

    /// A request's deadline has passed.
    pub(super) fn tcp_overdue(&mut self, key: Key, mut connection: Box<Connection>, sequence: u64) {
        let phase = connection.phase();
        let default = if connection.connected { Cause::ReadStall } else { Cause::ConnectTimeout };
        let (active, failure, keep) = match &mut connection.talk {
            Talk::H2(session) => {
                let active = session.give_up(sequence);
                (active, Failure::from(default), !session.is_empty())
            }
            Talk::Long(session) => session.give_up(sequence, default, &self.context),
            _ => (connection.active.take(), default.into(), false),
        };
        if let Some(active) = active {
            self.end(active, Some(failure), phase);
        }
        // A connection that never was does not become one: its other requests wait in vain.
        if keep && connection.connected {
            self.carriers.put(key, Carrier::Tcp(connection));
            return;
        }
        for active in connection.take_requests() {
            self.end(active, Some(default.into()), phase);
        }
        if connection.connected && self.lanes[connection.lane].kind == LaneKind::TcpLong {
            self.context.progress.lanes[connection.lane].lock().break_connection();
        }
        self.close(key, connection);
    }

    /// The connection with this key, for a further request; it is put back by [`Self::advance`].
    pub(super) fn take_connection(&mut self, key: Key) -> Option<Box<Connection>> {
        match self.carriers.take(key)? {
            Carrier::Tcp(connection) => Some(connection),
            other => {
                self.carriers.put(key, other);
                None
            }
        }
    }

    /// Adds a request to a connection that takes several.
    pub(super) fn add_request(&mut self, key: Key, mut connection: Box<Connection>, active: Active) {
        self.expect(key, &active);
        match &mut connection.talk {
            Talk::H2(session) => session.queue(active),
            Talk::Long(session) => session.queue(active),
            _ => return,
        }
        if connection.connected {
            self.advance(key, connection, News { readable: false, closed: false });
        } else {
            self.carriers.put(key, Carrier::Tcp(connection));
        }
    }

    /// Whether a HTTP/2 connection takes a further request.
    pub(super) fn has_room(&self, key: Key) -> bool {
        match self.carriers.get(key) {
            Some(Carrier::Tcp(connection)) => match &connection.talk {
                Talk::H2(session) => session.has_room(),
                _ => false,
            },
            _ => false,
        }
    }
}

impl Connection {
    /// A server may close an idle connection at any moment; the request is then sent again on a new one, as clients do
    /// with idempotent requests (RFC 9110 section 9.2.2).
    fn may_retry(&self, failure: &Failure, active: &Active) -> bool {
        self.reused
            && active.first_byte.is_none()
            && !active.retried
            && matches!(failure.cause, Cause::EarlyEof | Cause::Reset)
    }

    /// Carries on with the present request, if there is one. [`Step::Idle`] means that it has been answered.
    fn converse(&mut self, context: &mut Context, recipe: &Recipe, lane: &Lane, news: News) -> Result<Step, Failure> {
        let Some(active) = &mut self.active else {
            // Nothing is asked, so nothing may be answered: the server closes the connection, or talks nonsense.
            return Ok(if news.readable { Step::Close } else { Step::Wait });
        };
        match (&mut self.talk, recipe) {
            (Talk::Connect, _) => Ok(Step::Idle),
            (Talk::Http1 { response, written }, Recipe::Http1 { request, keep, .. }) => {
                if !send_rest(&self.socket, request, written, active)? || !news.readable {
                    return Ok(Step::Wait);
                }
                let (mut done, mut clean) = (false, true);
                read_all(&self.socket, context, news, active, |piece, context, active| {
                    let mut named = None;
                    let progress = response.feed(piece, &mut |name| named = context.server(self.lane, name))?;
                    if named.is_some() {
                        meet(&mut self.server, named, active, lane)?;
                    }
                    done = progress.done;
                    clean = progress.consumed == piece.len();
                    Ok(done)
                })
                .and_then(|eof| {
                    if eof && !done {
                        response.end()?;
                        (done, clean) = (true, false);
                    }
                    Ok(())
                })
                .inspect_err(|_| active.code = response.status().map(Code::Http))?;
                if !done {
                    return Ok(Step::Wait);
                }
                active.code = response.status().map(Code::Http);
                self.reused = *keep && clean && response.keep_alive() && !news.closed;
                Ok(Step::Idle)
            }
            (Talk::Line(line), Recipe::Line { echo }) => {
                line.advance(*echo, &self.socket, context, &mut self.server, active, lane, news)
            }
            (Talk::Dns { message, written, answer }, Recipe::Dns { question, .. }) => {
                if !send_rest(&self.socket, message, written, active)? || !news.readable {
                    return Ok(Step::Wait);
                }
                let mut done = false;
                let eof = read_all(&self.socket, context, news, active, |piece, context, active| {
                    answer.extend_from_slice(piece);
                    let Some((length, rest)) = answer.split_first_chunk() else { return Ok(false) };
                    let Some(message) = rest.get(..usize::from(u16::from_be_bytes(*length))) else { return Ok(false) };
                    done = true;
                    judge_dns(message, dns_id(active.sequence), question, context, active, lane)?;
                    Ok(true)
                })?;
                match (done, eof) {
                    (true, _) => Ok(Step::Idle),
                    (false, true) => Err(if answer.is_empty() { Cause::EarlyEof } else { Cause::TruncatedBody }.into()),
                    (false, false) => Ok(Step::Wait),
                }
            }
            (Talk::Tls(session), _) => session.advance(&self.socket, context, active, news),
            _ => Ok(Step::Close),
        }
    }

    /// Whether an answer is as it should be.
    fn judge(&self) -> Option<Failure> {
        match &self.talk {
            Talk::Http1 { response, .. } => response.status().and_then(judge_status),
            _ => None,
        }
    }
}

/// An HTTP status outside 2xx and 3xx is a failure.
pub(super) fn judge_status(status: u16) -> Option<Failure> {
    (!(200..400).contains(&status)).then(|| Failure::new(Cause::HttpStatus, format!("status {status}")))
}

/// A server has named itself on a connection.
pub(super) fn meet(
    known: &mut Option<ServerId>,
    named: Option<ServerId>,
    active: &mut Active,
    lane: &Lane,
) -> Result<(), Failure> {
    active.server = named;
    let before = known.replace(match named {
        Some(server) => server,
        None => return Ok(()),
    });
    if before.is_some() && before != named && !lane.options.allow_split {
        return Err(Failure::new(Cause::SplitFlow, "two servers answered on one connection"));
    }
    Ok(())
}

/// The identifier of a query over TCP or from a port of its own.
#[expect(clippy::cast_possible_truncation, reason = "identifiers go round")]
pub(super) const fn dns_id(sequence: u64) -> u16 {
    // Neighbouring requests get identifiers far apart, so that a mix-up does not look right.
    (sequence as u16).wrapping_mul(0x9E37).wrapping_add(0x5A17)
}

/// Judges a DNS answer.
pub(super) fn judge_dns(
    message: &[u8],
    id: u16,
    question: &dns::Question,
    context: &Context,
    active: &mut Active,
    lane: &Lane,
) -> Result<(), Failure> {
    if dns::id(message).is_some_and(|other| other != id) {
        return Err(Cause::DnsIdMismatch.into());
    }
    let answer = dns::answer(message, question).ok_or(Cause::WrongReply)?;
    active.code = Some(Code::Dns(answer.rcode));
    active.server = answer.server.and_then(|name| context.server(active.lane, name));
    if answer.truncated {
        Err(Cause::DnsTruncated.into())
    } else if lane.options.rcodes.contains(&answer.rcode) {
        Ok(())
    } else {
        Err(Failure::new(Cause::DnsRcode, Code::Dns(answer.rcode)))
    }
}
