//! Whatever arrives on the wire: reading a neighbour solicitation or advertisement never panics, and what is read is
//! written so that it is read alike.
#![no_main]

use evenkeel_neighbor::NdpFrame;
use libfuzzer_sys::fuzz_target;

const IPV6: usize = 14;
const MESSAGE: usize = 54;
/// The message's checksum.
const CHECKSUM: std::ops::Range<usize> = 56..58;

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    // A random checksum is nearly never right: what lies behind it is reached by making it so.
    if let Some(bytes) = with_checksum(bytes) {
        read(&bytes);
    }
});

fn read(bytes: &[u8]) {
    if let Ok(frame) = NdpFrame::parse(bytes) {
        assert_eq!(NdpFrame::parse(&frame.to_bytes()), Ok(frame));
    }
}

fn with_checksum(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let length = u16::from_be_bytes(*bytes.get(IPV6 + 4..)?.first_chunk()?);
    bytes.get_mut(CHECKSUM)?.fill(0);
    let addresses = bytes.get(IPV6 + 8..MESSAGE)?;
    let message = bytes.get(MESSAGE..MESSAGE + usize::from(length))?;
    let words = addresses.chunks(2).chain(message.chunks(2));
    let mut sum: u32 = u32::from(length) + 58;
    for word in words {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from(sum).ok()?;
    bytes[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    Some(bytes)
}
