//! The report for people at a terminal: vegeta's lines, field for field, then what only this prober knows.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter, Write as _},
};

use super::{
    document::{CLOSED_LOOP, LaneReport, Quantiles, Report, Window},
    quantity::{go_duration, percent, thousands},
};

/// Windows and events shown of each lane; the JSON report has them all.
const SHOWN: usize = 20;
/// Error texts shown.
const SHOWN_ERRORS: usize = 10;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_totals(f)?;
        for lane in &self.lanes {
            self.write_lane(f, lane)?;
        }
        self.write_prober(f)?;
        self.write_events(f)?;
        self.write_objectives(f)?;
        writeln!(f)?;
        // Further reasons below the first.
        writeln!(f, "{}", self.conclusion().join(&format!("\n{:10}", "")))
    }
}

/// A line of vegeta's report: name, fields, values.
fn line(f: &mut Formatter<'_>, name: &str, fields: &str, values: &str) -> fmt::Result {
    writeln!(f, "{name:<14}{fields:<34}{values}")
}

/// The same, of a lane.
fn lane_line(f: &mut Formatter<'_>, name: &str, fields: &str, values: &str) -> fmt::Result {
    writeln!(f, "  {name:<14}{fields:<42}{values}")
}

fn durations(values: &[f64]) -> String {
    values.iter().map(|&ms| go_duration(ms)).collect::<Vec<_>>().join(", ")
}

/// `name:count`, two spaces apart.
fn counts<K: Display>(counts: &BTreeMap<K, u64>) -> String {
    counts.iter().map(|(name, count)| format!("{name}:{count}")).collect::<Vec<_>>().join("  ")
}

impl Report {
    fn write_totals(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { requests, failed, duration_ms, wait_ms, .. } = self;
        let succeeded = requests.saturating_sub(*failed);
        let per_second = |count: u64, ms: f64| if ms > 0.0 { count as f64 / ms * 1e3 } else { 0.0 };
        let rate = per_second(*requests, *duration_ms);
        let throughput = per_second(succeeded, duration_ms + wait_ms);
        line(f, "Requests", "[total, rate, throughput]", &format!("{requests}, {rate:.2}, {throughput:.2}"))?;
        let duration = durations(&[duration_ms + wait_ms, *duration_ms, *wait_ms]);
        line(f, "Duration", "[total, attack, wait]", &duration)?;
        let Quantiles { min, mean, p50, p90, p95, p99, max, .. } = self.latency_ms.unwrap_or_default();
        let latencies = durations(&[min, mean, p50, p90, p95, p99, max]);
        line(f, "Latencies", "[min, mean, 50, 90, 95, 99, max]", &latencies)?;
        for (name, bytes) in [
            ("Bytes In", self.lanes.iter().map(|lane| lane.bytes_in).sum::<u64>()),
            ("Bytes Out", self.lanes.iter().map(|lane| lane.bytes_out).sum()),
        ] {
            let mean = if *requests > 0 { bytes as f64 / *requests as f64 } else { 0.0 };
            line(f, name, "[total, mean]", &format!("{bytes}, {mean:.2}"))?;
        }
        line(f, "Success", "[ratio]", &percent(succeeded, *requests))?;
        line(f, "Status Codes", "[code:count]", &counts(&self.codes()))?;
        writeln!(f, "Error Set:")?;
        let errors: BTreeMap<&String, u64> =
            self.lanes.iter().flat_map(|lane| &lane.errors).fold(BTreeMap::new(), |mut errors, (text, count)| {
                *errors.entry(text).or_default() += count;
                errors
            });
        for text in errors.keys().take(SHOWN_ERRORS) {
            writeln!(f, "{}", printable(text))?;
        }
        match errors.len().saturating_sub(SHOWN_ERRORS) {
            0 => Ok(()),
            more => writeln!(f, "({more} more)"),
        }
    }

    /// Answers by code. As in vegeta's report, 0 stands for requests that failed without an answer; lanes that know no
    /// codes succeed with `ok`.
    pub(super) fn codes(&self) -> BTreeMap<&str, u64> {
        let mut codes: BTreeMap<&str, u64> = BTreeMap::new();
        let mut add = |code, count| {
            if count > 0 {
                *codes.entry(code).or_default() += count;
            }
        };
        for lane in &self.lanes {
            let coded: u64 = lane.codes.values().sum();
            for (code, count) in &lane.codes {
                add(code.as_str(), *count);
            }
            let ok = if coded == 0 { lane.succeeded() } else { 0 };
            add("ok", ok);
            add("0", lane.requests.saturating_sub(coded + ok));
        }
        codes
    }

    fn write_lane(&self, f: &mut Formatter<'_>, lane: &LaneReport) -> fmt::Result {
        let rate = lane.rate.map_or("as fast as it goes".to_owned(), |rate| format!("{rate}/s"));
        writeln!(f, "\nLane {} ({}, {rate})", lane.lane, lane.kind.scheme())?;
        if lane.rate.is_none() {
            writeln!(f, "  {CLOSED_LOOP}")?;
        }
        let succeeded = percent(lane.succeeded(), lane.requests);
        let mut success = format!("{}, {}, {succeeded}", lane.requests, lane.failed);
        if let Some(bound) = lane.failure_bound_95 {
            write!(success, " (95 % sure: fewer than {} fail)", percent_up(bound))?;
        }
        lane_line(f, "Requests", "[total, failed, success]", &success)?;
        if let Some(latency) = lane.latency_ms {
            lane_line(f, "Latencies", "[min, mean, 50, 90, 95, 99, 99.9, max]", &latency.to_string())?;
        }
        for (name, times) in
            [("Service", lane.service_ms), ("First byte", lane.first_byte_ms), ("Handshake", lane.handshake_ms)]
        {
            if let Some(times) = times {
                lane_line(f, name, "[50, 99, max]", &durations(&[times.p50, times.p99, times.max]))?;
            }
        }
        let gap = durations(&[lane.longest_gap_ms, lane.longest_gap_start_ms]);
        lane_line(f, "Longest gap", "[length, from]", &gap)?;
        if lane.failed > 0 {
            lane_line(f, "Failures", "[cause:count]", &counts(&lane.causes))?;
            let LaneReport { rescuable, in_flight, connectionless, local, .. } = lane;
            let split = format!("{rescuable}, {in_flight}, {connectionless}, {local}");
            lane_line(f, "Failed while", "[connecting, in flight, datagram, local]", &split)?;
        }
        for slow in &lane.slow {
            let counts = format!("{}, {}", slow.count, slow.confirmed);
            lane_line(f, "Slow success", &format!("[SYN lost {} s, confirmed]", slow.after_s), &counts)?;
        }
        if lane.retried + lane.broken > 0 {
            let counts = format!("{}, {}, {}", lane.connections, lane.retried, lane.broken);
            lane_line(f, "Connections", "[opened, retried, broken]", &counts)?;
        }
        if !lane.servers.is_empty() {
            lane_line(f, "Servers", "[name:count]", &printable(&counts(&lane.servers)))?;
        }
        if !lane.servers_failed.is_empty() {
            lane_line(f, "", "[name:failed]", &printable(&counts(&lane.servers_failed)))?;
        }
        self.write_windows(f, &lane.windows)
    }

    fn write_windows(&self, f: &mut Formatter<'_>, windows: &[Window]) -> fmt::Result {
        if windows.is_empty() {
            return Ok(());
        }
        let longest = windows.iter().map(Window::length_ms).fold(0.0, f64::max);
        let total = windows.iter().map(Window::length_ms).sum();
        lane_line(
            f,
            "Outages",
            "[count, total, longest]",
            &format!("{}, {}", windows.len(), durations(&[total, longest])),
        )?;
        for window in windows.iter().take(SHOWN) {
            writeln!(f, "    {}", window.sentence())?;
            if let Some(blame) = self.blame_sentence(window) {
                writeln!(f, "      {blame}")?;
            }
        }
        match windows.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => writeln!(f, "    ({more} more)"),
        }
    }

    /// The event a window is blamed on, in words.
    pub(super) fn blame_sentence(&self, window: &Window) -> Option<String> {
        let blame = window.blame.as_ref()?;
        let event = self.events.get(blame.event)?;
        let (time, side) =
            if blame.before_ms < 0.0 { (-blame.before_ms, "before") } else { (blame.before_ms, "after") };
        Some(format!("{} {side} \u{201c}{}\u{201d}", go_duration(time), event.text))
    }

    fn write_prober(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nProber")?;
        if self.is_open_loop() {
            let Quantiles { p50, p99, max, .. } = self.lag_ms;
            let lag = format!("{} (bound of 99: {})", durations(&[p50, p99, max]), go_duration(self.max_lag_ms));
            lane_line(f, "Own lag", "[50, 99, max]", &lag)?;
        } else {
            lane_line(f, "Own lag", "[50, 99, max]", "none: there was no schedule")?;
        }
        if self.results_dropped > 0 {
            lane_line(f, "Results", "[left out of streams]", &self.results_dropped.to_string())?;
        }
        if let Some(command) = &self.command {
            let (started, ended) = (command.started_ms, command.ended_ms);
            let text = format!("{}: {}", printable(&command.command), command.end);
            lane_line(f, "Command", "[from, to]", &format!("{} {text}", durations(&[started, ended])))?;
        }
        Ok(())
    }

    fn write_events(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.events.is_empty() && self.events_refused.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nEvents")?;
        let within = |at_ms: f64| (0.0..=self.duration_ms + self.wait_ms).contains(&at_ms);
        let (during, apart): (Vec<_>, Vec<_>) = self.events.iter().partition(|event| within(event.at_ms));
        for event in during.iter().take(SHOWN) {
            writeln!(f, "  {:>10}  {}", go_duration(event.at_ms), event.text)?;
        }
        if during.len() > SHOWN {
            writeln!(f, "  ({} more)", during.len() - SHOWN)?;
        }
        if !apart.is_empty() {
            writeln!(f, "  ({} before or after the run)", apart.len())?;
        }
        for (reason, count) in &self.events_refused {
            writeln!(f, "  {count} refused, {reason}: {}", reason.remedy())?;
        }
        Ok(())
    }

    fn write_objectives(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nObjectives")?;
        let several = self.lanes.len() > 1;
        let width = self.objectives.iter().map(|result| result.objective.len()).max().unwrap_or_default();
        for result in &self.objectives {
            let held = if result.held { "held" } else { "breached" };
            let lane = result.lane.as_ref().filter(|_| several && !result.objective.contains(':'));
            let lane = lane.map(|lane| format!(" on {lane}")).unwrap_or_default();
            let note = result.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
            writeln!(f, "  {held:<9} {:<width$}  {}{lane}{note}", result.objective, result.actual_text())?;
        }
        Ok(())
    }
}

impl Window {
    /// The outage in words.
    pub(super) fn sentence(&self) -> String {
        let mut text = format!("{} for {}: ", go_duration(self.start_ms), go_duration(self.length_ms()));
        match self.failed {
            0 => text += "stall, none failed",
            failed => {
                text += &format!("{} failed ({})", thousands(failed), list(&self.causes));
                if self.rescuable > 0 {
                    text += &format!(", {} while connecting", thousands(self.rescuable));
                }
            }
        }
        if !self.servers.is_empty() {
            text += &format!(", on {}", printable(&list(&self.servers)));
        }
        text + &format!(", no success for {}", go_duration(self.longest_gap_ms))
    }
}

/// `name count`, with commas.
pub(super) fn list<K: Display>(counts: &BTreeMap<K, u64>) -> String {
    counts.iter().map(|(name, count)| format!("{name} {}", thousands(*count))).collect::<Vec<_>>().join(", ")
}

/// A share as a percentage, rounded up.
fn percent_up(share: f64) -> String {
    let text = format!("{:.4}", (share * 1e6).ceil() / 1e4);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Text from outside without what a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn the_first_lines_are_vegetas_field_for_field() {
        let text = Report::new(&sample::measurement()).to_string();
        let names: Vec<&str> = text.lines().take(8).map(|line| line[..line.len().min(48)].trim_end()).collect();
        let fields = |line: &str| {
            let (name, rest) = line.split_once('[').unwrap_or((line, ""));
            (name.to_owned(), rest.split(']').next().unwrap_or_default().to_owned())
        };
        // The lines of vegeta's report, without their values.
        let vegeta = "Requests      [total, rate, throughput]\n\
                      Duration      [total, attack, wait]\n\
                      Latencies     [min, mean, 50, 90, 95, 99, max]\n\
                      Bytes In      [total, mean]\n\
                      Bytes Out     [total, mean]\n\
                      Success       [ratio]\n\
                      Status Codes  [code:count]\n\
                      Error Set:";
        assert!(names.iter().copied().map(fields).eq(vegeta.lines().map(fields)), "{text}");
    }

    #[test]
    fn a_closed_loop_says_so() {
        let mut measurement = sample::measurement();
        for lane in &mut measurement.lanes {
            lane.interval = None;
        }
        let report = Report::new(&measurement);
        let (text, html) = (report.to_string(), report.to_html());
        assert!(text.contains(CLOSED_LOOP) && text.contains("none: there was no schedule"), "{text}");
        assert!(html.contains(CLOSED_LOOP) && !html.contains("at a fixed rate"));
    }

    #[test]
    fn shares_are_rounded_up() {
        assert_eq!(percent_up(0.15), "15 %");
        assert_eq!(percent_up(0.000_01), "0.001 %");
        assert_eq!(percent_up(3.0 / 299_988.0), "0.0011 %");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
