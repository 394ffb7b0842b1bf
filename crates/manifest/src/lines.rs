//! The text of a file, as findings show it.

use std::sync::OnceLock;

use crate::diagnostic::Snippet;
use crate::yaml::{self, Position};

/// The text of a file.
#[derive(Clone, Debug, Default)]
pub struct Text {
    text: Box<str>,
    /// Where each line starts, found when first asked for.
    starts: OnceLock<Vec<usize>>,
    has_passwords: OnceLock<bool>,
}

/// Longest line looked at character by character.
const MAX_LINE: usize = 4096;
/// Most characters shown of a line.
const MAX_SHOWN: usize = 120;
/// How many of them may come before the place meant, in a line that is longer.
const MAX_BEFORE: usize = 60;

impl Text {
    /// The text of a file.
    pub fn of(text: &str) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// What may be kept of it: neither documents that may be Secrets nor passwords.
    pub fn without_secrets(self) -> Self {
        if !self.text.contains(SECRET) && !self.has_passwords() {
            return self;
        }
        let mut kept = String::new();
        for chunk in yaml::all_chunks(&self.text) {
            let hidden = mentions_secret(chunk.text) || has_long_password(chunk.text);
            for line in chunk.text.split_inclusive('\n') {
                let shown = if hidden { None } else { without_secrets(line.trim_end()) };
                kept += &shown.unwrap_or_default();
                kept.push('\n');
            }
        }
        Self::of(&kept)
    }

    fn has_passwords(&self) -> bool {
        *self.has_passwords.get_or_init(|| self.text.contains(PASSWORD))
    }

    /// The line, from 1.
    fn line(&self, line: usize) -> Option<&str> {
        let starts = self
            .starts
            .get_or_init(|| std::iter::once(0).chain(self.text.match_indices('\n').map(|(at, _)| at + 1)).collect());
        let start = *starts.get(line.checked_sub(1)?)?;
        let end = starts.get(line).copied().unwrap_or(self.text.len());
        let line = self.text.get(start..end)?;
        Some(line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line)))
    }

    /// The part of the line around `at`; none where there is no such line, or where it would show a secret.
    pub fn snippet(&self, at: Position) -> Option<Snippet> {
        let line = self.line(at.line)?;
        let before = at.column.checked_sub(1)?;
        let window = if line.len() <= MAX_LINE {
            let shown = without_secrets(line)?;
            window(shown.chars(), shown.chars().count(), before)
        } else if line.is_ascii() && !self.has_passwords() {
            // Characters are bytes here, so the place is found without a look at what comes before it.
            let start = before.saturating_sub(MAX_BEFORE);
            let end = line.len().min(start + 2 * MAX_SHOWN);
            let mut window = window(line.get(start..end)?.chars(), end - start, before - start)?;
            if start > 0 && !window.text.starts_with(CUT) {
                window = Snippet { text: format!("{CUT}{}", window.text), column: window.column + CUT.len(), width: 0 };
            }
            Some(window)
        } else {
            None
        }?;
        let rest = window.text.chars().count().saturating_sub(window.column);
        let width = if at.width == 0 { rest } else { at.width.min(rest) };
        Some(Snippet { width: width.max(1), ..window })
    }
}

const CUT: &str = "...";

/// At most [`MAX_SHOWN`] of `length` characters, those around the one that comes after `before` others.
fn window(chars: impl Iterator<Item = char>, length: usize, before: usize) -> Option<Snippet> {
    // The end of the line is a place as well.
    if before > length {
        return None;
    }
    let start = if length <= MAX_SHOWN { 0 } else { before.saturating_sub(MAX_BEFORE) };
    let mut text: String = if start > 0 { CUT.to_owned() } else { String::new() };
    let column = before - start + text.len();
    text.extend(chars.skip(start).take(MAX_SHOWN));
    if length > start + MAX_SHOWN {
        text += CUT;
    } else {
        text.truncate(text.trim_end().len());
    }
    Some(Snippet { text, column, width: 0 })
}

const PASSWORD: &str = "password";
const SECRET: &str = "Secret";

/// The line as far as it may be seen: not what comes after `password:`, and nothing of a Secret on one line.
fn without_secrets(line: &str) -> Option<String> {
    if mentions_secret(line) {
        return None;
    }
    for (at, key) in line.match_indices(PASSWORD) {
        let value = after_key(line.get(at + key.len()..)?);
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let shown = line.len() - value.len();
            return Some(format!("{}***", line.get(..shown)?));
        }
    }
    Some(line.to_owned())
}

/// Whether an object of kind Secret seems to stand here.
pub fn mentions_secret(text: &str) -> bool {
    const KIND: &str = "kind";
    text.match_indices(SECRET).any(|(at, _)| {
        let (before, after) = (text.get(..at).unwrap_or_default(), text.get(at + SECRET.len()..).unwrap_or_default());
        let key = before.trim_end_matches(['"', '\'', '\\']).trim_end().strip_suffix(':').map(str::trim_end);
        let key = key.map(|key| key.trim_end_matches(['"', '\'', '\\']));
        let after = after.strip_prefix("List").unwrap_or(after);
        key.is_some_and(|key| key.ends_with(KIND)) && !after.starts_with(|c: char| c.is_alphanumeric())
    })
}

/// Whether a password does not end on the line of its key.
fn has_long_password(text: &str) -> bool {
    text.match_indices(PASSWORD).any(|(at, key)| {
        let rest = text.get(at + key.len()..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let value = after_key(rest).map(str::trim_end);
        value.is_some_and(|value| match value.chars().next() {
            None => true,
            Some(quote @ ('"' | '\'')) => !value.get(1..).unwrap_or_default().contains(quote),
            Some(first) => matches!(first, '|' | '>' | '&' | '!' | '*' | '#'),
        })
    })
}

/// What follows the colon, if this is the end of a key.
fn after_key(text: &str) -> Option<&str> {
    text.trim_start_matches(['"', '\'', '\\']).trim_start().strip_prefix(':').map(str::trim_start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snippet(text: &str, column: usize, width: usize) -> Option<(String, String)> {
        let snippet = Text::of(text).snippet(Position { line: 1, column, width })?;
        let marked = snippet.text.chars().skip(snippet.column).take(snippet.width).collect();
        Some((snippet.text, marked))
    }

    fn some(text: &str, marked: &str) -> Option<(String, String)> {
        Some((text.to_owned(), marked.to_owned()))
    }

    #[test]
    fn a_short_line_is_shown_whole() {
        assert_eq!(snippet("  a: b  ", 6, 1), some("  a: b", "b"));
        assert_eq!(snippet("ä: é", 4, 1), some("ä: é", "é"), "columns are characters");
        assert_eq!(snippet("a: b c", 4, 0), some("a: b c", "b c"), "to the end of the line");
        assert_eq!(snippet("a: b", 4, 99), some("a: b", "b"));
        assert_eq!(snippet("a: b", 9, 1), None);
        assert_eq!(Text::of("a").snippet(Position { line: 2, column: 1, width: 1 }), None);
    }

    #[test]
    fn of_a_long_line_the_part_around_the_place_is_shown() {
        for (length, before) in [(200, 100), (5_000, 2_000), (10_000_000, 9_999_000), (5_000, 0)] {
            let line = format!("{}here{}", "x".repeat(before), "y".repeat(length - before));
            let (text, marked) = snippet(&line, before + 1, 4).unwrap();
            assert_eq!(marked, "here");
            assert!(text.len() <= MAX_SHOWN + 6 && text.ends_with("y..."), "{text}");
            assert_eq!(text.starts_with("...x"), before > 0, "{text}");
        }
        assert_eq!(snippet(&"é".repeat(5_000), 3_000, 1), None, "not worth counting");
    }

    #[test]
    fn secrets_are_not_kept() {
        let text = "a: 1\r\npassword: geheim\nb: 2\n---\nkind: Secret\ndata: geheim\n---\nc: geh\n";
        let kept = Text::of(text).without_secrets();
        assert!(!format!("{kept:?}").contains("geheim"), "{kept:?}");
        let line = |line| kept.line(line).unwrap().to_owned();
        assert_eq!([line(1), line(2), line(5), line(8)], ["a: 1", "password: ***", "", "c: geh"], "each in its place");
        for text in [
            "password: |\n  geheim\n",
            "password:\n  geheim\n",
            "password: \"ge\\\n  heim geheim\"\n",
            "kind: SecretList\nitems: [{data: geheim}]\n",
        ] {
            let kept = Text::of(text).without_secrets();
            assert!(!format!("{kept:?}").contains("geheim"), "{kept:?}");
        }
        assert_eq!(Text::of("a: geh\n").without_secrets().line(1), Some("a: geh"));
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(snippet("  password: geheim", 3, 8), some("  password: ***", "password"));
        assert_eq!(snippet("{\"password\" : \"geheim\", a: 1}", 3, 8), some("{\"password\" : ***", "password"));
        assert_eq!(snippet("x: '{\\\"password\\\":\\\"geheim\\\"}'", 1, 1), some("x: '{\\\"password\\\":***", "x"));
        assert_eq!(snippet("{password: geheim, a: 1}", 20, 1), None, "what is not shown cannot be marked");
        assert_eq!(snippet("  passwordSecret: {name: a}", 3, 1), some("  passwordSecret: {name: a}", "p"));
        assert_eq!(snippet("{kind: Secret, data: {a: geheim}}", 1, 1), None);
        assert_eq!(snippet("{\"kind\": \"Secret\", \"a\": \"geheim\"}", 1, 1), None);
        assert_eq!(snippet("kind: SecretStore", 7, 0), some("kind: SecretStore", "SecretStore"));
        assert_eq!(snippet(&format!("{{password: geheim, {}}}", "a, ".repeat(5_000)), 30, 1), None);
    }
}
