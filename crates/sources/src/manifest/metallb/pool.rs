//! IPAddressPool.

use std::net::IpAddr;

use evenkeel_plan::range::{IpRange, RangeError, mapped};
use evenkeel_plan::world::{IpAddressPool, ObjectName, ServiceAllocation};

use super::selector::selectors;
use super::{names, required_spec};
use crate::manifest::read::{Field, Fields, Findings as _, Mapping as _, Reader, Values as _};

const RANGE_REMEDY: &str = "give a CIDR such as 192.0.2.0/24 or a range such as 192.0.2.10-192.0.2.20";

pub(in crate::manifest) fn pool(
    reader: &mut Reader<'_>,
    name: ObjectName,
    fields: &Fields<'_>,
    metadata: &Fields<'_>,
) -> Option<IpAddressPool> {
    let labels = crate::manifest::labels(reader, metadata);
    let spec = required_spec(reader, fields)?;
    let ranges = spec.require(reader, "addresses").map(|field| ranges(reader, &field)).unwrap_or_default();
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

/// `spec.addresses`: at least one range, none of which has an address in common with another.
fn ranges(reader: &mut Reader<'_>, field: &Field<'_>) -> Vec<IpRange> {
    let items = field.list(reader);
    if items.is_empty() && !reader.failed {
        reader.error("missing_field", field, "a pool needs at least one range of addresses", RANGE_REMEDY);
    }
    let mut read: Vec<(IpRange, &Field<'_>)> = Vec::new();
    for item in &items {
        read.extend(range(reader, item).map(|range| (range, item)));
    }
    let ranges = read.iter().map(|(range, _)| *range).collect();
    // In ascending order, a range that overlaps any other overlaps one that reaches furthest before it.
    read.sort_by_key(|(range, _)| *range);
    let mut furthest: Option<IpRange> = None;
    for (range, item) in read {
        if let Some(other) = furthest.filter(|other| other.overlaps(&range)) {
            let message = format!("{range} overlaps {other} in the same pool");
            reader.error("overlapping_ranges", item, message, "give each address once");
        }
        furthest = furthest.filter(|other| other.last() > range.last()).or(Some(range));
    }
    ranges
}

fn range(reader: &mut Reader<'_>, item: &Field<'_>) -> Option<IpRange> {
    let text = item.string(reader)?.trim();
    // The commonest slips deserve their own remedies.
    let remedy = match (text.parse::<IpAddr>(), text.parse::<IpRange>()) {
        (Ok(single), _) => {
            let single = mapped(single).map_or(single, IpAddr::V4);
            format!("for this address alone write {single}/{}", if single.is_ipv4() { 32 } else { 128 })
        }
        (Err(_), Err(RangeError::Mapped(..))) => "write it with IPv4 addresses, such as 192.0.2.0/24".to_owned(),
        (Err(_), _) => RANGE_REMEDY.to_owned(),
    };
    item.parse(reader, "invalid_range", &remedy)
}

fn service_allocation(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<ServiceAllocation> {
    let fields = field.fields(reader)?;
    let allocation = ServiceAllocation {
        priority: fields.get("priority").and_then(|field| field.number(reader, 0, u32::MAX)).unwrap_or(0),
        namespaces: names(reader, &fields, "namespaces"),
        namespace_selectors: selectors(reader, &fields, "namespaceSelectors"),
        service_selectors: selectors(reader, &fields, "serviceSelectors"),
    };
    fields.no_others(reader);
    Some(allocation)
}
