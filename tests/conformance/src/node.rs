//! A node with the object loaded, and the neighbours that fixtures name.
//!
//! ```text
//!  client, router ── uplink │ node │ pods ── backend1, backend2, backend3
//! ```
//! The neighbours exist as entries of the kernel's tables only: a test run sends nothing.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};
use aya::maps::{Map, MapData};
use evenkeel_frames::{Frame, Layer, Names};
use evenkeel_lab::{Lab, Namespace, Sandbox};
use evenkeel_loader::{
    BackendSpec, DataPath, FrontendSpec, HookChoice, Interface, Limits, Options, Others, PIN_ROOT, Program, State,
};
use evenkeel_maps::{
    Attendance, Flow, FlowBucket, FragmentKey, FragmentPorts, FrontendKey, Outcome, ReplyBucket, SCHEMA_VERSION,
    Verdict, Vip, WAYS, map, ticks,
};

use crate::{
    counters::Counters,
    fixture::{Action, BackendState, Forwarding, Hook, Mode, Ownership, Port, Seen, Service, Variant},
};

/// A neighbour: name, hardware address, IPv4 and IPv6 address, and the interface it is behind.
type Neighbour = (&'static str, [u8; 6], &'static str, &'static str, &'static str);

const NEIGHBOURS: &[Neighbour] = &[
    ("client", [2, 0, 0, 0, 0, 0xc1], "10.77.0.10", "fd77::10", UPLINK),
    ("client2", [2, 0, 0, 0, 0, 0xc2], "10.77.0.11", "fd77::11", UPLINK),
    ("router", [2, 0, 0, 0, 0, 0xcf], "10.77.0.1", "fd77::1", UPLINK),
    ("backend1", [2, 0, 0, 0, 0, 0xb1], "10.77.1.11", "fd77:1::11", PODS),
    ("backend2", [2, 0, 0, 0, 0, 0xb2], "10.77.1.12", "fd77:1::12", PODS),
    ("backend3", [2, 0, 0, 0, 0, 0xb3], "10.77.1.13", "fd77:1::13", PODS),
];

/// The node's own interfaces, as neighbours see them.
const INTERFACES: &[(&str, [u8; 6], &str, &str)] =
    &[("node", [2, 0, 0, 0, 0, 1], "10.77.0.2", "fd77::2"), ("gateway", [2, 0, 0, 0, 0, 2], "10.77.1.1", "fd77:1::1")];

/// Addresses without a hardware address of their own: VIPs, a host behind the router, one that no route leads to.
const OTHERS: &[(&str, &str, &str)] = &[
    ("vip", "10.77.0.100", "fd77::100"),
    ("vip2", "10.77.0.101", "fd77::101"),
    ("stranger", "203.0.113.9", "2001:db8::9"),
    ("nowhere", "198.51.100.9", "2001:db8:dead::9"),
];

const UPLINK: &str = "uplink";
const PODS: &str = "pods";
/// The node's name, by which its maps are pinned.
const NODE: &str = "conformance";
/// Flows the table is made for: few, so that it is emptied quickly.
const FLOWS: u32 = 2048;
/// Slots of a Maglev table.
const TABLE: usize = 251;
/// Slots of the first backend in the table of a service that is `heavy`.
const HEAVY: usize = 1023;

/// The names that fixtures know.
///
/// # Errors
/// Never, unless one of the addresses here is none.
pub fn names() -> anyhow::Result<Names> {
    let mut names = Names::default()
        .mac("broadcast", [0xff; 6])
        .mac("all-nodes", [0x33, 0x33, 0, 0, 0, 1])
        .address("all-nodes", "ff02::1".parse::<Ipv6Addr>()?)
        .mac("vip-group", [0x33, 0x33, 0xff, 0, 1, 0])
        .address("vip-group", "ff02::1:ff00:100".parse::<Ipv6Addr>()?)
        .mac("elsewhere", [2, 0, 0, 0, 0, 0xee]);
    let neighbours = NEIGHBOURS.iter().map(|(name, mac, v4, v6, _)| (*name, Some(*mac), *v4, *v6));
    let own = INTERFACES.iter().map(|(name, mac, v4, v6)| (*name, Some(*mac), *v4, *v6));
    let others = OTHERS.iter().map(|(name, v4, v6)| (*name, None, *v4, *v6));
    for (name, mac, v4, v6) in neighbours.chain(own).chain(others) {
        if let Some(mac) = mac {
            names = names.mac(name, mac);
        }
        names = names.address(name, v4.parse::<Ipv4Addr>()?).address(name, v6.parse::<Ipv6Addr>()?);
    }
    Ok(names)
}

/// What a program did with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The counted outcome.
    pub outcome: Outcome,
    /// The hook's verdict, `TC_ACT_…` or `XDP_…`.
    pub verdict: i32,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

/// The verdicts that stand for one of ours.
#[must_use]
pub const fn verdict_of(hook: Hook, arrives: bool, verdict: Verdict) -> &'static [i32] {
    match (hook, arrives, verdict) {
        // XDP_PASS; XDP_TX and XDP_REDIRECT; XDP_DROP.
        (Hook::Xdp, true, Verdict::Pass) => &[2],
        (Hook::Xdp, true, Verdict::Redirect) => &[3, 4],
        (Hook::Xdp, true, Verdict::Drop) => &[1],
        // TC_ACT_UNSPEC, which lets the next program see the packet; TC_ACT_REDIRECT; TC_ACT_SHOT.
        (_, _, Verdict::Pass) => &[-1],
        (_, _, Verdict::Redirect) => &[7],
        (_, _, Verdict::Drop) => &[2],
    }
}

/// A node to run packets through.
pub struct Node {
    data_path: Option<DataPath>,
    counters: Option<Counters>,
    options: Options,
    names: Names,
    interfaces: Vec<Interface>,
    variant: Variant,
    vips: HashMap<IpAddr, Vip>,
    services: Vec<Service>,
}

impl Node {
    /// Builds a node in a namespace of its own and hands it to `work`, which runs inside.
    ///
    /// # Errors
    /// What the setup met with, and what `work` returns.
    pub fn with<T: Send>(
        sandbox: &Sandbox,
        work: impl FnOnce(&mut Self) -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        Self::for_flows(sandbox, FLOWS, work)
    }

    /// The same with a table that is made for so many flows.
    ///
    /// # Errors
    /// As [`Self::with`].
    pub(crate) fn for_flows<T: Send>(
        sandbox: &Sandbox,
        flows: u32,
        work: impl FnOnce(&mut Self) -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let mut lab = Lab::new(sandbox);
        let (node, outside) = (lab.namespace("node")?, lab.namespace("outside")?);
        wire(&lab, &node, &outside)?;
        node.enter(|| {
            let interfaces = vec![Interface::look_up(UPLINK)?, Interface::look_up(PODS)?];
            let options = Options {
                // Attached natively, an interface takes frames of XDP programs; the tc programs do not care.
                hooks: HookChoice::only(evenkeel_loader::Hook::Xdp),
                flows,
                sources: own_addresses(),
                // Two ports only, so that a fixture can use them up.
                source_ports: 61_000..=61_001,
                refusals: 1_000_000,
                ..Options::new(NODE, 7)
            };
            let mut node = Self {
                data_path: None,
                counters: None,
                options,
                names: names()?,
                interfaces,
                variant: Variant { hook: Hook::Tc, forwarding: Forwarding::Direct },
                vips: HashMap::new(),
                services: Vec::new(),
            };
            node.open()?;
            let result = work(&mut node)?;
            if let Some(data_path) = node.data_path.take() {
                data_path.uninstall()?;
            }
            Ok(result)
        })?
    }

    /// An empty node that owns `vip` and `vip2`.
    ///
    /// # Errors
    /// When the data plane cannot be emptied.
    pub fn begin(&mut self, variant: Variant) -> anyhow::Result<()> {
        self.variant = variant;
        self.services.clear();
        self.vips.clear();
        for name in ["vip", "vip2"] {
            for address in addresses(&self.names, name)? {
                self.vips.insert(address, Vip { answer_on: self.bit(UPLINK)? });
            }
        }
        self.carry()?;
        forget_flows()?;
        let data_path = self.data_path()?;
        data_path.set_mode(evenkeel_loader::Mode::Active);
        data_path.attend(None, false, false);
        for (vip, _) in data_path.claims()? {
            data_path.settle_claim(vip);
        }
        data_path.forget_next_hops();
        data_path.reap();
        Ok(())
    }

    /// Does what is no packet.
    ///
    /// # Errors
    /// When the data plane refuses.
    pub fn act(&mut self, action: &Action) -> anyhow::Result<()> {
        match action {
            Action::Service(service) => {
                self.services.retain(|known| known.at != service.at);
                self.services.push(service.clone());
                self.carry()
            }
            Action::NoService(at) => {
                self.services.retain(|known| known.at != *at);
                self.carry()
            }
            Action::Vip(name, ownership) => {
                let answer_on = match ownership {
                    Ownership::Owned => self.bit(UPLINK)?,
                    Ownership::Carried | Ownership::Gone => 0,
                    Ownership::Elsewhere => self.bit(PODS)?,
                };
                for address in addresses(&self.names, name)? {
                    if *ownership == Ownership::Gone {
                        self.vips.remove(&address);
                    } else {
                        self.vips.insert(address, Vip { answer_on });
                    }
                }
                self.carry()
            }
            Action::Mode(mode) => {
                self.data_path()?.set_mode(match mode {
                    Mode::Active => evenkeel_loader::Mode::Active,
                    Mode::Observe => evenkeel_loader::Mode::Observe,
                    Mode::Bypass => evenkeel_loader::Mode::Bypass,
                });
                Ok(())
            }
            Action::Yields => {
                self.data_path()?.attend(None, true, false);
                Ok(())
            }
            Action::Withdraws => {
                self.data_path()?.attend(None, false, true);
                Ok(())
            }
            Action::Settle(name) => {
                for address in addresses(&self.names, name)? {
                    self.data_path()?.settle_claim(address);
                }
                Ok(())
            }
            Action::Unattended => unattended(),
            Action::Age(seconds) => age(seconds * ticks::SECOND),
            Action::Reap => {
                self.data_path()?.reap();
                Ok(())
            }
            Action::Restart => {
                self.data_path = None;
                self.open()?;
                self.carry()
            }
            Action::Packet(_) => bail!("a packet is run, not done"),
        }
    }

    /// Runs a packet through the program of the hook.
    ///
    /// # Errors
    /// When the kernel refuses the run, or the packet is not counted exactly once.
    pub fn run(&mut self, arrives: bool, interface: &str, frame: &[u8]) -> anyhow::Result<Seen> {
        let hook = self.variant.hook;
        let mut ran = self.run_any(arrives, interface, frame)?.context("the kernel does not run this frame")?;
        let verdict = ran.outcome.verdict();
        let allowed = verdict_of(hook, arrives, verdict);
        ensure!(allowed.contains(&ran.verdict), "{:?} came with verdict {}", ran.outcome, ran.verdict);
        let verdict = match verdict {
            Verdict::Pass => "pass",
            Verdict::Redirect => {
                if ran.frame.get(..12) == frame.get(..12) {
                    address(&mut ran.frame);
                }
                "redirect"
            }
            Verdict::Drop => "drop",
        };
        Ok(Seen { outcome: ran.outcome.name().to_owned(), verdict: verdict.to_owned(), frame: Some(ran.frame) })
    }

    /// Runs a packet of any kind. `None`: the kernel does not, because no driver could have received it.
    ///
    /// # Errors
    /// When the packet is not counted exactly once.
    pub fn run_any(&mut self, arrives: bool, interface: &str, frame: &[u8]) -> anyhow::Result<Option<Ran>> {
        let program = match (arrives, self.variant.hook) {
            (false, _) => Program::Egress,
            (true, Hook::Tc) => Program::Ingress,
            (true, Hook::Xdp) => Program::Xdp,
        };
        let index = self.interface(interface)?.index;
        let row = self.bit(interface)?.trailing_zeros();
        let counters = self.counters.as_mut().context("the agent has never run")?;
        let before = counters.row(row)?;
        let data_path = self.data_path.as_mut().context("the agent is not running")?;
        let Ok((verdict, frame)) = data_path.run_once(program, index, frame) else { return Ok(None) };
        let after = counters.row(row)?;
        let counted: Vec<(Option<&Outcome>, u64)> = (0..Outcome::ROW)
            .filter(|index| before[*index] != after[*index])
            .map(|index| (Outcome::ALL.get(index), after[index].wrapping_sub(before[index])))
            .collect();
        let [(Some(outcome), 1)] = counted[..] else { bail!("one packet was counted as {counted:?}") };
        Ok(Some(Ran { outcome: *outcome, verdict, frame }))
    }

    /// The hooks whose programs there are.
    #[must_use]
    pub fn hooks(&self) -> Vec<Hook> {
        vec![Hook::Tc, Hook::Xdp]
    }

    /// The index of an interface.
    pub(crate) fn index(&self, interface: &str) -> anyhow::Result<u32> {
        Ok(self.interface(interface)?.index)
    }

    /// What an agent does now and then.
    pub(crate) fn sweep(&mut self) -> anyhow::Result<()> {
        self.data_path()?.reap();
        Ok(())
    }

    /// Nothing is left of any flow, nor of a backend that is gone.
    /// How many flows there are, how many entries the reply index has, and in how many of its buckets no other has room.
    pub(crate) fn table_in_use(&mut self) -> anyhow::Result<[usize; 3]> {
        let flows = self.data_path()?.flow_table().flows;
        let (mut entries, mut full) = (0, 0);
        for bucket in array::<ReplyBucket>(map::REPLIES)?.iter() {
            let used = bucket?.entries.iter().filter(|entry| **entry != 0).count();
            entries += used;
            full += usize::from(used == ReplyBucket::ENTRIES);
        }
        Ok([usize::try_from(flows)?, entries, full])
    }

    pub(crate) fn ensure_empty(&mut self) -> anyhow::Result<()> {
        let data_path = self.data_path()?;
        let tombstones = data_path.tombstones();
        ensure!(tombstones.is_empty(), "backends that are gone keep their slots: {tombstones:?}");
        let flows = data_path.flow_table().flows;
        ensure!(flows == 0, "{flows} flows are left");
        let flows = array::<FlowBucket>(map::FLOWS)?;
        for bucket in flows.iter() {
            ensure!(bucket?.tags == [FlowBucket::FREE; WAYS], "a way of a bucket is not free");
        }
        for bucket in array::<ReplyBucket>(map::REPLIES)?.iter() {
            ensure!(bucket?.entries == [0; ReplyBucket::ENTRIES], "an entry of the reply index is left");
        }
        Ok(())
    }

    fn interface(&self, name: &str) -> anyhow::Result<&Interface> {
        let found = self.interfaces.iter().find(|interface| interface.name == name);
        found.with_context(|| format!("there is no interface `{name}`: {UPLINK}, {PODS}"))
    }

    /// The interface's bit among those that a VIP is answered for on.
    fn bit(&self, interface: &str) -> anyhow::Result<u32> {
        let data_path = self.data_path.as_ref().context("the agent is not running")?;
        Ok(data_path.answer_bit(self.interface(interface)?))
    }

    pub(crate) fn data_path(&mut self) -> anyhow::Result<&mut DataPath> {
        self.data_path.as_mut().context("the agent is not running")
    }

    fn open(&mut self) -> anyhow::Result<()> {
        let mut data_path = DataPath::open(&self.options)?;
        data_path.attach(&self.interfaces)?;
        self.data_path = Some(data_path);
        if self.counters.is_none() {
            self.counters = Some(Counters::open(&pin(map::COUNTERS))?);
        }
        Ok(())
    }

    /// Brings the data plane to what the case says.
    fn carry(&mut self) -> anyhow::Result<()> {
        let mut specs = Vec::new();
        for service in &self.services {
            for ipv6 in [false, true] {
                specs.extend(self.spec(service, ipv6)?);
            }
        }
        let vips = self.vips.clone();
        let data_path = self.data_path()?;
        let failures = data_path.set_frontends(&specs, Others::Remove, Instant::now());
        ensure!(failures.is_empty(), "{failures:?}");
        Ok(data_path.set_vips(&vips, Others::Remove)?)
    }

    /// A service in one of the families, if all its addresses have that.
    fn spec(&self, service: &Service, ipv6: bool) -> anyhow::Result<Option<FrontendSpec>> {
        let find = |name: &str| -> anyhow::Result<Option<IpAddr>> {
            Ok(addresses(&self.names, name)?.into_iter().find(|address| address.is_ipv6() == ipv6))
        };
        let Port { vip, port, protocol } = &service.at;
        let Some(vip) = find(vip)? else { return Ok(None) };
        let mut backends = Vec::new();
        for (name, port, state) in &service.backends {
            let Some(address) = find(name)? else { return Ok(None) };
            let state = match state {
                BackendState::Active => State::Active,
                BackendState::Drain => State::Drain,
                BackendState::Down => State::Down,
            };
            backends.push(BackendSpec::new(SocketAddr::new(address, *port), state));
        }
        let active: Vec<u32> = (0_u32..)
            .zip(&backends)
            .filter(|(_, backend)| backend.state == State::Active)
            .map(|(index, _)| index)
            .collect();
        let table = (0..TABLE).filter_map(|slot| active.get(slot % active.len().max(1)).copied()).collect();
        let mut spec = FrontendSpec {
            direct: self.variant.forwarding == Forwarding::Direct,
            backends,
            table,
            ..FrontendSpec::new(FrontendKey::new(vip, *port, *protocol))
        };
        for option in &service.options {
            apply(&mut spec, option)?;
        }
        Ok(Some(spec))
    }
}

/// An option of a service: `affinity`, `closed`, `per-packet`, `rewrite-source`, `elsewhere`, `heavy` (the first backend has nearly
/// all of the weight), `cold` (the backends are to get hardly any new flows yet), `ranges NETWORK…`, `flows N`, `rate N burst N`.
fn apply(spec: &mut FrontendSpec, option: &str) -> anyhow::Result<()> {
    let words: Vec<&str> = option.split_whitespace().collect();
    let number = |word: &str| word.parse::<NonZeroU32>().with_context(|| format!("`{word}` in `{option}`"));
    match words[..] {
        ["affinity"] => spec.source_affinity = true,
        ["closed"] => spec.closed = true,
        ["per-packet"] => spec.per_packet = true,
        ["rewrite-source"] => spec.rewrite_source = true,
        ["elsewhere"] => spec.backends.iter_mut().for_each(|backend| backend.elsewhere = true),
        ["cold"] => spec.backends.iter_mut().for_each(|backend| backend.share = 1),
        ["heavy"] => {
            let members: BTreeSet<u32> = spec.table.drain(..).collect();
            let mut members = members.into_iter();
            spec.table.extend(members.next().iter().flat_map(|first| [*first; HEAVY]));
            spec.table.extend(members);
        }
        ["ranges", ref networks @ ..] => {
            for network in networks {
                spec.source_ranges.push(network.parse().with_context(|| format!("`{network}` in `{option}`"))?);
            }
        }
        ["flows", most] => limits(spec).flows = Some(number(most)?),
        ["rate", rate, "burst", burst] => limits(spec).rate = Some((number(rate)?, number(burst)?)),
        _ => bail!("`{option}` is no option of a service"),
    }
    Ok(())
}

/// The limits of a service, which its frontends of both families share.
fn limits(spec: &mut FrontendSpec) -> &mut Limits {
    let name = format!("{}/{}", spec.key.port(), spec.key.protocol);
    spec.limits.get_or_insert_with(|| Limits { shared_by: name.into(), flows: None, rate: None })
}

/// The addresses that a name stands for.
fn addresses(names: &Names, name: &str) -> anyhow::Result<Vec<IpAddr>> {
    let v4 = names.find_ipv4(name).map(IpAddr::V4);
    let v6 = names.find_ipv6(name).map(IpAddr::V6);
    let found: Vec<IpAddr> = v4.into_iter().chain(v6).collect();
    ensure!(!found.is_empty(), "`{name}` has no address");
    Ok(found)
}

/// The node's addresses towards the backends, which can stand for a client's.
fn own_addresses() -> Vec<IpAddr> {
    let [_, (_, _, v4, v6)] = INTERFACES else { return Vec::new() };
    [v4, v6].iter().filter_map(|address| address.parse().ok()).collect()
}

/// Does what the kernel does with a frame that a tc program hands to a neighbour: it writes the hardware addresses.
fn address(frame: &mut [u8]) {
    let read = Frame::read(frame);
    let destination = read.layers.iter().find_map(|layer| match layer {
        Layer::Ipv4(ip) => Some(IpAddr::V4(ip.destination)),
        Layer::Ipv6(ip) => Some(IpAddr::V6(ip.destination)),
        _ => None,
    });
    let is = |text: &str| text.parse().ok() == destination;
    // What the node is sent by itself stays as it is.
    if INTERFACES.iter().any(|(_, _, v4, v6)| is(v4) || is(v6)) {
        return;
    }
    let router = NEIGHBOURS.iter().find(|(name, ..)| *name == "router");
    let Some((_, to, _, _, interface)) = NEIGHBOURS.iter().find(|(_, _, v4, v6, _)| is(v4) || is(v6)).or(router) else {
        return;
    };
    let [(_, uplink, ..), (_, pods, ..)] = INTERFACES else { return };
    let from = if *interface == UPLINK { uplink } else { pods };
    if let Some(place) = frame.get_mut(..12) {
        place.copy_from_slice(&[*to, *from].concat());
    }
}

/// Two wires, and a kernel that knows every neighbour and says nothing of its own.
fn wire(lab: &Lab, node: &Namespace, outside: &Namespace) -> anyhow::Result<()> {
    // Membership reports would be counted among the packets of a case: they come once, at once, and are over.
    for setting in ["accept_ra=0", "router_solicitations=0", "addr_gen_mode=1", "mldv2_unsolicited_report_interval=1"] {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        node.sysctl(&format!("net.ipv6.conf.default.{key}"), value)?;
    }
    outside.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    for family in ["ipv4.ip_forward", "ipv6.conf.all.forwarding"] {
        node.sysctl(&format!("net.{family}"), "1")?;
    }
    for (interface, (_, mac, v4, v6)) in [UPLINK, PODS].iter().zip(INTERFACES) {
        lab.veth((node, interface), (outside, interface))?;
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        node.ip(["link", "set", interface, "address", &mac])?;
        node.ip(["address", "add", &format!("{v4}/24"), "dev", interface])?;
        node.ip(["address", "add", &format!("{v6}/128"), "dev", interface, "nodad"])?;
    }
    node.ip(["-6", "route", "add", "fd77::/64", "dev", UPLINK])?;
    node.ip(["-6", "route", "add", "fd77:1::/64", "dev", PODS])?;
    for (_, mac, v4, v6, interface) in NEIGHBOURS {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        for address in [v4, v6] {
            node.ip(["neigh", "replace", address, "lladdr", &mac, "dev", interface, "nud", "permanent"])?;
        }
    }
    node.ip(["route", "add", "default", "via", "10.77.0.1"])?;
    node.ip(["-6", "route", "add", "default", "via", "fd77::1", "dev", UPLINK])?;
    node.ip(["route", "add", "unreachable", "198.51.100.0/24"])?;
    node.ip(["-6", "route", "add", "unreachable", "2001:db8:dead::/48"])?;
    Ok(())
}

/// Where a map is pinned.
fn pin(name: &str) -> PathBuf {
    Path::new(PIN_ROOT).join(format!("{NODE}/v{SCHEMA_VERSION}")).join(name)
}

fn array<T: aya::Pod>(name: &str) -> anyhow::Result<aya::maps::Array<MapData, T>> {
    Ok(aya::maps::Array::try_from(Map::Array(MapData::from_pin(pin(name))?))?)
}

/// Datagrams whose first fragment was seen, as bytes; the tick of that moment is at the end of the value.
type Fragments = aya::maps::HashMap<MapData, [u8; size_of::<FragmentKey>()], [u8; size_of::<FragmentPorts>()]>;

fn fragments() -> anyhow::Result<Fragments> {
    Ok(aya::maps::HashMap::try_from(Map::LruHashMap(MapData::from_pin(pin(map::FRAGMENTS))?))?)
}

/// The backends that flows have left.
fn former() -> anyhow::Result<aya::maps::HashMap<MapData, u64, Flow>> {
    Ok(aya::maps::HashMap::try_from(Map::LruHashMap(MapData::from_pin(pin(map::FORMER))?))?)
}

/// Empties the flow table, and what is remembered beside it.
fn forget_flows() -> anyhow::Result<()> {
    let mut flows = array::<FlowBucket>(map::FLOWS)?;
    let none = FlowBucket { tags: [FlowBucket::FREE; WAYS], flows: [Flow::NONE; WAYS] };
    for index in 0..flows.len() {
        flows.set(index, none, 0)?;
    }
    let mut replies = array::<ReplyBucket>(map::REPLIES)?;
    for index in 0..replies.len() {
        replies.set(index, ReplyBucket { entries: [0; ReplyBucket::ENTRIES] }, 0)?;
    }
    let mut fragments = fragments()?;
    for key in fragments.keys().flatten().collect::<Vec<_>>() {
        fragments.remove(&key)?;
    }
    let mut former = former()?;
    for key in former.keys().flatten().collect::<Vec<_>>() {
        former.remove(&key)?;
    }
    Ok(())
}

/// Lets the time run out for which the last look of an agent is good.
fn unattended() -> anyhow::Result<()> {
    let mut attendance = array::<Attendance>(map::ATTENDANCE)?;
    let present = attendance.get(&0, 0)?;
    // The first nanosecond after the machine started.
    Ok(attendance.set(0, Attendance { until: 1, ..present }, 0)?)
}

/// Makes every flow and fragment older.
pub(crate) fn age(by: u32) -> anyhow::Result<()> {
    let mut flows = array::<FlowBucket>(map::FLOWS)?;
    for index in 0..flows.len() {
        let mut bucket = flows.get(&index, 0)?;
        if bucket.tags == [FlowBucket::FREE; WAYS] {
            continue;
        }
        for flow in &mut bucket.flows {
            flow.last_seen = flow.last_seen.wrapping_sub(by);
            flow.client_seen = flow.client_seen.wrapping_sub(by);
        }
        flows.set(index, bucket, 0)?;
    }
    let mut fragments = fragments()?;
    for (key, mut ports) in fragments.iter().flatten().collect::<Vec<_>>() {
        let place = std::mem::offset_of!(FragmentPorts, seen);
        let seen = u32::from_ne_bytes([ports[place], ports[place + 1], ports[place + 2], ports[place + 3]]);
        ports[place..place + 4].copy_from_slice(&seen.wrapping_sub(by).to_ne_bytes());
        fragments.insert(key, ports, 0)?;
    }
    Ok(())
}
