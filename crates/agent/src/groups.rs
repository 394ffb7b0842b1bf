//! Being in the solicited-node multicast groups of owned IPv6 VIPs, so that their neighbours' solicitations reach the
//! programs: NICs and switches that snoop on MLD pass on only what some host listens to.
//!
//! A membership is two things. The kernel reports it to the switches by MLD as long as a socket here holds it, so it ends
//! with this process. The interface's filter of hardware addresses is set besides, by an entry that stays as the programs
//! do: a VIP that is answered for while no agent runs must be heard as well.
#![expect(unsafe_code, reason = "the ioctl that sets an interface's filter has no safe wrapper")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsRawFd as _,
};

use evenkeel_loader::Interface;
use evenkeel_neighbor::{
    Mac,
    ndp::{multicast_mac, solicited_node},
};
use socket2::{Domain, Socket, Type};

/// What the interfaces of this network namespace let through besides their own address.
const FILTERS: &str = "/proc/net/dev_mcast";

/// The groups this process is in.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// The kernel bounds the memberships of one socket (net.core.optmem_max); when one is full another is opened.
    sockets: Vec<Socket>,
    /// Each with the socket that holds it.
    joined: BTreeMap<Membership, usize>,
}

/// A group on an interface. VIPs whose last 24 bits are the same share one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Membership {
    interface: u32,
    name: String,
    group: Ipv6Addr,
}

/// A group that could not be joined.
#[derive(Debug)]
pub(crate) struct NotJoined {
    membership: Membership,
    error: io::Error,
}

impl fmt::Display for NotJoined {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Membership { name, group, .. } = &self.membership;
        write!(formatter, "[group_not_joined] cannot join {group} on {name}: {}", self.error)
    }
}

impl Groups {
    /// Is in the groups of these VIPs, each on its interface, and in no others. What could not be joined is returned, and
    /// tried again with the next call.
    pub(crate) fn set<'a>(&mut self, vips: impl IntoIterator<Item = (Ipv6Addr, &'a Interface)>) -> Vec<NotJoined> {
        let wanted: BTreeSet<Membership> = vips
            .into_iter()
            .map(|(vip, interface)| Membership {
                interface: interface.index,
                name: interface.name.clone(),
                group: solicited_node(vip),
            })
            .collect();
        let left: Vec<Membership> = self.joined.keys().filter(|joined| !wanted.contains(*joined)).cloned().collect();
        for membership in left {
            self.leave(&membership);
        }
        let mut failures = Vec::new();
        for membership in wanted {
            if !self.joined.contains_key(&membership)
                && let Err(error) = self.join(&membership)
            {
                failures.push(NotJoined { membership, error });
            }
        }
        failures
    }

    fn join(&mut self, membership: &Membership) -> io::Result<()> {
        let Membership { interface, group, name } = membership;
        let held = match self.sockets.last().map(|socket| socket.join_multicast_v6(group, *interface)) {
            Some(Err(error)) if !is_full(&error) => Err(error),
            Some(Ok(())) => Ok(()),
            None | Some(Err(_)) => {
                let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
                let held = socket.join_multicast_v6(group, *interface);
                self.sockets.push(socket);
                held
            }
        };
        held?;
        self.joined.insert(membership.clone(), self.sockets.len() - 1);
        tracing::debug!(%group, interface = name, "joined");
        self.filter(membership, libc::SIOCADDMULTI);
        Ok(())
    }

    fn leave(&mut self, membership: &Membership) {
        let Membership { interface, group, name } = membership;
        let socket = self.joined.remove(membership).and_then(|index| self.sockets.get(index));
        self.filter(membership, libc::SIOCDELMULTI);
        // Fails only for what is gone already, with its interface.
        if let Some(Err(error)) = socket.map(|socket| socket.leave_multicast_v6(group, *interface)) {
            tracing::debug!(%group, interface = name, %error, "left");
        }
    }

    /// Adds or removes the lasting entry. Without it solicitations arrive as long as this process runs.
    fn filter(&self, Membership { name, group, .. }: &Membership, request: libc::Ioctl) {
        let Some(socket) = self.sockets.first() else { return };
        if let Err(error) = change_filter(socket, request, name, multicast_mac(*group)) {
            tracing::debug!(%group, interface = name, %error, "the interface's filter stays as it is");
        }
    }
}

/// Removes the lasting entries for these VIPs, which a run has left, from all interfaces.
pub(crate) fn forget(vips: impl IntoIterator<Item = IpAddr>) -> io::Result<()> {
    let macs: BTreeSet<Mac> = vips
        .into_iter()
        .filter_map(|vip| match vip {
            IpAddr::V6(vip) => Some(multicast_mac(solicited_node(vip))),
            IpAddr::V4(_) => None,
        })
        .collect();
    if macs.is_empty() {
        return Ok(());
    }
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    for (interface, mac) in lasting_entries(&fs::read_to_string(FILTERS)?) {
        if macs.contains(&mac) {
            change_filter(&socket, libc::SIOCDELMULTI, interface, mac)?;
        }
    }
    Ok(())
}

/// The entries that were added from user space, each with its interface, of [`FILTERS`]: index and name of the interface,
/// users, users that are no protocol of the kernel, hardware address.
fn lasting_entries(filters: &str) -> impl Iterator<Item = (&str, Mac)> {
    filters.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (_, name, _, lasting, mac) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let bytes = u64::from_str_radix(mac, 16).ok().filter(|_| mac.len() == 12 && lasting != "0")?.to_be_bytes();
        let [_, _, mac @ ..] = bytes;
        Some((name, mac))
    })
}

/// Whether a socket refuses because it holds all the memberships it may.
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS))
}

fn change_filter(socket: &Socket, request: libc::Ioctl, interface: &str, mac: Mac) -> io::Result<()> {
    // SAFETY: zeros are a valid value of this plain data.
    let mut ask: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = ask.ifr_name.len().checked_sub(1).and_then(|most| ask.ifr_name.get_mut(..most.min(interface.len())));
    for (to, from) in name.into_iter().flatten().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    let mut address = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
    for (to, from) in address.sa_data.iter_mut().zip(mac) {
        *to = from.cast_signed();
    }
    ask.ifr_ifru.ifru_hwaddr = address;
    // SAFETY: both requests read a `struct ifreq` with a name that ends with zero, and keep no pointer to it.
    match unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw const ask) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What anybody may join groups on, and what no test outside of these looks at.
    fn loopback() -> Interface {
        Interface { name: "lo".to_owned(), index: 1, mac: [0; 6], running: true }
    }

    fn vip(test: u16, number: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0xeb00 | test, number)
    }

    /// Whether the loopback interface is in a VIP's group.
    fn is_joined(vip: Ipv6Addr) -> bool {
        let group: String = solicited_node(vip).octets().iter().map(|byte| format!("{byte:02x}")).collect();
        fs::read_to_string("/proc/net/igmp6").unwrap().lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some("1") && words.any(|word| word == group)
        })
    }

    #[test]
    fn groups_are_joined_and_left_with_their_vips() {
        let (lo, mut groups) = (loopback(), Groups::default());
        let [a, b] = [vip(1, 1), vip(1, 2)];
        assert!(!is_joined(a));
        assert!(groups.set([(a, &lo), (b, &lo)]).is_empty());
        assert!(is_joined(a) && is_joined(b));
        assert!(groups.set([(b, &lo)]).is_empty());
        assert!(!is_joined(a) && is_joined(b));
        drop(groups);
        assert!(!is_joined(b), "the membership ends with the socket");
        // Removes the lasting entry as well.
        let mut groups = Groups::default();
        assert!(groups.set([(b, &lo)]).is_empty() && groups.set([]).is_empty());
    }

    #[test]
    fn vips_that_share_a_group_hold_it_until_both_are_gone() {
        let (lo, mut groups) = (loopback(), Groups::default());
        let a = vip(2, 1);
        let b = Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, a.segments()[6], a.segments()[7]);
        assert_eq!(solicited_node(a), solicited_node(b));
        assert!(groups.set([(a, &lo), (b, &lo)]).is_empty());
        assert!(groups.set([(b, &lo)]).is_empty());
        assert!(is_joined(a));
        assert!(groups.set([]).is_empty());
        assert!(!is_joined(a));
    }

    #[test]
    fn there_may_be_more_groups_than_one_socket_holds() {
        let (lo, mut groups) = (loopback(), Groups::default());
        let vips: Vec<Ipv6Addr> = (0..4000).map(|number| vip(3, number)).collect();
        assert!(groups.set(vips.iter().map(|vip| (*vip, &lo))).is_empty());
        assert!(groups.sockets.len() > 1, "one socket held them all: the test shows nothing");
        assert!(is_joined(vips[0]) && is_joined(vips[3999]));
        assert!(groups.set([]).is_empty());
        assert!(!is_joined(vips[0]) && !is_joined(vips[3999]));
    }

    #[test]
    fn entries_from_user_space_are_told_from_those_of_protocols() {
        let text =
            "2    d1              1     0     333300000001\n3    up0             2     1     3333ff000100\n4 x\n";
        let entries: Vec<(&str, Mac)> = lasting_entries(text).collect();
        assert_eq!(entries, [("up0", [0x33, 0x33, 0xff, 0, 1, 0])]);
    }

    #[test]
    fn what_cannot_be_joined_is_named_and_tried_again() {
        let nowhere = Interface { name: "none".to_owned(), index: 0x7fff_0000, ..loopback() };
        let mut groups = Groups::default();
        for _ in 0..2 {
            let failures: Vec<String> = groups.set([(vip(4, 1), &nowhere)]).iter().map(ToString::to_string).collect();
            assert_eq!(failures.len(), 1);
            assert!(failures[0].starts_with("[group_not_joined] cannot join ff02::1:ff04:1 on none: "), "{failures:?}");
        }
        assert!(groups.set([]).is_empty());
    }
}
