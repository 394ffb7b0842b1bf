//! Entering a namespace, and the system call for it that Rust counts as unsafe.
#![expect(unsafe_code, reason = "unshare has no safe form; its use below says why its conditions hold")]

use std::{ffi::CString, fs::File, io, os::fd::AsFd};

use rustix::{
    mount::{MountFlags, mount, mount_bind},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

/// Gives the calling thread, and what it starts from now on, a mount namespace of its own.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: the conditions concern CLONE_FILES, which would change what file descriptors mean; only the mount
    // namespace (and with it the working directory, copied as it is) is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(io::Error::from)
}

/// What it takes to be inside a namespace of a lab.
#[derive(Debug)]
pub(crate) struct Inside {
    /// The network namespace.
    pub(crate) network: File,
    /// The mount point of the namespace's own bpffs.
    pub(crate) bpffs: CString,
}

impl Inside {
    /// Moves the calling thread inside for good: into the network namespace, with a `/sys` that shows its interfaces, and
    /// with its own bpffs in the usual place.
    pub(crate) fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.network.as_fd(), Some(LinkNameSpaceType::Network))?;
        unshare_mounts()?;
        // A sysfs shows the network namespace it was mounted from.
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount(c"evenkeel-lab-sysfs", c"/sys", c"sysfs", flags, None)?;
        mount_bind(self.bpffs.as_c_str(), c"/sys/fs/bpf")?;
        Ok(())
    }
}
