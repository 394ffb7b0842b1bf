//! `evenkeel probe serve`: the server the prober is pointed at.

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use evenkeel_probe::{ServeConfig, Server, ServerName};
use evenkeel_process::{logging, shutdown};

/// Serve what the prober asks for, under a name it reports, and stop on SIGTERM without losing a request.
///
/// Prints `ready` on stdout once every socket is bound.
#[derive(clap::Args)]
#[command(
    group = clap::ArgGroup::new("sockets").args(["tcp", "tls", "http", "udp", "dns"]).required(true).multiple(true)
)]
pub(super) struct Args {
    /// Write the name as a line to every connection, then echo: for tcp, tcp-banner, tcp-echo and tcp-long.
    #[arg(long, value_name = "ADDRESS:PORT")]
    tcp: Vec<SocketAddr>,
    /// The same within TLS, with a certificate made for the occasion; probe it with --insecure.
    #[arg(long, value_name = "ADDRESS:PORT")]
    tls: Vec<SocketAddr>,
    /// Answer HTTP/1.1 GET, and HTTP/2 with prior knowledge. `/bytes/N` answers with N bytes, `/delay/MS` after MS
    /// milliseconds.
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Vec<SocketAddr>,
    /// Answer datagrams with the name, a space and the datagram.
    #[arg(long, value_name = "ADDRESS:PORT")]
    udp: Vec<SocketAddr>,
    /// Answer DNS over UDP and TCP: A and AAAA with an address for documentation, TXT with the name.
    #[arg(long, value_name = "ADDRESS:PORT")]
    dns: Vec<SocketAddr>,
    /// How the server calls itself [default: the host name]
    #[arg(long)]
    name: Option<ServerName>,
    /// How long to wait, after SIGTERM, for requests in flight and connections in use.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// On SIGTERM, close the listeners at once, as most programs do: the kernel resets the connections whose handshake
    /// is complete but which have not been accepted.
    #[arg(long)]
    no_drain: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    logging::init("info")?;
    crate::command::raise_descriptor_limit();
    let name = match &args.name {
        Some(name) => name.clone(),
        None => rustix::system::uname().nodename().to_string_lossy().parse().context("host name; give --name")?,
    };
    let stop = shutdown::on_signal().context("signal handlers")?;
    let config = ServeConfig {
        tcp: args.tcp.clone(),
        tls: args.tls.clone(),
        http: args.http.clone(),
        udp: args.udp.clone(),
        dns: args.dns.clone(),
        grace: args.grace,
        drain: !args.no_drain,
        ..ServeConfig::new(name)
    };
    super::runtime()?.block_on(async {
        let server = Server::bind(config)?;
        for (scheme, addresses) in [
            ("tcp", server.tcp_addresses()?),
            ("tls", server.tls_addresses()?),
            ("http", server.http_addresses()?),
            ("udp", server.udp_addresses()?),
            ("dns", server.dns_addresses()?),
        ] {
            for address in addresses {
                eprintln!("serving {scheme}://{address}");
            }
        }
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "ready")?;
        stdout.flush()?;
        drop(stdout);
        let summary = server.run(stop).await;
        if summary.cut > 0 {
            eprintln!("{} connections were still open after the grace time and were cut", summary.cut);
        }
        Ok(ExitCode::SUCCESS)
    })
}
