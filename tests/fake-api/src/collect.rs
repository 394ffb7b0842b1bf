//! What the controllers of a cluster do after a deletion: dependents are collected, namespaces emptied.

use std::sync::Arc;

use serde_json::Value;

use crate::object::{at, deleting, fields, finalizers, meta, set_meta, text};
use crate::registry::Resource;
use crate::server::Server;
use crate::store::{Key, Stored};
use crate::write::{DeleteOptions, delete_now};

/// An object has gone: so go those it alone owned, and its namespace if it was the last in one being deleted.
pub(crate) fn after_removal(server: &Arc<Server>, resource: &Resource, uid: &str, namespace: &str) {
    let (server, uid, namespace) = (server.clone(), uid.to_owned(), namespace.to_owned());
    let definition = resource.is("apiextensions.k8s.io", "customresourcedefinitions");
    tokio::spawn(async move {
        collect(&server, &uid);
        if !namespace.is_empty() {
            empty(&server, &namespace);
        }
        if definition {
            drop_undefined(&server);
        }
    });
}

/// An object is being deleted and held by finalizers: those that are ours are seen to.
pub(crate) fn after_marking(server: &Arc<Server>, resource: &Arc<Resource>, key: &Key, value: &Value) {
    let (server, resource, key) = (server.clone(), resource.clone(), key.clone());
    let uid = meta(value, "uid").to_owned();
    let held: Vec<String> = finalizers(value).into_iter().map(str::to_owned).collect();
    tokio::spawn(async move {
        if resource.is("", "namespaces") {
            empty(&server, &key.1);
        }
        for finalizer in held.iter().filter(|one| matches!(one.as_str(), "foregroundDeletion" | "orphan")) {
            if finalizer == "orphan" {
                orphan(&server, &uid);
            } else {
                collect(&server, &uid);
            }
            release(&server, &resource, &key, finalizer);
        }
    });
}

/// Takes a finalizer off an object.
fn release(server: &Arc<Server>, resource: &Arc<Resource>, key: &Key, finalizer: &str) {
    loop {
        let mut state = server.state();
        let Some(live) = state.store.get(&resource.table, key).cloned() else { return };
        let mut value = live.value.clone();
        let left: Vec<&str> = finalizers(&live.value).into_iter().filter(|one| *one != finalizer).collect();
        set_meta(&mut value, "finalizers", left);
        if state.commit(resource, key.clone(), value, Some(&live)).is_ok() {
            let gone = state.store.get(&resource.table, key).is_none();
            drop(state);
            if gone {
                after_removal(server, resource, meta(&live.value, "uid"), &key.0);
            }
            return;
        }
    }
}

/// Deletes what `uid` owned, unless another owner is still there.
fn collect(server: &Arc<Server>, uid: &str) {
    let dependents = server.state().store.dependents(uid);
    for (table, key) in dependents {
        let mut state = server.state();
        let Some(resource) = state.registry.by_table(&table).cloned() else { continue };
        let Some(live) = state.store.get(&table, &key).cloned() else { continue };
        let owners = at(&live.value, &["metadata", "ownerReferences"]).and_then(Value::as_array).cloned();
        let (lost, kept): (Vec<Value>, Vec<Value>) =
            owners.into_iter().flatten().partition(|one| text(one, &["uid"]) == uid);
        if lost.is_empty() {
            continue;
        }
        if !kept.is_empty() {
            let mut value = live.value.clone();
            set_meta(&mut value, "ownerReferences", kept);
            // Whoever changed it meanwhile has dropped or kept the reference; either way it is not ours to delete.
            let _ = state.commit(&resource, key, value, Some(&live));
            continue;
        }
        drop(state);
        remove(server, &resource, &key, &live);
    }
}

/// Deletes one object as a controller would.
fn remove(server: &Arc<Server>, resource: &Arc<Resource>, key: &Key, live: &Arc<Stored>) {
    let options = DeleteOptions { propagation: Some("Background".to_owned()), ..DeleteOptions::default() };
    let done = delete_now(&mut server.state(), resource, key, live, &options);
    match done {
        Ok((stored, true)) => after_removal(server, resource, meta(&stored.value, "uid"), &key.0),
        Ok((stored, false)) => after_marking(server, resource, key, &stored.value),
        Err(_) => {
            let again = server.state().store.get(&resource.table, key).cloned();
            if let Some(again) = again {
                remove(server, resource, key, &again);
            }
        }
    }
}

/// Takes the references to an owner off what it owned.
fn orphan(server: &Arc<Server>, uid: &str) {
    let dependents = server.state().store.dependents(uid);
    for (table, key) in dependents {
        let mut state = server.state();
        let Some(resource) = state.registry.by_table(&table).cloned() else { continue };
        let Some(live) = state.store.get(&table, &key).cloned() else { continue };
        let mut value = live.value.clone();
        if let Some(Value::Array(owners)) =
            value.get_mut("metadata").map(fields).and_then(|meta| meta.get_mut("ownerReferences"))
        {
            owners.retain(|one| text(one, &["uid"]) != uid);
        }
        let _ = state.commit(&resource, key, value, Some(&live));
    }
}

/// Deletes what is in a namespace that is being deleted, and the namespace once it is empty.
fn empty(server: &Arc<Server>, namespace: &str) {
    let key = (String::new(), namespace.to_owned());
    let (live, namespaces, tables) = {
        let state = server.state();
        let live = state.store.get("/namespaces", &key).filter(|live| deleting(&live.value)).cloned();
        (live, state.registry.get("", "v1", "namespaces").cloned(), state.store.tables())
    };
    let (Some(live), Some(namespaces)) = (live, namespaces) else { return };
    let mut left = false;
    for table in tables {
        let (resource, objects) = {
            let state = server.state();
            (state.registry.by_table(&table).cloned(), state.store.snapshot(&table))
        };
        let Some(resource) = resource.filter(|resource| resource.namespaced) else { continue };
        for (key, object) in objects.iter().filter(|((home, _), _)| home == namespace) {
            if !deleting(&object.value) {
                remove(server, &resource, key, object);
            }
            left |= server.state().store.get(&table, key).is_some();
        }
    }
    if !left && finalizers(&live.value).is_empty() {
        let current = server.state().store.get("/namespaces", &key).cloned();
        if let Some(current) = current
            && server.state().remove(&namespaces, &key, &current).is_ok()
        {
            after_removal(server, &namespaces, meta(&current.value, "uid"), "");
        }
    }
}

/// Drops custom resources whose definition has gone.
fn drop_undefined(server: &Arc<Server>) {
    let mut state = server.state();
    for table in state.store.tables() {
        if state.registry.by_table(&table).is_some() {
            continue;
        }
        for (key, live) in state.store.snapshot(&table) {
            // Under the same lock as the snapshot: nobody can have changed it.
            let _ = state.store.remove(&table, &key, live.revision);
        }
    }
}
