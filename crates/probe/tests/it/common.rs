//! Helpers shared by the tests: one-lane runs and servers that misbehave on purpose.

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use evenkeel_probe::{Config, Lane, Prober, Report, ServeConfig, Server};
use tokio_util::sync::CancellationToken;

/// A run of 200 requests per second on one lane for `ms` milliseconds.
pub(crate) fn config(target: &str, ms: u64) -> Config {
    let lane = Lane::new(&target.parse().unwrap(), NonZeroU32::new(200).unwrap()).unwrap();
    Config {
        // The machine that runs the tests may be busy; only the test of the lag itself judges it.
        max_lag: Duration::from_secs(60),
        timeout: Duration::from_secs(20),
        ..Config::new(vec![lane], Duration::from_millis(ms))
    }
}

pub(crate) async fn run(config: Config) -> Report {
    Prober::new(config).unwrap().run(CancellationToken::new()).await
}

/// A server on loopback with one socket of each kind, named `alpha`.
pub(crate) struct Target {
    pub(crate) server: Server,
    pub(crate) tcp: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) udp: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) dns: SocketAddr,
}

pub(crate) fn bind(loopback: &str, grace: Duration) -> Target {
    let any = vec![format!("{loopback}:0").parse().unwrap()];
    let server = Server::bind(ServeConfig {
        tcp: any.clone(),
        tls: any.clone(),
        http: any.clone(),
        udp: any.clone(),
        dns: any,
        grace,
        ..ServeConfig::new("alpha".parse().unwrap())
    })
    .unwrap();
    Target {
        tcp: server.tcp_addresses().unwrap()[0],
        http: server.http_addresses().unwrap()[0],
        udp: server.udp_addresses().unwrap()[0],
        tls: server.tls_addresses().unwrap()[0],
        dns: server.dns_addresses().unwrap()[0],
        server,
    }
}
