//! What `evenkeel status` and `evenkeel plan` say.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
};

use anyhow::{Context as _, ensure};
use evenkeel_lab::{Sandbox, manifests::Condition, topology::NODE_NAME};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    Test,
    client::{self, Session},
    world::{self, HTTP, NODE, SOON, STOP, Setup, TCP, VIP, VIP6, World, vip},
};

pub(crate) const TESTS: &[Test] = &[
    ("status::keeps_its_contract", keeps_its_contract),
    ("status::counts_flows_and_shows_draining", counts_flows_and_shows_draining),
    ("status::watch_goes_on_until_it_is_interrupted", watch_goes_on_until_it_is_interrupted),
    ("status::metrics_count_questions_for_vips_and_answers", metrics_count_questions),
    ("status::tells_of_sources_that_do_not_get_past_xdp", sources_past_xdp),
    ("status::plan_says_the_same_beforehand", plan_says_the_same_beforehand),
];

/// XDP in the kernel's stack sends to no other interface, and the node's own stack takes its own address for a forgery.
fn sources_past_xdp(sandbox: &Sandbox) -> anyhow::Result<()> {
    let setup = Setup { hook: "xdp-generic", masquerade: true, backends: 1, ..Setup::default() };
    let (mut world, agent) = World::start(sandbox, &setup)?;
    let is_told = |status: &Value| world::problems(status).iter().any(|text| text.starts_with("[source_past_xdp]"));
    let status = world.status()?;
    ensure!(is_told(&status), "{status:#}");
    ensure!(agent.terminate(STOP)?.success());
    world.use_hook("tcx");
    let _agent = world.run()?;
    let status = world.status()?;
    ensure!(!is_told(&status), "{status:#}");
    client::get(&world.lab.client, vip(HTTP))?;
    Ok(())
}

/// By MetalLB's names, per address.
fn metrics_count_questions(sandbox: &Sandbox) -> anyhow::Result<()> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 9479));
    let world = World::build(sandbox, &Setup { backends: 1, ..Setup::default() })?;
    let mut command = world.balancer.command();
    command.args(["--listen", &listen.to_string()]);
    let agent = world.lab.node.spawn(command)?;
    agent.wait_for_line("ready", SOON)?;
    let vips: [IpAddr; 2] = [VIP.into(), VIP6.into()];
    let count = |name: &str, vip: IpAddr| -> anyhow::Result<u64> {
        let metrics = client::ask_http(&world.lab.node, listen, "/metrics")?;
        let prefix = format!("metallb_layer2_{name}{{ip=\"{vip}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(prefix.as_str()));
        Ok(value.map(str::parse).transpose()?.unwrap_or(0))
    };
    for vip in vips {
        let before = count("responses_sent", vip)?;
        ensure!(client::is_answered(&world.lab.client, vip)?, "{vip}");
        world::eventually("the question and its answer are counted", || {
            let (asked, answered) = (count("requests_received", vip)?, count("responses_sent", vip)?);
            Ok((answered > before && asked == answered).then_some(()))
        })?;
    }
    // Whoever only observes hears the question, and does not answer.
    let switched = world.evenkeel(&[&["mode", "observe"], &NODE[..]].concat())?;
    ensure!(switched.status.success(), "{}", switched.stderr);
    // Its announcements may still be heard, so that the client learns of it all the same.
    client::is_answered(&world.lab.client, VIP)?;
    world::eventually("the question is counted, and no answer", || {
        let (asked, answered) = (count("requests_received", VIP.into())?, count("responses_sent", VIP.into())?);
        Ok((asked > answered).then_some(()))
    })
}

fn keeps_its_contract(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup { backends: 1, ..Setup::default() })?;
    client::get(&world.lab.client, vip(HTTP))?;
    let status = world.status()?;
    ensure!(only(&status["vips"][0], &["address", "owner"]) == json!({"address": VIP.to_string(), "owner": NODE_NAME}));
    ensure!(
        only(&status["vips"][1], &["address", "owner"]) == json!({"address": VIP6.to_string(), "owner": NODE_NAME})
    );
    ensure!(status["vips"].as_array().map(Vec::len) == Some(2), "{status:#}");

    let frontends = status["frontends"].as_array().context("frontends is a list")?;
    let ports: Vec<Value> = frontends.iter().map(|one| only(one, &["address", "port", "protocol"])).collect();
    let expected = [(80, "TCP"), (5300, "UDP"), (9000, "TCP")].into_iter().flat_map(|(port, protocol)| {
        [VIP.to_string(), VIP6.to_string()]
            .map(|address| json!({"address": address, "port": port, "protocol": protocol}))
    });
    ensure!(ports.len() == 6 && expected.into_iter().all(|one| ports.contains(&one)), "{status:#}");
    let http = frontends.iter().find(|one| one["address"] == VIP.to_string() && one["port"] == HTTP.port);
    let http = http.context("the frontend of HTTP")?;
    let backend = only(&http["backends"][0], &["address", "port", "node", "state"]);
    let address = world.deployment.backends().next().context("a backend")?.address.to_string();
    let expected = json!({"address": address, "port": HTTP.target_port, "node": NODE_NAME, "state": "active"});
    ensure!(backend == expected, "{backend}");
    ensure!(http["backends"][0]["flows"].is_u64(), "{status:#}");

    let counters = world::counters(&status)?;
    ensure!(counters.get("forward_new").is_some_and(|packets| *packets > 0), "{counters:?}");
    ensure!(counters.keys().all(|name| !name.starts_with("drop_")), "{counters:?}");

    let text = world.evenkeel(&["status", "--admin", &format!("unix:{}", world.balancer.admin.display())])?;
    for expected in [&VIP.to_string(), "announced here", &address, "forward_new"] {
        ensure!(text.stdout.contains(expected), "{expected} is not in {}", text.stdout);
    }
    Ok(())
}

fn counts_flows_and_shows_draining(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (mut world, _agent) = World::start(sandbox, &Setup::default())?;
    let mut sessions = Session::open_many(&world.lab.client, vip(TCP), 24)?;
    client::echo_all(&mut sessions)?;
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for backend in world.deployment.backends() {
        let here = sessions.iter().filter(|session| session.server == backend.name).count();
        expected.insert(backend.address.to_string(), u64::try_from(here)?);
    }
    ensure!(expected.values().all(|flows| *flows > 0), "the connections went one way: {expected:?}");
    let status = world.status()?;
    ensure!(flows(&status)? == expected, "{:?}, not {expected:?}", flows(&status)?);

    let first = world.deployment.backends().next().context("a backend")?.clone();
    let address = first.address.to_string();
    world.deployment.set_condition(&first.name, Condition::Terminating)?;
    let status = world.await_status("the backend drains", |status| {
        world::backends(status, TCP).get(address.as_str()) == Some(&"drain")
    })?;
    ensure!(flows(&status)? == expected, "{:?}, not {expected:?}", flows(&status)?);
    client::echo_all(&mut sessions)?;

    // The connections end, and the status notices.
    sessions.retain(|session| session.server != first.name);
    expected.insert(address, 0);
    world.await_status("the drained backend has no flows", |status| flows(status).is_ok_and(|now| now == expected))?;
    client::echo_all(&mut sessions)?;
    world.ensure_no_drops()
}

fn watch_goes_on_until_it_is_interrupted(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, agent) = World::start(sandbox, &Setup { backends: 1, ..Setup::default() })?;
    let admin = format!("unix:{}", world.balancer.admin.display());
    let watch = |more: &[&str]| {
        let mut command = Command::new(&world.balancer.program);
        command.args(["status", "--watch", "0.1", "--admin", &admin]).args(more);
        world.lab.node.spawn(command)
    };
    let text = watch(&["--details"])?;
    let json = watch(&["-o", "json"])?;
    world::eventually("several answers", || {
        client::get(&world.lab.client, vip(HTTP))?;
        let rates = text.stdout().iter().filter(|line| line.contains("/s new flows")).count();
        Ok((rates > 2 && json.stdout().len() > 2).then_some(()))
    })?;
    // The agent may go and come back meanwhile.
    ensure!(agent.terminate(world::STOP)?.success());
    world::eventually("a missing agent is told", || {
        Ok(text.stderr().iter().any(|line| line.contains("no such socket")).then_some(()))
    })?;
    let _agent = world.run()?;
    let before = json.stdout().len();
    world::eventually("answers again", || Ok((json.stdout().len() > before).then_some(())))?;
    for watch in [&text, &json] {
        watch.signal(Signal::INT)?;
        let ended = watch.wait(world::STOP)?;
        ensure!(ended.success(), "{ended}: {:?}", watch.stderr());
    }
    for line in json.stdout() {
        let status: Value = serde_json::from_str(&line).with_context(|| format!("no document: {line}"))?;
        ensure!(status["vips"][0]["address"] == VIP.to_string(), "{status:#}");
    }
    ensure!(text.stdout().iter().all(|line| !line.contains('\x1b')), "control sequences without a terminal");
    Ok(())
}

fn plan_says_the_same_beforehand(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    let mut plain = world::service("plain", VIP);
    plain.addresses.clear();
    world.manifests.write("plain.yaml", &plain.manifest())?;
    let slice = std::fs::read_to_string(world.manifests.directory().join(evenkeel_lab::deployment::ENDPOINTS_FILE))?;
    world.manifests.write("plain-endpoints.yaml", &slice.replace("shop", "plain"))?;

    let directory = world.manifests.directory().to_string_lossy();
    let plan = |more: &[&str]| -> anyhow::Result<Value> {
        let ended = world.evenkeel(&[&["plan", &directory, "-o", "json"], &NODE[..], more].concat())?;
        ensure!(ended.status.success() && ended.stderr.is_empty(), "{}: {}", ended.status, ended.stderr);
        Ok(serde_json::from_str(&ended.stdout)?)
    };
    let before = plan(&[])?;
    let agent = world.run()?;
    let status = world.status()?;
    ensure!(planned_owners(&before) == owners(&status), "{before:#}\n{status:#}");
    ensure!(owners(&status).len() == 3, "{status:#}");
    ensure!(frontends(&before) == frontends(&status), "{before:#}\n{status:#}");
    ensure!(agent.terminate(world::STOP)?.success());

    // With what the load balancer remembers, the plan is that of its next run: addresses stay when a service comes
    // first in the alphabet.
    let mut early = world::service("early", VIP);
    early.addresses.clear();
    world.manifests.write("early.yaml", &early.manifest())?;
    world.manifests.write("early-endpoints.yaml", &slice.replace("shop", "early"))?;
    let after = plan(&["--state", &world.balancer.state_dir.to_string_lossy()])?;
    let _agent = world.run()?;
    let next = world.status()?;
    ensure!(planned_owners(&after) == owners(&next), "{after:#}\n{next:#}");
    ensure!(owners(&next).len() == 4, "{next:#}");
    let plain = |status: &Value| frontends(status).into_iter().find(|one| one["service"] == "default/plain");
    ensure!(plain(&status).is_some() && plain(&status) == plain(&next), "{status:#}\n{next:#}");
    Ok(())
}

/// Some fields of an object.
fn only(object: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| ((*name).to_owned(), object[*name].clone())).collect()
}

/// Live flows by backend address, of the frontend of TCP connections.
fn flows(status: &Value) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut frontends = status["frontends"].as_array().into_iter().flatten();
    let frontend = frontends
        .find(|one| one["address"] == VIP.to_string() && one["port"] == TCP.port)
        .context("the frontend of TCP")?;
    let backends = frontend["backends"].as_array().into_iter().flatten();
    backends
        .map(|one| Some((one["address"].as_str()?.to_owned(), one["flows"].as_u64()?)))
        .collect::<Option<_>>()
        .context("backends have an address and flows")
}

/// Who has which VIP, in a status.
fn owners(status: &Value) -> BTreeMap<String, String> {
    let vips = status["vips"].as_array().into_iter().flatten();
    vips.map(|vip| (vip["address"].to_string(), vip["owner"].to_string())).collect()
}

/// Who has which VIP, in a plan.
fn planned_owners(plan: &Value) -> BTreeMap<String, String> {
    let announcements = plan["announcements"].as_array().into_iter().flatten();
    announcements.map(|one| (one["address"].to_string(), one["nodes"][0].to_string())).collect()
}

/// Frontends as both name them.
fn frontends(value: &Value) -> Vec<Value> {
    let frontends = value["frontends"].as_array().into_iter().flatten();
    frontends.map(|one| only(one, &["address", "port", "protocol", "service"])).collect()
}
