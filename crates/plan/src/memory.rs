//! What is remembered from one run to the next. It is an input to every decision, never hidden state.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::world::ObjectName;

/// The version of the format this program writes and reads.
pub const VERSION: u32 = 1;

/// Held addresses and present owners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The version of the format, [`VERSION`].
    pub version: u32,
    /// The addresses each service holds.
    #[serde(default)]
    pub allocations: BTreeMap<ObjectName, Vec<IpAddr>>,
    /// The node that announces each address, or did when one last could.
    #[serde(default)]
    pub owners: BTreeMap<IpAddr, String>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { version: VERSION, allocations: BTreeMap::new(), owners: BTreeMap::new() }
    }
}

impl Memory {
    /// Also remember what `before` knew of services and addresses that this memory does not mention: for a World that is
    /// known to be incomplete, in which what is missing may only have been unreadable.
    pub fn keep_absent(&mut self, before: &Self) {
        for (service, addresses) in &before.allocations {
            self.allocations.entry(service.clone()).or_insert_with(|| addresses.clone());
        }
        for (address, owner) in &before.owners {
            self.owners.entry(*address).or_insert_with(|| owner.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_incomplete_world_does_not_mention_is_kept() {
        let (first, second): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let memory = |name: &str, address| Memory {
            allocations: [(ObjectName::new("default", name), vec![address])].into(),
            owners: [(address, name.to_owned())].into(),
            ..Memory::default()
        };
        let mut now = memory("web", first);
        now.keep_absent(&memory("dns", second));
        now.keep_absent(&memory("web", second));
        assert_eq!(now.allocations[&ObjectName::new("default", "dns")], [second]);
        assert_eq!(now.allocations[&ObjectName::new("default", "web")], [first], "what is known is not overwritten");
        assert_eq!(now.owners[&second], "dns");
    }

    #[test]
    fn it_is_plain_json() {
        let mut memory = Memory::default();
        let address: IpAddr = "10.0.0.53".parse().unwrap();
        memory.allocations.insert(ObjectName::new("default", "dns"), vec![address]);
        memory.owners.insert(address, "a".to_owned());
        let text = serde_json::to_string(&memory).unwrap();
        assert_eq!(text, r#"{"version":1,"allocations":{"default/dns":["10.0.0.53"]},"owners":{"10.0.0.53":"a"}}"#);
        assert_eq!(serde_json::from_str::<Memory>(&text).unwrap(), memory);
    }
}
