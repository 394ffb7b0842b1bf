//! HTTP/2 with prior knowledge, by the `h2` crate, whose futures are polled when the kernel has news of their socket.

use std::{
    cell::Cell,
    future::Future,
    io,
    os::fd::{AsFd as _, OwnedFd},
    pin::Pin,
    rc::Rc,
    task::{Context as Task, Poll, Waker, ready},
};

use bytes::Bytes;
use h2::{
    RecvStream,
    client::{Connection, ResponseFuture, SendRequest},
};
use hyper::http;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Active, Context, Engine, LaneState,
    recipe::Recipe,
    stream::{receive, send},
    tcp::{Ended, Step, judge_status, meet},
};
use crate::{
    cause::Cause,
    config::{Lane, LaneKind},
    pattern,
    record::{Code, Failure, ServerId},
    server::SERVER_HEADER,
};

/// Requests on one connection at a time; further ones open another.
const MAX_STREAMS: usize = 100;

/// What a lane asks for.
pub(super) struct Request {
    uri: http::Uri,
    keep: bool,
    wanted: Option<u64>,
}

impl Request {
    pub(super) fn new(lane: &Lane) -> Option<Self> {
        let uri = http::Uri::builder()
            .scheme("http")
            .authority(lane.authority.as_str())
            .path_and_query(lane.path.as_str())
            .build()
            .ok()?;
        let keep = lane.kind == LaneKind::H2Keepalive;
        Some(Self { uri, keep, wanted: pattern::length_of(&lane.path) })
    }

    fn message(&self) -> http::Request<()> {
        let mut request = http::Request::new(());
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = http::Version::HTTP_2;
        request.headers_mut().insert(http::header::USER_AGENT, http::HeaderValue::from_static("evenkeel-probe"));
        request
    }
}

type Handshake = Pin<Box<dyn Future<Output = Result<(SendRequest<Bytes>, Connection<Wire, Bytes>), h2::Error>>>>;

/// A connection's requests.
#[derive(Default)]
pub(super) struct Session {
    state: State,
    /// Not sent yet.
    queued: Vec<Active>,
    streams: Vec<Stream>,
    /// The connection takes no further requests.
    closing: bool,
    /// It has answered one.
    answered: bool,
    /// Bytes read so far.
    read: Rc<Cell<u64>>,
}

#[derive(Default)]
enum State {
    #[default]
    New,
    Handshake(Handshake),
    Open(Box<Open>),
}

struct Open {
    send: SendRequest<Bytes>,
    connection: Connection<Wire, Bytes>,
}

struct Stream {
    active: Active,
    stage: Stage,
}

enum Stage {
    Head(ResponseFuture),
    Body { body: RecvStream, received: u64, patterned: bool },
}

impl Session {
    pub(super) fn queue(&mut self, active: Active) {
        self.queued.push(active);
    }

    pub(super) fn first_request(&mut self) -> Option<&mut Active> {
        self.queued.first_mut()
    }

    pub(super) fn carries(&self, sequence: u64) -> bool {
        let sent = self.streams.iter().map(|stream| &stream.active);
        sent.chain(&self.queued).any(|active| active.sequence == sequence)
    }

    pub(super) fn has_room(&self) -> bool {
        !self.closing && self.streams.len() + self.queued.len() < MAX_STREAMS
    }

    pub(super) fn take_requests(&mut self) -> Vec<Active> {
        self.streams.drain(..).map(|stream| stream.active).chain(self.queued.drain(..)).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.queued.is_empty()
    }

    /// A request's deadline has passed; dropping its stream resets it. The connection may be dead, so that it is not
    /// used again.
    pub(super) fn give_up(&mut self, sequence: u64) -> Option<Active> {
        self.closing = true;
        if let Some(index) = self.streams.iter().position(|stream| stream.active.sequence == sequence) {
            return Some(self.streams.swap_remove(index).active);
        }
        let index = self.queued.iter().position(|active| active.sequence == sequence)?;
        Some(self.queued.swap_remove(index))
    }

    pub(super) fn advance(
        &mut self,
        socket: &OwnedFd,
        context: &Context,
        state: &LaneState,
        server: &mut Option<ServerId>,
        ended: &mut Vec<Ended>,
    ) -> Step {
        let Recipe::H2(request) = &state.recipe else { return Step::Close };
        let failure = match self.exchange(socket, context, request, &state.lane, server, ended) {
            Ok(true) => None,
            Ok(false) => Some(Failure::from(Cause::EarlyEof)),
            Err(error) => Some(failure_of(&error)),
        };
        self.answered |= ended.iter().any(|ended| ended.failure.is_none());
        // As with HTTP/1.1, a kept connection may end at any moment, and what it has not begun to answer is asked again.
        let retries = request.keep && self.answered;
        let mut again = Vec::new();
        let mut failed = Vec::new();
        for Ended { active, failure } in ended.drain(..) {
            match failure {
                Some(failure) if retries && may_retry(&active, &failure) => again.push(active),
                failure => failed.push(Ended { active, failure }),
            }
        }
        ended.append(&mut failed);
        let closes = failure.is_some() || self.is_empty() && (self.closing || !request.keep);
        if let Some(failure) = failure {
            for active in self.take_requests() {
                if retries && may_retry(&active, &failure) {
                    again.push(active);
                } else {
                    ended.push(Ended { active, failure: Some(failure.clone()) });
                }
            }
        } else if self.closing && request.keep {
            // Never sent, so sending them elsewhere is no second try.
            again.append(&mut self.queued);
        }
        match (again.is_empty(), closes) {
            (true, true) => Step::Close,
            (true, false) => Step::Wait,
            (false, true) => Step::Retry(again),
            (false, false) => {
                self.closing = true;
                Step::Move(again)
            }
        }
    }

    /// Polls everything there is. Whether the connection is still open.
    fn exchange(
        &mut self,
        socket: &OwnedFd,
        context: &Context,
        request: &Request,
        lane: &Lane,
        server: &mut Option<ServerId>,
        ended: &mut Vec<Ended>,
    ) -> Result<bool, h2::Error> {
        // Nobody needs to be woken: everything is polled whenever there is news of the socket or a further request.
        let mut task = Task::from_waker(Waker::noop());
        loop {
            match &mut self.state {
                State::New => {
                    let socket = socket.as_fd().try_clone_to_owned().map_err(|_| h2::Reason::INTERNAL_ERROR)?;
                    let wire = Wire { socket, read: self.read.clone() };
                    self.state =
                        State::Handshake(Box::pin(h2::client::Builder::new().enable_push(false).handshake(wire)));
                }
                State::Handshake(handshake) => match handshake.as_mut().poll(&mut task) {
                    Poll::Ready(Ok((send, connection))) => {
                        self.state = State::Open(Box::new(Open { send, connection }));
                    }
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => return Ok(true),
                },
                State::Open(_) => break,
            }
        }
        let State::Open(connection) = &mut self.state else { return Ok(true) };
        let Open { send, connection } = &mut **connection;
        loop {
            let read = self.read.get();
            let open = match Pin::new(&mut *connection).poll(&mut task) {
                Poll::Ready(result) => result.map(|()| false)?,
                Poll::Pending => true,
            };
            while open && !self.queued.is_empty() {
                match send.poll_ready(&mut task) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => {
                        self.closing = true;
                        break;
                    }
                    Poll::Pending => break,
                }
                let active = self.queued.remove(0);
                match send.send_request(request.message(), true) {
                    Ok((response, _)) => self.streams.push(Stream { active, stage: Stage::Head(response) }),
                    Err(error) => ended.push(Ended { active, failure: Some(failure_of(&error)) }),
                }
            }
            let mut index = 0;
            while index < self.streams.len() {
                match self.streams[index].poll(&mut task, context, request, lane, server) {
                    Poll::Pending => index += 1,
                    Poll::Ready(result) => {
                        let stream = self.streams.swap_remove(index);
                        ended.push(Ended { active: stream.active, failure: result.err() });
                    }
                }
            }
            if !open {
                return Ok(false);
            }
            // What the above has left to be written. What is read meanwhile is no news any more, so that it is looked at
            // now.
            let open = match Pin::new(&mut *connection).poll(&mut task) {
                Poll::Ready(result) => result.map(|()| false)?,
                Poll::Pending => true,
            };
            if open && self.read.get() == read {
                return Ok(true);
            }
        }
    }
}

impl Stream {
    fn poll(
        &mut self,
        task: &mut Task<'_>,
        context: &Context,
        request: &Request,
        lane: &Lane,
        server: &mut Option<ServerId>,
    ) -> Poll<Result<(), Failure>> {
        loop {
            match &mut self.stage {
                Stage::Head(response) => {
                    let response = match ready!(Pin::new(response).poll(task)) {
                        Ok(response) => response,
                        Err(error) => return Poll::Ready(Err(failure_of(&error))),
                    };
                    self.active.first_byte = Some(context.clock.now());
                    self.active.code = Some(Code::Http(response.status().as_u16()));
                    let name = response.headers().get(SERVER_HEADER);
                    if let Some(name) = name
                        && let Err(failure) =
                            meet(server, context.server(self.active.lane, name.as_bytes()), &mut self.active, lane)
                    {
                        return Poll::Ready(Err(failure));
                    }
                    let patterned = name.is_some() && request.wanted.is_some() && response.status() == 200;
                    self.stage = Stage::Body { body: response.into_body(), received: 0, patterned };
                }
                Stage::Body { body, received, patterned } => match ready!(body.poll_data(task)) {
                    Some(Ok(data)) => {
                        self.active.bytes_in += data.len() as u64;
                        if *patterned && !pattern::matches(*received, &data) {
                            let text = "the body has other bytes than the server's pattern";
                            return Poll::Ready(Err(Failure::new(Cause::WrongBody, text)));
                        }
                        *received += data.len() as u64;
                        // Fails only for a stream that has been reset, which the next poll tells.
                        drop(body.flow_control().release_capacity(data.len()));
                    }
                    Some(Err(error)) => {
                        let mut failure = failure_of(&error);
                        if failure.cause == Cause::EarlyEof {
                            failure.cause = Cause::TruncatedBody;
                        }
                        return Poll::Ready(Err(failure));
                    }
                    None => {
                        let status = self.active.code;
                        let judged = match (status, request.wanted) {
                            (Some(Code::Http(status)), _) if judge_status(status).is_some() => judge_status(status),
                            (_, Some(wanted)) if *patterned && *received < wanted => Some(Failure::new(
                                Cause::TruncatedBody,
                                format!("the body has {received} bytes instead of {wanted}"),
                            )),
                            (_, Some(wanted)) if *patterned && *received > wanted => {
                                Some(Failure::new(Cause::WrongBody, format!("the body has more than {wanted} bytes")))
                            }
                            _ => None,
                        };
                        return Poll::Ready(judged.map_or(Ok(()), Err));
                    }
                },
            }
        }
    }
}

fn may_retry(active: &Active, failure: &Failure) -> bool {
    !active.retried && active.first_byte.is_none() && matches!(failure.cause, Cause::EarlyEof | Cause::Reset)
}

fn failure_of(error: &h2::Error) -> Failure {
    let cause = match error.get_io() {
        Some(io) if io.kind() == io::ErrorKind::BrokenPipe => Cause::EarlyEof,
        Some(io) => Cause::of_stream(io),
        None if error.is_go_away() && error.is_remote() => Cause::EarlyEof,
        None if error.is_reset() && error.is_remote() => Cause::Reset,
        None => Cause::WrongBody,
    };
    Failure::new(cause, error)
}

/// A socket as the library wants it. Nobody is woken by it.
struct Wire {
    socket: OwnedFd,
    read: Rc<Cell<u64>>,
}

fn poll<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Task<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let length = ready!(poll(receive(&self.socket, buffer.initialize_unfilled())))?;
        self.read.set(self.read.get() + length as u64);
        buffer.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        poll(send(&self.socket, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Engine {
    /// Requests share a connection as long as it has room.
    pub(super) fn start_stream(&mut self, active: Active) {
        let lane = active.lane;
        let found = self.lanes[lane].standing.iter().flatten().copied().find(|&key| self.has_room(key));
        if let Some(key) = found
            && let Some(connection) = self.take_connection(key)
        {
            self.add_request(key, connection, active);
            return;
        }
        if let Some(key) = self.open(active)
            && self.carriers.get(key).is_some()
        {
            let standing = &mut self.lanes[lane].standing;
            match standing.iter_mut().find(|slot| slot.is_none()) {
                Some(slot) => *slot = Some(key),
                None => standing.push(Some(key)),
            }
        }
    }
}
