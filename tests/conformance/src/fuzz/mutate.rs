//! Frames that nobody would write: those of the fixtures, changed in every way that has confused such programs.

use evenkeel_frames::{Frame, Layer};

use crate::{fixture::Packet, random::Random};

/// Frames are no longer than this, in bytes.
const LONGEST: usize = 1514;
/// Values that lie at the edges of something.
const EDGES: [u8; 12] = [0x00, 0x01, 0x04, 0x05, 0x0f, 0x3f, 0x45, 0x60, 0x7f, 0x80, 0xfe, 0xff];
/// Protocol numbers that are followed by a header.
const PROTOCOLS: [u8; 11] = [0, 1, 4, 6, 17, 41, 43, 44, 58, 60, 132];

/// A frame to try, made of one of these.
pub(super) fn frame(seeds: &[Packet], index: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds.get(index).map(|packet| packet.frame.clone()).unwrap_or_default();
    match random.below(20) {
        0 => bytes = noise(random),
        1 => rearrange(&mut bytes, random),
        2 => splice(&mut bytes, seeds, random),
        // As it is: flows have to come about.
        3..=5 => {}
        _ => damage(&mut bytes, random),
    }
    if random.once_in(3) {
        move_ports(&mut bytes, random);
    }
    if random.once_in(4) {
        mend(&mut bytes);
    }
    bytes.truncate(LONGEST);
    bytes
}

/// Bytes without sense behind an Ethernet header with some.
fn noise(random: &mut Random) -> Vec<u8> {
    let length = 14 + random.below(200);
    let mut bytes: Vec<u8> = (0..length).map(|_| random.byte()).collect();
    let kinds = [[0x08, 0x00], [0x08, 0x06], [0x86, 0xdd], [0x81, 0x00], [0x88, 0xa8]];
    if let Some(kind) = random.pick(&kinds) {
        bytes[12..14].copy_from_slice(kind);
    }
    bytes
}

/// Changes some bytes, and perhaps the length.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            return;
        }
        // Mostly headers: a payload has nothing to go wrong.
        let reach = if random.once_in(8) { bytes.len() } else { bytes.len().min(100) };
        let at = random.below(reach);
        let bit = random.below(8);
        bytes[at] = match random.below(4) {
            0 => bytes[at] ^ (1 << bit),
            1 => *random.pick(&EDGES).unwrap_or(&0),
            2 => *random.pick(&PROTOCOLS).unwrap_or(&0),
            _ => random.byte(),
        };
    }
    match random.below(6) {
        0 => bytes.truncate(random.below(bytes.len() + 1)),
        1 => bytes.extend((0..random.below(64)).map(|_| 0)),
        2 => {
            let filler = random.byte();
            bytes.resize(random.below(LONGEST), filler);
        }
        _ => {}
    }
}

/// Takes layers out, doubles them, puts them elsewhere; lengths and checksums are computed anew.
fn rearrange(bytes: &mut Vec<u8>, random: &mut Random) {
    let mut frame = Frame::read(bytes);
    for _ in 0..=random.below(3) {
        if frame.layers.len() < 2 {
            break;
        }
        // The Ethernet header stays.
        let at = 1 + random.below(frame.layers.len() - 1);
        let layer = frame.layers[at].clone();
        match random.below(3) {
            0 => drop(frame.layers.remove(at)),
            1 => frame.layers.insert(at, layer),
            _ => {
                let to = 1 + random.below(frame.layers.len() - 1);
                frame.layers.remove(at);
                frame.layers.insert(to, layer);
            }
        }
    }
    // A trailer within the frame would be none.
    frame.layers.retain(|layer| !matches!(layer, Layer::Trailer(_)));
    *bytes = frame.to_bytes();
}

/// The beginning of one frame and the end of another.
fn splice(bytes: &mut Vec<u8>, seeds: &[Packet], random: &mut Random) {
    let Some(other) = random.pick(seeds).map(|packet| &packet.frame) else { return };
    let at = random.below(bytes.len().min(other.len()));
    bytes.truncate(at);
    bytes.extend_from_slice(&other[at..]);
}

/// Another client port, so that there are many flows.
fn move_ports(bytes: &mut Vec<u8>, random: &mut Random) {
    let mut frame = Frame::read(bytes);
    let to = u16::try_from(40_000 + random.below(512)).unwrap_or(40_000);
    let mut moved = false;
    for layer in &mut frame.layers {
        let (source, destination) = match layer {
            Layer::Tcp(tcp) => (&mut tcp.source, &mut tcp.destination),
            Layer::Udp(udp) => (&mut udp.source, &mut udp.destination),
            _ => continue,
        };
        for port in [source, destination] {
            if *port == 40_000 {
                *port = to;
                moved = true;
            }
        }
    }
    if moved {
        *bytes = frame.to_bytes();
    }
}

/// Makes all checksums right.
fn mend(bytes: &mut Vec<u8>) {
    let mut frame = Frame::read(bytes);
    frame.mend_checksums();
    *bytes = frame.to_bytes();
}
