//! Which addresses each load balancer service gets.
//!
//! The order of the passes is the point: an address that is held is never handed to someone else, whatever the order
//! in which services are listed.
//!
//! 1. What services hold by our own memory, then what their status says, is loaded, where it still fits.
//! 2. Services that hold something but now ask for something else move, together, so that two can swap. One whose
//!    new wish cannot be met keeps what it holds, with the error: a typo in a request does not cost a service the
//!    address its clients use.
//! 3. Services that hold nothing and ask for particular addresses or a particular pool are served,
//! 4. then those that take anything.

mod pools;
mod request;
mod sharing;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use self::pools::Pools;
use self::request::Request;
use self::sharing::InUse;
use crate::diagnostic::{Diagnostic, Severity};
use crate::range::IpFamily;
use crate::world::{IpAddressPool, Kind, ObjectName, Service, World};

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

impl From<AllocateError> for ServiceError {
    fn from(error: AllocateError) -> Self {
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
}

impl AllocateError {
    /// The named reason, shared by output, log and test.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TwoRequests | Self::TooManyAddresses | Self::SeveralPools => "conflicting_request",
            Self::FamilyMismatch(..) => "family_mismatch",
            Self::NoPool(_) => "no_pool",
            Self::PoolNotFound(_) => "pool_not_found",
            Self::PoolNotAllowed(_) => "pool_not_allowed",
            Self::PoolExhausted(..) => "pool_exhausted",
            Self::FamilyNotInPool(..) => "family_not_in_pool",
            Self::AddressNotInPool(..) => "address_not_in_pool",
            Self::AddressInUse(..) => "address_in_use",
            Self::SharingConflict { .. } => "sharing_conflict",
        }
    }

    /// What to do about a request that can never be met, as opposed to one that has to wait for others.
    fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::TwoRequests => Some("keep only the annotation metallb.io/loadBalancerIPs"),
            Self::TooManyAddresses => Some("request one IPv4 and one IPv6 address at most"),
            Self::FamilyMismatch(..) => Some("request an address of one of spec.ipFamilies, or change those"),
            _ => None,
        }
    }
}

/// The addresses of all services, and the pools they are from.
#[derive(Clone, Debug, Default)]
pub struct Allocation<'w> {
    /// The services, by name.
    pub services: Vec<ServicePlan>,
    /// The pool of each allocated address; none for those kept while no pool is known at all.
    pub(crate) pools: BTreeMap<IpAddr, &'w IpAddressPool>,
}

impl Allocation<'_> {
    /// What to remember for the next [`allocate`].
    pub fn held(&self) -> BTreeMap<ObjectName, Vec<IpAddr>> {
        let holders = self.services.iter().filter(|planned| !planned.addresses.is_empty());
        holders.map(|planned| (planned.service(), planned.addresses.clone())).collect()
    }
}

/// Give every load balancer service its addresses. `held` is what [`Allocation::held`] returned last time.
pub fn allocate<'w>(
    world: &'w World,
    held: &BTreeMap<ObjectName, Vec<IpAddr>>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Allocation<'w> {
    let mut allocator =
        Allocator { world, pools: Pools::new(world, diagnostics), in_use: InUse::default(), held: InUse::default() };
    let mut candidates = candidates(world, diagnostics);

    for candidate in &mut candidates {
        if let Some(addresses) = held.get(&candidate.service.name) {
            allocator.keep(candidate, addresses);
        }
    }
    for candidate in &mut candidates {
        if !held.contains_key(&candidate.service.name) {
            allocator.keep(candidate, &candidate.service.status_addresses);
        }
    }
    allocator.relocate(&mut candidates);
    for candidate in candidates.iter_mut().filter(|candidate| candidate.request.is_particular()) {
        allocator.serve(candidate);
    }
    for candidate in candidates.iter_mut().filter(|candidate| !candidate.request.is_particular()) {
        allocator.serve(candidate);
    }

    let services: Vec<ServicePlan> = candidates.into_iter().map(|candidate| allocator.planned(candidate)).collect();
    let addresses = services.iter().flat_map(|planned| &planned.addresses);
    let pools = addresses.filter_map(|address| Some((*address, allocator.pools.of_held(&[*address])?))).collect();
    Allocation { services, pools }
}

/// A service on its way through the passes.
struct Candidate<'w> {
    service: &'w Service,
    request: Request<'w>,
    addresses: Vec<IpAddr>,
    /// What it holds but no longer asks for.
    previous: Vec<IpAddr>,
    error: Option<AllocateError>,
}

/// The load balancer services of our class, by name.
fn candidates<'w>(world: &'w World, diagnostics: &mut Vec<Diagnostic>) -> Vec<Candidate<'w>> {
    let mut candidates = Vec::new();
    for service in world.services.values().filter(|service| service.is_load_balancer) {
        if service.load_balancer_class != world.load_balancer_class {
            diagnostics.push(other_class(service));
            continue;
        }
        let (request, error) = match Request::of(service) {
            Ok(request) => (request, None),
            Err(error) => (Request::anything(), Some(error)),
        };
        if let Some((error, remedy)) = error.as_ref().and_then(|error| Some((error, error.remedy()?))) {
            diagnostics.push(contradiction(service, error, remedy));
        }
        candidates.push(Candidate { service, request, addresses: Vec::new(), previous: Vec::new(), error });
    }
    candidates
}

struct Allocator<'w> {
    world: &'w World,
    pools: Pools<'w>,
    in_use: InUse<'w>,
    /// What was loaded, including what its holder no longer asks for: nobody else's claim to it is older.
    held: InUse<'w>,
}

impl<'w> Allocator<'w> {
    /// Load what a service holds, as far as it still fits.
    fn keep(&mut self, candidate: &mut Candidate<'w>, held: &[IpAddr]) {
        let kept = candidate.request.families.keep(held);
        let taken = || kept.iter().any(|address| self.held.conflict(*address, candidate.service).is_some());
        if kept.is_empty() || !self.permits(candidate.service, &kept) || taken() {
            return;
        }
        for address in &kept {
            self.held.insert(*address, candidate.service);
        }
        if candidate.request.is_met_by(&kept, &self.pools) {
            self.claim(candidate, kept);
        } else {
            candidate.previous = kept;
        }
    }

    /// Whether the pools let the service have these addresses. Without any pool nothing is known to forbid them.
    fn permits(&self, service: &Service, addresses: &[IpAddr]) -> bool {
        self.pools.is_empty()
            || self
                .pools
                .of_held(addresses)
                .is_some_and(|pool| pools::allows(pool, service, self.world) && pools::hands_out(pool, addresses))
    }

    /// Note that the service has these addresses, unless that conflicts with who has them already.
    fn claim(&mut self, candidate: &mut Candidate<'w>, addresses: Vec<IpAddr>) -> bool {
        let conflict = addresses.iter().find_map(|address| self.in_use.conflict(*address, candidate.service));
        if conflict.is_some() {
            return false;
        }
        for address in &addresses {
            self.in_use.insert(*address, candidate.service);
        }
        candidate.addresses = addresses;
        true
    }

    /// Give the service what it asks for, or note why not.
    fn serve(&mut self, candidate: &mut Candidate<'w>) {
        if candidate.error.is_some() {
            return;
        }
        if !candidate.addresses.is_empty() {
            self.complete(candidate);
            return;
        }
        match self.choose(candidate) {
            Ok(addresses) => _ = self.claim(candidate, addresses),
            Err(error) => candidate.error = Some(error),
        }
    }

    /// Add the second family to a service that would rather have both.
    fn complete(&mut self, candidate: &mut Candidate<'w>) {
        if !candidate.request.addresses.is_empty() {
            return;
        }
        let Some(missing) = candidate.request.families.missing(&candidate.addresses) else { return };
        let Some(pool) = self.pools.of_all(&candidate.addresses) else { return };
        if let Some(address) = self.pools.free(pool, missing, candidate.service, &self.in_use) {
            self.in_use.insert(address, candidate.service);
            candidate.addresses.push(address);
        }
    }

    /// Move the services that hold one thing and ask for another. Those that turn out to have to stay take their
    /// address back first, and the others try again around them; every round has fewer to move, so it ends.
    fn relocate(&mut self, candidates: &mut [Candidate<'w>]) {
        loop {
            let (pools, in_use) = (self.pools.clone(), self.in_use.clone());
            let mut must_stay = false;
            for mover in candidates.iter_mut().filter(|candidate| !candidate.previous.is_empty()) {
                self.serve(mover);
                must_stay |= mover.addresses.is_empty();
            }
            if !must_stay {
                return;
            }
            (self.pools, self.in_use) = (pools, in_use);
            for mover in candidates.iter_mut().filter(|candidate| !candidate.previous.is_empty()) {
                if mover.addresses.is_empty() {
                    let previous = std::mem::take(&mut mover.previous);
                    self.claim(mover, previous);
                } else {
                    mover.addresses.clear();
                }
            }
        }
    }

    fn choose(&mut self, candidate: &Candidate<'w>) -> Result<Vec<IpAddr>, AllocateError> {
        let (service, request) = (candidate.service, &candidate.request);
        if self.pools.is_empty() {
            return Err(AllocateError::NoPool("there is no usable address pool".to_owned()));
        }
        let requested_pool = match request.pool {
            None => None,
            Some(name) => Some(self.pools.named(name).ok_or_else(|| AllocateError::PoolNotFound(name.to_owned()))?),
        };
        if !request.addresses.is_empty() {
            return self.requested(service, &request.addresses, requested_pool);
        }
        let pools = match requested_pool {
            Some(pool) if !pools::allows(pool, service, self.world) => {
                return Err(AllocateError::PoolNotAllowed(pool.name.name.clone()));
            }
            Some(pool) => vec![pool],
            None => self.pools.automatic(service, self.world),
        };
        self.free(service, request, &pools)
    }

    /// Exactly these addresses.
    fn requested(
        &self,
        service: &Service,
        addresses: &[IpAddr],
        requested_pool: Option<&IpAddressPool>,
    ) -> Result<Vec<IpAddr>, AllocateError> {
        for address in addresses {
            let pool = self.pools.of(*address);
            match (pool, requested_pool) {
                (None, None) => return Err(AllocateError::AddressNotInPool(*address, "any pool".to_owned())),
                (found, Some(wanted)) if found.is_none_or(|found| found.name != wanted.name) => {
                    let wanted = format!("pool `{}`", wanted.name.name);
                    return Err(AllocateError::AddressNotInPool(*address, wanted));
                }
                (Some(pool), _) if !pools::allows(pool, service, self.world) => {
                    return Err(AllocateError::PoolNotAllowed(pool.name.name.clone()));
                }
                _ => {}
            }
            if let Some(conflict) = self.in_use.conflict(*address, service) {
                return Err(conflict);
            }
        }
        match self.pools.of_all(addresses) {
            Some(_) => Ok(addresses.to_vec()),
            None => Err(AllocateError::SeveralPools),
        }
    }

    /// Any free addresses of the families wanted, all from one pool.
    fn free(
        &mut self,
        service: &Service,
        request: &Request<'_>,
        pools: &[&'w IpAddressPool],
    ) -> Result<Vec<IpAddr>, AllocateError> {
        for families in request.families.choices() {
            for pool in pools {
                let found: Option<Vec<IpAddr>> =
                    families.iter().map(|family| self.pools.free(pool, *family, service, &self.in_use)).collect();
                if let Some(addresses) = found {
                    return Ok(addresses);
                }
            }
        }
        Err(none_free(request, pools))
    }

    fn planned(&self, candidate: Candidate<'w>) -> ServicePlan {
        let pool = self.pools.of_held(&candidate.addresses).map(|pool| pool.name.name.clone());
        ServicePlan {
            namespace: candidate.service.name.namespace.clone(),
            name: candidate.service.name.name.clone(),
            addresses: candidate.addresses,
            pool,
            error: candidate.error.map(ServiceError::from),
        }
    }
}

/// Why none of these pools had what was wanted.
fn none_free(request: &Request<'_>, pools: &[&IpAddressPool]) -> AllocateError {
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

fn other_class(service: &Service) -> Diagnostic {
    let class = |class: &Option<String>| class.as_ref().map_or("no class".to_owned(), |class| format!("`{class}`"));
    Diagnostic {
        severity: Severity::Info,
        reason: "other_load_balancer_class",
        kind: Kind::Service,
        name: service.name.to_string(),
        field: "spec.loadBalancerClass".to_owned(),
        message: format!("left to another load balancer: its class is {}", class(&service.load_balancer_class)),
        remedy: "remove spec.loadBalancerClass to have it served here".to_owned(),
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
mod tests;
