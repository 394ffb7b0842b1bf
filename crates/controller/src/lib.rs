//! The cluster's elected part: gives services their addresses and says so in their status, in events and metrics.
//!
//! ```text
//! lease (who leads) ──> leader: source ──> Planner ──> reconcile ──> writer ──> API
//! ```
//!
//! Beside it, and on every replica: the [`webhook`] that judges changes to the configuration.
//!
//! Only who leads follows the API at all, from a list taken after the lease was: it begins with everything its
//! predecessor wrote.

pub mod election;
mod leader;
mod lease;
pub mod metrics;
pub mod reconcile;
mod rival;
mod unread;
mod vitals;
pub mod webhook;

pub use self::leader::CONFIGURATION_STATE;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use evenkeel_plan::world::NodeAddressUse;
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::election::{Elector, Times};
use self::leader::Leader;
use self::metrics::Metrics;
use self::vitals::Vitals;
use self::webhook::Webhook;

/// What a controller is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The namespace it and its configuration live in.
    pub namespace: String,
    /// The `spec.loadBalancerClass` served. `None`: services that name no class.
    pub load_balancer_class: Option<String>,
    /// Whose services agents serve at the nodes' own addresses; all others that ask for it are told why not.
    pub node_address_use: NodeAddressUse,
    /// What tells this replica from the others, such as the pod's name.
    pub identity: String,
    /// The name of the Lease.
    pub lease: String,
    /// The times of the election.
    pub times: Times,
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub listen: SocketAddr,
    /// The validating webhook; `None`: there is none.
    pub webhook: Option<webhook::Config>,
}

/// Why a controller cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address to serve at is not to be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Run until `shutdown`; `listening` is told where health and metrics are served. The lease is released in the end, after
/// the last write.
///
/// # Errors
/// See [`Error`]. That the API cannot be reached is none: it is tried again.
pub async fn run(
    config: Config,
    client: Client,
    shutdown: CancellationToken,
    listening: impl FnOnce(SocketAddr),
) -> Result<(), Error> {
    let failed = |source| Error::Listen { address: config.listen, source };
    let listener = evenkeel_process::http::bind(config.listen).await.map_err(failed)?;
    listening(listener.local_addr().map_err(failed)?);
    let vitals = Arc::new(Vitals::new(Metrics::default()));
    let http = evenkeel_process::http::serve(listener, Arc::clone(&vitals), shutdown.clone());
    let http = AbortOnDropHandle::new(tokio::spawn(http));
    let webhook = match &config.webhook {
        Some(webhook) => Some(Webhook::bind(webhook, &config.namespace, &client, Arc::clone(&vitals.metrics)).await?),
        None => None,
    };
    let webhook = webhook.map(|webhook| AbortOnDropHandle::new(tokio::spawn(webhook.run(shutdown.clone()))));

    let elector = Elector::new(config.identity.clone(), config.times);
    let (told, permit) = watch::channel(None);
    let resigned = CancellationToken::new();
    let campaign = lease::Campaign {
        lease: lease::api(&client, &config.namespace),
        name: config.lease.clone(),
        elector,
        started: Instant::now(),
        told,
        vitals: Arc::clone(&vitals),
    };
    let campaign = AbortOnDropHandle::new(tokio::spawn(campaign.run(resigned.clone())));
    while lease::permitted(&permit, &shutdown).await {
        tracing::info!(identity = config.identity, "leading");
        Leader::new(&config, client.clone(), permit.clone(), Arc::clone(&vitals)).lead(&shutdown).await;
        tracing::info!(identity = config.identity, "no longer leading");
    }
    resigned.cancel();
    // None has anything to fail with.
    let _ = campaign.await;
    let _ = http.await;
    if let Some(webhook) = webhook {
        let _ = webhook.await;
    }
    Ok(())
}
