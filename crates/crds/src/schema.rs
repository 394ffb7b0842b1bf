//! The words that schemas are made of.

use serde_json::{Map, Value, json};

/// An object with these properties.
pub(crate) fn object(about: &str, properties: &[(&str, Value)]) -> Value {
    let properties: Map<String, Value> =
        properties.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    let mut schema = json!({"type": "object"});
    if !about.is_empty() {
        schema["description"] = json!(about);
    }
    if !properties.is_empty() {
        schema["properties"] = Value::Object(properties);
    }
    schema
}

/// An object without any property that is known.
pub(crate) fn empty(about: &str) -> Value {
    object(about, &[])
}

/// A text.
pub(crate) fn text(about: &str) -> Value {
    json!({"type": "string", "description": about})
}

/// One of these words.
pub(crate) fn one_of(about: &str, words: &[&str]) -> Value {
    json!({"type": "string", "description": about, "enum": words})
}

/// A truth value, absent or given.
pub(crate) fn flag(about: &str) -> Value {
    json!({"type": "boolean", "description": about})
}

/// A whole number in a range.
pub(crate) fn number(about: &str, least: i64, most: i64) -> Value {
    let format = if most > i64::from(i32::MAX) { "int64" } else { "int32" };
    json!({"type": "integer", "format": format, "description": about, "minimum": least, "maximum": most})
}

/// A count.
pub(crate) fn count(about: &str) -> Value {
    json!({"type": "integer", "format": "int64", "description": about})
}

/// A list of one kind of thing.
pub(crate) fn list(about: &str, items: Value) -> Value {
    json!({"type": "array", "description": about, "items": items})
}

/// A list of names.
pub(crate) fn names(about: &str) -> Value {
    list(about, json!({"type": "string"}))
}

/// Label selectors, of which one has to match.
pub(crate) fn selectors(about: &str) -> Value {
    list(about, selector())
}

/// A label selector (`metav1.LabelSelector`).
pub(crate) fn selector() -> Value {
    let expression = json!({
        "type": "object",
        "required": ["key", "operator"],
        "properties": {
            "key": text("The label's key."),
            "operator": text("In, NotIn, Exists or DoesNotExist."),
            "values": {
                "type": "array",
                "description": "What In and NotIn compare with; the other operators take none.",
                "items": {"type": "string"},
                "x-kubernetes-list-type": "atomic",
            },
        },
    });
    json!({
        "type": "object",
        "description": "Labels to have; empty matches everything.",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "type": "object",
                "description": "All of these labels.",
                "additionalProperties": {"type": "string"},
            },
            "matchExpressions": {
                "type": "array",
                "description": "All of these conditions.",
                "items": expression,
                "x-kubernetes-list-type": "atomic",
            },
        },
    })
}

/// Adds a default.
pub(crate) fn or(mut schema: Value, default: impl Into<Value>) -> Value {
    schema["default"] = default.into();
    schema
}

/// Says which properties of an object have to be given.
pub(crate) fn requires(mut schema: Value, names: &[&str]) -> Value {
    schema["required"] = json!(names);
    schema
}

/// Adds rules in CEL, each with what is said when it does not hold.
pub(crate) fn rules(mut schema: Value, rules: &[(&str, &str)]) -> Value {
    schema["x-kubernetes-validations"] =
        rules.iter().map(|(rule, message)| json!({"rule": rule, "message": message})).collect();
    schema
}

/// A value that never changes once it is set.
pub(crate) fn immutable(schema: Value) -> Value {
    rules(schema, &[("self == oldSelf", "it cannot be changed; create another object")])
}

/// `metav1.Condition`s, one of each type.
pub(crate) fn conditions(about: &str) -> Value {
    let condition = json!({
        "type": "object",
        "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        "properties": {
            "type": {"type": "string", "maxLength": 316},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
            "message": {"type": "string", "maxLength": 32768},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
        },
    });
    let mut schema = list(about, condition);
    schema["x-kubernetes-list-type"] = json!("map");
    schema["x-kubernetes-list-map-keys"] = json!(["type"]);
    schema
}
