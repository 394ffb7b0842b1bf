//! What a process prints, kept line by line so that lines can be awaited.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// The lines of one output stream so far, all kept in memory.
#[derive(Debug, Default)]
pub(crate) struct Output {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

/// How waiting for a line ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    Line(String),
    Ended,
    TimedOut,
}

impl Output {
    /// Reads a stream to its end on a thread of its own.
    pub(crate) fn read(stream: impl Read + Send + 'static) -> Arc<Self> {
        let output = Arc::new(Self::default());
        let writer = Arc::clone(&output);
        thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                writer.push(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned());
                line.clear();
            }
            writer.lock().ended = true;
            writer.changed.notify_all();
        });
        output
    }

    fn push(&self, line: String) {
        self.lock().lines.push(line);
        self.changed.notify_all();
    }

    /// The first line, printed already or to come, that satisfies the condition.
    pub(crate) fn wait_for(&self, condition: impl Fn(&str) -> bool, timeout: Duration) -> Awaited {
        let deadline = Instant::now() + timeout;
        let mut seen = 0;
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines[seen..].iter().find(|line| condition(line)) {
                return Awaited::Line(line.clone());
            }
            seen = state.lines.len();
            if state.ended {
                return Awaited::Ended;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Awaited::TimedOut;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the stream has ended, so that [`Self::lines`] is complete.
    pub(crate) fn wait_for_end(&self, timeout: Duration) {
        self.wait_for(|_| false, timeout);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    /// The last lines, for error messages.
    pub(crate) fn tail(&self, count: usize) -> Vec<String> {
        let state = self.lock();
        state.lines[state.lines.len().saturating_sub(count)..].to_vec()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_line_is_found_whenever_it_comes() {
        let output = Output::read(&b"one\ntwo\r\nthree"[..]);
        assert_eq!(output.wait_for(|line| line == "two", LONG), Awaited::Line("two".to_owned()));
        assert_eq!(output.wait_for(|line| line == "three", LONG), Awaited::Line("three".to_owned()));
        assert_eq!(output.wait_for(|line| line == "one", LONG), Awaited::Line("one".to_owned()));
    }

    #[test]
    fn the_end_of_the_stream_ends_the_wait() {
        let output = Output::read(&b"one\n"[..]);
        assert_eq!(output.wait_for(|line| line == "two", LONG), Awaited::Ended);
        assert_eq!(output.lines(), ["one"]);
    }

    #[test]
    fn a_silent_stream_times_out() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let output = Output::read(reader);
        assert_eq!(output.wait_for(|_| true, Duration::from_millis(1)), Awaited::TimedOut);
    }

    #[test]
    fn bytes_that_are_not_text_do_not_end_the_reading() {
        let output = Output::read(&b"\xff\xfe\nready\n"[..]);
        assert_eq!(output.wait_for(|line| line == "ready", LONG), Awaited::Line("ready".to_owned()));
    }
}
