//! BFDProfile.

use std::time::Duration;

use evenkeel_plan::world::{BfdProfile, ObjectName};

use super::spec;
use crate::manifest::read::{Fields, Mapping as _, Reader};

/// The intervals possible, in milliseconds.
const INTERVAL: (u32, u32) = (10, 60_000);
const DETECT_MULTIPLIER: (u8, u8) = (2, 255);
const MINIMUM_TTL: (u8, u8) = (1, 254);

pub(in crate::manifest) fn bfd_profile(
    reader: &mut Reader<'_>,
    name: ObjectName,
    fields: &Fields<'_>,
) -> Option<BfdProfile> {
    let mut profile = BfdProfile {
        name,
        receive_interval: None,
        transmit_interval: None,
        detect_multiplier: None,
        echo_interval: None,
        echo_mode: false,
        passive_mode: false,
        minimum_ttl: None,
    };
    let Some(spec) = spec(reader, fields) else { return Some(profile) };
    let mut interval = |key| {
        let milliseconds = spec.get(key)?.number(reader, INTERVAL.0, INTERVAL.1)?;
        Some(Duration::from_millis(milliseconds.into()))
    };
    profile.receive_interval = interval("receiveInterval");
    profile.transmit_interval = interval("transmitInterval");
    profile.echo_interval = interval("echoInterval");
    let mut number = |key, (least, most): (u8, u8)| spec.get(key).and_then(|field| field.number(reader, least, most));
    profile.detect_multiplier = number("detectMultiplier", DETECT_MULTIPLIER);
    profile.minimum_ttl = number("minimumTtl", MINIMUM_TTL);
    let mut flag = |key| spec.get(key).and_then(|field| field.bool(reader)).unwrap_or(false);
    profile.echo_mode = flag("echoMode");
    profile.passive_mode = flag("passiveMode");
    spec.no_others(reader);
    Some(profile)
}
