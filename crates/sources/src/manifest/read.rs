//! Reading typed values out of a tree, with an error that names the place for everything that does not fit.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use evenkeel_manifest::Text;
use evenkeel_manifest::diagnostic::{Diagnostic, Location, Severity};
pub(super) use evenkeel_manifest::words::{MAX_MESSAGE, close_to, cut, distance, shortened};
use evenkeel_manifest::yaml::{Entry, Node, Position, Scalar, Value};
use evenkeel_plan::selector::Labels;

use super::duration::{self, DurationError};
use super::label;
use super::{MAX_FINDINGS, add};

/// What is known of the object being read, and what was found wrong with it.
pub(super) struct Reader<'t> {
    pub(super) file: &'t Path,
    pub(super) text: &'t Text,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Findings beyond [`MAX_FINDINGS`].
    pub(super) left_out: Option<(Severity, usize)>,
    pub(super) failed: bool,
    /// What is read is not to be shown.
    pub(super) secret: bool,
}

impl Reader<'_> {
    pub(super) fn error(
        &mut self,
        reason: &'static str,
        field: &Field<'_>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.failed = true;
        self.report(Severity::Error, reason, field.at, &field.path, message.into(), remedy.into());
    }

    pub(super) fn warning(
        &mut self,
        reason: &'static str,
        field: &Field<'_>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.report(Severity::Warning, reason, field.at, &field.path, message.into(), remedy.into());
    }

    /// Something `fields` ought to have.
    pub(super) fn missing(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.failed = true;
        self.report(Severity::Error, "missing_field", fields.at, &fields.path_of(key), message.into(), remedy.into());
    }

    pub(super) fn report(
        &mut self,
        severity: Severity,
        reason: &'static str,
        at: Position,
        path: &str,
        message: String,
        remedy: String,
    ) {
        if !self.is_full() {
            self.diagnostics.push(self.diagnostic(severity, reason, at, path, message, remedy));
        } else {
            self.left_out = add(self.left_out, (severity, 1));
        }
    }

    /// Whether further findings are only counted.
    fn is_full(&self) -> bool {
        self.diagnostics.len() >= MAX_FINDINGS
    }

    pub(super) fn diagnostic(
        &self,
        severity: Severity,
        reason: &'static str,
        at: Position,
        path: &str,
        message: String,
        remedy: String,
    ) -> Diagnostic {
        Diagnostic {
            location: Location { file: self.file.to_owned(), line: at.line, column: at.column },
            severity,
            reason,
            kind: self.kind.clone(),
            name: self.name.clone(),
            field: cut(path, MAX_PATH),
            message: cut(&message, MAX_MESSAGE),
            remedy: cut(&remedy, MAX_MESSAGE),
            snippet: if self.secret { None } else { self.text.snippet(at) },
        }
    }
}

/// A value with its path.
pub(super) struct Field<'n> {
    pub(super) node: &'n Node,
    pub(super) path: String,
    /// Where it stands.
    pub(super) at: Position,
    /// Where its key stands, if it has one.
    key_at: Position,
}

impl<'n> Field<'n> {
    pub(super) fn root(node: &'n Node) -> Self {
        Self { node, path: String::new(), at: node.at, key_at: node.at }
    }

    fn below(parent: &str, entry: &'n Entry) -> Self {
        let path = match parent {
            "" => entry.key.to_string(),
            parent if entry.key.contains(['.', '/']) => format!("{parent}[{}]", entry.key),
            parent => format!("{parent}.{}", entry.key),
        };
        Self { node: &entry.value, path, at: entry.focus(), key_at: entry.at }
    }

    /// The same, for findings about the key.
    pub(super) fn at_key(self) -> Self {
        Self { at: self.key_at, ..self }
    }

    fn wrong_type(&self, reader: &mut Reader<'_>, expected: &str) {
        let found = match &self.node.value {
            Value::Mapping(_) => "a mapping".to_owned(),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Scalar(scalar) if scalar.is_null() => "nothing".to_owned(),
            Value::Scalar(scalar) if scalar.plain => format!("`{}`", shortened(&scalar.text)),
            Value::Scalar(scalar) => format!("the string \"{}\"", shortened(&scalar.text)),
        };
        let remedy = match &self.node.value {
            Value::Scalar(scalar) if scalar.plain && expected == "a string" => {
                format!("put it in quotes: \"{}\"", shortened(&scalar.text))
            }
            Value::Mapping(_) | Value::Sequence(_) | Value::Scalar(_) => format!("give {expected}"),
        };
        reader.error("wrong_type", self, format!("expected {expected}, found {found}"), remedy);
    }

    fn scalar(&self) -> Option<&'n Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar),
            Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    pub(super) fn string(&self, reader: &mut Reader<'_>) -> Option<&'n str> {
        let string = self.scalar().and_then(Scalar::as_string);
        if string.is_none() {
            self.wrong_type(reader, "a string");
        }
        string
    }

    /// A string that is not empty; Kubernetes writes optional strings as `""` at times.
    pub(super) fn text(&self, reader: &mut Reader<'_>) -> Option<&'n str> {
        self.string(reader).filter(|text| !text.is_empty())
    }

    pub(super) fn is_null(&self) -> bool {
        self.node.is_null()
    }

    /// Whether this is the empty string, as which Kubernetes writes an optional string at times.
    pub(super) fn is_empty_text(&self) -> bool {
        self.scalar().and_then(Scalar::as_string) == Some("")
    }

    /// A string that must not be empty: the name of something.
    pub(super) fn name(&self, reader: &mut Reader<'_>) -> Option<&'n str> {
        let text = self.string(reader)?;
        if text.is_empty() {
            reader.error("invalid_value", self, "an empty string names nothing", "give a name, or remove it");
            return None;
        }
        Some(text)
    }

    /// The name of a network interface. Whether there is one of this name is another matter.
    pub(super) fn interface(&self, reader: &mut Reader<'_>) -> Option<&'n str> {
        /// Of alternative names; the primary one is shorter.
        const MAX_LENGTH: usize = 127;
        let text = self.name(reader)?;
        if text.len() > MAX_LENGTH || text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
            let message = format!("`{}` cannot be the name of an interface", shortened(text));
            reader.error("invalid_name", self, message, "give the name of a network interface");
        }
        Some(text)
    }

    /// A string no finding shows.
    pub(super) fn password(&self, reader: &mut Reader<'_>) -> Option<&'n str> {
        let text = self.scalar().and_then(Scalar::as_string);
        if text.is_none() {
            reader.error("wrong_type", self, "expected a string", "put it in quotes");
        }
        text
    }

    /// A duration in Go's notation.
    pub(super) fn duration(&self, reader: &mut Reader<'_>) -> Option<Duration> {
        let text = match self.scalar() {
            Some(scalar) => &scalar.text,
            None => self.string(reader)?,
        };
        // Kubernetes takes a number without quotes for a number, not for a duration.
        let is_string = self.scalar().is_some_and(|scalar| scalar.as_string().is_some());
        let error = match duration::parse(text) {
            Ok(duration) if is_string => return Some(duration),
            Ok(_) => DurationError::Unit,
            Err(error) => error,
        };
        let remedy = match error {
            DurationError::Unit => format!("write {}s for seconds", shortened(text)),
            _ => "write it like 90s, 1m30s or 1h".to_owned(),
        };
        reader.error("invalid_duration", self, format!("`{}`: {error}", shortened(text)), remedy);
        None
    }

    pub(super) fn bool(&self, reader: &mut Reader<'_>) -> Option<bool> {
        let bool = self.scalar().and_then(Scalar::as_bool);
        if bool.is_none() {
            self.wrong_type(reader, "true or false");
        }
        bool
    }

    /// A whole number between `least` and `most`.
    pub(super) fn number<N: TryFrom<i64> + Into<i64> + Copy>(
        &self,
        reader: &mut Reader<'_>,
        least: N,
        most: N,
    ) -> Option<N> {
        let (least, most) = (least.into(), most.into());
        let Some(number) = self.scalar().and_then(Scalar::as_integer) else {
            self.wrong_type(reader, "a whole number");
            return None;
        };
        let fitting = (least..=most).contains(&number).then(|| N::try_from(number).ok()).flatten();
        if fitting.is_none() {
            let message = format!("{number} is not between {least} and {most}");
            reader.error("invalid_value", self, message, format!("give a number from {least} to {most}"));
        }
        fitting
    }

    pub(super) fn is_integer(&self) -> bool {
        self.scalar().is_some_and(|scalar| scalar.as_integer().is_some())
    }

    /// One of a few words.
    pub(super) fn one_of<T: Copy>(&self, reader: &mut Reader<'_>, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(reader)?;
        let value = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if value.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).filter(|word| !word.is_empty()).collect();
            let remedy = format!("use one of {}", known.join(", "));
            reader.error("invalid_value", self, format!("`{}` is not known here", shortened(text)), remedy);
        }
        value
    }

    /// A string in a notation of its own.
    pub(super) fn parse<T: FromStr>(&self, reader: &mut Reader<'_>, reason: &'static str, remedy: &str) -> Option<T>
    where
        T::Err: fmt::Display,
    {
        let text = self.string(reader)?;
        match text.trim().parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let error = error.to_string();
                let shown = shortened(text);
                let message = if error.contains(text) { error } else { format!("`{shown}`: {error}") };
                reader.error(reason, self, shortened(&message), remedy);
                None
            }
        }
    }

    pub(super) fn list(&self, reader: &mut Reader<'_>) -> Vec<Self> {
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

    /// A list of names, each given once. An empty one is refused: left out, a list of it would mean everything.
    pub(super) fn names(&self, reader: &mut Reader<'_>) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut names = Vec::new();
        for item in self.list(reader) {
            let Some(name) = item.name(reader) else { continue };
            if !seen.insert(name) {
                let message = format!("`{}` is given before", shortened(name));
                reader.error("duplicate_value", &item, message, "give it once");
            }
            names.push(name.to_owned());
        }
        names
    }

    /// Labels, or those a selector asks for. Without a value means with an empty one.
    pub(super) fn labels(&self, reader: &mut Reader<'_>) -> Labels {
        let Some(fields) = self.fields(reader) else { return Labels::new() };
        let mut labels = Labels::new();
        for entry in fields.entries {
            let field = Field::below(&fields.path, entry);
            label::check_key(reader, &entry.key, || Field::below(&fields.path, entry).at_key());
            let value = if entry.value.is_null() { Some("") } else { label::value(reader, &field) };
            labels.extend(value.map(|value| (entry.key.to_string(), value.to_owned())));
        }
        labels
    }

    pub(super) fn fields(&self, reader: &mut Reader<'_>) -> Option<Fields<'n>> {
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
}

/// The fields of a mapping.
pub(super) struct Fields<'n> {
    entries: &'n [Entry],
    path: String,
    at: Position,
    asked: RefCell<Vec<&'static str>>,
}

impl<'n> Fields<'n> {
    /// The field, unless it is absent or null.
    pub(super) fn get(&self, key: &'static str) -> Option<Field<'n>> {
        self.asked.borrow_mut().push(key);
        self.annotation(key)
    }

    /// The field by a name only known at run time.
    pub(super) fn annotation(&self, key: &str) -> Option<Field<'n>> {
        let entry = self.entries.iter().find(|entry| *entry.key == *key && !entry.value.is_null())?;
        Some(Field::below(&self.path, entry))
    }

    pub(super) fn require(&self, reader: &mut Reader<'_>, key: &'static str) -> Option<Field<'n>> {
        let field = self.get(key);
        if field.is_none() {
            let message = format!("`{}` is missing", self.path_of(key));
            reader.missing(self, key, message, format!("add `{key}`"));
        }
        field
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// All fields in their order, with their keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'n str, Field<'n>)> {
        self.entries.iter().map(|entry| (&*entry.key, Field::below(&self.path, entry)))
    }

    /// The list of a field, empty when absent.
    pub(super) fn list(&self, reader: &mut Reader<'_>, key: &'static str) -> Vec<Field<'n>> {
        self.get(key).map(|field| field.list(reader)).unwrap_or_default()
    }

    /// Annotations: every value is to be a string, and those that end up in messages have no character a terminal acts
    /// on.
    pub(super) fn check_annotations(&self, reader: &mut Reader<'_>) {
        for (key, field) in self.iter().filter(|(_, field)| !field.is_null()) {
            let text = field.string(reader).unwrap_or_default();
            let read = ["metallb.io/", "metallb.universe.tf/", "evenkeel.io/"].iter().any(|ours| key.starts_with(ours));
            if read && text.contains(char::is_control) {
                reader.error("control_character", &field, "a control character has no meaning here", "remove it");
            }
        }
    }

    /// Every field that was not asked for is an error: in our own kinds a misspelt field would otherwise be ignored
    /// in silence.
    pub(super) fn no_others(&self, reader: &mut Reader<'_>) {
        let known = self.asked.borrow();
        for entry in self.entries.iter().filter(|entry| !known.contains(&&*entry.key)) {
            if reader.is_full() {
                reader.failed = true;
                reader.left_out = add(reader.left_out, (Severity::Error, 1));
                continue;
            }
            let field = Field::below(&self.path, entry).at_key();
            let remedy = match close_to(&entry.key, &known) {
                Some(close) => format!("did you mean `{close}`?"),
                None => format!("remove it; known here: {}", known.join(", ")),
            };
            reader.error("unknown_field", &field, format!("unknown field `{}`", shortened(&entry.key)), remedy);
        }
    }
}

/// Most characters of a field's path.
const MAX_PATH: usize = 400;
