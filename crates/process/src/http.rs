//! Health and metrics over HTTP, for kubelets and Prometheus.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode};
use rustix::io::Errno;
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
    ///
    /// # Errors
    /// There are none to be had, at present.
    fn metrics(&self) -> impl Future<Output = Result<String, String>> + Send;
}

/// The media type of [`Vitals::metrics`].
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Binds `address`; see [`serve`]. All addresses of IPv6, which are those of IPv4 as well, are those of IPv4 alone on a kernel
/// that has no other: what is said on the command line is to do on every node.
///
/// # Errors
/// The address is not to be had.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    bind_by(address, TcpListener::bind).await
}

/// The same, by whatever binds one address.
async fn bind_by<T, F>(address: SocketAddr, bind: impl Fn(SocketAddr) -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let error = match bind(address).await {
        Ok(bound) => return Ok(bound),
        Err(error) => error,
    };
    match without_ipv6(address, &error) {
        Some(instead) => bind(instead).await,
        None => Err(error),
    }
}

/// What to bind instead, where all addresses of IPv6 cannot be bound for this reason: those of IPv4, if it is that the kernel
/// has no IPv6.
#[must_use]
pub fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let is_all = address.is_ipv6() && address.ip().is_unspecified();
    let is_unknown = matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL));
    (is_all && is_unknown).then(|| (Ipv4Addr::UNSPECIFIED, address.port()).into())
}

/// Answers `GET` of `/healthz`, `/readyz` and `/metrics` until `shutdown`.
pub async fn serve(listener: TcpListener, vitals: Arc<impl Vitals>, shutdown: CancellationToken) {
    let handler = move |path: String| {
        let vitals = Arc::clone(&vitals);
        async move { answer(&*vitals, &path).await.map(|(status, answer)| respond(status, answer)) }
    };
    serve_handler(listener, handler, shutdown).await;
}

/// Answers `GET` of a path with what `answer` returns for it, or 404 if that is `None`, until `shutdown`.
pub async fn serve_answers<B>(
    listener: TcpListener,
    answer: impl Fn(&str) -> Option<Response<B>> + Send + Sync + 'static,
    shutdown: CancellationToken,
) where
    B: Into<Full<Bytes>>,
{
    let handler = move |path: String| std::future::ready(answer(&path).map(|answer| answer.map(Into::into)));
    serve_handler(listener, handler, shutdown).await;
}

async fn serve_handler<F>(
    listener: TcpListener,
    handler: impl Fn(String) -> F + Send + Sync + 'static,
    shutdown: CancellationToken,
) where
    F: Future<Output = Option<Response<Full<Bytes>>>> + Send + 'static,
{
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    accept_all(&listener, Arc::new(handler), &connections, &cut, &shutdown).await;
    drop(listener);
    finish(&connections, &cut).await;
}

async fn answer(vitals: &impl Vitals, path: &str) -> Option<(StatusCode, Answer)> {
    let text = |text: String| Answer { content_type: "text/plain; charset=utf-8", body: text.into_bytes() };
    let result = match path {
        "/healthz" => vitals.alive().map(|()| text("ok\n".to_owned())),
        "/readyz" => vitals.ready().map(|()| text("ok\n".to_owned())),
        "/metrics" => {
            vitals.metrics().await.map(|metrics| Answer { content_type: OPEN_METRICS, body: metrics.into_bytes() })
        }
        _ => return None,
    };
    Some(match result {
        Ok(answer) => (StatusCode::OK, answer),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, text(format!("{why}\n"))),
    })
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

        async fn metrics(&self) -> Result<String, String> {
            Ok("# EOF\n".to_owned())
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

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Where a kernel listens whose sockets are of IPv4 only.
    async fn without_ipv6_at(address: SocketAddr) -> io::Result<SocketAddr> {
        if address.is_ipv6() { Err(Errno::AFNOSUPPORT.into()) } else { Ok(address) }
    }

    async fn taken(_: SocketAddr) -> io::Result<SocketAddr> {
        Err(Errno::ADDRINUSE.into())
    }

    #[tokio::test]
    async fn all_addresses_are_those_that_the_kernel_has() {
        assert_eq!(bind_by(at("[::]:7475"), without_ipv6_at).await.unwrap(), at("0.0.0.0:7475"));
        assert_eq!(bind_by(at("127.0.0.1:1"), without_ipv6_at).await.unwrap(), at("127.0.0.1:1"));
        let named = bind_by(at("[::1]:7475"), without_ipv6_at).await;
        assert!(named.is_err(), "an address that was named is that one or none");
        let error = bind_by(at("[::]:7475"), taken).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "another reason is told");
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
