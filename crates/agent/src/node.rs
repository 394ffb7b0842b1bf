//! The loop of a node: what changes, and what follows from it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_health::{
    Group, View,
    passive::{Observation, Symptom},
};
use evenkeel_loader::{DataPath, Failure, FrontendSpec, Hook, Interface, Mode, Observed, Options, Others};
use evenkeel_maps::{FrontendKey, Vip};
use evenkeel_neighbor::{Announcer, Due, Mac};
use evenkeel_ownership::Input;
use evenkeel_plan::{
    Event, Memory, Plan, Planner, Severity,
    event::EventReason,
    frontends::{self, NodeView},
    world::{Gaps, Node},
};
use evenkeel_process::{admin, http};
use evenkeel_sources::{Diagnostic, Update, state};
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
    desired::{self, Desired, NotCarried},
    drain::Phase,
    groups::{self, Groups},
    health::Checker,
    health_ports::HealthPorts,
    host, metrics,
    next_hops::NextHops,
    status::{self, Status},
    vitals::Vitals,
};

/// How often interfaces are looked at: one may appear late, or be replaced by another of its name.
const INTERFACE_INTERVAL: Duration = Duration::from_secs(1);
/// Most VIPs announced in one go: thousands take longer than changes should wait.
const ANNOUNCED_AT_ONCE: usize = 64;
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
    let (asks, mut asked) = mpsc::channel::<oneshot::Sender<Status>>(8);
    let admin = bind(&node.config.admin_socket).await?;
    let vitals = Vitals::default();
    if let Some(address) = node.config.listen {
        let listener = http::bind(address).await.map_err(|source| Error::Http { address, source })?;
        tokio::spawn(http::serve(listener, Arc::new(vitals.clone()), shutdown.clone()));
    }
    // All that can be refused has been: from here on the node is changed.
    node.attach()?;
    let admin = tokio::spawn(admin.serve(
        move |path| {
            let asks = asks.clone();
            async move { answer(&path, &asks).await }
        },
        shutdown.clone(),
    ));

    // The receiver holds a first state that counts as seen.
    updates.mark_changed();
    let mut ended = false;
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
                    vitals.refresh(&node.ready(), || node.metrics());
                }
                if !node.drain_on() {
                    shutdown.cancel();
                    break;
                }
            }
            news = heard(&mut node.cluster) => node.hear(news),
            () = sleep_until(node.follow_at) => node.follow_at_last(),
            changed = updates.changed(), if !ended => match changed {
                Ok(()) => {
                    let (update, noticed) = {
                        let update = updates.borrow_and_update();
                        (update.clone(), update.noticed.take())
                    };
                    node.update(&update, noticed);
                }
                Err(_) => {
                    tracing::error!("the source of manifests has ended: what is carried stays as it is");
                    ended = true;
                }
            },
            Ok(()) = health.changed() => {
                let view = Arc::clone(&health.borrow_and_update());
                node.heed(view);
            }
            Some(reply) = asked.recv() => {
                // Whoever asked may have gone.
                let _ = reply.send(node.status());
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
            _ = interfaces.tick() => {
                node.look_at_interfaces();
                node.look_at_addresses();
                node.look_at_mode();
                node.finish();
                node.attend();
                vitals.refresh(&node.ready(), || node.metrics());
            }
            _ = claims.tick(), if node.cluster.is_some() => node.look_at_claims(),
            _ = reap.tick() => node.reap(),
            _ = observe.tick(), if !node.suspects.is_empty() => node.observe(),
        }
        if node.ready().is_ok()
            && let Some(ready) = ready.take()
        {
            vitals.refresh(&Ok(()), || node.metrics());
            ready();
        }
        if leaves_until.is_some() && node.has_left() {
            tracing::info!("everything is given away");
            break;
        }
    }
    // The admin socket goes before the data path does.
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

async fn answer(path: &str, asks: &mpsc::Sender<oneshot::Sender<Status>>) -> Option<admin::Answer> {
    if path != status::PATH {
        return None;
    }
    let (reply, answer) = oneshot::channel();
    asks.send(reply).await.ok()?;
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

/// Closes the frontends of these VIPs.
fn close(frontends: &mut [Arc<FrontendSpec>], closed: &BTreeSet<IpAddr>) {
    if closed.is_empty() {
        return;
    }
    for frontend in frontends.iter_mut().filter(|frontend| closed.contains(&frontend.key.address.ip())) {
        Arc::make_mut(frontend).closed = true;
    }
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
    /// Whether the manifests have been read without an error since the start. Until then an object that is missing may
    /// be one that could not be read, and what an earlier process carried for it stays.
    complete: bool,
    /// Problems of the manifests and of the Plan.
    problems: Vec<String>,
    /// What the last attempt to carry the Plan out met with.
    obstacles: Vec<String>,
    /// Whether the data plane is behind the Plan, so that it must be tried again.
    behind: bool,
    /// Frontends that are not carried at all.
    failed: Vec<FrontendKey>,
    /// VIPs this node answers for.
    answered: BTreeSet<IpAddr>,
    /// Those of them that another host claims, with its hardware address: they are not answered for until that is settled.
    claims: BTreeMap<IpAddr, Mac>,
    health_ports: HealthPorts,
    /// Frontends whose backends may be ejected for what their flows meet with.
    suspects: HashSet<FrontendKey>,
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
            problems: Vec::new(),
            obstacles: Vec::new(),
            behind: false,
            failed: Vec::new(),
            answered: BTreeSet::new(),
            health_ports: HealthPorts::default(),
            suspects: HashSet::new(),
            config,
        })
    }

    /// Attaches the programs.
    fn attach(&mut self) -> Result<(), Error> {
        host::enable_forwarding()?;
        self.data_path.attach(&self.interfaces)?;
        for interface in &self.interfaces {
            self.tell_attached(interface);
        }
        self.tell_interfaces();
        if self.mode != Mode::Active {
            tracing::warn!(mode = self.mode.name(), "packets are not balanced: `evenkeel mode active` changes that");
        }
        Ok(())
    }

    fn tell_attached(&self, interface: &Interface) {
        let hook = self.data_path.hook(interface).map_or("none", Hook::name);
        let link = if interface.running { "up" } else { "down" };
        tracing::info!(interface = interface.name, index = interface.index, link, hook, "attached");
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
        let was = (self.complete, self.zone.take());
        // Which addresses are answered for hangs on who owns them as well.
        let owners_changed = self.cluster.as_ref().is_some_and(Cluster::is_news);
        self.complete |= update.readable && !update.diagnostics.iter().any(Diagnostic::is_error);
        let mut world = (*update.world).clone();
        if self.complete {
            world.gaps = Gaps::default();
        }
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
        // An address is remembered before anybody can hear of it.
        self.save();
        let is_behind = self.behind || owners_changed || !self.failed.is_empty();
        let before = before.filter(|_| !is_behind && was == (self.complete, self.zone.clone()));
        let extent = before.map_or(Extent::Whole, |before| self.carry_changed(&before));
        if extent == Extent::Whole {
            self.check_health();
            self.carry();
        }
        extent
    }

    /// Has the backends checked whose services ask for that, and looks at what becomes of their flows.
    fn check_health(&mut self) {
        let Some(plan) = &self.plan else { return };
        let view = NodeView { name: &self.config.node, zone: self.zone.as_deref() };
        self.checker.set(plan.frontends.values().filter_map(|frontend| Group::of(frontend, view)).collect());
        let ejects =
            |frontend: &frontends::Frontend| frontend.health.as_ref().is_some_and(|health| health.passive_ejection);
        self.suspects = plan
            .frontends
            .values()
            .filter(|frontend| ejects(frontend))
            .filter_map(|frontend| desired::frontend_key(frontend).ok())
            .collect();
    }

    /// Carries what differs from the Plan before, if that is no more than where some frontends lead; else it does nothing, and
    /// everything has to be brought in line ([`Self::carry`]).
    fn carry_changed(&mut self, before: &Plan) -> Extent {
        let Some(plan) = &self.plan else { return Extent::Whole };
        let node = NodeView { name: &self.config.node, zone: self.zone.as_deref() };
        let Some(mut changed) = self.desired.changed(before, plan, node, self.config.defaults) else {
            return Extent::Whole;
        };
        close(&mut changed, &self.closed);
        if !self.data_path.change_frontends(&changed, Instant::now()).is_empty() {
            // It will be tried again, and told.
            return Extent::Whole;
        }
        if plan.frontends_since(before).into_iter().flatten().any(|frontend| frontend.health.is_some()) {
            self.check_health();
        }
        self.report_health();
        Extent::Frontends
    }

    /// Takes notice of what was heard of the cluster.
    fn hear(&mut self, news: Vec<Input>) {
        let Some(cluster) = &mut self.cluster else { return };
        let now = Instant::now();
        let was_live = cluster.is_live();
        for input in news {
            cluster.handle(input, now);
        }
        if cluster.is_live() && !was_live {
            // Whatever was cut off has heard nothing meanwhile.
            self.announcer.restart_all(now);
        }
        self.follow_at = Some(self.rested);
    }

    /// Draws the consequences of what was heard. That takes the longer the more addresses there are, and where thousands are
    /// taken there is news all the time: half of the time is left for hearing it.
    fn follow_at_last(&mut self) {
        let began = Instant::now();
        self.follow_cluster();
        self.rested = Instant::now() + began.elapsed();
    }

    /// Does what the cluster asks of this node, and decides anew when owners or nodes have become others.
    fn follow_cluster(&mut self) {
        self.follow_at = None;
        loop {
            let now = Instant::now();
            let Some(cluster) = &mut self.cluster else { return };
            if let Some(plan) = &self.plan {
                let not_carried = self.failed.iter().map(|key| key.address.ip()).collect();
                cluster.set_elected(plan, &not_carried, self.complete, now);
            }
            for vip in cluster.act(&self.interfaces, now) {
                tracing::warn!(%vip, "another host claims it, but it is this node's: answering again");
                self.data_path.settle_claim(vip);
                self.claims.remove(&vip);
                self.announcer.restart_vip(vip, now);
            }
            if !cluster.is_news() {
                break;
            }
            let Some(last) = self.last.clone() else { break };
            self.decide(&last);
            if self.plan.is_none() {
                break;
            }
        }
        self.announce();
    }

    /// Lets the data path answer for VIPs until the next time, and somewhat longer.
    fn attend(&mut self) {
        let cluster = self.config.cluster.as_ref();
        let limit = cluster.and_then(|cluster| cluster.unattended_limit);
        self.data_path.attend(limit, cluster.is_some(), self.drain.is_closing());
    }

    /// Finds out which VIPs the data path has stopped answering for because others claim them.
    fn look_at_claims(&mut self) {
        let claims = match self.data_path.claims() {
            Ok(claims) => claims,
            Err(error) => {
                tracing::warn!(%error, "cannot see who claims VIPs");
                return;
            }
        };
        if claims.is_empty() && self.claims.is_empty() {
            return;
        }
        let (claims, stale): (Vec<_>, Vec<_>) = claims.into_iter().partition(|(vip, _)| self.answered.contains(vip));
        for (vip, _) in stale {
            self.data_path.settle_claim(vip);
        }
        for (vip, mac) in claims.iter().filter(|(vip, _)| !self.claims.contains_key(vip)) {
            let mac = status::mac(*mac);
            if self.cluster.as_ref().is_none_or(|cluster| cluster.owns(*vip)) {
                tracing::warn!(%vip, mac, "another host claims it: not answering until it is clear whose it is");
            } else {
                tracing::info!(%vip, mac, "handed over");
            }
        }
        self.claims = claims.into_iter().collect();
        let Some(cluster) = &mut self.cluster else { return };
        cluster.set_claims(self.claims.keys().copied().collect(), Instant::now());
        self.follow_cluster();
    }

    /// Begins to give everything away; `false`: there is nobody to give it to, or no wish to.
    fn leave(&mut self, releases: bool) -> bool {
        let Some(cluster) = self.cluster.as_mut().filter(|cluster| releases && cluster.is_live()) else { return false };
        tracing::info!("giving everything away");
        cluster.handle(Input::Leave, Instant::now());
        self.follow_cluster();
        true
    }

    /// Whether it gives everything away whenever it ends.
    fn releases(&self) -> bool {
        self.config.cluster.as_ref().is_some_and(|cluster| cluster.release)
    }

    /// Whether somebody has asked for a drain; at first it is begun.
    fn drains(&mut self) -> bool {
        if !self.drain.has_begun() && self.config.drain.file.exists() {
            tracing::info!(file = %self.config.drain.file.display(), "draining: not ready any more");
            let gives_away = self.leave(true);
            let time = if gives_away { RELEASE_TIMEOUT } else { Duration::ZERO };
            self.drain = Phase::HandingOver { until: Instant::now() + time };
        }
        self.drain.has_begun()
    }

    /// Goes on with a drain; `false`: it is over.
    fn drain_on(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.drain.until().is_some_and(|until| until <= now);
        match self.drain {
            Phase::HandingOver { .. } if is_due || (self.cluster.is_some() && self.has_left()) => {
                let timeout = self.config.drain.shutdown_timeout;
                // What others have taken over goes on here for those who still send it here.
                self.closed = match (&self.cluster, &self.plan) {
                    (Some(_), _) => self.answered.clone(),
                    (None, Some(plan)) => plan.frontends.values().map(|frontend| frontend.address).collect(),
                    (None, None) => BTreeSet::new(),
                };
                self.drain = Phase::Closing { until: now + timeout };
                tracing::info!(
                    seconds = timeout.as_secs(),
                    vips = self.closed.len(),
                    "withdrawn: new connections are reset"
                );
                self.attend();
                self.carry();
                true
            }
            Phase::Closing { .. } if is_due => {
                tracing::info!("drained");
                false
            }
            _ => true,
        }
    }

    fn has_left(&self) -> bool {
        self.follow_at.is_none() && self.cluster.as_ref().is_none_or(Cluster::has_left)
    }

    /// Tells the cluster what this node's interfaces are.
    fn tell_interfaces(&mut self) {
        let voices = host::addresses(&self.config.interfaces);
        if let Some(cluster) = &mut self.cluster {
            cluster.set_interfaces(&self.interfaces, voices, Instant::now());
        }
    }

    /// Gives backends the shares that health checks leave them.
    fn heed(&mut self, health: Arc<View>) {
        self.desired.set_health(Arc::clone(&health));
        self.health = health;
        self.carry();
    }

    /// Tells the health checks what backends did to their clients.
    fn observe(&mut self) {
        let observed = match self.data_path.observe(&self.suspects) {
            Ok(observed) => observed,
            Err(error) => {
                tracing::warn!(%error, "cannot see how backends treat their clients");
                return;
            }
        };
        for Observed { frontend, backend, answered, failures } in observed {
            let Some(key) = desired::plan_key(&frontend) else { continue };
            if answered {
                self.checker.observe(key, backend, Observation::Success);
            }
            for (source, failure) in failures {
                let symptom = match failure {
                    Failure::Reset => Symptom::RstToSyn,
                    Failure::Unreachable => Symptom::IcmpUnreachable,
                    Failure::Silence => Symptom::SynUnanswered,
                };
                self.checker.observe(key, backend, Observation::Failure { source, symptom });
            }
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

    /// Brings the data plane and the announcements in line with the Plan.
    fn carry(&mut self) {
        let Some(plan) = &self.plan else { return };
        let mut obstacles = Vec::new();
        let node = NodeView { name: &self.config.node, zone: self.zone.as_deref() };
        let (mut frontends, not_carried) = self.desired.frontends(plan, node, self.config.defaults);
        close(&mut frontends, &self.closed);
        for NotCarried { frontend: (address, port, protocol), reason } in not_carried {
            obstacles.push(format!(
                "[{reason}] {address} port {port}/{protocol} is planned, but this data plane cannot carry it"
            ));
        }
        let now = Instant::now();
        let failures = self.data_path.set_frontends(&frontends, self.others(), now);
        self.behind = !failures.is_empty();
        // One that is carried goes on by its former table: no reason to take its VIP away.
        self.failed = failures.iter().map(|(key, _)| *key).filter(|key| !self.data_path.carries(*key)).collect();
        for (key, error) in failures {
            obstacles.push(format!("{}: {error}", SocketAddr::new(key.address.ip(), key.port())));
        }
        self.own(now, &mut obstacles);
        for new in obstacles.iter().filter(|text| !self.obstacles.contains(text)) {
            tracing::error!("{new}");
        }
        self.obstacles = obstacles;
        self.report_health();
    }

    /// Tells balancers outside of the cluster which services have endpoints here.
    fn report_health(&mut self) {
        let (Some(plan), Some(last)) = (&self.plan, &self.last) else { return };
        if self.config.health_check_node_ports {
            let healthy = !self.behind && self.missing.is_empty();
            self.health_ports.set(desired::health_reports(&last.world, plan, &self.config.node, healthy));
        }
    }

    /// Tries again what could not be done: rows and slots come free with time.
    fn finish(&mut self) {
        self.save();
        self.health_ports.open();
        if self.behind {
            self.carry();
            if !self.behind {
                tracing::info!("the data plane has caught up with the manifests");
                self.changes_in_force();
            }
        }
    }

    fn others(&self) -> Others {
        if self.complete { Others::Remove } else { Others::Keep }
    }

    /// Answers for and announces the VIPs this node owns, and nothing that is not carried.
    fn own(&mut self, now: Instant, obstacles: &mut Vec<String>) {
        let Some(plan) = &self.plan else { return };
        let owned = match &self.cluster {
            None => desired::owned(plan, &self.config.node),
            // Who owns what is not known yet: what an earlier process answers for stays.
            Some(cluster) if !cluster.has_begun() => return,
            Some(cluster) => desired::held(plan, |address| cluster.answers(address)),
        };
        // For the node's own addresses the host answers, and for ports of them that are nobody's.
        let at_vips = plan.frontends.values().filter(|frontend| !frontend.on_node);
        let mut vips: HashMap<IpAddr, Vip> = at_vips.map(|frontend| (frontend.address, Vip { answer_on: 0 })).collect();
        let mut due = Vec::new();
        let mut nowhere = BTreeSet::new();
        for (address, only_on) in owned {
            if self.failed.iter().any(|key| key.address.ip() == address) {
                continue;
            }
            let Some(vip) = vips.get_mut(&address) else { continue };
            for interface in &self.interfaces {
                if only_on.as_ref().is_none_or(|names| names.contains(&interface.name)) {
                    vip.answer_on |= self.data_path.answer_bit(interface);
                    due.push(Due { address, interface: interface.index });
                }
            }
            if vip.answer_on == 0 {
                nowhere.insert(address);
                obstacles
                    .push(format!("[no_interface] {address} is not announced: no advertised interface is attached"));
            }
        }
        if let Err(error) = self.data_path.set_vips(&vips, self.others()) {
            obstacles.push(format!("cannot change the VIPs: {error}"));
            self.behind = true;
            return;
        }
        let answered = vips.iter().filter(|(_, vip)| vip.answer_on != 0).map(|(address, _)| *address);
        let before = std::mem::replace(&mut self.answered, answered.collect());
        for new in self.answered.difference(&before) {
            // Whoever claimed it when this node had it last does so no longer, or will again.
            self.data_path.settle_claim(*new);
        }
        let interface = |index: u32| self.interfaces.iter().find(|interface| interface.index == index);
        let heard = due.iter().filter_map(|due| match due.address {
            IpAddr::V6(vip) => Some((vip, interface(due.interface)?)),
            IpAddr::V4(_) => None,
        });
        for failure in self.groups.set(heard) {
            obstacles.push(failure.to_string());
            self.behind = true;
        }
        // Nobody is to be attracted to what is only counted, nor to who is handing an address over.
        let counts_only = self.data_path.mode() == Mode::Observe;
        let owns = |address| self.cluster.as_ref().is_none_or(|cluster| cluster.owns(address));
        let is_leaving = self.drain.is_closing();
        due.retain(|due| !counts_only && !is_leaving && owns(due.address));
        self.announcer.set(due, now);
        self.announce();
        if let (Some(cluster), Some(plan)) = (&self.cluster, &self.plan) {
            let announces =
                |address| cluster.owns(address) && (self.answered.contains(&address) || nowhere.contains(&address));
            cluster.tell(desired::told(plan, announces, &nowhere));
        }
    }

    /// Sends what is due, or part of it: then the loop comes back here, and to what has changed meanwhile.
    fn announce(&mut self) {
        let now = Instant::now();
        for due in self.announcer.poll(now, ANNOUNCED_AT_ONCE) {
            let Some(interface) = self.interfaces.iter().find(|interface| interface.index == due.interface) else {
                continue;
            };
            match self.sender.announce(due.address, interface) {
                Ok(()) => tracing::debug!(vip = %due.address, interface = interface.name, "announced"),
                Err(error) => {
                    // Nobody can hear it; the link's state has been told already.
                    if interface.running {
                        tracing::warn!(vip = %due.address, interface = interface.name, %error, "not announced");
                    }
                    self.announcer.not_sent(due, now);
                }
            }
        }
    }

    /// Attaches again where an interface was replaced or got another hardware address, and announces anew where a link came
    /// up: a switch forgets what it knew of a port that was down.
    fn look_at_interfaces(&mut self) {
        let mut present = Vec::new();
        for name in &self.config.interfaces {
            match Interface::look_up(name) {
                Ok(interface) => {
                    self.missing.remove(name);
                    present.push(interface);
                }
                Err(error) => {
                    if self.missing.insert(name.clone()) {
                        tracing::error!(%error, "waiting for the interface");
                    }
                }
            }
        }
        if present == self.interfaces {
            return;
        }
        match self.data_path.attach(&present) {
            Ok(()) => {
                let now = Instant::now();
                let changed: Vec<Interface> =
                    present.iter().filter(|interface| !self.interfaces.contains(interface)).cloned().collect();
                self.interfaces = present;
                for interface in changed {
                    self.tell_attached(&interface);
                    if interface.running {
                        self.announcer.restart(interface.index, now);
                    }
                }
                self.tell_interfaces();
                self.carry();
                self.follow_cluster();
            }
            Err(error) => tracing::error!(%error, "cannot attach; trying again"),
        }
    }

    /// Follows the node's own addresses: services may be served there.
    fn look_at_addresses(&mut self) {
        let present = host::addresses(&self.config.interfaces);
        if present == self.addresses {
            return;
        }
        let shown: Vec<String> = present.iter().map(ToString::to_string).collect();
        tracing::info!(addresses = shown.join(", "), "the node's addresses have changed");
        self.addresses = present;
        if let Some(last) = self.last.clone() {
            self.decide(&last);
            self.follow_cluster();
        }
    }

    /// Tells when the mode was switched from outside.
    fn look_at_mode(&mut self) {
        let mode = self.data_path.mode();
        if mode != self.mode {
            tracing::warn!(mode = mode.name(), was = self.mode.name(), "the mode was switched");
            self.mode = mode;
        }
    }

    fn reap(&mut self) {
        self.data_path.reap();
    }

    /// Whether every VIP this node should carry is carried and announced; if not, why.
    fn ready(&self) -> Result<(), String> {
        let obstacles = [
            (self.drain.has_begun(), "draining"),
            (self.plan.is_none(), "what is to be carried is not known yet"),
            (self.cluster.as_ref().is_some_and(|cluster| !cluster.has_begun()), "who owns what is not known yet"),
            (self.follow_at.is_some(), "what was heard of the cluster is not in force yet"),
            (self.behind, "not everything is carried"),
            (!self.missing.is_empty(), "an interface is missing"),
            (!self.announcer.all_announced(), "not everything is announced"),
        ];
        let reason = obstacles.into_iter().find(|(is_so, _)| *is_so);
        reason.map_or(Ok(()), |(_, reason)| Err(reason.to_owned()))
    }

    fn metrics(&self) -> String {
        metrics::Snapshot {
            node: &self.config.node,
            ready: self.ready().is_ok(),
            counters: self.data_path.counters().unwrap_or_default(),
            flow_table: self.data_path.flow_table(),
            changes: &self.changes,
            plan: self.plan.as_ref(),
            announced: &self.answered,
            gratuitous: self.announcer.sent(),
            api: self.cluster.as_ref().map(Cluster::is_live),
            claims: self.claims.len(),
        }
        .to_string()
    }

    fn status(&self) -> Status {
        status::Snapshot {
            node: &self.config.node,
            ready: self.ready().is_ok(),
            changes: &self.changes,
            data_path: &self.data_path,
            interfaces: &self.interfaces,
            plan: self.plan.as_ref(),
            health: &self.health,
            announced: &self.answered,
            claims: &self.claims,
            record: &|address| self.cluster.as_ref().and_then(|cluster| cluster.record(address)),
            forwarding: self.config.defaults.forwarding,
            problems: self
                .problems
                .iter()
                .chain(&self.obstacles)
                .chain(&self.unsaved)
                .chain(self.health_ports.problems())
                .cloned()
                .collect(),
        }
        .status()
    }
}
