//! What a Service says about its addresses within the cluster, and about who may use it.

use std::net::{IpAddr, Ipv4Addr};

use evenkeel_plan::range::{IpFamily, mapped};
use evenkeel_plan::world::{IpFamilyPolicy, Service};
use ipnet::{IpNet, Ipv4Net};

use super::kinds::ip;
use super::read::{Field, Fields, Findings as _, Mapping as _, Reader, Values as _};

/// A range of clients that there are none of.
const NOBODY: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 32));

/// What the API server filled in says more than what was asked for: a service with a cluster address of one family is
/// a service of that family, also where it would rather have both.
pub(super) fn cluster_addresses(reader: &mut Reader<'_>, service: &mut Service, spec: &Fields<'_>) {
    let all = spec.list(reader, "clusterIPs");
    let one = spec.get("clusterIP");
    let mut addresses: Vec<(IpAddr, &Field<'_>)> = Vec::new();
    for field in if all.is_empty() { one.as_slice() } else { &all } {
        addresses.extend(cluster_address(reader, service, field).map(|address| (address, field)));
    }
    let mut families = Vec::new();
    for (address, field) in addresses {
        let family = IpFamily::of(address);
        if families.contains(&family) {
            let message = format!("{address} is a second {family} address");
            reader.error("invalid_value", field, message, "give at most one address of each family");
        }
        families.push(family);
    }
    if let [family] = *families {
        service.ip_families = vec![family];
        if service.ip_family_policy == IpFamilyPolicy::PreferDualStack {
            service.ip_family_policy = IpFamilyPolicy::SingleStack;
        }
    } else if service.ip_families.is_empty() {
        service.ip_families = families;
    }
}

/// An address, unless there is none yet (`""`) or none at all (`None`).
fn cluster_address(reader: &mut Reader<'_>, service: &Service, field: &Field<'_>) -> Option<IpAddr> {
    match field.text(reader)? {
        "None" if service.is_load_balancer => {
            let message = "a headless service cannot be a load balancer";
            reader.error("invalid_value", field, message, "remove clusterIP, or change the type to ClusterIP");
            None
        }
        "None" => None,
        _ => ip(field, reader),
    }
}

/// Who may connect, and fields for other load balancers.
pub(super) fn access(reader: &mut Reader<'_>, service: &mut Service, spec: &Fields<'_>) {
    let ranges = spec.list(reader, "loadBalancerSourceRanges");
    let read = |reader: &mut Reader<'_>| -> Vec<IpNet> {
        ranges.iter().filter_map(|field| source_range(reader, field)).collect()
    };
    let mut read = reader.lenient(read);
    if read.is_empty() && !ranges.is_empty() {
        // No range would let everybody in.
        read.push(NOBODY);
    }
    service.source_ranges = read.into();
    let port = spec.get("healthCheckNodePort").and_then(|field| field.number(reader, 0, u16::MAX));
    service.health_check_node_port = port.filter(|port| *port != 0);
    // Node ports are none of our business, whether they are allocated or not.
    spec.get("allocateLoadBalancerNodePorts").and_then(|field| field.bool(reader));
}

/// A range of clients' addresses, unless it is of IPv4 addresses in IPv6's notation, which no packet has.
fn source_range(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<IpNet> {
    const MAPPED: u8 = 96;
    let range: IpNet = field.parse(reader, "invalid_range", "give a CIDR such as 192.0.2.0/24")?;
    let (Some(first), Some(length)) = (mapped(range.addr()), range.prefix_len().checked_sub(MAPPED)) else {
        return Some(range);
    };
    let message = format!("{range} is a range of IPv4 addresses in IPv6's notation");
    reader.error("invalid_range", field, message, format!("give {first}/{length}"));
    None
}
