//! The server the prober is pointed at: names itself in every answer and stops without losing a request.

use std::{
    convert::Infallible, fmt, io, net::SocketAddr, num::NonZeroU32, pin::pin, str::FromStr, sync::Arc, time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::{Either, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header::{CONNECTION, CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{Instant, sleep, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::{dns, pattern};

/// Response header with the server's name.
pub(crate) const SERVER_HEADER: &str = "x-evenkeel-server";
/// Response header with the client's address and port as the server saw them.
const CLIENT_HEADER: &str = "x-evenkeel-client";

/// Connections the kernel may complete before they are accepted (the sysctl `net.core.somaxconn` bounds it too).
const BACKLOG: i32 = 16_384;

/// After new connections are refused, how long handshakes under way may still take.
const HANDSHAKE_GRACE: Duration = Duration::from_millis(250);

/// During a stop, how long a kept connection may stay without a request before it is closed. A shorter time meets
/// more requests on their way, whose clients would then see a reset.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// Longest `/delay/MS`.
const MAX_DELAY_MS: u64 = 60_000;

/// What to serve.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// How the server calls itself.
    pub name: ServerName,
    /// Addresses that write the name as a line, then echo.
    pub tcp: Vec<SocketAddr>,
    /// Addresses that make TLS sessions with a certificate made for the occasion, then write the name and echo.
    pub tls: Vec<SocketAddr>,
    /// Addresses that answer HTTP/1.1, and HTTP/2 with prior knowledge.
    pub http: Vec<SocketAddr>,
    /// Addresses that answer datagrams with the name, a space and the datagram. Given an unspecified address, the
    /// kernel picks the source of the replies.
    pub udp: Vec<SocketAddr>,
    /// Addresses that answer DNS over UDP and TCP: A and AAAA with an address for documentation, TXT with the name; and
    /// with the name as NSID (RFC 5001) if it is asked for.
    pub dns: Vec<SocketAddr>,
    /// How long a stop waits for requests in flight and connections in use.
    pub grace: Duration,
    /// Whether a stop answers the connections whose handshake is complete or under way. Otherwise it closes the
    /// listeners at once, as most programs do, and the kernel resets what has not been accepted.
    pub drain: bool,
}

impl ServeConfig {
    /// Nothing to serve yet; stops within 10 s and without losing a request.
    #[must_use]
    pub const fn new(name: ServerName) -> Self {
        Self {
            name,
            tcp: Vec::new(),
            tls: Vec::new(),
            http: Vec::new(),
            udp: Vec::new(),
            dns: Vec::new(),
            grace: Duration::from_secs(10),
            drain: true,
        }
    }
}

/// A server's name: 1 to 64 printable ASCII characters other than the space, as it stands in a header, a line and a
/// datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerName {
    text: Bytes,
    header: HeaderValue,
}

/// The name was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a server name: 1 to 64 printable ASCII characters, no spaces")]
pub struct NameError(String);

impl FromStr for ServerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = || NameError(text.to_owned());
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        let header = HeaderValue::from_str(text).map_err(|_| error())?;
        fits.then(|| Self { text: Bytes::copy_from_slice(text.as_bytes()), header }).ok_or_else(error)
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text))
    }
}

/// A socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {protocol} {address}: {source}")]
pub struct BindError {
    protocol: &'static str,
    address: SocketAddr,
    source: io::Error,
}

/// A server whose sockets are bound.
#[derive(Debug)]
pub struct Server {
    name: ServerName,
    grace: Duration,
    drain: bool,
    tcp: Vec<TcpListener>,
    tls: Vec<TcpListener>,
    acceptor: Option<Tls>,
    http: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
    dns: Vec<(UdpSocket, TcpListener)>,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServeSummary {
    /// Connections still open at the end of the grace time, and cut.
    pub cut: usize,
}

impl Server {
    /// Binds every socket, on the calling thread, or none. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// An address is in use, not of this host, or not allowed.
    pub fn bind(config: ServeConfig) -> Result<Self, BindError> {
        fn all<T>(
            protocol: &'static str,
            addresses: &[SocketAddr],
            bind: fn(SocketAddr) -> io::Result<T>,
        ) -> Result<Vec<T>, BindError> {
            let bind = |&address| bind(address).map_err(|source| BindError { protocol, address, source });
            addresses.iter().map(bind).collect()
        }
        Ok(Self {
            tcp: all("tcp", &config.tcp, listen)?,
            http: all("http", &config.http, listen)?,
            udp: all("udp", &config.udp, bind_udp)?,
            dns: all("dns", &config.dns, bind_dns)?,
            tls: all("tls", &config.tls, listen)?,
            acceptor: match config.tls.first() {
                None => None,
                Some(&address) => Some(Tls::new().map_err(|source| BindError { protocol: "tls", address, source })?),
            },
            name: config.name,
            grace: config.grace,
            drain: config.drain,
        })
    }

    /// Where the TLS sockets are bound, in the order of the configuration.
    ///
    /// # Errors
    ///
    /// From `getsockname(2)`.
    pub fn tls_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.tls.iter().map(TcpListener::local_addr).collect()
    }

    /// Where the DNS sockets are bound, UDP and TCP alike, in the order of the configuration.
    ///
    /// # Errors
    ///
    /// From `getsockname(2)`.
    pub fn dns_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.dns.iter().map(|(socket, _)| socket.local_addr()).collect()
    }

    /// Where the TCP sockets are bound, in the order of the configuration.
    ///
    /// # Errors
    ///
    /// From `getsockname(2)`.
    pub fn tcp_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.tcp.iter().map(TcpListener::local_addr).collect()
    }

    /// Where the HTTP sockets are bound, in the order of the configuration.
    ///
    /// # Errors
    ///
    /// From `getsockname(2)`.
    pub fn http_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.http.iter().map(TcpListener::local_addr).collect()
    }

    /// Where the UDP sockets are bound, in the order of the configuration.
    ///
    /// # Errors
    ///
    /// From `getsockname(2)`.
    pub fn udp_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.udp.iter().map(UdpSocket::local_addr).collect()
    }

    /// Serves until `stop` is cancelled, then refuses new connections, answers every connection whose handshake was
    /// complete or under way, and returns when the last has ended or the grace time is over.
    pub async fn run(self, stop: CancellationToken) -> ServeSummary {
        let host = Arc::new(Host { name: self.name, stop: stop.clone(), cut: CancellationToken::new() });
        let (listeners, connections) = (TaskTracker::new(), TaskTracker::new());
        let drain = self.drain;
        for listener in self.tcp {
            let (host, connections) = (host.clone(), connections.clone());
            listeners.spawn(accept(listener, stop.clone(), drain, move |stream, _| {
                connections.spawn(host.clone().serve_tcp(stream));
            }));
        }
        for listener in self.tls {
            let (host, connections, acceptor) = (host.clone(), connections.clone(), self.acceptor.clone());
            listeners.spawn(accept(listener, stop.clone(), drain, move |stream, _| {
                if let Some(acceptor) = acceptor.clone() {
                    connections.spawn(host.clone().serve_tls(stream, acceptor.0));
                }
            }));
        }
        for listener in self.http {
            let (host, connections) = (host.clone(), connections.clone());
            listeners.spawn(accept(listener, stop.clone(), drain, move |stream, client| {
                connections.spawn(host.clone().serve_http(stream, client));
            }));
        }
        for socket in self.udp {
            listeners.spawn(host.clone().serve_udp(socket, Datagrams::Echo));
        }
        for (socket, listener) in self.dns {
            listeners.spawn(host.clone().serve_udp(socket, Datagrams::Dns));
            let (host, connections) = (host.clone(), connections.clone());
            listeners.spawn(accept(listener, stop.clone(), drain, move |stream, _| {
                connections.spawn(host.clone().serve_dns(stream));
            }));
        }

        stop.cancelled().await;
        let deadline = Instant::now() + self.grace;
        listeners.close();
        listeners.wait().await;
        connections.close();
        let in_time = timeout_at(deadline, connections.wait()).await.is_ok();
        let cut = if in_time { 0 } else { connections.len() };
        host.cut.cancel();
        connections.wait().await;
        ServeSummary { cut }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted server must not wait for the TIME_WAIT of the connections of the one before.
    socket.set_reuse_address(true)?;
    separate_families(&socket, address)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    separate_families(&socket, address)?;
    // Room for the datagrams that arrive while other connections are served; the kernel caps it at `rmem_max`.
    socket.set_recv_buffer_size(4 << 20)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// UDP and TCP on the same port.
fn bind_dns(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    /// A port the kernel picks for UDP may be taken for TCP.
    const TRIES: u32 = 16;
    let mut tries = 1;
    loop {
        let socket = bind_udp(address)?;
        match listen(SocketAddr::new(address.ip(), socket.local_addr()?.port())) {
            Ok(listener) => return Ok((socket, listener)),
            Err(error) if address.port() == 0 && error.kind() == io::ErrorKind::AddrInUse && tries < TRIES => {
                tries += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Makes TLS sessions.
#[derive(Clone)]
struct Tls(TlsAcceptor);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// With a certificate for this server alone, signed by itself.
    fn new() -> io::Result<Self> {
        use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).map_err(io::Error::other)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.into()], key)
            .map_err(io::Error::other)?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }
}

/// `[::]` and `0.0.0.0` with the same port can then be asked for side by side.
fn separate_families(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() { socket.set_only_v6(true) } else { Ok(()) }
}

/// Hands accepted connections to `serve` until `stop`, then those whose handshake was complete or under way.
async fn accept(listener: TcpListener, stop: CancellationToken, drain: bool, serve: impl Fn(TcpStream, SocketAddr)) {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => serve(stream, client),
                Err(error) => back_off(&error).await,
            },
            () = stop.cancelled() => break,
        }
    }
    if !drain {
        return;
    }

    match refuse_new(&listener) {
        Ok(()) => {
            let settled = Instant::now() + HANDSHAKE_GRACE;
            while let Ok(accepted) = timeout_at(settled, listener.accept()).await {
                match accepted {
                    Ok((stream, client)) => serve(stream, client),
                    Err(error) => back_off(&error).await,
                }
            }
        }
        Err(error) => debug!(%error, "connections may be reset while the listener closes"),
    }
    // The runtime may not have noticed the last arrivals: ask the kernel until it has none.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, client)) = listener.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        match stream {
            Ok(stream) => serve(stream, client),
            Err(error) => warn!(%error, "accepted connection lost"),
        }
    }
}

/// Makes the kernel answer further SYNs as if the port were closed, while handshakes under way still complete.
///
/// Closing a listener resets what is in its accept queue, and nothing stops new arrivals between the last `accept`
/// and `close`. A listener bound to an interface that does not exist is found by no SYN, but still owns the
/// handshakes it has answered.
fn refuse_new(listener: &TcpListener) -> io::Result<()> {
    /// The kernel numbers interfaces upwards from 1 in each namespace, with an `int`.
    const NO_INTERFACE: Option<NonZeroU32> = NonZeroU32::new(i32::MAX.unsigned_abs());
    SockRef::from(listener).bind_device_by_index_v4(NO_INTERFACE)
}

/// Out of descriptors or memory, `accept` fails at once again and again: leave the processor to those who free some.
async fn back_off(error: &io::Error) {
    if error.kind() != io::ErrorKind::ConnectionAborted {
        warn!(%error, "cannot accept");
        sleep(Duration::from_millis(10)).await;
    }
}

type ResponseBody = Either<Full<Bytes>, PatternBody>;

struct Host {
    name: ServerName,
    stop: CancellationToken,
    /// The grace time is over.
    cut: CancellationToken,
}

impl Host {
    async fn serve_tcp(self: Arc<Self>, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "tcp connection");
        }
        tokio::select! {
            result = self.name_and_echo(stream) => if let Err(error) = result { debug!(%error, "tcp connection") },
            () = self.cut.cancelled() => {}
        }
    }

    async fn serve_tls(self: Arc<Self>, stream: TcpStream, acceptor: TlsAcceptor) {
        let converse = async { self.name_and_echo(acceptor.accept(stream).await?).await };
        tokio::select! {
            result = converse => if let Err(error) = result { debug!(%error, "tls connection") },
            () = self.cut.cancelled() => {}
        }
    }

    async fn name_and_echo(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let banner = [&self.name.text[..], b"\n"].concat();
        stream.write_all(&banner).await?;
        stream.flush().await?;
        let (mut read, mut write) = tokio::io::split(stream);
        tokio::io::copy(&mut read, &mut write).await?;
        write.shutdown().await
    }

    /// Answers queries one after the other; what is none ends the connection.
    async fn serve_dns(self: Arc<Self>, mut stream: TcpStream) {
        let converse = async {
            loop {
                // Between two queries, the client may close and a stop may end the connection.
                let length = tokio::select! {
                    length = stream.read_u16() => length?,
                    () = self.idle() => return Ok(()),
                };
                let mut message = vec![0; usize::from(length)];
                stream.read_exact(&mut message).await?;
                let Some(answer) = self.resolve(&message) else { return Ok(()) };
                let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
                stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await?;
            }
        };
        tokio::select! {
            result = converse => if let Err::<(), io::Error>(error) = result { debug!(%error, "dns connection") },
            () = self.cut.cancelled() => {}
        }
    }

    /// Returns when nothing has been asked on a connection for a while after the stop.
    async fn idle(&self) {
        self.stop.cancelled().await;
        sleep(IDLE_GRACE).await;
    }

    /// The answer to a DNS query; `None` if it is none.
    fn resolve(&self, message: &[u8]) -> Option<Vec<u8>> {
        /// Addresses for documentation (RFC 5737 and RFC 3849).
        const A: [u8; 4] = [192, 0, 2, 1];
        const AAAA: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let query = dns::query(message)?;
        let name = &self.name.text[..];
        let text: Vec<u8>;
        let data = match query.question.record_type {
            dns::RecordType::A => Some(&A[..]),
            dns::RecordType::AAAA => Some(&AAAA[..]),
            dns::RecordType::TXT => {
                text =
                    std::iter::once(u8::try_from(name.len()).unwrap_or(u8::MAX)).chain(name.iter().copied()).collect();
                Some(&text[..])
            }
            _ => None,
        };
        Some(query.answer(0, data, name))
    }

    async fn serve_http(self: Arc<Self>, stream: TcpStream, client: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "http connection");
        }
        let service = service_fn(|request| {
            let host = self.clone();
            async move { Ok::<_, Infallible>(host.answer(&request, client).await) }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let graceful = async {
            tokio::select! {
                result = &mut connection => return result,
                () = self.stop.cancelled() => {}
            }
            // From here on `answer` ends the connection with the next answer. One on which nothing has been asked
            // for a while is ended here.
            tokio::select! {
                result = &mut connection => return result,
                () = sleep(IDLE_GRACE) => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        };
        tokio::select! {
            result = graceful => if let Err(error) = result { debug!(%error, "http connection") },
            () = self.cut.cancelled() => {}
        }
    }

    async fn answer(&self, request: &Request<Incoming>, client: SocketAddr) -> Response<ResponseBody> {
        let path = request.uri().path();
        let mut response = match (request.method(), pattern::length_of(path), delay_of(path)) {
            (&Method::GET, Some(total), _) => Response::new(Either::Right(PatternBody { sent: 0, total })),
            (&Method::GET, None, delay) => {
                // Even a delay of zero would wait for the timer's next millisecond.
                if let Some(delay) = delay {
                    sleep(delay).await;
                }
                self.text()
            }
            _ => {
                let mut response = self.text();
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
                response
            }
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(SERVER_HEADER, self.name.header.clone());
        if let Ok(client) = HeaderValue::from_str(&client.to_string()) {
            headers.insert(CLIENT_HEADER, client);
        }
        if self.stop.is_cancelled() && request.version() < hyper::Version::HTTP_2 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn text(&self) -> Response<ResponseBody> {
        Response::new(Either::Left(Full::from([&self.name.text[..], b"\n"].concat())))
    }

    /// Answers until `stop`, then what has arrived by then.
    async fn serve_udp(self: Arc<Self>, socket: UdpSocket, kind: Datagrams) {
        let prefix = [&self.name.text[..], b" "].concat();
        let mut buffer = vec![0; prefix.len() + usize::from(u16::MAX)];
        buffer[..prefix.len()].copy_from_slice(&prefix);
        let reply = |buffer: &[u8], length: usize| -> Option<Vec<u8>> {
            match kind {
                Datagrams::Echo => Some(buffer[..prefix.len() + length].to_owned()),
                Datagrams::Dns => self.resolve(&buffer[prefix.len()..prefix.len() + length]),
            }
        };
        loop {
            let received = tokio::select! {
                received = socket.recv_from(&mut buffer[prefix.len()..]) => received,
                () = self.stop.cancelled() => break,
            };
            match received {
                Ok((length, client)) => {
                    let Some(reply) = reply(&buffer, length) else { continue };
                    if let Err(error) = socket.send_to(&reply, client).await {
                        debug!(%error, %client, "udp reply");
                    }
                }
                // An ICMP error that one of our replies has met with.
                Err(error) => debug!(%error, "udp receive"),
            }
        }
        let Ok(socket) = socket.into_std() else { return };
        while let Ok((length, client)) = socket.recv_from(&mut buffer[prefix.len()..]) {
            let Some(reply) = reply(&buffer, length) else { continue };
            if let Err(error) = socket.send_to(&reply, client) {
                debug!(%error, %client, "udp reply");
            }
        }
    }
}

/// What datagrams are answered with.
#[derive(Clone, Copy)]
enum Datagrams {
    /// The server's name, a space and the datagram.
    Echo,
    /// The answer to a DNS query.
    Dns,
}

/// How long a path of the form `/delay/MS` asks to wait before the answer.
fn delay_of(path: &str) -> Option<Duration> {
    let ms = path.strip_prefix("/delay/")?.parse().ok()?;
    (ms <= MAX_DELAY_MS).then(|| Duration::from_millis(ms))
}

/// Streams the bytes of [`pattern`].
struct PatternBody {
    sent: u64,
    total: u64,
}

impl Body for PatternBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        const PIECE: u64 = 64 << 10;
        if self.is_end_stream() {
            return std::task::Poll::Ready(None);
        }
        let end = self.total.min(self.sent + PIECE);
        let piece: BytesMut = (self.sent..end).map(pattern::byte_at).collect();
        self.sent = end;
        std::task::Poll::Ready(Some(Ok(Frame::data(piece.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.total
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.total - self.sent)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn names_fit_a_header_a_line_and_a_datagram() {
        assert_eq!("web-1".parse::<ServerName>().unwrap().to_string(), "web-1");
        for name in ["", "a b", "a\n", "é", &"x".repeat(65)] {
            assert!(name.parse::<ServerName>().is_err(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_listener_that_refuses_keeps_its_accept_queue() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = listen(address.parse().unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            let mut queued = TcpStream::connect(address).await.unwrap();
            refuse_new(&listener).unwrap();
            let refused = TcpStream::connect(address).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

            let (mut accepted, _) = listener.accept().await.unwrap();
            drop(listener);
            queued.write_all(b"x").await.unwrap();
            assert_eq!(accepted.read_u8().await.unwrap(), b'x');
        }
    }

    #[test]
    fn delays_are_bounded() {
        assert_eq!(delay_of("/delay/250"), Some(Duration::from_millis(250)));
        assert_eq!(delay_of("/delay/60001"), None);
        assert_eq!(delay_of("/"), None);
    }
}
