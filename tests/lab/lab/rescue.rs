//! New connections and datagrams while backends refuse them, with and without rescue.

use std::{net::SocketAddr, num::NonZeroU32, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use evenkeel_lab::{
    Load, Sandbox,
    manifests::Port,
    topology::{POD_BRIDGE, UPLINK},
};
use evenkeel_probe::{Close, Config, Lane, LaneKind, Report};
use rustix::process::Signal;

use crate::{
    Test,
    world::{self, HTTP, Setup, TCP, UDP, World, vip, vip6},
};

pub(crate) const TESTS: &[Test] = &[
    ("rescue::direct_at_tcx", |sandbox| nobody_is_refused(sandbox, "direct", "tcx", &[UPLINK, POD_BRIDGE], 1)),
    ("rescue::direct_at_tcx_of_the_uplink_alone", |sandbox| nobody_is_refused(sandbox, "direct", "tcx", &[UPLINK], 2)),
    ("rescue::direct_at_generic_xdp", |sandbox| {
        nobody_is_refused(sandbox, "direct", "xdp-generic", &[UPLINK, POD_BRIDGE], 2)
    }),
    ("rescue::stack_at_clsact", |sandbox| nobody_is_refused(sandbox, "stack", "clsact", &[UPLINK, POD_BRIDGE], 1)),
    ("rescue::ten_megabytes_through_rescued_connections", ten_megabytes),
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
    let report = load(&world, &[CONNECTIONS, DATAGRAMS].concat())?;
    let counters = world::counters(&world.status()?)?;
    ensure!(report.failed == 0 && report.requests >= 4000, "with rescue:\n{report}\n{counters:?}");
    ensure!(counters.get("rescued_syn").is_some_and(|count| *count > 300), "{counters:?}");
    ensure!(counters.get("rescued_datagram").is_some_and(|count| *count > 0), "{counters:?}");
    world.ensure_no_drops()?;
    drop(agent);

    world.balancer.arguments.extend(["--rescue", "off"].map(str::to_owned));
    let _agent = world.run()?;
    let report = load(&world, CONNECTIONS)?;
    let refused = report.failed * 3 / report.requests.max(1);
    ensure!(report.failed > 0 && refused <= closed as u64, "without rescue:\n{report}");
    Ok(())
}

/// Kinds of requests, and whom they ask.
type Requests = (LaneKind, Port);
const CONNECTIONS: &[Requests] = &[(LaneKind::TcpEcho, TCP)];
const DATAGRAMS: &[Requests] = &[(LaneKind::Udp, UDP), (LaneKind::UdpFixed, UDP)];

/// Sends these requests to both VIPs.
fn load(world: &World, requests: &[Requests]) -> anyhow::Result<Report> {
    let lane = |kind: LaneKind, family: &str, address: SocketAddr| {
        let fixed = (kind == LaneKind::UdpFixed).then(|| NonZeroU32::new(50).unwrap_or(RATE));
        Lane { name: format!("{kind:?}{family}"), ..Lane::to(kind, address, fixed.unwrap_or(RATE)) }
    };
    let lanes = requests
        .iter()
        .flat_map(|(kind, port)| [lane(*kind, "4", vip(*port).into()), lane(*kind, "6", vip6(*port).into())])
        .collect();
    let mut config = Config::new(lanes, SPAN);
    config.timeout = world::SOON;
    config.close = Close::Fin;
    Ok(Load::start(&world.lab.client, config)?.wait()?)
}

/// What a rescued connection carries is what any other does: its window scale, SACK and timestamps are those of its SYN.
fn ten_megabytes(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup { backends: 2, ..Setup::default() })?;
    let refusing = world.deployment.backends().next().context("a backend")?.name.clone();
    let _agent = world.run()?;
    let server = world.deployment.server(&refusing)?;
    server.signal(Signal::KILL)?;
    server.wait(world::SOON)?;
    let rate = NonZeroU32::new(2).context("not zero")?;
    let lane = |name: &str, address: SocketAddr| Lane {
        name: name.to_owned(),
        // The prober compares every byte.
        path: "/bytes/10485760".to_owned(),
        ..Lane::to(LaneKind::Http, address, rate)
    };
    let lanes = vec![lane("http", vip(HTTP).into()), lane("http6", vip6(HTTP).into())];
    let mut config = Config::new(lanes, SPAN);
    config.timeout = world::SOON;
    let report = Load::start(&world.lab.client, config)?.wait()?;
    let counters = world::counters(&world.status()?)?;
    let rescued = counters.get("rescued_syn").copied().unwrap_or_default();
    ensure!(report.failed == 0 && report.requests >= 16 && rescued > 0, "{rescued} rescued:\n{report}");
    world.ensure_no_drops()
}
