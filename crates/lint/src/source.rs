//! Texts as documents, and documents as objects.

use evenkeel_manifest::diagnostic::{Diagnostic, Location, Severity};
use evenkeel_manifest::yaml::{self, Node};
use evenkeel_manifest::{Text, mentions_secret};

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

/// One document of an input.
#[derive(Debug)]
pub(crate) struct Document {
    /// Which input it is of.
    pub(crate) input: usize,
    /// Which part of that input's text, of those between `---`.
    pub(crate) chunk: usize,
    pub(crate) root: Node,
    /// Nothing of it is to be shown.
    pub(crate) secret: bool,
}

/// What could be read.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) documents: Vec<Document>,
    /// By input: what may be shown of it.
    pub(crate) texts: Vec<Text>,
    pub(crate) names: Vec<String>,
    /// Why the rest could not.
    pub(crate) unreadable: Vec<Diagnostic>,
}

impl Source {
    pub(crate) fn read(inputs: &[Input]) -> Self {
        let mut source = Self::default();
        for (n, input) in inputs.iter().enumerate() {
            source.names.push(input.name.clone());
            if input.text.len() > MAX_BYTES {
                let message = format!("the text has {} bytes; at most {MAX_BYTES} are read", input.text.len());
                source.texts.push(Text::default());
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
            for (number, chunk) in yaml::all_chunks(&input.text).into_iter().enumerate() {
                let secret = mentions_secret(chunk.text);
                match chunk.parse() {
                    Ok(Some(root)) => source.documents.push(Document { input: n, chunk: number, root, secret }),
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
}

/// The templates of a chart are no manifests yet.
fn remedy(text: &str, otherwise: &str) -> String {
    if text.contains("{{") {
        return "this looks like a template: render it first, `helm template CHART | evenkeel lint -`".to_owned();
    }
    otherwise.to_owned()
}
