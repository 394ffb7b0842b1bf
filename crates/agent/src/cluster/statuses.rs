//! What this node announces, told in the API: a `ServiceL2Status` for each service, as MetalLB's speakers write them, and
//! events.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use evenkeel_plan::world::ObjectName;
use evenkeel_sources::kubernetes::{
    backoff::{Backoff, random, shortened},
    events::{Events, Note, Subject},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kube::{
    Client,
    core::{
        params::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
        request::Request,
    },
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::owner;

/// Who says so.
const COMPONENT: &str = "evenkeel-agent";
/// What a status is about, as MetalLB labels it.
const NODE: &str = "metallb.io/node";
const SERVICE: &str = "metallb.io/service-name";
const SERVICE_NAMESPACE: &str = "metallb.io/service-namespace";
/// Of MetalLB's own they are told by this.
pub(super) const OURS: &str = "app.kubernetes.io/name=evenkeel";
/// How long the API may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The waits after failures. The kind may not be there at all.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How often it is looked whether what was told is still there, at the latest: others may delete it.
const RELIST_PERIOD: Duration = Duration::from_secs(60);
/// How many services are told of at the same time: a node may get thousands at once.
const CONCURRENCY: usize = 16;
/// About how many services one list asks what others have told of them.
const ASKED_AT_ONCE: usize = 64;
/// How long the last writes may take when the agent ends.
const GRACE: Duration = Duration::from_secs(2);

/// What is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// The services this node announces addresses of.
    pub(crate) announced: BTreeMap<ObjectName, Announced>,
    /// Addresses that it should announce and cannot, because it has none of the interfaces.
    pub(crate) failed: BTreeSet<(ObjectName, IpAddr)>,
}

/// How a service is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    /// The interfaces that its advertisements name; none: all.
    pub(crate) interfaces: Vec<String>,
    /// All of its addresses are announced here, so that nobody else announces any.
    pub(crate) whole: bool,
}

/// The task that tells it.
pub(crate) struct Statuses {
    told: watch::Sender<Option<Told>>,
    task: JoinHandle<()>,
}

impl Statuses {
    /// Starts it, within a Tokio runtime. Until something is to be told, statuses stay as they are.
    pub(crate) fn start(client: Client, namespace: &str, node: &str) -> Self {
        let (told, receiver) = watch::channel(None);
        Self { told, task: tokio::spawn(Writer::new(client, namespace, node).run(receiver)) }
    }

    /// Tells this from now on.
    pub(crate) fn set(&self, told: Told) {
        self.told.send_if_modified(|former| {
            let differs = former.as_ref() != Some(&told);
            if differs {
                *former = Some(told);
            }
            differs
        });
    }

    /// Ends it; what is under way may be finished.
    pub(crate) async fn end(self) {
        drop(self.told);
        let _ = timeout(GRACE, self.task).await;
    }
}

/// The API, as far as statuses and events are concerned.
struct Api {
    client: Client,
    events: Events,
    /// Of the statuses.
    path: String,
    node: String,
}

struct Writer {
    api: Api,
    /// The Node, whose end is that of its statuses; an inner `None`: the API has none.
    owner: Option<Option<Value>>,
    /// The statuses there are; `None`: they are to be listed.
    known: Option<BTreeMap<ObjectName, Status>>,
    /// They are listed again about so often.
    relist_period: Duration,
    told_failed: BTreeSet<(ObjectName, IpAddr)>,
}

/// A status as it is in the API.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Status {
    /// The object's name.
    name: String,
    node: String,
    service: ObjectName,
    interfaces: Vec<String>,
}

/// A write that brings the statuses closer to what is to be told.
#[derive(Debug, PartialEq, Eq)]
enum Write {
    Create(ObjectName),
    Update(String, ObjectName),
    Delete(String),
}

impl Writer {
    fn new(client: Client, namespace: &str, node: &str) -> Self {
        Self {
            api: Api {
                events: Events::new(client.clone(), COMPONENT, |_| {}),
                path: format!("/apis/metallb.io/v1beta1/namespaces/{namespace}/servicel2statuses"),
                client,
                node: node.to_owned(),
            },
            owner: None,
            known: None,
            relist_period: RELIST_PERIOD,
            told_failed: BTreeSet::new(),
        }
    }

    async fn run(mut self, mut told: watch::Receiver<Option<Told>>) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut failing = false;
        loop {
            let now = told.borrow_and_update().clone();
            let result = match &now {
                Some(now) => self.tell(now).await,
                None => Ok(()),
            };
            match result {
                Ok(()) => {
                    backoff.reset();
                    failing = false;
                    tokio::select! {
                        changed = told.changed() => if changed.is_err() { return },
                        // Agents of all nodes started together do not ask together.
                        () = sleep(shortened(self.relist_period, random())) => self.known = None,
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(error, "what this node announces cannot be told by ServiceL2Status objects");
                    }
                    // Something may have been written all the same.
                    self.known = None;
                    tokio::select! {
                        () = sleep(backoff.wait(random())) => {}
                        // Ends with the agent, or begins anew at once.
                        changed = told.changed() => if changed.is_err() { return },
                    }
                }
            }
        }
    }

    async fn tell(&mut self, told: &Told) -> Result<(), String> {
        let failed = told.failed.difference(&self.told_failed).cloned().collect::<Vec<_>>();
        for (service, address) in failed {
            let message = format!(
                "the interfaces specified by LB IP \"{address}\" doesn't exist in assigned node \"{}\" with protocol \
                 \"layer2\"",
                self.api.node
            );
            self.api.event(&service, Note { warning: true, reason: "announceFailed", message }).await?;
        }
        self.told_failed.clone_from(&told.failed);
        let known = match self.known.take() {
            Some(known) => known,
            None => {
                let own = self.api.list(&format!("{OURS},{NODE}={}", self.api.node)).await?;
                own.into_iter().map(|status| (status.service.clone(), status)).collect()
            }
        };
        let writes = writes(&known, told);
        let known = self.known.insert(known);
        if writes.iter().any(|write| matches!(write, Write::Create(_))) && self.owner.is_none() {
            self.owner = Some(self.api.owner().await?);
        }
        let (api, owner) = (&self.api, self.owner.as_ref().and_then(Option::as_ref));
        // What is new comes first.
        for some in writes.chunks(ASKED_AT_ONCE) {
            let new = some.iter().filter_map(|write| match write {
                Write::Create(service) => Some((service, told.announced.get(service)?)),
                Write::Update(..) | Write::Delete(_) => None,
            });
            let whole = new.filter(|(_, announced)| announced.whole).map(|(service, _)| service).collect();
            api.forget_others(&whole).await?;
            let writes: Vec<_> = some.iter().map(|write| api.write(write, told, owner)).collect();
            let mut done = stream::iter(writes).buffer_unordered(CONCURRENCY);
            while let Some(written) = done.try_next().await? {
                match written {
                    Written::Is(status) => _ = known.insert(status.service.clone(), status),
                    Written::Gone(name) => known.retain(|_, status| status.name != name),
                }
            }
        }
        Ok(())
    }
}

/// What a write has led to.
enum Written {
    Is(Status),
    Gone(String),
}

impl Api {
    async fn write(&self, write: &Write, told: &Told, owner: Option<&Value>) -> Result<Written, String> {
        let interfaces = |service: &ObjectName| {
            told.announced.get(service).map(|announced| announced.interfaces.clone()).unwrap_or_default()
        };
        match write {
            Write::Create(service) => self.create(service, interfaces(service), owner).await.map(Written::Is),
            Write::Update(name, service) => {
                self.update(name.clone(), service, interfaces(service)).await.map(Written::Is)
            }
            Write::Delete(name) => self.delete(name).await.map(|()| Written::Gone(name.clone())),
        }
    }

    /// Deletes what other nodes tell of services that only this one announces: of a node that died, or whose API is away, the
    /// status is still there.
    async fn forget_others(&self, services: &BTreeSet<&ObjectName>) -> Result<(), String> {
        if services.is_empty() {
            return Ok(());
        }
        let names: BTreeSet<&str> = services.iter().map(|service| &*service.name).collect();
        let names = names.into_iter().collect::<Vec<_>>().join(",");
        let statuses = self.list(&format!("{OURS},{SERVICE} in ({names})")).await?;
        for other in statuses.iter().filter(|status| services.contains(&status.service)) {
            self.delete(&other.name).await?;
        }
        Ok(())
    }

    /// A service that this node announces from now on.
    async fn create(
        &self,
        service: &ObjectName,
        interfaces: Vec<String>,
        owner: Option<&Value>,
    ) -> Result<Status, String> {
        let object = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "ServiceL2Status",
            "metadata": {
                "generateName": "l2-",
                "labels": { NODE: self.node, SERVICE: service.name, SERVICE_NAMESPACE: service.namespace,
                    "app.kubernetes.io/name": "evenkeel" },
                "ownerReferences": owner.map_or(&[][..], std::slice::from_ref),
            },
        });
        let body = serde_json::to_vec(&object).map_err(|error| error.to_string())?;
        let made = self.ask(Request::new(&self.path).create(&PostParams::default(), body)).await?;
        let name = made.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let status = self.update(name, service, interfaces).await?;
        let message = format!("announcing from node \"{}\" with protocol \"layer2\"", self.node);
        self.event(service, Note { warning: false, reason: "nodeAssigned", message }).await?;
        Ok(status)
    }

    async fn update(&self, name: String, service: &ObjectName, interfaces: Vec<String>) -> Result<Status, String> {
        let named: Vec<Value> = interfaces.iter().map(|interface| json!({ "name": interface })).collect();
        let status = json!({ "status": {
            "node": self.node, "serviceName": service.name, "serviceNamespace": service.namespace,
            "interfaces": named,
        } });
        let params = PatchParams::default();
        self.ask(Request::new(&self.path).patch_subresource("status", &name, &params, &Patch::Merge(&status))).await?;
        Ok(Status { name, node: self.node.clone(), service: service.clone(), interfaces })
    }

    async fn delete(&self, name: &str) -> Result<(), String> {
        match self.ask(Request::new(&self.path).delete(name, &DeleteParams::default())).await {
            Err(error) if !error.contains("NotFound") => Err(error),
            _ => Ok(()),
        }
    }

    /// The statuses with these labels.
    async fn list(&self, labels: &str) -> Result<Vec<Status>, String> {
        let listed = self.ask(Request::new(&self.path).list(&ListParams::default().labels(labels))).await?;
        let items = listed.get("items").and_then(Value::as_array).into_iter().flatten();
        Ok(items.filter_map(Status::read).collect())
    }

    /// What a status belongs to.
    async fn owner(&self) -> Result<Option<Value>, String> {
        in_time(owner::reference(&self.client, &self.node)).await
    }

    /// The UID of an object. By a list, which is what agents may do anyway.
    async fn uid(&self, path: &str, name: &str) -> Result<Option<String>, String> {
        let one = ListParams::default().fields(&format!("metadata.name={name}"));
        let listed = self.ask(Request::new(path).list(&one)).await?;
        Ok(listed.pointer("/items/0/metadata/uid").and_then(Value::as_str).map(str::to_owned))
    }

    async fn event(&self, service: &ObjectName, note: Note) -> Result<(), String> {
        if !self.events.has_room() {
            return Ok(());
        }
        let path = format!("/api/v1/namespaces/{}/services", service.namespace);
        // It may be gone again.
        if let Some(uid) = self.uid(&path, &service.name).await? {
            self.events.tell(Subject { version: "v1", kind: "Service", name: service.clone(), uid }, note);
        }
        Ok(())
    }

    async fn ask(&self, request: Result<http::Request<Vec<u8>>, kube::core::request::Error>) -> Result<Value, String> {
        let request = request.map_err(|error| error.to_string())?;
        in_time(self.client.request(request)).await
    }
}

/// An answer of the API, or why there is none.
async fn in_time<T>(answer: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match timeout(PATIENCE, answer).await.map_err(|_| "no answer in time".to_owned())? {
        Ok(answer) => Ok(answer),
        Err(kube::Error::Api(status)) => Err(format!("{}: {}", status.reason, status.message)),
        Err(error) => Err(error.to_string()),
    }
}

impl Status {
    fn read(object: &Value) -> Option<Self> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let label = |key: &str| object.get("metadata")?.get("labels")?.get(key)?.as_str();
        let interfaces = object.pointer("/status/interfaces").and_then(Value::as_array).into_iter().flatten();
        Some(Self {
            name: text("/metadata/name")?.to_owned(),
            node: text("/status/node").unwrap_or_default().to_owned(),
            service: ObjectName::new(label(SERVICE_NAMESPACE)?, label(SERVICE)?),
            interfaces: interfaces.filter_map(|one| Some(one.get("name")?.as_str()?.to_owned())).collect(),
        })
    }
}

/// What is to be written, first what is new.
fn writes(known: &BTreeMap<ObjectName, Status>, told: &Told) -> Vec<Write> {
    let current = told.announced.iter().filter_map(|(service, announced)| match known.get(service) {
        None => Some(Write::Create(service.clone())),
        // Without a node it was made, and not finished.
        Some(status) if status.interfaces != announced.interfaces || status.node.is_empty() => {
            Some(Write::Update(status.name.clone(), service.clone()))
        }
        Some(_) => None,
    });
    let gone = known.iter().filter(|(service, _)| !told.announced.contains_key(*service));
    current.chain(gone.map(|(_, status)| Write::Delete(status.name.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use evenkeel_fake_api::{FakeApi, Handle, Options};
    use evenkeel_sources::kubernetes;

    use super::*;

    const NAMESPACES: &str = "/api/v1/namespaces";
    const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    const STATUSES: &str = "/apis/metallb.io/v1beta1/namespaces/lb/servicel2statuses";
    /// How long anything may take on a machine that does other things as well.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// An API that knows statuses.
    async fn start_api() -> (Handle, Client) {
        let api = FakeApi::start("127.0.0.1:0".parse().unwrap(), Options::default()).await.unwrap();
        let client = kubernetes::client(kube::Config::new(api.url().parse().unwrap())).unwrap();
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "lb" } });
        let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": { "name": "servicel2statuses.metallb.io" },
            "spec": {
                "group": "metallb.io", "scope": "Namespaced",
                "names": { "kind": "ServiceL2Status", "plural": "servicel2statuses" },
                "versions": [{ "name": "v1beta1", "served": true, "storage": true,
                    "schema": { "openAPIV3Schema": schema }, "subresources": { "status": {} } }],
            },
        });
        for (path, object) in [(NAMESPACES, namespace), (DEFINITIONS, definition)] {
            let body = serde_json::to_vec(&object).unwrap();
            let request = Request::new(path).create(&PostParams::default(), body).unwrap();
            client.request::<Value>(request).await.unwrap();
        }
        (api, client)
    }

    /// The name of the one status there is, once it is complete.
    async fn await_status(client: &Client) -> String {
        let started = Instant::now();
        loop {
            let list = Request::new(STATUSES).list(&ListParams::default()).unwrap();
            let listed: Value = client.request(list).await.unwrap_or_default();
            if listed.pointer("/items/0/status/node").is_some() {
                return listed["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
            }
            assert!(started.elapsed() < PATIENCE, "no status: {listed:#}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn what_others_delete_is_told_again_and_nothing_else_is_written() {
        let (api, client) = start_api().await;
        let (sender, receiver) = watch::channel(Some(told(&[("web", &[])])));
        let writer = Writer::new(client.clone(), "lb", "node-1");
        let writer = Writer { relist_period: Duration::from_millis(20), ..writer };
        let task = tokio::spawn(writer.run(receiver));
        let first = await_status(&client).await;
        let delete = Request::new(STATUSES).delete(&first, &DeleteParams::default()).unwrap();
        client.request::<Value>(delete).await.unwrap();
        let second = await_status(&client).await;
        assert_ne!(first, second);
        let writes = || api.writes().get("metallb.io/servicel2statuses").copied();
        let asked = || api.requests().values().sum::<u64>();
        let (before, start) = (writes(), asked());
        let started = Instant::now();
        while asked() < start + 10 {
            assert!(started.elapsed() < PATIENCE, "it does not look");
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(writes(), before);
        drop(sender);
        task.await.unwrap();
    }

    fn status(service: &str, interfaces: &[&str]) -> (ObjectName, Status) {
        let service = ObjectName::new("default", service);
        let interfaces = interfaces.iter().map(|name| (*name).to_owned()).collect();
        (
            service.clone(),
            Status { name: format!("l2-{}", service.name), node: "node-1".to_owned(), service, interfaces },
        )
    }

    fn told(services: &[(&str, &[&str])]) -> Told {
        let announced = services.iter().map(|(service, interfaces)| {
            let interfaces = interfaces.iter().map(|name| (*name).to_owned()).collect();
            (ObjectName::new("default", *service), Announced { interfaces, whole: true })
        });
        Told { announced: announced.collect(), ..Told::default() }
    }

    #[test]
    fn only_what_differs_is_written() {
        let known = [status("a", &[]), status("b", &["eth0"]), status("c", &[])].into();
        assert_eq!(writes(&known, &told(&[("a", &[]), ("b", &["eth0"]), ("c", &[])])), []);
        let name = |service: &str| ObjectName::new("default", service);
        assert_eq!(
            writes(&known, &told(&[("a", &[]), ("b", &["eth1"]), ("d", &[])])),
            [Write::Update("l2-b".to_owned(), name("b")), Write::Create(name("d")), Write::Delete("l2-c".to_owned())]
        );
        let unfinished = [(name("a"), Status { node: String::new(), ..status("a", &[]).1 })].into();
        assert_eq!(writes(&unfinished, &told(&[("a", &[])])), [Write::Update("l2-a".to_owned(), name("a"))]);
    }

    #[test]
    fn what_cannot_be_read_is_left_alone() {
        assert_eq!(Status::read(&json!({})), None);
        assert_eq!(Status::read(&json!({ "metadata": { "name": "l2-x", "labels": { SERVICE: "web" } } })), None);
        let object = json!({
            "metadata": { "name": "l2-x", "labels": { SERVICE: "a", SERVICE_NAMESPACE: "default", NODE: "node-1" } },
            "status": { "node": "node-1", "interfaces": [{ "name": "eth0" }, {}] },
        });
        let (_, expected) = status("a", &["eth0"]);
        assert_eq!(Status::read(&object), Some(Status { name: "l2-x".to_owned(), ..expected }));
    }
}
