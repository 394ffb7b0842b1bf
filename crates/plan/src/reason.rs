//! Every named reason of output, log and test, with what it means: the one list of them. `docs/diagnostics.md` is made
//! of it and of the golden tests, and a test keeps code, list and page together.

/// What a reason is given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A finding about a manifest by itself.
    Manifest,
    /// A finding about objects taken together.
    World,
    /// A service without an address, or without the one it asks for.
    Service,
    /// A node that does not announce an address, or has no session with a peer.
    Node,
    /// The state file.
    State,
}

/// A named reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Its name, in snake_case.
    pub name: &'static str,
    /// What it is given for.
    pub subject: Subject,
    /// What it means, in a sentence.
    pub meaning: &'static str,
}

const fn manifest(name: &'static str, meaning: &'static str) -> Reason {
    Reason { name, subject: Subject::Manifest, meaning }
}

const fn world(name: &'static str, meaning: &'static str) -> Reason {
    Reason { name, subject: Subject::World, meaning }
}

const fn service(name: &'static str, meaning: &'static str) -> Reason {
    Reason { name, subject: Subject::Service, meaning }
}

const fn node(name: &'static str, meaning: &'static str) -> Reason {
    Reason { name, subject: Subject::Node, meaning }
}

const fn state(name: &'static str, meaning: &'static str) -> Reason {
    Reason { name, subject: Subject::State, meaning }
}

/// All reasons, by subject and name. One that is given for several subjects is listed for each.
pub const REASONS: &[Reason] = &[
    manifest("conflicting_annotations", "One annotation under both of MetalLB's prefixes, with different values."),
    manifest("conflicting_fields", "Fields that exclude each other."),
    manifest("control_character", "A character that does not belong into a text, such as NUL."),
    manifest("deprecated_field", "A field MetalLB will drop."),
    manifest("deprecated_version", "An API version MetalLB will drop."),
    manifest("duplicate_key", "A key twice in one mapping."),
    manifest("duplicate_object", "An object defined twice; the first in path order is used."),
    manifest("duplicate_port", "Two ports of a service with the same number and protocol, or the same name."),
    manifest("duplicate_value", "Something given twice in a list."),
    manifest("duplicate_weight", "Two weights for the same backend."),
    manifest("ebgp_multi_hop_on_ibgp", "`ebgpMultiHop` for a peer in the same AS."),
    manifest("family_mismatch", "An address of another family than the one that belongs there."),
    manifest("file_unreadable", "A file that cannot be read; what it defined stays."),
    manifest("former_kind", "MetalLB's configuration from before version 0.13."),
    manifest("fqdn_endpoints", "Endpoints that are domain names, which no packet can be sent to."),
    manifest("invalid_address", "Not an address, or not one a host can have."),
    manifest("invalid_community", "Neither a standard nor a large BGP community."),
    manifest("invalid_duration", "Not a duration, or one without a unit."),
    manifest("invalid_label", "Not a label's key or value by the rules of Kubernetes."),
    manifest("invalid_name", "Not a name by the rules of Kubernetes."),
    manifest("invalid_range", "Neither a CIDR nor a range of addresses a load balancer can own."),
    manifest("invalid_timer", "A hold, keepalive or connect time BGP does not allow."),
    manifest("invalid_value", "A value outside what the field allows."),
    manifest("invalid_weight", "Not a weight from 0 to 100."),
    manifest("invalid_weight_target", "A weight for neither an address nor a node."),
    manifest("mass_removal", "More than half of all objects vanished at once; they are kept a while longer."),
    manifest("missing_field", "A field that must be given."),
    manifest("more_findings", "There is more to say about a file than is worth reading."),
    manifest("not_utf8", "A file that is not UTF-8 text."),
    manifest("overlapping_ranges", "Ranges of one pool that have addresses in common."),
    manifest("skipped_kind", "A kind that is of no use here; each is named once."),
    manifest("source_unreadable", "A directory that cannot be read; until it can, everything stays as it is."),
    manifest("too_deep", "A document nested deeper than any Kubernetes object."),
    manifest("too_large", "A file or document larger than is read, or one whose aliases stand for too much."),
    manifest("unknown_annotation", "An annotation under one of our or MetalLB's prefixes that means nothing."),
    manifest("unknown_field", "A field our or MetalLB's kinds do not have; misspelt, perhaps."),
    manifest("unnumbered_port", "A port of an EndpointSlice without a number, where one is needed."),
    manifest("unsupported_kind", "A kind of our or MetalLB's API group that is not known."),
    manifest("unsupported_version", "A version of a known kind that is not known."),
    manifest("unused_annotation", "An annotation that has no effect without another one."),
    manifest("wrong_type", "A value of another type, such as a number where a string belongs."),
    manifest("yaml_alias", "An alias of nothing."),
    manifest("yaml_key", "A key that is no word."),
    manifest("yaml_merge", "A merge key with something other than mappings."),
    manifest("yaml_syntax", "Not YAML. The other documents of the file are read all the same."),
    world("aggregation_exceeds_pool", "An aggregation length that would announce addresses outside the pool."),
    world("bfd_echo_with_ipv6", "BFD's echo mode for a peer that is told IPv6 prefixes; it is left off."),
    world("bfd_profile_not_found", "A peer's BFDProfile that does not exist, perhaps not yet."),
    world("community_not_found", "A community's alias that is not defined, perhaps not yet."),
    world("conflicting_advertisements", "Different local preferences for one prefix at one peer."),
    world("conflicting_request", "A service that asks for its address in two ways, or for too many."),
    world("duplicate_alias", "An alias defined by two Community objects; the first by name is used."),
    world("duplicate_name", "Two objects of one kind and name, one of them without a namespace."),
    world("duplicate_neighbor", "Two BGPPeers that describe the same neighbor to the same node."),
    world("duplicate_pool", "Two pools of one name; nothing new is taken from the later one."),
    world("endpoint_without_node", "Endpoints of a `Local` service of which no node is known."),
    world("family_mismatch", "A requested address of a family the service does not have."),
    world("family_without_endpoints", "A family of the service without endpoints."),
    world(
        "hints_ignored",
        "Topology hints that are not followed, because following them would leave a node without backends.",
    ),
    world("no_selector", "A service that can have no backends: it has neither a selector nor an EndpointSlice."),
    world("other_load_balancer_class", "A service left to another load balancer."),
    world("outside_system_namespace", "Configuration in another namespace than the rest of it; it has no effect."),
    world("peer_not_found", "An advertisement's peer that does not exist, perhaps not yet."),
    world("pool_not_found", "An advertisement's pool that does not exist, perhaps not yet."),
    world("pool_overlap", "Two pools that have addresses in common; nothing new is taken from the later one."),
    world("port_without_endpoints", "A port of the service that no EndpointSlice has."),
    world("protocol_unsupported", "A port of a protocol that is not forwarded."),
    world("secret_not_found", "A peer's Secret that does not exist, perhaps not yet."),
    world("secret_type", "A peer's Secret of another type than `kubernetes.io/basic-auth`."),
    world("target_port_unresolved", "A target port by name in an EndpointSlice that does not resolve it."),
    service("address_in_use", "The requested address belongs to a service that shares with nobody."),
    service("address_not_in_pool", "The requested address is not handed out by any pool, or not by the requested one."),
    service("conflicting_request", "It asks for its address in two ways, or for too many."),
    service("family_mismatch", "It asks for an address of a family it does not have."),
    service("family_not_in_pool", "No suitable pool has addresses of its family."),
    service("no_pool", "No pool is open to it."),
    service("node_addresses_not_permitted", "It asks for the nodes' own addresses, which its namespace may not have."),
    service("pool_exhausted", "No suitable pool has a free address."),
    service("pool_not_allowed", "The requested pool is reserved for others."),
    service("pool_not_found", "The requested pool does not exist."),
    service("pool_unusable", "The requested pool clashes with another one."),
    service("sharing_conflict", "It would share the address, but not with those who have it."),
    node("duplicate_neighbor", "Another BGPPeer already gives it a session with this neighbor."),
    node("excluded_by_label", "It has the label `node.kubernetes.io/exclude-from-external-load-balancers`."),
    node("family_not_carried", "None of its sessions carries prefixes of this family."),
    node("network_unavailable", "Its condition NetworkUnavailable is true."),
    node("no_advertisement", "No advertisement covers the address."),
    node("no_agent", "No agent on it attends to the data path."),
    node("no_endpoints", "The service has no endpoint that could serve."),
    node("no_local_endpoint", "Under policy `Local` it needs an endpoint of its own."),
    node("no_session", "It has no session with a peer the address is advertised to."),
    node("node_leaving", "Its agent is handing its addresses over."),
    node("node_not_selected", "The node selectors leave it out."),
    node("not_answering", "Other nodes found that it does not answer."),
    node("not_elected", "Another node announces the address."),
    state("state_corrupt", "The state file is damaged."),
    state("state_unreadable", "The state file cannot be read."),
    state("state_version", "The state file is of another version."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_listed_once_and_in_order() {
        let keys: Vec<_> = REASONS.iter().map(|reason| (reason.subject, reason.name)).collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
    }

    #[test]
    fn names_are_snake_case_and_meanings_are_sentences() {
        for Reason { name, meaning, .. } in REASONS {
            assert!(
                name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            );
            assert!(meaning.ends_with('.') && !meaning.contains('|'), "{meaning}");
        }
    }
}
