//! `evenkeel lint` by the real binary over golden directories and the seeds' manifests.
//!
//! `tests/golden-lint/RULE[-variant]` holds `pass.yaml`, `fail.yaml` and `suppressed.yaml`, and beside them what is said of
//! the last two and what `--fix=write` makes of the failing one. `tests/golden-lint/charts` holds manifests in the style
//! of well-known charts, each with what is said of it.
//!
//! `UPDATE_GOLDEN=1` rewrites what is said and the generated parts of `docs/lint.md`: read the difference before committing it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn lint(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.arg("lint").args(arguments).current_dir(directory).env("NO_COLOR", "1");
    command.env_remove("COLUMNS");
    command.env_remove("EVENKEEL_LINT_BALANCER").env_remove("EVENKEEL_LINT_CONFIG");
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.code().is_some_and(|code| code <= 2), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn golden(path: &Path, actual: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(expected == actual, "{} is stale; it would be\n{actual}", path.display());
}

fn json(directory: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(&lint(directory, &[arguments, &["-o", "json"]].concat()))).unwrap()
}

/// The numbers of the rules that findings are about.
fn rules(report: &Value, list: &str) -> BTreeSet<String> {
    report[list].as_array().unwrap().iter().map(|finding| finding["rule"].as_str().unwrap().to_owned()).collect()
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.is_dir());
    all.sort();
    all
}

/// The file after `--fix=write`.
fn fixed(file: &Path) -> String {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("fixed.yaml");
    fs::copy(file, &copy).unwrap();
    lint(directory.path(), &["--fix=write", "fixed.yaml"]);
    fs::read_to_string(copy).unwrap()
}

#[test]
fn every_rule_passes_fails_is_suppressed_and_mended() {
    let mut seen = BTreeSet::new();
    for case in directories(&root().join("tests/golden-lint")) {
        let name = case.file_name().unwrap().to_str().unwrap().to_owned();
        if name == "charts" {
            continue;
        }
        let rule = name.split('-').next().unwrap().to_owned();
        // What passes has no finding at all, not even a note: a false one would show in every case.
        let output = lint(&case, &["pass.yaml", "--fail-on", "info"]);
        assert_eq!(output.status.code(), Some(0), "{name}/pass.yaml: {}", stdout(&output));

        let failing = json(&case, &["fail.yaml"]);
        assert!(rules(&failing, "findings").contains(&rule), "{name}/fail.yaml: {failing:#}");
        golden(&case.join("fail.txt"), &stdout(&lint(&case, &["fail.yaml"])));

        // A rule about suppressions cannot be suppressed.
        if rule != "ZD00" {
            let suppressed = json(&case, &["suppressed.yaml"]);
            assert!(!rules(&suppressed, "findings").contains(&rule), "{name}/suppressed.yaml: {suppressed:#}");
            assert!(rules(&suppressed, "suppressed").contains(&rule), "{name}/suppressed.yaml: {suppressed:#}");
        }
        golden(&case.join("suppressed.txt"), &stdout(&lint(&case, &["suppressed.yaml"])));

        let fixable = failing["findings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|finding| finding["rule"] == rule.as_str() && finding["fixable"] == true);
        let target = case.join("fixed.yaml");
        if fixable {
            let text = fixed(&case.join("fail.yaml"));
            golden(&target, &text);
            let rest = json(&case, &["fixed.yaml"]);
            assert!(!rules(&rest, "findings").contains(&rule), "{name}/fixed.yaml: {rest:#}");
            assert_eq!(fixed(&target), text, "{name}: what is mended is mended");
        } else {
            assert!(!target.exists(), "{name}: nothing mends it, {} is a leftover", target.display());
        }
        seen.insert(rule);
    }
    let listed = stdout(&lint(&root(), &["--rules"]));
    let all: BTreeSet<String> = listed.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(seen, all, "each rule has its directory");
}

#[test]
fn charts_are_judged_as_by_hand() {
    let charts = root().join("tests/golden-lint/charts");
    let mut count = 0;
    for entry in fs::read_dir(&charts).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        count += 1;
        let name = path.file_name().unwrap().to_str().unwrap();
        golden(&path.with_extension("txt"), &brief(&json(&charts, &[name])));
    }
    assert!(count >= 20, "{count}");
}

/// One line for each finding.
fn brief(report: &Value) -> String {
    let mut text = String::new();
    for finding in report["findings"].as_array().unwrap() {
        let field = |key: &str| finding[key].as_str().unwrap().to_owned();
        _ = writeln!(
            text,
            "{} {} {} {}:{} {}",
            field("rule"),
            field("severity"),
            field("kind"),
            field("name"),
            finding["line"],
            field("message")
        );
    }
    text
}

/// The seeds' folders, in the order of their documents.
const SEEDS: [&str; 9] = [
    "heimdall-first-step",
    "heimdall",
    "esddns",
    "esddns-pools",
    "esddns-custom-pool",
    "esddns-workload",
    "xlb",
    "udp-fanout",
    "nginx",
];

fn seeds_table() -> String {
    let seeds = root().join("examples/seeds");
    let mut text = String::from("| Manifest | Rule | Severity | What is wrong | `--fix` |\n|---|---|---|---|---|\n");
    for seed in SEEDS {
        let report = json(&seeds, &[seed]);
        assert_eq!(report["unreadable"], Value::Array(Vec::new()), "{seed}");
        for finding in report["findings"].as_array().unwrap() {
            let field = |key: &str| finding[key].as_str().unwrap().replace('|', "\\|");
            let mended = if finding["fixable"] == true { "yes" } else { "" };
            _ = writeln!(
                text,
                "| {}:{} | {} | {} | {} | {mended} |",
                field("file"),
                finding["line"],
                field("rule"),
                field("severity"),
                field("message")
            );
        }
        if report["findings"].as_array().unwrap().is_empty() {
            _ = writeln!(text, "| {seed} | | | nothing | |");
        }
    }
    text
}

#[test]
fn fixes_of_the_seeds_hold() {
    let seeds = root().join("examples/seeds");
    for seed in SEEDS {
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(seeds.join(seed)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        lint(copy.path(), &["--fix=write", "."]);
        let rest = json(copy.path(), &["."]);
        for finding in rest["findings"].as_array().unwrap() {
            assert_eq!(finding["fixable"], false, "{seed}: {finding:#}");
        }
        let patch = stdout(&lint(copy.path(), &["--fix", "."]));
        assert_eq!(patch, "", "{seed}: nothing is left to mend");
    }
}

#[test]
fn the_seeds_own_mistakes_are_found() {
    let seeds = root().join("examples/seeds");
    let found = |seed: &str, rule: &str, words: &str| {
        let report = json(&seeds, &[seed]);
        let findings = report["findings"].as_array().unwrap();
        assert!(
            findings
                .iter()
                .any(|finding| finding["rule"] == rule && finding["message"].as_str().unwrap().contains(words)),
            "{seed} {rule} {words}: {report:#}"
        );
    };
    found("heimdall", "ZD13", "DNS for 10800 s = 3 h");
    found("heimdall-first-step", "ZD13", "DNS for 10800 s = 3 h");
    found("heimdall", "ZD04", "greps the answer for `ok`");
    found("heimdall-first-step", "ZD26", "google.com");
    found("xlb", "ZD18", "required anti-affinity");
    found("esddns-workload", "ZD19", "`esddns-state` is attached to 1 node");
    found("udp-fanout", "ZD28", "1 address by hand, 3 times");
}

#[test]
fn the_page_is_current() {
    let page = root().join("docs/lint.md");
    let text = fs::read_to_string(&page).unwrap();
    let replaced = |text: &str, name: &str, content: &str| {
        let (begin, end) = (format!("<!-- generated: {name} -->\n"), format!("<!-- end: {name} -->"));
        let (before, rest) = text.split_once(&begin).unwrap();
        let (_, after) = rest.split_once(&end).unwrap();
        format!("{before}{begin}\n{content}\n{end}{after}")
    };
    let text = replaced(&text, "rules", &evenkeel_lint::output::page());
    let text = replaced(&text, "seeds", &seeds_table());
    golden(&page, &text);
}

#[test]
fn every_format_is_one() {
    let seeds = root().join("examples/seeds");
    let sarif: Value = serde_json::from_str(&stdout(&lint(&seeds, &["nginx", "-o", "sarif"]))).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    let run = &sarif["runs"][0];
    for result in run["results"].as_array().unwrap() {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(run["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);
        assert!(result["locations"][0]["physicalLocation"]["region"]["startLine"].as_u64().unwrap() > 0);
    }
    let junit = stdout(&lint(&seeds, &["nginx", "-o", "junit"]));
    let count = |what: &str| junit.matches(what).count();
    assert_eq!(count("<testcase "), junit.matches("</testcase>").count() + count("\"/>\n"), "{junit}");
    let tests: usize = junit.split("tests=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
    assert_eq!(tests, count("<testcase "));
    let github = stdout(&lint(&seeds, &["nginx", "-o", "github"]));
    assert!(
        github.lines().all(|line| line.starts_with("::") && line.contains("file=nginx/nginx.yaml,line=")),
        "{github}"
    );
}

#[test]
fn exit_codes_say_how_it_went() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    let code = |arguments: &[&str]| lint(directory.path(), arguments).status.code();
    let good = fs::read_to_string(root().join("tests/golden-lint/ZD01/pass.yaml")).unwrap();
    write("good.yaml", &good);
    write("bad.yaml", &good.replace("replicas: 3", "replicas: 2"));
    write("note.yaml", &good.replace("      priorityClassName: serving\n", ""));
    write("broken.yaml", "a: [\n");
    write("template.yaml", "a: {{ .Values.x }}\nb: {{- y }}\n");
    assert_eq!(code(&["good.yaml"]), Some(0));
    assert_eq!(code(&["bad.yaml"]), Some(1));
    assert_eq!(code(&["bad.yaml", "--fail-on", "error"]), Some(0));
    assert_eq!(code(&["note.yaml"]), Some(0));
    assert_eq!(code(&["note.yaml", "--fail-on", "info"]), Some(1));
    assert_eq!(code(&["broken.yaml"]), Some(2));
    assert_eq!(code(&["missing.yaml"]), Some(2));
    assert!(stdout(&lint(directory.path(), &["template.yaml"])).contains("helm template"));
    // The configuration beside the manifests is found by itself, and is no manifest.
    write("evenkeel-lint.yaml", "minReplicas: 2\n");
    assert_eq!(code(&["bad.yaml"]), Some(0));
    write("evenkeel-lint.yaml", "off:\n  ZD01: two are enough in this cluster\n");
    assert_eq!(code(&["bad.yaml"]), Some(0));
    for bad in ["off:\n  ZD01: ''\n", "minReplica: 2\n", "off: {ZD99: why}\n", "detectionSeconds: soon\n"] {
        write("evenkeel-lint.yaml", bad);
        assert_eq!(code(&["bad.yaml"]), Some(2), "{bad}");
    }
}

#[test]
fn evenkeel_in_front_needs_less() {
    let case = root().join("tests/golden-lint/ZD08-short");
    assert!(rules(&json(&case, &["fail.yaml"]), "findings").contains("ZD08"));
    let report = json(&case, &["fail.yaml", "--balancer", "evenkeel"]);
    assert!(!rules(&report, "findings").contains("ZD08"), "{report:#}");
}

#[test]
fn sentences_are_wrapped_and_manifests_are_not() {
    let case = root().join("tests/golden-lint/ZD08");
    let shown = |columns: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        command.args(["lint", "fail.yaml"]).current_dir(&case).env("NO_COLOR", "1").env_remove("COLUMNS");
        command.envs(columns.map(|columns| ("COLUMNS", columns)));
        stdout(&command.output().unwrap())
    };
    let (whole, wrapped) = (shown(None), shown(Some("60")));
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&whole), words(&wrapped), "nothing else changes");
    assert!(whole.lines().any(|line| line.len() > 100), "{whole}");
    let is_of_manifest = |line: &str| [" | ", "--> ", "= field: "].iter().any(|mark| line.contains(mark));
    assert!(wrapped.lines().all(|line| line.len() <= 60 || is_of_manifest(line)), "{wrapped}");
}

#[test]
fn rules_explain_themselves() {
    let text = stdout(&lint(&root(), &["--explain", "zd08"]));
    assert!(text.starts_with("ZD08: ") && text.contains("lint.evenkeel.io/ZD08"), "{text}");
    for (wrong, close) in
        [("ZD8", "did you mean ZD08?"), ("DZ08", "did you mean ZD08?"), ("replicas", "--rules lists them")]
    {
        let output = lint(&root(), &["--explain", wrong]);
        assert_eq!(output.status.code(), Some(2));
        let shown = String::from_utf8(output.stderr).unwrap();
        assert!(shown.contains(close), "{wrong}: {shown}");
    }
}

#[test]
fn what_cannot_be_read_does_not_take_the_rest_along() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir_all(at("all/deep")).unwrap();
    fs::create_dir_all(at("none/.hidden")).unwrap();
    fs::write(at("none/README.md"), "a: b").unwrap();
    fs::write(at("none/.hidden/a.yaml"), "a: b").unwrap();
    fs::copy(root().join("tests/golden-lint/ZD08/fail.yaml"), at("all/deep/web.yaml")).unwrap();
    fs::write(at("all/binary.yaml"), b"\x00\xff\xfe").unwrap();
    fs::write(at("all/tabs.yaml"), "a:\n\tb: 1\n").unwrap();
    std::os::unix::fs::symlink("nowhere", at("all/dangling.yaml")).unwrap();
    // Round in circles, twice, so that every way through would be looked at for ever.
    std::os::unix::fs::symlink("..", at("all/deep/up")).unwrap();
    std::os::unix::fs::symlink(".", at("all/deep/here")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("all/pipe.yaml"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    let report = json(directory.path(), &["all"]);
    let reasons = |list: &str, field: &str| -> Vec<String> {
        report[list].as_array().unwrap().iter().map(|found| found[field].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(reasons("findings", "rule"), ["ZD08"], "{report:#}");
    assert_eq!(reasons("unreadable", "reason"), ["yaml_syntax", "not_utf8"], "{report:#}");
    assert_eq!(lint(directory.path(), &["all"]).status.code(), Some(2));
    // The wrong directory is no clean one.
    let empty = lint(directory.path(), &["none"]);
    assert_eq!(empty.status.code(), Some(2));
    assert!(String::from_utf8(empty.stderr).unwrap().contains("no .yaml, .yml or .json file in none"));
}

#[test]
fn standard_input_is_read_and_a_patch_applies() {
    use std::io::Write as _;
    use std::process::Stdio;
    let case = root().join("tests/golden-lint/ZD08");
    let mut child = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .args(["lint", "-", "-o", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&fs::read(case.join("fail.yaml")).unwrap()).unwrap();
    let report: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(report["findings"][0]["file"], "<stdin>");

    let directory = tempfile::tempdir().unwrap();
    fs::copy(case.join("fail.yaml"), directory.path().join("fail.yaml")).unwrap();
    let patch = stdout(&lint(directory.path(), &["--fix", "fail.yaml"]));
    fs::write(directory.path().join("fix.patch"), patch).unwrap();
    let applied = Command::new("git").args(["apply", "fix.patch"]).current_dir(directory.path()).output().unwrap();
    assert!(applied.status.success(), "{applied:?}");
    let text = fs::read_to_string(directory.path().join("fail.yaml")).unwrap();
    assert_eq!(text, fs::read_to_string(case.join("fixed.yaml")).unwrap());
}
