//! How long a change of endpoints takes until it is in force, by the agent's own account: one that comes by a file, and one that
//! comes by the API. A few for a test, many beside many services for a report (`make bench-change`).

use std::{
    env,
    fmt::Write as _,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use evenkeel_lab::Sandbox;
use serde_json::{Value, json};

use crate::{
    Test,
    cluster::{Cluster, SYSTEM},
    world::{self, POOL_FILE, SOON, Setup, World},
};

pub(crate) const TESTS: &[Test] =
    &[("changes::by_files_are_measured", by_files), ("changes::by_the_api_are_measured", by_the_api)];

/// How many services there are, with ten endpoints each.
const SERVICES: &str = "SERVICES";
/// How many changes there are.
const CHANGES: &str = "CHANGES";
/// A hundred a second.
const INTERVAL: Duration = Duration::from_millis(10);
/// Bounds the 99th percentile, judged in the report.
const BAR: Duration = Duration::from_millis(5);
const ENDPOINTS: u16 = 10;

/// The pool of the services' addresses; nobody uses those.
const POOL: &str = "10.100.0.0-10.100.255.255";

struct Size {
    services: u16,
    changes: u32,
}

impl Size {
    fn read() -> anyhow::Result<Self> {
        let number =
            |name: &'static str, default| env::var(name).map_or(Ok(default), |text| text.parse()).context(name);
        Ok(Self { services: u16::try_from(number(SERVICES, 20)?)?, changes: number(CHANGES, 60)? })
    }

    /// How long the agent may take with all of it.
    fn patience(&self) -> Duration {
        SOON + Duration::from_millis(60) * u32::from(self.services)
    }

    /// A change concerns a service, the first endpoint of which gets ready, or the contrary.
    fn change(&self, number: u32) -> (u16, bool) {
        let services = u32::from(self.services);
        (u16::try_from(number % services).unwrap_or(0), number / services % 2 == 1)
    }

    /// At which addresses something is ready in the end.
    fn is_ready(&self, service: u16) -> bool {
        (0..self.changes)
            .map(|number| self.change(number))
            .rfind(|(of, _)| *of == service)
            .is_none_or(|(_, ready)| ready)
    }

    /// Makes the changes, each in its time.
    fn make(&self, mut change: impl FnMut(u16, bool) -> anyhow::Result<()>) -> anyhow::Result<Duration> {
        let began = Instant::now();
        for number in 0..self.changes {
            thread::sleep((began + INTERVAL * number).saturating_duration_since(Instant::now()));
            let (service, ready) = self.change(number);
            change(service, ready)?;
        }
        Ok(began.elapsed())
    }

    /// Waits until the changes are in force, and judges how long they took.
    fn judge(&self, source: &str, taken: Duration, status: impl Fn() -> anyhow::Result<Value>) -> anyhow::Result<()> {
        let status = world::eventually("all changes are in force", || {
            let status = status()?;
            Ok((status["changes"]["count"].as_u64() >= Some(self.changes.into())).then_some(status))
        })?;
        let changes = &status["changes"];
        ensure!(changes["count"] == self.changes, "{changes}");
        let counted =
            changes["histogram"].as_array().into_iter().flatten().filter_map(|times| times["changes"].as_u64());
        ensure!(counted.sum::<u64>() == u64::from(self.changes), "{changes}");
        let frontends = status["frontends"].as_array().context("frontends")?;
        for service in 0..self.services {
            let name = format!("default/s{service}");
            let frontend = frontends.iter().find(|frontend| frontend["service"] == name.as_str());
            let frontend = frontend.with_context(|| format!("{name} is not carried"))?;
            let state = if self.is_ready(service) { "active" } else { "down" };
            ensure!(frontend["backends"][0]["state"] == state, "not {state}: {frontend:#}");
        }
        let ms = |name: &str| changes[name].as_u64().map(|us| Duration::from_micros(us).as_secs_f64() * 1e3);
        let (p50, p99, max) = (ms("p50_us"), ms("p99_us"), ms("max_us"));
        let (p50, p99, max) = p50.zip(p99).zip(max).map(|((p50, p99), max)| (p50, p99, max)).context("no times")?;
        let verdict = if p99 <= BAR.as_secs_f64() * 1e3 { "held" } else { "MISSED" };
        println!(
            "{source}: {} changes in {:.1} s beside {} services, {} endpoints: p50 {p50:.2}  p99 {p99:.2}  max {max:.2} ms  (bar {} ms: \
             {verdict})",
            self.changes,
            taken.as_secs_f64(),
            self.services,
            self.services * ENDPOINTS,
            BAR.as_millis()
        );
        Ok(())
    }
}

/// An endpoint of a service.
fn endpoint(service: u16, number: u16) -> Ipv4Addr {
    let [high, low] = service.to_be_bytes();
    let [_, number] = number.to_be_bytes();
    Ipv4Addr::new(10, 80 + high, low, number + 1)
}

/// A service and its endpoints; the first is ready or not.
fn manifest(service: u16, ready: bool) -> anyhow::Result<String> {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{service}, namespace: default}}\nspec:\n  type: LoadBalancer\n  ports: \
         [{{name: http, port: 80, targetPort: 8080, protocol: TCP}}]\n---\napiVersion: discovery.k8s.io/v1\nkind: \
         EndpointSlice\nmetadata:\n  name: s{service}\n  namespace: default\n  labels: {{kubernetes.io/service-name: \
         s{service}}}\naddressType: IPv4\nports: [{{name: http, port: 8080, protocol: TCP}}]\nendpoints:\n"
    );
    for number in 0..ENDPOINTS {
        let ready = ready || number > 0;
        writeln!(text, "- addresses: [{}]\n  conditions: {{ready: {ready}}}", endpoint(service, number))?;
    }
    Ok(text)
}

fn by_files(sandbox: &Sandbox) -> anyhow::Result<()> {
    let size = Size::read()?;
    let world = World::build(sandbox, &Setup { backends: 1, ..Setup::default() })?;
    let pool = std::fs::read_to_string(world.manifests.directory().join(POOL_FILE))?;
    world.manifests.write(POOL_FILE, &pool.replacen("  addresses:\n", &format!("  addresses:\n  - {POOL}\n"), 1))?;
    for service in 0..size.services {
        world.manifests.write(&format!("s{service}.yaml"), &manifest(service, true)?)?;
    }
    let agent = world.lab.node.spawn(world.balancer.command())?;
    agent.wait_for_line("ready", size.patience())?;
    let taken = size
        .make(|service, ready| Ok(world.manifests.write(&format!("s{service}.yaml"), &manifest(service, ready)?)?))?;
    size.judge("files", taken, || world.status())?;
    let text = world.evenkeel(&["status", "--admin", &format!("unix:{}", world.balancer.admin.display())])?;
    let line = format!("changes: {}, p50 ", size.changes);
    ensure!(text.stdout.contains(&line), "{line:?} is not in {}", text.stdout);
    Ok(())
}

fn by_the_api(sandbox: &Sandbox) -> anyhow::Result<()> {
    const SERVICES: &str = "/api/v1/namespaces/default/services";
    const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let size = Size::read()?;
    let mut cluster = Cluster::build(sandbox, 1)?;
    let pool = json!({ "spec": { "addresses": [POOL] } });
    cluster.request(
        "PATCH",
        &format!("/apis/metallb.io/v1beta1/namespaces/{SYSTEM}/ipaddresspools/lab"),
        Some(&pool),
    )?;
    let endpoints = |service: u16, ready: bool| -> Value {
        (0..ENDPOINTS)
            .map(|number| {
                json!({ "addresses": [endpoint(service, number)], "nodeName": "node-0",
                    "conditions": { "ready": ready || number > 0 } })
            })
            .collect()
    };
    cluster.ask(async |api| {
        for service in 0..size.services {
            let name = format!("s{service}");
            let [high, low] = service.to_be_bytes();
            let body = json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
                "spec": { "type": "LoadBalancer", "selector": { "app": "s" }, "allocateLoadBalancerNodePorts": false,
                    "ports": [{ "name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP" }] } });
            send(&api, "POST", SERVICES, &body).await?;
            let vip = Ipv4Addr::new(10, 100, high, low);
            let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": vip, "ipMode": "VIP" }] } } });
            send(&api, "PATCH", &format!("{SERVICES}/{name}/status"), &status).await?;
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
                "addressType": "IPv4", "endpoints": endpoints(service, true),
                "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }] });
            send(&api, "POST", SLICES, &slice).await?;
        }
        Ok(())
    })?;
    cluster.run_agent(0)?;
    let agent = cluster.nodes[0].agent.as_ref().context("the agent")?;
    agent.wait_for_line("ready", size.patience()).with_context(|| cluster.said())?;
    // It serves before it has taken the addresses, which is work for itself; what is measured is how it goes on.
    let deadline = Instant::now() + size.patience();
    let is_announced = |status: &Value| {
        let vips = status["vips"].as_array();
        vips.is_some_and(|vips| vips.len() >= size.services.into() && vips.iter().all(|vip| vip["announced"] == true))
    };
    while !is_announced(&cluster.status(0)?) {
        ensure!(Instant::now() < deadline, "not all addresses are announced\n{}", cluster.said());
        thread::sleep(Duration::from_millis(500));
    }
    let taken = cluster.ask(async |api| {
        let began = Instant::now();
        let mut pace = tokio::time::interval(INTERVAL);
        for number in 0..size.changes {
            pace.tick().await;
            let (service, ready) = size.change(number);
            let body = json!({ "endpoints": endpoints(service, ready) });
            send(&api, "PATCH", &format!("{SLICES}/s{service}"), &body).await?;
        }
        Ok(began.elapsed())
    })?;
    size.judge("API", taken, || cluster.status(0)).with_context(|| cluster.said())
}

async fn send(api: &kube::Client, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = http::Request::builder().method(method).uri(path).header("content-type", media);
    Ok(api.request(request.body(body.to_string().into_bytes())?).await?)
}
