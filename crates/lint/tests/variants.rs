//! Variants of a good manifest, each with the rules that speak of it and no others; what `--fix` makes of each can be
//! read, is mended once, and leaves nothing that it promised to mend.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use evenkeel_lint::{Config, Input, fix, lint};

const GOOD: &str = include_str!("../../../tests/golden-lint/ZD01/pass.yaml");
const VARIANTS: &str = include_str!("variants.txt");

/// The name, the rules and the text of each.
fn variants() -> Vec<(String, Vec<String>, String)> {
    let variant = |section: &str| {
        let (header, mut body) = section.split_once('\n').unwrap();
        let (name, rules) = header.rsplit_once(": ").unwrap();
        let mut text = GOOD.to_owned();
        while let Some(rest) = body.strip_prefix("<<<\n") {
            let (from, rest) = rest.split_once("\n===\n").unwrap();
            let (to, rest) = rest.split_once("\n>>>\n").unwrap();
            assert!(text.contains(from), "{name}: there is no {from:?}");
            text = text.replace(from, to);
            body = rest;
        }
        let rules = rules.split(' ').filter(|rule| *rule != "none").map(str::to_owned).collect();
        (name.to_owned(), rules, text + body)
    };
    VARIANTS.split("\n### ").skip(1).map(variant).collect()
}

fn inputs(text: &str) -> [Input; 1] {
    [Input { name: "a.yaml".to_owned(), text: text.to_owned() }]
}

fn rules(text: &str) -> Vec<String> {
    let report = lint(&inputs(text), &Config::default());
    assert!(report.unreadable.is_empty(), "{:?}\n{text}", report.unreadable);
    let mut rules: Vec<String> = report.findings.iter().map(|finding| finding.rule.id.to_owned()).collect();
    rules.sort();
    rules
}

#[test]
fn each_is_judged_as_it_is() {
    let variants = variants();
    assert!(variants.len() > 100, "{}", variants.len());
    for (name, expected, text) in variants {
        assert_eq!(rules(&text), expected, "{name}\n{text}");
    }
}

#[test]
fn each_is_mended_in_every_form() {
    for (name, _, text) in variants() {
        let crlf = text.replace('\n', "\r\n");
        let marked = format!("\u{feff}{text}");
        let mut list = "apiVersion: v1\nkind: List\nitems:\n".to_owned();
        for document in text.split("---\n").filter(|document| !document.trim().is_empty()) {
            let mut first = true;
            for line in document.lines() {
                list += if std::mem::take(&mut first) { "- " } else { "  " };
                list += line;
                list.push('\n');
            }
        }
        for form in [text.clone(), crlf, marked, list] {
            assert_eq!(rules(&form), rules(&text), "{name}\n{form}");
            let fixed = fix(&inputs(&form), &Config::default());
            let after = lint(&fixed, &Config::default());
            assert!(after.unreadable.is_empty(), "{name}\n{}", fixed[0].text);
            let left: Vec<&str> =
                after.findings.iter().filter(|finding| finding.fixable).map(|finding| finding.rule.id).collect();
            assert!(left.is_empty(), "{name} {left:?}\n{}", fixed[0].text);
            assert_eq!(fix(&fixed, &Config::default())[0].text, fixed[0].text, "{name}");
            // Comments stay, and lines end as they did.
            assert_eq!(fixed[0].text.matches('#').count(), form.matches('#').count(), "{name}");
            let ends = |text: &str| text.matches("\r\n").count() == text.matches('\n').count();
            assert_eq!(ends(&fixed[0].text), ends(&form), "{name}");
        }
    }
}
