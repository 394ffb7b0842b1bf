//! Several nodes, an API and a wire, with every kind of fault.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use evenkeel_ownership::{
    AgentLease, Elections, Input, Life, Node, Output, Ownership, Record, Standing, Timing, Version, Watched, Written,
};
use proptest::prelude::*;

/// A step of the simulation: messages take one.
const STEP: Duration = Duration::from_millis(100);
const ANNOUNCEMENTS: u64 = 600;

#[expect(clippy::disallowed_methods, reason = "an instant has no other origin; the tests only add to it")]
fn any_instant() -> Instant {
    Instant::now()
}

/// What everybody can read and write, one change after another.
#[derive(Default)]
struct Api {
    version: u64,
    records: BTreeMap<IpAddr, Record>,
    leases: BTreeMap<Node, AgentLease>,
    /// What a watch delivers, in order.
    log: Vec<Input>,
}

impl Api {
    fn next_version(&mut self) -> Version {
        self.version += 1;
        Version(self.version.to_string().into())
    }

    fn take(&mut self, address: IpAddr, over: Option<&Version>, epoch: u64, holder: &Node) -> Written {
        let present = self.records.get(&address);
        if present.map(|record| record.version.clone().unwrap()).as_ref() != over {
            return Written::Conflict;
        }
        let incarnation =
            present.map_or_else(|| format!("made-{}", self.version), |record| record.incarnation.to_string());
        let version = Some(self.next_version());
        let record = Record { holder: holder.clone(), epoch, incarnation: incarnation.into(), version };
        self.records.insert(address, record.clone());
        self.log.push(Input::Record(address, record));
        Written::Done
    }

    fn forget(&mut self, address: IpAddr, version: &Version) -> Written {
        if self.records.get(&address).and_then(|record| record.version.as_ref()) != Some(version) {
            return Written::Conflict;
        }
        let record = self.records.remove(&address).unwrap();
        self.log.push(Input::RecordDeleted(address, record.incarnation));
        Written::Done
    }

    fn lease(&mut self, node: &Node, over: Option<&Version>, change: impl FnOnce(&mut AgentLease)) -> Written {
        let present = self.leases.get(node);
        if present.map(|lease| &lease.version) != over {
            return Written::Conflict;
        }
        let mut lease = present.cloned().unwrap_or(AgentLease {
            version: Version("".into()),
            life: Life::Serving,
            duration: Duration::from_secs(15),
            voices: Vec::new(),
        });
        change(&mut lease);
        lease.version = self.next_version();
        self.leases.insert(node.clone(), lease.clone());
        self.log.push(Input::Lease(node.clone(), lease));
        Written::Done
    }
}

/// A node: an agent or none, and a data path that goes on without.
struct Host {
    name: Node,
    voice: IpAddr,
    agent: Option<Ownership>,
    /// What the data path answers for.
    answers: BTreeSet<IpAddr>,
    /// What it has seen claimed by others since.
    claimed: BTreeSet<IpAddr>,
    /// The part of the wire it is on.
    part: u8,
    link: bool,
    has_api: bool,
    heard: usize,
    inbox: Vec<Input>,
    seen: Option<u64>,
}

struct Cluster {
    now: Instant,
    steps: u64,
    addresses: Vec<IpAddr>,
    api: Api,
    hosts: Vec<Host>,
    /// Every so many announcements one is heard; 1: all.
    losses: u64,
    announced: u64,
    /// How often the address's traffic had no one to answer, and how often two.
    none: u64,
    two: u64,
}

impl Cluster {
    /// Nodes whose agents have all come up.
    fn new(nodes: usize, addresses: usize) -> Self {
        let mut cluster = Self::of(nodes, addresses);
        (0..nodes).for_each(|n| cluster.start_agent(n));
        cluster.run(10);
        cluster.none = 0;
        cluster
    }

    /// Nodes without agents.
    fn of(nodes: usize, addresses: usize) -> Self {
        let hosts = (0..nodes)
            .map(|n| Host {
                name: format!("node-{n}").into(),
                voice: [10, 0, 1, u8::try_from(n).unwrap()].into(),
                agent: None,
                answers: BTreeSet::new(),
                claimed: BTreeSet::new(),
                part: 0,
                link: true,
                has_api: true,
                heard: 0,
                inbox: Vec::new(),
                seen: None,
            })
            .collect();
        Self {
            now: any_instant(),
            steps: 0,
            addresses: (0..addresses).map(|n| [10, 0, 0, u8::try_from(n).unwrap()].into()).collect(),
            api: Api::default(),
            hosts,
            losses: 1,
            announced: 0,
            none: 0,
            two: 0,
        }
    }

    fn start_agent(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        if host.agent.is_none() {
            host.agent = Some(Ownership::new(host.name.clone(), Timing::default()));
            host.heard = 0;
            host.seen = None;
            host.inbox = vec![Input::Voices(vec![host.voice]), Input::Able(host.link)];
        }
    }

    fn kill_agent(&mut self, n: usize) {
        self.hosts[n].agent = None;
        self.hosts[n].inbox.clear();
    }

    /// Cuts or restores the wire of a node; its agent notices.
    fn set_link(&mut self, n: usize, link: bool) {
        self.hosts[n].link = link;
        self.hosts[n].inbox.push(Input::Able(link));
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        self.steps += 1;
        for n in 0..self.hosts.len() {
            self.attend(n);
        }
        if self.steps.is_multiple_of(ANNOUNCEMENTS) {
            for n in 0..self.hosts.len() {
                // Only an agent announces.
                if self.hosts[n].agent.is_some() {
                    for address in self.hosts[n].answers.clone() {
                        self.announce(n, address);
                    }
                }
            }
        }
        self.check();
    }

    /// A step of a node's agent.
    fn attend(&mut self, n: usize) {
        let now = self.now;
        let Some(mut agent) = self.hosts[n].agent.take() else { return };
        let host = &mut self.hosts[n];
        if host.has_api {
            for input in &self.api.log[host.heard..] {
                agent.handle(input.clone(), now);
            }
            host.heard = self.api.log.len();
        }
        if host.has_api != agent.is_live() {
            agent.handle(Input::View(host.has_api), now);
        }
        for input in std::mem::take(&mut host.inbox) {
            agent.handle(input, now);
        }
        agent.handle(Input::Claims(host.claimed.clone()), now);
        // As the driver does it: what is heard may be acted on before the elections that it calls for are held.
        for _ in 0..2 {
            for output in agent.poll(now) {
                self.carry_out(n, &agent, output);
            }
            if self.hosts[n].seen != Some(agent.revision()) {
                self.hosts[n].seen = Some(agent.revision());
                let elections = self.elect(&agent);
                agent.handle(Input::Elected(elections), now);
            }
        }
        if agent.has_begun() {
            let answered: BTreeSet<IpAddr> =
                self.addresses.iter().copied().filter(|address| agent.answers(*address)).collect();
            let new: Vec<IpAddr> = answered.difference(&self.hosts[n].answers).copied().collect();
            self.hosts[n].claimed.retain(|address| answered.contains(address));
            self.hosts[n].answers = answered;
            for address in new {
                self.announce(n, address);
            }
        }
        self.hosts[n].agent = Some(agent);
    }

    /// The election, as `plan` has it: the present owner while it can, else the first by rank.
    fn elect(&self, agent: &Ownership) -> Elections {
        let standing = |node: &Node| agent.standings().get(node);
        let able: Vec<Node> = self.hosts.iter().map(|host| host.name.clone()).collect();
        let Elections { mut elected, mut provisional, mut watched, .. } = Elections::default();
        for (at, address) in self.addresses.iter().enumerate() {
            let owner = agent.records().get(*address).map(|record| record.holder.clone());
            let stays =
                owner.clone().filter(|owner| !matches!(standing(owner), Some(Standing::Dead | Standing::Leaving)));
            let ranked = (0..able.len()).map(|n| &able[(n + at) % able.len()]);
            let first = || ranked.clone().find(|node| standing(node) == Some(&Standing::Attended)).cloned();
            if let Some(node) = stays.or_else(first) {
                if owner.is_none() && ranked.clone().next() != Some(&node) {
                    provisional.insert(*address);
                }
                elected.insert(*address, node);
            }
            if let Some(owner) = owner {
                watched.entry(owner).or_insert(Watched { address: *address, candidates: able.clone() });
            }
        }
        let used = Some(self.addresses.iter().copied().collect());
        Elections { revision: agent.revision(), elected, provisional, used, watched }
    }

    fn carry_out(&mut self, n: usize, agent: &Ownership, output: Output) {
        let name = self.hosts[n].name.clone();
        let has_api = self.hosts[n].has_api;
        let answer = match output {
            Output::Take { address, over, epoch } => {
                let written =
                    if has_api { self.api.take(address, over.as_ref(), epoch, &name) } else { Written::Failed };
                if written == Written::Done {
                    // The answer may be lost.
                    if self.announced.is_multiple_of(7) {
                        self.hosts[n].inbox.push(Input::Taken(address, Written::Failed));
                        return;
                    }
                    self.hosts[n].inbox.push(Input::Record(address, self.api.records[&address].clone()));
                }
                Input::Taken(address, written)
            }
            Output::Declare { node, over } => {
                let dead = |lease: &mut AgentLease| lease.life = Life::Dead;
                let written = if has_api { self.api.lease(&node, over.as_ref(), dead) } else { Written::Failed };
                Input::Declared(node, written)
            }
            Output::Renew { over, life, duration, voices } => {
                let renewed = |lease: &mut AgentLease| {
                    *lease = AgentLease { version: lease.version.clone(), life, duration, voices };
                };
                Input::Renewed(if has_api { self.api.lease(&name, over.as_ref(), renewed) } else { Written::Failed })
            }
            Output::Forget { address, version } => {
                Input::Forgotten(address, if has_api { self.api.forget(address, &version) } else { Written::Failed })
            }
            Output::Read(address) => {
                Input::Read(address, has_api.then(|| self.api.records.get(&address).cloned()).flatten())
            }
            Output::Probe(address) => {
                let answers = |host: &Host| {
                    host.voice == address || (host.answers.contains(&address) && !host.claimed.contains(&address))
                };
                if !self.hearers(n).any(|other| answers(&self.hosts[other])) {
                    return;
                }
                Input::Answered(address)
            }
            Output::Resume(address) => {
                assert!(agent.owns(address));
                self.hosts[n].claimed.remove(&address);
                self.announce(n, address);
                return;
            }
        };
        self.hosts[n].inbox.push(answer);
    }

    /// Those on the same part of the wire.
    fn hearers(&self, n: usize) -> impl Iterator<Item = usize> + '_ {
        let here = &self.hosts[n];
        let hears = move |other: &Host| here.link && other.link && other.part == here.part;
        (0..self.hosts.len()).filter(move |other| *other != n && hears(&self.hosts[*other]))
    }

    fn announce(&mut self, n: usize, address: IpAddr) {
        self.announced += 1;
        if !self.announced.is_multiple_of(self.losses) {
            return;
        }
        for other in self.hearers(n).collect::<Vec<_>>() {
            if self.hosts[other].answers.contains(&address) {
                self.hosts[other].claimed.insert(address);
            }
        }
    }

    /// Who answers for an address on a part of the wire.
    fn responders(&self, address: IpAddr, part: u8) -> Vec<&Node> {
        let answers = |host: &&Host| {
            host.link && host.part == part && host.answers.contains(&address) && !host.claimed.contains(&address)
        };
        self.hosts.iter().filter(answers).map(|host| &host.name).collect()
    }

    fn check(&mut self) {
        for address in self.addresses.clone() {
            let mut believers: BTreeMap<(&str, u64), &Node> = BTreeMap::new();
            for host in &self.hosts {
                let Some(agent) = &host.agent else { continue };
                if let Some(record) = agent.records().get(address).filter(|_| agent.owns(address)) {
                    let other = believers.insert((&record.incarnation, record.epoch), &host.name);
                    assert!(other.is_none(), "{other:?} and {} own {address} in epoch {}", host.name, record.epoch);
                }
            }
            match self.responders(address, 0).len() {
                0 => self.none += 1,
                1 => {}
                _ => self.two += 1,
            }
        }
    }

    fn owner(&self, address: usize) -> usize {
        let holder = &self.api.records[&self.addresses[address]].holder;
        self.hosts.iter().position(|host| host.name == *holder).unwrap()
    }

    fn ensure_one_responder(&self) {
        for (at, address) in self.addresses.iter().enumerate() {
            let owner = &self.hosts[self.owner(at)].name;
            assert_eq!(self.responders(*address, 0), [owner], "{address}");
        }
    }
}

#[test]
fn every_address_gets_one_owner_and_they_spread() {
    let cluster = Cluster::new(3, 9);
    cluster.ensure_one_responder();
    let owners: BTreeSet<usize> = (0..9).map(|address| cluster.owner(address)).collect();
    assert_eq!(owners.len(), 3);
    assert_eq!(cluster.two, 0);
}

/// Agents that come up one after the other, as slowly as they like: who has taken an address keeps it.
#[test]
fn an_address_taken_while_agents_start_stays_where_it_is() {
    for delay in (0..150).step_by(7) {
        let mut cluster = Cluster::of(3, 9);
        for n in 0..3 {
            cluster.start_agent(n);
            (0..delay * n).for_each(|_| cluster.step());
        }
        cluster.run(30);
        cluster.ensure_one_responder();
        let passed_on = cluster.addresses.iter().filter(|address| cluster.api.records[address].epoch > 1);
        assert_eq!(passed_on.count(), 0, "{delay} steps between agents");
        assert_eq!(cluster.two, 0, "{delay} steps between agents");
    }
}

#[test]
fn a_dead_node_is_replaced_within_seconds_by_one() {
    let mut cluster = Cluster::new(3, 6);
    let victim = cluster.owner(0);
    cluster.set_link(victim, false);
    cluster.kill_agent(victim);
    cluster.run(8);
    cluster.ensure_one_responder();
    assert_ne!(cluster.owner(0), victim);
    assert_eq!(cluster.two, 0);
    // It comes back and takes nothing.
    let owners: Vec<usize> = (0..6).map(|address| cluster.owner(address)).collect();
    cluster.set_link(victim, true);
    cluster.hosts[victim].answers.clear();
    cluster.start_agent(victim);
    cluster.run(60);
    assert_eq!(owners, (0..6).map(|address| cluster.owner(address)).collect::<Vec<_>>());
    cluster.ensure_one_responder();
}

#[test]
fn of_two_nodes_the_lease_is_the_witness() {
    let mut cluster = Cluster::new(2, 2);
    let victim = cluster.owner(0);
    cluster.set_link(victim, false);
    cluster.kill_agent(victim);
    cluster.run(8);
    assert_eq!(cluster.owner(0), victim, "nobody vouches for the other's hearing");
    cluster.run(20);
    cluster.ensure_one_responder();
    assert_ne!(cluster.owner(0), victim);
}

#[test]
fn a_killed_agent_moves_nothing_even_without_the_api() {
    for cut in [false, true] {
        let mut cluster = Cluster::new(3, 6);
        let before: Vec<usize> = (0..6).map(|address| cluster.owner(address)).collect();
        let victim = cluster.owner(0);
        cluster.kill_agent(victim);
        cluster.hosts[victim].has_api = !cut;
        cluster.run(300);
        assert_eq!(before, (0..6).map(|address| cluster.owner(address)).collect::<Vec<_>>());
        assert_eq!((cluster.none, cluster.two), (0, 0));
    }
}

#[test]
fn without_the_api_nothing_moves() {
    let mut cluster = Cluster::new(3, 6);
    let epochs = |cluster: &Cluster| cluster.api.records.values().map(|record| record.epoch).collect::<Vec<_>>();
    let before = epochs(&cluster);
    (0..3).for_each(|n| cluster.hosts[n].has_api = false);
    cluster.run(300);
    assert_eq!((cluster.none, cluster.two), (0, 0));
    (0..3).for_each(|n| cluster.hosts[n].has_api = true);
    cluster.run(60);
    assert_eq!(before, epochs(&cluster));
    assert_eq!((cluster.none, cluster.two), (0, 0));
}

#[test]
fn who_leaves_gives_away_and_answers_until_then() {
    let mut cluster = Cluster::new(3, 6);
    let leaver = cluster.owner(0);
    cluster.hosts[leaver].inbox.push(Input::Leave);
    cluster.run(5);
    assert!(cluster.hosts[leaver].agent.as_ref().unwrap().has_left());
    cluster.ensure_one_responder();
    assert!((0..6).all(|address| cluster.owner(address) != leaver));
    assert_eq!((cluster.none, cluster.two), (0, 0));
}

/// The new owner begins to answer a step after the API has its record, and the old one may know of that a step before.
#[test]
fn an_address_that_is_handed_over_is_answered_for_throughout() {
    for (leaver, losses) in (0..3).flat_map(|n| [(n, 1), (n, u64::MAX)]) {
        let mut cluster = Cluster::new(3, 6);
        cluster.losses = losses;
        cluster.hosts[leaver].inbox.push(Input::Leave);
        cluster.run(5);
        assert!(cluster.hosts[leaver].agent.as_ref().unwrap().has_left());
        cluster.ensure_one_responder();
        assert_eq!(cluster.none, 0, "node-{leaver} left");
        // Of both addresses it had: while an announcement is on its way, or for a second where none is ever heard.
        let most = if losses == 1 { 0 } else { 2 * 11 };
        assert!(cluster.two <= most, "node-{leaver} left: {} of {most}", cluster.two);
    }
}

#[test]
fn who_was_declared_dead_does_not_linger() {
    let mut cluster = Cluster::new(3, 3);
    let (stale, address) = (cluster.owner(0), cluster.addresses[0]);
    // Its agent and its link live, and nobody hears it.
    cluster.hosts[stale].part = 1;
    while cluster.owner(0) == stale {
        cluster.step();
    }
    cluster.hosts[stale].part = 0;
    cluster.run(1);
    assert!(!cluster.hosts[stale].agent.as_ref().unwrap().answers(address));
    cluster.ensure_one_responder();
}

#[test]
fn addresses_wait_for_agents_that_are_about_to_come_up() {
    let mut cluster = Cluster::new(3, 0);
    (0..3).for_each(|n| cluster.kill_agent(n));
    cluster.api = Api::default();
    cluster.addresses = (0..9).map(|n| [10, 0, 0, n].into()).collect();
    // One after the other, as images arrive.
    for n in 0..3 {
        cluster.start_agent(n);
        cluster.run(3);
    }
    cluster.ensure_one_responder();
    let owners: Vec<usize> = (0..9).map(|address| cluster.owner(address)).collect();
    assert_eq!(owners, [0, 1, 2, 0, 1, 2, 0, 1, 2]);

    // A node that never gets an agent is not waited for.
    let mut cluster = Cluster::new(3, 0);
    cluster.kill_agent(1);
    cluster.api.leases.clear();
    cluster.run(1);
    cluster.kill_agent(0);
    cluster.kill_agent(2);
    cluster.api = Api::default();
    cluster.addresses = (0..3).map(|n| [10, 0, 0, n].into()).collect();
    cluster.start_agent(0);
    cluster.start_agent(2);
    cluster.run(12);
    cluster.ensure_one_responder();
}

#[test]
fn records_of_addresses_without_a_service_are_deleted_after_a_while() {
    for holder_is_there in [true, false] {
        let mut cluster = Cluster::new(3, 4);
        let (owner, address) = (cluster.owner(0), cluster.addresses.remove(0));
        cluster.hosts.iter_mut().for_each(|host| host.seen = None);
        cluster.run(30);
        assert!(cluster.api.records.contains_key(&address), "not at once");
        if !holder_is_there {
            cluster.kill_agent(owner);
        }
        cluster.run(60);
        assert!(!cluster.api.records.contains_key(&address), "holder there: {holder_is_there}");
        assert_eq!(cluster.api.records.len(), 3);

        // It is used again, by a new record.
        cluster.start_agent(owner);
        cluster.addresses.insert(0, address);
        cluster.hosts.iter_mut().for_each(|host| host.seen = None);
        cluster.run(30);
        cluster.ensure_one_responder();
    }
}

#[test]
fn a_node_cut_off_the_wire_alone_suspects_nobody() {
    let mut cluster = Cluster::new(4, 8);
    let before: Vec<usize> = (0..8).map(|address| cluster.owner(address)).collect();
    let alone = (0..4).find(|n| *n != before[0]).unwrap();
    // Its link is up and leads nowhere, and its agent has the API.
    cluster.hosts[alone].part = 1;
    cluster.run(60);
    for (address, owner) in before.into_iter().enumerate() {
        if owner == alone {
            assert_ne!(cluster.owner(address), alone, "the others take what it can serve no longer");
        } else {
            assert_eq!(cluster.owner(address), owner);
        }
    }
    cluster.hosts[alone].part = 0;
    cluster.run(60);
    cluster.ensure_one_responder();
}

#[test]
fn a_stale_responder_stops_when_it_hears_the_new_owner() {
    let mut cluster = Cluster::new(3, 3);
    let stale = cluster.owner(0);
    // Agent and API are gone, and for a time the wire as well.
    cluster.kill_agent(stale);
    cluster.hosts[stale].part = 1;
    cluster.run(120);
    assert_ne!(cluster.owner(0), stale);
    cluster.hosts[stale].part = 0;
    cluster.run(61);
    cluster.ensure_one_responder();
}

#[test]
fn a_claim_by_a_stranger_is_answered_when_the_record_says_so() {
    for has_api in [true, false] {
        let mut cluster = Cluster::new(3, 3);
        let owner = cluster.owner(0);
        (0..3).for_each(|n| cluster.hosts[n].has_api = has_api);
        let address = cluster.addresses[0];
        cluster.run(1);
        cluster.hosts[owner].claimed.insert(address);
        cluster.run(6);
        cluster.ensure_one_responder();
        assert_eq!(cluster.owner(0), owner);
    }
}

#[test]
fn a_deleted_record_stays_with_its_holder() {
    let mut cluster = Cluster::new(3, 3);
    let (owner, address) = (cluster.owner(0), cluster.addresses[0]);
    let record = cluster.api.records.remove(&address).unwrap();
    cluster.api.log.push(Input::RecordDeleted(address, record.incarnation));
    cluster.run(5);
    assert_eq!(cluster.owner(0), owner);
    assert_eq!(cluster.api.records[&address].epoch, record.epoch + 1);
    assert_eq!((cluster.none, cluster.two), (0, 0));
}

/// Of a node that is gone the lease may stay: were it counted, those that are left would renew as rarely as if it were there, and
/// be taken over from as late.
#[test]
fn renewals_are_as_rare_as_there_are_agents_that_renew() {
    let began = any_instant();
    let mut agent = Ownership::new("node-0".into(), Timing::default());
    let renew = |agent: &mut Ownership, n: usize, version: &str, now| {
        let duration = Duration::from_secs(90);
        let version = Version(version.into());
        let lease = AgentLease { version, life: Life::Serving, duration, voices: Vec::new() };
        agent.handle(Input::Lease(format!("node-{n}").into(), lease), now);
    };
    let promised = |agent: &mut Ownership, now| {
        agent.poll(now).into_iter().find_map(|output| match output {
            Output::Renew { duration, .. } => Some(duration),
            _ => None,
        })
    };
    (1..300).for_each(|n| renew(&mut agent, n, "1", began));
    agent.handle(Input::Able(true), began);
    agent.handle(Input::View(true), began);
    assert_eq!(promised(&mut agent, began), Some(Duration::from_secs(90)), "of 300 agents");
    agent.handle(Input::Renewed(Written::Done), began);
    let now = began + Duration::from_secs(60);
    (1..3).for_each(|n| renew(&mut agent, n, "2", now));
    let now = began + Duration::from_secs(91);
    assert_eq!(promised(&mut agent, now), Some(Duration::from_secs(15)), "of three");
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Start,
    CutApi,
    RestoreApi,
    Unplug,
    Plug,
    Part(u8),
    Stranger,
}

fn faults() -> impl Strategy<Value = Vec<(u64, usize, Fault)>> {
    let fault = prop_oneof![
        Just(Fault::Kill),
        Just(Fault::Start),
        Just(Fault::CutApi),
        Just(Fault::RestoreApi),
        Just(Fault::Unplug),
        Just(Fault::Plug),
        (0..3_u8).prop_map(Fault::Part),
        Just(Fault::Stranger),
    ];
    prop::collection::vec((0..12_u64, 0..5_usize, fault), 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// `Cluster::check` holds throughout that no two own an address in one epoch.
    #[test]
    fn whatever_happens_once_healed_everything_has_one_owner(
        nodes in 2..6_usize, faults in faults(), losses in 1..4_u64
    ) {
        let mut cluster = Cluster::new(nodes, 4);
        cluster.losses = losses;
        for (seconds, n, fault) in faults {
            let n = n % nodes;
            match fault {
                Fault::Kill => cluster.kill_agent(n),
                Fault::Start => cluster.start_agent(n),
                Fault::CutApi => cluster.hosts[n].has_api = false,
                Fault::RestoreApi => cluster.hosts[n].has_api = true,
                Fault::Unplug => cluster.set_link(n, false),
                Fault::Plug => cluster.set_link(n, true),
                Fault::Part(part) => cluster.hosts[n].part = part,
                Fault::Stranger => {
                    let claimed = cluster.hosts[n].answers.clone();
                    cluster.hosts[n].claimed.extend(claimed);
                }
            }
            cluster.run(seconds);
        }
        cluster.losses = 1;
        for n in 0..nodes {
            cluster.hosts[n].has_api = true;
            cluster.hosts[n].part = 0;
            cluster.set_link(n, true);
            cluster.start_agent(n);
        }
        cluster.run(90);
        cluster.ensure_one_responder();
        let epochs: Vec<u64> = cluster.api.records.values().map(|record| record.epoch).collect();
        cluster.run(90);
        cluster.ensure_one_responder();
        prop_assert_eq!(epochs, cluster.api.records.values().map(|record| record.epoch).collect::<Vec<_>>());
    }
}
