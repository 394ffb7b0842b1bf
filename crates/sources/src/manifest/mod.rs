//! Manifests: text to validated objects.
//!
//! Kubernetes' own kinds are read leniently, fields this program has no use for are ignored; `metallb.io` kinds are
//! read strictly, because a misspelt field there would change what is announced. In both a value of the wrong type in
//! a field that is read is an error, and an object with an error is not used.

mod kinds;
mod metallb;
mod read;
mod yaml;

use std::collections::BTreeMap;
use std::path::Path;

use evenkeel_plan::selector::Labels;
use evenkeel_plan::world::{Kind, Object, ObjectKey, ObjectName};

use self::read::{Field, Lines, Reader};
use self::yaml::{Node, Position, Value};
use crate::diagnostic::{Diagnostic, Severity};

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
    /// The text of the line.
    pub snippet: Option<String>,
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
            Ok(Some(root)) => parsed.take(file, &lines, &root, ""),
            Ok(None) => {}
            Err(error) => {
                let mut reader = Reader::new(file, &lines);
                reader.report(Severity::Error, error.reason, error.at, "", error.message, error.remedy.to_owned());
                parsed.incomplete = true;
                parsed.diagnostics.append(&mut reader.diagnostics);
            }
        }
    }
    parsed
}

impl<'t> Reader<'t> {
    fn new(file: &'t Path, lines: &'t Lines<'t>) -> Self {
        Self { file, lines, kind: String::new(), name: String::new(), diagnostics: Vec::new(), failed: false }
    }
}

/// The API groups objects of the World come from.
const CORE: &str = "v1";
const DISCOVERY: &str = "discovery.k8s.io/v1";
const METALLB: &str = "metallb.io/v1beta1";

/// The kinds of the World with the one version of each that is read.
const KINDS: [(Kind, &str); 6] = [
    (Kind::Service, CORE),
    (Kind::EndpointSlice, DISCOVERY),
    (Kind::IpAddressPool, METALLB),
    (Kind::L2Advertisement, METALLB),
    (Kind::Node, CORE),
    (Kind::Namespace, CORE),
];

/// `metadata.namespace` where a manifest gives none.
const DEFAULT_NAMESPACE: &str = "default";

impl Parsed {
    /// A file of which nothing is known but that it cannot be read.
    pub fn unreadable(diagnostic: Diagnostic) -> Self {
        Self { incomplete: true, diagnostics: vec![diagnostic], ..Self::default() }
    }

    /// Read one object, or the items of a list.
    fn take(&mut self, file: &Path, lines: &Lines<'_>, root: &Node, path: &str) {
        let mut reader = Reader::new(file, lines);
        self.take_object(&mut reader, root, path);
        self.diagnostics.append(&mut reader.diagnostics);
    }

    fn take_object(&mut self, reader: &mut Reader<'_>, root: &Node, path: &str) {
        let field = Field { path: path.to_owned(), ..Field::root(root) };
        // Until the object is identified, what it defines is not known.
        let known_before = self.incomplete;
        self.incomplete = true;
        let Some(fields) = field.fields(reader) else { return };
        let Some(kind) = fields.require(reader, "kind").and_then(|kind| kind.text(reader)) else { return };
        reader.kind = read::shortened(kind);
        let Some(version_field) = fields.require(reader, "apiVersion") else { return };
        let Some(version) = version_field.text(reader) else { return };

        if version == CORE && kind == "List" {
            let Some(items) = fields.require(reader, "items") else { return };
            if reader.failed {
                return;
            }
            self.incomplete = known_before;
            let items = items.list(reader);
            self.incomplete |= reader.failed;
            for (n, item) in items.iter().enumerate() {
                self.take(reader.file, reader.lines, item.node, &format!("items[{n}]"));
            }
            return;
        }
        let group = |version: &str| version.split_once('/').map_or("", |(group, _)| group).to_owned();
        let Some((kind, expected)) =
            KINDS.into_iter().find(|(known, expected)| known.as_str() == kind && group(expected) == group(version))
        else {
            self.incomplete = known_before;
            self.skip(reader, root.at, version, kind);
            return;
        };
        if version != expected {
            let remedy = format!("use apiVersion: {expected}");
            reader.error("unsupported_version", &version_field, format!("{kind} {version} is not known"), remedy);
        }
        let Some(metadata) = fields.require(reader, "metadata").and_then(|field| field.fields(reader)) else { return };
        let name = metadata.require(reader, "name").and_then(|field| name(&field, reader));
        let namespace = match metadata.get("namespace") {
            Some(field) if kind.is_namespaced() => name_or_empty(&field, reader),
            _ => Some(String::new()),
        };
        let (Some(name), Some(mut namespace)) = (name, namespace) else { return };
        // Configuration without a namespace belongs to the one all of it lives in, whichever that is.
        if kind.is_namespaced() && !kind.is_configuration() && namespace.is_empty() {
            DEFAULT_NAMESPACE.clone_into(&mut namespace);
        }
        let key = ObjectKey { kind, name: ObjectName::new(namespace, name) };
        self.incomplete = known_before;
        reader.name = key.name.to_string();
        let name = key.name.clone();
        let object = match kind {
            Kind::Service => kinds::service(reader, name, &fields, &metadata).map(|o| Object::Service(o.into())),
            Kind::EndpointSlice => {
                kinds::endpoint_slice(reader, name, &fields, &metadata).map(|o| Object::EndpointSlice(o.into()))
            }
            Kind::IpAddressPool => {
                metallb::pool(reader, name, &fields, &metadata).map(|o| Object::IpAddressPool(o.into()))
            }
            Kind::L2Advertisement => {
                metallb::l2_advertisement(reader, name, &fields).map(|o| Object::L2Advertisement(o.into()))
            }
            Kind::Node => kinds::node(reader, name, &fields, &metadata).map(|o| Object::Node(o.into())),
            Kind::Namespace => Some(Object::Namespace(labels(reader, &metadata).into())),
            Kind::Endpoints
            | Kind::BgpPeer
            | Kind::BgpAdvertisement
            | Kind::BfdProfile
            | Kind::Community
            | Kind::Secret => None,
        };
        let object = object.filter(|_| !reader.failed);
        let places = places(reader.lines, kind, root);
        self.documents.push(Document { key, object, places });
    }

    fn skip(&mut self, reader: &mut Reader<'_>, at: Position, version: &str, kind: &str) {
        let ours = ["metallb.io/", "evenkeel.io/"].iter().any(|group| version.starts_with(group));
        let what = format!("{} {}", read::shortened(version), read::shortened(kind));
        let (severity, reason, message, remedy) = if ours {
            let message = format!("objects of kind {what} are not supported and have no effect");
            (Severity::Warning, "unsupported_kind", message, "remove it, or keep MetalLB for it")
        } else {
            let message = format!("objects of kind {what} are of no use here and are skipped");
            (Severity::Info, "skipped_kind", message, "nothing needs to be done")
        };
        reader.report(severity, reason, at, "kind", message, remedy.to_owned());
        if let Some(diagnostic) = reader.diagnostics.pop() {
            self.skipped.entry(what).or_insert(diagnostic);
        }
    }
}

/// A name as the API server would accept it.
fn name(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<String> {
    let text = field.string(reader)?;
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let middle = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'));
    if !(end(text.chars().next()) && end(text.chars().last()) && middle && text.len() <= 253) {
        let remedy = "use at most 253 lower-case letters, digits, `-` and `.`, with a letter or digit at both ends";
        reader.error("invalid_name", field, format!("`{}` is not a name", read::shortened(text)), remedy);
        return None;
    }
    Some(text.to_owned())
}

fn name_or_empty(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<String> {
    if field.string(reader)?.is_empty() { Some(String::new()) } else { name(field, reader) }
}

fn labels(reader: &mut Reader<'_>, metadata: &read::Fields<'_>) -> Labels {
    metadata.get("labels").map(|field| field.labels(reader)).unwrap_or_default()
}

/// The places findings about several objects refer to: the fields of `metadata` and `spec`, and the items of lists
/// there. Endpoint slices are many and never referred to by field.
fn places(lines: &Lines<'_>, kind: Kind, root: &Node) -> Places {
    let place = |at: Position| Place { line: at.line, column: at.column, snippet: lines.snippet(at.line) };
    let mut places = Places::default();
    // `kind:` and `name:` say more about an object than the line it happens to start on.
    let metadata = root.entry("metadata");
    let start = metadata.and_then(|metadata| metadata.value.entry("name")).map_or(root.at, |name| name.at);
    places.fields.insert(String::new(), place(start));
    if kind == Kind::EndpointSlice {
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
            places.fields.insert(field, place(entry.at));
        }
    }
    places
}

#[cfg(test)]
mod tests;
