//! Programs that people use, through VIPs of both families: curl, dig, iperf3, ping, tracepath; and what the kernels at
//! both ends of a connection have agreed on.
//!
//! The same checks without a load balancer, to a backend's own addresses, show that the lab itself is sound.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use evenkeel_lab::{
    Child, Namespace, Sandbox, find_program,
    manifests::{Condition, Endpoint, Port, Protocol, Service},
    topology::{Backend, GATEWAY, GATEWAY6, NODE, NODE_NAME, NODE6, POD_BRIDGE, PODS, PODS6, UPLINK, Uplink, Wiring},
};
use serde_json::Value;

use crate::{
    Test,
    client::Session,
    world::{self, Ended, HTTP, SOON, Setup, TCP, UDP, World},
    xdp_pass,
};

pub(crate) const TESTS: &[Test] = &[
    ("clients::are_served_without_a_load_balancer", served_without_a_load_balancer),
    ("clients::find_the_path_mtu_without_a_load_balancer", path_mtu_without_a_load_balancer),
    ("clients::are_served_with_direct_at_tcx", |sandbox| served(sandbox, "direct", "tcx")),
    ("clients::are_served_with_stack_at_tcx", |sandbox| served(sandbox, "stack", "tcx")),
    ("clients::are_served_with_direct_at_clsact", |sandbox| served(sandbox, "direct", "clsact")),
    ("clients::are_served_with_stack_at_clsact", |sandbox| served(sandbox, "stack", "clsact")),
    ("clients::are_served_with_direct_at_xdp_generic", |sandbox| served(sandbox, "direct", "xdp-generic")),
    ("clients::are_served_with_stack_at_xdp_generic", |sandbox| served(sandbox, "stack", "xdp-generic")),
    ("clients::are_served_with_direct_at_xdp", |sandbox| served_at_xdp(sandbox, "direct")),
    ("clients::are_served_with_stack_at_xdp", |sandbox| served_at_xdp(sandbox, "stack")),
    ("clients::are_served_with_jumbo_frames_at_xdp", served_jumbo_at_xdp),
    ("clients::are_served_with_rewritten_sources_and_direct", |sandbox| served_masqueraded(sandbox, "direct")),
    ("clients::are_served_with_rewritten_sources_and_stack", |sandbox| served_masqueraded(sandbox, "stack")),
    ("clients::on_the_balancing_host_are_served_with_direct", |sandbox| served_the_host(sandbox, "direct", "auto")),
    ("clients::on_the_balancing_host_are_served_with_stack", |sandbox| served_the_host(sandbox, "stack", "auto")),
    ("clients::on_the_balancing_host_are_served_with_clsact", |sandbox| served_the_host(sandbox, "direct", "clsact")),
    ("clients::are_served_with_direct_over_a_vlan", |sandbox| served_over(sandbox, "direct", Uplink::Vlan)),
    ("clients::are_served_with_stack_over_a_vlan", |sandbox| served_over(sandbox, "stack", Uplink::Vlan)),
    ("clients::are_served_with_direct_over_a_vlan_in_a_vlan", |sandbox| served_over(sandbox, "direct", Uplink::QinQ)),
    ("clients::are_served_with_direct_over_a_bridge", |sandbox| served_over(sandbox, "direct", Uplink::Bridge)),
    ("clients::are_served_with_stack_over_a_bridge", |sandbox| served_over(sandbox, "stack", Uplink::Bridge)),
    ("clients::are_served_with_direct_over_a_macvlan", |sandbox| served_over(sandbox, "direct", Uplink::Macvlan)),
    ("clients::are_served_with_stack_over_a_macvlan", |sandbox| served_over(sandbox, "stack", Uplink::Macvlan)),
    ("clients::find_the_path_mtu_with_direct", |sandbox| path_mtu(sandbox, "direct")),
    ("clients::find_the_path_mtu_with_stack", |sandbox| path_mtu(sandbox, "stack")),
    ("clients::are_told_of_the_mtu_behind_the_node_with_direct", |sandbox| mtu_behind_the_node(sandbox, "direct")),
    ("clients::are_told_of_the_mtu_behind_the_node_with_stack", |sandbox| mtu_behind_the_node(sandbox, "stack")),
];

/// The service whose only endpoint has further servers, in both families.
const VIPS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 77, 0, 105)), IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x105))];
const DNS: Port = Port { name: "dns", protocol: Protocol::Udp, port: 53, target_port: 5353 };
const DNS_TCP: Port = Port { name: "dns-tcp", protocol: Protocol::Tcp, port: 53, target_port: 5353 };
const IPERF: Port = Port { name: "iperf", protocol: Protocol::Tcp, port: 5201, target_port: 5201 };
const IPERF_UDP: Port = Port { name: "iperf-udp", protocol: Protocol::Udp, port: 5201, target_port: 5201 };

/// The name that the DNS server knows, and what it knows of it.
const NAME: &str = "www.lab.test";
const A: &str = "192.0.2.7";
const AAAA: &str = "2001:db8::7";
/// Strings of 250 characters in its TXT record: together more than a packet holds.
const TXT_STRINGS: usize = 12;

/// Bytes of a download.
const BULK: u64 = 16 << 20;
/// The narrow wire's MTU.
const NARROW: u16 = 1400;
/// The MTU of a wire for jumbo frames.
const JUMBO: &str = "9000";
/// Gives a program's own limits a chance to tell first what it waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// A lab with everything that the clients talk to.
struct Scene {
    world: World,
    servers: Vec<Child>,
    /// What the client talks to.
    targets: [IpAddr; 2],
    /// The port of the DNS server.
    dns: u16,
    /// The ports of the HTTP server, and of the one that echoes.
    http: u16,
    tcp: u16,
    /// The client is the balancing host.
    from_host: bool,
}

impl Scene {
    /// Everything is there but the load balancer: the client talks to a backend itself.
    fn without_balancer(sandbox: &Sandbox, wiring: Wiring) -> anyhow::Result<Self> {
        let world = World::build(sandbox, &Setup { backends: 1, wiring, ..Setup::default() })?;
        let backend = only_backend(&world)?.clone();
        let servers = start_servers(&world, &backend)?;
        let (targets, dns) = (backend.addresses(), DNS.target_port);
        Ok(Self { world, servers, targets, dns, http: HTTP.target_port, tcp: TCP.target_port, from_host: false })
    }

    fn with_balancer(sandbox: &Sandbox, setup: &Setup) -> anyhow::Result<(Self, Child)> {
        let world = World::build(sandbox, setup)?;
        let backend = only_backend(&world)?.clone();
        let servers = start_servers(&world, &backend)?;
        let tools = Service {
            name: "tools".to_owned(),
            addresses: VIPS.into(),
            ports: vec![TCP, HTTP, UDP, DNS, DNS_TCP, IPERF, IPERF_UDP],
            forwarding: None,
        };
        let endpoint = Endpoint {
            name: backend.name.clone(),
            addresses: backend.addresses().into(),
            node: if setup.masquerade { world::ELSEWHERE } else { NODE_NAME }.to_owned(),
            condition: Condition::Ready,
        };
        world.manifests.write("tools.yaml", &tools.manifest())?;
        world.manifests.write("tools-endpoints.yaml", &tools.endpoint_slices(&[endpoint]))?;
        let agent = world.run()?;
        Ok((
            Self { world, servers, targets: VIPS, dns: DNS.port, http: HTTP.port, tcp: TCP.port, from_host: false },
            agent,
        ))
    }

    fn client(&self) -> &Namespace {
        if self.from_host { &self.world.lab.node } else { &self.world.lab.client }
    }

    fn backend(&self) -> anyhow::Result<&Backend> {
        only_backend(&self.world)
    }

    /// Everything that does not depend on the path.
    fn check(&self) -> anyhow::Result<()> {
        for target in self.targets {
            self.ping(target)?;
            self.curl(target)?;
            self.dig(target)?;
            self.iperf(target)?;
            self.agreed(target)?;
        }
        ensure!(self.servers.iter().all(Child::is_running), "a server has ended");
        Ok(())
    }

    fn ping(&self, target: IpAddr) -> anyhow::Result<()> {
        for size in ["56", "1300", "3000"] {
            let target = target.to_string();
            let ended = run(
                self.client(),
                "ping",
                "iputils-ping",
                &["-n", "-c", "3", "-i", "0.1", "-W", "5", "-s", size, &target],
            )?;
            ensure!(ended.stdout.contains(" 3 received"), "ping of {size} bytes: {}", said(&ended));
        }
        Ok(())
    }

    fn curl(&self, target: IpAddr) -> anyhow::Result<()> {
        let url = format!("http://{}/bytes/{BULK}", SocketAddr::new(target, self.http));
        let ended = run(
            self.client(),
            "curl",
            "curl",
            &[
                family(target),
                "-g",
                "-sS",
                "--max-time",
                "30",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code} %{size_download} %{remote_ip}",
                &url,
            ],
        )?;
        ensure!(ended.stdout == format!("200 {BULK} {target}"), "curl {url}: {}", said(&ended));
        Ok(())
    }

    fn dig(&self, target: IpAddr) -> anyhow::Result<()> {
        let server = format!("@{target}");
        let port = self.dns.to_string();
        let dig = |more: &[&str]| {
            let always = [family(target), &server, "-p", &port, "+time=5", "+tries=1", "+short"];
            run(self.client(), "dig", "bind9-dnsutils", &[&always[..], more].concat())
        };
        for transport in ["+notcp", "+tcp"] {
            for (kind, value) in [("A", A), ("AAAA", AAAA)] {
                let ended = dig(&[transport, NAME, kind])?;
                ensure!(ended.stdout == value, "{transport} {kind} from {target}: {}", said(&ended));
            }
            // Over UDP this is an answer in fragments.
            let ended = dig(&[transport, "+ignore", "+bufsize=4096", NAME, "TXT"])?;
            let strings = ended.stdout.matches("\"t").count();
            ensure!(strings == TXT_STRINGS, "{transport} TXT from {target}: {}", said(&ended));
        }
        Ok(())
    }

    /// Up and down over TCP, and up over UDP, in whole datagrams and in fragments.
    fn iperf(&self, target: IpAddr) -> anyhow::Result<()> {
        const DATAGRAMS: [&str; 6] = ["-u", "-b", "20M", "-n", "1M", "-l"];
        let address = target.to_string();
        let iperf = |more: &[&str]| -> anyhow::Result<Value> {
            let always = [family(target), "-c", &address, "--connect-timeout", "10000", "-J"];
            self.await_iperf()?;
            let ended = run(self.client(), "iperf3", "iperf3", &[&always[..], more].concat())?;
            let report: Value = serde_json::from_str(&ended.stdout)?;
            ensure!(ended.status.success() && report["error"].is_null(), "iperf3 {more:?} {target}: {}", said(&ended));
            Ok(report["end"].clone())
        };
        for direction in [&["-n", "32M"][..], &["-n", "32M", "-R"]] {
            let end = iperf(direction)?;
            let received = end["sum_received"]["bytes"].as_u64().context("bytes received")?;
            // The report is made when the sender stops, with the last bytes still on their way.
            ensure!(received >= 1 << 20, "{direction:?} {target}: {end:#}");
        }
        for size in ["1200", "3000"] {
            let end = iperf(&[&DATAGRAMS[..], &[size]].concat())?;
            let lost = end["sum"]["lost_percent"].as_f64().context("datagrams lost")?;
            // A busy machine loses some; one of two fragments lost would be all.
            ensure!(lost < 20.0, "{lost} % of datagrams of {size} bytes to {target} were lost: {end:#}");
        }
        Ok(())
    }

    /// Waits until the server takes the next test: it listens anew after each, and whoever comes before is reset.
    fn await_iperf(&self) -> anyhow::Result<()> {
        let server = self.servers.first().context("the server of iperf3")?;
        world::eventually("iperf3 listens again", || {
            let said = server.stdout();
            let last = said.iter().rfind(|line| line.contains("listening") || line.contains("Accepted connection"));
            Ok(last.is_some_and(|line| line.contains("listening")).then_some(()))
        })
    }

    /// Window scaling, SACK and timestamps are what both ends see of each other.
    fn agreed(&self, target: IpAddr) -> anyhow::Result<()> {
        let mut session = Session::open(self.client(), SocketAddr::new(target, self.tcp))?;
        session.echo()?;
        let port = session.local_port()?.to_string();
        let ours = Agreed::read(self.client(), &format!("sport = :{port}"))?;
        // The client's port may be another one there, but nobody else has a connection.
        let theirs = Agreed::read(&self.backend()?.namespace, &format!("sport = :{}", TCP.target_port))?;
        let (sent, received) = ours.window_scales;
        ensure!(theirs.window_scales == (received, sent), "{ours:?}, but {theirs:?}");
        Ok(())
    }

    /// The path's MTU is found by both ends.
    fn check_path_mtu(&self) -> anyhow::Result<()> {
        for target in self.targets {
            // Stalls unless the backend hears that its packets are too big. First, because a client that knows of the path's
            // MTU asks for smaller ones.
            self.curl(target)?;
            let backend = &self.backend()?.namespace;
            let client = self.address_of_client(target)?.to_string();
            let route = backend.ip(["route", "get", &client])?;
            ensure!(route.contains(&format!("mtu {NARROW}")), "the backend's route to {client}: {route}");
            self.tracepath(target)?;
            self.dig(target)?;
            self.ping(target)?;
            self.iperf(target)?;
        }
        Ok(())
    }

    fn tracepath(&self, target: IpAddr) -> anyhow::Result<()> {
        let address = target.to_string();
        let ended = run(self.client(), "tracepath", "iputils-tracepath", &[family(target), "-n", "-m", "8", &address])?;
        let (Some(line), Some(resume)) = (
            ended.stdout.lines().find(|line| line.contains("reached")),
            ended.stdout.lines().find(|line| line.contains("Resume:")),
        ) else {
            bail!("tracepath {target} did not arrive: {}", said(&ended));
        };
        ensure!(resume.contains(&format!("pmtu {NARROW} ")), "tracepath {target}: {}", said(&ended));
        ensure!(line.contains(&address), "tracepath {target}: {}", said(&ended));
        Ok(())
    }

    /// Jumbo frames at client and backend, and on the way from the client to the node.
    fn widen_ends(&self) -> anyhow::Result<()> {
        let (lab, backend) = (&self.world.lab, self.backend()?);
        let interfaces = [
            (&lab.client, "eth0"),
            (&lab.switch, "client"),
            (&lab.switch, "node"),
            (&lab.switch, "br0"),
            (&lab.node, UPLINK),
            (&backend.namespace, "eth0"),
        ];
        for (namespace, interface) in interfaces {
            namespace.ip(["link", "set", interface, "mtu", JUMBO])?;
        }
        Ok(())
    }

    /// The client's address of the target's family.
    fn address_of_client(&self, target: IpAddr) -> anyhow::Result<IpAddr> {
        let text = self.client().ip(["-j", "route", "get", &target.to_string()])?;
        let route: Value = serde_json::from_str(&text)?;
        Ok(route[0]["prefsrc"].as_str().with_context(|| format!("the route to {target}: {text}"))?.parse()?)
    }
}

fn served_without_a_load_balancer(sandbox: &Sandbox) -> anyhow::Result<()> {
    let scene = Scene::without_balancer(sandbox, Wiring::default())?;
    scene.world.lab.client.route(PODS.into(), NODE.into())?;
    scene.world.lab.client.route(PODS6.into(), NODE6.into())?;
    scene.check()
}

fn path_mtu_without_a_load_balancer(sandbox: &Sandbox) -> anyhow::Result<()> {
    let wiring = Wiring { hop_mtu: Some(NARROW), ..Wiring::default() };
    Scene::without_balancer(sandbox, wiring)?.check_path_mtu()
}

/// With every offload as it is, then with whole checksums from the senders, then with single frames.
fn served(sandbox: &Sandbox, forwarding: &'static str, hook: &'static str) -> anyhow::Result<()> {
    let setup = Setup { backends: 1, forwarding, hook, ..Setup::default() };
    let (scene, agent) = Scene::with_balancer(sandbox, &setup)?;
    scene.check()?;
    for features in [&["tx"][..], &["tx", "gso", "tso", "gro"]] {
        for feature in features {
            scene.world.lab.offload(feature, false)?;
        }
        scene.check().with_context(|| format!("without {features:?}"))?;
    }
    ensure!(agent.is_running());
    Ok(())
}

/// XDP in the driver of the uplink. Senders compute whole checksums, as they have been when frames come from a wire.
fn served_at_xdp(sandbox: &Sandbox, forwarding: &'static str) -> anyhow::Result<()> {
    let setup = Setup { backends: 1, forwarding, hook: "up0=xdp", ..Setup::default() };
    let (scene, agent) = Scene::with_balancer(sandbox, &setup)?;
    let _switch = xdp_pass::attach(&scene.world.lab.switch, "node")?;
    scene.world.lab.offload("tx", false)?;
    scene.check()?;
    ensure!(agent.is_running());
    let status = scene.world.status()?;
    let interfaces = status["interfaces"].as_array().context("interfaces")?;
    let uplink = interfaces.iter().find(|interface| interface["name"] == UPLINK).context("the uplink")?;
    ensure!(uplink["hook"] == "xdp", "{uplink:#}");
    Ok(())
}

/// Frames that the driver holds in several buffers.
fn served_jumbo_at_xdp(sandbox: &Sandbox) -> anyhow::Result<()> {
    let setup = Setup { backends: 1, hook: "up0=xdp", ..Setup::default() };
    let (scene, _agent) = Scene::with_balancer(sandbox, &setup)?;
    let _switch = xdp_pass::attach(&scene.world.lab.switch, "node")?;
    scene.world.lab.offload("tx", false)?;
    scene.widen_ends()?;
    let node = &scene.world.lab.node;
    for interface in [&*scene.backend()?.port, POD_BRIDGE] {
        node.ip(["link", "set", interface, "mtu", JUMBO])?;
    }
    for target in scene.targets {
        let target = target.to_string();
        // Nine tenths of a frame, and not to be fragmented: it arrives whole or not at all.
        let arguments = ["-n", "-c", "3", "-i", "0.1", "-W", "5", "-M", "do", "-s", "8100", &target];
        let ended = run(scene.client(), "ping", "iputils-ping", &arguments)?;
        ensure!(ended.stdout.contains(" 3 received"), "{}", said(&ended));
    }
    scene.check()
}

/// The endpoint is on another node, as far as the node knows: what it sees of its clients is the node.
fn served_masqueraded(sandbox: &Sandbox, forwarding: &'static str) -> anyhow::Result<()> {
    let setup = Setup { backends: 1, forwarding, masquerade: true, ..Setup::default() };
    let (scene, _agent) = Scene::with_balancer(sandbox, &setup)?;
    scene.check()?;
    for target in scene.targets {
        let session = Session::open(scene.client(), SocketAddr::new(target, scene.tcp))?;
        let peers = run(&scene.backend()?.namespace, "ss", "iproute2", &["-Htn", "state", "established"])?;
        let client = scene.address_of_client(target)?.to_string();
        ensure!(!peers.stdout.contains(&client), "the backend sees {client}: {}", said(&peers));
        drop(session);
    }
    Ok(())
}

/// The client is the balancing host itself.
fn served_the_host(sandbox: &Sandbox, forwarding: &'static str, hook: &'static str) -> anyhow::Result<()> {
    let setup = Setup { backends: 1, forwarding, hook, ..Setup::default() };
    let (mut scene, _agent) = Scene::with_balancer(sandbox, &setup)?;
    scene.from_host = true;
    scene.check()
}

fn served_over(sandbox: &Sandbox, forwarding: &'static str, uplink: Uplink) -> anyhow::Result<()> {
    let wiring = Wiring { uplink, ..Wiring::default() };
    let setup = Setup { backends: 1, forwarding, wiring, ..Setup::default() };
    let (scene, _agent) = match Scene::with_balancer(sandbox, &setup) {
        Err(error) if is_unsupported(&error) => {
            eprintln!("not tested here, {error}");
            return Ok(());
        }
        other => other?,
    };
    scene.check()
}

fn path_mtu(sandbox: &Sandbox, forwarding: &'static str) -> anyhow::Result<()> {
    let wiring = Wiring { hop_mtu: Some(NARROW), ..Wiring::default() };
    let (scene, _agent) =
        Scene::with_balancer(sandbox, &Setup { backends: 1, forwarding, wiring, ..Setup::default() })?;
    scene.check_path_mtu()
}

/// Clients send jumbo frames, several as one where they can, and the pods' network does not carry them.
fn mtu_behind_the_node(sandbox: &Sandbox, forwarding: &'static str) -> anyhow::Result<()> {
    let setup = Setup { backends: 1, forwarding, ..Setup::default() };
    let (scene, _agent) = Scene::with_balancer(sandbox, &setup)?;
    scene.widen_ends()?;
    // A backend that promises to take what does not reach it, and itself sends what does.
    for (family, gateway) in [("-4", IpAddr::V4(GATEWAY)), ("-6", IpAddr::V6(GATEWAY6))] {
        let gateway = gateway.to_string();
        let route =
            [family, "route", "replace", "default", "via", &gateway, "dev", "eth0", "mtu", "1500", "advmss", "8900"];
        scene.backend()?.namespace.ip(route)?;
    }
    for target in scene.targets {
        let address = target.to_string();
        let route = scene.client().ip(["route", "get", &address])?;
        ensure!(!route.contains("mtu"), "the client's route to {target} before anything was sent: {route}");
        let iperf = [family(target), "-c", &address, "--connect-timeout", "10000", "-n", "32M"];
        scene.await_iperf()?;
        let ended = run(scene.client(), "iperf3", "iperf3", &iperf)?;
        ensure!(ended.status.success(), "iperf3 {target}: {}", said(&ended));
        let route = scene.client().ip(["route", "get", &address])?;
        ensure!(route.contains("mtu 1500"), "the client's route to {target}: {route}");
    }
    Ok(())
}

/// Whether the kernel lacks what the lab is made of.
fn is_unsupported(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(evenkeel_lab::Error::Unsupported { .. }))
}

/// What one end of a TCP connection knows of the options in use.
#[derive(Debug)]
struct Agreed {
    /// Of the windows the other end sends, and of its own.
    window_scales: (u8, u8),
}

impl Agreed {
    /// Reads it from `ss`, which has to show SACK and timestamps.
    fn read(namespace: &Namespace, filter: &str) -> anyhow::Result<Self> {
        let ended = run(namespace, "ss", "iproute2", &["-HtinoO", "state", "established", filter])?;
        let words: Vec<&str> = ended.stdout.split_whitespace().collect();
        ensure!(words.contains(&"ts") && words.contains(&"sack"), "{filter}: {}", said(&ended));
        let scales = words.iter().find_map(|word| word.strip_prefix("wscale:")?.split_once(','));
        let (theirs, ours) = scales.with_context(|| format!("no window scaling: {}", said(&ended)))?;
        Ok(Self { window_scales: (theirs.parse()?, ours.parse()?) })
    }
}

fn only_backend(world: &World) -> anyhow::Result<&Backend> {
    world.deployment.backends().next().context("a backend")
}

/// Starts the servers that the service of the world does not have.
fn start_servers(world: &World, backend: &Backend) -> anyhow::Result<Vec<Child>> {
    let mut iperf = Command::new(find_program("iperf3", "iperf3")?);
    iperf.args(["-s", "--forceflush", "-p", &IPERF.target_port.to_string()]);
    let iperf = backend.namespace.spawn(iperf)?;
    iperf.wait_for_output("that it listens", |line| line.contains("listening"), SOON)?;

    let mut dns = Command::new(find_program("dnsmasq", "dnsmasq-base")?);
    dns.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"]);
    dns.args(["--log-facility=-", "--bind-interfaces", "--edns-packet-max=4096"]);
    dns.arg(format!("--pid-file={}", world.directory.path().join("dnsmasq.pid").display()));
    dns.arg(format!("--port={}", DNS.target_port));
    for address in backend.addresses() {
        dns.arg(format!("--listen-address={address}"));
    }
    dns.arg(format!("--host-record={NAME},{A},{AAAA}"));
    dns.arg(format!("--txt-record={NAME}{}", format!(",t{}", "x".repeat(249)).repeat(TXT_STRINGS)));
    let dns = backend.namespace.spawn(dns)?;
    dns.wait_for_log("that it has started", |line| line.contains("started"), SOON)?;
    Ok(vec![iperf, dns])
}

/// The option by which every program is told the family.
fn family(target: IpAddr) -> &'static str {
    if target.is_ipv4() { "-4" } else { "-6" }
}

/// Runs a program in a namespace to its end.
fn run(namespace: &Namespace, program: &str, package: &str, arguments: &[&str]) -> anyhow::Result<Ended> {
    let mut command = Command::new(find_program(program, package)?);
    command.args(arguments);
    world::finish_within(namespace, command, LIMIT)
}

/// How a program ended, for a message.
fn said(ended: &Ended) -> String {
    format!("{}\n{}\n{}", ended.status, ended.stdout, ended.stderr)
}
