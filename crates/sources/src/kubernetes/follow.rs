//! One kind: listed, watched, and listed again when the watch has missed something.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kube::Client;
use kube::core::WatchEvent;
use kube::core::params::{ListParams, WatchParams};
use kube::core::request::Request;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};

use super::backoff::{Backoff, random, shortened};
use super::list::{PAGE, in_time, is_gone, no_answer, page};
use super::resource::Resource;
use super::{News, Observation};
use crate::manifest;

/// How long one watch lasts at most, and how long after that it takes to believe that the server is gone: a connection
/// that died in silence says nothing, as a watch does that has nothing to tell.
const WATCH_TIME: Duration = Duration::from_secs(240);
const WATCH_GRACE: Duration = Duration::from_secs(10);
/// A watch that ends before this is nothing to go on from at once.
const SHORT_WATCH: Duration = Duration::from_secs(1);
/// How long a server that takes a streaming list may take for it. One that does not know them never ends it.
const STREAM_PATIENCE: Duration = Duration::from_secs(60);
/// The waits after failures.
const FIRST_WAIT: Duration = Duration::from_millis(400);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The annotation of the bookmark at the end of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// The task that follows one kind.
pub(super) struct Follower {
    client: Client,
    resource: Resource,
    observe: bool,
    relist: Arc<Notify>,
    started: Instant,
    news: mpsc::Sender<News>,
    /// The server has not refused streaming lists yet.
    streams: bool,
    backoff: Backoff,
    failing: bool,
}

/// Why a kind cannot be followed any further just now.
enum Interrupted {
    /// A list was asked for.
    Asked,
    /// What was known is too old, or a list was cut off: everything has to be listed.
    Expired,
    /// The API has no such kind.
    NotServed,
    /// The server does not do streaming lists.
    NoStreams,
    /// Something failed.
    Failed(kube::Error),
    /// Nobody wants to know any more.
    Closed,
}

/// The objects seen by a list that has not ended yet.
struct Listing {
    began: Duration,
    paths: BTreeSet<PathBuf>,
}

impl Follower {
    pub(super) fn new(
        client: Client,
        resource: Resource,
        (streams, observe): (bool, bool),
        relist: Arc<Notify>,
        started: Instant,
        news: mpsc::Sender<News>,
    ) -> Self {
        let backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        Self { client, resource, observe, relist, started, news, streams, backoff, failing: false }
    }

    /// Follow the kind until nobody wants to know any more.
    pub(super) async fn run(mut self) {
        let kind = self.resource.kind;
        // Where the next watch goes on; `None`: from a new list.
        let mut version = None;
        loop {
            let interrupted = match self.round(&mut version).await {
                Ok(()) => continue,
                Err(interrupted) => interrupted,
            };
            let wait = match interrupted {
                Interrupted::Closed => return,
                Interrupted::Asked => {
                    version = None;
                    continue;
                }
                Interrupted::Expired => {
                    version = None;
                    self.backoff.wait(random())
                }
                Interrupted::NoStreams => {
                    self.streams = false;
                    continue;
                }
                Interrupted::NotServed => {
                    version = None;
                    self.failing = false;
                    if self.news.send(News::NotServed { kind }).await.is_err() {
                        return;
                    }
                    self.backoff.wait(random())
                }
                Interrupted::Failed(error) => {
                    self.failing = true;
                    let error = error.to_string();
                    if self.news.send(News::Failed { kind, error }).await.is_err() {
                        return;
                    }
                    self.backoff.wait(random())
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.news.closed() => return,
            }
        }
    }

    /// List if need be, then watch once.
    async fn round(&mut self, version: &mut Option<String>) -> Result<(), Interrupted> {
        let began = Instant::now();
        match version {
            None if self.streams => self.watch(version, true).await?,
            None => *version = Some(self.list().await?),
            Some(_) => self.watch(version, false).await?,
        }
        if version.is_none() || began.elapsed() >= SHORT_WATCH {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(shortened(SHORT_WATCH / 10, random())) => Ok(()),
            () = self.news.closed() => Err(Interrupted::Closed),
        }
    }

    /// A list, page by page. Returns its version.
    async fn list(&mut self) -> Result<String, Interrupted> {
        let mut listing = self.listing();
        let mut params =
            ListParams { field_selector: self.resource.fields.map(str::to_owned), ..ListParams::default() };
        params = params.limit(PAGE);
        loop {
            let page = page(&self.client, &self.resource.path, &params).await.map_err(|error| self.why(error))?;
            for object in page.items.unwrap_or_default() {
                self.tell(&object, Some(&mut listing)).await?;
            }
            match page.metadata.next.filter(|next| !next.is_empty()) {
                Some(next) => params.continue_token = Some(next),
                None => {
                    self.listed(listing).await?;
                    return Ok(page.metadata.resource_version);
                }
            }
        }
    }

    /// Watch from `version` on, which is kept up to date. With `streaming` from a list on, which comes as the first
    /// events.
    async fn watch(&mut self, version: &mut Option<String>, streaming: bool) -> Result<(), Interrupted> {
        let time = u32::try_from(shortened(WATCH_TIME, random()).as_secs()).unwrap_or(u32::MAX);
        let mut params = WatchParams::default().timeout(time);
        params.field_selector = self.resource.fields.map(str::to_owned);
        params.send_initial_events = streaming;
        let from = version.clone().unwrap_or_default();
        let request = Request::new(&self.resource.path).watch(&params, &from).map_err(kube::Error::BuildRequest);
        let mut listing = streaming.then(|| self.listing());
        let patience = tokio::time::Instant::now() + STREAM_PATIENCE;
        let ends = tokio::time::Instant::now() + WATCH_TIME + WATCH_GRACE;
        let events = in_time(self.client.request_events::<Value>(request.map_err(Interrupted::Failed)?)).await;
        let events = events.map_err(|error| if streaming { self.why_no_stream(error) } else { self.why(error) })?;
        let mut events = pin!(events);
        if !streaming {
            self.recovered().await?;
        }
        let relist = Arc::clone(&self.relist);
        loop {
            let event = tokio::select! {
                event = events.next() => event.transpose().map_err(|error| self.why(error))?,
                () = relist.notified(), if listing.is_none() => return Err(Interrupted::Asked),
                () = tokio::time::sleep_until(patience), if listing.is_some() => return Err(Interrupted::NoStreams),
                () = tokio::time::sleep_until(ends) => return Err(Interrupted::Failed(no_answer())),
                () = self.news.closed() => return Err(Interrupted::Closed),
            };
            let Some(event) = event else {
                // A list that was cut off says nothing about what it did not come to.
                return if listing.is_some() { Err(Interrupted::Expired) } else { Ok(()) };
            };
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.tell(&object, listing.as_mut()).await?;
                    follow_version(version, &object);
                }
                WatchEvent::Deleted(object) => {
                    if let Some(path) = self.resource.path_of(&object) {
                        if let Some(listing) = &mut listing {
                            listing.paths.remove(&path);
                        }
                        self.send(News::Deleted { path, noticed: Instant::now() }).await?;
                    }
                    follow_version(version, &object);
                }
                WatchEvent::Bookmark(bookmark) => {
                    let ends = bookmark.metadata.annotations.get(INITIAL_EVENTS_END).is_some_and(|end| end == "true");
                    if let Some(listing) = listing.take_if(|_| ends) {
                        self.listed(listing).await?;
                    }
                    *version = Some(bookmark.metadata.resource_version);
                }
                WatchEvent::Error(status) => return Err(self.why(kube::Error::Api(status))),
            }
        }
    }

    fn listing(&self) -> Listing {
        Listing { began: self.started.elapsed(), paths: BTreeSet::new() }
    }

    /// Hand an object over as it is now.
    async fn tell(&self, object: &Value, listing: Option<&mut Listing>) -> Result<(), Interrupted> {
        let Some(path) = self.resource.path_of(object) else { return Ok(()) };
        let noticed = listing.is_none().then(Instant::now);
        if let Some(listing) = listing {
            listing.paths.insert(path.clone());
        }
        let parsed = Box::new(manifest::of_api(self.resource.kind, object));
        let seen = if self.observe { Observation::of(self.resource.kind, object).map(Box::new) } else { None };
        self.send(News::Object { path, parsed, seen, noticed }).await
    }

    async fn listed(&mut self, listing: Listing) -> Result<(), Interrupted> {
        let Listing { began, paths } = listing;
        self.recovered().await?;
        self.send(News::Listed { kind: self.resource.kind, paths, began }).await
    }

    async fn recovered(&mut self) -> Result<(), Interrupted> {
        self.backoff.reset();
        if std::mem::take(&mut self.failing) {
            self.send(News::Recovered { kind: self.resource.kind }).await?;
        }
        Ok(())
    }

    async fn send(&self, news: News) -> Result<(), Interrupted> {
        self.news.send(news).await.map_err(|_| Interrupted::Closed)
    }

    fn why(&self, error: kube::Error) -> Interrupted {
        match &error {
            kube::Error::Api(status) if is_gone(status) => Interrupted::Expired,
            kube::Error::Api(status) if status.code == 404 && self.resource.kind.is_configuration() => {
                Interrupted::NotServed
            }
            _ => Interrupted::Failed(error),
        }
    }

    fn why_no_stream(&self, error: kube::Error) -> Interrupted {
        match &error {
            kube::Error::Api(status) if matches!(status.code, 400 | 422) => Interrupted::NoStreams,
            _ => self.why(error),
        }
    }
}

/// A watch goes on after the last object it told of. Not before its list is complete, though: that would leave the rest
/// of the list out.
fn follow_version(version: &mut Option<String>, object: &Value) {
    if let Some(version) = version
        && let Some(now) = object.get("metadata").and_then(|metadata| metadata.get("resourceVersion"))
        && let Some(now) = now.as_str()
    {
        now.clone_into(version);
    }
}
