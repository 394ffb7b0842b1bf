//! How pods are replaced, and where they run.

use evenkeel_manifest::Severity::{Error, Info, Warning};
use serde_json::json;

use super::budget::of;
use super::{Ask, Found};
use crate::fix::{Edit, plain};
use crate::picture::{Kind, Workload};
use crate::view::View;

/// How many pods a rollout adds, and how many it may do without, as Kubernetes reckons.
fn surge_and_unavailable(workload: &Workload<'_>, replicas: i64) -> (i64, i64) {
    let rolling = match workload.kind {
        Kind::DaemonSet => workload.object.at("spec.updateStrategy.rollingUpdate"),
        Kind::Deployment | Kind::StatefulSet => workload.object.at("spec.strategy.rollingUpdate"),
    };
    let (surge, unavailable) = match workload.kind {
        Kind::Deployment => ((replicas * 25 + 99) / 100, replicas * 25 / 100),
        Kind::DaemonSet => (0, 1),
        Kind::StatefulSet => return (0, 1),
    };
    let surge = of(&rolling.key("maxSurge"), replicas, true).unwrap_or(surge);
    let unavailable = of(&rolling.key("maxUnavailable"), replicas, false).unwrap_or(unavailable);
    // Where rounding leaves nothing of both, Kubernetes takes one away.
    if (surge, unavailable) == (0, 0) { (0, 1) } else { (surge, unavailable) }
}

fn recreates(workload: &Workload<'_>) -> bool {
    workload.object.at("spec.strategy.type").text() == Some("Recreate")
}

/// The claims of the volumes it mounts.
pub(super) fn claims<'n>(workload: &Workload<'n>) -> Vec<&'n str> {
    let volumes = workload.pod.key("volumes").list();
    volumes.iter().filter_map(|volume| volume.at("persistentVolumeClaim.claimName").text()).collect()
}

/// Two pods of it cannot be on one node.
fn holds_host_ports(workload: &Workload<'_>) -> bool {
    let on_host = workload.pod.key("hostNetwork").bool() == Some(true);
    workload.containers.iter().flat_map(|container| container.view.key("ports").list()).any(|port| {
        port.key("hostPort").int().is_some_and(|port| port > 0) || on_host && port.key("containerPort").exists()
    })
}

pub(super) fn strategy(ask: &Ask<'_>, found: &mut Found) {
    for workload in ask.picture.serving() {
        let (replicas, _) = ask.picture.replicas(workload);
        let crowded = holds_host_ports(workload) || !claims(workload).is_empty();
        let (surge, unavailable) = surge_and_unavailable(workload, replicas);
        match workload.kind {
            Kind::Deployment if recreates(workload) => {
                let place = workload.object.at("spec.strategy.type").path;
                let message =
                    format!("Recreate: {replicas} of {replicas} replicas stop before the first new one starts");
                let raw = found.add(Error, &workload.object, &place, message);
                if !crowded {
                    raw.fix(vec![
                        Edit::Set(place, json!("RollingUpdate")),
                        Edit::Set(
                            workload.object.at("spec.strategy.rollingUpdate").path,
                            json!({ "maxSurge": 1, "maxUnavailable": 0 }),
                        ),
                    ]);
                }
            }
            Kind::Deployment if unavailable > 0 && replicas > 0 => {
                let place = workload.object.at("spec.strategy.rollingUpdate.maxUnavailable");
                let said = place.text().map_or("25% (the default)".to_owned(), str::to_owned);
                let left = (replicas - unavailable).max(0);
                let severity = if left == 0 { Error } else { Warning };
                let message = format!(
                    "maxUnavailable {said} of {replicas} = {unavailable} stopped before its replacement is ready: {left} of {replicas} carry the load"
                );
                let raw = found.add(severity, &workload.object, &place.path, message);
                if !crowded {
                    let mut edits = vec![Edit::Set(place.path.clone(), json!(0))];
                    if surge == 0 || !workload.object.at("spec.strategy.rollingUpdate").exists() {
                        edits
                            .push(Edit::Set(workload.object.at("spec.strategy.rollingUpdate.maxSurge").path, json!(1)));
                    }
                    // Two insertions at one place are made one after the other.
                    edits.truncate(if place.exists() { 2 } else { 1 });
                    raw.fix(edits);
                }
            }
            Kind::StatefulSet => {
                let place = workload.object.at("spec.updateStrategy.rollingUpdate.maxUnavailable");
                let unavailable = of(&place, replicas, true).unwrap_or(1);
                if unavailable > 1 {
                    let left = (replicas - unavailable).max(0);
                    let severity = if left == 0 { Error } else { Warning };
                    let message = format!(
                        "maxUnavailable {} of {replicas} = {unavailable} stopped at once: {left} of {replicas} carry the load",
                        place.text().unwrap_or_default()
                    );
                    let raw = found.add(severity, &workload.object, &place.path, message);
                    raw.remedy("a StatefulSet stops pods before it starts them: let it be one at a time");
                    raw.fix(vec![Edit::Set(place.path.clone(), json!(1))]);
                }
            }
            Kind::DaemonSet if unavailable > 0 && !crowded && !by_hand(workload) => {
                let local = ask.picture.services_of(workload).any(crate::picture::Service::is_local);
                if local {
                    let place = workload.object.at("spec.updateStrategy.rollingUpdate");
                    let message = format!(
                        "a node's pod stops before its replacement starts (maxSurge {surge}), and under externalTrafficPolicy Local that node has 1 - 1 = 0 meanwhile"
                    );
                    found
                        .add(Warning, &workload.object, &place.path, message)
                        .remedy("set updateStrategy.rollingUpdate to maxSurge: 1, maxUnavailable: 0")
                        .fix(vec![Edit::Set(place.path.clone(), json!({ "maxSurge": 1, "maxUnavailable": 0 }))]);
                }
            }
            Kind::Deployment | Kind::DaemonSet => {}
        }
    }
}

/// Whether pods are replaced only when somebody deletes them.
fn by_hand(workload: &Workload<'_>) -> bool {
    workload.object.at("spec.updateStrategy.type").text() == Some("OnDelete")
}

/// Whether a term or constraint is about these pods; without a selector it is about none.
fn selects(term: &View<'_>, workload: &Workload<'_>) -> bool {
    let selector = term.key("labelSelector");
    selector.exists() && selector.selector().matches(&workload.labels)
}

pub(super) fn spread(ask: &Ask<'_>, found: &mut Found) {
    for workload in ask.picture.serving().filter(|workload| workload.kind != Kind::DaemonSet) {
        let (replicas, _) = ask.picture.replicas(workload);
        let anti = workload.pod.at("affinity.podAntiAffinity");
        let required = anti.key("requiredDuringSchedulingIgnoredDuringExecution").list().into_iter();
        let preferred = anti.key("preferredDuringSchedulingIgnoredDuringExecution").list().into_iter();
        let terms = required.chain(preferred.map(|term| term.key("podAffinityTerm")));
        let spread = workload.pod.key("topologySpreadConstraints");
        let mut all = terms.chain(spread.list());
        if replicas < 2 || all.any(|term| selects(&term, workload)) {
            continue;
        }
        let others = if anti.exists() || spread.exists() { "what there is selects other pods, so " } else { "" };
        let message =
            format!("{others}nothing keeps {replicas} replicas apart: 1 node may hold {replicas} of {replicas}");
        let raw = found.add(Warning, &workload.object, &workload.pod.path, message);
        if let Some(selector) = workload.object.at("spec.selector").node.filter(|_| !spread.exists()) {
            raw.fix(vec![Edit::Set(
                spread.path,
                json!([{
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": plain(selector),
                }]),
            )]);
        }
    }
}

pub(super) fn priority(ask: &Ask<'_>, found: &mut Found) {
    for workload in ask.picture.serving() {
        let place = workload.pod.key("priorityClassName");
        let number = workload.pod.key("priority").int().unwrap_or_default();
        if !place.exists() && number <= 0 {
            let message = "priority 0: on a full node it goes before anything that has a priority".to_owned();
            found.add(Info, &workload.object, &place.path, message);
        }
    }
}

/// Whether there are nodes enough for a new pod beside all old ones; `None` where the number of nodes is not known.
fn fits(ask: &Ask<'_>, replicas: i64) -> Option<(i64, bool)> {
    let counted = i64::try_from(ask.picture.nodes).ok().filter(|nodes| *nodes > 0);
    let nodes = ask.config.nodes.or(counted)?;
    Some((nodes, replicas < nodes))
}

fn room(ask: &Ask<'_>, replicas: i64, surge: i64, because: &str) -> Option<(evenkeel_manifest::Severity, String)> {
    match fits(ask, replicas) {
        Some((_, true)) => None,
        Some((nodes, false)) => Some((
            Error,
            format!(
                "{because}: {replicas} old + {surge} new pods need {} nodes of {nodes}, and no old one leaves first: the rollout never ends",
                replicas + surge
            ),
        )),
        None => Some((
            Warning,
            format!(
                "{because}: {replicas} old + {surge} new pods need {} nodes; with {replicas}, or with one drained, the rollout never ends",
                replicas + surge
            ),
        )),
    }
}

pub(super) fn anti_affinity(ask: &Ask<'_>, found: &mut Found) {
    for workload in ask.picture.workloads.iter().filter(|workload| workload.kind == Kind::Deployment) {
        let (replicas, _) = ask.picture.replicas(workload);
        let (surge, unavailable) = surge_and_unavailable(workload, replicas);
        if unavailable > 0 || recreates(workload) {
            continue;
        }
        let required = workload.pod.at("affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution");
        let own = required
            .list()
            .into_iter()
            .find(|term| term.key("topologyKey").text() == Some("kubernetes.io/hostname") && selects(term, workload));
        let Some(term) = own else { continue };
        if let Some((severity, message)) = room(ask, replicas, surge, "required anti-affinity, maxUnavailable 0") {
            found.add(severity, &workload.object, &term.path, message);
        }
    }
}

pub(super) fn host_ports(ask: &Ask<'_>, found: &mut Found) {
    for workload in ask.picture.workloads.iter().filter(|workload| workload.kind != Kind::StatefulSet) {
        if !holds_host_ports(workload) || recreates(workload) {
            continue;
        }
        let (replicas, _) = ask.picture.replicas(workload);
        let (surge, unavailable) = surge_and_unavailable(workload, replicas);
        if workload.kind == Kind::DaemonSet {
            if surge > 0 {
                let place = workload.object.at("spec.updateStrategy.rollingUpdate.maxSurge").path;
                let message =
                    "maxSurge needs 2 pods on 1 node, and the host port allows 1: the rollout never ends".to_owned();
                found.add(Error, &workload.object, &place, message);
            }
        } else if unavailable == 0 {
            let place = workload.pod.key("containers").path;
            if let Some((severity, message)) = room(ask, replicas, surge, "host ports, maxUnavailable 0") {
                found.add(severity, &workload.object, &place, message);
            }
        }
    }
}

pub(super) fn volume(ask: &Ask<'_>, found: &mut Found) {
    for workload in ask.picture.workloads.iter().filter(|workload| workload.kind == Kind::Deployment) {
        if recreates(workload) {
            continue;
        }
        for volume in workload.pod.key("volumes").list() {
            let place = volume.at("persistentVolumeClaim.claimName");
            let Some(name) = place.text() else { continue };
            let mut claims = ask.picture.claims.iter();
            let claim = claims.find(|claim| claim.name == name && claim.namespace == workload.object.namespace);
            let modes = claim.map(|claim| claim.at("spec.accessModes").list()).unwrap_or_default();
            let once = modes.iter().all(|mode| matches!(mode.text(), Some("ReadWriteOnce" | "ReadWriteOncePod")));
            let (severity, how) = match (claim.is_some(), once) {
                (true, true) => (Error, "is attached to 1 node at a time"),
                (true, false) => continue,
                (false, _) => {
                    (Info, "is not among these manifests; if it is ReadWriteOnce, it is attached to 1 node at a time")
                }
            };
            let (replicas, _) = ask.picture.replicas(workload);
            let (surge, unavailable) = surge_and_unavailable(workload, replicas);
            let then = if unavailable == 0 {
                format!(
                    "{replicas} old + {surge} new pods want it at once, and no old one leaves first: the rollout never ends where the new pod is on another node"
                )
            } else {
                format!("{replicas} replicas on several nodes cannot share it")
            };
            found.add(severity, &workload.object, &place.path, format!("claim `{name}` {how}: {then}"));
        }
    }
}

pub(super) fn min_ready(ask: &Ask<'_>, found: &mut Found) {
    for workload in ask.picture.serving() {
        let place = workload.object.at("spec.minReadySeconds");
        if place.int().unwrap_or_default() > 0 || recreates(workload) {
            continue;
        }
        let message =
            "minReadySeconds 0: a version that fails after its first success replaces every good pod".to_owned();
        found
            .add(Info, &workload.object, &place.path, message)
            .fix(vec![Edit::Set(place.path.clone(), json!(ask.config.detection.max(1)))]);
    }
}
