//! What the API server does to objects of built-in kinds beyond their schema: defaults, and what it refuses.

use serde_json::{Map, Value, json};

use crate::error::Cause;
use crate::object::{at, child, fields, text};
use crate::registry::Resource;
use crate::service;

/// The defaults an object gets whenever it is written.
pub(crate) fn defaults(resource: &Resource, object: &mut Value) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "services") => service::defaults(object),
        ("", "namespaces") => {
            let name = crate::object::meta(object, "name").to_owned();
            let metadata = child(object, "metadata");
            let labels = fields(metadata.entry("labels").or_insert_with(|| json!({})));
            labels.insert("kubernetes.io/metadata.name".into(), name.into());
            let spec = child(object, "spec");
            spec.entry("finalizers").or_insert_with(|| json!(["kubernetes"]));
            let status = child(object, "status");
            status.entry("phase").or_insert_with(|| "Active".into());
        }
        ("", "pods") => {
            let status = child(object, "status");
            status.entry("phase").or_insert_with(|| "Pending".into());
            pod_spec(child(object, "spec"));
        }
        ("", "secrets") => {
            let map = fields(object);
            map.entry("type").or_insert_with(|| "Opaque".into());
            if let Some(Value::Object(plain)) = map.remove("stringData") {
                use base64::Engine as _;
                let data = fields(map.entry("data").or_insert_with(|| json!({})));
                for (name, value) in plain {
                    let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
                    data.insert(name, encoded.into());
                }
            }
        }
        ("apps", "deployments") => {
            let spec = child(object, "spec");
            set(spec, "replicas", 1);
            set(spec, "revisionHistoryLimit", 10);
            set(spec, "progressDeadlineSeconds", 600);
            rolling(spec, "strategy", &json!({"maxUnavailable": "25%", "maxSurge": "25%"}));
            template(spec);
        }
        ("apps", "daemonsets") => {
            let spec = child(object, "spec");
            set(spec, "revisionHistoryLimit", 10);
            rolling(spec, "updateStrategy", &json!({"maxUnavailable": 1, "maxSurge": 0}));
            template(spec);
            let status = child(object, "status");
            for name in ["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"] {
                set(status, name, 0);
            }
        }
        ("apps", "statefulsets") => {
            let spec = child(object, "spec");
            set(spec, "replicas", 1);
            set(spec, "revisionHistoryLimit", 10);
            set(spec, "podManagementPolicy", "OrderedReady");
            rolling(spec, "updateStrategy", &json!({"partition": 0}));
            template(spec);
            set(child(object, "status"), "replicas", 0);
        }
        ("apps", "replicasets") => {
            let spec = child(object, "spec");
            set(spec, "replicas", 1);
            template(spec);
            set(child(object, "status"), "replicas", 0);
        }
        ("batch", "jobs") => job(object),
        ("discovery.k8s.io", "endpointslices") => {
            if let Some(Value::Array(ports)) = fields(object).get_mut("ports") {
                for port in ports {
                    set(fields(port), "name", "");
                    set(fields(port), "protocol", "TCP");
                }
            }
        }
        ("", "endpoints") => {
            for subset in array(object, "subsets") {
                for port in array(subset, "ports") {
                    set(fields(port), "protocol", "TCP");
                }
            }
        }
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations") => {
            for webhook in array(object, "webhooks") {
                let map = fields(webhook);
                set(map, "failurePolicy", "Fail");
                set(map, "matchPolicy", "Equivalent");
                set(map, "namespaceSelector", json!({}));
                set(map, "objectSelector", json!({}));
                set(map, "timeoutSeconds", 10);
                if let Some(Value::Object(service)) = child(webhook, "clientConfig").get_mut("service") {
                    set(service, "port", 443);
                }
                for rule in array(webhook, "rules") {
                    set(fields(rule), "scope", "*");
                }
            }
        }
        ("scheduling.k8s.io", "priorityclasses") => set(fields(object), "preemptionPolicy", "PreemptLowerPriority"),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            set(child(object, "roleRef"), "apiGroup", "rbac.authorization.k8s.io");
            for subject in array(object, "subjects") {
                if matches!(text(subject, &["kind"]), "User" | "Group") {
                    set(fields(subject), "apiGroup", "rbac.authorization.k8s.io");
                }
            }
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => definition(object),
        _ => {}
    }
}

fn set(map: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    if map.get(name).is_none_or(Value::is_null) {
        map.insert(name.to_owned(), value.into());
    }
}

fn array<'a>(value: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

fn rolling(spec: &mut Map<String, Value>, name: &str, defaults: &Value) {
    let strategy = fields(spec.entry(name).or_insert_with(|| json!({})));
    set(strategy, "type", "RollingUpdate");
    if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
        let rolling = fields(strategy.entry("rollingUpdate").or_insert_with(|| json!({})));
        for (name, value) in defaults.as_object().into_iter().flatten() {
            set(rolling, name, value.clone());
        }
    }
}

fn template(spec: &mut Map<String, Value>) {
    let template = spec.entry("template").or_insert_with(|| json!({}));
    child(template, "metadata");
    pod_spec(child(template, "spec"));
}

fn pod_spec(spec: &mut Map<String, Value>) {
    set(spec, "restartPolicy", "Always");
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "schedulerName", "default-scheduler");
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "securityContext", json!({}));
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        set(spec, "serviceAccount", account);
    }
    let host = spec.get("hostNetwork").and_then(Value::as_bool) == Some(true);
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let map = fields(container);
            set(map, "resources", json!({}));
            set(map, "terminationMessagePath", "/dev/termination-log");
            set(map, "terminationMessagePolicy", "File");
            let image = map.get("image").and_then(Value::as_str).unwrap_or_default();
            let tag = image.rsplit('/').next().unwrap_or_default();
            let latest = !image.contains('@') && (!tag.contains(':') || tag.ends_with(":latest"));
            set(map, "imagePullPolicy", if latest { "Always" } else { "IfNotPresent" });
            for port in map.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                let port = fields(port);
                set(port, "protocol", "TCP");
                if host && let Some(number) = port.get("containerPort").cloned() {
                    set(port, "hostPort", number);
                }
            }
            for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
                if let Some(Value::Object(probe)) = map.get_mut(name) {
                    set(probe, "timeoutSeconds", 1);
                    set(probe, "periodSeconds", 10);
                    set(probe, "successThreshold", 1);
                    set(probe, "failureThreshold", 3);
                    if let Some(Value::Object(get)) = probe.get_mut("httpGet") {
                        set(get, "path", "/");
                        set(get, "scheme", "HTTP");
                    }
                }
            }
            for env in map.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(Value::Object(source)) = env.get_mut("valueFrom")
                    && let Some(Value::Object(field)) = source.get_mut("fieldRef")
                {
                    set(field, "apiVersion", "v1");
                }
            }
        }
    }
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        for kind in ["secret", "configMap", "projected", "downwardAPI"] {
            if let Some(Value::Object(source)) = volume.get_mut(kind) {
                set(source, "defaultMode", 420);
            }
        }
        if let Some(Value::Object(source)) = volume.get_mut("hostPath") {
            set(source, "type", "");
        }
    }
}

fn job(object: &mut Value) {
    let uid = crate::object::meta(object, "uid").to_owned();
    let name = crate::object::meta(object, "name").to_owned();
    let spec = child(object, "spec");
    set(spec, "backoffLimit", 6);
    set(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", false);
    set(spec, "podReplacementPolicy", "TerminatingOrFailed");
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        set(spec, "completions", 1);
    }
    set(spec, "parallelism", 1);
    if !uid.is_empty() && spec.get("manualSelector").and_then(Value::as_bool) != Some(true) {
        set(spec, "selector", json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
        set(spec, "manualSelector", false);
        let template = spec.entry("template").or_insert_with(|| json!({}));
        let labels = fields(child(template, "metadata").entry("labels").or_insert_with(|| json!({})));
        for (label, value) in [
            ("batch.kubernetes.io/controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", &uid),
            ("job-name", &name),
        ] {
            set(labels, label, value.clone());
        }
    }
    let template = spec.entry("template").or_insert_with(|| json!({}));
    pod_spec(child(template, "spec"));
}

/// A CustomResourceDefinition: its defaults, and that its names are accepted.
fn definition(object: &mut Value) {
    let created = match crate::object::meta(object, "creationTimestamp") {
        "" => crate::object::now(),
        created => created.to_owned(),
    };
    let spec = child(object, "spec");
    set(spec, "conversion", json!({"strategy": "None"}));
    let stored: Vec<Value> = spec
        .get("versions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|version| version.get("storage").and_then(Value::as_bool) == Some(true))
        .filter_map(|version| version.get("name").cloned())
        .collect();
    let names = fields(spec.entry("names").or_insert_with(|| json!({})));
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    set(names, "singular", kind.to_lowercase());
    set(names, "listKind", format!("{kind}List"));
    let accepted = Value::Object(names.clone());
    let status = child(object, "status");
    status.insert("acceptedNames".into(), accepted);
    let versions = status.entry("storedVersions").or_insert_with(|| json!([]));
    if let Value::Array(versions) = versions {
        for version in stored {
            if !versions.contains(&version) {
                versions.push(version);
            }
        }
    }
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": created});
    set(
        status,
        "conditions",
        json!([
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ]),
    );
}

/// What is wrong with an object, beyond its schema. `old` is it before an update.
pub(crate) fn validate(resource: &Resource, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "services") => service::validate(object, old, causes),
        ("", "configmaps" | "secrets") => {
            let immutable = old.is_some_and(|old| old.get("immutable") == Some(&Value::Bool(true)));
            if immutable && old.and_then(|old| old.get("data")) != object.get("data") {
                causes.push(Cause::forbidden("data", "field is immutable when `immutable` is set"));
            }
            if let Some(old) = old.filter(|_| resource.plural == "secrets")
                && old.get("type") != object.get("type")
            {
                let value = object.get("type").cloned().unwrap_or_default();
                causes.push(Cause::invalid("type", &value, "field is immutable"));
            }
        }
        ("apps", _) => {
            let selector = at(object, &["spec", "selector"]);
            let labels = at(object, &["spec", "template", "metadata", "labels"]);
            if resource.plural == "controllerrevisions" {
                return;
            }
            match selector {
                None => causes.push(Cause::required("spec.selector", "")),
                Some(selector) if !crate::select::selects(Some(selector), labels) => {
                    let value = labels.cloned().unwrap_or_default();
                    causes.push(Cause::invalid(
                        "spec.template.metadata.labels",
                        &value,
                        "`selector` does not match template `labels`",
                    ));
                }
                Some(_) => {}
            }
            if let Some(before) = old.and_then(|old| at(old, &["spec", "selector"]))
                && selector != Some(before)
            {
                let value = selector.cloned().unwrap_or_default();
                causes.push(Cause::invalid("spec.selector", &value, "field is immutable"));
            }
            containers(object, &["spec", "template", "spec"], causes);
        }
        ("batch", "jobs") => {
            containers(object, &["spec", "template", "spec"], causes);
            let policy = text(object, &["spec", "template", "spec", "restartPolicy"]);
            if !matches!(policy, "OnFailure" | "Never") {
                let supported = ["OnFailure", "Never"].map(str::to_owned);
                causes.push(Cause::unsupported("spec.template.spec.restartPolicy", &policy.into(), &supported));
            }
            if let Some(before) = old.and_then(|old| at(old, &["spec", "template"]))
                && at(object, &["spec", "template"]) != Some(before)
                && at(object, &["spec", "suspend"]) != Some(&Value::Bool(true))
            {
                let value = at(object, &["spec", "template"]).cloned().unwrap_or_default();
                causes.push(Cause::invalid("spec.template", &value, "field is immutable"));
            }
        }
        ("", "pods") => containers(object, &["spec"], causes),
        ("discovery.k8s.io", "endpointslices") => endpoint_slice(object, old, causes),
        ("coordination.k8s.io", "leases") => {
            for name in ["leaseDurationSeconds", "leaseTransitions"] {
                let least = i64::from(name == "leaseDurationSeconds");
                if let Some(value) = at(object, &["spec", name])
                    && value.as_i64().is_some_and(|number| number < least)
                {
                    let why = if least == 1 { "must be greater than 0" } else { "must be greater than or equal to 0" };
                    causes.push(Cause::invalid(format!("spec.{name}"), value, why));
                }
            }
        }
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            if let Some(before) = old.and_then(|old| old.get("roleRef"))
                && object.get("roleRef") != Some(before)
            {
                let value = object.get("roleRef").cloned().unwrap_or_default();
                causes.push(Cause::invalid("roleRef", &value, "cannot change roleRef"));
            }
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            let spec = |name: &[&str]| text(object, name).to_owned();
            let want = format!("{}.{}", spec(&["spec", "names", "plural"]), spec(&["spec", "group"]));
            let name = crate::object::meta(object, "name");
            if name != want {
                causes.push(Cause::invalid(
                    "metadata.name",
                    &name.into(),
                    "must be spec.names.plural+\".\"+spec.group",
                ));
            }
            conversion(object, causes);
        }
        _ => {}
    }
}

/// Between a definition's versions either nothing converts, or a webhook that is named.
fn conversion(object: &Value, causes: &mut Vec<Cause>) {
    let strategy = text(object, &["spec", "conversion", "strategy"]);
    let webhook = at(object, &["spec", "conversion", "webhook"]);
    let part = |name: &str| webhook.and_then(|webhook| webhook.get(name)).is_some();
    if !matches!(strategy, "None" | "Webhook") {
        let supported = ["None", "Webhook"].map(str::to_owned);
        causes.push(Cause::unsupported("spec.conversion.strategy", &strategy.into(), &supported));
    }
    // The server names the fields as it has them within.
    for (name, field) in
        [("clientConfig", "webhookClientConfig"), ("conversionReviewVersions", "conversionReviewVersions")]
    {
        let field = format!("spec.conversion.{field}");
        if strategy == "None" && part(name) {
            causes.push(Cause::forbidden(field, "should not be set when strategy is not set to Webhook"));
        } else if strategy == "Webhook" && !part(name) {
            causes.push(Cause::required(field, "required when strategy is set to Webhook"));
        }
    }
}

fn containers(object: &Value, path: &[&str], causes: &mut Vec<Cause>) {
    let field = path.join(".");
    let Some(list) = at(object, path).and_then(|spec| spec.get("containers")).and_then(Value::as_array) else {
        causes.push(Cause::required(format!("{field}.containers"), ""));
        return;
    };
    if list.is_empty() {
        causes.push(Cause::required(format!("{field}.containers"), ""));
    }
    for (index, container) in list.iter().enumerate() {
        for name in ["name", "image"] {
            if text(container, &[name]).is_empty() {
                causes.push(Cause::required(format!("{field}.containers[{index}].{name}"), ""));
            }
        }
    }
}

fn endpoint_slice(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let kind = text(object, &["addressType"]);
    if !matches!(kind, "IPv4" | "IPv6" | "FQDN") {
        let supported = ["FQDN", "IPv4", "IPv6"].map(str::to_owned);
        if kind.is_empty() {
            causes.push(Cause::required("addressType", ""));
        } else {
            causes.push(Cause::unsupported("addressType", &kind.into(), &supported));
        }
    }
    if let Some(old) = old
        && text(old, &["addressType"]) != kind
    {
        causes.push(Cause::invalid("addressType", &kind.into(), "field is immutable"));
    }
    let endpoints = object.get("endpoints").and_then(Value::as_array);
    for (index, endpoint) in endpoints.into_iter().flatten().enumerate() {
        let addresses = endpoint.get("addresses").and_then(Value::as_array).cloned().unwrap_or_default();
        if addresses.is_empty() {
            causes.push(Cause::required(format!("endpoints[{index}].addresses"), "must contain at least 1 address"));
        }
        for (place, address) in addresses.iter().enumerate() {
            let shown = address.as_str().unwrap_or_default();
            let valid = match kind {
                "IPv4" => shown.parse::<std::net::Ipv4Addr>().is_ok(),
                "IPv6" => shown.parse::<std::net::Ipv6Addr>().is_ok(),
                _ => true,
            };
            if !valid {
                let field = format!("endpoints[{index}].addresses[{place}]");
                causes.push(Cause::invalid(field, address, format!("must be a valid {kind} address")));
            }
        }
    }
}

/// What is wrong with an object's status, beyond its schema.
pub(crate) fn validate_status(resource: &Resource, object: &Value, causes: &mut Vec<Cause>) {
    if resource.is("", "services") {
        service::validate_status(object, causes);
    }
}
