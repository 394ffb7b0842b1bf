//! What the proxies have in common: a master process that is told by a signal to read its configuration again.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use evenkeel_lab::{Child, Namespace, manifests::Protocol};
use rustix::process::Signal;

use super::{Endpoint, START_TIMEOUT, Subject, own_vip};
use crate::site::{Site, TCP, VIP};

/// Writes what a proxy reads.
type Configuration = dyn Fn(&[Endpoint]) -> Result<String>;

/// A proxy for TCP.
pub(super) struct Proxy {
    node: Namespace,
    client: Namespace,
    program: PathBuf,
    arguments: Vec<OsString>,
    file: PathBuf,
    configuration: Box<Configuration>,
    /// Has new workers take the listeners over; the old ones end with their connections.
    reload: Signal,
    master: Option<Child>,
}

impl Proxy {
    /// A proxy that reads `file`, written by `configuration`.
    pub(super) fn new(
        site: &Site,
        program: PathBuf,
        arguments: Vec<OsString>,
        file: PathBuf,
        reload: Signal,
        configuration: impl Fn(&[Endpoint]) -> Result<String> + 'static,
    ) -> Result<Self> {
        own_vip(site)?;
        let (node, client) = (site.lab.node.clone(), site.lab.client.clone());
        let configuration = Box::new(configuration);
        Ok(Self { node, client, program, arguments, file, configuration, reload, master: None })
    }
}

impl Subject for Proxy {
    fn carries(&self, protocol: Protocol) -> bool {
        protocol == Protocol::Tcp
    }

    fn set_endpoints(&mut self, endpoints: &[Endpoint]) -> Result<()> {
        fs::write(&self.file, (self.configuration)(endpoints)?)?;
        if self.master.is_some() { self.upgrade() } else { Ok(()) }
    }

    fn start(&mut self) -> Result<()> {
        let mut command = with_many_files(&self.program);
        command.args(&self.arguments);
        let master = self.node.spawn(command)?;
        master.wait_until_open(&self.client, SocketAddr::from((VIP, TCP.port)), START_TIMEOUT)?;
        self.master = Some(master);
        Ok(())
    }

    fn crash(&mut self) -> Result<()> {
        // The workers are of the master's process group.
        self.master.take().context("it does not run")?.kill();
        Ok(())
    }

    fn upgrade(&mut self) -> Result<()> {
        Ok(self.master.as_ref().context("it does not run")?.signal(self.reload)?)
    }
}

/// A command that may open more files than the usual 1,024: a proxy has two for each connection.
fn with_many_files(program: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -n 16384 && exec \"$0\" \"$@\""]).arg(program);
    command
}
