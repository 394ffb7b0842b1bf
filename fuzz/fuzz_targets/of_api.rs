//! Any object an API may give, as any kind: no panic, and what is said of it can be printed.
#![no_main]

use evenkeel_lint::{Cluster, Config, lint_cluster, output};
use evenkeel_plan::world::Kind;
use evenkeel_sources::manifest::of_api;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &str| {
    let Ok(object) = serde_json::from_str::<Value>(text) else { return };
    for kind in Kind::ALL {
        let parsed = of_api(kind, &object);
        for diagnostic in &parsed.diagnostics {
            let shown = diagnostic.to_string();
            assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        }
    }
    let objects = match object {
        Value::Array(objects) => objects,
        object => vec![object],
    };
    let report = lint_cluster(&Cluster { objects, ..Cluster::default() }, &Config::default());
    let shown = output::github(&report);
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    assert!(serde_json::from_str::<Value>(&output::sarif(&report, "0")).is_ok());
});
