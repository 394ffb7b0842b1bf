//! Nodes, and what else is known of the cluster.

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

/// That a Secret exists. What is in it stays where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its name.
    pub name: ObjectName,
    /// `type`, such as `kubernetes.io/basic-auth`; `Opaque` where none is given.
    pub secret_type: String,
}
