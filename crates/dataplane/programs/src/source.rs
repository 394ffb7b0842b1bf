//! Replacing the client's address by one of this node's, so that the backend's replies come back here.

use evenkeel_maps::{MAX_SOURCES, Settings};

use crate::{
    flows::{self, Found},
    maps::{SOURCE_ADDRESSES, Work},
    steps,
};

/// Ports tried for a flow.
const TRIES: u32 = 16;

/// Gives `work.flow` an address and a port that stand for the client's towards the backend. `false`: there are none.
///
/// The port is a hash of the client's tuple: a client that uses its port again meets the backend with the same one, and
/// what keeps the connections apart between the two ends (sequence numbers, timestamps) holds end to end. A port whose last
/// connection with this backend may still be in TIME-WAIT there is not used: its record is kept for that long.
#[inline(never)]
pub fn choose(work: &mut Work, settings: &Settings, hash: u32, now: u32) -> bool {
    let (first, count) = if work.flow.client.is_v4() {
        (0, settings.sources_v4 as u32)
    } else {
        (MAX_SOURCES as u32, settings.sources_v6 as u32)
    };
    let ports = settings.source_ports as u32;
    if count == 0 || ports == 0 {
        return false;
    }
    for step in 0..TRIES {
        let row = first + hash.wrapping_add(step) % count;
        let port = settings.source_port as u32 + (hash >> 8).wrapping_add(step) % ports;
        let Some(address) = SOURCE_ADDRESSES.get(row) else { return false };
        work.reply.destination = *address;
        work.reply.destination_port = (port as u16).to_be_bytes();
        if steps::is_free(work, now) {
            work.flow.source = row as u8;
            work.flow.source_port = work.reply.destination_port;
            return true;
        }
    }
    false
}

/// Whether the port in `work.reply` can be used towards the backend: by nobody in use, or by this very client before.
#[inline(always)]
pub fn is_free(work: &Work, settings: &Settings, now: u32) -> bool {
    let Work { flow, reply, .. } = work;
    let mut found = Found::NOTHING;
    if !flows::find_reply(reply, settings, &mut found) {
        return true;
    }
    let other = found.flow();
    let same = other.client == flow.client
        && other.client_port == flow.client_port
        && other.vip == flow.vip
        && other.vip_port == flow.vip_port;
    if !same && other.is_over(now) {
        flows::remove(&found, reply, settings);
        return true;
    }
    same
}
