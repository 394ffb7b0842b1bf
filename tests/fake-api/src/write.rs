//! Creating, changing and deleting objects.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::auth::{Action, User};
use crate::error::{ApiError, Cause};
use crate::object::{at, child, clear_meta, deleting, fields, finalizers, meta, set_meta, take_field, take_meta, text};
use crate::patch::{apply, json as json_patch, strategic};
use crate::registry::Resource;
use crate::server::{Refused, Server, State, to_storage};
use crate::store::{Key, Stored};
use crate::webhook;
use crate::{kinds, service};

/// What to do about fields the schema does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// A request that writes.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) server: Arc<Server>,
    pub(crate) resource: Arc<Resource>,
    pub(crate) namespace: String,
    /// Empty for a create.
    pub(crate) name: String,
    /// Empty, or `status`.
    pub(crate) subresource: String,
    pub(crate) user: User,
    pub(crate) dry: bool,
    pub(crate) manager: String,
    pub(crate) validation: FieldValidation,
    /// What to tell the client beside the answer.
    pub(crate) warnings: Vec<String>,
}

/// An object and whether it is new.
pub(crate) type Written = (Value, bool);

/// How often a change is tried again when others change the object meanwhile.
const ATTEMPTS: usize = 50;

/// The patches.
#[derive(Clone, Debug)]
pub(crate) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    Apply { config: Value, force: bool },
}

impl Call {
    fn key(&self, name: &str) -> Key {
        (self.namespace.clone(), name.to_owned())
    }

    fn live(&self, name: &str) -> Option<Arc<Stored>> {
        self.server.state().store.get(&self.resource.table, &self.key(name)).cloned()
    }

    fn writer(&self) -> apply::Writer {
        apply::Writer {
            manager: self.manager.clone(),
            api_version: self.resource.api_version(),
            subresource: self.subresource.clone(),
            now: crate::object::now(),
        }
    }

    /// Creates an object.
    pub(crate) async fn create(&mut self, body: Value) -> Result<Written, ApiError> {
        for _ in 0..ATTEMPTS {
            match self.try_create(body.clone(), None).await {
                Err(Refused::Raced) => {
                    if !meta(&body, "name").is_empty() || meta(&body, "generateName").is_empty() {
                        return Err(ApiError::already_exists(&self.resource, meta(&body, "name")));
                    }
                }
                Err(Refused::Api(error)) => return Err(error),
                Ok(object) => return Ok((object, true)),
            }
        }
        Err(ApiError::already_exists(&self.resource, meta(&body, "generateName")))
    }

    /// `applied`: the object comes from an apply and has its `managedFields`.
    async fn try_create(&mut self, mut object: Value, applied: Option<()>) -> Result<Value, Refused> {
        self.check_body(&object).map_err(Refused::Api)?;
        if !meta(&object, "resourceVersion").is_empty() {
            let error = ApiError::bad_request("resourceVersion should not be set on objects to be created");
            return Err(Refused::Api(error));
        }
        if meta(&object, "name").is_empty() && !meta(&object, "generateName").is_empty() {
            let name = format!("{}{}", meta(&object, "generateName"), crate::object::suffix());
            set_meta(&mut object, "name", name);
        }
        let name = meta(&object, "name").to_owned();
        if name.is_empty() {
            let cause = Cause::required("metadata.name", "name or generateName is required");
            return Err(Refused::Api(ApiError::invalid(&self.resource, "", vec![cause])));
        }
        if self.resource.namespaced {
            self.server.check_namespace(&self.resource, &name, &self.namespace).map_err(Refused::Api)?;
            set_meta(&mut object, "namespace", self.namespace.clone());
        } else {
            clear_meta(&mut object, "namespace");
        }
        if self.live(&name).is_some() {
            return Err(Refused::Raced);
        }
        self.decode(&mut object).map_err(Refused::Api)?;
        to_storage(&self.resource, &mut object);
        if self.resource.status {
            fields(&mut object).remove("status");
        }
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
            clear_meta(&mut object, field);
        }
        if applied.is_none() {
            clear_meta(&mut object, "managedFields");
        }
        set_meta(&mut object, "uid", crate::object::uid());
        set_meta(&mut object, "creationTimestamp", crate::object::now());
        if self.resource.generation {
            set_meta(&mut object, "generation", 1);
        }
        self.complete(&mut object);
        self.validate(&object, None, &name).map_err(Refused::Api)?;
        if applied.is_none() {
            apply::track(&self.resource.schema, None, &mut object, &self.writer());
        }
        webhook::admit(self, "CREATE", Some(&object), None).await.map_err(Refused::Api)?;
        let mut state = self.server.state();
        if self.dry {
            return Ok(crate::server::present(&self.resource, &object));
        }
        let stored = state.commit(&self.resource, self.key(&name), object, None)?;
        drop(state);
        Ok(self.server.present(&self.resource, &stored))
    }

    /// Replaces an object.
    pub(crate) async fn update(&mut self, body: Value) -> Result<Written, ApiError> {
        self.check_body(&body)?;
        let named = meta(&body, "name");
        if named != self.name {
            let message =
                format!("the name of the object ({named}) does not match the name on the URL ({})", self.name);
            return Err(ApiError::bad_request(message));
        }
        if self.server.faults.take_conflict(&self.resource.plural) {
            return Err(ApiError::modified(&self.resource, &self.name));
        }
        for _ in 0..ATTEMPTS {
            let Some(live) = self.live(&self.name) else {
                if !creates_on_update(&self.resource) || !self.subresource.is_empty() {
                    return Err(ApiError::not_found(&self.resource, &self.name));
                }
                self.may_create()?;
                let mut body = body.clone();
                clear_meta(&mut body, "resourceVersion");
                match self.try_create(body, None).await {
                    Ok(object) => return Ok((object, true)),
                    Err(Refused::Raced) => continue,
                    Err(Refused::Api(error)) => return Err(error),
                }
            };
            if meta(&body, "resourceVersion").is_empty() && !unconditional(&self.resource) {
                let cause = Cause {
                    reason: "FieldValueInvalid",
                    message: "Invalid value: 0: must be specified for an update".into(),
                    field: "metadata.resourceVersion".into(),
                };
                return Err(ApiError::invalid(&self.resource, &self.name, vec![cause]));
            }
            let mut new = body.clone();
            self.decode(&mut new)?;
            match self.change(&live, new, None).await {
                Ok(object) => return Ok((object, false)),
                Err(Refused::Raced) => {}
                Err(Refused::Api(error)) => return Err(error),
            }
        }
        Err(ApiError::modified(&self.resource, &self.name))
    }

    /// Patches an object; an apply may create it.
    pub(crate) async fn patch(&mut self, patch: Patch) -> Result<Written, ApiError> {
        if self.server.faults.take_conflict(&self.resource.plural) {
            return Err(ApiError::modified(&self.resource, &self.name));
        }
        let resource = self.resource.clone();
        for _ in 0..ATTEMPTS {
            let live = self.live(&self.name);
            let result = match (&patch, live) {
                (Patch::Apply { config, force }, live) => {
                    let config = self.applied(config.clone())?;
                    let before = live.as_ref().map(|live| crate::server::present(&resource, &live.value));
                    let merged = apply::apply(&resource.schema, before.as_ref(), &config, &self.writer(), *force)?;
                    match live {
                        Some(live) => self.change(&live, merged, Some(())).await.map(|object| (object, false)),
                        None if !self.subresource.is_empty() => {
                            return Err(ApiError::not_found(&self.resource, &self.name));
                        }
                        None => {
                            self.may_create()?;
                            self.try_create(merged, Some(())).await.map(|object| (object, true))
                        }
                    }
                }
                (_, None) => return Err(ApiError::not_found(&self.resource, &self.name)),
                (patch, Some(live)) => {
                    let before = crate::server::present(&resource, &live.value);
                    let mut new = match patch {
                        Patch::Json(patch) => json_patch::patch(before, patch)?,
                        Patch::Merge(patch) => json_patch::merge(before, patch),
                        Patch::Strategic(patch) => strategic::patch(&before, patch, &resource.schema)?,
                        Patch::Apply { .. } => unreachable!("matched above"),
                    };
                    self.decode(&mut new)?;
                    self.change(&live, new, None).await.map(|object| (object, false))
                }
            };
            match result {
                Ok(written) => return Ok(written),
                Err(Refused::Raced) => {}
                Err(Refused::Api(error)) => return Err(error),
            }
        }
        Err(ApiError::modified(&self.resource, &self.name))
    }

    /// Checks an applied object and leaves out of it what the endpoint does not take.
    fn applied(&mut self, mut config: Value) -> Result<Value, ApiError> {
        self.check_body(&config)?;
        if at(&config, &["metadata", "managedFields"]).is_some() {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let named = meta(&config, "name").to_owned();
        if named.is_empty() {
            set_meta(&mut config, "name", self.name.clone());
        } else if named != self.name {
            let message =
                format!("the name of the object ({named}) does not match the name on the URL ({})", self.name);
            return Err(ApiError::bad_request(message));
        }
        if self.resource.namespaced {
            set_meta(&mut config, "namespace", self.namespace.clone());
        }
        self.decode_with(&mut config, false)?;
        if self.resource.status && self.subresource.is_empty() {
            fields(&mut config).remove("status");
        } else if self.subresource == "status" {
            fields(&mut config).remove("spec");
        }
        Ok(config)
    }

    /// Creating by an update or an apply needs the right to create.
    fn may_create(&self) -> Result<(), ApiError> {
        let action = Action {
            verb: "create".to_owned(),
            group: self.resource.group.clone(),
            resource: self.resource.plural.clone(),
            subresource: String::new(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        };
        if self.server.allowed(&self.user, &action) {
            self.server.audit.record(&self.user, &action);
            return Ok(());
        }
        self.server.refused.record(&self.user, &action);
        Err(ApiError::forbidden(&self.resource, &self.name, &action.refusal(&self.user)))
    }

    /// Brings `live` to `new`.
    async fn change(&mut self, live: &Arc<Stored>, mut new: Value, applied: Option<()>) -> Result<Value, Refused> {
        let resource = self.resource.clone();
        let name = self.name.clone();
        let version = meta(&new, "resourceVersion");
        if !version.is_empty() && version != live.revision.to_string() {
            return Err(Refused::Api(ApiError::modified(&resource, &name)));
        }
        let uid = meta(&new, "uid");
        if !uid.is_empty() && uid != meta(&live.value, "uid") {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                meta(&live.value, "uid")
            );
            return Err(Refused::Api(ApiError::conflict(&resource, &name, &why)));
        }
        to_storage(&resource, &mut new);
        let old = &live.value;
        self.keep(&mut new, old);
        self.complete(&mut new);
        if resource.generation && self.subresource.is_empty() {
            let generation = at(old, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(1);
            let changed = meaningful(&resource, &new) != meaningful(&resource, old);
            set_meta(&mut new, "generation", generation + i64::from(changed));
        }
        if applied.is_none() {
            apply::track(&resource.schema, Some(old), &mut new, &self.writer());
        }
        if same(&new, old) {
            return Ok(self.server.present(&resource, live));
        }
        self.validate(&new, Some(old), &name).map_err(Refused::Api)?;
        webhook::admit(self, "UPDATE", Some(&new), Some(old)).await.map_err(Refused::Api)?;
        if self.dry {
            return Ok(crate::server::present(&resource, &new));
        }
        let uid = meta(old, "uid").to_owned();
        let (stored, gone) = {
            let mut state = self.server.state();
            let stored = state.commit(&resource, self.key(&name), new, Some(live))?;
            // The last finalizer may have gone, and the object with it.
            (stored, state.store.get(&resource.table, &self.key(&name)).is_none())
        };
        if gone {
            crate::collect::after_removal(&self.server, &resource, &uid, &self.namespace);
        }
        Ok(self.server.present(&resource, &stored))
    }

    /// Puts back what this endpoint does not change.
    fn keep(&self, new: &mut Value, old: &Value) {
        let whole_meta = self.subresource == "status" && self.resource.custom;
        if self.subresource == "status" {
            let status = new.get("status").cloned();
            let metadata = new.get("metadata").cloned();
            *new = old.clone();
            match status {
                Some(status) => fields(new).insert("status".into(), status),
                None => fields(new).remove("status"),
            };
            if let Some(metadata) = metadata {
                if whole_meta {
                    let managed = metadata.get("managedFields").cloned();
                    if let Some(managed) = managed {
                        set_meta(new, "managedFields", managed);
                    }
                } else {
                    fields(new).insert("metadata".into(), metadata);
                }
            }
        } else if self.resource.status {
            take_field(new, old, "status");
            if self.resource.is("", "services") {
                service::carry_over(new, old);
                if text(old, &["spec", "type"]) == "LoadBalancer" && text(new, &["spec", "type"]) != "LoadBalancer" {
                    child(new, "status").insert("loadBalancer".into(), json!({}));
                }
            }
        }
        for name in [
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "generateName",
        ] {
            take_meta(new, old, name);
        }
        if self.resource.is("", "namespaces") && self.subresource.is_empty() {
            take_meta_spec(new, old);
        }
    }

    /// Checks what the body says it is against the endpoint.
    fn check_body(&self, body: &Value) -> Result<(), ApiError> {
        if !body.is_object() {
            return Err(ApiError::bad_request("the body of the request is not an object"));
        }
        let (version, kind) = (text(body, &["apiVersion"]), text(body, &["kind"]));
        let resource = &self.resource;
        if kind.is_empty() {
            return Err(ApiError::bad_request("Object 'Kind' is missing in the body"));
        }
        if version != resource.api_version() || kind != resource.kind {
            let message = format!(
                "the API version in the data ({version}) and its kind ({kind}) do not match the expected API version ({}) and kind ({})",
                resource.api_version(),
                resource.kind
            );
            return Err(ApiError::bad_request(message));
        }
        let namespace = meta(body, "namespace");
        if resource.namespaced && !namespace.is_empty() && namespace != self.namespace {
            return Err(ApiError::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request ({namespace} != {})",
                self.namespace
            )));
        }
        Ok(())
    }

    /// Reads a body as its type: unknown fields, nulls, defaults of custom resources.
    fn decode(&mut self, object: &mut Value) -> Result<(), ApiError> {
        self.decode_with(object, true)
    }

    fn decode_with(&mut self, object: &mut Value, defaults: bool) -> Result<(), ApiError> {
        let schema = self.resource.schema.clone();
        if !self.resource.custom
            && let Some((field, is, want)) = schema.misfit(object, "")
        {
            let message = format!(
                "{} in version \"{}\" cannot be handled as a {}: json: cannot unmarshal {is} into Go struct field {}.{field} of type {want}",
                self.resource.kind, self.resource.version, self.resource.kind, self.resource.kind
            );
            return Err(ApiError::bad_request(message));
        }
        let mut dropped = Vec::new();
        schema.prune(object, "", true, &mut dropped);
        if !dropped.is_empty() {
            let unknown: Vec<String> = dropped.iter().map(|field| format!("unknown field \"{field}\"")).collect();
            match self.validation {
                FieldValidation::Strict => {
                    let message = format!(
                        "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
                        self.resource.kind,
                        self.resource.version,
                        self.resource.kind,
                        unknown.join(", ")
                    );
                    return Err(ApiError::bad_request(message));
                }
                FieldValidation::Warn => {
                    for one in unknown {
                        if !self.warnings.contains(&one) {
                            self.warnings.push(one);
                        }
                    }
                }
                FieldValidation::Ignore => {}
            }
        }
        if self.resource.custom {
            if defaults {
                schema.default_into(object);
            }
        } else {
            schema.drop_nulls(object);
        }
        Ok(())
    }

    fn complete(&self, object: &mut Value) {
        if self.resource.custom {
            self.resource.schema.default_into(object);
        } else {
            kinds::defaults(&self.resource, object);
        }
    }

    /// Everything that is wrong with what would be stored.
    fn validate(&self, object: &Value, old: Option<&Value>, name: &str) -> Result<(), ApiError> {
        let mut causes = Vec::new();
        if old.is_none() {
            check_name(&self.resource, name, &mut causes);
        } else if let Some(old) = old
            && deleting(old)
        {
            let before = finalizers(old);
            let added: Vec<&str> = finalizers(object).into_iter().filter(|one| !before.contains(one)).collect();
            if !added.is_empty() {
                let why = format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{added:?}"
                );
                causes.push(Cause::forbidden("metadata.finalizers", &why));
            }
        }
        check_labels(object, &mut causes);
        if self.resource.custom {
            let presented = crate::server::present(&self.resource, object);
            self.resource.schema.validate(&presented, "", &mut causes);
            if causes.is_empty() {
                let old = old.map(|old| crate::server::present(&self.resource, old));
                crate::cel::check(&self.resource.schema, &presented, old.as_ref(), "", &mut causes);
            }
        } else if self.subresource == "status" {
            kinds::validate_status(&self.resource, object, &mut causes);
        } else {
            kinds::validate(&self.resource, object, old, &mut causes);
        }
        if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid(&self.resource, name, causes)) }
    }
}

/// A namespace's finalizers are not for ordinary updates.
fn take_meta_spec(new: &mut Value, old: &Value) {
    if let Some(list) = at(old, &["spec", "finalizers"]) {
        child(new, "spec").insert("finalizers".into(), list.clone());
    } else {
        child(new, "spec").remove("finalizers");
    }
}

/// What counts as a change of the spec.
fn meaningful(resource: &Resource, object: &Value) -> Value {
    let mut object = object.clone();
    fields(&mut object).remove("metadata");
    if resource.status {
        fields(&mut object).remove("status");
    }
    object
}

/// Whether nothing changed but perhaps the times of `managedFields`.
fn same(new: &Value, old: &Value) -> bool {
    let plain = |object: &Value| {
        let mut object = object.clone();
        if let Some(Value::Object(metadata)) = object.get_mut("metadata")
            && let Some(Value::Array(entries)) = metadata.get_mut("managedFields")
        {
            for entry in entries {
                fields(entry).remove("time");
            }
        }
        object
    };
    plain(new) == plain(old)
}

/// Kinds that an update creates when they are not there.
fn creates_on_update(resource: &Resource) -> bool {
    !resource.custom
        && matches!(
            resource.plural.as_str(),
            "leases"
                | "endpoints"
                | "services"
                | "events"
                | "roles"
                | "rolebindings"
                | "clusterroles"
                | "clusterrolebindings"
        )
}

/// Kinds that may be updated without saying which version is replaced.
fn unconditional(resource: &Resource) -> bool {
    !resource.custom
        && !matches!(
            resource.plural.as_str(),
            "leases" | "customresourcedefinitions" | "poddisruptionbudgets" | "validatingwebhookconfigurations"
        )
}

fn check_name(resource: &Resource, name: &str, causes: &mut Vec<Cause>) {
    let letters = |text: &str, more: &str| {
        text.chars().all(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || more.contains(one))
    };
    let edges = |text: &str| {
        let edge = |one: Option<char>| one.is_some_and(|one| one.is_ascii_lowercase() || one.is_ascii_digit());
        edge(text.chars().next()) && edge(text.chars().last())
    };
    let rbac = resource.group == "rbac.authorization.k8s.io";
    let label = matches!(resource.plural.as_str(), "services" | "namespaces") && resource.group.is_empty();
    let valid = if rbac {
        !name.contains('/') && !name.contains('%') && name != "." && name != ".."
    } else if label {
        let first = resource.plural == "namespaces" || name.starts_with(|one: char| one.is_ascii_lowercase());
        name.len() <= 63 && letters(name, "-") && edges(name) && first
    } else {
        name.len() <= 253 && letters(name, "-.") && name.split('.').all(edges)
    };
    if !valid {
        let why = if label && resource.plural == "services" {
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
        } else if label {
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        } else {
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        };
        causes.push(Cause::invalid("metadata.name", &name.into(), why));
    }
}

fn check_labels(object: &Value, causes: &mut Vec<Cause>) {
    let labels = at(object, &["metadata", "labels"]).and_then(Value::as_object);
    for (_, value) in labels.into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        let edge = |one: Option<char>| one.is_none_or(|one| one.is_ascii_alphanumeric());
        let inside = text.chars().all(|one| one.is_ascii_alphanumeric() || "-_.".contains(one));
        if text.len() > 63 || !inside || !edge(text.chars().next()) || !edge(text.chars().last()) {
            let why = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
            causes.push(Cause::invalid("metadata.labels", value, why));
        }
    }
}

/// The options of a delete.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) propagation: Option<String>,
    pub(crate) grace: Option<i64>,
}

impl DeleteOptions {
    pub(crate) fn parse(body: &Value) -> Self {
        let part = |name: &str| at(body, &["preconditions", name]).and_then(Value::as_str).map(str::to_owned);
        let propagation = match body.get("orphanDependents").and_then(Value::as_bool) {
            Some(true) => Some("Orphan".to_owned()),
            Some(false) => Some("Background".to_owned()),
            None => body.get("propagationPolicy").and_then(Value::as_str).map(str::to_owned),
        };
        Self {
            uid: part("uid"),
            resource_version: part("resourceVersion"),
            propagation,
            grace: body.get("gracePeriodSeconds").and_then(Value::as_i64),
        }
    }
}

impl Call {
    /// Deletes an object: at once, or marks it as long as finalizers hold it. Returns it and whether it is gone.
    pub(crate) async fn delete(&mut self, options: &DeleteOptions) -> Result<(Value, bool), ApiError> {
        for _ in 0..ATTEMPTS {
            let Some(live) = self.live(&self.name) else {
                return Err(ApiError::not_found(&self.resource, &self.name));
            };
            self.check_preconditions(&live, options)?;
            webhook::admit(self, "DELETE", None, Some(&live.value)).await?;
            if self.dry {
                return Ok((self.server.present(&self.resource, &live), true));
            }
            let key = self.key(&self.name);
            let done = {
                let mut state = self.server.state();
                delete_now(&mut state, &self.resource, &key, &live, options)
            };
            match done {
                Err(Refused::Raced) => {}
                Err(Refused::Api(error)) => return Err(error),
                Ok((stored, gone)) => {
                    let uid = meta(&stored.value, "uid");
                    if gone {
                        crate::collect::after_removal(&self.server, &self.resource, uid, &self.namespace);
                    } else {
                        crate::collect::after_marking(&self.server, &self.resource, &key, &stored.value);
                    }
                    return Ok((self.server.present(&self.resource, &stored), gone));
                }
            }
        }
        Err(ApiError::modified(&self.resource, &self.name))
    }

    fn check_preconditions(&self, live: &Stored, options: &DeleteOptions) -> Result<(), ApiError> {
        let checks = [
            ("UID", &options.uid, meta(&live.value, "uid").to_owned()),
            ("ResourceVersion", &options.resource_version, live.revision.to_string()),
        ];
        for (what, wanted, is) in checks {
            if let Some(wanted) = wanted
                && *wanted != is
            {
                let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {is}");
                return Err(ApiError::conflict(&self.resource, &self.name, &why));
            }
        }
        Ok(())
    }
}

/// One attempt to delete.
pub(crate) fn delete_now(
    state: &mut State,
    resource: &Resource,
    key: &Key,
    live: &Arc<Stored>,
    options: &DeleteOptions,
) -> Result<(Arc<Stored>, bool), Refused> {
    let mut value = live.value.clone();
    let uid = meta(&value, "uid").to_owned();
    let dependents = !state.store.dependents(&uid).is_empty();
    let mut held: Vec<String> = finalizers(&value).into_iter().map(str::to_owned).collect();
    let add = match options.propagation.as_deref() {
        Some("Foreground") if dependents => Some("foregroundDeletion"),
        Some("Orphan") if dependents => Some("orphan"),
        _ => None,
    };
    if let Some(add) = add
        && !held.iter().any(|one| one == add)
    {
        held.push(add.to_owned());
        set_meta(&mut value, "finalizers", held.clone());
    }
    let namespace = resource.is("", "namespaces");
    let grace = if resource.is("", "pods") && !text(&value, &["spec", "nodeName"]).is_empty() {
        let own = at(&value, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(30);
        let done = matches!(text(&value, &["status", "phase"]), "Succeeded" | "Failed");
        if done { 0 } else { options.grace.unwrap_or(own) }
    } else {
        0
    };
    if held.is_empty() && !namespace && grace == 0 {
        return Ok((state.remove(resource, key, live)?, true));
    }
    let marked = deleting(&value);
    let shorter =
        at(&value, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).is_none_or(|old| grace < old);
    if marked && !shorter && add.is_none() {
        return Ok((live.clone(), false));
    }
    set_meta(&mut value, "deletionTimestamp", crate::object::seconds_from_now(grace));
    set_meta(&mut value, "deletionGracePeriodSeconds", grace);
    if resource.generation && !marked {
        let generation = at(&value, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
        set_meta(&mut value, "generation", generation + 1);
    }
    if namespace {
        child(&mut value, "status").insert("phase".into(), "Terminating".into());
        clear_meta(&mut value, "deletionGracePeriodSeconds");
    }
    let expected = Some(live.revision);
    let stored = state.store.put(&resource.table, key.clone(), value, expected)?;
    Ok((stored, false))
}
