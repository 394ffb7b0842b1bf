//! `evenkeel agent`: one node of a cluster.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use evenkeel_agent::{ClusterConfig, Config, desired::Defaults};
use evenkeel_process::logging;
use evenkeel_sources::kubernetes::{self, Options};

use super::run::{DataPathArgs, ForwardingArg, NodeAddressArgs, NodeArgs, ScopeArgs, drive};

/// Carry the services of a Kubernetes cluster on this node, and announce those addresses that are its.
///
/// The cluster is the one the pod runs in, or the one KUBECONFIG names. Runs on every node. Prints `ready` on stdout
/// once everything this node should carry is carried and announced. SIGTERM ends the process and leaves the data path up;
/// while the API is away, and while no agent runs, it goes on.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    node_addresses: NodeAddressArgs,
    #[command(flatten)]
    data_path: DataPathArgs,
    /// The namespace this program and its configuration live in [default: that of the pod or the kubeconfig]
    #[arg(long, env = "EVENKEEL_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// How packets reach the backends of services that do not choose (annotation evenkeel.io/forwarding)
    #[arg(long, env = "EVENKEEL_FORWARDING", value_enum, default_value = "stack")]
    forwarding: ForwardingArg,
    /// How long the data path answers for addresses while no agent attends to it; 0s: for good
    #[arg(long, env = "EVENKEEL_UNATTENDED_LIMIT", default_value = "15m", value_name = "DURATION")]
    unattended_limit: humantime::Duration,
    /// Answer at the health check node ports of services with externalTrafficPolicy Local: for nodes without a kube-proxy,
    /// which has these ports where it runs
    #[arg(long, env = "EVENKEEL_HEALTH_CHECK_NODE_PORTS")]
    health_check_node_ports: bool,
    /// On SIGTERM give this node's addresses to other nodes before the end
    #[arg(long, env = "EVENKEEL_RELEASE")]
    release: bool,
}

/// On a node each port is had by one pod, and MetalLB's, which this program may replace node by node, are on the same nodes:
/// its speaker has 7472 and 7946, FRR beside it 7473, or 7572 and 7573, and their proxies 9120 and 9121. The chart has the
/// same port in `values.yaml`.
pub(crate) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 7475);

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    logging::init("info")?;
    // A pod on another node answers by its own way.
    let defaults = Defaults { forwarding: args.forwarding.into(), masquerade: true };
    let config = args.data_path.config(&args.node, &args.scope, defaults)?;
    drive(config, async |config: &mut Config| {
        let client = kubernetes::connect().await.context("no cluster: run in one, or name it by KUBECONFIG")?;
        let namespace = args.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        config.listen.get_or_insert(LISTEN);
        config.health_check_node_ports = args.health_check_node_ports;
        let limit = Duration::from(args.unattended_limit);
        config.cluster = Some(ClusterConfig {
            client: client.clone(),
            namespace: namespace.clone(),
            unattended_limit: (!limit.is_zero()).then_some(limit),
            release: args.release,
            timing: evenkeel_agent::Timing::default(),
        });
        let node_address_use = args.node_addresses.permitted();
        Ok(kubernetes::watch(client, Options { node_address_use, ..Options::new(namespace) }))
    })
}
