//! The report of a real run; each format has its tests beside it.

use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::common;

#[tokio::test]
async fn json_says_what_became_of_each_lane() {
    let target = common::bind("127.0.0.1", Duration::from_secs(10));
    tokio::spawn(target.server.run(CancellationToken::new()));
    let mut config = common::config(&format!("http://{}", target.http), 100);
    let refused = common::config("tcp://224.0.0.1:9", 100);
    config.lanes.extend(refused.lanes);
    let report = common::run(config).await;
    let json = serde_json::to_value(&report).unwrap();

    assert_eq!((&json["requests"], &json["failed"], &json["invalid"]), (&40.into(), &20.into(), &false.into()));
    assert_eq!((&json["version"], &json["verdict"]), (&1.into(), &"breached".into()));
    let [answered, failed] = json["lanes"].as_array().unwrap().as_slice() else { panic!("{json}") };
    assert_eq!(answered["kind"], "http");
    assert_eq!(answered["servers"], serde_json::json!({"alpha": 20}));
    assert_eq!(answered["codes"], serde_json::json!({"200": 20}));
    assert_eq!(answered["causes"], serde_json::json!({}));
    assert_eq!(answered["failure_bound_95"], 0.15);
    assert!(answered["latency_ms"]["p99"].as_f64().unwrap() > 0.0);

    assert_eq!(failed["causes"], serde_json::json!({"unreachable_net": 20}));
    assert_eq!(failed["latency_ms"], Value::Null);
    assert_eq!(failed["failure_bound_95"], Value::Null);
    let window = &failed["windows"][0];
    assert_eq!((&window["cause"], &window["failed"]), (&"unreachable_net".into(), &20.into()));
    assert_eq!(evenkeel_probe::Report::from_json(json.to_string().as_bytes()).unwrap(), report);
}

#[tokio::test]
async fn text_names_causes_and_verdict() {
    let report = common::run(common::config("tcp://224.0.0.1:9", 100)).await;
    let text = report.to_string();
    assert!(text.contains("unreachable_net:20"), "{text}");
    assert!(text.ends_with("BREACHED: failed=0: 20 of 20 requests failed\n"), "{text}");
}
