//! `evenkeel uninstall`: removes the data path that a node left up.

use std::process::ExitCode;

use anyhow::Context as _;

use super::run::NodeArgs;

/// Remove a node's data path from this machine: withdraw its VIPs, detach the programs, remove the pinned maps.
///
/// The agent must have ended. What it remembers (addresses and owners, in its state directory) stays.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let node = args.node.name()?;
    if evenkeel_agent::uninstall(&node).with_context(|| format!("cannot remove the data path of {node}"))? {
        println!("{node}: VIPs withdrawn, programs detached, pins removed");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{node}: nothing to remove");
    let others = evenkeel_loader::nodes();
    if !others.is_empty() {
        println!("this machine has the data path of: {} (choose with --node)", others.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}
