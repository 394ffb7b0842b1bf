//! The Lease in the API.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::election::{Elector, Seen, Step};
use crate::vitals::Vitals;

/// Until when this process may write; `None`: it may not.
pub(crate) type Permit = Option<Instant>;

/// Whether a permit is good now.
pub(crate) fn is_good(permit: &watch::Receiver<Permit>) -> bool {
    permit.borrow().is_some_and(|until| Instant::now() < until)
}

/// Wait for a permit. Returns false on shutdown.
pub(crate) async fn permitted(permit: &watch::Receiver<Permit>, shutdown: &CancellationToken) -> bool {
    let mut permit = permit.clone();
    tokio::select! {
        () = shutdown.cancelled() => false,
        permitted = permit.wait_for(|until| until.is_some_and(|until| Instant::now() < until)) => permitted.is_ok(),
    }
}

/// Wait until a permit is no longer good.
pub(crate) async fn expired(permit: &mut watch::Receiver<Permit>) {
    loop {
        let until = *permit.borrow_and_update();
        let Some(until) = until.filter(|until| Instant::now() < *until) else { return };
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            changed = permit.changed() => if changed.is_err() { return },
        }
    }
}

pub(crate) fn api(client: &Client, namespace: &str) -> Api<Lease> {
    Api::namespaced(client.clone(), namespace)
}

/// This replica's part in the election.
pub(crate) struct Campaign {
    pub(crate) lease: Api<Lease>,
    pub(crate) name: String,
    pub(crate) elector: Elector,
    pub(crate) started: Instant,
    pub(crate) told: watch::Sender<Permit>,
    pub(crate) vitals: Arc<Vitals>,
}

impl Campaign {
    /// Take the lease when it is free and renew it while it is ours, until resigned; then release it.
    pub(crate) async fn run(mut self, resigned: CancellationToken) {
        loop {
            let result = tokio::select! {
                () = resigned.cancelled() => break,
                result = self.turn() => result,
            };
            self.vitals.lease_looked(result.is_ok());
            if let Err(error) = result {
                tracing::warn!(%error, lease = self.name, "cannot read or renew the lease");
            }
            self.tell();
            tokio::select! {
                () = resigned.cancelled() => break,
                () = tokio::time::sleep(self.elector.times().retry_period) => {}
            }
        }
        self.release().await;
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn tell(&self) {
        let permit = self.elector.leads_until().map(|until| self.started + until);
        let permit = permit.filter(|until| Instant::now() < *until);
        self.told.send_if_modified(|told| std::mem::replace(told, permit) != permit);
        self.vitals.set_leader(permit.is_some());
    }

    async fn turn(&mut self) -> Result<(), kube::Error> {
        let limit = self.elector.times().request_timeout();
        let Ok(found) = timeout(limit, self.lease.get_opt(&self.name)).await else {
            return Err(timed_out());
        };
        let found = found?;
        let step = self.elector.look(found.as_ref().map(seen), self.now());
        let Step::Write { transition } = step else {
            self.elector.lost();
            return Ok(());
        };
        let began = self.now();
        let lease = self.ours(found, transition);
        let written = match &lease.metadata.resource_version {
            Some(_) => timeout(limit, self.lease.replace(&self.name, &PostParams::default(), &lease)).await,
            None => timeout(limit, self.lease.create(&PostParams::default(), &lease)).await,
        };
        match written {
            Ok(Ok(lease)) => {
                self.elector.wrote(seen(&lease), began);
                Ok(())
            }
            // Somebody was faster.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(timed_out()),
        }
    }

    /// The lease as it is to be, with us as its holder.
    fn ours(&self, found: Option<Lease>, transition: bool) -> Lease {
        let new =
            || Lease { metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() }, spec: None };
        let mut lease = found.unwrap_or_else(new);
        let now = MicroTime(Timestamp::now());
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        let seconds = self.elector.times().lease_duration.as_secs();
        spec.holder_identity = Some(self.elector.identity().to_owned());
        spec.lease_duration_seconds = Some(i32::try_from(seconds).unwrap_or(i32::MAX));
        spec.renew_time = Some(now.clone());
        if transition {
            spec.acquire_time = Some(now);
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default().saturating_add(1));
        }
        lease
    }

    /// Let go of the lease, so that another need not wait for it. Failing that, it waits.
    async fn release(mut self) {
        let leads = self.elector.leads(self.now());
        self.elector.lost();
        self.tell();
        if !leads {
            return;
        }
        let release = async {
            let Some(mut lease) = self.lease.get_opt(&self.name).await? else { return Ok(()) };
            let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
            if spec.holder_identity.as_deref() == Some(self.elector.identity()) {
                spec.holder_identity = Some(String::new());
                spec.renew_time = Some(MicroTime(Timestamp::now()));
                self.lease.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<(), kube::Error>(())
        };
        match timeout(self.elector.times().request_timeout(), release).await {
            Ok(Ok(())) => tracing::info!(lease = self.name, "released the lease"),
            Ok(Err(error)) => tracing::warn!(%error, lease = self.name, "cannot release the lease"),
            Err(_) => tracing::warn!(lease = self.name, "cannot release the lease: no answer in time"),
        }
    }
}

fn seen(lease: &Lease) -> Seen {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
    Seen {
        holder: spec.holder_identity.unwrap_or_default(),
        renewal: format!("{:?} {:?}", spec.renew_time, spec.lease_transitions),
        duration: Duration::from_secs(seconds),
    }
}

fn timed_out() -> kube::Error {
    kube::Error::Service("no answer in time".into())
}
