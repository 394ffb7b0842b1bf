//! The data plane of one node: maps, programs, and the order in which they change.

use std::{
    collections::{HashMap as StdHashMap, HashSet},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsFd as _,
    time::Instant,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
};
use evenkeel_maps::{
    self as maps, Backend, DEFAULT_FLOW_ENTRIES, Flow, FlowKey, Frontend, FrontendKey, MAX_BACKENDS, MAX_INTERFACES,
    Outcome, Settings, TABLE_ROW, TABLE_ROWS, UDP, Vip, direction, map,
};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    Error, OBJECT, batch,
    hook::{self, Hook, HookChoice, Interface},
    pins::{self, Pins},
    preflight::Preflight,
    shared::SharedArray,
    slots::{self, Slots},
    spec::FrontendSpec,
    tables::{Rows, Tables},
};

/// How to open a data plane.
#[derive(Clone, Debug)]
pub struct Options {
    /// Node name: which pins.
    pub node: String,
    /// Which hook.
    pub hook: HookChoice,
    /// Entries of the flow table when it is made anew; an adopted one keeps its size. A connection takes two.
    pub flow_entries: u32,
    /// Seed of the flow hash when none is set yet; not zero.
    pub hash_seed: u64,
}

impl Options {
    /// Defaults for `node`.
    #[must_use]
    pub fn new(node: &str, hash_seed: u64) -> Self {
        let flow_entries = u32::try_from(DEFAULT_FLOW_ENTRIES).unwrap_or(u32::MAX);
        Self { node: node.to_owned(), hook: HookChoice::Auto, flow_entries, hash_seed: hash_seed.max(1) }
    }
}

/// Which way a frame crosses an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Arriving.
    Ingress,
    /// Leaving.
    Egress,
}

/// What to do with what is carried but not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// Remove it.
    Remove,
    /// Leave it in place: what is wanted is known to be incomplete.
    Keep,
}

/// Live flows of the backends of this node, by frontend and backend address.
pub type BackendFlows = StdHashMap<(FrontendKey, SocketAddrV4), u64>;

/// The data plane of one node. Dropping it leaves the packets flowing.
pub struct DataPath {
    object: Ebpf,
    pins: Pins,
    hook: Hook,
    frontends: HashMap<MapData, FrontendKey, Frontend>,
    vips: HashMap<MapData, [u8; 4], Vip>,
    interfaces: HashMap<MapData, u32, maps::Interface>,
    counters: PerCpuArray<MapData, u64>,
    flows: MapData,
    slots: Slots<SharedArray<Backend>>,
    tables: Tables<SharedArray<[u32; TABLE_ROW]>>,
    /// Bits in [`Vip::answer_on`] by interface index.
    bits: StdHashMap<u32, u32>,
    /// What the frontends map holds.
    carried: StdHashMap<FrontendKey, Frontend>,
    /// What this process has put there; after a restart every frontend is looked at once more.
    applied: StdHashMap<FrontendKey, FrontendSpec>,
}

impl DataPath {
    /// Loads the programs on the node's pinned maps, making those that do not exist.
    ///
    /// # Errors
    /// [`Error::Preflight`] names what the machine lacks; [`Error::Locked`] that another process drives this node.
    pub fn open(options: &Options) -> Result<Self, Error> {
        pins::ensure_bpffs();
        let machine = Preflight::look();
        let problems = machine.problems(options.hook);
        if !problems.is_empty() {
            return Err(Error::Preflight(problems));
        }
        let (hook, why) = options.hook.choose(&machine);
        tracing::info!(hook = hook.name(), why, "chose the hook");
        let pins = Pins::lock(&options.node)?;
        let mut loader = EbpfLoader::new();
        for name in map::ALL {
            loader.map_pin_path(name, pins.map(name));
        }
        loader.map_max_entries(map::FLOWS, options.flow_entries);
        let mut object = loader.load(OBJECT)?;
        hook::load_programs(&mut object)?;

        let frontends: HashMap<_, FrontendKey, Frontend> = take(&mut object, map::FRONTENDS)?;
        let carried: StdHashMap<_, _> = frontends.iter().flatten().collect();
        let backends = shared(&mut object, map::BACKENDS, MAX_BACKENDS)?;
        let table = shared(&mut object, map::TABLE, TABLE_ROWS)?;
        let counters: PerCpuArray<MapData, u64> = take(&mut object, map::COUNTERS)?;
        if counters.len() as usize != Outcome::COUNT {
            return Err(Error::OtherLayout(map::COUNTERS));
        }
        seed(&mut object, options.hash_seed)?;
        Ok(Self {
            pins,
            hook,
            vips: take(&mut object, map::VIPS)?,
            interfaces: take(&mut object, map::INTERFACES)?,
            counters,
            flows: data(&mut object, map::FLOWS)?,
            slots: Slots::adopt(backends),
            tables: Tables::adopt(table, carried.values().map(rows)),
            bits: StdHashMap::new(),
            frontends,
            carried,
            applied: StdHashMap::new(),
            object,
        })
    }

    /// The hook in use.
    #[must_use]
    pub const fn hook(&self) -> Hook {
        self.hook
    }

    /// Attaches to these interfaces and to no others.
    ///
    /// # Errors
    /// When a program cannot be attached; what was attached stays.
    pub fn attach(&mut self, interfaces: &[Interface]) -> Result<(), Error> {
        if interfaces.len() > MAX_INTERFACES {
            return Err(Error::TooManyInterfaces);
        }
        let former: StdHashMap<u32, u32> =
            self.interfaces.iter().flatten().map(|(index, interface)| (index, 1 << (interface.slot & 31))).collect();
        self.bits = answer_bits(interfaces, &former);
        for interface in interfaces {
            let slot = u8::try_from(self.answer_bit(interface).trailing_zeros()).unwrap_or(u8::MAX);
            let value = maps::Interface { mac: interface.mac, slot, pad: 0 };
            self.interfaces.insert(interface.index, value, 0).map_err(map_error(map::INTERFACES))?;
            hook::attach(&mut self.object, &self.pins, interface, self.hook)?;
        }
        let former: Vec<u32> = former.into_keys().collect();
        hook::detach_others(&self.pins, interfaces, &former)?;
        for index in former.into_iter().filter(|index| interfaces.iter().all(|interface| interface.index != *index)) {
            let _ = self.interfaces.remove(&index);
        }
        Ok(())
    }

    /// The bit of an attached interface in [`Vip::answer_on`]; zero for any other. An interface keeps its bit while it is
    /// attached, across restarts and whatever its place in the list, because the VIPs in the map are in force meanwhile.
    #[must_use]
    pub fn answer_bit(&self, interface: &Interface) -> u32 {
        self.bits.get(&interface.index).copied().unwrap_or(0)
    }

    /// Carries these frontends. Those that could not be brought up to date are returned with the reason: try again later,
    /// when rows and slots that are still in use have come free. One that is carried already goes on as it was
    /// ([`Self::carries`]); the VIP of one that is not must not be announced. What did not change is not touched.
    pub fn set_frontends(
        &mut self,
        wanted: &[FrontendSpec],
        others: Others,
        now: Instant,
    ) -> Vec<(FrontendKey, Error)> {
        let mut failures = Vec::new();
        for spec in wanted {
            if self.applied.get(&spec.key) != Some(spec)
                && let Err(error) = self.set_frontend(spec, now)
            {
                failures.push((spec.key, error));
            }
        }
        if others == Others::Keep {
            return failures;
        }
        let wanted: HashSet<FrontendKey> = wanted.iter().map(|spec| spec.key).collect();
        let gone: Vec<FrontendKey> = self.carried.keys().filter(|key| !wanted.contains(key)).copied().collect();
        for key in gone {
            if let Err(error) = self.remove_frontend(key, now) {
                failures.push((key, error));
            }
        }
        // Slots of a frontend that was never carried: its table did not fit, or an earlier process ended in between.
        let orphans: Vec<FrontendKey> =
            self.slots.frontends().filter(|key| !wanted.contains(key) && !self.carried.contains_key(key)).collect();
        for key in orphans {
            self.slots.bury_others(key, &[]);
        }
        failures
    }

    /// Whether this frontend's packets are balanced, if not necessarily by its newest table.
    #[must_use]
    pub fn carries(&self, frontend: FrontendKey) -> bool {
        self.carried.contains_key(&frontend)
    }

    /// Carries one frontend: backends first, then the table beside the old one, then the switch.
    fn set_frontend(&mut self, spec: &FrontendSpec, now: Instant) -> Result<(), Error> {
        let flags = if spec.direct { Backend::DIRECT } else { 0 };
        let slots: Vec<u32> =
            spec.backends.iter().map(|backend| self.slots.put(spec.key, backend, flags)).collect::<Result<_, _>>()?;
        let table: Vec<u32> = spec
            .table
            .iter()
            .map(|index| slots.get(*index as usize).copied().ok_or(Error::BadTable(spec.key)))
            .collect::<Result<_, _>>()?;
        let old = self.carried.get(&spec.key).map(rows);
        // After a restart most tables are the same: then there is room even when a copy of each would not fit.
        let kept = old.filter(|rows| self.tables.holds(*rows, &table));
        let place = match kept {
            Some(rows) => rows,
            None => self.tables.write(&table, now)?,
        };
        let frontend = Frontend {
            table_row: place.first,
            table_size: u32::try_from(table.len()).map_err(|_| Error::NoTableSpace)?,
            flags: if spec.source_affinity { Frontend::SOURCE_AFFINITY } else { 0 },
        };
        if let Err(error) = self.frontends.insert(spec.key, frontend, 0) {
            if kept.is_none() {
                self.tables.retire(place, now);
            }
            return Err(map_error(map::FRONTENDS)(error));
        }
        self.carried.insert(spec.key, frontend);
        if let (Some(old), None) = (old, kept) {
            self.tables.retire(old, now);
        }
        self.slots.bury_others(spec.key, &spec.backends);
        self.applied.insert(spec.key, spec.clone());
        Ok(())
    }

    /// Takes no new flows for a frontend; established TCP flows go on.
    fn remove_frontend(&mut self, key: FrontendKey, now: Instant) -> Result<(), Error> {
        self.frontends.remove(&key).map_err(map_error(map::FRONTENDS))?;
        if let Some(old) = self.carried.remove(&key) {
            self.tables.retire(rows(&old), now);
        }
        self.slots.bury_others(key, &[]);
        self.applied.remove(&key);
        Ok(())
    }

    /// Carries these VIPs; a VIP's packets are balanced whether or not this node answers for it.
    ///
    /// # Errors
    /// When the map takes no more.
    pub fn set_vips(&mut self, wanted: &StdHashMap<Ipv4Addr, Vip>, others: Others) -> Result<(), Error> {
        let present: StdHashMap<[u8; 4], Vip> = self.vips.iter().flatten().collect();
        if others == Others::Remove {
            for address in present.keys().filter(|address| !wanted.contains_key(&Ipv4Addr::from(**address))) {
                self.vips.remove(address).map_err(map_error(map::VIPS))?;
            }
        }
        for (address, vip) in wanted {
            if present.get(&address.octets()) != Some(vip) {
                self.vips.insert(address.octets(), *vip, 0).map_err(map_error(map::VIPS))?;
            }
        }
        Ok(())
    }

    /// Frees the slots of backends that are gone and have no live flow left.
    ///
    /// # Errors
    /// When the flow table cannot be read.
    pub fn reap(&mut self) -> Result<(), Error> {
        let tombstones: Vec<u32> = self
            .slots
            .used()
            .filter(|(_, backend)| backend.state == maps::backend_state::TOMBSTONE)
            .map(|(slot, _)| slot)
            .collect();
        if tombstones.is_empty() {
            return Ok(());
        }
        let live = self.live_flows(maps::TCP_LINGER_NS)?;
        for slot in tombstones.into_iter().filter(|slot| !live.contains_key(slot)) {
            self.slots.free(slot);
        }
        Ok(())
    }

    /// Packets by outcome since the maps were made, all CPUs together.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Vec<(Outcome, u64)>, Error> {
        Outcome::ALL
            .iter()
            .map(|outcome| {
                let cpus = self.counters.get(&outcome.index(), 0).map_err(map_error(map::COUNTERS))?;
                Ok((*outcome, cpus.iter().sum()))
            })
            .collect()
    }

    /// Live flows by backend, tombstones among them.
    ///
    /// # Errors
    /// When the flow table cannot be read.
    pub fn backend_flows(&self) -> Result<BackendFlows, Error> {
        let live = self.live_flows(0)?;
        Ok(self
            .slots
            .used()
            .map(|(slot, backend)| {
                ((backend.frontend, slots::address(&backend)), live.get(&slot).copied().unwrap_or(0))
            })
            .collect())
    }

    /// Backends that are no longer endpoints but still have their slot, by frontend.
    #[must_use]
    pub fn tombstones(&self) -> Vec<(FrontendKey, SocketAddrV4)> {
        self.slots
            .used()
            .filter(|(_, backend)| backend.state == maps::backend_state::TOMBSTONE)
            .map(|(_, backend)| (backend.frontend, slots::address(&backend)))
            .collect()
    }

    /// Runs one of the programs on a frame, as if `interface` had received or were about to send it, and returns the
    /// hook's verdict (`TC_ACT_…`) with the frame as the program left it. Counts and records flows like real traffic.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn run_once(&mut self, direction: Direction, interface: u32, frame: &[u8]) -> Result<(i32, Vec<u8>), Error> {
        hook::run_once(&mut self.object, direction, interface, frame)
    }

    /// Withdraws every VIP, detaches and removes all pins.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn uninstall(self) -> Result<(), Error> {
        self.pins.uninstall()
    }

    /// Live forward flows by slot; one that both ends have closed still counts for `linger` nanoseconds.
    fn live_flows(&self, linger: u64) -> Result<StdHashMap<u32, u64>, Error> {
        let now = monotonic_ns();
        let mut live = StdHashMap::new();
        batch::for_each(self.flows.fd().as_fd(), |key: &FlowKey, flow: &Flow| {
            let quiet = now.saturating_sub(flow.last_seen);
            let limit = match key.protocol {
                UDP => maps::UDP_IDLE_NS,
                _ if flow.state & Flow::RESET != 0 => 0,
                _ if flow.is_closed() => linger,
                _ => maps::TCP_IDLE_NS,
            };
            if flow.direction == direction::FORWARD
                && quiet < limit
                && self.slots.get(flow.backend).generation == flow.generation
            {
                *live.entry(flow.backend).or_insert(0) += 1;
            }
        })
        .map_err(|source| Error::MapCall { map: map::FLOWS, source })?;
        Ok(live)
    }
}

/// The programs' clock, `bpf_ktime_get_ns`.
fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Gives each interface the bit of its former slot, or else one that no interface had, as long as there are such: VIPs may
/// still have the bit of one that is gone.
fn answer_bits(interfaces: &[Interface], former: &StdHashMap<u32, u32>) -> StdHashMap<u32, u32> {
    let union = |bits: &StdHashMap<u32, u32>| bits.values().fold(0, |mask, bit| mask | bit);
    let mut bits: StdHashMap<u32, u32> =
        interfaces.iter().filter_map(|interface| Some((interface.index, *former.get(&interface.index)?))).collect();
    for interface in interfaces {
        let taken = union(&bits);
        let unused = !(taken | union(former));
        let free = if unused == 0 { !taken } else { unused };
        bits.entry(interface.index).or_insert(free & free.wrapping_neg());
    }
    bits
}

fn rows(frontend: &Frontend) -> Rows {
    Rows::of(frontend.table_row, frontend.table_size)
}

/// Sets the hash seed unless the pinned map already has one: flows must keep their backends across a restart.
fn seed(object: &mut Ebpf, seed: u64) -> Result<(), Error> {
    let mut settings: Array<MapData, Settings> = take(object, map::SETTINGS)?;
    let present = settings.get(&0, 0).map_err(map_error(map::SETTINGS))?;
    if present.hash_seed == 0 {
        settings.set(0, Settings { hash_seed: seed }, 0).map_err(map_error(map::SETTINGS))?;
    }
    Ok(())
}

fn take<M: TryFrom<Map, Error = aya::maps::MapError>>(object: &mut Ebpf, name: &'static str) -> Result<M, Error> {
    let map = object.take_map(name).ok_or_else(|| missing(name))?;
    M::try_from(map).map_err(map_error(name))
}

fn data(object: &mut Ebpf, name: &'static str) -> Result<MapData, Error> {
    match object.take_map(name) {
        Some(Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data)) => Ok(data),
        _ => Err(missing(name)),
    }
}

/// Maps an array into this process. A pinned one may be another build's: then it must not be touched.
fn shared<T: aya::Pod>(object: &mut Ebpf, name: &'static str, count: usize) -> Result<SharedArray<T>, Error> {
    let data = data(object, name)?;
    let info = data.info().map_err(map_error(name))?;
    if info.value_size() as usize != size_of::<T>() || info.max_entries() as usize != count {
        return Err(Error::OtherLayout(name));
    }
    SharedArray::map(data.fd().as_fd(), count).map_err(|source| Error::MapCall { map: name, source })
}

fn missing(name: &'static str) -> Error {
    Error::Map { map: name, source: aya::maps::MapError::InvalidName { name: name.to_owned() } }
}

fn map_error(map: &'static str) -> impl Fn(aya::maps::MapError) -> Error {
    move |source| Error::Map { map, source }
}
