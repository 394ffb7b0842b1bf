//! Backend slots: which slot of the shared array is whose.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::SocketAddr,
};

use evenkeel_maps::{Backend, FrontendKey, backend_state};

use crate::{
    Error,
    shared::Elements,
    spec::{BackendSpec, State},
};

/// Gives every backend of every frontend a slot and remembers it. The array itself is the record: [`Slots::adopt`] reads
/// it back after a restart.
pub(crate) struct Slots<E> {
    array: E,
    /// By the address as it is read back from the array: [`canonical`].
    by_frontend: HashMap<FrontendKey, HashMap<SocketAddr, u32>>,
    /// Slots never used, from here to the end.
    unused_from: u32,
    /// Slots that were used and are free again.
    freed: BTreeSet<u32>,
    /// Tombstones there have been.
    burials: u64,
}

impl<E: Elements<Backend>> Slots<E> {
    /// Reads the array as an earlier process, if any, left it.
    pub(crate) fn adopt(array: E) -> Self {
        let mut slots = Self { by_frontend: HashMap::new(), unused_from: 0, freed: BTreeSet::new(), burials: 0, array };
        for slot in 0..u32::try_from(slots.array.count()).unwrap_or(u32::MAX) {
            let backend = slots.get(slot);
            if backend.state != backend_state::FREE {
                slots.freed.extend(slots.unused_from..slot);
                slots.unused_from = slot + 1;
                slots.by_frontend.entry(backend.frontend).or_default().insert(address(&backend), slot);
                slots.burials += u64::from(backend.state == backend_state::TOMBSTONE);
            }
        }
        slots
    }

    pub(crate) fn get(&self, slot: u32) -> Backend {
        self.array.read(slot as usize)
    }

    /// The backend of a slot that was read from a record; a free one if there is no such slot.
    pub(crate) fn get_or_free(&self, slot: u32) -> Backend {
        if (slot as usize) < self.array.count() { self.get(slot) } else { Backend::FREE }
    }

    /// The slot of a backend, if it has one.
    pub(crate) fn find(&self, frontend: FrontendKey, address: SocketAddr) -> Option<u32> {
        self.by_frontend.get(&frontend)?.get(&canonical(address)).copied()
    }

    /// Has a backend ready for the frontend's new table: a new one gets its slot, one that is there gets what it is to have
    /// more than it has. What it is to have less is the old table's, as long as that is in force, and for [`Self::settle`].
    /// A returning backend whose tombstone still stands gets its old slot, so that its flows go on.
    pub(crate) fn put(&mut self, frontend: FrontendKey, spec: &BackendSpec, flags: u8) -> Result<u32, Error> {
        if let Some(slot) = self.find(frontend, spec.address) {
            let backend = self.get(slot);
            let is_active = backend.state == backend_state::ACTIVE;
            let (state, share) = match spec.state {
                State::Active if is_active => (backend.state, spec.share.max(backend.share)),
                State::Active => (backend_state::ACTIVE, spec.share),
                State::Drain | State::Down => (backend.state, backend.share),
            };
            self.write(slot, Backend { state, share, flags, ..backend });
            return Ok(slot);
        }
        let slot = self.take_free()?;
        let backend = Backend {
            address: spec.address.ip().into(),
            frontend,
            port: spec.address.port().to_be_bytes(),
            flags,
            generation: self.get(slot).generation,
            share: spec.share,
            ..Backend::FREE
        };
        // The identity while the slot is still free, then the state alone.
        self.write(slot, backend);
        self.write(slot, Backend { state: spec.state.raw(), ..backend });
        self.by_frontend.entry(frontend).or_default().insert(canonical(spec.address), slot);
        Ok(slot)
    }

    /// Gives every slot of `frontend` what its backend is to have, now that the new table is in force, and turns those whose
    /// address is not in `backends` into tombstones.
    pub(crate) fn settle(&mut self, frontend: FrontendKey, backends: &[BackendSpec]) {
        for spec in backends {
            if let Some(slot) = self.find(frontend, spec.address) {
                let backend = self.get(slot);
                self.write(slot, Backend { state: spec.state.raw(), share: spec.share, ..backend });
            }
        }
        self.bury_others(frontend, backends);
    }

    /// Turns every slot of `frontend` whose address is not in `keep` into a tombstone.
    pub(crate) fn bury_others(&mut self, frontend: FrontendKey, keep: &[BackendSpec]) {
        let keep: HashSet<SocketAddr> = keep.iter().map(|spec| canonical(spec.address)).collect();
        let buried: Vec<u32> = self
            .by_frontend
            .get(&frontend)
            .into_iter()
            .flatten()
            .filter(|(address, _)| !keep.contains(address))
            .map(|(_, slot)| *slot)
            .collect();
        for slot in buried {
            let backend = self.get(slot);
            self.burials += u64::from(backend.state != backend_state::TOMBSTONE);
            self.write(slot, Backend { state: backend_state::TOMBSTONE, ..backend });
        }
    }

    /// How many tombstones there have been, since [`Slots::adopt`] and with those found then.
    pub(crate) fn burials(&self) -> u64 {
        self.burials
    }

    /// Frontends that have slots.
    pub(crate) fn frontends(&self) -> impl Iterator<Item = FrontendKey> + '_ {
        self.by_frontend.keys().copied()
    }

    /// All slots in use, tombstones among them.
    pub(crate) fn used(&self) -> impl Iterator<Item = (u32, Backend)> + '_ {
        self.by_frontend.values().flat_map(HashMap::values).map(|slot| (*slot, self.get(*slot)))
    }

    /// Frees a tombstone. Its flows, if any are left, become stale by the next generation, which begins here.
    pub(crate) fn free(&mut self, slot: u32) {
        let backend = self.get(slot);
        if backend.state == backend_state::TOMBSTONE {
            let generation = backend.generation.wrapping_add(1);
            self.write(slot, Backend { state: backend_state::FREE, generation, ..backend });
            if let Some(slots) = self.by_frontend.get_mut(&backend.frontend) {
                slots.remove(&address(&backend));
                if slots.is_empty() {
                    self.by_frontend.remove(&backend.frontend);
                }
            }
            self.freed.insert(slot);
        }
    }

    fn take_free(&mut self) -> Result<u32, Error> {
        // The lowest free slot: the array's used part stays small.
        if let Some(slot) = self.freed.pop_first() {
            return Ok(slot);
        }
        let slot = self.unused_from;
        if slot as usize >= self.array.count() {
            return Err(Error::NoSlot);
        }
        self.unused_from += 1;
        Ok(slot)
    }

    fn write(&mut self, slot: u32, backend: Backend) {
        self.array.write(slot as usize, backend);
    }
}

/// The address a slot forwards to.
pub(crate) fn address(backend: &Backend) -> SocketAddr {
    SocketAddr::new(backend.address.ip(), u16::from_be_bytes(backend.port))
}

/// The form in which slots give an address back: an IPv4 address in its IPv6 form (RFC 4291 section 2.5.5.2) is the same one,
/// and there is neither scope nor flow label.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use evenkeel_maps::{Address, TCP};

    use super::*;

    const FRONTEND: FrontendKey =
        FrontendKey { address: Address::v4([10, 0, 0, 1]), port: [0, 80], protocol: TCP, pad: [0; 5] };

    fn backend(last: u8) -> BackendSpec {
        BackendSpec::new(SocketAddr::new([10, 0, 1, last].into(), 80), State::Active)
    }

    fn slots(count: usize) -> Slots<Vec<Backend>> {
        Slots::adopt(vec![Backend::FREE; count])
    }

    #[test]
    fn a_backend_keeps_its_slot() {
        let mut slots = slots(4);
        let first = slots.put(FRONTEND, &backend(1), 0).unwrap();
        let second = slots.put(FRONTEND, &backend(2), 0).unwrap();
        assert_ne!(first, second);
        assert_eq!(slots.put(FRONTEND, &backend(1), 0).unwrap(), first);
    }

    #[test]
    fn a_restart_finds_the_same_slots() {
        let mut before = slots(4);
        before.put(FRONTEND, &backend(1), 0).unwrap();
        let second = before.put(FRONTEND, &backend(2), 0).unwrap();
        before.bury_others(FRONTEND, &[backend(2)]);
        before.free(0);
        let mut after = Slots::adopt(before.array.clone());
        assert_eq!(after.put(FRONTEND, &backend(2), 0).unwrap(), second);
        assert_eq!(after.put(FRONTEND, &backend(3), 0).unwrap(), 0, "the freed slot is found again");
    }

    #[test]
    fn a_returning_backend_gets_its_tombstone_back() {
        let mut slots = slots(4);
        let slot = slots.put(FRONTEND, &backend(1), 0).unwrap();
        let generation = slots.get(slot).generation;
        slots.bury_others(FRONTEND, &[]);
        assert_eq!(slots.get(slot).state, backend_state::TOMBSTONE);
        assert_eq!(slots.put(FRONTEND, &backend(1), 0).unwrap(), slot);
        assert_eq!(slots.get(slot).generation, generation);
        assert_eq!(slots.get(slot).state, backend_state::ACTIVE);
    }

    #[test]
    fn what_is_taken_away_stays_until_the_new_table_is_in_force() {
        let mut slots = slots(4);
        let with_share = |share, state| BackendSpec { share, state, ..backend(2) };
        let down = BackendSpec { state: State::Down, ..backend(3) };
        let [first, second, third] =
            [backend(1), with_share(100, State::Active), down].map(|spec| slots.put(FRONTEND, &spec, 0).unwrap());
        let seen = |slots: &Slots<Vec<Backend>>| {
            [first, second, third].map(|slot| (slots.get(slot).state, slots.get(slot).share))
        };
        let (active, drain, full) = (backend_state::ACTIVE, backend_state::DRAIN, Backend::FULL_SHARE);

        let wanted = [BackendSpec { state: State::Drain, ..backend(1) }, with_share(50, State::Active), backend(3)];
        for spec in &wanted {
            slots.put(FRONTEND, spec, 0).unwrap();
        }
        assert_eq!(seen(&slots), [(active, full), (active, 100), (active, full)]);
        slots.settle(FRONTEND, &wanted);
        assert_eq!(seen(&slots), [(drain, full), (active, 50), (active, full)]);

        slots.put(FRONTEND, &with_share(200, State::Active), 0).unwrap();
        assert_eq!(seen(&slots)[1], (active, 200), "more is given at once");
        slots.settle(FRONTEND, &wanted[1..2]);
        assert_eq!(seen(&slots).map(|(state, _)| state), [backend_state::TOMBSTONE, active, backend_state::TOMBSTONE]);
    }

    #[test]
    fn a_reused_slot_has_a_new_generation() {
        let mut slots = slots(1);
        let slot = slots.put(FRONTEND, &backend(1), 0).unwrap();
        let generation = slots.get(slot).generation;
        assert!(matches!(slots.put(FRONTEND, &backend(2), 0), Err(Error::NoSlot)));
        slots.bury_others(FRONTEND, &[]);
        slots.free(slot);
        assert_eq!(slots.put(FRONTEND, &backend(2), 0).unwrap(), slot);
        assert_ne!(slots.get(slot).generation, generation);
    }

    #[test]
    fn an_address_in_its_ipv6_form_is_the_same_one() {
        let mut slots = slots(2);
        let mapped =
            BackendSpec { address: SocketAddr::new([0, 0, 0, 0, 0, 0xffff, 0x0a00, 0x0101].into(), 80), ..backend(1) };
        let slot = slots.put(FRONTEND, &mapped, 0).unwrap();
        assert_eq!(slots.find(FRONTEND, backend(1).address), Some(slot));
        slots.bury_others(FRONTEND, &[mapped]);
        assert_eq!(slots.get(slot).state, backend_state::ACTIVE);
        slots.bury_others(FRONTEND, &[]);
        slots.free(slot);

        // Nothing of it is left in the way of whose slot it is next.
        let other = FrontendKey { port: [0, 81], ..FRONTEND };
        assert_eq!(slots.put(other, &backend(2), 0).unwrap(), slot);
        slots.bury_others(FRONTEND, &[]);
        assert_eq!(slots.get(slot).state, backend_state::ACTIVE);
        assert_eq!(slots.find(FRONTEND, mapped.address), None);
    }

    #[test]
    fn only_tombstones_can_be_freed() {
        let mut slots = slots(1);
        let slot = slots.put(FRONTEND, &backend(1), 0).unwrap();
        slots.free(slot);
        assert_eq!(slots.find(FRONTEND, backend(1).address), Some(slot));
    }
}
