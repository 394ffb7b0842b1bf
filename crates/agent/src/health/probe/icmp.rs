//! ICMP and ICMPv6 echo requests.

use std::{io, net::SocketAddr};

use evenkeel_health::echo::{self, Version};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::{Transport, Trouble, nonce};

/// Sends an echo request and waits for its reply.
pub(super) async fn echo(address: SocketAddr) -> Result<(), Trouble> {
    exchange(address).await.map_err(|error| Transport::Icmp.trouble(&error))
}

/// How a socket hands messages over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A ping socket: the kernel chooses the identifier and delivers only its own replies.
    Ping,
    /// A raw socket: it hears all ICMP messages of its peer, those of IPv4 with their IP header.
    Raw,
}

async fn exchange(address: SocketAddr) -> io::Result<()> {
    let (domain, protocol, version) = match address {
        SocketAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, Version::V4),
        SocketAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, Version::V6),
    };
    // Who may use ping sockets is a setting (net.ipv4.ping_group_range) that keeps everybody out by default, even root.
    let (socket, kind) = match Socket::new(domain, Type::DGRAM.nonblocking(), Some(protocol)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            (Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?, Kind::Raw)
        }
        other => (other?, Kind::Ping),
    };
    let mut peer = address;
    peer.set_port(0);
    socket.connect(&peer.into())?;
    // Sending and receiving are the same calls for all sockets, whatever the type is named after.
    let socket = UdpSocket::from_std(socket.into())?;
    let data = nonce().to_be_bytes();
    let [high, low, ..] = nonce().to_be_bytes();
    let identifier = u16::from_be_bytes([high, low]);
    let request = echo::request(version, identifier, 1, &data);
    socket.send(&request).await?;
    let mut buffer = [0; 256];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let packet = buffer.get(..length).unwrap_or_default();
        let message = match (kind, version) {
            (Kind::Raw, Version::V4) => echo::without_ip_header(packet),
            (Kind::Raw, Version::V6) | (Kind::Ping, _) => Some(packet),
        };
        // Raw sockets hear of other people's echoes, too.
        let is_ours = |reply: echo::Reply<'_>| {
            reply.data == data && reply.sequence == 1 && (kind == Kind::Ping || reply.identifier == identifier)
        };
        if message.and_then(|message| echo::reply(version, message)).is_some_and(is_ours) {
            return Ok(());
        }
    }
}
