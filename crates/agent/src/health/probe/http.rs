//! HTTP/1.1 GET requests, which are to be answered with an expected status.

use std::{error::Error as _, io, net::SocketAddr};

use evenkeel_health::Reason;
use evenkeel_plan::world::HttpProbe;
use http_body_util::Empty;
use hyper::{
    Request,
    client::conn::http1,
    header::{ACCEPT, CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;

use super::{Transport, Trouble, stream};

/// Longest head of a response that is read, in bytes.
const MOST_READ: usize = 16 << 10;

/// Asks, and looks at the status alone: the rest is not waited for.
pub(super) async fn get(address: SocketAddr, probe: &HttpProbe) -> Result<(), Trouble> {
    let host = probe.host.as_ref().map_or_else(|| address.to_string(), |host| host.as_str().to_owned());
    let request = Request::get(probe.path.as_str())
        .header(HOST, host)
        .header(USER_AGENT, concat!("evenkeel/", env!("CARGO_PKG_VERSION"), " health"))
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::<&[u8]>::new())
        .map_err(|error| Trouble::NotDone(error.to_string()))?;
    let stream = stream::connect(address).await?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MOST_READ).handshake(TokioIo::new(stream)).await.map_err(trouble)?;
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    let response = tokio::select! {
        biased;
        response = &mut answer => response,
        // The connection's end may be what brings the response's.
        ended = &mut connection => {
            ended.map_err(trouble)?;
            answer.await
        }
    };
    let status = response.map_err(trouble)?.status().as_u16();
    if !probe.expect.contain(status) {
        let detail = format!("status {status} is not among {}", probe.expect);
        return Err(Trouble::failed(Reason::HttpStatus, detail));
    }
    Ok(())
}

fn trouble(error: hyper::Error) -> Trouble {
    if error.is_parse() || error.is_parse_too_large() {
        return Trouble::failed(Reason::HttpInvalid, format!("no HTTP response: {error}"));
    }
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(source) => Transport::Tcp.trouble(source),
        // A connection that ends early is all that is left.
        None => Trouble::failed(Reason::TcpReset, error.to_string()),
    }
}
