//! What the network hears of a VIP, and when.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
};

use anyhow::{Context as _, ensure};
use evenkeel_lab::{
    Sandbox,
    deployment::ENDPOINTS_FILE,
    topology::{NODE, UPLINK, VIP_POOL},
};
use evenkeel_neighbor::{ArpFrame, Mac, Operation};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    Test,
    client::{self, Capture, Session},
    world::{self, HTTP, POOL_FILE, SOON, Setup, TCP, VIP, VIP6, World, mac_of, vip, vip6},
    xdp_pass,
};

pub(crate) const TESTS: &[Test] = &[
    ("announce::gratuitous_arp_tells_of_a_new_vip", gratuitous_arp_tells_of_a_new_vip),
    ("announce::what_cannot_be_carried_is_neither_announced_nor_answered", what_cannot_be_carried),
    ("announce::a_vip_is_announced_once_it_has_endpoints", a_vip_is_announced_once_it_has_endpoints),
    ("announce::a_vip_without_endpoints_is_answered_for_while_its_connections_live", a_vip_without_endpoints),
    ("announce::a_removed_service_is_withdrawn_alone", a_removed_service_is_withdrawn_alone),
    ("announce::a_new_hardware_address_is_announced", a_new_hardware_address_is_announced),
    ("announce::an_advertisement_can_be_limited_to_an_interface", an_advertisement_limited_to_an_interface),
    ("announce::an_interface_that_cannot_be_attached_is_told_of", an_interface_that_cannot_be_attached_is_told_of),
    ("announce::an_interface_made_anew_is_attached_again_at_tcx", |sandbox| {
        an_interface_made_anew_is_attached_again(sandbox, "tcx")
    }),
    ("announce::an_interface_made_anew_is_attached_again_at_clsact", |sandbox| {
        an_interface_made_anew_is_attached_again(sandbox, "clsact")
    }),
];

/// Announcements in quick succession when ownership begins.
const BURST: usize = 5;
/// Another VIP than the service's.
const OTHER: Ipv4Addr = VIP_POOL.1;

fn gratuitous_arp_tells_of_a_new_vip(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    let mut capture = Capture::start(&world.lab.client)?;
    let mac = mac_of(&world, UPLINK)?;
    let agent = world.lab.node.spawn(world.balancer.command())?;
    let frame = capture.wait_for("announcement", |frame| frame.sender == VIP)?;
    // Whoever hears of the VIP can use it at once, even before the agent says that it is ready.
    client::get(&world.lab.client, vip(HTTP))?;
    ensure!(frame == ArpFrame::announcement(mac, VIP, Operation::Request), "{frame:?}");
    let reply = ArpFrame::announcement(mac, VIP, Operation::Reply);
    capture.wait_for("announcement in the form of a reply", |frame| *frame == reply)?;
    agent.wait_for_line("ready", SOON)?;
    world.ensure_no_drops()?;
    // Sustained, not sent once.
    capture.wait_for("second announcement", |frame| frame.is_announcement() && frame.sender == VIP)?;
    Ok(())
}

/// A frontend by a protocol that the data plane does not have.
fn what_cannot_be_carried(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    let other = |text: String| text.replace("protocol: TCP", "protocol: SCTP");
    let mut sctp = world::service("signalling", OTHER);
    sctp.ports = vec![TCP];
    world.manifests.write("signalling.yaml", &other(sctp.manifest()))?;
    let endpoints = fs::read_to_string(world.manifests.directory().join(ENDPOINTS_FILE))?;
    world.manifests.write("signalling-endpoints.yaml", &other(endpoints.replace("shop", "signalling")))?;
    let mut capture = Capture::start(&world.lab.client)?;

    let _agent = world.run()?;
    capture.wait_for("announcement of the other service", |frame| frame.is_announcement() && frame.sender == VIP)?;
    ensure!(!client::is_answered(&world.lab.client, OTHER)?, "{OTHER} is answered for");
    let heard = capture.so_far()?;
    ensure!(heard.iter().all(|frame| frame.sender != OTHER), "{heard:?}");
    let status = world.status()?;
    let named = world::problems(&status).iter().any(|problem| problem.contains("SCTP"));
    ensure!(named, "{status:#}");
    let vips = status["vips"].as_array().into_iter().flatten();
    let announced = vips.filter(|vip| vip["announced"] == true).map(|vip| &vip["address"]).collect::<Vec<_>>();
    ensure!(announced == [&VIP.to_string(), &VIP6.to_string()], "{status:#}");
    Ok(())
}

fn a_vip_is_announced_once_it_has_endpoints(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    let endpoints = fs::read_to_string(world.manifests.directory().join(ENDPOINTS_FILE))?;
    world.manifests.remove(ENDPOINTS_FILE)?;
    let mut capture = Capture::start(&world.lab.client)?;
    // Ready, because there is nothing to carry.
    let _agent = world.run()?;
    ensure!(!client::is_answered(&world.lab.client, VIP)?, "answered without endpoints");
    let heard = capture.so_far()?;
    ensure!(heard.iter().all(|frame| frame.sender != VIP), "{heard:?}");

    world.manifests.write(ENDPOINTS_FILE, &endpoints)?;
    capture.wait_for("announcement", |frame| frame.is_announcement() && frame.sender == VIP)?;
    client::get(&world.lab.client, vip(HTTP))?;
    Ok(())
}

/// Endpoints that are not ready keep their connections, which need somebody to answer for the VIP.
fn a_vip_without_endpoints(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    let ready = fs::read_to_string(world.manifests.directory().join(ENDPOINTS_FILE))?;
    let unready = ready.replace("ready: true, serving: true", "ready: false, serving: false");
    ensure!(ready != unready, "{ready}");
    world.manifests.write("other.yaml", &world::service("other", OTHER).manifest())?;
    world.manifests.write("other-endpoints.yaml", &ready.replace("shop", "other"))?;
    let agent = world.run()?;
    let client = &world.lab.client;
    let mut sessions = Session::open_many(client, vip(TCP), 2)?;
    sessions.extend(Session::open_many(client, vip6(TCP), 2)?);
    client::echo_all(&mut sessions)?;

    world.manifests.write("other-endpoints.yaml", &unready.replace("shop", "other"))?;
    world.manifests.write(ENDPOINTS_FILE, &unready)?;
    // Nobody needs this one.
    world::eventually("it is withdrawn", || Ok((!client::is_answered(client, OTHER)?).then_some(())))?;
    world.await_status("no backend is active", |status| !status["frontends"].to_string().contains("\"active\""))?;
    ensure!(client::is_answered(client, VIP)? && client::is_answered(client, VIP6)?, "clients have lost their way");
    client::echo_all(&mut sessions)?;
    // Nor is a restart in between any reason.
    agent.signal(Signal::KILL)?;
    agent.wait(SOON)?;
    let _agent = world.run()?;
    ensure!(client::is_answered(client, VIP)? && client::is_answered(client, VIP6)?, "a restart lost their way");
    ensure!(!client::is_answered(client, OTHER)?, "{OTHER} is answered for");
    client::echo_all(&mut sessions)?;
    drop(sessions);
    world::eventually("its last connection has ended", || {
        Ok((!client::is_answered(client, VIP)? && !client::is_answered(client, VIP6)?).then_some(()))
    })?;

    world.manifests.write(ENDPOINTS_FILE, &ready)?;
    world::eventually("it is answered for again", || Ok(client::is_answered(client, VIP)?.then_some(())))?;
    client::get(client, vip(HTTP))?;
    Ok(())
}

fn a_removed_service_is_withdrawn_alone(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    let endpoints = fs::read_to_string(world.manifests.directory().join(ENDPOINTS_FILE))?;
    world.manifests.write("other.yaml", &world::service("other", OTHER).manifest())?;
    world.manifests.write("other-endpoints.yaml", &endpoints.replace("shop", "other"))?;
    let _agent = world.run()?;
    let client = &world.lab.client;
    client::get(client, SocketAddrV4::new(OTHER, HTTP.port))?;
    let load = world.load()?;
    world::go_on(&load, 10)?;

    world.manifests.remove("other.yaml")?;
    world.await_status("the VIP is gone", |status| !status["vips"].to_string().contains(&OTHER.to_string()))?;
    let mut capture = Capture::start(client)?;
    ensure!(!client::is_answered(client, OTHER)?, "{OTHER} is still answered for");
    ensure!(client::is_answered(client, VIP)?, "{VIP} is not answered for");
    world::go_on(&load, 10)?;
    world::ensure_nothing_lost(load)?;
    let heard = capture.so_far()?;
    ensure!(heard.iter().all(|frame| frame.sender != OTHER), "{heard:?}");
    Ok(())
}

fn a_new_hardware_address_is_announced(sandbox: &Sandbox) -> anyhow::Result<()> {
    const NEW: Mac = [0x02, 0, 0, 0, 0xeb, 0x02];
    let world = World::build(sandbox, &Setup::default())?;
    let mut capture = Capture::start(&world.lab.client)?;
    let _agent = world.run()?;
    let mut session = Session::open(&world.lab.client, vip(TCP))?;
    session.echo()?;
    // After the first burst the next announcement would be a minute away.
    for _ in 0..BURST {
        capture.wait_for("announcement", |frame| frame.operation == Operation::Request && frame.sender == VIP)?;
    }

    let text = NEW.map(|byte| format!("{byte:02x}")).join(":");
    world.lab.node.ip(["link", "set", UPLINK, "address", &text])?;
    let frame = capture.wait_for("announcement of the new hardware address", |frame| {
        frame.is_announcement() && frame.sender == VIP && frame.sender_mac == NEW
    })?;
    ensure!(frame.source == NEW, "{frame:?}");
    // Over the same connection, and over new ones, without the client having to ask.
    session.echo()?;
    client::get(&world.lab.client, vip(HTTP))?;
    Ok(())
}

fn an_interface_made_anew_is_attached_again(sandbox: &Sandbox, hook: &'static str) -> anyhow::Result<()> {
    let (mut world, _agent) = World::start(sandbox, &Setup { hook, ..Setup::default() })?;
    let mut session = Session::open(&world.lab.client, vip(TCP))?;
    session.echo()?;

    world.lab.node.ip(["link", "delete", UPLINK])?;
    world.await_status("the interface is missed", |status| !has_interface(status, UPLINK))?;
    let mut capture = Capture::start(&world.lab.client)?;
    make_uplink(&mut world)?;

    let mac = mac_of(&world, UPLINK)?;
    capture.wait_for("announcement on the new interface", |frame| {
        frame.is_announcement() && frame.sender == VIP && frame.sender_mac == mac
    })?;
    session.echo()?;
    client::get(&world.lab.client, vip(HTTP))?;
    let status = world.status()?;
    ensure!(has_interface(&status, UPLINK), "{status:#}");
    Ok(())
}

fn an_interface_that_cannot_be_attached_is_told_of(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (mut world, _agent) = World::start(sandbox, &Setup { hook: "xdp", interfaces: &[UPLINK], ..Setup::default() })?;
    world.lab.node.ip(["link", "delete", UPLINK])?;
    world.await_status("the interface is missed", |status| !has_interface(status, UPLINK))?;
    // It comes back with a program of somebody else's where there is room for one.
    let (node, switch) = (world.lab.node.clone(), world.lab.switch.clone());
    world.lab.lab().veth((&node, "late"), (&switch, "node"))?;
    switch.bridge_port("br0", "node")?;
    let foreign = xdp_pass::attach(&node, "late")?;
    let _wire = xdp_pass::attach(&switch, "node")?;
    node.ip(["link", "set", "late", "down"])?;
    node.ip(["link", "set", "late", "name", UPLINK])?;
    node.link_up(UPLINK)?;
    node.ip(["address", "add", &format!("{NODE}/24"), "dev", UPLINK])?;
    let status = world.await_status("it is told", |status| {
        world::problems(status).iter().any(|problem| problem.contains("cannot attach") && problem.contains(UPLINK))
    })?;
    ensure!(status["ready"] == false, "{status:#}");

    drop(foreign);
    world.await_status("it is attached", |status| {
        has_interface(status, UPLINK) && status["ready"] == true && world::problems(status).is_empty()
    })?;
    client::get(&world.lab.client, vip(HTTP))?;
    Ok(())
}

fn an_advertisement_limited_to_an_interface(sandbox: &Sandbox) -> anyhow::Result<()> {
    let mut world = World::build(sandbox, &Setup::default())?;
    let pool = fs::read_to_string(world.manifests.directory().join(POOL_FILE))?;
    world.manifests.write(POOL_FILE, &format!("{pool}  interfaces: [{UPLINK}]\n"))?;
    let backend = world.deployment.backends().next().context("a backend")?.namespace.clone();
    let mut elsewhere = Capture::start(&backend)?;
    let mut capture = Capture::start(&world.lab.client)?;
    let _agent = world.run()?;
    capture.wait_for("announcement", |frame| frame.is_announcement() && frame.sender == VIP)?;
    let heard = elsewhere.so_far()?;
    ensure!(heard.iter().all(|frame| frame.sender != VIP), "on another interface: {heard:?}");
    ensure!(world::problems(&world.status()?).is_empty(), "{:#}", world.status()?);

    // Without that interface there is nowhere to announce, which is a problem for as long as it lasts.
    world.lab.node.ip(["link", "delete", UPLINK])?;
    let status = world.await_status("the problem is shown", |status| !world::problems(status).is_empty())?;
    ensure!(world::problems(&status).iter().any(|problem| problem.contains("no_interface")), "{status:#}");
    ensure!(status["vips"][0]["announced"] == false, "{status:#}");
    make_uplink(&mut world)?;
    let status = world.await_status("it is announced again", |status| status["vips"][0]["announced"] == true)?;
    ensure!(world::problems(&status).is_empty(), "{status:#}");
    client::get(&world.lab.client, vip(HTTP))?;
    Ok(())
}

/// Makes the node's uplink anew after it was deleted.
fn make_uplink(world: &mut World) -> anyhow::Result<()> {
    let (node, switch) = (world.lab.node.clone(), world.lab.switch.clone());
    world.lab.lab().veth((&node, UPLINK), (&switch, "node"))?;
    switch.bridge_port("br0", "node")?;
    node.ip(["address", "add", &format!("{NODE}/24"), "dev", UPLINK])?;
    Ok(())
}

fn has_interface(status: &Value, name: &str) -> bool {
    status["interfaces"].as_array().into_iter().flatten().any(|interface| interface["name"] == name)
}
