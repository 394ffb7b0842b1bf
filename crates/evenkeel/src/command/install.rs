//! `evenkeel install`: sets a cluster up, in one command.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use evenkeel_plan::range::IpRange;
use kube::Client;
use serde_json::{Value, json};

use crate::cluster::check::{Finding, cluster};
use crate::cluster::manifests::{self, Choice};
use crate::cluster::objects::{Place, list};
use crate::cluster::{NAMESPACE, client, count, rollout, text};

/// Install Evenkeel in a Kubernetes cluster: the one KUBECONFIG names.
///
/// Looks at the cluster, applies the manifests within this binary, and says how it went. To be repeated at any time, also
/// to upgrade. What is installed is the chart with its default values; use the chart for more choice.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Make a pool of these addresses and announce them: a CIDR, or FIRST-LAST
    #[arg(long = "pool", value_delimiter = ',', value_name = "RANGE")]
    pools: Vec<String>,
    /// Where it is installed; its configuration lives there too
    #[arg(long, default_value = NAMESPACE, value_name = "NAMESPACE")]
    namespace: String,
    /// The image [default: that of this version]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The nodes' uplinks [default: that of each node's default route]
    #[arg(long = "interface", value_delimiter = ',', value_name = "IF")]
    interfaces: Vec<String>,
    /// How packets reach the backends [default: stack]
    #[arg(long, value_parser = ["stack", "direct"])]
    forwarding: Option<String>,
    /// Serve the services of this spec.loadBalancerClass only
    #[arg(long, value_name = "CLASS")]
    lb_class: Option<String>,
    /// Wait until every node carries its services
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, default_value = "5m", value_name = "TIME")]
    timeout: humantime::Duration,
    /// Have the API check everything and change nothing
    #[arg(long, conflicts_with_all = ["wait", "uninstall"])]
    dry_run: bool,
    /// Take it back: withdraw the addresses on every node, detach, and delete what was installed. Pools, their
    /// definitions, the namespace and the addresses in services' statuses stay
    #[arg(long, conflicts_with_all = ["pools", "wait"])]
    uninstall: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    for range in &args.pools {
        let remedy = "give a CIDR such as 192.168.1.96/28, or a range such as 192.168.1.100-192.168.1.110";
        range.parse::<IpRange>().with_context(|| format!("--pool {range}: {remedy}"))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = client().await?;
        if args.uninstall { args.remove(&client).await } else { args.install(&client).await }
    })
}

impl Args {
    fn choice(&self) -> Choice {
        Choice {
            namespace: self.namespace.clone(),
            image: self.image.clone(),
            interfaces: self.interfaces.clone(),
            forwarding: self.forwarding.clone(),
            lb_class: self.lb_class.clone(),
        }
    }

    async fn install(&self, client: &Client) -> anyhow::Result<ExitCode> {
        let objects = manifests::objects(&self.choice())?;
        println!("checking");
        let mut bad = false;
        for finding in cluster(client, &objects, &self.namespace).await? {
            match finding {
                Finding::Good(text) => println!("  ok    {text}"),
                Finding::Note(text) => println!("  note  {text}"),
                Finding::Bad(text) => {
                    println!("  no    {text}");
                    bad = true;
                }
            }
        }
        if bad {
            bail!("nothing was changed");
        }
        println!("applying{}", if self.dry_run { " (dry run)" } else { "" });
        self.apply(client, &objects).await?;
        if self.dry_run {
            return Ok(ExitCode::SUCCESS);
        }
        if !self.pools.is_empty() {
            for object in manifests::pool(&self.namespace, &self.pools) {
                self.apply_one(client, &object).await?;
            }
        }
        if self.wait {
            println!("waiting");
            self.wait(client, &objects).await?;
        }
        self.show(client).await?;
        Ok(ExitCode::SUCCESS)
    }

    async fn apply(&self, client: &Client, objects: &[Value]) -> anyhow::Result<()> {
        for object in objects {
            let place = Place::of(object)?;
            // What is in a namespace that is not there cannot be tried.
            if self.dry_run && !place.namespace.is_empty() && self.namespace_of(client).await?.is_none() {
                println!("  {place}: not tried, namespace {} would be new", place.namespace);
                continue;
            }
            self.apply_one(client, object).await?;
            if place.kind == "CustomResourceDefinition" && !self.dry_run {
                rollout::await_established(client, &place, self.timeout.into()).await?;
            }
        }
        Ok(())
    }

    async fn namespace_of(&self, client: &Client) -> anyhow::Result<Option<Value>> {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace},
        });
        Place::of(&namespace)?.get(client).await
    }

    async fn apply_one(&self, client: &Client, object: &Value) -> anyhow::Result<()> {
        let place = Place::of(object)?;
        let before = place.get(client).await?;
        if before.as_ref().is_some_and(is_converted) && !self.dry_run {
            place.merge(client, &not_converted()).await?;
        }
        let after = place.apply(client, object, self.dry_run).await?;
        let version = |object: &Value| text(object, "/metadata/resourceVersion").to_owned();
        let done = match before {
            None => "created",
            Some(before) if self.dry_run || version(&before) != version(&after) => "configured",
            Some(_) => "unchanged",
        };
        println!("  {place}: {done}");
        Ok(())
    }

    async fn wait(&self, client: &Client, objects: &[Value]) -> anyhow::Result<()> {
        for object in objects {
            let place = Place::of(object)?;
            if matches!(place.kind.as_str(), "DaemonSet" | "Deployment") {
                let tell = |ready, wanted| println!("  {place}: {ready} of {wanted} pods ready");
                rollout::await_rollout(client, &place, self.timeout.into(), tell).await?;
            }
        }
        Ok(())
    }

    /// What there is now, as far as the controller has said anything of it.
    async fn show(&self, client: &Client) -> anyhow::Result<()> {
        let metallb = |plural: &str| format!("/apis/metallb.io/v1beta1/namespaces/{}/{plural}", self.namespace);
        println!("configuration");
        let pools = list(client, &metallb("ipaddresspools"), "").await?;
        if pools.is_empty() {
            println!("  no pool yet: give one by --pool, or apply an IPAddressPool and an L2Advertisement");
        }
        for pool in &pools {
            let ranges = pool.pointer("/spec/addresses").and_then(Value::as_array);
            let ranges: Vec<&str> = ranges.into_iter().flatten().filter_map(Value::as_str).collect();
            let used = count(pool, "/status/assignedIPv4") + count(pool, "/status/assignedIPv6");
            println!("  IPAddressPool {}: {}; {used} in use", text(pool, "/metadata/name"), ranges.join(", "));
        }
        for state in list(client, &metallb("configurationstates"), "").await? {
            let summary = text(&state, "/status/errorSummary").replace('\n', "; ");
            println!("  {}{}{summary}", text(&state, "/status/result"), if summary.is_empty() { "" } else { ": " });
        }
        println!("services");
        let services = list(client, "/api/v1/services", "").await?;
        let balanced: Vec<&Value> =
            services.iter().filter(|service| text(service, "/spec/type") == "LoadBalancer").collect();
        if balanced.is_empty() {
            println!("  none of type LoadBalancer yet");
        }
        for service in balanced {
            let ingress = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array);
            let addresses: Vec<&str> = ingress.into_iter().flatten().map(|ingress| text(ingress, "/ip")).collect();
            let addresses = if addresses.is_empty() { "no address yet".to_owned() } else { addresses.join(", ") };
            let (namespace, name) = (text(service, "/metadata/namespace"), text(service, "/metadata/name"));
            println!("  {namespace}/{name}: {addresses}");
        }
        Ok(())
    }

    async fn remove(&self, client: &Client) -> anyhow::Result<ExitCode> {
        let objects = manifests::objects(&self.choice())?;
        let agents = objects.iter().find(|object| text(object, "/kind") == "DaemonSet");
        let agents = Place::of(agents.context("the manifests within have no DaemonSet")?)?;
        rollout::withdraw(client, &agents, Duration::from(self.timeout)).await?;
        println!("deleting");
        for object in objects.iter().rev() {
            let place = Place::of(object)?;
            // Deleting definitions or the namespace would delete the pools.
            if matches!(place.kind.as_str(), "CustomResourceDefinition" | "Namespace") {
                continue;
            }
            let done = if place.delete(client).await? { "deleted" } else { "not there" };
            println!("  {place}: {done}");
        }
        println!("pools, their definitions and namespace {} stay", self.namespace);
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether a webhook converts between the versions of a definition: MetalLB's does for `BGPPeer`, up to 0.14.9.
fn is_converted(definition: &Value) -> bool {
    text(definition, "/kind") == "CustomResourceDefinition"
        && text(definition, "/spec/conversion/strategy") == "Webhook"
}

/// Without MetalLB nobody answers its webhook, and what is stored in a former version could not even be listed. Ours need no
/// conversion. To apply a definition does not end it: what an apply does not name stays, and the API refuses a strategy
/// without the webhook beside the webhook.
fn not_converted() -> Value {
    json!({"spec": {"conversion": {"strategy": "None", "webhook": null}}})
}
