//! UDP datagrams.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use evenkeel_health::Reason;
use tokio::net::UdpSocket;

use super::{Transport, Trouble, nonce};

/// A socket that only hears this peer, and its ICMP errors.
pub(super) async fn socket(peer: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(peer).await?;
    Ok(socket)
}

/// A datagram comes back as it was sent.
pub(super) async fn echo(address: SocketAddr) -> Result<(), Trouble> {
    let mut sent = *b"evenkeel health \0\0\0\0\0\0\0\0";
    for (place, byte) in sent.iter_mut().rev().zip(nonce().to_be_bytes()) {
        *place = byte;
    }
    let exchange = async {
        let socket = socket(address).await?;
        socket.send(&sent).await?;
        let mut received = [0; 64];
        let length = socket.recv(&mut received).await?;
        io::Result::Ok(received.get(..length) == Some(&sent[..]))
    };
    match exchange.await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Trouble::failed(Reason::EchoMismatch, "other bytes came back than were sent")),
        Err(error) => Err(Transport::Udp.trouble(&error)),
    }
}
