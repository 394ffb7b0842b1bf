//! Kubernetes' own kinds.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use evenkeel_plan::range::{IpFamily, mapped};
use evenkeel_plan::world::{
    Affinity, Endpoint, EndpointPort, EndpointSlice, Hints, IpFamilyPolicy, Node, ObjectName, Protocol, Secret,
    Service, ServicePort, TargetPort, TrafficDistribution, TrafficPolicy,
};

use super::object::name;
use super::read::{Field, Fields, Findings as _, Mapping as _, Reader, Values as _, shortened};
use super::{annotations, cluster};

const PROTOCOLS: [(&str, Protocol); 3] = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];
const FAMILIES: [(&str, IpFamily); 2] = [("IPv4", IpFamily::V4), ("IPv6", IpFamily::V6)];
pub(super) const PORT: (u16, u16) = (1, u16::MAX);
const ADDRESS_REMEDY: &str = "give an IPv4 or IPv6 address";
/// `spec.sessionAffinityConfig.clientIP.timeoutSeconds` by default: 3 hours.
const AFFINITY_TIMEOUT: u32 = 10_800;
const MAX_AFFINITY_TIMEOUT: u32 = 86_400;

pub(super) fn service(
    reader: &mut Reader<'_>,
    name: ObjectName,
    fields: &Fields<'_>,
    metadata: &Fields<'_>,
) -> Option<Service> {
    let mut service = Service::new(name);
    service.labels = super::labels(reader, metadata);
    reader.lenient(|reader| annotations::service(reader, &mut service, metadata));
    if let Some(spec) = fields.get("spec") {
        spec_of(reader, &mut service, &spec)?;
    }
    if let Some(status) = fields.get("status").and_then(|field| field.fields(reader))
        && let Some(balancer) = status.get("loadBalancer").and_then(|field| field.fields(reader))
    {
        for ingress in balancer.list(reader, "ingress") {
            // Some writers leave an empty text where there is none.
            let address = ingress.fields(reader).and_then(|ingress| ingress.get("ip"));
            let address = address.filter(|address| address.text(reader).is_some());
            service.status_addresses.extend(address.and_then(|field| ip(&field, reader)));
        }
    }
    service.requested.unread = reader.unread.take();
    if service.requested.unread.as_ref().is_some_and(|unread| unread.reason == "invalid_address") {
        // Which of the node's addresses it is to have is not known: all of them would be too many.
        service.on_node = false;
    }
    Some(service)
}

fn spec_of(reader: &mut Reader<'_>, service: &mut Service, field: &Field<'_>) -> Option<()> {
    let spec = field.fields(reader)?;
    let types =
        [("ClusterIP", false), ("NodePort", false), ("LoadBalancer", true), ("ExternalName", false), ("", false)];
    let is_balancer = spec.get("type").and_then(|field| field.one_of(reader, &types));
    service.is_load_balancer = is_balancer.unwrap_or(false);
    let class = spec.get("loadBalancerClass").and_then(|field| field.text(reader));
    service.load_balancer_class = class.map(str::to_owned);
    for family in spec.list(reader, "ipFamilies") {
        service.ip_families.extend(family.one_of(reader, &FAMILIES));
    }
    let policies = [
        ("SingleStack", IpFamilyPolicy::SingleStack),
        ("PreferDualStack", IpFamilyPolicy::PreferDualStack),
        ("RequireDualStack", IpFamilyPolicy::RequireDualStack),
    ];
    if let Some(policy) = spec.get("ipFamilyPolicy").and_then(|field| field.one_of(reader, &policies)) {
        service.ip_family_policy = policy;
    }
    reader.lenient(|reader| cluster::cluster_addresses(reader, service, &spec));
    cluster::access(reader, service, &spec);
    service.requested.spec_address = reader.lenient(|reader| {
        spec.get("loadBalancerIP").filter(|field| field.text(reader).is_some()).and_then(|field| ip(&field, reader))
    });
    let policies = [("Cluster", TrafficPolicy::Cluster), ("Local", TrafficPolicy::Local), ("", TrafficPolicy::Cluster)];
    if let Some(policy) = spec.get("externalTrafficPolicy").and_then(|field| field.one_of(reader, &policies)) {
        service.traffic_policy = policy;
    }
    let distributions = [
        ("PreferSameZone", TrafficDistribution::PreferSameZone),
        ("PreferClose", TrafficDistribution::PreferSameZone),
        ("PreferSameNode", TrafficDistribution::PreferSameNode),
        ("", TrafficDistribution::Anywhere),
    ];
    if let Some(preference) = spec.get("trafficDistribution").and_then(|field| field.one_of(reader, &distributions)) {
        service.traffic_distribution = preference;
    }
    service.affinity = affinity(reader, &spec);
    service.selector = spec.get("selector").map(|field| field.labels(reader)).unwrap_or_default();
    service.publish_not_ready =
        spec.get("publishNotReadyAddresses").and_then(|field| field.bool(reader)).unwrap_or(false);
    service.ports = ports(reader, &spec);
    if service.is_load_balancer
        && service.ports.is_empty()
        && !reader.failed
        && let Some(ports) = spec.require(reader, "ports")
    {
        reader.error("missing_field", &ports, "a load balancer needs at least one port", "add a port");
    }
    Some(())
}

fn affinity(reader: &mut Reader<'_>, spec: &Fields<'_>) -> Affinity {
    let kinds = [("None", false), ("ClientIP", true), ("", false)];
    let by_client = spec.get("sessionAffinity").and_then(|field| field.one_of(reader, &kinds)).unwrap_or(false);
    let seconds = spec
        .get("sessionAffinityConfig")
        .and_then(|field| field.fields(reader)?.get("clientIP"))
        .and_then(|field| field.fields(reader)?.get("timeoutSeconds"))
        .and_then(|field| field.number(reader, 1, MAX_AFFINITY_TIMEOUT))
        .unwrap_or(AFFINITY_TIMEOUT);
    if by_client { Affinity::ClientIp { timeout: Duration::from_secs(seconds.into()) } } else { Affinity::None }
}

fn ports(reader: &mut Reader<'_>, spec: &Fields<'_>) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
    let fields = spec.list(reader, "ports");
    let several = fields.len() > 1;
    for field in fields {
        let Some(port_fields) = field.fields(reader) else { continue };
        let name = port_fields.get("name").and_then(|field| field.text(reader)).unwrap_or_default().to_owned();
        if several
            && name.is_empty()
            && let Some(name) = port_fields.require(reader, "name")
        {
            reader.error("missing_field", &name, "several ports need a name each", "name the port");
        }
        let protocol = protocol(reader, &port_fields);
        let target = port_fields.get("targetPort").and_then(|field| target(reader, &field));
        let number = port_fields.require(reader, "port").and_then(|field| field.number(reader, PORT.0, PORT.1));
        let Some(port) = number else { continue };
        let new_name = names.insert(name.clone());
        if !numbers.insert((protocol, port)) {
            reader.error("duplicate_port", &field, format!("{protocol} {port} is already given"), "remove one of them");
        } else if several && !name.is_empty() && !new_name {
            let message = format!("the name `{}` is already given to another port", shortened(&name));
            reader.error("duplicate_port", &field, message, "give each port a name of its own");
        }
        ports.push(ServicePort { name, protocol, port, target });
    }
    ports
}

pub(super) fn protocol(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Protocol {
    fields.get("protocol").and_then(|field| field.one_of(reader, &PROTOCOLS)).unwrap_or(Protocol::Tcp)
}

/// `targetPort`; 0, which some writers give for "the same as port", is no target.
fn target(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<TargetPort> {
    if field.is_integer() {
        return field.number(reader, 0, u16::MAX).filter(|port| *port != 0).map(TargetPort::Number);
    }
    field.text(reader).map(|name| TargetPort::Name(name.to_owned()))
}

pub(super) fn ip(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<IpAddr> {
    let address = field.parse(reader, "invalid_address", ADDRESS_REMEDY)?;
    unmapped(reader, field, address)
}

/// The address, unless it is an IPv4 address in IPv6's notation, which no packet has.
pub(super) fn unmapped(reader: &mut Reader<'_>, field: &Field<'_>, address: IpAddr) -> Option<IpAddr> {
    let Some(meant) = mapped(address) else { return Some(address) };
    let message = format!("{address} is an IPv4 address in IPv6's notation");
    reader.error("invalid_address", field, message, format!("give {meant}, where an IPv4 address may be"));
    None
}

/// `hints`: lists of `{name}`.
fn hints(reader: &mut Reader<'_>, field: &Field<'_>) -> Hints {
    let Some(fields) = field.fields(reader) else { return Hints::default() };
    let mut names = |list| {
        let items = fields.list(reader, list);
        let name = |item: &Field<'_>| Some(item.fields(reader)?.get("name")?.text(reader)?.to_owned());
        items.iter().filter_map(name).collect()
    };
    Hints { zones: names("forZones"), nodes: names("forNodes") }
}

/// The label that joins a slice to its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

pub(super) fn endpoint_slice(
    reader: &mut Reader<'_>,
    name: ObjectName,
    fields: &Fields<'_>,
    metadata: &Fields<'_>,
) -> Option<EndpointSlice> {
    let mut labels = super::labels(reader, metadata);
    let types = [("IPv4", Some(IpFamily::V4)), ("IPv6", Some(IpFamily::V6)), ("FQDN", None)];
    let type_field = fields.require(reader, "addressType")?;
    let mut slice = EndpointSlice {
        name,
        service: labels.remove(SERVICE_LABEL).filter(|service| !service.is_empty()),
        address_type: IpFamily::V4,
        weight: annotations::slice_weight(reader, metadata),
        ports: Vec::new(),
        endpoints: Vec::new(),
    };
    let Some(family) = type_field.one_of(reader, &types)? else {
        // Domain names are no backends a packet can be sent to: the slice is known, and has none.
        reader.warning("fqdn_endpoints", &type_field, "endpoints that are domain names are left out", "use addresses");
        return Some(slice);
    };
    slice.address_type = family;
    for field in fields.list(reader, "ports") {
        slice.ports.extend(endpoint_port(reader, &field));
    }
    for field in fields.list(reader, "endpoints") {
        slice.endpoints.extend(endpoint(reader, &field, family));
    }
    Some(slice)
}

fn endpoint_port(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<EndpointPort> {
    let fields = field.fields(reader)?;
    let name = fields.get("name").and_then(|field| field.text(reader)).unwrap_or_default().to_owned();
    let protocol = protocol(reader, &fields);
    let Some(port) = fields.get("port") else {
        let message = "a port without a number means any port, and is left out";
        reader.warning("unnumbered_port", field, message, "give the port's number");
        return None;
    };
    Some(EndpointPort { name, protocol, port: port.number(reader, PORT.0, PORT.1)? })
}

fn endpoint(reader: &mut Reader<'_>, field: &Field<'_>, family: IpFamily) -> Option<Endpoint> {
    let fields = field.fields(reader)?;
    let mut addresses = Vec::new();
    for field in fields.require(reader, "addresses")?.list(reader) {
        let Some(address) = ip(&field, reader) else { continue };
        if IpFamily::of(address) != family {
            let message = format!("{address} is not {family}, as addressType says");
            reader.error("family_mismatch", &field, message, format!("give an {family} address"));
        } else if address.is_unspecified() || address.is_multicast() {
            reader.error("invalid_address", &field, format!("{address} is no host's address"), ADDRESS_REMEDY);
        }
        addresses.push(address);
    }
    let conditions = fields.get("conditions").and_then(|field| field.fields(reader));
    let mut condition =
        |name| conditions.as_ref().and_then(|conditions| conditions.get(name)).and_then(|field| field.bool(reader));
    // Absent means "unknown", which the API says to take for ready and not terminating.
    let ready = condition("ready").unwrap_or(true);
    let terminating = condition("terminating").unwrap_or(false);
    // The same goes for `serving`, which only says something of its own about an endpoint that is terminating.
    let serving = condition("serving").unwrap_or(ready || terminating);
    let node = fields.get("nodeName").filter(|field| !field.is_empty_text()).and_then(|field| name(&field, reader));
    let target = fields.get("targetRef").and_then(|field| field.fields(reader));
    let uid = target.and_then(|target| target.get("uid")).and_then(|field| field.text(reader));
    let zone = fields.get("zone").and_then(|field| field.text(reader)).map(str::to_owned);
    let hints = fields.get("hints").map(|field| hints(reader, &field)).unwrap_or_default();
    Some(Endpoint { addresses, ready, serving, terminating, node, zone, hints, target_uid: uid.map(str::to_owned) })
}

pub(super) fn node(
    reader: &mut Reader<'_>,
    name: ObjectName,
    fields: &Fields<'_>,
    metadata: &Fields<'_>,
) -> Option<Node> {
    let mut node = Node::new(name.name);
    node.labels.extend(super::labels(reader, metadata));
    let status = fields.get("status").and_then(|field| field.fields(reader));
    for condition in status.map(|status| status.list(reader, "conditions")).unwrap_or_default() {
        let condition = condition.fields(reader)?;
        let kind = condition.get("type").and_then(|field| field.text(reader));
        if kind == Some("NetworkUnavailable") {
            let status = condition.get("status").and_then(|field| field.string(reader));
            node.network_unavailable = status == Some("True");
        }
    }
    Some(node)
}

/// `type` where a Secret gives none.
const OPAQUE: &str = "Opaque";

/// That there is such a secret. Its data is not looked at.
pub(super) fn secret(reader: &mut Reader<'_>, name: ObjectName, fields: &Fields<'_>) -> Secret {
    let secret_type = fields.get("type").and_then(|field| field.text(reader)).unwrap_or(OPAQUE);
    Secret { name, secret_type: secret_type.to_owned() }
}
