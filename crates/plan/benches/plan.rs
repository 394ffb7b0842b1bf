//! How long decisions take on a large World: from scratch, and after one change. What counts is the processor time of
//! the deciding thread, so that other programs on the machine make less of a difference.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use evenkeel_plan::range::IpFamily;
use evenkeel_plan::world::{
    Endpoint, EndpointPort, EndpointSlice, Hints, IpAddressPool, L2Advertisement, Node, Object, ObjectName, Protocol,
    Service, ServicePort, Weight,
};
use evenkeel_plan::{Memory, Planner, World, plan};

const ROUNDS: usize = 11;

fn main() {
    println!("{:<58} {:>10}  {:>10}", "", "median", "most");
    let mut world = world(5_000, 10, 10);
    report("5,000 services, 50,000 endpoints, 10 nodes: from scratch", || (), |()| plan(&world, &Memory::default()));
    let first = plan(&world, &Memory::default());
    report("  with memory", || (), |()| plan(&world, first.memory()));
    let mut planner = Planner::new(Memory::default());
    planner.update(&world);
    let mut n = 0;
    report(
        "  one endpoint becomes unready, or ready again",
        || (),
        |()| {
            let name = service_name(n % 5_000);
            let mut slice = EndpointSlice::clone(&world.endpoint_slices[&name]);
            slice.endpoints[0].ready = !slice.endpoints[0].ready;
            world.insert(name, Object::EndpointSlice(slice.into()));
            n += 7;
            planner.update(&world)
        },
    );
    report(
        "  one service asks for another address",
        || (),
        |()| {
            let name = service_name(n % 5_000);
            let mut service = Service::clone(&world.services[&name]);
            service.requested.spec_address = Some(Ipv4Addr::from_bits(0x0a00_0000 + 60_000 + n).into());
            world.insert(name, Object::Service(service.into()));
            n += 7;
            planner.update(&world)
        },
    );
    report(
        "  one node comes or goes",
        || (),
        |()| {
            n += 1;
            match n % 2 {
                0 => _ = world.nodes.remove("node-0"),
                _ => _ = world.nodes.insert("node-0".to_owned(), Node::new("node-0").into()),
            }
            planner.update(&world)
        },
    );

    let world = self::world(5_000, 10, 500);
    report("5,000 services, 50,000 endpoints, 500 nodes: from scratch", || (), |()| plan(&world, &Memory::default()));
    let first = plan(&world, &Memory::default());
    report("  with memory", || (), |()| plan(&world, first.memory()));

    let mut world = self::world(100_000, 0, 1);
    report("100,000 services allocate, elect and get frontends", || (), |()| plan(&world, &Memory::default()));
    let mut planner = Planner::new(Memory::default());
    planner.update(&world);
    report(
        "  one more comes",
        || (),
        |()| {
            n += 1;
            world.insert(service_name(200_000 + n), Object::Service(service(200_000 + n).into()));
            planner.update(&world)
        },
    );
}

fn report<S, R>(what: &str, mut prepare: impl FnMut() -> S, mut measured: impl FnMut(S) -> R) {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let state = prepare();
            let start = processor_time();
            let result = black_box(measured(state));
            let elapsed = processor_time() - start;
            drop(result);
            elapsed
        })
        .collect();
    times.sort_unstable();
    let ms = |time: Duration| format!("{:.3} ms", time.as_secs_f64() * 1e3);
    println!("{what:<58} {:>10}  {:>10}", ms(times[ROUNDS / 2]), ms(times[ROUNDS - 1]));
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn service_name(n: u32) -> ObjectName {
    ObjectName::new("default", format!("service-{n}"))
}

fn service(n: u32) -> Service {
    Service {
        is_load_balancer: true,
        selector: [("app".to_owned(), format!("service-{n}"))].into(),
        ports: vec![ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, target: None }],
        ..Service::new(service_name(n))
    }
}

fn slice(n: u32, endpoints: u32, nodes: u32) -> EndpointSlice {
    let endpoint = |m: u32| Endpoint {
        addresses: vec![IpAddr::from(Ipv4Addr::from_bits(0x0b00_0000 + n * 16 + m))],
        ready: true,
        serving: true,
        terminating: false,
        node: Some(format!("node-{}", (n + m) % nodes)),
        zone: None,
        hints: Hints::default(),
        target_uid: None,
    };
    EndpointSlice {
        name: service_name(n),
        service: Some(service_name(n).name),
        address_type: IpFamily::V4,
        weight: Weight::ONE,
        ports: vec![EndpointPort { name: String::new(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: (0..endpoints).map(endpoint).collect(),
    }
}

fn world(services: u32, endpoints: u32, nodes: u32) -> World {
    let mut world = World::default();
    for n in 0..services {
        world.insert(service_name(n), Object::Service(service(n).into()));
        if endpoints > 0 {
            world.insert(service_name(n), Object::EndpointSlice(slice(n, endpoints, nodes).into()));
        }
    }
    let name = |name: &str| ObjectName::new("metallb-system", name);
    if let Ok(range) = "10.0.0.0/12".parse() {
        world.insert(name("pool"), Object::IpAddressPool(IpAddressPool::new(name("pool"), vec![range]).into()));
    }
    world.insert(name("all"), Object::L2Advertisement(L2Advertisement::new(name("all")).into()));
    for n in 0..nodes {
        let node = Arc::new(Node::new(format!("node-{n}")));
        world.nodes.insert(node.name.clone(), node);
    }
    world
}
