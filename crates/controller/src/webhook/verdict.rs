//! What is said about one change to the configuration. Pure: it sees the configuration as it is, and the change.
//!
//! No rule is made here. An object is read as every source reads it, and the World it makes is planned on as always; what is
//! refused is what both find wrong with it that was not wrong before. So a change that mends something is never held up by
//! what it does not mend, and what got in while nobody watched can still be labelled, mended and deleted.

use std::collections::BTreeSet;
use std::fmt;

use evenkeel_plan::world::{Kind, ObjectKey};
use evenkeel_plan::{Memory, Severity, World, plan};
use evenkeel_sources::manifest::{self, Parsed};
use serde_json::Value;

use super::review::{Operation, Request};

/// The API group of the configuration.
const GROUP: &str = "metallb.io";
/// What a deletion is refused for, as MetalLB does: a session would go on without the BFD it is to have.
const IN_USE: &str = "bfd_profile_not_found";
/// How many warnings are shown, and how long each may be: an API server passes on 256 characters of one.
const MAX_WARNINGS: usize = 10;
const MAX_WARNING: usize = 250;
/// How many reasons for a refusal are told.
const MAX_REFUSALS: usize = 10;

/// What is said about a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it is refused; empty: it is not.
    pub refusals: Vec<Finding>,
    /// What its author should know.
    pub warnings: Vec<Warning>,
}

/// What is wrong: a finding of the source that reads the object, or of the plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The named reason.
    pub reason: &'static str,
    /// Kind and name of the object that it is about.
    pub object: String,
    /// The field; empty: the object as a whole.
    pub field: String,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.object)?;
        if !self.field.is_empty() {
            write!(f, ", {}", self.field)?;
        }
        write!(f, ": {}; {}", self.message, self.remedy)
    }
}

/// A finding that is no reason to refuse anything, short enough to be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(Finding);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        match text.char_indices().nth(MAX_WARNING) {
            Some((end, _)) => write!(f, "{}…", text.get(..end).unwrap_or_default()),
            None => f.write_str(&text),
        }
    }
}

impl Verdict {
    /// Whether the change may be made.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.refusals.is_empty()
    }
}

/// The kind of the configuration that a request is about; `None`: it is about something else.
#[must_use]
pub fn kind(request: &Request) -> Option<Kind> {
    let mut kinds = Kind::ALL.into_iter().filter(|kind| kind.is_configuration() && request.group == GROUP);
    kinds.find(|kind| kind.as_str() == request.kind)
}

/// What has to be known to judge a change to this kind: the configuration, and for BGP also where sessions run and whether
/// passwords are there.
#[must_use]
pub fn needed(kind: Kind) -> Vec<Kind> {
    let is_bgp = matches!(kind, Kind::BgpPeer | Kind::BgpAdvertisement | Kind::BfdProfile);
    let beside = |kind: Kind| kind.is_configuration() || is_bgp && matches!(kind, Kind::Node | Kind::Secret);
    Kind::ALL.into_iter().filter(|kind| beside(*kind)).collect()
}

/// Judge a change to an object of a kind of the configuration; `world` is what there is at present of what is
/// [`needed`].
#[must_use]
pub fn judge(kind: Kind, world: &World, request: &Request) -> Verdict {
    let old = request.old.as_ref().map(|object| manifest::of_api(kind, object)).unwrap_or_default();
    match (request.operation, &request.object) {
        (Operation::Create | Operation::Update, Some(object)) if !is_going(object) => {
            judge_version(world, &old, &manifest::of_api(kind, object))
        }
        (Operation::Delete, _) => judge_deletion(world, &old),
        _ => Verdict::default(),
    }
}

/// Whether an object is being deleted: whatever is changed about it, such as its finalizers, has to be let through.
fn is_going(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|timestamp| !timestamp.is_null())
}

fn judge_version(world: &World, old: &Parsed, new: &Parsed) -> Verdict {
    let mut after = world.clone();
    for document in &new.documents {
        if let Some(object) = document.object.clone() {
            after.insert(document.key.name.clone(), object);
        }
    }
    let before = all(of_object(old), world);
    let mut verdict = Verdict::default();
    for (severity, finding) in all(of_object(new), &after).difference(&before) {
        match severity {
            Severity::Error => verdict.refusals.push(finding.clone()),
            Severity::Warning => verdict.warnings.push(Warning(finding.clone())),
            Severity::Info => {}
        }
    }
    verdict.refusals.truncate(MAX_REFUSALS);
    verdict.warnings.truncate(MAX_WARNINGS);
    verdict
}

fn judge_deletion(world: &World, old: &Parsed) -> Verdict {
    let keys: Vec<&ObjectKey> = old.documents.iter().map(|document| &document.key).collect();
    let mut after = world.clone();
    keys.iter().for_each(|key| after.remove(key));
    let before = all(BTreeSet::new(), world);
    let dangling = all(BTreeSet::new(), &after);
    let dangling = dangling.difference(&before).map(|(_, finding)| finding).filter(|finding| finding.reason == IN_USE);
    let refusals = dangling.take(MAX_REFUSALS).map(|finding| Finding {
        message: format!("it is in use; once it is deleted, {}", finding.message),
        remedy: format!("first remove {} from {}", finding.field, finding.object),
        ..finding.clone()
    });
    Verdict { refusals: refusals.collect(), warnings: Vec::new() }
}

type Findings = BTreeSet<(Severity, Finding)>;

/// What is said about an object by itself.
fn of_object(parsed: &Parsed) -> Findings {
    let findings = parsed.diagnostics.iter().map(|found| {
        let object = format!("{} {}", found.kind, found.name);
        let (message, remedy) = (found.message.clone(), found.remedy.clone());
        (found.severity, Finding { reason: found.reason, object, field: found.field.clone(), message, remedy })
    });
    findings.collect()
}

/// The same with what is said about all objects taken together. The World has no services, so that what is found is about
/// the configuration.
fn all(mut findings: Findings, world: &World) -> Findings {
    let plan = plan(world, &Memory::default());
    findings.extend(plan.diagnostics().map(|found| {
        let object = format!("{} {}", found.kind, found.name);
        let (message, remedy) = (found.message.clone(), found.remedy.clone());
        (found.severity, Finding { reason: found.reason, object, field: found.field.clone(), message, remedy })
    }));
    findings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(kind: Kind, name: &str, spec: &Value) -> Value {
        let version = if kind == Kind::BgpPeer { "metallb.io/v1beta2" } else { "metallb.io/v1beta1" };
        json!({"apiVersion": version, "kind": kind.as_str(), "metadata": {"name": name, "namespace": "lb"}, "spec": spec})
    }

    fn pool(name: &str, range: &str) -> Value {
        object(Kind::IpAddressPool, name, &json!({"addresses": [range]}))
    }

    fn world(objects: &[Value]) -> World {
        let mut world = World { system_namespace: Some("lb".to_owned()), ..World::default() };
        for object in objects {
            let kind = Kind::ALL.into_iter().find(|kind| object["kind"] == kind.as_str()).unwrap();
            for document in manifest::of_api(kind, object).documents {
                world.insert(document.key.name, document.object.unwrap());
            }
        }
        world
    }

    fn change(operation: Operation, old: Option<&Value>, new: Option<&Value>) -> Request {
        let kind = new.or(old).unwrap()["kind"].as_str().unwrap().to_owned();
        let (object, old) = (new.cloned(), old.cloned());
        Request { uid: "u".to_owned(), operation, group: GROUP.to_owned(), kind, object, old }
    }

    fn judged(world: &World, request: &Request) -> Verdict {
        judge(kind(request).unwrap(), world, request)
    }

    fn create(there: &[Value], new: &Value) -> Vec<String> {
        let verdict = judged(&world(there), &change(Operation::Create, None, Some(new)));
        verdict.refusals.iter().map(ToString::to_string).collect()
    }

    fn reasons(verdict: &Verdict) -> Vec<&str> {
        verdict.refusals.iter().map(|finding| finding.reason).collect()
    }

    #[test]
    fn what_overlaps_is_refused_whichever_comes_first_by_name() {
        let there = [pool("m", "10.0.0.0/24")];
        assert_eq!(create(&there, &pool("z", "10.0.1.0/24")), [""; 0]);
        assert_eq!(
            create(&there, &pool("z", "10.0.0.8-10.0.0.9")),
            ["pool_overlap: IPAddressPool lb/z, spec.addresses[0]: pool `z` (10.0.0.8-10.0.0.9) overlaps pool `m` \
              (10.0.0.0-10.0.0.255); nothing new is taken from `z`; give each address to one pool only"]
        );
        let before = create(&there, &pool("a", "10.0.0.8/32"));
        assert!(before[0].starts_with("pool_overlap: IPAddressPool lb/m"), "{before:?}");
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_every_reason() {
        let bad = object(
            Kind::L2Advertisement,
            "l2",
            &json!({"nodeSelectors": [{"matchExpressions": [{"key": "a", "operator": "Within"}]}], "interface": "eth0"}),
        );
        let said = create(&[], &bad);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said.iter().any(|one| one.starts_with("invalid_value") && one.contains("use one of In, NotIn")),
            "{said:?}"
        );
        assert!(said.iter().any(|one| one.contains("did you mean `interfaces`?")), "{said:?}");
        assert!(create(&[], &pool("p", "10.0.0.0/33"))[0].starts_with("invalid_range"));
    }

    #[test]
    fn configuration_elsewhere_is_refused() {
        let mut elsewhere = pool("p", "10.0.0.0/24");
        elsewhere["metadata"]["namespace"] = "shop".into();
        assert!(create(&[], &elsewhere)[0].starts_with("outside_system_namespace: IPAddressPool shop/p"));
    }

    #[test]
    fn a_change_is_not_refused_for_what_was_wrong_before() {
        let (one, other) = (pool("a", "10.0.0.0/24"), pool("b", "10.0.0.0/25"));
        let there = world(&[one, other.clone()]);
        let mut labelled = other.clone();
        labelled["metadata"]["labels"] = json!({"x": "y"});
        assert_eq!(judged(&there, &change(Operation::Update, Some(&other), Some(&labelled))), Verdict::default());
        let worse = pool("b", "10.0.0.0/26");
        assert_eq!(reasons(&judged(&there, &change(Operation::Update, Some(&other), Some(&worse)))), ["pool_overlap"]);
        let mended = pool("b", "10.0.1.0/24");
        assert_eq!(judged(&there, &change(Operation::Update, Some(&other), Some(&mended))), Verdict::default());

        // One that was never readable.
        let (bad, mut same) = (pool("c", "nonsense"), pool("c", "nonsense"));
        same["metadata"]["annotations"] = json!({"who": "me"});
        assert!(judged(&there, &change(Operation::Update, Some(&bad), Some(&same))).is_allowed());
    }

    #[test]
    fn what_is_being_deleted_is_let_go() {
        let mut going = pool("p", "nonsense");
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let request = change(Operation::Update, Some(&pool("p", "10.0.0.0/24")), Some(&going));
        assert_eq!(judged(&world(&[]), &request), Verdict::default());
    }

    #[test]
    fn a_bfd_profile_stays_as_long_as_a_peer_names_it() {
        let profile = object(Kind::BfdProfile, "fast", &json!({}));
        let peer = json!({"myASN": 64512, "peerASN": 64513, "peerAddress": "10.0.0.1", "bfdProfile": "fast"});
        let there = world(&[profile.clone(), object(Kind::BgpPeer, "tor", &peer)]);
        let verdict = judged(&there, &change(Operation::Delete, Some(&profile), None));
        assert_eq!(
            verdict.refusals[0].to_string(),
            "bfd_profile_not_found: BGPPeer lb/tor, spec.bfdProfile: it is in use; once it is deleted, BFD profile `fast` \
             does not exist; the session runs without BFD; first remove spec.bfdProfile from BGPPeer lb/tor"
        );
        assert!(
            judged(&world(std::slice::from_ref(&profile)), &change(Operation::Delete, Some(&profile), None))
                .is_allowed()
        );
        let pool = pool("p", "10.0.0.0/24");
        assert!(judged(&there, &change(Operation::Delete, Some(&pool), None)).is_allowed());
    }

    #[test]
    fn bgp_objects_are_judged_beside_the_others() {
        let peer = json!({"myASN": 64512, "peerASN": 64513, "peerAddress": "10.0.0.1", "bfdProfile": "fast"});
        let request = change(Operation::Create, None, Some(&object(Kind::BgpPeer, "tor", &peer)));
        let verdict = judged(&world(&[]), &request);
        assert!(verdict.is_allowed(), "a reference that leads nowhere may still come to lead somewhere");
        assert!(verdict.warnings[0].to_string().contains("BFD profile `fast` does not exist"), "{verdict:?}");
        let both = json!({"myASN": 64512, "peerASN": 64513, "dynamicASN": "internal", "peerAddress": "10.0.0.1"});
        assert!(create(&[], &object(Kind::BgpPeer, "tor", &both))[0].starts_with("conflicting_fields"));
        let alias = json!({"communities": [{"name": "x", "value": "1:2"}]});
        let there = [object(Kind::Community, "a", &alias)];
        assert!(create(&there, &object(Kind::Community, "b", &alias))[0].starts_with("duplicate_alias"));
        let (high, low) = (json!({"localPref": 200}), json!({"localPref": 100}));
        let there = [pool("p", "10.0.0.0/24"), object(Kind::BgpAdvertisement, "high", &high)];
        let said = create(&there, &object(Kind::BgpAdvertisement, "low", &low));
        assert!(said[0].starts_with("conflicting_advertisements"), "{said:?}");
    }

    #[test]
    fn only_the_configuration_is_judged() {
        let of = |group: &str, of: &str| {
            let mut request = change(Operation::Create, None, Some(&pool("p", "10.0.0.0/24")));
            group.clone_into(&mut request.group);
            of.clone_into(&mut request.kind);
            kind(&request)
        };
        assert_eq!(of(GROUP, "BGPPeer"), Some(Kind::BgpPeer));
        assert_eq!(of(GROUP, "ServiceL2Status"), None);
        assert_eq!(of("", "Service"), None);
        assert_eq!(of(GROUP, "Service"), None);
        assert!(!needed(Kind::IpAddressPool).contains(&Kind::Node) && needed(Kind::BgpPeer).contains(&Kind::Node));
    }

    #[test]
    fn an_endless_list_of_errors_is_cut() {
        let ranges: Vec<String> = (0..1000).map(|n| format!("bad{n}")).collect();
        let bad = object(Kind::IpAddressPool, "p", &json!({"addresses": ranges}));
        assert_eq!(create(&[], &bad).len(), MAX_REFUSALS);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let words = "metadata|name|namespace|spec|addresses|10.0.0.0/24|deletionTimestamp|lb|[a-z]{0,4}";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            words.prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(words, inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// And judging the same object as it is changes nothing: it is never refused.
        #[test]
        fn any_object_is_judged_without_a_panic(object in any_json(), n in 0..6_usize) {
            let kinds = needed(Kind::IpAddressPool);
            let kind = kinds[n % kinds.len()];
            let there = world(&[pool("a", "10.0.0.0/25")]);
            for operation in [Operation::Create, Operation::Update, Operation::Delete, Operation::Connect] {
                let request = Request {
                    uid: String::new(), operation, group: GROUP.to_owned(), kind: kind.to_string(),
                    object: Some(object.clone()), old: Some(object.clone()),
                };
                let verdict = judge(kind, &there, &request);
                let parsed = manifest::of_api(kind, &object);
                if operation == Operation::Update && parsed.documents.iter().all(|document| document.object.is_none()) {
                    prop_assert!(verdict.is_allowed(), "{:?}", verdict);
                }
                let _ = request.answer(&verdict);
            }
        }
    }
}
