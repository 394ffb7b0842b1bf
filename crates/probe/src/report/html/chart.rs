//! A lane's timeline and its percentiles as inline SVG: no script, sized by the page, coloured by its style sheet.

use std::fmt::{self, Display, Formatter};

use super::super::{
    document::{Event, LaneReport, Quantiles, Slice, Window},
    markup::Escaped,
    quantity::{go_duration, thousands},
};

/// The drawing's width, in its own units; the page scales it.
const WIDTH: f64 = 960.0;
/// Where the time axis begins and ends.
const LEFT: f64 = 90.0;
const RIGHT: f64 = WIDTH - 14.0;
/// Upper and lower edge of the requests' panel; above it are the numbers of events.
const REQUESTS: (f64, f64) = (34.0, 144.0);
/// The same of the latencies' panel.
const LATENCY: (f64, f64) = (172.0, 302.0);
const HEIGHT: f64 = 326.0;
/// Flags of events narrower than this apart would hide each other.
const FLAG: f64 = 22.0;
/// Events that are drawn; a report with more still lists them.
const DRAWN_EVENTS: usize = 200;

/// A lane's timeline: requests a second above, latencies below, outages and events across both.
pub(super) struct Chart<'a> {
    pub(super) lane: &'a LaneReport,
    /// Numbered from 1, whatever their indices.
    pub(super) events: &'a [(usize, &'a Event)],
    /// End of the time axis, in milliseconds.
    pub(super) until_ms: f64,
    /// Unique in the page.
    pub(super) id: usize,
}

impl Chart<'_> {
    fn x(&self, at_ms: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (at_ms / self.until_ms.max(1.0)).clamp(0.0, 1.0)
    }

    /// The slices with their start and end.
    fn slices(&self) -> impl Iterator<Item = (f64, f64, &Slice)> {
        let length = self.lane.timeline.slice_ms;
        let slices = self.lane.timeline.slices.iter().enumerate();
        let timed = slices.map(move |(index, slice)| (index as f64 * length, (index + 1) as f64 * length, slice));
        timed
            .take_while(|(from, _, _)| *from < self.until_ms)
            .map(|(from, to, slice)| (from, to.min(self.until_ms), slice))
    }

    /// The highest number of requests in a slice, a second.
    fn most(&self) -> f64 {
        // The end of the run may leave a sliver of the last slice, in which a single request looks like a burst.
        let whole =
            |(from, to, _): &(f64, f64, &Slice)| to - from > 0.5 * self.lane.timeline.slice_ms.min(self.until_ms);
        let rates = self.slices().filter(whole).map(|(from, to, slice)| per_second(slice.ok + slice.failed, to - from));
        rates.fold(0.0, f64::max).max(1.0)
    }

    fn requests(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (top, bottom) = REQUESTS;
        let ticks = linear_ticks(self.most());
        let highest = ticks.last().copied().unwrap_or(1.0);
        let y = |rate: f64| bottom - (bottom - top) * (rate / highest).min(1.0);
        for tick in &ticks {
            grid_line(f, y(*tick), tick)?;
        }
        let (mut ok, mut failed) = (String::new(), String::new());
        for (from, to, slice) in self.slices() {
            let (left, right) = (self.x(from), self.x(to));
            let rate = |count: u64| per_second(count, to - from);
            let (middle, upper) = (y(rate(slice.ok)), y(rate(slice.ok + slice.failed)));
            if slice.ok > 0 {
                ok += &format!("M{left:.1} {bottom:.1}V{middle:.1}H{right:.1}V{bottom:.1}z");
            }
            if slice.failed > 0 {
                // A single failure must be seen, too.
                let upper = upper.min(middle - 3.0).max(top - 3.0);
                failed += &format!("M{left:.1} {middle:.1}V{upper:.1}H{right:.1}V{middle:.1}z");
            }
        }
        write!(f, r#"<path class="ok" d="{ok}"/><path class="failed" d="{failed}"/>"#)?;
        panel_name(f, top, "requests/s")
    }

    fn latencies(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (top, bottom) = LATENCY;
        panel_name(f, top, "latency")?;
        let values = || self.slices().flat_map(|(_, _, slice)| [slice.p50_ms, slice.max_ms]).flatten();
        let lowest = values().fold(f64::INFINITY, f64::min);
        let highest = values().fold(0.0, f64::max);
        if highest <= 0.0 {
            return write!(f, r#"<text x="{LEFT}" y="{:.1}">no request succeeded</text>"#, (top + bottom) / 2.0);
        }
        // Whole decades, of which the lowest may be one of microseconds.
        let low = lowest.max(1e-3).log10().floor();
        let high = highest.max(1e-3).log10().ceil().max(low + 1.0);
        let y = |ms: f64| bottom - (bottom - top) * ((ms.max(1e-3).log10() - low) / (high - low)).clamp(0.0, 1.0);
        let mut decade = low;
        while decade <= high {
            let ms = 10_f64.powf(decade);
            grid_line(f, y(ms), &go_duration(ms))?;
            decade += 1.0;
        }
        let mut dots = String::new();
        for (from, to, slice) in self.slices() {
            if let Some(max) = slice.max_ms {
                let (x, y) = (self.x(from.midpoint(to)), y(max));
                dots += &format!("M{:.1} {:.1}h2.2v2.2h-2.2z", x - 1.1, y - 1.1);
            }
        }
        write!(f, r#"<path class="max" d="{dots}"/>"#)?;
        for (class, of) in [("p50", (|slice| slice.p50_ms) as fn(&Slice) -> Option<f64>), ("p99", |slice| slice.p99_ms)]
        {
            let (mut path, mut drawing) = (String::new(), false);
            for (from, to, slice) in self.slices() {
                if let Some(ms) = of(slice) {
                    let (left, right, y) = (self.x(from), self.x(to), y(ms));
                    // A slice is as wide as it is: a line without width would not show one among failures.
                    path += &format!("{}{left:.1} {y:.1}H{right:.1}", if drawing { 'L' } else { 'M' });
                    drawing = true;
                } else {
                    drawing = false;
                }
            }
            write!(f, r#"<path class="{class}" d="{path}"/>"#)?;
        }
        Ok(())
    }

    fn time_axis(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (_, bottom) in [REQUESTS, LATENCY] {
            write!(f, r#"<path class="axis" d="M{LEFT} {bottom}H{RIGHT}"/>"#)?;
        }
        let step = time_step(self.until_ms);
        let mut at = 0.0;
        while at <= self.until_ms * 1.0001 {
            let x = self.x(at);
            let anchor = if x > RIGHT - 20.0 { "end" } else { "middle" };
            write!(f, r#"<path class="axis" d="M{x:.1} {}v5"/>"#, LATENCY.1)?;
            write!(
                f,
                r#"<text x="{x:.1}" y="{}" text-anchor="{anchor}">{}</text>"#,
                LATENCY.1 + 19.0,
                go_duration(at)
            )?;
            at += step;
        }
        Ok(())
    }

    fn windows(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut free_from = 0.0;
        for (index, window) in self.lane.windows.iter().enumerate() {
            let (left, right) = (self.x(window.start_ms), self.x(window.end_ms));
            let right = right.max(left + 1.5);
            let stalled = if window.failed == 0 { " stalled" } else { "" };
            let (top, bottom) = (REQUESTS.0, LATENCY.1);
            write!(
                f,
                r#"<rect class="window{stalled}" x="{left:.1}" y="{top}" width="{:.1}" height="{}"/>"#,
                right - left,
                bottom - top
            )?;
            let strip = REQUESTS.1 + 4.0;
            write!(
                f,
                r#"<rect class="edge{stalled}" x="{left:.1}" y="{strip}" width="{:.1}" height="3"><title>{}</title></rect>"#,
                right - left,
                Escaped(window.sentence())
            )?;
            let middle = left.midpoint(right);
            if middle >= free_from {
                write!(
                    f,
                    r#"<text class="outage{stalled}" x="{middle:.1}" y="{}" text-anchor="middle">{}</text>"#,
                    strip + 15.0,
                    index + 1
                )?;
                free_from = middle + FLAG;
            }
        }
        Ok(())
    }

    fn flags(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let within = |event: &Event| (0.0..=self.until_ms).contains(&event.at_ms);
        let mut free_from = 0.0;
        let events = (1..).zip(self.events).map(|(number, (_, event))| (number, *event));
        for (number, event) in events.filter(|(_, event)| within(event)).take(DRAWN_EVENTS) {
            let x = self.x(event.at_ms);
            write!(
                f,
                r#"<path class="event" d="M{x:.1} 18V{}"><title>{}: {}</title></path>"#,
                LATENCY.1,
                go_duration(event.at_ms),
                Escaped(&event.text)
            )?;
            if x >= free_from {
                write!(
                    f,
                    r#"<rect class="flag" x="{:.1}" y="4" width="{FLAG}" height="14" rx="3"><title>{}</title></rect>"#,
                    x - FLAG / 2.0,
                    Escaped(&event.text)
                )?;
                write!(f, r#"<text class="flagtext" x="{x:.1}" y="14.5" text-anchor="middle">{number}</text>"#)?;
                free_from = x + FLAG + 1.0;
            }
        }
        Ok(())
    }

    /// What a pointer over a slice is told.
    fn hover(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (from, to, slice) in self.slices() {
            let (left, right) = (self.x(from), self.x(to));
            let (top, height) = (REQUESTS.0, LATENCY.1 - REQUESTS.0);
            let latency = match (slice.p50_ms, slice.p99_ms, slice.max_ms) {
                (Some(p50), Some(p99), Some(max)) => {
                    format!(", p50 {}, p99 {}, max {}", go_duration(p50), go_duration(p99), go_duration(max))
                }
                _ => String::new(),
            };
            write!(
                f,
                r#"<rect class="hover" x="{left:.1}" y="{top}" width="{:.1}" height="{height}"><title>{} to {}: {} ok, {} failed{latency}</title></rect>"#,
                right - left,
                go_duration(from),
                go_duration(to),
                thousands(slice.ok),
                thousands(slice.failed),
            )?;
        }
        Ok(())
    }

    /// What the drawing shows, for those who do not see it.
    fn description(&self) -> String {
        let lane = self.lane;
        let outages = match lane.windows.len() {
            0 => "no outage".to_owned(),
            1 => format!("one outage: {}", lane.windows[0].sentence()),
            count => {
                let longest = lane.windows.iter().map(Window::length_ms).fold(0.0, f64::max);
                format!("{count} outages, the longest of {}", go_duration(longest))
            }
        };
        format!(
            "{} requests in {}, {} failed; {outages}. The tables below have the numbers.",
            thousands(lane.requests),
            go_duration(self.until_ms),
            thousands(lane.failed)
        )
    }
}

impl Display for Chart<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let id = self.id;
        write!(
            f,
            r#"<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="chart{id}-title chart{id}-text">"#
        )?;
        write!(f, r#"<title id="chart{id}-title">Timeline of {}</title>"#, Escaped(&self.lane.lane))?;
        write!(f, r#"<desc id="chart{id}-text">{}</desc>"#, Escaped(self.description()))?;
        self.windows(f)?;
        self.requests(f)?;
        self.latencies(f)?;
        self.time_axis(f)?;
        self.hover(f)?;
        self.flags(f)?;
        f.write_str("</svg>")
    }
}

/// In the margin, out of the way of events.
fn panel_name(f: &mut Formatter<'_>, top: f64, name: &str) -> fmt::Result {
    write!(f, r#"<text class="name" x="{}" y="{}" text-anchor="end">{name}</text>"#, LEFT - 8.0, top - 12.0)
}

fn grid_line(f: &mut Formatter<'_>, y: f64, label: &impl Display) -> fmt::Result {
    write!(f, r#"<path class="grid" d="M{LEFT} {y:.1}H{RIGHT}"/>"#)?;
    write!(f, r#"<text x="{}" y="{:.1}" text-anchor="end">{label}</text>"#, LEFT - 8.0, y + 4.0)
}

fn per_second(count: u64, ms: f64) -> f64 {
    count as f64 / ms.max(1.0) * 1e3
}

/// Round numbers from zero to at least `most`, three to six of them.
fn linear_ticks(most: f64) -> Vec<f64> {
    let step = round_step(most / 3.0);
    let mut ticks = vec![0.0];
    while ticks.last().is_some_and(|last| *last < most * 0.999) {
        ticks.push(ticks.len() as f64 * step);
    }
    ticks
}

/// The next of 1, 2 and 5 times a power of ten that is not over `step`.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.max(1e-3).log10().floor());
    [5.0, 2.0, 1.0].into_iter().map(|factor| factor * power).find(|round| *round <= step * 1.0001).unwrap_or(power)
}

/// The distance of the time axis' marks: about ten of them.
fn time_step(until_ms: f64) -> f64 {
    const STEPS: [f64; 20] = [
        1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 3e5, 9e5, 18e5, 36e5,
    ];
    let wanted = until_ms / 12.0;
    STEPS.into_iter().find(|step| *step >= wanted).unwrap_or_else(|| (wanted / 36e5).ceil() * 36e5)
}

/// Percentiles as bars on a logarithmic scale, with their confidence intervals.
pub(super) struct Ladder<'a> {
    pub(super) lane: &'a LaneReport,
    pub(super) latency: Quantiles,
    pub(super) id: usize,
}

impl Display for Ladder<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const WIDTH: f64 = 460.0;
        const ROW: f64 = 22.0;
        const LEFT: f64 = 52.0;
        const RIGHT: f64 = WIDTH - 84.0;
        let Quantiles { min, mean, p50, p90, p95, p99, p999, max } = self.latency;
        let intervals = self.lane.latency_ci95_ms.as_ref();
        let rows = [
            ("min", min, None),
            ("mean", mean, None),
            ("50 %", p50, intervals.map(|all| all.p50)),
            ("90 %", p90, intervals.map(|all| all.p90)),
            ("95 %", p95, intervals.map(|all| all.p95)),
            ("99 %", p99, intervals.map(|all| all.p99)),
            ("99.9 %", p999, intervals.map(|all| all.p999)),
            ("max", max, None),
        ];
        // A little less than the lowest, so that its bar has a length.
        let low = (min.max(1e-3) / 2.0).log10();
        let high = max.max(2e-3).log10().max(low + 0.1);
        let x = |ms: f64| LEFT + (RIGHT - LEFT) * ((ms.max(1e-3).log10() - low) / (high - low)).clamp(0.0, 1.0);
        let (id, height) = (self.id, ROW * rows.len() as f64 + 4.0);
        write!(
            f,
            r#"<svg class="ladder" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="ladder{id}-title">"#
        )?;
        write!(
            f,
            r#"<title id="ladder{id}-title">Latency percentiles of {} on a logarithmic scale, with 95 % confidence intervals: {}</title>"#,
            Escaped(&self.lane.lane),
            rows.map(|(name, ms, _)| format!("{name} {}", go_duration(ms))).join(", ")
        )?;
        for (index, (name, ms, interval)) in rows.into_iter().enumerate() {
            let y = ROW * index as f64 + 4.0;
            let tail = if matches!(name, "99 %" | "99.9 %" | "max") { " tail" } else { "" };
            write!(f, r#"<text x="{}" y="{:.1}" text-anchor="end">{name}</text>"#, LEFT - 8.0, y + 12.0)?;
            let width = x(ms) - LEFT;
            write!(f, r#"<rect class="bar{tail}" x="{LEFT}" y="{y:.1}" width="{width:.1}" height="14" rx="2"/>"#)?;
            if let Some((from, to)) = interval.filter(|(from, to)| to > from) {
                let (left, right, middle) = (x(from), x(to), y + 7.0);
                write!(
                    f,
                    r#"<path class="ci" d="M{left:.1} {:.1}v6m0 -3H{right:.1}m0 -3v6"><title>95 % confidence: {} to {}</title></path>"#,
                    middle - 3.0,
                    go_duration(from),
                    go_duration(to)
                )?;
            }
            // In a column of their own: at the end of an interval they would seem to be its end.
            let (right, below) = (WIDTH - 4.0, y + 12.0);
            write!(
                f,
                r#"<text class="value" x="{right}" y="{below:.1}" text-anchor="end">{}</text>"#,
                go_duration(ms)
            )?;
        }
        f.write_str("</svg>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_top() {
        assert_eq!(linear_ticks(200.0), [0.0, 50.0, 100.0, 150.0, 200.0]);
        assert_eq!(linear_ticks(1.0), [0.0, 0.2, 0.4, 0.600_000_000_000_000_1, 0.8, 1.0]);
        for most in [1.0, 3.0, 7.0, 99.0, 4_999.0, 123_456.0] {
            let ticks = linear_ticks(most);
            assert!((3..=8).contains(&ticks.len()) && *ticks.last().unwrap() >= most * 0.999, "{most} {ticks:?}");
        }
    }

    #[test]
    fn time_marks_are_few() {
        for until in [1.0, 250.0, 10_000.0, 60_000.0, 3_600_000.0, 1e9, 1e12] {
            let marks = until / time_step(until);
            assert!((1.0..=12.0).contains(&marks), "{until} {marks}");
        }
    }
}
