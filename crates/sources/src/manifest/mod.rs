//! Manifests: text to validated objects.
//!
//! Kubernetes' own kinds are read leniently, fields this program has no use for are ignored; `metallb.io` kinds are
//! read strictly, because a misspelt field there would change what is announced. In both a value of the wrong type in
//! a field that is read is an error, and an object with an error is not used.

mod annotations;
mod cluster;
mod duration;
mod endpoints;
mod health;
mod kinds;
mod label;
mod limits;
mod metallb;
mod object;
mod other;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use evenkeel_plan::world::{Kind, Object, ObjectKey};

use self::object::labels;
pub(crate) use self::object::version;
use self::read::{Finding, Findings as _, Reader};
use evenkeel_manifest::diagnostic::{Diagnostic, Severity};
pub(crate) use evenkeel_manifest::words::{MAX_MESSAGE, cut};
use evenkeel_manifest::yaml::{self, Entry, Node, Value};
pub use evenkeel_manifest::{Position, Text};
use evenkeel_manifest::{json, mentions_secret};

/// Largest file read, in bytes.
pub const MAX_BYTES: usize = 16 << 20;
/// Most findings kept of a file, so that a long file that is wrong throughout is not answered by a longer one.
pub const MAX_FINDINGS: usize = 1000;

/// An object's place in its file, and those of the fields findings about several objects can refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// By field path, in its order; the empty path is the object itself.
    fields: Vec<(Arc<str>, Position)>,
}

impl Places {
    /// The place of a field, if it is known.
    pub fn of(&self, field: &str) -> Option<Position> {
        let at = self.fields.binary_search_by(|(name, _)| (**name).cmp(field)).ok()?;
        self.fields.get(at).map(|(_, place)| *place)
    }

    /// The place of the object itself.
    pub fn object(&self) -> Option<Position> {
        self.of("")
    }
}

/// One object of a file, readable or not.
#[derive(Clone, Debug)]
pub struct Document {
    /// Which object it is.
    pub key: ObjectKey,
    /// The object, unless it has an error.
    pub object: Option<Object>,
    /// Where it stands.
    pub places: Arc<Places>,
}

/// A file's content.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// The objects that could be identified, in order.
    pub documents: Vec<Document>,
    /// Something in the file could not even be identified: what else it is meant to define is not known.
    pub incomplete: bool,
    /// What was found.
    pub diagnostics: Vec<Diagnostic>,
    /// Kinds that are not part of the World, each with the first place it stands at.
    pub skipped: BTreeMap<String, Diagnostic>,
    /// The text, without secrets.
    pub text: Text,
    /// The names of fields, which are the same in most objects.
    names: BTreeSet<Arc<str>>,
    /// How many findings are too many to be kept, and the worst of them.
    left_out: Option<(Severity, usize)>,
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
    let shown = Text::of(text).without_secrets();
    for chunk in yaml::chunks(text) {
        match chunk.parse() {
            Ok(Some(root)) => parsed.take(file, &shown, &root),
            Ok(None) => {}
            Err(error) => {
                let mut reader = Reader::new(file, &shown);
                reader.secret = mentions_secret(chunk.text);
                reader.not_yaml(error);
                parsed.incomplete = true;
                parsed.take_findings(reader);
            }
        }
    }
    // What is read in two places is found wrong twice.
    parsed.diagnostics.sort();
    parsed.diagnostics.dedup();
    if let Some((severity, count)) = parsed.left_out {
        parsed.diagnostics.push(more_findings(file, severity, count));
    }
    parsed.names = BTreeSet::new();
    parsed.text = shown;
    parsed
}

/// Read an object of this kind as the Kubernetes API gives it, by the rules manifests are read by. It has no place in a
/// file: findings name object and field.
pub fn of_api(kind: Kind, object: &serde_json::Value) -> Parsed {
    let nowhere = Path::new("");
    let mut parsed = Parsed::default();
    let text = Text::default();
    let mut reader = Reader::new(nowhere, &text);
    match json::node(object) {
        Some(root) => parsed.take_api_object(reader, kind, &root),
        None => {
            let message = format!("nested deeper than {} levels", json::MAX_DEPTH);
            let remedy = "remove what is nested so deeply".to_owned();
            reader.kind = kind.to_string();
            let (severity, reason, at) = (Severity::Error, "too_deep", json::NOWHERE);
            reader.report(Finding { severity, reason, at, path: "", message, remedy });
            parsed.take_findings(reader);
        }
    }
    for document in &mut parsed.documents {
        document.places = Arc::default();
    }
    parsed.diagnostics.sort();
    parsed.diagnostics.dedup();
    if let Some((severity, count)) = parsed.left_out {
        parsed.diagnostics.push(more_findings(nowhere, severity, count));
    }
    parsed.names = BTreeSet::new();
    parsed
}

/// Findings that are only counted: the worst severity, and how many.
fn add(some: Option<(Severity, usize)>, more: (Severity, usize)) -> Option<(Severity, usize)> {
    let (severity, count) = some.unwrap_or((Severity::Info, 0));
    Some((severity.min(more.0), count + more.1))
}

/// What is said of findings beyond [`MAX_FINDINGS`].
pub(crate) fn more_findings(file: &Path, severity: Severity, count: usize) -> Diagnostic {
    let message = format!("{count} more findings about this file are left out");
    Diagnostic::about_file(file, severity, "more_findings", message, "correct those shown first")
}

impl<'t> Reader<'t> {
    fn new(file: &'t Path, text: &'t Text) -> Self {
        Self {
            file,
            text,
            kind: String::new(),
            name: String::new(),
            diagnostics: Vec::new(),
            left_out: None,
            failed: false,
            is_lenient: false,
            unread: None,
            secret: false,
        }
    }
}

impl Parsed {
    /// Take over what a reader found, as far as there is room for it.
    fn take_findings(&mut self, mut reader: Reader<'_>) {
        for diagnostic in reader.diagnostics.drain(..) {
            if self.diagnostics.len() < MAX_FINDINGS {
                self.diagnostics.push(diagnostic);
            } else {
                self.left_out = add(self.left_out, (diagnostic.severity, 1));
            }
        }
        if let Some(more) = reader.left_out {
            self.left_out = add(self.left_out, more);
        }
    }

    /// A file of which nothing is known but that it cannot be read.
    pub fn unreadable(diagnostic: Diagnostic) -> Self {
        Self { incomplete: true, diagnostics: vec![diagnostic], ..Self::default() }
    }
}

/// The places findings about several objects refer to: the fields of `metadata` and `spec`, and the items of lists
/// there. Endpoints are many and never referred to by field.
fn places(names: &mut BTreeSet<Arc<str>>, kind: Kind, root: &Node) -> Places {
    let mut shared = |name: &str| {
        names.get(name).cloned().unwrap_or_else(|| {
            let name: Arc<str> = name.into();
            names.insert(Arc::clone(&name));
            name
        })
    };
    // `kind:` and `name:` say more about an object than the line it happens to start on.
    let metadata = root.entry("metadata");
    let start = metadata.and_then(|metadata| metadata.value.entry("name")).map_or(root.at, Entry::focus);
    let mut fields = vec![(shared(""), start)];
    let by_field = !matches!(kind, Kind::EndpointSlice | Kind::Endpoints | Kind::Secret);
    for (section, entry) in [("metadata", metadata), ("spec", root.entry("spec"))] {
        let Some(Value::Mapping(entries)) = entry.map(|entry| &entry.value.value).filter(|_| by_field) else {
            continue;
        };
        for entry in entries {
            let field = format!("{section}.{}", entry.key);
            if let Value::Sequence(items) = &entry.value.value {
                let items = items.iter().enumerate();
                fields.extend(items.map(|(n, item)| (shared(&format!("{field}[{n}]")), item.at)));
            }
            fields.push((shared(&field), entry.focus()));
        }
    }
    fields.sort();
    fields.shrink_to_fit();
    Places { fields }
}

#[cfg(test)]
mod tests;
