//! `evenkeel install` and `evenkeel uninstall --cluster` against an API server over HTTP, from nothing.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output};

use evenkeel_fake_api::{FakeApi, Handle, Options};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

const AGENTS: &str = "/apis/apps/v1/namespaces/metallb-system/daemonsets/evenkeel-agent";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/metallb-system/leases";
const STATES: &str = "/apis/metallb.io/v1beta1/namespaces/metallb-system/configurationstates";
const POOL: &str = "/apis/metallb.io/v1beta1/namespaces/metallb-system/ipaddresspools/default";

struct Cluster {
    _api: Handle,
    client: Client,
    directory: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let api = FakeApi::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Options::default()).await.unwrap();
        let kubeconfig = api.kubeconfig();
        let config = Kubeconfig::from_yaml(&kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("kubeconfig"), kubeconfig).unwrap();
        Self { _api: api, client: Client::try_from(config).unwrap(), directory }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    async fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        command.args(args).env("KUBECONFIG", self.kubeconfig());
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// What a command that has to succeed says.
    async fn succeed(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?}\n{stdout}\n{stderr}");
        stdout.into_owned()
    }

    async fn get(&self, path: &str) -> Result<Value, kube::Error> {
        self.client.request(http::Request::get(path).body(Vec::new()).unwrap()).await
    }

    async fn post(&self, path: &str, object: &Value) {
        let request = http::Request::post(path).header("content-type", "application/json");
        self.client.request::<Value>(request.body(serde_json::to_vec(object).unwrap()).unwrap()).await.unwrap();
    }

    /// What Kubernetes' own controller would say of the agents on three nodes, `available` of which are ready.
    async fn report(&self, available: u64) {
        let agents = self.get(AGENTS).await.unwrap();
        let status = json!({"status": {
            "observedGeneration": agents["metadata"]["generation"], "desiredNumberScheduled": 3,
            "currentNumberScheduled": 3, "numberMisscheduled": 0, "numberReady": available,
            "updatedNumberScheduled": 3, "numberAvailable": available,
        }});
        let request =
            http::Request::patch(format!("{AGENTS}/status")).header("content-type", "application/merge-patch+json");
        let request = request.body(serde_json::to_vec(&status).unwrap()).unwrap();
        self.client.request::<Value>(request).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn installs_from_nothing_and_again() {
    let cluster = Cluster::start().await;
    let tried = cluster.succeed(&["install", "--dry-run", "--pool", "192.168.1.100-192.168.1.110"]).await;
    assert!(tried.contains("CustomResourceDefinition ipaddresspools.metallb.io: created"), "{tried}");
    assert!(cluster.get(AGENTS).await.is_err(), "a dry run changes nothing");

    let args = ["install", "--pool", "192.168.1.100-192.168.1.110", "--interface", "eth1"];
    let first = cluster.succeed(&args).await;
    assert!(first.contains("DaemonSet metallb-system/evenkeel-agent: created"), "{first}");
    assert!(first.contains("IPAddressPool default: 192.168.1.100-192.168.1.110; 0 in use"), "{first}");
    let agents = cluster.get(AGENTS).await.unwrap();
    let container = agents.pointer("/spec/template/spec/containers/0/args").unwrap();
    assert!(container.as_array().unwrap().contains(&json!("--interface=eth1")), "{container}");
    let pool = cluster.get(POOL).await.unwrap();
    assert_eq!(pool["spec"]["autoAssign"], true, "the definition's defaults are in force");

    let again = cluster.succeed(&args).await;
    assert!(!again.contains(": created"), "{again}");
    assert!(again.contains("DaemonSet metallb-system/evenkeel-agent: unchanged"), "{again}");
}

/// As MetalLB has defined it up to 0.14.9.
fn converted_by_a_webhook() -> Value {
    let version = |name: &str, stored: bool| {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        json!({"name": name, "served": true, "storage": stored, "schema": {"openAPIV3Schema": schema}})
    };
    let service = json!({"name": "metallb-webhook-service", "namespace": "metallb-system", "path": "/convert"});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "bgppeers.metallb.io"},
        "spec": {
            "group": "metallb.io", "scope": "Namespaced", "names": {"kind": "BGPPeer", "plural": "bgppeers"},
            "versions": [version("v1beta1", false), version("v1beta2", true)],
            "conversion": {"strategy": "Webhook", "webhook": {
                "clientConfig": {"service": service}, "conversionReviewVersions": ["v1beta1", "v1beta2"],
            }},
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_metallbs_webhook_converts_are_converted_no_more() {
    let cluster = Cluster::start().await;
    let definition = format!("{DEFINITIONS}/bgppeers.metallb.io");
    cluster.post(DEFINITIONS, &converted_by_a_webhook()).await;
    cluster.succeed(&["install", "--dry-run"]).await;
    let before = cluster.get(&definition).await.unwrap();
    assert_eq!(before["spec"]["conversion"]["strategy"], "Webhook", "a dry run changes nothing");
    let said = cluster.succeed(&["install"]).await;
    assert!(said.contains("CustomResourceDefinition bgppeers.metallb.io: configured"), "{said}");
    let after = cluster.get(&definition).await.unwrap();
    assert_eq!(after["spec"]["conversion"], json!({"strategy": "None"}));
    let again = cluster.succeed(&["install"]).await;
    assert!(again.contains("CustomResourceDefinition bgppeers.metallb.io: unchanged"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_range_is_refused_before_anything_is_asked() {
    let cluster = Cluster::start().await;
    let output = cluster.run(&["install", "--pool", "192.168.1.100"]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("--pool 192.168.1.100: give a CIDR"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn withdraws_on_every_node_before_it_deletes() {
    let cluster = Cluster::start().await;
    cluster.succeed(&["install", "--pool", "192.0.2.0/28"]).await;
    cluster.report(3).await;

    // Nobody tells that the change was looked at: the command gives up and has deleted nothing.
    let output = cluster.run(&["install", "--uninstall", "--timeout", "1s"]).await;
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("is not rolled out after 1s"), "{said}");
    let agents = cluster.get(AGENTS).await.unwrap();
    let container = agents.pointer("/spec/template/spec/containers/0").unwrap();
    assert_eq!(container["args"][0], "uninstall");
    assert_eq!(container["args"][1], "--stay");
    assert!(container["volumeMounts"].to_string().contains("bpffs"), "{container}");

    // All nodes are done.
    cluster.report(3).await;
    for (name, labels) in [("vip-192.0.2.1", json!({"evenkeel.io/lease": "vip"})), ("another", json!({}))] {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "labels": labels}, "spec": {"holderIdentity": "node-1"}});
        cluster.post(LEASES, &lease).await;
    }
    let state = json!({"apiVersion": "metallb.io/v1beta1", "kind": "ConfigurationState",
        "metadata": {"name": "controller"}});
    cluster.post(STATES, &state).await;
    let said = cluster.succeed(&["install", "--uninstall"]).await;
    assert!(cluster.get(&format!("{STATES}/controller")).await.is_err(), "no configuration is valid any more");
    assert!(cluster.get(&format!("{LEASES}/vip-192.0.2.1")).await.is_err(), "owners are forgotten");
    assert!(cluster.get(&format!("{LEASES}/another")).await.is_ok(), "what is not the agents' stays");
    assert!(said.contains("3 of 3 nodes have withdrawn"), "{said}");
    assert!(cluster.get(AGENTS).await.is_err());
    assert!(cluster.get(POOL).await.is_ok(), "pools stay");
    let again = cluster.succeed(&["install", "--uninstall"]).await;
    assert!(again.contains("nothing to withdraw"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_not_there_is_named_with_a_remedy() {
    let cluster = Cluster::start().await;
    let mut config: Value = serde_json::from_slice(&std::fs::read(cluster.kubeconfig()).unwrap()).unwrap();
    // The discard port of the local host: nothing listens there.
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9".into();
    std::fs::write(cluster.kubeconfig(), config.to_string()).unwrap();
    let output = cluster.run(&["install"]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("check KUBECONFIG"), "{said}");
}

/// `kubectl evenkeel` runs whatever `kubectl-evenkeel` is on the path.
#[test]
fn the_plugin_calls_itself_as_it_was_called() {
    let directory = tempfile::tempdir().unwrap();
    let plugin = directory.path().join("kubectl-evenkeel");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_evenkeel"), &plugin).unwrap();
    let output = Command::new(&plugin).args(["status", "--help"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Usage: kubectl evenkeel status"), "{said}");
}

/// The plain manifests are what the chart gives. `scripts/setup.sh test` fetches helm.
#[test]
fn the_plain_manifests_are_current() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let rendered = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new(root.join("scripts/manifests.sh")).arg(rendered.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let committed = std::fs::read_to_string(root.join("manifests/evenkeel.yaml")).unwrap();
    let rendered = std::fs::read_to_string(rendered.path()).unwrap();
    assert!(committed == rendered, "manifests/evenkeel.yaml is older than the chart: make manifests");
}
