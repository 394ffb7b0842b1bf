//! Where the programs under measurement are loaded: a node between clients and backends, its routes and neighbours in
//! place, so that nothing is resolved while packets are fed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use evenkeel_lab::{Lab, Namespace, Sandbox};
use ipnet::IpNet;

use crate::bench::harness::{Family, Macs};

/// The interface that packets are said to arrive on, and the one towards the backends.
pub(in crate::bench) const UPLINK: &str = "up0";
pub(in crate::bench) const DOWNLINK: &str = "down0";
/// Backends of each service.
pub(in crate::bench) const BACKENDS: u8 = 10;
/// Their port.
const BACKEND_PORT: u16 = 8080;
/// The port of the services.
pub(in crate::bench) const SERVICE_PORT: u16 = 80;

/// A hardware address of each neighbour; it never sees a packet.
const NEIGHBOUR: &str = "02:00:00:00:00:01";
const NEIGHBOUR_BYTES: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Client, node and backends.
pub(in crate::bench) struct Site {
    pub(in crate::bench) node: Namespace,
    _lab: Lab,
}

impl Site {
    pub(in crate::bench) fn build(sandbox: &Sandbox) -> Result<Self> {
        let mut lab = Lab::new(sandbox);
        let (node, client, backend) = (lab.namespace("node")?, lab.namespace("client")?, lab.namespace("backend")?);
        for namespace in [&client, &backend] {
            // A neighbour that says nothing of its own accord: every packet that is counted was fed.
            namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        }
        lab.veth((&node, UPLINK), (&client, "eth0"))?;
        lab.veth((&node, DOWNLINK), (&backend, "eth0"))?;
        for (interface, addresses) in
            [(UPLINK, ["10.0.1.1/24", "fd00:1::1/64"]), (DOWNLINK, ["10.0.2.1/24", "fd00:2::1/64"])]
        {
            for address in addresses {
                node.address(interface, address.parse::<IpNet>()?)?;
            }
        }
        for family in ["ipv4", "ipv6"] {
            node.sysctl(&format!("net.{family}.conf.all.forwarding"), "1")?;
        }
        for scope in ["all", "default", UPLINK, DOWNLINK] {
            node.sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "0")?;
        }
        let neighbour = |address: IpAddr, interface: &str| -> Result<()> {
            let address = address.to_string();
            node.ip(["neigh", "replace", &address, "lladdr", NEIGHBOUR, "nud", "permanent", "dev", interface])?;
            Ok(())
        };
        for family in [Family::Ipv4, Family::Ipv6] {
            neighbour(client_gateway(family), UPLINK)?;
            for number in 0..BACKENDS {
                neighbour(backend_address(family, number), DOWNLINK)?;
            }
            for (network, gateway) in
                [(clients(family), client_gateway(family)), (far_backends(family), backend_address(family, 0))]
            {
                node.route(network.parse()?, gateway)?;
            }
        }
        Ok(Self { node, _lab: lab })
    }
}

/// Ethernet addresses of a frame that arrives on an interface with this address.
pub(in crate::bench) const fn arriving(interface: [u8; 6]) -> Macs {
    Macs { source: NEIGHBOUR_BYTES, destination: interface }
}

fn client_gateway(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(10, 0, 1, 2).into(),
        Family::Ipv6 => Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2).into(),
    }
}

const fn clients(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "10.128.0.0/9",
        Family::Ipv6 => "fd00:8000::/17",
    }
}

/// Base of a block of client addresses; blocks do not overlap.
pub(in crate::bench) fn client_block(family: Family, block: u8) -> SocketAddr {
    let address: IpAddr = match family {
        Family::Ipv4 => Ipv4Addr::new(10, 128 | block, 0, 0).into(),
        Family::Ipv6 => Ipv6Addr::new(0xfd00, 0x8000, 0, 0, 0, 0, u16::from(block), 0).into(),
    };
    SocketAddr::new(address, 0)
}

/// A backend on the node's own wire.
fn backend_address(family: Family, number: u8) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(10, 0, 2, 11 + number).into(),
        Family::Ipv6 => Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 11 + u16::from(number)).into(),
    }
}

/// Backends of the services that packets do not go to: behind a router.
const fn far_backends(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "10.64.0.0/10",
        Family::Ipv6 => "fd00:4000::/18",
    }
}

/// The backends that packets go to.
pub(in crate::bench) fn backends(family: Family) -> impl Iterator<Item = SocketAddr> {
    (0..BACKENDS).map(move |number| SocketAddr::new(backend_address(family, number), BACKEND_PORT))
}

/// The backends of one of the other services.
pub(in crate::bench) fn other_backends(service: u16) -> impl Iterator<Item = SocketAddr> {
    let [high, low] = service.to_be_bytes();
    (0..BACKENDS).map(move |number| SocketAddr::new(Ipv4Addr::new(10, 64 + number, high, low).into(), BACKEND_PORT))
}

/// A service's address.
pub(in crate::bench) fn vip(family: Family, service: u16) -> IpAddr {
    let [high, low] = service.to_be_bytes();
    match family {
        Family::Ipv4 => Ipv4Addr::new(10, 32, high, low).into(),
        Family::Ipv6 => Ipv6Addr::new(0xfd00, 0x2000, 0, 0, 0, 0, 0, service).into(),
    }
}

/// An address and port that are no service's.
pub(in crate::bench) fn nobody(family: Family) -> SocketAddr {
    let address: IpAddr = match family {
        Family::Ipv4 => Ipv4Addr::new(10, 9, 9, 9).into(),
        Family::Ipv6 => Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 9).into(),
    };
    SocketAddr::new(address, SERVICE_PORT)
}

/// Base of the addresses of 65,536 that are no service's.
pub(in crate::bench) fn nobody_of_many(family: Family) -> SocketAddr {
    let address: IpAddr = match family {
        Family::Ipv4 => Ipv4Addr::new(10, 9, 0, 0).into(),
        Family::Ipv6 => Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0).into(),
    };
    SocketAddr::new(address, 0)
}

/// A client that is always the same.
pub(in crate::bench) fn somebody(family: Family) -> SocketAddr {
    match client_block(family, 0).ip() {
        IpAddr::V4(address) => SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() + 7)), 40_000),
        IpAddr::V6(address) => SocketAddr::new(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() + 7)), 40_000),
    }
}
