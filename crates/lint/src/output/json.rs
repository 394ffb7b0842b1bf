//! JSON of our own, and SARIF 2.1.0 (OASIS).

use evenkeel_manifest::diagnostic::{Diagnostic, Location, Severity};
use serde_json::{Value, json};

use crate::{Finding, Report, rules};

fn place(diagnostic: &Diagnostic) -> Value {
    json!({
        "severity": diagnostic.severity.as_str(),
        "reason": diagnostic.reason,
        "file": diagnostic.location.file.display().to_string(),
        "line": diagnostic.location.line,
        "column": diagnostic.location.column,
        "kind": diagnostic.kind,
        "name": diagnostic.name,
        "field": diagnostic.field,
        "message": diagnostic.message,
        "remedy": diagnostic.remedy,
        "snippet": diagnostic.snippet.as_ref().map(|snippet| snippet.text.as_str()),
    })
}

fn finding(finding: &Finding) -> Value {
    let mut value = place(&finding.diagnostic);
    if let Some(map) = value.as_object_mut() {
        map.remove("reason");
        map.insert("rule".to_owned(), json!(finding.rule.id));
        map.insert("title".to_owned(), json!(finding.rule.title));
        map.insert("fixable".to_owned(), json!(finding.fixable));
        if let Some(reason) = &finding.suppressed {
            map.insert("suppressed".to_owned(), json!(reason));
        }
    }
    value
}

/// The JSON contract: fields may be added, none is renamed or removed.
pub fn json(report: &Report) -> String {
    let value = json!({
        "version": 1,
        "objects": report.objects,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "suppressed": report.suppressed.iter().map(finding).collect::<Vec<_>>(),
        "unreadable": report.unreadable.iter().map(place).collect::<Vec<_>>(),
        "skipped": report.skipped,
        "notes": report.notes,
    });
    format!("{value:#}\n")
}

/// SARIF 2.1.0, as code scanning services read it.
pub fn sarif(report: &Report, version: &str) -> String {
    let rules: Vec<Value> = rules::all()
        .iter()
        .map(|rule| {
            json!({
                "id": rule.id,
                "shortDescription": { "text": rule.title },
                "fullDescription": { "text": rule.prevents },
                "help": { "text": rule.remedy },
            })
        })
        .collect();
    let result = |diagnostic: &Diagnostic, index: Option<usize>, suppressed: Option<&str>| {
        let level = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "note",
        };
        let mut value = json!({
            "ruleId": diagnostic.reason,
            "level": level,
            "message": { "text": format!("{}; {}", diagnostic.message, diagnostic.remedy) },
            "locations": [location(diagnostic)],
        });
        if let (Some(map), Some(index)) = (value.as_object_mut(), index) {
            map.insert("ruleIndex".to_owned(), json!(index));
        }
        if let (Some(map), Some(reason)) = (value.as_object_mut(), suppressed) {
            map.insert("suppressions".to_owned(), json!([{ "kind": "inSource", "justification": reason }]));
        }
        value
    };
    let index = |finding: &Finding| rules::all().iter().position(|rule| rule.id == finding.rule.id);
    let unreadable = report.unreadable.iter().map(|diagnostic| result(diagnostic, None, None));
    let findings = report.findings.iter().chain(&report.suppressed);
    let findings = findings.map(|finding| result(&finding.diagnostic, index(finding), finding.suppressed.as_deref()));
    let value = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "evenkeel lint", "version": version, "rules": rules } },
            "columnKind": "unicodeCodePoints",
            "results": unreadable.chain(findings).collect::<Vec<_>>(),
        }],
    });
    format!("{value:#}\n")
}

/// The place in a file, if it is in one, and the object.
fn location(diagnostic: &Diagnostic) -> Value {
    let mut location = json!({});
    let Location { file, line, column } = &diagnostic.location;
    if !file.as_os_str().is_empty() {
        location["physicalLocation"] = json!({
            "artifactLocation": { "uri": uri(&file.display().to_string()) },
            "region": { "startLine": (*line).max(1), "startColumn": (*column).max(1) },
        });
    }
    if !diagnostic.kind.is_empty() {
        let mut name = format!("{} {}", diagnostic.kind, diagnostic.name);
        if !diagnostic.field.is_empty() {
            name = format!("{name} {}", diagnostic.field);
        }
        location["logicalLocations"] = json!([{ "fullyQualifiedName": name }]);
    }
    location
}

/// A path as a relative reference (RFC 3986).
fn uri(path: &str) -> String {
    let mut uri = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/') {
            uri.push(char::from(byte));
        } else {
            uri += &format!("%{byte:02X}");
        }
    }
    uri
}
