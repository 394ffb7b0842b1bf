//! Routes and neighbours change, and packets follow at once.

use anyhow::{Context as _, ensure};
use evenkeel_lab::{Sandbox, topology::POD_BRIDGE};
use serde_json::Value;

use crate::{
    Test,
    client::Exchange,
    world::{Setup, UDP, World, vip},
};

pub(crate) const TESTS: &[Test] = &[
    ("next_hops::a_route_that_changes_is_noticed", a_route_that_changes_is_noticed),
    ("next_hops::a_backend_that_announces_another_hardware_address_is_followed", a_backend_is_followed),
];

fn a_route_that_changes_is_noticed(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup { backends: 1, ..Setup::default() })?;
    for arguments in [
        &["route", "add", "198.18.0.0/24", "dev", POD_BRIDGE][..],
        &["route", "replace", "unreachable", "198.18.0.0/24"],
        &["route", "delete", "unreachable", "198.18.0.0/24"],
    ] {
        let before = epoch(&world.status()?)?;
        world.lab.node.ip(arguments.iter().copied())?;
        world.await_status("the programs ask anew", |status| epoch(status).is_ok_and(|now| now != before))?;
    }
    Ok(())
}

fn a_backend_is_followed(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup { backends: 1, ..Setup::default() })?;
    let backend = world.deployment.backends().next().context("a backend")?;
    // An announcement counts from the first moment, and is made.
    world.lab.node.sysctl(&format!("net.ipv4.neigh.{POD_BRIDGE}.locktime"), "0")?;
    backend.namespace.sysctl("net.ipv4.conf.eth0.arp_notify", "1")?;
    let client = Exchange::open(&world.lab.client, vip(UDP))?;
    for mac in ["02:00:00:00:77:01", "02:00:00:00:77:02", "02:00:00:00:77:03"] {
        client.ask()?;
        let before = epoch(&world.status()?)?;
        // Without taking the link down, which would make the kernel forget more than the address.
        backend.namespace.ip(["link", "set", "eth0", "address", mac])?;
        world.await_status("the programs ask anew", |status| epoch(status).is_ok_and(|now| now != before))?;
        let neighbours = world.lab.node.ip(["neighbour", "show", "dev", POD_BRIDGE])?;
        ensure!(neighbours.contains(mac), "{neighbours}");
        // A datagram is sent once: one that went to the former address would be lost.
        client.ask().with_context(|| format!("after the announcement of {mac}"))?;
    }
    Ok(())
}

/// How often the programs were made to ask the kernel anew.
fn epoch(status: &Value) -> anyhow::Result<u64> {
    status["next_hop_epoch"].as_u64().context("the status has an epoch")
}
