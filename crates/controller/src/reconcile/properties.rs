//! Reconciling comes to rest: whatever happens to services and pools, one write each makes the API say what the Plan
//! says, and the echo of it asks for no other. A controller that starts anew changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use evenkeel_plan::world::{Kind, ObjectName};
use evenkeel_plan::{Memory, Planner, World};
use evenkeel_sources::kubernetes::Observation;
use evenkeel_sources::manifest;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The services and pools of an API, as JSON.
#[derive(Clone, Debug, Default)]
struct Api {
    services: BTreeMap<ObjectName, Value>,
    pools: BTreeMap<ObjectName, Value>,
    versions: u64,
}

/// Something that users do.
#[derive(Clone, Debug)]
enum Deed {
    Put { service: usize, shape: usize },
    Delete { service: usize },
    Pool { pool: usize, range: Option<usize> },
}

const RANGES: [&str; 4] = ["10.0.0.1-10.0.0.3", "10.0.0.2-10.0.0.9", "10.0.1.0/30", "2001:db8::/126"];

fn spec(shape: usize) -> (Value, Value) {
    let port = json!([{"port": 80}]);
    match shape {
        0 => (json!({}), json!({"type": "LoadBalancer", "ports": port})),
        1 => (json!({"metallb.io/loadBalancerIPs": "10.0.0.2"}), json!({"type": "LoadBalancer", "ports": port})),
        2 => (json!({"metallb.io/address-pool": "p1"}), json!({"type": "LoadBalancer", "ports": port})),
        3 => (json!({}), json!({"type": "ClusterIP", "ports": port})),
        4 => (json!({"metallb.io/allow-shared-ip": "k"}), json!({"type": "LoadBalancer", "ports": [{"port": 81}]})),
        5 => (json!({}), json!({"type": "LoadBalancer", "loadBalancerClass": "other", "ports": port})),
        6 => (json!({}), json!({"type": "LoadBalancer", "ipFamilyPolicy": "PreferDualStack", "ports": port})),
        _ => {
            (json!({"metallb.io/loadBalancerIPs": "10.0.0.2,10.0.0.3"}), json!({"type": "LoadBalancer", "ports": port}))
        }
    }
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0..6_usize, 0..8_usize).prop_map(|(service, shape)| Deed::Put { service, shape }),
        1 => (0..6_usize).prop_map(|service| Deed::Delete { service }),
        1 => (0..2_usize, proptest::option::weighted(0.8, 0..RANGES.len())).prop_map(|(pool, range)| Deed::Pool { pool, range }),
    ]
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let into = into.as_object_mut().unwrap();
    for (key, value) in fields {
        if value.is_null() {
            into.remove(key);
        } else {
            merge(into.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

impl Api {
    fn act(&mut self, deed: &Deed) {
        self.versions += 1;
        match deed {
            Deed::Put { service, shape } => {
                let name = ObjectName::new("shop", format!("s{service}"));
                let (annotations, spec) = spec(*shape);
                // The API lets nobody change the class of a load balancer.
                let known = self.services.get(&name).map(|known| &known["spec"]);
                if known.is_some_and(|known| {
                    known["type"] == spec["type"] && known["loadBalancerClass"] != spec["loadBalancerClass"]
                }) {
                    return;
                }
                let mut status = self.services.get(&name).map_or(json!({}), |service| service["status"].clone());
                // What stops being a load balancer loses its addresses to the API itself.
                if spec["type"] != "LoadBalancer" {
                    status["loadBalancer"] = json!({});
                }
                let pool = self.services.get(&name).map(|service| service["metadata"]["annotations"].clone());
                let mut annotations = annotations;
                let key = "metallb.io/ip-allocated-from-pool";
                if let Some(pool) = pool.and_then(|known| known.get(key).cloned()) {
                    annotations[key] = pool;
                }
                let version = self.versions.to_string();
                let object = json!({
                    "metadata": {"name": name.name, "namespace": "shop", "resourceVersion": version, "annotations": annotations},
                    "spec": spec, "status": status,
                });
                self.services.insert(name, object);
            }
            Deed::Delete { service } => _ = self.services.remove(&ObjectName::new("shop", format!("s{service}"))),
            Deed::Pool { pool, range } => {
                let name = ObjectName::new("lb", format!("p{pool}"));
                match range {
                    Some(range) => {
                        let object = json!({
                            "metadata": {"name": name.name, "namespace": "lb"},
                            "spec": {"addresses": [RANGES[*range]]},
                        });
                        self.pools.insert(name, object);
                    }
                    None => _ = self.pools.remove(&name),
                }
            }
        }
    }

    fn world(&self) -> World {
        let mut world = World { system_namespace: Some("lb".to_owned()), ..World::default() };
        for (kind, objects) in [(Kind::Service, &self.services), (Kind::IpAddressPool, &self.pools)] {
            for (name, object) in objects {
                let mut parsed = manifest::of_api(kind, object);
                world.insert(name.clone(), parsed.documents.remove(0).object.unwrap());
            }
        }
        world
    }

    /// All writes there are, carried out. Returns how many.
    fn write(&mut self, world: &World, planner: &Planner) -> usize {
        let mut count = 0;
        for (name, object) in &mut self.services {
            let Some(seen) = Observation::of(Kind::Service, object) else { continue };
            let planned = planner.plan().services.get(name).map(Arc::as_ref);
            if let Some(write) = service(&world.services[name], planned, &seen) {
                assert_eq!(write.version, object["metadata"]["resourceVersion"].as_str().unwrap());
                self.versions += 1;
                merge(object, &write.patch("2026-01-01T00:00:00Z"));
                object["metadata"]["resourceVersion"] = self.versions.to_string().into();
                count += 1;
            }
        }
        count
    }

    fn statuses(&self) -> Vec<(&ObjectName, &Value)> {
        self.services.iter().map(|(name, service)| (name, &service["status"]["loadBalancer"])).collect()
    }
}

/// Every address has one holder, unless those who have it share it.
fn assert_no_duplicates(api: &Api) {
    let mut holders: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for service in api.services.values() {
        for ingress in service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten() {
            holders.entry(ingress["ip"].as_str().unwrap().to_owned()).or_default().push(service);
        }
    }
    for (address, services) in holders {
        let keys: Vec<&Value> =
            services.iter().map(|s| &s["metadata"]["annotations"]["metallb.io/allow-shared-ip"]).collect();
        assert!(services.len() == 1 || keys.iter().all(|key| key.is_string()), "{address}: {services:?}");
    }
}

proptest! {
    #[test]
    fn writes_come_to_rest_and_a_new_controller_changes_nothing(deeds in proptest::collection::vec(deed(), 1..40)) {
        let mut api = Api::default();
        api.act(&Deed::Pool { pool: 0, range: Some(1) });
        let mut planner = Planner::new(Memory::default());
        for deed in &deeds {
            api.act(deed);
            let world = api.world();
            planner.update(&world);
            let written = api.write(&world, &planner);
            prop_assert!(written <= api.services.len(), "one write a service");
            let echoed = api.world();
            planner.update(&echoed);
            prop_assert_eq!(api.write(&echoed, &planner), 0, "the echo of a write asks for no other, after {:?}", deed);
            for service in api.services.values().filter(|service| service["spec"]["type"] != "LoadBalancer") {
                prop_assert!(Observation::of(Kind::Service, service).is_none(), "nothing is left at {:#}", service);
            }
        }
        let before: Vec<_> = api.statuses().into_iter().map(|(name, status)| (name.clone(), status.clone())).collect();
        let mut successor = Planner::new(Memory::default());
        let world = api.world();
        successor.update(&world);
        api.write(&world, &successor);
        for (name, status) in before {
            let now = &api.services[&name]["status"]["loadBalancer"];
            // Whoever had none may get one that fits its wishes only by a fresh look; nobody loses or changes any.
            if status.pointer("/ingress/0").is_some() {
                prop_assert_eq!(now, &status, "{}", name);
            }
        }
        assert_no_duplicates(&api);
    }
}

fn api_with(service: Value) -> Api {
    let mut api = Api::default();
    api.act(&Deed::Pool { pool: 0, range: Some(1) });
    api.services.insert(ObjectName::new("shop", "s0"), service);
    api
}

fn decide(api: &Api) -> Option<ServiceWrite> {
    let world = api.world();
    let mut planner = Planner::new(Memory::default());
    planner.update(&world);
    let name = ObjectName::new("shop", "s0");
    let seen = Observation::of(Kind::Service, &api.services[&name]).unwrap();
    service(&world.services[&name], planner.plan().services.get(&name).map(Arc::as_ref), &seen)
}

fn balancer(annotations: Value, status: Value) -> Value {
    json!({
        "metadata": {"name": "s0", "namespace": "shop", "resourceVersion": "9", "annotations": annotations},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}, "status": status,
    })
}

fn reasons(write: &ServiceWrite) -> Vec<&str> {
    write.notes.iter().map(|note| note.reason).collect()
}

#[test]
fn one_patch_says_everything() {
    let write = decide(&api_with(balancer(json!({}), json!({})))).unwrap();
    assert_eq!(reasons(&write), ["IPAllocated"]);
    assert_eq!(write.notes[0].message, "Assigned IP [\"10.0.0.2\"]");
    let patch = write.patch("2026-01-01T00:00:00Z");
    assert_eq!(
        patch["metadata"],
        json!({
            "resourceVersion": "9", "annotations": {"metallb.io/ip-allocated-from-pool": "p0"},
        })
    );
    assert_eq!(patch["status"]["loadBalancer"], json!({"ingress": [{"ip": "10.0.0.2", "ipMode": "VIP"}]}));
    assert_eq!(patch["status"]["conditions"][0]["status"], "True");
}

#[test]
fn what_metallb_wrote_needs_no_write() {
    let annotations = json!({"metallb.io/ip-allocated-from-pool": "p0"});
    let status = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.5"}]}});
    assert_eq!(decide(&api_with(balancer(annotations, status))), None);
}

#[test]
fn pools_that_vanish_take_no_address_along() {
    let annotations = json!({"metallb.io/ip-allocated-from-pool": "p0"});
    let status = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.5"}]}});
    let mut api = api_with(balancer(annotations, status));
    api.pools.clear();
    assert_eq!(decide(&api), None, "MetalLB's uninstall, say");
}

#[test]
fn a_service_that_is_no_load_balancer_any_more_is_cleared() {
    let annotations = json!({"metallb.universe.tf/ip-allocated-from-pool": "p0"});
    let mut former = balancer(annotations, json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.5"}]}}));
    former["spec"]["type"] = json!("ClusterIP");
    let write = decide(&api_with(former.clone())).unwrap();
    assert_eq!(reasons(&write), ["ClearAssignment"]);
    let patch = write.patch("");
    assert_eq!(patch["status"], json!({"loadBalancer": {"ingress": null}}));
    assert_eq!(patch["metadata"]["annotations"], json!({"metallb.universe.tf/ip-allocated-from-pool": null}));
    former["metadata"]["annotations"] = json!({});
    assert_eq!(decide(&api_with(former)), None, "what is not ours stays");
}

#[test]
fn what_the_api_leaves_of_a_former_load_balancer_is_cleared_at_once() {
    let annotations = json!({"metallb.io/ip-allocated-from-pool": "p0"});
    let assigned = json!({"type": "evenkeel.io/AddressesAssigned", "status": "True", "reason": "Assigned"});
    let other = json!({"type": "other", "status": "True"});
    let status = json!({"loadBalancer": {}, "conditions": [other, assigned]});
    let mut former = balancer(annotations, status);
    former["spec"]["type"] = json!("ClusterIP");
    let write = decide(&api_with(former.clone())).unwrap();
    assert_eq!(reasons(&write), ["ClearAssignment"]);
    let patch = write.patch("");
    assert_eq!(patch["status"], json!({"conditions": [other]}), "others' conditions stay");
    assert_eq!(patch["metadata"]["annotations"], json!({"metallb.io/ip-allocated-from-pool": null}));

    // It never had an address.
    former["metadata"]["annotations"] = json!({});
    former["status"]["conditions"] = json!([assigned]);
    let write = decide(&api_with(former)).unwrap();
    assert_eq!(reasons(&write), [""; 0]);
    assert_eq!(write.patch("")["status"], json!({"conditions": null}));
}

#[test]
fn another_class_is_left_alone() {
    let mut other = balancer(json!({}), json!({"loadBalancer": {"ingress": [{"hostname": "cloud.example"}]}}));
    other["spec"]["loadBalancerClass"] = json!("cloud.example/lb");
    assert_eq!(decide(&api_with(other)), None);
}

#[test]
fn a_failure_is_told_once_with_its_reason() {
    let wish = json!({"metallb.io/loadBalancerIPs": "10.9.9.9"});
    let mut api = api_with(balancer(wish, json!({"conditions": [{"type": "other", "status": "True"}]})));
    let write = decide(&api).unwrap();
    assert_eq!(reasons(&write), ["AllocationFailed"]);
    assert!(write.notes[0].message.contains("address_not_in_pool"), "{:?}", write.notes);
    let patch = write.patch("2026-01-01T00:00:00Z");
    assert_eq!(patch["status"]["conditions"][0]["type"], "other", "others' conditions stay");
    assert_eq!(patch["status"]["conditions"][1]["reason"], "address_not_in_pool");
    let world = api.world();
    let mut planner = Planner::new(Memory::default());
    planner.update(&world);
    assert_eq!((api.write(&world, &planner), decide(&api)), (1, None));
}

#[test]
fn another_reason_is_no_transition() {
    let (before, now) = ("2025-12-01T00:00:00Z", "2026-01-01T00:00:00Z");
    let written = |status: &str| {
        let known = json!({"type": "evenkeel.io/AddressesAssigned", "status": status, "reason": "Former", "message": "",
            "lastTransitionTime": before});
        let wish = json!({"metallb.io/loadBalancerIPs": "10.9.9.9"});
        let write = decide(&api_with(balancer(wish, json!({"conditions": [known]})))).unwrap();
        write.patch(now)["status"]["conditions"][0].clone()
    };
    let refused = written("False");
    assert_eq!((&refused["status"], &refused["reason"]), (&json!("False"), &json!("address_not_in_pool")));
    assert_eq!(refused["lastTransitionTime"], before, "it was not met before either");
    assert_eq!(written("True")["lastTransitionTime"], now);
}

#[test]
fn a_request_that_contradicts_itself_is_metallbs_load_balancer_failed() {
    let mut both = balancer(json!({"metallb.io/loadBalancerIPs": "10.0.0.2"}), json!({}));
    both["spec"]["loadBalancerIP"] = json!("10.0.0.3");
    assert_eq!(reasons(&decide(&api_with(both)).unwrap()), ["LoadBalancerFailed"]);
}

#[test]
fn a_missing_second_family_is_told_with_the_first() {
    let mut prefers = balancer(json!({}), json!({}));
    prefers["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
    let mut api = api_with(prefers);
    assert_eq!(reasons(&decide(&api).unwrap()), ["IPAllocated", "AdditionalAssignFailed"]);
    let world = api.world();
    let mut planner = Planner::new(Memory::default());
    planner.update(&world);
    api.write(&world, &planner);
    assert_eq!(decide(&api), None, "and never again");
}
