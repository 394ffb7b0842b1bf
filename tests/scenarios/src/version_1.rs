//! What an agent of version 1 leaves behind: its real object attached and pinned, its maps filled.

use std::{collections::BTreeMap, fs, net::Ipv4Addr, path::PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData},
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
};
use evenkeel_lab::{
    Namespace,
    manifests::{Port, Protocol},
    topology::{NODE_NAME, VIP_POOL},
};
use evenkeel_loader::{
    Interface, PIN_ROOT,
    v1::{self, map},
};
use evenkeel_maps::{self as maps, TABLE_ROW, Vip, backend_state};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../fixtures/evenkeel-v1.bpf.o");
const VIP: Ipv4Addr = VIP_POOL.0;

/// Serves these ports of the first address of the pool at these interfaces, by `tcx` or by clsact.
///
/// # Errors
/// What the kernel or the object refused.
pub fn start(node: &Namespace, ports: &[Port], backends: &[Ipv4Addr], interfaces: &[&str], hook: &str) -> Result<()> {
    node.enter(|| {
        let (pins, mut object) = load()?;
        fill(&mut object, ports, backends, interfaces)?;
        for interface in interfaces {
            for (name, direction, pin) in PLACES {
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
        Ok(())
    })?
}

/// Goes on with what was handed back, at tcx: its programs take the place of those in the pinned links, as its agent's do.
///
/// # Errors
/// What the kernel or the object refused, or a map that is not as it is to be.
pub fn adopt(node: &Namespace, interfaces: &[&str]) -> Result<()> {
    node.enter(|| {
        let (pins, mut object) = load()?;
        for name in map::ALL {
            let definition = MapData::from_pin(pins.join(name))?.info()?;
            let own = object.map(name).context(name)?;
            let (Map::HashMap(own) | Map::LruHashMap(own) | Map::Array(own) | Map::PerCpuArray(own)) = own else {
                bail!("{name} is of another type");
            };
            let own = own.info()?;
            ensure!(own.id() == definition.id(), "{name} is another map than the pinned one");
        }
        for interface in interfaces {
            for (name, _, pin) in PLACES {
                let link = FdLink::from(PinnedLink::from_pin(pins.join(format!("link-{interface}-{pin}")))?);
                let program = classifier(&mut object, name)?;
                let id = program.attach_to_link(SchedClassifierLink::try_from(link)?)?;
                // The pin holds the link.
                drop(FdLink::try_from(program.take_link(id)?)?);
            }
        }
        Ok(())
    })?
}

/// Type, sizes of key and value, entries and flags of each pinned map.
///
/// # Errors
/// When one is not there.
pub fn layouts(node: &Namespace) -> Result<BTreeMap<&'static str, [u32; 5]>> {
    node.enter(|| {
        let layout = |name| {
            let info = MapData::from_pin(PathBuf::from(PIN_ROOT).join(NODE_NAME).join("v1").join(name))?.info()?;
            let kind = info.map_type()? as u32;
            Ok((name, [kind, info.key_size(), info.value_size(), info.max_entries(), info.map_flags()]))
        };
        map::ALL.into_iter().map(layout).collect()
    })?
}

const PLACES: [(&str, TcAttachType, &str); 2] =
    [("evenkeel_in", TcAttachType::Ingress, "in"), ("evenkeel_out", TcAttachType::Egress, "out")];

/// Its object on the pinned maps, with its programs loaded.
fn load() -> Result<(PathBuf, Ebpf)> {
    let pins = PathBuf::from(PIN_ROOT).join(NODE_NAME).join("v1");
    fs::create_dir_all(&pins)?;
    let mut loader = EbpfLoader::new();
    for name in map::ALL {
        loader.map_pin_path(name, pins.join(name));
    }
    loader.map_max_entries(map::FLOWS, 16_384);
    let mut object = loader.load(OBJECT)?;
    // Before the maps are taken out of the object, which closes them in the end.
    for (name, ..) in PLACES {
        classifier(&mut object, name)?.load()?;
    }
    Ok((pins, object))
}

fn classifier<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier> {
    Ok(object.program_mut(name).context(name)?.try_into()?)
}

fn fill(object: &mut Ebpf, ports: &[Port], addresses: &[Ipv4Addr], interfaces: &[&str]) -> Result<()> {
    let mut backends: Array<_, v1::Backend> = array(object, map::BACKENDS)?;
    let mut table: Array<_, [u32; TABLE_ROW]> = array(object, map::TABLE)?;
    let mut frontends: HashMap<_, v1::FrontendKey, v1::Frontend> = hash(object, map::FRONTENDS)?;
    for (port, number) in ports.iter().zip(0_u32..) {
        let frontend = frontend(*port);
        let mut slots = Vec::new();
        // Slots and rows as they are after some time, not from the first one on.
        for (address, place) in addresses.iter().zip(0_u32..) {
            let slot = 10 + number * 8 + place;
            let backend = v1::Backend {
                address: address.octets(),
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
    let mut known: HashMap<_, u32, v1::Interface> = hash(object, map::INTERFACES)?;
    for (name, slot) in interfaces.iter().zip(0_u8..) {
        let interface = Interface::look_up(name)?;
        known.insert(interface.index, v1::Interface { mac: interface.mac, slot, pad: 0 }, 0)?;
    }
    array::<v1::Settings>(object, map::SETTINGS)?.set(0, v1::Settings { hash_seed: 4711 }, 0)?;
    hash::<[u8; 4], Vip>(object, map::VIPS)?.insert(VIP.octets(), Vip { answer_on: 1 }, 0)?;
    Ok(())
}

fn frontend(port: Port) -> v1::FrontendKey {
    let protocol = if port.protocol == Protocol::Udp { maps::UDP } else { maps::TCP };
    v1::FrontendKey { address: VIP.octets(), port: port.port.to_be_bytes(), protocol, pad: 0 }
}

fn array<V: Pod>(object: &mut Ebpf, name: &'static str) -> Result<Array<MapData, V>> {
    Ok(object.take_map(name).context(name)?.try_into()?)
}

fn hash<K: Pod, V: Pod>(object: &mut Ebpf, name: &'static str) -> Result<HashMap<MapData, K, V>> {
    let map: Map = object.take_map(name).context(name)?;
    Ok(map.try_into()?)
}
