//! TCP sockets that never wait.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::{Active, Context};
use crate::{cause::Cause, record::Failure};

/// What the kernel says has happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct News {
    pub(super) readable: bool,
    /// The peer will send no more.
    pub(super) closed: bool,
}

/// A socket for a connection to `target`: `reset` has its close reset the connection, `quick` sends everything at once.
pub(super) fn socket(target: SocketAddr, reset: bool, quick: bool) -> io::Result<OwnedFd> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket =
        rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    if quick {
        // Only where requests follow each other without waiting does Nagle's algorithm hold one back.
        sockopt::set_tcp_nodelay(&socket, true)?;
    }
    if reset {
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    }
    Ok(socket)
}

pub(super) fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

pub(super) fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?)
}

pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(socket, buffer, RecvFlags::empty())?.0)
}

/// Sends what is left of a message; whether nothing is.
pub(super) fn send_rest(
    socket: &OwnedFd,
    message: &[u8],
    written: &mut usize,
    active: &mut Active,
) -> Result<bool, Failure> {
    while *written < message.len() {
        match send(socket, &message[*written..]) {
            Ok(length) => {
                *written += length;
                active.bytes_out += length as u64;
            }
            Err(error) if would_block(&error) => return Ok(false),
            Err(error) => return Err(Failure::new(Cause::of_stream(&error), error)),
        }
    }
    Ok(true)
}

/// Hands what has arrived to `take`, piece by piece, until it says that it has all. Returns whether the peer's end came
/// first.
pub(super) fn read_all(
    socket: &OwnedFd,
    context: &mut Context,
    news: News,
    active: &mut Active,
    mut take: impl FnMut(&[u8], &Context, &mut Active) -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    // Taken out for the time being, so that `take` may look at the rest of the context.
    let mut buffer = std::mem::take(&mut context.buffer);
    let result = loop {
        match receive(socket, &mut buffer) {
            Ok(0) => break Ok(true),
            Ok(length) => {
                active.first_byte.get_or_insert_with(|| context.clock.now());
                active.bytes_in += length as u64;
                match take(&buffer[..length], context, active) {
                    Ok(true) => break Ok(false),
                    Ok(false) if length < buffer.len() && !news.closed => break Ok(false),
                    Ok(false) => {}
                    Err(failure) => break Err(failure),
                }
            }
            Err(error) if would_block(&error) => break Ok(false),
            Err(error) => break Err(Failure::new(Cause::of_stream(&error), error)),
        }
    };
    context.buffer = buffer;
    result
}
