//! Changes to a document that leave everything else in it as it was, comments and all.
//!
//! Each change is made in the text where the tree says its place is, and is only kept if the text then reads as the tree
//! does with that change, and as nothing else. What the text's form does not allow is left to its author.

mod items;

use evenkeel_manifest::Position;
use evenkeel_manifest::yaml::{Entry, Node, Scalar, Value, all_chunks};
use serde_json::{Map, Value as Plain, json};

use crate::view::{Path, Step};

pub(crate) use items::Items;

/// One change to a document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Edit {
    /// Give a field a value, with the mappings on the way to it.
    Set(Path, Plain),
    /// Take a field away.
    Remove(Path),
    /// Call a field by another name.
    Rename(Path, String),
    /// Another document after this one.
    Append(Plain),
}

impl Edit {
    /// Where it is made, if that is within a document.
    fn path(&self) -> Option<&Path> {
        match self {
            Self::Set(path, _) | Self::Remove(path) | Self::Rename(path, _) => Some(path),
            Self::Append(_) => None,
        }
    }

    /// The same in another place.
    fn at(&self, path: Path) -> Option<Self> {
        match self {
            Self::Set(_, value) => Some(Self::Set(path, value.clone())),
            Self::Remove(_) => Some(Self::Remove(path)),
            Self::Rename(_, name) => Some(Self::Rename(path, name.clone())),
            Self::Append(_) => None,
        }
    }
}

/// A tree as plain data.
pub(crate) fn plain(node: &Node) -> Plain {
    match &node.value {
        Value::Scalar(scalar) => {
            if scalar.is_null() {
                Plain::Null
            } else if let Some(number) = scalar.as_integer() {
                json!(number)
            } else if let (true, Some(flag)) = (scalar.as_string().is_none(), scalar.as_bool()) {
                json!(flag)
            } else {
                json!(scalar.text)
            }
        }
        Value::Sequence(items) => Plain::Array(items.iter().map(plain).collect()),
        Value::Mapping(entries) => {
            Plain::Object(entries.iter().map(|entry| (entry.key.to_string(), plain(&entry.value))).collect())
        }
    }
}

/// The text of one document with the edits of each finding that can be made in it.
pub(crate) fn mend(text: &str, findings: Vec<&[Edit]>) -> String {
    // Other documents come last, so that it stays one until then.
    let (others, findings): (Vec<&[Edit]>, _) =
        findings.into_iter().partition(|edits| matches!(edits, [Edit::Append(_)]));
    let (mut text, left) = items::mend(text, findings);
    for edits in left {
        if let Some(fixed) = apply(&text, edits) {
            text = fixed;
        }
    }
    let others: Vec<Edit> = others.into_iter().flatten().cloned().collect();
    apply(&text, &others).unwrap_or(text)
}

/// The text of one document with the edits of one finding; nothing if they cannot be made in it.
pub(crate) fn apply(text: &str, edits: &[Edit]) -> Option<String> {
    let others = edits.iter().position(|edit| matches!(edit, Edit::Append(_))).unwrap_or(edits.len());
    let (edits, others) = edits.split_at(others);
    let mut text = text.to_owned();
    for edit in edits {
        text = apply_one(&text, edit)?;
    }
    if others.is_empty() { Some(text) } else { append(text, others) }
}

/// The text with other documents behind it.
fn append(mut text: String, others: &[Edit]) -> Option<String> {
    // What is JSON stays JSON, which has no second document.
    if text.get(offset(&text, parse(&text)?.at)?..)?.starts_with('{') {
        return None;
    }
    for other in others {
        let Edit::Append(document) = other else { return None };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text += "---\n";
        // In the order people write them.
        for key in ["apiVersion", "kind", "metadata", "spec"] {
            text += &block(&json!({ key: document.get(key)? }), 0)?;
        }
    }
    Some(text)
}

fn parse(text: &str) -> Option<Node> {
    match all_chunks(text).as_slice() {
        [chunk] => chunk.parse().ok().flatten(),
        _ => None,
    }
}

fn apply_one(text: &str, edit: &Edit) -> Option<String> {
    let root = parse(text)?;
    let mut wanted = plain(&root);
    change(&mut wanted, edit)?;
    let changed = match edit {
        Edit::Set(path, value) => set(text, &root, path, value)?,
        Edit::Remove(path) => remove(text, &root, path)?,
        Edit::Rename(path, name) => rename(text, &root, path, name)?,
        Edit::Append(_) => return None,
    };
    (plain(&parse(&changed)?) == wanted).then_some(changed)
}

/// The change in plain data.
fn change(root: &mut Plain, edit: &Edit) -> Option<()> {
    let (path, set) = match edit {
        Edit::Set(path, value) => (path, Some(value)),
        Edit::Remove(path) | Edit::Rename(path, _) => (path, None),
        Edit::Append(_) => return None,
    };
    let (last, way) = path.0.split_last()?;
    let mut at = root;
    for step in way {
        if at.is_null() && set.is_some() {
            *at = Plain::Object(Map::new());
        }
        at = match step {
            Step::Key(key) if set.is_some() => at.as_object_mut()?.entry(key.clone()).or_insert(Plain::Null),
            Step::Key(key) => at.as_object_mut()?.get_mut(key)?,
            Step::Item(n) => at.as_array_mut()?.get_mut(*n)?,
        };
    }
    if at.is_null() && set.is_some() {
        *at = Plain::Object(Map::new());
    }
    let Step::Key(key) = last else {
        if let (Step::Item(n), Some(value)) = (last, set) {
            *at.as_array_mut()?.get_mut(*n)? = value.clone();
            return Some(());
        }
        return None;
    };
    let map = at.as_object_mut()?;
    match (edit, set) {
        (_, Some(value)) => _ = map.insert(key.clone(), value.clone()),
        (Edit::Rename(_, name), None) => {
            let value = map.remove(key)?;
            map.insert(name.clone(), value);
        }
        _ => _ = map.remove(key)?,
    }
    Some(())
}

/// The byte a place is at.
fn offset(text: &str, at: Position) -> Option<usize> {
    let mut start = 0;
    for (n, line) in text.split_inclusive('\n').enumerate() {
        if n + 1 == at.line {
            let within = line.char_indices().nth(at.column.checked_sub(1)?).map_or(line.len(), |(byte, _)| byte);
            return Some(start + within);
        }
        start += line.len();
    }
    None
}

/// The bytes of something on one line.
fn range(text: &str, at: Position) -> Option<std::ops::Range<usize>> {
    if at.width == 0 {
        return None;
    }
    let start = offset(text, at)?;
    let end = offset(text, Position { column: at.column + at.width, ..at })?;
    Some(start..end)
}

fn replaced(text: &str, range: std::ops::Range<usize>, by: &str) -> Option<String> {
    Some(format!("{}{by}{}", text.get(..range.start)?, text.get(range.end..)?))
}

fn set(text: &str, root: &Node, path: &Path, value: &Plain) -> Option<String> {
    let mut node = root;
    let mut entry: Option<&Entry> = None;
    for (n, step) in path.0.iter().enumerate() {
        let below = match (step, &node.value) {
            (Step::Key(key), Value::Mapping(_)) => {
                entry = node.entry(key).or(entry);
                node.entry(key).map(|entry| &entry.value)
            }
            (Step::Item(n), Value::Sequence(items)) => items.get(*n),
            _ => None,
        };
        match below {
            Some(below) if !below.is_null() => node = below,
            Some(_) => {
                // `key:` with nothing after it.
                let entry = entry?;
                return fill(text, entry, &nested(path.0.get(n + 1..)?, value)?);
            }
            None => {
                let Step::Key(key) = step else { return None };
                return insert(text, node, key, &nested(path.0.get(n + 1..)?, value)?);
            }
        }
    }
    // It is there: only what stands on one line is written anew.
    match &node.value {
        Value::Scalar(_) => replaced(text, range(text, node.at)?, &scalar(value)?),
        Value::Sequence(_) | Value::Mapping(_) => {
            if let Some(range) = offset(text, node.at).and_then(|start| flow(text, start)) {
                return replaced(text, range, &serde_json::to_string(value).ok()?);
            }
            let without = remove(text, root, path)?;
            set(&without, &parse(&without)?, path, value)
        }
    }
}

/// The value below the keys that are still to come.
fn nested(steps: &[Step], value: &Plain) -> Option<Plain> {
    let mut value = value.clone();
    for step in steps.iter().rev() {
        let Step::Key(key) = step else { return None };
        value = json!({ key: value });
    }
    Some(value)
}

/// A value for a key that has none.
fn fill(text: &str, entry: &Entry, value: &Plain) -> Option<String> {
    let key = range(text, entry.at)?;
    let colon = key.end + text.get(key.end..)?.find(':')?;
    if !text.get(key.end..colon)?.trim().is_empty() {
        return None;
    }
    let end = entry.value.at.width;
    let after = colon + 1;
    if end > 0 {
        return replaced(text, range(text, entry.value.at)?, &serde_json::to_string(value).ok()?);
    }
    let shown = match value {
        Plain::Object(_) | Plain::Array(_) => format!("\n{}", block(value, entry.at.column + 1)?.trim_end()),
        value => format!(" {}", scalar(value)?),
    };
    replaced(text, after..after, &shown)
}

/// A field for a mapping that has it not.
fn insert(text: &str, mapping: &Node, key: &str, value: &Plain) -> Option<String> {
    let Value::Mapping(entries) = &mapping.value else { return None };
    let start = offset(text, mapping.at)?;
    let flow = text.get(start..)?.starts_with('{');
    let pair = json!({ key: value });
    if flow {
        let inner = serde_json::to_string(&pair).ok()?;
        let inner = inner.strip_prefix('{')?.strip_suffix('}')?.to_owned();
        let separator = if entries.is_empty() { "" } else { ", " };
        return replaced(text, start + 1..start + 1, &format!("{inner}{separator}"));
    }
    // A merged entry stands elsewhere.
    let first = entries.iter().find(|entry| entry.at >= mapping.at)?;
    let indent = first.at.column.checked_sub(1)?;
    let lines = block(&pair, indent)?;
    let on_one_line = matches!(first.value.value, Value::Scalar(_))
        && !first.value.is_null()
        && first.value.at.line == first.at.line
        && range(text, first.value.at).is_some_and(|range| !text[range].starts_with(['|', '>', '*', '&']));
    if on_one_line {
        // After the first field, which is most often a name.
        let from = offset(text, first.at)?;
        let end = text.get(from..)?.find('\n').map_or(text.len(), |n| from + n + 1);
        let lines = if text.get(..end)?.ends_with('\n') { lines } else { format!("\n{lines}") };
        return replaced(text, end..end, &lines);
    }
    let at = offset(text, first.at)?;
    replaced(text, at..at, &format!("{}{}", lines.get(indent..)?, " ".repeat(indent)))
}

fn remove(text: &str, root: &Node, path: &Path) -> Option<String> {
    let (last, way) = path.0.split_last()?;
    let parent = find(root, way)?;
    let Step::Key(key) = last else { return None };
    let entry = parent.entry(key)?;
    let first = entry.at.line;
    let end = last_line(&entry.value)?.max(first);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let line = lines.get(first.checked_sub(1)?)?;
    let before: String = line.chars().take(entry.at.column.checked_sub(1)?).collect();
    if !before.trim().is_empty() {
        return remove_in_flow(text, entry);
    }
    let kept = lines.iter().enumerate().filter(|(n, _)| n + 1 < first || n + 1 > end);
    Some(kept.map(|(_, line)| *line).collect())
}

/// The bytes of a collection in flow style that starts here. What is made of a wrong guess does not read as it should,
/// and is not kept.
fn flow(text: &str, start: usize) -> Option<std::ops::Range<usize>> {
    let (mut depth, mut quote) = (0_usize, None);
    let mut escaped = false;
    for (at, c) in text.get(start..)?.char_indices() {
        match (quote, c) {
            (Some('"'), _) if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(start..start + at + 1);
                }
            }
            (None, _) if depth == 0 => return None,
            (None, _) => {}
        }
    }
    None
}

/// An entry between braces, with the comma that goes with it.
fn remove_in_flow(text: &str, entry: &Entry) -> Option<String> {
    let start = offset(text, entry.at)?;
    if !text.get(..start)?.trim_end().ends_with(['{', ',']) {
        return None;
    }
    let value = offset(text, entry.value.at)?;
    let end = match &entry.value.value {
        Value::Scalar(_) => range(text, entry.value.at)?.end,
        Value::Sequence(_) | Value::Mapping(_) => flow(text, value)?.end,
    };
    let rest = text.get(end..)?;
    let (start, end) = match rest.trim_start().strip_prefix(',') {
        Some(after) => (start, text.len() - after.trim_start_matches(' ').len()),
        // The last one leaves the comma before it behind.
        None => (text.get(..start)?.trim_end().strip_suffix(',').map_or(start, str::len), end),
    };
    replaced(text, start..end, "")
}

fn find<'n>(root: &'n Node, steps: &[Step]) -> Option<&'n Node> {
    steps.iter().try_fold(root, |node, step| match (step, &node.value) {
        (Step::Key(key), _) => node.entry(key).map(|entry| &entry.value),
        (Step::Item(n), Value::Sequence(items)) => items.get(*n),
        _ => None,
    })
}

/// The last line of a value, if it can be told.
fn last_line(node: &Node) -> Option<usize> {
    match &node.value {
        Value::Scalar(_) if node.is_null() => Some(node.at.line),
        Value::Scalar(_) => (node.at.width > 0).then_some(node.at.line),
        Value::Sequence(items) => items.iter().map(last_line).try_fold(node.at.line, |max, line| Some(max.max(line?))),
        Value::Mapping(entries) => {
            let lines = entries.iter().map(|entry| Some(last_line(&entry.value)?.max(entry.at.line)));
            lines.into_iter().try_fold(node.at.line, |max, line| Some(max.max(line?)))
        }
    }
}

fn rename(text: &str, root: &Node, path: &Path, name: &str) -> Option<String> {
    let (last, way) = path.0.split_last()?;
    let Step::Key(key) = last else { return None };
    let range = range(text, find(root, way)?.entry(key)?.at)?;
    let quoted = text.get(range.clone())?.starts_with(['"', '\'']);
    replaced(text, range, &if quoted { format!("\"{name}\"") } else { name.to_owned() })
}

/// A scalar as one word, quoted where it would be taken for something else.
fn scalar(value: &Plain) -> Option<String> {
    match value {
        Plain::String(text) => {
            let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
            let simple = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
            let as_it_is = Scalar { text: text.as_str().into(), plain: true }.as_string().is_some();
            if starts && simple && as_it_is { Some(text.clone()) } else { serde_json::to_string(text).ok() }
        }
        Plain::Null | Plain::Bool(_) | Plain::Number(_) => Some(value.to_string()),
        Plain::Array(_) | Plain::Object(_) => None,
    }
}

/// Data in block style, each line with `indent` spaces before it.
fn block(value: &Plain, indent: usize) -> Option<String> {
    let space = " ".repeat(indent);
    let mut text = String::new();
    match value {
        Plain::Object(map) => {
            for (key, value) in map {
                let key = scalar(&json!(key))?;
                match value {
                    Plain::Object(map) if !map.is_empty() => {
                        text += &format!("{space}{key}:\n{}", block(value, indent + 2)?);
                    }
                    Plain::Array(list) if !list.is_empty() => {
                        text += &format!("{space}{key}:\n{}", block(value, indent)?);
                    }
                    Plain::Object(_) | Plain::Array(_) => text += &format!("{space}{key}: {value}\n"),
                    value => text += &format!("{space}{key}: {}\n", scalar(value)?),
                }
            }
        }
        Plain::Array(list) => {
            for item in list {
                match item {
                    Plain::Object(map) if !map.is_empty() => {
                        let inner = block(item, indent + 2)?;
                        text += &format!("{space}- {}", inner.get(indent + 2..)?);
                    }
                    Plain::Object(_) | Plain::Array(_) => text += &format!("{space}- {item}\n"),
                    item => text += &format!("{space}- {}\n", scalar(item)?),
                }
            }
        }
        value => text += &format!("{space}{}\n", scalar(value)?),
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str, path: &str, value: Plain) -> Option<String> {
        apply(text, &[Edit::Set(Path::default().to(path), value)])
    }

    #[test]
    fn a_field_is_set_where_it_stands() {
        assert_eq!(set("a: 1 # why\nb: 2\n", "a", json!(3)).unwrap(), "a: 3 # why\nb: 2\n");
        assert_eq!(set("{\"a\": {\"b\": 1}}", "a.b", json!("x y")).unwrap(), "{\"a\": {\"b\": \"x y\"}}");
        assert_eq!(set("a:\nb: 2\n", "a", json!(3)).unwrap(), "a: 3\nb: 2\n");
    }

    #[test]
    fn a_field_is_added_with_the_indentation_around_it() {
        assert_eq!(
            set("s:\n    n: x # c\n    z: 1\n", "s.r.q", json!(3)).unwrap(),
            "s:\n    n: x # c\n    r:\n      q: 3\n    z: 1\n"
        );
        assert_eq!(set("s:\n  m:\n    a: 1\n", "s.r", json!(3)).unwrap(), "s:\n  r: 3\n  m:\n    a: 1\n");
        assert_eq!(set("s: {}\n", "s.r.q", json!(3)).unwrap(), "s: {\"r\":{\"q\":3}}\n");
        assert_eq!(set("s:\n", "s.r", json!(3)).unwrap(), "s:\n  r: 3\n");
        assert_eq!(set("a: 1", "b", json!([{"c": 1, "d": []}])).unwrap(), "a: 1\nb:\n- c: 1\n  d: []\n");
    }

    #[test]
    fn in_a_list_too() {
        let path = Path(vec![Step::Key("l".to_owned()), Step::Item(0)]);
        let edit = Edit::Set(path.to("p.q"), json!(true));
        assert_eq!(apply("l:\n- name: x\n  y: z\n", &[edit]).unwrap(), "l:\n- name: x\n  p:\n    q: true\n  y: z\n");
    }

    #[test]
    fn a_field_is_removed_and_renamed() {
        let path = Path::default().to("s.a");
        assert_eq!(apply("s:\n  a:\n    b: [1, 2]\n  c: 1\n", &[Edit::Remove(path.clone())]).unwrap(), "s:\n  c: 1\n");
        assert_eq!(apply("s: {a: 1}\n", &[Edit::Rename(path.clone(), "z".to_owned())]).unwrap(), "s: {z: 1}\n");
        assert_eq!(apply("s:\n  \"a\": 1\n", &[Edit::Rename(path, "z".to_owned())]).unwrap(), "s:\n  \"z\": 1\n");
    }

    #[test]
    fn between_braces_too() {
        let removed = |text: &str| apply(text, &[Edit::Remove(Path::default().to("s.a"))]);
        assert_eq!(removed("s: {a: {x: '}'}, b: 1} # c\n").unwrap(), "s: {b: 1} # c\n");
        assert_eq!(removed("s: {b: 1, a: [\"]\", 2]}\n").unwrap(), "s: {b: 1}\n");
        assert_eq!(removed("s: {a: 1}\n").unwrap(), "s: {}\n");
        assert_eq!(set("s: {a: [1, {b: 2}], c: 3}\n", "s.a", json!({"d": 4})).unwrap(), "s: {a: {\"d\":4}, c: 3}\n");
    }

    #[test]
    fn what_the_form_does_not_allow_is_left_alone() {
        assert_eq!(set("a: &x {b: 1}\nc: *x\n", "c.b", json!(2)), None, "it would change both");
        assert_eq!(set("a: |\n  long\n", "a", json!(2)), None);
        assert_eq!(set("a: [1, 2\n", "a", json!(2)), None);
        assert_eq!(
            apply("- a: 1\n  b: 2\n", &[Edit::Remove(Path(vec![Step::Item(0), Step::Key("a".to_owned())]))]),
            None
        );
    }
}
