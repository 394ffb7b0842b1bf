//! XLB's `xlb.yaml`, and the values of its chart, which hold the same under `config`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use evenkeel_manifest::words::shortened;
use evenkeel_plan::range::IpFamily;

use crate::Options;
use crate::read::{Field, Fields, Findings as _, Mapping as _, Reader, Values as _};
use crate::setup::{Addresses, Endpoints, Health, Port, Service, Setup, Slice, families, is_unreachable, label};

/// Whose configuration it is.
const XLB: &str = "XLB's configuration";
/// Most port mappings XLB takes.
const MAX_PORTS: usize = 8;
/// Seconds it takes to end, unless it is told otherwise.
const SHUTDOWN_TIMEOUT: u32 = 15;
/// Where it serves its status, unless it is told otherwise.
const ADMIN: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

pub(crate) fn read(reader: &mut Reader<'_>, fields: Fields<'_>, options: &Options) -> Option<Setup> {
    let fields = match fields.find("config").filter(Field::is_mapping) {
        Some(config) => {
            chart(reader, &fields);
            config.fields(reader)?
        }
        None => fields,
    };
    let mut setup = Setup::new(XLB, options);
    let name = fields.get("name").and_then(|field| label(reader, &field, "xlb")).unwrap_or_else(|| "xlb".to_owned());
    let udp = fields.get("proto").and_then(|field| field.one_of(reader, &[("tcp", false), ("udp", true)]));
    let udp = udp.unwrap_or_default();
    let listen = fields.get("listen").and_then(|field| listen(reader, &field));
    let ports = fields.require(reader, "ports", "say which ports it takes: local_port and remote_port");
    let ports = ports.map(|field| ports_of(reader, &field, udp)).unwrap_or_default();
    let provider = fields.require(reader, "provider", "say where its backends are: static or kubernetes");
    let provider = provider.and_then(|field| provider_of(reader, &field, &ports));
    if let Some(mode) = fields.get("mode")
        && mode.one_of(reader, &[("nat", false), ("dsr", true)]) == Some(true)
    {
        reader.not_translated(
            &mode,
            "backends do not answer clients directly here",
            "replies take the way back through this node",
        );
    }
    if let Some(ttl) = fields.get("orphan_ttl_secs") {
        let remedy =
            "nothing is to be done: a flow goes when its connection ends, or when nothing was heard of it for long";
        ttl.number(reader, 0, u32::MAX);
        reader.not_translated(&ttl, "how long idle flows are kept is not configured", remedy);
    }
    // What is left out is as XLB has it, not as it is here.
    setup.shutdown_seconds = match fields.get("shutdown_timeout") {
        Some(field) => field.number(reader, 0, 86_400),
        None => Some(SHUTDOWN_TIMEOUT),
    };
    setup.listen = match fields.get("admin") {
        Some(field) => admin(reader, &field),
        None => Some(ADMIN.into()),
    };
    if let Some(resources) = fields.get("resources") {
        let remedy = "watch the traffic of each VIP in `evenkeel status` against what the network carries";
        reader.not_translated(&resources, "there is no measure of how much of the network's capacity is used", remedy);
    }
    if let Some(field) = fields.get("otel") {
        otel(reader, &field);
    }
    fields.no_others(reader, XLB);

    let (namespace, service, endpoints) = match provider? {
        Provider::Static(slices) => ("default".to_owned(), name, Endpoints::Listed(slices)),
        Provider::Kubernetes { namespace, service } => (namespace, service, Endpoints::Cluster),
    };
    let families = match (&listen, &endpoints) {
        (Some(address), _) => vec![IpFamily::of(*address)],
        (None, Endpoints::Listed(slices)) if !slices.is_empty() => slices.iter().map(|slice| slice.family).collect(),
        // It knows nothing but IPv4.
        (None, _) => vec![IpFamily::V4],
    };
    let only = listen.into_iter().filter(|address| !address.is_unspecified()).collect();
    let addresses = if setup.vips.is_empty() { Addresses::Node { only, families } } else { Addresses::Vips };
    // It asks no backend of a list whether it is there; nobody else does either.
    let check = if udp { "icmp" } else { "tcp" };
    let health = matches!(endpoints, Endpoints::Listed(_)).then_some(Health {
        check,
        interval_seconds: 2,
        timeout_seconds: 1,
        rise: 2,
        fall: 3,
    });
    setup.services.push(Service {
        namespace,
        name: service,
        addresses,
        ports,
        udp,
        per_packet: false,
        health,
        endpoints,
    });
    Some(setup)
}

/// What its chart's values hold besides the configuration.
fn chart(reader: &mut Reader<'_>, values: &Fields<'_>) {
    const CHART: &str = "evenkeel's chart has values of its own, and one agent on every node";
    for (key, remedy) in [
        ("service", "put its annotations, such as those for ExternalDNS, on the Service of the manifests"),
        ("externalDNS", "ExternalDNS goes on reading the Service's annotations, the TTL among them"),
        (
            "terminationGracePeriodSeconds",
            "evenkeel's chart has one that is longer than a drain with its default timeouts",
        ),
        ("replicaCount", CHART),
        ("image", CHART),
        ("resources", CHART),
        ("env", CHART),
        ("affinity", CHART),
        ("nodeSelector", CHART),
        ("tolerations", CHART),
    ] {
        if let Some(field) = values.get(key) {
            reader.not_translated(&field, "this is for XLB's chart", remedy);
        }
    }
    values.get("config");
    values.no_others(reader, "XLB's chart");
}

/// The address to listen at; none: those of the node.
fn listen(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<IpAddr> {
    if !field.is_mapping() {
        let text = field.text(reader)?;
        if text != "auto" {
            let message = "`listen` is `auto`, or names an address by `ip`".to_owned();
            reader.error(
                "invalid_value",
                field,
                message,
                format!("write `listen: {{ip: {}}}`, or `listen: auto`", shortened(text)),
            );
        }
        return None;
    }
    let fields = field.fields(reader)?;
    let ip = fields.require(reader, "ip", "give the address to listen at, or `listen: auto`");
    fields.no_others(reader, XLB);
    let ip = ip?;
    let address: IpAddr = ip.parse(reader, "an address")?;
    if address.is_loopback() || address.is_multicast() {
        let message = format!("{address} is reached by nobody but this host");
        reader.error("invalid_value", &ip, message, "give the address that clients use, or `listen: auto`");
    }
    Some(address)
}

fn ports_of(reader: &mut Reader<'_>, field: &Field<'_>, udp: bool) -> Vec<Port> {
    let items = field.list(reader);
    if items.is_empty() || items.len() > MAX_PORTS {
        let message = format!("{} port mappings", items.len());
        reader.error("invalid_value", field, message, "XLB takes 1 to 8; make several configurations of more");
    }
    let mut seen = BTreeSet::new();
    let mut ports = Vec::new();
    for item in items.iter().take(MAX_PORTS) {
        let Some(fields) = item.fields(reader) else { continue };
        let local = fields.require(reader, "local_port", "give the port that clients use");
        let port = local.as_ref().and_then(|field| field.port(reader));
        let target = fields.require(reader, "remote_port", "give the port that backends listen at");
        let target = target.and_then(|field| field.port(reader));
        fields.no_others(reader, XLB);
        let (Some(local), Some(port), Some(target)) = (local, port, target) else { continue };
        if !seen.insert(port) {
            reader.error("duplicate_value", &local, format!("port {port} is given before"), "give it once");
        }
        let name = format!("{}-{port}", if udp { "udp" } else { "tcp" });
        ports.push(Port { name, port, target });
    }
    ports
}

enum Provider {
    Static(Vec<Slice>),
    Kubernetes { namespace: String, service: String },
}

fn provider_of(reader: &mut Reader<'_>, field: &Field<'_>, ports: &[Port]) -> Option<Provider> {
    let fields = field.fields(reader)?;
    let (listed, cluster) = (fields.get("static"), fields.get("kubernetes"));
    fields.no_others(reader, XLB);
    match (listed, cluster) {
        (Some(listed), None) => Some(Provider::Static(backends(reader, &listed, ports)?)),
        (None, Some(cluster)) => {
            let fields = cluster.fields(reader)?;
            let namespace = fields.require(reader, "namespace", "give the namespace of the Service");
            let service = fields.require(reader, "service", "give the name of the Service");
            fields.no_others(reader, XLB);
            let namespace = label(reader, &namespace?, "default")?;
            let found = label(reader, &service?, "service")?;
            cluster_service(reader, &cluster, &namespace, &found);
            Some(Provider::Kubernetes { namespace, service: found })
        }
        (Some(_), Some(second)) => {
            reader.error("invalid_value", &second, "there are two providers", "keep static or kubernetes");
            None
        }
        (None, None) => {
            reader.error("missing_field", field, "there is no provider", "give static or kubernetes");
            None
        }
    }
}

/// What a person has to do for a Service that the cluster has already.
pub(crate) fn cluster_service(reader: &mut Reader<'_>, field: &Field<'_>, namespace: &str, service: &str) {
    let message = format!(
        "Service {namespace}/{service} is there already, with a selector and names of ports that are not known here"
    );
    let remedy = "merge the manifest into that of the Service: keep its selector, and for each port the name that its \
                  EndpointSlices have";
    reader.not_translated(field, message, remedy);
}

fn backends(reader: &mut Reader<'_>, field: &Field<'_>, ports: &[Port]) -> Option<Vec<Slice>> {
    let fields = field.fields(reader)?;
    let list = fields.require(reader, "backends", "list the backends: name and ip");
    fields.no_others(reader, XLB);
    let list = list?;
    let mut seen = BTreeSet::new();
    let mut endpoints = Vec::new();
    for item in list.list(reader) {
        let Some(fields) = item.fields(reader) else { continue };
        let name = fields.get("name").and_then(|field| field.text(reader)).unwrap_or_default().to_owned();
        let ip = fields.require(reader, "ip", "give the backend's address");
        fields.no_others(reader, XLB);
        let Some(ip) = ip else { continue };
        let Some(address) = ip.parse::<IpAddr>(reader, "an address") else { continue };
        if is_unreachable(address) {
            let message = format!("{address} is no other host's");
            reader.error("invalid_value", &ip, message, "give an address that can be reached over the network");
        } else if seen.insert(address) {
            endpoints.push((address, name));
        } else {
            reader.not_translated(
                &ip,
                format!("{address} is given before, and counts once"),
                "give it a weight: evenkeel.io/weights",
            );
        }
    }
    if endpoints.is_empty() && !reader.failed() {
        let message = "there is no backend: every connection will be refused".to_owned();
        reader.warning("no_backends", &list, message, "list the backends: name and ip");
    }
    let ports: Vec<(String, u16)> = ports.iter().map(|port| (port.name.clone(), port.target)).collect();
    let slices = families(endpoints.iter().map(|(address, _)| *address)).into_iter().map(|family| Slice {
        family,
        ports: ports.clone(),
        endpoints: endpoints.iter().filter(|(address, _)| IpFamily::of(*address) == family).cloned().collect(),
    });
    Some(slices.collect())
}

/// Where health, status and metrics are served.
fn admin(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<SocketAddr> {
    let fields = field.fields(reader)?;
    let address = fields.get("address").map_or(Some(ADMIN.0), |field| field.parse(reader, "an address"));
    let port = fields.get("port").map_or(Some(ADMIN.1), |field| field.port(reader));
    if let Some(auth) = fields.get("auth") {
        let remedy =
            "let --listen stay at an address that only its readers reach, or put a proxy with a password in front";
        reader.not_translated(&auth, "no password is asked for", remedy);
    }
    fields.no_others(reader, XLB);
    Some(SocketAddr::new(address?, port?))
}

fn otel(reader: &mut Reader<'_>, field: &Field<'_>) {
    let Some(fields) = field.fields(reader) else { return };
    let enabled = fields.get("enabled").and_then(|field| field.bool(reader)).unwrap_or_default();
    let others: Vec<&str> = ["endpoint", "protocol", "export_interval_secs", "headers"]
        .into_iter()
        .filter(|key| fields.get(key).is_some())
        .collect();
    fields.no_others(reader, XLB);
    if enabled {
        let message = format!("metrics are not sent anywhere ({})", others.join(", "));
        let remedy = "let the collector fetch them: its prometheus receiver at the address of --listen, path /metrics";
        reader.not_translated(field, message.replace(" ()", ""), remedy);
    }
}
