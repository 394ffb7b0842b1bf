//! What the behaviour tests share: the real binary on a node, servers behind a service, and a client that uses it.

use std::{
    collections::BTreeMap,
    env, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    num::NonZeroU32,
    path::PathBuf,
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use evenkeel_lab::{
    Balancer, Child, Load, Namespace, Sandbox,
    deployment::Deployment,
    manifests::{Manifests, Port, Protocol, Service, pool},
    topology::{NODE_NAME, POD_BRIDGE, Standard, UPLINK, VIP_POOL, VIP_POOL6, Wiring},
};
use evenkeel_neighbor::Mac;
use evenkeel_probe::{Close, Config, Lane, LaneKind, Report};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take that should happen soon; long enough for a machine that is busy with other things.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// How long the agent may take to end after SIGTERM: what `run` promises.
pub(crate) const STOP: Duration = Duration::from_secs(5);
/// How often an awaited condition is looked at.
const TICK: Duration = Duration::from_millis(20);
/// How long a request may take before it counts as failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests per second of each lane of a load.
const RATE: NonZeroU32 = NonZeroU32::new(60).unwrap();
/// Longer than any test: a load ends when its test has seen enough.
const LOAD_LIMIT: Duration = Duration::from_secs(300);
/// Small tables are made quickly.
const FLOWS: &str = "16384";

pub(crate) const VIP: Ipv4Addr = VIP_POOL.0;
pub(crate) const VIP6: Ipv6Addr = VIP_POOL6.0;
pub(crate) const TCP: Port = Port { name: "tcp", protocol: Protocol::Tcp, port: 9000, target_port: 9000 };
pub(crate) const HTTP: Port = Port { name: "http", protocol: Protocol::Tcp, port: 80, target_port: 8080 };
pub(crate) const UDP: Port = Port { name: "udp", protocol: Protocol::Udp, port: 5300, target_port: 5300 };
/// A node that is not in the lab.
pub(crate) const ELSEWHERE: &str = "elsewhere";
pub(crate) const POOL_FILE: &str = "pool.yaml";

/// How the load balancer is run.
pub(crate) struct Setup {
    pub(crate) hook: &'static str,
    pub(crate) forwarding: &'static str,
    pub(crate) interfaces: &'static [&'static str],
    pub(crate) backends: usize,
    pub(crate) wiring: Wiring,
    /// Clients' addresses are replaced towards backends on other nodes, and the backends are said to be on one.
    pub(crate) masquerade: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            hook: "auto",
            forwarding: "direct",
            interfaces: &[UPLINK, POD_BRIDGE],
            backends: 2,
            wiring: Wiring::default(),
            masquerade: false,
        }
    }
}

/// A lab with servers behind a service at [`VIP`] and [`VIP6`], and how to run the load balancer on its node.
pub(crate) struct World {
    pub(crate) lab: Standard,
    pub(crate) deployment: Deployment,
    pub(crate) manifests: Manifests,
    pub(crate) balancer: Balancer,
    /// Last, because what is above uses its files.
    pub(crate) directory: TempDir,
}

/// How a program ended and what it said.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl World {
    /// Builds the lab and starts the servers. The load balancer does not run yet.
    pub(crate) fn build(sandbox: &Sandbox, setup: &Setup) -> anyhow::Result<Self> {
        let directory = TempDir::new_in(sandbox.scratch())?;
        let program = program()?;
        let mut lab = Standard::wired(sandbox, setup.wiring)?;
        let manifests = Manifests::create(directory.path())?;
        manifests.write(POOL_FILE, &pool("lab"))?;
        let server = program.clone();
        let mut dual_stack = service("shop", VIP);
        // First, so that what tests cut off the end of a file is IPv4's.
        dual_stack.addresses.insert(0, VIP6.into());
        let mut deployment = Deployment::start(
            &mut lab,
            manifests.clone(),
            dual_stack,
            move |backend| {
                let mut command = Command::new(&server);
                command.args(["probe", "serve", "--name", &backend.name]);
                for (option, port) in [("--tcp", TCP), ("--http", HTTP), ("--udp", UDP)] {
                    for address in backend.addresses() {
                        command.args([option, &SocketAddr::from((address, port.target_port)).to_string()]);
                    }
                }
                command
            },
            setup.backends,
        )?;
        let mut balancer = Balancer::new(&program, manifests.directory(), directory.path());
        balancer.interfaces = setup.interfaces.iter().map(|name| (*name).to_owned()).collect();
        balancer.arguments =
            ["--hook", setup.hook, "--forwarding", setup.forwarding, "--flows", FLOWS].map(str::to_owned).into();
        if setup.masquerade {
            balancer.arguments.push("--masquerade".to_owned());
            deployment.place_on(ELSEWHERE)?;
        }
        // An unanswered ARP request or solicitation is given up after three tries.
        for family in ["ipv4", "ipv6"] {
            lab.client.sysctl(&format!("net.{family}.neigh.eth0.retrans_time_ms"), "300")?;
        }
        Ok(Self { lab, deployment, manifests, balancer, directory })
    }

    /// Builds the lab, starts the servers and the load balancer, and waits until that is ready.
    pub(crate) fn start(sandbox: &Sandbox, setup: &Setup) -> anyhow::Result<(Self, Child)> {
        let world = Self::build(sandbox, setup)?;
        let agent = world.run()?;
        Ok((world, agent))
    }

    /// Chooses another hook for the next run.
    pub(crate) fn use_hook(&mut self, hook: &str) {
        let hooks = self.balancer.arguments.iter_mut().skip_while(|argument| *argument != "--hook").skip(1);
        hooks.take(1).for_each(|argument| hook.clone_into(argument));
    }

    /// Runs the load balancer and waits until it is ready.
    pub(crate) fn run(&self) -> anyhow::Result<Child> {
        Ok(self.balancer.start(&self.lab.node)?)
    }

    /// Runs a command of the binary on the node to its end.
    pub(crate) fn evenkeel(&self, arguments: &[&str]) -> anyhow::Result<Ended> {
        let mut command = Command::new(&self.balancer.program);
        command.args(arguments);
        finish(&self.lab.node, command)
    }

    /// What `evenkeel status -o json` says.
    pub(crate) fn status(&self) -> anyhow::Result<Value> {
        status(&self.lab.node, &self.balancer)
    }

    /// Waits until the status satisfies a condition, and returns it.
    pub(crate) fn await_status(&self, what: &str, condition: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        eventually(what, || {
            last = self.status()?;
            Ok(condition(&last).then(|| last.clone()))
        })
        .with_context(|| format!("last status: {last:#}"))
    }

    /// Starts TCP, HTTP and UDP requests to both VIPs of the service.
    pub(crate) fn load(&self) -> anyhow::Result<Load> {
        let mut lanes = Vec::new();
        for (vip, suffix) in [(IpAddr::from(VIP), ""), (VIP6.into(), "6")] {
            let ways = [(LaneKind::TcpEcho, TCP, ""), (LaneKind::Http, HTTP, "/"), (LaneKind::Udp, UDP, "")];
            lanes.extend(ways.map(|(kind, port, path)| Lane {
                name: format!("{}{suffix}", port.name),
                path: path.to_owned(),
                ..Lane::to(kind, SocketAddr::from((vip, port.port)), RATE)
            }));
        }
        let mut config = Config::new(lanes, LOAD_LIMIT);
        config.timeout = REQUEST_TIMEOUT;
        // As ordinary clients end them.
        config.close = Close::Fin;
        Ok(Load::start(&self.lab.client, config)?)
    }

    /// No packet was dropped since the data path was set up.
    pub(crate) fn ensure_no_drops(&self) -> anyhow::Result<()> {
        let counters = counters(&self.status()?)?;
        let drops: Vec<_> = counters.iter().filter(|(name, _)| name.starts_with("drop_")).collect();
        ensure!(drops.is_empty(), "dropped: {drops:?}");
        Ok(())
    }
}

/// What `evenkeel status -o json` says.
pub(crate) fn status(node: &Namespace, balancer: &Balancer) -> anyhow::Result<Value> {
    let mut command = Command::new(&balancer.program);
    command.args(["status", "-o", "json", "--admin"]).arg(format!("unix:{}", balancer.admin.display()));
    let ended = finish(node, command)?;
    ensure!(ended.status.success(), "status: {}", ended.stderr);
    serde_json::from_str(&ended.stdout).with_context(|| format!("status is not JSON: {}", ended.stdout))
}

/// A service at `vip` with the ports that the servers serve.
pub(crate) fn service(name: &str, vip: Ipv4Addr) -> Service {
    Service { name: name.to_owned(), addresses: vec![vip.into()], ports: vec![TCP, HTTP, UDP], forwarding: None }
}

/// The VIP's port.
pub(crate) fn vip(port: Port) -> SocketAddrV4 {
    SocketAddrV4::new(VIP, port.port)
}

/// The port of the VIP of IPv6.
pub(crate) fn vip6(port: Port) -> SocketAddrV6 {
    SocketAddrV6::new(VIP6, port.port, 0, 0)
}

/// The counters of a status.
pub(crate) fn counters(status: &Value) -> anyhow::Result<BTreeMap<String, u64>> {
    Ok(serde_json::from_value(status["counters"].clone())?)
}

/// The problems of a status.
pub(crate) fn problems(status: &Value) -> Vec<&str> {
    status["problems"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// State by address of the backends of the frontend for a port at [`VIP`].
pub(crate) fn backends(status: &Value, port: Port) -> BTreeMap<&str, &str> {
    let frontends = status["frontends"].as_array().into_iter().flatten();
    frontends
        .filter(|frontend| frontend["address"] == VIP.to_string() && frontend["port"] == port.port)
        .flat_map(|frontend| frontend["backends"].as_array().into_iter().flatten())
        .filter_map(|backend| Some((backend["address"].as_str()?, backend["state"].as_str()?)))
        .collect()
}

/// Waits until every lane of a load has had this many more successes.
pub(crate) fn go_on(load: &Load, successes: u64) -> anyhow::Result<()> {
    let progress = load.progress();
    let before: Vec<u64> = progress.lanes().iter().map(|lane| lane.succeeded).collect();
    eventually("requests succeed", || {
        let lanes = progress.lanes();
        let enough = lanes.iter().zip(&before).all(|(lane, before)| lane.succeeded >= before + successes);
        Ok(enough.then_some(()))
    })
    .with_context(|| format!("lanes: {:?}", progress.lanes()))
}

/// Ends a load: nothing may have failed. What the prober says of its own punctuality is not judged here.
pub(crate) fn ensure_nothing_lost(load: Load) -> anyhow::Result<Report> {
    let report = load.stop()?;
    ensure!(report.failed == 0, "{} requests failed:\n{report}", report.failed);
    ensure!(report.lanes.iter().all(|lane| lane.requests > 0), "a lane sent nothing:\n{report}");
    Ok(report)
}

/// The hardware address of an interface of the node.
pub(crate) fn mac_of(world: &World, interface: &str) -> anyhow::Result<Mac> {
    let path = format!("/sys/class/net/{interface}/address");
    let text = world.lab.node.enter(|| fs::read_to_string(path))??;
    let bytes: Vec<u8> = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    Ok(Mac::try_from(bytes.as_slice())?)
}

/// Waits until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("not within {SOON:?}: {what}");
        }
        thread::sleep(TICK);
    }
}

/// Runs a command in a namespace to its end.
pub(crate) fn finish(namespace: &Namespace, command: Command) -> anyhow::Result<Ended> {
    finish_within(namespace, command, SOON)
}

/// Runs a command that may take longer.
pub(crate) fn finish_within(namespace: &Namespace, command: Command, limit: Duration) -> anyhow::Result<Ended> {
    let child = namespace.spawn(command)?;
    let status = child.wait(limit)?;
    Ok(Ended { status, stdout: child.stdout().join("\n"), stderr: child.stderr().join("\n") })
}

/// The binary under test: `EVENKEEL_BIN`, or the one that was built into the same target directory as this test.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("EVENKEEL_BIN") {
        return Ok(PathBuf::from(path));
    }
    let this = env::current_exe()?;
    let path = this.ancestors().nth(2).context("the test binary has no directory")?.join("evenkeel");
    ensure!(
        path.is_file(),
        "{} does not exist: `cargo build -p evenkeel` makes it, or set EVENKEEL_BIN",
        path.display()
    );
    Ok(path)
}

/// The node's name, as an argument.
pub(crate) const NODE: [&str; 2] = ["--node", NODE_NAME];
