//! Any bytes, read as manifests and planned: no panic, no endless work.
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
    let again = plan(catalog.world(), first.memory());
    assert!(first.memory().is(again.memory()), "what is held stays");
});
