//! YAML (and with it JSON) as a tree that knows where everything stands, within bounds.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::words::shortened;

/// Deepest nesting. Kubernetes objects stay below 20.
const MAX_DEPTH: usize = 64;
/// Most values of a document: what the largest file that is read holds when it is written in earnest.
const MAX_NODES: usize = 4_000_000;
/// Most values that are copies, because of an anchor, an alias or a merge key: what keeps a small file of nested aliases
/// from becoming a large tree.
const MAX_COPIES: usize = 250_000;

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// How many characters of the line belong to it; 0: all that follow.
    pub width: usize,
}

/// A value and where it starts.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it starts.
    pub at: Position,
    /// Of itself and all below it.
    nodes: usize,
}

/// What a value is.
#[derive(Clone, Debug)]
pub enum Value {
    /// A word, a number, a string.
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<Node>),
    /// Entries in their order, each key once.
    Mapping(Vec<Entry>),
}

/// A scalar. Whether it was quoted decides what `5` and `true` are.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// The text, unescaped.
    pub text: Box<str>,
    /// Whether it was neither quoted nor tagged as a string.
    pub plain: bool,
}

/// One entry of a mapping.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: Box<str>,
    /// Where the key stands.
    pub at: Position,
    /// What it stands for.
    pub value: Node,
}

impl Entry {
    /// Where an eye looks for it: the value if it is one word or text, else the key.
    pub fn focus(&self) -> Position {
        match &self.value.value {
            Value::Scalar(scalar) if !scalar.text.is_empty() => self.value.at,
            Value::Scalar(_) | Value::Sequence(_) | Value::Mapping(_) => self.at,
        }
    }
}

/// Why a text is no document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YamlError {
    /// Where.
    pub at: Position,
    /// The named reason, in snake_case.
    pub reason: &'static str,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub remedy: &'static str,
}

impl Node {
    /// A node that is never copied, so that nobody asks how many there are below it.
    pub fn new(value: Value, at: Position) -> Self {
        Self { value, at, nodes: 1 }
    }

    /// Whether it is absent in all but name.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.is_null())
    }

    /// The entry of a mapping by its key.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|entry| *entry.key == *key),
            Value::Scalar(_) | Value::Sequence(_) => None,
        }
    }
}

impl Scalar {
    /// Whether this is one of YAML's words for nothing.
    pub fn is_null(&self) -> bool {
        self.plain && matches!(&*self.text, "" | "~" | "null" | "Null" | "NULL")
    }

    /// The boolean Kubernetes' own YAML reader would see, which still knows `yes` and `on`.
    pub fn as_bool(&self) -> Option<bool> {
        match self.text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" if self.plain => Some(true),
            "false" | "no" | "off" if self.plain => Some(false),
            _ => None,
        }
    }

    /// The decimal number this is to every reader.
    pub fn as_integer(&self) -> Option<i64> {
        let digits = self.text.strip_prefix(['-', '+']).unwrap_or(&self.text);
        // A leading zero means base 8 to some readers.
        let decimal = !digits.is_empty()
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && (digits.len() == 1 || !digits.starts_with('0'));
        if self.plain && decimal { self.text.parse().ok() } else { None }
    }

    /// The text, if it is a string and not something that merely looks like one.
    pub fn as_string(&self) -> Option<&str> {
        let other = self.plain && (self.is_null() || self.as_bool().is_some() || self.is_number());
        (!other).then_some(&*self.text)
    }

    /// Whether Kubernetes' own YAML reader would take this word for a number.
    fn is_number(&self) -> bool {
        const LONGEST: usize = 64;
        let digits = self.text.trim_start_matches(['-', '+', '.']);
        if self.text.len() > LONGEST || !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return false;
        }
        let of_base = |prefix, base| {
            digits
                .strip_prefix(prefix)
                .is_some_and(|rest: &str| !rest.is_empty() && rest.chars().all(|c| c.is_digit(base)))
        };
        let text = self.text.replace('_', "");
        text.parse::<f64>().is_ok() || of_base("0x", 16) || of_base("0o", 8) || of_base("0b", 2)
    }
}

/// One document of a stream: its text and the line it starts on, from 0.
pub struct Chunk<'t> {
    /// Its text.
    pub text: &'t str,
    first_line: usize,
}

/// The documents of a stream. A `---` at the start of a line separates documents whatever surrounds it, so a document
/// that cannot be parsed does not take the ones after it along.
pub fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = all_chunks(text);
    chunks.retain(|chunk| !chunk.is_blank());
    chunks
}

/// The same with those that hold nothing.
pub fn all_chunks(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut first_line, mut offset) = (0, 0, 0);
    for (n, line) in text.split_inclusive('\n').enumerate() {
        // Files put together keep their byte order marks.
        let line_start = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        let marker = line_start.strip_prefix("---").or_else(|| line_start.strip_prefix("..."));
        if marker.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) && offset > start {
            chunks.push(Chunk { text: &text[start..offset], first_line });
            (start, first_line) = (offset, n);
        }
        offset += line.len();
    }
    chunks.push(Chunk { text: &text[start..], first_line });
    chunks
}

impl Chunk<'_> {
    fn is_blank(&self) -> bool {
        self.text.lines().all(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with(['#', '%']) || matches!(line, "---" | "...")
        })
    }

    /// Where a span is. One that ends on another line goes on to the end of its first.
    fn position(&self, span: Span) -> Position {
        let (start, end) = (span.start, span.end);
        let width = if end.line() == start.line() { end.col().saturating_sub(start.col()) } else { 0 };
        Position { line: self.first_line + start.line().max(1), column: start.col() + 1, width }
    }

    /// The tree, or `None` for an empty document.
    ///
    /// # Errors
    ///
    /// Where it is no YAML, or more of it than is read.
    pub fn parse(&self) -> Result<Option<Node>, YamlError> {
        self.check_characters()?;
        let mut builder =
            Builder { chunk: self, open: Vec::new(), anchors: HashMap::new(), nodes: 0, copies: 0, root: None };
        for event in Parser::new_from_str(self.text) {
            match event {
                Ok((event, span)) => builder.take(event, span)?,
                Err(error) => {
                    let mark = *error.marker();
                    let mut at = self.position(Span::empty(mark));
                    at.width = 1;
                    let line = self.text.lines().nth(mark.line().saturating_sub(1)).unwrap_or_default();
                    let indented_by_tab = line.trim_start_matches(' ').starts_with('\t');
                    // The parser knows the names of anchors, and of nothing else that is called so.
                    let (reason, remedy) = if error.info().contains("unknown anchor") {
                        ("yaml_alias", "define the anchor before it is used, or write the value out")
                    } else if indented_by_tab {
                        ("yaml_syntax", "indent with spaces: YAML allows no tabs there")
                    } else {
                        ("yaml_syntax", "correct the syntax; the rest of this document was not read")
                    };
                    return Err(YamlError { at, reason, message: format!("not valid YAML: {}", error.info()), remedy });
                }
            }
        }
        Ok(builder.root.filter(|root| !root.is_null()))
    }

    /// YAML is text. A NUL in particular would end it for the parser, in silence.
    fn check_characters(&self) -> Result<(), YamlError> {
        let bad = |(n, c): (usize, char)| match c {
            '\n' | '\t' | '\u{85}' => None,
            '\r' if self.text.as_bytes().get(n + 1) == Some(&b'\n') => None,
            '\u{fffe}' | '\u{ffff}' => Some((n, c)),
            c if c.is_control() => Some((n, c)),
            _ => None,
        };
        let Some((offset, c)) = self.text.char_indices().find_map(bad) else { return Ok(()) };
        let before = self.text.get(..offset).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Err(YamlError {
            at: Position { line: self.first_line + line, column, width: 1 },
            reason: "control_character",
            message: format!("U+{:04X} does not belong into a text", u32::from(c)),
            remedy: "remove it, or write it as an escape in a quoted string",
        })
    }
}

const BYTE_ORDER_MARK: char = '\u{feff}';

struct Builder<'c> {
    chunk: &'c Chunk<'c>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    copies: usize,
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
    Mapping { entries: Vec<Entry>, seen: HashMap<Box<str>, Position>, key: Option<(Box<str>, Position)> },
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), YamlError> {
        let at = self.chunk.position(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tagged = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
                self.count(at)?;
                let plain = style == ScalarStyle::Plain && !tagged;
                let scalar = Value::Scalar(Scalar { text: text.into(), plain });
                self.add(Node { value: scalar, at, nodes: 1 }, anchor)
            }
            Event::Alias(anchor) => {
                // An alias within its own anchor is not known yet, so a tree stays a tree.
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(error(at, "yaml_alias", "this alias refers to no earlier anchor".to_owned()));
                };
                let nodes = node.nodes;
                self.count_copies(nodes, at)?;
                let copy = self.anchors.get(&anchor).cloned();
                // A finding about what it stands for is best made where it is used.
                copy.map_or(Ok(()), |node| self.add(Node { at, ..node }, 0))
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
        let at = Position { width: 1, ..at };
        if self.open.len() >= MAX_DEPTH {
            return Err(error(at, "too_deep", format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.count(at)?;
        self.open.push(Open { at, anchor, nodes: 1, content });
        Ok(())
    }

    fn close(&mut self) -> Result<(), YamlError> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.content {
            Content::Sequence(nodes) => Value::Sequence(nodes),
            Content::Mapping { entries, .. } => Value::Mapping(merge(entries)?),
        };
        self.add(Node { value, at: open.at, nodes: open.nodes }, open.anchor)
    }

    /// A finished node goes into the innermost open collection, or is the document itself.
    fn add(&mut self, node: Node, anchor: usize) -> Result<(), YamlError> {
        if anchor != 0 {
            self.count_copies(node.nodes, node.at)?;
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
                        return Err(error(at, "yaml_key", "a key must be a plain word or a string".to_owned()));
                    };
                    if let Some(first) = seen.insert(scalar.text.clone(), at)
                        && *scalar.text != *MERGE
                    {
                        let shown = shortened(&scalar.text);
                        let message = format!("key `{shown}` is already given on line {}", first.line);
                        return Err(error(at, "duplicate_key", message));
                    }
                    *key = Some((scalar.text, at));
                }
            },
        }
        Ok(())
    }

    /// Count a value that is about to be kept, before memory is spent on it.
    fn count(&mut self, at: Position) -> Result<(), YamlError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(error(at, "too_large", format!("the document has more than {MAX_NODES} values")));
        }
        Ok(())
    }

    fn count_copies(&mut self, nodes: usize, at: Position) -> Result<(), YamlError> {
        self.copies += nodes;
        if self.copies > MAX_COPIES {
            let message = format!("the aliases of this document stand for more than {MAX_COPIES} values");
            return Err(error(at, "too_large", message));
        }
        Ok(())
    }
}

fn error(at: Position, reason: &'static str, message: String) -> YamlError {
    let remedy = match reason {
        "duplicate_key" => "remove one of the two",
        "too_deep" | "too_large" => "split it into smaller documents",
        "yaml_key" => "use a word as the key",
        "yaml_merge" => "merge mappings, or write the fields out",
        _ => "write the value out",
    };
    YamlError { at, reason, message, remedy }
}

const MERGE: &str = "<<";

/// Merge keys: the entries of the mappings named, where the mapping itself does not give them. Of several mappings an
/// earlier one takes precedence.
fn merge(entries: Vec<Entry>) -> Result<Vec<Entry>, YamlError> {
    if entries.iter().all(|entry| *entry.key != *MERGE) {
        return Ok(entries);
    }
    let (merged, mut own): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|entry| *entry.key == *MERGE);
    let mut known: HashSet<Box<str>> = own.iter().map(|entry| entry.key.clone()).collect();
    let mappings = merged.into_iter().flat_map(|entry| match entry.value.value {
        Value::Sequence(nodes) => nodes,
        Value::Mapping(_) | Value::Scalar(_) => vec![entry.value],
    });
    for mapping in mappings {
        let Value::Mapping(entries) = mapping.value else {
            return Err(error(mapping.at, "yaml_merge", "only mappings can be merged by `<<`".to_owned()));
        };
        own.extend(entries.into_iter().filter(|entry| known.insert(entry.key.clone())));
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Node, YamlError> {
        chunks(text)[0].parse().map(Option::unwrap)
    }

    fn shown(node: &Node) -> String {
        match &node.value {
            Value::Scalar(scalar) => scalar.text.to_string(),
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
        assert_eq!(b.at, Position { line: 3, column: 1, width: 1 });
        let Value::Sequence(nodes) = &b.value.value else { panic!() };
        assert_eq!(nodes[0].at, Position { line: 4, column: 3, width: 1 });
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
    fn only_mappings_are_merged() {
        assert_eq!(parse("a: &a 5\nuse:\n  <<: *a\n").unwrap_err().reason, "yaml_merge");
        let root = parse("a: &a {x: 1}\nb: &b {x: 2, y: 3}\nuse: {<<: [*a, *b]}\n").unwrap();
        assert_eq!(shown(&root.entry("use").unwrap().value), "{x: 1, y: 3}", "the earlier one takes precedence");
    }

    #[test]
    fn a_later_anchor_of_the_same_name_takes_its_place() {
        let root = parse("a: &x 1\nb: *x\nc: &x 2\nd: *x\n").unwrap();
        assert_eq!(shown(&root), "{a: 1, b: 1, c: 2, d: 2}");
    }

    #[test]
    fn what_is_no_text_is_refused_where_it_stands() {
        for (text, line, column) in [
            ("a: 1\nb: x\u{0}y\n", 2, 5),
            ("a: \u{7}\n", 1, 4),
            ("a: 1\rb: 2\n", 1, 5),
            ("a: \u{7f}\n", 1, 4),
            ("é: \u{9b}31m\n", 1, 4),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!((error.reason, error.at.line, error.at.column), ("control_character", line, column), "{text:?}");
        }
        assert_eq!(shown(&parse("a: 1\r\nb: 2\t\r\n").unwrap()), "{a: 1, b: 2}");
        assert_eq!(shown(&parse("a: \"x\\0y\"\n").unwrap()), "{a: x\0y}", "an escape is text");
    }

    #[test]
    fn a_tab_as_indentation_is_named() {
        let error = parse("a:\n\tb: 1\n").unwrap_err();
        assert_eq!(error.reason, "yaml_syntax");
        assert!(error.remedy.contains("spaces"), "{error:?}");
    }

    #[test]
    fn byte_order_marks_are_no_content() {
        let text = "a: 1\n\u{feff}---\nb: 2\n";
        let shown: Vec<String> = chunks(text).iter().map(|chunk| shown(&chunk.parse().unwrap().unwrap())).collect();
        assert_eq!(shown, ["{a: 1}", "{b: 2}"]);
    }

    #[test]
    fn a_long_list_of_keys_is_merged_and_checked_in_one_pass() {
        let keys = |prefix: &str| (0..40_000).map(|n| format!("{prefix}{n}: 1, ")).collect::<String>();
        let root = parse(&format!("a: &a {{{}}}\nuse: {{<<: *a, {}}}\n", keys("a"), keys("b"))).unwrap();
        let Value::Mapping(entries) = &root.entry("use").unwrap().value.value else { panic!() };
        assert_eq!(entries.len(), 80_000);
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
        let plain = |text: &str| Scalar { text: text.into(), plain: true };
        assert_eq!(plain("10.0.0.53").as_string(), Some("10.0.0.53"));
        assert_eq!(plain("10.0").as_string(), None);
        assert_eq!(plain("nan").as_string(), Some("nan"));
        assert_eq!(plain("yes").as_string(), None);
        assert_eq!(plain("yes").as_bool(), Some(true));
        assert_eq!(plain("").as_string(), None);
        assert_eq!(plain("53").as_integer(), Some(53));
        assert_eq!(plain("5_3").as_integer(), None);
        assert_eq!(plain("053").as_integer(), None);
        for number in ["5_3", "053", "0x1f", "0o17", "0b1", "1e3", "+1", "-.5"] {
            assert_eq!(plain(number).as_string(), None, "{number}");
        }
        assert_eq!(plain("0xyz").as_string(), Some("0xyz"));
        let quoted = Scalar { text: "53".into(), plain: false };
        assert_eq!((quoted.as_string(), quoted.as_integer()), (Some("53"), None));
    }
}
