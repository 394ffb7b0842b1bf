//! How many pods there are, and how many may be missing.

use evenkeel_manifest::Severity::{Error, Info, Warning};
use serde_json::json;

use super::{Ask, Found};
use crate::fix::Edit;
use crate::picture::{Kind, Workload, bounds};
use crate::rules::rollout::claims;
use crate::view::View;

pub(super) fn replicas(ask: &Ask<'_>, found: &mut Found) {
    let needed = ask.config.min_replicas;
    for workload in ask.picture.serving().filter(|workload| workload.kind != Kind::DaemonSet) {
        let (replicas, place) = ask.picture.replicas(workload);
        if replicas >= needed || replicas == 0 {
            continue;
        }
        let said = if place.exists() { "" } else { " (the default)" };
        let what = if workload.autoscaler.is_some() { "at the least " } else { "" };
        let (severity, message) = match replicas {
            1 => {
                (Error, format!("{what}1 replica{said}: 1 - 1 drained = 0 that answer until the replacement is ready"))
            }
            n => (
                Warning,
                format!("{what}{n} replicas{said}: {n} - 1 drained - {} that fail meanwhile = 0 that answer", n - 1),
            ),
        };
        let raw = match workload.autoscaler.and_then(|a| ask.picture.autoscalers.get(a)) {
            Some(autoscaler) => found.add(severity, autoscaler, &place.path, message),
            None => found.add(severity, &workload.object, &place.path, message),
        };
        if workload.kind == Kind::Deployment && claims(workload).is_empty() {
            raw.fix(vec![Edit::Set(place.path.clone(), json!(needed))]);
        } else {
            raw.remedy("it has state: whether it can run more than once is its own matter; suppress this with the reason if it cannot");
        }
    }
}

pub(super) fn budgets(ask: &Ask<'_>, found: &mut Found) {
    for workload in ask.picture.serving().filter(|workload| workload.kind != Kind::DaemonSet) {
        let (replicas, _) = ask.picture.replicas(workload);
        if workload.budgets.is_empty() {
            // Of a single pod no budget can be met; that it is a single one has been said.
            if replicas > 1 && ask.picture.knows("PodDisruptionBudget") {
                let message = format!("no PodDisruptionBudget: two drains at once may evict all {replicas} replicas");
                let raw = found.add(Warning, &workload.object, &workload.object.at("metadata.name").path, message);
                raw.fix(budget_for(workload).into_iter().collect());
            }
            continue;
        }
        for budget in workload.budgets.iter().filter_map(|b| ask.picture.budgets.get(*b)) {
            let (least, most) = (budget.object.at("spec.minAvailable"), budget.object.at("spec.maxUnavailable"));
            let (allowed, place, how) = match (of(&least, replicas, true), of(&most, replicas, true)) {
                (Some(least_pods), _) => {
                    let how = format!("minAvailable {} of {replicas} replicas", least.text().unwrap_or_default());
                    (replicas - least_pods, least, how)
                }
                (None, Some(most_pods)) => (
                    most_pods,
                    most.clone(),
                    format!("maxUnavailable {} of {replicas} replicas", most.text().unwrap_or_default()),
                ),
                (None, None) => continue,
            };
            let (severity, message) = if allowed <= 0 {
                (Error, format!("{how}: {} may be evicted, so `kubectl drain` waits for ever", allowed.max(0)))
            } else if allowed >= replicas && replicas > 1 {
                (Warning, format!("{how}: all {replicas} may be evicted at once, so it protects nothing"))
            } else {
                continue;
            };
            let raw = found.add(severity, &budget.object, &place.path, message);
            if place.path.to_string().ends_with("maxUnavailable") {
                raw.fix(vec![Edit::Set(place.path.clone(), json!(1))]);
            } else if replicas > 1 {
                raw.fix(vec![Edit::Set(place.path.clone(), json!(replicas - 1))]);
            }
        }
    }
}

/// A number of pods, or the share of `replicas` a percentage is.
pub(super) fn of(view: &View<'_>, replicas: i64, up: bool) -> Option<i64> {
    let text = view.text()?;
    match text.strip_suffix('%') {
        Some(percent) => {
            let share = percent.trim().parse::<i64>().ok()?.clamp(0, 1000).checked_mul(replicas)?;
            Some(if up { (share + 99) / 100 } else { share / 100 })
        }
        None => text.parse().ok().map(|n: i64| n.clamp(i32::MIN.into(), i32::MAX.into())),
    }
}

fn budget_for(workload: &Workload<'_>) -> Option<Edit> {
    let selector = workload.object.at("spec.selector");
    // One that does not mean these pods would leave the finding as it is.
    if !selector.exists() || !selector.selector().matches(&workload.labels) {
        return None;
    }
    let selector = crate::fix::plain(selector.node?);
    let namespace = workload.object.at("metadata.namespace").text();
    let mut metadata = serde_json::Map::new();
    metadata.insert("name".to_owned(), json!(workload.object.name));
    if let Some(namespace) = namespace {
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
    Some(Edit::Append(json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata,
        "spec": { "maxUnavailable": 1, "selector": selector },
    })))
}

pub(super) fn selectors(ask: &Ask<'_>, found: &mut Found) {
    for budget in &ask.picture.budgets {
        let place = budget.object.at("spec.selector");
        if budget.workloads.is_empty() {
            // The workload may be in another file that was not given; a Service beside it that nothing answers says so too.
            let beside =
                ask.picture.workloads.iter().any(|workload| workload.object.namespace == budget.object.namespace);
            if beside {
                let message = "the budget's selector meets no pod of any workload here: it protects nothing".to_owned();
                found.add(Warning, &budget.object, &place.path, message);
            }
            continue;
        }
        if let [first, _, ..] = *budget.workloads {
            let names = budget.workloads.iter().filter_map(|w| ask.picture.workloads.get(*w));
            let names: Vec<String> =
                names.map(|workload| format!("{} {}", workload.object.kind, workload.object.name)).collect();
            let message = format!(
                "one budget for {} workloads ({}): pods of one may be evicted at the cost of another, down to none",
                names.len(),
                names.join(", ")
            );
            if ask.picture.workloads.get(first).is_some() {
                found.add(Warning, &budget.object, &place.path, message);
            }
        }
    }
}

pub(super) fn autoscaled(ask: &Ask<'_>, found: &mut Found) {
    for workload in ask.picture.serving().filter(|workload| workload.replicas_wished) {
        let Some(autoscaler) = workload.autoscaler.and_then(|a| ask.picture.autoscalers.get(a)) else { continue };
        let place = workload.object.at("spec.replicas");
        let (Some(replicas), Some(most)) = (place.int(), bounds(autoscaler).most.int()) else { continue };
        if most > replicas {
            let message = format!(
                "replicas {replicas} beside an autoscaler up to {most}: an apply at full load stops {most} - {replicas} = {} pods at once",
                most - replicas
            );
            found.add(Warning, &workload.object, &place.path, message).fix(vec![Edit::Remove(place.path.clone())]);
        } else {
            let message =
                format!("replicas {replicas} beside an autoscaler up to {most}: an apply undoes what it decided");
            found.add(Info, &workload.object, &place.path, message).fix(vec![Edit::Remove(place.path.clone())]);
        }
    }
}
