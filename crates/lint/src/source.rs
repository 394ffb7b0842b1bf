//! Texts, or what an API gave, as documents.

use std::collections::BTreeSet;

use evenkeel_manifest::diagnostic::{Diagnostic, Location, Severity};
use evenkeel_manifest::yaml::{self, Node};
use evenkeel_manifest::{Text, json, mentions_secret};
use serde_json::Value as Json;

/// Most bytes of a text that is read.
pub const MAX_BYTES: usize = 64 << 20;

/// A text to look at, and what it is called.
#[derive(Clone, Debug)]
pub struct Input {
    /// The file's path, or another name that findings show.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// What an API server has, instead of texts.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// The objects, each with its `apiVersion` and `kind`.
    pub objects: Vec<Json>,
    /// Kinds that could not be read: of these, absence says nothing.
    pub unread: BTreeSet<String>,
}

/// One document of an input.
#[derive(Debug)]
pub(crate) struct Document {
    /// Which input it is of; none is, where it came from an API.
    pub(crate) input: usize,
    /// Which part of that input's text, of those between `---`.
    pub(crate) chunk: usize,
    pub(crate) root: Node,
    /// Nothing of it is to be shown.
    pub(crate) secret: bool,
    /// `spec.replicas` is somebody's wish, not what an autoscaler made of it.
    pub(crate) replicas_wished: bool,
}

/// What could be read.
#[derive(Debug, Default)]
pub(crate) struct Source<'t> {
    pub(crate) documents: Vec<Document>,
    /// By input: what may be shown of it.
    pub(crate) texts: Vec<Text>,
    pub(crate) names: Vec<String>,
    /// By input: its parts as they are.
    pub(crate) chunks: Vec<Vec<&'t str>>,
    /// Why the rest could not.
    pub(crate) unreadable: Vec<Diagnostic>,
    /// Kinds whose absence says nothing.
    pub(crate) unread: BTreeSet<String>,
    /// This is all there is: what no Service here reaches, none reaches.
    pub(crate) complete: bool,
}

impl<'t> Source<'t> {
    pub(crate) fn read(inputs: &'t [Input]) -> Self {
        let mut source = Self::default();
        for (n, input) in inputs.iter().enumerate() {
            source.names.push(input.name.clone());
            if input.text.len() > MAX_BYTES {
                let message = format!("the text has {} bytes; at most {MAX_BYTES} are read", input.text.len());
                source.texts.push(Text::default());
                source.chunks.push(Vec::new());
                source.unreadable.push(Diagnostic::about_file(
                    input.name.as_ref(),
                    Severity::Error,
                    "too_large",
                    message,
                    "split it into smaller files",
                ));
                continue;
            }
            let text = Text::of(&input.text).without_secrets();
            let chunks = yaml::all_chunks(&input.text);
            source.chunks.push(chunks.iter().map(|chunk| chunk.text).collect());
            for (number, chunk) in chunks.into_iter().enumerate() {
                let secret = mentions_secret(chunk.text);
                match chunk.parse() {
                    Ok(Some(root)) => {
                        let document = Document { input: n, chunk: number, root, secret, replicas_wished: true };
                        source.documents.push(document);
                    }
                    Ok(None) => {}
                    Err(error) => source.unreadable.push(Diagnostic {
                        location: Location { file: (&input.name).into(), line: error.at.line, column: error.at.column },
                        snippet: if secret { None } else { text.snippet(error.at) },
                        ..Diagnostic::about_file(
                            input.name.as_ref(),
                            Severity::Error,
                            error.reason,
                            error.message,
                            remedy(chunk.text, error.remedy),
                        )
                    }),
                }
            }
            source.texts.push(text);
        }
        source
    }

    /// The objects of a cluster; none of them is in a file, so none has a line.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let mut source = Self { unread: cluster.unread.clone(), ..Self::default() };
        source.complete = !source.unread.contains("Service");
        source.names.push(String::new());
        source.texts.push(Text::default());
        for object in &cluster.objects {
            let Some(root) = json::node(object) else {
                let kind = object.get("kind").and_then(Json::as_str).unwrap_or_default().to_owned();
                let name = object.pointer("/metadata/name").and_then(Json::as_str).unwrap_or_default().to_owned();
                let message = format!("nested deeper than {} levels", json::MAX_DEPTH);
                let file = std::path::Path::new("");
                let found = Diagnostic::about_file(file, Severity::Error, "too_deep", message, "flatten the object");
                source.unreadable.push(Diagnostic { kind, name, ..found });
                continue;
            };
            let replicas_wished = is_wished(object);
            source.documents.push(Document { input: 0, chunk: 0, root, secret: true, replicas_wished });
        }
        source
    }
}

/// Whether whoever applies this object gives `spec.replicas`: an API server shows the number in any case.
fn is_wished(object: &Json) -> bool {
    const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let annotations = object.pointer("/metadata/annotations").and_then(|all| all.get(LAST_APPLIED));
    let applied = annotations.and_then(Json::as_str).and_then(|text| serde_json::from_str::<Json>(text).ok());
    let by_annotation = applied.is_some_and(|applied| applied.pointer("/spec/replicas").is_some());
    let managers = object.pointer("/metadata/managedFields").and_then(Json::as_array);
    let by_manager = managers.into_iter().flatten().any(|manager| {
        let applies = manager.get("operation").and_then(Json::as_str) == Some("Apply");
        applies && manager.pointer("/fieldsV1/f:spec/f:replicas").is_some()
    });
    by_annotation || by_manager
}

/// The templates of a chart are no manifests yet.
fn remedy(text: &str, otherwise: &str) -> String {
    if text.contains("{{") {
        return "this looks like a template: render it first, `helm template CHART | evenkeel lint -`".to_owned();
    }
    otherwise.to_owned()
}
