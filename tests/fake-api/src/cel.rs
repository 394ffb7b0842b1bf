//! `x-kubernetes-validations`: rules in CEL on custom resources.
//!
//! After <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-rules>.
//! Not served: durations, timestamps, quantities, URLs, and addresses beyond `isIP` and `isCIDR`; a rule that uses one
//! fails to evaluate, which refuses the object and says so.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use cel::{Context, Env, Program};
use serde_json::Value;

use crate::error::Cause;
use crate::object::text;
use crate::patch::fields::elements;
use crate::schema::{Schema, Type, join};

static LANGUAGE: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    for extension in [cel::extensions::strings, cel::extensions::lists] {
        if let Err(error) = env.add_extension(extension) {
            unreachable!("the extensions fit the standard library: {error:?}");
        }
    }
    Arc::new(env)
});

/// One rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    source: String,
    program: Arc<Program>,
    message: String,
    message_program: Option<Arc<Program>>,
    reason: &'static str,
    field: String,
    /// It compares with the former state, and holds where there is none.
    transition: bool,
}

impl Rule {
    /// Compiles the rules of a schema.
    pub(crate) fn compile_all(list: Option<&Value>) -> Result<Vec<Self>, String> {
        list.and_then(Value::as_array).into_iter().flatten().map(Self::compile).collect()
    }

    fn compile(rule: &Value) -> Result<Self, String> {
        let compile = |source: &str| {
            LANGUAGE.compile(source).map(Arc::new).map_err(|error| format!("compilation failed: {source}: {error}"))
        };
        let source = text(rule, &["rule"]);
        let program = compile(source)?;
        let message_source = text(rule, &["messageExpression"]);
        let transition = program.references().has_variable("oldSelf");
        let reason = match text(rule, &["reason"]) {
            "FieldValueForbidden" => "FieldValueForbidden",
            "FieldValueRequired" => "FieldValueRequired",
            "FieldValueDuplicate" => "FieldValueDuplicate",
            _ => "FieldValueInvalid",
        };
        Ok(Self {
            source: source.to_owned(),
            program,
            message: text(rule, &["message"]).to_owned(),
            message_program: if message_source.is_empty() { None } else { Some(compile(message_source)?) },
            reason,
            field: text(rule, &["fieldPath"]).to_owned(),
            transition: transition && rule.get("optionalOldSelf") != Some(&Value::Bool(true)),
        })
    }

    fn check(&self, schema: &Schema, value: &Value, old: Option<&Value>, path: &str) -> Option<Cause> {
        if self.transition && old.is_none() {
            return None;
        }
        let mut context = Context::with_env(LANGUAGE.clone());
        context.add_variable_from_value("self", to_cel(Some(schema), value));
        if let Some(old) = old {
            context.add_variable_from_value("oldSelf", to_cel(Some(schema), old));
        }
        let address = |text: Arc<String>| text.parse::<IpAddr>().is_ok();
        let range = |text: Arc<String>| {
            text.split_once('/').is_some_and(|(address, length)| {
                let most = address.parse::<IpAddr>().map(|address| if address.is_ipv4() { 32 } else { 128 });
                most.is_ok_and(|most| length.parse::<u8>().is_ok_and(|length| length <= most))
            })
        };
        if context.add_function("isIP", address).is_err() || context.add_function("isCIDR", range).is_err() {
            return Some(self.cause(schema, path, "the server's own functions clash".to_owned()));
        }
        match self.program.execute(&context) {
            Ok(cel::Value::Bool(true)) => None,
            Ok(cel::Value::Bool(false)) => {
                let computed = self.message_program.as_ref().and_then(|program| match program.execute(&context) {
                    Ok(cel::Value::String(message)) => Some(message.as_ref().clone()),
                    _ => None,
                });
                let message = computed.unwrap_or_else(|| {
                    if self.message.is_empty() { format!("failed rule: {}", self.source) } else { self.message.clone() }
                });
                Some(self.cause(schema, path, message))
            }
            Ok(_) => Some(self.cause(schema, path, format!("rule is not a condition: {}", self.source))),
            Err(error) => Some(self.cause(schema, path, format!("rule evaluation error: {error}: {}", self.source))),
        }
    }

    fn cause(&self, schema: &Schema, path: &str, message: String) -> Cause {
        let kind = match schema.kind {
            Type::Array => "array",
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
            _ => "object",
        };
        let message = match self.reason {
            "FieldValueForbidden" => format!("Forbidden: {message}"),
            "FieldValueRequired" => format!("Required value: {message}"),
            "FieldValueDuplicate" => format!("Duplicate value: \"{kind}\""),
            _ => format!("Invalid value: \"{kind}\": {message}"),
        };
        Cause { reason: self.reason, message, field: format!("{path}{}", self.field) }
    }
}

/// What the rules of `schema` and below have against `value`. `old` is its former state.
pub(crate) fn check(schema: &Schema, value: &Value, old: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    let field = if path.is_empty() { "<nil>" } else { path };
    causes.extend(schema.rules.iter().filter_map(|rule| rule.check(schema, value, old, field)));
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                if let Some(schema) = schema.field(name) {
                    check(schema, inner, old.and_then(|old| old.get(name)), &join(path, name), causes);
                }
            }
        }
        Value::Array(list) => {
            let Some(items) = &schema.items else { return };
            // Items have a former state where the list tells them apart.
            let before = old.and_then(Value::as_array);
            let names = elements(Some(schema), list);
            let old_names = before.and_then(|before| elements(Some(schema), before));
            for (index, inner) in list.iter().enumerate() {
                let name = names.as_ref().and_then(|names| names.get(index));
                let place = old_names.as_ref().and_then(|old| old.iter().position(|one| Some(one) == name));
                let old = place.and_then(|place| before.and_then(|before| before.get(place)));
                check(items, inner, old, &format!("{path}[{index}]"), causes);
            }
        }
        _ => {}
    }
}

/// A JSON value as rules see it: numbers by their schema, names of fields escaped.
fn to_cel(schema: Option<&Schema>, value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Number(number) => match number.as_i64() {
            Some(whole) if schema.is_none_or(|schema| schema.kind != Type::Number) => cel::Value::Int(whole),
            _ => cel::Value::Float(number.as_f64().unwrap_or_default()),
        },
        Value::Array(list) => {
            let items = schema.and_then(|schema| schema.items.as_deref());
            cel::Value::List(Arc::new(list.iter().map(|one| to_cel(items, one)).collect()))
        }
        Value::Object(map) => {
            let fields: HashMap<String, cel::Value> = map
                .iter()
                .map(|(name, inner)| {
                    let known = schema.is_some_and(|schema| schema.properties.contains_key(name));
                    let inner = to_cel(schema.and_then(|schema| schema.field(name)).map(AsRef::as_ref), inner);
                    (if known { escaped(name) } else { name.clone() }, inner)
                })
                .collect();
            cel::Value::Map(fields.into())
        }
    }
}

/// The name of a field in rules: words of the language and letters it does not have are spelled out.
fn escaped(name: &str) -> String {
    const WORDS: &[&str] = &[
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
    ];
    if WORDS.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__").replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Definitions;

    fn causes(schema: Value, value: Value, old: Option<Value>) -> Vec<String> {
        let schema = Schema::compile(&schema, &Definitions::new()).expect("a schema");
        let mut causes = Vec::new();
        check(&schema, &value, old.as_ref(), "", &mut causes);
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn rules_are_evaluated_where_they_stand() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
            "properties": {"low": {"type": "integer"}, "high": {"type": "integer"}, "namespace": {"type": "string"}},
            "x-kubernetes-validations": [
                {"rule": "self.low <= self.high", "message": "low above high"},
                {"rule": "!has(self.__namespace__) || self.__namespace__.startsWith('a')", "fieldPath": ".namespace",
                 "messageExpression": "'not ' + self.__namespace__"}]}}});
        assert!(causes(schema.clone(), json!({"spec": {"low": 1, "high": 2}}), None).is_empty());
        assert_eq!(
            causes(schema, json!({"spec": {"low": 3, "high": 2, "namespace": "b"}}), None),
            ["spec: Invalid value: \"object\": low above high", "spec.namespace: Invalid value: \"object\": not b"]
        );
    }

    #[test]
    fn transition_rules_need_a_former_state() {
        let schema = json!({"type": "object", "properties": {"name": {"type": "string",
            "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "immutable"}]}}});
        assert!(causes(schema.clone(), json!({"name": "a"}), None).is_empty());
        assert!(causes(schema.clone(), json!({"name": "a"}), Some(json!({"name": "a"}))).is_empty());
        let refused = causes(schema, json!({"name": "b"}), Some(json!({"name": "a"})));
        assert_eq!(refused, ["name: Invalid value: \"string\": immutable"]);
    }

    #[test]
    fn a_rule_that_does_not_parse_is_refused() {
        assert!(Rule::compile(&json!({"rule": "self.a ==="})).is_err());
    }
}
