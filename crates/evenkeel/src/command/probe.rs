//! `evenkeel probe`: measures availability; `evenkeel probe serve`: the server to point it at.

use std::{
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    num::NonZeroU32,
    process::ExitCode,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use anyhow::Context;
use evenkeel_probe::{
    Close, Config, Lane, LaneSnapshot, Prober, Progress, Report, ServeConfig, Server, ServerName, Target, Verdict,
};
use evenkeel_process::{logging, shutdown};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The run says nothing about its targets, or never took place.
const INVALID: u8 = 2;

/// Measure whether targets answer, and how fast, with requests sent at a fixed rate whatever becomes of them.
///
/// Exit status: 0 if no request failed, 1 if one did, 2 if the run is invalid or could not start.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    // Boxed, as an enum of all commands' arguments is as large as the largest.
    #[command(flatten)]
    run: Box<RunArgs>,
}

#[derive(clap::Subcommand)]
enum Command {
    Serve(ServeArgs),
}

#[derive(clap::Args)]
struct RunArgs {
    /// What to probe, all at the same time: SCHEME://ADDRESS:PORT[/PATH].
    ///
    /// tcp: complete a handshake; tcp-banner: and read a line; tcp-echo: and have a line echoed; http: GET on a new
    /// connection; http-keepalive: GET on kept connections; udp: a datagram and its reply, from a new port each time;
    /// udp-fixed: from one port. The banner, echo and UDP kinds expect `evenkeel probe serve` at the other end.
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<Target>,
    /// Requests per second, for each target.
    #[arg(long, default_value = "100")]
    rate: NonZeroU32,
    /// For how long to start requests.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// How long a request may take.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// The run is invalid if the prober itself was later than this with 1 % of the requests.
    #[arg(long, default_value = "20ms", value_parser = humantime::parse_duration)]
    max_lag: Duration,
    /// How to end TCP connections: as clients do, or with a reset, which frees the local port at once. By default a
    /// reset only where the ports would run out.
    #[arg(long, value_enum, default_value = "auto")]
    close: CloseArg,
    /// How to print the report on stdout.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum CloseArg {
    Auto,
    Fin,
    Reset,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Serve what the prober asks for, under a name it reports, and stop on SIGTERM without losing a request.
///
/// Prints `ready` on stdout once every socket is bound.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("sockets").args(["tcp", "http", "udp"]).required(true).multiple(true))]
struct ServeArgs {
    /// Write the name as a line to every connection, then echo.
    #[arg(long, value_name = "ADDRESS:PORT")]
    tcp: Vec<SocketAddr>,
    /// Answer HTTP/1.1 GET. `/bytes/N` answers with N bytes, `/delay/MS` after MS milliseconds.
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Vec<SocketAddr>,
    /// Answer datagrams with the name, a space and the datagram.
    #[arg(long, value_name = "ADDRESS:PORT")]
    udp: Vec<SocketAddr>,
    /// How the server calls itself [default: the host name]
    #[arg(long)]
    name: Option<ServerName>,
    /// How long to wait, after SIGTERM, for requests in flight and connections in use.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    grace: Duration,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Some(Command::Serve(args)) => serve(args),
        None => Ok(probe(&args.run).unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            ExitCode::from(INVALID)
        })),
    }
}

fn probe(args: &RunArgs) -> anyhow::Result<ExitCode> {
    logging::init("warn")?;
    super::raise_descriptor_limit();
    let lanes = args.targets.iter().map(|target| Lane::new(target.clone(), args.rate)).collect();
    let prober = Prober::new(Config {
        timeout: args.timeout,
        max_lag: args.max_lag,
        close: args.close.into(),
        ..Config::new(lanes, args.duration)
    })?;
    let stop = shutdown::on_signal().context("signal handlers")?;
    let display = Display::start(prober.progress())?;
    let report = runtime()?.block_on(prober.run(stop));
    display.stop();
    print(&report, args.output).context("cannot write the report")?;
    Ok(match report.verdict() {
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Failed => ExitCode::FAILURE,
        Verdict::Invalid => ExitCode::from(INVALID),
    })
}

fn print(report: &Report, output: Output) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match output {
        Output::Text => write!(stdout, "{report}")?,
        Output::Json => writeln!(stdout, "{}", serde_json::to_string_pretty(report)?)?,
    }
    Ok(stdout.flush()?)
}

fn serve(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    logging::init("info")?;
    super::raise_descriptor_limit();
    let name = match &args.name {
        Some(name) => name.clone(),
        None => rustix::system::uname().nodename().to_string_lossy().parse().context("host name; give --name")?,
    };
    let stop = shutdown::on_signal().context("signal handlers")?;
    let config =
        ServeConfig { name, tcp: args.tcp.clone(), http: args.http.clone(), udp: args.udp.clone(), grace: args.grace };
    runtime()?.block_on(async {
        let server = Server::bind(config)?;
        for (scheme, addresses) in
            [("tcp", server.tcp_addresses()?), ("http", server.http_addresses()?), ("udp", server.udp_addresses()?)]
        {
            for address in addresses {
                eprintln!("serving {scheme}://{address}");
            }
        }
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "ready")?;
        stdout.flush()?;
        drop(stdout);
        let summary = server.run(stop).await;
        if summary.cut > 0 {
            eprintln!("{} connections were still open after the grace time and were cut", summary.cut);
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("tokio runtime")
}

impl From<CloseArg> for Close {
    fn from(close: CloseArg) -> Self {
        match close {
            CloseArg::Auto => Self::Auto,
            CloseArg::Fin => Self::Fin,
            CloseArg::Reset => Self::Reset,
        }
    }
}

/// Shows the progress on stderr from a thread of its own, so that a slow terminal does not delay requests.
struct Display {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Display {
    fn start(progress: Arc<Progress>) -> anyhow::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let show = if io::stderr().is_terminal() { show_live } else { show_plain };
        let thread = thread::Builder::new().name("display".to_owned()).spawn(move || show(&progress, &stopped))?;
        Ok(Self { stop, thread })
    }

    fn stop(self) {
        drop(self.stop);
        // A panic in the display is no reason to withhold the report.
        drop(self.thread.join());
    }
}

/// `false` once the display is to stop.
fn wait(stopped: &mpsc::Receiver<()>, time: Duration) -> bool {
    stopped.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout)
}

/// A line per lane, refreshed in place.
fn show_live(progress: &Progress, stopped: &mpsc::Receiver<()>) {
    let bars = MultiProgress::new();
    let style = ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let lines: Vec<_> =
        progress.lanes().iter().map(|_| bars.add(ProgressBar::no_length().with_style(style.clone()))).collect();
    while wait(stopped, Duration::from_millis(250)) {
        for (line, lane) in lines.iter().zip(progress.lanes()) {
            line.set_message(describe(&lane));
            line.tick();
        }
    }
    for line in lines {
        line.finish_and_clear();
    }
}

/// A line per lane every few seconds, for logs.
fn show_plain(progress: &Progress, stopped: &mpsc::Receiver<()>) {
    while wait(stopped, Duration::from_secs(5)) {
        for lane in progress.lanes() {
            eprintln!("{:4} s  {}", progress.elapsed().as_secs(), describe(&lane));
        }
    }
}

fn describe(lane: &LaneSnapshot) -> String {
    let p99 = lane.recent_p99.map_or("-".to_owned(), |p99| format!("{:.1} ms", p99.as_secs_f64() * 1e3));
    let causes: String = lane.causes.iter().map(|(cause, count)| format!(", {cause} {count}")).collect();
    let LaneSnapshot { name, sent, succeeded, failed, .. } = lane;
    format!("{name}  sent {sent}, ok {succeeded}, failed {failed}, p99 {p99}{causes}")
}
