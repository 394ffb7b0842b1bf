//! Files, directories and standard input as texts.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use evenkeel_lint::{Diagnostic, Input, MAX_BYTES};
use evenkeel_sources::diagnostic::Severity;

/// What standard input is called.
pub(super) const STDIN: &str = "<stdin>";

/// Deepest directory looked into.
const MAX_DEPTH: usize = 32;

/// What was read, and what could not be.
#[derive(Default)]
pub(super) struct Read {
    pub(super) inputs: Vec<Input>,
    pub(super) unreadable: Vec<Diagnostic>,
    /// The directories looked into: links may lead round in circles.
    seen: HashSet<PathBuf>,
}

/// Read everything, directories in the order of their names. The configuration of the linter is no manifest. What cannot
/// be read within a directory does not take the rest along.
///
/// # Errors
///
/// A path that was named cannot be read, or is a directory without a manifest.
pub(super) fn read(roots: &[PathBuf]) -> anyhow::Result<Read> {
    let mut read = Read::default();
    for root in roots {
        if root.as_os_str() == "-" {
            let bytes = limited(std::io::stdin().lock()).context("cannot read standard input")?;
            read.take(STDIN.to_owned(), bytes);
        } else if root.is_dir() {
            let before = (read.inputs.len(), read.unreadable.len());
            read.walk(root, 0)?;
            let found = before != (read.inputs.len(), read.unreadable.len());
            anyhow::ensure!(found, "there is no .yaml, .yml or .json file in {}", root.display());
        } else {
            let bytes = contents(root).with_context(|| format!("cannot read {}", root.display()))?;
            read.take(root.display().to_string(), bytes);
        }
    }
    Ok(read)
}

impl Read {
    fn walk(&mut self, directory: &Path, depth: usize) -> anyhow::Result<()> {
        anyhow::ensure!(depth < MAX_DEPTH, "{} is nested deeper than {MAX_DEPTH} directories", directory.display());
        let cannot = || format!("cannot read {}", directory.display());
        if !self.seen.insert(directory.canonicalize().with_context(cannot)?) {
            return Ok(());
        }
        let mut paths = Vec::new();
        for entry in fs::read_dir(directory).with_context(cannot)? {
            paths.push(entry.with_context(cannot)?.path());
        }
        paths.sort();
        for path in paths {
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if hidden || path.file_name().is_some_and(|name| name == super::CONFIG) {
                continue;
            }
            // Neither pipes nor devices, which may have no end.
            if path.is_dir() {
                self.walk(&path, depth + 1)?;
            } else if path.is_file()
                && matches!(path.extension().and_then(|end| end.to_str()), Some("yaml" | "yml" | "json"))
            {
                match contents(&path) {
                    Ok(bytes) => self.take(path.display().to_string(), bytes),
                    Err(error) => self.refuse(&path, "unreadable_file", &format!("cannot be read: {error}")),
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, name: String, bytes: Vec<u8>) {
        // As those name it who compare with the paths of a repository.
        let name = name.strip_prefix("./").map_or(name.clone(), str::to_owned);
        if bytes.len() > MAX_BYTES {
            self.refuse(Path::new(&name), "too_large", &format!("has more than {MAX_BYTES} bytes"));
            return;
        }
        match String::from_utf8(bytes) {
            Ok(text) => self.inputs.push(Input { name, text }),
            Err(_) => self.refuse(Path::new(&name), "not_utf8", "is not UTF-8 text"),
        }
    }

    fn refuse(&mut self, path: &Path, reason: &'static str, why: &str) {
        let remedy = "leave it out, or make it a manifest that can be read";
        let message = format!("{} {why}", path.display());
        self.unreadable.push(Diagnostic::about_file(path, Severity::Error, reason, message, remedy));
    }
}

fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    limited(File::open(path)?)
}

/// One byte more than is read, at most.
fn limited(reader: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}
