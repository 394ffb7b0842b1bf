//! Endpoints that are not plain objects: reviews, `scale`, `eviction`, `binding`, `token`, `finalize`.

use std::sync::Arc;

use hyper::{Method, Response};
use serde_json::{Value, json};

use crate::auth::{Action, User};
use crate::discovery::REVIEWS;
use crate::error::ApiError;
use crate::http::{Answer, Asked, Target, new_call, reply_json};
use crate::object::{at, fields, meta, set_meta, text};
use crate::server::Server;
use crate::write::{DeleteOptions, Patch};

type Reply = Response<Answer>;

/// Answers a review, if that is what was asked for.
pub(crate) fn review(server: &Server, asked: &Asked, group: &str, plural: &str) -> Result<Option<Reply>, ApiError> {
    if !REVIEWS.iter().any(|(one, name, _)| *one == group && *name == plural) {
        return Ok(None);
    }
    if asked.method != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    let mut body = asked.json()?;
    let status = match plural {
        "selfsubjectreviews" => json!({"userInfo": user_info(&asked.user)}),
        "tokenreviews" => match server.authenticate(Some(&format!("Bearer {}", text(&body, &["spec", "token"])))) {
            Ok(user) => json!({"authenticated": true, "user": user_info(&user)}),
            Err(_) => json!({"authenticated": false, "error": "invalid bearer token"}),
        },
        "selfsubjectrulesreviews" => json!({"resourceRules": [], "nonResourceRules": [], "incomplete": true}),
        _ => {
            let user = if plural == "subjectaccessreviews" {
                let groups = at(&body, &["spec", "groups"]).and_then(Value::as_array).cloned().unwrap_or_default();
                User {
                    name: text(&body, &["spec", "user"]).to_owned(),
                    groups: groups.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
                }
            } else {
                asked.user.clone()
            };
            let part = |name: &str| text(&body, &["spec", "resourceAttributes", name]).to_owned();
            let action = Action {
                verb: part("verb"),
                group: part("group"),
                resource: part("resource"),
                subresource: part("subresource"),
                namespace: part("namespace"),
                name: part("name"),
            };
            json!({"allowed": server.allowed(&user, &action)})
        }
    };
    fields(&mut body).insert("status".into(), status);
    Ok(Some(reply_json(201, &body)))
}

fn user_info(user: &User) -> Value {
    json!({"username": user.name, "groups": user.groups})
}

/// Answers what goes to a subresource other than `status`.
pub(crate) async fn subresource(
    server: &Arc<Server>,
    asked: &Asked,
    target: &Target,
) -> Result<Option<Reply>, ApiError> {
    match (target.subresource.as_str(), &asked.method) {
        ("" | "status", _) => Ok(None),
        ("scale", _) => scale(server, asked, target).await.map(Some),
        ("eviction", &Method::POST) => {
            let body = asked.json()?;
            let options = DeleteOptions::parse(&body.get("deleteOptions").cloned().unwrap_or_default());
            let mut call = new_call(server, asked, target)?;
            call.subresource.clear();
            call.delete(&options).await?;
            Ok(Some(reply_json(201, &success())))
        }
        ("binding", &Method::POST) => {
            let body = asked.json()?;
            let patch = Patch::Merge(json!({"spec": {"nodeName": text(&body, &["target", "name"])}}));
            let mut call = new_call(server, asked, target)?;
            call.subresource.clear();
            call.patch(patch).await?;
            Ok(Some(reply_json(201, &success())))
        }
        ("token", &Method::POST) => {
            let mut body = asked.json()?;
            let key = (target.namespace.clone(), target.name.clone());
            if server.state().store.get(&target.resource.table, &key).is_none() {
                return Err(ApiError::not_found(&target.resource, &target.name));
            }
            let token = server.token_for(User::service_account(&target.namespace, &target.name));
            let expires = crate::object::seconds_from_now(3600);
            fields(&mut body).insert("status".into(), json!({"token": token, "expirationTimestamp": expires}));
            Ok(Some(reply_json(201, &body)))
        }
        ("finalize", &Method::PUT) => {
            let body = asked.json()?;
            let key = (String::new(), target.name.clone());
            let mut state = server.state();
            let live = state.store.get(&target.resource.table, &key).cloned();
            let live = live.ok_or_else(|| ApiError::not_found(&target.resource, &target.name))?;
            let mut value = live.value.clone();
            let spec = body.get("spec").cloned().unwrap_or_else(|| json!({}));
            fields(&mut value).insert("spec".into(), spec);
            let stored = state.store.put(&target.resource.table, key, value, Some(live.revision));
            let stored = stored.map_err(|_| ApiError::modified(&target.resource, &target.name))?;
            Ok(Some(reply_json(200, &stored.value)))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

/// The number of replicas, as an object of its own.
async fn scale(server: &Arc<Server>, asked: &Asked, target: &Target) -> Result<Reply, ApiError> {
    let key = (target.namespace.clone(), target.name.clone());
    let live = || {
        let stored = server.state().store.get(&target.resource.table, &key).cloned();
        stored.map(|stored| stored.value.clone()).ok_or_else(|| ApiError::not_found(&target.resource, &target.name))
    };
    let shown = |object: &Value| {
        let count = |path: &[&str]| at(object, path).cloned().unwrap_or_else(|| json!(0));
        let mut scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {},
            "spec": {"replicas": count(&["spec", "replicas"])}, "status": {"replicas": count(&["status", "replicas"])}});
        for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            set_meta(&mut scale, name, meta(object, name));
        }
        scale
    };
    let wanted = match asked.method {
        Method::GET => return Ok(reply_json(200, &shown(&live()?))),
        Method::PUT => asked.json()?,
        Method::PATCH => crate::patch::json::merge(shown(&live()?), &asked.json()?),
        _ => return Err(ApiError::method_not_allowed()),
    };
    let replicas = at(&wanted, &["spec", "replicas"]).cloned().unwrap_or_else(|| json!(0));
    let mut change = json!({"spec": {"replicas": replicas}});
    let version = meta(&wanted, "resourceVersion");
    if !version.is_empty() {
        set_meta(&mut change, "resourceVersion", version);
    }
    let mut call = new_call(server, asked, target)?;
    call.subresource.clear();
    let (object, _) = call.patch(Patch::Merge(change)).await?;
    Ok(reply_json(200, &shown(&object)))
}
