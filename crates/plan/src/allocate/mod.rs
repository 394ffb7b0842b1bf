//! Which addresses each load balancer service gets.
//!
//! The order of the passes is the point: an address that is held is never handed to someone else, whatever the order
//! in which services are listed.
//!
//! 1. What services hold by our own memory is loaded where it still fits, those first whose terms of sharing are what
//!    they were; then what the status of those says that could keep nothing.
//! 2. Services that hold something but now ask for something else move, together, so that two can swap. One whose
//!    new wish cannot be met keeps what it holds, with the error: a typo in a request does not cost a service the
//!    address its clients use.
//! 3. Services that hold nothing and ask for particular addresses or a particular pool are served,
//! 4. then those that take anything.
//!
//! Services at the node's own addresses have no part in this (`own`).
//!
//! Where a controller allocates, its agents do none of this: they take what it gave (`given`).
//!
//! A change concerns the services that changed and those that wait for something better. All others have what they ask
//! for, so every pass would leave them alone: they are not looked at.

mod given;
mod own;
mod pools;
mod request;
mod sharing;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::Serialize;

use self::pools::{Cursors, Pools};
use self::request::Request;
use self::sharing::{Claim, InUse};
use crate::diagnostic::{Diagnostic, Severity};
use crate::event::Event;
use crate::memory::Holding;
use crate::range::IpFamily;
use crate::world::{IpAddressPool, Kind, ObjectName, Service, Unread, World};

/// What a load balancer service gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServicePlan {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses, the preferred family first.
    pub addresses: Vec<IpAddr>,
    /// The pool they are from. `None` without addresses, and for addresses kept while no pool is known at all.
    pub pool: Option<String>,
    /// Why it has no address, or not the one it asks for.
    pub error: Option<ServiceError>,
}

impl ServicePlan {
    /// The service's full name.
    pub fn service(&self) -> ObjectName {
        ObjectName::new(&self.namespace, &self.name)
    }
}

/// An [`AllocateError`] as output shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceError {
    /// The named reason.
    pub reason: &'static str,
    /// What is wrong.
    pub message: String,
}

impl From<&AllocateError> for ServiceError {
    fn from(error: &AllocateError) -> Self {
        Self { reason: error.reason(), message: error.to_string() }
    }
}

/// Why a service does not get what it asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocateError {
    /// `spec.loadBalancerIP` and the annotation are both present.
    #[error("both spec.loadBalancerIP and the loadBalancerIPs annotation ask for an address")]
    TwoRequests,
    /// Part of what it says cannot be read.
    #[error("{}", .0.message)]
    Unread(Unread),
    /// More than one address of a family, or more than two.
    #[error("at most one address of each family can be requested")]
    TooManyAddresses,
    /// An address of a family that is not among `spec.ipFamilies`.
    #[error("{0} is requested, but the service's families are {1}")]
    FamilyMismatch(IpAddr, String),
    /// No pool serves this service.
    #[error("{0}")]
    NoPool(String),
    /// The requested pool does not exist.
    #[error("pool `{0}` does not exist")]
    PoolNotFound(String),
    /// The requested pool is refused, or clashes with another one.
    #[error("nothing is taken from pool `{0}`, which contradicts other configuration")]
    PoolUnusable(String),
    /// The requested pool is reserved for other services.
    #[error("pool `{0}` is reserved for other services (serviceAllocation)")]
    PoolNotAllowed(String),
    /// No suitable pool has a free address.
    #[error("no free {1} address in {0}")]
    PoolExhausted(String, String),
    /// No suitable pool has addresses of the family.
    #[error("no {1} address in {0}")]
    FamilyNotInPool(String, String),
    /// The requested address is in no pool, or not in the requested one.
    #[error("{0} is not in {1}")]
    AddressNotInPool(IpAddr, String),
    /// The requested address ends in .0 or .255, which its pool does not hand out.
    #[error("{0} is left out of pool `{1}` (avoidBuggyIPs)")]
    AddressLeftOut(IpAddr, String),
    /// RequireDualStack with an address of one family, or SingleStack with addresses of both.
    #[error("{0} asked for under ipFamilyPolicy {1}")]
    PolicyMismatch(&'static str, &'static str),
    /// The requested addresses are from different pools.
    #[error("the requested addresses are not from one pool")]
    SeveralPools,
    /// The requested address belongs to a service that shares with nobody, or this service does not share.
    #[error("{0} is in use by {1}")]
    AddressInUse(IpAddr, ObjectName),
    /// Both share, but not with each other.
    #[error("{address} cannot be shared with {holder}: {conflict}")]
    SharingConflict {
        /// The address wanted.
        address: IpAddr,
        /// Who has it.
        holder: ObjectName,
        /// What stands against it.
        conflict: &'static str,
    },
    /// Services of its namespace are not to be served at the nodes' own addresses.
    #[error(
        "services of namespace {0} may not take ports of the nodes: permit it by --node-addresses-for of agents and controller \
         (agent.nodeAddresses of the chart), or remove the annotation evenkeel.io/addresses: node"
    )]
    NodeAddressesNotPermitted(String),
}

impl AllocateError {
    /// The named reason, shared by output, log and test.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unread(unread) => unread.reason,
            Self::TwoRequests | Self::TooManyAddresses | Self::SeveralPools => "conflicting_request",
            Self::FamilyMismatch(..) | Self::PolicyMismatch(..) => "family_mismatch",
            Self::NoPool(_) => "no_pool",
            Self::PoolNotFound(_) => "pool_not_found",
            Self::PoolUnusable(_) => "pool_unusable",
            Self::PoolNotAllowed(_) => "pool_not_allowed",
            Self::PoolExhausted(..) => "pool_exhausted",
            Self::FamilyNotInPool(..) => "family_not_in_pool",
            Self::AddressNotInPool(..) | Self::AddressLeftOut(..) => "address_not_in_pool",
            Self::AddressInUse(..) => "address_in_use",
            Self::SharingConflict { .. } => "sharing_conflict",
            Self::NodeAddressesNotPermitted(_) => "node_addresses_not_permitted",
        }
    }

    /// What to do about a request that can never be met, as opposed to one that has to wait for others.
    fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::TwoRequests => Some("keep only the annotation metallb.io/loadBalancerIPs"),
            Self::TooManyAddresses => Some("request one IPv4 and one IPv6 address at most"),
            Self::FamilyMismatch(..) => Some("request an address of one of spec.ipFamilies, or change those"),
            Self::PolicyMismatch(..) => Some("request as many addresses as spec.ipFamilyPolicy allows, or change that"),
            _ => None,
        }
    }
}

/// The addresses of all services.
#[derive(Debug, Default)]
pub(crate) struct Allocation {
    pools: Pools,
    cursors: Cursors,
    in_use: InUse,
    /// What each service holds: the memory.
    held: OrdMap<ObjectName, Arc<Holding>>,
    services: OrdMap<ObjectName, Arc<ServicePlan>>,
    /// Services that could get more than they have when others let go.
    waiting: OrdSet<ObjectName>,
    /// Services at the node's own addresses.
    own: BTreeSet<ObjectName>,
}

/// What an allocation changed.
#[derive(Debug, Default)]
pub(crate) struct Reallocated {
    /// The services looked at.
    pub(crate) services: BTreeSet<ObjectName>,
    /// The addresses they had or have.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// What happened to them.
    pub(crate) events: Vec<Event>,
    /// Findings about services.
    pub(crate) diagnostics: BTreeMap<ObjectName, Vec<Diagnostic>>,
    /// Whether anybody lost an address, so that those who wait may have another chance.
    released: bool,
}

impl Reallocated {
    /// What followed.
    fn append(&mut self, mut next: Self) {
        self.diagnostics.retain(|name, _| !next.services.contains(name));
        self.diagnostics.append(&mut next.diagnostics);
        self.services.append(&mut next.services);
        self.addresses.append(&mut next.addresses);
        self.events.append(&mut next.events);
        self.released = next.released;
    }
}

impl Allocation {
    /// Nothing allocated yet; `held` is what services have been given before.
    pub(crate) fn new(held: OrdMap<ObjectName, Arc<Holding>>) -> Self {
        Self { held, ..Self::default() }
    }

    /// The load balancer services of our class, by name.
    pub(crate) fn services(&self) -> &OrdMap<ObjectName, Arc<ServicePlan>> {
        &self.services
    }

    /// What each service holds.
    pub(crate) fn held(&self) -> &OrdMap<ObjectName, Arc<Holding>> {
        &self.held
    }

    /// The services at the node's own addresses.
    pub(crate) fn own(&self) -> &BTreeSet<ObjectName> {
        &self.own
    }

    /// The services that have an address, by name.
    pub(crate) fn holders(&self, address: IpAddr) -> impl Iterator<Item = &ObjectName> {
        self.in_use.holders(address)
    }

    /// The pool an allocated address is from; `None` for those kept while no pool is known that has them.
    pub(crate) fn pool(&self, address: IpAddr) -> Option<&Arc<IpAddressPool>> {
        self.pools.of_held(&[address])
    }

    /// Allocate anew, from all pools but the `refused`. Returns the findings about the pools too.
    pub(crate) fn all(&mut self, world: &World, refused: &BTreeSet<ObjectName>) -> (Vec<Diagnostic>, Reallocated) {
        let mut findings = Vec::new();
        self.pools = Pools::new(world, refused, &mut findings);
        self.cursors = Cursors::default();
        self.in_use = InUse::default();
        let mut names: BTreeSet<ObjectName> = self.services.keys().chain(self.held.keys()).cloned().collect();
        names.extend(
            world.services.iter().filter(|(_, service)| service.is_load_balancer).map(|(name, _)| name.clone()),
        );
        self.services = OrdMap::new();
        self.waiting = OrdSet::new();
        if world.gaps.services {
            let absent = self.held.iter().filter(|(name, _)| !world.services.contains_key(*name));
            for (name, holding) in absent {
                let claim = Arc::new(Claim { service: name.clone(), sharing: holding.sharing.clone() });
                holding.addresses.iter().for_each(|address| self.in_use.insert(*address, &claim));
            }
        }
        let reallocated = self.reallocate(world, names);
        (findings, self.settle(world, reallocated))
    }

    /// Allocate for the services that changed, or are gone.
    pub(crate) fn some(&mut self, world: &World, changed: BTreeSet<ObjectName>) -> Reallocated {
        let reallocated = self.again(world, changed);
        self.settle(world, reallocated)
    }

    /// Give those who wait another chance for as long as anybody lets go of something. It ends, because whoever let go
    /// either has what it asks for or holds nothing more.
    fn settle(&mut self, world: &World, mut reallocated: Reallocated) -> Reallocated {
        while reallocated.released && !self.waiting.is_empty() {
            let next = self.again(world, BTreeSet::new());
            reallocated.append(next);
        }
        reallocated
    }

    /// Allocate for these services and those who wait, of which the claims are taken back first.
    fn again(&mut self, world: &World, mut names: BTreeSet<ObjectName>) -> Reallocated {
        names.extend(self.waiting.iter().cloned());
        let mut addresses = BTreeSet::new();
        for name in &names {
            self.services.remove(name);
            self.waiting.remove(name);
            // What could not be read keeps what it has.
            let keeps = world.gaps.services && !world.services.contains_key(name);
            for address in self.held.get(name).iter().flat_map(|holding| &holding.addresses) {
                addresses.insert(*address);
                if !keeps
                    && self.in_use.remove(*address, name)
                    && let Some(pool) = self.pools.of(*address)
                {
                    self.cursors.put_back(pool, *address);
                }
            }
        }
        let mut reallocated = self.reallocate(world, names);
        reallocated.addresses.append(&mut addresses);
        reallocated
    }

    /// The passes, for services that have no claims yet.
    fn reallocate(&mut self, world: &World, mut names: BTreeSet<ObjectName>) -> Reallocated {
        let mut done = Reallocated::default();
        let mut candidates: Vec<Candidate<'_>> = Vec::new();
        for name in &names {
            let service = world.services.get(name).filter(|service| service.is_load_balancer);
            let of_ours = service.filter(|service| service.load_balancer_class == world.load_balancer_class);
            self.own.remove(name);
            match of_ours {
                Some(service) if service.on_node => _ = self.own.insert(name.clone()),
                Some(service) => candidates.push(Candidate::new(service, &mut done.diagnostics)),
                None => {
                    let finding = service.map(|service| other_class(service, world.load_balancer_class.as_ref()));
                    done.diagnostics.extend(finding.map(|finding| (name.clone(), vec![finding])));
                }
            }
        }
        Passes {
            world,
            pools: &self.pools,
            cursors: &mut self.cursors,
            held: self.in_use.clone(),
            in_use: &mut self.in_use,
        }
        .run(&mut candidates, &self.held);

        let mut planned: BTreeMap<&ObjectName, Candidate<'_>> =
            candidates.into_iter().map(|candidate| (&candidate.service.name, candidate)).collect();
        for name in &names {
            match planned.remove(name) {
                Some(candidate) => self.record(candidate, &mut done),
                None if world.gaps.services && !world.services.contains_key(name) => {}
                None => done.released |= self.held.remove(name).is_some(),
            }
        }
        // They come last, and all of them: what they have hangs on each other and on what is in use.
        for (name, service) in self.own.iter().filter_map(|name| Some((name, world.services.get(name)?))) {
            self.services.insert(name.clone(), own::plan(service, world, &self.in_use).into());
            names.insert(name.clone());
        }
        done.services = names;
        done
    }

    fn record(&mut self, candidate: Candidate<'_>, done: &mut Reallocated) {
        let Candidate { service, claim, addresses, refused, .. } = &candidate;
        let name = &service.name;
        let held = self.held.get(name).map(|holding| &holding.addresses);
        let let_go = |had: &[IpAddr]| had.iter().any(|address| !addresses.contains(address));
        done.released |= let_go(&candidate.previous) || held.is_some_and(|held| let_go(held));
        let before = held.unwrap_or(&service.status_addresses);
        done.events.extend(Event::of_change(name, before, addresses, refused.as_ref().map(ServiceError::from)));
        done.addresses.extend(addresses);
        if addresses.is_empty() {
            self.held.remove(name);
        } else {
            let holding = Holding { addresses: addresses.clone(), sharing: claim.sharing.clone() };
            if self.held.get(name).is_none_or(|held| **held != holding) {
                self.held.insert(name.clone(), holding.into());
            }
        }
        if candidate.waits() {
            self.waiting.insert(name.clone());
        }
        let pool = self.pools.of_held(addresses).map(|pool| pool.name.name.clone());
        let planned = ServicePlan {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            addresses: candidate.addresses,
            pool,
            error: candidate.error.as_ref().map(ServiceError::from),
        };
        self.services.insert(name.clone(), planned.into());
    }
}

/// Whether a service in two versions asks for the same, so that its addresses need no second thought.
pub(crate) fn asks_the_same(before: Option<&Service>, now: Option<&Service>) -> bool {
    let is_balancer = |service: &&Service| service.is_load_balancer;
    match (before.filter(is_balancer), now.filter(is_balancer)) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            a.load_balancer_class == b.load_balancer_class
                && a.labels == b.labels
                && a.ip_families == b.ip_families
                && a.ip_family_policy == b.ip_family_policy
                && a.requested == b.requested
                && a.on_node == b.on_node
                && a.sharing_key == b.sharing_key
                && a.traffic_policy == b.traffic_policy
                && a.ports == b.ports
                && a.selector == b.selector
                && a.status_addresses == b.status_addresses
        }
        _ => false,
    }
}

/// A service on its way through the passes.
struct Candidate<'w> {
    service: &'w Service,
    claim: Arc<Claim>,
    request: Request<'w>,
    addresses: Vec<IpAddr>,
    /// What it holds but no longer asks for.
    previous: Vec<IpAddr>,
    /// Why it could not keep what it held.
    refused: Option<AllocateError>,
    /// Why it does not get what it asks for.
    error: Option<AllocateError>,
}

impl<'w> Candidate<'w> {
    fn new(service: &'w Service, diagnostics: &mut BTreeMap<ObjectName, Vec<Diagnostic>>) -> Self {
        let (request, error) = match Request::of(service) {
            Ok(request) => (request, None),
            Err(error) => (Request::anything(service), Some(error)),
        };
        if let Some((error, remedy)) = error.as_ref().and_then(|error| Some((error, error.remedy()?))) {
            diagnostics.insert(service.name.clone(), vec![contradiction(service, error, remedy)]);
        }
        let claim = Claim::of(service);
        Self { service, claim, request, addresses: Vec::new(), previous: Vec::new(), refused: None, error }
    }

    /// Whether another service's change could give it something better.
    fn waits(&self) -> bool {
        self.error.is_some() || self.request.families.missing(&self.addresses).is_some()
    }
}

/// The passes over some of the services; all others have their claims already.
struct Passes<'a> {
    world: &'a World,
    pools: &'a Pools,
    cursors: &'a mut Cursors,
    in_use: &'a mut InUse,
    /// What was loaded, including what its holder no longer asks for: nobody else's claim to it is older.
    held: InUse,
}

impl Passes<'_> {
    fn run(mut self, candidates: &mut [Candidate<'_>], held: &OrdMap<ObjectName, Arc<Holding>>) {
        if self.world.given_addresses {
            return given::take(&mut self, candidates, held);
        }
        let of = |candidate: &Candidate<'_>| held.get(&candidate.service.name);
        for same_terms in [true, false] {
            for candidate in candidates.iter_mut() {
                if let Some(holding) = of(candidate)
                    && (holding.sharing == candidate.claim.sharing) == same_terms
                {
                    self.keep(candidate, &holding.addresses);
                }
            }
        }
        for candidate in candidates.iter_mut() {
            if candidate.addresses.is_empty() && candidate.previous.is_empty() {
                self.keep(candidate, &candidate.service.status_addresses);
            }
        }
        self.relocate(candidates);
        for particular in [true, false] {
            for candidate in candidates.iter_mut() {
                if candidate.request.is_particular() == particular {
                    self.serve(candidate);
                }
            }
        }
    }

    /// Load what a service holds, as far as it still fits.
    fn keep(&mut self, candidate: &mut Candidate<'_>, held: &[IpAddr]) {
        let kept = candidate.request.families.keep(held);
        if kept.is_empty() {
            return;
        }
        if let Err(error) = self.permits(candidate, &kept) {
            candidate.refused = Some(error);
            return;
        }
        for address in &kept {
            self.held.insert(*address, &candidate.claim);
        }
        if candidate.request.is_met_by(&kept, self.pools) {
            self.claim(candidate, kept);
        } else {
            candidate.previous = kept;
        }
    }

    /// Whether a service may go on having these addresses. Without any pool nothing is known to forbid them, and
    /// neither while the pool they are from may be one that could not be read.
    fn permits(&self, candidate: &Candidate<'_>, addresses: &[IpAddr]) -> Result<(), AllocateError> {
        let unknown = self.world.gaps.pools && !addresses.iter().any(|address| self.pools.know(*address));
        if !self.pools.is_empty() && !unknown {
            let first = addresses.first().copied();
            match (self.pools.of_held(addresses), first) {
                (Some(pool), _) => allowed(pool, candidate.service, addresses, self.world)?,
                (None, Some(first)) => {
                    let outside = addresses.iter().find(|address| !self.pools.know(**address)).unwrap_or(&first);
                    return Err(AllocateError::AddressNotInPool(*outside, "any pool".to_owned()));
                }
                (None, None) => {}
            }
        }
        match addresses.iter().find_map(|address| self.held.conflict(*address, &candidate.claim)) {
            Some(conflict) => Err(conflict),
            None => Ok(()),
        }
    }

    /// Note that the service has these addresses, unless that conflicts with who has them already.
    fn claim(&mut self, candidate: &mut Candidate<'_>, addresses: Vec<IpAddr>) {
        if addresses.iter().any(|address| self.in_use.conflict(*address, &candidate.claim).is_some()) {
            return;
        }
        for address in &addresses {
            self.in_use.insert(*address, &candidate.claim);
        }
        candidate.addresses = addresses;
    }

    /// Give the service what it asks for, or note why not.
    fn serve(&mut self, candidate: &mut Candidate<'_>) {
        if candidate.error.is_some() {
            return;
        }
        if !candidate.addresses.is_empty() {
            self.complete(candidate);
            return;
        }
        match self.choose(candidate) {
            Ok(addresses) => self.claim(candidate, addresses),
            Err(error) => candidate.error = Some(error),
        }
    }

    /// Add the second family to a service that would rather have both.
    fn complete(&mut self, candidate: &mut Candidate<'_>) {
        let Some(missing) = candidate.request.families.missing(&candidate.addresses) else { return };
        let Some(pool) = self.pools.of_all(&candidate.addresses) else { return };
        if let Some(address) = self.cursors.free(pool, missing, &candidate.claim, self.in_use) {
            self.in_use.insert(address, &candidate.claim);
            candidate.addresses.push(address);
            candidate.addresses = candidate.request.families.keep(&candidate.addresses);
        }
    }

    /// Move the services that hold one thing and ask for another. Those that turn out to have to stay take their
    /// address back first, and the others try again around them; every round has fewer to move, so it ends.
    fn relocate(&mut self, candidates: &mut [Candidate<'_>]) {
        let mut movers: Vec<&mut Candidate<'_>> =
            candidates.iter_mut().filter(|candidate| !candidate.previous.is_empty()).collect();
        while !movers.is_empty() {
            let before = (self.cursors.clone(), self.in_use.clone());
            movers.iter_mut().for_each(|mover| self.serve(mover));
            let (moved, must_stay): (Vec<_>, Vec<_>) =
                movers.into_iter().partition(|mover| !mover.addresses.is_empty());
            if must_stay.is_empty() {
                return;
            }
            (*self.cursors, *self.in_use) = before;
            for stays in must_stay {
                let previous = std::mem::take(&mut stays.previous);
                self.claim(stays, previous);
            }
            movers = moved;
            movers.iter_mut().for_each(|mover| mover.addresses.clear());
        }
    }

    fn choose(&mut self, candidate: &Candidate<'_>) -> Result<Vec<IpAddr>, AllocateError> {
        let (service, request) = (candidate.service, &candidate.request);
        if self.pools.is_empty() {
            return Err(AllocateError::NoPool("there is no usable address pool".to_owned()));
        }
        let requested_pool = match request.pool {
            None => None,
            Some(name) => Some(self.pools.named(name)?),
        };
        if !request.addresses.is_empty() {
            return self.requested(candidate, requested_pool.map(|pool| &**pool));
        }
        let pools = match requested_pool {
            Some(pool) if !pools::allows(pool, service, self.world) => {
                return Err(AllocateError::PoolNotAllowed(pool.name.name.clone()));
            }
            Some(pool) => vec![pool],
            None => self.pools.automatic(service, self.world),
        };
        self.free(candidate, &pools)
    }

    /// Exactly the addresses asked for.
    fn requested(
        &self,
        candidate: &Candidate<'_>,
        requested_pool: Option<&IpAddressPool>,
    ) -> Result<Vec<IpAddr>, AllocateError> {
        let addresses = &candidate.request.addresses;
        for address in addresses {
            let found = self.pools.of(*address);
            match (found, requested_pool) {
                (None, None) => return Err(AllocateError::AddressNotInPool(*address, "any pool".to_owned())),
                (found, Some(wanted)) if found.is_none_or(|found| found.name != wanted.name) => {
                    let wanted = format!("pool `{}`", wanted.name.name);
                    return Err(AllocateError::AddressNotInPool(*address, wanted));
                }
                (Some(pool), _) => allowed(pool, candidate.service, &[*address], self.world)?,
                (None, Some(_)) => {}
            }
            if let Some(conflict) = self.in_use.conflict(*address, &candidate.claim) {
                return Err(conflict);
            }
        }
        match self.pools.of_all(addresses) {
            Some(_) => Ok(addresses.clone()),
            None => Err(AllocateError::SeveralPools),
        }
    }

    /// Any free addresses of the families wanted, all from one pool.
    fn free(&mut self, candidate: &Candidate<'_>, pools: &[&Arc<IpAddressPool>]) -> Result<Vec<IpAddr>, AllocateError> {
        // What is reserved for a service goes before what is open to all, also where it has one family only.
        let open = pools.partition_point(|pool| pool.allocation.is_some());
        let (reserved, open) = pools.split_at(open);
        for pools in [reserved, open] {
            for families in candidate.request.families.choices() {
                for pool in pools {
                    let mut free = |family: &IpFamily| self.cursors.free(pool, *family, &candidate.claim, self.in_use);
                    let found: Option<Vec<IpAddr>> = families.iter().map(&mut free).collect();
                    if let Some(addresses) = found {
                        return Ok(addresses);
                    }
                }
            }
        }
        Err(none_free(&candidate.request, pools))
    }
}

/// Whether the pool may give the service these addresses, all of which are in it.
fn allowed(pool: &IpAddressPool, service: &Service, addresses: &[IpAddr], world: &World) -> Result<(), AllocateError> {
    if !pools::allows(pool, service, world) {
        return Err(AllocateError::PoolNotAllowed(pool.name.name.clone()));
    }
    match addresses.iter().find(|address| pools::leaves_out(pool, **address)) {
        Some(left_out) => Err(AllocateError::AddressLeftOut(*left_out, pool.name.name.clone())),
        None => Ok(()),
    }
}

/// Why none of these pools had what was wanted.
fn none_free(request: &Request<'_>, pools: &[&Arc<IpAddressPool>]) -> AllocateError {
    let names: Vec<String> = pools.iter().map(|pool| format!("`{}`", pool.name.name)).collect();
    let pools_shown = match names.as_slice() {
        [] => {
            let why = "no pool is open to this service (autoAssign, serviceAllocation)";
            return AllocateError::NoPool(why.to_owned());
        }
        [one] => format!("pool {one}"),
        several => format!("pools {}", several.join(", ")),
    };
    let has = |families: &&[IpFamily]| {
        pools.iter().any(|pool| families.iter().all(|family| pool.ranges.iter().any(|r| r.family() == *family)))
    };
    let choices = request.families.choices();
    match choices.iter().copied().find(has) {
        Some(families) => AllocateError::PoolExhausted(pools_shown, request::list(families)),
        None => AllocateError::FamilyNotInPool(pools_shown, request::list(choices.first().copied().unwrap_or(&[]))),
    }
}

fn other_class(service: &Service, served: Option<&String>) -> Diagnostic {
    let class = |class: Option<&String>| class.map_or("no class".to_owned(), |class| format!("class `{class}`"));
    Diagnostic {
        severity: Severity::Info,
        reason: "other_load_balancer_class",
        kind: Kind::Service,
        name: service.name.to_string(),
        field: "spec.loadBalancerClass".to_owned(),
        message: format!("left to another load balancer: it has {}", class(service.load_balancer_class.as_ref())),
        remedy: match served {
            None => "remove spec.loadBalancerClass to have it served here".to_owned(),
            Some(served) => format!("set spec.loadBalancerClass to `{served}` to have it served here"),
        },
    }
}

fn contradiction(service: &Service, error: &AllocateError, remedy: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        reason: error.reason(),
        kind: Kind::Service,
        name: service.name.to_string(),
        field: match service.requested.spec_address {
            Some(_) => "spec.loadBalancerIP",
            None => "metadata.annotations",
        }
        .to_owned(),
        message: error.to_string(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod defects;
#[cfg(test)]
mod tests;
