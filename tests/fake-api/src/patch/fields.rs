//! Sets of fields, as `metadata.managedFields` writes them (`FieldsV1`), and how objects differ in them.
//!
//! A path is a list of elements in their written form: `f:name` for a field, `k:{"port":80}` for an item of a list with
//! keys, `v:"value"` for an item of a set.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::schema::{ListType, Schema};

/// From the root to a field.
pub(crate) type Path = Vec<String>;
/// Fields.
pub(crate) type FieldSet = BTreeSet<Path>;

/// Reads `fieldsV1`.
pub(crate) fn parse(fields: &Value) -> FieldSet {
    fn walk(value: &Value, path: &mut Path, set: &mut FieldSet) {
        let Some(map) = value.as_object() else { return };
        if map.is_empty() && !path.is_empty() {
            set.insert(path.clone());
        }
        for (name, inner) in map {
            if name == "." {
                set.insert(path.clone());
                continue;
            }
            path.push(name.clone());
            walk(inner, path, set);
            path.pop();
        }
    }
    let mut set = FieldSet::new();
    walk(fields, &mut Path::new(), &mut set);
    set
}

/// Writes `fieldsV1`.
pub(crate) fn write(set: &FieldSet) -> Value {
    let mut root = Map::new();
    for path in set {
        let mut here = &mut root;
        for (depth, element) in path.iter().enumerate() {
            let last = depth + 1 == path.len();
            let next = here.entry(element.clone()).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(map) = next else { unreachable!("only maps are inserted") };
            // Sorted order brings a parent before what is below it: below a parent that is a member, it says so by ".".
            if !last && map.is_empty() && set.contains(path.get(..=depth).unwrap_or_default()) {
                map.insert(".".to_owned(), Value::Object(Map::new()));
            }
            here = map;
        }
    }
    Value::Object(root)
}

/// A path as errors write it: `.spec.ports[port=80,protocol="TCP"].name`.
pub(crate) fn shown(path: &[String]) -> String {
    path.iter()
        .map(|element| match element.split_once(':') {
            Some(("k", keys)) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("[{}]", keys.join(","))
            }
            Some(("v", value)) => format!("[={value}]"),
            Some((_, name)) => format!(".{name}"),
            None => format!(".{element}"),
        })
        .collect()
}

/// What the items of a list are called in paths; None where the list is taken as a whole.
pub(crate) fn elements(schema: Option<&Schema>, list: &[Value]) -> Option<Vec<String>> {
    match &schema?.list {
        ListType::Atomic => None,
        ListType::Set => Some(list.iter().map(|value| format!("v:{value}")).collect()),
        ListType::Map(keys) => {
            let items = schema.and_then(|schema| schema.items.as_deref());
            let element = |item: &Value| {
                let mut named = std::collections::BTreeMap::new();
                for key in keys {
                    let fallback = || items.and_then(|items| items.key_default(key)).cloned();
                    if let Some(value) = item.get(key).cloned().or_else(fallback) {
                        named.insert(key.as_str(), value);
                    }
                }
                format!("k:{}", serde_json::to_string(&named).unwrap_or_default())
            };
            Some(list.iter().map(element).collect())
        }
    }
}

/// The schema below `schema` for a field, if any is known.
pub(crate) fn below<'a>(schema: Option<&'a Schema>, name: &str) -> Option<&'a Schema> {
    schema.and_then(|schema| schema.field(name)).map(AsRef::as_ref)
}

/// The schema of a list's items.
pub(crate) fn items(schema: Option<&Schema>) -> Option<&Schema> {
    schema.and_then(|schema| schema.items.as_deref())
}

/// Whether a map is taken as a whole.
pub(crate) fn atomic(schema: Option<&Schema>) -> bool {
    schema.is_some_and(|schema| schema.atomic)
}

/// The fields an applied object has an opinion about.
pub(crate) fn of(schema: Option<&Schema>, value: &Value) -> FieldSet {
    let mut set = FieldSet::new();
    collect(schema, value, &mut Path::new(), &mut set);
    set
}

fn collect(schema: Option<&Schema>, value: &Value, path: &mut Path, set: &mut FieldSet) {
    match value {
        Value::Object(map) if !map.is_empty() && !atomic(schema) => {
            for (name, inner) in map {
                path.push(format!("f:{name}"));
                let known = schema.is_some_and(|schema| schema.properties.contains_key(name));
                // An entry of a map belongs to who made it; a field of a structure only with what is in it.
                if !known && schema.is_some_and(|schema| schema.values.is_some()) {
                    set.insert(path.clone());
                }
                collect(below(schema, name), inner, path, set);
                path.pop();
            }
        }
        Value::Array(list) if !list.is_empty() => match elements(schema, list) {
            None => {
                set.insert(path.clone());
            }
            Some(names) => {
                for (name, item) in names.into_iter().zip(list) {
                    path.push(name);
                    set.insert(path.clone());
                    if item.is_object() {
                        collect(items(schema), item, path, set);
                    }
                    path.pop();
                }
            }
        },
        _ if path.is_empty() => {}
        _ => {
            set.insert(path.clone());
        }
    }
}

/// How one object became another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// New or changed.
    pub(crate) set: FieldSet,
    pub(crate) removed: FieldSet,
}

/// Compares two states of an object.
pub(crate) fn compare(schema: Option<&Schema>, old: Option<&Value>, new: Option<&Value>) -> Difference {
    let mut difference = Difference::default();
    walk(schema, old, new, &mut Path::new(), &mut difference);
    difference
}

fn walk(schema: Option<&Schema>, old: Option<&Value>, new: Option<&Value>, path: &mut Path, out: &mut Difference) {
    if old == new {
        return;
    }
    let mark = |out: &mut Difference, path: &Path| {
        if path.is_empty() {
            return;
        }
        if new.is_some() {
            out.set.insert(path.clone())
        } else {
            out.removed.insert(path.clone())
        };
    };
    let maps = |one: Option<&Value>| one.is_none_or(Value::is_object);
    let lists = |one: Option<&Value>| one.is_none_or(Value::is_array);
    if maps(old) && maps(new) && !atomic(schema) {
        let (old_map, new_map) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
        if old.is_none() || new.is_none() {
            mark(out, path);
        }
        let names: BTreeSet<&String> = old_map.into_iter().chain(new_map).flat_map(|map| map.keys()).collect();
        for name in names {
            path.push(format!("f:{name}"));
            let inner = |map: Option<&'_ Map<String, Value>>| map.and_then(|map| map.get(name)).cloned();
            walk(below(schema, name), inner(old_map).as_ref(), inner(new_map).as_ref(), path, out);
            path.pop();
        }
        return;
    }
    let empty = Vec::new();
    if lists(old) && lists(new) {
        let list = |one: Option<&Value>| one.and_then(Value::as_array).cloned().unwrap_or_else(|| empty.clone());
        let (old_list, new_list) = (list(old), list(new));
        if let (Some(old_names), Some(new_names)) = (elements(schema, &old_list), elements(schema, &new_list)) {
            if old.is_none() || new.is_none() {
                mark(out, path);
            }
            let find = |names: &[String], list: &[Value], name: &String| {
                names.iter().position(|one| one == name).and_then(|place| list.get(place)).cloned()
            };
            let names: BTreeSet<&String> = old_names.iter().chain(&new_names).collect();
            for name in names {
                path.push(name.clone());
                let (before, after) = (find(&old_names, &old_list, name), find(&new_names, &new_list, name));
                walk(items(schema), before.as_ref(), after.as_ref(), path, out);
                path.pop();
            }
            return;
        }
    }
    mark(out, path);
}

/// Takes the fields at `paths` out of `value`, with all below them.
pub(crate) fn remove(schema: Option<&Schema>, value: &mut Value, paths: &FieldSet) {
    for path in paths {
        remove_one(schema, value, path);
    }
}

fn remove_one(schema: Option<&Schema>, value: &mut Value, path: &[String]) {
    let Some((element, rest)) = path.split_first() else { return };
    match value {
        Value::Object(map) => {
            let Some(name) = element.strip_prefix("f:") else { return };
            if rest.is_empty() {
                map.remove(name);
            } else if let Some(inner) = map.get_mut(name) {
                remove_one(below(schema, name), inner, rest);
            }
        }
        Value::Array(list) => {
            let Some(place) = elements(schema, list).and_then(|names| names.iter().position(|name| name == element))
            else {
                return;
            };
            if rest.is_empty() {
                list.remove(place);
            } else if let Some(inner) = list.get_mut(place) {
                remove_one(items(schema), inner, rest);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_read_as_they_are_written() {
        let written = json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}},
        });
        let set = parse(&written);
        assert_eq!(set.len(), 4);
        assert_eq!(write(&set), written);
        let longest = set.iter().max_by_key(|path| path.len()).expect("some");
        assert_eq!(shown(longest), ".spec.ports[port=80,protocol=\"TCP\"].port");
    }
}
