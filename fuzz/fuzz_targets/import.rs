//! Any bytes as another balancer's configuration: no panic, and manifests that can be read, or a reason why not.
#![no_main]

use std::path::Path;
use std::time::Duration;

use evenkeel_import::{Format, Options, import};
use evenkeel_sources::catalog::Catalog;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for format in [Format::Xlb, Format::UdpFanout] {
        let imported = import(format, Path::new("fuzz.yaml"), bytes, &Options::default());
        for diagnostic in &imported.diagnostics {
            let shown = diagnostic.to_string();
            assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        }
        let Some(manifests) = imported.manifests else {
            assert!(imported.diagnostics.iter().any(|diagnostic| diagnostic.is_error()));
            continue;
        };
        let mut catalog = Catalog::default();
        catalog.set_file(Path::new("manifests.yaml"), manifests.as_bytes());
        catalog.settle(Duration::ZERO);
        assert!(catalog.diagnostics().iter().all(|found| !found.is_error()), "{manifests}{:?}", catalog.diagnostics());
    }
});
