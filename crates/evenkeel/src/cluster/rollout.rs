//! Waiting until what was applied is in force.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use kube::Client;
use kube::core::params::{DeleteParams, ListParams};
use kube::core::request::Request;
use serde_json::{Value, json};

use super::objects::{Place, list};
use super::{LOOK, count, text};

/// How far a Deployment or DaemonSet is: pods that are new and available, and how many there should be. `None` while
/// Kubernetes has not looked at it yet.
pub(crate) fn progress(workload: &Value) -> Option<(u64, u64)> {
    if count(workload, "/status/observedGeneration") < count(workload, "/metadata/generation") {
        return None;
    }
    let status = |field: &str| count(workload, &format!("/status/{field}"));
    let (updated, available, wanted, all) = match text(workload, "/kind") {
        "DaemonSet" => {
            let wanted = status("desiredNumberScheduled");
            (status("updatedNumberScheduled"), status("numberAvailable"), wanted, wanted)
        }
        _ => {
            let wanted = workload.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
            (status("updatedReplicas"), status("availableReplicas"), wanted, status("replicas").max(wanted))
        }
    };
    // Pods of the former version may be among the available ones as long as there are more pods than wanted.
    Some((updated.min(available).saturating_sub(all - wanted), wanted))
}

/// Wait until a workload is rolled out; `tell` is told how far it is whenever that changes.
pub(crate) async fn await_rollout(
    client: &Client,
    place: &Place,
    limit: Duration,
    mut tell: impl FnMut(u64, u64),
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    let mut told = None;
    loop {
        let Some(workload) = place.get(client).await? else { bail!("{place} is gone") };
        let now = progress(&workload);
        if let Some((ready, wanted)) = now.filter(|_| now != told) {
            tell(ready, wanted);
            told = now;
        }
        if now.is_some_and(|(ready, wanted)| ready == wanted) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let (ready, wanted) = now.unwrap_or_default();
            let waiting = unready(client, &workload).await;
            bail!(
                "{place} is not rolled out after {limit:?}: {ready} of {wanted} pods are ready{waiting} (see `kubectl -n {} \
                 describe pods`)",
                place.namespace
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The nodes whose pods are not ready, for an error.
async fn unready(client: &Client, workload: &Value) -> String {
    let labels = workload.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let labels: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let path = format!("/api/v1/namespaces/{}/pods", text(workload, "/metadata/namespace"));
    let pods = list(client, &path, &labels.join(",")).await.unwrap_or_default();
    let ready = |pod: &Value| {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|known| known["type"] == "Ready" && known["status"] == "True")
    };
    let nodes: Vec<&str> = pods.iter().filter(|pod| !ready(pod)).map(|pod| text(pod, "/spec/nodeName")).collect();
    if nodes.is_empty() { String::new() } else { format!("; not on {}", nodes.join(", ")) }
}

/// Wait until the API serves a custom resource.
pub(crate) async fn await_established(client: &Client, place: &Place, limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let definition = place.get(client).await?.unwrap_or_default();
        let conditions = definition.pointer("/status/conditions").and_then(Value::as_array);
        let holds = |kind: &str| {
            conditions.into_iter().flatten().any(|known| known["type"] == kind && known["status"] == "True")
        };
        if holds("Established") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{place} is not served after {limit:?}; its status says why");
        tokio::time::sleep(LOOK).await;
    }
}

/// What makes the agents' DaemonSet one that removes the data path of every node: in all other respects the same pods,
/// so that they reach whatever the agents did.
pub(crate) fn withdrawal(agents: &Value) -> anyhow::Result<Value> {
    let Some(container) = agents.pointer("/spec/template/spec/containers/0") else { bail!("the DaemonSet is empty") };
    let args = container.get("args").and_then(Value::as_array);
    let args: Vec<&str> = args.into_iter().flatten().filter_map(Value::as_str).collect();
    ensure!(
        args.iter().any(|arg| matches!(*arg, "agent" | "uninstall")),
        "DaemonSet {} does not run `evenkeel agent`",
        text(agents, "/metadata/name")
    );
    // Which node it is, and where the probes ask.
    let kept = args.iter().filter(|arg| arg.starts_with("--node=") || arg.starts_with("--listen="));
    let kept: Vec<&str> = ["uninstall", "--stay"].iter().chain(kept).copied().collect();
    let mut container = container.clone();
    container["args"] = json!(kept);
    // All nodes at once: nothing is handed over any more.
    Ok(json!({"spec": {
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%", "maxSurge": 0}},
        "template": {"spec": {"containers": [container]}},
    }}))
}

/// Withdraw and detach on every node that the agents' DaemonSet is for.
///
/// # Errors
/// Not all nodes have done so in time; which, the error says.
pub(crate) async fn withdraw(client: &Client, agents: &Place, limit: Duration) -> anyhow::Result<()> {
    let Some(present) = agents.get(client).await? else {
        println!("{agents} is not there: nothing to withdraw");
        return Ok(());
    };
    println!("withdrawing");
    agents.merge(client, &withdrawal(&present)?).await?;
    await_rollout(client, agents, limit, |done, nodes| println!("  {done} of {nodes} nodes have withdrawn")).await?;
    forget_owners(client, &agents.namespace).await
}

/// Delete what agents and controller have said of themselves: none is left that it would be true of.
async fn forget_owners(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let all = [
        ("coordination.k8s.io/v1", "leases", evenkeel_agent::LEASE_LABEL),
        ("metallb.io/v1beta1", "servicel2statuses", evenkeel_agent::STATUS_LABELS),
    ];
    for (version, plural, labels) in all {
        let path = format!("/apis/{version}/namespaces/{namespace}/{plural}");
        let ours = ListParams::default().labels(labels);
        let request = Request::new(path).delete_collection(&DeleteParams::default(), &ours)?;
        match client.request::<Value>(request).await {
            // The kind itself may be gone.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => drop(deleted.with_context(|| format!("the agents' {plural} are not deleted"))?),
        }
    }
    let state = Place::of(&json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "ConfigurationState",
        "metadata": {"name": evenkeel_controller::CONFIGURATION_STATE, "namespace": namespace},
    }))?;
    state.delete(client).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_is_over_when_all_pods_are_new_and_available() {
        let deployment = |generation: u64, updated: u64, available: u64, all: u64| {
            json!({
                "kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 2},
                "status": {"observedGeneration": generation, "updatedReplicas": updated,
                    "availableReplicas": available, "replicas": all},
            })
        };
        assert_eq!(progress(&deployment(1, 2, 2, 2)), None, "not looked at");
        assert_eq!(progress(&deployment(2, 1, 2, 2)), Some((1, 2)));
        assert_eq!(progress(&deployment(2, 2, 2, 3)), Some((1, 2)), "a former pod may be among the available ones");
        assert_eq!(progress(&deployment(2, 2, 2, 2)), Some((2, 2)));
        let agents = json!({"kind": "DaemonSet", "metadata": {"generation": 1}, "status": {"observedGeneration": 1,
            "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 2}});
        assert_eq!(progress(&agents), Some((2, 3)));
    }

    #[test]
    fn a_withdrawal_keeps_the_pods_as_they_are() {
        let container = json!({"name": "agent", "image": "x", "args": ["agent", "--node=$(N)", "--listen=[::]:9", "--interface=eth0"],
            "securityContext": {"capabilities": {"add": ["BPF"]}}, "volumeMounts": [{"name": "bpffs"}]});
        let agents = json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": [container]}}}});
        let patch = withdrawal(&agents).unwrap();
        let changed = patch.pointer("/spec/template/spec/containers/0").unwrap();
        assert_eq!(changed["args"], json!(["uninstall", "--stay", "--node=$(N)", "--listen=[::]:9"]));
        for kept in ["name", "image", "securityContext", "volumeMounts"] {
            assert_eq!(changed[kept], container[kept]);
        }
        assert!(
            withdrawal(&json!({"metadata": {"name": "other"}, "spec": {"template": {"spec": {"containers": [
            {"args": ["speaker"]}]}}}}))
            .is_err(),
            "what is not ours is left alone"
        );
    }
}
