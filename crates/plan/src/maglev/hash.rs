//! Hashes that are the same in every build and on every node: a backend's identity by SipHash-2-4 (Aumasson and
//! Bernstein, 2012), keyed by the cluster's seed. The standard library's hasher is not used, because it may change
//! between compilers and with it every node's tables.

use std::net::{IpAddr, SocketAddr};

/// The 128-bit SipHash key. The same on all nodes; secret, so that nobody can choose addresses that collide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seed(pub [u8; 16]);

/// An identity's bytes: the address family (4 or 6), the address and the port, both in network byte order.
pub(super) fn identity_bytes(identity: SocketAddr, bytes: &mut Vec<u8>) {
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
}

/// The hash of an identity; `which` chooses one of several independent ones.
pub(super) fn identity(identity: SocketAddr, which: u8, seed: Seed) -> u64 {
    let mut bytes = Vec::with_capacity(20);
    bytes.push(which);
    identity_bytes(identity, &mut bytes);
    siphash(&bytes, seed)
}

/// A hash of a slot for the holder of `secret`: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014). It is no
/// keyed hash; what it mixes in is one.
pub(super) fn of_slot(secret: u64, slot: u32) -> u64 {
    let mut word = secret ^ u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
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

    #[test]
    fn siphash_gives_the_vectors_of_its_paper() {
        let bytes: Vec<u8> = (0..16).collect();
        let seed = Seed(bytes.as_slice().try_into().unwrap());
        assert_eq!(siphash(&bytes[..15], seed), 0xa129_ca61_49be_45e5);
        assert_eq!(siphash(&[], seed), 0x726f_db47_dd0e_0e31);
    }

    #[test]
    fn identities_differ_by_family_address_port_and_which() {
        let hash = |text: &str, which| identity(text.parse().unwrap(), which, Seed::default());
        let hashes: std::collections::BTreeSet<u64> =
            ["10.1.0.1:80", "10.1.0.1:81", "10.1.0.2:80", "[::ffff:10.1.0.1]:80", "[::a01:1]:80"]
                .into_iter()
                .flat_map(|text| [hash(text, 0), hash(text, 1)])
                .collect();
        assert_eq!(hashes.len(), 10);
    }
}
