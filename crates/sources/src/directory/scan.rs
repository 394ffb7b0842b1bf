//! One look at everything below the roots.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::catalog::Catalog;
use crate::manifest::MAX_BYTES;

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
    stamps: HashMap<OsString, Stamp>,
}

/// What a look came to.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// All directories that hold manifests, symbolic links resolved.
    pub(super) directories: BTreeSet<PathBuf>,
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
        mut is_writing: impl FnMut(&Path) -> bool,
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
            self.stamps.remove(path.as_os_str());
            catalog.remove_file(&path);
        }
        let mut read = Vec::new();
        for (name, metadata) in &files {
            let (path, stamp) = (Path::new(name), Stamp::of(metadata));
            if self.stamps.get(name) != Some(&stamp) && !is_writing(path) {
                read.push((path, stamp, content(path)));
            }
        }
        // Whoever started to write while we read may have left us half of it.
        for (path, stamp, content) in read {
            if is_writing(path) {
                continue;
            }
            match content {
                Ok(content) => {
                    // Taken before the content: a change in between shows as a difference next time.
                    if stamp.is_settled() {
                        self.stamps.insert(path.into(), stamp);
                    } else {
                        self.stamps.remove(path.as_os_str());
                    }
                    catalog.set_file(path, &content);
                }
                // Gone since the directory was listed: the next look will not list it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    self.stamps.remove(path.as_os_str());
                    catalog.set_unreadable(path, &error.to_string());
                }
            }
        }
        scanned
    }
}

impl Scanned {
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
    scanned.directories.extend(fs::canonicalize(directory));
    above.push(identity);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if leads_nowhere(&error) => continue,
            Err(error) => {
                scanned.fail(&path, error);
                continue;
            }
        };
        if metadata.is_dir() {
            walk(&path, above, files, scanned);
        } else if metadata.is_file() && is_manifest(&path) {
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
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

/// Watch where a file really is, so that writing to it is noticed.
fn note_directory_of(path: &Path, scanned: &mut Scanned) {
    if let Some(directory) = fs::canonicalize(path).ok().as_deref().and_then(Path::parent) {
        scanned.directories.insert(directory.to_owned());
    }
    // And where its name is, so that replacing it is noticed.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    scanned.directories.extend(fs::canonicalize(directory));
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}
