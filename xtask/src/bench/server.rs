//! The backends: one nginx with one worker each.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::Result;
use evenkeel_lab::{Child, find_program, topology::Backend};

/// The port the backends listen on.
pub(crate) const PORT: u16 = 80;
/// The path of the large response.
pub(crate) const BULK_FILE: &str = "bulk";
/// Its size in bytes.
const BULK_SIZE: usize = 16 << 20;
/// How long a server may take to accept connections.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts nginx in a backend, with its files below `directory`.
pub(crate) fn start(backend: &Backend, directory: &Path) -> Result<Child> {
    let home = directory.join(&backend.name);
    fs::create_dir_all(&home)?;
    fs::write(home.join(BULK_FILE), vec![b'x'; BULK_SIZE])?;
    let config = home.join("nginx.conf");
    fs::write(&config, configuration(&home))?;
    backend.namespace.sysctl("net.core.somaxconn", "65535")?;
    let mut command = Command::new(find_program("nginx", "nginx-light")?);
    command.arg("-p").arg(&home).arg("-c").arg(&config).args(["-e", "stderr"]);
    let server = backend.namespace.spawn(command)?;
    server.wait_until_open(&backend.namespace, SocketAddr::from((backend.address, PORT)), START_TIMEOUT)?;
    Ok(server)
}

/// Starts iperf3's server in a backend.
pub(crate) fn start_bulk(backend: &Backend) -> Result<Child> {
    let mut command = Command::new(find_program("iperf3", "iperf3")?);
    command.args(["-s", "-p", &PORT.to_string(), "--forceflush"]);
    let server = backend.namespace.spawn(command)?;
    server.wait_for_output("that it listens", |line| line.starts_with("Server listening"), START_TIMEOUT)?;
    Ok(server)
}

/// Starts the prober's server in a backend: it echoes.
pub(crate) fn start_echo(backend: &Backend, evenkeel: &Path) -> Result<Child> {
    let mut command = Command::new(evenkeel);
    command.args(["probe", "serve", "--name", &backend.name]);
    command.arg("--tcp").arg(SocketAddr::from((backend.address, PORT)).to_string());
    let server = backend.namespace.spawn(command)?;
    server.wait_for_line("ready", START_TIMEOUT)?;
    Ok(server)
}

/// One process, so that ending it leaves no worker behind.
fn configuration(home: &Path) -> String {
    let home = home.display();
    format!(
        "\
daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 65535;
pid {home}/nginx.pid;
error_log stderr;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{
        listen {PORT} backlog=65535;
        root {home};
        location = / {{ return 200 \"ok\\n\"; }}
    }}
}}
"
    )
}

/// The address of a backend's server, as rules and configurations write it.
pub(crate) fn endpoint(address: Ipv4Addr) -> String {
    format!("{address}:{PORT}")
}
