//! haproxy in TCP mode: a failed connection is tried again, at another server.

use std::fmt::Write as _;

use anyhow::Result;
use evenkeel_lab::find_program;
use rustix::process::Signal;

use super::{Endpoint, proxy::Proxy, ready, tcp_ports};
use crate::site::{Site, VIP};

pub(super) fn new(site: &Site) -> Result<Proxy> {
    let program = find_program("haproxy", "haproxy")?;
    let file = site.directory.path().join("haproxy.cfg");
    let arguments = vec!["-W".into(), "-f".into(), file.clone().into()];
    Proxy::new(site, program, arguments, file, Signal::USR2, configuration)
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
