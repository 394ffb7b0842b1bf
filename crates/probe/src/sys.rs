//! System calls that rustix does not have.
#![expect(unsafe_code, reason = "system calls with pointers to buffers that outlive them")]

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd},
    ptr,
};

/// What the kernel knows of a TCP connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpInfo {
    /// Segments sent again, SYNs included.
    pub(crate) total_retransmits: u32,
    /// Segments that have arrived.
    pub(crate) segments_in: u32,
}

/// `TCP_INFO` of a connection, also of one that has ended. `None` if the kernel does not say.
pub(crate) fn tcp_info(socket: impl AsFd) -> Option<TcpInfo> {
    // SAFETY: all-zero bytes are a valid `tcp_info`: it consists of integers.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    // SAFETY: `tcp_info` is plain data of the size given.
    let length = unsafe { get_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info) }.ok()?;
    // Older kernels fill in less.
    let enough = mem::offset_of!(libc::tcp_info, tcpi_segs_in) + mem::size_of_val(&info.tcpi_segs_in);
    (length >= enough).then_some(TcpInfo { total_retransmits: info.tcpi_total_retrans, segments_in: info.tcpi_segs_in })
}

/// Datagrams that arrived and were thrown away because the socket's buffer was full.
pub(crate) fn dropped_datagrams(socket: impl AsFd) -> u32 {
    /// `SK_MEMINFO_DROPS` of linux/sock_diag.h, and the number of its fields.
    const DROPS: usize = 8;
    const FIELDS: usize = 9;
    /// `SO_MEMINFO` of asm-generic/socket.h.
    const SO_MEMINFO: i32 = 55;
    let mut fields = [0_u32; FIELDS];
    // SAFETY: an array of integers, of the size given.
    match unsafe { get_option(socket, libc::SOL_SOCKET, SO_MEMINFO, &mut fields) } {
        Ok(length) if length >= mem::size_of_val(&fields) => fields[DROPS],
        _ => 0,
    }
}

/// # Safety
///
/// Any bytes must be a valid `T`.
unsafe fn get_option<T>(socket: impl AsFd, level: i32, name: i32, value: &mut T) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(mem::size_of::<T>()).unwrap_or(0);
    // SAFETY: `value` is writable for `length` bytes.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), level, name, ptr::from_mut(value).cast(), &raw mut length)
    };
    if result == 0 { Ok(length as usize) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel report every ICMP error that a socket's datagrams meet with; otherwise it keeps those to itself that it
/// takes for passing, such as host unreachable.
pub(crate) fn report_icmp(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    let (level, name) =
        if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
    let on: i32 = 1;
    let length = libc::socklen_t::try_from(mem::size_of_val(&on)).unwrap_or(0);
    // SAFETY: `on` is an integer of the length given.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, ptr::from_ref(&on).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the next ICMP error from a socket's queue: the error, and the length of what is known of the datagram that met
/// with it, now in `datagram`. `None` if there is none.
pub(crate) fn take_icmp(socket: impl AsFd, datagram: &mut [u8]) -> Option<(io::Error, usize)> {
    /// Aligned as control messages must be.
    #[repr(align(8))]
    struct Control([u8; 256]);
    let mut control = Control([0; 256]);
    let mut vector = libc::iovec { iov_base: datagram.as_mut_ptr().cast(), iov_len: datagram.len() };
    // SAFETY: all-zero bytes are a valid `msghdr`: null pointers and zero lengths.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: `header` points to writable memory of the lengths it gives.
    let length = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags) };
    let length = usize::try_from(length).ok()?;
    let mut errno = 0;
    // SAFETY: `header` was filled in by the kernel and its control buffer is still there.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !message.is_null() {
        // SAFETY: the kernel's control messages lie within the buffer.
        let (level, kind) = unsafe { ((*message).cmsg_level, (*message).cmsg_type) };
        if matches!((level, kind), (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)) {
            // SAFETY: a message of this type carries a `sock_extended_err`, not necessarily aligned.
            let extended = unsafe { ptr::read_unaligned(libc::CMSG_DATA(message).cast::<libc::sock_extended_err>()) };
            errno = i32::try_from(extended.ee_errno).unwrap_or(0);
        }
        // SAFETY: as above.
        message = unsafe { libc::CMSG_NXTHDR(&raw const header, message) };
    }
    Some((io::Error::from_raw_os_error(errno), length))
}

/// Most datagrams sent or received at once.
pub(crate) const BATCH: usize = 64;

/// Datagrams to be sent at once on a connected socket.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Outgoing {
    /// Adds a datagram of `parts`, one after the other.
    pub(crate) fn push(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Length of a datagram.
    pub(crate) fn length(&self, index: usize) -> usize {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        self.ends[index] - start
    }

    /// Sends the datagrams from number `from` on, as many as the kernel takes, [`BATCH`] at most; returns how many.
    ///
    /// # Errors
    ///
    /// None was sent: `EAGAIN`, or an error that an earlier datagram has met with.
    pub(crate) fn send(&self, socket: impl AsFd, from: usize) -> io::Result<usize> {
        let count = (self.ends.len() - from).min(BATCH);
        let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        // SAFETY: all-zero bytes are a valid `mmsghdr`: null pointers and zero lengths.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        for index in 0..count {
            let start = if from + index == 0 { 0 } else { self.ends[from + index - 1] };
            let datagram = &self.bytes[start..self.ends[from + index]];
            vectors[index] = libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
            headers[index].msg_hdr.msg_iov = &raw mut vectors[index];
            headers[index].msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: `headers` has `count` valid headers, whose vectors and bytes live until the call returns; sending does
        // not write to the bytes.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                u32::try_from(count).unwrap_or(0),
                libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Longest datagram told from longer ones.
const MAX_DATAGRAM: usize = 4096;

/// Room for datagrams received at once.
pub(crate) struct Incoming {
    bytes: Vec<u8>,
    lengths: [usize; BATCH],
}

impl Default for Incoming {
    fn default() -> Self {
        Self { bytes: vec![0; BATCH * MAX_DATAGRAM], lengths: [0; BATCH] }
    }
}

impl Incoming {
    /// Receives what there is, [`BATCH`] datagrams at most; returns how many.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if there is none, or an error that an earlier datagram has met with.
    pub(crate) fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        // SAFETY: all-zero bytes are a valid `mmsghdr`: null pointers and zero lengths.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        for ((room, vector), header) in self.bytes.chunks_exact_mut(MAX_DATAGRAM).zip(&mut vectors).zip(&mut headers) {
            *vector = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            header.msg_hdr.msg_iov = ptr::from_mut(vector);
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: `headers` has `BATCH` valid headers, whose vectors point to disjoint, writable pieces of `bytes`.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                u32::try_from(BATCH).unwrap_or(0),
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (length, header) in self.lengths.iter_mut().zip(&headers[..received]) {
            *length = header.msg_len as usize;
        }
        Ok(received)
    }

    /// Datagram number `index` of those received last.
    pub(crate) fn datagram(&self, index: usize) -> &[u8] {
        let start = index * MAX_DATAGRAM;
        &self.bytes[start..start + self.lengths[index].min(MAX_DATAGRAM)]
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn a_connection_without_loss_has_no_retransmission() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let info = tcp_info(&stream).unwrap();
        assert_eq!(info.total_retransmits, 0);
        assert!(info.segments_in >= 1);
    }

    #[test]
    fn datagrams_are_sent_and_received_in_batches() {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        a.connect(b.local_addr().unwrap()).unwrap();
        b.connect(a.local_addr().unwrap()).unwrap();
        let mut outgoing = Outgoing::default();
        for index in 0..100_u8 {
            outgoing.push(&[b"number ", &[index]]);
        }
        let mut sent = 0;
        while sent < 100 {
            sent += outgoing.send(&a, sent).unwrap();
        }
        let mut incoming = Incoming::default();
        let mut next = 0;
        while next < 100 {
            for index in 0..incoming.receive(&b).unwrap() {
                assert_eq!(incoming.datagram(index), [b"number ", &[next][..]].concat());
                next += 1;
            }
        }
        assert_eq!(incoming.receive(&b).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(dropped_datagrams(&b), 0);
    }
}
