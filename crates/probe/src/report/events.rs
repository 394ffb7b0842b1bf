//! Events from outside, such as a rollout's log: what changed while the run went on, to be laid over its timeline.
//!
//! Any JSON-lines file will do. A line is an object; its time and its text are looked for under the names that logs,
//! audit trails and Kubernetes events use.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::SystemTime,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Longest line read; a longer one is refused.
pub const MAX_LINE: usize = 64 * 1024;
/// Events kept; for further ones, the first are given up.
pub const MAX_EVENTS: usize = 10_000;
/// Characters kept of an event's text.
const MAX_TEXT: usize = 300;

/// Where a line may have its time, the best first. A dot separates the keys of nested objects.
const TIMES: [&str; 24] = [
    "time",
    "timestamp",
    "@timestamp",
    "ts",
    "at",
    "t",
    "datetime",
    "date",
    "when",
    "eventTime",
    "event_time",
    "lastTimestamp",
    "series.lastObservedTime",
    "firstTimestamp",
    "deprecatedLastTimestamp",
    "stageTimestamp",
    "requestReceivedTimestamp",
    "started_at",
    "created_at",
    "metadata.creationTimestamp",
    "fields.time",
    "asctime",
    "unix",
    "epoch",
];

/// Where a line may have its text, the best first.
const TEXTS: [&str; 14] = [
    "message",
    "msg",
    "text",
    "note",
    "fields.message",
    "summary",
    "description",
    "title",
    "event",
    "action",
    "name",
    "reason",
    "type",
    "kind",
];

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// When.
    pub at: SystemTime,
    /// What.
    pub text: String,
}

/// Why a line is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum EventError {
    /// Not JSON, or not an object.
    #[error("not_an_object")]
    NotAnObject,
    /// No time under a known name.
    #[error("no_time")]
    NoTime,
    /// A time in no known notation.
    #[error("bad_time")]
    BadTime,
    /// No text under a known name.
    #[error("no_text")]
    NoText,
    /// Longer than [`MAX_LINE`].
    #[error("too_long")]
    TooLong,
    /// Given up for later ones: there are at most [`MAX_EVENTS`].
    #[error("too_many")]
    TooMany,
}

impl EventError {
    /// What would make the line an event.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::NotAnObject => "each line must be a JSON object",
            Self::NoTime => "give it a `time` (also `timestamp`, `ts`, `eventTime` and others)",
            Self::BadTime => "a time is RFC 3339 with its zone, or a number since 1970 in s, ms, us or ns",
            Self::NoText => "give it a `message` (also `msg`, `text`, `reason` and others)",
            Self::TooLong => "a line has at most 64 KiB",
            Self::TooMany => "the last 10,000 events are kept",
        }
    }
}

/// Events as their lines come, in bounded memory: of a long log, the end is what the run is about.
#[derive(Clone, Debug, Default)]
pub struct EventLog {
    events: VecDeque<Happening>,
    refused: BTreeMap<EventError, u64>,
}

impl EventLog {
    /// Takes a line, without its end. An empty line is nothing.
    ///
    /// # Errors
    /// Why it is no event, which is also counted.
    pub fn add_line(&mut self, line: &[u8]) -> Result<(), EventError> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        match parse_line(line) {
            Ok(event) => {
                self.add(event);
                Ok(())
            }
            Err(error) => {
                *self.refused.entry(error).or_default() += 1;
                Err(error)
            }
        }
    }

    /// Takes an event.
    pub fn add(&mut self, event: Happening) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
            *self.refused.entry(EventError::TooMany).or_default() += 1;
        }
        self.events.push_back(event);
    }

    /// Counts a line that was too long to be kept until its end.
    pub fn refuse_long_line(&mut self) {
        *self.refused.entry(EventError::TooLong).or_default() += 1;
    }

    /// The events in the order they came.
    #[must_use]
    pub fn events(&self) -> &VecDeque<Happening> {
        &self.events
    }

    /// Lines that were no events, by reason.
    #[must_use]
    pub fn refused(&self) -> &BTreeMap<EventError, u64> {
        &self.refused
    }
}

/// Reads one line.
///
/// # Errors
/// Why it is no event.
pub fn parse_line(line: &[u8]) -> Result<Happening, EventError> {
    if line.len() > MAX_LINE {
        return Err(EventError::TooLong);
    }
    let Ok(Value::Object(object)) = serde_json::from_slice(line) else { return Err(EventError::NotAnObject) };
    // A Kubernetes watch wraps the object it is about.
    let object = match object.get("object") {
        Some(Value::Object(inner)) => inner,
        _ => &object,
    };
    let time = TIMES.iter().find_map(|path| find(object, path)).ok_or(EventError::NoTime)?;
    let at = parse_time(time).ok_or(EventError::BadTime)?;
    let text = text_of(object).ok_or(EventError::NoText)?;
    Ok(Happening { at, text })
}

/// The value at a path, null being none.
fn find<'a>(object: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let value = match path.split_once('.') {
        Some((key, rest)) => find(object.get(key)?.as_object()?, rest)?,
        None => object.get(path)?,
    };
    (!value.is_null()).then_some(value)
}

fn parse_time(value: &Value) -> Option<SystemTime> {
    let timestamp = match value {
        Value::Number(number) => parse_epoch(&number.to_string()),
        Value::String(text) => parse_epoch(text.trim()).or_else(|| text.trim().parse().ok()),
        _ => None,
    }?;
    // Before 1970 nobody probed.
    (timestamp >= Timestamp::UNIX_EPOCH).then(|| timestamp.into())
}

/// A number since 1970. The unit follows from its size: the four ranges are apart until the year 5138.
fn parse_epoch(text: &str) -> Option<Timestamp> {
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    if let Ok(whole) = text.parse::<i64>() {
        return match whole {
            0..100_000_000_000 => Timestamp::from_second(whole),
            100_000_000_000..100_000_000_000_000 => Timestamp::from_millisecond(whole),
            100_000_000_000_000..100_000_000_000_000_000 => Timestamp::from_microsecond(whole),
            _ => Timestamp::from_nanosecond(whole.into()),
        }
        .ok();
    }
    let number: f64 = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
    let seconds = match number {
        _ if number < 1e11 => number,
        _ if number < 1e14 => number / 1e3,
        _ if number < 1e17 => number / 1e6,
        _ => number / 1e9,
    };
    Timestamp::from_duration(jiff::SignedDuration::try_from_secs_f64(seconds).ok()?).ok()
}

fn text_of(object: &Map<String, Value>) -> Option<String> {
    let string = |path: &str| find(object, path)?.as_str().map(str::trim).filter(|text| !text.is_empty());
    let text = TEXTS.iter().find_map(|path| string(path));
    // A Kubernetes event's message alone does not say what it is about.
    let about = ["involvedObject", "regarding"].into_iter().find_map(|field| {
        let (kind, name) = (string(&format!("{field}.kind"))?, string(&format!("{field}.name"))?);
        Some(format!("{kind}/{name}"))
    });
    let parts = [about.as_deref(), about.as_ref().and_then(|_| string("reason")), text];
    let whole = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
    // Control characters would reach a terminal.
    let clean: String = whole.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect();
    (!clean.is_empty()).then_some(clean)
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    const AT: Duration = Duration::from_millis(1_700_000_000_250);

    fn parse(line: &str) -> Result<(Duration, String), EventError> {
        let event = parse_line(line.as_bytes())?;
        Ok((event.at.duration_since(UNIX_EPOCH).unwrap(), event.text))
    }

    #[test]
    fn common_logs_are_understood() {
        for line in [
            r#"{"time":"2023-11-14T22:13:20.25Z","msg":"pod deleted"}"#,
            r#"{"timestamp":"2023-11-14T23:13:20.250+01:00","level":"INFO","fields":{"message":"pod deleted"}}"#,
            r#"{"ts":1700000000.25,"msg":"pod deleted","caller":"x.go:1"}"#,
            r#"{"ts":1700000000250,"message":"pod deleted"}"#,
            r#"{"at":"1700000000250000","text":"pod\tdeleted"}"#,
            r#"{"time":1700000000250000000,"event":"pod deleted"}"#,
            r#"{"@timestamp":"2023-11-14 22:13:20.25Z","message":" pod deleted "}"#,
        ] {
            assert_eq!(parse(line), Ok((AT, "pod deleted".to_owned())), "{line}");
        }
    }

    #[test]
    fn kubernetes_events_name_their_object() {
        let event = r#"{"kind":"Event","eventTime":null,"lastTimestamp":"2023-11-14T22:13:20Z","reason":"Killing",
            "message":"Stopping container web","involvedObject":{"kind":"Pod","name":"web-1"},
            "metadata":{"creationTimestamp":"2023-11-14T22:13:00Z"}}"#;
        let expected = (Duration::from_secs(1_700_000_000), "Pod/web-1 Killing Stopping container web".to_owned());
        assert_eq!(parse(event), Ok(expected.clone()));
        assert_eq!(parse(&format!(r#"{{"type":"ADDED","object":{event}}}"#)), Ok(expected));
    }

    #[test]
    fn refusals_are_named_and_counted() {
        let mut log = EventLog::default();
        for (line, error) in [
            ("no json", EventError::NotAnObject),
            ("[1]", EventError::NotAnObject),
            (r#"{"msg":"x"}"#, EventError::NoTime),
            (r#"{"time":"yesterday","msg":"x"}"#, EventError::BadTime),
            (r#"{"time":-5,"msg":"x"}"#, EventError::BadTime),
            (r#"{"time":"2023-11-14T22:13:20","msg":"a time without its zone"}"#, EventError::BadTime),
            (r#"{"time":1700000000,"level":"info"}"#, EventError::NoText),
        ] {
            assert_eq!(log.add_line(line.as_bytes()), Err(error), "{line}");
        }
        assert_eq!(log.add_line(b"  "), Ok(()));
        assert_eq!(log.add_line(&vec![b' '; MAX_LINE + 1]), Ok(()));
        assert_eq!(log.add_line(&vec![b'x'; MAX_LINE + 1]), Err(EventError::TooLong));
        assert_eq!(log.refused().values().sum::<u64>(), 8);
        assert_eq!(log.refused()[&EventError::BadTime], 3);
    }

    #[test]
    fn memory_is_bounded() {
        let mut log = EventLog::default();
        let text = "x".repeat(1000);
        for time in 0..MAX_EVENTS + 5 {
            log.add_line(format!(r#"{{"time":{time},"msg":"{text}"}}"#).as_bytes()).unwrap();
        }
        assert_eq!((log.events().len(), log.refused()[&EventError::TooMany]), (MAX_EVENTS, 5));
        assert_eq!(log.events()[0].text.len(), MAX_TEXT);
        assert_eq!(log.events()[0].at, UNIX_EPOCH + Duration::from_secs(5), "the end is kept");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            _ = parse_line(&bytes);
        }

        #[test]
        fn any_time_is_read_or_refused(time in prop_oneof![
            any::<f64>().prop_map(|number| number.to_string()),
            any::<i64>().prop_map(|number| number.to_string()),
            "\"[0-9T:.Z+-]{0,30}\"",
        ]) {
            let parsed = parse(&format!(r#"{{"time":{time},"msg":"x"}}"#));
            prop_assert!(matches!(parsed, Ok(_) | Err(EventError::BadTime | EventError::NotAnObject | EventError::NoTime)));
        }

        #[test]
        fn a_printed_timestamp_is_read_back(nanos in 0..4_000_000_000_000_000_000_i64) {
            let at = Timestamp::from_nanosecond(nanos.into()).unwrap();
            let (read, _) = parse(&format!(r#"{{"time":"{at}","msg":"x"}}"#)).unwrap();
            prop_assert_eq!(read.as_nanos(), u128::try_from(nanos).unwrap());
        }
    }
}
