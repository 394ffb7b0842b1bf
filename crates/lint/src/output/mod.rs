//! A report for people and for programs.

mod docs;
mod json;
mod junit;

use std::fmt::Write as _;

use evenkeel_manifest::diagnostic::{Location, Severity, Style, printable};

pub use docs::{explain, page};
pub use json::{json, sarif};
pub use junit::junit;

use crate::Report;

/// Most findings anybody would read.
const MAX_SHOWN: usize = 1000;

/// Findings as a compiler shows them, and the sum.
pub fn text(report: &Report, style: Style) -> String {
    let mut text = String::new();
    for diagnostic in &report.unreadable {
        _ = writeln!(text, "{}\n", diagnostic.render(style));
    }
    for finding in report.findings.iter().take(MAX_SHOWN) {
        _ = writeln!(text, "{}\n", finding.diagnostic.render(style));
    }
    if report.findings.len() > MAX_SHOWN {
        _ = writeln!(text, "{} more are left out; -o json has them all\n", report.findings.len() - MAX_SHOWN);
    }
    for line in summary(report).lines() {
        _ = writeln!(text, "{}", style.wrapped(line, 0));
    }
    text
}

fn summary(report: &Report) -> String {
    let count = |severity| report.findings.iter().filter(|finding| finding.diagnostic.severity == severity).count();
    let counted = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let mut text = counted(report.objects, "object", "objects");
    _ = write!(
        text,
        ": {}, {}, {}",
        counted(count(Severity::Error), "error", "errors"),
        counted(count(Severity::Warning), "warning", "warnings"),
        counted(count(Severity::Info), "note", "notes"),
    );
    if !report.unreadable.is_empty() {
        let cluster = report.unreadable.iter().all(|diagnostic| diagnostic.location.file.as_os_str().is_empty());
        let (one, many) = if cluster { ("kind", "kinds") } else { ("document", "documents") };
        _ = write!(text, ", {} not readable", counted(report.unreadable.len(), one, many));
    }
    if !report.suppressed.is_empty() {
        _ = write!(text, ", {} suppressed", report.suppressed.len());
    }
    let fixable = report.findings.iter().filter(|finding| finding.fixable).count();
    if fixable > 0 {
        _ = write!(text, "; --fix mends {fixable}");
    }
    text.push('\n');
    for (why, count) in &report.skipped {
        _ = writeln!(text, "not looked at: {} ({why})", counted(*count, "object", "objects"));
    }
    for note in &report.notes {
        _ = writeln!(text, "{note}");
    }
    if let Some(finding) = report.findings.first() {
        _ = writeln!(text, "evenkeel lint --explain {} says more about a rule", finding.rule.id);
    }
    text
}

/// Workflow commands of GitHub Actions, which show findings beside the lines of a pull request.
pub fn github(report: &Report) -> String {
    let mut text = String::new();
    let all = report.unreadable.iter().chain(report.findings.iter().map(|finding| &finding.diagnostic));
    for diagnostic in all {
        let command = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "notice",
        };
        // "% \r \n" in data, and ": ," as well in properties (actions/toolkit, command.ts).
        let data = |text: &str| printable(text).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
        let Location { file, line, column } = &diagnostic.location;
        let mut place = String::new();
        if !file.as_os_str().is_empty() {
            let file = property(&file.display().to_string());
            place = format!("file={file},line={},col={},", (*line).max(1), (*column).max(1));
        }
        let object = format!("{} {}", diagnostic.kind, diagnostic.name);
        let mut title = format!("{} {}", diagnostic.reason, object.trim());
        if place.is_empty() && !diagnostic.field.is_empty() {
            title = format!("{title} {}", diagnostic.field);
        }
        _ = writeln!(
            text,
            "::{command} {place}title={}::{}",
            property(title.trim()),
            data(&format!("{}; {}", diagnostic.message, diagnostic.remedy)),
        );
    }
    text
}
