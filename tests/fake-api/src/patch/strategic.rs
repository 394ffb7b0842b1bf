//! Strategic merge patch: a merge patch that knows which lists are merged, and by which key.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::schema::Schema;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

/// Applies `patch` to `object`.
pub(crate) fn patch(object: &Value, patch: &Value, schema: &Schema) -> Result<Value, ApiError> {
    merge(Some(object), patch, Some(schema))
}

fn merge(object: Option<&Value>, patch: &Value, schema: Option<&Schema>) -> Result<Value, ApiError> {
    let Value::Object(changes) = patch else { return Ok(patch.clone()) };
    match changes.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => return Ok(Value::Object(without_directives(changes))),
        Some("delete") => return Ok(Value::Object(Map::new())),
        Some("merge") | None => {}
        Some(other) => return Err(ApiError::bad_request(format!("unknown patch directive {other:?}"))),
    }
    let mut result = object.and_then(Value::as_object).cloned().unwrap_or_default();
    if let Some(kept) = changes.get(RETAIN).and_then(Value::as_array) {
        result.retain(|name, _| kept.iter().any(|one| one.as_str() == Some(name)));
    }
    for (name, change) in changes {
        if name == DIRECTIVE || name == RETAIN || name.starts_with(ORDER_PREFIX) {
            continue;
        }
        if let Some(list) = name.strip_prefix(DELETE_PREFIX) {
            let gone = change.as_array().cloned().unwrap_or_default();
            if let Some(Value::Array(values)) = result.get_mut(list) {
                values.retain(|value| !gone.contains(value));
            }
            continue;
        }
        let inner = schema.and_then(|schema| schema.field(name)).map(AsRef::as_ref);
        match change {
            Value::Null => {
                result.remove(name);
            }
            Value::Object(_) => {
                let merged = merge(result.get(name), change, inner)?;
                result.insert(name.clone(), merged);
            }
            Value::Array(items) if inner.is_some_and(|schema| schema.merge) => {
                let live = result.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
                let merged = merge_list(live, items, inner)?;
                result.insert(name.clone(), Value::Array(merged));
            }
            _ => {
                result.insert(name.clone(), change.clone());
            }
        }
    }
    for (name, order) in changes {
        let Some(list) = name.strip_prefix(ORDER_PREFIX) else { continue };
        let key = schema.and_then(|schema| schema.field(list)).and_then(|schema| schema.merge_key.as_deref());
        if let (Some(Value::Array(values)), Some(order)) = (result.get_mut(list), order.as_array()) {
            reorder(values, order, key);
        }
    }
    Ok(Value::Object(result))
}

fn merge_list(mut live: Vec<Value>, changes: &[Value], schema: Option<&Schema>) -> Result<Vec<Value>, ApiError> {
    let replace = changes.iter().any(|one| one.get(DIRECTIVE).and_then(Value::as_str) == Some("replace"));
    if replace {
        live.clear();
    }
    let Some(key) = schema.and_then(|schema| schema.merge_key.as_deref()) else {
        for change in changes {
            if !live.contains(change) {
                live.push(change.clone());
            }
        }
        return Ok(live);
    };
    let items = schema.and_then(|schema| schema.items.as_deref());
    for change in changes {
        let Some(identity) = change.get(key) else {
            if change.get(DIRECTIVE).is_some() {
                continue;
            }
            return Err(ApiError::bad_request(format!("map: {change} does not contain declared merge key: {key}")));
        };
        let place = live.iter().position(|one| one.get(key) == Some(identity));
        let deletes = change.get(DIRECTIVE).and_then(Value::as_str) == Some("delete");
        match (place, deletes) {
            (_, true) => live.retain(|one| one.get(key) != Some(identity)),
            (Some(place), false) => {
                let merged = merge(live.get(place), change, items)?;
                if let Some(slot) = live.get_mut(place) {
                    *slot = merged;
                }
            }
            (None, false) => live.push(merge(None, change, items)?),
        }
    }
    Ok(live)
}

/// Sorts the listed items as asked; the others stay where they are relative to those before them.
fn reorder(values: &mut Vec<Value>, order: &[Value], key: Option<&str>) {
    let rank = |value: &Value| {
        order.iter().position(|one| match key {
            Some(key) => one.get(key) == value.get(key),
            None => one == value,
        })
    };
    let mut last = 0;
    let mut ranked: Vec<(usize, Value)> = Vec::with_capacity(values.len());
    for value in values.drain(..) {
        last = rank(&value).map_or(last, |rank| rank + 1);
        ranked.push((last, value));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    values.extend(ranked.into_iter().map(|(_, value)| value));
}

fn without_directives(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter().filter(|(name, _)| !name.starts_with('$')).map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::Registry;

    fn patched(object: Value, change: Value) -> Value {
        let registry = Registry::built_in();
        let deployments = registry.get("apps", "v1", "deployments").expect("built in");
        patch(&object, &change, &deployments.schema).expect("valid")
    }

    fn containers(list: Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": list}}}})
    }

    #[test]
    fn lists_with_a_key_are_merged_by_it() {
        let live = containers(json!([{"name": "a", "image": "1", "args": ["x", "y"]}, {"name": "b"}]));
        let change = containers(json!([{"name": "a", "image": "2", "args": ["z"]}, {"name": "c"}]));
        let want = containers(json!([{"name": "a", "image": "2", "args": ["z"]}, {"name": "b"}, {"name": "c"}]));
        assert_eq!(patched(live, change), want);
    }

    #[test]
    fn directives_delete_replace_and_order() {
        let live = containers(json!([{"name": "a"}, {"name": "b"}]));
        let change = containers(json!([{"name": "a", "$patch": "delete"}]));
        assert_eq!(patched(live.clone(), change), containers(json!([{"name": "b"}])));
        let change = containers(json!([{"$patch": "replace"}, {"name": "c"}]));
        assert_eq!(patched(live.clone(), change), containers(json!([{"name": "c"}])));
        let change = json!({"spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
            "containers": [{"name": "c"}]}}}});
        assert_eq!(patched(live, change), containers(json!([{"name": "b"}, {"name": "c"}, {"name": "a"}])));
    }

    #[test]
    fn primitive_lists_lose_and_gain_values() {
        let live = json!({"metadata": {"finalizers": ["a", "b"]}});
        let change = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}});
        assert_eq!(patched(live, change), json!({"metadata": {"finalizers": ["b", "c"]}}));
    }
}
