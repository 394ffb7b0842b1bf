//! Legacy `v1 Endpoints`, as the slices they stand for.

use std::net::IpAddr;

use evenkeel_plan::range::IpFamily;
use evenkeel_plan::world::{Endpoint, EndpointPort, EndpointSlice, Endpoints, Hints, ObjectName, Weight};

use super::kinds::{PORT, ip, protocol};
use super::object::name;
use super::read::{Field, Fields, Findings as _, Mapping as _, Reader, Values as _};

pub(super) fn endpoints(reader: &mut Reader<'_>, name: ObjectName, fields: &Fields<'_>) -> Option<Endpoints> {
    let mut endpoints = Endpoints { name, slices: Vec::new() };
    for field in fields.list(reader, "subsets") {
        let Some(subset) = field.fields(reader) else { continue };
        let ports: Vec<EndpointPort> =
            subset.list(reader, "ports").iter().filter_map(|field| port(reader, field)).collect();
        let mut read = Vec::new();
        for (list, ready) in [("addresses", true), ("notReadyAddresses", false)] {
            let items = subset.list(reader, list);
            read.extend(items.iter().filter_map(|field| endpoint(reader, field, ready)));
        }
        for family in [IpFamily::V4, IpFamily::V6] {
            let of_family = |(address, _): &&(IpAddr, Endpoint)| IpFamily::of(*address) == family;
            let of_family: Vec<Endpoint> =
                read.iter().filter(of_family).map(|(_, endpoint)| endpoint.clone()).collect();
            if !of_family.is_empty() {
                endpoints.slices.push(EndpointSlice {
                    weight: Weight::default(),
                    name: endpoints.name.clone(),
                    service: Some(endpoints.name.name.clone()),
                    address_type: family,
                    ports: ports.clone(),
                    endpoints: of_family,
                });
            }
        }
    }
    Some(endpoints)
}

fn port(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<EndpointPort> {
    let fields = field.fields(reader)?;
    let name = fields.get("name").and_then(|field| field.text(reader)).unwrap_or_default().to_owned();
    let protocol = protocol(reader, &fields);
    let port = fields.require(reader, "port").and_then(|field| field.number(reader, PORT.0, PORT.1));
    Some(EndpointPort { name, protocol, port: port? })
}

fn endpoint(reader: &mut Reader<'_>, field: &Field<'_>, ready: bool) -> Option<(IpAddr, Endpoint)> {
    let fields = field.fields(reader)?;
    let ip_field = fields.require(reader, "ip")?;
    let address = ip(&ip_field, reader)?;
    if address.is_unspecified() || address.is_multicast() {
        let message = format!("{address} is no endpoint's address");
        reader.error("invalid_address", &ip_field, message, "give the address of a host or pod");
    }
    let node = fields.get("nodeName").filter(|field| !field.is_empty_text()).and_then(|field| name(&field, reader));
    let target = fields.get("targetRef").and_then(|field| field.fields(reader));
    let uid = target.and_then(|target| target.get("uid")).and_then(|field| field.text(reader));
    let endpoint = Endpoint {
        addresses: vec![address],
        ready,
        serving: ready,
        terminating: false,
        node,
        zone: None,
        hints: Hints::default(),
        target_uid: uid.map(str::to_owned),
    };
    Some((address, endpoint))
}
