//! TCP: a handshake, a line that names the server, a line and its echo.

use std::io;

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
    time::Instant,
};

use super::{Connector, before, identity};
use crate::{
    cause::Cause,
    record::{Outcome, Success},
};

/// Longest line read; a server that sends none must not fill the memory.
const MAX_LINE: u64 = 1024;

pub(crate) struct Tcp {
    pub(super) connector: Connector,
    pub(super) depth: Depth,
}

/// How far an exchange goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    Connect,
    Banner,
    Echo,
}

impl Tcp {
    pub(super) async fn run(&self, sequence: u64, deadline: Instant) -> Outcome {
        let stream = self.connector.connect(deadline).await?;
        if self.depth == Depth::Connect {
            return Ok(Success::default());
        }
        before(deadline, Cause::ReadTimeout, self.converse(stream, sequence)).await?
    }

    async fn converse(&self, stream: TcpStream, sequence: u64) -> Outcome {
        let failed = |error: io::Error| Cause::of_stream(&error);
        let mut stream = BufStream::new(stream);
        let banner = read_line(&mut stream).await?;
        if self.depth == Depth::Echo {
            let line = format!("evenkeel {sequence}\n");
            stream.write_all(line.as_bytes()).await.map_err(failed)?;
            stream.flush().await.map_err(failed)?;
            if read_line(&mut stream).await? != line.as_bytes() {
                return Err(Cause::WrongBody);
            }
        }
        Ok(Success { server: identity(&banner), retried: false })
    }
}

/// A line with its newline.
async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Vec<u8>, Cause> {
    let mut line = Vec::new();
    stream.take(MAX_LINE).read_until(b'\n', &mut line).await.map_err(|error| Cause::of_stream(&error))?;
    match line.last() {
        Some(b'\n') => Ok(line),
        _ if line.len() as u64 == MAX_LINE => Err(Cause::WrongBody),
        _ => Err(Cause::EarlyEof),
    }
}
