//! The guides, walked through: every command of their `console` blocks is run as it stands there, and what a block says
//! it says has to be said. The lab's network takes the place of the guide's, and the test that of what a cluster does by itself:
//! it runs pods, and puts them behind services.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use evenkeel_fake_api::Options;
use evenkeel_lab::Sandbox;
use serde_json::json;

use crate::{
    Test,
    cluster::{Cluster, SYSTEM},
    installed::{Installed, tool},
    world::{self, Ended},
};

pub(crate) const TESTS: &[Test] = &[("guides::a_pool_by_layer_2", pool_by_layer_2), ("guides::from_xlb", from_xlb)];

/// What of the guides' network is what of the lab's.
const NETWORK: [(&str, &str); 2] = [("192.168.1.", "10.77.0."), ("eth0", "up0")];
/// How long a command may take, and how long it is asked again until it says what it should.
const PATIENCE: Duration = Duration::from_secs(120);
const INTERVAL: Duration = Duration::from_millis(200);

fn pool_by_layer_2(sandbox: &Sandbox) -> anyhow::Result<()> {
    Walk::start(sandbox)?.through("pool-by-layer-2.md", "esddns-production", "esddns-service")
}

fn from_xlb(sandbox: &Sandbox) -> anyhow::Result<()> {
    Walk::start(sandbox)?.through("from-xlb.md", "default", "backend-service")
}

/// A command of a guide.
#[derive(Debug)]
struct Step {
    line: usize,
    /// Where: at the administrator's (empty), at a `client`, or on a `node`.
    place: &'static str,
    command: String,
    /// Lines that have to be said, each with its words in this order.
    says: Vec<String>,
}

/// The commands of a guide's `console` blocks.
fn steps(text: &str) -> anyhow::Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut within = false;
    for (n, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            within = line == "```console";
            continue;
        }
        if !within {
            continue;
        }
        let prompt = ["", "client", "node"].into_iter().find_map(|place| {
            let command = line.strip_prefix(place)?.strip_prefix("$ ")?;
            Some((place, command))
        });
        match (prompt, steps.last_mut()) {
            (Some((place, command)), _) => {
                steps.push(Step { line: n + 1, place, command: command.to_owned(), says: Vec::new() });
            }
            (None, Some(step)) => match line.strip_prefix("> ") {
                Some(more) => step.command += &format!("\n{more}"),
                None if line == "..." => {}
                None => step.says.push(line.to_owned()),
            },
            (None, None) => bail!("line {}: a block begins without a command", n + 1),
        }
    }
    ensure!(!steps.is_empty(), "no commands");
    Ok(steps)
}

/// Whether one line has all these words in their order.
fn says(text: &str, wanted: &str) -> bool {
    text.lines().any(|line| {
        let mut rest = line;
        wanted.split_whitespace().all(|word| match rest.find(word) {
            Some(at) => {
                rest = &rest[at + word.len()..];
                true
            }
            None => false,
        })
    })
}

/// A cluster on the way through a guide.
struct Walk {
    before: Option<Cluster>,
    installed: Option<Installed>,
    /// What the guide's shell knows.
    variables: BTreeMap<String, String>,
}

impl Walk {
    fn start(sandbox: &Sandbox) -> anyhow::Result<Self> {
        let cluster = Cluster::wire(sandbox, 2, Options { rbac: true, tls: true, ..Options::default() })?;
        cluster.register_nodes()?;
        Ok(Self { before: Some(cluster), installed: None, variables: BTreeMap::new() })
    }

    fn cluster(&self) -> anyhow::Result<&Cluster> {
        let installed = self.installed.as_ref().map(|installed| &installed.cluster);
        installed.or(self.before.as_ref()).context("there is no cluster")
    }

    fn through(mut self, guide: &str, namespace: &str, service: &str) -> anyhow::Result<()> {
        let text = fs::read_to_string(root().join("docs/guides").join(guide))?;
        let text = NETWORK.iter().fold(text, |text, (theirs, ours)| text.replace(theirs, ours));
        for step in steps(&text)? {
            let told = || format!("{guide}:{}: {}", step.line, step.command);
            self.carry_out(&step).with_context(told).with_context(|| self.said())?;
            self.do_what_a_cluster_does(&step, namespace, service).with_context(told)?;
        }
        self.cluster()?.api.ensure_nothing_refused()
    }

    /// What a step says, once it is what it should say.
    fn carry_out(&mut self, step: &Step) -> anyhow::Result<()> {
        if let Some((name, question)) = step.command.split_once("=$(").filter(|(name, _)| is_variable(name)) {
            let question = question.strip_suffix(')').context("no end of `$(`")?;
            let until = Instant::now() + PATIENCE;
            loop {
                let Ended { status, stdout, stderr } = self.run(step.place, question)?;
                if status.success() && !stdout.trim().is_empty() {
                    self.variables.insert(name.to_owned(), stdout.trim().to_owned());
                    return Ok(());
                }
                ensure!(Instant::now() < until, "{status}: {stdout}{stderr}");
                std::thread::sleep(INTERVAL);
            }
        }
        let questions = ["kubectl get", "curl", "evenkeel status"];
        let is_question = questions.iter().any(|question| step.command.starts_with(question));
        let until = Instant::now() + PATIENCE;
        loop {
            let Ended { status, stdout, stderr } = self.run(step.place, &step.command)?;
            let missing = step.says.iter().find(|wanted| !says(&stdout, wanted));
            if status.success() && missing.is_none() {
                return Ok(());
            }
            if !is_question || Instant::now() > until {
                bail!("{status}; not said: {missing:?}\n{stdout}\n{stderr}");
            }
            std::thread::sleep(INTERVAL);
        }
    }

    fn run(&self, place: &str, text: &str) -> anyhow::Result<Ended> {
        let cluster = self.cluster()?;
        let program = world::program()?;
        let own = program.parent().context("the binary has no directory")?.display().to_string();
        let tools = tool("kubectl")?.parent().context("kubectl has no directory")?.display().to_string();
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", text]).current_dir(root()).envs(&self.variables);
        command.env("PATH", format!("{tools}:{own}:{}", std::env::var("PATH")?));
        command.env("HOME", cluster.directory.path());
        let namespace = match place {
            "client" => &cluster.client,
            "node" => {
                let node = &cluster.nodes[0];
                command.env("EVENKEEL_NODE", &node.name).env("EVENKEEL_ADMIN", format!("unix:{}", node.admin));
                &node.namespace
            }
            _ => {
                command.env("KUBECONFIG", cluster.kubeconfig());
                cluster.beside_api()
            }
        };
        world::finish_within(namespace, command, PATIENCE)
    }

    fn do_what_a_cluster_does(&mut self, step: &Step, namespace: &str, service: &str) -> anyhow::Result<()> {
        let installs = ["evenkeel install", "helm install"].iter().any(|begin| step.command.starts_with(begin));
        if installs && let Some(cluster) = self.before.take() {
            self.installed = Some(Installed::run(cluster)?);
            let workloads = format!("/apis/apps/v1/namespaces/{SYSTEM}");
            let deployment = json!({ "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2 });
            let agents = json!({ "desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberMisscheduled": 0,
                "numberReady": 2, "updatedNumberScheduled": 2, "numberAvailable": 2 });
            for (workload, status) in
                [("deployments/evenkeel-controller", deployment), ("daemonsets/evenkeel-agent", agents)]
            {
                let path = format!("{workloads}/{workload}");
                let mut status = json!({ "status": status });
                status["status"]["observedGeneration"] =
                    self.cluster()?.request("GET", &path, None)?["metadata"]["generation"].clone();
                self.cluster()?.request("PATCH", &format!("{path}/status"), Some(&status))?;
            }
        }
        if step.command.contains("kind: Service\n") {
            let cluster = self.cluster()?;
            for slice in cluster.slices(service, &[0, 1]) {
                let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
                cluster.post(&path, "EndpointSlice", &slice)?;
            }
        }
        Ok(())
    }

    fn said(&self) -> String {
        self.installed.as_ref().map(Installed::said).unwrap_or_default()
    }
}

fn is_variable(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}
