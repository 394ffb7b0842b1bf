//! Where the kinds of the World are in an API.

use std::path::PathBuf;

use evenkeel_plan::world::Kind;
use serde_json::Value;

use crate::manifest;

/// What is read of an API. `Endpoints` are the same as the slices an API server makes of them.
pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| *kind != Kind::Endpoints)
}

/// A collection of objects.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    pub(super) kind: Kind,
    /// The path of its URL.
    pub(super) path: String,
    /// Which of its objects are of use.
    pub(super) fields: Option<&'static str>,
}

impl Resource {
    /// The objects of a kind; of Secrets those of the program's own namespace that can be a peer's password.
    pub(super) fn of(kind: Kind, namespace: &str) -> Self {
        let version = manifest::version(kind);
        let prefix = if version.contains('/') { "/apis" } else { "/api" };
        let plural = plural(kind);
        match kind {
            Kind::Secret => Self {
                kind,
                path: format!("{prefix}/{version}/namespaces/{namespace}/{plural}"),
                fields: Some("type=kubernetes.io/basic-auth"),
            },
            _ => Self { kind, path: format!("{prefix}/{version}/{plural}"), fields: None },
        }
    }

    /// The name of an object among all that are read; `None` where it has none.
    pub(super) fn path_of(&self, object: &Value) -> Option<PathBuf> {
        let metadata = object.get("metadata")?;
        let name = metadata.get("name")?.as_str()?;
        let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
        Some([self.kind.as_str(), namespace, name].iter().collect())
    }
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices",
        Kind::Endpoints => "endpoints",
        Kind::IpAddressPool => "ipaddresspools",
        Kind::L2Advertisement => "l2advertisements",
        Kind::BgpPeer => "bgppeers",
        Kind::BgpAdvertisement => "bgpadvertisements",
        Kind::BfdProfile => "bfdprofiles",
        Kind::Community => "communities",
        Kind::Secret => "secrets",
        Kind::Node => "nodes",
        Kind::Namespace => "namespaces",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        let path = |kind| Resource::of(kind, "lb").path;
        assert_eq!(path(Kind::Service), "/api/v1/services");
        assert_eq!(path(Kind::EndpointSlice), "/apis/discovery.k8s.io/v1/endpointslices");
        assert_eq!(path(Kind::BgpPeer), "/apis/metallb.io/v1beta2/bgppeers");
        assert_eq!(path(Kind::Community), "/apis/metallb.io/v1beta1/communities");
        assert_eq!(path(Kind::Secret), "/api/v1/namespaces/lb/secrets");
    }

    #[test]
    fn objects_are_told_apart_by_kind_namespace_and_name() {
        let object = serde_json::json!({"metadata": {"name": "web", "namespace": "shop"}});
        let path = Resource::of(Kind::Service, "lb").path_of(&object);
        assert_eq!(path, Some(PathBuf::from("Service/shop/web")));
        assert_eq!(Resource::of(Kind::Service, "lb").path_of(&serde_json::json!({"metadata": {}})), None);
    }
}
