//! The World from an API over HTTP: what lists, watches and their failures come to.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::time::{Duration, Instant};

use evenkeel_fake_api::{FakeApi, Handle, Mood};
use evenkeel_sources::kubernetes::{self, Options, watch};
use evenkeel_sources::{Directory, Update};
use kube::Client;
use kube::core::params::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::request::Request;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;

const PATIENCE: Duration = Duration::from_secs(60);
const SERVICES: &str = "/api/v1/namespaces/shop/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
const POOLS: &str = "/apis/metallb.io/v1beta1/namespaces/lb/ipaddresspools";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

struct Cluster {
    api: Handle,
    client: Client,
}

impl Cluster {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut evenkeel_fake_api::Options)) -> Self {
        let mut options = evenkeel_fake_api::Options::default();
        change(&mut options);
        let api = FakeApi::start("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
        let client = kubernetes::client(kube::Config::new(api.url().parse().unwrap())).unwrap();
        let cluster = Self { api, client };
        for name in ["lb", "shop"] {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            cluster.create("/api/v1/namespaces", &namespace).await;
        }
        cluster
    }

    async fn create(&self, path: &str, object: &Value) {
        let request = Request::new(path).create(&PostParams::default(), serde_json::to_vec(object).unwrap()).unwrap();
        self.client.request::<Value>(request).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    async fn delete(&self, path: &str, name: &str) {
        let request = Request::new(path).delete(name, &DeleteParams::default()).unwrap();
        self.client.request::<Value>(request).await.unwrap();
    }

    async fn patch(&self, path: &str, name: &str, patch: &Value) {
        let request = Request::new(path).patch(name, &PatchParams::default(), &Patch::Merge(patch)).unwrap();
        self.client.request::<Value>(request).await.unwrap();
    }

    async fn services(&self, count: usize) {
        for n in 0..count {
            self.create(SERVICES, &service(&format!("s{n}"))).await;
        }
    }

    async fn define_pools(&self) {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let names = json!({"kind": "IPAddressPool", "plural": "ipaddresspools", "singular": "p", "listKind": "PList"});
        let version = json!({
            "name": "v1beta1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
        });
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "ipaddresspools.metallb.io"},
            "spec": {"group": "metallb.io", "scope": "Namespaced", "names": names, "versions": [version]},
        });
        self.create(CRDS, &definition).await;
    }

    fn watch(&self) -> Receiver<Update> {
        watch(self.client.clone(), Options::new("lb"))
    }

    /// The same, page by page.
    fn watch_by_pages(&self) -> Receiver<Update> {
        watch(self.client.clone(), Options { streams: false, ..Options::new("lb") })
    }
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
    })
}

fn slice(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
    })
}

fn pool(name: &str, range: &str) -> Value {
    json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
        "metadata": {"name": name, "namespace": "lb"}, "spec": {"addresses": [range]},
    })
}

/// Wait for a state of the source.
async fn until(updates: &mut Receiver<Update>, what: &str, is_so: impl FnMut(&Update) -> bool) -> Update {
    let found = tokio::time::timeout(PATIENCE, updates.wait_for(is_so)).await.map(|update| update.unwrap().clone());
    found.unwrap_or_else(|_| panic!("not so: {what}: {:?}", updates.borrow().diagnostics))
}

fn ours(update: &Update) -> usize {
    update.world.services.keys().filter(|name| name.namespace == "shop").count()
}

fn has(update: &Update, reason: &str) -> bool {
    update.diagnostics.iter().any(|diagnostic| diagnostic.reason == reason)
}

#[tokio::test]
async fn it_follows_what_is_created_changed_and_deleted() {
    let cluster = Cluster::new().await;
    cluster.services(3).await;
    let mut updates = cluster.watch();
    assert!(!updates.borrow().readable);
    until(&mut updates, "three services", |update| update.readable && ours(update) == 3).await;
    cluster.create(SLICES, &slice("s0", "10.1.0.1")).await;
    until(&mut updates, "a slice", |update| update.world.endpoint_slices.len() == 1).await;
    cluster.patch(SERVICES, "s1", &json!({"metadata": {"labels": {"a": "b"}}})).await;
    until(&mut updates, "a label", |update| update.world.services.values().any(|s| s.labels.contains_key("a"))).await;
    cluster.delete(SERVICES, "s2").await;
    until(&mut updates, "one less", |update| ours(update) == 2).await;
    cluster.delete(SLICES, "s0").await;
    until(&mut updates, "no slice", |update| update.world.endpoint_slices.is_empty()).await;
}

#[tokio::test]
async fn a_directory_and_an_api_give_the_same_world() {
    let cluster = Cluster::new().await;
    cluster.define_pools().await;
    let objects = [(SERVICES, service("web")), (SLICES, slice("web", "10.1.0.1")), (POOLS, pool("p", "10.0.0.0/24"))];
    let directory = tempfile::tempdir().unwrap();
    for (n, (path, object)) in objects.iter().enumerate() {
        cluster.create(path, object).await;
        std::fs::write(directory.path().join(format!("{n}.json")), object.to_string()).unwrap();
    }
    let mut updates = cluster.watch();
    let update = until(&mut updates, "a pool", |update| update.readable && update.world.pools.len() == 1).await;
    let loaded = Directory::load_once(&[directory.path().to_owned()]);
    assert_eq!(update.world.pools, loaded.world.pools);
    assert_eq!(update.world.endpoint_slices, loaded.world.endpoint_slices);
    let plan = |world| evenkeel_plan::plan(world, &evenkeel_plan::Memory::default());
    assert_eq!(plan(&update.world).services, plan(&loaded.world).services);
}

#[tokio::test]
async fn a_list_of_several_pages_is_one_list() {
    let cluster = Cluster::new().await;
    cluster.services(1100).await;
    let mut updates = cluster.watch_by_pages();
    let update = until(&mut updates, "readable", |update| update.readable).await;
    assert_eq!(ours(&update), 1100);
}

#[tokio::test]
async fn definitions_that_come_later_are_noticed() {
    let cluster = Cluster::new().await;
    let mut updates = cluster.watch();
    until(&mut updates, "readable without definitions", |update| update.readable).await;
    cluster.define_pools().await;
    cluster.create(POOLS, &pool("p", "10.0.0.0/24")).await;
    until(&mut updates, "the pool", |update| update.world.pools.len() == 1).await;
}

#[tokio::test]
async fn pools_that_vanish_with_their_definition_stay_until_some_are_back() {
    let cluster = Cluster::new().await;
    cluster.define_pools().await;
    let pools = [pool("p", "10.0.0.0/24"), pool("q", "10.0.1.0/24")];
    for pool in &pools {
        cluster.create(POOLS, pool).await;
    }
    let mut updates = cluster.watch();
    until(&mut updates, "two pools", |update| update.readable && update.world.pools.len() == 2).await;
    cluster.delete(CRDS, "ipaddresspools.metallb.io").await;
    until(&mut updates, "it is noticed", |update| has(update, "source_unreadable")).await;
    cluster.define_pools().await;
    let update =
        until(&mut updates, "the definition is back", |update| update.readable && has(update, "mass_removal")).await;
    assert_eq!(update.world.pools.len(), 2);
    cluster.create(POOLS, &pools[1]).await;
    let update = until(&mut updates, "the other one is not", |update| update.world.pools.len() == 1).await;
    assert!(update.world.pools.keys().all(|name| name.name == "q") && !update.world.gaps.pools);
    assert!(!has(&update, "mass_removal"));
}

#[tokio::test]
async fn a_watch_from_too_long_ago_lists_again() {
    for gone_as_status in [false, true] {
        let cluster = Cluster::with(|options| options.gone_as_status = gone_as_status).await;
        cluster.services(3).await;
        let mut updates = cluster.watch();
        until(&mut updates, "three services", |update| ours(update) == 3).await;
        cluster.api.set_mood(Mood::Fail(503));
        until(&mut updates, "it is noticed", |update| !update.readable && has(update, "source_unreadable")).await;
        assert_eq!(ours(&updates.borrow()), 3, "everything stays as it is");
        cluster.api.set_mood(Mood::Fine);
        cluster.delete(SERVICES, "s0").await;
        cluster.create(SERVICES, &service("new")).await;
        cluster.api.compact();
        cluster.api.close_watches();
        let update = until(&mut updates, "one gone, one new", |update| {
            let names: Vec<&str> = update.world.services.keys().map(|name| name.name.as_str()).collect();
            !names.contains(&"s0") && names.contains(&"new")
        })
        .await;
        assert_eq!(ours(&update), 3);
        until(&mut updates, "readable again", |update| update.readable && update.diagnostics.is_empty()).await;
    }
}

#[tokio::test]
async fn an_empty_list_removes_nothing() {
    let cluster = Cluster::new().await;
    cluster.services(5).await;
    let mut updates = cluster.watch_by_pages();
    until(&mut updates, "five services", |update| ours(update) == 5).await;
    cluster.api.empty_lists("services", 1);
    // What is compacted includes what the watch has seen last.
    cluster
        .create("/api/v1/namespaces", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}))
        .await;
    cluster.api.compact();
    cluster.api.close_watches();
    until(&mut updates, "the alarm", |update| has(update, "mass_removal")).await;
    assert_eq!(ours(&updates.borrow()), 5);
    let update = until(&mut updates, "the end of it", |update| !has(update, "mass_removal")).await;
    assert_eq!(ours(&update), 5, "the second list found them all");
}

#[tokio::test]
async fn losing_everything_is_confirmed_and_then_believed() {
    let cluster = Cluster::new().await;
    cluster.services(6).await;
    let mut updates = cluster.watch();
    until(&mut updates, "six services", |update| ours(update) == 6).await;
    for n in 0..6 {
        cluster.delete(SERVICES, &format!("s{n}")).await;
    }
    until(&mut updates, "none", |update| ours(update) == 0).await;
    until(&mut updates, "no alarm", |update| !has(update, "mass_removal")).await;
}

#[tokio::test]
async fn an_api_that_hangs_or_refuses_freezes_the_world() {
    let cluster = Cluster::new().await;
    cluster.services(4).await;
    let mut updates = cluster.watch();
    until(&mut updates, "four services", |update| ours(update) == 4).await;
    cluster.api.set_mood(Mood::Refuse);
    until(&mut updates, "it is noticed", |update| !update.readable).await;
    assert_eq!(ours(&updates.borrow()), 4);
    cluster.api.set_mood(Mood::Fine);
    until(&mut updates, "it is back", |update| update.readable).await;
    cluster.create(SERVICES, &service("new")).await;
    until(&mut updates, "and followed", |update| ours(update) == 5).await;
}

#[tokio::test]
async fn a_change_is_noticed_at_once() {
    let cluster = Cluster::new().await;
    let mut updates = cluster.watch();
    until(&mut updates, "readable", |update| update.readable).await;
    let created = Instant::now();
    cluster.create(SERVICES, &service("web")).await;
    let update = until(&mut updates, "the service", |update| ours(update) == 1).await;
    let noticed = update.noticed.take();
    assert!(noticed.len() == 1 && noticed[0] >= created, "one event, and nothing of the lists: {noticed:?}");
}

#[tokio::test]
async fn nobody_who_watches_ends_the_watch() {
    let cluster = Cluster::new().await;
    let mut updates = cluster.watch();
    until(&mut updates, "readable", |update| update.readable).await;
    drop(updates);
    cluster.api.close_watches();
    cluster.api.forget_requests();
    // A request made by whoever goes on would be counted before this one is answered a few times over.
    for n in 0..50 {
        cluster.create(SERVICES, &service(&format!("s{n}"))).await;
    }
    let watches = cluster.api.requests().into_iter().filter(|(used, _)| used.verb == "watch");
    assert_eq!(watches.map(|(_, count)| count).sum::<u64>(), 0);
}
