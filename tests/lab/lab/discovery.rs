//! How neighbours find a VIP of IPv6: what they hear of it, what they are answered, and the multicast groups without which
//! what they ask would not arrive.

use std::process::Command;

use anyhow::ensure;
use evenkeel_lab::{
    Sandbox,
    deployment::SERVICE_FILE,
    find_program,
    topology::{UPLINK, Uplink, Wiring},
};
use evenkeel_neighbor::{
    Mac, NdpFrame,
    ndp::{multicast_mac, solicited_node},
};
use serde_json::Value;

use crate::{
    Test,
    client::{self, Capture, Session},
    world::{self, HTTP, NODE, SOON, STOP, Setup, TCP, VIP6, World, mac_of, vip6},
};

pub(crate) const TESTS: &[Test] = &[
    ("discovery::advertisements_tell_of_a_new_vip", advertisements_tell_of_a_new_vip),
    ("discovery::a_new_hardware_address_is_advertised", a_new_hardware_address_is_advertised),
    ("discovery::neighbours_are_answered", neighbours_are_answered),
    ("discovery::the_solicited_node_group_is_joined_with_the_vip", the_solicited_node_group_is_joined_with_the_vip),
    ("discovery::a_vip_is_heard_of_while_no_agent_runs", a_vip_is_heard_of_while_no_agent_runs),
];

fn advertisements_tell_of_a_new_vip(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    let client = &world.lab.client;
    let mut capture = Capture::start_ndp(client)?;
    let mac = mac_of(&world, UPLINK)?;
    // A neighbour that knows another owner.
    client.ip(["neigh", "replace", &VIP6.to_string(), "lladdr", "02:00:00:00:00:99", "nud", "stale", "dev", "eth0"])?;

    let agent = world.lab.node.spawn(world.balancer.command())?;
    let frame = capture.wait_for("advertisement", |frame| frame.is_announcement() && frame.target() == VIP6)?;
    ensure!(frame == NdpFrame::announcement(mac, VIP6), "{frame:?}");
    // Whoever hears of the VIP can use it at once, even before the agent says that it is ready.
    client::get(client, vip6(HTTP))?;
    let known = neighbour(&world)?;
    ensure!(known["lladdr"] == text(mac), "the client knows {known}");
    agent.wait_for_line("ready", SOON)?;
    world.ensure_no_drops()?;
    // Sustained, not sent once.
    capture.wait_for("second advertisement", |frame| frame.is_announcement() && frame.target() == VIP6)?;
    Ok(())
}

fn a_new_hardware_address_is_advertised(sandbox: &Sandbox) -> anyhow::Result<()> {
    const NEW: Mac = [0x02, 0, 0, 0, 0xeb, 0x06];
    let (world, _agent) = World::start(sandbox, &Setup::default())?;
    let mut capture = Capture::start_ndp(&world.lab.client)?;
    let mut session = Session::open(&world.lab.client, vip6(TCP))?;
    session.echo()?;
    world.lab.node.ip(["link", "set", UPLINK, "address", &text(NEW)])?;
    let new = NdpFrame::announcement(NEW, VIP6);
    capture.wait_for("advertisement of the new hardware address", |frame| *frame == new)?;
    session.echo()?;
    client::get(&world.lab.client, vip6(HTTP))?;
    Ok(())
}

/// By the kernel of a neighbour, in every way in which it asks.
fn neighbours_are_answered(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup::default())?;
    let client = &world.lab.client;
    let mac = text(mac_of(&world, UPLINK)?);
    let vip = VIP6.to_string();
    ensure!(client::is_answered(client, VIP6)?, "to the group: not answered");

    // A neighbour that doubts what it knows asks the VIP itself.
    client.ip(["neigh", "replace", &vip, "lladdr", &mac, "nud", "probe", "dev", "eth0"])?;
    world::eventually("the VIP itself answers", || {
        let known = neighbour(&world)?;
        ensure!(known["state"][0] != "FAILED", "not answered: {known}");
        Ok((known["state"][0] == "REACHABLE").then_some(()))
    })?;

    // Another host that wants the address learns that it is taken.
    client.sysctl("net.ipv6.conf.eth0.accept_dad", "1")?;
    client.sysctl("net.ipv6.conf.eth0.dad_transmits", "1")?;
    client.ip(["address", "add", &format!("{vip}/128"), "dev", "eth0"])?;
    world::eventually("the address is found to be taken", || {
        let text = client.ip(["-6", "-j", "address", "show", "dev", "eth0", "to", &vip])?;
        let addresses: Value = serde_json::from_str(&text)?;
        let found = addresses.as_array().into_iter().flatten().flat_map(|link| link["addr_info"].as_array()).flatten();
        let mut detection = found.map(|address| (address["tentative"] == true, address["dadfailed"] == true));
        match detection.next() {
            Some((_, true)) => Ok(Some(())),
            Some((true, false)) => Ok(None),
            other => anyhow::bail!("the client took the address: {other:?} in {text}"),
        }
    })?;
    Ok(())
}

fn the_solicited_node_group_is_joined_with_the_vip(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, agent) = World::start(sandbox, &Setup::default())?;
    let group = solicited_node(VIP6).to_string();
    // The kernel is in it, and the switch has been told.
    ensure!(Groups::of(&world)?.inet6.contains(&group), "{:?}", Groups::of(&world)?);
    world::eventually("the switch knows of the member", || {
        let mut command = Command::new(find_program("bridge", "iproute2")?);
        command.args(["-j", "mdb", "show", "dev", "br0"]);
        let databases: Value = serde_json::from_str(&world.lab.switch.run(command)?)?;
        let entries = databases[0]["mdb"].as_array().cloned().unwrap_or_default();
        Ok(entries.iter().any(|entry| entry["grp"] == group && entry["port"] == "node").then_some(()))
    })?;

    // It ends with the VIP.
    world.manifests.remove(SERVICE_FILE)?;
    world.await_status("the VIP is gone", |status| status["vips"].as_array().is_some_and(Vec::is_empty))?;
    let groups = Groups::of(&world)?;
    ensure!(!groups.inet6.contains(&group) && !groups.link.contains(&link_group()), "{groups:?}");
    ensure!(agent.is_running());
    Ok(())
}

/// The interface's filter stays as the programs do; a macvlan passes on nothing that it does not let through.
fn a_vip_is_heard_of_while_no_agent_runs(sandbox: &Sandbox) -> anyhow::Result<()> {
    let wiring = Wiring { uplink: Uplink::Macvlan, ..Wiring::default() };
    let (world, agent) = World::start(sandbox, &Setup { wiring, ..Setup::default() })?;
    ensure!(client::is_answered(&world.lab.client, VIP6)?, "not answered");
    ensure!(agent.terminate(STOP)?.success());
    ensure!(client::is_answered(&world.lab.client, VIP6)?, "not answered without an agent");
    client::get(&world.lab.client, vip6(HTTP))?;
    // Another run takes over what it finds.
    let agent = world.run()?;
    ensure!(client::is_answered(&world.lab.client, VIP6)?, "not answered by the next run");
    ensure!(agent.terminate(STOP)?.success());

    let groups = Groups::of(&world)?;
    ensure!(groups.link.contains(&link_group()), "{groups:?}");
    let uninstall = world.evenkeel(&[&["uninstall"], &NODE[..]].concat())?;
    ensure!(uninstall.status.success(), "{}", uninstall.stderr);
    let groups = Groups::of(&world)?;
    ensure!(!groups.link.contains(&link_group()), "still let through: {groups:?}");
    Ok(())
}

/// The multicast groups of the uplink, as `ip maddress` shows them.
#[derive(Debug)]
struct Groups {
    /// Those of IPv6 that the kernel is in.
    inet6: Vec<String>,
    /// Hardware addresses that the interface lets through.
    link: Vec<String>,
}

impl Groups {
    fn of(world: &World) -> anyhow::Result<Self> {
        let interfaces: Value = serde_json::from_str(&world.lab.node.ip(["-j", "maddress", "show", "dev", UPLINK])?)?;
        let groups = interfaces[0]["maddr"].as_array().cloned().unwrap_or_default();
        let all = |key: &str, family: Option<&str>| -> Vec<String> {
            let of_family = groups.iter().filter(|group| group["family"].as_str() == family);
            of_family.filter_map(|group| group[key].as_str().map(str::to_owned)).collect()
        };
        Ok(Self { inet6: all("address", Some("inet6")), link: all("link", None) })
    }
}

/// The hardware address of the VIP's group.
fn link_group() -> String {
    text(multicast_mac(solicited_node(VIP6)))
}

/// What the client knows of the VIP.
fn neighbour(world: &World) -> anyhow::Result<Value> {
    let text = world.lab.client.ip(["-j", "neigh", "show", "to", &VIP6.to_string()])?;
    Ok(serde_json::from_str::<Value>(&text)?[0].clone())
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
