//! L2Advertisement.

use evenkeel_plan::world::{L2Advertisement, ObjectName, PreferredNode};

use super::selector::{selector, selectors};
use super::{names, spec};
use crate::manifest::read::{Field, Fields, Mapping as _, Reader, Values as _};

pub(in crate::manifest) fn l2_advertisement(
    reader: &mut Reader<'_>,
    name: ObjectName,
    fields: &Fields<'_>,
) -> Option<L2Advertisement> {
    let mut advertisement = L2Advertisement::new(name);
    let Some(spec) = spec(reader, fields) else { return Some(advertisement) };
    advertisement.pools = names(reader, &spec, "ipAddressPools");
    advertisement.pool_selectors = selectors(reader, &spec, "ipAddressPoolSelectors");
    advertisement.node_selectors = selectors(reader, &spec, "nodeSelectors");
    for field in spec.list(reader, "interfaces") {
        advertisement.interfaces.extend(field.interface(reader).map(str::to_owned));
    }
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
