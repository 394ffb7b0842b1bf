//! Removing the data path.

use anyhow::ensure;
use evenkeel_lab::{
    Sandbox,
    topology::{POD_BRIDGE, UPLINK},
};

use crate::{
    Test, attached, client,
    world::{HTTP, NODE, STOP, Setup, VIP, World, vip},
};

pub(crate) const TESTS: &[Test] = &[
    ("uninstall::removes_what_an_ended_agent_left_at_tcx", |sandbox| removes_what_an_ended_agent_left(sandbox, "tcx")),
    ("uninstall::removes_what_an_ended_agent_left_at_clsact", |sandbox| {
        removes_what_an_ended_agent_left(sandbox, "clsact")
    }),
    ("uninstall::is_what_detach_does_at_tcx", |sandbox| is_what_detach_does(sandbox, "tcx")),
    ("uninstall::is_what_detach_does_at_clsact", |sandbox| is_what_detach_does(sandbox, "clsact")),
];

fn removes_what_an_ended_agent_left(sandbox: &Sandbox, hook: &'static str) -> anyhow::Result<()> {
    let (world, agent) = World::start(sandbox, &Setup { hook, ..Setup::default() })?;
    client::get(&world.lab.client, vip(HTTP))?;

    let uninstall = [&["uninstall"], &NODE[..]].concat();
    let refused = world.evenkeel(&uninstall)?;
    ensure!(refused.status.code() == Some(1), "{}: {}", refused.status, refused.stdout);
    ensure!(refused.stderr.contains("another evenkeel drives"), "{}", refused.stderr);
    client::get(&world.lab.client, vip(HTTP))?;

    ensure!(agent.terminate(STOP)?.success());
    client::get(&world.lab.client, vip(HTTP))?;
    let done = world.evenkeel(&uninstall)?;
    ensure!(done.status.success(), "{}", done.stderr);
    ensure_nothing_left(&world)?;

    let again = world.evenkeel(&uninstall)?;
    ensure!(again.status.success() && again.stdout.contains("nothing to remove"), "{}{}", again.stdout, again.stderr);

    // A fresh start after it.
    let _agent = world.run()?;
    client::get(&world.lab.client, vip(HTTP))?;
    Ok(())
}

fn is_what_detach_does(sandbox: &Sandbox, hook: &'static str) -> anyhow::Result<()> {
    let mut world = World::build(sandbox, &Setup { hook, ..Setup::default() })?;
    world.balancer.arguments.push("--detach".to_owned());
    let agent = world.run()?;
    client::get(&world.lab.client, vip(HTTP))?;
    let status = agent.terminate(STOP)?;
    ensure!(status.success(), "{status}");
    ensure_nothing_left(&world)
}

/// The VIP is nobody's, and nothing is attached or pinned.
pub(crate) fn ensure_nothing_left(world: &World) -> anyhow::Result<()> {
    ensure!(!client::is_answered(&world.lab.client, VIP)?, "{VIP} is still answered for");
    for interface in [UPLINK, POD_BRIDGE] {
        for (direction, programs) in attached::programs(&world.lab.node, interface)? {
            ensure!(
                programs.tcx.is_empty() && programs.clsact.is_empty(),
                "{interface} still has {programs:?} ({direction})"
            );
        }
    }
    let pins = attached::pins(&world.lab.node)?;
    ensure!(pins.is_empty(), "still pinned: {pins:?}");
    Ok(())
}
