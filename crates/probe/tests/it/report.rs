//! The JSON report is an interface: its fields and names are fixed here.

use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::common;

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn json_has_the_documented_shape() {
    const QUANTILES: [&str; 5] = ["max", "p50", "p90", "p99", "p999"];
    let target = common::bind("127.0.0.1", Duration::from_secs(10));
    tokio::spawn(target.server.run(CancellationToken::new()));
    let mut config = common::config(&format!("http://{}", target.http), 100);
    let refused = common::config("tcp://224.0.0.1:9", 100);
    config.lanes.extend(refused.lanes);
    let report = common::run(config).await;
    let json = serde_json::to_value(&report).unwrap();

    assert_eq!(
        keys(&json),
        ["duration_ms", "failed", "invalid", "invalid_reasons", "lag_ms", "lanes", "max_lag_ms", "requests"]
    );
    assert_eq!((&json["requests"], &json["failed"], &json["invalid"]), (&40.into(), &20.into(), &false.into()));
    assert_eq!(keys(&json["lag_ms"]), QUANTILES);

    let [answered, failed] = json["lanes"].as_array().unwrap().as_slice() else { panic!("{json}") };
    for lane in [answered, failed] {
        assert_eq!(
            keys(lane),
            [
                "causes",
                "failed",
                "failure_bound_95",
                "kind",
                "lane",
                "latency_ms",
                "longest_gap_ms",
                "requests",
                "retried",
                "servers",
                "target",
                "windows",
            ]
        );
    }
    assert_eq!(answered["kind"], "http");
    assert_eq!(answered["servers"], serde_json::json!({"alpha": 20}));
    assert_eq!(answered["causes"], serde_json::json!({}));
    assert_eq!(answered["failure_bound_95"], 0.15);
    assert_eq!(keys(&answered["latency_ms"]), QUANTILES);

    assert_eq!(failed["causes"], serde_json::json!({"unreachable": 20}));
    assert_eq!(failed["latency_ms"], Value::Null);
    assert_eq!(failed["failure_bound_95"], Value::Null);
    let window = &failed["windows"][0];
    assert_eq!(keys(window), ["cause", "end_ms", "failed", "start_ms"]);
    assert_eq!((&window["cause"], &window["failed"]), (&"unreachable".into(), &20.into()));

    assert_eq!(serde_json::from_value::<evenkeel_probe::Report>(json).unwrap(), report);
}

#[tokio::test]
async fn text_names_causes_and_verdict() {
    let report = common::run(common::config("tcp://224.0.0.1:9", 100)).await;
    let text = report.to_string();
    assert!(text.contains("unreachable 20"), "{text}");
    assert!(text.contains("0.0000 %, 20"), "{text}");
    assert!(text.ends_with("FAILED: 20 of 20 requests\n"), "{text}");
}
