//! What is told over each session once the announcements of all addresses are taken together: the Adj-RIBs-Out of
//! RFC 4271, section 3.2.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use super::announcement::{BgpAnnouncement, prefix};
use crate::world::Community;

/// A prefix told by a node to a peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RibKey {
    /// The node.
    pub node: Arc<str>,
    /// The peer's name.
    pub peer: Arc<str>,
    /// The prefix.
    pub prefix: IpNet,
}

/// What a peer is told about a prefix, besides the AS path and the next hop, which the session decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Attributes {
    /// LOCAL_PREF; `None`: none is set. External peers are told none, internal ones then the speaker's default.
    pub local_pref: Option<u32>,
    /// The communities, sorted.
    pub communities: Vec<Community>,
}

/// What becomes of a prefix at a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RibChange {
    /// It is told, or told anew with other attributes.
    Announce(RibKey, Attributes),
    /// It is no longer told.
    Withdraw(RibKey),
}

/// The routes of all sessions, or of one node's. Announcements come and go address by address; a prefix several of them
/// ask for is told once, and withdrawn with the last.
///
/// Where claims to one prefix differ, the communities add up and the highest local preference is told: neither depends
/// on the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdjRibOut {
    /// Only this node's; `None`: all.
    node: Option<Arc<str>>,
    routes: BTreeMap<RibKey, RibEntry>,
    /// Where each address has claims.
    claimed: BTreeMap<IpAddr, BTreeSet<RibKey>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct RibEntry {
    told: Attributes,
    /// What each address's advertisements ask for, together.
    claims: BTreeMap<IpAddr, Attributes>,
    /// How many addresses ask for the same: many do, and what is told depends on the few differences only.
    distinct: BTreeMap<Attributes, usize>,
}

impl RibEntry {
    /// Replace the claim of an address. Returns whether that changed what is told.
    fn claim(&mut self, address: IpAddr, wanted: Option<Attributes>) -> bool {
        let before = match &wanted {
            Some(wanted) => self.claims.insert(address, wanted.clone()),
            None => self.claims.remove(&address),
        };
        if before == wanted {
            return false;
        }
        let known = self.distinct.len();
        if let Some(wanted) = wanted {
            *self.distinct.entry(wanted).or_default() += 1;
        }
        let mut differs = self.distinct.len() != known;
        if let Some(before) = before
            && let Some(claimants) = self.distinct.get_mut(&before)
        {
            *claimants -= 1;
            if *claimants == 0 {
                self.distinct.remove(&before);
                differs = true;
            }
        }
        differs && {
            let told = merged(self.distinct.keys());
            std::mem::replace(&mut self.told, told) != self.told
        }
    }
}

/// A route as its session tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ToldRoute {
    /// The prefix.
    #[serde(serialize_with = "prefix")]
    pub prefix: IpNet,
    /// Its attributes.
    #[serde(flatten)]
    pub attributes: Attributes,
    /// The addresses it is told for.
    pub addresses: Vec<IpAddr>,
}

impl AdjRibOut {
    /// The routes of one node: what its speaker needs.
    pub fn of_node(node: impl Into<Arc<str>>) -> Self {
        Self { node: Some(node.into()), ..Self::default() }
    }

    /// The routes of all nodes.
    pub fn of_all<'a>(announcements: impl IntoIterator<Item = &'a BgpAnnouncement>) -> Self {
        let mut rib = Self::default();
        for announcement in announcements {
            rib.set(announcement.address, Some(announcement));
        }
        rib
    }

    /// Replace what is announced for an address; `None`: nothing any more. Returns what the peers are to be told, by
    /// node, peer and prefix; nothing where the outcome is the same.
    pub fn set(&mut self, address: IpAddr, announcement: Option<&BgpAnnouncement>) -> Vec<RibChange> {
        let mut wanted: BTreeMap<RibKey, Attributes> = BTreeMap::new();
        for (key, attributes) in announcement.into_iter().flat_map(|it| self.claims(it)) {
            let claim = wanted.entry(key).or_default();
            *claim = merged([&*claim, &attributes]);
        }
        let claimed: BTreeSet<RibKey> = wanted.keys().cloned().collect();
        let before = match claimed.is_empty() {
            true => self.claimed.remove(&address),
            false => self.claimed.insert(address, claimed.clone()),
        };
        let touched: BTreeSet<RibKey> = before.into_iter().flatten().chain(claimed).collect();
        touched.into_iter().filter_map(|key| self.replace(address, wanted.remove(&key), key)).collect()
    }

    fn replace(&mut self, address: IpAddr, claim: Option<Attributes>, key: RibKey) -> Option<RibChange> {
        let is_new = !self.routes.contains_key(&key);
        let entry = self.routes.entry(key.clone()).or_default();
        let differs = entry.claim(address, claim);
        if entry.claims.is_empty() {
            self.routes.remove(&key);
            return (!is_new).then_some(RibChange::Withdraw(key));
        }
        (is_new || differs).then(|| RibChange::Announce(key, entry.told.clone()))
    }

    fn claims(&self, announcement: &BgpAnnouncement) -> impl Iterator<Item = (RibKey, Attributes)> {
        let ours = |node: &&Arc<str>| self.node.as_ref().is_none_or(|only| only == *node);
        announcement.routes.iter().flat_map(move |route| {
            let attributes = Attributes { local_pref: route.local_pref, communities: route.communities.clone() };
            route.nodes.iter().filter(ours).flat_map(move |node| {
                let attributes = attributes.clone();
                route.peers.iter().map(move |peer| {
                    let key = RibKey { node: Arc::clone(node), peer: Arc::clone(peer), prefix: route.prefix };
                    (key, attributes.clone())
                })
            })
        })
    }

    /// The addresses that have claims.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.claimed.keys().copied()
    }

    /// Everything told, by node, peer and prefix.
    pub fn routes(&self) -> impl Iterator<Item = (&RibKey, &Attributes)> {
        self.routes.iter().map(|(key, entry)| (key, &entry.told))
    }

    /// What a node tells a peer, by prefix.
    pub fn told(&self, node: &str, peer: &str) -> Vec<ToldRoute> {
        let Ok(lowest) = IpNet::new(IpAddr::from([0; 4]), 0) else { return Vec::new() };
        let from = RibKey { node: node.into(), peer: peer.into(), prefix: lowest };
        let here = self.routes.range(from..).take_while(|(key, _)| *key.node == *node && *key.peer == *peer);
        here.map(|(key, entry)| ToldRoute {
            prefix: key.prefix,
            attributes: entry.told.clone(),
            addresses: entry.claims.keys().copied().collect(),
        })
        .collect()
    }
}

fn merged<'a>(claims: impl IntoIterator<Item = &'a Attributes>) -> Attributes {
    let mut merged = Attributes::default();
    let mut communities = BTreeSet::new();
    for claim in claims {
        merged.local_pref = merged.local_pref.max(claim.local_pref);
        communities.extend(claim.communities.iter().copied());
    }
    Attributes { communities: communities.into_iter().collect(), ..merged }
}
