//! Holds ARCHITECTURE.md to the code: what it names exists.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    path::{Path, PathBuf},
};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All Rust sources of the workspace in one text.
fn sources() -> String {
    fn collect(directory: &Path, text: &mut String) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                collect(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut text = String::new();
    for directory in ["crates", "tests", "xtask"] {
        collect(&workspace().join(directory), &mut text);
    }
    text
}

/// What stands between backticks.
fn names() -> Vec<String> {
    let page = fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    page.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_path_of_items_it_names_exists() {
    let sources = sources();
    let mut checked = 0;
    for name in names() {
        let Some((_, item)) = name.rsplit_once("::") else { continue };
        if !name.chars().all(|letter| letter.is_alphanumeric() || letter == '_' || letter == ':') {
            continue;
        }
        checked += 1;
        let defined = ["fn", "struct", "enum", "const", "mod", "trait"].iter().any(|kind| {
            sources.match_indices(&format!("{kind} {item}")).any(|(at, found)| {
                !sources[at + found.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_')
            })
        });
        let variant = sources.contains(&format!("    {item},"));
        assert!(defined || variant, "ARCHITECTURE.md names {name}, and nothing called {item} is defined");
    }
    assert!(checked > 30, "only {checked} names were found: has the page's form changed?");
}

#[test]
fn every_file_it_names_exists() {
    for name in names() {
        let is_path = ["crates/", "tests/", "xtask/", "scripts/", "docs/"].iter().any(|start| name.starts_with(start));
        if is_path {
            assert!(workspace().join(&name).exists(), "ARCHITECTURE.md names {name}");
        }
    }
}
