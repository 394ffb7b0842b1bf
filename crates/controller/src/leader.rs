//! What the leader does: follow the API, plan, and write what differs. Decisions are made on what the API was last seen to
//! say; a write that meets another version is refused by the API, and the next version decides anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_plan::world::{Kind, NodeAddressUse, ObjectKey, ObjectName};
use evenkeel_plan::{Memory, Plan, Planner, World};
use evenkeel_sources::Update;
use evenkeel_sources::kubernetes::backoff::{Backoff, random};
use evenkeel_sources::kubernetes::events::{Events, Subject};
use evenkeel_sources::kubernetes::{self, Observation, Observed, Options};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::core::params::{Patch, PatchParams, PostParams};
use kube::core::request::Request;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::lease::{self, Permit};
use crate::reconcile::{self, ConfigurationState, Counters, PoolWrite, ServiceWrite};
use crate::rival::{self, Rival};
use crate::unread::{self, Told};
use crate::vitals::Vitals;

/// How many writes are under way at the same time.
const CONCURRENCY: usize = 16;
/// How often the counters of pools are written at most.
const COUNT_PERIOD: Duration = Duration::from_secs(1);
/// The waits after a write that failed.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Who events are by.
const COMPONENT: &str = "evenkeel-controller";
/// The name of our ConfigurationState.
pub const CONFIGURATION_STATE: &str = "controller";
/// It is written again after so many durations of the lease, a minute as a rule: others may delete it, and nobody watches it.
const LEASES_BETWEEN_STATES: u32 = 4;

/// The leader, for as long as it is one.
pub(crate) struct Leader {
    class: Option<String>,
    node_address_use: NodeAddressUse,
    namespace: String,
    client: Client,
    permit: watch::Receiver<Permit>,
    request_timeout: Duration,
    vitals: Arc<Vitals>,
    events: Events,
    planner: Planner,
    /// What was last decided on.
    plan: Plan,
    world: World,
    observed: Observed,
    /// Services that cannot be read; nothing is written to them.
    unread: BTreeSet<ObjectName>,
    /// What their owners, and those of services whose last version cannot be read, are to be told, and have been.
    notes: BTreeMap<ObjectName, Told>,
    told: BTreeMap<ObjectName, Told>,
    /// What may differ from what it should be.
    dirty: BTreeSet<Target>,
    /// What was written last to each object, until it is seen.
    sent: BTreeMap<Target, Sent>,
    /// How long to wait for another try, for what failed.
    failures: BTreeMap<Target, Backoff>,
    writes: JoinSet<Outcome>,
    /// When the pools are counted next, and what they were counted to have.
    count_at: Option<Instant>,
    counters: BTreeMap<ObjectName, Counters>,
    configuration: Option<ConfigurationState>,
    /// How often it is written at least, and when it is again.
    state_period: Duration,
    state_at: Option<Instant>,
}

/// What is written to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Service(ObjectName),
    Pool(ObjectName),
    Configuration,
}

/// A write to it.
#[derive(Clone, Debug, PartialEq)]
enum Write {
    Service(ServiceWrite),
    Pool(PoolWrite),
    Configuration(ConfigurationState),
}

/// What became of the last write to an object.
#[derive(Debug)]
enum Sent {
    /// It is under way.
    UnderWay,
    /// The API has moved on from this version, by our write or another's: what it has come to decides.
    Past(String),
    /// Nobody else writes there, or it made no difference to the API: the same again is of no use.
    Last(Box<Write>),
    /// It failed, and is tried again then.
    Again(Instant),
}

/// A write that is done with.
struct Outcome {
    target: Target,
    write: Write,
    result: Result<String, kube::Error>,
}

impl Leader {
    pub(crate) fn new(config: &Config, client: Client, permit: watch::Receiver<Permit>, vitals: Arc<Vitals>) -> Self {
        Self {
            class: config.load_balancer_class.clone(),
            node_address_use: config.node_address_use.clone(),
            namespace: config.namespace.clone(),
            permit,
            request_timeout: config.times.request_timeout(),
            events: Events::new(client.clone(), COMPONENT, {
                let vitals = Arc::clone(&vitals);
                move |what| vitals.metrics.told(what)
            }),
            vitals,
            client,
            planner: Planner::new(Memory::default()),
            plan: Plan::default(),
            world: World::default(),
            observed: Observed::new(),
            unread: BTreeSet::new(),
            notes: BTreeMap::new(),
            told: BTreeMap::new(),
            dirty: BTreeSet::new(),
            sent: BTreeMap::new(),
            failures: BTreeMap::new(),
            writes: JoinSet::new(),
            count_at: None,
            counters: BTreeMap::new(),
            configuration: None,
            state_period: config.times.lease_duration * LEASES_BETWEEN_STATES,
            state_at: None,
        }
    }

    /// Lead until the permit expires or `shutdown`. When it returns, no write is under way.
    pub(crate) async fn lead(mut self, shutdown: &CancellationToken) {
        self.vitals.set_waits(Some("the API has not been read yet".to_owned()));
        let mut rival = rival::watch(self.client.clone(), self.class.clone(), self.events.clone());
        let options = Options {
            node_address_use: self.node_address_use.clone(),
            ..Options::new(&self.namespace).for_controller()
        };
        let mut updates = kubernetes::watch(self.client.clone(), options);
        let mut permit = self.permit.clone();
        let mut readable = false;
        loop {
            let waits = why_not(readable, &rival.borrow());
            if waits.is_none() {
                self.tell_of_unread();
                self.start_writes();
            }
            self.vitals.set_waits(waits);
            let next = self.next_retry();
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = lease::expired(&mut permit) => break,
                changed = updates.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let update = updates.borrow_and_update().clone();
                    // Before everything is known nothing is decided; afterwards what is known goes on to count.
                    readable |= update.readable;
                    if readable {
                        self.take_in(&update);
                    }
                }
                Some(done) = self.writes.join_next(), if !self.writes.is_empty() => {
                    if let Ok(outcome) = done {
                        self.finish(outcome);
                    }
                }
                changed = rival.changed() => if changed.is_err() { break },
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now).into()), if next.is_some() => self.retry(),
            }
        }
        self.vitals.set_waits(None);
        self.vitals.metrics.resign();
        // Each is bounded by its timeout.
        while let Some(done) = self.writes.join_next().await {
            if let Ok(outcome) = done {
                self.finish(outcome);
            }
        }
    }

    /// Decide on a new state of the API.
    fn take_in(&mut self, update: &Update) {
        let (world, unread) = unread::complete(update, self.class.as_ref());
        self.planner.update(&world);
        let plan = self.planner.plan().clone();
        let services = changed(&self.plan.services, &plan.services);
        let counts = !services.is_empty() || !changed(&self.world.pools, &world.pools).is_empty();
        if counts && self.count_at.is_none() {
            self.count_at = Some(Instant::now() + COUNT_PERIOD);
        }
        self.dirty.extend(services.into_iter().map(Target::Service));
        for key in changed(&self.observed, &update.observed) {
            let is_gone = !update.observed.contains_key(&key);
            let Some(target) = Target::of(key) else { continue };
            if is_gone && !matches!(self.sent.get(&target), Some(Sent::UnderWay)) {
                self.sent.remove(&target);
                self.failures.remove(&target);
            }
            self.dirty.insert(target);
        }
        (self.world, self.plan, self.unread) = (world, plan, unread);
        self.observed = update.observed.clone();
        self.notes = unread::notes(update, self.class.as_ref());
        let state = reconcile::configuration(update, &self.plan);
        if self.configuration.as_ref() != Some(&state) {
            self.vitals.metrics.set_configuration(&state);
            tracing::info!(result = state.result, errors = state.errors, "configuration");
            self.configuration = Some(state);
            self.dirty.insert(Target::Configuration);
        }
    }

    fn seen(&self, target: &Target) -> Option<&Observation> {
        self.observed.get(&target.key()?).map(Arc::as_ref)
    }

    /// What is to be written to an object now, if anything.
    fn decide(&self, target: &Target) -> Option<Write> {
        match target {
            Target::Service(name) => {
                let service = self.world.services.get(name).filter(|_| !self.unread.contains(name))?;
                let planned = self.plan.services.get(name).map(Arc::as_ref);
                reconcile::service(service, planned, self.seen(target)?).map(Write::Service)
            }
            Target::Pool(name) => reconcile::pool(name, *self.counters.get(name)?, self.seen(target)?).map(Write::Pool),
            Target::Configuration => self.configuration.clone().map(Write::Configuration),
        }
    }

    /// Start as many writes as may be under way.
    fn start_writes(&mut self) {
        while self.writes.len() < CONCURRENCY && lease::is_good(&self.permit) {
            let Some(target) = self.dirty.pop_first() else { return };
            match self.sent.get(&target) {
                // It comes up again when it is done with.
                Some(Sent::UnderWay | Sent::Again(_)) => continue,
                // It comes up again when the API is seen to have moved on.
                Some(Sent::Past(version)) if self.seen(&target).is_some_and(|seen| seen.version == *version) => {
                    continue;
                }
                Some(Sent::Past(_) | Sent::Last(_)) | None => {}
            }
            let Some(write) = self.decide(&target) else {
                self.sent.remove(&target);
                continue;
            };
            if matches!(self.sent.get(&target), Some(Sent::Last(last)) if **last == write) {
                continue;
            }
            self.sent.insert(target.clone(), Sent::UnderWay);
            let (client, limit, namespace) = (self.client.clone(), self.request_timeout, self.namespace.clone());
            self.writes.spawn(async move {
                let carried_out = tokio::time::timeout(limit, carry_out(&client, &namespace, &write)).await;
                let result = carried_out.unwrap_or_else(|_| Err(kube::Error::Service("no answer in time".into())));
                Outcome { target, write, result }
            });
        }
    }

    /// Draw the consequences of a write.
    fn finish(&mut self, Outcome { target, write, result }: Outcome) {
        if target == Target::Configuration {
            self.state_at = Some(Instant::now() + self.state_period);
        }
        let kind = write.kind();
        let basis = write.basis().to_owned();
        let said = match result {
            Ok(version) => {
                self.vitals.metrics.updates.inc();
                self.failures.remove(&target);
                if let Write::Service(write) = &write {
                    self.tell(write);
                }
                let moved_on = version != basis && target != Target::Configuration;
                self.sent.insert(target.clone(), if moved_on { Sent::Past(basis) } else { Sent::Last(write.into()) });
                self.dirty.insert(target);
                "written"
            }
            // The version it was decided on is past.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.sent.insert(target.clone(), Sent::Past(basis));
                self.dirty.insert(target);
                "conflict"
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.sent.insert(target, Sent::Last(write.into()));
                "gone"
            }
            Err(error) => {
                self.vitals.metrics.update_errors.inc();
                let backoff = self.failures.entry(target.clone());
                let wait = backoff.or_insert_with(|| Backoff::new(FIRST_WAIT, LONGEST_WAIT)).wait(random());
                tracing::warn!(%error, ?target, ?wait, "cannot write a status");
                self.sent.insert(target, Sent::Again(Instant::now() + wait));
                "failed"
            }
        };
        self.vitals.metrics.wrote(kind, said);
    }

    fn tell(&self, write: &ServiceWrite) {
        for note in &write.notes {
            self.events.tell(Subject::service(write.name.clone(), write.uid.clone()), note.clone());
        }
    }

    /// Tells the owners of services that cannot be read, to which nothing is written, what they have not been told.
    fn tell_of_unread(&mut self) {
        if self.told == self.notes {
            return;
        }
        for (name, (uid, note)) in self.notes.iter().filter(|(name, said)| self.told.get(*name) != Some(*said)) {
            self.events.tell(Subject::service(name.clone(), uid.clone()), note.clone());
        }
        self.told.clone_from(&self.notes);
    }

    fn next_retry(&self) -> Option<Instant> {
        let again = self.failures.keys().filter_map(|target| match self.sent.get(target) {
            Some(Sent::Again(at)) => Some(*at),
            _ => None,
        });
        again.chain(self.count_at).chain(self.state_at).min()
    }

    /// What was written last may not be there any more. A write that is under way, or waits, is one anyway.
    fn write_state_again(&mut self) {
        if matches!(self.sent.get(&Target::Configuration), Some(Sent::Last(_))) {
            self.sent.remove(&Target::Configuration);
            self.dirty.insert(Target::Configuration);
        }
    }

    fn retry(&mut self) {
        let now = Instant::now();
        let due = |target: &&Target| matches!(self.sent.get(target), Some(Sent::Again(at)) if *at <= now);
        for target in self.failures.keys().filter(due).cloned().collect::<Vec<_>>() {
            self.sent.remove(&target);
            self.dirty.insert(target);
        }
        if self.state_at.take_if(|at| *at <= now).is_some() {
            self.write_state_again();
        }
        if self.count_at.take_if(|at| *at <= now).is_some() {
            let pools = self.world.pools.values().map(Arc::as_ref);
            self.counters = reconcile::counters(pools, &self.namespace, &self.plan);
            self.vitals.metrics.set_pools(&self.counters, &self.plan);
            self.dirty.extend(self.counters.keys().cloned().map(Target::Pool));
        }
    }
}

impl Target {
    fn of(key: ObjectKey) -> Option<Self> {
        match key.kind {
            Kind::Service => Some(Self::Service(key.name)),
            Kind::IpAddressPool => Some(Self::Pool(key.name)),
            _ => None,
        }
    }

    /// Under which it is observed, if it is.
    fn key(&self) -> Option<ObjectKey> {
        let (kind, name) = match self {
            Self::Service(name) => (Kind::Service, name),
            Self::Pool(name) => (Kind::IpAddressPool, name),
            Self::Configuration => return None,
        };
        Some(ObjectKey { kind, name: name.clone() })
    }
}

/// Why nothing is written at present.
fn why_not(readable: bool, rival: &Rival) -> Option<String> {
    match rival {
        _ if !readable => Some("the API has not been read yet".to_owned()),
        Rival::Unknown => Some("it is not known yet whether a MetalLB is still running".to_owned()),
        Rival::Running(name) => Some(format!("MetalLB's controller {name} is still running")),
        Rival::None => None,
    }
}

/// The keys whose values differ.
fn changed<K: Ord + Clone, V: PartialEq + Clone>(before: &OrdMap<K, V>, now: &OrdMap<K, V>) -> Vec<K> {
    let key = |item| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => K::clone(key),
    };
    before.diff(now).map(key).collect()
}

impl Write {
    fn kind(&self) -> &'static str {
        match self {
            Self::Service(_) => "Service",
            Self::Pool(_) => "IPAddressPool",
            Self::Configuration(_) => "ConfigurationState",
        }
    }

    /// The version it was decided on; none for what is ours alone.
    fn basis(&self) -> &str {
        match self {
            Self::Service(write) => &write.version,
            Self::Pool(write) => &write.version,
            Self::Configuration(_) => "",
        }
    }
}

/// Carry a write out. Returns the version it made.
async fn carry_out(client: &Client, namespace: &str, write: &Write) -> Result<String, kube::Error> {
    let metallb = |plural: &str, namespace: &str| format!("/apis/metallb.io/v1beta1/namespaces/{namespace}/{plural}");
    match write {
        Write::Service(write) => {
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let path = format!("/api/v1/namespaces/{}/services", write.name.namespace);
            patch_status(client, &path, &write.name.name, &write.patch(&now)).await
        }
        Write::Pool(write) => {
            let path = metallb("ipaddresspools", &write.name.namespace);
            patch_status(client, &path, &write.name.name, &write.patch()).await
        }
        Write::Configuration(state) => {
            let path = metallb("configurationstates", namespace);
            let patched = patch_status(client, &path, CONFIGURATION_STATE, &state.patch()).await;
            match patched {
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    create(client, &path, namespace).await?;
                    patch_status(client, &path, CONFIGURATION_STATE, &state.patch()).await
                }
                patched => patched,
            }
        }
    }
}

/// A merge patch: it names what it changes and nothing else, and carries the version it was decided on.
async fn patch_status(client: &Client, path: &str, name: &str, patch: &Value) -> Result<String, kube::Error> {
    let request = Request::new(path).patch_subresource("status", name, &PatchParams::default(), &Patch::Merge(patch));
    let object: Value = client.request(request.map_err(kube::Error::BuildRequest)?).await?;
    Ok(object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default().to_owned())
}

async fn create(client: &Client, path: &str, namespace: &str) -> Result<(), kube::Error> {
    let object = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "ConfigurationState",
        "metadata": {"name": CONFIGURATION_STATE, "namespace": namespace},
    });
    let body = serde_json::to_vec(&object).map_err(kube::Error::SerdeError)?;
    let request = Request::new(path).create(&PostParams::default(), body).map_err(kube::Error::BuildRequest)?;
    client.request::<Value>(request).await.map(drop)
}
