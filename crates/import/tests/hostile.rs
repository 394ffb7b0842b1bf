//! Any text as a configuration: no panic, and what comes of it is valid.

use std::path::Path;
use std::time::Duration;

use evenkeel_import::{Format, Options, import};
use evenkeel_lint::{Config, Input, lint};
use evenkeel_sources::catalog::Catalog;
use proptest::prelude::*;

const SEEDS: [(Format, &str); 4] = [
    (Format::Xlb, include_str!("../../../tests/golden-import/xlb-static/config.yaml")),
    (Format::Xlb, include_str!("../../../tests/golden-import/xlb-chart-values/config.yaml")),
    (Format::UdpFanout, include_str!("../../../tests/golden-import/udp-fanout-every-key/config.yaml")),
    (Format::UdpFanout, include_str!("../../../tests/golden-import/udp-fanout-cluster/config.yaml")),
];

fn check(format: Format, content: &[u8], options: &Options) {
    let imported = import(format, Path::new("config.yaml"), content, options);
    let failed = imported.diagnostics.iter().any(|diagnostic| diagnostic.is_error());
    assert_eq!(imported.manifests.is_none(), failed, "{:?}", imported.diagnostics);
    for diagnostic in &imported.diagnostics {
        let shown = diagnostic.to_string();
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        assert!(!diagnostic.reason.is_empty() && !diagnostic.message.is_empty() && !diagnostic.remedy.is_empty());
    }
    let Some(manifests) = imported.manifests else { return };
    let mut catalog = Catalog::default();
    catalog.set_file(Path::new("manifests.yaml"), manifests.as_bytes());
    catalog.settle(Duration::ZERO);
    assert!(catalog.diagnostics().iter().all(|found| !found.is_error()), "{manifests}{:?}", catalog.diagnostics());
    let report = lint(&[Input { name: "manifests.yaml".to_owned(), text: manifests.clone() }], &Config::default());
    assert!(report.unreadable.is_empty(), "{manifests}");
}

proptest! {
    #[test]
    fn any_bytes(content in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(Format::Xlb, &content, &Options::default());
        check(Format::UdpFanout, &content, &Options::default());
    }

    /// Lines of a configuration left out, doubled, or with another value.
    #[test]
    fn mutated_configurations(
        which in 0usize..SEEDS.len(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..3, "[ -~é]{0,12}"), 1..4),
        vip in any::<bool>(),
    ) {
        let (format, text) = SEEDS[which];
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for (at, kind, word) in &edits {
            let at = at.index(lines.len());
            match kind {
                0 => _ = lines.remove(at),
                1 => lines.insert(at, lines[at].clone()),
                _ => lines[at] = lines[at].split_once(':').map_or(word.clone(), |(key, _)| format!("{key}: {word}")),
            }
            if lines.is_empty() {
                break;
            }
        }
        let vips = if vip { vec!["192.0.2.1".parse().unwrap()] } else { Vec::new() };
        let options = Options { announced_elsewhere: vip, vips };
        check(format, lines.join("\n").as_bytes(), &options);
    }
}
