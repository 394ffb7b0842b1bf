//! Lists, snapshots and watches.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use imbl::OrdMap;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::error::ApiError;
use crate::registry::Resource;
use crate::select::Selector;
use crate::server::{Server, present};
use crate::store::{Change, Event, Key, Stored, Topic, encode};

/// What is listed or watched.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) resource: Arc<Resource>,
    /// Empty for all.
    pub(crate) namespace: String,
    pub(crate) selector: Selector,
}

impl Scope {
    fn matches(&self, object: &Value) -> bool {
        (self.namespace.is_empty() || crate::object::meta(object, "namespace") == self.namespace)
            && self.selector.matches(object)
    }

    fn encoded(&self, stored: &Stored) -> Bytes {
        if self.resource.api_version() == self.resource.stored_as {
            stored.encoded().clone()
        } else {
            encode(&present(&self.resource, &stored.value))
        }
    }
}

/// The parameters of a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListOptions {
    pub(crate) limit: usize,
    pub(crate) continues: String,
    pub(crate) resource_version: String,
    pub(crate) version_match: String,
}

/// A list, not yet encoded.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) items: Vec<Arc<Stored>>,
    pub(crate) revision: u64,
    pub(crate) continues: String,
    pub(crate) remaining: usize,
}

/// Lists the objects in a scope.
pub(crate) fn list(server: &Server, scope: &Scope, options: &ListOptions) -> Result<List, ApiError> {
    let (mut objects, mut revision, topic) = {
        let mut state = server.state();
        let topic = state.store.topic(&scope.resource.table);
        (state.store.snapshot(&scope.resource.table), state.store.revision(), topic)
    };
    let mut start: Option<Key> = None;
    if !options.continues.is_empty() {
        let (at, key) = read_token(&options.continues)
            .ok_or_else(|| ApiError::bad_request("continue key is not valid: illegal base64 data"))?;
        objects = rewind(objects, &topic, at).ok_or_else(|| {
            ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
            )
        })?;
        revision = at;
        start = Some(key);
    } else if let Some(asked) = parse_version(&options.resource_version)? {
        if asked > revision {
            return Err(ApiError::too_large_version(asked, revision));
        }
        if options.version_match == "Exact" && asked > 0 {
            objects = rewind(objects, &topic, asked).ok_or_else(|| {
                ApiError::expired(format!("The resourceVersion for the provided list is too old: {asked}"))
            })?;
            revision = asked;
        }
    }
    if server.faults.take_empty_list(&scope.resource.plural) {
        return Ok(List { items: Vec::new(), revision, continues: String::new(), remaining: 0 });
    }
    let after = |key: &Key| start.as_ref().is_none_or(|start| key > start);
    // One object is got, not looked for among all, as the real one does.
    let one = scope.selector.name().filter(|_| !scope.namespace.is_empty());
    let from = (scope.namespace.clone(), one.unwrap_or_default().to_owned());
    let selected = objects
        .range(from..)
        .take_while(|((namespace, _), _)| scope.namespace.is_empty() || *namespace == scope.namespace)
        .take_while(|((_, name), _)| one.is_none_or(|one| name == one))
        .filter(|(key, stored)| after(key) && scope.selector.matches(&stored.value));
    let mut items: Vec<(Key, Arc<Stored>)> = Vec::new();
    let mut remaining = 0;
    for (key, stored) in selected {
        if options.limit == 0 || items.len() < options.limit {
            items.push((key.clone(), stored.clone()));
        } else {
            remaining += 1;
        }
    }
    let continues = match items.last() {
        Some((key, _)) if remaining > 0 => write_token(revision, key),
        _ => String::new(),
    };
    Ok(List { items: items.into_iter().map(|(_, stored)| stored).collect(), revision, continues, remaining })
}

/// The objects as they were at `revision`. None if that is no longer known.
fn rewind(mut objects: OrdMap<Key, Arc<Stored>>, topic: &Topic, revision: u64) -> Option<OrdMap<Key, Arc<Stored>>> {
    for event in topic.since(revision)?.iter().rev() {
        let meta = |name| crate::object::meta(&event.object.value, name).to_owned();
        let key = (meta("namespace"), meta("name"));
        match &event.previous {
            Some(previous) => objects.insert(key, previous.clone()),
            None => objects.remove(&key),
        };
    }
    Some(objects)
}

/// A `continue` token: the revision and the last key.
fn write_token(revision: u64, key: &Key) -> String {
    use base64::Engine as _;
    let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": [key.0, key.1]});
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token.to_string())
}

fn read_token(token: &str) -> Option<(u64, Key)> {
    use base64::Engine as _;
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token).ok()?;
    let token: Value = serde_json::from_slice(&token).ok()?;
    let part = |index: usize| Some(token.get("start")?.get(index)?.as_str()?.to_owned());
    Some((token.get("rv")?.as_u64()?, (part(0)?, part(1)?)))
}

/// A `resourceVersion` parameter; None when it is not given.
pub(crate) fn parse_version(text: &str) -> Result<Option<u64>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        ApiError::bad_request(format!(
            "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
        ))
    })
}

/// A list as JSON.
pub(crate) fn encode_list(scope: &Scope, list: &List) -> Bytes {
    let resource = &scope.resource;
    let mut metadata = json!({"resourceVersion": list.revision.to_string()});
    if !list.continues.is_empty() {
        let map = crate::object::fields(&mut metadata);
        map.insert("continue".into(), list.continues.clone().into());
        if scope.selector.is_everything() {
            map.insert("remainingItemCount".into(), list.remaining.into());
        }
    }
    let mut body = BytesMut::new();
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        resource.list_kind,
        resource.api_version()
    );
    body.put_slice(head.as_bytes());
    for (index, stored) in list.items.iter().enumerate() {
        if index > 0 {
            body.put_u8(b',');
        }
        if resource.custom || resource.api_version() != resource.stored_as {
            body.put_slice(&scope.encoded(stored));
        } else {
            body.put_slice(stored.item());
        }
    }
    body.put_slice(b"]}\n");
    body.freeze()
}

/// The parameters of a watch.
#[derive(Clone, Debug)]
pub(crate) struct WatchOptions {
    pub(crate) resource_version: String,
    pub(crate) bookmarks: bool,
    pub(crate) initial_events: bool,
    pub(crate) timeout: Duration,
    pub(crate) as_table: Option<crate::table::Include>,
}

/// How many events go out in one piece.
const BATCH: usize = 256;

/// Starts a watch: pieces of its body come out of the receiver.
pub(crate) fn watch(
    server: &Arc<Server>,
    scope: Scope,
    options: WatchOptions,
) -> Result<mpsc::Receiver<Bytes>, ApiError> {
    let asked = parse_version(&options.resource_version)?;
    let mut state = server.state();
    let topic = state.store.topic(&scope.resource.table);
    let current = state.store.revision();
    let counter = state.store.counter();
    let whole = options.initial_events || asked.is_none_or(|asked| asked == 0);
    let (initial, start) = if whole {
        (Some(state.store.snapshot(&scope.resource.table)), topic.position(current))
    } else {
        (None, topic.position(asked.unwrap_or_default()))
    };
    drop(state);
    let (sender, receiver) = mpsc::channel(16);
    let position = match start {
        Ok(position) => position,
        Err(oldest) => {
            let asked = asked.unwrap_or_default();
            let error = ApiError::expired(format!("too old resource version: {asked} ({oldest})"));
            if server.options.gone_as_status {
                return Err(error);
            }
            let line = line("ERROR", &encode(&error.status()));
            // The channel is new and empty.
            let _ = sender.try_send(line);
            return Ok(receiver);
        }
    };
    let token = server.faults.watch_token();
    let mood = server.faults.mood();
    let watcher = Watcher {
        scope,
        topic,
        counter,
        position,
        sent: asked.unwrap_or(0),
        sender,
        interval: server.options.bookmark_interval,
        mood,
        options,
    };
    tokio::spawn(async move {
        tokio::select! {
            () = watcher.run(initial, current) => {}
            () = token.cancelled() => {}
        }
    });
    Ok(receiver)
}

struct Watcher {
    scope: Scope,
    topic: Arc<Topic>,
    counter: Arc<std::sync::atomic::AtomicU64>,
    position: u64,
    /// The newest revision the client knows of.
    sent: u64,
    sender: mpsc::Sender<Bytes>,
    interval: Duration,
    mood: tokio::sync::watch::Receiver<crate::faults::Mood>,
    options: WatchOptions,
}

impl Watcher {
    /// Until the timeout, the client or a fault ends it.
    async fn run(mut self, initial: Option<OrdMap<Key, Arc<Stored>>>, current: u64) {
        let deadline = tokio::time::Instant::now() + self.options.timeout;
        let mut changed = self.topic.subscribe();
        if let Some(objects) = initial
            && !self.send_initial(objects, current).await
        {
            return;
        }
        let mut bookmark = tokio::time::Instant::now() + self.interval;
        loop {
            // What the counter says before the log is read has been read after it.
            let known = self.counter.load(Ordering::Acquire);
            changed.borrow_and_update();
            if !self.drain().await {
                return;
            }
            let sender = self.sender.clone();
            tokio::select! {
                result = changed.changed() => if result.is_err() { return },
                () = sender.closed() => return,
                () = tokio::time::sleep_until(deadline) => return,
                () = tokio::time::sleep_until(bookmark) => {
                    bookmark = tokio::time::Instant::now() + self.interval;
                    if self.options.bookmarks && !self.send_bookmark(known.max(self.sent), false).await {
                        return;
                    }
                }
            }
        }
    }

    async fn send_initial(&mut self, objects: OrdMap<Key, Arc<Stored>>, current: u64) -> bool {
        let mut piece = BytesMut::new();
        let mut count = 0;
        for stored in objects.values() {
            if !self.scope.matches(&stored.value) {
                continue;
            }
            piece.put_slice(&self.event_line("ADDED", stored));
            count += 1;
            if count % BATCH == 0 && !self.send(piece.split().freeze()).await {
                return false;
            }
        }
        if !piece.is_empty() && !self.send(piece.freeze()).await {
            return false;
        }
        self.sent = current;
        !self.options.initial_events || !self.options.bookmarks || self.send_bookmark(current, true).await
    }

    /// Sends what the log has. False when the watch is over.
    async fn drain(&mut self) -> bool {
        loop {
            let Some((events, next)) = self.topic.read(self.position, BATCH) else {
                let error = ApiError::expired("too old resource version: the watch fell behind what is kept");
                let _ = self.send(line("ERROR", &encode(&error.status()))).await;
                return false;
            };
            if events.is_empty() {
                return true;
            }
            self.position = next;
            let mut piece = BytesMut::new();
            for event in &events {
                self.sent = event.revision;
                if let Some((kind, object)) = self.seen(event) {
                    piece.put_slice(&self.event_line(kind, object));
                }
            }
            if !piece.is_empty() && !self.send(piece.freeze()).await {
                return false;
            }
        }
    }

    /// What an event is to this watch: objects come into and leave its selection.
    fn seen<'a>(&self, event: &'a Event) -> Option<(&'static str, &'a Stored)> {
        let before = event.previous.as_ref().is_some_and(|previous| self.scope.matches(&previous.value));
        let after = event.change != Change::Deleted && self.scope.matches(&event.object.value);
        let kind = match (before, after) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        Some((kind, &event.object))
    }

    fn event_line(&self, kind: &str, stored: &Stored) -> Bytes {
        match self.options.as_table {
            None => line(kind, &self.scope.encoded(stored)),
            Some(include) => {
                let row = present(&self.scope.resource, &stored.value);
                let table = crate::table::table(&self.scope.resource, &[row], json!({}), include);
                line(kind, &encode(&table))
            }
        }
    }

    async fn send_bookmark(&mut self, revision: u64, initial_end: bool) -> bool {
        let mut object = json!({
            "kind": self.scope.resource.kind, "apiVersion": self.scope.resource.api_version(),
            "metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null},
        });
        if initial_end {
            let annotations = json!({"k8s.io/initial-events-end": "true"});
            crate::object::set_meta(&mut object, "annotations", annotations);
        }
        self.sent = revision;
        self.send(line("BOOKMARK", &encode(&object))).await
    }

    async fn send(&mut self, piece: Bytes) -> bool {
        let mut mood = self.mood.clone();
        if mood.wait_for(|mood| *mood != crate::faults::Mood::Hang).await.is_err() {
            return false;
        }
        self.sender.send(piece).await.is_ok()
    }
}

/// One line of a watch.
fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(object.len() + 40);
    line.put_slice(format!("{{\"type\":\"{kind}\",\"object\":").as_bytes());
    line.put_slice(object);
    line.put_slice(b"}\n");
    line.freeze()
}
