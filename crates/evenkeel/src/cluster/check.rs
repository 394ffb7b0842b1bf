//! What is looked at before anything is changed.

use std::collections::BTreeSet;

use anyhow::Context as _;
use kube::Client;
use kube::core::params::PostParams;
use kube::core::request::Request;
use serde_json::{Value, json};

use super::objects::{Place, list};
use super::{count, text};

/// The oldest Kubernetes whose API has what the definitions use.
const OLDEST_MINOR: u32 = 30;

/// Something found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// As it should be.
    Good(String),
    /// Worth knowing, with a remedy.
    Note(String),
    /// Nothing can be installed as long as this is so.
    Bad(String),
}

/// Look at the cluster that `objects` are to be applied to.
///
/// # Errors
/// The API cannot be reached.
pub(crate) async fn cluster(client: &Client, objects: &[Value], namespace: &str) -> anyhow::Result<Vec<Finding>> {
    let version = client
        .apiserver_version()
        .await
        .context("the Kubernetes API cannot be reached: check KUBECONFIG, `kubectl version` has to answer")?;
    let mut found = vec![judge_version(&version.git_version, &version.minor)];
    found.extend(rights(client, objects).await?);
    let deployments = list(client, "/apis/apps/v1/deployments", "").await?;
    found.extend(metallb(&deployments, namespace));
    let configmap = Request::new("/api/v1/namespaces/kube-system/configmaps")
        .get("kube-proxy", &kube::core::params::GetParams::default())?;
    // Not every cluster has one, and not everybody may read it.
    if let Ok(configmap) = client.request::<Value>(configmap).await {
        found.extend(kube_proxy(text(&configmap, "/data/config.conf")));
    }
    Ok(found)
}

fn judge_version(version: &str, minor: &str) -> Finding {
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    match digits.parse::<u32>() {
        Ok(minor) if minor < OLDEST_MINOR => {
            Finding::Bad(format!("Kubernetes {version} is too old: 1.{OLDEST_MINOR} or newer is needed"))
        }
        _ => Finding::Good(format!("Kubernetes {version} answers")),
    }
}

/// Whether everything may be applied, by asking the API.
async fn rights(client: &Client, objects: &[Value]) -> anyhow::Result<Vec<Finding>> {
    let places = objects.iter().map(Place::of).collect::<anyhow::Result<Vec<_>>>()?;
    let kinds: BTreeSet<(String, &str, String)> =
        places.into_iter().map(|place| (place.group, place.plural, place.namespace)).collect();
    let mut missing = BTreeSet::new();
    for (group, plural, namespace) in kinds {
        for verb in ["get", "create", "patch"] {
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": {
                    "group": group, "resource": plural, "verb": verb, "namespace": namespace,
                }},
            });
            let request = Request::new("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
                .create(&PostParams::default(), serde_json::to_vec(&review)?)?;
            let answer: Value = client.request(request).await.context("cannot ask for the own rights")?;
            if answer.pointer("/status/allowed") != Some(&Value::Bool(true)) {
                missing.insert(format!("{verb} {plural}"));
            }
        }
    }
    Ok(vec![match missing.is_empty() {
        true => Finding::Good("everything that is installed may be applied".to_owned()),
        false => {
            let missing = missing.into_iter().collect::<Vec<_>>().join(", ");
            Finding::Bad(format!("this user may not {missing}: use one who may, such as a cluster-admin"))
        }
    }])
}

/// A MetalLB among the deployments.
fn metallb(deployments: &[Value], namespace: &str) -> Option<Finding> {
    let is_its = |deployment: &&Value| {
        let label = |key: &str| deployment.pointer("/metadata/labels").and_then(|labels| labels.get(key));
        let named = label("app.kubernetes.io/name").or_else(|| label("app")).and_then(Value::as_str);
        named == Some("metallb") && count(deployment, "/spec/replicas") > 0
    };
    let its = deployments.iter().find(is_its)?;
    let place = format!("{}/{}", text(its, "/metadata/namespace"), text(its, "/metadata/name"));
    let elsewhere = match text(its, "/metadata/namespace") {
        same if same == namespace => String::new(),
        other => format!(" Its configuration is in {other}: install with --namespace {other} to go on using it."),
    };
    Some(Finding::Note(format!(
        "MetalLB runs here ({place}). Its resources are used as they are, and services keep their addresses; as long \
         as it runs, the controller leaves services to it, but agents announce beside its speakers: install with a \
         --lb-class that no service has first, so that all agents are there when nodes are chosen.{elsewhere} To \
         remove MetalLB later, delete its own objects, not the namespace and not the definitions, with which Evenkeel \
         and the pools would go. docs/guides/migrate-from-metallb.md has the steps."
    )))
}

/// kube-proxy's configuration. With IPVS it gives every node all addresses, so that without strictARP every node's
/// kernel answers for them.
fn kube_proxy(config: &str) -> Option<Finding> {
    let config: Value = serde_saphyr::from_str(config).ok()?;
    let strict = config.pointer("/ipvs/strictARP") == Some(&Value::Bool(true));
    (text(&config, "/mode") == "ipvs" && !strict).then(|| {
        Finding::Note(
            "kube-proxy is in IPVS mode without strictARP, so that every node would answer ARP for every address: set \
             ipvs.strictARP: true in ConfigMap kube-system/kube-proxy and restart kube-proxy"
                .to_owned(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_are_refused() {
        assert!(matches!(judge_version("v1.29.3", "29"), Finding::Bad(_)));
        assert!(matches!(judge_version("v1.36.1-eks", "36+"), Finding::Good(_)));
    }

    #[test]
    fn metallb_is_recognised_while_it_has_pods() {
        let deployment = |replicas: u64| {
            json!({"metadata": {"namespace": "metallb-system", "name": "controller", "labels": {"app": "metallb"}},
                "spec": {"replicas": replicas}})
        };
        assert_eq!(metallb(&[deployment(0)], "metallb-system"), None);
        let Some(Finding::Note(note)) = metallb(&[deployment(1)], "lb") else { panic!("not found") };
        assert!(note.contains("--namespace metallb-system"), "{note}");
        let Some(Finding::Note(note)) = metallb(&[deployment(1)], "metallb-system") else { panic!("not found") };
        assert!(!note.contains("--namespace"), "{note}");
    }

    /// Its manifests begin with the namespace that Evenkeel and the pools are in.
    #[test]
    fn who_removes_metallb_is_told_what_to_leave() {
        let deployment = json!({"metadata": {"namespace": "metallb-system", "name": "metallb-controller",
            "labels": {"app.kubernetes.io/name": "metallb"}}, "spec": {"replicas": 1}});
        let Some(Finding::Note(note)) = metallb(&[deployment], "metallb-system") else { panic!("not found") };
        for said in ["not the namespace and not the definitions", "agents announce", "--lb-class"] {
            assert!(note.contains(said), "{said} in {note}");
        }
    }

    #[test]
    fn ipvs_needs_strict_arp() {
        assert_eq!(kube_proxy("mode: iptables\n"), None);
        assert_eq!(kube_proxy("mode: ipvs\nipvs:\n  strictARP: true\n"), None);
        assert!(kube_proxy("mode: ipvs\nipvs:\n  strictARP: false\n").is_some());
        assert_eq!(kube_proxy("\tno yaml"), None);
    }
}
