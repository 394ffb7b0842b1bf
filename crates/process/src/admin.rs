//! The admin interface: HTTP/1.1 `GET` over a unix socket, for `status`, metrics and the like on the same host.
//!
//! Who may use it is decided by the socket file's mode, 0660, and its directory.

use std::{
    fs,
    future::Future,
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, client, header,
    header::{CONTENT_TYPE, HeaderValue},
    server,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::{sleep, timeout},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::{debug, warn};

/// Connections answered at the same time; further ones wait.
const MAX_CONNECTIONS: usize = 32;

/// How long a client may take to send its request, and how long [`get`] waits for the answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long answers under way may take after shutdown was asked for.
const GRACE: Duration = Duration::from_secs(1);

/// Longest answer [`get`] accepts, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// What a handler answers a path with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The media type, such as `application/json`.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

/// Why the admin interface could not be served or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process answers on this socket.
    #[error("{0}: another process serves this socket")]
    InUse(PathBuf),
    /// There is a file, but not a socket.
    #[error("{0}: exists and is not a socket")]
    NotASocket(PathBuf),
    /// There is no such file.
    #[error("{0}: no such socket; is the agent running, and is this the path it was given?")]
    NoSuchSocket(PathBuf),
    /// The mode of the socket or a directory above it does not let this user in.
    #[error("{0}: permission denied; run as root or as a member of the socket's group")]
    PermissionDenied(PathBuf),
    /// There is a socket, but no process listens on it.
    #[error("{0}: nobody is listening; the agent was killed and left its socket behind")]
    NobodyListening(PathBuf),
    /// No answer in time.
    #[error("{0}: no answer within {TIMEOUT:?}")]
    TimedOut(PathBuf),
    /// The path asked for does not exist.
    #[error("{socket}: nothing at `{path}`")]
    NotFound {
        /// The socket.
        socket: PathBuf,
        /// The path asked for.
        path: String,
    },
    /// An answer other than 200 and 404.
    #[error("{socket}: HTTP status {status}")]
    Status {
        /// The socket.
        socket: PathBuf,
        /// The answer's status.
        status: u16,
    },
    /// The path asked for cannot be sent, or the answer is not UTF-8, too long, cut short or not HTTP.
    #[error("{socket}: {reason}")]
    Protocol {
        /// The socket.
        socket: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Any other failure of a system call.
    #[error("{path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
}

/// A bound admin socket. Dropping it removes the socket file, if it is still this one's.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    file: SocketFile,
}

impl Listener {
    /// Binds the socket with mode 0660. Removes a stale socket file first: one on which nobody listens.
    ///
    /// Must be called within a tokio runtime. Two processes that bind the same path at the same moment are not kept
    /// apart.
    ///
    /// # Errors
    ///
    /// Another process serves the socket, the file is not a socket, or a system call failed.
    pub async fn bind(path: &Path) -> Result<Self, Error> {
        remove_stale(path).await?;
        let failed = |source| Error::Io { path: path.to_owned(), source };
        let listener = UnixListener::bind(path).map_err(failed)?;
        let file = SocketFile::new(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
        Ok(Self { listener, file })
    }

    /// Answers `GET` of a path with what `handler` returns for it, or 404 if that is `None`, until `shutdown`;
    /// answers under way may then take another second. Removes the socket file before it returns.
    pub async fn serve<H, F>(self, handler: H, shutdown: CancellationToken)
    where
        H: Fn(String) -> F + Send + Sync + 'static,
        F: Future<Output = Option<Answer>> + Send + 'static,
    {
        let Self { listener, file } = self;
        let handler = Arc::new(move |path| {
            let answer = handler(path);
            async move { answer.await.map(|answer| respond(StatusCode::OK, answer)) }
        });
        let connections = TaskTracker::new();
        let cut = CancellationToken::new();
        accept_all(&listener, handler, &connections, &cut, &shutdown).await;
        drop(file);
        drop(listener);
        finish(&connections, &cut).await;
    }
}

/// A socket that others connect to.
pub(crate) trait Accept: Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Serves what is accepted until `shutdown`.
pub(crate) async fn accept_all<H, F>(
    listener: &impl Accept,
    handler: Arc<H>,
    connections: &TaskTracker,
    cut: &CancellationToken,
    shutdown: &CancellationToken,
) where
    H: Fn(String) -> F + Send + Sync + 'static,
    F: Future<Output = Option<Response<Full<Bytes>>>> + Send + 'static,
{
    let slots = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = async {
                let slot = slots.clone().acquire_owned().await;
                listener.next().await.map(|stream| (stream, slot))
            } => accepted,
        };
        match accepted {
            Ok((stream, slot)) => {
                let connection = serve_connection(stream, handler.clone(), shutdown.clone());
                let cut = cut.clone();
                connections.spawn(async move {
                    let _slot = slot;
                    cut.run_until_cancelled(connection).await;
                });
            }
            Err(error) => {
                // Out of descriptors: leave the processor to those who free some.
                warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Gives the answers under way [`GRACE`].
pub(crate) async fn finish(connections: &TaskTracker, cut: &CancellationToken) {
    connections.close();
    if timeout(GRACE, connections.wait()).await.is_err() {
        cut.cancel();
        connections.wait().await;
    }
}

async fn serve_connection<S, H, F>(stream: S, handler: Arc<H>, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(String) -> F,
    F: Future<Output = Option<Response<Full<Bytes>>>>,
{
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let handler = handler.clone();
        async move {
            if request.method() != Method::GET {
                return status(StatusCode::METHOD_NOT_ALLOWED);
            }
            match handler(request.uri().path().to_owned()).await {
                Some(response) => Ok(response),
                None => status(StatusCode::NOT_FOUND),
            }
        }
    });
    let mut connection = std::pin::pin!(
        server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
    );
    let result = tokio::select! {
        result = &mut connection => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "connection");
    }
}

pub(crate) fn respond(status: StatusCode, answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    response
}

fn status(status: StatusCode) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    Ok(response)
}

/// The socket file, to be removed in the end.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A successor may have put its own in place.
        if identity(&self.path).is_ok_and(|identity| identity == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            warn!(path = %self.path.display(), %error, "cannot remove the admin socket");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

async fn remove_stale(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(Error::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) => Err(failed(error)),
        Ok(_) => Err(Error::InUse(path.to_owned())),
    }
}

/// The answer to `GET path` from the process that serves `socket`.
///
/// # Errors
///
/// Nobody answers there, this user may not ask, or the answer is not a text with status 200.
pub async fn get(socket: &Path, path: &str) -> Result<String, Error> {
    timeout(TIMEOUT, ask(socket, path)).await.map_err(|_| Error::TimedOut(socket.to_owned()))?
}

async fn ask(socket: &Path, path: &str) -> Result<String, Error> {
    let protocol = |reason: String| Error::Protocol { socket: socket.to_owned(), reason };
    let request = Request::get(path)
        .header(header::HOST, "localhost")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| protocol(format!("`{path}`: {error}")))?;

    let stream = UnixStream::connect(socket).await.map_err(|source| refused(socket, source))?;
    let (mut sender, connection) =
        client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| protocol(error.to_string()))?;
    // Its errors reach the request through `sender`.
    let _driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    let response = sender.send_request(request).await.map_err(|error| protocol(error.to_string()))?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(Error::NotFound { socket: socket.to_owned(), path: path.to_owned() }),
        status => return Err(Error::Status { socket: socket.to_owned(), status: status.as_u16() }),
    }
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| protocol(error.to_string()))?.to_bytes();
    String::from_utf8(body.into()).map_err(|_| protocol("the answer is not UTF-8".to_owned()))
}

fn refused(socket: &Path, source: io::Error) -> Error {
    let path = socket.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => Error::NoSuchSocket(path),
        io::ErrorKind::PermissionDenied => Error::PermissionDenied(path),
        io::ErrorKind::ConnectionRefused => Error::NobodyListening(path),
        _ => Error::Io { path, source },
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_socket_that_lets_nobody_in_is_told_from_a_dead_one() {
        let error = |errno: Errno| refused(Path::new("/run/x"), errno.into());
        assert!(matches!(error(Errno::ACCESS), Error::PermissionDenied(_)));
        assert!(matches!(error(Errno::CONNREFUSED), Error::NobodyListening(_)));
        assert!(matches!(error(Errno::NOENT), Error::NoSuchSocket(_)));
        assert!(matches!(error(Errno::MFILE), Error::Io { .. }));
    }
}
