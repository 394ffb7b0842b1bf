//! An XDP program that passes everything, for the other end of a veth.
//!
//! A veth whose end has an XDP program hands frames to its peer in batches; the kernel wakes the peer up for one of these only
//! if that has an XDP program as well. Between machines there is a wire instead.
#![expect(unsafe_code, reason = "system calls that no library has in this plain form")]

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use anyhow::Context as _;
use evenkeel_lab::Namespace;
use nix::net::if_::if_nametoindex;

/// Of linux/bpf.h.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
/// `r0 = XDP_PASS; exit`.
const PROGRAM: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

/// The first members of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    program: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The members of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct Attach {
    program: RawFd,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches the program to an interface, in its driver; it is detached when what is returned is dropped.
pub(crate) fn attach(namespace: &Namespace, interface: &str) -> anyhow::Result<OwnedFd> {
    let attached = namespace.enter(|| -> anyhow::Result<OwnedFd> {
        let load = Load {
            kind: BPF_PROG_TYPE_XDP,
            instructions: 2,
            program: PROGRAM.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: BPF_F_XDP_HAS_FRAGS,
        };
        let program = bpf(BPF_PROG_LOAD, &load).context("loading a program that passes everything")?;
        let attach = Attach {
            program: program.as_raw_fd(),
            interface: if_nametoindex(interface)?,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        };
        bpf(BPF_LINK_CREATE, &attach).context("attaching it")
    })?;
    attached.with_context(|| format!("XDP on {interface}"))
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads as many bytes as it is told, of a structure that has no padding; what it points to outlives the
    // call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    match RawFd::try_from(result) {
        // SAFETY: a descriptor that the kernel has made for this call.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}
