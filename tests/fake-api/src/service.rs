//! What the API server does to Services: defaults, addresses and node ports, and what it refuses.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use crate::error::Cause;
use crate::object::{at, child, fields, text};

/// Which families Services may have, the first being the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Families {
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
    /// IPv4 first.
    #[default]
    Dual,
}

impl Families {
    fn list(self) -> &'static [&'static str] {
        match self {
            Self::Ipv4 => &["IPv4"],
            Self::Ipv6 => &["IPv6"],
            Self::Dual => &["IPv4", "IPv6"],
        }
    }
}

const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// Cluster addresses and node ports in use.
#[derive(Debug)]
pub(crate) struct Allocator {
    families: Families,
    addresses: HashSet<IpAddr>,
    /// Protocol and number. A health check node port counts as TCP.
    ports: HashSet<(String, u16)>,
    next_address: u32,
    next_port: u16,
}

impl Allocator {
    pub(crate) fn new(families: Families) -> Self {
        Self {
            families,
            addresses: HashSet::new(),
            ports: HashSet::new(),
            next_address: 10,
            next_port: *NODE_PORTS.start(),
        }
    }

    /// Counts what a stored Service holds.
    pub(crate) fn take(&mut self, service: &Value) {
        self.addresses.extend(addresses(service));
        self.ports.extend(ports(service));
    }

    /// Gives back what a Service held.
    pub(crate) fn give_back(&mut self, service: &Value) {
        for address in addresses(service) {
            self.addresses.remove(&address);
        }
        for port in ports(service) {
            self.ports.remove(&port);
        }
    }

    fn address(&mut self, family: &str) -> Option<String> {
        for _ in 0..0xffff_u32 {
            let number = self.next_address;
            self.next_address = if number >= 0xfffe { 10 } else { number + 1 };
            let low = u16::try_from(number & 0xffff).ok()?;
            let address = if family == "IPv4" {
                let [high, low] = low.to_be_bytes();
                IpAddr::V4(Ipv4Addr::new(10, 96, high, low))
            } else {
                IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, low))
            };
            if self.addresses.insert(address) {
                return Some(address.to_string());
            }
        }
        None
    }

    fn port(&mut self, protocols: &[&str]) -> Option<u16> {
        for _ in NODE_PORTS {
            let number = self.next_port;
            self.next_port = if number >= *NODE_PORTS.end() { *NODE_PORTS.start() } else { number + 1 };
            if protocols.iter().all(|protocol| !self.ports.contains(&((*protocol).to_owned(), number))) {
                for protocol in protocols {
                    self.ports.insert(((*protocol).to_owned(), number));
                }
                return Some(number);
            }
        }
        None
    }

    /// Gives a Service what it needs and does not have. What it holds already must have been given back before.
    pub(crate) fn fill(&mut self, service: &mut Value, held: Option<&Value>) -> Result<(), Vec<Cause>> {
        let mut causes = Vec::new();
        let before: HashSet<_> = held.into_iter().flat_map(addresses).collect();
        for (index, address) in addresses(service).into_iter().enumerate() {
            if !before.contains(&address) && self.addresses.contains(&address) {
                let value = Value::String(address.to_string());
                let field = format!("spec.clusterIPs[{index}]");
                causes.push(Cause::invalid(
                    field,
                    &value,
                    format!("failed to allocate IP {address}: provided IP is already allocated"),
                ));
            }
        }
        self.fill_addresses(service, &mut causes);
        self.fill_ports(service, held, &mut causes);
        if causes.is_empty() { Ok(()) } else { Err(causes) }
    }

    fn fill_addresses(&mut self, service: &mut Value, causes: &mut Vec<Cause>) {
        let kind = text(service, &["spec", "type"]).to_owned();
        if kind == "ExternalName" {
            return;
        }
        let served = self.families.list();
        let given: Vec<String> = list(service, "ipFamilies");
        let mut ips: Vec<String> = list(service, "clusterIPs");
        let single = text(service, &["spec", "clusterIP"]).to_owned();
        if ips.is_empty() && !single.is_empty() {
            ips.push(single);
        }
        let headless = ips.first().is_some_and(|ip| ip == "None");
        let selectorless =
            at(service, &["spec", "selector"]).and_then(Value::as_object).is_none_or(|map| map.is_empty());
        // What it points to is not known, nor so the families of it.
        let free = headless && selectorless;
        let mut policy = text(service, &["spec", "ipFamilyPolicy"]).to_owned();
        if policy.is_empty() {
            policy = if (free && given.is_empty()) || ips.len() > 1 || given.len() > 1 {
                "RequireDualStack"
            } else {
                "SingleStack"
            }
            .to_owned();
        }
        let family_of = |ip: &str| match ip.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => Some("IPv4".to_owned()),
            Ok(IpAddr::V6(_)) => Some("IPv6".to_owned()),
            Err(_) => None,
        };
        let mut wanted = given;
        for (index, ip) in ips.iter().enumerate() {
            if let (Some(family), true) = (family_of(ip), wanted.get(index).is_none()) {
                wanted.push(family);
            }
        }
        if wanted.is_empty() {
            wanted.extend(served.first().map(|family| (*family).to_owned()));
        }
        for (index, family) in wanted.iter().enumerate() {
            if !served.contains(&family.as_str()) && !free {
                causes.push(Cause::invalid(
                    format!("spec.ipFamilies[{index}]"),
                    &Value::String(family.clone()),
                    "not configured on this cluster",
                ));
                return;
            }
        }
        if policy == "RequireDualStack" && served.len() < 2 && !free {
            causes.push(Cause::invalid(
                "spec.ipFamilyPolicy",
                &Value::String(policy),
                "this cluster is not configured for dual-stack services",
            ));
            return;
        }
        if policy == "SingleStack" {
            wanted.truncate(1);
        } else if free {
            wanted.extend(
                ["IPv4", "IPv6"]
                    .iter()
                    .filter(|one| !wanted.iter().any(|own| own == *one))
                    .map(|one| (*one).to_owned())
                    .collect::<Vec<_>>(),
            );
        } else {
            let missing: Vec<String> = served
                .iter()
                .filter(|one| !wanted.iter().any(|own| own == *one))
                .map(|one| (*one).to_owned())
                .collect();
            wanted.extend(missing);
        }
        if !headless {
            ips.truncate(wanted.len());
            for (index, family) in wanted.iter().enumerate() {
                if ips.get(index).is_some_and(|ip| !ip.is_empty()) {
                    continue;
                }
                match self.address(family) {
                    Some(address) => ips.push(address),
                    None => causes.push(Cause::invalid("spec.clusterIPs", &Value::Null, "range is full")),
                }
            }
        }
        let spec = child(service, "spec");
        if let Some(first) = ips.first() {
            spec.insert("clusterIP".into(), first.clone().into());
        }
        spec.insert("clusterIPs".into(), ips.into());
        spec.insert("ipFamilies".into(), wanted.into());
        spec.insert("ipFamilyPolicy".into(), policy.into());
    }

    fn fill_ports(&mut self, service: &mut Value, held: Option<&Value>, causes: &mut Vec<Cause>) {
        let before: HashSet<_> = held.into_iter().flat_map(ports).collect();
        let allocate = needs_node_ports(service)
            && (text(service, &["spec", "type"]) == "NodePort"
                || at(service, &["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false)));
        let health = needs_health_port(service);
        let number = |value: Option<&Value>| {
            value.and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()).unwrap_or(0)
        };
        let health_port = number(at(service, &["spec", "healthCheckNodePort"]));
        let spec = child(service, "spec");
        let mut taken: HashSet<(String, u16)> = HashSet::new();
        // One number for ports that differ in their protocol only, as for DNS.
        let mut by_port: Vec<(u64, String, u16)> = Vec::new();
        if let Some(Value::Array(list)) = spec.get_mut("ports") {
            for (index, port) in list.iter_mut().enumerate() {
                let protocol = text(port, &["protocol"]).to_owned();
                let own = number(port.get("nodePort"));
                let service_port = port.get("port").and_then(Value::as_u64).unwrap_or(0);
                let field = format!("spec.ports[{index}].nodePort");
                if own != 0 {
                    let key = (protocol.clone(), own);
                    let value = Value::from(own);
                    if !NODE_PORTS.contains(&own) {
                        causes.push(Cause::invalid(
                            field,
                            &value,
                            "provided port is not in the valid range. The range of valid ports is 30000-32767",
                        ));
                    } else if (self.ports.contains(&key) && !before.contains(&key)) || !taken.insert(key.clone()) {
                        causes.push(Cause::invalid(field, &value, "provided port is already allocated"));
                    }
                    self.ports.insert(key);
                    by_port.push((service_port, protocol, own));
                } else if allocate {
                    let shared = by_port.iter().find(|(number, other, node)| {
                        *number == service_port
                            && *other != protocol
                            && !self.ports.contains(&(protocol.clone(), *node))
                    });
                    let found = match shared {
                        Some((_, _, node)) => {
                            self.ports.insert((protocol.clone(), *node));
                            Some(*node)
                        }
                        None => self.port(&[&protocol]),
                    };
                    let Some(found) = found else {
                        causes.push(Cause::invalid(field, &Value::Null, "range is full"));
                        continue;
                    };
                    fields(port).insert("nodePort".into(), found.into());
                    by_port.push((service_port, protocol, found));
                }
            }
        }
        if health && health_port == 0 {
            if let Some(found) = self.port(&["TCP"]) {
                spec.insert("healthCheckNodePort".into(), found.into());
            }
        } else if health {
            let key = ("TCP".to_owned(), health_port);
            if self.ports.contains(&key) && !before.contains(&key) {
                let why = format!(
                    "failed to allocate requested HealthCheck NodePort {health_port}: provided port is already allocated"
                );
                causes.push(Cause::invalid("spec.healthCheckNodePort", &health_port.into(), why));
            }
            self.ports.insert(key);
        }
    }
}

fn list(service: &Value, name: &str) -> Vec<String> {
    at(service, &["spec", name])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn addresses(service: &Value) -> Vec<IpAddr> {
    let mut ips = list(service, "clusterIPs");
    if ips.is_empty() {
        ips.push(text(service, &["spec", "clusterIP"]).to_owned());
    }
    ips.iter().filter_map(|ip| ip.parse().ok()).collect()
}

fn ports(service: &Value) -> Vec<(String, u16)> {
    let number = |value: Option<&Value>| value.and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    let mut found: Vec<(String, u16)> = at(service, &["spec", "ports"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|port| Some((text(port, &["protocol"]).to_owned(), number(port.get("nodePort"))?)))
        .collect();
    found.extend(number(at(service, &["spec", "healthCheckNodePort"])).map(|port| ("TCP".to_owned(), port)));
    found.retain(|(_, port)| *port != 0);
    found
}

fn needs_node_ports(service: &Value) -> bool {
    matches!(text(service, &["spec", "type"]), "NodePort" | "LoadBalancer")
}

fn needs_health_port(service: &Value) -> bool {
    text(service, &["spec", "type"]) == "LoadBalancer" && text(service, &["spec", "externalTrafficPolicy"]) == "Local"
}

fn externally_accessible(service: &Value) -> bool {
    needs_node_ports(service)
        || (text(service, &["spec", "type"]) == "ClusterIP" && !list(service, "externalIPs").is_empty())
}

/// The defaults a Service gets whenever it is written.
pub(crate) fn defaults(service: &mut Value) {
    let spec = child(service, "spec");
    spec.entry("sessionAffinity").or_insert_with(|| "None".into());
    spec.entry("type").or_insert_with(|| "ClusterIP".into());
    if spec.get("sessionAffinity").and_then(Value::as_str) == Some("None") {
        spec.remove("sessionAffinityConfig");
    } else if spec.get("sessionAffinity").and_then(Value::as_str) == Some("ClientIP") {
        let config = fields(spec.entry("sessionAffinityConfig").or_insert_with(|| json!({})));
        let client = fields(config.entry("clientIP").or_insert_with(|| json!({})));
        client.entry("timeoutSeconds").or_insert_with(|| 10800.into());
    }
    if let Some(Value::Array(ports)) = spec.get_mut("ports") {
        for port in ports {
            let port = fields(port);
            port.entry("protocol").or_insert_with(|| "TCP".into());
            if matches!(port.get("targetPort"), None | Some(Value::Null))
                || port.get("targetPort").is_some_and(|target| *target == json!(0) || *target == json!(""))
            {
                let number = port.get("port").cloned().unwrap_or(Value::Null);
                port.insert("targetPort".into(), number);
            }
        }
    }
    let (outside, kind) = (externally_accessible(service), text(service, &["spec", "type"]).to_owned());
    let spec = child(service, "spec");
    if outside {
        spec.entry("externalTrafficPolicy").or_insert_with(|| "Cluster".into());
    }
    if kind != "ExternalName" {
        spec.entry("internalTrafficPolicy").or_insert_with(|| "Cluster".into());
    }
    if kind == "LoadBalancer" {
        spec.entry("allocateLoadBalancerNodePorts").or_insert_with(|| true.into());
    }
    let status = child(service, "status");
    let balancer = fields(status.entry("loadBalancer").or_insert_with(|| json!({})));
    if let Some(Value::Array(ingress)) = balancer.get_mut("ingress") {
        for entry in ingress {
            if !text(entry, &["ip"]).is_empty() {
                fields(entry).entry("ipMode").or_insert_with(|| "VIP".into());
            }
        }
    }
}

/// What an update takes over from the Service as it was: values the server gave, and none that its new type lacks.
pub(crate) fn carry_over(service: &mut Value, old: &Value) {
    let has_address = |one: &Value| text(one, &["spec", "type"]) != "ExternalName";
    if has_address(old) && has_address(service) {
        let empty = text(service, &["spec", "clusterIP"]).is_empty();
        let ips = list(service, "clusterIPs");
        let spec = child(service, "spec");
        if empty && ips.is_empty() {
            for name in ["clusterIP", "clusterIPs"] {
                if let Some(value) = at(old, &["spec", name]) {
                    spec.insert(name.into(), value.clone());
                }
            }
        }
        for name in ["ipFamilies", "ipFamilyPolicy"] {
            if let (None, Some(value)) = (spec.get(name), at(old, &["spec", name])) {
                spec.insert(name.into(), value.clone());
            }
        }
    } else if has_address(old) {
        let spec = child(service, "spec");
        for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec.get(name) == at(old, &["spec", name]) {
                spec.remove(name);
            }
        }
    }
    let old_ports = at(old, &["spec", "ports"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let (needed, needs) = (needs_node_ports(old), needs_node_ports(service));
    if let Some(Value::Array(ports)) = child(service, "spec").get_mut("ports") {
        for port in ports {
            let same = old_ports
                .iter()
                .find(|one| one.get("port") == port.get("port") && one.get("protocol") == port.get("protocol"));
            let given = same.and_then(|one| one.get("nodePort"));
            let own = port.get("nodePort").filter(|value| value.as_u64() != Some(0));
            match (needed && needs, own, given) {
                (true, None, Some(given)) => {
                    fields(port).insert("nodePort".into(), given.clone());
                }
                (false, Some(own), Some(given)) if needed && !needs && own == given => {
                    fields(port).remove("nodePort");
                }
                _ => {}
            }
        }
    }
    let drop_if_same = |service: &mut Value, name: &str| {
        let spec = child(service, "spec");
        if spec.get(name) == at(old, &["spec", name]) {
            spec.remove(name);
        }
    };
    match (needs_health_port(old), needs_health_port(service)) {
        (true, true) => {
            let spec = child(service, "spec");
            if let (None, Some(value)) = (spec.get("healthCheckNodePort"), at(old, &["spec", "healthCheckNodePort"])) {
                spec.insert("healthCheckNodePort".into(), value.clone());
            }
        }
        (true, false) => drop_if_same(service, "healthCheckNodePort"),
        _ => {}
    }
    let balanced = |one: &Value| text(one, &["spec", "type"]) == "LoadBalancer";
    if balanced(old) && !balanced(service) {
        drop_if_same(service, "allocateLoadBalancerNodePorts");
        drop_if_same(service, "loadBalancerClass");
    }
    if externally_accessible(old) && !externally_accessible(service) {
        drop_if_same(service, "externalTrafficPolicy");
    }
    // A dual-stack Service that is made single-stack keeps its first address.
    if text(service, &["spec", "ipFamilyPolicy"]) == "SingleStack"
        && text(old, &["spec", "ipFamilyPolicy"]) != "SingleStack"
    {
        let spec = child(service, "spec");
        for name in ["clusterIPs", "ipFamilies"] {
            if let Some(Value::Array(list)) = spec.get_mut(name) {
                list.truncate(1);
            }
        }
    }
}

/// What is wrong with a Service.
pub(crate) fn validate(service: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = |name: &str| at(service, &["spec", name]);
    let kind = text(service, &["spec", "type"]);
    if !matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName") {
        let supported = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"].map(str::to_owned);
        causes.push(Cause::unsupported("spec.type", &kind.into(), &supported));
    }
    let headless = text(service, &["spec", "clusterIP"]) == "None";
    let ports = spec("ports").and_then(Value::as_array).cloned().unwrap_or_default();
    if ports.is_empty() && !headless && kind != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        let value = Value::String("None".to_owned());
        causes.push(Cause::invalid(
            "spec.clusterIPs[0]",
            &value,
            format!("may not be set to 'None' for {kind} services"),
        ));
    }
    if kind == "ExternalName" && text(service, &["spec", "externalName"]).is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    }
    for (index, port) in ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        let number = port.get("port").and_then(Value::as_i64).unwrap_or(0);
        if !(1..=65535).contains(&number) {
            causes.push(Cause::invalid(field("port"), &number.into(), "must be between 1 and 65535, inclusive"));
        }
        if ports.len() > 1 && text(port, &["name"]).is_empty() {
            causes.push(Cause::required(field("name"), ""));
        }
        let protocol = text(port, &["protocol"]);
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            let supported = ["SCTP", "TCP", "UDP"].map(str::to_owned);
            causes.push(Cause::unsupported(field("protocol"), &protocol.into(), &supported));
        }
        for before in ports.iter().take(index) {
            let name = text(port, &["name"]);
            if !name.is_empty() && name == text(before, &["name"]) {
                causes.push(Cause::duplicate(field("name"), &name.into()));
            }
            if before.get("port") == port.get("port") && before.get("protocol") == port.get("protocol") {
                let same = json!({"port": number, "protocol": protocol});
                causes.push(Cause::duplicate(format!("spec.ports[{index}]"), &same));
            }
        }
    }
    let policy = text(service, &["spec", "externalTrafficPolicy"]);
    if !policy.is_empty() && !externally_accessible(service) {
        causes.push(Cause::invalid(
            "spec.externalTrafficPolicy",
            &policy.into(),
            "may only be set for externally-accessible services",
        ));
    } else if !policy.is_empty() && !matches!(policy, "Cluster" | "Local") {
        let supported = ["Cluster", "Local"].map(str::to_owned);
        causes.push(Cause::unsupported("spec.externalTrafficPolicy", &policy.into(), &supported));
    }
    if let Some(port) = spec("healthCheckNodePort").filter(|port| port.as_u64() != Some(0))
        && !needs_health_port(service)
    {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.push(Cause::invalid("spec.healthCheckNodePort", port, why));
    }
    if kind != "LoadBalancer" {
        if spec("allocateLoadBalancerNodePorts").is_some() {
            causes.push(Cause::forbidden(
                "spec.allocateLoadBalancerNodePorts",
                "may only be used when `type` is 'LoadBalancer'",
            ));
        }
        if spec("loadBalancerClass").is_some() {
            causes.push(Cause::forbidden("spec.loadBalancerClass", "may only be used when `type` is 'LoadBalancer'"));
        }
    }
    for (index, range) in list(service, "loadBalancerSourceRanges").iter().enumerate() {
        let field = format!("spec.LoadBalancerSourceRanges[{index}]");
        let valid = range.trim().split_once('/').is_some_and(|(address, length)| {
            let most = address.parse::<IpAddr>().map(|address| if address.is_ipv4() { 32 } else { 128 });
            most.is_ok_and(|most| length.parse::<u8>().is_ok_and(|length| length <= most))
        });
        if kind != "LoadBalancer" {
            causes.push(Cause::forbidden(
                "spec.LoadBalancerSourceRanges",
                "may only be used when `type` is 'LoadBalancer'",
            ));
            break;
        } else if !valid {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.push(Cause::invalid(field, &range.as_str().into(), why));
        }
    }
    let affinity = text(service, &["spec", "sessionAffinity"]);
    if !matches!(affinity, "None" | "ClientIP") {
        let supported = ["ClientIP", "None"].map(str::to_owned);
        causes.push(Cause::unsupported("spec.sessionAffinity", &affinity.into(), &supported));
    }
    if let Some(old) = old {
        validate_change(service, old, causes);
    }
}

fn validate_change(service: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let has_address = |one: &Value| text(one, &["spec", "type"]) != "ExternalName";
    let first = |one: &Value| list(one, "clusterIPs").first().cloned().unwrap_or_default();
    if has_address(service) && has_address(old) && !first(old).is_empty() && first(service) != first(old) {
        let now = list(service, "clusterIPs");
        if !now.is_empty() {
            let shown: Value = first(service).into();
            causes.push(Cause::invalid("spec.clusterIPs[0]", &shown, "may not change once set"));
        }
    }
    let balanced = |one: &Value| text(one, &["spec", "type"]) == "LoadBalancer";
    let class = |one: &Value| at(one, &["spec", "loadBalancerClass"]).cloned().unwrap_or(Value::Null);
    if balanced(service) && balanced(old) && class(service) != class(old) {
        causes.push(Cause::invalid("spec.loadBalancerClass", &class(service), "may not change once set"));
    }
    let port = |one: &Value| at(one, &["spec", "healthCheckNodePort"]).cloned().unwrap_or(Value::Null);
    if needs_health_port(service) && needs_health_port(old) && port(service) != port(old) {
        causes.push(Cause::invalid("spec.healthCheckNodePort", &port(service), "field is immutable"));
    }
}

/// What is wrong with a Service's status.
pub(crate) fn validate_status(service: &Value, causes: &mut Vec<Cause>) {
    let ingress =
        at(service, &["status", "loadBalancer", "ingress"]).and_then(Value::as_array).cloned().unwrap_or_default();
    if !ingress.is_empty() && text(service, &["spec", "type"]) != "LoadBalancer" {
        causes.push(Cause::forbidden(
            "status.loadBalancer.ingress",
            "may only be used when `spec.type` is \"LoadBalancer\"",
        ));
        return;
    }
    for (index, entry) in ingress.iter().enumerate() {
        let field = |name: &str| format!("status.loadBalancer.ingress[{index}].{name}");
        let ip = text(entry, &["ip"]);
        let mode = entry.get("ipMode").and_then(Value::as_str);
        if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            causes.push(Cause::invalid(field("ip"), &ip.into(), why));
        }
        match (ip.is_empty(), mode) {
            (true, Some(_)) => {
                causes.push(Cause::forbidden(field("ipMode"), "may not be specified when `ip` is not set"));
            }
            (false, Some(mode)) if !matches!(mode, "VIP" | "Proxy") => {
                let supported = ["Proxy", "VIP"].map(str::to_owned);
                causes.push(Cause::unsupported(field("ipMode"), &mode.into(), &supported));
            }
            (false, None) => causes.push(Cause::required(field("ipMode"), "must be specified when `ip` is set")),
            _ => {}
        }
        let host = text(entry, &["hostname"]);
        if !host.is_empty() && host.parse::<IpAddr>().is_ok() {
            causes.push(Cause::invalid(field("hostname"), &host.into(), "must be a DNS name, not an IP address"));
        }
    }
}
