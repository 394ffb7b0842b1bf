//! The validating webhook: refuses a change to the configuration when it is made, for the reasons for which it would be
//! refused when it is read. Every replica serves it, whoever leads.
//!
//! ```text
//! API server ──AdmissionReview──> server ──> review (parsed) ──> verdict (pure) ──> AdmissionReview
//!                                   │  └──> the configuration at present, listed for each review
//!                                   └ shows the certificate that keeper keeps, in a Secret that all replicas share
//! ```
//!
//! It only ever helps: while it is away, or in doubt, a change is accepted, and refused where it is read
//! (`docs/decisions/0045-the-webhook-fails-open.md`).

mod certificate;
mod keeper;
pub mod review;
mod server;
pub mod verdict;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::certificate::Shown;
use self::keeper::Keeper;
use self::server::Server;
use crate::Error;
use crate::metrics::Metrics;

/// What a webhook is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of its Service, of the Secret with its certificate, and of its ValidatingWebhookConfiguration.
    pub name: String,
    /// Where it is served, by HTTPS.
    pub listen: SocketAddr,
    /// How long a certificate is good for. It is replaced when a third of that is left.
    pub validity: Duration,
}

/// A webhook that has its address.
pub(crate) struct Webhook {
    listener: TcpListener,
    server: Server,
    keeper: Keeper,
}

impl Webhook {
    /// Binds its address. `namespace` is that of its objects, and of the configuration.
    ///
    /// # Errors
    /// The address is not to be had.
    pub(crate) async fn bind(
        config: &Config,
        namespace: &str,
        client: &Client,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Listen { address: config.listen, source };
        let listener = evenkeel_process::http::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        tracing::info!(%address, "serving the webhook");
        let shown = Arc::new(Shown::default());
        let server = Server::new(client.clone(), namespace, Arc::clone(&shown), Arc::clone(&metrics));
        let keeper = Keeper::new(client.clone(), namespace, config, shown, metrics);
        Ok(Self { listener, server, keeper })
    }

    /// Serves until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        tokio::join!(self.keeper.run(&shutdown), self.server.serve(self.listener, &shutdown));
    }
}
