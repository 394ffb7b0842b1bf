//! Controllers against an API over HTTP. What allocators of this kind really got wrong, a test each, named after it; and
//! what is new with an API in between: elections, conflicts, rivals, definitions that go.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::time::Duration;

use common::{CRDS, Cluster, EVENTS, POOLS, SERVICES, pool, service};
use evenkeel_fake_api::Mood;
use evenkeel_plan::world::NodeAddressUse;
use serde_json::{Value, json};

const ASK: &str = "metallb.io/loadBalancerIPs";
const STATES: &str = "/apis/metallb.io/v1beta1/namespaces/lb/configurationstates";

#[tokio::test]
async fn a_service_gets_its_address_with_one_write() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.9", "2001:db8::1-2001:db8::9"]).await;
    let controller = cluster.start("a");
    cluster.create(SERVICES, &service("web", &json!({}))).await;
    cluster.until_has("web", &["10.0.0.1"]).await;
    let web = cluster.get(SERVICES, "web").await;
    assert_eq!(web["status"]["loadBalancer"]["ingress"], json!([{"ip": "10.0.0.1", "ipMode": "VIP"}]));
    assert_eq!(web["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"], "p");
    assert_eq!(cluster.condition("web").await.unwrap().0, "True");
    let before = cluster.writes();
    cluster.until_at_rest().await;
    // The marker: created, given its address, deleted.
    assert!(cluster.writes() - before <= 3, "nothing is written twice");
    let assigned = async || cluster.get(POOLS, "p").await["status"]["assignedIPv4"] == 1;
    cluster.until("the pool is counted", assigned).await;
    let status = cluster.get(POOLS, "p").await["status"].clone();
    assert_eq!(status, json!({"assignedIPv4": 1, "assignedIPv6": 0, "availableIPv4": 8, "availableIPv6": 9}));
    cluster.until("the configuration is valid", async || is_valid(&cluster).await).await;
    cluster.until("it is told", async || !told(&cluster, "web").await.is_empty()).await;
    assert_eq!(told(&cluster, "web").await, ["IPAllocated"]);
    controller.stop().await;
}

/// Whether the configuration is said to be valid.
async fn is_valid(cluster: &Cluster) -> bool {
    let states = cluster.list(STATES).await.unwrap();
    states.first().is_some_and(|state| state["status"]["result"] == "Valid")
}

/// The reasons of the events about a service.
async fn told(cluster: &Cluster, name: &str) -> Vec<String> {
    let events = cluster.list(EVENTS).await.unwrap();
    let about = |event: &&Value| event["involvedObject"]["name"] == name;
    events.iter().filter(about).map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn controller_restart_must_not_steal_held_ips() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.2"]).await;
    let controller = cluster.start("a");
    for name in ["m", "z"] {
        cluster.create(SERVICES, &service(name, &json!({}))).await;
        cluster.until(name, async || !cluster.addresses(name).await.is_empty()).await;
    }
    let before = cluster.all().await;
    controller.stop().await;
    cluster.create(SERVICES, &service("a", &json!({}))).await;
    cluster.create(SERVICES, &service("b", &json!({ASK: "10.0.0.2"}))).await;
    let controller = cluster.start("b");
    cluster.until_refused("a", "pool_exhausted").await;
    cluster.until_refused("b", "address_in_use").await;
    for name in ["m", "z"] {
        assert_eq!(cluster.addresses(name).await, before[name]);
    }
    controller.stop().await;
}

#[tokio::test]
async fn two_replicas_allocating_the_same_ip() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.250"]).await;
    let (one, other) = (cluster.start("one"), cluster.start("other"));
    for n in 0..60 {
        cluster.create(SERVICES, &service(&format!("s{n}"), &json!({}))).await;
    }
    cluster.until("all have one", async || cluster.all().await.values().all(|addresses| addresses.len() == 1)).await;
    assert_no_duplicates(&cluster).await;
    // A creation and one status each: nobody wrote what the other had written.
    assert_eq!(cluster.writes(), 1 + 60 * 2);
    one.stop().await;
    cluster.create(SERVICES, &service("later", &json!({}))).await;
    cluster.until("the other goes on", async || !cluster.addresses("later").await.is_empty()).await;
    assert_no_duplicates(&cluster).await;
    other.stop().await;
}

async fn assert_no_duplicates(cluster: &Cluster) {
    let mut all: Vec<String> = cluster.all().await.into_values().flatten().collect();
    all.sort();
    let count = all.len();
    all.dedup();
    assert_eq!(all.len(), count, "{all:?}");
}

#[tokio::test]
async fn pool_shrink_and_re_cidr() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.2"]).await;
    let controller = cluster.start("a");
    for (name, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
        cluster.create(SERVICES, &service(name, &json!({}))).await;
        cluster.until_has(name, &[address]).await;
    }
    cluster.patch(POOLS, "p", &json!({"spec": {"addresses": ["10.0.0.2-10.0.0.3"]}})).await;
    cluster.until_has("a", &["10.0.0.3"]).await;
    assert_eq!(cluster.addresses("b").await, ["10.0.0.2"], "whoever is still inside stays");
    cluster.until("it is told", async || told(&cluster, "a").await.contains(&"ClearAssignment".to_owned())).await;
    cluster.patch(POOLS, "p", &json!({"spec": {"addresses": ["10.7.0.1-10.7.0.2"]}})).await;
    cluster.until_has("a", &["10.7.0.1"]).await;
    cluster.until_has("b", &["10.7.0.2"]).await;
    controller.stop().await;
}

#[tokio::test]
async fn a_pool_of_another_namespace_is_neither_counted_nor_written_to() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.9"]).await;
    let elsewhere = "/apis/metallb.io/v1beta1/namespaces/shop/ipaddresspools";
    let mut refused = pool("p", &["10.0.1.1-10.0.1.9"]);
    refused["metadata"]["namespace"] = json!("shop");
    cluster.create(elsewhere, &refused).await;
    let controller = cluster.start("a");
    cluster.create(SERVICES, &service("web", &json!({}))).await;
    cluster.until_has("web", &["10.0.0.1"]).await;
    cluster.until("the pool is counted", async || cluster.get(POOLS, "p").await["status"]["assignedIPv4"] == 1).await;
    // All of them are counted at once: with the next count those of the last are written.
    cluster.create(SERVICES, &service("other", &json!({}))).await;
    cluster.until("it is counted again", async || cluster.get(POOLS, "p").await["status"]["assignedIPv4"] == 2).await;
    assert_eq!(cluster.get(elsewhere, "p").await.get("status"), None);
    controller.stop().await;
}

#[tokio::test]
async fn an_address_pool_annotation_change_takes_effect() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.9"]).await;
    cluster.create(POOLS, &pool("q", &["10.0.1.1-10.0.1.9"])).await;
    let controller = cluster.start("a");
    cluster.create(SERVICES, &service("web", &json!({}))).await;
    cluster.until_has("web", &["10.0.0.1"]).await;
    let ask = |pool: Value| json!({"metadata": {"annotations": {"metallb.io/address-pool": pool}}});
    cluster.patch(SERVICES, "web", &ask("q".into())).await;
    cluster.until_has("web", &["10.0.1.1"]).await;
    let web = cluster.get(SERVICES, "web").await;
    assert_eq!(web["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"], "q");
    cluster.patch(SERVICES, "web", &ask(Value::Null)).await;
    cluster.until_at_rest().await;
    assert_eq!(cluster.addresses("web").await, ["10.0.1.1"], "no wish is no reason to move back");
    controller.stop().await;
}

#[tokio::test]
async fn sharing_changes_re_evaluate_siblings_without_loops() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.9"]).await;
    let controller = cluster.start("a");
    let shares = |name: &str, port: u16| {
        let mut shares = service(name, &json!({"metallb.io/allow-shared-ip": "k"}));
        shares["spec"]["ports"][0]["port"] = port.into();
        shares
    };
    for (name, port) in [("a", 80), ("b", 81)] {
        cluster.create(SERVICES, &shares(name, port)).await;
        cluster.until_has(name, &["10.0.0.1"]).await;
    }
    let mut waits = shares("c", 80);
    waits["metadata"]["annotations"][ASK] = json!("10.0.0.1");
    cluster.create(SERVICES, &waits).await;
    cluster.until_refused("c", "sharing_conflict").await;
    let before = cluster.writes();
    cluster.patch(SERVICES, "a", &json!({"metadata": {"annotations": {"metallb.io/allow-shared-ip": null}}})).await;
    cluster.until_has("a", &["10.0.0.2"]).await;
    cluster.until_has("c", &["10.0.0.1"]).await;
    assert_eq!(cluster.addresses("b").await, ["10.0.0.1"], "the sibling stays");
    cluster.until_at_rest().await;
    assert!(cluster.writes() - before <= 3 + 3, "one of the user, one of each who moved, and the marker's");
    controller.stop().await;
}

#[tokio::test]
async fn ip_released_on_delete() {
    let cluster = Cluster::new(&["10.0.0.1/32"]).await;
    let controller = cluster.start("a");
    cluster.create(SERVICES, &service("first", &json!({}))).await;
    cluster.until_has("first", &["10.0.0.1"]).await;
    cluster.create(SERVICES, &service("waits", &json!({}))).await;
    cluster.until_refused("waits", "pool_exhausted").await;
    cluster.delete(SERVICES, "first").await;
    cluster.until_has("waits", &["10.0.0.1"]).await;
    assert_eq!(told(&cluster, "waits").await.first().map(String::as_str), Some("AllocationFailed"), "told once");
    cluster.create(SERVICES, &service("third", &json!({}))).await;
    cluster.until_refused("third", "pool_exhausted").await;
    cluster.patch(SERVICES, "waits", &json!({"spec": {"type": "ClusterIP"}})).await;
    cluster.until_has("third", &["10.0.0.1"]).await;
    cluster.until_has("waits", &[]).await;
    controller.stop().await;
}

#[tokio::test]
async fn a_service_that_is_no_load_balancer_any_more_is_cleared_with_one_write() {
    let cluster = Cluster::new(&["10.0.0.1/32"]).await;
    let controller = cluster.start("a");
    cluster.create(SERVICES, &service("web", &json!({}))).await;
    cluster.until_has("web", &["10.0.0.1"]).await;
    let before = cluster.writes();
    cluster.patch(SERVICES, "web", &json!({"spec": {"type": "ClusterIP"}})).await;
    cluster.until("the condition is gone", async || cluster.condition("web").await.is_none()).await;
    let web = cluster.get(SERVICES, "web").await;
    assert_eq!(web["metadata"]["annotations"].get("metallb.io/ip-allocated-from-pool"), None);
    assert_eq!(web["status"], json!({"loadBalancer": {}}));
    cluster.until("it is told", async || told(&cluster, "web").await.contains(&"ClearAssignment".to_owned())).await;
    cluster.until_at_rest().await;
    assert!(cluster.writes() - before <= 2 + 3, "one of the user, one of the controller, and the marker's");
    controller.stop().await;
}

/// What an uninstall of MetalLB deletes, and the pools with it.
async fn lose_definitions(cluster: &Cluster) {
    cluster.delete(CRDS, "ipaddresspools.metallb.io").await;
    cluster.delete(CRDS, "configurationstates.metallb.io").await;
    cluster.until("they are gone", async || cluster.list(POOLS).await.is_none()).await;
}

#[tokio::test]
async fn an_uninstall_that_deletes_the_pools_with_their_definitions_costs_no_address() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.9"]).await;
    let controller = cluster.start("a");
    for name in ["a", "b"] {
        cluster.create(SERVICES, &service(name, &json!({}))).await;
        cluster.until(name, async || !cluster.addresses(name).await.is_empty()).await;
    }
    let before = cluster.all().await;
    lose_definitions(&cluster).await;
    // One that has never seen the pools.
    controller.stop().await;
    let controller = cluster.start("b");
    cluster.create(SERVICES, &service("aa-waits", &json!({}))).await;
    cluster.until_refused("aa-waits", "no_pool").await;
    for (name, addresses) in &before {
        assert_eq!(cluster.addresses(name).await, *addresses, "{name}");
    }
    // And the pools return, in another order than before.
    cluster.define().await;
    cluster.create(POOLS, &pool("new", &["10.0.0.0/24"])).await;
    cluster.until("whoever waited is served", async || !cluster.addresses("aa-waits").await.is_empty()).await;
    for (name, addresses) in &before {
        assert_eq!(cluster.addresses(name).await, *addresses, "{name}");
    }
    assert_no_duplicates(&cluster).await;
    controller.stop().await;
}

#[tokio::test]
async fn a_metallb_that_is_still_running_is_waited_for() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.9"]).await;
    let deployments = "/apis/apps/v1/namespaces/lb/deployments";
    let labels = json!({"app.kubernetes.io/name": "metallb", "app.kubernetes.io/component": "controller"});
    let rival = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "metallb-controller", "namespace": "lb", "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "controller", "image": "x"}]}},
        },
    });
    cluster.create(deployments, &rival).await;
    cluster.patch_status(deployments, "metallb-controller", &json!({"status": {"replicas": 1}})).await;
    let controller = cluster.start("a");
    let other = cluster.start_with("b", |config| {
        config.lease = "other".to_owned();
        config.load_balancer_class = Some("ours".to_owned());
    });
    cluster.create(SERVICES, &service("web", &json!({}))).await;
    let mut of_class = service("ours", &json!({}));
    of_class["spec"]["loadBalancerClass"] = json!("ours");
    cluster.create(SERVICES, &of_class).await;
    let events = "/api/v1/namespaces/lb/events";
    let said = async || cluster.list(events).await.unwrap().iter().any(|event| event["reason"] == "MetalLBRunning");
    cluster.until("it is said", said).await;
    cluster.until("the other class is served", async || !cluster.addresses("ours").await.is_empty()).await;
    assert!(cluster.addresses("web").await.is_empty());
    cluster.patch_status(deployments, "metallb-controller", &json!({"status": {"replicas": 0}})).await;
    cluster.until("it goes on", async || !cluster.addresses("web").await.is_empty()).await;
    controller.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_service_that_may_not_be_at_the_nodes_addresses_is_told_so() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.9"]).await;
    let controller = cluster.start("a");
    cluster.create(SERVICES, &service("web", &json!({"evenkeel.io/addresses": "node"}))).await;
    cluster.until_refused("web", "node_addresses_not_permitted").await;
    assert!(cluster.addresses("web").await.is_empty());
    cluster.until("it is told", async || told(&cluster, "web").await.contains(&"AllocationFailed".to_owned())).await;
    controller.stop().await;
    let controller = cluster.start_with("b", |config| {
        config.node_address_use = NodeAddressUse::of(&["shop".to_owned()]);
    });
    // Which addresses it has hangs on the node.
    cluster.until_refused("web", "Pending").await;
    controller.stop().await;
}

#[tokio::test]
async fn conflicts_and_failures_are_tried_again() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.99"]).await;
    let controller = cluster.start("a");
    cluster.create(SERVICES, &service("first", &json!({}))).await;
    cluster.until_has("first", &["10.0.0.1"]).await;
    cluster.api.fail_writes("services", 500, 3);
    cluster
        .until("failures are over", async || {
            let request = kube::core::request::Request::new(SERVICES)
                .create(&Default::default(), serde_json::to_vec(&service("second", &json!({}))).unwrap())
                .unwrap();
            cluster.client.request::<Value>(request).await.is_ok()
        })
        .await;
    cluster.until_has("second", &["10.0.0.2"]).await;
    for n in 0..10 {
        cluster.create(SERVICES, &service(&format!("s{n}"), &json!({}))).await;
    }
    cluster.api.fail_writes("services", 503, 4);
    cluster.until("all are served", async || cluster.all().await.values().all(|addresses| addresses.len() == 1)).await;
    controller.stop().await;
}

#[tokio::test]
async fn a_service_changed_between_decision_and_write_is_decided_anew() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.99"]).await;
    let controller = cluster.start("a");
    cluster.create(SERVICES, &service("first", &json!({}))).await;
    cluster.until_has("first", &["10.0.0.1"]).await;
    // Others write all the time.
    for n in 0..30 {
        let name = format!("s{n}");
        cluster.create(SERVICES, &service(&name, &json!({}))).await;
        for m in 0..3 {
            cluster.patch(SERVICES, &name, &json!({"metadata": {"labels": {"touched": m.to_string()}}})).await;
        }
    }
    cluster.until("all are served", async || cluster.all().await.values().all(|addresses| addresses.len() == 1)).await;
    assert_no_duplicates(&cluster).await;
    controller.stop().await;
}

#[tokio::test]
async fn a_service_that_cannot_be_read_keeps_its_address_and_nobody_elses_release_waits_for_it() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.2"]).await;
    let mut broken = service("broken", &json!({"evenkeel.io/weights": "much"}));
    broken["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"] = json!("p");
    cluster.create(SERVICES, &broken).await;
    cluster
        .patch_status(SERVICES, "broken", &json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}}))
        .await;
    let controller = cluster.start("a");
    cluster.create(SERVICES, &service("a", &json!({}))).await;
    cluster.until_has("a", &["10.0.0.2"]).await;
    cluster.create(SERVICES, &service("waits", &json!({}))).await;
    cluster.until_refused("waits", "pool_exhausted").await;
    cluster.delete(SERVICES, "a").await;
    cluster.until_has("waits", &["10.0.0.2"]).await;
    assert_eq!(cluster.addresses("broken").await, ["10.0.0.1"]);
    cluster.patch(SERVICES, "broken", &json!({"metadata": {"annotations": {"evenkeel.io/weights": null}}})).await;
    cluster.until_at_rest().await;
    assert_eq!(cluster.addresses("broken").await, ["10.0.0.1"]);
    controller.stop().await;
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_told_to_its_owner() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.9"]).await;
    let controller = cluster.start("a");
    let mut by_spec = service("by-spec", &json!({}));
    by_spec["spec"]["loadBalancerIP"] = json!("my-ip");
    cluster.create(SERVICES, &by_spec).await;
    cluster.create(SERVICES, &service("by-annotation", &json!({ASK: "dhcp"}))).await;
    for (name, said) in
        [("by-spec", "spec.loadBalancerIP: `my-ip`: "), ("by-annotation", "`dhcp` is not an address; give")]
    {
        cluster.until_refused(name, "invalid_address").await;
        cluster.until("it is told", async || !told(&cluster, name).await.is_empty()).await;
        let events = cluster.list(EVENTS).await.unwrap();
        let event = events.iter().find(|event| event["involvedObject"]["name"] == name).unwrap();
        assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("AllocationFailed")));
        assert!(event["message"].as_str().unwrap().contains(said), "{event}");
        assert!(cluster.addresses(name).await.is_empty());
    }
    cluster.patch(SERVICES, "by-spec", &json!({"metadata": {"labels": {"a": "b"}}})).await;
    cluster.until_at_rest().await;
    assert_eq!(told(&cluster, "by-spec").await, ["AllocationFailed"], "told once");
    cluster.patch(SERVICES, "by-annotation", &json!({"metadata": {"annotations": {ASK: "10.0.0.7"}}})).await;
    cluster.until_has("by-annotation", &["10.0.0.7"]).await;
    controller.stop().await;
}

#[tokio::test]
async fn a_service_that_cannot_be_read_is_told_to_its_owner() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.9"]).await;
    let controller = cluster.start("a");
    cluster.create(SERVICES, &service("served", &json!({}))).await;
    cluster.until_has("served", &["10.0.0.1"]).await;
    let odd = json!({"spec": {"trafficDistribution": "PreferSameRack"}});
    let mut never = service("never", &json!({}));
    never["spec"]["trafficDistribution"] = odd["spec"]["trafficDistribution"].clone();
    cluster.create(SERVICES, &never).await;
    cluster.patch(SERVICES, "served", &odd).await;
    for (name, reason) in [("never", "AllocationFailed"), ("served", "LoadBalancerFailed")] {
        cluster.until(reason, async || told(&cluster, name).await.contains(&reason.to_owned())).await;
    }
    cluster.patch(SERVICES, "never", &json!({"metadata": {"labels": {"a": "b"}}})).await;
    cluster.until_at_rest().await;
    assert_eq!(told(&cluster, "never").await, ["AllocationFailed"], "told once");
    assert_eq!(cluster.addresses("served").await, ["10.0.0.1"]);
    controller.stop().await;
}

#[tokio::test]
async fn an_annotation_that_cannot_be_read_holds_up_nothing_else() {
    let cluster = Cluster::new(&["10.0.0.1/32"]).await;
    let controller = cluster.start("a");
    cluster.create(SERVICES, &service("web", &json!({}))).await;
    cluster.until_has("web", &["10.0.0.1"]).await;
    cluster.patch(SERVICES, "web", &json!({"metadata": {"annotations": {"evenkeel.io/weights": "much"}}})).await;
    cluster.until_refused("web", "invalid_weight").await;
    cluster.until("it is told", async || told(&cluster, "web").await.contains(&"LoadBalancerFailed".to_owned())).await;
    assert_eq!(cluster.addresses("web").await, ["10.0.0.1"]);
    cluster.patch(SERVICES, "web", &json!({"spec": {"type": "ClusterIP"}})).await;
    cluster.until_has("web", &[]).await;
    cluster.create(SERVICES, &service("next", &json!({}))).await;
    cluster.until_has("next", &["10.0.0.1"]).await;
    controller.stop().await;
}

#[tokio::test]
async fn a_leader_that_loses_the_api_hands_over_and_nothing_changes() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.99"]).await;
    let (one, other) = (cluster.start("one"), cluster.start("other"));
    for n in 0..20 {
        cluster.create(SERVICES, &service(&format!("s{n}"), &json!({}))).await;
    }
    cluster.until("all are served", async || cluster.all().await.values().all(|addresses| addresses.len() == 1)).await;
    let before = cluster.all().await;
    cluster.api.set_mood(Mood::Fail(503));
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.api.set_mood(Mood::Fine);
    cluster.create(SERVICES, &service("after", &json!({}))).await;
    cluster.until("it goes on", async || !cluster.addresses("after").await.is_empty()).await;
    for (name, addresses) in before {
        assert_eq!(cluster.addresses(&name).await, addresses, "{name}");
    }
    one.kill();
    cluster.create(SERVICES, &service("later", &json!({}))).await;
    cluster.until("whoever is left takes over", async || !cluster.addresses("later").await.is_empty()).await;
    assert_no_duplicates(&cluster).await;
    other.stop().await;
}

#[tokio::test]
async fn who_loses_the_lease_says_nothing_more_of_configuration_and_pools() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.9"]).await;
    let controller = cluster.start("a");
    let known = ["metallb_k8s_client_config_stale_bool 0", "metallb_allocator_addresses_total{pool=\"p\"} 9"];
    for line in known {
        cluster.until(line, async || controller.says(line).await).await;
    }
    cluster.api.set_mood(Mood::Fail(503));
    let of_the_cluster = ["metallb_k8s_client_config_", "metallb_allocator_"];
    cluster
        .until("nothing is said any more", async || {
            let text = controller.metrics().await;
            !of_the_cluster.iter().any(|begin| text.contains(begin))
        })
        .await;
    cluster.api.set_mood(Mood::Fine);
    for line in known {
        cluster.until(line, async || controller.says(line).await).await;
    }
    controller.stop().await;
}

#[tokio::test]
async fn a_configuration_state_that_others_delete_is_made_again() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.9"]).await;
    let controller = cluster.start("a");
    cluster.until("it says that all is valid", async || is_valid(&cluster).await).await;
    cluster.delete(STATES, "controller").await;
    cluster.until("it says so again", async || is_valid(&cluster).await).await;
    controller.stop().await;
}

#[tokio::test]
async fn a_slow_cache_reassigns_nothing() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.30"]).await;
    let controller = cluster.start("a");
    cluster.create(SERVICES, &service("first", &json!({}))).await;
    cluster.until_has("first", &["10.0.0.1"]).await;
    cluster.api.set_latency(Duration::from_millis(100));
    let mut held = std::collections::BTreeMap::new();
    for n in 0..20 {
        cluster.create(SERVICES, &service(&format!("s{n}"), &json!({}))).await;
        if n % 5 == 4 {
            cluster.api.close_watches();
            cluster.api.compact();
        }
        for (name, addresses) in cluster.all().await {
            if !addresses.is_empty() {
                let known = held.entry(name).or_insert_with(|| addresses.clone());
                assert_eq!(*known, addresses);
            }
        }
    }
    cluster.api.set_latency(Duration::ZERO);
    cluster.until("all are served", async || cluster.all().await.values().all(|addresses| addresses.len() == 1)).await;
    assert_no_duplicates(&cluster).await;
    controller.stop().await;
}

#[tokio::test]
async fn pools_that_are_put_back_one_by_one_cost_no_address() {
    let cluster = Cluster::new(&["10.0.0.1-10.0.0.9"]).await;
    let other = pool("q", &["10.0.1.1-10.0.1.9"]);
    cluster.create(POOLS, &other).await;
    let controller = cluster.start("a");
    cluster.create(SERVICES, &service("of-p", &json!({}))).await;
    cluster.until_has("of-p", &["10.0.0.1"]).await;
    cluster.create(SERVICES, &service("of-q", &json!({"metallb.io/address-pool": "q"}))).await;
    cluster.until_has("of-q", &["10.0.1.1"]).await;
    // It does not ask for it any more: what it has is all that says where it belongs.
    cluster.patch(SERVICES, "of-q", &json!({"metadata": {"annotations": {"metallb.io/address-pool": null}}})).await;
    lose_definitions(&cluster).await;
    // One that has never seen the pools.
    controller.stop().await;
    let controller = cluster.start("b");
    cluster.create(SERVICES, &service("waits", &json!({}))).await;
    cluster.until_refused("waits", "no_pool").await;
    cluster.define().await;
    // One soon after the other, as `kubectl apply` does: what is late by more than two seconds is taken for gone.
    cluster.create(POOLS, &pool("p", &["10.0.0.1-10.0.0.9"])).await;
    cluster.create(POOLS, &other).await;
    cluster.until_has("waits", &["10.0.0.2"]).await;
    cluster.until("it is counted", async || cluster.get(POOLS, "q").await["status"]["assignedIPv4"] == 1).await;
    // Until the pools are taken for all there are.
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.until_at_rest().await;
    for (name, address) in [("of-p", "10.0.0.1"), ("of-q", "10.0.1.1"), ("waits", "10.0.0.2")] {
        assert_eq!(cluster.addresses(name).await, [address], "{name}");
    }
    for name in ["of-p", "of-q"] {
        let moved = told(&cluster, name).await.contains(&"ClearAssignment".to_owned());
        assert!(!moved, "{name} has had another one in between");
    }
    controller.stop().await;
}
