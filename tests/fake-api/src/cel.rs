//! `x-kubernetes-validations`.

use serde_json::Value;

use crate::object::text;

/// One rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) source: String,
    pub(crate) message: String,
}

impl Rule {
    pub(crate) fn compile_all(list: Option<&Value>) -> Result<Vec<Self>, String> {
        let list = list.and_then(Value::as_array).into_iter().flatten();
        Ok(list
            .map(|one| Self { source: text(one, &["rule"]).to_owned(), message: text(one, &["message"]).to_owned() })
            .collect())
    }
}

/// Evaluates the rules of `schema`.
pub(crate) fn check(
    _schema: &crate::schema::Schema,
    _value: &Value,
    _old: Option<&Value>,
    _path: &str,
    _causes: &mut Vec<crate::error::Cause>,
) {
}
