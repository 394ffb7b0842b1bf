//! nginx's stream module: a connection that cannot be made is tried at the next server.

use std::{fmt::Write as _, path::Path};

use anyhow::{Result, ensure};
use evenkeel_lab::find_program;
use rustix::process::Signal;

use super::{Endpoint, proxy::Proxy, ready, tcp_ports};
use crate::site::{Site, VIP};

/// Where Debian and Ubuntu install the module.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

pub(super) fn new(site: &Site) -> Result<Proxy> {
    ensure!(Path::new(MODULE).exists(), "{MODULE} is missing: install libnginx-mod-stream");
    let program = find_program("nginx", "nginx-light")?;
    let home = site.directory.path().to_owned();
    let file = home.join("nginx.conf");
    let arguments = ["-p".into(), home.clone().into(), "-c".into(), file.clone().into(), "-e".into(), "stderr".into()];
    Proxy::new(site, program, arguments.into(), file, Signal::HUP, move |endpoints| configuration(&home, endpoints))
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
