//! Nodes, and what else is known of the cluster.

use std::collections::BTreeSet;

use super::ObjectName;
use crate::selector::Labels;

/// The label every node has, with its host name.
pub const HOSTNAME: &str = "kubernetes.io/hostname";

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// The condition `NetworkUnavailable` is true.
    pub network_unavailable: bool,
}

impl Node {
    /// A node of which nothing but the name is known, and so what the kubelet makes of it: the host name.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { labels: [(HOSTNAME.to_owned(), name.clone())].into(), name, network_unavailable: false }
    }
}

impl Node {
    /// The label `topology.kubernetes.io/zone`.
    pub fn zone(&self) -> Option<&str> {
        self.labels.get("topology.kubernetes.io/zone").map(String::as_str)
    }
}

/// Whose services may be served at the nodes' own addresses. A service takes the ports it names from the host there, whichever
/// they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodeAddressUse {
    /// Everybody's: whoever writes a host's manifests may do as much there anyway.
    #[default]
    Anybody,
    /// Those of these namespaces.
    Namespaces(BTreeSet<String>),
}

impl NodeAddressUse {
    /// Of these namespaces; `*` is all of them.
    pub fn of(namespaces: &[String]) -> Self {
        if namespaces.iter().any(|namespace| namespace == "*") {
            return Self::Anybody;
        }
        Self::Namespaces(namespaces.iter().cloned().collect())
    }

    /// Whether services of this namespace may.
    pub fn permits(&self, namespace: &str) -> bool {
        match self {
            Self::Anybody => true,
            Self::Namespaces(namespaces) => namespaces.contains(namespace),
        }
    }
}

/// That a Secret exists. What is in it stays where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its name.
    pub name: ObjectName,
    /// `type`, such as `kubernetes.io/basic-auth`; `Opaque` where none is given.
    pub secret_type: String,
}
