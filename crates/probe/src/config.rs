//! What to probe and how hard.

use std::{fmt, net::SocketAddr, num::NonZeroU32, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

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
    /// HTTP/1.1 GET on a new connection.
    Http,
    /// HTTP/1.1 GET on a connection kept open between requests.
    HttpKeepalive,
    /// A datagram and its reply, from a new source port each time.
    Udp,
    /// A datagram and its reply, all from the lane's one source port.
    UdpFixed,
}

impl LaneKind {
    /// Every kind.
    pub const ALL: [Self; 7] =
        [Self::Tcp, Self::TcpBanner, Self::TcpEcho, Self::Http, Self::HttpKeepalive, Self::Udp, Self::UdpFixed];

    /// The scheme of a target of this kind.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::TcpBanner => "tcp-banner",
            Self::TcpEcho => "tcp-echo",
            Self::Http => "http",
            Self::HttpKeepalive => "http-keepalive",
            Self::Udp => "udp",
            Self::UdpFixed => "udp-fixed",
        }
    }

    const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::HttpKeepalive)
    }

    /// Whether every request takes a local TCP port of its own.
    const fn connects_each_time(self) -> bool {
        matches!(self, Self::Tcp | Self::TcpBanner | Self::TcpEcho | Self::Http)
    }
}

/// A target as written on the command line: `SCHEME://ADDRESS:PORT[/PATH]`, with an IP address, not a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// From the scheme.
    pub kind: LaneKind,
    /// Where to connect or send to.
    pub address: SocketAddr,
    /// Path and query of an HTTP target, `/` unless given; empty for the other kinds.
    pub path: String,
}

/// Why a target was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TargetError {
    /// No `://`, or a scheme that is not a [`LaneKind`].
    #[error(
        "`{0}` does not start with one of tcp://, tcp-banner://, tcp-echo://, http://, http-keepalive://, udp://, udp-fixed://"
    )]
    Scheme(String),
    /// Not `ADDRESS:PORT`.
    #[error("`{0}` is not an IP address and port, such as 192.0.2.1:80 or [2001:db8::1]:80")]
    Address(String),
    /// A path on a lane that has none.
    #[error("`{0}` has a path, which only the HTTP lanes use")]
    UnexpectedPath(String),
    /// A path that cannot be sent.
    #[error("`{0}` is not a valid HTTP path")]
    Path(String),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (kind, rest) = text
            .split_once("://")
            .and_then(|(scheme, rest)| Some((LaneKind::ALL.into_iter().find(|kind| kind.scheme() == scheme)?, rest)))
            .ok_or_else(|| TargetError::Scheme(text.to_owned()))?;
        let (address, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let address = address.parse().map_err(|_| TargetError::Address(address.to_owned()))?;
        let path = match (kind.is_http(), path) {
            (true, "") => "/",
            (false, "" | "/") => "",
            (true, path) if is_path(path) => path,
            (true, path) => return Err(TargetError::Path(path.to_owned())),
            (false, _) => return Err(TargetError::UnexpectedPath(text.to_owned())),
        };
        Ok(Self { kind, address, path: path.to_owned() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.kind.scheme(), self.address, self.path)
    }
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.parse::<hyper::http::uri::PathAndQuery>().is_ok()
}

/// One stream of equally spaced requests.
#[derive(Clone, Debug)]
pub struct Lane {
    /// How the lane is called in the report.
    pub name: String,
    /// What a request does.
    pub kind: LaneKind,
    /// Where to connect or send to.
    pub target: SocketAddr,
    /// Path and query for the HTTP kinds; unused by the others.
    pub path: String,
    /// Requests per second.
    pub rate: NonZeroU32,
}

impl Lane {
    /// A lane named after its target.
    #[must_use]
    pub fn new(target: Target, rate: NonZeroU32) -> Self {
        Self { name: target.to_string(), kind: target.kind, target: target.address, path: target.path, rate }
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
                let held = u64::from(lane.rate.get()) * duration.min(TIME_WAIT).as_secs().max(1);
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
        match self.lanes.iter().find(|lane| lane.kind.is_http() && !is_path(&lane.path)) {
            Some(lane) => Err(ConfigError::Path(lane.path.clone())),
            None => Ok(()),
        }
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
    /// The histograms' bounds were refused; a defect of this crate.
    #[error("latency histogram: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
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
            "http://10.0.0.1:8080/a?b=c",
            "http-keepalive://[::1]:8080/",
            "udp://10.0.0.1:53",
            "udp-fixed://10.0.0.1:53",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert_eq!("http://10.0.0.1:80".parse::<Target>().unwrap().path, "/");
    }

    #[test]
    fn bad_targets_name_their_fault() {
        let error = |text: &str| text.parse::<Target>().unwrap_err();
        assert!(matches!(error("10.0.0.1:80"), TargetError::Scheme(_)));
        assert!(matches!(error("ftp://10.0.0.1:80"), TargetError::Scheme(_)));
        assert!(matches!(error("tcp://10.0.0.1"), TargetError::Address(_)));
        assert!(matches!(error("tcp://example.com:80"), TargetError::Address(_)));
        assert!(matches!(error("tcp://10.0.0.1:80/x"), TargetError::UnexpectedPath(_)));
        assert!(matches!(error("http://10.0.0.1:80/a b"), TargetError::Path(_)));
    }

    #[test]
    fn connections_are_reset_only_where_ports_would_run_out() {
        let lane = |kind, rate| Lane {
            name: String::new(),
            kind,
            target: "127.0.0.1:1".parse().unwrap(),
            path: String::new(),
            rate: NonZeroU32::new(rate).unwrap(),
        };
        let minute = Duration::from_secs(60);
        assert!(!Close::Auto.resets(&lane(LaneKind::Tcp, 1), minute));
        assert!(Close::Auto.resets(&lane(LaneKind::Tcp, 2_000), minute));
        assert!(!Close::Auto.resets(&lane(LaneKind::HttpKeepalive, 2_000), minute));
        assert!(!Close::Fin.resets(&lane(LaneKind::Tcp, 2_000), minute));
    }

    #[test]
    fn empty_configurations_are_refused() {
        assert_eq!(Config::new(Vec::new(), Duration::from_secs(1)).validate(), Err(ConfigError::NoLanes));
        let lane = Lane::new("tcp://127.0.0.1:1".parse().unwrap(), NonZeroU32::MIN);
        assert_eq!(Config::new(vec![lane], Duration::ZERO).validate(), Err(ConfigError::ZeroTime));
    }
}
