//! What the demo found, for people and for programs.

use std::fmt;

use evenkeel_probe::{LaneReport, Quantiles, Report as LoadReport, Verdict as LoadVerdict};
use indicatif::HumanCount;
use serde::{Serialize, Serializer, ser::Error as _};

use super::{Forwarding, VIP, story::Replacement};

/// Lines of the load balancer's log that a report of a failure quotes.
const QUOTED_LINES: usize = 30;
/// Outages a person is shown of each lane; the JSON has them all.
const SHOWN_WINDOWS: usize = 5;

/// The report of the demo; serializes to JSON with the prober's report at the top level.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    verdict: Verdict,
    #[serde(flatten, serialize_with = "without_verdict")]
    load: LoadReport,
    forwarding: Forwarding,
    /// Backends that were to be replaced.
    backends: usize,
    replacements: Vec<Replacement>,
    /// Whether the load balancer ended with success, in time, when asked to.
    balancer_orderly: bool,
    /// The end of the load balancer's log, unless all is well.
    balancer_log: Vec<String>,
}

/// The prober's verdict would be a second one beside the demo's.
fn without_verdict<S: Serializer>(load: &LoadReport, serializer: S) -> Result<S::Ok, S::Error> {
    let mut fields = serde_json::to_value(load).map_err(S::Error::custom)?;
    if let Some(fields) = fields.as_object_mut() {
        fields.remove("verdict");
    }
    fields.serialize(serializer)
}

/// What the demo says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// Every backend was replaced in an orderly way, and no request failed.
    Passed,
    /// Requests failed.
    Failed,
    /// The prober was not fit to judge.
    Invalid,
    /// No request failed, but not everything happened as it should have.
    Incomplete,
}

impl Report {
    pub(crate) fn new(
        load: LoadReport,
        forwarding: Forwarding,
        backends: usize,
        replacements: Vec<Replacement>,
        balancer_orderly: bool,
        mut balancer_log: Vec<String>,
    ) -> Self {
        let complete = replacements.len() == backends && replacements.iter().all(|one| one.orderly) && balancer_orderly;
        let verdict = match load.verdict() {
            LoadVerdict::Invalid => Verdict::Invalid,
            LoadVerdict::Breached => Verdict::Failed,
            LoadVerdict::Passed if complete => Verdict::Passed,
            LoadVerdict::Passed => Verdict::Incomplete,
        };
        if verdict == Verdict::Passed {
            balancer_log.clear();
        } else {
            balancer_log.drain(..balancer_log.len().saturating_sub(QUOTED_LINES));
        }
        Self { verdict, load, forwarding, backends, replacements, balancer_orderly, balancer_log }
    }

    pub(crate) fn passed(&self) -> bool {
        self.verdict == Verdict::Passed
    }

    fn write_lanes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {:<5} {:>10} {:>7} {:>9} {:>9} {:>9}",
            "lane", "requests", "failed", "p50 ms", "p99 ms", "max ms"
        )?;
        for LaneReport { lane, requests, failed, latency_ms, .. } in &self.load.lanes {
            let (requests, failed) = (HumanCount(*requests).to_string(), HumanCount(*failed).to_string());
            write!(f, "  {lane:<5} {requests:>10} {failed:>7}")?;
            match latency_ms {
                Some(Quantiles { p50, p99, max, .. }) => writeln!(f, " {p50:>9.2} {p99:>9.2} {max:>9.2}")?,
                None => writeln!(f, " {:>9} {:>9} {:>9}", "-", "-", "-")?,
            }
        }
        for lane in self.load.lanes.iter().filter(|lane| lane.failed > 0) {
            let causes: Vec<String> = lane.causes.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
            writeln!(f, "\n  {} failed: {}", lane.lane, causes.join(", "))?;
            for window in lane.windows.iter().take(SHOWN_WINDOWS) {
                let (start, end) = (window.start_ms / 1e3, window.end_ms / 1e3);
                writeln!(
                    f,
                    "    {start:.3} s to {end:.3} s: {} requests, mostly {}",
                    window.failed,
                    window.cause_name()
                )?;
            }
            if lane.windows.len() > SHOWN_WINDOWS {
                writeln!(f, "    and {} more times", lane.windows.len() - SHOWN_WINDOWS)?;
            }
        }
        Ok(())
    }

    fn write_replacements(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = ["started", "ready", "draining", "SIGTERM", "gone"];
        write!(f, "  {:<10} {:<10}", "old", "new")?;
        for name in column {
            write!(f, " {name:>9}")?;
        }
        writeln!(f)?;
        for replacement in &self.replacements {
            let Replacement { old, new, starting_ms, added_ms, draining_ms, stopping_ms, removed_ms, orderly } =
                replacement;
            write!(f, "  {old:<10} {new:<10}")?;
            for ms in [starting_ms, added_ms, draining_ms, stopping_ms, removed_ms] {
                write!(f, " {:>7.2} s", *ms as f64 / 1e3)?;
            }
            writeln!(f, "{}", if *orderly { "" } else { "  did not end by itself" })?;
        }
        Ok(())
    }

    /// One sentence that says it all.
    fn sentence(&self) -> String {
        let requests = HumanCount(self.load.requests);
        let (replaced, backends) = (self.replacements.len(), self.backends);
        match self.verdict {
            Verdict::Passed => format!(
                "PASSED: {requests} requests, none failed, while each of {backends} backends was replaced.\n\
                 With 95 % confidence, less than one request in {} fails in such an update (3/N).",
                HumanCount(self.load.requests / 3)
            ),
            Verdict::Failed => format!(
                "FAILED: {} of {requests} requests failed while {replaced} of {backends} backends were replaced.",
                HumanCount(self.load.failed)
            ),
            Verdict::Invalid => {
                let reasons: Vec<&str> = self.load.invalid_reasons.iter().map(|reason| reason.name()).collect();
                format!(
                    "INVALID: this machine could not send requests evenly enough to judge ({}; the prober's own p99 lag \
                     was {:.1} ms, at most {:.1} ms will do).\nTry again with less running beside it, or a lower --rate.",
                    reasons.join(", "),
                    self.load.lag_ms.p99,
                    self.load.max_lag_ms
                )
            }
            Verdict::Incomplete if !self.balancer_orderly => {
                "INCOMPLETE: no request failed, but the load balancer did not end in an orderly way.".to_owned()
            }
            Verdict::Incomplete => format!(
                "INCOMPLETE: no request failed, but {replaced} of {backends} backends were replaced, not all in an orderly \
                 way."
            ),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Rolling update behind {VIP}, {} backends, forwarding {}, {:.1} s under load\n",
            self.backends,
            self.forwarding.name(),
            self.load.duration_ms / 1e3
        )?;
        self.write_lanes(f)?;
        writeln!(f)?;
        self.write_replacements(f)?;
        writeln!(f, "\n{}", self.sentence())?;
        if self.passed() {
            return f.write_str(NEXT_STEPS);
        }
        if !self.balancer_log.is_empty() {
            writeln!(f, "\nThe end of the load balancer's log:")?;
            for line in &self.balancer_log {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

const NEXT_STEPS: &str = "
Try it on this machine, with the manifests you have (MetalLB's pools and advertisements, Services, EndpointSlices):
  evenkeel plan DIR                                               what would happen; changes nothing
  sudo evenkeel run DIR --node \"$(hostname)\" --interface eth0     carry it out, and follow changes of DIR
  evenkeel probe http://ADDRESS:PORT                              measure it from another host
";

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        time::{Duration, SystemTime},
    };

    use evenkeel_probe::{Cause, InvalidReason, LaneKind, LaneMeasurement, Latency, Measurement, measure::Window};

    use super::*;

    fn load(failed: u64, invalid: bool) -> LoadReport {
        let (second, started) = (Duration::from_secs(1), SystemTime::UNIX_EPOCH);
        let address = "10.77.0.100:9000".parse().unwrap();
        let mut lane = LaneMeasurement::new("tcp".to_owned(), LaneKind::TcpEcho, address, Some(second / 2000));
        (lane.sent, lane.succeeded, lane.failed, lane.in_flight) = (60_000, 60_000 - failed, failed, failed);
        lane.latency.record(Duration::from_micros(400));
        if failed > 0 {
            lane.causes.insert(Cause::Reset, failed);
            lane.windows.push(Window {
                start: second,
                end: second * 3 / 2,
                failed,
                rescuable: 0,
                causes: lane.causes.clone(),
                servers: BTreeMap::new(),
                longest_gap: Duration::ZERO,
            });
        }
        let mut lag = Latency::fine();
        lag.record(Duration::from_millis(99));
        let duration = second * 30;
        LoadReport::new(&Measurement {
            started,
            duration,
            ended: duration,
            lanes: vec![lane],
            lag,
            max_lag: Duration::from_millis(20),
            invalid: if invalid { vec![InvalidReason::Lag] } else { Vec::new() },
            results_dropped: 0,
        })
    }

    fn replacements(count: usize) -> Vec<Replacement> {
        (0..count)
            .map(|index| Replacement {
                new: format!("backend-{}", index + 5),
                orderly: true,
                ..Replacement::new(&format!("backend-{}", index + 1))
            })
            .collect()
    }

    fn report(failed: u64, invalid: bool, replaced: usize, orderly: bool) -> Report {
        let log = vec!["a line of the log".to_owned()];
        Report::new(load(failed, invalid), Forwarding::Direct, 4, replacements(replaced), orderly, log)
    }

    #[test]
    fn only_a_complete_update_without_a_failure_passes() {
        assert_eq!(report(0, false, 4, true).verdict, Verdict::Passed);
        assert_eq!(report(1, false, 4, true).verdict, Verdict::Failed);
        assert_eq!(report(0, true, 4, true).verdict, Verdict::Invalid);
        assert_eq!(report(1, true, 4, true).verdict, Verdict::Invalid);
        assert_eq!(report(0, false, 3, true).verdict, Verdict::Incomplete);
        assert_eq!(report(0, false, 4, false).verdict, Verdict::Incomplete);
        let mut killed = replacements(4);
        killed[2].orderly = false;
        let report = Report::new(load(0, false), Forwarding::Stack, 4, killed, true, Vec::new());
        assert_eq!(report.verdict, Verdict::Incomplete);
        assert!(!report.passed());
    }

    #[test]
    fn the_json_has_the_probers_fields_at_the_top() {
        let json = serde_json::to_value(report(2, false, 4, true)).unwrap();
        assert_eq!(json["requests"], 60_000);
        assert_eq!(json["failed"], 2);
        assert_eq!(json["lanes"][0]["lane"], "tcp");
        assert_eq!(json["lanes"][0]["causes"]["reset"], 2);
        assert_eq!(json["verdict"], "failed");
        assert_eq!(json["forwarding"], "direct");
        assert_eq!(json["replacements"][3]["new"], "backend-8");
    }

    #[test]
    fn a_pass_states_the_bound_and_what_to_do_next() {
        let text = report(0, false, 4, true).to_string();
        assert!(text.contains("PASSED: 60,000 requests, none failed"), "{text}");
        assert!(text.contains("one request in 20,000"), "{text}");
        assert!(text.contains("evenkeel plan DIR"), "{text}");
        assert!(!text.contains("log"), "{text}");
    }

    #[test]
    fn a_failure_states_causes_times_and_the_log() {
        let text = report(3, false, 4, true).to_string();
        assert!(text.contains("tcp failed: reset 3"), "{text}");
        assert!(text.contains("1.000 s to 1.500 s: 3 requests, mostly reset"), "{text}");
        assert!(text.contains("FAILED: 3 of 60,000"), "{text}");
        assert!(text.contains("a line of the log"), "{text}");
        assert!(!text.contains("evenkeel plan"), "{text}");
    }

    #[test]
    fn an_invalid_run_names_the_lag() {
        let text = report(0, true, 4, true).to_string();
        assert!(text.contains("INVALID") && text.contains("99.0 ms"), "{text}");
    }
}
