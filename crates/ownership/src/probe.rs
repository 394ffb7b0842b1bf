//! Finding out on the wire whether other nodes' data paths answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::Node;

/// What a detector has found out about a node's data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It answered lately.
    Answers,
    /// Nothing is known yet, or too little.
    Unknown,
    /// It does not answer. Of `of` other nodes, `heard` do: this node's own link is not what is broken.
    Silent {
        /// Other nodes that answer.
        heard: usize,
        /// Other nodes that were asked.
        of: usize,
    },
}

/// Asks one address of every node it watches once a round. As long as one of them is silent it asks the others' own
/// addresses as well.
#[derive(Debug)]
pub struct Prober {
    interval: Duration,
    /// Rounds without an answer after which a node counts as silent.
    tries: u32,
    targets: BTreeMap<Node, Target>,
    voices: BTreeMap<Node, IpAddr>,
    /// Who answered in this round, and who in the one before.
    answered: BTreeSet<IpAddr>,
    answered_before: BTreeSet<IpAddr>,
    /// What was asked in this round.
    asked: BTreeSet<IpAddr>,
    next: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Target {
    address: IpAddr,
    missed: u32,
    answered: bool,
}

impl Prober {
    /// A prober with this pace.
    #[must_use]
    pub fn new(interval: Duration, tries: u32) -> Self {
        Self {
            interval,
            tries,
            targets: BTreeMap::new(),
            voices: BTreeMap::new(),
            answered: BTreeSet::new(),
            answered_before: BTreeSet::new(),
            asked: BTreeSet::new(),
            next: None,
        }
    }

    /// Watches these nodes, each by an address it owns, and no others; `voices` are addresses of all nodes themselves.
    pub fn watch(&mut self, targets: BTreeMap<Node, IpAddr>, voices: BTreeMap<Node, IpAddr>, now: Instant) {
        let former = std::mem::take(&mut self.targets);
        for (node, address) in targets {
            // What was missed was missed by the node, whichever of its addresses it was asked by.
            let target = former.get(&node).map(|former| Target { address, ..*former });
            self.targets.insert(node, target.unwrap_or(Target { address, missed: 0, answered: false }));
        }
        self.voices = voices;
        if self.targets.is_empty() {
            self.next = None;
        } else if self.next.is_none() {
            self.asked.clear();
            self.next = Some(now);
        }
    }

    /// Somebody answers for an address.
    pub fn answered(&mut self, address: IpAddr) {
        self.answered.insert(address);
        for target in self.targets.values_mut().filter(|target| target.address == address) {
            target.missed = 0;
            target.answered = true;
        }
    }

    /// This node cannot hear anybody: what it misses says nothing about others.
    pub fn deaf(&mut self) {
        for target in self.targets.values_mut() {
            target.missed = 0;
            target.answered = false;
        }
        self.asked.clear();
    }

    /// The addresses to ask for now: a round begins if it is due.
    pub fn poll(&mut self, now: Instant) -> Vec<IpAddr> {
        if self.next.is_none_or(|next| now < next) {
            return Vec::new();
        }
        for target in self.targets.values_mut().filter(|target| self.asked.contains(&target.address)) {
            if !self.answered.contains(&target.address) {
                target.missed = target.missed.saturating_add(1);
            }
        }
        self.answered_before = std::mem::take(&mut self.answered);
        self.asked = self.targets.values().map(|target| target.address).collect();
        if self.targets.values().any(|target| target.missed > 0) {
            self.asked.extend(self.voices.values());
        }
        self.next = Some(now + self.interval);
        self.asked.iter().copied().collect()
    }

    /// When the next round begins; `None`: there is nobody to watch.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.next
    }

    /// What is found out about a watched node. Those of `others` that have a voice vouch for this node's own hearing.
    pub fn finding<'a>(&self, node: &str, others: impl IntoIterator<Item = &'a Node>) -> Finding {
        let Some(target) = self.targets.get(node) else { return Finding::Unknown };
        if target.missed < self.tries {
            return if target.answered && target.missed == 0 { Finding::Answers } else { Finding::Unknown };
        }
        let voices: Vec<&IpAddr> = others.into_iter().filter_map(|other| self.voices.get(other)).collect();
        let is_heard = |voice: &&&IpAddr| self.answered.contains(**voice) || self.answered_before.contains(**voice);
        Finding::Silent { heard: voices.iter().filter(is_heard).count(), of: voices.len() }
    }
}
