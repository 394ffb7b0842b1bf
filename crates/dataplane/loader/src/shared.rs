//! Arrays that user space and the kernel share as memory (`BPF_F_MMAPABLE`).
#![expect(unsafe_code, reason = "memory shared with the kernel is reached through raw pointers")]

use std::{
    io,
    marker::PhantomData,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
};

use aya::Pod;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Elements that can be read and written by index: shared memory, or a vector in tests.
pub(crate) trait Elements<T> {
    fn count(&self) -> usize;
    fn read(&self, index: usize) -> T;
    fn write(&mut self, index: usize, value: T);
}

/// Words inside elements that the programs change at the same time.
pub(crate) trait Words {
    /// Writes `new` over the 32-bit word at this offset of an element if it is `old`; whether it was.
    fn exchange(&self, index: usize, offset: usize, old: u32, new: u32) -> bool;
    /// Writes `new` over the 64-bit word at this offset of an element if it is `old`; whether it was.
    fn exchange_wide(&self, index: usize, offset: usize, old: u64, new: u64) -> bool;
    /// Reads a part of an element, at this offset.
    fn load<V: Pod>(&self, index: usize, offset: usize) -> V;
    /// Writes a part of an element, at this offset, that the caller has claimed. Whoever sees a later write sees this one.
    fn store<V: Pod>(&self, index: usize, offset: usize, value: V);
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

impl<T: Pod> Words for SharedArray<T> {
    fn exchange(&self, index: usize, offset: usize, old: u32, new: u32) -> bool {
        let word = self.word::<u32>(index, offset);
        // SAFETY: `word` has checked that it lies inside the mapping and is aligned.
        let word = unsafe { AtomicU32::from_ptr(word) };
        word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn exchange_wide(&self, index: usize, offset: usize, old: u64, new: u64) -> bool {
        let word = self.word::<u64>(index, offset);
        // SAFETY: as above.
        let word = unsafe { AtomicU64::from_ptr(word) };
        word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn load<V: Pod>(&self, index: usize, offset: usize) -> V {
        let part = self.word::<V>(index, offset);
        // SAFETY: `word` has checked that it lies inside the mapping and is aligned, and every bit pattern is a `V`.
        unsafe { part.read_volatile() }
    }

    fn store<V: Pod>(&self, index: usize, offset: usize, value: V) {
        let part = self.word::<V>(index, offset);
        // SAFETY: `word` has checked that it lies inside the mapping and is aligned. The programs may read it meanwhile; the
        // caller has made it invalid for them.
        unsafe { part.write_volatile(value) };
        fence(Ordering::SeqCst);
    }
}

impl<T> SharedArray<T> {
    fn word<W>(&self, index: usize, offset: usize) -> *mut W {
        assert!(index < self.count && offset + size_of::<W>() <= size_of::<T>(), "offset {offset} of element {index}");
        assert!(offset.is_multiple_of(align_of::<W>()), "offset {offset} is not aligned");
        // SAFETY: inside the mapping.
        unsafe { self.start.as_ptr().add(index).byte_add(offset).cast() }
    }
}

impl<T> Drop for SharedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`; nothing refers to it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.count * size_of::<T>()) };
    }
}

#[cfg(test)]
impl<T: Pod> SharedArray<T> {
    /// An array of zeros that no map is behind.
    pub(crate) fn anonymous(count: usize) -> Self {
        let (length, protection) = (count * size_of::<T>(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new mapping, chosen by the kernel.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), length, protection, MapFlags::PRIVATE) };
        Self { start: NonNull::new(start.unwrap().cast()).unwrap(), count, element: PhantomData }
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
