//! One check of one backend.

mod dns;
mod http;
mod icmp;
mod stream;
#[cfg(test)]
mod tests;
mod udp;

use std::{
    hash::{BuildHasher as _, RandomState},
    io::{self, ErrorKind},
    net::SocketAddr,
};

use evenkeel_health::{Failure, Outcome, Reason};
use evenkeel_plan::world::{HealthCheck, HealthProbe};
use tokio::time;

/// Why a check did not succeed.
enum Trouble {
    /// The backend's.
    Failed(Failure),
    /// Ours.
    NotDone(String),
}

impl Trouble {
    fn failed(reason: Reason, detail: impl Into<String>) -> Self {
        Self::Failed(Failure::new(reason, detail))
    }
}

/// What a refused exchange is called.
#[derive(Clone, Copy)]
enum Transport {
    Tcp,
    Udp,
    Icmp,
}

impl Transport {
    /// Tells a backend's errors, which it or the network answers with, from this host's own.
    fn trouble(self, error: &io::Error) -> Trouble {
        let reason = match error.kind() {
            ErrorKind::ConnectionRefused => match self {
                Self::Tcp => Reason::TcpRefused,
                Self::Udp => Reason::UdpRefused,
                Self::Icmp => Reason::Unreachable,
            },
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof => Reason::TcpReset,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Reason::Unreachable,
            ErrorKind::TimedOut => Reason::Timeout,
            _ => match error.raw_os_error() {
                Some(libc::EHOSTDOWN | libc::ENOPROTOOPT | libc::ENONET) => Reason::Unreachable,
                _ => return Trouble::NotDone(error.to_string()),
            },
        };
        Trouble::failed(reason, error.to_string())
    }
}

/// Asks a backend, for as long as the check's timeout at most.
pub(super) async fn check(address: SocketAddr, check: &HealthCheck) -> Outcome {
    let answer = async {
        match &check.probe {
            HealthProbe::Tcp => stream::connect(address).await.map(drop),
            HealthProbe::Http(http) => http::get(address, http).await,
            HealthProbe::DnsUdp(question) => dns::over_udp(address, question).await,
            HealthProbe::DnsTcp(question) => dns::over_tcp(address, question).await,
            HealthProbe::Icmp => icmp::echo(address).await,
            HealthProbe::UdpEcho => udp::echo(address).await,
        }
    };
    match time::timeout(check.timeout, answer).await {
        Ok(Ok(())) => Outcome::Healthy,
        Ok(Err(Trouble::Failed(failure))) => Outcome::Failed(failure),
        Ok(Err(Trouble::NotDone(because))) => Outcome::NotDone(because),
        Err(_) => Outcome::Failed(Failure::new(Reason::Timeout, format!("no answer within {:?}", check.timeout))),
    }
}

/// A number others cannot foresee, so that an answer proves that it was asked for.
fn nonce() -> u64 {
    RandomState::new().hash_one(())
}
