//! Asking on the wire who has an address, and hearing who does.
#![expect(unsafe_code, reason = "received bytes, and sockets registered with the runtime, have no safe interface")]

use std::{
    io,
    mem::MaybeUninit,
    net::{IpAddr, Ipv6Addr},
};

use evenkeel_loader::Interface;
use evenkeel_neighbor::{ArpFrame, Mac, NdpFrame, Operation, ndp::Message};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::announce::link_address;

/// EtherTypes.
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// Longer than any frame of these protocols.
const FRAME: usize = 256;

/// Packet sockets that hear ARP and neighbour advertisements.
pub(crate) struct Wire {
    arp: AsyncFd<Socket>,
    ndp: AsyncFd<Socket>,
}

impl Wire {
    /// Opens the sockets in this process's network namespace; needs `CAP_NET_RAW`.
    pub(crate) fn open() -> io::Result<Self> {
        let open = |ether_type: u16, filter: &[SockFilter]| {
            // In network byte order.
            let protocol = Protocol::from(i32::from(ether_type.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
            socket.set_nonblocking(true)?;
            attach_filter(&socket, filter)?;
            // SAFETY: the socket is owned here and open until the end.
            Ok::<_, io::Error>(unsafe { AsyncFd::register(socket) }?)
        };
        Ok(Self { arp: open(ARP, &arp_replies())?, ndp: open(IPV6, &advertisements())? })
    }

    /// Asks on an interface who has an address, without claiming any (RFC 5227 section 2.1.1; RFC 4861 section 4.3).
    pub(crate) fn ask(&self, address: IpAddr, interface: &Interface) -> io::Result<()> {
        let to = link_address(interface.index)?;
        match address {
            IpAddr::V4(address) => self.arp.get_ref().send_to(&ArpFrame::probe(interface.mac, address).to_bytes(), &to),
            IpAddr::V6(address) => {
                let solicitation = NdpFrame::solicitation(interface.mac, link_local(interface.mac), address);
                self.ndp.get_ref().send_to(&solicitation.to_bytes(), &to)
            }
        }
        .map(drop)
    }

    /// Waits for somebody to say that it has an address; one of this node's own interfaces is nobody.
    pub(crate) async fn answer(&self, own: &[Mac]) -> io::Result<IpAddr> {
        loop {
            let answer = tokio::select! {
                frame = receive(&self.arp) => {
                    let reply = ArpFrame::parse(&frame?).ok();
                    let reply = reply.filter(|frame| frame.operation == Operation::Reply);
                    reply.map(|frame| (frame.sender_mac, IpAddr::V4(frame.sender)))
                }
                frame = receive(&self.ndp) => {
                    let frame = NdpFrame::parse(&frame?).ok();
                    frame.and_then(|frame| match frame.message {
                        Message::Advertisement { target, mac, .. } => {
                            Some((mac.unwrap_or(frame.source), IpAddr::V6(target)))
                        }
                        Message::Solicitation { .. } => None,
                    })
                }
            };
            if let Some((_, address)) = answer.filter(|(mac, _)| !own.contains(mac)) {
                return Ok(address);
            }
        }
    }
}

async fn receive(socket: &AsyncFd<Socket>) -> io::Result<Vec<u8>> {
    loop {
        let mut ready = socket.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); FRAME];
        let received = ready.try_io(|socket| {
            let length = socket.get_ref().recv(&mut buffer)?;
            // SAFETY: the kernel has written so many bytes.
            Ok(buffer.iter().take(length).map(|byte| unsafe { byte.assume_init() }).collect::<Vec<u8>>())
        });
        match received {
            Ok(Ok(frame)) => return Ok(frame),
            // An interface went down: the socket hears the others, and this one when it comes up again.
            Ok(Err(error)) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}

/// The address that an interface gives itself on its link (RFC 4291 appendix A).
fn link_local([a, b, c, d, e, f]: Mac) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

fn load(size: u32, offset: u32) -> SockFilter {
    instruction(libc::BPF_LD | size | libc::BPF_ABS, 0, 0, offset)
}

/// Goes on if what was loaded is this, else so many instructions later.
fn expect(value: u32, else_skip: u8) -> SockFilter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, else_skip, value)
}

fn accept(bytes: u32) -> SockFilter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, bytes)
}

#[expect(clippy::cast_possible_truncation, reason = "codes of classic BPF have eight bits")]
fn instruction(code: u32, then_skip: u8, else_skip: u8, value: u32) -> SockFilter {
    SockFilter::new(code as u16, then_skip, else_skip, value)
}

/// ARP replies: the operation is 2.
fn arp_replies() -> [SockFilter; 4] {
    [load(libc::BPF_H, 20), expect(2, 1), accept(u32::MAX), accept(0)]
}

/// ICMPv6 of type 136 without extension headers: all other traffic stays in the kernel.
fn advertisements() -> [SockFilter; 6] {
    [load(libc::BPF_B, 20), expect(58, 3), load(libc::BPF_B, 54), expect(136, 1), accept(u32::MAX), accept(0)]
}

fn attach_filter(socket: &Socket, filter: &[SockFilter]) -> io::Result<()> {
    socket.attach_filter(filter)?;
    // What arrived before the filter was in force.
    let mut buffer = [MaybeUninit::uninit(); FRAME];
    while socket.recv(&mut buffer).is_ok() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_names_itself_on_its_link() {
        assert_eq!(link_local([2, 0, 0, 0, 0xeb, 1]), "fe80::ff:fe00:eb01".parse::<Ipv6Addr>().unwrap());
    }
}
