//! `evenkeel uninstall`: removes the data path that a node left up.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use evenkeel_process::http::{self, Vitals};
use evenkeel_process::shutdown;

use serde_json::json;

use super::agent::LISTEN;
use super::run::NodeArgs;
use crate::cluster::objects::Place;
use crate::cluster::{client, rollout};

/// Remove a node's data path from this machine: withdraw its VIPs, detach the programs, remove the pinned maps.
///
/// The agent must have ended. What it remembers (addresses and owners, in its state directory) stays.
///
/// With --cluster it does so on every node: it has the agents' DaemonSet run this command in their place, and waits until
/// that is done everywhere. The chart runs this before it is deleted.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    node: NodeArgs,
    /// Then stay until SIGTERM, as a pod has to, and say at /readyz that it is done
    #[arg(long, conflicts_with = "cluster")]
    stay: bool,
    /// Where /healthz and /readyz are served in the meantime
    #[arg(long, default_value_t = LISTEN, requires = "stay", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// On every node of the cluster that the pod runs in, or that KUBECONFIG names
    #[arg(long)]
    cluster: bool,
    /// The namespace of the agents [default: that of the pod or the kubeconfig]
    #[arg(long, requires = "cluster", value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Their DaemonSet
    #[arg(long, default_value = "evenkeel-agent", requires = "cluster", value_name = "NAME")]
    daemon_set: String,
    /// How long all nodes may take together
    #[arg(long, default_value = "4m", requires = "cluster", value_name = "TIME")]
    timeout: humantime::Duration,
}

/// What is to be said once everything is removed.
struct Removed;

impl Vitals for Removed {
    fn alive(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    async fn metrics(&self) -> Result<String, String> {
        Ok("# EOF\n".to_owned())
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.cluster {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(args.everywhere())?;
        return Ok(ExitCode::SUCCESS);
    }
    remove(&args.node.name()?)?;
    if args.stay {
        let shutdown = shutdown::on_signal()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener =
                http::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
            http::serve(listener, Arc::new(Removed), shutdown).await;
            anyhow::Ok(())
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    async fn everywhere(&self) -> anyhow::Result<()> {
        let client = client().await?;
        let namespace = self.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let agents = Place::of(&json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": self.daemon_set, "namespace": namespace},
        }))?;
        rollout::withdraw(&client, &agents, self.timeout.into()).await
    }
}

fn remove(node: &str) -> anyhow::Result<()> {
    if evenkeel_agent::uninstall(node).with_context(|| format!("cannot remove the data path of {node}"))? {
        println!("{node}: VIPs withdrawn, programs detached, pins removed");
        return Ok(());
    }
    println!("{node}: nothing to remove");
    let others = evenkeel_loader::nodes();
    if !others.is_empty() {
        println!("this machine has the data path of: {} (choose with --node)", others.join(", "));
    }
    Ok(())
}
