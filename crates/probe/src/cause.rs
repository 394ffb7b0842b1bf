//! Why a request failed, and how the kernel's errors map to that.

use std::{fmt, io};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Why a request failed. The names are the same in the report, the log and the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The SYN was answered with RST, or a datagram with ICMP port unreachable.
    Refused,
    /// RST arrived after the SYN-ACK, before the prober could use the connection.
    ResetBeforeEstablished,
    /// RST on an established connection.
    Reset,
    /// The peer closed before the answer was complete.
    EarlyEof,
    /// The handshake was not complete within the timeout.
    ConnectTimeout,
    /// The connection was established, but the answer was not complete within the timeout.
    ReadTimeout,
    /// ICMP host, network or protocol unreachable, or no route.
    Unreachable,
    /// A complete answer with a status outside 2xx and 3xx.
    HttpStatus,
    /// An answer that is not what was asked for: a malformed message, or other bytes than expected.
    WrongBody,
    /// No reply to a datagram within the timeout.
    UdpTimeout,
    /// A reply that does not carry the request's identifier and sequence number.
    UdpWrongReply,
    /// The prober's own host failed it (out of descriptors, ports, memory): the run is invalid.
    LocalError,
}

impl Cause {
    /// Every cause, in the order of the report. `ALL[cause as usize] == cause`.
    pub const ALL: [Self; 12] = [
        Self::Refused,
        Self::ResetBeforeEstablished,
        Self::Reset,
        Self::EarlyEof,
        Self::ConnectTimeout,
        Self::ReadTimeout,
        Self::Unreachable,
        Self::HttpStatus,
        Self::WrongBody,
        Self::UdpTimeout,
        Self::UdpWrongReply,
        Self::LocalError,
    ];

    /// The name used in reports and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::ResetBeforeEstablished => "reset_before_established",
            Self::Reset => "reset",
            Self::EarlyEof => "early_eof",
            Self::ConnectTimeout => "connect_timeout",
            Self::ReadTimeout => "read_timeout",
            Self::Unreachable => "unreachable",
            Self::HttpStatus => "http_status",
            Self::WrongBody => "wrong_body",
            Self::UdpTimeout => "udp_timeout",
            Self::UdpWrongReply => "udp_wrong_reply",
            Self::LocalError => "local_error",
        }
    }

    /// The cause of an error from `connect(2)`, waited for or not.
    pub(crate) fn of_connect(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::CONNREFUSED) => Self::Refused,
            Some(Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE) => Self::ResetBeforeEstablished,
            Some(Errno::TIMEDOUT) => Self::ConnectTimeout,
            Some(errno) if is_unreachable(errno) => Self::Unreachable,
            _ => Self::LocalError,
        }
    }

    /// The cause of an error from reading or writing an established connection.
    pub(crate) fn of_stream(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::EarlyEof;
        }
        match Errno::from_io_error(error) {
            Some(Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE | Errno::NOTCONN) => Self::Reset,
            Some(Errno::TIMEDOUT) => Self::ReadTimeout,
            Some(errno) if is_unreachable(errno) => Self::Unreachable,
            _ => Self::LocalError,
        }
    }

    /// The cause of an error on a connected UDP socket, where ICMP errors come back from `send` and `recv`.
    pub(crate) fn of_datagram(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::CONNREFUSED) => Self::Refused,
            Some(errno) if is_unreachable(errno) => Self::Unreachable,
            _ => Self::LocalError,
        }
    }
}

/// The errors the kernel derives from ICMP and ICMPv6. `ACCES` is ICMPv6 "administratively prohibited" and "reject
/// route", `NOPROTOOPT` is "protocol unreachable", `PROTO` a parameter problem.
fn is_unreachable(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::HOSTUNREACH
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::NETDOWN
            | Errno::NONET
            | Errno::NOPROTOOPT
            | Errno::PROTO
            | Errno::ACCESS
    )
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_name_and_serialized_form_agree() {
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index);
            assert_eq!(serde_json::to_string(&cause).unwrap(), format!("\"{}\"", cause.name()));
        }
    }

    #[test]
    fn exhausted_descriptors_and_ports_are_the_probers_own() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM, Errno::PERM] {
            assert_eq!(Cause::of_connect(&errno.into()), Cause::LocalError, "{errno}");
            assert_eq!(Cause::of_datagram(&errno.into()), Cause::LocalError, "{errno}");
        }
    }

    #[test]
    fn icmp_errors_are_unreachable() {
        for errno in [Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::ACCESS, Errno::NOPROTOOPT] {
            assert_eq!(Cause::of_connect(&errno.into()), Cause::Unreachable, "{errno}");
            assert_eq!(Cause::of_stream(&errno.into()), Cause::Unreachable, "{errno}");
            assert_eq!(Cause::of_datagram(&errno.into()), Cause::Unreachable, "{errno}");
        }
    }
}
