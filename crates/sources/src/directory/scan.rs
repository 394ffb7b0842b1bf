//! One look at everything below the roots.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::catalog::Catalog;
use crate::manifest::MAX_BYTES;

/// Most files read once more in a look at everything only because they had just been written when they were read: inotify tells of
/// another change as well.
const MOST_AGAIN: usize = 64;

/// Deepest nesting of directories.
const MAX_DEPTH: usize = 32;

/// What tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a later change is bound to give another stamp. File times advance in steps of some milliseconds, so
    /// two writes in quick succession can look alike.
    fn is_settled(&self) -> bool {
        const STEP: Duration = Duration::from_millis(50);
        let (seconds, nanoseconds) = self.modified.max(self.changed);
        let modified = u64::try_from(seconds)
            .ok()
            .zip(u32::try_from(nanoseconds).ok())
            .map(|(seconds, nanoseconds)| UNIX_EPOCH + Duration::new(seconds, nanoseconds));
        modified.is_some_and(|modified| modified.elapsed().is_ok_and(|age| age > STEP))
    }
}

/// Reads what has changed since it last looked.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// By path. As plain strings: paths compare and hash by component, which adds up over thousands of files.
    known: HashMap<OsString, Known>,
    hasher: RandomState,
}

/// A file as it was last read.
#[derive(Clone, Copy, Debug)]
struct Known {
    stamp: Stamp,
    /// Whether a later change is bound to give another one.
    is_settled: bool,
    /// A hash of its content: a file that was read again need not be another one.
    content: u64,
}

/// What a look came to.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// All directories that hold manifests, symbolic links resolved.
    pub(super) directories: BTreeSet<PathBuf>,
    /// Those of them in which a name stands for one file and nothing else, with the path under which they were listed; `None`
    /// where symbolic links go through, or where what is in it is listed more than once.
    listings: BTreeMap<PathBuf, Option<PathBuf>>,
    /// Somewhere is a symbolic link that leads nowhere, so anything that appears may be what it leads to.
    dangling: bool,
    /// How many files were read, and were others than before.
    pub(super) changed: usize,
    /// The first directory that could not be read. What is known of the files is then not to be believed.
    pub(super) unreadable: Option<(PathBuf, io::Error)>,
}

impl Scanner {
    /// Look at everything below `roots` and tell the catalog what is new. Files that `is_writing` says are being
    /// written stay what they were.
    pub(super) fn scan(
        &mut self,
        roots: &[PathBuf],
        catalog: &mut Catalog,
        is_writing: impl FnMut(&Path) -> bool,
    ) -> Scanned {
        let mut scanned = Scanned::default();
        let mut files = HashMap::new();
        for root in roots {
            match fs::metadata(root) {
                Ok(metadata) if metadata.is_dir() => {
                    walk(root, &mut Vec::new(), &mut files, &mut scanned);
                }
                Ok(metadata) if metadata.is_file() => {
                    note_directory_of(root, &mut scanned);
                    files.insert(root.clone().into_os_string(), metadata);
                }
                Ok(_) => scanned.fail(root, io::Error::other("neither a directory nor a file")),
                Err(error) => scanned.fail(root, error),
            }
        }
        // What an unreadable directory held is not listed, but not gone either.
        let listed = scanned.unreadable.is_none();
        let gone = catalog.files().filter(|path| listed && !files.contains_key(path.as_os_str()));
        for path in gone.map(Path::to_owned).collect::<Vec<_>>() {
            self.known.remove(path.as_os_str());
            catalog.remove_file(&path);
        }
        let files = files.iter().map(|(name, metadata)| (Path::new(name), metadata));
        scanned.changed = self.read(files, catalog, is_writing, MOST_AGAIN);
        scanned
    }

    /// Look at these files alone. Returns how many were others than before.
    pub(super) fn scan_files(
        &mut self,
        files: &[(PathBuf, Metadata)],
        catalog: &mut Catalog,
        is_writing: impl FnMut(&Path) -> bool,
    ) -> usize {
        self.read(files.iter().map(|(path, metadata)| (&**path, metadata)), catalog, is_writing, usize::MAX)
    }

    /// Tell the catalog what is new in files that are there. Returns in how many something is. Of those whose stamps were not
    /// settled when they were read last, and are still the same, at most `again` are read.
    fn read<'a>(
        &mut self,
        files: impl Iterator<Item = (&'a Path, &'a Metadata)>,
        catalog: &mut Catalog,
        mut is_writing: impl FnMut(&Path) -> bool,
        mut again: usize,
    ) -> usize {
        let mut read = Vec::new();
        for (path, metadata) in files {
            let stamp = Stamp::of(metadata);
            if let Some(known) = self.known.get(path.as_os_str()).filter(|known| known.stamp == stamp) {
                if known.is_settled || again == 0 {
                    continue;
                }
                again -= 1;
            }
            if !is_writing(path) {
                read.push((path, stamp, content(path)));
            }
        }
        let mut changed = 0;
        // Whoever started to write while we read may have left us half of it.
        for (path, stamp, content) in read {
            if is_writing(path) {
                continue;
            }
            match content {
                Ok(content) => {
                    // Taken before the content: a change in between shows as a difference next time.
                    let known =
                        Known { stamp, is_settled: stamp.is_settled(), content: self.hasher.hash_one(&content) };
                    let before = self.known.insert(path.into(), known);
                    if before.is_none_or(|before| before.content != known.content) {
                        catalog.set_file(path, &content);
                        changed += 1;
                    }
                }
                // Gone since the directory was listed: the next look will not list it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    self.known.remove(path.as_os_str());
                    catalog.set_unreadable(path, &error.to_string());
                    changed += 1;
                }
            }
        }
        changed
    }
}

impl Scanned {
    /// The files to look at after something happened at these paths, symbolic links resolved, and nowhere else; `None`: what
    /// follows from that only a look at everything can tell.
    pub(super) fn files_at(&self, happened: &BTreeSet<PathBuf>) -> Option<Vec<(PathBuf, Metadata)>> {
        let mut files = Vec::new();
        for path in happened {
            let name = path.file_name()?;
            let path = self.listings.get(path.parent()?)?.as_ref()?.join(name);
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_file() => {
                    if is_manifest(&path) && !is_hidden(name) {
                        files.push((path, metadata));
                    }
                }
                // The name under which a file was written before it got its own.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && (is_hidden(name) || !is_manifest(&path))
                        && !self.listings.values().flatten().any(|listed| *listed == path) => {}
                Ok(_) | Err(_) => return None,
            }
        }
        (!self.dangling).then_some(files)
    }

    fn list(&mut self, real: PathBuf, path: &Path) {
        let listed = self.listings.entry(real.clone());
        listed.and_modify(|listed| *listed = None).or_insert_with(|| Some(path.to_owned()));
        self.directories.insert(real);
    }

    /// Files here are also what symbolic links lead to, or links themselves.
    fn has_links(&mut self, real: PathBuf) {
        self.listings.insert(real.clone(), None);
        self.directories.insert(real);
    }

    fn fail(&mut self, path: &Path, error: io::Error) {
        self.unreadable.get_or_insert_with(|| (path.to_owned(), error));
    }
}

/// At most a byte more than is accepted, so that a device file or a huge file cannot fill the memory.
fn content(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut content = Vec::new();
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    fs::File::open(path)?.take(limit).read_to_end(&mut content)?;
    Ok(content)
}

/// The manifests in a directory and those below, symbolic links followed. Names that start with a dot are left out:
/// editors keep their own files under such names, and Kubernetes the versions of a mounted ConfigMap.
fn walk(directory: &Path, above: &mut Vec<(u64, u64)>, files: &mut HashMap<OsString, Metadata>, scanned: &mut Scanned) {
    let identity = match fs::metadata(directory) {
        Ok(metadata) => (metadata.dev(), metadata.ino()),
        Err(error) => return scanned.fail(directory, error),
    };
    if above.contains(&identity) || above.len() >= MAX_DEPTH {
        return;
    }
    let entries = match fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(entries) => entries,
        Err(error) => return scanned.fail(directory, error),
    };
    if let Ok(real) = fs::canonicalize(directory) {
        scanned.list(real, directory);
    }
    above.push(identity);
    for entry in entries {
        let path = entry.path();
        if is_hidden(&entry.file_name()) {
            continue;
        }
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if leads_nowhere(&error) => {
                if is_link {
                    scanned.dangling = true;
                    if let Some(real) = would_appear_in(&path) {
                        scanned.has_links(real);
                    }
                }
                continue;
            }
            Err(error) => {
                scanned.fail(&path, error);
                continue;
            }
        };
        if metadata.is_dir() {
            if is_link && let Ok(real) = fs::canonicalize(directory) {
                scanned.has_links(real);
            }
            walk(&path, above, files, scanned);
        } else if metadata.is_file() && is_manifest(&path) {
            if is_link {
                note_directory_of(&path, scanned);
            }
            files.insert(path.into_os_string(), metadata);
        }
    }
    above.pop();
}

/// A link that leads nowhere is as good as no entry, and so is an entry removed since the directory was listed.
fn leads_nowhere(error: &io::Error) -> bool {
    const LOOP: i32 = rustix::io::Errno::LOOP.raw_os_error();
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(LOOP)
}

/// Where to wait for what a link that leads nowhere leads to: the nearest directory on the way there that exists.
fn would_appear_in(link: &Path) -> Option<PathBuf> {
    let mut target = link.to_owned();
    for _ in 0..MAX_DEPTH {
        let Ok(next) = fs::read_link(&target) else { break };
        target = target.parent()?.join(next);
    }
    target.ancestors().skip(1).find_map(|above| fs::canonicalize(above).ok().filter(|above| above.is_dir()))
}

/// Watch where a file really is, so that writing to it is noticed.
fn note_directory_of(path: &Path, scanned: &mut Scanned) {
    if let Some(directory) = fs::canonicalize(path).ok().as_deref().and_then(Path::parent) {
        scanned.has_links(directory.to_owned());
    }
    // And where its name is, so that replacing it is noticed.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(real) = fs::canonicalize(directory) {
        scanned.has_links(real);
    }
}

/// Names that start with a dot.
fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}
