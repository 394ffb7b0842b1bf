//! The listener: it takes connections, or refuses them when told to.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::faults::Mood;
use crate::http::serve;
use crate::server::Server;

/// Serves until `stop`. `listener` is bound to `address`, where it comes back after refusing for a while.
pub(crate) async fn run(server: Arc<Server>, listener: TcpListener, address: SocketAddr, stop: CancellationToken) {
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
                    tokio::spawn(connection(server.clone(), stream, connections.clone()));
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

async fn connection(server: Arc<Server>, stream: tokio::net::TcpStream, stop: CancellationToken) {
    let service = service_fn(move |request| serve(server.clone(), request));
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = stop.cancelled() => {}
        result = connection => if let Err(error) = result {
            tracing::debug!(%error, "a connection ended");
        }
    }
}
