//! `evenkeel controller`: the cluster's elected part.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use evenkeel_controller::Config;
use evenkeel_controller::election::Times;
use evenkeel_process::{logging, shutdown};
use evenkeel_sources::kubernetes;

/// Give services their addresses, in a cluster: one of several replicas does, elected by a Lease.
///
/// The cluster is the one the pod runs in, or the one KUBECONFIG names. SIGTERM ends the process once what is under way is
/// written, and releases the Lease.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The namespace this program and its configuration live in [default: that of the pod or the kubeconfig]
    #[arg(long, env = "EVENKEEL_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Serve the services of this spec.loadBalancerClass only [default: those that name none]
    #[arg(long, env = "EVENKEEL_LB_CLASS", value_name = "CLASS")]
    lb_class: Option<String>,
    /// What tells this replica from the others [default: the host name, which is the pod's]
    #[arg(long, env = "EVENKEEL_IDENTITY", value_name = "NAME")]
    identity: Option<String>,
    /// The Lease of the election
    #[arg(long, env = "EVENKEEL_LEASE", default_value = "evenkeel-controller", value_name = "NAME")]
    lease: String,
    /// How long others wait for a leader that does not renew
    #[arg(long, env = "EVENKEEL_LEASE_DURATION", default_value = "15s", value_name = "TIME")]
    lease_duration: humantime::Duration,
    /// How long a leader goes on without renewing
    #[arg(long, env = "EVENKEEL_RENEW_DEADLINE", default_value = "10s", value_name = "TIME")]
    renew_deadline: humantime::Duration,
    /// How often the Lease is looked at
    #[arg(long, env = "EVENKEEL_RETRY_PERIOD", default_value = "2s", value_name = "TIME")]
    retry_period: humantime::Duration,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, env = "EVENKEEL_LISTEN", default_value = "[::]:7472", value_name = "IP:PORT")]
    listen: SocketAddr,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    logging::init("info")?;
    let times = Times {
        lease_duration: args.lease_duration.into(),
        renew_deadline: args.renew_deadline.into(),
        retry_period: args.retry_period.into(),
    };
    times.check()?;
    let shutdown = shutdown::on_signal()?;
    // Plans are made on this thread; the Lease is renewed on the other however long that takes.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let client = kubernetes::connect().await.context("no cluster: run in one, or name it by KUBECONFIG")?;
        let host_name = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let config = Config {
            namespace: args.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned()),
            load_balancer_class: args.lb_class.clone(),
            identity: args.identity.clone().unwrap_or_else(host_name),
            lease: args.lease.clone(),
            times,
            listen: args.listen,
        };
        tracing::info!(
            namespace = config.namespace,
            identity = config.identity,
            version = env!("CARGO_PKG_VERSION"),
            "starting"
        );
        evenkeel_controller::run(config, client, shutdown, |address| {
            tracing::info!(%address, "serving health and metrics");
            let mut stdout = io::stdout().lock();
            // Whether anybody reads it is not our concern.
            let _ = writeln!(stdout, "listening {address}").and_then(|()| stdout.flush());
        })
        .await?;
        anyhow::Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}
