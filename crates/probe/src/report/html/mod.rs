//! The report as one HTML file that needs nothing else: no script, no font, no request.
//!
//! It is well-formed XML, too, so that a test can prove that nothing escapes its place.

mod chart;

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Write},
};

use self::chart::{Chart, Ladder};
use super::{
    document::{CLOSED_LOOP, Event, LaneReport, Quantiles, Report, Window},
    markup::Escaped,
    quantity::{go_duration, percent, thousands},
};

const STYLE: &str = include_str!("style.css");
/// Rows shown of tables that may be long; the JSON report has them all.
const SHOWN: usize = 300;
/// Events so long before and after the run are shown, too.
const AROUND_MS: f64 = 300_000.0;

impl Report {
    /// One self-contained HTML file.
    #[must_use]
    pub fn to_html(&self) -> String {
        let mut page = String::new();
        // Writing to a string does not fail.
        _ = Page::new(self).write(&mut page);
        page
    }
}

/// A report on its way to HTML, section by section.
struct Page<'a> {
    report: &'a Report,
    /// With their indices in the report, in order; numbered from 1 on the page.
    shown_events: Vec<(usize, &'a Event)>,
}

impl<'a> Page<'a> {
    fn new(report: &'a Report) -> Self {
        // A log may reach back for days.
        let shown = -AROUND_MS..=report.duration_ms + report.wait_ms + AROUND_MS;
        let events = report.events.iter().enumerate().filter(|(_, event)| shown.contains(&event.at_ms));
        Self { report, shown_events: events.take(SHOWN).collect() }
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let verdict = self.report.verdict.name();
        writeln!(out, "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>")?;
        writeln!(out, r#"<meta charset="utf-8"/>"#)?;
        // Whatever a text from outside says: nothing is loaded, nothing runs.
        writeln!(
            out,
            r#"<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:"/>"#
        )?;
        writeln!(out, r#"<meta name="viewport" content="width=device-width, initial-scale=1"/>"#)?;
        writeln!(out, r#"<meta name="color-scheme" content="light dark"/>"#)?;
        writeln!(out, r#"<link rel="icon" href="data:,"/>"#)?;
        writeln!(out, "<title>{verdict}: availability of {}</title>", Escaped(self.targets()))?;
        writeln!(out, "<style>\n{STYLE}</style>\n</head>\n<body>\n<main>")?;
        self.head(out)?;
        self.objectives(out)?;
        self.events(out)?;
        for (index, lane) in self.report.lanes.iter().enumerate() {
            self.lane(out, index, lane)?;
        }
        self.prober(out)?;
        writeln!(out, "</main>\n</body>\n</html>")
    }

    fn targets(&self) -> String {
        match self.report.lanes.as_slice() {
            [] => "nothing".to_owned(),
            [lane] => lane.lane.clone(),
            [lane, rest @ ..] => format!("{} and {} more", lane.lane, rest.len()),
        }
    }

    fn head(&self, out: &mut String) -> fmt::Result {
        let started =
            self.report.started_at.map(|at| format!(", {}", at.strftime("%Y-%m-%d %H:%M:%S UTC"))).unwrap_or_default();
        writeln!(out, "<header>\n<h1>Availability of {}{started}</h1>", Escaped(self.targets()))?;
        let verdict = self.report.verdict.name();
        let conclusion = self.report.conclusion();
        let mut lines = conclusion.iter();
        let first = lines.next().map(String::as_str).unwrap_or_default();
        let (capitals, reason) = first.split_once(": ").unwrap_or((first, ""));
        writeln!(out, r#"<div class="card verdict {verdict}"><strong>{capitals}</strong>"#)?;
        if conclusion.len() == 1 {
            writeln!(out, "<p>{}</p></div>", Escaped(reason))?;
        } else {
            write!(out, "<ul><li>{}</li>", Escaped(reason))?;
            for line in lines {
                write!(out, "<li>{}</li>", Escaped(line))?;
            }
            writeln!(out, "</ul></div>")?;
        }
        writeln!(out, r#"<dl class="tiles">"#)?;
        let succeeded = self.report.requests.saturating_sub(self.report.failed);
        let longest = self.report.lanes.iter().max_by(|a, b| a.longest_gap_ms.total_cmp(&b.longest_gap_ms));
        let outages: usize = self.report.lanes.iter().map(|lane| lane.windows.len()).sum();
        tile(
            out,
            "Requests",
            &thousands(self.report.requests),
            &format!("in {}", go_duration(self.report.duration_ms)),
        )?;
        tile(
            out,
            "Success",
            &percent(succeeded, self.report.requests),
            &format!("{} failed", thousands(self.report.failed)),
        )?;
        if let Some(Quantiles { p50, p99, .. }) = self.report.latency_ms {
            tile(out, "Latency, 99 %", &go_duration(p99), &format!("median {}", go_duration(p50)))?;
        }
        if let Some(lane) = longest {
            let several = self.report.lanes.len() > 1;
            let of = if several { format!("on {}", lane.lane) } else { "without a success".to_owned() };
            tile(out, "Longest gap", &go_duration(lane.longest_gap_ms), &of)?;
        }
        tile(out, "Outages", &outages.to_string(), "failures close in time, and stalls")?;
        let bound = format!("the prober's own, 99 %; bound {}", go_duration(self.report.max_lag_ms));
        if self.report.is_open_loop() {
            tile(out, "Lag", &go_duration(self.report.lag_ms.p99), &bound)?;
        }
        writeln!(out, "</dl>\n</header>")
    }

    fn objectives(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "<section>\n<h2>Objectives</h2>")?;
        let mut table = Table::begin(out, "", &["Objective", "Measured", "Result", "Lane", "Note"], &[])?;
        for result in &self.report.objectives {
            let (class, held) = if result.held { ("held", "✓ held") } else { ("missed", "✗ breached") };
            let several = self.report.lanes.len() > 1;
            table.row(&[
                &Markup(format_args!("<code>{}</code>", Escaped(&result.objective))),
                &Escaped(result.actual_text()),
                &Markup(format_args!(r#"<strong class="{class}">{held}</strong>"#)),
                &Escaped(result.lane.as_deref().unwrap_or(if several { "all" } else { "" })),
                &Escaped(result.note.as_deref().unwrap_or_default()),
            ])?;
        }
        table.end()?;
        if let Some(command) = &self.report.command {
            let class = if command.end.succeeded() { "held" } else { "missed" };
            writeln!(
                out,
                r#"<p>Command <code>{}</code> <strong class="{class}">{}</strong>, from {} to {}.</p>"#,
                Escaped(&command.command),
                command.end,
                go_duration(command.started_ms),
                go_duration(command.ended_ms)
            )?;
        }
        writeln!(out, "</section>")
    }

    fn events(&self, out: &mut String) -> fmt::Result {
        let Report { events, events_refused, .. } = self.report;
        if events.is_empty() && events_refused.is_empty() {
            return Ok(());
        }
        writeln!(out, "<section>\n<h2>Events</h2>")?;
        let lanes = self.report.lanes.iter();
        let windows = lanes.flat_map(|lane| lane.windows.iter().enumerate().map(move |window| (lane, window)));
        let mut blamed: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (lane, (number, window)) in windows.take(SHOWN) {
            if let Some(blame) = &window.blame {
                blamed.entry(blame.event).or_default().push(format!("{} of {}", number + 1, lane.lane));
            }
        }
        let caption = "An outage is blamed on the nearest event before it: a hint, no proof.";
        let mut table = Table::begin(out, caption, &["", "At", "Event", "Nearest to outage"], &[1])?;
        for (number, (index, event)) in (1..).zip(&self.shown_events) {
            let at = if event.at_ms < 0.0 {
                format!("{} before", go_duration(-event.at_ms))
            } else {
                go_duration(event.at_ms)
            };
            table.row(&[
                &Markup(format_args!(r#"<span class="tag event">{number}</span>"#)),
                &at,
                &Escaped(&event.text),
                &Escaped(blamed.get(index).map(|windows| windows.join(", ")).unwrap_or_default()),
            ])?;
        }
        table.end()?;
        match events.len() - self.shown_events.len() {
            0 => {}
            more => writeln!(out, r#"<p class="muted">{more} more are in the JSON report.</p>"#)?,
        }
        for (reason, count) in events_refused {
            writeln!(out, r#"<p class="muted">Lines refused: {count}, {reason}: {}.</p>"#, Escaped(reason.remedy()))?;
        }
        writeln!(out, "</section>")
    }

    fn lane(&self, out: &mut String, index: usize, lane: &LaneReport) -> fmt::Result {
        writeln!(out, "<section>\n<h2>{}</h2>", Escaped(&lane.lane))?;
        let rate = lane.rate.map_or("as fast as answers come".to_owned(), |rate| format!("{rate} a second"));
        write!(
            out,
            r#"<p class="muted">{} to {}, {rate}: {} requests, {} failed, {} succeeded"#,
            lane.kind.scheme(),
            Escaped(&lane.target),
            thousands(lane.requests),
            thousands(lane.failed),
            percent(lane.succeeded(), lane.requests)
        )?;
        if lane.failure_bound_95.is_some() && lane.requests >= 3 {
            write!(out, "; with 95 % confidence fewer than one in {} fails (3/N)", thousands(lane.requests / 3))?;
        }
        writeln!(out, ".</p>")?;
        if lane.rate.is_none() {
            writeln!(out, r#"<p class="muted">This is a {CLOSED_LOOP}.</p>"#)?;
        }
        writeln!(out, "<div class=\"card\"><div class=\"scroll\">")?;
        let until_ms = self.report.duration_ms;
        writeln!(out, "{}", Chart { lane, events: &self.shown_events, until_ms, id: index })?;
        writeln!(out, "</div>\n{KEY}</div>")?;
        self.windows(out, &lane.windows)?;
        writeln!(out, r#"<div class="pair">"#)?;
        if let Some(latency) = lane.latency_ms {
            writeln!(out, "<div><h3>Latency of the successes</h3>")?;
            writeln!(out, r#"<p class="muted">From the time each was intended to start.</p>"#)?;
            writeln!(out, "{}</div>", Ladder { lane, latency, id: index })?;
        }
        write_counts(out, lane)?;
        writeln!(out, "</div>\n</section>")
    }

    fn windows(&self, out: &mut String, windows: &[Window]) -> fmt::Result {
        if windows.is_empty() {
            return Ok(());
        }
        writeln!(out, "<h3>Outages</h3>")?;
        let columns = [
            "",
            "Start",
            "Length",
            "Failed",
            "Cause",
            "While connecting",
            "No success for",
            "Of server",
            "Nearest event",
        ];
        let mut table = Table::begin(out, "", &columns, &[1, 2, 3, 5, 6])?;
        for (index, window) in windows.iter().enumerate().take(SHOWN) {
            let several = window.causes.len() > 1;
            let causes = if several { super::text::list(&window.causes) } else { window.cause_name().to_owned() };
            table.row(&[
                &Markup(format_args!(r#"<span class="tag outage">{}</span>"#, index + 1)),
                &go_duration(window.start_ms),
                &go_duration(window.length_ms()),
                &thousands(window.failed),
                &causes,
                &thousands(window.rescuable),
                &go_duration(window.longest_gap_ms),
                &Escaped(super::text::list(&window.servers)),
                &Escaped(self.report.blame_sentence(window).unwrap_or_default()),
            ])?;
        }
        table.end()?;
        more(out, windows.len())
    }

    fn prober(&self, out: &mut String) -> fmt::Result {
        let Quantiles { p50, p99, p999, max, .. } = self.report.lag_ms;
        writeln!(out, "<footer>")?;
        if self.report.is_open_loop() {
            writeln!(
                out,
                "<p>The prober started its requests {} late in the median, {} at 99 %, {} at 99.9 %, {} at most. It declares a run \
             invalid over {} at 99 %.</p>",
                go_duration(p50),
                go_duration(p99),
                go_duration(p999),
                go_duration(max),
                go_duration(self.report.max_lag_ms)
            )?;
        }
        if self.report.results_dropped > 0 {
            let dropped = thousands(self.report.results_dropped);
            writeln!(
                out,
                "<p>{dropped} results were left out of the stream of single results; they are counted here.</p>"
            )?;
        }
        if self.report.is_open_loop() {
            writeln!(
                out,
                "<p>Requests are sent at a fixed rate whatever becomes of earlier ones, and belong to the time they were \
                 intended to start.</p>"
            )?;
        }
        writeln!(out, "<p>Confidence intervals take requests as independent, which failures are not.</p>")?;
        writeln!(out, "<p>evenkeel {}</p>\n</footer>", env!("CARGO_PKG_VERSION"))
    }
}

/// What the marks in a chart mean.
const KEY: &str = r#"<ul class="key">
<li><svg viewBox="0 0 26 12" aria-hidden="true"><rect class="ok" x="2" y="1" width="22" height="10"/></svg>succeeded</li>
<li><svg viewBox="0 0 26 12" aria-hidden="true"><rect class="failed" x="2" y="1" width="22" height="10"/></svg>failed</li>
<li><svg viewBox="0 0 26 12" aria-hidden="true"><rect class="window" x="2" y="0" width="22" height="8"/><rect class="edge" x="2" y="8" width="22" height="3"/></svg>outage, with its number</li>
<li><svg viewBox="0 0 26 12" aria-hidden="true"><rect class="window stalled" x="2" y="0" width="22" height="8"/><rect class="edge stalled" x="2" y="8" width="22" height="3"/></svg>stall</li>
<li><svg viewBox="0 0 26 12" aria-hidden="true"><path class="p50" d="M2 6H24"/></svg>p50</li>
<li><svg viewBox="0 0 26 12" aria-hidden="true"><path class="p99" d="M2 6H24"/></svg>p99</li>
<li><svg viewBox="0 0 26 12" aria-hidden="true"><path class="max" d="M4 5h2.2v2.2h-2.2zM12 5h2.2v2.2h-2.2zM20 5h2.2v2.2h-2.2z"/></svg>maximum</li>
<li><svg viewBox="0 0 26 12" aria-hidden="true"><path class="event" d="M13 0V12"/></svg>event</li>
</ul>
"#;

fn write_counts(out: &mut String, lane: &LaneReport) -> fmt::Result {
    writeln!(out, "<div>")?;
    if lane.failed > 0 {
        writeln!(out, "<h3>Failures</h3>")?;
        let mut table = Table::begin(out, "", &["Cause", "Failed", "While connecting"], &[1, 2])?;
        for (cause, count) in &lane.causes {
            let rescuable = lane.rescuable_causes.get(cause).copied().unwrap_or_default();
            table.row(&[cause, &thousands(*count), &thousands(rescuable)])?;
        }
        table.end()?;
        writeln!(
            out,
            r#"<p class="muted">What failed while connecting, another backend could have served. In flight: {}.</p>"#,
            thousands(lane.in_flight)
        )?;
    }
    if !lane.slow.is_empty() {
        let caption = "As late as lost SYNs make them; confirmed by the kernel's count of retransmissions.";
        let mut table = Table::begin(out, caption, &["Slow successes", "Count", "Confirmed"], &[1, 2])?;
        for slow in &lane.slow {
            let after = format!("after {} s", slow.after_s);
            table.row(&[&after, &thousands(slow.count), &thousands(slow.confirmed)])?;
        }
        table.end()?;
    }
    if !lane.servers.is_empty() || !lane.servers_failed.is_empty() {
        writeln!(out, "<h3>Servers</h3>")?;
        let mut table = Table::begin(out, "", &["Name", "Succeeded", "Failed"], &[1, 2])?;
        let mut names: Vec<&String> = lane.servers.keys().chain(lane.servers_failed.keys()).collect();
        names.sort();
        names.dedup();
        let total = names.len();
        for name in names.into_iter().take(SHOWN) {
            let count = |counts: &BTreeMap<String, u64>| thousands(counts.get(name).copied().unwrap_or(0));
            table.row(&[&Escaped(name), &count(&lane.servers), &count(&lane.servers_failed)])?;
        }
        table.end()?;
        more(out, total)?;
    }
    for (title, column, counts) in [("Answers", "Code", &lane.codes), ("Errors", "Text", &lane.errors)] {
        if counts.is_empty() {
            continue;
        }
        writeln!(out, "<h3>{title}</h3>")?;
        let mut table = Table::begin(out, "", &[column, "Count"], &[1])?;
        for (name, count) in counts {
            table.row(&[&Escaped(name), &thousands(*count)])?;
        }
        table.end()?;
    }
    writeln!(out, "<h3>Times</h3>")?;
    let mut table = Table::begin(out, "", &["", "50 %", "99 %", "Max"], &[1, 2, 3])?;
    for (name, times) in [
        ("from the actual start", lane.service_ms),
        ("to the first byte", lane.first_byte_ms),
        ("handshake", lane.handshake_ms),
    ] {
        if let Some(Quantiles { p50, p99, max, .. }) = times {
            table.row(&[&name, &go_duration(p50), &go_duration(p99), &go_duration(max)])?;
        }
    }
    table.row(&[
        &"longest gap",
        &"",
        &Markup(format_args!("from {}", go_duration(lane.longest_gap_start_ms))),
        &go_duration(lane.longest_gap_ms),
    ])?;
    table.end()?;
    writeln!(out, "</div>")
}

fn tile(out: &mut String, name: &str, value: &str, more: &str) -> fmt::Result {
    writeln!(out, "<div><dt>{name}</dt><dd>{value}<small>{}</small></dd></div>", Escaped(more))
}

fn more(out: &mut String, total: usize) -> fmt::Result {
    match total.saturating_sub(SHOWN) {
        0 => Ok(()),
        more => writeln!(out, r#"<p class="muted">{more} more are in the JSON report.</p>"#),
    }
}

/// What is markup already; everything else in a cell is escaped by whoever makes it.
struct Markup<'a>(fmt::Arguments<'a>);

impl Display for Markup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A table that scrolls by itself where it is too wide.
struct Table<'a> {
    out: &'a mut String,
    numeric: &'a [usize],
}

impl<'a> Table<'a> {
    /// With the columns at `numeric` aligned as numbers.
    fn begin(out: &'a mut String, caption: &str, columns: &[&str], numeric: &'a [usize]) -> Result<Self, fmt::Error> {
        write!(out, r#"<div class="scroll"><table>"#)?;
        if !caption.is_empty() {
            write!(out, "<caption>{caption}</caption>")?;
        }
        write!(out, "<thead><tr>")?;
        for (index, column) in columns.iter().enumerate() {
            match (numeric.contains(&index), column.is_empty()) {
                (_, true) => write!(out, "<td></td>")?,
                (true, false) => write!(out, r#"<th scope="col" class="n">{column}</th>"#)?,
                (false, false) => write!(out, r#"<th scope="col">{column}</th>"#)?,
            }
        }
        writeln!(out, "</tr></thead><tbody>")?;
        Ok(Self { out, numeric })
    }

    fn row(&mut self, cells: &[&dyn Display]) -> fmt::Result {
        write!(self.out, "<tr>")?;
        for (index, cell) in cells.iter().enumerate() {
            match (index, self.numeric.contains(&index)) {
                (0, _) => write!(self.out, r#"<th scope="row">{cell}</th>"#)?,
                (_, true) => write!(self.out, r#"<td class="n">{cell}</td>"#)?,
                (_, false) => write!(self.out, "<td>{cell}</td>")?,
            }
        }
        writeln!(self.out, "</tr>")
    }

    fn end(self) -> fmt::Result {
        writeln!(self.out, "</tbody></table></div>")
    }
}
