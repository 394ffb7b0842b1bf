//! What manifests are made of, whatever is read from them: YAML as a tree that knows where everything stands, the text
//! as findings show it, and the findings.

pub mod diagnostic;
pub mod json;
mod lines;
pub mod words;
pub mod yaml;

pub use diagnostic::{Diagnostic, Severity};
pub use lines::{Text, mentions_secret};
pub use yaml::Position;
