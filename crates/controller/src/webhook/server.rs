//! The webhook over HTTPS. Whatever goes wrong is answered by an error, upon which the API server lets the change be.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use evenkeel_sources::kubernetes::snapshot;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::Client;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, crypto};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::certificate::Shown;
use super::review::Request;
use super::verdict::{self, Verdict};
use crate::metrics::Metrics;

/// Where reviews are asked for.
pub(super) const PATH: &str = "/validate";
/// Connections at the same time. An API server keeps a few.
const MAX_CONNECTIONS: usize = 64;
/// The largest body: both versions of an object, as large as etcd takes them.
const MAX_BODY: usize = 8 << 20;
/// How long a handshake, a request or its body may take.
const READ_TIME: Duration = Duration::from_secs(10);
/// How long the lists for a verdict may take. An API server waits for 30 seconds at most.
const LIST_TIME: Duration = Duration::from_secs(10);
/// How long answers under way may take at the end.
const GRACE: Duration = Duration::from_secs(5);

/// What answers.
pub(super) struct Server {
    reviewer: Arc<Reviewer>,
    shown: Arc<Shown>,
}

struct Reviewer {
    client: Client,
    namespace: String,
    metrics: Arc<Metrics>,
}

impl Server {
    pub(super) fn new(client: Client, namespace: &str, shown: Arc<Shown>, metrics: Arc<Metrics>) -> Self {
        Self { reviewer: Arc::new(Reviewer { client, namespace: namespace.to_owned(), metrics }), shown }
    }

    /// Answer until `shutdown`.
    pub(super) async fn serve(self, listener: TcpListener, shutdown: &CancellationToken) {
        let provider = Arc::new(crypto::ring::default_provider());
        let config = match ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions() {
            Ok(config) => config.with_no_client_auth().with_cert_resolver(self.shown),
            Err(error) => {
                tracing::error!(%error, "no TLS: the webhook is not served");
                return;
            }
        };
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = async {
                    let slot = Arc::clone(&slots).acquire_owned().await;
                    listener.accept().await.map(|(stream, _)| (stream, slot))
                } => accepted,
            };
            match accepted {
                Ok((stream, slot)) => {
                    let (acceptor, reviewer, shutdown) =
                        (acceptor.clone(), Arc::clone(&self.reviewer), shutdown.clone());
                    connections.spawn(async move {
                        let _slot = slot;
                        connection(stream, acceptor, reviewer, shutdown).await;
                    });
                }
                Err(error) => {
                    // Out of descriptors: leave the processor to those who free some.
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
        connections.close();
        // Whatever takes longer ends with the process.
        let _ = timeout(GRACE, connections.wait()).await;
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, reviewer: Arc<Reviewer>, shutdown: CancellationToken) {
    let stream = match timeout(READ_TIME, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        // Also who does not trust the certificate: the API server says so.
        Ok(Err(error)) => return tracing::debug!(%error, "no TLS"),
        Err(_) => return,
    };
    let service = service_fn(move |request| {
        let reviewer = Arc::clone(&reviewer);
        async move { reviewer.respond(request).await }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIME)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection of the webhook ended");
    }
}

impl Reviewer {
    async fn respond(&self, request: hyper::Request<Incoming>) -> Result<Response<Full<Bytes>>, http::Error> {
        if request.uri().path() != PATH {
            return plain(StatusCode::NOT_FOUND, "there is nothing here");
        }
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "an AdmissionReview is posted");
        }
        let body = match timeout(READ_TIME, Limited::new(request.into_body(), MAX_BODY).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return plain(StatusCode::BAD_REQUEST, &error.to_string()),
            Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the body does not come"),
        };
        let review = match Request::parse(&body) {
            Ok(review) => review,
            Err(error) => return plain(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        match self.judge(&review).await {
            Ok(verdict) => Response::builder()
                .header(CONTENT_TYPE, "application/json")
                .body(Full::new(review.answer(&verdict).into())),
            Err(error) => {
                self.metrics.reviewed("undecided", "api_unreadable");
                tracing::warn!(error, kind = review.kind, "a change to the configuration is let through unseen");
                plain(StatusCode::INTERNAL_SERVER_ERROR, &error)
            }
        }
    }

    async fn judge(&self, review: &Request) -> Result<Verdict, String> {
        let Some(kind) = verdict::kind(review) else { return Ok(Verdict::default()) };
        let needed = verdict::needed(kind);
        let listed = timeout(LIST_TIME, snapshot(&self.client, &self.namespace, &needed)).await;
        let world = match listed {
            Ok(Ok(world)) => world,
            Ok(Err(error)) => return Err(format!("the configuration cannot be read: {error}")),
            Err(_) => return Err("the configuration cannot be read: no answer in time".to_owned()),
        };
        let verdict = verdict::judge(kind, &world, review);
        for finding in &verdict.refusals {
            self.metrics.reviewed("refused", finding.reason);
            tracing::info!(%finding, "refused a change to the configuration");
        }
        if verdict.is_allowed() {
            self.metrics.reviewed("allowed", "");
        }
        Ok(verdict)
    }
}

fn plain(status: StatusCode, text: &str) -> Result<Response<Full<Bytes>>, http::Error> {
    let body = Full::new(Bytes::from(format!("{text}\n")));
    Response::builder().status(status).header(CONTENT_TYPE, "text/plain; charset=utf-8").body(body)
}
