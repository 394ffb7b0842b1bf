//! Community: names for BGP communities.

use std::collections::BTreeSet;

use evenkeel_plan::world::{Community, CommunityAliases, ObjectName};

use super::spec;
use crate::manifest::read::{Field, Fields, Findings as _, Mapping as _, Reader, Values as _, shortened};

pub(super) const COMMUNITY_REMEDY: &str = "give a community such as 65535:65281 or large:64512:1:2";

pub(in crate::manifest) fn communities(
    reader: &mut Reader<'_>,
    name: ObjectName,
    fields: &Fields<'_>,
) -> Option<CommunityAliases> {
    let mut aliases = CommunityAliases { name, aliases: Vec::new() };
    let Some(spec) = spec(reader, fields) else { return Some(aliases) };
    let mut seen = BTreeSet::new();
    for field in spec.list(reader, "communities") {
        let Some((name, value)) = alias(reader, &field) else { continue };
        if !seen.insert(name.clone()) {
            let message = format!("alias `{}` is defined before", shortened(&name));
            reader.error("duplicate_value", &field, message, "define each alias once");
        }
        aliases.aliases.push((name, value));
    }
    spec.no_others(reader);
    Some(aliases)
}

fn alias(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<(String, Community)> {
    let fields = field.fields(reader)?;
    let name = fields.require(reader, "name").and_then(|field| field.name(reader)).map(str::to_owned);
    let value = fields
        .require(reader, "value")
        .and_then(|field| field.parse::<Community>(reader, "invalid_community", COMMUNITY_REMEDY));
    fields.no_others(reader);
    Some((name?, value?))
}
