//! JSON values, as an API gives them, as the tree that manifests are read from.

use serde_json::Value as Json;

use crate::yaml::{Entry, Node, Position, Scalar, Value};

/// Deepest nesting, as in manifests.
pub const MAX_DEPTH: usize = 64;

/// Where something stands that is in no file.
pub const NOWHERE: Position = Position { line: 0, column: 0, width: 0 };

/// Who changed what: half of most objects, and of no use here.
const MANAGED_FIELDS: &str = "managedFields";

/// The tree; `None` when it is nested too deeply.
pub fn node(json: &Json) -> Option<Node> {
    below(json, MAX_DEPTH)
}

fn below(json: &Json, depth: usize) -> Option<Node> {
    let depth = depth.checked_sub(1)?;
    let scalar = |text: String, plain| Value::Scalar(Scalar { text: text.into(), plain });
    let value = match json {
        Json::Null => scalar("null".to_owned(), true),
        Json::Bool(bool) => scalar(bool.to_string(), true),
        Json::Number(number) => scalar(number.to_string(), true),
        Json::String(text) => scalar(text.clone(), false),
        Json::Array(items) => Value::Sequence(items.iter().map(|item| below(item, depth)).collect::<Option<_>>()?),
        Json::Object(entries) => {
            let entry = |(key, value): (&String, &Json)| {
                Some(Entry { key: key.as_str().into(), at: NOWHERE, value: below(value, depth)? })
            };
            let used = entries.iter().filter(|(key, _)| *key != MANAGED_FIELDS);
            Value::Mapping(used.map(entry).collect::<Option<_>>()?)
        }
    };
    Some(Node::new(value, NOWHERE))
}
