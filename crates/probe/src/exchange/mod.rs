//! One request and its answer, for each kind of lane.

mod http;
mod tcp;
mod udp;

use std::{
    future::Future,
    hash::{BuildHasher, Hasher, RandomState},
    net::SocketAddr,
    time::Duration,
};

use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout_at},
};

use crate::{
    cause::Cause,
    config::{Config, Lane, LaneKind},
    record::Outcome,
};

/// What a lane's requests share.
pub(crate) enum Exchange {
    Tcp(tcp::Tcp),
    Http(http::Http),
    UdpFresh(udp::Fresh),
    UdpFixed(udp::Fixed),
}

impl Exchange {
    pub(crate) fn new(lane: &Lane, config: &Config) -> Self {
        let connector = Connector { target: lane.target, reset: config.close.resets(lane, config.duration) };
        match lane.kind {
            LaneKind::Tcp => Self::Tcp(tcp::Tcp { connector, depth: tcp::Depth::Connect }),
            LaneKind::TcpBanner => Self::Tcp(tcp::Tcp { connector, depth: tcp::Depth::Banner }),
            LaneKind::TcpEcho => Self::Tcp(tcp::Tcp { connector, depth: tcp::Depth::Echo }),
            LaneKind::Http => Self::Http(http::Http::new(connector, &lane.path, false)),
            LaneKind::HttpKeepalive => Self::Http(http::Http::new(connector, &lane.path, true)),
            LaneKind::Udp => Self::UdpFresh(udp::Fresh { target: lane.target, run: random_id() }),
            LaneKind::UdpFixed => Self::UdpFixed(udp::Fixed::new(lane.target, random_id())),
        }
    }

    /// Sends request number `sequence` and waits for its answer for at most `timeout`.
    pub(crate) async fn run(&self, sequence: u64, timeout: Duration) -> Outcome {
        let deadline = Instant::now() + timeout;
        match self {
            Self::Tcp(tcp) => tcp.run(sequence, deadline).await,
            Self::Http(http) => http.run(deadline).await,
            Self::UdpFresh(udp) => udp.run(sequence, deadline).await,
            Self::UdpFixed(udp) => udp.run(sequence, deadline).await,
        }
    }
}

/// Opens a lane's connections.
pub(crate) struct Connector {
    target: SocketAddr,
    /// End connections with RST.
    reset: bool,
}

impl Connector {
    async fn connect(&self, deadline: Instant) -> Result<TcpStream, Cause> {
        let socket = self.socket().map_err(|_| Cause::LocalError)?;
        let stream = before(deadline, Cause::ConnectTimeout, socket.connect(self.target)).await?;
        stream.map_err(|error| Cause::of_connect(&error))
    }

    fn socket(&self) -> std::io::Result<TcpSocket> {
        let socket = if self.target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_nodelay(true)?;
        if self.reset {
            socket.set_zero_linger()?;
        }
        Ok(socket)
    }
}

/// `future`, or `cause` if it has not finished by `deadline`.
async fn before<T>(deadline: Instant, cause: Cause, future: impl Future<Output = T>) -> Result<T, Cause> {
    timeout_at(deadline, future).await.map_err(|_| cause)
}

/// A server's name fit for a report: printable ASCII, at most 64 characters. `None` if nothing is left.
fn identity(bytes: &[u8]) -> Option<String> {
    let name: String =
        bytes.iter().filter(|byte| byte.is_ascii_graphic()).take(64).map(|&byte| char::from(byte)).collect();
    (!name.is_empty()).then_some(name)
}

/// Tells this run's datagrams from those of any other.
fn random_id() -> u64 {
    RandomState::new().build_hasher().finish()
}
