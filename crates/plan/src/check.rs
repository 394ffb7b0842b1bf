//! Configuration taken together: what contradicts other objects, and is refused for it.
//!
//! What an object says by itself was validated by the source that read it. What it names in vain is no reason to refuse
//! it: the rest of it is in force (see `elect`, `bgp`).

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::{Diagnostic, Severity};
use crate::range::IpFamily;
use crate::world::{BgpAdvertisement, IpAddressPool, Kind, ObjectKey, ObjectName, World};

/// The namespace MetalLB's manifests use.
pub const SYSTEM_NAMESPACE: &str = "metallb-system";

/// A World without what is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// What remains. It shares everything with the World it was made of.
    pub world: World,
    /// Pools that are refused. They are still in the World, because what is held from them stays, so that a mistake in
    /// the configuration costs nobody an address.
    pub refused_pools: BTreeSet<ObjectName>,
    /// Why the rest is refused.
    pub diagnostics: Vec<Diagnostic>,
}

/// Refuse what cannot be in force beside the rest. Looks at configuration only, which is little.
pub fn check(world: &World) -> Checked {
    let mut checked = Checked { world: world.clone(), refused_pools: BTreeSet::new(), diagnostics: Vec::new() };
    checked.refuse_other_namespaces();
    checked.refuse_duplicate_names();
    checked.refuse_duplicate_aliases();
    checked.switch_echo_off();
    checked
}

impl Checked {
    /// Configuration lives in one namespace, as in a cluster, where another's objects would not even be seen.
    fn refuse_other_namespaces(&mut self) {
        let Some(system) = system_namespace(&self.world) else { return };
        let explicit = |key: &ObjectKey| !key.name.namespace.is_empty() && key.name.namespace != system;
        for key in self.world.configuration().filter(explicit).collect::<Vec<_>>() {
            let message = format!(
                "{key} is not in namespace {system}, in which the load balancer's configuration lives; it has no effect"
            );
            let remedy = format!("move it to namespace {system}");
            self.refuse(&key, "outside_system_namespace", "metadata.namespace", message, remedy);
        }
    }

    /// `lan` and `metallb-system/lan` are the same object to whoever refers to it by name. Pools are told apart where
    /// addresses are allocated, since what is held from the second one is kept.
    fn refuse_duplicate_names(&mut self) {
        let mut first: BTreeMap<(Kind, String), ObjectKey> = BTreeMap::new();
        for key in self.world.configuration().filter(|key| key.kind != Kind::IpAddressPool).collect::<Vec<_>>() {
            let earlier = first.entry((key.kind, key.name.name.clone())).or_insert_with(|| key.clone());
            if *earlier != key {
                let message = format!("{key} has the same name as {earlier}, which is used");
                self.refuse(
                    &key,
                    "duplicate_name",
                    "metadata.name",
                    message,
                    "rename or remove one of them".to_owned(),
                );
            }
        }
    }

    /// An alias has one meaning; the first definition in order of the objects' names is used.
    fn refuse_duplicate_aliases(&mut self) {
        let mut defined: BTreeMap<String, String> = BTreeMap::new();
        let mut changed = Vec::new();
        for (name, object) in &self.world.communities {
            let mut aliases = Vec::new();
            for (n, (alias, value)) in object.aliases.iter().enumerate() {
                if let Some(earlier) = defined.get(alias) {
                    self.diagnostics.push(Diagnostic {
                        severity: Severity::Error,
                        reason: "duplicate_alias",
                        kind: Kind::Community,
                        name: name.to_string(),
                        field: format!("spec.communities[{n}]"),
                        message: format!("alias `{alias}` is already defined by Community {earlier}, which is used"),
                        remedy: "define each alias once".to_owned(),
                    });
                } else {
                    defined.insert(alias.clone(), name.to_string());
                    aliases.push((alias.clone(), *value));
                }
            }
            if aliases.len() < object.aliases.len() {
                let mut object = (**object).clone();
                object.aliases = aliases;
                changed.push((name.clone(), object));
            }
        }
        for (name, object) in changed {
            self.world.communities.insert(name, object.into());
        }
    }

    /// Echo packets are an IPv4 affair here as in MetalLB, so a session that carries IPv6 prefixes goes without.
    fn switch_echo_off(&mut self) {
        let Some(covered) = ipv6_advertisements(&self.world) else { return };
        let of_all = covered.iter().any(|advertisement| advertisement.peers.is_empty());
        let named: BTreeSet<&str> = covered.iter().flat_map(|ad| &ad.peers).map(String::as_str).collect();
        let peers = self.world.bgp_peers.values().filter(|peer| of_all || named.contains(peer.name.name.as_str()));
        let profiles: BTreeSet<&str> = peers.filter_map(|peer| peer.bfd_profile.as_deref()).collect();
        let echoing = self
            .world
            .bfd_profiles
            .iter()
            .filter(|(name, profile)| profile.echo_mode && profiles.contains(name.name.as_str()));
        let affected: Vec<ObjectKey> = echoing.map(|(name, _)| key(Kind::BfdProfile, name)).collect();
        for key in affected {
            let Some(profile) = self.world.bfd_profiles.get(&key.name) else { continue };
            let mut profile = (**profile).clone();
            profile.echo_mode = false;
            self.world.bfd_profiles.insert(key.name.clone(), profile.into());
            self.diagnostics.push(Diagnostic {
                severity: Severity::Error,
                reason: "bfd_echo_with_ipv6",
                kind: key.kind,
                name: key.name.to_string(),
                field: "spec.echoMode".to_owned(),
                message: "echo mode is not possible on sessions that carry IPv6 prefixes; it is left off".to_owned(),
                remedy: "remove echoMode, or advertise the IPv6 pools to other peers".to_owned(),
            });
        }
    }

    fn refuse(&mut self, key: &ObjectKey, reason: &'static str, field: &str, message: String, remedy: String) {
        match key.kind {
            Kind::IpAddressPool => _ = self.refused_pools.insert(key.name.clone()),
            _ => self.world.remove(key),
        }
        self.diagnostics.push(Diagnostic {
            severity: Severity::Error,
            reason,
            kind: key.kind,
            name: key.name.to_string(),
            field: field.to_owned(),
            message,
            remedy,
        });
    }
}

/// The one namespace configuration lives in: MetalLB's own if anything is there, else the one most of it is in, of two
/// as frequent the first by name. `None` when no object names any.
fn system_namespace(world: &World) -> Option<String> {
    if world.system_namespace.is_some() {
        return world.system_namespace.clone();
    }
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for key in world.configuration().filter(|key| !key.name.namespace.is_empty()) {
        *count.entry(key.name.namespace).or_default() += 1;
    }
    if count.contains_key(SYSTEM_NAMESPACE) {
        return Some(SYSTEM_NAMESPACE.to_owned());
    }
    let most = count.values().max().copied()?;
    count.into_iter().find(|(_, objects)| *objects == most).map(|(namespace, _)| namespace)
}

fn key(kind: Kind, name: &ObjectName) -> ObjectKey {
    ObjectKey { kind, name: name.clone() }
}

/// The BGP advertisements that are for a pool with IPv6 addresses. `None` when no profile has echo mode, so that it
/// would make no difference.
fn ipv6_advertisements(world: &World) -> Option<Vec<&BgpAdvertisement>> {
    if !world.bfd_profiles.values().any(|profile| profile.echo_mode) {
        return None;
    }
    let has_ipv6 = |pool: &&IpAddressPool| pool.ranges.iter().any(|range| range.family() == IpFamily::V6);
    let pools: Vec<&IpAddressPool> = world.pools.values().map(|pool| &**pool).filter(has_ipv6).collect();
    let covers = |ad: &&BgpAdvertisement| {
        let all = ad.pools.is_empty() && ad.pool_selectors.is_empty();
        pools.iter().any(|pool| {
            all || ad.pools.contains(&pool.name.name)
                || ad.pool_selectors.iter().any(|selector| selector.matches(&pool.labels))
        })
    };
    Some(world.bgp_advertisements.values().map(|ad| &**ad).filter(covers).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::testing::{advertisement, pool};
    use crate::world::{BfdProfile, BgpPeer, Community, CommunityAliases, L2Advertisement, Neighbor, PeerAsn};

    fn shown(world: &World) -> Vec<String> {
        let found = check(world).diagnostics;
        assert!(found.iter().all(|diagnostic| diagnostic.severity == Severity::Error));
        found.iter().map(|d| format!("{} {} {} {}", d.reason, d.kind, d.name, d.field)).collect()
    }

    fn with_pools(names: &[(&str, &str)]) -> World {
        let mut world = World::default();
        for (n, (namespace, name)) in names.iter().enumerate() {
            let mut pool = pool(name, &[&format!("10.0.{n}.0/24")]);
            pool.name = ObjectName::new(*namespace, *name);
            world.pools.insert(pool.name.clone(), pool.into());
        }
        world
    }

    #[test]
    fn configuration_lives_in_one_namespace() {
        let names = |world: &World| {
            let Checked { world, refused_pools, .. } = check(world);
            let in_force = world.pools.keys().filter(|name| !refused_pools.contains(*name));
            in_force.map(ToString::to_string).collect::<Vec<_>>()
        };
        let world = with_pools(&[("", "a"), ("lb", "b"), ("lb", "c"), ("other", "d")]);
        assert_eq!(names(&world), ["a", "lb/b", "lb/c"], "where most of it is");
        assert_eq!(shown(&world), ["outside_system_namespace IPAddressPool other/d metadata.namespace"]);
        let world = with_pools(&[("lb", "b"), ("lb", "c"), ("metallb-system", "d")]);
        assert_eq!(names(&world), ["metallb-system/d"], "MetalLB's own before all others");
        assert_eq!(names(&with_pools(&[("x", "b"), ("w", "c")])), ["w/c"], "the first of two equals");
        assert!(shown(&with_pools(&[("", "a"), ("lb", "b")])).is_empty(), "no namespace is the right one");
    }

    #[test]
    fn a_namespace_counts_for_all_kinds_together() {
        let mut world = with_pools(&[("lb", "a")]);
        let advertisement = L2Advertisement { name: ObjectName::new("metallb-system", "l2"), ..advertisement("l2") };
        world.l2_advertisements.insert(advertisement.name.clone(), advertisement.into());
        assert_eq!(shown(&world), ["outside_system_namespace IPAddressPool lb/a metadata.namespace"]);
    }

    #[test]
    fn a_name_belongs_to_one_object() {
        let mut world = World::default();
        for namespace in ["", "metallb-system"] {
            let advertisement = L2Advertisement { name: ObjectName::new(namespace, "l2"), ..advertisement("l2") };
            world.l2_advertisements.insert(advertisement.name.clone(), advertisement.into());
        }
        assert_eq!(shown(&world), ["duplicate_name L2Advertisement metallb-system/l2 metadata.name"]);
        assert_eq!(check(&world).world.l2_advertisements.keys().map(ToString::to_string).collect::<Vec<_>>(), ["l2"]);
        let pools = with_pools(&[("", "a"), ("metallb-system", "a")]);
        assert_eq!(check(&pools).world, pools, "pools are told apart by the allocator");
    }

    #[test]
    fn an_alias_has_one_meaning() {
        let mut world = World::default();
        for (n, name) in (1..).zip(["a", "b"]) {
            let own = (name.to_owned(), Community::Standard(0, n));
            let aliases = vec![("shared".to_owned(), Community::Standard(1, n)), own];
            let object = CommunityAliases { name: ObjectName::new("", name), aliases };
            world.communities.insert(object.name.clone(), object.into());
        }
        assert_eq!(shown(&world), ["duplicate_alias Community b spec.communities[0]"]);
        let kept = check(&world).world;
        assert_eq!(kept.communities[&ObjectName::new("", "a")].aliases.len(), 2);
        assert_eq!(kept.communities[&ObjectName::new("", "b")].aliases, [("b".to_owned(), Community::Standard(0, 2))]);
    }

    #[test]
    fn echo_is_for_ipv4() {
        let mut world = World::default();
        let peer = BgpPeer {
            name: ObjectName::new("", "tor"),
            my_asn: 1,
            peer_asn: PeerAsn::Number(2),
            local_asn: None,
            neighbor: Neighbor::Interface("eth0".to_owned()),
            source_address: None,
            port: 179,
            timers: None,
            connect_time: None,
            router_id: None,
            node_selectors: Vec::new(),
            password: None,
            bfd_profile: Some("echo".to_owned()),
            graceful_restart: false,
            ebgp_multi_hop: false,
            vrf: None,
            disable_mp: false,
            dual_stack_address_family: false,
        };
        world.bgp_peers.insert(peer.name.clone(), peer.into());
        let profile = BfdProfile {
            name: ObjectName::new("", "echo"),
            receive_interval: None,
            transmit_interval: None,
            detect_multiplier: None,
            echo_interval: None,
            echo_mode: true,
            passive_mode: false,
            minimum_ttl: None,
        };
        let name = profile.name.clone();
        world.bfd_profiles.insert(name.clone(), profile.into());
        for range in ["10.0.0.0/24", "2001:db8::/64"] {
            let mut pool = pool(if range.contains('.') { "v4" } else { "v6" }, &[range]);
            pool.name.namespace.clear();
            world.pools.insert(pool.name.clone(), pool.into());
        }
        let advertise = |world: &World, change: &dyn Fn(&mut BgpAdvertisement)| {
            let mut world = world.clone();
            let mut advertisement = BgpAdvertisement::new(ObjectName::new("", "all"));
            change(&mut advertisement);
            world.bgp_advertisements.insert(advertisement.name.clone(), advertisement.into());
            world
        };
        let all = advertise(&world, &|_| {});
        assert_eq!(shown(&all), ["bfd_echo_with_ipv6 BFDProfile echo spec.echoMode"]);
        assert!(!check(&all).world.bfd_profiles[&name].echo_mode);
        assert!(shown(&advertise(&world, &|ad| ad.pools = vec!["v4".to_owned()])).is_empty());
        assert!(shown(&advertise(&world, &|ad| ad.peers = vec!["other".to_owned()])).is_empty());
        assert!(!shown(&advertise(&world, &|ad| ad.peers = vec!["tor".to_owned()])).is_empty());
    }

    #[test]
    fn what_is_fine_is_shared_not_copied() {
        let world = with_pools(&[("", "a"), ("metallb-system", "b")]);
        let checked = check(&world);
        assert_eq!(checked.diagnostics, []);
        assert!(world.pools.ptr_eq(&checked.world.pools));
    }
}
