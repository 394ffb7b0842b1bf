//! Objects of an API, by where they are.

use std::fmt;

use anyhow::{Context as _, bail};
use kube::Client;
use kube::core::params::{DeleteParams, GetParams, ListParams, Patch, PatchParams};
use kube::core::request::Request;
use serde_json::Value;

use super::{MANAGER, text};

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The API group; empty for the core.
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: &'static str,
    /// Empty where the kind has none.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// The kinds that are set up or taken back, and whether they live in a namespace.
const KINDS: [(&str, &str, bool); 16] = [
    ("ClusterRole", "clusterroles", false),
    ("ClusterRoleBinding", "clusterrolebindings", false),
    ("ConfigurationState", "configurationstates", true),
    ("CustomResourceDefinition", "customresourcedefinitions", false),
    ("DaemonSet", "daemonsets", true),
    ("Deployment", "deployments", true),
    ("IPAddressPool", "ipaddresspools", true),
    ("L2Advertisement", "l2advertisements", true),
    ("Namespace", "namespaces", false),
    ("PodDisruptionBudget", "poddisruptionbudgets", true),
    ("Role", "roles", true),
    ("RoleBinding", "rolebindings", true),
    ("Secret", "secrets", true),
    ("Service", "services", true),
    ("ServiceAccount", "serviceaccounts", true),
    ("ValidatingWebhookConfiguration", "validatingwebhookconfigurations", false),
];

impl Place {
    /// Where an object is.
    ///
    /// # Errors
    /// It is of a kind that is not set up, or has no name.
    pub(crate) fn of(object: &Value) -> anyhow::Result<Self> {
        let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
        let Some((_, plural, namespaced)) = KINDS.iter().find(|(known, ..)| *known == kind) else {
            bail!("objects of kind `{kind}` are not known here");
        };
        if name.is_empty() {
            bail!("a {kind} has no name");
        }
        let version = text(object, "/apiVersion");
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let namespace = if *namespaced { text(object, "/metadata/namespace") } else { "" };
        Ok(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            plural,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    fn collection(&self) -> String {
        let Self { group, version, plural, namespace, .. } = self;
        let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        match namespace.as_str() {
            "" => format!("{root}/{plural}"),
            _ => format!("{root}/namespaces/{namespace}/{plural}"),
        }
    }

    /// The object, if it is there.
    pub(crate) async fn get(&self, client: &Client) -> anyhow::Result<Option<Value>> {
        let request = Request::new(self.collection()).get(&self.name, &GetParams::default())?;
        absent_is_none(client.request(request).await).with_context(|| format!("cannot read {self}"))
    }

    /// Apply an object: what of it others have set differently is taken over.
    pub(crate) async fn apply(&self, client: &Client, object: &Value, dry_run: bool) -> anyhow::Result<Value> {
        let params = PatchParams { dry_run, ..PatchParams::apply(MANAGER).force() };
        let request = Request::new(self.collection()).patch(&self.name, &params, &Patch::Apply(object))?;
        client.request(request).await.with_context(|| format!("cannot apply {self}"))
    }

    /// Change a part of an object by a merge patch.
    pub(crate) async fn merge(&self, client: &Client, patch: &Value) -> anyhow::Result<Value> {
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let request = Request::new(self.collection()).patch(&self.name, &params, &Patch::Merge(patch))?;
        client.request(request).await.with_context(|| format!("cannot change {self}"))
    }

    /// Delete an object. Returns whether it was there.
    pub(crate) async fn delete(&self, client: &Client) -> anyhow::Result<bool> {
        let request = Request::new(self.collection()).delete(&self.name, &DeleteParams::background())?;
        let deleted: Option<Value> =
            absent_is_none(client.request(request).await).with_context(|| format!("cannot delete {self}"))?;
        Ok(deleted.is_some())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// The items of a collection; none where the API has no such kind.
pub(crate) async fn list(client: &Client, path: &str, labels: &str) -> anyhow::Result<Vec<Value>> {
    let request = Request::new(path).list(&ListParams::default().labels(labels))?;
    let list: Option<Value> =
        absent_is_none(client.request(request).await).with_context(|| format!("cannot list {path}"))?;
    Ok(list.and_then(|list| list.get("items").and_then(Value::as_array).cloned()).unwrap_or_default())
}

fn absent_is_none(answer: Result<Value, kube::Error>) -> Result<Option<Value>, kube::Error> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}
