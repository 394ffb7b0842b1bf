//! `evenkeel drain`: has a node stop taking new connections, and its agent end.

use std::{
    fs::OpenOptions,
    io::ErrorKind,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use evenkeel_agent::status::{PATH, Status};
use evenkeel_process::admin;

use super::run::NodeArgs;

/// Have a node's agent give its addresses away, reset new connections for a time, and end.
///
/// From the first moment the node is not ready. In a cluster other nodes take its addresses over; what nobody takes is withdrawn, and
/// only then are new connections reset, so that clients look elsewhere at once. Established ones go on, after the agent's end
/// as well. All it takes is the drain file: whoever makes it starts the same. Until it is removed, no agent starts here.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    node: NodeArgs,
    /// The agent's drain file [default: the admin socket's path with .drain in place of .sock]
    #[arg(long, env = "EVENKEEL_DRAIN_FILE", value_name = "FILE")]
    drain_file: Option<PathBuf>,
    /// Do not wait for the agent's end
    #[arg(long)]
    no_wait: bool,
}

/// How often the agent is asked.
const INTERVAL: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let socket = args.node.socket()?;
    let file = match &args.drain_file {
        Some(file) => file.clone(),
        None => args.node.drain_file()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Without an agent nobody would look at the file, and the next one would not start.
    runtime.block_on(admin::get(&socket, PATH))?;
    match OpenOptions::new().write(true).create_new(true).open(&file) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => println!("it is draining already"),
        Err(error) => return Err(error).with_context(|| format!("cannot make {}", file.display())),
    }
    if args.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    let start = Instant::now();
    let mut is_not_ready = false;
    loop {
        match runtime.block_on(admin::get(&socket, PATH)) {
            Ok(text) => {
                let status: Status = serde_json::from_str(&text).context("the agent's status")?;
                if !status.ready && !is_not_ready {
                    is_not_ready = true;
                    println!("{}: draining, and not ready any more", status.node);
                } else if status.ready && start.elapsed() > Duration::from_secs(10) {
                    bail!("the agent does not look at {}; is this its --drain-file?", file.display());
                }
            }
            Err(admin::Error::NoSuchSocket(_) | admin::Error::NobodyListening(_)) => break,
            // It may be ending just now.
            Err(error) => tracing::debug!(%error, "no status"),
        }
        std::thread::sleep(INTERVAL);
    }
    println!("drained after {:.0?}; remove {} before the next start", start.elapsed(), file.display());
    Ok(ExitCode::SUCCESS)
}
