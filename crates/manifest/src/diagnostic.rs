//! Findings about manifests, each with the place it was found at and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

pub use evenkeel_plan::Severity;

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The file, as the command line (or the directory walk that started there) names it.
    pub file: PathBuf,
    /// The line, from 1; 0 means the file as a whole.
    pub line: usize,
    /// The column in characters, from 1; 0 means the line as a whole.
    pub column: usize,
}

impl Location {
    /// The file as a whole.
    pub fn whole(file: &Path) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0 }
    }
}

/// The line of a finding, or the part of it around the place.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Snippet {
    /// The text.
    pub text: String,
    /// How many characters of it come before what is meant.
    pub column: usize,
    /// How many characters are meant, at least one.
    pub width: usize,
}

/// A finding about a manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// Where.
    pub location: Location,
    /// How much it matters.
    pub severity: Severity,
    /// The named reason, in snake_case.
    pub reason: &'static str,
    /// The kind of the object; empty when not known.
    pub kind: String,
    /// `namespace/name` of the object, or its name where the kind has no namespace; empty when not known.
    pub name: String,
    /// The field, such as `spec.addresses[0]`; empty when the whole object is meant.
    pub field: String,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// The line at [`Diagnostic::location`], if it was at hand.
    pub snippet: Option<Snippet>,
}

impl Diagnostic {
    /// A finding about a file as a whole.
    pub fn about_file(
        file: &Path,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            location: Location::whole(file),
            severity,
            reason,
            kind: String::new(),
            name: String::new(),
            field: String::new(),
            message: message.into(),
            remedy: remedy.into(),
            snippet: None,
        }
    }

    /// The field, what is wrong with it and what to do about it, on one line, without the characters a terminal would act on.
    pub fn sentence(&self) -> String {
        printable(&format!("{}: {}; {}", self.field, self.message, self.remedy))
    }

    /// Whether it makes the input invalid.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// As a compiler shows it: the place, the line with what is meant underlined, the object, the field, the remedy.
    pub fn render(&self, style: Style) -> impl fmt::Display {
        Rendered { diagnostic: self, style }
    }
}

/// Without colours; see [`Diagnostic::render`].
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.render(Style::PLAIN).fmt(f)
    }
}

/// How many findings there are, as `2 errors, 1 warning`; nothing when neither.
pub fn summary(diagnostics: &[Diagnostic]) -> Option<String> {
    let count = |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let shown = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        several => Some(format!("{several} {what}s")),
    };
    let parts = [shown(count(Severity::Error), "error"), shown(count(Severity::Warning), "warning")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// How findings are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// With the escape sequences of a terminal.
    pub coloured: bool,
    /// After how many columns sentences go on in the next line; without, they never do. Lines of manifests, and places,
    /// are left whole in any case.
    pub width: Option<usize>,
}

impl Style {
    /// Text alone, each sentence on one line.
    pub const PLAIN: Self = Self { coloured: false, width: None };

    /// Text that starts in column `indent`, from 0, and goes on there in the next line.
    pub fn wrapped(self, text: &str, indent: usize) -> String {
        let Some(width) = self.width else { return text.to_owned() };
        let width = width.saturating_sub(indent).max(MIN_WIDTH);
        let options = textwrap::Options::new(width)
            .break_words(false)
            .word_separator(textwrap::WordSeparator::AsciiSpace)
            .word_splitter(textwrap::WordSplitter::NoHyphenation)
            .wrap_algorithm(textwrap::WrapAlgorithm::FirstFit);
        textwrap::wrap(text, options).join(&format!("\n{:indent$}", ""))
    }

    /// Begin of something as important as `severity`.
    fn of(self, severity: Severity) -> &'static str {
        match (self.coloured, severity) {
            (false, _) => "",
            (true, Severity::Error) => "\x1b[1;31m",
            (true, Severity::Warning) => "\x1b[1;33m",
            (true, Severity::Info) => "\x1b[1;36m",
        }
    }

    fn frame(self) -> &'static str {
        if self.coloured { "\x1b[1;34m" } else { "" }
    }

    fn bold(self) -> &'static str {
        if self.coloured { "\x1b[1m" } else { "" }
    }

    fn end(self) -> &'static str {
        if self.coloured { "\x1b[0m" } else { "" }
    }
}

/// Fewest columns that sentences get, however narrow the terminal is.
const MIN_WIDTH: usize = 20;

struct Rendered<'d> {
    diagnostic: &'d Diagnostic,
    style: Style,
}

impl fmt::Display for Rendered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic { location, severity, reason, kind, name, field, message, remedy, snippet } = self.diagnostic;
        let (mark, frame, bold, end) =
            (self.style.of(*severity), self.style.frame(), self.style.bold(), self.style.end());
        let head = format!("{}[{reason}]", severity.as_str());
        let message = self.style.wrapped(&printable(message), head.len() + 2);
        write!(f, "{mark}{head}{end}{bold}: {message}{end}")?;
        let Location { file, line, column } = location;
        let number = line.to_string();
        // The column of the frame: behind the longest line number, which is the only one.
        let margin = " ".repeat(if snippet.is_some() { number.len() } else { 1 });
        if !file.as_os_str().is_empty() {
            write!(f, "\n{margin}{frame}-->{end} {}", printable(&file.display().to_string()))?;
            if *line > 0 {
                write!(f, ":{line}")?;
            }
            if *line > 0 && *column > 0 {
                write!(f, ":{column}")?;
            }
        }
        if let Some(snippet) = snippet {
            let (text, before, width) = snippet.laid_out();
            write!(f, "\n{margin} {frame}|{end}")?;
            write!(f, "\n{frame}{number} |{end} {text}")?;
            write!(f, "\n{margin} {frame}|{end} {:before$}{mark}{:^<width$}{end}", "", "")?;
        }
        let object = [kind.as_str(), name.as_str()].join(" ");
        for (what, text) in [("object", object.trim()), ("field", field), ("help", remedy)] {
            if !text.is_empty() {
                let text = self.style.wrapped(&printable(text), margin.len() + " = : ".len() + what.len());
                write!(f, "\n{margin} {frame}={end} {bold}{what}{end}: {text}")?;
            }
        }
        Ok(())
    }
}

impl Snippet {
    /// The text as it is printed, and how many cells come before, and belong to, what is meant.
    fn laid_out(&self) -> (String, usize, usize) {
        let mut text = String::new();
        let (mut before, mut width) = (0, 0);
        for (n, c) in self.text.chars().enumerate() {
            let cells = match c {
                '\t' => {
                    text += TAB;
                    TAB.len()
                }
                c => {
                    text.push(printable_char(c));
                    1
                }
            };
            if n < self.column {
                before += cells;
            } else if n < self.column + self.width {
                width += cells;
            }
        }
        (text, before, width.max(1))
    }
}

const TAB: &str = "    ";

/// Text from a manifest without the characters a terminal would act on.
pub fn printable(text: &str) -> String {
    text.chars().map(printable_char).collect()
}

/// Neither control characters nor those that hide or turn around what is beside them.
fn printable_char(c: char) -> char {
    let invisible = matches!(c,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    if c.is_control() || invisible { char::REPLACEMENT_CHARACTER } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnostic(snippet: Option<Snippet>) -> Diagnostic {
        Diagnostic {
            location: Location { file: "a.yaml".into(), line: 12, column: 8 },
            kind: "Service".to_owned(),
            name: "default/web".to_owned(),
            field: "spec.x".to_owned(),
            snippet,
            ..Diagnostic::about_file(Path::new(""), Severity::Error, "invalid_value", "it is \u{1b}[31m bad", "mend it")
        }
    }

    #[test]
    fn it_looks_like_a_compilers() {
        let snippet = Snippet { text: "\tx: \u{202e}bad".to_owned(), column: 4, width: 4 };
        let expected = "\
error[invalid_value]: it is \u{fffd}[31m bad
  --> a.yaml:12:8
   |
12 |     x: \u{fffd}bad
   |        ^^^^
   = object: Service default/web
   = field: spec.x
   = help: mend it";
        assert_eq!(diagnostic(Some(snippet)).to_string(), expected);
        let expected = "\
error[invalid_value]: it is \u{fffd}[31m bad
 --> a.yaml:12:8
  = object: Service default/web
  = field: spec.x
  = help: mend it";
        assert_eq!(diagnostic(None).to_string(), expected);
    }

    #[test]
    fn colours_change_nothing_else() {
        let snippet = Snippet { text: "x: bad".to_owned(), column: 3, width: 3 };
        let diagnostic = diagnostic(Some(snippet));
        let coloured = diagnostic.render(Style { coloured: true, width: None }).to_string();
        assert!(coloured.starts_with("\u{1b}[1;31merror[invalid_value]\u{1b}[0m"), "{coloured}");
        let mut plain = String::new();
        let mut rest = coloured.as_str();
        while let Some((before, after)) = rest.split_once("\u{1b}[") {
            plain += before;
            rest = after.split_once('m').unwrap().1;
        }
        assert_eq!(plain + rest, diagnostic.to_string());
    }

    #[test]
    fn sentences_go_on_below_themselves_and_lines_of_manifests_stay_whole() {
        let snippet =
            Snippet { text: "x: a rather long line of a manifest that nobody wraps".to_owned(), column: 3, width: 1 };
        let mut diagnostic = diagnostic(Some(snippet));
        diagnostic.message = "preStop 5 s < 10 s until the balancer notices: 日本語 of refusals".to_owned();
        diagnostic.remedy = "write a-very-long-word-that-does-not-fit-anywhere there".to_owned();
        let expected = "\
error[invalid_value]: preStop 5 s < 10 s
                      until the balancer
                      notices: 日本語 of
                      refusals
  --> a.yaml:12:8
   |
12 | x: a rather long line of a manifest that nobody wraps
   |    ^
   = object: Service default/web
   = field: spec.x
   = help: write
           a-very-long-word-that-does-not-fit-anywhere
           there";
        assert_eq!(diagnostic.render(Style { coloured: false, width: Some(40) }).to_string(), expected);
        let narrow = diagnostic.render(Style { coloured: false, width: Some(1) }).to_string();
        assert!(narrow.contains("= object: Service default/web\n"), "{narrow}");
    }

    #[test]
    fn findings_are_counted() {
        let of = |severity| Diagnostic::about_file(Path::new("x"), severity, "r", "m", "h");
        let (error, warning, info) = (of(Severity::Error), of(Severity::Warning), of(Severity::Info));
        let summary = |list: &[&Diagnostic]| summary(&list.iter().copied().cloned().collect::<Vec<_>>());
        assert_eq!(summary(&[&error, &warning, &error]).as_deref(), Some("2 errors, 1 warning"));
        assert_eq!(summary(&[&warning, &warning]).as_deref(), Some("2 warnings"));
        assert_eq!(summary(&[&info]), None);
    }
}
