//! The `evenkeel` command line: one module per command under `command/`.

mod command;
mod demo;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Load balancer for bare-metal Kubernetes and plain Linux hosts that loses no connection.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Agent(Box<command::agent::Args>),
    Controller(command::controller::Args),
    Crds(command::crds::Args),
    Demo(command::demo::Args),
    Mode(command::mode::Args),
    Plan(command::plan::Args),
    Probe(command::probe::Args),
    Run(Box<command::run::Args>),
    Status(command::status::Args),
    Uninstall(command::uninstall::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Agent(args) => command::agent::run(&args),
        Command::Controller(args) => command::controller::run(&args),
        Command::Crds(args) => command::crds::run(&args),
        Command::Demo(args) => command::demo::run(&args),
        Command::Mode(args) => command::mode::run(&args),
        Command::Plan(args) => command::plan::run(&args),
        Command::Probe(args) => command::probe::run(&args),
        Command::Run(args) => command::run::run(&args),
        Command::Status(args) => command::status::run(&args),
        Command::Uninstall(args) => command::uninstall::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
