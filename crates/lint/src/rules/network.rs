//! Services, routes and endpoints.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_manifest::Severity::{Error, Info, Warning};
use serde_json::json;

use super::lifecycle::wait;
use super::{Ask, Found};
use crate::config::Balancer;
use crate::fix::Edit;
use crate::picture::{Kind, Port, Service};
use crate::view::View;

pub(super) fn local(ask: &Ask<'_>, found: &mut Found) {
    for service in ask.picture.services.iter().filter(|service| service.is_local()) {
        let place = service.object.at("spec.externalTrafficPolicy").path;
        let needed = ask.config.detection;
        // A drain leaves the pods of a DaemonSet alone, but a rollout does not.
        let shortest = ask.picture.workloads_of(service).filter_map(|workload| {
            let seconds = workload.serving_containers().filter_map(|container| wait(workload, container));
            seconds.min().map(|seconds| (seconds, workload))
        });
        if let Some((seconds, workload)) =
            shortest.min_by_key(|(seconds, _)| *seconds).filter(|(seconds, _)| *seconds < needed)
        {
            let message = format!(
                "Local: a node's last pod of {} {} leaves after {seconds} s, the node gets packets for {needed} s: about {} s of them meet nobody",
                workload.object.kind,
                workload.object.name,
                needed - seconds
            );
            found.add(Warning, &service.object, &place, message);
        } else if ask.config.balancer == Balancer::Evenkeel {
            let message = "Local is not needed for the client's address: Evenkeel keeps it under Cluster too, and all nodes share the load";
            found
                .add(Info, &service.object, &place, message.to_owned())
                .remedy("remove externalTrafficPolicy, unless replies must not cross nodes");
        }
    }
}

pub(super) fn local_nodes(ask: &Ask<'_>, found: &mut Found) {
    let counted = i64::try_from(ask.picture.nodes).ok().filter(|nodes| *nodes > 0);
    let Some(nodes) = ask.config.nodes.or(counted) else { return };
    for service in ask.picture.services.iter().filter(|service| service.is_local()) {
        for workload in ask.picture.workloads_of(service).filter(|workload| workload.kind != Kind::DaemonSet) {
            let (replicas, _) = ask.picture.replicas(workload);
            if replicas < nodes {
                let message = format!(
                    "Local with {replicas} replicas on {nodes} nodes: {nodes} - {replicas} = {} nodes answer nobody",
                    nodes - replicas
                );
                let severity = if ask.config.balancer == Balancer::Evenkeel { Info } else { Warning };
                found.add(severity, &service.object, &service.object.at("spec.externalTrafficPolicy").path, message);
            }
        }
    }
}

/// Kubernetes' default for ClientIP affinity, in seconds.
const DEFAULT_AFFINITY: i64 = 10_800;

pub(super) fn affinity(ask: &Ask<'_>, found: &mut Found) {
    for service in &ask.picture.services {
        let place = service.object.at("spec.sessionAffinity");
        if place.text() != Some("ClientIP") {
            continue;
        }
        let dns = service.ports.iter().any(|port| port.port == 53);
        let Some(what) =
            service.ports.iter().any(|port| port.udp || port.port == 53).then_some(if dns { "DNS" } else { "UDP" })
        else {
            continue;
        };
        let timeout = service.object.at("spec.sessionAffinityConfig.clientIP.timeoutSeconds");
        let seconds = timeout.int().unwrap_or(DEFAULT_AFFINITY);
        let said = if timeout.exists() { "" } else { " (the default)" };
        let hours = if seconds >= 3600 { format!(" = {} h", hours(seconds)) } else { String::new() };
        let message = format!(
            "ClientIP affinity on {what} for {seconds} s{said}{hours}: everybody behind one address, such as a resolver or a NAT, is tied to one backend, healthy or not"
        );
        let mut edits = vec![Edit::Set(place.path.clone(), json!("None"))];
        let config = service.object.at("spec.sessionAffinityConfig");
        if config.exists() {
            edits.push(Edit::Remove(config.path));
        }
        found.add(if dns { Error } else { Warning }, &service.object, &place.path, message).fix(edits);
    }
}

pub(super) fn not_ready(ask: &Ask<'_>, found: &mut Found) {
    for service in &ask.picture.services {
        let place = service.object.at("spec.publishNotReadyAddresses");
        // Behind a name in DNS alone there are no addresses to publish.
        if place.bool() != Some(true) || service.object.at("spec.type").text() == Some("ExternalName") {
            continue;
        }
        // Members of a cluster find each other before they are ready: that is what it is for.
        let for_peers = service.headless
            && (service.workloads.is_empty()
                || ask.picture.workloads_of(service).any(|workload| workload.kind == Kind::StatefulSet));
        if for_peers {
            continue;
        }
        let message =
            "publishNotReadyAddresses: every new pod gets its share of requests from 0 s on, ready or not".to_owned();
        found.add(Error, &service.object, &place.path, message).fix(vec![Edit::Set(place.path.clone(), json!(false))]);
    }
}

pub(super) fn probed(ask: &Ask<'_>, found: &mut Found) {
    let by_us = ask.picture.workloads.iter().flat_map(|workload| &workload.containers).any(|container| {
        let words = ["command", "args"].iter().flat_map(|key| container.view.key(key).list()).collect::<Vec<_>>();
        words.iter().any(|word| word.text() == Some("probe"))
            && container.view.key("image").text().is_some_and(|image| image.contains("evenkeel"))
    });
    for service in ask.picture.services.iter().filter(|service| service.is_load_balancer()) {
        let by_prometheus = !ask.picture.probes.is_empty() || !ask.picture.knows("Probe");
        if !by_us && !by_prometheus {
            let message = "nothing among these manifests asks it all the time".to_owned();
            found.add(Info, &service.object, &service.object.at("metadata.name").path, message);
        }
    }
}

/// The addresses a Service asks for.
fn asked(service: &Service<'_>) -> BTreeSet<String> {
    let object = &service.object;
    let annotated = ["metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"];
    let annotated = annotated.iter().filter_map(|key| object.annotation(key).text());
    let all = annotated.chain(object.at("spec.loadBalancerIP").text());
    all.flat_map(|text| text.split(',')).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
}

fn same_port(one: &Port<'_>, other: &Port<'_>) -> bool {
    (one.port, one.udp) == (other.port, other.udp)
}

/// Whether two Services may have one address, as long as their ports differ.
fn may_share(one: &Service<'_>, other: &Service<'_>) -> bool {
    let key = |service: &Service<'_>| {
        let keys = ["metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"];
        keys.iter().find_map(|key| service.object.annotation(key).text().map(str::to_owned))
    };
    // Nobody allocates the nodes' own addresses: all who ask for them have them.
    let at_nodes = |service: &Service<'_>| service.object.annotation("evenkeel.io/addresses").text() == Some("node");
    (key(one).is_some() && key(one) == key(other)) || (at_nodes(one) && at_nodes(other))
}

pub(super) fn sharing(ask: &Ask<'_>, found: &mut Found) {
    let mut first: BTreeMap<String, &Service<'_>> = BTreeMap::new();
    for service in ask.picture.services.iter().filter(|service| service.is_load_balancer()) {
        for address in asked(service) {
            let Some(other) = first.get(&address) else {
                first.insert(address, service);
                continue;
            };
            let clash = service.ports.iter().find(|port| other.ports.iter().any(|own| same_port(own, port)));
            let other_name = other.object.full_name();
            let message = match clash {
                Some(port) if may_share(other, service) => format!(
                    "{address} is shared with {other_name}, and both offer port {}/{}: 1 of 2 gets it",
                    port.port,
                    if port.udp { "UDP" } else { "TCP" }
                ),
                None if may_share(other, service) => continue,
                _ => {
                    format!("{address} is asked for by {other_name} too, without the same sharing key: 1 of 2 gets it")
                }
            };
            found.add(Error, &service.object, &service.object.at("metadata.annotations").path, message);
        }
    }
}

pub(super) fn endpoints(ask: &Ask<'_>, found: &mut Found) {
    for object in &ask.picture.endpoints {
        let labels = object.at("metadata.labels");
        let managed = labels.key("endpointslice.kubernetes.io/managed-by").exists()
            || object.at("metadata.ownerReferences").exists();
        if managed {
            continue;
        }
        let (addresses, place) = if object.kind == "Endpoints" {
            let subsets = object.at("subsets").list();
            let addresses = subsets.iter().flat_map(|subset| subset.key("addresses").list());
            (addresses.filter_map(|address| address.key("ip").text()).collect::<Vec<_>>(), object.at("subsets"))
        } else {
            let endpoints = object.at("endpoints").list();
            let addresses = endpoints.iter().flat_map(|endpoint| endpoint.key("addresses").list());
            (addresses.filter_map(|address| address.text()).collect(), object.at("endpoints"))
        };
        let service = labels.key("kubernetes.io/service-name").text().unwrap_or(object.name);
        // Every API server keeps the list of its own addresses.
        if (object.namespace, service) == ("default", "kubernetes") {
            continue;
        }
        let mut services = ask.picture.services.iter();
        let own = services.find(|own| own.object.name == service && own.object.namespace == object.namespace);
        let selected = own.is_some_and(|own| !own.selector.is_empty());
        if !selected && own.is_some_and(|own| own.object.annotation("evenkeel.io/health-check").exists()) {
            continue;
        }
        let different: BTreeSet<&&str> = addresses.iter().collect();
        let twice = addresses.len() - different.len();
        let mut message = match different.len() {
            0 => "endpoints by hand, and none yet".to_owned(),
            n => format!(
                "{n} addresses by hand: when one of them dies, 1 / {n} of new connections fail until somebody edits this"
            ),
        };
        if let (1, true) = (different.len(), twice > 0) {
            message = format!(
                "1 address by hand, {} times: it counts once, and when it dies all connections fail",
                addresses.len()
            );
        }
        if selected {
            message += "; the Service has a selector as well, and Kubernetes overwrites this";
        }
        found.add(if selected { Error } else { Warning }, object, &place.path, message);
    }
}

pub(super) fn targets(ask: &Ask<'_>, found: &mut Found) {
    for service in &ask.picture.services {
        for port in &service.ports {
            let named = port.target.parse::<i64>().is_err();
            let mut workloads = ask.picture.workloads_of(service).peekable();
            if named
                && workloads.peek().is_some()
                && !workloads.any(|workload| workload.port_number(&port.target).is_some())
            {
                let message =
                    format!("no container port is named `{}`: 0 endpoints for port {}", port.target, port.port);
                found.add(Error, &service.object, &port.view.key("targetPort").path, message);
            }
        }
    }
}

pub(super) fn routes(ask: &Ask<'_>, found: &mut Found) {
    for route in &ask.picture.routes {
        let mut backends = Vec::new();
        if route.kind == "Ingress" {
            backends.push(route.at("spec.defaultBackend.service"));
            for rule in route.at("spec.rules").list() {
                backends.extend(rule.at("http.paths").list().iter().map(|path| path.at("backend.service")));
            }
        } else {
            for rule in route.at("spec.rules").list() {
                let of_others = |backend: &View<'_>| {
                    // An empty group is that of Services.
                    backend.key("kind").text().is_some_and(|kind| kind != "Service")
                        || backend.key("group").text().is_some()
                };
                backends.extend(rule.key("backendRefs").list().into_iter().filter(|backend| !of_others(backend)));
            }
        }
        for backend in backends {
            let namespace = backend.key("namespace").text().unwrap_or(route.namespace);
            let Some(name) = backend.key("name").text() else { continue };
            let mut services = ask.picture.services.iter();
            let same = |own: &&Service<'_>| own.object.name == name && own.object.namespace == namespace;
            let Some(service) = services.find(same) else { continue };
            let place = backend.key("port");
            if route.kind != "Ingress" && !place.exists() {
                let message = format!("a route to Service {name} without a port leads nowhere");
                found.add(Error, route, &place.path, message);
                continue;
            }
            let (number, word) = if route.kind == "Ingress" {
                (place.key("number").int(), place.key("name").text())
            } else {
                (place.int(), None)
            };
            let has = service
                .ports
                .iter()
                .any(|port| Some(port.port) == number || word.is_some() && port.view.key("name").text() == word);
            if !has && (number.is_some() || word.is_some()) {
                let shown = word.map_or_else(|| number.unwrap_or_default().to_string(), str::to_owned);
                let known: Vec<String> = service.ports.iter().map(|port| port.port.to_string()).collect();
                let message = format!("Service {name} has no port {shown}; it has {}", known.join(", "));
                found.add(Error, route, &place.path, message);
            }
        }
    }
}

pub(super) fn health(ask: &Ask<'_>, found: &mut Found) {
    let limit = ask.config.detection.max(10) * 1000;
    for service in &ask.picture.services {
        let annotation = |name: &str| service.object.annotation(&format!("evenkeel.io/health-{name}"));
        if !annotation("check").exists() {
            continue;
        }
        let millis = |name: &str, default| annotation(name).text().and_then(milliseconds).unwrap_or(default);
        let (interval, timeout) = (millis("interval", 5000), millis("timeout", 1000));
        let after =
            annotation("unhealthy-after").text().and_then(|text| text.parse::<i64>().ok()).unwrap_or(3).clamp(1, 100);
        let worst = interval * after + timeout;
        if worst > limit {
            let seconds =
                |millis: i64| if millis % 1000 == 0 { format!("{} s", millis / 1000) } else { format!("{millis} ms") };
            let message = format!(
                "{} x {after} + {} = {} until a dead backend is taken out, > {}",
                seconds(interval),
                seconds(timeout),
                seconds(worst),
                seconds(limit)
            );
            let passive = service.object.annotation("evenkeel.io/passive-ejection").text() == Some("true");
            let place =
                ["interval", "unhealthy-after", "check"].map(annotation).into_iter().find(|place| place.exists());
            if let Some(place) = place.filter(|_| !passive) {
                found.add(Warning, &service.object, &place.path, message);
            }
        }
    }
}

/// A duration such as `2s` or `500ms`, in milliseconds.
fn milliseconds(text: &str) -> Option<i64> {
    let text = text.trim();
    let end = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<i64>().ok().filter(|n| (0..=86_400_000).contains(n)).map(|n| n * factor)
}

/// Hours with one decimal at most.
fn hours(seconds: i64) -> String {
    let tenths = seconds / 360;
    if tenths % 10 == 0 { (tenths / 10).to_string() } else { format!("{}.{}", tenths / 10, tenths % 10) }
}
