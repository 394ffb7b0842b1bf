//! `evenkeel-fake-api --listen 127.0.0.1:PORT --kubeconfig FILE`: the fake API server as a process.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use evenkeel_fake_api::{FakeApi, Options};

/// A Kubernetes API server for tests, without a cluster behind it.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen; port 0 takes any that is free.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where to write the admin's kubeconfig.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Enforce RBAC.
    #[arg(long)]
    rbac: bool,
    /// Speak TLS, with a certificate of an authority the kubeconfig names.
    #[arg(long)]
    tls: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let options = Options { rbac: arguments.rbac, tls: arguments.tls, ..Options::default() };
    let api = FakeApi::start(arguments.listen, options).await?;
    // Whoever waits for the file finds it whole.
    let part = arguments.kubeconfig.with_extension("part");
    std::fs::write(&part, api.kubeconfig())?;
    std::fs::rename(&part, &arguments.kubeconfig)?;
    println!("listening at {}", api.url());
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
