//! ICMP and ICMPv6: echo requests to VIPs are answered; errors go to whoever sent the packet they quote, and quote what that
//! one sent.

use evenkeel_maps::{Backend, Flow, Interface, Outcome, Settings, TCP, Tuple, UDP, mode};

use crate::{
    balance, checksum, datagram,
    flows::{self, Found},
    frame::{Checksum, Frame, Receiver, pointer},
    maps::{self, BACKENDS, Work},
    ndp,
    packet::{self, ETHERNET, Ipv4Header, Ipv6Header, Packet},
    rewrite::{Ends, Ttl, rewrite},
    send::Names,
};

/// How much of an error is made readable: both packets with all their headers.
const HEADERS: u32 = 14 + 60 + 8 + 60 + 20;
/// Length of the ICMP header before the quoted packet.
const HEADER: u32 = 8;
/// Time to live of an answer, as of any packet that begins its way here.
const TTL: u8 = 64;

/// Type, code and checksum of RFC 792 and RFC 4443.
#[repr(C)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: [u8; 2],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    EchoRequest,
    Error,
    Other,
}

#[inline(always)]
fn kind(packet: &Packet, kind: u8) -> Kind {
    match (packet.ipv6, kind) {
        (false, 8) | (true, 128) => Kind::EchoRequest,
        // Unreachable, time exceeded, parameter problem; and packet too big.
        (false, 3 | 11 | 12) | (true, 1..=4) => Kind::Error,
        _ => Kind::Other,
    }
}

/// An ICMP message that arrived: where it goes, into `work.target`; or what becomes of it instead.
#[inline(never)]
pub fn ingress<F: Frame>(
    frame: &F,
    work: &mut Work,
    interface: &Interface,
    settings: &Settings,
) -> Result<(), Outcome> {
    let packet = &work.packet;
    let Some(icmp) = pointer::<Icmp>(frame, packet.transport_offset as usize) else { return Err(Outcome::PassNotVip) };
    // SAFETY: `pointer` has checked the bounds; so below.
    let kind = kind(packet, unsafe { (*icmp).kind });
    let receiver = frame.receiver(interface);
    if receiver != Receiver::Other && kind == Kind::Other && ndp::is_message(frame, packet) {
        return Err(ndp::answer(frame, packet, interface, settings.mode));
    }
    if settings.mode == mode::BYPASS {
        return Err(Outcome::Bypassed);
    }
    match receiver {
        Receiver::Host => {}
        Receiver::Group => return Err(Outcome::PassNotVip),
        Receiver::Other => return Err(Outcome::PassOtherHost),
    }
    let is_vip = maps::is_watched(&packet.tuple.destination) && maps::is_vip(&packet.tuple.destination);
    if settings.mode == mode::OBSERVE {
        return Err(if is_vip { Outcome::Observed } else { Outcome::PassNotVip });
    }
    match kind {
        Kind::EchoRequest if is_vip && is_impossible(packet) => Err(Outcome::DropSource),
        Kind::EchoRequest if is_vip => Err(echo(frame, packet, interface)),
        Kind::Error => translate(frame, work, settings, is_vip, true),
        _ if is_vip => Err(Outcome::DropProtocol),
        _ => Err(Outcome::PassNotVip),
    }
}

/// An ICMP message that leaves: an error about a client's packet quotes what the client sent. What this host asks its own
/// VIPs is answered, because nobody else would. `RescuedDatagram`: what the error quotes is to be sent to another backend.
#[inline(never)]
pub fn egress<F: Frame>(frame: &F, work: &mut Work, interface: &Interface, settings: &Settings) -> Outcome {
    let packet = &work.packet;
    let Some(icmp) = pointer::<Icmp>(frame, packet.transport_offset as usize) else { return Outcome::PassEgress };
    match kind(packet, unsafe { (*icmp).kind }) {
        Kind::Error => {}
        Kind::EchoRequest if frame.is_from_host() && maps::is_owned_on(&packet.tuple.destination, interface) => {
            return echo(frame, packet, interface);
        }
        Kind::Other if frame.is_from_host() && ndp::is_message(frame, packet) => {
            return match ndp::answer(frame, packet, interface, settings.mode) {
                // Its own announcements, too, leave the host.
                Outcome::PassNotVip | Outcome::NdpConflict => Outcome::PassEgress,
                outcome => outcome,
            };
        }
        _ => return Outcome::PassEgress,
    }
    match translate(frame, work, settings, false, false) {
        Ok(()) => match rewrite(frame, &work.packet, &work.target.ends, Ttl::Keep) {
            Some(()) => Outcome::IcmpRestored,
            None => Outcome::DropRewrite,
        },
        Err(Outcome::PassNotVip) => Outcome::PassEgress,
        Err(outcome) => outcome,
    }
}

#[inline(always)]
fn is_impossible(packet: &Packet) -> bool {
    balance::is_impossible(&packet.tuple.source, &packet.tuple.destination)
}

/// Turns an echo request into its reply, in place, and sends it back.
#[inline(always)]
fn echo(frame: &impl Frame, packet: &Packet, interface: &Interface) -> Outcome {
    if !maps::is_owned_on(&packet.tuple.destination, interface) {
        return Outcome::DropProtocol;
    }
    let Some(icmp) = pointer::<Icmp>(frame, packet.transport_offset as usize) else {
        return Outcome::DropMalformed;
    };
    let icmp = unsafe { &mut *icmp };
    if icmp.code != 0 {
        return Outcome::DropProtocol;
    }
    let (request, reply) = if packet.ipv6 { (128, 129) } else { (8, 0) };
    icmp.checksum = match checksum::update(icmp.checksum, checksum::difference_16([request, 0], [reply, 0])) {
        // Of the two zeros that an update cannot tell apart, this one verifies in either case.
        [0, 0] => [0xff, 0xff],
        checksum => checksum,
    };
    icmp.kind = reply;
    reflect(frame, packet, interface)
}

/// A later fragment of an ICMP message to a VIP: of an echo request, because nothing else is that long. It goes back as it is, as
/// the first one does.
#[inline(never)]
pub fn later_fragment<F: Frame>(frame: &F, packet: &Packet, interface: &Interface) -> Outcome {
    if is_impossible(packet) {
        Outcome::DropSource
    } else if maps::is_owned_on(&packet.tuple.destination, interface) {
        reflect(frame, packet, interface)
    } else {
        Outcome::DropFragment
    }
}

/// The same of a message that this host sends to a VIP.
#[inline(never)]
pub fn later_fragment_of_host<F: Frame>(frame: &F, packet: &Packet, interface: &Interface) -> Outcome {
    match later_fragment(frame, packet, interface) {
        // Another node's VIP.
        Outcome::DropFragment => Outcome::PassEgress,
        outcome => outcome,
    }
}

/// Sends a packet back to where it came from, as of a host that answers.
#[inline(always)]
fn reflect(frame: &impl Frame, packet: &Packet, interface: &Interface) -> Outcome {
    let Some(macs) = pointer::<[[u8; 6]; 2]>(frame, 0) else { return Outcome::DropMalformed };
    let macs = unsafe { &mut *macs };
    *macs = [macs[1], interface.mac];
    // Swapping the addresses leaves every checksum as it is.
    if packet.ipv6 {
        let Some(ip) = pointer::<Ipv6Header>(frame, ETHERNET) else { return Outcome::DropMalformed };
        let ip = unsafe { &mut *ip };
        (ip.source, ip.destination, ip.hop_limit) = (packet.tuple.destination.0, packet.tuple.source.0, TTL);
    } else {
        let Some(ip) = pointer::<Ipv4Header>(frame, ETHERNET) else { return Outcome::DropMalformed };
        let ip = unsafe { &mut *ip };
        let difference = checksum::difference_16([ip.ttl, ip.protocol], [TTL, ip.protocol]);
        ip.checksum = checksum::update(ip.checksum, difference);
        (ip.source, ip.destination, ip.ttl) = (packet.tuple.destination.low(), packet.tuple.source.low(), TTL);
    }
    frame.send_back();
    Outcome::EchoAnswered
}

/// Rewrites what an error quotes, and says where the error goes, in `work.target`.
///
/// An error to a VIP quotes a reply of ours: it goes to the backend, which knows the packet by its own address. Any other may
/// quote a client's packet on its way to a backend: it goes to the client, which knows the packet by the VIP.
#[inline(always)]
fn translate(
    frame: &impl Frame,
    work: &mut Work,
    settings: &Settings,
    to_vip: bool,
    arriving: bool,
) -> Result<(), Outcome> {
    let none = if to_vip { Outcome::DropIcmp } else { Outcome::PassNotVip };
    if !read_quoted(frame, work) {
        return Err(none);
    }
    if to_vip {
        about_reply(work, settings).ok_or(none)?;
    } else {
        let reason = reason(frame, &work.packet);
        about_request(work, settings, arriving, reason).map_err(|rescued| rescued.unwrap_or(none))?;
    }
    requote(frame, work).ok_or(Outcome::DropRewrite)
}

/// What an error says of its packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// Nothing listens there.
    Port,
    /// It did not get there.
    Unreachable,
    /// Something else; it may have got there.
    Other,
}

#[inline(always)]
fn reason(frame: &impl Frame, packet: &Packet) -> Reason {
    const FRAGMENTATION_NEEDED: u8 = 4;
    let Some(icmp) = pointer::<Icmp>(frame, packet.transport_offset as usize) else { return Reason::Other };
    // SAFETY: `pointer` has checked the bounds.
    match unsafe { (packet.ipv6, (*icmp).kind, (*icmp).code) } {
        (false, 3, 3) | (true, 1, 4) => Reason::Port,
        (false, 3, code) if code != FRAGMENTATION_NEEDED => Reason::Unreachable,
        (true, 1, _) => Reason::Unreachable,
        _ => Reason::Other,
    }
}

/// Reads the packet that an error quotes, into `work.quoted`. A quotation has to reach as far as the ports.
#[inline(never)]
fn read_quoted<F: Frame>(frame: &F, work: &mut Work) -> bool {
    frame.pull(HEADERS);
    let Work { packet, quoted, .. } = work;
    let quoted_at = (packet.transport_offset + HEADER) as usize;
    if packet::parse_at(frame, quoted_at, packet.ipv6, quoted).is_none() {
        return false;
    }
    if quoted.tuple.protocol != TCP && quoted.tuple.protocol != UDP {
        return false;
    }
    // A later fragment has data there, not ports.
    if quoted.transport == packet::Transport::LaterFragment || quoted.transport_offset > packet::LAST_TRANSPORT {
        return false;
    }
    if quoted.transport_offset + 4 > packet.length + ETHERNET as u32 {
        return false;
    }
    let Some(ports) = pointer::<[[u8; 2]; 2]>(frame, quoted.transport_offset as usize) else { return false };
    [quoted.tuple.source_port, quoted.tuple.destination_port] = unsafe { *ports };
    true
}

/// An error about a reply: into `work.sent` what the backend sent, before its ends were restored.
#[inline(never)]
fn about_reply(work: &mut Work, settings: &Settings) -> Option<()> {
    let Work { packet, quoted, target, reply: key, sent, .. } = work;
    // Whoever received the VIP's packet tells the VIP, not another one.
    if quoted.tuple.source != packet.tuple.destination {
        return None;
    }
    *key = Tuple {
        source: quoted.tuple.destination,
        destination: quoted.tuple.source,
        source_port: quoted.tuple.destination_port,
        destination_port: quoted.tuple.source_port,
        protocol: quoted.tuple.protocol,
        pad: [0; 3],
    };
    let mut found = Found::NOTHING;
    if !flows::find(key, settings, key.hash(settings.hash_seed), &mut found) {
        return None;
    }
    let flow = found.flow();
    let backend = BACKENDS.get(found.backend)?;
    if backend.generation != found.generation {
        return None;
    }
    *sent = Ends {
        source: backend.address,
        destination: flow.client,
        source_port: backend.port,
        destination_port: flow.client_port,
    };
    if flow.source_port != [0; 2] {
        sent.destination = *maps::SOURCE_ADDRESSES.get(flow.source as u32)?;
        sent.destination_port = flow.source_port;
    }
    target.ends = Ends::of(packet);
    target.ends.destination = backend.address;
    target.direct = flow.flags & Backend::DIRECT != 0;
    target.names = Names { direct: Outcome::IcmpForward, stack: Outcome::IcmpStack, untouched: false };
    Some(())
}

/// An error about a client's packet: into `work.sent` what the client sent. `Err`: not about one that concerns this hook; or
/// the datagram that it quotes is to go to another backend.
#[inline(never)]
fn about_request(work: &mut Work, settings: &Settings, arriving: bool, reason: Reason) -> Result<(), Option<Outcome>> {
    let Work { packet, quoted, reply: key, .. } = work;
    if !maps::is_watched(&quoted.tuple.destination) {
        return Err(None);
    }
    *key = Tuple {
        source: quoted.tuple.destination,
        destination: quoted.tuple.source,
        source_port: quoted.tuple.destination_port,
        destination_port: quoted.tuple.source_port,
        protocol: quoted.tuple.protocol,
        pad: [0; 3],
    };
    let mut found = Found::NOTHING;
    if !flows::find_reply(key, settings, &mut found) {
        return Err(None);
    }
    if reason != Reason::Other && found.flow().state & Flow::ANSWERED == 0 {
        found.note(Flow::REFUSED);
    }
    // The kernel forwards it; it is dealt with where it leaves.
    let is_kernels = arriving && found.flow().flags & Backend::DIRECT == 0 && found.flow().source_port == [0; 2];
    // Nobody but the backend itself knows that nothing listens there.
    let is_refusal =
        reason == Reason::Port && quoted.tuple.protocol == UDP && packet.tuple.source == quoted.tuple.destination;
    if is_refusal && datagram::eject(work, &found, settings, balance::now(settings)) && !is_kernels {
        if datagram::quotes_all(work) {
            return Err(Some(Outcome::RescuedDatagram));
        }
    }
    if is_kernels {
        return Err(None);
    }
    let Work { packet, quoted, target, sent, .. } = work;
    let flow = found.flow();
    *sent = Ends {
        source: flow.client,
        destination: flow.vip,
        source_port: flow.client_port,
        destination_port: flow.vip_port,
    };
    target.ends = Ends::of(packet);
    if packet.tuple.source == quoted.tuple.destination {
        target.ends.source = flow.vip;
    }
    target.ends.destination = flow.client;
    target.direct = true;
    target.names = Names { direct: Outcome::IcmpReply, stack: Outcome::IcmpRestored, untouched: false };
    Ok(())
}

/// Writes `work.sent` into the quoted packet, with its checksums as far as they are quoted, and brings the error's own
/// checksum in line with that and with the addresses that the error will have.
#[inline(never)]
fn requote<F: Frame>(frame: &F, work: &Work) -> Option<()> {
    let Work { packet, quoted, target, sent, .. } = work;
    let quoted_at = (packet.transport_offset + HEADER) as usize;
    let addresses = checksum::difference_address(packet.ipv6, &quoted.tuple.source, &sent.source)
        + checksum::difference_address(packet.ipv6, &quoted.tuple.destination, &sent.destination);
    let ports = checksum::difference_16(quoted.tuple.source_port, sent.source_port)
        + checksum::difference_16(quoted.tuple.destination_port, sent.destination_port);
    let mut inside = addresses + ports;
    // SAFETY: `pointer` has checked the bounds.
    unsafe {
        *pointer::<[[u8; 2]; 2]>(frame, quoted.transport_offset as usize)? = [sent.source_port, sent.destination_port];
        let is_tcp = quoted.tuple.protocol == TCP;
        // What lies behind the error's own end is padding.
        let end = packet.length + ETHERNET as u32;
        if quoted.checksum_offset() + 2 <= end
            && let Some(field) = pointer::<[u8; 2]>(frame, quoted.checksum_offset() as usize)
            && (is_tcp || *field != [0; 2])
        {
            let before = *field;
            *field = match checksum::update(before, addresses + ports) {
                // What would be "none" is sent as all ones (RFC 768).
                [0, 0] if !is_tcp => [0xff, 0xff],
                checksum => checksum,
            };
            inside += checksum::difference_16(before, *field);
        }
        if packet.ipv6 {
            let ip = &mut *pointer::<Ipv6Header>(frame, quoted_at)?;
            (ip.source, ip.destination) = (sent.source.0, sent.destination.0);
        } else {
            let ip = &mut *pointer::<Ipv4Header>(frame, quoted_at)?;
            let before = ip.checksum;
            ip.checksum = checksum::update(before, addresses);
            inside += checksum::difference_16(before, ip.checksum);
            (ip.source, ip.destination) = (sent.source.low(), sent.destination.low());
        }
    }
    // Only ICMPv6 has a pseudo-header.
    let mut outside = 0;
    if packet.ipv6 {
        outside = checksum::difference_address(true, &packet.tuple.source, &target.ends.source)
            + checksum::difference_address(true, &packet.tuple.destination, &target.ends.destination);
    }
    let (outside, inside) = (checksum::fold_32(outside), checksum::fold_32(inside));
    frame.update_checksum(packet.transport_offset + 2, outside, inside, Checksum::Plain).then_some(())
}
