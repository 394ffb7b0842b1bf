//! JSON patch (RFC 6902) and JSON merge patch (RFC 7386).

use serde_json::Value;

use crate::error::ApiError;

/// Applies a JSON patch.
pub(crate) fn patch(mut object: Value, patch: &Value) -> Result<Value, ApiError> {
    let patch = json_patch::Patch::deserialize_from(patch)?;
    json_patch::patch(&mut object, &patch).map_err(|error| {
        ApiError::with_reason(
            422,
            "Invalid",
            format!("the server rejected our request due to an error in our request: {error}"),
        )
    })?;
    Ok(object)
}

/// Applies a merge patch.
pub(crate) fn merge(mut object: Value, patch: &Value) -> Value {
    json_patch::merge(&mut object, patch);
    object
}

/// Reading a patch that came as a value.
trait DeserializeFrom: Sized {
    fn deserialize_from(value: &Value) -> Result<Self, ApiError>;
}

impl DeserializeFrom for json_patch::Patch {
    fn deserialize_from(value: &Value) -> Result<Self, ApiError> {
        serde_json::from_value(value.clone())
            .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))
    }
}
