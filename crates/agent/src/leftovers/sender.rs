//! Sending segments with other hosts' addresses.

use std::{io, net::SocketAddr};

use evenkeel_loader::Connection;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::segment::acknowledgement;

/// Raw sockets that only send, with headers of ours.
pub(crate) struct Sender {
    v4: Socket,
    /// `None` where the kernel has no IPv6.
    v6: Option<Socket>,
    /// Another one for each question: what happens to fit once does not do so the next time.
    sequence: u32,
}

/// Far from each other, modulo 2^32.
const STRIDE: u32 = 0x9e37_79b9;

impl Sender {
    /// Opens the sockets in this process's network namespace; needs `CAP_NET_RAW`.
    pub(crate) fn open() -> io::Result<Self> {
        let raw = |domain| -> io::Result<Socket> {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let v6 = match raw(Domain::IPV6) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            opened => Some(opened?),
        };
        Ok(Self { v4: raw(Domain::IPV4)?, v6, sequence: 0 })
    }

    /// Asks a backend about a connection, in the client's name: by what precedes all that the client can have sent.
    pub(crate) fn ask_backend(&mut self, connection: &Connection, backend: SocketAddr) -> io::Result<()> {
        self.send(connection.source, backend, connection.initial_sequence, 0)
    }

    /// Asks a client about a connection, in the VIP's name: by an acknowledgement of what was acknowledged long ago.
    pub(crate) fn ask_client(&mut self, connection: &Connection) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(STRIDE);
        self.send(connection.vip, connection.client, self.sequence, connection.initial_sequence)
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, sequence: u32, acknowledged: u32) -> io::Result<()> {
        let Some(segment) = acknowledgement(from, to, sequence, acknowledged) else { return Ok(()) };
        let Some(socket) = (if to.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() }) else { return Ok(()) };
        // The port of a raw socket's peer is its protocol, which is the header's (raw(7)).
        socket.send_to(&segment, &SockAddr::from(SocketAddr::new(to.ip(), 0)))?;
        Ok(())
    }
}
