//! `kubectl` and `helm`, as `scripts/setup.sh test` puts them into `target/tools`, against the server.

#![expect(clippy::expect_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use evenkeel_fake_api::{FakeApi, Options};

/// The tool, or none where set-up has not fetched it.
fn tool(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Some(target.join("tools").join(name)).filter(|path| path.is_file())
}

fn run(program: &Path, home: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(home)
        .env("HOME", home)
        .env("KUBECONFIG", home.join("kubeconfig"))
        .output()
        .expect("the tool runs");
    assert!(
        output.status.success(),
        "{program:?} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: pools.example.org}
spec:
  group: example.org
  names: {kind: Pool, plural: pools, shortNames: [po-ol]}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {size: {type: integer}}}}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_gets_patches_and_deletes() {
    let Some(kubectl) = tool("kubectl") else {
        eprintln!("no kubectl in target/tools: `scripts/setup.sh test` fetches it");
        return;
    };
    let options = Options { tls: true, rbac: true, ..Options::default() };
    let api = FakeApi::start("127.0.0.1:0".parse().expect("an address"), options).await.expect("a server");
    let home = tempfile::tempdir().expect("a directory");
    std::fs::write(home.path().join("kubeconfig"), api.kubeconfig()).expect("written");
    std::fs::write(home.path().join("all.yaml"), MANIFEST).expect("written");
    let pool = "apiVersion: example.org/v1\nkind: Pool\nmetadata: {name: p}\nspec: {size: 3}\n";
    std::fs::write(home.path().join("pool.yaml"), pool).expect("written");
    let kubectl = |arguments: &[&str]| text(&run(&kubectl, home.path(), arguments));
    assert!(kubectl(&["apply", "-f", "all.yaml"]).contains("service/web created"));
    assert!(kubectl(&["apply", "-f", "all.yaml"]).contains("service/web unchanged"));
    kubectl(&["wait", "--for=condition=Established", "crd/pools.example.org", "--timeout=60s"]);
    kubectl(&["apply", "--server-side", "-f", "pool.yaml"]);
    let shown = kubectl(&["get", "po-ol"]);
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines, [["NAME", "SIZE"], ["p", "3"]]);
    assert!(kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "all.yaml"]).contains("serverside-applied"));
    kubectl(&["patch", "svc", "web", "-p", r#"{"spec":{"ports":[{"port":80,"name":"web"}]}}"#]);
    assert_eq!(kubectl(&["get", "svc", "web", "-o", "jsonpath={.spec.ports[*].name}"]), "web");
    assert!(kubectl(&["auth", "can-i", "create", "services"]).contains("yes"));
    kubectl(&["delete", "-f", "all.yaml", "--timeout=60s"]);
    assert!(!kubectl(&["get", "svc"]).contains("web"));
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_installs_upgrades_and_uninstalls() {
    let Some(helm) = tool("helm") else {
        eprintln!("no helm in target/tools: `scripts/setup.sh test` fetches it");
        return;
    };
    let api = FakeApi::start("127.0.0.1:0".parse().expect("an address"), Options::default()).await.expect("a server");
    let home = tempfile::tempdir().expect("a directory");
    std::fs::write(home.path().join("kubeconfig"), api.kubeconfig()).expect("written");
    let chart = home.path().join("chart");
    std::fs::create_dir_all(chart.join("templates")).expect("made");
    std::fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: chart\nversion: 0.1.0\n").expect("written");
    std::fs::write(chart.join("values.yaml"), "value: one\n").expect("written");
    let template =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {key: {{ .Values.value }}}\n";
    std::fs::write(chart.join("templates/map.yaml"), template).expect("written");
    let helm = |arguments: &[&str]| text(&run(&helm, home.path(), arguments));
    helm(&["install", "mine", "chart", "--namespace", "apart", "--create-namespace", "--wait", "--timeout", "60s"]);
    helm(&["upgrade", "mine", "chart", "--namespace", "apart", "--set", "value=two"]);
    assert!(helm(&["list", "--namespace", "apart"]).contains("deployed"));
    assert!(helm(&["get", "manifest", "mine", "--namespace", "apart"]).contains("key: two"));
    helm(&["uninstall", "mine", "--namespace", "apart", "--wait", "--timeout", "60s"]);
    assert!(!helm(&["list", "--namespace", "apart"]).contains("mine"));
}
