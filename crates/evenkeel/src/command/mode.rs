//! `evenkeel mode`: switches what a node's programs do with packets.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use evenkeel_loader::{Mode, nodes, switch_mode};

use super::run::NodeName;

/// Switch at once what a node does with packets: balance them, only count what would be balanced, or let everything pass.
///
/// It is the programs that are switched, so no agent needs to run or to answer. The mode stays until it is switched again,
/// also across restarts, unless `evenkeel run` is given another with --mode. In `bypass` VIPs are still answered for: their
/// packets come to this node and find no service there, as if it did not run. In `observe` the node answers for none and
/// announces none: what is counted is what comes here all the same.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The mode
    #[arg(value_enum)]
    mode: ModeArg,
    #[command(flatten)]
    node: NodeName,
}

/// A mode on the command line.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum ModeArg {
    /// Balance
    Active,
    /// Count what would be balanced and let it pass
    Observe,
    /// Let everything pass
    Bypass,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Active => Self::Active,
            ModeArg::Observe => Self::Observe,
            ModeArg::Bypass => Self::Bypass,
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let node = args.node.get()?;
    let mode = Mode::from(args.mode);
    match switch_mode(&node, mode).with_context(|| format!("cannot switch {node}; this takes root"))? {
        Some(before) if before == mode => println!("{node}: {} already", mode.name()),
        Some(before) => println!("{node}: {}, was {}", mode.name(), before.name()),
        None => {
            let others = nodes();
            if others.is_empty() {
                bail!("this machine has no data path");
            }
            bail!("{node} has no data path here; there is that of: {} (choose with --node)", others.join(", "));
        }
    }
    Ok(ExitCode::SUCCESS)
}
