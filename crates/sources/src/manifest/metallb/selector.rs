//! Label selectors, by the rules of Kubernetes and, for duplicates, of MetalLB.

use std::collections::BTreeSet;

use evenkeel_plan::selector::{LabelSelector, Operator, Requirement};

use crate::manifest::label;
use crate::manifest::read::{Field, Fields, Findings as _, Mapping as _, Reader, Values as _, shortened};

const ONCE: &str = "give it once";

/// A list of selectors, no two of which say the same.
pub(super) fn selectors(reader: &mut Reader<'_>, fields: &Fields<'_>, key: &'static str) -> Vec<LabelSelector> {
    let mut seen = BTreeSet::new();
    let mut selectors = Vec::new();
    for item in fields.list(reader, key) {
        let Some(selector) = selector(reader, &item) else { continue };
        if !seen.insert(normal(&selector)) {
            reader.error("duplicate_value", &item, "the same selector is given before", ONCE);
        }
        selectors.push(selector);
    }
    selectors
}

pub(super) fn selector(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<LabelSelector> {
    let fields = field.fields(reader)?;
    let mut selector = LabelSelector {
        match_labels: fields.get("matchLabels").map(|field| field.labels(reader)).unwrap_or_default(),
        match_expressions: Vec::new(),
    };
    let mut seen = BTreeSet::new();
    for field in fields.list(reader, "matchExpressions") {
        let Some(requirement) = requirement(reader, &field) else { continue };
        if !seen.insert(sorted(&requirement)) {
            reader.error("duplicate_value", &field, "the same expression is given before", ONCE);
        }
        selector.match_expressions.push(requirement);
    }
    fields.no_others(reader);
    Some(selector)
}

fn requirement(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<Requirement> {
    type Make = fn(Vec<String>) -> Operator;
    let operators: [(&str, (Make, bool)); 4] = [
        ("In", (Operator::In, true)),
        ("NotIn", (Operator::NotIn, true)),
        ("Exists", (|_| Operator::Exists, false)),
        ("DoesNotExist", (|_| Operator::DoesNotExist, false)),
    ];
    let fields = field.fields(reader)?;
    let key = fields.require(reader, "key").and_then(|field| label::key(reader, &field)).map(str::to_owned);
    let operator = fields.require(reader, "operator").and_then(|field| field.one_of(reader, &operators));
    let mut values = Vec::new();
    let mut seen = BTreeSet::new();
    let items = fields.list(reader, "values");
    for field in &items {
        let Some(value) = label::value(reader, field) else { continue };
        if !seen.insert(value) {
            let message = format!("`{}` is given before", shortened(value));
            reader.error("duplicate_value", field, message, ONCE);
        }
        values.push(value.to_owned());
    }
    fields.no_others(reader);
    let (make, takes_values) = operator?;
    if takes_values == items.is_empty() {
        let (message, remedy) = if takes_values {
            ("In and NotIn need values", "add `values`")
        } else {
            ("Exists and DoesNotExist take no values", "remove `values`")
        };
        reader.error("invalid_value", field, message, remedy);
    }
    Some(Requirement { key: key?, operator: make(values) })
}

/// Selectors that are equal up to the order of what they list have the same normal form.
fn normal(selector: &LabelSelector) -> LabelSelector {
    let mut selector = selector.clone();
    selector.match_expressions = selector.match_expressions.iter().map(sorted).collect();
    selector.match_expressions.sort();
    selector
}

fn sorted(requirement: &Requirement) -> Requirement {
    let mut requirement = requirement.clone();
    match &mut requirement.operator {
        Operator::In(values) | Operator::NotIn(values) => values.sort(),
        Operator::Exists | Operator::DoesNotExist => {}
    }
    requirement
}
