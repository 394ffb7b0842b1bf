//! The kinds' news, put together to a World.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_plan::world::Kind;
use tokio::sync::{Notify, mpsc, watch};

use super::{News, Observation, Observed, Options};
use crate::catalog::{Catalog, Looked};
use crate::diagnostic::{Diagnostic, Severity};
use crate::manifest::Parsed;
use crate::update::{Noticed, Update, send};

/// Most news taken in before the World is made anew.
const BATCH: usize = 1024;

/// What is known of all kinds.
pub(super) struct Gatherer {
    catalog: Catalog,
    started: Instant,
    kinds: BTreeMap<Kind, Followed>,
    diagnostics: Vec<Diagnostic>,
    observed: Observed,
    readable: bool,
}

/// A kind that is followed.
#[derive(Debug, Default)]
struct Followed {
    relist: Arc<Notify>,
    /// It is known which objects there are.
    known: bool,
    /// It was asked for a list that has not come yet.
    asked: bool,
    /// Why it cannot be read at present.
    failure: Option<String>,
}

impl Gatherer {
    pub(super) fn new(options: &Options, started: Instant) -> Self {
        let catalog = Catalog::of_api(&options.namespace, options.node_address_use.clone());
        Self {
            catalog,
            started,
            kinds: BTreeMap::new(),
            diagnostics: Vec::new(),
            observed: Observed::new(),
            readable: false,
        }
    }

    /// A kind is followed from now on; `relist` has it listed.
    pub(super) fn add(&mut self, kind: Kind, relist: Arc<Notify>) {
        self.kinds.insert(kind, Followed { relist, ..Followed::default() });
    }

    /// Take in news until nobody wants to know any more.
    pub(super) async fn run(mut self, mut incoming: mpsc::Receiver<News>, sender: watch::Sender<Update>) {
        let mut batch = Vec::new();
        loop {
            let recheck = self.next_recheck_at(self.started.elapsed());
            tokio::select! {
                count = incoming.recv_many(&mut batch, BATCH) => if count == 0 { return },
                () = tokio::time::sleep(recheck.unwrap_or_default()), if recheck.is_some() => {}
                () = sender.closed() => return,
            }
            let noticed = batch.iter().filter_map(News::noticed).collect();
            if self.take_in_at(batch.drain(..), self.started.elapsed()) && !send(&sender, self.update(), noticed) {
                return;
            }
            self.ask_again();
        }
    }

    /// Take in news, `now` after the start. Returns whether there is anything new to tell.
    pub(super) fn take_in_at(&mut self, news: impl Iterator<Item = News>, now: Duration) -> bool {
        let mut changed = false;
        for news in news {
            match news {
                News::Object { path, parsed, seen, .. } => {
                    changed |= self.observe(&parsed, seen);
                    self.catalog.set_object(&path, *parsed);
                }
                News::Deleted { path, .. } => {
                    changed |= self.forget_observed(&path);
                    self.catalog.delete_object(&path);
                }
                News::Listed { kind, paths, began } => changed |= self.listed(kind, &paths, began, now),
                News::NotServed { kind } => self.not_served(kind),
                News::Failed { kind, error } => {
                    if let Some(followed) = self.kinds.get_mut(&kind) {
                        followed.failure = Some(error);
                    }
                }
                News::Recovered { kind } => {
                    if let Some(followed) = self.kinds.get_mut(&kind) {
                        followed.failure = None;
                    }
                }
            }
        }
        changed |= self.settle(Looked::AtNothing, now);
        changed &= self.is_complete();
        let readable = self.is_complete() && self.kinds.values().all(|followed| followed.failure.is_none());
        let diagnostics = self.collect_diagnostics();
        changed |= readable != self.readable || diagnostics != self.diagnostics;
        self.readable = readable;
        self.diagnostics = diagnostics;
        changed
    }

    /// Note what was seen of an object. Returns whether it is news.
    fn observe(&mut self, parsed: &Parsed, seen: Option<Box<Observation>>) -> bool {
        let Some(key) = parsed.documents.first().map(|document| &document.key) else { return false };
        match seen {
            Some(seen) if self.observed.get(key).is_some_and(|known| **known == *seen) => false,
            Some(seen) => {
                self.observed.insert(key.clone(), Arc::from(seen));
                true
            }
            None => self.observed.remove(key).is_some(),
        }
    }

    /// Forget what was seen of an object that the API has no more. Returns whether anything was.
    fn forget_observed(&mut self, path: &Path) -> bool {
        let keys: Vec<_> = self.catalog.keys_of(path).cloned().collect();
        keys.iter().filter(|key| self.observed.remove(*key).is_some()).count() > 0
    }

    /// Whether it is known of every kind which objects there are.
    fn is_complete(&self) -> bool {
        self.kinds.values().all(|followed| followed.known)
    }

    /// Nothing is made of half a World.
    fn settle(&mut self, looked: Looked, now: Duration) -> bool {
        self.is_complete() && self.catalog.settle_after(looked, now).changed
    }

    fn listed(&mut self, kind: Kind, paths: &BTreeSet<PathBuf>, began: Duration, now: Duration) -> bool {
        let of_kind = Path::new(kind.as_str());
        let gone = self.catalog.files().filter(|path| path.starts_with(of_kind) && !paths.contains(*path));
        for path in gone.map(Path::to_owned).collect::<Vec<_>>() {
            self.forget_observed(&path);
            self.catalog.remove_file(&path);
        }
        if let Some(followed) = self.kinds.get_mut(&kind) {
            followed.known = true;
            followed.asked = false;
            followed.failure = None;
        }
        self.settle(Looked::At(kind, began), now)
    }

    /// A kind that was never there has no objects. One that is there no more has lost them with its definition, which is
    /// no wish concerning the objects: when it is there again, that it has none says nothing.
    fn not_served(&mut self, kind: Kind) {
        let of_kind = Path::new(kind.as_str());
        let has_objects = self.catalog.files().any(|path| path.starts_with(of_kind))
            || self.catalog.world().configuration().any(|key| key.kind == kind);
        if has_objects {
            self.catalog.undefine(kind);
        }
        if let Some(followed) = self.kinds.get_mut(&kind) {
            followed.known = true;
            followed.asked = false;
            followed.failure = has_objects.then(|| format!("the API has no {kind} any more"));
        }
    }

    /// In how long a list would confirm what is gone.
    pub(super) fn next_recheck_at(&self, now: Duration) -> Option<Duration> {
        let due = |(kind, at): (&Kind, &Duration)| {
            let waits = self.kinds.get(kind).is_some_and(|followed| !followed.asked);
            waits.then(|| at.saturating_sub(now))
        };
        self.catalog.rechecks().iter().filter_map(due).min()
    }

    /// Have the kinds listed for which it is time.
    fn ask_again(&mut self) {
        let now = self.started.elapsed();
        for kind in self.catalog.rechecks().iter().filter(|(_, at)| now >= **at).map(|(kind, _)| kind) {
            if let Some(followed) = self.kinds.get_mut(kind).filter(|followed| !followed.asked) {
                followed.asked = true;
                followed.relist.notify_one();
            }
        }
    }

    fn collect_diagnostics(&self) -> Vec<Diagnostic> {
        // One server fails in one way, mostly.
        let mut failures: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (kind, followed) in &self.kinds {
            if let Some(failure) = &followed.failure {
                failures.entry(failure).or_default().push(kind.as_str());
            }
        }
        let failures = failures.into_iter().map(|(failure, kinds)| unreadable(&kinds, failure));
        self.catalog.diagnostics().iter().cloned().chain(failures).collect()
    }

    /// The present state.
    pub(super) fn update(&self) -> Update {
        Update {
            world: Arc::clone(self.catalog.world()),
            diagnostics: self.diagnostics.as_slice().into(),
            whereabouts: self.catalog.whereabouts(),
            observed: self.observed.clone(),
            readable: self.readable,
            noticed: Noticed::default(),
        }
    }
}

impl News {
    fn noticed(&self) -> Option<Instant> {
        match self {
            Self::Object { noticed, .. } => *noticed,
            Self::Deleted { noticed, .. } => Some(*noticed),
            Self::Listed { .. } | Self::NotServed { .. } | Self::Failed { .. } | Self::Recovered { .. } => None,
        }
    }
}

fn unreadable(kinds: &[&str], failure: &str) -> Diagnostic {
    let message = format!("the Kubernetes API cannot be read for {}: {failure}", kinds.join(", "));
    let remedy = "make the API server reachable, and permit list and watch; until then everything stays as it is";
    Diagnostic::about_file(Path::new(""), Severity::Warning, "source_unreadable", message, remedy)
}
