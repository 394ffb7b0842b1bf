//! Words of manifests in messages: cut to a bearable length, and compared with those that may have been meant.

/// As much of a text as belongs into a message, on one line.
pub fn shortened(text: &str) -> String {
    cut(text, 120).replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t")
}

/// Most characters of a message, whatever it quotes.
pub const MAX_MESSAGE: usize = 600;

/// The first `most` characters of a text.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The known word of which this may be a misspelling.
pub fn close_to<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let close = known.iter().min_by_key(|known| distance(known, word))?;
    (distance(close, word) <= 1 + word.len() / 4).then_some(close)
}

/// Levenshtein's edit distance, case ignored; far apart for words too long to be misspellings.
pub fn distance(a: &str, b: &str) -> usize {
    if a.len().max(b.len()) > 64 {
        return usize::MAX;
    }
    let (a, b) = (a.to_lowercase(), b.to_lowercase());
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (to, cell) in b.chars().zip(row.iter_mut().skip(1)) {
            let changed = diagonal + usize::from(from != to);
            diagonal = *cell;
            left = changed.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_stays_on_its_line() {
        assert_eq!(shortened("a\r\n\tb"), r"a\r\n\tb");
    }

    #[test]
    fn distances_are_edits() {
        assert_eq!(distance("addresses", "adresses"), 1);
        assert_eq!(distance("addresses", "addresses"), 0);
        assert_eq!(distance("autoAssign", "autoasign"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
