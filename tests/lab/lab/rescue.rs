//! New connections while backends refuse them, with and without rescue.

use std::{net::SocketAddr, num::NonZeroU32, process::Command, time::Duration};

use anyhow::ensure;
use evenkeel_lab::{
    Load, Sandbox,
    topology::{POD_BRIDGE, UPLINK},
};
use evenkeel_probe::{Close, Config, Lane, LaneKind, Report};
use rustix::process::Signal;

use crate::{
    Test,
    world::{self, Setup, TCP, World, vip, vip6},
};

pub(crate) const TESTS: &[Test] = &[
    ("rescue::direct_at_tcx", |sandbox| nobody_is_refused(sandbox, "direct", "tcx", &[UPLINK, POD_BRIDGE], 1)),
    ("rescue::direct_at_tcx_of_the_uplink_alone", |sandbox| nobody_is_refused(sandbox, "direct", "tcx", &[UPLINK], 2)),
    ("rescue::direct_at_generic_xdp", |sandbox| {
        nobody_is_refused(sandbox, "direct", "xdp-generic", &[UPLINK, POD_BRIDGE], 2)
    }),
    ("rescue::stack_at_clsact", |sandbox| nobody_is_refused(sandbox, "stack", "clsact", &[UPLINK, POD_BRIDGE], 1)),
    ("rescue::stack_at_tcx_beside_a_firewall", |sandbox| nobody_is_refused(sandbox, "stack", "tcx", &[UPLINK], 2)),
];

/// Connections a second to each VIP, and for how long: 2,000 in all.
const RATE: NonZeroU32 = NonZeroU32::new(250).unwrap();
const SPAN: Duration = Duration::from_secs(4);

/// Of three backends, `closed` are killed while their endpoints stay: their hosts refuse every connection.
fn nobody_is_refused(
    sandbox: &Sandbox,
    forwarding: &'static str,
    hook: &'static str,
    interfaces: &'static [&'static str],
    closed: usize,
) -> anyhow::Result<()> {
    let setup = Setup { hook, forwarding, interfaces, backends: 3, ..Setup::default() };
    let mut world = World::build(sandbox, &setup)?;
    if forwarding == "stack" {
        // As kube-proxy has it: what connection tracking does not know does not get through.
        let mut nft = Command::new("nft");
        nft.arg(
            "add table inet filter; \
             add chain inet filter forward { type filter hook forward priority 0; }; \
             add rule inet filter forward ct state invalid drop",
        );
        world.lab.node.run(nft)?;
    }
    let names: Vec<String> = world.deployment.backends().take(closed).map(|backend| backend.name.clone()).collect();
    let agent = world.run()?;
    for name in &names {
        let server = world.deployment.server(name)?;
        server.signal(Signal::KILL)?;
        server.wait(world::SOON)?;
    }
    let report = connect(&world)?;
    ensure!(report.failed == 0 && report.requests >= 2000, "with rescue:\n{report}");
    let counters = world::counters(&world.status()?)?;
    ensure!(counters.get("rescued_syn").is_some_and(|count| *count > 300), "{counters:?}");
    world.ensure_no_drops()?;
    drop(agent);

    world.balancer.arguments.extend(["--rescue", "off"].map(str::to_owned));
    let _agent = world.run()?;
    let report = connect(&world)?;
    let refused = report.failed * 3 / report.requests.max(1);
    ensure!(report.failed > 0 && refused <= closed as u64, "without rescue:\n{report}");
    Ok(())
}

/// Opens and closes connections to both VIPs.
fn connect(world: &World) -> anyhow::Result<Report> {
    let lane =
        |name: &str, address: SocketAddr| Lane { name: name.to_owned(), ..Lane::to(LaneKind::TcpEcho, address, RATE) };
    let lanes = vec![lane("tcp", vip(TCP).into()), lane("tcp6", vip6(TCP).into())];
    let mut config = Config::new(lanes, SPAN);
    config.timeout = world::SOON;
    config.close = Close::Fin;
    Ok(Load::start(&world.lab.client, config)?.wait()?)
}
