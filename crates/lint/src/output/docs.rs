//! The rules as a page, and one by one.

use std::fmt::Write as _;

use evenkeel_manifest::diagnostic::Style;

use crate::rules::{self, Rule};

/// What `--explain` says about a rule.
pub fn explain(rule: &Rule, style: Style) -> String {
    let fix = if rule.fix.is_empty() { "nothing: a person must decide" } else { rule.fix };
    let mut text = format!("{}: {}\n", rule.id, rule.title);
    let parts = [("Prevents", rule.prevents), ("Do", rule.remedy), ("--fix", fix), ("Behind Evenkeel", rule.evenkeel)];
    for (heading, part) in parts.into_iter().filter(|(_, part)| !part.is_empty()) {
        _ = write!(text, "\n{heading}\n  {}\n", style.wrapped(part, 2));
    }
    _ = write!(
        text,
        "\nSuppress, with a reason\n  metadata:\n    annotations:\n      lint.evenkeel.io/{}: \"why it does not matter here\"\n",
        rule.id
    );
    text
}

/// All rules as a part of a page in Markdown.
pub fn page() -> String {
    let mut text = String::from("| Rule | Asks for | `--fix` |\n|---|---|---|\n");
    for rule in rules::all() {
        let fix = if rule.fix.is_empty() { "" } else { "yes" };
        _ = writeln!(text, "| [{}](#{}) | {} | {fix} |", rule.id, rule.id.to_lowercase(), rule.title);
    }
    for rule in rules::all() {
        _ = write!(
            text,
            "\n### {}\n\n**{}.** {} *Remedy:* {}.",
            rule.id,
            sentence(rule.title),
            rule.prevents,
            rule.remedy
        );
        if !rule.fix.is_empty() {
            _ = write!(text, " *`--fix`* {}.", rule.fix);
        }
        if !rule.evenkeel.is_empty() {
            _ = write!(text, " *Behind Evenkeel:* {}", rule.evenkeel);
        }
        text.push('\n');
    }
    text
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
