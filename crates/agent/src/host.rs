//! What the node's own stack must do for the data path.

use std::{fmt, fs, io, net::IpAddr};

use nix::ifaddrs::getifaddrs;

/// What lets the kernel route replies, and with `stack` forwarding requests too.
const FORWARDING: [Setting; 2] = [
    Setting { family: "IPv4", key: "net.ipv4.ip_forward", path: "/proc/sys/net/ipv4/ip_forward" },
    Setting { family: "IPv6", key: "net.ipv6.conf.all.forwarding", path: "/proc/sys/net/ipv6/conf/all/forwarding" },
];

/// A kernel parameter.
#[derive(Debug, Clone, Copy)]
struct Setting {
    family: &'static str,
    key: &'static str,
    path: &'static str,
}

/// A parameter that could not be set: in a container `/proc/sys` is read-only as a rule.
#[derive(Debug)]
pub(crate) struct NotSet {
    setting: Setting,
    source: io::Error,
}

impl fmt::Display for NotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting: Setting { family, key, .. }, source } = self;
        write!(
            f,
            "[forwarding_off] the kernel does not route {family} packets from backends to clients, and {key} cannot be set \
             from here ({source}): run `sysctl -w {key}=1` on the host if services use {family}"
        )
    }
}

/// Lets the kernel forward packets. Left as it is afterwards, because other services may rely on it by then. Returns what could
/// not be done: services of the other family do without, and so may all with `direct` forwarding.
pub(crate) fn enable_forwarding() -> Vec<NotSet> {
    FORWARDING
        .into_iter()
        .filter_map(|setting| enable(setting).err().map(|source| NotSet { setting, source }))
        .collect()
}

fn enable(setting: Setting) -> io::Result<()> {
    let present = match fs::read_to_string(setting.path) {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        present => present?,
    };
    if present.trim() != "1" {
        keep_router_advertisements();
        fs::write(setting.path, "1")?;
        tracing::warn!(setting.key, "switched forwarding on: the kernel routes replies from backends to clients");
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

/// The interface of the default route, that of IPv4 first.
#[must_use]
pub fn default_route_interface() -> Option<String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    default_route(&read("/proc/net/route"), &read("/proc/net/ipv6_route"))
}

/// The same, of the tables as the kernel prints them (`net/ipv4/fib_trie.c`, `net/ipv6/route.c`): the route to everything that
/// has the lowest metric.
fn default_route(ipv4: &str, ipv6: &str) -> Option<String> {
    let v4 = ipv4.lines().skip(1).filter_map(|line| {
        let [name, "00000000", _, _, _, _, metric, "00000000", ..] = line.split_whitespace().collect::<Vec<_>>()[..]
        else {
            return None;
        };
        Some((metric.parse::<u32>().ok()?, name))
    });
    let v6 = ipv6.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [destination, "00", _, _, _, metric, .., name] = words[..] else { return None };
        let is_default = destination.bytes().all(|digit| digit == b'0') && name != "lo";
        is_default.then_some((u32::from_str_radix(metric, 16).ok()?, name))
    });
    v4.min().or_else(|| v6.min()).map(|(_, name)| name.to_owned())
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
    // Whatever order the kernel lists them in.
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use super::default_route;

    const V4: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth1\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
";
    const V6: &str = "\
fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth1
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth2
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

    #[test]
    fn the_default_route_of_ipv4_comes_first_and_the_lowest_metric_wins() {
        assert_eq!(default_route(V4, V6).as_deref(), Some("eth0"));
        assert_eq!(default_route("", V6).as_deref(), Some("eth2"));
        assert_eq!(default_route("Iface\nbroken", "00"), None);
    }
}
