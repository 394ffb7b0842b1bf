//! What happened to services, under the names MetalLB's users know from `kubectl describe`.

use std::net::IpAddr;

use serde::Serialize;

use crate::allocate::ServiceError;
use crate::world::ObjectName;

/// Something that happened to a service's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// The service.
    pub service: ObjectName,
    /// What happened.
    pub reason: EventReason,
    /// The addresses concerned.
    pub addresses: Vec<IpAddr>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<ServiceError>,
}

/// What can happen to a service's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum EventReason {
    /// It has got them.
    #[serde(rename = "IPAllocated")]
    IpAllocated,
    /// It has them no longer.
    ClearAssignment,
}

impl Event {
    /// What happened to a service that had some addresses and now has others; `because` is why it could not keep what it
    /// had. First what it lost, then what it got.
    pub(crate) fn of_change(
        service: &ObjectName,
        before: &[IpAddr],
        now: &[IpAddr],
        because: Option<ServiceError>,
    ) -> impl Iterator<Item = Self> {
        let missing_in = |from: &[IpAddr], other: &[IpAddr]| -> Vec<IpAddr> {
            from.iter().copied().filter(|address| !other.contains(address)).collect()
        };
        let event = |reason, addresses, because| Self { service: service.clone(), reason, addresses, because };
        [
            event(EventReason::ClearAssignment, missing_in(before, now), because),
            event(EventReason::IpAllocated, missing_in(now, before), None),
        ]
        .into_iter()
        .filter(|event| !event.addresses.is_empty())
    }
}
