//! Input that is large, deep, or made to be expensive: what becomes of it is bounded, by counts.

use std::path::Path;
use std::time::Duration;

use evenkeel_sources::catalog::Catalog;
use evenkeel_sources::manifest::{MAX_BYTES, MAX_FINDINGS, Parsed, parse};

fn read(text: &str) -> Parsed {
    parse(Path::new("x.yaml"), text.as_bytes())
}

fn reasons(parsed: &Parsed) -> Vec<&str> {
    parsed.diagnostics.iter().map(|diagnostic| diagnostic.reason).collect()
}

/// Of all that a file can make us keep, nothing is longer than a few lines.
fn assert_bounded(parsed: &Parsed) {
    assert!(parsed.diagnostics.len() <= MAX_FINDINGS + 1, "{}", parsed.diagnostics.len());
    assert!(parsed.skipped.len() <= MAX_FINDINGS, "{}", parsed.skipped.len());
    for diagnostic in parsed.diagnostics.iter().chain(parsed.skipped.values()) {
        let shown = diagnostic.to_string();
        assert!(shown.chars().count() < 2000, "{} characters: {shown:.300}", shown.len());
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    }
}

fn service(n: usize) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{n}}}\nspec: {{type: LoadBalancer, ports: [{{port: 80}}]}}\n"
    )
}

fn namespace(n: usize) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: n{n}}}\n")
}

#[test]
fn a_hundred_thousand_documents_in_one_file() {
    let text: String = (0..100_000).map(namespace).collect();
    let mut catalog = Catalog::default();
    catalog.set_file(Path::new("all.yaml"), text.as_bytes());
    catalog.settle(Duration::ZERO);
    assert_eq!((catalog.world().namespaces.len(), catalog.considered()), (100_000, 100_000));
    assert_eq!(catalog.diagnostics(), []);
    catalog.set_file(Path::new("one.yaml"), namespace(100_000).as_bytes());
    catalog.settle(Duration::from_secs(1));
    assert_eq!((catalog.world().namespaces.len(), catalog.considered()), (100_001, 1));
}

#[test]
fn a_hundred_thousand_files() {
    let mut catalog = Catalog::default();
    for n in 0..100_000 {
        catalog.set_file(Path::new(&format!("{n}.yaml")), namespace(n).as_bytes());
    }
    catalog.settle(Duration::ZERO);
    assert_eq!((catalog.world().namespaces.len(), catalog.considered()), (100_000, 100_000));
    catalog.remove_file(Path::new("7.yaml"));
    assert!(catalog.settle(Duration::from_secs(1)).recheck_at.is_some());
    assert_eq!(catalog.considered(), 1);
}

#[test]
fn one_list_of_ten_megabytes() {
    let item = |n: usize| {
        format!(
            "{{\"metadata\": {{\"name\": \"s{n}\"}}, \"spec\": {{\"ports\": [{{\"port\": 80, \"nodePort\": 30080}}]}}}}"
        )
    };
    let items: Vec<String> = (0..125_000).map(item).collect();
    let text = format!("{{\"apiVersion\": \"v1\", \"kind\": \"ServiceList\", \"items\": [{}]}}", items.join(", "));
    assert!(text.len() > 10_000_000, "{}", text.len());
    let parsed = read(&text);
    assert_eq!((parsed.documents.len(), reasons(&parsed)), (125_000, vec![]));
}

#[test]
fn a_file_that_is_wrong_throughout_is_answered_shortly() {
    let wrong: String = (0..20_000).map(|n| service(n).replace("80", "x")).collect();
    let parsed = read(&wrong);
    assert_eq!((parsed.documents.len(), parsed.diagnostics.len()), (20_000, MAX_FINDINGS + 1));
    let more = parsed.diagnostics.last().unwrap();
    assert_eq!((more.reason, more.message.starts_with("19000 more")), ("more_findings", true), "{more:?}");
    assert_bounded(&parsed);

    let fields: String = (0..50_000).map(|n| format!("  field{n}: 1\n")).collect();
    let one = format!("apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: a}}\nspec:\n{fields}");
    assert_bounded(&read(&one));
    let annotations: String = (0..50_000).map(|n| format!("    metallb.io/a{n}: \"1\"\n")).collect();
    let many =
        format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  annotations:\n{annotations}spec: {{}}\n");
    assert_bounded(&read(&many));
    let ports: String = (0..50_000).map(|n| format!("  - {{name: p{n}, port: {}}}\n", n % 40_000 + 1)).collect();
    assert_bounded(&read(&format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  ports:\n{ports}")));
    let kinds: String = (0..20_000).map(|n| format!("---\napiVersion: a/v1\nkind: K{n}\n")).collect();
    assert_bounded(&read(&kinds));
}

#[test]
fn long_lists_are_checked_in_one_pass() {
    let ranges: Vec<String> = (0..50_000).map(|n| format!("10.{}.{}.{}/32", n >> 16, n >> 8 & 255, n & 255)).collect();
    let pool = |ranges: &[String]| {
        let list = ranges.join(", ");
        read(&format!(
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: a}}\nspec: {{addresses: [{list}]}}\n"
        ))
    };
    assert_eq!(reasons(&pool(&ranges)), [""; 0]);
    assert_bounded(&pool(&[ranges.clone(), ranges].concat()));
    let peers: Vec<String> = (0..50_000).map(|n| format!("p{}", n / 2)).collect();
    let selectors: Vec<String> = (0..50_000).map(|n| format!("{{matchLabels: {{a: b{}}}}}", n / 2)).collect();
    let advertisement = format!(
        "apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {{name: a}}\nspec:\n  peers: [{}]\n  nodeSelectors: [{}]\n",
        peers.join(", "),
        selectors.join(", ")
    );
    let parsed = read(&advertisement);
    assert_bounded(&parsed);
    assert!(parsed.diagnostics.last().unwrap().message.starts_with("49000 more"), "{:?}", parsed.diagnostics.last());
}

#[test]
fn nesting_and_aliases_are_bounded() {
    for open in ["[", "{a: ", "- ", "? "] {
        let parsed = read(&open.repeat(100_000));
        assert_bounded(&parsed);
        assert!(parsed.incomplete && parsed.documents.is_empty(), "{open}");
    }
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..30 {
        let alias = format!("*a{}", n - 1);
        bomb += &format!("a{n}: &a{n} [{}]\n", [alias.as_str(); 10].join(", "));
    }
    assert_eq!(reasons(&read(&bomb)), ["too_large"]);
    let mut merges = "a0: &a0 {k0: v}\n".to_owned();
    for n in 1..100_000 {
        merges += &format!("a{n}: &a{n} {{<<: *a{}, k{n}: v}}\n", n - 1);
    }
    assert_eq!(reasons(&read(&merges)), ["too_large"]);
    let nested: String = (0..40).map(|_| "&a [").collect::<String>() + &"x, ".repeat(20_000) + &"]".repeat(40);
    assert_eq!(reasons(&read(&nested)), ["too_large"]);
}

#[test]
fn huge_words_are_cut() {
    let huge = "x".repeat(1_000_000);
    for text in [
        format!("apiVersion: v1\nkind: {huge}\n"),
        format!("apiVersion: {huge}\nkind: Service\n"),
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {huge}}}\n"),
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{type: {huge}}}\n"),
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{loadBalancerIP: {huge}}}\n"),
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a, annotations: {{metallb.io/{huge}: a}}}}\nspec: {{}}\n"
        ),
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{selector: {{{huge}: 5}}}}\n"),
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{sessionAffinity: \"{huge}\n"),
        format!("{huge}: 1\n{huge}: 2\n"),
        format!("a: [{huge}\n"),
        format!(
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: a}}\nspec: {{{huge}: 1, addresses: [{huge}, \"{huge}-{huge}\"]}}\n"
        ),
        format!(
            "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: a}}\nspec: {{holdTime: {huge}, peerASN: {huge}}}\n"
        ),
        format!(
            "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: a}}\nspec: {{holdTime: {}}}\n",
            "9".repeat(1_000_000)
        ),
        format!(
            "apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {{name: a}}\nspec: {{communities: [{huge}, {huge}, \"1:{huge}\"]}}\n"
        ),
        format!(
            "apiVersion: metallb.io/v1beta1\nkind: Community\nmetadata: {{name: a}}\nspec: {{communities: [{{name: {huge}, value: {huge}}}]}}\n"
        ),
    ] {
        let parsed = read(&text);
        assert_bounded(&parsed);
        assert!(!parsed.diagnostics.is_empty() || !parsed.skipped.is_empty(), "{text:.200}");
    }
}

#[test]
fn what_is_no_text_is_refused() {
    let file = |bytes: &[u8]| parse(Path::new("x.yaml"), bytes);
    assert_eq!(reasons(&file(b"a: \xff\xfe\n")), ["not_utf8"]);
    assert_eq!(reasons(&file(&vec![b'#'; MAX_BYTES + 1])), ["too_large"]);
    assert_eq!(reasons(&file(&vec![0; 1000])), ["control_character"]);
    assert_eq!(
        reasons(&file("a: 1\n---\nb: \u{1}\n---\nc: 1\n".as_bytes())),
        ["missing_field", "control_character", "missing_field"]
    );
    let dos = service(1).replace('\n', "\r\n");
    assert_eq!((reasons(&read(&dos)), read(&dos).documents.len()), (vec![], 1));
    let marked = format!("\u{feff}{}\u{feff}{}", service(1), service(2));
    assert_eq!((reasons(&read(&marked)), read(&marked).documents.len()), (vec![], 2));
}
