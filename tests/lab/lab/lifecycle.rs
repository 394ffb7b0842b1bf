//! The agent ends, in whatever way, and comes back: the data path does not notice.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use evenkeel_lab::{
    Load, Sandbox,
    deployment::{ENDPOINTS_FILE, SERVICE_FILE},
    find_program,
    manifests::Condition,
    topology::{POD_BRIDGE, UPLINK},
};
use evenkeel_scenarios::attached::{self, Attached};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    Test,
    client::{self, Session},
    world::{self, HTTP, SOON, STOP, Setup, TCP, World, vip, vip6},
};

pub(crate) const TESTS: &[Test] = &[
    ("lifecycle::a_killed_agent_breaks_nothing_at_tcx", |sandbox| a_killed_agent_breaks_nothing(sandbox, "tcx")),
    ("lifecycle::a_killed_agent_breaks_nothing_at_clsact", |sandbox| a_killed_agent_breaks_nothing(sandbox, "clsact")),
    ("lifecycle::sigterm_leaves_the_path_up_at_tcx", |sandbox| sigterm_leaves_the_path_up(sandbox, "tcx")),
    ("lifecycle::sigterm_leaves_the_path_up_at_clsact", |sandbox| sigterm_leaves_the_path_up(sandbox, "clsact")),
    ("lifecycle::the_other_hook_takes_over", the_other_hook_takes_over),
    ("lifecycle::a_restart_without_manifests_keeps_what_is_carried", a_restart_without_manifests),
    ("lifecycle::a_restart_picks_the_same_backends", a_restart_picks_the_same_backends),
    ("lifecycle::a_restart_with_an_empty_directory_loses_nothing", a_restart_with_an_empty_directory),
    ("lifecycle::a_restart_catches_up_with_the_manifests", a_restart_catches_up_with_the_manifests),
    ("lifecycle::an_interface_no_longer_given_is_detached_at_tcx", |sandbox| {
        an_interface_no_longer_given_is_detached(sandbox, "tcx")
    }),
    ("lifecycle::an_interface_no_longer_given_is_detached_at_clsact", |sandbox| {
        an_interface_no_longer_given_is_detached(sandbox, "clsact")
    }),
    ("lifecycle::a_restart_with_a_broken_file_keeps_what_is_carried", |sandbox| {
        a_restart_with_a_broken_manifest(sandbox, SERVICE_FILE, |_| "kind: Service\nspec: [".to_owned())
    }),
    ("lifecycle::a_restart_with_broken_endpoints_keeps_what_is_carried", |sandbox| {
        a_restart_with_a_broken_manifest(sandbox, ENDPOINTS_FILE, |good| {
            good.replace("addressType: IP", "addressType: ")
        })
    }),
    (
        "lifecycle::a_restart_without_the_file_of_endpoints_keeps_what_is_carried",
        a_restart_before_the_endpoints_are_there,
    ),
    ("lifecycle::a_restart_goes_on_with_what_is_loaded_at_tcx", |sandbox| goes_on_with_what_is_loaded(sandbox, "tcx")),
    ("lifecycle::a_restart_goes_on_with_what_is_loaded_at_clsact", |sandbox| {
        goes_on_with_what_is_loaded(sandbox, "clsact")
    }),
    ("lifecycle::connections_outlast_the_last_service_at_an_address", connections_outlast_the_last_service),
    ("lifecycle::a_second_run_is_refused", a_second_run_is_refused),
    ("lifecycle::settings_that_are_read_only_keep_nobody_from_starting", read_only_settings),
    ("lifecycle::the_verifier_has_little_to_do", the_verifier_has_little_to_do),
];

/// Long-lived connections.
const SESSIONS: usize = 20;

fn a_killed_agent_breaks_nothing(sandbox: &Sandbox, hook: &'static str) -> anyhow::Result<()> {
    let (world, agent) = World::start(sandbox, &Setup { hook, ..Setup::default() })?;
    let mut sessions = Session::open_many(&world.lab.client, vip(TCP), SESSIONS)?;
    client::echo_all(&mut sessions)?;
    let before = Attached::of(&world.lab.node)?;
    before.ensure_one_program(hook)?;
    let load = world.load()?;
    world::go_on(&load, 20)?;

    agent.signal(Signal::KILL)?;
    agent.wait(STOP)?;
    world::go_on(&load, 20)?;
    client::echo_all(&mut sessions)?;

    let _agent = world.run()?;
    world::go_on(&load, 20)?;
    client::echo_all(&mut sessions)?;
    world::ensure_nothing_lost(load)?;
    world.ensure_no_drops()?;
    Attached::of(&world.lab.node)?.ensure_adopted(&before, hook)
}

/// The verifier has its turn once for each object: the same programs stay, and those of another object are replaced.
fn goes_on_with_what_is_loaded(sandbox: &Sandbox, hook: &'static str) -> anyhow::Result<()> {
    let (world, agent) = World::start(sandbox, &Setup { hook, ..Setup::default() })?;
    let before = Attached::of(&world.lab.node)?;
    agent.signal(Signal::KILL)?;
    agent.wait(STOP)?;
    let agent = world.run()?;
    let after = Attached::of(&world.lab.node)?;
    ensure!(after == before, "loaded again: {before:?}, {after:?}");
    client::get(&world.lab.client, vip(HTTP))?;

    // As if it were another object's.
    ensure!(agent.terminate(STOP)?.success());
    let programs = pinned_programs(&world)?;
    ensure!(programs.len() == 3, "{programs:?}");
    for program in &programs {
        let name = program.to_string_lossy();
        let (name, digest) = name.rsplit_once('-').context("no digest")?;
        fs::rename(program, format!("{name}-{}", digest.chars().rev().collect::<String>()))?;
    }
    let _agent = world.run()?;
    Attached::of(&world.lab.node)?.ensure_replaced(&before, hook)?;
    ensure!(pinned_programs(&world)? == programs, "other pins: {:?}", pinned_programs(&world)?);
    client::get(&world.lab.client, vip(HTTP))?;
    world.ensure_no_drops()
}

fn pinned_programs(world: &World) -> anyhow::Result<BTreeSet<PathBuf>> {
    let pins = attached::pins(&world.lab.node)?;
    Ok(pins.into_iter().filter(|pin| pin.to_string_lossy().contains("/program-")).collect())
}

fn sigterm_leaves_the_path_up(sandbox: &Sandbox, hook: &'static str) -> anyhow::Result<()> {
    let (world, agent) = World::start(sandbox, &Setup { hook, ..Setup::default() })?;
    let mut sessions = Session::open_many(&world.lab.client, vip(TCP), SESSIONS)?;
    let before = Attached::of(&world.lab.node)?;

    let asked = Instant::now();
    let status = agent.terminate(STOP)?;
    ensure!(status.code() == Some(0), "{status} after {:?}", asked.elapsed());
    ensure!(Attached::of(&world.lab.node)? == before, "SIGTERM changed what is attached");
    client::echo_all(&mut sessions)?;
    // Somebody answers for the VIP, and new connections have somewhere to go.
    client::forget_neighbours(&world.lab.client)?;
    client::get(&world.lab.client, vip(HTTP))?;

    let _agent = world.run()?;
    client::echo_all(&mut sessions)?;
    client::get(&world.lab.client, vip(HTTP))?;
    world.ensure_no_drops()?;
    Attached::of(&world.lab.node)?.ensure_adopted(&before, hook)
}

fn the_other_hook_takes_over(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (mut world, agent) = World::start(sandbox, &Setup { hook: "tcx", ..Setup::default() })?;
    let mut sessions = Session::open_many(&world.lab.client, vip(TCP), SESSIONS)?;
    ensure!(agent.terminate(STOP)?.success());
    for hook in ["clsact", "tcx"] {
        world.use_hook(hook);
        let agent = world.run()?;
        Attached::of(&world.lab.node)?.ensure_one_program(hook)?;
        client::echo_all(&mut sessions)?;
        client::get(&world.lab.client, vip(HTTP))?;
        world.ensure_no_drops()?;
        ensure!(agent.terminate(STOP)?.success());
    }
    Ok(())
}

/// A flow that the table has forgotten goes on only if the pick is the same again.
fn a_restart_picks_the_same_backends(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, agent) = World::start(sandbox, &Setup { backends: 3, ..Setup::default() })?;
    let picks = || -> anyhow::Result<Vec<String>> {
        (20_000..20_024).map(|port| client::server_met_from(&world.lab.client, port, vip(TCP))).collect()
    };
    let before = picks()?;
    let servers: BTreeSet<&String> = before.iter().collect();
    ensure!(servers.len() == 3, "{before:?}");
    ensure!(agent.terminate(STOP)?.success());
    let _agent = world.run()?;
    let after = picks()?;
    ensure!(before == after, "{before:?} became {after:?}");
    Ok(())
}

fn a_restart_catches_up_with_the_manifests(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (mut world, agent) = World::start(sandbox, &Setup::default())?;
    let mut sessions = Session::open_many(&world.lab.client, vip(TCP), SESSIONS)?;
    agent.signal(Signal::KILL)?;
    agent.wait(STOP)?;
    let names: Vec<String> = world.deployment.backends().map(|backend| backend.name.clone()).collect();
    world.deployment.set_condition(&names[0], Condition::Terminating)?;

    let _agent = world.run()?;
    let new = Session::open_many(&world.lab.client, vip(TCP), SESSIONS)?;
    ensure!(new.iter().all(|session| session.server == names[1]), "a draining backend got new connections");
    client::echo_all(&mut sessions)?;
    world.ensure_no_drops()
}

fn an_interface_no_longer_given_is_detached(sandbox: &Sandbox, hook: &'static str) -> anyhow::Result<()> {
    let (mut world, agent) = World::start(sandbox, &Setup { hook, ..Setup::default() })?;
    let mut sessions = Session::open_many(&world.lab.client, vip(TCP), SESSIONS)?;
    ensure!(agent.terminate(STOP)?.success());
    world.balancer.interfaces = vec![UPLINK.to_owned()];

    let _agent = world.run()?;
    for (direction, programs) in attached::programs(&world.lab.node, UPLINK)? {
        ensure!(programs.tcx.len() + programs.clsact.len() == 1, "{UPLINK} has {programs:?} ({direction})");
    }
    for (direction, programs) in attached::programs(&world.lab.node, POD_BRIDGE)? {
        ensure!(programs.tcx.len() + programs.clsact.len() == 0, "{POD_BRIDGE} has {programs:?} ({direction})");
    }
    // Replies take the way through the kernel from now on.
    client::echo_all(&mut sessions)?;
    client::get(&world.lab.client, vip(HTTP))?;
    world.ensure_no_drops()
}

/// In a container `/proc/sys` is read-only, and a node that has IPv4 alone does not forward IPv6.
fn read_only_settings(sandbox: &Sandbox) -> anyhow::Result<()> {
    const SCRIPT: &str = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec \"$@\"";
    let world = World::build(sandbox, &Setup::default())?;
    world.lab.node.sysctl("net.ipv4.ip_forward", "1")?;
    world.lab.node.sysctl("net.ipv6.conf.all.forwarding", "0")?;
    let agent = world.balancer.command();
    let mut command = Command::new(find_program("unshare", "util-linux")?);
    command.args(["--mount", "sh", "-c", SCRIPT, "sh"]).arg(agent.get_program()).args(agent.get_args());
    let agent = world.lab.node.spawn(command)?;
    agent.wait_for_line("ready", SOON)?;
    client::get(&world.lab.client, vip(HTTP))?;
    let status = world.status()?;
    let told: Vec<&str> = world::problems(&status).into_iter().filter(|text| text.contains("forwarding_off")).collect();
    ensure!(told.len() == 1 && told[0].contains("sysctl -w net.ipv6.conf.all.forwarding=1"), "{status:#}");
    Ok(())
}

/// An agent that has ended under load, and where its manifests are meanwhile, such as on a file system that is not mounted yet.
fn ended_without_manifests(sandbox: &Sandbox) -> anyhow::Result<(World, Load, PathBuf)> {
    let (world, agent) = World::start(sandbox, &Setup::default())?;
    let load = world.load()?;
    world::go_on(&load, 10)?;
    ensure!(agent.terminate(STOP)?.success());
    let directory = world.manifests.directory();
    let away = world.directory.path().join("away");
    fs::rename(directory, &away)?;
    Ok((world, load, away))
}

/// The directory is not there.
fn a_restart_without_manifests(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, load, away) = ended_without_manifests(sandbox)?;
    let directory = world.manifests.directory();

    let agent = world.lab.node.spawn(world.balancer.command())?;
    world::eventually("the missing directory is told of", || {
        // Until it is bound there is no socket to ask.
        let status = world.status().ok();
        let told = status.filter(|status| world::problems(status).iter().any(|one| one.contains("source_unreadable")));
        Ok(told.filter(|status| status["ready"] == false).map(drop))
    })?;
    world::go_on(&load, 20)?;
    ensure!(agent.stdout().is_empty(), "ready without manifests");

    fs::rename(&away, directory)?;
    agent.wait_for_line("ready", SOON)?;
    world::go_on(&load, 10)?;
    world::ensure_nothing_lost(load)?;
    world.ensure_no_drops()
}

/// The directory is there and empty, or somebody fills it: what is missing is looked for again.
fn a_restart_with_an_empty_directory(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, load, away) = ended_without_manifests(sandbox)?;
    let directory = world.manifests.directory();
    fs::create_dir(directory)?;

    let agent = world.run()?;
    agent.wait_for_log("what is missing", |line| line.contains("missing"), SOON)?;
    // At once: the second look does not wait for a slow machine.
    for entry in fs::read_dir(&away)? {
        let entry = entry?;
        fs::rename(entry.path(), directory.join(entry.file_name()))?;
    }
    // Longer than until the second look.
    world::go_on(&load, 1000)?;
    world::ensure_nothing_lost(load)?;
    world.ensure_no_drops()
}

/// The last good version of an object does not outlive the process that remembers it; what that process carried does.
fn a_restart_with_a_broken_manifest(sandbox: &Sandbox, file: &str, broken: fn(&str) -> String) -> anyhow::Result<()> {
    let (world, agent) = World::start(sandbox, &Setup::default())?;
    let load = world.load()?;
    world::go_on(&load, 10)?;
    ensure!(agent.terminate(STOP)?.success());
    let good = fs::read_to_string(world.manifests.directory().join(file))?;
    world.manifests.write(file, &broken(&good))?;

    let _agent = world.run()?;
    world.await_status("the broken manifest is told of", |status| !world::problems(status).is_empty())?;
    world::go_on(&load, 20)?;
    client::forget_neighbours(&world.lab.client)?;
    world::go_on(&load, 20)?;

    world.manifests.write(file, &good)?;
    world.await_status("the service is back", |status| {
        world::problems(status).is_empty() && !world::backends(status, HTTP).is_empty()
    })?;
    world::go_on(&load, 10)?;
    world::ensure_nothing_lost(load)?;
    world.ensure_no_drops()
}

/// Somebody fills the directory while the agent starts.
fn a_restart_before_the_endpoints_are_there(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, agent) = World::start(sandbox, &Setup::default())?;
    let load = world.load()?;
    world::go_on(&load, 10)?;
    ensure!(agent.terminate(STOP)?.success());
    let good = fs::read_to_string(world.manifests.directory().join(ENDPOINTS_FILE))?;
    world.manifests.remove(ENDPOINTS_FILE)?;

    let agent = world.lab.node.spawn(world.balancer.command())?;
    agent.wait_for_log("a second look", |line| line.contains("until a second look"), SOON)?;
    world.manifests.write(ENDPOINTS_FILE, &good)?;
    world.await_status("the endpoints are back", |status| !world::backends(status, HTTP).is_empty())?;
    world::go_on(&load, 20)?;
    world::ensure_nothing_lost(load)?;
    world.ensure_no_drops()
}

/// The Service at the VIPs is deleted, and no other has them: what is connected goes on, across a restart as well.
fn connections_outlast_the_last_service(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, agent) = World::start(sandbox, &Setup::default())?;
    let client = &world.lab.client;
    let mut sessions = Session::open_many(client, vip(TCP), SESSIONS)?;
    sessions.extend(Session::open_many(client, vip6(TCP), SESSIONS)?);
    client::echo_all(&mut sessions)?;
    world.manifests.remove(SERVICE_FILE)?;
    let is_empty = |status: &Value, what: &str| status[what].as_array().is_some_and(Vec::is_empty);
    let is_gone = |status: &Value| is_empty(status, "vips") && is_empty(status, "frontends");
    world.await_status("the service is gone", is_gone)?;
    client::echo_all(&mut sessions)?;

    agent.signal(Signal::KILL)?;
    agent.wait(STOP)?;
    let _agent = world.run()?;
    world.await_status("the service is still gone", is_gone)?;
    client::echo_all(&mut sessions)?;
    world.ensure_no_drops()
}

fn a_second_run_is_refused(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, agent) = World::start(sandbox, &Setup::default())?;
    let before = Attached::of(&world.lab.node)?;
    let mut second = world.balancer.clone();
    second.state_dir = world.directory.path().join("second");
    second.admin = world.directory.path().join("second.sock");
    let ended = world::finish(&world.lab.node, second.command())?;
    ensure!(ended.status.code() == Some(1), "{}", ended.status);
    ensure!(ended.stdout.is_empty(), "{}", ended.stdout);
    ensure!(ended.stderr.contains("another evenkeel drives"), "{}", ended.stderr);
    ensure!(ended.stderr.contains("--node"), "no remedy: {}", ended.stderr);
    ensure!(!ended.stderr.contains("panicked"), "{}", ended.stderr);

    ensure!(agent.is_running());
    ensure!(Attached::of(&world.lab.node)? == before, "the refused run changed what is attached");
    client::get(&world.lab.client, vip(HTTP))?;
    Ok(())
}

/// Far below the million that is allowed, so that kernels with other verifiers have room, and a start takes no processor away.
fn the_verifier_has_little_to_do(sandbox: &Sandbox) -> anyhow::Result<()> {
    let _running = World::start(sandbox, &Setup { hook: "xdp-generic", ..Setup::default() })?;
    let mut counts = BTreeMap::new();
    for program in aya::programs::loaded_programs() {
        // One that has just been unloaded.
        let Ok(program) = program else { continue };
        let name = program.name_as_str().unwrap_or_default().to_owned();
        if let Some(count) = program.verified_instruction_count().filter(|_| name.starts_with("evenkeel_")) {
            counts.insert(name, count);
        }
    }
    ensure!(counts.contains_key("evenkeel_xdp") && counts.contains_key("evenkeel_out"), "{counts:?}");
    ensure!(counts.values().all(|count| *count < 300_000), "{counts:?}");
    Ok(())
}
