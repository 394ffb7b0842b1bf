//! Configuration of other load balancers as Evenkeel's manifests: every key is either translated, or named in a warning that
//! says what to do instead.
//!
//! ```text
//! text ──> read (values with their places) ──> xlb, udp_fanout ──> Setup ──> write ──> manifests
//! ```
//!
//! No file, socket or clock: text comes in, text goes out.

mod read;
mod setup;
mod udp_fanout;
mod write;
mod xlb;

use std::net::IpAddr;
use std::path::Path;

use evenkeel_manifest::diagnostic::{Diagnostic, Severity};
use evenkeel_manifest::{Text, yaml};

use read::{Field, Finding, Findings as _, Reader};
use setup::Setup;

/// Most bytes that are read.
pub const MAX_BYTES: usize = 1 << 20;

/// Whose configuration it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// XLB's `xlb.yaml`, or the values of its chart.
    Xlb,
    /// udp-fanout's `config.yaml`.
    UdpFanout,
}

/// What the configuration does not say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Addresses of their own for the services, in place of the node's.
    pub vips: Vec<IpAddr>,
    /// Somebody else announces these: they are carried here, and not answered for.
    pub announced_elsewhere: bool,
}

/// What became of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Imported {
    /// The manifests; none, if something in the configuration is wrong.
    pub manifests: Option<String>,
    /// What is wrong, and what could not be translated.
    pub diagnostics: Vec<Diagnostic>,
}

/// Translate a configuration. `file` is only used to name places.
pub fn import(format: Format, file: &Path, content: &[u8], options: &Options) -> Imported {
    let whole =
        |reason, message: String, remedy: &str| Diagnostic::about_file(file, Severity::Error, reason, message, remedy);
    let refused = |diagnostic| Imported { manifests: None, diagnostics: vec![diagnostic] };
    if content.len() > MAX_BYTES {
        let message = format!("the file has {} bytes; at most {MAX_BYTES} are read", content.len());
        return refused(whole("too_large", message, "give the balancer's configuration"));
    }
    let Ok(text) = std::str::from_utf8(content) else {
        return refused(whole("not_utf8", "the file is not UTF-8 text".to_owned(), "save it as UTF-8"));
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let shown = Text::of(text).without_secrets();
    let mut reader = Reader::new(file, &shown);
    let chunks = yaml::chunks(text);
    let mut roots = Vec::new();
    for chunk in &chunks {
        match chunk.parse() {
            Ok(root) => roots.extend(root),
            Err(error) => reader.not_yaml(error),
        }
    }
    let setup = match roots.as_slice() {
        _ if reader.failed() => None,
        [] => {
            reader.push(whole("missing_field", "the file is empty".to_owned(), "give the balancer's configuration"));
            None
        }
        [root] => translate(format, &mut reader, &Field::root(root), options),
        [_, second, ..] => {
            let message = "a configuration is one document".to_owned();
            let remedy = "give each configuration in a file of its own".to_owned();
            let (severity, reason) = (Severity::Error, "unexpected_document");
            reader.report(Finding { severity, reason, at: second.at, path: "", message, remedy });
            None
        }
    };
    let setup = setup.filter(|_| !reader.failed());
    Imported { manifests: setup.map(|setup| write::manifests(&setup)), diagnostics: reader.diagnostics() }
}

fn translate(format: Format, reader: &mut Reader<'_>, root: &Field<'_>, options: &Options) -> Option<Setup> {
    let fields = root.fields(reader)?;
    if let (Some(kind), true) = (fields.find("kind"), fields.find("apiVersion").is_some()) {
        let remedy = match format {
            Format::Xlb => "give xlb.yaml, or the values of its chart",
            Format::UdpFanout => "take its data out: kubectl get configmap NAME -o jsonpath='{.data.config\\.yaml}'",
        };
        reader.error("unexpected_kind", &kind, "this is an object of Kubernetes, not a configuration", remedy);
        return None;
    }
    match format {
        Format::Xlb => xlb::read(reader, fields, options),
        Format::UdpFanout => udp_fanout::read(reader, fields, options),
    }
}
