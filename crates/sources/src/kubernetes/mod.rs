//! The World from the Kubernetes API. Every kind is listed once and then watched; what is lost on the way is listed
//! again. Objects go through the same reading as manifests, and the same rules say when something is gone: a deletion
//! the API reports removes at once, an absence that only a list shows has to be confirmed by a second one, and so has
//! the loss of more than half of a kind. A source that cannot be read leaves everything as it is.
//!
//! ```text
//! one task a kind: follow (list, watch, backoff) ──news──> gather (catalog, what is confirmed) ──> Update
//! ```

pub mod backoff;
pub mod events;
mod follow;
mod gather;
mod list;
mod observe;
mod resource;
mod snapshot;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_plan::world::{Kind, NodeAddressUse};
use tokio::sync::{Notify, mpsc, watch};

use self::follow::Follower;
use self::gather::Gatherer;
pub use self::list::list;
pub use self::observe::{CONDITION, FORMER_POOL, LoadBalancerClass, Observation, Observed, POOL};
pub use self::snapshot::snapshot;
use crate::manifest::Parsed;
use crate::update::Update;

/// How many pieces of news may wait to be taken in.
const QUEUE: usize = 1024;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What of an API makes the World.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program's own namespace: configuration elsewhere is refused (`outside_system_namespace`).
    pub namespace: String,
    /// The kinds that are read; all others stay empty.
    pub kinds: BTreeSet<Kind>,
    /// Lists are asked for as the beginning of a watch, as long as the server knows such; else page by page.
    pub streams: bool,
    /// What a controller writes to is told as well ([`Update::observed`]).
    pub observe: bool,
    /// Whose services may be served at the nodes' own addresses. Who may create a Service is far from being permitted to do
    /// anything to the nodes.
    pub node_address_use: NodeAddressUse,
}

impl Options {
    /// All kinds there are in an API. Nobody may use the nodes' own addresses.
    pub fn new(namespace: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            kinds: resource::kinds().collect(),
            streams: true,
            observe: false,
            node_address_use: NodeAddressUse::of(&[]),
        }
    }

    /// As a controller needs it: without the endpoints of services, which are most of what there is, and with what it
    /// writes to.
    #[must_use]
    pub fn for_controller(mut self) -> Self {
        self.kinds.remove(&Kind::EndpointSlice);
        self.observe = true;
        self
    }
}

/// A client for the cluster this process runs in, or the one that KUBECONFIG names.
///
/// # Errors
/// There is none, or what there is cannot be used.
pub async fn connect() -> Result<kube::Client, kube::Error> {
    let config = kube::Config::infer().await.map_err(kube::Error::InferConfig)?;
    client(config)
}

/// A client that leaves it to its user to try again: nobody is to believe in an answer while there is none, and a write
/// that comes late may come too late.
///
/// # Errors
/// The configuration cannot be used.
pub fn client(mut config: kube::Config) -> Result<kube::Client, kube::Error> {
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    kube::Client::try_from(config)
}

/// Follow the API. The receiver holds an empty World that is not readable until every kind has been listed once; from
/// then on it is told of every new state, never of one that is the same; of several in quick succession it may see only
/// the last. Dropping it ends the watch. Has to be called within a Tokio runtime.
pub fn watch(client: kube::Client, options: Options) -> watch::Receiver<Update> {
    let started = Instant::now();
    let (news, incoming) = mpsc::channel(QUEUE);
    let mut gatherer = Gatherer::new(&options, started);
    let (sender, receiver) = watch::channel(gatherer.update());
    for kind in options.kinds {
        let relist = Arc::new(Notify::new());
        gatherer.add(kind, Arc::clone(&relist));
        let resource = resource::Resource::of(kind, &options.namespace);
        let follower =
            Follower::new(client.clone(), resource, (options.streams, options.observe), relist, started, news.clone());
        tokio::spawn(follower.run());
    }
    tokio::spawn(gatherer.run(incoming, sender));
    receiver
}

/// What is told of a kind.
#[derive(Debug)]
enum News {
    /// An object is this version; `noticed`, unless it came with a list, which says nothing about when it changed.
    Object { path: PathBuf, parsed: Box<Parsed>, seen: Option<Box<Observation>>, noticed: Option<Instant> },
    /// An object was deleted.
    Deleted { path: PathBuf, noticed: Instant },
    /// These are all objects of a kind there were, some time after `began`, since the source started.
    Listed { kind: Kind, paths: BTreeSet<PathBuf>, began: Duration },
    /// The API has no such kind, at present.
    NotServed { kind: Kind },
    /// The kind cannot be read, at present.
    Failed { kind: Kind, error: String },
    /// The kind can be read again.
    Recovered { kind: Kind },
}

#[cfg(test)]
mod tests;
