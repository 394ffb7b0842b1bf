//! Attaching the programs to an interface: tcx links where the kernel has them, clsact filters elsewhere; XDP links where
//! asked for.
//!
//! A tcx or XDP link is pinned: it outlasts this process, and its program is replaced atomically. A clsact filter outlasts the
//! process by itself; it is found again by its priority and handle, and replaced in place.

use std::{collections::BTreeMap, io, net::IpAddr, path::Path};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
        xdp::XdpLink,
    },
};
use evenkeel_maps::{Address, Vip, map};
use nix::{
    ifaddrs::getifaddrs,
    net::if_::{InterfaceFlags, if_nametoindex},
};

use crate::{
    Error, link,
    pins::{self, Pins},
    preflight::Preflight,
    programs::{classifier, loaded_xdp, program_error},
};

/// Priority and handle of the clsact filters: ours, unless somebody else chose the same uncommon pair.
const FILTER_PRIORITY: u16 = 0xeb;
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 0xeb);

const DIRECTIONS: [TcAttachType; 2] = [TcAttachType::Ingress, TcAttachType::Egress];

/// Where on an interface the programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// tcx, kernel 6.6 and newer.
    Tcx,
    /// A filter of the clsact queueing discipline.
    Clsact,
    /// XDP in the driver for what arrives; tcx or clsact for what leaves.
    Xdp,
    /// XDP in the kernel, where the driver does not have it; tcx or clsact for what leaves.
    XdpGeneric,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tcx, Self::Clsact, Self::Xdp, Self::XdpGeneric];

    /// The name in output and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
        }
    }

    /// The hook with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.name() == name)
    }

    const fn xdp_mode(self) -> Option<XdpMode> {
        match self {
            Self::Xdp => Some(XdpMode::Driver),
            Self::XdpGeneric => Some(XdpMode::Skb),
            Self::Tcx | Self::Clsact => None,
        }
    }
}

/// Which hooks are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookChoice {
    /// For every interface not named below; `None`: the best this kernel has.
    pub all: Option<Hook>,
    /// By interface.
    pub by_interface: BTreeMap<String, Hook>,
}

impl HookChoice {
    /// The same hook on every interface.
    #[must_use]
    pub const fn only(hook: Hook) -> Self {
        Self { all: Some(hook), by_interface: BTreeMap::new() }
    }

    /// Whether some interface is to have this hook.
    pub(crate) fn has(&self, hook: Hook) -> bool {
        self.all == Some(hook) || self.by_interface.values().any(|chosen| *chosen == hook)
    }

    /// The hook on an interface, and why it.
    ///
    /// XDP is never chosen by itself: it sees every segment of a bulk transfer alone, where a tc hook sees dozens at once, so
    /// which is better depends on the traffic (`docs/decisions/0019-hooks.md`).
    pub(crate) fn choose(&self, machine: &Preflight, interface: &str) -> (Hook, &'static str) {
        match self.by_interface.get(interface).copied().or(self.all) {
            Some(hook) => (hook, "as configured"),
            None if machine.has_tcx() => (Hook::Tcx, "the kernel has tcx links"),
            None => (Hook::Clsact, "the kernel is older than 6.6 and has no tcx links"),
        }
    }
}

/// A network interface of this process's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Whether it is up and has a carrier.
    pub running: bool,
}

impl Interface {
    /// Looks an interface up by its index.
    ///
    /// # Errors
    /// As [`Self::look_up`].
    pub(crate) fn of(index: u32) -> Result<Self, Error> {
        let name = nix::net::if_::if_indextoname(index).map_err(|_| Error::NoInterface(format!("number {index}")))?;
        Self::look_up(&name.to_string_lossy())
    }

    /// Looks an interface up by name.
    ///
    /// # Errors
    /// When there is none, or it has no Ethernet address.
    pub fn look_up(name: &str) -> Result<Self, Error> {
        let index = if_nametoindex(name).map_err(|_| Error::NoInterface(name.to_owned()))?;
        let (mac, flags) = getifaddrs()
            .ok()
            .into_iter()
            .flatten()
            .filter(|entry| entry.interface_name == name)
            .find_map(|entry| Some((entry.address?.as_link_addr()?.addr()?, entry.flags)))
            .ok_or_else(|| Error::NotEthernet(name.to_owned()))?;
        let running = flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING);
        Ok(Self { name: name.to_owned(), index, mac, running })
    }
}

pub(crate) const fn direction_name(direction: TcAttachType) -> &'static str {
    match direction {
        TcAttachType::Ingress => "in",
        TcAttachType::Egress => "out",
        TcAttachType::Custom(_) => "other",
    }
}

/// Attaches the programs to `interface`, or replaces those of an earlier process. A hook that was used before and is not
/// any more goes last: a packet may meet both programs for a moment, of which the second finds nothing left to do, but none
/// meets neither.
pub(crate) fn attach(
    object: &mut Ebpf,
    pins: &Pins,
    interface: &Interface,
    hook: Hook,
    has_tcx: bool,
) -> Result<(), Error> {
    let tc = match hook {
        Hook::Tcx => Hook::Tcx,
        Hook::Clsact => Hook::Clsact,
        Hook::Xdp | Hook::XdpGeneric if has_tcx => Hook::Tcx,
        Hook::Xdp | Hook::XdpGeneric => Hook::Clsact,
    };
    attach_tc(object, pins, interface, TcAttachType::Egress, tc)?;
    match hook.xdp_mode() {
        Some(mode) => {
            // An interface has room for one XDP program, of one mode.
            for other in [Hook::Xdp, Hook::XdpGeneric].into_iter().filter(|other| *other != hook) {
                remove_link(&pins.xdp_link(&interface.name, other))?;
            }
            let what = format!("attach to {} ({})", interface.name, hook.name());
            attach_xdp(loaded_xdp(object)?, pins, interface, hook, mode).map_err(|error| error.explain(what))?;
            remove_link(&pins.link(&interface.name, TcAttachType::Ingress))?;
            remove_filter(&interface.name, TcAttachType::Ingress);
        }
        None => {
            attach_tc(object, pins, interface, TcAttachType::Ingress, tc)?;
            for other in [Hook::Xdp, Hook::XdpGeneric] {
                remove_link(&pins.xdp_link(&interface.name, other))?;
            }
        }
    }
    Ok(())
}

fn attach_tc(
    object: &mut Ebpf,
    pins: &Pins,
    interface: &Interface,
    direction: TcAttachType,
    hook: Hook,
) -> Result<(), Error> {
    let program = classifier(object, direction)?;
    let what = format!("attach to {} ({}, {})", interface.name, direction_name(direction), hook.name());
    if hook == Hook::Clsact {
        attach_clsact(program, interface, direction).map_err(|error| program_error(what, error))?;
        return pins::remove(&pins.link(&interface.name, direction));
    }
    attach_tcx(program, pins, interface, direction).map_err(|error| error.explain(what))?;
    // An earlier run may have been told to use the other hook.
    remove_filter(&interface.name, direction);
    Ok(())
}

/// Detaches from every interface that is not in `keep`.
pub(crate) fn detach_others(pins: &Pins, keep: &[Interface], former: &[u32]) -> Result<(), Error> {
    let kept: Vec<_> = keep
        .iter()
        .flat_map(|interface| {
            let tc = DIRECTIONS.map(|direction| pins.link(&interface.name, direction));
            let xdp = [Hook::Xdp, Hook::XdpGeneric].map(|hook| pins.xdp_link(&interface.name, hook));
            tc.into_iter().chain(xdp)
        })
        .collect();
    for path in pins.links()? {
        if !kept.contains(&path) {
            remove_link(&path)?;
        }
    }
    for index in former.iter().filter(|index| keep.iter().all(|interface| interface.index != **index)) {
        remove_filters_of(*index);
    }
    Ok(())
}

/// Ends a link. Held open meanwhile, it ends here and not some time after its pin: whoever attaches next would be told that
/// the program is there already.
pub(crate) fn remove_link(path: &Path) -> Result<(), Error> {
    let link = PinnedLink::from_pin(path);
    pins::remove(path)?;
    drop(link);
    Ok(())
}

/// Stops answering for every VIP, before anything else of the data path goes.
pub(crate) fn withdraw(pins: &Pins) -> Result<(), Error> {
    clear::<Address, Vip>(pins);
    // The first version of the maps knew IPv4 alone.
    clear::<[u8; 4], Vip>(pins);
    Ok(())
}

/// The VIPs in the pinned map, if it is of this version.
pub(crate) fn vips(pins: &Pins) -> Vec<IpAddr> {
    let Ok(data) = MapData::from_pin(pins.map(map::VIPS)) else { return Vec::new() };
    let Ok(vips) = HashMap::<_, Address, Vip>::try_from(aya::maps::Map::HashMap(data)) else { return Vec::new() };
    vips.keys().flatten().map(|vip| vip.ip()).collect()
}

fn clear<K: aya::Pod, V: aya::Pod>(pins: &Pins) {
    let Ok(data) = MapData::from_pin(pins.map(map::VIPS)) else { return };
    let Ok(mut vips) = HashMap::<_, K, V>::try_from(aya::maps::Map::HashMap(data)) else { return };
    let owned: Vec<K> = vips.keys().flatten().collect();
    for vip in owned {
        let _ = vips.remove(&vip);
    }
}

/// Removes the clsact filters from the interfaces of this namespace.
pub(crate) fn remove_filters() {
    for interface in nix::net::if_::if_nameindex().iter().flatten() {
        for direction in DIRECTIONS {
            remove_filter(&interface.name().to_string_lossy(), direction);
        }
    }
}

fn remove_filters_of(index: u32) {
    if let Ok(name) = nix::net::if_::if_indextoname(index) {
        for direction in DIRECTIONS {
            remove_filter(&name.to_string_lossy(), direction);
        }
    }
}

enum Attach {
    Program(ProgramError),
    Pin(Error),
}

impl Attach {
    fn explain(self, what: String) -> Error {
        match self {
            Self::Program(error) => program_error(what, error),
            Self::Pin(error) => error,
        }
    }
}

fn attach_tcx(
    program: &mut SchedClassifier,
    pins: &Pins,
    interface: &Interface,
    direction: TcAttachType,
) -> Result<(), Attach> {
    let path = pins.link(&interface.name, direction);
    if let Some(link) = present(&path, interface)
        && let Ok(link) = SchedClassifierLink::try_from(link)
    {
        let id = program.attach_to_link(link).map_err(Attach::Program)?;
        // The pin holds the link; this process must not detach it when it ends.
        drop(program.take_link(id).map(FdLink::try_from));
        return Ok(());
    }
    pins::remove(&path).map_err(Attach::Pin)?;
    let link = program
        .attach_with_options(&interface.name, direction, TcAttachOptions::TcxOrder(LinkOrder::default()))
        .map_err(Attach::Program)?;
    let link = program.take_link(link).map_err(Attach::Program)?;
    let link = FdLink::try_from(link).map_err(|error| Attach::Pin(pins::error(&path, &error)))?;
    link.pin(&path).map_err(|error| Attach::Pin(pins::error(&path, &error)))?;
    Ok(())
}

fn attach_xdp(program: &mut Xdp, pins: &Pins, interface: &Interface, hook: Hook, mode: XdpMode) -> Result<(), Attach> {
    let path = pins.xdp_link(&interface.name, hook);
    if let Some(link) = present(&path, interface)
        && let Ok(link) = XdpLink::try_from(link)
    {
        let id = program.attach_to_link(link).map_err(Attach::Program)?;
        drop(program.take_link(id).map(FdLink::try_from));
        return Ok(());
    }
    pins::remove(&path).map_err(Attach::Pin)?;
    let link = program.attach(&interface.name, mode).map_err(Attach::Program)?;
    let link = program.take_link(link).map_err(Attach::Program)?;
    let link = FdLink::try_from(link).map_err(|error| Attach::Pin(pins::error(&path, &error)))?;
    link.pin(&path).map_err(|error| Attach::Pin(pins::error(&path, &error)))?;
    Ok(())
}

/// The pinned link, if it is attached to this very interface. A pin can be older than the interface: its device was deleted,
/// or it is another namespace's.
fn present(path: &Path, interface: &Interface) -> Option<FdLink> {
    let link = FdLink::from(PinnedLink::from_pin(path).ok()?);
    (link::interface(path).ok()? == interface.index).then_some(link)
}

fn attach_clsact(
    program: &mut SchedClassifier,
    interface: &Interface,
    direction: TcAttachType,
) -> Result<(), ProgramError> {
    match tc::qdisc_add_clsact(&interface.name) {
        Ok(()) => {}
        // Somebody has added it already.
        Err(TcError::AlreadyAttached) => {}
        Err(error) if is_exists(&error) => {}
        Err(error) => return Err(error.into()),
    }
    let options =
        || TcAttachOptions::Netlink(NlOptions { priority: FILTER_PRIORITY, handle: FILTER_HANDLE, classid: None });
    let id = match program.attach_with_options(&interface.name, direction, options()) {
        Ok(id) => id,
        Err(ProgramError::TcError(error)) if is_exists(&error) => {
            let link = filter(&interface.name, direction).map_err(TcError::IoError)?;
            program.attach_to_link(link)?
        }
        Err(error) => return Err(error),
    };
    // Dropping the link would remove the filter.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn is_exists(error: &TcError) -> bool {
    let code = match error {
        TcError::NetlinkError(error) => error.raw_os_error(),
        TcError::IoError(error) => error.raw_os_error(),
        _ => None,
    };
    code == Some(libc::EEXIST)
}

fn filter(interface: &str, direction: TcAttachType) -> Result<SchedClassifierLink, io::Error> {
    SchedClassifierLink::attached(interface, direction, FILTER_PRIORITY, FILTER_HANDLE, None)
}

/// Removes our clsact filter if there is one: dropping its link does that.
fn remove_filter(interface: &str, direction: TcAttachType) {
    if let Ok(link) = filter(interface, direction) {
        drop(link);
    }
}
