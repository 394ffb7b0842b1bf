//! What is compared: each subject has a lab of its own and one address to load.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use evenkeel_lab::{
    Balancer, Child, Namespace, Sandbox, find_program,
    manifests::{Condition, Endpoint, Manifests, Port, Protocol, Service, pool},
    topology::{Backend, NODE, NODE_NAME, Standard, UPLINK, VIP_POOL},
};
use ipnet::{IpNet, Ipv4Net};
use serde::Serialize;

use super::server;

/// The address the subjects that have one serve.
pub(super) const VIP: Ipv4Addr = VIP_POOL.0;
/// An address both backends have, for the direct comparison. Outside all other networks of the lab.
const ANYCAST: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 1);

/// What the backends serve, on [`server::PORT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// HTTP, by two of them
    Http,
    /// iperf3, by one of them: its connections belong together
    Bulk,
    /// The prober's server, by so many of them; the flow table is made for so many flows
    Echo { backends: usize, flows: Option<u32> },
}

impl Workload {
    const fn backends(self) -> usize {
        match self {
            Self::Http => 2,
            Self::Bulk => 1,
            Self::Echo { backends, .. } => backends,
        }
    }

    /// Arguments of the load balancer.
    fn arguments(self) -> Vec<String> {
        match self {
            Self::Echo { flows: Some(flows), .. } => vec!["--flows".to_owned(), flows.to_string()],
            _ => Vec::new(),
        }
    }
}

/// The subjects of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// The node routes to the backends by equal-cost paths, without address translation: the upper bound
    Direct,
    /// The load balancer, forwarding `direct`
    Evenkeel,
    /// The load balancer, forwarding `stack`
    EvenkeelStack,
    /// nftables DNAT, round robin
    Nft,
    /// iptables DNAT, every nth
    Iptables,
    /// haproxy in TCP mode
    Haproxy,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Direct, Self::Evenkeel, Self::EvenkeelStack, Self::Nft, Self::Iptables, Self::Haproxy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Evenkeel => "evenkeel",
            Self::EvenkeelStack => "evenkeel-stack",
            Self::Nft => "nft",
            Self::Iptables => "iptables",
            Self::Haproxy => "haproxy",
        }
    }
}

/// A subject that is set up and answers.
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    /// Where the load comes from.
    pub(crate) client: Namespace,
    /// What is loaded: host part of the URL.
    pub(crate) host: String,
    /// Files of the load balancer, its admin socket among them.
    pub(crate) directory: PathBuf,
    // Dropped in this order: the servers, the process in between, the lab.
    _servers: Vec<Child>,
    pub(crate) process: Option<Child>,
    pub(crate) lab: Standard,
}

impl Subject {
    pub(crate) fn set_up(kind: Kind, workload: Workload, sandbox: &Sandbox, evenkeel: &Path) -> Result<Self> {
        let directory = sandbox.scratch().join(kind.name());
        fs::create_dir_all(&directory)?;
        let lab = Standard::with_backends(sandbox, workload.backends())?;
        let start = |backend| match workload {
            Workload::Http => server::start(backend, &directory),
            Workload::Bulk => server::start_bulk(backend),
            Workload::Echo { .. } => server::start_echo(backend, evenkeel),
        };
        let servers = lab.backends().iter().map(start).collect::<Result<Vec<_>>>()?;
        // A connection per request uses up ports quickly, at the client and at a proxy.
        for namespace in [&lab.client, &lab.node] {
            namespace.sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
            namespace.sysctl("net.ipv4.tcp_tw_reuse", "1")?;
        }
        let process = match kind {
            Kind::Direct => route_directly(&lab).map(|()| None)?,
            Kind::Evenkeel => Some(start_evenkeel(&lab, &directory, evenkeel, "direct", workload)?),
            Kind::EvenkeelStack => Some(start_evenkeel(&lab, &directory, evenkeel, "stack", workload)?),
            Kind::Nft => nft(&lab).map(|()| None)?,
            Kind::Iptables => iptables(&lab).map(|()| None)?,
            Kind::Haproxy => Some(start_haproxy(&lab, &directory)?),
        };
        let address = if kind == Kind::Direct { ANYCAST } else { VIP };
        let watched = process.as_ref().or(servers.first()).context("no server")?;
        // iperf3 takes a connection that says nothing for a test.
        if workload != Workload::Bulk {
            watched.wait_until_open(&lab.client, SocketAddr::from((address, server::PORT)), server::START_TIMEOUT)?;
        }
        let (client, host) = (lab.client.clone(), address.to_string());
        Ok(Self { kind, client, host, directory, _servers: servers, process, lab })
    }
}

/// Both backends have the same address and the node spreads connections over them, so that direct routing keeps as many
/// servers busy as the other subjects do.
fn route_directly(lab: &Standard) -> Result<()> {
    let anycast = IpNet::V4(Ipv4Net::new(ANYCAST, 32)?);
    lab.client.route(anycast, IpAddr::V4(NODE))?;
    for backend in lab.backends() {
        backend.namespace.address("lo", anycast)?;
    }
    // Hash addresses and ports, not addresses alone.
    lab.node.sysctl("net.ipv4.fib_multipath_hash_policy", "1")?;
    let destination = anycast.to_string();
    let gateways: Vec<String> = lab.backends().iter().map(|backend| backend.address.to_string()).collect();
    let hops = gateways.iter().flat_map(|gateway| ["nexthop", "via", gateway]);
    lab.node.ip(["route", "add", &destination].into_iter().chain(hops))?;
    Ok(())
}

/// The kernel's own load balancing needs the address on the node.
fn own_vip(lab: &Standard) -> Result<()> {
    Ok(lab.node.address(UPLINK, IpNet::V4(Ipv4Net::new(VIP, 32)?))?)
}

fn nft(lab: &Standard) -> Result<()> {
    own_vip(lab)?;
    let mut rules = "table ip lb {\n".to_owned();
    let mut verdicts = Vec::new();
    for (index, Backend { address, .. }) in lab.backends().iter().enumerate() {
        writeln!(rules, "chain backend{index} {{ ip protocol tcp dnat to {}; }}", server::endpoint(*address))?;
        verdicts.push(format!("{index} : goto backend{index}"));
    }
    writeln!(
        rules,
        "chain prerouting {{ type nat hook prerouting priority dstnat; \
         ip daddr {VIP} tcp dport {} numgen inc mod {} vmap {{ {} }}; }}\n}}",
        server::PORT,
        verdicts.len(),
        verdicts.join(", ")
    )?;
    let mut command = Command::new(find_program("nft", "nftables")?);
    command.arg(rules);
    lab.node.run(command)?;
    Ok(())
}

fn iptables(lab: &Standard) -> Result<()> {
    own_vip(lab)?;
    let program = find_program("iptables", "iptables")?;
    let (vip, port) = (VIP.to_string(), server::PORT.to_string());
    let backends = lab.backends();
    for (index, backend) in backends.iter().enumerate() {
        // The first rule takes every nth connection, the second every (n-1)th of the rest, the last what is left.
        let (every, to) = ((backends.len() - index).to_string(), server::endpoint(backend.address));
        let mut command = Command::new(&program);
        command.args(["-w", "-t", "nat", "-A", "PREROUTING", "-d", &vip, "-p", "tcp", "--dport", &port]);
        command.args(["-m", "statistic", "--mode", "nth", "--every", &every, "--packet", "0"]);
        command.args(["-j", "DNAT", "--to-destination", &to]);
        lab.node.run(command)?;
    }
    Ok(())
}

fn start_haproxy(lab: &Standard, directory: &Path) -> Result<Child> {
    own_vip(lab)?;
    // More connections than the limit of open files allows would make it refuse to start.
    let mut configuration = format!(
        "\
global
    maxconn 400
defaults
    mode tcp
    balance roundrobin
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen lb
    bind {VIP}:{}
",
        server::PORT
    );
    for backend in lab.backends() {
        writeln!(configuration, "    server {} {}", backend.name, server::endpoint(backend.address))?;
    }
    let file = directory.join("haproxy.cfg");
    fs::write(&file, configuration)?;
    lab.node.sysctl("net.core.somaxconn", "65535")?;
    let mut command = Command::new(find_program("haproxy", "haproxy")?);
    command.arg("-db").arg("-f").arg(file);
    Ok(lab.node.spawn(command)?)
}

fn start_evenkeel(
    lab: &Standard,
    directory: &Path,
    program: &Path,
    forwarding: &str,
    workload: Workload,
) -> Result<Child> {
    ensure!(
        program.is_file(),
        "{} does not exist: build it with `cargo build --release -p evenkeel`, or name it with --evenkeel",
        program.display()
    );
    let manifests = Manifests::create(directory)?;
    let service = Service {
        name: "bench".to_owned(),
        addresses: vec![VIP.into()],
        ports: vec![Port { name: "http", protocol: Protocol::Tcp, port: server::PORT, target_port: server::PORT }],
        forwarding: Some(forwarding.to_owned()),
    };
    let endpoints: Vec<Endpoint> = lab
        .backends()
        .iter()
        .map(|backend| Endpoint {
            name: backend.name.clone(),
            addresses: vec![backend.address.into()],
            node: NODE_NAME.to_owned(),
            condition: Condition::Ready,
        })
        .collect();
    manifests.write("pool.yaml", &pool("bench"))?;
    manifests.write("service.yaml", &service.manifest())?;
    manifests.write("endpoints.yaml", &service.endpoint_slices(&endpoints))?;

    let mut balancer = Balancer::new(program, manifests.directory(), directory);
    balancer.arguments = workload.arguments();
    Ok(balancer.start(&lab.node)?)
}
