//! What nodes know of each other.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

/// Who owns what across the nodes of a cluster, and whose agents attend to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The node that owns each address at layer 2, as the records have it.
    pub owners: OrdMap<IpAddr, Arc<str>>,
    /// The nodes that have an agent.
    pub agents: OrdMap<Arc<str>, AgentState>,
}

/// What is known of a node's agent and data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentState {
    /// It attends to its node.
    Attended,
    /// It has not been heard of for too long. Its data path goes on: the node keeps what it owns and gets nothing new.
    Silent,
    /// It gives away what its node owns.
    Leaving,
    /// The node's data path does not answer.
    Dead,
}
