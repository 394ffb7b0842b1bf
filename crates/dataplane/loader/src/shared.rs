//! Arrays that user space and the kernel share as memory (`BPF_F_MMAPABLE`).
#![expect(unsafe_code, reason = "memory shared with the kernel is reached through raw pointers")]

use std::{io, marker::PhantomData, os::fd::BorrowedFd, ptr::NonNull};

use aya::Pod;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Elements that can be read and written by index: shared memory, or a vector in tests.
pub(crate) trait Elements<T> {
    fn count(&self) -> usize;
    fn read(&self, index: usize) -> T;
    fn write(&mut self, index: usize, value: T);
}

/// A BPF array mapped into this process.
pub(crate) struct SharedArray<T> {
    start: NonNull<T>,
    count: usize,
    element: PhantomData<T>,
}

// SAFETY: the memory belongs to the mapping, not to a thread; `write` needs `&mut self`.
unsafe impl<T: Pod + Send> Send for SharedArray<T> {}

impl<T: Pod> SharedArray<T> {
    /// Maps `count` elements of the array behind `map`. `T`'s size must be a multiple of eight: the kernel pads elements
    /// to that.
    pub(crate) fn map(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) }
        // SAFETY: a new mapping, chosen by the kernel.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                count * size_of::<T>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map,
                0,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap returned null"))?;
        Ok(Self { start, count, element: PhantomData })
    }
}

impl<T: Pod> Elements<T> for SharedArray<T> {
    fn count(&self) -> usize {
        self.count
    }

    fn read(&self, index: usize) -> T {
        assert!(index < self.count, "index {index} of {}", self.count);
        // SAFETY: inside the mapping, aligned, and every bit pattern is a `T`.
        unsafe { self.start.as_ptr().add(index).read_volatile() }
    }

    fn write(&mut self, index: usize, value: T) {
        assert!(index < self.count, "index {index} of {}", self.count);
        // SAFETY: inside the mapping and aligned. The programs read concurrently; what they may see half written is
        // decided by the callers (an identity changes only while its slot is free).
        unsafe { self.start.as_ptr().add(index).write_volatile(value) }
    }
}

impl<T> Drop for SharedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`; nothing refers to it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.count * size_of::<T>()) };
    }
}

#[cfg(test)]
impl<T: Clone> Elements<T> for Vec<T> {
    fn count(&self) -> usize {
        self.len()
    }
    fn read(&self, index: usize) -> T {
        self[index].clone()
    }
    fn write(&mut self, index: usize, value: T) {
        self[index] = value;
    }
}
