//! JUnit XML: a test case for each finding, and one for each rule that nothing breaks.

use std::fmt::Write as _;

use evenkeel_manifest::diagnostic::{Diagnostic, Location, Severity};

use crate::{Report, rules};

/// The report as JUnit XML. Findings below `fail_on` are test cases that pass and say so.
pub fn junit(report: &Report, fail_on: Severity) -> String {
    let mut cases = String::new();
    let (mut tests, mut failures, mut skipped) = (0, 0, 0);
    for diagnostic in &report.unreadable {
        tests += 1;
        let name = place(diagnostic);
        _ = writeln!(
            cases,
            "    <testcase classname=\"evenkeel.lint.input\" name=\"{}\"><error type=\"{}\" message=\"{}\"/></testcase>",
            escaped(&name),
            diagnostic.reason,
            escaped(&diagnostic.message)
        );
    }
    for finding in report.findings.iter().chain(&report.suppressed) {
        tests += 1;
        let diagnostic = &finding.diagnostic;
        let place = format!("{} {} at {}", diagnostic.kind, diagnostic.name, place(diagnostic));
        _ = write!(
            cases,
            "    <testcase classname=\"evenkeel.lint.{}\" name=\"{}\">",
            finding.rule.id,
            escaped(&place)
        );
        let message = escaped(&format!("{}; {}", diagnostic.message, diagnostic.remedy));
        if let Some(reason) = &finding.suppressed {
            skipped += 1;
            _ = write!(cases, "<skipped message=\"{}\"/>", escaped(reason));
        } else if diagnostic.severity <= fail_on {
            failures += 1;
            _ = write!(cases, "<failure type=\"{}\" message=\"{message}\"/>", diagnostic.severity.as_str());
        } else {
            _ = write!(cases, "<system-out>{message}</system-out>");
        }
        cases += "</testcase>\n";
    }
    for rule in rules::all() {
        if report.findings.iter().all(|finding| finding.rule.id != rule.id) {
            tests += 1;
            _ = writeln!(
                cases,
                "    <testcase classname=\"evenkeel.lint.{}\" name=\"{}\"/>",
                rule.id,
                escaped(rule.title)
            );
        }
    }
    let totals = format!(
        "tests=\"{tests}\" failures=\"{failures}\" errors=\"{}\" skipped=\"{skipped}\"",
        report.unreadable.len()
    );
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"evenkeel lint\">\n  <testsuite name=\"evenkeel lint\" {totals}>\n{cases}  </testsuite>\n</testsuites>\n"
    )
}

/// Where it is: in a file, or in an object of a cluster.
fn place(diagnostic: &Diagnostic) -> String {
    let Location { file, line, .. } = &diagnostic.location;
    if !file.as_os_str().is_empty() {
        return format!("{}:{line}", file.display());
    }
    if diagnostic.field.is_empty() { diagnostic.kind.clone() } else { diagnostic.field.clone() }
}

/// Text as XML takes it in attributes and elements; what XML 1.0 has no place for becomes U+FFFD.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\n' | '\t' => _ = write!(escaped, "&#{};", u32::from(c)),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}
