//! MetalLB's kinds, read strictly and validated as MetalLB's own admission does. What depends on other objects is
//! checked where all of them are known ([`evenkeel_plan::check`]).

mod bfd;
mod bgp;
mod community;
mod l2;
mod peer;
mod pool;
mod selector;

pub(super) use self::bfd::bfd_profile;
pub(super) use self::bgp::bgp_advertisement;
pub(super) use self::community::communities;
pub(super) use self::l2::l2_advertisement;
pub(super) use self::peer::{Version, bgp_peer};
pub(super) use self::pool::pool;

use super::read::{Fields, Mapping as _, Reader, Values as _};

/// The fields of `spec`, after what stands beside it was checked. `None` when it is absent or no mapping.
fn spec<'n>(reader: &mut Reader<'_>, fields: &Fields<'n>) -> Option<Fields<'n>> {
    fields.get("status");
    let spec = fields.get("spec").and_then(|field| field.fields(reader));
    fields.no_others(reader);
    spec
}

/// The same where a kind has fields that must be given.
fn required_spec<'n>(reader: &mut Reader<'_>, fields: &Fields<'n>) -> Option<Fields<'n>> {
    fields.get("status");
    let spec = fields.require(reader, "spec").and_then(|field| field.fields(reader));
    fields.no_others(reader);
    spec
}

/// A list of names, each given once.
fn names(reader: &mut Reader<'_>, fields: &Fields<'_>, key: &'static str) -> Vec<String> {
    fields.get(key).map(|field| field.names(reader)).unwrap_or_default()
}
