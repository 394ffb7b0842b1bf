//! Every reason is listed in `evenkeel_plan::reason`, and `docs/diagnostics.md` says what each is answered with.
//! `UPDATE_GOLDEN=1` rewrites the page.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use evenkeel_plan::reason::{REASONS, Subject};
use serde_json::Value;

/// Words of the code that look like reasons and are none: names of fields in output, of methods given to serde.
const NO_REASONS: [&str; 9] = [
    "connect_time_s",
    "echo_interval_ms",
    "hold_time_s",
    "is_anywhere",
    "is_none",
    "is_ordinary",
    "keepalive_time_s",
    "snake_case",
    "transmit_interval_ms",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
}

/// The words in quotes that are made like reasons, without those of tests and attributes.
fn quoted(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code.lines().filter(|line| !line.contains("serde(") && !line.trim_start().starts_with("//"));
    let words = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
    let is_reason = |word: &&str| {
        word.contains('_') && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    words.filter(is_reason).map(str::to_owned).collect()
}

#[test]
fn the_list_of_reasons_is_the_one_of_the_code() {
    let mut files = Vec::new();
    for of in ["crates/manifest/src", "crates/plan/src", "crates/sources/src"] {
        rust_files(&root().join(of), &mut files);
    }
    files.retain(|file| !file.ends_with("plan/src/reason.rs"));
    let used: BTreeSet<String> = files.iter().flat_map(|file| quoted(&fs::read_to_string(file).unwrap())).collect();
    let listed: BTreeSet<&str> = REASONS.iter().map(|reason| reason.name).collect();
    let unlisted: Vec<&String> =
        used.iter().filter(|word| !listed.contains(word.as_str()) && !NO_REASONS.contains(&word.as_str())).collect();
    assert!(unlisted.is_empty(), "add these to crates/plan/src/reason.rs: {unlisted:?}");
    let unused: Vec<&&str> = listed.iter().filter(|name| !used.contains(**name)).collect();
    assert!(unused.is_empty(), "nothing gives these reasons: {unused:?}");
}

/// How a reason was met in a golden case.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Example {
    severity: String,
    message: String,
    remedy: String,
    case: String,
}

/// The first example of each reason, by the name of the case; those of bad input before others.
fn examples() -> BTreeMap<(Subject, String), Example> {
    let mut cases: Vec<PathBuf> =
        fs::read_dir(root().join("tests/golden")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let name = |case: &Path| case.file_name().unwrap().to_str().unwrap().to_owned();
    cases.sort_by_key(|case| (!name(case).starts_with("bad-"), name(case)));
    let mut examples = BTreeMap::new();
    for case in cases {
        let mut note = |subject, value: &Value| {
            let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
            let (severity, message, remedy) = (text("severity"), text("message"), text("remedy"));
            let example = Example { severity, message, remedy, case: name(&case) };
            examples.entry((subject, text("reason"))).or_insert(example);
        };
        let plan = plan(&case);
        for diagnostic in plan["diagnostics"].as_array().into_iter().flatten() {
            let reason = diagnostic["reason"].as_str().unwrap();
            let by_itself = REASONS.iter().any(|r| r.name == reason && r.subject == Subject::Manifest);
            let by_itself = by_itself && diagnostic["kind"] != "Service"
                || !REASONS.iter().any(|r| r.name == reason && r.subject == Subject::World);
            note(if by_itself { Subject::Manifest } else { Subject::World }, diagnostic);
        }
        for service in plan["services"].as_array().into_iter().flatten().filter(|service| !service["error"].is_null()) {
            note(Subject::Service, &service["error"]);
        }
        let announcements = plan["announcements"].as_array().into_iter().flatten();
        let excluded = announcements.flat_map(|announcement| announcement["excluded"].as_array().into_iter().flatten());
        let without = ["no_sessions", "bgp_sessions"].map(|list| plan[list].as_array()).into_iter().flatten().flatten();
        for exclusion in excluded.chain(without).filter(|entry| entry["reason"].is_string()) {
            note(Subject::Node, exclusion);
        }
    }
    examples
}

fn plan(case: &Path) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.current_dir(case).env_clear().args(["plan", "manifests", "-o", "json"]);
    if let Ok(args) = fs::read_to_string(case.join("args.txt")) {
        command.args(args.split_whitespace());
    }
    if case.join("state").exists() {
        command.args(["--state", "state"]);
    }
    serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
}

/// A table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn page() -> String {
    let examples = examples();
    let mut page = "\
# Findings and their reasons

Made of the list of reasons (`crates/plan/src/reason.rs`) and of what the golden tests (`tests/golden`) answer;
`UPDATE_GOLDEN=1 cargo nextest run -p evenkeel --test reasons` rewrites it.

An *error* makes the input invalid: `evenkeel plan` ends with 2, and the object (or the part of it the message names) is
not carried out; its last good version stays. A *warning* is carried out as far as it goes: what an object names in vain
may still come. An *info* is for the record.
"
    .to_owned();
    for (subject, heading, columns) in [
        (Subject::Manifest, "A manifest by itself", true),
        (Subject::World, "Objects taken together", true),
        (Subject::Service, "Why a service has no address, or not the one it asks for", false),
        (Subject::Node, "Why a node does not announce, or has no session", false),
        (Subject::State, "The state file", false),
    ] {
        _ = write!(page, "\n## {heading}\n\n");
        page += match (columns, subject) {
            (true, _) => "| Reason | Meaning | For example | Help | Golden case |\n|---|---|---|---|---|\n",
            (false, Subject::Service) => "| Reason | Meaning | For example | Golden case |\n|---|---|---|---|\n",
            (false, _) => "| Reason | Meaning | Golden case |\n|---|---|---|\n",
        };
        for reason in REASONS.iter().filter(|reason| reason.subject == subject) {
            let example = examples.get(&(subject, reason.name.to_owned())).cloned().unwrap_or_default();
            let case = if example.case.is_empty() { String::new() } else { format!("`{}`", example.case) };
            _ = write!(page, "| `{}` | {} |", reason.name, reason.meaning);
            if columns {
                let shown = match example.severity.as_str() {
                    "" => String::new(),
                    severity => format!("*{severity}*: {}", cell(&example.message)),
                };
                _ = write!(page, " {shown} | {} |", cell(&example.remedy));
            } else if subject == Subject::Service {
                _ = write!(page, " {} |", cell(&example.message));
            }
            _ = writeln!(page, " {case} |");
        }
    }
    page += &refusals();
    page
}

/// Everything the golden cases of bad input are answered with.
fn refusals() -> String {
    let mut section = "
## What is refused, with which message

Every finding of the golden cases of bad input (`tests/golden/bad-*`).

| Golden case | Kind | Field | Finding | Help |
|---|---|---|---|---|
"
    .to_owned();
    let mut cases: Vec<PathBuf> =
        fs::read_dir(root().join("tests/golden")).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    for case in cases {
        let name = case.file_name().unwrap().to_str().unwrap();
        let Some(short) = name.strip_prefix("bad-") else { continue };
        let mut rows = BTreeSet::new();
        for diagnostic in plan(&case)["diagnostics"].as_array().into_iter().flatten() {
            let text = |field: &str| cell(diagnostic[field].as_str().unwrap_or_default());
            let field = if text("field").is_empty() { String::new() } else { format!("`{}`", text("field")) };
            rows.insert(format!(
                "| {short} | {} | {field} | *{}* `{}`: {} | {} |\n",
                text("kind"),
                text("severity"),
                text("reason"),
                text("message"),
                text("remedy")
            ));
        }
        section.extend(rows);
    }
    section
}

/// What cannot be shown by a directory of small files: it takes time, a huge file, or permissions.
const WITHOUT_EXAMPLE: [&str; 4] = ["file_unreadable", "mass_removal", "more_findings", "source_unreadable"];

#[test]
fn the_page_about_findings_is_up_to_date() {
    let path = root().join("docs/diagnostics.md");
    let page = page();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differs = written.lines().zip(page.lines()).find(|(written, page)| written != page);
    assert!(written == page, "docs/diagnostics.md is stale, at {differs:?}: run this with UPDATE_GOLDEN=1");
}

#[test]
fn every_finding_has_a_golden_case() {
    let examples = examples();
    let findings =
        REASONS.iter().filter(|reason| matches!(reason.subject, Subject::Manifest | Subject::World | Subject::Service));
    let without: Vec<&str> = findings
        .filter(|reason| !examples.contains_key(&(reason.subject, reason.name.to_owned())))
        .map(|reason| reason.name)
        .filter(|name| !WITHOUT_EXAMPLE.contains(name))
        .collect();
    assert!(without.is_empty(), "no golden case shows {without:?}");
}
