//! AdmissionReview (`admission.k8s.io/v1`): what an API server asks, and the answer.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::verdict::Verdict;

/// The version that is spoken.
const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// What is asked about.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Tells the answer whose question it belongs to.
    pub uid: String,
    /// What is to happen.
    pub operation: Operation,
    /// The API group of the object.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// The object as it is to be; none when it is deleted.
    pub object: Option<Value>,
    /// The object as it is; none when it is created.
    pub old: Option<Value>,
}

/// What is to happen to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// It is to be made.
    Create,
    /// It is to be changed.
    Update,
    /// It is to go.
    Delete,
    /// Somebody connects to it, which nobody does here.
    Connect,
}

/// Why a body is not understood.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// It is no JSON, or a field is of another type.
    #[error("not an AdmissionReview: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It is another kind of object, or another version.
    #[error("expected an {KIND} of {API_VERSION}, found kind `{kind}` of `{version}`")]
    OtherKind {
        /// The kind found.
        kind: String,
        /// The version found.
        version: String,
    },
    /// It asks nothing.
    #[error("the AdmissionReview has no request")]
    NoRequest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    request: Option<Asked>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    uid: String,
    operation: Operation,
    kind: AskedKind,
    #[serde(default)]
    object: Option<Value>,
    #[serde(default)]
    old_object: Option<Value>,
}

#[derive(Deserialize)]
struct AskedKind {
    #[serde(default)]
    group: String,
    kind: String,
}

impl Request {
    /// What a body asks.
    ///
    /// # Errors
    /// See [`ReviewError`].
    pub fn parse(body: &[u8]) -> Result<Self, ReviewError> {
        let Review { api_version, kind, request } = serde_json::from_slice(body)?;
        if (api_version.as_str(), kind.as_str()) != (API_VERSION, KIND) {
            let cut = |text: String| text.chars().take(64).collect();
            return Err(ReviewError::OtherKind { kind: cut(kind), version: cut(api_version) });
        }
        let asked = request.ok_or(ReviewError::NoRequest)?;
        let given = |object: Option<Value>| object.filter(|object| !object.is_null());
        Ok(Self {
            uid: asked.uid,
            operation: asked.operation,
            group: asked.kind.group,
            kind: asked.kind.kind,
            object: given(asked.object),
            old: given(asked.old_object),
        })
    }

    /// The answer, as the body of a response.
    #[must_use]
    pub fn answer(&self, verdict: &Verdict) -> Vec<u8> {
        let mut response = BTreeMap::from([("uid", json!(self.uid)), ("allowed", json!(verdict.is_allowed()))]);
        if !verdict.is_allowed() {
            let causes: Vec<Value> = verdict
                .refusals
                .iter()
                .map(
                    |finding| json!({"reason": finding.reason, "field": finding.field, "message": finding.to_string()}),
                )
                .collect();
            let message: Vec<String> = verdict.refusals.iter().map(ToString::to_string).collect();
            response.insert(
                "status",
                json!({"status": "Failure", "code": 403, "reason": "Forbidden", "message": message.join("\n"),
                    "details": {"causes": causes}}),
            );
        }
        if !verdict.warnings.is_empty() {
            let warnings: Vec<String> = verdict.warnings.iter().map(ToString::to_string).collect();
            response.insert("warnings", json!(warnings));
        }
        json!({"apiVersion": API_VERSION, "kind": KIND, "response": response}).to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(request: &Value) -> Vec<u8> {
        json!({"apiVersion": API_VERSION, "kind": KIND, "request": request}).to_string().into_bytes()
    }

    #[test]
    fn a_question_is_read() {
        let body = asked(&json!({
            "uid": "u", "operation": "UPDATE", "kind": {"group": "metallb.io", "version": "v1beta1", "kind": "Community"},
            "name": "c", "dryRun": true, "userInfo": {}, "object": {"a": 1}, "oldObject": null,
        }));
        let request = Request::parse(&body).unwrap();
        assert_eq!((request.uid.as_str(), request.operation), ("u", Operation::Update));
        assert_eq!((request.group.as_str(), request.kind.as_str()), ("metallb.io", "Community"));
        assert_eq!((request.object, request.old), (Some(json!({"a": 1})), None));
    }

    #[test]
    fn what_is_no_question_is_named() {
        let error = |body: &[u8]| Request::parse(body).unwrap_err().to_string();
        assert!(error(b"<html>").starts_with("not an AdmissionReview: expected value"));
        assert!(error(&asked(&json!({"uid": 7}))).starts_with("not an AdmissionReview: invalid type"));
        assert!(error(b"{\"kind\":\"Pod\",\"apiVersion\":\"v1\"}").contains("found kind `Pod` of `v1`"));
        let old = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": KIND, "request": {}}).to_string();
        assert!(Request::parse(old.as_bytes()).is_err());
        let none = json!({"apiVersion": API_VERSION, "kind": KIND}).to_string();
        assert_eq!(error(none.as_bytes()), "the AdmissionReview has no request");
    }

    #[test]
    fn an_answer_is_for_its_question() {
        let request = Request::parse(&asked(&json!({
            "uid": "u-1", "operation": "CREATE", "kind": {"group": "metallb.io", "kind": "IPAddressPool"},
        })));
        let answer: Value = serde_json::from_slice(&request.unwrap().answer(&Verdict::default())).unwrap();
        let expected = json!({"apiVersion": API_VERSION, "kind": KIND, "response": {"uid": "u-1", "allowed": true}});
        assert_eq!(answer, expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::parse(&bytes);
        }

        #[test]
        fn any_question_of_the_right_form_is_answered(
            uid in ".{0,40}", operation in "CREATE|UPDATE|DELETE|CONNECT", group in ".{0,12}", kind in ".{0,12}",
        ) {
            let body = asked(&json!({"uid": uid, "operation": operation, "kind": {"group": group, "kind": kind}}));
            let request = Request::parse(&body).unwrap();
            let answer: Value = serde_json::from_slice(&request.answer(&Verdict::default())).unwrap();
            prop_assert_eq!(&answer["response"]["uid"], &json!(uid));
        }
    }
}
