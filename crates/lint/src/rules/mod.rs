//! The rules: what each is called, what it prevents, and the function that finds where it is broken.

mod budget;
mod lifecycle;
mod network;
mod probes;
mod rollout;
mod words;

use std::collections::BTreeSet;

use evenkeel_manifest::Severity;
use evenkeel_manifest::words::close_to;

use crate::config::Config;
use crate::fix::Edit;
use crate::picture::{Object, Picture};
use crate::view::{Path, View};

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// Such as `ZD08`.
    pub id: &'static str,
    /// What is asked for, in a few words.
    pub title: &'static str,
    /// The failure it prevents.
    pub prevents: &'static str,
    /// What to do where it is broken.
    pub remedy: &'static str,
    /// What `--fix` does; empty where a person must decide.
    pub fix: &'static str,
    /// What is different behind Evenkeel; empty where nothing is.
    pub evenkeel: &'static str,
    check: fn(&Ask<'_>, &mut Found),
}

/// What a rule may look at.
pub(crate) struct Ask<'a> {
    pub(crate) picture: &'a Picture<'a>,
    pub(crate) config: &'a Config,
}

/// One thing a rule found.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) rule: &'static Rule,
    pub(crate) severity: Severity,
    pub(crate) document: usize,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) path: Path,
    pub(crate) message: String,
    pub(crate) remedy: String,
    pub(crate) edits: Vec<Edit>,
    /// Whether it is suppressed, and why.
    pub(crate) suppressed: Option<String>,
}

/// What a rule finds goes here.
pub(crate) struct Found {
    rule: &'static Rule,
    list: Vec<Raw>,
}

impl Found {
    pub(crate) fn add(&mut self, severity: Severity, object: &Object<'_>, path: &Path, message: String) -> &mut Raw {
        let reason = suppression(object, self.rule.id);
        let raw = Raw {
            rule: self.rule,
            severity,
            document: object.document,
            kind: object.kind.to_owned(),
            name: object.full_name(),
            path: path.clone(),
            message,
            remedy: self.rule.remedy.to_owned(),
            edits: Vec::new(),
            suppressed: reason,
        };
        self.list.push_mut(raw)
    }
}

impl Raw {
    pub(crate) fn fix(&mut self, edits: Vec<Edit>) -> &mut Self {
        self.edits = edits;
        self
    }

    pub(crate) fn remedy(&mut self, remedy: impl Into<String>) -> &mut Self {
        self.remedy = remedy.into();
        self
    }
}

/// Annotations that suppress a rule: `lint.evenkeel.io/ZD08: "the reason"`, on the object or on its pods' template.
pub(crate) const SUPPRESS: &str = "lint.evenkeel.io/";

/// Where annotations stand that the linter reads.
const ANNOTATIONS: [&str; 2] = ["metadata.annotations", "spec.template.metadata.annotations"];

/// Why an object does without a rule, if it says so.
fn suppression(object: &Object<'_>, id: &str) -> Option<String> {
    let all = suppressions_of(object);
    all.into_iter().find(|suppression| suppression.id.eq_ignore_ascii_case(id))?.reason.map(str::to_owned)
}

/// An annotation about a rule, with the reason it gives.
struct Suppression<'n> {
    id: &'n str,
    key: &'n str,
    reason: Option<&'n str>,
    path: Path,
}

fn suppressions_of<'n>(object: &Object<'n>) -> Vec<Suppression<'n>> {
    let entries = ANNOTATIONS.iter().flat_map(|place| object.at(place).entries());
    let suppression = |(key, reason): (&'n str, View<'n>)| {
        let id = key.strip_prefix(SUPPRESS).filter(|id| *id != SHUTDOWN)?;
        let text = reason.text().map(str::trim).filter(|reason| !reason.is_empty());
        Some(Suppression { id, key, reason: text, path: reason.path })
    };
    entries.filter_map(suppression).collect()
}

/// The value of an annotation of the linter's other than a suppression, on the object or on its pods' template.
pub(crate) fn annotation<'n>(object: &Object<'n>, name: &str) -> Option<&'n str> {
    let key = format!("{SUPPRESS}{name}");
    ANNOTATIONS.iter().find_map(|place| object.at(place).key(&key).text())
}

/// All rules, by number.
pub fn all() -> &'static [Rule] {
    &RULES
}

/// The rule of a number such as `ZD08`.
pub fn find(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id.eq_ignore_ascii_case(id))
}

/// The number of a rule that may have been meant, such as `ZD08` by `ZD8`.
pub fn close(id: &str) -> Option<&'static str> {
    let digits: String = id.chars().filter(char::is_ascii_digit).collect();
    let by_number = digits.parse::<usize>().ok().map(|number| format!("ZD{number:02}"));
    let known: Vec<&str> = RULES.iter().map(|rule| rule.id).collect();
    by_number.and_then(|id| find(&id)).map(|rule| rule.id).or_else(|| close_to(id, &known))
}

/// Everything every rule finds, suppressed or not.
pub(crate) fn check(ask: &Ask<'_>) -> Vec<Raw> {
    let mut all = Vec::new();
    for rule in RULES.iter().filter(|rule| !ask.config.off.contains_key(rule.id)) {
        let mut found = Found { rule, list: Vec::new() };
        (rule.check)(ask, &mut found);
        for raw in &mut found.list {
            if let Some(severity) = ask.config.severity.get(rule.id) {
                raw.severity = *severity;
            }
        }
        all.extend(found.list);
    }
    let unused = unused(ask, &all);
    all.extend(unused);
    all
}

/// Suppressions that are none.
fn suppressions(ask: &Ask<'_>, found: &mut Found) {
    for object in &ask.picture.all {
        for Suppression { id, key, reason, path } in suppressions_of(object) {
            if find(id).is_none() {
                let message = format!("`{key}` names no rule");
                let remedy = match close(id) {
                    Some(close) => format!("did you mean `{SUPPRESS}{close}`?"),
                    None => "name a rule, such as ZD08".to_owned(),
                };
                found.add(Severity::Warning, object, &path, message).remedy(remedy);
            } else if reason.is_none() {
                let message = format!("{id} is suppressed without a reason, so it is not suppressed");
                found.add(Severity::Warning, object, &path, message);
            }
        }
    }
}

/// Suppressions of what is not there, or not any more.
fn unused(ask: &Ask<'_>, all: &[Raw]) -> Vec<Raw> {
    let Some(rule) = find("ZD00").filter(|rule| !ask.config.off.contains_key(rule.id)) else { return Vec::new() };
    let used: BTreeSet<(usize, &str, &str, &str)> = all
        .iter()
        .filter(|raw| raw.suppressed.is_some())
        .map(|raw| (raw.document, raw.kind.as_str(), raw.name.as_str(), raw.rule.id))
        .collect();
    let mut found = Found { rule, list: Vec::new() };
    for object in &ask.picture.all {
        let name = object.full_name();
        for suppression in suppressions_of(object).into_iter().filter(|suppression| suppression.reason.is_some()) {
            let Some(meant) = find(suppression.id).filter(|meant| !ask.config.off.contains_key(meant.id)) else {
                continue;
            };
            if !used.contains(&(object.document, object.kind, name.as_str(), meant.id)) {
                let message = format!("{} is suppressed, and finds nothing here", meant.id);
                let raw = found.add(Severity::Info, object, &suppression.path, message);
                raw.remedy("remove the annotation, or put it on the object the finding is about");
            }
        }
    }
    for raw in &mut found.list {
        raw.severity = ask.config.severity.get(rule.id).copied().unwrap_or(raw.severity);
    }
    found.list
}

/// `lint.evenkeel.io/shutdown-seconds`: how long this application takes to end after SIGTERM.
pub(crate) const SHUTDOWN: &str = "shutdown-seconds";

static RULES: [Rule; 33] = [
    Rule {
        id: "ZD00",
        title: "a suppression says why",
        prevents: "A rule switched off without a reason stays off after the reason is gone, and nobody dares to switch it on.",
        remedy: "give the reason as the annotation's value, or remove it",
        fix: "",
        evenkeel: "",
        check: suppressions,
    },
    Rule {
        id: "ZD01",
        title: "three replicas at least",
        prevents: "A drain takes one pod. With one replica nothing is left until its replacement is ready; with two, a crash during the drain leaves nothing.",
        remedy: "run three replicas, or say by a suppression that an outage at every drain is acceptable",
        fix: "sets `spec.replicas` (or `minReplicas` of the autoscaler) of a Deployment without volumes of its own",
        evenkeel: "",
        check: budget::replicas,
    },
    Rule {
        id: "ZD02",
        title: "a PodDisruptionBudget that protects, and can be met",
        prevents: "Without a budget two drains at once evict every pod. With one that allows no eviction, drains wait for ever and nodes are switched off by force instead.",
        remedy: "give a PodDisruptionBudget with maxUnavailable: 1",
        fix: "adds a budget with `maxUnavailable: 1`, or changes the one there to that",
        evenkeel: "",
        check: budget::budgets,
    },
    Rule {
        id: "ZD03",
        title: "rollouts add before they take away",
        prevents: "Recreate stops every pod before the first new one starts. maxUnavailable above 0 stops pods whose replacements are not ready yet.",
        remedy: "use RollingUpdate with maxUnavailable: 0 and maxSurge: 1",
        fix: "sets the strategy, unless a volume or a host port forbids two pods at once",
        evenkeel: "",
        check: rollout::strategy,
    },
    Rule {
        id: "ZD04",
        title: "a readiness probe that asks for what clients ask for",
        prevents: "Without one a pod gets requests as soon as its process exists. One that always succeeds, or looks for a word of its own, is wrong in both directions.",
        remedy: "let the probe ask for what clients ask for, and judge by the status of the answer",
        fix: "",
        evenkeel: "`evenkeel.io/health-check` on the Service checks from every balancing node as well, besides readiness, not in place of it.",
        check: probes::functional,
    },
    Rule {
        id: "ZD05",
        title: "readiness fails no later than the balancer's own check",
        prevents: "Until periodSeconds x failureThreshold + timeoutSeconds have passed, a pod that no longer answers goes on getting its share of requests.",
        remedy: "lower periodSeconds or failureThreshold",
        fix: "sets `periodSeconds` and `failureThreshold` so that they fit",
        evenkeel: "`evenkeel.io/passive-ejection` takes a backend out on its clients' failures, before any probe says so.",
        check: probes::fast,
    },
    Rule {
        id: "ZD06",
        title: "liveness is slower than readiness",
        prevents: "A pod that is merely slow is killed before it is taken out: its connections break where draining would have saved them, and the others get its load.",
        remedy: "raise failureThreshold of the liveness probe to twice the time readiness takes",
        fix: "raises `failureThreshold` of the liveness probe",
        evenkeel: "",
        check: probes::liveness_slower,
    },
    Rule {
        id: "ZD07",
        title: "a startup probe beside a liveness probe",
        prevents: "Liveness counts from the start. A start that takes longer than it allows, once, on a busy node, is killed again and again, in a rollout everywhere at once.",
        remedy: "add a startupProbe that asks for the same and allows the start its time",
        fix: "adds a `startupProbe` with the liveness probe's question",
        evenkeel: "",
        check: probes::startup,
    },
    Rule {
        id: "ZD08",
        title: "preStop waits until the balancer has noticed",
        prevents: "SIGTERM and the removal from the endpoints start at the same moment. A server that closes its listener at once refuses what the balancer still sends it.",
        remedy: "add lifecycle.preStop.sleep with the balancer's detection time (Kubernetes 1.30; before that, exec sleep)",
        fix: "adds or lengthens the sleep",
        evenkeel: "Evenkeel stops sending new connections to a terminating endpoint as soon as it hears of it; `--balancer evenkeel` asks for 1 s instead of 10 s.",
        check: lifecycle::pre_stop,
    },
    Rule {
        id: "ZD09",
        title: "the grace period covers preStop and shutdown",
        prevents: "The grace period starts before preStop does. What is left of it after the hook is all the application has; then comes SIGKILL, with requests in flight.",
        remedy: "raise terminationGracePeriodSeconds",
        fix: "sets `terminationGracePeriodSeconds`",
        evenkeel: "",
        check: lifecycle::grace,
    },
    Rule {
        id: "ZD10",
        title: "pods found by DNS outlive their records",
        prevents: "A resolver hands out an address for its time to live after the pod has gone from DNS; clients go on connecting to it for that long.",
        remedy: "let preStop and shutdown together last as long as the record's time to live, and the grace period longer",
        fix: "lengthens the sleep in preStop",
        evenkeel: "Behind a virtual address of Evenkeel the name's address does not change, and this does not arise.",
        check: lifecycle::dns,
    },
    Rule {
        id: "ZD11",
        title: "replicas on different nodes",
        prevents: "Replicas on one node fall with it: a drain or a crash of the node takes them all at once, whatever their number.",
        remedy: "add topologySpreadConstraints over kubernetes.io/hostname",
        fix: "adds a constraint with `whenUnsatisfiable: ScheduleAnyway`",
        evenkeel: "",
        check: rollout::spread,
    },
    Rule {
        id: "ZD12",
        title: "externalTrafficPolicy Local with time to leave",
        prevents: "With Local a node whose last pod leaves has nobody to pass packets on to, and goes on getting them until the balancer's check of the node fails.",
        remedy: "let preStop wait for the balancer's detection time, so that the terminating pod still serves; or use Cluster",
        fix: "",
        evenkeel: "Evenkeel keeps the client's address under Cluster as well, so that Local is not needed for that.",
        check: network::local,
    },
    Rule {
        id: "ZD13",
        title: "no session affinity on UDP and DNS",
        prevents: "ClientIP affinity ties a client to one backend for hours. UDP has no connection whose failure would end that; a resolver behind one address sends all its users there.",
        remedy: "remove sessionAffinity: no DNS or datagram protocol needs it",
        fix: "sets `sessionAffinity: None` and removes its configuration",
        evenkeel: "Evenkeel spreads by the client's address and port without affinity, and keeps a flow where it is.",
        check: network::affinity,
    },
    Rule {
        id: "ZD14",
        title: "a priority class",
        prevents: "When a node runs short, pods without a priority are evicted or preempted first, whatever depends on them.",
        remedy: "give priorityClassName what clients depend on",
        fix: "",
        evenkeel: "",
        check: rollout::priority,
    },
    Rule {
        id: "ZD15",
        title: "only ready pods get traffic",
        prevents: "publishNotReadyAddresses sends clients to pods that say themselves that they cannot serve: in every rollout, until the new pod has started.",
        remedy: "remove publishNotReadyAddresses; it is for peers that look for each other through a headless Service",
        fix: "sets it to `false`",
        evenkeel: "",
        check: network::not_ready,
    },
    Rule {
        id: "ZD16",
        title: "somebody probes it all the time",
        prevents: "What nobody asks all the time is found broken by clients. A rollout that fails 3 % of requests looks green to Kubernetes.",
        remedy: "run `evenkeel probe` against it during rollouts, or add a Probe of monitoring.coreos.com",
        fix: "",
        evenkeel: "",
        check: network::probed,
    },
    Rule {
        id: "ZD17",
        title: "under Local, a pod on every node that gets traffic",
        prevents: "Under externalTrafficPolicy Local nodes without a pod drop what reaches them; with fewer replicas than nodes the balancer's node check is all that keeps clients away.",
        remedy: "use externalTrafficPolicy: Cluster, a DaemonSet, or as many replicas as nodes",
        fix: "",
        evenkeel: "Evenkeel announces an address of a Local Service only from nodes with an endpoint.",
        check: network::local_nodes,
    },
    Rule {
        id: "ZD18",
        title: "required anti-affinity leaves room for the new pod",
        prevents: "The new pod of a rollout must be on a node without an old one, and no old one leaves before the new one is ready. With replicas = nodes the rollout, or the replacement of a drained pod, never ends.",
        remedy: "prefer anti-affinity instead of requiring it, or use topologySpreadConstraints with ScheduleAnyway",
        fix: "",
        evenkeel: "",
        check: rollout::anti_affinity,
    },
    Rule {
        id: "ZD19",
        title: "no rolling update over a volume of one node",
        prevents: "A ReadWriteOnce volume is attached to one node. The new pod waits for it, the old one for the new pod: the rollout never ends. Stopping the old one first is an outage.",
        remedy: "use a StatefulSet with volumeClaimTemplates, or a ReadWriteMany volume",
        fix: "",
        evenkeel: "",
        check: rollout::volume,
    },
    Rule {
        id: "ZD20",
        title: "the budget means the pods the Service means",
        prevents: "A budget whose selector meets no pod, or pods of several workloads, protects something else than what clients depend on.",
        remedy: "give the budget the selector of the workload",
        fix: "",
        evenkeel: "",
        check: budget::selectors,
    },
    Rule {
        id: "ZD21",
        title: "new pods prove themselves before old ones go",
        prevents: "With minReadySeconds 0 a pod counts as available at its first success. A rollout of a version that fails after a few seconds replaces every good pod in that time.",
        remedy: "set minReadySeconds to the balancer's detection time",
        fix: "sets `minReadySeconds`",
        evenkeel: "",
        check: rollout::min_ready,
    },
    Rule {
        id: "ZD22",
        title: "no `sleep` in an image without one",
        prevents: "A hook whose program does not exist fails at once: SIGTERM follows without the wait, and only an event says so.",
        remedy: "use lifecycle.preStop.sleep, which the kubelet does itself",
        fix: "replaces the command by `sleep: {seconds: N}`",
        evenkeel: "",
        check: lifecycle::distroless,
    },
    Rule {
        id: "ZD23",
        title: "readiness checks every protocol the Service offers",
        prevents: "A Service with UDP and TCP whose probe asks over one of them stays in rotation when the other is dead.",
        remedy: "ask over both in the readiness probe",
        fix: "",
        evenkeel: "`evenkeel.io/health-check: dns-udp` asks over UDP.",
        check: probes::protocols,
    },
    Rule {
        id: "ZD24",
        title: "fields are spelt as Kubernetes spells them",
        prevents: "A misspelt `preStopHook` or `readinesProbe` is dropped in silence where validation is off, and the protection with it.",
        remedy: "correct the name",
        fix: "renames the field",
        evenkeel: "",
        check: words::fields,
    },
    Rule {
        id: "ZD25",
        title: "Services that share an address say so",
        prevents: "Two Services that ask for one address without the same sharing key: one gets it, the other stays pending.",
        remedy: "give both metallb.io/allow-shared-ip with the same key, or put both ports into one Service",
        fix: "",
        evenkeel: "",
        check: network::sharing,
    },
    Rule {
        id: "ZD26",
        title: "readiness does not hang on what all replicas share",
        prevents: "When a database or an upstream resolver is away for a moment, every replica turns unready at once and the Service has nobody left, even for what would still work.",
        remedy: "let readiness ask this pod only, for something it can answer by itself",
        fix: "",
        evenkeel: "With no ready endpoint left Evenkeel goes on with those that still serve; a health check of its own never takes the last one out.",
        check: probes::shared,
    },
    Rule {
        id: "ZD27",
        title: "host ports leave room for the new pod",
        prevents: "Two pods with one host port do not fit on a node. A surge needs a free node, and with replicas = nodes the rollout never ends.",
        remedy: "set maxSurge: 0 and maxUnavailable: 1 and let another node answer meanwhile, or do without host ports",
        fix: "",
        evenkeel: "A virtual address needs no host port.",
        check: rollout::host_ports,
    },
    Rule {
        id: "ZD28",
        title: "no endpoints by hand",
        prevents: "Nobody takes an address out of Endpoints written by hand when what is behind it dies or is drained: its share of connections fails until somebody edits the list.",
        remedy: "give the Service a selector and let Kubernetes follow its pods",
        fix: "",
        evenkeel: "Evenkeel reads such lists; `evenkeel.io/health-check` takes dead addresses out.",
        check: network::endpoints,
    },
    Rule {
        id: "ZD29",
        title: "a Service's ports lead somewhere",
        prevents: "A targetPort that no container names leaves the Service without endpoints: every connection is refused.",
        remedy: "name a port of the pod's containers",
        fix: "",
        evenkeel: "",
        check: network::targets,
    },
    Rule {
        id: "ZD30",
        title: "routes lead to ports that Services have",
        prevents: "An Ingress or route to a port the Service does not have answers 503 to everybody.",
        remedy: "name a port of the Service",
        fix: "",
        evenkeel: "",
        check: network::routes,
    },
    Rule {
        id: "ZD31",
        title: "no replicas beside an autoscaler",
        prevents: "Every apply sets the number in the manifest again: at the time of the highest load most pods are stopped at once.",
        remedy: "remove spec.replicas; the autoscaler decides",
        fix: "removes `spec.replicas`",
        evenkeel: "",
        check: budget::autoscaled,
    },
    Rule {
        id: "ZD32",
        title: "Evenkeel's own checks are fast enough",
        prevents: "evenkeel.io/health-interval x health-unhealthy-after + health-timeout is how long a dead backend keeps its share.",
        remedy: "lower evenkeel.io/health-interval or evenkeel.io/health-unhealthy-after",
        fix: "",
        evenkeel: "This is about Evenkeel's annotations alone.",
        check: network::health,
    },
];
