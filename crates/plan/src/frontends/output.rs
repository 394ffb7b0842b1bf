//! How what a frontend takes over from its service is written: durations with their unit in the name.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::world::{Affinity, HealthCheck, HealthProbe, Limits, TrafficDistribution};

pub(super) fn is_anywhere(distribution: &TrafficDistribution) -> bool {
    *distribution == TrafficDistribution::Anywhere
}

pub(super) fn is_no_affinity(affinity: &Affinity) -> bool {
    *affinity == Affinity::None
}

pub(super) fn affinity<S: Serializer>(affinity: &Affinity, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct ClientIp {
        timeout_s: u64,
    }
    match affinity {
        Affinity::None => serializer.serialize_none(),
        Affinity::ClientIp { timeout } => ClientIp { timeout_s: timeout.as_secs() }.serialize(serializer),
    }
}

pub(super) fn is_empty(ranges: &Arc<[IpNet]>) -> bool {
    ranges.is_empty()
}

pub(super) fn ranges<S: Serializer>(ranges: &Arc<[IpNet]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ranges.iter().map(ToString::to_string))
}

pub(super) fn limits<S: Serializer>(limits: &Limits, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Output {
        #[serde(skip_serializing_if = "Option::is_none")]
        max_connections: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        connection_rate: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        connection_burst: Option<u32>,
    }
    let Limits { max_connections, connection_rate } = limits;
    Output {
        max_connections: max_connections.map(u32::from),
        connection_rate: connection_rate.map(|rate| rate.per_second.get()),
        connection_burst: connection_rate.map(|rate| rate.burst.get()),
    }
    .serialize(serializer)
}

pub(super) fn health<S: Serializer>(health: &Option<Arc<HealthCheck>>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Output<'a> {
        check: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        expect_status: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        dns_name: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        dns_type: Option<String>,
        interval_ms: u64,
        timeout_ms: u64,
        unhealthy_after: u8,
        healthy_after: u8,
        slow_start_ms: u64,
        passive_ejection: bool,
    }
    let Some(health) = health else { return serializer.serialize_none() };
    let HealthCheck { probe, port, interval, timeout, unhealthy_after, healthy_after, slow_start, passive_ejection } =
        &**health;
    let http = if let HealthProbe::Http(http) = probe { Some(http) } else { None };
    let dns =
        if let HealthProbe::DnsUdp(question) | HealthProbe::DnsTcp(question) = probe { Some(question) } else { None };
    let milliseconds = |duration: &Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Output {
        check: probe.as_str(),
        port: *port,
        path: http.map(|http| http.path.as_str()),
        host: http.and_then(|http| http.host.as_ref()).map(|host| host.as_str()),
        expect_status: http.map(|http| http.expect.to_string()),
        dns_name: dns.map(evenkeel_dns::Question::name),
        dns_type: dns.map(|question| question.record_type.to_string()),
        interval_ms: milliseconds(interval),
        timeout_ms: milliseconds(timeout),
        unhealthy_after: *unhealthy_after,
        healthy_after: *healthy_after,
        slow_start_ms: milliseconds(slow_start),
        passive_ejection: *passive_ejection,
    }
    .serialize(serializer)
}
