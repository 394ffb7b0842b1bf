//! Attaching the programs to an interface: tcx links where the kernel has them, clsact filters elsewhere.
//!
//! A tcx link is pinned: it outlasts this process, and its program is replaced atomically. A clsact filter outlasts the
//! process by itself; it is found again by its priority and handle, and replaced in place.

use std::{io, path::Path};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions,
        links::{FdLink, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
    },
};
use evenkeel_maps::{Vip, map, program};
use nix::{
    ifaddrs::getifaddrs,
    net::if_::{InterfaceFlags, if_nametoindex},
};

use crate::{Direction, Error, pins, pins::Pins, preflight::Preflight};

/// Priority and handle of the clsact filters: ours, unless somebody else chose the same uncommon pair.
const FILTER_PRIORITY: u16 = 0xeb;
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 0xeb);

const DIRECTIONS: [(TcAttachType, &str); 2] =
    [(TcAttachType::Ingress, program::INGRESS), (TcAttachType::Egress, program::EGRESS)];

/// Where on an interface the programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// tcx, kernel 6.6 and newer.
    Tcx,
    /// A filter of the clsact queueing discipline.
    Clsact,
}

impl Hook {
    /// The name in output and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Which hook is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HookChoice {
    /// The best this kernel has.
    #[default]
    Auto,
    /// This one, or an error.
    Only(Hook),
}

impl HookChoice {
    /// The hook on this machine, and why it.
    pub(crate) fn choose(self, machine: &Preflight) -> (Hook, &'static str) {
        match self {
            Self::Only(hook) => (hook, "as configured"),
            Self::Auto if machine.has_tcx() => (Hook::Tcx, "the kernel has tcx links"),
            Self::Auto => (Hook::Clsact, "the kernel is older than 6.6 and has no tcx links"),
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

/// Loads both programs: the verifier's turn.
pub(crate) fn load_programs(object: &mut Ebpf) -> Result<(), Error> {
    for (direction, _) in DIRECTIONS {
        let program = classifier(object, direction)?;
        program
            .load()
            .map_err(|error| program_error(format!("load the {} program", direction_name(direction)), error))?;
    }
    Ok(())
}

/// Offset of `ifindex` in the kernel's `struct __sk_buff`, and the structure's part that a test run takes.
const SKB_IFINDEX: usize = 40;
const SKB_SIZE: usize = 192;

/// A test run of one program on one frame.
pub(crate) fn run_once(
    object: &mut Ebpf,
    direction: Direction,
    interface: u32,
    frame: &[u8],
) -> Result<(i32, Vec<u8>), Error> {
    let direction = match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    };
    let mut context = [0; SKB_SIZE];
    context[SKB_IFINDEX..SKB_IFINDEX + 4].copy_from_slice(&interface.to_ne_bytes());
    let mut out = vec![0; frame.len() + 256];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    options.ctx_in = Some(&context);
    options.repeat = 1;
    let program = classifier(object, direction)?;
    let result = program.test_run(options).map_err(|error| program_error("run a test packet".to_owned(), error))?;
    out.truncate(result.data_size_out as usize);
    Ok((result.return_value.cast_signed(), out))
}

/// Attaches both programs to `interface`, or replaces those of an earlier process.
pub(crate) fn attach(object: &mut Ebpf, pins: &Pins, interface: &Interface, hook: Hook) -> Result<(), Error> {
    for (direction, _) in DIRECTIONS {
        let program = classifier(object, direction)?;
        let what = format!("attach to {} ({}, {})", interface.name, direction_name(direction), hook.name());
        match hook {
            Hook::Tcx => {
                attach_tcx(program, pins, interface, direction).map_err(|error| match error {
                    Attach::Program(error) => program_error(what, error),
                    Attach::Pin(error) => error,
                })?;
                // An earlier run may have been told to use the other hook.
                remove_filter(&interface.name, direction);
            }
            Hook::Clsact => {
                attach_clsact(program, interface, direction).map_err(|error| program_error(what, error))?;
                pins::remove(&pins.link(&interface.name, direction))?;
            }
        }
    }
    Ok(())
}

/// Detaches from every interface that is not in `keep`.
pub(crate) fn detach_others(pins: &Pins, keep: &[Interface], former: &[u32]) -> Result<(), Error> {
    let kept: Vec<_> = keep
        .iter()
        .flat_map(|interface| DIRECTIONS.map(|(direction, _)| pins.link(&interface.name, direction)))
        .collect();
    for path in pins.links()? {
        if !kept.contains(&path) {
            // Held open meanwhile, the link ends here and not some time after its pin: whoever attaches next would be told
            // that the program is there already.
            let link = PinnedLink::from_pin(&path);
            pins::remove(&path)?;
            drop(link);
        }
    }
    for index in former.iter().filter(|index| keep.iter().all(|interface| interface.index != **index)) {
        if let Ok(name) = nix::net::if_::if_indextoname(*index) {
            for (direction, _) in DIRECTIONS {
                remove_filter(&name.to_string_lossy(), direction);
            }
        }
    }
    Ok(())
}

/// Stops answering for every VIP, before anything else of the data path goes.
pub(crate) fn withdraw(pins: &Pins) -> Result<(), Error> {
    let Some(mut vips) = pinned::<[u8; 4], Vip>(pins, map::VIPS) else { return Ok(()) };
    let owned: Vec<[u8; 4]> = vips.keys().flatten().collect();
    for vip in owned {
        let _ = vips.remove(&vip);
    }
    Ok(())
}

/// Removes the clsact filters from the interfaces that the pinned map names.
pub(crate) fn remove_filters(pins: &Pins) {
    let Some(interfaces) = pinned::<u32, evenkeel_maps::Interface>(pins, map::INTERFACES) else { return };
    for index in interfaces.keys().flatten() {
        if let Ok(name) = nix::net::if_::if_indextoname(index) {
            for (direction, _) in DIRECTIONS {
                remove_filter(&name.to_string_lossy(), direction);
            }
        }
    }
}

fn pinned<K: aya::Pod, V: aya::Pod>(pins: &Pins, name: &str) -> Option<HashMap<MapData, K, V>> {
    let data = MapData::from_pin(pins.map(name)).ok()?;
    HashMap::try_from(aya::maps::Map::HashMap(data)).ok()
}

enum Attach {
    Program(ProgramError),
    Pin(Error),
}

fn attach_tcx(
    program: &mut SchedClassifier,
    pins: &Pins,
    interface: &Interface,
    direction: TcAttachType,
) -> Result<(), Attach> {
    let path = pins.link(&interface.name, direction);
    let adopted = adopt(program, &path, interface, direction).map_err(Attach::Program)?;
    if adopted {
        return Ok(());
    }
    pins::remove(&path).map_err(Attach::Pin)?;
    let link = program
        .attach_with_options(&interface.name, direction, TcAttachOptions::TcxOrder(LinkOrder::default()))
        .map_err(Attach::Program)?;
    let link = program.take_link(link).map_err(Attach::Program)?;
    let link = FdLink::try_from(link).map_err(|error| Attach::Pin(link_error(&path, &error)))?;
    link.pin(&path).map_err(|error| Attach::Pin(link_error(&path, &error)))?;
    Ok(())
}

/// Puts the program into the pinned link, if that link is attached to this very interface. A pin can be older than the
/// interface: its device was deleted, or it is another namespace's.
fn adopt(
    program: &mut SchedClassifier,
    path: &Path,
    interface: &Interface,
    direction: TcAttachType,
) -> Result<bool, ProgramError> {
    let Ok(pinned) = PinnedLink::from_pin(path) else { return Ok(false) };
    let link = FdLink::from(pinned);
    let Ok(info) = link.info() else { return Ok(false) };
    let (_, attached) = SchedClassifier::query_tcx(&interface.name, direction)?;
    if !attached.iter().any(|program| program.id() == info.program_id()) {
        return Ok(false);
    }
    let Ok(link) = SchedClassifierLink::try_from(link) else { return Ok(false) };
    let id = program.attach_to_link(link)?;
    // The pin holds the link; this process must not detach it when it ends.
    let link = program.take_link(id)?;
    if let Ok(link) = FdLink::try_from(link) {
        drop(link);
    }
    Ok(true)
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

fn classifier(object: &mut Ebpf, direction: TcAttachType) -> Result<&mut SchedClassifier, Error> {
    let name = match direction {
        TcAttachType::Egress => program::EGRESS,
        _ => program::INGRESS,
    };
    let missing = || program_error(format!("find program {name}"), ProgramError::UnexpectedProgramType);
    object
        .program_mut(name)
        .ok_or_else(missing)?
        .try_into()
        .map_err(|error| program_error(format!("find {name}"), error))
}

fn program_error(what: String, source: ProgramError) -> Error {
    Error::Program { what: format!("cannot {what}"), source: Box::new(source) }
}

fn link_error(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Pin { path: path.to_owned(), source: io::Error::other(error.to_string()) }
}
