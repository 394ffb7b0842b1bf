//! What the chart renders and what the examples show, validated strictly and offline: by Kubernetes' own schemas, and custom
//! resources by their definitions. `scripts/setup.sh test` fetches the tools.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The version of Kubernetes whose schemas are used.
const KUBERNETES: &str = "1.36";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn tool(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let path = target.join("tools").join(name);
    assert!(path.exists(), "{} does not exist: `scripts/setup.sh test` fetches it", path.display());
    path
}

fn validate(manifests: &[PathBuf]) -> Output {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", tool("python")).arg(root().join("scripts/validate.py")).arg(KUBERNETES);
    command.arg(root().join("charts/evenkeel/crds/metallb.io.yaml")).args(manifests).output().unwrap()
}

/// What is said of valid manifests.
fn valid(manifests: &[PathBuf]) -> String {
    let output = validate(manifests);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    stdout.into_owned()
}

fn yaml_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            yaml_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
}

/// What helm makes of the chart with these settings.
fn render(settings: &[&str]) -> Output {
    let mut helm = Command::new(tool("helm"));
    helm.args(["template", "evenkeel"]).arg(root().join("charts/evenkeel"));
    helm.args(["--namespace", "metallb-system", "--include-crds"]);
    settings.iter().for_each(|setting| _ = helm.args(["--set", setting]));
    helm.output().unwrap()
}

/// Ended by the job's deadline, the command could not say which nodes are not done.
#[test]
fn the_detaching_job_gives_up_by_itself() {
    let rendered = render(&["uninstall.timeoutSeconds=100"]);
    let text = String::from_utf8_lossy(&rendered.stdout);
    for line in ["  activeDeadlineSeconds: 100", "        - --timeout=90s"] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    let refused = render(&["uninstall.timeoutSeconds=10"]);
    assert!(!refused.status.success(), "no time is left to withdraw");
}

#[test]
fn the_chart_is_valid_whatever_is_chosen() {
    let directory = tempfile::tempdir().unwrap();
    let choices: [&[&str]; 4] = [
        &[],
        &["webhook.enabled=false", "uninstall.detach=false"],
        &["loadBalancerClass=example.org/lb", "agent.interfaces={eth0,eth1}", "agent.healthCheckNodePorts=true"],
        &["imagePullSecrets[0].name=mirror", "fullnameOverride=lb", "agent.nodeSelector.site=berlin"],
    ];
    for (n, choice) in choices.iter().enumerate() {
        let output = render(choice);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let file = directory.path().join(format!("{n}.yaml"));
        fs::write(&file, output.stdout).unwrap();
        let said = valid(&[file]);
        assert!(said.contains("DaemonSet"), "{said}");
        assert_eq!(said.contains("ValidatingWebhookConfiguration"), n != 1, "{said}");
        assert_eq!(said.contains("Job"), n != 1, "the hooks are among them: {said}");
    }
}

#[test]
fn the_plain_manifests_and_the_examples_are_valid() {
    let mut files = vec![root().join("manifests/evenkeel.yaml")];
    yaml_files(&root().join("examples"), &mut files);
    let said = valid(&files);
    for of_a_definition in ["IPAddressPool lan", "L2Advertisement lan", "BGPPeer router-peer"] {
        assert!(said.contains(&format!("{of_a_definition}: as its definition has it")), "{said}");
    }
}

#[test]
fn what_is_not_valid_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.yaml");
    let bad = [
        "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {prots: []}}",
        "{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: b}, spec: {addresses: [10.0.0.0/8], x: 1}}",
        "{apiVersion: metallb.io/v1beta1, kind: BFDProfile, metadata: {name: c}, spec: {detectMultiplier: 1}}",
        "{apiVersion: example.org/v1, kind: Nothing, metadata: {name: d}}",
    ];
    fs::write(&file, bad.join("\n---\n")).unwrap();
    let output = validate(&[file]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    for words in ["Service a: spec: ", "'prots'", "IPAddressPool b: spec: ", "'x'", "BFDProfile c: ", "Nothing d: "] {
        assert!(said.contains(words), "{words} in {said}");
    }
}
