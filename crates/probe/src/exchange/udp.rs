//! UDP: a datagram with the run's identifier and a sequence number, and the reply that repeats them.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    str,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio::{net::UdpSocket, sync::oneshot, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{before, identity};
use crate::{
    cause::Cause,
    record::{Outcome, Success},
};

const PREFIX: &str = "evenkeel";
/// More than any reply to our requests has; a longer one is cut, and then does not match.
const MAX_REPLY: usize = 2048;

fn request(run: u64, sequence: u64) -> String {
    format!("{PREFIX} {run:016x} {sequence}")
}

/// A reply is the request, after the server's name and a space if it gives one.
#[derive(Debug, PartialEq, Eq)]
struct Reply<'a> {
    server: &'a str,
    run: u64,
    sequence: u64,
}

fn parse(reply: &[u8]) -> Option<Reply<'_>> {
    let mut words = str::from_utf8(reply).ok()?.rsplitn(4, ' ');
    let sequence = words.next()?.parse().ok()?;
    let run = u64::from_str_radix(words.next()?, 16).ok()?;
    (words.next()? == PREFIX).then_some(())?;
    Some(Reply { server: words.next().unwrap_or_default(), run, sequence })
}

/// A socket on a source port the kernel picks. Connected, so that ICMP errors are reported to it.
async fn socket(target: SocketAddr) -> io::Result<UdpSocket> {
    let any = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// A new source port for every request.
pub(crate) struct Fresh {
    pub(super) target: SocketAddr,
    pub(super) run: u64,
}

impl Fresh {
    pub(super) async fn run(&self, sequence: u64, deadline: Instant) -> Outcome {
        let failed = |error: io::Error| Cause::of_datagram(&error);
        let socket = socket(self.target).await.map_err(failed)?;
        socket.send(request(self.run, sequence).as_bytes()).await.map_err(failed)?;
        let mut buffer = [0; MAX_REPLY];
        let length = before(deadline, Cause::UdpTimeout, socket.recv(&mut buffer)).await?.map_err(failed)?;
        match parse(&buffer[..length]) {
            Some(reply) if reply.run == self.run && reply.sequence == sequence => {
                Ok(Success { server: identity(reply.server.as_bytes()), retried: false })
            }
            _ => Err(Cause::UdpWrongReply),
        }
    }
}

/// One source port for all requests: replies find theirs by sequence number.
pub(crate) struct Fixed {
    target: SocketAddr,
    run: u64,
    pending: Arc<Pending>,
    /// Made by the first request, so that a failure to make it is recorded like any other.
    socket: tokio::sync::Mutex<Option<Arc<UdpSocket>>>,
    receiver: OnceLock<AbortOnDropHandle<()>>,
}

/// Requests that wait for their reply, by sequence number: the first is the oldest.
#[derive(Default)]
struct Pending(Mutex<BTreeMap<u64, oneshot::Sender<Outcome>>>);

impl Fixed {
    pub(super) fn new(target: SocketAddr, run: u64) -> Self {
        Self { target, run, pending: Arc::default(), socket: tokio::sync::Mutex::new(None), receiver: OnceLock::new() }
    }

    pub(super) async fn run(&self, sequence: u64, deadline: Instant) -> Outcome {
        let socket = self.socket().await.map_err(|error| Cause::of_datagram(&error))?;
        // Registered before it is sent: the reply may come before `send` returns.
        let mut outcome = self.pending.insert(sequence);
        let datagram = request(self.run, sequence);
        // An error from `send` is usually the ICMP answer to an earlier datagram, and this one was not sent. Each
        // error settles a request, in the end this one.
        while let Err(error) = socket.send(datagram.as_bytes()).await {
            self.pending.settle_oldest(Err(Cause::of_datagram(&error)));
            if let Ok(outcome) = outcome.try_recv() {
                return outcome;
            }
        }
        let outcome = before(deadline, Cause::UdpTimeout, outcome).await;
        self.pending.lock().remove(&sequence);
        outcome?.unwrap_or(Err(Cause::LocalError))
    }

    async fn socket(&self) -> io::Result<Arc<UdpSocket>> {
        let mut slot = self.socket.lock().await;
        if let Some(socket) = &*slot {
            return Ok(socket.clone());
        }
        let socket = Arc::new(socket(self.target).await?);
        let receive = receive(socket.clone(), self.run, self.pending.clone());
        self.receiver.get_or_init(|| AbortOnDropHandle::new(tokio::spawn(receive)));
        *slot = Some(socket.clone());
        Ok(socket)
    }
}

/// Hands each reply to its request. A reply that cannot be told whose it is, and an ICMP error, is charged to the
/// oldest request that waits: one event is one failure, whichever it was.
async fn receive(socket: Arc<UdpSocket>, run: u64, pending: Arc<Pending>) {
    let mut buffer = [0; MAX_REPLY];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(length) => match parse(&buffer[..length]) {
                Some(reply) if reply.run == run => {
                    // Nobody waits for a duplicate, or for a reply that is too late and already counted.
                    let server = identity(reply.server.as_bytes());
                    pending.settle(reply.sequence, Ok(Success { server, retried: false }));
                }
                Some(reply) if pending.settle(reply.sequence, Err(Cause::UdpWrongReply)) => {}
                _ => pending.settle_oldest(Err(Cause::UdpWrongReply)),
            },
            Err(error) => pending.settle_oldest(Err(Cause::of_datagram(&error))),
        }
    }
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, oneshot::Sender<Outcome>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, sequence: u64) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(sequence, sender);
        receiver
    }

    /// Whether somebody waited for it.
    fn settle(&self, sequence: u64, outcome: Outcome) -> bool {
        let sender = self.lock().remove(&sequence);
        sender.is_some_and(|sender| sender.send(outcome).is_ok())
    }

    fn settle_oldest(&self, outcome: Outcome) {
        let oldest = self.lock().pop_first();
        if let Some((_, sender)) = oldest {
            // Its request may have timed out in this very moment: it is counted then.
            drop(sender.send(outcome));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_with_and_without_a_name_are_parsed() {
        let text = request(0xabc, 7);
        assert_eq!(parse(text.as_bytes()), Some(Reply { server: "", run: 0xabc, sequence: 7 }));
        let named = format!("web 1 {text}");
        assert_eq!(parse(named.as_bytes()), Some(Reply { server: "web 1", run: 0xabc, sequence: 7 }));
    }

    #[test]
    fn other_replies_are_not() {
        for text in ["", "7", "evenkeel 0 ", "evenkeel 0 x", "evenkee 0 7", "evenkeel g 7", "\u{fffd}"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(&[0xff, 0xfe]), None);
    }
}
