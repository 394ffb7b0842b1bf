//! Values of a configuration with their places; what does not fit is a finding that names field and remedy.

use std::cell::RefCell;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use evenkeel_manifest::diagnostic::{Diagnostic, Location, Severity};
use evenkeel_manifest::words::{MAX_MESSAGE, close_to, cut, shortened};
use evenkeel_manifest::yaml::{Entry, Node, Scalar, Value};
use evenkeel_manifest::{Position, Text};

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

    pub(crate) fn report(
        &mut self,
        severity: Severity,
        reason: &'static str,
        at: Position,
        path: &str,
        message: String,
        remedy: String,
    ) {
        self.push(Diagnostic {
            location: Location { file: self.file.to_owned(), line: at.line, column: at.column },
            field: cut(path, MAX_PATH),
            snippet: self.text.snippet(at),
            ..Diagnostic::about_file(self.file, severity, reason, cut(&message, MAX_MESSAGE), cut(&remedy, MAX_MESSAGE))
        });
    }

    pub(crate) fn error(
        &mut self,
        reason: &'static str,
        field: &Field<'_>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.report(Severity::Error, reason, field.at, &field.path, message.into(), remedy.into());
    }

    pub(crate) fn warning(
        &mut self,
        reason: &'static str,
        field: &Field<'_>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.report(Severity::Warning, reason, field.at, &field.path, message.into(), remedy.into());
    }

    /// Something that manifests do not say, or say otherwise.
    pub(crate) fn not_translated(&mut self, field: &Field<'_>, message: impl Into<String>, remedy: impl Into<String>) {
        let (at, path) = (field.key_at, &field.path);
        self.report(Severity::Warning, "not_translated", at, path, message.into(), remedy.into());
    }
}

/// A value with its path.
#[derive(Clone)]
pub(crate) struct Field<'n> {
    node: &'n Node,
    path: String,
    at: Position,
    key_at: Position,
}

impl<'n> Field<'n> {
    pub(crate) fn root(node: &'n Node) -> Self {
        Self { node, path: String::new(), at: node.at, key_at: node.at }
    }

    fn below(parent: &str, entry: &'n Entry) -> Self {
        let path = if parent.is_empty() { entry.key.to_string() } else { format!("{parent}.{}", entry.key) };
        Self { node: &entry.value, path, at: entry.focus(), key_at: entry.at }
    }

    pub(crate) fn is_mapping(&self) -> bool {
        matches!(self.node.value, Value::Mapping(_))
    }

    fn wrong_type(&self, reader: &mut Reader<'_>, expected: &str) {
        let found = match &self.node.value {
            Value::Mapping(_) => "a mapping".to_owned(),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Scalar(scalar) => format!("`{}`", shortened(&scalar.text)),
        };
        let remedy = format!("give {expected}");
        reader.error("wrong_type", self, format!("expected {expected}, found {found}"), remedy);
    }

    /// The text of a scalar. Neither of the two programs' readers minds a number where it expects a text.
    pub(crate) fn text(&self, reader: &mut Reader<'_>) -> Option<&'n str> {
        match &self.node.value {
            Value::Scalar(Scalar { text, .. }) => Some(text),
            Value::Sequence(_) | Value::Mapping(_) => {
                self.wrong_type(reader, "a string");
                None
            }
        }
    }

    pub(crate) fn number(&self, reader: &mut Reader<'_>, least: u32, most: u32) -> Option<u32> {
        let Some(number) = self.scalar().and_then(Scalar::as_integer) else {
            self.wrong_type(reader, "a whole number");
            return None;
        };
        let fitting = u32::try_from(number).ok().filter(|number| (least..=most).contains(number));
        if fitting.is_none() {
            let message = format!("{number} is not between {least} and {most}");
            reader.error("invalid_value", self, message, format!("give a number from {least} to {most}"));
        }
        fitting
    }

    pub(crate) fn port(&self, reader: &mut Reader<'_>) -> Option<u16> {
        self.number(reader, 1, u16::MAX.into()).and_then(|port| u16::try_from(port).ok())
    }

    pub(crate) fn bool(&self, reader: &mut Reader<'_>) -> Option<bool> {
        let bool = self.scalar().and_then(Scalar::as_bool);
        if bool.is_none() {
            self.wrong_type(reader, "true or false");
        }
        bool
    }

    /// One of a few words.
    pub(crate) fn one_of<T: Copy>(&self, reader: &mut Reader<'_>, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(reader)?;
        let value = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if value.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let message = format!("`{}` is not known here", shortened(text));
            reader.error("invalid_value", self, message, format!("use one of {}", known.join(", ")));
        }
        value
    }

    /// A text in a notation of its own.
    pub(crate) fn parse<T: FromStr>(&self, reader: &mut Reader<'_>, what: &str) -> Option<T>
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

    pub(crate) fn list(&self, reader: &mut Reader<'_>) -> Vec<Self> {
        match &self.node.value {
            Value::Sequence(nodes) => nodes
                .iter()
                .enumerate()
                .map(|(n, node)| Self { node, path: format!("{}[{n}]", self.path), at: node.at, key_at: node.at })
                .collect(),
            Value::Scalar(_) | Value::Mapping(_) => {
                self.wrong_type(reader, "a list");
                Vec::new()
            }
        }
    }

    pub(crate) fn fields(&self, reader: &mut Reader<'_>) -> Option<Fields<'n>> {
        match &self.node.value {
            Value::Mapping(entries) => {
                Some(Fields { entries, path: self.path.clone(), at: self.key_at, asked: RefCell::new(Vec::new()) })
            }
            Value::Scalar(_) | Value::Sequence(_) => {
                self.wrong_type(reader, "a mapping");
                None
            }
        }
    }

    fn scalar(&self) -> Option<&'n Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar),
            Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }
}

/// The fields of a mapping, and which of them somebody asked for.
pub(crate) struct Fields<'n> {
    entries: &'n [Entry],
    path: String,
    at: Position,
    asked: RefCell<Vec<&'static str>>,
}

impl<'n> Fields<'n> {
    /// The field, unless it is absent or null.
    pub(crate) fn get(&self, key: &'static str) -> Option<Field<'n>> {
        self.asked.borrow_mut().push(key);
        self.peek(key)
    }

    /// The same, without counting as asked for.
    pub(crate) fn peek(&self, key: &str) -> Option<Field<'n>> {
        let entry = self.entries.iter().find(|entry| *entry.key == *key && !entry.value.is_null())?;
        Some(Field::below(&self.path, entry))
    }

    pub(crate) fn require(&self, reader: &mut Reader<'_>, key: &'static str, remedy: &str) -> Option<Field<'n>> {
        let field = self.get(key);
        if field.is_none() {
            let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
            let message = format!("`{path}` is missing");
            reader.report(Severity::Error, "missing_field", self.at, &path, message, remedy.to_owned());
        }
        field
    }

    /// Everything nobody asked for is named: `whose` reader takes no notice of it either.
    pub(crate) fn no_others(&self, reader: &mut Reader<'_>, whose: &str) {
        let known = self.asked.borrow();
        for entry in self.entries.iter().filter(|entry| !known.contains(&&*entry.key)) {
            let field = Field::below(&self.path, entry);
            let remedy = match close_to(&entry.key, &known) {
                Some(close) => format!("did you mean `{close}`?"),
                None => "remove it, or see what it was meant to do".to_owned(),
            };
            let message = format!("`{}` is no field of {whose} and has no effect", shortened(&entry.key));
            reader.report(Severity::Warning, "unknown_field", field.key_at, &field.path, message, remedy);
        }
    }
}
