//! Manifests: text to validated objects.
//!
//! Kubernetes' own kinds are read leniently, fields this program has no use for are ignored; `metallb.io` kinds are
//! read strictly, because a misspelt field there would change what is announced. In both a value of the wrong type in
//! a field that is read is an error, and an object with an error is not used.

mod duration;
mod endpoints;
mod kinds;
mod label;
mod lines;
mod metallb;
mod object;
mod other;
mod read;
mod yaml;

use std::collections::BTreeMap;
use std::path::Path;

use evenkeel_plan::world::{Kind, Object, ObjectKey};

use self::lines::{Lines, mentions_secret};
use self::object::labels;
use self::read::Reader;
use self::yaml::{Entry, Node, Position, Value};
use crate::diagnostic::{Diagnostic, Severity, Snippet};

/// Largest file read, in bytes.
pub const MAX_BYTES: usize = 16 << 20;

/// An object's place in its file: `(line, column)` from 1, of its start and of the fields findings about several
/// objects can refer to, each with the text of its line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// By field path; the empty path is the object itself.
    pub fields: BTreeMap<String, Place>,
}

/// A line and column, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column in characters.
    pub column: usize,
    /// The line itself.
    pub snippet: Option<Snippet>,
}

/// One object of a file, readable or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Which object it is.
    pub key: ObjectKey,
    /// The object, unless it has an error.
    pub object: Option<Object>,
    /// Where it stands.
    pub places: Places,
}

/// A file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The objects that could be identified, in order.
    pub documents: Vec<Document>,
    /// Something in the file could not even be identified: what else it is meant to define is not known.
    pub incomplete: bool,
    /// What was found.
    pub diagnostics: Vec<Diagnostic>,
    /// Kinds that are not part of the World, each with the first place it stands at.
    pub skipped: BTreeMap<String, Diagnostic>,
}

/// Read a file's content. `file` is only used to name the place in diagnostics.
pub fn parse(file: &Path, content: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    let whole =
        |reason, message: String, remedy: &str| Diagnostic::about_file(file, Severity::Error, reason, message, remedy);
    if content.len() > MAX_BYTES {
        let message = format!("the file has {} bytes; at most {MAX_BYTES} are read", content.len());
        return Parsed::unreadable(whole("too_large", message, "split it into smaller files"));
    }
    let Ok(text) = std::str::from_utf8(content) else {
        let message = "the file is not UTF-8 text".to_owned();
        return Parsed::unreadable(whole("not_utf8", message, "save it as UTF-8, or move it elsewhere"));
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = Lines::of(text);
    for chunk in yaml::chunks(text) {
        match chunk.parse() {
            Ok(Some(root)) => parsed.take(file, &lines, &root),
            Ok(None) => {}
            Err(error) => {
                let mut reader = Reader::new(file, &lines);
                reader.secret = mentions_secret(chunk.text);
                reader.report(Severity::Error, error.reason, error.at, "", error.message, error.remedy.to_owned());
                parsed.incomplete = true;
                parsed.diagnostics.append(&mut reader.diagnostics);
            }
        }
    }
    // What is read in two places is found wrong twice.
    parsed.diagnostics.sort();
    parsed.diagnostics.dedup();
    parsed
}

impl<'t> Reader<'t> {
    fn new(file: &'t Path, lines: &'t Lines<'t>) -> Self {
        Self {
            file,
            lines,
            kind: String::new(),
            name: String::new(),
            diagnostics: Vec::new(),
            failed: false,
            secret: false,
        }
    }
}

impl Parsed {
    /// A file of which nothing is known but that it cannot be read.
    pub fn unreadable(diagnostic: Diagnostic) -> Self {
        Self { incomplete: true, diagnostics: vec![diagnostic], ..Self::default() }
    }
}

/// The places findings about several objects refer to: the fields of `metadata` and `spec`, and the items of lists
/// there. Endpoint slices are many and never referred to by field.
fn places(lines: &Lines<'_>, kind: Kind, root: &Node) -> Places {
    let snippet = |at| if kind == Kind::Secret { None } else { lines.snippet(at) };
    let place = |at: Position| Place { line: at.line, column: at.column, snippet: snippet(at) };
    let mut places = Places::default();
    // `kind:` and `name:` say more about an object than the line it happens to start on.
    let metadata = root.entry("metadata");
    let start = metadata.and_then(|metadata| metadata.value.entry("name")).map_or(root.at, Entry::focus);
    places.fields.insert(String::new(), place(start));
    if matches!(kind, Kind::EndpointSlice | Kind::Endpoints | Kind::Secret) {
        return places;
    }
    for (section, entry) in [("metadata", metadata), ("spec", root.entry("spec"))] {
        let Some(Value::Mapping(entries)) = entry.map(|entry| &entry.value.value) else { continue };
        for entry in entries {
            let field = format!("{section}.{}", entry.key);
            if let Value::Sequence(items) = &entry.value.value {
                let items = items.iter().enumerate();
                places.fields.extend(items.map(|(n, item)| (format!("{field}[{n}]"), place(item.at))));
            }
            places.fields.insert(field, place(entry.focus()));
        }
    }
    places
}

#[cfg(test)]
mod tests;
