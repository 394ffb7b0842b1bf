//! What the server says about itself.

use serde_json::{Map, Value, json};

use crate::registry::{Registry, Resource, definitions, group_version};

/// `/version`.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35", "gitVersion": "v1.36.0",
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
        "compiler": "", "platform": "linux/amd64",
    })
}

/// Subresources served, with the kind they take.
fn subresources(resource: &Resource) -> Vec<(&'static str, String, &'static [&'static str])> {
    let mut list = Vec::new();
    if resource.status {
        list.push(("status", resource.kind.clone(), &["get", "patch", "update"] as &[_]));
    }
    if resource.scale {
        list.push(("scale", "Scale".to_owned(), &["get", "patch", "update"]));
    }
    if resource.is("", "pods") {
        list.push(("eviction", "Eviction".to_owned(), &["create"]));
        list.push(("binding", "Binding".to_owned(), &["create"]));
    }
    if resource.is("", "serviceaccounts") {
        list.push(("token", "TokenRequest".to_owned(), &["create"]));
    }
    list
}

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Kinds that are only asked, never stored.
pub(crate) const REVIEWS: &[(&str, &str, &str)] = &[
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    ("authentication.k8s.io", "tokenreviews", "TokenReview"),
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
];

/// Groups (but the core one) and their versions.
fn groups(registry: &Registry) -> Vec<(String, Vec<String>)> {
    let mut list: Vec<(String, Vec<String>)> = registry
        .groups()
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| (group.clone(), versions.clone()))
        .collect();
    for (group, _, _) in REVIEWS {
        if !list.iter().any(|(one, _)| one == group) {
            list.push(((*group).to_owned(), vec!["v1".to_owned()]));
        }
    }
    list
}

/// `/api`.
pub(crate) fn core_versions(address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

fn group_entry(group: &str, versions: &[String]) -> Value {
    let entry = |version: &String| json!({"groupVersion": group_version(group, version), "version": version});
    json!({"name": group, "versions": versions.iter().map(entry).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(entry)})
}

/// `/apis`.
pub(crate) fn group_list(registry: &Registry) -> Value {
    let list: Vec<Value> = groups(registry).iter().map(|(group, versions)| group_entry(group, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
}

/// `/apis/GROUP`.
pub(crate) fn group(registry: &Registry, name: &str) -> Option<Value> {
    let (group, versions) = groups(registry).into_iter().find(|(group, _)| group == name)?;
    let mut entry = group_entry(&group, &versions);
    let map = crate::object::fields(&mut entry);
    map.insert("kind".into(), "APIGroup".into());
    map.insert("apiVersion".into(), "v1".into());
    Some(entry)
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub(crate) fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for resource in registry.of(group, version) {
        let mut entry = json!({"name": resource.plural, "singularName": resource.singular,
            "namespaced": resource.namespaced, "kind": resource.kind, "verbs": VERBS});
        let map = crate::object::fields(&mut entry);
        if !resource.short_names.is_empty() {
            map.insert("shortNames".into(), resource.short_names.clone().into());
        }
        if !resource.categories.is_empty() {
            map.insert("categories".into(), resource.categories.clone().into());
        }
        list.push(entry);
        for (name, kind, verbs) in subresources(resource) {
            list.push(json!({"name": format!("{}/{name}", resource.plural), "singularName": "",
                "namespaced": resource.namespaced, "kind": kind, "verbs": verbs}));
        }
    }
    for (_, plural, kind) in REVIEWS.iter().filter(|(one, _, _)| *one == group && version == "v1") {
        list.push(json!({"name": plural, "singularName": kind.to_lowercase(), "namespaced": false, "kind": kind,
            "verbs": ["create"]}));
    }
    if list.is_empty() {
        return None;
    }
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(group, version),
        "resources": list}))
}

/// `/api` and `/apis` in the aggregated form (`apidiscovery.k8s.io/v2`).
pub(crate) fn aggregated(registry: &Registry, core: bool) -> Value {
    let list = if core { vec![(String::new(), vec!["v1".to_owned()])] } else { groups(registry) };
    let items: Vec<Value> = list
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let mut entries: Vec<Value> =
                        registry.of(group, version).into_iter().map(|resource| aggregated_resource(resource)).collect();
                    for (_, plural, kind) in REVIEWS.iter().filter(|(one, _, _)| one == group) {
                        entries.push(json!({"resource": plural, "singularResource": kind.to_lowercase(),
                            "responseKind": {"group": group, "version": version, "kind": kind},
                            "scope": "Cluster", "verbs": ["create"]}));
                    }
                    json!({"version": version, "resources": entries, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = |kind: &str| json!({"group": resource.group, "version": resource.version, "kind": kind});
    let mut entry = json!({"resource": resource.plural, "responseKind": kind(&resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular, "verbs": VERBS});
    let map = crate::object::fields(&mut entry);
    if !resource.short_names.is_empty() {
        map.insert("shortNames".into(), resource.short_names.clone().into());
    }
    if !resource.categories.is_empty() {
        map.insert("categories".into(), resource.categories.clone().into());
    }
    let under: Vec<Value> = subresources(resource)
        .into_iter()
        .map(|(name, of, verbs)| json!({"subresource": name, "responseKind": kind(&of), "verbs": verbs}))
        .collect();
    if !under.is_empty() {
        map.insert("subresources".into(), under.into());
    }
    entry
}

/// `/openapi/v3`.
pub(crate) fn open_api_index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let path = open_api_path(group, version);
            paths.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}")}));
        }
    }
    json!({"paths": paths})
}

fn open_api_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The name of a kind's definition in OpenAPI documents.
fn definition_name(resource: &Resource) -> String {
    let found = definitions().iter().find(|(_, source)| **source == resource.open_api).map(|(name, _)| name.clone());
    found.unwrap_or_else(|| {
        let mut parts: Vec<&str> = resource.group.split('.').collect();
        parts.reverse();
        format!("{}.{}.{}", parts.join("."), resource.version, resource.kind)
    })
}

/// `/openapi/v3/apis/GROUP/VERSION`: schemas, and which parameters a patch takes.
pub(crate) fn open_api(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let resources = registry.of(group, version);
    if resources.is_empty() {
        return None;
    }
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    let mut custom = false;
    for resource in resources {
        custom |= resource.custom;
        let gvk = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
        let name = definition_name(resource);
        let mut source = resource.open_api.clone();
        if resource.custom {
            let map = crate::object::fields(&mut source);
            map.insert("x-kubernetes-group-version-kind".into(), json!([gvk]));
            let properties = crate::object::fields(map.entry("properties").or_insert_with(|| json!({})));
            properties.insert("apiVersion".into(), json!({"type": "string"}));
            properties.insert("kind".into(), json!({"type": "string"}));
            let meta = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
            properties.insert("metadata".into(), json!({"allOf": [{"$ref": meta}]}));
        }
        schemas.insert(name.clone(), source);
        let home = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
        let prefix = open_api_path(group, version);
        let body = json!({"$ref": format!("#/components/schemas/{name}")});
        let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation"]
            .iter()
            .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
            .collect();
        let mut types =
            vec!["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
        if !resource.custom {
            types.push("application/strategic-merge-patch+json");
        }
        let content: Map<String, Value> =
            types.into_iter().map(|kind| (kind.to_owned(), json!({"schema": {"type": "object"}}))).collect();
        let answer = json!({"200": {"description": "OK", "content": {"application/json": {"schema": body}}}});
        let operation = |action: &str| {
            json!({"x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk, "responses": answer,
                "parameters": parameters})
        };
        let mut patch = operation("patch");
        crate::object::fields(&mut patch).insert("requestBody".into(), json!({"content": content, "required": true}));
        let mut post = operation("post");
        let body = json!({"content": {"application/json": {"schema": body}}, "required": true});
        crate::object::fields(&mut post).insert("requestBody".into(), body.clone());
        let mut put = operation("put");
        crate::object::fields(&mut put).insert("requestBody".into(), body);
        paths.insert(format!("/{prefix}/{home}{}", resource.plural), json!({"get": operation("list"), "post": post}));
        paths.insert(
            format!("/{prefix}/{home}{}/{{name}}", resource.plural),
            json!({"get": operation("get"), "put": put, "patch": patch, "delete": operation("delete")}),
        );
    }
    close_over(&mut schemas, custom);
    Some(json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.0"}, "paths": paths,
        "components": {"schemas": schemas}}))
}

/// Adds the definitions that the schemas refer to.
fn close_over(schemas: &mut Map<String, Value>, custom: bool) {
    let mut todo: Vec<String> = schemas.values().flat_map(references).collect();
    if custom {
        todo.push("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta".to_owned());
    }
    while let Some(name) = todo.pop() {
        if schemas.contains_key(&name) {
            continue;
        }
        if let Some(source) = definitions().get(&name) {
            todo.extend(references(source));
            schemas.insert(name, source.clone());
        }
    }
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, inner)| match inner {
                Value::String(path) if key == "$ref" => {
                    path.rsplit('/').next().map(str::to_owned).into_iter().collect()
                }
                inner => references(inner),
            })
            .collect(),
        Value::Array(list) => list.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}
