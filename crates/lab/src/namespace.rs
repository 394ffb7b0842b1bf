//! One network namespace: its configuration, and running things inside it.

use std::{
    ffi::CString,
    fs::{self, File},
    net::IpAddr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread::{self, JoinHandle},
};

use ipnet::IpNet;

use crate::{
    Child, Error,
    lab::Registry,
    sandbox::NETNS_DIR,
    starter::{self, Starter},
    sys::Inside,
    tool::{self, find_program},
};

/// Kernel parameters of IPv6.
const IPV6_PARAMETERS: &str = "/proc/sys/net/ipv6";

/// The hardware address of every bridge: no two are on the same wire.
const BRIDGE_MAC: &str = "02:00:00:00:00:fe";

/// A handle on a namespace of a [`crate::Lab`]; clones are the same namespace.
///
/// What runs inside has the namespace's network, a `/sys` that shows it, and a bpffs of its own; all other files are
/// those outside.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
    full_name: String,
    inside: Arc<Inside>,
    starter: Arc<Starter>,
    bpffs: PathBuf,
    processes: Registry,
}

impl Namespace {
    /// Takes over the named network namespace `full_name`.
    pub(crate) fn open(name: &str, full_name: String, bpffs: PathBuf, processes: Registry) -> Result<Self, Error> {
        let path = Path::new(NETNS_DIR).join(&full_name);
        let network = File::open(&path).map_err(Error::io(format!("open {}", path.display())))?;
        let mount_point = CString::new(bpffs.as_os_str().as_bytes())
            .map_err(|error| Error::io(format!("name {}", bpffs.display()))(error.into()))?;
        let inside = Arc::new(Inside { network, bpffs: mount_point });
        let starter = Arc::new(Starter::new(Arc::clone(&inside)));
        Ok(Self { name: name.to_owned(), full_name, inside, starter, bpffs, processes })
    }

    /// The name within its lab, such as `client`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name `ip -n` knows it by, such as `l1-client`.
    #[must_use]
    pub fn full_name(&self) -> &str {
        &self.full_name
    }

    /// Where what is pinned inside below `/sys/fs/bpf` is found from outside: like a machine, each namespace has a bpffs
    /// of its own.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Runs `ip -n NAMESPACE ARGUMENTS...` and returns what it printed.
    ///
    /// # Errors
    /// [`Error::Command`] with the command and what it said.
    pub fn ip<'a>(&'a self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String, Error> {
        tool::ip(["-n", &self.full_name].into_iter().chain(arguments))
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// What `ip` answered.
    pub fn link_up(&self, interface: &str) -> Result<(), Error> {
        self.ip(["link", "set", interface, "up"]).map(drop)
    }

    /// Sets an interface down.
    ///
    /// # Errors
    /// What `ip` answered.
    pub fn link_down(&self, interface: &str) -> Result<(), Error> {
        self.ip(["link", "set", interface, "down"]).map(drop)
    }

    /// Creates a bridge that is up and forwards at once (no spanning tree), with these interfaces as its ports.
    ///
    /// # Errors
    /// [`Error::InvalidName`], or what `ip` answered.
    pub fn bridge(&self, name: &str, ports: &[&str]) -> Result<(), Error> {
        check_interface(name)?;
        // With an address of its own the bridge keeps it; otherwise it takes the lowest of its ports' and changes it as
        // they come and go, while its neighbours still hold the old one.
        self.ip([
            "link",
            "add",
            name,
            "address",
            BRIDGE_MAC,
            "type",
            "bridge",
            "forward_delay",
            "0",
            "stp_state",
            "0",
        ])?;
        for port in ports {
            self.bridge_port(name, port)?;
        }
        self.link_up(name)
    }

    /// Makes an interface a port of a bridge.
    ///
    /// # Errors
    /// What `ip` answered.
    pub fn bridge_port(&self, bridge: &str, interface: &str) -> Result<(), Error> {
        self.ip(["link", "set", interface, "master", bridge, "up"]).map(drop)
    }

    /// Gives an interface an address, usable at once (IPv6: without duplicate address detection).
    ///
    /// # Errors
    /// What `ip` answered.
    pub fn address(&self, interface: &str, address: IpNet) -> Result<(), Error> {
        let text = address.to_string();
        let without_detection: &[&str] = if address.addr().is_ipv6() { &["nodad"] } else { &[] };
        let arguments = ["address", "add", &text, "dev", interface];
        self.ip(arguments.into_iter().chain(without_detection.iter().copied())).map(drop)
    }

    /// Routes a destination through a gateway.
    ///
    /// # Errors
    /// What `ip` answered.
    pub fn route(&self, destination: IpNet, gateway: IpAddr) -> Result<(), Error> {
        self.ip(["route", "add", &destination.to_string(), "via", &gateway.to_string()]).map(drop)
    }

    /// Sets a `net.*` kernel parameter of this namespace, in the notation of sysctl(8): separated by dots, or by slashes
    /// where an interface name has a dot.
    ///
    /// # Errors
    /// [`Error::InvalidName`] for a key outside `net`, [`Error::Io`] for one the kernel does not have.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), Error> {
        let path = sysctl_path(key)?;
        self.enter(|| fs::write(&path, value).map_err(Error::io(format!("set {key} to {value} in {}", self.name))))?
    }

    /// Whether the kernel has IPv6.
    pub(crate) fn has_ipv6(&self) -> bool {
        Path::new(IPV6_PARAMETERS).exists()
    }

    /// Makes IPv6 addresses of interfaces to come, link-local ones too, usable as soon as they are there: nobody is asked
    /// whether they are taken. Routers are not asked for either, there are none that would answer.
    pub(crate) fn usable_at_once(&self) -> Result<(), Error> {
        if !self.has_ipv6() {
            return Ok(());
        }
        let parameters =
            [("disable_ipv6", "0"), ("accept_dad", "0"), ("dad_transmits", "0"), ("router_solicitations", "0")];
        for (parameter, value) in parameters {
            for scope in ["all", "default"] {
                self.sysctl(&format!("net.ipv6.conf.{scope}.{parameter}"), value)?;
            }
        }
        Ok(())
    }

    /// Switches an offload of an interface, as `ethtool -K` does, such as `("up0", "gro", true)`.
    ///
    /// # Errors
    /// [`Error::ToolMissing`], or what `ethtool` answered.
    pub fn offload(&self, interface: &str, feature: &str, on: bool) -> Result<(), Error> {
        let mut command = Command::new(find_program("ethtool", "ethtool")?);
        command.args(["-K", interface, feature, if on { "on" } else { "off" }]);
        self.run(command).map(drop)
    }

    /// Runs a command inside to its end and returns what it printed on standard output.
    ///
    /// # Errors
    /// [`Error::Command`] with the command and what it said.
    pub fn run(&self, command: Command) -> Result<String, Error> {
        let confined = starter::confined(&command)?;
        tool::finish(tool::command_line(&command), || self.starter.start(confined))
    }

    /// Starts a process inside, in a process group of its own, its output captured.
    ///
    /// The process ends with the guard, and with the last handle on this namespace.
    ///
    /// # Errors
    /// [`Error::Io`] if nothing can be started; a program that is not there ends at once with status 127.
    pub fn spawn(&self, command: Command) -> Result<Child, Error> {
        let confined = starter::confined(&command)?;
        let child = Child::start(tool::command_line(&command), || self.starter.start(confined))?;
        self.processes.add(child.running());
        Ok(child)
    }

    /// Runs a closure on a thread inside and returns its result; sockets it makes stay in the namespace, and so do the
    /// threads it starts.
    ///
    /// # Errors
    /// [`Error::Io`] if the thread cannot enter the namespace. A panic of the closure continues in the caller.
    pub fn enter<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let result = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.move_here()?;
                    Ok(closure())
                })
                .join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a thread inside that runs on its own, such as a runtime that makes traffic.
    ///
    /// # Errors
    /// [`Error::Io`] if no thread can be started; the thread's own result is one if it cannot enter the namespace.
    pub fn thread<T: Send + 'static>(
        &self,
        name: &str,
        closure: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T, Error>>, Error> {
        let namespace = self.clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                namespace.move_here()?;
                Ok(closure())
            })
            .map_err(Error::io(format!("start the thread {name}")))
    }

    /// Moves the calling thread here for good.
    fn move_here(&self) -> Result<(), Error> {
        self.inside.enter().map_err(Error::io(format!("enter the namespace {}", self.name)))
    }
}

/// The kernel's rule for interface names (`dev_valid_name`), and not to be taken for an option of `ip`.
pub(crate) fn check_interface(name: &str) -> Result<(), Error> {
    let well_formed = (1..=15).contains(&name.len())
        && !name.starts_with(['-', '.'])
        && name.chars().all(|character| character.is_ascii_graphic() && !matches!(character, '/' | ':'));
    if well_formed {
        return Ok(());
    }
    Err(Error::InvalidName {
        what: "an interface",
        name: name.to_owned(),
        rule: "1 to 15 visible ASCII characters, no slash or colon, the first no dash or dot",
    })
}

fn sysctl_path(key: &str) -> Result<PathBuf, Error> {
    let separator = if key.contains('/') { '/' } else { '.' };
    let parts: Vec<&str> = key.split(separator).collect();
    let well_formed =
        parts.len() > 1 && parts[0] == "net" && parts.iter().all(|part| !matches!(*part, "" | "." | ".."));
    if well_formed {
        return Ok(["/proc", "sys"].iter().chain(&parts).collect());
    }
    Err(Error::InvalidName {
        what: "a kernel parameter of a namespace",
        name: key.to_owned(),
        rule: "net, then further parts, separated by dots or by slashes",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_follow_the_kernel() {
        for name in ["lo", "up0", "eth0.100", "123456789012345"] {
            check_interface(name).unwrap();
        }
        for name in ["", "-4", ".", "..", "a/b", "a:b", "a b", "1234567890123456", "ü"] {
            assert!(check_interface(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn kernel_parameters_stay_below_net() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward").unwrap(), Path::new("/proc/sys/net/ipv4/ip_forward"));
        let with_dot = sysctl_path("net/ipv4/conf/eth0.100/rp_filter").unwrap();
        assert_eq!(with_dot, Path::new("/proc/sys/net/ipv4/conf/eth0.100/rp_filter"));
        for key in ["", "net", "kernel.panic", "net..x", "net/../kernel/panic", "/net/ipv4"] {
            assert!(sysctl_path(key).is_err(), "{key:?}");
        }
    }
}
