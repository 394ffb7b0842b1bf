//! Namespaces and the wires between them.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::mount::{UnmountFlags, unmount};
use tracing::warn;

use crate::{
    Error, Namespace, Sandbox, namespace::check_interface, process::Running, sandbox::mount_private, tool::ip,
};

/// Labs made by this process so far; their namespaces carry the number, so that labs can coexist.
static LABS: AtomicU32 = AtomicU32::new(1);

/// A set of namespaces and what runs in them; dropping it ends the processes and removes the namespaces.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    /// Where the namespaces' bpffs instances are mounted.
    mounts: PathBuf,
    namespaces: Vec<Namespace>,
    processes: Registry,
}

/// The processes started in a lab, for its teardown. Their [`crate::Child`] guards own them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<Vec<Weak<Running>>>>);

impl Registry {
    pub(crate) fn add(&self, process: &Arc<Running>) {
        let mut processes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        processes.retain(|known| known.strong_count() > 0);
        processes.push(Arc::downgrade(process));
    }

    fn kill_all(&self) {
        let processes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for process in processes.iter().filter_map(Weak::upgrade) {
            process.kill();
        }
    }
}

impl Lab {
    /// An empty lab. The sandbox is proof that its namespaces will be private.
    #[must_use]
    pub fn new(sandbox: &Sandbox) -> Self {
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        Self {
            prefix: format!("l{number}-"),
            mounts: sandbox.scratch().join("bpffs"),
            namespaces: Vec::new(),
            processes: Registry::default(),
        }
    }

    /// Creates a namespace with its loopback interface up. `name` is its name within this lab; `ip -n` knows it by
    /// [`Namespace::full_name`].
    ///
    /// # Errors
    /// [`Error::InvalidName`], or what `ip` answered.
    pub fn namespace(&mut self, name: &str) -> Result<Namespace, Error> {
        check_namespace(name)?;
        let full_name = format!("{}{name}", self.prefix);
        let bpffs = self.mounts.join(&full_name);
        fs::create_dir_all(&bpffs).map_err(Error::io(format!("create {}", bpffs.display())))?;
        mount_private("bpf", &bpffs)?;
        ip(["netns", "add", &full_name])?;
        let namespace = Namespace::open(name, full_name, bpffs, self.processes.clone())?;
        self.namespaces.push(namespace.clone());
        namespace.usable_at_once()?;
        namespace.ip(["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Removes a namespace of this lab, and with it its interfaces. Its processes are the caller's to end first.
    ///
    /// # Errors
    /// What `ip` answered.
    pub fn remove_namespace(&mut self, namespace: &Namespace) -> Result<(), Error> {
        self.namespaces.retain(|known| known.full_name() != namespace.full_name());
        remove(namespace)
    }

    /// Connects two namespaces by a virtual wire whose ends are up: `(namespace, interface)` twice.
    ///
    /// # Errors
    /// [`Error::InvalidName`], or what `ip` answered.
    pub fn veth(&self, left: (&Namespace, &str), right: (&Namespace, &str)) -> Result<(), Error> {
        check_interface(left.1)?;
        check_interface(right.1)?;
        let peer = right.0.full_name();
        left.0.ip(["link", "add", left.1, "type", "veth", "peer", "name", right.1, "netns", peer])?;
        left.0.link_up(left.1)?;
        right.0.link_up(right.1)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.processes.kill_all();
        for namespace in self.namespaces.drain(..).rev() {
            if let Err(error) = remove(&namespace) {
                // The sandbox removes it at the latest when the process ends.
                warn!(namespace = namespace.full_name(), %error, "namespace not removed");
            }
        }
    }
}

fn remove(namespace: &Namespace) -> Result<(), Error> {
    ip(["netns", "delete", namespace.full_name()])?;
    let bpffs = namespace.bpffs();
    let action = || format!("unmount {}", bpffs.display());
    unmount(bpffs, UnmountFlags::DETACH).map_err(|errno| Error::io(action())(errno.into()))?;
    fs::remove_dir(bpffs).map_err(Error::io(action()))
}

/// Namespace names become file names and arguments of `ip`.
fn check_namespace(name: &str) -> Result<(), Error> {
    let well_formed = name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.len() <= 64
        && name.chars().all(|character| character.is_ascii_alphanumeric() || character == '-');
    if well_formed {
        return Ok(());
    }
    Err(Error::InvalidName {
        what: "a namespace",
        name: name.to_owned(),
        rule: "letters, digits and dashes, up to 64, the first not a dash",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_names_are_safe_file_names_and_arguments() {
        for name in ["client", "b-1", "0"] {
            check_namespace(name).unwrap();
        }
        for name in ["", "-n", "..", "a/b", "a b", "a\n", &"x".repeat(65)] {
            let error = check_namespace(name).unwrap_err();
            assert!(matches!(error, Error::InvalidName { what: "a namespace", .. }), "{name:?}: {error}");
        }
    }
}
