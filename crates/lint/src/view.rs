//! A value in a tree and the way to it; what is not there, or is of another type, reads as absent.

use std::fmt;

use evenkeel_manifest::Position;
use evenkeel_manifest::yaml::{Node, Scalar, Value};
use evenkeel_plan::selector::{LabelSelector, Labels, Operator, Requirement};

/// One step down a tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// To the entry of a mapping.
    Key(String),
    /// To the item of a list, from 0.
    Item(usize),
}

/// The way from a document's root to a value, which need not be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Path(pub(crate) Vec<Step>);

impl Path {
    /// Further down, by keys separated by dots.
    #[cfg(test)]
    pub(crate) fn to(&self, keys: &str) -> Self {
        let mut steps = self.0.clone();
        steps.extend(keys.split('.').filter(|key| !key.is_empty()).map(|key| Step::Key(key.to_owned())));
        Self(steps)
    }

    /// Further down by one key, whatever characters it has.
    pub(crate) fn key(&self, key: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_owned()));
        Self(steps)
    }

    fn item(&self, n: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Item(n));
        Self(steps)
    }

    /// The place of what it leads to, or else of the innermost value on the way that is there.
    pub(crate) fn position(&self, root: &Node) -> Position {
        let (mut node, mut at) = (root, root.at);
        for step in &self.0 {
            match (step, &node.value) {
                (Step::Key(key), Value::Mapping(_)) => {
                    let Some(entry) = node.entry(key) else { break };
                    (node, at) = (&entry.value, entry.focus());
                }
                (Step::Item(n), Value::Sequence(items)) => {
                    let Some(item) = items.get(*n) else { break };
                    (node, at) = (item, item.at);
                }
                _ => break,
            }
        }
        at
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if key.contains(['.', '/']) => write!(f, "[{key}]")?,
                Step::Key(key) if n == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Item(n) => write!(f, "[{n}]")?,
            }
        }
        Ok(())
    }
}

/// A value, or the lack of one, at the end of a path.
#[derive(Clone, Debug)]
pub(crate) struct View<'n> {
    pub(crate) node: Option<&'n Node>,
    pub(crate) path: Path,
}

impl<'n> View<'n> {
    pub(crate) fn root(node: &'n Node) -> Self {
        Self { node: Some(node), path: Path::default() }
    }

    /// Further down, by keys separated by dots.
    pub(crate) fn at(&self, keys: &str) -> Self {
        keys.split('.').fold(self.clone(), |view, key| view.key(key))
    }

    /// Further down by one key, whatever characters it has.
    pub(crate) fn key(&self, key: &str) -> Self {
        let entry = self.node.and_then(|node| node.entry(key));
        Self { node: entry.map(|entry| &entry.value).filter(|node| !node.is_null()), path: self.path.key(key) }
    }

    pub(crate) fn exists(&self) -> bool {
        self.node.is_some()
    }

    fn scalar(&self) -> Option<&'n Scalar> {
        match &self.node?.value {
            Value::Scalar(scalar) => Some(scalar),
            Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    /// The text of a scalar, whatever it looks like.
    pub(crate) fn text(&self) -> Option<&'n str> {
        self.scalar().map(|scalar| &*scalar.text).filter(|text| !text.is_empty())
    }

    /// A whole number, within the 32 bits Kubernetes' own have. One in quotes is refused when it is applied, not here: what
    /// is meant is plain.
    pub(crate) fn int(&self) -> Option<i64> {
        let number = self.scalar().and_then(|scalar| Scalar { plain: true, text: scalar.text.clone() }.as_integer());
        number.map(|n| n.clamp(i32::MIN.into(), i32::MAX.into()))
    }

    pub(crate) fn bool(&self) -> Option<bool> {
        self.scalar().and_then(Scalar::as_bool)
    }

    pub(crate) fn list(&self) -> Vec<Self> {
        match self.node.map(|node| &node.value) {
            Some(Value::Sequence(items)) => {
                let item = |(n, node)| Self { node: Some(node), path: self.path.item(n) };
                items.iter().enumerate().map(item).collect()
            }
            _ => Vec::new(),
        }
    }

    pub(crate) fn entries(&self) -> Vec<(&'n str, Self)> {
        match self.node.map(|node| &node.value) {
            Some(Value::Mapping(entries)) => {
                let entry = |entry: &'n evenkeel_manifest::yaml::Entry| {
                    let node = Some(&entry.value).filter(|node| !node.is_null());
                    (&*entry.key, Self { node, path: self.path.key(&entry.key) })
                };
                entries.iter().map(entry).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Labels, or those a Service's selector asks for.
    pub(crate) fn labels(&self) -> Labels {
        let text = |view: &Self| view.text().unwrap_or_default().to_owned();
        self.entries().iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect()
    }

    /// `matchLabels` and `matchExpressions`; one that asks for an unknown operator selects nothing by it.
    pub(crate) fn selector(&self) -> LabelSelector {
        let expression = |view: Self| {
            let values =
                || view.at("values").list().iter().filter_map(|value| value.text().map(str::to_owned)).collect();
            let operator = match view.at("operator").text()? {
                "NotIn" => Operator::NotIn(values()),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => Operator::In(values()),
            };
            Some(Requirement { key: view.at("key").text()?.to_owned(), operator })
        };
        LabelSelector {
            match_labels: self.at("matchLabels").labels(),
            match_expressions: self.at("matchExpressions").list().into_iter().filter_map(expression).collect(),
        }
    }
}
