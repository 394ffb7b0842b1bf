//! Behaviour of the real eBPF object and the real binary, in network namespaces. Needs root; `make test` runs it.

mod announce;
mod api;
mod changes;
mod client;
mod clients;
mod cluster;
mod coexistence;
mod conformance;
mod demo;
mod discovery;
mod drain;
mod fan_out;
mod frames;
mod guides;
mod health;
mod import;
mod installed;
mod leftovers;
mod lifecycle;
mod migration;
mod mode;
mod next_hops;
mod ownership;
mod packets;
mod probe;
mod refusals;
mod regressions;
mod reload;
mod rescue;
mod rollout;
mod scenarios;
mod status;
mod traffic;
mod uninstall;
mod world;
mod xdp_pass;

use std::process::ExitCode;

use anyhow::Context as _;
use evenkeel_lab::Sandbox;
use evenkeel_scenarios::attached;
use libtest_mimic::{Arguments, Failed, Trial};

/// A test: its name and what it does. Each builds its own lab.
type Test = (&'static str, fn(&Sandbox) -> anyhow::Result<()>);

/// Tests of a cluster that need the stand-in for its API server.
const STAND_IN_ONLY: &[&str] = &[installed::OUTAGE_TEST, installed::GRANTS_TEST];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    match Sandbox::enter().context("the lab tests run as root: `make test` does that") {
        // The sandbox lives as long as the process; leaking it lets every test refer to it.
        Ok(sandbox) => libtest_mimic::run(&arguments, trials(Some(Box::leak(Box::new(sandbox))))).exit_code(),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn trials(sandbox: Option<&'static Sandbox>) -> Vec<Trial> {
    [
        packets::TESTS,
        regressions::TESTS,
        traffic::TESTS,
        clients::TESTS,
        rollout::TESTS,
        lifecycle::TESTS,
        migration::TESTS,
        mode::TESTS,
        next_hops::TESTS,
        uninstall::TESTS,
        announce::TESTS,
        changes::TESTS,
        ownership::TESTS,
        installed::TESTS,
        guides::TESTS,
        coexistence::TESTS,
        discovery::TESTS,
        drain::TESTS,
        fan_out::TESTS,
        import::TESTS,
        leftovers::TESTS,
        reload::TESTS,
        rescue::TESTS,
        scenarios::TESTS,
        status::TESTS,
        refusals::TESTS,
        demo::TESTS,
        health::TESTS,
        probe::TESTS,
    ]
    .into_iter()
    .flatten()
    .map(|(name, test)| {
        Trial::test(*name, move || {
            let sandbox = sandbox.ok_or("no sandbox")?;
            test(sandbox).map_err(|error| Failed::from(format!("{error:#}")))
        })
        .with_ignored_flag(api::is_real() && STAND_IN_ONLY.contains(name))
    })
    .chain(conformance::trials(sandbox))
    .collect()
}
