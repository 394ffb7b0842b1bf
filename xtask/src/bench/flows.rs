//! A million connections held, and established ones under a flood of SYNs.
//!
//! Held: the real agent carries a service; connections are opened through its own program by test-run (SYN, the backend's
//! answer, the client's first packet), and afterwards a packet of every one must still find its flow. Flood: a lane of the
//! prober with long-lived connections, while another host on the clients' wire sends SYNs from ever new addresses, as fast
//! as one processor can.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::MapData;
use evenkeel_lab::{
    Load, Sandbox,
    topology::{POD_BRIDGE, UPLINK},
};
use evenkeel_loader::PIN_ROOT;
use evenkeel_maps::{SCHEMA_VERSION, map, program};
use evenkeel_probe::{Config, Lane, LaneKind};
use rustix::fd::{AsFd as _, AsRawFd as _};
use serde::Serialize;

use super::{
    harness::{self, Feeder, Frame, Generator, Hook, Macs, Segment, Varying, pin_to},
    interface_index, kernel, median, server,
    subject::{Kind, Subject, VIP, Workload},
    target_directory, write_report,
};

/// The clients whose packets are fed or flood; nobody is there.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
const CLIENTS_NETWORK: &str = "10.128.0.0/9";
/// A client that exists only as a neighbour, with this hardware address.
const NEIGHBOUR: &str = "02:00:00:00:00:01";
const NEIGHBOUR_BYTES: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ROUTER: &str = "10.77.0.20";

/// Logarithm of the flows that there could be: more than are opened.
const FLOW_BITS: u32 = 24;
/// Connections opened in one go: less than the time that a half-open one is kept for.
const CHUNK: u32 = 50_000;
/// The processor that feeds or floods.
const PROCESSOR: usize = 1;
/// SYNs between two looks at whether to stop.
const BURST: u32 = 1 << 12;
/// Long-lived connections during a flood.
const CONNECTIONS: u32 = 100;
/// The part of a flooded run that comes before the flood: the connections are made.
const CALM: Duration = Duration::from_secs(1);

/// A million connections held, and established ones under a flood of SYNs (needs root).
#[derive(clap::Args)]
pub(super) struct Args {
    /// Connections to hold
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=8_000_000))]
    flows: u32,
    /// Connections that the flow table is made for
    #[arg(long, default_value_t = 1 << 20)]
    capacity: u32,
    /// Rounds with and without a flood
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each of them
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(3..))]
    seconds: u64,
    /// Requests a second over established connections
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// The load balancer's binary [default: release/evenkeel in the target directory]
    #[arg(long, value_name = "FILE")]
    evenkeel: Option<PathBuf>,
    /// The harness's object [default: built now]
    #[arg(long, value_name = "FILE")]
    harness: Option<PathBuf>,
    /// Where the report goes [default: bench/flows.json in the target directory]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let target = target_directory()?;
    let evenkeel = args.evenkeel.clone().unwrap_or_else(|| target.join("release/evenkeel"));
    let file = args.report.clone().unwrap_or_else(|| target.join("bench/flows.json"));
    let object = harness::object(args.harness.as_deref())?;
    let sandbox = Sandbox::enter()?;
    let held = hold(args, &sandbox, &object, &evenkeel).context("holding connections")?;
    println!("{held}");
    let flood = if args.rounds > 0 {
        let flood = Flood::measure(args, &sandbox, &object, &evenkeel).context("flooding")?;
        println!("{flood}");
        Some(flood)
    } else {
        None
    };
    write_report(&file, &Report { held, flood, kernel: kernel() })
}

#[derive(Debug, Serialize)]
struct Report {
    held: Held,
    flood: Option<Flood>,
    kernel: String,
}

#[derive(Debug, Serialize)]
struct Held {
    wanted: u32,
    capacity: u32,
    /// Connections of which a packet still found the flow at the end.
    held: u64,
    /// What became of the first packets and of the last ones, by outcome.
    opening: BTreeMap<String, u64>,
    holding: BTreeMap<String, u64>,
    /// Bytes of the maps that hold flows, in all and for each that they are made for.
    table_bytes: u64,
    bytes_per_flow: f64,
    /// Resident memory of the agent, bytes: before there was a flow, and with all of them.
    agent_before: u64,
    agent_after: u64,
    /// Nanoseconds of a first packet, harness included: into the empty table, and on top of all connections.
    new_flow_empty_ns: f64,
    new_flow_full_ns: f64,
    /// The same of a later packet, of flows in permuted order.
    hit_ns: f64,
}

fn hold(args: &Args, sandbox: &Sandbox, object: &[u8], evenkeel: &Path) -> Result<Held> {
    let workload = Workload::Echo { backends: 1, flows: Some(args.capacity) };
    let subject = Subject::set_up(Kind::Evenkeel, workload, sandbox, evenkeel)?;
    let node = &subject.lab.node;
    node.ip(["neigh", "replace", ROUTER, "lladdr", NEIGHBOUR, "nud", "permanent", "dev", UPLINK])?;
    node.ip(["route", "add", CLIENTS_NETWORK, "via", ROUTER])?;
    let process = subject.process.as_ref().context("no load balancer")?.pid();
    let counters = || counters(evenkeel, &subject.directory.join("admin.sock"));
    let backend = subject.lab.backends().first().context("no backend")?.address;
    let agent_before = resident(process)?;

    eprintln!("opening {} connections", args.flows);
    let before = counters()?;
    let mut held = node.enter(|| -> Result<Held> {
        pin_to(PROCESSOR)?;
        let pins = Path::new(PIN_ROOT).join("node").join(format!("v{SCHEMA_VERSION}"));
        let ingress = harness::program_on(&pins.join(map::VIPS), program::INGRESS)?;
        let table_bytes = map_bytes(&pins.join(map::FLOWS))? + map_bytes(&pins.join(map::REPLIES))?;
        let client = SocketAddr::new(CLIENTS.into(), 0);
        let vip = SocketAddr::new(VIP.into(), server::PORT);
        let feeder = |interface: &str, from, to, segment, varying| -> Result<Feeder> {
            let destination = evenkeel_loader::Interface::look_up(interface)?.mac;
            let frame = Frame::new(Macs { source: NEIGHBOUR_BYTES, destination }, from, to, segment, varying)?;
            Feeder::new(object, Hook::Tc, &frame, FLOW_BITS, interface_index(interface)?, Some(&ingress))
        };
        let mut syn = feeder(UPLINK, client, vip, Segment::Syn, Varying::Source)?;
        let server = SocketAddr::new(backend.into(), server::PORT);
        let mut answer = feeder(POD_BRIDGE, server, client, Segment::SynAck, Varying::Destination)?;
        let mut ack = feeder(UPLINK, client, vip, Segment::Ack, Varying::Source)?;
        let mut first = None;
        let mut place = 0;
        while place < args.flows {
            let count = CHUNK.min(args.flows - place);
            for feeder in [&mut syn, &mut answer, &mut ack] {
                feeder.rewind(place.into())?;
            }
            let ns = syn.feed(count)?;
            first.get_or_insert(ns);
            answer.feed(count)?;
            ack.feed(count)?;
            place += count;
        }
        let opening = difference(&before, &counters()?);
        let agent_after = resident(process)?;
        let before = counters()?;
        ack.rewind(0)?;
        let hit_ns = ack.feed(args.flows)?;
        let holding = difference(&before, &counters()?);
        // On top of all others, and measured last: what does not fit shows in the outcomes of another run.
        syn.rewind(args.flows.into())?;
        let new_flow_full_ns = syn.feed(CHUNK / 5)?;
        Ok(Held {
            wanted: args.flows,
            capacity: args.capacity,
            held: holding.get("forward_flow").copied().unwrap_or(0),
            opening,
            holding,
            table_bytes,
            bytes_per_flow: table_bytes as f64 / f64::from(args.capacity),
            agent_before,
            agent_after,
            new_flow_empty_ns: first.unwrap_or_default(),
            new_flow_full_ns,
            hit_ns,
        })
    })??;
    held.agent_after = held.agent_after.max(resident(process)?);
    Ok(held)
}

/// The outcomes that the agent reports, with the packets each has had.
fn counters(evenkeel: &Path, admin: &Path) -> Result<BTreeMap<String, u64>> {
    let mut command = Command::new(evenkeel);
    command.args(["status", "--admin", &format!("unix:{}", admin.display()), "-o", "json"]);
    let output = command.output().context("asking for the status")?;
    ensure!(output.status.success(), "no status: {}", String::from_utf8_lossy(&output.stderr));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).context("the status is no JSON")?;
    let counters = status["counters"].as_object().context("the status has no counters")?;
    Ok(counters.iter().filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).collect())
}

fn difference(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let since = |name: &String, count: u64| count.saturating_sub(before.get(name).copied().unwrap_or(0));
    after.iter().map(|(name, count)| (name.clone(), since(name, *count))).filter(|(_, count)| *count > 0).collect()
}

/// Resident memory of a process, in bytes.
fn resident(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the process has no memory")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}

/// Memory of a pinned map, in bytes, as the kernel accounts for it.
fn map_bytes(pin: &Path) -> Result<u64> {
    let map = MapData::from_pin(pin).with_context(|| format!("no map is pinned at {}", pin.display()))?;
    let info = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
    let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:")).context("the map has no size")?;
    Ok(bytes.trim().parse()?)
}

impl fmt::Display for Held {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebi = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        writeln!(formatter, "{} connections, table for {}", self.wanted, self.capacity)?;
        writeln!(formatter, "  held                     {}", self.held)?;
        for (what, outcomes) in [("opening", &self.opening), ("holding", &self.holding)] {
            let list: Vec<String> = outcomes.iter().map(|(name, count)| format!("{name} {count}")).collect();
            writeln!(formatter, "  outcomes {what}         {}", list.join(", "))?;
        }
        writeln!(
            formatter,
            "  memory of the table      {:.0} MiB, {:.0} bytes a connection it is made for",
            mebi(self.table_bytes),
            self.bytes_per_flow
        )?;
        writeln!(
            formatter,
            "  resident memory of agent {:.1} MiB, before {:.1} MiB",
            mebi(self.agent_after),
            mebi(self.agent_before)
        )?;
        writeln!(
            formatter,
            "  a new flow, with harness {:.0} ns, into the empty table {:.0} ns; a hit {:.0} ns",
            self.new_flow_full_ns, self.new_flow_empty_ns, self.hit_ns
        )
    }
}

/// Response times over established connections, without and with a flood of SYNs.
#[derive(Debug, Serialize)]
struct Flood {
    rounds: Vec<FloodRound>,
    /// Median over the rounds of the ratio of the 99th percentiles.
    p99_ratio: f64,
    lost: u64,
    broken: u64,
}

#[derive(Debug, Serialize)]
struct FloodRound {
    quiet_p99_ms: f64,
    flooded_p99_ms: f64,
    syns_per_second: f64,
    /// Requests without an answer, and connections that did not last, in both runs.
    lost: u64,
    broken: u64,
    /// What became of the packets meanwhile, by outcome.
    outcomes: BTreeMap<String, u64>,
}

impl Flood {
    fn measure(args: &Args, sandbox: &Sandbox, object: &[u8], evenkeel: &Path) -> Result<Self> {
        let workload = Workload::Echo { backends: 2, flows: None };
        let mut subject = Subject::set_up(Kind::Evenkeel, workload, sandbox, evenkeel)?;
        // Nobody is where the SYNs say they come from.
        subject.lab.node.ip(["route", "add", "blackhole", CLIENTS_NETWORK])?;
        let attacker = subject.lab.lab().namespace("attacker")?;
        let switch = subject.lab.switch.clone();
        subject.lab.lab().veth((&attacker, "eth0"), (&switch, "attacker"))?;
        switch.bridge_port("br0", "attacker")?;
        // Frames from XDP are taken only by a device that polls.
        switch.offload("attacker", "gro", true)?;
        let mac = |interface| evenkeel_loader::Interface::look_up(interface).map(|interface| interface.mac);
        let destination = subject.lab.node.enter(|| mac(UPLINK))??;
        let vip = SocketAddr::new(VIP.into(), server::PORT);
        let mut generator = attacker.enter(|| -> Result<_> {
            let macs = Macs { source: mac("eth0")?, destination };
            let frame = Frame::new(macs, SocketAddr::new(CLIENTS.into(), 0), vip, Segment::Syn, Varying::Source)?;
            Generator::new(object, &frame, FLOW_BITS, interface_index("eth0")?)
        })??;
        let admin = subject.directory.join("admin.sock");
        let mut rounds = Vec::new();
        for round in 0..args.rounds {
            let quiet = established(args, &subject)?;
            let quiet = quiet.wait()?;
            let before = counters(evenkeel, &admin)?;
            let load = established(args, &subject)?;
            thread::sleep(CALM);
            let stop = AtomicBool::new(false);
            let (flooded, syns_per_second) = thread::scope(|scope| -> Result<_> {
                let flooding = scope.spawn(|| attacker.enter(|| flood(&mut generator, &stop)));
                let flooded = load.wait();
                stop.store(true, Ordering::Relaxed);
                let sent = flooding.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
                Ok((flooded?, sent?))
            })?;
            let outcomes = difference(&before, &counters(evenkeel, &admin)?);
            let lanes = [&quiet, &flooded].map(|report| report.lanes.first());
            let [Some(quiet), Some(flooded)] = lanes else { bail!("no lane") };
            let p99 =
                |lane: &evenkeel_probe::LaneReport| lane.latency_ms.map(|latency| latency.p99).context("no answer");
            let row = FloodRound {
                quiet_p99_ms: p99(quiet)?,
                flooded_p99_ms: p99(flooded)?,
                syns_per_second,
                lost: quiet.failed + flooded.failed,
                broken: quiet.broken + flooded.broken,
                outcomes,
            };
            eprintln!(
                "round {} of {}: p99 {:.2} ms, under {:.0} SYN/s {:.2} ms; {} lost",
                round + 1,
                args.rounds,
                row.quiet_p99_ms,
                row.syns_per_second,
                row.flooded_p99_ms,
                row.lost
            );
            rounds.push(row);
        }
        Ok(Self {
            p99_ratio: median(rounds.iter().map(|round| round.flooded_p99_ms / round.quiet_p99_ms)).unwrap_or_default(),
            lost: rounds.iter().map(|round| round.lost).sum(),
            broken: rounds.iter().map(|round| round.broken).sum(),
            rounds,
        })
    }
}

/// Starts requests over long-lived connections.
fn established(args: &Args, subject: &Subject) -> Result<Load> {
    let rate = NonZeroU32::new(args.rate).context("no requests")?;
    let mut lane = Lane::to(LaneKind::TcpLong, SocketAddr::new(VIP.into(), server::PORT), rate);
    lane.options.connections = NonZeroU32::new(CONNECTIONS).context("no connections")?;
    let config = Config::new(vec![lane], Duration::from_secs(args.seconds));
    Ok(Load::start(&subject.client, config)?)
}

/// Floods until it is told to stop, and returns SYNs a second.
fn flood(generator: &mut Generator, stop: &AtomicBool) -> Result<f64> {
    pin_to(PROCESSOR)?;
    let start = Instant::now();
    let mut sent = 0.0;
    while !stop.load(Ordering::Relaxed) {
        generator.send(BURST)?;
        sent += f64::from(BURST);
    }
    Ok(sent / start.elapsed().as_secs_f64())
}

impl fmt::Display for Flood {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let middle = |figure: fn(&FloodRound) -> f64| median(self.rounds.iter().map(figure)).unwrap_or_default();
        writeln!(
            formatter,
            "flood of {:.0} SYN/s: p99 over {CONNECTIONS} established connections {:.2} ms instead of {:.2} ms (medians of \
             {} rounds; ratio {:.2}); lost {}, broken connections {}",
            middle(|round| round.syns_per_second),
            middle(|round| round.flooded_p99_ms),
            middle(|round| round.quiet_p99_ms),
            self.rounds.len(),
            self.p99_ratio,
            self.lost,
            self.broken
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_that_did_not_change_are_left_out() {
        let outcomes = |list: &[(&str, u64)]| list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let before: BTreeMap<String, u64> = outcomes(&[("a", 1), ("b", 2)]);
        let after: BTreeMap<String, u64> = outcomes(&[("a", 1), ("b", 5), ("c", 7)]);
        assert_eq!(difference(&before, &after), outcomes(&[("b", 3), ("c", 7)]));
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident(std::process::id()).unwrap() > 100_000);
    }
}
