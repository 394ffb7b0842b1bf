//! nginx's stream module: a connection that cannot be made is tried at the next server.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use evenkeel_lab::{Child, Namespace, find_program, manifests::Protocol};
use rustix::process::Signal;

use super::{Endpoint, Subject, own_vip, ready, tcp_ports, wait_until_open, with_many_files};
use crate::site::{Site, VIP};

/// Where Debian and Ubuntu install the module.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

pub(super) struct Nginx {
    node: Namespace,
    client: Namespace,
    program: PathBuf,
    home: PathBuf,
    file: PathBuf,
    master: Option<Child>,
}

impl Nginx {
    pub(super) fn new(site: &Site) -> Result<Self> {
        own_vip(site)?;
        ensure!(Path::new(MODULE).exists(), "{MODULE} is missing: install libnginx-mod-stream");
        let home = site.directory.path().to_owned();
        Ok(Self {
            node: site.lab.node.clone(),
            client: site.lab.client.clone(),
            program: find_program("nginx", "nginx-light")?,
            file: home.join("nginx.conf"),
            home,
            master: None,
        })
    }
}

impl Subject for Nginx {
    fn carries(&self, protocol: Protocol) -> bool {
        protocol == Protocol::Tcp
    }

    fn set_endpoints(&mut self, endpoints: &[Endpoint]) -> Result<()> {
        fs::write(&self.file, configuration(&self.home, endpoints)?)?;
        if self.master.is_some() { self.upgrade() } else { Ok(()) }
    }

    fn start(&mut self) -> Result<()> {
        let mut command = with_many_files(&self.program);
        command.arg("-p").arg(&self.home).arg("-c").arg(&self.file).args(["-e", "stderr"]);
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
        Ok(self.master.as_ref().context("it does not run")?.signal(Signal::HUP)?)
    }
}

fn configuration(home: &Path, endpoints: &[Endpoint]) -> Result<String> {
    let home = home.display();
    let mut configuration = format!(
        "\
load_module {MODULE};
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {home}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 8000; }}
stream {{
    proxy_connect_timeout 1s;
    proxy_next_upstream on;
"
    );
    for port in tcp_ports() {
        writeln!(configuration, "    upstream {} {{", port.name)?;
        for backend in ready(endpoints) {
            writeln!(configuration, "        server {}:{};", backend.address, port.target_port)?;
        }
        let (name, port) = (port.name, port.port);
        writeln!(configuration, "    }}\n    server {{ listen {VIP}:{port}; proxy_pass {name}; }}")?;
    }
    configuration.push_str("}\n");
    Ok(configuration)
}
