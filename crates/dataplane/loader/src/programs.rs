//! The programs in the kernel: loaded, or taken over from the process before.
//!
//! Loading is the verifier's turn: half a second of a processor for each program, in which the kernel holds everything else up
//! for some milliseconds now and then. So what was loaded is pinned under the digest of its object, and a process with the
//! same object, which comes after a restart or a crash, goes on with it.

use std::{io, path::PathBuf};

use aya::{
    Ebpf,
    programs::{ProgramError, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, Xdp},
};
use aya_obj::programs::XdpAttachType;
use evenkeel_maps::{map, program};

use crate::{
    Error, Program,
    hook::{Hook, HookChoice},
    pins::{self, Pins},
};

/// How often a program is loaded at most, as by libbpf.
const LOAD_ATTEMPTS: u32 = 5;
/// Of the embedded object.
const DIGEST: &str = env!("EVENKEEL_BPF_DIGEST");
/// Those at a tc hook, and the clock.
const CLASSIFIERS: [&str; 3] = [program::INGRESS, program::EGRESS, program::CLOCK];

/// What the programs are loaded on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maps {
    /// Maps that were pinned before: what was loaded on them may go on.
    Adopted,
    /// Some are new.
    New,
    /// A map of another version's is among them, which is not wanted for longer than necessary.
    Borrowed,
}

impl Maps {
    /// Looks, before the object is loaded.
    pub(crate) fn look(pins: &Pins, borrows: bool) -> Result<Self, Error> {
        if borrows {
            return Ok(Self::Borrowed);
        }
        for name in map::ALL {
            if !pins::exists(&pins.map(name))? {
                return Ok(Self::New);
            }
        }
        Ok(Self::Adopted)
    }
}

/// Loads a program, again if the verifier was interrupted: it gives up when a signal waits for the thread, with `EAGAIN`.
fn persevere(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    for _ in 1..LOAD_ATTEMPTS {
        match load() {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
    load()
}

/// Makes the programs that are needed ready to be attached.
pub(crate) fn load(object: &mut Ebpf, hooks: &HookChoice, pins: &Pins, maps: Maps) -> Result<(), Error> {
    let mut ready = Vec::new();
    for name in CLASSIFIERS {
        let pin = pins.program(name, DIGEST);
        let program = named(object, name)?;
        if maps == Maps::Adopted
            && let Ok(present) = SchedClassifier::from_pin(&pin)
        {
            *program = present;
        } else {
            persevere(|| program.load()).map_err(|error| program_error(format!("load the program {name}"), error))?;
        }
        ready.push(name);
    }
    if hooks.has(Hook::Xdp) || hooks.has(Hook::XdpGeneric) {
        let pin = pins.program(program::XDP, DIGEST);
        if maps == Maps::Adopted
            && let Ok(present) = Xdp::from_pin(&pin, XdpAttachType::Interface)
        {
            *xdp(object)? = present;
        } else {
            loaded_xdp(object)?;
        }
        ready.push(program::XDP);
    }
    if maps != Maps::Borrowed {
        keep(object, pins, &ready)?;
    }
    Ok(())
}

/// Pins what is ready, and removes the pins of other objects' programs.
fn keep(object: &mut Ebpf, pins: &Pins, ready: &[&str]) -> Result<(), Error> {
    let kept: Vec<PathBuf> = ready.iter().map(|name| pins.program(name, DIGEST)).collect();
    for pin in pins.programs()? {
        if !kept.contains(&pin) {
            pins::remove(&pin)?;
        }
    }
    for (name, pin) in ready.iter().zip(kept) {
        if pins::exists(&pin)? {
            continue;
        }
        let pinned = if *name == program::XDP { xdp(object)?.pin(&pin) } else { named(object, name)?.pin(&pin) };
        pinned.map_err(|error| pins::error(&pin, &error))?;
    }
    Ok(())
}

/// Offset of `ifindex` in the kernel's `struct __sk_buff`, and the structure's part that a test run takes.
const SKB_IFINDEX: usize = 40;
const SKB_SIZE: usize = 192;
/// The same in `struct xdp_md`; the end of the data is in it, too.
const XDP_IFINDEX: usize = 12;
const XDP_DATA_END: usize = 4;
const XDP_SIZE: usize = 24;
/// What a program may add to a frame.
const HEADROOM: usize = 256;

/// A test run of one program on one frame.
pub(crate) fn run_once(
    object: &mut Ebpf,
    which: Program,
    interface: u32,
    frame: &[u8],
) -> Result<(i32, Vec<u8>), Error> {
    let mut context = vec![0; if which == Program::Xdp { XDP_SIZE } else { SKB_SIZE }];
    let mut put = |offset: usize, value: u32| context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    if which == Program::Xdp {
        put(XDP_DATA_END, u32::try_from(frame.len()).unwrap_or(u32::MAX));
        put(XDP_IFINDEX, interface);
    } else {
        put(SKB_IFINDEX, interface);
    }
    let mut out = vec![0; frame.len() + HEADROOM];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    options.ctx_in = Some(&context);
    options.repeat = 1;
    let result = match which {
        Program::Ingress => classifier(object, TcAttachType::Ingress)?.test_run(options),
        Program::Egress => classifier(object, TcAttachType::Egress)?.test_run(options),
        Program::Xdp => loaded_xdp(object)?.test_run(options),
    };
    let result = result.map_err(|error| program_error("run a test packet".to_owned(), error))?;
    out.truncate(result.data_size_out as usize);
    Ok((result.return_value.cast_signed(), out))
}

/// The programs' clock, in ticks.
pub(crate) fn clock(object: &mut Ebpf) -> Result<u32, Error> {
    let mut options = TestRunOptions::new();
    // The shortest frame that the kernel runs a program on.
    options.data_in = Some(&[0; 14]);
    options.repeat = 1;
    let result = named(object, program::CLOCK)?.test_run(options);
    Ok(result.map_err(|error| program_error("read the programs' clock".to_owned(), error))?.return_value)
}

pub(crate) fn classifier(object: &mut Ebpf, direction: TcAttachType) -> Result<&mut SchedClassifier, Error> {
    match direction {
        TcAttachType::Egress => named(object, program::EGRESS),
        _ => named(object, program::INGRESS),
    }
}

fn named<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Error> {
    let missing = || program_error(format!("find program {name}"), ProgramError::UnexpectedProgramType);
    object
        .program_mut(name)
        .ok_or_else(missing)?
        .try_into()
        .map_err(|error| program_error(format!("find {name}"), error))
}

fn xdp(object: &mut Ebpf) -> Result<&mut Xdp, Error> {
    let missing = || program_error(format!("find program {}", program::XDP), ProgramError::UnexpectedProgramType);
    object
        .program_mut(program::XDP)
        .ok_or_else(missing)?
        .try_into()
        .map_err(|error| program_error(format!("find {}", program::XDP), error))
}

/// The program of the XDP hooks, which most nodes do without.
pub(crate) fn loaded_xdp(object: &mut Ebpf) -> Result<&mut Xdp, Error> {
    let program = xdp(object)?;
    if program.fd().is_err() {
        persevere(|| program.load())
            .map_err(|error| program_error(format!("load the program {}", program::XDP), error))?;
    }
    Ok(program)
}

pub(crate) fn program_error(what: String, source: ProgramError) -> Error {
    Error::Program { what: format!("cannot {what}"), source: Box::new(source) }
}
