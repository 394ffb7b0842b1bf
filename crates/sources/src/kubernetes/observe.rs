//! What a controller has to know of the objects it writes to, beside what they mean: their version, and what of its own
//! is there already.

use std::collections::BTreeMap;
use std::sync::Arc;

use evenkeel_plan::world::{Kind, ObjectKey};
use imbl::OrdMap;
use serde::Deserialize;
use serde_json::Value;

/// The observed objects. A copy shares everything with its original.
pub type Observed = OrdMap<ObjectKey, Arc<Observation>>;

/// The annotation that says which pool a service's addresses are from.
pub const POOL: &str = "metallb.io/ip-allocated-from-pool";
/// The same under MetalLB's former prefix.
pub const FORMER_POOL: &str = "metallb.universe.tf/ip-allocated-from-pool";
/// The condition that says whether a service has the addresses it asks for.
pub const CONDITION: &str = "evenkeel.io/AddressesAssigned";

/// The prefixes of the annotations that are kept.
const PREFIXES: [&str; 2] = ["metallb.io/", "metallb.universe.tf/"];

/// The kinds that are observed.
const KINDS: [Kind; 2] = [Kind::Service, Kind::IpAddressPool];

/// One object as the API had it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.annotations`, MetalLB's alone.
    pub annotations: BTreeMap<String, String>,
    /// `spec.loadBalancerClass` of a Service of type `LoadBalancer`; `None` for all other objects.
    pub class: Option<LoadBalancerClass>,
    /// `status`, whatever it is.
    pub status: Value,
}

/// Who is to serve a Service of type `LoadBalancer`; `None`: whoever serves those that say nothing.
pub type LoadBalancerClass = Option<String>;

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    generation: i64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, Value>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default, rename = "type")]
    service_type: Value,
    #[serde(default)]
    load_balancer_class: Option<String>,
}

impl Observation {
    /// What there is to know of an object; `None` for objects nobody writes to.
    pub fn of(kind: Kind, object: &Value) -> Option<Self> {
        if !KINDS.contains(&kind) {
            return None;
        }
        let Object { metadata, spec, status } = Object::deserialize(object).ok()?;
        let is_balancer = kind == Kind::Service && spec.service_type == "LoadBalancer";
        let annotations = metadata.annotations.unwrap_or_default().into_iter().filter_map(|(key, value)| {
            let ours = PREFIXES.iter().any(|prefix| key.starts_with(prefix));
            Some((key, value.as_str()?.to_owned())).filter(|_| ours)
        });
        let seen = Self {
            uid: metadata.uid,
            version: metadata.resource_version,
            generation: metadata.generation,
            annotations: annotations.collect(),
            class: is_balancer.then_some(spec.load_balancer_class),
            status,
        };
        let has_address = seen.status.pointer("/loadBalancer/ingress/0").is_some();
        let is_written_to = kind != Kind::Service || is_balancer || has_address || seen.is_marked();
        is_written_to.then_some(seen)
    }

    /// The conditions in the status.
    pub fn conditions(&self) -> impl Iterator<Item = &Value> {
        self.status.get("conditions").and_then(Value::as_array).into_iter().flatten()
    }

    /// A controller has said something here about the addresses it gave. When a service stops being a load balancer, the API
    /// itself removes the addresses, but nothing of this.
    pub fn is_marked(&self) -> bool {
        [POOL, FORMER_POOL].iter().any(|key| self.annotations.contains_key(*key))
            || self.conditions().any(|condition| condition["type"] == CONDITION)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_controller_writes_is_seen() {
        let object = json!({
            "metadata": {
                "name": "web", "uid": "u", "resourceVersion": "7", "generation": 2,
                "annotations": {"metallb.io/ip-allocated-from-pool": "p", "other": "x"},
            },
            "spec": {"type": "LoadBalancer", "loadBalancerClass": "c"},
            "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}},
        });
        let seen = Observation::of(Kind::Service, &object).unwrap();
        assert_eq!((seen.uid.as_str(), seen.version.as_str(), seen.generation), ("u", "7", 2));
        assert_eq!(
            seen.annotations.into_iter().collect::<Vec<_>>(),
            [("metallb.io/ip-allocated-from-pool".to_owned(), "p".to_owned())]
        );
        assert_eq!(seen.class, Some(Some("c".to_owned())));
        assert_eq!(seen.status, object["status"]);
    }

    #[test]
    fn what_nobody_writes_to_is_not_kept() {
        let cluster_ip =
            json!({"metadata": {"name": "web"}, "spec": {"type": "ClusterIP"}, "status": {"loadBalancer": {}}});
        assert_eq!(Observation::of(Kind::Service, &cluster_ip), None);
        let former = json!({"metadata": {}, "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}});
        assert!(Observation::of(Kind::Service, &former).is_some_and(|seen| seen.class.is_none()), "to be cleared");
        for key in [POOL, FORMER_POOL] {
            let emptied = json!({"metadata": {"annotations": {key: "p"}}, "status": {"loadBalancer": {}}});
            assert!(Observation::of(Kind::Service, &emptied).is_some(), "{key} is to be removed");
        }
        let refused = json!({"metadata": {}, "status": {"conditions": [{"type": CONDITION, "status": "False"}]}});
        assert!(Observation::of(Kind::Service, &refused).is_some(), "the condition is to be removed");
        let others = json!({"metadata": {"annotations": {"metallb.io/address-pool": "p"}},
            "status": {"conditions": [{"type": "other"}]}});
        assert_eq!(Observation::of(Kind::Service, &others), None);
        assert_eq!(Observation::of(Kind::Node, &cluster_ip), None);
    }
}
