//! Which kinds are served: the built-in ones and those of CustomResourceDefinitions.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use crate::object::{at, text};
use crate::schema::{Definitions, Schema};

/// Definitions of Kubernetes 1.36's own kinds, without their descriptions.
static DEFINITIONS: LazyLock<Definitions> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../schemas/kubernetes-1.36.json")).unwrap_or_else(|error| {
        unreachable!("the committed schemas are JSON: {error}");
    })
});

/// The definitions of the built-in kinds.
pub(crate) fn definitions() -> &'static Definitions {
    &DEFINITIONS
}

/// The schema of every kind's `metadata`.
static METADATA: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    let reference = serde_json::json!({"$ref": "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"});
    Arc::new(Schema::compile(&reference, definitions()).unwrap_or_else(|why| unreachable!("ObjectMeta: {why}")))
});

/// A column of `kubectl get`.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) description: String,
    pub(crate) priority: i64,
    pub(crate) path: String,
}

/// One kind at one version.
#[derive(Debug)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// Such as `Service`.
    pub kind: String,
    /// Such as `services`.
    pub plural: String,
    pub(crate) list_kind: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether it has the `status` subresource.
    pub(crate) status: bool,
    /// Whether it has the `scale` subresource.
    pub(crate) scale: bool,
    /// Whether `metadata.generation` counts changes of its spec.
    pub(crate) generation: bool,
    /// Whether a CustomResourceDefinition made it.
    pub(crate) custom: bool,
    pub(crate) schema: Arc<Schema>,
    pub(crate) columns: Vec<Column>,
    pub(crate) selectable_fields: Vec<String>,
    /// Where its objects are stored; all versions of a kind share it.
    pub(crate) table: Arc<str>,
    /// The `apiVersion` in which its objects are stored.
    pub(crate) stored_as: String,
    /// The definition or CRD schema, for the OpenAPI documents.
    pub(crate) open_api: Value,
}

impl Resource {
    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        group_version(&self.group, &self.version)
    }

    /// `services` or `ipaddresspools.metallb.io`.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// As errors of selectors name it.
    pub(crate) fn gvr(&self) -> String {
        format!("{}, Resource={}", self.api_version(), self.plural)
    }

    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    pub(crate) fn selectable(&self, field: &str) -> bool {
        field == "metadata.name"
            || (field == "metadata.namespace" && self.namespaced)
            || self.selectable_fields.iter().any(|one| one == field)
    }
}

/// `v1` or `apps/v1`.
pub(crate) fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Group, version, plural.
type Key = (String, String, String);

/// All kinds served now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    resources: BTreeMap<Key, Arc<Resource>>,
    /// Versions by priority for groups that have several.
    preferred: BTreeMap<String, Vec<String>>,
}

/// Definition, plural, short names, categories, namespaced, status, generation, selectable fields.
type Row = (&'static str, &'static str, &'static [&'static str], bool, bool, bool, bool, &'static [&'static str]);

const CORE: &str = "io.k8s.api.core.v1.";
#[rustfmt::skip]
const BUILT_IN: &[Row] = &[
    // definition, plural, short names, in category all, namespaced, status, generation, selectable fields
    ("io.k8s.api.core.v1.ConfigMap", "configmaps", &["cm"], false, true, false, false, &[]),
    ("io.k8s.api.core.v1.Endpoints", "endpoints", &["ep"], false, true, false, false, &[]),
    ("io.k8s.api.core.v1.Event", "events", &["ev"], false, true, false, false,
        &["involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
          "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
          "reportingComponent", "source", "type"]),
    ("io.k8s.api.core.v1.Namespace", "namespaces", &["ns"], false, false, true, false, &["status.phase"]),
    ("io.k8s.api.core.v1.Node", "nodes", &["no"], false, false, true, false, &["spec.unschedulable"]),
    ("io.k8s.api.core.v1.PersistentVolumeClaim", "persistentvolumeclaims", &["pvc"], false, true, true, false, &[]),
    ("io.k8s.api.core.v1.Pod", "pods", &["po"], true, true, true, true,
        &["spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
          "status.phase", "status.podIP", "status.nominatedNodeName"]),
    ("io.k8s.api.core.v1.Secret", "secrets", &[], false, true, false, false, &["type"]),
    ("io.k8s.api.core.v1.Service", "services", &["svc"], true, true, true, false, &["spec.clusterIP", "spec.type"]),
    ("io.k8s.api.core.v1.ServiceAccount", "serviceaccounts", &["sa"], false, true, false, false, &[]),
    ("io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration", "validatingwebhookconfigurations", &[], false, false, false, true, &[]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition", "customresourcedefinitions", &["crd", "crds"], false, false, true, true, &[]),
    ("io.k8s.api.apps.v1.ControllerRevision", "controllerrevisions", &[], false, true, false, false, &[]),
    ("io.k8s.api.apps.v1.DaemonSet", "daemonsets", &["ds"], true, true, true, true, &[]),
    ("io.k8s.api.apps.v1.Deployment", "deployments", &["deploy"], true, true, true, true, &[]),
    ("io.k8s.api.apps.v1.ReplicaSet", "replicasets", &["rs"], true, true, true, true, &[]),
    ("io.k8s.api.apps.v1.StatefulSet", "statefulsets", &["sts"], true, true, true, true, &[]),
    ("io.k8s.api.batch.v1.Job", "jobs", &[], true, true, true, true, &["status.successful"]),
    ("io.k8s.api.coordination.v1.Lease", "leases", &[], false, true, false, false, &[]),
    ("io.k8s.api.discovery.v1.EndpointSlice", "endpointslices", &[], false, true, false, true, &[]),
    ("io.k8s.api.events.v1.Event", "events", &["ev"], false, true, false, false,
        &["reason", "reportingController", "type", "regarding.kind", "regarding.namespace", "regarding.name",
          "regarding.uid", "regarding.apiVersion", "regarding.resourceVersion", "regarding.fieldPath"]),
    ("io.k8s.api.networking.v1.NetworkPolicy", "networkpolicies", &["netpol"], false, true, false, true, &[]),
    ("io.k8s.api.policy.v1.PodDisruptionBudget", "poddisruptionbudgets", &["pdb"], false, true, true, true, &[]),
    ("io.k8s.api.rbac.v1.ClusterRole", "clusterroles", &[], false, false, false, false, &[]),
    ("io.k8s.api.rbac.v1.ClusterRoleBinding", "clusterrolebindings", &[], false, false, false, false, &[]),
    ("io.k8s.api.rbac.v1.Role", "roles", &[], false, true, false, false, &[]),
    ("io.k8s.api.rbac.v1.RoleBinding", "rolebindings", &[], false, true, false, false, &[]),
    ("io.k8s.api.scheduling.v1.PriorityClass", "priorityclasses", &["pc"], false, false, false, true, &[]),
];

static BUILT_INS: LazyLock<Registry> = LazyLock::new(|| {
    let mut registry = Registry::default();
    for row in BUILT_IN {
        let resource = built_in(row).unwrap_or_else(|why| unreachable!("{}: {why}", row.0));
        registry.add(resource);
    }
    registry
});

fn built_in(row: &Row) -> Result<Resource, String> {
    let (definition, plural, short_names, all, namespaced, status, generation, selectable) = *row;
    let source = definitions().get(definition).ok_or("no such definition")?;
    let gvk = at(source, &["x-kubernetes-group-version-kind"]).and_then(|list| list.get(0)).ok_or("no kind")?;
    let (group, version, kind) = (text(gvk, &["group"]), text(gvk, &["version"]), text(gvk, &["kind"]));
    // Events of both groups are the same objects.
    let table = if kind == "Event" { "/events".to_owned() } else { format!("{group}/{plural}") };
    let stored_as = if kind == "Event" { "v1".to_owned() } else { group_version(group, version) };
    debug_assert!(group.contains('.') || !group.is_empty() || definition.starts_with(CORE), "core definitions");
    Ok(Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
        list_kind: format!("{kind}List"),
        singular: kind.to_lowercase(),
        short_names: short_names.iter().map(|name| (*name).to_owned()).collect(),
        categories: if all { vec!["all".to_owned()] } else { Vec::new() },
        namespaced,
        status,
        scale: matches!(plural, "deployments" | "replicasets" | "statefulsets"),
        generation,
        custom: false,
        schema: Arc::new(Schema::compile(source, definitions())?),
        columns: Vec::new(),
        selectable_fields: selectable.iter().map(|name| (*name).to_owned()).collect(),
        table: table.into(),
        stored_as,
        open_api: source.clone(),
    })
}

impl Registry {
    /// The kinds Kubernetes itself has.
    pub(crate) fn built_in() -> Self {
        BUILT_INS.clone()
    }

    fn add(&mut self, resource: Resource) {
        let versions = self.preferred.entry(resource.group.clone()).or_default();
        if !versions.contains(&resource.version) {
            versions.push(resource.version.clone());
            versions.sort_by_key(|version| priority(version));
        }
        let key = (resource.group.clone(), resource.version.clone(), resource.plural.clone());
        self.resources.insert(key, Arc::new(resource));
    }

    pub(crate) fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// The resource whose objects are stored in `table`, as they are stored.
    pub(crate) fn by_table(&self, table: &str) -> Option<&Arc<Resource>> {
        self.resources.values().find(|one| &*one.table == table && one.api_version() == one.stored_as)
    }

    pub(crate) fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.resources.values().find(|one| one.kind == kind && one.api_version() == api_version)
    }

    /// Groups with their versions, the preferred one first.
    pub(crate) fn groups(&self) -> &BTreeMap<String, Vec<String>> {
        &self.preferred
    }

    pub(crate) fn of(&self, group: &str, version: &str) -> Vec<&Arc<Resource>> {
        self.resources.values().filter(|one| one.group == group && one.version == version).collect()
    }

    /// Takes the kinds of a group and plural out.
    pub(crate) fn remove(&mut self, group: &str, plural: &str) {
        self.resources.retain(|(one, _, name), _| one != group || name != plural);
        let resources = &self.resources;
        self.preferred.retain(|group, versions| {
            versions.retain(|version| resources.keys().any(|(one, of, _)| one == group && of == version));
            !versions.is_empty()
        });
    }

    /// Serves what a CustomResourceDefinition says, in place of what its former state said.
    pub(crate) fn define(&mut self, crd: &Value) -> Result<(), String> {
        let resources = custom(crd)?;
        self.remove(text(crd, &["spec", "group"]), text(crd, &["spec", "names", "plural"]));
        for resource in resources {
            self.add(resource);
        }
        Ok(())
    }
}

/// Versions by priority: GA over beta over alpha, higher numbers first.
fn priority(version: &str) -> (u8, i64, i64, String) {
    let Some(rest) = version.strip_prefix('v') else { return (3, 0, 0, version.to_owned()) };
    let digits = |text: &str| text.parse::<i64>().ok();
    let (stage, major, minor) = if let Some((major, minor)) = rest.split_once("beta") {
        (1, digits(major), digits(minor))
    } else if let Some((major, minor)) = rest.split_once("alpha") {
        (2, digits(major), digits(minor))
    } else {
        (0, digits(rest), Some(0))
    };
    match (major, minor) {
        (Some(major), Some(minor)) => (stage, -major, -minor, String::new()),
        _ => (3, 0, 0, version.to_owned()),
    }
}

/// The served versions of a CustomResourceDefinition.
pub(crate) fn custom(crd: &Value) -> Result<Vec<Resource>, String> {
    let spec = crd.get("spec").ok_or("no spec")?;
    let names = spec.get("names").ok_or("no names")?;
    let list = |value: Option<&Value>| -> Vec<String> {
        value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let versions = spec.get("versions").and_then(Value::as_array).ok_or("no versions")?;
    let storage = versions
        .iter()
        .find(|one| one.get("storage").and_then(Value::as_bool) == Some(true))
        .ok_or("no version is stored")?;
    let group = text(spec, &["group"]);
    let kind = text(names, &["kind"]);
    let plural = text(names, &["plural"]);
    let mut resources = Vec::new();
    for version in versions.iter().filter(|one| one.get("served").and_then(Value::as_bool) == Some(true)) {
        let name = text(version, &["name"]);
        let source = at(version, &["schema", "openAPIV3Schema"]).cloned().unwrap_or_default();
        let mut schema =
            Schema::compile(&source, &Definitions::new()).map_err(|why| format!("version {name}: {why}"))?;
        schema.properties.insert("metadata".to_owned(), METADATA.clone());
        let columns = version
            .get("additionalPrinterColumns")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|column| Column {
                name: text(column, &["name"]).to_owned(),
                kind: text(column, &["type"]).to_owned(),
                format: text(column, &["format"]).to_owned(),
                description: text(column, &["description"]).to_owned(),
                priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
                path: text(column, &["jsonPath"]).to_owned(),
            })
            .collect();
        let list_kind = match text(names, &["listKind"]) {
            "" => format!("{kind}List"),
            name => name.to_owned(),
        };
        let singular = match text(names, &["singular"]) {
            "" => kind.to_lowercase(),
            name => name.to_owned(),
        };
        let selectable = version.get("selectableFields").and_then(Value::as_array).into_iter().flatten();
        resources.push(Resource {
            group: group.to_owned(),
            version: name.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            list_kind,
            singular,
            short_names: list(names.get("shortNames")),
            categories: list(names.get("categories")),
            namespaced: text(spec, &["scope"]) == "Namespaced",
            status: at(version, &["subresources", "status"]).is_some(),
            scale: false,
            generation: true,
            custom: true,
            schema: Arc::new(schema),
            columns,
            selectable_fields: selectable
                .map(|one| text(one, &["jsonPath"]).trim_start_matches('.').to_owned())
                .collect(),
            table: format!("{group}/{plural}").into(),
            stored_as: group_version(group, text(storage, &["name"])),
            open_api: source,
        });
    }
    Ok(resources)
}
