//! One document: which object it is, or which objects it lists.

use evenkeel_manifest::Text;
use evenkeel_manifest::words;
use evenkeel_manifest::yaml::{Node, Value};
use evenkeel_plan::selector::Labels;
use evenkeel_plan::world::{Kind, Object, ObjectKey, ObjectName};

use super::metallb::Version;
use super::read::{Field, Fields, Findings as _, Mapping as _, Reader, Values as _};
use super::{Document, Parsed, endpoints, kinds, label, metallb, other, places};

const CORE: &str = "v1";
const DISCOVERY: &str = "discovery.k8s.io/v1";
const METALLB: &str = "metallb.io/v1beta1";
const METALLB_2: &str = "metallb.io/v1beta2";

/// The kinds of the World with the versions of each that are read, the present one first.
pub(super) const KINDS: [(Kind, &[&str]); 12] = [
    (Kind::Service, &[CORE]),
    (Kind::EndpointSlice, &[DISCOVERY]),
    (Kind::Endpoints, &[CORE]),
    (Kind::IpAddressPool, &[METALLB]),
    (Kind::L2Advertisement, &[METALLB]),
    (Kind::BgpPeer, &[METALLB_2, METALLB]),
    (Kind::BgpAdvertisement, &[METALLB]),
    (Kind::BfdProfile, &[METALLB]),
    (Kind::Community, &[METALLB]),
    (Kind::Secret, &[CORE]),
    (Kind::Node, &[CORE]),
    (Kind::Namespace, &[CORE]),
];

/// The version in which a kind is asked for.
pub(crate) fn version(kind: Kind) -> &'static str {
    let versions = KINDS.iter().find(|(known, _)| *known == kind).and_then(|(_, versions)| versions.first());
    versions.copied().unwrap_or(CORE)
}

/// `metadata.namespace` where a manifest gives none.
const DEFAULT_NAMESPACE: &str = "default";

/// What Kubernetes knows under `metadata`.
const METADATA: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// What a document defines is not known. Why is among the diagnostics.
struct Unidentified;

/// The kind and version of the items of a list that need not say so themselves.
#[derive(Clone, Copy)]
struct Items<'n> {
    kind: &'n str,
    version: &'n str,
}

impl Parsed {
    /// Take in one document.
    pub(super) fn take(&mut self, file: &std::path::Path, text: &Text, root: &Node) {
        let mut reader = Reader::new(file, text);
        let field = Field::root(root);
        self.incomplete |= self.take_object(&mut reader, &field, None).is_err();
        self.take_findings(reader);
    }

    /// Take in an object of an API, whose lists leave out what each item's kind is.
    pub(super) fn take_api_object(&mut self, mut reader: Reader<'_>, kind: Kind, root: &Node) {
        let version = version(kind);
        let items = Items { kind: kind.as_str(), version };
        reader.is_lenient = true;
        self.incomplete |= self.take_object(&mut reader, &Field::root(root), Some(items)).is_err();
        self.take_findings(reader);
    }

    /// Read one object, or the items of a list.
    fn take_object(
        &mut self,
        reader: &mut Reader<'_>,
        field: &Field<'_>,
        item_of: Option<Items<'_>>,
    ) -> Result<(), Unidentified> {
        let fields = field.fields(reader).ok_or(Unidentified)?;
        let kind_field = if item_of.is_some() { fields.get("kind") } else { fields.require(reader, "kind") };
        let kind = kind_field.and_then(|kind| kind.text(reader)).or(item_of.map(|items| items.kind));
        let kind = kind.ok_or(Unidentified)?;
        reader.kind = words::shortened(kind);
        reader.secret |= kind == Kind::Secret.as_str();
        let version_field =
            if item_of.is_some() { fields.get("apiVersion") } else { fields.require(reader, "apiVersion") };
        let version = version_field.as_ref().and_then(|version| version.text(reader));
        let version = version.or(item_of.map(|items| items.version)).ok_or(Unidentified)?;

        if let Some(items) = items(&fields, kind, version) {
            return self.take_items(reader, &fields, items);
        }
        let Some((kind, versions)) = known(kind, version) else {
            other::skip(self, reader, field.node, version, kind);
            return Ok(());
        };
        if !versions.contains(&version) {
            let expected = versions.first().copied().unwrap_or_default();
            let at = version_field.as_ref().unwrap_or(field);
            let remedy = format!("use apiVersion: {expected}");
            reader.error(
                "unsupported_version",
                at,
                format!("{kind} {} is not known", words::shortened(version)),
                remedy,
            );
        }
        let metadata = fields.require(reader, "metadata").and_then(|field| field.fields(reader)).ok_or(Unidentified)?;
        let key = key(reader, kind, &metadata).ok_or(Unidentified)?;
        reader.name = key.name.to_string();
        check_metadata(reader, kind, &metadata);
        if kind == Kind::BgpPeer && version == METALLB {
            let message = "BGPPeer v1beta1 is deprecated";
            let at = version_field.as_ref().unwrap_or(field);
            reader.warning("deprecated_version", at, message, format!("use apiVersion: {METALLB_2}"));
        }
        let object = read(reader, &key, version, &fields, &metadata).filter(|_| !reader.failed);
        let places = places(&mut self.names, kind, field.node).into();
        self.documents.push(Document { key, object, places });
        Ok(())
    }

    fn take_items(
        &mut self,
        reader: &mut Reader<'_>,
        fields: &Fields<'_>,
        items: Option<Items<'_>>,
    ) -> Result<(), Unidentified> {
        let list = fields.require(reader, "items").ok_or(Unidentified)?.list(reader);
        let mut result = if reader.failed { Err(Unidentified) } else { Ok(()) };
        for field in &list {
            let mut item_reader = Reader::new(reader.file, reader.text);
            result = self.take_object(&mut item_reader, field, items).and(result);
            self.take_findings(item_reader);
        }
        result
    }
}

/// Whether this is a list, and of which kind: `v1 List`, whose items say what they are, or `ServiceList` and the like,
/// as the API server answers.
fn items<'n>(fields: &Fields<'_>, kind: &'n str, version: &'n str) -> Option<Option<Items<'n>>> {
    let item_kind = kind.strip_suffix("List")?;
    if item_kind.is_empty() {
        return (version == CORE).then_some(None);
    }
    let is_list = || matches!(fields.get("items"), Some(field) if matches!(field.node.value, Value::Sequence(_)));
    (known(item_kind, version).is_some() || is_list()).then_some(Some(Items { kind: item_kind, version }))
}

/// The kind of the World that this is, whatever its version.
fn known(kind: &str, version: &str) -> Option<(Kind, &'static [&'static str])> {
    let group = |version: &str| version.split_once('/').map_or("", |(group, _)| group).to_owned();
    let is_known = |(known, versions): &(Kind, &[&str])| {
        known.as_str() == kind && versions.first().is_some_and(|present| group(present) == group(version))
    };
    KINDS.into_iter().find(is_known)
}

/// Which object it is.
fn key(reader: &mut Reader<'_>, kind: Kind, metadata: &Fields<'_>) -> Option<ObjectKey> {
    let name = metadata.require(reader, "name").and_then(|field| name(&field, reader));
    let namespace = match metadata.get("namespace") {
        Some(field) if kind.is_namespaced() => {
            if field.is_empty_text() {
                Some(String::new())
            } else {
                self::name(&field, reader)
            }
        }
        _ => Some(String::new()),
    };
    let mut namespace = namespace?;
    // Configuration without a namespace belongs to the one all of it lives in, whichever that is.
    if kind.is_namespaced() && !kind.is_configuration() && namespace.is_empty() {
        DEFAULT_NAMESPACE.clone_into(&mut namespace);
    }
    Some(ObjectKey { kind, name: ObjectName::new(namespace, name?) })
}

/// The object itself.
fn read(
    reader: &mut Reader<'_>,
    key: &ObjectKey,
    version: &str,
    fields: &Fields<'_>,
    metadata: &Fields<'_>,
) -> Option<Object> {
    let name = key.name.clone();
    Some(match key.kind {
        Kind::Service => Object::Service(kinds::service(reader, name, fields, metadata)?.into()),
        Kind::EndpointSlice => Object::EndpointSlice(kinds::endpoint_slice(reader, name, fields, metadata)?.into()),
        Kind::Endpoints => Object::Endpoints(endpoints::endpoints(reader, name, fields)?.into()),
        Kind::IpAddressPool => Object::IpAddressPool(metallb::pool(reader, name, fields, metadata)?.into()),
        Kind::L2Advertisement => Object::L2Advertisement(metallb::l2_advertisement(reader, name, fields)?.into()),
        Kind::BgpPeer => {
            let version = if version == METALLB { Version::V1Beta1 } else { Version::V1Beta2 };
            Object::BgpPeer(metallb::bgp_peer(reader, name, fields, version)?.into())
        }
        Kind::BgpAdvertisement => Object::BgpAdvertisement(metallb::bgp_advertisement(reader, name, fields)?.into()),
        Kind::BfdProfile => Object::BfdProfile(metallb::bfd_profile(reader, name, fields)?.into()),
        Kind::Community => Object::Community(metallb::communities(reader, name, fields)?.into()),
        Kind::Secret => Object::Secret(kinds::secret(reader, name, fields).into()),
        Kind::Node => Object::Node(kinds::node(reader, name, fields, metadata)?.into()),
        Kind::Namespace => Object::Namespace(labels(reader, metadata).into()),
    })
}

/// Annotations are strings in every kind, and where fields are read strictly, so are those of `metadata`.
fn check_metadata(reader: &mut Reader<'_>, kind: Kind, metadata: &Fields<'_>) {
    let check = |reader: &mut Reader<'_>| {
        if let Some(annotations) = metadata.get("annotations").and_then(|field| field.fields(reader)) {
            annotations.check_annotations(reader);
        }
    };
    if kind == Kind::Service {
        reader.lenient(check);
    } else {
        check(reader);
    }
    if kind.is_configuration() {
        for key in METADATA {
            metadata.get(key);
        }
        metadata.no_others(reader);
    }
}

/// A name as the API server would accept it.
pub(super) fn name(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<String> {
    let text = field.string(reader)?;
    if !label::is_domain(text) {
        let remedy = "use at most 253 lower-case letters, digits, `-` and `.`, with a letter or digit at both ends";
        reader.error("invalid_name", field, format!("`{}` is not a name", words::shortened(text)), remedy);
        return None;
    }
    Some(text.to_owned())
}

pub(super) fn labels(reader: &mut Reader<'_>, metadata: &Fields<'_>) -> Labels {
    metadata.get("labels").map(|field| field.labels(reader)).unwrap_or_default()
}
