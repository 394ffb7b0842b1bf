//! `/_fake/`: faults and records, for tests in other processes.

use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, Response};
use serde_json::{Value, json};

use crate::auth::User;
use crate::error::ApiError;
use crate::faults::Mood;
use crate::http::{Answer, Asked, reply_json};
use crate::object::text;
use crate::server::Server;

/// Answers a request to the fake itself.
pub(crate) fn route(server: &Arc<Server>, asked: &Asked, path: &[&str]) -> Result<Response<Answer>, ApiError> {
    let done = || Ok(reply_json(200, &json!({})));
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64);
    let body = || if asked.body.is_empty() { Ok(json!({})) } else { asked.json() };
    match (&asked.method, path) {
        (&Method::GET, ["requests"]) => Ok(reply_json(200, &server.audit.json())),
        (&Method::DELETE, ["requests"]) => {
            server.audit.clear();
            done()
        }
        (&Method::GET, ["writes"]) => Ok(reply_json(200, &json!(server.state().store.writes()))),
        (&Method::POST, ["compact"]) => {
            server.state().store.compact();
            done()
        }
        (&Method::POST, ["close-watches"]) => {
            server.faults.close_watches();
            done()
        }
        (&Method::POST, ["mood"]) => {
            let body = body()?;
            let mood = match text(&body, &["mood"]) {
                "fine" => Mood::Fine,
                "refuse" => Mood::Refuse,
                "hang" => Mood::Hang,
                "fail" => Mood::Fail(number(&body, "code").and_then(|code| u16::try_from(code).ok()).unwrap_or(503)),
                other => {
                    let message = format!("mood {other:?} is none of fine, refuse, hang, fail");
                    return Err(ApiError::bad_request(message));
                }
            };
            server.faults.set_mood(mood);
            // Who refuses connections cannot be asked to stop over one.
            if let Some(seconds) = body.get("seconds").and_then(Value::as_f64).filter(|seconds| *seconds >= 0.0) {
                let server = server.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                    server.faults.set_mood(Mood::Fine);
                });
            } else if mood == Mood::Refuse {
                server.faults.set_mood(Mood::Fine);
                return Err(ApiError::bad_request("refusing connections needs seconds: no request could end it"));
            }
            done()
        }
        (&Method::POST, ["latency"]) => {
            server.faults.set_latency(Duration::from_millis(number(&body()?, "milliseconds").unwrap_or(0)));
            done()
        }
        (&Method::POST, ["once"]) => {
            let body = body()?;
            let plural = text(&body, &["resource"]);
            let times = number(&body, "times").and_then(|times| u32::try_from(times).ok()).unwrap_or(1);
            match text(&body, &["fault"]) {
                "empty-list" => server.faults.empty_lists(plural, times),
                "conflict" => server.faults.conflicts(plural, times),
                "failed-write" => {
                    let code = number(&body, "code").and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
                    server.faults.fail_writes(plural, code, times);
                }
                other => {
                    let message = format!("fault {other:?} is none of empty-list, conflict, failed-write");
                    return Err(ApiError::bad_request(message));
                }
            }
            done()
        }
        (&Method::POST, ["token"]) => {
            let body = body()?;
            let groups = body.get("groups").and_then(Value::as_array).cloned().unwrap_or_default();
            let user = match text(&body, &["serviceAccount"]).split_once('/') {
                Some((namespace, name)) => User::service_account(namespace, name),
                None => User {
                    name: text(&body, &["user"]).to_owned(),
                    groups: groups.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
                },
            };
            Ok(reply_json(200, &json!({"token": server.token_for(user)})))
        }
        _ => Err(ApiError::no_such_path()),
    }
}
