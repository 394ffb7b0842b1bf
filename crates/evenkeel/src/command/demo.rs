//! `evenkeel demo`: a rolling update under load, in a lab on this machine.

use std::{
    env, fs,
    io::{self, Write},
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, ensure};
use evenkeel_process::{logging, shutdown};

use crate::demo::{self, Ended, Forwarding, Options, Report};

/// The shell's convention for a program ended by SIGINT.
const INTERRUPTED: u8 = 130;

/// Replace every backend of a service under load, in a lab of network namespaces on this machine, and count what is lost.
///
/// Needs root. Changes nothing outside of the lab, and leaves nothing behind however it ends. Exit status: 0 if every
/// backend was replaced and no request failed, 1 if not, 130 if interrupted.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long to send requests; longer if the replacements are not done by then
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Requests per second of each lane: TCP, HTTP and UDP
    #[arg(long, default_value = "800")]
    rate: NonZeroU32,
    /// How the load balancer passes packets on
    #[arg(long, value_enum, default_value = "direct")]
    forwarding: Forwarding,
    /// Give the service an IPv6 address as well, and send as many requests again to that one
    #[arg(long)]
    ipv6: bool,
    /// Write the report as JSON to this file, too
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// How to print the report on stdout
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    /// Run this program as the load balancer, such as another version of evenkeel [default: this one]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    balancer: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    logging::init("warn")?;
    super::raise_descriptor_limit();
    if let Some(file) = &args.report {
        // Better now than after the run.
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        ensure!(parent.is_dir(), "--report: {} is not a directory", parent.display());
    }
    let program = env::current_exe().context("finding this program's own path")?;
    let options = Options {
        duration: args.duration,
        rate: args.rate,
        forwarding: args.forwarding,
        ipv6: args.ipv6,
        balancer: args.balancer.clone().unwrap_or_else(|| program.clone()),
        program,
    };
    let stop = shutdown::on_signal().context("signal handlers")?;
    match demo::run(&options, &stop)? {
        Ended::Interrupted => {
            eprintln!("interrupted; everything is cleaned up");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Ended::Finished(report) => {
            let json = serde_json::to_string_pretty(&report)?;
            if let Some(file) = &args.report {
                fs::write(file, format!("{json}\n")).with_context(|| format!("writing {}", file.display()))?;
            }
            print(&report, &json, args.output).context("cannot write the report")?;
            Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn print(report: &Report, json: &str, output: Output) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match output {
        Output::Text => write!(stdout, "{report}")?,
        Output::Json => writeln!(stdout, "{json}")?,
    }
    stdout.flush()
}
