//! Health and metrics over HTTP, for kubelets and Prometheus.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::admin::{Answer, accept_all, finish, respond};

/// What a process says of itself.
pub trait Vitals: Send + Sync + 'static {
    /// `/healthz`: whether it makes sense to let the process go on; the reason why not.
    ///
    /// # Errors
    /// Only a restart can help.
    fn alive(&self) -> Result<(), String>;

    /// `/readyz`: whether it does what it is there for; the reason why not.
    ///
    /// # Errors
    /// It does not, at present.
    fn ready(&self) -> Result<(), String>;

    /// `/metrics`, as OpenMetrics text.
    fn metrics(&self) -> String;
}

/// The media type of [`Vitals::metrics`].
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Binds `address`; see [`serve`].
///
/// # Errors
/// The address is not to be had.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers `GET` of `/healthz`, `/readyz` and `/metrics` until `shutdown`.
pub async fn serve(listener: TcpListener, vitals: Arc<impl Vitals>, shutdown: CancellationToken) {
    serve_answers(
        listener,
        move |path| answer(&*vitals, path).map(|(status, answer)| respond(status, answer)),
        shutdown,
    )
    .await;
}

/// Answers `GET` of a path with what `answer` returns for it, or 404 if that is `None`, until `shutdown`.
pub async fn serve_answers<B>(
    listener: TcpListener,
    answer: impl Fn(&str) -> Option<Response<B>> + Send + Sync + 'static,
    shutdown: CancellationToken,
) where
    B: Into<Full<Bytes>>,
{
    let handler = Arc::new(move |path: String| std::future::ready(answer(&path).map(|answer| answer.map(Into::into))));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    accept_all(&listener, handler, &connections, &cut, &shutdown).await;
    drop(listener);
    finish(&connections, &cut).await;
}

fn answer(vitals: &impl Vitals, path: &str) -> Option<(StatusCode, Answer)> {
    let said = |result: Result<(), String>| {
        let (status, text) = match result {
            Ok(()) => (StatusCode::OK, "ok".to_owned()),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
        };
        (status, Answer { content_type: "text/plain; charset=utf-8", body: format!("{text}\n").into_bytes() })
    };
    match path {
        "/healthz" => Some(said(vitals.alive())),
        "/readyz" => Some(said(vitals.ready())),
        "/metrics" => {
            Some((StatusCode::OK, Answer { content_type: OPEN_METRICS, body: vitals.metrics().into_bytes() }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    struct Sick;

    impl Vitals for Sick {
        fn alive(&self) -> Result<(), String> {
            Ok(())
        }

        fn ready(&self) -> Result<(), String> {
            Err("not the leader yet".to_owned())
        }

        fn metrics(&self) -> String {
            "# EOF\n".to_owned()
        }
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn what_is_wrong_is_said() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, Arc::new(Sick), shutdown.clone()));
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let ready = get(address, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.ends_with("not the leader yet\n"), "{ready}");
        assert!(get(address, "/metrics").await.contains("openmetrics-text"));
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
        shutdown.cancel();
        server.await.unwrap();
    }
}
