//! Sending gratuitous ARP frames.
#![expect(unsafe_code, reason = "a packet socket's address has no safe constructor")]

use std::{io, mem};

use evenkeel_neighbor::{ArpFrame, Due, Mac, Operation};
use socket2::{Domain, SockAddr, Socket, Type};

/// A packet socket that only sends.
pub(crate) struct Sender(Socket);

impl Sender {
    /// Opens the socket in this process's network namespace; needs `CAP_NET_RAW`.
    pub(crate) fn open() -> io::Result<Self> {
        // Protocol zero: the kernel delivers no frames to it.
        Ok(Self(Socket::new(Domain::PACKET, Type::RAW, None)?))
    }

    /// Announces that `mac` has the VIP, to everyone on the interface, in both forms that hosts listen to.
    pub(crate) fn announce(&self, due: Due, mac: Mac) -> io::Result<()> {
        let to = link_address(due.interface)?;
        for operation in [Operation::Request, Operation::Reply] {
            self.0.send_to(&ArpFrame::announcement(mac, due.address, operation).to_bytes(), &to)?;
        }
        Ok(())
    }
}

fn link_address(interface: u32) -> io::Result<SockAddr> {
    let index = i32::try_from(interface).map_err(io::Error::other)?;
    let family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    let size = libc::socklen_t::try_from(mem::size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: `sockaddr_ll` is plain data and smaller than the storage; family and length are set.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = &mut *storage.cast::<libc::sockaddr_ll>();
            address.sll_family = family;
            address.sll_ifindex = index;
            *length = size;
            Ok(())
        })?
    };
    Ok(address)
}
