//! How a check ended.

use std::fmt;

/// How one check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend answered as it should.
    Healthy,
    /// It did not.
    Failed(Failure),
    /// It was not asked, because of this host: no descriptor or no permission, say. Says nothing about the backend.
    NotDone(String),
}

/// Why a check failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason's name in log and status.
    pub reason: Reason,
    /// What was met with, for people.
    pub detail: String,
}

impl Failure {
    /// This reason, with what was met with.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.reason, self.detail)
    }
}

/// Why a check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The connection was refused.
    TcpRefused,
    /// The connection was reset, or closed before the answer.
    TcpReset,
    /// No answer in time.
    Timeout,
    /// No route to the backend, or nobody at its address.
    Unreachable,
    /// Another status code than expected.
    HttpStatus,
    /// Something that is no HTTP response.
    HttpInvalid,
    /// A DNS answer with an error.
    DnsRcode,
    /// Something that is no answer to the query.
    DnsInvalid,
    /// Nobody listens on the UDP port.
    UdpRefused,
    /// Other bytes came back than were sent.
    EchoMismatch,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::TcpRefused,
        Self::TcpReset,
        Self::Timeout,
        Self::Unreachable,
        Self::HttpStatus,
        Self::HttpInvalid,
        Self::DnsRcode,
        Self::DnsInvalid,
        Self::UdpRefused,
        Self::EchoMismatch,
    ];

    /// Its name in log, status and tests.
    pub fn name(self) -> &'static str {
        match self {
            Self::TcpRefused => "health_tcp_refused",
            Self::TcpReset => "health_tcp_reset",
            Self::Timeout => "health_timeout",
            Self::Unreachable => "health_unreachable",
            Self::HttpStatus => "health_http_status",
            Self::HttpInvalid => "health_http_invalid",
            Self::DnsRcode => "health_dns_rcode",
            Self::DnsInvalid => "health_dns_invalid",
            Self::UdpRefused => "health_udp_refused",
            Self::EchoMismatch => "health_echo_mismatch",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
