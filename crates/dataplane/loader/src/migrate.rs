//! Taking over from version 1 of the maps, without losing a flow (`docs/decisions/0020-schema-migration.md`).
//!
//! [`Former::copy`] and [`Former::copy_flows`] run while the former programs still see the packets, [`Former::hand_over_links`]
//! makes the links this version's, so that attaching replaces the programs in them, and a second [`Former::copy_flows`] fetches
//! what came in between. Until then the programs keep both flow tables. [`Former::remove`] ends it. An agent that dies in between leaves the former pins, and the next one
//! goes on: nothing of this does harm when it is done twice.

use std::{
    collections::HashMap as StdHashMap,
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    path::PathBuf,
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData},
};
use evenkeel_maps::{
    self as maps, Address, Backend, Flow, FlowBucket, Frontend, FrontendKey, INTERFACE_ROWS, MAX_BACKENDS, ReplyBucket,
    Settings, TABLE_ROW, TCP, Vip, backend_state, ticks,
};

use crate::{
    Error, batch,
    datapath::Clock,
    flows::{FlowTable, Insertion},
    hook, map_error,
    pins::{self, Pins},
    shared::{Elements, SharedArray, Words},
    slots::Slots,
    tables::Rows,
    v1::{self, map},
};

/// What version 1 left, and the lock on it.
#[derive(Debug)]
pub(crate) struct Former {
    pub(crate) pins: Pins,
}

/// The maps of this version that are filled before any program sees them.
pub(crate) struct Fresh<'a> {
    pub(crate) frontends: &'a mut HashMap<MapData, FrontendKey, Frontend>,
    pub(crate) vips: &'a mut HashMap<MapData, Address, Vip>,
    pub(crate) interfaces: &'a mut SharedArray<maps::Interface>,
    pub(crate) backends: &'a mut SharedArray<Backend>,
    pub(crate) table: &'a mut SharedArray<[u32; TABLE_ROW]>,
    pub(crate) settings: &'a mut SharedArray<Settings>,
}

impl Former {
    /// The pins of version 1, if `node` has some.
    ///
    /// # Errors
    /// [`Error::Locked`] when an agent of that version drives them.
    pub(crate) fn find(node: &str) -> Result<Option<Self>, Error> {
        Ok(Pins::lock_version(node, v1::VERSION)?.map(|pins| Self { pins }))
    }

    /// The pin of its flow table, which the programs of this version go on with meanwhile. `None` if it is not there any more.
    ///
    /// # Errors
    /// When it has another layout than version 1 gave it.
    pub(crate) fn flow_table(&self) -> Result<Option<PathBuf>, Error> {
        Ok(self.flows()?.map(|_| self.pins.map(map::FLOWS)))
    }

    pub(crate) fn flows(&self) -> Result<Option<MapData>, Error> {
        let Some(flows) = self.map(map::FLOWS)? else { return Ok(None) };
        let info = flows.info().map_err(map_error(map::FLOWS))?;
        if (info.key_size() as usize, info.value_size() as usize) != (size_of::<v1::FlowKey>(), size_of::<v1::Flow>()) {
            return Err(Error::OtherLayout(map::FLOWS));
        }
        Ok(Some(flows))
    }

    /// Copies everything but the flows, unless this version has begun to work by itself. Backends keep their slots and
    /// generations, tables their rows and interfaces their bits, so nothing that refers to them has to change.
    ///
    /// # Errors
    /// When a map cannot be read or written, or has another layout than version 1 gave it.
    pub(crate) fn copy(&self, fresh: Fresh<'_>) -> Result<(), Error> {
        let settings = fresh.settings.read(0);
        if settings.hash_seed != 0 {
            return Ok(());
        }
        if let Some(backends) = self.shared::<v1::Backend>(map::BACKENDS, MAX_BACKENDS)? {
            for slot in 0..backends.count() {
                let backend = backends.read(slot);
                if backend.state != backend_state::FREE {
                    fresh.backends.write(slot, new_backend(&backend));
                }
            }
        }
        if let Some(interfaces) = self.hash::<u32, v1::Interface>(map::INTERFACES)? {
            for (index, former) in interfaces.iter().flatten() {
                let row = maps::Interface { mac: former.mac, slot: former.slot, flags: 0, index, pad: 0 };
                fresh.interfaces.write(index as usize % INTERFACE_ROWS, row);
            }
        }
        self.copy_frontends(fresh.frontends, fresh.table)?;
        if let Some(vips) = self.hash::<[u8; 4], Vip>(map::VIPS)? {
            for (vip, value) in vips.iter().flatten() {
                fresh.vips.insert(Address::v4(vip), value, 0).map_err(map_error(map::VIPS))?;
            }
        }
        // Last: by the seed the next process would know that all this is done.
        if let Some(data) = self.map(map::SETTINGS)? {
            let former: Array<_, v1::Settings> = Map::Array(data).try_into().map_err(map_error(map::SETTINGS))?;
            let hash_seed = former.get(&0, 0).map_err(map_error(map::SETTINGS))?.hash_seed;
            fresh.settings.write(0, Settings { hash_seed, ..settings });
        }
        Ok(())
    }

    fn copy_frontends(
        &self,
        to: &mut HashMap<MapData, FrontendKey, Frontend>,
        table: &mut SharedArray<[u32; TABLE_ROW]>,
    ) -> Result<(), Error> {
        let frontends = self.hash::<v1::FrontendKey, v1::Frontend>(map::FRONTENDS)?;
        let former_table = self.shared::<[u32; TABLE_ROW]>(map::TABLE, v1::TABLE_ROWS)?;
        let (Some(frontends), Some(former_table)) = (frontends, former_table) else { return Ok(()) };
        for ((key, former), number) in frontends.iter().flatten().zip(0..) {
            let rows = Rows::of(former.table_row, former.table_size);
            for row in (rows.first as usize..).take(rows.count as usize).take_while(|row| *row < v1::TABLE_ROWS) {
                table.write(row, former_table.read(row));
            }
            let frontend = Frontend {
                table_row: former.table_row,
                table_size: former.table_size,
                flags: former.flags & Frontend::SOURCE_AFFINITY,
                number,
                limit: 0,
            };
            to.insert(new_key(&key), frontend, 0).map_err(map_error(map::FRONTENDS))?;
        }
        Ok(())
    }

    /// Records the flows that version 1 knows and this one does not.
    ///
    /// # Errors
    /// When a map cannot be read, or has another layout than version 1 gave it.
    pub(crate) fn copy_flows<F, R, B>(
        &self,
        table: &mut FlowTable<F, R>,
        slots: &Slots<B>,
        clock: Clock,
    ) -> Result<(), Error>
    where
        F: Elements<FlowBucket> + Words,
        R: Elements<ReplyBucket> + Words,
        B: Elements<Backend>,
    {
        let former_backends = self.shared::<v1::Backend>(map::BACKENDS, MAX_BACKENDS)?;
        let (Some(former_backends), Some(flows)) = (former_backends, self.flows()?) else { return Ok(()) };
        let mut forward: Vec<(v1::FlowKey, v1::Flow)> = Vec::new();
        let mut replies: StdHashMap<v1::FlowKey, u64> = StdHashMap::new();
        batch::for_each(flows.fd().as_fd(), |key: &v1::FlowKey, flow: &v1::Flow| {
            if flow.direction == v1::Flow::FORWARD {
                forward.push((*key, *flow));
            } else {
                replies.insert(*key, flow.last_seen);
            }
        })
        .map_err(|source| Error::MapCall { map: map::FLOWS, source })?;
        let (mut recorded, mut without_room) = (0_u64, 0_u64);
        for (key, flow) in &forward {
            // By what it is and not by its number: this version may have been at work already.
            let place = backend_of(flow, &former_backends)
                .and_then(|former| slots.find(new_key(&former.frontend), address(&former)))
                .map(|slot| (slot, slots.get(slot)));
            let Some((slot, backend)) = place else { continue };
            let record = new_flow(key, flow, replies.get(&reply_key(key, flow)).copied());
            let record = Flow {
                backend: slot,
                generation: backend.generation,
                last_seen: clock.tick_of_monotonic(record.last_seen),
                client_seen: clock.tick_of_monotonic(record.client_seen),
                ..record
            };
            if record.is_over(clock.now()) {
                continue;
            }
            match table.insert(&record, &backend) {
                Insertion::Recorded => recorded += 1,
                Insertion::Present => {}
                Insertion::NoRoom => without_room += 1,
            }
        }
        tracing::info!(recorded, "took over flows of version 1");
        if without_room > 0 {
            tracing::warn!(
                without_room,
                "the flow table had no room for some flows of version 1; give it more with --flows"
            );
        }
        Ok(())
    }

    /// Moves the pins of the links to this version's, where attaching finds them and replaces the programs in them.
    ///
    /// # Errors
    /// When a pin cannot be moved.
    pub(crate) fn hand_over_links(&self, to: &Pins) -> Result<(), Error> {
        for path in self.pins.links()? {
            let Some(name) = path.file_name() else { continue };
            let new = to.path(name);
            // This version has its own link already if version 1 was run again in between; what is left goes in the end.
            if !new.exists() {
                fs::rename(&path, &new).map_err(|source| Error::Pin { path, source })?;
            }
        }
        Ok(())
    }

    /// Removes what is left of version 1.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        for path in self.pins.links()? {
            hook::remove_link(&path)?;
        }
        self.pins.remove_directory()
    }

    /// Withdraws what version 1 answers for, and ends it.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub(crate) fn uninstall(self) -> Result<(), Error> {
        self.pins.uninstall()
    }

    /// A pinned map; `None` if an uninstallation or a removal did not come to its end.
    pub(crate) fn map(&self, name: &'static str) -> Result<Option<MapData>, Error> {
        let path = self.pins.map(name);
        if !path.exists() {
            return Ok(None);
        }
        MapData::from_pin(path).map(Some).map_err(map_error(name))
    }

    pub(crate) fn hash<K: Pod, V: Pod>(&self, name: &'static str) -> Result<Option<HashMap<MapData, K, V>>, Error> {
        let Some(data) = self.map(name)? else { return Ok(None) };
        HashMap::try_from(Map::HashMap(data)).map(Some).map_err(map_error(name))
    }

    pub(crate) fn shared<T: Pod>(&self, name: &'static str, count: usize) -> Result<Option<SharedArray<T>>, Error> {
        let Some(data) = self.map(name)? else { return Ok(None) };
        let info = data.info().map_err(map_error(name))?;
        if (info.max_entries() as usize, info.value_size() as usize) != (count, size_of::<T>()) {
            return Err(Error::OtherLayout(name));
        }
        SharedArray::map(data.fd().as_fd(), count).map(Some).map_err(|source| Error::MapCall { map: name, source })
    }
}

/// Refuses to work beside a newer version, whose programs may be attached: packets would meet both.
///
/// # Errors
/// [`Error::NewerLayout`].
pub(crate) fn refuse_newer(node: &str) -> Result<(), Error> {
    match pins::newer(node) {
        Some(path) => Err(Error::NewerLayout { path, node: node.to_owned() }),
        None => Ok(()),
    }
}

fn new_key(former: &v1::FrontendKey) -> FrontendKey {
    FrontendKey::new(Address::v4(former.address), u16::from_be_bytes(former.port), former.protocol)
}

fn address(former: &v1::Backend) -> SocketAddr {
    SocketAddr::new(IpAddr::from(former.address), u16::from_be_bytes(former.port))
}

fn new_backend(former: &v1::Backend) -> Backend {
    Backend {
        address: Address::v4(former.address),
        frontend: new_key(&former.frontend),
        port: former.port,
        state: former.state,
        flags: former.flags & Backend::DIRECT,
        generation: former.generation,
        share: Backend::FULL_SHARE,
        ..Backend::FREE
    }
}

/// The backend of a flow, if its slot has not changed hands since.
fn backend_of(flow: &v1::Flow, backends: &impl Elements<v1::Backend>) -> Option<v1::Backend> {
    let slot = flow.backend as usize;
    let backend = (slot < backends.count()).then(|| backends.read(slot))?;
    (backend.state != backend_state::FREE && backend.generation == flow.generation).then_some(backend)
}

/// The key of a flow's other entry.
fn reply_key(key: &v1::FlowKey, flow: &v1::Flow) -> v1::FlowKey {
    v1::FlowKey {
        source: flow.address,
        destination: key.source,
        source_port: flow.port,
        destination_port: key.source_port,
        protocol: key.protocol,
        pad: [0; 3],
    }
}

/// A flow as this version records it, but for its backend's place. `replied`: the time in its reply entry.
pub(crate) fn new_flow(key: &v1::FlowKey, flow: &v1::Flow, replied: Option<u64>) -> Flow {
    // Both entries were made at the same instant, and each packet wrote its time to one of them. Version 1 did not note who had
    // answered; whoever sent more than the first packet is believed to be there.
    let is_first_packet_alone = replied == Some(flow.last_seen);
    let seen = if is_first_packet_alone { 0 } else { Flow::ANSWERED | Flow::ESTABLISHED };
    let ended = if key.protocol == TCP { flow.state & (Flow::FIN_CLIENT | Flow::FIN_BACKEND | Flow::RESET) } else { 0 };
    Flow {
        client: Address::v4(key.source),
        vip: Address::v4(key.destination),
        client_port: key.source_port,
        vip_port: key.destination_port,
        protocol: key.protocol,
        state: seen | ended,
        flags: flow.flags & Backend::DIRECT,
        datagrams: flow.datagrams,
        last_seen: ticks::from_ns(flow.last_seen.max(replied.unwrap_or(0))),
        client_seen: ticks::from_ns(flow.last_seen),
        initial_sequence: flow.initial_sequence,
        ..Flow::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: v1::FlowKey = v1::FlowKey {
        source: [10, 0, 0, 1],
        destination: [10, 0, 0, 100],
        source_port: [0x80, 1],
        destination_port: [0, 80],
        protocol: TCP,
        pad: [0; 3],
    };
    const FLOW: v1::Flow = v1::Flow {
        last_seen: 5 << 20,
        address: [10, 1, 0, 1],
        port: [0x1f, 0x90],
        direction: v1::Flow::FORWARD,
        state: 0,
        backend: 1,
        generation: 3,
        initial_sequence: [1, 2, 3, 4],
        flags: Backend::DIRECT,
        datagrams: 1,
        pad: [0; 2],
    };

    fn former_backend(generation: u32) -> v1::Backend {
        let frontend = v1::FrontendKey { address: [10, 0, 0, 100], port: [0, 80], protocol: TCP, pad: 0 };
        v1::Backend {
            address: [10, 1, 0, 1],
            port: [0x1f, 0x90],
            state: backend_state::DRAIN,
            flags: Backend::DIRECT,
            frontend,
            generation,
            pad: 0,
        }
    }

    #[test]
    fn a_flow_that_went_on_is_established_and_a_lonely_syn_is_not() {
        assert!(new_flow(&KEY, &FLOW, Some(FLOW.last_seen + 1)).is_established());
        assert!(new_flow(&KEY, &FLOW, None).is_established(), "its reply entry was evicted");
        assert!(!new_flow(&KEY, &FLOW, Some(FLOW.last_seen)).is_established());
        let reset = v1::Flow { state: Flow::RESET, ..FLOW };
        assert!(new_flow(&KEY, &reset, None).is_closed());
    }

    #[test]
    fn the_last_packet_of_either_side_counts() {
        let flow = new_flow(&KEY, &FLOW, Some(9 << 20));
        assert_eq!((flow.last_seen, flow.client_seen), (9, 5));
    }

    #[test]
    fn a_flow_of_another_generation_is_left_behind() {
        assert_eq!(backend_of(&FLOW, &vec![former_backend(3); 2]), Some(former_backend(3)));
        assert_eq!(backend_of(&FLOW, &vec![former_backend(4); 2]), None);
        assert_eq!(backend_of(&FLOW, &vec![former_backend(3); 1]), None, "no such slot");
    }

    #[test]
    fn a_backend_keeps_its_identity_and_its_state() {
        let backend = new_backend(&former_backend(7));
        assert_eq!(backend.address.ip(), IpAddr::from([10, 1, 0, 1]));
        assert_eq!((backend.state, backend.generation), (backend_state::DRAIN, 7));
        assert_eq!((backend.frontend.port(), backend.port), (80, [0x1f, 0x90]));
        assert_eq!(backend.share, Backend::FULL_SHARE);
    }
}
