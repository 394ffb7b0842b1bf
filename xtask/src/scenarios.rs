//! The scenarios of the promise, Evenkeel and its peers in one run.

use std::{env, path::PathBuf};

use anyhow::{Result, bail, ensure};
use evenkeel_lab::Sandbox;
use evenkeel_scenarios::{Options, Scenario, capture, cases};

use crate::{
    bench::{target_directory, write_report},
    machine,
};

/// Rolling replacements, deaths, restarts and upgrades under load, judged (needs root).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which scenarios
    #[arg(value_delimiter = ',', default_values = ["S1", "S2", "S3", "S4", "S5", "S9", "S10"])]
    scenarios: Vec<Scenario>,
    /// Faults of each row of evenkeel [default: 5, with SOAK=1 100]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    faults: Option<u32>,
    /// Only rows whose subject's name contains this
    #[arg(long, default_value = "")]
    subject: String,
    /// Print the packets of one rescued handshake instead
    #[arg(long)]
    capture: bool,
    /// The load balancer's binary [default: release/evenkeel in the target directory]
    #[arg(long, value_name = "FILE")]
    evenkeel: Option<PathBuf>,
    /// Where the report goes [default: scenarios/report.json in the target directory]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Faults of a row in an ordinary run, and in one that soaks.
const FAULTS: u32 = 5;
const SOAK_FAULTS: u32 = 100;

pub(crate) fn run(args: &Args) -> Result<()> {
    let target = target_directory()?;
    let program = args.evenkeel.clone().unwrap_or_else(|| target.join("release/evenkeel"));
    let file = args.report.clone().unwrap_or_else(|| target.join("scenarios/report.json"));
    ensure!(program.is_file(), "{} does not exist: `cargo build --release -p evenkeel` makes it", program.display());
    let _awake = machine::keep_awake();
    machine::go_first();
    let sandbox = Sandbox::enter()?;
    if args.capture {
        println!("{}", capture(&program, &sandbox)?);
        return Ok(());
    }
    let soaks = env::var_os("SOAK").is_some_and(|soak| soak == "1");
    let faults = args.faults.unwrap_or(if soaks { SOAK_FAULTS } else { FAULTS });
    let mut rows = cases(&args.scenarios);
    rows.retain(|case| case.subject.name().contains(&args.subject));
    let report = evenkeel_scenarios::run(&rows, &Options { program, faults, brief: false }, &sandbox)?.finished();
    write_report(&file, &report)?;
    let failed = report.failed();
    if !failed.is_empty() {
        let names: Vec<String> = failed.iter().map(|row| format!("{} {}", row.scenario, row.subject)).collect();
        bail!("did not pass: {}", names.join(", "));
    }
    Ok(())
}
