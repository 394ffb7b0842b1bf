use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_plan::range::{IpFamily, mapped};
use evenkeel_plan::selector::Operator;
use evenkeel_plan::world::{
    Affinity, Aggregation, BgpAdvertisement, BgpPeer, Community, CommunityRef, Forwarding, HealthCheck, HealthProbe,
    IpFamilyPolicy, L2Advertisement, Neighbor, ObjectName, Password, PeerAsn, Protocol, Service, TargetPort, Timers,
    TrafficPolicy,
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
    evenkeel.io/source-address: rewrite
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
  clusterIPs: [10.96.0.10, "fd00::a"]
  loadBalancerSourceRanges: []
  healthCheckNodePort: 32000
  allocateLoadBalancerNodePorts: false
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
    assert!(service.rewrite_source);
    assert_eq!(service.selector["app"], "dns");
    assert!(service.publish_not_ready);
    assert_eq!(service.health_check_node_port, Some(32_000));
    assert_eq!(service.ports[0].target, Some(TargetPort::Number(1053)));
    assert_eq!((service.ports[1].protocol, service.ports[1].port), (Protocol::Udp, 53));
    assert_eq!(service.ports[1].target, Some(TargetPort::Name("dns".to_owned())));
    assert_eq!(service.status_addresses.len(), 1);
}

#[test]
fn cluster_addresses_say_what_a_service_really_is() {
    let with = |lines: &str| {
        let service = service(&(BALANCER.to_owned() + "  ipFamilyPolicy: PreferDualStack\n" + lines));
        (service.ip_family_policy, service.ip_families.clone())
    };
    assert_eq!(with(""), (IpFamilyPolicy::PreferDualStack, vec![]));
    assert_eq!(with("  clusterIP: \"\"\n"), (IpFamilyPolicy::PreferDualStack, vec![]));
    assert_eq!(with("  clusterIPs: ['fd00::1']\n"), (IpFamilyPolicy::SingleStack, vec![IpFamily::V6]));
    assert_eq!(
        with("  ipFamilies: [IPv4, IPv6]\n  clusterIP: 10.96.0.1\n"),
        (IpFamilyPolicy::SingleStack, vec![IpFamily::V4])
    );
    assert_eq!(
        with("  clusterIPs: ['fd00::1', 10.96.0.1]\n"),
        (IpFamilyPolicy::PreferDualStack, vec![IpFamily::V6, IpFamily::V4])
    );
    let wrong = |lines: &str| findings(&(BALANCER.to_owned() + lines));
    assert_eq!(wrong("  clusterIPs: [10.0.0.1, 10.0.0.2]\n"), ["invalid_value 7 spec.clusterIPs[1]"]);
    assert_eq!(wrong("  clusterIPs: [x]\n"), ["invalid_address 7 spec.clusterIPs[0]"]);
    assert_eq!(wrong("  clusterIP: None\n"), ["invalid_value 7 spec.clusterIP"]);
    assert_eq!(findings(&(BALANCER.replace("LoadBalancer", "ClusterIP") + "  clusterIP: None\n")), [""; 0]);
}

#[test]
fn who_may_connect_is_read() {
    let text = BALANCER.to_owned() + "  loadBalancerSourceRanges: [10.0.0.0/8]\n";
    assert_eq!(service(&text).source_ranges[0].to_string(), "10.0.0.0/8");
    assert_eq!(findings(&text), [""; 0]);
    assert_eq!(
        findings(&text.replace("10.0.0.0/8", "10.0.0.0"))[0],
        "invalid_range 7 spec.loadBalancerSourceRanges[0]"
    );
    assert_eq!(
        findings(&(BALANCER.to_owned() + "  allocateLoadBalancerNodePorts: 1\n")),
        ["wrong_type 7 spec.allocateLoadBalancerNodePorts"]
    );
}

/// The load balancer with these annotations, each `name: value` without the prefix.
fn annotated(annotations: &[&str]) -> String {
    let lines: Vec<String> = annotations.iter().map(|line| format!("    evenkeel.io/{line}\n")).collect();
    BALANCER.replace("metadata: {name: web}\n", &format!("metadata:\n  name: web\n  annotations:\n{}", lines.concat()))
}

#[test]
fn a_health_check_is_read_in_full() {
    let service = service(&annotated(&[
        "health-check: http",
        "health-port: '9090'",
        "health-path: /ready",
        "health-expect-status: '204'",
        "health-interval: 2s",
        "health-timeout: 250ms",
        "health-unhealthy-after: '1'",
        "health-healthy-after: '100'",
        "slow-start: 1m",
        "passive-ejection: 'true'",
    ]));
    let HealthProbe::Http(http) = &service.health.as_ref().unwrap().probe else { panic!() };
    assert_eq!((http.path.as_str(), &http.host, http.expect.to_string().as_str()), ("/ready", &None, "204"));
    let expected = HealthCheck {
        probe: HealthProbe::Http(http.clone()),
        port: Some(9090),
        interval: Duration::from_secs(2),
        timeout: Duration::from_millis(250),
        unhealthy_after: 1,
        healthy_after: 100,
        slow_start: Duration::from_mins(1),
        passive_ejection: true,
    };
    assert_eq!(service.health.as_deref(), Some(&expected));
}

#[test]
fn a_health_check_has_defaults() {
    let health = |annotations: &[&str]| service(&annotated(annotations)).health.clone();
    assert_eq!(health(&["health-check: tcp"]).as_deref(), Some(&HealthCheck::new(HealthProbe::Tcp)));
    assert_eq!(service(BALANCER).health, None);
    let fast = health(&["health-check: udp-echo", "health-interval: 100ms"]).unwrap();
    assert_eq!(fast.timeout, Duration::from_millis(100), "an interval bounds the timeout nobody gave");
    let HealthProbe::DnsTcp(question) = &health(&["health-check: dns-tcp", "health-dns-name: a.b."]).unwrap().probe
    else {
        panic!()
    };
    assert_eq!(question.to_string(), "a.b?type=A");
}

#[test]
fn limits_are_read() {
    let limits = |annotations: &[&str]| {
        let limits = service(&annotated(annotations)).limits;
        let rate = limits.connection_rate.map(|rate| (rate.per_second.get(), rate.burst.get()));
        (limits.max_connections.map(u32::from), rate)
    };
    assert_eq!(limits(&["max-connections: '10'"]), (Some(10), None));
    assert_eq!(limits(&["connection-rate: 500/s"]), (None, Some((500, 500))));
    assert_eq!(limits(&["connection-rate: '500'", "connection-burst: '2'"]), (None, Some((500, 2))));
    assert!(service(BALANCER).limits.is_none());
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
    assert_eq!(with("evenkeel.io/source-address: preserve"), [""; 0]);
    assert_eq!(with("evenkeel.io/balancing: per-packet"), [""; 0]);
    assert_eq!(
        with("evenkeel.io/balancing: round-robin"),
        ["invalid_value 6 metadata.annotations[evenkeel.io/balancing]"]
    );
    assert_eq!(
        with("evenkeel.io/source-address: 'true'"),
        ["invalid_value 6 metadata.annotations[evenkeel.io/source-address]"]
    );
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
fn annotations_may_be_blocks() {
    let with = |block: &str| {
        BALANCER.replace("{name: web}", &format!("\n  name: web\n  annotations:\n    metallb.io/{block}"))
    };
    let both = service(&with(
        "loadBalancerIPs: |\n      10.0.0.1,\n      2001:db8::1\n    evenkeel.io/forwarding: |\n      stack",
    ));
    assert_eq!(both.requested.annotated_addresses.len(), 2);
    assert_eq!(both.forwarding, Some(Forwarding::Stack));
    let quoted = service(&with("loadBalancerIPs: \"10.0.0.1,\\r\\n\\t2001:db8::1\\r\\n\""));
    assert_eq!(quoted.requested, both.requested);
    let pool = service(&with("address-pool: |\n      lan"));
    assert_eq!(pool.requested.pool.as_deref(), Some("lan"));
    let key = service(&with("allow-shared-ip: |\n      key"));
    assert_eq!(key.sharing_key.as_deref(), Some("key"));
    let lines = read(&with("loadBalancerIPs: |\n      10.0.0.1\n      10.0.0.2"));
    assert_eq!(lines.diagnostics[0].message, r"`10.0.0.1\n10.0.0.2` is not an address");
}

#[test]
fn ipv4_in_the_notation_of_ipv6_is_refused_wherever_it_stands() {
    let said = |text: &str| {
        let parsed = read(text);
        assert!(parsed.documents[0].object.is_none(), "{text}");
        let [only] = &*parsed.diagnostics else { panic!("{text}: {:?}", parsed.diagnostics) };
        format!("{} {}: {}", only.reason, only.field, only.remedy)
    };
    let annotated =
        |annotation: &str| BALANCER.replace("{name: web}", &format!("{{name: web, annotations: {annotation}}}"));
    assert_eq!(
        said(&annotated("{metallb.io/loadBalancerIPs: \"10.0.0.1,::ffff:192.0.2.1\"}")),
        "invalid_address metadata.annotations[metallb.io/loadBalancerIPs]: give 192.0.2.1, where an IPv4 address may be"
    );
    assert_eq!(
        said(&annotated("{evenkeel.io/weights: \"::ffff:192.0.2.1=3\"}")),
        "invalid_weight_target metadata.annotations[evenkeel.io/weights]: write it as an IPv4 address"
    );
    let remedy = "give 192.0.2.1, where an IPv4 address may be";
    let text = BALANCER.to_owned() + "  loadBalancerIP: \"::ffff:192.0.2.1\"\n";
    assert_eq!(said(&text), format!("invalid_address spec.loadBalancerIP: {remedy}"));
    let slice = SLICE.replace("IPv4", "IPv6") + "endpoints: [{addresses: [\"::ffff:c000:201\"]}]\n";
    assert_eq!(said(&slice), format!("invalid_address endpoints[0].addresses[0]: {remedy}"));
    let endpoints = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\nsubsets: [{addresses: [{ip: \"::ffff:192.0.2.1\"}]}]\n";
    assert_eq!(said(endpoints), format!("invalid_address subsets[0].addresses[0].ip: {remedy}"));
    let pool = |range: &str| {
        format!(
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: p}}\nspec: {{addresses: [\"{range}\"]}}\n"
        )
    };
    let with_ipv4 = "invalid_range spec.addresses[0]: write it with IPv4 addresses, such as 192.0.2.0/24";
    assert_eq!(said(&pool("::ffff:192.0.2.0/120")), with_ipv4);
    assert_eq!(said(&pool("::ffff:192.0.2.1-::ffff:192.0.2.9")), with_ipv4);
    assert_eq!(
        said(&pool("::ffff:192.0.2.1")),
        "invalid_range spec.addresses[0]: for this address alone write 192.0.2.1/32"
    );
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
    let places = Arc::clone(&read(text).documents[0].places);
    assert_eq!(places.of("spec.addresses[0]").unwrap().line, 7, "by the path within the object");
    assert_eq!(places.object().unwrap().line, 6);
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

const PEER: &str = "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: tor}\nspec:\n  myASN: 64512\n  peerASN: 64513\n  peerAddress: 10.0.0.1\n";
const BGP: &str = "apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {name: lan}\nspec:\n";

fn peer(text: &str) -> BgpPeer {
    match object(text) {
        Object::BgpPeer(peer) => (*peer).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bgp_peer_is_read_in_full() {
    let peer = peer(
        r#"
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: tor, namespace: metallb-system}
spec:
  myASN: 64512
  dynamicASN: external
  localASN: 4200000000
  interface: eth1
  sourceAddress: fd00::2
  peerPort: 1179
  holdTime: 1m30s
  keepaliveTime: 10s
  connectTime: 5s
  routerID: 10.0.0.2
  nodeSelectors: [{matchLabels: {rack: a}}]
  passwordSecret: {name: tor-password}
  bfdProfile: fast
  enableGracefulRestart: true
  ebgpMultiHop: true
  vrf: red
  dualStackAddressFamily: true
"#,
    );
    assert_eq!((peer.my_asn, peer.peer_asn, peer.local_asn), (64_512, PeerAsn::External, Some(4_200_000_000)));
    assert_eq!(peer.neighbor, Neighbor::Interface("eth1".to_owned()));
    assert_eq!(peer.source_address, "fd00::2".parse().ok());
    assert_eq!(peer.port, 1179);
    assert_eq!(peer.timers, Some(Timers { hold: Duration::from_secs(90), keepalive: Duration::from_secs(10) }));
    assert_eq!(peer.connect_time, Some(Duration::from_secs(5)));
    assert_eq!(peer.router_id, "10.0.0.2".parse().ok());
    assert_eq!(peer.node_selectors[0].match_labels["rack"], "a");
    assert_eq!(peer.password, Some(Password::Secret(ObjectName::new("metallb-system", "tor-password"))));
    assert_eq!((peer.bfd_profile.as_deref(), peer.vrf.as_deref()), (Some("fast"), Some("red")));
    assert!(peer.graceful_restart && peer.ebgp_multi_hop && peer.dual_stack_address_family && !peer.disable_mp);
}

#[test]
fn a_bgp_peer_has_defaults() {
    let peer = peer(PEER);
    assert_eq!((peer.port, peer.timers, peer.peer_asn), (179, None, PeerAsn::Number(64_513)));
    assert_eq!(peer.neighbor, Neighbor::Address("10.0.0.1".parse().unwrap()));
    assert_eq!(peer.password, None);
}

#[test]
fn an_older_bgp_peer_is_converted() {
    let older = PEER.replace("v1beta2", "v1beta1") + "  peerPort: 0\n  keepaliveTime: 20s\n";
    let parsed = read(&older);
    assert_eq!(parsed.diagnostics.iter().map(|d| d.reason).collect::<Vec<_>>(), ["deprecated_version"]);
    let Some(Object::BgpPeer(peer)) = &parsed.documents[0].object else { panic!() };
    assert_eq!(peer.port, 179);
    assert_eq!(peer.timers, Some(Timers { hold: Duration::from_secs(60), keepalive: Duration::from_secs(20) }));
    assert_eq!(
        findings(&(older.replace("0\n", "179\n") + "  vrf: red\n")),
        ["deprecated_version 1 apiVersion", "unknown_field 10 spec.vrf"]
    );
}

#[test]
fn what_is_wrong_with_a_bgp_peer_is_named() {
    let with = |line: &str| findings(&(PEER.to_owned() + line));
    assert_eq!(findings(&PEER.replace("  myASN: 64512\n", "")), ["missing_field 4 spec.myASN"]);
    assert_eq!(findings(&PEER.replace("64512", "0")), ["invalid_value 5 spec.myASN"]);
    assert_eq!(findings(&PEER.replace("64513", "4294967296")), ["invalid_value 6 spec.peerASN"]);
    assert_eq!(findings(&PEER.replace("64513", "0")), ["missing_field 4 spec.peerASN"]);
    assert_eq!(findings(&PEER.replace("  peerASN: 64513\n", "")), ["missing_field 4 spec.peerASN"]);
    assert_eq!(with("  dynamicASN: internal\n"), ["conflicting_fields 8 spec.dynamicASN"]);
    assert_eq!(
        with("  dynamicASN: same\n"),
        ["conflicting_fields 8 spec.dynamicASN", "invalid_value 8 spec.dynamicASN"]
    );
    assert_eq!(findings(&PEER.replace("10.0.0.1", "ToR")), ["invalid_address 7 spec.peerAddress"]);
    assert_eq!(findings(&PEER.replace("10.0.0.1", "0.0.0.0")), ["invalid_address 7 spec.peerAddress"]);
    assert_eq!(findings(&PEER.replace("10.0.0.1", "\"\"")), ["missing_field 4 spec.peerAddress"]);
    assert_eq!(with("  interface: eth0\n"), ["conflicting_fields 8 spec.interface"]);
    assert_eq!(with("  sourceAddress: fd00::1\n"), ["family_mismatch 8 spec.sourceAddress"]);
    assert_eq!(with("  peerPort: 16385\n"), ["invalid_value 8 spec.peerPort"]);
    assert_eq!(with("  peerPort: 0\n"), ["invalid_value 8 spec.peerPort"]);
    assert_eq!(with("  holdTime: 90\n"), ["invalid_duration 8 spec.holdTime"]);
    assert_eq!(with("  holdTime: 2.9s\n"), ["invalid_timer 8 spec.holdTime"]);
    assert_eq!(with("  holdTime: 20h\n"), ["invalid_timer 8 spec.holdTime"]);
    assert_eq!(with("  holdTime: -3s\n"), ["invalid_duration 8 spec.holdTime"]);
    assert_eq!(with("  keepaliveTime: 500ms\n"), ["invalid_timer 8 spec.keepaliveTime"]);
    assert_eq!(with("  holdTime: 9s\n  keepaliveTime: 10s\n"), ["invalid_timer 9 spec.keepaliveTime"]);
    assert_eq!(with("  holdTime: 0s\n"), [""; 0]);
    assert_eq!(with("  connectTime: 1500ms\n"), ["invalid_timer 8 spec.connectTime"]);
    assert_eq!(with("  routerID: fd00::1\n"), ["invalid_address 8 spec.routerID"]);
    assert_eq!(with("  password: a\n  passwordSecret: {name: b}\n"), ["conflicting_fields 9 spec.passwordSecret"]);
    assert_eq!(with("  passwordSecret: {}\n"), [""; 0]);
    assert_eq!(with("  passwordSecret: {namespace: b}\n"), ["missing_field 8 spec.passwordSecret.name"]);
    assert_eq!(with("  disableMP: true\n"), ["deprecated_field 8 spec.disableMP"]);
    assert_eq!(with("  ebgpMultiHop: true\n"), [""; 0]);
    assert_eq!(
        findings(&(PEER.replace("64513", "64512") + "  ebgpMultiHop: true\n")),
        ["ebgp_multi_hop_on_ibgp 8 spec.ebgpMultiHop"]
    );
    assert_eq!(with("  passwd: a\n"), ["unknown_field 8 spec.passwd"]);
}

#[test]
fn no_finding_shows_a_password() {
    for text in [
        PEER.to_owned() + "  password: 12345678\n",
        PEER.to_owned() + "  password: hunter2secret\n  passwordSecret: {name: b}\n",
        PEER.to_owned() + "  \"password\": hunter2secret: x\n",
        PEER.to_owned() + "  password: |\n    hunter2secret\n  vrf: 5\n",
        "apiVersion: v1\nkind: SecretList\nitems:\n- metadata: {name: a}\n  type: 5\n  data: {a: hunter2secret}\n".to_owned(),
        "{\"apiVersion\": \"metallb.io/v1beta2\", \"kind\": \"BGPPeer\", \"metadata\": {\"name\": \"a\"}, \"spec\": {\"password\": \"hunter2secret\"}}".to_owned(),
        "apiVersion: v1\nkind: Secret\nmetadata: {name: a, labels: {a: -}}\nstringData: {password: hunter2secret, x: hunter2secret}\n".to_owned(),
        "{apiVersion: v1, kind: Secret, stringData: {x: hunter2secret}}\n".to_owned(),
        "apiVersion: v1\nkind: Secret\nstringData:\n  x: hunter2secret\n  x: hunter2secret\n".to_owned(),
        "apiVersion: v1\nkind: Secret\nstringData:\n  x: \"hunter2secret\n".to_owned(),
    ] {
        let parsed = read(&text);
        assert!(!parsed.diagnostics.is_empty(), "{text}");
        let shown = format!("{parsed:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("12345678"), "{shown}");
    }
}

#[test]
fn a_bgp_advertisement_is_read_and_checked() {
    let Object::BgpAdvertisement(ad) = object(
        &(BGP.to_owned()
            + "  aggregationLength: 24\n  aggregationLengthV6: 64\n  localPref: 100\n  communities: [no-export, 65535:65282, large:64512:1:2]\n  ipAddressPools: [lan]\n  peers: [tor]\n  nodeSelectors: [{matchLabels: {a: b}}]\n"),
    ) else {
        panic!()
    };
    assert_eq!((ad.aggregation, ad.local_pref), (Aggregation { v4: 24, v6: 64 }, 100));
    let standard = CommunityRef::Value(Community::Standard(65_535, 65_282));
    let large = CommunityRef::Value(Community::Large(64_512, 1, 2));
    assert_eq!(ad.communities, [CommunityRef::Alias("no-export".to_owned()), standard, large]);
    assert_eq!((&ad.pools, &ad.peers), (&vec!["lan".to_owned()], &vec!["tor".to_owned()]));
    let Object::BgpAdvertisement(everything) = object(&BGP.replace("spec:\n", "")) else { panic!() };
    assert_eq!(*everything, BgpAdvertisement::new(ObjectName::new("", "lan")));

    let with = |line: &str| findings(&(BGP.to_owned() + line));
    assert_eq!(with("  aggregationLength: 33\n"), ["invalid_value 5 spec.aggregationLength"]);
    assert_eq!(with("  aggregationLengthV6: 0\n"), ["invalid_value 5 spec.aggregationLengthV6"]);
    assert_eq!(with("  localPref: -1\n"), ["invalid_value 5 spec.localPref"]);
    assert_eq!(with("  communities: [65536:1]\n"), ["invalid_community 5 spec.communities[0]"]);
    assert_eq!(with("  communities: [a:b]\n"), ["invalid_community 5 spec.communities[0]"]);
    assert_eq!(with("  communities: [a, b, a]\n"), ["duplicate_value 5 spec.communities[2]"]);
    assert_eq!(with("  peers: [a, a]\n"), ["duplicate_value 5 spec.peers[1]"]);
    assert_eq!(with("  peers: ['']\n"), ["invalid_value 5 spec.peers[0]"]);
    assert_eq!(
        with("  serviceSelectors: [{matchLabels: {a: b}}]\n  aggregationLength: 24\n"),
        ["conflicting_fields 6 spec.aggregationLength"]
    );
    assert_eq!(with("  serviceSelectors: [{matchLabels: {a: b}}]\n  aggregationLength: 32\n"), [""; 0]);
}

#[test]
fn a_bfd_profile_is_read_and_checked() {
    let profile = "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {name: fast}\nspec:\n";
    let Object::BfdProfile(read) = object(
        &(profile.to_owned()
            + "  receiveInterval: 10\n  transmitInterval: 60000\n  detectMultiplier: 255\n  echoInterval: 50\n  echoMode: true\n  passiveMode: true\n  minimumTtl: 254\n"),
    ) else {
        panic!()
    };
    assert_eq!(read.receive_interval, Some(Duration::from_millis(10)));
    assert_eq!(read.transmit_interval, Some(Duration::from_secs(60)));
    assert_eq!((read.detect_multiplier, read.minimum_ttl), (Some(255), Some(254)));
    assert!(read.echo_mode && read.passive_mode);
    for (field, bad) in [
        ("receiveInterval", 9),
        ("transmitInterval", 60_001),
        ("detectMultiplier", 1),
        ("echoInterval", 0),
        ("minimumTtl", 255),
    ] {
        assert_eq!(findings(&format!("{profile}  {field}: {bad}\n")), [format!("invalid_value 5 spec.{field}")]);
    }
}

#[test]
fn communities_are_read_and_checked() {
    let with = |items: &str| {
        format!(
            "apiVersion: metallb.io/v1beta1\nkind: Community\nmetadata: {{name: c}}\nspec:\n  communities: [{items}]\n"
        )
    };
    let Object::Community(read) = object(&with("{name: no-export, value: 65535:65281}")) else { panic!() };
    assert_eq!(read.aliases, [("no-export".to_owned(), Community::Standard(65_535, 65_281))]);
    assert_eq!(findings(&with("{name: a, value: b}")), ["invalid_community 5 spec.communities[0].value"]);
    assert_eq!(findings(&with("{name: a}")), ["missing_field 5 spec.communities[0].value"]);
    let twice = "{name: a, value: 1:2}, {name: a, value: 1:3}";
    assert_eq!(findings(&with(twice)), ["duplicate_value 5 spec.communities[1]"]);
}

#[test]
fn of_a_secret_only_name_and_type_are_kept() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: metallb-system}\ntype: kubernetes.io/basic-auth\nstringData: {password: x}\n";
    let Object::Secret(read) = object(secret) else { panic!() };
    assert_eq!(
        (read.name.to_string().as_str(), read.secret_type.as_str()),
        ("metallb-system/s", "kubernetes.io/basic-auth")
    );
    let Object::Secret(opaque) = object("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n") else { panic!() };
    assert_eq!(opaque.secret_type, "Opaque");
}

#[test]
fn legacy_endpoints_are_read_as_slices() {
    let text = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\nsubsets:\n- addresses: [{ip: 10.1.0.1, nodeName: n1, targetRef: {uid: u1}}, {ip: 'fd00::1'}]\n  notReadyAddresses: [{ip: 10.1.0.2}]\n  ports: [{name: http, port: 8080}]\n- addresses: [{ip: 10.1.0.3}]\n  ports: [{name: http, port: 8081}]\n";
    let Object::Endpoints(read) = object(text) else { panic!() };
    let shown: Vec<String> = read
        .slices
        .iter()
        .map(|slice| {
            let endpoints = slice.endpoints.iter().map(|e| format!("{} {}", e.addresses[0], e.ready));
            format!("{} {} {}", slice.address_type, slice.ports[0].port, endpoints.collect::<Vec<_>>().join(", "))
        })
        .collect();
    assert_eq!(shown, ["IPv4 8080 10.1.0.1 true, 10.1.0.2 false", "IPv6 8080 fd00::1 true", "IPv4 8081 10.1.0.3 true"]);
    assert_eq!(read.slices[0].service.as_deref(), Some("web"));
    assert_eq!(read.slices[0].endpoints[0].node.as_deref(), Some("n1"));
    assert_eq!(findings(&text.replace("10.1.0.3", "x")), ["invalid_address 8 subsets[1].addresses[0].ip"]);
    assert_eq!(findings(&text.replace("8081", "0")), ["invalid_value 9 subsets[1].ports[0].port"]);
}

#[test]
fn lists_of_one_kind_are_read_as_the_api_server_writes_them() {
    let list = "{\"kind\": \"ServiceList\", \"apiVersion\": \"v1\", \"metadata\": {}, \"items\": [{\"metadata\": {\"name\": \"a\"}, \"spec\": {}}, {\"metadata\": {\"name\": \"b\"}, \"spec\": {}}]}";
    let parsed = read(list);
    assert_eq!(parsed.diagnostics, []);
    let keys: Vec<_> = parsed.documents.iter().map(|document| document.key.to_string()).collect();
    assert_eq!(keys, ["Service default/a", "Service default/b"]);
    let pools = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPoolList\nitems:\n- metadata: {name: a}\n  spec: {addresses: [10.0.0.0/24]}\n";
    assert_eq!(read(pools).documents.len(), 1);
    let others = "apiVersion: v1\nkind: ConfigMapList\nitems: [{metadata: {name: a}}]\n";
    assert_eq!(read(others).skipped.keys().collect::<Vec<_>>(), ["skipped_kind v1 ConfigMap"]);
    assert!(read("apiVersion: v1\nkind: ServiceList\n").incomplete);
    let nested = "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Node, metadata: {name: n}}]}]\n";
    assert_eq!(read(nested).documents.len(), 1);
}

#[test]
fn metallbs_other_kinds_are_known() {
    for kind in ["ServiceL2Status", "ServiceBGPStatus", "ConfigurationState"] {
        let parsed =
            read(&format!("apiVersion: metallb.io/v1beta1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{x: y}}\n"));
        assert!(parsed.skipped.is_empty() && parsed.diagnostics.is_empty(), "{parsed:?}");
    }
    let skipped = |text: &str| read(text).skipped.into_keys().collect::<Vec<_>>();
    assert_eq!(
        skipped("apiVersion: metallb.io/v1alpha1\nkind: AddressPool\n"),
        ["former_kind metallb.io/v1alpha1 AddressPool"]
    );
    let map =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config, namespace: metallb-system}\ndata: {config: x}\n";
    assert_eq!(skipped(map), ["former_kind v1 ConfigMap"]);
    assert_eq!(skipped(&map.replace("metallb-system", "other")), ["skipped_kind v1 ConfigMap"]);
    assert_eq!(
        skipped(&map.replace("metallb-system", "other").replace("{config: x}", "{config: 'address-pools: []'}")),
        ["former_kind v1 ConfigMap"]
    );
    assert_eq!(skipped("apiVersion: metallb.io/v1beta1\nkind: Pool\n"), ["unsupported_kind metallb.io/v1beta1 Pool"]);
}

#[test]
fn lists_hold_nothing_twice_and_labels_are_labels() {
    let pool = |lines: &str| findings(&(POOL.to_owned() + lines));
    assert_eq!(
        pool("  serviceAllocation: {namespaces: [a, b, a]}\n"),
        ["duplicate_value 6 spec.serviceAllocation.namespaces[2]"]
    );
    let ranges = |ranges: &str| findings(&POOL.replace("10.0.0.0/24", ranges));
    assert_eq!(ranges("10.0.0.0/24, 10.0.1.0/24, 10.0.0.9-10.0.0.10"), ["overlapping_ranges 5 spec.addresses[2]"]);
    assert_eq!(ranges("10.0.0.0/24, 10.0.0.0/24"), ["overlapping_ranges 5 spec.addresses[1]"]);
    assert_eq!(ranges("10.0.0.0/24, 'fd00::/64', 10.0.1.0/24"), [""; 0]);
    let ad = |lines: &str| findings(&(ADVERTISEMENT.to_owned() + lines));
    assert_eq!(ad("  ipAddressPools: [a, a]\n"), ["duplicate_value 5 spec.ipAddressPools[1]"]);
    let twice = "  nodeSelectors: [{matchExpressions: [{key: k, operator: In, values: [a, b]}]}, {matchExpressions: [{key: k, operator: In, values: [b, a]}]}]\n";
    assert_eq!(ad(twice), ["duplicate_value 5 spec.nodeSelectors[1]"]);
    let value = "  nodeSelectors: [{matchExpressions: [{key: k, operator: In, values: [a, a]}]}]\n";
    assert_eq!(ad(value), ["duplicate_value 5 spec.nodeSelectors[0].matchExpressions[0].values[1]"]);
    let expression =
        "  nodeSelectors: [{matchExpressions: [{key: k, operator: Exists}, {key: k, operator: Exists}]}]\n";
    assert_eq!(ad(expression), ["duplicate_value 5 spec.nodeSelectors[0].matchExpressions[1]"]);
    assert_eq!(
        ad("  nodeSelectors: [{matchLabels: {'a b': c}}]\n"),
        ["invalid_label 5 spec.nodeSelectors[0].matchLabels.a b"]
    );
    assert_eq!(
        ad("  nodeSelectors: [{matchLabels: {a: b c}}]\n"),
        ["invalid_label 5 spec.nodeSelectors[0].matchLabels.a"]
    );
    assert_eq!(
        findings(&ADVERTISEMENT.replace("{name: lan}", "{name: lan, lables: {a: b}}")),
        ["unknown_field 3 metadata.lables"]
    );
    let Object::L2Advertisement(ad) = object(&(ADVERTISEMENT.to_owned() + "  nodeSelectors: [{matchLabels: {a: }}]\n"))
    else {
        panic!()
    };
    assert_eq!(ad.node_selectors[0].match_labels["a"], "", "no value is the empty value, not every value");
}

#[test]
fn names_that_end_up_in_output_are_names() {
    assert_eq!(
        findings(&(ADVERTISEMENT.to_owned() + "  interfaces: [eth0, \"\\e[31m\", a/b]\n")),
        ["invalid_name 5 spec.interfaces[1]", "invalid_name 5 spec.interfaces[2]"]
    );
    assert_eq!(findings(&(PEER.to_owned() + "  vrf: \"a b\"\n")), ["invalid_name 8 spec.vrf"]);
    let slice = SLICE.to_owned() + "endpoints: [{addresses: [10.1.0.1], nodeName: \"\\e[31m\"}]\n";
    assert_eq!(findings(&slice), ["invalid_name 7 endpoints[0].nodeName"]);
    let text = BALANCER.replace("{name: web}", "{name: web, annotations: {metallb.io/address-pool: \"\\e[31m\"}}");
    assert_eq!(findings(&text), ["control_character 3 metadata.annotations[metallb.io/address-pool]"]);
}

#[test]
fn annotations_are_strings() {
    for value in ["5", "true", "10.5", "[a]"] {
        let text = BALANCER.replace("{name: web}", &format!("{{name: web, annotations: {{example.com/a: {value}}}}}"));
        assert_eq!(findings(&text), ["wrong_type 3 metadata.annotations[example.com/a]"]);
        for prefix in ["metallb.io", "metallb.universe.tf"] {
            let text = text.replace("example.com/a", &format!("{prefix}/allow-shared-ip"));
            assert_eq!(findings(&text), [format!("wrong_type 3 metadata.annotations[{prefix}/allow-shared-ip]")]);
        }
    }
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
        "apiVersion: metallb.io/v1beta2\n",
        "kind: BGPPeer\n",
        "kind: BGPAdvertisement\n",
        "kind: BFDProfile\n",
        "kind: Community\n",
        "kind: Endpoints\n",
        "kind: Secret\n",
        "kind: ServiceList\n",
        "  myASN: 1\n",
        "  peerASN: 2\n",
        "  holdTime: ",
        "90s\n",
        "  communities: [",
        "1:2, ",
        "password: x\n",
        "subsets:\n",
        "  nodeSelectors:\n",
        "  - matchExpressions: [{key: a, operator: In, values: [b]}]\n",
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
    fn the_values_of_a_peer_are_read_as_they_are_written(
        my_asn in 1..=u32::MAX, peer_asn in 1..=u32::MAX, port in 1..=16_384_u16, address in any::<IpAddr>(),
        hold in 3..=65_535_u64, connect in 1..=65_535_u64, flags in any::<[bool; 2]>(),
    ) {
        prop_assume!(!address.is_unspecified() && !address.is_multicast() && mapped(address).is_none());
        let text = format!(
            "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: tor}}\nspec:\n  myASN: {my_asn}\n  peerASN: {peer_asn}\n  peerAddress: \"{address}\"\n  peerPort: {port}\n  holdTime: {}m{}s\n  connectTime: {connect}s\n  enableGracefulRestart: {}\n  dualStackAddressFamily: {}\n",
            hold / 60, hold % 60, flags[0], flags[1],
        );
        let peer = peer(&text);
        prop_assert_eq!((peer.my_asn, peer.peer_asn, peer.port), (my_asn, PeerAsn::Number(peer_asn), port));
        prop_assert_eq!(peer.neighbor, Neighbor::Address(address));
        let hold = Duration::from_secs(hold);
        prop_assert_eq!(peer.timers, Some(Timers { hold, keepalive: hold / 3 }));
        prop_assert_eq!(peer.connect_time, Some(Duration::from_secs(connect)));
        prop_assert_eq!([peer.graceful_restart, peer.dual_stack_address_family], flags);
    }

    #[test]
    fn communities_and_intervals_are_read_as_they_are_written(
        standard in any::<(u16, u16)>(), large in any::<(u32, u32, u32)>(), interval in 10..=60_000_u64, length in 1..=128_u8,
    ) {
        let values = [Community::Standard(standard.0, standard.1), Community::Large(large.0, large.1, large.2)];
        let text = format!(
            "{BGP}  aggregationLengthV6: {length}\n  communities: [\"{}\", \"{}\"]\n", values[0], values[1]
        );
        let Object::BgpAdvertisement(ad) = object(&text) else { panic!() };
        prop_assert_eq!(&ad.communities, &values.map(CommunityRef::Value));
        prop_assert_eq!(ad.aggregation, Aggregation { v4: 32, v6: length });
        let text = format!(
            "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {{name: a}}\nspec: {{echoInterval: {interval}}}\n"
        );
        let Object::BfdProfile(profile) = object(&text) else { panic!() };
        prop_assert_eq!(profile.echo_interval, Some(Duration::from_millis(interval)));
    }

    #[test]
    fn any_pieces_are_read_without_a_panic(text in pieces()) {
        let _ = parse(Path::new("x"), text.as_bytes());
    }

    #[test]
    fn a_manifest_cut_or_changed_anywhere_is_read_without_a_panic(
        at in any::<proptest::sample::Index>(), cut in any::<bool>(), byte in any::<u8>(),
    ) {
        let endpoints = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\nsubsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 1}]}]\n";
        let profile = "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {name: a}\nspec: {echoMode: true, minimumTtl: 9}\n";
        let aliases = "apiVersion: metallb.io/v1beta1\nkind: Community\nmetadata: {name: a}\nspec: {communities: [{name: a, value: '1:2'}]}\n";
        let all = [BALANCER, POOL, ADVERTISEMENT, SLICE, PEER, "  holdTime: 1m30s\n", BGP, "  communities: ['1:2', a]\n", endpoints, profile, aliases];
        let mut bytes = all.join("---\n").replace("---\n  ", "  ").into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let parsed = parse(Path::new("x"), &bytes);
        prop_assert!(parsed.documents.len() <= 9);
    }
}

#[test]
fn of_a_service_in_an_api_what_cannot_be_read_is_left_out() {
    let with = |annotations: serde_json::Value, spec: serde_json::Value| {
        let mut object = serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop", "annotations": annotations},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "loadBalancerSourceRanges": ["192.0.2.0/24"]},
        });
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let parsed = of_api(Kind::Service, &object);
        let Some(Object::Service(service)) = parsed.documents[0].object.clone() else { return None };
        assert!(parsed.diagnostics.iter().any(Diagnostic::is_error), "it is reported all the same");
        assert_eq!((service.ports.len(), service.source_ranges.len()), (1, 1));
        service.requested.unread.clone()
    };
    let none = serde_json::json!({});
    let unread = with(serde_json::json!({"metallb.io/loadBalancerIPs": "dhcp"}), none.clone()).unwrap();
    assert_eq!(unread.reason, "invalid_address");
    assert_eq!(
        unread.message,
        "metadata.annotations[metallb.io/loadBalancerIPs]: `dhcp` is not an address; give addresses, separated by commas"
    );
    let unread = with(none.clone(), serde_json::json!({"loadBalancerIP": "my-ip"})).unwrap();
    assert!(unread.message.starts_with("spec.loadBalancerIP: `my-ip`: "), "{unread:?}");
    let unread = with(serde_json::json!({"evenkeel.io/health-check": "\u{1b}[31m"}), none.clone()).unwrap();
    assert_eq!(unread.reason, "control_character");
    assert!(
        !with(serde_json::json!({"evenkeel.io/forwarding": "\u{1b}"}), none.clone())
            .unwrap()
            .message
            .contains('\u{1b}')
    );
    // What a service is cannot be left out.
    assert_eq!(
        with(serde_json::json!({"evenkeel.io/weights": "much"}), serde_json::json!({"ports": [{"port": 0}]})),
        None
    );
    let on_node = serde_json::json!({"evenkeel.io/addresses": "node", "metallb.io/loadBalancerIPs": "eth0"});
    assert_eq!(with(on_node, none).unwrap().reason, "invalid_address");
}

#[test]
fn of_a_service_in_an_api_a_range_that_cannot_be_read_lets_nobody_in() {
    let ranges = |ranges: &[&str]| {
        let object = serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "loadBalancerSourceRanges": ranges},
        });
        let parsed = of_api(Kind::Service, &object);
        let Some(Object::Service(service)) = &parsed.documents[0].object else { panic!("{:?}", parsed.diagnostics) };
        service.source_ranges.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(ranges(&["10.0.0.0/33", "192.0.2.0/24"]), ["192.0.2.0/24"]);
    assert_eq!(ranges(&["10.0.0.0/33"]), ["0.0.0.0/32"]);
    assert_eq!(ranges(&["::ffff:10.0.0.0/104"]), ["0.0.0.0/32"]);
    assert_eq!(ranges(&["::/0", "10.0.0.0/8"]), ["::/0", "10.0.0.0/8"]);
}

/// What an API would give for a document.
fn to_json(node: &super::yaml::Node) -> serde_json::Value {
    use serde_json::Value as Json;
    match &node.value {
        super::yaml::Value::Scalar(scalar) => match (scalar.is_null(), scalar.as_bool(), scalar.as_integer()) {
            (true, ..) => Json::Null,
            (_, Some(bool), _) => bool.into(),
            (_, _, Some(number)) => number.into(),
            (false, None, None) => (*scalar.text).into(),
        },
        super::yaml::Value::Sequence(items) => items.iter().map(to_json).collect(),
        super::yaml::Value::Mapping(entries) => {
            Json::Object(entries.iter().map(|entry| (entry.key.to_string(), to_json(&entry.value))).collect())
        }
    }
}

#[test]
fn an_api_and_a_directory_say_the_same() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
    let mut files = Vec::new();
    let mut directories = vec![std::path::PathBuf::from(root)];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                files.push(path);
            }
        }
    }
    let mut compared = 0;
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        for chunk in super::yaml::chunks(&text) {
            let Ok(Some(root)) = chunk.parse() else { continue };
            let [document] = &*parse(&file, chunk.text.as_bytes()).documents else { continue };
            // An API says in which namespace something is, and knows one version of each kind.
            let json = to_json(&root);
            let version = json["apiVersion"].as_str().unwrap_or_default();
            if super::version(document.key.kind) != version || json["kind"] != document.key.kind.as_str() {
                continue;
            }
            let from_api = of_api(document.key.kind, &json);
            let [other] = &*from_api.documents else { panic!("{}: {json}", file.display()) };
            assert_eq!(other.key, document.key, "{}", file.display());
            match &other.object {
                Some(Object::Service(service)) if service.requested.unread.is_some() => {
                    assert_eq!(document.object, None, "{}", file.display());
                }
                object => assert_eq!(*object, document.object, "{}", file.display()),
            }
            compared += 1;
        }
    }
    assert!(compared > 100, "only {compared} documents");
}
