//! All objects joined into one picture: which Service reaches which workload, and what else speaks of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use evenkeel_manifest::yaml::{Node, Value};
use evenkeel_plan::selector::{LabelSelector, Labels};

use crate::source::Source;
use crate::view::View;

/// An object of a kind that rules know.
#[derive(Clone, Debug)]
pub(crate) struct Object<'n> {
    /// Which document it stands in.
    pub(crate) document: usize,
    pub(crate) kind: &'n str,
    pub(crate) namespace: &'n str,
    pub(crate) name: &'n str,
    pub(crate) view: View<'n>,
}

impl<'n> Object<'n> {
    pub(crate) fn at(&self, keys: &str) -> View<'n> {
        self.view.at(keys)
    }

    pub(crate) fn annotation(&self, key: &str) -> View<'n> {
        self.at("metadata.annotations").key(key)
    }

    /// `namespace/name`, as findings show it.
    pub(crate) fn full_name(&self) -> String {
        if self.namespace.is_empty() { self.name.to_owned() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

/// What runs pods for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Deployment,
    StatefulSet,
    DaemonSet,
}

#[derive(Debug)]
pub(crate) struct Workload<'n> {
    pub(crate) object: Object<'n>,
    pub(crate) kind: Kind,
    /// `spec.template.spec`.
    pub(crate) pod: View<'n>,
    pub(crate) labels: Labels,
    pub(crate) containers: Vec<Container<'n>>,
    /// Which Services reach it for clients, by index.
    pub(crate) services: Vec<usize>,
    pub(crate) budgets: Vec<usize>,
    pub(crate) autoscaler: Option<usize>,
    /// Clients depend on it.
    pub(crate) serves: bool,
    /// Its number of replicas is somebody's wish.
    pub(crate) replicas_wished: bool,
}

#[derive(Debug)]
pub(crate) struct Container<'n> {
    pub(crate) view: View<'n>,
    pub(crate) name: &'n str,
    /// Some Service's port leads here, or nobody says where and this is the first.
    pub(crate) serves: bool,
    /// An init container that stays: it ends after all others.
    pub(crate) sidecar: bool,
}

#[derive(Debug)]
pub(crate) struct Service<'n> {
    pub(crate) object: Object<'n>,
    pub(crate) selector: Labels,
    pub(crate) ports: Vec<Port<'n>>,
    pub(crate) headless: bool,
    /// For collectors of metrics alone.
    pub(crate) metrics_only: bool,
    pub(crate) workloads: Vec<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct Port<'n> {
    pub(crate) view: View<'n>,
    pub(crate) port: i64,
    /// A number or a name.
    pub(crate) target: String,
    pub(crate) udp: bool,
}

impl Service<'_> {
    pub(crate) fn is_load_balancer(&self) -> bool {
        self.object.at("spec.type").text() == Some("LoadBalancer")
    }

    pub(crate) fn is_local(&self) -> bool {
        self.object.at("spec.externalTrafficPolicy").text() == Some("Local")
    }
}

/// A PodDisruptionBudget.
#[derive(Debug)]
pub(crate) struct Budget<'n> {
    pub(crate) object: Object<'n>,
    pub(crate) workloads: Vec<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Picture<'n> {
    pub(crate) workloads: Vec<Workload<'n>>,
    pub(crate) services: Vec<Service<'n>>,
    pub(crate) budgets: Vec<Budget<'n>>,
    pub(crate) autoscalers: Vec<Object<'n>>,
    /// Ingresses and Gateway routes.
    pub(crate) routes: Vec<Object<'n>>,
    pub(crate) endpoints: Vec<Object<'n>>,
    pub(crate) claims: Vec<Object<'n>>,
    pub(crate) config_maps: Vec<Object<'n>>,
    /// Prometheus' `Probe`s.
    pub(crate) probes: Vec<Object<'n>>,
    pub(crate) nodes: usize,
    /// Why others were left alone, and how many of each.
    pub(crate) skipped: BTreeMap<String, usize>,
    /// Everything with metadata, for suppressions.
    pub(crate) all: Vec<Object<'n>>,
    /// Kinds that could not be read.
    unread: BTreeSet<String>,
    /// There is nothing else than what is here.
    complete: bool,
}

/// Where objects without a namespace live.
const DEFAULT_NAMESPACE: &str = "default";

impl<'n> Picture<'n> {
    pub(crate) fn of(source: &'n Source<'_>) -> Self {
        let mut picture = Self { unread: source.unread.clone(), complete: source.complete, ..Self::default() };
        for (n, document) in source.documents.iter().enumerate() {
            picture.take(n, &document.root, View::root(&document.root));
        }
        for workload in &mut picture.workloads {
            let document = source.documents.get(workload.object.document);
            workload.replicas_wished = document.is_some_and(|document| document.replicas_wished);
        }
        picture.join();
        picture
    }

    fn take(&mut self, document: usize, root: &'n Node, view: View<'n>) {
        let Some(kind) = view.key("kind").text() else {
            if matches!(root.value, Value::Mapping(_)) {
                *self.skipped.entry("a document without `kind`: no manifest".to_owned()).or_default() += 1;
            }
            return;
        };
        if kind.ends_with("List") && view.key("items").exists() {
            for item in view.key("items").list() {
                self.take(document, root, item);
            }
            return;
        }
        let metadata = view.key("metadata");
        let object = Object {
            document,
            kind,
            namespace: metadata.key("namespace").text().unwrap_or(DEFAULT_NAMESPACE),
            name: metadata.key("name").text().unwrap_or_default(),
            view,
        };
        let api = object.view.key("apiVersion").text().unwrap_or_default();
        let group = api.split_once('/').map_or("", |(group, _)| group);
        match (group, kind) {
            ("apps", "Deployment") => self.take_workload(&object, Kind::Deployment),
            ("apps", "StatefulSet") => self.take_workload(&object, Kind::StatefulSet),
            ("apps", "DaemonSet") => self.take_workload(&object, Kind::DaemonSet),
            ("", "Service") => self.services.push(service(object.clone())),
            ("policy", "PodDisruptionBudget") => {
                self.budgets.push(Budget { object: object.clone(), workloads: Vec::new() });
            }
            ("autoscaling", "HorizontalPodAutoscaler") | ("keda.sh", "ScaledObject") => {
                self.autoscalers.push(object.clone());
            }
            ("networking.k8s.io", "Ingress")
            | ("gateway.networking.k8s.io", "HTTPRoute" | "GRPCRoute" | "TCPRoute" | "UDPRoute" | "TLSRoute") => {
                self.routes.push(object.clone());
            }
            ("", "Endpoints") | ("discovery.k8s.io", "EndpointSlice") => self.endpoints.push(object.clone()),
            ("", "PersistentVolumeClaim") => self.claims.push(object.clone()),
            ("", "ConfigMap") => self.config_maps.push(object.clone()),
            ("monitoring.coreos.com", "Probe") => self.probes.push(object.clone()),
            ("", "Node") => self.nodes += usize::from(takes_pods(&object)),
            ("", "Pod") => self.skip("Pod: nothing replaces it, so nothing about it rolls; use a Deployment"),
            ("apps", "ReplicaSet") => self.skip("ReplicaSet: its Deployment decides about rollouts"),
            ("batch", _) => self.skip("Job or CronJob: it ends by itself and serves nobody"),
            _ => self.skip("a kind no rule speaks of"),
        }
        self.all.push(object);
    }

    fn skip(&mut self, why: &str) {
        *self.skipped.entry(why.to_owned()).or_default() += 1;
    }

    fn take_workload(&mut self, object: &Object<'n>, kind: Kind) {
        let pod = object.at("spec.template.spec");
        let container = |sidecar| {
            move |view: View<'n>| {
                let name = view.key("name").text().unwrap_or_default();
                Container { view, name, serves: false, sidecar }
            }
        };
        let stays = |view: &View<'n>| view.key("restartPolicy").text() == Some("Always");
        let sidecars = pod.key("initContainers").list().into_iter().filter(stays);
        let containers = pod.key("containers").list().into_iter().map(container(false));
        let containers = containers.chain(sidecars.map(container(true))).collect();
        let labels = object.at("spec.template.metadata.labels").labels();
        self.workloads.push(Workload {
            object: object.clone(),
            kind,
            pod,
            labels,
            containers,
            services: Vec::new(),
            budgets: Vec::new(),
            autoscaler: None,
            serves: false,
            replicas_wished: true,
        });
    }

    fn join(&mut self) {
        let mut by_namespace: HashMap<&str, Vec<usize>> = HashMap::new();
        for (n, workload) in self.workloads.iter().enumerate() {
            by_namespace.entry(workload.object.namespace).or_default().push(n);
        }
        let in_namespace = |namespace: &str| by_namespace.get(namespace).cloned().unwrap_or_default();
        for (s, service) in self.services.iter_mut().enumerate() {
            if service.selector.is_empty() {
                continue;
            }
            let selector = LabelSelector { match_labels: service.selector.clone(), ..LabelSelector::default() };
            for w in in_namespace(service.object.namespace) {
                let Some(workload) = self.workloads.get_mut(w) else { continue };
                if selector.matches(&workload.labels) {
                    service.workloads.push(w);
                    if !service.metrics_only {
                        workload.services.push(s);
                        workload.reached_by(&service.ports);
                    }
                }
            }
        }
        for (b, budget) in self.budgets.iter_mut().enumerate() {
            // Without a selector it means no pod; with an empty one all.
            if !budget.object.at("spec.selector").exists() {
                continue;
            }
            let selector = budget.object.at("spec.selector").selector();
            for w in in_namespace(budget.object.namespace) {
                let Some(workload) = self.workloads.get_mut(w) else { continue };
                if selector.matches(&workload.labels) {
                    budget.workloads.push(w);
                    workload.budgets.push(b);
                }
            }
        }
        for (a, autoscaler) in self.autoscalers.iter().enumerate() {
            let target = autoscaler.at("spec.scaleTargetRef");
            for w in in_namespace(autoscaler.namespace) {
                let Some(workload) = self.workloads.get_mut(w) else { continue };
                // KEDA means a Deployment if nothing is said.
                let kind = target.key("kind").text().unwrap_or("Deployment");
                let same = target.key("name").text() == Some(workload.object.name) && kind == workload.object.kind;
                if same {
                    workload.autoscaler = Some(a);
                }
            }
        }
        let reached: Vec<usize> = self.services.iter().flat_map(|service| service.workloads.clone()).collect();
        for (w, workload) in self.workloads.iter_mut().enumerate() {
            // Without any Service beside it, a workload that names ports is taken for one of which only this part is here.
            let alone =
                !self.complete && !reached.contains(&w) && workload.kind != Kind::DaemonSet && workload.offers_ports();
            workload.serves = !workload.services.is_empty() || alone;
            if workload.serves
                && !workload.containers.iter().any(|container| container.serves)
                && let Some(first) = workload.containers.first_mut()
            {
                first.serves = true;
            }
        }
    }

    /// Whether an object of this kind would be here if there were one, as far as can be known.
    pub(crate) fn knows(&self, kind: &str) -> bool {
        !self.unread.contains(kind)
    }

    pub(crate) fn serving(&self) -> impl Iterator<Item = &Workload<'n>> {
        self.workloads.iter().filter(|workload| workload.serves)
    }

    pub(crate) fn services_of<'a>(&'a self, workload: &'a Workload<'n>) -> impl Iterator<Item = &'a Service<'n>> {
        workload.services.iter().filter_map(|s| self.services.get(*s))
    }

    pub(crate) fn workloads_of<'a>(&'a self, service: &'a Service<'n>) -> impl Iterator<Item = &'a Workload<'n>> {
        service.workloads.iter().filter_map(|w| self.workloads.get(*w))
    }

    /// How many pods there are to be at the least, and the place that says so.
    pub(crate) fn replicas(&self, workload: &Workload<'n>) -> (i64, View<'n>) {
        let own = workload.object.at("spec.replicas");
        match workload.autoscaler.and_then(|a| self.autoscalers.get(a)) {
            Some(autoscaler) => {
                let Bounds { least, default, .. } = bounds(autoscaler);
                (least.int().unwrap_or(default), least)
            }
            None => (own.int().unwrap_or(1), own),
        }
    }
}

impl<'n> Workload<'n> {
    fn offers_ports(&self) -> bool {
        let ports = self.containers.iter().flat_map(|container| container.view.key("ports").list());
        ports.into_iter().any(|port| {
            let name = port.key("name").text().unwrap_or_default();
            !is_side_channel(name)
        })
    }

    fn reached_by(&mut self, ports: &[Port<'n>]) {
        for port in ports {
            for container in &mut self.containers {
                let same = |own: &View<'n>| {
                    own.key("name").text() == Some(&port.target)
                        || own.key("containerPort").text() == Some(&port.target)
                };
                container.serves |= container.view.key("ports").list().iter().any(same);
            }
        }
    }

    /// The name of a container's port as its number.
    pub(crate) fn port_number(&self, target: &str) -> Option<i64> {
        target.parse().ok().or_else(|| {
            let ports = self.containers.iter().flat_map(|container| container.view.key("ports").list());
            ports.into_iter().find(|port| port.key("name").text() == Some(target))?.key("containerPort").int()
        })
    }

    pub(crate) fn serving_containers(&self) -> impl Iterator<Item = &Container<'n>> {
        self.containers.iter().filter(|container| container.serves)
    }
}

/// Between which numbers an autoscaler decides.
pub(crate) struct Bounds<'n> {
    pub(crate) least: View<'n>,
    /// What holds where `least` is not given.
    default: i64,
    pub(crate) most: View<'n>,
}

pub(crate) fn bounds<'n>(autoscaler: &Object<'n>) -> Bounds<'n> {
    let (least, most, default) = match autoscaler.kind {
        "ScaledObject" => ("spec.minReplicaCount", "spec.maxReplicaCount", 0),
        _ => ("spec.minReplicas", "spec.maxReplicas", 1),
    };
    Bounds { least: autoscaler.at(least), default, most: autoscaler.at(most) }
}

/// Whether a node is there for anybody's pods: those of a control plane most often are not.
fn takes_pods(node: &Object<'_>) -> bool {
    node.at("spec.taints").list().iter().all(|taint| {
        let role = taint.key("key").text().is_some_and(|key| key.starts_with("node-role.kubernetes.io/"));
        !role || taint.key("effect").text() == Some("PreferNoSchedule")
    })
}

/// Whether a port of this name is for operators, not for clients.
fn is_side_channel(name: &str) -> bool {
    ["metrics", "prom", "health", "healthz", "monitoring", "webhook", "pprof"].iter().any(|word| name.contains(word))
}

fn service(object: Object<'_>) -> Service<'_> {
    let spec = object.at("spec");
    let port = |view: View<'_>| {
        let port = view.key("port").int().unwrap_or_default();
        let target = view.key("targetPort").text().map_or_else(|| port.to_string(), str::to_owned);
        let udp = view.key("protocol").text() == Some("UDP");
        (view.path, port, target, udp)
    };
    let ports: Vec<Port<'_>> = spec
        .key("ports")
        .list()
        .into_iter()
        .map(|view| {
            let (_, number, target, udp) = port(view.clone());
            Port { view, port: number, target, udp }
        })
        .collect();
    // A name in DNS, and nothing of this cluster behind it.
    let external = spec.key("type").text() == Some("ExternalName");
    let side = |port: &Port<'_>| port.view.key("name").text().is_some_and(|name| name.contains("metrics"));
    let metrics_only = !ports.is_empty() && ports.iter().all(side)
        || object.annotation("prometheus.io/scrape").text() == Some("true")
            && ports.len() == 1
            && object.name.contains("metrics");
    Service {
        selector: if external { Labels::default() } else { spec.key("selector").labels() },
        headless: spec.key("clusterIP").text() == Some("None"),
        metrics_only,
        ports,
        workloads: Vec::new(),
        object,
    }
}
