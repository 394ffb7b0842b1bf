//! A client that knows what it got from whom: single requests, long-lived connections, and the ARP frames it hears.

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use evenkeel_lab::Namespace;
use evenkeel_neighbor::ArpFrame;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::world::{SOON, UDP, eventually};

/// `ETH_P_ARP` of linux/if_ether.h.
const ARP: u16 = 0x0806;

/// A TCP connection to a server that says its name and then echoes.
pub(crate) struct Session {
    stream: BufReader<TcpStream>,
    /// The server's name.
    pub(crate) server: String,
    echoed: u32,
}

impl Session {
    pub(crate) fn open(client: &Namespace, target: SocketAddrV4) -> anyhow::Result<Self> {
        let stream = client.enter(|| TcpStream::connect_timeout(&SocketAddr::V4(target), SOON))??;
        stream.set_read_timeout(Some(SOON))?;
        let mut session = Self { stream: BufReader::new(stream), server: String::new(), echoed: 0 };
        session.server = session.line()?;
        Ok(session)
    }

    /// Opens a number of them.
    pub(crate) fn open_many(client: &Namespace, target: SocketAddrV4, count: usize) -> anyhow::Result<Vec<Self>> {
        (0..count).map(|_| Self::open(client, target)).collect()
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
    pub(crate) fn open(client: &Namespace, target: SocketAddrV4) -> anyhow::Result<Self> {
        let socket = client.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        socket.connect(target)?;
        socket.set_read_timeout(Some(SOON))?;
        Ok(Self(socket))
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

/// `GET /` on a new connection.
pub(crate) fn get(client: &Namespace, target: SocketAddrV4) -> anyhow::Result<Answer> {
    let mut stream = client.enter(|| TcpStream::connect_timeout(&SocketAddr::V4(target), SOON))??;
    stream.set_read_timeout(Some(SOON))?;
    let local = stream.local_addr()?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")?;
    let mut head = String::new();
    stream.read_to_string(&mut head)?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(Answer { head, local })
}

/// The server that answers now.
pub(crate) fn server_of(client: &Namespace, target: SocketAddrV4) -> anyhow::Result<String> {
    Ok(get(client, target)?.header("x-evenkeel-server")?.to_owned())
}

/// Forgets who has which address.
pub(crate) fn forget_neighbours(client: &Namespace) -> anyhow::Result<()> {
    client.ip(["neigh", "flush", "dev", "eth0"])?;
    Ok(())
}

/// Whether somebody answers for `vip` when a client that does not know who has it asks.
pub(crate) fn is_answered(client: &Namespace, vip: Ipv4Addr) -> anyhow::Result<bool> {
    forget_neighbours(client)?;
    let socket = client.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
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

/// The ARP frames that reach a namespace, from when this is made.
pub(crate) struct Capture(Socket);

impl Capture {
    pub(crate) fn start(namespace: &Namespace) -> anyhow::Result<Self> {
        // A socket of one protocol hears what arrives, not what this namespace sends itself.
        let protocol = Protocol::from(i32::from(ARP.to_be()));
        let socket = namespace.enter(|| Socket::new(Domain::PACKET, Type::RAW, Some(protocol)))??;
        Ok(Self(socket))
    }

    /// Waits for a frame.
    pub(crate) fn wait_for(&mut self, what: &str, wanted: impl Fn(&ArpFrame) -> bool) -> anyhow::Result<ArpFrame> {
        let deadline = Instant::now() + SOON;
        let mut others = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.next(left)? {
                Some(frame) if wanted(&frame) => return Ok(frame),
                Some(frame) => others.push(frame),
                None => bail!("no {what} within {SOON:?}, but {others:?}"),
            }
        }
    }

    /// All that has arrived by now.
    pub(crate) fn so_far(&mut self) -> anyhow::Result<Vec<ArpFrame>> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next(Duration::ZERO)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    fn next(&mut self, patience: Duration) -> anyhow::Result<Option<ArpFrame>> {
        if patience.is_zero() {
            self.0.set_nonblocking(true)?;
        } else {
            self.0.set_nonblocking(false)?;
            self.0.set_read_timeout(Some(patience))?;
        }
        let mut bytes = [0; 2048];
        match self.0.read(&mut bytes) {
            Ok(length) => Ok(Some(ArpFrame::parse(&bytes[..length])?)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
