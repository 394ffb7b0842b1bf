//! Who announces each address at layer 2, and the named reason why the other nodes do not.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::diagnostic::{Diagnostic, Severity};
use crate::endpoints;
use crate::range::IpFamily;
use crate::selector::{self, LabelSelector};
use crate::world::{
    AgentState, EndpointSlice, IpAddressPool, Kind, L2Advertisement, Node, Service, TrafficPolicy, World,
};

/// The label that keeps a node from announcing, whatever its value.
pub const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Who announces an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Announcement {
    /// The VIP.
    pub address: IpAddr,
    /// How it is announced.
    pub protocol: AnnouncementProtocol,
    /// The nodes that announce it: at layer 2 one, or none.
    pub nodes: Vec<Arc<str>>,
    /// All other nodes, each with the reason why not.
    pub excluded: Vec<Exclusion>,
    /// Nobody has announced it yet, and this node would come before the elected one, had it an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub awaited: Option<Arc<str>>,
    /// No advertisement covers it, but one that cannot be read may: nobody is elected, and whoever announces it goes on. That
    /// one is among the errors, so output need not say so here.
    #[serde(skip)]
    pub unread: bool,
    /// The interfaces to announce it on; `None`: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Vec<String>>,
}

/// How an address is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AnnouncementProtocol {
    /// ARP and NDP.
    L2,
    /// BGP.
    Bgp,
}

impl fmt::Display for AnnouncementProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2 => "l2",
            Self::Bgp => "bgp",
        })
    }
}

/// A node that does not announce an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exclusion {
    /// The node.
    pub node: Arc<str>,
    /// Why not.
    pub reason: ExclusionReason,
}

/// Why a node does not announce an address. Where several apply, the first of this list is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExclusionReason {
    /// No advertisement covers the address: no node announces it.
    NoAdvertisement,
    /// The node's condition `NetworkUnavailable` is true.
    NetworkUnavailable,
    /// The node carries [`EXCLUDE_LABEL`].
    ExcludedByLabel,
    /// No advertisement of the address selects the node.
    NodeNotSelected,
    /// BGP: the node has no session with a peer the advertisement is for.
    NoSession,
    /// BGP: it has, but none of these sessions carries the address's family.
    FamilyNotCarried,
    /// The node's data path does not answer: it was declared dead.
    NotAnswering,
    /// The node's agent gives its addresses away.
    NodeLeaving,
    /// No endpoint is ready or serving, on any node.
    NoEndpoints,
    /// Under externalTrafficPolicy Local: no endpoint on this node is ready or serving.
    NoLocalEndpoint,
    /// The node could, but no agent attends to it. One that announces already goes on.
    NoAgent,
    /// The node could, but another one does.
    NotElected,
}

impl fmt::Display for ExclusionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAdvertisement => "no_advertisement",
            Self::NetworkUnavailable => "network_unavailable",
            Self::ExcludedByLabel => "excluded_by_label",
            Self::NodeNotSelected => "node_not_selected",
            Self::NoSession => "no_session",
            Self::FamilyNotCarried => "family_not_carried",
            Self::NotAnswering => "not_answering",
            Self::NodeLeaving => "node_leaving",
            Self::NoEndpoints => "no_endpoints",
            Self::NoLocalEndpoint => "no_local_endpoint",
            Self::NoAgent => "no_agent",
            Self::NotElected => "not_elected",
        })
    }
}

/// All that elections have in common: the nodes, and what each advertisement makes of them.
#[derive(Debug, Default)]
pub(crate) struct Electorate {
    nodes: Vec<Voter>,
    advertisements: Vec<Advertised>,
    /// There are others, which cannot be read.
    has_unread: bool,
}

#[derive(Debug)]
struct Voter {
    name: Arc<str>,
    /// Why the node announces nothing at all.
    objection: Option<ExclusionReason>,
    /// An agent attends to it, so that it can begin to announce.
    attended: bool,
}

/// An advertisement with what it makes of each node.
#[derive(Debug)]
struct Advertised {
    advertisement: Arc<L2Advertisement>,
    /// By node: `None` where the advertisement does not select it, else how much it prefers it.
    weights: Vec<Option<u32>>,
}

/// One of the services that share an address.
pub(crate) struct Sharer<'w> {
    pub(crate) service: &'w Service,
    pub(crate) slices: Vec<&'w EndpointSlice>,
}

impl Electorate {
    /// The nodes and advertisements of a World.
    pub(crate) fn new(world: &World) -> Self {
        let voter = |node: &Arc<Node>| {
            let agent = agent(node, world);
            let gone = match agent {
                Some(AgentState::Dead) => Some(ExclusionReason::NotAnswering),
                Some(AgentState::Leaving) => Some(ExclusionReason::NodeLeaving),
                Some(AgentState::Attended | AgentState::Silent) | None => None,
            };
            Voter {
                name: node.name.as_str().into(),
                objection: objection(node, world).or(gone),
                attended: agent == Some(AgentState::Attended),
            }
        };
        let advertised = |advertisement: &Arc<L2Advertisement>| Advertised {
            weights: world.nodes.values().map(|node| weight(advertisement, node)).collect(),
            advertisement: Arc::clone(advertisement),
        };
        Self {
            nodes: world.nodes.values().map(voter).collect(),
            advertisements: world.l2_advertisements.values().map(advertised).collect(),
            has_unread: world.gaps.advertisements,
        }
    }

    /// Elect an announcer of an address for all the services that share it. A present owner stays while it can,
    /// because every move costs clients. `anchor` is the address the nodes are ranked by: services with two addresses
    /// have both announced by one node.
    pub(crate) fn elect(
        &self,
        address: IpAddr,
        anchor: IpAddr,
        pool: Option<&IpAddressPool>,
        sharers: &[Sharer<'_>],
        owner: Option<&str>,
    ) -> Announcement {
        let covers: Vec<Cover<'_>> = sharers.iter().map(|sharer| self.cover(sharer, address, pool)).collect();
        let mut excluded = Vec::new();
        let mut able: Vec<usize> = Vec::new();
        for (n, node) in self.nodes.iter().enumerate() {
            let objections: Option<Vec<ExclusionReason>> =
                covers.iter().map(|cover| cover.objection(n, node)).collect();
            // One service that would have the node announce is enough; else the objection that came closest counts.
            match objections.and_then(|objections| objections.into_iter().max()) {
                Some(reason) => excluded.push(Exclusion { node: Arc::clone(&node.name), reason }),
                None => able.push(n),
            }
        }
        let name = |n: &usize| self.nodes.get(*n).map(|node| &node.name);
        let present = able.iter().copied().find(|n| name(n).map(|name| &**name) == owner);
        let attended = |n: &usize| self.nodes.get(*n).is_some_and(|node| node.attended);
        let first = || able.iter().copied().filter(attended).min_by_key(|n| self.rank(*n, &covers, anchor));
        let elected = present.or_else(first);
        // Ranking costs: where there is an owner it makes no difference.
        let best = || able.iter().copied().min_by_key(|n| self.rank(*n, &covers, anchor));
        let awaited = owner.is_none().then(best).flatten().filter(|best| !attended(best));
        let losers = able.iter().filter(|n| Some(**n) != elected).filter_map(|n| Some((n, name(n)?)));
        excluded.extend(losers.map(|(n, node)| {
            let reason = if attended(n) { ExclusionReason::NotElected } else { ExclusionReason::NoAgent };
            Exclusion { node: Arc::clone(node), reason }
        }));
        excluded.sort_by(|a, b| a.node.cmp(&b.node));
        Announcement {
            address,
            protocol: AnnouncementProtocol::L2,
            nodes: elected.iter().filter_map(name).cloned().collect(),
            excluded,
            awaited: awaited.as_ref().and_then(name).cloned(),
            unread: self.has_unread && covers.iter().all(|cover| cover.advertisements.is_empty()),
            interfaces: elected.and_then(|n| self.interfaces(n, &covers)),
        }
    }

    fn cover<'a>(&'a self, sharer: &'a Sharer<'a>, address: IpAddr, pool: Option<&IpAddressPool>) -> Cover<'a> {
        let service = sharer.service;
        Cover {
            advertisements: self.covering(service, pool).collect(),
            presence: Presence::of(sharer, IpFamily::of(address)),
        }
    }

    /// Whether there is any advertisement.
    pub(crate) fn is_used(&self) -> bool {
        !self.advertisements.is_empty()
    }

    /// Whether there is any that cannot be read, and may be for any address.
    pub(crate) fn has_unread(&self) -> bool {
        self.has_unread
    }

    /// Whether any advertisement is for one of the services at an address of this pool.
    pub(crate) fn covers(&self, pool: Option<&IpAddressPool>, sharers: &[Sharer<'_>]) -> bool {
        sharers.iter().any(|sharer| self.covering(sharer.service, pool).next().is_some())
    }

    fn covering(&self, service: &Service, pool: Option<&IpAddressPool>) -> impl Iterator<Item = &Advertised> {
        self.advertisements.iter().filter(move |Advertised { advertisement, .. }| {
            selects_pool(&advertisement.pools, &advertisement.pool_selectors, pool)
                && selector::any_or_all(&advertisement.service_selectors, &service.labels)
        })
    }

    /// The most preferred node first, then by rendezvous hash: each address ranks the nodes in another order, so the
    /// addresses spread, and losing a node moves none but its own.
    fn rank(&self, n: usize, covers: &[Cover<'_>], anchor: IpAddr) -> (Reverse<u32>, [u8; 32]) {
        let weight = self.willing(n, covers).map(|(_, weight)| weight).sum();
        let name = self.nodes.get(n).map_or("", |node| &node.name);
        (Reverse(weight), rendezvous_hash(name, anchor))
    }

    /// The advertisements under which a node would announce, each once, with how much they prefer it.
    fn willing<'a>(&self, n: usize, covers: &'a [Cover<'a>]) -> impl Iterator<Item = (&'a Advertised, u32)> {
        let mut seen = BTreeSet::new();
        let willing =
            covers.iter().filter(move |cover| self.nodes.get(n).is_some_and(|node| cover.objection(n, node).is_none()));
        willing
            .flat_map(move |cover| cover.on(n))
            .filter(move |(advertised, _)| seen.insert(&advertised.advertisement.name))
    }

    /// The interfaces the advertisements name for a node, unless one of them means all.
    fn interfaces(&self, n: usize, covers: &[Cover<'_>]) -> Option<Vec<String>> {
        let mut named = BTreeSet::new();
        for (advertised, _) in self.willing(n, covers) {
            let interfaces = &advertised.advertisement.interfaces;
            if interfaces.is_empty() {
                return None;
            }
            named.extend(interfaces);
        }
        Some(named.into_iter().cloned().collect())
    }
}

/// A service with the advertisements that cover it and the nodes its endpoints are on.
struct Cover<'a> {
    advertisements: Vec<&'a Advertised>,
    presence: Presence<'a>,
}

/// Where the endpoints of a service that count are, as far as it matters.
pub(crate) struct Presence<'a> {
    has_endpoints: bool,
    /// Only of interest under externalTrafficPolicy Local.
    endpoint_nodes: Option<BTreeSet<&'a str>>,
}

impl<'a> Presence<'a> {
    /// The endpoints of one family.
    pub(crate) fn of(sharer: &'a Sharer<'a>, family: IpFamily) -> Self {
        let serving = || endpoints::serving(sharer.service, &sharer.slices, family);
        Self {
            has_endpoints: serving().next().is_some(),
            endpoint_nodes: match sharer.service.traffic_policy {
                TrafficPolicy::Cluster => None,
                TrafficPolicy::Local => Some(serving().filter_map(|endpoint| endpoint.node.as_deref()).collect()),
            },
        }
    }

    /// Why the endpoints, or their absence, would not have the node announce.
    pub(crate) fn objection(&self, node: &str) -> Option<ExclusionReason> {
        if !self.has_endpoints {
            Some(ExclusionReason::NoEndpoints)
        } else if self.endpoint_nodes.as_ref().is_some_and(|nodes| !nodes.contains(node)) {
            Some(ExclusionReason::NoLocalEndpoint)
        } else {
            None
        }
    }
}

impl<'a> Cover<'a> {
    /// The advertisements that select a node, with how much they prefer it.
    fn on(&self, n: usize) -> impl Iterator<Item = (&'a Advertised, u32)> {
        self.advertisements.iter().filter_map(move |advertised| Some((*advertised, (*advertised.weights.get(n)?)?)))
    }

    /// Why this service alone would not have the node announce.
    fn objection(&self, n: usize, node: &Voter) -> Option<ExclusionReason> {
        if self.advertisements.is_empty() {
            Some(ExclusionReason::NoAdvertisement)
        } else if node.objection.is_some() {
            node.objection
        } else if self.on(n).next().is_none() {
            Some(ExclusionReason::NodeNotSelected)
        } else {
            self.presence.objection(&node.name)
        }
    }
}

/// Why a node announces nothing at all.
pub(crate) fn objection(node: &Node, world: &World) -> Option<ExclusionReason> {
    if node.network_unavailable {
        Some(ExclusionReason::NetworkUnavailable)
    } else if !world.ignore_exclude_label && node.labels.contains_key(EXCLUDE_LABEL) {
        Some(ExclusionReason::ExcludedByLabel)
    } else {
        None
    }
}

/// What is known of a node's agent. Without a cluster all nodes have one; in a cluster those may have none.
fn agent(node: &Node, world: &World) -> Option<AgentState> {
    match &world.cluster {
        None => Some(AgentState::Attended),
        Some(cluster) => cluster.agents.get(node.name.as_str()).copied(),
    }
}

/// How much an advertisement prefers a node; `None` when it does not select it.
fn weight(advertisement: &L2Advertisement, node: &Node) -> Option<u32> {
    let preferred = advertisement.preferred.iter().filter(|preferred| preferred.preference.matches(&node.labels));
    selector::any_or_all(&advertisement.node_selectors, &node.labels)
        .then(|| preferred.map(|preferred| u32::from(preferred.weight)).sum())
}

/// An advertisement that names no pool is for all pools. So is every advertisement for an address whose pool is not
/// known: it is kept while there are no pools at all, and to keep it silently would serve nobody.
pub(crate) fn selects_pool(names: &[String], selectors: &[LabelSelector], pool: Option<&IpAddressPool>) -> bool {
    let Some(pool) = pool else { return true };
    let all = names.is_empty() && selectors.is_empty();
    all || names.contains(&pool.name.name) || selectors.iter().any(|selector| selector.matches(&pool.labels))
}

/// Pools that advertisements name and that do not exist: perhaps not yet, perhaps a typo.
pub(crate) fn dangling(world: &World) -> Vec<Diagnostic> {
    let known: BTreeSet<&str> = world.pools.keys().map(|pool| pool.name.as_str()).collect();
    let missing = |advertisement: &Arc<L2Advertisement>| {
        let pools = advertisement.pools.iter().enumerate().filter(|(_, name)| !known.contains(name.as_str()));
        pools
            .map(|(n, name)| Diagnostic {
                severity: Severity::Warning,
                reason: "pool_not_found",
                kind: Kind::L2Advertisement,
                name: advertisement.name.to_string(),
                field: format!("spec.ipAddressPools[{n}]"),
                message: format!("pool `{name}` does not exist"),
                remedy: "create the pool, or correct the name".to_owned(),
            })
            .collect::<Vec<_>>()
    };
    world.l2_advertisements.values().flat_map(missing).collect()
}

/// SHA-256 of `node#address`: the order MetalLB's speakers elect in, so that a takeover moves no address.
fn rendezvous_hash(node: &str, address: IpAddr) -> [u8; 32] {
    Sha256::digest(format!("{node}#{address}")).into()
}

#[cfg(test)]
mod tests;
