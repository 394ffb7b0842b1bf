//! `evenkeel lint` by the real binary over a cluster's API, spoken to over HTTP.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use evenkeel_fake_api::{FakeApi, Handle, Mood, Options, User};
use kube::Client;
use kube::core::params::PostParams;
use kube::core::request::Request;
use serde_json::{Value, json};

struct Cluster {
    api: Handle,
    client: Client,
    directory: tempfile::TempDir,
}

impl Cluster {
    async fn new(options: Options) -> Self {
        let api = FakeApi::start("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = directory.path().join("kubeconfig");
        std::fs::write(&kubeconfig, api.kubeconfig()).unwrap();
        let options = kube::config::KubeConfigOptions::default();
        let file = kube::config::Kubeconfig::read_from(&kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await.unwrap();
        let cluster = Self { api, client: Client::try_from(config).unwrap(), directory };
        for name in ["shop", "bank"] {
            cluster.create("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await;
        }
        cluster
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    async fn create(&self, path: &str, object: &Value) {
        let mut object = object.clone();
        let kinds = [
            ("namespaces", "v1", "Namespace"),
            ("deployments", "apps/v1", "Deployment"),
            ("services", "v1", "Service"),
            ("nodes", "v1", "Node"),
            ("configmaps", "v1", "ConfigMap"),
            ("poddisruptionbudgets", "policy/v1", "PodDisruptionBudget"),
            ("horizontalpodautoscalers", "autoscaling/v2", "HorizontalPodAutoscaler"),
            ("clusterroles", "rbac.authorization.k8s.io/v1", "ClusterRole"),
            ("clusterrolebindings", "rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
            ("customresourcedefinitions", "apiextensions.k8s.io/v1", "CustomResourceDefinition"),
            ("httproutes", "gateway.networking.k8s.io/v1", "HTTPRoute"),
        ];
        let plural = path.rsplit('/').next().unwrap();
        let (_, version, kind) = kinds.into_iter().find(|(name, ..)| *name == plural).unwrap();
        object["apiVersion"] = json!(version);
        object["kind"] = json!(kind);
        let body = serde_json::to_vec(&object).unwrap();
        let request = Request::new(path).create(&PostParams::default(), body).unwrap();
        self.client.request::<Value>(request).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// A kind that this API does not serve by itself.
    async fn define(&self, group: &str, version: &str, kind: &str) {
        let plural = format!("{}s", kind.to_lowercase());
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let names =
            json!({"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")});
        let definition = json!({"metadata": {"name": format!("{plural}.{group}")}, "spec": {
            "group": group, "scope": "Namespaced", "names": names,
            "versions": [{"name": version, "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
        self.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await;
    }

    /// A workload of two replicas, and its Service.
    async fn web(&self, namespace: &str) {
        let path = |version: &str, plural: &str| format!("{version}/namespaces/{namespace}/{plural}");
        self.create(&path("/apis/apps/v1", "deployments"), &deployment("web")).await;
        let service = json!({"metadata": {"name": "web"}, "spec": {
            "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}});
        self.create(&path("/api/v1", "services"), &service).await;
    }

    fn lint(&self, arguments: &[&str]) -> Output {
        lint(&self.kubeconfig(), arguments)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.lint(&[arguments, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }
}

fn lint(kubeconfig: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.env_clear().arg("lint").args(arguments).arg("--kubeconfig").arg(kubeconfig);
    command.current_dir(kubeconfig.parent().unwrap()).output().unwrap()
}

fn deployment(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{
            "name": "web", "image": "registry.example/web:1",
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 3},
        }]}},
    }})
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The numbers of the rules that findings about an object are about.
fn rules(report: &Value, kind: &str, name: &str) -> BTreeSet<String> {
    let findings = report["findings"].as_array().unwrap().iter();
    let of = findings.filter(|finding| finding["kind"] == kind && finding["name"] == name);
    of.map(|finding| finding["rule"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_has_is_judged_by_object_and_field() {
    let cluster = Cluster::new(Options::default()).await;
    cluster.web("shop").await;
    cluster.web("bank").await;
    let output = cluster.lint(&["-n", "shop"]);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(shown.contains("= object: Deployment shop/web\n"), "{shown}");
    assert!(shown.contains("= field: spec.template.spec.containers[0].lifecycle.preStop\n"), "{shown}");
    assert!(!shown.contains("-->") && !shown.contains("bank"), "there is no file, and no other namespace: {shown}");
    assert!(shown.contains("read from the cluster: namespace shop\n"), "{shown}");
    assert!(!shown.contains("--fix mends"), "{shown}");

    let report = cluster.json(&["-A"]);
    for name in ["shop/web", "bank/web"] {
        let rules = rules(&report, "Deployment", name);
        for rule in ["ZD01", "ZD02", "ZD08", "ZD11"] {
            assert!(rules.contains(rule), "{name} {rule}: {report:#}");
        }
    }
    // The API server's own Service has a list of endpoints that nobody wrote by hand, and no workload.
    assert_eq!(rules(&report, "Service", "default/kubernetes"), BTreeSet::new(), "{report:#}");
    // The context names no namespace: that is `default`, as for kubectl.
    let default = cluster.json(&[]);
    assert_eq!(default["findings"], json!([]), "{default:#}");
    assert_eq!(default["notes"][0], "read from the cluster: namespace default");

    // With its budget it is covered, and the nodes that may run pods are counted.
    let budget = json!({"metadata": {"name": "web"}, "spec": {
        "maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.create("/apis/policy/v1/namespaces/shop/poddisruptionbudgets", &budget).await;
    assert!(!rules(&cluster.json(&["-n", "shop"]), "Deployment", "shop/web").contains("ZD02"));

    for format in ["sarif", "junit", "github"] {
        let shown = text(&cluster.lint(&["-n", "shop", "-o", format]));
        assert!(shown.contains("Deployment shop/web"), "{format}: {shown}");
        assert!(!shown.contains("\"uri\": \"\"") && !shown.contains("file="), "{format}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_is_read_to_its_end() {
    let cluster = Cluster::new(Options::default()).await;
    for n in 0..520 {
        let service = json!({"metadata": {"name": format!("s{n}")}, "spec": {
            "type": "LoadBalancer", "sessionAffinity": "ClientIP", "selector": {"app": "x"},
            "ports": [{"port": 53, "protocol": "UDP"}], "allocateLoadBalancerNodePorts": false}});
        cluster.create("/api/v1/namespaces/shop/services", &service).await;
    }
    let report = cluster.json(&["-n", "shop"]);
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.iter().filter(|finding| finding["rule"] == "ZD13").count(), 520);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_read_is_named() {
    let user = User::service_account("shop", "linter");
    let options = Options {
        rbac: true,
        tls: true,
        tokens: BTreeMap::from([("t".to_owned(), user.clone())]),
        ..Options::default()
    };
    let cluster = Cluster::new(options).await;
    cluster.web("shop").await;
    let role = json!({"metadata": {"name": "linter"}, "rules": [
        {"apiGroups": ["apps", "", "autoscaling", "networking.k8s.io", "gateway.networking.k8s.io", "discovery.k8s.io"],
         "resources": ["deployments", "statefulsets", "daemonsets", "services", "horizontalpodautoscalers", "ingresses",
            "httproutes", "grpcroutes", "tlsroutes", "tcproutes", "udproutes", "endpointslices", "persistentvolumeclaims"],
         "verbs": ["list"]}]});
    cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await;
    let binding = json!({"metadata": {"name": "linter"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "linter"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "shop", "name": "linter"}]});
    cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;

    let kubeconfig = cluster.directory.path().join("linter");
    std::fs::write(&kubeconfig, cluster.api.kubeconfig_for(user)).unwrap();
    let output = lint(&kubeconfig, &["-n", "shop"]);
    let shown = text(&output);
    // Budgets are what a rule is about, so the answer is incomplete; nodes only would have told more.
    assert_eq!(output.status.code(), Some(2), "{shown}");
    assert!(
        shown.contains("error[forbidden]: not allowed to list poddisruptionbudgets.policy in namespace shop"),
        "{shown}"
    );
    assert!(shown.contains("warning[forbidden]: not allowed to list nodes in the whole cluster"), "{shown}");
    assert!(shown.contains("apiGroups: [\"policy\"], resources: [poddisruptionbudgets], verbs: [list]"), "{shown}");
    assert!(shown.contains("[ZD08]"), "the rest is judged: {shown}");
    assert!(!shown.contains("[ZD02]"), "what was not read is not missing: {shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_the_api_does_not_serve_are_skipped() {
    let cluster = Cluster::new(Options::default()).await;
    cluster.web("shop").await;
    let shown = text(&cluster.lint(&["-n", "shop"]));
    let note = shown.lines().find(|line| line.starts_with("not served by this cluster, so skipped: ")).unwrap();
    for kind in ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute", "Probe"] {
        assert!(note.contains(kind), "{note}");
    }

    cluster.define("gateway.networking.k8s.io", "v1", "HTTPRoute").await;
    let route =
        json!({"metadata": {"name": "web"}, "spec": {"rules": [{"backendRefs": [{"name": "web", "port": 81}]}]}});
    cluster.create("/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes", &route).await;
    let shown = text(&cluster.lint(&["-n", "shop"]));
    assert!(!shown.contains("skipped: HTTPRoute") && !shown.contains(", HTTPRoute"), "{shown}");
    let report = cluster.json(&["-n", "shop"]);
    assert!(rules(&report, "HTTPRoute", "shop/web").contains("ZD30"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_an_autoscaler_made_are_nobodys_mistake() {
    let cluster = Cluster::new(Options::default()).await;
    cluster.define("autoscaling", "v2", "HorizontalPodAutoscaler").await;
    let path = "/apis/apps/v1/namespaces/shop/deployments";
    cluster.create(path, &deployment("scaled")).await;
    let mut applied = deployment("applied");
    let annotation = json!({"kubectl.kubernetes.io/last-applied-configuration": applied.to_string()});
    applied["metadata"]["annotations"] = annotation;
    cluster.create(path, &applied).await;
    for name in ["scaled", "applied"] {
        let service = json!({"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}});
        cluster.create("/api/v1/namespaces/shop/services", &service).await;
        let autoscaler = json!({"metadata": {"name": name}, "spec": {"minReplicas": 3, "maxReplicas": 9,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}}});
        cluster.create("/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers", &autoscaler).await;
    }
    let report = cluster.json(&["-n", "shop"]);
    assert!(!rules(&report, "Deployment", "shop/scaled").contains("ZD31"), "{report:#}");
    assert!(rules(&report, "Deployment", "shop/applied").contains("ZD31"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_of_probes_are_looked_up() {
    let cluster = Cluster::new(Options::default()).await;
    let mut web = deployment("web");
    let pod = &mut web["spec"]["template"]["spec"];
    pod["volumes"] = json!([{"name": "s", "configMap": {"name": "scripts"}}]);
    pod["containers"][0]["volumeMounts"] = json!([{"name": "s", "mountPath": "/scripts"}]);
    pod["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["/scripts/ready.sh"]}});
    cluster.create("/apis/apps/v1/namespaces/shop/deployments", &web).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.create("/api/v1/namespaces/shop/services", &service).await;
    let map =
        json!({"metadata": {"name": "scripts"}, "data": {"ready.sh": "curl -s http://127.0.0.1/ | grep -q fine\n"}});
    cluster.create("/api/v1/namespaces/shop/configmaps", &map).await;
    let shown = text(&cluster.lint(&["-n", "shop"]));
    assert!(shown.contains("greps the answer for `fine`"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cluster_is_an_error_that_says_so() {
    let cluster = Cluster::new(Options::default()).await;
    let error = |arguments: &[&str]| {
        let output = cluster.lint(arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let shown = error(&["--context", "elsewhere"]);
    assert!(shown.contains("no context `elsewhere`; it has: "), "{shown}");
    assert!(error(&["--fix"]).contains("--fix mends files"));
    assert!(error(&["-A", "-n", "shop"]).contains("cannot be used with"));
    assert!(error(&["file.yaml", "-n", "shop"]).contains("cannot be used with"));
    cluster.api.set_mood(Mood::Fail(500));
    assert!(error(&["-A"]).contains("cannot list deployments.apps"));
    let missing = lint(&cluster.directory.path().join("missing"), &["-A"]);
    assert_eq!(missing.status.code(), Some(2), "{missing:?}");
    assert!(String::from_utf8(missing.stderr).unwrap().contains("missing"));
    // Without any of the flags KUBECONFIG alone is no input.
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    let output = command.env_clear().env("KUBECONFIG", cluster.kubeconfig()).arg("lint").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    cluster.api.set_mood(Mood::Fine);
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    let output =
        command.env_clear().env("KUBECONFIG", cluster.kubeconfig()).args(["lint", "--cluster"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
