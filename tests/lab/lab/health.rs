//! Health checks: what becomes of backends that hang, refuse or answer wrongly, and how they come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener},
    path::Path,
    process::Command,
    str::FromStr as _,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use anyhow::{Context as _, ensure};
use evenkeel_lab::{
    Child, Sandbox,
    deployment::SERVICE_FILE,
    manifests::{Condition, Endpoint, Service},
    topology::{Backend, NODE_NAME, VIP_POOL6},
};
use ipnet::IpNet;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    Test, client,
    world::{self, HTTP, Setup, TCP, UDP, VIP, World, vip},
};

pub(crate) const TESTS: &[Test] = &[
    ("health::one_that_answers_wrongly_is_left_alone_and_comes_back_slowly", answers_wrongly),
    ("health::one_that_hangs_is_left_alone", hangs),
    ("health::one_that_refuses_is_left_alone", refuses),
    ("health::one_that_refuses_several_clients_is_ejected_before_the_next_check", passive_ejection),
    ("health::one_that_is_gone_is_left_alone_whatever_the_check", is_gone),
    ("health::one_that_comes_back_takes_little_at_first", slow_start),
    ("health::udp_flows_leave_one_that_is_down", udp_flows_leave),
    ("health::backends_of_ipv6_are_asked_too", ipv6),
    ("health::the_last_is_never_left_alone", never_the_last),
    ("health::checks_go_on_while_manifests_are_broken", manifests_are_broken),
    ("health::a_dns_server_is_asked", dns_server),
];

/// Checks often, and with patience enough for a busy machine.
const OFTEN: [(&str, &str); 4] = [
    ("health-interval", "200ms"),
    ("health-unhealthy-after", "'2'"),
    ("health-timeout", "200ms"),
    ("slow-start", "1s"),
];
/// Where backends tell of their health.
const HEALTH_PORT: u16 = 9090;

/// Gives the service these annotations.
fn annotate(world: &World, annotations: &[(&str, &str)]) -> anyhow::Result<()> {
    Ok(world.manifests.write(SERVICE_FILE, &annotated(&world::service("shop", VIP), annotations)?)?)
}

/// The service with these annotations.
fn annotated(service: &Service, annotations: &[(&str, &str)]) -> anyhow::Result<String> {
    let all: BTreeMap<&str, &str> = OFTEN.iter().chain(annotations).copied().collect();
    let lines: String = all.iter().map(|(name, value)| format!("    evenkeel.io/{name}: {value}\n")).collect();
    let manifest = service.manifest();
    let (before, after) = manifest.split_once("  annotations:\n").context("the service has annotations")?;
    Ok(format!("{before}  annotations:\n{lines}{after}"))
}

/// The backend at this place, from 0.
fn backend(world: &World, n: usize) -> anyhow::Result<Backend> {
    Ok(world.deployment.backends().nth(n).context("a backend")?.clone())
}

/// What the status says of a backend of a frontend.
fn entry(status: &Value, address: impl Into<IpAddr>, port: u16) -> Value {
    let address = address.into().to_string();
    let frontends = status["frontends"].as_array().into_iter().flatten();
    let backends = frontends
        .filter(|frontend| frontend["port"] == port)
        .flat_map(|frontend| frontend["backends"].as_array().into_iter().flatten());
    backends.into_iter().find(|backend| backend["address"] == address).cloned().unwrap_or_default()
}

/// Waits until a backend of the HTTP frontend is in a state, and returns what the status says of it.
fn await_state(world: &World, backend: &Backend, state: &str) -> anyhow::Result<Value> {
    let what = format!("{} is {state}", backend.name);
    let status = world.await_status(&what, |status| entry(status, backend.address, HTTP.port)["state"] == state)?;
    Ok(entry(&status, backend.address, HTTP.port))
}

/// The servers that so many new connections meet.
fn met(world: &World, connections: usize) -> anyhow::Result<BTreeSet<String>> {
    (0..connections)
        .map(|_| Ok(client::get(&world.lab.client, vip(HTTP))?.header("x-evenkeel-server")?.to_owned()))
        .collect()
}

fn names<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> BTreeSet<String> {
    backends.into_iter().map(|backend| backend.name.clone()).collect()
}

/// Waits until new connections meet all of these.
fn await_met(world: &World, expected: &BTreeSet<String>) -> anyhow::Result<()> {
    world::eventually("new connections meet all of them", || Ok((met(world, 40)? == *expected).then_some(())))
}

/// Tells a backend's health by HTTP at [`HEALTH_PORT`], for as long as the test lives. 0: not at all, and the connection stays.
fn tell_health(backend: &Backend) -> anyhow::Result<Arc<AtomicU16>> {
    let status = Arc::new(AtomicU16::new(200));
    let told = Arc::clone(&status);
    let address = SocketAddrV4::new(backend.address, HEALTH_PORT);
    let listener = backend.namespace.enter(|| TcpListener::bind(address))??;
    backend.namespace.thread("health", move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            match told.load(Ordering::Relaxed) {
                0 => kept.push(stream),
                status => _ = write!(stream, "HTTP/1.1 {status} As Told\r\nContent-Length: 0\r\n\r\n"),
            }
        }
    })?;
    Ok(status)
}

fn answers_wrongly(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup { backends: 3, ..Setup::default() })?;
    let port = format!("'{HEALTH_PORT}'");
    let healths = world.deployment.backends().map(tell_health).collect::<anyhow::Result<Vec<_>>>()?;
    // Ill from the begin: nobody has asked it before.
    healths[0].store(500, Ordering::Relaxed);
    annotate(
        &world,
        &[("health-check", "http"), ("health-path", "/ready"), ("health-port", &port), ("slow-start", "4s")],
    )?;
    let ill = backend(&world, 0)?;
    let mut session = client::Session::open(&world.lab.client, vip(TCP))?;
    let entry = await_state(&world, &ill, "down")?;
    ensure!(entry["health"]["reason"] == "health_http_status" && entry["health"]["share"] == 0, "{entry:#}");
    let others = names(world.deployment.backends().filter(|other| other.name != ill.name));
    ensure!(met(&world, 60)? == others, "new connections still meet {}", ill.name);
    session.echo()?;

    let all = names(world.deployment.backends());
    healths[0].store(200, Ordering::Relaxed);
    let warming = await_state(&world, &ill, "warming")?;
    let share = warming["health"]["share"].as_u64().context("a share")?;
    ensure!((1..255).contains(&share), "{warming:#}");
    let active = await_state(&world, &ill, "active")?;
    ensure!(active["health"].is_null(), "{active:#}");
    await_met(&world, &all)?;
    let log = world.evenkeel(&["status", "--admin", &format!("unix:{}", world.balancer.admin.display())])?;
    ensure!(!log.stdout.contains("health_"), "{}", log.stdout);
    world.ensure_no_drops()
}

fn hangs(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup { backends: 3, ..Setup::default() })?;
    annotate(&world, &[("health-check", "http"), ("health-port", &format!("'{}'", HTTP.target_port))])?;
    let ill = backend(&world, 1)?;
    world.deployment.server(&ill.name)?.signal(Signal::STOP)?;
    let entry = await_state(&world, &ill, "down")?;
    ensure!(entry["health"]["reason"] == "health_timeout", "{entry:#}");
    let others = names(world.deployment.backends().filter(|other| other.name != ill.name));
    ensure!(met(&world, 60)? == others, "new connections still meet {}", ill.name);
    world.deployment.server(&ill.name)?.signal(Signal::CONT)?;
    await_state(&world, &ill, "active")?;
    await_met(&world, &names(world.deployment.backends()))
}

fn refuses(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup { backends: 3, ..Setup::default() })?;
    annotate(&world, &[("health-check", "tcp"), ("health-port", &format!("'{}'", HTTP.target_port))])?;
    let ill = backend(&world, 2)?;
    world.deployment.server(&ill.name)?.kill();
    let entry = await_state(&world, &ill, "down")?;
    ensure!(entry["health"]["reason"] == "health_tcp_refused", "{entry:#}");
    let others = names(world.deployment.backends().filter(|other| other.name != ill.name));
    ensure!(met(&world, 60)? == others, "new connections still meet {}", ill.name);
    world.ensure_no_drops()
}

/// What clients meet with has the backend checked at once: the checks themselves would have needed two minutes.
fn passive_ejection(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup { backends: 3, ..Setup::default() })?;
    let client = &world.lab.client;
    let sources: Vec<Ipv4Addr> = (11..=14).map(|last| Ipv4Addr::new(10, 77, 0, last)).collect();
    for source in &sources {
        client.address("eth0", IpNet::from_str(&format!("{source}/24"))?)?;
    }
    let port = format!("'{}'", HTTP.target_port);
    let annotations = [("health-check", "tcp"), ("health-port", port.as_str()), ("passive-ejection", "'true'")];
    annotate(&world, &[&annotations[..], &[("health-interval", "1m")]].concat())?;
    let ill = backend(&world, 1)?;
    // It has answered its first check: from now on the next one is a minute away.
    world.await_status("it has been checked", |status| entry(status, ill.address, HTTP.port)["state"] == "active")?;
    world.deployment.server(&ill.name)?.kill();
    let entry = world::eventually("it is ejected", || {
        for source in &sources {
            // Those that meet it are refused; the others end at once.
            let _ = client::connect_from(client, *source, vip(HTTP));
        }
        let entry = entry(&world.status()?, ill.address, HTTP.port);
        Ok((entry["state"] == "down").then_some(entry))
    })?;
    ensure!(entry["health"]["reason"] == "health_tcp_refused", "{entry:#}");
    let others = names(world.deployment.backends().filter(|other| other.name != ill.name));
    ensure!(met(&world, 60)? == others, "new connections still meet {}", ill.name);
    Ok(())
}

/// A backend's interface goes down: no answer, then nobody at its address.
fn is_gone(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup { backends: 3, ..Setup::default() })?;
    let gone = backend(&world, 0)?;
    for check in ["icmp", "tcp", "udp-echo"] {
        let port = format!("'{}'", if check == "udp-echo" { 7 } else { HTTP.target_port });
        if check == "udp-echo" {
            echo_all(&world)?;
        }
        annotate(&world, &[("health-check", check), ("health-port", &port)])?;
        await_state(&world, &gone, "active")?;
        gone.namespace.link_down("eth0")?;
        let entry = await_state(&world, &gone, "down")?;
        let reason = entry["health"]["reason"].as_str().context("a reason")?;
        ensure!(["health_timeout", "health_unreachable"].contains(&reason), "{check}: {entry:#}");
        let others = names(world.deployment.backends().filter(|other| other.name != gone.name));
        ensure!(met(&world, 40)? == others, "new connections still meet {}", gone.name);
        gone.namespace.link_up("eth0")?;
        await_state(&world, &gone, "active")?;
    }
    Ok(())
}

/// Echoes datagrams at port 7 of every backend, for as long as the test lives.
fn echo_all(world: &World) -> anyhow::Result<()> {
    for backend in world.deployment.backends() {
        let address = SocketAddrV4::new(backend.address, 7);
        let socket = backend.namespace.enter(|| std::net::UdpSocket::bind(address))??;
        backend.namespace.thread("echo", move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        })?;
    }
    Ok(())
}

/// How many of these new connections meet a server.
fn meet(world: &World, server: &str, connections: usize) -> anyhow::Result<usize> {
    let mut met = 0;
    for _ in 0..connections {
        met += usize::from(client::get(&world.lab.client, vip(HTTP))?.header("x-evenkeel-server")? == server);
    }
    Ok(met)
}

fn slow_start(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup { backends: 3, ..Setup::default() })?;
    let port = format!("'{HEALTH_PORT}'");
    let healths = world.deployment.backends().map(tell_health).collect::<anyhow::Result<Vec<_>>>()?;
    let annotations =
        |slow_start| [("health-check", "http"), ("health-port", port.as_str()), ("slow-start", slow_start)];
    let ill = backend(&world, 0)?;
    healths[0].store(500, Ordering::Relaxed);
    annotate(&world, &annotations("1h"))?;
    await_state(&world, &ill, "down")?;
    healths[0].store(200, Ordering::Relaxed);
    await_state(&world, &ill, "warming")?;
    // 15 of 255 of its third would be 6 of 300; three times its share is still far from all of it.
    let few = meet(&world, &ill.name, 300)?;
    ensure!(few <= 50, "{few} of 300 connections meet one that takes a fiftieth");
    annotate(&world, &annotations("0s"))?;
    await_state(&world, &ill, "active")?;
    let many = meet(&world, &ill.name, 300)?;
    ensure!(many > 50, "only {many} of 300 connections meet one of three");
    world.ensure_no_drops()
}

fn udp_flows_leave(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup { backends: 3, ..Setup::default() })?;
    let ill = backend(&world, 1)?;
    let flow = world::eventually("a flow meets it", || {
        let flow = client::Exchange::open(&world.lab.client, vip(UDP))?;
        Ok((flow.ask()? == ill.name).then_some(flow))
    })?;
    ensure!(flow.ask()? == ill.name, "a flow stays where it is");
    annotate(&world, &[("health-check", "http"), ("health-port", &format!("'{}'", HTTP.target_port))])?;
    world.deployment.server(&ill.name)?.signal(Signal::STOP)?;
    await_state(&world, &ill, "down")?;
    let server = flow.ask()?;
    ensure!(server != ill.name, "the flow stayed with {}", ill.name);
    Ok(())
}

fn ipv6(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    // It has the same backends.
    world.manifests.remove(SERVICE_FILE)?;
    let _agent = world.run()?;
    let service = Service { addresses: vec![VIP_POOL6.0.into()], ports: vec![HTTP], ..world::service("six", VIP) };
    let endpoints: Vec<Endpoint> = world
        .deployment
        .backends()
        .map(|backend| Endpoint {
            name: backend.name.clone(),
            addresses: backend.addresses().into(),
            node: NODE_NAME.to_owned(),
            condition: Condition::Ready,
        })
        .collect();
    let gone = backend(&world, 0)?;
    let address = IpAddr::from(gone.address6);
    let await_state = |state: &str| {
        let what = format!("{address} is {state}");
        let status = world.await_status(&what, |status| entry(status, address, HTTP.port)["state"] == state)?;
        Ok::<_, anyhow::Error>(entry(&status, address, HTTP.port))
    };
    for check in ["icmp", "tcp", "http"] {
        let manifests = [annotated(&service, &[("health-check", check)])?, service.endpoint_slices(&endpoints)];
        world.manifests.write("six.yaml", &manifests.join("---\n"))?;
        await_state("active")?;
        gone.namespace.link_down("eth0")?;
        let entry = await_state("down")?;
        let reason = entry["health"]["reason"].as_str().context("a reason")?;
        ensure!(["health_timeout", "health_unreachable"].contains(&reason), "{check}: {entry:#}");
        gone.namespace.link_up("eth0")?;
        // The kernel took the address away with the link.
        if let Ok(network) = IpNet::new(address, 64) {
            let _ = gone.namespace.address("eth0", network);
        }
        await_state("active")?;
    }
    Ok(())
}

fn never_the_last(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup::default())?;
    // Nobody listens there.
    annotate(&world, &[("health-check", "tcp"), ("health-port", "'1'")])?;
    let all: Vec<Backend> = world.deployment.backends().cloned().collect();
    for backend in &all {
        let entry = await_state(&world, backend, "down")?;
        ensure!(entry["health"]["reason"] == "health_tcp_refused", "{entry:#}");
    }
    let status = world.await_status("all are the last resort", |status| {
        all.iter().all(|one| entry(status, one.address, HTTP.port)["health"]["last_resort"] == true)
    })?;
    ensure!(entry(&status, all[0].address, HTTP.port)["health"]["share"] == 255, "{status:#}");
    await_met(&world, &names(&all))?;
    world.ensure_no_drops()
}

fn manifests_are_broken(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup { backends: 3, ..Setup::default() })?;
    annotate(&world, &[("health-check", "tcp"), ("health-port", &format!("'{}'", HTTP.target_port))])?;
    let ill = backend(&world, 0)?;
    await_state(&world, &ill, "active")?;
    world.manifests.write(SERVICE_FILE, "{")?;
    world.await_status("the manifests are broken", |status| !world::problems(status).is_empty())?;
    world.deployment.server(&ill.name)?.kill();
    await_state(&world, &ill, "down")?;
    let others = names(world.deployment.backends().filter(|other| other.name != ill.name));
    ensure!(met(&world, 40)? == others, "new connections still meet {}", ill.name);
    Ok(())
}

/// A real name server, which knows one name, and stops answering.
fn dns_server(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, _agent) = World::start(sandbox, &Setup { backends: 3, ..Setup::default() })?;
    let servers = world
        .deployment
        .backends()
        .map(|backend| start_dnsmasq(&world, backend))
        .collect::<anyhow::Result<Vec<Child>>>()?;
    let ill = backend(&world, 0)?;
    for check in ["dns-udp", "dns-tcp"] {
        let asking =
            |name| annotate(&world, &[("health-check", check), ("health-port", "'53'"), ("health-dns-name", name)]);
        asking("www.example.com")?;
        await_state(&world, &ill, "active")?;
        servers[0].signal(Signal::STOP)?;
        let entry = await_state(&world, &ill, "down")?;
        ensure!(entry["health"]["reason"] == "health_timeout", "{check}: {entry:#}");
        servers[0].signal(Signal::CONT)?;
        await_state(&world, &ill, "active")?;
        asking("other.example.com")?;
        let entry = await_state(&world, &ill, "down")?;
        ensure!(entry["health"]["reason"] == "health_dns_rcode", "{check}: {entry:#}");
    }
    Ok(())
}

fn start_dnsmasq(world: &World, backend: &Backend) -> anyhow::Result<Child> {
    let program = ["/usr/sbin/dnsmasq", "/usr/bin/dnsmasq"].into_iter().find(|path| Path::new(path).exists());
    let mut command = Command::new(program.context("dnsmasq is missing: ./scripts/setup.sh test installs it")?);
    // Nothing of this machine's own configuration, hosts or servers.
    command.args([
        "--no-daemon",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
        "--bind-interfaces",
    ]);
    command.arg(format!("--pid-file={}", world.directory.path().join(&backend.name).display()));
    command.arg(format!("--listen-address={}", backend.address));
    command.args(["--local=/example.com/", "--address=/www.example.com/192.0.2.1"]);
    let server = backend.namespace.spawn(command)?;
    let address = SocketAddr::from((backend.address, 53));
    world::eventually("dnsmasq listens", || {
        ensure!(server.is_running(), "dnsmasq ended: {}", server.stderr().join("\n"));
        let connected = backend.namespace.enter(|| std::net::TcpStream::connect(address))?;
        Ok(connected.ok().map(drop))
    })?;
    Ok(server)
}
