//! The promise, measured: faults at random moments under load, Evenkeel and its peers in the same lab, judged by one rule.
//!
//! A [`Case`] is one row of the table: a [`Scenario`] with a [`Kind`] of subject. [`run`] goes through the rows: it builds a
//! `Site` (a lab with servers), lets the subject carry their service, records every request of the load while the
//! `Director` makes the faults, and has `judge` say what became of it. What the row means is in `docs/scenarios.md`.

pub mod attached;
mod capture;
mod case;
mod director;
mod ended;
mod faults;
mod judge;
mod latency;
mod load;
mod outcomes;
mod processors;
mod report;
mod site;
mod subject;
pub mod version_1;

pub use capture::capture;
pub use case::{Case, Scenario, Servers, cases};
pub use judge::{Row, Verdict};
pub use latency::Slow;
pub use report::Report;
pub use subject::{Forwarding, Kind};

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use evenkeel_lab::Sandbox;
use indicatif::{ProgressBar, ProgressStyle};

/// How often rows are measured again whose run says nothing, because the prober itself was late: one row, and all together.
const REPEATS_OF_A_ROW: u32 = 2;
const REPEATS: u32 = 12;

/// What to run and how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// The binary of the load balancer, and of the servers.
    pub program: PathBuf,
    /// Faults of a row of Evenkeel; those that only compare have one.
    pub faults: u32,
    /// Shorter pauses and an outage of one second instead of ten, where no time is judged.
    pub brief: bool,
}

/// Runs these rows one after the other, showing how far it is.
///
/// # Errors
/// What building a lab or starting a subject met with; the row is named.
pub fn run(cases: &[Case], options: &Options, sandbox: &Sandbox) -> Result<Report> {
    let bar = ProgressBar::new(cases.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos}/{len}  {msg}  {elapsed}") {
        bar.set_style(style);
    }
    let mut report = Report::new();
    let mut repeats = REPEATS;
    println!("{}", Row::heading());
    for case in cases {
        let row = measure(case, options, sandbox, &bar, &mut repeats).with_context(|| format!("{case}"))?;
        bar.suspend(|| {
            println!("{row}");
            row.reasons.iter().for_each(|reason| println!("      {reason}"));
        });
        bar.inc(1);
        report.rows.push(row);
    }
    bar.finish_and_clear();
    Ok(report)
}

/// Carries one row out, once.
///
/// # Errors
/// As [`run`].
pub fn row(case: &Case, options: &Options, sandbox: &Sandbox) -> Result<Row> {
    Ok(judge::row(case, &director::perform(case, options, sandbox, &|_| {})?))
}

/// Measures one row, again if the prober was late.
fn measure(case: &Case, options: &Options, sandbox: &Sandbox, bar: &ProgressBar, repeats: &mut u32) -> Result<Row> {
    let mut left = REPEATS_OF_A_ROW.min(*repeats);
    loop {
        let evidence = director::perform(case, options, sandbox, &|what: &str| {
            bar.set_message(format!("{case}: {what}"));
            bar.tick();
        })?;
        let row = judge::row(case, &evidence);
        if row.verdict != Verdict::Invalid || left == 0 {
            return Ok(row);
        }
        bar.suspend(|| eprintln!("{case}: measured again, because {}", row.reasons.join("; ")));
        left -= 1;
        *repeats -= 1;
    }
}
