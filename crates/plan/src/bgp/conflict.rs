//! Where advertisements contradict each other: one prefix with different local preferences.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;

use super::announcement::{BgpAnnouncement, Route};
use super::findings::{contradictory, of_advertisement};
use crate::diagnostic::{Diagnostic, Severity};
use crate::world::{BgpAdvertisement, World};

/// The contradictions there are, kept up to date from announcement to announcement.
#[derive(Debug, Default)]
pub(crate) struct Conflicts {
    /// The addresses with a route to each prefix.
    addresses: BTreeMap<IpNet, BTreeSet<IpAddr>>,
    /// Prefixes to look at again.
    touched: BTreeSet<IpNet>,
    found: BTreeMap<IpNet, BTreeMap<Pair, Conflict>>,
}

/// Two advertisements, that with the lower preference first.
type Pair = (Arc<str>, Arc<str>);

/// What they contradict each other in, and a place where they do.
#[derive(Debug, PartialEq, Eq)]
struct Conflict {
    local_prefs: (Option<u32>, Option<u32>),
    peer: Arc<str>,
    node: Arc<str>,
}

impl Conflicts {
    /// Take note that what is announced for an address changes.
    pub(super) fn follow(&mut self, address: IpAddr, before: Option<&BgpAnnouncement>, now: Option<&BgpAnnouncement>) {
        for prefix in prefixes(before) {
            if let Some(addresses) = self.addresses.get_mut(&prefix) {
                addresses.remove(&address);
                if addresses.is_empty() {
                    self.addresses.remove(&prefix);
                }
            }
            self.touched.insert(prefix);
        }
        for prefix in prefixes(now) {
            self.addresses.entry(prefix).or_default().insert(address);
            self.touched.insert(prefix);
        }
    }

    /// Look again where something changed. Returns whether there is news.
    pub(crate) fn settle(&mut self, announcements: &OrdMap<IpAddr, Arc<BgpAnnouncement>>) -> bool {
        let mut news = false;
        for prefix in std::mem::take(&mut self.touched) {
            let addresses = self.addresses.get(&prefix).into_iter().flatten();
            let routes = addresses.filter_map(|address| announcements.get(address)).flat_map(|it| &it.routes);
            let now = conflicts(routes.filter(|route| route.prefix == prefix).collect());
            news |= self.found.get(&prefix).map_or(!now.is_empty(), |before| *before != now);
            if now.is_empty() {
                self.found.remove(&prefix);
            } else {
                self.found.insert(prefix, now);
            }
        }
        news
    }

    /// Each pair of advertisements once, however many prefixes they have in common.
    pub(crate) fn findings(&self, world: &World) -> Vec<Diagnostic> {
        let mut first: BTreeMap<&Pair, (&IpNet, &Conflict)> = BTreeMap::new();
        for (prefix, conflicts) in &self.found {
            for (pair, conflict) in conflicts {
                first.entry(pair).or_insert((prefix, conflict));
            }
        }
        let advertisement =
            |name: &str| world.bgp_advertisements.values().find(|advertisement| advertisement.name.name == *name);
        let told = contradictory(world);
        let finding = |((lower, higher), (prefix, conflict)): (&Pair, (&IpNet, &Conflict))| {
            let is_told = told.contains_key(&(lower.to_string(), higher.to_string()));
            (!is_told).then_some(conflict.between(advertisement(lower)?, higher, *prefix))
        };
        first.into_iter().filter_map(finding).collect()
    }
}

fn prefixes(announcement: Option<&BgpAnnouncement>) -> BTreeSet<IpNet> {
    announcement.into_iter().flat_map(|it| &it.routes).map(|route| route.prefix).collect()
}

/// A peer, and a node that tells it something.
type Place<'a> = (&'a Arc<str>, &'a Arc<str>);

/// What an advertisement wants of a prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Claim<'a> {
    advertisement: &'a Arc<str>,
    local_pref: Option<u32>,
}

/// The contradictions among the routes to one prefix. Whoever shows no preference to internal peers contradicts those
/// who do; external peers are told none by anybody.
fn conflicts(routes: Vec<&Route>) -> BTreeMap<Pair, Conflict> {
    let mut found = BTreeMap::new();
    let mut preferences = routes.iter().map(|route| route.local_pref);
    if preferences.next().is_none_or(|first| preferences.all(|other| other == first)) {
        return found;
    }
    let mut claims: BTreeMap<Claim<'_>, BTreeSet<Place<'_>>> = BTreeMap::new();
    for route in &routes {
        let claim = Claim { advertisement: &route.advertisement, local_pref: route.local_pref };
        let places = route.peers.iter().flat_map(|peer| route.nodes.iter().map(move |node| (peer, node)));
        claims.entry(claim).or_default().extend(places);
    }
    for (lower, here) in &claims {
        for (higher, there) in claims.iter().filter(|(higher, _)| higher.local_pref > lower.local_pref) {
            if let Some((peer, node)) = here.intersection(there).next() {
                let pair = (Arc::clone(lower.advertisement), Arc::clone(higher.advertisement));
                found.entry(pair).or_insert_with(|| Conflict {
                    local_prefs: (lower.local_pref, higher.local_pref),
                    peer: Arc::clone(peer),
                    node: Arc::clone(node),
                });
            }
        }
    }
    found
}

impl Conflict {
    fn between(&self, lower: &BgpAdvertisement, higher: &str, prefix: IpNet) -> Diagnostic {
        let shown = |local_pref: Option<u32>| local_pref.map_or_else(|| "none".to_owned(), |value| value.to_string());
        let Self { local_prefs: (low, high), peer, node } = self;
        Diagnostic {
            message: format!(
                "local preference {} for {prefix} contradicts {} of advertisement `{higher}`, at peer {peer} on node \
                 {node} for one; the higher one is told",
                shown(*low),
                shown(*high),
            ),
            remedy: "let only one advertisement set it, or keep their peers, nodes or services apart".to_owned(),
            ..of_advertisement(lower, Severity::Error, "conflicting_advertisements", "spec.localPref".to_owned())
        }
    }
}
