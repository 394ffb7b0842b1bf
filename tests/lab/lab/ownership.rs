//! Who owns an address across nodes, and who answers for it, whatever happens to agents, nodes, links and the API.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use evenkeel_lab::Sandbox;
use evenkeel_neighbor::{ArpFrame, NdpFrame, Operation};
use evenkeel_probe::LaneKind;
use serde_json::{Value, json};

use crate::{
    Test,
    client::{self, ARP, Capture},
    cluster::{Cluster, Observer, PORT, SYSTEM, VIP, VIP6, ensure_one},
    world::{self, eventually},
};

pub(crate) const TESTS: &[Test] = &[
    ("ownership::a_service_is_carried_by_one_node", a_service_is_carried_by_one_node),
    ("ownership::a_dead_node_is_replaced", a_dead_node_is_replaced),
    ("ownership::a_killed_agent_moves_nothing", a_killed_agent_moves_nothing),
    ("ownership::without_the_api_nothing_moves", without_the_api_nothing_moves),
    ("ownership::an_agent_killed_and_cut_off_moves_nothing", an_agent_killed_and_cut_off_moves_nothing),
    ("ownership::a_claim_by_a_stranger_is_settled_by_the_record", a_claim_by_a_stranger),
    ("ownership::defect_garp_after_a_partition_heals", garp_after_a_partition_heals),
    ("ownership::an_agent_that_releases_hands_over_first", an_agent_that_releases_hands_over_first),
    ("ownership::agents_are_replaced_under_load", agents_are_replaced_under_load),
    ("ownership::the_health_check_port_tells_of_local_endpoints", the_health_check_port_tells_of_local_endpoints),
    ("ownership::an_unattended_node_is_given_up", an_unattended_node_is_given_up),
    ("ownership::a_restart_without_the_api_keeps_everything", a_restart_without_the_api),
    ("ownership::what_cannot_be_read_keeps_nothing_else_alive", what_cannot_be_read_keeps_nothing_else_alive),
];

/// Long enough for detectors to have made up their minds several times over.
const PATIENCE: Duration = Duration::from_secs(12);
/// Of an observer that is answered at once, as many rounds as take about that long.
const ROUNDS: usize = 200;

fn a_service_is_carried_by_one_node(sandbox: &Sandbox) -> anyhow::Result<()> {
    let cluster = Cluster::start(sandbox, 3)?;
    let owner = cluster.await_owner(VIP, |_| true)?;
    let observer = Observer::start(&cluster.client, VIP)?;
    let answered_by = ensure_one(&observer.watch(20)?)?;
    ensure!(cluster.node_of(answered_by) == Some(owner), "the owner is node-{owner}, but {answered_by:02x?} answers");
    // Pods of all nodes are met, over both families.
    for vip in [IpAddr::from(VIP), VIP6.into()] {
        cluster.await_owner(vip, |_| true)?;
        let mut met = std::collections::BTreeSet::new();
        eventually(&format!("every pod is met by way of {vip}"), || {
            let server = client::server_of(&cluster.client, (vip, PORT));
            met.insert(server.with_context(|| format!("met {met:?}, {}", cluster.counters()))?);
            Ok((met.len() == 3).then_some(()))
        })?;
    }
    Ok(())
}

fn a_dead_node_is_replaced(sandbox: &Sandbox) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(sandbox, 3)?;
    let victim = cluster.await_owner(VIP, |_| true)?;
    let (_, epoch) = cluster.record(VIP)?.unwrap_or_default();
    let mut capture = Capture::start(&cluster.client)?;
    cluster.nodes[victim].namespace.link_down("up0")?;
    cluster.set_api(victim, false)?;
    cluster.kill_agent(victim)?;
    // Its pod is none of the service's any more.
    let others: Vec<usize> = (0..3).filter(|node| *node != victim).collect();
    cluster.set_endpoints("shop", &others)?;
    let heir = cluster.await_owner(VIP, |owner| owner != victim)?;
    let mac = cluster.nodes[heir].mac;
    capture.wait_for("announcement by the new owner", |frame| {
        frame.is_announcement() && frame.sender == VIP && frame.sender_mac == mac
    })?;
    let observer = Observer::start(&cluster.client, VIP)?;
    ensure!(ensure_one(&observer.watch(20)?)? == mac);
    ensure!(cluster.record(VIP)?.is_some_and(|(_, now)| now > epoch), "the epoch did not rise");
    client::get(&cluster.client, (IpAddr::from(VIP), PORT))?;

    // The dead node comes back as it was, data path and all, and takes nothing.
    cluster.nodes[victim].namespace.link_up("up0")?;
    cluster.set_api(victim, true)?;
    cluster.run_agent(victim)?;
    cluster.await_ready()?;
    eventually("the returned node answers no longer", || {
        let status = cluster.status(victim)?;
        let mut vips = status["vips"].as_array().into_iter().flatten();
        Ok((vips.all(|vip| vip["announced"] == false) && status["ready"] == true).then_some(()))
    })?;
    let rounds = observer.watch(ROUNDS)?;
    let last = ensure_one(&rounds[rounds.len() - 50..])?;
    ensure!(last == mac && cluster.record(VIP)?.is_some_and(|(owner, _)| owner == heir));
    Ok(())
}

fn a_killed_agent_moves_nothing(sandbox: &Sandbox) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(sandbox, 3)?;
    let owner = cluster.await_owner(VIP, |_| true)?;
    let before = cluster.record(VIP)?;
    let observer = Observer::start(&cluster.client, VIP)?;
    observer.watch(5)?;
    cluster.kill_agent(owner)?;
    let started = Instant::now();
    eventually("time passes", || Ok((started.elapsed() > PATIENCE).then_some(())))?;
    ensure!(ensure_one(&observer.end()?)? == cluster.nodes[owner].mac);
    ensure!(cluster.record(VIP)? == before, "{before:?} became {:?}", cluster.record(VIP)?);
    client::get(&cluster.client, (IpAddr::from(VIP), PORT))?;
    Ok(())
}

fn without_the_api_nothing_moves(sandbox: &Sandbox) -> anyhow::Result<()> {
    let cluster = Cluster::start(sandbox, 3)?;
    let owner = cluster.await_owner(VIP, |_| true)?;
    let before = cluster.record(VIP)?;
    let observer = Observer::start(&cluster.client, VIP)?;
    (0..3).try_for_each(|node| cluster.set_api(node, false))?;
    let started = Instant::now();
    eventually("time passes", || Ok((started.elapsed() > PATIENCE).then_some(())))?;
    client::get(&cluster.client, (IpAddr::from(VIP), PORT))?;
    (0..3).try_for_each(|node| cluster.set_api(node, true))?;
    observer.watch(ROUNDS)?;
    ensure!(ensure_one(&observer.end()?)? == cluster.nodes[owner].mac);
    ensure!(cluster.record(VIP)? == before, "{before:?} became {:?}", cluster.record(VIP)?);
    Ok(())
}

fn an_agent_killed_and_cut_off_moves_nothing(sandbox: &Sandbox) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(sandbox, 3)?;
    let owner = cluster.await_owner(VIP, |_| true)?;
    let observer = Observer::start(&cluster.client, VIP)?;
    observer.watch(5)?;
    cluster.set_api(owner, false)?;
    cluster.kill_agent(owner)?;
    let started = Instant::now();
    // Longer than its lease lasts.
    eventually("time passes", || Ok((started.elapsed() > Duration::from_secs(20)).then_some(())))?;
    ensure!(ensure_one(&observer.end()?)? == cluster.nodes[owner].mac);
    ensure!(cluster.record(VIP)?.is_some_and(|(now, _)| now == owner));
    Ok(())
}

fn a_claim_by_a_stranger(sandbox: &Sandbox) -> anyhow::Result<()> {
    const STRANGER: [u8; 6] = [2, 0, 0, 0, 0xeb, 0xee];
    let cluster = Cluster::start(sandbox, 3)?;
    let owner = cluster.await_owner(VIP, |_| true)?;
    let before = cluster.record(VIP)?;
    let socket = client::open(&cluster.client, ARP)?;
    let index = cluster.client.enter(|| std::fs::read_to_string("/sys/class/net/eth0/ifindex"))??.trim().parse()?;
    let mut capture = Capture::start(&cluster.client)?;
    let claim = ArpFrame::announcement(STRANGER, VIP, Operation::Request);
    client::send(&socket, index, &claim.to_bytes())?;
    // It is announced again, by whom the record names.
    let mac = cluster.nodes[owner].mac;
    capture.wait_for("the owner's announcement", |frame| {
        frame.is_announcement() && frame.sender == VIP && frame.sender_mac == mac
    })?;
    let observer = Observer::start(&cluster.client, VIP)?;
    ensure!(ensure_one(&observer.watch(10)?)? == mac);
    let status = cluster.status(owner)?;
    ensure!(status["counters"]["arp_conflict"].as_u64() > Some(0), "{:#}", status["counters"]);

    let mut heard = Capture::start_ndp(&cluster.client)?;
    let owner6 = cluster.await_owner(VIP6, |_| true)?;
    client::send(&socket, index, &NdpFrame::announcement(STRANGER, VIP6).to_bytes())?;
    let mac6 = cluster.nodes[owner6].mac;
    heard.wait_for("the owner's advertisement", |frame| {
        frame.is_announcement() && frame.target() == VIP6 && frame.source == mac6
    })?;
    ensure!(client::is_answered(&cluster.client, VIP6)?, "{VIP6} is not answered for");

    // Without the API the wire says that nobody else has it.
    (0..3).try_for_each(|node| cluster.set_api(node, false))?;
    eventually("the owner notices", || {
        client::send(&socket, index, &claim.to_bytes())?;
        Ok(cluster.nodes[owner]
            .agent
            .as_ref()
            .is_some_and(|agent| agent.stderr().iter().any(|line| line.contains("the API is away")))
            .then_some(()))
    })
    .with_context(|| cluster.said())?;
    client::send(&socket, index, &claim.to_bytes())?;
    eventually("it is answered for again", || {
        let rounds = observer.watch(1)?;
        Ok((rounds[0] == [mac]).then_some(()))
    })?;
    ensure!(cluster.record(VIP)? == before, "{before:?} became {:?}", cluster.record(VIP)?);
    Ok(())
}

/// MetalLB announces when a node becomes the owner, and not when a partition heals (its issue 584).
fn garp_after_a_partition_heals(sandbox: &Sandbox) -> anyhow::Result<()> {
    let cluster = Cluster::start(sandbox, 3)?;
    let stale = cluster.await_owner(VIP, |_| true)?;
    // Off the wire and the API at once; its agent lives.
    cluster.nodes[stale].namespace.link_down("up0")?;
    cluster.set_api(stale, false)?;
    let heir = cluster.await_owner(VIP, |owner| owner != stale)?;
    let observer = Observer::start(&cluster.client, VIP)?;
    observer.watch(5)?;
    let mut capture = Capture::start(&cluster.client)?;
    cluster.nodes[stale].namespace.link_up("up0")?;
    cluster.set_api(stale, true)?;
    let mac = cluster.nodes[heir].mac;
    capture.wait_for("announcement by the owner", |frame| {
        frame.is_announcement() && frame.sender == VIP && frame.sender_mac == mac
    })?;
    // One owner is left, and one answers.
    eventually("one node answers", || {
        let rounds = observer.watch(20)?;
        Ok(rounds.iter().all(|answered| *answered == [mac]).then_some(()))
    })?;
    ensure!(cluster.record(VIP)?.is_some_and(|(owner, _)| owner == heir));
    Ok(())
}

/// Somebody answers throughout, and no request of a kind that one packet of the client's decides is lost. What takes more packets
/// may meet both nodes, which know nothing of each other's flows.
fn an_agent_that_releases_hands_over_first(sandbox: &Sandbox) -> anyhow::Result<()> {
    let mut cluster = Cluster::build(sandbox, 3)?;
    cluster.arguments = vec!["--release".to_owned()];
    cluster.add_service("shop", &[VIP.into(), VIP6.into()], "Cluster")?;
    (0..3).try_for_each(|node| cluster.run_agent(node))?;
    cluster.await_ready()?;
    cluster.await_owner(VIP, |_| true)?;
    let observer = Observer::start(&cluster.client, VIP)?;
    let load = cluster.load(&[VIP.into(), VIP6.into()], &[LaneKind::Tcp, LaneKind::Udp])?;
    for _ in 0..3 {
        let leaver = cluster.await_owner(VIP, |_| true)?;
        observer.watch(5)?;
        world::go_on(&load, 20)?;
        cluster.stop_agent(leaver)?;
        let heir = cluster.await_owner(VIP, |owner| owner != leaver)?;
        let mac = cluster.nodes[heir].mac;
        eventually("the heir alone answers", || {
            let rounds = observer.watch(20)?;
            Ok(rounds.iter().all(|answered| *answered == [mac]).then_some(()))
        })?;
        cluster.run_agent(leaver)?;
        cluster.await_ready()?;
    }
    world::go_on(&load, 20)?;
    // The heir does not know a connection that the leaver had: one that is under way at that moment may end (decision 0035).
    let report = load.stop()?;
    let in_flight: u64 = report.lanes.iter().map(|lane| lane.in_flight).sum();
    ensure!(report.failed == in_flight && in_flight <= 3, "{report}\n{}", cluster.said());
    let rounds = observer.end()?;
    let unanswered = rounds.iter().filter(|answered| answered.is_empty()).count();
    ensure!(unanswered == 0, "{unanswered} of {} rounds were answered by nobody", rounds.len());
    Ok(())
}

/// As a DaemonSet's rollout does it: an agent ends, and the next one takes its data path over, node by node.
fn agents_are_replaced_under_load(sandbox: &Sandbox) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(sandbox, 3)?;
    let owner = cluster.await_owner(VIP, |_| true)?;
    cluster.await_owner(VIP6, |_| true)?;
    let before = (cluster.record(VIP)?, cluster.record(VIP6)?);
    let observer = Observer::start(&cluster.client, VIP)?;
    let kinds = [LaneKind::Http, LaneKind::HttpKeepalive, LaneKind::TcpLong, LaneKind::Udp, LaneKind::UdpFixed];
    let load = cluster.load(&[VIP.into(), VIP6.into()], &kinds)?;
    world::go_on(&load, 20)?;
    for node in 0..3 {
        cluster.stop_agent(node)?;
        world::go_on(&load, 20)?;
        cluster.run_agent(node)?;
        cluster.await_ready()?;
        world::go_on(&load, 20)?;
    }
    let report = world::ensure_nothing_lost(load).with_context(|| cluster.said())?;
    println!("three agents replaced: {} requests, {} failed", report.requests, report.failed);
    ensure!(ensure_one(&observer.end()?)? == cluster.nodes[owner].mac);
    ensure!((cluster.record(VIP)?, cluster.record(VIP6)?) == before, "an address moved");
    Ok(())
}

/// What a balancer outside of the cluster is told at a node's health check port.
fn the_health_check_port_tells_of_local_endpoints(sandbox: &Sandbox) -> anyhow::Result<()> {
    let mut cluster = Cluster::build(sandbox, 2)?;
    cluster.arguments = vec!["--health-check-node-ports".to_owned()];
    cluster.add_service("shop", &[VIP.into(), VIP6.into()], "Local")?;
    (0..2).try_for_each(|node| cluster.run_agent(node))?;
    cluster.await_ready()?;
    let service = "/api/v1/namespaces/default/services/shop";
    let port = cluster.request("GET", service, None)?["spec"]["healthCheckNodePort"].as_u64().context("no port")?;
    let port = u16::try_from(port)?;
    let asked = |node: usize| -> anyhow::Result<[String; 2]> {
        let ask = |address: IpAddr| client::ask_http(&cluster.client, SocketAddr::new(address, port), "/");
        let [v4, v6] = cluster.nodes[node].addresses();
        Ok([ask(v4)?, ask(v6)?])
    };
    let told = |node: usize, status: &str, endpoints: u64| {
        eventually(&format!("node-{node} says {status}"), || {
            let said = asked(node)?;
            let counts = format!("x-load-balancing-endpoint-weight: {endpoints}\r\n");
            let body = format!("\"localEndpoints\": {endpoints}");
            let expected = |said: &String| said.starts_with(status) && said.contains(&counts) && said.contains(&body);
            Ok(said.iter().all(expected).then_some(()))
        })
        .with_context(|| format!("last: {:?}", asked(node)))
    };
    told(0, "HTTP/1.1 200 OK", 1)?;
    told(1, "HTTP/1.1 200 OK", 1)?;
    cluster.set_endpoints("shop", &[0])?;
    told(0, "HTTP/1.1 200 OK", 1)?;
    told(1, "HTTP/1.1 503 Service Unavailable", 0)?;
    cluster.request("DELETE", service, None)?;
    eventually("nobody listens there", || Ok(asked(0).is_err().then_some(())))
}

fn an_unattended_node_is_given_up(sandbox: &Sandbox) -> anyhow::Result<()> {
    let mut cluster = Cluster::build(sandbox, 3)?;
    cluster.arguments = vec!["--unattended-limit".to_owned(), "3s".to_owned()];
    cluster.add_service("shop", &[VIP.into()], "Cluster")?;
    (0..3).try_for_each(|node| cluster.run_agent(node))?;
    cluster.await_ready()?;
    let owner = cluster.await_owner(VIP, |_| true)?;
    cluster.kill_agent(owner)?;
    let heir = cluster.await_owner(VIP, |now| now != owner)?;
    let observer = Observer::start(&cluster.client, VIP)?;
    ensure!(ensure_one(&observer.watch(20)?)? == cluster.nodes[heir].mac);
    Ok(())
}

fn a_restart_without_the_api(sandbox: &Sandbox) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(sandbox, 3)?;
    let owner = cluster.await_owner(VIP, |_| true)?;
    let before = cluster.record(VIP)?;
    let observer = Observer::start(&cluster.client, VIP)?;
    cluster.set_api(owner, false)?;
    cluster.kill_agent(owner)?;
    cluster.run_agent(owner)?;
    let status = eventually("the agent is there", || Ok(cluster.status(owner).ok()))?;
    ensure!(status["ready"] == false, "{status:#}");
    client::get(&cluster.client, (IpAddr::from(VIP), PORT))?;
    observer.watch(ROUNDS)?;
    cluster.set_api(owner, true)?;
    cluster.await_ready()?;
    observer.watch(20)?;
    ensure!(ensure_one(&observer.end()?)? == cluster.nodes[owner].mac);
    ensure!(cluster.record(VIP)? == before);
    let _: Ipv4Addr = VIP;
    Ok(())
}

/// Anybody who may make a service can make one that cannot be read.
fn what_cannot_be_read_keeps_nothing_else_alive(sandbox: &Sandbox) -> anyhow::Result<()> {
    const FREED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);
    let mut cluster = Cluster::start(sandbox, 2)?;
    let services = "/api/v1/namespaces/default/services";
    cluster.add_service("former", &[FREED.into()], "Cluster")?;
    cluster.set_endpoints("former", &[0])?;
    let bad = [
        ("request", json!({ "metallb.io/loadBalancerIPs": "dhcp" }), Value::Null),
        ("preference", json!({}), json!("PreferSameRack")),
    ];
    for (name, annotations, preference) in bad {
        let spec = json!({ "type": "LoadBalancer", "ports": [{ "port": 80 }], "trafficDistribution": preference });
        let metadata = json!({ "name": name, "annotations": annotations });
        cluster.post(services, "Service", &json!({ "metadata": metadata, "spec": spec }))?;
    }
    let pools = format!("/apis/metallb.io/v1beta1/namespaces/{SYSTEM}/ipaddresspools");
    let pool = json!({ "metadata": { "name": "bad" }, "spec": { "addresses": ["10.77.0.300/33"] } });
    cluster.post(&pools, "IPAddressPool", &pool)?;
    cluster.await_owner(FREED, |_| true)?;
    for node in 0..2 {
        cluster.stop_agent(node)?;
        cluster.run_agent(node)?;
    }
    cluster.await_ready()?;
    cluster.await_owner(FREED, |_| true)?;
    client::get(&cluster.client, (IpAddr::from(FREED), PORT))?;
    let told = cluster.status(0)?;
    let unread = world::problems(&told).iter().filter(|one| one.starts_with("error[")).count();
    ensure!(unread >= 3, "{told:#}");

    cluster.request("DELETE", &format!("{services}/former"), None)?;
    eventually("nobody answers for what is deleted", || {
        Ok((!client::is_answered(&cluster.client, FREED)?).then_some(()))
    })
    .with_context(|| cluster.said())?;
    cluster.add_service("heir", &[FREED.into()], "Cluster")?;
    cluster.set_endpoints("heir", &[1])?;
    cluster.await_owner(FREED, |_| true)?;
    let met =
        eventually("the heir is served", || Ok(client::server_of(&cluster.client, (IpAddr::from(FREED), PORT)).ok()))?;
    ensure!(met == "pod-1", "{met} is met at {FREED}");
    client::get(&cluster.client, (IpAddr::from(VIP), PORT))?;
    Ok(())
}
