//! The Plan: all decisions together, and how they follow the World from one version to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::allocate::{self, Allocation, Reallocated, ServicePlan};
use crate::bgp::{self, BgpPlan};
use crate::check::{self, Checked};
use crate::diagnostic::Diagnostic;
use crate::elect::{self, Announcement, AnnouncementProtocol, Electorate, Sharer};
use crate::endpoints::SliceIndex;
use crate::event::Event;
use crate::frontends::{self, Frontend, FrontendKey};
use crate::memory::Memory;
use crate::world::{ObjectName, Service, World};

/// What is to be carried out. Its maps are persistent: a copy shares everything with its original, and what differs
/// between two Plans is found without looking at the rest. Equal Worlds and Memories give equal Plans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Every load balancer service of ours with its addresses, or the reason why it has none.
    pub services: OrdMap<ObjectName, Arc<ServicePlan>>,
    /// Every allocated address with its announcers at layer 2, and the reason why the other nodes are none. Those that
    /// only BGP is for are left out.
    pub announcements: OrdMap<(IpAddr, AnnouncementProtocol), Arc<Announcement>>,
    /// The sessions, and who announces what over them.
    pub bgp: BgpPlan,
    /// Every frontend with its backends.
    pub frontends: OrdMap<FrontendKey, Arc<Frontend>>,
    findings: OrdMap<(Stage, ObjectName), Arc<[Diagnostic]>>,
    memory: Memory,
}

/// Where a finding comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    World,
    Allocate,
    Frontends,
}

impl Plan {
    /// What to remember for the next [`plan`].
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What is wrong, or worth knowing, about the objects taken together.
    pub fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        self.findings.values().flat_map(|findings| findings.iter())
    }

    /// The frontends that differ from those of an earlier Plan, in what they lead to or how; `None` if more does: which
    /// frontends there are, who has which address, who announces it.
    pub fn frontends_since(&self, before: &Self) -> Option<Vec<&Arc<Frontend>>> {
        if self.services != before.services || self.announcements != before.announcements {
            return None;
        }
        let differing = before.frontends.diff(&self.frontends).map(|item| match item {
            DiffItem::Update { new: (_, frontend), .. } => Some(frontend),
            DiffItem::Add(..) | DiffItem::Remove(..) => None,
        });
        differing.collect()
    }

    fn set_findings(&mut self, stage: Stage, name: &ObjectName, findings: Vec<Diagnostic>) {
        if findings.is_empty() && self.findings.is_empty() {
            return;
        }
        let key = (stage, name.clone());
        if findings.is_empty() {
            self.findings.remove(&key);
        } else {
            self.findings.insert(key, findings.into());
        }
    }
}

/// Decide everything.
pub fn plan(world: &World, memory: &Memory) -> Plan {
    let mut planner = Planner::new(memory.clone());
    planner.update(world);
    planner.plan
}

/// Plans one World after another, each time deciding anew only what hangs on the difference. The result is always the
/// one [`plan`] gives for the same World and the Memory of the Plan before.
#[derive(Debug)]
pub struct Planner {
    /// The World as it was given last; `None` before the first.
    given: Option<World>,
    /// What of it is in force.
    in_force: Checked,
    slices: SliceIndex,
    allocation: Allocation,
    electorate: Electorate,
    speakers: bgp::Speakers,
    conflicts: bgp::Conflicts,
    /// The frontends of each service.
    frontends_of: BTreeMap<ObjectName, Vec<FrontendKey>>,
    plan: Plan,
}

/// What has to be decided anew.
#[derive(Debug, Default)]
struct Difference {
    /// Which service gets which address, for all of them: the pools, or what they depend on, changed.
    allocation: bool,
    /// Who announces, for all addresses.
    election: bool,
    /// The BGP sessions, and what is to be said about BGP's configuration.
    sessions: bool,
    /// The services that ask for something else than before.
    requests: BTreeSet<ObjectName>,
    /// The services that changed in any way, or their endpoints.
    services: BTreeSet<ObjectName>,
}

impl Planner {
    /// No World yet.
    pub fn new(memory: Memory) -> Self {
        Self {
            given: None,
            in_force: Checked::default(),
            slices: SliceIndex::default(),
            allocation: Allocation::new(memory.allocations.clone()),
            electorate: Electorate::default(),
            speakers: bgp::Speakers::default(),
            conflicts: bgp::Conflicts::default(),
            frontends_of: BTreeMap::new(),
            plan: Plan { memory, ..Plan::default() },
        }
    }

    /// The Plan for the World last given.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Follow the World to its next version. Returns what happened to services on the way.
    pub fn update(&mut self, world: &World) -> Vec<Event> {
        let checked = self.check(world);
        let mut difference = match self.given {
            Some(_) => Difference::between(&self.in_force, &checked),
            None => Difference::everything(),
        };
        difference.follow_services(&self.in_force.world, &checked.world);
        let (before, now) = (&self.in_force.world, &checked.world);
        if before.node_addresses != now.node_addresses || before.node_address_use != now.node_address_use {
            difference.requests.extend(self.allocation.own().iter().cloned());
        }
        difference.services.extend(self.slices.follow(&self.in_force.world, &checked.world));
        self.given = Some(world.clone());
        self.in_force = checked;
        let world = &self.in_force.world.clone();

        let reallocated = self.allocate(world, &difference);
        let mut addresses = reallocated.addresses;
        difference.services.extend(reallocated.services);
        for service in &difference.services {
            addresses.extend(self.plan.services.get(service).into_iter().flat_map(|planned| planned.addresses.clone()));
            self.make_frontends(world, service);
        }
        if difference.election {
            self.electorate = Electorate::new(world);
            self.speakers = bgp::Speakers::new(world);
            self.plan.set_findings(Stage::World, &ObjectName::new("", "elect"), elect::dangling(world));
            addresses.extend(self.plan.services.values().flat_map(|planned| planned.addresses.clone()));
            addresses.extend(self.plan.announcements.keys().map(|(address, _)| *address));
            addresses.extend(self.plan.memory.owners.keys());
        }
        if let Some(cluster) = &world.cluster {
            // The records say who owns what, and nothing else does.
            let changed = self.plan.memory.owners.diff(&cluster.owners).map(|item| match item {
                DiffItem::Add(address, _) | DiffItem::Remove(address, _) => *address,
                DiffItem::Update { new: (address, _), .. } => *address,
            });
            addresses.extend(changed);
            self.plan.memory.owners = cluster.owners.clone();
        }
        for address in addresses {
            self.elect(world, address);
        }
        if difference.sessions {
            self.plan.bgp.set_sessions(world);
            self.plan.set_findings(Stage::World, &ObjectName::new("", "bgp"), bgp::findings(world));
        }
        if self.conflicts.settle(&self.plan.bgp.announcements) || difference.sessions {
            self.plan.set_findings(Stage::World, &ObjectName::new("", "conflicts"), self.conflicts.findings(world));
        }
        reallocated.events
    }

    /// What of a World is in force. Only a change of the configuration needs another look.
    fn check(&mut self, world: &World) -> Checked {
        if self.given.as_ref().is_some_and(|given| same_configuration(given, world)) {
            let Checked { world: before, refused_pools, diagnostics } = self.in_force.clone();
            let world = World {
                pools: before.pools,
                l2_advertisements: before.l2_advertisements,
                bgp_advertisements: before.bgp_advertisements,
                bgp_peers: before.bgp_peers,
                bfd_profiles: before.bfd_profiles,
                communities: before.communities,
                ..world.clone()
            };
            return Checked { world, refused_pools, diagnostics };
        }
        let checked = check::check(world);
        self.plan.set_findings(Stage::World, &ObjectName::new("", "check"), checked.diagnostics.clone());
        checked
    }

    fn allocate(&mut self, world: &World, difference: &Difference) -> Reallocated {
        let reallocated = if difference.allocation {
            let (findings, reallocated) = self.allocation.all(world, &self.in_force.refused_pools);
            let others = self.plan.findings.iter().filter(|((stage, _), _)| *stage != Stage::Allocate);
            self.plan.findings = others.map(|(key, findings)| (key.clone(), Arc::clone(findings))).collect();
            self.plan.set_findings(Stage::World, &ObjectName::new("", "allocate"), findings);
            reallocated
        } else if difference.requests.is_empty() {
            Reallocated::default()
        } else {
            self.allocation.some(world, difference.requests.clone())
        };
        for service in &reallocated.services {
            let findings = reallocated.diagnostics.get(service).cloned().unwrap_or_default();
            self.plan.set_findings(Stage::Allocate, service, findings);
        }
        self.plan.services = self.allocation.services().clone();
        self.plan.memory.allocations = self.allocation.held().clone();
        reallocated
    }

    /// Replace the frontends of a service.
    fn make_frontends(&mut self, world: &World, name: &ObjectName) {
        let mut findings = Vec::new();
        let planned = self.plan.services.get(name).filter(|planned| !planned.addresses.is_empty());
        let made = match planned.and_then(|planned| Some((planned, world.services.get(name)?))) {
            Some((planned, service)) => {
                let slices = self.slices.of(name, world);
                frontends::of_service(service, &planned.addresses, &slices, &mut findings)
            }
            None => Vec::new(),
        };
        self.plan.set_findings(Stage::Frontends, name, findings);
        let keys: Vec<FrontendKey> = made.iter().map(Frontend::key).collect();
        for gone in self.frontends_of.remove(name).into_iter().flatten().filter(|key| !keys.contains(key)) {
            // Its next owner may have come first.
            if self.plan.frontends.get(&gone).is_some_and(|frontend| frontend.service == *name) {
                self.plan.frontends.remove(&gone);
            }
        }
        for (key, frontend) in keys.iter().zip(made) {
            if self.plan.frontends.get(key).is_none_or(|known| **known != frontend) {
                self.plan.frontends.insert(*key, frontend.into());
            }
        }
        if !keys.is_empty() {
            self.frontends_of.insert(name.clone(), keys);
        }
    }

    /// Replace the announcement of an address.
    fn elect(&mut self, world: &World, address: IpAddr) {
        let key = (address, AnnouncementProtocol::L2);
        let sharer = |name: &ObjectName| {
            Some(Sharer { service: world.services.get(name)?, slices: self.slices.of(name, world) })
        };
        let sharers: Vec<Sharer<'_>> = self.allocation.holders(address).filter_map(sharer).collect();
        let Some(first) = sharers.first() else {
            self.plan.announcements.remove(&key);
            self.plan.bgp.announce(address, None, &mut self.conflicts);
            if !world.gaps.services && world.cluster.is_none() {
                self.plan.memory.owners.remove(&address);
            }
            return;
        };
        let addresses_of =
            |service: &Service| self.plan.services.get(&service.name).map_or(&[][..], |planned| &planned.addresses);
        let is_first_of_any = sharers.iter().any(|sharer| addresses_of(sharer.service).first() == Some(&address));
        let first_of_first = addresses_of(first.service).first().copied();
        let anchor = first_of_first.filter(|_| !is_first_of_any).unwrap_or(address);
        let pool = self.allocation.pool(address).map(|pool| &**pool);
        let at_layer_2 = self.electorate.covers(pool, &sharers);
        // An address that no advertisement is for is listed once, under the protocol in use.
        let by_bgp = self.speakers.covers(pool, &sharers)
            || (!at_layer_2 && !self.electorate.is_used() && self.speakers.is_used());
        let announcement = by_bgp.then(|| self.speakers.announcement(address, pool, &sharers));
        self.plan.bgp.announce(address, announcement, &mut self.conflicts);
        if by_bgp && !at_layer_2 && !self.electorate.has_unread() {
            self.plan.announcements.remove(&key);
            return;
        }
        let owner = self.plan.memory.owners.get(&address).map(|owner| &**owner);
        let announcement = self.electorate.elect(address, anchor, pool, &sharers, owner);
        // While nobody can announce, the last owner is remembered.
        if let Some(elected) = announcement.nodes.first().filter(|elected| Some(&***elected) != owner)
            && world.cluster.is_none()
        {
            self.plan.memory.owners.insert(address, Arc::clone(elected));
        }
        if self.plan.announcements.get(&key).is_none_or(|known| **known != announcement) {
            self.plan.announcements.insert(key, announcement.into());
        }
    }
}

impl Difference {
    fn everything() -> Self {
        Self { allocation: true, election: true, sessions: true, ..Self::default() }
    }

    fn between(before: &Checked, now: &Checked) -> Self {
        let refused = before.refused_pools == now.refused_pools;
        let (before, now) = (&before.world, &now.world);
        let allocation = !refused
            || !same(&before.pools, &now.pools)
            || !same(&before.namespaces, &now.namespaces)
            || before.load_balancer_class != now.load_balancer_class
            || before.given_addresses != now.given_addresses
            || before.gaps != now.gaps;
        let election = allocation
            || !same(&before.nodes, &now.nodes)
            || !same(&before.l2_advertisements, &now.l2_advertisements)
            || !same(&before.bgp_advertisements, &now.bgp_advertisements)
            || !same(&before.bgp_peers, &now.bgp_peers)
            || !same(&before.communities, &now.communities)
            || before.cluster.as_ref().map(|cluster| &cluster.agents)
                != now.cluster.as_ref().map(|cluster| &cluster.agents)
            || before.ignore_exclude_label != now.ignore_exclude_label;
        let sessions = bgp::is_used(now)
            && (!same(&before.bfd_profiles, &now.bfd_profiles) || !same(&before.secrets, &now.secrets));
        Self { allocation, election, sessions: election || sessions, ..Self::default() }
    }

    /// Note the services that are others than before.
    fn follow_services(&mut self, before: &World, now: &World) {
        for item in before.services.diff(&now.services) {
            let (name, old, new) = match item {
                DiffItem::Add(name, new) => (name, None, Some(new)),
                DiffItem::Update { old: (name, old), new: (_, new) } => (name, Some(old), Some(new)),
                DiffItem::Remove(name, old) => (name, Some(old), None),
            };
            self.services.insert(name.clone());
            // What is held for a service that could not be read is up for decision when it returns.
            let returns = now.gaps.services && old.is_none();
            if returns || !allocate::asks_the_same(old.map(|old| &**old), new.map(|new| &**new)) {
                self.requests.insert(name.clone());
            }
        }
    }
}

fn same_configuration(one: &World, other: &World) -> bool {
    same(&one.pools, &other.pools)
        && same(&one.l2_advertisements, &other.l2_advertisements)
        && same(&one.bgp_advertisements, &other.bgp_advertisements)
        && same(&one.bgp_peers, &other.bgp_peers)
        && same(&one.bfd_profiles, &other.bfd_profiles)
        && same(&one.communities, &other.communities)
}

/// Whether two versions of a map are equal, without looking at what they share.
fn same<K: Ord, V: PartialEq>(one: &OrdMap<K, V>, other: &OrdMap<K, V>) -> bool {
    one.diff(other).next().is_none()
}

#[cfg(test)]
mod tests;
