//! Annotations of Kubernetes' own kinds: MetalLB's and ours.

use std::borrow::Cow;
use std::net::IpAddr;
use std::str::FromStr;

use evenkeel_manifest::yaml::{Node, Value};
use evenkeel_plan::world::{Forwarding, Requested, Service, Weight, Weights, WeightsError};

use super::kinds::unmapped;
use super::read::{Field, Fields, Findings as _, Reader, Values as _, close_to, shortened};
use super::{health, limits};

/// Ours on a Service, without their prefix.
const OURS: [&str; 21] = [
    "addresses",
    "balancing",
    "connection-burst",
    "connection-rate",
    "forwarding",
    "health-check",
    "health-dns-name",
    "health-dns-type",
    "health-expect-status",
    "health-healthy-after",
    "health-host",
    "health-interval",
    "health-path",
    "health-port",
    "health-timeout",
    "health-unhealthy-after",
    "max-connections",
    "passive-ejection",
    "slow-start",
    "source-address",
    "weights",
];

/// The prefixes of MetalLB's annotations: the present one, and the one it had before.
const PREFIXES: [&str; 2] = ["metallb.io/", "metallb.universe.tf/"];

/// Ours.
pub(super) const PREFIX: &str = "evenkeel.io/";

pub(super) fn service(reader: &mut Reader<'_>, service: &mut Service, metadata: &Fields<'_>) {
    let Some(field) = metadata.get("annotations") else { return };
    let trimmed = trimmed(field.node);
    let Some(annotations) = field.with(&trimmed).fields(reader) else { return };
    for (key, field) in annotations.iter() {
        let known = match key.split_once('/') {
            Some(("metallb.io" | "metallb.universe.tf", name)) => {
                matches!(name, "address-pool" | "loadBalancerIPs" | "allow-shared-ip" | "ip-allocated-from-pool")
            }
            Some(("evenkeel.io", name)) => OURS.contains(&name),
            _ => true,
        };
        if !known && !field.is_null() {
            let remedy = match (key, key.strip_prefix(PREFIX).and_then(|name| close_to(name, &OURS))) {
                ("metallb.universe.tf/mode", _) => {
                    "remove it; an L2Advertisement says how an address is announced".to_owned()
                }
                (_, Some(close)) => format!("did you mean `{PREFIX}{close}`?"),
                (_, None) => "correct or remove it".to_owned(),
            };
            let message = format!("annotation `{}` is not known and has no effect", shortened(key));
            reader.warning("unknown_annotation", &field.at_key(), message, remedy);
        }
    }
    let requested = &mut service.requested;
    if let Some(field) = either(reader, &annotations, "loadBalancerIPs") {
        requested.annotated_addresses = addresses(reader, &field);
    }
    let pool = either(reader, &annotations, "address-pool").and_then(|field| field.text(reader));
    *requested = Requested { pool: pool.map(str::to_owned), ..std::mem::take(requested) };
    let key = either(reader, &annotations, "allow-shared-ip").and_then(|field| field.text(reader));
    service.sharing_key = key.map(str::to_owned);
    let kinds = [("pool", false), ("node", true)];
    let kind = annotations.find("evenkeel.io/addresses");
    service.on_node = kind.and_then(|field| field.one_of(reader, &kinds)).unwrap_or_default();
    if service.on_node {
        for (name, what) in [("address-pool", "a pool"), ("allow-shared-ip", "sharing")] {
            if let Some(field) = either(reader, &annotations, name) {
                let message = format!("{what} has no meaning for addresses of the node");
                reader.warning(
                    "unused_annotation",
                    &field.at_key(),
                    message,
                    "remove it, or evenkeel.io/addresses: node",
                );
            }
        }
    }
    let forwardings = [("stack", Forwarding::Stack), ("direct", Forwarding::Direct)];
    service.forwarding =
        annotations.find("evenkeel.io/forwarding").and_then(|field| field.one_of(reader, &forwardings));
    let source_addresses = [("preserve", false), ("rewrite", true)];
    let source_address = annotations.find("evenkeel.io/source-address");
    service.rewrite_source =
        source_address.and_then(|field| field.one_of(reader, &source_addresses)).unwrap_or_default();
    let balancings = [("per-flow", false), ("per-packet", true)];
    let balancing = annotations.find("evenkeel.io/balancing");
    service.per_packet = balancing.and_then(|field| field.one_of(reader, &balancings)).unwrap_or_default();
    if service.per_packet && service.rewrite_source {
        unused(reader, &annotations, "source-address", "answers, which evenkeel.io/balancing: per-packet has none of");
    }
    let weights = annotations.find("evenkeel.io/weights").and_then(|field| weights::<Weights>(reader, &field));
    service.weights = weights.unwrap_or_default();
    service.health = health::check(reader, &annotations).map(Into::into);
    service.limits = limits::limits(reader, &annotations);
}

/// Annotations without the white space around their values: a block of YAML ends in a line feed that nobody means.
fn trimmed(annotations: &Node) -> Cow<'_, Node> {
    let is_trimmed = |node: &Node| match &node.value {
        Value::Scalar(scalar) => scalar.text.trim().len() == scalar.text.len(),
        Value::Sequence(_) | Value::Mapping(_) => true,
    };
    match &annotations.value {
        Value::Mapping(entries) if !entries.iter().all(|entry| is_trimmed(&entry.value)) => {
            let mut entries = entries.clone();
            for entry in &mut entries {
                if let Value::Scalar(scalar) = &mut entry.value.value {
                    scalar.text = scalar.text.trim().into();
                }
            }
            Cow::Owned(Node::new(Value::Mapping(entries), annotations.at))
        }
        Value::Mapping(_) | Value::Scalar(_) | Value::Sequence(_) => Cow::Borrowed(annotations),
    }
}

/// The annotation under either prefix. Where they differ the present one counts, as with MetalLB.
fn either<'n>(reader: &mut Reader<'_>, annotations: &Fields<'n>, name: &str) -> Option<Field<'n>> {
    let [present, former] = PREFIXES.map(|prefix| annotations.find(&format!("{prefix}{name}")));
    if let (Some(present), Some(former)) = (&present, &former)
        && present.string(reader) != former.string(reader)
    {
        let message = format!("{}{name} and {}{name} differ; the first counts", PREFIXES[0], PREFIXES[1]);
        reader.warning("conflicting_annotations", former, message, format!("keep {}{name}", PREFIXES[0]));
    }
    present.or(former)
}

/// A weight, or several with the names of whose they are.
fn weights<T: FromStr<Err = WeightsError>>(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<T> {
    let weights = field.string(reader)?.trim().parse();
    if let Err(error) = &weights {
        let remedy = match error {
            WeightsError::NotAWeight(_) => "give a number from 0 (no new flows) to 100",
            WeightsError::NotAPair(_) | WeightsError::NobodysWeight(_) => {
                "give ADDRESS=WEIGHT or node/NAME=WEIGHT, separated by commas"
            }
            WeightsError::Mapped(_) => "write it as an IPv4 address",
            WeightsError::Twice(_) => "remove one of them",
        };
        reader.error(error.reason(), field, shortened(&error.to_string()), remedy);
    }
    weights.ok()
}

fn addresses(reader: &mut Reader<'_>, field: &Field<'_>) -> Vec<IpAddr> {
    let Some(text) = field.string(reader) else { return Vec::new() };
    let mut addresses = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.parse() {
            Ok(address) => addresses.extend(unmapped(reader, field, address)),
            Err(_) => {
                let message = format!("`{}` is not an address", shortened(part));
                reader.error("invalid_address", field, message, "give addresses, separated by commas");
            }
        }
    }
    addresses
}

/// The annotation `evenkeel.io/weight`; others of ours belong elsewhere.
pub(super) fn slice_weight(reader: &mut Reader<'_>, metadata: &Fields<'_>) -> Weight {
    let Some(annotations) = metadata.get("annotations").and_then(|field| field.fields(reader)) else {
        return Weight::ONE;
    };
    for (key, field) in annotations.iter() {
        if !key.starts_with(PREFIX) || key == "evenkeel.io/weight" || field.is_null() {
            continue;
        }
        let message = format!("annotation `{}` is not known on an EndpointSlice and has no effect", shortened(key));
        let remedy = match key {
            "evenkeel.io/weights" => "annotate the Service with it, or give evenkeel.io/weight here",
            _ => "correct or remove it",
        };
        reader.warning("unknown_annotation", &field.at_key(), message, remedy);
    }
    let weight = annotations.find("evenkeel.io/weight").and_then(|field| weights(reader, &field));
    weight.unwrap_or_default()
}

/// A number within an annotation, which is a string.
pub(super) fn number(reader: &mut Reader<'_>, field: &Field<'_>, least: u32, most: u32) -> Option<u32> {
    let text = field.string(reader)?.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && (least..=most).contains(number));
    if number.is_none() {
        let message = format!("`{}` is not a whole number from {least} to {most}", shortened(text));
        reader.error("invalid_value", field, message, format!("give a number from {least} to {most}"));
    }
    number
}

/// An annotation that means nothing as long as another is not there, or says something else.
pub(super) fn unused(reader: &mut Reader<'_>, annotations: &Fields<'_>, name: &str, without: &str) {
    if let Some(field) = annotations.find(&format!("{PREFIX}{name}")) {
        let message = format!("{PREFIX}{name} has no effect without {without}");
        reader.warning("unused_annotation", &field.at_key(), message, format!("remove it, or give {without}"));
    }
}
