//! Showing a run while it goes on, on stderr, from a thread of its own, so that a slow terminal delays no request.

use std::{
    collections::VecDeque,
    env,
    io::{self, IsTerminal},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use evenkeel_probe::{LaneSnapshot, Progress};
use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};

use super::events::Events;

/// How often a terminal is redrawn.
const REDRAW: Duration = Duration::from_millis(200);
/// How often a log gets a line per lane; a shorter run gets none.
const LOG_EVERY: Duration = Duration::from_secs(2);
/// Seconds a lane's history shows.
const HISTORY: usize = 30;
/// A lane whose last success is longer ago, by this many of its usual distances, is failing or stalled.
const OVERDUE: u32 = 5;
/// Widest name of a lane that is not cut.
const NAME_WIDTH: usize = 32;

/// Shows the progress until it is told to stop.
pub(super) struct Display {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
    printer: Option<Printer>,
}

/// What is to be shown.
pub(super) struct Shown {
    pub(super) progress: Arc<Progress>,
    pub(super) events: Events,
    /// `None` if a command decides.
    pub(super) duration: Option<Duration>,
}

/// Writes lines above the live display.
#[derive(Clone)]
pub(super) struct Printer(MultiProgress);

impl Printer {
    pub(super) fn print(&self, line: &str) {
        // A terminal that is gone is no reason to fail.
        _ = self.0.println(line);
    }
}

impl Display {
    pub(super) fn start(shown: Shown) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let builder = thread::Builder::new().name("display".to_owned());
        if io::stderr().is_terminal() {
            let bars = MultiProgress::new();
            let printer = Some(Printer(bars.clone()));
            let thread = builder.spawn(move || show_live(&shown, bars, &stopped))?;
            return Ok(Self { stop, thread, printer });
        }
        let thread = builder.spawn(move || show_log(&shown, &stopped))?;
        Ok(Self { stop, thread, printer: None })
    }

    /// Where lines must go that are not to be overwritten; `None` if that is stderr itself.
    pub(super) fn printer(&self) -> Option<Printer> {
        self.printer.clone()
    }

    pub(super) fn stop(self) {
        drop(self.stop);
        // A panic in the display is no reason to withhold the report.
        drop(self.thread.join());
    }
}

/// `false` once the display is to stop.
fn wait(stopped: &mpsc::Receiver<()>, time: Duration) -> bool {
    stopped.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout)
}

/// Lines refreshed in place: a headline, the lanes, the last events.
fn show_live(shown: &Shown, bars: MultiProgress, stopped: &mpsc::Receiver<()>) {
    let style = Style { colours: env::var_os("NO_COLOR").is_none() };
    let mut block = Block { bars, lines: Vec::new() };
    let mut lanes: Vec<History> = Vec::new();
    while wait(stopped, REDRAW) {
        let snapshots = shown.progress.lanes();
        lanes.resize_with(snapshots.len(), History::default);
        let elapsed = shown.progress.elapsed();
        let mut text = vec![headline(shown, elapsed)];
        let width = snapshots.iter().map(|lane| lane.name.chars().count()).max().unwrap_or_default().min(NAME_WIDTH);
        for (history, lane) in lanes.iter_mut().zip(&snapshots) {
            history.update(elapsed, lane);
            text.push(history.line(lane, width, style));
        }
        text.extend(last_events(shown, elapsed).into_iter().map(|event| style.dim(&event)));
        block.show(&text);
    }
    block.clear();
}

fn headline(shown: &Shown, elapsed: Duration) -> String {
    let in_flight = HumanCount(u64::try_from(shown.progress.in_flight()).unwrap_or(u64::MAX));
    let of = shown.duration.map(|duration| format!(" of {}", humantime::format_duration(duration))).unwrap_or_default();
    format!("evenkeel probe  {} s{of}  {in_flight} in flight", elapsed.as_secs())
}

/// The last two events, with their time on the run's clock.
fn last_events(shown: &Shown, elapsed: Duration) -> Vec<String> {
    const LAST: usize = 2;
    let log = shown.events.lock();
    let started = SystemTime::now().checked_sub(elapsed).unwrap_or(SystemTime::UNIX_EPOCH);
    let events = log.events().iter().skip(log.events().len().saturating_sub(LAST));
    let line = |event: &evenkeel_probe::report::Happening| {
        let at = event
            .at
            .duration_since(started)
            .map_or_else(|before| -before.duration().as_secs_f64(), |at| at.as_secs_f64());
        format!("{at:7.1} s  {}", event.text)
    };
    events.map(line).collect()
}

/// A line per lane every other second, and events as they come.
fn show_log(shown: &Shown, stopped: &mpsc::Receiver<()>) {
    let mut lanes: Vec<History> = Vec::new();
    let mut events = 0;
    while wait(stopped, LOG_EVERY) {
        let snapshots = shown.progress.lanes();
        lanes.resize_with(snapshots.len(), History::default);
        let elapsed = shown.progress.elapsed();
        let known = shown.events.lock().events().len();
        for event in shown.events.lock().events().iter().skip(events) {
            eprintln!("{:4} s  event: {}", elapsed.as_secs(), event.text);
        }
        events = known;
        for (history, lane) in lanes.iter_mut().zip(&snapshots) {
            history.update(elapsed, lane);
            eprintln!("{:4} s  {}", elapsed.as_secs(), history.plain(lane));
        }
    }
}

/// A lane's last seconds.
#[derive(Default)]
struct History {
    seconds: VecDeque<Second>,
    /// When, and after how many requests, the last second was closed.
    closed: (Duration, u64, u64),
    /// Requests that ended in the last second, a second.
    rate: f64,
    /// The run's clock at the last update.
    now: Duration,
}

struct Second {
    failed: u64,
    p99: Option<Duration>,
}

impl History {
    fn update(&mut self, elapsed: Duration, lane: &LaneSnapshot) {
        let (at, succeeded, failed) = self.closed;
        let passed = elapsed.saturating_sub(at);
        self.now = elapsed;
        let ended = (lane.succeeded + lane.failed).saturating_sub(succeeded + failed);
        // Within a second, the rate is that of the one before, which the first does not have.
        if passed >= Duration::from_secs(1) || self.seconds.is_empty() {
            self.rate = ended as f64 / passed.as_secs_f64().max(1e-3);
        }
        if passed < Duration::from_secs(1) {
            return;
        }
        if self.seconds.len() == HISTORY {
            self.seconds.pop_front();
        }
        self.seconds.push_back(Second { failed: lane.failed.saturating_sub(failed), p99: lane.recent_p99 });
        self.closed = (elapsed, lane.succeeded, lane.failed);
    }

    fn line(&self, lane: &LaneSnapshot, width: usize, style: Style) -> String {
        let name = shorten(&lane.name, width);
        let failed = format!("{:>7} failed", HumanCount(lane.failed).to_string());
        let failed = if lane.failed > 0 { style.red(&failed) } else { failed };
        let p99 = lane.recent_p99.map_or_else(|| "-".to_owned(), short);
        let (rate, ok) = (self.rate.round(), HumanCount(lane.succeeded).to_string());
        let spark = self.spark(style);
        let state = self.state(lane).map(|state| style.red(&state)).unwrap_or_default();
        format!("{name:<width$}  {rate:>6}/s {ok:>11} ok {failed}  p99 {p99:>7}  {spark}  {state}")
    }

    fn plain(&self, lane: &LaneSnapshot) -> String {
        let p99 = lane.recent_p99.map_or_else(|| "-".to_owned(), short);
        let causes: String = lane.causes.iter().map(|(cause, count)| format!(", {cause} {count}")).collect();
        let state = self.state(lane).map(|state| format!("; {state}")).unwrap_or_default();
        let LaneSnapshot { name, sent, succeeded, failed, .. } = lane;
        format!("{name}  sent {sent}, ok {succeeded}, failed {failed}, p99 {p99}{causes}{state}")
    }

    /// What is wrong at this moment, if anything.
    fn state(&self, lane: &LaneSnapshot) -> Option<String> {
        let usual = Duration::from_secs_f64(1.0 / self.rate.max(1.0)) * OVERDUE;
        if lane.since_success < usual.max(Duration::from_millis(300)) {
            return None;
        }
        // A window that was over before the last success says nothing about now; without one, requests are waiting.
        let last_success = self.now.saturating_sub(lane.since_success);
        let window = lane.window.as_ref().filter(|window| window.end >= last_success);
        let cause = window.and_then(evenkeel_probe::measure::Window::cause);
        let cause = cause.map_or_else(|| "waiting".to_owned(), |cause| cause.to_string());
        Some(format!("no success for {}: {cause}", short(lane.since_success)))
    }

    /// The p99 of each second on a logarithmic scale of its own; seconds with failures are red, or marked.
    fn spark(&self, style: Style) -> String {
        const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let level = |time: Duration| time.as_secs_f64().max(1e-6).ln();
        let levels = || self.seconds.iter().filter_map(|second| second.p99).map(level);
        let low = levels().fold(f64::INFINITY, f64::min);
        // At least a factor of ten from bottom to top, so that noise does not look like mountains.
        let range = (levels().fold(f64::NEG_INFINITY, f64::max) - low).max(10_f64.ln());
        let mut line = " ".repeat(HISTORY - self.seconds.len());
        for Second { failed, p99 } in &self.seconds {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 7")]
            let bar = p99.map_or(' ', |p99| {
                let height = ((level(p99) - low) / range * 7.0).clamp(0.0, 7.0);
                BARS[height.round() as usize]
            });
            match (*failed > 0, style.colours) {
                (false, _) => line.push(bar),
                (true, true) => line.push_str(&style.red(&if bar == ' ' { '×' } else { bar }.to_string())),
                (true, false) => line.push('×'),
            }
        }
        line
    }
}

/// Three digits and a unit.
fn short(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        _ if ms < 1.0 => format!("{:.0} us", ms * 1e3),
        _ if ms < 10.0 => format!("{ms:.2} ms"),
        _ if ms < 100.0 => format!("{ms:.1} ms"),
        _ if ms < 1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.2} s", ms / 1e3),
    }
}

/// Cuts the middle out of a name that is too long: both ends tell lanes apart.
fn shorten(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return name.to_owned();
    }
    let keep = width.saturating_sub(1);
    let (head, tail) = (keep.div_ceil(2), keep / 2);
    name.chars().take(head).chain(['…']).chain(name.chars().skip(length - tail)).collect()
}

/// Colours, unless they are not wanted (`NO_COLOR`).
#[derive(Clone, Copy)]
struct Style {
    colours: bool,
}

impl Style {
    fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Lines on the terminal that are written over.
struct Block {
    bars: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Block {
    fn show(&mut self, text: &[String]) {
        let style = || ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        while self.lines.len() < text.len() {
            self.lines.push(self.bars.add(ProgressBar::no_length().with_style(style())));
        }
        for (index, line) in self.lines.iter().enumerate() {
            line.set_message(text.get(index).cloned().unwrap_or_default());
            line.tick();
        }
    }

    fn clear(&self) {
        for line in &self.lines {
            line.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { colours: false };

    fn lane(succeeded: u64, failed: u64, p99: u64) -> LaneSnapshot {
        LaneSnapshot {
            name: "http://192.0.2.1:80/".to_owned(),
            sent: succeeded + failed,
            succeeded,
            failed,
            recent_p99: Some(Duration::from_micros(p99)),
            ..LaneSnapshot::default()
        }
    }

    #[test]
    fn a_lane_is_one_line_with_its_last_seconds() {
        let mut history = History::default();
        for second in 1..=40_u64 {
            let p99 = if second == 39 { 50_000 } else { 900 };
            let failed = if second >= 40 { 3 } else { 0 };
            history.update(Duration::from_secs(second), &lane(second * 1000, failed, p99));
            // Nothing changes within a second.
            history.update(Duration::from_millis(second * 1000 + 200), &lane(second * 1000, failed, 1));
        }
        let line = history.line(&lane(40_000, 3, 900), 20, PLAIN);
        let spark = format!("{}█×", "▁".repeat(28));
        assert_eq!(
            line.trim_end(),
            format!("http://192.0.2.1:80/    1003/s      40,000 ok       3 failed  p99  900 us  {spark}")
        );
    }

    #[test]
    fn what_is_wrong_now_is_named() {
        let mut history = History::default();
        history.update(Duration::from_secs(1), &lane(1000, 0, 900));
        assert_eq!(history.state(&lane(1000, 0, 900)), None);
        let stalled = LaneSnapshot { since_success: Duration::from_millis(1500), ..lane(1000, 0, 900) };
        assert_eq!(history.state(&stalled).as_deref(), Some("no success for 1.50 s: waiting"));
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(shorten("http://192.0.2.1:80/some/path?a=1", 12), "http:/…h?a=1");
        assert_eq!(shorten("dns", 12), "dns");
    }

    #[test]
    fn times_are_short() {
        let text: Vec<String> =
            [20, 1_230, 45_600, 789_000, 12_300_000].map(|us| short(Duration::from_micros(us))).into();
        assert_eq!(text, ["20 us", "1.23 ms", "45.6 ms", "789 ms", "12.30 s"]);
    }
}
