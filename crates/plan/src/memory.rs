//! What is remembered from one run to the next. It is an input to every decision, never hidden state.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::selector::Labels;
use crate::world::{ObjectName, Protocol, Service, TrafficPolicy};

/// The version of the format this program writes. It also reads [`OLDEST_VERSION`] and what came between.
pub const VERSION: u32 = 2;

/// The oldest version of the format this program reads.
pub const OLDEST_VERSION: u32 = 1;

/// Held addresses and present owners. A copy shares everything with its original.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The version of the format, [`VERSION`].
    pub version: u32,
    /// What each service holds.
    #[serde(default)]
    pub allocations: OrdMap<ObjectName, Arc<Holding>>,
    /// The node that announces each address, or did when one last could.
    #[serde(default)]
    pub owners: OrdMap<IpAddr, Arc<str>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { version: VERSION, allocations: OrdMap::new(), owners: OrdMap::new() }
    }
}

impl Memory {
    /// Whether two memories are equal, without looking at what they share.
    pub fn is(&self, other: &Self) -> bool {
        let allocations = self.allocations.diff(&other.allocations).next().is_none();
        allocations && self.owners.diff(&other.owners).next().is_none()
    }
}

/// The addresses a service holds, and the terms under which it got them: whoever changes its terms gives way to those
/// who did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "HoldingFormat")]
pub struct Holding {
    /// Its addresses, the preferred family first.
    pub addresses: Vec<IpAddr>,
    /// `None`: it shares with nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Sharing>,
}

/// The terms under which a service shares its addresses (`allow-shared-ip`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharing {
    /// The key all who share have in common.
    pub key: String,
    /// Its ports, which nobody else may use.
    pub ports: BTreeSet<(Protocol, u16)>,
    /// What all who share have to have in common beside the key, because it decides which nodes can announce: under
    /// externalTrafficPolicy Local the selector, under Cluster nothing.
    pub backends: Labels,
}

impl Sharing {
    /// The terms of a service; `None` when it does not share.
    pub fn of(service: &Service) -> Option<Self> {
        let key = service.sharing_key.clone()?;
        let backends = match service.traffic_policy {
            TrafficPolicy::Cluster => Labels::new(),
            TrafficPolicy::Local => service.selector.clone(),
        };
        let ports = service.ports.iter().map(|port| (port.protocol, port.port)).collect();
        Some(Self { key, ports, backends })
    }
}

/// The formats of a [`Holding`]: version 1 had the addresses alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum HoldingFormat {
    Addresses(Vec<IpAddr>),
    Holding { addresses: Vec<IpAddr>, sharing: Option<Sharing> },
}

impl From<HoldingFormat> for Holding {
    fn from(format: HoldingFormat) -> Self {
        match format {
            HoldingFormat::Addresses(addresses) => Self { addresses, sharing: None },
            HoldingFormat::Holding { addresses, sharing } => Self { addresses, sharing },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::testing::{address, labels, service};

    #[test]
    fn it_is_plain_json() {
        let mut memory = Memory::default();
        let mut web = service("web");
        web.sharing_key = Some("k".to_owned());
        web.traffic_policy = TrafficPolicy::Local;
        web.selector = labels(&[("app", "web")]);
        let alone = Holding { addresses: vec![address("10.0.0.53")], sharing: None };
        let shared = Holding { addresses: vec![address("10.0.0.80")], sharing: Sharing::of(&web) };
        memory.allocations.insert(ObjectName::new("default", "dns"), alone.into());
        memory.allocations.insert(ObjectName::new("default", "web"), shared.into());
        memory.owners.insert(address("10.0.0.53"), "a".into());
        let text = serde_json::to_string(&memory).unwrap();
        assert_eq!(
            text,
            r#"{"version":2,"allocations":{"default/dns":{"addresses":["10.0.0.53"]},"default/web":{"addresses":["10.0.0.80"],"sharing":{"key":"k","ports":[["TCP",80]],"backends":{"app":"web"}}}},"owners":{"10.0.0.53":"a"}}"#
        );
        assert_eq!(serde_json::from_str::<Memory>(&text).unwrap(), memory);
    }

    #[test]
    fn the_first_format_is_still_read() {
        let text = r#"{"version":1,"allocations":{"default/dns":["10.0.0.53"]},"owners":{"10.0.0.53":"a"}}"#;
        let memory: Memory = serde_json::from_str(text).unwrap();
        assert_eq!(memory.allocations[&ObjectName::new("default", "dns")].addresses, [address("10.0.0.53")]);
    }
}
