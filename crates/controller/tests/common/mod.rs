//! An API with controllers in front of it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use evenkeel_controller::Config;
use evenkeel_controller::election::Times;
use evenkeel_fake_api::{FakeApi, Handle, Options};
use evenkeel_plan::world::NodeAddressUse;
use evenkeel_sources::kubernetes;
use kube::Client;
use kube::core::params::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::request::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The namespace of the configuration.
pub(crate) const SYSTEM: &str = "lb";
/// How long anything may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const SERVICES: &str = "/api/v1/namespaces/shop/services";
pub(crate) const POOLS: &str = "/apis/metallb.io/v1beta1/namespaces/lb/ipaddresspools";
pub(crate) const EVENTS: &str = "/api/v1/namespaces/shop/events";
pub(crate) const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A cluster that consists of its API.
pub(crate) struct Cluster {
    pub(crate) api: Handle,
    pub(crate) client: Client,
}

impl Cluster {
    /// With MetalLB's definitions, and a pool of these ranges.
    pub(crate) async fn new(ranges: &[&str]) -> Self {
        let api = FakeApi::start("127.0.0.1:0".parse().unwrap(), Options::default()).await.unwrap();
        let client = kubernetes::client(kube::Config::new(api.url().parse().unwrap())).unwrap();
        let cluster = Self { api, client };
        for namespace in [SYSTEM, "shop"] {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            cluster.create("/api/v1/namespaces", &object).await;
        }
        cluster.define().await;
        if !ranges.is_empty() {
            cluster.create(POOLS, &pool("p", ranges)).await;
        }
        cluster
    }

    /// Create MetalLB's definitions.
    pub(crate) async fn define(&self) {
        for (kind, plural) in [("IPAddressPool", "ipaddresspools"), ("ConfigurationState", "configurationstates")] {
            self.create(CRDS, &definition(kind, plural)).await;
        }
        self.until("the definitions are served", async || self.list(POOLS).await.is_some()).await;
    }

    pub(crate) async fn create(&self, path: &str, object: &Value) -> Value {
        let request = Request::new(path).create(&PostParams::default(), serde_json::to_vec(object).unwrap()).unwrap();
        self.client.request(request).await.unwrap_or_else(|error| panic!("{path}: {error}: {object}"))
    }

    pub(crate) async fn patch(&self, path: &str, name: &str, patch: &Value) -> Value {
        let request = Request::new(path).patch(name, &PatchParams::default(), &Patch::Merge(patch)).unwrap();
        self.client.request(request).await.unwrap()
    }

    pub(crate) async fn patch_status(&self, path: &str, name: &str, patch: &Value) -> Value {
        let request =
            Request::new(path).patch_subresource("status", name, &PatchParams::default(), &Patch::Merge(patch));
        self.client.request(request.unwrap()).await.unwrap()
    }

    pub(crate) async fn delete(&self, path: &str, name: &str) {
        let request = Request::new(path).delete(name, &DeleteParams::default()).unwrap();
        self.client.request::<Value>(request).await.unwrap();
    }

    pub(crate) async fn get(&self, path: &str, name: &str) -> Value {
        self.client.request(Request::new(path).get(name, &Default::default()).unwrap()).await.unwrap()
    }

    /// The objects of a collection; `None` when there is no such.
    pub(crate) async fn list(&self, path: &str) -> Option<Vec<Value>> {
        let list: Value = self.client.request(Request::new(path).list(&ListParams::default()).unwrap()).await.ok()?;
        Some(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Wait until something is so.
    pub(crate) async fn until(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let started = Instant::now();
        while !is_so().await {
            if started.elapsed() > PATIENCE {
                panic!("not so after {PATIENCE:?}: {what}\n{:#?}", self.list(SERVICES).await);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The addresses of a service.
    pub(crate) async fn addresses(&self, name: &str) -> Vec<String> {
        addresses(&self.get(SERVICES, name).await)
    }

    pub(crate) async fn until_has(&self, name: &str, expected: &[&str]) {
        let what = format!("{name} has {expected:?}");
        self.until(&what, async || self.addresses(name).await == expected).await;
    }

    /// The condition of a service: its status and reason.
    pub(crate) async fn condition(&self, name: &str) -> Option<(String, String)> {
        let service = self.get(SERVICES, name).await;
        let ours = |condition: &&Value| condition["type"] == "evenkeel.io/AddressesAssigned";
        let condition = service["status"]["conditions"].as_array()?.iter().find(ours)?;
        let text = |field: &str| condition[field].as_str().unwrap().to_owned();
        Some((text("status"), text("reason")))
    }

    pub(crate) async fn until_refused(&self, name: &str, reason: &str) {
        let refused = Some(("False".to_owned(), reason.to_owned()));
        self.until(reason, async || self.condition(name).await == refused).await;
    }

    /// The addresses of all services, by name.
    pub(crate) async fn all(&self) -> BTreeMap<String, Vec<String>> {
        let services = self.list(SERVICES).await.unwrap();
        services
            .iter()
            .map(|service| (service["metadata"]["name"].as_str().unwrap().to_owned(), addresses(service)))
            .collect()
    }

    /// How often services were written.
    pub(crate) fn writes(&self) -> u64 {
        self.api.writes().get("/services").copied().unwrap_or_default()
    }

    /// Wait until the controller has had every reason to write once more: another service got its address.
    pub(crate) async fn until_at_rest(&self) {
        let name = format!("marker-{}", self.api.revision());
        self.create(SERVICES, &service(&name, &json!({}))).await;
        self.until("the marker is served", async || self.condition(&name).await.is_some()).await;
        self.delete(SERVICES, &name).await;
    }

    pub(crate) fn start(&self, identity: &str) -> Controller {
        self.start_with(identity, |_| {})
    }

    pub(crate) fn start_with(&self, identity: &str, change: impl FnOnce(&mut Config)) -> Controller {
        let mut config = Config {
            namespace: SYSTEM.to_owned(),
            load_balancer_class: None,
            node_address_use: NodeAddressUse::of(&[]),
            identity: identity.to_owned(),
            lease: "evenkeel-controller".to_owned(),
            times: Times {
                lease_duration: Duration::from_secs(4),
                renew_deadline: Duration::from_secs(2),
                retry_period: Duration::from_millis(200),
            },
            listen: "127.0.0.1:0".parse().unwrap(),
            webhook: None,
        };
        change(&mut config);
        let stop = CancellationToken::new();
        // Each has connections of its own, as a process would.
        let client = kubernetes::client(kube::Config::new(self.api.url().parse().unwrap())).unwrap();
        let (told, listens) = watch::channel(None);
        let run = evenkeel_controller::run(config, client, stop.clone(), move |address| _ = told.send(Some(address)));
        Controller { stop, task: tokio::spawn(async move { run.await.unwrap() }), listens }
    }
}

/// A running controller.
pub(crate) struct Controller {
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Where it serves its metrics, once it does.
    listens: watch::Receiver<Option<SocketAddr>>,
}

impl Controller {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// What it says at `/metrics`.
    pub(crate) async fn metrics(&self) -> String {
        let mut listens = self.listens.clone();
        let address = (*listens.wait_for(Option::is_some).await.unwrap()).unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    /// Whether this is a line of its metrics.
    pub(crate) async fn says(&self, line: &str) -> bool {
        self.metrics().await.lines().any(|found| found == line)
    }

    /// Without any farewell.
    pub(crate) fn kill(self) {
        self.task.abort();
    }
}

pub(crate) fn addresses(service: &Value) -> Vec<String> {
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    ingress.iter().map(|ingress| ingress["ip"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn service(name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "annotations": annotations},
        "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": [{"port": 80}]},
    })
}

pub(crate) fn pool(name: &str, ranges: &[&str]) -> Value {
    json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
        "metadata": {"name": name, "namespace": SYSTEM}, "spec": {"addresses": ranges},
    })
}

fn definition(kind: &str, plural: &str) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.metallb.io")},
        "spec": {
            "group": "metallb.io", "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
            "versions": [{
                "name": "v1beta1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}},
            }],
        },
    })
}
