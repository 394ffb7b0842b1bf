//! How pods end.

use evenkeel_manifest::Severity::{Error, Info, Warning};
use serde_json::json;

use super::{Ask, Found, SHUTDOWN, annotation};
use crate::fix::Edit;
use crate::picture::{Container, Workload};
use crate::view::View;

/// What a container does before SIGTERM.
pub(super) enum PreStop<'n> {
    /// Nothing.
    Nothing,
    /// It waits for so many seconds; where the number stands, and the whole text around it if it is part of a command.
    Sleep { seconds: i64, place: View<'n>, within: Option<(&'n str, String)> },
    /// Something whose duration its manifest does not say.
    Unknown,
}

pub(super) fn pre_stop_of<'n>(container: &Container<'n>) -> PreStop<'n> {
    let hook = container.view.at("lifecycle.preStop");
    if !hook.exists() {
        return PreStop::Nothing;
    }
    let seconds = hook.at("sleep.seconds");
    if let Some(number) = seconds.int() {
        return PreStop::Sleep { seconds: number, place: seconds, within: None };
    }
    let command = hook.at("exec.command").list();
    if let [program, seconds] = command.as_slice()
        && program.text().is_some_and(|program| program.rsplit('/').next() == Some("sleep"))
        && let Some(number) = seconds.text().and_then(duration)
    {
        return PreStop::Sleep { seconds: number, place: seconds.clone(), within: None };
    }
    for argument in &command {
        let Some(text) = argument.text() else { continue };
        // How often a loop goes round, and what is left behind in the background, the text does not tell.
        let loops = text.split_whitespace().any(|word| matches!(word, "while" | "until" | "for"));
        if loops || text.replace("&&", "").contains('&') {
            continue;
        }
        let mut total = 0;
        let mut first = None;
        let words: Vec<&str> =
            text.split([' ', '\n', ';', '&', '|', '(', ')', '{', '}']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            let [program, number] = pair else { continue };
            if program.rsplit('/').next() == Some("sleep")
                && let Some(seconds) = duration(number)
            {
                total += seconds;
                first.get_or_insert_with(|| format!("{program} {number}"));
            }
        }
        if let Some(first) = first {
            return PreStop::Sleep { seconds: total, place: argument.clone(), within: Some((text, first)) };
        }
    }
    PreStop::Unknown
}

/// How long a container goes on before SIGTERM, if that can be seen. A sidecar's comes after the end of all other containers.
pub(super) fn wait(workload: &Workload<'_>, container: &Container<'_>) -> Option<i64> {
    let own = match pre_stop_of(container) {
        PreStop::Nothing => 0,
        PreStop::Sleep { seconds, .. } => seconds,
        PreStop::Unknown => return None,
    };
    if !container.sidecar {
        return Some(own);
    }
    let mut others = workload.containers.iter().filter(|other| !other.sidecar).map(|other| wait(workload, other));
    others.try_fold(own, |longest, other| Some(longest.max(other?)))
}

/// The argument of `sleep` in whole seconds.
fn duration(text: &str) -> Option<i64> {
    let (number, factor) = match text.chars().last()? {
        's' => (text.strip_suffix('s')?, 1.0),
        'm' => (text.strip_suffix('m')?, 60.0),
        'h' => (text.strip_suffix('h')?, 3600.0),
        _ => (text, 1.0),
    };
    let seconds: f64 = number.parse().ok().filter(|seconds: &f64| (0.0..=86_400.0).contains(seconds))?;
    #[expect(clippy::cast_possible_truncation, reason = "within bounds")]
    let whole = (seconds * factor) as i64;
    Some(whole)
}

/// Edits that make a container wait for so many seconds.
fn lengthen(container: &Container<'_>, hook: &PreStop<'_>, seconds: i64) -> Vec<Edit> {
    match hook {
        PreStop::Nothing => vec![Edit::Set(container.view.at("lifecycle.preStop.sleep.seconds").path, json!(seconds))],
        PreStop::Sleep { place, within: None, .. } => {
            // In a command it is a string, and stays one.
            let in_command = !place.path.to_string().ends_with("sleep.seconds");
            let value = if in_command { json!(seconds.to_string()) } else { json!(seconds) };
            vec![Edit::Set(place.path.clone(), value)]
        }
        PreStop::Sleep { seconds: now, place, within: Some((text, first)) } => {
            let own = first.split(' ').nth(1).and_then(duration).unwrap_or_default();
            let program = first.split(' ').next().unwrap_or_default();
            let longer = format!("{program} {}", own + seconds - now);
            vec![Edit::Set(place.path.clone(), json!(text.replacen(first.as_str(), &longer, 1)))]
        }
        PreStop::Unknown => Vec::new(),
    }
}

pub(super) fn pre_stop(ask: &Ask<'_>, found: &mut Found) {
    let needed = ask.config.detection;
    for workload in ask.picture.serving() {
        for container in workload.serving_containers() {
            if container.sidecar && wait(workload, container).is_none_or(|seconds| seconds >= needed) {
                continue;
            }
            let hook = pre_stop_of(container);
            let place = match &hook {
                PreStop::Sleep { place, .. } => place.path.clone(),
                PreStop::Nothing | PreStop::Unknown => container.view.at("lifecycle.preStop").path,
            };
            let (severity, message) = match &hook {
                PreStop::Nothing if needed > 0 => (
                    Warning,
                    format!(
                        "container {}: no preStop, 0 s < {needed} s until the balancer notices: about {needed} s of refused connections, unless it goes on listening after SIGTERM",
                        container.name
                    ),
                ),
                PreStop::Sleep { seconds, .. } if *seconds < needed => (
                    Warning,
                    format!(
                        "container {}: preStop {seconds} s < {needed} s until the balancer notices: about {} s of refused connections",
                        container.name,
                        needed - seconds
                    ),
                ),
                PreStop::Unknown => (
                    Info,
                    format!(
                        "container {}: how long preStop takes cannot be seen here; it has to be {needed} s or more",
                        container.name
                    ),
                ),
                PreStop::Nothing | PreStop::Sleep { .. } => continue,
            };
            let raw = found.add(severity, &workload.object, &place, message);
            raw.fix(lengthen(container, &hook, needed));
            match &hook {
                PreStop::Sleep { .. } => _ = raw.remedy(format!("sleep for {needed} s or more")),
                PreStop::Unknown => _ = raw.remedy(format!("see that it takes {needed} s, or let it sleep first")),
                PreStop::Nothing => {}
            }
        }
    }
}

/// The longest wait before SIGTERM of any container.
fn longest(workload: &Workload<'_>) -> i64 {
    let seconds = workload.containers.iter().map(|container| match pre_stop_of(container) {
        PreStop::Sleep { seconds, .. } => seconds,
        PreStop::Nothing | PreStop::Unknown => 0,
    });
    seconds.max().unwrap_or_default()
}

/// How long the application takes to end, by its own word or by the configuration's.
fn shutdown(ask: &Ask<'_>, workload: &Workload<'_>) -> i64 {
    annotation(&workload.object, SHUTDOWN)
        .and_then(|text| text.trim().parse().ok())
        .filter(|n| (0..=86_400).contains(n))
        .unwrap_or(ask.config.shutdown)
}

const DEFAULT_GRACE: i64 = 30;

pub(super) fn grace(ask: &Ask<'_>, found: &mut Found) {
    for workload in ask.picture.serving() {
        let place = workload.pod.key("terminationGracePeriodSeconds");
        let grace = place.int().unwrap_or(DEFAULT_GRACE);
        let (hook, shutdown) = (longest(workload), shutdown(ask, workload));
        if hook + shutdown <= grace {
            continue;
        }
        let said = if place.exists() { "" } else { " (the default)" };
        let (severity, message) = if hook >= grace && hook > 0 {
            (
                Error,
                format!(
                    "preStop {hook} s >= grace period {grace} s{said}: SIGKILL comes during the hook, SIGTERM never does"
                ),
            )
        } else {
            let left = grace - hook;
            (
                Warning,
                format!(
                    "grace period {grace} s{said} - preStop {hook} s = {left} s for a shutdown of {shutdown} s: SIGKILL {} s too early",
                    shutdown - left
                ),
            )
        };
        let enough = (hook + shutdown).max(DEFAULT_GRACE) + 5;
        found
            .add(severity, &workload.object, &place.path, message)
            .fix(vec![Edit::Set(place.path.clone(), json!(enough))]);
    }
}

pub(super) fn dns(ask: &Ask<'_>, found: &mut Found) {
    for workload in ask.picture.serving() {
        let on_host = workload.pod.key("hostNetwork").bool() == Some(true);
        let named = ask.picture.services_of(workload).find(|service| {
            let by_dns = service.object.annotation("external-dns.alpha.kubernetes.io/hostname").exists();
            by_dns && (service.headless || on_host)
        });
        let Some(service) = named else { continue };
        let ttl = service.object.annotation("external-dns.alpha.kubernetes.io/ttl");
        let ttl = ttl.text().and_then(|text| text.trim_end_matches('s').parse().ok()).unwrap_or(ask.config.dns_ttl);
        let (hook, shutdown) = (longest(workload), shutdown(ask, workload));
        if hook + shutdown >= ttl {
            continue;
        }
        let message = format!(
            "clients keep the address from DNS for {ttl} s; preStop {hook} s + shutdown {shutdown} s = {} s: about {} s of refused connections",
            hook + shutdown,
            ttl - hook - shutdown
        );
        let Some(container) = workload.serving_containers().next() else { continue };
        let pre_stop = pre_stop_of(container);
        let edits = lengthen(container, &pre_stop, ttl - shutdown);
        found.add(Warning, &workload.object, &container.view.at("lifecycle.preStop").path, message).fix(edits);
    }
}

/// Images known to hold one program and no shell; facts from their projects' build files.
const BARE: [&str; 8] = [
    "distroless",
    "cgr.dev/chainguard/",
    "registry.k8s.io/coredns/",
    "registry.k8s.io/kube-",
    "registry.k8s.io/metrics-server/",
    "quay.io/jetstack/cert-manager-",
    "coredns/coredns",
    "registry.k8s.io/external-dns/",
];

pub(super) fn distroless(ask: &Ask<'_>, found: &mut Found) {
    for workload in &ask.picture.workloads {
        for container in &workload.containers {
            let image = container.view.key("image").text().unwrap_or_default();
            let has_shell = image.contains("-dev") || image.contains("-debug") || image.contains(":debug");
            if has_shell || !BARE.iter().any(|bare| image.contains(bare)) {
                continue;
            }
            let hook = container.view.at("lifecycle.preStop");
            if let PreStop::Sleep { seconds, place, .. } = pre_stop_of(container)
                && hook.at("exec.command").exists()
            {
                let message = format!(
                    "container {}: image {image} has no shell and no `sleep`: the hook fails at once, 0 s instead of {seconds} s",
                    container.name
                );
                let raw = found.add(Error, &workload.object, &place.path, message);
                if seconds > 0 {
                    raw.fix(vec![Edit::Set(hook.path, json!({ "sleep": { "seconds": seconds } }))]);
                }
            }
        }
    }
}
