//! The real binary as a cluster's controller: killed at any moment, and with many services. `EVENKEEL_KILLS`,
//! `EVENKEEL_SERVICES` and `EVENKEEL_ENDPOINTS` make a long run of it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use evenkeel_fake_api::{FakeApi, Handle, Options};
use kube::Client;
use kube::core::params::{ListParams, PostParams};
use kube::core::request::Request;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(300);
const SERVICES: &str = "/api/v1/namespaces/shop/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";

/// Times that do not keep a test waiting, and the usual ones.
const SHORT: [&str; 3] = ["4s", "2s", "200ms"];
const USUAL: [&str; 3] = ["15s", "10s", "2s"];

struct Cluster {
    api: Handle,
    client: Client,
    kubeconfig: PathBuf,
    _directory: tempfile::TempDir,
}

impl Cluster {
    async fn new() -> Self {
        let api = FakeApi::start("127.0.0.1:0".parse().unwrap(), Options::default()).await.unwrap();
        let client = Client::try_from(kube::Config::new(api.url().parse().unwrap())).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = directory.path().join("kubeconfig");
        std::fs::write(&kubeconfig, api.kubeconfig()).unwrap();
        let cluster = Self { api, client, kubeconfig, _directory: directory };
        for name in ["lb", "shop"] {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            cluster.create("/api/v1/namespaces", &namespace).await;
        }
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let names = json!({"kind": "IPAddressPool", "plural": "ipaddresspools", "singular": "p", "listKind": "PList"});
        let version = json!({
            "name": "v1beta1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}},
        });
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "ipaddresspools.metallb.io"},
            "spec": {"group": "metallb.io", "scope": "Namespaced", "names": names, "versions": [version]},
        });
        cluster.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await;
        let pool = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": {"name": "p", "namespace": "lb"}, "spec": {"addresses": ["10.16.0.0/16"]},
        });
        cluster.create("/apis/metallb.io/v1beta1/namespaces/lb/ipaddresspools", &pool).await;
        cluster
    }

    async fn create(&self, path: &str, object: &Value) {
        let request = Request::new(path).create(&PostParams::default(), serde_json::to_vec(object).unwrap()).unwrap();
        self.client.request::<Value>(request).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    async fn create_service(&self, n: usize) {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{n}"), "namespace": "shop"},
            "spec": {"type": "LoadBalancer", "selector": {"app": "x"}, "ports": [{"port": 80}],
                "allocateLoadBalancerNodePorts": false},
        });
        self.create(SERVICES, &service).await;
    }

    /// The address of each service that has one.
    async fn addresses(&self) -> BTreeMap<String, String> {
        let request = Request::new(SERVICES).list(&ListParams::default()).unwrap();
        let list: Value = self.client.request(request).await.unwrap();
        let address = |service: &Value| {
            let ip = service.pointer("/status/loadBalancer/ingress/0/ip")?.as_str()?.to_owned();
            Some((service["metadata"]["name"].as_str()?.to_owned(), ip))
        };
        list["items"].as_array().unwrap().iter().filter_map(address).collect()
    }

    /// With these times of the election.
    fn start(&self, [duration, deadline, retry]: [&str; 3]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        command.env_clear().env("KUBECONFIG", &self.kubeconfig).env("EVENKEEL_LOG", "warn").stdout(Stdio::piped());
        command.args(["controller", "--namespace", "lb", "--identity", "only", "--listen", "127.0.0.1:0"]);
        command.args(["--lease-duration", duration, "--renew-deadline", deadline, "--retry-period", retry]);
        command.spawn().unwrap()
    }
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_loses_duplicates_and_changes_no_address() {
    let (kills, services) = (number("EVENKEEL_KILLS", 6), number("EVENKEEL_SERVICES", 60));
    let cluster = Cluster::new().await;
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let (mut created, mut child) = (0, cluster.start(SHORT));
    let started = Instant::now();
    for kill in 0..=kills {
        // A share of the services comes while this one runs, and it dies in the middle of its work on them.
        let share = services * (kill + 1) / (kills + 1);
        let doomed = (kill < kills).then(|| Duration::from_millis(random() % 400));
        let born = Instant::now();
        while created < share {
            cluster.create_service(created).await;
            created += 1;
        }
        if let Some(doomed) = doomed {
            tokio::time::sleep(doomed.saturating_sub(born.elapsed())).await;
            child.kill().unwrap();
            child.wait().unwrap();
            child = cluster.start(SHORT);
        }
        remember(&mut known, cluster.addresses().await);
    }
    while known.len() < services {
        assert!(started.elapsed() < PATIENCE, "{} of {services} have an address", known.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
        remember(&mut known, cluster.addresses().await);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(known.values().collect::<BTreeSet<_>>().len(), services, "each has one of its own");
    let statuses = cluster.api.writes()["/services"] - 1 - u64::try_from(services).unwrap();
    println!("{kills} kills, {services} services: {statuses} statuses written in {:?}", started.elapsed());
    assert_eq!(statuses, u64::try_from(services).unwrap(), "one each");
}

/// Note what is seen. Nothing that was seen before may be gone or another.
fn remember(known: &mut BTreeMap<String, String>, seen: BTreeMap<String, String>) {
    for (name, address) in &*known {
        assert_eq!(seen.get(name), Some(address), "{name}");
    }
    known.extend(seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_writes_one_status_a_service_and_rests() {
    let (services, endpoints) = (number("EVENKEEL_SERVICES", 100), number("EVENKEEL_ENDPOINTS", 200));
    let cluster = Cluster::new().await;
    for n in 0..services {
        cluster.create_service(n).await;
    }
    for n in 0..endpoints / 100 {
        let endpoints: Vec<Value> =
            (0..100).map(|m| json!({"addresses": [format!("10.200.{}.{m}", n % 256)]})).collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("e{n}"), "namespace": "shop", "labels": {"kubernetes.io/service-name": "s0"}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 80}], "endpoints": endpoints,
        });
        cluster.create(SLICES, &slice).await;
    }
    let before = cluster.api.writes()["/services"];
    let started = Instant::now();
    let mut child = cluster.start(USUAL);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("listening "), "{line}");
    let wanted = before + u64::try_from(services).unwrap();
    while cluster.api.writes()["/services"] < wanted {
        assert!(
            started.elapsed() < PATIENCE,
            "{} of {services} are written",
            cluster.api.writes()["/services"] - before
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = started.elapsed();
    assert_eq!(cluster.addresses().await.len(), services);
    // At rest: the events have been posted, and the counters of the pools.
    let mut writes = BTreeMap::new();
    while writes != cluster.api.writes() {
        assert!(started.elapsed() < PATIENCE, "it writes on and on: {writes:?}");
        writes = quiet(&cluster).await;
    }
    let cpu = cpu_ticks(child.id());
    tokio::time::sleep(Duration::from_secs(u64::try_from(number("EVENKEEL_REST", 1)).unwrap())).await;
    println!(
        "{services} services, {endpoints} endpoints: all statuses {took:?} after the start; {} kB resident, {} kB at most; \
         {} ticks of 10 ms at rest; writes: {writes:?}",
        memory(child.id(), "VmRSS:"),
        memory(child.id(), "VmHWM:"),
        cpu_ticks(child.id()) - cpu,
    );
    assert_eq!(cluster.api.writes()["/services"], wanted, "one write a service");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What has been written, leases apart, after a moment.
async fn quiet(cluster: &Cluster) -> BTreeMap<String, u64> {
    let writes = cluster.api.writes();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let leases = cluster.api.writes().get("coordination.k8s.io/leases").copied();
    let mut writes = writes;
    writes.extend(leases.map(|count| ("coordination.k8s.io/leases".to_owned(), count)));
    writes
}

fn memory(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// User and system time, in ticks.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
