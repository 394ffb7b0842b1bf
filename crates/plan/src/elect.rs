//! Who announces each address, and the named reason why the other nodes do not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::allocate::Allocation;
use crate::diagnostic::{Diagnostic, Severity};
use crate::frontends::{SlicesByService, slices_by_service};
use crate::range::IpFamily;
use crate::selector;
use crate::world::{Endpoint, IpAddressPool, Kind, L2Advertisement, Node, Service, TrafficPolicy, World};

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
    pub nodes: Vec<String>,
    /// All other nodes, each with the reason why not.
    pub excluded: Vec<Exclusion>,
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
}

impl fmt::Display for AnnouncementProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2 => "l2",
        })
    }
}

/// A node that does not announce an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exclusion {
    /// The node.
    pub node: String,
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
    /// No endpoint is ready or serving, on any node.
    NoEndpoints,
    /// Under externalTrafficPolicy Local: no endpoint on this node is ready or serving.
    NoLocalEndpoint,
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
            Self::NoEndpoints => "no_endpoints",
            Self::NoLocalEndpoint => "no_local_endpoint",
            Self::NotElected => "not_elected",
        })
    }
}

/// Elect an announcer for every allocated address. `owners` is what [`owners`] returned last time: a present owner
/// stays while it can, because every move costs clients.
pub fn elect(
    world: &World,
    allocation: &Allocation<'_>,
    owners: &BTreeMap<IpAddr, String>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Announcement> {
    diagnostics.extend(world.l2_advertisements.values().flat_map(|advertisement| dangling(advertisement, world)));
    let slices = slices_by_service(world);
    let mut sharers: BTreeMap<IpAddr, Vec<&Service>> = BTreeMap::new();
    for planned in &allocation.services {
        let Some(service) = world.services.get(&planned.service()) else { continue };
        for address in &planned.addresses {
            sharers.entry(*address).or_default().push(service);
        }
    }
    let announcement = |(address, services): (&IpAddr, &Vec<&Service>)| {
        let pool = allocation.pools.get(address).copied();
        let covers = services.iter().map(|service| Cover::new(world, service, (*address, pool), &slices)).collect();
        Contest { address: *address, covers }.decide(world, owners.get(address).map(String::as_str))
    };
    sharers.iter().map(announcement).collect()
}

/// What to remember for the next [`elect`]: the owner, or while nobody can announce, the last one.
pub fn owners(announcements: &[Announcement], before: &BTreeMap<IpAddr, String>) -> BTreeMap<IpAddr, String> {
    let owner = |announcement: &Announcement| {
        let owner = announcement.nodes.first().or_else(|| before.get(&announcement.address))?;
        Some((announcement.address, owner.clone()))
    };
    announcements.iter().filter_map(owner).collect()
}

/// One address with all the services that share it: they have one announcer together.
struct Contest<'w> {
    address: IpAddr,
    covers: Vec<Cover<'w>>,
}

/// A service with the advertisements that cover it and the nodes its endpoints are on.
struct Cover<'w> {
    advertisements: Vec<&'w L2Advertisement>,
    policy: TrafficPolicy,
    has_endpoints: bool,
    endpoint_nodes: BTreeSet<&'w str>,
}

impl<'w> Cover<'w> {
    fn new(
        world: &'w World,
        service: &Service,
        (address, pool): (IpAddr, Option<&IpAddressPool>),
        slices: &SlicesByService<'w>,
    ) -> Self {
        let covers = |advertisement: &&L2Advertisement| {
            selects_pool(advertisement, pool) && selector::any_or_all(&advertisement.service_selectors, &service.labels)
        };
        let usable = |endpoint: &&Endpoint| endpoint.ready || endpoint.serving || service.publish_not_ready;
        let slices = slices.get(&service.name).map_or(&[][..], Vec::as_slice);
        let endpoints: Vec<&Endpoint> = slices
            .iter()
            .filter(|slice| slice.address_type == IpFamily::of(address))
            .flat_map(|slice| &slice.endpoints)
            .filter(usable)
            .collect();
        Self {
            advertisements: world
                .l2_advertisements
                .values()
                .map(|advertisement| &**advertisement)
                .filter(covers)
                .collect(),
            policy: service.traffic_policy,
            has_endpoints: !endpoints.is_empty(),
            endpoint_nodes: endpoints.iter().filter_map(|endpoint| endpoint.node.as_deref()).collect(),
        }
    }

    fn advertisements_on<'s>(&'s self, node: &'s Node) -> impl Iterator<Item = &'w L2Advertisement> + 's {
        let on_node = |ad: &&L2Advertisement| selector::any_or_all(&ad.node_selectors, &node.labels);
        self.advertisements.iter().copied().filter(on_node)
    }

    /// Why this service alone would not have the node announce.
    fn objection(&self, node: &Node) -> Option<ExclusionReason> {
        if self.advertisements.is_empty() {
            Some(ExclusionReason::NoAdvertisement)
        } else if node.network_unavailable {
            Some(ExclusionReason::NetworkUnavailable)
        } else if node.labels.contains_key(EXCLUDE_LABEL) {
            Some(ExclusionReason::ExcludedByLabel)
        } else if self.advertisements_on(node).next().is_none() {
            Some(ExclusionReason::NodeNotSelected)
        } else if !self.has_endpoints {
            Some(ExclusionReason::NoEndpoints)
        } else if self.policy == TrafficPolicy::Local && !self.endpoint_nodes.contains(node.name.as_str()) {
            Some(ExclusionReason::NoLocalEndpoint)
        } else {
            None
        }
    }
}

/// An advertisement that names no pool is for all pools. So is every advertisement for an address whose pool is not
/// known: it is kept while there are no pools at all, and to keep it silently would serve nobody.
fn selects_pool(advertisement: &L2Advertisement, pool: Option<&IpAddressPool>) -> bool {
    let Some(pool) = pool else { return true };
    let all = advertisement.pools.is_empty() && advertisement.pool_selectors.is_empty();
    all || advertisement.pools.contains(&pool.name.name)
        || advertisement.pool_selectors.iter().any(|selector| selector.matches(&pool.labels))
}

impl Contest<'_> {
    fn decide(&self, world: &World, owner: Option<&str>) -> Announcement {
        let mut able: Vec<&Node> = Vec::new();
        let mut excluded = Vec::new();
        for node in world.nodes.values() {
            match self.objection(node) {
                Some(reason) => excluded.push(Exclusion { node: node.name.clone(), reason }),
                None => able.push(node),
            }
        }
        let present = able.iter().copied().find(|node| Some(node.name.as_str()) == owner);
        let elected = present.or_else(|| able.iter().copied().min_by_key(|node| self.rank(node)));
        let losers = able.iter().filter(|node| Some(&node.name) != elected.map(|elected| &elected.name));
        excluded.extend(losers.map(|node| Exclusion { node: node.name.clone(), reason: ExclusionReason::NotElected }));
        excluded.sort_by(|a, b| a.node.cmp(&b.node));
        Announcement {
            address: self.address,
            protocol: AnnouncementProtocol::L2,
            nodes: elected.iter().map(|node| node.name.clone()).collect(),
            excluded,
            interfaces: elected.and_then(|node| self.interfaces(node)),
        }
    }

    /// `None` when at least one service would have the node announce; else the objection that came closest.
    fn objection(&self, node: &Node) -> Option<ExclusionReason> {
        let objections: Option<Vec<ExclusionReason>> = self.covers.iter().map(|cover| cover.objection(node)).collect();
        objections.and_then(|objections| objections.into_iter().max())
    }

    /// The interfaces the advertisements name for this node, unless one of them means all.
    fn interfaces(&self, node: &Node) -> Option<Vec<String>> {
        let advertisements: Vec<_> = self.willing(node).flat_map(|cover| cover.advertisements_on(node)).collect();
        let all = advertisements.iter().any(|advertisement| advertisement.interfaces.is_empty());
        let named: BTreeSet<&String> = advertisements.iter().flat_map(|ad| &ad.interfaces).collect();
        (!all).then(|| named.into_iter().cloned().collect())
    }

    fn willing<'s>(&'s self, node: &'s Node) -> impl Iterator<Item = &'s Cover<'s>> + 's {
        self.covers.iter().filter(|cover| cover.objection(node).is_none())
    }

    /// The most preferred node first, then by rendezvous hash: each address ranks the nodes in another order, so the
    /// addresses spread, and losing a node moves none but its own.
    fn rank(&self, node: &Node) -> (std::cmp::Reverse<u32>, [u8; 32]) {
        let mut seen = BTreeSet::new();
        let advertisements = self.willing(node).flat_map(|cover| cover.advertisements_on(node));
        let weight = advertisements
            .filter(|advertisement| seen.insert(&advertisement.name))
            .flat_map(|advertisement| &advertisement.preferred)
            .filter(|preferred| preferred.preference.matches(&node.labels))
            .map(|preferred| u32::from(preferred.weight))
            .sum();
        (std::cmp::Reverse(weight), rendezvous_hash(&node.name, self.address))
    }
}

/// Pools the advertisement names that do not exist: perhaps not yet, perhaps a typo.
fn dangling<'w>(advertisement: &'w L2Advertisement, world: &'w World) -> impl Iterator<Item = Diagnostic> + 'w {
    let missing = |name: &str| !world.pools.keys().any(|pool| pool.name == name);
    advertisement.pools.iter().enumerate().filter(move |(_, name)| missing(name)).map(|(n, name)| Diagnostic {
        severity: Severity::Warning,
        reason: "pool_not_found",
        kind: Kind::L2Advertisement,
        name: advertisement.name.to_string(),
        field: format!("spec.ipAddressPools[{n}]"),
        message: format!("pool `{name}` does not exist"),
        remedy: "create the pool, or correct the name".to_owned(),
    })
}

/// SHA-256 of `node#address`: the order MetalLB's speakers elect in, so that a takeover moves no address.
fn rendezvous_hash(node: &str, address: IpAddr) -> [u8; 32] {
    Sha256::digest(format!("{node}#{address}")).into()
}

#[cfg(test)]
mod tests;
