//! `evenkeel probe`: measures availability; `probe compare`: two of its reports; `probe serve`: a server to point it at.

mod compare;
mod display;
mod events;
mod exec;
mod output;
mod run;
mod serve;

use std::process::ExitCode;

/// The run says nothing about its targets, or never took place.
const INVALID: u8 = 2;

/// Measure whether targets answer, and how fast, with requests sent at a fixed rate whatever becomes of them.
///
/// Exit status: 0 if every objective held, 1 if one was breached or the --exec command failed, 2 if the run is invalid
/// or could not start.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    // Boxed, as an enum of all commands' arguments is as large as the largest.
    #[command(flatten)]
    run: Box<run::RunArgs>,
}

#[derive(clap::Subcommand)]
enum Command {
    Serve(serve::Args),
    Compare(compare::Args),
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let result = match &args.command {
        Some(Command::Serve(args)) => return serve::run(args),
        Some(Command::Compare(args)) => compare::run(args),
        None => run::run(&args.run),
    };
    Ok(result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(INVALID)
    }))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    use anyhow::Context as _;
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("tokio runtime")
}
