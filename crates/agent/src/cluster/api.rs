//! The leases in the Kubernetes API: following them, and changing one.

use std::{collections::BTreeMap, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use evenkeel_ownership::{Input, Version, Written};
use futures_util::StreamExt as _;
use k8s_openapi::{api::coordination::v1::Lease, jiff};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent, WatchParams},
};
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, mpsc},
    time::{sleep, timeout},
};

use super::leases::{self, Change, Subject};

/// How long the API may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many addresses' records are written at the same time: a node may get thousands at once.
const CONCURRENCY: usize = 16;
/// How long a watch lasts before it is begun again, in seconds. An API server allows 295 at most.
const WATCH_SECONDS: u32 = 240;
/// Between attempts to reach the API, the first and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What was heard from the API, in order.
pub(crate) type News = Vec<Input>;

/// The leases of the program's namespace.
#[derive(Clone)]
pub(crate) struct Leases {
    api: Api<Lease>,
    news: mpsc::UnboundedSender<News>,
    /// Of addresses as many are written at the same time.
    slots: Arc<Semaphore>,
    /// The connection that a watch hangs on may be dead.
    doubted: Arc<Notify>,
}

impl Leases {
    /// Follows the leases; what is heard comes out of the receiver.
    pub(crate) fn follow(client: Client, namespace: &str) -> (Self, mpsc::UnboundedReceiver<News>) {
        let (news, receiver) = mpsc::unbounded_channel();
        let slots = Arc::new(Semaphore::new(CONCURRENCY));
        let leases = Self { api: Api::namespaced(client, namespace), news, slots, doubted: Arc::default() };
        tokio::spawn(leases.clone().run());
        (leases, receiver)
    }

    async fn run(self) {
        let mut known: BTreeMap<String, String> = BTreeMap::new();
        let mut pause = FIRST_PAUSE;
        while !self.news.is_closed() {
            match self.list(&mut known).await {
                Ok(version) => {
                    pause = FIRST_PAUSE;
                    self.watch(&mut known, version).await;
                    // Nothing is lost: what is listed next goes on from there.
                    sleep(pause).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot read the leases: owners stay as they are");
                    self.tell(vec![Input::View(false)]);
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn tell(&self, news: News) {
        // The agent may be ending.
        let _ = self.news.send(news);
    }

    /// Tells what there is, and what there is no longer.
    async fn list(&self, known: &mut BTreeMap<String, String>) -> Result<String, String> {
        let params = ListParams::default().labels(leases::LABEL);
        let listed = timeout(PATIENCE, self.api.list(&params)).await.map_err(|_| "no answer in time".to_owned())?;
        let listed = listed.map_err(|error| error.to_string())?;
        let mut news = Vec::new();
        let mut gone = std::mem::take(known);
        for lease in &listed.items {
            if let (Some(name), Some(uid)) = (&lease.metadata.name, &lease.metadata.uid) {
                if gone.get(name) == Some(uid) {
                    gone.remove(name);
                }
                known.insert(name.clone(), uid.clone());
            }
        }
        news.extend(gone.iter().filter_map(|(name, uid)| deleted(name, uid)));
        news.extend(listed.items.iter().filter_map(leases::read));
        news.push(Input::View(true));
        self.tell(news);
        Ok(listed.metadata.resource_version.unwrap_or_default())
    }

    /// Tells of changes until the watch ends.
    async fn watch(&self, known: &mut BTreeMap<String, String>, mut version: String) {
        loop {
            let params = WatchParams::default().labels(leases::LABEL).timeout(WATCH_SECONDS);
            let stream = match timeout(PATIENCE, self.api.watch(&params, &version)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%error, "the watch of leases did not begin"),
                Err(_) => return tracing::debug!("the watch of leases did not begin in time"),
            };
            let mut stream = pin!(stream);
            loop {
                let event = tokio::select! {
                    event = stream.next() => event,
                    () = self.doubted.notified() => return,
                    () = self.news.closed() => return,
                };
                match event {
                    Some(Ok(WatchEvent::Added(lease) | WatchEvent::Modified(lease))) => {
                        if let (Some(name), Some(uid)) = (&lease.metadata.name, &lease.metadata.uid) {
                            known.insert(name.clone(), uid.clone());
                        }
                        version = lease.metadata.resource_version.clone().unwrap_or(version);
                        self.tell(leases::read(&lease).into_iter().collect());
                    }
                    Some(Ok(WatchEvent::Deleted(lease))) => {
                        version = lease.metadata.resource_version.unwrap_or(version);
                        if let (Some(name), Some(uid)) = (lease.metadata.name, lease.metadata.uid) {
                            known.remove(&name);
                            self.tell(deleted(&name, &uid).into_iter().collect());
                        }
                    }
                    Some(Ok(WatchEvent::Bookmark(bookmark))) => version = bookmark.metadata.resource_version,
                    Some(Ok(WatchEvent::Error(status))) => {
                        return tracing::debug!(status.message, "the watch of leases begins again");
                    }
                    Some(Err(error)) => return tracing::debug!(%error, "the watch of leases broke off"),
                    // Its time is over: it goes on from the last version.
                    None => {
                        sleep(FIRST_PAUSE).await;
                        break;
                    }
                }
            }
        }
    }

    /// Changes a lease. What comes of it is told, with the object as it is then before.
    pub(crate) fn change(&self, change: Change, outcome: impl FnOnce(Written) -> Input + Send + 'static) {
        let leases = self.clone();
        tokio::spawn(async move {
            let _slot = leases.slot(change.is_urgent()).await;
            let body = change.body();
            let written = if change.creates() {
                match serde_json::from_value(body) {
                    Ok(lease) => timeout(PATIENCE, leases.api.create(&PostParams::default(), &lease)).await,
                    Err(error) => Ok(Err(kube::Error::SerdeError(error))),
                }
            } else {
                let params = PatchParams::default();
                timeout(PATIENCE, leases.api.patch(&change.name, &params, &Patch::Merge(&body))).await
            };
            let news = match written {
                Ok(Ok(lease)) => leases::read(&lease).into_iter().chain([outcome(Written::Done)]).collect(),
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                    vec![outcome(Written::Conflict)]
                }
                Ok(Err(error @ kube::Error::Api(_))) => {
                    tracing::warn!(lease = change.name, %error, "not written");
                    vec![outcome(Written::Failed)]
                }
                Ok(Err(error)) => leases.doubt(&change.name, &error.to_string(), outcome),
                Err(_) => leases.doubt(&change.name, "no answer in time", outcome),
            };
            leases.tell(news);
        });
    }

    /// Waits for its turn to write, unless it is urgent.
    async fn slot(&self, urgent: bool) -> Option<SemaphorePermit<'_>> {
        // Nobody closes it.
        if urgent { None } else { self.slots.acquire().await.ok() }
    }

    /// The API cannot be reached: then the watch hears nothing either, even if it does not know yet.
    fn doubt(&self, lease: &str, error: &str, outcome: impl FnOnce(Written) -> Input) -> News {
        tracing::warn!(lease, error, "not written: the API is not reached");
        self.doubted.notify_one();
        vec![Input::View(false), outcome(Written::Failed)]
    }

    /// Deletes an address's record, if it still is this version.
    pub(crate) fn delete(&self, address: IpAddr, version: &Version) {
        let leases = self.clone();
        let preconditions = Preconditions { resource_version: Some(version.0.to_string()), uid: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        tokio::spawn(async move {
            let _slot = leases.slot(false).await;
            let deleted = timeout(PATIENCE, leases.api.delete(&leases::name_of_vip(address), &params)).await;
            let written = match deleted {
                Ok(Ok(_)) => Written::Done,
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Written::Conflict,
                Ok(Err(error)) => {
                    tracing::warn!(%address, %error, "its record is not deleted");
                    Written::Failed
                }
                Err(_) => Written::Failed,
            };
            leases.tell(vec![Input::Forgotten(address, written)]);
        });
    }

    /// Reads an address's record afresh.
    pub(crate) fn read(&self, address: IpAddr) {
        let leases = self.clone();
        tokio::spawn(async move {
            let lease = timeout(PATIENCE, leases.api.get_opt(&leases::name_of_vip(address))).await;
            let record = lease.ok().and_then(Result::ok).flatten().as_ref().and_then(leases::read);
            let record = match record {
                Some(Input::Record(_, record)) => Some(record),
                _ => None,
            };
            leases.tell(vec![Input::Read(address, record)]);
        });
    }
}

fn deleted(name: &str, uid: &str) -> Option<Input> {
    Some(match leases::subject(name)? {
        Subject::Vip(address) => Input::RecordDeleted(address, uid.into()),
        Subject::Agent(node) => Input::LeaseDeleted(node.as_str().into()),
    })
}

/// The time, as leases have it.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}
