//! One node's part in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    AgentLease, Finding, Life, Node, Prober, Record, Records, Standing, Version,
    agents::{Agents, watchers},
};

/// Nodes that watch one owner: the second acts when the first does not.
const WATCHERS: usize = 2;
/// Of a lease's duration, which part passes between renewals.
const RENEWALS: u32 = 3;

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two probes of a watched node.
    pub probe_interval: Duration,
    /// Unanswered probes in a row that make a node silent.
    pub probe_tries: u32,
    /// How much longer the second watcher waits than the first.
    pub stagger: Duration,
    /// Before something that did not work is tried again.
    pub retry: Duration,
    /// The shortest time between renewals of this agent's lease; in large clusters it is longer.
    pub renewal: Duration,
    /// A node that was declared dead stays so for this long, and so others get its addresses.
    pub revival: Duration,
    /// After the start addresses that nobody holds are left to nodes that come first for them and have no agent yet: all
    /// agents may be coming up.
    pub settling: Duration,
    /// Who loses an address by another's record goes on answering until it hears that one on the wire, or for so long.
    pub handover: Duration,
    /// The record of an address that no service has any more is kept for so long.
    pub keeping: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_secs(1),
            probe_tries: 3,
            stagger: Duration::from_secs(2),
            retry: Duration::from_secs(1),
            renewal: Duration::from_secs(5),
            revival: Duration::from_secs(10),
            settling: Duration::from_secs(10),
            handover: Duration::from_secs(1),
            keeping: Duration::from_secs(60),
        }
    }
}

/// How an owner is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// An address it owns and answers for.
    pub address: IpAddr,
    /// The nodes that could own that address as well: only they are certain to be on its links.
    pub candidates: Vec<Node>,
}

/// What elections say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elections {
    /// The [`Ownership::revision`] they were held by. What they say is not acted on once there is a newer one: who was elected
    /// when nobody held an address would take it from whoever has come to hold it since.
    pub revision: u64,
    /// The elected node of each address that this node could carry out as well.
    pub elected: BTreeMap<IpAddr, Node>,
    /// Those of them that nobody holds and that a node without an agent comes first for.
    pub provisional: BTreeSet<IpAddr>,
    /// The addresses that services have; `None`: not all of that is known.
    pub used: Option<BTreeSet<IpAddr>>,
    /// How each owner is watched.
    pub watched: BTreeMap<Node, Watched>,
}

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is in force. The new object was given before.
    Done,
    /// Somebody else was faster.
    Conflict,
    /// The API did not answer, or refused; it may have happened all the same.
    Failed,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The view of the API has become live, after all that is there was given; or it is so no longer.
    View(bool),
    /// A record as the API has it.
    Record(IpAddr, Record),
    /// A record's object, with this incarnation, was deleted.
    RecordDeleted(IpAddr, Arc<str>),
    /// The lease of a node's agent.
    Lease(Node, AgentLease),
    /// It was deleted.
    LeaseDeleted(Node),
    /// The elections' results.
    Elected(Elections),
    /// What came of [`Output::Take`].
    Taken(IpAddr, Written),
    /// What came of [`Output::Declare`].
    Declared(Node, Written),
    /// What came of [`Output::Renew`].
    Renewed(Written),
    /// What came of [`Output::Forget`].
    Forgotten(IpAddr, Written),
    /// The answer to [`Output::Read`]; `None`: there was none.
    Read(IpAddr, Option<Record>),
    /// The addresses that this node's data path has stopped answering for, because others claim them.
    Claims(BTreeSet<IpAddr>),
    /// Somebody else answers for an address on the wire.
    Answered(IpAddr),
    /// Whether this node's data path can answer at all: programs are attached where there is a link.
    Able(bool),
    /// Addresses of this node itself.
    Voices(Vec<IpAddr>),
    /// This node's addresses are to be given away.
    Leave,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write that this node owns an address.
    Take {
        /// The address.
        address: IpAddr,
        /// The version to replace; `None`: make the object.
        over: Option<Version>,
        /// The record's epoch from then on.
        epoch: u64,
    },
    /// Write into a node's agent's lease that it is dead.
    Declare {
        /// The node.
        node: Node,
        /// The version to replace; `None`: make the object.
        over: Option<Version>,
    },
    /// Write this agent's lease.
    Renew {
        /// The version to replace; `None`: make the object.
        over: Option<Version>,
        /// [`Life::Serving`] or [`Life::Leaving`].
        life: Life,
        /// The lease's duration.
        duration: Duration,
        /// Addresses of this node itself.
        voices: Vec<IpAddr>,
    },
    /// Delete the record of an address that nobody uses any more.
    Forget {
        /// The address.
        address: IpAddr,
        /// The version to delete.
        version: Version,
    },
    /// Read a record from the API itself.
    Read(IpAddr),
    /// Ask on the wire who has an address.
    Probe(IpAddr),
    /// Answer for an address again in spite of a claim, and announce it again: it is this node's.
    Resume(IpAddr),
}

/// A claim by somebody else to what this node owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contest {
    /// The record is to be read.
    Open,
    /// It is being read.
    Reading(Instant),
    /// The API is away: nobody answers so far to so many probes, and the next is due then.
    Listening { asked: u32, next: Instant },
}

/// A write that is under way, or not to be tried again before some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    UnderWay,
    NotBefore(Instant),
}

/// The ownership of all addresses as one node sees it, and what it does about it.
#[derive(Debug)]
pub struct Ownership {
    me: Node,
    timing: Timing,
    /// Since when the view of the API is live.
    live_since: Option<Instant>,
    /// When it first was.
    began: Option<Instant>,
    records: Records,
    agents: Agents,
    standings: BTreeMap<Node, Standing>,
    elections: Elections,
    /// Addresses this node is elected for and does not hold.
    wanted: BTreeSet<IpAddr>,
    /// Addresses this node has lost to another one that it has not heard yet, and until when it answers for them.
    lingering: BTreeMap<IpAddr, Instant>,
    /// Since when records are of no use.
    unused_since: BTreeMap<IpAddr, Instant>,
    forgetting: BTreeMap<IpAddr, Attempt>,
    prober: Prober,
    silent_since: BTreeMap<Node, Instant>,
    taking: BTreeMap<IpAddr, Attempt>,
    declaring: BTreeMap<Node, Attempt>,
    renewing: Option<Attempt>,
    renew_at: Option<Instant>,
    contests: BTreeMap<IpAddr, Contest>,
    resumed: Vec<IpAddr>,
    able: bool,
    voices: Vec<IpAddr>,
    leaving: bool,
    /// Until when this node accepts that it was declared dead.
    dead_until: Option<Instant>,
    revision: u64,
}

impl Ownership {
    /// Of a node that has only just started.
    #[must_use]
    pub fn new(me: Node, timing: Timing) -> Self {
        Self {
            me,
            live_since: None,
            began: None,
            records: Records::default(),
            agents: Agents::default(),
            standings: BTreeMap::new(),
            elections: Elections::default(),
            wanted: BTreeSet::new(),
            lingering: BTreeMap::new(),
            unused_since: BTreeMap::new(),
            forgetting: BTreeMap::new(),
            prober: Prober::new(timing.probe_interval, timing.probe_tries),
            silent_since: BTreeMap::new(),
            taking: BTreeMap::new(),
            declaring: BTreeMap::new(),
            renewing: None,
            renew_at: None,
            contests: BTreeMap::new(),
            resumed: Vec::new(),
            able: false,
            voices: Vec::new(),
            leaving: false,
            dead_until: None,
            revision: 0,
            timing,
        }
    }

    /// Whether the API has been seen at all: before that nothing is known, and what an earlier process answers for stays.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.began.is_some()
    }

    /// Whether the view of the API is live.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live_since.is_some()
    }

    /// Whether this node owns an address.
    #[must_use]
    pub fn owns(&self, address: IpAddr) -> bool {
        self.records.get(address).is_some_and(|record| record.holder == self.me)
    }

    /// Whether this node is to answer for an address: it owns it, or did so until just now and has not heard the new owner.
    #[must_use]
    pub fn answers(&self, address: IpAddr) -> bool {
        self.owns(address) || self.lingering.contains_key(&address)
    }

    /// The records.
    #[must_use]
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The nodes' standings, as elections are to see them.
    #[must_use]
    pub fn standings(&self) -> &BTreeMap<Node, Standing> {
        &self.standings
    }

    /// Changes with the records' holders and the standings, which elections depend on, and with what is answered for.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether nothing is left to give away: the records name others, or nobody else is elected.
    #[must_use]
    pub fn has_left(&self) -> bool {
        let mut held = self.records.iter().filter(|(_, record)| record.holder == self.me).map(|(address, _)| address);
        self.leaving
            && self.is_elected_by_the_newest()
            && self.lingering.is_empty()
            && self.standings.get(&self.me) == Some(&Standing::Leaving)
            && held.all(|address| self.elections.elected.get(&address).is_none_or(|elected| *elected == self.me))
    }

    /// Takes notice of something. What is to be done about it comes from [`Self::poll`].
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::View(true) => {
                if self.live_since.is_none() {
                    self.live_since = Some(now);
                    self.began.get_or_insert(now);
                    // What failed while it was away may be tried at once.
                    self.taking.retain(|_, attempt| *attempt == Attempt::UnderWay);
                    self.renew_at = Some(now);
                    // Now the record can tell.
                    self.contests.values_mut().for_each(|contest| *contest = Contest::Open);
                }
            }
            Input::View(false) => self.live_since = None,
            Input::Record(address, record) => self.learn(address, record, now),
            Input::RecordDeleted(address, incarnation) => {
                self.records.deleted(address, &incarnation);
                if self.is_unused(address) {
                    self.records.forget_deleted(address);
                }
                self.want(address);
            }
            Input::Lease(node, lease) => {
                if node == self.me {
                    self.see_own_lease(&lease, now);
                }
                self.agents.learn(node, lease, now);
            }
            Input::LeaseDeleted(node) => {
                self.agents.deleted(&node);
                if node == self.me {
                    self.renew_at = Some(now);
                }
            }
            Input::Elected(elections) => self.elect(elections, now),
            Input::Taken(address, written) => match self.after(written, now) {
                Some(attempt) => drop(self.taking.insert(address, attempt)),
                None => drop(self.taking.remove(&address)),
            },
            Input::Declared(node, written) => match self.after(written, now) {
                Some(attempt) => drop(self.declaring.insert(node, attempt)),
                None => drop(self.declaring.remove(&node)),
            },
            Input::Renewed(written) => {
                self.renewing = self.after(written, now);
                if written == Written::Done {
                    self.renew_at = Some(now + self.renewal());
                }
            }
            Input::Forgotten(address, written) => match self.after(written, now) {
                Some(attempt) => drop(self.forgetting.insert(address, attempt)),
                None => drop(self.forgetting.remove(&address)),
            },
            Input::Read(address, record) => self.read(address, record, now),
            Input::Claims(claims) => {
                let lingering = self.lingering.len();
                self.lingering.retain(|address, _| !claims.contains(address));
                if self.lingering.len() < lingering {
                    self.revision += 1;
                }
                self.contests.retain(|address, _| claims.contains(address));
                for address in claims {
                    self.contests.entry(address).or_insert(Contest::Open);
                }
            }
            Input::Answered(address) => {
                self.prober.answered(address);
                if let Some(Contest::Listening { asked, .. }) = self.contests.get_mut(&address) {
                    *asked = 0;
                }
            }
            Input::Able(able) => {
                if able && !self.able {
                    self.renew_at = Some(now);
                }
                self.able = able;
            }
            Input::Voices(voices) => {
                if voices != self.voices {
                    self.voices = voices;
                    self.renew_at = Some(now);
                }
            }
            Input::Leave => {
                if !self.leaving {
                    self.leaving = true;
                    self.renew_at = Some(now);
                }
            }
        }
    }

    /// What is to be done now. Each is returned once, until its outcome is told.
    pub fn poll(&mut self, now: Instant) -> Vec<Output> {
        let mut outputs = Vec::new();
        if let Some(live_since) = self.live_since {
            self.stand(live_since, now);
            self.renew(now, &mut outputs);
            self.take(now, &mut outputs);
            self.forget(now, &mut outputs);
        }
        self.stop_lingering(now);
        self.watch(now);
        if !self.able {
            self.prober.deaf();
        }
        outputs.extend(self.prober.poll(now).into_iter().map(Output::Probe));
        if self.live_since.is_some() && self.able {
            self.judge(now, &mut outputs);
        }
        self.contest(now, &mut outputs);
        outputs.extend(std::mem::take(&mut self.resumed).into_iter().map(Output::Resume));
        outputs
    }

    /// When [`Self::poll`], just called with the same `now`, has something to do next if nothing happens before; `None`: never.
    #[must_use]
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let attempts = self.taking.values().chain(self.declaring.values()).chain(&self.renewing);
        let attempts = attempts.chain(self.forgetting.values());
        let retries = attempts.filter_map(|attempt| match attempt {
            Attempt::NotBefore(then) => Some(*then),
            Attempt::UnderWay => None,
        });
        let contests = self.contests.values().filter_map(|contest| match contest {
            Contest::Open => None,
            Contest::Reading(since) => Some(*since + self.timing.retry),
            Contest::Listening { next, .. } => Some(*next),
        });
        // The second watcher's turn.
        let turns = self.silent_since.values().map(|since| *since + self.timing.stagger);
        retries
            .chain(contests)
            .chain(turns)
            .chain(self.began.map(|began| began + self.timing.settling))
            .chain(self.lingering.values().copied())
            .chain(self.unused_since.values().map(|since| *since + self.timing.keeping))
            .chain(self.prober.next_due())
            .chain(self.renew_at)
            .chain(self.dead_until)
            .chain(self.live_since.and_then(|live| self.agents.next_lapse(live, now)))
            // What is due and was not done waits for something to happen.
            .filter(|due| *due > now)
            .min()
    }

    fn is_elected_by_the_newest(&self) -> bool {
        self.elections.revision == self.revision
    }

    fn elect(&mut self, elections: Elections, now: Instant) {
        self.elections = elections;
        let elected_me = self.elections.elected.iter().filter(|(_, node)| **node == self.me);
        self.wanted = elected_me.map(|(address, _)| *address).filter(|address| self.is_free(*address)).collect();
        let wanted = &self.wanted;
        self.taking.retain(|address, attempt| *attempt == Attempt::UnderWay || wanted.contains(address));
        self.note_unused(now);
    }

    fn learn(&mut self, address: IpAddr, record: Record, now: Instant) {
        let before = self.records.get(address).map(|record| record.holder.clone());
        if self.records.learn(address, record) {
            let after = self.records.get(address).map(|record| record.holder.clone());
            if before != after {
                self.revision += 1;
                self.linger(address, before.as_ref(), now);
            }
            if !self.unused_since.contains_key(&address) && self.is_unused(address) {
                self.unused_since.insert(address, now);
            }
            if let Some(Attempt::NotBefore(_)) = self.taking.get(&address) {
                self.taking.remove(&address);
            }
            self.want(address);
        }
    }

    /// Goes on answering for an address that has just been lost, until its new owner is heard: that one begins to answer when
    /// it learns that it may, which can be later. Not where it was heard already, and not if this node was declared dead, or
    /// is behind: then the new owner began long ago.
    fn linger(&mut self, address: IpAddr, before: Option<&Node>, now: Instant) {
        let lost = before == Some(&self.me) && !self.owns(address);
        let is_behind = self.live_since.is_none() || self.dead_until.is_some();
        if lost && !is_behind && !self.contests.contains_key(&address) {
            self.lingering.insert(address, now + self.timing.handover);
        } else {
            self.lingering.remove(&address);
        }
    }

    fn stop_lingering(&mut self, now: Instant) {
        let before = self.lingering.len();
        self.lingering.retain(|_, until| *until > now);
        if self.lingering.len() < before {
            self.revision += 1;
        }
    }

    fn is_unused(&self, address: IpAddr) -> bool {
        self.elections.used.as_ref().is_some_and(|used| !used.contains(&address))
    }

    /// Notes which records are of no use, and lets go of those that are deleted.
    fn note_unused(&mut self, now: Instant) {
        let unused: Vec<IpAddr> =
            self.records.iter().map(|(address, _)| address).filter(|address| self.is_unused(*address)).collect();
        self.unused_since.retain(|address, _| unused.contains(address));
        for address in unused {
            self.records.forget_deleted(address);
            if self.records.get(address).is_some() {
                self.unused_since.entry(address).or_insert(now);
            } else {
                self.unused_since.remove(&address);
            }
        }
    }

    /// Deletes records that have been of no use for long: their holders do, or for those that have no agent the first node
    /// that has one.
    fn forget(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        if self.leaving || self.dead_until.is_some() {
            return;
        }
        let attended = |node: &Node| self.standings.get(node) == Some(&Standing::Attended);
        let first = self.standings.keys().find(|node| attended(node));
        for address in
            self.unused_since.iter().filter(|(_, since)| **since + self.timing.keeping <= now).map(|(a, _)| a)
        {
            let Some(record) = self.records.get(*address) else { continue };
            let responsible = if attended(&record.holder) { Some(&record.holder) } else { first };
            let Some(version) = record.version.clone().filter(|_| responsible == Some(&self.me)) else { continue };
            if Self::may(self.forgetting.get(address), now) {
                self.forgetting.insert(*address, Attempt::UnderWay);
                outputs.push(Output::Forget { address: *address, version });
            }
        }
    }

    /// Whether an address is there to be taken: nobody's, somebody else's, or its object is gone.
    fn is_free(&self, address: IpAddr) -> bool {
        self.records.get(address).is_none_or(|record| record.holder != self.me || record.version.is_none())
    }

    fn want(&mut self, address: IpAddr) {
        let elected = self.elections.elected.get(&address) == Some(&self.me);
        if elected && self.is_free(address) {
            self.wanted.insert(address);
        } else {
            self.wanted.remove(&address);
        }
    }

    fn see_own_lease(&mut self, lease: &AgentLease, now: Instant) {
        let known = self.agents.get(&self.me);
        // An earlier process's death is over: this one attends.
        if lease.life == Life::Dead && known.is_some_and(|known| known.life != Life::Dead) {
            self.dead_until = Some(now + self.timing.revival);
        }
    }

    fn after(&self, written: Written, now: Instant) -> Option<Attempt> {
        match written {
            Written::Done => None,
            Written::Conflict | Written::Failed => Some(Attempt::NotBefore(now + self.timing.retry)),
        }
    }

    fn may(attempt: Option<&Attempt>, now: Instant) -> bool {
        match attempt {
            None => true,
            Some(Attempt::NotBefore(then)) => *then <= now,
            Some(Attempt::UnderWay) => false,
        }
    }

    fn stand(&mut self, live_since: Instant, now: Instant) {
        let mut standings = self.agents.standings(live_since, now);
        // About itself a node knows better than its lease.
        if !self.leaving {
            standings.insert(self.me.clone(), Standing::Attended);
        }
        if standings != self.standings {
            self.standings = standings;
            self.revision += 1;
        }
    }

    fn renewal(&self) -> Duration {
        // Everybody is told of every renewal: the larger the cluster, the rarer they are. Of a node that is gone there are
        // none, even if its lease is still there.
        let renewing = self.standings.values().filter(|standing| **standing == Standing::Attended).count();
        let agents = u32::try_from(renewing).unwrap_or(u32::MAX);
        let shared = Duration::from_millis(100).saturating_mul(agents);
        self.timing.renewal.max(shared.min(Duration::from_secs(60)))
    }

    fn renew(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        if self.dead_until.is_some_and(|until| until <= now) {
            self.dead_until = None;
            self.renew_at = Some(now);
        }
        let due = self.renew_at.is_some_and(|renew_at| renew_at <= now);
        // A node that cannot answer leaves its lease to lapse: it is the witness that others wait for.
        if !due || !self.able || self.dead_until.is_some() || !Self::may(self.renewing.as_ref(), now) {
            return;
        }
        self.renewing = Some(Attempt::UnderWay);
        outputs.push(Output::Renew {
            over: self.agents.get(&self.me).map(|lease| lease.version.clone()),
            life: if self.leaving { Life::Leaving } else { Life::Serving },
            duration: self.renewal() * RENEWALS,
            voices: self.voices.clone(),
        });
    }

    fn take(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        if !self.able || self.leaving || self.dead_until.is_some() || !self.is_elected_by_the_newest() {
            return;
        }
        let settled = self.began.is_some_and(|began| began + self.timing.settling <= now);
        for address in &self.wanted {
            let record = self.records.get(*address);
            let waits = record.is_none() && self.elections.provisional.contains(address) && !settled;
            if waits || !Self::may(self.taking.get(address), now) {
                continue;
            }
            self.taking.insert(*address, Attempt::UnderWay);
            outputs.push(Output::Take {
                address: *address,
                over: record.and_then(|record| record.version.clone()),
                epoch: record.map_or(0, |record| record.epoch) + 1,
            });
        }
    }

    /// The candidates that an agent attends to.
    fn attended<'a>(&'a self, watched: &'a Watched) -> impl Iterator<Item = &'a Node> {
        watched.candidates.iter().filter(|node| self.standings.get(*node) == Some(&Standing::Attended))
    }

    /// This node's place among those that watch an owner.
    fn place(&self, owner: &Node, watched: &Watched) -> Option<usize> {
        if *owner == self.me {
            return None;
        }
        watchers(owner, self.attended(watched)).iter().take(WATCHERS).position(|node| **node == self.me)
    }

    /// Watches those this node is to watch.
    fn watch(&mut self, now: Instant) {
        let targets: BTreeMap<Node, IpAddr> = self
            .elections
            .watched
            .iter()
            .filter(|(owner, watched)| {
                self.standings.get(*owner) != Some(&Standing::Dead) && self.place(owner, watched).is_some()
            })
            .map(|(owner, watched)| (owner.clone(), watched.address))
            .collect();
        let others = self.standings.keys().filter(|node| **node != self.me);
        let voices = others.filter_map(|node| Some((node.clone(), self.agents.voice(node)?))).collect();
        self.prober.watch(targets, voices, now);
    }

    /// Declares those dead that are.
    fn judge(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        for (owner, watched) in &self.elections.watched {
            let Some(place) = self.place(owner, watched) else { continue };
            let others = self.attended(watched).filter(|node| *node != owner && **node != self.me);
            let is_dead = match self.prober.finding(owner, others) {
                Finding::Answers | Finding::Unknown => false,
                // There is nobody to vouch for this node's own hearing: the lease does.
                Finding::Silent { of: 0, .. } => {
                    matches!(self.standings.get(owner), None | Some(Standing::Silent))
                }
                Finding::Silent { heard, of } => 2 * heard > of,
            };
            if !is_dead || self.standings.get(owner) == Some(&Standing::Dead) {
                self.silent_since.remove(owner);
                continue;
            }
            let since = *self.silent_since.entry(owner.clone()).or_insert(now);
            let turn = since + self.timing.stagger * u32::try_from(place).unwrap_or(u32::MAX);
            if turn > now || !Self::may(self.declaring.get(owner), now) {
                continue;
            }
            self.declaring.insert(owner.clone(), Attempt::UnderWay);
            let over = self.agents.get(owner).map(|lease| lease.version.clone());
            outputs.push(Output::Declare { node: owner.clone(), over });
        }
    }

    fn read(&mut self, address: IpAddr, record: Option<Record>, now: Instant) {
        let contest = self.contests.get(&address).copied();
        match record {
            Some(record) => {
                self.learn(address, record, now);
                if contest.is_some() && self.owns(address) {
                    self.contests.remove(&address);
                    self.resumed.push(address);
                }
            }
            None => {
                if let Some(Contest::Reading(_)) = contest {
                    self.contests.insert(address, Contest::Listening { asked: 0, next: now });
                }
            }
        }
    }

    /// Settles who is right where others claim what this node owns.
    fn contest(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        let is_live = self.live_since.is_some();
        let mine = |address: &IpAddr| self.records.get(*address).is_some_and(|record| record.holder == self.me);
        let mut unclaimed = Vec::new();
        for (address, contest) in self.contests.iter_mut().filter(|(address, _)| mine(address)) {
            if *contest == Contest::Open && is_live {
                outputs.push(Output::Read(*address));
                *contest = Contest::Reading(now);
            }
            match *contest {
                Contest::Reading(since) if is_live && now < since + self.timing.retry => continue,
                Contest::Open | Contest::Reading(_) => *contest = Contest::Listening { asked: 0, next: now },
                Contest::Listening { .. } => {}
            }
            let Contest::Listening { asked, next } = contest else { continue };
            if now < *next {
                continue;
            }
            if *asked >= self.timing.probe_tries {
                // Whoever it was does not answer: the claim was a mistake, or its author is gone.
                unclaimed.push(*address);
                continue;
            }
            outputs.push(Output::Probe(*address));
            *asked += 1;
            *next = now + self.timing.probe_interval;
        }
        for address in unclaimed {
            self.contests.remove(&address);
            self.resumed.push(address);
        }
    }
}
