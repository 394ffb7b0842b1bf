//! What the node's own stack must do for the data path.

use std::{fs, io, net::IpAddr};

use nix::ifaddrs::getifaddrs;

/// The kernel routes replies, and with `stack` forwarding requests too.
const FORWARDING: [&str; 2] = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];

/// Why the host could not be prepared.
#[derive(Debug, thiserror::Error)]
#[error("cannot switch on {path}, without which the kernel does not route replies: {source}")]
pub struct Error {
    path: &'static str,
    source: io::Error,
}

/// Lets the kernel forward packets. Left as it is afterwards, because other services may rely on it by then.
pub(crate) fn enable_forwarding() -> Result<(), Error> {
    for path in FORWARDING {
        let failed = |source| Error { path, source };
        let present = match fs::read_to_string(path) {
            Ok(present) => present,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        if present.trim() != "1" {
            keep_router_advertisements();
            fs::write(path, "1").map_err(failed)?;
            tracing::warn!(path, "switched forwarding on: the kernel routes replies from backends to clients");
        }
    }
    Ok(())
}

/// A host that forwards IPv6 ignores router advertisements, unless told otherwise: what took its routes from them goes on to.
fn keep_router_advertisements() {
    for interface in fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
        let setting = interface.path().join("accept_ra");
        if fs::read_to_string(&setting).is_ok_and(|present| present.trim() == "1") {
            // Worth no failure: it is about interfaces that may not even be up.
            let _ = fs::write(setting, "2");
        }
    }
}

/// The addresses of these interfaces that others can reach: neither loopback nor link-local.
pub(crate) fn addresses(interfaces: &[String]) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for entry in getifaddrs().into_iter().flatten().filter(|entry| interfaces.contains(&entry.interface_name)) {
        let Some(address) = entry.address else { continue };
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let v6 = address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
        let is_link_local = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        addresses.extend(v4.or(v6).filter(|address| !address.is_loopback() && !is_link_local(address)));
    }
    addresses
}
