//! Bodies in Kubernetes' protobuf form, which Go's typed clients send: those of `helm`'s release records and `kubectl
//! auth`, as JSON. Answers are JSON, which those clients accept as well.
//!
//! Numbers of fields are those of the `generated.proto` files beside the types in `k8s.io/api` and `k8s.io/apimachinery`.

use base64::Engine as _;
use serde_json::{Map, Value, json};

/// What a field holds.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Bool,
    Int,
    Time,
    Message(Fields),
    Texts,
    Messages(Fields),
    TextMap,
    BytesMap,
}

type Fields = &'static [(u64, &'static str, Kind)];

const OWNER: Fields = &[
    (1, "kind", Kind::Text),
    (3, "name", Kind::Text),
    (4, "uid", Kind::Text),
    (5, "apiVersion", Kind::Text),
    (6, "controller", Kind::Bool),
    (7, "blockOwnerDeletion", Kind::Bool),
];
// `managedFields` (17) is left out: the server keeps its own record.
const META: Fields = &[
    (1, "name", Kind::Text),
    (2, "generateName", Kind::Text),
    (3, "namespace", Kind::Text),
    (5, "uid", Kind::Text),
    (6, "resourceVersion", Kind::Text),
    (7, "generation", Kind::Int),
    (8, "creationTimestamp", Kind::Time),
    (9, "deletionTimestamp", Kind::Time),
    (10, "deletionGracePeriodSeconds", Kind::Int),
    (11, "labels", Kind::TextMap),
    (12, "annotations", Kind::TextMap),
    (13, "ownerReferences", Kind::Messages(OWNER)),
    (14, "finalizers", Kind::Texts),
];
const SECRET: Fields = &[
    (1, "metadata", Kind::Message(META)),
    (2, "data", Kind::BytesMap),
    (3, "type", Kind::Text),
    (4, "stringData", Kind::TextMap),
    (5, "immutable", Kind::Bool),
];
const CONFIG_MAP: Fields = &[
    (1, "metadata", Kind::Message(META)),
    (2, "data", Kind::TextMap),
    (3, "binaryData", Kind::BytesMap),
    (4, "immutable", Kind::Bool),
];
const NAMESPACE: Fields = &[
    (1, "metadata", Kind::Message(META)),
    (2, "spec", Kind::Message(&[(1, "finalizers", Kind::Texts)])),
    (3, "status", Kind::Message(&[(1, "phase", Kind::Text)])),
];
const ATTRIBUTES: Fields = &[
    (1, "namespace", Kind::Text),
    (2, "verb", Kind::Text),
    (3, "group", Kind::Text),
    (4, "version", Kind::Text),
    (5, "resource", Kind::Text),
    (6, "subresource", Kind::Text),
    (7, "name", Kind::Text),
];
const REVIEW: Fields = &[
    (1, "metadata", Kind::Message(META)),
    (
        2,
        "spec",
        Kind::Message(&[
            (1, "resourceAttributes", Kind::Message(ATTRIBUTES)),
            (2, "nonResourceAttributes", Kind::Message(&[(1, "path", Kind::Text), (2, "verb", Kind::Text)])),
        ]),
    ),
];
const DELETE: Fields = &[
    (1, "gracePeriodSeconds", Kind::Int),
    (2, "preconditions", Kind::Message(&[(1, "uid", Kind::Text), (2, "resourceVersion", Kind::Text)])),
    (3, "orphanDependents", Kind::Bool),
    (4, "propagationPolicy", Kind::Text),
    (5, "dryRun", Kind::Texts),
];
const META_ONLY: Fields = &[(1, "metadata", Kind::Message(META))];

fn fields_of(kind: &str) -> Option<Fields> {
    Some(match kind {
        "Secret" => SECRET,
        "ConfigMap" => CONFIG_MAP,
        "Namespace" => NAMESPACE,
        "SelfSubjectAccessReview" => REVIEW,
        "DeleteOptions" => DELETE,
        "SelfSubjectReview" | "ServiceAccount" => META_ONLY,
        _ => return None,
    })
}

/// Reads a body: `k8s\0`, then a `runtime.Unknown` that says what it holds.
pub(crate) fn read(body: &[u8]) -> Result<Value, String> {
    let envelope = body.strip_prefix(b"k8s\0").ok_or("the body does not begin as Kubernetes' protobuf does")?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[] as &[u8]);
    for part in Parts(envelope) {
        match part? {
            (1, Wire::Bytes(meta)) => {
                for part in Parts(meta) {
                    match part? {
                        (1, Wire::Bytes(value)) => version = text(value),
                        (2, Wire::Bytes(value)) => kind = text(value),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(value)) => raw = value,
            _ => {}
        }
    }
    let fields = fields_of(&kind).ok_or_else(|| format!("{kind} is only read as JSON"))?;
    let mut object = message(fields, raw)?;
    object.insert("apiVersion".into(), version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn message(fields: Fields, bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let mut object = Map::new();
    for part in Parts(bytes) {
        let (number, wire) = part?;
        let Some((_, name, kind)) = fields.iter().find(|(one, _, _)| *one == number) else { continue };
        let slot = |object: &mut Map<String, Value>, value: Value| {
            object.insert((*name).to_owned(), value);
        };
        match (kind, wire) {
            (Kind::Bool, Wire::Number(number)) => slot(&mut object, (number != 0).into()),
            (Kind::Int, Wire::Number(number)) => slot(&mut object, number.cast_signed().into()),
            // Go writes fields that are empty; JSON leaves them out.
            (Kind::Text, Wire::Bytes(b"")) => {}
            (Kind::Text, Wire::Bytes(bytes)) => slot(&mut object, text(bytes).into()),
            (Kind::Time, Wire::Bytes(bytes)) => {
                if let Some(time) = time(bytes)? {
                    slot(&mut object, time.into());
                }
            }
            (Kind::Message(fields), Wire::Bytes(bytes)) => {
                let inner = message(fields, bytes)?;
                if !inner.is_empty() {
                    slot(&mut object, Value::Object(inner));
                }
            }
            (Kind::Texts, Wire::Bytes(bytes)) => push(&mut object, name, text(bytes).into()),
            (Kind::Messages(fields), Wire::Bytes(bytes)) => {
                let inner = message(fields, bytes)?;
                push(&mut object, name, Value::Object(inner));
            }
            (Kind::TextMap | Kind::BytesMap, Wire::Bytes(bytes)) => {
                let (key, value) = entry(bytes)?;
                let value = if matches!(kind, Kind::TextMap) {
                    text(value)
                } else {
                    base64::engine::general_purpose::STANDARD.encode(value)
                };
                let map = object.entry(*name).or_insert_with(|| json!({}));
                crate::object::fields(map).insert(key, value.into());
            }
            (_, Wire::Number(_) | Wire::Bytes(_)) => return Err(format!("{name} has another wire type")),
        }
    }
    Ok(object)
}

fn push(object: &mut Map<String, Value>, name: &str, value: Value) {
    if let Value::Array(list) = object.entry(name).or_insert_with(|| json!([])) {
        list.push(value);
    }
}

fn entry(bytes: &[u8]) -> Result<(String, &[u8]), String> {
    let (mut key, mut value) = (String::new(), &[] as &[u8]);
    for part in Parts(bytes) {
        match part? {
            (1, Wire::Bytes(bytes)) => key = text(bytes),
            (2, Wire::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    Ok((key, value))
}

/// A `metav1.Time`; none if it is the zero time.
fn time(bytes: &[u8]) -> Result<Option<String>, String> {
    for part in Parts(bytes) {
        if let (1, Wire::Number(seconds)) = part? {
            let time = jiff::Timestamp::from_second(seconds.cast_signed()).map_err(|error| error.to_string())?;
            return Ok(Some(time.to_string()));
        }
    }
    Ok(None)
}

/// The value of a field on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, one after the other.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn number(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or("a number ends early")?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is too long".to_owned())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let length = usize::try_from(length).map_err(|_| "a field is too long")?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or("a field ends early")?;
        self.0 = rest;
        Ok(bytes)
    }

    fn part(&mut self) -> Result<(u64, Wire<'a>), String> {
        let tag = self.number()?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.number()?),
            1 => Wire::Bytes(self.take(8)?),
            2 => {
                let length = self.number()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Bytes(self.take(4)?),
            other => return Err(format!("wire type {other}")),
        };
        Ok((tag >> 3, wire))
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u64, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_err() {
            self.0 = &[];
        }
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2, u8::try_from(bytes.len()).expect("short")];
        field.extend(bytes);
        field
    }

    #[test]
    fn a_secret_is_read() {
        let label = [field(1, b"owner"), field(2, b"helm")].concat();
        let meta = [field(1, b"name"), field(2, b""), field(8, b""), field(11, &label)].concat();
        let secret =
            [field(1, &meta), field(2, &[field(1, b"k"), field(2, b"\xff")].concat()), field(3, b"t")].concat();
        let kind = [field(1, b"v1"), field(2, b"Secret")].concat();
        let body = [b"k8s\0".to_vec(), field(1, &kind), field(2, &secret)].concat();
        assert_eq!(
            read(&body),
            Ok(json!({"apiVersion": "v1", "kind": "Secret", "type": "t", "data": {"k": "/w=="},
                "metadata": {"name": "name", "labels": {"owner": "helm"}}}))
        );
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), kind in 0..4_usize) {
            let kind = ["Secret", "Namespace", "SelfSubjectAccessReview", "DeleteOptions"][kind];
            let kind = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
            let _ = read(&[b"k8s\0".to_vec(), field(1, &kind), field(2, &bytes)].concat());
            let _ = read(&[b"k8s\0".to_vec(), bytes].concat());
        }
    }
}
