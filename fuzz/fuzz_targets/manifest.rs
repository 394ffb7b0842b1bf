//! Any bytes, read as manifests, planned and reported: no panic, no endless work, and nothing a terminal acts on.
#![no_main]

use std::path::Path;
use std::time::Duration;

use evenkeel_plan::{Memory, plan};
use evenkeel_sources::catalog::Catalog;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut catalog = Catalog::default();
    catalog.set_file(Path::new("fuzz.yaml"), bytes);
    catalog.settle(Duration::ZERO);
    let first = plan(catalog.world(), &Memory::default());
    let found = catalog.diagnostics().iter().cloned().chain(first.diagnostics().map(|finding| catalog.locate(finding)));
    for diagnostic in found {
        let shown = diagnostic.to_string();
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        assert!(!diagnostic.reason.is_empty() && !diagnostic.message.is_empty() && !diagnostic.remedy.is_empty());
    }
    let again = plan(catalog.world(), first.memory());
    assert!(first.memory().is(again.memory()), "what is held stays");

    // The same file cut short and whole again: what is good in it is there again.
    catalog.set_file(Path::new("fuzz.yaml"), &bytes[..bytes.len() / 2]);
    catalog.settle(Duration::from_millis(1));
    catalog.set_file(Path::new("fuzz.yaml"), bytes);
    catalog.settle(Duration::from_millis(2));
    let mut at_once = Catalog::default();
    at_once.set_file(Path::new("fuzz.yaml"), bytes);
    at_once.settle(Duration::ZERO);
    for (name, service) in &at_once.world().services {
        assert_eq!(catalog.world().services.get(name), Some(service));
    }
});
