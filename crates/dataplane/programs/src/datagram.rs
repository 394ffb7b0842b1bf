//! Datagrams that a backend refuses.
//!
//! The backend is kept out of the choice for a moment ([`eject`]), and its flows go elsewhere. Where the refusal quotes all of
//! the datagram, that is sent to another backend ([`rescue`]).

use evenkeel_maps::{Backend, Flow, Outcome, SavedSyn, Settings, UDP, ticks};

use crate::{
    atomic, balance, checksum,
    flows::Found,
    frame::{Frame, pointer},
    maps::{self, BACKENDS, SCRATCH, Work},
    packet::{self, ETHERNET, IPV6, Ipv4Header, Ipv6Header, Transport, UdpHeader},
    refuse, rescue,
    send::Names,
    traffic,
    word::unknown,
};

/// Length of an IPv4 header without options.
const IPV4: usize = 20;
/// Length of an ICMP header, before the packet that an error quotes.
const ICMP_HEADER: u32 = 8;
const UDP_HEADER: u32 = size_of::<UdpHeader>() as u32;
/// The longest UDP segment that an error can quote: ICMPv6 errors have at most 1,280 bytes (RFC 4443 section 2.4).
const DATAGRAM: u32 = 1536;
/// How much of it is summed up at a time: the helper takes no more.
const SUMMED: u32 = 512;

const RESCUED_DATAGRAM: Names =
    Names { direct: Outcome::RescuedDatagram, stack: Outcome::RescuedDatagramStack, untouched: false };

/// Whether no flow is to go to a backend at the moment; without a change of that.
#[inline(always)]
pub fn is_out(backend: &Backend, now: u32) -> bool {
    let until = backend.ejected_until;
    until != 0 && until & Backend::PROBED == 0 && is_ahead(until, now)
}

#[inline(always)]
fn is_ahead(until: u32, now: u32) -> bool {
    (until.wrapping_sub(now) as i32) > 0
}

/// Whether a new flow is to avoid a backend that refused a datagram. Once its time is over, one flow tries it for as long
/// again; if it refuses that too, its time begins anew, else it is as any other.
#[inline(always)]
pub fn is_avoided(slot: u32, now: u32) -> bool {
    let Some(backend) = BACKENDS.get_ptr_mut(slot) else { return false };
    // SAFETY: inside the map's memory, aligned.
    unsafe {
        let word = &raw mut (*backend).ejected_until;
        let until = word.read_volatile();
        if until == 0 || is_ahead(until, now) {
            return until != 0;
        }
        if until & Backend::PROBED != 0 {
            atomic::exchange(word, until, 0);
            return false;
        }
        !atomic::exchange(word, until, now.wrapping_add(ticks::EJECTION) | Backend::PROBED)
    }
}

/// A backend has refused a datagram of this flow: new flows keep away from it for a moment. `false`: there is no other, and
/// nothing has changed.
#[inline(never)]
pub fn eject(work: &mut Work, found: &Found, settings: &Settings, now: u32) -> bool {
    work.flow = *found.flow();
    work.found = found.noted();
    rescue::only_this_one(work);
    if settings.rescue_tries == 0
        || !rescue::find_frontend(work)
        || rescue::another(work, settings, now) == SavedSyn::NOBODY
    {
        return false;
    }
    if let Some(backend) = BACKENDS.get_ptr_mut(found.backend) {
        let until = now.wrapping_add(ticks::EJECTION) & !Backend::PROBED;
        let until = if until == 0 { 2 } else { until };
        // SAFETY: inside the map's memory.
        unsafe { (&raw mut (*backend).ejected_until).write_volatile(until) };
    }
    true
}

/// Whether the error in `work.packet` quotes all of the datagram in `work.quoted`, both without options.
#[inline(always)]
pub fn quotes_all(work: &Work) -> bool {
    let Work { packet, quoted, .. } = work;
    let header = if packet.ipv6 { IPV6 } else { IPV4 } as u32;
    let quoted_at = ETHERNET as u32 + header + ICMP_HEADER;
    quoted.transport == Transport::Udp
        && !quoted.is_first_fragment
        && refuse::is_plain(packet)
        && quoted.transport_offset == quoted_at + header
        && quoted.length >= header + UDP_HEADER
        && quoted.length <= header + DATAGRAM
        && quoted_at + quoted.length <= ETHERNET as u32 + packet.length
}

/// An error that [`quotes_all`] of a datagram becomes that datagram, toward another backend. `work.flow` is its flow.
#[inline(always)]
pub fn rescue<F: Frame>(frame: &F, work: &mut Work, settings: &Settings, now: u32) -> Result<(), Outcome> {
    let length = work.quoted.length;
    traffic::count(work.flow.backend, work.packet.frame_length, false);
    if !rescue::move_on(work, settings, Flow::REFUSED, now) {
        // Those that are left talk to the client already.
        return Err(maps::refuse(work.frontend.number, Outcome::DropTupleInUse));
    }
    if !become_datagram(frame, work, length) {
        return Err(Outcome::DropRewrite);
    }
    work.target.names = RESCUED_DATAGRAM;
    traffic::count(work.flow.backend, work.packet.frame_length, true);
    Ok(())
}

/// Makes the frame the datagram of `length` bytes that it quotes, with the ends that the client of `work.flow` gave it, and
/// reads it into `work.packet`.
#[inline(never)]
fn become_datagram<F: Frame>(frame: &F, work: &mut Work, length: u32) -> bool {
    let Work { packet, flow, .. } = work;
    let header = if packet.ipv6 { IPV6 } else { IPV4 } as u32;
    if !frame.remove(header + ICMP_HEADER) {
        return false;
    }
    // What lies behind the datagram is padding.
    let whole = ETHERNET as u32 + length;
    if frame.length() != whole && !frame.set_length(whole) {
        return false;
    }
    frame.pull(ETHERNET as u32 + header + UDP_HEADER);
    let at = ETHERNET + header as usize;
    let Some(udp) = pointer::<UdpHeader>(frame, at) else { return false };
    // SAFETY: `pointer` has checked the bounds; so below.
    let udp = unsafe { &mut *udp };
    (udp.source_port, udp.destination_port) = (flow.client_port, flow.vip_port);
    let has_checksum = packet.ipv6 || udp.checksum != [0; 2];
    udp.checksum = [0; 2];
    let ether_type = if packet.ipv6 {
        let Some(ip) = pointer::<Ipv6Header>(frame, ETHERNET) else { return false };
        let ip = unsafe { &mut *ip };
        (ip.source, ip.destination) = (flow.client.0, flow.vip.0);
        packet::ETHER_TYPE_IPV6
    } else {
        let Some(ip) = pointer::<Ipv4Header>(frame, ETHERNET) else { return false };
        let ip = unsafe { &mut *ip };
        (ip.source, ip.destination, ip.checksum) = (flow.client.low(), flow.vip.low(), [0; 2]);
        ip.checksum = (!checksum::fold(checksum::sum_of(ip))).to_ne_bytes();
        packet::ETHER_TYPE_IPV4
    };
    packet.tuple = flow.tuple();
    if has_checksum {
        // Not brought up to date but made anew: where the kernel left the sum to the hardware, what is quoted is not one.
        let segment = length - header;
        let pseudo = refuse::pseudo_header(packet, segment as u16, UDP);
        let Some(sum) = sum_of_segment(frame, at as u32, segment) else { return false };
        let sum = match (!checksum::fold(pseudo + sum)).to_ne_bytes() {
            // Zero would mean "none" (RFC 768).
            [0, 0] => [0xff, 0xff],
            sum => sum,
        };
        let Some(udp) = pointer::<UdpHeader>(frame, at) else { return false };
        unsafe { (*udp).checksum = sum };
    }
    packet::parse(frame, ether_type, packet).is_some()
}

/// The sum over `length` bytes at `offset` of the frame, at most [`DATAGRAM`].
#[inline(never)]
fn sum_of_segment<F: Frame>(frame: &F, offset: u32, length: u32) -> Option<u64> {
    let scratch = SCRATCH.get_ptr_mut(0)?.cast::<u32>();
    let mut sum = 0;
    for part in 0..DATAGRAM / SUMMED {
        let begin = part * SUMMED;
        if begin >= length {
            break;
        }
        let left = length - begin;
        let bytes = if left > SUMMED { SUMMED } else { left };
        // The verifier of 6.1 does not see that this is one byte at least.
        let bytes = (unknown(bytes - 1) & (SUMMED - 1)) + 1;
        let words = bytes.div_ceil(4);
        // SAFETY: the map is per CPU, and the index within its value.
        unsafe { scratch.add(((words - 1) & (SUMMED / 4 - 1)) as usize).write(0) };
        if !frame.load(offset + begin, scratch.cast(), bytes) {
            return None;
        }
        sum += checksum::sum_of_words(scratch, words);
    }
    Some(sum)
}
