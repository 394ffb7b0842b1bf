//! The lab most scenarios use.
//!
//! ```text
//!  client              switch             node                                backend-1
//!  eth0 10.77.0.10 --- [ bridge ] --- up0 10.77.0.2 | pods 10.77.1.1 --- eth0 10.77.1.11
//!                     (layer two)         (router)       (bridge)    --- eth0 10.77.1.12  backend-2 ...
//! ```
//! The client's network has no route to the backends' network: everything goes through a VIP of [`VIP_POOL`], on the
//! client's own subnet, that the node answers for by ARP.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::{Error, Lab, Namespace, Sandbox};

/// The client's address.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
/// The node's address on the uplink.
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// First and last of the addresses set aside for services.
pub const VIP_POOL: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 77, 0, 100), Ipv4Addr::new(10, 77, 0, 110));
/// The node's address on the backends' bridge, and their default gateway.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
/// The backends' network.
pub const PODS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 77, 1, 0), 24);
/// The node's interface towards the clients.
pub const UPLINK: &str = "up0";
/// The node's bridge towards the backends.
pub const POD_BRIDGE: &str = "pods";
/// The node's name, as manifests and `--node` give it.
pub const NODE_NAME: &str = "node";

/// Both networks are /24.
const PREFIX_LENGTH: u8 = 24;
/// Last octet of the first backend less one.
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
    /// Where its server runs; interface `eth0`.
    pub namespace: Namespace,
    /// Its port on the node's bridge, such as `pod1`.
    pub port: String,
}

impl Standard {
    /// Builds client, switch and node, as yet without backends.
    ///
    /// # Errors
    /// What the configuration of the namespaces met with.
    pub fn build(sandbox: &Sandbox) -> Result<Self, Error> {
        let mut lab = Lab::new(sandbox);
        let client = lab.namespace("client")?;
        let switch = lab.namespace("switch")?;
        let node = lab.namespace(NODE_NAME)?;

        lab.veth((&client, "eth0"), (&switch, "client"))?;
        lab.veth((&node, UPLINK), (&switch, "node"))?;
        switch.bridge("br0", &["client", "node"])?;
        client.address("eth0", network(CLIENT))?;
        node.address(UPLINK, network(NODE))?;

        node.bridge(POD_BRIDGE, &[])?;
        node.address(POD_BRIDGE, network(GATEWAY))?;
        node.sysctl("net.ipv4.ip_forward", "1")?;
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

    /// Adds a backend with a name and an address that were not used before.
    ///
    /// # Errors
    /// [`Error::AddressesExhausted`] after 244 of them, or what the configuration met with.
    pub fn add_backend(&mut self) -> Result<Backend, Error> {
        let number = self.numbered.checked_add(1).ok_or(Error::AddressesExhausted)?;
        let address = backend_address(number).ok_or(Error::AddressesExhausted)?;
        self.numbered = number;
        let name = format!("backend-{number}");
        let port = format!("pod{number}");
        let namespace = self.lab.namespace(&name)?;
        self.lab.veth((&namespace, "eth0"), (&self.node, &port))?;
        self.node.bridge_port(POD_BRIDGE, &port)?;
        namespace.address("eth0", network(address))?;
        namespace.route(IpNet::from(Ipv4Net::default()), IpAddr::V4(GATEWAY))?;
        let backend = Backend { name, address, namespace, port };
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
}

fn backend_address(number: u8) -> Option<Ipv4Addr> {
    let octet = FIRST_BACKEND.checked_add(number).filter(|octet| *octet < u8::MAX)?;
    let [a, b, c, _] = PODS.addr().octets();
    Some(Ipv4Addr::new(a, b, c, octet))
}

fn network(address: Ipv4Addr) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(address, PREFIX_LENGTH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_have_addresses_of_their_network_until_it_is_full() {
        assert_eq!(backend_address(1), Some(Ipv4Addr::new(10, 77, 1, 11)));
        assert_eq!(backend_address(244), Some(Ipv4Addr::new(10, 77, 1, 254)));
        assert_eq!(backend_address(245), None);
        assert_eq!(backend_address(255), None);
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
    }
}
