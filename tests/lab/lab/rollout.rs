//! Rolling replacement of every backend under load.

use std::ops::ControlFlow;

use anyhow::{Context as _, bail, ensure};
use evenkeel_lab::{
    Load, Sandbox,
    deployment::{Replaced, Step},
    manifests::Condition,
    topology::{POD_BRIDGE, UPLINK},
};

use crate::{
    Test,
    client::{self, Exchange},
    world::{self, HTTP, Setup, UDP, World, vip},
};

pub(crate) const TESTS: &[Test] = &[
    ("rollout::loses_nothing_with_direct_at_tcx", |sandbox| all_are_replaced(sandbox, "direct", "tcx")),
    ("rollout::loses_nothing_with_stack_at_clsact", |sandbox| all_are_replaced(sandbox, "stack", "clsact")),
    ("rollout::a_draining_backend_keeps_its_sessions", a_draining_backend_keeps_its_sessions),
    ("rollout::the_last_backends_serve_while_they_terminate", the_last_backends_serve_while_they_terminate),
];

/// Datagrams after which an exchange counts as a session.
const SESSION: usize = 4;
/// Requests of each lane that succeed while an endpoint is terminating, before its server is told to stop.
const GRACE: u64 = 60;

fn all_are_replaced(sandbox: &Sandbox, forwarding: &'static str, hook: &'static str) -> anyhow::Result<()> {
    let setup = Setup { hook, forwarding, interfaces: &[UPLINK, POD_BRIDGE], ..Setup::default() };
    let (mut world, _agent) = World::start(sandbox, &setup)?;
    let load = world.load()?;
    world::go_on(&load, 20)?;
    let old: Vec<(String, String)> =
        world.deployment.backends().map(|backend| (backend.name.clone(), backend.address.to_string())).collect();
    for (name, address) in &old {
        replace(&mut world, &load, name, address)?;
    }
    world::go_on(&load, 20)?;
    let report = world::ensure_nothing_lost(load)?;
    let new: Vec<&str> = world.deployment.backends().map(|backend| backend.name.as_str()).collect();
    for lane in &report.lanes {
        ensure!(new.iter().all(|name| lane.servers.contains_key(*name)), "{} did not meet all of {new:?}", lane.lane);
    }
    // The old ones have no flows left that would keep them.
    let status = world.await_status("the old backends are gone", |status| {
        old.iter().all(|(_, address)| !world::backends(status, HTTP).contains_key(address.as_str()))
    })?;
    ensure!(world::backends(&status, HTTP).len() == new.len(), "{status:#}");
    world.ensure_no_drops()
}

/// UDP has no connections: a client that keeps talking from the same port does so with the same backend, while that may
/// finish what it has, and with another one when it cannot answer.
fn a_draining_backend_keeps_its_sessions(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (mut world, _agent) = World::start(sandbox, &Setup::default())?;
    let exchange = Exchange::open(&world.lab.client, vip(UDP))?;
    let server = exchange.ask()?;
    for _ in 0..SESSION {
        ensure!(exchange.ask()? == server);
    }
    let backend = world.deployment.backends().find(|backend| backend.name == server).context("a backend answered")?;
    let address = backend.address.to_string();
    for (condition, state, stays) in [(Condition::Terminating, "drain", true), (Condition::NotReady, "down", false)] {
        world.deployment.set_condition(&server, condition)?;
        world.await_status(state, |status| world::backends(status, UDP).get(address.as_str()) == Some(&state))?;
        for _ in 0..SESSION {
            let answered = exchange.ask()?;
            ensure!((answered == server) == stays, "{answered} answered when {server} was in state {state}");
        }
    }
    world.ensure_no_drops()
}

/// KEP-1669: where all endpoints terminate, those that still serve take new connections and exchanges; else nobody would.
fn the_last_backends_serve_while_they_terminate(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (mut world, _agent) = World::start(sandbox, &Setup::default())?;
    let names: Vec<String> = world.deployment.backends().map(|backend| backend.name.clone()).collect();
    for name in &names {
        world.deployment.set_condition(name, Condition::Terminating)?;
    }
    world.await_status("all terminate", |status| {
        world::backends(status, HTTP).values().all(|state| *state == "drain")
    })?;
    for _ in 0..20 {
        client::get(&world.lab.client, vip(HTTP))?;
        Exchange::open(&world.lab.client, vip(UDP))?.ask()?;
    }
    world.ensure_no_drops()
}

fn replace(world: &mut World, load: &Load, name: &str, address: &str) -> anyhow::Result<()> {
    let World { deployment, lab, balancer, .. } = world;
    let node = lab.node.clone();
    let observe = |step: Step| match step {
        Step::Starting { .. } | Step::Stopping { .. } => Ok(()),
        Step::Added { .. } => world::go_on(load, 10),
        Step::Draining { .. } => {
            world::eventually("the old backend drains", || {
                let status = world::status(&node, balancer)?;
                Ok((world::backends(&status, HTTP).get(address) == Some(&"drain")).then_some(()))
            })?;
            world::go_on(load, GRACE)
        }
        Step::Removed { status, .. } => {
            ensure!(status.success(), "the server ended with {status}");
            Ok(())
        }
    };
    let mut failure = None;
    let replaced = deployment.replace(lab, name, |step| match observe(step) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    match (failure, replaced) {
        (Some(error), _) => Err(error.context(format!("replacing {name}"))),
        (None, Replaced::Done { .. }) => Ok(()),
        (None, Replaced::BrokenOff) => bail!("replacing {name} was broken off"),
    }
}
