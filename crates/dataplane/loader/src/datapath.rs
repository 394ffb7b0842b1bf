//! The data plane of one node: maps, programs, and the order in which they change.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet, HashMap as StdHashMap, HashSet},
    mem::offset_of,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, lpm_trie::Key},
    util::nr_cpus,
};
use evenkeel_maps::{
    self as maps, Address, Attendance, Backend, Claim, DEFAULT_FLOWS, Flow, FlowBucket, Frontend, FrontendKey,
    INTERFACE_ROWS, Limit, MAX_BACKENDS, MAX_INTERFACES, MAX_SOURCES, Outcome, Questions,
    REPLY_BUCKETS_PER_FLOW_BUCKET, RESCUE_TRIES, RefusalKey, ReplyBucket, Settings, SourceRange, TABLE_ROW, Traffic,
    Vip, WATCHED_BITS, WAYS, constant, map, ticks,
};
use ipnet::IpNet;
use rustix::time::{ClockId, clock_getres, clock_gettime};

use crate::{
    Error, OBJECT,
    downgrade::{HandedBack, Present},
    flows::{self, FlowTable},
    hook::{self, Hook, HookChoice, Interface},
    leftovers::{self, Connection, Leftover},
    limits::LimitRows,
    map_error,
    migrate::{self, Former, Fresh},
    mode::{self, Mode},
    pins::{self, Pins},
    preflight::Preflight,
    programs::{self, Maps},
    shared::{Elements as _, SharedArray, Words as _},
    slots::{self, Slots},
    sources,
    spec::FrontendSpec,
    tables::{Rows, Tables, uneven_members},
    traffic::{Groups, TrafficRows},
    watched::Watched,
};

/// How to open a data plane.
#[derive(Clone, Debug)]
pub struct Options {
    /// Node name: which pins.
    pub node: String,
    /// Which hooks.
    pub hooks: HookChoice,
    /// Flows that the flow table is to hold when it is made anew; an adopted one keeps its size.
    pub flows: u32,
    /// Seed of the flow hash when none is set yet; not zero.
    pub hash_seed: u64,
    /// What to do with packets. `None`: what was done before; a new data plane is active.
    pub mode: Option<Mode>,
    /// Addresses of this node that may stand for clients' where sources are rewritten ([`DataPath::set_sources`]).
    pub sources: Vec<IpAddr>,
    /// Ports that may stand for clients'. Neither the kernel nor anything else on this node may hand them out.
    pub source_ports: RangeInclusive<u16>,
    /// Refusals (RST, ICMP unreachable) a second and CPU.
    pub refusals: u32,
    /// How often a connection that its backend refuses is brought to another one before its client is told, at most three times;
    /// zero: refusals of connections and of datagrams go to the client.
    pub rescue_tries: u8,
}

impl Options {
    /// Defaults for `node`.
    #[must_use]
    pub fn new(node: &str, hash_seed: u64) -> Self {
        let flows = u32::try_from(DEFAULT_FLOWS).unwrap_or(u32::MAX);
        Self {
            node: node.to_owned(),
            hooks: HookChoice::default(),
            flows,
            hash_seed: hash_seed.max(1),
            mode: None,
            sources: Vec::new(),
            // Above the range from which Linux takes ports of its own by default.
            source_ports: 61_000..=65_535,
            refusals: 1_000,
            rescue_tries: RESCUE_TRIES,
        }
    }
}

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// For frames that arrive, at a tc hook.
    Ingress,
    /// For frames that leave, at a tc hook.
    Egress,
    /// For frames that arrive, at the XDP hook.
    Xdp,
}

/// What to do with what is carried but not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// Remove it.
    Remove,
    /// Leave it in place: what is wanted is known to be incomplete.
    Keep,
}

/// What a backend has at present and had since it got its slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendUse {
    /// Live flows.
    pub flows: u64,
    /// Packets and bytes.
    pub traffic: Traffic,
}

/// What the backends of this node are used for, by frontend and backend address.
pub type BackendUses = StdHashMap<(FrontendKey, SocketAddr), BackendUse>;

/// How a backend failed a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// It answered the SYN with a RST.
    Reset,
    /// An ICMP error came back that says unreachable.
    Unreachable,
    /// It did not answer the SYN, though that was sent again.
    Silence,
}

/// What the flows of a backend met with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The frontend.
    pub frontend: FrontendKey,
    /// The backend.
    pub backend: SocketAddr,
    /// Whether it sent anything but refusals.
    pub answered: bool,
    /// Clients it failed, and how.
    pub failures: Vec<(IpAddr, Failure)>,
}

/// The flow table's fill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTableUse {
    /// Flows it has a record of.
    pub flows: u64,
    /// Flows it was made for.
    pub capacity: u64,
    /// Bytes of kernel memory.
    pub bytes: u64,
}

/// The data plane of one node. Dropping it leaves the packets flowing.
pub struct DataPath {
    object: Ebpf,
    pins: Pins,
    /// What an earlier version of the maps left, until its programs have been replaced.
    former: Option<Former>,
    hooks: HookChoice,
    machine: Preflight,
    frontends: HashMap<MapData, FrontendKey, Frontend>,
    vips: HashMap<MapData, Address, Vip>,
    interfaces: SharedArray<maps::Interface>,
    source_ranges: LpmTrie<MapData, SourceRange, u8>,
    limits: LimitRows<SharedArray<Limit>>,
    source_addresses: Array<MapData, Address>,
    /// What that map holds.
    sources: Vec<Address>,
    settings: SharedArray<Settings>,
    clock: Clock,
    counters: PerCpuArray<MapData, u64>,
    traffic: TrafficRows<SharedArray<Traffic>>,
    refusals: HashMap<MapData, RefusalKey, u64>,
    watched: Watched<SharedArray<u64>>,
    flows: FlowTable<SharedArray<FlowBucket>, SharedArray<ReplyBucket>>,
    slots: Slots<SharedArray<Backend>>,
    tables: Tables<SharedArray<[u32; TABLE_ROW]>>,
    /// Bits in [`Vip::answer_on`] by interface index.
    bits: StdHashMap<u32, u32>,
    /// Hooks by interface index.
    attached: StdHashMap<u32, Hook>,
    /// What the frontends map holds.
    carried: StdHashMap<FrontendKey, Frontend>,
    claims: HashMap<MapData, Address, Claim>,
    questions: HashMap<MapData, Address, Questions>,
    moved: HashMap<MapData, u64, Flow>,
    turns: Array<MapData, u32>,
    attendance: SharedArray<Attendance>,
    /// What the VIPs map holds.
    present_vips: StdHashMap<Address, Vip>,
    /// Frontend numbers that are not in use, below the first that never was.
    free_numbers: BTreeSet<u32>,
    unused_number: u32,
    /// When flows were last looked at for failures, and the packets that each backend had sent by then.
    observed_at: u32,
    answers: StdHashMap<u32, u64>,
    /// What this process has put there; after a restart every frontend is looked at once more.
    applied: StdHashMap<FrontendKey, FrontendSpec>,
}

impl DataPath {
    /// Loads the programs on the node's pinned maps, making those that do not exist, with what version 1 of them held.
    ///
    /// # Errors
    /// [`Error::Preflight`] names what the machine lacks; [`Error::Locked`] that another process drives this node;
    /// [`Error::NewerLayout`] that a newer version does or did.
    pub fn open(options: &Options) -> Result<Self, Error> {
        pins::ensure_bpffs();
        let machine = Preflight::look();
        let problems = machine.problems(&options.hooks);
        if !problems.is_empty() {
            return Err(Error::Preflight(problems));
        }
        migrate::refuse_newer(&options.node)?;
        // Before anything is made: an agent of version 1 may be at work.
        let former = Former::find(&options.node)?;
        let pins = Pins::lock(&options.node)?;
        let mut loader = EbpfLoader::new();
        for name in map::ALL {
            loader.map_pin_path(name, pins.map(name));
        }
        let buckets = buckets(options.flows);
        loader.map_max_entries(map::FLOWS, buckets);
        loader.map_max_entries(map::REPLIES, buckets * REPLY_BUCKETS);
        let groups = Groups::of(nr_cpus().map_err(|(what, source)| Error::Processors { what, source })?);
        loader.map_max_entries(map::TRAFFIC, u32::try_from(groups.rows()).unwrap_or(u32::MAX));
        let is_shared = u32::from(groups.is_shared);
        loader.override_global(constant::TRAFFIC_GROUPS, &groups.count, true);
        loader.override_global(constant::TRAFFIC_IS_SHARED, &is_shared, true);
        let former_flows = former.as_ref().map(Former::flow_table).transpose()?.flatten();
        if let Some(pin) = &former_flows {
            loader.map_pin_path(map::V1_FLOWS, pin);
        }
        let loaded_on = Maps::look(&pins, former_flows.is_some())?;
        let mut object = loader.load(OBJECT)?;
        programs::load(&mut object, &options.hooks, &pins, loaded_on)?;
        for name in map::RETIRED {
            pins::remove(&pins.map(name))?;
        }

        let mut frontends: HashMap<_, FrontendKey, Frontend> = take(&mut object, map::FRONTENDS)?;
        let mut vips: HashMap<_, Address, Vip> = take(&mut object, map::VIPS)?;
        let mut interfaces = shared(&mut object, map::INTERFACES, Some(INTERFACE_ROWS))?;
        let mut backends = shared(&mut object, map::BACKENDS, Some(MAX_BACKENDS))?;
        let mut table = shared(&mut object, map::TABLE, None)?;
        let mut settings: SharedArray<Settings> = shared(&mut object, map::SETTINGS, Some(1))?;
        if let Some(former) = &former {
            former.copy(Fresh {
                frontends: &mut frontends,
                vips: &mut vips,
                interfaces: &mut interfaces,
                backends: &mut backends,
                table: &mut table,
                settings: &mut settings,
            })?;
        }
        let carried: StdHashMap<_, _> = frontends.iter().flatten().collect();
        let present_vips: StdHashMap<_, _> = vips.iter().flatten().collect();
        let slots = Slots::adopt(backends);
        let counters: PerCpuArray<MapData, u64> = take(&mut object, map::COUNTERS)?;
        if counters.len() as usize != (MAX_INTERFACES + 1) * Outcome::ROW {
            return Err(Error::OtherLayout(map::COUNTERS));
        }
        let flow_buckets: SharedArray<FlowBucket> = shared(&mut object, map::FLOWS, None)?;
        let replies = shared(&mut object, map::REPLIES, Some(flow_buckets.count() * REPLY_BUCKETS_PER_FLOW_BUCKET))?;
        let source_addresses: Array<MapData, Address> = take(&mut object, map::SOURCE_ADDRESSES)?;
        let sources: Vec<Address> =
            source_addresses.iter().collect::<Result<_, _>>().map_err(map_error(map::SOURCE_ADDRESSES))?;
        if sources.len() != 2 * MAX_SOURCES {
            return Err(Error::OtherLayout(map::SOURCE_ADDRESSES));
        }
        let seed = set_settings(&mut settings, options, flow_buckets.count(), former_flows.is_some());
        let mut watched = Watched::adopt(shared(&mut object, map::WATCHED, Some(WATCHED_BITS / 64))?);
        carried.keys().for_each(|key| watched.add(&key.address));
        present_vips.keys().for_each(|vip| watched.add(vip));
        slots.used().for_each(|(_, backend)| watch(&mut watched, &backend));
        sources.iter().filter(|source| **source != Address::ZERO).for_each(|source| watched.add(source));
        watched.settle();
        let clock = Clock::read(&mut object)?;
        let mut flows = FlowTable::new(flow_buckets, replies, seed);
        if let Some(former) = &former {
            former.copy_flows(&mut flows, &slots, clock)?;
        }
        let taken: BTreeSet<u32> = carried.values().map(|frontend| frontend.number).collect();
        let unused_number = taken.last().map_or(0, |number| number + 1);
        let mut data_path = Self {
            pins,
            former,
            hooks: options.hooks.clone(),
            machine,
            vips,
            claims: take(&mut object, map::CLAIMS)?,
            questions: take(&mut object, map::QUESTIONS)?,
            moved: take(&mut object, map::FORMER)?,
            turns: take(&mut object, map::TURNS)?,
            attendance: shared(&mut object, map::ATTENDANCE, Some(1))?,
            present_vips,
            interfaces,
            source_ranges: take(&mut object, map::SOURCE_RANGES)?,
            limits: LimitRows::new(shared(&mut object, map::LIMITS, None)?, carried.values().filter_map(limit_row)),
            source_addresses,
            sources,
            clock,
            settings,
            counters,
            traffic: TrafficRows(shared(&mut object, map::TRAFFIC, Some(groups.rows()))?),
            refusals: take(&mut object, map::REFUSALS)?,
            watched,
            flows,
            slots,
            tables: Tables::adopt(table, carried.values().map(rows)),
            bits: StdHashMap::new(),
            attached: StdHashMap::new(),
            frontends,
            carried,
            free_numbers: (0..unused_number).filter(|number| !taken.contains(number)).collect(),
            unused_number,
            observed_at: clock.now(),
            answers: StdHashMap::new(),
            applied: StdHashMap::new(),
            object,
        };
        data_path.set_sources(&options.sources)?;
        Ok(data_path)
    }

    /// The hook in use on an attached interface.
    #[must_use]
    pub fn hook(&self, interface: &Interface) -> Option<Hook> {
        self.attached.get(&interface.index).copied()
    }

    /// Attaches to these interfaces and to no others.
    ///
    /// # Errors
    /// When a program cannot be attached; what was attached stays.
    pub fn attach(&mut self, interfaces: &[Interface]) -> Result<(), Error> {
        if interfaces.len() > MAX_INTERFACES {
            return Err(Error::TooManyInterfaces);
        }
        if let Some(former) = &self.former {
            // Once more now, so that few are missing in the moment of the switch.
            former.copy_flows(&mut self.flows, &self.slots, self.clock)?;
            former.hand_over_links(&self.pins)?;
        }
        self.put_programs(interfaces)?;
        if let Some(former) = &self.former {
            former.copy_flows(&mut self.flows, &self.slots, self.clock)?;
            former.remove()?;
            self.former = None;
            self.end_takeover();
        }
        Ok(())
    }

    /// Puts the programs on these interfaces and takes them from all others.
    fn put_programs(&mut self, interfaces: &[Interface]) -> Result<(), Error> {
        let former: StdHashMap<u32, u32> = self.attached_rows().map(|row| (row.index, 1 << (row.slot & 31))).collect();
        self.bits = answer_bits(interfaces, &former);
        self.attached.clear();
        for interface in interfaces {
            let (hook, why) = self.hooks.choose(&self.machine, &interface.name);
            tracing::debug!(interface = interface.name, hook = hook.name(), why, "chose the hook");
            let slot = u8::try_from(self.answer_bit(interface).trailing_zeros()).unwrap_or(u8::MAX);
            let flags = if hook == Hook::Xdp { maps::Interface::TAKES_FRAMES } else { 0 };
            let row = maps::Interface { mac: interface.mac, slot, flags, index: interface.index, pad: 0 };
            self.set_row(interface, row)?;
            hook::attach(&mut self.object, &self.pins, interface, hook, self.machine.has_tcx())?;
            self.attached.insert(interface.index, hook);
        }
        let former: Vec<u32> = former.into_keys().collect();
        hook::detach_others(&self.pins, interfaces, &former)?;
        for index in former.into_iter().filter(|index| interfaces.iter().all(|interface| interface.index != *index)) {
            self.interfaces.write(index as usize % INTERFACE_ROWS, maps::Interface::NONE);
        }
        Ok(())
    }

    /// Hands everything that version 1 can carry over to it, for its agent to be started next, and ends this version's part.
    /// The programs of this version stay where they are, and keep both versions' flow tables, until that agent replaces them.
    pub(crate) fn hand_back(mut self) -> Result<HandedBack, Error> {
        let Some(heir) = self.former.take() else { return Err(Error::NoHeir) };
        let rows: Vec<maps::Interface> = self.attached_rows().collect();
        // An interface that is gone has no packets.
        let interfaces: Vec<Interface> = rows.iter().filter_map(|row| Interface::of(row.index).ok()).collect();
        let left = heir.fill(&Present {
            frontends: &self.carried,
            vips: &self.present_vips,
            interfaces: &rows,
            slots: &self.slots,
            tables: &self.tables,
            hash_seed: self.settings.read(0).hash_seed,
        })?;
        self.put_programs(&interfaces)?;
        // From here on each new flow is in both tables; those from before follow.
        let flows = heir.take_flows(&self.flows, &self.slots, self.clock)?;
        heir.take_links(&self.pins)?;
        self.pins.remove_at_once()?;
        Ok(HandedBack { frontends: self.carried.len() - left.len(), flows, left })
    }

    fn attached_rows(&self) -> impl Iterator<Item = maps::Interface> + '_ {
        self.rows().map(|(_, row)| row).filter(|row| row.slot != maps::Interface::NOT_ATTACHED)
    }

    /// No program of version 1 sees packets any more.
    fn end_takeover(&self) {
        self.change_settings(|settings| Settings { takes_over: 0, ..settings });
    }

    /// Changes the word of the settings that has the counts of sources and [`Settings::takes_over`]: that alone, for the same
    /// reason as in `forget_next_hops`.
    fn change_settings(&self, change: impl Fn(Settings) -> Settings) {
        let word = |settings: Settings| {
            let Settings { sources_v4, sources_v6, rescue_tries, takes_over, .. } = settings;
            u32::from_ne_bytes([sources_v4, sources_v6, rescue_tries, takes_over])
        };
        let present = self.settings.read(0);
        self.settings.exchange(0, offset_of!(Settings, sources_v4), word(present), word(change(present)));
    }

    /// Lets these addresses of this node stand for clients' where sources are rewritten, in place of those before; of each
    /// family at most eight, of more those that do already. Flows keep the address they have, as far as there is room for
    /// what is not wanted any more.
    ///
    /// # Errors
    /// When the map cannot be written: try again.
    pub fn set_sources(&mut self, wanted: &[IpAddr]) -> Result<(), Error> {
        let wanted: BTreeSet<Address> = wanted.iter().map(|address| Address::from(*address)).collect();
        let (v4, v6) = wanted.into_iter().partition(Address::is_v4);
        self.set_sources_from(0, v4)?;
        self.set_sources_from(MAX_SOURCES, v6)
    }

    /// The same for one family, whose rows begin at `first`.
    fn set_sources_from(&mut self, first: usize, wanted: Vec<Address>) -> Result<(), Error> {
        let present = self.sources[first..first + MAX_SOURCES].to_vec();
        let wanted = sources::chosen(&present, wanted);
        let holes = sources::holes(&present, &wanted);
        if let Some(hole) = holes.first() {
            if holes.iter().any(|row| present[*row] != Address::ZERO) {
                // No new flow names what is to be replaced, from here on.
                self.count_sources(first, *hole);
            }
            let named =
                self.flows.sources().into_iter().filter_map(|row| usize::from(row).checked_sub(first)).collect();
            for step in sources::arrange(&present, &wanted, named) {
                self.arrange_sources(first, step)?;
            }
        }
        self.count_sources(first, wanted.len());
        Ok(())
    }

    fn arrange_sources(&mut self, first: usize, step: sources::Step) -> Result<(), Error> {
        let number = |row: usize| u8::try_from(first + row).unwrap_or(u8::MAX);
        match step {
            sources::Step::Write { row, address } => {
                let failed = map_error(map::SOURCE_ADDRESSES);
                self.source_addresses.set(number(row).into(), address, 0).map_err(failed)?;
                let former = std::mem::replace(&mut self.sources[first + row], address);
                self.watched.add(&address);
                if former != Address::ZERO {
                    self.watched.remove(&former);
                }
            }
            sources::Step::Move { from, to } => self.flows.move_source(number(from), number(to)),
            sources::Step::GiveUp { row } => {
                let slots = &self.slots;
                let is_named = |flow: &Flow| flows::source(flow) == Some(number(row));
                self.flows.sweep(is_named, &self.sources, |slot| slots.get_or_free(slot));
            }
        }
        Ok(())
    }

    /// Has new flows get the addresses of so many rows of a family.
    fn count_sources(&self, first: usize, count: usize) {
        let count = u8::try_from(count).unwrap_or(u8::MAX);
        self.change_settings(|settings| match first {
            0 => Settings { sources_v4: count, ..settings },
            _ => Settings { sources_v6: count, ..settings },
        });
    }

    fn rows(&self) -> impl Iterator<Item = (usize, maps::Interface)> + '_ {
        (0..INTERFACE_ROWS).map(|row| (row, self.interfaces.read(row))).filter(|(_, row)| row.index != 0)
    }

    fn set_row(&mut self, interface: &Interface, row: maps::Interface) -> Result<(), Error> {
        let place = interface.index as usize % INTERFACE_ROWS;
        let present = self.interfaces.read(place);
        let is_in_use = self.attached.contains_key(&present.index);
        if present.index != interface.index && is_in_use {
            return Err(Error::SameRow(interface.name.clone()));
        }
        if present != row {
            self.interfaces.write(place, row);
        }
        Ok(())
    }

    /// Forgets what the programs remember of routes and neighbours; they ask the kernel again.
    pub fn forget_next_hops(&mut self) {
        // This word alone: the mode beside it is also changed by others (`switch_mode`).
        let epoch = self.next_hop_epoch();
        self.settings.exchange(0, offset_of!(Settings, next_hop_epoch), epoch, epoch.wrapping_add(1));
    }

    /// Changes with every [`Self::forget_next_hops`].
    #[must_use]
    pub fn next_hop_epoch(&self) -> u32 {
        self.settings.read(0).next_hop_epoch
    }

    /// Changes at once what the programs do with packets.
    pub fn set_mode(&mut self, mode: Mode) {
        mode::set(&self.settings, mode);
    }

    /// What the programs do with packets.
    #[must_use]
    pub fn mode(&self) -> Mode {
        mode::get(&self.settings)
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
    pub fn set_frontends<S: Borrow<FrontendSpec>>(
        &mut self,
        wanted: &[S],
        others: Others,
        now: Instant,
    ) -> Vec<(FrontendKey, Error)> {
        let mut failures = self.change_frontends(wanted, now);
        if others == Others::Keep {
            return failures;
        }
        let wanted: HashSet<FrontendKey> = wanted.iter().map(|spec| spec.borrow().key).collect();
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

    /// Carries these frontends, and leaves the others as they are. Failures are those of [`Self::set_frontends`].
    pub fn change_frontends<S: Borrow<FrontendSpec>>(
        &mut self,
        changed: &[S],
        now: Instant,
    ) -> Vec<(FrontendKey, Error)> {
        let mut failures = Vec::new();
        for spec in changed.iter().map(Borrow::borrow) {
            if self.applied.get(&spec.key) != Some(spec)
                && let Err(error) = self.set_frontend(spec, now)
            {
                failures.push((spec.key, error));
            }
        }
        failures
    }

    /// Whether this frontend's packets are balanced, if not necessarily by its newest table.
    #[must_use]
    pub fn carries(&self, frontend: FrontendKey) -> bool {
        self.carried.contains_key(&frontend)
    }

    /// Whether this frontend is carried as an earlier process had it, and this one has said nothing of it.
    #[must_use]
    pub fn is_adopted(&self, frontend: FrontendKey) -> bool {
        self.carried.contains_key(&frontend) && !self.applied.contains_key(&frontend)
    }

    /// Lets frontends take new connections again that an earlier process closed at its end.
    ///
    /// # Errors
    /// When the map cannot be written: try again.
    pub fn reopen(&mut self) -> Result<(), Error> {
        for (key, frontend) in self.carried.iter_mut().filter(|(_, frontend)| frontend.flags & Frontend::CLOSED != 0) {
            let open = Frontend { flags: frontend.flags & !Frontend::CLOSED, ..*frontend };
            self.frontends.insert(*key, open, 0).map_err(map_error(map::FRONTENDS))?;
            *frontend = open;
        }
        Ok(())
    }

    /// Carries one frontend: what it gets first, the table beside the old one, then the switch, then what it loses. Until the
    /// switch new flows are those of the old entry, and meet all that it needs.
    fn set_frontend(&mut self, spec: &FrontendSpec, now: Instant) -> Result<(), Error> {
        let slots = self.put_backends(spec)?;
        let mut table: Vec<u32> = spec
            .table
            .iter()
            .map(|index| slots.get(*index as usize).copied().ok_or(Error::BadTable(spec.key)))
            .collect::<Result<_, _>>()?;
        let table_size = u32::try_from(table.len()).map_err(|_| Error::NoTableSpace { slots: u32::MAX as usize })?;
        let members = uneven_members(&table);
        table.extend_from_slice(&members);
        let former = self.carried.get(&spec.key).copied();
        let old = former.as_ref().map(rows);
        let number = match former {
            Some(former) => former.number,
            None => self.free_numbers.first().copied().unwrap_or(self.unused_number),
        };
        if number as usize >= self.limits.capacity() {
            return Err(Error::NoFrontend { frontends: self.limits.capacity() });
        }
        // After a restart most tables are the same: then there is room even when a copy of each would not fit.
        let kept = old.filter(|rows| self.tables.holds(*rows, &table));
        let place = match kept {
            Some(rows) => rows,
            None => self.tables.write(&table, now)?,
        };
        let mut flags = 0;
        for (bit, is_set) in [
            (Frontend::SOURCE_AFFINITY, spec.source_affinity),
            (Frontend::SOURCE_RANGES, !spec.source_ranges.is_empty()),
            (Frontend::LIMITED, spec.limits.is_some()),
            (Frontend::REWRITE_SOURCE, spec.rewrite_source),
            (Frontend::PER_PACKET, spec.per_packet),
            (Frontend::CLOSED, spec.closed),
        ] {
            flags |= if is_set { bit } else { 0 };
        }
        let limit = match &spec.limits {
            Some(limits) => self.limits.put(limits, former.as_ref().and_then(limit_row)),
            None => 0,
        };
        let members = u32::try_from(members.len()).unwrap_or(0);
        let flags = Frontend::with_members(flags, members);
        let frontend = Frontend { table_row: place.first, table_size, flags, number, limit };
        let mut stale = self.stale_ranges(number, spec);
        if former.is_none() {
            // Those of a frontend that had the number before: they are to let nobody in here.
            self.shut_out(std::mem::take(&mut stale));
        }
        let switched = self
            .let_in(number, spec)
            .and_then(|()| self.frontends.insert(spec.key, frontend, 0).map_err(map_error(map::FRONTENDS)));
        if let Err(error) = switched {
            if kept.is_none() {
                self.tables.retire(place, now);
            }
            return Err(error);
        }
        self.slots.settle(spec.key, &spec.backends);
        self.shut_out(stale);
        if former.is_none() {
            self.watched.add(&spec.key.address);
            if !self.free_numbers.remove(&number) {
                self.unused_number = number + 1;
            }
        }
        self.carried.insert(spec.key, frontend);
        if spec.per_packet && former.is_none_or(|former| former.flags & Frontend::PER_PACKET == 0) {
            self.forget_flows(spec.key);
            self.turns.set(number, 0, 0).map_err(map_error(map::TURNS))?;
        }
        if let (Some(old), None) = (old, kept) {
            self.tables.retire(old, now);
        }
        let before = self.applied.insert(spec.key, spec.clone());
        if before.is_some_and(|before| before.limits.is_some() && before.limits != spec.limits) {
            self.release_limits();
        }
        Ok(())
    }

    /// Removes a frontend's flows: its packets would follow them for as long as they come.
    fn forget_flows(&mut self, key: FrontendKey) {
        let slots = &self.slots;
        self.flows.sweep(
            |flow| (flow.vip, flow.vip_port, flow.protocol) == (key.address, key.port, key.protocol),
            &self.sources,
            |slot| slots.get_or_free(slot),
        );
    }

    /// Gives every backend its slot, and what it is to have more than before.
    fn put_backends(&mut self, spec: &FrontendSpec) -> Result<Vec<u32>, Error> {
        let of_all =
            if spec.direct { Backend::DIRECT } else { 0 } | if spec.limits.is_some() { Backend::LIMITED } else { 0 };
        let mut slots = Vec::with_capacity(spec.backends.len());
        for backend in &spec.backends {
            let is_new = self.slots.find(spec.key, backend.address).is_none();
            let flags = of_all | if backend.elsewhere { Backend::REWRITE_SOURCE } else { 0 };
            let slot = self.slots.put(spec.key, backend, flags)?;
            if is_new {
                watch(&mut self.watched, &self.slots.get(slot));
            }
            slots.push(slot);
        }
        Ok(slots)
    }

    /// The source ranges that are in the map for a frontend, and are not to be any more.
    fn stale_ranges(&self, number: u32, spec: &FrontendSpec) -> Vec<Key<SourceRange>> {
        // By their keys: one range can be written in several ways.
        let keys = |ranges: &[IpNet]| ranges.iter().map(|range| range_key(number, *range)).collect::<Vec<_>>();
        let name = |key: &Key<SourceRange>| (key.prefix_len(), key.data().address);
        let wanted: HashSet<(u32, [u8; 16])> = keys(&spec.source_ranges).iter().map(name).collect();
        let present = match self.applied.get(&spec.key) {
            Some(applied) => keys(&applied.source_ranges),
            // An earlier process's, or those of a frontend that had the number before.
            None => self.source_ranges.keys().flatten().filter(|key| key.data().frontend == number).collect(),
        };
        present.into_iter().filter(|key| !wanted.contains(&name(key))).collect()
    }

    /// Writes who may connect to a frontend.
    fn let_in(&mut self, number: u32, spec: &FrontendSpec) -> Result<(), Error> {
        for range in &spec.source_ranges {
            let value = if range.addr().is_ipv4() { SourceRange::ALL } else { SourceRange::IPV6 };
            self.source_ranges.insert(&range_key(number, *range), value, 0).map_err(map_error(map::SOURCE_RANGES))?;
        }
        Ok(())
    }

    /// Removes ranges of those who may connect.
    fn shut_out(&mut self, stale: Vec<Key<SourceRange>>) {
        for key in stale {
            let _ = self.source_ranges.remove(&key);
        }
    }

    /// Frees the rows of limits that no frontend has any more.
    fn release_limits(&mut self) {
        let used: HashSet<&str> =
            self.applied.values().filter_map(|spec| Some(&*spec.limits.as_ref()?.shared_by)).collect();
        self.limits.keep(&used);
    }

    /// Takes no new flows for a frontend; established TCP flows go on.
    fn remove_frontend(&mut self, key: FrontendKey, now: Instant) -> Result<(), Error> {
        self.frontends.remove(&key).map_err(map_error(map::FRONTENDS))?;
        if let Some(old) = self.carried.remove(&key) {
            if let Some(row) = limit_row(&old)
                && !self.carried.values().any(|other| limit_row(other) == Some(row))
            {
                self.limits.abandon(row);
            }
            self.tables.retire(rows(&old), now);
            self.watched.remove(&key.address);
            self.free_numbers.insert(old.number);
            let refused: Vec<RefusalKey> =
                self.refusals.keys().flatten().filter(|refusal| refusal.frontend == old.number).collect();
            for refusal in refused {
                let _ = self.refusals.remove(&refusal);
            }
        }
        self.slots.bury_others(key, &[]);
        self.applied.remove(&key);
        self.release_limits();
        Ok(())
    }

    /// Carries these VIPs; a VIP's packets are balanced whether or not this node answers for it.
    ///
    /// # Errors
    /// When the map takes no more.
    pub fn set_vips(&mut self, wanted: &StdHashMap<IpAddr, Vip>, others: Others) -> Result<(), Error> {
        if others == Others::Remove {
            let gone: Vec<Address> =
                self.present_vips.keys().filter(|vip| !wanted.contains_key(&vip.ip())).copied().collect();
            for vip in gone {
                self.vips.remove(&vip).map_err(map_error(map::VIPS))?;
                // Perhaps nobody has asked for it.
                let _ = self.questions.remove(&vip);
                self.present_vips.remove(&vip);
                self.watched.remove(&vip);
            }
        }
        for (address, value) in wanted {
            let vip = Address::from(*address);
            let present = self.present_vips.get(&vip);
            if present == Some(value) {
                continue;
            }
            if present.is_none() {
                self.watched.add(&vip);
            }
            self.vips.insert(vip, *value, 0).map_err(map_error(map::VIPS))?;
            self.present_vips.insert(vip, *value);
        }
        Ok(())
    }

    /// The VIPs that are answered for on some interface, with the bits of those ([`Self::answer_bit`]).
    pub fn answered(&self) -> impl Iterator<Item = (IpAddr, u32)> + '_ {
        let all = self.present_vips.iter().map(|(vip, value)| (vip.ip(), value.answer_on));
        all.filter(|(_, answer_on)| *answer_on != 0)
    }

    /// Answers for VIPs for so long from now on, until this is called again; `None`: for good. With `yields` the programs stop
    /// answering for a VIP that another host claims, until [`Self::settle_claim`]; `withdrawn`, they answer only those who know
    /// already where it is, and make sure.
    pub fn attend(&mut self, limit: Option<Duration>, yields: bool, withdrawn: bool) {
        let limit = limit.map(|limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
        let until = limit.map_or(0, |limit| monotonic_ns().saturating_add(limit));
        self.attendance.write(0, Attendance { until, yields: yields.into(), withdrawn: withdrawn.into() });
    }

    /// Whether VIPs are answered for at present, by what this or an earlier process has said.
    #[must_use]
    pub fn is_attended(&self) -> bool {
        let Attendance { until, withdrawn, .. } = self.attendance.read(0);
        withdrawn == 0 && (until == 0 || monotonic_ns() < until)
    }

    /// The VIPs that other hosts claim and that are not answered for therefore, each with the hardware address of who does.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn claims(&self) -> Result<Vec<(IpAddr, [u8; 6])>, Error> {
        self.claims
            .iter()
            .map(|entry| entry.map(|(vip, claim)| (vip.ip(), claim.mac)).map_err(map_error(map::CLAIMS)))
            .collect()
    }

    /// ARP requests and neighbour solicitations for owned VIPs, for each that was asked for, since it became a VIP.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn questions(&self) -> Result<BTreeMap<IpAddr, Questions>, Error> {
        self.questions
            .iter()
            .map(|entry| entry.map(|(vip, questions)| (vip.ip(), questions)).map_err(map_error(map::QUESTIONS)))
            .collect()
    }

    /// Forgets that another host claims a VIP.
    pub fn settle_claim(&mut self, vip: IpAddr) {
        // It may have been forgotten already.
        let _ = self.claims.remove(&vip.into());
    }

    /// Removes flows that are over, frees the slots of backends that are gone and have no live flow left, and counts the
    /// flows of frontends that may have only so many.
    pub fn reap(&mut self) {
        let now = self.clock.now();
        let slots = &self.slots;
        let backend = |slot: u32| slots.get_or_free(slot);
        self.flows.sweep(
            |flow| flow.is_over(now) || backend(flow.backend).generation != flow.generation,
            &self.sources,
            backend,
        );
        let late: Vec<u64> = self
            .moved
            .iter()
            .flatten()
            .filter(|(_, flow)| flow.quiet(now) >= ticks::TCP_OPENING)
            .map(|(key, _)| key)
            .collect();
        for key in late {
            // The programs may have put another one in its place, which is no loss: it is as if the map were full.
            let _ = self.moved.remove(&key);
        }
        let mut live = StdHashMap::new();
        let mut present: StdHashMap<u32, u32> = StdHashMap::new();
        self.flows.for_each(|flow| {
            if flows::is_live(flow, now, ticks::TCP_LINGER) {
                *live.entry(flow.backend).or_insert(0_u64) += 1;
            }
            if !flow.is_closed() {
                *present.entry(flow.backend).or_insert(0) += 1;
            }
        });
        let free: HashSet<u32> = self
            .slots
            .used()
            .filter(|(slot, backend)| backend.state == maps::backend_state::TOMBSTONE && !live.contains_key(slot))
            .map(|(slot, _)| slot)
            .collect();
        if !free.is_empty() {
            let slots = &self.slots;
            let backend = |slot: u32| slots.get_or_free(slot);
            // Before the slot forgets the address by which the reply index knows them.
            self.flows.sweep(|flow| free.contains(&flow.backend), &self.sources, backend);
            for slot in free {
                let backend = self.slots.get(slot);
                self.watched.remove(&backend.address);
                self.watched.remove(&backend.frontend.address);
                self.slots.free(slot);
                self.traffic.forget(slot);
            }
        }
        self.count_flows(&present);
    }

    /// How many backends have ceased to be endpoints so far, those included that an earlier process left as such.
    #[must_use]
    pub fn burials(&self) -> u64 {
        self.slots.burials()
    }

    /// Backends that are no longer endpoints, with the TCP connections they still have.
    #[must_use]
    pub fn leftovers(&self) -> Vec<Leftover> {
        leftovers::find(&self.slots, &self.flows, &self.sources, self.clock.now())
            .into_iter()
            .map(|(slot, leftover)| Leftover { packets_out: self.traffic.of(slot).packets_out, ..leftover })
            .collect()
    }

    /// Has the next packet of a client whose backend is no longer an endpoint answered by a reset, unless the backend says
    /// something before. `false`: there is no such connection any more.
    pub fn abandon(&mut self, connection: &Connection) -> bool {
        leftovers::abandon(&self.flows, connection)
    }

    /// Corrects the programs' count of the flows of limited frontends.
    fn count_flows(&mut self, present: &StdHashMap<u32, u32>) {
        let mut by_row: StdHashMap<u32, u32> = self.limits.rows().map(|row| (row, 0)).collect();
        for (slot, flows) in present {
            if let Some(row) = self.carried.get(&self.slots.get(*slot).frontend).and_then(limit_row) {
                *by_row.entry(row).or_insert(0) += flows;
            }
        }
        for (row, flows) in by_row {
            self.limits.set_present(row, flows);
        }
    }

    /// What the flows of these frontends' backends have met with since the last call: the evidence for passive ejection.
    pub fn observe(&mut self, frontends: &HashSet<FrontendKey>) -> Vec<Observed> {
        let now = self.clock.now();
        let since = std::mem::replace(&mut self.observed_at, now);
        let mut failures: StdHashMap<u32, Vec<(IpAddr, Failure)>> = StdHashMap::new();
        let mut note = |flow: &Flow| {
            if let Some(failure) = flows::failure(flow)
                && flow.quiet(now) <= now.wrapping_sub(since)
            {
                failures.entry(flow.backend).or_default().push((flow.client.ip(), failure));
            }
        };
        self.flows.for_each(&mut note);
        // Flows that were brought to another backend failed none the less. An entry that goes meanwhile was an old one.
        for (_, flow) in self.moved.iter().flatten() {
            if self.slots.get_or_free(flow.backend).generation == flow.generation {
                note(&flow);
            }
        }
        let mut observed = Vec::new();
        let mut answers = StdHashMap::new();
        for (slot, backend) in self.slots.used().filter(|(_, backend)| frontends.contains(&backend.frontend)) {
            let packets = self.traffic.of(slot).packets_out;
            let before = self.answers.get(&slot).copied().unwrap_or(packets);
            answers.insert(slot, packets);
            let failures = failures.remove(&slot).unwrap_or_default();
            // A RST is a packet, too.
            let resets = failures.iter().filter(|(_, failure)| *failure == Failure::Reset).count() as u64;
            let answered = packets.saturating_sub(before) > resets;
            if answered || !failures.is_empty() {
                observed.push(Observed {
                    frontend: backend.frontend,
                    backend: slots::address(&backend),
                    answered,
                    failures,
                });
            }
        }
        self.answers = answers;
        observed
    }

    /// Packets by outcome since the maps were made, all CPUs and interfaces together.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Vec<(Outcome, u64)>, Error> {
        let mut sums: Vec<(Outcome, u64)> = Outcome::ALL.iter().map(|outcome| (*outcome, 0)).collect();
        for row in 0..=MAX_INTERFACES {
            for (sum, (_, packets)) in sums.iter_mut().zip(self.row_counters(row)?) {
                sum.1 += packets;
            }
        }
        Ok(sums)
    }

    /// Packets by outcome on one attached interface.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn interface_counters(&self, interface: &Interface) -> Result<Vec<(Outcome, u64)>, Error> {
        match self.bits.get(&interface.index) {
            Some(bit) => self.row_counters(bit.trailing_zeros() as usize),
            None => Ok(Vec::new()),
        }
    }

    fn row_counters(&self, row: usize) -> Result<Vec<(Outcome, u64)>, Error> {
        let first = u32::try_from(row * Outcome::ROW).unwrap_or(u32::MAX);
        Outcome::ALL
            .iter()
            .map(|outcome| {
                let cpus = self.counters.get(&(first + outcome.index()), 0).map_err(map_error(map::COUNTERS))?;
                Ok((*outcome, cpus.iter().sum()))
            })
            .collect()
    }

    /// What each frontend did not take since it is carried, by reason.
    #[must_use]
    pub fn refusals(&self) -> StdHashMap<FrontendKey, Vec<(Outcome, u64)>> {
        let frontends: StdHashMap<u32, FrontendKey> =
            self.carried.iter().map(|(key, frontend)| (frontend.number, *key)).collect();
        let mut refusals: StdHashMap<FrontendKey, Vec<(Outcome, u64)>> = StdHashMap::new();
        for (key, packets) in self.refusals.iter().flatten() {
            let outcome = Outcome::ALL.get(key.outcome as usize);
            if let (Some(frontend), Some(outcome)) = (frontends.get(&key.frontend), outcome) {
                refusals.entry(*frontend).or_default().push((*outcome, packets));
            }
        }
        refusals
    }

    /// Live flows and traffic by backend, tombstones among them.
    #[must_use]
    pub fn backend_uses(&self) -> BackendUses {
        let now = self.clock.now();
        let mut live: StdHashMap<u32, u64> = StdHashMap::new();
        self.flows.for_each(|flow| {
            if flows::is_live(flow, now, 0) && self.slots.get_or_free(flow.backend).generation == flow.generation {
                *live.entry(flow.backend).or_insert(0) += 1;
            }
        });
        self.slots
            .used()
            .map(|(slot, backend)| {
                let flows = live.get(&slot).copied().unwrap_or(0);
                let traffic = self.traffic.of(slot);
                ((backend.frontend, slots::address(&backend)), BackendUse { flows, traffic })
            })
            .collect()
    }

    /// Those of some VIPs that established flows lead to.
    #[must_use]
    pub fn with_connections(&self, vips: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let vips: HashSet<Address> = vips.iter().copied().map(Address::from).collect();
        let (now, mut found) = (self.clock.now(), BTreeSet::new());
        self.flows.for_each(|flow| {
            if vips.contains(&flow.vip) && flow.is_established() && !flow.is_over(now) {
                found.insert(flow.vip.ip());
            }
        });
        found
    }

    /// How full the flow table is.
    #[must_use]
    pub fn flow_table(&self) -> FlowTableUse {
        let flows = self.flows.len();
        let buckets = u64::from(self.flows.buckets());
        let bytes = size_of::<FlowBucket>() + REPLY_BUCKETS_PER_FLOW_BUCKET * size_of::<ReplyBucket>();
        FlowTableUse { flows, capacity: buckets * COMFORTABLE_WAYS, bytes: buckets * bytes as u64 }
    }

    /// Backends that are no longer endpoints but still have their slot, by frontend.
    #[must_use]
    pub fn tombstones(&self) -> Vec<(FrontendKey, SocketAddr)> {
        self.slots
            .used()
            .filter(|(_, backend)| backend.state == maps::backend_state::TOMBSTONE)
            .map(|(_, backend)| (backend.frontend, slots::address(&backend)))
            .collect()
    }

    /// Runs one of the programs on a frame, as if `interface` had received or were about to send it, and returns the
    /// hook's verdict (`TC_ACT_…` or `XDP_…`) with the frame as the program left it. Counts and records flows like real
    /// traffic.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn run_once(&mut self, program: Program, interface: u32, frame: &[u8]) -> Result<(i32, Vec<u8>), Error> {
        programs::run_once(&mut self.object, program, interface, frame)
    }

    /// Withdraws every VIP, detaches and removes all pins.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn uninstall(self) -> Result<(), Error> {
        if let Some(former) = self.former {
            former.uninstall()?;
        }
        self.pins.uninstall()
    }
}

/// Buckets of the reply index for each of the flow table.
#[expect(clippy::cast_possible_truncation, reason = "four")]
const REPLY_BUCKETS: u32 = REPLY_BUCKETS_PER_FLOW_BUCKET as u32;
/// Ways of a bucket that are full on average when the table holds what it was made for: with two buckets to choose from, the
/// fullest then has hardly more than two above the average.
const COMFORTABLE_WAYS: u64 = WAYS as u64 - 2;

/// Buckets of a table for this many flows.
fn buckets(flows: u32) -> u32 {
    u32::try_from(u64::from(flows).div_ceil(COMFORTABLE_WAYS)).unwrap_or(u32::MAX).max(1)
}

/// The programs' clock, which runs beside the monotonic one, each from its own beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Its tick at some moment.
    tick: u32,
    /// The monotonic clock at that moment, in nanoseconds.
    nanoseconds: u64,
}

impl Clock {
    /// Asks the programs what time it is.
    fn read(object: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self { tick: programs::clock(object)?, nanoseconds: monotonic_ns() })
    }

    /// One whose ticks are those of the monotonic clock.
    #[cfg(test)]
    pub(crate) fn monotonic() -> Self {
        let nanoseconds = monotonic_ns();
        Self { tick: ticks::from_ns(nanoseconds), nanoseconds }
    }

    /// The tick of a time of the monotonic clock, which version 1 of the maps kept; both in ticks.
    pub(crate) const fn tick_of_monotonic(self, tick: u32) -> u32 {
        tick.wrapping_add(self.tick).wrapping_sub(ticks::from_ns(self.nanoseconds))
    }

    /// The time of the monotonic clock, in nanoseconds, at a tick that is past.
    pub(crate) fn monotonic_of_tick(self, tick: u32) -> u64 {
        monotonic_ns().saturating_sub(u64::from(self.now().wrapping_sub(tick)) << 20)
    }

    /// The tick now.
    pub(crate) fn now(self) -> u32 {
        self.tick.wrapping_add(ticks::from_ns(monotonic_ns().saturating_sub(self.nanoseconds)))
    }
}

fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Nanoseconds in a jiffy: the coarse clock moves once in each.
fn jiffy_ns() -> u64 {
    let resolution = clock_getres(ClockId::MonotonicCoarse);
    u64::try_from(resolution.tv_nsec).unwrap_or(0).max(1)
}

fn range_key(number: u32, range: IpNet) -> Key<SourceRange> {
    let bits = u32::from(range.prefix_len()) + if range.addr().is_ipv4() { SourceRange::MAPPED_BITS } else { 0 };
    let data = SourceRange { frontend: number, address: Address::from(range.network()).0 };
    Key::new(SourceRange::FRONTEND_BITS + bits, data)
}

/// Writes the settings, and returns the hash seed: that of the pinned map if it has one, because flows must keep their
/// places and backends across a restart.
fn set_settings(map: &mut SharedArray<Settings>, options: &Options, buckets: usize, takes_over: bool) -> u64 {
    let present = map.read(0);
    let hash_seed = if present.hash_seed == 0 { options.hash_seed } else { present.hash_seed };
    let ports = &options.source_ports;
    map.write(
        0,
        Settings {
            hash_seed,
            flow_buckets: u32::try_from(buckets).unwrap_or(u32::MAX),
            next_hop_epoch: present.next_hop_epoch.wrapping_add(1),
            mode: options.mode.map_or(present.mode, Mode::raw),
            refusals: options.refusals,
            source_port: *ports.start(),
            source_ports: u16::try_from(ports.len()).unwrap_or(u16::MAX),
            rescue_tries: options.rescue_tries.min(RESCUE_TRIES),
            takes_over: takes_over.into(),
            jiffy_ns: jiffy_ns(),
            ..present
        },
    );
    hash_seed
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

/// Watches both ends of a backend's flows as long as it has its slot: its replies must be seen from its first flow on, and
/// its clients' packets after its frontend, and every other one at that address, is gone.
fn watch(watched: &mut Watched<SharedArray<u64>>, backend: &Backend) {
    watched.add(&backend.address);
    watched.add(&backend.frontend.address);
}

fn rows(frontend: &Frontend) -> Rows {
    Rows::of(frontend.table_row, frontend.entries())
}

/// Its row in the limits map, if it is limited.
fn limit_row(frontend: &Frontend) -> Option<u32> {
    (frontend.flags & Frontend::LIMITED != 0).then_some(frontend.limit)
}

fn take<M: TryFrom<Map, Error = aya::maps::MapError>>(object: &mut Ebpf, name: &'static str) -> Result<M, Error> {
    let map = object.take_map(name).ok_or_else(|| missing(name))?;
    M::try_from(map).map_err(map_error(name))
}

fn data(object: &mut Ebpf, name: &'static str) -> Result<MapData, Error> {
    match object.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(missing(name)),
    }
}

/// Maps an array of `count` elements, or of however many it has, into this process. A pinned one may be another build's: then it must not be touched.
fn shared<T: aya::Pod>(object: &mut Ebpf, name: &'static str, count: Option<usize>) -> Result<SharedArray<T>, Error> {
    let data = data(object, name)?;
    let info = data.info().map_err(map_error(name))?;
    let present = info.max_entries() as usize;
    if info.value_size() as usize != size_of::<T>() || count.is_some_and(|count| count != present) {
        return Err(Error::OtherLayout(name));
    }
    let count = present;
    SharedArray::map(data.fd().as_fd(), count).map_err(|source| Error::MapCall { map: name, source })
}

fn missing(name: &'static str) -> Error {
    Error::Map { map: name, source: aya::maps::MapError::InvalidName { name: name.to_owned() } }
}
