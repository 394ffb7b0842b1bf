//! Objects and their history: what lists read and watches follow.
//!
//! Every change gets the next number of one global counter, the resource version. A table keeps the objects of one kind
//! in a persistent map, so that a list is a snapshot that costs nothing to take, and its newest changes in a log, which
//! watches read at their own pace. An object is encoded once, however many read it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use imbl::OrdMap;
use serde_json::Value;
use tokio::sync::watch;

use crate::object::{at, text};

/// Namespace (empty for cluster-wide kinds) and name.
pub(crate) type Key = (String, String);

/// An object as it was at one resource version.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) value: Value,
    pub(crate) revision: u64,
    encoded: OnceLock<Bytes>,
    item: OnceLock<Bytes>,
}

impl Stored {
    fn new(value: Value, revision: u64) -> Arc<Self> {
        Arc::new(Self { value, revision, encoded: OnceLock::new(), item: OnceLock::new() })
    }

    /// The object as JSON.
    pub(crate) fn encoded(&self) -> &Bytes {
        self.encoded.get_or_init(|| encode(&self.value))
    }

    /// The object as an item of a list of a built-in kind, which leaves out `apiVersion` and `kind`.
    pub(crate) fn item(&self) -> &Bytes {
        self.item.get_or_init(|| {
            let fields = self.value.as_object().into_iter().flatten();
            let kept = fields.filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind"));
            encode(&Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect()))
        })
    }
}

/// JSON text of a value.
pub(crate) fn encode(value: &Value) -> Bytes {
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

/// One entry of a table's log.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) revision: u64,
    pub(crate) change: Change,
    pub(crate) object: Arc<Stored>,
    pub(crate) previous: Option<Arc<Stored>>,
}

/// The newest changes of one kind.
#[derive(Debug)]
pub(crate) struct Topic {
    log: Mutex<Log>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Log {
    events: VecDeque<Arc<Event>>,
    /// Sequence number of the first event kept.
    first: u64,
    /// The newest revision no longer kept.
    compacted: u64,
}

impl Topic {
    fn lock(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, event: Event, keep: usize) {
        let mut log = self.lock();
        log.events.push_back(Arc::new(event));
        while log.events.len() > keep {
            if let Some(old) = log.events.pop_front() {
                log.compacted = old.revision;
                log.first += 1;
            }
        }
        let next = log.first + log.events.len() as u64;
        drop(log);
        self.changed.send_replace(next);
    }

    /// The place of the first event after `revision`, or the oldest revision from which one can still watch.
    pub(crate) fn position(&self, revision: u64) -> Result<u64, u64> {
        let log = self.lock();
        if revision < log.compacted {
            return Err(log.compacted);
        }
        Ok(log.first + log.events.partition_point(|event| event.revision <= revision) as u64)
    }

    /// Up to `most` events from `position` on, and the place after them. None if they are no longer kept.
    pub(crate) fn read(&self, position: u64, most: usize) -> Option<(Vec<Arc<Event>>, u64)> {
        let log = self.lock();
        let skip = usize::try_from(position.checked_sub(log.first)?).ok()?;
        let events: Vec<_> = log.events.range(skip.min(log.events.len())..).take(most).cloned().collect();
        let next = position + events.len() as u64;
        Some((events, next))
    }

    /// The events after `revision`, oldest first; None if they are no longer kept.
    pub(crate) fn since(&self, revision: u64) -> Option<Vec<Arc<Event>>> {
        let log = self.lock();
        if revision < log.compacted {
            return None;
        }
        let from = log.events.partition_point(|event| event.revision <= revision);
        Some(log.events.range(from..).cloned().collect())
    }

    /// Wakes when something is added.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Forgets all changes up to `revision`: watches that start from before it are told so.
    fn compact(&self, revision: u64) {
        let mut log = self.lock();
        while log.events.front().is_some_and(|event| event.revision <= revision) {
            log.events.pop_front();
            log.first += 1;
        }
        log.compacted = log.compacted.max(revision);
    }
}

#[derive(Debug)]
struct Table {
    objects: OrdMap<Key, Arc<Stored>>,
    topic: Arc<Topic>,
}

/// Someone else changed the object in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raced;

/// All objects.
#[derive(Debug)]
pub(crate) struct Store {
    revision: Arc<AtomicU64>,
    tables: HashMap<Arc<str>, Table>,
    /// Which objects name a UID as their owner.
    dependents: HashMap<String, BTreeSet<(Arc<str>, Key)>>,
    /// How many changes each table keeps for watches.
    keep: usize,
    /// Writes by table.
    writes: BTreeMap<String, u64>,
    /// The newest revision whose history was forgotten, for tables still to come.
    compacted: u64,
}

impl Store {
    pub(crate) fn new(keep: usize) -> Self {
        Self {
            revision: Arc::new(AtomicU64::new(1)),
            tables: HashMap::new(),
            dependents: HashMap::new(),
            keep,
            writes: BTreeMap::new(),
            compacted: 0,
        }
    }

    /// The newest resource version.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// The counter itself. What it says was in the logs before it said so.
    pub(crate) fn counter(&self) -> Arc<AtomicU64> {
        self.revision.clone()
    }

    /// Writes so far by `group/plural`.
    pub(crate) fn writes(&self) -> &BTreeMap<String, u64> {
        &self.writes
    }

    fn table(&mut self, name: &Arc<str>) -> &mut Table {
        let compacted = self.compacted;
        self.tables.entry(name.clone()).or_insert_with(|| {
            let log = Mutex::new(Log { compacted, ..Log::default() });
            Table { objects: OrdMap::new(), topic: Arc::new(Topic { log, changed: watch::Sender::new(0) }) }
        })
    }

    pub(crate) fn topic(&mut self, name: &Arc<str>) -> Arc<Topic> {
        self.table(name).topic.clone()
    }

    /// All objects of a kind as they are now.
    pub(crate) fn snapshot(&self, name: &str) -> OrdMap<Key, Arc<Stored>> {
        self.tables.get(name).map(|table| table.objects.clone()).unwrap_or_default()
    }

    pub(crate) fn get(&self, table: &str, key: &Key) -> Option<&Arc<Stored>> {
        self.tables.get(table)?.objects.get(key)
    }

    /// The objects that name `uid` as an owner.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<(Arc<str>, Key)> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// Names of all tables.
    pub(crate) fn tables(&self) -> Vec<Arc<str>> {
        self.tables.keys().cloned().collect()
    }

    /// Stores an object that is new (`expected` None) or was at the revision `expected`.
    pub(crate) fn put(
        &mut self,
        name: &Arc<str>,
        key: Key,
        mut value: Value,
        expected: Option<u64>,
    ) -> Result<Arc<Stored>, Raced> {
        let previous = self.get(name, &key).cloned();
        if previous.as_ref().map(|stored| stored.revision) != expected {
            return Err(Raced);
        }
        let revision = self.revision() + 1;
        crate::object::set_meta(&mut value, "resourceVersion", revision.to_string());
        if let Some(previous) = &previous {
            self.forget_owners(name, &key, &previous.value);
        }
        for uid in owners(&value) {
            self.dependents.entry(uid.to_owned()).or_default().insert((name.clone(), key.clone()));
        }
        let stored = Stored::new(value, revision);
        let change = if previous.is_some() { Change::Modified } else { Change::Added };
        let keep = self.keep;
        let table = self.table(name);
        table.objects.insert(key, stored.clone());
        table.topic.push(Event { revision, change, object: stored.clone(), previous }, keep);
        self.finish(name, revision);
        Ok(stored)
    }

    /// Removes an object that was at the revision `expected`.
    pub(crate) fn remove(&mut self, name: &Arc<str>, key: &Key, expected: u64) -> Result<Arc<Stored>, Raced> {
        let Some(previous) = self.get(name, key).filter(|stored| stored.revision == expected).cloned() else {
            return Err(Raced);
        };
        let revision = self.revision() + 1;
        self.forget_owners(name, key, &previous.value);
        let mut value = previous.value.clone();
        crate::object::set_meta(&mut value, "resourceVersion", revision.to_string());
        let stored = Stored::new(value, revision);
        let keep = self.keep;
        let table = self.table(name);
        table.objects.remove(key);
        let event = Event { revision, change: Change::Deleted, object: stored.clone(), previous: Some(previous) };
        table.topic.push(event, keep);
        self.finish(name, revision);
        Ok(stored)
    }

    fn forget_owners(&mut self, name: &Arc<str>, key: &Key, value: &Value) {
        for uid in owners(value) {
            if let Some(set) = self.dependents.get_mut(uid) {
                set.remove(&(name.clone(), key.clone()));
                if set.is_empty() {
                    self.dependents.remove(uid);
                }
            }
        }
    }

    fn finish(&mut self, name: &str, revision: u64) {
        *self.writes.entry(name.to_owned()).or_default() += 1;
        self.revision.store(revision, Ordering::Release);
    }

    /// Forgets the history of all kinds, as etcd's compaction does.
    pub(crate) fn compact(&mut self) {
        let revision = self.revision();
        self.compacted = revision;
        for table in self.tables.values() {
            table.topic.compact(revision);
        }
    }
}

/// UIDs of the owners.
fn owners(value: &Value) -> impl Iterator<Item = &str> {
    let list = at(value, &["metadata", "ownerReferences"]).and_then(Value::as_array);
    list.into_iter().flatten().map(|owner| text(owner, &["uid"])).filter(|uid| !uid.is_empty())
}
