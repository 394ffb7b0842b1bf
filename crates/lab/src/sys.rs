//! The system calls of a lab that Rust counts as unsafe, and nothing else.
#![expect(unsafe_code, reason = "unshare and pre_exec have no safe form; each use below says why its conditions hold")]

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    process::Command,
    sync::Arc,
};

use rustix::{
    mount::{MountFlags, mount, mount_bind},
    process::{Signal, getpid, getppid, set_parent_process_death_signal},
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
    /// with its own bpffs in the usual place. Makes system calls only, so that it may run between fork and exec.
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

/// Lets `command` start inside a namespace, in a process group of its own, and die with the thread that starts it, so
/// that even a parent killed with SIGKILL leaves no process behind.
pub(crate) fn confine(command: &mut Command, inside: Arc<Inside>) {
    let parent = getpid();
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe work is allowed: the closure makes plain system calls on data
    // prepared before the fork, and neither allocates nor locks.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above took effect.
            if getppid() != Some(parent) {
                return Err(io::Error::from(rustix::io::Errno::SRCH));
            }
            inside.enter()
        });
    }
}
