//! The lab most scenarios use.
//!
//! ```text
//!  client                switch         node                                      backend-1
//!  eth0 10.77.0.10 ---- [ bridge ] ---- up0 10.77.0.2 | pods 10.77.1.1       ---- eth0 10.77.1.11
//!       fd77::10       (layer two)          fd77::2   |      fd77:0:0:1::1        fd77:0:0:1::b
//!                                       (router)        (bridge)             ---- backend-2 ...
//! ```
//! The client's networks have no route to the backends' networks: everything goes through a VIP of [`VIP_POOL`] or
//! [`VIP_POOL6`], on the client's own subnets, that the node answers for by ARP and Neighbour Discovery. On a kernel
//! without IPv6 all is as above but for the addresses of IPv6.
//!
//! [`Wiring`] varies what the uplink is, and puts a hop between client and switch that lets only smaller packets through.

mod wiring;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{Error, Lab, Namespace, Sandbox};

pub use wiring::{Uplink, Wiring};

/// The client's address, if no hop lies between it and the node.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
/// Likewise.
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x10);
/// The node's address on the uplink.
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Likewise.
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
/// First and last of the addresses set aside for services.
pub const VIP_POOL: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 77, 0, 100), Ipv4Addr::new(10, 77, 0, 110));
/// Likewise.
pub const VIP_POOL6: (Ipv6Addr, Ipv6Addr) =
    (Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x110));
/// The node's address on the backends' bridge, and their default gateway.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
/// Likewise.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 1, 0, 0, 0, 1);
/// The backends' network.
pub const PODS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 77, 1, 0), 24);
/// Likewise.
pub const PODS6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd77, 0, 0, 1, 0, 0, 0, 0), 64);
/// The node's interface towards the clients.
pub const UPLINK: &str = "up0";
/// The node's bridge towards the backends.
pub const POD_BRIDGE: &str = "pods";
/// The node's name, as manifests and `--node` give it.
pub const NODE_NAME: &str = "node";

/// All networks of IPv4 are /24, all of IPv6 /64.
const PREFIX_LENGTH: u8 = 24;
const PREFIX_LENGTH6: u8 = 64;
/// Number of the first backend's address less one.
const FIRST_BACKEND: u8 = 10;

/// Client, switch and node, and backends that come and go.
#[derive(Debug)]
pub struct Standard {
    /// Where traffic comes from; interface `eth0`.
    pub client: Namespace,
    /// The layer-two switch between client and node; bridge `br0`, ports `client` and `node`.
    pub switch: Namespace,
    /// Where the load balancer runs; interfaces [`UPLINK`] and [`POD_BRIDGE`].
    pub node: Namespace,
    lab: Lab,
    backends: Vec<Backend>,
    /// Backends made so far: numbers, and with them names and addresses, are not used again.
    numbered: u8,
}

/// A backend's place in the lab, for a server to run in.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Such as `backend-1`; never used again in the same lab.
    pub name: String,
    /// Its address, likewise.
    pub address: Ipv4Addr,
    /// Its address of IPv6, likewise.
    pub address6: Ipv6Addr,
    /// Where its server runs; interface `eth0`.
    pub namespace: Namespace,
    /// Its port on the node's bridge, such as `pod1`.
    pub port: String,
}

impl Backend {
    /// Its addresses of both families.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.address.into(), self.address6.into()]
    }
}

impl Standard {
    /// Builds client, switch and node, as yet without backends.
    ///
    /// # Errors
    /// What the configuration of the namespaces met with.
    pub fn build(sandbox: &Sandbox) -> Result<Self, Error> {
        Self::wired(sandbox, Wiring::default())
    }

    /// Builds client, switch and node, wired in another way.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the kernel lacks such an uplink, or what the configuration of the namespaces met with.
    pub fn wired(sandbox: &Sandbox, wiring: Wiring) -> Result<Self, Error> {
        let mut lab = Lab::new(sandbox);
        let client = lab.namespace("client")?;
        let switch = lab.namespace("switch")?;
        let node = lab.namespace(NODE_NAME)?;

        let port = wiring.uplink.connect(&lab, &node, &switch)?;
        addresses(&node, UPLINK, NODE, NODE6)?;
        match wiring.hop_mtu {
            None => {
                lab.veth((&client, "eth0"), (&switch, "client"))?;
                addresses(&client, "eth0", CLIENT, CLIENT6)?;
            }
            Some(mtu) => wiring::hop(&mut lab, &client, &switch, &node, mtu)?,
        }
        switch.bridge("br0", &["client", &port])?;

        node.bridge(POD_BRIDGE, &[])?;
        addresses(&node, POD_BRIDGE, GATEWAY, GATEWAY6)?;
        forwards(&node)?;
        // The stricter of `all` and the interface's own counts; interfaces to come take `default`.
        for scope in ["all", "default", UPLINK, POD_BRIDGE] {
            node.sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "0")?;
        }
        Ok(Self { client, switch, node, lab, backends: Vec::new(), numbered: 0 })
    }

    /// Builds the lab with a number of backends.
    ///
    /// # Errors
    /// What the configuration of the namespaces met with.
    pub fn with_backends(sandbox: &Sandbox, count: usize) -> Result<Self, Error> {
        let mut standard = Self::build(sandbox)?;
        for _ in 0..count {
            standard.add_backend()?;
        }
        Ok(standard)
    }

    /// The lab behind it, for further namespaces and wires.
    pub fn lab(&mut self) -> &mut Lab {
        &mut self.lab
    }

    /// The backends that exist.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// Adds a backend with a name and addresses that were not used before.
    ///
    /// # Errors
    /// [`Error::AddressesExhausted`] after 244 of them, or what the configuration met with.
    pub fn add_backend(&mut self) -> Result<Backend, Error> {
        let number = self.numbered.checked_add(1).ok_or(Error::AddressesExhausted)?;
        let (address, address6) = backend_addresses(number).ok_or(Error::AddressesExhausted)?;
        self.numbered = number;
        let name = format!("backend-{number}");
        let port = format!("pod{number}");
        let namespace = self.lab.namespace(&name)?;
        self.lab.veth((&namespace, "eth0"), (&self.node, &port))?;
        self.node.bridge_port(POD_BRIDGE, &port)?;
        addresses(&namespace, "eth0", address, address6)?;
        default_routes(&namespace, GATEWAY, GATEWAY6)?;
        let backend = Backend { name, address, address6, namespace, port };
        self.backends.push(backend.clone());
        Ok(backend)
    }

    /// Removes a backend's namespace and its port on the bridge. Its server is the caller's to end first.
    ///
    /// # Errors
    /// [`Error::UnknownBackend`], or what `ip` answered.
    pub fn remove_backend(&mut self, name: &str) -> Result<(), Error> {
        let index = self
            .backends
            .iter()
            .position(|backend| backend.name == name)
            .ok_or_else(|| Error::UnknownBackend { name: name.to_owned() })?;
        let backend = self.backends.remove(index);
        // The namespace lives on while someone holds it open; the wire goes now in any case.
        self.node.ip(["link", "delete", &backend.port])?;
        self.lab.remove_namespace(&backend.namespace)
    }

    /// Switches an offload of every host's interfaces, as `ethtool -K` does: those of the client, of the node towards the
    /// client, and of the backends that exist. Without `tx` whoever sends computes whole checksums, without `gso` and
    /// `tso` it sends no more than a frame at a time.
    ///
    /// # Errors
    /// What `ethtool` answered.
    pub fn offload(&self, feature: &str, on: bool) -> Result<(), Error> {
        self.client.offload("eth0", feature, on)?;
        self.node.offload(UPLINK, feature, on)?;
        for backend in &self.backends {
            backend.namespace.offload("eth0", feature, on)?;
            self.node.offload(&backend.port, feature, on)?;
        }
        Ok(())
    }
}

/// Gives an interface an address of each family the kernel has.
fn addresses(namespace: &Namespace, interface: &str, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Result<(), Error> {
    namespace.address(interface, network(ipv4))?;
    if namespace.has_ipv6() {
        namespace.address(interface, network6(ipv6))?;
    }
    Ok(())
}

/// Makes a namespace a router.
fn forwards(namespace: &Namespace) -> Result<(), Error> {
    namespace.sysctl("net.ipv4.ip_forward", "1")?;
    if namespace.has_ipv6() {
        namespace.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    }
    Ok(())
}

/// Routes everything through these gateways.
fn default_routes(namespace: &Namespace, gateway: Ipv4Addr, gateway6: Ipv6Addr) -> Result<(), Error> {
    routes(namespace, (Ipv4Net::default(), gateway), (Ipv6Net::default(), gateway6))
}

/// Routes a destination of each family through a gateway.
fn routes(namespace: &Namespace, ipv4: (Ipv4Net, Ipv4Addr), ipv6: (Ipv6Net, Ipv6Addr)) -> Result<(), Error> {
    namespace.route(ipv4.0.into(), ipv4.1.into())?;
    if namespace.has_ipv6() {
        namespace.route(ipv6.0.into(), ipv6.1.into())?;
    }
    Ok(())
}

fn backend_addresses(number: u8) -> Option<(Ipv4Addr, Ipv6Addr)> {
    let last = FIRST_BACKEND.checked_add(number).filter(|last| *last < u8::MAX)?;
    let [a, b, c, _] = PODS.addr().octets();
    let mut segments = PODS6.addr().segments();
    segments[7] = last.into();
    Some((Ipv4Addr::new(a, b, c, last), segments.into()))
}

fn network(address: Ipv4Addr) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(address, PREFIX_LENGTH))
}

fn network6(address: Ipv6Addr) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, PREFIX_LENGTH6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_have_addresses_of_their_networks_until_those_are_full() {
        let first = (Ipv4Addr::new(10, 77, 1, 11), "fd77:0:0:1::b".parse().unwrap());
        assert_eq!(backend_addresses(1), Some(first));
        assert!(PODS.contains(&first.0) && PODS6.contains(&first.1));
        let last = (Ipv4Addr::new(10, 77, 1, 254), "fd77:0:0:1::fe".parse().unwrap());
        assert_eq!(backend_addresses(244), Some(last));
        assert_eq!(backend_addresses(245), None);
        assert_eq!(backend_addresses(255), None);
    }

    #[test]
    fn pool_and_hosts_share_the_clients_subnet_without_overlap() {
        let IpNet::V4(uplink) = network(NODE) else { panic!("IPv4") };
        let (first, last) = VIP_POOL;
        for address in [CLIENT, first, last] {
            assert!(uplink.contains(&address), "{address}");
        }
        assert!(!(first..=last).contains(&CLIENT) && !(first..=last).contains(&NODE));
        assert!(!uplink.contains(&GATEWAY) && PODS.contains(&GATEWAY));

        let IpNet::V6(uplink) = network6(NODE6) else { panic!("IPv6") };
        let (first, last) = VIP_POOL6;
        for address in [CLIENT6, first, last] {
            assert!(uplink.contains(&address), "{address}");
        }
        assert!(!(first..=last).contains(&CLIENT6) && !(first..=last).contains(&NODE6));
        assert!(!uplink.contains(&GATEWAY6) && PODS6.contains(&GATEWAY6));
    }
}
