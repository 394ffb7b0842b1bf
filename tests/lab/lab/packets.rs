//! The real object, one packet at a time, by BPF test-run, where what matters is not one packet (those are in
//! `tests/packets`): how flows spread, what is counted, which slots are in use.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddrV4},
    time::Instant,
};

use anyhow::ensure;
use evenkeel_lab::{
    Sandbox,
    topology::{CLIENT, POD_BRIDGE, Standard, UPLINK},
};
use evenkeel_loader::{BackendSpec, DataPath, FrontendSpec, Interface, Options, Others, Program, State};
use evenkeel_maps::{FrontendKey, Outcome, TCP, UDP, Verdict, Vip};

use crate::{
    Test,
    frames::{self, Macs},
    world::eventually,
};

pub(crate) const TESTS: &[Test] = &[
    ("packets::a_syn_goes_to_a_backend_and_its_flow_stays_there", a_syn_goes_to_a_backend_and_its_flow_stays_there),
    ("packets::a_backend_that_is_gone_keeps_tcp_and_loses_udp", a_backend_that_is_gone),
    ("packets::the_same_client_port_to_two_frontends_meets_two_backends", the_same_client_port_to_two_frontends),
    ("packets::source_affinity_ignores_ports", source_affinity_ignores_ports),
];

/// The interface the packets are said to come from.
const QUIET: &str = "quiet";
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

/// A node with the object loaded and two backends it can reach.
pub(crate) struct Bench {
    pub(crate) data_path: DataPath,
    pub(crate) uplink: Interface,
    pub(crate) backends: Vec<Ipv4Addr>,
    /// From the client to the node's uplink.
    pub(crate) macs: Macs,
}

/// What happened to a packet.
pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    pub(crate) frame: Vec<u8>,
}

impl Bench {
    pub(crate) fn ingress(&mut self, frame: &[u8]) -> anyhow::Result<Ran> {
        self.run(Program::Ingress, frame)
    }

    pub(crate) fn run(&mut self, program: Program, frame: &[u8]) -> anyhow::Result<Ran> {
        let before = self.data_path.counters()?;
        let (verdict, frame) = self.data_path.run_once(program, self.uplink.index, frame)?;
        let after = self.data_path.counters()?;
        let counted: Vec<(Outcome, u64)> = before
            .iter()
            .zip(&after)
            .filter(|(before, after)| before.1 != after.1)
            .map(|(before, after)| (after.0, after.1 - before.1))
            .collect();
        ensure!(counted.len() == 1 && counted[0].1 == 1, "one packet was counted as {counted:?}");
        let outcome = counted[0].0;
        let expected = match outcome.verdict() {
            Verdict::Pass => -1,
            Verdict::Redirect => 7,
            Verdict::Drop => 2,
        };
        ensure!(verdict == expected, "{outcome:?} came with verdict {verdict}");
        Ok(Ran { outcome, frame })
    }

    pub(crate) fn frontend(&mut self, key: FrontendKey, direct: bool, states: &[State]) -> anyhow::Result<()> {
        let backends: Vec<BackendSpec> = self
            .backends
            .iter()
            .zip(states)
            .map(|(address, state)| BackendSpec::new(SocketAddrV4::new(*address, 8080).into(), *state))
            .collect();
        let active: Vec<u32> =
            (0_u32..).zip(states).filter(|(_, state)| **state == State::Active).map(|(index, _)| index).collect();
        let table = (0..251).filter_map(|slot| active.get(slot % active.len().max(1)).copied()).collect();
        self.apply(&[FrontendSpec { key, source_affinity: false, direct, backends, table, ..FrontendSpec::new(key) }])
    }

    /// All backends, taking new flows.
    fn active_backends(&self) -> Vec<BackendSpec> {
        self.backends
            .iter()
            .map(|address| BackendSpec::new(SocketAddrV4::new(*address, 8080).into(), State::Active))
            .collect()
    }

    pub(crate) fn apply(&mut self, specs: &[FrontendSpec]) -> anyhow::Result<()> {
        let failures = self.data_path.set_frontends(specs, Others::Remove, Instant::now());
        ensure!(failures.is_empty(), "{failures:?}");
        Ok(())
    }

    fn own(&mut self, answer_on: u32) -> anyhow::Result<()> {
        Ok(self.data_path.set_vips(&HashMap::from([(VIP.into(), Vip { answer_on })]), Others::Remove)?)
    }

    /// Sends a first packet from `port` and tells which backend got it.
    pub(crate) fn pick(&mut self, protocol: u8, port: u16, sequence: u32) -> anyhow::Result<SocketAddrV4> {
        let ran = self.ingress(&self.first_packet(protocol, port, sequence))?;
        ensure!(matches!(ran.outcome, Outcome::ForwardNew | Outcome::ForwardFlow), "{:?}", ran.outcome);
        Ok(frames::read(&ran.frame)?.destination)
    }

    pub(crate) fn first_packet(&self, protocol: u8, port: u16, sequence: u32) -> Vec<u8> {
        if protocol == TCP {
            frames::tcp(self.macs, client(port), vip(80), sequence, "S")
        } else {
            frames::udp(self.macs, client(port), vip(80), b"question")
        }
    }
}

pub(crate) fn key(port: u16, protocol: u8) -> FrontendKey {
    FrontendKey::new(VIP, port, protocol)
}

pub(crate) fn client(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(CLIENT, port)
}

pub(crate) fn vip(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(VIP, port)
}

/// Builds the lab and runs `test` inside the node with an owned VIP and nothing else.
pub(crate) fn bench(
    sandbox: &Sandbox,
    test: impl FnOnce(&mut Bench) -> anyhow::Result<()> + Send,
) -> anyhow::Result<()> {
    let lab = Standard::with_backends(sandbox, 2)?;
    let backends: Vec<Ipv4Addr> = lab.backends().iter().map(|backend| backend.address).collect();
    // An interface that is down sees no packets but the test's.
    lab.node.ip(["link", "add", QUIET, "type", "veth", "peer", "name", "quiet-peer"])?;
    // The node knows its neighbours, so that no outcome depends on resolution.
    for (address, interface) in
        [(CLIENT, UPLINK)].into_iter().chain(backends.iter().map(|backend| (*backend, POD_BRIDGE)))
    {
        let address = address.to_string();
        lab.node.ip(["neigh", "replace", &address, "lladdr", "02:00:00:00:00:01", "dev", interface])?;
    }
    lab.node.enter(|| {
        let uplink = Interface::look_up(QUIET)?;
        let mut data_path = DataPath::open(&Options::new("node", 7))?;
        data_path.attach(std::slice::from_ref(&uplink))?;
        let macs = Macs([2, 0, 0, 0, 0, 1], uplink.mac);
        let mut bench = Bench { data_path, uplink, backends, macs };
        bench.own(1)?;
        test(&mut bench)?;
        bench.data_path.uninstall()?;
        Ok(())
    })?
}

fn a_syn_goes_to_a_backend_and_its_flow_stays_there(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        bench.frontend(key(80, TCP), true, &[State::Active, State::Active])?;
        let mut picked = HashMap::new();
        for port in 40_000..40_064 {
            let syn = bench.ingress(&frames::tcp(bench.macs, client(port), vip(80), 1, "S"))?;
            ensure!(syn.outcome == Outcome::ForwardNew, "{:?}", syn.outcome);
            let seen = frames::read(&syn.frame)?;
            ensure!(seen.source == client(port), "the client's address is preserved");
            ensure!(seen.ttl == 63, "the hop is counted");
            ensure!(seen.payload == b"payload");
            let data = bench.ingress(&frames::tcp(bench.macs, client(port), vip(80), 2, "A"))?;
            ensure!(data.outcome == Outcome::ForwardFlow, "{:?}", data.outcome);
            ensure!(frames::read(&data.frame)?.destination == seen.destination);
            *picked.entry(seen.destination).or_insert(0) += 1;
        }
        ensure!(picked.len() == 2 && picked.values().all(|count| *count > 10), "uneven: {picked:?}");
        Ok(())
    })
}

fn a_backend_that_is_gone(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        for (protocol, stays) in [(TCP, true), (UDP, false)] {
            bench.frontend(key(80, protocol), true, &[State::Active])?;
            let old = bench.pick(protocol, 1, 1)?;
            let other = bench.backends[1];
            bench.apply(&[FrontendSpec {
                key: key(80, protocol),
                source_affinity: false,
                direct: true,
                backends: vec![BackendSpec::new(SocketAddrV4::new(other, 8080).into(), State::Active)],
                table: vec![0; 251],
                ..FrontendSpec::new(key(0, TCP))
            }])?;
            let next = if protocol == TCP {
                frames::tcp(bench.macs, client(1), vip(80), 2, "A")
            } else {
                bench.first_packet(UDP, 1, 0)
            };
            let destination = frames::read(&bench.ingress(&next)?.frame)?.destination;
            ensure!((destination == old) == stays, "protocol {protocol} went to {destination}");
            // A live flow keeps the tombstone; a while after it is reset the slot is freed and the flow forgotten.
            bench.data_path.reap();
            let tombstones = |bench: &Bench| {
                bench.data_path.tombstones().iter().filter(|(frontend, _)| frontend.protocol == protocol).count()
            };
            ensure!(tombstones(bench) == usize::from(stays));
            if stays {
                bench.ingress(&frames::tcp(bench.macs, client(1), vip(80), 3, "RA"))?;
                bench.data_path.reap();
                ensure!(tombstones(bench) == 1, "a reset that may be forged has taken the backend away");
                eventually("the slot is freed", || {
                    bench.data_path.reap();
                    Ok((tombstones(bench) == 0).then_some(()))
                })?;
                let late = bench.ingress(&frames::tcp(bench.macs, client(1), vip(80), 4, "A"))?;
                ensure!(late.outcome == Outcome::ForwardMidstream, "{:?}", late.outcome);
            }
        }
        Ok(())
    })
}

fn the_same_client_port_to_two_frontends(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        let backends = bench.active_backends();
        let table: Vec<u32> = (0..251).map(|slot| slot % 2).collect();
        let spec = |port| FrontendSpec {
            key: key(port, TCP),
            source_affinity: false,
            direct: true,
            backends: backends.clone(),
            table: table.clone(),
            ..FrontendSpec::new(key(0, TCP))
        };
        bench.apply(&[spec(80), spec(81), spec(82)])?;
        for port in 1000..1032 {
            let mut destinations = Vec::new();
            for frontend in [80, 81] {
                let ran = bench.ingress(&frames::tcp(bench.macs, client(port), vip(frontend), 1, "S"))?;
                // Four tries can miss the free one of two backends; then the packet is refused, not misrouted.
                match ran.outcome {
                    Outcome::ForwardNew => destinations.push(frames::read(&ran.frame)?.destination),
                    Outcome::DropTupleInUse => {}
                    other => anyhow::bail!("{other:?}"),
                }
            }
            ensure!(destinations.len() < 2 || destinations[0] != destinations[1], "replies could not be told apart");
            if destinations.len() == 2 {
                let third = bench.ingress(&frames::tcp(bench.macs, client(port), vip(82), 1, "S"))?;
                ensure!(third.outcome == Outcome::DropTupleInUse, "{:?}", third.outcome);
            }
        }
        Ok(())
    })
}

fn source_affinity_ignores_ports(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        let backends = bench.active_backends();
        let table = (0..251).map(|slot| slot % 2).collect();
        bench.apply(&[FrontendSpec {
            key: key(80, TCP),
            source_affinity: true,
            direct: true,
            backends,
            table,
            ..FrontendSpec::new(key(0, TCP))
        }])?;
        let first = bench.pick(TCP, 1, 1)?;
        for port in 2..40 {
            ensure!(bench.pick(TCP, port, 1)? == first);
        }
        Ok(())
    })
}
