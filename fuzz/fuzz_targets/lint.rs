//! Any text as manifests: no panic, a fix is made once, and what is fixed can be read.
#![no_main]

use evenkeel_lint::{Config, Input, fix, lint, output};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    _ = Config::parse(text);
    let inputs = [Input { name: "fuzz.yaml".to_owned(), text: text.to_owned() }];
    let config = Config::default();
    let before = lint(&inputs, &config);
    let shown = output::github(&before);
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    let fixed = fix(&inputs, &config);
    assert_eq!(lint(&fixed, &config).unreadable.len(), before.unreadable.len());
    assert_eq!(fix(&fixed, &config)[0].text, fixed[0].text);
});
