//! The bits of watched addresses: by them the programs know most packets that do not concern them.

use std::collections::HashMap;

use evenkeel_maps::{Address, WATCHED_BITS, address_bit};

use crate::shared::Elements;

/// The bits, and how many addresses need each.
pub(crate) struct Watched<E> {
    array: E,
    counts: HashMap<u32, u32>,
}

impl<E: Elements<u64>> Watched<E> {
    /// Takes over the bits that an earlier process left; they are all in force until [`Self::settle`].
    pub(crate) fn adopt(array: E) -> Self {
        Self { array, counts: HashMap::new() }
    }

    /// Clears the bits that nothing has asked for since the adoption.
    pub(crate) fn settle(&mut self) {
        for word in 0..WATCHED_BITS / 64 {
            let present = self.array.read(word);
            let wanted = (0..64)
                .filter(|bit| u32::try_from(word * 64 + bit).is_ok_and(|bit| self.counts.contains_key(&bit)))
                .fold(0, |bits, bit| bits | 1 << bit);
            if present != wanted && present != 0 {
                self.array.write(word, wanted);
            }
        }
    }

    /// Watches an address; as often as it is added, it has to be removed.
    pub(crate) fn add(&mut self, address: &Address) {
        let bit = address_bit(address);
        *self.counts.entry(bit).or_insert(0) += 1;
        self.write(bit, true);
    }

    /// Stops watching an address.
    pub(crate) fn remove(&mut self, address: &Address) {
        let bit = address_bit(address);
        if let Some(count) = self.counts.get_mut(&bit) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&bit);
                self.write(bit, false);
            }
        }
    }

    fn write(&mut self, bit: u32, set: bool) {
        let word = bit as usize / 64;
        let mask = 1 << (bit % 64);
        let present = self.array.read(word);
        let wanted = if set { present | mask } else { present & !mask };
        if wanted != present {
            self.array.write(word, wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_set(watched: &Watched<Vec<u64>>, address: &Address) -> bool {
        let bit = address_bit(address);
        watched.array[bit as usize / 64] >> (bit % 64) & 1 == 1
    }

    #[test]
    fn an_address_is_watched_as_long_as_somebody_needs_it() {
        let mut watched = Watched::adopt(vec![0; WATCHED_BITS / 64]);
        let address = Address::v4([10, 0, 0, 1]);
        watched.add(&address);
        watched.add(&address);
        watched.remove(&address);
        assert!(is_set(&watched, &address));
        watched.remove(&address);
        assert!(!is_set(&watched, &address));
    }

    #[test]
    fn what_an_earlier_process_watched_goes_when_nothing_asks_for_it() {
        let (kept, gone) = (Address::v4([10, 0, 0, 1]), Address::v4([10, 0, 0, 2]));
        let mut before = Watched::adopt(vec![0; WATCHED_BITS / 64]);
        before.add(&kept);
        before.add(&gone);
        let mut after = Watched::adopt(before.array);
        after.add(&kept);
        assert!(is_set(&after, &gone));
        after.settle();
        assert!(is_set(&after, &kept) && !is_set(&after, &gone));
    }
}
