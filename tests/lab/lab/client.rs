//! A client that knows what it got from whom: single requests, long-lived connections, and the frames it hears.

use std::{
    fmt::Debug,
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use evenkeel_lab::Namespace;
use evenkeel_neighbor::{ArpFrame, NdpFrame, ndp::ParseError};
use serde_json::Value;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::world::{SOON, UDP, eventually};

/// `ETH_P_ARP` and `ETH_P_IPV6` of linux/if_ether.h.
pub(crate) const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

/// A TCP connection to a server that says its name and then echoes.
pub(crate) struct Session {
    stream: BufReader<TcpStream>,
    /// The server's name.
    pub(crate) server: String,
    echoed: u32,
}

/// Opens a connection from one of the client's addresses and ends it at once.
pub(crate) fn connect_from(client: &Namespace, source: Ipv4Addr, target: SocketAddrV4) -> anyhow::Result<()> {
    let socket = client.enter(|| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)))??;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    Ok(socket.connect_timeout(&SocketAddr::from(target).into(), SOON)?)
}

impl Session {
    pub(crate) fn open(client: &Namespace, target: impl Into<SocketAddr>) -> anyhow::Result<Self> {
        let target = target.into();
        let stream = client.enter(|| TcpStream::connect_timeout(&target, SOON))??;
        stream.set_read_timeout(Some(SOON))?;
        let mut session = Self { stream: BufReader::new(stream), server: String::new(), echoed: 0 };
        session.server = session.line()?;
        Ok(session)
    }

    /// Opens a number of them.
    pub(crate) fn open_many(
        client: &Namespace,
        target: impl Into<SocketAddr>,
        count: usize,
    ) -> anyhow::Result<Vec<Self>> {
        let target = target.into();
        (0..count).map(|_| Self::open(client, target)).collect()
    }

    /// The client's own port.
    pub(crate) fn local_port(&self) -> anyhow::Result<u16> {
        Ok(self.stream.get_ref().local_addr()?.port())
    }

    /// Sends a line and gets the same back.
    pub(crate) fn echo(&mut self) -> anyhow::Result<()> {
        self.echoed += 1;
        let sent = format!("line {} to {}", self.echoed, self.server);
        writeln!(self.stream.get_mut(), "{sent}")?;
        let received = self.line().with_context(|| format!("a connection to {}", self.server))?;
        ensure!(received == sent, "{received:?} came back for {sent:?}");
        Ok(())
    }

    /// Waits for what comes, without saying anything: how the connection ended.
    pub(crate) fn wait_for_end(mut self) -> ErrorKind {
        let mut rest = String::new();
        self.stream.read_line(&mut rest).map_or_else(|error| error.kind(), |_| ErrorKind::UnexpectedEof)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line)? > 0, "the connection was closed");
        Ok(line.trim_end().to_owned())
    }
}

/// The server that a connection from this port of the client's meets. The connection is reset, so that the port is free.
pub(crate) fn server_met_from(client: &Namespace, port: u16, target: SocketAddrV4) -> anyhow::Result<String> {
    let socket = client.enter(|| Socket::new(Domain::IPV4, Type::STREAM, None))??;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
    socket.connect_timeout(&target.into(), SOON)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_read_timeout(Some(SOON))?;
    let mut name = String::new();
    BufReader::new(socket).read_line(&mut name)?;
    Ok(name.trim_end().to_owned())
}

/// A client's UDP socket, which keeps its port.
pub(crate) struct Exchange(UdpSocket);

impl Exchange {
    pub(crate) fn open(client: &Namespace, target: impl Into<SocketAddr>) -> anyhow::Result<Self> {
        let target = target.into();
        let socket = client.enter(|| UdpSocket::bind(any_port(target.ip())))??;
        socket.connect(target)?;
        socket.set_read_timeout(Some(SOON))?;
        Ok(Self(socket))
    }

    /// Sends a datagram that need not be answered.
    pub(crate) fn tell(&self) -> anyhow::Result<()> {
        // An earlier one may have been answered by ICMP, which is reported now.
        let _ = self.0.send(b"hello").or_else(|_| self.0.send(b"hello"))?;
        Ok(())
    }

    /// Sends a datagram and returns the name of the server that answers.
    pub(crate) fn ask(&self) -> anyhow::Result<String> {
        self.0.send(b"hello")?;
        let mut answer = [0; 256];
        let length = self.0.recv(&mut answer)?;
        let answer = std::str::from_utf8(&answer[..length])?;
        Ok(answer.strip_suffix(" hello").with_context(|| format!("{answer:?}"))?.to_owned())
    }
}

/// Every one of them echoes.
pub(crate) fn echo_all(sessions: &mut [Session]) -> anyhow::Result<()> {
    sessions.iter_mut().try_for_each(Session::echo)
}

/// An HTTP answer.
pub(crate) struct Answer {
    head: String,
    /// The client's own address and port.
    pub(crate) local: SocketAddr,
}

impl Answer {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> anyhow::Result<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
            .with_context(|| format!("no header {name} in {:?}", self.head))
    }
}

/// `GET` of a path on a new connection: all that comes back, whatever it is.
pub(crate) fn ask_http(client: &Namespace, target: SocketAddr, path: &str) -> anyhow::Result<String> {
    let stream = client.enter(|| TcpStream::connect_timeout(&target, SOON))??;
    request(stream, target, path)
}

fn request(mut stream: TcpStream, target: SocketAddr, path: &str) -> anyhow::Result<String> {
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// `GET /` on a new connection from this address and port.
pub(crate) fn get_from(client: &Namespace, source: SocketAddr, target: impl Into<SocketAddr>) -> anyhow::Result<()> {
    let target = target.into();
    let socket = client.enter(|| Socket::new(Domain::for_address(source), Type::STREAM, Some(Protocol::TCP)))??;
    socket.bind(&source.into())?;
    socket.connect_timeout(&target.into(), SOON)?;
    let head = request(socket.into(), target, "/")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(())
}

/// `GET /` on a new connection.
pub(crate) fn get(client: &Namespace, target: impl Into<SocketAddr>) -> anyhow::Result<Answer> {
    let target = target.into();
    let stream = client.enter(|| TcpStream::connect_timeout(&target, SOON))??;
    let local = stream.local_addr()?;
    let head = request(stream, target, "/")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(Answer { head, local })
}

/// The server that answers now.
pub(crate) fn server_of(client: &Namespace, target: impl Into<SocketAddr>) -> anyhow::Result<String> {
    Ok(get(client, target)?.header("x-evenkeel-server")?.to_owned())
}

/// Forgets who has which address.
pub(crate) fn forget_neighbours(client: &Namespace) -> anyhow::Result<()> {
    client.ip(["neigh", "flush", "dev", "eth0"])?;
    Ok(())
}

/// Whether somebody answers for `vip` when a client that does not know who has it asks.
pub(crate) fn is_answered(client: &Namespace, vip: impl Into<IpAddr>) -> anyhow::Result<bool> {
    let vip = vip.into();
    forget_neighbours(client)?;
    let socket = client.enter(|| UdpSocket::bind(any_port(vip)))??;
    // Makes the kernel ask.
    socket.send_to(b"who has this address?", (vip, UDP.port))?;
    eventually(&format!("the client's kernel knows whether {vip} is answered for"), || {
        let entries: Value = serde_json::from_str(&client.ip(["-j", "neigh", "show", "to", &vip.to_string()])?)?;
        Ok(match entries[0]["state"][0].as_str() {
            Some("REACHABLE" | "STALE" | "DELAY" | "PROBE") => Some(true),
            Some("FAILED") => Some(false),
            _ => None,
        })
    })
}

/// What to bind to before sending to an address.
fn any_port(to: IpAddr) -> SocketAddr {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, 0)
}

/// The frames of one protocol that reach a namespace, from when this is made.
pub(crate) struct Capture<Frame> {
    socket: Socket,
    /// `None`: a frame that is not of the protocol.
    read: fn(&[u8]) -> anyhow::Result<Option<Frame>>,
}

impl Capture<ArpFrame> {
    /// Those of ARP.
    pub(crate) fn start(namespace: &Namespace) -> anyhow::Result<Self> {
        Ok(Self { socket: open(namespace, ARP)?, read: |bytes| Ok(Some(ArpFrame::parse(bytes)?)) })
    }
}

impl Capture<NdpFrame> {
    /// Neighbour solicitations and advertisements.
    pub(crate) fn start_ndp(namespace: &Namespace) -> anyhow::Result<Self> {
        let read = |bytes: &[u8]| match NdpFrame::parse(bytes) {
            Ok(frame) => Ok(Some(frame)),
            Err(ParseError::NotIcmpv6(_) | ParseError::Type(_) | ParseError::TooShort(_)) => Ok(None),
            Err(error) => Err(error.into()),
        };
        Ok(Self { socket: open(namespace, IPV6)?, read })
    }
}

/// A socket of one protocol hears what arrives, not what this namespace sends itself.
pub(crate) fn open(namespace: &Namespace, protocol: u16) -> anyhow::Result<Socket> {
    let protocol = Protocol::from(i32::from(protocol.to_be()));
    Ok(namespace.enter(|| Socket::new(Domain::PACKET, Type::RAW, Some(protocol)))??)
}

impl<Frame: Debug> Capture<Frame> {
    /// Waits for a frame.
    pub(crate) fn wait_for(&mut self, what: &str, wanted: impl Fn(&Frame) -> bool) -> anyhow::Result<Frame> {
        let deadline = Instant::now() + SOON;
        let mut others = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.next(left)? {
                Next::Frame(frame) if wanted(&frame) => return Ok(frame),
                Next::Frame(frame) => others.push(frame),
                Next::Other => {}
                Next::Nothing => bail!("no {what} within {SOON:?}, but {others:?}"),
            }
        }
    }

    /// All that has arrived by now.
    pub(crate) fn so_far(&mut self) -> anyhow::Result<Vec<Frame>> {
        let mut frames = Vec::new();
        loop {
            match self.next(Duration::ZERO)? {
                Next::Frame(frame) => frames.push(frame),
                Next::Other => {}
                Next::Nothing => return Ok(frames),
            }
        }
    }

    fn next(&mut self, patience: Duration) -> anyhow::Result<Next<Frame>> {
        self.socket.set_nonblocking(patience.is_zero())?;
        if !patience.is_zero() {
            self.socket.set_read_timeout(Some(patience))?;
        }
        let mut bytes = [0; 2048];
        match self.socket.read(&mut bytes) {
            Ok(length) => Ok((self.read)(&bytes[..length])?.map_or(Next::Other, Next::Frame)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(Next::Nothing),
            Err(error) => Err(error.into()),
        }
    }
}

/// What a capture meets with.
enum Next<Frame> {
    Frame(Frame),
    /// A frame that is not of the protocol.
    Other,
    /// None in time.
    Nothing,
}

/// Sends a frame through the interface with this index.
#[expect(unsafe_code, reason = "a packet socket's address has no safe constructor")]
pub(crate) fn send(socket: &Socket, interface: i32, frame: &[u8]) -> anyhow::Result<()> {
    // SAFETY: `sockaddr_ll` is plain data and smaller than the storage; family and length are set.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = &mut *storage.cast::<libc::sockaddr_ll>();
            address.sll_family = u16::try_from(libc::AF_PACKET).map_err(std::io::Error::other)?;
            address.sll_ifindex = interface;
            *length = u32::try_from(size_of::<libc::sockaddr_ll>()).map_err(std::io::Error::other)?;
            Ok(())
        })?
    };
    socket.send_to(frame, &address)?;
    Ok(())
}

/// The next frame, if one comes before `until`.
pub(crate) fn receive(mut socket: &Socket, until: Instant) -> anyhow::Result<Option<Vec<u8>>> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(None);
    }
    socket.set_read_timeout(Some(left))?;
    let mut bytes = vec![0; 2048];
    match socket.read(&mut bytes) {
        Ok(length) => {
            bytes.truncate(length);
            Ok(Some(bytes))
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
