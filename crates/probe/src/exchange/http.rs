//! HTTP/1.1 GET, on a new connection or on one kept from an earlier request.

use std::{
    error::Error as _,
    io,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{Connector, before, identity};
use crate::{
    cause::Cause,
    pattern,
    record::{Outcome, Success},
    server::SERVER_HEADER,
};

pub(crate) struct Http {
    connector: Connector,
    host: String,
    path: String,
    /// Idle connections, if they are to be kept. The one used last is used next, so a burst's spare ones age out.
    idle: Option<Mutex<Vec<Connection>>>,
}

/// Idle connections kept per lane.
const MAX_IDLE: usize = 64;

struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    /// Drives the connection; aborted with it, so that a request that timed out leaves nothing behind.
    _driver: AbortOnDropHandle<()>,
}

/// A request that got no answer's head.
struct NoHead {
    cause: Cause,
    /// The server may have closed the connection before it saw the request.
    closed: bool,
}

impl Http {
    pub(super) fn new(connector: Connector, path: &str, keep: bool) -> Self {
        let host = connector.target.to_string();
        Self { connector, host, path: path.to_owned(), idle: keep.then(Mutex::default) }
    }

    pub(super) async fn run(&self, deadline: Instant) -> Outcome {
        if let Some(mut connection) = self.take_idle() {
            match before(deadline, Cause::ReadTimeout, self.send(&mut connection)).await? {
                Ok(response) => return self.finish(connection, response, deadline).await,
                // A server may close an idle connection at any moment; the request is then sent again on a new one,
                // as clients do with idempotent requests (RFC 9110 section 9.2.2).
                Err(NoHead { closed: true, .. }) => {
                    let success = self.on_new_connection(deadline).await?;
                    return Ok(Success { retried: true, ..success });
                }
                Err(NoHead { cause, .. }) => return Err(cause),
            }
        }
        self.on_new_connection(deadline).await
    }

    async fn on_new_connection(&self, deadline: Instant) -> Outcome {
        let stream = self.connector.connect(deadline).await?;
        let handshake = before(deadline, Cause::ReadTimeout, http1::handshake(TokioIo::new(stream))).await?;
        let (sender, connection) = handshake.map_err(|error| cause_of(&error))?;
        // Its errors reach the request through `sender`.
        let driver = tokio::spawn(async move { drop(connection.await) });
        let mut connection = Connection { sender, _driver: AbortOnDropHandle::new(driver) };
        match before(deadline, Cause::ReadTimeout, self.send(&mut connection)).await? {
            Ok(response) => self.finish(connection, response, deadline).await,
            Err(NoHead { cause, .. }) => Err(cause),
        }
    }

    async fn send(&self, connection: &mut Connection) -> Result<Response<Incoming>, NoHead> {
        let mut request = Request::get(&self.path).header(HOST, &self.host).header(USER_AGENT, "evenkeel-probe");
        if self.idle.is_none() {
            request = request.header(CONNECTION, "close");
        }
        let request = request.body(Empty::new()).map_err(|_| NoHead { cause: Cause::LocalError, closed: false })?;
        connection.sender.try_send_request(request).await.map_err(|error| {
            let cause = cause_of(error.error());
            NoHead { cause, closed: matches!(cause, Cause::EarlyEof | Cause::Reset) }
        })
    }

    async fn finish(&self, mut connection: Connection, response: Response<Incoming>, deadline: Instant) -> Outcome {
        let success = before(deadline, Cause::ReadTimeout, self.check(response)).await??;
        if let Some(idle) = &self.idle
            && !connection.sender.is_closed()
            && before(deadline, Cause::ReadTimeout, connection.sender.ready()).await.is_ok_and(|ready| ready.is_ok())
        {
            let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < MAX_IDLE {
                idle.push(connection);
            }
        }
        Ok(success)
    }

    /// The whole answer, checked.
    async fn check(&self, response: Response<Incoming>) -> Outcome {
        if !response.status().is_success() && !response.status().is_redirection() {
            return Err(Cause::HttpStatus);
        }
        let server = response.headers().get(SERVER_HEADER).and_then(|name| identity(name.as_bytes()));
        // Only our own server is known to answer this path with the pattern.
        let expected = server.as_ref().and_then(|_| pattern::length_of(&self.path));
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| cause_of(&error))?;
            let Some(data) = frame.data_ref() else { continue };
            if expected.is_some() && !pattern::matches(length, data) {
                return Err(Cause::WrongBody);
            }
            length += data.len() as u64;
        }
        if expected.is_some_and(|expected| expected != length) {
            return Err(Cause::WrongBody);
        }
        Ok(Success { server, retried: false })
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|connection| connection.sender.is_ready())
    }
}

fn cause_of(error: &hyper::Error) -> Cause {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return Cause::of_stream(io);
        }
        source = inner.source();
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        Cause::EarlyEof
    } else {
        // What is left is a message that cannot be parsed.
        Cause::WrongBody
    }
}
