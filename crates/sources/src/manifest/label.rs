//! Labels, by the rules of the Kubernetes API.

use std::borrow::Borrow;

use super::read::{Field, Findings as _, Reader, shortened};

const KEY_REMEDY: &str =
    "a key is a name of at most 63 letters, digits, `-`, `_` and `.`, after an optional domain and `/`";
const VALUE_REMEDY: &str =
    "a value has at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends";

/// The most characters of a label's name or value.
const MAX_LENGTH: usize = 63;
/// The most characters of a DNS subdomain: a name of an object, the prefix of a label's key.
const MAX_DOMAIN: usize = 253;

/// The key of a label, given as a value.
pub(super) fn key<'n>(reader: &mut Reader<'_>, field: &Field<'n>) -> Option<&'n str> {
    let key = field.string(reader)?;
    check_key(reader, key, || field);
    Some(key)
}

/// The value of a label.
pub(super) fn value<'n>(reader: &mut Reader<'_>, field: &Field<'n>) -> Option<&'n str> {
    let value = field.string(reader)?;
    if !value.is_empty() && !is_name(value) {
        reader.error("invalid_label", field, format!("`{}` is no label value", shortened(value)), VALUE_REMEDY);
    }
    Some(value)
}

/// The key of a label, which stands at `field`.
pub(super) fn check_key<'n, F: Borrow<Field<'n>>>(reader: &mut Reader<'_>, key: &str, field: impl FnOnce() -> F) {
    let valid = match key.split_once('/') {
        Some((domain, name)) => is_domain(domain) && is_name(name),
        None => is_name(key),
    };
    if !valid {
        let message = format!("`{}` is no label key", shortened(key));
        reader.error("invalid_label", field().borrow(), message, KEY_REMEDY);
    }
}

fn is_name(text: &str) -> bool {
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let middle = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.len() <= MAX_LENGTH && end(text.chars().next()) && end(text.chars().last()) && text.chars().all(middle)
}

/// Whether this is a DNS subdomain (RFC 1123), as the names of most objects are.
pub(super) fn is_domain(text: &str) -> bool {
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let middle = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let part = |part: &str| end(part.chars().next()) && end(part.chars().last()) && part.chars().all(middle);
    text.len() <= MAX_DOMAIN && text.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kubernetes() {
        for good in ["a", "A-b_c.9", &"x".repeat(63)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "é", &"x".repeat(64)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn domains_follow_rfc_1123() {
        for good in ["a", "example.com", "1-2.x"] {
            assert!(is_domain(good), "{good}");
        }
        for bad in ["", ".", "a..b", "Example.com", "a.-b", "a_b", &"x".repeat(254)] {
            assert!(!is_domain(bad), "{bad}");
        }
    }
}
