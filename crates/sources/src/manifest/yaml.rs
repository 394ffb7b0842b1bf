//! YAML (and with it JSON) as a tree that knows where everything stands, within bounds.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// Deepest nesting. Kubernetes objects stay below 20.
const MAX_DEPTH: usize = 64;
/// Most nodes of a document, aliases counted as often as they are used: what keeps a small file of nested aliases
/// from becoming a large tree.
const MAX_NODES: usize = 1_000_000;

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// From 1.
    pub(super) line: usize,
    /// In characters, from 1.
    pub(super) column: usize,
}

/// A value and where it starts.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) at: Position,
    /// Of itself and all below it.
    nodes: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A scalar. Whether it was quoted decides what `5` and `true` are.
#[derive(Clone, Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) plain: bool,
}

/// One entry of a mapping.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Position,
    pub(super) value: Node,
}

/// Why a text is no document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct YamlError {
    pub(super) at: Position,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) remedy: &'static str,
}

impl Node {
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.is_null())
    }

    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|entry| entry.key == key),
            Value::Scalar(_) | Value::Sequence(_) => None,
        }
    }
}

impl Scalar {
    pub(super) fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// The boolean Kubernetes' own YAML reader would see, which still knows `yes` and `on`.
    pub(super) fn as_bool(&self) -> Option<bool> {
        match self.text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" if self.plain => Some(true),
            "false" | "no" | "off" if self.plain => Some(false),
            _ => None,
        }
    }

    pub(super) fn as_integer(&self) -> Option<i64> {
        let digits = self.text.strip_prefix(['-', '+']).unwrap_or(&self.text);
        let decimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if self.plain && decimal { self.text.parse().ok() } else { None }
    }

    /// The text, if it is a string and not something that merely looks like one.
    pub(super) fn as_string(&self) -> Option<&str> {
        let is_number = || {
            let digit = self.text.trim_start_matches(['-', '+', '.']).starts_with(|c: char| c.is_ascii_digit());
            digit && self.text.parse::<f64>().is_ok()
        };
        let other = self.plain && (self.is_null() || self.as_bool().is_some() || is_number());
        (!other).then_some(self.text.as_str())
    }
}

/// One document of a stream: its text and the line it starts on, from 0.
pub(super) struct Chunk<'t> {
    pub(super) text: &'t str,
    first_line: usize,
}

/// The documents of a stream. A `---` at the start of a line separates documents whatever surrounds it, so a document
/// that cannot be parsed does not take the ones after it along.
pub(super) fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut first_line, mut offset) = (0, 0, 0);
    for (n, line) in text.split_inclusive('\n').enumerate() {
        let marker = line.strip_prefix("---").or_else(|| line.strip_prefix("..."));
        if marker.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) && offset > start {
            chunks.push(Chunk { text: &text[start..offset], first_line });
            (start, first_line) = (offset, n);
        }
        offset += line.len();
    }
    chunks.push(Chunk { text: &text[start..], first_line });
    chunks.retain(|chunk| !chunk.is_blank());
    chunks
}

impl Chunk<'_> {
    fn is_blank(&self) -> bool {
        self.text.lines().all(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with(['#', '%']) || matches!(line, "---" | "...")
        })
    }

    fn position(&self, line: usize, column: usize) -> Position {
        Position { line: self.first_line + line.max(1), column: column + 1 }
    }

    /// The tree, or `None` for an empty document.
    pub(super) fn parse(&self) -> Result<Option<Node>, YamlError> {
        let mut builder = Builder { chunk: self, open: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None };
        for event in Parser::new_from_str(self.text) {
            match event {
                Ok((event, span)) => builder.take(event, span)?,
                Err(error) => {
                    let mark = error.marker();
                    return Err(YamlError {
                        at: self.position(mark.line(), mark.col()),
                        reason: "yaml_syntax",
                        message: format!("not valid YAML: {}", error.info()),
                        remedy: "correct the syntax; the rest of this document was not read",
                    });
                }
            }
        }
        Ok(builder.root.filter(|root| !root.is_null()))
    }
}

struct Builder<'c> {
    chunk: &'c Chunk<'c>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

/// A collection whose end has not come yet.
struct Open {
    at: Position,
    anchor: usize,
    nodes: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<Entry>, seen: HashMap<String, Position>, key: Option<(String, Position)> },
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), YamlError> {
        let at = self.chunk.position(span.start.line(), span.start.col());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tagged = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
                self.count(1, at)?;
                let plain = style == ScalarStyle::Plain && !tagged;
                let scalar = Value::Scalar(Scalar { text: text.into_owned(), plain });
                self.add(Node { value: scalar, at, nodes: 1 }, anchor)
            }
            Event::Alias(anchor) => {
                // An alias within its own anchor is not known yet, so a tree stays a tree.
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(self.error(at, "yaml_alias", "this alias refers to no earlier anchor".to_owned()));
                };
                let nodes = node.nodes;
                self.count(nodes, at)?;
                let copy = self.anchors.get(&anchor).cloned();
                copy.map_or(Ok(()), |node| self.add(node, 0))
            }
            Event::SequenceStart(anchor, _) => self.open(at, anchor, Content::Sequence(Vec::new())),
            Event::MappingStart(anchor, _) => {
                let content = Content::Mapping { entries: Vec::new(), seen: HashMap::new(), key: None };
                self.open(at, anchor, content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
        }
    }

    fn open(&mut self, at: Position, anchor: usize, content: Content) -> Result<(), YamlError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(self.error(at, "too_deep", format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.count(1, at)?;
        self.open.push(Open { at, anchor, nodes: 1, content });
        Ok(())
    }

    fn close(&mut self) -> Result<(), YamlError> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.content {
            Content::Sequence(nodes) => Value::Sequence(nodes),
            Content::Mapping { entries, .. } => Value::Mapping(merge(entries)),
        };
        self.add(Node { value, at: open.at, nodes: open.nodes }, open.anchor)
    }

    /// A finished node goes into the innermost open collection, or is the document itself.
    fn add(&mut self, node: Node, anchor: usize) -> Result<(), YamlError> {
        if anchor != 0 {
            self.count(node.nodes, node.at)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root.get_or_insert(node);
            return Ok(());
        };
        open.nodes += node.nodes;
        match &mut open.content {
            Content::Sequence(nodes) => nodes.push(node),
            Content::Mapping { entries, seen, key } => match key.take() {
                Some((key, at)) => entries.push(Entry { key, at, value: node }),
                None => {
                    let at = node.at;
                    let Value::Scalar(scalar) = node.value else {
                        return Err(self.error(at, "yaml_key", "a key must be a plain word or a string".to_owned()));
                    };
                    if let Some(first) = seen.insert(scalar.text.clone(), at)
                        && scalar.text != MERGE
                    {
                        let message = format!("key `{}` is already given on line {}", scalar.text, first.line);
                        return Err(self.error(at, "duplicate_key", message));
                    }
                    *key = Some((scalar.text, at));
                }
            },
        }
        Ok(())
    }

    /// Count what is about to be kept, before memory is spent on it.
    fn count(&mut self, nodes: usize, at: Position) -> Result<(), YamlError> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            let message = format!("the document has more than {MAX_NODES} values, aliases included");
            return Err(self.error(at, "too_large", message));
        }
        Ok(())
    }

    fn error(&self, at: Position, reason: &'static str, message: String) -> YamlError {
        let remedy = match reason {
            "duplicate_key" => "remove one of the two",
            "too_deep" | "too_large" => "split it into smaller documents",
            _ => "write the value out",
        };
        YamlError { at, reason, message, remedy }
    }
}

const MERGE: &str = "<<";

/// Merge keys: the entries of the mappings named, where the mapping itself does not give them.
fn merge(entries: Vec<Entry>) -> Vec<Entry> {
    if entries.iter().all(|entry| entry.key != MERGE) {
        return entries;
    }
    let (merged, mut own): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|entry| entry.key == MERGE);
    let mappings = merged.into_iter().flat_map(|entry| match entry.value.value {
        Value::Sequence(nodes) => nodes,
        Value::Mapping(_) | Value::Scalar(_) => vec![entry.value],
    });
    for mapping in mappings {
        if let Value::Mapping(entries) = mapping.value {
            for entry in entries {
                if own.iter().all(|known| known.key != entry.key) {
                    own.push(entry);
                }
            }
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Node, YamlError> {
        chunks(text)[0].parse().map(Option::unwrap)
    }

    fn shown(node: &Node) -> String {
        match &node.value {
            Value::Scalar(scalar) => scalar.text.clone(),
            Value::Sequence(nodes) => format!("[{}]", nodes.iter().map(shown).collect::<Vec<_>>().join(", ")),
            Value::Mapping(entries) => {
                let entries = entries.iter().map(|entry| format!("{}: {}", entry.key, shown(&entry.value)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
            }
        }
    }

    #[test]
    fn every_value_knows_its_place() {
        let root = parse("# comment\na: 1\nb:\n- c\n").unwrap();
        assert_eq!(shown(&root), "{a: 1, b: [c]}");
        let b = root.entry("b").unwrap();
        assert_eq!(b.at, Position { line: 3, column: 1 });
        let Value::Sequence(nodes) = &b.value.value else { panic!() };
        assert_eq!(nodes[0].at, Position { line: 4, column: 3 });
    }

    #[test]
    fn json_is_read_as_well() {
        let root = parse("{\n\t\"a\": [1, true, null, \"x\"],\n\t\"b\": {}\n}\n").unwrap();
        assert_eq!(shown(&root), "{a: [1, true, null, x], b: {}}");
    }

    #[test]
    fn documents_are_apart_and_keep_their_lines() {
        let text = "%YAML 1.2\n---\na: 1\n--- # two\nb: [\n---\nc: 3\n...\n---\n# nothing\n";
        let chunks = chunks(text);
        assert_eq!(chunks.len(), 3);
        assert_eq!(shown(&chunks[0].parse().unwrap().unwrap()), "{a: 1}");
        let error = chunks[1].parse().unwrap_err();
        assert_eq!(error.reason, "yaml_syntax");
        assert!((5..=6).contains(&error.at.line), "{error:?}");
        let third = chunks[2].parse().unwrap().unwrap();
        assert_eq!(third.entry("c").unwrap().at.line, 7);
    }

    #[test]
    fn keys_are_unique_words() {
        assert_eq!(parse("a: 1\nb: 2\na: 3\n").unwrap_err().reason, "duplicate_key");
        assert_eq!(parse("[a]: 1\n").unwrap_err().reason, "yaml_key");
    }

    #[test]
    fn merge_keys_fill_in_what_is_missing() {
        let root = parse("base: &base {a: 1, b: 2}\nuse:\n  <<: *base\n  b: 3\n").unwrap();
        assert_eq!(shown(&root.entry("use").unwrap().value), "{b: 3, a: 1}");
    }

    #[test]
    fn depth_and_aliases_are_bounded() {
        assert_eq!(parse(&"[".repeat(200)).unwrap_err().reason, "too_deep");
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..30 {
            let alias = format!("*a{}", n - 1);
            bomb += &format!("a{n}: &a{n} [{}]\n", [alias.as_str(); 10].join(", "));
        }
        assert_eq!(parse(&bomb).unwrap_err().reason, "too_large");
        assert_eq!(parse("a: &a [*a]\n").unwrap_err().reason, "yaml_alias");
    }

    #[test]
    fn plain_words_are_what_kubernetes_takes_them_for() {
        let plain = |text: &str| Scalar { text: text.to_owned(), plain: true };
        assert_eq!(plain("10.0.0.53").as_string(), Some("10.0.0.53"));
        assert_eq!(plain("10.0").as_string(), None);
        assert_eq!(plain("nan").as_string(), Some("nan"));
        assert_eq!(plain("yes").as_string(), None);
        assert_eq!(plain("yes").as_bool(), Some(true));
        assert_eq!(plain("").as_string(), None);
        assert_eq!(plain("53").as_integer(), Some(53));
        assert_eq!(plain("5_3").as_integer(), None);
        let quoted = Scalar { text: "53".to_owned(), plain: false };
        assert_eq!((quoted.as_string(), quoted.as_integer()), (Some("53"), None));
    }
}
