//! Other ways to connect client and node.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{NODE, NODE6, PREFIX_LENGTH, PREFIX_LENGTH6, UPLINK, addresses, default_routes, forwards, routes};
use crate::{Error, Lab, Namespace};

/// The node's end of the wire below an uplink that is no plain wire.
const WIRE: &str = "wire0";
/// VLANs: the outer one of two, and the inner or only one.
const OUTER_VLAN: (&str, &str) = ("802.1ad", "200");
const VLAN: (&str, &str) = ("802.1q", "100");

/// The hardware address of an uplink that is a bridge.
const BRIDGE_MAC: &str = "02:00:00:00:00:fd";

/// The client's addresses beyond the hop.
const CLIENT: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 77, 8, 10), Ipv6Addr::new(0xfd77, 0, 0, 8, 0, 0, 0, 0x10));
/// The routers' addresses: towards the client, at both ends of the narrow wire, and towards the node.
const NEAR: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 77, 8, 1), Ipv6Addr::new(0xfd77, 0, 0, 8, 0, 0, 0, 1));
const NARROW_NEAR: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 77, 9, 1), Ipv6Addr::new(0xfd77, 0, 0, 9, 0, 0, 0, 1));
const NARROW_FAR: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 77, 9, 2), Ipv6Addr::new(0xfd77, 0, 0, 9, 0, 0, 0, 2));
const FAR: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 77, 0, 1), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));

/// How a [`super::Standard`] lab is wired. The default: a plain wire on each side of the switch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wiring {
    /// What the node's uplink is.
    pub uplink: Uplink,
    /// Puts two routers between client and switch, and a wire of this MTU (in bytes, at least 1,280) between them. Client
    /// and node keep theirs of 1,500, so that they learn of the path's from the routers' errors alone. The client has
    /// other addresses then.
    pub hop_mtu: Option<u16>,
}

/// What the node's uplink is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Uplink {
    /// A wire.
    #[default]
    Veth,
    /// A VLAN (802.1Q) on a wire.
    Vlan,
    /// A VLAN in a VLAN (802.1ad) on a wire.
    QinQ,
    /// A bridge with a wire as its port.
    Bridge,
    /// A macvlan on a wire.
    Macvlan,
}

impl Uplink {
    /// Connects node and switch by it, and returns the switch's interface for it.
    pub(super) fn connect(self, lab: &Lab, node: &Namespace, switch: &Namespace) -> Result<String, Error> {
        let wire = if self == Self::Veth { UPLINK } else { WIRE };
        lab.veth((node, wire), (switch, "node"))?;
        let mut port = "node";
        match self {
            Self::Veth => {}
            Self::Vlan => {
                tag(node, WIRE, UPLINK, VLAN)?;
                port = tag(switch, "node", "node-in", VLAN)?;
            }
            Self::QinQ => {
                tag(node, tag(node, WIRE, "outer", OUTER_VLAN)?, UPLINK, VLAN)?;
                port = tag(switch, tag(switch, "node", "node-out", OUTER_VLAN)?, "node-in", VLAN)?;
            }
            Self::Bridge => {
                node.bridge(UPLINK, &[WIRE])?;
                // The switch on the same wire is a bridge too.
                node.ip(["link", "set", UPLINK, "address", BRIDGE_MAC])?;
            }
            Self::Macvlan => {
                on_top(node, WIRE, UPLINK, &["macvlan", "mode", "bridge"])?;
            }
        }
        Ok(port.to_owned())
    }
}

/// Makes the interface of a VLAN on another interface.
fn tag<'a>(namespace: &Namespace, below: &str, name: &'a str, vlan: (&str, &str)) -> Result<&'a str, Error> {
    on_top(namespace, below, name, &["vlan", "proto", vlan.0, "id", vlan.1])
}

/// Makes an interface on top of another one.
fn on_top<'a>(namespace: &Namespace, below: &str, name: &'a str, kind: &[&str]) -> Result<&'a str, Error> {
    let arguments = ["link", "add", "link", below, "name", name, "type"];
    match namespace.ip(arguments.into_iter().chain(kind.iter().copied())) {
        Ok(_) => namespace.link_up(name).map(|()| name),
        // What iproute2 makes of the kernel's EOPNOTSUPP.
        Err(Error::Command { stderr, .. }) if stderr.contains("Unknown device type") => {
            Err(Error::Unsupported { what: kind.first().copied().unwrap_or_default().to_owned() })
        }
        Err(error) => Err(error),
    }
}

/// Puts two routers with a narrow wire between client and switch.
pub(super) fn hop(
    lab: &mut Lab,
    client: &Namespace,
    switch: &Namespace,
    node: &Namespace,
    mtu: u16,
) -> Result<(), Error> {
    let near = lab.namespace("near")?;
    let far = lab.namespace("far")?;
    lab.veth((client, "eth0"), (&near, "client"))?;
    lab.veth((&near, "narrow"), (&far, "narrow"))?;
    lab.veth((&far, "node"), (switch, "client"))?;
    for router in [&near, &far] {
        router.ip(["link", "set", "narrow", "mtu", &mtu.to_string()])?;
        forwards(router)?;
    }
    addresses(client, "eth0", CLIENT.0, CLIENT.1)?;
    addresses(&near, "client", NEAR.0, NEAR.1)?;
    addresses(&near, "narrow", NARROW_NEAR.0, NARROW_NEAR.1)?;
    addresses(&far, "narrow", NARROW_FAR.0, NARROW_FAR.1)?;
    addresses(&far, "node", FAR.0, FAR.1)?;
    default_routes(client, NEAR.0, NEAR.1)?;
    default_routes(&near, NARROW_FAR.0, NARROW_FAR.1)?;
    default_routes(&far, NODE, NODE6)?;
    let (client4, client6) = (subnet(CLIENT.0), subnet6(CLIENT.1));
    routes(&far, (client4, NARROW_NEAR.0), (client6, NARROW_NEAR.1))?;
    routes(node, (client4, FAR.0), (client6, FAR.1))?;
    // Errors come from the narrow wire's addresses.
    let narrow = (subnet(NARROW_FAR.0), subnet6(NARROW_FAR.1));
    routes(node, (narrow.0, FAR.0), (narrow.1, FAR.1))
}

fn subnet(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::new_assert(address, PREFIX_LENGTH).trunc()
}

fn subnet6(address: Ipv6Addr) -> Ipv6Net {
    Ipv6Net::new_assert(address, PREFIX_LENGTH6).trunc()
}
