//! The report as JUnit XML: a test case for the run's validity, each objective and the command.

use std::fmt::{self, Write};

use super::{
    document::{ObjectiveResult, Report},
    markup::Escaped,
};

/// What came of a test case.
enum Outcome {
    Passed,
    Failed { kind: &'static str, message: String },
    Error { kind: &'static str, message: String },
    Skipped,
}

impl Report {
    /// JUnit XML, as continuous integration reads it. An invalid run is an error, and skips the objectives.
    #[must_use]
    pub fn to_junit(&self) -> String {
        let mut xml = String::new();
        // Writing to a string does not fail.
        _ = self.write_junit(&mut xml);
        xml
    }

    fn write_junit(&self, xml: &mut String) -> fmt::Result {
        let cases = self.cases();
        let count = |of: fn(&Outcome) -> bool| cases.iter().filter(|(_, _, outcome)| of(outcome)).count();
        let (tests, failures, errors, skipped) = (
            cases.len(),
            count(|outcome| matches!(outcome, Outcome::Failed { .. })),
            count(|outcome| matches!(outcome, Outcome::Error { .. })),
            count(|outcome| matches!(outcome, Outcome::Skipped)),
        );
        let seconds = (self.duration_ms + self.wait_ms) / 1e3;
        let totals = format!(r#"tests="{tests}" failures="{failures}" errors="{errors}" time="{seconds:.3}""#);
        let timestamp = self
            .started_at
            .map(|at| format!(r#" timestamp="{}""#, at.strftime("%Y-%m-%dT%H:%M:%SZ")))
            .unwrap_or_default();
        writeln!(xml, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
        writeln!(xml, r#"<testsuites name="evenkeel probe" {totals}>"#)?;
        writeln!(xml, r#"  <testsuite name="evenkeel probe" {totals} skipped="{skipped}"{timestamp}>"#)?;
        writeln!(xml, "    <properties>")?;
        for (name, value) in [("requests", self.requests.to_string()), ("failed", self.failed.to_string())]
            .into_iter()
            .chain(self.lanes.iter().map(|lane| ("lane", lane.lane.clone())))
        {
            writeln!(xml, r#"      <property name="{name}" value="{}"/>"#, Escaped(value))?;
        }
        writeln!(xml, "    </properties>")?;
        for (class, name, outcome) in &cases {
            write_case(xml, class, name, seconds, outcome)?;
        }
        writeln!(xml, "    <system-out>{}</system-out>", Escaped(self))?;
        writeln!(xml, "  </testsuite>\n</testsuites>")
    }

    /// Class, name and outcome of each test case.
    fn cases(&self) -> Vec<(&str, String, Outcome)> {
        let mut cases = vec![("evenkeel.probe.run", "the run is valid".to_owned(), self.validity())];
        for result in &self.objectives {
            let outcome = if self.invalid { Outcome::Skipped } else { self.outcome(result) };
            cases.push(("evenkeel.probe.objective", result.objective.clone(), outcome));
        }
        if let Some(command) = &self.command {
            let outcome = if command.end.succeeded() {
                Outcome::Passed
            } else {
                Outcome::Failed { kind: "command", message: format!("the command {}", command.end) }
            };
            cases.push(("evenkeel.probe.command", command.command.clone(), outcome));
        }
        cases
    }

    fn validity(&self) -> Outcome {
        match self.invalid_reasons.first() {
            None => Outcome::Passed,
            Some(first) => {
                let reasons: Vec<_> = self.invalid_reasons.iter().map(|&reason| self.invalidity(reason)).collect();
                Outcome::Error { kind: first.name(), message: reasons.join("; ") }
            }
        }
    }

    fn outcome(&self, result: &ObjectiveResult) -> Outcome {
        if result.held {
            return Outcome::Passed;
        }
        Outcome::Failed { kind: result.metric.name(), message: self.breach(result) }
    }
}

fn write_case(xml: &mut String, class: &str, name: &str, seconds: f64, outcome: &Outcome) -> fmt::Result {
    write!(xml, r#"    <testcase classname="{class}" name="{}" time="{seconds:.3}""#, Escaped(name))?;
    match outcome {
        Outcome::Passed => writeln!(xml, "/>"),
        Outcome::Failed { kind, message } => {
            writeln!(xml, r#"><failure type="{kind}" message="{}"/></testcase>"#, Escaped(message))
        }
        Outcome::Error { kind, message } => {
            writeln!(xml, r#"><error type="{kind}" message="{}"/></testcase>"#, Escaped(message))
        }
        Outcome::Skipped => writeln!(xml, r#"><skipped message="the run is invalid"/></testcase>"#),
    }
}
