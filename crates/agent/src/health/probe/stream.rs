//! TCP connections.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::{Transport, Trouble};

/// Connects.
pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, Trouble> {
    TcpStream::connect(address).await.map_err(|error| Transport::Tcp.trouble(&error))
}
