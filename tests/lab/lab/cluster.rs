//! A cluster in namespaces: nodes with agents, a pod on each behind a bridge as its CNI, and an API server that they reach over
//! a network of its own.
//!
//! ```text
//!            client 10.77.0.10        api 10.78.0.1
//!                 |                        |
//!            [ switch ]              [ management ]
//!           /     |     \             /     |     \
//!        up0     up0     up0        mg0    mg0    mg0
//!      node-0  node-1  node-2  ...  10.77.0.20, 10.78.0.20 and so on
//!        |        |       |
//!      pod 10.80.0.10 ...
//! ```

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use evenkeel_lab::{Child, Lab, Load, Namespace, Sandbox};
use evenkeel_neighbor::{ArpFrame, Mac, Operation};
use evenkeel_probe::{Close, Config, Lane, LaneKind};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    api::Api,
    client::{self, ARP},
    world::{self, Ended, SOON, STOP, eventually},
};

/// The namespace the program lives in.
pub(crate) const SYSTEM: &str = "metallb-system";
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);
/// The port of a service that speaks HTTP, and the one its servers listen on.
pub(crate) const PORT: u16 = 80;
pub(crate) const TARGET_PORT: u16 = 8080;
/// Ports that echo.
pub(crate) const ECHO: u16 = 9000;
pub(crate) const DATAGRAMS: u16 = 5300;

/// Requests per second of each lane of a load, and for how long at most: a load ends when its test has seen enough.
const RATE: NonZeroU32 = NonZeroU32::new(60).unwrap();
const LOAD_LIMIT: Duration = Duration::from_secs(300);
/// How long all agents together may take to start: the kernel verifies their programs one after another.
const START: Duration = Duration::from_secs(120);

/// A node.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) namespace: Namespace,
    pub(crate) mac: Mac,
    pub(crate) agent: Option<Child>,
    pub(crate) admin: String,
    pub(crate) number: u8,
    pub(crate) pod: Namespace,
    _server: Child,
}

impl Node {
    /// Its own addresses: IPv4, IPv6.
    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        node_addresses(self.number)
    }

    /// Those of its pod.
    pub(crate) fn pod_addresses(&self) -> [IpAddr; 2] {
        pod_addresses(self.number)
    }
}

fn node_addresses(number: u8) -> [IpAddr; 2] {
    // The same digits in both.
    let last = 0x20 + u16::from(number);
    [[10, 77, 0, 20 + number].into(), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last).into()]
}

fn pod_addresses(number: u8) -> [IpAddr; 2] {
    [[10, 80, number, 10].into(), Ipv6Addr::new(0xfd80, 0, 0, number.into(), 0, 0, 0, 0x10).into()]
}

/// The cluster.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) client: Namespace,
    pub(crate) api: Api,
    api_namespace: Namespace,
    /// Further arguments of the agents.
    pub(crate) arguments: Vec<String>,
    /// The command line of agents and what their kubeconfig is, where that is not the default.
    pub(crate) rendered: Option<Rendered>,
    _lab: Lab,
    pub(crate) directory: TempDir,
}

/// What a manifest has a container run, in place of the tests' own command line.
#[derive(Clone)]
pub(crate) struct Rendered {
    /// Its arguments, with the environment's variables still in them.
    pub(crate) arguments: Vec<String>,
    /// The capabilities it has, as a container runtime gives them.
    pub(crate) capabilities: Vec<String>,
    pub(crate) kubeconfig: PathBuf,
}

impl Rendered {
    /// The command of a pod of this name on this node.
    pub(crate) fn command(&self, node: &str, pod: &str) -> anyhow::Result<Command> {
        let mut command = Command::new("setpriv");
        let bounding = self.capabilities.iter().map(|capability| format!(",+{}", capability.to_lowercase()));
        command.arg(format!("--bounding-set=-all{}", bounding.collect::<String>()));
        command.args(["--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"]).arg(world::program()?);
        for argument in &self.arguments {
            let with = [("$(NODE_NAME)", node), ("$(POD_NAME)", pod), ("$(NAMESPACE)", SYSTEM)];
            command.arg(with.iter().fold(argument.clone(), |text, (name, value)| text.replace(name, value)));
        }
        command.env("KUBECONFIG", &self.kubeconfig);
        Ok(command)
    }
}

impl Cluster {
    /// Builds everything; agents do not run yet.
    pub(crate) fn build(sandbox: &Sandbox, nodes: u8) -> anyhow::Result<Self> {
        let cluster = Self::wire(sandbox, nodes, evenkeel_fake_api::Options::default())?;
        cluster.configure()?;
        Ok(cluster)
    }

    /// Builds namespaces, and an API that is empty.
    pub(crate) fn wire(sandbox: &Sandbox, nodes: u8, options: evenkeel_fake_api::Options) -> anyhow::Result<Self> {
        let directory = TempDir::new_in(sandbox.scratch())?;
        let mut lab = Lab::new(sandbox);
        let (switch, management) = (lab.namespace("switch")?, lab.namespace("management")?);
        let (client, api_namespace) = (lab.namespace("client")?, lab.namespace("api")?);
        switch.bridge("br0", &[])?;
        management.bridge("br0", &[])?;
        lab.veth((&client, "eth0"), (&switch, "client"))?;
        switch.bridge_port("br0", "client")?;
        client.address("eth0", "10.77.0.10/24".parse()?)?;
        client.address("eth0", "fd77::10/64".parse()?)?;
        lab.veth((&api_namespace, "eth0"), (&management, "api"))?;
        management.bridge_port("br0", "api")?;
        api_namespace.address("eth0", "10.78.0.1/24".parse()?)?;

        let api = Api::start(&api_namespace, options)?;
        let mut cluster = Self {
            nodes: Vec::new(),
            client,
            api,
            api_namespace,
            arguments: Vec::new(),
            rendered: None,
            _lab: lab,
            directory,
        };
        for number in 0..nodes {
            let node = cluster.add_node(&switch, &management, number)?;
            cluster.nodes.push(node);
        }
        for node in &cluster.nodes {
            // Every node knows the way to every other one's pods, as with a CNI.
            for other in cluster.nodes.iter().filter(|other| other.number != node.number) {
                let [by, by6] = other.addresses();
                node.namespace.route(format!("10.80.{}.0/24", other.number).parse()?, by)?;
                node.namespace.route(format!("fd80:0:0:{:x}::/64", other.number).parse()?, by6)?;
            }
        }
        fs::write(cluster.kubeconfig(), cluster.api.kubeconfig()?)?;
        Ok(cluster)
    }

    /// Builds a cluster with a service, lets the agents run, and waits until the service is carried.
    pub(crate) fn start(sandbox: &Sandbox, nodes: u8) -> anyhow::Result<Self> {
        let mut cluster = Self::build(sandbox, nodes)?;
        cluster.add_service("shop", &[VIP.into(), VIP6.into()], "Cluster")?;
        for node in 0..cluster.nodes.len() {
            cluster.run_agent(node)?;
        }
        cluster.await_ready()?;
        cluster.await_owner(VIP, |_| true)?;
        Ok(cluster)
    }

    fn add_node(&mut self, switch: &Namespace, management: &Namespace, number: u8) -> anyhow::Result<Node> {
        let name = format!("node-{number}");
        let namespace = self._lab.namespace(&name)?;
        let pod = self._lab.namespace(&format!("pod-{number}"))?;
        self._lab.veth((&namespace, "up0"), (switch, &name))?;
        switch.bridge_port("br0", &name)?;
        self._lab.veth((&namespace, "mg0"), (management, &name))?;
        management.bridge_port("br0", &name)?;
        let host = 20 + number;
        let [own, own6] = node_addresses(number);
        namespace.address("up0", format!("{own}/24").parse()?)?;
        namespace.address("up0", format!("{own6}/64").parse()?)?;
        namespace.address("mg0", format!("10.78.0.{host}/24").parse()?)?;
        namespace.bridge("pods", &[])?;
        namespace.address("pods", format!("10.80.{number}.1/24").parse()?)?;
        namespace.address("pods", format!("fd80:0:0:{number:x}::1/64").parse()?)?;
        namespace.sysctl("net.ipv4.ip_forward", "1")?;
        namespace.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        self._lab.veth((&pod, "eth0"), (&namespace, "pod"))?;
        namespace.bridge_port("pods", "pod")?;
        let [of_pod, of_pod6] = pod_addresses(number);
        pod.address("eth0", format!("{of_pod}/24").parse()?)?;
        pod.address("eth0", format!("{of_pod6}/64").parse()?)?;
        pod.route("0.0.0.0/0".parse()?, Ipv4Addr::new(10, 80, number, 1).into())?;
        pod.route("::/0".parse()?, format!("fd80:0:0:{number:x}::1").parse::<IpAddr>()?)?;
        let mut server = Command::new(world::program()?);
        server.args(["probe", "serve", "--name", &format!("pod-{number}")]);
        for (option, port) in [("--http", TARGET_PORT), ("--tcp", ECHO), ("--udp", DATAGRAMS)] {
            server.args([option, &format!("0.0.0.0:{port}"), option, &format!("[::]:{port}")]);
        }
        let server = pod.spawn(server)?;
        let text = namespace.enter(|| fs::read_to_string("/sys/class/net/up0/address"))??;
        let bytes: Vec<u8> =
            text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
        let admin = self.directory.path().join(format!("{name}.sock")).display().to_string();
        let mac = Mac::try_from(bytes.as_slice())?;
        Ok(Node { name, namespace, mac, agent: None, admin, number, pod, _server: server })
    }

    /// The administrator's.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// What there is in the API before anything else.
    fn configure(&self) -> anyhow::Result<()> {
        self.post("/api/v1/namespaces", "Namespace", &json!({ "metadata": { "name": SYSTEM } }))?;
        self.register_nodes()?;
        for (plural, kind) in [
            ("ipaddresspools", "IPAddressPool"),
            ("l2advertisements", "L2Advertisement"),
            ("servicel2statuses", "ServiceL2Status"),
        ] {
            self.define(plural, kind)?;
        }
        eventually("the kinds are established", || {
            let definitions = self.request("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", None)?;
            let is_there = |definition: &Value| {
                let mut conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
                conditions.any(|condition| condition["type"] == "Established" && condition["status"] == "True")
            };
            Ok(definitions["items"].as_array().is_some_and(|all| all.iter().all(is_there)).then_some(()))
        })?;
        let configuration = "/apis/metallb.io/v1beta1/namespaces/metallb-system";
        let pool = json!({ "addresses": ["10.77.0.100-10.77.0.110", "fd77::100-fd77::110"] });
        self.post(
            &format!("{configuration}/ipaddresspools"),
            "IPAddressPool",
            &json!({ "metadata": { "name": "lab" }, "spec": pool }),
        )?;
        self.post(
            &format!("{configuration}/l2advertisements"),
            "L2Advertisement",
            &json!({ "metadata": { "name": "lab" },
                "spec": { "interfaces": ["up0"] } }),
        )?;
        Ok(())
    }

    /// What the nodes' kubelets do.
    pub(crate) fn register_nodes(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            let labels = json!({ "kubernetes.io/hostname": node.name });
            self.post("/api/v1/nodes", "Node", &json!({ "metadata": { "name": node.name, "labels": labels } }))?;
        }
        Ok(())
    }

    /// A kind without a schema.
    fn define(&self, plural: &str, kind: &str) -> anyhow::Result<()> {
        let schema = json!({ "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } });
        let version = json!({ "name": "v1beta1", "served": true, "storage": true, "schema": schema, "subresources": { "status": {} } });
        let names = json!({ "plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List") });
        self.post(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            "CustomResourceDefinition",
            &json!({ "metadata": { "name": format!("{plural}.metallb.io") },
                "spec": { "group": "metallb.io", "scope": "Namespaced", "names": names, "versions": [version] } }),
        )
    }

    /// A service with a ready pod on every node, and the addresses a controller would have given it.
    pub(crate) fn add_service(&self, name: &str, vips: &[IpAddr], policy: &str) -> anyhow::Result<()> {
        let services = "/api/v1/namespaces/default/services";
        self.post(
            services,
            "Service",
            &json!({ "metadata": { "name": name }, "spec": {
                "type": "LoadBalancer", "externalTrafficPolicy": policy, "selector": { "app": name },
                "ipFamilyPolicy": "PreferDualStack",
                "ports": service_ports() } }),
        )?;
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.set_endpoints(name, &all)?;
        let ingress: Vec<Value> = vips.iter().map(|vip| json!({ "ip": vip.to_string(), "ipMode": "VIP" })).collect();
        let status = json!({ "status": { "loadBalancer": { "ingress": ingress } } });
        self.request("PATCH", &format!("{services}/{name}/status"), Some(&status)).map(drop)
    }

    /// The service's endpoints are the pods of these nodes.
    pub(crate) fn set_endpoints(&self, service: &str, nodes: &[usize]) -> anyhow::Result<()> {
        let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        for slice in self.slices(service, nodes) {
            let name = slice["metadata"]["name"].as_str().unwrap_or_default();
            let _ = self.request("DELETE", &format!("{slices}/{name}"), None);
            self.post(slices, "EndpointSlice", &slice)?;
        }
        Ok(())
    }

    /// The slices of a service whose endpoints are the pods of these nodes.
    pub(crate) fn slices(&self, service: &str, nodes: &[usize]) -> Vec<Value> {
        let of_family = |(suffix, family): (&str, &str)| {
            let endpoints: Vec<Value> = nodes
                .iter()
                .map(|node| {
                    let [v4, v6] = self.nodes[*node].pod_addresses();
                    // In canonical form, as the API wants it.
                    let address = if family == "IPv4" { v4 } else { v6 }.to_string();
                    json!({ "addresses": [address], "nodeName": self.nodes[*node].name,
                        "conditions": { "ready": true, "serving": true, "terminating": false } })
                })
                .collect();
            json!({
                "metadata": { "name": format!("{service}-{suffix}"), "labels": { "kubernetes.io/service-name": service } },
                "addressType": family, "endpoints": endpoints,
                "ports": slice_ports() })
        };
        [("v4", "IPv4"), ("v6", "IPv6")].into_iter().map(of_family).collect()
    }

    pub(crate) fn post(&self, path: &str, kind: &str, body: &Value) -> anyhow::Result<()> {
        let segments: Vec<&str> = path.split('/').collect();
        // `/api/VERSION/…`, or `/apis/GROUP/VERSION/…`.
        let version = if segments[1] == "api" { segments[2].to_owned() } else { segments[2..4].join("/") };
        self.create(path, kind, &version, body).map(drop)
    }

    /// Makes an object of a kind whose version the path does not tell.
    pub(crate) fn create(&self, path: &str, kind: &str, version: &str, body: &Value) -> anyhow::Result<Value> {
        let mut body = body.clone();
        body["kind"] = kind.into();
        body["apiVersion"] = version.into();
        self.request("POST", path, Some(&body)).with_context(|| format!("POST {path}: {body}"))
    }

    /// Writes to a resource since the API server began: what creates, patches and updates.
    pub(crate) fn writes(&self, resource: &str) -> anyhow::Result<u64> {
        if let Ok(stand_in) = self.api.stand_in() {
            let is_write = |verb: &str| matches!(verb, "create" | "patch" | "update");
            let requests = stand_in.requests();
            return Ok(requests
                .iter()
                .filter(|(used, _)| used.resource == resource && is_write(&used.verb))
                .map(|(_, count)| *count)
                .sum());
        }
        // As `apiserver_request_total{…,resource="services",…,verb="PATCH",…} 12`.
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let metrics = self.ask(async |client| Ok(client.request_text(request).await?))?;
        let of_resource = format!("resource=\"{resource}\"");
        let verbs = ["APPLY", "PATCH", "POST", "PUT"].map(|verb| format!("verb=\"{verb}\""));
        let counted = metrics.lines().filter(|line| {
            line.starts_with("apiserver_request_total{")
                && line.contains(&of_resource)
                && verbs.iter().any(|verb| line.contains(verb))
        });
        counted.map(|line| Ok(line.rsplit(' ').next().context("a value")?.parse::<u64>()?)).sum()
    }

    /// Asks the API for something.
    pub(crate) fn request(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let bytes = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        let request = http::Request::builder().method(method).uri(path).header("content-type", media).body(bytes)?;
        self.ask(async |client| Ok(client.request(request).await?))
    }

    /// Lets a client of the API do something.
    pub(crate) fn ask<T: Send>(
        &self,
        what: impl AsyncFnOnce(kube::Client) -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let kubeconfig = Kubeconfig::from_yaml(&self.api.kubeconfig()?)?;
        self.api_namespace.enter(|| {
            // Its sockets have to be made on this thread.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
                what(kube::Client::try_from(config)?).await
            })
        })?
    }

    /// Runs a tool that talks to the API, as the administrator.
    pub(crate) fn tool(&self, mut command: Command) -> anyhow::Result<String> {
        let directory = self.directory.path();
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", directory).current_dir(directory);
        let Ended { status, stdout, stderr } = world::finish(&self.api_namespace, command)?;
        ensure!(status.success(), "{status}: {stdout}\n{stderr}");
        Ok(stdout)
    }

    /// Where the API is, and whoever administers it.
    pub(crate) fn beside_api(&self) -> &Namespace {
        &self.api_namespace
    }

    /// Starts a process next to the API.
    pub(crate) fn run_beside_api(&self, command: Command) -> anyhow::Result<Child> {
        Ok(self.api_namespace.spawn(command)?)
    }

    /// Runs a node's agent.
    pub(crate) fn run_agent(&mut self, node: usize) -> anyhow::Result<()> {
        let kubeconfig = self.kubeconfig();
        let state = self.directory.path().join(format!("state-{node}"));
        let node = &mut self.nodes[node];
        let mut command = match &self.rendered {
            Some(rendered) => rendered.command(&node.name, &format!("agent-{}", node.name))?,
            None => {
                let mut command = Command::new(world::program()?);
                command.args(["agent", "--node", &node.name, "--interface", "up0", "--namespace", SYSTEM]);
                command.env("KUBECONFIG", kubeconfig);
                command
            }
        };
        command.args(["--admin", &format!("unix:{}", node.admin), "--flows", "16384"]);
        command.arg("--state-dir").arg(state).args(&self.arguments);
        node.agent = Some(node.namespace.spawn(command)?);
        Ok(())
    }

    /// Ends a node's agent as its pod's end does, and waits until it has ended.
    pub(crate) fn stop_agent(&mut self, node: usize) -> anyhow::Result<()> {
        let agent = self.nodes[node].agent.take().context("no agent runs there")?;
        let status = agent.terminate(SOON)?;
        ensure!(status.success(), "{status}: {:?}", agent.stderr());
        Ok(())
    }

    /// Kills a node's agent.
    pub(crate) fn kill_agent(&mut self, node: usize) -> anyhow::Result<()> {
        let agent = self.nodes[node].agent.take().context("no agent runs there")?;
        agent.signal(Signal::KILL)?;
        agent.wait(STOP)?;
        Ok(())
    }

    /// Waits until every agent that runs has said that it is ready.
    pub(crate) fn await_ready(&self) -> anyhow::Result<()> {
        for agent in self.nodes.iter().filter_map(|node| node.agent.as_ref()) {
            agent.wait_for_line("ready", START)?;
        }
        Ok(())
    }

    /// Cuts a node off the API, or lets it get there again.
    pub(crate) fn set_api(&self, node: usize, reachable: bool) -> anyhow::Result<()> {
        let namespace = &self.nodes[node].namespace;
        let changed = if reachable { namespace.link_up("mg0") } else { namespace.link_down("mg0") };
        Ok(changed?)
    }

    /// What `evenkeel status -o json` says on a node.
    pub(crate) fn status(&self, node: usize) -> anyhow::Result<Value> {
        let node = &self.nodes[node];
        let mut command = Command::new(world::program()?);
        command.args(["status", "-o", "json", "--admin", &format!("unix:{}", node.admin)]);
        let Ended { status, stdout, stderr } = world::finish(&node.namespace, command)?;
        ensure!(status.success(), "status: {stderr}");
        Ok(serde_json::from_str(&stdout)?)
    }

    /// Whose an address is by its record, and in which epoch.
    pub(crate) fn record(&self, vip: impl Into<IpAddr>) -> anyhow::Result<Option<(usize, u64)>> {
        let name = match vip.into() {
            IpAddr::V4(vip) => format!("vip-{vip}"),
            IpAddr::V6(vip) => format!("vip-{}", vip.segments().map(|group| format!("{group:x}")).join("-")),
        };
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{name}");
        let Ok(lease) = self.request("GET", &path, None) else { return Ok(None) };
        let holder = lease["spec"]["holderIdentity"].as_str();
        let owner = self.nodes.iter().position(|node| Some(node.name.as_str()) == holder);
        Ok(owner.zip(lease["spec"]["leaseTransitions"].as_u64()))
    }

    /// Waits until an address is owned by such a node and that node answers for it; returns the node.
    pub(crate) fn await_owner(&self, vip: impl Into<IpAddr>, wanted: impl Fn(usize) -> bool) -> anyhow::Result<usize> {
        let vip = vip.into();
        let mut last = None;
        let found = eventually(&format!("{vip} is owned as wanted"), || {
            last = self.record(vip)?;
            let Some((owner, _)) = last.filter(|(owner, _)| wanted(*owner)) else { return Ok(None) };
            let status = self.status(owner)?;
            let mut vips = status["vips"].as_array().into_iter().flatten();
            let answers = vips.any(|one| one["address"] == vip.to_string() && one["announced"] == true);
            Ok(answers.then_some(owner))
        });
        found.with_context(|| format!("last record: {last:?}\n{}", self.said()))
    }

    /// Starts requests of these kinds to a service.
    pub(crate) fn load(&self, vips: &[IpAddr], kinds: &[LaneKind]) -> anyhow::Result<Load> {
        let lanes = vips.iter().flat_map(|vip| kinds.iter().map(move |kind| (*vip, *kind)));
        let lanes = lanes.map(|(vip, kind)| {
            let (port, path) = match kind {
                LaneKind::Udp | LaneKind::UdpFixed => (DATAGRAMS, ""),
                LaneKind::TcpEcho | LaneKind::TcpLong => (ECHO, ""),
                LaneKind::Tcp => (PORT, ""),
                _ => (PORT, "/"),
            };
            let family = if vip.is_ipv4() { "" } else { "6" };
            let name = format!("{}{family}", kind.scheme());
            Lane { name, path: path.to_owned(), ..Lane::to(kind, (vip, port).into(), RATE) }
        });
        let mut config = Config::new(lanes.collect(), LOAD_LIMIT);
        // As ordinary clients end them.
        config.close = Close::Fin;
        Ok(Load::start(&self.client, config)?)
    }

    /// The counters of each node.
    pub(crate) fn counters(&self) -> String {
        let statuses = (0..self.nodes.len()).map(|node| self.status(node));
        statuses
            .map(|status| status.map_or_else(|error| error.to_string(), |status| status["counters"].to_string()))
            .collect()
    }

    /// The last that each agent said.
    pub(crate) fn said(&self) -> String {
        let agents = self.nodes.iter().filter_map(|node| Some((&node.name, node.agent.as_ref()?)));
        agents
            .map(|(name, agent)| {
                let lines = agent.stderr();
                format!("{name}:\n{}\n", lines[lines.len().saturating_sub(15)..].join("\n"))
            })
            .collect()
    }

    /// The node with this hardware address.
    pub(crate) fn node_of(&self, mac: Mac) -> Option<usize> {
        self.nodes.iter().position(|node| node.mac == mac)
    }
}

/// The ports of services, and of their endpoints.
pub(crate) fn service_ports() -> Value {
    json!([
        { "name": "http", "port": PORT, "targetPort": TARGET_PORT, "protocol": "TCP" },
        { "name": "echo", "port": ECHO, "targetPort": ECHO, "protocol": "TCP" },
        { "name": "datagrams", "port": DATAGRAMS, "targetPort": DATAGRAMS, "protocol": "UDP" },
    ])
}

fn slice_ports() -> Value {
    json!([
        { "name": "http", "port": TARGET_PORT, "protocol": "TCP" },
        { "name": "echo", "port": ECHO, "protocol": "TCP" },
        { "name": "datagrams", "port": DATAGRAMS, "protocol": "UDP" },
    ])
}

/// Asks again and again who has an address, and notes who answers.
pub(crate) struct Observer {
    stop: Arc<AtomicBool>,
    rounds: Arc<Mutex<Vec<Vec<Mac>>>>,
    thread: Option<JoinHandle<Result<anyhow::Result<()>, evenkeel_lab::Error>>>,
}

/// How long an observer waits for a first answer, for a further one, and before it asks again.
const FIRST: Duration = Duration::from_secs(2);
const FURTHER: Duration = Duration::from_millis(30);

impl Observer {
    /// Begins to ask from the client.
    pub(crate) fn start(client: &Namespace, vip: Ipv4Addr) -> anyhow::Result<Self> {
        let socket = client::open(client, ARP)?;
        let index = client.enter(|| fs::read_to_string("/sys/class/net/eth0/ifindex"))??.trim().parse::<i32>()?;
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, noted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = client.thread("observer", move || {
            let probe = ArpFrame::probe([2, 0, 0, 0, 0xeb, 0xff], vip).to_bytes();
            while !stopped.load(Ordering::Relaxed) {
                client::send(&socket, index, &probe)?;
                let mut answered: Vec<Mac> = Vec::new();
                let mut until = Instant::now() + FIRST;
                while let Some(frame) = client::receive(&socket, until)? {
                    if let Ok(frame) = ArpFrame::parse(&frame)
                        && frame.operation == Operation::Reply
                        && frame.sender == vip
                        && !frame.is_announcement()
                    {
                        if answered.is_empty() {
                            until = Instant::now() + FURTHER;
                        }
                        if !answered.contains(&frame.sender_mac) {
                            answered.push(frame.sender_mac);
                        }
                    }
                }
                noted.lock().unwrap_or_else(PoisonError::into_inner).push(answered);
            }
            Ok(())
        })?;
        Ok(Self { stop, rounds, thread: Some(thread) })
    }

    /// Who answered in each round so far.
    pub(crate) fn rounds(&self) -> Vec<Vec<Mac>> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for so many more rounds and returns them.
    pub(crate) fn watch(&self, rounds: usize) -> anyhow::Result<Vec<Vec<Mac>>> {
        let before = self.rounds().len();
        eventually("the observer goes on", || {
            let all = self.rounds();
            Ok((all.len() >= before + rounds).then(|| all[before..].to_vec()))
        })
    }

    /// Ends it; how every round was answered.
    pub(crate) fn end(mut self) -> anyhow::Result<Vec<Vec<Mac>>> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow::anyhow!("the observer panicked"))???;
        }
        Ok(self.rounds())
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Every round was answered by exactly one host, the same in all of them if `moves` is false.
pub(crate) fn ensure_one(rounds: &[Vec<Mac>]) -> anyhow::Result<Mac> {
    ensure!(!rounds.is_empty(), "nothing was observed");
    for (number, answered) in rounds.iter().enumerate() {
        ensure!(answered.len() == 1, "round {number} of {}: answered by {answered:02x?}", rounds.len());
        ensure!(answered == &rounds[0], "round {number}: {answered:02x?} after {:02x?}", rounds[0]);
    }
    Ok(rounds[0][0])
}
