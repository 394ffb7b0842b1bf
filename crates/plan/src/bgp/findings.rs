//! What is wrong with the BGP objects taken together: what they name in vain, and where they contradict each other.

use std::collections::BTreeMap;

use super::session::{self, NoSessionReason, Peering};
use super::{aggregation, announcement};
use crate::diagnostic::{Diagnostic, Severity};
use crate::elect;
use crate::range::IpRange;
use crate::selector;
use crate::world::{BgpAdvertisement, BgpPeer, CommunityRef, IpAddressPool, Kind, Node, Password, World};

/// The type of the Secrets that hold passwords.
const BASIC_AUTH: &str = "kubernetes.io/basic-auth";

/// What is to be said about the configuration alone.
///
/// - References to objects that do not exist: perhaps not yet, perhaps a typo. Whatever else is said is in force.
/// - Contradictions: each has an outcome, but hardly the one somebody wanted.
pub(crate) fn findings(world: &World) -> Vec<Diagnostic> {
    let peers = world.bgp_peers.values().flat_map(|peer| [no_profile(peer, world), no_secret(peer, world)]);
    let advertisements = world.bgp_advertisements.values().flat_map(|ad| in_vain(ad, world));
    let mut found: Vec<Diagnostic> = peers.flatten().chain(advertisements).collect();
    found.extend(duplicate_neighbors(world));
    found.extend(overreaching(world));
    found.extend(contradictory(world).into_values());
    found
}

fn of_peer(peer: &BgpPeer, severity: Severity, reason: &'static str, field: &str) -> Diagnostic {
    Diagnostic {
        severity,
        reason,
        kind: Kind::BgpPeer,
        name: peer.name.to_string(),
        field: field.to_owned(),
        message: String::new(),
        remedy: String::new(),
    }
}

pub(super) fn of_advertisement(
    ad: &BgpAdvertisement,
    severity: Severity,
    reason: &'static str,
    field: String,
) -> Diagnostic {
    Diagnostic {
        severity,
        reason,
        kind: Kind::BgpAdvertisement,
        name: ad.name.to_string(),
        field,
        message: String::new(),
        remedy: String::new(),
    }
}

fn no_profile(peer: &BgpPeer, world: &World) -> Option<Diagnostic> {
    let profile = peer.bfd_profile.as_ref().filter(|_| session::bfd_profile(peer, world).is_none())?;
    Some(Diagnostic {
        message: format!("BFD profile `{profile}` does not exist; the session runs without BFD"),
        remedy: "create the BFDProfile, or correct the name".to_owned(),
        ..of_peer(peer, Severity::Warning, "bfd_profile_not_found", "spec.bfdProfile")
    })
}

fn no_secret(peer: &BgpPeer, world: &World) -> Option<Diagnostic> {
    let Some(Password::Secret(secret)) = &peer.password else { return None };
    let secret = session::resolved(secret, peer);
    let (reason, message) = match session::find_secret(&secret, world) {
        Some(found) if found.secret_type == BASIC_AUTH => return None,
        Some(found) => {
            let found = &found.secret_type;
            (
                "secret_type",
                format!("secret {secret} is of type {found}, not {BASIC_AUTH}; no session comes up without it"),
            )
        }
        None => ("secret_not_found", format!("secret {secret} does not exist; no session comes up without it")),
    };
    Some(Diagnostic {
        message,
        remedy: format!("create a secret of type {BASIC_AUTH} with the key `password`, or correct the name"),
        ..of_peer(peer, Severity::Warning, reason, "spec.passwordSecret")
    })
}

/// Pools, peers and aliases an advertisement names in vain.
fn in_vain(ad: &BgpAdvertisement, world: &World) -> Vec<Diagnostic> {
    let warning = |reason, field| of_advertisement(ad, Severity::Warning, reason, field);
    let mut found = Vec::new();
    for (n, pool) in ad.pools.iter().enumerate() {
        if !world.pools.keys().any(|name| name.name == *pool) {
            found.push(Diagnostic {
                message: format!("pool `{pool}` does not exist"),
                remedy: "create the pool, or correct the name".to_owned(),
                ..warning("pool_not_found", format!("spec.ipAddressPools[{n}]"))
            });
        }
    }
    for (n, peer) in ad.peers.iter().enumerate() {
        if !world.bgp_peers.keys().any(|name| name.name == *peer) {
            found.push(Diagnostic {
                message: format!("peer `{peer}` does not exist"),
                remedy: "create the BGPPeer, or correct the name".to_owned(),
                ..warning("peer_not_found", format!("spec.peers[{n}]"))
            });
        }
    }
    let aliases = announcement::aliases(world);
    for (n, community) in ad.communities.iter().enumerate() {
        if let CommunityRef::Alias(alias) = community
            && !aliases.contains_key(alias.as_str())
        {
            found.push(Diagnostic {
                message: format!("`{alias}` is neither a community nor an alias of one; routes go out without it"),
                remedy: "define it in a Community object, or write 65535:65281 or large:64512:1:2".to_owned(),
                ..warning("community_not_found", format!("spec.communities[{n}]"))
            });
        }
    }
    found
}

/// Peers that some node has no session with because another peer object describes the same neighbor.
fn duplicate_neighbors(world: &World) -> Vec<Diagnostic> {
    let duplicate = |Peering { peer, of_node, .. }: &Peering<'_>| {
        let nodes = world.nodes.keys().zip(of_node);
        let mut without = nodes.filter(|(_, outcome)| **outcome == Err(NoSessionReason::DuplicateNeighbor));
        let (node, _) = without.next()?;
        Some(Diagnostic {
            message: format!("node {node} already has a session with this neighbor, by another BGPPeer"),
            remedy: "remove one of the two, or give them node selectors that exclude each other".to_owned(),
            ..of_peer(peer, Severity::Error, NoSessionReason::DuplicateNeighbor.as_str(), "")
        })
    };
    session::peerings(world).iter().filter_map(duplicate).collect()
}

/// Advertisements that set different local preferences for whatever is allocated from a pool they share, whether or not
/// anything is yet: by the names of the lower and the higher one. Those for some services only contradict each other, if
/// at all, where they meet.
pub(super) fn contradictory(world: &World) -> BTreeMap<(String, String), Diagnostic> {
    let mut found = BTreeMap::new();
    let general: Vec<&BgpAdvertisement> =
        world.bgp_advertisements.values().map(|ad| &**ad).filter(|ad| ad.service_selectors.is_empty()).collect();
    for lower in &general {
        for higher in general.iter().filter(|higher| higher.local_pref > lower.local_pref) {
            let both = |pool: &&IpAddressPool| {
                [lower, higher].iter().all(|ad| elect::selects_pool(&ad.pools, &ad.pool_selectors, Some(pool)))
                    && pool.ranges.iter().any(|range| {
                        aggregation::length(lower, range.family()) == aggregation::length(higher, range.family())
                    })
            };
            if !(share_peers(lower, higher) && share_nodes(lower, higher, world)) {
                continue;
            }
            let Some(pool) = world.pools.values().map(|pool| &**pool).find(both) else { continue };
            let (name, preferred) = (&lower.name.name, &higher.name.name);
            let finding = Diagnostic {
                message: format!(
                    "local preference {} contradicts {} of advertisement `{preferred}`, which is for pool `{}` as well; \
                     the higher one is told",
                    lower.local_pref, higher.local_pref, pool.name.name
                ),
                remedy: "let only one advertisement set it, or keep their pools, peers or nodes apart".to_owned(),
                ..of_advertisement(lower, Severity::Error, "conflicting_advertisements", "spec.localPref".to_owned())
            };
            found.insert((name.clone(), preferred.clone()), finding);
        }
    }
    found
}

fn share_peers(one: &BgpAdvertisement, other: &BgpAdvertisement) -> bool {
    one.peers.is_empty() || other.peers.is_empty() || one.peers.iter().any(|peer| other.peers.contains(peer))
}

fn share_nodes(one: &BgpAdvertisement, other: &BgpAdvertisement, world: &World) -> bool {
    let everywhere = one.node_selectors.is_empty() && other.node_selectors.is_empty();
    let on = |ad: &BgpAdvertisement, node: &Node| selector::any_or_all(&ad.node_selectors, &node.labels);
    everywhere || world.nodes.values().any(|node| on(one, node) && on(other, node))
}

/// Advertisements that would roll addresses up into more than their pool has.
fn overreaching(world: &World) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for ad in world.bgp_advertisements.values() {
        let covered = |pool: &&IpAddressPool| elect::selects_pool(&ad.pools, &ad.pool_selectors, Some(pool));
        for pool in world.pools.values().map(|pool| &**pool).filter(covered) {
            let length = |range: &IpRange| aggregation::length(ad, range.family());
            let overreaches = |range: &&IpRange| !aggregation::has_room(range, length(range));
            let Some(range) = pool.ranges.iter().find(overreaches) else { continue };
            let field = if range.first().is_ipv4() { "spec.aggregationLength" } else { "spec.aggregationLengthV6" };
            found.push(Diagnostic {
                message: format!(
                    "a /{} is more than {range} of pool `{}` has; its addresses are announced one by one",
                    length(range),
                    pool.name.name
                ),
                remedy: "aggregate into a longer prefix, or advertise this pool on its own".to_owned(),
                ..of_advertisement(ad, Severity::Error, "aggregation_exceeds_pool", field.to_owned())
            });
        }
    }
    found
}
