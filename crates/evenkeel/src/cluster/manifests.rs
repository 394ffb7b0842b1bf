//! What is installed: the manifests rendered from the chart, adapted to the command line. Pure.

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::{NAMESPACE, text};

/// The chart with its default values.
const RENDERED: &str = include_str!("../../../../manifests/evenkeel.yaml");
/// The names of the pool and the advertisement that are made.
const DEFAULT: &str = "default";

/// What of the manifests is chosen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    pub(crate) namespace: String,
    pub(crate) image: Option<String>,
    pub(crate) interfaces: Vec<String>,
    pub(crate) forwarding: Option<String>,
    pub(crate) lb_class: Option<String>,
}

/// What is installed, in the order it has to be.
pub(crate) fn objects(choice: &Choice) -> anyhow::Result<Vec<Value>> {
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(RENDERED).context("the manifests within are no YAML")?;
    objects.retain(|object| !object.is_null());
    for object in &mut objects {
        rename_namespace(object, &choice.namespace);
        if matches!(text(object, "/kind"), "DaemonSet" | "Deployment") {
            adapt(object, choice)?;
        }
    }
    let rank = |object: &Value| match text(object, "/kind") {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "DaemonSet" | "Deployment" => 3,
        _ => 2,
    };
    objects.sort_by_key(rank);
    Ok(objects)
}

/// Say `namespace` wherever the manifests say the one they were rendered for.
fn rename_namespace(object: &mut Value, namespace: &str) {
    match object {
        Value::String(text) if text == NAMESPACE => *text = namespace.to_owned(),
        Value::String(text) => {
            if let Some(rest) = text.strip_prefix(NAMESPACE).filter(|rest| rest.starts_with(':')) {
                *text = format!("{namespace}{rest}");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename_namespace(item, namespace)),
        Value::Object(fields) => fields.values_mut().for_each(|value| rename_namespace(value, namespace)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Give the container the chosen image and arguments.
fn adapt(object: &mut Value, choice: &Choice) -> anyhow::Result<()> {
    let is_agent = text(object, "/kind") == "DaemonSet";
    let Some(container) = object.pointer_mut("/spec/template/spec/containers/0") else { bail!("a workload is empty") };
    if let Some(image) = &choice.image {
        container["image"] = image.as_str().into();
    }
    let Some(args) = container["args"].as_array_mut() else { bail!("a container has no arguments") };
    let mut set = |name: &str, value: &str| {
        args.retain(|arg| !arg.as_str().is_some_and(|arg| arg.starts_with(&format!("--{name}="))));
        args.push(format!("--{name}={value}").into());
    };
    if let Some(class) = &choice.lb_class {
        set("lb-class", class);
    }
    if is_agent && !choice.interfaces.is_empty() {
        set("interface", &choice.interfaces.join(","));
    }
    if let Some(forwarding) = choice.forwarding.as_deref().filter(|_| is_agent) {
        set("forwarding", forwarding);
    }
    Ok(())
}

/// A pool of these ranges, and the advertisement of it.
pub(crate) fn pool(namespace: &str, ranges: &[String]) -> [Value; 2] {
    let metadata = json!({"name": DEFAULT, "namespace": namespace});
    [
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": metadata,
            "spec": {"addresses": ranges},
        }),
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "metadata": metadata,
            "spec": {"ipAddressPools": [DEFAULT]},
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::objects::Place;

    fn choice() -> Choice {
        Choice {
            namespace: "lb".to_owned(),
            image: Some("registry.test/evenkeel:1".to_owned()),
            interfaces: vec!["eth1".to_owned(), "eth2".to_owned()],
            forwarding: Some("direct".to_owned()),
            lb_class: Some("example.org/lb".to_owned()),
        }
    }

    #[test]
    fn everything_is_in_the_chosen_namespace() {
        let objects = objects(&choice()).unwrap();
        assert!(objects.len() > 20, "{}", objects.len());
        for object in &objects {
            let place = Place::of(object).unwrap();
            assert!(["", "lb"].contains(&place.namespace.as_str()), "{place}");
            let text = object.to_string();
            assert!(!text.contains(NAMESPACE), "{place} still speaks of {NAMESPACE}: {text}");
        }
        assert_eq!(text(&objects[0], "/metadata/name"), "lb", "the namespace comes first");
    }

    /// A pod whose port of the node another one has is not scheduled.
    #[test]
    fn agents_leave_the_ports_of_metallbs_speaker_alone() {
        let objects = objects(&choice()).unwrap();
        let agents = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
        let ports = agents.pointer("/spec/template/spec/containers/0/ports").unwrap().as_array().unwrap();
        let ports: Vec<u64> = ports.iter().map(|port| port["hostPort"].as_u64().unwrap()).collect();
        assert!(!ports.is_empty());
        for taken in [7472, 7473, 7572, 7573, 7946, 9120, 9121] {
            assert!(!ports.contains(&taken), "{taken} is MetalLB's");
        }
    }

    #[test]
    fn workloads_are_adapted_and_others_keep_what_they_have() {
        let objects = objects(&choice()).unwrap();
        let container = |kind| {
            let workload = objects.iter().find(|object| object["kind"] == kind).unwrap();
            workload.pointer("/spec/template/spec/containers/0").unwrap().clone()
        };
        let agent = container("DaemonSet");
        let args: Vec<&str> = agent["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
        assert_eq!(args[0], "agent");
        for wanted in ["--interface=eth1,eth2", "--forwarding=direct", "--lb-class=example.org/lb"] {
            assert_eq!(args.iter().filter(|arg| **arg == wanted).count(), 1, "{wanted} in {args:?}");
        }
        assert_eq!(args.iter().filter(|arg| arg.starts_with("--interface=")).count(), 1, "{args:?}");
        assert!(args.contains(&format!("--listen={}", crate::command::agent::LISTEN).as_str()), "{args:?}");
        let controller = container("Deployment");
        assert_eq!(controller["image"], "registry.test/evenkeel:1");
        assert!(!controller["args"].to_string().contains("--interface"));
    }
}
