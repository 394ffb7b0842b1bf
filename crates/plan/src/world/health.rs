//! How a service's backends are checked (`evenkeel.io/health-*`).

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use evenkeel_dns::Question;

/// The active check of a service's backends, and what follows from it. A node checks the backends it runs itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HealthCheck {
    /// What is sent, and what answer is expected.
    pub probe: HealthProbe,
    /// Where it is sent; `None`: the port the backend serves on.
    pub port: Option<u16>,
    /// From the begin of one check to that of the next.
    pub interval: Duration,
    /// How long an answer may take. At most `interval`.
    pub timeout: Duration,
    /// As many checks in a row fail before a backend gets no new flows.
    pub unhealthy_after: u8,
    /// As many checks in a row succeed before it gets new flows again.
    pub healthy_after: u8,
    /// How long a backend takes to come back to its full share of new flows; zero: it has it at once.
    pub slow_start: Duration,
    /// Whether what clients meet with can take a backend out sooner, once a check confirms it.
    pub passive_ejection: bool,
}

impl HealthCheck {
    /// The shortest and the longest interval.
    pub const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(1);
    /// The shortest and the longest timeout.
    pub const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_mins(1);
    /// The shortest and the longest slow start.
    pub const SLOW_START: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);
    /// The fewest and the most checks in a row.
    pub const COUNT: RangeInclusive<u8> = 1..=100;

    /// This probe, with all else at its default: every 5 s, 1 s for an answer, down after 3 failures, back after 2
    /// successes and over 10 s.
    pub fn new(probe: HealthProbe) -> Self {
        Self {
            probe,
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
            slow_start: Duration::from_secs(10),
            passive_ejection: false,
        }
    }
}

/// What a check sends (`evenkeel.io/health-check`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HealthProbe {
    /// A TCP connection, which is to be accepted.
    Tcp,
    /// An HTTP/1.1 GET, which is to be answered with one of some codes.
    Http(HttpProbe),
    /// A DNS query over UDP, which is to be answered without an error.
    DnsUdp(Question),
    /// A DNS query over TCP, which is to be answered without an error.
    DnsTcp(Question),
    /// An ICMP or ICMPv6 echo request.
    Icmp,
    /// A UDP datagram, which is to come back (RFC 862).
    UdpEcho,
}

impl HealthProbe {
    /// As the annotation spells it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(_) => "http",
            Self::DnsUdp(_) => "dns-udp",
            Self::DnsTcp(_) => "dns-tcp",
            Self::Icmp => "icmp",
            Self::UdpEcho => "udp-echo",
        }
    }
}

/// What an HTTP check asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpProbe {
    /// The path, with the query if any.
    pub path: HttpPath,
    /// The `Host` field; `None`: the backend's address and port.
    pub host: Option<HttpHost>,
    /// The status codes of a healthy backend.
    pub expect: StatusCodes,
}

/// An HTTP request's target in origin form (RFC 9112 section 3.2.1): a path, and a query if any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpPath(String);

/// The value of an HTTP request's `Host` field: a name or an address, with a port if any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpHost(String);

/// Why a text is neither an HTTP path nor a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpProbeError {
    /// No path.
    #[error("`{0}` is not a path: it starts with `/` and has no space, no `#` and only ASCII in it")]
    Path(String),
    /// No host.
    #[error("`{0}` is neither a host's name nor its address")]
    Host(String),
}

/// Longest path and longest host, in characters.
const MAX_PATH: usize = 2048;
const MAX_HOST: usize = 259;

impl HttpPath {
    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for HttpPath {
    fn default() -> Self {
        Self("/".to_owned())
    }
}

impl FromStr for HttpPath {
    type Err = HttpProbeError;

    fn from_str(text: &str) -> Result<Self, HttpProbeError> {
        let fits = text.starts_with('/')
            && text.len() <= MAX_PATH
            && text.bytes().all(|byte| {
                byte.is_ascii_graphic()
                    && !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{'..=b'}')
            });
        fits.then(|| Self(text.to_owned())).ok_or_else(|| HttpProbeError::Path(text.to_owned()))
    }
}

impl HttpHost {
    /// The host.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HttpHost {
    type Err = HttpProbeError;

    fn from_str(text: &str) -> Result<Self, HttpProbeError> {
        let fits = (1..=MAX_HOST).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']'));
        fits.then(|| Self(text.to_owned())).ok_or_else(|| HttpProbeError::Host(text.to_owned()))
    }
}

/// HTTP status codes: `200`, or `200-299,404`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusCodes(Vec<(u16, u16)>);

/// Success and redirection, as Kubernetes' own probes have it.
impl Default for StatusCodes {
    fn default() -> Self {
        Self(vec![(200, 399)])
    }
}

impl StatusCodes {
    /// Whether this is one of them.
    pub fn contain(&self, code: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&code))
    }
}

impl fmt::Display for StatusCodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

/// Why a text is no list of status codes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a status code from 200 to 599 nor a range of them")]
pub struct StatusCodesError(String);

impl FromStr for StatusCodes {
    type Err = StatusCodesError;

    fn from_str(text: &str) -> Result<Self, StatusCodesError> {
        /// Most ranges: nobody needs more, and every check looks through them.
        const MOST: usize = 20;
        // A code below 200 announces the answer, it is none.
        let code = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|code| digits && (200..=599).contains(code))
        };
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = code(first.trim()).zip(code(last.trim())).filter(|(first, last)| first <= last);
            range.ok_or_else(|| StatusCodesError(part.to_owned()))
        };
        let codes = text.split(',').map(str::trim).map(range).collect::<Result<Vec<_>, _>>()?;
        if codes.len() > MOST {
            return Err(StatusCodesError(text.to_owned()));
        }
        Ok(Self(codes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_are_single_or_in_ranges() {
        let codes: StatusCodes = "200-299, 404".parse().unwrap();
        assert_eq!(
            [199, 200, 299, 300, 404, 405].map(|code| codes.contain(code)),
            [false, true, true, false, true, false]
        );
        assert_eq!(codes.to_string(), "200-299,404");
        for text in ["", "0", "20", "99", "100", "600", "2000", "200-", "-200", "299-200", "200,,201", "+200", "2xx"] {
            assert!(text.parse::<StatusCodes>().is_err(), "{text}");
        }
        assert!(vec!["200"; 21].join(",").parse::<StatusCodes>().is_err());
    }

    #[test]
    fn paths_and_hosts_cannot_break_out_of_a_request() {
        for text in ["/", "/healthz?full=1&x=%20", "/a/~b"] {
            assert_eq!(text.parse::<HttpPath>().unwrap().as_str(), text);
        }
        for text in
            ["", "healthz", "/a b", "/a\r\nX: y", "/a#b", "/\u{e9}", "http://a/", &format!("/{}", "a".repeat(2048))]
        {
            assert!(text.parse::<HttpPath>().is_err(), "{text}");
        }
        for text in ["web.example", "web_1:8080", "[2001:db8::1]:80", "192.0.2.1"] {
            assert_eq!(text.parse::<HttpHost>().unwrap().as_str(), text);
        }
        for text in ["", "a b", "a\r\nX: y", "a/b", "user@host", "\u{e9}", &"a".repeat(260)] {
            assert!(text.parse::<HttpHost>().is_err(), "{text}");
        }
    }
}
