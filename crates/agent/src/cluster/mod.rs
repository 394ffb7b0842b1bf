//! This node in a cluster: drives [`evenkeel_ownership`], with the leases of the API on one side and the wire on the other.

mod api;
mod leases;
mod owner;
mod statuses;
mod wire;

use std::{
    collections::{BTreeSet, HashSet},
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_loader::Interface;
use evenkeel_neighbor::Mac;
use evenkeel_ownership::{Elections, Input, Node, Output, Ownership, Standing, Timing, Watched};
use evenkeel_plan::{
    Plan,
    elect::{AnnouncementProtocol, ExclusionReason},
    world::{self, AgentState},
};
use tokio::{sync::mpsc, time};

/// The label selector of this program's `ServiceL2Status` objects.
pub const STATUSES: &str = statuses::OURS;
pub use self::leases::LABEL;
pub(crate) use self::statuses::{Announced, Told};
use self::{
    api::{Leases, News},
    leases::Change,
    statuses::Statuses,
    wire::Wire,
};

/// How a node takes part in a cluster.
#[derive(Clone)]
pub struct ClusterConfig {
    /// The API.
    pub client: kube::Client,
    /// The program's own namespace, in which its leases are.
    pub namespace: String,
    /// How long the data path answers for VIPs with no agent attending to it; `None`: for good.
    pub unattended_limit: Option<Duration>,
    /// At the end give all addresses away before, instead of leaving them to a data path without an agent.
    pub release: bool,
    /// How long things take.
    pub timing: Timing,
}

impl std::fmt::Debug for ClusterConfig {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { namespace, unattended_limit, release, timing, client: _ } = self;
        formatter
            .debug_struct("ClusterConfig")
            .field("namespace", namespace)
            .field("unattended_limit", unattended_limit)
            .field("release", release)
            .field("timing", timing)
            .finish_non_exhaustive()
    }
}

/// The node's part in the cluster.
pub(crate) struct Cluster {
    node: Node,
    core: Ownership,
    leases: Leases,
    news: mpsc::UnboundedReceiver<News>,
    wire: Wire,
    statuses: Statuses,
    /// Hardware addresses of this node's interfaces: what they say is no answer by somebody else.
    own: Vec<Mac>,
    due: Option<Instant>,
    /// The core's revision by which elections were last held.
    elected_by: Option<u64>,
    /// Whether the core is to be told of elections again.
    awaits_elections: bool,
    /// What elections had to know by then.
    view: world::Cluster,
}

impl Cluster {
    /// Begins to follow the cluster; within a Tokio runtime.
    pub(crate) fn join(node: &str, config: &ClusterConfig) -> io::Result<Self> {
        let (leases, news) = Leases::follow(config.client.clone(), &config.namespace);
        Ok(Self {
            node: node.into(),
            core: Ownership::new(node.into(), config.timing),
            leases,
            news,
            wire: Wire::open()?,
            statuses: Statuses::start(config.client.clone(), &config.namespace, node),
            own: Vec::new(),
            due: None,
            elected_by: None,
            awaits_elections: true,
            view: world::Cluster::default(),
        })
    }

    /// Waits for something that concerns the ownership of addresses. May be dropped at any time.
    pub(crate) async fn next(&mut self) -> Vec<Input> {
        let due = self.due;
        let sleep = async {
            match due {
                Some(due) => time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(mut news) = self.news.recv() => {
                // Of what comes in a burst the consequences are drawn once.
                while let Ok(more) = self.news.try_recv() {
                    news.extend(more);
                }
                news
            }
            answer = self.wire.answer(&self.own) => match answer {
                Ok(address) => vec![Input::Answered(address)],
                Err(error) => {
                    // Others would seem dead who are not.
                    tracing::error!(%error, "cannot hear the wire");
                    time::sleep(Duration::from_secs(1)).await;
                    Vec::new()
                }
            },
            () = sleep => {
                // Until the next time something is done.
                self.due = None;
                Vec::new()
            }
        }
    }

    /// Takes notice of something.
    pub(crate) fn handle(&mut self, input: Input, now: Instant) {
        if matches!(input, Input::View(live) if live != self.core.is_live()) {
            match self.core.is_live() {
                true => tracing::warn!("the API is away: owners stay as they are"),
                false => tracing::info!("the leases of the cluster are known"),
            }
        }
        // Of all that is heard only answers come all the time, and elections are none of theirs.
        self.awaits_elections |= !matches!(input, Input::Answered(_));
        self.core.handle(input, now);
    }

    /// Whether it is to be told who is elected: something it was not told with has changed.
    pub(crate) const fn awaits_elections(&self) -> bool {
        self.awaits_elections
    }

    /// What elections are told by has changed: the plan, or what this node carries.
    pub(crate) const fn await_elections(&mut self) {
        self.awaits_elections = true;
    }

    /// What this node's interfaces are, and whether packets can reach it by them.
    pub(crate) fn set_interfaces(&mut self, interfaces: &[Interface], voices: Vec<IpAddr>, now: Instant) {
        self.own = interfaces.iter().map(|interface| interface.mac).collect();
        self.handle(Input::Able(interfaces.iter().any(|interface| interface.running)), now);
        self.handle(Input::Voices(voices), now);
    }

    /// Whether elections have to be held again, because owners or nodes are others.
    pub(crate) fn is_news(&self) -> bool {
        self.elected_by != Some(self.core.revision())
    }

    /// What elections have to know.
    pub(crate) fn view(&mut self) -> world::Cluster {
        if !self.is_news() {
            return self.view.clone();
        }
        self.elected_by = Some(self.core.revision());
        let agents = self.core.standings().iter().map(|(node, standing)| {
            let state = match standing {
                Standing::Attended => AgentState::Attended,
                Standing::Silent => AgentState::Silent,
                Standing::Leaving => AgentState::Leaving,
                Standing::Dead => AgentState::Dead,
            };
            (Arc::clone(node), state)
        });
        let owners = self.core.records().iter().map(|(address, record)| (address, Arc::clone(&record.holder)));
        self.view = world::Cluster { owners: owners.collect(), agents: agents.collect() };
        self.view.clone()
    }

    /// Tells the elections' results; what this node does not carry it cannot own. `complete`: all services are known.
    pub(crate) fn set_elected(&mut self, plan: &Plan, not_carried: &HashSet<IpAddr>, complete: bool, now: Instant) {
        let mut elections = Elections {
            revision: self.elected_by.unwrap_or_default(),
            used: complete.then(|| plan.services.values().flat_map(|one| one.addresses.iter().copied()).collect()),
            ..Elections::default()
        };
        let at_layer_2 = plan.announcements.values().filter(|one| one.protocol == AnnouncementProtocol::L2);
        for announcement in at_layer_2 {
            let address = announcement.address;
            let Some(node) = announcement.nodes.first() else { continue };
            if *node != self.node || !not_carried.contains(&address) {
                elections.elected.insert(address, Arc::clone(node));
            }
            if announcement.awaited.is_some() {
                elections.provisional.insert(address);
            }
            // Who is elected and holds it already is to answer.
            let holder = self.core.records().get(address).map(|record| &record.holder);
            if holder != Some(node) || *node == self.node || elections.watched.contains_key(node) {
                continue;
            }
            let could = announcement.excluded.iter().filter(|other| other.reason == ExclusionReason::NotElected);
            let candidates = could.map(|other| Arc::clone(&other.node)).collect();
            elections.watched.insert(Arc::clone(node), Watched { address, candidates });
        }
        self.core.handle(Input::Elected(elections), now);
        self.awaits_elections = false;
    }

    /// Does what is due, on these interfaces. Returns the addresses that are to be answered for again.
    pub(crate) fn act(&mut self, interfaces: &[Interface], now: Instant) -> Vec<IpAddr> {
        let mut resumed = Vec::new();
        for output in self.core.poll(now) {
            match output {
                Output::Take { address, over, epoch } => {
                    tracing::info!(vip = %address, epoch, "taking over");
                    let change = Change::take(address, over, epoch, &self.node, &api::now());
                    self.leases.change(change, move |written| Input::Taken(address, written));
                }
                Output::Declare { node, over } => {
                    tracing::warn!(%node, "does not answer any more: declaring it dead");
                    let change = Change::declare(&node, over);
                    self.leases.change(change, move |written| Input::Declared(node, written));
                }
                Output::Renew { over, life, duration, voices } => {
                    let change = Change::renew(&self.node, over, life, duration, &voices, &api::now());
                    self.leases.change(change, Input::Renewed);
                }
                Output::Forget { address, version } => {
                    tracing::debug!(vip = %address, "nobody uses it any more: deleting its record");
                    self.leases.delete(address, &version);
                }
                Output::Read(address) => self.leases.read(address),
                Output::Probe(address) => {
                    for interface in interfaces.iter().filter(|interface| interface.running) {
                        if let Err(error) = self.wire.ask(address, interface) {
                            tracing::debug!(%address, interface = interface.name, %error, "not asked");
                        }
                    }
                }
                Output::Resume(address) => resumed.push(address),
            }
        }
        self.due = self.core.next_due(now);
        resumed
    }

    /// Tells what this node announces.
    pub(crate) fn tell(&self, told: Told) {
        self.statuses.set(told);
    }

    /// Ends this node's part; what is to be told last may be written.
    pub(crate) async fn end(self) {
        self.statuses.end().await;
    }

    /// Whether the records are known, if perhaps not the newest.
    pub(crate) fn has_begun(&self) -> bool {
        self.core.has_begun()
    }

    /// Whether this node owns an address by its record.
    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        self.core.owns(address)
    }

    /// Whether this node is to answer for an address: it owns it, or hands it over just now.
    pub(crate) fn answers(&self, address: IpAddr) -> bool {
        self.core.answers(address)
    }

    /// Whether all that others could take has been given away.
    pub(crate) fn has_left(&self) -> bool {
        self.core.has_left()
    }

    /// The owner and the epoch of an address.
    pub(crate) fn record(&self, address: IpAddr) -> Option<(Node, u64)> {
        self.core.records().get(address).map(|record| (Arc::clone(&record.holder), record.epoch))
    }

    /// Whether the API is there.
    pub(crate) fn is_live(&self) -> bool {
        self.core.is_live()
    }

    /// Tells which VIPs others claim.
    pub(crate) fn set_claims(&mut self, claims: BTreeSet<IpAddr>, now: Instant) {
        self.handle(Input::Claims(claims), now);
    }
}
