use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_plan::range::IpFamily;
use evenkeel_plan::selector::Operator;
use evenkeel_plan::world::{
    Affinity, Forwarding, IpFamilyPolicy, L2Advertisement, Protocol, Service, TargetPort, TrafficPolicy,
};
use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Parsed {
    parse(Path::new("test.yaml"), text.as_bytes())
}

/// The single object of a text without findings.
fn object(text: &str) -> Object {
    let parsed = read(text);
    assert_eq!(parsed.diagnostics, []);
    assert_eq!(parsed.documents.len(), 1);
    parsed.documents.into_iter().next().unwrap().object.unwrap()
}

fn service(text: &str) -> Arc<Service> {
    match object(text) {
        Object::Service(service) => service,
        other => panic!("{other:?}"),
    }
}

/// `reason line field` of every finding.
fn findings(text: &str) -> Vec<String> {
    let parsed = read(text);
    for diagnostic in &parsed.diagnostics {
        assert!(!diagnostic.remedy.is_empty() && diagnostic.location.line > 0, "{diagnostic:?}");
        assert!(!diagnostic.is_error() || parsed.documents.iter().any(|d| d.object.is_none()) || parsed.incomplete);
    }
    let shown = |d: &Diagnostic| format!("{} {} {}", d.reason, d.location.line, d.field);
    parsed.diagnostics.iter().map(shown).collect()
}

const BALANCER: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: LoadBalancer\n  ports: [{port: 80}]\n";
const POOL: &str =
    "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: lan}\nspec:\n  addresses: [10.0.0.0/24]\n";
const ADVERTISEMENT: &str = "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: lan}\nspec:\n";
const SLICE: &str = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-1\n  labels: {kubernetes.io/service-name: web}\naddressType: IPv4\n";

#[test]
fn a_service_is_read_in_full() {
    let service = service(
        r#"
apiVersion: v1
kind: Service
metadata:
  name: dns
  namespace: infra
  labels: {tier: edge}
  annotations:
    metallb.universe.tf/address-pool: lan
    metallb.io/loadBalancerIPs: "10.0.0.53, 2001:db8::53"
    metallb.io/allow-shared-ip: vip
    evenkeel.io/forwarding: direct
    example.com/other: "true"
spec:
  type: LoadBalancer
  loadBalancerClass: example.com/class
  ipFamilies: [IPv6, IPv4]
  ipFamilyPolicy: PreferDualStack
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  publishNotReadyAddresses: true
  selector: {app: dns}
  clusterIP: 10.96.0.10
  ports:
  - {name: tcp, port: 53, targetPort: 1053, nodePort: 30053}
  - {name: udp, port: 53, targetPort: dns, protocol: UDP}
status:
  loadBalancer:
    ingress: [{ip: 10.0.0.53}, {hostname: example.com}]
"#,
    );
    assert_eq!(service.name.to_string(), "infra/dns");
    assert_eq!(service.labels["tier"], "edge");
    assert!(service.is_load_balancer);
    assert_eq!(service.load_balancer_class.as_deref(), Some("example.com/class"));
    assert_eq!(service.ip_families, [IpFamily::V6, IpFamily::V4]);
    assert_eq!(service.ip_family_policy, IpFamilyPolicy::PreferDualStack);
    let addresses: Vec<String> = service.requested.annotated_addresses.iter().map(IpAddr::to_string).collect();
    assert_eq!(addresses, ["10.0.0.53", "2001:db8::53"]);
    assert_eq!(service.requested.pool.as_deref(), Some("lan"));
    assert_eq!(service.sharing_key.as_deref(), Some("vip"));
    assert_eq!(service.traffic_policy, TrafficPolicy::Local);
    assert_eq!(service.affinity, Affinity::ClientIp { timeout: Duration::from_secs(60) });
    assert_eq!(service.forwarding, Some(Forwarding::Direct));
    assert_eq!(service.selector["app"], "dns");
    assert!(service.publish_not_ready);
    assert_eq!(service.ports[0].target, Some(TargetPort::Number(1053)));
    assert_eq!((service.ports[1].protocol, service.ports[1].port), (Protocol::Udp, 53));
    assert_eq!(service.ports[1].target, Some(TargetPort::Name("dns".to_owned())));
    assert_eq!(service.status_addresses.len(), 1);
}

#[test]
fn a_service_has_defaults() {
    let service = service(BALANCER);
    assert_eq!(service.name.to_string(), "default/web");
    assert_eq!((service.traffic_policy, service.affinity), (TrafficPolicy::Cluster, Affinity::None));
    assert_eq!((service.ports[0].protocol, service.ports[0].name.as_str()), (Protocol::Tcp, ""));
}

#[test]
fn what_is_wrong_with_a_service_is_named() {
    let with = |line: &str| findings(&BALANCER.replace("  type:", &format!("{line}\n  type:")));
    assert_eq!(with("  loadBalancerIP: 10.0.0"), ["invalid_address 5 spec.loadBalancerIP"]);
    assert_eq!(with("  externalTrafficPolicy: local"), ["invalid_value 5 spec.externalTrafficPolicy"]);
    assert_eq!(with("  publishNotReadyAddresses: \"false\""), ["wrong_type 5 spec.publishNotReadyAddresses"]);
    assert_eq!(with("  selector: {app: 1}"), ["wrong_type 5 spec.selector.app"]);
    assert_eq!(with("  selector: []"), ["wrong_type 5 spec.selector"]);
    assert_eq!(with("  futureField: {a: b}"), [""; 0], "Kubernetes' own kinds may have fields unknown here");
    let ports = |ports: &str| findings(&BALANCER.replace("[{port: 80}]", ports));
    assert_eq!(ports("[{port: 0}]"), ["invalid_value 6 spec.ports[0].port"]);
    assert_eq!(ports("[{port: 65536}]"), ["invalid_value 6 spec.ports[0].port"]);
    assert_eq!(ports("[{}]"), ["missing_field 6 spec.ports[0].port"]);
    assert_eq!(ports("[{port: 80, protocol: tcp}]"), ["invalid_value 6 spec.ports[0].protocol"]);
    assert_eq!(ports("[{name: a, port: 80}, {name: b, port: 80}]"), ["duplicate_port 6 spec.ports[1]"]);
    assert_eq!(ports("[{name: a, port: 80}, {name: a, port: 81}]"), ["duplicate_port 6 spec.ports[1]"]);
    assert_eq!(ports("[{name: a, port: 80}, {port: 81}]"), ["missing_field 6 spec.ports[1].name"]);
    assert_eq!(ports("[]"), ["missing_field 6 spec.ports"]);
    assert_eq!(ports(""), ["missing_field 4 spec.ports"]);
}

#[test]
fn annotations_are_checked() {
    let with = |annotations: &str| {
        findings(&BALANCER.replace("{name: web}", &format!("\n  name: web\n  annotations:\n    {annotations}")))
    };
    assert_eq!(
        with("metallb.universe.tf/mode: layer2"),
        ["unknown_annotation 6 metadata.annotations[metallb.universe.tf/mode]"]
    );
    assert_eq!(with("evenkeel.io/forwarding: dsr"), ["invalid_value 6 metadata.annotations[evenkeel.io/forwarding]"]);
    assert_eq!(
        with("{metallb.io/address-pool: a, metallb.universe.tf/address-pool: b}"),
        ["conflicting_annotations 6 metadata.annotations[metallb.universe.tf/address-pool]"]
    );
    assert_eq!(with("{metallb.io/address-pool: a, metallb.universe.tf/address-pool: a}"), [""; 0]);
    assert_eq!(
        with("metallb.io/loadBalancerIPs: 10.0.0.1,x"),
        ["invalid_address 6 metadata.annotations[metallb.io/loadBalancerIPs]"]
    );
    let parsed = read(&BALANCER.replace("{name: web}", "{name: web, annotations: {metallb.universe.tf/mode: layer2}}"));
    assert!(parsed.documents[0].object.is_some(), "a warning only");
}

#[test]
fn an_endpoint_slice_is_read_with_its_defaults() {
    let text = SLICE.to_owned()
        + "ports: [{name: http, port: 8080}]\nendpoints:\n- addresses: [10.1.0.1]\n- addresses: [10.1.0.2]\n  conditions: {ready: false, serving: true, terminating: true}\n  nodeName: n1\n  targetRef: {kind: Pod, uid: u1}\n- addresses: [10.1.0.3]\n  conditions: {ready: false}\n";
    let Object::EndpointSlice(slice) = object(&text) else { panic!() };
    assert_eq!(slice.service.as_deref(), Some("web"));
    assert_eq!((slice.ports[0].name.as_str(), slice.ports[0].port), ("http", 8080));
    let conditions: Vec<_> = slice.endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
    assert_eq!(conditions, [(true, true, false), (false, true, true), (false, false, false)]);
    assert_eq!(slice.endpoints[1].node.as_deref(), Some("n1"));
    assert_eq!(slice.endpoints[1].target_uid.as_deref(), Some("u1"));
}

#[test]
fn what_is_wrong_with_an_endpoint_slice_is_named() {
    let with = |rest: &str| findings(&(SLICE.to_owned() + rest));
    assert_eq!(with("endpoints: [{addresses: [\"::1\"]}]\n"), ["family_mismatch 7 endpoints[0].addresses[0]"]);
    assert_eq!(with("endpoints: [{addresses: [224.0.0.1]}]\n"), ["invalid_address 7 endpoints[0].addresses[0]"]);
    assert_eq!(with("endpoints: [{}]\n"), ["missing_field 7 endpoints[0].addresses"]);
    assert_eq!(with("ports: [{name: any}]\n"), ["unnumbered_port 7 ports[0]"]);
    assert_eq!(findings(&SLICE.replace("IPv4", "FQDN")), ["fqdn_endpoints 6 addressType"]);
    assert_eq!(findings(&SLICE.replace("addressType: IPv4\n", "")), ["missing_field 1 addressType"]);
}

#[test]
fn an_endpoint_that_is_terminating_serves_until_it_says_otherwise() {
    let text = SLICE.to_owned()
        + "endpoints:\n- addresses: [10.1.0.1]\n  conditions: {ready: false, terminating: true}\n- addresses: [10.1.0.2]\n  conditions: {ready: false, serving: null, terminating: null}\n- addresses: [10.1.0.3]\n  conditions: {}\n";
    let Object::EndpointSlice(slice) = object(&text) else { panic!() };
    let conditions: Vec<_> = slice.endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
    assert_eq!(conditions, [(false, true, true), (false, false, false), (true, true, false)]);
}

#[test]
fn weights_are_read() {
    let annotated = BALANCER.replace("{name: web}", "{name: web, annotations: {evenkeel.io/weights: \"10.1.0.1=3\"}}");
    let weight =
        |address: &str| service(&annotated).weights.of(address.parse().unwrap(), None).map(|weight| weight.get());
    assert_eq!((weight("10.1.0.1"), weight("10.1.0.2")), (Some(3), None));
    let Object::EndpointSlice(slice) =
        object(&SLICE.replace("labels:", "annotations: {evenkeel.io/weight: \"7\"}\n  labels:"))
    else {
        panic!()
    };
    assert_eq!(slice.weight.get(), 7);
}

#[test]
fn what_is_wrong_with_weights_is_named() {
    let on_service = |weights: &str| {
        let annotations = format!("\n  name: web\n  annotations:\n    evenkeel.io/weights: {weights}");
        findings(&BALANCER.replace("{name: web}", &annotations))
    };
    let at = |reason: &str| [format!("{reason} 6 metadata.annotations[evenkeel.io/weights]")];
    assert_eq!(on_service("10.1.0.1=101"), at("invalid_weight"));
    assert_eq!(on_service("10.1.0.1"), at("invalid_weight"));
    assert_eq!(on_service("\"\""), at("invalid_weight"));
    assert_eq!(on_service("web=1"), at("invalid_weight_target"));
    assert_eq!(on_service("10.1.0.1=1,10.1.0.1=2"), at("duplicate_weight"));
    assert_eq!(on_service("3"), at("wrong_type"));
    let on_slice =
        |annotation: &str| findings(&SLICE.replace("labels:", &format!("annotations:\n    {annotation}\n  labels:")));
    assert_eq!(on_slice("evenkeel.io/weight: \"-1\""), ["invalid_weight 6 metadata.annotations[evenkeel.io/weight]"]);
    assert_eq!(on_slice("evenkeel.io/weight: 1"), ["wrong_type 6 metadata.annotations[evenkeel.io/weight]"]);
    assert_eq!(
        on_slice("evenkeel.io/weights: \"10.1.0.1=1\""),
        ["unknown_annotation 6 metadata.annotations[evenkeel.io/weights]"]
    );
}

#[test]
fn a_pool_is_read_and_checked() {
    let Object::IpAddressPool(pool) = object(
        &(POOL.to_owned()
            + "  autoAssign: false\n  avoidBuggyIPs: true\n  serviceAllocation:\n    priority: 5\n    namespaces: [a]\n    serviceSelectors:\n    - matchExpressions: [{key: k, operator: In, values: [v]}]\n"),
    ) else {
        panic!()
    };
    assert!(!pool.auto_assign && pool.avoid_buggy_ips);
    let allocation = pool.allocation.clone().unwrap();
    assert_eq!((allocation.priority, allocation.namespaces), (5, vec!["a".to_owned()]));
    let operator = &allocation.service_selectors[0].match_expressions[0].operator;
    assert_eq!(*operator, Operator::In(vec!["v".to_owned()]));

    let with = |line: &str| findings(&(POOL.to_owned() + line));
    assert_eq!(with("  autoassign: false\n"), ["unknown_field 6 spec.autoassign"]);
    assert_eq!(with("  autoAssign: maybe\n"), ["wrong_type 6 spec.autoAssign"]);
    assert_eq!(with("  serviceAllocation: {priority: -1}\n"), ["invalid_value 6 spec.serviceAllocation.priority"]);
    assert_eq!(with("extra: 1\n"), ["unknown_field 6 extra"]);
    assert_eq!(findings(&POOL.replace("10.0.0.0/24", "127.0.0.0/24")), ["invalid_range 5 spec.addresses[0]"]);
    assert_eq!(findings(&POOL.replace("[10.0.0.0/24]", "10.0.0.0/24")), ["wrong_type 5 spec.addresses"]);
    assert_eq!(findings(&POOL.replace("v1beta1", "v1beta9")), ["unsupported_version 1 apiVersion"]);
}

#[test]
fn an_advertisement_is_read_and_checked() {
    let Object::L2Advertisement(ad) = object(
        &(ADVERTISEMENT.to_owned()
            + "  ipAddressPools: [lan]\n  interfaces: [eth0]\n  nodeSelectors: [{matchLabels: {a: b}}]\n  preferredNodeSelectors:\n  - {weight: 10, preference: {matchLabels: {c: d}}}\n"),
    ) else {
        panic!()
    };
    assert_eq!((&ad.pools, &ad.interfaces), (&vec!["lan".to_owned()], &vec!["eth0".to_owned()]));
    assert_eq!(ad.node_selectors[0].match_labels["a"], "b");
    assert_eq!(ad.preferred[0].weight, 10);

    let with = |line: &str| findings(&(ADVERTISEMENT.to_owned() + line));
    assert_eq!(with("  nodeSelector: []\n"), ["unknown_field 5 spec.nodeSelector"]);
    let weight = "  preferredNodeSelectors: [{weight: 101, preference: {}}]\n";
    assert_eq!(with(weight), ["invalid_value 5 spec.preferredNodeSelectors[0].weight"]);
    let empty = "  nodeSelectors: [{matchExpressions: [{key: k, operator: In}]}]\n";
    assert_eq!(with(empty), ["invalid_value 5 spec.nodeSelectors[0].matchExpressions[0]"]);
    let Object::L2Advertisement(everything) = object(&ADVERTISEMENT.replace("spec:\n", "")) else { panic!() };
    assert_eq!(*everything, L2Advertisement::new(ObjectName::new("", "lan")));
}

#[test]
fn nodes_and_namespaces_are_read() {
    let Object::Node(node) = object(
        "apiVersion: v1\nkind: Node\nmetadata: {name: n, labels: {a: b}}\nstatus: {conditions: [{type: NetworkUnavailable, status: \"True\"}]}\n",
    ) else {
        panic!()
    };
    assert!(node.network_unavailable);
    assert_eq!(node.labels["a"], "b");
    let Object::Namespace(labels) = object("apiVersion: v1\nkind: Namespace\nmetadata: {name: n, labels: {a: b}}\n")
    else {
        panic!()
    };
    assert_eq!(labels["a"], "b");
}

#[test]
fn what_is_no_object_is_named_and_leaves_the_file_incomplete() {
    for (text, expected) in [
        ("just words\n", "wrong_type 1 "),
        ("a: 1\n", "missing_field 1 kind"),
        ("kind: Service\n", "missing_field 1 apiVersion"),
        ("apiVersion: v1\nkind: Service\n", "missing_field 1 metadata"),
        ("apiVersion: v1\nkind: Service\nmetadata: {}\n", "missing_field 3 metadata.name"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: A/b}\n", "invalid_name 3 metadata.name"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: 1}\n", "wrong_type 3 metadata.namespace"),
        ("apiVersion: v1\nkind: List\n", "missing_field 1 items"),
        ("apiVersion: v1\nkind: List\nitems: [1]\n", "wrong_type 3 items[0]"),
    ] {
        assert_eq!(findings(text), [expected], "{text}");
        assert!(read(text).incomplete, "{text}");
    }
    assert!(!read(BALANCER).incomplete);
    assert!(!read("# nothing\n---\n").incomplete);
}

#[test]
fn one_bad_object_does_not_take_others_along() {
    let parsed = read(&format!("{POOL}---\n{}---\n{BALANCER}", POOL.replace("lan", "bad").replace("/24", "/99")));
    let read: Vec<_> = parsed.documents.iter().map(|d| (d.key.to_string(), d.object.is_some())).collect();
    let expected = [("IPAddressPool lan", true), ("IPAddressPool bad", false), ("Service default/web", true)];
    assert_eq!(read, expected.map(|(key, good)| (key.to_owned(), good)));
}

#[test]
fn an_item_of_a_list_has_its_path_and_place() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: metallb.io/v1beta1\n  kind: IPAddressPool\n  metadata: {name: a}\n  spec: {addresses: [x]}\n";
    assert_eq!(findings(text), ["invalid_range 7 items[0].spec.addresses[0]"]);
    let places = &read(text).documents[0].places.fields;
    assert_eq!(places["spec.addresses[0]"].line, 7, "by the path within the object");
    assert_eq!(places[""].line, 6);
}

#[test]
fn a_file_that_is_too_large_or_no_text_is_refused() {
    let reason = |content: &[u8]| {
        let parsed = parse(Path::new("x"), content);
        assert!(parsed.incomplete);
        parsed.diagnostics[0].reason
    };
    assert_eq!(reason(&[0xff, 0xfe]), "not_utf8");
    assert_eq!(reason(&vec![b'#'; MAX_BYTES + 1]), "too_large");
}

#[test]
fn a_byte_order_mark_is_no_content() {
    assert_eq!(read(&format!("\u{feff}{POOL}")).documents.len(), 1);
}

/// Text made of the pieces manifests are made of, in any order.
fn pieces() -> impl Strategy<Value = String> {
    let pieces = [
        "apiVersion: v1\n",
        "kind: Service\n",
        "kind: List\n",
        "items:\n",
        "- ",
        "  ",
        "metadata: {name: a}\n",
        "spec:\n",
        "  ports: [",
        "{port: 80}",
        "]",
        "}",
        "{",
        "\n",
        "---\n",
        "...\n",
        "&a ",
        "*a",
        "? ",
        ": ",
        "|\n",
        ">-\n",
        "\"",
        "'",
        "\t",
        "%TAG ! x\n",
        "!!str ",
        "<<: ",
        "#",
        "\u{feff}",
        "\r\n",
        "kind: IPAddressPool\n",
        "addresses: ",
        "10.0.0.0/8",
        "null",
        "apiVersion: metallb.io/v1beta1\n",
        "-",
        "é",
        "\u{0}",
    ];
    proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(Path::new("x"), &bytes);
    }

    #[test]
    fn any_pieces_are_read_without_a_panic(text in pieces()) {
        let _ = parse(Path::new("x"), text.as_bytes());
    }

    #[test]
    fn a_manifest_cut_or_changed_anywhere_is_read_without_a_panic(
        at in any::<proptest::sample::Index>(), cut in any::<bool>(), byte in any::<u8>(),
    ) {
        let mut bytes = format!("{BALANCER}---\n{POOL}---\n{ADVERTISEMENT}---\n{SLICE}").into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let parsed = parse(Path::new("x"), &bytes);
        prop_assert!(parsed.documents.len() <= 4);
    }
}
