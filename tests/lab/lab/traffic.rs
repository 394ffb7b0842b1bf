//! Traffic through the VIP, for each way of forwarding at each hook.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use anyhow::ensure;
use evenkeel_lab::{
    Load, Sandbox,
    topology::{POD_BRIDGE, UPLINK},
};
use evenkeel_probe::{Config, Lane, LaneKind};

use crate::{
    Test, client,
    world::{self, HTTP, Setup, World, vip},
};

pub(crate) const TESTS: &[Test] = &[
    ("traffic::direct_at_tcx", |sandbox| everything_arrives(sandbox, "direct", "tcx", &[UPLINK, POD_BRIDGE])),
    ("traffic::direct_at_tcx_of_the_uplink_alone", |sandbox| everything_arrives(sandbox, "direct", "tcx", &[UPLINK])),
    ("traffic::direct_at_clsact", |sandbox| everything_arrives(sandbox, "direct", "clsact", &[UPLINK, POD_BRIDGE])),
    ("traffic::direct_at_clsact_of_the_uplink_alone", |sandbox| {
        everything_arrives(sandbox, "direct", "clsact", &[UPLINK])
    }),
    ("traffic::stack_at_tcx", |sandbox| everything_arrives(sandbox, "stack", "tcx", &[UPLINK, POD_BRIDGE])),
    ("traffic::stack_at_tcx_of_the_uplink_alone", |sandbox| everything_arrives(sandbox, "stack", "tcx", &[UPLINK])),
    ("traffic::stack_at_clsact", |sandbox| everything_arrives(sandbox, "stack", "clsact", &[UPLINK, POD_BRIDGE])),
    ("traffic::stack_at_clsact_of_the_uplink_alone", |sandbox| {
        everything_arrives(sandbox, "stack", "clsact", &[UPLINK])
    }),
];

/// Length of the large transfer, in bytes.
const LARGE: u64 = 64 << 20;

fn everything_arrives(
    sandbox: &Sandbox,
    forwarding: &'static str,
    hook: &'static str,
    interfaces: &'static [&'static str],
) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup { hook, forwarding, interfaces, ..Setup::default() })?;
    let load = world.load()?;
    world::go_on(&load, 60)?;
    let report = world::ensure_nothing_lost(load)?;
    let all: BTreeSet<&str> = world.deployment.backends().map(|backend| backend.name.as_str()).collect();
    for lane in &report.lanes {
        let used: BTreeSet<&str> = lane.servers.keys().map(String::as_str).collect();
        ensure!(used == all, "{} met {used:?} of {all:?}", lane.lane);
    }

    let answer = client::get(&world.lab.client, vip(HTTP))?;
    let seen: SocketAddr = answer.header("x-evenkeel-client")?.parse()?;
    ensure!(seen == answer.local, "the backend saw {seen}, the client is {}", answer.local);

    large_transfer(&world)?;

    let status = world.status()?;
    ensure!(status["interfaces"][0]["hook"] == hook, "{status:#}");
    world.ensure_no_drops()?;
    let counters = world::counters(&status)?;
    let forwarded = |name: &str| counters.contains_key(name);
    let (used, other) =
        if forwarding == "direct" { ("forward_new", "stack_new") } else { ("stack_new", "forward_new") };
    ensure!(forwarded(used) && !forwarded(other), "forwarded by other means than {forwarding}: {counters:?}");
    Ok(())
}

/// One answer of [`LARGE`] bytes, each of which the prober checks.
fn large_transfer(world: &World) -> anyhow::Result<()> {
    let lane = Lane {
        name: "large".to_owned(),
        path: format!("/bytes/{LARGE}"),
        ..Lane::to(LaneKind::Http, SocketAddr::V4(vip(HTTP)), NonZeroU32::MIN)
    };
    // One request is due within this time, the next one after it.
    let mut config = Config::new(vec![lane], Duration::from_millis(500));
    config.timeout = world::SOON;
    let begin = Instant::now();
    let report = Load::start(&world.lab.client, config)?.wait()?;
    ensure!(report.requests == 1 && report.failed == 0, "after {:?}:\n{report}", begin.elapsed());
    Ok(())
}
