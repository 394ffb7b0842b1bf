//! Reading typed values out of a tree, with an error that names the place for everything that does not fit.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use evenkeel_manifest::Text;
use evenkeel_manifest::diagnostic::{Diagnostic, Location, Severity};
pub(super) use evenkeel_manifest::field::{Field, Fields, Finding, Findings};
pub(super) use evenkeel_manifest::words::{MAX_MESSAGE, close_to, cut, distance, shortened};
use evenkeel_manifest::yaml::Scalar;
use evenkeel_plan::selector::Labels;
use evenkeel_plan::world::Unread;

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
    /// Whether an object may lack what cannot be read of it ([`Reader::lenient`]).
    pub(super) is_lenient: bool,
    /// The first of what it lacks.
    pub(super) unread: Option<Unread>,
    /// What is read is not to be shown.
    pub(super) secret: bool,
}

impl Reader<'_> {
    /// Read part of an object of an API, where an error costs that part and not the object: nobody but us has looked at it
    /// before it was stored. In a file an error is one like any other.
    pub(super) fn lenient<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let (failed, before) = (std::mem::take(&mut self.failed), self.diagnostics.len());
        let result = read(self);
        let mut new = self.diagnostics.iter().skip(before);
        if self.failed
            && self.is_lenient
            && let Some(error) = new.find(|found| found.is_error())
        {
            self.unread.get_or_insert(Unread { reason: error.reason, message: error.sentence() });
            self.failed = false;
        }
        self.failed |= failed;
        result
    }

    /// Something `fields` ought to have.
    pub(super) fn missing(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.report(Finding {
            severity: Severity::Error,
            reason: "missing_field",
            at: fields.at,
            path: &fields.path_of(key),
            message: message.into(),
            remedy: remedy.into(),
        });
    }

    /// Whether further findings are only counted.
    fn is_full(&self) -> bool {
        self.diagnostics.len() >= MAX_FINDINGS
    }

    pub(super) fn diagnostic(&self, finding: Finding<'_>) -> Diagnostic {
        let Finding { severity, reason, at, path, message, remedy } = finding;
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

impl Findings for Reader<'_> {
    fn report(&mut self, finding: Finding<'_>) {
        let severity = finding.severity;
        self.failed |= severity == Severity::Error;
        if !self.is_full() {
            self.diagnostics.push(self.diagnostic(finding));
        } else {
            self.left_out = add(self.left_out, (severity, 1));
        }
    }
}

/// What manifests make of a value.
pub(super) trait Values<'n> {
    /// A string that is not empty; Kubernetes writes optional strings as `""` at times.
    fn text(&self, reader: &mut Reader<'_>) -> Option<&'n str>;

    fn is_null(&self) -> bool;

    /// Whether this is the empty string, as which Kubernetes writes an optional string at times.
    fn is_empty_text(&self) -> bool;

    /// A string that must not be empty: the name of something.
    fn name(&self, reader: &mut Reader<'_>) -> Option<&'n str>;

    /// The name of a network interface. Whether there is one of this name is another matter.
    fn interface(&self, reader: &mut Reader<'_>) -> Option<&'n str>;

    /// A string no finding shows.
    fn password(&self, reader: &mut Reader<'_>) -> Option<&'n str>;

    /// A duration in Go's notation.
    fn duration(&self, reader: &mut Reader<'_>) -> Option<Duration>;

    fn is_integer(&self) -> bool;

    /// One of a few words.
    fn one_of<T: Copy>(&self, reader: &mut Reader<'_>, words: &[(&str, T)]) -> Option<T>;

    /// A string in a notation of its own.
    fn parse<T: FromStr>(&self, reader: &mut Reader<'_>, reason: &'static str, remedy: &str) -> Option<T>
    where
        T::Err: fmt::Display;

    /// A list of names, each given once. An empty one is refused: left out, a list of it would mean everything.
    fn names(&self, reader: &mut Reader<'_>) -> Vec<String>;

    /// Labels, or those a selector asks for. Without a value means with an empty one.
    fn labels(&self, reader: &mut Reader<'_>) -> Labels;
}

impl<'n> Values<'n> for Field<'n> {
    fn text(&self, reader: &mut Reader<'_>) -> Option<&'n str> {
        self.string(reader).filter(|text| !text.is_empty())
    }

    fn is_null(&self) -> bool {
        self.node.is_null()
    }

    fn is_empty_text(&self) -> bool {
        self.scalar().and_then(Scalar::as_string) == Some("")
    }

    fn name(&self, reader: &mut Reader<'_>) -> Option<&'n str> {
        let text = self.string(reader)?;
        if text.is_empty() {
            reader.error("invalid_value", self, "an empty string names nothing", "give a name, or remove it");
            return None;
        }
        Some(text)
    }

    fn interface(&self, reader: &mut Reader<'_>) -> Option<&'n str> {
        /// Of alternative names; the primary one is shorter.
        const MAX_LENGTH: usize = 127;
        let text = self.name(reader)?;
        if text.len() > MAX_LENGTH || text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
            let message = format!("`{}` cannot be the name of an interface", shortened(text));
            reader.error("invalid_name", self, message, "give the name of a network interface");
        }
        Some(text)
    }

    fn password(&self, reader: &mut Reader<'_>) -> Option<&'n str> {
        let text = self.scalar().and_then(Scalar::as_string);
        if text.is_none() {
            reader.error("wrong_type", self, "expected a string", "put it in quotes");
        }
        text
    }

    fn duration(&self, reader: &mut Reader<'_>) -> Option<Duration> {
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

    fn is_integer(&self) -> bool {
        self.scalar().is_some_and(|scalar| scalar.as_integer().is_some())
    }

    fn one_of<T: Copy>(&self, reader: &mut Reader<'_>, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(reader)?;
        self.word(reader, text, words)
    }

    fn parse<T: FromStr>(&self, reader: &mut Reader<'_>, reason: &'static str, remedy: &str) -> Option<T>
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

    fn names(&self, reader: &mut Reader<'_>) -> Vec<String> {
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

    fn labels(&self, reader: &mut Reader<'_>) -> Labels {
        let Some(fields) = self.fields(reader) else { return Labels::new() };
        let mut labels = Labels::new();
        for (key, field) in fields.iter() {
            label::check_key(reader, key, || field.clone().at_key());
            let value = if field.is_null() { Some("") } else { label::value(reader, &field) };
            labels.extend(value.map(|value| (key.to_owned(), value.to_owned())));
        }
        labels
    }
}

/// What manifests make of a mapping.
pub(super) trait Mapping<'n> {
    fn require(&self, reader: &mut Reader<'_>, key: &'static str) -> Option<Field<'n>>;

    /// The list of a field, empty when absent.
    fn list(&self, reader: &mut Reader<'_>, key: &'static str) -> Vec<Field<'n>>;

    /// Annotations: every value is to be a string, and those that are read have no character a terminal acts on. Line breaks
    /// and tabs are what blocks of YAML are made of, and are shown as escapes.
    fn check_annotations(&self, reader: &mut Reader<'_>);

    /// Every field that was not asked for is an error: in our own kinds a misspelt field would otherwise be ignored
    /// in silence.
    fn no_others(&self, reader: &mut Reader<'_>);
}

impl<'n> Mapping<'n> for Fields<'n> {
    fn require(&self, reader: &mut Reader<'_>, key: &'static str) -> Option<Field<'n>> {
        let field = self.get(key);
        if field.is_none() {
            let message = format!("`{}` is missing", self.path_of(key));
            reader.missing(self, key, message, format!("add `{key}`"));
        }
        field
    }

    fn list(&self, reader: &mut Reader<'_>, key: &'static str) -> Vec<Field<'n>> {
        self.get(key).map(|field| field.list(reader)).unwrap_or_default()
    }

    fn check_annotations(&self, reader: &mut Reader<'_>) {
        for (key, field) in self.iter().filter(|(_, field)| !field.is_null()) {
            let text = field.string(reader).unwrap_or_default();
            let read = ["metallb.io/", "metallb.universe.tf/", "evenkeel.io/"].iter().any(|ours| key.starts_with(ours));
            if read && text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
                reader.error("control_character", &field, "a control character has no meaning here", "remove it");
            }
        }
    }

    fn no_others(&self, reader: &mut Reader<'_>) {
        for (key, field) in self.others() {
            if reader.is_full() {
                reader.failed = true;
                reader.left_out = add(reader.left_out, (Severity::Error, 1));
                continue;
            }
            let remedy = match self.meant(key) {
                Some(close) => format!("did you mean `{close}`?"),
                None => format!("remove it; known here: {}", self.known().join(", ")),
            };
            let message = format!("unknown field `{}`", shortened(key));
            reader.error("unknown_field", &field.at_key(), message, remedy);
        }
    }
}

/// Most characters of a field's path.
const MAX_PATH: usize = 400;
