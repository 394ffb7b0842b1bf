//! Refusing what nobody serves, as a host does: a TCP reset, or an ICMP error for a datagram. Both are limited in number, and
//! nothing that is itself a refusal is answered.

use evenkeel_maps::{Address, ICMP, ICMPV6, Outcome, Settings, TCP, ticks};

use crate::{
    checksum,
    frame::{Frame, pointer},
    maps::REFUSAL_BUDGET,
    packet::{ETHERNET, IPV6, Ipv4Header, Ipv6Header, Packet, TcpHeader, Transport, tcp_flags},
};

/// Length of an IPv4 header without options: packets with options are dropped without an answer.
const IPV4: usize = 20;
const TTL: u8 = 64;
/// What an ICMP error quotes of a datagram besides its IP header: the UDP header. Enough to find the socket by, and never
/// more than was received.
const QUOTED: usize = 8;
const ICMP_HEADER: usize = 8;

/// A packet to a VIP port that has no frontend.
#[inline(never)]
pub fn refuse<F: Frame>(frame: &F, packet: &Packet, settings: &Settings, now: u32) -> Outcome {
    // Nobody answers a reset (RFC 9293 section 3.10.7.1).
    if packet.flags & tcp_flags::RST != 0 || !is_plain(packet) || !may_refuse(settings, now) {
        return Outcome::DropNoFrontend;
    }
    if packet.transport == Transport::Tcp {
        return if reset(frame, packet) && send_back(frame) { Outcome::RefusedReset } else { Outcome::DropNoFrontend };
    }
    if unreachable(frame, packet) { Outcome::RefusedUnreachable } else { Outcome::DropNoFrontend }
}

/// A packet of an established flow whose backend is gone for good.
#[inline(never)]
pub fn reset_gone<F: Frame>(frame: &F, packet: &Packet, settings: &Settings, now: u32) -> Outcome {
    let answered = packet.flags & tcp_flags::RST == 0
        && is_plain(packet)
        && may_refuse(settings, now)
        && reset(frame, packet)
        && send_back(frame);
    if answered { Outcome::ResetBackendGone } else { Outcome::DropBackendGone }
}

/// Neither options nor extension headers: the transport header is where it usually is.
#[inline(always)]
pub fn is_plain(packet: &Packet) -> bool {
    let usual = ETHERNET + if packet.ipv6 { IPV6 } else { IPV4 };
    packet.transport_offset as usize == usual && !packet.is_first_fragment
}

/// Takes one refusal out of this CPU's budget, if there is one left for this second.
#[inline(always)]
fn may_refuse(settings: &Settings, now: u32) -> bool {
    let Some(budget) = REFUSAL_BUDGET.get_ptr_mut(0) else { return false };
    // SAFETY: the map is per CPU.
    let [since, left] = unsafe { &mut *budget };
    if now.wrapping_sub(*since) >= ticks::SECOND {
        (*since, *left) = (now, settings.refusals);
    }
    if *left == 0 {
        return false;
    }
    *left -= 1;
    true
}

/// Turns a segment into the reset that answers it (RFC 9293 section 3.10.7.1).
#[inline(never)]
pub fn reset<F: Frame>(frame: &F, packet: &Packet) -> bool {
    let at = packet.transport_offset as usize;
    let Some(tcp) = pointer::<TcpHeader>(frame, at) else { return false };
    // SAFETY: `pointer` has checked the bounds; so below.
    let (acknowledgement, data_offset) = unsafe { ((*tcp).acknowledgement, (*tcp).data_offset) };
    let header = (data_offset >> 4) as u32 * 4;
    let transport_length = packet.length.wrapping_sub((at - ETHERNET) as u32);
    if header < 20 || transport_length < header || transport_length > 0xffff {
        return false;
    }
    // Where the other end is in its sequence, if it does not say itself where it believes us to be.
    let syn_and_fin = (packet.flags & tcp_flags::SYN != 0) as u32 + (packet.flags & tcp_flags::FIN != 0) as u32;
    let next = u32::from_be_bytes(packet.sequence).wrapping_add(transport_length - header).wrapping_add(syn_and_fin);
    let (flags, sequence, acknowledgement) = if packet.flags & tcp_flags::ACK != 0 {
        (tcp_flags::RST, acknowledgement, [0; 4])
    } else {
        (tcp_flags::RST | tcp_flags::ACK, [0; 4], next.to_be_bytes())
    };
    let partial = frame.is_checksum_partial(packet.transport_offset + 16);
    let length = at + size_of::<TcpHeader>();
    if !frame.set_length(length as u32) {
        return false;
    }
    frame.pull(length as u32);
    let Some(tcp) = pointer::<TcpHeader>(frame, at) else { return false };
    let tcp = unsafe { &mut *tcp };
    *tcp = TcpHeader {
        source_port: packet.tuple.destination_port,
        destination_port: packet.tuple.source_port,
        sequence,
        acknowledgement,
        data_offset: 5 << 4,
        flags,
        window: [0; 2],
        checksum: [0; 2],
        urgent: [0; 2],
    };
    let pseudo = pseudo_header(packet, size_of::<TcpHeader>() as u16, TCP);
    tcp.checksum = if partial {
        checksum::fold(pseudo).to_ne_bytes()
    } else {
        (!checksum::fold(pseudo + checksum::sum_of(tcp))).to_ne_bytes()
    };
    answer_header(frame, packet, size_of::<TcpHeader>() as u16, TCP)
}

/// Puts the ICMP error "port unreachable" around the beginning of a datagram, and sends it back.
#[inline(never)]
fn unreachable<F: Frame>(frame: &F, packet: &Packet) -> bool {
    let ip = if packet.ipv6 { IPV6 } else { IPV4 };
    if packet.length < (ip + QUOTED) as u32 {
        return false;
    }
    let partial = frame.is_checksum_partial(packet.transport_offset + 6);
    if !frame.set_length((ETHERNET + ip + QUOTED) as u32) || !frame.insert((ip + ICMP_HEADER) as u32) {
        return false;
    }
    frame.pull((ETHERNET + ip + ICMP_HEADER + ip + QUOTED) as u32);
    let (kind, code, protocol) = if packet.ipv6 { (1, 4, ICMPV6) } else { (3, 3, ICMP) };
    let at = ETHERNET + ip;
    let Some(header) = pointer::<[[u8; 2]; ICMP_HEADER / 2]>(frame, at) else { return false };
    unsafe { *header = [[kind, code], [0; 2], [0; 2], [0; 2]] };
    let payload = (ICMP_HEADER + ip + QUOTED) as u16;
    let mut total = if packet.ipv6 { pseudo_header(packet, payload, protocol) } else { 0 };
    if packet.ipv6 {
        let Some(message) = pointer::<[u8; ICMP_HEADER + IPV6 + QUOTED]>(frame, at) else { return false };
        total += checksum::sum_of(message);
    } else {
        let Some(message) = pointer::<[u8; ICMP_HEADER + IPV4 + QUOTED]>(frame, at) else { return false };
        total += checksum::sum_of(message);
    }
    if partial {
        // The quoted checksum holds the sum of its pseudo-header, and is completed over what is quoted when the frame is sent.
        let udp_at = at + ICMP_HEADER + ip;
        let Some(udp) = pointer::<[[u8; 2]; QUOTED / 2]>(frame, udp_at) else { return false };
        let completed = match !checksum::fold(checksum::sum_of(udp)) {
            0 => 0xffff,
            completed => completed,
        };
        total += checksum::difference_16(unsafe { (*udp)[3] }, completed.to_ne_bytes());
    }
    unsafe { (*header)[1] = (!checksum::fold(total)).to_ne_bytes() };
    let Some(ether_type) = pointer::<[u8; 2]>(frame, ETHERNET - 2) else { return false };
    unsafe { *ether_type = if packet.ipv6 { [0x86, 0xdd] } else { [8, 0] } };
    answer_header(frame, packet, payload, protocol) && send_back(frame)
}

/// The sum of the pseudo-header of an answer; swapped addresses have the same sum.
#[inline(always)]
pub fn pseudo_header(packet: &Packet, length: u16, protocol: u8) -> u64 {
    let rest = u16::from_ne_bytes(length.to_be_bytes()) as u64 + u16::from_ne_bytes([0, protocol]) as u64;
    let word = |address: &Address| u32::from_ne_bytes(address.low()) as u64;
    rest + if packet.ipv6 {
        checksum::sum_address(&packet.tuple.source) + checksum::sum_address(&packet.tuple.destination)
    } else {
        word(&packet.tuple.source) + word(&packet.tuple.destination)
    }
}

/// Writes the IP header of an answer from the VIP to the client.
#[inline(never)]
fn answer_header<F: Frame>(frame: &F, packet: &Packet, payload: u16, protocol: u8) -> bool {
    if packet.ipv6 {
        let Some(ip) = pointer::<Ipv6Header>(frame, ETHERNET) else { return false };
        unsafe {
            *ip = Ipv6Header {
                version_class_label: [0x60, 0, 0, 0],
                payload_length: payload.to_be_bytes(),
                next_header: protocol,
                hop_limit: TTL,
                source: packet.tuple.destination.0,
                destination: packet.tuple.source.0,
            };
        }
        return true;
    }
    let Some(ip) = pointer::<Ipv4Header>(frame, ETHERNET) else { return false };
    let ip = unsafe { &mut *ip };
    *ip = Ipv4Header {
        version_and_length: 0x45,
        service: 0,
        total_length: (payload + IPV4 as u16).to_be_bytes(),
        identification: [0; 2],
        // Do not fragment.
        fragment: [0x40, 0],
        ttl: TTL,
        protocol,
        checksum: [0; 2],
        source: packet.tuple.destination.low(),
        destination: packet.tuple.source.low(),
    };
    ip.checksum = (!checksum::fold(checksum::sum_of(ip))).to_ne_bytes();
    true
}

/// Sends the frame back where it came from.
#[inline(always)]
pub fn send_back(frame: &impl Frame) -> bool {
    let Some(macs) = pointer::<[[u8; 6]; 2]>(frame, 0) else { return false };
    // SAFETY: `pointer` has checked the bounds.
    let macs = unsafe { &mut *macs };
    *macs = [macs[1], macs[0]];
    frame.send_back();
    true
}
