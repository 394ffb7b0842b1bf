//! `evenkeel status`: what a running node carries.

use std::{fmt::Write as _, process::ExitCode};

use evenkeel_agent::status::{PATH, Status};
use evenkeel_process::admin;

use super::run::NodeArgs;

/// Show what a running node carries: VIPs, frontends with their backends, and packets by outcome.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    node: NodeArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let socket = args.node.socket()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let json = runtime.block_on(admin::get(&socket, PATH))?;
    let status: Status = serde_json::from_str(&json)?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Text => print!("{}", text(&status)),
    }
    Ok(ExitCode::SUCCESS)
}

fn text(status: &Status) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut out, status);
    out
}

fn write_text(out: &mut String, status: &Status) -> std::fmt::Result {
    let interfaces: Vec<&str> = status.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let ready = if status.ready { "ready" } else { "not ready" };
    writeln!(out, "{}: {ready}, {} on {}", status.node, status.hook, interfaces.join(", "))?;

    writeln!(out, "\nVIPs")?;
    if status.vips.is_empty() {
        writeln!(out, "  none: no service of type LoadBalancer has an address")?;
    }
    for vip in &status.vips {
        let owner = match (&vip.owner, vip.announced) {
            (Some(_), true) => "announced here".to_owned(),
            (Some(owner), false) => format!("owned by {owner}"),
            (None, _) => "announced by no node".to_owned(),
        };
        writeln!(out, "  {:<40} {owner}", vip.address)?;
    }

    writeln!(out, "\nFrontends")?;
    for frontend in &status.frontends {
        writeln!(
            out,
            "  {} {}/{}  {} ({})",
            frontend.address, frontend.port, frontend.protocol, frontend.service, frontend.forwarding
        )?;
        if frontend.backends.is_empty() {
            writeln!(out, "      no endpoints")?;
        }
        for backend in &frontend.backends {
            let address = format!("{}:{}", backend.address, backend.port);
            let node = backend.node.as_deref().unwrap_or("-");
            writeln!(out, "      {address:<24} {:<8} {:>8} flows   {node}", backend.state, backend.flows)?;
        }
    }

    writeln!(out, "\nPackets by outcome")?;
    for (name, packets) in &status.counters {
        writeln!(out, "  {name:<24} {packets:>14}")?;
    }
    if !status.problems.is_empty() {
        writeln!(out, "\nProblems")?;
        for problem in &status.problems {
            writeln!(out, "  {}", problem.trim_end().replace('\n', "\n  "))?;
        }
    }
    Ok(())
}
