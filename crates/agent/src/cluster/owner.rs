//! Whose objects are a node's: when the Node is deleted, Kubernetes deletes what names it as its owner.

use kube::{
    Client,
    core::{params::ListParams, request::Request},
};
use serde_json::{Value, json};

/// A node as an owner (`metadata.ownerReferences`), which may be one of objects in a namespace; `None`: the API has no such
/// node. By a list, which is what agents may do anyway.
///
/// # Errors
/// The API does not say.
pub(super) async fn reference(client: &Client, node: &str) -> Result<Option<Value>, kube::Error> {
    let one = ListParams::default().fields(&format!("metadata.name={node}"));
    let request = Request::new("/api/v1/nodes").list(&one).map_err(kube::Error::BuildRequest)?;
    let listed: Value = client.request(request).await?;
    let uid = listed.pointer("/items/0/metadata/uid").and_then(Value::as_str);
    Ok(uid.map(|uid| json!({ "apiVersion": "v1", "kind": "Node", "name": node, "uid": uid })))
}
