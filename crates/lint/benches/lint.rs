//! How long 5,000 manifests take: 1,250 workloads, each with its Service, budget and a ConfigMap, in 25 namespaces; as files,
//! as one stream of documents, and as one List in YAML and in JSON.

use std::hint::black_box;

use evenkeel_lint::{Config, Input, fix, lint, patch};
use rustix::time::{ClockId, clock_gettime};

fn seconds() -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn milliseconds<T>(mut work: impl FnMut() -> T) -> (f64, T) {
    let start = seconds();
    let result = black_box(work());
    ((seconds() - start) * 1e3, result)
}

fn main() {
    let one = include_str!("../../../tests/golden-lint/ZD08/fail.yaml");
    let map = "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: web\ndata:\n  a: b\n";
    let texts: Vec<String> = (0..1250)
        .map(|n| {
            format!("{one}{map}")
                .replace("  name: web\n", &format!("  name: web-{n}\n  namespace: team-{}\n", n % 25))
                .replace("app: web", &format!("app: web-{n}"))
        })
        .collect();
    let input = |name: &str, text: String| vec![Input { name: name.to_owned(), text }];
    let file = |(n, text): (usize, &String)| Input { name: format!("web-{n}.yaml"), text: text.clone() };
    measure("1,250 files", &texts.iter().enumerate().map(file).collect::<Vec<_>>());
    measure("a stream", &input("stream.yaml", texts.join("---\n")));
    let list = list(&texts);
    measure("a List in JSON", &input("list.json", json(&list)));
    measure("a List in YAML", &input("list.yaml", list));
}

/// All documents as the items of one List.
fn list(texts: &[String]) -> String {
    let mut list = "apiVersion: v1\nkind: List\nitems:\n".to_owned();
    for document in texts.iter().flat_map(|text| text.split("---\n")).filter(|document| !document.is_empty()) {
        for (n, line) in document.lines().enumerate() {
            list += if n == 0 { "- " } else { "  " };
            list += line;
            list.push('\n');
        }
    }
    list
}

/// The same on one line, as `kubectl get -o json | jq -c` gives it.
fn json(list: &str) -> String {
    let value: serde_json::Value = serde_saphyr::from_str(list).unwrap_or_default();
    value.to_string()
}

fn measure(what: &str, inputs: &[Input]) {
    let bytes: usize = inputs.iter().map(|input| input.text.len()).sum();
    let config = Config::default();
    let runs: Vec<_> = (0..5).map(|_| milliseconds(|| lint(inputs, &config))).collect();
    let best = runs.iter().map(|(time, _)| *time).fold(f64::MAX, f64::min);
    let (objects, findings) = runs.last().map_or((0, 0), |(_, report)| (report.objects, report.findings.len()));
    println!("{what}: {objects} objects, {bytes} bytes, {findings} findings: {best:.0} ms");
    let (time, fixed) = milliseconds(|| fix(inputs, &config));
    println!("  mended, so that {} findings are left: {time:.0} ms", lint(&fixed, &config).findings.len());
    let (time, patch) = milliseconds(|| patch(inputs, &fixed));
    println!("  the patch of {} lines: {time:.0} ms", patch.lines().count());
}
