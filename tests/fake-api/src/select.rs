//! Label and field selectors.

use serde_json::Value;

use crate::error::ApiError;
use crate::object::{at, text};
use crate::registry::Resource;

/// One requirement on labels.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Above(String, i64),
    Below(String, i64),
}

/// What a list, watch or deletecollection is narrowed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(String, String, bool)>,
}

impl Selector {
    /// Parses `labelSelector` and `fieldSelector`.
    pub(crate) fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let labels = split(labels)
            .into_iter()
            .map(|part| {
                requirement(part.trim())
                    .ok_or_else(|| ApiError::bad_request(format!("unable to parse requirement: {part:?}")))
            })
            .collect::<Result<_, _>>()?;
        let mut parsed = Vec::new();
        for part in fields.split(',').filter(|part| !part.is_empty()) {
            let (name, value, wanted) = if let Some((name, value)) = part.split_once("!=") {
                (name, value, false)
            } else if let Some((name, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (name, value, true)
            } else {
                return Err(ApiError::bad_request(format!("invalid selector: '{part}'; can't understand '{part}'")));
            };
            if !resource.selectable(name) {
                let message = format!(
                    "Unable to find {:?} that match label selector \"\", field selector {fields:?}: field label not supported: {name}",
                    resource.gvr()
                );
                return Err(ApiError::bad_request(message));
            }
            parsed.push((name.to_owned(), value.to_owned(), wanted));
        }
        Ok(Self { labels, fields: parsed })
    }

    /// Whether everything is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The one name that is selected, if objects are selected by name.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields.iter().find_map(|(name, value, wanted)| (name == "metadata.name" && *wanted).then_some(&**value))
    }

    /// Whether `object` is selected.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = at(object, &["metadata", "labels"]);
        let label = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
        let number = |key: &str| label(key).and_then(|value| value.parse::<i64>().ok());
        self.labels.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => label(key).is_some_and(|value| values.iter().any(|one| one == value)),
            Requirement::NotIn(key, values) => !label(key).is_some_and(|value| values.iter().any(|one| one == value)),
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
            Requirement::Above(key, bound) => number(key).is_some_and(|value| value > *bound),
            Requirement::Below(key, bound) => number(key).is_some_and(|value| value < *bound),
        }) && self.fields.iter().all(|(name, value, wanted)| (field(object, name) == *value) == *wanted)
    }
}

/// A selectable field as text.
fn field(object: &Value, name: &str) -> String {
    let path: Vec<&str> = name.split('.').collect();
    match at(object, &path) {
        Some(Value::String(value)) => value.clone(),
        Some(Value::Null) | None if name == "spec.unschedulable" => "false".to_owned(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

/// Splits at commas outside parentheses.
fn split(selector: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_u32, 0);
    for (at, letter) in selector.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(selector.get(start..at).unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(selector.get(start..).unwrap_or_default());
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn requirement(part: &str) -> Option<Requirement> {
    let key = |text: &str| {
        let text = text.trim();
        let valid =
            !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_./".contains(letter));
        valid.then(|| text.to_owned())
    };
    if let Some(rest) = part.strip_prefix('!') {
        return Some(Requirement::Absent(key(rest)?));
    }
    if let Some((name, values)) = part.split_once('(') {
        let values: Vec<String> = values.strip_suffix(')')?.split(',').map(|one| one.trim().to_owned()).collect();
        let (name, operator) = name.trim().rsplit_once(char::is_whitespace)?;
        return match operator {
            "in" => Some(Requirement::In(key(name)?, values)),
            "notin" => Some(Requirement::NotIn(key(name)?, values)),
            _ => None,
        };
    }
    if let Some((name, value)) = part.split_once("!=") {
        return Some(Requirement::NotIn(key(name)?, vec![value.trim().to_owned()]));
    }
    if let Some((name, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Requirement::In(key(name)?, vec![value.trim().to_owned()]));
    }
    if let Some((name, value)) = part.split_once('>') {
        return Some(Requirement::Above(key(name)?, value.trim().parse().ok()?));
    }
    if let Some((name, value)) = part.split_once('<') {
        return Some(Requirement::Below(key(name)?, value.trim().parse().ok()?));
    }
    Some(Requirement::Exists(key(part)?))
}

/// Whether a `metav1.LabelSelector` selects `labels`; one that is absent or empty selects everything.
pub(crate) fn selects(selector: Option<&Value>, labels: Option<&Value>) -> bool {
    let Some(selector) = selector else { return true };
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
    let matched = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .is_none_or(|wanted| wanted.iter().all(|(key, value)| label(key) == value.as_str()));
    matched
        && selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten().all(|one| {
            let value = label(text(one, &["key"]));
            let listed = |value: &str| {
                let values = one.get("values").and_then(Value::as_array);
                values.is_some_and(|values| values.iter().any(|one| one.as_str() == Some(value)))
            };
            match text(one, &["operator"]) {
                "In" => value.is_some_and(listed),
                "NotIn" => !value.is_some_and(listed),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selector(text: &str) -> Selector {
        let labels = split(text).into_iter().map(|part| requirement(part.trim()).expect(part)).collect();
        Selector { labels, fields: Vec::new() }
    }

    #[test]
    fn labels_are_selected_as_the_api_does() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "front", "n": "5"}}});
        for (text, selected) in [
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (web, api)", true),
            ("app notin (web, api)", false),
            ("other notin (web)", true),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("n>4", true),
            ("n<5", false),
            ("app in (web),tier in (back,front)", true),
        ] {
            assert_eq!(selector(text).matches(&object), selected, "{text}");
        }
        assert!(requirement("a b c").is_none());
    }
}
