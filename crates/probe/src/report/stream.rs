//! What is written while the run goes on, result by result: NDJSON and the HDR interval log.

use std::{
    io::{self, Write},
    time::{Duration, SystemTime},
};

use hdrhistogram::serialization::{
    V2DeflateSerializer,
    interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag},
};
use serde::Serialize;

use super::document::ms;
use crate::{
    cause::Cause,
    latency::Latency,
    measure::{Phase, RequestResult},
};

/// Writes each result as a line of JSON.
#[derive(Debug)]
pub struct ResultLines<W> {
    out: W,
    lanes: Vec<String>,
    started: SystemTime,
}

/// One line. Times are milliseconds since the start of the run.
#[derive(Serialize)]
struct Line<'a> {
    /// The time the request was due, RFC 3339.
    time: Option<jiff::Timestamp>,
    lane: &'a str,
    sequence: u64,
    ok: bool,
    cause: Option<Cause>,
    phase: Phase,
    /// From `intended_ms` to `end_ms`.
    latency_ms: f64,
    intended_ms: f64,
    sent_ms: f64,
    first_byte_ms: Option<f64>,
    end_ms: f64,
    server: Option<&'a str>,
    code: Option<&'a str>,
    error: Option<&'a str>,
    bytes_in: u64,
    bytes_out: u64,
    retransmits: Option<u32>,
    retried: bool,
}

impl<W: Write> ResultLines<W> {
    /// For a run of these lanes that started at this time.
    pub fn new(out: W, lanes: Vec<String>, started: SystemTime) -> Self {
        Self { out, lanes, started }
    }

    /// Writes a result.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn add(&mut self, result: &RequestResult) -> io::Result<()> {
        let line = Line {
            time: self.started.checked_add(result.intended).and_then(|time| time.try_into().ok()),
            lane: self.lanes.get(result.lane).map(String::as_str).unwrap_or_default(),
            sequence: result.sequence,
            ok: result.cause.is_none(),
            cause: result.cause,
            phase: result.phase,
            latency_ms: ms(result.end.saturating_sub(result.intended)),
            intended_ms: ms(result.intended),
            sent_ms: ms(result.sent),
            first_byte_ms: result.first_byte.map(ms),
            end_ms: ms(result.end),
            server: result.server.as_deref(),
            code: result.code.as_deref(),
            error: result.error.as_deref(),
            bytes_in: result.bytes_in,
            bytes_out: result.bytes_out,
            retransmits: result.retransmits,
            retried: result.retried,
        };
        serde_json::to_writer(&mut self.out, &line)?;
        self.out.write_all(b"\n")
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The length of an interval of the HDR log.
const INTERVAL: Duration = Duration::from_secs(1);
/// Values are nanoseconds; the log shows maxima in milliseconds, as other writers of the format do.
const NANOS_PER_MILLI: f64 = 1e6;

/// Writes the latencies of the successes, from their intended time, as an HdrHistogram interval log: a histogram per
/// second and lane, tagged with the lane's name, by when requests ended. Values are nanoseconds.
///
/// Results come in the order they end. Reads them to their end.
///
/// # Errors
/// Those of the writer.
pub fn write_hdr_log(
    out: &mut impl Write,
    lanes: &[String],
    started: SystemTime,
    results: impl IntoIterator<Item = RequestResult>,
) -> io::Result<()> {
    let tags: Vec<String> = lanes.iter().map(|lane| tag_of(lane)).collect();
    let mut serializer = V2DeflateSerializer::new();
    writeln!(out, "#[Histogram log format version 1.3]")?;
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Latency of successful requests from their intended time, in ns; one tag per lane]")
        .with_start_time(started)
        .with_base_time(started)
        .with_max_value_divisor(NANOS_PER_MILLI)
        .begin_log_with(out, &mut serializer)?;
    let mut current: Vec<Latency> = lanes.iter().map(|_| Latency::fine()).collect();
    let mut from = Duration::ZERO;
    let mut write = |from: Duration, current: &mut [Latency]| {
        for (tag, latency) in tags.iter().zip(current).filter(|(_, latency)| !latency.is_empty()) {
            log.write_histogram(latency.histogram(), from, INTERVAL, Tag::new(tag)).map_err(|error| match error {
                IntervalLogWriterError::IoError(error) => error,
                IntervalLogWriterError::SerializeError(error) => io::Error::other(error),
            })?;
            *latency = Latency::fine();
        }
        io::Result::Ok(())
    };
    for result in results {
        if result.end >= from + INTERVAL {
            write(from, &mut current)?;
            from = Duration::from_secs(result.end.as_secs());
        }
        if let (None, Some(latency)) = (result.cause, current.get_mut(result.lane)) {
            latency.record(result.end.saturating_sub(result.intended));
        }
    }
    write(from, &mut current)
}

/// A lane's name as a tag, which has neither commas nor spaces.
fn tag_of(lane: &str) -> String {
    lane.chars().map(|c| if c == ',' || c.is_whitespace() || c.is_control() { '_' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use hdrhistogram::{
        Histogram,
        serialization::{
            Deserializer,
            interval_log::{IntervalLogIterator, LogEntry},
        },
    };

    use super::*;
    use crate::report::sample;

    #[test]
    fn a_line_per_result() {
        let mut lines = ResultLines::new(Vec::new(), sample::lanes(), sample::started());
        for result in sample::results() {
            lines.add(&result).unwrap();
        }
        let text = String::from_utf8(lines.out).unwrap();
        let values: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(values.len(), sample::results().len());
        let lanes = sample::lanes();
        assert!(values.iter().all(|value| lanes.iter().any(|lane| value["lane"] == **lane)));
        let failed = values.iter().find(|value| value["ok"] == false).unwrap();
        assert_eq!(failed["cause"], "refused");
    }

    #[test]
    fn other_programs_can_read_the_log() {
        let mut log = Vec::new();
        write_hdr_log(&mut log, &sample::lanes(), sample::started(), sample::results()).unwrap();
        let mut read: Vec<(String, Duration, Histogram<u64>)> = Vec::new();
        for entry in IntervalLogIterator::new(&log) {
            if let LogEntry::Interval(interval) = entry.unwrap() {
                let bytes = sample::decode_base64(interval.encoded_histogram());
                let histogram = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
                read.push((interval.tag().unwrap().as_str().to_owned(), interval.start_timestamp(), histogram));
            }
        }
        let successes = sample::results().iter().filter(|result| result.cause.is_none()).count();
        assert_eq!(read.iter().map(|(_, _, histogram)| histogram.len()).sum::<u64>(), successes as u64);
        assert!(read.iter().any(|(_, start, _)| *start > Duration::ZERO), "more than one interval");
        let longest = sample::results().iter().map(|result| result.end - result.intended).max().unwrap();
        let max = read.iter().map(|(_, _, histogram)| histogram.max()).max().unwrap();
        let longest = u64::try_from(longest.as_nanos()).unwrap();
        assert!(max.abs_diff(longest) < max / 500, "{max} {longest}");
    }

    #[test]
    fn tags_have_no_separators() {
        assert_eq!(tag_of("a, b\n"), "a__b_");
        assert!(Tag::new(&tag_of("http://[::1]:80/?a,b c")).is_some());
    }
}
