//! Where maps and links are pinned, who may drive them, and how they go.
//!
//! `/sys/fs/bpf/evenkeel/NODE/v1/MAP` and `…/link-INTERFACE-in`: one directory a node name, because several nodes can
//! share one kernel (network namespaces), and one a schema version, because a map cannot change its layout.

use std::{
    fmt::Write as _,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use aya::programs::TcAttachType;
use evenkeel_maps::{SCHEMA_VERSION, map};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    mount::{MountFlags, mount},
};

use crate::{Error, hook, preflight::is_bpffs};

pub(crate) const BPFFS: &str = "/sys/fs/bpf";
/// Parent of all nodes' pins.
pub const PIN_ROOT: &str = "/sys/fs/bpf/evenkeel";
const LINK_PREFIX: &str = "link-";

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
        Self::lock_directory(directory(node))
    }

    fn lock_directory(directory: PathBuf) -> Result<Self, Error> {
        let pin_error = |source: io::Error| Error::Pin { path: directory.clone(), source };
        fs::create_dir_all(&directory).map_err(pin_error)?;
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

    pub(crate) fn link(&self, interface: &str, direction: TcAttachType) -> PathBuf {
        self.directory.join(format!("{LINK_PREFIX}{}-{}", encode(interface), hook::direction_name(direction)))
    }

    /// Paths of all pinned links.
    pub(crate) fn links(&self) -> Result<Vec<PathBuf>, Error> {
        let pin_error = |source| Error::Pin { path: self.directory.clone(), source };
        let mut links = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(pin_error)? {
            let entry = entry.map_err(pin_error)?;
            if entry.file_name().to_string_lossy().starts_with(LINK_PREFIX) {
                links.push(entry.path());
            }
        }
        Ok(links)
    }

    /// Withdraws, detaches and removes everything. The VIPs go first, so that nobody is sent here any more when the
    /// programs go.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub(crate) fn uninstall(self) -> Result<(), Error> {
        hook::withdraw(&self)?;
        hook::remove_filters(&self);
        for path in self.links()?.into_iter().chain(map::ALL.iter().map(|name| self.map(name))) {
            remove(&path)?;
        }
        let pin_error = |path: &Path, source| Error::Pin { path: path.to_owned(), source };
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

/// Removes what a node left on this machine, whichever version of the maps. `false`: there was nothing.
///
/// # Errors
/// [`Error::Locked`] while an agent drives the node; [`Error::Pin`] when a pin cannot be removed.
pub fn uninstall(node: &str) -> Result<bool, Error> {
    let mut found = false;
    for version in fs::read_dir(Path::new(PIN_ROOT).join(encode(node))).into_iter().flatten().flatten() {
        Pins::lock_directory(version.path())?.uninstall()?;
        found = true;
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

pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Pin { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

fn directory(node: &str) -> PathBuf {
    Path::new(PIN_ROOT).join(encode(node)).join(format!("v{SCHEMA_VERSION}"))
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
