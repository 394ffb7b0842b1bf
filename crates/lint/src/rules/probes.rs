//! Probes: what they ask, and how soon they say so.

use evenkeel_manifest::Severity::{Error, Warning};
use serde_json::json;

use super::{Ask, Found};
use crate::fix::{Edit, plain};
use crate::picture::{Container, Picture, Workload};
use crate::view::View;

/// The numbers of a probe, with Kubernetes' defaults.
struct Timing {
    delay: i64,
    period: i64,
    timeout: i64,
    failures: i64,
}

impl Timing {
    fn of(probe: &View<'_>) -> Self {
        let number = |key, default| probe.key(key).int().filter(|n| (0..=86_400).contains(n)).unwrap_or(default);
        Self {
            delay: number("initialDelaySeconds", 0),
            period: number("periodSeconds", 10).max(1),
            timeout: number("timeoutSeconds", 1).max(1),
            failures: number("failureThreshold", 3).max(1),
        }
    }

    /// Checks follow each other no sooner than the one before is over.
    fn interval(&self) -> i64 {
        self.period.max(self.timeout)
    }

    /// The longest time from a failure to its being noticed.
    fn worst(&self) -> i64 {
        self.interval() * self.failures + self.timeout
    }

    fn sum(&self) -> String {
        format!("{} s x {} + {} s = {} s", self.interval(), self.failures, self.timeout, self.worst())
    }
}

/// The commands of a probe as one text, with the script of a ConfigMap it starts, and where that is known.
fn script(
    picture: &Picture<'_>,
    workload: &Workload<'_>,
    container: &Container<'_>,
    probe: &View<'_>,
) -> Option<String> {
    let command = probe.at("exec.command").list();
    let words: Vec<&str> = command.iter().filter_map(View::text).collect();
    if words.is_empty() {
        return None;
    }
    let mut text = words.join(" ");
    for word in words {
        let Some((folder, file)) = word.rsplit_once('/') else { continue };
        let mounts = container.view.key("volumeMounts").list();
        let mount = mounts
            .iter()
            .find(|mount| mount.key("mountPath").text().map(|path| path.trim_end_matches('/')) == Some(folder));
        let Some(volume) = mount.and_then(|mount| mount.key("name").text()) else { continue };
        let volumes = workload.pod.key("volumes").list();
        let map = volumes.iter().find(|own| own.key("name").text() == Some(volume));
        let Some(map) = map.and_then(|map| map.at("configMap.name").text()) else { continue };
        let same =
            |object: &&crate::picture::Object<'_>| object.name == map && object.namespace == workload.object.namespace;
        if let Some(body) = picture.config_maps.iter().find(same).and_then(|object| object.at("data").key(file).text())
        {
            let code = body.lines().filter(|line| !line.trim_start().starts_with('#'));
            text = format!("{text}\n{}", code.collect::<Vec<_>>().join("\n"));
        }
    }
    Some(text)
}

pub(super) fn functional(ask: &Ask<'_>, found: &mut Found) {
    for workload in ask.picture.serving() {
        for container in workload.serving_containers() {
            let probe = container.view.key("readinessProbe");
            if !probe.exists() {
                let message = format!(
                    "container {}: no readinessProbe, so it gets requests 0 s after its process starts, and goes on getting them when it hangs",
                    container.name
                );
                found.add(Error, &workload.object, &container.view.path, message);
                continue;
            }
            for kind in ["readinessProbe", "startupProbe"] {
                for port in ["httpGet.port", "tcpSocket.port"].map(|key| container.view.key(kind).at(key)) {
                    let Some(name) = port.text().filter(|name| name.parse::<u16>().is_err()) else { continue };
                    let ports = container.view.key("ports").list();
                    if !ports.iter().any(|own| own.key("name").text() == Some(name)) {
                        let message = format!(
                            "container {}: {kind} asks at port `{name}`, which this container has not: it is never ready, and a rollout stops there",
                            container.name
                        );
                        found.add(Error, &workload.object, &port.path, message).remedy("name a port of this container");
                    }
                }
            }
            let http = ["readinessProbe", "livenessProbe", "startupProbe"]
                .iter()
                .any(|kind| container.view.key(kind).key("httpGet").exists());
            let ports = ask.picture.services_of(workload).flat_map(|service| &service.ports);
            let speaks_http = http
                || ports.into_iter().any(|port| matches!(port.view.key("name").text(), Some("http" | "https" | "web")));
            if probe.key("tcpSocket").exists() && speaks_http {
                let message = format!(
                    "container {}: a listening socket is no answer: the kernel accepts connections for a process that hangs",
                    container.name
                );
                found
                    .add(Warning, &workload.object, &probe.key("tcpSocket").path, message)
                    .remedy("ask by httpGet for something that takes the way of a request");
            }
            let Some(script) = script(ask.picture, workload, container, &probe) else { continue };
            if let Some(word) = grepped(&script) {
                let message = format!(
                    "container {}: readiness greps the answer for `{word}`; a server that says it otherwise is never ready, and a rollout stops there",
                    container.name
                );
                found
                    .add(Warning, &workload.object, &probe.at("exec.command").path, message)
                    .remedy("judge by the status: `wget -q --spider URL` or `curl -fsS URL`");
            }
            if succeeds_always(&script) {
                let message = format!("container {}: this probe succeeds whatever the server does", container.name);
                found.add(Error, &workload.object, &probe.at("exec.command").path, message);
            }
        }
    }
}

/// Whether a command succeeds whatever happens.
fn succeeds_always(script: &str) -> bool {
    let mut body = script.trim();
    for shell in ["/bin/sh", "/bin/bash", "sh", "bash"] {
        if let Some(rest) = body.strip_prefix(shell).and_then(|rest| rest.strip_prefix(" -c ")) {
            body = rest.trim();
            break;
        }
    }
    let only_says = body.starts_with("echo ") && !body.contains(['&', '|', ';', '$', '\n', '`']);
    matches!(body, "true" | "/bin/true" | ":" | "exit 0" | "exit")
        || only_says
        || ["|| true", "|| :", "|| exit 0", "; true"].iter().any(|end| body.ends_with(end))
}

/// The word that a probe looks for in the answer to an HTTP request.
fn grepped(script: &str) -> Option<String> {
    let line = script.lines().find(|line| (line.contains("wget") || line.contains("curl")) && line.contains("grep"))?;
    let after = line.split("grep").nth(1)?;
    let word = after.split_whitespace().find(|word| !word.starts_with('-'))?;
    Some(word.trim_matches(['"', '\'']).to_owned())
}

pub(super) fn fast(ask: &Ask<'_>, found: &mut Found) {
    let limit = ask.config.detection.max(2);
    for workload in ask.picture.serving() {
        for container in workload.serving_containers() {
            let probe = container.view.key("readinessProbe");
            let timing = Timing::of(&probe);
            // What Evenkeel needs to hear of it is not what a probe can be asked to take.
            let limit = limit.max(10);
            if !probe.exists() || timing.worst() <= limit {
                continue;
            }
            let message = format!(
                "container {}: {} until a pod that no longer answers is taken out, > {limit} s: {} s of failed requests too many",
                container.name,
                timing.sum(),
                timing.worst() - limit
            );
            let raw = found.add(Warning, &workload.object, &probe.path, message);
            let failures = timing.failures.clamp(2, 3);
            let period = (limit - timing.timeout) / failures;
            if period >= timing.timeout.max(1) {
                let mut edits = vec![Edit::Set(probe.key("periodSeconds").path, json!(period))];
                if failures != timing.failures {
                    edits.push(Edit::Set(probe.key("failureThreshold").path, json!(failures)));
                }
                raw.fix(edits);
            } else {
                let edits = [("periodSeconds", 2), ("timeoutSeconds", 2), ("failureThreshold", 3)];
                raw.fix(edits.into_iter().map(|(key, n)| Edit::Set(probe.key(key).path, json!(n))).collect());
            }
        }
    }
}

pub(super) fn liveness_slower(ask: &Ask<'_>, found: &mut Found) {
    for workload in ask.picture.serving() {
        for container in workload.serving_containers() {
            let (ready, alive) = (container.view.key("readinessProbe"), container.view.key("livenessProbe"));
            if !ready.exists() || !alive.exists() {
                continue;
            }
            let (ready, timing) = (Timing::of(&ready), Timing::of(&alive));
            if timing.worst() > ready.worst() {
                continue;
            }
            let message = format!(
                "container {}: killed after {}, taken out only after {}: killed with its connections before it is out of rotation",
                container.name,
                timing.sum(),
                ready.sum()
            );
            let failures = (2 * ready.worst() + timing.interval() - 1) / timing.interval();
            found
                .add(Warning, &workload.object, &alive.path, message)
                .fix(vec![Edit::Set(alive.key("failureThreshold").path, json!(failures.max(3)))]);
        }
    }
}

pub(super) fn startup(ask: &Ask<'_>, found: &mut Found) {
    let allowed = ask.config.startup;
    for workload in ask.picture.serving() {
        for container in workload.serving_containers() {
            let (alive, start) = (container.view.key("livenessProbe"), container.view.key("startupProbe"));
            if !alive.exists() || start.exists() {
                continue;
            }
            let timing = Timing::of(&alive);
            let until = timing.delay + timing.interval() * timing.failures;
            if until >= allowed {
                continue;
            }
            let message = format!(
                "container {}: a start that takes longer than {} s + {} s x {} = {until} s is killed, and again; {allowed} s are to be allowed",
                container.name,
                timing.delay,
                timing.interval(),
                timing.failures
            );
            let raw = found.add(Warning, &workload.object, &alive.path, message);
            let handler = ["httpGet", "tcpSocket", "grpc", "exec"].into_iter().find_map(|kind| {
                let view = alive.key(kind);
                view.node.map(|node| (kind, plain(node)))
            });
            if let Some((kind, handler)) = handler {
                let period = timing.timeout.max(2);
                raw.fix(vec![Edit::Set(
                    start.path,
                    json!({
                        kind: handler,
                        "periodSeconds": period,
                        "timeoutSeconds": timing.timeout,
                        "failureThreshold": (allowed + period - 1) / period,
                    }),
                )]);
            }
        }
    }
}

pub(super) fn protocols(ask: &Ask<'_>, found: &mut Found) {
    for workload in ask.picture.serving() {
        let ports = || ask.picture.services_of(workload).flat_map(|service| &service.ports);
        if !ports().any(|port| port.udp) {
            continue;
        }
        let both = ports().any(|port| !port.udp);
        for container in workload.serving_containers() {
            let probe = container.view.key("readinessProbe");
            let script = script(ask.picture, workload, container, &probe);
            let misses = if probe.key("tcpSocket").exists() {
                "asks over TCP, and UDP may be dead"
            } else if let Some(script) =
                script.filter(|script| both && (script.contains("dig ") || script.contains("drill ")))
            {
                let over_tcp = script.contains("+tcp");
                let over_udp =
                    script.split(['\n', ';', '&']).any(|part| part.contains("dig ") && !part.contains("+tcp"));
                match (over_udp, over_tcp) {
                    (true, false) => "asks over UDP, and TCP may be dead",
                    (false, true) => "asks over TCP, and UDP may be dead",
                    _ => continue,
                }
            } else {
                continue;
            };
            let message = format!(
                "container {}: the Service offers {}UDP; the readiness probe {misses}",
                container.name,
                if both { "TCP and " } else { "" }
            );
            found.add(Warning, &workload.object, &probe.path, message);
        }
    }
}

pub(super) fn shared(ask: &Ask<'_>, found: &mut Found) {
    for workload in ask.picture.serving() {
        for container in workload.serving_containers() {
            let probe = container.view.key("readinessProbe");
            let host = probe.at("httpGet.host");
            let elsewhere = if let Some(name) = host.text().filter(|host| !is_local(host)) {
                Some((host.path.clone(), name.to_owned()))
            } else {
                let script = script(ask.picture, workload, container, &probe);
                script.and_then(|script| asks_others(&script)).map(|name| (probe.at("exec.command").path, name))
            };
            if let Some((path, name)) = elsewhere {
                let message = format!(
                    "container {}: readiness hangs on `{name}`; while that is away, 0 of all replicas are ready",
                    container.name
                );
                found.add(Warning, &workload.object, &path, message);
            }
        }
    }
}

fn is_local(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "::1" | "[::1]" | "0.0.0.0") || host.starts_with('$')
}

/// What a command asks that is not in this pod.
fn asks_others(script: &str) -> Option<String> {
    for line in script.split(['\n', ';', '&', '|']) {
        let words: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches(['"', '\''])).collect();
        let has = |program: &str| words.iter().any(|word| word.rsplit('/').next() == Some(program));
        for word in &words {
            let url = word.split_once("://").map(|(_, rest)| rest.split(['/', ':', '?']).next().unwrap_or_default());
            if let Some(host) = url.filter(|host| !host.is_empty() && !is_local(host) && !host.starts_with('[')) {
                return Some(host.to_owned());
            }
        }
        let client =
            ["psql", "pg_isready", "mysql", "mysqladmin", "redis-cli", "mongosh"].iter().any(|client| has(client));
        let after = |option: &str| words.iter().position(|word| *word == option).and_then(|at| words.get(at + 1));
        let named = words.iter().find_map(|word| word.strip_prefix("--host="));
        let host = named.or_else(|| after("-h").copied()).or_else(|| after("--host").copied()).filter(|_| client);
        // `nc -z HOST PORT`: of what is no option, the first.
        let dialled = if has("nc") || has("ncat") {
            let program = words.iter().position(|word| matches!(word.rsplit('/').next(), Some("nc" | "ncat")));
            let rest = words.iter().skip(program.unwrap_or_default() + 1);
            let plain: Vec<&str> = rest.copied().filter(|word| !word.starts_with('-')).collect();
            match plain.as_slice() {
                [.., host, port] if port.parse::<u16>().is_ok() => Some(*host),
                _ => None,
            }
        } else {
            None
        };
        if let Some(host) = host.or(dialled).filter(|host| !is_local(host) && !host.starts_with('/')) {
            return Some(host.to_owned());
        }
        // A name of the public tree is answered by others, through whatever answers here.
        if has("dig") || has("nslookup") || has("kdig") {
            let public = |word: &&&str| {
                let name = word.trim_end_matches('.');
                let top = name.rsplit('.').next().unwrap_or_default();
                name.contains('.')
                    && !word.starts_with(['@', '+', '-'])
                    && top.len() >= 2
                    && top.chars().all(|c| c.is_ascii_alphabetic())
                    && !matches!(top, "local" | "localhost" | "internal" | "arpa" | "test" | "invalid")
            };
            if let Some(name) = words.iter().find(public) {
                return Some((*name).to_owned());
            }
        }
    }
    None
}
