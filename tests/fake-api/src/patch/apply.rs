//! Server-side apply: fields have managers, and who applies an object owns the fields it names.
//!
//! After <https://kubernetes.io/docs/reference/using-api/server-side-apply/>: what others own and the applied object
//! changes is a conflict, unless forced; what the manager applied before and no longer names is removed, unless someone
//! else owns it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::fields::{self, FieldSet};
use crate::error::ApiError;
use crate::object::{at, set_meta, text};
use crate::schema::Schema;

/// Who writes, and as what.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) manager: String,
    pub(crate) api_version: String,
    /// Empty, or `status`.
    pub(crate) subresource: String,
    /// The time entries get, as `metav1.Time`.
    pub(crate) now: String,
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: String,
    set: FieldSet,
}

const APPLY: &str = "Apply";
const UPDATE: &str = "Update";

impl Entry {
    fn is(&self, writer: &Writer, operation: &str) -> bool {
        self.manager == writer.manager
            && self.subresource == writer.subresource
            && self.operation == operation
            // An applier is the same whichever version it applies.
            && (operation == APPLY || self.api_version == writer.api_version)
    }

    fn shown(&self) -> String {
        let mut shown = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            shown = format!("{shown} with subresource {:?}", self.subresource);
        }
        if self.operation == UPDATE {
            shown = format!("{shown} using {}", self.api_version);
            if !self.time.is_empty() {
                shown = format!("{shown} at {}", self.time);
            }
        }
        shown
    }
}

fn entries(object: Option<&Value>) -> Vec<Entry> {
    let list = object.and_then(|object| at(object, &["metadata", "managedFields"])).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .map(|entry| Entry {
            manager: text(entry, &["manager"]).to_owned(),
            operation: text(entry, &["operation"]).to_owned(),
            api_version: text(entry, &["apiVersion"]).to_owned(),
            subresource: text(entry, &["subresource"]).to_owned(),
            time: text(entry, &["time"]).to_owned(),
            set: entry.get("fieldsV1").map(fields::parse).unwrap_or_default(),
        })
        .collect()
}

fn put_entries(object: &mut Value, entries: Vec<Entry>) {
    let list: Vec<Value> = entries
        .into_iter()
        .filter(|entry| !entry.set.is_empty())
        .map(|entry| {
            let mut written = json!({
                "manager": entry.manager, "operation": entry.operation, "apiVersion": entry.api_version,
                "time": entry.time, "fieldsType": "FieldsV1", "fieldsV1": fields::write(&entry.set),
            });
            if !entry.subresource.is_empty()
                && let Some(map) = written.as_object_mut()
            {
                map.insert("subresource".into(), entry.subresource.into());
            }
            written
        })
        .collect();
    if list.is_empty() {
        crate::object::clear_meta(object, "managedFields");
    } else {
        set_meta(object, "managedFields", list);
    }
}

/// Fields nobody manages, because the server sets them.
fn owned(path: &[String]) -> bool {
    const SERVERS: &[&str] = &[
        "f:name",
        "f:namespace",
        "f:creationTimestamp",
        "f:selfLink",
        "f:uid",
        "f:generation",
        "f:managedFields",
        "f:resourceVersion",
        "f:deletionTimestamp",
        "f:deletionGracePeriodSeconds",
    ];
    match path {
        [one] => !matches!(one.as_str(), "f:apiVersion" | "f:kind" | "f:metadata"),
        [first, second, ..] if first == "f:metadata" => !SERVERS.contains(&second.as_str()),
        _ => true,
    }
}

/// The object after `config` was applied to `live`, with its `managedFields`.
pub(crate) fn apply(
    schema: &Schema,
    live: Option<&Value>,
    config: &Value,
    writer: &Writer,
    force: bool,
) -> Result<Value, ApiError> {
    let mut managers = entries(live);
    let mut set = fields::of(Some(schema), config);
    set.retain(|path| owned(path));
    let empty = Value::Object(serde_json::Map::new());
    let mut merged = merge(Some(schema), live.unwrap_or(&empty), config);
    let changed = fields::compare(Some(schema), live, Some(&merged)).set;

    // What others own and this changes.
    let mut conflicts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in managers.iter_mut().filter(|entry| !entry.is(writer, APPLY)) {
        let mine: FieldSet = entry.set.intersection(&changed).cloned().collect();
        // A parent that merely gains something is no conflict; what is named must be what was applied.
        let mine: FieldSet = mine.into_iter().filter(|path| set.contains(path)).collect();
        if mine.is_empty() {
            continue;
        }
        if force {
            entry.set.retain(|path| !mine.contains(path));
        } else {
            conflicts.entry(entry.shown()).or_default().extend(mine.iter().map(|path| fields::shown(path)));
        }
    }
    if !conflicts.is_empty() {
        return Err(refusal(&conflicts));
    }

    // What this manager no longer names, and nobody else holds.
    if let Some(place) = managers.iter().position(|entry| entry.is(writer, APPLY)) {
        let last = managers.remove(place);
        let mut held = with_parents(&set);
        for entry in &managers {
            held.extend(with_parents(&entry.set));
        }
        let gone: FieldSet = with_parents(&last.set)
            .into_iter()
            .filter(|path| !held.contains(path) && path.as_slice() != ["f:metadata"])
            .collect();
        fields::remove(Some(schema), &mut merged, &gone);
        let unchanged = last.set == set && last.api_version == writer.api_version;
        let time = if unchanged { last.time } else { writer.now.clone() };
        managers.insert(place, entry(writer, APPLY, time, set));
    } else {
        // Appliers come before updaters.
        let place = managers.iter().position(|entry| entry.operation == UPDATE).unwrap_or(managers.len());
        managers.insert(place, entry(writer, APPLY, writer.now.clone(), set));
    }
    put_entries(&mut merged, managers);
    Ok(merged)
}

fn entry(writer: &Writer, operation: &str, time: String, set: FieldSet) -> Entry {
    Entry {
        manager: writer.manager.clone(),
        operation: operation.to_owned(),
        api_version: writer.api_version.clone(),
        subresource: writer.subresource.clone(),
        time,
        set,
    }
}

fn refusal(conflicts: &BTreeMap<String, Vec<String>>) -> ApiError {
    let total: usize = conflicts.values().map(Vec::len).sum();
    let parts: Vec<String> = conflicts
        .iter()
        .map(|(manager, paths)| match paths.as_slice() {
            [one] => format!("conflict with {manager}: {one}"),
            many => format!("conflicts with {manager}:\n- {}", many.join("\n- ")),
        })
        .collect();
    let plural = if total == 1 { "" } else { "s" };
    let causes = conflicts
        .iter()
        .flat_map(|(manager, paths)| paths.iter().map(move |path| (format!("conflict with {manager}"), path.clone())))
        .collect();
    ApiError::apply_conflict(format!("Apply failed with {total} conflict{plural}: {}", parts.join("\n")), causes)
}

/// The set with the fields its members are in; items of lists only if they are members themselves.
fn with_parents(set: &FieldSet) -> FieldSet {
    let mut all = FieldSet::new();
    for path in set {
        for length in 1..path.len() {
            if let Some(parent) = path.get(..length)
                && parent.last().is_some_and(|last| last.starts_with("f:"))
            {
                all.insert(parent.to_vec());
            }
        }
        all.insert(path.clone());
    }
    all
}

/// Records that `writer` changed `live` into `new` by an update or a patch.
pub(crate) fn track(schema: &Schema, live: Option<&Value>, new: &mut Value, writer: &Writer) {
    let mut managers = entries(live);
    let strip = |object: &Value| {
        let mut object = object.clone();
        crate::object::clear_meta(&mut object, "managedFields");
        object
    };
    let (before, after) = (live.map(strip), strip(new));
    let difference = fields::compare(Some(schema), before.as_ref(), Some(&after));
    let mine: FieldSet = difference.set.into_iter().filter(|path| owned(path)).collect();
    for entry in &mut managers {
        let own = entry.is(writer, UPDATE);
        entry.set.retain(|path| {
            let gone = difference.removed.iter().any(|removed| path.starts_with(removed));
            !gone && (own || !mine.contains(path))
        });
    }
    if !mine.is_empty() {
        match managers.iter_mut().find(|entry| entry.is(writer, UPDATE)) {
            Some(entry) => {
                entry.set.extend(mine);
                entry.time.clone_from(&writer.now);
            }
            None => managers.push(entry(writer, UPDATE, writer.now.clone(), mine)),
        }
    }
    put_entries(new, managers);
}

/// `live` with what `config` says.
fn merge(schema: Option<&Schema>, live: &Value, config: &Value) -> Value {
    match (live, config) {
        (Value::Object(before), Value::Object(wanted)) if !fields::atomic(schema) => {
            let mut result = before.clone();
            for (name, value) in wanted {
                let inner = fields::below(schema, name);
                let merged = result.get(name).map_or_else(|| value.clone(), |live| merge(inner, live, value));
                result.insert(name.clone(), merged);
            }
            Value::Object(result)
        }
        (Value::Array(before), Value::Array(wanted)) => {
            match (fields::elements(schema, before), fields::elements(schema, wanted)) {
                (Some(before_names), Some(wanted_names)) => {
                    Value::Array(merge_lists(schema, (before, &before_names), (wanted, &wanted_names)))
                }
                _ => config.clone(),
            }
        }
        _ => config.clone(),
    }
}

/// In the order of `wanted`, with the items only `live` has where they were.
fn merge_lists(schema: Option<&Schema>, live: (&[Value], &[String]), wanted: (&[Value], &[String])) -> Vec<Value> {
    let mut result = Vec::with_capacity(live.0.len() + wanted.0.len());
    let (mut left, mut right) = (0, 0);
    loop {
        match (live.1.get(left), wanted.1.get(right)) {
            (Some(name), _) if !wanted.1.contains(name) => {
                result.extend(live.0.get(left).cloned());
                left += 1;
            }
            (before, Some(name)) => {
                if before == Some(name) {
                    left += 1;
                }
                let same = live.1.iter().position(|one| one == name).and_then(|place| live.0.get(place));
                if let Some(value) = wanted.0.get(right) {
                    let inner = fields::items(schema);
                    result.push(same.map_or_else(|| value.clone(), |same| merge(inner, same, value)));
                }
                right += 1;
            }
            // It is in `wanted`, and was put where `wanted` has it.
            (Some(_), None) => left += 1,
            (None, None) => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    fn schema() -> std::sync::Arc<Schema> {
        Registry::built_in().get("", "v1", "services").expect("built in").schema.clone()
    }

    fn writer(manager: &str) -> Writer {
        Writer {
            manager: manager.to_owned(),
            api_version: "v1".to_owned(),
            subresource: String::new(),
            now: "2026-01-01T00:00:00Z".to_owned(),
        }
    }

    fn service(labels: Value, ports: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "labels": labels}, "spec": {"ports": ports}})
    }

    #[test]
    fn the_same_value_is_shared_and_another_is_a_conflict_naming_its_manager() {
        let schema = schema();
        let first = service(json!({"a": "1"}), json!([{"port": 80, "name": "http"}]));
        let live = apply(&schema, None, &first, &writer("one"), false).expect("new");
        let shared = apply(&schema, Some(&live), &first, &writer("two"), false).expect("the same");
        assert_eq!(entries(Some(&shared)).len(), 2);
        let other = service(json!({"a": "2"}), json!([{"port": 80, "name": "web"}]));
        let refused = apply(&schema, Some(&shared), &other, &writer("two"), false).expect_err("conflict");
        assert_eq!((refused.code, refused.reason), (409, "Conflict"));
        assert_eq!(
            refused.message,
            "Apply failed with 2 conflicts: conflicts with \"one\":\n- .metadata.labels.a\n- .spec.ports[port=80,protocol=\"TCP\"].name"
        );
        let forced = apply(&schema, Some(&shared), &other, &writer("two"), true).expect("forced");
        assert_eq!(at(&forced, &["metadata", "labels", "a"]), Some(&json!("2")));
        let back = apply(&schema, Some(&forced), &first, &writer("one"), false).expect_err("now it is two's");
        assert!(back.message.contains("\"two\""), "{}", back.message);
    }

    #[test]
    fn what_is_no_longer_applied_goes_unless_someone_else_holds_it() {
        let schema = schema();
        let both = service(json!({"a": "1", "b": "1"}), json!([{"port": 80}, {"port": 81}]));
        let live = apply(&schema, None, &both, &writer("one"), false).expect("new");
        let held = service(json!({"b": "1"}), json!([{"port": 81}]));
        let live = apply(&schema, Some(&live), &held, &writer("two"), false).expect("shared");
        let less = service(json!({}), json!([{"port": 82}]));
        let live = apply(&schema, Some(&live), &less, &writer("one"), false).expect("less");
        assert_eq!(at(&live, &["metadata", "labels"]), Some(&json!({"b": "1"})));
        let ports: Vec<_> = live["spec"]["ports"].as_array().expect("ports").iter().map(|one| &one["port"]).collect();
        assert_eq!(ports, [&json!(81), &json!(82)]);
        assert_eq!(live["metadata"]["name"], "s");
    }

    #[test]
    fn an_update_takes_the_fields_it_changes() {
        let schema = schema();
        let first = service(json!({"a": "1", "b": "1"}), json!([{"port": 80}]));
        let live = apply(&schema, None, &first, &writer("one"), false).expect("new");
        let mut new = live.clone();
        new["metadata"]["labels"] = json!({"a": "2", "c": "1"});
        track(&schema, Some(&live), &mut new, &writer("two"));
        let entries = entries(Some(&new));
        assert_eq!(entries.len(), 2);
        let label = |name: &str| vec!["f:metadata".to_owned(), "f:labels".to_owned(), format!("f:{name}")];
        assert!(!entries[0].set.contains(&label("a")) && !entries[0].set.contains(&label("b")));
        assert!(entries[1].set.contains(&label("a")) && entries[1].set.contains(&label("c")));
        let refused = apply(&schema, Some(&new), &first, &writer("one"), false).expect_err("two's");
        assert_eq!(
            refused.message,
            "Apply failed with 1 conflict: conflict with \"two\" using v1 at 2026-01-01T00:00:00Z: .metadata.labels.a"
        );
    }
}
