//! The packet fixtures, one test a file.

use std::time::Duration;

use anyhow::{bail, ensure};
use evenkeel_conformance::{
    check,
    fixture::Fixture,
    fuzz::{self, Plan},
    node::{Node, names},
    soak,
};
use evenkeel_lab::Sandbox;
use libtest_mimic::{Failed, Trial};

/// The files of `tests/packets`, each as a test of its name.
pub(crate) fn trials(sandbox: Option<&'static Sandbox>) -> Vec<Trial> {
    let fixtures = match evenkeel_conformance::fixtures() {
        Ok(fixtures) => fixtures,
        Err(error) => {
            let message = format!("{error:#}");
            return vec![Trial::test("conformance::fixtures", move || Err(Failed::from(message)))];
        }
    };
    let any_packet = Trial::test("conformance::any_packet", {
        let fixtures = fixtures.clone();
        move || {
            let sandbox = sandbox.ok_or("no sandbox")?;
            any_packet(sandbox, &fixtures).map_err(|error| Failed::from(format!("{error:#}")))
        }
    });
    let months_of_rollouts = Trial::test("conformance::months_of_rollouts", move || {
        let sandbox = sandbox.ok_or("no sandbox")?;
        months_of_rollouts(sandbox).map_err(|error| Failed::from(format!("{error:#}")))
    });
    fixtures
        .into_iter()
        .map(|fixture| {
            let name = fixture.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            Trial::test(format!("conformance::{name}"), move || {
                let sandbox = sandbox.ok_or("no sandbox")?;
                conforms(sandbox, &fixture).map_err(|error| Failed::from(format!("{error:#}")))
            })
        })
        .chain([any_packet, months_of_rollouts])
        .collect()
}

/// `cargo xtask fuzz-packets` tries many more.
fn any_packet(sandbox: &Sandbox, fixtures: &[Fixture]) -> anyhow::Result<()> {
    let plan = Plan { packets: 200_000, time: Duration::from_secs(60), seed: 1 };
    let summary = fuzz::run(sandbox, fixtures, &names()?, plan, |_| {})?;
    ensure!(summary.outcomes.len() > 10, "too little happened:\n{}", summary.text());
    Ok(())
}

/// `cargo xtask soak` has many more.
fn months_of_rollouts(sandbox: &Sandbox) -> anyhow::Result<()> {
    let plan = soak::Plan { flows: 60_000, changes: 3_000, time: Duration::from_secs(600), seed: 1 };
    let summary = soak::run(sandbox, plan, |_| {})?;
    ensure!(summary.flows == plan.flows && summary.of_gone_pods > 100, "too little happened:\n{}", summary.text());
    Ok(())
}

/// `UPDATE_PACKETS=1` writes what happens into the file instead: read the difference before committing it.
fn conforms(sandbox: &Sandbox, fixture: &Fixture) -> anyhow::Result<()> {
    let names = names()?;
    Node::with(sandbox, |node| {
        if std::env::var_os("UPDATE_PACKETS").is_some() {
            return check::update(node, fixture, &names);
        }
        let report = check::run(node, fixture, &names)?;
        ensure!(!fixture.cases.is_empty(), "there are no cases");
        if !report.is_empty() {
            bail!("not as expected:\n{report}");
        }
        Ok(())
    })
}
