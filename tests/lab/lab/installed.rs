//! The chart applied to an empty API by helm and kubectl, and the controller and agents that it describes at work: what their
//! command lines, service accounts and roles are comes from there.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt, fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use evenkeel_fake_api::{Mood, Options};
use evenkeel_lab::{Child, Namespace, Sandbox};
use evenkeel_neighbor::{ArpFrame, Operation};
use evenkeel_probe::LaneKind;
use serde_json::{Value, json};

use crate::{
    Test,
    client::{self, ARP},
    cluster::{self, Cluster, PORT, Rendered, SYSTEM},
    world::{self, Ended, SOON, eventually},
};

pub(crate) const TESTS: &[Test] = &[
    ("installed::a_service_comes_and_goes", a_service_comes_and_goes),
    ("installed::agents_have_the_capabilities_they_need_and_no_more", agents_have_the_capabilities_they_need),
    (OUTAGE_TEST, an_outage_an_empty_relist_and_churn),
    ("installed::many_services_are_written_once_and_carried", many_services),
    (GRANTS_TEST, what_is_granted_is_used),
];
/// Tests that have the API misbehave, or look at what it was asked.
pub(crate) const OUTAGE_TEST: &str = "installed::an_outage_an_empty_relist_and_churn_lose_nothing";
pub(crate) const GRANTS_TEST: &str = "installed::what_is_granted_is_used_and_nothing_else_is_asked_for";

/// How many services come and go: more for a report (`make bench-cluster`) than for a test.
const ROUNDS: &str = "ROUNDS";
/// What creation and deletion may take, judged in the report.
const BAR: Duration = Duration::from_millis(500);
/// Of a client that tries again and again.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// Between two ARP probes that find out whether an address is still answered for.
const ASK_INTERVAL: Duration = Duration::from_millis(5);
/// Without an answer for so long it is not.
const SILENCE: Duration = Duration::from_millis(500);

/// How many services there are at once: more for a report.
const SERVICES: &str = "SERVICES";
/// What is written for them.
const WRITTEN: [&str; 3] = ["services", "servicel2statuses", "leases"];
/// How long the controller is watched at rest.
const REST: Duration = Duration::from_secs(5);
/// How long the API is away, in seconds: longer for a report.
const OUTAGE: &str = "OUTAGE";
/// Changes of endpoints, one every ten milliseconds.
const CHURN: usize = 500;
const CHURN_INTERVAL: Duration = Duration::from_millis(10);

/// How long records of addresses without a service are kept.
const RECORDS_KEPT: Duration = Duration::from_secs(60);
const STATUSES: &str = "/apis/metallb.io/v1beta1/namespaces/metallb-system/servicel2statuses";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/metallb-system/leases";
const AGENTS: &str = "/apis/apps/v1/namespaces/metallb-system/daemonsets/evenkeel-agent";

/// A configuration as its administrator would write it.
const CONFIGURATION: &str = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: lab, namespace: metallb-system}
spec: {addresses: [10.77.0.100-10.77.0.250, 'fd77::100-fd77::250']}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: lab, namespace: metallb-system}
spec: {ipAddressPools: [lab]}
";

/// A cluster that was installed.
pub(crate) struct Installed {
    /// Before the rest: its processes end first.
    controller: Child,
    pub(crate) cluster: Cluster,
}

impl Installed {
    /// Installs the chart with these settings and lets everything run.
    pub(crate) fn start(sandbox: &Sandbox, nodes: u8, settings: &[&str]) -> anyhow::Result<Self> {
        Self::start_with(sandbox, nodes, settings, Options::default())
    }

    /// The same, beside such an API. It enforces RBAC in any case.
    fn start_with(sandbox: &Sandbox, nodes: u8, settings: &[&str], options: Options) -> anyhow::Result<Self> {
        let cluster = Cluster::wire(sandbox, nodes, Options { rbac: true, tls: true, ..options })?;
        cluster.register_nodes()?;
        let chart = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../charts/evenkeel");
        let mut helm = Command::new(tool("helm")?);
        helm.arg("template").arg("evenkeel").arg(chart);
        helm.args(["--namespace", SYSTEM, "--include-crds", "--set", "agent.interfaces={up0}"]);
        for setting in settings {
            helm.args(["--set", setting]);
        }
        let manifests = cluster.tool(helm)?;
        let kubectl = |arguments: &[&str]| kubectl(&cluster, arguments);
        kubectl(&["create", "namespace", SYSTEM])?;
        for (file, content) in [("chart.yaml", manifests.as_str()), ("configuration.yaml", CONFIGURATION)] {
            fs::write(cluster.directory.path().join(file), content)?;
            kubectl(&["apply", "-f", file])?;
            // A kind is there a moment after its definition.
            kubectl(&["wait", "--for=condition=established", "crd", "--all", "--timeout=60s"])?;
        }
        Self::run(cluster)
    }

    /// Lets run what the workloads in the API describe, and waits until it does its work.
    pub(crate) fn run(mut cluster: Cluster) -> anyhow::Result<Self> {
        let controller = rendered(&cluster, "deployment", "controller")?;
        let agent = rendered(&cluster, "daemonset", "agent")?;
        cluster.rendered = Some(agent);
        let controller = cluster.run_beside_api(controller.command("node-0", "controller-0")?)?;
        for node in 0..cluster.nodes.len() {
            cluster.run_agent(node)?;
        }
        cluster.await_ready()?;
        let installed = Self { controller, cluster };
        eventually("the controller leads", || {
            let leads = installed.controller.stderr().iter().any(|line| line.contains("leading"));
            Ok(leads.then_some(()))
        })?;
        Ok(installed)
    }

    /// Makes a service of both families with a pod on every node; its addresses once they are in its status, and how long
    /// that took.
    pub(crate) fn create(&self, name: &str) -> anyhow::Result<Created> {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "type": "LoadBalancer", "selector": { "app": "shop" }, "ipFamilyPolicy": "RequireDualStack",
                "ports": cluster::service_ports() } });
        let all: Vec<usize> = (0..self.cluster.nodes.len()).collect();
        let mut slices = self.cluster.slices(name, &all);
        for slice in &mut slices {
            slice["apiVersion"] = "discovery.k8s.io/v1".into();
            slice["kind"] = "EndpointSlice".into();
        }
        self.cluster
            .ask(async |api| {
                let began = Instant::now();
                post(&api, "/api/v1/namespaces/default/services", &service).await?;
                for slice in &slices {
                    post(&api, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await?;
                }
                while began.elapsed() < SOON {
                    let path = format!("/api/v1/namespaces/default/services/{name}");
                    let service: Value = api.request(http::Request::get(path).body(Vec::new())?).await?;
                    let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
                    let addresses = ingress.into_iter().flatten().filter_map(|one| one["ip"].as_str()?.parse().ok());
                    let addresses: Vec<IpAddr> = addresses.collect();
                    if addresses.len() == 2 {
                        return Ok(Created { began, addressed: began.elapsed(), addresses });
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                anyhow::bail!("{name} gets no addresses")
            })
            .with_context(|| self.said())
    }

    /// What controller and agents said last.
    pub(crate) fn said(&self) -> String {
        let lines = self.controller.stderr();
        format!("controller:\n{}\n{}", lines[lines.len().saturating_sub(15)..].join("\n"), self.cluster.said())
    }
}

fn kubectl(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(tool("kubectl")?);
    command.args(arguments);
    cluster.tool(command)
}

/// What the pods of a workload run, and as whom.
fn rendered(cluster: &Cluster, kind: &str, part: &str) -> anyhow::Result<Rendered> {
    let object = kubectl(cluster, &["get", kind, &format!("evenkeel-{part}"), "-n", SYSTEM, "-o", "json"])?;
    let object: Value = serde_json::from_str(&object)?;
    let spec = &object["spec"]["template"]["spec"];
    let account = spec["serviceAccountName"].as_str().context("no service account")?;
    let kubeconfig = cluster.directory.path().join(part);
    let ask = |path: &str, body: &Value| cluster.create(path, "TokenRequest", "authentication.k8s.io/v1", body);
    fs::write(&kubeconfig, cluster.api.kubeconfig_of(account, ask)?)?;
    let container = &spec["containers"][0];
    ensure!(container["securityContext"]["capabilities"]["drop"] == json!(["ALL"]), "{container:#}");
    let capabilities = container["securityContext"]["capabilities"]["add"].clone();
    Ok(Rendered {
        arguments: serde_json::from_value(container["args"].clone())?,
        capabilities: serde_json::from_value::<Option<_>>(capabilities)?.unwrap_or_default(),
        kubeconfig,
    })
}

/// A service that has its addresses.
pub(crate) struct Created {
    began: Instant,
    addressed: Duration,
    pub(crate) addresses: Vec<IpAddr>,
}

async fn post(api: &kube::Client, path: &str, body: &Value) -> anyhow::Result<Value> {
    let request = http::Request::post(path).header("content-type", "application/json");
    Ok(api.request(request.body(body.to_string().into_bytes())?).await?)
}

/// A program that set-up has put beside what was built.
pub(crate) fn tool(name: &str) -> anyhow::Result<PathBuf> {
    let this = env::current_exe()?;
    let path = this.ancestors().nth(3).context("the test binary has no directory")?.join("tools").join(name);
    ensure!(path.is_file(), "{} does not exist: `scripts/setup.sh test` fetches it", path.display());
    Ok(path)
}

/// Services are made one after the other, and reached over both families; then they are deleted one after the other, until
/// nobody answers for their addresses.
fn a_service_comes_and_goes(sandbox: &Sandbox) -> anyhow::Result<()> {
    let rounds = env::var(ROUNDS).ok().map_or(Ok(3), |rounds| rounds.parse::<usize>().context(ROUNDS))?;
    let installed = Installed::start(sandbox, 3, &[])?;
    let cluster = &installed.cluster;
    let mut addressed = Times::default();
    let [mut reached, mut reached6, mut withdrawn] = [(); 3].map(|()| Times { bar: Some(BAR), ..Times::default() });
    let mut vips = Vec::new();
    for round in 0..rounds {
        let created = installed.create(&format!("shop-{round}"))?;
        for vip in &created.addresses {
            first_answer(&cluster.client, SocketAddr::new(*vip, PORT)).with_context(|| installed.said())?;
            let times = if vip.is_ipv4() { &mut reached } else { &mut reached6 };
            times.times.push(created.began.elapsed());
        }
        addressed.times.push(created.addressed);
        vips.push(created.addresses);
    }
    // Unanswered solicitations are given up sooner.
    cluster.client.sysctl("net.ipv6.neigh.eth0.retrans_time_ms", "100")?;
    for (round, vips) in vips.iter().enumerate() {
        let [IpAddr::V4(vip)] = vips.iter().filter(|vip| vip.is_ipv4()).copied().collect::<Vec<_>>()[..] else {
            anyhow::bail!("no IPv4 address among {vips:?}")
        };
        withdrawn.times.push(until_silent(&installed, &format!("shop-{round}"), vip)?);
        let vip6 = vips.iter().find(|vip| vip.is_ipv6()).context("no IPv6 address")?;
        ensure!(!client::is_answered(&cluster.client, *vip6)?, "{vip6} is still answered for");
    }
    println!(
        "{rounds} services with three pods, of both families:\n  created to addresses in status  {addressed}\n  \
         created to first answer, IPv4   {reached}\n  created to first answer, IPv6   {reached6}\n  \
         deleted to withdrawn            {withdrawn}"
    );
    Ok(())
}

/// With what the chart grants an agent carries services, and takes over what the one before has left; without any part of it
/// it says what is missing.
fn agents_have_the_capabilities_they_need(sandbox: &Sandbox) -> anyhow::Result<()> {
    let mut installed = Installed::start(sandbox, 1, &[])?;
    let created = installed.create("shop")?;
    let vip = SocketAddr::new(created.addresses[0], PORT);
    first_answer(&installed.cluster.client, vip)?;
    installed.cluster.stop_agent(0)?;
    let Some(granted) = installed.cluster.rendered.take() else { anyhow::bail!("not rendered") };
    for missing in &granted.capabilities {
        let others = granted.capabilities.iter().filter(|capability| *capability != missing).cloned().collect();
        let less = Rendered { capabilities: others, ..granted.clone() };
        let Ended { status, stderr, .. } =
            world::finish(&installed.cluster.nodes[0].namespace, less.command("node-0", "agent-node-0")?)?;
        ensure!(!status.success() && stderr.contains(&format!("CAP_{missing}")), "without {missing}: {stderr}");
    }
    installed.cluster.rendered = Some(granted);
    installed.cluster.run_agent(0)?;
    installed.cluster.await_ready()?;
    client::get(&installed.cluster.client, vip)?;
    Ok(())
}

/// S11: the API is away in two ways, comes back with lists that are empty once, and has a hundred changes of endpoints a second,
/// among them one of the service's own pods that comes and goes.
fn an_outage_an_empty_relist_and_churn(sandbox: &Sandbox) -> anyhow::Result<()> {
    let outage = env::var(OUTAGE).ok().map_or(Ok(4), |seconds| seconds.parse().context(OUTAGE))?;
    // What a watch begins with is never an empty list.
    let options = Options { streaming_lists: false, ..Options::default() };
    let installed = Installed::start_with(sandbox, 3, &[], options)?;
    let created = installed.create("shop")?;
    (0..10).try_for_each(|n| installed.create(&format!("other-{n}")).map(drop))?;
    let cluster = &installed.cluster;
    let api = cluster.api.stand_in()?;
    for vip in &created.addresses {
        first_answer(&cluster.client, SocketAddr::new(*vip, PORT)).with_context(|| installed.said())?;
    }
    let kinds = [LaneKind::Http, LaneKind::HttpKeepalive, LaneKind::TcpEcho, LaneKind::TcpLong];
    let load = cluster.load(&created.addresses, &kinds)?;
    world::go_on(&load, 20)?;
    for mood in [Mood::Refuse, Mood::Hang] {
        api.set_mood(mood);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(outage) {
            world::go_on(&load, 10)?;
        }
        api.set_mood(Mood::Fine);
        // Whoever waits for an answer that does not come asks anew.
        api.close_watches();
        eventually("the API is back", || Ok(cluster.request("GET", LEASES, None).ok()))?;
    }
    installed.await_changes("other-0").context("after the outage")?;

    for plural in ["services", "endpointslices", "ipaddresspools", "l2advertisements", "nodes"] {
        // One for each agent and the controller.
        api.empty_lists(plural, 4);
    }
    api.compact();
    api.close_watches();
    world::go_on(&load, 60)?;
    installed.await_changes("other-1").context("after empty lists")?;

    let taken = installed.churn()?;
    world::go_on(&load, 20)?;
    let report = world::ensure_nothing_lost(load).with_context(|| installed.said())?;
    cluster.api.ensure_nothing_refused()?;
    println!(
        "the API away for {outage} s twice, lists empty once, {CHURN} changes of endpoints in {:.1} s: {} requests, {} failed; \
         changes carried out {}",
        taken.as_secs_f64(),
        report.requests,
        report.failed,
        installed.carried_out()?
    );
    Ok(())
}

impl Installed {
    /// Waits until all agents follow the API: they carry out a change of this service's endpoints.
    fn await_changes(&self, service: &str) -> anyhow::Result<()> {
        self.cluster.set_endpoints(service, &[0])?;
        let path = format!("/api/v1/namespaces/default/services/{service}");
        let service = self.cluster.request("GET", &path, None)?;
        let vip = &service["status"]["loadBalancer"]["ingress"][0]["ip"];
        for node in 0..self.cluster.nodes.len() {
            eventually(&format!("node-{node} follows the API"), || {
                let status = self.cluster.status(node)?;
                let mut frontends = status["frontends"].as_array().into_iter().flatten();
                let changed = frontends.any(|frontend| {
                    let active = frontend["backends"].as_array().into_iter().flatten();
                    frontend["address"] == *vip && active.filter(|backend| backend["state"] == "active").count() == 1
                });
                Ok(changed.then_some(()))
            })
            .with_context(|| self.said())?;
        }
        Ok(())
    }

    /// Changes endpoints at a steady pace; how long all of it took.
    fn churn(&self) -> anyhow::Result<Duration> {
        self.cluster.ask(async |api| {
            let began = Instant::now();
            let mut pace = tokio::time::interval(CHURN_INTERVAL);
            let mut serving = BTreeMap::new();
            for n in 0..CHURN {
                pace.tick().await;
                // Every eleventh is the service's that is being used: its third pod drains, and takes new flows again.
                let service = if n % 11 == 0 { "shop".to_owned() } else { format!("other-{}", 2 + n % 8) };
                let mut slice = self.cluster.slices(&service, &[0, 1, 2]).remove(n % 2);
                let name = slice["metadata"]["name"].as_str().context("no name")?.to_owned();
                // What changes nothing the API does not tell anybody.
                let serves = serving.entry(name.clone()).or_insert(true);
                *serves = !*serves;
                slice["endpoints"][2]["conditions"] =
                    json!({ "ready": *serves, "serving": true, "terminating": !*serves });
                let path = format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/{name}");
                let patch = json!({ "endpoints": slice["endpoints"] }).to_string().into_bytes();
                let request = http::Request::patch(path).header("content-type", "application/merge-patch+json");
                api.request::<Value>(request.body(patch)?).await?;
            }
            Ok(began.elapsed())
        })
    }

    /// How long agents took from notice to data path, by their own account.
    fn carried_out(&self) -> anyhow::Result<String> {
        let churn = u64::try_from(CHURN)?;
        let changes = eventually("all agents have carried the changes out", || {
            let nodes = 0..self.cluster.nodes.len();
            let changes = nodes.map(|node| Ok(self.cluster.status(node)?["changes"].clone()));
            let changes = changes.collect::<anyhow::Result<Vec<Value>>>()?;
            Ok(changes.iter().all(|changes| changes["count"].as_u64() >= Some(churn)).then_some(changes))
        })?;
        let worst = |name: &str| changes.iter().filter_map(|changes| changes[name].as_u64()).max().unwrap_or_default();
        let [p50, p99, max] =
            ["p50_us", "p99_us", "max_us"].map(|name| Duration::from_micros(worst(name)).as_secs_f64() * 1e3);
        Ok(format!("p50 {p50:.1}  p99 {p99:.1}  max {max:.1} ms on the slowest node"))
    }
}

/// Services that are there before controller and agents are: how long it takes until all have their addresses, until an agent
/// carries all of them and until all are announced, what that takes in memory, and what is written.
fn many_services(sandbox: &Sandbox) -> anyhow::Result<()> {
    let count = env::var(SERVICES).ok().map_or(Ok(100), |count| count.parse::<usize>().context(SERVICES))?;
    let patience = SOON + Duration::from_millis(9) * u32::try_from(count)?;
    let mut installed = Installed::start(sandbox, 3, &[])?;
    // It gives its lease back.
    installed.controller.terminate(SOON)?;
    (0..3).try_for_each(|node| installed.cluster.kill_agent(node))?;
    installed.cluster.ask(async |api| {
        let pool = json!({ "spec": { "addresses": ["10.100.0.0-10.100.255.255"] } }).to_string().into_bytes();
        let path = "/apis/metallb.io/v1beta1/namespaces/metallb-system/ipaddresspools/lab";
        let request = http::Request::patch(path).header("content-type", "application/merge-patch+json");
        api.request::<Value>(request.body(pool)?).await?;
        for n in 0..count {
            let service = json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": format!("s{n}") },
                "spec": { "type": "LoadBalancer", "selector": { "app": "s" }, "allocateLoadBalancerNodePorts": false,
                    "ports": [{ "name": "http", "port": PORT, "targetPort": 8080, "protocol": "TCP" }] } });
            post(&api, "/api/v1/namespaces/default/services", &service).await?;
            let endpoints: Vec<Value> = (0..5)
                .map(|pod| {
                    json!({ "addresses": [format!("10.8{}.{}.{}", pod % 3, 100 + n / 250, 1 + n % 250)],
                        "nodeName": format!("node-{}", pod % 3), "conditions": { "ready": true } })
                })
                .collect();
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": { "name": format!("s{n}"), "labels": { "kubernetes.io/service-name": format!("s{n}") } },
                "addressType": "IPv4", "endpoints": endpoints,
                "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }] });
            post(&api, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await?;
        }
        Ok(())
    })?;

    let before = WRITTEN.map(|resource| Ok((resource, installed.cluster.writes(resource)?)));
    let before = before.into_iter().collect::<anyhow::Result<BTreeMap<_, _>>>()?;
    let wrote = |installed: &Installed, resource| -> anyhow::Result<u64> {
        Ok(installed.cluster.writes(resource)?.saturating_sub(before.get(resource).copied().unwrap_or_default()))
    };
    let controller = rendered(&installed.cluster, "deployment", "controller")?;
    let began = Instant::now();
    installed.controller = installed.cluster.run_beside_api(controller.command("node-0", "controller-1")?)?;
    wait(
        patience,
        "all services have their addresses",
        || Ok(wrote(&installed, "services")? >= u64::try_from(count)?),
    )?;
    let addressed = began.elapsed();
    let controller_memory = memory(&installed.controller)?;

    let began = Instant::now();
    for node in 0..3 {
        installed.cluster.run_agent(node)?;
    }
    let carries = |node: usize| -> anyhow::Result<bool> {
        let Ok(status) = installed.cluster.status(node) else { return Ok(false) };
        Ok(status["frontends"].as_array().is_some_and(|frontends| frontends.len() >= count))
    };
    wait(patience, "an agent carries all of them", || carries(0)).with_context(|| installed.cluster.said())?;
    let carried = began.elapsed();
    let told = |installed: &Installed| wrote(installed, "servicel2statuses");
    // One write makes a status, another one says what it is; until then lists would be most of what the API does.
    wait(patience, "all are announced", || Ok(told(&installed)? >= 2 * u64::try_from(count)?))
        .with_context(|| installed.cluster.said())?;
    wait(patience, "all are told", || {
        let statuses = installed.cluster.request("GET", STATUSES, None)?;
        let statuses = statuses["items"].as_array().into_iter().flatten();
        Ok(statuses.filter(|status| status["status"]["node"].is_string()).count() >= count)
    })?;
    let announced = began.elapsed();
    let agents = installed.cluster.nodes.iter().filter_map(|node| node.agent.as_ref());
    let agents = agents.map(memory).collect::<anyhow::Result<Vec<_>>>()?;

    // Nothing is written twice, and at rest nothing is.
    let services = wrote(&installed, "services")?;
    ensure!(services == u64::try_from(count)?, "{services} writes for {count} services");
    installed.cluster.api.ensure_nothing_refused()?;
    let busy = || -> anyhow::Result<(Duration, Duration)> {
        let agents = installed.cluster.nodes.iter().filter_map(|node| node.agent.as_ref());
        Ok((cpu_time(&installed.controller)?, agents.map(cpu_time).sum::<anyhow::Result<_>>()?))
    };
    let before = busy()?;
    let rest = Instant::now();
    eventually("time passes", || Ok((rest.elapsed() > REST).then_some(())))?;
    let after = busy()?;
    let (busy, agents_busy) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    let records = wrote(&installed, "leases")?;
    let told = told(&installed)?;
    println!(
        "{count} services with {} endpoints: all addressed after {:.1} s by {services} writes; an agent of three carries all after \
         {:.1} s, all announced and told after {:.1} s, {records} writes of leases, {told} of statuses; RSS of the controller {} MiB, of the agents \
         {agents:?} MiB; in {} s at rest {:.0} ms of CPU for the controller, {:.0} ms for an agent",
        5 * count,
        addressed.as_secs_f64(),
        carried.as_secs_f64(),
        announced.as_secs_f64(),
        controller_memory,
        REST.as_secs(),
        busy.as_secs_f64() * 1e3,
        agents_busy.as_secs_f64() * 1e3 / 3.0,
    );
    Ok(())
}

/// Waits for what may take long.
fn wait(patience: Duration, what: &str, mut so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let until = Instant::now() + patience;
    while !so()? {
        ensure!(Instant::now() < until, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// The resident memory of a process, in MiB.
fn memory(process: &Child) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    Ok(kib.context("no VmRSS")?.parse::<u64>()? >> 10)
}

/// The processor time of a process, in ticks of a hundredth of a second (proc_pid_stat(5)).
fn cpu_time(process: &Child) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid()))?;
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(10 * ticks))
}

/// A service lives and dies, somebody claims its address, and everything is uninstalled by the chart's job: by then each account
/// has done all that its roles permit, and was refused nothing. On the way: what agents tell of the service.
fn what_is_granted_is_used(sandbox: &Sandbox) -> anyhow::Result<()> {
    // Of a server that streams lists nothing else is asked.
    let options = Options { streaming_lists: false, ..Options::default() };
    let mut installed = Installed::start_with(sandbox, 2, &[], options)?;
    let created = installed.create("shop")?;
    let cluster = &installed.cluster;
    let vip = created.addresses.iter().find_map(|vip| match vip {
        IpAddr::V4(vip) => Some(*vip),
        IpAddr::V6(_) => None,
    });
    let vip = vip.context("no IPv4 address")?;
    let owner = cluster.await_owner(vip, |_| true)?;
    let node = cluster.nodes[owner].name.clone();
    let service = cluster.request("GET", "/api/v1/namespaces/default/services/shop", None)?;

    let status = eventually("the owner tells what it announces", || {
        let statuses = cluster.request("GET", STATUSES, None)?;
        let status = &statuses["items"][0];
        Ok((status["status"]["node"] == node.as_str()).then(|| status.clone()))
    })?;
    ensure!(
        status["status"]["serviceName"] == "shop" && status["status"]["serviceNamespace"] == "default",
        "{status:#}"
    );
    let labels = json!({ "metallb.io/node": node, "metallb.io/service-name": "shop",
        "metallb.io/service-namespace": "default", "app.kubernetes.io/name": "evenkeel" });
    ensure!(status["metadata"]["labels"] == labels, "{status:#}");
    ensure!(status["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("l2-")), "{status:#}");
    ensure!(status["metadata"]["ownerReferences"][0]["name"] == node.as_str(), "{status:#}");
    eventually("an event tells who announces", || {
        let events = cluster.request("GET", "/api/v1/namespaces/default/events", None)?;
        let mut events = events["items"].as_array().into_iter().flatten();
        let text = format!("announcing from node \"{node}\" with protocol \"layer2\"");
        let told = events.any(|event| {
            event["reason"] == "nodeAssigned"
                && event["message"] == text.as_str()
                && event["involvedObject"]["uid"] == service["metadata"]["uid"]
        });
        Ok(told.then_some(()))
    })?;
    ensure!(kubectl(cluster, &["get", "servicel2statuses", "-n", SYSTEM])?.contains("shop"));

    // The record is read.
    let socket = client::open(&cluster.client, ARP)?;
    let index = cluster.client.enter(|| fs::read_to_string("/sys/class/net/eth0/ifindex"))??.trim().parse()?;
    let claim = ArpFrame::announcement([2, 0, 0, 0, 0xeb, 0xee], vip, Operation::Request).to_bytes();
    eventually("the claim is looked into", || {
        client::send(&socket, index, &claim)?;
        let requests = cluster.api.stand_in()?.requests();
        let read =
            requests.keys().any(|used| used.resource == "leases" && used.verb == "get" && used.user.ends_with("agent"));
        Ok(read.then_some(()))
    })?;

    until_silent(&installed, "shop", vip)?;
    eventually("the status goes with the service", || {
        let statuses = cluster.request("GET", STATUSES, None)?;
        Ok((statuses["items"] == json!([])).then_some(()))
    })?;
    let forgotten = Instant::now() + RECORDS_KEPT + SOON;
    while cluster.record(vip)?.is_some() {
        ensure!(Instant::now() < forgotten, "the record of {vip} stays");
        std::thread::sleep(Duration::from_millis(200));
    }
    installed.create("another")?;
    uninstall(&mut installed)?;

    let cluster = &installed.cluster;
    let (granted, used) = (granted(cluster)?, used(cluster)?);
    cluster.api.ensure_nothing_refused()?;
    let unused: Vec<_> = granted.difference(&used).collect();
    ensure!(unused.is_empty(), "granted and never used: {unused:#?}");
    Ok(())
}

/// What `helm uninstall` does, up to the deletion of what was installed: the job, and the pods that come of it.
fn uninstall(installed: &mut Installed) -> anyhow::Result<()> {
    let job = rendered(&installed.cluster, "job", "detach")?;
    name_who_does_not_withdraw(&installed.cluster, &job)?;
    let job = installed.cluster.run_beside_api(job.command("node-0", "detach")?)?;
    let withdrawal = eventually("the agents' command is another", || {
        let agents = rendered(&installed.cluster, "daemonset", "agent")?;
        Ok((agents.arguments[0] == "uninstall").then_some(agents))
    })?;
    let mut pods = Vec::new();
    for node in 0..installed.cluster.nodes.len() {
        installed.cluster.stop_agent(node)?;
        let node = &installed.cluster.nodes[node];
        let pod = node.namespace.spawn(withdrawal.command(&node.name, "agent")?)?;
        pod.wait_for_line(&format!("{}: VIPs withdrawn, programs detached, pins removed", node.name), SOON)?;
        pods.push(pod);
    }
    // What Kubernetes' own controller would say.
    let agents = installed.cluster.request("GET", AGENTS, None)?;
    let all = pods.len();
    let status = json!({ "status": { "observedGeneration": agents["metadata"]["generation"],
        "desiredNumberScheduled": all, "currentNumberScheduled": all, "numberMisscheduled": 0, "numberReady": all,
        "updatedNumberScheduled": all, "numberAvailable": all } });
    installed.cluster.request("PATCH", &format!("{AGENTS}/status"), Some(&status))?;
    let ended = job.wait(SOON)?;
    ensure!(ended.success(), "{ended}: {:?}", job.stderr());
    let leases = installed.cluster.request("GET", LEASES, None)?;
    let left = leases["items"].as_array().into_iter().flatten().filter_map(|lease| lease["metadata"]["name"].as_str());
    let left: Vec<&str> = left.collect();
    ensure!(left == ["evenkeel-controller"], "{left:?}");
    ensure!(installed.cluster.request("GET", STATUSES, None)?["items"] == json!([]));
    Ok(())
}

/// The job's time is over before a node has done what it is asked for: it says which.
fn name_who_does_not_withdraw(cluster: &Cluster, job: &Rendered) -> anyhow::Result<()> {
    let labels = cluster.request("GET", AGENTS, None)?["spec"]["selector"]["matchLabels"].clone();
    let node = cluster.nodes[1].name.as_str();
    let pod = json!({ "metadata": { "name": "evenkeel-agent-1", "labels": labels },
        "spec": { "nodeName": node, "containers": [{ "name": "agent", "image": "evenkeel" }] } });
    cluster.post(&format!("/api/v1/namespaces/{SYSTEM}/pods"), "Pod", &pod)?;
    let mut hasty = job.clone();
    hasty.arguments.retain(|argument| !argument.starts_with("--timeout="));
    hasty.arguments.push("--timeout=1s".to_owned());
    let Ended { status, stderr, .. } = world::finish(cluster.beside_api(), hasty.command("node-0", "detach")?)?;
    ensure!(!status.success() && stderr.contains(&format!("not on {node}")), "{status}: {stderr}");
    Ok(())
}

/// An account, a verb, an API group and a resource.
type Grant = (String, String, String, String);

/// What the chart's roles permit.
fn granted(cluster: &Cluster) -> anyhow::Result<BTreeSet<Grant>> {
    let selector = "app.kubernetes.io/name=evenkeel";
    let roles = kubectl(cluster, &["get", "clusterroles,roles", "-A", "-l", selector, "-o", "json"])?;
    let roles: Value = serde_json::from_str(&roles)?;
    let texts = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap_or_default() };
    let mut granted = BTreeSet::new();
    for role in roles["items"].as_array().into_iter().flatten() {
        let account = role["metadata"]["name"].as_str().context("no name")?;
        for rule in role["rules"].as_array().into_iter().flatten() {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    let of_verb = |verb| (account.to_owned(), verb, group.clone(), resource.clone());
                    granted.extend(texts(&rule["verbs"]).into_iter().map(of_verb));
                }
            }
        }
    }
    ensure!(granted.len() > 30, "{granted:#?}");
    Ok(granted)
}

/// What the chart's accounts did.
fn used(cluster: &Cluster) -> anyhow::Result<BTreeSet<Grant>> {
    let prefix = format!("system:serviceaccount:{SYSTEM}:");
    let requests = cluster.api.stand_in()?.requests().into_keys();
    let used = requests.filter_map(|used| {
        let account = used.user.strip_prefix(&prefix)?.to_owned();
        let resource = match used.subresource.as_str() {
            "" => used.resource.clone(),
            subresource => format!("{}/{subresource}", used.resource),
        };
        Some((account, used.verb, used.group, resource))
    });
    Ok(used.collect())
}

/// Connects until there is an answer.
fn first_answer(client: &Namespace, target: SocketAddr) -> anyhow::Result<()> {
    client.enter(|| {
        let until = Instant::now() + SOON;
        loop {
            match get_once(target) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(error.context(format!("no answer from {target}"))),
                Err(_) => {}
            }
        }
    })?
}

fn get_once(target: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT)?;
    stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")?;
    let mut head = String::new();
    stream.read_to_string(&mut head)?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(())
}

/// Deletes a service; how long it took until a question for its address was not answered any more.
fn until_silent(installed: &Installed, service: &str, vip: Ipv4Addr) -> anyhow::Result<Duration> {
    let client = &installed.cluster.client;
    let socket = client::open(client, ARP)?;
    let index = client.enter(|| fs::read_to_string("/sys/class/net/eth0/ifindex"))??.trim().parse::<i32>()?;
    let answered = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&answered);
    let listener = client.thread("listener", move || -> anyhow::Result<Instant> {
        let probe = ArpFrame::probe([2, 0, 0, 0, 0xeb, 0xfe], vip).to_bytes();
        let until = Instant::now() + SOON;
        let mut silent_since: Option<Instant> = None;
        loop {
            let asked = Instant::now();
            client::send(&socket, index, &probe)?;
            silent_since.get_or_insert(asked);
            while let Some(frame) = client::receive(&socket, asked + ASK_INTERVAL)? {
                if ArpFrame::parse(&frame).is_ok_and(|it| it.operation == Operation::Reply && it.sender == vip) {
                    noted.store(true, Ordering::Release);
                    silent_since = None;
                }
            }
            match silent_since {
                Some(since) if noted.load(Ordering::Acquire) && since.elapsed() > SILENCE => return Ok(since),
                _ => ensure!(asked < until, "{vip} is still answered for, or never was"),
            }
        }
    })?;
    eventually(&format!("{vip} is answered for"), || Ok(answered.load(Ordering::Acquire).then_some(())))?;
    let began = installed.cluster.ask(async |api| {
        let began = Instant::now();
        let path = format!("/api/v1/namespaces/default/services/{service}");
        api.request::<Value>(http::Request::delete(path).body(Vec::new())?).await?;
        Ok(began)
    })?;
    for suffix in ["v4", "v6"] {
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/{service}-{suffix}");
        installed.cluster.request("DELETE", &path, None)?;
    }
    let silent_since = listener.join().map_err(|_| anyhow::anyhow!("the listener panicked"))???;
    Ok(silent_since.saturating_duration_since(began))
}

/// What was measured.
#[derive(Default)]
struct Times {
    times: Vec<Duration>,
    /// What the 99th percentile is to be below of.
    bar: Option<Duration>,
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.times.clone();
        sorted.sort_unstable();
        // The nearest rank.
        let at = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1].as_secs_f64() * 1e3;
        write!(f, "p50 {:6.1}  p99 {:6.1}  max {:6.1} ms", at(50), at(99), at(100))?;
        let Some(bar) = self.bar else { return Ok(()) };
        let verdict = if at(99) <= bar.as_secs_f64() * 1e3 { "held" } else { "MISSED" };
        write!(f, "  (bar {} ms: {verdict})", bar.as_millis())
    }
}
