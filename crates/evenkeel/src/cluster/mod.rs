//! Setting a cluster up, and taking it back: what `evenkeel install` and `evenkeel withdraw` do.

pub(crate) mod check;
pub(crate) mod manifests;
pub(crate) mod objects;
pub(crate) mod rollout;

use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use serde_json::Value;

/// The name under which fields are owned.
pub(crate) const MANAGER: &str = "evenkeel";
/// The namespace that MetalLB's users have their configuration in.
pub(crate) const NAMESPACE: &str = evenkeel_plan::check::SYSTEM_NAMESPACE;
/// How often something awaited is looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(500);

/// A client for the cluster that KUBECONFIG names, or the pod runs in.
pub(crate) async fn client() -> anyhow::Result<Client> {
    let remedy = "no cluster: name one by KUBECONFIG or in ~/.kube/config";
    Client::try_default().await.context(remedy)
}

/// A number within an object, 0 where there is none.
pub(crate) fn count(object: &Value, pointer: &str) -> u64 {
    object.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

/// A text within an object, empty where there is none.
pub(crate) fn text<'o>(object: &'o Value, pointer: &str) -> &'o str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
