//! Whatever arrives on the wire: reading an ARP frame never panics, and what is read is written again byte for byte.
#![no_main]

use evenkeel_neighbor::{ArpFrame, arp::FRAME_LENGTH};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = ArpFrame::parse(bytes) {
        assert_eq!(frame.to_bytes(), bytes[..FRAME_LENGTH]);
    }
});
