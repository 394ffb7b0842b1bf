//! Why a request failed, and how the kernel's errors map to that.

use std::{fmt, io};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Why a request failed. The names are the same in the report, the log and the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The SYN was answered with RST: nothing listens. The handshake was never complete.
    Refused,
    /// RST after the SYN-ACK, on a connection that was established.
    Reset,
    /// The peer closed before it had answered.
    EarlyEof,
    /// The TCP handshake was not complete within the timeout.
    ConnectTimeout,
    /// The connection was established, but the answer was not complete within the timeout.
    ReadStall,
    /// No answer to a datagram within the timeout.
    NoReply,
    /// ICMP host unreachable, or no neighbour answers for the address.
    UnreachableHost,
    /// ICMP network unreachable, or no route.
    UnreachableNet,
    /// ICMP port unreachable, in answer to a datagram or a SYN.
    UnreachablePort,
    /// ICMP protocol unreachable, ICMPv6 administratively prohibited, or a parameter problem.
    UnreachableOther,
    /// The TLS handshake failed: an alert, a certificate that does not verify, or not TLS at all.
    Tls,
    /// A complete answer with a status outside 2xx and 3xx.
    HttpStatus,
    /// An answer that is not what was asked for: a malformed message, or other bytes than expected.
    WrongBody,
    /// The answer ended before its announced or expected length.
    TruncatedBody,
    /// A datagram that does not carry the request's identifier and sequence number, or is no DNS answer to the question.
    WrongReply,
    /// A DNS answer with a response code other than those expected (`SERVFAIL` and its like).
    DnsRcode,
    /// A DNS answer over UDP with the TC flag: cut to fit.
    DnsTruncated,
    /// A DNS answer with an identifier nobody asked with.
    DnsIdMismatch,
    /// The server that answered is none of those expected.
    Misroute,
    /// One connection was answered by two servers.
    SplitFlow,
    /// Bytes of a long-lived connection never came back.
    SequenceLost,
    /// Bytes of a long-lived connection came back twice.
    SequenceDuplicated,
    /// Bytes of a long-lived connection came back in another order.
    SequenceReordered,
    /// The prober's own host failed it (out of descriptors, ports, memory): the run is invalid.
    LocalError,
}

impl Cause {
    /// Every cause, in the order of the report. `ALL[cause as usize] == cause`.
    pub const ALL: [Self; 24] = [
        Self::Refused,
        Self::Reset,
        Self::EarlyEof,
        Self::ConnectTimeout,
        Self::ReadStall,
        Self::NoReply,
        Self::UnreachableHost,
        Self::UnreachableNet,
        Self::UnreachablePort,
        Self::UnreachableOther,
        Self::Tls,
        Self::HttpStatus,
        Self::WrongBody,
        Self::TruncatedBody,
        Self::WrongReply,
        Self::DnsRcode,
        Self::DnsTruncated,
        Self::DnsIdMismatch,
        Self::Misroute,
        Self::SplitFlow,
        Self::SequenceLost,
        Self::SequenceDuplicated,
        Self::SequenceReordered,
        Self::LocalError,
    ];

    /// The name used in reports and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::EarlyEof => "early_eof",
            Self::ConnectTimeout => "connect_timeout",
            Self::ReadStall => "read_stall",
            Self::NoReply => "no_reply",
            Self::UnreachableHost => "unreachable_host",
            Self::UnreachableNet => "unreachable_net",
            Self::UnreachablePort => "unreachable_port",
            Self::UnreachableOther => "unreachable_other",
            Self::Tls => "tls",
            Self::HttpStatus => "http_status",
            Self::WrongBody => "wrong_body",
            Self::TruncatedBody => "truncated_body",
            Self::WrongReply => "wrong_reply",
            Self::DnsRcode => "dns_rcode",
            Self::DnsTruncated => "dns_truncated",
            Self::DnsIdMismatch => "dns_id_mismatch",
            Self::Misroute => "misroute",
            Self::SplitFlow => "split_flow",
            Self::SequenceLost => "sequence_lost",
            Self::SequenceDuplicated => "sequence_duplicated",
            Self::SequenceReordered => "sequence_reordered",
            Self::LocalError => "local_error",
        }
    }

    /// The cause of an error from `connect(2)`, waited for or not. What `ECONNREFUSED` came from is the caller's to
    /// tell: see `sys`.
    pub(crate) fn of_connect(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::CONNREFUSED) => Self::Refused,
            // The RST met an established connection: in SYN-SENT it would have been `CONNREFUSED`.
            Some(Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE) => Self::Reset,
            Some(Errno::TIMEDOUT) => Self::ConnectTimeout,
            Some(errno) => Self::of_icmp(errno).unwrap_or(Self::LocalError),
            None => Self::LocalError,
        }
    }

    /// The cause of an error from reading or writing an established connection.
    pub(crate) fn of_stream(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::EarlyEof;
        }
        match Errno::from_io_error(error) {
            Some(Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE | Errno::NOTCONN) => Self::Reset,
            Some(Errno::TIMEDOUT) => Self::ReadStall,
            Some(errno) => Self::of_icmp(errno).unwrap_or(Self::LocalError),
            // Libraries pass on what kind of error it was, and not always its number.
            None => match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                    Self::Reset
                }
                io::ErrorKind::TimedOut => Self::ReadStall,
                io::ErrorKind::HostUnreachable => Self::UnreachableHost,
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => Self::UnreachableNet,
                _ => Self::LocalError,
            },
        }
    }

    /// The cause of an error on a connected UDP socket, where ICMP errors come back from `send` and `recv`.
    pub(crate) fn of_datagram(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::CONNREFUSED) => Self::UnreachablePort,
            Some(errno) => Self::of_icmp(errno).unwrap_or(Self::LocalError),
            None => Self::LocalError,
        }
    }

    /// The errors the kernel derives from ICMP and ICMPv6, and from its own routes and neighbours (`icmp_err_convert` of
    /// net/ipv4/icmp.c, `tab_unreach` of net/ipv6/icmp.c).
    fn of_icmp(errno: Errno) -> Option<Self> {
        match errno {
            Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::NONET => Some(Self::UnreachableHost),
            Errno::NETUNREACH | Errno::NETDOWN => Some(Self::UnreachableNet),
            Errno::NOPROTOOPT | Errno::PROTO | Errno::ACCESS => Some(Self::UnreachableOther),
            _ => None,
        }
    }
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
    fn errors_without_a_number_are_known_by_their_kind() {
        for (kind, cause) in [
            (io::ErrorKind::ConnectionReset, Cause::Reset),
            (io::ErrorKind::UnexpectedEof, Cause::EarlyEof),
            (io::ErrorKind::HostUnreachable, Cause::UnreachableHost),
            (io::ErrorKind::Other, Cause::LocalError),
        ] {
            assert_eq!(Cause::of_stream(&io::Error::new(kind, "passed on")), cause);
        }
    }

    #[test]
    fn icmp_errors_are_unreachable() {
        for (errno, cause) in [
            (Errno::HOSTUNREACH, Cause::UnreachableHost),
            (Errno::NETUNREACH, Cause::UnreachableNet),
            (Errno::ACCESS, Cause::UnreachableOther),
            (Errno::NOPROTOOPT, Cause::UnreachableOther),
        ] {
            assert_eq!(Cause::of_connect(&errno.into()), cause, "{errno}");
            assert_eq!(Cause::of_stream(&errno.into()), cause, "{errno}");
            assert_eq!(Cause::of_datagram(&errno.into()), cause, "{errno}");
        }
        assert_eq!(Cause::of_datagram(&Errno::CONNREFUSED.into()), Cause::UnreachablePort);
    }
}
