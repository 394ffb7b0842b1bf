//! What cannot work is refused with a named problem and a remedy, and leaves nothing behind.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use anyhow::ensure;
use evenkeel_lab::{
    Sandbox, find_program,
    topology::{POD_BRIDGE, UPLINK},
};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    Test, attached, client,
    world::{self, Ended, HTTP, STOP, Setup, World, vip},
};

pub(crate) const TESTS: &[Test] = &[
    ("refusals::a_missing_interface_is_named", a_missing_interface_is_named),
    ("refusals::without_privilege_the_remedy_is_root", without_privilege_the_remedy_is_root),
    ("refusals::a_damaged_state_file_is_left_in_place", a_damaged_state_file_is_left_in_place),
    ("refusals::an_admin_socket_in_use_is_named", an_admin_socket_in_use_is_named),
    ("refusals::status_tells_why_there_is_none", status_tells_why_there_is_none),
    ("refusals::wrong_arguments_are_explained", wrong_arguments_are_explained),
];

fn a_missing_interface_is_named(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup { interfaces: &[UPLINK, "nope0"], backends: 1, ..Setup::default() })?;
    let ended = world::finish(&world.lab.node, world.balancer.command())?;
    ensure_refused(&ended, &["interface nope0 does not exist", "ip link"])?;
    ensure_untouched(&world)
}

fn without_privilege_the_remedy_is_root(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup { backends: 1, ..Setup::default() })?;
    // Where everyone can reach it, which is not so of every build directory.
    let public = TempDir::new()?;
    fs::set_permissions(public.path(), fs::Permissions::from_mode(0o755))?;
    let program = public.path().join("evenkeel");
    fs::copy(&world.balancer.program, &program)?;
    let nobody = |arguments: &[&str]| -> anyhow::Result<Ended> {
        let mut command = Command::new(find_program("setpriv", "util-linux")?);
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(arguments);
        world::finish(&world.lab.node, command)
    };
    let manifests = public.path().to_string_lossy();
    // With everything else as a person would leave it.
    let ended = nobody(&["run", &manifests, "--node", "node", "--interface", UPLINK])?;
    ensure_refused(&ended, &["privilege: ", "Run as root"])?;
    let ended = nobody(&["demo"])?;
    ensure_refused(&ended, &["root", "sudo"])?;
    ensure_untouched(&world)
}

fn a_damaged_state_file_is_left_in_place(sandbox: &Sandbox) -> anyhow::Result<()> {
    const DAMAGED: &str = "{\"version\": 1, \"held";
    let world = World::build(sandbox, &Setup { backends: 1, ..Setup::default() })?;
    fs::create_dir_all(&world.balancer.state_dir)?;
    let file = world.balancer.state_dir.join("state.json");
    fs::write(&file, DAMAGED)?;
    let ended = world::finish(&world.lab.node, world.balancer.command())?;
    ensure_refused(&ended, &["state.json is damaged", "move it away"])?;
    ensure!(fs::read_to_string(&file)? == DAMAGED);
    ensure_untouched(&world)
}

/// Another node's agent has the socket.
fn an_admin_socket_in_use_is_named(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup { backends: 1, ..Setup::default() })?;
    let before = attached::programs(&world.lab.node, UPLINK)?;
    let mut other = world.balancer.clone();
    other.node = "other".to_owned();
    other.state_dir = world.directory.path().join("other");
    let ended = world::finish(&world.lab.node, other.command())?;
    ensure_refused(&ended, &["admin.sock", "another process serves this socket"])?;
    let after = attached::programs(&world.lab.node, UPLINK)?;
    ensure!(before == after, "{before:?} became {after:?}");
    client::get(&world.lab.client, vip(HTTP))?;
    Ok(())
}

fn status_tells_why_there_is_none(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup { backends: 1, ..Setup::default() })?;
    let admin = format!("unix:{}", world.balancer.admin.display());
    let status = || world.evenkeel(&["status", "--admin", &admin]);
    ensure_refused(&status()?, &["no such socket", "is the agent running"])?;

    let agent = world.run()?;
    ensure!(status()?.status.success());
    agent.signal(Signal::KILL)?;
    agent.wait(STOP)?;
    ensure_refused(&status()?, &["nobody is listening"])?;

    // What a killed agent leaves is no obstacle, and an ended one leaves no socket.
    let agent = world.run()?;
    ensure!(status()?.status.success());
    ensure!(agent.terminate(STOP)?.success());
    ensure!(!world.balancer.admin.exists());
    Ok(())
}

fn wrong_arguments_are_explained(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup { backends: 0, ..Setup::default() })?;
    for (arguments, expected) in [
        (&["run"][..], &["<DIR>"][..]),
        (&["run", "m", "--interface", UPLINK, "--hook", "xpd"], &["xpd", "tcx", "clsact", "xdp"]),
        (&["run", "m", "--interface", UPLINK, "--admin", "/run/x.sock"], &["expected unix:PATH"]),
        (&["demo", "--duration", "soon"], &["--duration"]),
    ] {
        let ended = world.evenkeel(arguments)?;
        ensure!(ended.status.code() == Some(2), "{arguments:?}: {}", ended.status);
        ensure_says(&ended, expected)?;
    }
    // The node has no default route that would tell the uplink.
    ensure_refused(&world.evenkeel(&["run", "m"])?, &["no default route", "--interface"])?;
    ensure_untouched(&world)
}

/// Ended with 1, saying all of this on standard error, in an orderly way.
fn ensure_refused(ended: &Ended, expected: &[&str]) -> anyhow::Result<()> {
    ensure!(ended.status.code() == Some(1), "{}: {}", ended.status, ended.stderr);
    ensure!(ended.stdout.is_empty(), "{}", ended.stdout);
    ensure_says(ended, expected)
}

fn ensure_says(ended: &Ended, expected: &[&str]) -> anyhow::Result<()> {
    for text in expected {
        ensure!(ended.stderr.contains(text), "{text:?} is not in: {}", ended.stderr);
    }
    ensure!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    Ok(())
}

/// Nothing is attached or pinned.
fn ensure_untouched(world: &World) -> anyhow::Result<()> {
    for interface in [UPLINK, POD_BRIDGE] {
        for (direction, programs) in attached::programs(&world.lab.node, interface)? {
            ensure!(programs.tcx.is_empty() && programs.clsact.is_empty(), "{interface} ({direction}): {programs:?}");
        }
    }
    let pins = attached::pins(&world.lab.node)?;
    ensure!(pins.is_empty(), "pinned: {pins:?}");
    ensure!(!Path::new(&world.balancer.admin).exists());
    Ok(())
}
