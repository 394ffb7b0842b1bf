//! Values of a configuration with their places; what does not fit is a finding that names field and remedy.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use evenkeel_manifest::Text;
use evenkeel_manifest::diagnostic::{Diagnostic, Location, Severity};
pub(crate) use evenkeel_manifest::field::{Field, Fields, Finding, Findings};
use evenkeel_manifest::words::{MAX_MESSAGE, cut, shortened};
use evenkeel_manifest::yaml::Value;

/// Most findings that are kept.
const MAX_FINDINGS: usize = 1000;
/// Most characters of a field's path.
const MAX_PATH: usize = 400;

/// What was found.
pub(crate) struct Reader<'t> {
    file: &'t Path,
    text: &'t Text,
    diagnostics: Vec<Diagnostic>,
    failed: bool,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(file: &'t Path, text: &'t Text) -> Self {
        Self { file, text, diagnostics: Vec::new(), failed: false }
    }

    /// Whether there was an error.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// All findings by place, each once.
    pub(crate) fn diagnostics(mut self) -> Vec<Diagnostic> {
        self.diagnostics.sort();
        self.diagnostics.dedup();
        self.diagnostics
    }

    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        self.failed |= diagnostic.is_error();
        if self.diagnostics.len() < MAX_FINDINGS {
            self.diagnostics.push(diagnostic);
        }
    }

    /// Something that manifests do not say, or say otherwise.
    pub(crate) fn not_translated(&mut self, field: &Field<'_>, message: impl Into<String>, remedy: impl Into<String>) {
        self.warning("not_translated", &field.clone().at_key(), message, remedy);
    }
}

impl Findings for Reader<'_> {
    fn report(&mut self, finding: Finding<'_>) {
        let Finding { severity, reason, at, path, message, remedy } = finding;
        self.push(Diagnostic {
            location: Location { file: self.file.to_owned(), line: at.line, column: at.column },
            field: cut(path, MAX_PATH),
            snippet: self.text.snippet(at),
            ..Diagnostic::about_file(self.file, severity, reason, cut(&message, MAX_MESSAGE), cut(&remedy, MAX_MESSAGE))
        });
    }
}

/// What the two programs' readers make of a value.
pub(crate) trait Values<'n> {
    fn is_mapping(&self) -> bool;

    /// The text of a scalar. Neither of the two programs' readers minds a number where it expects a text.
    fn text(&self, reader: &mut Reader<'_>) -> Option<&'n str>;

    fn port(&self, reader: &mut Reader<'_>) -> Option<u16>;

    /// One of a few words.
    fn one_of<T: Copy>(&self, reader: &mut Reader<'_>, words: &[(&str, T)]) -> Option<T>;

    /// A text in a notation of its own.
    fn parse<T: FromStr>(&self, reader: &mut Reader<'_>, what: &str) -> Option<T>
    where
        T::Err: fmt::Display;
}

impl<'n> Values<'n> for Field<'n> {
    fn is_mapping(&self) -> bool {
        matches!(self.node.value, Value::Mapping(_))
    }

    fn text(&self, reader: &mut Reader<'_>) -> Option<&'n str> {
        let text = self.scalar().map(|scalar| &*scalar.text);
        if text.is_none() {
            self.wrong_type(reader, "a string");
        }
        text
    }

    fn port(&self, reader: &mut Reader<'_>) -> Option<u16> {
        self.number(reader, 1, u16::MAX)
    }

    fn one_of<T: Copy>(&self, reader: &mut Reader<'_>, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(reader)?;
        self.word(reader, text, words)
    }

    fn parse<T: FromStr>(&self, reader: &mut Reader<'_>, what: &str) -> Option<T>
    where
        T::Err: fmt::Display,
    {
        let text = self.text(reader)?;
        let value = text.trim().parse().ok();
        if value.is_none() {
            let message = format!("`{}` is not {what}", shortened(text));
            reader.error("invalid_value", self, message, format!("give {what}"));
        }
        value
    }
}

/// What they make of a mapping.
pub(crate) trait Mapping<'n> {
    fn require(&self, reader: &mut Reader<'_>, key: &'static str, remedy: &str) -> Option<Field<'n>>;

    /// Everything nobody asked for is named: `whose` reader takes no notice of it either.
    fn no_others(&self, reader: &mut Reader<'_>, whose: &str);
}

impl<'n> Mapping<'n> for Fields<'n> {
    fn require(&self, reader: &mut Reader<'_>, key: &'static str, remedy: &str) -> Option<Field<'n>> {
        let field = self.get(key);
        if field.is_none() {
            let path = self.path_of(key);
            let message = format!("`{path}` is missing");
            let (severity, reason, remedy) = (Severity::Error, "missing_field", remedy.to_owned());
            reader.report(Finding { severity, reason, at: self.at, path: &path, message, remedy });
        }
        field
    }

    fn no_others(&self, reader: &mut Reader<'_>, whose: &str) {
        for (key, field) in self.others() {
            let remedy = match self.meant(key) {
                Some(close) => format!("did you mean `{close}`?"),
                None => "remove it, or see what it was meant to do".to_owned(),
            };
            let message = format!("`{}` is no field of {whose} and has no effect", shortened(key));
            reader.warning("unknown_field", &field.at_key(), message, remedy);
        }
    }
}
