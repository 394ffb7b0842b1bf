//! Requests: what a path means, who may, and what is answered.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::auth::{Action, User};
use crate::error::ApiError;
use crate::faults::Mood;
use crate::read::{self, ListOptions, Scope, WatchOptions};
use crate::registry::Resource;
use crate::select::Selector;
use crate::server::Server;
use crate::table::{self, Include};
use crate::write::{Call, DeleteOptions, FieldValidation, Patch};
use crate::{control, discovery, special};

/// A body: whole, or the pieces of a watch.
pub(crate) enum Answer {
    Whole(Full<Bytes>),
    Pieces(mpsc::Receiver<Bytes>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context),
            Self::Pieces(pieces) => pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        }
    }
}

/// A request, read.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: HashMap<String, String>,
    pub(crate) accept: String,
    pub(crate) content_type: String,
    pub(crate) agent: String,
    pub(crate) body: Bytes,
    pub(crate) user: User,
}

impl Asked {
    pub(crate) fn query(&self, name: &str) -> &str {
        self.query.get(name).map(String::as_str).unwrap_or_default()
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.query(name), "true" | "1")
    }

    /// The body, which is JSON or, for some kinds, protobuf.
    pub(crate) fn json(&self) -> Result<Value, ApiError> {
        if self.content_type.starts_with(PROTOBUF) {
            return crate::protobuf::read(&self.body).map_err(|why| {
                let shown = format!("{PROTOBUF}: {why}");
                ApiError::unsupported_media_type(&shown, "application/json")
            });
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| ApiError::bad_request(format!("couldn't get version/kind; json parse error: {error}")))
    }
}

/// The media type of Kubernetes' protobuf.
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

type Reply = Response<Answer>;

pub(crate) fn reply(code: u16, body: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(Answer::Whole(Full::new(body.into())));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}

pub(crate) fn reply_json(code: u16, value: &Value) -> Reply {
    reply(code, crate::store::encode(value))
}

fn refuse(error: &ApiError) -> Reply {
    let mut response = reply_json(error.code, &error.status());
    if matches!(error.code, 429 | 503 | 504) {
        let seconds = hyper::header::HeaderValue::from_static("1");
        response.headers_mut().insert(hyper::header::RETRY_AFTER, seconds);
    }
    response
}

/// Answers one request.
pub(crate) async fn serve(server: Arc<Server>, request: Request<Incoming>) -> Result<Reply, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    if !path.starts_with("/_fake/") {
        let mut mood = server.faults.mood();
        // Nobody changes the mood any more when the server itself has gone.
        let _ = mood.wait_for(|mood| *mood != Mood::Hang).await;
        if let Mood::Fail(code) = *mood.borrow() {
            let reason = if code == 503 { "ServiceUnavailable" } else { "InternalError" };
            return Ok(refuse(&ApiError::with_reason(
                code,
                reason,
                "the server is currently unable to handle the request",
            )));
        }
        let latency = server.faults.latency();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }
    let header = |name: hyper::header::HeaderName| {
        head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let authorization = header(hyper::header::AUTHORIZATION);
    let user = match server.authenticate((!authorization.is_empty()).then_some(authorization.as_str())) {
        Ok(user) => user,
        Err(error) => return Ok(refuse(&error)),
    };
    let Ok(body) = body.collect().await else {
        return Ok(refuse(&ApiError::bad_request("the body of the request ended early")));
    };
    let asked = Asked {
        method: head.method,
        query: parse_query(head.uri.query().unwrap_or_default()),
        accept: header(hyper::header::ACCEPT),
        content_type: header(hyper::header::CONTENT_TYPE),
        agent: header(hyper::header::USER_AGENT),
        body: body.to_bytes(),
        path,
        user,
    };
    Ok(route(&server, &asked).await.unwrap_or_else(|error| refuse(&error)))
}

fn parse_query(query: &str) -> HashMap<String, String> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

/// Undoes percent encoding and `+`.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
                match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
                    Some(byte) => {
                        bytes.push(byte);
                        rest = after.get(2..).unwrap_or_default();
                    }
                    None => bytes.push(b'%'),
                }
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn route(server: &Arc<Server>, asked: &Asked) -> Result<Reply, ApiError> {
    let path = asked.path.trim_matches('/').to_owned();
    let parts: Vec<String> = path.split('/').map(|part| decode(&part.replace('+', "%2B"))).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let ok = |value: Option<Value>| value.map(|value| reply_json(200, &value)).ok_or_else(ApiError::no_such_path);
    let aggregated = asked.accept.contains("as=APIGroupDiscoveryList") && asked.accept.contains("v=v2;");
    let with_type = |value: &Value| {
        let mut response = reply_json(200, value);
        let kind = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
        response
    };
    match parts.as_slice() {
        ["_fake", rest @ ..] => return control::route(server, asked, rest),
        ["healthz" | "readyz" | "livez", ..] => {
            let mut response = reply(200, "ok");
            let kind = hyper::header::HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
            return Ok(response);
        }
        ["version"] => return Ok(reply_json(200, &discovery::version())),
        _ => {}
    }
    if server.options.rbac && asked.user.groups.iter().any(|group| group == "system:unauthenticated") {
        let message = format!(
            "forbidden: User \"{}\" cannot {} path \"{}\"",
            asked.user.name,
            asked.method.as_str().to_lowercase(),
            asked.path
        );
        return Err(ApiError::forbidden_raw(message));
    }
    let registry = || server.state().registry.clone();
    match parts.as_slice() {
        ["api"] if aggregated => return Ok(with_type(&discovery::aggregated(&registry(), true))),
        ["apis"] if aggregated => return Ok(with_type(&discovery::aggregated(&registry(), false))),
        ["api"] => return Ok(reply_json(200, &discovery::core_versions("127.0.0.1"))),
        ["apis"] => return Ok(reply_json(200, &discovery::group_list(&registry()))),
        ["apis", group] => return ok(discovery::group(&registry(), group)),
        ["api", version] => return ok(discovery::resources(&registry(), "", version)),
        ["apis", group, version] => return ok(discovery::resources(&registry(), group, version)),
        ["openapi", "v3"] => return Ok(reply_json(200, &discovery::open_api_index(&registry()))),
        ["openapi", "v3", "api", version] => return ok(discovery::open_api(&registry(), "", version)),
        ["openapi", "v3", "apis", group, version] => return ok(discovery::open_api(&registry(), group, version)),
        _ => {}
    }
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(ApiError::no_such_path()),
    };
    if let [plural] = rest
        && let Some(answer) = special::review(server, asked, group, plural)?
    {
        return Ok(answer);
    }
    let target = Target::parse(server, group, version, rest)?;
    handle(server, asked, target).await
}

/// What a path names.
pub(crate) struct Target {
    pub(crate) resource: Arc<Resource>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
}

impl Target {
    fn parse(server: &Server, group: &str, version: &str, parts: &[&str]) -> Result<Self, ApiError> {
        let find = |plural: &str| server.state().registry.get(group, version, plural).cloned();
        let (namespace, plural, rest) = match parts {
            // `namespaces` is a kind of its own, and the home of others.
            ["namespaces", _, "status" | "finalize"] | ["namespaces"] | ["namespaces", _] => {
                ("", "namespaces", parts.get(1..).unwrap_or_default())
            }
            ["namespaces", namespace, plural, rest @ ..] => (*namespace, *plural, rest),
            [plural, rest @ ..] => ("", *plural, rest),
            [] => return Err(ApiError::no_such_path()),
        };
        let resource = find(plural).ok_or_else(ApiError::no_such_path)?;
        let (name, subresource) = match rest {
            [] => ("", ""),
            [name] => (*name, ""),
            [name, subresource] => (*name, *subresource),
            _ => return Err(ApiError::no_such_path()),
        };
        let homeless = resource.namespaced && namespace.is_empty() && !name.is_empty();
        if homeless || (!resource.namespaced && !namespace.is_empty()) {
            return Err(ApiError::no_such_path());
        }
        let known = match subresource {
            "" => true,
            "status" => resource.status,
            "scale" => resource.scale,
            "finalize" => resource.is("", "namespaces"),
            "eviction" | "binding" => resource.is("", "pods"),
            "token" => resource.is("", "serviceaccounts"),
            _ => false,
        };
        if !known {
            return Err(ApiError::no_such_path());
        }
        Ok(Self {
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        })
    }
}

async fn handle(server: &Arc<Server>, asked: &Asked, target: Target) -> Result<Reply, ApiError> {
    let single = !target.name.is_empty();
    let watch = asked.flag("watch");
    let verb = match (&asked.method, single) {
        (&Method::GET, true) => "get",
        (&Method::GET, false) if watch => "watch",
        (&Method::GET, false) => "list",
        (&Method::POST, _) => "create",
        (&Method::PUT, true) => "update",
        (&Method::PATCH, true) => "patch",
        (&Method::DELETE, true) => "delete",
        (&Method::DELETE, false) => "deletecollection",
        _ => return Err(ApiError::method_not_allowed()),
    };
    let resource = target.resource.clone();
    let selector = Selector::parse(&resource, asked.query("labelSelector"), asked.query("fieldSelector"))?;
    let named = asked.query("fieldSelector").split(',').find_map(|part| part.strip_prefix("metadata.name="));
    let action = Action {
        verb: verb.to_owned(),
        group: resource.group.clone(),
        resource: resource.plural.clone(),
        subresource: target.subresource.clone(),
        namespace: if resource.is("", "namespaces") { target.name.clone() } else { target.namespace.clone() },
        name: if single { target.name.clone() } else { named.unwrap_or_default().to_owned() },
    };
    if !server.allowed(&asked.user, &action) {
        server.refused.record(&asked.user, &action);
        let name = action.name.clone();
        let message = action.refusal(&asked.user);
        if name.is_empty() {
            let mut error = ApiError::forbidden(&resource, "", &message);
            error.message = format!("{} is forbidden: {message}", resource.qualified());
            return Err(error);
        }
        return Err(ApiError::forbidden(&resource, &name, &message));
    }
    server.audit.record(&asked.user, &action);
    if !matches!(verb, "get" | "list" | "watch")
        && let Some(code) = server.faults.take_failed_write(&resource.plural)
    {
        return Err(ApiError::with_reason(code, "InternalError", "the write was made to fail"));
    }
    let include = Include::parse(asked.query("includeObject"));
    let as_table = asked.accept.contains("as=Table").then_some(include);
    if let Some(answer) = special::subresource(server, asked, &target).await? {
        return Ok(answer);
    }
    match verb {
        "get" => get(server, &target, as_table),
        "list" => list(server, asked, target, selector, as_table),
        "watch" => start_watch(server, asked, target, selector, as_table),
        _ => {
            let call = new_call(server, asked, &target)?;
            write(asked, call, selector, as_table, verb).await
        }
    }
}

/// A call that writes what the path names.
pub(crate) fn new_call(server: &Arc<Server>, asked: &Asked, target: &Target) -> Result<Call, ApiError> {
    let validation = match asked.query("fieldValidation") {
        "Ignore" => FieldValidation::Ignore,
        "" | "Warn" => FieldValidation::Warn,
        "Strict" => FieldValidation::Strict,
        other => {
            return Err(ApiError::bad_request(format!("invalid fieldValidation: {other}")));
        }
    };
    let manager = match asked.query("fieldManager") {
        "" => asked.agent.split('/').next().filter(|agent| !agent.is_empty()).unwrap_or("unknown").to_owned(),
        manager => manager.to_owned(),
    };
    let dry = match asked.query("dryRun") {
        "" => false,
        "All" => true,
        other => return Err(ApiError::bad_request(format!("invalid dryRun: {other}"))),
    };
    Ok(Call {
        server: server.clone(),
        resource: target.resource.clone(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        subresource: target.subresource.clone(),
        user: asked.user.clone(),
        dry,
        manager,
        validation,
        warnings: Vec::new(),
    })
}

fn get(server: &Server, target: &Target, as_table: Option<Include>) -> Result<Reply, ApiError> {
    let key = (target.namespace.clone(), target.name.clone());
    let stored = server.state().store.get(&target.resource.table, &key).cloned();
    let stored = stored.ok_or_else(|| ApiError::not_found(&target.resource, &target.name))?;
    Ok(shown(&target.resource, server.present(&target.resource, &stored), as_table, 200))
}

/// An object as the client wants it.
fn shown(resource: &Resource, object: Value, as_table: Option<Include>, code: u16) -> Reply {
    match as_table {
        None => reply_json(code, &object),
        Some(include) => {
            let metadata = json!({"resourceVersion": crate::object::meta(&object, "resourceVersion")});
            reply_json(code, &table::table(resource, &[object], metadata, include))
        }
    }
}

fn list(
    server: &Server,
    asked: &Asked,
    target: Target,
    selector: Selector,
    as_table: Option<Include>,
) -> Result<Reply, ApiError> {
    let options = ListOptions {
        limit: asked.query("limit").parse().unwrap_or(0),
        continues: asked.query("continue").to_owned(),
        resource_version: asked.query("resourceVersion").to_owned(),
        version_match: asked.query("resourceVersionMatch").to_owned(),
    };
    let scope = Scope { resource: target.resource, namespace: target.namespace, selector };
    let list = read::list(server, &scope, &options)?;
    let Some(include) = as_table else { return Ok(reply(200, read::encode_list(&scope, &list))) };
    let objects: Vec<Value> = list.items.iter().map(|stored| server.present(&scope.resource, stored)).collect();
    let mut metadata = json!({"resourceVersion": list.revision.to_string()});
    if !list.continues.is_empty() {
        crate::object::fields(&mut metadata).insert("continue".into(), list.continues.into());
    }
    Ok(reply_json(200, &table::table(&scope.resource, &objects, metadata, include)))
}

fn start_watch(
    server: &Arc<Server>,
    asked: &Asked,
    target: Target,
    selector: Selector,
    as_table: Option<Include>,
) -> Result<Reply, ApiError> {
    let initial_events = asked.flag("sendInitialEvents");
    if asked.query.contains_key("sendInitialEvents") && !server.options.streaming_lists {
        return Err(ApiError::with_reason(
            422,
            "Invalid",
            "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
        ));
    }
    let matching = asked.query("resourceVersionMatch");
    if initial_events && matching != "NotOlderThan" {
        return Err(ApiError::with_reason(
            422,
            "Invalid",
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    if !asked.query.contains_key("sendInitialEvents") && !matching.is_empty() {
        return Err(ApiError::with_reason(
            422,
            "Invalid",
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ));
    }
    let seconds = asked.query("timeoutSeconds").parse().unwrap_or(0_u64);
    let options = WatchOptions {
        resource_version: asked.query("resourceVersion").to_owned(),
        bookmarks: asked.flag("allowWatchBookmarks"),
        initial_events,
        timeout: Duration::from_secs(if seconds == 0 { 1800 } else { seconds }),
        as_table,
    };
    let scope = Scope { resource: target.resource, namespace: target.namespace, selector };
    let pieces = read::watch(server, scope, options)?;
    let mut response = reply(200, Bytes::new());
    *response.body_mut() = Answer::Pieces(pieces);
    Ok(response)
}

async fn write(
    asked: &Asked,
    mut call: Call,
    selector: Selector,
    as_table: Option<Include>,
    verb: &str,
) -> Result<Reply, ApiError> {
    let resource = call.resource.clone();
    let result = match verb {
        "create" if call.name.is_empty() => {
            check_type(asked)?;
            let body = asked.json()?;
            call.create(body).await.map(|(object, _)| shown(&resource, object, as_table, 201))
        }
        "create" => Err(ApiError::method_not_allowed()),
        "update" => {
            check_type(asked)?;
            let body = asked.json()?;
            let written = call.update(body).await;
            written.map(|(object, new)| shown(&resource, object, as_table, if new { 201 } else { 200 }))
        }
        "patch" => {
            let patch = read_patch(asked, &resource)?;
            let written = call.patch(patch).await;
            written.map(|(object, new)| shown(&resource, object, as_table, if new { 201 } else { 200 }))
        }
        "delete" => {
            let options = delete_options(asked, &mut call)?;
            let deleted = call.delete(&options).await;
            deleted.map(|(object, gone)| deletion(&resource, object, gone))
        }
        _ => delete_all(asked, call.clone(), selector).await,
    };
    let mut response = result?;
    for warning in &call.warnings {
        let text = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
        if let Ok(value) = hyper::header::HeaderValue::from_str(&text) {
            response.headers_mut().append(hyper::header::WARNING, value);
        }
    }
    Ok(response)
}

/// What a delete answers: a status for most kinds that are gone, else the object.
fn deletion(resource: &Resource, object: Value, gone: bool) -> Reply {
    let whole = matches!(resource.plural.as_str(), "pods" | "services" | "serviceaccounts" | "persistentvolumeclaims");
    if !gone || (whole && resource.group.is_empty()) {
        return reply_json(200, &object);
    }
    let mut details = json!({"name": crate::object::meta(&object, "name"), "kind": resource.plural,
        "uid": crate::object::meta(&object, "uid")});
    if !resource.group.is_empty() {
        crate::object::fields(&mut details).insert("group".into(), resource.group.clone().into());
    }
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    reply_json(200, &status)
}

fn delete_options(asked: &Asked, call: &mut Call) -> Result<DeleteOptions, ApiError> {
    let body = if asked.body.is_empty() { json!({}) } else { asked.json()? };
    let mut options = DeleteOptions::parse(&body);
    if let Some(policy) = asked.query.get("propagationPolicy") {
        options.propagation = Some(policy.clone());
    }
    if let Ok(grace) = asked.query("gracePeriodSeconds").parse() {
        options.grace = Some(grace);
    }
    if body.get("dryRun").and_then(Value::as_array).is_some_and(|list| list.iter().any(|one| one == "All")) {
        call.dry = true;
    }
    Ok(options)
}

async fn delete_all(asked: &Asked, mut call: Call, selector: Selector) -> Result<Reply, ApiError> {
    let options = delete_options(asked, &mut call)?;
    let scope = Scope { resource: call.resource.clone(), namespace: call.namespace.clone(), selector };
    let list = read::list(&call.server, &scope, &ListOptions::default())?;
    for stored in &list.items {
        let mut one = call.clone();
        one.name = crate::object::meta(&stored.value, "name").to_owned();
        one.namespace = crate::object::meta(&stored.value, "namespace").to_owned();
        match one.delete(&options).await {
            // Someone else was faster.
            Err(error) if error.code == 404 => {}
            other => {
                other?;
            }
        }
    }
    Ok(reply(200, read::encode_list(&scope, &list)))
}

/// Bodies of objects are JSON or protobuf.
fn check_type(asked: &Asked) -> Result<(), ApiError> {
    let kind = asked.content_type.split(';').next().unwrap_or_default().trim();
    if matches!(kind, "" | "application/json" | PROTOBUF) {
        return Ok(());
    }
    Err(ApiError::unsupported_media_type(kind, "application/json"))
}

fn read_patch(asked: &Asked, resource: &Resource) -> Result<Patch, ApiError> {
    let kind = asked.content_type.split(';').next().unwrap_or_default().trim();
    let force = asked.flag("force");
    if force && kind != "application/apply-patch+yaml" {
        return Err(ApiError::with_reason(
            422,
            "Invalid",
            "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
        ));
    }
    match kind {
        "application/json-patch+json" => Ok(Patch::Json(asked.json()?)),
        "application/merge-patch+json" => Ok(Patch::Merge(asked.json()?)),
        "application/strategic-merge-patch+json" if !resource.custom => Ok(Patch::Strategic(asked.json()?)),
        "application/apply-patch+yaml" => {
            if asked.query("fieldManager").is_empty() {
                return Err(ApiError::with_reason(
                    422,
                    "Invalid",
                    "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
                ));
            }
            Ok(Patch::Apply { config: asked.json()?, force })
        }
        other => {
            let accepted = if resource.custom {
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
            } else {
                "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml"
            };
            Err(ApiError::unsupported_media_type(other, accepted))
        }
    }
}
