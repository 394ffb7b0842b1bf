//! Objects for tests, with defaults everywhere but in what they are about.

use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::range::IpFamily;
use crate::selector::Labels;

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A load balancer service `default/<name>` with the nameless port TCP 80.
pub(crate) fn service(name: &str) -> Service {
    Service {
        is_load_balancer: true,
        ports: vec![ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, target: None }],
        ..Service::new(ObjectName::new("default", name))
    }
}

pub(crate) fn pool(name: &str, ranges: &[&str]) -> IpAddressPool {
    IpAddressPool::new(
        ObjectName::new("metallb-system", name),
        ranges.iter().map(|range| range.parse().unwrap()).collect(),
    )
}

pub(crate) fn advertisement(name: &str) -> L2Advertisement {
    L2Advertisement::new(ObjectName::new("metallb-system", name))
}

/// A ready endpoint on no node in particular.
pub(crate) fn endpoint(at: &str) -> Endpoint {
    Endpoint {
        addresses: vec![address(at)],
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        zone: None,
        hints: Hints::default(),
        target_uid: None,
    }
}

/// A slice of `default/<service>` with the nameless port TCP `port`.
pub(crate) fn slice(service: &str, name: &str, port: u16, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        name: ObjectName::new("default", name),
        service: Some(service.to_owned()),
        address_type: IpFamily::V4,
        weight: Weight::ONE,
        ports: vec![EndpointPort { name: String::new(), protocol: Protocol::Tcp, port }],
        endpoints,
    }
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A World of these services and pools.
pub(crate) fn world(
    services: impl IntoIterator<Item = Service>,
    pools: impl IntoIterator<Item = IpAddressPool>,
) -> World {
    World {
        services: services.into_iter().map(|service| (service.name.clone(), Arc::new(service))).collect(),
        pools: pools.into_iter().map(|pool| (pool.name.clone(), Arc::new(pool))).collect(),
        ..World::default()
    }
}

/// Change one object.
pub(crate) fn edit<K: Ord + Clone, T: Clone>(objects: &mut OrdMap<K, Arc<T>>, name: &K, change: impl FnOnce(&mut T)) {
    change(Arc::make_mut(objects.get_mut(name).unwrap()));
}

/// Change all objects of a kind.
pub(crate) fn edit_all<K: Ord + Clone, T: Clone>(objects: &mut OrdMap<K, Arc<T>>, mut change: impl FnMut(&mut T)) {
    for name in objects.keys().cloned().collect::<Vec<_>>() {
        edit(objects, &name, &mut change);
    }
}
