//! Configuration of other load balancers, imported, run and used: at the node's own addresses, and beside somebody who
//! announces an address and has rules for it, as MetalLB and kube-proxy do.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
};

use anyhow::{Context as _, ensure};
use evenkeel_lab::{
    Sandbox,
    deployment::{ENDPOINTS_FILE, SERVICE_FILE},
    topology::{NODE, NODE6, UPLINK},
};
use serde_json::Value;

use crate::{
    Test,
    client::{Exchange, Session},
    world::{POOL_FILE, Setup, TCP, UDP, VIP, World, eventually},
};

pub(crate) const TESTS: &[Test] = &[
    ("import::xlb_at_the_nodes_addresses", xlb),
    ("import::udp_fanout_at_the_nodes_addresses", udp_fanout),
    ("import::udp_fanout_beside_metallb", beside_metallb),
];

/// The port that clients use; backends listen at another.
const PORT: u16 = 8000;
/// A port of the host's own.
const OWN_PORT: u16 = 7000;
/// An address that the node gets later.
const LATER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
/// Datagrams of one sender.
const DATAGRAMS: u64 = 40;

/// Imports a configuration for the lab's backends in place of the manifests there are.
fn import(world: &World, format: &str, config: &str, arguments: &[&str]) -> anyhow::Result<()> {
    for file in [POOL_FILE, SERVICE_FILE, ENDPOINTS_FILE] {
        world.manifests.remove(file)?;
    }
    let path = world.directory.path().join("config.yaml");
    fs::write(&path, config)?;
    let path = path.to_str().context("a path")?;
    let imported = world.evenkeel(&[&["import", format, path], arguments].concat())?;
    ensure!(imported.status.success(), "{}", imported.stderr);
    world.manifests.write("imported.yaml", &imported.stdout)?;
    Ok(())
}

fn setup() -> Setup {
    Setup { interfaces: &[UPLINK], ..Setup::default() }
}

fn xlb(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &setup())?;
    let mut config = format!(
        "name: shop\nlisten: auto\nports: [{{local_port: {PORT}, remote_port: {}}}]\nshutdown_timeout: 15\nprovider:\n  static:\n    backends:\n",
        TCP.target_port
    );
    for backend in world.deployment.backends() {
        for address in backend.addresses() {
            writeln!(config, "    - {{name: {}, ip: \"{address}\"}}", backend.name)?;
        }
    }
    import(&world, "xlb", &config, &[])?;
    let mut command = Command::new(&world.balancer.program);
    command.args(["probe", "serve", "--name", "host", "--tcp", &format!("{NODE}:{OWN_PORT}")]);
    let _host = world.lab.node.spawn(command)?;
    let _agent = world.run()?;

    let mut kept = Vec::new();
    for address in [IpAddr::from(NODE), NODE6.into()] {
        let sessions = Session::open_many(&world.lab.client, SocketAddr::new(address, PORT), 20)?;
        let servers: std::collections::BTreeSet<&str> = sessions.iter().map(|session| &*session.server).collect();
        ensure!(servers.len() == 2, "{address}: {servers:?}");
        kept.extend(sessions);
    }
    // All other ports are the host's as before, and nobody answers for its addresses in its place.
    let own = eventually("the host's own server answers", || {
        Ok(Session::open(&world.lab.client, SocketAddr::from((NODE, OWN_PORT))).ok())
    })?;
    ensure!(own.server == "host", "{}", own.server);
    let status = world.status()?;
    ensure!(status["vips"].as_array().is_some_and(Vec::is_empty), "{status:#}");

    // Addresses are followed, both ways.
    let later = format!("{LATER}/24");
    world.lab.node.ip(["address", "add", &later, "dev", UPLINK])?;
    world.await_status("the new address is served", |status| at(status, LATER.into()).next().is_some())?;
    kept.push(Session::open(&world.lab.client, SocketAddr::from((LATER, PORT)))?);
    for session in &mut kept {
        session.echo()?;
    }
    kept.pop();
    world.lab.node.ip(["address", "del", &later, "dev", UPLINK])?;
    world.await_status("it is gone", |status| at(status, LATER.into()).next().is_none())?;
    for session in &mut kept {
        session.echo()?;
    }
    world.ensure_no_drops()
}

/// The configuration of a listener with the lab's backends, of both families.
fn fan_out(world: &World, bind: &str, interface: &str) -> anyhow::Result<String> {
    let mut config = format!(
        "listeners:\n- name: syslog\n  bind: \"{bind}\"\n  interface: {interface}\n  mode: tc_ebpf\n  downstream:\n"
    );
    for backend in world.deployment.backends() {
        for address in backend.addresses() {
            let address = SocketAddr::new(address, UDP.target_port);
            writeln!(config, "  - {{name: {}, address: \"{address}\"}}", backend.name)?;
        }
    }
    Ok(config)
}

fn udp_fanout(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &setup())?;
    import(&world, "udp-fanout", &fan_out(&world, &format!("[::]:{}", UDP.port), UPLINK)?, &[])?;
    let _agent = world.run()?;
    for address in [IpAddr::from(NODE), NODE6.into()] {
        take_turns(&world, address)?;
    }
    world.ensure_no_drops()
}

fn beside_metallb(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &setup())?;
    let config = fan_out(&world, &format!("10.255.0.1:{}", UDP.port), "dummy0")?;
    import(&world, "udp-fanout", &config, &["--vip", &VIP.to_string(), "--announced-elsewhere"])?;
    // What kube-proxy does with the address: a packet that its rule meets ends at the host, where nobody listens.
    let rules = format!(
        "table ip kube-proxy {{
            counter met {{}}
            chain prerouting {{
                type nat hook prerouting priority dstnat; policy accept;
                ip daddr {VIP} udp dport {} counter name met dnat to {NODE}:{OWN_PORT}
            }}
        }}",
        UDP.port
    );
    let file = world.directory.path().join("kube-proxy.nft");
    fs::write(&file, rules)?;
    let mut command = Command::new("nft");
    command.arg("-f").arg(&file);
    world.lab.node.run(command)?;
    // MetalLB's speaker answers for the address.
    let mac = world.lab.node.enter(|| fs::read_to_string(format!("/sys/class/net/{UPLINK}/address")))??;
    world.lab.client.ip([
        "neigh",
        "replace",
        &VIP.to_string(),
        "lladdr",
        mac.trim(),
        "nud",
        "permanent",
        "dev",
        "eth0",
    ])?;
    let _agent = world.run()?;
    take_turns(&world, VIP.into())?;
    let status = world.status()?;
    ensure!(status["vips"][0]["announced"] == false, "{status:#}");
    let mut command = Command::new("nft");
    command.args(["-j", "list", "counter", "ip", "kube-proxy", "met"]);
    let counted: Value = serde_json::from_str(&world.lab.node.run(command)?)?;
    let met = counted["nftables"].as_array().into_iter().flatten().find_map(|item| item["counter"]["packets"].as_u64());
    ensure!(met == Some(0), "kube-proxy's rule has met {met:?} packets");
    world.ensure_no_drops()
}

/// Datagrams of one socket reach every backend as often.
fn take_turns(world: &World, address: IpAddr) -> anyhow::Result<()> {
    let sender = Exchange::open(&world.lab.client, SocketAddr::new(address, UDP.port))?;
    for _ in 0..DATAGRAMS {
        sender.tell()?;
    }
    world.await_status("all datagrams are counted, half of them for each", |status| {
        let counts: BTreeMap<&str, u64> = at(status, address)
            .flat_map(|frontend| frontend["backends"].as_array().into_iter().flatten())
            .filter_map(|backend| Some((backend["address"].as_str()?, backend["traffic"]["packets_in"].as_u64()?)))
            .collect();
        counts.len() == 2 && counts.values().all(|count| *count == DATAGRAMS / 2)
    })?;
    Ok(())
}

/// The frontends at an address.
fn at(status: &Value, address: IpAddr) -> impl Iterator<Item = &Value> {
    let address = address.to_string();
    let all = status["frontends"].as_array().into_iter().flatten();
    all.filter(move |frontend| frontend["address"] == address)
}
