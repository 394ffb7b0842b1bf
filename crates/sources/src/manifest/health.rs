//! How a service's backends are checked: `evenkeel.io/health-*`, `slow-start`, `passive-ejection`.

use std::ops::RangeInclusive;
use std::time::Duration;

use evenkeel_dns::{Question, QuestionError, RecordType};
use evenkeel_plan::world::{HealthCheck, HealthProbe, HttpProbe};

use super::annotations::{PREFIX, number, unused};
use super::kinds::PORT;
use super::read::{Field, Fields, Findings as _, Reader, Values as _, shortened};

/// What `evenkeel.io/health-check` says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Http,
    DnsUdp,
    DnsTcp,
    Icmp,
    UdpEcho,
}

const KINDS: [(&str, Kind); 6] = [
    ("tcp", Kind::Tcp),
    ("http", Kind::Http),
    ("dns-udp", Kind::DnsUdp),
    ("dns-tcp", Kind::DnsTcp),
    ("icmp", Kind::Icmp),
    ("udp-echo", Kind::UdpEcho),
];

const CHECK: &str = "evenkeel.io/health-check";
/// What only one kind of check has a use for.
const HTTP: [&str; 3] = ["health-path", "health-host", "health-expect-status"];
const DNS: [&str; 2] = ["health-dns-name", "health-dns-type"];
/// What every check has a use for.
const ALL: [&str; 7] = [
    "health-port",
    "health-interval",
    "health-timeout",
    "health-unhealthy-after",
    "health-healthy-after",
    "slow-start",
    "passive-ejection",
];

pub(super) fn check(reader: &mut Reader<'_>, annotations: &Fields<'_>) -> Option<HealthCheck> {
    let Some(field) = annotations.find(CHECK) else {
        for name in ALL.iter().chain(&HTTP).chain(&DNS) {
            unused(reader, annotations, name, CHECK);
        }
        return None;
    };
    let kind = field.one_of(reader, &KINDS)?;
    let is_dns = matches!(kind, Kind::DnsUdp | Kind::DnsTcp);
    if kind != Kind::Http {
        HTTP.iter().for_each(|name| unused(reader, annotations, name, &format!("{CHECK}: http")));
    }
    if !is_dns {
        DNS.iter().for_each(|name| unused(reader, annotations, name, &format!("{CHECK}: dns-udp or dns-tcp")));
    }
    if kind == Kind::Icmp {
        unused(reader, annotations, "health-port", &format!("{CHECK} of another kind than icmp"));
    }
    let question = if is_dns { question(reader, annotations, &field) } else { None };
    let probe = match kind {
        Kind::Tcp => HealthProbe::Tcp,
        Kind::Http => HealthProbe::Http(http(reader, annotations)),
        Kind::DnsUdp => HealthProbe::DnsUdp(question?),
        Kind::DnsTcp => HealthProbe::DnsTcp(question?),
        Kind::Icmp => HealthProbe::Icmp,
        Kind::UdpEcho => HealthProbe::UdpEcho,
    };
    let mut check = HealthCheck::new(probe);
    let ours = |name: &str| annotations.find(&format!("{PREFIX}{name}"));
    if let Some(field) = ours("health-port").filter(|_| kind != Kind::Icmp) {
        let port = number(reader, &field, PORT.0.into(), PORT.1.into());
        check.port = port.and_then(|port| u16::try_from(port).ok());
    }
    timing(reader, annotations, &mut check);
    let (least, most) = (u32::from(*HealthCheck::COUNT.start()), u32::from(*HealthCheck::COUNT.end()));
    for (name, count) in
        [("health-unhealthy-after", &mut check.unhealthy_after), ("health-healthy-after", &mut check.healthy_after)]
    {
        let number = ours(name).and_then(|field| number(reader, &field, least, most));
        *count = number.and_then(|number| u8::try_from(number).ok()).unwrap_or(*count);
    }
    let words = [("true", true), ("false", false)];
    let passive = ours("passive-ejection").and_then(|field| field.one_of(reader, &words));
    check.passive_ejection = passive.unwrap_or(check.passive_ejection);
    Some(check)
}

fn timing(reader: &mut Reader<'_>, annotations: &Fields<'_>, check: &mut HealthCheck) {
    let ours = |name: &str| annotations.find(&format!("{PREFIX}{name}"));
    if let Some(interval) = ours("health-interval").and_then(|field| within(reader, &field, &HealthCheck::INTERVAL)) {
        check.interval = interval;
        check.timeout = check.timeout.min(interval);
    }
    if let Some(field) = ours("health-timeout")
        && let Some(timeout) = within(reader, &field, &HealthCheck::TIMEOUT)
    {
        check.timeout = timeout;
        if timeout > check.interval {
            let message = format!("a timeout of {timeout:?} is longer than the interval of {:?}", check.interval);
            let remedy = "give a shorter timeout, or a longer evenkeel.io/health-interval";
            reader.error("invalid_value", &field, message, remedy);
        }
    }
    let slow_start = ours("slow-start").and_then(|field| within(reader, &field, &HealthCheck::SLOW_START));
    check.slow_start = slow_start.unwrap_or(check.slow_start);
}

/// A duration between two bounds.
fn within(reader: &mut Reader<'_>, field: &Field<'_>, bounds: &RangeInclusive<Duration>) -> Option<Duration> {
    let duration = field.duration(reader)?;
    if !bounds.contains(&duration) {
        let [duration, least, most] = [duration, *bounds.start(), *bounds.end()].map(shown);
        let message = format!("{duration} is not between {least} and {most}");
        reader.error("invalid_value", field, message, format!("give a duration from {least} to {most}"));
        return None;
    }
    Some(duration)
}

/// A duration in the unit one would write it in.
fn shown(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_nanos()) {
        (0, 0) => "0s".to_owned(),
        (seconds, 0) if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        (seconds, 0) if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{duration:?}"),
    }
}

fn http(reader: &mut Reader<'_>, annotations: &Fields<'_>) -> HttpProbe {
    let ours = |name: &str| annotations.find(&format!("{PREFIX}{name}"));
    let path = ours("health-path")
        .and_then(|field| field.parse(reader, "invalid_value", "give the path of a URL, such as /healthz?full=1"));
    let host = ours("health-host")
        .and_then(|field| field.parse(reader, "invalid_value", "give a name or an address, such as web.example"));
    let expect = ours("health-expect-status")
        .and_then(|field| field.parse(reader, "invalid_value", "give codes and ranges of them, such as 200-299,404"));
    HttpProbe { path: path.unwrap_or_default(), host, expect: expect.unwrap_or_default() }
}

fn question(reader: &mut Reader<'_>, annotations: &Fields<'_>, check: &Field<'_>) -> Option<Question> {
    let ours = |name: &str| annotations.find(&format!("{PREFIX}{name}"));
    let record_type = match ours("health-dns-type") {
        Some(field) => {
            field.parse(reader, "invalid_value", "give a type of DNS records, such as A, AAAA, SOA or TYPE65")
        }
        None => Some(RecordType::A),
    };
    let Some(field) = ours("health-dns-name") else {
        let message = "a check by DNS needs a name to ask for";
        reader.error("missing_field", check, message, "add evenkeel.io/health-dns-name with a name the backends know");
        return None;
    };
    match Question::new(field.string(reader)?.trim(), record_type?) {
        Ok(question) => Some(question),
        Err(error) => {
            let shown = shortened(field.string(reader)?);
            let message = match error {
                QuestionError::Name => format!("`{shown}` is not a domain name: {error}"),
                QuestionError::Type(_) | QuestionError::Option(_) => error.to_string(),
            };
            reader.error("invalid_name", &field, message, "give a name such as www.example.com, or . for the root");
            None
        }
    }
}
