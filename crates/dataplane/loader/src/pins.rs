//! Where maps, links and programs are pinned, who may drive them, and how they go.
//!
//! `/sys/fs/bpf/evenkeel/NODE/v2/MAP`, `…/link-INTERFACE-in`, `…/program-NAME-DIGEST`: one directory a node name, because several nodes can
//! share one kernel (network namespaces), and one a schema version, because a map cannot change its layout.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs, io,
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use aya::programs::TcAttachType;
use evenkeel_maps::SCHEMA_VERSION;
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    mount::{MountFlags, mount},
};

use crate::{Error, hook, hook::Hook, preflight::is_bpffs};

pub(crate) const BPFFS: &str = "/sys/fs/bpf";
/// Parent of all nodes' pins.
pub const PIN_ROOT: &str = "/sys/fs/bpf/evenkeel";
const LINK_PREFIX: &str = "link-";
const PROGRAM_PREFIX: &str = "program-";
/// A directory whose pins are being removed.
const ASIDE: &str = "gone";

/// The pins of one node, and the lock on them: dropped with the process, whatever its end.
#[derive(Debug)]
pub(crate) struct Pins {
    directory: PathBuf,
    _lock: OwnedFd,
}

impl Pins {
    /// Takes the pins of `node`, creating their directory if there is none.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process drives them.
    pub(crate) fn lock(node: &str) -> Result<Self, Error> {
        Self::lock_directory(directory(node, SCHEMA_VERSION))
    }

    /// Takes the pins that another version of the maps has for `node`; `None` if there are none.
    ///
    /// # Errors
    /// As [`Self::lock`].
    pub(crate) fn lock_version(node: &str, version: u32) -> Result<Option<Self>, Error> {
        match Self::lock_present(directory(node, version)) {
            Err(Error::Pin { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            pins => pins.map(Some),
        }
    }

    /// Takes the pins that another version of the maps has for `node`, creating their directory if there is none.
    ///
    /// # Errors
    /// As [`Self::lock`].
    pub(crate) fn lock_or_make(node: &str, version: u32) -> Result<Self, Error> {
        Self::lock_directory(directory(node, version))
    }

    fn lock_directory(directory: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&directory).map_err(|source| Error::Pin { path: directory.clone(), source })?;
        Self::lock_present(directory)
    }

    fn lock_present(directory: PathBuf) -> Result<Self, Error> {
        let pin_error = |source: io::Error| Error::Pin { path: directory.clone(), source };
        let lock = open(&directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| pin_error(error.into()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { directory, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked(directory)),
            Err(error) => Err(pin_error(error.into())),
        }
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where a pin of this file name is.
    pub(crate) fn path(&self, file_name: &OsStr) -> PathBuf {
        self.directory.join(file_name)
    }

    /// The path of a node's map, for those that do not drive the node.
    pub(crate) fn map_of(node: &str, name: &str) -> PathBuf {
        directory(node, SCHEMA_VERSION).join(name)
    }

    pub(crate) fn link(&self, interface: &str, direction: TcAttachType) -> PathBuf {
        self.directory.join(format!("{LINK_PREFIX}{}-{}", encode(interface), hook::direction_name(direction)))
    }

    pub(crate) fn xdp_link(&self, interface: &str, hook: Hook) -> PathBuf {
        self.directory.join(format!("{LINK_PREFIX}{}-{}", encode(interface), hook.name()))
    }

    /// Where the program of this name is, out of the object with this digest.
    pub(crate) fn program(&self, name: &str, digest: &str) -> PathBuf {
        self.directory.join(format!("{PROGRAM_PREFIX}{name}-{digest}"))
    }

    /// Paths of all pinned links.
    pub(crate) fn links(&self) -> Result<Vec<PathBuf>, Error> {
        self.beginning_with(LINK_PREFIX)
    }

    /// Paths of all pinned programs.
    pub(crate) fn programs(&self) -> Result<Vec<PathBuf>, Error> {
        self.beginning_with(PROGRAM_PREFIX)
    }

    fn beginning_with(&self, prefix: &str) -> Result<Vec<PathBuf>, Error> {
        let pin_error = |source| Error::Pin { path: self.directory.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(pin_error)? {
            let entry = entry.map_err(pin_error)?;
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    /// Withdraws, detaches and removes everything. The VIPs go first, so that nobody is sent here any more when the
    /// programs go.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub(crate) fn uninstall(self) -> Result<(), Error> {
        hook::withdraw(&self)?;
        hook::remove_filters();
        for path in self.links()? {
            remove(&path)?;
        }
        self.remove_directory()
    }

    /// Removes all pins, so that there are either all of them or none, whenever the process ends.
    ///
    /// # Errors
    /// When the directory cannot be moved, or a pin not be removed.
    pub(crate) fn remove_at_once(self) -> Result<(), Error> {
        let aside = self.directory.with_file_name(ASIDE);
        if exists(&aside)? {
            Self::lock_present(aside.clone())?.remove_directory()?;
        }
        fs::rename(&self.directory, &aside).map_err(|source| Error::Pin { path: self.directory.clone(), source })?;
        Self { directory: aside, ..self }.remove_directory()
    }

    /// Removes all pins that are left, and the directories that become empty.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub(crate) fn remove_directory(&self) -> Result<(), Error> {
        let pin_error = |path: &Path, source| Error::Pin { path: path.to_owned(), source };
        // Whatever maps there are: other versions have others.
        for entry in fs::read_dir(&self.directory).map_err(|source| pin_error(&self.directory, source))? {
            remove(&entry.map_err(|source| pin_error(&self.directory, source))?.path())?;
        }
        fs::remove_dir(&self.directory).map_err(|source| pin_error(&self.directory, source))?;
        // Parents stay while other versions or nodes use them.
        for parent in self.directory.ancestors().skip(1).take_while(|parent| *parent != Path::new(BPFFS)) {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// Removes what a node left on this machine, whichever version of the maps, and returns the VIPs that it carried. `None`:
/// there was nothing.
///
/// # Errors
/// [`Error::Locked`] while an agent drives the node; [`Error::Pin`] when a pin cannot be removed.
pub fn uninstall(node: &str) -> Result<Option<Vec<IpAddr>>, Error> {
    let mut found = None;
    for version in fs::read_dir(Path::new(PIN_ROOT).join(encode(node))).into_iter().flatten().flatten() {
        let pins = Pins::lock_directory(version.path())?;
        found.get_or_insert_with(Vec::new).extend(hook::vips(&pins));
        pins.uninstall()?;
    }
    Ok(found)
}

/// Node names with pins on this machine, for messages.
#[must_use]
pub fn nodes() -> Vec<String> {
    let mut nodes: Vec<String> = fs::read_dir(PIN_ROOT)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| decode(&entry.file_name().to_string_lossy()))
        .collect();
    nodes.sort();
    nodes
}

/// Mounts bpffs where it is missing. Whether it worked is for the preflight to say.
pub(crate) fn ensure_bpffs() {
    if !is_bpffs(Path::new(BPFFS)) {
        match mount("bpf", BPFFS, "bpf", MountFlags::empty(), None) {
            Ok(()) => {
                tracing::info!(path = BPFFS, "mounted the bpf file system");
                if is_mount_namespace_private() {
                    tracing::warn!(
                        "this process has mounts of its own, and the data path ends with them; `ip netns exec` does that, \
                         `nsenter --net=/run/netns/NAME` does not"
                    );
                }
            }
            Err(error) => tracing::warn!(path = BPFFS, %error, "cannot mount the bpf file system"),
        }
    }
}

/// Whether this process sees other mounts than the machine's first process.
fn is_mount_namespace_private() -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    namespace("self") != namespace("1")
}

/// What kept a pin from being made.
pub(crate) fn error(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Pin { path: path.to_owned(), source: io::Error::other(error.to_string()) }
}

/// Whether there is such a pin.
pub(crate) fn exists(path: &Path) -> Result<bool, Error> {
    path.try_exists().map_err(|source| Error::Pin { path: path.to_owned(), source })
}

pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Pin { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// The pins of a newer version of the maps, if `node` has some.
pub(crate) fn newer(node: &str) -> Option<PathBuf> {
    let directories = fs::read_dir(Path::new(PIN_ROOT).join(encode(node))).into_iter().flatten().flatten();
    directories
        .filter(|entry| version(&entry.file_name().to_string_lossy()).is_some_and(|version| version > SCHEMA_VERSION))
        .map(|entry| entry.path())
        // One that is empty holds nothing: its agent did not come to making maps.
        .find(|path| fs::read_dir(path).is_ok_and(|mut pins| pins.next().is_some()))
}

fn directory(node: &str, version: u32) -> PathBuf {
    Path::new(PIN_ROOT).join(encode(node)).join(format!("v{version}"))
}

/// The version that a directory's name tells.
fn version(name: &str) -> Option<u32> {
    name.strip_prefix('v')?.parse().ok()
}

/// bpffs reserves names with dots, and a slash would lead elsewhere: such bytes become `~` and two hexadecimal digits.
fn encode(name: &str) -> String {
    let mut encoded = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "~{byte:02x}");
        }
    }
    encoded
}

fn decode(name: &str) -> String {
    let mut parts = name.split('~');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => bytes.extend_from_slice(part.as_bytes()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_bpffs() {
        for name in ["node-1", "node.example.org", "eth0.100", "a/b", "~", "ä"] {
            let encoded = encode(name);
            assert!(!encoded.contains(['.', '/']), "{encoded}");
            assert_eq!(decode(&encoded), name);
        }
        assert_eq!(encode("eth0.100"), "eth0~2e100");
    }
}
