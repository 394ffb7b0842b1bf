//! Directories of manifests: read once, or watched.
//!
//! A change reaches the World as soon as its writer is done: a rename or the close after writing acts at once, a file
//! that is still open for writing keeps its previous content. inotify says what happened; a look at everything once a
//! second is the safety net for what it cannot see (network file systems, a queue that overflowed).

mod scan;
mod writers;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_plan::World;
use evenkeel_plan::world::Gaps;
use tokio::sync::watch;

use self::scan::{Scanned, Scanner};
use self::writers::{PATIENCE, Writers};
use crate::catalog::Catalog;
use crate::diagnostic::{Diagnostic, Severity};
use crate::kubernetes::Observed;
pub use crate::update::Update;

/// How often everything is looked at, whether or not inotify reported anything.
const POLL: Duration = Duration::from_secs(1);
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
        let mut watcher = Watcher {
            writers: Writers::new(PATIENCE)?,
            scanner: Scanner::default(),
            catalog: Catalog::default(),
            frozen: None,
            started: Instant::now(),
            recheck_at: None,
            roots,
        };
        watcher.look();
        let (sender, receiver) = watch::channel(watcher.update(Instant::now()));
        std::thread::Builder::new().name("manifests".to_owned()).spawn(move || watcher.run(&sender))?;
        Ok(receiver)
    }
}

struct Watcher {
    roots: Vec<PathBuf>,
    writers: Writers,
    scanner: Scanner,
    catalog: Catalog,
    /// Why the World stays as it is: a source that cannot be read says nothing about what it holds.
    frozen: Option<Diagnostic>,
    started: Instant,
    /// On the clock that started with `started`.
    recheck_at: Option<Duration>,
}

impl Watcher {
    fn run(&mut self, sender: &watch::Sender<Update>) {
        while !sender.is_closed() {
            self.writers.wait(self.patience());
            let noticed = Instant::now();
            if self.look() && sender.send(self.update(noticed)).is_err() {
                return;
            }
        }
    }

    /// How long nothing needs to be looked at, as long as inotify reports nothing.
    fn patience(&self) -> Duration {
        let recheck = self.recheck_at.map(|at| at.saturating_sub(self.started.elapsed()));
        let released = self.writers.next_release().map(|at| at.saturating_duration_since(Instant::now()));
        [recheck, released].into_iter().flatten().fold(POLL, Duration::min)
    }

    /// Look at everything. Returns whether there is anything new to tell.
    fn look(&mut self) -> bool {
        self.writers.drain();
        let mut scanned = self.scan();
        for _ in 0..MAX_NEW_LEVELS {
            if !self.writers.watch(&scanned.directories) {
                break;
            }
            // What happened in a directory between the look at it and the watch on it shows on a second look.
            scanned = self.scan();
        }
        let frozen = scanned.unreadable.map(|(path, error)| unreadable(Severity::Warning, &path, &error));
        let news = frozen != self.frozen;
        self.frozen = frozen;
        if self.frozen.is_some() {
            self.recheck_at = None;
            return news;
        }
        let settled = self.catalog.settle(self.started.elapsed());
        self.recheck_at = settled.recheck_at;
        settled.changed || news
    }

    fn scan(&mut self) -> Scanned {
        let writers = &mut self.writers;
        self.scanner.scan(&self.roots, &mut self.catalog, |path| writers.is_writing(path))
    }

    fn update(&self, changed_at: Instant) -> Update {
        let diagnostics = self.catalog.diagnostics().iter().chain(&self.frozen).cloned().collect();
        Update {
            world: Arc::clone(self.catalog.world()),
            diagnostics,
            whereabouts: self.catalog.whereabouts(),
            observed: Observed::new(),
            readable: self.frozen.is_none(),
            changed_at,
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
