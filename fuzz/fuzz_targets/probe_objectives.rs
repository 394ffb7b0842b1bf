//! Any text, read as a prober's objectives: what is accepted prints as what it is.
#![no_main]

use evenkeel_probe::report::Objectives;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(objectives) = text.parse::<Objectives>() {
        assert_eq!(objectives.to_string().parse(), Ok(objectives));
    }
});
