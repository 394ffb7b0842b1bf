//! Packets a second through a node, counted where they arrive.
//!
//! ```text
//!  client          node            sink
//!  eth0 --------- up0 | down0 --------- eth0
//!  generator                            counts and drops
//! ```
//! Everything happens on one processor: the generator sends a batch of frames through the virtual wire, and whatever the
//! node does with them is done before the next. So the figures contain what generator and wires cost, the same for each
//! subject. Datagrams of 64 bytes in 16,384 flows; every frame is written anew, because the kernel hands out the same
//! pages again as the node has left them.

use std::{
    fmt::{self, Write as _},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use evenkeel_lab::{
    Balancer, Child, Lab, Namespace, Sandbox, find_program,
    manifests::{Condition, Endpoint, Manifests, Port, Protocol, Service, pool},
    topology::NODE_NAME,
};
use ipnet::{IpNet, Ipv4Net};
use serde::Serialize;

use super::{
    harness::{self, Frame, Generator, Macs, Segment, Sink, Varying, pin_to},
    kernel, median, target_directory, write_report,
};

const UPLINK: &str = "up0";
const DOWNLINK: &str = "down0";
const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const PORT: u16 = 80;
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
const NODE_UP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const NODE_DOWN: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
const BACKENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 1, 11), Ipv4Addr::new(10, 77, 1, 12)];
/// The clients whose datagrams the generator sends; behind the client.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);

/// Logarithm of the flows.
const FLOW_BITS: u32 = 14;
/// Frames between two looks at the clock.
const BURST: u32 = 1 << 14;
/// The processor for everything: not the first, which has most of the machine's interrupts.
const PROCESSOR: usize = 1;

/// Packets a second of 64 bytes on one processor, against plain forwarding and nft (needs root).
#[derive(clap::Args)]
pub(super) struct Args {
    /// Rounds; medians over them are reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Milliseconds each subject is measured per round
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    milliseconds: u64,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    subjects: Vec<Kind>,
    /// The load balancer's binary [default: release/evenkeel in the target directory]
    #[arg(long, value_name = "FILE")]
    evenkeel: Option<PathBuf>,
    /// The harness's object [default: built now]
    #[arg(long, value_name = "FILE")]
    harness: Option<PathBuf>,
    /// Where the report goes [default: bench/pps.json in the target directory]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// The node routes to the backends: no balancing
    Plain,
    /// The load balancer, forwarding `direct`, at the XDP hook of the driver
    EvenkeelXdp,
    /// The load balancer, forwarding `direct`, at the traffic control hook
    EvenkeelTcx,
    /// nftables DNAT, round robin
    Nft,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Plain, Self::EvenkeelXdp, Self::EvenkeelTcx, Self::Nft];

    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::EvenkeelXdp => "evenkeel-xdp",
            Self::EvenkeelTcx => "evenkeel-tcx",
            Self::Nft => "nft",
        }
    }
}

struct Subject {
    kind: Kind,
    client: Namespace,
    generator: Generator,
    sink: Sink,
    // Dropped in this order.
    _process: Option<Child>,
    _lab: Lab,
}

impl Subject {
    fn set_up(kind: Kind, sandbox: &Sandbox, object: &[u8], evenkeel: &Path) -> Result<Self> {
        let mut lab = Lab::new(sandbox);
        let (client, node, sink) = (lab.namespace("client")?, lab.namespace(NODE_NAME)?, lab.namespace("sink")?);
        lab.veth((&client, "eth0"), (&node, UPLINK))?;
        lab.veth((&node, DOWNLINK), (&sink, "eth0"))?;
        let network = |address: Ipv4Addr| Ipv4Net::new(address, 24).map(IpNet::V4);
        client.address("eth0", network(CLIENT)?)?;
        node.address(UPLINK, network(NODE_UP)?)?;
        node.address(DOWNLINK, network(NODE_DOWN)?)?;
        node.sysctl("net.ipv4.ip_forward", "1")?;
        for scope in ["all", "default", UPLINK, DOWNLINK] {
            node.sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "0")?;
        }
        node.route(IpNet::V4(Ipv4Net::new(CLIENTS, 9)?), IpAddr::V4(CLIENT))?;
        for backend in BACKENDS {
            let mac = mac(&sink, "eth0")?.map(|byte| format!("{byte:02x}")).join(":");
            let address = backend.to_string();
            node.ip(["neigh", "replace", &address, "lladdr", &mac, "nud", "permanent", "dev", DOWNLINK])?;
        }
        // A virtual device takes frames from another's XDP only while it polls: with a program, or with this.
        node.offload(UPLINK, "gro", true)?;
        let process = match kind {
            Kind::Plain => None,
            Kind::EvenkeelXdp => Some(start_evenkeel(&node, sandbox, evenkeel, kind, "xdp")?),
            Kind::EvenkeelTcx => Some(start_evenkeel(&node, sandbox, evenkeel, kind, "tcx")?),
            Kind::Nft => nft(&node).map(|()| None)?,
        };
        let destination = if kind == Kind::Plain { BACKENDS[0] } else { VIP };
        let macs = Macs { source: mac(&client, "eth0")?, destination: mac(&node, UPLINK)? };
        let from = SocketAddr::new(CLIENTS.into(), 0);
        let frame = Frame::new(macs, from, SocketAddr::new(destination.into(), PORT), Segment::Udp, Varying::Source)?;
        let generator =
            client.enter(|| Generator::new(object, &frame, FLOW_BITS, super::interface_index("eth0")?))??;
        let sink = sink.enter(|| Sink::attach(object, "eth0"))??;
        Ok(Self { kind, client, generator, sink, _process: process, _lab: lab })
    }

    /// Sends for a while.
    fn measure(&mut self, duration: Duration) -> Result<Sample> {
        let before = self.sink.arrived()?;
        let generator = &mut self.generator;
        let (sent, elapsed) = self.client.enter(|| -> Result<_> {
            pin_to(PROCESSOR)?;
            let start = Instant::now();
            let mut sent = 0_u64;
            while start.elapsed() < duration {
                generator.send(BURST)?;
                sent += u64::from(BURST);
            }
            Ok((sent, start.elapsed()))
        })??;
        let arrived = settled(&self.sink)? - before;
        Ok(Sample { packets_per_second: arrived as f64 / elapsed.as_secs_f64(), sent, arrived })
    }
}

/// What has arrived once nothing arrives any more.
fn settled(sink: &Sink) -> Result<u64> {
    let deadline = Instant::now() + harness::GRACE;
    let mut arrived = sink.arrived()?;
    loop {
        thread::sleep(Duration::from_millis(20));
        let now = sink.arrived()?;
        if now == arrived {
            return Ok(now);
        }
        ensure!(Instant::now() < deadline, "frames go on arriving that nobody sends");
        arrived = now;
    }
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Sample {
    packets_per_second: f64,
    sent: u64,
    arrived: u64,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let target = target_directory()?;
    let evenkeel = args.evenkeel.clone().unwrap_or_else(|| target.join("release/evenkeel"));
    let file = args.report.clone().unwrap_or_else(|| target.join("bench/pps.json"));
    let object = harness::object(args.harness.as_deref())?;
    let sandbox = Sandbox::enter()?;
    let mut subjects = Vec::new();
    for &kind in &args.subjects {
        eprintln!("setting up {}", kind.name());
        let subject = Subject::set_up(kind, &sandbox, &object, &evenkeel);
        subjects.push(subject.with_context(|| format!("setting up {}", kind.name()))?);
    }
    let duration = Duration::from_millis(args.milliseconds);
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); subjects.len()];
    for subject in &mut subjects {
        // The flows begin here; not counted.
        subject.measure(duration / 5)?;
    }
    let count = subjects.len();
    for round in 0..args.rounds as usize {
        for position in 0..count {
            let index = (position + round) % count;
            let sample = subjects[index].measure(duration)?;
            let name = subjects[index].kind.name();
            ensure!(sample.arrived > 0, "{name}: of {} packets none arrived", sample.sent);
            eprintln!("round {} of {}: {name} {:.0} packets/s", round + 1, args.rounds, sample.packets_per_second);
            samples[index].push(sample);
        }
    }
    let kinds: Vec<Kind> = subjects.iter().map(|subject| subject.kind).collect();
    let report = Report::new(&kinds, samples, args.rounds);
    println!("{report}");
    write_report(&file, &report)
}

#[derive(Debug, Serialize)]
struct Report {
    rows: Vec<Row>,
    rounds: u32,
    kernel: String,
}

#[derive(Debug, Serialize)]
struct Row {
    subject: Kind,
    /// Median over the rounds.
    packets_per_second: f64,
    /// Medians over the rounds of the ratio within the round.
    vs_plain: Option<f64>,
    vs_nft: Option<f64>,
    /// Share of what was sent that arrived, over all rounds.
    arrived: f64,
    rounds: Vec<Sample>,
}

impl Report {
    fn new(kinds: &[Kind], samples: Vec<Vec<Sample>>, rounds: u32) -> Self {
        let figures: Vec<Vec<f64>> =
            samples.iter().map(|samples| samples.iter().map(|sample| sample.packets_per_second).collect()).collect();
        let ratio = |ours: &[f64], to: Kind| {
            let others = &figures[kinds.iter().position(|kind| *kind == to)?];
            median(ours.iter().zip(others).map(|(ours, other)| ours / other))
        };
        let rows = kinds
            .iter()
            .zip(&figures)
            .zip(samples)
            .filter_map(|((kind, ours), samples)| {
                let (sent, arrived) =
                    samples.iter().fold((0, 0), |sum, sample| (sum.0 + sample.sent, sum.1 + sample.arrived));
                Some(Row {
                    subject: *kind,
                    packets_per_second: median(ours.iter().copied())?,
                    vs_plain: ratio(ours, Kind::Plain),
                    vs_nft: ratio(ours, Kind::Nft),
                    arrived: arrived as f64 / sent as f64,
                    rounds: samples,
                })
            })
            .collect();
        Self { rows, rounds, kernel: kernel() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "packets a second, 64 bytes, {} flows, one processor with the generator on it: medians of {} interleaved rounds, \
             Linux {}\n",
            1 << FLOW_BITS,
            self.rounds,
            self.kernel
        )?;
        writeln!(
            formatter,
            "{:<14} {:>10} {:>10} {:>8} {:>9}",
            "subject", "packets/s", "vs plain", "vs nft", "arrived"
        )?;
        for row in &self.rows {
            let ratio = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
            writeln!(
                formatter,
                "{:<14} {:>10.0} {:>10} {:>8} {:>8.1}%",
                row.subject.name(),
                row.packets_per_second,
                ratio(row.vs_plain),
                ratio(row.vs_nft),
                row.arrived * 100.0
            )?;
        }
        Ok(())
    }
}

fn mac(namespace: &Namespace, interface: &str) -> Result<[u8; 6]> {
    let text = namespace.enter(|| fs::read_to_string(format!("/sys/class/net/{interface}/address")))??;
    let bytes = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
    bytes.try_into().ok().with_context(|| format!("{interface} has no Ethernet address"))
}

fn nft(node: &Namespace) -> Result<()> {
    node.address(UPLINK, IpNet::V4(Ipv4Net::new(VIP, 32)?))?;
    let mut rules = "table ip lb {\n".to_owned();
    for (index, address) in BACKENDS.iter().enumerate() {
        writeln!(rules, "chain backend{index} {{ ip protocol udp dnat to {address}:{PORT}; }}")?;
    }
    writeln!(
        rules,
        "chain prerouting {{ type nat hook prerouting priority dstnat; ip daddr {VIP} udp dport {PORT} \
         numgen inc mod 2 vmap {{ 0 : goto backend0, 1 : goto backend1 }}; }}\n}}"
    )?;
    let mut command = Command::new(find_program("nft", "nftables")?);
    command.arg(rules);
    node.run(command)?;
    Ok(())
}

fn start_evenkeel(node: &Namespace, sandbox: &Sandbox, program: &Path, kind: Kind, hook: &str) -> Result<Child> {
    let directory = sandbox.scratch().join(kind.name());
    fs::create_dir_all(&directory)?;
    let manifests = Manifests::create(&directory)?;
    let service = Service {
        name: "bench".to_owned(),
        addresses: vec![VIP.into()],
        ports: vec![Port { name: "dns", protocol: Protocol::Udp, port: PORT, target_port: PORT }],
        forwarding: Some("direct".to_owned()),
    };
    let endpoints: Vec<Endpoint> = BACKENDS
        .iter()
        .map(|address| Endpoint {
            name: format!("backend-{address}"),
            addresses: vec![(*address).into()],
            node: NODE_NAME.to_owned(),
            condition: Condition::Ready,
        })
        .collect();
    manifests.write("pool.yaml", &pool("bench"))?;
    manifests.write("service.yaml", &service.manifest())?;
    manifests.write("endpoints.yaml", &service.endpoint_slices(&endpoints))?;
    let mut balancer = Balancer::new(program, manifests.directory(), &directory);
    balancer.interfaces = vec![UPLINK.to_owned(), DOWNLINK.to_owned()];
    balancer.arguments = vec!["--hook".to_owned(), hook.to_owned()];
    Ok(balancer.start(node)?)
}
