//! Who is writing, by inotify.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

/// How long after its last modification a file still open for writing is taken as it is.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The files being written.
pub(super) struct Writers {
    inotify: OwnedFd,
    directories: BTreeMap<i32, PathBuf>,
    /// Files modified and not closed since, by their real path, with the time of the last modification.
    open: BTreeMap<PathBuf, Instant>,
    patience: Duration,
    happened: Happened,
}

/// What has happened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// Something at these paths, symbolic links resolved, and nothing else. None of them is or was a directory.
    At(BTreeSet<PathBuf>),
    /// Something that may concern everything.
    Anywhere,
}

/// Most paths told apart: of more than that a look at everything is due anyway.
const MOST_PATHS: usize = 1024;

impl Writers {
    /// Nobody is known to write yet. A file still open `patience` after its last modification is taken as it is.
    pub(super) fn new(patience: Duration) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self {
            inotify,
            directories: BTreeMap::new(),
            open: BTreeMap::new(),
            patience,
            happened: Happened::At(BTreeSet::new()),
        })
    }

    /// Watch exactly these directories. One that cannot be watched is left to the regular look at everything. Returns
    /// whether one is watched that was not before, so that what happened in it until now is unknown.
    pub(super) fn watch(&mut self, directories: &BTreeSet<PathBuf>) -> bool {
        let mut news = false;
        let flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        for directory in directories {
            // Adding a watch again is how a directory that was replaced under its name is noticed: the same one
            // gives the same descriptor.
            if let Ok(descriptor) = inotify::add_watch(&self.inotify, directory, flags) {
                news |= self.directories.insert(descriptor, directory.clone()).is_none();
            }
        }
        let gone: Vec<i32> =
            self.directories.iter().filter(|(_, path)| !directories.contains(*path)).map(|(wd, _)| *wd).collect();
        for descriptor in gone {
            // It may be gone already, with the directory.
            let _gone = inotify::remove_watch(&self.inotify, descriptor);
            self.directories.remove(&descriptor);
        }
        news
    }

    /// Wait until something happens, at most for `patience`.
    pub(super) fn wait(&self, patience: Duration) {
        // A millisecond more than asked for, so that what was waited for is due and not about to be.
        let timeout = Timespec::try_from(patience + Duration::from_millis(1)).ok();
        // An interruption is as good a reason to look as any.
        let _interrupted = poll(&mut [PollFd::new(&self.inotify, PollFlags::IN)], timeout.as_ref());
    }

    /// Whether something has happened that [`Self::happened`] has not told yet.
    pub(super) fn has_news(&self) -> bool {
        let at_once = Timespec::default();
        self.happened != Happened::At(BTreeSet::new())
            || poll(&mut [PollFd::new(&self.inotify, PollFlags::IN)], Some(&at_once)).is_ok_and(|ready| ready > 0)
    }

    /// What has happened since the last call.
    pub(super) fn happened(&mut self) -> Happened {
        self.drain();
        std::mem::replace(&mut self.happened, Happened::At(BTreeSet::new()))
    }

    /// Take note of everything that has happened.
    fn drain(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            let flags = event.events();
            if flags.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::IGNORED | ReadFlags::ISDIR) {
                self.happened = Happened::Anywhere;
            }
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                // Who closed what is lost: take every file as it is.
                self.open.clear();
            }
            if flags.contains(ReadFlags::IGNORED) {
                self.directories.remove(&event.wd());
            }
            let (Some(directory), Some(name)) = (self.directories.get(&event.wd()), event.file_name()) else {
                self.happened = Happened::Anywhere;
                continue;
            };
            let path = directory.join(OsStr::from_bytes(name.to_bytes()));
            if let Happened::At(paths) = &mut self.happened {
                paths.insert(path.clone());
                if paths.len() > MOST_PATHS {
                    self.happened = Happened::Anywhere;
                }
            }
            if flags.contains(ReadFlags::MODIFY) {
                self.open.insert(path, Instant::now());
            } else if flags
                .intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO | ReadFlags::MOVED_FROM | ReadFlags::DELETE)
            {
                self.open.remove(&path);
            }
        }
        self.open.retain(|_, modified| modified.elapsed() < self.patience);
    }

    /// Whether the file is being written, by all that has happened until now.
    pub(super) fn is_writing(&mut self, path: &Path) -> bool {
        self.drain();
        // Resolving the path costs more than this, and almost always nobody is writing.
        !self.open.is_empty() && fs::canonicalize(path).is_ok_and(|path| self.open.contains_key(&path))
    }

    /// When the next file that is still open is taken as it is.
    pub(super) fn next_release(&self) -> Option<Instant> {
        self.open.values().min().map(|modified| *modified + self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Whether a file that was modified but not closed counts as being written.
    fn holds_an_open_file(patience: Duration) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        let mut writers = Writers::new(patience).unwrap();
        assert!(writers.watch(&[fs::canonicalize(directory.path()).unwrap()].into()), "a new watch");
        let mut file = fs::File::create(&path).unwrap();
        assert!(!writers.is_writing(&path), "not modified yet");
        file.write_all(b"half").unwrap();
        let held = writers.is_writing(&path);
        drop(file);
        assert!(!writers.is_writing(&path), "closed");
        held
    }

    #[test]
    fn an_open_file_is_held_until_patience_ends() {
        assert!(holds_an_open_file(Duration::from_secs(3600)));
        assert!(!holds_an_open_file(Duration::ZERO));
    }
}
