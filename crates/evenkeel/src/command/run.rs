//! `evenkeel run`: a whole load balancer from manifests, without a cluster.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
};

use anyhow::{Context as _, bail};
use evenkeel_agent::Config;
use evenkeel_loader::{Hook, HookChoice, OBJECT_COMPILER};
use evenkeel_plan::world::Forwarding;
use evenkeel_process::{logging, shutdown};
use evenkeel_sources::directory::Directory;
use rustix::rand::{GetRandomFlags, getrandom};

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
    /// Interfaces to attach to; VIPs are announced there
    ///
    /// Give the uplink. With `direct` forwarding, give the interface towards the backends as well: replies then take the
    /// short way too.
    #[arg(long = "interface", env = "EVENKEEL_INTERFACE", required = true, value_delimiter = ',', value_name = "IF")]
    interfaces: Vec<String>,
    /// Where to remember addresses and owners between runs [default: /var/lib/evenkeel/NODE]
    #[arg(long, env = "EVENKEEL_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// How packets reach the backends of services that do not choose (annotation evenkeel.io/forwarding)
    #[arg(long, env = "EVENKEEL_FORWARDING", value_enum, default_value = "direct")]
    forwarding: ForwardingArg,
    /// Where on the interface to attach
    #[arg(long, env = "EVENKEEL_HOOK", value_enum, default_value = "auto")]
    hook: HookArg,
    /// Flow table entries when the table is made anew; a connection takes two
    #[arg(long, env = "EVENKEEL_FLOW_ENTRIES", value_name = "N", value_parser = clap::value_parser!(u32).range(1024..))]
    flow_entries: Option<u32>,
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

/// Which node, and its admin socket: shared by the commands that concern one.
#[derive(clap::Args)]
pub(crate) struct NodeArgs {
    /// This node's name [default: the host name]
    #[arg(long, env = "EVENKEEL_NODE", value_name = "NAME")]
    node: Option<String>,
    /// The admin socket [default: unix:/run/evenkeel/NODE.sock]
    #[arg(long, env = "EVENKEEL_ADMIN", value_name = "unix:PATH")]
    admin: Option<Admin>,
}

impl NodeArgs {
    pub(crate) fn name(&self) -> anyhow::Result<String> {
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
enum ForwardingArg {
    /// Straight to the next hop
    Direct,
    /// Through the kernel's routing and firewall
    Stack,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum HookArg {
    /// tcx from kernel 6.6 on, clsact before
    Auto,
    /// tcx, or an error
    Tcx,
    /// A clsact filter
    Clsact,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    logging::init("info")?;
    let node = args.node.name()?;
    let state_directory = args.state_dir.clone().unwrap_or_else(|| PathBuf::from(format!("/var/lib/evenkeel/{node}")));
    let admin_socket = args.node.socket()?;
    let config = Config {
        interfaces: args.interfaces.clone(),
        load_balancer_class: args.scope.lb_class.clone(),
        ignore_exclude_label: args.scope.ignore_exclude_lb,
        state_directory,
        admin_socket,
        hook: match args.hook {
            HookArg::Auto => HookChoice::Auto,
            HookArg::Tcx => HookChoice::Only(Hook::Tcx),
            HookArg::Clsact => HookChoice::Only(Hook::Clsact),
        },
        forwarding: match args.forwarding {
            ForwardingArg::Direct => Forwarding::Direct,
            ForwardingArg::Stack => Forwarding::Stack,
        },
        flow_entries: args.flow_entries,
        hash_seed: random()?,
        detach: args.detach,
        node,
    };
    tracing::info!(node = config.node, version = env!("CARGO_PKG_VERSION"), object = OBJECT_COMPILER, "starting");
    let shutdown = shutdown::on_signal()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let updates = Directory::watch(args.directories.clone())?;
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
