//! Any bytes, read as a prober's JSON report: what is accepted can be compared and shown in every format.
#![no_main]

use evenkeel_probe::report::{Comparison, Report};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    if let Ok(report) = Report::from_json(json) {
        _ = Comparison::new(&report, &report).to_string();
        _ = (report.to_string(), report.to_html(), report.to_junit(), report.to_prometheus());
    }
});
