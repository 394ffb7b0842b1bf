//! This version takes over from version 1 of the maps, whose real object carries the traffic before.

use std::{
    env, fs,
    hash::{BuildHasher as _, RandomState},
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use evenkeel_lab::{
    Load, Sandbox,
    topology::{NODE_NAME, POD_BRIDGE, UPLINK},
};
use evenkeel_loader::v1;
use evenkeel_maps::{self as maps, UDP_SESSION_DATAGRAMS};
use evenkeel_probe::{Close, Config, Lane, LaneKind};
use evenkeel_scenarios::{
    attached::{Attached, pin_directory},
    version_1,
};
use rustix::fs::{FlockOperation, flock};

use crate::{
    Test,
    client::{self, Exchange, Session},
    uninstall,
    world::{self, HTTP, NODE, STOP, Setup, TCP, UDP, VIP, World, vip},
};

pub(crate) const TESTS: &[Test] = &[
    ("migration::flows_of_version_1_go_on_at_tcx", |sandbox| flows_go_on(sandbox, "tcx")),
    ("migration::flows_of_version_1_go_on_at_clsact", |sandbox| flows_go_on(sandbox, "clsact")),
    ("migration::a_hook_may_change_with_the_version", a_hook_may_change_with_the_version),
    ("migration::flows_of_the_moment_go_on_at_tcx", |sandbox| flows_of_the_moment_go_on(sandbox, "tcx", "direct")),
    ("migration::flows_of_the_moment_go_on_at_clsact", |sandbox| flows_of_the_moment_go_on(sandbox, "clsact", "stack")),
    ("migration::version_1_goes_on_with_what_is_handed_back", what_is_handed_back_goes_on),
    ("migration::whatever_ends_while_versions_change_is_taken_up_again", whatever_ends_is_taken_up_again),
    ("migration::where_nothing_runs_there_is_nothing_to_hand_back", where_nothing_runs),
    ("migration::what_is_carried_needs_no_manifests", what_is_carried_needs_no_manifests),
    ("migration::an_agent_of_version_1_at_work_is_left_alone", an_agent_at_work_is_left_alone),
    ("migration::a_newer_version_is_not_worked_beside", a_newer_version_is_not_worked_beside),
    ("migration::uninstall_removes_version_1_at_tcx", |sandbox| uninstall_removes_it(sandbox, "tcx")),
    ("migration::uninstall_removes_version_1_at_clsact", |sandbox| uninstall_removes_it(sandbox, "clsact")),
];

/// Long-lived connections: with two backends, they cannot all meet theirs again by chance.
const SESSIONS: usize = 20;
/// Requests a second: some are always under way.
const MANY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();
/// So few that version 1's table, which gives the oldest away when it is full, keeps what lasts meanwhile.
const SOME: NonZeroU32 = NonZeroU32::new(200).unwrap();
const LOAD_LIMIT: Duration = Duration::from_secs(120);
/// Kills in an ordinary run.
const KILLS: u32 = 4;
const INTERFACES: [&str; 2] = [UPLINK, POD_BRIDGE];

/// Connections and a UDP session through version 1, each with the server it met.
struct Flows {
    tcp: Vec<Session>,
    udp: Exchange,
    udp_server: String,
}

impl Flows {
    fn open(world: &World) -> anyhow::Result<Self> {
        let mut tcp = Session::open_many(&world.lab.client, vip(TCP), SESSIONS)?;
        client::echo_all(&mut tcp)?;
        ensure!(tcp.iter().any(|session| session.server != tcp[0].server), "all sessions met one server");
        let udp = Exchange::open(&world.lab.client, vip(UDP))?;
        let udp_server = udp.ask()?;
        for _ in 0..UDP_SESSION_DATAGRAMS {
            ensure!(udp.ask()? == udp_server);
        }
        Ok(Self { tcp, udp, udp_server })
    }

    fn go_on(&mut self) -> anyhow::Result<()> {
        client::echo_all(&mut self.tcp)?;
        let server = self.udp.ask()?;
        ensure!(server == self.udp_server, "the UDP session of {} met {server}", self.udp_server);
        Ok(())
    }
}

fn flows_go_on(sandbox: &Sandbox, hook: &'static str) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup { hook, ..Setup::default() })?;
    start_version_1(&world, hook)?;
    let mut flows = Flows::open(&world)?;
    let before = Attached::of(&world.lab.node)?;
    before.ensure_one_program(hook)?;

    let agent = world.run()?;
    Attached::of(&world.lab.node)?.ensure_replaced(&before, hook)?;
    ensure!(!directory(&world, 1).exists(), "version 1 has left pins");
    flows.go_on()?;
    client::get(&world.lab.client, vip(HTTP))?;
    ensure!(client::is_answered(&world.lab.client, VIP)?);
    world.ensure_no_drops()?;

    // And from here on as ever.
    ensure!(agent.terminate(STOP)?.success());
    let _agent = world.run()?;
    flows.go_on()?;
    world.ensure_no_drops()
}

fn a_hook_may_change_with_the_version(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup { hook: "clsact", ..Setup::default() })?;
    start_version_1(&world, "tcx")?;
    let mut flows = Flows::open(&world)?;
    let _agent = world.run()?;
    Attached::of(&world.lab.node)?.ensure_one_program("clsact")?;
    flows.go_on()?;
    world.ensure_no_drops()
}

/// Nothing is lost of what begins, goes on and ends while the programs of either version see some of its packets.
fn flows_of_the_moment_go_on(sandbox: &Sandbox, hook: &'static str, forwarding: &'static str) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup { hook, forwarding, ..Setup::default() })?;
    start_version_1(&world, hook)?;
    let load = begin_load(&world, MANY)?;
    let _agent = world.run()?;
    world::go_on(&load, 1_000)?;
    world::ensure_nothing_lost(load)?;
    world.ensure_no_drops()
}

/// So many new connections a second, and datagrams from new ports.
fn begin_load(world: &World, rate: NonZeroU32) -> anyhow::Result<Load> {
    let lanes = [(LaneKind::TcpEcho, TCP), (LaneKind::Udp, UDP)]
        .map(|(kind, port)| Lane::to(kind, SocketAddr::from(vip(port)), rate));
    let mut config = Config::new(lanes.into(), LOAD_LIMIT);
    config.close = Close::Fin;
    let load = Load::start(&world.lab.client, config)?;
    world::go_on(&load, u64::from(rate.get()))?;
    Ok(load)
}

/// From version 1 to this one and back and here again, with load and connections that last.
fn what_is_handed_back_goes_on(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup { hook: "tcx", ..Setup::default() })?;
    start_version_1(&world, "tcx")?;
    let mut flows = Flows::open(&world)?;
    let before = Attached::of(&world.lab.node)?;
    let own = version_1::layouts(&world.lab.node)?;
    let load = begin_load(&world, SOME)?;
    let agent = world.run()?;
    let mut later = Flows::open(&world)?;

    // Not while somebody drives it.
    let refused = world.evenkeel(&[&["downgrade"], &NODE[..]].concat())?;
    ensure!(
        refused.status.code() == Some(1) && refused.stderr.contains("another evenkeel drives"),
        "{}",
        refused.stderr
    );
    ensure!(agent.terminate(STOP)?.success());
    let handed = downgrade(&world)?;
    // A service of two families: version 1 knows one.
    ensure!(handed.contains("handed to version 1"), "{handed}");
    ensure!(!directory(&world, maps::SCHEMA_VERSION).exists(), "this version has left pins");
    // Its agent takes no others. How many flows there is room for is anybody's choice.
    for (name, made) in version_1::layouts(&world.lab.node)? {
        let entries = if name == v1::map::FLOWS { made[3] } else { own[name][3] };
        let [kind, key, value, _, flags] = own[name];
        ensure!(made == [kind, key, value, entries, flags], "{name}: {made:?}, not {:?}", own[name]);
    }
    let mut all_go_on = |when: &str| -> anyhow::Result<()> {
        flows.go_on().with_context(|| format!("begun in version 1: {when}"))?;
        later.go_on().with_context(|| format!("begun in this version: {when}"))?;
        world::go_on(&load, 200).with_context(|| when.to_owned())
    };
    all_go_on("handed back")?;

    let between = Attached::of(&world.lab.node)?;
    between.ensure_adopted(&before, "tcx")?;
    version_1::adopt(&world.lab.node, &INTERFACES)?;
    Attached::of(&world.lab.node)?.ensure_replaced(&between, "tcx")?;
    all_go_on("with version 1")?;

    let _agent = world.run()?;
    all_go_on("here again")?;
    world::ensure_nothing_lost(load)?;
    world.ensure_no_drops()
}

/// Agents and downgrades that are killed at any moment: the next agent takes up what is there, and no connection breaks.
/// `KILLS` says how many.
fn whatever_ends_is_taken_up_again(sandbox: &Sandbox) -> anyhow::Result<()> {
    let kills = env::var("KILLS").map_or(Ok(KILLS), |kills| kills.parse())?;
    let world = World::build(sandbox, &Setup { hook: "tcx", ..Setup::default() })?;
    start_version_1(&world, "tcx")?;
    let mut flows = Flows::open(&world)?;
    let mut random = RandomState::new().hash_one(0);
    for kill in 0..kills {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = Duration::from_micros((random >> 33) % 1_500_000);
        let mut command = world.balancer.command();
        if kill % 2 == 1 {
            // What version 1 has was taken over by an agent that came to its end.
            let agent = world.run()?;
            ensure!(agent.terminate(STOP)?.success());
            command = Command::new(&world.balancer.program);
            command.arg("downgrade").args(NODE);
        }
        let what = format!("kill {kill}, {moment:?} after the start of {command:?}");
        let killed = world.lab.node.spawn(command)?;
        thread::sleep(moment);
        killed.kill();
        // Whichever programs are there.
        flows.go_on().with_context(|| what.clone())?;
        client::get(&world.lab.client, vip(HTTP)).with_context(|| what.clone())?;
        if kill % 4 == 3 {
            // All the way back, whatever the last one has begun.
            let agent = world.run().with_context(|| what.clone())?;
            ensure!(agent.terminate(STOP)?.success());
            downgrade(&world)?;
            version_1::adopt(&world.lab.node, &INTERFACES).with_context(|| what.clone())?;
            flows.go_on().with_context(|| format!("{what}, back in version 1"))?;
        }
    }
    let _agent = world.run()?;
    flows.go_on()?;
    Attached::of(&world.lab.node)?.ensure_one_program("tcx")?;
    world.ensure_no_drops()
}

fn where_nothing_runs(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    let ended = world.evenkeel(&[&["downgrade"], &NODE[..]].concat())?;
    ensure!(ended.status.code() == Some(1) && ended.stderr.contains("no data path"), "{}", ended.stderr);
    uninstall::ensure_nothing_left(&world)
}

fn downgrade(world: &World) -> anyhow::Result<String> {
    let ended = world.evenkeel(&[&["downgrade"], &NODE[..]].concat())?;
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(ended.stdout)
}

/// Frontends, backends and VIPs come over by themselves: the path serves before the manifests are read.
fn what_is_carried_needs_no_manifests(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    start_version_1(&world, "tcx")?;
    let mut flows = Flows::open(&world)?;
    fs::rename(world.manifests.directory(), world.directory.path().join("away"))?;
    let _agent = world.lab.node.spawn(world.balancer.command())?;
    world::eventually("version 1 is replaced", || Ok((!directory(&world, 1).exists()).then_some(())))?;
    flows.go_on()?;
    client::forget_neighbours(&world.lab.client)?;
    client::get(&world.lab.client, vip(HTTP))?;
    Ok(())
}

fn an_agent_at_work_is_left_alone(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    start_version_1(&world, "tcx")?;
    let mut flows = Flows::open(&world)?;
    let before = Attached::of(&world.lab.node)?;
    let lock = fs::File::open(directory(&world, 1))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;

    ensure_refused(&world, &["another evenkeel drives", "/v1"])?;
    ensure!(Attached::of(&world.lab.node)? == before, "the refused run changed what is attached");
    ensure!(!directory(&world, maps::SCHEMA_VERSION).exists(), "the refused run has left pins");
    flows.go_on()?;

    drop(lock);
    let _agent = world.run()?;
    flows.go_on()
}

fn a_newer_version_is_not_worked_beside(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, agent) = World::start(sandbox, &Setup::default())?;
    let mut sessions = Session::open_many(&world.lab.client, vip(TCP), SESSIONS)?;
    ensure!(agent.terminate(STOP)?.success());
    let newer = directory(&world, maps::SCHEMA_VERSION + 1);
    fs::rename(directory(&world, maps::SCHEMA_VERSION), &newer)?;
    let before = Attached::of(&world.lab.node)?;

    let remedy = format!("evenkeel uninstall --node {NODE_NAME}");
    ensure_refused(&world, &["a newer evenkeel", &remedy])?;
    ensure!(Attached::of(&world.lab.node)? == before, "the refused run changed what is attached");
    client::echo_all(&mut sessions)?;

    let done = world.evenkeel(&[&["uninstall"], &NODE[..]].concat())?;
    ensure!(done.status.success(), "{}", done.stderr);
    uninstall::ensure_nothing_left(&world)?;
    let _agent = world.run()?;
    client::get(&world.lab.client, vip(HTTP))?;
    Ok(())
}

fn uninstall_removes_it(sandbox: &Sandbox, hook: &'static str) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    start_version_1(&world, hook)?;
    client::get(&world.lab.client, vip(HTTP))?;
    let done = world.evenkeel(&[&["uninstall"], &NODE[..]].concat())?;
    ensure!(done.status.success(), "{}", done.stderr);
    uninstall::ensure_nothing_left(&world)
}

fn ensure_refused(world: &World, words: &[&str]) -> anyhow::Result<()> {
    let ended = world::finish(&world.lab.node, world.balancer.command())?;
    ensure!(ended.status.code() == Some(1), "{}: {}", ended.status, ended.stderr);
    for word in words {
        ensure!(ended.stderr.contains(word), "{word:?} is not in {}", ended.stderr);
    }
    Ok(())
}

/// The node's pins of a version.
fn directory(world: &World, version: u32) -> PathBuf {
    pin_directory(&world.lab.node, version)
}

/// What an agent of version 1 leaves behind for the lab's service.
fn start_version_1(world: &World, hook: &str) -> anyhow::Result<()> {
    let backends: Vec<_> = world.deployment.backends().map(|backend| backend.address).collect();
    version_1::start(&world.lab.node, &[TCP, HTTP, UDP], &backends, &INTERFACES, hook)
}
