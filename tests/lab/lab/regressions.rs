//! Defects found once, each by what it did to a packet.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io, iter,
    net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket},
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use evenkeel_lab::{
    Sandbox,
    deployment::SERVICE_FILE,
    topology::{CLIENT, GATEWAY, NODE, POD_BRIDGE, Standard, UPLINK},
};
use evenkeel_loader::{BackendSpec, DataPath, FrontendSpec, HookChoice, Interface, Options, Others, Program, State};
use evenkeel_maps::{MAX_FRONTENDS, Outcome, TABLE_ROW, TABLE_ROWS, TCP, UDP, Vip};
use ipnet::IpNet;

use evenkeel_plan::world::Forwarding;
use evenkeel_sources::directory::Update;
use tokio_util::sync::CancellationToken;

use crate::{
    Test,
    client::{self, Session},
    frames::{self, Macs},
    packets::{self, VIP, bench, key, vip},
    world::{self, HTTP, SOON, Setup, World, vip6},
};

pub(crate) const TESTS: &[Test] = &[
    ("regressions::a_former_backend_does_not_close_the_new_connection", a_former_backend_does_not_close_the_new_one),
    ("regressions::a_stale_neighbour_is_resolved_again", a_stale_neighbour_is_resolved_again),
    ("regressions::a_restart_needs_no_room_for_a_second_copy", a_restart_needs_no_room_for_a_second_copy),
    (
        "regressions::a_frontend_that_was_never_carried_leaves_no_slots",
        a_frontend_that_was_never_carried_leaves_no_slots,
    ),
    ("regressions::a_frontend_too_many_is_refused_alone", a_frontend_too_many_is_refused_alone),
    ("regressions::an_agent_outlives_its_source", an_agent_outlives_its_source),
    ("regressions::an_interface_keeps_its_bit", an_interface_keeps_its_bit),
    ("regressions::a_switch_turns_nobody_away", a_switch_turns_nobody_away),
    ("regressions::flows_keep_the_address_that_stands_for_their_client", flows_keep_their_source),
    ("regressions::an_agent_follows_the_addresses_of_its_node", an_agent_follows_the_addresses_of_its_node),
];

/// The client reuses its port, the new connection meets another backend, and the former one resets the old connection.
fn a_former_backend_does_not_close_the_new_one(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        bench.frontend(key(80, TCP), true, &[State::Active, State::Drain])?;
        let old = bench.pick(TCP, 1, 100)?;
        bench.frontend(key(80, TCP), true, &[State::Drain, State::Active])?;
        let new = bench.pick(TCP, 1, 200)?;
        ensure!(old != new, "the connection was to move");
        bench.run(Program::Egress, &frames::tcp(bench.macs, old, packets::client(1), 9, "R"))?;
        let uses = bench.data_path.backend_uses();
        let flows = uses.get(&(key(80, TCP), new.into())).map(|use_of| use_of.flows);
        ensure!(flows == Some(1), "the new connection counts as closed: {uses:?}");
        Ok(())
    })
}

/// A backend's hardware address changes without a word. The kernel's neighbour table finds out by using the entry;
/// packets that only read it would go to the old address for good.
fn a_stale_neighbour_is_resolved_again(sandbox: &Sandbox) -> anyhow::Result<()> {
    let lab = Standard::with_backends(sandbox, 1)?;
    let backend = &lab.backends()[0];
    let address = backend.address.to_string();
    for (setting, value) in [("delay_first_probe_time", "1"), ("retrans_time_ms", "100")] {
        lab.node.sysctl(&format!("net.ipv4.neigh.{POD_BRIDGE}.{setting}"), value)?;
    }
    let server = backend.namespace.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 8080)))??;
    let client = lab.client.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    server.set_read_timeout(Some(Duration::from_millis(100)))?;
    let data_path = lab.node.enter(|| -> anyhow::Result<DataPath> {
        let mut data_path = DataPath::open(&Options::new("stale-neighbour", 7))?;
        data_path.attach(&[Interface::look_up(UPLINK)?, Interface::look_up(POD_BRIDGE)?])?;
        let failures = data_path.set_frontends(
            &[FrontendSpec {
                key: key(80, UDP),
                source_affinity: false,
                direct: true,
                backends: vec![BackendSpec::new(SocketAddrV4::new(backend.address, 8080).into(), State::Active)],
                table: vec![0; 251],
                ..FrontendSpec::new(key(0, TCP))
            }],
            Others::Remove,
            Instant::now(),
        );
        ensure!(failures.is_empty(), "{failures:?}");
        data_path.set_vips(&HashMap::from([(VIP.into(), Vip { answer_on: 1 })]), Others::Remove)?;
        Ok(data_path)
    })??;
    let arrives = || -> anyhow::Result<bool> {
        client.send_to(b"question", vip(80))?;
        match server.recv(&mut [0; 16]) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(false),
            Err(error) => Err(error.into()),
        }
    };
    let eventually = || -> anyhow::Result<bool> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            if arrives()? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    ensure!(eventually()?, "nothing arrives at all");
    lab.node
        .ip(["neigh", "replace", &address, "lladdr", "02:00:00:00:00:99", "dev", POD_BRIDGE, "nud", "stale"])
        .context("spoil the neighbour entry")?;
    let found = eventually()?;
    lab.node.enter(|| data_path.uninstall())??;
    ensure!(found, "the packets still go to the old hardware address");
    Ok(())
}

/// Tables that fill more than half of the table map, and an agent that starts anew.
fn a_restart_needs_no_room_for_a_second_copy(sandbox: &Sandbox) -> anyhow::Result<()> {
    let lab = Standard::with_backends(sandbox, 0)?;
    lab.node.enter(|| {
        let address = SocketAddrV4::new(Ipv4Addr::new(10, 77, 1, 11), 8080);
        let specs: Vec<FrontendSpec> = (0..3)
            .map(|port| FrontendSpec {
                key: key(port, TCP),
                source_affinity: false,
                direct: true,
                backends: vec![BackendSpec::new(address.into(), State::Active)],
                table: vec![0; TABLE_ROWS * TABLE_ROW / 4],
                ..FrontendSpec::new(key(0, TCP))
            })
            .collect();
        let options = Options::new("restart", 7);
        for start in ["first", "second"] {
            let failures = open_again(&options)?.set_frontends(&specs, Others::Remove, Instant::now());
            ensure!(failures.is_empty(), "{start} start: {failures:?}");
        }
        Ok(open_again(&options)?.uninstall()?)
    })?
}

/// A program that another test is just starting can hold a copy of the lock for a moment, until it is executed.
fn open_again(options: &Options) -> anyhow::Result<DataPath> {
    let start = Instant::now();
    loop {
        match DataPath::open(options) {
            Err(evenkeel_loader::Error::Locked(_)) if start.elapsed() < Duration::from_secs(20) => {
                std::thread::yield_now();
            }
            opened => return Ok(opened?),
        }
    }
}

/// A frontend whose table never fitted is given up; its backends must not keep their slots.
fn a_frontend_that_was_never_carried_leaves_no_slots(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        let backend = BackendSpec::new(SocketAddrV4::new(bench.backends[0], 8080).into(), State::Active);
        let table = vec![0; TABLE_ROWS * TABLE_ROW + 1];
        let spec = FrontendSpec {
            key: key(80, TCP),
            source_affinity: false,
            direct: true,
            backends: vec![backend],
            table,
            ..FrontendSpec::new(key(0, TCP))
        };
        let failures = bench.data_path.set_frontends(&[spec], Others::Remove, Instant::now());
        ensure!(failures.len() == 1 && !bench.data_path.carries(key(80, TCP)), "{failures:?}");
        bench.apply(&[])?;
        bench.data_path.reap();
        let left = bench.data_path.backend_uses();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

/// One frontend more than the maps have room for: the others are carried, and the error says what that is about.
fn a_frontend_too_many_is_refused_alone(sandbox: &Sandbox) -> anyhow::Result<()> {
    bench(sandbox, |bench| {
        let last = u16::try_from(MAX_FRONTENDS + 1)?;
        let specs: Vec<FrontendSpec> = (1..=last).map(|port| FrontendSpec::new(key(port, TCP))).collect();
        let failures = bench.data_path.set_frontends(&specs, Others::Remove, Instant::now());
        let [(refused, error)] = &failures[..] else { anyhow::bail!("{} are refused", failures.len()) };
        ensure!(error.to_string().contains(&format!("made for {MAX_FRONTENDS}")), "{error}");
        ensure!(!bench.data_path.carries(*refused) && bench.data_path.carries(key(1, TCP)), "{refused:?}");
        bench.apply(&[])
    })
}

/// Whoever watches the manifests ends before the agent does.
fn an_agent_outlives_its_source(sandbox: &Sandbox) -> anyhow::Result<()> {
    let lab = Standard::with_backends(sandbox, 0)?;
    let directory = tempfile::tempdir()?;
    let config = evenkeel_agent::Config {
        load_balancer_class: None,
        ignore_exclude_label: false,
        node: "outlives".to_owned(),
        interfaces: vec![UPLINK.to_owned()],
        state_directory: directory.path().join("state"),
        admin_socket: directory.path().join("admin.sock"),
        hooks: HookChoice::default(),
        mode: None,
        sources: Vec::new(),
        source_ports: 61_000..=65_535,
        defaults: evenkeel_agent::desired::Defaults { forwarding: Forwarding::Direct, masquerade: false },
        flows: None,
        rescue: true,
        drain: evenkeel_agent::drain::Terms {
            file: directory.path().join("drain"),
            shutdown_timeout: std::time::Duration::ZERO,
        },
        hash_seed: 7,
        health_check_node_ports: false,
        cluster: None,
        listen: None,
        detach: true,
    };
    let socket = config.admin_socket.clone();
    lab.node.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let update = Update {
                world: Arc::default(),
                diagnostics: Arc::new([]),
                whereabouts: evenkeel_sources::catalog::Whereabouts::default(),
                readable: true,
                observed: evenkeel_sources::kubernetes::Observed::default(),
                noticed: evenkeel_sources::Noticed::default(),
            };
            let (source, updates) = tokio::sync::watch::channel(update);
            let shutdown = CancellationToken::new();
            let (ready, is_ready) = tokio::sync::oneshot::channel();
            let agent = evenkeel_agent::run(config, updates, shutdown.clone(), || {
                let _ = ready.send(());
            });
            let story = async {
                is_ready.await.context("the agent ended")?;
                drop(source);
                // More than once: the loop may come to the question before it comes to the end of the source.
                for _ in 0..20 {
                    let asked = evenkeel_process::admin::get(&socket, evenkeel_agent::status::PATH);
                    tokio::time::timeout(Duration::from_secs(20), asked).await.context("no status")??;
                }
                anyhow::Ok(())
            };
            let (ended, told) = tokio::join!(agent, async {
                let told = story.await;
                shutdown.cancel();
                told
            });
            ended?;
            told
        })
    })?
}

/// A VIP is limited to one of two interfaces, and the agent starts anew with the interfaces in another order.
fn an_interface_keeps_its_bit(sandbox: &Sandbox) -> anyhow::Result<()> {
    let lab = Standard::with_backends(sandbox, 0)?;
    lab.node.enter(|| {
        let options = Options::new("order", 7);
        let (uplink, pods) = (Interface::look_up(UPLINK)?, Interface::look_up(POD_BRIDGE)?);
        {
            let mut before = open_again(&options)?;
            before.attach(&[uplink.clone(), pods.clone()])?;
            before.set_vips(
                &HashMap::from([(VIP.into(), Vip { answer_on: before.answer_bit(&uplink) })]),
                Others::Remove,
            )?;
        }
        let mut after = open_again(&options)?;
        let request = frames::arp_request(([2, 0, 0, 0, 0, 1], *packets::client(1).ip()), VIP);
        for interfaces in
            [&[pods.clone(), uplink.clone()][..], std::slice::from_ref(&uplink), &[pods.clone(), uplink.clone()]]
        {
            after.attach(interfaces)?;
            let answered = |after: &mut DataPath, interface: &Interface| -> anyhow::Result<bool> {
                Ok(after.run_once(Program::Ingress, interface.index, &request)?.0 != -1)
            };
            ensure!(answered(&mut after, &uplink)?, "silent where it should answer: {interfaces:?}");
            ensure!(!answered(&mut after, &pods)?, "answered on the wrong interface: {interfaces:?}");
        }
        Ok(after.uninstall()?)
    })?
}

/// One backend takes the other's place, and the source ranges come and go, again and again while clients connect. A large table
/// and many ranges take long to write.
fn a_switch_turns_nobody_away(sandbox: &Sandbox) -> anyhow::Result<()> {
    const SWITCHES: usize = 60;
    const BETWEEN_SWITCHES: u64 = 2_000;
    let lab = Standard::with_backends(sandbox, 2)?;
    for backend in lab.backends() {
        let address = backend.address.to_string();
        lab.node.ip(["neigh", "replace", &address, "lladdr", "02:00:00:00:00:01", "dev", POD_BRIDGE])?;
    }
    let spec = |number: usize| {
        let states =
            if number.is_multiple_of(2) { [State::Active, State::Drain] } else { [State::Drain, State::Active] };
        let backends = lab.backends().iter().zip(states);
        let others = (0..200).map(|last| IpNet::from(IpAddr::from([192, 0, 2, last])));
        let ranges = iter::once(IpNet::from(IpAddr::from(CLIENT))).chain(others);
        FrontendSpec {
            direct: true,
            source_ranges: if number.is_multiple_of(2) { ranges.collect() } else { Vec::new() },
            backends: backends
                .map(|(backend, state)| BackendSpec::new(SocketAddrV4::new(backend.address, 8080).into(), state))
                .collect(),
            table: vec![u32::from(!number.is_multiple_of(2)); 65_521],
            ..FrontendSpec::new(key(80, TCP))
        }
    };
    let mut data_path = lab.node.enter(|| -> anyhow::Result<DataPath> {
        let mut data_path = DataPath::open(&Options { rescue_tries: 0, ..Options::new("switch", 7) })?;
        data_path.attach(&[Interface::look_up(UPLINK)?])?;
        let failures = data_path.set_frontends(&[spec(0)], Others::Remove, Instant::now());
        ensure!(failures.is_empty(), "{failures:?}");
        data_path.set_vips(&HashMap::from([(VIP.into(), Vip { answer_on: 1 })]), Others::Remove)?;
        Ok(data_path)
    })??;
    let uplink = lab.node.enter(|| Interface::look_up(UPLINK))??;
    let from = lab.client.enter(|| Interface::look_up("eth0"))??;
    let socket = client::open(&lab.client, 0)?;
    let (sent, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let switched = thread::scope(|scope| -> anyhow::Result<()> {
        let connects = scope.spawn(|| -> anyhow::Result<()> {
            // Each a connection of its own: what is sent again follows its flow.
            for (sequence, port) in (1..).zip((1024..=u16::MAX).cycle()) {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let frame = frames::tcp(Macs(from.mac, uplink.mac), packets::client(port), vip(80), sequence, "S");
                client::send(&socket, from.index.cast_signed(), &frame)?;
                sent.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let switched = lab.node.enter(|| {
            (1..=SWITCHES).try_for_each(|number| {
                let until = sent.load(Ordering::Relaxed) + BETWEEN_SWITCHES;
                while sent.load(Ordering::Relaxed) < until && !connects.is_finished() {
                    thread::yield_now();
                }
                let failures = data_path.set_frontends(&[spec(number)], Others::Remove, Instant::now());
                ensure!(failures.is_empty(), "{failures:?}");
                Ok(())
            })
        });
        is_over.store(true, Ordering::Relaxed);
        let sends = connects.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        switched??;
        sends
    });
    let counters: HashMap<Outcome, u64> = data_path.counters()?.into_iter().filter(|(_, count)| *count > 0).collect();
    lab.node.enter(|| data_path.uninstall())??;
    switched?;
    for refusal in [Outcome::DropNoBackend, Outcome::DropSourceRange] {
        ensure!(!counters.contains_key(&refusal), "{counters:?}");
    }
    ensure!(counters.get(&Outcome::ForwardNew) > Some(&BETWEEN_SWITCHES), "{counters:?}");
    Ok(())
}

/// Addresses of the node come and go, with a restart and without one.
fn flows_keep_their_source(sandbox: &Sandbox) -> anyhow::Result<()> {
    let lab = Standard::with_backends(sandbox, 1)?;
    let backend = lab.backends()[0].address;
    lab.node.ip(["neigh", "replace", &backend.to_string(), "lladdr", "02:00:00:00:00:01", "dev", POD_BRIDGE])?;
    lab.node.enter(|| {
        let [first, second, third] = [3, 4, 5].map(|last| Ipv4Addr::new(10, 77, 0, last));
        let uplink = Interface::look_up(UPLINK)?;
        let open = |sources: &[Ipv4Addr]| -> anyhow::Result<DataPath> {
            let sources = sources.iter().copied().map(IpAddr::from).collect();
            let mut data_path = open_again(&Options { sources, ..Options::new("sources", 7) })?;
            data_path.attach(std::slice::from_ref(&uplink))?;
            let spec = FrontendSpec {
                direct: true,
                rewrite_source: true,
                backends: vec![BackendSpec::new(SocketAddrV4::new(backend, 8080).into(), State::Active)],
                table: vec![0; 251],
                ..FrontendSpec::new(key(80, TCP))
            };
            let failures = data_path.set_frontends(&[spec], Others::Remove, Instant::now());
            ensure!(failures.is_empty(), "{failures:?}");
            Ok(data_path)
        };
        let macs = Macs([2, 0, 0, 0, 0, 1], uplink.mac);
        let source = |data_path: &mut DataPath, port: u16, flags: &str| -> anyhow::Result<Ipv4Addr> {
            let frame = frames::tcp(macs, packets::client(port), vip(80), 1, flags);
            let (_, frame) = data_path.run_once(Program::Ingress, uplink.index, &frame)?;
            Ok(*frames::read(&frame)?.source.ip())
        };
        let of_new = |data_path: &mut DataPath, ports: RangeInclusive<u16>| -> anyhow::Result<BTreeSet<Ipv4Addr>> {
            ports.map(|port| source(data_path, port, "S")).collect()
        };
        let ensure_kept = |data_path: &mut DataPath, wanted: &[(u16, Ipv4Addr)]| -> anyhow::Result<()> {
            for (port, address) in wanted {
                let seen = source(data_path, *port, "A")?;
                ensure!(seen == *address, "the flow from port {port} leaves from {seen}, not {address}");
            }
            Ok(())
        };
        {
            let mut data_path = open(&[second])?;
            ensure!(source(&mut data_path, 1, "S")? == second);
        }
        {
            let mut data_path = open(&[first, second])?;
            ensure_kept(&mut data_path, &[(1, second)])?;
            ensure!(of_new(&mut data_path, 100..=160)? == BTreeSet::from([first, second]));
        }
        let mut data_path = open(&[first])?;
        ensure_kept(&mut data_path, &[(1, second)])?;
        ensure!(of_new(&mut data_path, 2..=60)? == BTreeSet::from([first]));
        // Without a restart; what is gone for a moment is nobody's.
        for wanted in [&[] as &[Ipv4Addr], &[third]] {
            let wanted: Vec<IpAddr> = wanted.iter().copied().map(IpAddr::from).collect();
            data_path.set_sources(&wanted)?;
            ensure_kept(&mut data_path, &[(1, second), (2, first)])?;
        }
        ensure!(of_new(&mut data_path, 200..=260)? == BTreeSet::from([third]));
        data_path.set_sources(&[first.into(), second.into(), third.into()])?;
        ensure_kept(&mut data_path, &[(1, second), (2, first), (200, third)])?;
        Ok(data_path.uninstall()?)
    })?
}

/// The agent starts before the node has an address that could stand for a client's.
fn an_agent_follows_the_addresses_of_its_node(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    let service = fs::read_to_string(world.manifests.directory().join(SERVICE_FILE))?;
    let rewritten = "  annotations:\n    evenkeel.io/source-address: rewrite\n";
    world.manifests.write(SERVICE_FILE, &service.replacen("  annotations:\n", rewritten, 1))?;
    let of_ipv4 = [(UPLINK, NODE), (POD_BRIDGE, GATEWAY)];
    for (interface, address) in of_ipv4 {
        world.lab.node.ip(["address", "del", &format!("{address}/24"), "dev", interface])?;
    }
    let agent = world.run()?;
    let mut of_ipv6 = Session::open(&world.lab.client, vip6(world::TCP))?;
    for (interface, address) in of_ipv4 {
        world.lab.node.address(interface, format!("{address}/24").parse()?)?;
    }
    world::eventually("clients are served", || Ok(client::get(&world.lab.client, world::vip(HTTP)).ok().map(drop)))?;
    let mut session = Session::open(&world.lab.client, world::vip(world::TCP))?;
    // One that comes first in every list.
    world.lab.node.address(UPLINK, "10.77.0.1/24".parse()?)?;
    let has_noticed = |line: &str| line.contains("the node's addresses have changed") && line.contains("10.77.0.1,");
    agent.wait_for_log("the new address", has_noticed, SOON)?;
    session.echo()?;
    of_ipv6.echo()
}
