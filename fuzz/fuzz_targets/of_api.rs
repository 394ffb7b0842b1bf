//! Any object an API may give, as any kind: no panic, and what is said of it can be printed.
#![no_main]

use evenkeel_lint::{Cluster, Config, lint_cluster, output};
use evenkeel_plan::world::Kind;
use evenkeel_sources::manifest::of_api;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const KINDS: [Kind; 12] = [
    Kind::Service,
    Kind::EndpointSlice,
    Kind::Endpoints,
    Kind::IpAddressPool,
    Kind::L2Advertisement,
    Kind::BgpPeer,
    Kind::BgpAdvertisement,
    Kind::BfdProfile,
    Kind::Community,
    Kind::Secret,
    Kind::Node,
    Kind::Namespace,
];

fuzz_target!(|text: &str| {
    let Ok(object) = serde_json::from_str::<Value>(text) else { return };
    for kind in KINDS {
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
