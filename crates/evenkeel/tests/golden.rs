//! `tests/golden/<case>/` through the real binary: the manifests of a case, and what `evenkeel plan` makes of them.
//!
//! - `plan.json`: stdout of `-o json`
//! - `plan.txt`: stdout of `-o text`
//! - `stderr.txt`: the diagnostics, absent when there are none
//! - `exit.txt`: the exit code, absent when it is 0
//! - `args.txt`: further arguments, if any; `state/` is given as `--state`, if it exists
//!
//! `UPDATE_GOLDEN=1` rewrites them all: read the difference before committing it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

fn plan(case: &Path, format: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    // Within the case, so that diagnostics name files as they do for a user: relative to where they are.
    command.current_dir(case).env_clear().args(["plan", "manifests", "-o", format]);
    if let Ok(args) = fs::read_to_string(case.join("args.txt")) {
        command.args(args.split_whitespace());
    }
    if case.join("state").exists() {
        command.args(["--state", "state"]);
    }
    command.output().unwrap()
}

/// What differs between `actual` and the file, or nothing. An empty text is an absent file.
fn compare(path: &Path, actual: &str) -> Option<String> {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        if actual.is_empty() {
            _ = fs::remove_file(path);
        } else {
            fs::write(path, actual).unwrap();
        }
        return None;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    let lines = expected.lines().zip(actual.lines()).position(|(expected, actual)| expected != actual);
    let line = lines.unwrap_or(expected.lines().count().min(actual.lines().count()));
    let at = |text: &str| text.lines().nth(line).unwrap_or("(end)").to_owned();
    (expected != actual)
        .then(|| format!("{}:{}\n  expected: {}\n  actual:   {}", path.display(), line + 1, at(&expected), at(actual)))
}

fn check(case: &Path) -> Vec<String> {
    let json = plan(case, "json");
    let text = plan(case, "text");
    assert_eq!(json.stderr, text.stderr, "diagnostics do not depend on the format");
    assert_eq!(json.status, text.status);
    let exit = match json.status.code() {
        Some(0) => String::new(),
        code => format!("{}\n", code.unwrap()),
    };
    let utf8 = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    [
        compare(&case.join("plan.json"), &utf8(json.stdout)),
        compare(&case.join("plan.txt"), &utf8(text.stdout)),
        compare(&case.join("stderr.txt"), &utf8(json.stderr)),
        compare(&case.join("exit.txt"), &exit),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn every_case_is_planned_as_recorded() {
    let mut cases: Vec<PathBuf> = fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 12, "{cases:?}");
    let differences: Vec<String> = cases.iter().flat_map(|case| check(case)).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn the_heimdall_seed_gets_its_address() {
    let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/seeds/heimdall");
    let output = Command::new(env!("CARGO_BIN_EXE_evenkeel")).args(["plan", "-o", "json"]).arg(seed).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["services"][0]["addresses"][0], "10.0.0.53");
    assert_eq!(plan["services"][0]["error"], serde_json::Value::Null);
    let ports: Vec<_> = plan["frontends"].as_array().unwrap().iter().map(|f| f["protocol"].as_str().unwrap()).collect();
    assert_eq!(ports, ["TCP", "UDP"]);
}

#[test]
fn a_missing_directory_is_invalid_input() {
    let output = Command::new(env!("CARGO_BIN_EXE_evenkeel")).args(["plan", "no/such/directory"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("error[source_unreadable]") && stderr.contains("no/such/directory"), "{stderr}");
}

#[test]
fn a_damaged_state_file_is_named() {
    let state = tempfile::tempdir().unwrap();
    fs::write(state.path().join("state.json"), "{").unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_evenkeel")).args(["plan", ".", "--state"]).arg(state.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("error[state_corrupt]") && stderr.contains("state.json is damaged"), "{stderr}");
}
