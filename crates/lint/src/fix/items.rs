//! The items of a `List` as documents by themselves: what one change costs then hangs on its item, not on all that stand
//! beside it.

use std::ops::Range;

use evenkeel_manifest::Position;
use evenkeel_manifest::yaml::{Node, Value};

use super::{Edit, flow, parse, plain};
use crate::view::{Path, Step};

const ITEMS: &str = "items";

/// Where the items of a list stand in its text.
#[derive(Debug)]
pub(crate) struct Items {
    tree: Node,
    items: Vec<Item>,
}

/// Where one stands.
#[derive(Clone, Debug)]
struct Item {
    bytes: Range<usize>,
    /// In block style: how many columns come before its first line.
    indent: usize,
}

impl Item {
    /// The item as a text of its own.
    fn text(&self, list: &str) -> Option<String> {
        Some(format!("{:1$}{2}", "", self.indent, list.get(self.bytes.clone())?))
    }
}

impl Items {
    /// Nothing, where the document is no list or it cannot be told where its items end.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let tree = parse(text)?;
        let Value::Mapping(fields) = &tree.value else { return None };
        let field = fields.iter().position(|field| &*field.key == ITEMS)?;
        let Value::Sequence(nodes) = &fields.get(field)?.value.value else { return None };
        // What comes after the list ends its last item.
        let after = fields.get(field + 1).map(|field| field.at);
        let places: Vec<Position> = nodes.iter().map(|node| node.at).chain(after).collect();
        let offsets = offsets(text, &places)?;
        let mut items = Vec::new();
        for (n, node) in nodes.iter().enumerate() {
            let start = *offsets.get(n)?;
            items.push(if text.get(start..)?.starts_with('{') {
                Item { bytes: flow(text, start)?, indent: 0 }
            } else {
                let end = match offsets.get(n + 1) {
                    Some(next) if n + 1 < nodes.len() => before_dash(text, start, *next)?,
                    Some(next) => *next,
                    None => text.len(),
                };
                Item { bytes: start..end, indent: node.at.column.checked_sub(1)? }
            });
        }
        Some(Self { tree, items })
    }

    /// The item that all these edits are in, as a text of its own, and the edits in that.
    pub(crate) fn narrowed(&self, text: &str, edits: &[Edit]) -> Option<(String, Vec<Edit>)> {
        let (n, edits) = within(edits)?;
        Some((self.items.get(n)?.text(text)?, edits))
    }

    /// The list with some of its items as `mend` makes them; nothing, if it does not read as it should then.
    fn replaced(&self, text: &str, mended: &[(usize, String)]) -> Option<String> {
        let mut wanted = plain(&self.tree);
        let mut changed = String::new();
        let mut done = 0;
        for (n, new) in mended {
            let item = self.items.get(*n)?;
            *wanted.get_mut(ITEMS)?.get_mut(*n)? = plain(&parse(new)?);
            changed += text.get(done..item.bytes.start)?;
            changed += new.get(item.indent..)?;
            done = item.bytes.end;
        }
        changed += text.get(done..)?;
        (plain(&parse(&changed)?) == wanted).then_some(changed)
    }
}

/// Mend each item by itself. What is left are the findings that are not about one item; all of them, with the text as it was,
/// if that does not work here.
pub(super) fn mend<'e>(text: &str, findings: Vec<&'e [Edit]>) -> (String, Vec<&'e [Edit]>) {
    let unchanged = || (text.to_owned(), findings.clone());
    let Some(items) = Items::of(text) else { return unchanged() };
    let mut by_item: Vec<Vec<Vec<Edit>>> = vec![Vec::new(); items.items.len()];
    let mut left = Vec::new();
    for edits in &findings {
        match within(edits).and_then(|(n, edits)| Some((by_item.get_mut(n)?, edits))) {
            Some((item, edits)) => item.push(edits),
            None => left.push(*edits),
        }
    }
    let mut mended = Vec::new();
    for (n, (item, edits)) in items.items.iter().zip(&by_item).enumerate() {
        if edits.is_empty() {
            continue;
        }
        let Some(before) = item.text(text) else { return unchanged() };
        let after = super::mend(&before, edits.iter().map(Vec::as_slice).collect());
        if after != before {
            mended.push((n, after));
        }
    }
    match items.replaced(text, &mended) {
        Some(text) => (text, left),
        None => unchanged(),
    }
}

/// The item that all these edits are in, and the edits from there.
fn within(edits: &[Edit]) -> Option<(usize, Vec<Edit>)> {
    let mut item = None;
    let mut narrowed = Vec::new();
    for edit in edits {
        let [Step::Key(key), Step::Item(n), rest @ ..] = edit.path()?.0.as_slice() else { return None };
        if key != ITEMS || rest.is_empty() || item.is_some_and(|item| item != *n) {
            return None;
        }
        item = Some(*n);
        narrowed.push(edit.at(Path(rest.to_vec()))?);
    }
    Some((item?, narrowed))
}

/// The byte before the dash of the item that starts at `next`, and before the space that stands in front of it.
fn before_dash(text: &str, start: usize, next: usize) -> Option<usize> {
    let before = text.get(start..next)?.trim_end().strip_suffix('-')?;
    Some(start + before.trim_end_matches(' ').len())
}

/// The bytes places are at, which come one after the other: one look at the text for all of them.
fn offsets(text: &str, places: &[Position]) -> Option<Vec<usize>> {
    let (mut line, mut column, mut at) = (1, 1, 0);
    let mut offsets = Vec::new();
    for place in places {
        while line < place.line {
            at += text.get(at..)?.find('\n')? + 1;
            (line, column) = (line + 1, 1);
        }
        if line > place.line || column > place.column {
            return None;
        }
        let skipped = place.column - column;
        at += text.get(at..)?.chars().take(skipped).map(char::len_utf8).sum::<usize>();
        column = place.column;
        offsets.push(at);
    }
    Some(offsets)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Plain, json};

    use super::*;

    fn set(item: usize, key: &str, value: Plain) -> Vec<Edit> {
        vec![Edit::Set(Path(vec![Step::Key(ITEMS.to_owned()), Step::Item(item)]).to(key), value)]
    }

    fn mended(text: &str) -> (String, usize) {
        let findings = [set(0, "a", json!(7)), set(1, "b.c", json!("x"))];
        let (text, left) = mend(text, findings.iter().map(Vec::as_slice).collect());
        (text, left.len())
    }

    #[test]
    fn each_item_is_mended_where_it_stands() {
        for (before, after) in [
            (
                "items:\n- a: 1 # why\n# two\n- d: é\nkind: List\n",
                "items:\n- a: 7 # why\n# two\n- d: é\n  b:\n    c: x\nkind: List\n",
            ),
            (
                "items:\n  -\n    a: 1\n  -   d: |\n        - text\n",
                "items:\n  -\n    a: 7\n  -   b:\n        c: x\n      d: |\n        - text\n",
            ),
            (
                "{\"items\": [{\"a\": 1}, {\"d\": \"}\"}], \"z\": 1}",
                "{\"items\": [{\"a\": 7}, {\"b\":{\"c\":\"x\"}, \"d\": \"}\"}], \"z\": 1}",
            ),
            ("items:\n- {a: 1}\n- d: 2", "items:\n- {a: 7}\n- d: 2\n  b:\n    c: x\n"),
        ] {
            assert_eq!(mended(before), (after.to_owned(), 0), "{before}");
        }
    }

    #[test]
    fn what_hangs_together_is_left_to_the_whole() {
        let text = "items:\n- &x {a: 1}\n- *x\n";
        assert_eq!(mended(text), (text.to_owned(), 2), "an alias has no text of its own");
        let text = "items:\n- a: &x 1\n- d: *x\n";
        assert_eq!(mended(text).0, "items:\n- a: &x 1\n- d: *x\n", "an anchor of another item");
        assert_eq!(mended("a: 1\n"), ("a: 1\n".to_owned(), 2));
    }
}
