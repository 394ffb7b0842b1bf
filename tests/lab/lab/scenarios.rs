//! The scenarios of `make scenarios` in brief: what is counted is judged, what is timed is not.

use anyhow::ensure;
use evenkeel_lab::Sandbox;
use evenkeel_scenarios::{Case, Forwarding, Kind, Options, Row, Scenario, Servers};

use crate::{Test, world};

pub(crate) const TESTS: &[Test] = &[
    ("scenarios::s1_in_brief", |sandbox| nothing_is_lost(sandbox, Scenario::S1, Forwarding::Direct)),
    ("scenarios::s2_in_brief", |sandbox| nothing_is_lost(sandbox, Scenario::S2, Forwarding::Stack)),
    ("scenarios::s3_in_brief", |sandbox| nothing_is_lost(sandbox, Scenario::S3, Forwarding::Direct)),
    ("scenarios::s4_in_brief", |sandbox| nothing_is_lost(sandbox, Scenario::S4, Forwarding::Direct)),
    ("scenarios::s5_in_brief", |sandbox| nothing_is_lost(sandbox, Scenario::S5, Forwarding::Stack)),
    ("scenarios::s9_in_brief", |sandbox| nothing_is_lost(sandbox, Scenario::S9, Forwarding::Direct)),
    ("scenarios::s10_in_brief", |sandbox| nothing_is_lost(sandbox, Scenario::S10, Forwarding::Stack)),
];

fn nothing_is_lost(sandbox: &Sandbox, scenario: Scenario, forwarding: Forwarding) -> anyhow::Result<()> {
    let case = Case { scenario, servers: Servers::Drain, subject: Kind::Evenkeel { forwarding, rescue: true } };
    let options = Options { program: world::program()?, faults: 1, brief: true };
    let row = evenkeel_scenarios::row(&case, &options, sandbox)?;
    ensure!(row.requests > 0 && row.counts.is_empty(), "{}\n{row}\n{}", Row::heading(), row.counts.join("\n"));
    Ok(())
}
