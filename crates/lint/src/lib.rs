//! Rules about manifests: everything in them that loses requests in rollouts, drains and failures.
//!
//! ```text
//! texts ──> source (documents) ──> picture (who reaches whom) ──> rules ──> Report ──> text, JSON, SARIF, JUnit, GitHub
//!                                                                   └─> fix (edits) ──> texts
//! ```
//!
//! No file, socket or clock: texts, or the objects of an API, come in; texts go out.

mod config;
mod fix;
pub mod output;
mod picture;
pub mod rules;
mod source;
mod view;

use std::collections::BTreeMap;

pub use config::{Balancer, Config, ConfigError};
pub use evenkeel_manifest::Diagnostic;
use evenkeel_manifest::diagnostic::{Location, Severity};
use evenkeel_manifest::yaml::all_chunks;
pub use rules::Rule;
pub use source::{Cluster, Input, MAX_BYTES};

use fix::Items;
use picture::Picture;
use rules::{Ask, Raw};
use source::Source;

/// One finding.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The rule that is broken.
    pub rule: &'static Rule,
    /// Where, what and what to do; its reason is the rule's number.
    pub diagnostic: Diagnostic,
    /// Whether `--fix` does something about it.
    pub fixable: bool,
    /// Why it does not count, if the object says so.
    pub suppressed: Option<String>,
}

/// What was found in some texts.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By place.
    pub findings: Vec<Finding>,
    /// Those that are suppressed.
    pub suppressed: Vec<Finding>,
    /// What could not be read. Without a warning among these nothing is known to be missing.
    pub unreadable: Vec<Diagnostic>,
    /// What else there is to say about the input.
    pub notes: Vec<String>,
    /// Objects no rule looked at, by the reason.
    pub skipped: BTreeMap<String, usize>,
    /// How many objects there were.
    pub objects: usize,
}

impl Report {
    /// Whether something is as bad as `severity`, or worse.
    pub fn reaches(&self, severity: Severity) -> bool {
        self.findings.iter().any(|finding| finding.diagnostic.severity <= severity)
    }

    /// The exit code: 2 if something could not be read that rules are about, 1 for findings from `fail_on` on, else 0.
    pub fn exit_code(&self, fail_on: Severity) -> u8 {
        if self.unreadable.iter().any(Diagnostic::is_error) { 2 } else { u8::from(self.reaches(fail_on)) }
    }
}

/// Look at texts, all of which belong to one cluster.
pub fn lint(inputs: &[Input], config: &Config) -> Report {
    report(Source::read(inputs), config)
}

/// Look at what an API server has. Findings name object and field, for there is no file.
pub fn lint_cluster(cluster: &Cluster, config: &Config) -> Report {
    let mut report = report(Source::of(cluster), config);
    // Nothing of a cluster can be mended here.
    for finding in report.findings.iter_mut().chain(&mut report.suppressed) {
        finding.fixable = false;
    }
    report
}

/// Longest document in which fixes are tried before they are promised.
const MAX_TRIED: usize = 64 << 10;

fn report(source: Source<'_>, config: &Config) -> Report {
    let picture = Picture::of(&source);
    let mut raws = rules::check(&Ask { picture: &picture, config });
    let mut lists: BTreeMap<usize, Option<Items>> = BTreeMap::new();
    for raw in raws.iter_mut().filter(|raw| !raw.edits.is_empty()) {
        let document = source.documents.get(raw.document);
        let chunk = document.and_then(|document| source.chunks.get(document.input)?.get(document.chunk));
        let Some(chunk) = chunk else { continue };
        let list = lists.entry(raw.document).or_insert_with(|| Items::of(chunk));
        let item = list.as_ref().and_then(|items| items.narrowed(chunk, &raw.edits));
        let (text, edits) = item.as_ref().map_or((*chunk, &raw.edits), |(text, edits)| (text, edits));
        // Where it costs nothing to know, a fix is promised only if it can be made.
        if text.len() <= MAX_TRIED && fix::apply(text, edits).is_none() {
            raw.edits.clear();
        }
    }
    let mut report = Report { skipped: picture.skipped.clone(), objects: picture.all.len(), ..Report::default() };
    for raw in raws {
        let suppressed = raw.suppressed.clone();
        let Some(finding) = locate(&source, config, raw) else { continue };
        if suppressed.is_some() { &mut report.suppressed } else { &mut report.findings }.push(finding);
    }
    let place = |finding: &Finding| {
        let Diagnostic { location, kind, name, .. } = &finding.diagnostic;
        // Where nothing is in a file, what is said of an object stands together.
        let object = (location.line == 0).then(|| (name.clone(), kind.clone()));
        (location.clone(), object, finding.rule.id)
    };
    report.findings.sort_by_cached_key(place);
    report.suppressed.sort_by_cached_key(place);
    report.unreadable = source.unreadable;
    report
}

fn locate(source: &Source<'_>, config: &Config, raw: Raw) -> Option<Finding> {
    let document = source.documents.get(raw.document)?;
    let at = raw.path.position(&document.root);
    let mut remedy = raw.remedy;
    if config.balancer == Balancer::Evenkeel && !raw.rule.evenkeel.is_empty() {
        remedy = format!("{remedy}. {}", raw.rule.evenkeel);
    }
    let diagnostic = Diagnostic {
        location: Location { file: source.names.get(document.input)?.into(), line: at.line, column: at.column },
        severity: raw.severity,
        reason: raw.rule.id,
        kind: raw.kind,
        name: raw.name,
        field: raw.path.to_string(),
        message: raw.message,
        remedy,
        snippet: if document.secret { None } else { source.texts.get(document.input)?.snippet(at) },
    };
    Some(Finding { rule: raw.rule, diagnostic, fixable: !raw.edits.is_empty(), suppressed: raw.suppressed })
}

/// Rounds of fixing: a fix may bring another rule into play, such as a longer preStop the grace period.
const MAX_ROUNDS: usize = 12;

/// The texts with every fix in them that can be made.
pub fn fix(inputs: &[Input], config: &Config) -> Vec<Input> {
    let mut inputs = inputs.to_vec();
    // Lines end as they did.
    let crlf: Vec<bool> = inputs.iter().map(|input| ends_in_crlf(&input.text)).collect();
    for (input, _) in inputs.iter_mut().zip(&crlf).filter(|(_, crlf)| **crlf) {
        input.text = input.text.replace("\r\n", "\n");
    }
    for _ in 0..MAX_ROUNDS {
        // A misspelt field before others: where it is known, others need not add it.
        if !fix_once(&mut inputs, config, is_rename) && !fix_once(&mut inputs, config, |_| true) {
            break;
        }
    }
    for (input, _) in inputs.iter_mut().zip(&crlf).filter(|(_, crlf)| **crlf) {
        input.text = input.text.replace('\n', "\r\n");
    }
    inputs
}

/// Whether every line does.
fn ends_in_crlf(text: &str) -> bool {
    let lines = text.matches('\n').count();
    lines > 0 && lines == text.matches("\r\n").count()
}

fn is_rename(edits: &[fix::Edit]) -> bool {
    matches!(edits, [fix::Edit::Rename(..)])
}

fn fix_once(inputs: &mut [Input], config: &Config, wanted: fn(&[fix::Edit]) -> bool) -> bool {
    // By input and part of its text.
    let mut edits: BTreeMap<(usize, usize), Vec<Vec<fix::Edit>>> = BTreeMap::new();
    {
        let source = Source::read(inputs);
        let picture = Picture::of(&source);
        for raw in rules::check(&Ask { picture: &picture, config }) {
            if raw.edits.is_empty() || raw.suppressed.is_some() || !wanted(&raw.edits) {
                continue;
            }
            if let Some(document) = source.documents.get(raw.document) {
                edits.entry((document.input, document.chunk)).or_default().push(raw.edits);
            }
        }
    }
    let mut changed = false;
    for (n, input) in inputs.iter_mut().enumerate() {
        if edits.range((n, 0)..(n + 1, 0)).next().is_none() {
            continue;
        }
        let mut text = String::new();
        for (number, chunk) in all_chunks(&input.text).into_iter().enumerate() {
            let findings: Vec<&[fix::Edit]> =
                edits.get(&(n, number)).into_iter().flatten().map(Vec::as_slice).collect();
            let part = if findings.is_empty() { chunk.text.to_owned() } else { fix::mend(chunk.text, findings) };
            changed |= part != chunk.text;
            text += &part;
        }
        input.text = text;
    }
    changed
}

/// What changed, as a unified diff that `git apply` and `patch -p1` take.
pub fn patch(before: &[Input], after: &[Input]) -> String {
    let mut patch = String::new();
    for (old, new) in before.iter().zip(after).filter(|(old, new)| old.text != new.text) {
        let name = old.name.trim_start_matches("./").trim_start_matches('/');
        let diff = similar::TextDiff::from_lines(old.text.as_str(), new.text.as_str());
        patch += &diff.unified_diff().context_radius(3).header(&format!("a/{name}"), &format!("b/{name}")).to_string();
    }
    patch
}
