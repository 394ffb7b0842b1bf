//! Any text at all: no panic, a fix is made once, and what is fixed can be read.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use evenkeel_lint::{Config, Input, fix, lint, output, patch};
use proptest::prelude::*;

fn check(text: String) {
    let inputs = [Input { name: "a.yaml".to_owned(), text }];
    let config = Config::default();
    let before = lint(&inputs, &config);
    for shown in [output::text(&before, evenkeel_manifest::diagnostic::Style::Plain), output::github(&before)] {
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    }
    serde_json::from_str::<serde_json::Value>(&output::sarif(&before, "0")).unwrap();
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
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn mutated_manifests_are_mended_once(text in mutated()) {
        check(text);
    }

    #[test]
    fn lines_of_any_order(lines in prop::collection::vec(line(), 0..30)) {
        check(format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: a}}\nspec:\n{}", lines.concat()));
    }

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        check(text);
    }
}
