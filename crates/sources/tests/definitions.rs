//! What the definitions offer is what the reader reads: a field of a schema that makes no difference to what is read, and is not
//! refused with a reason either, would be ignored in silence. And where a schema has a default, the reader has the same.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use evenkeel_plan::world::{Kind, Object};
use evenkeel_sources::Severity;
use evenkeel_sources::manifest::of_api;
use serde_json::{Map, Value, json};

/// A valid text for a field of this name, that is no default.
fn text(name: &str) -> &'static str {
    match name {
        "addresses" => "192.0.2.0/24",
        "bfdProfile" => "fast",
        "communities" | "value" => "64512:100",
        "connectTime" | "keepaliveTime" => "10s",
        "holdTime" => "60s",
        "interface" | "interfaces" => "eth1",
        "ipAddressPools" => "lan",
        "key" => "zone",
        "name" | "namespace" | "namespaces" => "shop",
        // Exists has no values; with them it is refused, which proves that they are read.
        "operator" => "Exists",
        "password" => "secret",
        "peerAddress" => "192.0.2.1",
        "peers" => "tor",
        "routerID" => "192.0.2.3",
        "sourceAddress" => "192.0.2.2",
        "values" => "a",
        "vrf" => "red",
        name => panic!("the schema has a text `{name}`: say here what would be a valid one"),
    }
}

/// A value of a field with this schema, that is not its default.
fn number(name: &str, schema: &Value) -> i64 {
    match name {
        "myASN" => 64_512,
        "peerASN" => 64_513,
        _ => schema["minimum"].as_i64().unwrap_or_default() + 11,
    }
}

/// Every way to give one field more than has to be given: the path of the field, and the value with it and without it; `None`:
/// without it there is nothing.
fn variants(name: &str, schema: &Value) -> Vec<(String, Value, Option<Value>)> {
    let leaf = |value: Value| vec![(String::new(), value, None)];
    match schema["type"].as_str().unwrap() {
        "boolean" => leaf((schema.get("default") != Some(&Value::Bool(true))).into()),
        "integer" => leaf(number(name, schema).into()),
        "string" => match schema["enum"].as_array() {
            Some(words) => words.iter().map(|word| (String::new(), word.clone(), None)).collect(),
            None => leaf(text(name).into()),
        },
        "array" => {
            let items = variants(name, &schema["items"]).into_iter();
            let listed = |(path, with, without): (String, Value, Option<Value>)| {
                (format!("[]{path}"), json!([with]), without.map(|without| json!([without])))
            };
            items.map(listed).collect()
        }
        "object" if schema["additionalProperties"].is_object() => leaf(json!({"zone": "a"})),
        "object" => {
            let required = required(schema);
            let mut all = Vec::new();
            for (name, property) in schema["properties"].as_object().unwrap() {
                for (path, with, without) in variants(name, property) {
                    all.push((
                        format!(".{name}{path}"),
                        put(&required, name, Some(with)),
                        Some(put(&required, name, without)),
                    ));
                }
            }
            all
        }
        other => panic!("a schema of type {other}"),
    }
}

/// An object with all that has to be given: what the schema says, and what MetalLB's leaves unsaid, the name of a Secret and both
/// parts of an alias.
fn required(schema: &Value) -> Map<String, Value> {
    let named = schema["required"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap());
    let unsaid = ["name", "value"].into_iter().filter(|name| schema["properties"][name].is_object());
    named.chain(unsaid).map(|name| (name.to_owned(), variants(name, &schema["properties"][name]).remove(0).1)).collect()
}

fn put(object: &Map<String, Value>, name: &str, value: Option<Value>) -> Value {
    let mut object = object.clone();
    match value {
        Some(value) => _ = object.insert(name.to_owned(), value),
        None => _ = object.remove(name),
    }
    Value::Object(object)
}

/// A kind in one of its versions.
struct Definition {
    kind: Kind,
    version: String,
    spec: Value,
}

impl Definition {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for definition in evenkeel_crds::definitions() {
            let name = definition["spec"]["names"]["kind"].as_str().unwrap();
            let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.as_str() == name) else { continue };
            for version in definition["spec"]["versions"].as_array().unwrap() {
                let spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"].clone();
                all.push(Self { kind, version: version["name"].as_str().unwrap().to_owned(), spec });
            }
        }
        assert_eq!(all.len(), 7, "six kinds, one of them in two versions");
        all
    }

    /// What has to be given beside a field: what the schema says, and of a peer also what its rules say.
    fn beside(&self, field: &str) -> Map<String, Value> {
        let mut base = required(&self.spec);
        if self.kind == Kind::BgpPeer {
            for (name, instead) in [("peerASN", "dynamicASN"), ("peerAddress", "interface")] {
                if field != instead {
                    base.insert(name.to_owned(), variants(name, &self.spec["properties"][name]).remove(0).1);
                }
            }
        }
        base
    }

    fn read(&self, spec: &Value) -> (Option<Object>, Vec<(Severity, &'static str, String)>) {
        let parsed = of_api(
            self.kind,
            &json!({"apiVersion": format!("metallb.io/{}", self.version), "kind": self.kind.as_str(),
                "metadata": {"name": "x", "namespace": "lb"}, "spec": spec}),
        );
        let findings = parsed.diagnostics.into_iter().map(|found| (found.severity, found.reason, found.field));
        (parsed.documents.into_iter().next().and_then(|document| document.object), findings.collect())
    }
}

#[test]
fn no_field_of_a_definition_is_ignored_in_silence() {
    let mut ignored = Vec::new();
    let mut count = 0;
    for definition in Definition::all() {
        for (name, schema) in definition.spec["properties"].as_object().unwrap() {
            let base = definition.beside(name);
            for (path, with, without) in variants(name, schema) {
                let given = format!("{} {} spec.{name}{path}", definition.kind, definition.version);
                let (with, without) = (put(&base, name, Some(with)), put(&base, name, without));
                let (object, findings) = definition.read(&with);
                assert!(!findings.iter().any(|(_, reason, _)| *reason == "unknown_field"), "{given}: {findings:?}");
                let field = format!("spec.{name}");
                let is_refused =
                    findings.iter().any(|(severity, _, at)| *severity == Severity::Error && at.starts_with(&field));
                match object {
                    None => assert!(is_refused, "{given} in {with}: {findings:?}"),
                    Some(object) if Some(&object) == definition.read(&without).0.as_ref() => ignored.push(given),
                    Some(_) => {}
                }
                count += 1;
            }
        }
    }
    assert!(ignored.is_empty(), "{ignored:#?}");
    assert!(count > 90, "{count} fields");
}

/// Fields are read to be used, not to be refused.
#[test]
fn what_a_definition_takes_the_reader_takes() {
    let mut refused = Vec::new();
    for definition in Definition::all() {
        for (name, schema) in definition.spec["properties"].as_object().unwrap() {
            for (path, with, _) in variants(name, schema) {
                let (object, findings) = definition.read(&put(&definition.beside(name), name, Some(with)));
                // The operator that is tried has none.
                if object.is_none() && !path.ends_with("values[]") {
                    refused.push(format!("{} spec.{name}{path}: {findings:?}", definition.kind));
                }
            }
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn defaults_are_the_same() {
    let mut count = 0;
    for definition in Definition::all() {
        for (name, schema) in definition.spec["properties"].as_object().unwrap() {
            let Some(default) = schema.get("default") else { continue };
            let base = definition.beside(name);
            let given = definition.read(&put(&base, name, Some(default.clone()))).0;
            assert!(given.is_some() && given == definition.read(&Value::Object(base)).0, "{} {name}", definition.kind);
            count += 1;
        }
    }
    assert!(count >= 7, "{count} defaults");
}

/// What a schema's bounds let pass is understood or refused by name, and what they keep out the reader refuses too: manifests
/// in a directory have no API server before them.
#[test]
fn bounds_hold_without_an_api_server() {
    for definition in Definition::all() {
        for (name, schema) in definition.spec["properties"].as_object().unwrap() {
            let read = |value: i64| definition.read(&put(&definition.beside(name), name, Some(value.into())));
            let says = |(object, findings): &(Option<Object>, Vec<(Severity, &str, String)>)| {
                object.is_some() || findings.iter().any(|(_, _, field)| *field == format!("spec.{name}"))
            };
            let bounds = ["minimum", "maximum"].map(|bound| schema[bound].as_i64());
            let [Some(least), Some(most)] = bounds else { continue };
            for value in [least, most] {
                assert!(says(&read(value)), "{} {name}: {value}: {:?}", definition.kind, read(value));
            }
            for value in [least - 1, most + 1] {
                let (object, findings) = read(value);
                assert!(object.is_none() && !findings.is_empty(), "{} {name}: {value} is taken", definition.kind);
            }
        }
    }
}
