//! `evenkeel import` by the real binary over golden directories.
//!
//! `tests/golden-import/FORMAT-CASE` holds a configuration, the arguments if there are any, the manifests that come of it, and
//! what is said about it. Manifests pass `evenkeel lint` and `evenkeel plan`. `UPDATE_GOLDEN=1` rewrites them: read the
//! difference before committing it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn evenkeel(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.args(arguments).current_dir(directory).env_remove("COLUMNS").env_remove("EVENKEEL_STATE_DIR");
    command.output().unwrap()
}

fn golden(path: &Path, actual: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        if actual.is_empty() {
            _ = fs::remove_file(path);
        } else {
            fs::write(path, actual).unwrap();
        }
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(expected == actual, "{} is stale; it would be\n{actual}", path.display());
}

#[test]
fn every_key_is_translated_or_named() {
    let mut count = 0;
    for entry in fs::read_dir(root().join("tests/golden-import")).unwrap() {
        let case = entry.unwrap().path();
        count += 1;
        let name = case.file_name().unwrap().to_str().unwrap().to_owned();
        let format = if name.starts_with("xlb") { "xlb" } else { "udp-fanout" };
        let more = fs::read_to_string(case.join("arguments")).unwrap_or_default();
        let arguments: Vec<&str> =
            ["import", format, "config.yaml"].into_iter().chain(more.split_whitespace()).collect();
        let output = evenkeel(&case, &arguments);
        let manifests = String::from_utf8(output.stdout).unwrap();
        golden(&case.join("manifests.yaml"), &manifests);
        golden(&case.join("said.txt"), &String::from_utf8(output.stderr).unwrap());
        if manifests.is_empty() {
            assert_eq!(output.status.code(), Some(2), "{name}");
            continue;
        }
        assert_eq!(output.status.code(), Some(0), "{name}");
        for check in ["lint", "plan"] {
            let output = evenkeel(&case, &[check, "manifests.yaml"]);
            assert!(output.status.success(), "{name}: {check}: {output:?}");
        }
        let planned = String::from_utf8(evenkeel(&case, &["plan", "manifests.yaml"]).stderr).unwrap();
        assert!(!planned.contains("warning"), "{name}: {planned}");
    }
    assert!(count >= 10, "{count}");
}

#[test]
fn it_reads_standard_input_and_refuses_what_it_cannot_do() {
    let directory = tempfile::tempdir().unwrap();
    let config = root().join("tests/golden-import/xlb-vip/config.yaml");
    let output = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .args(["import", "xlb", "-"])
        .stdin(Stdio::from(fs::File::open(&config).unwrap()))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--> <stdin>:1:1"));
    for arguments in [
        &["import", "xlb", "missing.yaml"][..],
        &["import", "xlb", "-", "--vip", "192.0.2.1,192.0.2.2"],
        &["import", "xlb", "-", "--announced-elsewhere"],
        &["import", "haproxy", "-"],
    ] {
        let output = evenkeel(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}
