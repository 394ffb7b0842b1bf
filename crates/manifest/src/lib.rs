//! What manifests are made of, whatever is read from them: YAML as a tree that knows where everything stands, the text
//! as findings show it, values with their paths, and the findings.

pub mod diagnostic;
pub mod field;
pub mod json;
mod lines;
pub mod words;
pub mod yaml;

pub use diagnostic::{Diagnostic, Severity};
pub use lines::{Text, mentions_secret};
pub use yaml::Position;
