//! Things with keys that are never mistaken for those of earlier things in the same place.

/// The key of a thing in a [`Slab`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// As one number, for the kernel to keep.
    pub(crate) fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the halves of a number")]
    pub(crate) const fn from_u64(number: u64) -> Self {
        Self { index: number as u32, generation: (number >> 32) as u32 }
    }
}

#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    content: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// A place for a thing that will be put there with [`Self::put`].
    pub(crate) fn reserve(&mut self) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, content: None });
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        Key { index, generation: self.slots[index as usize].generation }
    }

    /// Takes a thing out for a moment: it is put back with [`Self::put`], or its place given up with [`Self::free`].
    pub(crate) fn take(&mut self, key: Key) -> Option<T> {
        self.slot(key)?.content.take()
    }

    pub(crate) fn put(&mut self, key: Key, content: T) {
        if let Some(slot) = self.slot(key) {
            slot.content = Some(content);
        }
    }

    pub(crate) fn free(&mut self, key: Key) {
        if let Some(slot) = self.slot(key) {
            // The number may be that of the stop event only after the generation has gone round.
            slot.generation = slot.generation.wrapping_add(1) & (u32::MAX >> 1);
            slot.content = None;
            self.free.push(key.index);
        }
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        slot.content.as_ref().filter(|_| slot.generation == key.generation)
    }

    fn slot(&mut self, key: Key) -> Option<&mut Slot<T>> {
        self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_finds_nothing_in_a_place_used_again() {
        let mut slab = Slab::default();
        let old = slab.reserve();
        slab.put(old, 'a');
        assert_eq!(slab.get(old), Some(&'a'));
        slab.free(old);
        let new = slab.reserve();
        slab.put(new, 'b');
        assert_eq!((slab.take(old), slab.get(new)), (None, Some(&'b')));
        slab.free(old);
        slab.put(old, 'c');
        assert_eq!(slab.get(Key::from_u64(new.to_u64())), Some(&'b'));
        assert_ne!(old, new);
    }
}
