//! Sending gratuitous ARP and unsolicited neighbour advertisements.
#![expect(unsafe_code, reason = "a packet socket's address has no safe constructor")]

use std::{io, mem, net::IpAddr};

use evenkeel_loader::Interface;
use evenkeel_neighbor::{ArpFrame, NdpFrame, Operation};
use socket2::{Domain, SockAddr, Socket, Type};

/// A packet socket that only sends.
pub(crate) struct Sender(Socket);

impl Sender {
    /// Opens the socket in this process's network namespace; needs `CAP_NET_RAW`.
    pub(crate) fn open() -> io::Result<Self> {
        // Protocol zero: the kernel delivers no frames to it.
        Ok(Self(Socket::new(Domain::PACKET, Type::RAW, None)?))
    }

    /// Announces to everyone on the interface that it has the VIP.
    pub(crate) fn announce(&self, vip: IpAddr, interface: &Interface) -> io::Result<()> {
        let to = link_address(interface.index)?;
        match vip {
            // In both forms that hosts listen to.
            IpAddr::V4(vip) => {
                for operation in [Operation::Request, Operation::Reply] {
                    self.0.send_to(&ArpFrame::announcement(interface.mac, vip, operation).to_bytes(), &to)?;
                }
            }
            IpAddr::V6(vip) => {
                self.0.send_to(&NdpFrame::announcement(interface.mac, vip).to_bytes(), &to)?;
            }
        }
        Ok(())
    }
}

pub(crate) fn link_address(interface: u32) -> io::Result<SockAddr> {
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
