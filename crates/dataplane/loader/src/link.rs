//! What the kernel says about a link (`BPF_OBJ_GET_INFO_BY_FD`).
#![expect(unsafe_code, reason = "the bpf system call takes pointers; aya does not read this part of the answer")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// The beginning of the kernel's `struct bpf_link_info`, as it is for links to an interface (XDP, tcx).
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    interface: u32,
    rest: [u32; 11],
}

/// The kernel's `union bpf_attr` for `BPF_OBJ_GET`.
#[repr(C)]
struct Get {
    path: u64,
    link: u32,
    flags: u32,
}

/// The same for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct GetInfo {
    link: u32,
    length: u32,
    info: u64,
}

/// Index of the interface that a tcx or XDP link is attached to; zero once the interface is gone. By its pin: to open a link
/// by its number takes `CAP_SYS_ADMIN`.
pub(crate) fn interface(pin: &Path) -> io::Result<u32> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let link = call(BPF_OBJ_GET, &mut Get { path: path.as_ptr() as u64, link: 0, flags: 0 })?;
    // SAFETY: the call has made it for this process, and nobody else has it.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    let mut info = LinkInfo::default();
    let mut attributes = GetInfo {
        link: u32::try_from(link.as_raw_fd()).map_err(io::Error::other)?,
        length: u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: (&raw mut info) as u64,
    };
    call(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(info.interface)
}

fn call<Attributes>(command: libc::c_int, attributes: &mut Attributes) -> io::Result<i32> {
    // SAFETY: what the attributes point to is as long as they say, and lives until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<Attributes>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
