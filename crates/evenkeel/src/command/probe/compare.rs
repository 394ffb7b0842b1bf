//! `evenkeel probe compare`: two reports side by side.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, ensure};
use evenkeel_probe::report::{Comparison, Report, Worse};

use super::INVALID;

/// Largest report read; a run of 1,000 lanes makes one of about 100 MiB.
const MAX_SIZE: u64 = 256 << 20;

/// Compare two JSON reports: what differs, which is worse, and how sure one can be of it.
///
/// Exit status: 0 if B is not worse than A, 1 if it is worse in anything, 2 if they cannot be compared.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A report written with -o json or --report json=FILE.
    a: PathBuf,
    /// The report to compare with it.
    b: PathBuf,
    /// How to print the comparison on stdout.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let comparison = Comparison::new(&read(&args.a)?, &read(&args.b)?);
    let mut stdout = io::stdout().lock();
    match args.output {
        Output::Text => write!(stdout, "{comparison}"),
        Output::Json => writeln!(stdout, "{}", serde_json::to_string_pretty(&comparison)?),
    }
    .and_then(|()| stdout.flush())
    .context("cannot write the comparison")?;
    Ok(match comparison.worse {
        Worse::A | Worse::Neither => ExitCode::SUCCESS,
        Worse::B | Worse::Mixed => ExitCode::FAILURE,
        Worse::Unknown => ExitCode::from(INVALID),
    })
}

fn read(path: &Path) -> anyhow::Result<Report> {
    let name = || path.display().to_string();
    let mut json = Vec::new();
    File::open(path).with_context(name)?.take(MAX_SIZE + 1).read_to_end(&mut json).with_context(name)?;
    ensure!(json.len() as u64 <= MAX_SIZE, "{} is larger than any report", name());
    Report::from_json(&json).with_context(name)
}
