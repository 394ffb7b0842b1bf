//! The endpoints behind services.

use std::net::IpAddr;

use super::{ObjectName, Protocol, Weight};
use crate::range::IpFamily;

/// An EndpointSlice: some of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its name.
    pub name: ObjectName,
    /// The Service (of the same namespace) the label `kubernetes.io/service-name` names.
    pub service: Option<String>,
    /// The family of all its addresses.
    pub address_type: IpFamily,
    /// `evenkeel.io/weight`: the weight of all its endpoints to which the service's own annotation gives none.
    pub weight: Weight,
    /// The ports every endpoint in it has.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the Service's port it stands for; empty when it has none.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port the backend listens on.
    pub port: u16,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses. They are interchangeable; the first is used, as everywhere in Kubernetes.
    pub addresses: Vec<IpAddr>,
    /// Takes new connections.
    pub ready: bool,
    /// Would be ready if it were not terminating.
    pub serving: bool,
    /// Is being shut down.
    pub terminating: bool,
    /// The node it runs on.
    pub node: Option<String>,
    /// The zone it runs in.
    pub zone: Option<String>,
    /// Who should use it.
    pub hints: Hints,
    /// The UID of the pod behind it: another UID at the same address is another backend.
    pub target_uid: Option<String>,
}

/// `hints` of an endpoint, as the control plane computed them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hints {
    /// The zones that should use the endpoint (`forZones`).
    pub zones: Vec<String>,
    /// The nodes that should use the endpoint (`forNodes`).
    pub nodes: Vec<String>,
}

/// Legacy `v1 Endpoints`, named like the service they belong to. A service that has endpoint slices ignores them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Its name, which is its service's.
    pub name: ObjectName,
    /// Its subsets, each as the slices it stands for, one a family. An address under `notReadyAddresses` is an endpoint
    /// that is neither ready nor serving.
    pub slices: Vec<EndpointSlice>,
}
