//! Reading a whole hash map with few system calls (`BPF_MAP_LOOKUP_BATCH`, kernel 5.6).
#![expect(unsafe_code, reason = "the bpf system call takes pointers; aya does not wrap this command")]

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya::Pod;

const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
/// More than any hash bucket holds in practice; grown when the kernel says a bucket is larger.
const ENTRIES: usize = 8192;

/// The kernel's `union bpf_attr` for batch commands.
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Calls `each` for every entry. The map may change meanwhile: an entry can be missed or seen twice, never torn.
pub(crate) fn for_each<K: Pod, V: Pod>(map: BorrowedFd<'_>, mut each: impl FnMut(&K, &V)) -> io::Result<()> {
    let mut capacity = ENTRIES;
    let mut keys: Vec<MaybeUninit<K>> = Vec::with_capacity(capacity);
    let mut values: Vec<MaybeUninit<V>> = Vec::with_capacity(capacity);
    // The kernel's cursor: a bucket number for hash maps.
    let mut cursor = 0_u32;
    let mut started = false;
    loop {
        let mut next = cursor;
        let mut attributes = Attributes {
            in_batch: if started { (&raw const cursor) as u64 } else { 0 },
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(capacity).unwrap_or(u32::MAX),
            map: u32::try_from(map.as_raw_fd()).unwrap_or(u32::MAX),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the buffers have room for `count` keys and values of the map's types.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attributes, size_of::<Attributes>()) };
        let error = (result != 0).then(io::Error::last_os_error);
        let code = error.as_ref().and_then(io::Error::raw_os_error);
        if code == Some(libc::ENOSPC) {
            capacity *= 2;
            keys.reserve(capacity);
            values.reserve(capacity);
            continue;
        }
        let ended = code == Some(libc::ENOENT);
        if let (Some(error), false) = (error, ended) {
            return Err(error);
        }
        for index in 0..attributes.count as usize {
            // SAFETY: the kernel has written `count` entries.
            unsafe {
                each(&keys.as_ptr().add(index).cast::<K>().read(), &values.as_ptr().add(index).cast::<V>().read());
            }
        }
        if ended {
            return Ok(());
        }
        cursor = next;
        started = true;
    }
}
