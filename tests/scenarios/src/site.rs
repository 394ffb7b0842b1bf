//! The place of a row: client, switch, node and servers, some of which wait for their turn.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use evenkeel_lab::{
    Child, Sandbox,
    manifests::{Port, Protocol},
    topology::{Backend, Standard, VIP_POOL, VIP_POOL6},
};
use evenkeel_probe::{Config, Lane, LaneKind, Measurement, Prober};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{case::Servers, processors::Side};

/// The service's addresses.
pub(crate) const VIP: Ipv4Addr = VIP_POOL.0;
/// Likewise, for those who carry IPv6.
pub(crate) const VIP6: Ipv6Addr = VIP_POOL6.0;

pub(crate) const TCP: Port = Port { name: "tcp", protocol: Protocol::Tcp, port: 9000, target_port: 9000 };
pub(crate) const HTTP: Port = Port { name: "http", protocol: Protocol::Tcp, port: 80, target_port: 8080 };
pub(crate) const UDP: Port = Port { name: "udp", protocol: Protocol::Udp, port: 5300, target_port: 5300 };
pub(crate) const DNS: Port = Port { name: "dns", protocol: Protocol::Udp, port: 53, target_port: 5353 };
/// The service's ports.
pub(crate) const PORTS: [Port; 4] = [TCP, HTTP, UDP, DNS];

const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long servers wait for connections in use after SIGTERM.
const GRACE: &str = "1s";
/// How long, and with how many requests a second for each of its ports, a server is asked before it counts.
const WARM_UP: Duration = Duration::from_millis(300);
const WARM_UP_RATE: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// What DNS servers are asked for.
pub(crate) const NAME: &str = "www.example.com";

/// A lab with servers, all started before the load: what a new one costs the machine must not look like a fault's effect.
pub(crate) struct Site {
    pub(crate) lab: Standard,
    pub(crate) servers: Vec<Server>,
    /// Last, because what is above uses its files.
    pub(crate) directory: TempDir,
}

/// A server in its backend.
pub(crate) struct Server {
    pub(crate) backend: Backend,
    pub(crate) process: Child,
}

impl Site {
    pub(crate) fn build(sandbox: &Sandbox, program: &Path, count: usize, servers: Servers) -> Result<Self> {
        let directory = TempDir::new_in(sandbox.scratch())?;
        let lab = Standard::with_backends(sandbox, count)?;
        // A connection per request uses up ports quickly, at the client and at a proxy.
        for namespace in [&lab.client, &lab.node] {
            namespace.sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
            namespace.sysctl("net.ipv4.tcp_tw_reuse", "1")?;
        }
        let start = |backend: &Backend| {
            let process = backend.namespace.spawn(Side::Others.command(&command(program, backend, servers))?)?;
            Ok(Server { backend: backend.clone(), process })
        };
        let servers = lab.backends().iter().map(start).collect::<Result<Vec<_>>>()?;
        for server in &servers {
            server.process.wait_for_line("ready", START_TIMEOUT)?;
        }
        warm_up(&servers)?;
        Ok(Self { lab, servers, directory })
    }

    pub(crate) fn server(&self, name: &str) -> Result<&Server> {
        self.servers.iter().find(|server| server.backend.name == name).with_context(|| format!("no server {name}"))
    }
}

/// Asks each server something of each kind from beside it. Until a server has answered once, each page of its program that it
/// enters is a fault, which adds up to milliseconds for its first clients.
fn warm_up(servers: &[Server]) -> Result<()> {
    let ask = |server: &Server| {
        let lanes = lanes_beside(&server.backend);
        server.backend.namespace.thread("warm-up", move || -> Result<Measurement> {
            let _kept = Side::Others.keep_thread()?;
            let prober = Prober::new(Config::new(lanes, WARM_UP))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(prober.measure(CancellationToken::new())))
        })
    };
    let asked: Vec<_> = servers.iter().map(ask).collect::<Result<_, _>>()?;
    for (thread, server) in asked.into_iter().zip(servers) {
        let measurement = thread.join().ok().context("the prober panicked")???;
        for lane in &measurement.lanes {
            ensure!(lane.succeeded > 0, "{} does not answer {}", server.backend.name, lane.name);
        }
    }
    Ok(())
}

/// What uses each of a server's ports once and again, within its own namespace: its neighbours are not to be known by that.
fn lanes_beside(backend: &Backend) -> Vec<Lane> {
    const KINDS: [(LaneKind, Port); 4] =
        [(LaneKind::TcpEcho, TCP), (LaneKind::Http, HTTP), (LaneKind::Udp, UDP), (LaneKind::Dns, DNS)];
    let lane = |address: IpAddr, (kind, port): (LaneKind, Port)| {
        let mut lane = Lane::to(kind, SocketAddr::new(address, port.target_port), WARM_UP_RATE);
        if kind == LaneKind::Dns {
            NAME.clone_into(&mut lane.path);
        }
        lane
    };
    backend.addresses().into_iter().flat_map(|address| KINDS.map(|kind| lane(address, kind))).collect()
}

fn command(program: &Path, backend: &Backend, servers: Servers) -> Command {
    let mut command = Command::new(program);
    command.args(["probe", "serve", "--name", &backend.name, "--grace", GRACE]);
    if servers == Servers::CloseAtOnce {
        command.arg("--no-drain");
    }
    for (option, port) in [("--tcp", TCP), ("--http", HTTP), ("--udp", UDP), ("--dns", DNS)] {
        for address in backend.addresses() {
            command.args([option, &SocketAddr::from((address, port.target_port)).to_string()]);
        }
    }
    command
}
