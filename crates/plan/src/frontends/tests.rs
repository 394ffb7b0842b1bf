use std::num::NonZeroU32;

use super::*;
use crate::World;
use crate::memory::Memory;
use crate::plan;
use crate::world::testing::{address, endpoint, labels, pool, service, slice};
use crate::world::{Endpoint, Endpoints, HealthProbe, Hints, Node, TargetPort, Weight};

fn world(service: Service, slices: impl IntoIterator<Item = EndpointSlice>) -> World {
    let mut world = World::default();
    world.services.insert(service.name.clone(), service.into());
    for slice in slices {
        world.endpoint_slices.insert(slice.name.clone(), slice.into());
    }
    let pool = pool("pool", &["10.0.0.1/32", "fd00::1/128"]);
    world.pools.insert(pool.name.clone(), pool.into());
    world
}

fn only_frontend(world: &World) -> Frontend {
    let frontends = plan(world, &Memory::default()).frontends;
    assert_eq!(frontends.len(), 1, "{frontends:?}");
    Frontend::clone(frontends.values().next().unwrap())
}

fn frontend(service: Service, endpoints: Vec<Endpoint>) -> Frontend {
    only_frontend(&world(service, [slice("web", "web-1", 8080, endpoints)]))
}

/// The findings about `default/web` with one address, as `reason: message`.
fn findings(service: &Service, slices: &[EndpointSlice]) -> Vec<String> {
    let mut diagnostics = Vec::new();
    let slices: Vec<&EndpointSlice> = slices.iter().collect();
    let _ = of_service(service, &[address("10.0.0.1")], &slices, &mut diagnostics);
    diagnostics.iter().map(|diagnostic| format!("{}: {}", diagnostic.reason, diagnostic.message)).collect()
}

fn reasons(service: &Service, slices: &[EndpointSlice]) -> Vec<String> {
    findings(service, slices).iter().filter_map(|finding| finding.split(':').next().map(str::to_owned)).collect()
}

fn shown<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> Vec<String> {
    backends.into_iter().map(|b| format!("{} {}", b.socket_address(), b.state)).collect()
}

/// The last octets (or groups) of addresses.
fn last<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> Vec<String> {
    let last = |address: String| address.rsplit(['.', ':']).next().unwrap().to_owned();
    backends.into_iter().map(|backend| last(backend.address.to_string())).collect()
}

fn on(node: &str, at: &str) -> Endpoint {
    Endpoint { node: Some(node.to_owned()), ..endpoint(at) }
}

fn in_zone(zone: &str, at: &str) -> Endpoint {
    Endpoint { zone: Some(zone.to_owned()), ..endpoint(at) }
}

fn draining(endpoint: Endpoint) -> Endpoint {
    Endpoint { ready: false, serving: true, terminating: true, ..endpoint }
}

fn down(endpoint: Endpoint) -> Endpoint {
    Endpoint { ready: false, serving: false, ..endpoint }
}

fn hinted(endpoint: Endpoint, zones: &[&str], nodes: &[&str]) -> Endpoint {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Endpoint { hints: Hints { zones: names(zones), nodes: names(nodes) }, ..endpoint }
}

fn node<'a>(name: &'a str, zone: &'a str) -> NodeView<'a> {
    NodeView { name, zone: Some(zone).filter(|zone| !zone.is_empty()) }
}

/// What a node uses, with the reason.
fn chosen(frontend: &Frontend, name: &str, zone: &str) -> (Scope, Vec<String>) {
    let (scope, backends) = frontend.choice(node(name, zone));
    (scope, last(backends))
}

mod slices {
    use super::*;

    #[test]
    fn endpoints_of_all_slices_are_joined() {
        let slices = [
            slice("web", "web-1", 8080, vec![endpoint("10.1.0.2")]),
            slice("web", "web-2", 8081, vec![endpoint("10.1.0.1")]),
            slice("other", "other-1", 8080, vec![endpoint("10.1.0.9")]),
        ];
        let frontend = only_frontend(&world(service("web"), slices));
        assert_eq!(shown(frontend.eligible()), ["10.1.0.1:8081 active", "10.1.0.2:8080 active"]);
    }

    #[test]
    fn a_slice_in_another_namespace_is_another_services() {
        let mut elsewhere = slice("web", "web-1", 8080, vec![endpoint("10.1.0.2")]);
        elsewhere.name.namespace = "other".to_owned();
        assert_eq!(only_frontend(&world(service("web"), [elsewhere])).backends, []);
    }

    #[test]
    fn ports_are_joined_by_name_and_protocol() {
        let mut web = service("web");
        web.ports[0].name = "http".to_owned();
        let mut named = slice("web", "web-1", 8080, vec![endpoint("10.1.0.1")]);
        named.ports = vec![
            EndpointPort { name: "metrics".to_owned(), protocol: Protocol::Tcp, port: 9090 },
            EndpointPort { name: "http".to_owned(), protocol: Protocol::Udp, port: 7070 },
            EndpointPort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 8080 },
        ];
        assert_eq!(shown(only_frontend(&world(web, [named])).eligible()), ["10.1.0.1:8080 active"]);
    }

    #[test]
    fn an_endpoint_in_two_slices_is_one_backend_in_its_best_state() {
        for order in
            [[down(endpoint("10.1.0.1")), endpoint("10.1.0.1")], [endpoint("10.1.0.1"), down(endpoint("10.1.0.1"))]]
        {
            let [first, second] = order;
            let slices = [slice("web", "web-1", 8080, vec![first]), slice("web", "web-2", 8080, vec![second])];
            assert_eq!(shown(&only_frontend(&world(service("web"), slices)).backends), ["10.1.0.1:8080 active"]);
        }
    }

    #[test]
    fn only_the_first_address_of_an_endpoint_is_used() {
        let two = Endpoint { addresses: vec![address("10.1.0.2"), address("10.1.0.1")], ..endpoint("10.1.0.9") };
        let none = Endpoint { addresses: Vec::new(), ..endpoint("10.1.0.9") };
        assert_eq!(last(&frontend(service("web"), vec![two, none]).backends), ["2"]);
    }

    #[test]
    fn each_family_has_its_own_backends() {
        let mut web = service("web");
        web.ip_families = vec![IpFamily::V4, IpFamily::V6];
        web.ip_family_policy = crate::world::IpFamilyPolicy::RequireDualStack;
        let mut six = slice("web", "web-2", 8080, vec![endpoint("fd00:1::1")]);
        six.address_type = IpFamily::V6;
        let four = slice("web", "web-1", 8080, vec![endpoint("10.1.0.1")]);
        let frontends = of_service(&web, &[address("10.0.0.1"), address("fd00::1")], &[&four, &six], &mut Vec::new());
        let backends: Vec<_> = frontends.iter().map(|frontend| (frontend.address, shown(&frontend.backends))).collect();
        let backend = |text: &str| vec![format!("{text} active")];
        assert_eq!(
            backends,
            [(address("10.0.0.1"), backend("10.1.0.1:8080")), (address("fd00::1"), backend("[fd00:1::1]:8080"))]
        );
    }

    #[test]
    fn legacy_endpoints_count_only_without_any_slice() {
        let mut world = world(service("web"), []);
        let name = ObjectName::new("default", "web");
        let subset = slice("web", "web", 9090, vec![endpoint("10.1.0.7"), down(endpoint("10.1.0.8"))]);
        world.endpoints.insert(name.clone(), Endpoints { name, slices: vec![subset] }.into());
        assert_eq!(shown(&only_frontend(&world).backends), ["10.1.0.7:9090 active", "10.1.0.8:9090 down"]);
        let empty = slice("web", "web-1", 8080, vec![]);
        world.endpoint_slices.insert(empty.name.clone(), empty.into());
        assert_eq!(only_frontend(&world).backends, [], "an empty slice says that there are none");
    }
}

mod conditions {
    use super::*;

    #[test]
    fn conditions_make_the_state() {
        let of = |ready, serving, terminating| {
            BackendState::of(&Endpoint { ready, serving, terminating, ..endpoint("10.1.0.1") }, false)
        };
        assert_eq!(of(true, true, false), BackendState::Active);
        assert_eq!(of(false, true, true), BackendState::Drain);
        assert_eq!(of(true, true, true), BackendState::Drain, "terminating is never active");
        assert_eq!(of(false, false, true), BackendState::Down);
        assert_eq!(of(false, false, false), BackendState::Down);
        assert_eq!(of(false, true, false), BackendState::Down);
    }

    #[test]
    fn with_publish_not_ready_conditions_do_not_count() {
        let mut web = service("web");
        web.publish_not_ready = true;
        let endpoints = vec![down(endpoint("10.1.0.1")), draining(endpoint("10.1.0.2")), endpoint("10.1.0.3")];
        assert_eq!(last(frontend(web, endpoints).eligible()), ["1", "2", "3"]);
    }

    #[test]
    fn draining_backends_take_new_flows_only_when_none_is_active() {
        let (active, leaving, gone) =
            (endpoint("10.1.0.1"), draining(endpoint("10.1.0.2")), down(endpoint("10.1.0.3")));
        let mixed = frontend(service("web"), vec![active, leaving.clone(), gone.clone()]);
        assert_eq!(last(mixed.eligible()), ["1"]);
        assert_eq!(mixed.backends.len(), 3);
        assert_eq!(last(frontend(service("web"), vec![leaving, gone.clone()]).eligible()), ["2"]);
        assert_eq!(last(frontend(service("web"), vec![gone]).eligible()), [""; 0]);
    }
}

mod local {
    use super::*;

    fn local() -> Service {
        Service { traffic_policy: TrafficPolicy::Local, ..service("web") }
    }

    #[test]
    fn a_node_uses_its_own_backends_and_its_last_one_serves_on() {
        let endpoints = vec![on("a", "10.1.0.1"), draining(on("b", "10.1.0.3")), endpoint("10.1.0.4")];
        let frontend = frontend(local(), endpoints);
        assert_eq!(chosen(&frontend, "a", ""), (Scope::Local, vec!["1".to_owned()]));
        assert_eq!(shown(frontend.eligible_for_node(node("b", ""))), ["10.1.0.3:8080 drain"]);
        assert!(frontend.eligible_for_node(node("c", "")).is_empty());
        assert!(!frontend.is_same_everywhere());
    }

    #[test]
    fn hints_do_not_apply() {
        let endpoints = vec![hinted(on("a", "10.1.0.1"), &["z"], &[]), hinted(on("a", "10.1.0.2"), &["y"], &[])];
        assert_eq!(chosen(&frontend(local(), endpoints), "a", "z").1, ["1", "2"]);
    }

    #[test]
    fn a_backend_on_a_node_nobody_knows_is_kept_for_that_node() {
        let world = world(local(), [slice("web", "web-1", 8080, vec![on("unheard-of", "10.1.0.1")])]);
        assert_eq!(chosen(&only_frontend(&world), "unheard-of", "").1, ["1"]);
        assert_eq!(plan(&world, &Memory::default()).diagnostics().count(), 0);
    }

    #[test]
    fn an_endpoint_on_no_node_is_named() {
        let slices =
            [slice("web", "web-1", 8080, vec![endpoint("10.1.0.1"), endpoint("10.1.0.2"), on("a", "10.1.0.3")])];
        let message =
            "endpoint_without_node: endpoint 10.1.0.1 and 1 more is on no node, so under Local no node uses it";
        assert_eq!(findings(&selecting(local()), &slices), [message]);
        assert_eq!(findings(&selecting(service("web")), &slices), [""; 0]);
    }
}

/// As most services do.
fn selecting(service: Service) -> Service {
    Service { selector: labels(&[("app", "web")]), ..service }
}

mod topology {
    use super::*;

    fn preferring(traffic_distribution: TrafficDistribution) -> Service {
        Service { traffic_distribution, ..selecting(service("web")) }
    }

    fn two_zones() -> Vec<Endpoint> {
        vec![hinted(endpoint("10.1.0.1"), &["a"], &[]), hinted(endpoint("10.1.0.2"), &["b"], &[])]
    }

    #[test]
    fn a_node_uses_the_endpoints_hinted_for_its_zone() {
        let frontend = frontend(service("web"), two_zones());
        assert_eq!(chosen(&frontend, "n", "a"), (Scope::SameZone, vec!["1".to_owned()]));
        assert_eq!(chosen(&frontend, "n", "b").1, ["2"]);
        assert!(!frontend.is_same_everywhere());
    }

    #[test]
    fn an_endpoint_can_be_for_several_zones() {
        let endpoints = vec![hinted(endpoint("10.1.0.1"), &["a", "b"], &[]), hinted(endpoint("10.1.0.2"), &["b"], &[])];
        assert_eq!(chosen(&frontend(service("web"), endpoints), "n", "b").1, ["1", "2"]);
    }

    #[test]
    fn a_node_in_another_zone_or_none_uses_all() {
        let frontend = frontend(service("web"), two_zones());
        let all = (Scope::Cluster, vec!["1".to_owned(), "2".to_owned()]);
        assert_eq!(chosen(&frontend, "n", "c"), all);
        assert_eq!(chosen(&frontend, "n", ""), all);
    }

    #[test]
    fn one_ready_endpoint_without_a_hint_voids_the_others() {
        let with = |other: Endpoint| [two_zones(), vec![other]].concat();
        let everybody = frontend(service("web"), with(endpoint("10.1.0.3")));
        assert_eq!(chosen(&everybody, "n", "a"), (Scope::Cluster, ["1", "2", "3"].map(str::to_owned).to_vec()));
        for not_ready in [down(endpoint("10.1.0.3")), draining(endpoint("10.1.0.3"))] {
            assert_eq!(chosen(&frontend(service("web"), with(not_ready)), "n", "a").1, ["1"]);
        }
    }

    #[test]
    fn a_zone_whose_endpoints_are_not_ready_uses_the_others() {
        for state in [down, draining] {
            let [one, two] = <[Endpoint; 2]>::try_from(two_zones()).unwrap();
            let frontend = frontend(service("web"), vec![state(one), two]);
            assert_eq!(chosen(&frontend, "n", "a"), (Scope::Cluster, vec!["2".to_owned()]));
        }
    }

    #[test]
    fn draining_endpoints_as_the_last_resort_serve_every_zone() {
        let frontend = frontend(service("web"), two_zones().into_iter().map(draining).collect());
        assert_eq!(chosen(&frontend, "n", "a"), (Scope::Cluster, vec!["1".to_owned(), "2".to_owned()]));
    }

    #[test]
    fn node_hints_come_before_zone_hints() {
        let endpoints = vec![
            hinted(endpoint("10.1.0.1"), &["a"], &["n1"]),
            hinted(endpoint("10.1.0.2"), &["a"], &["n2"]),
            hinted(endpoint("10.1.0.3"), &["b"], &["n3"]),
        ];
        let frontend = frontend(service("web"), endpoints);
        assert_eq!(chosen(&frontend, "n1", "a"), (Scope::SameNode, vec!["1".to_owned()]));
        assert_eq!(chosen(&frontend, "n4", "a"), (Scope::SameZone, vec!["1".to_owned(), "2".to_owned()]));
        assert_eq!(chosen(&frontend, "n4", "c").0, Scope::Cluster);
        assert_eq!(chosen(&frontend, "n3", "a").1, ["3"], "even if the zone says otherwise");
    }

    #[test]
    fn without_any_hint_a_preference_goes_by_where_endpoints_are() {
        let endpoints = || {
            let at = |zone: &str, node: &str, at| Endpoint { zone: Some(zone.to_owned()), ..on(node, at) };
            vec![at("a", "n1", "10.1.0.1"), at("a", "n2", "10.1.0.2"), at("b", "n3", "10.1.0.3")]
        };
        let by_zone = frontend(preferring(TrafficDistribution::PreferSameZone), endpoints());
        assert_eq!(chosen(&by_zone, "n1", "a"), (Scope::SameZone, vec!["1".to_owned(), "2".to_owned()]));
        let by_node = frontend(preferring(TrafficDistribution::PreferSameNode), endpoints());
        assert_eq!(chosen(&by_node, "n1", "a"), (Scope::SameNode, vec!["1".to_owned()]));
        assert_eq!(chosen(&by_node, "n9", "b"), (Scope::SameZone, vec!["3".to_owned()]));
        assert_eq!(chosen(&by_node, "n9", "").0, Scope::Cluster);
        let indifferent = frontend(service("web"), endpoints());
        assert_eq!(chosen(&indifferent, "n1", "a").0, Scope::Cluster);
        assert!(indifferent.is_same_everywhere());
    }

    #[test]
    fn hints_that_are_given_are_not_replaced() {
        let elsewhere =
            vec![hinted(in_zone("a", "10.1.0.1"), &["b"], &[]), hinted(in_zone("b", "10.1.0.2"), &["a"], &[])];
        let frontend = frontend(preferring(TrafficDistribution::PreferSameZone), elsewhere);
        assert_eq!(chosen(&frontend, "n", "a").1, ["2"]);
    }

    #[test]
    fn hints_without_effect_are_named() {
        let given = [slice("web", "web-1", 8080, [two_zones(), vec![endpoint("10.1.0.3")]].concat())];
        let message = "hints_ignored: 1 of 3 ready endpoints have no hint, so those of the others are ignored";
        assert_eq!(findings(&selecting(service("web")), &given), [message]);
        let unknown = [slice("web", "web-1", 8080, vec![in_zone("a", "10.1.0.1"), endpoint("10.1.0.2")])];
        let service = preferring(TrafficDistribution::PreferSameZone);
        assert_eq!(reasons(&service, &unknown), ["hints_ignored"]);
        let known = [slice("web", "web-1", 8080, vec![in_zone("a", "10.1.0.1"), down(endpoint("10.1.0.2"))])];
        assert_eq!(reasons(&service, &known), [""; 0], "who is not ready does not matter");
        let by_node = [slice("web", "web-1", 8080, vec![on("n1", "10.1.0.1")])];
        assert_eq!(reasons(&preferring(TrafficDistribution::PreferSameNode), &by_node), [""; 0]);
    }

    #[test]
    fn a_nodes_zone_is_its_label() {
        let labelled = Node { labels: labels(&[("topology.kubernetes.io/zone", "a")]), ..Node::new("n") };
        assert_eq!(NodeView::from(&labelled), node("n", "a"));
        assert_eq!(NodeView::from(&Node::new("n")), NodeView::named("n"));
    }
}

mod weights {
    use super::*;

    fn weighted(text: &str) -> Service {
        Service { weights: text.parse().unwrap(), ..service("web") }
    }

    fn weights(frontend: &Frontend) -> Vec<u8> {
        frontend.backends.iter().map(|backend| backend.weight.get()).collect()
    }

    #[test]
    fn by_address_before_node_before_slice() {
        let mut heavy =
            slice("web", "web-2", 8080, vec![endpoint("10.1.0.3"), on("n", "10.1.0.4"), on("n", "10.1.0.5")]);
        heavy.weight = Weight::new(9).unwrap();
        let plain = slice("web", "web-1", 8080, vec![endpoint("10.1.0.1"), endpoint("10.1.0.2")]);
        let world = world(weighted("10.1.0.2=3,10.1.0.5=7,node/n=5"), [plain, heavy]);
        assert_eq!(weights(&only_frontend(&world)), [1, 3, 9, 5, 7]);
    }

    #[test]
    fn weight_zero_takes_no_new_flows_while_another_can() {
        let of = |endpoints| last(frontend(weighted("10.1.0.1=0,10.1.0.2=0"), endpoints).eligible());
        assert_eq!(of(vec![endpoint("10.1.0.1"), endpoint("10.1.0.3")]), ["3"]);
        assert_eq!(of(vec![endpoint("10.1.0.1"), endpoint("10.1.0.2"), down(endpoint("10.1.0.3"))]), ["1", "2"]);
        assert_eq!(of(vec![endpoint("10.1.0.1"), draining(endpoint("10.1.0.3"))]), ["1"], "ready comes first");
    }

    #[test]
    fn a_node_that_has_nothing_else_uses_weight_zero() {
        let web = Service { traffic_policy: TrafficPolicy::Local, ..weighted("10.1.0.1=0") };
        let frontend = frontend(web, vec![on("a", "10.1.0.1"), on("b", "10.1.0.2")]);
        assert_eq!(chosen(&frontend, "a", "").1, ["1"]);
    }

    #[test]
    fn an_endpoint_of_weight_zero_has_no_say_about_hints() {
        let endpoints = vec![hinted(endpoint("10.1.0.1"), &["a"], &[]), hinted(endpoint("10.1.0.2"), &["b"], &[])];
        let frontend = frontend(weighted("10.1.0.1=0"), endpoints);
        assert_eq!(chosen(&frontend, "n", "a"), (Scope::Cluster, vec!["2".to_owned()]));
    }

    #[test]
    fn the_larger_of_two_weights_of_an_endpoint_counts() {
        let with = |name, weight| EndpointSlice {
            weight: Weight::new(weight).unwrap(),
            ..slice("web", name, 8080, vec![endpoint("10.1.0.1")])
        };
        for (first, second) in [(2, 4), (4, 2)] {
            let world = world(service("web"), [with("web-1", first), with("web-2", second)]);
            assert_eq!(weights(&only_frontend(&world)), [4]);
        }
    }
}

mod findings {
    use super::*;

    #[test]
    fn sctp_is_named_and_left_out() {
        let mut web = service("web");
        web.ports[0].protocol = Protocol::Sctp;
        let plan = plan(&world(selecting(web), vec![]), &Memory::default());
        assert!(plan.frontends.is_empty());
        let found: Vec<_> = plan.diagnostics().map(|diagnostic| (diagnostic.reason, &*diagnostic.field)).collect();
        assert_eq!(found, [("protocol_unsupported", "spec.ports[0]")]);
    }

    #[test]
    fn nobody_writes_endpoints_for_a_service_without_a_selector() {
        assert_eq!(reasons(&service("web"), &[]), ["no_selector"]);
        assert_eq!(reasons(&service("web"), &[slice("web", "web-1", 80, vec![])]), [""; 0]);
    }

    #[test]
    fn ordinary_emptiness_is_no_finding() {
        let placeholder = EndpointSlice { ports: Vec::new(), ..slice("web", "web-1", 80, vec![]) };
        assert_eq!(reasons(&selecting(service("web")), &[]), [""; 0]);
        assert_eq!(reasons(&selecting(service("web")), &[placeholder]), [""; 0]);
        let starting = slice("web", "web-1", 80, vec![down(endpoint("10.1.0.1"))]);
        assert_eq!(reasons(&selecting(service("web")), &[starting]), [""; 0]);
    }

    #[test]
    fn a_port_no_slice_has_is_named_with_those_there_are() {
        let named = EndpointSlice {
            ports: vec![EndpointPort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 8080 }],
            ..slice("web", "web-1", 8080, vec![endpoint("10.1.0.1")])
        };
        let expected = "port_without_endpoints: no EndpointSlice has the port `nameless TCP`, so port 80/TCP has no \
                        backends; there are: http TCP";
        assert_eq!(super::findings(&selecting(service("web")), &[named]), [expected]);
    }

    #[test]
    fn a_named_target_port_no_pod_has_is_named() {
        let mut web = selecting(service("web"));
        web.ports[0].target = Some(TargetPort::Name("web-port".to_owned()));
        let portless = EndpointSlice { ports: Vec::new(), ..slice("web", "web-1", 80, vec![endpoint("10.1.0.1")]) };
        let expected = "target_port_unresolved: no endpoint has the port `web-port`, so port 80/TCP has no backends";
        assert_eq!(super::findings(&web, std::slice::from_ref(&portless)), [expected]);
        let resolved = slice("web", "web-2", 8080, vec![endpoint("10.1.0.2")]);
        assert_eq!(reasons(&web, &[portless, resolved]), [""; 0], "some pods have it");
    }

    #[test]
    fn an_address_of_a_family_without_endpoints_is_named() {
        let six =
            EndpointSlice { address_type: IpFamily::V6, ..slice("web", "web-1", 80, vec![endpoint("fd00:1::1")]) };
        assert_eq!(reasons(&selecting(service("web")), &[six]), ["family_without_endpoints"]);
    }
}

#[test]
fn frontends_take_over_who_may_connect_how_often_and_what_backends_are_asked() {
    let service = Service {
        source_ranges: ["192.0.2.0/24".parse().unwrap()].into(),
        limits: Limits { max_connections: NonZeroU32::new(5), connection_rate: None },
        health: Some(HealthCheck::new(HealthProbe::Tcp).into()),
        ..service("web")
    };
    let addresses = [address("10.0.0.1"), address("10.0.0.2")];
    let frontends = of_service(&service, &addresses, &[], &mut Vec::new());
    assert_eq!(frontends.len(), 2);
    for frontend in frontends {
        assert!(Arc::ptr_eq(&frontend.source_ranges, &service.source_ranges));
        assert!(Arc::ptr_eq(frontend.health.as_ref().unwrap(), service.health.as_ref().unwrap()));
        assert_eq!(frontend.limits, service.limits);
    }
}

#[test]
fn where_nobody_near_is_healthy_those_further_away_serve() {
    let in_zone = |at, zone: &str| Endpoint { zone: Some(zone.to_owned()), ..endpoint(at) };
    let service = Service { traffic_distribution: TrafficDistribution::PreferSameZone, ..service("web") };
    let endpoints = vec![in_zone("10.1.0.1", "a"), in_zone("10.1.0.2", "a"), in_zone("10.1.0.3", "b")];
    let slice = slice("web", "web", 8080, endpoints);
    let frontend = of_service(&service, &[address("10.0.0.1")], &[&slice], &mut Vec::new()).remove(0);
    let node = NodeView { name: "node", zone: Some("a") };
    let chosen = |ill: &[&str]| {
        let is_healthy = |backend: &Backend| !ill.contains(&backend.address.to_string().as_str());
        let (scope, chosen) = frontend.choice_of_healthy(node, is_healthy);
        (scope, chosen.iter().map(|backend| backend.address.to_string()).collect::<Vec<_>>())
    };
    let of = |addresses: &[&str]| addresses.iter().map(|&address| address.to_owned()).collect::<Vec<_>>();
    assert_eq!(chosen(&[]), (Scope::SameZone, of(&["10.1.0.1", "10.1.0.2"])));
    assert_eq!(chosen(&["10.1.0.1"]), (Scope::SameZone, of(&["10.1.0.2"])));
    assert_eq!(chosen(&["10.1.0.1", "10.1.0.2"]), (Scope::Cluster, of(&["10.1.0.3"])));
    assert_eq!(chosen(&["10.1.0.1", "10.1.0.2", "10.1.0.3"]), chosen(&[]), "nobody is healthy");
}
