//! Bounds of a service's traffic: `evenkeel.io/max-connections`, `connection-rate`, `connection-burst`.

use std::num::NonZeroU32;

use evenkeel_plan::world::{ConnectionRate, Limits, PerSecond};

use super::annotations::{number, unused};
use super::read::{Fields, Reader, Values as _};

pub(super) fn limits(reader: &mut Reader<'_>, annotations: &Fields<'_>) -> Limits {
    let mut positive = |name| {
        let field = annotations.find(name)?;
        number(reader, &field, 1, Limits::MOST).and_then(NonZeroU32::new)
    };
    let max_connections = positive("evenkeel.io/max-connections");
    let burst = positive("evenkeel.io/connection-burst");
    let Some(field) = annotations.find("evenkeel.io/connection-rate") else {
        unused(reader, annotations, "connection-burst", "evenkeel.io/connection-rate");
        return Limits { max_connections, connection_rate: None };
    };
    let remedy = format!("give a number from 1 to {} new flows a second, such as \"500\" or \"500/s\"", Limits::MOST);
    let rate = field.parse::<PerSecond>(reader, "invalid_value", &remedy);
    // What a second lets through may come at once, unless told otherwise.
    let rate = rate.map(|PerSecond(per_second)| ConnectionRate { per_second, burst: burst.unwrap_or(per_second) });
    Limits { max_connections, connection_rate: rate }
}
