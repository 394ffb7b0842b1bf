//! The way back to version 1 of the maps (`docs/decisions/0020-schema-migration.md`).
//!
//! It is a takeover turned round. Version 1's maps are made, empty, so that this version's programs can be loaded beside its flow
//! table ([`Former::prepare`]); they are filled, the programs are put in place and tell version 1 of every flow from then on, and
//! the flows from before are copied ([`Former::take_flows`]). Then the links' pins move, and this version's pins go. Whoever
//! starts this version again in between, or afterwards, finds a takeover to be finished, as ever.

use std::{collections::HashMap as StdHashMap, fs, net::SocketAddr};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use aya_obj::generated::bpf_map_type;
use evenkeel_maps::{
    self as maps, Address, Backend, Flow, FlowBucket, Frontend, FrontendKey, MAX_BACKENDS, ReplyBucket, TABLE_ROW, Vip,
    backend_state,
};

use crate::{
    Error,
    datapath::{Clock, DataPath, Options},
    flows::{self, FlowTable},
    hook::{Hook, HookChoice},
    map_error,
    migrate::Former,
    pins::{self, Pins},
    shared::{Elements, Words},
    slots::Slots,
    tables::{Rows, Tables},
    v1::{self, map},
};

/// The kernel's `BPF_F_MMAPABLE`, and `BPF_NOEXIST`.
const MMAPABLE: u32 = 1 << 10;
const ONLY_NEW: u64 = 1;

/// What version 1 was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandedBack {
    /// Frontends.
    pub frontends: usize,
    /// Flows that were copied, besides those that begin meanwhile.
    pub flows: u64,
    /// Frontends that it cannot carry as they are: of IPv6, with source ranges, limits, rewritten sources or a turn for each packet,
    /// and those that are closed. Their VIPs' packets find no service until its agent has read the manifests.
    pub left: Vec<FrontendKey>,
}

impl HandedBack {
    /// The frontends that were left, as addresses and ports.
    #[must_use]
    pub fn left(&self) -> Vec<SocketAddr> {
        self.left.iter().map(|key| SocketAddr::new(key.address.ip(), key.port())).collect()
    }
}

/// What is carried at present.
pub(crate) struct Present<'a, B, T> {
    pub(crate) frontends: &'a StdHashMap<FrontendKey, Frontend>,
    pub(crate) vips: &'a StdHashMap<Address, Vip>,
    pub(crate) interfaces: &'a [maps::Interface],
    pub(crate) slots: &'a Slots<B>,
    pub(crate) tables: &'a Tables<T>,
    pub(crate) hash_seed: u64,
}

/// Hands a node's data path back to version 1, whose agent is started next; `None`: there is nothing of this version.
///
/// # Errors
/// [`Error::Locked`] while an agent drives the node; [`Error::NoTableSpace`] when its tables do not fit there. What was begun, this
/// version takes back when its agent starts.
pub fn hand_back(node: &str) -> Result<Option<HandedBack>, Error> {
    let Some((options, flows)) = as_it_is(node)? else { return Ok(None) };
    // One entry for each direction.
    Former::prepare(node, flows.saturating_mul(2))?;
    DataPath::open(&options)?.hand_back().map(Some)
}

/// What opens a node's data path without changing it, and the flows it has room for; `None`: there is none. The seed and all sizes
/// are those of the pinned maps in any case.
fn as_it_is(node: &str) -> Result<Option<(Options, u32)>, Error> {
    use maps::map;
    let Some(pins) = Pins::lock_version(node, maps::SCHEMA_VERSION)? else { return Ok(None) };
    let array = |name| {
        if !pins::exists(&pins.map(name))? {
            return Ok(None);
        }
        MapData::from_pin(pins.map(name)).map(|data| Some(Map::Array(data))).map_err(map_error(name))
    };
    let (Some(settings), Some(sources)) = (array(map::SETTINGS)?, array(map::SOURCE_ADDRESSES)?) else {
        return Ok(None);
    };
    let settings: Array<_, maps::Settings> = settings.try_into().map_err(map_error(map::SETTINGS))?;
    let settings = settings.get(&0, 0).map_err(map_error(map::SETTINGS))?;
    let sources: Array<_, Address> = sources.try_into().map_err(map_error(map::SOURCE_ADDRESSES))?;
    // Behind those that new flows get are some that only older ones have.
    let sources: Vec<Address> = sources.iter().flatten().collect();
    let used = sources
        .chunks(maps::MAX_SOURCES)
        .zip([settings.sources_v4, settings.sources_v6])
        .flat_map(|(rows, count)| rows.iter().take(count.into()));
    let last = settings.source_port.saturating_add(settings.source_ports.saturating_sub(1));
    // Whoever has no link has filters.
    let all = if pins.links()?.is_empty() { Some(Hook::Clsact) } else { None };
    let options = Options {
        hooks: HookChoice { all, ..HookChoice::default() },
        sources: used.map(|source| source.ip()).collect(),
        source_ports: settings.source_port..=last,
        refusals: settings.refusals,
        rescue_tries: settings.rescue_tries,
        ..Options::new(node, settings.hash_seed)
    };
    Ok(Some((options, settings.flow_buckets.saturating_mul(u32::try_from(maps::WAYS).unwrap_or(u32::MAX)))))
}

impl Former {
    /// Makes version 1's maps where there are none, empty, with room for so many entries of flows.
    fn prepare(node: &str, flows: u32) -> Result<(), Error> {
        let pins = Pins::lock_or_make(node, v1::VERSION)?;
        let hash = bpf_map_type::BPF_MAP_TYPE_HASH;
        let array = bpf_map_type::BPF_MAP_TYPE_ARRAY;
        let rows = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let make = |name, kind: bpf_map_type, key: usize, value: usize, entries, flags| {
            let pin = pins.map(name);
            if pins::exists(&pin)? {
                return Ok(());
            }
            let definition = aya_obj::Map::new_from_params(kind as u32, rows(key), rows(value), entries, flags);
            let made = MapData::create(definition, name, None).map_err(map_error(name))?;
            made.pin(&pin).map_err(|error| pins::error(&pin, &error))
        };
        let index = size_of::<u32>();
        make(map::FRONTENDS, hash, size_of::<v1::FrontendKey>(), size_of::<v1::Frontend>(), v1::MAX_FRONTENDS, 0)?;
        make(map::VIPS, hash, size_of::<[u8; 4]>(), size_of::<Vip>(), v1::MAX_VIPS, 0)?;
        make(map::BACKENDS, array, index, size_of::<v1::Backend>(), rows(MAX_BACKENDS), MMAPABLE)?;
        make(map::TABLE, array, index, size_of::<[u32; TABLE_ROW]>(), rows(v1::TABLE_ROWS), MMAPABLE)?;
        make(map::INTERFACES, hash, size_of::<u32>(), size_of::<v1::Interface>(), v1::MAX_INTERFACES, 0)?;
        make(map::COUNTERS, bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY, index, size_of::<u64>(), v1::OUTCOMES, 0)?;
        make(map::SETTINGS, array, index, size_of::<v1::Settings>(), 1, 0)?;
        let lru = bpf_map_type::BPF_MAP_TYPE_LRU_HASH;
        make(map::FLOWS, lru, size_of::<v1::FlowKey>(), size_of::<v1::Flow>(), flows, 0)
    }

    /// Writes everything but the flows. Backends keep their slots and generations, and interfaces their bits. Returns the
    /// frontends that version 1 cannot carry.
    ///
    /// # Errors
    /// When a map cannot be written, or the tables do not fit.
    pub(crate) fn fill<B, T>(&self, present: &Present<'_, B, T>) -> Result<Vec<FrontendKey>, Error>
    where
        B: Elements<Backend>,
        T: Elements<[u32; TABLE_ROW]>,
    {
        let missing = |name| Error::Map { map: name, source: MapError::KeyNotFound };
        let mut backends = self.shared::<v1::Backend>(map::BACKENDS, MAX_BACKENDS)?.ok_or(missing(map::BACKENDS))?;
        for (slot, backend) in present.slots.used().filter(|(_, backend)| backend.address.is_v4()) {
            backends.write(slot as usize, old_backend(&backend));
        }
        let mut interfaces = self.hash::<u32, v1::Interface>(map::INTERFACES)?.ok_or(missing(map::INTERFACES))?;
        for row in present.interfaces {
            let value = v1::Interface { mac: row.mac, slot: row.slot, pad: 0 };
            interfaces.insert(row.index, value, 0).map_err(map_error(map::INTERFACES))?;
        }
        let left = self.fill_frontends(present)?;
        let mut vips = self.hash::<[u8; 4], Vip>(map::VIPS)?.ok_or(missing(map::VIPS))?;
        for (vip, value) in present.vips.iter().filter(|(vip, _)| vip.is_v4()) {
            vips.insert(vip.low(), *value, 0).map_err(map_error(map::VIPS))?;
        }
        let settings = self.map(map::SETTINGS)?.ok_or(missing(map::SETTINGS))?;
        let mut settings: Array<_, v1::Settings> = Map::Array(settings).try_into().map_err(map_error(map::SETTINGS))?;
        let hash_seed = present.hash_seed;
        settings.set(0, v1::Settings { hash_seed }, 0).map_err(map_error(map::SETTINGS))?;
        Ok(left)
    }

    /// Tables come one after the other: version 1 has room for fewer, and they may lie behind its last row.
    fn fill_frontends<B, T: Elements<[u32; TABLE_ROW]>>(
        &self,
        present: &Present<'_, B, T>,
    ) -> Result<Vec<FrontendKey>, Error> {
        let frontends = self.hash::<v1::FrontendKey, v1::Frontend>(map::FRONTENDS)?;
        let table = self.shared::<[u32; TABLE_ROW]>(map::TABLE, v1::TABLE_ROWS)?;
        let (Some(mut frontends), Some(mut table)) = (frontends, table) else { return Ok(Vec::new()) };
        let (mut next, mut left) = (0_u32, Vec::new());
        for (key, frontend) in present.frontends {
            if !key.address.is_v4() || frontend.options() & !Frontend::SOURCE_AFFINITY != 0 {
                left.push(*key);
                continue;
            }
            let rows = Rows::of(frontend.table_row, frontend.table_size);
            if (next + rows.count) as usize > v1::TABLE_ROWS {
                return Err(Error::NoTableSpace { slots: v1::TABLE_ROWS * TABLE_ROW });
            }
            for row in 0..rows.count {
                table.write((next + row) as usize, present.tables.row(rows.first + row));
            }
            let value = v1::Frontend { table_row: next, table_size: frontend.table_size, flags: frontend.options() };
            frontends.insert(old_key(key), value, 0).map_err(map_error(map::FRONTENDS))?;
            next += rows.count;
        }
        left.sort_unstable();
        Ok(left)
    }

    /// Copies the flows that version 1 can carry and does not know. Returns how many.
    ///
    /// # Errors
    /// When its map cannot be written.
    pub(crate) fn take_flows<F, R, B>(
        &self,
        table: &FlowTable<F, R>,
        slots: &Slots<B>,
        clock: Clock,
    ) -> Result<u64, Error>
    where
        F: Elements<FlowBucket> + Words,
        R: Elements<ReplyBucket> + Words,
        B: Elements<Backend>,
    {
        let Some(flows) = self.flows()? else { return Ok(0) };
        let mut flows: HashMap<_, v1::FlowKey, v1::Flow> =
            Map::LruHashMap(flows).try_into().map_err(map_error(map::FLOWS))?;
        let (mut copied, mut failure) = (0, None);
        table.for_each(|flow| {
            let Some([forward, back]) = old_flow(flow, &slots.get_or_free(flow.backend), clock) else { return };
            // What the programs have told meanwhile is newer.
            let mut put = |(key, entry): (v1::FlowKey, v1::Flow)| match flows.insert(key, entry, ONLY_NEW) {
                Ok(()) => true,
                Err(MapError::SyscallError(error)) if is_present(&error.io_error) => false,
                Err(error) => {
                    failure = Some(error);
                    false
                }
            };
            copied += u64::from(put(forward) | put(back));
        });
        failure.map_or(Ok(copied), |error| Err(map_error(map::FLOWS)(error)))
    }

    /// Moves the pins of the links here.
    ///
    /// # Errors
    /// When a pin cannot be moved.
    pub(crate) fn take_links(&self, from: &Pins) -> Result<(), Error> {
        for path in from.links()? {
            let Some(name) = path.file_name() else { continue };
            fs::rename(&path, self.pins.path(name)).map_err(|source| Error::Pin { path, source })?;
        }
        Ok(())
    }
}

fn is_present(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::AlreadyExists
}

fn old_key(key: &FrontendKey) -> v1::FrontendKey {
    v1::FrontendKey { address: key.address.low(), port: key.port, protocol: key.protocol, pad: 0 }
}

fn old_backend(backend: &Backend) -> v1::Backend {
    v1::Backend {
        address: backend.address.low(),
        port: backend.port,
        state: backend.state,
        flags: backend.flags & Backend::DIRECT,
        frontend: old_key(&backend.frontend),
        generation: backend.generation,
        pad: 0,
    }
}

/// Both entries of a flow; `None` for one that version 1 cannot carry.
fn old_flow(flow: &Flow, backend: &Backend, clock: Clock) -> Option<[(v1::FlowKey, v1::Flow); 2]> {
    let is_stale = backend.state == backend_state::FREE || backend.generation != flow.generation;
    let is_of_v1 = flow.client.is_v4() && backend.address.is_v4() && flow.source_port == [0; 2];
    if is_stale || !is_of_v1 || flow.flags & Flow::FROM_HOST != 0 || flow.is_over(clock.now()) {
        return None;
    }
    let client_seen = clock.monotonic_of_tick(flow.client_seen);
    let forward = v1::Flow {
        last_seen: client_seen,
        address: backend.address.low(),
        port: backend.port,
        direction: v1::Flow::FORWARD,
        state: flow.state & (Flow::FIN_CLIENT | Flow::FIN_BACKEND | Flow::RESET),
        backend: flow.backend,
        generation: flow.generation,
        initial_sequence: flow.initial_sequence,
        flags: flow.flags & Backend::DIRECT,
        datagrams: flow.datagrams,
        pad: [0; 2],
    };
    // The same time in both says that nobody has answered yet.
    let is_answered = flow.state & Flow::ANSWERED != 0;
    let back = v1::Flow {
        last_seen: if is_answered { clock.monotonic_of_tick(flow.last_seen).max(client_seen + 1) } else { client_seen },
        address: flow.vip.low(),
        port: flow.vip_port,
        direction: v1::Flow::REPLY,
        ..forward
    };
    let reply = flows::reply_key(flow, backend, flow.client);
    Some([(v1::FlowKey::of(&flow.tuple()), forward), (v1::FlowKey::of(&reply), back)])
}

#[cfg(test)]
mod tests {
    use evenkeel_maps::{TCP, ticks};

    use super::*;
    use crate::migrate;

    fn backend() -> Backend {
        Backend {
            address: Address::v4([10, 1, 0, 1]),
            port: [0x1f, 0x90],
            state: backend_state::DRAIN,
            flags: Backend::DIRECT,
            generation: 3,
            ..Backend::FREE
        }
    }

    fn flow(state: u8, clock: Clock) -> Flow {
        Flow {
            client: Address::v4([10, 0, 0, 1]),
            vip: Address::v4([10, 0, 0, 100]),
            client_port: [0x80, 1],
            vip_port: [0, 80],
            protocol: TCP,
            state,
            flags: Backend::DIRECT,
            datagrams: 1,
            backend: 7,
            generation: 3,
            last_seen: clock.now().wrapping_sub(2 * ticks::SECOND),
            client_seen: clock.now().wrapping_sub(3 * ticks::SECOND),
            initial_sequence: [1, 2, 3, 4],
            ..Flow::NONE
        }
    }

    #[test]
    fn there_and_back_a_flow_is_the_same() {
        let clock = Clock::monotonic();
        let established = Flow::ANSWERED | Flow::ESTABLISHED;
        for state in [0, established, established | Flow::FIN_CLIENT, established | Flow::RESET] {
            // Nobody has answered yet: there is one time.
            let last_seen = |flow: Flow| if state == 0 { flow.client_seen } else { flow.last_seen };
            let flow = flow(state, clock);
            let flow = Flow { last_seen: last_seen(flow), ..flow };
            let [(key, forward), (reply_key, back)] = old_flow(&flow, &backend(), clock).unwrap();
            assert_eq!((key.source, key.destination_port), ([10, 0, 0, 1], [0, 80]));
            assert_eq!((reply_key.source, reply_key.destination), ([10, 1, 0, 1], [10, 0, 0, 1]));
            assert_eq!((back.address, back.port), ([10, 0, 0, 100], [0, 80]));

            let again = migrate::new_flow(&key, &forward, Some(back.last_seen));
            assert!(again.last_seen.abs_diff(flow.last_seen) <= 1 && again.client_seen.abs_diff(flow.client_seen) <= 1);
            let place = Flow { backend: flow.backend, generation: flow.generation, ..again };
            assert_eq!(Flow { last_seen: flow.last_seen, client_seen: flow.client_seen, ..place }, flow);
        }
    }

    #[test]
    fn what_version_1_cannot_carry_is_left() {
        let clock = Clock::monotonic();
        let known = flow(Flow::ANSWERED, clock);
        assert!(old_flow(&known, &backend(), clock).is_some());
        let rewritten = Flow { source_port: [0xee, 0x48], ..known };
        let of_host = Flow { flags: Flow::FROM_HOST, ..known };
        let of_ipv6 = Flow { client: Address::from("fd00::1".parse::<std::net::IpAddr>().unwrap()), ..known };
        let stale = Flow { generation: 2, ..known };
        for flow in [rewritten, of_host, of_ipv6, stale] {
            assert!(old_flow(&flow, &backend(), clock).is_none(), "{flow:?}");
        }
    }
}
