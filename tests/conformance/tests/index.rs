//! `docs/conformance.md` says what the fixtures hold. `UPDATE_PACKETS=1` rewrites it.

use std::{fs, path::Path};

#[test]
fn every_known_defect_is_held_by_a_case() {
    let page = evenkeel_conformance::index::page(&evenkeel_conformance::fixtures().unwrap()).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conformance.md");
    if std::env::var_os("UPDATE_PACKETS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        written, page,
        "docs/conformance.md is stale: UPDATE_PACKETS=1 cargo nextest run -p evenkeel-conformance"
    );
}
