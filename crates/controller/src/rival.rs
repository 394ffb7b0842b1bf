//! A MetalLB controller that is still running. Two that allocate would undo each other's work, so as long as there is one
//! that serves the same services nothing is written. Agents do not ask: they announce what statuses name, whoever wrote them
//! (`docs/guides/migrate-from-metallb.md` has an order in which that does no harm).

use std::time::Duration;

use evenkeel_plan::world::ObjectName;
use evenkeel_sources::kubernetes::events::{Events, Note, Subject};
use kube::Client;
use kube::core::params::ListParams;
use kube::core::request::Request;
use serde_json::Value;
use tokio::sync::watch;

/// How often is looked.
const PERIOD: Duration = Duration::from_secs(10);
/// The labels of MetalLB's controller, by its chart and by its manifests.
const SELECTORS: [&str; 2] =
    ["app.kubernetes.io/name=metallb,app.kubernetes.io/component=controller", "app=metallb,component=controller"];

/// What is known of rivals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rival {
    /// Nothing yet.
    Unknown,
    /// There is none.
    None,
    /// This Deployment of MetalLB's controller has running pods.
    Running(ObjectName),
}

/// Look for rivals for as long as somebody wants to know.
pub(crate) fn watch(client: Client, class: Option<String>, events: Events) -> watch::Receiver<Rival> {
    let (sender, receiver) = watch::channel(Rival::Unknown);
    tokio::spawn(async move {
        loop {
            match look(&client, class.as_deref()).await {
                Ok(found) => {
                    let rival = found.as_ref().map_or(Rival::None, |found| Rival::Running(found.name.clone()));
                    let is_new = *sender.borrow() != rival;
                    if let Some(subject) = found.filter(|_| is_new) {
                        events.tell(subject, note());
                    }
                    sender.send_if_modified(|known| std::mem::replace(known, rival.clone()) != rival);
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                    let is_new = *sender.borrow() != Rival::None;
                    if is_new {
                        tracing::warn!(error = %status, "cannot look for a MetalLB that is still running: taking it that there is none");
                    }
                    sender.send_replace(Rival::None);
                }
                // What was known goes on to be.
                Err(error) => tracing::warn!(%error, "cannot look for a MetalLB that is still running"),
            }
            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    });
    receiver
}

fn note() -> Note {
    let message = "MetalLB's controller serves the same services: no address is allocated until it is scaled to 0 or \
                   uninstalled, or one of both serves another loadBalancerClass";
    Note { warning: true, reason: "MetalLBRunning", message: message.to_owned() }
}

async fn look(client: &Client, class: Option<&str>) -> Result<Option<Subject>, kube::Error> {
    for selector in SELECTORS {
        let params = ListParams::default().labels(selector);
        let request = Request::new("/apis/apps/v1/deployments").list(&params).map_err(kube::Error::BuildRequest)?;
        let list: Value = client.request(request).await?;
        let items = list.get("items").and_then(Value::as_array).into_iter().flatten();
        if let Some(found) = items.filter(|item| is_rival(item, class)).find_map(subject) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn subject(deployment: &Value) -> Option<Subject> {
    let text = |pointer| deployment.pointer(pointer).and_then(Value::as_str);
    let name = ObjectName::new(text("/metadata/namespace")?, text("/metadata/name")?);
    let uid = text("/metadata/uid").unwrap_or_default().to_owned();
    Some(Subject { version: "apps/v1", kind: "Deployment", name, uid })
}

/// Whether a Deployment of MetalLB's controller has pods, and they serve this class.
fn is_rival(deployment: &Value, class: Option<&str>) -> bool {
    let replicas = deployment.pointer("/status/replicas").and_then(Value::as_u64).unwrap_or_default();
    let containers = deployment.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let args = containers.into_iter().flatten().filter_map(|container| container["args"].as_array()).flatten();
    let mut classes =
        args.filter_map(Value::as_str).filter_map(|arg| arg.trim_start_matches('-').strip_prefix("lb-class="));
    let served = classes.rfind(|class| !class.is_empty());
    replicas > 0 && served == class
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(replicas: u64, args: &[&str]) -> Value {
        json!({
            "status": {"replicas": replicas},
            "spec": {"template": {"spec": {"containers": [{"args": ["--port=7472"]}, {"args": args}]}}},
        })
    }

    #[test]
    fn a_rival_has_pods_and_serves_the_same_class() {
        assert!(is_rival(&deployment(1, &[]), None));
        assert!(!is_rival(&deployment(0, &[]), None), "scaled down");
        assert!(!is_rival(&json!({}), None));
        assert!(!is_rival(&deployment(1, &["--lb-class=metallb"]), None), "serves others");
        assert!(!is_rival(&deployment(1, &[]), Some("evenkeel")));
        assert!(is_rival(&deployment(1, &["--lb-class=x"]), Some("x")));
    }
}
