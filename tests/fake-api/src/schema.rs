//! Schemas of kinds: OpenAPI definitions and CRDs' structural schemas, compiled into what validation, defaulting, pruning
//! and merging walk.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;
use serde_json::{Map, Value};

use crate::cel::Rule;
use crate::error::{Cause, type_name};

/// How the items of a list are told apart when it is merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListType {
    /// Replaced as a whole.
    Atomic,
    /// By their value.
    Set,
    /// By these fields.
    Map(Vec<String>),
}

/// The JSON types a value may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
    /// A string or any number: `resource.Quantity`.
    Quantity,
}

/// One node of a schema.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    pub(crate) kind: Type,
    pub(crate) properties: BTreeMap<String, Arc<Self>>,
    /// The schema of a map's values.
    pub(crate) values: Option<Arc<Self>>,
    pub(crate) items: Option<Arc<Self>>,
    pub(crate) list: ListType,
    pub(crate) atomic: bool,
    /// `patchMergeKey` and `patchStrategy: merge`: what a strategic merge patch does with this list.
    pub(crate) merge_key: Option<String>,
    pub(crate) merge: bool,
    pub(crate) preserve: bool,
    pub(crate) embedded: bool,
    nullable: bool,
    default: Option<Value>,
    required: Vec<String>,
    one_of_values: Vec<Value>,
    pattern: Option<Regex>,
    format: Option<String>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    exclusive_minimum: bool,
    exclusive_maximum: bool,
    multiple_of: Option<f64>,
    min_length: Option<u64>,
    max_length: Option<u64>,
    min_items: Option<u64>,
    max_items: Option<u64>,
    min_properties: Option<u64>,
    max_properties: Option<u64>,
    unique_items: bool,
    all_of: Vec<Arc<Self>>,
    any_of: Vec<Arc<Self>>,
    one_of: Vec<Arc<Self>>,
    not: Option<Arc<Self>>,
    pub(crate) rules: Vec<Rule>,
}

/// Where `$ref`s are looked up.
pub(crate) type Definitions = Map<String, Value>;

/// A kind whose schema holds itself: it is checked when the CRD is compiled.
const RECURSIVE: &str = "JSONSchemaProps";

impl Schema {
    /// The schema of anything, kept as it is.
    pub(crate) fn any() -> Self {
        match Self::compile(&Value::Object(Map::new()), &Definitions::new()) {
            Ok(schema) => Self { preserve: true, ..schema },
            Err(_) => unreachable!("the empty schema is valid"),
        }
    }

    /// Compiles an OpenAPI v3 schema. The error names what of it cannot be.
    pub(crate) fn compile(source: &Value, definitions: &Definitions) -> Result<Self, String> {
        if let Some(name) = source.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next()) {
            if name.ends_with(RECURSIVE) {
                return Ok(Self { kind: Type::Object, atomic: false, ..Self::any() });
            }
            if name.ends_with("FieldsV1") || name.ends_with("RawExtension") {
                return Ok(Self { kind: Type::Object, ..Self::any() });
            }
            let target = definitions.get(name).ok_or_else(|| format!("no definition of {name}"))?;
            // What stands beside the reference (defaults, list types) wins.
            let mut merged = target.as_object().cloned().unwrap_or_default();
            for (key, value) in source.as_object().into_iter().flatten().filter(|(key, _)| *key != "$ref") {
                merged.insert(key.clone(), value.clone());
            }
            return Self::compile(&Value::Object(merged), definitions);
        }
        let text = |key: &str| source.get(key).and_then(Value::as_str);
        let flag = |key: &str| source.get(key).and_then(Value::as_bool).unwrap_or(false);
        let count = |key: &str| source.get(key).and_then(Value::as_u64);
        let number = |key: &str| source.get(key).and_then(Value::as_f64);
        let child = |value: &Value| Self::compile(value, definitions).map(Arc::new);
        let children = |key: &str| -> Result<Vec<Arc<Self>>, String> {
            source.get(key).and_then(Value::as_array).into_iter().flatten().map(child).collect()
        };
        let mut properties = BTreeMap::new();
        for (name, value) in source.get("properties").and_then(Value::as_object).into_iter().flatten() {
            properties.insert(name.clone(), child(value).map_err(|why| format!("{name}: {why}"))?);
        }
        let (values, open) = match source.get("additionalProperties") {
            None | Some(Value::Bool(false)) => (None, false),
            Some(Value::Bool(true)) => (None, true),
            Some(value) => (Some(child(value)?), false),
        };
        let keys: Vec<String> = strings(source.get("x-kubernetes-list-map-keys"));
        let mut items = source.get("items").map(child).transpose()?;
        let merge_key = text("x-kubernetes-patch-merge-key").map(str::to_owned);
        let list = match text("x-kubernetes-list-type") {
            Some("map") => ListType::Map(keys),
            Some("set") => ListType::Set,
            _ => ListType::Atomic,
        };
        // The one key that API types default within its list.
        if let (ListType::Map(keys), Some(item)) = (&list, &mut items)
            && keys.iter().any(|key| key == "protocol")
            && item.properties.get("protocol").is_some_and(|one| one.default.is_none())
        {
            let mut changed = item.as_ref().clone();
            if let Some(protocol) = changed.properties.get_mut("protocol") {
                *protocol = Arc::new(Self { default: Some("TCP".into()), ..protocol.as_ref().clone() });
            }
            *item = Arc::new(changed);
        }
        let strategy = text("x-kubernetes-patch-strategy").unwrap_or_default();
        let alternatives: Vec<&str> = source
            .get("oneOf")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|one| one.get("type").and_then(Value::as_str))
            .collect();
        let kind = match text("type") {
            _ if flag("x-kubernetes-int-or-string") => Type::IntOrString,
            None if alternatives == ["string", "integer"] => Type::IntOrString,
            None if alternatives == ["string", "number"] => Type::Quantity,
            Some("object") => Type::Object,
            Some("array") => Type::Array,
            Some("string") => Type::String,
            Some("integer") => Type::Integer,
            Some("number") => Type::Number,
            Some("boolean") => Type::Boolean,
            Some(other) => return Err(format!("type {other:?} is not known")),
            None => Type::Any,
        };
        let bare = properties.is_empty() && values.is_none() && items.is_none();
        let preserve = flag("x-kubernetes-preserve-unknown-fields") || open || (bare && kind == Type::Any);
        Ok(Self {
            kind,
            properties,
            values,
            items,
            list,
            atomic: text("x-kubernetes-map-type") == Some("atomic"),
            merge_key,
            merge: strategy.split(',').any(|one| one == "merge"),
            preserve,
            embedded: flag("x-kubernetes-embedded-resource"),
            nullable: flag("nullable"),
            default: source.get("default").filter(|value| !value.is_null()).cloned(),
            required: strings(source.get("required")),
            one_of_values: source.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            pattern: text("pattern").map(Regex::new).transpose().map_err(|error| error.to_string())?,
            format: text("format").map(str::to_owned),
            minimum: number("minimum"),
            maximum: number("maximum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            unique_items: flag("uniqueItems"),
            all_of: children("allOf")?,
            any_of: children("anyOf")?,
            one_of: if matches!(kind, Type::IntOrString | Type::Quantity) { Vec::new() } else { children("oneOf")? },
            not: source.get("not").map(child).transpose()?,
            rules: Rule::compile_all(source.get("x-kubernetes-validations"))?,
        })
    }

    /// The schema of a field of an object, if any is known.
    pub(crate) fn field(&self, name: &str) -> Option<&Arc<Self>> {
        self.properties.get(name).or(self.values.as_ref())
    }

    /// The default of a field of the items, for keys of lists that may be left out.
    pub(crate) fn key_default(&self, key: &str) -> Option<&Value> {
        self.properties.get(key).and_then(|schema| schema.default.as_ref())
    }

    /// Fills in defaults where the field's parent is there.
    pub(crate) fn default_into(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (name, schema) in &self.properties {
                    if let Some(default) = &schema.default {
                        let absent = match map.get(name) {
                            None => true,
                            Some(Value::Null) => !schema.nullable,
                            Some(_) => false,
                        };
                        if absent {
                            map.insert(name.clone(), default.clone());
                        }
                    }
                }
                for (name, inner) in map.iter_mut() {
                    if let Some(schema) = self.field(name) {
                        schema.default_into(inner);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|inner| items.default_into(inner));
                }
            }
            _ => {}
        }
    }

    /// Drops what the schema does not know, and nulls that are not allowed. Returns the paths dropped.
    pub(crate) fn prune(&self, value: &mut Value, path: &str, root: bool, dropped: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                let special = root || self.embedded;
                let keep = |name: &str| {
                    self.preserve
                        || self.kind == Type::Any
                        || self.field(name).is_some()
                        || (special && matches!(name, "apiVersion" | "kind" | "metadata"))
                };
                let unknown: Vec<String> = map.keys().filter(|name| !keep(name)).cloned().collect();
                for name in unknown {
                    map.remove(&name);
                    dropped.push(join(path, &name));
                }
                for (name, inner) in map.iter_mut() {
                    if special && name == "metadata" && !self.properties.contains_key(name) {
                        continue;
                    }
                    if let Some(schema) = self.field(name) {
                        schema.prune(inner, &join(path, name), false, dropped);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    for (index, inner) in list.iter_mut().enumerate() {
                        items.prune(inner, &format!("{path}[{index}]"), false, dropped);
                    }
                }
            }
            _ => {}
        }
    }

    /// Drops fields that are null though they may not be: decoding into Go types does so.
    pub(crate) fn drop_nulls(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|name, inner| {
                    !inner.is_null()
                        || self.field(name).is_some_and(|schema| schema.nullable)
                        || self.field(name).is_none()
                });
                for (name, inner) in map.iter_mut() {
                    if let Some(schema) = self.field(name) {
                        schema.drop_nulls(inner);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|inner| items.drop_nulls(inner));
                }
            }
            _ => {}
        }
    }

    /// Everything that is wrong with `value`, in the order of the schema.
    pub(crate) fn validate(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if value.is_null() {
            if !self.nullable && self.kind != Type::Any {
                causes.push(Cause::type_invalid(path, value, self.type_text()));
            }
            return;
        }
        if !self.type_fits(value) {
            causes.push(Cause::type_invalid(path, value, self.type_text()));
            return;
        }
        if !self.one_of_values.is_empty() && !self.one_of_values.contains(value) {
            let supported: Vec<String> = self
                .one_of_values
                .iter()
                .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
                .collect();
            causes.push(Cause::unsupported(path, value, &supported));
        }
        match value {
            Value::String(text) => self.validate_text(text, value, path, causes),
            Value::Number(number) => self.validate_number(number.as_f64().unwrap_or_default(), value, path, causes),
            Value::Array(list) => self.validate_list(list, value, path, causes),
            Value::Object(map) => self.validate_map(map, value, path, causes),
            Value::Null | Value::Bool(_) => {}
        }
        self.validate_junctors(value, path, causes);
    }

    fn validate_text(&self, text: &str, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        let length = text.chars().count() as u64;
        if self.min_length.is_some_and(|least| length < least) {
            let least = self.min_length.unwrap_or_default();
            causes.push(Cause::invalid(path, value, format!("{path} in body should be at least {least} chars long")));
        }
        if let Some(most) = self.max_length.filter(|most| length > *most) {
            causes.push(Cause {
                reason: "FieldValueTooLong",
                message: format!("Too long: may not be more than {most} bytes"),
                field: path.to_owned(),
            });
        }
        if let Some(pattern) = self.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            let why = format!("{path} in body should match '{}'", pattern.as_str());
            causes.push(Cause::invalid(path, value, why));
        }
        if let Some(format) = self.format.as_deref().filter(|format| !format_fits(format, text)) {
            causes.push(Cause::invalid(path, value, format!("{path} in body must be of type {format}: {value}")));
        }
    }

    fn validate_number(&self, number: f64, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if let Some(least) = self.minimum
            && (number < least || (self.exclusive_minimum && number <= least))
        {
            let relation = if self.exclusive_minimum { "greater than" } else { "greater than or equal to" };
            causes.push(Cause::invalid(path, value, format!("{path} in body should be {relation} {least}")));
        }
        if let Some(most) = self.maximum
            && (number > most || (self.exclusive_maximum && number >= most))
        {
            let relation = if self.exclusive_maximum { "less than" } else { "less than or equal to" };
            causes.push(Cause::invalid(path, value, format!("{path} in body should be {relation} {most}")));
        }
        if let Some(factor) = self.multiple_of.filter(|factor| *factor > 0.0 && number % factor != 0.0) {
            causes.push(Cause::invalid(path, value, format!("{path} in body should be a multiple of {factor}")));
        }
        let range = match self.format.as_deref() {
            Some("int32") => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
            _ => None,
        };
        if let Some((least, most)) = range
            && !(least..=most).contains(&number)
        {
            let why = format!("Checked value must be of type integer with format int32 in {path}");
            causes.push(Cause::invalid(path, value, why));
        }
    }

    fn validate_list(&self, list: &[Value], value: &Value, path: &str, causes: &mut Vec<Cause>) {
        let length = list.len() as u64;
        if let Some(least) = self.min_items.filter(|least| length < *least) {
            causes.push(Cause::invalid(
                path,
                &length.into(),
                format!("{path} in body should have at least {least} items"),
            ));
        }
        if let Some(most) = self.max_items.filter(|most| length > *most) {
            causes.push(Cause {
                reason: "FieldValueTooMany",
                message: format!("Too many: {length}: must have at most {most} items"),
                field: path.to_owned(),
            });
        }
        let _ = value;
        for (index, item) in list.iter().enumerate() {
            let field = format!("{path}[{index}]");
            if let Some(items) = &self.items {
                items.validate(item, &field, causes);
            }
            let twice = match &self.list {
                ListType::Set => list.iter().take(index).any(|before| before == item),
                ListType::Map(keys) => {
                    let identity = |one: &Value| -> Vec<Value> {
                        keys.iter()
                            .map(|key| {
                                let fallback = || self.items.as_ref().and_then(|items| items.key_default(key)).cloned();
                                one.get(key).cloned().or_else(fallback).unwrap_or_default()
                            })
                            .collect()
                    };
                    let own = identity(item);
                    list.iter().take(index).any(|before| identity(before) == own)
                }
                ListType::Atomic => self.unique_items && list.iter().take(index).any(|before| before == item),
            };
            if twice {
                let shown = match &self.list {
                    ListType::Map(keys) => Value::Object(
                        keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone()))).collect(),
                    ),
                    _ => item.clone(),
                };
                causes.push(Cause::duplicate(field, &shown));
            }
        }
    }

    fn validate_map(&self, map: &Map<String, Value>, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        let length = map.len() as u64;
        if let Some(least) = self.min_properties.filter(|least| length < *least) {
            let why = format!("{path} in body should have at least {least} properties");
            causes.push(Cause::invalid(path, value, why));
        }
        if let Some(most) = self.max_properties.filter(|most| length > *most) {
            causes.push(Cause::invalid(path, value, format!("{path} in body should have at most {most} properties")));
        }
        for name in &self.required {
            if !map.contains_key(name) {
                causes.push(Cause::required(join(path, name), ""));
            }
        }
        for (name, inner) in map {
            if let Some(schema) = self.properties.get(name) {
                schema.validate(inner, &join(path, name), causes);
            } else if let Some(schema) = &self.values {
                schema.validate(inner, &join(path, name), causes);
            }
        }
    }

    fn validate_junctors(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        let fits = |schema: &Arc<Self>| {
            let mut found = Vec::new();
            schema.validate(value, path, &mut found);
            found.is_empty()
        };
        for schema in &self.all_of {
            schema.validate(value, path, causes);
        }
        if !self.any_of.is_empty() && !self.any_of.iter().any(fits) {
            let why = format!("{path} in body must validate at least one schema (anyOf)");
            causes.push(Cause::invalid(path, &Value::String(String::new()), why));
        }
        if !self.one_of.is_empty() && self.one_of.iter().filter(|schema| fits(schema)).count() != 1 {
            let why = format!("{path} in body must validate one and only one schema (oneOf)");
            causes.push(Cause::invalid(path, &Value::String(String::new()), why));
        }
        if self.not.as_ref().is_some_and(fits) {
            let why = format!("{path} in body must not validate the schema (not)");
            causes.push(Cause::invalid(path, &Value::String(String::new()), why));
        }
    }

    fn type_fits(&self, value: &Value) -> bool {
        let whole =
            |value: &Value| value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|one| one.fract() == 0.0);
        match self.kind {
            Type::Any => true,
            Type::Object => value.is_object(),
            Type::Array => value.is_array(),
            Type::String => value.is_string(),
            Type::Integer => whole(value),
            Type::Number => value.is_number(),
            Type::Boolean => value.is_boolean(),
            Type::IntOrString => value.is_string() || whole(value),
            Type::Quantity => value.is_string() || value.is_number(),
        }
    }

    fn type_text(&self) -> &'static str {
        match self.kind {
            Type::Any => "any",
            Type::Object => "object",
            Type::Array => "array",
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
            Type::IntOrString => "integer,string",
            Type::Quantity => "string,number",
        }
    }

    /// The first field whose JSON type does not fit, as decoding into a Go type would report it.
    pub(crate) fn misfit(&self, value: &Value, path: &str) -> Option<(String, &'static str, &'static str)> {
        if value.is_null() {
            return None;
        }
        if !self.type_fits(value) {
            return Some((path.to_owned(), type_name(value), self.type_text()));
        }
        match value {
            Value::Object(map) => {
                map.iter().find_map(|(name, inner)| self.field(name)?.misfit(inner, &join(path, name)))
            }
            Value::Array(list) => {
                let items = self.items.as_ref()?;
                list.iter().enumerate().find_map(|(index, inner)| items.misfit(inner, &format!("{path}[{index}]")))
            }
            _ => None,
        }
    }
}

/// `path.name`, or `name` at the top.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn format_fits(format: &str, text: &str) -> bool {
    use std::net::{Ipv4Addr, Ipv6Addr};
    match format {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(address, length)| {
            let most = match address.parse::<std::net::IpAddr>() {
                Ok(std::net::IpAddr::V4(_)) => 32,
                Ok(std::net::IpAddr::V6(_)) => 128,
                Err(_) => return false,
            };
            length.parse::<u8>().is_ok_and(|length| length <= most)
        }),
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        "uuid" => {
            text.len() == 36
                && text.char_indices().all(|(at, letter)| {
                    if matches!(at, 8 | 13 | 18 | 23) { letter == '-' } else { letter.is_ascii_hexdigit() }
                })
        }
        _ => true,
    }
}
