//! How long 5,000 manifests take: 1,250 workloads, each with its Service, budget and a ConfigMap, in 25 namespaces.

use std::hint::black_box;

use evenkeel_lint::{Config, Input, fix, lint};
use rustix::time::{ClockId, clock_gettime};

fn seconds() -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn main() {
    let one = include_str!("../../../tests/golden-lint/ZD08/fail.yaml");
    let map = "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: web\ndata:\n  a: b\n";
    let inputs: Vec<Input> = (0..1250)
        .map(|n| {
            let text = format!("{one}{map}")
                .replace("  name: web\n", &format!("  name: web-{n}\n  namespace: team-{}\n", n % 25))
                .replace("app: web", &format!("app: web-{n}"));
            Input { name: format!("web-{n}.yaml"), text }
        })
        .collect();
    let bytes: usize = inputs.iter().map(|input| input.text.len()).sum();
    let config = Config::default();
    let mut best = f64::MAX;
    let mut report = None;
    for _ in 0..5 {
        let start = seconds();
        report = Some(black_box(lint(&inputs, &config)));
        best = best.min(seconds() - start);
    }
    let (objects, findings) = report.map_or((0, 0), |report| (report.objects, report.findings.len()));
    println!("{objects} objects, {bytes} bytes, {findings} findings: {:.0} ms", best * 1e3);
    let start = seconds();
    let fixed = black_box(fix(&inputs, &config));
    let changed = inputs.iter().zip(&fixed).filter(|(before, after)| before.text != after.text).count();
    println!("{changed} files mended: {:.0} ms", (seconds() - start) * 1e3);
}
