//! The packets of one rescued handshake, for the documentation.

use std::{
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use evenkeel_lab::{Child, Namespace, Sandbox, find_program};
use rustix::process::Signal;

use crate::{
    case::Servers,
    site::{Site, TCP, VIP},
    subject::{Endpoint, Forwarding, Kind},
};

const SOON: Duration = Duration::from_secs(10);

/// Opens connections, while one of two backends refuses them, until one was rescued; returns what tcpdump saw of that one
/// at the client and towards the backends.
///
/// # Errors
/// What the lab met with, or that none was rescued.
pub fn capture(program: &Path, sandbox: &Sandbox) -> Result<String> {
    let site = Site::build(sandbox, program, 2, Servers::Drain)?;
    let endpoints: Vec<Endpoint> = site.servers.iter().map(|server| Endpoint::ready(&server.backend)).collect();
    let mut subject = Kind::Evenkeel { forwarding: Forwarding::Direct, rescue: true }.make(&site, program)?;
    subject.set_endpoints(&endpoints)?;
    subject.start()?;
    let refusing = &site.servers[0].process;
    refusing.signal(Signal::KILL)?;
    refusing.wait(SOON)?;
    for port in 40_000..40_100_u16 {
        let rescued = || -> Result<u64> {
            Ok(subject.counters()?.and_then(|counters| counters.get("rescued_syn").copied()).unwrap_or_default())
        };
        let before = rescued()?;
        let client = dump(&site.lab.client, "eth0", port)?;
        let pods = dump(&site.lab.node, "pods", port)?;
        converse(&site.lab.client, port)?;
        if rescued()? > before {
            return Ok(format!("At the client:\n{}\n\nTowards the backends:\n{}", text(&client)?, text(&pods)?));
        }
    }
    anyhow::bail!("none of 100 connections was rescued")
}

fn dump(namespace: &Namespace, interface: &str, port: u16) -> Result<Child> {
    let mut command = Command::new(find_program("tcpdump", "tcpdump")?);
    command.args(["-l", "--immediate-mode", "-n", "-ttt", "-S", "-i", interface]).arg(format!("tcp port {port}"));
    let dump = namespace.spawn(command)?;
    dump.wait_for_log("listening", |line| line.contains("listening on"), SOON)?;
    Ok(dump)
}

/// Connects from a port, reads the server's name and closes.
fn converse(client: &Namespace, port: u16) -> Result<()> {
    client.enter(|| {
        let socket = connect_from(port)?;
        let mut line = String::new();
        BufReader::new(&socket).read_line(&mut line)?;
        ensure!(!line.is_empty(), "the server did not name itself");
        Ok(())
    })?
}

fn connect_from(port: u16) -> Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::from(([0, 0, 0, 0], port)))?;
    connect(&socket, &SocketAddr::from((VIP, TCP.port)))?;
    Ok(TcpStream::from(socket))
}

/// What it has written, once the connection's end is in it.
fn text(dump: &Child) -> Result<String> {
    let deadline = Instant::now() + SOON;
    while dump.stdout().iter().filter(|line| line.contains("Flags [F.]")).count() < 2 {
        ensure!(Instant::now() < deadline, "tcpdump did not see the connection's end: {}", dump.stdout().join("\n"));
        thread::sleep(Duration::from_millis(20));
    }
    dump.terminate(SOON).context("ending tcpdump")?;
    Ok(dump.stdout().join("\n"))
}
