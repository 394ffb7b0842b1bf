//! Keeps the certificate in its Secret, and what API servers trust in the ValidatingWebhookConfiguration.
//!
//! Every replica does, and none has to lead for it: a write that meets another version is refused by the API, and the one that
//! was faster made what both need. A new certificate is first trusted, then shown; the authority before it stays trusted
//! until its time is over, so that a replica which still shows its certificate is understood.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use evenkeel_sources::kubernetes::backoff::{Backoff, random};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::core::params::{GetParams, PostParams};
use kube::core::request::Request;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Config;
use super::certificate::{Identity, IdentityError, Shown, bundle, since_1970};
use crate::metrics::Metrics;

/// How often is looked, at most and in relation to how long a certificate is good for.
const PERIOD: Duration = Duration::from_secs(30);
const LOOKS: u32 = 30;
/// How long the API may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The waits after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The names under which an identity is kept, as those of `kubernetes.io/tls` are.
const AUTHORITY: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// Looks after the certificate.
pub(super) struct Keeper {
    client: Client,
    secrets: Api<Secret>,
    name: String,
    names: Vec<String>,
    validity: Duration,
    shown: Arc<Shown>,
    metrics: Arc<Metrics>,
}

/// Why the certificate cannot be kept.
#[derive(Debug, thiserror::Error)]
enum KeeperError {
    #[error("{what}: {source}")]
    Api { what: &'static str, source: kube::Error },
    #[error("{what}: no answer in time")]
    Silent { what: &'static str },
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Keeper {
    pub(super) fn new(
        client: Client,
        namespace: &str,
        config: &Config,
        shown: Arc<Shown>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            client,
            // As API servers call a Service.
            names: vec![format!("{}.{namespace}.svc", config.name)],
            name: config.name.clone(),
            validity: config.validity,
            shown,
            metrics,
        }
    }

    /// Look again and again, until `shutdown`.
    pub(super) async fn run(self, shutdown: &CancellationToken) {
        let period = PERIOD.min(self.validity / LOOKS);
        let mut backoff = Backoff::new(FIRST_WAIT, PERIOD);
        loop {
            let wait = match self.look(SystemTime::now()).await {
                Ok(()) => {
                    backoff.reset();
                    period
                }
                Err(error) => {
                    tracing::warn!(%error, name = self.name, "cannot keep the webhook's certificate");
                    backoff.wait(random()).min(period)
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn look(&self, now: SystemTime) -> Result<(), KeeperError> {
        let identity = self.identity(now).await?;
        self.trust(&identity, now).await?;
        self.metrics.webhook_not_after.set(i64::try_from(identity.not_after.as_secs()).unwrap_or(i64::MAX));
        self.shown.set(&identity);
        Ok(())
    }

    /// The one that is kept, or a new one in its place when it is time.
    async fn identity(&self, now: SystemTime) -> Result<Identity, KeeperError> {
        let mut secret = in_time("reading the Secret", self.secrets.get(&self.name)).await?;
        match kept(&secret) {
            Some(Ok(identity)) if !identity.is_due(&self.names, now, self.validity) => return Ok(identity),
            Some(Err(error)) => tracing::warn!(%error, name = self.name, "what the Secret has is of no use"),
            Some(Ok(_)) | None => {}
        }
        let identity = Identity::make(&self.names, now, self.validity)?;
        let parts = [(AUTHORITY, &identity.authority), (CERTIFICATE, &identity.certificate), (KEY, &identity.key)];
        let data = parts.map(|(name, part)| (name.to_owned(), ByteString(part.clone().into_bytes())));
        secret.data = Some(BTreeMap::from(data));
        // It carries the version it was read in.
        in_time("writing the Secret", self.secrets.replace(&self.name, &PostParams::default(), &secret)).await?;
        let until = identity.not_after.saturating_sub(since_1970(now));
        tracing::info!(name = self.name, valid_for = ?until, "made a new certificate");
        Ok(identity)
    }

    /// Have API servers trust it.
    async fn trust(&self, identity: &Identity, now: SystemTime) -> Result<(), KeeperError> {
        let get = Request::new(CONFIGURATIONS).get(&self.name, &GetParams::default());
        let mut configuration: Value = self.ask("reading the ValidatingWebhookConfiguration", get).await?;
        let mut changed = false;
        for webhook in configuration.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(client) = webhook.get_mut("clientConfig").and_then(Value::as_object_mut) else { continue };
            let trusted: Option<ByteString> =
                client.get("caBundle").and_then(|bundle| serde_json::from_value(bundle.clone()).ok());
            let trusted = trusted.map(|ByteString(bytes)| bytes).unwrap_or_default();
            let wanted = bundle(&identity.authority, &String::from_utf8_lossy(&trusted), now);
            if wanted.as_bytes() != trusted {
                client.insert("caBundle".to_owned(), json!(ByteString(wanted.into_bytes())));
                changed = true;
            }
        }
        if changed {
            let body = configuration.to_string().into_bytes();
            let put = Request::new(CONFIGURATIONS).replace(&self.name, &PostParams::default(), body);
            self.ask("writing the ValidatingWebhookConfiguration", put).await?;
        }
        Ok(())
    }

    async fn ask(
        &self,
        what: &'static str,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Value, KeeperError> {
        let request = request.map_err(|source| KeeperError::Api { what, source: kube::Error::BuildRequest(source) })?;
        in_time(what, self.client.request(request)).await
    }
}

async fn in_time<T>(
    what: &'static str,
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, KeeperError> {
    let answer = tokio::time::timeout(PATIENCE, answer).await.map_err(|_| KeeperError::Silent { what })?;
    answer.map_err(|source| KeeperError::Api { what, source })
}

/// What a Secret has; `None`: nothing yet.
fn kept(secret: &Secret) -> Option<Result<Identity, IdentityError>> {
    let data = secret.data.as_ref().filter(|data| !data.is_empty())?;
    let part = |name: &str| {
        let bytes = data.get(name).map(|ByteString(bytes)| bytes.as_slice()).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    Some(Identity::read(part(AUTHORITY), part(CERTIFICATE), part(KEY)))
}
