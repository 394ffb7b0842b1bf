//! Showing the demo while it goes on, on stderr.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use evenkeel_probe::LaneSnapshot;
use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};

use super::story::{Scene, Story};

/// How often a terminal is redrawn.
const REDRAW: Duration = Duration::from_millis(200);
/// Redraws over which traffic shares are taken: one second.
const SHARE_REDRAWS: usize = 5;
/// How often a log gets a line about the lanes.
const LOG_EVERY: Duration = Duration::from_secs(2);
/// How often the events are looked at for a log.
const LOG_TICK: Duration = Duration::from_millis(100);
/// Width of a full bar of traffic share.
const BAR_WIDTH: usize = 40;

/// A thread that shows the story.
pub(crate) struct Display {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Display {
    pub(crate) fn start(story: Arc<Story>) -> Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let show = if io::stderr().is_terminal() { show_live } else { show_log };
        let thread = thread::Builder::new()
            .name("display".to_owned())
            .spawn(move || show(&story, &stopped))
            .context("starting a thread")?;
        Ok(Self { stop, thread })
    }

    pub(crate) fn stop(self) {
        drop(self.stop);
        // A panic in the display is no reason to withhold the report.
        drop(self.thread.join());
    }
}

/// `false` once the display is to stop.
fn wait(stopped: &mpsc::Receiver<()>, time: Duration) -> bool {
    stopped.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout)
}

/// Lines refreshed in place: the phase, each lane, each server with its share of the traffic.
fn show_live(story: &Story, stopped: &mpsc::Receiver<()>) {
    let mut lines = Lines::new();
    let mut shares = Shares::default();
    while wait(stopped, REDRAW) {
        let scene = story.scene();
        let lanes = story.progress().map(evenkeel_probe::Progress::lanes).unwrap_or_default();
        let mut text = vec![headline(story, &scene)];
        if !lanes.is_empty() {
            text.push(String::new());
            text.extend(lanes.iter().map(lane_line));
        }
        let shares = shares.update(&lanes);
        text.push(String::new());
        for (name, state) in &scene.servers {
            text.push(server_line(name, state.name(), shares.get(name).copied()));
        }
        lines.show(&text);
    }
    lines.clear();
}

/// Events as they come, and a line about the lanes every other second, for logs and pipes.
fn show_log(story: &Story, stopped: &mpsc::Receiver<()>) {
    let mut shown = 0;
    let mut next = LOG_EVERY;
    loop {
        let go_on = wait(stopped, LOG_TICK);
        let elapsed = story.elapsed();
        for event in story.events(shown) {
            shown += 1;
            eprintln!("{:5.1} s  {event}", elapsed.as_secs_f64());
        }
        if !go_on {
            return;
        }
        if elapsed >= next {
            next = elapsed + LOG_EVERY;
            let lanes = story.progress().map(evenkeel_probe::Progress::lanes).unwrap_or_default();
            let lanes: Vec<String> = lanes.iter().map(lane_line).collect();
            eprintln!("{:5.1} s  {}", elapsed.as_secs_f64(), lanes.join(" | "));
        }
    }
}

fn headline(story: &Story, scene: &Scene) -> String {
    let phase = &scene.phase;
    match story.progress() {
        None => format!("evenkeel demo  {phase}"),
        Some(progress) => format!("evenkeel demo  {:.0} s  {phase}", progress.elapsed().as_secs_f64()),
    }
}

fn lane_line(lane: &LaneSnapshot) -> String {
    let LaneSnapshot { name, succeeded, failed, recent_p99, causes, .. } = lane;
    let p99 = recent_p99.map_or("-".to_owned(), |p99| format!("{:.1} ms", p99.as_secs_f64() * 1e3));
    let causes: String = causes.iter().map(|(cause, count)| format!(", {cause} {count}")).collect();
    format!("{name:<5} {:>9} ok  {failed:>3} failed  p99 {p99}{causes}", HumanCount(*succeeded).to_string())
}

fn server_line(name: &str, state: &str, share: Option<f64>) -> String {
    let share = share.unwrap_or_default();
    // A share is at most one.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and BAR_WIDTH")]
    let width = (share.clamp(0.0, 1.0) * BAR_WIDTH as f64).round() as usize;
    format!("{name:<11} {state:<9} {:>3.0} %  {}", share * 100.0, "█".repeat(width))
}

/// Who served the requests of the last second.
#[derive(Default)]
struct Shares {
    /// Successes by server, summed over the lanes, at the last redraws.
    counts: Vec<BTreeMap<String, u64>>,
}

impl Shares {
    fn update(&mut self, lanes: &[LaneSnapshot]) -> BTreeMap<String, f64> {
        let mut now: BTreeMap<String, u64> = BTreeMap::new();
        for (server, count) in lanes.iter().flat_map(|lane| &lane.servers) {
            *now.entry(server.clone()).or_default() += count;
        }
        if self.counts.len() == SHARE_REDRAWS {
            self.counts.remove(0);
        }
        self.counts.push(now.clone());
        let before = &self.counts[0];
        let recent: BTreeMap<String, u64> = now
            .into_iter()
            .map(|(server, count)| {
                let earlier = before.get(&server).copied().unwrap_or_default();
                (server, count.saturating_sub(earlier))
            })
            .collect();
        let total: u64 = recent.values().sum();
        recent.into_iter().map(|(server, count)| (server, count as f64 / total.max(1) as f64)).collect()
    }
}

/// A block of lines on the terminal that is written over itself.
struct Lines {
    block: MultiProgress,
    style: ProgressStyle,
    lines: Vec<ProgressBar>,
}

impl Lines {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        Self { block: MultiProgress::new(), style, lines: Vec::new() }
    }

    fn show(&mut self, text: &[String]) {
        while self.lines.len() < text.len() {
            self.lines.push(self.block.add(ProgressBar::no_length().with_style(self.style.clone())));
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

    fn lane(servers: &[(&str, u64)]) -> LaneSnapshot {
        LaneSnapshot {
            name: "tcp".to_owned(),
            succeeded: 12_345,
            servers: servers.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            recent_p99: Some(Duration::from_micros(1_500)),
            ..LaneSnapshot::default()
        }
    }

    #[test]
    fn shares_are_those_of_recent_requests_over_all_lanes() {
        let mut shares = Shares::default();
        shares.update(&[lane(&[("a", 1_000)])]);
        let recent = shares.update(&[lane(&[("a", 1_010), ("b", 20)]), lane(&[("b", 10)])]);
        assert_eq!(recent.get("a"), Some(&0.25));
        assert_eq!(recent.get("b"), Some(&0.75));
    }

    #[test]
    fn shares_forget() {
        let mut shares = Shares::default();
        shares.update(&[lane(&[])]);
        for _ in 0..SHARE_REDRAWS {
            shares.update(&[lane(&[("a", 1_000)])]);
        }
        assert_eq!(shares.update(&[lane(&[("a", 1_000), ("b", 1)])]).get("a"), Some(&0.0));
    }

    #[test]
    fn a_lane_is_one_line() {
        assert_eq!(lane_line(&lane(&[])), "tcp      12,345 ok    0 failed  p99 1.5 ms");
    }

    #[test]
    fn a_share_is_a_bar() {
        assert_eq!(server_line("backend-1", "ready", Some(0.25)), "backend-1   ready      25 %  ██████████");
    }
}
