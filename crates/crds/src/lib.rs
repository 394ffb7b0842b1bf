//! The custom resources of MetalLB's API group, `metallb.io`, as CustomResourceDefinitions: the names, versions, fields,
//! defaults and statuses its users know, so that their objects and manifests are accepted unchanged. What a schema or a
//! rule in CEL can say is said there, and refused by the API server itself; what needs a look at several objects is the
//! webhook's, and the controller's.
//!
//! Everything here is a function without input. `evenkeel crds` prints it, and the committed files are compared with it.

mod kinds;
mod schema;

use serde_json::{Value, json};

/// The API group.
pub const GROUP: &str = "metallb.io";

/// A definition could not be written as YAML.
#[derive(Debug, thiserror::Error)]
#[error("cannot write a resource definition as YAML: {0}")]
pub struct WriteError(String);

/// All definitions, in the order of their names: `apiextensions.k8s.io/v1` objects as JSON.
#[must_use]
pub fn definitions() -> Vec<Value> {
    let mut all: Vec<Value> = kinds::all().iter().map(Definition::render).collect();
    all.sort_by_key(|definition| definition["metadata"]["name"].to_string());
    all.iter_mut().for_each(Value::sort_all_objects);
    all
}

/// All definitions as a YAML stream.
///
/// # Errors
/// None are known; the writer could have one.
pub fn yaml() -> Result<String, WriteError> {
    let mut text = String::from("# Made by `evenkeel crds`.\n");
    for definition in definitions() {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&definition).map_err(|error| WriteError(error.to_string()))?);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(text)
}

/// A kind and its versions.
struct Definition {
    kind: &'static str,
    plural: &'static str,
    versions: Vec<Version>,
}

/// A version of a kind.
struct Version {
    name: &'static str,
    /// What is said to whoever still uses it.
    deprecated: Option<&'static str>,
    about: &'static str,
    columns: Vec<Column>,
    spec: Value,
    /// Whether `spec` has to be given.
    spec_required: bool,
    status: Value,
}

/// A column of `kubectl get`.
struct Column {
    name: &'static str,
    kind: &'static str,
    path: &'static str,
    /// Above 0: only with `-o wide`.
    priority: u8,
}

impl Definition {
    fn render(&self) -> Value {
        let singular = self.kind.to_lowercase();
        let last = self.versions.len().saturating_sub(1);
        let versions: Vec<Value> =
            self.versions.iter().enumerate().map(|(n, version)| version.render(n == last)).collect();
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{}.{GROUP}", self.plural)},
            "spec": {
                "group": GROUP,
                "names": {
                    "kind": self.kind,
                    "listKind": format!("{}List", self.kind),
                    "plural": self.plural,
                    "singular": singular,
                },
                "scope": "Namespaced",
                "versions": versions,
            },
        })
    }
}

impl Version {
    /// `stored`: in this version objects are kept. Versions differ in fields alone, not in what fields mean, so none is
    /// converted.
    fn render(&self, stored: bool) -> Value {
        let mut root = schema::object(self.about, &[("spec", self.spec.clone()), ("status", self.status.clone())]);
        root["properties"]["apiVersion"] = json!({"type": "string"});
        root["properties"]["kind"] = json!({"type": "string"});
        root["properties"]["metadata"] = json!({"type": "object"});
        if self.spec_required {
            root["required"] = json!(["spec"]);
        }
        let mut version = json!({
            "name": self.name,
            "served": true,
            "storage": stored,
            "schema": {"openAPIV3Schema": root},
            "subresources": {"status": {}},
        });
        if let Some(warning) = self.deprecated {
            version["deprecated"] = json!(true);
            version["deprecationWarning"] = json!(warning);
        }
        if !self.columns.is_empty() {
            version["additionalPrinterColumns"] = self.columns.iter().map(Column::render).collect();
        }
        version
    }
}

impl Column {
    fn render(&self) -> Value {
        let mut column = json!({"name": self.name, "type": self.kind, "jsonPath": self.path});
        if self.priority > 0 {
            column["priority"] = json!(self.priority);
        }
        column
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_metallb_is_there() {
        let names: Vec<Value> = definitions().iter().map(|definition| definition["metadata"]["name"].clone()).collect();
        assert_eq!(
            names,
            [
                "bfdprofiles.metallb.io",
                "bgpadvertisements.metallb.io",
                "bgppeers.metallb.io",
                "communities.metallb.io",
                "configurationstates.metallb.io",
                "ipaddresspools.metallb.io",
                "l2advertisements.metallb.io",
                "servicebgpstatuses.metallb.io",
                "servicel2statuses.metallb.io",
            ]
        );
    }

    #[test]
    fn the_charts_copy_is_current() {
        let committed = include_str!("../../../charts/evenkeel/crds/metallb.io.yaml");
        assert!(committed == yaml().unwrap(), "stale: evenkeel crds > charts/evenkeel/crds/metallb.io.yaml");
    }

    #[test]
    fn exactly_one_version_is_stored_and_all_are_served() {
        for definition in definitions() {
            let versions = definition["spec"]["versions"].as_array().unwrap();
            assert_eq!(versions.iter().filter(|version| version["storage"] == true).count(), 1);
            assert!(versions.iter().all(|version| version["served"] == true));
        }
    }

    /// A structural schema (KEP-1979): everything has a type, and what is forbidden inside is not there.
    #[test]
    fn every_schema_is_structural() {
        fn check(path: &str, schema: &Value) {
            assert!(schema["type"].is_string(), "{path} has no type");
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                check(&format!("{path}.{name}"), property);
            }
            if schema["items"].is_object() {
                check(&format!("{path}[]"), &schema["items"]);
            }
            assert!(schema["type"] != "array" || schema["items"].is_object(), "{path} has no items");
            for required in schema["required"].as_array().into_iter().flatten() {
                assert!(schema["properties"][required.as_str().unwrap()].is_object(), "{path} requires {required}");
            }
        }
        for definition in definitions() {
            for version in definition["spec"]["versions"].as_array().unwrap() {
                check(definition["spec"]["names"]["kind"].as_str().unwrap(), &version["schema"]["openAPIV3Schema"]);
            }
        }
    }
}
