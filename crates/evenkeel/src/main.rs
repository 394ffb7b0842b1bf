//! The `evenkeel` command line: one module per command under `command/`.

mod cluster;
mod command;
mod demo;

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

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
    Downgrade(command::downgrade::Args),
    Drain(command::drain::Args),
    Import(command::import::Args),
    Install(command::install::Args),
    Lint(command::lint::Args),
    Mode(command::mode::Args),
    Plan(command::plan::Args),
    Probe(command::probe::Args),
    Run(Box<command::run::Args>),
    Status(command::status::Args),
    Uninstall(command::uninstall::Args),
}

/// The name under which `kubectl evenkeel` finds this program.
const KUBECTL_PLUGIN: &str = "kubectl-evenkeel";

/// The command line, which calls itself as it was called.
fn parse() -> Cli {
    let called = std::env::args_os().next().unwrap_or_default();
    let is_plugin = Path::new(&called).file_name().is_some_and(|name| name == KUBECTL_PLUGIN);
    let command = match is_plugin {
        true => Cli::command().bin_name("kubectl evenkeel"),
        false => Cli::command(),
    };
    Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

fn main() -> ExitCode {
    let result = match parse().command {
        Command::Agent(args) => command::agent::run(&args),
        Command::Controller(args) => command::controller::run(&args),
        Command::Crds(args) => command::crds::run(&args),
        Command::Demo(args) => command::demo::run(&args),
        Command::Downgrade(args) => command::downgrade::run(&args),
        Command::Drain(args) => command::drain::run(&args),
        Command::Import(args) => command::import::run(&args),
        Command::Install(args) => command::install::run(&args),
        Command::Lint(args) => command::lint::run(&args),
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
