//! The listener: it takes connections, or refuses them when told to.

use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::faults::Mood;
use crate::http::serve;
use crate::server::Server;
use crate::tls::Identity;

/// Serves until `stop`. After refusing for a while, it listens where it did.
pub(crate) async fn run(
    server: Arc<Server>,
    listener: TcpListener,
    identity: Option<Identity>,
    stop: CancellationToken,
) {
    let Ok(address) = listener.local_addr() else { return };
    let mut mood = server.faults.mood();
    let mut listener = Some(listener);
    loop {
        let open = match listener.take() {
            Some(open) => open,
            None => match TcpListener::bind(address).await {
                Ok(open) => open,
                Err(error) => {
                    tracing::warn!(%error, %address, "cannot listen again");
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        let connections = stop.child_token();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                // The server outlives this loop, and so does the sender.
                _ = mood.wait_for(|mood| *mood == Mood::Refuse) => break,
                accepted = open.accept() => if let Ok((stream, _)) = accepted {
                    // Small answers should not wait for more to send.
                    let _ = stream.set_nodelay(true);
                    let (server, stop) = (server.clone(), connections.clone());
                    match identity.as_ref().map(|identity| identity.acceptor.clone()) {
                        None => drop(tokio::spawn(connection(server, stream, stop))),
                        Some(acceptor) => drop(tokio::spawn(async move {
                            match acceptor.accept(stream).await {
                                Ok(stream) => connection(server, stream, stop).await,
                                Err(error) => tracing::debug!(%error, "no TLS"),
                            }
                        })),
                    }
                },
            }
        }
        drop(open);
        connections.cancel();
        tokio::select! {
            () = stop.cancelled() => return,
            _ = mood.wait_for(|mood| *mood != Mood::Refuse) => {}
        }
    }
}

async fn connection(server: Arc<Server>, stream: impl AsyncRead + AsyncWrite + Unpin, stop: CancellationToken) {
    let service = service_fn(move |request| serve(server.clone(), request));
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = stop.cancelled() => {}
        result = connection => if let Err(error) = result {
            tracing::debug!(%error, "a connection ended");
        }
    }
}
