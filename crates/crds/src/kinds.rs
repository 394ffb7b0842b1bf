//! The kinds, one function each.

use serde_json::Value;

use crate::schema::{
    conditions, count, empty, flag, immutable, list, names, number, object, one_of, or, requires, rules, selector,
    selectors, text,
};
use crate::{Column, Definition, Version};

/// The largest number of an autonomous system.
const ASN: i64 = 4_294_967_295;

pub(crate) fn all() -> Vec<Definition> {
    vec![
        ip_address_pool(),
        l2_advertisement(),
        bgp_peer(),
        bgp_advertisement(),
        bfd_profile(),
        community(),
        service_l2_status(),
        service_bgp_status(),
        configuration_state(),
    ]
}

const fn column(name: &'static str, kind: &'static str, path: &'static str) -> Column {
    Column { name, kind, path, priority: 0 }
}

const fn wide(name: &'static str, kind: &'static str, path: &'static str) -> Column {
    Column { name, kind, path, priority: 10 }
}

/// A kind of a single version, `v1beta1`.
fn single(
    kind: &'static str,
    plural: &'static str,
    about: &'static str,
    columns: Vec<Column>,
    spec: Value,
    status: Value,
) -> Definition {
    let version = Version { name: "v1beta1", deprecated: None, about, columns, spec, spec_required: false, status };
    Definition { kind, plural, versions: vec![version] }
}

fn ip_address_pool() -> Definition {
    let allocation = object(
        "Which services the pool is for. Pools with a lower priority value are used first; 0 and none come last.",
        &[
            ("priority", number("The lower, the earlier the pool is used; 0 means last.", 0, 2_147_483_647)),
            ("namespaces", names("Services in these namespaces.")),
            ("namespaceSelectors", selectors("Services in namespaces with such labels.")),
            ("serviceSelectors", selectors("Services with such labels.")),
        ],
    );
    let spec = requires(
        object(
            "What the pool gives out.",
            &[
                (
                    "addresses",
                    names("Networks (192.168.1.0/24) and ranges (192.168.1.10-192.168.1.20), IPv4 and IPv6."),
                ),
                ("autoAssign", or(flag("Whether services that do not ask for this pool get addresses from it."), true)),
                (
                    "avoidBuggyIPs",
                    or(flag("Whether to leave out addresses ending in .0 and .255, which some devices refuse."), false),
                ),
                ("serviceAllocation", allocation),
            ],
        ),
        &["addresses"],
    );
    let status = object(
        "How much of the pool is in use.",
        &[
            ("assignedIPv4", count("IPv4 addresses that services have.")),
            ("assignedIPv6", count("IPv6 addresses that services have.")),
            ("availableIPv4", count("IPv4 addresses left.")),
            ("availableIPv6", count("IPv6 addresses left.")),
        ],
    );
    let mut definition = single(
        "IPAddressPool",
        "ipaddresspools",
        "Addresses that services of type LoadBalancer get.",
        vec![
            column("Auto Assign", "boolean", ".spec.autoAssign"),
            column("Avoid Buggy IPs", "boolean", ".spec.avoidBuggyIPs"),
            column("Addresses", "string", ".spec.addresses"),
            wide("Assigned IPv4", "integer", ".status.assignedIPv4"),
            wide("Available IPv4", "integer", ".status.availableIPv4"),
            wide("Assigned IPv6", "integer", ".status.assignedIPv6"),
            wide("Available IPv6", "integer", ".status.availableIPv6"),
        ],
        spec,
        status,
    );
    definition.versions.iter_mut().for_each(|version| version.spec_required = true);
    definition
}

/// The fields by which both kinds of advertisement say what they are about.
fn subject(nodes: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("ipAddressPools", names("Addresses of these pools. Without pools and pool selectors: of all pools.")),
        ("ipAddressPoolSelectors", selectors("Addresses of pools with such labels.")),
        ("nodeSelectors", selectors(nodes)),
        ("serviceSelectors", selectors("Services with such labels; none: all services.")),
    ]
}

fn subject_columns() -> Vec<Column> {
    vec![
        column("IPAddressPools", "string", ".spec.ipAddressPools"),
        column("IPAddressPool Selectors", "string", ".spec.ipAddressPoolSelectors"),
    ]
}

fn l2_advertisement() -> Definition {
    let preferred = requires(
        object(
            "Nodes to prefer.",
            &[
                ("weight", number("How much: the weights of all preferences that match a node are added.", 1, 100)),
                ("preference", selector()),
            ],
        ),
        &["weight", "preference"],
    );
    let mut fields = subject("Nodes that may announce; none: all.");
    fields.push(("interfaces", names("Interfaces to announce on; none: all that the node announces on.")));
    fields.push(("preferredNodeSelectors", list("Which of the nodes that may announce should.", preferred)));
    let mut columns = subject_columns();
    columns.push(column("Interfaces", "string", ".spec.interfaces"));
    columns.push(wide("Node Selectors", "string", ".spec.nodeSelectors"));
    single(
        "L2Advertisement",
        "l2advertisements",
        "Announces addresses by ARP and Neighbour Discovery.",
        columns,
        object("What is announced, and from where.", &fields),
        empty("Nothing yet."),
    )
}

fn bgp_advertisement() -> Definition {
    let mut fields = subject("Nodes that announce; none: all.");
    fields.extend([
        ("aggregationLength", or(number("Prefix length of what is announced for IPv4 addresses.", 1, 32), 32)),
        ("aggregationLengthV6", or(number("Prefix length of what is announced for IPv6 addresses.", 1, 128), 128)),
        ("localPref", number("LOCAL_PREF, for internal peers.", 0, ASN)),
        ("communities", names("Communities: 64512:100, large:64512:1:2, or a name that a Community object gives one.")),
        ("peers", names("Peers that are told; none: all.")),
    ]);
    let mut columns = subject_columns();
    columns.push(column("Peers", "string", ".spec.peers"));
    columns.push(wide("Node Selectors", "string", ".spec.nodeSelectors"));
    single(
        "BGPAdvertisement",
        "bgpadvertisements",
        "Announces addresses by BGP.",
        columns,
        object("What is announced, to whom, and how.", &fields),
        empty("Nothing yet."),
    )
}

fn bgp_peer() -> Definition {
    let columns = || {
        vec![
            column("Address", "string", ".spec.peerAddress"),
            column("ASN", "string", ".spec.peerASN"),
            column("BFD Profile", "string", ".spec.bfdProfile"),
            column("Multi Hops", "string", ".spec.ebgpMultiHop"),
        ]
    };
    let common = || {
        vec![
            ("myASN", number("The autonomous system of this end.", 0, ASN)),
            ("peerASN", number("The autonomous system of the other end.", 0, ASN)),
            ("peerAddress", text("The peer's address.")),
            ("sourceAddress", text("The address to connect from.")),
            ("holdTime", text("Hold time (RFC 4271 section 4.2), 0s or at least 3s; 90s if not given.")),
            ("keepaliveTime", text("Time between keepalives; a third of the hold time if not given.")),
            ("routerID", text("The router identifier, in the form of an IPv4 address.")),
            ("nodeSelectors", selectors("Nodes that have a session with this peer; none: all.")),
            ("password", text("The password of TCP MD5 signatures (RFC 2385). A Secret is a better place for it.")),
            ("bfdProfile", text("The BFDProfile of a BFD session beside the BGP session; none: no BFD.")),
            ("ebgpMultiHop", flag("Whether an external peer may be more than one hop away.")),
        ]
    };
    let mut old = common();
    old.push(("peerPort", number("The peer's port.", 0, 65_535)));
    let old = requires(object("The peer.", &old), &["myASN", "peerASN", "peerAddress"]);

    let whole_seconds = [
        (
            "duration(self) >= duration('1s') && duration(self) <= duration('65535s')",
            "connectTime is from 1s to 65535s",
        ),
        ("duration(self).getMilliseconds() % 1000 == 0", "connectTime is in whole seconds"),
    ];
    let mut new = common();
    new.extend([
        ("peerPort", or(number("The peer's port.", 1, 65_535), 179)),
        (
            "dynamicASN",
            one_of(
                "In place of peerASN: internal accepts the own autonomous system, external any other.",
                &["internal", "external"],
            ),
        ),
        ("localASN", number("The autonomous system that this peer sees in place of myASN.", 1, ASN)),
        ("interface", text("In place of peerAddress: the interface of an unnumbered session (RFC 8950).")),
        ("connectTime", rules(text("Time between attempts to connect."), &whole_seconds)),
        (
            "passwordSecret",
            object(
                "In place of password: a Secret of type kubernetes.io/basic-auth in the system namespace.",
                &[("name", text("Its name.")), ("namespace", text("Its namespace."))],
            ),
        ),
        ("enableGracefulRestart", immutable(flag("Whether routes outlast a restart (RFC 4724)."))),
        ("vrf", text("The VRF of the interface that leads to the peer.")),
        ("disableMP", or(flag("Deprecated, use dualStackAddressFamily: one session for each family."), false)),
        ("dualStackAddressFamily", or(flag("Whether one session carries both families."), false)),
    ]);
    let new = rules(
        requires(object("The peer.", &new), &["myASN"]),
        &[
            (
                "(has(self.peerASN) && self.peerASN != 0) != (has(self.dynamicASN) && self.dynamicASN != '')",
                "give either peerASN or dynamicASN",
            ),
            (
                "(has(self.peerAddress) && self.peerAddress != '') != (has(self.interface) && self.interface != '')",
                "give either peerAddress or interface",
            ),
            (
                "!(has(self.password) && self.password != '' && has(self.passwordSecret) && \
                 has(self.passwordSecret.name) && self.passwordSecret.name != '')",
                "give either password or passwordSecret",
            ),
        ],
    );
    let version = |name, deprecated, spec| Version {
        name,
        deprecated,
        about: "A router to tell about addresses by BGP.",
        columns: columns(),
        spec,
        spec_required: false,
        status: empty("Nothing yet."),
    };
    Definition {
        kind: "BGPPeer",
        plural: "bgppeers",
        versions: vec![
            version("v1beta1", Some("metallb.io/v1beta1 BGPPeer is deprecated; use metallb.io/v1beta2"), old),
            version("v1beta2", None, new),
        ],
    }
}

fn bfd_profile() -> Definition {
    let milliseconds = |about| number(about, 10, 60_000);
    single(
        "BFDProfile",
        "bfdprofiles",
        "Settings of BFD sessions (RFC 5880).",
        vec![
            column("Passive Mode", "boolean", ".spec.passiveMode"),
            column("Transmit Interval", "integer", ".spec.transmitInterval"),
            column("Receive Interval", "integer", ".spec.receiveInterval"),
            column("Multiplier", "integer", ".spec.detectMultiplier"),
        ],
        object(
            "The settings.",
            &[
                ("receiveInterval", milliseconds("Milliseconds between packets that this end can receive; 300.")),
                ("transmitInterval", milliseconds("Milliseconds between packets that this end wants to send; 300.")),
                ("detectMultiplier", number("Packets lost in a row before the session is down; 3.", 2, 255)),
                ("echoInterval", milliseconds("Milliseconds between echo packets that this end can handle; 50.")),
                ("echoMode", flag("Whether to send echo packets; not over several hops.")),
                ("passiveMode", flag("Whether to wait until the other end begins.")),
                ("minimumTtl", number("Over several hops: the least time to live of packets received.", 1, 254)),
            ],
        ),
        empty("Nothing yet."),
    )
}

fn community() -> Definition {
    let alias = object(
        "A name.",
        &[("name", text("The name.")), ("value", text("What it stands for: 64512:100 or large:64512:1:2."))],
    );
    single(
        "Community",
        "communities",
        "Names for BGP communities.",
        Vec::new(),
        object("The names.", &[("communities", list("Names and what they stand for.", alias))]),
        empty("Nothing yet."),
    )
}

/// The fields that tell which service on which node a status is about.
fn about_service() -> Vec<(&'static str, Value)> {
    vec![
        ("node", immutable(text("The node."))),
        ("serviceName", immutable(text("The service's name."))),
        ("serviceNamespace", immutable(text("The service's namespace."))),
    ]
}

fn service_l2_status() -> Definition {
    let mut status = about_service();
    let interface = object("An interface.", &[("name", text("Its name."))]);
    status.push(("interfaces", list("The interfaces that take the service's traffic.", interface)));
    single(
        "ServiceL2Status",
        "servicel2statuses",
        "Which node answers for a service's addresses by ARP and Neighbour Discovery.",
        vec![
            column("Allocated Node", "string", ".status.node"),
            column("Service Name", "string", ".status.serviceName"),
            column("Service Namespace", "string", ".status.serviceNamespace"),
        ],
        empty("Nothing."),
        object("What is so at present.", &status),
    )
}

fn service_bgp_status() -> Definition {
    let mut status = about_service();
    status.push(("peers", names("The peers that the service's addresses are for.")));
    single(
        "ServiceBGPStatus",
        "servicebgpstatuses",
        "Which peers a node tells about a service's addresses.",
        vec![
            column("Node", "string", ".status.node"),
            column("Service Name", "string", ".status.serviceName"),
            column("Service Namespace", "string", ".status.serviceNamespace"),
        ],
        empty("Nothing."),
        object("What is so at present.", &status),
    )
}

fn configuration_state() -> Definition {
    let spec = object(
        "Who reports.",
        &[
            ("type", one_of("Which part of the program.", &["Controller", "Speaker"])),
            ("nodeName", text("The node, if each has a part of its own.")),
        ],
    );
    let status = object(
        "What the configuration comes to.",
        &[
            ("result", one_of("Whether all of it is in force.", &["Valid", "Invalid", "Unknown"])),
            ("errorSummary", text("What is wrong with it.")),
            ("conditions", conditions("The parts of it.")),
        ],
    );
    single(
        "ConfigurationState",
        "configurationstates",
        "Whether the configuration is in force.",
        vec![
            column("Result", "string", ".status.result"),
            column("Error", "string", ".status.errorSummary"),
            column("Age", "date", ".metadata.creationTimestamp"),
        ],
        spec,
        status,
    )
}
