//! Kubernetes clients against the server: kube-rs as the project uses it. With `KUBECONFIG` set, against that cluster,
//! where a test needs no faults.

#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_fake_api::{FakeApi, Handle, Mood, Options, User};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::watcher;
use kube::{Api, Client, Config, Error, ResourceExt as _};
use serde_json::{Value, json};

/// Long enough for any machine; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

async fn fake(options: Options) -> Handle {
    FakeApi::start("127.0.0.1:0".parse().expect("an address"), options).await.expect("a server")
}

async fn client_of(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a config");
    Client::try_from(config).expect("a client")
}

async fn started() -> (Handle, Client) {
    let api = fake(Options { bookmark_interval: Duration::from_millis(50), ..Options::default() }).await;
    let client = client_of(&api.kubeconfig()).await;
    (api, client)
}

/// The cluster of `KUBECONFIG`, or the fake; and a namespace of the test's own.
async fn conforming(name: &str) -> (Option<Handle>, Client, String) {
    let (api, client) = if std::env::var_os("KUBECONFIG").is_some() {
        (None, Client::try_default().await.expect("the cluster of KUBECONFIG"))
    } else {
        let api = fake(Options::default()).await;
        let client = client_of(&api.kubeconfig()).await;
        (Some(api), client)
    };
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = object::<Namespace>(json!({"metadata": {"generateName": format!("fake-{name}-")}}));
    let made = namespaces.create(&PostParams::default(), &namespace).await.expect("a namespace");
    (api, client, made.name_any())
}

/// Deletes the namespace when it is not the fake's, which goes as a whole.
async fn done(api: Option<Handle>, client: Client, namespace: &str) {
    if api.is_none() {
        let namespaces: Api<Namespace> = Api::all(client);
        namespaces.delete(namespace, &DeleteParams::background()).await.expect("deleted");
    }
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

fn status(error: Error) -> (u16, String, String) {
    match error {
        Error::Api(status) => (status.code, status.reason, status.message),
        other => panic!("not an answer of the API: {other}"),
    }
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    object(json!({"metadata": {"name": name}, "data": {"key": value}}))
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

#[tokio::test]
async fn objects_are_created_read_changed_and_deleted() {
    let (api, client, namespace) = conforming("crud").await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let made = maps.create(&PostParams::default(), &config_map("a", "1")).await.expect("created");
    assert!(made.uid().is_some() && made.resource_version().is_some() && made.creation_timestamp().is_some());
    let again = maps.create(&PostParams::default(), &config_map("a", "1")).await.expect_err("twice");
    assert_eq!(status(again), (409, "AlreadyExists".into(), "configmaps \"a\" already exists".into()));
    let missing = maps.get("b").await.expect_err("missing");
    assert_eq!(status(missing), (404, "NotFound".into(), "configmaps \"b\" not found".into()));

    let mut stale = made.clone();
    stale.data = Some(BTreeMap::from([("key".to_owned(), "2".to_owned())]));
    let changed = maps.replace("a", &PostParams::default(), &stale).await.expect("replaced");
    assert_ne!(changed.resource_version(), made.resource_version());
    let refused = status(maps.replace("a", &PostParams::default(), &stale).await.expect_err("stale"));
    assert_eq!((refused.0, refused.1.as_str()), (409, "Conflict"));
    let same = maps.replace("a", &PostParams::default(), &changed).await.expect("the same");
    assert_eq!(same.resource_version(), changed.resource_version(), "nothing changed");

    let dry = PatchParams { dry_run: true, ..PatchParams::default() };
    maps.patch("a", &dry, &Patch::Merge(json!({"data": {"key": "3"}}))).await.expect("dry run");
    assert_eq!(maps.get("a").await.expect("there").data.expect("data")["key"], "2");
    maps.delete("a", &DeleteParams::default()).await.expect("deleted");
    assert!(maps.get_opt("a").await.expect("an answer").is_none());
    done(api, client, &namespace).await;
}

#[tokio::test]
async fn lists_are_selected_and_come_in_pieces() {
    let (api, client, namespace) = conforming("list").await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    for number in 0..7 {
        let mut map = config_map(&format!("m{number}"), "1");
        map.labels_mut().insert("parity".to_owned(), if number % 2 == 0 { "even" } else { "odd" }.to_owned());
        maps.create(&PostParams::default(), &map).await.expect("created");
    }
    let odd = maps.list(&ListParams::default().labels("parity=odd")).await.expect("odd");
    assert_eq!(odd.items.len(), 3);
    let named = maps.list(&ListParams::default().fields("metadata.name=m3")).await.expect("named");
    assert_eq!(named.items.iter().map(|one| one.name_any()).collect::<Vec<_>>(), ["m3"]);
    let own = ListParams::default().labels("parity").limit(3);
    let mut names = Vec::new();
    let mut page = maps.list(&own).await.expect("a page");
    // What happens meanwhile is not in the pieces that follow.
    maps.delete("m6", &DeleteParams::default()).await.expect("deleted");
    loop {
        names.extend(page.items.iter().map(|one| one.name_any()));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = maps.list(&own.clone().continue_token(&token)).await.expect("the next page"),
            None => break,
        }
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
    done(api, client, &namespace).await;
}

async fn follows(config: watcher::Config) {
    // Without bookmarks, the watcher does not know of versions other kinds take.
    let api = fake(Options { bookmark_interval: Duration::from_secs(3600), ..Options::default() }).await;
    let client = client_of(&api.kubeconfig()).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    maps.create(&PostParams::default(), &config_map("before", "1")).await.expect("created");
    let mut events = watcher::watcher(maps.clone(), config).boxed();
    let mut seen = Vec::new();
    let mut until = async |wanted: &str| loop {
        let event = within(wanted, events.next()).await.expect("the watcher goes on");
        let shown = match event {
            Ok(watcher::Event::Init) => "init".to_owned(),
            Ok(watcher::Event::InitApply(one)) => format!("init {}", one.name_any()),
            Ok(watcher::Event::InitDone) => "done".to_owned(),
            Ok(watcher::Event::Apply(one)) => format!("apply {}", one.name_any()),
            Ok(watcher::Event::Delete(one)) => format!("delete {}", one.name_any()),
            Err(_) => continue,
        };
        seen.push(shown.clone());
        if shown == wanted {
            return;
        }
    };
    until("done").await;
    maps.create(&PostParams::default(), &config_map("after", "1")).await.expect("created");
    until("apply after").await;
    // The history from where it would go on is gone: it lists again.
    let leases: Api<Lease> = Api::namespaced(client, "default");
    let lease = object(json!({"metadata": {"name": "other"}}));
    leases.create(&PostParams::default(), &lease).await.expect("created");
    api.compact();
    api.close_watches();
    maps.create(&PostParams::default(), &config_map("later", "1")).await.expect("created");
    until("init later").await;
    assert!(seen.contains(&"init before".to_owned()), "{seen:?}");
}

#[tokio::test]
async fn the_watcher_lists_watches_and_lists_again_after_410() {
    follows(watcher::Config::default()).await;
}

#[tokio::test]
async fn the_watcher_streams_lists() {
    follows(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test]
async fn a_watch_from_before_the_history_is_told_so_and_bookmarks_come() {
    let (api, client) = started().await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let made = maps.create(&PostParams::default(), &config_map("a", "1")).await.expect("created");
    let version = made.resource_version().expect("a version");
    let mut events = maps.watch(&WatchParams::default(), &version).await.expect("a watch").boxed();
    let event = within("a bookmark", events.try_next()).await.expect("an event");
    assert!(matches!(event, Some(WatchEvent::Bookmark(_))), "{event:?}");
    maps.create(&PostParams::default(), &config_map("b", "1")).await.expect("created");
    api.compact();
    let mut events = maps.watch(&WatchParams::default(), &version).await.expect("a watch").boxed();
    match within("an event", events.try_next()).await.expect("an event") {
        Some(WatchEvent::Error(error)) => assert_eq!((error.code, error.reason.as_str()), (410, "Expired")),
        other => panic!("no error: {other:?}"),
    }
    let strict = fake(Options { gone_as_status: true, ..Options::default() }).await;
    strict.compact();
    let maps: Api<ConfigMap> = Api::namespaced(client_of(&strict.kubeconfig()).await, "default");
    let refused = match maps.watch(&WatchParams::default(), "1").await {
        Err(error) => status(error),
        Ok(_) => panic!("a watch from before the history"),
    };
    assert_eq!((refused.0, refused.1.as_str()), (410, "Expired"));
}

#[tokio::test]
async fn an_apply_conflicts_with_other_managers_unless_forced() {
    let (api, client, namespace) = conforming("apply").await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let wanted = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"key": value}});
    maps.patch("a", &PatchParams::apply("one"), &Patch::Apply(wanted("1"))).await.expect("new");
    maps.patch("a", &PatchParams::apply("two"), &Patch::Apply(wanted("1"))).await.expect("shared");
    let refused = maps.patch("a", &PatchParams::apply("two"), &Patch::Apply(wanted("2"))).await.expect_err("conflict");
    let refused = status(refused);
    assert_eq!(
        (refused.0, refused.1.as_str(), refused.2.as_str()),
        (409, "Conflict", "Apply failed with 1 conflict: conflict with \"one\": .data.key")
    );
    let forced = maps.patch("a", &PatchParams::apply("two").force(), &Patch::Apply(wanted("2"))).await.expect("forced");
    assert_eq!(forced.data.as_ref().expect("data")["key"], "2");
    let nothing = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let left = maps.patch("a", &PatchParams::apply("two"), &Patch::Apply(nothing)).await.expect("less");
    assert_eq!(left.data, None, "nobody else holds it");
    done(api, client, &namespace).await;
}

#[tokio::test]
async fn of_two_who_take_a_lease_one_does() {
    let (api, client, namespace) = conforming("lease").await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
    let lease: Lease = object(json!({"metadata": {"name": "leader"}, "spec": {"leaseDurationSeconds": 15}}));
    let lease = leases.create(&PostParams::default(), &lease).await.expect("created");
    let take = async |holder: &str| {
        let mut mine = lease.clone();
        mine.spec.as_mut().expect("spec").holder_identity = Some(holder.to_owned());
        leases.replace("leader", &PostParams::default(), &mine).await
    };
    let (one, two) = tokio::join!(take("one"), take("two"));
    let (winner, loser) = match (one, two) {
        (Ok(lease), Err(error)) | (Err(error), Ok(lease)) => (lease, error),
        other => panic!("not exactly one: {other:?}"),
    };
    assert_eq!(status(loser).0, 409);
    let holder = leases.get("leader").await.expect("there").spec.expect("spec").holder_identity;
    assert_eq!(holder, winner.spec.expect("spec").holder_identity);
    let mut unversioned = lease.clone();
    unversioned.metadata.resource_version = None;
    let refused = leases.replace("leader", &PostParams::default(), &unversioned).await.expect_err("no version");
    assert_eq!(status(refused).0, 422);
    done(api, client, &namespace).await;
}

#[tokio::test]
async fn services_get_addresses_and_ports_and_keep_status_apart() {
    let (api, client, namespace) = conforming("service").await;
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    let service: Service = object(json!({"metadata": {"name": "web"}, "spec": {"type": "LoadBalancer",
        "externalTrafficPolicy": "Local", "selector": {"app": "web"}, "ports": [{"port": 80}]}}));
    let made = services.create(&PostParams::default(), &service).await.expect("created").spec.expect("spec");
    let port = &made.ports.as_ref().expect("ports")[0];
    assert!(made.cluster_ip.is_some() && made.health_check_node_port.is_some());
    assert!(port.node_port.is_some_and(|port| (30000..=32767).contains(&port)));
    assert_eq!((port.protocol.as_deref(), made.session_affinity.as_deref()), (Some("TCP"), Some("None")));
    let status_of = |mode: Value| json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": mode}]}}, "spec": {"type": "ClusterIP"}});
    let patch = PatchParams::default();
    let refused = services.patch_status("web", &patch, &Patch::Merge(status_of(json!("Magic")))).await;
    assert_eq!(status(refused.expect_err("no such mode")).0, 422);
    let set = services.patch_status("web", &patch, &Patch::Merge(status_of(json!("VIP")))).await.expect("set");
    assert_eq!(set.spec.expect("spec").type_.as_deref(), Some("LoadBalancer"), "the status alone is written");
    let spec = json!({"spec": {"externalTrafficPolicy": "Cluster"}, "status": {"loadBalancer": {}}});
    let set = services.patch("web", &patch, &Patch::Merge(spec)).await.expect("set");
    assert!(
        set.status.and_then(|status| status.load_balancer).and_then(|one| one.ingress).is_some(),
        "the status stays"
    );
    assert_eq!(set.spec.expect("spec").health_check_node_port, None);
    done(api, client, &namespace).await;
}

fn definition(group: &str) -> CustomResourceDefinition {
    object(json!({"metadata": {"name": format!("pools.{group}")}, "spec": {"group": group, "scope": "Namespaced",
        "names": {"kind": "Pool", "plural": "pools"},
        "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
                "spec": {"type": "object", "required": ["size"], "properties": {
                    "size": {"type": "integer", "minimum": 1},
                    "auto": {"type": "boolean", "default": true},
                    "name": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "immutable"}]}}},
                "status": {"type": "object", "properties": {"used": {"type": "integer"}}}}}}}]}}))
}

#[tokio::test]
async fn custom_resources_are_defaulted_pruned_checked_and_counted() {
    let (api, client, namespace) = conforming("crd").await;
    let group = format!("{namespace}.example.org");
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.create(&PostParams::default(), &definition(&group)).await.expect("defined");
    let established = kube::runtime::conditions::is_crd_established();
    let name = format!("pools.{group}");
    within("established", kube::runtime::wait::await_condition(definitions.clone(), &name, established))
        .await
        .expect("established");
    let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(&group, "v1", "Pool"), "pools");
    let pools: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &kind);
    let pool = |spec: Value| {
        object::<DynamicObject>(json!({"apiVersion": format!("{group}/v1"), "kind": "Pool",
        "metadata": {"name": "p"}, "spec": spec, "status": {"used": 1}}))
    };
    let refused = status(pools.create(&PostParams::default(), &pool(json!({"size": 0}))).await.expect_err("too small"));
    assert_eq!((refused.0, refused.1.as_str()), (422, "Invalid"));
    assert!(refused.2.contains("spec.size in body should be greater than or equal to 1"), "{}", refused.2);
    let made = pools
        .create(&PostParams::default(), &pool(json!({"size": 2, "extra": 1, "name": "a"})))
        .await
        .expect("created");
    assert_eq!(made.data["spec"], json!({"size": 2, "auto": true, "name": "a"}));
    assert_eq!((made.data.get("status"), made.metadata.generation), (None, Some(1)));
    let patch = PatchParams::default();
    let used = pools
        .patch_status("p", &patch, &Patch::Merge(json!({"spec": {"size": 9}, "status": {"used": 3}})))
        .await
        .expect("status");
    assert_eq!((&used.data["spec"]["size"], &used.data["status"]["used"]), (&json!(2), &json!(3)));
    assert_eq!(used.metadata.generation, Some(1));
    let grown = pools.patch("p", &patch, &Patch::Merge(json!({"spec": {"size": 3}}))).await.expect("grown");
    assert_eq!(grown.metadata.generation, Some(2));
    let renamed =
        pools.patch("p", &patch, &Patch::Merge(json!({"spec": {"name": "b"}}))).await.expect_err("a transition");
    assert!(status(renamed).2.contains("immutable"));
    definitions.delete(&name, &DeleteParams::default()).await.expect("deleted");
    done(api, client, &namespace).await;
}

#[tokio::test]
async fn a_definitions_conversion_stays_as_it_is_and_does_not_contradict_itself() {
    let (api, client, namespace) = conforming("conversion").await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut sent = serde_json::to_value(definition(&format!("{namespace}.example.org"))).expect("JSON");
    let webhook = json!({
        "clientConfig": {"service": {"name": "converter", "namespace": namespace, "path": "/convert"}},
        "conversionReviewVersions": ["v1"],
    });
    sent["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": webhook});
    let made = definitions.create(&PostParams::default(), &object(sent.clone())).await.expect("created");
    let name = made.name_any();

    // Of an apply that does not name it.
    sent["spec"].as_object_mut().expect("a spec").remove("conversion");
    let apply = PatchParams::apply("another").force();
    let applied = definitions.patch(&name, &apply, &Patch::Apply(&sent)).await.expect("applied");
    let conversion = applied.spec.conversion.expect("a conversion");
    assert_eq!(conversion.strategy, "Webhook");
    assert_eq!(conversion.webhook.expect("a webhook").conversion_review_versions, ["v1"]);

    sent["spec"]["conversion"] = json!({"strategy": "None"});
    let refused = definitions.patch(&name, &apply, &Patch::Apply(&sent)).await.expect_err("a webhook is left");
    assert_eq!(status(refused).0, 422);
    let without = json!({"spec": {"conversion": {"strategy": "None", "webhook": null}}});
    let patched = definitions.patch(&name, &PatchParams::default(), &Patch::Merge(&without)).await.expect("patched");
    assert!(patched.spec.conversion.is_some_and(|conversion| conversion.webhook.is_none()));
    definitions.delete(&name, &DeleteParams::default()).await.expect("deleted");
    done(api, client, &namespace).await;
}

#[tokio::test]
async fn finalizers_hold_and_owners_take_along() {
    let (_api, client) = started().await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let mut owner = config_map("owner", "1");
    owner.metadata.finalizers = Some(vec!["example.org/hold".to_owned()]);
    let owner = maps.create(&PostParams::default(), &owner).await.expect("created");
    let owned: ConfigMap = object(json!({"metadata": {"name": "owned", "ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.uid()}]}}));
    maps.create(&PostParams::default(), &owned).await.expect("created");
    maps.delete("owner", &DeleteParams::default()).await.expect("marked");
    assert!(maps.get("owner").await.expect("held").metadata.deletion_timestamp.is_some());
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("owner", &PatchParams::default(), &release).await.expect("released");
    assert!(maps.get_opt("owner").await.expect("an answer").is_none());
    within("collected", async {
        while maps.get_opt("owned").await.expect("an answer").is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn rbac_lets_who_may_and_the_record_says_who_did() {
    let api = fake(Options { rbac: true, tls: true, ..Options::default() }).await;
    let admin = client_of(&api.kubeconfig()).await;
    let user = client_of(&api.kubeconfig_for(User::service_account("default", "reader"))).await;
    let mine: Api<ConfigMap> = Api::namespaced(user, "default");
    let refused = status(mine.list(&ListParams::default()).await.expect_err("no role yet"));
    assert_eq!(refused.0, 403);
    assert_eq!(
        refused.2,
        "configmaps is forbidden: User \"system:serviceaccount:default:reader\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    let roles: Api<k8s_openapi::api::rbac::v1::Role> = Api::namespaced(admin.clone(), "default");
    let role = object(
        json!({"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]}),
    );
    roles.create(&PostParams::default(), &role).await.expect("a role");
    let bindings: Api<k8s_openapi::api::rbac::v1::RoleBinding> = Api::namespaced(admin, "default");
    let binding = object(json!({"metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}]}));
    bindings.create(&PostParams::default(), &binding).await.expect("a binding");
    mine.list(&ListParams::default()).await.expect("may list");
    assert_eq!(status(mine.get("x").await.expect_err("may not get")).0, 403);
    let used: Vec<_> = api.requests().into_keys().filter(|used| used.user.ends_with(":reader")).collect();
    assert_eq!(
        used.iter().map(|used| (used.verb.as_str(), used.resource.as_str())).collect::<Vec<_>>(),
        [("list", "configmaps")]
    );
}

#[tokio::test]
async fn faults_come_and_go() {
    let (api, client) = started().await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    maps.create(&PostParams::default(), &config_map("a", "1")).await.expect("created");
    api.empty_lists("configmaps", 1);
    assert!(maps.list(&ListParams::default()).await.expect("a list").items.is_empty());
    assert_eq!(maps.list(&ListParams::default()).await.expect("a list").items.len(), 1);
    api.conflicts("configmaps", 1);
    let patch = Patch::Merge(json!({"data": {"key": "2"}}));
    assert_eq!(status(maps.patch("a", &PatchParams::default(), &patch).await.expect_err("forced")).0, 409);
    maps.patch("a", &PatchParams::default(), &patch).await.expect("once only");
    api.set_mood(Mood::Fail(500));
    assert_eq!(status(maps.get("a").await.expect_err("500")).0, 500);
    api.set_mood(Mood::Refuse);
    within("refusing", async { while tokio::net::TcpStream::connect(api.address()).await.is_ok() {} }).await;
    api.set_mood(Mood::Fine);
    within("listening", async { while maps.get("a").await.is_err() {} }).await;
}
