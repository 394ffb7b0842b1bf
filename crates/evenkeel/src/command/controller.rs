//! `evenkeel controller`: the cluster's elected part.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use evenkeel_controller::election::Times;
use evenkeel_controller::{Config, webhook};
use evenkeel_process::{logging, shutdown};
use evenkeel_sources::kubernetes;

use super::run::NodeAddressArgs;

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
    #[command(flatten)]
    node_addresses: NodeAddressArgs,
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
    /// Serve a validating webhook, which refuses bad configuration when it is applied: the name of its Service, its
    /// ValidatingWebhookConfiguration, and the Secret for its certificate
    #[arg(long, env = "EVENKEEL_WEBHOOK", value_name = "NAME")]
    webhook: Option<String>,
    /// Where the webhook is served, by HTTPS
    #[arg(long, env = "EVENKEEL_WEBHOOK_LISTEN", default_value = "[::]:9443", value_name = "IP:PORT")]
    webhook_listen: SocketAddr,
    /// How long the webhook's certificate is good for; it is replaced when a third of that is left
    #[arg(long, env = "EVENKEEL_WEBHOOK_VALIDITY", default_value = "90d", value_name = "TIME")]
    webhook_validity: humantime::Duration,
}

/// How long a certificate may be good for.
const MIN_VALIDITY: Duration = Duration::from_secs(30);
const MAX_VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Args {
    fn webhook(&self) -> anyhow::Result<Option<webhook::Config>> {
        let validity = Duration::from(self.webhook_validity);
        ensure!(validity >= MIN_VALIDITY, "--webhook-validity {validity:?}: give at least {MIN_VALIDITY:?}");
        ensure!(validity <= MAX_VALIDITY, "--webhook-validity {validity:?}: give at most 10 years");
        let config = |name: &String| webhook::Config { name: name.clone(), listen: self.webhook_listen, validity };
        Ok(self.webhook.as_ref().map(config))
    }
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
            node_address_use: args.node_addresses.permitted(),
            identity: args.identity.clone().unwrap_or_else(host_name),
            lease: args.lease.clone(),
            times,
            listen: args.listen,
            webhook: args.webhook()?,
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
