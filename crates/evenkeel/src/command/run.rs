//! `evenkeel run`: a whole load balancer from manifests, without a cluster.

use std::{
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
};

use anyhow::{Context as _, bail};
use evenkeel_agent::{Config, desired::Defaults, drain::Terms};
use evenkeel_loader::{Hook, HookChoice, OBJECT_COMPILER};
use evenkeel_plan::world::{Forwarding, NodeAddressUse};
use evenkeel_process::{logging, shutdown};
use evenkeel_sources::{Update, directory::Directory};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::watch;

use super::mode::ModeArg;

/// Run a load balancer from the manifests in these directories, and follow their changes.
///
/// Prints `ready` on stdout once every VIP this node should carry is carried and announced. SIGTERM ends the process and
/// leaves the data path up, so that a restart loses nothing; `evenkeel uninstall` removes it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directories with manifests (YAML or JSON), read recursively
    #[arg(required = true, value_name = "DIR")]
    directories: Vec<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    data_path: DataPathArgs,
    /// How packets reach the backends of services that do not choose (annotation evenkeel.io/forwarding)
    #[arg(long, env = "EVENKEEL_FORWARDING", value_enum, default_value = "direct")]
    forwarding: ForwardingArg,
    /// Towards backends on other nodes, replace clients' addresses by one of this node's: for those whose replies would
    /// otherwise take another way
    ///
    /// A backend is on this node if its endpoint's nodeName says so.
    #[arg(long, env = "EVENKEEL_MASQUERADE")]
    masquerade: bool,
}

/// A node's data path: shared by the commands that drive one.
#[derive(clap::Args)]
pub(crate) struct DataPathArgs {
    /// Interfaces to attach to; VIPs are announced there [default: the one of the default route]
    ///
    /// Give the uplink. With `direct` forwarding, give the interface towards the backends as well: replies then take the
    /// short way too.
    #[arg(long = "interface", env = "EVENKEEL_INTERFACE", value_delimiter = ',', value_name = "IF")]
    interfaces: Vec<String>,
    /// Where to remember addresses and owners between runs [default: /var/lib/evenkeel/NODE]
    #[arg(long, env = "EVENKEEL_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where to attach: auto, tcx, clsact, xdp or xdp-generic, for all interfaces or for one (eth0=xdp)
    ///
    /// auto is tcx from kernel 6.6 on and clsact before. xdp is faster for many small packets on a NIC whose driver has it;
    /// tcx is for bulk transfers and virtual interfaces.
    #[arg(
        long = "hook",
        env = "EVENKEEL_HOOK",
        value_delimiter = ',',
        default_value = "auto",
        value_name = "[IF=]HOOK"
    )]
    hooks: Vec<HookArg>,
    /// What to do with packets: balance them, only count what would be balanced, or let everything pass [default: as
    /// before, at first active]
    ///
    /// A running node is switched by `evenkeel mode`, and stays so across restarts if this is not given.
    #[arg(long, env = "EVENKEEL_MODE", value_enum)]
    mode: Option<ModeArg>,
    /// Whether a connection that its backend refuses, or does not answer, is brought to another one before its client notices
    #[arg(long, env = "EVENKEEL_RESCUE", value_enum, default_value = "on")]
    rescue: Switch,
    /// Flows that the flow table is made for, when it is made anew
    #[arg(long, env = "EVENKEEL_FLOWS", value_name = "N", value_parser = clap::value_parser!(u32).range(1024..=16_000_000))]
    flows: Option<u32>,
    /// Addresses that may stand for clients' where sources are rewritten [default: those of the interfaces]
    #[arg(long = "source-address", env = "EVENKEEL_SOURCE_ADDRESS", value_delimiter = ',', value_name = "IP")]
    sources: Vec<IpAddr>,
    /// Ports that may stand for clients' there; nothing else on this node may use them
    #[arg(long, env = "EVENKEEL_SOURCE_PORTS", default_value = "61000-65535", value_name = "FIRST-LAST")]
    source_ports: PortRange,
    /// Where /healthz, /readyz and /metrics are served [default: run: nowhere; agent: port 7475 of every address]
    #[arg(long, env = "EVENKEEL_LISTEN", value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Stop taking new connections, and end, when this file appears, as `evenkeel drain` makes it [default: the admin socket's
    /// path with .drain in place of .sock]
    #[arg(long, env = "EVENKEEL_DRAIN_FILE", value_name = "FILE")]
    drain_file: Option<PathBuf>,
    /// How long new connections are then reset before the agent ends: longer than clients keep what DNS told them
    #[arg(long, env = "EVENKEEL_SHUTDOWN_TIMEOUT", default_value = "60s", value_name = "TIME")]
    shutdown_timeout: humantime::Duration,
    /// On SIGTERM withdraw, detach and remove everything, instead of leaving the data path up
    #[arg(long, env = "EVENKEEL_DETACH")]
    detach: bool,
}

/// What is served: shared by the commands that plan.
#[derive(clap::Args)]
pub(crate) struct ScopeArgs {
    /// Serve the services of this spec.loadBalancerClass only [default: those that name none]
    #[arg(long, env = "EVENKEEL_LB_CLASS", value_name = "CLASS")]
    pub(crate) lb_class: Option<String>,
    /// Announce from nodes too that carry the label node.kubernetes.io/exclude-from-external-load-balancers
    #[arg(long, env = "EVENKEEL_IGNORE_EXCLUDE_LB")]
    pub(crate) ignore_exclude_lb: bool,
}

/// Whose services are served at the nodes' own addresses: shared by both parts of a cluster.
#[derive(clap::Args)]
pub(crate) struct NodeAddressArgs {
    /// Namespaces whose services may be served at the nodes' own addresses (annotation evenkeel.io/addresses: node), where
    /// they take the ports they name from the host, be it those of SSH or the kubelet; *: all [default: none]
    #[arg(
        long = "node-addresses-for",
        env = "EVENKEEL_NODE_ADDRESSES_FOR",
        value_delimiter = ',',
        value_name = "NAMESPACE"
    )]
    node_addresses: Vec<String>,
}

impl NodeAddressArgs {
    pub(crate) fn permitted(&self) -> NodeAddressUse {
        NodeAddressUse::of(&self.node_addresses)
    }
}

/// Which node: shared by the commands that concern one's data path.
#[derive(clap::Args)]
pub(crate) struct NodeName {
    /// This node's name [default: the host name]
    #[arg(long, env = "EVENKEEL_NODE", value_name = "NAME")]
    node: Option<String>,
}

/// Which node, and its admin socket: shared by the commands that concern one's agent.
#[derive(clap::Args)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    node: NodeName,
    /// The admin socket [default: unix:/run/evenkeel/NODE.sock]
    #[arg(long, env = "EVENKEEL_ADMIN", value_name = "unix:PATH")]
    admin: Option<Admin>,
}

impl NodeName {
    pub(crate) fn get(&self) -> anyhow::Result<String> {
        match &self.node {
            // It becomes part of paths.
            Some(name) if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) => {
                bail!("--node {name:?} is no node name: use letters, digits, `-` and `.`, such as node-1")
            }
            Some(name) => Ok(name.clone()),
            None => rustix::system::uname()
                .nodename()
                .to_str()
                .map(str::to_owned)
                .context("the host name is not UTF-8; give --node"),
        }
    }
}

impl NodeArgs {
    pub(crate) fn name(&self) -> anyhow::Result<String> {
        self.node.get()
    }

    /// Where an agent looks for the file that asks for a drain.
    pub(crate) fn drain_file(&self) -> anyhow::Result<PathBuf> {
        Ok(self.socket()?.with_extension("drain"))
    }

    pub(crate) fn socket(&self) -> anyhow::Result<PathBuf> {
        match &self.admin {
            Some(admin) => Ok(admin.0.clone()),
            None => Ok(PathBuf::from(format!("/run/evenkeel/{}.sock", self.name()?))),
        }
    }
}

/// An admin endpoint as the command line gives it.
#[derive(Clone, Debug)]
pub(crate) struct Admin(PathBuf);

impl FromStr for Admin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self(PathBuf::from(path))),
            _ => Err("expected unix:PATH, such as unix:/run/evenkeel/node-1.sock".to_owned()),
        }
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum ForwardingArg {
    /// Straight to the next hop
    Direct,
    /// Through the kernel's routing and firewall
    Stack,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

/// A hook for one interface, or for all that have none of their own; `None`: whichever is best.
#[derive(Clone, Debug)]
struct HookArg {
    interface: Option<String>,
    hook: Option<Hook>,
}

impl FromStr for HookArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (interface, name) = match text.rsplit_once('=') {
            Some((interface, name)) => (Some(interface.to_owned()), name),
            None => (None, text),
        };
        let hook = match name {
            "auto" => None,
            name => Some(Hook::from_name(name).ok_or_else(|| {
                let names = Hook::ALL.map(Hook::name).join(", ");
                format!("`{name}` is no hook; there are auto, {names}, each for one interface as in eth0={name}")
            })?),
        };
        Ok(Self { interface, hook })
    }
}

fn hook_choice(args: &[HookArg]) -> HookChoice {
    let mut choice = HookChoice::default();
    for HookArg { interface, hook } in args {
        match (interface, hook) {
            (None, hook) => choice.all = *hook,
            (Some(interface), Some(hook)) => {
                choice.by_interface.insert(interface.clone(), *hook);
            }
            (Some(_), None) => {}
        }
    }
    choice
}

/// A range of ports as the command line gives it.
#[derive(Clone, Debug)]
struct PortRange(RangeInclusive<u16>);

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let range = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match range {
            Some((first, last)) if first <= last && first > 0 => Ok(Self(first..=last)),
            _ => Err("expected FIRST-LAST, such as 61000-65535".to_owned()),
        }
    }
}

impl From<ForwardingArg> for Forwarding {
    fn from(forwarding: ForwardingArg) -> Self {
        match forwarding {
            ForwardingArg::Direct => Self::Direct,
            ForwardingArg::Stack => Self::Stack,
        }
    }
}

impl DataPathArgs {
    fn interfaces(&self) -> anyhow::Result<Vec<String>> {
        if !self.interfaces.is_empty() {
            return Ok(self.interfaces.clone());
        }
        let found =
            evenkeel_agent::default_route_interface().context("no default route: name the uplink by --interface")?;
        Ok(vec![found])
    }

    /// How a node is to run on its own.
    pub(crate) fn config(&self, node: &NodeArgs, scope: &ScopeArgs, defaults: Defaults) -> anyhow::Result<Config> {
        let name = node.name()?;
        Ok(Config {
            interfaces: self.interfaces()?,
            load_balancer_class: scope.lb_class.clone(),
            ignore_exclude_label: scope.ignore_exclude_lb,
            state_directory: self
                .state_dir
                .clone()
                .unwrap_or_else(|| PathBuf::from(format!("/var/lib/evenkeel/{name}"))),
            admin_socket: node.socket()?,
            hooks: hook_choice(&self.hooks),
            mode: self.mode.map(Into::into),
            sources: self.sources.clone(),
            source_ports: self.source_ports.0.clone(),
            defaults,
            flows: self.flows,
            rescue: self.rescue == Switch::On,
            drain: Terms {
                file: match &self.drain_file {
                    Some(file) => file.clone(),
                    None => node.drain_file()?,
                },
                shutdown_timeout: *self.shutdown_timeout,
            },
            hash_seed: random()?,
            health_check_node_ports: false,
            cluster: None,
            listen: self.listen,
            detach: self.detach,
            node: name,
        })
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    logging::init("info")?;
    let defaults = Defaults { forwarding: args.forwarding.into(), masquerade: args.masquerade };
    let config = args.data_path.config(&args.node, &args.scope, defaults)?;
    drive(config, async |_| Ok(Directory::watch(args.directories.clone())?))
}

/// Carries out what a source says until a signal.
pub(crate) fn drive<S>(config: Config, source: S) -> anyhow::Result<ExitCode>
where
    S: AsyncFnOnce(&mut Config) -> anyhow::Result<watch::Receiver<Update>>,
{
    tracing::info!(node = config.node, version = env!("CARGO_PKG_VERSION"), object = OBJECT_COMPILER, "starting");
    let shutdown = shutdown::on_signal()?;
    // The loop has this thread for itself; what it waits for has another one, so that events are noticed when they come.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let mut config = config;
        let updates = source(&mut config).await?;
        evenkeel_agent::run(config, updates, shutdown, announce_ready).await?;
        anyhow::Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The line that others wait for. Whether anybody reads it is not our concern.
fn announce_ready() {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "ready").and_then(|()| stdout.flush());
}

fn random() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty()).context("no random numbers")?;
    Ok(u64::from_ne_bytes(bytes))
}
