//! Any body that may be posted to the webhook: no panic, and every question of the right form gets an answer to itself.
#![no_main]

use evenkeel_controller::webhook::review::Request;
use evenkeel_controller::webhook::verdict::{judge, kind};
use evenkeel_plan::World;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|body: &[u8]| {
    let Ok(request) = Request::parse(body) else { return };
    let Some(kind) = kind(&request) else { return };
    let world = World { system_namespace: Some("metallb-system".to_owned()), ..World::default() };
    let verdict = judge(kind, &world, &request);
    let answer: Value = serde_json::from_slice(&request.answer(&verdict)).unwrap_or_default();
    let response = &answer["response"];
    assert_eq!(response["uid"], request.uid.as_str());
    assert_eq!(response["allowed"], verdict.is_allowed());
    let said = response["status"]["message"].as_str().unwrap_or_default();
    assert_ne!(verdict.is_allowed(), !said.is_empty());
    assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
});
