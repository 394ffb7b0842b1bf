//! The API server of a cluster in namespaces: the stand-in for one, or the real one that `KUBECONFIG` names, which is reached
//! through a relay.
//!
//! A real one has to be there for these tests alone, a control plane without nodes: they make and delete nodes, services and
//! namespaces as if it were theirs, and leave alone one that is in use. Tests that have the API misbehave, or count what it was asked, need the stand-in and are
//! left out.

use std::{
    collections::BTreeMap,
    env,
    net::{SocketAddr, TcpListener},
};

use anyhow::{Context as _, bail, ensure};
use evenkeel_fake_api::{FakeApi, Handle, Options, User};
use evenkeel_lab::Namespace;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpStream, lookup_host},
    runtime::Runtime,
};

use crate::{cluster::SYSTEM, world::eventually};

/// Where the API is, for nodes and tools.
const LISTEN: &str = "10.78.0.1:6443";
/// Says that a cluster is these tests' own.
const MARK: &str = "evenkeel-lab";
const MARKS: &str = "/api/v1/namespaces/default/configmaps";
const NODES: &str = "/api/v1/nodes";
const NAMESPACES: &str = "/api/v1/namespaces";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// Namespaces that every cluster has.
const STANDING: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// Whether tests use the cluster that `KUBECONFIG` names.
pub(crate) fn is_real() -> bool {
    env::var_os("KUBECONFIG").is_some()
}

/// The API server.
pub(crate) struct Api {
    kind: Kind,
    _runtime: Runtime,
}

enum Kind {
    StandIn(Handle),
    /// As it is seen from the namespaces.
    Real(Kubeconfig),
}

impl Api {
    /// Starts what answers in `namespace`. `options` are the stand-in's.
    pub(crate) fn start(namespace: &Namespace, options: Options) -> anyhow::Result<Self> {
        let listen: SocketAddr = LISTEN.parse()?;
        if is_real() {
            return Self::relay(namespace, listen);
        }
        // Its threads are where the API is: it may have to listen anew.
        let runtime = namespace.enter(Runtime::new)??;
        let handle = namespace.enter(|| runtime.block_on(FakeApi::start(listen, options)))??;
        Ok(Self { kind: Kind::StandIn(handle), _runtime: runtime })
    }

    /// Brings connections from `namespace` to the real server, which is emptied first.
    fn relay(namespace: &Namespace, listen: SocketAddr) -> anyhow::Result<Self> {
        let listener = namespace.enter(|| TcpListener::bind(listen))??;
        listener.set_nonblocking(true)?;
        let runtime = Runtime::new()?;
        let mut kubeconfig = Kubeconfig::read().context("the cluster of KUBECONFIG")?;
        let (server, client) = runtime.block_on(async {
            let config =
                kube::Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default()).await?;
            let host = config.cluster_url.host().context("no host in the server's URL")?.to_owned();
            let port = config.cluster_url.port_u16().unwrap_or(443);
            let server = lookup_host((host.trim_matches(['[', ']']), port)).await?.next().context("no address")?;
            for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
                cluster.server = Some(format!("https://{listen}"));
                cluster.tls_server_name.get_or_insert(host.clone());
            }
            anyhow::Ok((server, kube::Client::try_from(config)?))
        })?;
        empty(&runtime, &client)?;
        runtime.spawn(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            while let Ok((mut here, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut there = TcpStream::connect(server).await?;
                    copy_bidirectional(&mut here, &mut there).await
                });
            }
        });
        Ok(Self { kind: Kind::Real(kubeconfig), _runtime: runtime })
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> anyhow::Result<String> {
        match &self.kind {
            Kind::StandIn(handle) => Ok(handle.kubeconfig()),
            // JSON is YAML.
            Kind::Real(kubeconfig) => Ok(serde_json::to_string_pretty(kubeconfig)?),
        }
    }

    /// A service account's, of [`SYSTEM`]. `ask` asks the API as the administrator.
    pub(crate) fn kubeconfig_of(
        &self,
        account: &str,
        ask: impl FnOnce(&str, &Value) -> anyhow::Result<Value>,
    ) -> anyhow::Result<String> {
        let kubeconfig = match &self.kind {
            Kind::StandIn(handle) => return Ok(handle.kubeconfig_for(User::service_account(SYSTEM, account))),
            Kind::Real(kubeconfig) => kubeconfig,
        };
        let path = format!("/api/v1/namespaces/{SYSTEM}/serviceaccounts/{account}/token");
        let answer = ask(&path, &json!({ "spec": { "expirationSeconds": 7200 } }))?;
        let token = answer["status"]["token"].as_str().with_context(|| format!("no token for {account}: {answer}"))?;
        let mut kubeconfig = kubeconfig.clone();
        for user in &mut kubeconfig.auth_infos {
            user.auth_info = Some(AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() });
        }
        Ok(serde_json::to_string_pretty(&kubeconfig)?)
    }

    /// The stand-in, for what only it can do.
    pub(crate) fn stand_in(&self) -> anyhow::Result<&Handle> {
        match &self.kind {
            Kind::StandIn(handle) => Ok(handle),
            Kind::Real(_) => bail!("this test needs the stand-in: run it without KUBECONFIG"),
        }
    }

    /// RBAC has refused nothing, as far as the server tells.
    pub(crate) fn ensure_nothing_refused(&self) -> anyhow::Result<()> {
        let refusals = match &self.kind {
            Kind::StandIn(handle) => handle.refusals(),
            Kind::Real(_) => BTreeMap::new(),
        };
        ensure!(refusals.is_empty(), "refused: {refusals:#?}");
        Ok(())
    }
}

/// Removes what tests have left, from a cluster that is theirs.
fn empty(runtime: &Runtime, client: &kube::Client) -> anyhow::Result<()> {
    let ask = |method: &str, path: &str, body: Option<Value>| -> anyhow::Result<Value> {
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        Ok(runtime.block_on(client.request(request.body(body)?))?)
    };
    let names = |path: &str| -> anyhow::Result<Vec<String>> {
        let list = ask("GET", path, None)?;
        let items = list["items"].as_array().into_iter().flatten();
        Ok(items.filter_map(|item| Some(item["metadata"]["name"].as_str()?.to_owned())).collect())
    };
    let is_ours = |path: &str, name: &str| match path {
        NAMESPACES => !STANDING.contains(&name),
        DEFINITIONS => name.ends_with(".metallb.io"),
        _ if path.contains("clusterrole") || path.contains("webhook") => name.starts_with("evenkeel"),
        _ => name != "kubernetes",
    };
    if ask("GET", &format!("{MARKS}/{MARK}"), None).is_err() {
        for path in [NODES, NAMESPACES, SERVICES] {
            let foreign: Vec<String> = names(path)?.into_iter().filter(|name| is_ours(path, name)).collect();
            ensure!(
                foreign.is_empty(),
                "the cluster of KUBECONFIG is in use, and these tests would empty it ({path}: {}): give them a control plane of their \
                 own, or unset KUBECONFIG, which has them use a stand-in",
                foreign.join(", ")
            );
        }
        let mark = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": MARK } });
        ask("POST", MARKS, Some(mark))?;
    }
    const OTHERS: [&str; 5] = [
        SERVICES,
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    ];
    for path in [DEFINITIONS, NODES].iter().chain(&OTHERS).chain(&[NAMESPACES]) {
        for name in names(path)?.iter().filter(|name| is_ours(path, name)) {
            // It may go with another one.
            let _ = ask("DELETE", &format!("{path}/{name}"), None);
        }
    }
    eventually("what tests have left is deleted", || {
        for path in [NAMESPACES, DEFINITIONS] {
            if names(path)?.iter().any(|name| is_ours(path, name)) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}
