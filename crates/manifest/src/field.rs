//! Values of a tree with their paths: typed, or a finding that names place, field and remedy.

use std::cell::RefCell;

use crate::diagnostic::Severity;
use crate::words::{close_to, shortened};
use crate::yaml::{Entry, Node, Position, Scalar, Value, YamlError};

/// Something that is wrong with a field.
#[derive(Clone, Debug)]
pub struct Finding<'p> {
    /// How bad it is.
    pub severity: Severity,
    /// The reason's name.
    pub reason: &'static str,
    /// Where.
    pub at: Position,
    /// The field's path; empty: the file as a whole.
    pub path: &'p str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// Takes what is found wrong.
pub trait Findings {
    /// Takes it.
    fn report(&mut self, finding: Finding<'_>);

    /// A document cannot be read at all.
    fn not_yaml(&mut self, error: YamlError) {
        let YamlError { at, reason, message, remedy } = error;
        self.report(Finding { severity: Severity::Error, reason, at, path: "", message, remedy: remedy.to_owned() });
    }

    /// An error in a field.
    fn error(
        &mut self,
        reason: &'static str,
        field: &Field<'_>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (message, remedy) = (message.into(), remedy.into());
        self.report(Finding { severity: Severity::Error, reason, at: field.at, path: &field.path, message, remedy });
    }

    /// A warning about a field.
    fn warning(
        &mut self,
        reason: &'static str,
        field: &Field<'_>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (message, remedy) = (message.into(), remedy.into());
        self.report(Finding { severity: Severity::Warning, reason, at: field.at, path: &field.path, message, remedy });
    }
}

/// A value with its path.
#[derive(Clone, Debug)]
pub struct Field<'n> {
    /// The value.
    pub node: &'n Node,
    /// Its path from the root: keys, and indices of lists.
    pub path: String,
    /// Where it stands.
    pub at: Position,
    key_at: Position,
}

impl<'n> Field<'n> {
    /// The root of a tree, whose path is empty.
    #[must_use]
    pub fn root(node: &'n Node) -> Self {
        Self { node, path: String::new(), at: node.at, key_at: node.at }
    }

    fn below(parent: &str, entry: &'n Entry) -> Self {
        Self { node: &entry.value, path: path_of(parent, &entry.key), at: entry.focus(), key_at: entry.at }
    }

    /// The same, for findings about the key.
    #[must_use]
    pub fn at_key(self) -> Self {
        Self { at: self.key_at, ..self }
    }

    /// The same place with another value.
    #[must_use]
    pub fn with<'m>(&self, node: &'m Node) -> Field<'m> {
        Field { node, path: self.path.clone(), at: self.at, key_at: self.key_at }
    }

    /// It is not what was expected.
    pub fn wrong_type(&self, findings: &mut impl Findings, expected: &str) {
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
        findings.error("wrong_type", self, format!("expected {expected}, found {found}"), remedy);
    }

    /// The scalar, if it is one.
    #[must_use]
    pub fn scalar(&self) -> Option<&'n Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar),
            Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    /// A string.
    pub fn string(&self, findings: &mut impl Findings) -> Option<&'n str> {
        let string = self.scalar().and_then(Scalar::as_string);
        if string.is_none() {
            self.wrong_type(findings, "a string");
        }
        string
    }

    /// True or false.
    pub fn bool(&self, findings: &mut impl Findings) -> Option<bool> {
        let bool = self.scalar().and_then(Scalar::as_bool);
        if bool.is_none() {
            self.wrong_type(findings, "true or false");
        }
        bool
    }

    /// A whole number between `least` and `most`.
    pub fn number<N: TryFrom<i64> + Into<i64> + Copy>(
        &self,
        findings: &mut impl Findings,
        least: N,
        most: N,
    ) -> Option<N> {
        let (least, most) = (least.into(), most.into());
        let Some(number) = self.scalar().and_then(Scalar::as_integer) else {
            self.wrong_type(findings, "a whole number");
            return None;
        };
        let fitting = (least..=most).contains(&number).then(|| N::try_from(number).ok()).flatten();
        if fitting.is_none() {
            let message = format!("{number} is not between {least} and {most}");
            findings.error("invalid_value", self, message, format!("give a number from {least} to {most}"));
        }
        fitting
    }

    /// What `text`, which is this field's, stands for: one of a few words.
    pub fn word<T: Copy>(&self, findings: &mut impl Findings, text: &str, words: &[(&str, T)]) -> Option<T> {
        let value = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if value.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).filter(|word| !word.is_empty()).collect();
            let remedy = format!("use one of {}", known.join(", "));
            findings.error("invalid_value", self, format!("`{}` is not known here", shortened(text)), remedy);
        }
        value
    }

    /// The items of a list.
    pub fn list(&self, findings: &mut impl Findings) -> Vec<Self> {
        match &self.node.value {
            Value::Sequence(nodes) => nodes
                .iter()
                .enumerate()
                .map(|(n, node)| Self { node, path: format!("{}[{n}]", self.path), at: node.at, key_at: node.at })
                .collect(),
            Value::Scalar(_) | Value::Mapping(_) => {
                self.wrong_type(findings, "a list");
                Vec::new()
            }
        }
    }

    /// The fields of a mapping.
    pub fn fields(&self, findings: &mut impl Findings) -> Option<Fields<'n>> {
        match &self.node.value {
            Value::Mapping(entries) => {
                Some(Fields { entries, path: self.path.clone(), at: self.key_at, asked: RefCell::new(Vec::new()) })
            }
            Value::Scalar(_) | Value::Sequence(_) => {
                self.wrong_type(findings, "a mapping");
                None
            }
        }
    }
}

/// The fields of a mapping, and which of them somebody asked for.
#[derive(Debug)]
pub struct Fields<'n> {
    entries: &'n [Entry],
    path: String,
    /// Where the mapping's key stands.
    pub at: Position,
    asked: RefCell<Vec<&'static str>>,
}

impl<'n> Fields<'n> {
    /// The field, unless it is absent or null. From then on it counts as asked for.
    pub fn get(&self, key: &'static str) -> Option<Field<'n>> {
        self.asked.borrow_mut().push(key);
        self.find(key)
    }

    /// The same, without counting as asked for.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<Field<'n>> {
        let entry = self.entries.iter().find(|entry| *entry.key == *key && !entry.value.is_null())?;
        Some(Field::below(&self.path, entry))
    }

    /// The path of a field, whether it is there or not.
    #[must_use]
    pub fn path_of(&self, key: &str) -> String {
        path_of(&self.path, key)
    }

    /// All fields in their order, with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&'n str, Field<'n>)> {
        self.entries.iter().map(|entry| (&*entry.key, Field::below(&self.path, entry)))
    }

    /// Those that nobody asked for, with their keys.
    pub fn others(&self) -> impl Iterator<Item = (&'n str, Field<'n>)> {
        let known = self.known();
        self.iter().filter(move |(key, _)| !known.contains(key))
    }

    /// The key that was asked for and that this one may be a slip of.
    #[must_use]
    pub fn meant(&self, key: &str) -> Option<&'static str> {
        close_to(key, &self.known())
    }

    /// The keys that were asked for.
    #[must_use]
    pub fn known(&self) -> Vec<&'static str> {
        self.asked.borrow().clone()
    }
}

fn path_of(parent: &str, key: &str) -> String {
    match parent {
        "" => key.to_owned(),
        parent if key.contains(['.', '/']) => format!("{parent}[{key}]"),
        parent => format!("{parent}.{key}"),
    }
}
