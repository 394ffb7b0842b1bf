//! `evenkeel downgrade`: hands a node's data path back to the version before.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use evenkeel_loader::{hand_back, nodes};

use super::run::NodeName;

/// Hand a node's data path back to the version before this one, whose agent is started next.
///
/// The agent must have ended; its programs go on. Connections go with them: what the version before knows how to carry, it goes
/// on with. That is IPv4, and services without source ranges, limits, rewritten sources or a turn for each packet; the others are
/// named. Starting this version again instead takes back what was handed over; connections of what was left out end.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    node: NodeName,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let node = args.node.get()?;
    let Some(handed) = hand_back(&node).with_context(|| format!("cannot hand {node} back"))? else {
        let others = nodes();
        if others.is_empty() {
            bail!("this machine has no data path");
        }
        bail!(
            "{node} has no data path of this version here; there is that of: {} (choose with --node)",
            others.join(", ")
        );
    };
    println!(
        "{node}: {} frontends and {} flows are handed to version 1 of the maps; start its agent now",
        handed.frontends, handed.flows
    );
    for frontend in handed.left() {
        println!("  {frontend} is left out: version 1 cannot carry it as it is");
    }
    Ok(ExitCode::SUCCESS)
}
