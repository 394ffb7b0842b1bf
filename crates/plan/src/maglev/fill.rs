//! Who gets which slot: the smallest table by preference, larger ones by doubling it.
//!
//! Backends and slots are indices here, in range by construction.

use std::cmp::Reverse;

use super::hash;

/// Nobody's slot.
const FREE: u32 = u32::MAX;
/// The preference for a slot that came to its owner without a claim: it is the first to be given up.
const UNCLAIMED: u32 = u32::MAX;

/// A backend as the filling sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claimant {
    /// Where its permutation of the slots starts; also what its hashes of slots are keyed by.
    pub(super) offset: u64,
    /// The step from one slot of its permutation to the next.
    pub(super) skip: u64,
    /// Its weight, at least 1.
    pub(super) weight: u32,
}

/// The owner of each slot, as an index into `claimants`, which must not be empty. `smallest` and `size` are powers of
/// two. The order of the claimants settles ties, so it is part of the input.
pub(super) fn fill(claimants: &[Claimant], smallest: u32, size: u32) -> Vec<u32> {
    let mut slots = Slots::by_preference(claimants, smallest.min(size));
    while slots.size() < size {
        slots.double();
        let mut shares = shares(claimants, slots.size());
        if slots.size() >= size {
            leave_none_without(&mut shares);
        }
        slots.rebalance(claimants, &shares);
    }
    slots.owner
}

/// How many of `size` slots each claimant gets: in proportion to the weights, rounded by largest remainder.
fn shares(claimants: &[Claimant], size: u32) -> Vec<u32> {
    let total: u64 = claimants.iter().map(|claimant| u64::from(claimant.weight)).sum::<u64>().max(1);
    let exact = |claimant: &Claimant| u64::from(size) * u64::from(claimant.weight);
    // No share is larger than `size`, so it fits.
    let rounded_down = |claimant: &Claimant| u32::try_from(exact(claimant) / total).unwrap_or(size);
    let mut shares: Vec<u32> = claimants.iter().map(rounded_down).collect();
    let rest = size.saturating_sub(shares.iter().sum()) as usize;
    let mut by_remainder: Vec<usize> = (0..claimants.len()).collect();
    by_remainder.sort_by_key(|index| Reverse(exact(&claimants[*index]) % total));
    for index in by_remainder.into_iter().take(rest) {
        shares[index] += 1;
    }
    shares
}

/// A weight so small beside the others that its share rounds to nothing still gets a slot, while there are enough.
fn leave_none_without(shares: &mut [u32]) {
    for index in 0..shares.len() {
        let most = (0..shares.len()).max_by_key(|other| shares[*other]).unwrap_or(index);
        if shares[index] == 0 && shares[most] > 1 {
            shares[most] -= 1;
            shares[index] = 1;
        }
    }
}

/// Slots with their owners.
struct Slots {
    owner: Vec<u32>,
    /// The place of the slot in its owner's permutation, 0 the most preferred.
    preference: Vec<u32>,
}

impl Slots {
    /// As in Maglev every backend claims slots in the order of its own permutation until it has its share; but a slot goes
    /// to whoever prefers it most, not to whoever came first (deferred acceptance: Gale and Shapley, "College Admissions
    /// and the Stability of Marriage", 1962). That outcome does not depend on the order of the claims, which is why less
    /// of it changes with the set of backends.
    fn by_preference(claimants: &[Claimant], size: u32) -> Self {
        let mut slots = Self { owner: vec![FREE; size as usize], preference: vec![UNCLAIMED; size as usize] };
        let shares = shares(claimants, size);
        let mut claims: Vec<Claims> =
            claimants.iter().zip(shares).map(|(claimant, share)| Claims::new(claimant, share, size)).collect();
        let mut waiting: Vec<u32> = (0..).zip(&claims).map(|(index, _)| index).collect();
        while let Some(claimant) = waiting.pop() {
            while let Some((slot, preference)) = claims[claimant as usize].next() {
                let owner = slots.owner[slot];
                if (preference, claimant) >= (slots.preference[slot], owner) {
                    continue;
                }
                (slots.preference[slot], slots.owner[slot]) = (preference, claimant);
                claims[claimant as usize].missing -= 1;
                if owner != FREE {
                    claims[owner as usize].missing += 1;
                    waiting.push(owner);
                }
            }
        }
        // Who was turned down everywhere gets what nobody claimed.
        let mut missing = (0..).zip(&claims).flat_map(|(index, claims)| (0..claims.missing).map(move |_| index));
        for owner in slots.owner.iter_mut().filter(|owner| **owner == FREE) {
            *owner = missing.next().unwrap_or(0);
        }
        slots
    }

    fn size(&self) -> u32 {
        u32::try_from(self.owner.len()).unwrap_or(u32::MAX)
    }

    /// Twice as many slots. A packet whose hash fell on slot `s` of `n` now falls on `s` or on `s + n`, which have the same
    /// owner: so far nothing has changed for anybody.
    fn double(&mut self) {
        self.owner.extend_from_within(..);
        self.preference.extend_from_within(..);
    }

    /// Move as few slots as it takes to give everybody their share at this size: who has too many gives up those it prefers
    /// least, each to the one of those who have too few whose hash of the slot is highest.
    fn rebalance(&mut self, claimants: &[Claimant], shares: &[u32]) {
        let mut owned: Vec<Vec<u32>> = vec![Vec::new(); claimants.len()];
        for (slot, owner) in (0..).zip(&self.owner) {
            owned[*owner as usize].push(slot);
        }
        let mut given_up: Vec<u32> = Vec::new();
        let mut takers: Vec<Taker> = Vec::new();
        for (index, (mut slots, share)) in (0..).zip(owned.into_iter().zip(shares)) {
            let share = *share as usize;
            if slots.len() > share {
                slots.sort_by_key(|slot| (self.preference[*slot as usize], *slot));
                given_up.extend(slots.drain(share..));
            } else if slots.len() < share {
                takers.push(Taker { index, key: claimants[index as usize].offset, missing: share - slots.len() });
            }
        }
        // In an order of their own: the last taker has no choice, and would always be left the slots at the end.
        given_up.sort_by_key(|slot| hash::of_slot(0, *slot));
        for slot in given_up {
            let best = (0..takers.len()).max_by_key(|taker| hash::of_slot(takers[*taker].key, slot));
            let Some(best) = best else { return };
            self.owner[slot as usize] = takers[best].index;
            self.preference[slot as usize] = UNCLAIMED;
            takers[best].missing -= 1;
            if takers[best].missing == 0 {
                takers.remove(best);
            }
        }
    }
}

/// The claims of one backend: `offset`, `offset + skip`, ... modulo the size. The step is odd and the size a power of
/// two, so they come to every slot once.
struct Claims {
    next: u64,
    skip: u64,
    mask: u64,
    made: u32,
    missing: u32,
}

impl Claims {
    fn new(claimant: &Claimant, share: u32, size: u32) -> Self {
        let mask = u64::from(size) - 1;
        Self { next: claimant.offset & mask, skip: claimant.skip & mask | 1, mask, made: 0, missing: share }
    }

    /// The next slot to claim with its place in the permutation, while slots are missing and not all were tried.
    fn next(&mut self) -> Option<(usize, u32)> {
        if self.missing == 0 || u64::from(self.made) > self.mask {
            return None;
        }
        let (slot, preference) = (usize::try_from(self.next).ok()?, self.made);
        self.next = (self.next + self.skip) & self.mask;
        self.made += 1;
        Some((slot, preference))
    }
}

/// A backend that has too few slots.
struct Taker {
    index: u32,
    key: u64,
    missing: usize,
}
