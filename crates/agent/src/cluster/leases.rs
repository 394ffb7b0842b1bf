//! Records and agents' leases as objects of the Kubernetes API: `coordination.k8s.io/v1 Lease`, one for each address and
//! one for each node, in the program's own namespace.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use evenkeel_ownership::{AgentLease, Input, Life, Record, Version};
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value, json};

/// The label of all Leases of agents; its value says which of the two one is.
pub const LABEL: &str = "evenkeel.io/lease";
const OF_VIP: &str = "vip";
const OF_AGENT: &str = "agent";
/// What an agent's lease says of its node.
const STATE: &str = "evenkeel.io/state";
/// Addresses of the node itself.
const VOICES: &str = "evenkeel.io/voices";

/// The name of an address's lease.
pub(crate) fn name_of_vip(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{OF_VIP}-{address}"),
        // Names have no colons, and do not end or begin with a dash as a shortened address may.
        IpAddr::V6(address) => {
            let groups = address.segments().map(|group| format!("{group:x}"));
            format!("{OF_VIP}-{}", groups.join("-"))
        }
    }
}

/// The name of the lease of a node's agent.
pub(crate) fn name_of_agent(node: &str) -> String {
    format!("{OF_AGENT}-{node}")
}

/// What a lease is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Vip(IpAddr),
    Agent(String),
}

/// What the lease of this name is about; `None`: it is none of these.
pub(crate) fn subject(name: &str) -> Option<Subject> {
    if let Some(node) = name.strip_prefix(OF_AGENT).and_then(|rest| rest.strip_prefix('-')) {
        return Some(Subject::Agent(node.to_owned()));
    }
    let text = name.strip_prefix(OF_VIP)?.strip_prefix('-')?;
    let address = match text.parse() {
        Ok(address) => IpAddr::V4(address),
        Err(_) => IpAddr::V6(text.replace('-', ":").parse::<Ipv6Addr>().ok()?),
    };
    // One spelling only: two objects for one address would be two owners.
    (name_of_vip(address) == name).then_some(Subject::Vip(address))
}

/// What a lease tells; `None`: it is none of ours, or not well formed.
pub(crate) fn read(lease: &Lease) -> Option<Input> {
    let metadata = &lease.metadata;
    let spec = lease.spec.as_ref()?;
    let version = Version(metadata.resource_version.as_deref()?.into());
    match subject(metadata.name.as_deref()?)? {
        Subject::Vip(address) => {
            let record = Record {
                holder: spec.holder_identity.as_deref().unwrap_or_default().into(),
                epoch: u64::try_from(spec.lease_transitions.unwrap_or_default()).unwrap_or_default(),
                incarnation: metadata.uid.as_deref()?.into(),
                version: Some(version),
            };
            Some(Input::Record(address, record))
        }
        Subject::Agent(node) => {
            let annotation = |key: &str| metadata.annotations.as_ref()?.get(key).map(String::as_str);
            let life = match annotation(STATE) {
                Some("dead") => Life::Dead,
                Some("leaving") => Life::Leaving,
                _ => Life::Serving,
            };
            let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
            let voices = annotation(VOICES).unwrap_or_default().split(',');
            let lease = AgentLease {
                version,
                life,
                duration: Duration::from_secs(seconds),
                voices: voices.filter_map(|voice| voice.trim().parse().ok()).collect(),
            };
            Some(Input::Lease(node.as_str().into(), lease))
        }
    }
}

/// A lease that is to be written: over a version, or made anew.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) name: String,
    over: Option<Version>,
    kind: &'static str,
    annotations: Value,
    spec: Value,
}

impl Change {
    /// `holder` owns an address, in this epoch.
    pub(crate) fn take(address: IpAddr, over: Option<Version>, epoch: u64, holder: &str, now: &str) -> Self {
        let spec = json!({ "holderIdentity": holder, "leaseTransitions": epoch, "acquireTime": now });
        Self { name: name_of_vip(address), over, kind: OF_VIP, annotations: json!({}), spec }
    }

    /// The agent of `node` is at work, or leaving.
    pub(crate) fn renew(
        node: &str,
        over: Option<Version>,
        life: Life,
        duration: Duration,
        voices: &[IpAddr],
        now: &str,
    ) -> Self {
        let voices: Vec<String> = voices.iter().map(ToString::to_string).collect();
        Self {
            name: name_of_agent(node),
            over,
            kind: OF_AGENT,
            annotations: json!({ STATE: state(life), VOICES: voices.join(",") }),
            spec: json!({ "holderIdentity": node, "leaseDurationSeconds": duration.as_secs().max(1), "renewTime": now }),
        }
    }

    /// `node` is dead.
    pub(crate) fn declare(node: &str, over: Option<Version>) -> Self {
        let annotations = json!({ STATE: state(Life::Dead) });
        Self { name: name_of_agent(node), over, kind: OF_AGENT, annotations, spec: json!({}) }
    }

    /// Whether it cannot wait: others go by the lease of an agent.
    pub(crate) fn is_urgent(&self) -> bool {
        self.kind == OF_AGENT
    }

    /// Whether the object is to be made.
    pub(crate) fn creates(&self) -> bool {
        self.over.is_none()
    }

    /// Whose agent's lease it is; `None`: it is an address's.
    pub(crate) fn node(&self) -> Option<String> {
        match subject(&self.name)? {
            Subject::Agent(node) => Some(node),
            Subject::Vip(_) => None,
        }
    }

    /// The object to make, or the merge patch (RFC 7396) to apply. A patch that names the version it is for is refused when
    /// the object has another. An object that is made is deleted with its owner.
    pub(crate) fn body(&self, owner: Option<Value>) -> Value {
        let mut metadata = json!({ "name": self.name, "annotations": self.annotations });
        match &self.over {
            Some(version) => metadata["resourceVersion"] = Value::from(&*version.0),
            None => {
                metadata["labels"] = json!({ LABEL: self.kind, "app.kubernetes.io/name": "evenkeel" });
                metadata["ownerReferences"] = owner.into_iter().collect();
            }
        }
        json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": self.spec })
    }
}

const fn state(life: Life) -> &'static str {
    match life {
        Life::Serving => "serving",
        Life::Leaving => "leaving",
        Life::Dead => "dead",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(change: &Change) -> Lease {
        let mut object = change.body(None);
        object["metadata"]["resourceVersion"] = "7".into();
        object["metadata"]["uid"] = "u".into();
        serde_json::from_value(object).unwrap()
    }

    const NOW: &str = "2026-11-28T12:00:00.000000Z";

    #[test]
    fn every_address_has_one_name() {
        for address in ["10.77.0.100", "fd77::100", "::", "::1", "2001:db8::", "::ffff:10.0.0.1"] {
            let address: IpAddr = address.parse().unwrap();
            let name = name_of_vip(address);
            assert_eq!(subject(&name), Some(Subject::Vip(address)));
            let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
            assert!(name.bytes().all(allowed) && name.ends_with(|last: char| last.is_ascii_alphanumeric()), "{name}");
        }
        assert_eq!(name_of_vip("fd77::100".parse().unwrap()), "vip-fd77-0-0-0-0-0-0-100");
        for name in ["vip-fd77--100", "vip-010.0.0.1", "vip-", "vip", "vip-10.0.0", "other", "agen-x"] {
            assert_eq!(subject(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let address: IpAddr = "fd77::100".parse().unwrap();
        let lease = stored(&Change::take(address, None, 4, "node-1", NOW));
        let version = Some(Version("7".into()));
        let record = Record { holder: "node-1".into(), epoch: 4, incarnation: "u".into(), version };
        assert_eq!(read(&lease), Some(Input::Record(address, record)));

        let voices: Vec<IpAddr> = vec!["10.77.0.2".parse().unwrap(), "fd77::2".parse().unwrap()];
        for life in [Life::Serving, Life::Leaving] {
            let lease = stored(&Change::renew("node-1", None, life, Duration::from_secs(15), &voices, NOW));
            let expected = AgentLease {
                version: Version("7".into()),
                life,
                duration: Duration::from_secs(15),
                voices: voices.clone(),
            };
            assert_eq!(read(&lease), Some(Input::Lease("node-1".into(), expected)));
        }
        let Some(Input::Lease(_, lease)) = read(&stored(&Change::declare("node-1", None))) else { panic!("no lease") };
        assert_eq!(lease.life, Life::Dead);
    }

    #[test]
    fn a_change_is_for_one_version() {
        let change = Change::declare("node-1", Some(Version("41".into())));
        assert!(!change.creates());
        assert_eq!(
            change.body(None)["metadata"],
            json!({ "name": "agent-node-1", "resourceVersion": "41", "annotations": { STATE: "dead" } })
        );
        assert!(Change::take([10, 0, 0, 1].into(), None, 1, "a", NOW).creates());
    }

    #[test]
    fn the_lease_of_an_agent_is_its_nodes() {
        let owner = json!({ "apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "u" });
        let renew = |over| Change::renew("node-1", over, Life::Serving, Duration::from_secs(15), &[], NOW);
        for made in [renew(None), Change::declare("node-1", None)] {
            assert_eq!(made.node().as_deref(), Some("node-1"));
            assert_eq!(made.body(Some(owner.clone()))["metadata"]["ownerReferences"], json!([owner]));
        }
        let renewed = renew(Some(Version("41".into()))).body(Some(owner));
        assert_eq!(renewed["metadata"].get("ownerReferences"), None, "whatever others have made of it stays");
        assert_eq!(Change::take([10, 0, 0, 1].into(), None, 1, "node-1", NOW).node(), None);
    }

    proptest::proptest! {
        #[test]
        fn any_name_is_read_or_refused(name in "(vip|agent)?-?[a-f0-9.:-]{0,40}") {
            if let Some(Subject::Vip(address)) = subject(&name) {
                proptest::prop_assert_eq!(name_of_vip(address), name);
            }
        }
    }
}
