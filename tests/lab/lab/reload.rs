//! Changing the manifests of a running load balancer, in good ways and in bad ones.

use std::{
    fs::{self, File},
    io::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::fs::symlink,
    path::Path,
};

use anyhow::{Context as _, ensure};
use evenkeel_lab::{
    Child, Sandbox,
    deployment::{ENDPOINTS_FILE, SERVICE_FILE},
    manifests::Condition,
    topology::VIP_POOL,
};
use serde_json::Value;

use crate::{
    Test, client,
    world::{self, HTTP, SOON, Setup, VIP, World, vip},
};

pub(crate) const TESTS: &[Test] = &[
    ("reload::an_edited_slice_moves_traffic", an_edited_slice_moves_traffic),
    ("reload::a_wrong_field_keeps_the_last_good_version", a_wrong_field_keeps_the_last_good_version),
    ("reload::broken_yaml_keeps_the_last_good_version", broken_yaml_keeps_the_last_good_version),
    ("reload::a_file_being_written_is_left_alone", a_file_being_written_is_left_alone),
    ("reload::a_configmap_swap_is_followed", a_configmap_swap_is_followed),
    ("reload::a_missing_directory_freezes_what_is_carried", a_missing_directory_freezes_what_is_carried),
];

/// Another VIP than the service's.
const OTHER: Ipv4Addr = VIP_POOL.1;

fn an_edited_slice_moves_traffic(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (mut world, _agent) = World::start(sandbox, &Setup::default())?;
    let load = world.load()?;
    world::go_on(&load, 20)?;
    let names: Vec<String> = world.deployment.backends().map(|backend| backend.name.clone()).collect();
    for (up, down) in [(0, 1), (1, 0)] {
        world.deployment.set_condition(&names[up], Condition::Ready)?;
        world.deployment.set_condition(&names[down], Condition::Terminating)?;
        await_only(&world, &names[up])?;
    }
    world::ensure_nothing_lost(load)?;
    Ok(())
}

/// A value that a field cannot have.
fn a_wrong_field_keeps_the_last_good_version(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (mut world, agent) = World::start(sandbox, &Setup::default())?;
    let good = read(&world, ENDPOINTS_FILE)?;
    let address = address_of(&world, 0);
    let bad = good.replace(&address, "10.77.1.300");
    let line = 1 + bad.lines().position(|line| line.contains("10.77.1.300")).context("the slice has the address")?;
    keeps_the_last_good_version(&mut world, &agent, &good, &bad, line, Some("endpoints[0].addresses[0]"))
}

/// A document that is none.
fn broken_yaml_keeps_the_last_good_version(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (mut world, agent) = World::start(sandbox, &Setup::default())?;
    let good = read(&world, ENDPOINTS_FILE)?;
    let bad = good.replace("endpoints:\n", "endpoints: [\n  {addresses: [\n");
    let line = 1 + bad.lines().position(|line| line.starts_with("- addresses")).context("the slice has endpoints")?;
    keeps_the_last_good_version(&mut world, &agent, &good, &bad, line, None)
}

fn keeps_the_last_good_version(
    world: &mut World,
    agent: &Child,
    good: &str,
    bad: &str,
    line: usize,
    field: Option<&str>,
) -> anyhow::Result<()> {
    let load = world.load()?;
    world::go_on(&load, 10)?;
    let before = world.status()?;
    ensure!(world::problems(&before).is_empty(), "{before:#}");

    world.manifests.write(ENDPOINTS_FILE, bad)?;
    let status = world.await_status("the problem is shown", |status| !world::problems(status).is_empty())?;
    let problem = world::problems(&status).join("\n");
    let place = format!("{ENDPOINTS_FILE}:{line}");
    let help = "= help: ";
    for expected in [Some(place.as_str()), field, Some(help)].into_iter().flatten() {
        ensure!(problem.contains(expected), "{expected:?} is not in {problem:?}");
        let logged = |line: &str| line.contains(expected);
        agent.wait_for_log(expected, logged, SOON)?;
    }
    ensure!(status["frontends"].as_array().map(Vec::len) == Some(6), "{status:#}");
    ensure!(world::backends(&status, HTTP) == world::backends(&before, HTTP), "{status:#}");
    world::go_on(&load, 20)?;

    // What is good in other files is carried meanwhile.
    add_other(world, good)?;
    client::get(&world.lab.client, SocketAddrV4::new(OTHER, HTTP.port))?;

    world.manifests.write(ENDPOINTS_FILE, good)?;
    world.await_status("the problem is gone", |status| world::problems(status).is_empty())?;
    let name = world.deployment.backends().next().map(|backend| backend.name.clone()).context("there is a backend")?;
    world.deployment.set_condition(&name, Condition::Terminating)?;
    let other = world.deployment.backends().nth(1).map(|backend| backend.name.clone()).context("there are two")?;
    await_only(world, &other)?;
    world::ensure_nothing_lost(load)?;
    Ok(())
}

fn a_file_being_written_is_left_alone(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup::default())?;
    let load = world.load()?;
    world::go_on(&load, 10)?;
    let before = world.status()?;
    let good = read(&world, ENDPOINTS_FILE)?;
    // What comes in the end: the first backend alone.
    let kept =
        good.find(&format!("- addresses: [{}]", address_of(&world, 1))).context("the slice has two endpoints")?;
    let next = &good[..kept];
    let (first, second) = next.split_at(next.find("endpoints:").context("the slice has endpoints")? + 4);

    let mut file = File::create(world.manifests.directory().join(ENDPOINTS_FILE))?;
    file.write_all(first.as_bytes())?;
    // A change elsewhere that is carried tells that the half file has been met.
    add_other(&world, &good)?;
    let status = world.status()?;
    ensure!(world::problems(&status).is_empty(), "{status:#}");
    ensure!(world::backends(&status, HTTP) == world::backends(&before, HTTP), "{status:#}");
    world::go_on(&load, 10)?;

    file.write_all(second.as_bytes())?;
    drop(file);
    let status =
        world.await_status("the new content is carried", |status| active(status) == [address_of(&world, 0)])?;
    ensure!(world::problems(&status).is_empty(), "{status:#}");
    world::go_on(&load, 10)?;
    world::ensure_nothing_lost(load)?;
    Ok(())
}

/// The way Kubernetes updates a mounted ConfigMap: all files at once, by a symbolic link that is replaced.
fn a_configmap_swap_is_followed(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    let volume = world.manifests.directory();
    let both = read(&world, ENDPOINTS_FILE)?;
    let service = read(&world, SERVICE_FILE)?;
    for name in [ENDPOINTS_FILE, SERVICE_FILE] {
        world.manifests.remove(name)?;
        symlink(Path::new("..data").join(name), volume.join(name))?;
    }
    let publish = |version: &str, endpoints: &str| -> anyhow::Result<()> {
        let directory = volume.join(version);
        fs::create_dir(&directory)?;
        fs::write(directory.join(ENDPOINTS_FILE), endpoints)?;
        fs::write(directory.join(SERVICE_FILE), &service)?;
        symlink(version, volume.join("..data_tmp"))?;
        Ok(fs::rename(volume.join("..data_tmp"), volume.join("..data"))?)
    };
    publish("..first", &both)?;
    let _agent = world.run()?;
    let load = world.load()?;
    world::go_on(&load, 10)?;

    let ready = "{ready: true, serving: true, terminating: false}";
    let terminating = "{ready: false, serving: true, terminating: true}";
    let (of_ipv6, of_ipv4) = both.split_at(both.find("addressType: IPv4").context("there is a slice of IPv4")?);
    publish("..second", &format!("{of_ipv6}{}", of_ipv4.replacen(ready, terminating, 1)))?;
    fs::remove_dir_all(volume.join("..first"))?;
    let status =
        world.await_status("the second version is carried", |status| active(status) == [address_of(&world, 1)])?;
    ensure!(world::problems(&status).is_empty(), "{status:#}");
    publish("..third", &both)?;
    fs::remove_dir_all(volume.join("..second"))?;
    world.await_status("the third version is carried", |status| active(status).len() == 2)?;
    world::go_on(&load, 10)?;
    world::ensure_nothing_lost(load)?;
    Ok(())
}

fn a_missing_directory_freezes_what_is_carried(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup::default())?;
    let load = world.load()?;
    world::go_on(&load, 10)?;
    let before = world.status()?;

    let directory = world.manifests.directory();
    let away = world.directory.path().join("away");
    fs::rename(directory, &away)?;
    let status = world.await_status("the directory is missed", |status| {
        world::problems(status).iter().any(|problem| problem.contains("source_unreadable"))
    })?;
    ensure!(announced(&status) == announced(&before), "{status:#}");
    ensure!(world::backends(&status, HTTP) == world::backends(&before, HTTP), "{status:#}");
    world::go_on(&load, 20)?;
    ensure!(client::is_answered(&world.lab.client, VIP)?, "{VIP} is no longer answered for");

    // It comes back, with something new.
    let endpoints = fs::read_to_string(away.join(ENDPOINTS_FILE))?;
    fs::rename(&away, directory)?;
    add_other(&world, &endpoints)?;
    let status = world.status()?;
    ensure!(world::problems(&status).is_empty(), "{status:#}");
    world::ensure_nothing_lost(load)?;
    Ok(())
}

/// The VIPs, and whether they are announced.
fn announced(status: &Value) -> Vec<(&Value, &Value)> {
    let vips = status["vips"].as_array().into_iter().flatten();
    vips.map(|vip| (&vip["address"], &vip["announced"])).collect()
}

fn read(world: &World, file: &str) -> anyhow::Result<String> {
    Ok(fs::read_to_string(world.manifests.directory().join(file))?)
}

/// The address of the backend with this number, from zero.
fn address_of(world: &World, number: usize) -> String {
    world.deployment.backends().nth(number).map(|backend| backend.address.to_string()).unwrap_or_default()
}

/// Addresses of the backends that take new connections.
fn active(status: &Value) -> Vec<&str> {
    world::backends(status, HTTP)
        .into_iter()
        .filter(|(_, state)| *state == "active")
        .map(|(address, _)| address)
        .collect()
}

/// Waits until a backend is the only one that takes new connections, and sees that it gets them.
fn await_only(world: &World, name: &str) -> anyhow::Result<()> {
    let address =
        world.deployment.backends().find(|backend| backend.name == name).map(|backend| backend.address.to_string());
    let address = address.with_context(|| format!("no backend {name}"))?;
    world.await_status(&format!("{name} alone is active"), |status| active(status) == [address.as_str()])?;
    for _ in 0..10 {
        let server = client::server_of(&world.lab.client, vip(HTTP))?;
        ensure!(server == name, "{server} answered, not {name}");
    }
    Ok(())
}

/// Adds another service at [`OTHER`] with the endpoints of a slice, and waits until it is carried.
fn add_other(world: &World, slice: &str) -> anyhow::Result<()> {
    world.manifests.write("other-endpoints.yaml", &slice.replace("shop", "other"))?;
    world.manifests.write("other.yaml", &world::service("other", OTHER).manifest())?;
    let other = OTHER.to_string();
    world.await_status("another service is carried", |status| {
        let vips = status["vips"].as_array().into_iter().flatten();
        vips.filter(|vip| vip["announced"] == true).any(|vip| vip["address"] == other)
    })?;
    Ok(())
}
