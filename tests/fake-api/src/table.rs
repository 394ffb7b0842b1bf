//! `kubectl get`: objects as tables.

use serde_json::{Map, Value, json};

use crate::object::{at, meta, text};
use crate::registry::{Column, Resource};

/// What of the object goes with each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "None" => Self::None,
            "Object" => Self::Object,
            _ => Self::Metadata,
        }
    }
}

fn column(name: &str, kind: &str, path: &str) -> Column {
    Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        format: if name == "Name" { "name".to_owned() } else { String::new() },
        description: String::new(),
        priority: 0,
        path: path.to_owned(),
    }
}

/// The columns of a kind: a name, its own, and for most an age.
fn columns(resource: &Resource) -> Vec<Column> {
    let mut columns = vec![column("Name", "string", ".metadata.name")];
    if resource.custom && !resource.columns.is_empty() {
        columns.extend(resource.columns.iter().cloned());
        return columns;
    }
    let own: &[(&str, &str)] = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => &[("Status", ".status.phase")],
        ("", "pods") => &[("Ready", "pod-ready"), ("Status", ".status.phase"), ("Restarts", "pod-restarts")],
        ("", "nodes") => {
            &[("Status", "node-status"), ("Roles", "node-roles"), ("Version", ".status.nodeInfo.kubeletVersion")]
        }
        ("", "services") => &[
            ("Type", ".spec.type"),
            ("Cluster-IP", "service-ip"),
            ("External-IP", "service-external"),
            ("Port(s)", "service-ports"),
        ],
        ("", "configmaps") => &[("Data", "count:data")],
        ("", "secrets") => &[("Type", ".type"), ("Data", "count:data")],
        ("coordination.k8s.io", "leases") => &[("Holder", ".spec.holderIdentity")],
        ("apps", "deployments") => &[
            ("Ready", "deployment-ready"),
            ("Up-to-date", "zero:.status.updatedReplicas"),
            ("Available", "zero:.status.availableReplicas"),
        ],
        ("apps", "daemonsets") => &[
            ("Desired", "zero:.status.desiredNumberScheduled"),
            ("Current", "zero:.status.currentNumberScheduled"),
            ("Ready", "zero:.status.numberReady"),
            ("Up-to-date", "zero:.status.updatedNumberScheduled"),
            ("Available", "zero:.status.numberAvailable"),
        ],
        ("discovery.k8s.io", "endpointslices") => &[("AddressType", ".addressType")],
        ("", "events") => &[("Type", ".type"), ("Reason", ".reason"), ("Message", ".message")],
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            columns.push(column("Created At", "date", ".metadata.creationTimestamp"));
            return columns;
        }
        _ => &[],
    };
    columns.extend(own.iter().map(|(name, path)| column(name, "string", path)));
    columns.push(column("Age", "date", ".metadata.creationTimestamp"));
    columns
}

/// A table of these objects.
pub(crate) fn table(resource: &Resource, objects: &[Value], metadata: Value, include: Include) -> Value {
    let columns = columns(resource);
    let definitions: Vec<Value> = columns
        .iter()
        .map(|column| {
            // Times come out as ages.
            let kind = if column.kind == "date" && !resource.custom { "string" } else { &column.kind };
            json!({"name": column.name, "type": kind, "format": column.format,
                "description": column.description, "priority": column.priority})
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells: Vec<Value> = columns.iter().map(|column| cell(column, object)).collect();
            let mut row = json!({"cells": cells});
            let shown = match include {
                Include::None => None,
                Include::Object => Some(object.clone()),
                Include::Metadata => Some(json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                    "metadata": object.get("metadata").cloned().unwrap_or_default()})),
            };
            if let (Some(shown), Some(map)) = (shown, row.as_object_mut()) {
                map.insert("object".into(), shown);
            }
            row
        })
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows})
}

fn cell(column: &Column, object: &Value) -> Value {
    let path = column.path.as_str();
    if let Some(path) = path.strip_prefix("zero:") {
        return first(object, path).cloned().unwrap_or_else(|| json!(0));
    }
    if let Some(name) = path.strip_prefix("count:") {
        return json!(object.get(name).and_then(Value::as_object).map_or(0, Map::len));
    }
    match path {
        "service-ip" => match text(object, &["spec", "clusterIP"]) {
            "" => "<none>".into(),
            ip => ip.into(),
        },
        "service-external" => service_external(object).into(),
        "service-ports" => service_ports(object).into(),
        "deployment-ready" => {
            let count = |path: &[&str]| at(object, path).and_then(Value::as_i64).unwrap_or(0);
            format!("{}/{}", count(&["status", "readyReplicas"]), count(&["spec", "replicas"])).into()
        }
        "pod-ready" => {
            let statuses = at(object, &["status", "containerStatuses"]).and_then(Value::as_array);
            let ready =
                statuses.into_iter().flatten().filter(|one| one.get("ready") == Some(&Value::Bool(true))).count();
            let all = at(object, &["spec", "containers"]).and_then(Value::as_array).map_or(0, Vec::len);
            format!("{ready}/{all}").into()
        }
        "pod-restarts" => {
            let statuses = at(object, &["status", "containerStatuses"]).and_then(Value::as_array);
            let restarts: i64 =
                statuses.into_iter().flatten().filter_map(|one| one.get("restartCount")?.as_i64()).sum();
            restarts.to_string().into()
        }
        "node-status" => node_status(object).into(),
        "node-roles" => node_roles(object).into(),
        _ => match first(object, path) {
            None => Value::Null,
            Some(value) if column.kind == "date" => age(value).into(),
            Some(value) => scalar(value, &column.kind),
        },
    }
}

fn scalar(value: &Value, kind: &str) -> Value {
    match value {
        Value::Object(_) | Value::Array(_) => value.to_string().into(),
        value if kind == "string" && !value.is_string() && !value.is_null() => value.to_string().into(),
        value => value.clone(),
    }
}

/// How long ago a time was, as `kubectl` shows it.
fn age(time: &Value) -> String {
    let Some(then) = time.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok()) else {
        return "<unknown>".to_owned();
    };
    let seconds = jiff::Timestamp::now().as_second() - then.as_second();
    match seconds {
        ..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 != 0 => format!("{}m{}s", seconds / 60, seconds % 60),
        120..10_800 => format!("{}m", seconds / 60),
        10_800..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The first value a JSON path such as `.spec.ports[0].port` or `.status.conditions[?(@.type=="Ready")].status` finds.
fn first<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut here = object;
    let mut rest = path.trim_start_matches('$').trim_start_matches('.');
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let end = inside.find(']')?;
            let (index, after) = (inside.get(..end)?, inside.get(end + 1..)?);
            let list = here.as_array();
            here = if let Some(filter) = index.strip_prefix("?(@.").and_then(|one| one.strip_suffix(')')) {
                let (field, wanted) = filter.split_once("==")?;
                let wanted = wanted.trim().trim_matches(|one| one == '"' || one == '\'');
                list?.iter().find(|one| text(one, &[field.trim()]) == wanted)?
            } else if index == "*" {
                list?.first()?
            } else if let Ok(number) = index.parse::<usize>() {
                list?.get(number)?
            } else {
                here.get(index.trim_matches(|one| one == '"' || one == '\''))?
            };
            rest = after.trim_start_matches('.');
            continue;
        }
        let mut name = String::new();
        let mut letters = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => name.extend(letters.next().map(|(_, escaped)| escaped)),
                '.' | '[' => {
                    end = at;
                    break;
                }
                _ => name.push(letter),
            }
        }
        here = here.get(&name)?;
        rest = rest.get(end..)?.trim_start_matches('.');
    }
    Some(here)
}

fn service_external(object: &Value) -> String {
    let kind = text(object, &["spec", "type"]);
    if kind == "ExternalName" {
        return text(object, &["spec", "externalName"]).to_owned();
    }
    let ingress = at(object, &["status", "loadBalancer", "ingress"]).and_then(Value::as_array);
    let mut shown: Vec<String> = Vec::new();
    if kind == "LoadBalancer" {
        shown.extend(ingress.into_iter().flatten().map(|one| match text(one, &["ip"]) {
            "" => text(one, &["hostname"]).to_owned(),
            ip => ip.to_owned(),
        }));
    }
    let external = at(object, &["spec", "externalIPs"]).and_then(Value::as_array);
    shown.extend(external.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
    if !shown.is_empty() {
        shown.join(",")
    } else if kind == "LoadBalancer" {
        "<pending>".to_owned()
    } else {
        "<none>".to_owned()
    }
}

fn service_ports(object: &Value) -> String {
    let ports = at(object, &["spec", "ports"]).and_then(Value::as_array);
    let shown: Vec<String> = ports
        .into_iter()
        .flatten()
        .map(|port| {
            let number = |name: &str| port.get(name).and_then(Value::as_i64).unwrap_or(0);
            match number("nodePort") {
                0 => format!("{}/{}", number("port"), text(port, &["protocol"])),
                node => format!("{}:{node}/{}", number("port"), text(port, &["protocol"])),
            }
        })
        .collect();
    if shown.is_empty() { "<none>".to_owned() } else { shown.join(",") }
}

fn node_status(object: &Value) -> String {
    let conditions = at(object, &["status", "conditions"]).and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|one| text(one, &["type"]) == "Ready");
    let mut status = match ready.map(|one| text(one, &["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if at(object, &["spec", "unschedulable"]) == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(object: &Value) -> String {
    let labels = at(object, &["metadata", "labels"]).and_then(Value::as_object);
    let roles: Vec<&str> =
        labels.into_iter().flatten().filter_map(|(name, _)| name.strip_prefix("node-role.kubernetes.io/")).collect();
    debug_assert!(!meta(object, "name").is_empty(), "rows are of stored objects");
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_printer_columns_find_values() {
        let object = json!({"spec": {"list": [{"a": 1}, {"a": 2}], "na.me": "x"},
            "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]}});
        for (path, found) in [
            (".spec.list[1].a", Some(json!(2))),
            (".spec.na\\.me", Some(json!("x"))),
            (".spec['na.me']", Some(json!("x"))),
            (".status.conditions[?(@.type==\"Ready\")].status", Some(json!("True"))),
            (".spec.missing", None),
        ] {
            assert_eq!(first(&object, path), found.as_ref(), "{path}");
        }
    }
}
