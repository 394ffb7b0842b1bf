//! A run of the prober from its arguments to its exit status.

use std::{collections::BTreeSet, fs, num::NonZeroU32, path::PathBuf, process::ExitCode, str::FromStr, time::Duration};

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use evenkeel_probe::{
    Close, Config, Lane, LaneOptions, Prober, Rate, Report, Target, TargetError, TlsVerify, Verdict,
    report::{CommandEnd, Context, Objectives},
};
use evenkeel_process::{logging, shutdown};

use super::{
    INVALID,
    display::{Display, Shown},
    events::{Events, Follower},
    exec::{Exec, Surroundings},
    output::{Format, Outputs, QUEUE, ReportFile},
};

/// For how long requests are started unless something else is said.
const DURATION: Duration = Duration::from_secs(10);
/// The same where a command decides: longer than any rollout.
const COMMAND_DURATION: Duration = Duration::from_secs(24 * 3600);

#[derive(clap::Args)]
pub(super) struct RunArgs {
    /// What to probe, all at the same time: `[NAME=]SCHEME://HOST[:PORT][/PATH]`.
    ///
    /// tcp: complete a handshake; tcp-banner: and read a line; tcp-echo: and have a line echoed; tcp-long: numbered bytes
    /// on connections that stay open; tls: complete a TLS handshake; http, h2: GET on a new connection; http-keepalive,
    /// h2-keepalive: on kept ones; udp: a datagram and its reply, from a new port each time; udp-fixed: from one port;
    /// dns, dns-fixed, dns-tcp: the query dns://SERVER/NAME[?type=TYPE]. The banner, echo, long and UDP kinds expect
    /// `evenkeel probe serve` at the other end. NAME is how reports and objectives call the lane.
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<NamedTarget>,
    /// Requests per second, for each target; `max` for as many as --connections give, one after the other.
    #[arg(long, default_value = "100")]
    rate: RateArg,
    /// Connections of each target with --rate max, and of each tcp-long target.
    #[arg(long, default_value = "10")]
    connections: NonZeroU32,
    /// For how long to start requests [default: 10s; with --exec: until the command has ended]
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
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

    /// What must hold, such as failed=0,p99<=20ms,gap<=50ms,success>=99.99%; LANE:METRIC<=VALUE for one lane or kind.
    ///
    /// Metrics: failed, success, p50, p90, p95, p99, p999, mean, max, gap (longest time without a success), outage
    /// (longest), outages (number), rescuable, in_flight, slow, and each cause of failures, such as refused.
    #[arg(long, value_name = "OBJECTIVES", default_value = "failed=0", help_heading = "Verdict")]
    slo: Objectives,
    /// Run this in a shell while probing, then --tail longer; the run fails if the command does. With --duration, the
    /// command is terminated if it is still running then.
    #[arg(long, value_name = "COMMAND", help_heading = "Verdict")]
    exec: Option<String>,
    /// How long to go on after the --exec command has ended.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration, requires = "exec", help_heading = "Verdict")]
    tail: Duration,
    /// Expect answers from servers of these names only; others are misroutes.
    #[arg(long, value_name = "NAME", help_heading = "Verdict")]
    expect_server: Vec<String>,
    /// Allow several servers to answer on one connection.
    #[arg(long, help_heading = "Verdict")]
    allow_split: bool,
    /// DNS response codes that count as success, as numbers or names.
    #[arg(long, value_name = "RCODE", default_value = "NOERROR", help_heading = "Verdict")]
    rcode: Vec<Rcode>,
    /// Accept any certificate of a TLS server.
    #[arg(long, conflicts_with = "ca", help_heading = "TLS")]
    insecure: bool,
    /// Trust the certificates in this PEM file instead of the system's.
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    ca: Option<PathBuf>,
    /// The name to ask a TLS server for, and to verify [default: the target's host]
    #[arg(long, value_name = "NAME", help_heading = "TLS")]
    tls_name: Option<String>,

    /// How to print the report on stdout.
    #[arg(short, long, value_enum, default_value = "text", help_heading = "Reports")]
    output: Format,
    /// Write a report to a file, too; may be given several times. ndjson and hdr are written while the run goes on.
    #[arg(long, value_name = "FORMAT=FILE", help_heading = "Reports")]
    report: Vec<ReportFile>,
    /// Lay events over the run: JSON lines with a time and a text under any common name, such as a rollout's log. The
    /// file is followed while the run goes on; `-` is stdin.
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    events: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum CloseArg {
    Auto,
    Fin,
    Reset,
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

/// `[NAME=]TARGET`
#[derive(Clone, Debug, PartialEq, Eq)]
struct NamedTarget {
    name: Option<String>,
    target: Target,
}

impl FromStr for NamedTarget {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        // A scheme has no `=`; a path may.
        let scheme = text.find("://").unwrap_or(text.len());
        match text[..scheme].split_once('=') {
            Some((name, _)) if !name.is_empty() => {
                Ok(Self { name: Some(name.to_owned()), target: text[name.len() + 1..].parse()? })
            }
            _ => Ok(Self { name: None, target: text.parse()? }),
        }
    }
}

/// A number or `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RateArg {
    PerSecond(NonZeroU32),
    Max,
}

impl FromStr for RateArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        text.parse().map(Self::PerSecond).map_err(|_| "a whole number of requests a second, or `max`".to_owned())
    }
}

/// A DNS response code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rcode(u8);

impl FromStr for Rcode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        /// RFC 1035 section 4.1.1: the codes of servers, by number.
        const NAMES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
        let named = NAMES.iter().position(|name| name.eq_ignore_ascii_case(text)).and_then(|code| code.try_into().ok());
        let code = named.or_else(|| text.parse().ok()).filter(|code| *code < 16);
        code.map(Self).ok_or_else(|| format!("a number below 16, or one of {}", NAMES.join(", ")))
    }
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    logging::init("warn")?;
    crate::command::raise_descriptor_limit();
    let config = config(args)?;
    let lanes: Vec<String> = config.lanes.iter().map(|lane| lane.name.clone()).collect();
    check_objectives(&args.slo, &config.lanes)?;
    let mut outputs = Outputs::open(args.output, &args.report)?;
    let events = Events::default();
    let follower = args.events.as_ref().map(|path| Follower::start(path, events.clone())).transpose()?;

    let mut prober = Prober::new(config)?;
    let progress = prober.progress();
    let results = outputs.has_streams().then(|| prober.results(QUEUE));
    let streams = results.map(|results| outputs.start_streams(results, &lanes, &progress)).transpose()?;
    let interrupted = shutdown::on_signal().context("signal handlers")?;
    let stop = interrupted.child_token();
    let duration = if args.exec.is_some() { args.duration } else { Some(args.duration.unwrap_or(DURATION)) };
    let shown = Shown { progress: progress.clone(), events: events.clone(), duration };
    let display = Display::start(shown).context("starting a thread")?;
    let exec = args.exec.as_ref().map(|command| {
        let (tail, printer, stop) = (args.tail, display.printer(), stop.clone());
        Exec::start(command, Surroundings { tail, progress, events: events.clone(), printer, stop })
    });
    let exec = exec.transpose().context("starting a thread")?;

    let measurement = super::runtime()?.block_on(prober.measure(stop));

    let reason = if interrupted.is_cancelled() { CommandEnd::Interrupted } else { CommandEnd::OutOfTime };
    let command = exec.map(|exec| exec.finish(reason)).transpose();
    display.stop();
    let followed = follower.map_or(Ok(()), Follower::finish);
    let streamed = streams.map_or(Ok(()), super::output::Streams::finish);
    let objectives = args.slo.clone();
    let (command, failure) = match command {
        Ok(command) => (command, None),
        Err(error) => (None, Some(error)),
    };
    let report = Report::in_context(&measurement, &Context { objectives, events: events.lock().clone(), command });
    // What was measured is reported, whatever else failed.
    outputs.finish(&report)?;
    failure.map_or(Ok(()), Err).and(followed).and(streamed)?;
    Ok(match report.verdict() {
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Breached => ExitCode::FAILURE,
        Verdict::Invalid => ExitCode::from(INVALID),
    })
}

fn config(args: &RunArgs) -> anyhow::Result<Config> {
    let rate = match args.rate {
        RateArg::PerSecond(rate) => Rate::PerSecond(rate),
        RateArg::Max => Rate::Max { connections: args.connections },
    };
    let tls = match &args.ca {
        _ if args.insecure => TlsVerify::Off,
        Some(path) => TlsVerify::Roots(fs::read_to_string(path).with_context(|| format!("--ca {}", path.display()))?),
        None => TlsVerify::System,
    };
    let options = LaneOptions {
        servers: args.expect_server.iter().cloned().collect(),
        allow_split: args.allow_split,
        connections: args.connections,
        rcodes: args.rcode.iter().map(|rcode| rcode.0).collect(),
        tls,
        tls_name: args.tls_name.clone(),
    };
    let mut lanes = Vec::new();
    for NamedTarget { name, target } in &args.targets {
        let mut lane = Lane { options: options.clone(), ..Lane::new(target, rate)? };
        if let Some(name) = name {
            lane.name.clone_from(name);
        }
        lanes.push(lane);
    }
    let mut names = BTreeSet::new();
    for lane in &lanes {
        let name = &lane.name;
        ensure!(names.insert(name), "two lanes are called {name}: name them with NAME=TARGET");
    }
    let duration = args.duration.unwrap_or(if args.exec.is_some() { COMMAND_DURATION } else { DURATION });
    Ok(Config {
        timeout: args.timeout,
        max_lag: args.max_lag,
        close: args.close.into(),
        ..Config::new(lanes, duration)
    })
}

/// An objective for a lane that does not exist would be breached at the end of the run.
fn check_objectives(objectives: &Objectives, lanes: &[Lane]) -> anyhow::Result<()> {
    for objective in objectives.as_slice() {
        let about = lanes.iter().any(|lane| objective.is_about(&lane.name, lane.kind));
        if let Some(name) = objective.lane.as_ref().filter(|_| !about) {
            let names: Vec<&str> = lanes.iter().map(|lane| lane.name.as_str()).collect();
            anyhow::bail!("--slo {objective}: no lane is called {name}; there are {}", names.join(", "));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_may_be_named() {
        let parse = |text: &str| text.parse::<NamedTarget>();
        let named = parse("web=http://192.0.2.1:80/?a=b").unwrap();
        assert_eq!(
            (named.name.as_deref(), named.target.to_string().as_str()),
            (Some("web"), "http://192.0.2.1:80/?a=b")
        );
        assert_eq!(parse("http://192.0.2.1:80/?a=b://").unwrap().name, None);
        assert!(parse("web=192.0.2.1:80").is_err());
        assert!(parse("=http://192.0.2.1:80").is_err());
    }

    #[test]
    fn response_codes_have_names_and_numbers() {
        let parse = |text: &str| text.parse::<Rcode>().map(|code| code.0);
        assert_eq!((parse("nxdomain"), parse("5")), (Ok(3), Ok(5)));
        assert!(parse("16").is_err() && parse("OOPS").is_err());
    }

    #[test]
    fn a_rate_is_a_number_or_max() {
        assert_eq!("max".parse(), Ok(RateArg::Max));
        assert!("0".parse::<RateArg>().is_err() && "fast".parse::<RateArg>().is_err());
    }
}
