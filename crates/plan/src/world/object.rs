//! Objects of any kind: how sources hand them over.

use std::fmt;
use std::sync::Arc;

use super::{
    BfdProfile, BgpAdvertisement, BgpPeer, CommunityAliases, EndpointSlice, Endpoints, IpAddressPool, Kind,
    L2Advertisement, Node, ObjectName, Secret, Service, World,
};
use crate::selector::Labels;

/// What makes an object the same object from one version to the next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its name, without a namespace for kinds that have none.
    pub name: ObjectName,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// An object of one of the kinds the World is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named like its kind")]
pub enum Object {
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Endpoints(Arc<Endpoints>),
    IpAddressPool(Arc<IpAddressPool>),
    L2Advertisement(Arc<L2Advertisement>),
    BgpPeer(Arc<BgpPeer>),
    BgpAdvertisement(Arc<BgpAdvertisement>),
    BfdProfile(Arc<BfdProfile>),
    Community(Arc<CommunityAliases>),
    Secret(Arc<Secret>),
    Node(Arc<Node>),
    Namespace(Arc<Labels>),
}

impl World {
    /// Put an object under this name, in place of an earlier version.
    pub fn insert(&mut self, name: ObjectName, object: Object) {
        match object {
            Object::Service(service) => _ = self.services.insert(name, service),
            Object::EndpointSlice(slice) => _ = self.endpoint_slices.insert(name, slice),
            Object::Endpoints(endpoints) => _ = self.endpoints.insert(name, endpoints),
            Object::IpAddressPool(pool) => _ = self.pools.insert(name, pool),
            Object::L2Advertisement(advertisement) => _ = self.l2_advertisements.insert(name, advertisement),
            Object::BgpPeer(peer) => _ = self.bgp_peers.insert(name, peer),
            Object::BgpAdvertisement(advertisement) => _ = self.bgp_advertisements.insert(name, advertisement),
            Object::BfdProfile(profile) => _ = self.bfd_profiles.insert(name, profile),
            Object::Community(aliases) => _ = self.communities.insert(name, aliases),
            Object::Secret(secret) => _ = self.secrets.insert(name, secret),
            Object::Node(node) => _ = self.nodes.insert(name.name, node),
            Object::Namespace(labels) => _ = self.namespaces.insert(name.name, labels),
        }
    }

    /// All objects that configure the load balancer, by kind and name.
    pub fn configuration(&self) -> impl Iterator<Item = ObjectKey> {
        let key = |kind| move |name: &ObjectName| ObjectKey { kind, name: name.clone() };
        let pools = self.pools.keys().map(key(Kind::IpAddressPool));
        let l2 = self.l2_advertisements.keys().map(key(Kind::L2Advertisement));
        let peers = self.bgp_peers.keys().map(key(Kind::BgpPeer));
        let bgp = self.bgp_advertisements.keys().map(key(Kind::BgpAdvertisement));
        let profiles = self.bfd_profiles.keys().map(key(Kind::BfdProfile));
        let communities = self.communities.keys().map(key(Kind::Community));
        pools.chain(l2).chain(peers).chain(bgp).chain(profiles).chain(communities)
    }

    /// Take an object out.
    pub fn remove(&mut self, ObjectKey { kind, name }: &ObjectKey) {
        match kind {
            Kind::Service => _ = self.services.remove(name),
            Kind::EndpointSlice => _ = self.endpoint_slices.remove(name),
            Kind::Endpoints => _ = self.endpoints.remove(name),
            Kind::IpAddressPool => _ = self.pools.remove(name),
            Kind::L2Advertisement => _ = self.l2_advertisements.remove(name),
            Kind::BgpPeer => _ = self.bgp_peers.remove(name),
            Kind::BgpAdvertisement => _ = self.bgp_advertisements.remove(name),
            Kind::BfdProfile => _ = self.bfd_profiles.remove(name),
            Kind::Community => _ = self.communities.remove(name),
            Kind::Secret => _ = self.secrets.remove(name),
            Kind::Node => _ = self.nodes.remove(&name.name),
            Kind::Namespace => _ = self.namespaces.remove(&name.name),
        }
    }
}
