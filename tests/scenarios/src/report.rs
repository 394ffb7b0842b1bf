//! All rows, for people and for programs.

use std::{collections::BTreeMap, fs, thread};

use serde::Serialize;

use crate::judge::{Row, Verdict};

/// What a run has shown.
#[derive(Debug, Serialize)]
pub struct Report {
    /// One for each scenario and subject.
    pub rows: Vec<Row>,
    /// Why rows did not pass, by scenario and subject.
    pub reasons: BTreeMap<String, Vec<String>>,
    /// The kernel's version.
    pub kernel: String,
    /// Processors of the machine.
    pub processors: usize,
    /// The machine's load averages at the end of the run.
    pub load_average: String,
}

impl Report {
    pub(crate) fn new() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        Self {
            rows: Vec::new(),
            reasons: BTreeMap::new(),
            kernel: read("/proc/sys/kernel/osrelease"),
            processors: thread::available_parallelism().map_or(0, usize::from),
            load_average: read("/proc/loadavg"),
        }
    }

    /// Takes note of how busy the machine was, and why rows did not pass.
    #[must_use]
    pub fn finished(mut self) -> Self {
        self.load_average = fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned();
        let failed = self.rows.iter().filter(|row| row.verdict != Verdict::Pass);
        self.reasons = failed.map(|row| (format!("{} {}", row.scenario, row.subject), row.reasons.clone())).collect();
        self
    }

    /// The rows that had to pass and did not.
    #[must_use]
    pub fn failed(&self) -> Vec<&Row> {
        self.rows.iter().filter(|row| row.must_pass && row.verdict != Verdict::Pass).collect()
    }
}
