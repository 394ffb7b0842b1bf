//! Kubernetes label selectors.

use std::collections::BTreeMap;

/// The labels of an object.
pub type Labels = BTreeMap<String, String>;

/// `matchLabels` and `matchExpressions`, all of which must hold. The empty selector selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelSelector {
    /// Labels that must be present with exactly these values.
    pub match_labels: Labels,
    /// Further conditions.
    pub match_expressions: Vec<Requirement>,
}

/// One entry of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The label it looks at.
    pub key: String,
    /// What must hold for that label.
    pub operator: Operator,
}

/// The operators of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// The label is present with one of these values.
    In(Vec<String>),
    /// The label is absent, or present with none of these values.
    NotIn(Vec<String>),
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// Whether any of `selectors` matches, where no selectors at all means everything.
pub(crate) fn any_or_all(selectors: &[LabelSelector], labels: &Labels) -> bool {
    selectors.is_empty() || selectors.iter().any(|selector| selector.matches(labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn expression(key: &str, operator: Operator) -> LabelSelector {
        LabelSelector {
            match_expressions: vec![Requirement { key: key.to_owned(), operator }],
            ..LabelSelector::default()
        }
    }

    #[test]
    fn the_empty_selector_selects_everything() {
        assert!(LabelSelector::default().matches(&labels(&[])));
        assert!(LabelSelector::default().matches(&labels(&[("a", "b")])));
    }

    #[test]
    fn every_match_label_must_be_equal() {
        let selector = LabelSelector { match_labels: labels(&[("a", "1"), ("b", "2")]), ..LabelSelector::default() };
        assert!(selector.matches(&labels(&[("a", "1"), ("b", "2"), ("c", "3")])));
        assert!(!selector.matches(&labels(&[("a", "1")])));
        assert!(!selector.matches(&labels(&[("a", "1"), ("b", "other")])));
    }

    #[test]
    fn expressions_follow_their_operator() {
        let one_or_two = vec!["1".to_owned(), "2".to_owned()];
        let is_in = expression("a", Operator::In(one_or_two.clone()));
        assert!(is_in.matches(&labels(&[("a", "2")])));
        assert!(!is_in.matches(&labels(&[("a", "3")])));
        assert!(!is_in.matches(&labels(&[])));
        let not_in = expression("a", Operator::NotIn(one_or_two));
        assert!(!not_in.matches(&labels(&[("a", "2")])));
        assert!(not_in.matches(&labels(&[("a", "3")])));
        assert!(not_in.matches(&labels(&[])), "an absent label is in no list");
        assert!(expression("a", Operator::Exists).matches(&labels(&[("a", "")])));
        assert!(!expression("a", Operator::Exists).matches(&labels(&[])));
        assert!(expression("a", Operator::DoesNotExist).matches(&labels(&[])));
        assert!(!expression("a", Operator::DoesNotExist).matches(&labels(&[("a", "")])));
    }
}
