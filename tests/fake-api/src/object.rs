//! Objects as JSON: reading and writing the few fields the server itself cares about.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};

use serde_json::{Map, Value};

/// The value at `path`, such as `["metadata", "name"]`.
pub(crate) fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(name))
}

/// The text at `path`, empty when there is none.
pub(crate) fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// A field of `metadata` as text, empty when there is none.
pub(crate) fn meta<'a>(object: &'a Value, name: &str) -> &'a str {
    text(object, &["metadata", name])
}

/// The object's fields; makes it an object if it is none.
pub(crate) fn fields(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// The fields of the object at `name`, made when missing.
pub(crate) fn child<'a>(value: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    fields(fields(value).entry(name).or_insert_with(|| Value::Object(Map::new())))
}

/// Sets a field of `metadata`.
pub(crate) fn set_meta(object: &mut Value, name: &str, value: impl Into<Value>) {
    child(object, "metadata").insert(name.to_owned(), value.into());
}

/// Removes a field of `metadata`.
pub(crate) fn clear_meta(object: &mut Value, name: &str) {
    child(object, "metadata").remove(name);
}

/// Puts `from`'s field in place of `object`'s, or removes it where `from` has none.
pub(crate) fn take_field(object: &mut Value, from: &Value, name: &str) {
    match from.get(name) {
        Some(value) => fields(object).insert(name.to_owned(), value.clone()),
        None => fields(object).remove(name),
    };
}

/// Puts `from`'s field of `metadata` in place of `object`'s.
pub(crate) fn take_meta(object: &mut Value, from: &Value, name: &str) {
    match at(from, &["metadata", name]) {
        Some(value) => child(object, "metadata").insert(name.to_owned(), value.clone()),
        None => child(object, "metadata").remove(name),
    };
}

/// The finalizers.
pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    at(object, &["metadata", "finalizers"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// Whether the object is being deleted.
pub(crate) fn deleting(object: &Value) -> bool {
    at(object, &["metadata", "deletionTimestamp"]).is_some()
}

/// Now, in whole seconds, as `metav1.Time` is written.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Some seconds from now.
pub(crate) fn seconds_from_now(seconds: i64) -> String {
    let then = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Random bits: the standard library's hash keys are random per instance.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A random (version 4) UUID.
pub(crate) fn uid() -> String {
    let (high, low) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff
    )
}

/// Five letters as `generateName` appends: no vowels, nothing that looks alike.
pub(crate) fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bits = random();
    (0..5)
        .filter_map(|_| {
            let letter = usize::try_from(bits % LETTERS.len() as u64).ok().and_then(|place| LETTERS.get(place));
            bits /= LETTERS.len() as u64;
            letter.map(|letter| char::from(*letter))
        })
        .collect()
}
