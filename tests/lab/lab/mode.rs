//! A node is switched between balancing, observing and letting everything pass.

use std::{thread, time::Duration};

use anyhow::ensure;
use evenkeel_lab::Sandbox;
use evenkeel_neighbor::ArpFrame;
use rustix::process::Signal;

use crate::{
    Test,
    client::{self, Capture, Exchange},
    world::{self, Ended, HTTP, NODE, STOP, Setup, UDP, VIP, World, vip},
};

/// More than lies between two announcements of a new owner.
const BURST_INTERVAL: Duration = Duration::from_millis(1500);

pub(crate) const TESTS: &[Test] = &[
    ("mode::a_running_node_is_switched_at_once", a_running_node_is_switched_at_once),
    ("mode::what_is_only_counted_is_not_announced", what_is_only_counted_is_not_announced),
    ("mode::no_agent_is_needed_and_a_restart_keeps_the_mode", no_agent_is_needed),
    ("mode::where_nothing_runs_there_is_nothing_to_switch", where_nothing_runs),
];

fn a_running_node_is_switched_at_once(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, agent) = World::start(sandbox, &Setup { backends: 1, ..Setup::default() })?;
    let exchange = Exchange::open(&world.lab.client, vip(UDP))?;
    exchange.ask()?;
    for (mode, before, outcome) in [("observe", "active", "observed"), ("bypass", "observe", "bypassed")] {
        ensure_switched(&switch(&world, mode)?, &format!("node: {mode}, was {before}"))?;
        let seen = |status: &serde_json::Value| status["counters"][outcome].as_u64().unwrap_or(0);
        let so_far = seen(&world.status()?);
        world.await_status(outcome, |status| {
            let _ = exchange.tell();
            status["mode"] == mode && seen(status) > so_far
        })?;
        // Who reads the log learns of it.
        let told = format!("mode=\"{mode}\"");
        let is_told = |line: &str| line.contains("the mode was switched") && line.contains(&told);
        agent.wait_for_log("the switch", is_told, world::SOON)?;
    }
    ensure_switched(&switch(&world, "active")?, "node: active, was bypass")?;
    ensure_switched(&switch(&world, "active")?, "node: active already")?;
    ensure!(world.status()?["mode"] == "active");
    client::get(&world.lab.client, vip(HTTP))?;
    Ok(())
}

fn what_is_only_counted_is_not_announced(sandbox: &Sandbox) -> anyhow::Result<()> {
    let mut world = World::build(sandbox, &Setup { backends: 1, ..Setup::default() })?;
    world.balancer.arguments.extend(["--mode".to_owned(), "observe".to_owned()]);
    let mut capture = Capture::start(&world.lab.client)?;
    let agent = world.run()?;
    ensure_switched(&switch(&world, "active")?, "node: active, was observe")?;
    agent.wait_for_log("the switch", |line| line.contains("the mode was switched"), world::SOON)?;
    let announcement = |frame: &ArpFrame| frame.is_announcement() && frame.sender == VIP;
    capture.wait_for("announcement", announcement)?;

    // In the midst of the burst in which a new owner announces.
    ensure_switched(&switch(&world, "observe")?, "node: observe, was active")?;
    let told = |line: &str| line.contains("the mode was switched") && line.contains("mode=\"observe\"");
    agent.wait_for_log("the switch back", told, world::SOON)?;
    world.await_status("the mode", |status| {
        status["mode"] == "observe" && !status["vips"].to_string().contains("\"announced\":true")
    })?;
    capture.so_far()?;
    thread::sleep(BURST_INTERVAL);
    let heard = capture.so_far()?;
    ensure!(!heard.iter().any(announcement), "{heard:?}");
    Ok(())
}

fn no_agent_is_needed(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (mut world, agent) = World::start(sandbox, &Setup { backends: 1, ..Setup::default() })?;
    // One that hangs holds all its locks.
    agent.signal(Signal::STOP)?;
    ensure_switched(&switch(&world, "observe")?, "node: observe, was active")?;
    agent.signal(Signal::CONT)?;
    agent.signal(Signal::KILL)?;
    agent.wait(STOP)?;
    ensure_switched(&switch(&world, "active")?, "node: active, was observe")?;
    client::get(&world.lab.client, vip(HTTP))?;

    ensure_switched(&switch(&world, "bypass")?, "node: bypass, was active")?;
    let agent = world.run()?;
    ensure!(world.status()?["mode"] == "bypass");
    ensure!(agent.terminate(STOP)?.success());
    // What is asked for counts.
    world.balancer.arguments.extend(["--mode".to_owned(), "active".to_owned()]);
    let _agent = world.run()?;
    ensure!(world.status()?["mode"] == "active");
    client::get(&world.lab.client, vip(HTTP))?;
    Ok(())
}

fn where_nothing_runs(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup { backends: 1, ..Setup::default() })?;
    let ended = switch(&world, "bypass")?;
    ensure!(ended.status.code() == Some(1) && ended.stderr.contains("no data path"), "{}", ended.stderr);
    let _agent = world.run()?;
    let ended = world.evenkeel(&["mode", "bypass", "--node", "other"])?;
    ensure!(ended.status.code() == Some(1) && ended.stderr.contains("node (choose with --node)"), "{}", ended.stderr);
    ensure!(world.status()?["mode"] == "active");
    Ok(())
}

fn switch(world: &World, mode: &str) -> anyhow::Result<Ended> {
    world.evenkeel(&[&["mode", mode], &NODE[..]].concat())
}

fn ensure_switched(ended: &Ended, expected: &str) -> anyhow::Result<()> {
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    ensure!(ended.stdout == expected, "{:?}, not {expected:?}", ended.stdout);
    Ok(())
}
