//! haproxy in TCP mode: a failed connection is tried again, at another server.

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use evenkeel_lab::{Child, Namespace, find_program, manifests::Protocol};
use rustix::process::Signal;

use super::{Endpoint, Subject, own_vip, ready, tcp_ports, wait_until_open, with_many_files};
use crate::site::{Site, VIP};

pub(super) struct Haproxy {
    node: Namespace,
    client: Namespace,
    program: PathBuf,
    file: PathBuf,
    master: Option<Child>,
}

impl Haproxy {
    pub(super) fn new(site: &Site) -> Result<Self> {
        own_vip(site)?;
        Ok(Self {
            node: site.lab.node.clone(),
            client: site.lab.client.clone(),
            program: find_program("haproxy", "haproxy")?,
            file: site.directory.path().join("haproxy.cfg"),
            master: None,
        })
    }
}

impl Subject for Haproxy {
    fn carries(&self, protocol: Protocol) -> bool {
        protocol == Protocol::Tcp
    }

    fn set_endpoints(&mut self, endpoints: &[Endpoint]) -> Result<()> {
        fs::write(&self.file, configuration(endpoints)?)?;
        if self.master.is_some() { self.upgrade() } else { Ok(()) }
    }

    fn start(&mut self) -> Result<()> {
        let mut command = with_many_files(&self.program);
        command.arg("-W").arg("-f").arg(&self.file);
        let master = self.node.spawn(command)?;
        wait_until_open(&self.client, &master)?;
        self.master = Some(master);
        Ok(())
    }

    fn crash(&mut self) -> Result<()> {
        // The workers are of the master's process group.
        self.master.take().context("it does not run")?.kill();
        Ok(())
    }

    /// New workers take the listeners over; the old ones end with their connections.
    fn upgrade(&mut self) -> Result<()> {
        Ok(self.master.as_ref().context("it does not run")?.signal(Signal::USR2)?)
    }
}

fn configuration(endpoints: &[Endpoint]) -> Result<String> {
    let mut configuration = "\
global
    maxconn 4000
defaults
    mode tcp
    balance roundrobin
    retries 3
    option redispatch 1
    timeout connect 1s
    timeout client 60s
    timeout server 60s
"
    .to_owned();
    for port in tcp_ports() {
        writeln!(configuration, "listen {}\n    bind {VIP}:{}", port.name, port.port)?;
        for backend in ready(endpoints) {
            writeln!(configuration, "    server {} {}:{}", backend.name, backend.address, port.target_port)?;
        }
    }
    Ok(configuration)
}
