//! Following the kernel's routes and neighbours: the programs remember next hops, and are told when to ask again.
//!
//! A next hop expires by itself within a second; what is heard here makes that a matter of milliseconds. So nothing is lost
//! where the kernel cannot say what changed, except time.
#![expect(unsafe_code, reason = "registering a file descriptor with the runtime has no safe wrapper")]

mod message;

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv, send,
        socket_with,
    },
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep_until,
};

use message::Neighbours;

/// Changes within this time are one: a routing daemon that fills a table makes the programs ask anew this often at most.
const PAUSE: Duration = Duration::from_millis(10);
/// Longest datagram of the kernel's: dumps come in pieces of up to 32 KiB.
const MAX_DATAGRAM: usize = 32 << 10;
/// Datagrams read in one go, so that the node gets to its other work.
const MAX_READ: usize = 64;

/// Multicast groups as the bits by which they are joined: links, neighbours, routes, rules and next-hop objects.
const GROUPS: u32 = {
    let groups = [
        libc::RTNLGRP_LINK,
        libc::RTNLGRP_NEIGH,
        libc::RTNLGRP_IPV4_ROUTE,
        libc::RTNLGRP_IPV4_RULE,
        libc::RTNLGRP_IPV6_ROUTE,
        libc::RTNLGRP_IPV6_RULE,
        libc::RTNLGRP_NEXTHOP,
    ];
    let mut bits = 0;
    let mut next = 0;
    while next < groups.len() {
        bits |= 1 << (groups[next] - 1);
        next += 1;
    }
    bits
};

/// What the kernel says about the ways to next hops.
#[derive(Debug)]
pub(crate) struct NextHops {
    socket: AsyncFd<OwnedFd>,
    neighbours: Neighbours,
    /// Something changed that nobody was told yet.
    pending: bool,
    not_before: Instant,
    buffer: Vec<u8>,
}

impl NextHops {
    /// Starts to listen in this network namespace. Must be called within a tokio runtime, and before the programs learn
    /// their first next hop.
    pub(crate) fn listen() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol zero is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        // SAFETY: an `OwnedFd` stays open, and the same, until it is dropped.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        let mut next_hops = Self {
            socket,
            neighbours: Neighbours::default(),
            pending: false,
            not_before: Instant::now(),
            buffer: vec![0; MAX_DATAGRAM],
        };
        next_hops.start_over()?;
        Ok(next_hops)
    }

    /// Returns when next hops may have changed: at once, but at most every 10 ms. May be dropped and called again; nothing
    /// is lost by that.
    ///
    /// # Errors
    /// When the kernel cannot be listened to any more.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        while !self.pending {
            self.socket.readable().await?.retain_ready();
            self.read()?;
        }
        sleep_until(self.not_before.into()).await;
        // What came meanwhile is of the same change.
        self.read()?;
        self.pending = false;
        self.not_before = Instant::now() + PAUSE;
        Ok(())
    }

    /// Reads what there is.
    fn read(&mut self) -> io::Result<()> {
        for _ in 0..MAX_READ {
            // Cleared if there is nothing more, by the runtime.
            let read = self.socket.try_io(Interest::READABLE, |socket| {
                recv(socket, &mut self.buffer[..], RecvFlags::empty()).map_err(io::Error::from)
            });
            match read {
                Ok((read, _)) => {
                    let datagram = self.buffer.get(..read).unwrap_or_default();
                    self.pending |= self.neighbours.hear(datagram);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel had more to say than the socket holds.
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => self.start_over()?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes everything to have changed, and asks the kernel for all neighbours.
    fn start_over(&mut self) -> io::Result<()> {
        self.pending = true;
        self.neighbours = Neighbours::default();
        match send(self.socket.get_ref(), &message::ask_for_neighbours(), SendFlags::empty()) {
            // Then an earlier list is still under way, or the kernel is out of memory: until one is complete every
            // neighbour that is heard of counts as changed.
            Ok(_) | Err(Errno::BUSY | Errno::NOBUFS | Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
