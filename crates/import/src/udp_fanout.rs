//! udp-fanout's `config.yaml`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use evenkeel_plan::range::IpFamily;

use crate::Options;
use crate::read::{Field, Fields, Findings as _, Mapping as _, Reader, Values as _};
use crate::setup::{
    Addresses, Endpoints, Health, Port, Service, Setup, Slice, as_label, families, is_unreachable, label,
};
use crate::xlb::cluster_service;

/// Whose configuration it is.
const UDP_FANOUT: &str = "udp-fanout's configuration";
/// Most listeners it takes.
const MAX_LISTENERS: usize = 16;
/// Most receivers of one.
const MAX_DOWNSTREAMS: usize = 64;
/// Most characters of a Service's name.
const MAX_NAME: usize = 63;

pub(crate) fn read(reader: &mut Reader<'_>, fields: Fields<'_>, options: &Options) -> Option<Setup> {
    let mut setup = Setup::new(UDP_FANOUT, options);
    let listeners = fields.require(reader, "listeners", "list the listeners: name, bind and their receivers");
    let health = fields.get("health").and_then(|field| health(reader, &field));
    setup.listen = fields.get("metrics").and_then(|field| metrics(reader, &field));
    fields.no_others(reader, UDP_FANOUT);
    let listeners = listeners?;
    let items = listeners.list(reader);
    if items.is_empty() || items.len() > MAX_LISTENERS {
        let message = format!("{} listeners", items.len());
        reader.error(
            "invalid_value",
            &listeners,
            message,
            "udp-fanout takes 1 to 16; make several configurations of more",
        );
    }
    let mut bound = BTreeSet::new();
    let mut known = BTreeSet::new();
    for item in items.iter().take(MAX_LISTENERS) {
        let Some((service, bind)) = listener(reader, item, health, &mut setup.interfaces, options) else { continue };
        let is_free = bound.insert(bind);
        if !is_free {
            let message = format!("{bind} is bound by another listener");
            reader.error("duplicate_value", item, message, "give each its own port");
        }
        add(&mut setup.services, service);
        let conflicts = conflicts(&setup.services);
        if let Some(conflict) = conflicts.difference(&known).next().filter(|_| is_free) {
            tell_conflict(reader, item, *conflict, &setup);
        }
        known = conflicts;
    }
    Some(setup)
}

/// Two services by their numbers, which may be the same, and a port that only one of them can have.
type Conflict = (usize, usize, u16);

/// Where what several listeners come to would get in each other's way.
fn conflicts(services: &[Service]) -> BTreeSet<Conflict> {
    let mut conflicts = BTreeSet::new();
    for (number, service) in services.iter().enumerate() {
        let has = |service: &Service, port: u16| service.ports.iter().filter(|other| other.port == port).count();
        for Port { port, .. } in &service.ports {
            if has(service, *port) > 1 {
                conflicts.insert((number, number, *port));
            }
            let others = services.iter().enumerate().skip(number + 1);
            let taken = others.filter(|(_, it)| has(it, *port) > 0 && meet(&it.addresses, &service.addresses));
            conflicts.extend(taken.map(|(other, _)| (number, other, *port)));
        }
    }
    conflicts
}

/// Whether two services would have an address in common.
fn meet(one: &Addresses, other: &Addresses) -> bool {
    match (one, other) {
        (Addresses::Node { only, families }, Addresses::Node { only: others, families: of_other }) => {
            if only.is_empty() || others.is_empty() {
                families.iter().any(|family| of_other.contains(family))
            } else {
                only.iter().any(|address| others.contains(address))
            }
        }
        _ => true,
    }
}

fn tell_conflict(reader: &mut Reader<'_>, item: &Field<'_>, (number, other, port): Conflict, setup: &Setup) {
    if number == other {
        let Service { namespace, name, .. } = &setup.services[number];
        let message =
            format!("port {port} of Service {namespace}/{name} leads to another port of its receivers already");
        reader.error("duplicate_value", item, message, "give each its own port: a Service has each once");
    } else if setup.vips.is_empty() {
        let message = format!("port {port} is another listener's, at an address that both have");
        reader.error("duplicate_value", item, message, "give each its own port, or each an address of its own");
    } else {
        let message = format!("port {port} is another listener's, and all are at the addresses of --vip");
        let remedy = "give each its own port; or import each from a file of its own, with a --vip of its own";
        reader.error("duplicate_value", item, message, remedy);
    }
}

/// A Service more. One of the cluster that several listeners lead to has all of their ports, each once; names are given once.
fn add(services: &mut Vec<Service>, mut service: Service) {
    let same = |other: &&mut Service| (&other.namespace, &other.name) == (&service.namespace, &service.name);
    let known = services.iter_mut().find(same);
    match (known, &service.endpoints) {
        (None, _) => services.push(service),
        (Some(known), Endpoints::Cluster) if matches!(known.endpoints, Endpoints::Cluster) => {
            service.ports.retain(|port| !known.ports.contains(port));
            known.ports.append(&mut service.ports);
            if let (Addresses::Node { only, families }, Addresses::Node { only: more, families: also }) =
                (&mut known.addresses, service.addresses)
            {
                // One that is bound to every address makes the others no narrower.
                if only.is_empty() || more.is_empty() {
                    only.clear();
                } else {
                    only.extend(more);
                }
                families.extend(also);
                families.sort_unstable();
                families.dedup();
            }
        }
        (Some(_), _) => {
            let taken: BTreeSet<&str> = services.iter().map(|service| service.name.as_str()).collect();
            let free = (2..).map(|n| format!("{}-{n}", as_label(&service.name, "udp", MAX_NAME - 4)));
            let name = free.into_iter().find(|name| !taken.contains(name.as_str()));
            service.name = name.unwrap_or(service.name);
            services.push(service);
        }
    }
}

fn listener(
    reader: &mut Reader<'_>,
    item: &Field<'_>,
    health: Option<Health>,
    interfaces: &mut Vec<String>,
    options: &Options,
) -> Option<(Service, SocketAddr)> {
    let fields = item.fields(reader)?;
    let name = fields.require(reader, "name", "give the listener a name");
    let name = name.and_then(|field| label(reader, &field, "udp"));
    let bind = fields.require(reader, "bind", "give address and port, such as 0.0.0.0:5514");
    if let Some(interface) = fields.get("interface") {
        uplink(reader, &interface, interfaces, options);
    }
    let mode = fields.get("mode");
    // `userspace` where none is given.
    let replaces_senders = mode
        .as_ref()
        .map_or(Some(true), |mode| mode.one_of(reader, &[("tc_ebpf", false), ("userspace", true), ("af_xdp", true)]));
    if replaces_senders == Some(true) {
        let message = "datagrams are passed on by the kernel, and receivers see their senders' own addresses";
        let remedy = "let receivers' firewalls and access lists expect senders in place of this node; for the node's address: \
                      evenkeel.io/source-address: rewrite without evenkeel.io/balancing: per-packet";
        reader.not_translated(mode.as_ref().unwrap_or(item), message, remedy);
    }
    let cluster = fields.get("kubernetes").and_then(|field| kubernetes(reader, &field));
    let downstream = fields.get("downstream");
    let receivers = downstream.as_ref().map(|field| receivers(reader, field)).unwrap_or_default();
    if let Some(settings) = fields.get("settings") {
        settings_of(reader, &settings);
    }
    fields.no_others(reader, UDP_FANOUT);
    let bind = bind.and_then(|field| bound(reader, &field))?;
    let name = name?;
    if fields.find("kubernetes").is_some() {
        let (namespace, service, target) = cluster?;
        if let Some(downstream) = downstream.filter(|_| !receivers.is_empty()) {
            let remedy = "keep `kubernetes`, or `downstream`; udp-fanout replaces the list by what it discovers";
            reader.not_translated(&downstream, "receivers are discovered, and these are left out", remedy);
        }
        let ports = vec![Port { name: format!("udp-{}", bind.port()), port: bind.port(), target }];
        let all = if bind.is_ipv4() { vec![IpFamily::V4] } else { vec![IpFamily::V4, IpFamily::V6] };
        let addresses = addresses(bind, all, options);
        let endpoints = Endpoints::Cluster;
        return Some((service_of(namespace, service, addresses, ports, health, endpoints), bind));
    }
    if receivers.is_empty() && !reader.failed() {
        reader.error("missing_field", item, "it has no receivers", "give `downstream`, or `kubernetes`");
    }
    // What leads to several ports is as many slices.
    let mut slices: BTreeMap<(IpFamily, u16), Vec<(IpAddr, String)>> = BTreeMap::new();
    for (address, name) in &receivers {
        slices.entry((IpFamily::of(address.ip()), address.port())).or_default().push((address.ip(), name.clone()));
    }
    let target = receivers.first().map_or(bind.port(), |(address, _)| address.port());
    let port = Port { name: format!("udp-{}", bind.port()), port: bind.port(), target };
    let of_receivers = families(receivers.iter().map(|(address, _)| address.ip()));
    let slices = slices.into_iter().map(|((family, target), endpoints)| Slice {
        family,
        ports: vec![(port.name.clone(), target)],
        endpoints,
    });
    let endpoints = Endpoints::Listed(slices.collect());
    let wanted = of_receivers.into_iter().filter(|family| !bind.is_ipv4() || *family == IpFamily::V4).collect();
    let addresses = addresses(bind, wanted, options);
    Some((service_of("default".to_owned(), name, addresses, vec![port], health, endpoints), bind))
}

fn service_of(
    namespace: String,
    name: String,
    addresses: Addresses,
    ports: Vec<Port>,
    health: Option<Health>,
    endpoints: Endpoints,
) -> Service {
    Service { namespace, name, addresses, ports, udp: true, per_packet: true, health, endpoints }
}

fn addresses(bind: SocketAddr, families: Vec<IpFamily>, options: &Options) -> Addresses {
    match bind.ip() {
        _ if !options.vips.is_empty() => Addresses::Vips,
        ip if ip.is_unspecified() => Addresses::Node { only: Vec::new(), families },
        ip => Addresses::Node { only: vec![ip], families: vec![IpFamily::of(ip)] },
    }
}

fn bound(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<SocketAddr> {
    let bind: SocketAddr = field.parse(reader, "an address with a port, such as 0.0.0.0:5514 or [::]:5514")?;
    if bind.port() == 0 {
        reader.error("invalid_value", field, "port 0 is no port", "give the port that senders use");
        return None;
    }
    if bind.ip().is_loopback() || bind.ip().is_multicast() {
        let message = format!("{} gets nothing from the network", bind.ip());
        reader.error("invalid_value", field, message, "give 0.0.0.0, or the address that senders use");
        return None;
    }
    Some(bind)
}

/// The interface to attach to.
fn uplink(reader: &mut Reader<'_>, field: &Field<'_>, interfaces: &mut Vec<String>, options: &Options) {
    let Some(name) = field.text(reader) else { return };
    if name.is_empty()
        || name.len() > 15
        || name.contains(|c: char| c == '/' || c == ',' || c.is_whitespace() || c.is_control())
    {
        reader.error("invalid_value", field, "this is no interface's name", "give one that `ip link` shows");
    } else if name.starts_with("dummy") {
        let message =
            "what kube-proxy sends to an address of a dummy device is delivered to this host, and never gets there";
        let remedy = match options.vips.is_empty() {
            true => {
                "attach to the uplink, and say which address MetalLB announces for it: --vip ADDRESS --announced-elsewhere"
            }
            false => "attach to the uplink in place of it: datagrams are then balanced before kube-proxy sees them",
        };
        reader.not_translated(field, message, remedy);
    } else if !interfaces.iter().any(|known| known == name) {
        interfaces.push(name.to_owned());
    }
}

fn kubernetes(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<(String, String, u16)> {
    let fields = field.fields(reader)?;
    let namespace = match fields.get("namespace") {
        Some(field) => label(reader, &field, "default"),
        None => Some("default".to_owned()),
    };
    let service = fields.require(reader, "service", "give the name of the receivers' Service");
    let port = fields.require(reader, "port", "give the port that receivers listen at");
    let port = port.and_then(|field| field.port(reader));
    fields.no_others(reader, UDP_FANOUT);
    let service = label(reader, &service?, "service")?;
    let namespace = namespace?;
    cluster_service(reader, field, &namespace, &service);
    Some((namespace, service, port?))
}

fn receivers(reader: &mut Reader<'_>, field: &Field<'_>) -> Vec<(SocketAddr, String)> {
    let mut receivers: Vec<(SocketAddr, String)> = Vec::new();
    let items = field.list(reader);
    if items.len() > MAX_DOWNSTREAMS {
        let message = format!("{} receivers; udp-fanout takes {MAX_DOWNSTREAMS}", items.len());
        reader.not_translated(field, message, "nothing is to be done: all of them are taken here");
    }
    for item in items {
        let Some(fields) = item.fields(reader) else { continue };
        let name = fields.get("name").and_then(|field| field.text(reader)).unwrap_or_default().to_owned();
        let address = fields.require(reader, "address", "give the receiver's address and port");
        if let Some(mac) = fields.get("mac") {
            reader.not_translated(
                &mac,
                "hardware addresses are not configured",
                "remove it: the kernel knows its neighbours",
            );
        }
        fields.no_others(reader, UDP_FANOUT);
        let Some(field) = address else { continue };
        let Some(address) = field.parse::<SocketAddr>(reader, "an address with a port, such as 10.0.0.1:5514") else {
            continue;
        };
        if is_unreachable(address.ip()) || address.port() == 0 {
            let message = format!("{address} is no other host's");
            reader.error("invalid_value", &field, message, "give an address that can be reached over the network");
        } else if receivers.iter().any(|(known, _)| *known == address) {
            let message = format!("{address} is given before, and counts once");
            reader.not_translated(&field, message, "give it a weight: evenkeel.io/weights");
        } else {
            receivers.push((address, name));
        }
    }
    receivers
}

/// What tunes udp-fanout's own work.
fn settings_of(reader: &mut Reader<'_>, field: &Field<'_>) {
    let Some(fields) = field.fields(reader) else { return };
    let sizes = "nothing is to be done: datagrams of any size are passed on, fragments of one together";
    let kernel = "nothing is to be done: the kernel passes datagrams on, and no socket or thread takes part";
    for (key, remedy) in [
        ("max_packet_size", sizes),
        ("max_downstream", "nothing is to be done: there may be as many receivers as there are"),
        ("batch_size", kernel),
        ("workers", kernel),
        ("pin_cpus", kernel),
        ("recv_buf_size", kernel),
    ] {
        if let Some(field) = fields.get(key) {
            reader.not_translated(&field, format!("there is no `{key}`"), remedy);
        }
    }
    fields.no_others(reader, UDP_FANOUT);
}

/// How receivers are checked; none: not at all.
fn health(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<Health> {
    let fields = field.fields(reader)?;
    let enabled = fields.get("enabled").and_then(|field| field.bool(reader)).unwrap_or_default();
    let interval = fields.get("interval_secs").map_or(Some(5), |field| field.number(reader, 1, 3600));
    let timeout_field = fields.get("timeout_secs");
    let timeout = timeout_field.as_ref().map_or(Some(2), |field| field.number(reader, 1, 60));
    let check = fields
        .get("protocol")
        .map_or(Some("icmp"), |field| field.one_of(reader, &[("icmp", "icmp"), ("udp_echo", "udp-echo")]));
    fields.no_others(reader, UDP_FANOUT);
    let (interval, timeout) = (interval?, timeout?);
    if let Some(field) = timeout_field.filter(|_| timeout > interval) {
        let message = format!("a check cannot take longer than the {interval} s until the next");
        reader.not_translated(&field, message, format!("it became {interval} s"));
    }
    // One check decides there.
    let health =
        Health { check: check?, interval_seconds: interval, timeout_seconds: timeout.min(interval), rise: 1, fall: 1 };
    enabled.then_some(health)
}

/// Where metrics are served.
fn metrics(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<SocketAddr> {
    let fields = field.fields(reader)?;
    let enabled = fields.get("enabled").and_then(|field| field.bool(reader)).unwrap_or_default();
    let bind = fields.get("bind");
    let bind = bind.map_or(Some(SocketAddr::from(([0, 0, 0, 0], 9090))), |field| {
        field.parse(reader, "an address with a port, such as 0.0.0.0:9090")
    });
    if let Some(path) = fields.get("path")
        && path.text(reader).is_some_and(|path| path != "/metrics")
    {
        reader.not_translated(&path, "metrics are at /metrics", "let Prometheus ask there");
    }
    fields.no_others(reader, UDP_FANOUT);
    if enabled {
        let message = "metrics have other names";
        let remedy = "in place of udp_fanout_*_total, /metrics has packets by outcome; `evenkeel status` has what each receiver got";
        reader.not_translated(field, message, remedy);
    }
    bind.filter(|_| enabled)
}
