//! The definitions have every field that MetalLB's have, with its type and its default.

use evenkeel_crds::definitions;
use serde_json::Value;

/// The schema of a field such as `spec.communities[].name`.
fn schema_of(kind: &str, version: &str, path: &str) -> Option<Value> {
    let all = definitions();
    let definition = all.iter().find(|definition| definition["spec"]["names"]["kind"] == kind)?;
    let version = definition["spec"]["versions"].as_array()?.iter().find(|one| one["name"] == version)?;
    let mut schema = &version["schema"]["openAPIV3Schema"];
    for part in path.split('.') {
        let name = part.trim_end_matches("[]");
        schema = schema["properties"].get(name)?;
        if part.ends_with("[]") {
            schema = schema.get("items")?;
        }
    }
    Some(schema.clone())
}

#[test]
fn every_field_of_metallb_is_there_with_its_type_and_default() {
    let lines = include_str!("metallb-fields.txt").lines().filter(|line| !line.starts_with('#'));
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let [kind, version, path, of_type] = *words.get(..4).unwrap() else { unreachable!("four words") };
        let default = words.get(4).map(|text| serde_json::from_str::<Value>(text).unwrap());
        match schema_of(kind, version, path) {
            None => wrong.push(format!("missing: {line}")),
            Some(schema) if schema["type"] != of_type => wrong.push(format!("of type {}: {line}", schema["type"])),
            Some(schema) if schema.get("default") != default.as_ref() => {
                wrong.push(format!("default {:?}: {line}", schema.get("default")));
            }
            Some(_) => count += 1,
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 100, "{count} fields");
}
