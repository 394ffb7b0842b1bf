//! Admission by validating webhooks (`admissionregistration.k8s.io/v1`), called over HTTPS as a real server does.
//!
//! There is no cluster network: a webhook named by its Service is called at the address that Service's ready endpoints
//! have.

use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::error::ApiError;
use crate::object::{at, meta, text};
use crate::select::selects;
use crate::server::{Server, present};
use crate::tls;
use crate::write::Call;

/// Asks the webhooks that want to know. `new` is none for a delete, `old` for a create.
pub(crate) async fn admit(
    call: &mut Call,
    operation: &str,
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let configurations =
        call.server.state().store.snapshot("admissionregistration.k8s.io/validatingwebhookconfigurations");
    if configurations.is_empty() || call.resource.group == "admissionregistration.k8s.io" {
        return Ok(());
    }
    for configuration in configurations.values() {
        for hook in list(&configuration.value, "webhooks") {
            if !concerns(call, hook, operation, new.or(old)) {
                continue;
            }
            let seconds = hook.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(10);
            let review = review(call, operation, new, old);
            let asked = tokio::time::timeout(Duration::from_secs(seconds), ask(&call.server, hook, &review)).await;
            let name = text(hook, &["name"]);
            let failure = match asked {
                Ok(Ok(answer)) => {
                    let shown = list(&answer, "warnings").filter_map(Value::as_str).map(str::to_owned);
                    call.warnings.extend(shown);
                    if answer.get("allowed") == Some(&Value::Bool(true)) {
                        continue;
                    }
                    return Err(denied(name, &answer));
                }
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "context deadline exceeded".to_owned(),
            };
            if text(hook, &["failurePolicy"]) != "Ignore" {
                return Err(ApiError::internal(format!(
                    "failed calling webhook {name:?}: failed to call webhook: {failure}"
                )));
            }
            tracing::debug!(name, failure, "a webhook that may fail did");
        }
    }
    Ok(())
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn denied(name: &str, answer: &Value) -> ApiError {
    let status = answer.get("status").cloned().unwrap_or_else(|| json!({}));
    let code = status.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let message = match (text(&status, &["message"]), text(&status, &["reason"])) {
        ("", "") => format!("admission webhook {name:?} denied the request without explanation"),
        ("", reason) => format!("admission webhook {name:?} denied the request: {reason}"),
        (message, _) => format!("admission webhook {name:?} denied the request: {message}"),
    };
    ApiError::with_reason(code.filter(|code| (400..600).contains(code)).unwrap_or(403), "Forbidden", message)
}

/// Whether a webhook wants to know of this.
fn concerns(call: &Call, hook: &Value, operation: &str, object: Option<&Value>) -> bool {
    let resource = &call.resource;
    let has = |rule: &Value, name: &str, wanted: &str| {
        list(rule, name).filter_map(Value::as_str).any(|one| one == wanted || one == "*")
    };
    let full = if call.subresource.is_empty() {
        resource.plural.clone()
    } else {
        format!("{}/{}", resource.plural, call.subresource)
    };
    let ruled = list(hook, "rules").any(|rule| {
        let named = list(rule, "resources").filter_map(Value::as_str).any(|one| {
            one == full
                || one == "*/*"
                || (one == "*" && call.subresource.is_empty())
                || one == format!("{}/*", resource.plural)
        });
        // `matchPolicy: Equivalent` (the default) takes any version of a kind.
        let version = has(rule, "apiVersions", &resource.version) || text(hook, &["matchPolicy"]) != "Exact";
        let scope = match text(rule, &["scope"]) {
            "Namespaced" => resource.namespaced,
            "Cluster" => !resource.namespaced,
            _ => true,
        };
        named && version && scope && has(rule, "operations", operation) && has(rule, "apiGroups", &resource.group)
    });
    if !ruled || !selects(hook.get("objectSelector"), object.and_then(|one| at(one, &["metadata", "labels"]))) {
        return false;
    }
    if !resource.namespaced {
        return true;
    }
    let key = (String::new(), call.namespace.clone());
    let namespace = call.server.state().store.get("/namespaces", &key).cloned();
    selects(hook.get("namespaceSelector"), namespace.as_ref().and_then(|one| at(&one.value, &["metadata", "labels"])))
}

fn review(call: &Call, operation: &str, new: Option<&Value>, old: Option<&Value>) -> Value {
    let resource = &call.resource;
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let named = json!({"group": resource.group, "version": resource.version, "resource": resource.plural});
    let shown = |object: Option<&Value>| object.map_or(Value::Null, |object| present(resource, object));
    let name = new.or(old).map(|object| meta(object, "name")).unwrap_or_default();
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {
        "uid": crate::object::uid(), "kind": kind, "resource": named, "requestKind": kind, "requestResource": named,
        "subResource": call.subresource, "requestSubResource": call.subresource,
        "name": name, "namespace": call.namespace, "operation": operation, "dryRun": call.dry,
        "userInfo": {"username": call.user.name, "groups": call.user.groups},
        "object": shown(new), "oldObject": shown(old), "options": null,
    }})
}

/// Calls a webhook; its `response`.
async fn ask(server: &Server, hook: &Value, review: &Value) -> anyhow::Result<Value> {
    let config = hook.get("clientConfig").context("no clientConfig")?;
    let target = Target::of(server, config)?;
    let bundle = base64::engine::general_purpose::STANDARD.decode(text(config, &["caBundle"])).context("caBundle")?;
    let stream =
        TcpStream::connect(&target.address).await.with_context(|| format!("connecting to {}", target.address))?;
    let name = ServerName::try_from(target.name.clone()).context("the name of the server")?;
    let stream = tls::connector(&bundle)?.connect(name, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::post(&target.path)
        .header(hyper::header::HOST, &target.name)
        .header(hyper::header::CONTENT_TYPE, "application/json")
        .header(hyper::header::ACCEPT, "application/json")
        .body(Full::new(Bytes::from(review.to_string())))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    if !status.is_success() {
        bail!("the webhook answered {status}");
    }
    let answer: Value = serde_json::from_slice(&body).context("the answer is no JSON")?;
    let response = answer.get("response").cloned().context("the answer has no response")?;
    if at(&response, &["uid"]) != at(review, &["request", "uid"]) {
        bail!("expected response.uid={}", at(review, &["request", "uid"]).cloned().unwrap_or_default());
    }
    Ok(response)
}

/// Where a webhook is.
struct Target {
    address: String,
    /// As its certificate names it.
    name: String,
    path: String,
}

impl Target {
    fn of(server: &Server, config: &Value) -> anyhow::Result<Self> {
        if let Some(service) = config.get("service") {
            return Self::of_service(server, service);
        }
        let url = text(config, &["url"]);
        let rest = url.strip_prefix("https://").with_context(|| format!("url {url:?} is not https"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let bare = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (name, port) = match bare {
            Some((name, port)) => (name, port.strip_prefix(':')),
            None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
        };
        let address = if port.is_some() { host.to_owned() } else { format!("{host}:443") };
        Ok(Self { address, name: name.to_owned(), path: format!("/{path}") })
    }

    fn of_service(server: &Server, service: &Value) -> anyhow::Result<Self> {
        let (namespace, name) = (text(service, &["namespace"]), text(service, &["name"]));
        let wanted = service.get("port").and_then(Value::as_u64).unwrap_or(443);
        let state = server.state();
        let found = state.store.get("/services", &(namespace.to_owned(), name.to_owned()));
        let found = found.with_context(|| format!("service \"{name}\" not found"))?;
        let port = at(&found.value, &["spec", "ports"])
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .find(|port| port.get("port").and_then(Value::as_u64) == Some(wanted))
            .with_context(|| format!("service \"{name}\" has no port {wanted}"))?;
        let slices = state.store.snapshot("discovery.k8s.io/endpointslices");
        let own = slices.iter().filter(|((home, _), slice)| {
            home == namespace && text(&slice.value, &["metadata", "labels", "kubernetes.io/service-name"]) == name
        });
        let address = own
            .filter_map(|(_, slice)| {
                let number = list(&slice.value, "ports")
                    .find(|one| text(one, &["name"]) == text(port, &["name"]))
                    .and_then(|one| one.get("port")?.as_u64())?;
                let ready = |one: &&Value| at(one, &["conditions", "ready"]) != Some(&Value::Bool(false));
                let endpoint = list(&slice.value, "endpoints").find(ready)?;
                let address = list(endpoint, "addresses").find_map(Value::as_str)?;
                Some(if address.contains(':') {
                    format!("[{address}]:{number}")
                } else {
                    format!("{address}:{number}")
                })
            })
            .next()
            .with_context(|| format!("no endpoints available for service \"{name}\""))?;
        let path = match text(service, &["path"]) {
            "" => "/",
            path => path,
        };
        Ok(Self {
            address,
            name: format!("{name}.{namespace}.svc"),
            path: format!("/{}", path.trim_start_matches('/')),
        })
    }
}
