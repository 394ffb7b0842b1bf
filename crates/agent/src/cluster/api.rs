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

use super::{
    leases::{self, Change, Subject},
    owner,
};

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
    client: Client,
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
        let api = Api::namespaced(client.clone(), namespace);
        let leases = Self { client, api, news, slots, doubted: Arc::default() };
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
            let news = match timeout(PATIENCE, leases.write(&change)).await {
                Ok(Ok(Some(lease))) => leases::read(&lease).into_iter().chain([outcome(Written::Done)]).collect(),
                // Nobody is elected on a node that the API does not have, and nobody would delete its lease.
                Ok(Ok(None)) => vec![outcome(Written::Conflict)],
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

    /// Writes a lease; `None`: it would be that of a node which is not there.
    async fn write(&self, change: &Change) -> Result<Option<Lease>, kube::Error> {
        if !change.creates() {
            let patch = Patch::Merge(change.body(None));
            return self.api.patch(&change.name, &PatchParams::default(), &patch).await.map(Some);
        }
        let owner = match change.node() {
            Some(node) => {
                let Some(owner) = owner::reference(&self.client, &node).await? else { return Ok(None) };
                Some(owner)
            }
            None => None,
        };
        let lease = serde_json::from_value(change.body(owner)).map_err(kube::Error::SerdeError)?;
        self.api.create(&PostParams::default(), &lease).await.map(Some)
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use evenkeel_fake_api::{FakeApi, Options};
    use evenkeel_ownership::Life;
    use evenkeel_sources::kubernetes;
    use k8s_openapi::api::core::v1::{Namespace, Node};
    use kube::api::ObjectMeta;

    use super::*;

    const NODE: &str = "node-1";
    /// How long anything may take on a machine that does other things as well.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn named(name: &str) -> ObjectMeta {
        ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
    }

    /// What comes of the lease that an agent makes.
    async fn make_lease(leases: &Leases, news: &mut mpsc::UnboundedReceiver<News>) -> Written {
        let change = Change::renew(NODE, None, Life::Serving, Duration::from_secs(15), &[], &now());
        leases.change(change, Input::Renewed);
        loop {
            for input in timeout(PATIENCE, news.recv()).await.unwrap().unwrap() {
                if let Input::Renewed(written) = input {
                    return written;
                }
            }
        }
    }

    #[tokio::test]
    async fn the_lease_of_an_agent_goes_with_its_node_and_does_not_come_back() {
        let api = FakeApi::start("127.0.0.1:0".parse().unwrap(), Options::default()).await.unwrap();
        let client = kubernetes::client(kube::Config::new(api.url().parse().unwrap())).unwrap();
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace = Namespace { metadata: named("lb"), ..Namespace::default() };
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        let nodes: Api<Node> = Api::all(client.clone());
        let node = Node { metadata: named(NODE), ..Node::default() };
        let node = nodes.create(&PostParams::default(), &node).await.unwrap();
        let (leases, mut news) = Leases::follow(client, "lb");

        assert_eq!(make_lease(&leases, &mut news).await, Written::Done);
        let lease = leases.api.get(&leases::name_of_agent(NODE)).await.unwrap();
        let owners = lease.metadata.owner_references.unwrap();
        assert_eq!(owners.iter().map(|owner| Some(&owner.uid)).collect::<Vec<_>>(), [node.metadata.uid.as_ref()]);

        nodes.delete(NODE, &DeleteParams::default()).await.unwrap();
        let deleted = Instant::now();
        while leases.api.get_opt(&leases::name_of_agent(NODE)).await.unwrap().is_some() {
            assert!(deleted.elapsed() < PATIENCE, "it stays");
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(make_lease(&leases, &mut news).await, Written::Conflict, "whose would it be?");
        assert_eq!(leases.api.get_opt(&leases::name_of_agent(NODE)).await.unwrap(), None);
    }
}
