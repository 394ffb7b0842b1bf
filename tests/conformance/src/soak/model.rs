//! What there is, and where each flow has to go.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};
use evenkeel_loader::{BackendSpec, FrontendSpec, Others, Program, State};
use evenkeel_maps::{FrontendKey, TCP, UDP};

use super::{
    Summary,
    frame::{ACK, FIN, Kind, RST, SYN, build, ends},
};
use crate::{node::Node, random::Random};

const SERVICES: u16 = 12;
/// Pods of a service, at most and at least.
const PODS: std::ops::RangeInclusive<usize> = 2..=6;
/// Addresses of pods: few, so that each is used again soon.
const ADDRESSES: u8 = 90;
const PORT: u16 = 8080;
/// Flows that live at one time.
const LIVE: usize = 12_000;
/// Slots of a Maglev table.
const SLOTS: u32 = 251;
/// What the programs' verdicts mean at tc.
const PASS: i32 = -1;

struct Pod {
    /// Of every pod that ever was, another one.
    number: u64,
    host: u8,
    state: State,
}

struct Service {
    port: u16,
    protocol: u8,
    pods: Vec<Pod>,
}

struct Flow {
    client: SocketAddr,
    service: usize,
    /// The pod it went to.
    pod: u64,
    backend: SocketAddr,
    established: bool,
}

pub(super) struct Model {
    services: Vec<Service>,
    flows: Vec<Flow>,
    /// Addresses that no pod has, the one that has been free for longest first.
    free: VecDeque<u8>,
    used_before: [bool; ADDRESSES as usize],
    pods: u64,
    clients: u32,
    opened: bool,
    uplink: u32,
    pub(super) summary: Summary,
}

fn vip(ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100).into() } else { Ipv4Addr::new(10, 77, 0, 100).into() }
}

fn pod_address(host: u8, ipv6: bool) -> IpAddr {
    if ipv6 {
        Ipv6Addr::new(0xfd77, 2, 0, 0, 0, 0, 0, host.into()).into()
    } else {
        Ipv4Addr::new(10, 77, 2, host).into()
    }
}

impl Model {
    pub(super) fn new(node: &mut Node) -> anyhow::Result<Self> {
        let services = (0..SERVICES).map(|n| Service {
            port: 1000 + n,
            protocol: if n % 3 == 2 { UDP } else { TCP },
            pods: Vec::new(),
        });
        let mut model = Self {
            services: services.collect(),
            flows: Vec::new(),
            free: (0..ADDRESSES).collect(),
            used_before: [false; ADDRESSES as usize],
            pods: 0,
            clients: 0,
            opened: false,
            uplink: node.index("uplink")?,
            summary: Summary::default(),
        };
        for service in 0..model.services.len() {
            for _ in 0..3 {
                model.add_pod(service)?;
            }
            model.carry(node, service)?;
        }
        Ok(model)
    }

    /// Whether the last step opened a flow.
    pub(super) fn opened(&self) -> bool {
        self.opened
    }

    /// Opens a flow, or goes on with one.
    pub(super) fn step(&mut self, node: &mut Node, random: &mut Random) -> anyhow::Result<()> {
        self.opened = self.flows.len() < LIVE && random.once_in(2);
        if self.opened {
            return self.open(node, random);
        }
        if self.flows.is_empty() {
            return Ok(());
        }
        let at = random.below(self.flows.len());
        // Enough end, or the table would be full of the others.
        match random.below(8) {
            0..4 => self.go_on(node, at),
            4 if random.once_in(20) => {
                // Nobody hears of it again.
                self.flows.swap_remove(at);
                Ok(())
            }
            _ => self.close(node, random, at),
        }
    }

    /// Everything that lives is closed.
    pub(super) fn end(&mut self, node: &mut Node, random: &mut Random) -> anyhow::Result<()> {
        while !self.flows.is_empty() {
            self.close(node, random, self.flows.len() - 1)?;
        }
        Ok(())
    }

    /// Time has passed: handshakes that were not completed and short exchanges are over.
    pub(super) fn age(&mut self) {
        let services = &self.services;
        self.flows.retain(|flow| flow.established && services[flow.service].protocol == TCP);
    }

    fn open(&mut self, node: &mut Node, random: &mut Random) -> anyhow::Result<()> {
        self.summary.flows += 1;
        self.clients = self.clients.wrapping_add(1);
        let ipv6 = random.once_in(2);
        let service = random.below(self.services.len());
        // Another client each time, until all have been: no port is met again while its connection may still be open.
        let [a, b, c, d] = self.clients.to_be_bytes();
        let client: IpAddr = if ipv6 {
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, u16::from(a), u16::from_be_bytes([b, c])).into()
        } else {
            Ipv4Addr::new(100, a & 0x3f | 64, b, c).into()
        };
        let client = SocketAddr::new(client, 20_000 + u16::from(d));
        let Service { port, protocol, .. } = self.services[service];
        let to = SocketAddr::new(vip(ipv6), port);
        let (verdict, backend) =
            self.run(node, Program::Ingress, client, to, Kind { protocol, flags: SYN, sequence: self.clients })?;
        let ready = self.pod_at(service, backend).filter(|pod| pod.state == State::Active);
        let Some(pod) = ready.filter(|_| verdict == PASS).map(|pod| pod.number) else {
            bail!("a new flow of {client} to {to} went to {backend}, verdict {verdict}: {}", self.tell(service));
        };
        self.flows.push(Flow { client, service, pod, backend, established: false });
        let at = self.flows.len() - 1;
        // Some never complete their handshake.
        if random.once_in(50) {
            return Ok(());
        }
        self.answer(node, at, SYN | ACK)?;
        self.flows[at].established = true;
        self.go_on(node, at)
    }

    /// The pod answers, and its client hears the VIP.
    fn answer(&mut self, node: &mut Node, at: usize, flags: u8) -> anyhow::Result<()> {
        let Flow { client, service, backend, .. } = self.flows[at];
        let Service { port, protocol, .. } = self.services[service];
        let frame = build(backend, client, Kind { protocol, flags, sequence: 7 });
        self.summary.packets += 1;
        let (verdict, frame) = node.data_path()?.run_once(Program::Egress, self.uplink, &frame)?;
        let expected = (SocketAddr::new(vip(client.is_ipv6()), port), client);
        ensure!(
            verdict == PASS && ends(&frame) == Some(expected),
            "a reply of {backend} to {client} left as {:?}, verdict {verdict}",
            ends(&frame)
        );
        Ok(())
    }

    /// The client sends something.
    fn go_on(&mut self, node: &mut Node, at: usize) -> anyhow::Result<()> {
        if !self.packet(node, at, ACK)? {
            self.give_up(node, at)?;
            self.flows.swap_remove(at);
        }
        Ok(())
    }

    /// Nobody answers the client any more, and it loses patience.
    fn give_up(&mut self, node: &mut Node, at: usize) -> anyhow::Result<()> {
        if self.services[self.flows[at].service].protocol == TCP {
            self.packet(node, at, RST | ACK)?;
        }
        Ok(())
    }

    /// Both ends close, or one gives up.
    fn close(&mut self, node: &mut Node, random: &mut Random, at: usize) -> anyhow::Result<()> {
        if self.services[self.flows[at].service].protocol == TCP {
            if random.once_in(4) {
                self.packet(node, at, RST | ACK)?;
            } else if self.packet(node, at, FIN | ACK)? && self.is_there(at) {
                self.answer(node, at, FIN | ACK)?;
                self.packet(node, at, ACK)?;
            } else {
                self.give_up(node, at)?;
            }
        }
        self.flows.swap_remove(at);
        Ok(())
    }

    fn is_there(&self, at: usize) -> bool {
        let Flow { service, pod, .. } = self.flows[at];
        self.services[service].pods.iter().any(|known| known.number == pod)
    }

    /// A packet of the client's in an open flow. Whether the flow goes on.
    fn packet(&mut self, node: &mut Node, at: usize, flags: u8) -> anyhow::Result<bool> {
        let Flow { client, service, pod, backend, .. } = self.flows[at];
        let Service { port, protocol, .. } = self.services[service];
        let to = SocketAddr::new(vip(client.is_ipv6()), port);
        let (verdict, went) =
            self.run(node, Program::Ingress, client, to, Kind { protocol, flags, sequence: self.clients })?;
        let pods = &self.services[service].pods;
        let known = pods.iter().find(|known| known.number == pod).map(|pod| pod.state);
        let stays = match known {
            Some(State::Active) => true,
            // Connections go on. Datagrams do where one terminates, unless the exchange is over, and not where one is not ready.
            Some(State::Drain | State::Down) => protocol == TCP,
            None => false,
        };
        if stays {
            ensure!(
                verdict == PASS && went == backend,
                "{client} of {to} ({}, flags {flags:#x}) went from {backend} to {went}, verdict {verdict}: {}",
                if self.flows[at].established { "established" } else { "half open" },
                self.tell(service)
            );
            return Ok(true);
        }
        if known.is_none() {
            self.summary.of_gone_pods += 1;
        }
        if protocol == TCP {
            // Reset, dropped, or still sent to where the pod was: if another one is there now, its kernel knows no such connection
            // and resets it. By its address alone it cannot be told from the same pod in a service again.
            let misled = verdict == PASS && went != backend;
            ensure!(
                !misled,
                "{client} of {to} belongs to a pod that is gone, and went to {went}: {}",
                self.tell(service)
            );
            return Ok(false);
        }
        // Another pod of the same service may have the address meanwhile: then it is the same endpoint.
        let may = |pod: &&Pod| pod.state == State::Active || (pod.state == State::Drain && went == backend);
        let taker = self.pod_at(service, went).filter(may);
        let Some(number) = taker.filter(|_| verdict == PASS).map(|pod| pod.number) else {
            bail!("a datagram of {client} to {to} went to {went}, verdict {verdict}: {}", self.tell(service));
        };
        (self.flows[at].pod, self.flows[at].backend) = (number, went);
        Ok(true)
    }

    fn run(
        &mut self,
        node: &mut Node,
        program: Program,
        from: SocketAddr,
        to: SocketAddr,
        kind: Kind,
    ) -> anyhow::Result<(i32, SocketAddr)> {
        self.summary.packets += 1;
        let (verdict, frame) = node.data_path()?.run_once(program, self.uplink, &build(from, to, kind))?;
        let (_, went) = ends(&frame).context("what came out is no packet")?;
        Ok((verdict, went))
    }

    fn pod_at(&self, service: usize, address: SocketAddr) -> Option<&Pod> {
        let pods = &self.services[service].pods;
        pods.iter().find(|pod| SocketAddr::new(pod_address(pod.host, address.is_ipv6()), PORT) == address)
    }

    fn tell(&self, service: usize) -> String {
        let pods = self.services[service].pods.iter();
        pods.map(|pod| format!("{} (.{}) {:?}", pod.number, pod.host, pod.state)).collect::<Vec<_>>().join(", ")
    }

    fn add_pod(&mut self, service: usize) -> anyhow::Result<()> {
        let host = self.free.pop_front().context("no address is free")?;
        if std::mem::replace(&mut self.used_before[usize::from(host)], true) {
            self.summary.reused_addresses += 1;
        }
        self.pods += 1;
        self.services[service].pods.push(Pod { number: self.pods, host, state: State::Active });
        Ok(())
    }

    /// Something happens to one endpoint of a service, of which one stays ready.
    pub(super) fn change(&mut self, node: &mut Node, random: &mut Random) -> anyhow::Result<()> {
        self.summary.changes += 1;
        let service = random.below(self.services.len());
        let pods = &self.services[service].pods;
        let ready = pods.iter().filter(|pod| pod.state == State::Active).count();
        let at = random.below(pods.len());
        let may_go = pods[at].state != State::Active || ready > 1;
        match random.below(4) {
            0 if pods.len() < *PODS.end() => self.add_pod(service)?,
            1 if may_go => self.services[service].pods[at].state = State::Drain,
            2 if may_go && pods.len() > *PODS.start() => {
                let pod = self.services[service].pods.swap_remove(at);
                self.free.push_back(pod.host);
            }
            _ => {
                let next = match pods[at].state {
                    State::Down => State::Active,
                    State::Active if may_go => State::Down,
                    // Who terminates does not come back.
                    state => state,
                };
                self.services[service].pods[at].state = next;
            }
        }
        self.carry(node, service)
    }

    fn carry(&self, node: &mut Node, service: usize) -> anyhow::Result<()> {
        let Service { port, protocol, pods } = &self.services[service];
        for ipv6 in [false, true] {
            let backends: Vec<BackendSpec> = pods
                .iter()
                .map(|pod| BackendSpec::new(SocketAddr::new(pod_address(pod.host, ipv6), PORT), pod.state))
                .collect();
            let active: Vec<u32> =
                (0..).zip(pods).filter(|(_, pod)| pod.state == State::Active).map(|(index, _)| index).collect();
            let table = (0..SLOTS).filter_map(|slot| active.get(slot as usize % active.len().max(1)).copied());
            let spec = FrontendSpec {
                table: table.collect(),
                backends,
                ..FrontendSpec::new(FrontendKey::new(vip(ipv6), *port, *protocol))
            };
            let failures = node.data_path()?.set_frontends(&[spec], Others::Keep, Instant::now());
            ensure!(failures.is_empty(), "{failures:?}");
        }
        Ok(())
    }
}
