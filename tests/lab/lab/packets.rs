//! The real object, one packet at a time, by BPF test-run: what goes in, the verdict, the counted outcome and the frame
//! that comes out.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::ensure;
use evenkeel_lab::{
    Sandbox,
    topology::{CLIENT, POD_BRIDGE, Standard, UPLINK},
};
use evenkeel_loader::{BackendSpec, DataPath, Direction, FrontendSpec, Interface, Options, Others, State};
use evenkeel_maps::{FrontendKey, Outcome, TCP, UDP, Verdict, Vip};

use crate::{
    Test,
    frames::{self, Macs},
};

pub(crate) const TESTS: &[Test] = &[
    ("packets::a_syn_goes_to_a_backend_and_its_flow_stays_there", a_syn_goes_to_a_backend_and_its_flow_stays_there),
    ("packets::the_reply_carries_the_vip", the_reply_carries_the_vip),
    ("packets::stack_forwarding_leaves_routing_to_the_kernel", stack_forwarding_leaves_routing_to_the_kernel),
    ("packets::datagrams_keep_a_checksum_of_zero", datagrams_keep_a_checksum_of_zero),
    ("packets::ip_options_are_no_obstacle", ip_options_are_no_obstacle),
    ("packets::a_draining_backend_keeps_its_flows_and_gets_no_new_ones", a_draining_backend_keeps_its_flows),
    ("packets::a_drained_exchange_moves_on_and_a_session_stays", a_drained_exchange_moves_on_and_a_session_stays),
    ("packets::a_backend_that_is_gone_keeps_tcp_and_loses_udp", a_backend_that_is_gone),
    ("packets::a_retransmitted_syn_does_not_pick_again_and_a_new_one_does", a_retransmitted_syn),
    ("packets::the_same_client_port_to_two_frontends_meets_two_backends", the_same_client_port_to_two_frontends),
    ("packets::source_affinity_ignores_ports", source_affinity_ignores_ports),
    ("packets::arp_is_answered_for_owned_vips_only", arp_is_answered_for_owned_vips_only),
    ("packets::ping_is_answered", ping_is_answered),
    ("packets::what_cannot_be_served_is_dropped_with_a_reason", what_cannot_be_served),
    ("packets::what_is_not_ours_passes_untouched", what_is_not_ours_passes),
    ("packets::every_packet_is_counted_once", every_packet_is_counted_once),
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
        self.run(Direction::Ingress, frame)
    }

    pub(crate) fn run(&mut self, direction: Direction, frame: &[u8]) -> anyhow::Result<Ran> {
        let before = self.data_path.counters()?;
        let (verdict, frame) = self.data_path.run_once(direction, self.uplink.index, frame)?;
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
            .map(|(address, state)| BackendSpec { address: SocketAddrV4::new(*address, 8080), state: *state })
            .collect();
        let active: Vec<u32> =
            (0_u32..).zip(states).filter(|(_, state)| **state == State::Active).map(|(index, _)| index).collect();
        let table = (0..251).filter_map(|slot| active.get(slot % active.len().max(1)).copied()).collect();
        self.apply(&[FrontendSpec { key, source_affinity: false, direct, backends, table }])
    }

    /// All backends, taking new flows.
    fn active_backends(&self) -> Vec<BackendSpec> {
        self.backends
            .iter()
            .map(|address| BackendSpec { address: SocketAddrV4::new(*address, 8080), state: State::Active })
            .collect()
    }

    pub(crate) fn apply(&mut self, specs: &[FrontendSpec]) -> anyhow::Result<()> {
        let failures = self.data_path.set_frontends(specs, Others::Remove, Instant::now());
        ensure!(failures.is_empty(), "{failures:?}");
        Ok(())
    }

    fn own(&mut self, answer_on: u32) -> anyhow::Result<()> {
        Ok(self.data_path.set_vips(&HashMap::from([(VIP, Vip { answer_on })]), Others::Remove)?)
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
    FrontendKey { address: VIP.octets(), port: port.to_be_bytes(), protocol, pad: 0 }
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

fn the_reply_carries_the_vip(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        for (direct, protocol, port) in [(true, TCP, 1), (true, UDP, 2), (false, TCP, 3), (false, UDP, 4)] {
            bench.frontend(key(80, protocol), direct, &[State::Active])?;
            let first = bench.first_packet(protocol, port, 1);
            bench.ingress(&first)?;
            let backend = SocketAddrV4::new(bench.backends[0], 8080);
            let reply = if protocol == TCP {
                frames::tcp(bench.macs, backend, client(port), 9, "SA")
            } else {
                frames::udp(bench.macs, backend, client(port), b"answer")
            };
            let out = bench.run(Direction::Egress, &reply)?;
            ensure!(out.outcome == Outcome::ReplyRestored, "{:?}", out.outcome);
            let seen = frames::read(&out.frame)?;
            ensure!(seen.source == vip(80) && seen.destination == client(port), "{seen:?}");
            ensure!(seen.ttl == 64, "the kernel counts this hop");

            // Met at ingress: sent on at once in direct forwarding, left to the kernel in stack forwarding.
            let arrived = bench.ingress(&reply)?;
            if direct {
                ensure!(arrived.outcome == Outcome::ReplyDirect, "{:?}", arrived.outcome);
                ensure!(frames::read(&arrived.frame)?.source == vip(80));
            } else {
                ensure!(arrived.outcome == Outcome::PassNotVip, "{:?}", arrived.outcome);
                ensure!(arrived.frame == reply, "untouched");
            }
        }
        Ok(())
    })
}

fn stack_forwarding_leaves_routing_to_the_kernel(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        bench.frontend(key(80, TCP), false, &[State::Active])?;
        let syn = bench.ingress(&bench.first_packet(TCP, 1, 1))?;
        ensure!(syn.outcome == Outcome::StackNew, "{:?}", syn.outcome);
        let seen = frames::read(&syn.frame)?;
        ensure!(seen.destination == SocketAddrV4::new(bench.backends[0], 8080) && seen.ttl == 64, "{seen:?}");
        let data = bench.ingress(&frames::tcp(bench.macs, client(1), vip(80), 2, "A"))?;
        ensure!(data.outcome == Outcome::StackFlow, "{:?}", data.outcome);
        Ok(())
    })
}

fn datagrams_keep_a_checksum_of_zero(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        bench.frontend(key(80, UDP), true, &[State::Active])?;
        let mut datagram = bench.first_packet(UDP, 1, 0);
        datagram[40..42].fill(0);
        let ran = bench.ingress(&datagram)?;
        ensure!(ran.frame[40..42] == [0, 0], "a checksum appeared: {:?}", &ran.frame[40..42]);
        ensure!(frames::read(&ran.frame)?.payload == b"question");
        Ok(())
    })
}

fn ip_options_are_no_obstacle(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        bench.frontend(key(80, UDP), true, &[State::Active])?;
        let builder = etherparse::PacketBuilder::ethernet2(bench.macs.0, bench.macs.1);
        let mut header = etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, CLIENT.octets(), VIP.octets())?;
        // Four no-operation options.
        header.options = [1, 1, 1, 1].into();
        let builder = builder.ip(etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()));
        let mut frame = Vec::new();
        builder.udp(5, 80).write(&mut frame, b"question")?;
        let ran = bench.ingress(&frame)?;
        ensure!(ran.outcome == Outcome::ForwardNew, "{:?}", ran.outcome);
        let seen = frames::read(&ran.frame)?;
        ensure!(seen.destination.port() == 8080 && seen.payload == b"question", "{seen:?}");
        Ok(())
    })
}

fn a_draining_backend_keeps_its_flows(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        for protocol in [TCP, UDP] {
            bench.frontend(key(80, protocol), true, &[State::Active])?;
            let old = bench.pick(protocol, 1, 1)?;
            bench.frontend(key(80, protocol), true, &[State::Drain, State::Active])?;
            let established = if protocol == TCP {
                frames::tcp(bench.macs, client(1), vip(80), 2, "A")
            } else {
                bench.first_packet(UDP, 1, 0)
            };
            let ran = bench.ingress(&established)?;
            ensure!(ran.outcome == Outcome::ForwardFlow, "{:?}", ran.outcome);
            ensure!(frames::read(&ran.frame)?.destination == old);
            for port in 2..40 {
                ensure!(bench.pick(protocol, port, 1)? != old, "a new flow went to the draining backend");
            }
        }
        Ok(())
    })
}

fn a_drained_exchange_moves_on_and_a_session_stays(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        bench.frontend(key(80, UDP), true, &[State::Active])?;
        let old = bench.pick(UDP, 1, 0)?;
        for _ in 0..evenkeel_maps::UDP_SESSION_DATAGRAMS {
            bench.pick(UDP, 2, 0)?;
        }
        bench.frontend(key(80, UDP), true, &[State::Drain, State::Active])?;
        ensure!(bench.pick(UDP, 1, 0)? == old, "the exchange is still going on");
        // Longer than an exchange's pause, far shorter than a session's.
        std::thread::sleep(Duration::from_nanos(evenkeel_maps::UDP_EXCHANGE_IDLE_NS + 100_000_000));
        ensure!(bench.pick(UDP, 1, 0)? != old, "a new question went to the draining backend");
        ensure!(bench.pick(UDP, 2, 0)? == old, "the session was broken");
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
                backends: vec![BackendSpec { address: SocketAddrV4::new(other, 8080), state: State::Active }],
                table: vec![0; 251],
            }])?;
            let next = if protocol == TCP {
                frames::tcp(bench.macs, client(1), vip(80), 2, "A")
            } else {
                bench.first_packet(UDP, 1, 0)
            };
            let destination = frames::read(&bench.ingress(&next)?.frame)?.destination;
            ensure!((destination == old) == stays, "protocol {protocol} went to {destination}");
            // A live flow keeps the tombstone; once it is closed, the slot is freed and the flow is stale.
            bench.data_path.reap()?;
            ensure!(bench.data_path.tombstones().len() == usize::from(stays));
            if stays {
                bench.ingress(&frames::tcp(bench.macs, client(1), vip(80), 3, "RA"))?;
                bench.data_path.reap()?;
                ensure!(bench.data_path.tombstones().is_empty());
                let late = bench.ingress(&frames::tcp(bench.macs, client(1), vip(80), 4, "A"))?;
                ensure!(late.outcome == Outcome::DropBackendGone, "{:?}", late.outcome);
            }
        }
        Ok(())
    })
}

fn a_retransmitted_syn(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        // One backend takes new flows at first, then only the other: whoever picks again shows it.
        bench.frontend(key(80, TCP), true, &[State::Active, State::Drain])?;
        let old = bench.pick(TCP, 1, 100)?;
        bench.frontend(key(80, TCP), true, &[State::Drain, State::Active])?;
        ensure!(bench.pick(TCP, 1, 100)? == old, "the retransmission was sent elsewhere");
        ensure!(bench.pick(TCP, 1, 101)? != old, "a new connection met the stale flow");
        // Unless the backend is down: then even a retransmission picks again.
        bench.frontend(key(80, TCP), true, &[State::Active, State::Down])?;
        ensure!(bench.pick(TCP, 1, 101)? == old);
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
        bench.apply(&[FrontendSpec { key: key(80, TCP), source_affinity: true, direct: true, backends, table }])?;
        let first = bench.pick(TCP, 1, 1)?;
        for port in 2..40 {
            ensure!(bench.pick(TCP, port, 1)? == first);
        }
        Ok(())
    })
}

fn arp_is_answered_for_owned_vips_only(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        let sender = ([2, 0, 0, 0, 0, 1], CLIENT);
        let request = frames::arp_request(sender, VIP);
        let ran = bench.ingress(&request)?;
        ensure!(ran.outcome == Outcome::ArpAnswered, "{:?}", ran.outcome);
        let (reply, destination) = frames::read_arp(&ran.frame)?;
        ensure!(reply.operation == etherparse::ArpOperation::REPLY);
        ensure!(reply.sender_mac == bench.uplink.mac && reply.sender_ipv4 == VIP.octets(), "{reply:?}");
        ensure!(reply.target_mac == sender.0 && reply.target_ipv4 == CLIENT.octets(), "{reply:?}");
        ensure!(destination == sender.0);

        // RFC 5227: a probe has no sender address yet, and the VIP is defended against it.
        let probe = bench.ingress(&frames::arp_request((sender.0, Ipv4Addr::UNSPECIFIED), VIP))?;
        ensure!(probe.outcome == Outcome::ArpAnswered, "{:?}", probe.outcome);
        let claim = bench.ingress(&frames::arp_request((sender.0, VIP), VIP))?;
        ensure!(claim.outcome == Outcome::ArpConflict, "{:?}", claim.outcome);

        let other = bench.ingress(&frames::arp_request(sender, Ipv4Addr::new(10, 77, 0, 2)))?;
        ensure!(other.outcome == Outcome::PassArp, "{:?}", other.outcome);
        // Carried but not owned, or owned on another interface.
        for answer_on in [0, 2] {
            bench.own(answer_on)?;
            let silent = bench.ingress(&request)?;
            ensure!(silent.outcome == Outcome::PassArp && silent.frame == request, "{:?}", silent.outcome);
        }
        Ok(())
    })
}

fn ping_is_answered(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        let ran = bench.ingress(&frames::echo_request(bench.macs, CLIENT, VIP, b"are you there"))?;
        ensure!(ran.outcome == Outcome::EchoAnswered, "{:?}", ran.outcome);
        let packet = etherparse::PacketHeaders::from_ethernet_slice(&ran.frame)?;
        let Some(etherparse::NetHeaders::Ipv4(ip, _)) = packet.net else { anyhow::bail!("not IPv4") };
        ensure!(ip.source == VIP.octets() && ip.destination == CLIENT.octets());
        ensure!(ip.calc_header_checksum() == ip.header_checksum);
        let Some(etherparse::TransportHeader::Icmpv4(icmp)) = packet.transport else { anyhow::bail!("not ICMP") };
        ensure!(matches!(icmp.icmp_type, etherparse::Icmpv4Type::EchoReply(echo) if echo.id == 7 && echo.seq == 1));
        ensure!(icmp.icmp_type.calc_checksum(packet.payload.slice()) == icmp.checksum, "the ICMP checksum is wrong");
        Ok(())
    })
}

fn what_cannot_be_served(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        let expect = |bench: &mut Bench, frame: &[u8], outcome: Outcome| {
            let ran = bench.ingress(frame)?;
            ensure!(ran.outcome == outcome, "{:?} instead of {outcome:?}", ran.outcome);
            Ok(())
        };
        let syn = bench.first_packet(TCP, 1, 1);
        expect(bench, &syn, Outcome::DropNoFrontend)?;
        bench.frontend(key(80, TCP), true, &[State::Down])?;
        expect(bench, &syn, Outcome::DropNoBackend)?;
        bench.frontend(key(80, TCP), true, &[State::Active])?;
        let last_hop = frames::tcp_ttl(bench.macs, client(1), vip(80), 1, "S", 1);
        expect(bench, &last_hop, Outcome::DropTtl)?;
        let mut fragment = bench.first_packet(TCP, 2, 1);
        fragment[20] = 0x20;
        expect(bench, &fragment, Outcome::DropFragment)?;
        let mut other = bench.first_packet(TCP, 2, 1);
        other[23] = 132;
        expect(bench, &other, Outcome::DropProtocol)?;
        let mut short = bench.first_packet(TCP, 2, 1);
        short.truncate(14 + 20 + 12);
        expect(bench, &short, Outcome::DropMalformed)
    })
}

fn what_is_not_ours_passes(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        bench.frontend(key(80, TCP), true, &[State::Active])?;
        let elsewhere = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 2), 80);
        let mut frames = vec![
            (frames::tcp(bench.macs, client(1), elsewhere, 1, "S"), Outcome::PassNotVip),
            // A switch that floods unknown addresses: another node's frame must not be served twice.
            (frames::tcp(Macs(bench.macs.0, [2, 9, 9, 9, 9, 9]), client(1), vip(80), 1, "S"), Outcome::PassOtherHost),
        ];
        let mut ipv6 = frames::tcp(bench.macs, client(1), vip(80), 1, "S");
        ipv6[12..14].copy_from_slice(&[0x86, 0xdd]);
        frames.push((ipv6, Outcome::PassNotIpv4));
        let mut malformed = frames::tcp(bench.macs, client(1), vip(80), 1, "S");
        malformed[14] = 0x43;
        frames.push((malformed, Outcome::PassMalformed));
        for (frame, outcome) in frames {
            let ran = bench.ingress(&frame)?;
            ensure!(ran.outcome == outcome && ran.frame == frame, "{:?} instead of {outcome:?}", ran.outcome);
        }
        let leaving = frames::tcp(bench.macs, SocketAddrV4::new(bench.backends[0], 8080), client(9), 1, "A");
        let ran = bench.run(Direction::Egress, &leaving)?;
        ensure!(ran.outcome == Outcome::PassEgress && ran.frame == leaving, "{:?}", ran.outcome);
        Ok(())
    })
}

/// Arbitrary packets: each is counted exactly once (`run` checks that), and none comes out with another length.
fn every_packet_is_counted_once(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        bench.frontend(key(80, TCP), true, &[State::Active, State::Active])?;
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random.to_le_bytes()
        };
        for round in 0..20_000_u16 {
            let mut frame = match round % 3 {
                0 => bench.first_packet(TCP, 30_000 + round, 1),
                1 => frames::arp_request(([2, 0, 0, 0, 0, 1], CLIENT), VIP),
                _ => frames::echo_request(bench.macs, CLIENT, VIP, b"x"),
            };
            for _ in 0..next()[0] % 4 {
                let [place, value, ..] = next();
                let place = 14 + usize::from(place) % (frame.len() - 14);
                frame[place] = value;
            }
            // The kernel refuses test frames that end within the IP header.
            frame.truncate(34.max(frame.len() - usize::from(next()[0] % 32)));
            let direction = if next()[0] % 2 == 0 { Direction::Ingress } else { Direction::Egress };
            let ran = bench.run(direction, &frame)?;
            ensure!(ran.frame.len() == frame.len(), "{:?} changed the length", ran.outcome);
        }
        Ok(())
    })
}
