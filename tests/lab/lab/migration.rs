//! This version takes over from version 1 of the maps, whose real object carries the traffic before.

use std::{fs, net::IpAddr, path::PathBuf};

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData},
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::FdLink,
        tc::{self, NlOptions, TcAttachOptions, TcHandle},
    },
};
use evenkeel_lab::{
    Sandbox,
    manifests::{Port, Protocol},
    topology::{NODE_NAME, POD_BRIDGE, UPLINK},
};
use evenkeel_loader::{
    Interface, PIN_ROOT,
    v1::{self, map},
};
use evenkeel_maps::{self as maps, TABLE_ROW, UDP_SESSION_DATAGRAMS, Vip, backend_state};
use rustix::fs::{FlockOperation, flock};

use crate::{
    Test,
    client::{self, Exchange, Session},
    lifecycle::Attached,
    uninstall,
    world::{self, HTTP, NODE, STOP, Setup, TCP, UDP, VIP, World, vip},
};

pub(crate) const TESTS: &[Test] = &[
    ("migration::flows_of_version_1_go_on_at_tcx", |sandbox| flows_go_on(sandbox, "tcx")),
    ("migration::flows_of_version_1_go_on_at_clsact", |sandbox| flows_go_on(sandbox, "clsact")),
    ("migration::a_hook_may_change_with_the_version", a_hook_may_change_with_the_version),
    ("migration::what_is_carried_needs_no_manifests", what_is_carried_needs_no_manifests),
    ("migration::an_agent_of_version_1_at_work_is_left_alone", an_agent_at_work_is_left_alone),
    ("migration::a_newer_version_is_not_worked_beside", a_newer_version_is_not_worked_beside),
    ("migration::uninstall_removes_version_1_at_tcx", |sandbox| uninstall_removes_it(sandbox, "tcx")),
    ("migration::uninstall_removes_version_1_at_clsact", |sandbox| uninstall_removes_it(sandbox, "clsact")),
];

/// Long-lived connections: with two backends, they cannot all meet theirs again by chance.
const SESSIONS: usize = 20;
static OBJECT: &[u8] = aya::include_bytes_aligned!("../fixtures/evenkeel-v1.bpf.o");
const INTERFACES: [&str; 2] = [UPLINK, POD_BRIDGE];

/// Connections and a UDP session through version 1, each with the server it met.
struct Flows {
    tcp: Vec<Session>,
    udp: Exchange,
    udp_server: String,
}

impl Flows {
    fn open(world: &World) -> anyhow::Result<Self> {
        let mut tcp = Session::open_many(&world.lab.client, vip(TCP), SESSIONS)?;
        client::echo_all(&mut tcp)?;
        ensure!(tcp.iter().any(|session| session.server != tcp[0].server), "all sessions met one server");
        let udp = Exchange::open(&world.lab.client, vip(UDP))?;
        let udp_server = udp.ask()?;
        for _ in 0..UDP_SESSION_DATAGRAMS {
            ensure!(udp.ask()? == udp_server);
        }
        Ok(Self { tcp, udp, udp_server })
    }

    fn go_on(&mut self) -> anyhow::Result<()> {
        client::echo_all(&mut self.tcp)?;
        let server = self.udp.ask()?;
        ensure!(server == self.udp_server, "the UDP session of {} met {server}", self.udp_server);
        Ok(())
    }
}

fn flows_go_on(sandbox: &Sandbox, hook: &'static str) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup { hook, ..Setup::default() })?;
    start_version_1(&world, hook)?;
    let mut flows = Flows::open(&world)?;
    let before = Attached::of(&world)?;
    before.ensure_one_program(hook)?;

    let agent = world.run()?;
    Attached::of(&world)?.ensure_adopted(&before, hook)?;
    ensure!(!directory(&world, 1).exists(), "version 1 has left pins");
    flows.go_on()?;
    client::get(&world.lab.client, vip(HTTP))?;
    ensure!(client::is_answered(&world.lab.client, VIP)?);
    world.ensure_no_drops()?;

    // And from here on as ever.
    ensure!(agent.terminate(STOP)?.success());
    let _agent = world.run()?;
    flows.go_on()?;
    world.ensure_no_drops()
}

fn a_hook_may_change_with_the_version(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup { hook: "clsact", ..Setup::default() })?;
    start_version_1(&world, "tcx")?;
    let mut flows = Flows::open(&world)?;
    let _agent = world.run()?;
    Attached::of(&world)?.ensure_one_program("clsact")?;
    flows.go_on()?;
    world.ensure_no_drops()
}

/// Frontends, backends and VIPs come over by themselves: the path serves before the manifests are read.
fn what_is_carried_needs_no_manifests(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    start_version_1(&world, "tcx")?;
    let mut flows = Flows::open(&world)?;
    fs::rename(world.manifests.directory(), world.directory.path().join("away"))?;
    let _agent = world.lab.node.spawn(world.balancer.command())?;
    world::eventually("version 1 is replaced", || Ok((!directory(&world, 1).exists()).then_some(())))?;
    flows.go_on()?;
    client::forget_neighbours(&world.lab.client)?;
    client::get(&world.lab.client, vip(HTTP))?;
    Ok(())
}

fn an_agent_at_work_is_left_alone(sandbox: &Sandbox) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    start_version_1(&world, "tcx")?;
    let mut flows = Flows::open(&world)?;
    let before = Attached::of(&world)?;
    let lock = fs::File::open(directory(&world, 1))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;

    ensure_refused(&world, &["another evenkeel drives", "/v1"])?;
    ensure!(Attached::of(&world)? == before, "the refused run changed what is attached");
    ensure!(!directory(&world, maps::SCHEMA_VERSION).exists(), "the refused run has left pins");
    flows.go_on()?;

    drop(lock);
    let _agent = world.run()?;
    flows.go_on()
}

fn a_newer_version_is_not_worked_beside(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (world, agent) = World::start(sandbox, &Setup::default())?;
    let mut sessions = Session::open_many(&world.lab.client, vip(TCP), SESSIONS)?;
    ensure!(agent.terminate(STOP)?.success());
    let newer = directory(&world, maps::SCHEMA_VERSION + 1);
    fs::rename(directory(&world, maps::SCHEMA_VERSION), &newer)?;
    let before = Attached::of(&world)?;

    let remedy = format!("evenkeel uninstall --node {NODE_NAME}");
    ensure_refused(&world, &["a newer evenkeel", &remedy])?;
    ensure!(Attached::of(&world)? == before, "the refused run changed what is attached");
    client::echo_all(&mut sessions)?;

    let done = world.evenkeel(&[&["uninstall"], &NODE[..]].concat())?;
    ensure!(done.status.success(), "{}", done.stderr);
    uninstall::ensure_nothing_left(&world)?;
    let _agent = world.run()?;
    client::get(&world.lab.client, vip(HTTP))?;
    Ok(())
}

fn uninstall_removes_it(sandbox: &Sandbox, hook: &'static str) -> anyhow::Result<()> {
    let world = World::build(sandbox, &Setup::default())?;
    start_version_1(&world, hook)?;
    client::get(&world.lab.client, vip(HTTP))?;
    let done = world.evenkeel(&[&["uninstall"], &NODE[..]].concat())?;
    ensure!(done.status.success(), "{}", done.stderr);
    uninstall::ensure_nothing_left(&world)
}

fn ensure_refused(world: &World, words: &[&str]) -> anyhow::Result<()> {
    let ended = world::finish(&world.lab.node, world.balancer.command())?;
    ensure!(ended.status.code() == Some(1), "{}: {}", ended.status, ended.stderr);
    for word in words {
        ensure!(ended.stderr.contains(word), "{word:?} is not in {}", ended.stderr);
    }
    Ok(())
}

/// The node's pins of a version, as this process sees them.
fn directory(world: &World, version: u32) -> PathBuf {
    world.lab.node.bpffs().join("evenkeel").join(NODE_NAME).join(format!("v{version}"))
}

/// What an agent of version 1 leaves behind: maps filled for the lab's service, programs attached, everything pinned.
fn start_version_1(world: &World, hook: &str) -> anyhow::Result<()> {
    let backends: Vec<[u8; 4]> = world
        .deployment
        .backends()
        .flat_map(|backend| backend.addresses())
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(address.octets()),
            IpAddr::V6(_) => None,
        })
        .collect();
    world.lab.node.enter(|| {
        let pins = PathBuf::from(PIN_ROOT).join(NODE_NAME).join("v1");
        fs::create_dir_all(&pins)?;
        let mut loader = EbpfLoader::new();
        for name in map::ALL {
            loader.map_pin_path(name, pins.join(name));
        }
        loader.map_max_entries(map::FLOWS, 16_384);
        let mut object = loader.load(OBJECT)?;
        // Before the maps are taken out of the object, which closes them in the end.
        for name in ["evenkeel_in", "evenkeel_out"] {
            classifier(&mut object, name)?.load()?;
        }
        fill(&mut object, &backends)?;
        for interface in INTERFACES {
            for (name, direction, pin) in
                [("evenkeel_in", TcAttachType::Ingress, "in"), ("evenkeel_out", TcAttachType::Egress, "out")]
            {
                let program = classifier(&mut object, name)?;
                if hook == "tcx" {
                    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
                    let link = program.attach_with_options(interface, direction, options)?;
                    let link = FdLink::try_from(program.take_link(link)?)?;
                    link.pin(pins.join(format!("link-{interface}-{pin}")))?;
                } else {
                    // There after the first direction.
                    let _ = tc::qdisc_add_clsact(interface);
                    let options = NlOptions { priority: 0xeb, handle: TcHandle::new(0, 0xeb), classid: None };
                    let link = program.attach_with_options(interface, direction, TcAttachOptions::Netlink(options))?;
                    // Dropping the link would remove the filter.
                    std::mem::forget(program.take_link(link)?);
                }
            }
        }
        anyhow::Ok(())
    })??;
    Ok(())
}

fn classifier<'a>(object: &'a mut Ebpf, name: &'static str) -> anyhow::Result<&'a mut SchedClassifier> {
    Ok(object.program_mut(name).context(name)?.try_into()?)
}

fn fill(object: &mut Ebpf, addresses: &[[u8; 4]]) -> anyhow::Result<()> {
    let mut backends: Array<_, v1::Backend> = array(object, map::BACKENDS)?;
    let mut table: Array<_, [u32; TABLE_ROW]> = array(object, map::TABLE)?;
    let mut frontends: HashMap<_, v1::FrontendKey, v1::Frontend> = hash(object, map::FRONTENDS)?;
    for (port, number) in [TCP, HTTP, UDP].into_iter().zip(0_u32..) {
        let frontend = frontend(port);
        let mut slots = Vec::new();
        // Slots and rows as they are after some time, not from the first one on.
        for (address, place) in addresses.iter().zip(0_u32..) {
            let slot = 10 + number * 8 + place;
            let backend = v1::Backend {
                address: *address,
                port: port.target_port.to_be_bytes(),
                state: backend_state::ACTIVE,
                flags: maps::Backend::DIRECT,
                frontend,
                generation: 3,
                pad: 0,
            };
            backends.set(slot, backend, 0)?;
            slots.push(slot);
        }
        let row: [u32; TABLE_ROW] = std::array::from_fn(|index| slots[index % slots.len()]);
        let table_row = 5 + number;
        table.set(table_row, row, 0)?;
        let table_size = u32::try_from(TABLE_ROW)?;
        frontends.insert(frontend, v1::Frontend { table_row, table_size, flags: 0 }, 0)?;
    }
    let mut interfaces: HashMap<_, u32, v1::Interface> = hash(object, map::INTERFACES)?;
    for (name, slot) in INTERFACES.into_iter().zip(0_u8..) {
        let interface = Interface::look_up(name)?;
        interfaces.insert(interface.index, v1::Interface { mac: interface.mac, slot, pad: 0 }, 0)?;
    }
    array::<v1::Settings>(object, map::SETTINGS)?.set(0, v1::Settings { hash_seed: 4711 }, 0)?;
    hash::<[u8; 4], Vip>(object, map::VIPS)?.insert(VIP.octets(), Vip { answer_on: 1 }, 0)?;
    Ok(())
}

fn frontend(port: Port) -> v1::FrontendKey {
    let protocol = if port.protocol == Protocol::Udp { maps::UDP } else { maps::TCP };
    v1::FrontendKey { address: VIP.octets(), port: port.port.to_be_bytes(), protocol, pad: 0 }
}

fn array<V: Pod>(object: &mut Ebpf, name: &'static str) -> anyhow::Result<Array<MapData, V>> {
    Ok(object.take_map(name).context(name)?.try_into()?)
}

fn hash<K: Pod, V: Pod>(object: &mut Ebpf, name: &'static str) -> anyhow::Result<HashMap<MapData, K, V>> {
    let map: Map = object.take_map(name).context(name)?;
    Ok(map.try_into()?)
}
