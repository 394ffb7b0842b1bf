//! Whether the configuration as a whole is in force: MetalLB's ConfigurationState.

use evenkeel_plan::world::Kind;
use evenkeel_plan::{Plan, Severity};
use evenkeel_sources::Update;
use serde_json::{Value, json};

/// Most characters of a summary.
const MAX_SUMMARY: usize = 2000;

/// The state of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigurationState {
    /// `Valid`, `Invalid` or, while the API cannot be read, `Unknown`.
    pub result: &'static str,
    /// What is wrong, a line each.
    pub errors: String,
}

/// What there is to say about the configuration.
pub fn configuration(update: &Update, plan: &Plan) -> ConfigurationState {
    let is_configuration =
        |kind: &str| Kind::ALL.into_iter().any(|known| known.is_configuration() && known.as_str() == kind);
    let read =
        update.diagnostics.iter().filter(|found| found.severity == Severity::Error && is_configuration(&found.kind));
    let mut errors: Vec<String> =
        read.map(|found| format!("{} {}: {} [{}]", found.kind, found.name, found.message, found.reason)).collect();
    let planned = plan.diagnostics().filter(|found| found.severity == Severity::Error && found.kind.is_configuration());
    errors.extend(planned.map(|found| format!("{} {}: {} [{}]", found.kind, found.name, found.message, found.reason)));
    let mut text = errors.join("\n");
    if let Some((end, _)) = text.char_indices().nth(MAX_SUMMARY) {
        text.truncate(end);
        text += "...";
    }
    let result = match (errors.is_empty(), update.readable) {
        (false, _) => "Invalid",
        (true, true) => "Valid",
        (true, false) => "Unknown",
    };
    ConfigurationState { result, errors: text }
}

impl ConfigurationState {
    /// As a JSON merge patch of the status subresource.
    pub fn patch(&self) -> Value {
        json!({"status": {"result": self.result, "errorSummary": self.errors}})
    }
}
