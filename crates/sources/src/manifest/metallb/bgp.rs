//! BGPAdvertisement.

use std::collections::BTreeSet;

use evenkeel_plan::world::{Aggregation, BgpAdvertisement, Community, CommunityRef, ObjectName};

use super::community::COMMUNITY_REMEDY;
use super::selector::selectors;
use super::{names, spec};
use crate::manifest::read::{Field, Fields, Findings as _, Mapping as _, Reader, Values as _, shortened};

pub(in crate::manifest) fn bgp_advertisement(
    reader: &mut Reader<'_>,
    name: ObjectName,
    fields: &Fields<'_>,
) -> Option<BgpAdvertisement> {
    let mut advertisement = BgpAdvertisement::new(name);
    let Some(spec) = spec(reader, fields) else { return Some(advertisement) };
    advertisement.pools = names(reader, &spec, "ipAddressPools");
    advertisement.pool_selectors = selectors(reader, &spec, "ipAddressPoolSelectors");
    advertisement.node_selectors = selectors(reader, &spec, "nodeSelectors");
    advertisement.peers = names(reader, &spec, "peers");
    advertisement.service_selectors = selectors(reader, &spec, "serviceSelectors");
    let selective = !advertisement.service_selectors.is_empty();
    let whole = Aggregation::default();
    advertisement.aggregation = Aggregation {
        v4: aggregation(reader, &spec, "aggregationLength", whole.v4, selective),
        v6: aggregation(reader, &spec, "aggregationLengthV6", whole.v6, selective),
    };
    let local_pref = spec.get("localPref").and_then(|field| field.number(reader, 0, u32::MAX));
    advertisement.local_pref = local_pref.unwrap_or(0);
    advertisement.communities = communities(reader, &spec);
    spec.no_others(reader);
    Some(advertisement)
}

/// A prefix length. One that rolls addresses up would announce services the selectors leave out.
fn aggregation(reader: &mut Reader<'_>, spec: &Fields<'_>, key: &'static str, whole: u8, selective: bool) -> u8 {
    let Some(field) = spec.get(key) else { return whole };
    let length = field.number(reader, 1, whole).unwrap_or(whole);
    if selective && length != whole {
        let message = format!("`{key}` rolls services together that `serviceSelectors` tells apart");
        reader.error("conflicting_fields", &field, message, "keep one of the two");
    }
    length
}

fn communities(reader: &mut Reader<'_>, spec: &Fields<'_>) -> Vec<CommunityRef> {
    let mut seen = BTreeSet::new();
    let mut communities = Vec::new();
    for field in spec.list(reader, "communities") {
        let Some(text) = field.name(reader) else { continue };
        if !seen.insert(text) {
            reader.error("duplicate_value", &field, format!("`{}` is given before", shortened(text)), "give it once");
        }
        communities.extend(community(reader, &field, text));
    }
    communities
}

/// A value, or an alias: whatever has no colon.
fn community(reader: &mut Reader<'_>, field: &Field<'_>, text: &str) -> Option<CommunityRef> {
    if text.contains(':') {
        let value: Option<Community> = field.parse(reader, "invalid_community", COMMUNITY_REMEDY);
        return value.map(CommunityRef::Value);
    }
    Some(CommunityRef::Alias(text.to_owned()))
}
