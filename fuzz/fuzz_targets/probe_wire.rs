//! What servers answer the prober, and what clients ask its target: nothing of it makes them panic.
#![no_main]

use evenkeel_probe::fuzz;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    fuzz::http_response(bytes);
    fuzz::dns_message(bytes);
    fuzz::datagram(bytes);
    fuzz::returned_bytes(bytes);
});
