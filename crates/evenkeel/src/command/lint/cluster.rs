//! What a cluster's API has, as input.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use evenkeel_lint::{Cluster, Diagnostic};
use evenkeel_sources::diagnostic::Severity;
use evenkeel_sources::kubernetes;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use serde_json::{Value, json};

/// Which cluster, and what of it.
#[derive(clap::Args)]
pub(super) struct Api {
    /// Read a cluster's API instead of files: the one that KUBECONFIG names, or the one this runs in
    #[arg(long, conflicts_with = "roots")]
    cluster: bool,

    /// The cluster that this file names
    #[arg(long, value_name = "FILE", conflicts_with = "roots")]
    kubeconfig: Option<PathBuf>,

    /// The cluster of this context [default: the current one]
    #[arg(long, value_name = "NAME", conflicts_with = "roots")]
    context: Option<String>,

    /// The objects of this namespace [default: that of the context]
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "roots")]
    namespace: Option<String>,

    /// The objects of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["roots", "namespace"])]
    all_namespaces: bool,
}

impl Api {
    /// Whether a cluster is meant at all.
    pub(super) fn given(&self) -> bool {
        let Self { cluster, kubeconfig, context, namespace, all_namespaces } = self;
        *cluster || kubeconfig.is_some() || context.is_some() || namespace.is_some() || *all_namespaces
    }
}

/// What was read, and what there is to say about that.
#[derive(Default)]
pub(super) struct Read {
    pub(super) cluster: Cluster,
    pub(super) unreadable: Vec<Diagnostic>,
    pub(super) notes: Vec<String>,
}

/// A kind of the API.
struct Resource {
    kind: &'static str,
    /// In the order they are tried in.
    versions: &'static [&'static str],
    plural: &'static str,
    namespaced: bool,
    /// Rules are about it; otherwise they only know less without it.
    essential: bool,
}

const fn essential(kind: &'static str, versions: &'static [&'static str], plural: &'static str) -> Resource {
    Resource { kind, versions, plural, namespaced: true, essential: true }
}

const fn helpful(kind: &'static str, versions: &'static [&'static str], plural: &'static str) -> Resource {
    Resource { kind, versions, plural, namespaced: true, essential: false }
}

const RESOURCES: [Resource; 16] = [
    essential("Deployment", &["apps/v1"], "deployments"),
    essential("StatefulSet", &["apps/v1"], "statefulsets"),
    essential("DaemonSet", &["apps/v1"], "daemonsets"),
    essential("Service", &["v1"], "services"),
    essential("PodDisruptionBudget", &["policy/v1"], "poddisruptionbudgets"),
    essential("HorizontalPodAutoscaler", &["autoscaling/v2", "autoscaling/v1"], "horizontalpodautoscalers"),
    essential("Ingress", &["networking.k8s.io/v1"], "ingresses"),
    essential("HTTPRoute", &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"], "httproutes"),
    essential("GRPCRoute", &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha2"], "grpcroutes"),
    essential("TLSRoute", &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha2"], "tlsroutes"),
    essential("TCPRoute", &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha2"], "tcproutes"),
    essential("UDPRoute", &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha2"], "udproutes"),
    helpful("EndpointSlice", &["discovery.k8s.io/v1"], "endpointslices"),
    helpful("PersistentVolumeClaim", &["v1"], "persistentvolumeclaims"),
    helpful("Probe", &["monitoring.coreos.com/v1"], "probes"),
    Resource { kind: "Node", versions: &["v1"], plural: "nodes", namespaced: false, essential: false },
];

/// Read what rules look at.
///
/// # Errors
/// There is no such cluster, or it does not answer.
pub(super) async fn read(args: &Api) -> anyhow::Result<Read> {
    let client = connect(args).await?;
    let namespace = match (&args.namespace, args.all_namespaces) {
        (_, true) => None,
        (Some(namespace), _) => Some(namespace.clone()),
        (None, _) => Some(client.default_namespace().to_owned()),
    };
    let mut read = Read::default();
    let mut absent = Vec::new();
    for resource in &RESOURCES {
        match resource.list(&client, namespace.as_deref()).await {
            Ok(Some(objects)) => read.cluster.objects.extend(objects),
            Ok(None) => absent.push(resource.kind),
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                read.unreadable.push(resource.refused("list", namespace.as_deref(), &status.message));
                read.cluster.unread.insert(resource.kind.to_owned());
            }
            Err(error) => {
                return Err(anyhow::Error::new(error).context(format!("cannot list {}", resource.full_name())));
            }
        }
    }
    scripts(&client, &mut read).await?;
    let place = namespace.map_or_else(|| "all namespaces".to_owned(), |namespace| format!("namespace {namespace}"));
    read.notes.push(format!("read from the cluster: {place}"));
    if !absent.is_empty() {
        read.notes.push(format!("not served by this cluster, so skipped: {}", absent.join(", ")));
    }
    Ok(read)
}

async fn connect(args: &Api) -> anyhow::Result<Client> {
    if args.kubeconfig.is_none() && args.context.is_none() {
        return kubernetes::connect().await.context("no cluster: run in one, or name it by KUBECONFIG or --kubeconfig");
    }
    let file = match &args.kubeconfig {
        Some(path) => Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?,
        None => Kubeconfig::read().context("cannot read the kubeconfig")?,
    };
    let known: Vec<&str> = file.contexts.iter().map(|context| context.name.as_str()).collect();
    if let Some(context) = args.context.as_deref().filter(|context| !known.contains(context)) {
        anyhow::bail!("the kubeconfig has no context `{context}`; it has: {}", known.join(", "));
    }
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let shown = args.kubeconfig.as_deref().unwrap_or(Path::new("the kubeconfig")).display().to_string();
    let config = kube::Config::from_custom_kubeconfig(file, &options).await;
    Ok(kubernetes::client(config.with_context(|| format!("cannot use {shown}"))?)?)
}

impl Resource {
    /// As `kubectl` and its refusals name it, such as `deployments.apps`.
    fn full_name(&self) -> String {
        let group = self.versions.first().and_then(|version| version.split_once('/')).map(|(group, _)| group);
        group.map_or_else(|| self.plural.to_owned(), |group| format!("{}.{group}", self.plural))
    }

    /// All objects; `None` where the API has no such kind.
    async fn list(&self, client: &Client, namespace: Option<&str>) -> Result<Option<Vec<Value>>, kube::Error> {
        for version in self.versions {
            let path = path(version, self.plural, namespace.filter(|_| self.namespaced));
            match kubernetes::list(client, &path).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
                Ok(mut objects) => {
                    // Items of a list leave out what the list says for all of them.
                    for object in objects.iter_mut().filter_map(Value::as_object_mut) {
                        object.insert("apiVersion".to_owned(), json!(version));
                        object.insert("kind".to_owned(), json!(self.kind));
                    }
                    return Ok(Some(objects));
                }
            }
        }
        Ok(None)
    }

    fn refused(&self, verb: &str, namespace: Option<&str>, why: &str) -> Diagnostic {
        let place = match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("in namespace {namespace}"),
            None => "in the whole cluster".to_owned(),
        };
        let what = format!("not allowed to {verb} {} {place}", self.full_name());
        let (severity, then) = if self.essential {
            (Severity::Error, "what rules say about it is missing")
        } else {
            (Severity::Warning, "rules know less")
        };
        let mut message = format!("{what}: {then}");
        if !why.is_empty() {
            message = format!("{message} ({why})");
        }
        let role = if namespace.is_some() && self.namespaced { "a Role" } else { "a ClusterRole" };
        let group = self.versions.first().and_then(|version| version.split_once('/')).map_or("", |(group, _)| group);
        let remedy = format!(
            "bind {role} with apiGroups: [\"{group}\"], resources: [{}], verbs: [{verb}] to the user of this kubeconfig",
            self.plural
        );
        let found = Diagnostic::about_file(Path::new(""), severity, "forbidden", message, remedy);
        Diagnostic { kind: self.kind.to_owned(), ..found }
    }
}

fn path(version: &str, plural: &str, namespace: Option<&str>) -> String {
    let root = if version.contains('/') { "apis" } else { "api" };
    match namespace {
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{plural}"),
        None => format!("/{root}/{version}/{plural}"),
    }
}

/// The ConfigMaps of readiness scripts. Others are nobody's business here, and may be large.
async fn scripts(client: &Client, read: &mut Read) -> anyhow::Result<()> {
    const MAPS: Resource = helpful("ConfigMap", &["v1"], "configmaps");
    let wanted: BTreeSet<(String, String)> = read.cluster.objects.iter().flat_map(mounted).collect();
    for (namespace, name) in wanted {
        let path = path("v1", MAPS.plural, Some(&namespace));
        let request = Request::new(path).get(&name, &kube::core::params::GetParams::default())?;
        match client.request::<Value>(request).await {
            Ok(object) => read.cluster.objects.push(object),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                let refused = MAPS.refused("get", Some(&namespace), &status.message);
                if !read.unreadable.contains(&refused) {
                    read.unreadable.push(refused);
                }
                return Ok(());
            }
            Err(error) => return Err(anyhow::Error::new(error).context("cannot get configmaps")),
        }
    }
    Ok(())
}

/// The ConfigMaps that pods with a readiness command mount, by namespace and name.
fn mounted(object: &Value) -> Vec<(String, String)> {
    let list = |path: &str| object.pointer(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let containers = list("/spec/template/spec/containers");
    if containers.iter().all(|container| container.pointer("/readinessProbe/exec").is_none()) {
        return Vec::new();
    }
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
    let names =
        list("/spec/template/spec/volumes").iter().filter_map(|volume| volume.pointer("/configMap/name")?.as_str());
    names.map(|name| (namespace.to_owned(), name.to_owned())).collect()
}
