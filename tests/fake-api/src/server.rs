//! What all requests share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::auth::{Action, Audit, User};
use crate::error::ApiError;
use crate::faults::Faults;
use crate::object::{deleting, finalizers, meta};
use crate::registry::{Registry, Resource};
use crate::service::{Allocator, Families};
use crate::store::{Key, Raced, Store, Stored};

/// How the server is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether RBAC is enforced. Without it everybody may do everything, and who brings no token is the admin.
    pub rbac: bool,
    /// Whether it speaks TLS, with a certificate of its own authority.
    pub tls: bool,
    /// Further bearer tokens and whose they are.
    pub tokens: BTreeMap<String, User>,
    /// Families of Services.
    pub families: Families,
    /// Whether a watch may begin with a list (the feature gate `WatchList`).
    pub streaming_lists: bool,
    /// How often watches that want bookmarks get one.
    pub bookmark_interval: Duration,
    /// How many changes of each kind are kept for watches.
    pub history: usize,
    /// Whether a watch from before the oldest change kept is refused by the HTTP status 410, as some paths of a real
    /// server do, rather than by an ERROR event.
    pub gone_as_status: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rbac: false,
            tls: false,
            tokens: BTreeMap::new(),
            families: Families::default(),
            streaming_lists: true,
            bookmark_interval: Duration::from_secs(5),
            history: 100_000,
            gone_as_status: false,
        }
    }
}

/// Everything that is stored.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    allocator: Allocator,
}

/// The server.
#[derive(Debug)]
pub(crate) struct Server {
    state: Mutex<State>,
    pub(crate) options: Options,
    pub(crate) faults: Faults,
    pub(crate) audit: Audit,
    /// What RBAC did not permit.
    pub(crate) refused: Audit,
    tokens: Mutex<BTreeMap<String, User>>,
    pub(crate) admin_token: String,
}

/// Why a change was not stored.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Someone else was faster.
    Raced,
    /// It may not be.
    Api(ApiError),
}

impl From<Raced> for Refused {
    fn from(_: Raced) -> Self {
        Self::Raced
    }
}

impl State {
    /// Stores `value` in place of `live`, with all that follows from it at once.
    pub(crate) fn commit(
        &mut self,
        resource: &Resource,
        key: Key,
        mut value: Value,
        live: Option<&Arc<Stored>>,
    ) -> Result<Arc<Stored>, Refused> {
        let expected = live.map(|stored| stored.revision);
        if self.store.get(&resource.table, &key).map(|stored| stored.revision) != expected {
            return Err(Refused::Raced);
        }
        // The last finalizer has gone: so goes the object.
        if let Some(live) = live
            && deleting(&value)
            && finalizers(&value).is_empty()
            && !finalizers(&live.value).is_empty()
            && !self.waits_for_kubelet(resource, &value)
        {
            return self.remove(resource, &key, live).map_err(Into::into);
        }
        let service = resource.is("", "services");
        if service {
            if let Some(live) = live {
                self.allocator.give_back(&live.value);
            }
            if let Err(causes) = self.allocator.fill(&mut value, live.map(|live| &live.value)) {
                if let Some(live) = live {
                    self.allocator.take(&live.value);
                }
                return Err(Refused::Api(ApiError::invalid(resource, &key.1, causes)));
            }
            self.allocator.take(&value);
        }
        if resource.is("apiextensions.k8s.io", "customresourcedefinitions")
            && let Err(why) = self.registry.define(&value)
        {
            let cause = crate::error::Cause::invalid("spec.versions", &Value::Null, why);
            return Err(Refused::Api(ApiError::invalid(resource, &key.1, vec![cause])));
        }
        Ok(self.store.put(&resource.table, key, value, expected)?)
    }

    /// Removes an object, with all that follows from it at once.
    pub(crate) fn remove(&mut self, resource: &Resource, key: &Key, live: &Arc<Stored>) -> Result<Arc<Stored>, Raced> {
        let removed = self.store.remove(&resource.table, key, live.revision)?;
        if resource.is("", "services") {
            self.allocator.give_back(&live.value);
        }
        if resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
            let spec = live.value.get("spec").cloned().unwrap_or_default();
            let group = crate::object::text(&spec, &["group"]).to_owned();
            self.registry.remove(&group, crate::object::text(&spec, &["names", "plural"]));
        }
        Ok(removed)
    }

    /// Whether a Pod that is being deleted runs on a node, whose kubelet has the last word.
    pub(crate) fn waits_for_kubelet(&self, resource: &Resource, value: &Value) -> bool {
        resource.is("", "pods")
            && !crate::object::text(value, &["spec", "nodeName"]).is_empty()
            && crate::object::at(value, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64) != Some(0)
    }
}

impl Server {
    pub(crate) fn new(options: Options) -> Self {
        let admin_token = crate::object::uid();
        let mut tokens = options.tokens.clone();
        tokens.insert(admin_token.clone(), User::admin());
        let state = State {
            store: Store::new(options.history),
            registry: Registry::built_in(),
            allocator: Allocator::new(options.families),
        };
        Self {
            state: Mutex::new(state),
            faults: Faults::new(),
            audit: Audit::default(),
            refused: Audit::default(),
            tokens: Mutex::new(tokens),
            admin_token,
            options,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a token for a user.
    pub(crate) fn token_for(&self, user: User) -> String {
        let token = crate::object::uid();
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(token.clone(), user);
        token
    }

    /// Who brings this `Authorization` header.
    pub(crate) fn authenticate(&self, header: Option<&str>) -> Result<User, ApiError> {
        match header.and_then(|header| header.strip_prefix("Bearer ")) {
            None if self.options.rbac => Ok(User::anonymous()),
            None => Ok(User::admin()),
            Some(token) => {
                let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
                tokens.get(token.trim()).cloned().ok_or_else(ApiError::unauthorized)
            }
        }
    }

    /// Whether the user may do this.
    pub(crate) fn allowed(&self, user: &User, action: &Action) -> bool {
        !self.options.rbac || crate::auth::allowed(&self.state().store, user, action)
    }

    /// Whether objects can be created in a namespace.
    pub(crate) fn check_namespace(&self, resource: &Resource, name: &str, namespace: &str) -> Result<(), ApiError> {
        let state = self.state();
        let Some(found) = state.store.get("/namespaces", &(String::new(), namespace.to_owned())) else {
            let namespaces = state.registry.get("", "v1", "namespaces").ok_or_else(ApiError::no_such_path)?;
            return Err(ApiError::not_found(namespaces, namespace));
        };
        if deleting(&found.value) {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            let mut error = ApiError::forbidden(resource, name, &why);
            if let Some(Value::Object(details)) = &mut error.details {
                let cause = serde_json::json!({"reason": "NamespaceTerminating",
                    "message": format!("namespace {namespace} is being terminated"), "field": "metadata.namespace"});
                details.insert("causes".into(), Value::Array(vec![cause]));
            }
            return Err(error);
        }
        Ok(())
    }

    /// The object in the version of `resource`, which may not be the one it is stored in.
    pub(crate) fn present(&self, resource: &Resource, stored: &Stored) -> Value {
        present(resource, &stored.value)
    }
}

/// The object in the version of `resource`.
pub(crate) fn present(resource: &Resource, value: &Value) -> Value {
    let mut value = value.clone();
    if resource.api_version() != resource.stored_as {
        convert(resource, &mut value, &resource.api_version());
    }
    value
}

/// An object as sent, in the version it is stored in.
pub(crate) fn to_storage(resource: &Resource, value: &mut Value) {
    if resource.api_version() != resource.stored_as {
        convert(resource, value, &resource.stored_as);
    }
}

/// Changes the version: of custom resources, whose versions differ in nothing else, and of events, whose fields have
/// other names in the newer group.
fn convert(resource: &Resource, value: &mut Value, to: &str) {
    let map = crate::object::fields(value);
    map.insert("apiVersion".into(), to.into());
    if resource.kind != "Event" {
        return;
    }
    const NAMES: &[(&str, &str)] = &[
        ("involvedObject", "regarding"),
        ("message", "note"),
        ("source", "deprecatedSource"),
        ("firstTimestamp", "deprecatedFirstTimestamp"),
        ("lastTimestamp", "deprecatedLastTimestamp"),
        ("count", "deprecatedCount"),
        ("reportingComponent", "reportingController"),
    ];
    for (core, newer) in NAMES {
        let (from, to) = if to == "v1" { (newer, core) } else { (core, newer) };
        if let Some(field) = map.remove(*from) {
            map.insert((*to).to_owned(), field);
        }
    }
    debug_assert!(!meta(value, "name").is_empty() || resource.namespaced, "an event has a name");
}
