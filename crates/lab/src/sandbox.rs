//! Privacy for everything a lab makes.

use std::{fs, io, path::Path};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use crate::{Error, sys};

/// Where iproute2 keeps named network namespaces.
pub(crate) const NETNS_DIR: &str = "/run/netns";
/// Exists on every Linux system, and nothing in a lab shares memory by name.
const SCRATCH: &str = "/dev/shm";
/// Where eBPF programs, maps and links are pinned.
const BPFFS: &str = "/sys/fs/bpf";

/// Proof that mounts are private to this thread and what it starts.
///
/// Named namespaces and pinned eBPF objects are mounts. In a sandbox they are invisible to the rest of the machine,
/// cannot collide with its names, and vanish with the last process that can see them, even when that process is killed
/// with SIGKILL. The only thing that may remain is an empty directory `/run/netns`, which iproute2 itself makes on first
/// use.
#[derive(Debug)]
pub struct Sandbox(());

impl Sandbox {
    /// Enters a sandbox, for the calling thread and all threads and processes it starts from then on, for good.
    ///
    /// Call it first thing in `main`, or first thing in a test: threads that exist already stay outside.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] without root, [`Error::Mount`] where the kernel lacks a file system.
    pub fn enter() -> Result<Self, Error> {
        sys::unshare_mounts().map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => Error::NotPermitted,
            _ => Error::Io { action: "unshare the mount namespace".to_owned(), source },
        })?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(|errno| Error::io("make all mounts private")(errno.into()))?;
        fs::create_dir_all(NETNS_DIR).map_err(Error::io(format!("create {NETNS_DIR}")))?;
        mount_private("tmpfs", Path::new(NETNS_DIR))?;
        mount_private("tmpfs", Path::new(SCRATCH))?;
        // Namespaces have their own; this one keeps what runs outside of them from pinning for good.
        mount_private("bpf", Path::new(BPFFS))?;
        Ok(Self(()))
    }

    /// A directory for the files of a lab, in memory and private like everything else: it vanishes with the sandbox.
    #[must_use]
    pub fn scratch(&self) -> &'static Path {
        Path::new(SCRATCH)
    }
}

/// Mounts a fresh instance of a file system.
pub(crate) fn mount_private(kind: &'static str, target: &Path) -> Result<(), Error> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(format!("evenkeel-lab-{kind}"), target, kind, flags, c"mode=0700").map_err(|errno| match errno {
        rustix::io::Errno::PERM => Error::NotPermitted,
        errno => Error::Mount { what: kind, target: target.to_owned(), source: errno.into() },
    })
}
