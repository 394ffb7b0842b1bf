//! What is worth knowing about a service's frontends, each with a named reason.
//!
//! That a service has no endpoints at the moment is no finding, nor that they are not ready: both are ordinary.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::topology::HintSource;
use super::{BackendState, Frontend, stands_for};
use crate::diagnostic::{Diagnostic, Severity};
use crate::range::IpFamily;
use crate::world::{EndpointSlice, Kind, Protocol, Service, ServicePort, TargetPort, TrafficPolicy};

pub(super) fn report(
    service: &Service,
    addresses: &[IpAddr],
    slices: &[&EndpointSlice],
    hints: HintSource,
    frontends: &[Frontend],
    diagnostics: &mut Vec<Diagnostic>,
) {
    if addresses.is_empty() {
        return;
    }
    let families: BTreeSet<IpFamily> = addresses.iter().map(|address| IpFamily::of(*address)).collect();
    diagnostics.extend(service.ports.iter().enumerate().filter_map(|(n, port)| sctp(service, n, port)));
    diagnostics.extend(nobody_selects(service, slices));
    for family in families {
        let populated: Vec<&EndpointSlice> = populated(slices).filter(|slice| slice.address_type == family).collect();
        if populated.is_empty() {
            diagnostics.extend(other_family_only(service, family, slices));
            continue;
        }
        let ports = service.ports.iter().enumerate();
        diagnostics.extend(ports.filter_map(|(n, port)| unmatched(service, n, port, &populated)));
    }
    diagnostics.extend(on_no_node(service, frontends));
    diagnostics.extend(ignored_hints(service, hints, frontends));
}

/// The slices that have endpoints.
fn populated<'a>(slices: &[&'a EndpointSlice]) -> impl Iterator<Item = &'a EndpointSlice> {
    slices.iter().copied().filter(|slice| !slice.endpoints.is_empty())
}

fn finding(
    service: &Service,
    (severity, reason): (Severity, &'static str),
    field: impl Into<String>,
    message: String,
    remedy: &str,
) -> Diagnostic {
    Diagnostic {
        severity,
        reason,
        kind: Kind::Service,
        name: service.name.to_string(),
        field: field.into(),
        message,
        remedy: remedy.to_owned(),
    }
}

fn sctp(service: &Service, n: usize, port: &ServicePort) -> Option<Diagnostic> {
    let message = format!("port {} is SCTP, which is not forwarded", port.port);
    let remedy = "use TCP or UDP, or leave this service to another load balancer";
    (port.protocol == Protocol::Sctp).then(|| {
        finding(service, (Severity::Warning, "protocol_unsupported"), format!("spec.ports[{n}]"), message, remedy)
    })
}

/// Without a selector nobody makes endpoints of pods; somebody has to write them.
fn nobody_selects(service: &Service, slices: &[&EndpointSlice]) -> Option<Diagnostic> {
    let message = "there is neither a selector nor an EndpointSlice of this service: it has no backends".to_owned();
    let remedy = "add a selector, or an EndpointSlice with the label kubernetes.io/service-name";
    (service.selector.is_empty() && slices.is_empty())
        .then(|| finding(service, (Severity::Info, "no_selector"), "spec.selector", message, remedy))
}

fn other_family_only(service: &Service, family: IpFamily, slices: &[&EndpointSlice]) -> Option<Diagnostic> {
    let other = populated(slices).next()?.address_type;
    let message = format!("the service has an {family} address, but all its endpoints are {other}");
    let remedy = "give the pods addresses of both families, or the service one";
    Some(finding(service, (Severity::Warning, "family_without_endpoints"), "spec.ipFamilies", message, remedy))
}

/// A port no endpoint has. `slices` are those of one family that have endpoints.
fn unmatched(service: &Service, n: usize, port: &ServicePort, slices: &[&EndpointSlice]) -> Option<Diagnostic> {
    let targets = || slices.iter().flat_map(|slice| &slice.ports);
    if port.protocol == Protocol::Sctp || targets().any(|target| stands_for(target, port)) {
        return None;
    }
    if let Some(TargetPort::Name(target)) = &port.target
        && !targets().any(|target| target.name == port.name)
    {
        let message =
            format!("no endpoint has the port `{target}`, so port {}/{} has no backends", port.port, port.protocol);
        let remedy = "name the container's port like that, or give targetPort as a number";
        let reason = (Severity::Warning, "target_port_unresolved");
        return Some(finding(service, reason, format!("spec.ports[{n}]"), message, remedy));
    }
    let shown = |name: &str, protocol| {
        if name.is_empty() { format!("nameless {protocol}") } else { format!("{name} {protocol}") }
    };
    let present: BTreeSet<String> = targets().map(|target| shown(&target.name, target.protocol)).collect();
    let present =
        if present.is_empty() { "none".to_owned() } else { present.into_iter().collect::<Vec<_>>().join(", ") };
    let message = format!(
        "no EndpointSlice has the port `{}`, so port {}/{} has no backends; there are: {present}",
        shown(&port.name, port.protocol),
        port.port,
        port.protocol,
    );
    let remedy = "give the port the same name and protocol in the Service and its EndpointSlices";
    Some(finding(service, (Severity::Warning, "port_without_endpoints"), format!("spec.ports[{n}]"), message, remedy))
}

fn on_no_node(service: &Service, frontends: &[Frontend]) -> Option<Diagnostic> {
    let backends = frontends.iter().flat_map(|frontend| &frontend.backends);
    let lost: BTreeSet<IpAddr> =
        backends.filter(|backend| backend.node.is_none()).map(|backend| backend.address).collect();
    let first = lost.first().filter(|_| service.traffic_policy == TrafficPolicy::Local)?;
    let others = match lost.len() - 1 {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    let message = format!("endpoint {first}{others} is on no node, so under Local no node uses it");
    let remedy = "give its nodeName, or use externalTrafficPolicy Cluster";
    let reason = (Severity::Warning, "endpoint_without_node");
    Some(finding(service, reason, "spec.externalTrafficPolicy", message, remedy))
}

/// A preference for near backends that has no effect, because it is not known of all of them whom they are near.
fn ignored_hints(service: &Service, hints: HintSource, frontends: &[Frontend]) -> Option<Diagnostic> {
    if service.traffic_policy == TrafficPolicy::Local || hints == HintSource::Nowhere {
        return None;
    }
    let (without, all) = frontends.iter().map(unhinted).find(|(without, _)| *without > 0)?;
    let (message, remedy) = match hints {
        HintSource::Given => (
            format!("{without} of {all} ready endpoints have no hint, so those of the others are ignored"),
            "give every endpoint a hint, or none",
        ),
        HintSource::Derived(_) | HintSource::Nowhere => (
            format!("{without} of {all} ready endpoints are in no known zone, so every node uses all of them"),
            "give every endpoint its zone, or remove trafficDistribution",
        ),
    };
    Some(finding(service, (Severity::Info, "hints_ignored"), "spec.trafficDistribution", message, remedy))
}

/// Of a frontend's active backends, how many have no hint of the kind that more of them have; and how many there are.
fn unhinted(frontend: &Frontend) -> (usize, usize) {
    let active = || frontend.backends.iter().filter(|backend| backend.state == BackendState::Active);
    let for_no_zone = active().filter(|backend| backend.hints.zones.is_empty()).count();
    let for_no_node = active().filter(|backend| backend.hints.nodes.is_empty()).count();
    (for_no_zone.min(for_no_node), active().count())
}
