//! Files, directories and standard input as texts.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use evenkeel_lint::{Input, MAX_BYTES};

/// What standard input is called.
pub(super) const STDIN: &str = "<stdin>";

/// Deepest directory looked into.
const MAX_DEPTH: usize = 32;

/// Read everything, directories in the order of their names. The configuration of the linter is no manifest.
///
/// # Errors
///
/// The first thing that cannot be read.
pub(super) fn read(roots: &[PathBuf]) -> anyhow::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for root in roots {
        if root.as_os_str() == "-" {
            let mut bytes = Vec::new();
            let most = u64::try_from(MAX_BYTES)? + 1;
            std::io::stdin().lock().take(most).read_to_end(&mut bytes).context("cannot read standard input")?;
            inputs.push(input(STDIN.to_owned(), bytes)?);
        } else if root.is_dir() {
            walk(root, 0, &mut inputs)?;
        } else {
            inputs.push(file(root)?);
        }
    }
    Ok(inputs)
}

fn walk(directory: &Path, depth: usize, inputs: &mut Vec<Input>) -> anyhow::Result<()> {
    anyhow::ensure!(depth < MAX_DEPTH, "{} is nested deeper than {MAX_DEPTH} directories", directory.display());
    let entries = std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.with_context(|| format!("cannot read {}", directory.display()))?.path());
    }
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden || path.file_name().is_some_and(|name| name == super::CONFIG) {
            continue;
        }
        if path.is_dir() {
            walk(&path, depth + 1, inputs)?;
        } else if matches!(path.extension().and_then(|extension| extension.to_str()), Some("yaml" | "yml" | "json")) {
            inputs.push(file(&path)?);
        }
    }
    Ok(())
}

fn file(path: &Path) -> anyhow::Result<Input> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    input(path.display().to_string(), bytes)
}

fn input(name: String, bytes: Vec<u8>) -> anyhow::Result<Input> {
    let text = String::from_utf8(bytes).ok().with_context(|| format!("{name} is not UTF-8 text"))?;
    Ok(Input { name, text: text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text) })
}
