//! `evenkeel status`: what a running node carries.

mod screen;
mod text;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use evenkeel_agent::status::{PATH, Status};
use evenkeel_process::{admin, shutdown};
use tokio::time::{MissedTickBehavior, interval};

use self::{
    screen::Screen,
    text::{Before, Details},
};
use super::run::NodeArgs;

/// Show what a running node carries: VIPs, frontends with their backends, and packets by outcome.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    node: NodeArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    /// Show packets by outcome for each interface too
    #[arg(short, long)]
    details: bool,
    /// Show it again and again, every second or every SECONDS, with what went through a second, until Ctrl-C
    ///
    /// On a terminal it is refreshed in place; elsewhere one follows the other. With `-o json` each is a line.
    #[arg(
        short,
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "1",
        value_parser = period
    )]
    watch: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

/// The most often that is worth it: each look reads all flows.
const SHORTEST: f64 = 0.1;
const LONGEST: f64 = 86_400.0;

fn period(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (SHORTEST..=LONGEST).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("expected seconds from {SHORTEST} to {LONGEST}, such as 2")),
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let socket = args.node.socket()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let written = match args.watch {
        Some(period) => runtime.block_on(watch(args, &socket, period)),
        None => runtime.block_on(once(args, &socket)),
    };
    match written {
        // Whoever reads has read enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        written => written.map(|()| ExitCode::SUCCESS),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn ask(socket: &Path) -> anyhow::Result<Status> {
    let json = admin::get(socket, PATH).await?;
    serde_json::from_str(&json).context("the agent is of another version: its answer cannot be read")
}

async fn once(args: &Args, socket: &Path) -> anyhow::Result<()> {
    let status = ask(socket).await?;
    let out = match args.output {
        Output::Json => serde_json::to_string_pretty(&status)? + "\n",
        Output::Text => text::text(&status, args.details(), None),
    };
    print(&out)
}

/// Shows the status every `period`. That there is no answer at first is an error; later the agent may be gone for a while.
async fn watch(args: &Args, socket: &Path, period: Duration) -> anyhow::Result<()> {
    let shutdown = shutdown::on_signal()?;
    let mut last: Option<(Status, Instant)> = None;
    let mut screen = None;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let asked = async {
            ticks.tick().await;
            (Instant::now(), ask(socket).await)
        };
        let Some((at, answer)) = shutdown.run_until_cancelled(asked).await else { return Ok(()) };
        let status = match answer {
            Ok(status) => status,
            Err(error) if last.is_none() => return Err(error),
            Err(error) => {
                match &mut screen {
                    Some(screen) => Screen::show(screen, &format!("error: {error:#}\n"))?,
                    None => eprintln!("error: {error:#}"),
                }
                continue;
            }
        };
        if args.output == Output::Json {
            print(&(serde_json::to_string(&status)? + "\n"))?;
        } else {
            let before = last.as_ref().map(|(status, then)| Before { status, seconds: (at - *then).as_secs_f64() });
            let text = text::text(&status, args.details(), before);
            if io::stdout().is_terminal() {
                screen.get_or_insert_with(Screen::open).show(&text)?;
            } else {
                print(&(text + "\n"))?;
            }
        }
        last = Some((status, at));
    }
}

impl Args {
    fn details(&self) -> Details {
        if self.details { Details::Shown } else { Details::Hidden }
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}
