//! A Kubernetes API server for tests: real HTTP, no cluster behind it.
//!
//! It stores objects, checks them, merges what is applied, and tells watches; controllers there are none, but for what
//! follows from a deletion. Where it has an answer, it is that of Kubernetes 1.36. Faults are put in by the [`Handle`],
//! or over HTTP at `/_fake/`.
//!
//! ```text
//! http ── who, what, may they? ──> read ──> store: objects by kind, changes by kind
//!                             └──> write ─> defaults, schema, rules, webhooks ──> store
//! ```

mod auth;
mod cel;
mod collect;
mod control;
mod discovery;
mod error;
mod faults;
mod http;
mod kinds;
mod listen;
mod object;
mod patch;
mod protobuf;
mod read;
mod registry;
mod schema;
mod select;
mod server;
mod service;
mod special;
mod store;
mod table;
mod tls;
mod webhook;
mod write;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use auth::{Used, User};
pub use error::{ApiError, Cause};
pub use faults::Mood;
pub use registry::Resource;
pub use server::Options;
pub use service::Families;

use server::Server;

/// The fake API server.
#[derive(Debug)]
pub struct FakeApi;

/// A running server, stopped when this is dropped.
#[derive(Debug)]
pub struct Handle {
    server: Arc<Server>,
    address: SocketAddr,
    authority: Option<String>,
    _stop: DropGuard,
}

impl FakeApi {
    /// Starts a server at `listen`; port 0 takes any that is free.
    ///
    /// # Errors
    /// The address cannot be listened at.
    pub async fn start(listen: SocketAddr, options: Options) -> anyhow::Result<Handle> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let identity = if options.tls { Some(tls::identity(address)?) } else { None };
        let authority = identity.as_ref().map(|identity| identity.authority.clone());
        let server = Arc::new(Server::new(options));
        seed(&server)?;
        let stop = CancellationToken::new();
        tokio::spawn(listen::run(server.clone(), listener, identity, stop.clone()));
        Ok(Handle { server, address, authority, _stop: stop.drop_guard() })
    }
}

/// What every cluster has from the start.
fn seed(server: &Server) -> anyhow::Result<()> {
    let mut state = server.state();
    let registry = state.registry.clone();
    let mut put = |version: &str, kind: &str, namespace: &str, mut object: Value| -> anyhow::Result<()> {
        let resource = registry.by_kind(version, kind).ok_or_else(|| anyhow::anyhow!("no kind {kind}"))?;
        for (name, value) in [("apiVersion", version), ("kind", kind)] {
            object::fields(&mut object).insert(name.into(), value.into());
        }
        object::set_meta(&mut object, "uid", object::uid());
        object::set_meta(&mut object, "creationTimestamp", object::now());
        if !namespace.is_empty() {
            object::set_meta(&mut object, "namespace", namespace);
        }
        kinds::defaults(resource, &mut object);
        let key = (namespace.to_owned(), object::meta(&object, "name").to_owned());
        state.commit(resource, key, object, None).map_err(|why| anyhow::anyhow!("{kind}: {why:?}"))?;
        Ok(())
    };
    for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
        put("v1", "Namespace", "", json!({"metadata": {"name": name}}))?;
        put("v1", "ServiceAccount", name, json!({"metadata": {"name": "default"}}))?;
    }
    put(
        "v1",
        "Service",
        "default",
        json!({"metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"ports": [{"name": "https", "port": 443, "targetPort": 6443}]}}),
    )?;
    let rbac = "rbac.authorization.k8s.io/v1";
    put(
        rbac,
        "ClusterRole",
        "",
        json!({"metadata": {"name": "cluster-admin"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}),
    )?;
    put(
        rbac,
        "ClusterRoleBinding",
        "",
        json!({"metadata": {"name": "cluster-admin"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:masters"}]}),
    )
}

impl Handle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// A kubeconfig for the admin.
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_with(&self.server.admin_token)
    }

    /// A kubeconfig for `user`.
    pub fn kubeconfig_for(&self, user: User) -> String {
        self.kubeconfig_with(&self.server.token_for(user))
    }

    fn kubeconfig_with(&self, token: &str) -> String {
        use base64::Engine as _;
        let mut cluster = json!({"server": self.url()});
        if let Some(authority) = &self.authority {
            let data = base64::engine::general_purpose::STANDARD.encode(authority);
            object::fields(&mut cluster).insert("certificate-authority-data".into(), data.into());
        }
        // JSON is YAML.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": cluster}],
            "users": [{"name": "fake", "user": {"token": token}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": "default"}}],
        });
        format!("{config:#}\n")
    }

    /// Makes the server as a whole misbehave, or behave again.
    pub fn set_mood(&self, mood: Mood) {
        self.server.faults.set_mood(mood);
    }

    /// Ends all watches that are open.
    pub fn close_watches(&self) {
        self.server.faults.close_watches();
    }

    /// Forgets the history: watches that start from before now are answered by 410.
    pub fn compact(&self) {
        self.server.state().store.compact();
    }

    /// Lets the next `times` lists of a kind (by its plural name) be empty.
    pub fn empty_lists(&self, plural: &str, times: u32) {
        self.server.faults.empty_lists(plural, times);
    }

    /// Lets the next `times` updates and patches of a kind conflict.
    pub fn conflicts(&self, plural: &str, times: u32) {
        self.server.faults.conflicts(plural, times);
    }

    /// Lets the next `times` writes of a kind fail with the HTTP status `code`.
    pub fn fail_writes(&self, plural: &str, code: u16, times: u32) {
        self.server.faults.fail_writes(plural, code, times);
    }

    /// Lets every request wait this long.
    pub fn set_latency(&self, latency: Duration) {
        self.server.faults.set_latency(latency);
    }

    /// Which kinds of requests were made, and how often.
    pub fn requests(&self) -> BTreeMap<Used, u64> {
        self.server.audit.all()
    }

    /// Which kinds of requests RBAC did not permit, and how often.
    pub fn refusals(&self) -> BTreeMap<Used, u64> {
        self.server.refused.all()
    }

    /// Forgets the requests made so far.
    pub fn forget_requests(&self) {
        self.server.audit.clear();
    }

    /// How many writes were stored, by `group/plural` (`/services` for the core group).
    pub fn writes(&self) -> BTreeMap<String, u64> {
        self.server.state().store.writes().clone()
    }

    /// The newest resource version.
    pub fn revision(&self) -> u64 {
        self.server.state().store.revision()
    }
}
