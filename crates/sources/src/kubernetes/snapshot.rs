//! The configuration as it is at present, for whoever judges one change to it: listed when asked for, so that nothing is
//! known late and nothing is kept.

use evenkeel_plan::World;
use evenkeel_plan::world::Kind;
use futures_util::future::try_join_all;
use kube::Client;
use serde_json::Value;

use super::list::list_selected;
use super::resource::Resource;
use crate::manifest;

/// The objects of these kinds, by the rules the World is read by. What cannot be read is left out, and so is a kind that the
/// API does not have.
///
/// # Errors
/// The API cannot be reached, or does not permit a list.
pub async fn snapshot(client: &Client, namespace: &str, kinds: &[Kind]) -> Result<World, kube::Error> {
    let listed = try_join_all(kinds.iter().map(|kind| of_kind(client, namespace, *kind))).await?;
    let mut world = World { system_namespace: Some(namespace.to_owned()), ..World::default() };
    for (kind, object) in listed.iter().flatten() {
        for document in manifest::of_api(*kind, object).documents {
            if let Some(object) = document.object {
                world.insert(document.key.name, object);
            }
        }
    }
    Ok(world)
}

async fn of_kind(client: &Client, namespace: &str, kind: Kind) -> Result<Vec<(Kind, Value)>, kube::Error> {
    let resource = Resource::of(kind, namespace);
    match list_selected(client, &resource.path, resource.fields).await {
        Ok(objects) => Ok(objects.into_iter().map(|object| (kind, object)).collect()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
