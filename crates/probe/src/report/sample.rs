//! A fixed measurement for the tests of the formats: an outage, a stall, slow successes, hostile texts.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::{CommandEnd, CommandResult, Context};
use crate::{
    cause::Cause,
    config::LaneKind,
    latency::Latency,
    measure::{
        Bucket, Gap, LaneMeasurement, Measurement, Phase, RequestResult, ServerMeasurement, SlowSuccesses, Window,
    },
};

const SECONDS: u64 = 20;
/// Of the first lane.
const OUTAGE: std::ops::Range<u64> = 8_000..9_500;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn started() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250)
}

/// A measurement of nothing.
pub(crate) fn empty() -> Measurement {
    Measurement {
        started: started(),
        duration: Duration::from_secs(SECONDS),
        ended: Duration::from_secs(SECONDS) + ms(3),
        lanes: Vec::new(),
        lag: lag(),
        max_lag: ms(20),
        invalid: Vec::new(),
        results_dropped: 0,
    }
}

fn lag() -> Latency {
    let mut lag = Latency::fine();
    for micros in 1..=1000 {
        lag.record(Duration::from_micros(20 + micros % 97));
    }
    lag
}

/// Three lanes: one with an outage, one with a stall and slow successes, one without fault.
pub(crate) fn measurement() -> Measurement {
    Measurement { lanes: vec![http(), dns(), udp()], ..empty() }
}

/// Latency of the request due at a time, without randomness.
fn latency(at: u64) -> Duration {
    Duration::from_micros(400 + (at * 7919) % 900 + if at.is_multiple_of(500) { 9_000 } else { 0 })
}

fn lane(name: &str, kind: LaneKind, target: &str) -> LaneMeasurement {
    LaneMeasurement::new(name.to_owned(), kind, target.parse().unwrap(), Some(ms(5)))
}

/// Sends a request every 5 ms; `outcome` says by the time what becomes of it.
fn fill(lane: &mut LaneMeasurement, outcome: impl Fn(u64) -> Result<Duration, Cause>) {
    lane.timeline.buckets = vec![Bucket::default(); usize::try_from(SECONDS * 10).unwrap()];
    for at in (0..SECONDS * 1000).step_by(5) {
        let bucket = &mut lane.timeline.buckets[usize::try_from(at / 100).unwrap()];
        lane.sent += 1;
        lane.bytes_out += 61;
        match outcome(at) {
            Ok(latency) => {
                lane.succeeded += 1;
                lane.bytes_in += 312;
                bucket.succeeded += 1;
                bucket.bytes_in += 312;
                bucket.latency.record(latency);
                lane.latency.record(latency);
                lane.service.record(latency.saturating_sub(Duration::from_micros(30)));
                lane.first_byte.record(latency * 9 / 10);
            }
            Err(cause) => {
                lane.failed += 1;
                bucket.failed += 1;
                *lane.causes.entry(cause).or_default() += 1;
            }
        }
    }
}

fn http() -> LaneMeasurement {
    let mut lane = lane("http://192.0.2.10:80/", LaneKind::Http, "192.0.2.10:80");
    fill(&mut lane, |at| match at {
        8_000 => Err(Cause::Reset),
        _ if OUTAGE.contains(&at) => Err(Cause::Refused),
        15_000 => Err(Cause::HttpStatus),
        _ => Ok(latency(at)),
    });
    lane.handshake.record(Duration::from_micros(90));
    lane.connections = lane.succeeded + 2;
    lane.in_flight = 2;
    lane.rescuable = lane.failed - 2;
    lane.rescuable_causes = BTreeMap::from([(Cause::Refused, lane.rescuable)]);
    lane.codes = BTreeMap::from([("200".to_owned(), lane.succeeded), ("503".to_owned(), 1)]);
    lane.errors = BTreeMap::from([
        ("connection refused (os error 111)".to_owned(), lane.rescuable),
        ("connection reset by peer (os error 104)".to_owned(), 1),
        ("status 503: <b>\"busy\" & 'sorry'</b>".to_owned(), 1),
    ]);
    lane.servers = BTreeMap::from([
        ("backend-1".to_owned(), ServerMeasurement { succeeded: lane.succeeded / 2, failed: 1 }),
        (
            "<script>alert(1)</script>".to_owned(),
            ServerMeasurement { succeeded: lane.succeeded - lane.succeeded / 2, failed: 0 },
        ),
    ]);
    lane.longest_gap = Gap { start: ms(7_995), end: ms(9_500) };
    lane.windows = vec![
        Window {
            start: ms(OUTAGE.start),
            end: ms(OUTAGE.end),
            failed: lane.rescuable + 1,
            rescuable: lane.rescuable,
            causes: BTreeMap::from([(Cause::Refused, lane.rescuable), (Cause::Reset, 1)]),
            servers: BTreeMap::from([("backend-1".to_owned(), 1)]),
            longest_gap: lane.longest_gap.length(),
        },
        Window {
            start: ms(15_000),
            end: ms(15_005),
            failed: 1,
            rescuable: 0,
            causes: BTreeMap::from([(Cause::HttpStatus, 1)]),
            servers: BTreeMap::new(),
            longest_gap: ms(10),
        },
    ];
    lane
}

fn dns() -> LaneMeasurement {
    let mut lane = lane("resolver", LaneKind::TcpEcho, "[2001:db8::53]:53");
    // Stalled from 12 s on for a second: nothing fails, and every request ends when the stall does.
    fill(&mut lane, |at| match at {
        12_000..13_000 => Ok(ms(13_000 - at) + latency(at)),
        3_000 => Ok(ms(1_001)),
        _ => Ok(latency(at) / 2),
    });
    lane.connections = lane.succeeded;
    lane.codes = BTreeMap::from([("NOERROR".to_owned(), lane.succeeded)]);
    lane.slow = [SlowSuccesses { count: 1, confirmed: 1 }, SlowSuccesses::default(), SlowSuccesses::default()];
    lane.longest_gap = Gap { start: ms(11_995), end: ms(13_000) };
    lane.windows = vec![Window {
        start: ms(12_000),
        end: ms(13_000),
        failed: 0,
        rescuable: 0,
        causes: BTreeMap::new(),
        servers: BTreeMap::new(),
        longest_gap: lane.longest_gap.length(),
    }];
    lane
}

fn udp() -> LaneMeasurement {
    let mut lane = lane("udp & \"fixed\"", LaneKind::UdpFixed, "192.0.2.10:9000");
    fill(&mut lane, |at| Ok(latency(at) / 3));
    lane.servers =
        BTreeMap::from([("backend-1".to_owned(), ServerMeasurement { succeeded: lane.succeeded, failed: 0 })]);
    lane.longest_gap = Gap { start: ms(500), end: ms(507) };
    lane
}

/// Objectives of which some are breached, events before, in and after the run, and a command.
pub(crate) fn context() -> Context {
    let mut context = Context {
        objectives: "failed=0,success>=99.99%,p99<=20ms,udp-fixed:p99<=20ms,gap<=50ms".parse().unwrap(),
        command: Some(CommandResult {
            command: "kubectl rollout restart deploy/web && kubectl rollout status deploy/web".to_owned(),
            end: CommandEnd::Exited { status: 0 },
            started_ms: 2.5,
            ended_ms: 16_250.0,
        }),
        ..Context::default()
    };
    for line in [
        r#"{"time":"2023-11-14T22:13:10Z","msg":"before the run"}"#,
        r#"{"time":"2023-11-14T22:13:28.2Z","msg":"deleted pod web-1 <img src=x onerror=alert(1)>"}"#,
        r#"{"ts":1700000012.248,"message":"resolver restarted"}"#,
        r#"{"ts":1700000099,"message":"after the run"}"#,
        "not json",
    ] {
        _ = context.events.add_line(line.as_bytes());
    }
    context
}

pub(crate) fn lanes() -> Vec<String> {
    measurement().lanes.into_iter().map(|lane| lane.name).collect()
}

/// Some results of single requests, in the order they ended.
pub(crate) fn results() -> Vec<RequestResult> {
    (0..120)
        .map(|index: u64| {
            let intended = ms(index * 25);
            let failed = index % 40 == 20;
            RequestResult {
                lane: usize::try_from(index % 3).unwrap(),
                sequence: index / 3,
                intended,
                sent: intended + Duration::from_micros(25),
                first_byte: (!failed).then(|| intended + latency(index) / 2),
                end: intended + latency(index),
                cause: failed.then_some(Cause::Refused),
                phase: if failed { Phase::Connecting } else { Phase::Established },
                error: failed.then(|| "connection refused (os error 111)".to_owned()),
                server: (!failed).then(|| "backend-1".to_owned()),
                code: None,
                bytes_in: 312,
                bytes_out: 61,
                retransmits: None,
                retried: false,
            }
        })
        .collect()
}

/// Decodes base64 (RFC 4648) with padding.
pub(crate) fn decode_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sextets = text.trim_end_matches('=').bytes().map(|byte| ALPHABET.iter().position(|&one| one == byte).unwrap());
    let sextets: Vec<usize> = sextets.collect();
    let group = |group: &[usize]| {
        let bits = group.iter().enumerate().fold(0, |bits, (index, sextet)| bits | sextet << (18 - 6 * index));
        let bytes = [bits >> 16, bits >> 8, bits].map(|bits| u8::try_from(bits & 0xff).unwrap());
        bytes[..group.len() - 1].to_vec()
    };
    sextets.chunks(4).flat_map(group).collect()
}
