//! `evenkeel crds`: the custom resources of a cluster.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

/// Print the definitions of the custom resources (MetalLB's kinds), for `kubectl apply -f -`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How to print them
    #[arg(short, long, value_enum, default_value = "yaml")]
    output: Format,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Yaml,
    Json,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let text = match args.output {
        Format::Yaml => evenkeel_crds::yaml()?,
        Format::Json => {
            let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": evenkeel_crds::definitions()});
            format!("{list:#}\n")
        }
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
