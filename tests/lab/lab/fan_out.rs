//! Services that balance each datagram by itself.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, ensure};
use evenkeel_lab::{
    Sandbox,
    deployment::SERVICE_FILE,
    manifests::Condition,
    topology::{POD_BRIDGE, UPLINK},
};
use serde_json::Value;

use crate::{
    Test,
    client::Exchange,
    world::{self, Setup, UDP, VIP, VIP6, World, vip, vip6},
};

pub(crate) const TESTS: &[Test] = &[
    ("fan_out::direct_at_tcx", |sandbox| takes_turns(sandbox, "direct", "tcx")),
    ("fan_out::direct_at_generic_xdp", |sandbox| takes_turns(sandbox, "direct", "xdp-generic")),
    ("fan_out::stack_at_clsact", |sandbox| takes_turns(sandbox, "stack", "clsact")),
];

/// Datagrams of one sender.
const DATAGRAMS: u64 = 400;

/// Every backend has as many datagrams of one socket as its weight says, to the last one; and one that ends has no more.
fn takes_turns(sandbox: &Sandbox, forwarding: &'static str, hook: &'static str) -> anyhow::Result<()> {
    let setup = Setup { hook, forwarding, interfaces: &[UPLINK, POD_BRIDGE], backends: 3, ..Setup::default() };
    let (mut world, _agent) = World::start(sandbox, &setup)?;
    let heavy = world.deployment.backends().next().context("a backend")?.clone();
    // A session that has a backend already takes turns as any other.
    let sender = Exchange::open(&world.lab.client, vip(UDP))?;
    sender.ask()?;
    let mut service = world::service("shop", VIP);
    service.addresses.insert(0, VIP6.into());
    let manifest = service.manifest();
    let (before, after) = manifest.split_once("  annotations:\n").context("the service has annotations")?;
    let ours = format!(
        "    evenkeel.io/balancing: per-packet\n    evenkeel.io/forwarding: {forwarding}\n    \
         evenkeel.io/weights: \"{}=2\"\n",
        heavy.address
    );
    world.manifests.write(SERVICE_FILE, &format!("{before}  annotations:\n{ours}{after}"))?;
    let known = world.await_status("it balances each packet", |status| {
        [VIP.into(), VIP6.into()]
            .into_iter()
            .all(|vip| frontends(status, vip).any(|frontend| frontend["per_packet"] == true))
    })?;
    for sender in [&sender, &Exchange::open(&world.lab.client, vip6(UDP))?] {
        for _ in 0..DATAGRAMS {
            sender.tell()?;
        }
    }
    let count = |status: &Value, vip: IpAddr| -> BTreeMap<IpAddr, u64> {
        let new =
            |(backend, count)| (backend, count - received(&known, vip).get(&backend).copied().unwrap_or_default());
        received(status, vip).into_iter().map(new).collect()
    };
    world.await_status("all datagrams are counted", |status| {
        let v4 = count(status, VIP.into());
        let v6 = count(status, VIP6.into());
        let due = |backend: &IpAddr| DATAGRAMS * if *backend == heavy.address { 2 } else { 1 } / 4;
        v4.len() == 3
            && v4.iter().all(|(backend, count)| *count == due(backend))
            && v6.len() == 3
            && v6.values().all(|count| [DATAGRAMS / 3, DATAGRAMS / 3 + 1].contains(count))
    })?;
    let counters = world::counters(&world.status()?)?;
    let turns: u64 = ["forward_turn", "stack_turn"].iter().filter_map(|name| counters.get(*name)).sum();
    ensure!(turns == 2 * DATAGRAMS, "{counters:?}");

    world.deployment.set_condition(&heavy.name, Condition::Terminating)?;
    world.await_status("one is about to end", |status| {
        world::backends(status, UDP).get(heavy.address.to_string().as_str()) == Some(&"drain")
    })?;
    let before = received(&world.status()?, VIP);
    for _ in 0..DATAGRAMS {
        sender.tell()?;
    }
    world.await_status("the others have its turns", |status| {
        let now = received(status, VIP);
        let new = |backend: &IpAddr| now.get(backend).copied().unwrap_or_default() - before[backend];
        before.keys().all(|backend| new(backend) == if *backend == heavy.address { 0 } else { DATAGRAMS / 2 })
    })?;
    world.ensure_no_drops()
}

fn frontends(status: &Value, vip: IpAddr) -> impl Iterator<Item = &Value> {
    let vip = vip.to_string();
    let all = status["frontends"].as_array().into_iter().flatten();
    all.filter(move |frontend| frontend["address"] == vip && frontend["port"] == UDP.port)
}

/// Datagrams by backend of the UDP frontend at a VIP.
fn received(status: &Value, vip: impl Into<IpAddr>) -> BTreeMap<IpAddr, u64> {
    frontends(status, vip.into())
        .flat_map(|frontend| frontend["backends"].as_array().into_iter().flatten())
        .filter_map(|backend| {
            let address = backend["address"].as_str()?.parse().ok()?;
            Some((address, backend["traffic"]["packets_in"].as_u64()?))
        })
        .collect()
}
