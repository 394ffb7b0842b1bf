//! Directories of manifests: read once, or watched.
//!
//! A change reaches the World as soon as its writer is done: a rename or the close after writing acts at once, a file
//! that is still open for writing keeps its previous content. inotify says where something happened, and as long as that is
//! plain files only those are looked at; a look at everything about once a second is the safety net for what it cannot see
//! (network file systems, a queue that overflowed).

mod scan;
mod writers;

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_plan::World;
use evenkeel_plan::world::Gaps;
use tokio::sync::watch;

use self::scan::{Scanned, Scanner};
use self::writers::{Happened, PATIENCE, Writers};
use crate::catalog::{Catalog, Looked};
use crate::diagnostic::{Diagnostic, Severity};
use crate::kubernetes::Observed;
pub use crate::update::Update;
use crate::update::{Noticed, send};

/// How often everything is looked at, whether or not inotify reported anything.
const POLL: Duration = Duration::from_secs(1);
/// Between two such looks goes so many times what one takes: what changes meanwhile waits for its end.
const POLL_COST: u32 = 200;
/// But no longer than this.
const POLL_AT_LAST: Duration = Duration::from_secs(30);
/// How often one look follows directories that appear while it is at it; the next look is at most [`POLL`] away.
const MAX_NEW_LEVELS: usize = 4;

/// Directories (or single files) of manifests.
pub struct Directory;

/// What was read at once.
#[derive(Debug)]
pub struct Loaded {
    /// The World.
    pub world: Arc<World>,
    /// What was found, by file and line.
    pub diagnostics: Vec<Diagnostic>,
    catalog: Catalog,
}

impl Loaded {
    /// A finding about objects of the World, with the place where the object stands.
    pub fn locate(&self, finding: &evenkeel_plan::Diagnostic) -> Diagnostic {
        self.catalog.locate(finding)
    }
}

impl Directory {
    /// Read everything once. What cannot be read is among the diagnostics.
    pub fn load_once(roots: &[PathBuf]) -> Loaded {
        let mut catalog = Catalog::default();
        let mut scanner = Scanner::default();
        let scanned = scanner.scan(roots, &mut catalog, |_| false);
        catalog.settle(Duration::ZERO);
        let mut diagnostics = catalog.diagnostics().to_vec();
        let mut world = Arc::clone(catalog.world());
        if let Some((path, error)) = scanned.unreadable {
            diagnostics.push(unreadable(Severity::Error, &path, &error));
            Arc::make_mut(&mut world).gaps = Gaps::ALL;
        }
        Loaded { world, diagnostics, catalog }
    }

    /// Read everything and keep watching. The receiver holds the present state from the start and is told of every
    /// new one, never of one that is the same; of several in quick succession it may see only the last. Dropping it
    /// ends the watch.
    ///
    /// # Errors
    /// When inotify or a thread is not to be had. A root that is missing is no error: it may appear.
    pub fn watch(roots: Vec<PathBuf>) -> io::Result<watch::Receiver<Update>> {
        let mut watcher = Watcher::new(roots)?;
        watcher.look(Duration::ZERO);
        let (sender, receiver) = watch::channel(watcher.update());
        std::thread::Builder::new().name("manifests".to_owned()).spawn(move || watcher.run(&sender))?;
        Ok(receiver)
    }
}

struct Watcher {
    roots: Vec<PathBuf>,
    writers: Writers,
    scanner: Scanner,
    catalog: Catalog,
    /// What the last look at everything came to.
    scanned: Scanned,
    /// Why the World stays as it is: a source that cannot be read says nothing about what it holds.
    frozen: Option<Diagnostic>,
    /// When everything is to be looked at, and when to see whether what is absent still is; on a clock that starts with the
    /// first look.
    poll_at: Duration,
    recheck_at: Option<Duration>,
}

/// What a look found.
#[derive(Debug)]
struct Seen {
    /// There is something new to tell.
    news: bool,
    /// How many files were others than before.
    changed: usize,
}

impl Watcher {
    /// Nothing has been looked at yet.
    fn new(roots: Vec<PathBuf>) -> io::Result<Self> {
        Ok(Self {
            writers: Writers::new(PATIENCE)?,
            scanner: Scanner::default(),
            catalog: Catalog::default(),
            scanned: Scanned::default(),
            frozen: None,
            poll_at: Duration::ZERO,
            recheck_at: None,
            roots,
        })
    }

    fn run(&mut self, sender: &watch::Sender<Update>) {
        let started = Instant::now();
        let mut looked = started;
        while !sender.is_closed() {
            let noticed = if self.writers.has_news() {
                // It may have come at any time since.
                looked
            } else {
                self.writers.wait(self.patience(started.elapsed()));
                Instant::now()
            };
            looked = Instant::now();
            let polled_until = self.poll_at;
            let seen = self.look(started.elapsed());
            if self.poll_at != polled_until {
                self.poll_at = self.poll_at.max(started.elapsed() + (POLL_COST * looked.elapsed()).min(POLL_AT_LAST));
            }
            if seen.news && !send(sender, self.update(), vec![noticed; seen.changed]) {
                return;
            }
        }
    }

    /// How long nothing needs to be looked at, as long as inotify reports nothing.
    fn patience(&self, now: Duration) -> Duration {
        let poll = self.poll_at.saturating_sub(now);
        let recheck = self.recheck_at.map(|at| at.saturating_sub(now));
        let released = self.writers.next_release().map(|at| at.saturating_duration_since(Instant::now()));
        [recheck, released].into_iter().flatten().fold(poll, Duration::min)
    }

    /// Look at what something happened to, if that is known, or else at everything.
    fn look(&mut self, now: Duration) -> Seen {
        let is_due = now >= self.poll_at || self.recheck_at.is_some_and(|at| now >= at) || self.frozen.is_some();
        let files = match self.writers.happened() {
            // Nothing did: then it is time that has passed.
            Happened::At(paths) if !paths.is_empty() && !is_due => self.scanned.files_at(&paths),
            Happened::At(_) | Happened::Anywhere => None,
        };
        match files {
            Some(files) => self.look_at(&files, now),
            None => self.look_at_everything(now),
        }
    }

    fn look_at(&mut self, files: &[(PathBuf, Metadata)], now: Duration) -> Seen {
        let writers = &mut self.writers;
        let changed = self.scanner.scan_files(files, &mut self.catalog, |path| writers.is_writing(path));
        let settled = self.catalog.settle_after(Looked::AtNothing, now);
        self.recheck_at = settled.recheck_at;
        Seen { news: settled.changed, changed }
    }

    fn look_at_everything(&mut self, now: Duration) -> Seen {
        self.poll_at = now + POLL;
        let mut scanned = self.scan();
        let mut changed = scanned.changed;
        for _ in 0..MAX_NEW_LEVELS {
            if !self.writers.watch(&scanned.directories) {
                break;
            }
            // What happened in a directory between the look at it and the watch on it shows on a second look.
            scanned = self.scan();
            changed += scanned.changed;
        }
        let frozen = scanned.unreadable.take().map(|(path, error)| unreadable(Severity::Warning, &path, &error));
        self.scanned = scanned;
        let news = frozen != self.frozen;
        self.frozen = frozen;
        if self.frozen.is_some() {
            self.recheck_at = None;
            return Seen { news, changed };
        }
        let settled = self.catalog.settle(now);
        self.recheck_at = settled.recheck_at;
        Seen { news: settled.changed || news, changed }
    }

    fn scan(&mut self) -> Scanned {
        let writers = &mut self.writers;
        self.scanner.scan(&self.roots, &mut self.catalog, |path| writers.is_writing(path))
    }

    fn update(&self) -> Update {
        let diagnostics = self.catalog.diagnostics().iter().chain(&self.frozen).cloned().collect();
        Update {
            world: Arc::clone(self.catalog.world()),
            diagnostics,
            whereabouts: self.catalog.whereabouts(),
            observed: Observed::new(),
            readable: self.frozen.is_none(),
            noticed: Noticed::default(),
        }
    }
}

fn unreadable(severity: Severity, path: &Path, error: &io::Error) -> Diagnostic {
    let message = format!("{} cannot be read: {error}", path.display());
    let remedy = match severity {
        Severity::Error => "correct the path, or its permissions",
        Severity::Warning | Severity::Info => "make it readable; until then everything stays as it is",
    };
    Diagnostic::about_file(path, severity, "source_unreadable", message, remedy)
}

#[cfg(test)]
mod tests;
