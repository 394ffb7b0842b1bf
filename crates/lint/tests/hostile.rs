//! Any text at all: no panic, a fix is made once, and what is fixed can be read. PROPTEST_CASES makes a long run of it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use evenkeel_lint::{Cluster, Config, Input, fix, lint, lint_cluster, output, patch};
use proptest::prelude::*;
use serde_json::{Value, json};

fn check(text: String) {
    let inputs = [Input { name: "a.yaml".to_owned(), text }];
    let config = Config::default();
    let before = lint(&inputs, &config);
    for shown in [output::text(&before, evenkeel_manifest::diagnostic::Style::PLAIN), output::github(&before)] {
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    }
    serde_json::from_str::<Value>(&output::sarif(&before, "0")).unwrap();
    let fixed = fix(&inputs, &config);
    let after = lint(&fixed, &config);
    assert_eq!(after.unreadable.len(), before.unreadable.len(), "{}", fixed[0].text);
    let again = fix(&fixed, &config);
    assert_eq!(again[0].text, fixed[0].text, "a fix is made once");
    assert_eq!(patch(&inputs, &fixed).is_empty(), inputs[0].text == fixed[0].text);
}

/// A line of a manifest, or nearly.
fn line() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "replicas: 1",
        "replicas:",
        "replicas: {}",
        "strategy: {type: Recreate}",
        "strategy:",
        "minReadySeconds: 0 # c",
        "template: {spec: {containers: [{name: a, ports: [{containerPort: 1}]}]}}",
        "template: &t",
        "spec: *t",
        "- name: a",
        "- {}",
        "containers:",
        "readinessProbe: {httpGet: {path: /}, periodSeconds: 99}",
        "livenessProbe: {tcpSocket: {port: 1}}",
        "lifecycle: {preStopHook: {}}",
        "preStop: {exec: {command: [sh, -c, \"sleep 5; x\"]}}",
        "terminationGracePeriodSeconds: |",
        "  30",
        "sessionAffinity: ClientIP",
        "---",
        "é: \"\\u0000\"",
    ]);
    (0usize..5, words).prop_map(|(indent, word)| format!("{}{word}\n", "  ".repeat(indent)))
}

/// An object as an API might give it, with anything anywhere.
fn object() -> impl Strategy<Value = Value> {
    let key = || {
        prop::sample::select(vec![
            "metadata",
            "annotations",
            "name",
            "namespace",
            "managedFields",
            "labels",
            "spec",
            "template",
            "containers",
            "readinessProbe",
            "exec",
            "command",
            "selector",
            "ports",
            "replicas",
            "items",
            "kind",
            "lifecycle",
            "preStop",
            "kubectl.kubernetes.io/last-applied-configuration",
            "lint.evenkeel.io/ZD01",
            "taints",
            "rules",
            "subsets",
        ])
    };
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::from),
        "\\PC{0,8}|[\u{0}-\u{1f}]{1,4}|50%|-1%|http".prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ];
    let tree = leaf.prop_recursive(6, 48, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    let kinds = prop::sample::select(vec![
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "DaemonSet"),
        ("v1", "Service"),
        ("v1", "Node"),
        ("policy/v1", "PodDisruptionBudget"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
        ("networking.k8s.io/v1", "Ingress"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
    ]);
    (kinds, tree.clone(), tree)
        .prop_map(|((version, kind), metadata, spec)| json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}))
}

/// A good manifest with lines taken out, doubled and put in.
fn mutated() -> impl Strategy<Value = String> {
    let base: Vec<String> =
        include_str!("../../../tests/golden-lint/ZD13/fail.yaml").lines().map(|line| format!("{line}\n")).collect();
    let length = base.len();
    let edits = prop::collection::vec((0..length, 0..4u8, line()), 0..8);
    edits.prop_map(move |edits| {
        let mut lines = base.clone();
        for (at, how, line) in edits {
            let at = at.min(lines.len().saturating_sub(1));
            match how {
                0 => _ = lines.remove(at),
                1 => lines.insert(at, lines[at].clone()),
                2 => lines.insert(at, line),
                _ => lines[at] = line,
            }
        }
        lines.concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(300)))]

    #[test]
    fn mutated_manifests_are_mended_once(text in mutated()) {
        check(text);
    }

    #[test]
    fn lines_of_any_order(lines in prop::collection::vec(line(), 0..30)) {
        check(format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: a}}\nspec:\n{}", lines.concat()));
    }

    #[test]
    fn any_objects(objects in prop::collection::vec(object(), 0..6)) {
        let report = lint_cluster(&Cluster { objects, ..Cluster::default() }, &Config::default());
        for shown in [output::text(&report, evenkeel_manifest::diagnostic::Style::PLAIN), output::github(&report)] {
            assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        }
        serde_json::from_str::<Value>(&output::sarif(&report, "0")).unwrap();
        assert!(report.findings.iter().all(|finding| finding.diagnostic.location.line == 0 && !finding.fixable));
    }

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        check(text);
    }
}
