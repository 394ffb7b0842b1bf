//! MetalLB's kinds, read strictly.

use evenkeel_plan::range::IpRange;
use evenkeel_plan::selector::{LabelSelector, Operator, Requirement};
use evenkeel_plan::world::{IpAddressPool, L2Advertisement, ObjectName, PreferredNode, ServiceAllocation};

use super::read::{Field, Fields, Reader};

const RANGE_REMEDY: &str = "give a CIDR such as 192.0.2.0/24 or a range such as 192.0.2.10-192.0.2.20";

pub(super) fn pool(
    reader: &mut Reader<'_>,
    name: ObjectName,
    fields: &Fields<'_>,
    metadata: &Fields<'_>,
) -> Option<IpAddressPool> {
    fields.get("status");
    let labels = super::labels(reader, metadata);
    let spec = fields.require(reader, "spec").and_then(|field| field.fields(reader));
    fields.no_others(reader);
    let spec = spec?;
    let mut ranges: Vec<IpRange> = Vec::new();
    if let Some(field) = spec.require(reader, "addresses") {
        let items = field.list(reader);
        if items.is_empty() && !reader.failed {
            reader.error("missing_field", &field, "a pool needs at least one range of addresses", RANGE_REMEDY);
        }
        for item in items {
            ranges.extend(item.parse::<IpRange>(reader, "invalid_range", RANGE_REMEDY));
        }
    }
    let auto_assign = spec.get("autoAssign").and_then(|field| field.bool(reader));
    let avoid_buggy_ips = spec.get("avoidBuggyIPs").and_then(|field| field.bool(reader));
    let allocation = spec.get("serviceAllocation").and_then(|field| service_allocation(reader, &field));
    spec.no_others(reader);
    Some(IpAddressPool {
        labels,
        auto_assign: auto_assign.unwrap_or(true),
        avoid_buggy_ips: avoid_buggy_ips.unwrap_or(false),
        allocation,
        ..IpAddressPool::new(name, ranges)
    })
}

fn service_allocation(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<ServiceAllocation> {
    let fields = field.fields(reader)?;
    let allocation = ServiceAllocation {
        priority: fields.get("priority").and_then(|field| field.number(reader, 0, u32::MAX)).unwrap_or(0),
        namespaces: fields.get("namespaces").map(|field| field.strings(reader)).unwrap_or_default(),
        namespace_selectors: selectors(reader, &fields, "namespaceSelectors"),
        service_selectors: selectors(reader, &fields, "serviceSelectors"),
    };
    fields.no_others(reader);
    Some(allocation)
}

pub(super) fn l2_advertisement(
    reader: &mut Reader<'_>,
    name: ObjectName,
    fields: &Fields<'_>,
) -> Option<L2Advertisement> {
    fields.get("status");
    let spec = fields.get("spec").and_then(|field| field.fields(reader));
    fields.no_others(reader);
    let mut advertisement = L2Advertisement::new(name);
    let Some(spec) = spec else { return Some(advertisement) };
    advertisement.pools = spec.get("ipAddressPools").map(|field| field.strings(reader)).unwrap_or_default();
    advertisement.pool_selectors = selectors(reader, &spec, "ipAddressPoolSelectors");
    advertisement.node_selectors = selectors(reader, &spec, "nodeSelectors");
    advertisement.interfaces = spec.get("interfaces").map(|field| field.strings(reader)).unwrap_or_default();
    advertisement.service_selectors = selectors(reader, &spec, "serviceSelectors");
    for field in spec.list(reader, "preferredNodeSelectors") {
        advertisement.preferred.extend(preferred(reader, &field));
    }
    spec.no_others(reader);
    Some(advertisement)
}

fn preferred(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<PreferredNode> {
    let fields = field.fields(reader)?;
    let weight = fields.require(reader, "weight").and_then(|field| field.number(reader, 1, 100));
    let preference = fields.require(reader, "preference").and_then(|field| selector(reader, &field));
    fields.no_others(reader);
    Some(PreferredNode { weight: weight?, preference: preference? })
}

fn selectors(reader: &mut Reader<'_>, fields: &Fields<'_>, key: &'static str) -> Vec<LabelSelector> {
    let items = fields.list(reader, key);
    items.iter().filter_map(|item| selector(reader, item)).collect()
}

fn selector(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<LabelSelector> {
    let fields = field.fields(reader)?;
    let mut selector = LabelSelector {
        match_labels: fields.get("matchLabels").map(|field| field.labels(reader)).unwrap_or_default(),
        match_expressions: Vec::new(),
    };
    for field in fields.list(reader, "matchExpressions") {
        selector.match_expressions.extend(requirement(reader, &field));
    }
    fields.no_others(reader);
    Some(selector)
}

fn requirement(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<Requirement> {
    type Make = fn(Vec<String>) -> Operator;
    let operators: [(&str, (Make, bool)); 4] = [
        ("In", (Operator::In, true)),
        ("NotIn", (Operator::NotIn, true)),
        ("Exists", (|_| Operator::Exists, false)),
        ("DoesNotExist", (|_| Operator::DoesNotExist, false)),
    ];
    let fields = field.fields(reader)?;
    let key = fields.require(reader, "key").and_then(|field| field.text(reader)).map(str::to_owned);
    let operator = fields.require(reader, "operator").and_then(|field| field.one_of(reader, &operators));
    // Label values may be empty, unlike the names other lists hold.
    let values: Vec<String> =
        fields.list(reader, "values").iter().filter_map(|value| value.string(reader)).map(str::to_owned).collect();
    fields.no_others(reader);
    let (make, takes_values) = operator?;
    if takes_values == values.is_empty() {
        let (message, remedy) = if takes_values {
            ("In and NotIn need values", "add `values`")
        } else {
            ("Exists and DoesNotExist take no values", "remove `values`")
        };
        reader.error("invalid_value", field, message, remedy);
    }
    Some(Requirement { key: key?, operator: make(values) })
}
