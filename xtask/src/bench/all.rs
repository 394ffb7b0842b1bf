//! Every benchmark of the data plane in one run of bounded length, with one report.
//!
//! Each part is a process of its own: it leaves nothing behind that the next one could meet.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

use super::{harness, target_directory};

/// Names of the parts and how each is bounded: about twelve minutes in all.
const PARTS: [(&str, &[&str]); 6] = [
    ("requests", &["--rounds", "5", "--seconds", "3"]),
    ("packets", &["--rounds", "7"]),
    ("pps", &["--rounds", "7"]),
    ("bulk", &["--rounds", "3", "--seconds", "2"]),
    ("flows", &["--rounds", "3", "--seconds", "6"]),
    ("steady", &["--seconds", "60"]),
];

/// Run every benchmark of the data plane, in about twelve minutes (needs root).
#[derive(clap::Args)]
pub(super) struct Args {
    /// How the report is printed
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    /// Only these parts [default: all]
    #[arg(long, value_delimiter = ',', value_parser = PARTS.map(|part| part.0))]
    parts: Vec<String>,
    /// A checkout of the prototype, to measure packets side by side with
    #[arg(long, value_name = "DIR")]
    prototype: Option<PathBuf>,
    /// The load balancer's binary [default: release/evenkeel in the target directory]
    #[arg(long, value_name = "FILE")]
    evenkeel: Option<PathBuf>,
    /// The harness's object [default: built now]
    #[arg(long, value_name = "FILE")]
    harness: Option<PathBuf>,
    /// Where the report of all parts goes [default: bench/all.json in the target directory]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// Tables
    Text,
    /// The reports of all parts as one JSON object
    Json,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let directory = target_directory()?.join("bench");
    fs::create_dir_all(&directory)?;
    let harness = match &args.harness {
        Some(file) => file.clone(),
        None => harness::build()?,
    };
    let mut reports = Map::new();
    let mut failures = Vec::new();
    let is_wanted = |name: &str| args.parts.is_empty() || args.parts.iter().any(|part| part == name);
    let wanted: Vec<_> = PARTS.iter().filter(|(name, _)| is_wanted(name)).collect();
    for (number, (name, bounds)) in wanted.iter().enumerate() {
        eprintln!("==> {name} ({} of {})", number + 1, wanted.len());
        let start = Instant::now();
        let file = directory.join(format!("{name}.json"));
        // What an earlier run left there is not this one's.
        if file.exists() {
            fs::remove_file(&file)?;
        }
        let mut command = Command::new(env::current_exe()?);
        command.arg("bench");
        if *name != "requests" {
            command.arg(name);
        }
        command.args(*bounds).arg("--report").arg(&file);
        if let (Some(evenkeel), true) = (&args.evenkeel, *name != "packets") {
            command.arg("--evenkeel").arg(evenkeel);
        }
        if matches!(*name, "packets" | "pps" | "flows") {
            command.arg("--harness").arg(&harness);
        }
        if let (Some(prototype), "packets") = (&args.prototype, *name) {
            command.arg("--prototype").arg(prototype);
        }
        if args.output == Output::Json {
            command.stdout(Stdio::null());
        }
        let status = command.status().with_context(|| format!("running {name}"))?;
        eprintln!("    {:.0} s", start.elapsed().as_secs_f64());
        if !status.success() {
            failures.push(*name);
        }
        if let Ok(text) = fs::read_to_string(&file) {
            reports.insert((*name).to_owned(), serde_json::from_str(&text)?);
        }
    }
    let text = serde_json::to_string_pretty(&Value::Object(reports))?;
    let file = args.report.clone().unwrap_or_else(|| directory.join("all.json"));
    fs::write(&file, &text).with_context(|| format!("writing {}", file.display()))?;
    match args.output {
        Output::Json => println!("{text}"),
        Output::Text => println!("report of all parts: {}", file.display()),
    }
    if !failures.is_empty() {
        bail!("failed: {}", failures.join(", "));
    }
    Ok(())
}
