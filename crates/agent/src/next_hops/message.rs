//! What the kernel says on a `NETLINK_ROUTE` socket, as far as it concerns next hops. Everything is in host byte order.

use std::collections::HashMap;

/// Bytes of `struct nlmsghdr`: length, type, flags, sequence, port.
const HEADER: usize = 16;
/// Bytes of `struct ndmsg`: family, padding, interface, state, flags, type.
const NEIGHBOUR_HEADER: usize = 12;
/// Bytes of `struct rtattr`: length, type.
const ATTRIBUTE_HEADER: usize = 4;
/// Messages and attributes begin at multiples of it.
const ALIGNMENT: usize = 4;

/// `NLM_F_REQUEST` and `NLM_F_DUMP`: asks for all there is.
const REQUEST_DUMP: u16 = 0x301;
/// `NLMSG_DONE`: the end of the answer to that.
const DONE: u16 = 3;

/// `RTM_NEWNEXTHOP` and `RTM_DELNEXTHOP`.
const NEW_NEXT_HOP: u16 = 104;
const DELETED_NEXT_HOP: u16 = 105;

/// `AF_INET`, `AF_INET6` and `AF_BRIDGE`.
const INET: u8 = 2;
const INET6: u8 = 10;
const BRIDGE: u8 = 7;

/// States in which frames are sent to a neighbour's hardware address: `NUD_REACHABLE`, `STALE`, `DELAY`, `PROBE`, `NOARP`,
/// `PERMANENT`.
const USABLE: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80;

/// The hardware addresses of the neighbours that have one. Busy neighbours change their state all the time and their address
/// hardly ever; without a memory these cannot be told apart.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    known: HashMap<(u32, Vec<u8>), Vec<u8>>,
    /// Whether the kernel has listed them all, so that one that is not known is new.
    is_complete: bool,
}

impl Neighbours {
    /// Takes in a datagram of the kernel's; whether next hops that were learnt before it may be wrong now. What cannot be
    /// read counts as a change.
    pub(super) fn hear(&mut self, datagram: &[u8]) -> bool {
        let mut changed = false;
        let mut rest = datagram;
        while !rest.is_empty() {
            let Some((kind, body, after)) = split_message(rest) else { return true };
            changed |= self.message(kind, body);
            rest = after;
        }
        changed
    }

    fn message(&mut self, kind: u16, body: &[u8]) -> bool {
        match kind {
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => match Neighbour::parse(body) {
                Ok(Some(neighbour)) => self.neighbour(neighbour, kind == libc::RTM_DELNEIGH),
                Ok(None) => false,
                Err(Malformed) => true,
            },
            // A bridge's port changed its state, which is no matter of routes.
            libc::RTM_NEWLINK | libc::RTM_DELLINK => body.first() != Some(&BRIDGE),
            libc::RTM_NEWROUTE
            | libc::RTM_DELROUTE
            | libc::RTM_NEWRULE
            | libc::RTM_DELRULE
            | NEW_NEXT_HOP
            | DELETED_NEXT_HOP => true,
            DONE => {
                self.is_complete = true;
                false
            }
            _ => false,
        }
    }

    fn neighbour(&mut self, Neighbour { key, state, mac }: Neighbour, is_deleted: bool) -> bool {
        let mac = mac.filter(|_| !is_deleted && state & USABLE != 0);
        let before = match &mac {
            Some(mac) => self.known.insert(key, mac.clone()),
            None => self.known.remove(&key),
        };
        match before {
            Some(before) => Some(before) != mac,
            // One that is new is in nobody's memory, unless it was there before we listened.
            None => !self.is_complete,
        }
    }
}

/// A neighbour as a message tells of it.
struct Neighbour {
    /// Interface and address.
    key: (u32, Vec<u8>),
    /// `NUD_…` bits.
    state: u16,
    /// The hardware address, if it has one.
    mac: Option<Vec<u8>>,
}

/// A message that ends before its contents do.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

impl Neighbour {
    /// `None`: an entry of another kind, such as of a bridge's forwarding table.
    fn parse(body: &[u8]) -> Result<Option<Self>, Malformed> {
        let family = *body.first().ok_or(Malformed)?;
        if family != INET && family != INET6 {
            return Ok(None);
        }
        let interface = read_u32(body, 4).ok_or(Malformed)?;
        let state = read_u16(body, 8).ok_or(Malformed)?;
        let mut attributes = body.get(NEIGHBOUR_HEADER..).ok_or(Malformed)?;
        let (mut address, mut mac) = (None, None);
        while !attributes.is_empty() {
            let (kind, value, rest) = split_attribute(attributes).ok_or(Malformed)?;
            match kind {
                libc::NDA_DST => address = Some(value.to_vec()),
                libc::NDA_LLADDR => mac = Some(value.to_vec()),
                _ => {}
            }
            attributes = rest;
        }
        let address = address.ok_or(Malformed)?;
        Ok(Some(Self { key: (interface, address), state, mac }))
    }
}

/// The request for a list of all neighbours.
pub(super) fn ask_for_neighbours() -> Vec<u8> {
    let mut request = Vec::new();
    push_message(&mut request, libc::RTM_GETNEIGH, REQUEST_DUMP, &[0; NEIGHBOUR_HEADER]);
    request
}

fn push_message(out: &mut Vec<u8>, kind: u16, flags: u16, body: &[u8]) {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    // Sequence and port: nobody asks for an answer to a certain request.
    out.extend([0; 8]);
    out.extend(body);
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
}

/// A message's type and body, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(read_u32(bytes, 0)?).ok()?;
    let kind = read_u16(bytes, 4)?;
    Some((kind, bytes.get(HEADER..length)?, after(bytes, length)))
}

/// An attribute's type and value, and what follows it.
fn split_attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(read_u16(bytes, 0)?);
    let kind = read_u16(bytes, 2)?;
    Some((kind, bytes.get(ATTRIBUTE_HEADER..length)?, after(bytes, length)))
}

/// What follows the first `length` bytes and their padding, which the last message may do without.
fn after(bytes: &[u8], length: usize) -> &[u8] {
    bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default()
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INCOMPLETE: u16 = 0x01;
    const REACHABLE: u16 = 0x02;
    const STALE: u16 = 0x04;
    const FAILED: u16 = 0x20;
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_message(&mut bytes, kind, 0, body);
        bytes
    }

    /// News of the neighbour 10.1.0.`last` on interface 3.
    fn news(kind: u16, last: u8, state: u16, mac: Option<[u8; 6]>) -> Vec<u8> {
        let mut body = vec![INET, 0, 0, 0];
        body.extend(3_u32.to_ne_bytes());
        body.extend(state.to_ne_bytes());
        body.extend([0, 1]);
        body.extend(attribute(libc::NDA_DST, &[10, 1, 0, last]));
        body.extend(mac.into_iter().flat_map(|mac| attribute(libc::NDA_LLADDR, &mac)));
        message(kind, &body)
    }

    fn new(last: u8, state: u16, mac: Option<[u8; 6]>) -> Vec<u8> {
        news(libc::RTM_NEWNEIGH, last, state, mac)
    }

    /// With 10.1.0.1 known.
    fn listed() -> Neighbours {
        let mut neighbours = Neighbours::default();
        neighbours.hear(&[new(1, STALE, Some(MAC)), message(DONE, &[0; 4])].concat());
        assert_eq!(neighbours.known.len(), 1);
        neighbours
    }

    #[test]
    fn only_another_hardware_address_matters_of_a_neighbour_that_has_one() {
        let mut neighbours = listed();
        for state in [REACHABLE, STALE, 0x08, 0x10, REACHABLE] {
            assert!(!neighbours.hear(&new(1, state, Some(MAC))), "{state}");
        }
        assert!(neighbours.hear(&new(1, STALE, Some(OTHER_MAC))));
        assert!(!neighbours.hear(&new(1, REACHABLE, Some(OTHER_MAC))));
    }

    #[test]
    fn a_neighbour_that_is_lost_matters_once() {
        for lost in [
            new(1, FAILED, None),
            // The kernel may still tell the address that no longer answers.
            new(1, FAILED, Some(MAC)),
            new(1, INCOMPLETE, None),
            news(libc::RTM_DELNEIGH, 1, STALE, Some(MAC)),
        ] {
            let mut neighbours = listed();
            assert!(neighbours.hear(&lost));
            assert!(!neighbours.hear(&lost), "nobody can have learnt it meanwhile");
            assert!(!neighbours.hear(&new(1, REACHABLE, Some(MAC))), "back again");
        }
    }

    #[test]
    fn a_scan_of_the_subnet_makes_nobody_ask_anew() {
        let mut neighbours = listed();
        for last in 2..=200 {
            assert!(!neighbours.hear(&new(last, INCOMPLETE, None)));
            assert!(!neighbours.hear(&new(last, FAILED, None)));
            assert!(!neighbours.hear(&news(libc::RTM_DELNEIGH, last, FAILED, None)));
        }
        assert_eq!(neighbours.known.len(), 1);
    }

    #[test]
    fn until_all_are_listed_every_neighbour_may_have_changed() {
        let mut neighbours = Neighbours::default();
        assert!(neighbours.hear(&new(1, REACHABLE, Some(MAC))));
        assert!(!neighbours.hear(&new(1, STALE, Some(MAC))));
        assert!(neighbours.hear(&new(2, FAILED, None)));
    }

    #[test]
    fn routes_links_rules_and_next_hops_matter() {
        let mut neighbours = listed();
        let kinds = [
            libc::RTM_NEWROUTE,
            libc::RTM_DELROUTE,
            libc::RTM_NEWRULE,
            libc::RTM_DELRULE,
            libc::RTM_NEWLINK,
            libc::RTM_DELLINK,
            NEW_NEXT_HOP,
            DELETED_NEXT_HOP,
        ];
        for kind in kinds {
            assert!(neighbours.hear(&message(kind, &[INET; 12])), "{kind}");
        }
        assert!(!neighbours.hear(&message(libc::RTM_NEWLINK, &[BRIDGE; 16])), "a bridge's port");
        assert!(!neighbours.hear(&message(libc::RTM_NEWNEIGH, &[BRIDGE; 16])), "a bridge's forwarding table");
        assert!(!neighbours.hear(&message(libc::RTM_NEWADDR, &[INET; 8])));
    }

    #[test]
    fn several_messages_in_a_datagram_are_all_heard() {
        let mut neighbours = listed();
        let quiet = new(1, REACHABLE, Some(MAC));
        assert!(!neighbours.hear(&[quiet.clone(), quiet.clone()].concat()));
        assert!(neighbours.hear(&[quiet.clone(), message(libc::RTM_NEWROUTE, &[0; 12]), quiet].concat()));
    }

    #[test]
    fn what_cannot_be_read_counts_as_a_change_and_harms_nobody() {
        let whole = [new(1, STALE, Some(MAC)), new(2, FAILED, None)].concat();
        let first = new(1, STALE, Some(MAC)).len();
        for end in 1..whole.len() {
            let changed = listed().hear(&whole[..end]);
            assert!(changed || end == first, "cut off after {end}");
        }
        for at in 0..whole.len() {
            for value in [0, 1, 3, 15, 127, 255] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                listed().hear(&damaged);
            }
        }
    }
}
