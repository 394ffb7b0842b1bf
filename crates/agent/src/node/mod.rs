//! The loop of a node: what changes, and what follows from it.
//!
//! [`run`] waits for the next change and hands it on; decisions are taken here and carried out in `carry`. `follow` has what
//! the cluster says, `look` what the host itself changes, `drain` the end, `report` what is told of it all.

mod carry;
mod drain;
mod follow;
mod look;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_health::View;
use evenkeel_loader::{DataPath, Interface, Mode, Options};
use evenkeel_maps::FrontendKey;
use evenkeel_neighbor::{Announcer, Mac};
use evenkeel_ownership::Input;
use evenkeel_plan::{
    Event, Memory, Plan, Planner, Severity,
    event::EventReason,
    world::{Gaps, Kind, Node, ObjectName},
};
use evenkeel_process::{admin, http};
use evenkeel_sources::{Diagnostic, Update, catalog::MASS_REMOVAL_DELAY, state};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{self, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, Error,
    announce::Sender,
    changes::Changes,
    cluster::{Cluster, Told},
    desired::{Desired, Owned},
    drain::Phase,
    groups::{self, Groups},
    health::Checker,
    health_ports::HealthPorts,
    holding::Holding,
    host,
    leftovers::{self, Leftovers},
    next_hops::NextHops,
    status::{self, Status},
    vitals::Vitals,
};

/// How often interfaces are looked at: one may appear late, or be replaced by another of its name.
const INTERFACE_INTERVAL: Duration = Duration::from_secs(1);
/// How often slots of backends that are gone are freed.
const REAP_INTERVAL: Duration = Duration::from_secs(10);
/// How often the data path is asked for VIPs that it has stopped answering for because others claim them.
const CLAIMS_INTERVAL: Duration = Duration::from_millis(250);
/// How long others may take to take over what this node gives away at its end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the file that asks for a drain is looked for.
const DRAIN_INTERVAL: Duration = Duration::from_millis(200);
/// How often flows are looked at for backends that fail their clients, where a service asks for that.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(1);

/// What others ask of the loop, and where the answer goes.
#[derive(Debug)]
pub(crate) enum Ask {
    /// How everything is.
    Status(oneshot::Sender<Status>),
    /// The metrics, as OpenMetrics text.
    Metrics(oneshot::Sender<String>),
}

/// Carries out every update until `shutdown`. `ready` is called once, when every VIP this node should carry is carried
/// and announced.
///
/// # Errors
/// What keeps the node from starting; later failures are logged and tried again.
pub async fn run(
    config: Config,
    mut updates: watch::Receiver<Update>,
    shutdown: CancellationToken,
    ready: impl FnOnce(),
) -> Result<(), Error> {
    let mut next_hops = NextHops::listen().map_err(Error::NextHops)?;
    if config.drain.file.exists() {
        return Err(Error::Drained(config.drain.file));
    }
    let mut node = NodeAgent::open(config)?;
    let (asks, mut asked) = mpsc::channel(8);
    let admin = bind(&node.config.admin_socket).await?;
    let vitals = Vitals::new(asks.clone());
    // Whoever asks is answered until the end, also while a drain goes on that a signal does not cut short.
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    if let Some(address) = node.config.listen {
        let listener = http::bind(address).await.map_err(|source| Error::Http { address, source })?;
        tokio::spawn(http::serve(listener, Arc::new(vitals.clone()), ended.clone()));
    }
    // All that can be refused has been: from here on the node is changed.
    node.attach()?;
    let admin = tokio::spawn(admin.serve(
        move |path| {
            let asks = asks.clone();
            async move { answer(&path, &asks).await }
        },
        ended.clone(),
    ));

    // The receiver holds a first state that counts as seen.
    updates.mark_changed();
    let mut source_ended = false;
    let mut follows_kernel = true;
    let mut health = node.checker.view();
    let mut ready = Some(ready);
    let mut interfaces = every(INTERFACE_INTERVAL);
    let mut reap = every(REAP_INTERVAL);
    let mut observe = every(OBSERVE_INTERVAL);
    let mut claims = every(CLAIMS_INTERVAL);
    let mut drain = every(DRAIN_INTERVAL);
    let mut leaves_until = None;
    node.attend();
    loop {
        let next_announcement = node.announcer.next_due();
        let leftovers_due = node.leftovers_due();
        tokio::select! {
            () = shutdown.cancelled(), if leaves_until.is_none() && !node.drain.has_begun() => {
                if node.drains() {
                    continue;
                }
                if !node.leave(node.releases()) {
                    break;
                }
                leaves_until = Some(Instant::now() + RELEASE_TIMEOUT);
            }
            () = sleep_until(leaves_until) => {
                tracing::warn!("not everything was taken over: the data path goes on answering for the rest");
                break;
            }
            _ = drain.tick(), if leaves_until.is_none() => {
                if node.drains() {
                    vitals.refresh(&node.ready());
                }
                if !node.drain_on() {
                    shutdown.cancel();
                    break;
                }
            }
            news = heard(&mut node.cluster) => node.hear(news),
            () = sleep_until(node.follow_at) => node.follow_at_last(),
            changed = updates.changed(), if !source_ended => match changed {
                Ok(()) => {
                    let (update, noticed) = {
                        let update = updates.borrow_and_update();
                        (update.clone(), update.noticed.take())
                    };
                    node.update(&update, noticed);
                }
                Err(_) => {
                    tracing::error!("the source of manifests has ended: what is carried stays as it is");
                    source_ended = true;
                }
            },
            Ok(()) = health.changed() => {
                let view = Arc::clone(&health.borrow_and_update());
                node.heed(view);
            }
            Some(ask) = asked.recv() => {
                // Whoever asked may have gone.
                match ask {
                    Ask::Status(reply) => drop(reply.send(node.status())),
                    Ask::Metrics(reply) => drop(reply.send(node.metrics())),
                }
            }
            changed = next_hops.changed(), if follows_kernel => match changed {
                Ok(()) => {
                    node.data_path.forget_next_hops();
                    // An address comes and goes with its route.
                    node.look_at_addresses();
                }
                Err(error) => {
                    tracing::error!(%error, "cannot follow the kernel any more: packets follow routes a second late");
                    follows_kernel = false;
                }
            },
            () = sleep_until(next_announcement) => node.announce(),
            () = sleep_until(node.second_look) => node.look_again(),
            _ = interfaces.tick() => {
                node.look_at_interfaces();
                node.look_at_addresses();
                node.look_at_mode();
                node.finish();
                node.attend();
                vitals.refresh(&node.ready());
            }
            _ = claims.tick(), if node.cluster.is_some() => node.look_at_claims(),
            _ = reap.tick() => node.reap(),
            () = sleep_until(leftovers_due) => node.look_at_leftovers(),
            _ = observe.tick(), if !node.suspects.is_empty() => node.observe(),
        }
        if node.ready().is_ok()
            && let Some(ready) = ready.take()
        {
            vitals.refresh(&Ok(()));
            ready();
        }
        if leaves_until.is_some() && node.has_left() {
            tracing::info!("everything is given away");
            break;
        }
    }
    // The admin socket goes before the data path does.
    ended.cancel();
    let _ = admin.await;
    if let Some(cluster) = node.cluster.take() {
        if node.config.detach {
            cluster.tell(Told::default());
        }
        cluster.end().await;
    }
    if node.config.detach {
        if let Err(error) = groups::forget(node.answered) {
            tracing::warn!(%error, "cannot leave the multicast groups of the VIPs");
        }
        node.data_path.uninstall()?;
    }
    Ok(())
}

/// Binds the admin socket, in a directory that is made if need be.
async fn bind(socket: &Path) -> Result<admin::Listener, Error> {
    if let Some(parent) = socket.parent() {
        fs::create_dir_all(parent).map_err(|source| Error::SocketDirectory { directory: parent.to_owned(), source })?;
    }
    Ok(admin::Listener::bind(socket).await?)
}

async fn answer(path: &str, asks: &mpsc::Sender<Ask>) -> Option<admin::Answer> {
    if path != status::PATH {
        return None;
    }
    let (reply, answer) = oneshot::channel();
    asks.send(Ask::Status(reply)).await.ok()?;
    let body = serde_json::to_vec(&answer.await.ok()?).ok()?;
    Some(admin::Answer { content_type: "application/json", body })
}

fn every(period: Duration) -> time::Interval {
    let mut interval = time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

/// What is heard of the cluster; without one, never anything.
async fn heard(cluster: &mut Option<Cluster>) -> Vec<Input> {
    match cluster {
        Some(cluster) => cluster.next().await,
        None => std::future::pending().await,
    }
}

fn tell_event(event: &Event) {
    let addresses: Vec<String> = event.addresses.iter().map(ToString::to_string).collect();
    let (service, addresses) = (event.service.to_string(), addresses.join(", "));
    match (event.reason, &event.because) {
        (EventReason::IpAllocated, _) => tracing::info!(service, addresses, "addresses allocated"),
        (EventReason::ClearAssignment, Some(because)) => {
            tracing::warn!(service, addresses, reason = because.reason, "addresses released: {}", because.message);
        }
        (EventReason::ClearAssignment, None) => tracing::info!(service, addresses, "addresses released"),
    }
}

/// What a new Plan had to do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// Where some frontends lead.
    Frontends,
    /// Possibly everything.
    Whole,
}

struct NodeAgent {
    config: Config,
    /// The node's part in a cluster, if it is in one.
    cluster: Option<Cluster>,
    /// How far it has stopped to take new connections.
    drain: Phase,
    /// The VIPs that refuse them.
    closed: BTreeSet<IpAddr>,
    /// When the consequences of what was heard of the cluster are to be drawn, if there is anything.
    follow_at: Option<Instant>,
    /// Not before this.
    rested: Instant,
    /// What the source said last.
    last: Option<Update>,
    data_path: DataPath,
    /// What the programs did with packets at the last look.
    mode: Mode,
    announcer: Announcer,
    sender: Sender,
    groups: Groups,
    planner: Planner,
    checker: Checker,
    /// What health checks say.
    health: Arc<View>,
    /// The memory as it is on disk.
    saved: Memory,
    /// Why the memory is not on disk.
    unsaved: Option<String>,
    desired: Desired,
    interfaces: Vec<Interface>,
    /// Their addresses at the last look.
    addresses: Vec<IpAddr>,
    /// Interfaces that were missing at the last look.
    missing: HashSet<String>,
    changes: Changes,
    /// The Plan being carried out; `None` before the first update.
    plan: Option<Plan>,
    /// The zone this node is in, as far as the World knows.
    zone: Option<String>,
    /// Whether nothing has been missing for want of being readable since the start ([`Self::misses_nothing`]). Until then an
    /// object that is missing may be one that could not be read, and what an earlier process carried for it stays.
    complete: bool,
    /// Whether a service without endpoints may have some that cannot be read.
    unread_endpoints: bool,
    /// When what is missing from a directory at the start is looked for again, if it has not been.
    second_look: Option<Instant>,
    looked_twice: bool,
    /// Problems of the manifests and of the Plan.
    problems: Vec<String>,
    /// What the last attempt to carry the Plan out met with.
    obstacles: Vec<String>,
    /// What could not be set up on this host, in words.
    unprepared: Vec<String>,
    /// Why an interface that is there has no programs.
    unattached: Option<String>,
    /// Whether the data plane is behind the Plan, so that it must be tried again.
    behind: bool,
    /// Frontends that are not carried at all.
    failed: Vec<FrontendKey>,
    /// VIPs this node answers for.
    answered: BTreeSet<IpAddr>,
    /// Those of them that have no endpoint.
    holding: Holding,
    /// Those of them that another host claims, with its hardware address: they are not answered for until that is settled.
    claims: BTreeMap<IpAddr, Mac>,
    health_ports: HealthPorts,
    /// Frontends whose backends may be ejected for what their flows meet with.
    suspects: HashSet<FrontendKey>,
    /// Backends that are no longer endpoints and have connections.
    leftovers: Leftovers,
    asker: leftovers::sender::Sender,
}

impl NodeAgent {
    /// Gets hold of everything the node needs, and changes nothing that packets meet.
    fn open(config: Config) -> Result<Self, Error> {
        let mut options = Options::new(&config.node, config.hash_seed);
        options.hooks = config.hooks.clone();
        options.mode = config.mode;
        options.source_ports = config.source_ports.clone();
        if !config.rescue {
            options.rescue_tries = 0;
        }
        if let Some(flows) = config.flows {
            options.flows = flows;
        }
        options.sources =
            if config.sources.is_empty() { host::addresses(&config.interfaces) } else { config.sources.clone() };
        let memory = state::load(&config.state_directory)?;
        // At the start a missing interface is a mistake to tell at once; later it is an event to wait out.
        let interfaces = config.interfaces.iter().map(|name| Interface::look_up(name)).collect::<Result<_, _>>()?;
        let data_path = DataPath::open(&options)?;
        let cluster = config.cluster.as_ref().map(|cluster| Cluster::join(&config.node, cluster));
        Ok(Self {
            cluster: cluster.transpose().map_err(Error::PacketSocket)?,
            drain: Phase::default(),
            closed: BTreeSet::new(),
            follow_at: None,
            rested: Instant::now(),
            last: None,
            claims: BTreeMap::new(),
            mode: data_path.mode(),
            data_path,
            announcer: Announcer::default(),
            sender: Sender::open().map_err(Error::PacketSocket)?,
            saved: memory.clone(),
            groups: Groups::default(),
            unsaved: None,
            planner: Planner::new(memory),
            checker: Checker::start().map_err(Error::Checker)?,
            health: Arc::default(),
            desired: Desired::default(),
            interfaces,
            addresses: host::addresses(&config.interfaces),
            missing: HashSet::new(),
            changes: Changes::new(),
            plan: None,
            zone: None,
            complete: false,
            unread_endpoints: false,
            second_look: None,
            looked_twice: false,
            problems: Vec::new(),
            obstacles: Vec::new(),
            unprepared: Vec::new(),
            unattached: None,
            behind: false,
            failed: Vec::new(),
            answered: BTreeSet::new(),
            holding: Holding::default(),
            health_ports: HealthPorts::default(),
            suspects: HashSet::new(),
            leftovers: Leftovers::default(),
            asker: leftovers::sender::Sender::open().map_err(Error::RawSocket)?,
            config,
        })
    }

    /// Attaches the programs.
    fn attach(&mut self) -> Result<(), Error> {
        self.unprepared = host::enable_forwarding().iter().map(ToString::to_string).collect();
        self.unprepared.iter().for_each(|text| tracing::warn!("{text}"));
        self.data_path.attach(&self.interfaces)?;
        for interface in &self.interfaces {
            self.tell_attached(interface);
        }
        // A drain that has ended closed what there was; whoever starts without one serves it again.
        self.data_path.reopen()?;
        self.holding.adopt(self.answered_before());
        self.tell_interfaces();
        if self.mode != Mode::Active {
            tracing::warn!(mode = self.mode.name(), "packets are not balanced: `evenkeel mode active` changes that");
        }
        Ok(())
    }

    /// What an earlier process answered for, and on which of the interfaces.
    fn answered_before(&self) -> Owned {
        let names = |answer_on| {
            let answers = |one: &&Interface| self.data_path.answer_bit(one) & answer_on != 0;
            self.interfaces.iter().filter(answers).map(|one| one.name.clone()).collect::<Vec<_>>()
        };
        let vips = self.data_path.answered().map(|(vip, answer_on)| (vip, names(answer_on)));
        vips.filter(|(_, names)| !names.is_empty()).map(|(vip, names)| (vip, Some(names))).collect()
    }

    /// Plans with what changed and carries the difference out: the frontends first, then the VIPs. `noticed`: when the changes
    /// came.
    fn update(&mut self, update: &Update, noticed: Vec<Instant>) {
        // What is there at the start is no change.
        if self.plan.is_some() {
            self.changes.begin(noticed);
        }
        self.last = Some(update.clone());
        if self.decide(update) == Extent::Whole {
            self.follow_cluster();
        }
        tracing::info!(
            after_ms = self.changes_in_force().map(|taken| taken.as_secs_f64() * 1e3),
            frontends = self.plan.as_ref().map_or(0, |plan| plan.frontends.len()),
            problems = self.problems.len() + self.obstacles.len(),
            "carried out"
        );
    }

    /// Counts the changes if they are in force. Returns how long the first took.
    fn changes_in_force(&mut self) -> Option<Duration> {
        if self.behind { None } else { self.changes.finish(Instant::now()) }
    }

    fn decide(&mut self, update: &Update) -> Extent {
        let mut problems: Vec<String> = update.diagnostics.iter().map(ToString::to_string).collect();
        if self.plan.is_none() && !update.readable {
            // An earlier run may have left a data path that carries what these manifests say.
            self.tell(problems);
            tracing::warn!("waiting for the manifests; until they can be read nothing is changed");
            return Extent::Whole;
        }
        let was = (self.complete, self.unread_endpoints, self.zone.take());
        // Which addresses are answered for hangs on who owns them as well.
        let owners_changed = self.cluster.as_ref().is_some_and(Cluster::is_news);
        if !self.complete && update.readable {
            self.complete = self.misses_nothing(update);
        }
        let mut world = (*update.world).clone();
        if self.second_look.is_some() {
            world.gaps = Gaps::ALL;
        }
        if self.complete {
            // Addresses of a pool that an API has and that cannot be read are its controller's business; and nobody knows what an
            // advertisement is for that cannot be read.
            world.gaps = if self.cluster.is_some() { Gaps { services: false, ..world.gaps } } else { Gaps::default() };
        }
        self.unread_endpoints = !self.complete && world.gaps.endpoints;
        world.load_balancer_class.clone_from(&self.config.load_balancer_class);
        world.ignore_exclude_label = self.config.ignore_exclude_label;
        world.cluster = self.cluster.as_mut().map(Cluster::view);
        world.given_addresses = self.cluster.is_some();
        world.node_addresses.clone_from(&self.addresses);
        world.nodes.entry(self.config.node.clone()).or_insert_with(|| Node::new(self.config.node.clone()).into());
        self.zone = world.nodes.get(&self.config.node).and_then(|node| node.zone()).map(str::to_owned);
        self.planner.update(&world).iter().for_each(tell_event);
        let plan = self.planner.plan().clone();
        // What is only for the record is no problem; `plan` shows it.
        let problematic = plan.diagnostics().filter(|diagnostic| diagnostic.severity != Severity::Info);
        problems.extend(problematic.map(|finding| update.whereabouts.locate(finding).to_string()));
        for service in plan.services.values() {
            if let Some(error) = &service.error {
                problems.push(format!("[{}] {}: {}", error.reason, service.service(), error.message));
            }
        }
        self.tell(problems);
        let before = self.plan.replace(plan);
        self.cluster.iter_mut().for_each(Cluster::await_elections);
        // An address is remembered before anybody can hear of it.
        self.save();
        let is_behind = self.behind || owners_changed || !self.failed.is_empty();
        let before = before.filter(|_| !is_behind && was == (self.complete, self.unread_endpoints, self.zone.clone()));
        let extent = before.map_or(Extent::Whole, |before| self.carry_changed(&before));
        if extent == Extent::Whole {
            self.check_health();
            self.carry();
        }
        extent
    }

    /// Whether nothing can be missing from the World that an earlier process carries something for.
    fn misses_nothing(&mut self, update: &Update) -> bool {
        let mut errors = update.diagnostics.iter().filter(|found| found.is_error());
        if self.cluster.is_none() {
            return errors.next().is_none() && self.is_all_there_is(update);
        }
        // An API says of each object by itself what it is called, so the others are known to be all there are.
        let is_held = |found: &Diagnostic| match found.name.split_once('/') {
            Some((namespace, name)) => {
                let name = ObjectName::new(namespace, name);
                !update.world.services.contains_key(&name) && self.saved.allocations.contains_key(&name)
            }
            None => true,
        };
        !update.world.gaps.services || !errors.any(|found| found.kind == Kind::Service.as_str() && is_held(found))
    }

    /// Whether a directory has all that an earlier process had addresses for and announced, or is known to have it no more: it may
    /// be looked at for the first time while somebody fills it, or before its file system is there.
    fn is_all_there_is(&mut self, update: &Update) -> bool {
        let world = &update.world;
        let endpoints_of: HashSet<(&str, &str)> = world
            .endpoint_slices
            .values()
            .filter_map(|slice| Some((&*slice.name.namespace, slice.service.as_deref()?)))
            .chain(world.endpoints.keys().map(|name| (&*name.namespace, &*name.name)))
            .collect();
        let was_announced = |addresses: &[IpAddr]| addresses.iter().any(|it| self.saved.owners.contains_key(it));
        let is_absent = self.saved.allocations.iter().any(|(name, held)| {
            let has_endpoints = endpoints_of.contains(&(&*name.namespace, &*name.name));
            !world.services.contains_key(name) || (was_announced(&held.addresses) && !has_endpoints)
        });
        let is_unannounced = world.l2_advertisements.is_empty() && !self.saved.owners.is_empty();
        if self.looked_twice || !(is_absent || is_unannounced) {
            self.second_look = None;
            return true;
        }
        if self.second_look.is_none() {
            tracing::warn!("something of services that had addresses is missing: they go on until a second look");
            self.second_look = Some(Instant::now() + MASS_REMOVAL_DELAY);
        }
        false
    }

    /// Takes what is missing now for gone.
    fn look_again(&mut self) {
        (self.second_look, self.looked_twice) = (None, true);
        if let Some(update) = self.last.clone() {
            self.update(&update, Vec::new());
        }
    }

    /// Logs the problems that are new.
    fn tell(&mut self, problems: Vec<String>) {
        for new in problems.iter().filter(|text| !self.problems.contains(text)) {
            tracing::warn!("{new}");
        }
        self.problems = problems;
    }

    /// Writes the memory to disk if it is not there yet.
    fn save(&mut self) {
        let memory = self.planner.plan().memory();
        if self.saved.is(memory) {
            return;
        }
        match state::store(&self.config.state_directory, memory) {
            Ok(()) => {
                self.saved = memory.clone();
                self.unsaved = None;
            }
            Err(error) => {
                let text = format!("cannot write the state, so a restart may hand out other addresses: {error}");
                if self.unsaved.as_ref() != Some(&text) {
                    tracing::error!("{text}");
                }
                self.unsaved = Some(text);
            }
        }
    }
}
