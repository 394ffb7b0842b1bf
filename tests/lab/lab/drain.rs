//! A node that stops taking new connections before its agent ends.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, ensure};
use evenkeel_lab::{Namespace, Sandbox, deployment::SERVICE_FILE};
use rustix::process::Signal;
use serde_json::json;

use crate::{
    Test,
    client::{Exchange, Session, ask_http, echo_all, get, is_answered},
    cluster::{self, Cluster},
    world::{NODE, SOON, Setup, TCP, UDP, VIP, VIP6, World, eventually, problems, vip, vip6},
};

pub(crate) const TESTS: &[Test] = &[
    ("drain::a_file_asks_for_it", by_file),
    ("drain::the_command_waits_for_the_end", by_command),
    ("drain::a_node_of_a_cluster_gives_away_what_it_can_and_closes_the_rest", in_a_cluster),
];

fn start(sandbox: &Sandbox) -> anyhow::Result<World> {
    let mut world = World::build(sandbox, &Setup { backends: 3, ..Setup::default() })?;
    world.balancer.arguments.extend(["--shutdown-timeout", "3s"].map(str::to_owned));
    Ok(world)
}

/// Whether a new connection is refused, rather than taken or left without an answer.
fn is_refused(client: &Namespace, target: impl Into<SocketAddr>) -> anyhow::Result<bool> {
    let target = target.into();
    match client.enter(|| TcpStream::connect_timeout(&target, SOON))? {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        Err(error) => Err(error).context("a connection"),
    }
}

fn by_file(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = start(sandbox)?;
    let agent = world.run()?;
    let client = &world.lab.client;
    let mut sessions = Session::open_many(client, vip(TCP), 6)?;
    sessions.extend(Session::open_many(client, vip6(TCP), 6)?);
    let exchange = Exchange::open(client, vip(UDP))?;
    let server = exchange.ask()?;
    let file = world.balancer.admin.with_extension("drain");
    fs::write(&file, "")?;
    world.await_status("it is not ready", |status| status["ready"] == false)?;
    // SIGTERM comes with the end of a pod, and hurries nobody.
    agent.signal(Signal::TERM)?;
    eventually("new connections are refused", || {
        Ok((is_refused(client, vip(TCP))? && is_refused(client, vip6(TCP))?).then_some(()))
    })?;
    let new = Exchange::open(client, vip(UDP))?;
    ensure!(new.ask().is_err(), "a new session was taken");
    echo_all(&mut sessions)?;
    ensure!(exchange.ask()? == server, "a session has moved");
    ensure!(agent.wait(SOON)?.success(), "{}", agent.stderr().join("\n"));

    // What is established stays with the kernel; nobody else is attracted, and nobody new is taken.
    echo_all(&mut sessions)?;
    ensure!(is_refused(client, vip(TCP))?, "a new connection was taken");
    ensure!(!is_answered(client, VIP)? && !is_answered(client, VIP6)?, "the VIPs are answered for");

    let refused = world.lab.node.spawn(world.balancer.command())?;
    ensure!(!refused.wait(SOON)?.success(), "it started although it is drained");
    ensure!(refused.stderr().join("\n").contains("remove the file"), "{}", refused.stderr().join("\n"));
    fs::remove_file(&file)?;
    // What was closed is carried on as before, even if it cannot be read now.
    let good = fs::read_to_string(world.manifests.directory().join(SERVICE_FILE))?;
    world.manifests.write(SERVICE_FILE, "kind: Service\nspec: [")?;
    let _agent = world.run()?;
    ensure!(is_answered(client, VIP)? && is_answered(client, VIP6)?, "the VIPs are not answered for");
    ensure!(!is_refused(client, vip(TCP))? && !is_refused(client, vip6(TCP))?, "it is still closed");
    world.manifests.write(SERVICE_FILE, &good)?;
    world.await_status("the service is back", |status| problems(status).is_empty())?;
    ensure!(!is_refused(client, vip(TCP))?, "a new connection was refused");
    echo_all(&mut sessions)
}

fn by_command(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = start(sandbox)?;
    let admin = format!("unix:{}", world.balancer.admin.display());
    let mut drain = Command::new(&world.balancer.program);
    drain.arg("drain").args(NODE).args(["--admin", &admin]);
    let nobody = world.lab.node.spawn(drain)?;
    ensure!(!nobody.wait(SOON)?.success(), "nobody was there to be drained");
    let agent = world.run()?;
    let client = &world.lab.client;
    let mut sessions = Session::open_many(client, vip(TCP), 6)?;
    let mut drain = Command::new(&world.balancer.program);
    drain.arg("drain").args(NODE).args(["--admin", &admin]);
    let drain = world.lab.node.spawn(drain)?;
    world.await_status("it is not ready", |status| status["ready"] == false)?;
    // A signal hurries nobody, and whoever waits goes on to be answered.
    agent.signal(Signal::TERM)?;
    eventually("new connections are refused", || Ok(is_refused(client, vip(TCP))?.then_some(())))?;
    ensure!(drain.is_running() && world.status()?["ready"] == false, "nobody answers any more");
    ensure!(drain.wait(SOON)?.success(), "{}", drain.stderr().join("\n"));
    ensure!(drain.stdout().join("\n").contains("drained after"), "{}", drain.stdout().join("\n"));
    ensure!(agent.wait(SOON)?.success(), "{}", agent.stderr().join("\n"));
    echo_all(&mut sessions)
}

/// The service `own` is served at the nodes' own addresses, which nobody can take over; `shop` at VIPs.
fn in_a_cluster(sandbox: &Sandbox) -> anyhow::Result<()> {
    let mut cluster = Cluster::build(sandbox, 2)?;
    // It is not over before the test is.
    let arguments = ["--node-addresses-for", "default", "--health-check-node-ports", "--shutdown-timeout", "10m"];
    cluster.arguments = arguments.map(str::to_owned).into();
    let services = "/api/v1/namespaces/default/services";
    cluster.add_service("shop", &[cluster::VIP.into(), cluster::VIP6.into()], "Local")?;
    let metadata = json!({ "name": "own", "annotations": { "evenkeel.io/addresses": "node" } });
    let spec = json!({ "type": "LoadBalancer", "selector": { "app": "own" }, "ipFamilyPolicy": "PreferDualStack",
        "ports": cluster::service_ports() });
    cluster.post(services, "Service", &json!({ "metadata": metadata, "spec": spec }))?;
    cluster.set_endpoints("own", &[0, 1])?;
    (0..2).try_for_each(|node| cluster.run_agent(node))?;
    cluster.await_ready()?;
    let port = cluster.request("GET", &format!("{services}/shop"), None)?["spec"]["healthCheckNodePort"].as_u64();
    let port = u16::try_from(port.context("no health check node port")?)?;
    let client = &cluster.client;
    let tells = |node: usize, status: &str| {
        eventually(&format!("the health check port of node-{node} says {status}"), || {
            Ok(ask_http(client, (cluster.nodes[node].addresses()[0], port).into(), "/")?
                .starts_with(status)
                .then_some(()))
        })
    };
    cluster.await_owner(cluster::VIP6, |_| true)?;
    let leaver = cluster.await_owner(cluster::VIP, |_| true)?;
    let stayer = 1 - leaver;
    let mut sessions = Vec::new();
    for address in cluster.nodes[leaver].addresses() {
        eventually(&format!("{address} is served"), || Ok(get(client, (address, cluster::PORT)).ok()))?;
        sessions.extend(Session::open_many(client, (address, cluster::ECHO), 3)?);
    }
    [0, 1].into_iter().try_for_each(|node| tells(node, "HTTP/1.1 200 OK"))?;

    fs::write(Path::new(&cluster.nodes[leaver].admin).with_extension("drain"), "")?;
    tells(leaver, "HTTP/1.1 503 Service Unavailable")?;
    for vip in [IpAddr::from(cluster::VIP), cluster::VIP6.into()] {
        cluster.await_owner(vip, |owner| owner == stayer)?;
        get(client, (vip, cluster::PORT))?;
    }
    for address in cluster.nodes[leaver].addresses() {
        eventually(&format!("new connections to {address} are refused"), || {
            Ok(is_refused(client, (address, cluster::PORT))?.then_some(()))
        })?;
    }
    echo_all(&mut sessions)?;
    for address in cluster.nodes[stayer].addresses() {
        get(client, (address, cluster::PORT))?;
    }
    tells(stayer, "HTTP/1.1 200 OK")?;
    tells(leaver, "HTTP/1.1 503 Service Unavailable")
}
