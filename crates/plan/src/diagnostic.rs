//! What is wrong, or worth knowing, about objects of the World taken together.

use std::fmt;

use serde::Serialize;

use crate::world::Kind;

/// How much a diagnostic matters: only an [`Severity::Error`] makes input invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The input contradicts itself or cannot be read; part of it is not carried out.
    Error,
    /// The input is carried out, though perhaps not as its author expects.
    Warning,
    /// For the record.
    Info,
}

impl Severity {
    /// The lower-case name used in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// A finding about one object of the World. The source that read the object knows its file and line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How much it matters.
    pub severity: Severity,
    /// The named reason, in snake_case.
    pub reason: &'static str,
    /// The kind of the object.
    pub kind: Kind,
    /// The object, as `namespace/name` (or `name` where the kind has no namespace).
    pub name: String,
    /// The field concerned, such as `spec.addresses`; empty when the whole object is.
    pub field: String,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// On one line, for logs; a source that knows the object's file and line says more.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}] {} {}", self.severity.as_str(), self.reason, self.kind, self.name)?;
        if !self.field.is_empty() {
            write!(f, ", {}", self.field)?;
        }
        write!(f, ": {}; {}", self.message, self.remedy)
    }
}
