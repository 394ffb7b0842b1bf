//! Nanoseconds that a packet takes in the programs, by BPF test-run.
//!
//! A program of the harness writes the next flow's frame and hands it on by a tail call to the very program that the
//! loader has loaded. The harness alone, handing on to a program that does nothing, is measured in the same round and
//! subtracted. Time is that of the measuring thread, so that what else the machine does counts only by the caches it
//! takes. After each run the outcome counters must have gone up by exactly the packets that were fed.

mod carrier;
mod prototype;
mod report;
pub(super) mod site;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramFd;
use evenkeel_lab::Sandbox;
use evenkeel_maps::Outcome;
use serde::Serialize;

use super::{
    harness::{self, Family, Feeder, Frame, Hook, Segment, Varying, pin_to},
    interface_index, median, target_directory, write_report,
};
use carrier::Carrier;
use report::Report;
use site::Site;

/// Logarithm of the flows of the cases with many, and of those that new flows are taken from.
const MANY: u32 = 16;
const ENDLESS: u32 = 24;
/// Logarithm of the flows with all ports of 65,536 addresses.
const EVERYWHERE: u32 = 31;
/// The processor that measures: not the first, which has most of the machine's interrupts.
const PROCESSOR: usize = 1;
/// Runs of the prototype's own benchmark, which takes its time.
const OWN_BENCHES: u32 = 3;

/// Nanoseconds per packet by BPF test-run, net of the harness; with the prototype, in the same run (needs root).
#[derive(clap::Args)]
pub(super) struct Args {
    /// Rounds; medians over them are reported
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Packets of each case and round, in multiples of 65,536
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    cycles: u32,
    /// Packets of each case and round that begin a new flow
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    new_flows: u32,
    /// Services, of ten backends each
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u16).range(2_502..=5_500))]
    services: u16,
    /// Flows that the table has room for
    #[arg(long, default_value_t = 1 << 18)]
    capacity: u32,
    /// Begin with empty flow tables, instead of such as are full of connections that were never completed
    #[arg(long)]
    empty: bool,
    /// One hook alone
    #[arg(long, value_enum)]
    hook: Option<Hook>,
    /// One family alone
    #[arg(long, value_enum)]
    family: Option<Family>,
    /// A checkout of the prototype, to be built and measured side by side
    #[arg(long, value_name = "DIR")]
    prototype: Option<PathBuf>,
    /// The harness's object [default: built now]
    #[arg(long, value_name = "FILE")]
    harness: Option<PathBuf>,
    /// Where the report goes [default: bench/packets.json in the target directory]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// How a service's packets go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Forwarding {
    Direct,
    Stack,
}

/// What is fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Traffic {
    /// Packets to no service, of one flow.
    Pass,
    /// The same to 65,536 addresses: what a program takes for a service's at first costs more.
    PassMany,
    /// Packets of established connections.
    HitOne,
    HitMany,
    /// Datagrams of established flows.
    HitManyUdp,
    /// Packets that open a connection each.
    New,
}

impl Traffic {
    /// Whether no service is concerned.
    const fn passes(self) -> bool {
        matches!(self, Self::Pass | Self::PassMany)
    }
}

/// Whose program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Subject {
    Harness,
    Evenkeel,
    Prototype,
}

/// What tells cases apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Key {
    hook: Hook,
    family: Family,
    traffic: Option<Traffic>,
    forwarding: Option<Forwarding>,
    subject: Subject,
}

/// The counter that a case's packets end in.
#[derive(Debug, Clone, Copy)]
enum Counted {
    Nowhere,
    Evenkeel(Outcome),
    Prototype(prototype::Counter),
}

struct Case {
    key: Key,
    counted: Counted,
    /// Fed before each run, one cycle of flows each.
    before: Vec<(Feeder, u32)>,
    feeder: Feeder,
    packets: u32,
    /// Whether each run begins with the first flow again.
    rewinds: bool,
}

/// Nanoseconds by case and round.
type Samples = BTreeMap<Key, Vec<f64>>;
/// Nanoseconds by line and run of the prototype's own benchmark.
type OwnLines = Vec<BTreeMap<String, f64>>;

pub(super) fn run(args: &Args) -> Result<()> {
    let file = args
        .report
        .clone()
        .map_or_else(|| Ok::<_, anyhow::Error>(target_directory()?.join("bench/packets.json")), Ok)?;
    let object = harness::object(args.harness.as_deref())?;
    let built = match &args.prototype {
        Some(checkout) => Some(prototype::Built::of(checkout, &target_directory()?.join("bench"))?),
        None => None,
    };
    let sandbox = Sandbox::enter()?;
    let site = Site::build(&sandbox)?;
    if let Some(built) = &built {
        built.load(&site.node)?;
    }
    eprintln!("loading {} services", args.services);
    let mut misses = 0;
    let (samples, own) = site.node.enter(|| -> Result<_> {
        pin_to(PROCESSOR)?;
        let carrier = Carrier::load(args.services, args.capacity)?;
        let measured = measure(args, &object, &carrier, built.as_ref(), &mut misses);
        carrier.uninstall()?;
        measured
    })??;
    let report = Report::new(&samples, &own, args)?;
    println!("{report}");
    write_report(&file, &report)?;
    ensure!(misses == 0, "{misses} packets did not end as they should have: see above");
    Ok(())
}

fn measure(
    args: &Args,
    object: &[u8],
    carrier: &Carrier,
    built: Option<&prototype::Built>,
    misses: &mut u64,
) -> Result<(Samples, OwnLines)> {
    let loaded = built.map(|_| prototype::Loaded::find()).transpose()?;
    let mut cases = cases(args, object, carrier, loaded.as_ref())?;
    let counted = |counted: Counted| match (counted, &loaded) {
        (Counted::Evenkeel(outcome), _) => carrier.counted(outcome),
        (Counted::Prototype(counter), Some(loaded)) => loaded.counted(counter),
        _ => Ok(0),
    };
    if !args.empty {
        // A balancer that has run for a while has no free entries left but those it gives up something for. Packets that are
        // not counted: whether they all find a place is not the question here.
        for case in cases.iter_mut().filter(|case| case.key.traffic == Some(Traffic::New)) {
            case.feeder.feed(args.capacity.max(prototype::CAPACITY) / 2 * 3)?;
        }
    }
    let mut samples = Samples::new();
    let mut own = OwnLines::new();
    let count = cases.len();
    let interface = interface_index(site::UPLINK)?;
    for round in 0..args.rounds {
        eprintln!("round {} of {}: {count} cases", round + 1, args.rounds);
        for position in 0..count {
            let case = &mut cases[(position + round as usize * 7) % count];
            for (feeder, flows) in &mut case.before {
                feeder.rewind(0)?;
                feeder.feed(*flows)?;
            }
            if case.rewinds {
                case.feeder.rewind(0)?;
            }
            let before = counted(case.counted)?;
            let all = carrier.counters()?;
            let sample = case.feeder.feed(case.packets)?;
            let delta = counted(case.counted)? - before;
            let missed = u64::from(case.packets).saturating_sub(delta);
            if !matches!(case.counted, Counted::Nowhere) && missed > 0 {
                let others: Vec<String> = carrier
                    .counters()?
                    .iter()
                    .zip(all)
                    .filter(|(after, before)| after.1 != before.1)
                    .map(|(after, before)| format!("{} {}", after.0.name(), after.1 - before.1))
                    .collect();
                let what =
                    format!("{:?}: {missed} packets were not {:?}: {}", case.key, case.counted, others.join(", "));
                // A figure of something else altogether.
                ensure!(missed <= u64::from(case.packets) / 100, what);
                eprintln!("{what}");
                *misses += missed;
            }
            samples.entry(case.key).or_default().push(sample);
        }
        // Spread over the run, as far as it is long enough.
        if let Some(built) = built
            && (round * OWN_BENCHES) % args.rounds < OWN_BENCHES
        {
            own.push(built.bench(interface)?);
        }
    }
    Ok((samples, own))
}

fn cases(args: &Args, object: &[u8], carrier: &Carrier, loaded: Option<&prototype::Loaded>) -> Result<Vec<Case>> {
    let uplink = evenkeel_loader::Interface::look_up(site::UPLINK)?;
    let macs = site::arriving(uplink.mac);
    let many = 1 << MANY;
    let mut cases = Vec::new();
    // Every case with new flows has clients of its own.
    let mut blocks = 2..128_u8;
    let mut add = |key: Key, target: Option<&ProgramFd>, to: SocketAddr, counted| -> Result<()> {
        // The two services have the same backends: the same client port at both would be one reply tuple too few.
        let established = site::client_block(key.family, u8::from(key.forwarding == Some(Forwarding::Stack)));
        let varying = if key.traffic == Some(Traffic::PassMany) { Varying::Destination } else { Varying::Source };
        let feeder = |from, segment, bits| -> Result<Feeder> {
            let frame = Frame::new(macs, from, to, segment, varying)?;
            Feeder::new(object, key.hook, &frame, bits, uplink.index, target)
        };
        let (segment, bits, packets) = match key.traffic {
            None | Some(Traffic::Pass) => (Segment::Ack, 0, many * args.cycles),
            Some(Traffic::PassMany) => (Segment::Ack, EVERYWHERE, many * args.cycles),
            Some(Traffic::HitOne) => (Segment::Ack, 0, many * args.cycles),
            Some(Traffic::HitMany) => (Segment::Ack, MANY, many * args.cycles),
            Some(Traffic::HitManyUdp) => (Segment::Udp, MANY, many * args.cycles),
            Some(Traffic::New) => (Segment::Syn, ENDLESS, args.new_flows),
        };
        let is_new = key.traffic == Some(Traffic::New);
        let from = if varying == Varying::Destination {
            site::somebody(key.family)
        } else if is_new {
            site::client_block(key.family, blocks.next().context("too many cases")?)
        } else {
            established
        };
        let mut before = Vec::new();
        match key.traffic {
            Some(Traffic::HitOne | Traffic::HitMany) => {
                before.push((feeder(from, Segment::Syn, bits)?, 1 << bits));
                before.push((feeder(from, Segment::Ack, bits)?, 1 << bits));
            }
            Some(Traffic::HitManyUdp) => before.push((feeder(from, Segment::Udp, bits)?, 1 << bits)),
            _ => {}
        }
        let feeder = feeder(from, segment, bits)?;
        cases.push(Case { key, counted, before, feeder, packets, rewinds: !is_new });
        Ok(())
    };
    let hooks = args.hook.map_or(vec![Hook::Xdp, Hook::Tc], |hook| vec![hook]);
    let families = args.family.map_or(vec![Family::Ipv4, Family::Ipv6], |family| vec![family]);
    for hook in hooks {
        for family in families.iter().copied() {
            let key = Key { hook, family, traffic: None, forwarding: None, subject: Subject::Harness };
            add(key, None, carrier::service(family, Forwarding::Direct), Counted::Nowhere)?;
        }
        let program = carrier.program(hook)?;
        for family in families.iter().copied() {
            let key = |traffic, forwarding| Key {
                hook,
                family,
                traffic: Some(traffic),
                forwarding,
                subject: Subject::Evenkeel,
            };
            for (traffic, to) in
                [(Traffic::Pass, site::nobody(family)), (Traffic::PassMany, site::nobody_of_many(family))]
            {
                add(key(traffic, None), Some(&program), to, Counted::Evenkeel(Outcome::PassNotVip))?;
            }
            for forwarding in [Forwarding::Direct, Forwarding::Stack] {
                let to = carrier::service(family, forwarding);
                let (hit, new) = match forwarding {
                    Forwarding::Direct => (Outcome::ForwardFlow, Outcome::ForwardNew),
                    Forwarding::Stack => (Outcome::StackFlow, Outcome::StackNew),
                };
                for traffic in [Traffic::HitOne, Traffic::HitMany, Traffic::HitManyUdp] {
                    add(key(traffic, Some(forwarding)), Some(&program), to, Counted::Evenkeel(hit))?;
                }
                add(key(Traffic::New, Some(forwarding)), Some(&program), to, Counted::Evenkeel(new))?;
            }
        }
    }
    if let Some(loaded) = loaded {
        for (traffic, counter, to) in [
            (Traffic::Pass, prototype::Counter::Pass, site::nobody(Family::Ipv4)),
            (Traffic::PassMany, prototype::Counter::Pass, site::nobody_of_many(Family::Ipv4)),
            (Traffic::HitOne, prototype::Counter::Hit, prototype::vip()),
            (Traffic::HitMany, prototype::Counter::Hit, prototype::vip()),
            (Traffic::New, prototype::Counter::New, prototype::vip()),
        ] {
            let forwarding = (!traffic.passes()).then_some(Forwarding::Direct);
            let key = Key {
                hook: Hook::Xdp,
                family: Family::Ipv4,
                traffic: Some(traffic),
                forwarding,
                subject: Subject::Prototype,
            };
            add(key, Some(&loaded.program), to, Counted::Prototype(counter))?;
        }
    }
    for case in &mut cases {
        let frame = case.feeder.feed_one()?;
        harness::check(&frame).with_context(|| format!("{:?}: what came out is no good", case.key))?;
    }
    Ok(cases)
}

/// Nanoseconds of a case, net of the harness, by rounds.
fn net(samples: &Samples, key: Key) -> Option<Vec<f64>> {
    let harness = Key { traffic: None, forwarding: None, subject: Subject::Harness, ..key };
    let (gross, harness) = (samples.get(&key)?, samples.get(&harness)?);
    Some(gross.iter().zip(harness).map(|(gross, harness)| gross - harness).collect())
}

/// The prototype's case that this one is compared with: it has XDP, IPv4, TCP and direct forwarding only.
fn compared(key: Key) -> Key {
    let traffic = match key.traffic {
        Some(Traffic::HitManyUdp) => Some(Traffic::HitMany),
        other => other,
    };
    let forwarding = traffic.filter(|traffic| !traffic.passes()).map(|_| Forwarding::Direct);
    Key { hook: Hook::Xdp, family: Family::Ipv4, traffic, forwarding, subject: Subject::Prototype }
}

/// What the prototype's own benchmark says of the same traffic, net of its own harness. It has no line for new flows.
fn own_net(own: &OwnLines, traffic: Traffic) -> Option<f64> {
    let (line, baseline) = match traffic {
        Traffic::Pass => ("xdp non-service pass", "xdp_pass (baseline)"),
        Traffic::HitOne => ("fwd CT hit, 1 flow", "harness only"),
        Traffic::HitMany | Traffic::HitManyUdp => ("fwd CT hit, 65536 flows", "harness only"),
        Traffic::New | Traffic::PassMany => return None,
    };
    median(own.iter().filter_map(|lines| Some(lines.get(line)? - lines.get(baseline)?)))
}
