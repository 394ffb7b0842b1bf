//! Developer tasks: eBPF object, benchmarks, scenarios, fuzzing and soaking of the packet path, image.

mod bench;
mod bpf;
mod fuzz_packets;
mod image;
mod machine;
mod scenarios;
mod soak;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer tasks.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Bench(Box<bench::Args>),
    Bpf(bpf::Args),
    FuzzPackets(fuzz_packets::Args),
    Image(image::Args),
    Scenarios(scenarios::Args),
    Soak(soak::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Bench(args) => bench::run(&args),
        Task::Bpf(args) => bpf::run(&args),
        Task::FuzzPackets(args) => fuzz_packets::run(&args),
        Task::Image(args) => image::run(&args),
        Task::Scenarios(args) => scenarios::run(&args),
        Task::Soak(args) => soak::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
