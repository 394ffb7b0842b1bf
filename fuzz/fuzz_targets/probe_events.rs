//! Any line, read as an event of a prober's run: no panic, and a text fit for a terminal.
#![no_main]

use evenkeel_probe::report::parse_line;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    if let Ok(event) = parse_line(line) {
        assert!(!event.text.is_empty() && !event.text.chars().any(char::is_control));
    }
});
