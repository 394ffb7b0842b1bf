//! Which routes to an address each node tells which peers, and why the other nodes tell none.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::aggregation::aggregate;
use super::session::{self, Peering, SessionKind};
use crate::elect::{self, AnnouncementProtocol, Exclusion, ExclusionReason, Presence, Sharer};
use crate::range::IpFamily;
use crate::selector;
use crate::world::{BgpAdvertisement, Community, CommunityRef, IpAddressPool, Node, Service, World};

/// Who announces an address by BGP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BgpAnnouncement {
    /// The VIP.
    pub address: IpAddr,
    /// [`AnnouncementProtocol::Bgp`].
    pub protocol: AnnouncementProtocol,
    /// The nodes that announce it: all that can.
    pub nodes: Vec<Arc<str>>,
    /// All other nodes, each with the reason why not.
    pub excluded: Vec<Exclusion>,
    /// What they announce, as the advertisements ask for it; by prefix and advertisement. Where several ask for the
    /// same prefix at the same peer, [`AdjRibOut`](super::AdjRibOut) says what becomes of it.
    pub routes: Vec<Route>,
}

/// A prefix that each of some nodes announces to each of some peers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Route {
    /// The address, or what it is rolled up into.
    #[serde(serialize_with = "prefix")]
    pub prefix: IpNet,
    /// The advertisement that asks for it.
    pub advertisement: Arc<str>,
    /// LOCAL_PREF (RFC 4271, section 5.1.5) where one is set and the peers are internal; others are told none.
    pub local_pref: Option<u32>,
    /// The communities, sorted.
    pub communities: Vec<Community>,
    /// The peers told.
    pub peers: Vec<Arc<str>>,
    /// The nodes that tell them.
    pub nodes: Vec<Arc<str>>,
}

pub(super) fn prefix<S: Serializer>(prefix: &IpNet, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(prefix)
}

/// What the configuration, the nodes and their sessions come to for any address: worked out once, it holds until one of
/// these changes. Services and endpoints do not matter to it.
#[derive(Debug, Default)]
pub(crate) struct Speakers {
    nodes: Vec<Speaker>,
    advertisements: Vec<Advertised>,
}

#[derive(Debug)]
struct Speaker {
    name: Arc<str>,
    /// Why it announces nothing at all.
    objection: Option<ExclusionReason>,
}

/// An advertisement with what it refers to.
#[derive(Debug)]
struct Advertised {
    name: Arc<str>,
    source: Arc<BgpAdvertisement>,
    communities: Vec<Community>,
    /// The reach on each node it selects, by the node's number. Many nodes have the same.
    reach_of: Vec<Option<usize>>,
    reaches: Vec<Reach>,
}

/// The peers a node tells what an advertisement is about.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Reach {
    v4: Told,
    v6: Told,
}

impl Reach {
    fn told(&self, family: IpFamily) -> &Told {
        match family {
            IpFamily::V4 => &self.v4,
            IpFamily::V6 => &self.v6,
        }
    }
}

/// Peers by name, those within our AS apart.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    internal: Vec<Arc<str>>,
    external: Vec<Arc<str>>,
}

impl Told {
    fn is_empty(&self) -> bool {
        self.internal.is_empty() && self.external.is_empty()
    }
}

impl Speakers {
    /// Resolve selectors, peers and communities. What an advertisement refers to in vain is left out of it.
    pub(crate) fn new(world: &World) -> Self {
        let peerings = session::peerings(world);
        let aliases = aliases(world);
        let advertised = |source: &Arc<BgpAdvertisement>| {
            let (mut reach_of, mut reaches) = (Vec::new(), BTreeMap::new());
            for (number, node) in world.nodes.values().enumerate() {
                let selected = selector::any_or_all(&source.node_selectors, &node.labels);
                let next = reaches.len();
                reach_of.push(selected.then(|| *reaches.entry(reach(source, &peerings, number)).or_insert(next)));
            }
            let mut by_number: Vec<(Reach, usize)> = reaches.into_iter().collect();
            by_number.sort_by_key(|(_, number)| *number);
            Advertised {
                name: source.name.name.as_str().into(),
                source: Arc::clone(source),
                communities: communities(source, &aliases),
                reach_of,
                reaches: by_number.into_iter().map(|(reach, _)| reach).collect(),
            }
        };
        let speaker =
            |node: &Arc<Node>| Speaker { name: node.name.as_str().into(), objection: elect::objection(node, world) };
        Self {
            nodes: world.nodes.values().map(speaker).collect(),
            advertisements: world.bgp_advertisements.values().map(advertised).collect(),
        }
    }

    /// Whether there is any advertisement.
    pub(crate) fn is_used(&self) -> bool {
        !self.advertisements.is_empty()
    }

    /// Whether any advertisement is for one of the services at an address of this pool.
    pub(crate) fn covers(&self, pool: Option<&IpAddressPool>, sharers: &[Sharer<'_>]) -> bool {
        sharers.iter().any(|sharer| self.covering(sharer.service, pool).next().is_some())
    }

    fn covering(&self, service: &Service, pool: Option<&IpAddressPool>) -> impl Iterator<Item = usize> {
        let covers = move |(_, advertised): &(usize, &Advertised)| {
            let BgpAdvertisement { pools, pool_selectors, service_selectors, .. } = &*advertised.source;
            elect::selects_pool(pools, pool_selectors, pool) && selector::any_or_all(service_selectors, &service.labels)
        };
        self.advertisements.iter().enumerate().filter(covers).map(|(number, _)| number)
    }

    /// Who announces an address that these services have together, and what.
    pub(crate) fn announcement(
        &self,
        address: IpAddr,
        pool: Option<&IpAddressPool>,
        sharers: &[Sharer<'_>],
    ) -> BgpAnnouncement {
        let family = IpFamily::of(address);
        let covers: Vec<Cover<'_>> = sharers
            .iter()
            .map(|sharer| Cover {
                presence: Presence::of(sharer, family),
                advertisements: self.covering(sharer.service, pool).collect(),
            })
            .collect();
        let (mut nodes, mut excluded) = (Vec::new(), Vec::new());
        // The nodes that announce what an advertisement asks for to the same peers, by the numbers of advertisement and
        // reach.
        let mut announced: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let objections: Vec<_> = covers.iter().map(|cover| self.objection(cover, number, family)).collect();
            let willing = covers.iter().zip(&objections).filter(|(_, objection)| objection.is_none());
            for (advertisement, reach) in willing.flat_map(|(cover, _)| self.told(cover, number, family)) {
                let by = announced.entry((advertisement, reach)).or_default();
                if by.last() != Some(&number) {
                    by.push(number);
                }
            }
            // One service that would have it announce is enough; else the objection that came closest is named.
            match objections.into_iter().collect::<Option<Vec<_>>>() {
                None => nodes.push(Arc::clone(&node.name)),
                Some(objections) => {
                    let reason = objections.into_iter().max().unwrap_or(ExclusionReason::NoAdvertisement);
                    excluded.push(Exclusion { node: Arc::clone(&node.name), reason });
                }
            }
        }
        let routes = self.routes(address, pool, &announced);
        BgpAnnouncement { address, protocol: AnnouncementProtocol::Bgp, nodes, excluded, routes }
    }

    /// Why this service alone would not have the node announce.
    fn objection(&self, cover: &Cover<'_>, node: usize, family: IpFamily) -> Option<ExclusionReason> {
        if cover.advertisements.is_empty() {
            return Some(ExclusionReason::NoAdvertisement);
        }
        let speaker = self.nodes.get(node)?;
        let unreached = || {
            let mut reaches = self.reaches(cover, node).map(|(_, _, reach)| reach).peekable();
            if reaches.peek().is_none() {
                return Some(ExclusionReason::NodeNotSelected);
            }
            let (mut carried, mut any) = (false, false);
            for reach in reaches {
                carried |= !reach.told(family).is_empty();
                any |= *reach != Reach::default();
            }
            match (carried, any) {
                (true, _) => None,
                (false, true) => Some(ExclusionReason::FamilyNotCarried),
                (false, false) => Some(ExclusionReason::NoSession),
            }
        };
        speaker.objection.or_else(unreached).or_else(|| cover.presence.objection(&speaker.name))
    }

    /// What the cover's advertisements reach from the node: their numbers and the reaches.
    fn reaches<'s>(
        &'s self,
        cover: &'s Cover<'_>,
        node: usize,
    ) -> impl Iterator<Item = (usize, usize, &'s Reach)> + 's {
        cover.advertisements.iter().filter_map(move |number| {
            let advertised = self.advertisements.get(*number)?;
            let reach = (*advertised.reach_of.get(node)?)?;
            Some((*number, reach, advertised.reaches.get(reach)?))
        })
    }

    /// Those of [`Speakers::reaches`] that end at a peer.
    fn told<'s>(
        &'s self,
        cover: &'s Cover<'_>,
        node: usize,
        family: IpFamily,
    ) -> impl Iterator<Item = (usize, usize)> + 's {
        let told = move |(_, _, reach): &(usize, usize, &Reach)| !reach.told(family).is_empty();
        self.reaches(cover, node).filter(told).map(|(advertisement, reach, _)| (advertisement, reach))
    }

    fn routes(
        &self,
        address: IpAddr,
        pool: Option<&IpAddressPool>,
        announced: &BTreeMap<(usize, usize), Vec<usize>>,
    ) -> Vec<Route> {
        let mut routes: BTreeMap<Route, Vec<usize>> = BTreeMap::new();
        for (&(advertisement, reach), nodes) in announced {
            let Some(advertised) = self.advertisements.get(advertisement) else { continue };
            let Some(reach) = advertised.reaches.get(reach) else { continue };
            let prefix = aggregate(address, &advertised.source, pool);
            for (local_pref, peers) in advertised.told_apart(reach.told(IpFamily::of(address))) {
                let route = Route {
                    prefix,
                    advertisement: Arc::clone(&advertised.name),
                    local_pref,
                    communities: advertised.communities.clone(),
                    peers,
                    nodes: Vec::new(),
                };
                routes.entry(route).or_default().extend(nodes);
            }
        }
        let with_nodes = |(route, mut nodes): (Route, Vec<usize>)| {
            nodes.sort_unstable();
            nodes.dedup();
            let names = nodes.into_iter().filter_map(|node| Some(Arc::clone(&self.nodes.get(node)?.name)));
            Route { nodes: names.collect(), ..route }
        };
        routes.into_iter().map(with_nodes).collect()
    }
}

/// A service with the numbers of the advertisements that cover it.
struct Cover<'a> {
    presence: Presence<'a>,
    advertisements: Vec<usize>,
}

impl Advertised {
    /// The peers told, apart where they are told different things: internal ones alone hear of a local preference.
    fn told_apart(&self, told: &Told) -> Vec<(Option<u32>, Vec<Arc<str>>)> {
        let Told { internal, external } = told;
        let mut apart = match self.source.local_pref {
            0 => vec![(None, internal.iter().chain(external).cloned().collect())],
            local_pref => vec![(Some(local_pref), internal.clone()), (None, external.clone())],
        };
        apart.retain(|(_, peers): &(_, Vec<Arc<str>>)| !peers.is_empty());
        apart.iter_mut().for_each(|(_, peers)| peers.sort());
        apart
    }
}

/// The peers the node has a session with that the advertisement is for. Naming only peers that do not exist means
/// nobody, not everybody.
fn reach(advertisement: &BgpAdvertisement, peerings: &[Peering<'_>], node: usize) -> Reach {
    let mut reach = Reach::default();
    for Peering { peer, settings, of_node } in peerings {
        let named = advertisement.peers.is_empty() || advertisement.peers.contains(&peer.name.name);
        if !named || !matches!(of_node.get(node), Some(Ok(()))) {
            continue;
        }
        for family in &settings.families {
            let told = match family {
                IpFamily::V4 => &mut reach.v4,
                IpFamily::V6 => &mut reach.v6,
            };
            match settings.kind {
                SessionKind::Ibgp => told.internal.push(settings.peer.clone()),
                SessionKind::Ebgp => told.external.push(settings.peer.clone()),
            }
        }
    }
    reach
}

/// All aliases. One defined twice means what the first definition says, by the objects' names.
pub(super) fn aliases(world: &World) -> BTreeMap<&str, Community> {
    let mut aliases = BTreeMap::new();
    for (alias, community) in world.communities.values().flat_map(|object| &object.aliases) {
        aliases.entry(alias.as_str()).or_insert(*community);
    }
    aliases
}

fn communities(advertisement: &BgpAdvertisement, aliases: &BTreeMap<&str, Community>) -> Vec<Community> {
    let value = |community: &CommunityRef| match community {
        CommunityRef::Value(value) => Some(*value),
        CommunityRef::Alias(alias) => aliases.get(alias.as_str()).copied(),
    };
    let mut communities: Vec<Community> = advertisement.communities.iter().filter_map(value).collect();
    communities.sort_unstable();
    communities.dedup();
    communities
}
