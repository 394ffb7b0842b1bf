//! Maglev lookup tables (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
//! section 3.4): every backend gets an almost equal share of the slots, and when a backend comes or goes few slots of
//! the others change. The table is a function of the set of backends and the seed alone, so all nodes agree.
//!
//! An identity is hashed by SipHash-2-4 (Aumasson and Bernstein, 2012) over: one byte saying which of the two hashes
//! of the paper is wanted, the address family (4 or 6), the address and the port, both in network byte order. The
//! standard library's hasher is not used, because it may change between compilers and with it every node's tables.

use std::net::{IpAddr, SocketAddr};

/// The 128-bit SipHash key. The same on all nodes; secret, so that nobody can choose addresses that collide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seed(pub [u8; 16]);

/// Fewest slots per backend, until the largest size is reached: keeps the imbalance around one per cent.
const SLOTS_PER_BACKEND: usize = 100;

/// Table sizes: the largest prime below each power of two. Doubling bounds how often a table's size, and with it the
/// place of every flow that no flow table remembers, changes while backends come and go.
pub const SIZES: [u32; 10] = [251, 509, 1_021, 2_039, 4_093, 8_191, 16_381, 32_749, 65_521, 131_071];

/// The size of the table for this many backends.
pub fn size(backends: usize) -> u32 {
    if backends == 0 {
        return 0;
    }
    let wanted = backends.saturating_mul(SLOTS_PER_BACKEND);
    SIZES.into_iter().find(|size| usize::try_from(*size).is_ok_and(|size| size >= wanted)).unwrap_or(131_071)
}

/// The lookup table for these backends: each entry is an index into `backends`.
///
/// The order of `backends` makes no difference to which backend a slot belongs to. A backend given twice has one
/// share, under its first index. No backends give an empty table.
pub fn table(backends: &[SocketAddr], seed: Seed) -> Vec<u32> {
    let mut sorted: Vec<(SocketAddr, u32)> = backends.iter().copied().zip(0..).collect();
    sorted.sort_unstable();
    sorted.dedup_by_key(|(identity, _)| *identity);
    let size = size(sorted.len());
    let mut permutations: Vec<Permutation> =
        sorted.iter().map(|(identity, _)| Permutation::new(*identity, seed, size)).collect();
    fill(&mut permutations, size).into_iter().filter_map(|winner| sorted.get(winner).map(|(_, index)| *index)).collect()
}

/// Figure 3 of the paper: the backends take turns, each taking the first free slot of its permutation.
fn fill(permutations: &mut [Permutation], size: u32) -> Vec<usize> {
    const FREE: usize = usize::MAX;
    let slots = usize::try_from(size).unwrap_or(0);
    let mut table = vec![FREE; slots];
    let mut filled = 0;
    while filled < slots {
        for (backend, permutation) in permutations.iter_mut().enumerate() {
            // A permutation visits every slot once, so while one is free it is found.
            let free = permutation.by_ref().find(|slot| table.get(*slot) == Some(&FREE));
            if let Some(entry) = free.and_then(|slot| table.get_mut(slot)) {
                *entry = backend;
                filled += 1;
            }
            if filled == slots {
                break;
            }
        }
    }
    table
}

/// The order in which a backend prefers the slots: `offset`, `offset + skip`, ... modulo the (prime) size.
struct Permutation {
    next: u64,
    skip: u64,
    size: u64,
}

impl Permutation {
    fn new(identity: SocketAddr, seed: Seed, size: u32) -> Self {
        let size = u64::from(size);
        let offset = hash(identity, 0, seed) % size;
        let skip = hash(identity, 1, seed) % (size - 1) + 1;
        Self { next: offset, skip, size }
    }
}

impl Iterator for Permutation {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let slot = self.next;
        self.next = (slot + self.skip) % self.size;
        usize::try_from(slot).ok()
    }
}

fn hash(identity: SocketAddr, which: u8, seed: Seed) -> u64 {
    let mut bytes = Vec::with_capacity(20);
    bytes.push(which);
    match identity.ip() {
        IpAddr::V4(address) => {
            bytes.push(4);
            bytes.extend(address.octets());
        }
        IpAddr::V6(address) => {
            bytes.push(6);
            bytes.extend(address.octets());
        }
    }
    bytes.extend(identity.port().to_be_bytes());
    siphash(&bytes, seed)
}

/// SipHash-2-4 with a 64-bit result.
fn siphash(bytes: &[u8], seed: Seed) -> u64 {
    let (low, high) = seed.0.split_at(8);
    let (k0, k1) = (little_endian(low), little_endian(high));
    let mut state = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mut words = bytes.chunks_exact(8);
    for word in words.by_ref() {
        compress(&mut state, little_endian(word));
    }
    // The last word is what is left over, with the length (modulo 256) in the top byte.
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX) << 56;
    compress(&mut state, little_endian(words.remainder()) | length);
    state[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut state);
    }
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

fn compress(state: &mut [u64; 4], word: u64) {
    state[3] ^= word;
    round(state);
    round(state);
    state[0] ^= word;
}

fn round(state: &mut [u64; 4]) {
    let [v0, v1, v2, v3] = state;
    *v0 = v0.wrapping_add(*v1);
    *v1 = v1.rotate_left(13) ^ *v0;
    *v0 = v0.rotate_left(32);
    *v2 = v2.wrapping_add(*v3);
    *v3 = v3.rotate_left(16) ^ *v2;
    *v0 = v0.wrapping_add(*v3);
    *v3 = v3.rotate_left(21) ^ *v0;
    *v2 = v2.wrapping_add(*v1);
    *v1 = v1.rotate_left(17) ^ *v2;
    *v2 = v2.rotate_left(32);
}

/// Up to eight bytes, the first the lowest.
fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn backends(count: u32) -> Vec<SocketAddr> {
        (0..count).map(|n| SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0a01_0000 + n), 8080))).collect()
    }

    /// The table with the backends themselves as entries.
    fn owners(backends: &[SocketAddr]) -> Vec<SocketAddr> {
        table(backends, Seed::default()).into_iter().map(|index| backends[index as usize]).collect()
    }

    #[test]
    fn siphash_gives_the_vectors_of_its_paper() {
        let bytes: Vec<u8> = (0..16).collect();
        let seed = Seed(bytes.as_slice().try_into().unwrap());
        assert_eq!(siphash(&bytes[..15], seed), 0xa129_ca61_49be_45e5);
        assert_eq!(siphash(&[], seed), 0x726f_db47_dd0e_0e31);
    }

    #[test]
    fn no_backends_no_table() {
        assert!(table(&[], Seed::default()).is_empty());
    }

    #[test]
    fn one_backend_has_every_slot() {
        assert_eq!(table(&backends(1), Seed::default()), vec![0; 251]);
    }

    #[test]
    fn sizes_are_primes_with_a_hundred_slots_a_backend() {
        for size in SIZES {
            assert!((2..size).take_while(|n| n * n <= size).all(|n| size % n != 0), "{size} is not prime");
        }
        assert_eq!((size(2), size(3), size(5), size(6)), (251, 509, 509, 1_021));
        assert_eq!((size(1_310), size(100_000)), (131_071, 131_071));
    }

    #[test]
    fn the_table_is_the_same_in_every_build() {
        let entries = table(&backends(3), Seed::default());
        let checksum = entries.iter().fold(0u64, |sum, entry| sum.wrapping_mul(31).wrapping_add(u64::from(*entry)));
        assert_eq!(checksum, 3_074_507_726_852_795_136, "nodes of two versions would disagree about new flows");
    }

    #[test]
    fn losing_a_backend_moves_few_slots_on_average() {
        let all = backends(20);
        let before = owners(&all);
        let moved = |lost: &SocketAddr| {
            let rest: Vec<SocketAddr> = all.iter().copied().filter(|backend| backend != lost).collect();
            before.iter().zip(owners(&rest)).filter(|(b, a)| *b != lost && *b != a).count()
        };
        assert_eq!(size(19), size(20));
        let moved: usize = all.iter().map(moved).sum();
        let mean = moved / all.len();
        assert!(mean * 20 <= before.len(), "{mean} of {} slots moved", before.len());
    }

    #[test]
    fn another_seed_is_another_table() {
        assert_ne!(table(&backends(3), Seed::default()), table(&backends(3), Seed([1; 16])));
    }

    #[test]
    fn a_backend_given_twice_has_one_share() {
        let twice = [backends(2)[0], backends(2)[1], backends(2)[0]];
        assert_eq!(table(&twice, Seed::default()), table(&backends(2), Seed::default()));
    }

    fn some_backends() -> impl Strategy<Value = Vec<SocketAddr>> {
        proptest::collection::btree_set((any::<u32>(), 1u16..), 1..40).prop_map(|set| {
            set.into_iter().map(|(bits, port)| (std::net::Ipv4Addr::from_bits(bits), port).into()).collect()
        })
    }

    proptest! {
        #[test]
        fn shares_differ_by_one_slot_at_most(backends in some_backends()) {
            let mut shares = BTreeMap::new();
            for owner in owners(&backends) {
                *shares.entry(owner).or_insert(0usize) += 1;
            }
            prop_assert_eq!(shares.len(), backends.len());
            let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
            prop_assert!(most - least <= 1, "{least} to {most} slots");
        }

        #[test]
        fn the_order_of_backends_makes_no_difference(
            (backends, shuffled) in some_backends().prop_flat_map(|b| (Just(b.clone()), Just(b).prop_shuffle()))
        ) {
            prop_assert_eq!(owners(&backends), owners(&shuffled));
        }

        #[test]
        fn losing_a_backend_moves_few_slots_of_the_others(backends in some_backends(), which in any::<proptest::sample::Index>()) {
            let lost = which.index(backends.len());
            let mut rest = backends.clone();
            let lost = rest.remove(lost);
            // A change of size moves everything: that is what doubling keeps rare.
            prop_assume!(size(rest.len()) == size(backends.len()));
            let (before, after) = (owners(&backends), owners(&rest));
            let had_another_owner = before.iter().filter(|owner| **owner != lost).count();
            let moved = before.iter().zip(&after).filter(|(b, a)| **b != lost && b != a).count();
            // With few backends an unlucky pair of permutations costs more than the few per cent that are usual.
            prop_assert!(moved * 2 <= had_another_owner, "{moved} of {had_another_owner} slots moved");
            prop_assert!(!after.iter().collect::<BTreeSet<_>>().contains(&lost));
        }
    }
}
