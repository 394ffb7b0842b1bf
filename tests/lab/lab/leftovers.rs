//! Connections whose backend is no longer an endpoint: those of one that is there go on, the clients of one that is not are told.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use evenkeel_lab::{
    Sandbox, find_program,
    manifests::Condition,
    topology::{CLIENT, CLIENT6, POD_BRIDGE, UPLINK},
};
use serde_json::Value;

use crate::{
    Test,
    client::{Session, echo_all},
    world::{self, Setup, TCP, World, vip, vip6},
};

pub(crate) const TESTS: &[Test] = &[
    ("leftovers::clients_of_what_is_gone_are_told_direct_at_tcx", |sandbox| {
        are_told(sandbox, &Setup { hook: "tcx", ..Setup::default() })
    }),
    ("leftovers::clients_of_what_is_gone_are_told_stack_at_clsact", |sandbox| {
        are_told(sandbox, &Setup { hook: "clsact", forwarding: "stack", ..Setup::default() })
    }),
    ("leftovers::clients_of_what_is_gone_are_told_at_generic_xdp", |sandbox| {
        are_told(sandbox, &Setup { hook: "xdp-generic", ..Setup::default() })
    }),
    ("leftovers::clients_of_what_is_gone_are_told_with_rewritten_sources", |sandbox| {
        are_told(sandbox, &Setup { masquerade: true, interfaces: &[UPLINK, POD_BRIDGE], ..Setup::default() })
    }),
    ("leftovers::what_is_there_keeps_its_connections", keeps),
];

/// Connections to each VIP.
const CONNECTIONS: usize = 4;
/// Packets by which a backend has shown more than once that it is there.
const ANSWERS: u64 = 2;

/// Opens connections to the first of two backends, whose endpoint is the only one that is ready; then the other one is.
fn connect_to_first(world: &mut World) -> anyhow::Result<(Vec<Session>, String)> {
    let names: Vec<String> = world.deployment.backends().map(|backend| backend.name.clone()).collect();
    let [first, second] = &names[..] else { anyhow::bail!("two backends") };
    let state = |status: &Value, number: usize, wanted: &str| {
        world::backends(status, TCP).values().nth(number).is_some_and(|state| *state == wanted)
    };
    world.deployment.set_condition(second, Condition::NotReady)?;
    world.await_status("the second backend is out", |status| !state(status, 1, "active"))?;
    let client = &world.lab.client;
    let mut sessions = Session::open_many(client, vip(TCP), CONNECTIONS)?;
    sessions.extend(Session::open_many(client, vip6(TCP), CONNECTIONS)?);
    echo_all(&mut sessions)?;
    ensure!(sessions.iter().all(|session| session.server == *first), "not all on {first}");
    world.deployment.set_condition(second, Condition::Ready)?;
    world.await_status("the second backend is active", |status| state(status, 1, "active"))?;
    Ok((sessions, first.clone()))
}

/// A backend goes without a word, and its endpoint with it; clients that wait for an answer hear of it by a reset.
fn are_told(sandbox: &Sandbox, setup: &Setup) -> anyhow::Result<()> {
    let (mut world, _agent) = World::start(sandbox, setup)?;
    let (sessions, gone) = connect_to_first(&mut world)?;
    let backend = world.deployment.backends().find(|backend| backend.name == gone).context("the first")?;
    if setup.masquerade {
        let mut command = Command::new(find_program("ss", "iproute2")?);
        command.args(["-Htn", "state", "established"]);
        let peers = world::finish(&backend.namespace, command)?.stdout;
        ensure!(!peers.contains(&CLIENT.to_string()) && !peers.contains(&CLIENT6.to_string()), "clients seen: {peers}");
    }
    backend.namespace.link_down("eth0")?;
    let removed = Instant::now();
    world.deployment.withdraw(&gone)?;
    for (number, session) in sessions.into_iter().enumerate() {
        let ended = session.wait_for_end();
        ensure!(ended == ErrorKind::ConnectionReset, "connection {number} (first those of IPv4): {ended}");
    }
    println!("{:.2} s after the endpoint all clients have heard of it", removed.elapsed().as_secs_f64());
    let counters = world::counters(&world.status()?)?;
    ensure!(counters.get("reset_backend_gone") >= Some(&(2 * CONNECTIONS as u64)), "{counters:?}");
    // Others are not concerned.
    let client = &world.lab.client;
    for target in [SocketAddr::from(vip(TCP)), vip6(TCP).into()] {
        Session::open(client, target)?.echo()?;
    }
    Ok(())
}

/// An endpoint goes whose backend does not, as when a pod's label is changed; it is asked again and again, and nobody notices.
fn keeps(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (mut world, _agent) = World::start(sandbox, &Setup::default())?;
    let (mut sessions, stays) = connect_to_first(&mut world)?;
    let address: IpAddr =
        world.deployment.backends().find(|backend| backend.name == stays).context("the first")?.address.into();
    let sent = |status: &Value| -> Option<u64> {
        let mut frontends = status["frontends"].as_array()?.iter();
        let frontend =
            frontends.find(|frontend| frontend["address"] == world::VIP.to_string() && frontend["port"] == TCP.port)?;
        let mut backends = frontend["backends"].as_array()?.iter();
        backends.find(|backend| backend["address"] == address.to_string())?["traffic"]["packets_out"].as_u64()
    };
    let before = sent(&world.status()?).context("the backend is there")?;
    world.deployment.withdraw(&stays)?;
    world.await_status("it has been asked, and has answered", |status| sent(status) >= Some(before + ANSWERS))?;
    echo_all(&mut sessions)?;
    let counters = world::counters(&world.status()?)?;
    ensure!(!counters.contains_key("reset_backend_gone"), "{counters:?}");
    Ok(())
}
