//! Findings about manifests, each with the place it was found at and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

pub use evenkeel_plan::Severity;

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The file, as the command line (or the directory walk that started there) names it.
    pub file: PathBuf,
    /// The line, from 1; 0 means the file as a whole.
    pub line: usize,
    /// The column in characters, from 1; 0 means the line as a whole.
    pub column: usize,
}

impl Location {
    /// The file as a whole.
    pub fn whole(file: &Path) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0 }
    }
}

/// A finding about a manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// Where.
    pub location: Location,
    /// How much it matters.
    pub severity: Severity,
    /// The named reason, in snake_case.
    pub reason: &'static str,
    /// The kind of the object; empty when not known.
    pub kind: String,
    /// `namespace/name` of the object, or its name where the kind has no namespace; empty when not known.
    pub name: String,
    /// The field, such as `spec.addresses[0]`; empty when the whole object is meant.
    pub field: String,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// The line at [`Diagnostic::location`], if it was at hand.
    pub snippet: Option<String>,
}

impl Diagnostic {
    /// A finding about a file as a whole.
    pub(crate) fn about_file(
        file: &Path,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            location: Location::whole(file),
            severity,
            reason,
            kind: String::new(),
            name: String::new(),
            field: String::new(),
            message: message.into(),
            remedy: remedy.into(),
            snippet: None,
        }
    }

    /// Whether it makes the input invalid.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// In the style of a compiler: the place, the line itself, the field and the remedy.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]: {}", self.severity.as_str(), self.reason, printable(&self.message))?;
        let Location { file, line, column } = &self.location;
        if !file.as_os_str().is_empty() {
            write!(f, "\n --> {}", printable(&file.display().to_string()))?;
            if *line > 0 {
                write!(f, ":{line}")?;
            }
            if *line > 0 && *column > 0 {
                write!(f, ":{column}")?;
            }
        }
        if let Some(snippet) = &self.snippet {
            write!(f, "\n  | {}", printable(snippet))?;
        }
        let object = [self.kind.as_str(), self.name.as_str()].join(" ");
        if !object.trim().is_empty() {
            write!(f, "\n  = object: {}", printable(object.trim()))?;
        }
        if !self.field.is_empty() {
            write!(f, "\n  = field: {}", printable(&self.field))?;
        }
        write!(f, "\n  = help: {}", printable(&self.remedy))
    }
}

/// Text from a manifest without the characters a terminal would act on.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
