//! The bytes of `/bytes/N`: both ends compute them, so a transfer is checked byte by byte without a checksum.

/// Longest body served, so that a mistyped number does not transfer for days.
pub(crate) const MAX_LENGTH: u64 = 1 << 40;

/// The length asked for by a path of the form `/bytes/N`.
pub(crate) fn length_of(path: &str) -> Option<u64> {
    path.strip_prefix("/bytes/")?.parse().ok().filter(|&length| length <= MAX_LENGTH)
}

/// The byte at `offset`. Mixes the whole offset, so that a lost, repeated or swapped piece does not go unnoticed.
pub(crate) fn byte_at(offset: u64) -> u8 {
    offset.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[7]
}

/// Whether `bytes` are those at `offset`.
pub(crate) fn matches(offset: u64, bytes: &[u8]) -> bool {
    (offset..).zip(bytes).all(|(offset, &byte)| byte == byte_at(offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_piece_does_not_match() {
        let piece: Vec<u8> = (1000..1100).map(byte_at).collect();
        assert!(matches(1000, &piece));
        assert!((0..2000).filter(|&offset| matches(offset, &piece)).eq([1000]));
    }

    #[test]
    fn lengths_are_parsed_and_bounded() {
        assert_eq!(length_of("/bytes/1000"), Some(1000));
        assert_eq!(length_of("/bytes/"), None);
        assert_eq!(length_of("/bytes/-1"), None);
        assert_eq!(length_of("/bytes/99999999999999"), None);
        assert_eq!(length_of("/other"), None);
    }
}
