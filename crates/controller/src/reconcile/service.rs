//! A service's status: its addresses, the pool they are from, and why it does not have what it asks for.

use std::net::IpAddr;

use evenkeel_plan::allocate::ServicePlan;
use evenkeel_plan::world::{IpFamilyPolicy, ObjectName, Service};
pub use evenkeel_sources::kubernetes::events::Note;
use evenkeel_sources::kubernetes::{CONDITION, FORMER_POOL, Observation, POOL};
use serde_json::{Map, Value, json};

/// Traffic of the cluster's own pods and nodes is kube-proxy's (`docs/decisions/0030-status-writes.md`).
const IP_MODE: &str = "VIP";

/// What is to be written to a service: one patch of its status.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceWrite {
    /// Which service.
    pub name: ObjectName,
    /// Its `metadata.uid`.
    pub uid: String,
    /// The `resourceVersion` this was decided on. Another one is refused, so that nobody acts on what is past.
    pub version: String,
    /// The pool's annotations, by key; `None` removes. That with MetalLB's former prefix is kept out of contradiction, and never
    /// added.
    pub annotations: Vec<(&'static str, Option<String>)>,
    /// `status.loadBalancer.ingress`, where it changes.
    pub addresses: Option<Vec<IpAddr>>,
    /// The condition, where it changes.
    pub condition: Option<Condition>,
    /// Since when the condition has had that status; `None`: it changes by this write.
    since: Option<String>,
    /// The condition is removed.
    pub without_condition: bool,
    /// `metadata.generation`, for the condition.
    generation: i64,
    /// The conditions that others wrote.
    others: Vec<Value>,
    /// What to tell the service's users.
    pub notes: Vec<Note>,
}

/// [`CONDITION`] without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// It is met.
    pub met: bool,
    /// The named reason.
    pub reason: &'static str,
    /// The reason in words.
    pub message: String,
}

/// What to write to a service, if anything. `planned` is `None` for services that are not ours; what we once gave them is
/// taken back.
pub fn service(service: &Service, planned: Option<&ServicePlan>, seen: &Observation) -> Option<ServiceWrite> {
    let write = match planned {
        Some(planned) => wanted(service, planned, seen),
        None if !service.is_load_balancer && seen.is_marked() => nothing_more(service, seen),
        None => return None,
    };
    let says = write.condition.is_some() || write.without_condition;
    let changes = !write.annotations.is_empty() || write.addresses.is_some() || says;
    changes.then_some(write)
}

fn unchanged(service: &Service, seen: &Observation) -> ServiceWrite {
    ServiceWrite {
        name: service.name.clone(),
        uid: seen.uid.clone(),
        version: seen.version.clone(),
        annotations: Vec::new(),
        addresses: None,
        condition: None,
        since: None,
        without_condition: false,
        generation: seen.generation,
        others: seen.conditions().filter(|condition| condition["type"] != CONDITION).cloned().collect(),
        notes: Vec::new(),
    }
}

fn wanted(service: &Service, planned: &ServicePlan, seen: &Observation) -> ServiceWrite {
    let mut write = unchanged(service, seen);
    write.annotations = annotations(planned, seen);
    let had = addresses(seen);
    let (lost, gained) = (missing(&had, &planned.addresses), missing(&planned.addresses, &had));
    if !lost.is_empty() || !gained.is_empty() || !is_plain(seen) {
        write.addresses = Some(planned.addresses.clone());
    }
    let condition = condition(planned);
    let known = seen.conditions().find(|condition| condition["type"] == CONDITION);
    // That all is well needs no saying unless there is something to write anyway.
    let is_news = match known {
        Some(known) => !is(known, &condition),
        None => !condition.met || write.addresses.is_some(),
    };
    if is_news {
        write.since = known.and_then(|known| since(known, &condition));
        write.condition = Some(condition);
    }
    write.notes = notes(service, planned, &lost, &gained, write.condition.as_ref());
    write
}

/// A service that is no load balancer any more.
fn nothing_more(service: &Service, seen: &Observation) -> ServiceWrite {
    let mut write = unchanged(service, seen);
    let had = addresses(seen);
    write.annotations = [POOL, FORMER_POOL]
        .into_iter()
        .filter(|key| seen.annotations.contains_key(*key))
        .map(|key| (key, None))
        .collect();
    if !had.is_empty() {
        write.addresses = Some(Vec::new());
    }
    // The API has emptied the status already, as a rule; who had no addresses is not told of any.
    if !had.is_empty() || !write.annotations.is_empty() {
        write.notes.push(released(&had, "it is no longer of type LoadBalancer"));
    }
    write.without_condition = seen.conditions().any(|condition| condition["type"] == CONDITION);
    write
}

fn annotations(planned: &ServicePlan, seen: &Observation) -> Vec<(&'static str, Option<String>)> {
    let wanted = match (&planned.pool, planned.addresses.is_empty()) {
        (Some(pool), false) => Some(pool.clone()),
        // Kept while no pool is known: where they are from is no news.
        (None, false) => return Vec::new(),
        (_, true) => None,
    };
    let known = |key| seen.annotations.get(key);
    let mut changes = Vec::new();
    if known(POOL) != wanted.as_ref() {
        changes.push((POOL, wanted.clone()));
    }
    if known(FORMER_POOL).is_some() && known(FORMER_POOL) != wanted.as_ref() {
        changes.push((FORMER_POOL, None));
    }
    changes
}

fn condition(planned: &ServicePlan) -> Condition {
    match (&planned.error, planned.addresses.is_empty()) {
        (Some(error), _) => Condition { met: false, reason: error.reason, message: error.message.clone() },
        (None, true) => Condition { met: false, reason: "Pending", message: "no address yet".to_owned() },
        (None, false) => Condition { met: true, reason: "Assigned", message: String::new() },
    }
}

/// Each is told once: when what it says is written.
fn notes(
    service: &Service,
    planned: &ServicePlan,
    lost: &[IpAddr],
    gained: &[IpAddr],
    condition: Option<&Condition>,
) -> Vec<Note> {
    let mut notes = Vec::new();
    if !lost.is_empty() {
        let why = match &planned.error {
            Some(error) => error.message.as_str(),
            None => "it asks for something else, or its pool is another",
        };
        notes.push(released(lost, why));
    }
    if !gained.is_empty() {
        let message = format!("Assigned IP {}", quoted(gained));
        notes.push(Note { warning: false, reason: "IPAllocated", message });
        if service.ip_family_policy == IpFamilyPolicy::PreferDualStack && planned.addresses.len() == 1 {
            let pool = planned.pool.as_deref().unwrap_or_default();
            let message = format!("pool {pool:?} has no free address of the other family (PreferDualStack)");
            notes.push(Note { warning: false, reason: "AdditionalAssignFailed", message });
        }
    }
    if let Some(condition) = condition.filter(|condition| !condition.met && planned.error.is_some()) {
        // What it says is at fault, and not what there is to give.
        let contradicts_itself = matches!(condition.reason, "conflicting_request" | "family_mismatch")
            || (service.requested.unread.is_some() && !planned.addresses.is_empty());
        let reason = if contradicts_itself { "LoadBalancerFailed" } else { "AllocationFailed" };
        let keeps = if planned.addresses.is_empty() { "" } else { "; it keeps what it has" };
        let message = format!("{} [{}]{keeps}", condition.message, condition.reason);
        notes.push(Note { warning: true, reason, message });
    }
    notes
}

fn released(addresses: &[IpAddr], why: &str) -> Note {
    let what = if addresses.is_empty() { "what it had".to_owned() } else { format!("IP {}", quoted(addresses)) };
    Note { warning: false, reason: "ClearAssignment", message: format!("Released {what}: {why}") }
}

fn quoted(addresses: &[IpAddr]) -> String {
    let quoted: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!("[{}]", quoted.join(" "))
}

fn missing(from: &[IpAddr], other: &[IpAddr]) -> Vec<IpAddr> {
    from.iter().copied().filter(|address| !other.contains(address)).collect()
}

fn ingress(seen: &Observation) -> impl Iterator<Item = &Value> {
    seen.status.pointer("/loadBalancer/ingress").and_then(Value::as_array).into_iter().flatten()
}

/// The addresses in a service's status.
pub(crate) fn addresses(seen: &Observation) -> Vec<IpAddr> {
    let ip = |ingress: &Value| ingress.get("ip")?.as_str()?.parse().ok();
    ingress(seen).filter_map(ip).collect()
}

/// Whether there is nothing in the status but addresses of our mode. The API fills the mode in where it is left out.
fn is_plain(seen: &Observation) -> bool {
    let plain = |ingress: &Value| {
        let address = ingress.get("ip").and_then(Value::as_str).is_some_and(|ip| ip.parse::<IpAddr>().is_ok());
        address && ingress.get("ipMode").is_none_or(|mode| mode == IP_MODE || mode.is_null())
    };
    ingress(seen).all(plain)
}

fn is(known: &Value, condition: &Condition) -> bool {
    known["status"] == status(condition)
        && known["reason"] == condition.reason
        && known["message"] == *condition.message
}

/// Since when the status is what it goes on to be: another reason or message is no transition.
fn since(known: &Value, condition: &Condition) -> Option<String> {
    let is_same = known["status"] == status(condition);
    known["lastTransitionTime"].as_str().filter(|_| is_same).map(str::to_owned)
}

fn status(condition: &Condition) -> &'static str {
    if condition.met { "True" } else { "False" }
}

impl ServiceWrite {
    /// As a JSON merge patch of the status subresource, at a time in RFC 3339.
    pub fn patch(&self, now: &str) -> Value {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".to_owned(), self.version.as_str().into());
        if !self.annotations.is_empty() {
            let annotations = self.annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value)));
            metadata.insert("annotations".to_owned(), Value::Object(annotations.collect()));
        }
        let mut status = Map::new();
        if let Some(addresses) = &self.addresses {
            let ingress = addresses.iter().map(|address| json!({"ip": address, "ipMode": IP_MODE}));
            let ingress: Vec<Value> = ingress.collect();
            let ingress = if ingress.is_empty() { Value::Null } else { ingress.into() };
            status.insert("loadBalancer".to_owned(), json!({"ingress": ingress}));
        }
        if let Some(condition) = &self.condition {
            let mut conditions = self.others.clone();
            conditions.push(json!({
                "type": CONDITION,
                "status": self::status(condition),
                "reason": condition.reason,
                "message": condition.message,
                "lastTransitionTime": self.since.as_deref().unwrap_or(now),
                "observedGeneration": self.generation,
            }));
            status.insert("conditions".to_owned(), conditions.into());
        } else if self.without_condition {
            let others = if self.others.is_empty() { Value::Null } else { self.others.clone().into() };
            status.insert("conditions".to_owned(), others);
        }
        json!({"metadata": metadata, "status": status})
    }
}
