//! Objects of kinds that are not part of the World.

use super::object::KINDS;
use super::read::{Finding, Reader, distance, shortened};
use super::yaml::{Entry, Node, Value};
use super::{MAX_FINDINGS, Parsed, add};
use crate::diagnostic::Severity;

/// What MetalLB writes about itself.
const STATUS_KINDS: [&str; 3] = ["ServiceL2Status", "ServiceBGPStatus", "ConfigurationState"];

/// What to say of such a kind.
struct Note {
    severity: Severity,
    reason: &'static str,
    message: String,
    remedy: String,
}

/// Pass over an object. Each kind is named once.
pub(super) fn skip(parsed: &mut Parsed, reader: &Reader<'_>, root: &Node, version: &str, kind: &str) {
    let what = format!("{} {}", shortened(version), shortened(kind));
    let Some(note) = note(root, version, kind, &what) else { return };
    let at = root.entry("kind").map_or(root.at, Entry::focus);
    let Note { severity, reason, message, remedy } = note;
    let what = format!("{reason} {what}");
    if parsed.skipped.len() >= MAX_FINDINGS && !parsed.skipped.contains_key(&what) {
        parsed.left_out = add(parsed.left_out, (severity, 1));
        return;
    }
    let diagnostic = || reader.diagnostic(Finding { severity, reason, at, path: "kind", message, remedy });
    parsed.skipped.entry(what).or_insert_with(diagnostic);
}

fn note(root: &Node, version: &str, kind: &str, what: &str) -> Option<Note> {
    let in_group = |group: &str| version.split_once('/').is_some_and(|(of, _)| of == group);
    if in_group("metallb.io") && STATUS_KINDS.contains(&kind) {
        return None;
    }
    let former = |what: &str, remedy: &str| Note {
        severity: Severity::Warning,
        reason: "former_kind",
        message: format!("{what} is how MetalLB was configured before version 0.13; it has no effect"),
        remedy: remedy.to_owned(),
    };
    Some(if in_group("metallb.io") && kind == "AddressPool" {
        former("AddressPool", "use an IPAddressPool, with an L2Advertisement or a BGPAdvertisement for it")
    } else if version == "v1" && kind == "ConfigMap" && is_former_configuration(root) {
        former(
            "this ConfigMap",
            "use IPAddressPool, L2Advertisement, BGPPeer and BGPAdvertisement objects for what it holds",
        )
    } else if in_group("metallb.io") || in_group("evenkeel.io") {
        Note {
            severity: Severity::Warning,
            reason: "unsupported_kind",
            message: format!("objects of kind {what} are not supported and have no effect"),
            remedy: match close_to(kind) {
                Some(close) => format!("did you mean `{close}`?"),
                None if in_group("metallb.io") => "remove it, or keep MetalLB for it".to_owned(),
                None => "remove it".to_owned(),
            },
        }
    } else {
        Note {
            severity: Severity::Info,
            reason: "skipped_kind",
            message: format!("objects of kind {what} are of no use here and are skipped"),
            remedy: match close_to(kind) {
                Some(close) => format!("nothing needs to be done, unless `{close}` was meant"),
                None => "nothing needs to be done".to_owned(),
            },
        }
    })
}

/// The kind of the World that is spelt almost like this.
fn close_to(kind: &str) -> Option<&'static str> {
    let kind = kind.to_ascii_lowercase();
    let distance = |known: &&str| distance(&known.to_ascii_lowercase(), &kind);
    let known = KINDS.into_iter().map(|(known, _)| known.as_str());
    known.min_by_key(distance).filter(|known| distance(known) <= (kind.len() / 6).max(1))
}

/// The ConfigMap `config` of MetalLB's namespace, or of any other if what it holds looks like it.
fn is_former_configuration(root: &Node) -> bool {
    let text = |path: &[&str]| {
        let node = path.iter().try_fold(root, |node, key| node.entry(key).map(|entry| &entry.value))?;
        match &node.value {
            Value::Scalar(scalar) => Some(&*scalar.text),
            Value::Sequence(_) | Value::Mapping(_) => None,
        }
    };
    let content = text(&["data", "config"]);
    text(&["metadata", "name"]) == Some("config")
        && (text(&["metadata", "namespace"]) == Some("metallb-system") && content.is_some()
            || content.is_some_and(|content| content.contains("address-pools:")))
}
