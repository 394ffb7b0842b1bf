//! What to probe and how hard.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    num::NonZeroU32,
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    dns,
    engine::{self, TlsError},
};

/// What one request of a lane does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaneKind {
    /// Complete a TCP handshake.
    Tcp,
    /// Connect and read the line with which the server names itself.
    TcpBanner,
    /// As `TcpBanner`, then send a line and expect it back.
    TcpEcho,
    /// Send numbered bytes on one of several connections that stay open, and expect them back once and in order.
    TcpLong,
    /// Complete a TCP and a TLS handshake.
    Tls,
    /// HTTP/1.1 GET on a new connection.
    Http,
    /// HTTP/1.1 GET on a connection kept open between requests.
    HttpKeepalive,
    /// HTTP/2 GET on a new connection, without TLS and with prior knowledge (RFC 9113 section 3.3).
    H2,
    /// HTTP/2 GET as a stream of a connection kept open.
    H2Keepalive,
    /// A datagram and its reply, from a new source port each time.
    Udp,
    /// A datagram and its reply, all from the lane's one source port.
    UdpFixed,
    /// A DNS query over UDP, from a new source port each time.
    Dns,
    /// A DNS query over UDP, all from the lane's one source port.
    DnsFixed,
    /// A DNS query over a TCP connection of its own.
    DnsTcp,
}

impl LaneKind {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::Tcp,
        Self::TcpBanner,
        Self::TcpEcho,
        Self::TcpLong,
        Self::Tls,
        Self::Http,
        Self::HttpKeepalive,
        Self::H2,
        Self::H2Keepalive,
        Self::Udp,
        Self::UdpFixed,
        Self::Dns,
        Self::DnsFixed,
        Self::DnsTcp,
    ];

    /// The scheme of a target of this kind.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::TcpBanner => "tcp-banner",
            Self::TcpEcho => "tcp-echo",
            Self::TcpLong => "tcp-long",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::HttpKeepalive => "http-keepalive",
            Self::H2 => "h2",
            Self::H2Keepalive => "h2-keepalive",
            Self::Udp => "udp",
            Self::UdpFixed => "udp-fixed",
            Self::Dns => "dns",
            Self::DnsFixed => "dns-fixed",
            Self::DnsTcp => "dns-tcp",
        }
    }

    /// The port of a target that names none.
    const fn default_port(self) -> Option<u16> {
        match self {
            Self::Http | Self::HttpKeepalive | Self::H2 | Self::H2Keepalive => Some(80),
            Self::Tls => Some(443),
            Self::Dns | Self::DnsFixed | Self::DnsTcp => Some(53),
            _ => None,
        }
    }

    pub(crate) const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::HttpKeepalive | Self::H2 | Self::H2Keepalive)
    }

    pub(crate) const fn is_dns(self) -> bool {
        matches!(self, Self::Dns | Self::DnsFixed | Self::DnsTcp)
    }

    /// Whether a request is a datagram, which knows no handshake.
    pub(crate) const fn is_datagram(self) -> bool {
        matches!(self, Self::Udp | Self::UdpFixed | Self::Dns | Self::DnsFixed)
    }

    /// Whether every request takes a local TCP port of its own.
    const fn connects_each_time(self) -> bool {
        matches!(self, Self::Tcp | Self::TcpBanner | Self::TcpEcho | Self::Tls | Self::Http | Self::H2 | Self::DnsTcp)
    }
}

/// A target as written on the command line: `SCHEME://HOST[:PORT][/PATH]`.
///
/// For DNS, the path is the question: `dns://HOST/NAME[?type=TYPE]` (after RFC 4501), type A unless given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// From the scheme.
    pub kind: LaneKind,
    /// An IP address, or a name to be resolved.
    pub host: String,
    /// Where to connect or send to.
    pub port: u16,
    /// Path and query of an HTTP target, `/` unless given; the question of a DNS target, without the slash; empty for
    /// the other kinds.
    pub path: String,
}

/// Why a target was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TargetError {
    /// No `://`, or a scheme that is not a [`LaneKind`].
    #[error("`{0}` does not start with one of {schemes}", schemes = schemes())]
    Scheme(String),
    /// Not `HOST:PORT`.
    #[error("`{0}` is not a host and port, such as 192.0.2.1:80, [2001:db8::1]:80 or web.example:80")]
    Address(String),
    /// A path on a lane that has none.
    #[error("`{0}` has a path, which only the HTTP and DNS lanes use")]
    UnexpectedPath(String),
    /// A path that cannot be sent.
    #[error("`{0}` is not a valid HTTP path")]
    Path(String),
    /// A question that cannot be asked.
    #[error("`{text}` is not a DNS question, such as www.example.com or www.example.com?type=AAAA: {source}")]
    Question {
        /// What was written.
        text: String,
        /// Why not.
        source: dns::QuestionError,
    },
    /// The name could not be resolved.
    #[error("cannot resolve `{host}`: {reason}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        reason: String,
    },
}

fn schemes() -> String {
    LaneKind::ALL.map(|kind| format!("{}://", kind.scheme())).join(", ")
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (kind, rest) = text
            .split_once("://")
            .and_then(|(scheme, rest)| Some((LaneKind::ALL.into_iter().find(|kind| kind.scheme() == scheme)?, rest)))
            .ok_or_else(|| TargetError::Scheme(text.to_owned()))?;
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let (host, port) =
            host_and_port(authority, kind.default_port()).ok_or_else(|| TargetError::Address(authority.to_owned()))?;
        let path = if kind.is_http() {
            let path = if path.is_empty() { "/" } else { path };
            if !is_path(path) {
                return Err(TargetError::Path(path.to_owned()));
            }
            path
        } else if kind.is_dns() {
            let question = path.strip_prefix('/').unwrap_or_default();
            dns::Question::from_str(question)
                .map_err(|source| TargetError::Question { text: question.to_owned(), source })?;
            question
        } else if matches!(path, "" | "/") {
            ""
        } else {
            return Err(TargetError::UnexpectedPath(text.to_owned()));
        };
        Ok(Self { kind, host, port, path: path.to_owned() })
    }
}

/// The host without brackets, and the port.
fn host_and_port(authority: &str, default: Option<u16>) -> Option<(String, u16)> {
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return Some((address.ip().to_string(), address.port()));
    }
    let bare = authority.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(authority);
    if let (Ok(address), Some(port)) = (bare.parse::<IpAddr>(), default) {
        return (address.is_ipv4() || bare.len() < authority.len()).then(|| (address.to_string(), port));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, default?),
    };
    let is_name = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        // What looks like an address is one, and was refused above.
        && host.bytes().any(|byte| byte.is_ascii_alphabetic());
    is_name.then(|| (host.to_owned(), port))
}

impl Target {
    /// The host and port as they stand in a URL.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The address: as written, or the first that the system's resolver gives. Blocks while it asks.
    ///
    /// # Errors
    ///
    /// [`TargetError::Resolve`]
    pub fn resolve(&self) -> Result<SocketAddr, TargetError> {
        let failed = |reason: String| TargetError::Resolve { host: self.host.clone(), reason };
        let mut addresses =
            (self.host.as_str(), self.port).to_socket_addrs().map_err(|error| failed(error.to_string()))?;
        addresses.next().ok_or_else(|| failed("it has no address".to_owned()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.kind.is_dns() { "/" } else { "" };
        write!(f, "{}://{}{slash}{}", self.kind.scheme(), self.authority(), self.path)
    }
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.parse::<hyper::http::uri::PathAndQuery>().is_ok()
}

/// How often a lane sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// Open loop: so many requests a second, equally spaced, whatever becomes of them.
    PerSecond(NonZeroU32),
    /// Closed loop: so many requests in flight all the time, the next when one has ended. It measures throughput, as
    /// load generators do, and cannot see a stall as its users would.
    Max {
        /// Requests in flight.
        connections: NonZeroU32,
    },
}

impl From<NonZeroU32> for Rate {
    fn from(rate: NonZeroU32) -> Self {
        Self::PerSecond(rate)
    }
}

/// One stream of requests.
#[derive(Clone, Debug)]
pub struct Lane {
    /// How the lane is called in the report.
    pub name: String,
    /// What a request does.
    pub kind: LaneKind,
    /// Where to connect or send to.
    pub target: SocketAddr,
    /// Host and port as the HTTP kinds name them to the server.
    pub authority: String,
    /// Path and query for the HTTP kinds, the question for the DNS kinds; unused by the others.
    pub path: String,
    /// How often.
    pub rate: Rate,
    /// What else is asked of the answers.
    pub options: LaneOptions,
}

/// What a lane asks of the answers, and how.
#[derive(Clone, Debug)]
pub struct LaneOptions {
    /// The only servers that may answer, by the name they give themselves; others are [`crate::Cause::Misroute`]. Empty
    /// for any.
    pub servers: BTreeSet<String>,
    /// Whether several servers may answer on one connection, as behind a proxy that balances requests; otherwise it is
    /// [`crate::Cause::SplitFlow`].
    pub allow_split: bool,
    /// Connections of the long-lived kind, among which the requests take turns.
    pub connections: NonZeroU32,
    /// DNS response codes that are right.
    pub rcodes: BTreeSet<u8>,
    /// How TLS servers are verified.
    pub tls: TlsVerify,
    /// The name asked for in the TLS handshake, and verified; the host of the target unless given.
    pub tls_name: Option<String>,
}

impl Default for LaneOptions {
    fn default() -> Self {
        Self {
            servers: BTreeSet::new(),
            allow_split: false,
            connections: NonZeroU32::new(10).unwrap_or(NonZeroU32::MIN),
            rcodes: BTreeSet::from([0]),
            tls: TlsVerify::System,
            tls_name: None,
        }
    }
}

/// How TLS servers are verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsVerify {
    /// Against the certificates the system trusts.
    System,
    /// Against the certificates of this PEM text.
    Roots(String),
    /// Not at all: any certificate will do, as when an address is probed.
    Off,
}

impl Lane {
    /// A lane named after its target, whose name is resolved now.
    ///
    /// # Errors
    ///
    /// [`TargetError::Resolve`]
    pub fn new(target: &Target, rate: impl Into<Rate>) -> Result<Self, TargetError> {
        Ok(Self {
            name: target.to_string(),
            authority: target.authority(),
            path: target.path.clone(),
            ..Self::to(target.kind, target.resolve()?, rate)
        })
    }

    /// A lane to an address. The path is `/` for the HTTP kinds and empty for others; a DNS lane needs one.
    #[must_use]
    pub fn to(kind: LaneKind, target: SocketAddr, rate: impl Into<Rate>) -> Self {
        Self {
            name: format!("{}://{target}", kind.scheme()),
            kind,
            target,
            authority: target.to_string(),
            path: if kind.is_http() { "/".to_owned() } else { String::new() },
            rate: rate.into(),
            options: LaneOptions::default(),
        }
    }

    /// Time between two requests; `None` in a closed loop.
    pub(crate) fn interval(&self) -> Option<Duration> {
        match self.rate {
            Rate::PerSecond(rate) => Some(Duration::from_secs(1) / rate.get()),
            Rate::Max { .. } => None,
        }
    }
}

/// How the prober ends its TCP connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// `Fin` where the local ports last for the run, `Reset` where they would run out.
    Auto,
    /// As ordinary clients do. The side that closes first keeps its port in TIME_WAIT for 60 s.
    Fin,
    /// Abort the connection after the answer, which frees the port at once.
    Reset,
}

impl Close {
    /// Whether a lane's connections end with RST.
    pub(crate) fn resets(self, lane: &Lane, duration: Duration) -> bool {
        /// How long Linux holds a port in TIME_WAIT (`TCP_TIMEWAIT_LEN`).
        const TIME_WAIT: Duration = Duration::from_secs(60);
        match self {
            Self::Fin => false,
            Self::Reset => true,
            Self::Auto => {
                let Rate::PerSecond(rate) = lane.rate else { return lane.kind.connects_each_time() };
                let held = u64::from(rate.get()) * duration.min(TIME_WAIT).as_secs().max(1);
                // Past half of the range, `connect` takes noticeably longer to find a free port.
                lane.kind.connects_each_time() && held > local_ports() / 2
            }
        }
    }
}

/// The size of the local port range of the calling thread's network namespace.
fn local_ports() -> u64 {
    /// The kernel's default range, 32768 to 60999.
    const DEFAULT: u64 = 28_232;
    let Ok(range) = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range") else { return DEFAULT };
    let mut bounds = range.split_whitespace().map(str::parse::<u64>);
    match (bounds.next(), bounds.next()) {
        (Some(Ok(low)), Some(Ok(high))) if low <= high => high - low + 1,
        _ => DEFAULT,
    }
}

/// A run of the prober.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to probe, all at the same time.
    pub lanes: Vec<Lane>,
    /// For how long requests are started; the run ends when the last of them has.
    pub duration: Duration,
    /// How long a request may take from its actual start.
    pub timeout: Duration,
    /// The 99th percentile of the prober's own scheduling lag over which the run is invalid.
    pub max_lag: Duration,
    /// How connections end.
    pub close: Close,
    /// Requests in flight over which no further one is started; those count as [`crate::Cause::LocalError`].
    pub max_in_flight: usize,
}

impl Config {
    /// A run with a timeout of 2 s, a lag bound of 20 ms and at most 16,384 requests in flight.
    #[must_use]
    pub fn new(lanes: Vec<Lane>, duration: Duration) -> Self {
        Self {
            lanes,
            duration,
            timeout: Duration::from_secs(2),
            max_lag: Duration::from_millis(20),
            close: Close::Auto,
            max_in_flight: 16_384,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.lanes.is_empty() {
            return Err(ConfigError::NoLanes);
        }
        if self.duration.is_zero() || self.timeout.is_zero() {
            return Err(ConfigError::ZeroTime);
        }
        for lane in &self.lanes {
            if lane.kind.is_http() && !is_path(&lane.path) {
                return Err(ConfigError::Path(lane.path.clone()));
            }
            if lane.kind == LaneKind::Tls {
                engine::check_tls(lane).map_err(|source| ConfigError::Tls { lane: lane.name.clone(), source })?;
            }
            if lane.kind.is_dns() {
                dns::Question::from_str(&lane.path)
                    .map_err(|source| ConfigError::Question { lane: lane.name.clone(), source })?;
            }
        }
        Ok(())
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Nothing to probe.
    #[error("there is no target to probe")]
    NoLanes,
    /// A duration or timeout of nothing.
    #[error("the duration and the timeout must be more than zero")]
    ZeroTime,
    /// A path that cannot be sent.
    #[error("`{0}` is not a valid HTTP path")]
    Path(String),
    /// A TLS lane whose server cannot be verified as asked for.
    #[error("{lane}: {source}")]
    Tls {
        /// The lane's name.
        lane: String,
        /// Why not.
        source: TlsError,
    },
    /// A DNS lane without a question that can be asked.
    #[error("{lane}: {source}")]
    Question {
        /// The lane's name.
        lane: String,
        /// Why not.
        source: dns::QuestionError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_round_trip() {
        for text in [
            "tcp://10.0.0.1:80",
            "tcp-banner://[2001:db8::1]:7000",
            "tcp-echo://10.0.0.1:1",
            "tcp-long://a-b.example:1",
            "tls://web.example:443",
            "http://10.0.0.1:8080/a?b=c",
            "http-keepalive://[::1]:8080/",
            "h2://web:80/",
            "udp://10.0.0.1:53",
            "udp-fixed://10.0.0.1:53",
            "dns://10.0.0.1:53/www.example.com",
            "dns-tcp://[::1]:53/www.example.com?type=AAAA",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert_eq!("http://10.0.0.1:80".parse::<Target>().unwrap().path, "/");
        assert_eq!("http://web".parse::<Target>().unwrap().authority(), "web:80");
        assert_eq!("dns://[::1]/example.com".parse::<Target>().unwrap().port, 53);
    }

    #[test]
    fn bad_targets_name_their_fault() {
        let error = |text: &str| text.parse::<Target>().unwrap_err();
        assert!(matches!(error("10.0.0.1:80"), TargetError::Scheme(_)));
        assert!(matches!(error("ftp://10.0.0.1:80"), TargetError::Scheme(_)));
        for text in ["tcp://10.0.0.1", "tcp://web", "tcp://10.0.0.999:1", "tcp://a b:1", "tcp://:1", "tcp://web:70000"]
        {
            assert!(matches!(error(text), TargetError::Address(_)), "{text}");
        }
        assert!(matches!(error("http://::1"), TargetError::Address(_)));
        assert!(matches!(error("tcp://10.0.0.1:80/x"), TargetError::UnexpectedPath(_)));
        assert!(matches!(error("http://10.0.0.1:80/a b"), TargetError::Path(_)));
        assert!(matches!(error("dns://10.0.0.1"), TargetError::Question { .. }));
        assert!(matches!(error("dns://10.0.0.1/a?type=NONE"), TargetError::Question { .. }));
    }

    #[test]
    fn names_are_resolved() {
        let target: Target = "tcp://localhost:80".parse().unwrap();
        assert!(target.resolve().unwrap().ip().is_loopback());
        let target: Target = "tcp://does-not-exist.invalid:80".parse().unwrap();
        assert!(matches!(target.resolve(), Err(TargetError::Resolve { .. })));
    }

    #[test]
    fn connections_are_reset_only_where_ports_would_run_out() {
        let lane = |kind, rate| Lane::to(kind, "127.0.0.1:1".parse().unwrap(), NonZeroU32::new(rate).unwrap());
        let minute = Duration::from_secs(60);
        assert!(!Close::Auto.resets(&lane(LaneKind::Tcp, 1), minute));
        assert!(Close::Auto.resets(&lane(LaneKind::Tcp, 2_000), minute));
        assert!(!Close::Auto.resets(&lane(LaneKind::HttpKeepalive, 2_000), minute));
        assert!(!Close::Fin.resets(&lane(LaneKind::Tcp, 2_000), minute));
    }

    #[test]
    fn empty_configurations_are_refused() {
        assert_eq!(Config::new(Vec::new(), Duration::from_secs(1)).validate(), Err(ConfigError::NoLanes));
        let target = "127.0.0.1:1".parse().unwrap();
        let lane = |kind| Lane::to(kind, target, NonZeroU32::MIN);
        assert_eq!(Config::new(vec![lane(LaneKind::Tcp)], Duration::ZERO).validate(), Err(ConfigError::ZeroTime));
        let error = Config::new(vec![lane(LaneKind::Dns)], Duration::from_secs(1)).validate().unwrap_err();
        assert!(matches!(error, ConfigError::Question { .. }));
    }
}
